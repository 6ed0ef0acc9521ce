//! Sets of fields as trees: what a manager owns, what a change touches.
//!
//! A set is an immutable slice of nodes ordered by element; its subtrees are shared between sets, so
//! the algebra copies only what differs. Every node is a member or has something below it.
//!
//! Port of `fieldpath/{set,pathelementmap}.go` of structured-merge-diff, whose `Members` and `Children`
//! are one list here.

use std::fmt;

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::element::Element;

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set<'a>(&'a [Node<'a>]);

/// One element at one level of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Which child it is.
    pub element: Element<'a>,
    /// Whether the child itself belongs to the set.
    pub member: bool,
    /// What belongs to the set below the child.
    pub below: Set<'a>,
}

/// A set of the nodes of one level that were not ordered when they were found.
pub(super) struct Builder<'a>(ArenaVec<'a, Node<'a>>);

// === impl Set ===

impl<'a> Set<'a> {
    /// The set without members.
    pub const EMPTY: Set<'static> = Set(&[]);

    /// A set of nodes that are in order, each a member or with something below.
    pub const fn of_ordered(nodes: &'a [Node<'a>]) -> Set<'a> {
        Set(nodes)
    }

    /// The set of one path; empty for the empty path, since nobody owns the whole object.
    pub fn of_path(path: &[Element<'a>], arena: &'a Bump) -> Set<'a> {
        let Some((element, rest)) = path.split_first() else {
            return Set::EMPTY;
        };
        Set(arena.alloc_slice_copy(&[Node {
            element: *element,
            member: rest.is_empty(),
            below: Set::of_path(rest, arena),
        }]))
    }

    /// The nodes in order.
    pub fn nodes(&self) -> &'a [Node<'a>] {
        self.0
    }

    /// Whether nothing belongs to it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The node of an element.
    pub fn get(&self, element: &Element<'_>) -> Option<&'a Node<'a>> {
        let at = self
            .0
            .binary_search_by(|node| node.element.cmp(element))
            .ok()?;
        Some(&self.0[at])
    }

    /// Whether the field at a path is a member.
    pub fn has(&self, path: &[Element<'_>]) -> bool {
        let Some((element, rest)) = path.split_first() else {
            return false;
        };
        match self.get(element) {
            Some(node) if rest.is_empty() => node.member,
            Some(node) => node.below.has(rest),
            None => false,
        }
    }

    /// What belongs to either.
    pub fn union(self, other: Set<'a>, arena: &'a Bump) -> Set<'a> {
        if self.is_empty() || self.is(other) {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut out = ArenaVec::with_capacity_in(self.0.len() + other.0.len(), arena);
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            match a.element.cmp(&b.element) {
                std::cmp::Ordering::Less => out.extend(left.next().copied()),
                std::cmp::Ordering::Greater => out.extend(right.next().copied()),
                std::cmp::Ordering::Equal => {
                    out.push(Node {
                        element: a.element,
                        member: a.member || b.member,
                        below: a.below.union(b.below, arena),
                    });
                    left.next();
                    right.next();
                }
            }
        }
        out.extend(left.copied());
        out.extend(right.copied());
        Set(out.into_bump_slice())
    }

    /// What belongs to both.
    pub fn intersection(self, other: Set<'_>, arena: &'a Bump) -> Set<'a> {
        let mut out = ArenaVec::new_in(arena);
        let mut rest = other.0;
        for node in self.0 {
            let Some(found) = advance(&mut rest, &node.element) else {
                continue;
            };
            keep(
                &mut out,
                Node {
                    element: node.element,
                    member: node.member && found.member,
                    below: node.below.intersection(found.below, arena),
                },
            );
        }
        Set(out.into_bump_slice())
    }

    /// What does not belong to the other; a member of the other does not take what is below it.
    pub fn difference(self, other: Set<'_>, arena: &'a Bump) -> Set<'a> {
        self.without(other, arena, |node, found, arena| Node {
            element: node.element,
            member: node.member && !found.member,
            below: node.below.difference(found.below, arena),
        })
    }

    /// What does not belong to the other, nor is below one of its members.
    pub fn recursive_difference(self, other: Set<'_>, arena: &'a Bump) -> Set<'a> {
        self.without(other, arena, |node, found, arena| {
            if found.member {
                return Node {
                    element: node.element,
                    member: false,
                    below: Set::EMPTY,
                };
            }
            Node {
                element: node.element,
                member: node.member,
                below: node.below.recursive_difference(found.below, arena),
            }
        })
    }

    /// Takes away from the nodes both have.
    fn without(
        self,
        other: Set<'_>,
        arena: &'a Bump,
        take: impl Fn(&Node<'a>, &Node<'_>, &'a Bump) -> Node<'a>,
    ) -> Set<'a> {
        let mut rest = other.0;
        self.rewrite(arena, |node| match advance(&mut rest, &node.element) {
            Some(found) => take(node, found, arena),
            None => *node,
        })
    }

    /// The set with every node of this level replaced; the element stays. The same slice comes back when
    /// nothing changes, which is the usual case.
    pub(super) fn rewrite(
        self,
        arena: &'a Bump,
        mut replace: impl FnMut(&Node<'a>) -> Node<'a>,
    ) -> Set<'a> {
        let mut changed: Option<ArenaVec<'a, Node<'a>>> = None;
        for (i, node) in self.0.iter().enumerate() {
            let new = replace(node);
            match &mut changed {
                Some(out) => keep(out, new),
                None if new.member == node.member && new.below.is(node.below) => {}
                None => {
                    let mut out = ArenaVec::with_capacity_in(self.0.len(), arena);
                    out.extend_from_slice_copy(&self.0[..i]);
                    keep(&mut out, new);
                    changed = Some(out);
                }
            }
        }
        changed.map_or(self, |out| Set(out.into_bump_slice()))
    }

    /// Only what a pattern names and what is below that; `*` stands for any element.
    pub fn only(self, patterns: &[&[&str]], arena: &'a Bump) -> Set<'a> {
        if patterns.iter().any(|pattern| pattern.is_empty()) {
            return self;
        }
        let mut out = ArenaVec::new_in(arena);
        for node in self.0 {
            let below: Vec<&[&str]> = patterns
                .iter()
                .filter(|p| p[0] == "*" || node.element.field() == Some(p[0]))
                .map(|p| &p[1..])
                .collect();
            if !below.is_empty() {
                keep(
                    &mut out,
                    Node {
                        below: node.below.only(&below, arena),
                        ..*node
                    },
                );
            }
        }
        Set(out.into_bump_slice())
    }

    /// Calls `each` with every member's path: the members of a level first, then what is below them.
    pub fn paths(&self, each: &mut dyn FnMut(&[Element<'a>])) {
        self.paths_below(&mut Vec::new(), each);
    }

    fn paths_below(&self, path: &mut Vec<Element<'a>>, each: &mut dyn FnMut(&[Element<'a>])) {
        for node in self.0.iter().filter(|node| node.member) {
            path.push(node.element);
            each(path);
            path.pop();
        }
        for node in self.0 {
            path.push(node.element);
            node.below.paths_below(path, each);
            path.pop();
        }
    }

    /// Whether it is the very same slice.
    fn is(self, other: Set<'_>) -> bool {
        self.0.len() == other.0.len()
            && (self.0.is_empty() || std::ptr::addr_eq(self.0.as_ptr(), other.0.as_ptr()))
    }
}

/// The members, one path per line.
impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        self.paths(&mut |path| lines.push(show_path(path)));
        f.write_str(&lines.join("\n"))
    }
}

/// A path as messages show it.
pub(super) fn show_path(path: &[Element<'_>]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// Adds a node that says something.
fn keep<'a>(out: &mut ArenaVec<'a, Node<'a>>, node: Node<'a>) {
    if node.member || !node.below.is_empty() {
        out.push(node);
    }
}

/// The node of an element in what is left of an ordered level; what comes before it is passed.
fn advance<'n, 'a>(rest: &mut &'n [Node<'a>], element: &Element<'_>) -> Option<&'n Node<'a>> {
    while let Some((first, after)) = rest.split_first() {
        match first.element.cmp(element) {
            std::cmp::Ordering::Less => *rest = after,
            std::cmp::Ordering::Equal => return Some(first),
            std::cmp::Ordering::Greater => return None,
        }
    }
    None
}

// === impl Builder ===

impl<'a> Builder<'a> {
    pub(super) fn new_in(arena: &'a Bump, capacity: usize) -> Builder<'a> {
        Builder(ArenaVec::with_capacity_in(capacity, arena))
    }

    /// Adds what is known about one element. Elements mostly come in order.
    pub(super) fn add(&mut self, element: Element<'a>, member: bool, below: Set<'a>) {
        keep(
            &mut self.0,
            Node {
                element,
                member,
                below,
            },
        );
    }

    /// The set; the last of several nodes of one element wins what is below, any makes it a member.
    pub(super) fn finish(mut self, arena: &'a Bump) -> Set<'a> {
        let ordered = self
            .0
            .windows(2)
            .all(|pair| pair[0].element < pair[1].element);
        if !ordered {
            self.0.sort_by(|a, b| a.element.cmp(&b.element));
            let mut out: ArenaVec<'a, Node<'a>> = ArenaVec::with_capacity_in(self.0.len(), arena);
            for node in self.0.drain(..) {
                match out.last_mut() {
                    Some(last) if last.element == node.element => {
                        last.member |= node.member;
                        if !node.below.is_empty() {
                            last.below = node.below;
                        }
                    }
                    Some(_) | None => out.push(node),
                }
            }
            self.0 = out;
        }
        Set(self.0.into_bump_slice())
    }
}
