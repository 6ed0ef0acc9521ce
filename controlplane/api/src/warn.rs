//! Warnings about objects that are accepted: what upstream's strategies say in `WarningsOnCreate` and
//! `WarningsOnUpdate`.
//!
//! Runs on prepared, validated documents. The texts go into `Warning` headers.

use crate::doc::Doc;
use crate::facts::Resource;
use crate::kinds::{network_policy, pod, service};
use crate::strategy::{Part, same, template_path};
use crate::validate::names::dns_label;

/// Warnings about a new object.
pub fn on_create(resource: &Resource, doc: &Doc<'_>) -> Vec<String> {
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            let mut out = name(doc, "the Pod's hostname");
            out.append(&mut pod::warn::warnings(doc.root(), ""));
            out
        }
        ("apps", "Deployment" | "ReplicaSet")
        | ("", "ReplicationController")
        | ("batch", "Job" | "CronJob") => {
            let mut out = name(doc, "Pod names and hostnames");
            out.append(&mut template(resource, doc));
            out
        }
        ("apps", "StatefulSet") => {
            let mut out = template(resource, doc);
            out.extend(kept_revisions(doc));
            out
        }
        ("apps", "DaemonSet") | ("", "PodTemplate") => template(resource, doc),
        ("", "Service") => service::warnings(doc),
        ("networking.k8s.io", "NetworkPolicy") => network_policy::warnings(doc),
        ("discovery.k8s.io", "EndpointSlice") if doc.str_at(&["addressType"]) == Some("FQDN") => {
            vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// Warnings about an update of an object or of one of its subresources.
pub fn on_update(resource: &Resource, new: &Doc<'_>, old: &Doc<'_>, part: Part<'_>) -> Vec<String> {
    // Controllers write often; only a change of the wish is worth the look.
    let changed = |out: fn(&Resource, &Doc<'_>) -> Vec<String>| match new.generation() {
        generation if generation == old.generation() => Vec::new(),
        _ => out(resource, new),
    };
    match (resource.group, resource.kind, part) {
        ("", "Pod", Part::Subresource("status")) => pod::warn::status_warnings(new.root()),
        ("apps", "Deployment" | "ReplicaSet", Part::Main) | ("batch", "Job", Part::Main) => {
            changed(template)
        }
        ("apps", "StatefulSet", Part::Main) => {
            let mut out = changed(template);
            out.extend(kept_revisions(new));
            out
        }
        ("apps", "DaemonSet", Part::Main) if !same(new, old, &["spec", "template"]) => {
            template(resource, new)
        }
        // Upstream has the two templates in the other order here.
        ("", "ReplicationController", Part::Main) if new.generation() != old.generation() => {
            template(resource, old)
        }
        ("batch", "CronJob", Part::Main) => {
            let mut out = changed(template);
            out.extend(zone_in_schedule(new));
            out
        }
        ("", "Service", Part::Main) => service::warnings(new),
        ("", "Service", Part::Subresource("status")) => service::status_warnings(new),
        ("networking.k8s.io", "NetworkPolicy", Part::Main) => network_policy::warnings(new),
        _ => Vec::new(),
    }
}

/// About the pod template, and the Job around it if there is one.
fn template(resource: &Resource, doc: &Doc<'_>) -> Vec<String> {
    let Some(path) = template_path(resource) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    if resource.group == "batch" {
        let spec = &path[..path.len() - 1];
        out.extend(untracked_indexes(doc, spec));
    }
    if let Some(template) = doc.get(path) {
        out.append(&mut pod::warn::warnings(
            template,
            &format!("{}.", path.join(".")),
        ));
    }
    out
}

/// `WarningsForJobSpec` in `pkg/api/job/warnings.go`.
fn untracked_indexes(doc: &Doc<'_>, spec: &[&str]) -> Option<String> {
    const MANY_COMPLETIONS: i64 = 100_000;
    const MUCH_PARALLELISM: i64 = 10_000;
    let job = doc.get(spec)?;
    let more = |field, than| job.int_of(field).is_some_and(|number| number > than);
    let indexed = job.str_of("completionMode") == Some("Indexed");
    let many = more("completions", MANY_COMPLETIONS) && more("parallelism", MUCH_PARALLELISM);
    (indexed && many).then(|| {
        format!(
            "{}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism \
             higher than 10^4, Kubernetes might not be able to track completedIndexes when a big \
             number of indexes fail",
            spec.join(".")
        )
    })
}

fn kept_revisions(doc: &Doc<'_>) -> Option<String> {
    let limit = doc.int_at(&["spec", "revisionHistoryLimit"])?;
    (limit < 0).then(|| {
        "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 \
         is recommended"
            .to_owned()
    })
}

fn zone_in_schedule(doc: &Doc<'_>) -> Option<String> {
    let schedule = doc.str_at(&["spec", "schedule"])?;
    schedule.contains("TZ").then(|| {
        "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
         https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            .to_owned()
    })
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
