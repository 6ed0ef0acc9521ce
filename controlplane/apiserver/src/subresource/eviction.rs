//! `pods/eviction`: a deletion that PodDisruptionBudgets may refuse.
//!
//! Port of pkg/registry/core/pod/storage/eviction.go; the budget's own count is left to its
//! controller, which sees the pod go.

use api::{Status, selector::LabelSelector, status::Cause};
use bumpalo::Bump;

use super::body_schema;
use crate::{
    attempt::{decode_stored, stored_row},
    cache::Object,
    call::Call,
    present::Answer,
    rest::{delete, write},
};

pub async fn evict(call: &Call) -> Result<Answer, Status> {
    let (json, _) = write::decode_plain(call, body_schema(call)?)?;
    let eviction: serde_json::Value = serde_json::from_slice(&json).map_err(Status::internal)?;
    let options: delete::DeleteOptions = match eviction.get("deleteOptions") {
        Some(options) if !options.is_null() => serde_json::from_value(options.clone())
            .map_err(|e| Status::bad_request(e.to_string()))?,
        _ => delete::DeleteOptions::default(),
    };
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    let pods = call.stored()?;
    let pod = call
        .server
        .cache()
        .get(pods, namespace, name)
        .ok_or_else(|| call.not_found())?;
    if !ignores_budgets(&pod) {
        check_budgets(call, &pod)?;
    }
    delete::delete_one(call, namespace, name, &options).await?;
    let status =
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#;
    Ok(Answer {
        code: 201,
        json: status.into(),
        warnings: Vec::new(),
    })
}

/// Finished, ending and pending pods serve nobody.
fn ignores_budgets(pod: &Object) -> bool {
    let phase = pod.field("status.phase").unwrap_or_default();
    matches!(phase, "\"Succeeded\"" | "\"Failed\"" | "\"Pending\"") || pod.is_terminating()
}

fn check_budgets(call: &Call, pod: &Object) -> Result<(), Status> {
    let Some(budgets) = call
        .server
        .cache()
        .resource("policy", "poddisruptionbudgets")
    else {
        return Ok(());
    };
    for budget in call.server.cache().snapshot(budgets).iter(pod.namespace()) {
        let allowed = budget.field("status.disruptionsAllowed").unwrap_or("0");
        if selects(budget, pod)? && allowed.parse::<i64>().unwrap_or(0) <= 0 {
            let text = "Cannot evict pod as it would violate the pod's disruption budget.";
            let cause = Cause {
                reason: "DisruptionBudget".into(),
                message: format!(
                    "The disruption budget {} allows no disruption now",
                    budget.name()
                ),
                field: String::new(),
            };
            return Err(Status::new(429, "TooManyRequests", text).with_cause(cause));
        }
    }
    Ok(())
}

fn selects(budget: &Object, pod: &Object) -> Result<bool, Status> {
    let facts = api::Facts::get();
    let Some(row) = facts.resource("policy", "v1", "poddisruptionbudgets") else {
        return Ok(false);
    };
    let arena = Bump::new();
    let doc = decode_stored(stored_row(row), budget, &arena)?;
    let selector = LabelSelector::from_value(doc.get(&["spec", "selector"]))
        .map_err(|e| Status::internal(e.to_string()))?;
    Ok(selector.matches(|key| pod.label(key)))
}
