//! Where a kind lives in the API: group, version, plural, scope, and its URL paths.
//!
//! Owns: `Resource`, the static address of a kind. Knows neither objects nor HTTP verbs.

/// The static address of a kind.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of the collection.
    pub fn collection(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        let api_version = self.api_version();
        if self.namespaced && !namespace.is_empty() {
            format!(
                "/{root}/{api_version}/namespaces/{namespace}/{}",
                self.plural
            )
        } else {
            format!("/{root}/{api_version}/{}", self.plural)
        }
    }

    /// Path of one object or of one of its subresources.
    pub fn object(&self, namespace: &str, name: &str, subresource: Option<&str>) -> String {
        let collection = self.collection(namespace);
        match subresource {
            Some(sub) => format!("{collection}/{name}/{sub}"),
            None => format!("{collection}/{name}"),
        }
    }
}
