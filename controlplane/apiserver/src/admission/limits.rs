//! LimitRanger: containers get the namespace's defaults; pods and claims stay within its limits.
//!
//! Port of `plugin/pkg/admission/limitranger/admission.go`; the rules are in `api::limit_range`. On a
//! resize of a pod the limits are checked, but missing values are not filled in.

use api::limit_range::LimitRange;
use api::resources::{Amounts, PodResources};
use api::{Doc, Status, Value};

use super::{Admission, Written};
use crate::catalog::ResourceId;

/// What was filled in, in words.
const ANNOTATION: [&str; 3] = ["metadata", "annotations", "kubernetes.io/limit-ranger"];

/// Fills in a new pod.
pub fn fill_in(admission: &Admission<'_>, doc: &mut Doc<'_>) -> Result<(), Status> {
    for range in ranges(admission, doc.namespace())? {
        let defaults = range.container_defaults();
        let mut said = Vec::new();
        for (list, what) in [
            ("containers", "container"),
            ("initContainers", "init container"),
        ] {
            for index in 0..doc.list_at(&["spec", list]).len() {
                let index = index.to_string();
                let container = ["spec", list, &index];
                let name = doc
                    .str_at(&[&container[..], &["name"][..]].concat())
                    .unwrap_or_default();
                for (field, word, amounts) in [
                    ("requests", "request", &defaults.requests),
                    ("limits", "limit", &defaults.limits),
                ] {
                    let path = [&container[..], &["resources", field][..]].concat();
                    let set = fill_in_list(doc, &path, amounts);
                    if !set.is_empty() {
                        said.push(format!("{} {word} for {what} {name}", set.join(", ")));
                    }
                }
            }
        }
        if !said.is_empty() {
            let text = format!("LimitRanger plugin set: {}", said.join("; "));
            doc.set_str(&ANNOTATION, &text);
        }
    }
    Ok(())
}

/// Sets what is missing at a path; the names that were, in order.
fn fill_in_list(doc: &mut Doc<'_>, path: &[&str], amounts: &Amounts) -> Vec<String> {
    let mut set = Vec::new();
    for (name, quantity) in amounts.iter() {
        if doc.map_value(path, name).is_some() {
            continue;
        }
        let arena = doc.arena();
        let (parents, field) = path.split_at(path.len() - 1);
        let Some(list) = doc
            .get_mut(&parents[..parents.len() - 1])
            .and_then(Value::as_object_mut)
        else {
            return set;
        };
        let resources = list
            .entry_or_object(parents[parents.len() - 1])
            .make_object(arena);
        let values = resources.entry_or_object(field[0]).make_object(arena);
        values.set_copied(name, Value::string_in(&quantity.to_string(), arena));
        set.push(name.to_owned());
    }
    set
}

/// Checks what is about to be stored.
pub fn check(admission: &Admission<'_>, written: &Written<'_>) -> Result<(), Status> {
    let is_create = admission.is_create();
    let (pod, claim) = (
        admission.is("", "pods") && (is_create || written.subresource == "resize"),
        admission.is("", "persistentvolumeclaims") && written.subresource.is_empty(),
    );
    let is_terminating = admission.old.is_some_and(|(old, _)| old.is_terminating());
    if is_terminating || !(pod || claim) {
        return Ok(());
    }
    for range in ranges(admission, written.namespace)? {
        let problems = if pod {
            let pod: PodResources =
                serde_json::from_slice(written.bytes).map_err(Status::internal)?;
            range.check_pod(&pod)
        } else {
            range.check_claim(written.bytes).map_err(Status::internal)?
        };
        if !problems.is_empty() {
            let row = admission.row;
            let why = aggregate(problems);
            return Err(Status::forbidden(row.group, row.plural, written.name, &why));
        }
    }
    Ok(())
}

/// The text of Go's aggregate error.
fn aggregate(mut problems: Vec<String>) -> String {
    let mut seen = std::collections::HashSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    match problems.as_slice() {
        [single] => single.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

fn ranges(admission: &Admission<'_>, namespace: &str) -> Result<Vec<LimitRange>, Status> {
    let snapshot = admission
        .call
        .server
        .cache()
        .snapshot(ResourceId::named("", "limitranges"));
    let ranges = snapshot.iter(namespace);
    ranges
        .map(|object| LimitRange::read(&object.bytes).map_err(Status::internal))
        .collect()
}
