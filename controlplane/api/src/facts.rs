//! The facts: every resource, kind and struct of the served level, and upstream's bootstrap policy.
//!
//! They are dumped by `tests/oracle` (command `facts`) from upstream's own packages and checked in as
//! `facts/facts.json`; nothing in them is typed by hand. Loaded once per process, without copies of
//! strings.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::schema::{self, RawStruct, Struct, StructId, Type};

static FACTS_JSON: &str = include_str!("../facts/facts.json");
static FACTS: OnceLock<Facts> = OnceLock::new();

/// All facts, with their indexes.
#[derive(Debug)]
pub struct Facts {
    /// The release they were taken from, for example `v1.37.0`.
    pub kubernetes: &'static str,
    /// Every API group, in the order of discovery.
    pub groups: Vec<Group>,
    /// Every served resource, ordered by group, version and name.
    pub resources: Vec<Resource>,
    /// Every kind that can appear in a body, options and subresource kinds included.
    pub kinds: Vec<Kind>,
    /// Every reachable struct.
    pub structs: Vec<Struct>,
    /// Upstream's bootstrap RBAC policy.
    pub rbac: RbacFacts,
    by_plural: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
    kind_index: HashMap<(&'static str, &'static str, &'static str), usize>,
}

/// An API group.
#[derive(Debug, Deserialize)]
pub struct Group {
    /// The group's name; "" for core.
    pub name: &'static str,
    /// The served versions, the preferred one first.
    pub versions: Vec<&'static str>,
}

/// A kind and its shape.
#[derive(Debug)]
pub struct Kind {
    /// The group; "" for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Its shape, always [`Type::Struct`].
    pub schema: Type,
}

/// A served resource.
#[derive(Debug)]
pub struct Resource {
    /// The group; "" for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The plural name: the path segment.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
    /// Short names for kubectl.
    pub short_names: Vec<&'static str>,
    /// Categories, for example `all`.
    pub categories: Vec<&'static str>,
    /// The verbs as discovery lists them.
    pub verbs: Vec<&'static str>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Table columns in order.
    pub columns: Vec<Column>,
    /// Field labels a field selector may use besides metadata.name and metadata.namespace.
    pub selectable_fields: Vec<&'static str>,
    /// Paths of what clients send that the main endpoint ignores, for example `status`.
    pub reset_fields: Vec<&'static str>,
    /// Flags of the upstream strategy.
    pub strategy: StrategyFlags,
    /// The group under which it is stored; differs from `group` for resources with two homes (Events).
    pub storage_group: &'static str,
    /// The version in which it is stored.
    pub storage_version: &'static str,
    /// The kind's shape, always [`Type::Struct`].
    pub schema: Type,
    /// Whether objects are kept at all (false for reviews, which are only created).
    pub stored: bool,
    /// The storage version hash shown by discovery, or "".
    pub storage_version_hash: &'static str,
}

/// What the upstream strategy of a resource allows.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct StrategyFlags {
    /// A PUT without resourceVersion is allowed.
    pub unconditional_update: bool,
    /// A PUT of an absent object creates it.
    pub create_on_update: bool,
    /// DELETE answers with the object instead of a Status.
    pub return_deleted: bool,
    /// DELETE has a grace period (pods).
    pub graceful_delete: bool,
    /// metadata.generation starts at 1 and is bumped by changes of the spec.
    pub generation: bool,
    /// The kind has a status subresource; its main resource keeps the old status.
    pub status: bool,
}

/// A subresource.
#[derive(Clone, Debug, Deserialize)]
pub struct Subresource {
    /// The name after the slash.
    pub name: &'static str,
    /// The group of the body's kind.
    #[serde(default)]
    pub group: &'static str,
    /// The version of the body's kind.
    pub version: &'static str,
    /// The body's kind.
    pub kind: &'static str,
    /// The verbs as discovery lists them.
    pub verbs: Vec<&'static str>,
    /// Paths of what clients send that this endpoint ignores, for example `spec`.
    #[serde(default)]
    pub reset_fields: Vec<&'static str>,
}

/// A column of the Table output.
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// The OpenAPI type of its cells: string, integer, boolean …
    #[serde(rename = "type")]
    pub ty: &'static str,
    /// The OpenAPI format, or "".
    #[serde(default)]
    pub format: &'static str,
    /// 0 is always shown, larger only with `-o wide`.
    #[serde(default)]
    pub priority: i32,
}

/// Upstream's bootstrap RBAC objects as canonical JSON, one per entry.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'static"))]
pub struct RbacFacts {
    /// ClusterRoles, those of the controllers included.
    pub cluster_roles: Vec<&'static serde_json::value::RawValue>,
    /// ClusterRoleBindings, those of the controllers included.
    pub cluster_role_bindings: Vec<&'static serde_json::value::RawValue>,
    /// Roles in namespaces.
    pub roles: Vec<&'static serde_json::value::RawValue>,
    /// RoleBindings in namespaces.
    pub role_bindings: Vec<&'static serde_json::value::RawValue>,
}

impl Facts {
    /// The facts of this build.
    pub fn get() -> &'static Facts {
        FACTS.get_or_init(|| {
            let raw: RawFacts = serde_json::from_str(FACTS_JSON)
                .expect("the checked-in fact file is read by every test");
            raw.link()
        })
    }

    /// The resource of a path.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
        let i = *self.by_plural.get(&(group, version, plural))?;
        Some(&Facts::get().resources[i])
    }

    /// The resource whose objects are of that kind.
    pub fn resource_of_kind(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<&'static Resource> {
        let i = *self.by_kind.get(&(group, version, kind))?;
        Some(&Facts::get().resources[i])
    }

    /// The shape of any kind that can be in a body (resources, lists, options, subresource bodies).
    /// Options and the other meta kinds are in every group version.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
        let everywhere = ("meta.k8s.io", "v1", kind);
        let i = *self
            .kind_index
            .get(&(group, version, kind))
            .or_else(|| self.kind_index.get(&everywhere))?;
        Some(&Facts::get().kinds[i])
    }
}

impl Resource {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the verb is served.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

impl Subresource {
    /// The shape of its body.
    pub fn schema(&self) -> Option<&'static Type> {
        Facts::get()
            .kind(self.group, self.version, self.kind)
            .map(|k| &k.schema)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawFacts {
    kubernetes: &'static str,
    groups: Vec<Group>,
    resources: Vec<RawResource>,
    kinds: Vec<RawKind>,
    structs: Vec<RawStruct>,
    rbac: RbacFacts,
}

#[derive(Deserialize)]
struct RawKind {
    #[serde(rename = "g", default)]
    group: &'static str,
    #[serde(rename = "v")]
    version: &'static str,
    #[serde(rename = "k")]
    kind: &'static str,
    #[serde(rename = "s")]
    id: u16,
}

#[derive(Deserialize)]
struct RawResource {
    #[serde(default)]
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    short_names: Vec<&'static str>,
    #[serde(default)]
    categories: Vec<&'static str>,
    verbs: Vec<&'static str>,
    #[serde(default)]
    subresources: Vec<Subresource>,
    #[serde(default)]
    columns: Vec<Column>,
    #[serde(default)]
    selectable_fields: Vec<&'static str>,
    #[serde(default)]
    reset_fields: Vec<&'static str>,
    #[serde(default)]
    strategy: StrategyFlags,
    #[serde(default)]
    storage_group: Option<&'static str>,
    #[serde(default)]
    storage_version: Option<&'static str>,
    #[serde(default)]
    stored: bool,
    #[serde(default)]
    storage_version_hash: &'static str,
    #[serde(rename = "struct")]
    id: u16,
}

impl RawFacts {
    fn link(self) -> Facts {
        let kinds: Vec<Kind> = self.kinds.into_iter().map(RawKind::link).collect();
        let resources: Vec<Resource> = self.resources.into_iter().map(RawResource::link).collect();
        let index = |key: fn(&Resource) -> &'static str| {
            resources
                .iter()
                .enumerate()
                .map(|(i, r)| ((r.group, r.version, key(r)), i))
                .collect::<HashMap<_, _>>()
        };
        let by_plural = index(|r| r.plural);
        let by_kind = index(|r| r.kind);
        let kind_index = kinds
            .iter()
            .enumerate()
            .map(|(i, k)| ((k.group, k.version, k.kind), i))
            .collect();
        Facts {
            kubernetes: self.kubernetes,
            groups: self.groups,
            structs: schema::link(self.structs),
            rbac: self.rbac,
            kinds,
            resources,
            by_plural,
            by_kind,
            kind_index,
        }
    }
}

impl RawKind {
    fn link(self) -> Kind {
        let RawKind {
            group,
            version,
            kind,
            id,
        } = self;
        Kind {
            group,
            version,
            kind,
            schema: Type::Struct(StructId(id)),
        }
    }
}

impl RawResource {
    fn link(self) -> Resource {
        Resource {
            group: self.group,
            version: self.version,
            plural: self.plural,
            singular: self.singular,
            kind: self.kind,
            namespaced: self.namespaced,
            short_names: self.short_names,
            categories: self.categories,
            verbs: self.verbs,
            subresources: self.subresources,
            columns: self.columns,
            selectable_fields: self.selectable_fields,
            reset_fields: self.reset_fields,
            strategy: self.strategy,
            storage_group: self.storage_group.unwrap_or(self.group),
            storage_version: self.storage_version.unwrap_or(self.version),
            schema: Type::Struct(StructId(self.id)),
            stored: self.stored,
            storage_version_hash: self.storage_version_hash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fact_file_has_the_whole_default_surface() {
        let facts = Facts::get();
        let versions: usize = facts.groups.iter().map(|g| g.versions.len()).sum();
        let subresources: usize = facts.resources.iter().map(|r| r.subresources.len()).sum();
        assert_eq!(
            (facts.resources.len(), subresources, versions),
            (72, 49, 23)
        );
        let pods = facts.resource("", "v1", "pods").unwrap();
        assert_eq!(pods.kind, "Pod");
        assert!(pods.strategy.graceful_delete && pods.strategy.generation && pods.stored);
        assert_eq!(pods.storage_version_hash, "xPOwRZ+Yhw8=");
    }

    #[test]
    fn the_fact_file_is_as_it_was_dumped() {
        use sha2::{Digest, Sha256};
        let (before, rest) = FACTS_JSON.split_once("\"sha256\":\"").unwrap();
        let (recorded, after) = rest.split_once('"').unwrap();
        let digest = Sha256::digest(format!("{before}\"sha256\":\"\"{after}"));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex, recorded,
            "regenerate it with tests/oracle instead of editing it"
        );
    }

    #[test]
    fn every_subresource_body_and_list_has_a_shape() {
        let facts = Facts::get();
        for r in &facts.resources {
            for s in &r.subresources {
                assert!(s.schema().is_some(), "{}/{}", r.plural, s.name);
            }
            if r.stored {
                let list = format!("{}List", r.kind);
                assert!(facts.kind(r.group, r.version, &list).is_some(), "{list}");
            }
        }
    }
}
