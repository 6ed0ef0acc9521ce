//! What is odd about a pod or template that is valid.
//!
//! Port of `pkg/api/pod/warnings.go` and of its helpers in `pkg/api/node` and
//! `pkg/api/persistentvolumeclaim`.

use super::annotation::{APP_ARMOR, of};
use super::options::containers;
use super::{profile, resources};
use crate::doc::{Object, Value};
use crate::status::quote;
use crate::validate::ip;
use crate::validate::names::label_value;

mod overlap;
mod ports;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const DEPRECATED_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];
const DEPRECATED_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Volumes that nothing mounts any more, in upstream's order.
const DEPRECATED_VOLUMES: [(&str, &str); 7] = [
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
];
const DEPRECATED_VOLUMES_LATER: [(&str, &str); 2] = [
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const SECCOMP_FIELD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APP_ARMOR_FIELD: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Warnings about a pod (`at` is "" then) or a template at a path (`spec.template.`).
pub(crate) fn warnings(object: &Value<'_>, at: &str) -> Vec<String> {
    let mut out = Vec::new();
    let spec = object.get("spec").unwrap_or(&Value::Null);
    nodes(spec, at, &mut out);
    for (key, text) in DEPRECATED_ANNOTATIONS {
        if of(object, key).is_some() {
            out.push(format!("{at}metadata.annotations[{key}]: {text}"));
        }
    }
    volumes(spec, at, &mut out);
    repeated(spec, at, &mut out);
    for (name, amount) in bytes(spec.get("overhead")) {
        out.push(fractional(&format!("{at}spec.overhead[{name}]"), amount));
    }
    of_containers(object, spec, at, &mut out);
    ports::warnings(spec, at, &mut out);
    if spec
        .int_of("terminationGracePeriodSeconds")
        .is_some_and(|s| s < 0)
    {
        out.push(format!(
            "{at}spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and \
             will be treated as 1"
        ));
    }
    null_selectors(spec, at, &mut out);
    addresses(spec, at, &mut out);
    out
}

fn label(key: &str) -> Option<&'static str> {
    DEPRECATED_LABELS
        .iter()
        .find(|(label, _)| *label == key)
        .map(|(_, text)| *text)
}

/// Labels of nodes that are no longer used.
fn nodes(spec: &Value<'_>, at: &str, out: &mut Vec<String>) {
    let selector = spec.get("nodeSelector").and_then(Value::as_object);
    for (key, _) in selector.into_iter().flat_map(Object::iter) {
        if let Some(text) = label(key) {
            out.push(format!("{at}spec.nodeSelector[{key}]: {text}"));
        }
    }
    let affinity = spec
        .at(&["affinity", "nodeAffinity"])
        .unwrap_or(&Value::Null);
    let path = format!("{at}spec.affinity.nodeAffinity");
    let terms = affinity
        .get(REQUIRED)
        .map(|r| r.list_of("nodeSelectorTerms"))
        .unwrap_or_default();
    for (i, term) in terms.iter().enumerate() {
        node_term(
            term,
            false,
            &format!("{path}.{REQUIRED}.nodeSelectorTerms[{i}]"),
            out,
        );
    }
    for (i, term) in affinity.list_of(PREFERRED).iter().enumerate() {
        let preference = term.get("preference").unwrap_or(&Value::Null);
        node_term(
            preference,
            true,
            &format!("{path}.{PREFERRED}[{i}].preference"),
            out,
        );
    }
    for (i, constraint) in spec.list_of("topologySpreadConstraints").iter().enumerate() {
        let path = format!("{at}spec.topologySpreadConstraints[{i}]");
        let key = constraint.str_of("topologyKey").unwrap_or_default();
        if let Some(text) = label(key) {
            out.push(format!("{path}.topologyKey: {key} is {text}"));
        }
        if constraint.get("labelSelector").is_none() {
            out.push(format!("{path}.labelSelector: {NULL_SELECTOR}"));
        }
    }
}

fn node_term(term: &Value<'_>, check_values: bool, path: &str, out: &mut Vec<String>) {
    for (i, expression) in term.list_of("matchExpressions").iter().enumerate() {
        let key = expression.str_of("key").unwrap_or_default();
        if let Some(text) = label(key) {
            out.push(format!("{path}.matchExpressions[{i}].key: {key} is {text}"));
        }
        let values = expression
            .list_of("values")
            .iter()
            .filter_map(Value::as_str)
            .enumerate();
        for (v, value) in values.filter(|_| check_values) {
            for problem in label_value(value) {
                let path = format!("{path}.matchExpressions[{i}].values[{v}]");
                out.push(format!("{path}: {value} is invalid, {problem}"));
            }
        }
    }
}

fn volumes(spec: &Value<'_>, at: &str, out: &mut Vec<String>) {
    for (i, volume) in spec.list_of("volumes").iter().enumerate() {
        let path = format!("{at}spec.volumes[{i}]");
        let deprecated = |table: &[(&str, &str)], out: &mut Vec<String>| {
            for (kind, text) in table.iter().filter(|(kind, _)| volume.get(kind).is_some()) {
                out.push(format!("{path}.{kind}: {text}"));
            }
        };
        deprecated(&DEPRECATED_VOLUMES, out);
        let template = volume.at(&["ephemeral", "volumeClaimTemplate"]);
        if let Some(template) = template {
            let wanted = template.at(&["spec", "resources"]);
            for list in ["requests", "limits"] {
                let amount = resources::amount(wanted, list, "storage");
                if amount.is_some_and(|q| q.milli_value() % 1000 != 0) {
                    let text = wanted
                        .and_then(|w| w.at(&[list, "storage"]))
                        .and_then(Value::as_str);
                    let path = format!(
                        "{path}.ephemeral.volumeClaimTemplate.spec.resources.{list}[storage]"
                    );
                    out.push(fractional(&path, text.unwrap_or_default()));
                }
            }
        }
        deprecated(&DEPRECATED_VOLUMES_LATER, out);
    }
    overlap::warnings(spec, out);
}

fn fractional(path: &str, amount: &str) -> String {
    format!(
        "{path}: fractional byte value {} is invalid, must be an integer",
        quote(amount)
    )
}

/// Amounts of bytes in a list that are no whole numbers.
fn bytes<'a>(list: Option<&Value<'a>>) -> impl Iterator<Item = (&'static str, &'a str)> {
    let amounts = ["memory", "ephemeral-storage"].map(|name| {
        let text = list.and_then(|l| l.str_of(name));
        let quantity = text.and_then(|t| crate::quantity::Quantity::parse(t).ok());
        quantity
            .filter(|q| q.milli_value() % 1000 != 0)
            .and(text)
            .map(|text| (name, text))
    });
    amounts.into_iter().flatten()
}

/// The same thing twice where it should be once.
fn repeated(spec: &Value<'_>, at: &str, out: &mut Vec<String>) {
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen: Vec<&str> = Vec::new();
        for (i, item) in spec.list_of(list).iter().enumerate() {
            let text = item.str_of(field).unwrap_or_default();
            if seen.contains(&text) {
                let shown = quote(text);
                out.push(format!(
                    "{at}spec.{list}[{i}].{field}: duplicate {field} {shown}"
                ));
            }
            seen.push(text);
        }
    }
    for (i, secret) in spec.list_of("imagePullSecrets").iter().enumerate() {
        if secret.str_of("name").unwrap_or_default().is_empty() {
            out.push(format!(
                "{at}spec.imagePullSecrets[{i}].name: invalid empty name \"\""
            ));
        }
    }
}

fn of_containers(object: &Value<'_>, spec: &Value<'_>, at: &str, out: &mut Vec<String>) {
    if spec.at(&["securityContext", "seccompProfile"]).is_none()
        && of(object, SECCOMP_POD).is_some()
    {
        out.push(format!(
            "{at}metadata.annotations[{SECCOMP_POD}]: {SECCOMP_FIELD}"
        ));
    }
    let arena = bumpalo::Bump::new();
    for (list, i, container) in containers(spec) {
        let name = container.str_of("name").unwrap_or_default();
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if container
            .at(&["securityContext", "seccompProfile"])
            .is_none()
            && of(object, &key).is_some()
        {
            out.push(format!("{at}metadata.annotations[{key}]: {SECCOMP_FIELD}"));
        }
        // Pods get this warning when the annotation is made a field.
        let key = format!("{APP_ARMOR}{name}");
        let own = container.at(&["securityContext", "appArmorProfile"]);
        if let (false, None, Some(text)) = (at.is_empty(), own, of(object, &key)) {
            let of_pod = spec.at(&["securityContext", "appArmorProfile"]);
            let stands_for = profile::meaning(text, &arena);
            if of_pod.is_none() || of_pod != stands_for.as_ref() {
                out.push(format!(
                    "{at}metadata.annotations[{key}]: {APP_ARMOR_FIELD}"
                ));
            }
        }
        let path = format!("{at}spec.{list}[{i}]");
        amounts(container, &path, out);
        hidden_variables(container, &path, out);
    }
}

fn amounts(container: &Value<'_>, path: &str, out: &mut Vec<String>) {
    let of = |list: &str| bytes(container.at(&["resources", list])).collect::<Vec<_>>();
    let (limits, requests) = (of("limits"), of("requests"));
    for name in ["memory", "ephemeral-storage"] {
        for (list, amounts) in [("limits", &limits), ("requests", &requests)] {
            for (_, amount) in amounts.iter().filter(|(n, _)| *n == name) {
                out.push(fractional(
                    &format!("{path}.resources.{list}[{name}]"),
                    amount,
                ));
            }
        }
    }
}

/// A variable that is defined again, and not in terms of itself.
fn hidden_variables(container: &Value<'_>, path: &str, out: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, variable) in container.list_of("env").iter().enumerate() {
        let name = variable.str_of("name").unwrap_or_default();
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        let value = variable.str_of("value").unwrap_or_default();
        let reference = format!("$({name})");
        let bad = variable.get("valueFrom").is_some()
            || value == reference
            || !value.contains(&reference);
        if bad {
            let shown = quote(name);
            out.push(format!(
                "{path}.env[{i}]: hides previous definition of {shown}, which may be dropped when \
                 using apply"
            ));
        }
    }
}

fn null_selectors(spec: &Value<'_>, at: &str, out: &mut Vec<String>) {
    for name in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = spec.at(&["affinity", name]) else {
            continue;
        };
        for (list, below) in [(REQUIRED, ""), (PREFERRED, "podAffinityTerm.")] {
            for (i, term) in pods.list_of(list).iter().enumerate() {
                let selector = match below {
                    "" => term.get("labelSelector"),
                    _ => term.at(&["podAffinityTerm", "labelSelector"]),
                };
                if selector.is_none() {
                    let path = format!("{at}spec.affinity.{name}.{list}[{i}].{below}labelSelector");
                    out.push(format!("{path}: {NULL_SELECTOR}"));
                }
            }
        }
    }
}

fn addresses(spec: &Value<'_>, at: &str, out: &mut Vec<String>) {
    let servers = spec
        .get("dnsConfig")
        .map(|c| c.list_of("nameservers"))
        .unwrap_or_default();
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        out.extend(ip::ip_warning(
            server,
            &format!("{at}spec.dnsConfig.nameservers[{i}]"),
        ));
    }
    for (i, alias) in spec.list_of("hostAliases").iter().enumerate() {
        let address = alias.str_of("ip").unwrap_or_default();
        out.extend(ip::ip_warning(
            address,
            &format!("{at}spec.hostAliases[{i}].ip"),
        ));
    }
}

/// Warnings about an updated status.
pub(crate) fn status_warnings(pod: &Value<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for list in ["podIPs", "hostIPs"] {
        let items = pod
            .get("status")
            .map(|s| s.list_of(list))
            .unwrap_or_default();
        for (i, item) in items.iter().enumerate() {
            let address = item.str_of("ip").unwrap_or_default();
            out.extend(ip::ip_warning(address, &format!("status.{list}[{i}].ip")));
        }
    }
    out
}

/// Warnings about annotations that are made fields of a new pod.
pub(super) fn app_armor_warning(key: &str) -> String {
    format!("metadata.annotations[{key}]: {APP_ARMOR_FIELD}")
}
