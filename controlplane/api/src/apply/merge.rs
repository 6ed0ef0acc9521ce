//! The live object with an applied one laid over it. Nothing is removed.
//!
//! Port of `typed/merge.go` of structured-merge-diff: leaves of the applied object win, items of named
//! lists keep the live order unless the applied object has another one.

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::element::Element;
use super::shape::{Entry, Form, Kind, Shape, zip};
use crate::doc::{List, Object, Value};

/// Lays `applied` over `live`; both are taken as they are. None: nothing is left.
pub(super) fn merge<'a>(
    shape: Shape<'a>,
    live: &Value<'a>,
    applied: &Value<'a>,
    arena: &'a Bump,
) -> Result<Option<Value<'a>>, String> {
    Merger { arena }.value(shape, Some(live), Some(applied))
}

struct Merger<'a> {
    arena: &'a Bump,
}

type Maybe<'v, 'a> = Option<&'v Value<'a>>;

/// A list's items with their names, and where each name is.
struct Items<'v, 'a> {
    items: Vec<(Element<'a>, &'v Value<'a>)>,
    /// Indexes into `items`, by name and then by position.
    order: Vec<usize>,
}

// === impl Merger ===

impl<'a> Merger<'a> {
    fn value(
        &self,
        shape: Shape<'a>,
        live: Maybe<'_, 'a>,
        applied: Maybe<'_, 'a>,
    ) -> Result<Option<Value<'a>>, String> {
        let kept = applied.or(live);
        let Some(deciding) = kept else {
            return Err("at least one of lhs and rhs must be provided".to_owned());
        };
        match shape.kind(deciding) {
            Kind::Scalar | Kind::Atomic => Ok(kept.cloned()),
            Kind::Map => {
                let live = self.entries(shape, live);
                let applied = self.entries(shape, applied);
                if live.is_empty() && applied.is_empty() {
                    return Ok(kept.cloned());
                }
                self.fields(&live, &applied)
            }
            Kind::List => {
                let live = live.and_then(Value::as_list).unwrap_or(&[]);
                let applied = applied.and_then(Value::as_list).unwrap_or(&[]);
                if live.is_empty() && applied.is_empty() {
                    return Ok(kept.cloned());
                }
                self.items(shape, live, applied)
            }
        }
    }

    fn entries<'v>(&self, shape: Shape<'a>, value: Maybe<'v, 'a>) -> ArenaVec<'v, Entry<'v, 'a>>
    where
        'a: 'v,
    {
        match value.and_then(Value::as_object) {
            Some(object) => shape.entries(object, Form::Plain, self.arena),
            None => ArenaVec::new_in(self.arena),
        }
    }

    fn fields(
        &self,
        live: &[Entry<'_, 'a>],
        applied: &[Entry<'_, 'a>],
    ) -> Result<Option<Value<'a>>, String> {
        let mut out = Object::with_capacity_in(live.len().max(applied.len()), self.arena);
        for pair in zip(live, applied) {
            let value = self.value(pair.shape()?, pair.left_value(), pair.right_value())?;
            if let Some(value) = value {
                out.push(pair.name, value);
            }
        }
        Ok((!out.is_empty()).then_some(Value::Object(out)))
    }

    /// Items only one side has stay where they are relative to their neighbours; the order of items both
    /// have is the applied one.
    fn items(
        &self,
        shape: Shape<'a>,
        live: &[Value<'a>],
        applied: &[Value<'a>],
    ) -> Result<Option<Value<'a>>, String> {
        let right = Items::of(shape, applied, self.arena)?;
        let left = Items::of(shape, live, self.arena)?;
        if let Some(name) = right.duplicate() {
            return Err(format!("duplicate entries for key {name}"));
        }
        let shared = right.items.iter().map(|(name, _)| *name);
        let mut shared = shared.filter(|name| left.first(name).is_some()).peekable();
        let mut merged = vec![false; right.items.len()];
        let mut out = List::with_capacity_in(live.len().max(applied.len()), self.arena);
        let (mut l, mut r) = (0, 0);
        while l < left.items.len() || r < right.items.len() {
            if let Some((name, item)) = left.items.get(l) {
                let there = right.first(name);
                let next = right.items.get(r).map(|(name, _)| name);
                let waits = shared.peek().is_some_and(|turn| turn != name);
                match there {
                    None => {
                        out.extend(self.item(shape, Some(item), None));
                        l += 1;
                        continue;
                    }
                    Some(_) if next == Some(name) => l += 1,
                    // Both have it, but it is not its turn.
                    Some(_) if next.is_some() && waits => {
                        l += 1;
                        continue;
                    }
                    Some(at) if merged[at] => l += 1,
                    Some(_) => {}
                }
            }
            if let Some((name, item)) = right.items.get(r) {
                merged[r] = true;
                out.extend(self.item(shape, left.one(name), Some(item)));
                r += 1;
                shared.next_if(|turn| turn == name);
            }
        }
        Ok((!out.is_empty()).then_some(Value::List(out)))
    }

    /// One merged item. As upstream, an item that does not merge is left out: it was validated before.
    fn item(
        &self,
        shape: Shape<'a>,
        live: Maybe<'_, 'a>,
        applied: Maybe<'_, 'a>,
    ) -> Option<Value<'a>> {
        self.value(shape.element(), live, applied).ok().flatten()
    }
}

// === impl Items ===

impl<'v, 'a> Items<'v, 'a> {
    fn of(shape: Shape<'a>, list: &'v [Value<'a>], arena: &'a Bump) -> Result<Self, String> {
        let mut items = Vec::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            let name = shape
                .name_item(item, Form::Plain, arena)
                .map_err(|error| format!("element {i}: {error}"))?;
            items.push((name, item));
        }
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by(|&a, &b| items[a].0.cmp(&items[b].0));
        Ok(Items { items, order })
    }

    /// Where the first item of that name is in `order`, and how many there are.
    fn find(&self, name: &Element<'a>) -> (usize, usize) {
        let from = self.order.partition_point(|&i| self.items[i].0 < *name);
        let run = self.order[from..].iter();
        (from, run.take_while(|&&i| self.items[i].0 == *name).count())
    }

    /// The index of the first item of that name.
    fn first(&self, name: &Element<'a>) -> Option<usize> {
        let (from, len) = self.find(name);
        (len > 0).then(|| self.order[from])
    }

    /// The item of that name; null when there are several: duplicates are replaced, not merged.
    fn one(&self, name: &Element<'a>) -> Maybe<'v, 'a> {
        match self.find(name) {
            (_, 0) => None,
            (from, 1) => Some(self.items[self.order[from]].1),
            (_, _) => Some(&Value::Null),
        }
    }

    fn duplicate(&self) -> Option<Element<'a>> {
        let pair = self
            .order
            .windows(2)
            .find(|pair| self.items[pair[0]].0 == self.items[pair[1]].0)?;
        Some(self.items[pair[0]].0)
    }
}
