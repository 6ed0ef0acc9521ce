//! Names of resources in requests, limits and quotas.
//!
//! Port of `validateResourceName` in `pkg/apis/core/validation/validation.go` and of the sets of names in
//! `pkg/apis/core/helper/helpers.go`.

use super::names::label_key;
use super::path::{Errors, Path};

/// Names without a prefix that quotas may limit.
const STANDARD: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// A resource, but none for quotas.
pub(crate) const STORAGE: &str = "storage";
/// Resources that are counted.
pub(crate) const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// Resources without a domain that a container can have, besides huge pages.
pub(crate) const CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

pub(crate) fn is_quota_name(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_page(name)
}

/// A resource's name (`validateResourceName`); true when it is well-formed.
pub(crate) fn resource_name(path: &Path<'_>, name: &str, errors: &mut Errors) -> bool {
    let problems = label_key(name);
    if !problems.is_empty() {
        errors.each(path, name, problems);
        return false;
    }
    if !name.contains('/') && !is_quota_name(name) && name != STORAGE {
        errors.invalid(
            path,
            name,
            "must be a standard resource type or fully qualified",
        );
        return false;
    }
    true
}
