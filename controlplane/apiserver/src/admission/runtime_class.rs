//! RuntimeClass: a new pod's class exists; the pod gets the class's overhead, selector and tolerations.
//!
//! Port of `plugin/pkg/admission/runtimeclass/admission.go` and of `MergeTolerations` in
//! `pkg/util/tolerations`.

use api::codec::{Format, parse};
use api::{Doc, List, Status, Value};

use super::Admission;
use crate::catalog::ResourceId;

pub fn mutate(admission: &Admission<'_>, doc: &mut Doc<'_>) -> Result<(), Status> {
    let forbidden = |doc: &Doc<'_>, why: &str| Err(Status::forbidden("", "pods", doc.name(), why));
    let classes = ResourceId::named("node.k8s.io", "runtimeclasses");
    let class = match doc.str_at(&["spec", "runtimeClassName"]) {
        None => None,
        Some(name) => match admission.call.server.cache().get(classes, "", name) {
            Some(class) => Some(class),
            None => {
                let quoted = api::status::quote(name);
                return forbidden(
                    doc,
                    &format!("pod rejected: RuntimeClass {quoted} not found"),
                );
            }
        },
    };
    let arena = doc.arena();
    let field = |path: &str| {
        let raw = class.as_ref()?.field(path)?;
        let bytes = arena.alloc_slice_copy(raw.as_bytes());
        parse(Format::Json, bytes, arena).ok()
    };
    let has_own = doc
        .get(&["spec", "overhead"])
        .is_some_and(|own| !own.is_null());
    match field("overhead.podFixed") {
        Some(overhead) => {
            let same = doc.get(&["spec", "overhead"]) == Some(&overhead);
            if has_own && !same {
                let why =
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return forbidden(doc, why);
            }
            doc.set(&["spec", "overhead"], overhead);
        }
        None if has_own => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                       Overhead";
            return forbidden(doc, why);
        }
        None => {}
    }
    if let Some(selector) = field("scheduling.nodeSelector") {
        select(doc, &selector)?;
    }
    if let Some(tolerations) = field("scheduling.tolerations") {
        tolerate(doc, &tolerations);
    }
    Ok(())
}

fn select<'a>(doc: &mut Doc<'a>, selector: &Value<'a>) -> Result<(), Status> {
    for (key, value) in selector.as_object().into_iter().flat_map(api::Object::iter) {
        let value = value.as_str().unwrap_or_default();
        let path = ["spec", "nodeSelector"];
        if let Some(own) = doc.map_value(&path, key).filter(|own| *own != value) {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(Status::forbidden("", "pods", doc.name(), &why));
        }
        doc.set_str(&["spec", "nodeSelector", key], value);
    }
    Ok(())
}

/// Adds those that no other toleration is a superset of.
fn tolerate<'a>(doc: &mut Doc<'a>, more: &Value<'a>) {
    let own = doc.list_at(&["spec", "tolerations"]);
    let all: Vec<Value<'a>> = own
        .iter()
        .chain(more.as_list().unwrap_or_default())
        .cloned()
        .collect();
    let mut merged = List::new_in(doc.arena());
    for (at, toleration) in all.iter().enumerate() {
        // Of equal ones the first stays, as each is a superset of the other.
        let covered = merged.iter().any(|kept| is_superset(kept, toleration))
            || all[at + 1..]
                .iter()
                .any(|later| is_superset(later, toleration) && !is_superset(toleration, later));
        if !covered {
            merged.push(toleration.clone());
        }
    }
    doc.set(&["spec", "tolerations"], Value::List(merged));
}

/// Whether everything `other` tolerates is tolerated by `one` (`isSuperset`).
fn is_superset(one: &Value<'_>, other: &Value<'_>) -> bool {
    let text = |value: &Value<'_>, field: &str| value.str_of(field).unwrap_or_default().to_owned();
    let (a, b) = (|field| text(one, field), |field| text(other, field));
    if one == other {
        return true;
    }
    let covers_key = a("key") == b("key") || (a("key").is_empty() && a("operator") == "Exists");
    let covers_effect = a("effect").is_empty() || a("effect") == b("effect");
    let seconds = |value: &Value<'_>| value.int_of("tolerationSeconds");
    let covers_time = a("effect") != "NoExecute"
        || match (seconds(one), seconds(other)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(one), Some(other)) => one >= other,
        };
    let covers_value = match a("operator").as_str() {
        "Exists" => true,
        "" | "Equal" => b("operator") == "Equal" && a("value") == b("value"),
        _ => false,
    };
    covers_key && covers_effect && covers_time && covers_value
}
