//! From client-side to server-side apply: the annotation `kubectl apply` keeps the last configuration in.
//!
//! Only the manager `kubectl` is treated so: it may take over what the annotation shows it set itself,
//! and the annotation is kept up to date as long as it is there.
//!
//! Port of `internal/{lastapplied,lastappliedmanager,lastappliedupdater}.go` of apimachinery's
//! managedfields.

use super::collect::collect;
use super::compare::{Side, compare};
use super::set::Set;
use super::shape::Form;
use super::sort_keys;
use super::updater::Updater;
use super::validate::validate;
use crate::codec::{self, Format};
use crate::doc::{Doc, Value};

/// The manager whose annotation counts.
pub(super) const MANAGER: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How many bytes all annotations of an object may have together.
const MAX_ANNOTATIONS_BYTES: usize = 256 << 10;

/// The fields that the annotation shows and that still are as it shows them. None: there is no usable
/// annotation. `tree` is the live object as it is.
pub(super) fn allowed<'a>(
    updater: &Updater<'_, 'a>,
    live: &Doc<'a>,
    tree: &Value<'a>,
) -> Option<Set<'a>> {
    let (shape, arena) = (updater.shape, updater.arena);
    let text = annotation(live)?;
    validate(shape, tree, arena).ok()?;
    let last = codec::parse(Format::Json, text.as_bytes(), arena).ok()?;
    let is = |field, wanted| last.str_of(field) == Some(wanted);
    if !is("apiVersion", &updater.endpoint.api_version) || !is("kind", updater.endpoint.kind) {
        return None;
    }
    validate(shape, &last, arena).ok()?;
    let side = |root| Side {
        root,
        form: Form::Plain,
    };
    let changes = compare(shape, side(&last), side(tree), arena).ok()?;
    let set = collect(shape, &last, arena).ok()?;
    Some(
        [changes.modified, changes.added, changes.removed]
            .into_iter()
            .fold(set, |set, changed| set.difference(changed, arena)),
    )
}

/// Writes what was applied into the annotation, if there is one.
pub(super) fn sync<'a>(doc: &mut Doc<'a>, applied: &Value<'a>) {
    if annotation(doc).is_none() {
        return;
    }
    let mut applied = applied.clone();
    let annotations = applied.at_mut(&["metadata", "annotations"]);
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    sort_keys(&mut applied);
    let mut json = Vec::new();
    codec::write_value(&applied, &mut json);
    json.push(b'\n');
    let text = String::from_utf8_lossy(&json);
    doc.set_str(&["metadata", "annotations", ANNOTATION], &text);
    let size: usize = doc
        .get(&["metadata", "annotations"])
        .and_then(Value::as_object)
        .map_or(0, |all| {
            all.iter()
                .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
                .sum()
        });
    if size > MAX_ANNOTATIONS_BYTES {
        doc.remove(&["metadata", "annotations", ANNOTATION]);
    }
}

fn annotation<'a>(doc: &Doc<'a>) -> Option<&'a str> {
    doc.map_value(&["metadata", "annotations"], ANNOTATION)
        .filter(|text| !text.is_empty())
}
