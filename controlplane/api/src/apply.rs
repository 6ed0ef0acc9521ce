//! Server-side apply: who manages which field, kept on every write, and objects that are applied.
//!
//! Input: the live object and the one a client sends, both as documents of one shape. Output: the next
//! object with its `metadata.managedFields`. `now` is an argument; nothing is read from elsewhere.
//!
//! The rooms: [`Element`] and [`Set`] name fields, [`fields`] is their text; `shape` says what a value is
//! to apply; `collect`, `compare`, `merge`, `remove` and `validate` walk trees; `managers` are the
//! entries; `updater` is the algorithm; `last_applied` takes over what `kubectl apply` left in its
//! annotation; [`scale`] translates entries for the scale subresource.
//!
//! Port of `internal/{fieldmanager,skipnonapplied,versioncheck}.go` of apimachinery's managedfields and of
//! structured-merge-diff; the files of the rooms name theirs.

use bumpalo::Bump;

use crate::codec::{self, FieldValidation, Format};
use crate::doc::{Doc, Object, Value};
use crate::facts::{Resource, Subresource};
use crate::schema::Type;
use crate::status::Status;

mod collect;
mod compare;
mod conflict;
mod element;
pub mod fields;
mod last_applied;
mod managers;
mod merge;
mod remove;
pub mod scale;
mod set;
mod shape;
mod updater;
mod validate;

pub use conflict::Conflicts;
pub use element::{Element, ElementError, KeyField};
pub use managers::{Identity, MAX_UPDATE_MANAGERS, Operation, Renamed};
pub use set::{Node, Set};

use compare::Side;
use managers::Managers;
use shape::{Form, Shape};
use updater::{Applied, Updater};

/// Where the entries are.
const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];

/// The manager of everything that was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What an endpoint ignores of what clients send.
#[derive(Clone, Copy, Debug)]
pub enum Ignored<'r> {
    /// Nothing.
    Nothing,
    /// These fields, as dotted paths, and what is below them.
    Fields(&'r [&'static str]),
    /// Everything that is not at or below one of these paths; `*` is any element.
    AllBut(&'static [&'static [&'static str]]),
}

/// Where a write goes.
#[derive(Clone, Debug)]
pub struct Endpoint<'r> {
    /// The version the client writes in.
    pub api_version: String,
    /// The kind of the body.
    pub kind: &'r str,
    /// The subresource, or "".
    pub subresource: &'r str,
    /// What the endpoint ignores.
    pub ignored: Ignored<'r>,
    /// The version that has other names than the documents, if there is one.
    pub renamed: Renamed,
}

/// A write, without the object.
#[derive(Clone, Copy, Debug)]
pub struct Write<'r> {
    /// Where it goes.
    pub endpoint: &'r Endpoint<'r>,
    /// The manager's name; an empty one is `unknown`.
    pub manager: &'r str,
    /// Now, as RFC 3339 with seconds.
    pub now: &'r str,
}

/// Why an object cannot be applied.
#[derive(Clone, Debug)]
pub enum ApplyError<'a> {
    /// The request makes no sense: 400.
    BadRequest(String),
    /// The object does not fit its shape: 500, as upstream.
    Internal(String),
    /// Others manage what would change: 409.
    Conflicts(Conflicts<'a>),
}

// === impl Endpoint ===

/// What the endpoints of pods that change one part of them leave to others. (Upstream merges wildcard
/// patterns of one level so that only the first counts; `resizePolicy` is therefore not among them.)
const POD_PARTS: [(&str, &[&[&str]]); 2] = [
    ("ephemeralcontainers", &[&["spec", "ephemeralContainers"]]),
    (
        "resize",
        &[
            &["spec", "containers", "*", "resources"],
            &["spec", "initContainers", "*", "resources"],
        ],
    ),
];

impl<'r> Endpoint<'r> {
    /// The endpoint of a resource, or of a subresource that has the resource's own shape.
    pub fn of(resource: &'r Resource, subresource: Option<&'r Subresource>) -> Endpoint<'r> {
        let resets = match subresource {
            Some(sub) => &sub.reset_fields,
            None => &resource.reset_fields,
        };
        let name = subresource.map_or("", |sub| sub.name);
        let part = POD_PARTS
            .iter()
            .find(|(part, _)| resource.kind == "Pod" && *part == name);
        let ignored = match part {
            Some((_, patterns)) => Ignored::AllBut(patterns),
            None if resets.is_empty() => Ignored::Nothing,
            None => Ignored::Fields(resets),
        };
        Endpoint {
            api_version: resource.api_version(),
            kind: resource.kind,
            subresource: name,
            ignored,
            renamed: None,
        }
    }

    /// The kind as upstream's errors name it.
    fn kind_text(&self) -> String {
        kind_text(&self.api_version, self.kind)
    }
}

/// A kind as Go prints it: `apps/v1, Kind=Deployment`.
fn kind_text(api_version: &str, kind: &str) -> String {
    match api_version.matches('/').count() {
        0 => format!("/{api_version}, Kind={kind}"),
        1 => format!("{api_version}, Kind={kind}"),
        _ => format!("/, Kind={kind}"),
    }
}

impl ApplyError<'_> {
    /// The Status the server answers with.
    pub fn to_status(&self) -> Status {
        match self {
            ApplyError::BadRequest(text) => Status::bad_request(text.clone()),
            ApplyError::Internal(text) => Status::new(500, "", text.clone()),
            ApplyError::Conflicts(conflicts) => conflicts.to_status(),
        }
    }
}

/// Keeps the managers of an object that is created, replaced or patched. A live object without a uid is
/// one that is not there yet.
pub fn update<'a>(write: &Write<'_>, live: &Doc<'a>, new: &mut Doc<'a>) {
    let given = new.remove(&MANAGED_FIELDS);
    let updater = Updater::new(write, live);
    let managers = updater.known(given.as_ref(), live);
    // Objects from the time before there were managers stay without.
    if managers.is_empty() && exists(live) {
        return;
    }
    let writer = live.arena().alloc_str(write.manager);
    let (old, changed) = (canonical(live), canonical(new));
    match updater.update(managers, old, changed, writer) {
        Ok(managers) => put(managers, write.endpoint, new),
        // Documents that were decoded fit their shape; if one should not, what is known stays.
        Err(_) => {
            if let Some(entries) = live.get(&MANAGED_FIELDS) {
                new.set(&MANAGED_FIELDS, entries.clone());
            }
        }
    }
}

/// Applies an object to the live one. A live object without a uid is one that is not there yet. The
/// result is not defaulted.
pub fn apply<'a>(
    write: &Write<'_>,
    live: &Doc<'a>,
    applied: &Value<'a>,
    force: bool,
) -> Result<Doc<'a>, ApplyError<'a>> {
    let arena = live.arena();
    let endpoint = write.endpoint;
    check_kind(endpoint, applied)?;
    let updater = Updater::new(write, live);
    let mut managers = Managers::read(live.list_at(&MANAGED_FIELDS), endpoint.renamed, arena)
        .map_err(|error| {
            ApplyError::Internal(format!("failed to decode managed fields: {error}"))
        })?;
    if managers.is_empty() {
        let nothing = Doc::new(live.schema(), arena);
        managers = updater
            .update(
                managers,
                canonical(&nothing),
                canonical(live),
                BEFORE_FIRST_APPLY,
            )
            .map_err(|error| {
                let what = "failed to create manager for existing fields";
                ApplyError::Internal(format!("{what}: {error}"))
            })?;
    }
    check_applied(endpoint, updater.shape, applied, arena)?;
    let mut tree = shape::plain(live.root(), updater.shape, arena);
    strip(&mut tree);
    let applier = arena.alloc_str(write.manager);
    let outcome = updater.apply(managers.clone(), &tree, applied, applier, force);
    let outcome = match outcome {
        Err(ApplyError::Conflicts(conflicts)) if applier == last_applied::MANAGER => {
            let conflicts = match last_applied::allowed(&updater, live, &tree) {
                Some(allowed) => conflicts.without(allowed, arena),
                None => conflicts,
            };
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
            updater.apply(managers, &tree, applied, applier, true)?
        }
        outcome => outcome?,
    };
    let Applied { object, managers } = outcome;
    let mut doc = match object {
        Some(tree) => fitted(tree, live, endpoint, applied)?,
        None => live.clone(),
    };
    if applier == last_applied::MANAGER {
        last_applied::sync(&mut doc, applied);
    }
    doc.remove(&MANAGED_FIELDS);
    put(managers, endpoint, &mut doc);
    Ok(doc)
}

/// Reads an applied object; the strings are problems that only strict validation minds.
pub fn read<'a>(bytes: &'a [u8], arena: &'a Bump) -> Result<(Value<'a>, Vec<String>), Status> {
    let (mut value, problems) =
        codec::parse_with_problems(Format::Yaml, bytes, arena).map_err(|error| {
            let text = format!("error encoding patch: error converting YAML to JSON: {error}");
            Status::bad_request(text)
        })?;
    if value.is_null() {
        value = Value::Object(Object::new_in(arena));
    }
    if value.as_object().is_none() {
        return Err(Status::bad_request(format!(
            "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot \
             unmarshal {} into Go value of type map[string]interface {{}}",
            codec::json_kind(&value)
        )));
    }
    whole_numbers(&mut value);
    Ok((value, problems))
}

/// Whether two versions of an object differ in nothing but the times of their managers. The canonical
/// bytes tell about the rest; `span` is where managedFields are in the old ones.
pub fn same_but_times(
    old: (&Doc<'_>, &[u8], std::ops::Range<usize>),
    new: (&Doc<'_>, &[u8]),
) -> bool {
    let (old_doc, old_bytes, span) = old;
    let (new_doc, new_bytes) = new;
    let (head, tail) = (&old_bytes[..span.start], &old_bytes[span.end..]);
    if span.is_empty() || !new_bytes.starts_with(head) || !new_bytes.ends_with(tail) {
        return false;
    }
    let (old, new) = (
        old_doc.list_at(&MANAGED_FIELDS),
        new_doc.list_at(&MANAGED_FIELDS),
    );
    let without_time = |entry: &Value<'_>, other: &Value<'_>| {
        let fields = [
            "manager",
            "operation",
            "apiVersion",
            "fieldsType",
            "subresource",
        ];
        fields
            .iter()
            .all(|field| entry.str_of(field) == other.str_of(field))
            && entry.get("fieldsV1") == other.get("fieldsV1")
    };
    old.len() == new.len() && old.iter().zip(new).all(|(a, b)| without_time(a, b))
}

// === impl Updater ===

impl<'r, 'a> Updater<'r, 'a> {
    fn new(write: &Write<'r>, live: &Doc<'a>) -> Self {
        let arena = live.arena();
        Updater {
            endpoint: write.endpoint,
            shape: Shape::of(live.schema()),
            now: arena.alloc_str(write.now),
            arena,
        }
    }

    /// The managers to start from: those the client sends, so that it can edit or reset them; the live
    /// ones where it sends none, or through a subresource.
    fn known(&self, given: Option<&Value<'a>>, live: &Doc<'a>) -> Managers<'a> {
        let given = given.and_then(Value::as_list);
        let read = |entries| Managers::read(entries, self.endpoint.renamed, self.arena);
        let live = || read(live.list_at(&MANAGED_FIELDS)).unwrap_or_default();
        match given {
            Some(_) if !self.endpoint.subresource.is_empty() => live(),
            Some(entries) if is_reset(entries) => Managers::default(),
            Some(entries) => match read(entries) {
                Ok(managers) if !managers.is_empty() => managers,
                Ok(_) | Err(_) => live(),
            },
            None => live(),
        }
    }
}

/// `[]` and `[{}]` ask for a new start.
fn is_reset(entries: &[Value<'_>]) -> bool {
    match entries {
        [] => true,
        [one] => one.as_object().is_some_and(Object::is_empty),
        _ => false,
    }
}

fn exists(live: &Doc<'_>) -> bool {
    !live.meta("uid").is_empty()
}

fn canonical<'d, 'a>(doc: &'d Doc<'a>) -> Side<'d, 'a> {
    Side {
        root: doc.root(),
        form: Form::Canonical,
    }
}

fn put<'a>(managers: Managers<'a>, endpoint: &Endpoint<'_>, doc: &mut Doc<'a>) {
    if let Some(entries) = managers.write(endpoint.renamed, doc.arena()) {
        doc.set(&MANAGED_FIELDS, entries);
    }
}

fn strip(tree: &mut Value<'_>) {
    let metadata = tree.at_mut(&["metadata"]).and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        metadata.remove("managedFields");
    }
}

fn check_kind<'a>(endpoint: &Endpoint<'_>, applied: &Value<'a>) -> Result<(), ApplyError<'a>> {
    let text = |field| applied.str_of(field).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version == endpoint.api_version && kind == endpoint.kind {
        return Ok(());
    }
    Err(ApplyError::BadRequest(format!(
        "invalid object type: {}",
        kind_text(version, kind)
    )))
}

fn check_applied<'a>(
    endpoint: &Endpoint<'_>,
    shape: Shape<'a>,
    applied: &Value<'a>,
    arena: &'a Bump,
) -> Result<(), ApplyError<'a>> {
    if matches!(applied.at(&MANAGED_FIELDS), Some(Value::List(_))) {
        let text = "metadata.managedFields must be nil";
        return Err(ApplyError::BadRequest(text.to_owned()));
    }
    validate::validate(shape, applied, arena).map_err(|error| {
        let what = shown(applied, endpoint);
        ApplyError::Internal(format!(
            "failed to create typed patch object ({what}): {error}"
        ))
    })
}

/// An applied object as upstream's errors name it.
fn shown(applied: &Value<'_>, endpoint: &Endpoint<'_>) -> String {
    let meta = |field| {
        let value = applied.at(&["metadata", field]);
        value.and_then(Value::as_str).unwrap_or_default()
    };
    format!(
        "{}/{}; {}",
        meta("namespace"),
        meta("name"),
        endpoint.kind_text()
    )
}

/// The merged tree as a document.
fn fitted<'a>(
    mut tree: Value<'a>,
    live: &Doc<'a>,
    endpoint: &Endpoint<'_>,
    applied: &Value<'a>,
) -> Result<Doc<'a>, ApplyError<'a>> {
    sort_open_parts(&mut tree, live.schema());
    codec::coerce(tree, live.schema(), FieldValidation::Ignore, live.arena())
        .map(|(doc, _)| doc)
        .map_err(|error| {
            let what = shown(applied, endpoint);
            let text = "failed to convert new object";
            ApplyError::Internal(format!("{text} ({what}) to proper version: {error}"))
        })
}

/// Parts without a shape pass through maps in upstream and come out in the order of their keys.
fn sort_open_parts(value: &mut Value<'_>, ty: &Type) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(object)) => {
            for (name, value) in object.iter_mut() {
                if let Some(field) = id.get().field(name) {
                    sort_open_parts(value, &field.ty);
                }
            }
        }
        (Type::Map(element), Value::Object(object)) => {
            object
                .iter_mut()
                .for_each(|(_, v)| sort_open_parts(v, element));
        }
        (Type::List(element), Value::List(list)) => {
            list.iter_mut().for_each(|v| sort_open_parts(v, element));
        }
        (Type::Any | Type::Raw, value) => sort_keys(value),
        _ => {}
    }
}

/// Orders the keys of all objects in a value.
fn sort_keys(value: &mut Value<'_>) {
    match value {
        Value::Object(object) => {
            object.sort();
            object.iter_mut().for_each(|(_, v)| sort_keys(v));
        }
        Value::List(list) => list.iter_mut().for_each(sort_keys),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {}
    }
}

/// The largest whole number that is exact as a floating point number.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Numbers that are whole are integers, however they are written.
fn whole_numbers(value: &mut Value<'_>) {
    match value {
        Value::Float(f) if f.fract() == 0.0 && f.abs() <= MAX_EXACT => {
            *value = Value::Int(*f as i64);
        }
        Value::Object(object) => object.iter_mut().for_each(|(_, v)| whole_numbers(v)),
        Value::List(list) => list.iter_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {}
    }
}
