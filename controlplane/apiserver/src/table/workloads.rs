//! Rows of the kinds that keep pods running.

use serde_json::{Value, json};

use super::human::{
    NONE, age, containers, duration, int, labels, list, selector, selector_or_none, since, text_or,
    unix,
};

fn created(object: &Value, now: i64) -> Value {
    age(&object["metadata"]["creationTimestamp"], now)
}

pub fn deployment(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [names, images] = containers(&spec["template"]["spec"]);
    vec![
        object["metadata"]["name"].clone(),
        format!(
            "{}/{}",
            int(&status["readyReplicas"]),
            int(&spec["replicas"])
        )
        .into(),
        int(&status["updatedReplicas"]).into(),
        int(&status["availableReplicas"]).into(),
        created(object, now),
        names,
        images,
        selector(&spec["selector"]).into(),
    ]
}

pub fn replica_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [names, images] = containers(&spec["template"]["spec"]);
    vec![
        object["metadata"]["name"].clone(),
        int(&spec["replicas"]).into(),
        int(&status["replicas"]).into(),
        int(&status["readyReplicas"]).into(),
        created(object, now),
        names,
        images,
        selector_or_none(&spec["selector"]).into(),
    ]
}

pub fn replication_controller(object: &Value, now: i64) -> Vec<Value> {
    let mut cells = replica_set(object, now);
    cells[7] = labels(&object["spec"]["selector"]).into();
    cells
}

pub fn stateful_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [names, images] = containers(&spec["template"]["spec"]);
    vec![
        object["metadata"]["name"].clone(),
        format!(
            "{}/{}",
            int(&status["readyReplicas"]),
            int(&spec["replicas"])
        )
        .into(),
        created(object, now),
        names,
        images,
    ]
}

pub fn daemon_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let pods = &spec["template"]["spec"];
    let [names, images] = containers(pods);
    vec![
        object["metadata"]["name"].clone(),
        int(&status["desiredNumberScheduled"]).into(),
        int(&status["currentNumberScheduled"]).into(),
        int(&status["numberReady"]).into(),
        int(&status["updatedNumberScheduled"]).into(),
        int(&status["numberAvailable"]).into(),
        labels(&pods["nodeSelector"]).into(),
        created(object, now),
        names,
        images,
        selector_or_none(&spec["selector"]).into(),
    ]
}

pub fn controller_revision(object: &Value, now: i64) -> Vec<Value> {
    let owners = list(&object["metadata"]["ownerReferences"]);
    let owner = owners
        .iter()
        .find(|owner| owner["controller"] == true)
        .map(|owner| {
            let kind = text_or(&owner["kind"], "").to_lowercase();
            let group = text_or(&owner["apiVersion"], "")
                .split_once('/')
                .map_or("", |(g, _)| g);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", text_or(&owner["name"], ""))
        });
    vec![
        object["metadata"]["name"].clone(),
        owner.unwrap_or_else(|| NONE.to_owned()).into(),
        int(&object["revision"]).into(),
        created(object, now),
    ]
}

pub fn job(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let succeeded = int(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), int(&spec["parallelism"])) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let took = unix(&status["startTime"])
        .map(|start| duration(unix(&status["completionTime"]).unwrap_or(now) - start));
    let [names, images] = containers(&spec["template"]["spec"]);
    vec![
        object["metadata"]["name"].clone(),
        job_status(object).into(),
        completions.into(),
        took.unwrap_or_default().into(),
        created(object, now),
        names,
        images,
        selector_or_none(&spec["selector"]).into(),
    ]
}

fn job_status(object: &Value) -> &'static str {
    let holds = |ty: &str| {
        list(&object["status"]["conditions"])
            .iter()
            .find(|condition| condition["type"] == ty)
            .is_some_and(|condition| condition["status"] == "True")
    };
    if holds("Complete") {
        return "Complete";
    }
    if holds("Failed") {
        return "Failed";
    }
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
        .into_iter()
        .find(|ty| holds(ty))
        .unwrap_or("Running")
}

pub fn cron_job(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let template = &spec["jobTemplate"]["spec"];
    let [names, images] = containers(&template["template"]["spec"]);
    let last = &status["lastScheduleTime"];
    vec![
        object["metadata"]["name"].clone(),
        text_or(&spec["schedule"], "").into(),
        text_or(&spec["timeZone"], NONE).into(),
        match spec["suspend"].as_bool() {
            Some(true) => json!("True"),
            Some(false) => json!("False"),
            None => json!("<unset>"),
        },
        list(&status["active"]).len().into(),
        if last.is_null() {
            json!(NONE)
        } else {
            since(last, now).into()
        },
        created(object, now),
        names,
        images,
        selector_or_none(&template["selector"]).into(),
    ]
}
