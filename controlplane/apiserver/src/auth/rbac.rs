//! The RBAC index: roles and bindings, kept from the cache's changes, and what they allow to whom.
//!
//! Input: each RBAC object as it appears and goes. A binding is found by its subjects, so a request
//! looks at the bindings of its user and groups only. Synchronous, without I/O.
//! Port of `plugin/pkg/auth/authorizer/rbac` and `pkg/registry/rbac/validation/rule.go`.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::lenient;
use super::rule::PolicyRule;
use crate::attributes::Attributes;
use crate::cache::Change;
use crate::identity::UserInfo;

/// The kinds the index is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RbacKind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

/// What a binding refers to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct RoleRef {
    pub api_group: String,
    pub kind: String,
    pub name: String,
}

/// Somebody a binding names, as the key it is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SubjectKey {
    User(String),
    Group(String),
}

/// A binding as it is found.
#[derive(Clone, Debug)]
struct Bound {
    binding: Arc<str>,
    subject: String,
    role: Arc<RoleRef>,
}

/// Bindings of one scope (the cluster or a namespace) by subject.
type BySubject = HashMap<SubjectKey, Vec<Bound>>;

/// The index.
#[derive(Debug, Default)]
pub struct RbacIndex {
    /// Rules of roles by namespace (`""` for ClusterRoles) and name.
    roles: HashMap<String, HashMap<String, Arc<Vec<PolicyRule>>>>,
    /// Bindings by namespace (`""` for ClusterRoleBindings) and subject.
    bindings: HashMap<String, BySubject>,
    /// The subjects of each binding, to find it again.
    subjects: HashMap<(String, String), Vec<SubjectKey>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RoleObject {
    rules: Vec<PolicyRule>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct BindingObject {
    subjects: Vec<Subject>,
    role_ref: RoleRef,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

// === impl RbacIndex ===

impl RbacIndex {
    /// Takes over a change of an object.
    pub fn apply(&mut self, kind: RbacKind, change: &Change) {
        let (namespace, name) = (change.latest().namespace(), change.latest().name());
        let bytes = change.object.as_ref().map(|object| &object.bytes[..]);
        match kind {
            RbacKind::Role | RbacKind::ClusterRole => self.set_role(namespace, name, bytes),
            RbacKind::RoleBinding | RbacKind::ClusterRoleBinding => {
                self.set_binding(namespace, name, bytes);
            }
        }
    }

    /// Sets or (without bytes) removes a role. Stored objects are valid; one that is not grants
    /// nothing.
    fn set_role(&mut self, namespace: &str, name: &str, bytes: Option<&[u8]>) {
        let roles = self.roles.entry(namespace.to_owned()).or_default();
        match bytes {
            Some(bytes) => {
                let role: RoleObject = lenient::from_slice(bytes).unwrap_or_default();
                roles.insert(name.to_owned(), Arc::new(role.rules));
            }
            None => {
                roles.remove(name);
            }
        }
    }

    /// Sets or (without bytes) removes a binding.
    fn set_binding(&mut self, namespace: &str, name: &str, bytes: Option<&[u8]>) {
        let key = (namespace.to_owned(), name.to_owned());
        let scope = self.bindings.entry(namespace.to_owned()).or_default();
        for subject in self.subjects.remove(&key).unwrap_or_default() {
            if let Some(bound) = scope.get_mut(&subject) {
                bound.retain(|bound| &*bound.binding != name);
                if bound.is_empty() {
                    scope.remove(&subject);
                }
            }
        }
        let Some(bytes) = bytes else { return };
        let object: BindingObject = lenient::from_slice(bytes).unwrap_or_default();
        let role = Arc::new(object.role_ref);
        let binding: Arc<str> = name.into();
        let mut keys = Vec::new();
        for subject in object.subjects {
            let Some((subject_key, text)) = subject.key(namespace) else {
                continue;
            };
            if keys.contains(&subject_key) {
                continue;
            }
            let bound = Bound {
                binding: binding.clone(),
                subject: text,
                role: role.clone(),
            };
            scope.entry(subject_key.clone()).or_default().push(bound);
            keys.push(subject_key);
        }
        self.subjects.insert(key, keys);
    }

    /// Why the user may do that; none when no binding allows it.
    pub fn allows(&self, user: &UserInfo, attributes: &Attributes) -> Option<String> {
        let namespace = if attributes.is_resource {
            attributes.namespace.as_str()
        } else {
            ""
        };
        self.bound(user, namespace)
            .find(|(scope, bound)| {
                self.rules_of(&bound.role, scope)
                    .iter()
                    .any(|rule| rule.allows(attributes))
            })
            .map(|(scope, bound)| {
                let (kind, name) = if scope.is_empty() {
                    ("ClusterRoleBinding", bound.binding.to_string())
                } else {
                    ("RoleBinding", format!("{}/{scope}", bound.binding))
                };
                format!(
                    "RBAC: allowed by {kind} {name:?} of {} {:?} to {}",
                    bound.role.kind, bound.role.name, bound.subject
                )
            })
    }

    /// Every rule that applies to the user in the namespace (`""`: in all).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        self.bound(user, namespace)
            .flat_map(|(scope, bound)| self.rules_of(&bound.role, scope).to_vec())
            .collect()
    }

    /// The rules a role reference stands for, as seen from a namespace; none if there is no such
    /// role.
    pub fn referenced(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<Vec<PolicyRule>>> {
        let scope = if role.kind == "ClusterRole" {
            ""
        } else {
            namespace
        };
        self.roles.get(scope)?.get(&role.name)
    }

    fn rules_of(&self, role: &RoleRef, namespace: &str) -> &[PolicyRule] {
        self.referenced(role, namespace)
            .map_or(&[], |rules| rules.as_slice())
    }

    /// The user's bindings with their scope: those of the cluster, then those of the namespace.
    fn bound<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Bound)> {
        let scopes = [Some(""), (!namespace.is_empty()).then_some(namespace)];
        let keys: Vec<SubjectKey> = std::iter::once(SubjectKey::User(user.username.clone()))
            .chain(user.groups.iter().cloned().map(SubjectKey::Group))
            .collect();
        scopes.into_iter().flatten().flat_map(move |scope| {
            let by_subject = self.bindings.get(scope);
            let bound: Vec<&Bound> = keys
                .iter()
                .filter_map(|key| by_subject.and_then(|by_subject| by_subject.get(key)))
                .flatten()
                .collect();
            bound.into_iter().map(move |bound| (scope, bound))
        })
    }
}

// === impl Subject ===

impl Subject {
    /// The key it is found by, and its description; none for a kind nobody can be.
    fn key(self, binding_namespace: &str) -> Option<(SubjectKey, String)> {
        let Self {
            kind,
            name,
            namespace,
        } = self;
        match kind.as_str() {
            "User" => {
                let text = format!("User {name:?}");
                Some((SubjectKey::User(name), text))
            }
            "Group" => {
                let text = format!("Group {name:?}");
                Some((SubjectKey::Group(name), text))
            }
            "ServiceAccount" => {
                let namespace = if namespace.is_empty() {
                    binding_namespace.to_owned()
                } else {
                    namespace
                };
                let text = format!("ServiceAccount {:?}", format!("{name}/{namespace}"));
                let user = format!("system:serviceaccount:{namespace}:{name}");
                (!namespace.is_empty()).then_some((SubjectKey::User(user), text))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> RbacIndex {
        let mut index = RbacIndex::default();
        let reader =
            br#"{"rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]}"#;
        index.set_role("", "reader", Some(reader));
        let role = br#"{"rules":[{"verbs":["delete"],"apiGroups":[""],"resources":["pods"]}]}"#;
        index.set_role("a", "deleter", Some(role));
        let binding = br#"{"subjects":[{"kind":"Group","name":"devs"}],"roleRef":{"kind":"ClusterRole","name":"reader"}}"#;
        index.set_binding("", "devs-read", Some(binding));
        let binding = br#"{"subjects":[{"kind":"ServiceAccount","name":"bot"}],"roleRef":{"kind":"Role","name":"deleter"}}"#;
        index.set_binding("a", "bot-deletes", Some(binding));
        index
    }

    fn ask(method: http::Method, uri: &str) -> Attributes {
        Attributes::parse(&method, uri, None)
    }

    #[test]
    fn cluster_bindings_apply_everywhere_and_role_bindings_in_their_namespace() {
        let index = index();
        let dev = UserInfo::new("jane", ["devs"]);
        let bot = UserInfo::service_account("a", "bot");
        let list = ask(http::Method::GET, "/api/v1/namespaces/a/pods");
        let delete = |ns: &str| {
            ask(
                http::Method::DELETE,
                &format!("/api/v1/namespaces/{ns}/pods/x"),
            )
        };
        assert!(index.allows(&dev, &list).is_some());
        assert!(index.allows(&dev, &delete("a")).is_none());
        assert!(index.allows(&bot, &list).is_none());
        assert!(index.allows(&bot, &delete("b")).is_none());
        let reason = index.allows(&bot, &delete("a")).unwrap();
        assert_eq!(
            reason,
            r#"RBAC: allowed by RoleBinding "bot-deletes/a" of Role "deleter" to ServiceAccount "bot/a""#
        );
    }

    #[test]
    fn what_is_removed_or_replaced_no_longer_allows() {
        let mut index = index();
        let dev = UserInfo::new("jane", ["devs"]);
        let list = ask(http::Method::GET, "/api/v1/pods");
        index.set_role("", "reader", None);
        assert!(index.allows(&dev, &list).is_none());
        index.set_role(
            "",
            "reader",
            Some(br#"{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}"#),
        );
        assert!(index.allows(&dev, &list).is_some());
        let others = br#"{"subjects":[{"kind":"Group","name":"ops"}],"roleRef":{"kind":"ClusterRole","name":"reader"}}"#;
        index.set_binding("", "devs-read", Some(others));
        assert!(index.allows(&dev, &list).is_none());
        assert!(
            index
                .allows(&UserInfo::new("joe", ["ops"]), &list)
                .is_some()
        );
        index.set_binding("", "devs-read", None);
        assert!(
            index
                .allows(&UserInfo::new("joe", ["ops"]), &list)
                .is_none()
        );
        assert!(index.rules_for(&dev, "a").is_empty());
    }
}
