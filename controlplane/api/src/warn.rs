//! Warnings about objects that are accepted: what upstream's strategies say in `WarningsOnCreate` and
//! `WarningsOnUpdate`.
//!
//! Runs on prepared, validated documents. The texts go into `Warning` headers.

use crate::doc::Doc;
use crate::facts::Resource;
use crate::kinds::{network_policy, pod, service};
use crate::strategy::Part;
use crate::validate::names::dns_label;

/// Where workloads have their pod template, for paths.
const TEMPLATE: &str = "spec.template.";

/// Warnings about a new object.
pub fn on_create(resource: &Resource, doc: &Doc<'_>) -> Vec<String> {
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            let mut out = name(doc, "the Pod's hostname");
            out.append(&mut pod::warn::warnings(doc.root(), ""));
            out
        }
        ("apps", "Deployment" | "ReplicaSet") => {
            let mut out = name(doc, "Pod names and hostnames");
            out.append(&mut template(doc));
            out
        }
        ("apps", "DaemonSet") => template(doc),
        ("", "Service") => service::warnings(doc),
        ("networking.k8s.io", "NetworkPolicy") => network_policy::warnings(doc),
        _ => Vec::new(),
    }
}

/// Warnings about an update of an object or of one of its subresources.
pub fn on_update(resource: &Resource, new: &Doc<'_>, old: &Doc<'_>, part: Part<'_>) -> Vec<String> {
    match (resource.group, resource.kind, part) {
        ("", "Pod", Part::Subresource("status")) => pod::warn::status_warnings(new.root()),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet", Part::Main) => {
            // Controllers write often; only a change of the wish is worth the look.
            if new.generation() == old.generation() { Vec::new() } else { template(new) }
        }
        ("", "Service", Part::Main) => service::warnings(new),
        ("", "Service", Part::Subresource("status")) => service::status_warnings(new),
        ("networking.k8s.io", "NetworkPolicy", Part::Main) => network_policy::warnings(new),
        _ => Vec::new(),
    }
}

fn template(doc: &Doc<'_>) -> Vec<String> {
    let template = doc.get(&["spec", "template"]);
    template.map(|template| pod::warn::warnings(template, TEMPLATE)).unwrap_or_default()
}

/// Names that become names of hosts should be labels.
fn name(doc: &Doc<'_>, used_in: &str) -> Vec<String> {
    let problems = dns_label(doc.name());
    if problems.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS \
         label is recommended: [{}]",
        problems.join(" ")
    )]
}
