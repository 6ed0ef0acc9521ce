//! Who manages what: `metadata.managedFields` read, ordered, capped and written.
//!
//! A manager is its name, its operation, its subresource and, for updates, the version it wrote in.
//!
//! Port of `internal/{managedfields,capmanagers}.go` of apimachinery's managedfields.

use bumpalo::Bump;

use super::element::Element;
use super::fields;
use super::set::{Builder, Set};
use crate::doc::{List, Object, Value};
use crate::status::quote;

/// How many managers of updates an object may have before the oldest are merged.
pub const MAX_UPDATE_MANAGERS: usize = 10;

/// The manager that the oldest updates are merged into.
const ANCIENT: &str = "ancient-changes";

/// The time of entries without one.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// What a manager does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// It applies whole configurations; what it no longer applies goes.
    Apply,
    /// It creates, updates and patches.
    Update,
}

/// Who a manager is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Its name, for example `kubectl`.
    pub name: &'a str,
    /// What it does.
    pub operation: Operation,
    /// For updates the version it writes in, else "".
    pub version: &'a str,
    /// The endpoint it writes through, or "".
    pub subresource: &'a str,
}

/// A manager and what it manages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manager<'a> {
    pub(super) identity: Identity<'a>,
    /// The version in which the fields are named.
    pub(super) version: &'a str,
    pub(super) time: Option<&'a str>,
    pub(super) set: Set<'a>,
}

/// A version whose top-level fields have other names than those of the documents.
pub type Renamed = Option<(&'static str, &'static [(&'static str, &'static str)])>;

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers<'a>(pub(super) Vec<Manager<'a>>);

// === impl Identity ===

impl Identity<'_> {
    /// The text by which upstream orders managers of equal age.
    pub(super) fn order_text(&self) -> String {
        let mut parts = Vec::new();
        let mut part = |name: &str, value: &str| {
            if !value.is_empty() {
                parts.push(format!("\"{name}\":{}", quote(value)));
            }
        };
        part("manager", self.name);
        part("operation", self.operation.text());
        part("apiVersion", self.version);
        part("subresource", self.subresource);
        format!("{{{}}}", parts.join(","))
    }
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

// === impl Managers ===

impl<'a> Managers<'a> {
    /// Reads the entries of an object. Of two entries of one manager the last counts.
    pub(super) fn read(
        entries: &[Value<'a>],
        renamed: Renamed,
        arena: &'a Bump,
    ) -> Result<Managers<'a>, String> {
        let mut managers = Managers(Vec::with_capacity(entries.len() + 1));
        for (i, entry) in entries.iter().enumerate() {
            managers.put(read_entry(i, entry, renamed, arena)?);
        }
        Ok(managers)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, identity: &Identity<'_>) -> Option<&Manager<'a>> {
        self.0.iter().find(|m| m.identity == *identity)
    }

    /// Adds a manager or replaces it.
    pub(super) fn put(&mut self, manager: Manager<'a>) {
        match self.0.iter_mut().find(|m| m.identity == manager.identity) {
            Some(slot) => *slot = manager,
            None => self.0.push(manager),
        }
    }

    pub(super) fn remove(&mut self, identity: &Identity<'_>) -> Option<Manager<'a>> {
        let at = self.0.iter().position(|m| m.identity == *identity)?;
        Some(self.0.swap_remove(at))
    }

    /// Everything that any of them manages.
    pub(super) fn all(&self, arena: &'a Bump) -> Set<'a> {
        self.0
            .iter()
            .fold(Set::EMPTY, |all, manager| all.union(manager.set, arena))
    }

    /// Merges the oldest updates, per version, until there are few enough.
    pub(super) fn cap(&mut self, arena: &'a Bump) {
        let mut updaters: Vec<Identity<'a>> = self
            .0
            .iter()
            .map(|m| m.identity)
            .filter(|id| id.operation == Operation::Update)
            .collect();
        let mut left = updaters.len();
        if left <= MAX_UPDATE_MANAGERS {
            return;
        }
        let time = |id: &Identity<'a>| self.get(id).and_then(|m| m.time).unwrap_or(EPOCH);
        updaters.sort_by_cached_key(|id| (time(id), id.order_text()));
        let mut first_of_version: Vec<(&'a str, Identity<'a>)> = Vec::new();
        for id in updaters {
            if left <= MAX_UPDATE_MANAGERS {
                return;
            }
            let Some(manager) = self.get(&id).copied() else {
                continue;
            };
            let version = manager.version;
            let Some((_, first)) = first_of_version.iter().find(|(v, _)| *v == version) else {
                first_of_version.push((version, id));
                continue;
            };
            let bucket = Identity {
                name: ANCIENT,
                operation: Operation::Update,
                version,
                subresource: "",
            };
            let older = self.get(&bucket).copied();
            let older = older.or_else(|| self.remove(first));
            let older = older.map_or(Set::EMPTY, |m| m.set);
            self.remove(&id);
            self.put(Manager {
                identity: bucket,
                set: manager.set.union(older, arena),
                ..manager
            });
            left -= 1;
        }
    }

    /// The entries as the object has them; none when there are no managers.
    pub(super) fn write(mut self, renamed: Renamed, arena: &'a Bump) -> Option<Value<'a>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by_key(|m| {
            let id = m.identity;
            let time = m.time.unwrap_or(EPOCH);
            (id.operation, time, id.name, m.version, id.subresource)
        });
        let mut list = List::with_capacity_in(self.0.len(), arena);
        for manager in self.0 {
            list.push(write_entry(manager, renamed, arena));
        }
        Some(Value::List(list))
    }
}

fn read_entry<'a>(
    at: usize,
    entry: &Value<'a>,
    renamed: Renamed,
    arena: &'a Bump,
) -> Result<Manager<'a>, String> {
    let text = |field: &str| entry.str_of(field).unwrap_or_default();
    let operation = match text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    let version = text("apiVersion");
    if version.is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match text("fieldsType") {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
        other => {
            return Err(format!(
                "invalid fieldsType {} in managed fields entry {at}",
                quote(other)
            ));
        }
    }
    let set = match entry.get("fieldsV1") {
        Some(value) => fields::read(value, arena).map_err(|error| {
            format!("error decoding versioned set: error decoding set: {error}")
        })?,
        None => Set::EMPTY,
    };
    Ok(Manager {
        identity: Identity {
            name: text("manager"),
            operation,
            version: if operation == Operation::Update {
                version
            } else {
                ""
            },
            subresource: text("subresource"),
        },
        version,
        time: entry.str_of("time"),
        set: rename(
            set,
            version,
            renamed,
            |(ours, theirs)| (*theirs, *ours),
            arena,
        ),
    })
}

fn write_entry<'a>(manager: Manager<'a>, renamed: Renamed, arena: &'a Bump) -> Value<'a> {
    let Manager {
        identity,
        version,
        time,
        set,
    } = manager;
    let set = rename(set, version, renamed, |pair| *pair, arena);
    let mut entry = Object::with_capacity_in(ENTRY_FIELDS, arena);
    let mut text = |name, value: &'a str| {
        if !value.is_empty() {
            entry.push(name, Value::String(value));
        }
    };
    text("manager", identity.name);
    text("operation", identity.operation.text());
    text("apiVersion", version);
    text("time", time.unwrap_or_default());
    text("fieldsType", "FieldsV1");
    text("subresource", identity.subresource);
    entry.push("fieldsV1", fields::write(set, arena));
    Value::Object(entry)
}

/// How many fields an entry of managedFields has.
const ENTRY_FIELDS: usize = 7;

/// Names the top-level fields of a set in another version.
fn rename<'a>(
    set: Set<'a>,
    version: &str,
    renamed: Renamed,
    direction: impl Fn(&'static (&'static str, &'static str)) -> (&'static str, &'static str),
    arena: &'a Bump,
) -> Set<'a> {
    let Some((_, names)) = renamed.filter(|(of, _)| *of == version) else {
        return set;
    };
    let mut nodes = Builder::new_in(arena, set.nodes().len());
    for node in set.nodes() {
        let new = names
            .iter()
            .map(&direction)
            .find(|(from, _)| node.element.field() == Some(from))
            .map_or(node.element, |(_, to)| Element::Field(to));
        nodes.add(new, node.member, node.below);
    }
    nodes.finish(arena)
}
