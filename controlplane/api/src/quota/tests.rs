//! Quotas and the objects they count.

use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn quota(spec: Value, used: Value) -> Quota {
    let hard = spec["hard"].clone();
    let object = json!({
        "metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used},
    });
    Quota::read(object.to_string().as_bytes()).unwrap()
}

fn item(group: &str, plural: &str, object: &Value) -> Item {
    Item::read(group, plural, object.to_string().as_bytes()).unwrap()
}

fn pod(resources: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
}

fn create(quota: &Quota, item: &Item) -> Result<Option<String>, String> {
    let used = quota.check(item, None, Operation::Create, NOW)?;
    Ok(used.map(|used| used.to_string()))
}

#[test]
fn a_pod_is_charged_until_the_quota_is_exceeded() {
    let spec = json!({"hard": {"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"}});
    let used = json!({"pods": "1", "requests.cpu": "500m", "limits.memory": "0"});
    let quota = quota(spec, used);
    let fits = pod(json!({"requests": {"cpu": "500m"}, "limits": {"memory": "512Mi"}}));
    assert_eq!(
        create(&quota, &item("", "pods", &fits)).unwrap().unwrap(),
        "limits.memory=512Mi,pods=2,requests.cpu=1"
    );
    let large = pod(json!({"requests": {"cpu": "600m"}, "limits": {"memory": "2Gi"}}));
    assert_eq!(
        create(&quota, &item("", "pods", &large)).unwrap_err(),
        "exceeded quota: q, requested: limits.memory=2Gi,requests.cpu=600m, used: \
         limits.memory=0,requests.cpu=500m, limited: limits.memory=1Gi,requests.cpu=1"
    );
}

#[test]
fn a_quota_of_cpu_makes_containers_say_what_they_need() {
    let quota = quota(
        json!({"hard": {"cpu": "1", "limits.memory": "1Gi"}}),
        json!({"cpu": "0", "limits.memory": "0"}),
    );
    let silent = pod(json!({}));
    assert_eq!(
        create(&quota, &item("", "pods", &silent)).unwrap_err(),
        "failed quota: q: must specify cpu for: c; limits.memory for: c"
    );
    let mut whole = pod(json!({}));
    whole["spec"]["resources"] = json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}});
    assert!(create(&quota, &item("", "pods", &whole)).is_ok());
}

#[test]
fn a_quota_without_status_allows_nothing_it_counts() {
    let quota = quota(json!({"hard": {"configmaps": "3"}}), json!({}));
    let object = json!({});
    assert_eq!(
        create(&quota, &item("", "configmaps", &object)).unwrap_err(),
        "status unknown for quota: q, resources: configmaps"
    );
    assert_eq!(create(&quota, &item("", "secrets", &object)), Ok(None));
}

#[test]
fn objects_are_counted_by_kind_and_by_the_old_names() {
    let hard = json!({"count/deployments.apps": "1", "count/secrets": "5", "secrets": "1"});
    let used = json!({"count/deployments.apps": "0", "count/secrets": "0", "secrets": "0"});
    let quota = quota(json!({"hard": hard}), used);
    let object = json!({});
    let used = |group, plural| {
        create(&quota, &item(group, plural, &object))
            .unwrap()
            .unwrap()
    };
    assert!(used("apps", "deployments").contains("count/deployments.apps=1"));
    assert!(used("", "secrets").contains("count/secrets=1,secrets=1"));
}

#[test]
fn scopes_say_which_pods_count() {
    let of = |scope: &str, object: &Value| {
        let quota = quota(
            json!({"hard": {"pods": "1"}, "scopes": [scope]}),
            json!({"pods": "0"}),
        );
        create(&quota, &item("", "pods", object)).unwrap().is_some()
    };
    let plain = pod(json!({}));
    let burstable = pod(json!({"requests": {"cpu": "1m"}}));
    let mut ending = plain.clone();
    ending["spec"]["activeDeadlineSeconds"] = 5.into();
    for (scope, object, counts) in [
        ("BestEffort", &plain, true),
        ("BestEffort", &burstable, false),
        ("NotBestEffort", &burstable, true),
        ("Terminating", &plain, false),
        ("Terminating", &ending, true),
        ("NotTerminating", &ending, false),
    ] {
        assert_eq!(of(scope, object), counts, "{scope} {object}");
    }
    let selector = json!({"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]},
    ]});
    let quota = quota(
        json!({"hard": {"pods": "1"}, "scopeSelector": selector}),
        json!({"pods": "0"}),
    );
    let mut high = plain.clone();
    high["spec"]["priorityClassName"] = "high".into();
    assert_eq!(create(&quota, &item("", "pods", &plain)), Ok(None));
    assert!(create(&quota, &item("", "pods", &high)).unwrap().is_some());
}

#[test]
fn an_update_is_charged_by_what_it_adds() {
    let service = |type_: &str, ports: usize| {
        let ports = vec![json!({"port": 80}); ports];
        item(
            "",
            "services",
            &json!({"spec": {"type": type_, "ports": ports}}),
        )
    };
    let hard = json!({"services": "5", "services.nodeports": "2"});
    let quota = quota(
        json!({"hard": hard}),
        json!({"services": "1", "services.nodeports": "0"}),
    );
    let (old, new) = (service("ClusterIP", 2), service("NodePort", 2));
    let update = Operation::Update("");
    let used = quota.check(&new, Some(&old), update, NOW).unwrap().unwrap();
    assert_eq!(used.to_string(), "services=1,services.nodeports=2");
    assert_eq!(quota.check(&old, Some(&new), update, NOW), Ok(None));
    let many = service("NodePort", 3);
    assert!(quota.check(&many, Some(&old), update, NOW).is_err());
}

#[test]
fn finished_and_stuck_pods_free_what_they_used() {
    let quota = quota(json!({"hard": {"pods": "5", "count/pods": "5"}}), json!({}));
    let mut finished = pod(json!({}));
    finished["status"] = json!({"phase": "Succeeded"});
    let mut stuck = pod(json!({}));
    stuck["metadata"] = json!({
        "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30,
    });
    let items = [pod(json!({})), finished, stuck].map(|object| item("", "pods", &object));
    let used = quota.recount(("", "pods"), items.iter().map(|item| (item, 1)), NOW);
    assert_eq!(used.to_string(), "count/pods=3,pods=1");
}

#[test]
fn init_containers_and_overhead_count_as_the_scheduler_counts_them() {
    let object = json!({"spec": {
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}],
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
            {"name": "i", "resources": {"requests": {"cpu": "200m"}}},
        ],
        "overhead": {"cpu": "10m"},
    }});
    let usage = item("", "pods", &object).usage(NOW);
    assert_eq!(usage.get("requests.cpu").unwrap().to_string(), "260m");
}

#[test]
fn claims_count_by_class_and_in_whole_bytes() {
    let object = json!({"spec": {
        "storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}},
    }});
    let usage = item("", "persistentvolumeclaims", &object).usage(NOW);
    let get = |name: &str| usage.get(name).unwrap().to_string();
    assert_eq!(get("requests.storage"), "2");
    assert_eq!(
        get("gold.storageclass.storage.k8s.io/requests.storage"),
        "2"
    );
    assert_eq!(
        get("gold.storageclass.storage.k8s.io/persistentvolumeclaims"),
        "1"
    );
}

#[test]
fn a_quota_counts_only_kinds_it_names() {
    let quota = quota(
        json!({"hard": {"pods": "1", "count/jobs.batch": "2", "count/events": "1"}}),
        json!({}),
    );
    for (group, plural, counted) in [
        ("", "pods", true),
        ("batch", "jobs", true),
        ("", "events", false),
        ("", "secrets", false),
    ] {
        assert_eq!(counts(&quota.spec_hard, group, plural), counted, "{plural}");
    }
    let jobs = Item::counted("batch", "jobs");
    let used = |number| {
        quota
            .recount(("batch", "jobs"), [(&jobs, number)], NOW)
            .to_string()
    };
    assert_eq!(used(0), "count/jobs.batch=0");
    assert_eq!(used(7), "count/jobs.batch=7");
}
