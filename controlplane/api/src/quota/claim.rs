//! What a PersistentVolumeClaim uses. Port of
//! `pkg/quota/v1/evaluator/core/persistent_volume_claims.go`.

use serde::Deserialize;

use super::Scope;
use crate::quantity::Quantity;
use crate::resources::Amounts;

const CLAIMS: &str = "persistentvolumeclaims";
const STORAGE: &str = "requests.storage";
const COUNT: &str = "count/persistentvolumeclaims";
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
/// The annotation that was the class before the field was.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    storage_class_name: Option<String>,
    volume_attributes_class_name: Option<String>,
    resources: Resources,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: Amounts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    allocated_resources: Amounts,
    current_volume_attributes_class_name: Option<String>,
    modify_volume_status: Option<Modify>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modify {
    target_volume_attributes_class_name: String,
}

pub(super) fn is_resource(name: &str) -> bool {
    let by_class = || name.split_once(BY_CLASS).map(|(_, resource)| resource);
    name == COUNT
        || [Some(name), by_class()]
            .iter()
            .flatten()
            .any(|n| [CLAIMS, STORAGE].contains(n))
}

impl Claim {
    pub(super) fn usage(&self) -> Amounts {
        let mut usage: Amounts = [(COUNT, 1), (CLAIMS, 1)].into_iter().collect();
        let annotated = self.metadata.annotations.get(CLASS_ANNOTATION);
        let class = annotated.or(self.spec.storage_class_name.as_ref());
        let class = class.map(String::as_str).unwrap_or_default();
        if !class.is_empty() {
            usage.set(&format!("{class}{BY_CLASS}{CLAIMS}"), Quantity::of(1));
        }
        if let Some(storage) = self.storage() {
            usage.set(STORAGE, storage);
            if !class.is_empty() {
                usage.set(&format!("{class}{BY_CLASS}{STORAGE}"), storage);
            }
        }
        usage
    }

    /// Whole bytes; what is allocated already when that is more.
    fn storage(&self) -> Option<Quantity> {
        let wanted = self.spec.resources.requests.get("storage")?;
        let allocated = self.status.allocated_resources.get("storage");
        Some(allocated.map_or(wanted, |a| a.max(wanted)).rounded_up())
    }

    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        if scope.scope_name != "VolumeAttributesClass" {
            return false;
        }
        let target = self.status.modify_volume_status.as_ref();
        let names = [
            self.spec.volume_attributes_class_name.as_deref(),
            self.status.current_volume_attributes_class_name.as_deref(),
            target.map(|t| t.target_volume_attributes_class_name.as_str()),
        ];
        let names: Vec<&str> = names
            .into_iter()
            .flatten()
            .filter(|n| !n.is_empty())
            .collect();
        scope.selects(&names)
    }
}
