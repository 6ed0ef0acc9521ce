//! Nodes: validation.
//!
//! Port of `ValidateNode` and `ValidateNodeUpdate` in `pkg/apis/core/validation/validation.go`.

use std::collections::HashSet;

use crate::doc::{Doc, Value};
use crate::quantity::Quantity;
use crate::validate::ip;
use crate::validate::names::{label_key, label_value};
use crate::validate::path::{Errors, Path};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A new Node.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    taints(doc, errors);
    resources(doc, errors);
    let path = Path::new("spec");
    let list = path.child("podCIDRs");
    let mut families = Vec::new();
    for (i, text) in doc
        .list_at(&["spec", "podCIDRs"])
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        ip::cidr(text, &[], &list.index(i), errors);
        families.push(text.contains(':'));
    }
    if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.invalid_value(&list, doc.get(&["spec", "podCIDRs"]), detail);
    }
}

/// An updated Node, or its status.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    resources(new, errors);
    let path = Path::new("status");
    let list = path.child("addresses");
    let mut seen = HashSet::new();
    for (i, address) in new.list_at(&["status", "addresses"]).iter().enumerate() {
        let text = |field| address.str_of(field).unwrap_or_default();
        if !seen.insert((text("type"), text("address"))) {
            let shown = format!(
                "{{\"Type\":\"{}\",\"Address\":\"{}\"}}",
                text("type"),
                text("address")
            );
            errors.duplicate_raw(&list.index(i), shown);
        }
    }
    let path = Path::new("spec");
    let (before, now) = (
        old.list_at(&["spec", "podCIDRs"]),
        new.list_at(&["spec", "podCIDRs"]),
    );
    if !before.is_empty() && before != now {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&path.child("podCIDRs"), detail);
    }
    let provider = |doc: &Doc<'_>| {
        doc.str_at(&["spec", "providerID"])
            .unwrap_or_default()
            .to_owned()
    };
    if !provider(old).is_empty() && provider(new) != provider(old) {
        let detail = if provider(new).is_empty() {
            "field cannot be cleared once set"
        } else {
            "field cannot be modified once set"
        };
        errors.invalid_value(&path.child("providerID"), None, detail);
    }
    taints(new, errors);
}

fn taints(doc: &Doc<'_>, errors: &mut Errors) {
    // Upstream's path for taints is below the metadata.
    let path = Path::new("metadata");
    let list = path.child("taints");
    let mut seen = HashSet::new();
    for (i, taint) in doc.list_at(&["spec", "taints"]).iter().enumerate() {
        let at = list.index(i);
        let text = |field| taint.str_of(field).unwrap_or_default();
        errors.each(&at.child("key"), text("key"), label_key(text("key")));
        let problems = label_value(text("value"));
        if !problems.is_empty() {
            errors.invalid(&at.child("value"), text("value"), problems.join(";"));
        }
        errors.one_of(&at.child("effect"), taint.str_of("effect"), &EFFECTS, true);
        if !seen.insert((text("key"), text("effect"))) {
            let shown = format!(
                "{{\"Key\":\"{}\",\"Value\":\"{}\",\"Effect\":\"{}\",\"TimeAdded\":null}}",
                text("key"),
                text("value"),
                text("effect")
            );
            errors.duplicate_raw(&at, shown);
            if let Some(error) = errors.0.last_mut() {
                error.detail = "taints must be unique by key and effect pair".to_owned();
            }
        }
    }
}

fn resources(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    for list in ["capacity", "allocatable"] {
        let at = path.child(list);
        let Some(entries) = doc.get(&["status", list]).and_then(Value::as_object) else {
            continue;
        };
        for (name, text) in entries.iter() {
            let text = text.as_str().unwrap_or_default();
            if Quantity::parse(text).is_ok_and(|q| q.sign() < 0) {
                errors.invalid(&at.child(name), text, "must be greater than or equal to 0");
            }
        }
    }
}
