//! Which function makes the cells of which kind, and the functions of the simpler kinds.

use std::collections::BTreeSet;

use api::Resource;
use serde_json::{Value, json};

use super::human::{
    NONE, age, duration, first_three, int, labels, list, selector_or_none, since, text_or,
};
use super::{pod, workloads};

/// Makes a row's cells from an object and the time in Unix seconds.
pub type Cells = fn(&Value, i64) -> Vec<Value>;

const ROLE_LABEL: &str = "node-role.kubernetes.io/";

/// The cells of a resource, if they are ported.
pub fn of(resource: &Resource) -> Option<Cells> {
    Some(match (resource.group, resource.plural) {
        ("", "configmaps") => config_map,
        ("", "endpoints") => endpoints,
        ("" | "events.k8s.io", "events") => event,
        ("", "namespaces") => namespace,
        ("", "nodes") => node,
        ("", "pods") => pod::cells,
        ("", "replicationcontrollers") => workloads::replication_controller,
        ("", "secrets") => secret,
        ("", "serviceaccounts") => name_and_age,
        ("", "services") => service,
        ("apps", "controllerrevisions") => workloads::controller_revision,
        ("apps", "daemonsets") => workloads::daemon_set,
        ("apps", "deployments") => workloads::deployment,
        ("apps", "replicasets") => workloads::replica_set,
        ("apps", "statefulsets") => workloads::stateful_set,
        ("batch", "cronjobs") => workloads::cron_job,
        ("batch", "jobs") => workloads::job,
        ("certificates.k8s.io", "certificatesigningrequests") => signing_request,
        ("certificates.k8s.io", "podcertificaterequests") => pod_certificate_request,
        ("coordination.k8s.io", "leases") => lease,
        ("discovery.k8s.io", "endpointslices") => endpoint_slice,
        ("networking.k8s.io", "ipaddresses") => ip_address,
        ("networking.k8s.io", "networkpolicies") => network_policy,
        ("networking.k8s.io", "servicecidrs") => service_cidr,
        ("node.k8s.io", "runtimeclasses") => runtime_class,
        ("policy", "poddisruptionbudgets") => disruption_budget,
        ("rbac.authorization.k8s.io", "clusterrolebindings" | "rolebindings") => binding,
        ("scheduling.k8s.io", "priorityclasses") => priority_class,
        _ => return None,
    })
}

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

fn created(object: &Value, now: i64) -> Value {
    age(&object["metadata"]["creationTimestamp"], now)
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn name_and_age(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), created(object, now)]
}

fn config_map(object: &Value, now: i64) -> Vec<Value> {
    let entries = count(&object["data"]) + count(&object["binaryData"]);
    vec![name(object), entries.into(), created(object, now)]
}

fn secret(object: &Value, now: i64) -> Vec<Value> {
    let kind = text_or(&object["type"], "");
    vec![
        name(object),
        kind.into(),
        count(&object["data"]).into(),
        created(object, now),
    ]
}

fn namespace(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text_or(&object["status"]["phase"], "").into(),
        created(object, now),
    ]
}

fn lease(object: &Value, now: i64) -> Vec<Value> {
    let holder = text_or(&object["spec"]["holderIdentity"], "");
    vec![name(object), holder.into(), created(object, now)]
}

fn network_policy(object: &Value, now: i64) -> Vec<Value> {
    let selector = selector_or_none(&object["spec"]["podSelector"]);
    vec![name(object), selector.into(), created(object, now)]
}

/// Has no age: upstream declares two columns.
fn ip_address(object: &Value, _now: i64) -> Vec<Value> {
    let parent = &object["spec"]["parentRef"];
    if parent.is_null() {
        return vec![name(object), NONE.into()];
    }
    let mut text = text_or(&parent["resource"], "").to_owned();
    if let Some(group) = parent["group"].as_str().filter(|group| !group.is_empty()) {
        text.push_str(&format!(".{group}"));
    }
    for part in ["namespace", "name"] {
        if let Some(part) = parent[part].as_str().filter(|part| !part.is_empty()) {
            text.push_str(&format!("/{part}"));
        }
    }
    vec![name(object), text.to_lowercase().into()]
}

fn service_cidr(object: &Value, now: i64) -> Vec<Value> {
    let cidrs: Vec<&str> = list(&object["spec"]["cidrs"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    vec![name(object), cidrs.join(",").into(), created(object, now)]
}

fn runtime_class(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text_or(&object["handler"], "").into(),
        created(object, now),
    ]
}

fn priority_class(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        int(&object["value"]).into(),
        (object["globalDefault"] == true).into(),
        created(object, now),
        text_or(&object["preemptionPolicy"], "").into(),
    ]
}

fn disruption_budget(object: &Value, now: i64) -> Vec<Value> {
    let bound = |value: &Value| match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => "N/A".to_owned(),
    };
    vec![
        name(object),
        bound(&object["spec"]["minAvailable"]).into(),
        bound(&object["spec"]["maxUnavailable"]).into(),
        int(&object["status"]["disruptionsAllowed"]).into(),
        created(object, now),
    ]
}

fn binding(object: &Value, now: i64) -> Vec<Value> {
    let role = &object["roleRef"];
    let subjects = |kind: &str| -> Value {
        let of_kind = list(&object["subjects"])
            .iter()
            .filter(|subject| subject["kind"] == kind);
        let names: Vec<String> = of_kind
            .map(|subject| {
                let name = text_or(&subject["name"], "");
                match text_or(&subject["namespace"], "") {
                    "" => name.to_owned(),
                    namespace => format!("{namespace}/{name}"),
                }
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        name(object),
        format!(
            "{}/{}",
            text_or(&role["kind"], ""),
            text_or(&role["name"], "")
        )
        .into(),
        created(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn signing_request(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let has = |ty: &str| list(&status["conditions"]).iter().any(|c| c["type"] == ty);
    let mut state = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text_or(&status["certificate"], "").is_empty() {
        state.push_str(",Issued");
    }
    let requested = spec["expirationSeconds"].as_i64().map(duration);
    vec![
        name(object),
        created(object, now),
        text_or(&spec["signerName"], NONE).into(),
        text_or(&spec["username"], "").into(),
        requested.unwrap_or_else(|| NONE.to_owned()).into(),
        state.into(),
    ]
}

fn pod_certificate_request(object: &Value, _: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let ends = list(&object["status"]["conditions"]).iter();
    let end = ends
        .filter_map(|condition| condition["type"].as_str())
        .rfind(|ty| matches!(*ty, "Issued" | "Denied" | "Failed"));
    let mut cells = vec![name(object)];
    for field in ["podName", "serviceAccountName", "nodeName", "signerName"] {
        cells.push(text_or(&spec[field], "").into());
    }
    cells.push(end.unwrap_or("Pending").into());
    cells.push(labels(&spec["unverifiedUserAnnotations"]).into());
    cells
}

fn endpoints(object: &Value, now: i64) -> Vec<Value> {
    let mut addresses = Vec::new();
    for subset in list(&object["subsets"]) {
        let ips = || {
            list(&subset["addresses"])
                .iter()
                .map(|a| text_or(&a["ip"], ""))
        };
        let ports = list(&subset["ports"]);
        if ports.is_empty() {
            addresses.extend(ips().map(str::to_owned));
        }
        for port in ports {
            let port = int(&port["port"]);
            addresses.extend(ips().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{port}"),
                false => format!("{ip}:{port}"),
            }));
        }
    }
    let shown = if list(&object["subsets"]).is_empty() {
        NONE.to_owned()
    } else {
        first_three(&addresses)
    };
    vec![name(object), shown.into(), created(object, now)]
}

fn endpoint_slice(object: &Value, now: i64) -> Vec<Value> {
    let or_unset = |items: Vec<String>| match first_three(&items) {
        shown if shown.is_empty() => "<unset>".to_owned(),
        shown => shown,
    };
    let ports = list(&object["ports"])
        .iter()
        .map(|port| match port["port"].as_i64() {
            Some(number) => number.to_string(),
            None => port["name"].as_str().unwrap_or("*").to_owned(),
        });
    let addresses = list(&object["endpoints"])
        .iter()
        .flat_map(|endpoint| list(&endpoint["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned));
    vec![
        name(object),
        text_or(&object["addressType"], "").into(),
        or_unset(ports.collect()).into(),
        or_unset(addresses.collect()).into(),
        created(object, now),
    ]
}

fn service(object: &Value, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let ports: Vec<String> = list(&spec["ports"])
        .iter()
        .map(|port| {
            let protocol = text_or(&port["protocol"], "");
            match int(&port["nodePort"]) {
                0 => format!("{}/{protocol}", int(&port["port"])),
                node_port => format!("{}:{node_port}/{protocol}", int(&port["port"])),
            }
        })
        .collect();
    let ports = if ports.is_empty() {
        NONE.to_owned()
    } else {
        ports.join(",")
    };
    vec![
        name(object),
        text_or(&spec["type"], "").into(),
        text_or(&spec["clusterIPs"][0], NONE).into(),
        external_address(object).into(),
        ports.into(),
        created(object, now),
        labels(&spec["selector"]).into(),
    ]
}

fn external_address(object: &Value) -> String {
    let spec = &object["spec"];
    let external = list(&spec["externalIPs"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned);
    let external: Vec<String> = external.collect();
    match text_or(&spec["type"], "") {
        "ExternalName" => text_or(&spec["externalName"], "").to_owned(),
        "LoadBalancer" => {
            let ingress = list(&object["status"]["loadBalancer"]["ingress"]).iter();
            let balancers: BTreeSet<String> = ingress
                .map(|entry| text_or(&entry["ip"], text_or(&entry["hostname"], "")).to_owned())
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<String> = balancers.into_iter().chain(external).collect();
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        "ClusterIP" | "NodePort" if external.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        _ => "<unknown>".to_owned(),
    }
}

fn node(object: &Value, now: i64) -> Vec<Value> {
    let (status, info) = (&object["status"], &object["status"]["nodeInfo"]);
    let ready = list(&status["conditions"])
        .iter()
        .find(|c| c["type"] == "Ready");
    let mut state = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let address = |ty: &str| -> Value {
        let found = list(&status["addresses"])
            .iter()
            .find(|address| address["type"] == ty);
        found
            .map_or(NONE, |address| text_or(&address["address"], NONE))
            .into()
    };
    let unknown = "<unknown>";
    let mut kernel = text_or(&info["kernelVersion"], unknown).to_owned();
    if let Some(architecture) = info["architecture"]
        .as_str()
        .filter(|text| !text.is_empty())
    {
        kernel.push_str(&format!(" ({architecture})"));
    }
    vec![
        name(object),
        state.into(),
        node_roles(&object["metadata"]["labels"]).into(),
        created(object, now),
        text_or(&info["kubeletVersion"], "").into(),
        address("InternalIP"),
        address("ExternalIP"),
        text_or(&info["osImage"], unknown).into(),
        kernel.into(),
        text_or(&info["containerRuntimeVersion"], unknown).into(),
    ]
}

fn node_roles(labels: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        match key.strip_prefix(ROLE_LABEL) {
            Some(role) if !role.is_empty() => roles.insert(role),
            None if key == "kubernetes.io/role" && !value.is_empty() => roles.insert(value),
            _ => false,
        };
    }
    if roles.is_empty() {
        return NONE.to_owned();
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

/// Of core and of events.k8s.io, which names some fields differently.
fn event(object: &Value, now: i64) -> Vec<Value> {
    let either = |core: &str, other: &str| -> &Value {
        if object[core].is_null() {
            &object[other]
        } else {
            &object[core]
        }
    };
    let first = match either("firstTimestamp", "deprecatedFirstTimestamp") {
        Value::Null => since(&object["eventTime"], now),
        time => since(time, now),
    };
    let series = &object["series"];
    let (last, count) = if series.is_null() {
        let last = match either("lastTimestamp", "deprecatedLastTimestamp") {
            Value::Null => first.clone(),
            time => since(time, now),
        };
        (last, int(either("count", "deprecatedCount")).max(1))
    } else {
        (
            since(&series["lastObservedTime"], now),
            int(&series["count"]),
        )
    };
    let about = either("involvedObject", "regarding");
    let kind = text_or(&about["kind"], "").to_lowercase();
    let target = match text_or(&about["name"], "") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = either("source", "deprecatedSource");
    let reporter = text_or(
        &object["reportingComponent"],
        text_or(&object["reportingController"], ""),
    );
    let component = text_or(&source["component"], reporter);
    let instance = text_or(&source["host"], text_or(&object["reportingInstance"], ""));
    let source = match instance {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    };
    vec![
        last.into(),
        text_or(&object["type"], "").into(),
        text_or(&object["reason"], "").into(),
        target.into(),
        text_or(&about["fieldPath"], "").into(),
        source.into(),
        text_or(either("message", "note"), "").trim().into(),
        first.into(),
        json!(count),
        name(object),
    ]
}
