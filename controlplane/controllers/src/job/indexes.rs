//! Sets of completion indexes, and the text form in which a Job's status keeps them: `0,2-5`.
//!
//! Format of pkg/controller/job/indexed_job_utils.go (`orderedIntervals`): two neighbours are
//! written apart, three or more as a range.

use std::collections::BTreeSet;
use std::fmt;

/// Indexes as intervals, ordered, neither overlapping nor touching. Costs what the gaps cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the text form; indexes from `completions` on and what is no interval are left out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut indexes = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
                continue;
            };
            if first < 0 || first >= completions {
                continue;
            }
            indexes.0.push((first, last.min(completions - 1)));
        }
        indexes.normal()
    }

    pub fn len(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// These and those of `others`.
    pub fn union(&self, others: &Self) -> Self {
        Self([&*self.0, &*others.0].concat()).normal()
    }

    /// How many are in both.
    pub fn common(&self, others: &Self) -> i32 {
        let (mut own, mut other) = (self.0.iter().peekable(), others.0.iter().peekable());
        let mut count = 0;
        while let (Some(a), Some(b)) = (own.peek(), other.peek()) {
            count += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 < b.1 {
                own.next();
            } else {
                other.next();
            }
        }
        count
    }

    /// The first `count` indexes below `completions` that are not in here.
    pub fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.0.iter().chain([&(completions, completions)]) {
            let end = (*first).min(completions);
            let room = count - missing.len();
            missing.extend((candidate..end).take(room));
            candidate = candidate.max(last + 1);
        }
        missing
    }

    fn normal(mut self) -> Self {
        self.0.retain(|(first, last)| first <= last);
        self.0.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(self.0.len());
        for (first, last) in self.0 {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<T: IntoIterator<Item = i32>>(indexes: T) -> Self {
        let ordered: BTreeSet<i32> = indexes.into_iter().collect();
        Self(ordered.into_iter().map(|index| (index, index)).collect()).normal()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_form_is_upstreams() {
        let text = |indexes: &[i32]| indexes.iter().copied().collect::<Indexes>().to_string();
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[3, 1, 4, 7, 8, 9]), "1,3,4,7-9");
        assert_eq!(Indexes::parse("1,3-5,9", 5).to_string(), "1,3,4");
        assert_eq!(Indexes::parse("x,2-y,3", 5).to_string(), "3");
    }

    proptest! {
        #[test]
        fn a_set_is_what_its_text_says(a in prop::collection::btree_set(0..40_i32, 0..30),
                                       b in prop::collection::btree_set(0..40_i32, 0..30)) {
            let indexes = |set: &BTreeSet<i32>| set.iter().copied().collect::<Indexes>();
            let (x, y) = (indexes(&a), indexes(&b));
            prop_assert_eq!(&Indexes::parse(&x.to_string(), 40), &x);
            prop_assert_eq!(x.union(&y), indexes(&(&a | &b)));
            prop_assert_eq!(x.common(&y) as usize, (&a & &b).len());
            prop_assert_eq!(x.len() as usize, a.len());
            let missing: Vec<i32> = (0..40).filter(|i| !a.contains(i)).take(7).collect();
            prop_assert_eq!(x.missing(7, 40), missing);
            for index in 0..40 {
                prop_assert_eq!(x.contains(index), a.contains(&index));
            }
        }
    }
}
