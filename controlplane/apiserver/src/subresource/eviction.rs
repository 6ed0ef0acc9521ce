//! `pods/eviction`: a deletion that PodDisruptionBudgets may refuse.
//!
//! Port of pkg/registry/core/pod/storage/eviction.go. What an eviction takes from a budget is written
//! in the same commit as the deletion.

mod budget;

use api::{Doc, Object as DocObject, Status, Value, selector::LabelSelector};
use bumpalo::Bump;

use super::{admitted, body_schema};
use crate::{
    attempt::{self, Update, decode_stored, stored_row},
    cache::Object,
    call::Call,
    catalog::ResourceId,
    present::Answer,
    rest::{delete, write},
    storage::{Write, WriteChange},
};
use budget::{Budget, Taken};

const SEVERAL: &str = "This pod has more than one PodDisruptionBudget, which the eviction \
                       subresource does not support.";

const NOT_THE_ONE: &str = "the precondition does not match the object in record. The object might \
                           have been modified, or deleted and then recreated";

pub async fn evict(call: &Call) -> Result<Answer, Status> {
    let (json, _) = write::decode_plain(call, body_schema(call)?)?;
    let (json, warnings) = admitted(call, json).await?;
    let eviction: serde_json::Value = serde_json::from_slice(&json).map_err(Status::internal)?;
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    if eviction["metadata"]["name"].as_str().unwrap_or_default() != name {
        let text = "name in URL does not match name in Eviction object";
        return Err(Status::bad_request(text));
    }
    let mut options: delete::DeleteOptions = match eviction.get("deleteOptions") {
        Some(options) if !options.is_null() => serde_json::from_value(options.clone())
            .map_err(|e| Status::bad_request(e.to_string()))?,
        _ => delete::DeleteOptions::default(),
    };
    let pods = call.stored()?;
    let pod = call
        .server
        .cache()
        .get(pods, namespace, name)
        .ok_or_else(|| call.not_found())?;
    // Before the pod is told: an eviction that is refused leaves no trace.
    budget_writes(call, &pod)?;
    if !call.dry_run() && options.dry_run.is_empty() {
        tell(call, &mut options).await?;
    }
    let extra = |pod: &Object| budget_writes(call, pod);
    delete::delete_with(call, namespace, name, &options, Some(&extra)).await?;
    let status =
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#;
    Ok(Answer {
        code: 201,
        json: status.into(),
        warnings,
    })
}

/// The pod learns why it goes, if it is the one that is meant; a version that is asked for becomes the
/// one this makes (`addConditionAndDeletePod`).
async fn tell(call: &Call, options: &mut delete::DeleteOptions) -> Result<(), Status> {
    let now = call.now_text();
    let asked = options.preconditions.clone().unwrap_or_default();
    let edit = move |doc: &mut Doc<'_>| -> Result<(), Status> {
        let pairs = [
            (&asked.uid, doc.meta("uid")),
            (&asked.resource_version, doc.meta("resourceVersion")),
        ];
        let differs =
            |(asked, is): &(&Option<String>, &str)| asked.as_ref().is_some_and(|a| a != is);
        if pairs.iter().any(differs) {
            return Err(Status::conflict("", "pods", doc.name(), NOT_THE_ONE));
        }
        set_condition(doc, &now);
        Ok(())
    };
    let answer = attempt::update(call, "eviction", &Update::With(&edit)).await?;
    let asked = options.preconditions.as_mut();
    if let Some(version) = asked.and_then(|asked| asked.resource_version.as_mut()) {
        let told: serde_json::Value =
            serde_json::from_slice(&answer.json).map_err(Status::internal)?;
        let now = told["metadata"]["resourceVersion"].as_str();
        now.unwrap_or_default().clone_into(version);
    }
    Ok(())
}

/// Finished, ending and pending pods serve nobody (`canIgnorePDB`).
fn ignores_budgets(pod: &Object) -> bool {
    let phase = pod.field("status.phase").unwrap_or_default();
    matches!(phase, "\"Succeeded\"" | "\"Failed\"" | "\"Pending\"") || pod.is_terminating()
}

/// What the eviction of a pod takes from its budget.
fn budget_writes(call: &Call, pod: &Object) -> Result<Vec<Write>, Status> {
    if ignores_budgets(pod) {
        return Ok(Vec::new());
    }
    let id = ResourceId::named("policy", "poddisruptionbudgets");
    let snapshot = call.server.cache().snapshot(id);
    let mut selecting = Vec::new();
    for budget in snapshot.iter(pod.namespace()) {
        if selects(budget, pod)? {
            selecting.push(budget);
        }
    }
    let object = match selecting.as_slice() {
        [] => return Ok(Vec::new()),
        [object] => object,
        _ => return Err(Status::new(500, "", SEVERAL)),
    };
    let budget: Budget = serde_json::from_slice(&object.bytes).map_err(Status::internal)?;
    let arena = Bump::new();
    match budget.take(is_ready(pod, &arena)?)? {
        Taken::Nothing => Ok(Vec::new()),
        Taken::One { left } => Ok(vec![taken(call, id, object, pod.name(), left)?]),
    }
}

fn is_ready(pod: &Object, arena: &Bump) -> Result<bool, Status> {
    let doc = decode_stored(row("", "pods")?, pod, arena)?;
    let mut conditions = doc.list_at(&["status", "conditions"]).iter();
    let is_ready =
        |c: &Value<'_>| c.str_of("type") == Some("Ready") && c.str_of("status") == Some("True");
    Ok(conditions.any(is_ready))
}

/// The budget's status without one disruption, and with the pod it was for.
fn taken(
    call: &Call,
    resource: ResourceId,
    budget: &Object,
    pod: &str,
    left: i64,
) -> Result<Write, Status> {
    let arena = Bump::new();
    let row = row("policy", "poddisruptionbudgets")?;
    let mut doc = decode_stored(row, budget, &arena)?;
    doc.set_int(&["status", "disruptionsAllowed"], left);
    doc.set_str(&["status", "disruptedPods", pod], &call.now_text());
    Ok(Write {
        resource,
        key: budget.key.clone(),
        change: WriteChange::Put {
            bytes: api::codec::canonical_stored(&mut doc).into(),
            expires: None,
        },
        expect: Some(budget.revision),
    })
}

fn selects(budget: &Object, pod: &Object) -> Result<bool, Status> {
    let arena = Bump::new();
    let doc = decode_stored(row("policy", "poddisruptionbudgets")?, budget, &arena)?;
    let selector = LabelSelector::from_value(doc.get(&["spec", "selector"]))
        .map_err(|e| Status::internal(e.to_string()))?;
    Ok(selector.matches(|key| pod.label(key)))
}

fn row(group: &str, plural: &str) -> Result<&'static api::Resource, Status> {
    let row = api::Facts::get().resource(group, "v1", plural);
    row.map(stored_row).ok_or_else(Status::page_not_found)
}

/// The condition that says why the pod goes.
fn set_condition(doc: &mut Doc<'_>, now: &str) {
    let arena = doc.arena();
    let mut condition = DocObject::new_in(arena);
    for (key, value) in [
        ("type", "DisruptionTarget"),
        ("status", "True"),
        ("lastTransitionTime", now),
        ("reason", "EvictionByEvictionAPI"),
        ("message", "Eviction API: evicting"),
    ] {
        condition.set_copied(key, Value::string_in(value, arena));
    }
    super::put_condition(doc, condition);
}
