//! `pods/eviction`: a deletion that a PodDisruptionBudget may refuse.
//!
//! Port of pkg/registry/core/pod/storage/eviction.go. What a budget grants is taken off its status
//! before the pod goes, under the status' own compare-and-swap, so that two evictions never share one
//! permission; its controller counts anew when it sees the pod go.

use std::sync::Arc;

use api::{Doc, Status, Value, selector::LabelSelector, status::Cause};
use bumpalo::Bump;

use super::{body_schema, set_condition};
use crate::{
    attempt::{self, Update, decode_stored, stored_row},
    cache::Object,
    call::Call,
    present::Answer,
    rest::{
        delete::{self, DeleteOptions},
        write,
    },
};

/// Evictions a budget may have granted and not seen happen.
const MAX_DISRUPTED_PODS: usize = 2000;
/// Seconds after which a client may try again while a budget is being counted.
const RETRY_SECONDS: u32 = 10;
const BUDGET_CAUSE: &str = "DisruptionBudget";

pub async fn evict(call: &Call) -> Result<Answer, Status> {
    let mut options = options(call)?;
    let pod = current(call)?;
    let asked_version = version(&options).is_some();
    // A pod that serves nobody may go, unless it begins to serve meanwhile.
    let mut must_be_same = is_pending(&pod);
    let mut budget = None;
    if !ignores_budgets(&pod) {
        budget = budget_of(call, &pod)?;
        match &budget {
            Some(budget) if is_free(call, budget, &pod)? => must_be_same = true,
            Some(budget) => take_one(call, budget).await?,
            None => {}
        }
    }
    if must_be_same && !asked_version {
        let preconditions = options.preconditions.get_or_insert_default();
        preconditions.resource_version = Some(pod.revision.to_string());
    }
    match mark_and_delete(call, &options).await {
        Err(status) if status.code == 409 && must_be_same && !asked_version => {
            Err(being_counted(budget.as_deref()))
        }
        Err(status) => Err(status),
        Ok(()) => Ok(success()),
    }
}

/// The deletion's options; dry run may be asked for in the request or in them.
fn options(call: &Call) -> Result<DeleteOptions, Status> {
    let (json, _) = write::decode_plain(call, body_schema(call)?)?;
    let eviction: serde_json::Value = serde_json::from_slice(&json).map_err(Status::internal)?;
    let name = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != call.attributes.name {
        let text = "name in URL does not match name in Eviction object";
        return Err(Status::bad_request(text));
    }
    match eviction.get("deleteOptions") {
        Some(options) if !options.is_null() => {
            serde_json::from_value(options.clone()).map_err(|e| Status::bad_request(e.to_string()))
        }
        _ => Ok(DeleteOptions::default()),
    }
}

fn current(call: &Call) -> Result<Arc<Object>, Status> {
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    let pod = call.server.cache().get(call.stored()?, namespace, name);
    pod.ok_or_else(|| call.not_found())
}

fn version(options: &DeleteOptions) -> Option<&str> {
    let version = options.preconditions.as_ref()?.resource_version.as_deref();
    version.filter(|version| !version.is_empty())
}

fn phase(pod: &Object) -> &str {
    pod.field("status.phase")
        .unwrap_or_default()
        .trim_matches('"')
}

fn is_pending(pod: &Object) -> bool {
    phase(pod) == "Pending" && !pod.is_terminating()
}

/// Finished, ending and pending pods serve nobody.
fn ignores_budgets(pod: &Object) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed" | "Pending") || pod.is_terminating()
}

/// The one budget that covers the pod.
fn budget_of(call: &Call, pod: &Object) -> Result<Option<Arc<Object>>, Status> {
    let cache = call.server.cache();
    let Some(budgets) = cache.resource("policy", "poddisruptionbudgets") else {
        return Ok(None);
    };
    let snapshot = cache.snapshot(budgets);
    let mut covering = snapshot.iter(pod.namespace()).filter(|b| covers(b, pod));
    let budget = covering.next().cloned();
    if covering.next().is_some() {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                    does not support.";
        return Err(Status::new(500, "", text));
    }
    Ok(budget)
}

/// A budget whose selector cannot be read covers nothing.
fn covers(budget: &Object, pod: &Object) -> bool {
    let arena = Bump::new();
    let Ok(doc) = read(budget, &arena) else {
        return false;
    };
    let selector = LabelSelector::from_value(doc.get(&["spec", "selector"]));
    selector.is_ok_and(|selector| selector.matches(|key| pod.label(key)))
}

fn read<'a>(budget: &Object, arena: &'a Bump) -> Result<Doc<'a>, Status> {
    let row = api::Facts::get()
        .resource("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(Status::page_not_found)?;
    decode_stored(stored_row(row), budget, arena)
}

/// A pod that is not ready costs the budget nothing where its policy says so, or while enough others
/// are healthy.
fn is_free(call: &Call, budget: &Object, pod: &Object) -> Result<bool, Status> {
    let arena = Bump::new();
    let pod = decode_stored(stored_row(call.resource), pod, &arena)?;
    let conditions = pod.list_at(&["status", "conditions"]);
    let is_ready = conditions
        .iter()
        .any(|c| c.str_of("type") == Some("Ready") && c.str_of("status") == Some("True"));
    if is_ready {
        return Ok(false);
    }
    let budget = read(budget, &arena)?;
    let policy = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]);
    let [healthy, wanted] = ["currentHealthy", "desiredHealthy"]
        .map(|field| budget.int_at(&["status", field]).unwrap_or(0));
    Ok(policy == Some("AlwaysAllow") || (healthy >= wanted && wanted > 0))
}

/// Takes one disruption off the budget (`checkAndDecrement`).
async fn take_one(call: &Call, budget: &Object) -> Result<(), Status> {
    let row = api::Facts::get()
        .resource("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(Status::page_not_found)?;
    let mut of_budget = Call {
        server: call.server.clone(),
        user: call.user.clone(),
        attributes: call.attributes.clone(),
        resource: row,
        id: crate::ResourceId::of(row),
        subresource: row.subresource("status"),
        output: call.output,
        parts: call.parts.clone(),
        body: bytes::Bytes::new(),
        now: call.now,
    };
    of_budget.attributes.name = budget.name().to_owned();
    let (pod, now) = (call.attributes.name.clone(), call.now_text());
    let edit = move |doc: &mut Doc<'_>| -> Result<(), Status> {
        let left = check(doc)? - 1;
        doc.set_int(&["status", "disruptionsAllowed"], left);
        doc.set_str(&["status", "disruptedPods", &pod], &now);
        if left == 0 {
            let generation = doc.int_at(&["status", "observedGeneration"]).unwrap_or(0);
            let texts = [
                ("type", "DisruptionAllowed"),
                ("status", "False"),
                ("reason", "InsufficientPods"),
                ("message", ""),
            ];
            set_condition(doc, &texts, &now, Some(generation));
        }
        Ok(())
    };
    attempt::update(&of_budget, "status", &Update::With(&edit)).await?;
    Ok(())
}

/// How many disruptions the budget allows; an error when none.
fn check(budget: &Doc<'_>) -> Result<i64, Status> {
    let name = budget.name();
    let number = |field: &str| budget.int_at(&["status", field]).unwrap_or(0);
    if number("observedGeneration") < budget.generation() {
        return Err(being_counted_by_name(name));
    }
    let disrupted = budget.get(&["status", "disruptedPods"]);
    let disrupted = disrupted.and_then(Value::as_object).map_or(0, |o| o.len());
    if disrupted > MAX_DISRUPTED_PODS {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        let message = format!(
            "The disruption budget {name} does not allow evicting pods currently: too many pending \
             evictions not confirmed by PDB controller"
        );
        return Err(
            Status::forbidden("policy", "poddisruptionbudget", name, why)
                .with_cause(cause(message)),
        );
    }
    match number("disruptionsAllowed") {
        allowed if allowed > 0 => Ok(allowed),
        _ => {
            let text = "Cannot evict pod as it would violate the pod's disruption budget.";
            let status = Status::new(429, "TooManyRequests", text);
            Err(status.with_cause(cause(refusal(budget))))
        }
    }
}

/// Why the budget allows nothing.
fn refusal(budget: &Doc<'_>) -> String {
    let name = budget.name();
    let number = |field: &str| budget.int_at(&["status", field]).unwrap_or(0);
    let conditions = budget.list_at(&["status", "conditions"]);
    let denied = conditions.iter().find(|c| {
        c.str_of("type") == Some("DisruptionAllowed") && c.str_of("status") == Some("False")
    });
    let text = |field: &str| denied.and_then(|c| c.str_of(field)).unwrap_or_default();
    let (reason, message) = (text("reason"), text("message"));
    let (wanted, healthy) = (number("desiredHealthy"), number("currentHealthy"));
    if reason == "SyncFailed" && !message.is_empty() {
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed \
             sync: {message}"
        );
    }
    if healthy <= wanted {
        return format!(
            "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
        );
    }
    if message.is_empty() {
        return format!("The disruption budget {name} does not allow evicting pods currently");
    }
    format!(
        "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
    )
}

fn being_counted(budget: Option<&Object>) -> Status {
    being_counted_by_name(budget.map_or("", Object::name))
}

fn being_counted_by_name(name: &str) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let message = format!("The disruption budget {name} is still being processed by the server.");
    let mut status = Status::new(429, "TooManyRequests", text).with_cause(cause(message));
    if let Some(details) = &mut status.details {
        details.retry_after_seconds = RETRY_SECONDS;
    }
    status
}

fn cause(message: String) -> Cause {
    Cause {
        reason: BUDGET_CAUSE.into(),
        message,
        field: String::new(),
    }
}

/// Says in the pod's status why it goes, and deletes it (`addConditionAndDeletePod`).
async fn mark_and_delete(call: &Call, options: &DeleteOptions) -> Result<(), Status> {
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    let mut options = options.clone();
    if options.dry_run.is_empty() && !call.dry_run()? {
        let preconditions = options.preconditions.clone().unwrap_or_default();
        let now = call.now_text();
        let edit = move |doc: &mut Doc<'_>| -> Result<(), Status> {
            let differs = |asked: &Option<String>, have: &str| {
                asked
                    .as_deref()
                    .is_some_and(|asked| !asked.is_empty() && asked != have)
            };
            let (uid, version) = (doc.meta("uid"), doc.meta("resourceVersion"));
            if differs(&preconditions.uid, uid) || differs(&preconditions.resource_version, version)
            {
                let why = "the precondition does not match the object in record. The object might \
                           have been modified, or deleted and then recreated";
                return Err(Status::conflict("", "pods", doc.name(), why));
            }
            let texts = [
                ("type", "DisruptionTarget"),
                ("status", "True"),
                ("reason", "EvictionByEvictionAPI"),
                ("message", "Eviction API: evicting"),
            ];
            set_condition(doc, &texts, &now, None);
            Ok(())
        };
        let answer = attempt::update(call, "status", &Update::With(&edit)).await?;
        if version(&options).is_some() {
            let marked: serde_json::Value =
                serde_json::from_slice(&answer.json).map_err(Status::internal)?;
            let version = marked["metadata"]["resourceVersion"].as_str();
            let preconditions = options.preconditions.get_or_insert_default();
            preconditions.resource_version = version.map(str::to_owned);
        }
    }
    delete::delete_one(call, namespace, name, &options).await?;
    Ok(())
}

fn success() -> Answer {
    let status =
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#;
    Answer {
        code: 201,
        json: status.into(),
        warnings: Vec::new(),
    }
}
