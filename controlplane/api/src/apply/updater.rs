//! What a write does to the managers of an object, and how an applied object becomes the next one.
//!
//! Port of `merge/update.go` and `typed/reconcile_schema.go` of structured-merge-diff, and of
//! `internal/{structuredmerge,stripmeta,managedfieldsupdater}.go` of apimachinery's managedfields.
//! All versions of a kind have one tree here (see [`super::managers::Renamed`]), so nothing is converted.

use bumpalo::Bump;

use super::collect::collect;
use super::compare::{Comparison, Side, compare};
use super::conflict::Conflicts;
use super::element::Element;
use super::managers::{Identity, Manager, Managers, Operation};
use super::merge::merge;
use super::remove::remove;
use super::set::{Node, Set};
use super::shape::{Form, Kind, Shape};
use super::{ApplyError, Endpoint, Ignored};
use crate::doc::Value;
use crate::facts::Facts;

/// One write on one object.
pub(super) struct Updater<'r, 'a> {
    pub(super) endpoint: &'r Endpoint<'r>,
    pub(super) shape: Shape<'a>,
    pub(super) now: &'a str,
    pub(super) arena: &'a Bump,
}

/// What an apply makes of an object.
pub(super) struct Applied<'a> {
    /// The next object as a tree; none: it is as it was.
    pub(super) object: Option<Value<'a>>,
    pub(super) managers: Managers<'a>,
}

/// Fields that nobody manages.
const STRIPPED: Set<'static> = Set::of_ordered(&[
    leaf("apiVersion"),
    leaf("kind"),
    Node {
        element: Element::Field("metadata"),
        member: true,
        below: Set::of_ordered(&[
            leaf("clusterName"),
            leaf("creationTimestamp"),
            leaf("generation"),
            leaf("managedFields"),
            leaf("name"),
            leaf("namespace"),
            leaf("resourceVersion"),
            leaf("selfLink"),
            leaf("uid"),
        ]),
    },
]);

const fn leaf(name: &'static str) -> Node<'static> {
    Node {
        element: Element::Field(name),
        member: true,
        below: Set::EMPTY,
    }
}

// === impl Updater ===

impl<'a> Updater<'_, 'a> {
    /// A create, update or patch: the writer manages what it changed, and nobody else does any more.
    pub(super) fn update(
        &self,
        mut managers: Managers<'a>,
        live: Side<'_, 'a>,
        new: Side<'_, 'a>,
        writer: &'a str,
    ) -> Result<Managers<'a>, String> {
        self.reconcile(&mut managers);
        let changes = self.compare(live, new)?;
        let touched = changes.modified.union(changes.added, self.arena);
        self.take_away(&mut managers, &changes, touched, None);
        let set = self.ignore(touched).difference(STRIPPED, self.arena);
        if !set.is_empty() {
            let version = self.arena.alloc_str(&self.endpoint.api_version);
            let identity = self.identity(writer, Operation::Update, version);
            let before = managers.get(&identity).map_or(Set::EMPTY, |m| m.set);
            managers.put(Manager {
                identity,
                version,
                time: Some(self.now),
                set: set.union(before, self.arena),
            });
        }
        managers.cap(self.arena);
        Ok(managers)
    }

    /// An apply: the applied object is laid over the live one, what the applier no longer mentions and
    /// nobody else manages goes. `live` and `applied` are taken as they are.
    pub(super) fn apply(
        &self,
        mut managers: Managers<'a>,
        live: &Value<'a>,
        applied: &Value<'a>,
        applier: &'a str,
        force: bool,
    ) -> Result<Applied<'a>, ApplyError<'a>> {
        let internal = |what: &str, error: String| ApplyError::Internal(format!("{what}: {error}"));
        self.reconcile(&mut managers);
        let merged = merge(self.shape, live, applied, self.arena)
            .map_err(|error| internal("failed to merge config", error))?
            .unwrap_or(Value::Null);
        let set = collect(self.shape, applied, self.arena)
            .map_err(|error| internal("failed to get field set", error))?;
        let version = self.arena.alloc_str(&self.endpoint.api_version);
        let identity = self.identity(applier, Operation::Apply, version);
        let last = managers.get(&identity).map(|m| m.set);
        managers.put(Manager {
            identity,
            version,
            time: managers.get(&identity).and_then(|m| m.time),
            set: self.ignore(set),
        });
        let merged = match last.filter(|set| !set.is_empty()) {
            Some(last) => self
                .prune(&merged, &managers, last)
                .map_err(|error| internal("failed to prune fields", error))?,
            None => merged,
        };
        let plain = |root| Side {
            root,
            form: Form::Plain,
        };
        let changes = self
            .compare(plain(live), plain(&merged))
            .map_err(|error| internal("failed to compare objects", error))?;
        let touched = changes.modified.union(changes.added, self.arena);
        let conflicts = self.take_away(&mut managers, &changes, touched, Some(&identity));
        if !force && !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        let changed = merged != *live;
        self.settle(&mut managers, &identity, changed);
        Ok(Applied {
            object: changed.then_some(merged),
            managers,
        })
    }

    /// The applier's entry as it is stored: without what nobody manages; its time is that of the last
    /// apply that changed the object.
    fn settle(&self, managers: &mut Managers<'a>, identity: &Identity<'a>, changed: bool) {
        let Some(manager) = managers.remove(identity) else {
            return;
        };
        let set = manager.set.difference(STRIPPED, self.arena);
        if !set.is_empty() {
            managers.put(Manager {
                set,
                time: if changed {
                    Some(self.now)
                } else {
                    manager.time
                },
                ..manager
            });
        }
    }

    /// The identity of a writer through this endpoint.
    fn identity(&self, name: &'a str, operation: Operation, version: &'a str) -> Identity<'a> {
        Identity {
            name: if name.is_empty() { "unknown" } else { name },
            operation,
            version: match operation {
                Operation::Apply => "",
                Operation::Update => version,
            },
            subresource: self.arena.alloc_str(self.endpoint.subresource),
        }
    }

    pub(super) fn compare(
        &self,
        left: Side<'_, 'a>,
        right: Side<'_, 'a>,
    ) -> Result<Comparison<'a>, String> {
        let changes = compare(self.shape, left, right, self.arena)?;
        Ok(changes.map(|set| self.ignore(set)))
    }

    /// A set without what the endpoint ignores.
    fn ignore(&self, set: Set<'a>) -> Set<'a> {
        match &self.endpoint.ignored {
            Ignored::Nothing => set,
            Ignored::Fields(paths) => {
                let mut ignored = Set::EMPTY;
                for path in *paths {
                    let path: Vec<Element<'a>> = path
                        .split('.')
                        .map(|name| Element::Field(self.arena.alloc_str(name)))
                        .collect();
                    ignored = ignored.union(Set::of_path(&path, self.arena), self.arena);
                }
                set.recursive_difference(ignored, self.arena)
            }
            Ignored::AllBut(patterns) => set.only(patterns, self.arena),
        }
    }

    /// Takes what changed from all managers but the writer, and what is gone. The answer is what changed
    /// under whose hands.
    fn take_away(
        &self,
        managers: &mut Managers<'a>,
        changes: &Comparison<'a>,
        touched: Set<'a>,
        writer: Option<&Identity<'a>>,
    ) -> Conflicts<'a> {
        let mut conflicts = Conflicts::default();
        managers.0.retain_mut(|manager| {
            if Some(&manager.identity) != writer {
                let conflict = manager.set.intersection(touched, self.arena);
                if !conflict.is_empty() {
                    conflicts.add(manager.identity, conflict);
                    manager.set = manager.set.difference(conflict, self.arena);
                }
                manager.set = manager.set.difference(changes.removed, self.arena);
            }
            !manager.set.is_empty()
        });
        conflicts
    }

    /// Fits the sets to the shape as it is now: fields below what is replaced as a whole become one, and
    /// managers in versions that are gone go.
    fn reconcile(&self, managers: &mut Managers<'a>) {
        managers.0.retain_mut(|manager| {
            manager.set = reconciled(manager.set, self.shape, self.arena);
            self.knows(manager.version)
        });
    }

    fn knows(&self, api_version: &str) -> bool {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        api_version == self.endpoint.api_version
            || Facts::get()
                .resource_of_kind(group, version, self.endpoint.kind)
                .is_some()
    }

    /// Takes out of the merged object what the applier managed, does not any more, and nobody else does.
    fn prune(
        &self,
        merged: &Value<'a>,
        managers: &Managers<'a>,
        last: Set<'a>,
    ) -> Result<Value<'a>, String> {
        let arena = self.arena;
        let named = |set: Set<'a>| with_named_fields(set, Some(self.shape), arena);
        let without = |gone| remove(self.shape, merged, gone, arena);
        let last = named(last);
        let all = named(collect(self.shape, merged, arena)?);
        let pruned = without(last);
        // Back comes what is managed by anybody.
        let kept = named(collect(self.shape, &pruned, arena)?);
        let managed = named(managers.all(arena));
        let pruned = without(all.difference(kept.union(managed, arena), arena));
        // Back comes what the applier never managed.
        let kept = named(collect(self.shape, &pruned, arena)?);
        Ok(without(
            all.difference(kept, arena).intersection(last, arena),
        ))
    }
}

fn reconciled<'a>(set: Set<'a>, shape: Shape<'a>, arena: &'a Bump) -> Set<'a> {
    set.rewrite(arena, |node| {
        if node.below.is_empty() {
            return *node;
        }
        let child = match node.element {
            Element::Field(name) => shape.child(name),
            Element::Key(_) | Element::Value(_) | Element::Index(_) => Some(shape.element()),
        };
        match child {
            Some(child) if child.is_open() => *node,
            Some(child) if child.kind(&Value::Null) == Kind::Atomic => Node {
                member: true,
                below: Set::EMPTY,
                ..*node
            },
            Some(child) => Node {
                below: reconciled(node.below, child, arena),
                ..*node
            },
            None => *node,
        }
    })
}

/// The set in which every declared field with something below it is a member too.
fn with_named_fields<'a>(set: Set<'a>, shape: Option<Shape<'a>>, arena: &'a Bump) -> Set<'a> {
    let Some(shape) = shape else {
        return set;
    };
    set.rewrite(arena, |node| {
        if node.below.is_empty() {
            return *node;
        }
        let (declared, child) = match node.element {
            Element::Field(name) => (shape.declared(name), shape.child(name)),
            Element::Key(_) => (false, Some(shape.element())),
            Element::Value(_) | Element::Index(_) => (false, None),
        };
        Node {
            element: node.element,
            member: node.member || declared,
            below: with_named_fields(node.below, child, arena),
        }
    })
}
