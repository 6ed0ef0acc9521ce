//! The RBAC objects every cluster has: upstream's bootstrap policy from the facts, the bindings that
//! let machines join, and the role of the agents' network half.
//!
//! Ports of `pkg/registry/rbac/rest/storage_rbac.go` (what is ensured at start) and
//! `cmd/kubeadm/app/phases/bootstraptoken/node/tlsbootstrap.go` (joining). Produces objects; writing
//! them is the business of `bootstrap`.

use std::collections::BTreeMap;

use api::Facts;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bootstrap_token::GROUP_BOOTSTRAPPERS;
use super::reconcile::{self, Reconciled};
use super::rule::PolicyRule;

const GROUP: &str = "rbac.authorization.k8s.io";
const VERSION: &str = "v1";
/// Group of the agents' network half, and the roles bound to it.
const NET: &str = "windlass:net";
/// Secret with the seed of the datapath's hash; nobody but the network halves may read it.
const DATAPATH_SECRET: &str = "windlass-datapath";
const SYSTEM: &str = "kube-system";
const APPROVER: &str = "windlass:approve-node-certificates";

/// An object that must exist, in a namespace (`""`: cluster-scoped).
#[derive(Clone, Debug)]
pub struct Seed {
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub namespace: String,
    pub name: String,
    /// Complete JSON with kind and apiVersion. Aggregated roles come with the rules they collect, so
    /// that they grant them from the first request on.
    pub json: Value,
    /// What it needs when it exists: (existing, expected).
    pub reconcile: fn(&Value, &Value) -> Reconciled,
}

/// Everything, roles before the bindings that name them.
pub fn seeds() -> Vec<Seed> {
    let facts = &Facts::get().rbac;
    let parse = |raw: &[&'static serde_json::value::RawValue]| -> Vec<Value> {
        raw.iter()
            .filter_map(|raw| serde_json::from_str(raw.get()).ok())
            .collect()
    };
    let mut cluster_roles = parse(&facts.cluster_roles);
    fill_aggregated(&mut cluster_roles);
    cluster_roles.push(net_role());
    cluster_roles.push(approver_role());
    let mut cluster_bindings = parse(&facts.cluster_role_bindings);
    cluster_bindings.extend(join_bindings());
    let (mut roles, mut bindings) = (parse(&facts.roles), parse(&facts.role_bindings));
    roles.push(seed_role());
    bindings.push(seed_binding());
    let mut seeds = Vec::new();
    let kinds = [
        ("ClusterRole", "clusterroles", cluster_roles),
        ("Role", "roles", roles),
        (
            "ClusterRoleBinding",
            "clusterrolebindings",
            cluster_bindings,
        ),
        ("RoleBinding", "rolebindings", bindings),
    ];
    for (kind, resource, objects) in kinds {
        seeds.extend(
            objects
                .into_iter()
                .map(|object| seed(kind, resource, object)),
        );
    }
    seeds
}

/// The rules nodes have whatever node they are: those of the role `system:node`.
pub fn node_rules() -> Vec<PolicyRule> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Role {
        metadata: Meta,
        rules: Vec<PolicyRule>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Meta {
        name: String,
    }
    Facts::get()
        .rbac
        .cluster_roles
        .iter()
        .filter_map(|raw| serde_json::from_str::<Role>(raw.get()).ok())
        .find(|role| role.metadata.name == "system:node")
        .map(|role| role.rules)
        .unwrap_or_default()
}

fn seed(kind: &str, resource: &'static str, mut object: Value) -> Seed {
    object["kind"] = kind.into();
    object["apiVersion"] = format!("{GROUP}/{VERSION}").into();
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    Seed {
        group: GROUP,
        version: VERSION,
        resource,
        namespace: text("namespace"),
        name: text("name"),
        reconcile: if resource.ends_with("bindings") {
            reconcile::binding
        } else {
            reconcile::role
        },
        json: object,
    }
}

/// A role as aggregation sees it.
struct Known {
    name: String,
    labels: BTreeMap<String, String>,
    rules: Vec<PolicyRule>,
}

/// The rules of every other role that a selector matches, each once, in the order the controller
/// writes them (`controllers::aggregation`), so that it finds nothing to do.
fn aggregate(
    name: &str,
    selectors: &[BTreeMap<String, String>],
    known: &[Known],
) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let matches = |role: &&Known| {
            role.name != name
                && selector
                    .iter()
                    .all(|(key, value)| role.labels.get(key) == Some(value))
        };
        for rule in known.iter().filter(matches).flat_map(|role| &role.rules) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

/// Gives `admin`, `edit` and `view` the rules their selectors collect, until nothing changes
/// (they collect each other).
fn fill_aggregated(roles: &mut [Value]) {
    type Labels = BTreeMap<String, String>;
    let labels_of =
        |value: &Value| -> Labels { serde_json::from_value(value.clone()).unwrap_or_default() };
    let name_of = |role: &Value| role["metadata"]["name"].as_str().unwrap_or("").to_owned();
    loop {
        let mut known: Vec<Known> = roles
            .iter()
            .map(|role| Known {
                name: name_of(role),
                labels: labels_of(&role["metadata"]["labels"]),
                rules: serde_json::from_value(role["rules"].clone()).unwrap_or_default(),
            })
            .collect();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        let mut changed = false;
        for role in roles.iter_mut() {
            let Some(selectors) = role["aggregationRule"]["clusterRoleSelectors"].as_array() else {
                continue;
            };
            let selectors: Vec<Labels> = selectors
                .iter()
                .map(|selector| labels_of(&selector["matchLabels"]))
                .collect();
            let rules = json!(aggregate(&name_of(role), &selectors, &known));
            changed |= role["rules"] != rules;
            role["rules"] = rules;
        }
        if !changed {
            return;
        }
    }
}

fn net_role() -> Value {
    let read = ["get", "list", "watch"];
    json!({
        "metadata": {"name": NET, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": [
            {"apiGroups": [""], "resources": ["nodes", "services", "namespaces", "pods"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
            {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
            {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
            // It renews its own certificate.
            {
                "apiGroups": ["certificates.k8s.io"],
                "resources": ["certificatesigningrequests"],
                "verbs": ["create", "get", "list", "watch"],
            },
        ],
    })
}

/// Lets the network halves read the seed of the datapath's hash.
fn seed_role() -> Value {
    json!({
        "metadata": {
            "name": NET,
            "namespace": SYSTEM,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
        "rules": [{
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": [DATAPATH_SECRET],
            "verbs": ["get"],
        }],
    })
}

fn seed_binding() -> Value {
    json!({
        "metadata": {"name": NET, "namespace": SYSTEM},
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": NET},
        "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": NET}],
    })
}

/// The certificate controller also approves what upstream leaves to an operator: nodes' serving
/// certificates and the client certificates of their network halves.
fn approver_role() -> Value {
    json!({
        "metadata": {
            "name": APPROVER,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
        "rules": [{
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["signers"],
            "resourceNames": [
                "kubernetes.io/kubelet-serving",
                "kubernetes.io/kube-apiserver-client",
            ],
            "verbs": ["approve"],
        }],
    })
}

fn join_bindings() -> [Value; 5] {
    let bind = |name: &str, role: &str, group: &str| {
        json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": group}],
        })
    };
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    [
        bind(
            "windlass:bootstrap",
            "system:node-bootstrapper",
            GROUP_BOOTSTRAPPERS,
        ),
        bind(
            "windlass:approve-bootstrap",
            &format!("{requests}:nodeclient"),
            GROUP_BOOTSTRAPPERS,
        ),
        bind(
            "windlass:approve-rotation",
            &format!("{requests}:selfnodeclient"),
            "system:nodes",
        ),
        bind(NET, NET, NET),
        json!({
            "metadata": {"name": APPROVER},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": APPROVER},
            "subjects": [{
                "kind": "ServiceAccount",
                "namespace": "kube-system",
                "name": "certificate-controller",
            }],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregated_roles_get_the_rules_of_what_they_select_also_through_each_other() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let role = |name: &str, label: Option<&str>, selects: Option<&str>, rules: Value| {
            let mut role = json!({"metadata": {"name": name}, "rules": rules});
            if let Some(label) = label {
                role["metadata"]["labels"] = json!({ label: "true" });
            }
            if let Some(label) = selects {
                let selector = json!([{"matchLabels": {label: "true"}}]);
                role["aggregationRule"] = json!({"clusterRoleSelectors": selector});
            }
            role
        };
        let mut roles = [
            role("admin", None, Some("to-admin"), Value::Null),
            role("edit", Some("to-admin"), Some("to-edit"), Value::Null),
            role(
                "aggregate-to-edit",
                Some("to-edit"),
                None,
                json!([rule("update")]),
            ),
            role(
                "aggregate-to-admin",
                Some("to-admin"),
                None,
                json!([rule("delete")]),
            ),
        ];
        fill_aggregated(&mut roles);
        assert_eq!(roles[1]["rules"], json!([rule("update")]));
        assert_eq!(roles[0]["rules"], json!([rule("delete"), rule("update")]));
    }

    #[test]
    fn the_bindings_of_joining_are_there() {
        let names: Vec<String> = seeds().into_iter().map(|seed| seed.name).collect();
        for name in [
            "windlass:bootstrap",
            "windlass:approve-bootstrap",
            "windlass:approve-node-certificates",
            "windlass:net",
        ] {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
    }
}
