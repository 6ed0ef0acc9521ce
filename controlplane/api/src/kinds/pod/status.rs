//! What the status of a pod must hold.
//!
//! Port of `ValidatePodStatusUpdate` in `pkg/apis/core/validation/validation.go` and of
//! `ContainerShouldRestart` in `pkg/api/v1/pod/util.go`.

use std::collections::HashSet;

use super::annotation;
use super::options::Options;
use super::resources::amount;
use crate::doc::{Doc, Value};
use crate::validate::ip;
use crate::validate::meta::immutable;
use crate::validate::names::{dns_label, dns_subdomain, in_range, label_key};
use crate::validate::path::{Errors, Path};

const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];
const STATUS_LISTS: [&str; 3] = [
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];
const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
const REVIVED: &str = "may not be transitioned to non-terminated state";
const NOT_NEGATIVE: &str = "must be a non-negative integer";
const CLAIM_PREFIX: &str = "claim:";
/// The longest message about a device's health, in bytes.
const MAX_HEALTH_MESSAGE: usize = 1024;
const MAX_GROUP: i64 = i32::MAX as i64;
/// The largest id the kernel has.
const MAX_USER: i64 = u32::MAX as i64;

/// An update of the status.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    let options = Options::new(old.root(), true);
    annotation::update(new, old, errors);
    let meta = Path::new("metadata");
    annotation::annotations(new.root(), &options, &meta.child("annotations"), errors);
    conditions(new, &path.child("conditions"), errors);
    nominated_node(new, old, &path.child("nominatedNodeName"), errors);
    if let Some(generation) = new
        .int_at(&["status", "observedGeneration"])
        .filter(|g| *g < 0)
    {
        errors.invalid_number(&path.child("observedGeneration"), generation, NOT_NEGATIVE);
    }
    immutable(new, old, &["status", "qosClass"], errors);
    transitions(new, old, &path, errors);
    claim_statuses(new, &path.child("resourceClaimStatuses"), errors);
    extended_claim(new, &path.child("extendedResourceClaimStatus"), errors);
    pod_ips(new, old, &path.child("podIPs"), errors);
    host_ips(new, old, &path.child("hostIPs"), errors);
    for list in STATUS_LISTS {
        let at = path.child(list);
        for (i, status) in new.list_at(&["status", list]).iter().enumerate() {
            user(new, status, &at.index(i), errors);
            allocated(new, list, status, &at.index(i), errors);
        }
    }
}

fn conditions(pod: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    for (i, condition) in pod.list_at(&["status", "conditions"]).iter().enumerate() {
        let at = path.index(i);
        if let Some(generation) = condition.int_of("observedGeneration").filter(|g| *g < 0) {
            errors.invalid_number(&at.child("observedGeneration"), generation, NOT_NEGATIVE);
        }
        let ty = condition.str_of("type").unwrap_or_default();
        if !SYSTEM_CONDITIONS.contains(&ty) {
            errors.each(&at.child("Type"), ty, label_key(ty));
        }
    }
}

fn nominated_node(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let name = |doc: &Doc<'_>| {
        doc.str_at(&["status", "nominatedNodeName"])
            .unwrap_or_default()
            .to_owned()
    };
    let node = name(new);
    if node.is_empty() || node == name(old) {
        return;
    }
    errors.each(path, &node, dns_subdomain(&node));
    if old
        .str_at(&["spec", "nodeName"])
        .is_some_and(|n| !n.is_empty())
    {
        errors.forbidden(
            path,
            "may not be set on pods that are already bound to a node",
        );
    }
}

/// Containers that ended for good stay ended.
fn transitions(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let spec = old.get(&["spec"]).unwrap_or(&Value::Null);
    let restart_all = restarts_all(spec);
    for (list, containers) in STATUS_LISTS
        .into_iter()
        .zip(["containers", "initContainers", ""])
    {
        if restart_all && !containers.is_empty() {
            continue;
        }
        let at = path.child(list);
        for (i, before) in old.list_at(&["status", list]).iter().enumerate() {
            let Some(ended) = before.at(&["state", "terminated"]) else {
                continue;
            };
            let name = before.str_of("name").unwrap_or_default();
            let named = |c: &&Value<'_>| c.str_of("name").unwrap_or_default() == name;
            let code = ended.int_of("exitCode").unwrap_or(0);
            let container = spec.list_of(containers).iter().find(named);
            let revived = new
                .list_at(&["status", list])
                .iter()
                .filter(named)
                .filter(|now| now.at(&["state", "terminated"]).is_none());
            let allowed = container.is_some_and(|c| should_restart(c, spec, code));
            // Statuses of ephemeral containers are looked at one by one, others by the first.
            let count = if containers.is_empty() {
                revived.count()
            } else {
                revived.count().min(1)
            };
            for _ in 0..if allowed { 0 } else { count } {
                errors.forbidden(&at.index(i).child("state"), REVIVED);
            }
        }
    }
}

/// Whether a rule of any container restarts all of them.
fn restarts_all(spec: &Value<'_>) -> bool {
    let all = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| spec.list_of(list));
    all.flat_map(|c| c.list_of("restartPolicyRules"))
        .any(|rule| rule.str_of("action") == Some("RestartAllContainers"))
}

fn should_restart(container: &Value<'_>, spec: &Value<'_>, code: i64) -> bool {
    let by = |policy: &str| match policy {
        "Always" => Some(true),
        "OnFailure" => Some(code != 0),
        "Never" => Some(false),
        _ => None,
    };
    let matches = |rule: &&Value<'_>| {
        let Some(codes) = rule.get("exitCodes") else {
            return false;
        };
        let listed = codes
            .list_of("values")
            .iter()
            .any(|v| v.as_int() == Some(code));
        match codes.str_of("operator").unwrap_or_default() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    let own = container.str_of("restartPolicy");
    if let Some(policy) = own {
        let rule = container.list_of("restartPolicyRules").iter().find(matches);
        let action = rule.and_then(|rule| rule.str_of("action"));
        if matches!(action, Some("Restart" | "RestartAllContainers")) {
            return true;
        }
        if let Some(restarts) = by(policy) {
            return restarts;
        }
    }
    by(spec.str_of("restartPolicy").unwrap_or_default()).unwrap_or(true)
}

fn claim_statuses(pod: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let claims = pod.list_at(&["spec", "resourceClaims"]);
    let mut seen = HashSet::new();
    for (i, status) in pod
        .list_at(&["status", "resourceClaimStatuses"])
        .iter()
        .enumerate()
    {
        let at = path.index(i);
        let name = status.str_of("name").unwrap_or_default();
        if !claims
            .iter()
            .any(|c| c.str_of("name").unwrap_or_default() == name)
        {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&at.child("name"), name, detail);
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if let Some(claim) = status.str_of("resourceClaimName") {
            errors.each(&at.child("resourceClaimName"), claim, dns_subdomain(claim));
        }
    }
}

fn extended_claim(pod: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(status) = pod.get(&["status", "extendedResourceClaimStatus"]) else {
        return;
    };
    let list = path.child("requestMappings");
    let mappings = status.list_of("requestMappings");
    if mappings.is_empty() {
        errors.required(&list, "at least one request mapping is required");
    }
    let mut seen = HashSet::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let at = list.index(i);
        let fields = ["containerName", "resourceName", "requestName"];
        let [name, resource, request] = fields.map(|f| mapping.str_of(f).unwrap_or_default());
        let container = ["containers", "initContainers"].iter().find_map(|list| {
            let named = |c: &&Value<'_>| c.str_of("name").unwrap_or_default() == name;
            pod.list_at(&["spec", list]).iter().rfind(named)
        });
        match container {
            None => errors.invalid(
                &at.child("containerName"),
                name,
                "must match the name of an entry in spec.initContainers.name or \
                 spec.containers.name",
            ),
            Some(container) if container.at(&["resources", "requests", resource]).is_none() => {
                errors.invalid(
                    &at.child("resourceName"),
                    resource,
                    "must match the extended resource name of an entry in \
                     spec.initContainers.resources.requests or spec.containers.resources.requests",
                );
            }
            Some(_) => {}
        }
        errors.each(&path.child("requestName"), request, dns_label(request));
        if !seen.insert([name, resource, request]) {
            for (field, value) in fields.iter().zip([name, resource, request]) {
                errors.duplicate(&at.child(field), value);
            }
        }
    }
    errors.named(
        &path.child("resourceClaimName"),
        status.str_of("resourceClaimName"),
        dns_subdomain,
    );
}

fn ips<'a>(pod: &Doc<'a>, list: &str) -> Vec<&'a str> {
    let items = pod.list_at(&["status", list]).iter();
    items
        .map(|item| item.str_of("ip").unwrap_or_default())
        .collect()
}

/// Addresses: valid ones (old ones may be anything), one of each family.
fn addresses(new: &Doc<'_>, old: &Doc<'_>, list: &str, path: &Path<'_>, errors: &mut Errors) {
    let (now, before) = (ips(new, list), ips(old, list));
    for (i, address) in now.iter().enumerate() {
        ip::ip(address, &before, &path.index(i), errors);
    }
    if now.len() < 2 {
        return;
    }
    let dual = ip::is_dual(now.iter().copied());
    if dual.is_none() {
        let bad = now
            .iter()
            .find(|a| ip::Address::parse(a).is_none())
            .copied();
        let at = now.iter().position(|a| Some(*a) == bad).unwrap_or(0);
        errors.internal(
            path,
            &format!(
                "failed to check for dual stack with error:invalid IP[{at}]: {}",
                bad.unwrap_or_default()
            ),
        );
    }
    if dual != Some(true) || now.len() > 2 {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid_value(path, new.get(&["status", list]), detail);
    }
}

fn pod_ips(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    addresses(new, old, "podIPs", path, errors);
    let single = new.str_at(&["status", "podIP"]).unwrap_or_default();
    match ips(new, "podIPs").first() {
        None if single.is_empty() => {}
        Some(first) if !single.is_empty() => {
            if *first != single {
                errors.invalid(
                    &path.index(0).child("ip"),
                    first,
                    "must be equal to `podIP`",
                );
            }
        }
        _ => {
            let detail = "podIP and podIPs must either both be set or both be unset";
            errors.invalid_value(path, new.get(&["status", "podIPs"]), detail);
        }
    }
}

fn host_ips(new: &Doc<'_>, old: &Doc<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list = ips(new, "hostIPs");
    let Some(first) = list.first() else { return };
    if *first != new.str_at(&["status", "hostIP"]).unwrap_or_default() {
        errors.invalid(
            &path.index(0).child("ip"),
            first,
            "must be equal to `hostIP`",
        );
    }
    addresses(new, old, "hostIPs", path, errors);
}

/// Who a container runs as.
fn user(pod: &Doc<'_>, status: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let Some(user) = status.at(&["user", "linux"]) else {
        return;
    };
    let at = at.child("user");
    let at = at.child("linux");
    match pod
        .get(&["spec", "os"])
        .map(|os| os.str_of("name").unwrap_or_default())
    {
        Some("windows") => errors.forbidden(&at, "cannot be set for a windows pod"),
        None | Some("linux") => {
            let (uid, gid) = (
                user.int_of("uid").unwrap_or(0),
                user.int_of("gid").unwrap_or(0),
            );
            errors.each_number(&at.child("uid"), uid, in_range(uid, 0, MAX_USER));
            errors.each_number(&at.child("gid"), gid, in_range(gid, 0, MAX_GROUP));
            let groups = at.child("supplementalGroups");
            for (g, group) in user.list_of("supplementalGroups").iter().enumerate() {
                let group = group.as_int().unwrap_or(0);
                errors.each_number(&groups.index(g), group, in_range(group, 0, MAX_GROUP));
            }
        }
        Some(_) => {}
    }
}

/// The health of devices a container has.
fn allocated(pod: &Doc<'_>, list: &str, status: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let resources = status.list_of("allocatedResourcesStatus");
    let at = at.child("allocatedResourcesStatus");
    let containers = match list {
        "containerStatuses" => pod.list_at(&["spec", "containers"]),
        "initContainerStatuses" => pod.list_at(&["spec", "initContainers"]),
        _ if resources.is_empty() => return,
        _ => return errors.forbidden(&at, "must not be specified in container status"),
    };
    let name = status.str_of("name").unwrap_or_default();
    let container = containers
        .iter()
        .find(|c| c.str_of("name").unwrap_or_default() == name);
    for (i, resource) in resources.iter().enumerate() {
        let at = at.index(i);
        let of = resource.str_of("name").unwrap_or_default();
        if let Some(container) = container {
            allocated_name(pod, container, of, &at.child("name"), errors);
        }
        let mut ids = HashSet::new();
        let list = at.child("resources");
        for (k, device) in resource.list_of("resources").iter().enumerate() {
            let at = list.index(k);
            let health = device.str_of("health").unwrap_or_default();
            errors.one_of(&at.child("health"), Some(health), &HEALTH, false);
            match device.str_of("message") {
                Some("") => {
                    errors.required(&at.child("message"), "must be non-empty if specified");
                }
                Some(text) if text.len() > MAX_HEALTH_MESSAGE => {
                    errors.too_long(&at.child("message"), MAX_HEALTH_MESSAGE);
                }
                Some(_) | None => {}
            }
            let id = device.str_of("resourceID").unwrap_or_default();
            if !ids.insert(id) {
                errors.duplicate(&at.child("resourceID"), id);
            }
        }
    }
}

fn allocated_name(
    pod: &Doc<'_>,
    container: &Value<'_>,
    name: &str,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(reference) = name.strip_prefix(CLAIM_PREFIX) else {
        if container.at(&["resources", "requests", name]).is_none() {
            errors.invalid(
                at,
                name,
                "must match one of the container's resource requests",
            );
        }
        return;
    };
    let claims = container
        .get("resources")
        .map(|r| r.list_of("claims"))
        .unwrap_or_default();
    let own = claims.iter().any(|claim| {
        let text = |field| claim.str_of(field).unwrap_or_default();
        match text("request") {
            "" => reference == text("name"),
            request => reference.split_once('/') == Some((text("name"), request)),
        }
    });
    if !own && !is_mapped(pod, container, reference) {
        let detail = "must match one of the container's resource claims as \
                      'claim:<claimName>/<requestName>' when container.resources.claims[*].request \
                      is set or 'claim:<claimName>' when it is empty";
        errors.invalid(at, name, detail);
    }
}

/// Whether the pod's claim for extended resources maps a request to the container.
fn is_mapped(pod: &Doc<'_>, container: &Value<'_>, reference: &str) -> bool {
    let Some(status) = pod.get(&["status", "extendedResourceClaimStatus"]) else {
        return false;
    };
    let Some((claim, request)) = reference.split_once('/') else {
        return false;
    };
    let same = |value: &Value<'_>, field: &str, text: &str| {
        value.str_of(field).unwrap_or_default() == text
    };
    let name = container.str_of("name").unwrap_or_default();
    !claim.is_empty()
        && !request.is_empty()
        && same(status, "resourceClaimName", claim)
        && status.list_of("requestMappings").iter().any(|mapping| {
            let resource = mapping.str_of("resourceName").unwrap_or_default();
            same(mapping, "containerName", name)
                && same(mapping, "requestName", request)
                && amount(container.get("resources"), "requests", resource)
                    .is_some_and(|q| q.sign() != 0)
        })
}
