//! What the API server serves, by aggregated discovery: for the controllers that handle any kind.

use kube::Client;

/// A resource that can be listed and deleted, in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Deletable {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub watchable: bool,
}

impl Deletable {
    /// `plural.group`, as upstream's messages name resources.
    pub fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of the collection; of all namespaces when `namespace` is empty.
    pub fn collection(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        let api_version = self.api_version();
        if namespace.is_empty() {
            format!("/{root}/{api_version}/{}", self.plural)
        } else {
            format!(
                "/{root}/{api_version}/namespaces/{namespace}/{}",
                self.plural
            )
        }
    }
}

/// Every resource that can be listed and deleted; each once, in its group's first version.
pub async fn deletable(client: &Client) -> Result<Vec<Deletable>, kube::Error> {
    let mut groups = client.list_core_api_versions_aggregated().await?.items;
    groups.extend(client.list_api_groups_aggregated().await?.items);
    let mut found: Vec<Deletable> = Vec::new();
    for group in groups {
        let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        for version in group.versions {
            for resource in version.resources {
                let can = |verb: &str| resource.verbs.iter().any(|v| v == verb);
                let Some(plural) = resource.resource.clone() else {
                    continue;
                };
                let known = found.iter().any(|f| f.group == name && f.plural == plural);
                if known || !can("delete") || !can("list") {
                    continue;
                }
                found.push(Deletable {
                    group: name.clone(),
                    version: version.version.clone().unwrap_or_default(),
                    plural,
                    kind: resource
                        .response_kind
                        .as_ref()
                        .and_then(|k| k.kind.clone())
                        .unwrap_or_default(),
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    watchable: can("watch"),
                });
            }
        }
    }
    Ok(found)
}
