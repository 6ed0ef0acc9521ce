//! CertificateSigningRequests: strategy.
//!
//! Ported from `pkg/registry/certificates/certificates/strategy.go`. Who asks (username, groups) is set
//! by the server, which knows it; times of conditions are set by `populate_times`.

use crate::doc::{Doc, List, Value};
use crate::strategy::copy;

/// The status endpoint keeps approvals and denials, the approval endpoint everything but conditions.
pub(crate) fn prepare_update<'a>(new: &mut Doc<'a>, old: &Doc<'a>, subresource: &str) {
    match subresource {
        "status" => keep_decisions(new, old),
        "approval" => {
            let conditions = new.get(&["status", "conditions"]).cloned();
            copy(new, old, &["spec"]);
            copy(new, old, &["status"]);
            if let Some(conditions) = conditions {
                new.set(&["status", "conditions"], conditions);
            } else {
                new.remove(&["status", "conditions"]);
            }
        }
        _ => {}
    }
}

/// Sets the times of conditions that have none, and of those whose status changed.
pub fn populate_times(new: &mut Doc<'_>, old: &Doc<'_>, now: &str) {
    let now = new.text(now);
    let old_conditions = old.list_at(&["status", "conditions"]).to_vec();
    let Some(Value::List(list)) = new.get_mut(&["status", "conditions"]) else {
        return;
    };
    for condition in list.iter_mut().filter_map(Value::as_object_mut) {
        if !condition.contains("lastUpdateTime") {
            condition.set("lastUpdateTime", Value::String(now));
        }
        if condition.contains("lastTransitionTime") {
            continue;
        }
        let ty = condition.get("type").and_then(Value::as_str);
        let status = condition.get("status").and_then(Value::as_str);
        let before = old_conditions
            .iter()
            .find(|c| c.str_of("type") == ty && c.str_of("status") == status)
            .and_then(|c| c.str_of("lastTransitionTime"));
        let at = before.map_or(now, |text| condition.arena().alloc_str(text));
        condition.set("lastTransitionTime", Value::String(at));
    }
}

fn is_decision(condition: &Value<'_>) -> bool {
    matches!(condition.str_of("type"), Some("Approved" | "Denied"))
}

/// Only the approval endpoint decides: the old decisions replace whatever was sent.
fn keep_decisions<'a>(new: &mut Doc<'a>, old: &Doc<'a>) {
    let arena = new.arena();
    let mut kept = List::new_in(arena);
    kept.extend(
        new.list_at(&["status", "conditions"])
            .iter()
            .filter(|c| !is_decision(c))
            .cloned(),
    );
    let decisions: Vec<Value<'a>> = old
        .list_at(&["status", "conditions"])
        .iter()
        .filter(|c| is_decision(c))
        .cloned()
        .collect();
    for (i, decision) in decisions.into_iter().enumerate() {
        kept.insert(i, decision);
    }
    if !kept.is_empty() {
        new.set(&["status", "conditions"], Value::List(kept));
    }
}
