//! What a change adds, modifies and removes.
//!
//! Port of `typed/compare.go` of structured-merge-diff. Both trees fit the shape; they are walked
//! together in the order of the elements, and the sets are built from the leaves up.

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::element::Element;
use super::set::{Builder, Set};
use super::shape::{Entry, Form, Kind, Shape, same, zip};
use crate::doc::Value;

/// The difference of two objects; no field is in more than one of the sets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison<'a> {
    pub(super) removed: Set<'a>,
    pub(super) modified: Set<'a>,
    pub(super) added: Set<'a>,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'v, 'a> {
    pub(super) root: &'v Value<'a>,
    pub(super) form: Form,
}

/// Compares two objects of one shape.
pub(super) fn compare<'a>(
    shape: Shape<'a>,
    left: Side<'_, 'a>,
    right: Side<'_, 'a>,
    arena: &'a Bump,
) -> Result<Comparison<'a>, String> {
    let walker = Walker {
        left: left.form,
        right: right.form,
        arena,
    };
    let found = walker.value(shape, Some(left.root), Some(right.root))?;
    Ok(Comparison {
        removed: found.removed.below,
        modified: found.modified.below,
        added: found.added.below,
    })
}

// === impl Comparison ===

impl<'a> Comparison<'a> {
    /// The comparison with a function applied to each set.
    pub(super) fn map(self, keep: impl Fn(Set<'a>) -> Set<'a>) -> Comparison<'a> {
        Comparison {
            removed: keep(self.removed),
            modified: keep(self.modified),
            added: keep(self.added),
        }
    }
}

/// What is known about one child in one of the sets.
#[derive(Clone, Copy, Default)]
struct Part<'a> {
    member: bool,
    below: Set<'a>,
}

/// What is known about one child.
#[derive(Clone, Copy, Default)]
struct Found<'a> {
    removed: Part<'a>,
    modified: Part<'a>,
    added: Part<'a>,
}

/// The three sets of one level while it is walked.
struct Level<'a> {
    removed: Builder<'a>,
    modified: Builder<'a>,
    added: Builder<'a>,
}

struct Walker<'a> {
    left: Form,
    right: Form,
    arena: &'a Bump,
}

type Maybe<'v, 'a> = Option<&'v Value<'a>>;
type Named<'v, 'a> = (Element<'a>, &'v Value<'a>);

// === impl Walker ===

impl<'a> Walker<'a> {
    fn value(
        &self,
        shape: Shape<'a>,
        left: Maybe<'_, 'a>,
        right: Maybe<'_, 'a>,
    ) -> Result<Found<'a>, String> {
        match (left, right) {
            (None, None) => Err("at least one of lhs and rhs must be provided".to_owned()),
            (Some(one), None) | (None, Some(one)) => {
                self.as_kind(shape.kind(one), shape, left, right)
            }
            (Some(l), Some(r)) => {
                let (lk, rk) = (shape.kind(l), shape.kind(r));
                let found = self.as_kind(rk, shape, left, right)?;
                if lk == rk {
                    return Ok(found);
                }
                let other = self.as_kind(lk, shape, left, right)?;
                Ok(found.or(other, self.arena))
            }
        }
    }

    fn as_kind(
        &self,
        kind: Kind,
        shape: Shape<'a>,
        left: Maybe<'_, 'a>,
        right: Maybe<'_, 'a>,
    ) -> Result<Found<'a>, String> {
        let mut found = match kind {
            Kind::Scalar | Kind::Atomic => return Ok(self.leaf(shape, left, right)),
            Kind::Map => {
                let left_entries = self.entries(shape, left, self.left);
                let right_entries = self.entries(shape, right, self.right);
                // Two empty objects are a leaf: null and {} are not the same.
                if left_entries.is_empty() && right_entries.is_empty() {
                    return Ok(self.leaf(shape, left, right));
                }
                self.fields(&left_entries, &right_entries)?
            }
            Kind::List => {
                let none =
                    |side: Maybe<'_, 'a>| side.and_then(Value::as_list).is_none_or(<[_]>::is_empty);
                if none(left) && none(right) {
                    return Ok(self.leaf(shape, left, right));
                }
                self.items(shape, left, right)?
            }
        };
        found.added.member |= left.is_none();
        found.removed.member |= right.is_none();
        Ok(found)
    }

    fn leaf(&self, shape: Shape<'a>, left: Maybe<'_, 'a>, right: Maybe<'_, 'a>) -> Found<'a> {
        let mut found = Found::default();
        match (left, right) {
            (None, _) => found.added.member = true,
            (_, None) => found.removed.member = true,
            (Some(l), Some(r)) => found.modified.member = !self.same(shape, l, r),
        }
        found
    }

    fn same(&self, shape: Shape<'a>, left: &Value<'a>, right: &Value<'a>) -> bool {
        same(shape, (left, self.left), (right, self.right), self.arena)
    }

    fn entries<'v>(
        &self,
        shape: Shape<'a>,
        value: Maybe<'v, 'a>,
        form: Form,
    ) -> ArenaVec<'v, Entry<'v, 'a>>
    where
        'a: 'v,
    {
        match value.and_then(Value::as_object) {
            Some(object) => shape.entries(object, form, self.arena),
            None => ArenaVec::new_in(self.arena),
        }
    }

    fn fields(&self, left: &[Entry<'_, 'a>], right: &[Entry<'_, 'a>]) -> Result<Found<'a>, String> {
        let mut level = Level::new_in(self.arena);
        for pair in zip(left, right) {
            let found = self.value(pair.shape()?, pair.left_value(), pair.right_value())?;
            level.add(Element::Field(pair.name), found);
        }
        Ok(level.finish(self.arena))
    }

    fn items(
        &self,
        shape: Shape<'a>,
        left: Maybe<'_, 'a>,
        right: Maybe<'_, 'a>,
    ) -> Result<Found<'a>, String> {
        let left = self.named(shape, left, self.left)?;
        let right = self.named(shape, right, self.right)?;
        let mut level = Level::new_in(self.arena);
        let (mut left, mut right) = (&left[..], &right[..]);
        while let Some(name) = [left.first(), right.first()]
            .into_iter()
            .flatten()
            .map(|(name, _)| *name)
            .min()
        {
            let l = split_run(&mut left, &name);
            let r = split_run(&mut right, &name);
            level.add(name, self.item_runs(shape.element(), l, r)?);
        }
        Ok(level.finish(self.arena))
    }

    /// The items of a list by name; items of one name stay in their order.
    fn named<'v>(
        &self,
        shape: Shape<'a>,
        list: Maybe<'v, 'a>,
        form: Form,
    ) -> Result<ArenaVec<'v, Named<'v, 'a>>, String>
    where
        'a: 'v,
    {
        let list = list.and_then(Value::as_list).unwrap_or(&[]);
        let mut out = ArenaVec::with_capacity_in(list.len(), self.arena);
        for (i, item) in list.iter().enumerate() {
            let name = shape
                .name_item(item, form, self.arena)
                .map_err(|error| format!("element {i}: {error}"))?;
            out.push((name, item));
        }
        if !out.is_sorted_by(|a: &Named<'_, '_>, b| a.0 <= b.0) {
            out.sort_by(|a, b| a.0.cmp(&b.0));
        }
        Ok(out)
    }

    /// All items of one name on both sides. Duplicates are compared as one leaf.
    fn item_runs(
        &self,
        shape: Shape<'a>,
        left: &[Named<'_, 'a>],
        right: &[Named<'_, 'a>],
    ) -> Result<Found<'a>, String> {
        let mut found = Found::default();
        match (left, right) {
            ([] | [_], [] | [_]) => {
                return self.value(
                    shape,
                    left.first().map(|(_, value)| *value),
                    right.first().map(|(_, value)| *value),
                );
            }
            ([_, _, ..], [_, _, ..]) => {
                found.modified.member = left.len() != right.len()
                    || !left
                        .iter()
                        .zip(right)
                        .all(|((_, l), (_, r))| self.same(shape, l, r));
            }
            ([_, _, ..], _) => {
                if let [(_, one)] = right {
                    found = self.value(shape, None, Some(one))?;
                }
                found.removed.member = true;
            }
            (_, [_, _, ..]) => {
                if let [(_, one)] = left {
                    found = self.value(shape, Some(one), None)?;
                }
                found.added.member = true;
            }
        }
        Ok(found)
    }
}

/// Takes all items of that name.
fn split_run<'s, 'v, 'a>(
    side: &mut &'s [Named<'v, 'a>],
    name: &Element<'a>,
) -> &'s [Named<'v, 'a>] {
    let len = side.iter().take_while(|(n, _)| n == name).count();
    let (run, rest) = side.split_at(len);
    *side = rest;
    run
}

// === impl Found ===

impl<'a> Found<'a> {
    fn or(self, other: Found<'a>, arena: &'a Bump) -> Found<'a> {
        let or = |a: Part<'a>, b: Part<'a>| Part {
            member: a.member || b.member,
            below: a.below.union(b.below, arena),
        };
        Found {
            removed: or(self.removed, other.removed),
            modified: or(self.modified, other.modified),
            added: or(self.added, other.added),
        }
    }
}

// === impl Level ===

impl<'a> Level<'a> {
    fn new_in(arena: &'a Bump) -> Level<'a> {
        Level {
            removed: Builder::new_in(arena, 0),
            modified: Builder::new_in(arena, 0),
            added: Builder::new_in(arena, 0),
        }
    }

    fn add(&mut self, element: Element<'a>, found: Found<'a>) {
        let Found {
            removed,
            modified,
            added,
        } = found;
        self.removed.add(element, removed.member, removed.below);
        self.modified.add(element, modified.member, modified.below);
        self.added.add(element, added.member, added.below);
    }

    fn finish(self, arena: &'a Bump) -> Found<'a> {
        let part = |nodes: Builder<'a>| Part {
            member: false,
            below: nodes.finish(arena),
        };
        Found {
            removed: part(self.removed),
            modified: part(self.modified),
            added: part(self.added),
        }
    }
}
