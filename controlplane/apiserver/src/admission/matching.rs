//! Which requests a webhook or an admission policy is about: its rules, its selectors of namespaces
//! and of objects, and the versions of a resource that count as the same.
//!
//! Input: the matching part of a webhook (`rules`) or of a policy's `matchConstraints`
//! (`resourceRules`, `excludeResourceRules`), and what is asked. Output: the resource in the version
//! the rule names. Knows neither webhooks nor policies.
//! Port of `k8s.io/apiserver/pkg/admission/plugin/webhook/predicates` and
//! `k8s.io/apiserver/pkg/admission/plugin/policy/matching/matching.go`.

use std::{collections::HashMap, sync::Arc};

use api::{
    Doc, Facts, Resource, Status, Value,
    selector::{LabelSelector, SelectorError},
};

use crate::{
    cache::{Cache, Object},
    catalog::ResourceId,
};

const ANY: &str = "*";
/// The group of the configurations of webhooks, and of policies.
pub const GROUP: &str = "admissionregistration.k8s.io";
/// Kinds of it no webhook and no policy is asked about: they could not be undone.
const EXEMPT: [&str; 6] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// Something with labels: a document, a stored object.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

/// What is asked, as rules and selectors see it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub operation: Operation,
    /// In the version of the request.
    pub resource: &'a Resource,
    /// `""` for the object's own endpoint.
    pub subresource: &'a str,
    /// Of a namespace its own name; `""` for what is in none.
    pub namespace: &'a str,
    /// `""` for a creation whose name is yet to be made.
    pub name: &'a str,
    /// Absent for deletions.
    pub object: Option<&'a dyn Labels>,
    /// Absent for creations.
    pub old: Option<&'a dyn Labels>,
}

/// One rule: `RuleWithOperations`, or `NamedRuleWithOperations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// `resource`, `resource/subresource`, with `*` for either.
    resources: Vec<String>,
    /// None: both.
    namespaced: Option<bool>,
    /// Empty: all.
    names: Vec<String>,
}

/// The matching part of a webhook or a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// None: everything.
    rules: Option<Vec<Rule>>,
    excluded: Vec<Rule>,
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// Whether other versions of the same resource count (`matchPolicy: Equivalent`).
    equivalent: bool,
}

/// Of a list of matchings those that a resource may be about, found by its plural name.
#[derive(Clone, Debug, Default)]
pub struct Index {
    by_plural: HashMap<String, Vec<usize>>,
    /// For all other resources.
    any: Vec<usize>,
}

// === impl Operation ===

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

// === impl Labels ===

impl Labels for Doc<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.map_value(&["metadata", "labels"], key)
    }
}

impl Labels for Value<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "labels", key])?.as_str()
    }
}

impl Labels for Object {
    fn label(&self, key: &str) -> Option<&str> {
        Self::label(self, key)
    }
}

// === impl Rule ===

impl Rule {
    fn read(value: &Value<'_>) -> Self {
        let texts = |field: &str| -> Vec<String> {
            let list = value.list_of(field).iter().filter_map(Value::as_str);
            list.map(str::to_owned).collect()
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            namespaced: match value.str_of("scope") {
                Some("Namespaced") => Some(true),
                Some("Cluster") => Some(false),
                _ => None,
            },
            names: texts("resourceNames"),
        }
    }

    /// Whether it is about what is asked, taken as a request for `resource`.
    fn matches(&self, asked: &Asked<'_>, resource: &Resource) -> bool {
        self.has_scope(asked, resource)
            && has(&self.operations, asked.operation.as_str())
            && has(&self.groups, resource.group)
            && has(&self.versions, resource.version)
            && self.has_resource(resource.plural, asked.subresource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }

    fn has_scope(&self, asked: &Asked<'_>, resource: &Resource) -> bool {
        // A namespace is in its own, but no less of the cluster.
        let is_namespaced = !asked.namespace.is_empty() && !is_namespaces(resource);
        self.namespaced.is_none_or(|wanted| wanted == is_namespaced)
    }

    fn has_resource(&self, plural: &str, subresource: &str) -> bool {
        self.resources.iter().any(|text| {
            let (resource, sub) = text.split_once('/').unwrap_or((text, ""));
            (resource == ANY || resource == plural) && (sub == ANY || sub == subresource)
        })
    }
}

// === impl Matching ===

impl Matching {
    /// Of a webhook: without rules it is about nothing.
    pub fn of_webhook(webhook: &Value<'_>) -> Result<Self, SelectorError> {
        let rules = webhook.list_of("rules").iter().map(Rule::read);
        Self::new(webhook, Some(rules.collect()))
    }

    /// Of `matchConstraints` of a policy or `matchResources` of a binding: without rules it is about
    /// everything.
    pub fn of_policy(resources: &Value<'_>) -> Result<Self, SelectorError> {
        let rules = resources.list_of("resourceRules").iter().map(Rule::read);
        let rules: Vec<Rule> = rules.collect();
        Self::new(resources, Some(rules).filter(|rules| !rules.is_empty()))
    }

    fn new(value: &Value<'_>, rules: Option<Vec<Rule>>) -> Result<Self, SelectorError> {
        let excluded = value.list_of("excludeResourceRules").iter().map(Rule::read);
        Ok(Self {
            rules,
            excluded: excluded.collect(),
            namespaces: LabelSelector::from_value(value.get("namespaceSelector"))?,
            objects: LabelSelector::from_value(value.get("objectSelector"))?,
            equivalent: value.str_of("matchPolicy") == Some("Equivalent"),
        })
    }

    /// The resource in the version a rule is about; none when it is not about what is asked. Fails
    /// when it would be about it, but the namespace is not there.
    pub fn matches<'a>(
        &self,
        asked: &Asked<'a>,
        cache: &Cache,
    ) -> Result<Option<&'a Resource>, Status> {
        let Some(resource) = self.rules_match(asked) else {
            return Ok(None);
        };
        let selected = self.selects_object(asked) && self.selects_namespace(asked, cache)?;
        Ok(selected.then_some(resource))
    }

    /// [`Matching::matches`] without the selectors, which need the object.
    pub fn rules_match<'a>(&self, asked: &Asked<'a>) -> Option<&'a Resource> {
        if is_exempt(asked.resource) || self.find(&self.excluded, asked).is_some() {
            return None;
        }
        match &self.rules {
            None => Some(asked.resource),
            Some(rules) => self.find(rules, asked),
        }
    }

    fn find<'a>(&self, rules: &[Rule], asked: &Asked<'a>) -> Option<&'a Resource> {
        let exact = rules.iter().any(|rule| rule.matches(asked, asked.resource));
        if exact {
            return Some(asked.resource);
        }
        if !self.equivalent {
            return None;
        }
        rules.iter().find_map(|rule| {
            let mut others = equivalents(asked.resource, asked.subresource);
            others.find(|other| rule.matches(asked, other))
        })
    }

    fn selects_object(&self, asked: &Asked<'_>) -> bool {
        let objects = [asked.object, asked.old];
        self.objects.is_everything()
            || objects
                .into_iter()
                .flatten()
                .any(|object| self.objects.matches(|key| object.label(key)))
    }

    fn selects_namespace(&self, asked: &Asked<'_>, cache: &Cache) -> Result<bool, Status> {
        let of_namespace = is_namespaces(asked.resource);
        let exempts_nobody = asked.namespace.is_empty() && !of_namespace;
        if exempts_nobody || self.namespaces.is_everything() {
            return Ok(true);
        }
        let is_written = matches!(asked.operation, Operation::Create | Operation::Update);
        if let Some(object) = asked.object
            && of_namespace
            && asked.subresource.is_empty()
            && is_written
        {
            return Ok(self.namespaces.matches(|key| object.label(key)));
        }
        let namespaces = ResourceId::named("", "namespaces");
        let namespace: Arc<Object> = cache
            .get(namespaces, "", asked.namespace)
            .ok_or_else(|| Status::not_found("", "namespaces", asked.namespace))?;
        Ok(self.namespaces.matches(|key| namespace.label(key)))
    }

    /// The plural names its rules have; none when it may be about any.
    fn plurals(&self) -> Option<Vec<&str>> {
        let resources = self.rules.iter().flatten().flat_map(|rule| &rule.resources);
        let plurals = resources.map(|text| text.split('/').next().unwrap_or_default());
        let plurals: Vec<&str> = plurals.collect();
        let is_any = self.rules.is_none() || plurals.contains(&ANY);
        (!is_any).then_some(plurals)
    }
}

// === impl Index ===

impl Index {
    pub fn new<'m>(matchings: impl Iterator<Item = &'m Matching>) -> Self {
        let plurals: Vec<Option<Vec<&str>>> = matchings.map(Matching::plurals).collect();
        let mut index = Self::default();
        for plural in plurals.iter().flatten().flatten() {
            index.by_plural.entry((*plural).to_owned()).or_default();
        }
        for (at, plurals) in plurals.iter().enumerate() {
            if plurals.is_none() {
                index.any.push(at);
            }
            for (plural, list) in &mut index.by_plural {
                let names = plurals.as_ref();
                if names.is_none_or(|names| names.contains(&plural.as_str())) {
                    list.push(at);
                }
            }
        }
        index
    }

    /// Positions in the list the index was made of, in order.
    pub fn candidates(&self, plural: &str) -> &[usize] {
        if self.by_plural.is_empty() {
            return &self.any;
        }
        self.by_plural.get(plural).unwrap_or(&self.any)
    }
}

/// Whether webhooks and policies are never asked about a resource.
pub fn is_exempt(resource: &Resource) -> bool {
    resource.group == GROUP && EXEMPT.contains(&resource.kind)
}

/// The other versions (and homes) of a resource that have the subresource.
fn equivalents<'a>(
    resource: &'a Resource,
    subresource: &'a str,
) -> impl Iterator<Item = &'static Resource> + use<'a> {
    let rows = Facts::get().resources.iter();
    rows.filter(move |other| {
        other.plural == resource.plural
            && other.storage_group == resource.storage_group
            && (other.group, other.version) != (resource.group, resource.version)
            && (subresource.is_empty() || other.subresource(subresource).is_some())
    })
}

fn is_namespaces(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "namespaces"
}

fn has(items: &[String], wanted: &str) -> bool {
    items.iter().any(|item| item == ANY || item == wanted)
}

#[cfg(test)]
mod tests {
    use api::{Format, Type};
    use bumpalo::Bump;
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn matching(webhook: serde_json::Value) -> Matching {
        let arena = Bump::new();
        let text = arena.alloc_str(&webhook.to_string());
        let value = api::codec::parse(Format::Json, text.as_bytes(), &arena).unwrap();
        if webhook.get("rules").is_some() {
            Matching::of_webhook(&value).unwrap()
        } else {
            Matching::of_policy(&value).unwrap()
        }
    }

    fn rule(operations: &[&str], group: &str, version: &str, resource: &str) -> serde_json::Value {
        json!({"operations": operations, "apiGroups": [group], "apiVersions": [version],
               "resources": [resource]})
    }

    fn webhook(rule: serde_json::Value) -> serde_json::Value {
        json!({"rules": [rule], "namespaceSelector": {}, "objectSelector": {},
               "matchPolicy": "Equivalent"})
    }

    fn asked(resource: (&str, &str, &str), subresource: &'static str) -> Asked<'static> {
        let (group, version, plural) = resource;
        let resource = Facts::get().resource(group, version, plural).unwrap();
        Asked {
            operation: Operation::Create,
            resource,
            subresource,
            namespace: if resource.namespaced { "n" } else { "" },
            name: "x",
            object: None,
            old: None,
        }
    }

    const PODS: (&str, &str, &str) = ("", "v1", "pods");
    const EVENTS: (&str, &str, &str) = ("events.k8s.io", "v1", "events");

    #[test]
    fn a_rule_names_operations_groups_versions_and_resources() {
        let table = [
            (rule(&["CREATE"], "", "v1", "pods"), PODS, "", true),
            (rule(&["*"], "*", "*", "*"), PODS, "", true),
            (
                rule(&["UPDATE", "DELETE"], "", "v1", "pods"),
                PODS,
                "",
                false,
            ),
            (rule(&["CREATE"], "apps", "v1", "pods"), PODS, "", false),
            (rule(&["CREATE"], "", "v2", "pods"), PODS, "", false),
            (rule(&["CREATE"], "", "v1", "pods"), PODS, "status", false),
            (
                rule(&["CREATE"], "", "v1", "pods/status"),
                PODS,
                "status",
                true,
            ),
            (rule(&["CREATE"], "", "v1", "pods/*"), PODS, "status", true),
            (rule(&["CREATE"], "", "v1", "pods/*"), PODS, "", true),
            (
                rule(&["CREATE"], "", "v1", "*/status"),
                PODS,
                "status",
                true,
            ),
            (rule(&["CREATE"], "", "v1", "*"), PODS, "status", false),
            (rule(&["CREATE"], "", "v1", "*/*"), PODS, "status", true),
        ];
        for (rule, resource, subresource, want) in table {
            let matching = matching(webhook(rule.clone()));
            let found = matching.rules_match(&asked(resource, subresource));
            assert_eq!(found.is_some(), want, "{rule} {resource:?} {subresource}");
        }
    }

    #[test]
    fn another_version_counts_only_where_equivalents_do() {
        let mut object = webhook(rule(&["CREATE"], "", "v1", "events"));
        let found = matching(object.clone())
            .rules_match(&asked(EVENTS, ""))
            .map(|r| r.api_version());
        assert_eq!(found.as_deref(), Some("v1"));
        object["matchPolicy"] = "Exact".into();
        assert!(matching(object).rules_match(&asked(EVENTS, "")).is_none());
    }

    #[test]
    fn a_namespace_is_of_the_cluster() {
        let mut of_cluster = rule(&["*"], "*", "*", "*");
        of_cluster["scope"] = "Cluster".into();
        let mut namespaced = of_cluster.clone();
        namespaced["scope"] = "Namespaced".into();
        let namespace = Asked {
            namespace: "x",
            ..asked(("", "v1", "namespaces"), "")
        };
        let table = [
            (asked(PODS, ""), false),
            (asked(("", "v1", "nodes"), ""), true),
            (namespace, true),
        ];
        for (asked, want) in table {
            let is_of = |rule: &serde_json::Value| {
                matching(webhook(rule.clone()))
                    .rules_match(&asked)
                    .is_some()
            };
            assert_eq!((is_of(&of_cluster), is_of(&namespaced)), (want, !want));
        }
    }

    #[test]
    fn nobody_is_asked_about_what_says_who_is_asked() {
        let all = matching(webhook(rule(&["*"], "*", "*", "*")));
        for plural in [
            "validatingwebhookconfigurations",
            "mutatingadmissionpolicies",
        ] {
            let exempt = asked((GROUP, "v1", plural), "");
            assert!(all.rules_match(&exempt).is_none(), "{plural}");
        }
    }

    #[test]
    fn a_policy_excludes_and_names() {
        let named = |name: &str| {
            let mut rule = rule(&["*"], "", "v1", "pods");
            rule["resourceNames"] = json!([name]);
            rule
        };
        let policy = |included: serde_json::Value, excluded: serde_json::Value| {
            let found = matching(
                json!({"resourceRules": included, "excludeResourceRules": excluded,
                "namespaceSelector": {}, "objectSelector": {}}),
            );
            found.rules_match(&asked(PODS, "")).is_some()
        };
        assert!(policy(json!([]), json!([])));
        assert!(policy(json!([named("x")]), json!([named("y")])));
        assert!(!policy(json!([named("y")]), json!([])));
        assert!(!policy(json!([]), json!([named("x")])));
    }

    fn object(namespace: &str, name: &str, label: &str) -> Object {
        let json = json!({"metadata": {"labels": {"l": label}}}).to_string();
        let key = format!("{namespace}/{name}").into();
        Object::new(key, Bytes::from(json), 1, false).unwrap()
    }

    #[test]
    fn selectors_look_at_the_namespace_and_at_both_objects() {
        let cache = Cache::new();
        let namespaces = ResourceId::named("", "namespaces");
        let namespace = object("", "n", "a");
        cache.load(namespaces, namespace.key.clone(), namespace.clone());
        let mut webhook = webhook(rule(&["*"], "*", "*", "*"));
        webhook["namespaceSelector"] = json!({"matchLabels": {"l": "a"}});
        webhook["objectSelector"] = json!({"matchLabels": {"l": "b"}});
        let matching = matching(webhook);
        let (a, b) = (object("n", "x", "a"), object("n", "x", "b"));
        let is_selected = |asked: Asked<'_>| matching.matches(&asked, &cache).map(|r| r.is_some());
        let pod = asked(PODS, "");
        let with = |object, old| Asked { object, old, ..pod };
        assert!(!is_selected(pod).unwrap());
        assert!(!is_selected(with(Some(&a), None)).unwrap());
        assert!(is_selected(with(Some(&b), None)).unwrap());
        assert!(is_selected(with(Some(&a), Some(&b))).unwrap());
        let elsewhere = Asked {
            namespace: "nowhere",
            ..with(Some(&b), None)
        };
        assert_eq!(is_selected(elsewhere).unwrap_err().code, 404);
        // What is in no namespace is exempted by none; of a namespace its own labels count.
        let node = asked(("", "v1", "nodes"), "");
        let of_node = Asked {
            object: Some(&b),
            ..node
        };
        assert!(is_selected(of_node).unwrap());
        let of_namespace = Asked {
            namespace: "n",
            object: Some(&b),
            ..asked(("", "v1", "namespaces"), "")
        };
        assert!(!is_selected(of_namespace).unwrap());
    }

    #[test]
    fn the_index_finds_what_the_rules_find() {
        let list: Vec<Matching> = [
            rule(&["*"], "", "v1", "pods"),
            rule(&["*"], "*", "*", "*/*"),
            rule(&["*"], "apps", "v1", "deployments/scale"),
        ]
        .into_iter()
        .map(|rule| matching(webhook(rule)))
        .collect();
        let index = Index::new(list.iter());
        assert_eq!(index.candidates("pods"), [0, 1]);
        assert_eq!(index.candidates("deployments"), [1, 2]);
        assert_eq!(index.candidates("nodes"), [1]);
        assert!(Index::default().candidates("pods").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn the_index_leaves_out_nothing_that_matches(
            rules in proptest::collection::vec((0..4usize, 0..5usize), 0..8),
        ) {
            let groups = ["", "apps", "*", "events.k8s.io"];
            let resources = ["pods", "*", "*/*", "deployments/*", "events"];
            let rules = rules.into_iter().map(|(group, resource)| {
                matching(webhook(rule(&["*"], groups[group], "*", resources[resource])))
            });
            let list: Vec<Matching> = rules.collect();
            let index = Index::new(list.iter());
            for row in &Facts::get().resources {
                let of_row = asked((row.group, row.version, row.plural), "");
                let is_about = |at: &usize| list[*at].rules_match(&of_row).is_some();
                let all: Vec<usize> = (0..list.len()).filter(is_about).collect();
                let mut found = index.candidates(row.plural).to_vec();
                found.retain(is_about);
                proptest::prop_assert_eq!(found, all);
            }
        }
    }

    #[test]
    fn documents_have_labels() {
        let arena = Bump::new();
        let bytes = br#"{"metadata":{"labels":{"a":"b"}}}"#;
        let doc = api::codec::decode_stored(bytes, &Type::Any, &arena).unwrap();
        assert_eq!(Labels::label(&doc, "a"), Some("b"));
    }
}
