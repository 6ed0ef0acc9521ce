//! Cluster IPs and the families of a Service.

use std::net::IpAddr;

use api::{Doc, FieldError, List, Value};
use ipnetwork::IpNetwork;

use super::{Claims, claim, service_type, unclaim};
use crate::{ResourceId, call::Call, clock, storage::Write};

/// Random addresses tried before the range is walked.
const RANDOM_TRIES: usize = 64;
/// Addresses walked at most.
const MAX_WALK: u64 = 1 << 20;

/// Keeps the old addresses where the client left them out (upstream: patchAllocatedValues).
pub fn keep(doc: &mut Doc<'_>, old: &Doc<'_>) {
    if service_type(doc) == "ExternalName" || service_type(old) == "ExternalName" {
        return;
    }
    let given = |d: &Doc<'_>, field: &str| {
        d.get(&["spec", field])
            .is_some_and(|v| !v.is_null() && v.as_str() != Some(""))
    };
    if !given(doc, "clusterIP") && !given(doc, "clusterIPs") {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.get(&["spec", field]) {
                let value = value.copy_in(doc.arena());
                doc.set(&["spec", field], value);
            }
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if !given(doc, field)
            && let Some(value) = old.get(&["spec", field])
        {
            let value = value.copy_in(doc.arena());
            doc.set(&["spec", field], value);
        }
    }
}

/// The addresses a Service holds.
pub fn held(doc: &Doc<'_>) -> Vec<String> {
    if service_type(doc) == "ExternalName" {
        return Vec::new();
    }
    let mut ips: Vec<String> = doc
        .list_at(&["spec", "clusterIPs"])
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    if ips.is_empty() {
        ips.extend(doc.str_at(&["spec", "clusterIP"]).map(str::to_owned));
    }
    ips.retain(|ip| !ip.is_empty() && ip != "None");
    ips
}

pub fn release(call: &Call, ips: &[String]) -> Vec<Write> {
    ips.iter()
        .filter_map(|ip| unclaim(call, addresses(), ip))
        .collect()
}

/// Chooses families and addresses and claims what is new.
pub fn allocate(call: &Call, doc: &mut Doc<'_>, old: Option<&Doc<'_>>) -> Claims {
    let before = old.map(held).unwrap_or_default();
    if service_type(doc) == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if old.is_some() {
                doc.remove(&["spec", field]);
            }
        }
        // Its default from when it had another type (upstream: defaultOnReadInternalTrafficPolicy).
        doc.remove(&["spec", "internalTrafficPolicy"]);
        return Ok(release(call, &before));
    }
    let families = families(call, doc)?;
    let headless = is_headless(doc);
    let wanted = held(doc);
    let mut ips: Vec<String> = Vec::new();
    let mut writes = Vec::new();
    if !headless {
        for (index, family) in families.iter().enumerate() {
            let ip = match wanted.get(index) {
                Some(ip) if before.contains(ip) => ip.clone(),
                Some(ip) => explicit(call, *family, ip, &wanted)?,
                None => free(call, *family, &ips)?,
            };
            if !before.contains(&ip) {
                writes.push(claim(addresses(), &ip, ip_address(call, doc, &ip)));
            }
            ips.push(ip);
        }
    }
    let gone: Vec<String> = before.into_iter().filter(|ip| !ips.contains(ip)).collect();
    writes.extend(release(call, &gone));
    if headless {
        ips.push("None".into());
    }
    doc.set_str(&["spec", "clusterIP"], &ips[0]);
    set_strings(doc, "clusterIPs", ips.iter().map(String::as_str));
    let names = families.iter().map(|f| if *f { "IPv6" } else { "IPv4" });
    set_strings(doc, "ipFamilies", names);
    let policy = doc.str_at(&["spec", "ipFamilyPolicy"]).unwrap_or_default();
    if policy.is_empty() {
        let policy = if has_no_pods(doc) {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        doc.set_str(&["spec", "ipFamilyPolicy"], policy);
    }
    Ok(writes)
}

fn is_headless(doc: &Doc<'_>) -> bool {
    let first = doc.list_at(&["spec", "clusterIPs"]).first();
    doc.str_at(&["spec", "clusterIP"]) == Some("None")
        || first.and_then(Value::as_str) == Some("None")
}

/// Headless and without a selector: whose endpoints these are, and of which families, is not known here.
/// Whatever the cluster has, upstream takes them for dual-stack (pkg/registry/core/service/storage/alloc.go).
fn has_no_pods(doc: &Doc<'_>) -> bool {
    let selector = doc.get(&["spec", "selector"]).and_then(Value::as_object);
    is_headless(doc) && selector.is_none_or(|selector| selector.is_empty())
}

/// The families in order; true is IPv6.
fn families(call: &Call, doc: &Doc<'_>) -> Result<Vec<bool>, Vec<FieldError>> {
    let configured: Vec<bool> = call
        .server
        .options()
        .service_cidrs
        .iter()
        .map(IpNetwork::is_ipv6)
        .collect();
    let default = configured.first().copied().unwrap_or(false);
    let policy = doc.str_at(&["spec", "ipFamilyPolicy"]).unwrap_or_default();
    let mut families: Vec<bool> = doc
        .list_at(&["spec", "ipFamilies"])
        .iter()
        .filter_map(|v| v.as_str().map(|f| f == "IPv6"))
        .collect();
    if families.is_empty() {
        // The address the client names decides the family.
        families.extend(
            held(doc)
                .iter()
                .filter_map(|ip| ip.parse::<IpAddr>().ok())
                .map(|ip| ip.is_ipv6()),
        );
    }
    if families.is_empty() {
        families.push(default);
    }
    if has_no_pods(doc) {
        if families.len() == 1 && policy != "SingleStack" {
            families.push(!families[0]);
        }
        return Ok(families);
    }
    for (index, family) in families.iter().enumerate() {
        if !configured.contains(family) {
            let text = "not configured on this cluster";
            let name = if *family { "IPv6" } else { "IPv4" };
            let path = format!("spec.ipFamilies[{index}]");
            return Err(vec![FieldError::invalid(path, name, text)]);
        }
    }
    let other = configured.iter().find(|f| **f != families[0]).copied();
    match (policy, other) {
        ("RequireDualStack", None) => {
            let text = "this cluster is not configured for dual-stack services";
            return Err(vec![FieldError::invalid(
                "spec.ipFamilyPolicy",
                policy,
                text,
            )]);
        }
        ("RequireDualStack" | "PreferDualStack", Some(other)) if families.len() == 1 => {
            families.push(other);
        }
        ("" | "SingleStack", _) => families.truncate(1),
        _ => {}
    }
    Ok(families)
}

fn explicit(
    call: &Call,
    ipv6: bool,
    text: &str,
    all: &[String],
) -> Result<String, Vec<FieldError>> {
    let fail = |why: String| {
        let list = serde_json::to_string(all).unwrap_or_default();
        let text = format!("failed to allocate IP {text}: {why}");
        Err(vec![FieldError::invalid_raw("spec.clusterIPs", list, text)])
    };
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(vec![FieldError::invalid(
            "spec.clusterIPs[0]",
            text,
            "must be a valid IP address",
        )]);
    };
    let Some(network) = network(call, ipv6) else {
        return fail("no such range".into());
    };
    if ip.is_ipv6() != ipv6 || !network.contains(ip) {
        return fail("the provided network does not match the current range".into());
    }
    if !usable(network, ip) {
        return fail(format!(
            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {network}"
        ));
    }
    if is_taken(call, ip) {
        return fail("provided IP is already allocated".into());
    }
    Ok(ip.to_string())
}

fn free(call: &Call, ipv6: bool, besides: &[String]) -> Result<String, Vec<FieldError>> {
    let exhausted = || vec![FieldError::internal("spec.clusterIPs", "range is full")];
    let network = network(call, ipv6).ok_or_else(exhausted)?;
    let size = host_count(network);
    // The lower part is left to addresses people name (KEP-3070), as far as random goes.
    let reserved = (size / 16).clamp(16, 256).min(size / 2);
    let fits = |index: u64| {
        let ip = nth(network, index);
        (!is_taken(call, ip) && !besides.contains(&ip.to_string())).then(|| ip.to_string())
    };
    let random = (0..RANDOM_TRIES)
        .map(|_| reserved + clock::random_index(size.saturating_sub(reserved)) + 1)
        .filter(|index| *index <= size);
    let walk = 1..=size.min(MAX_WALK);
    random.chain(walk).find_map(fits).ok_or_else(exhausted)
}

fn is_taken(call: &Call, ip: IpAddr) -> bool {
    call.server
        .cache()
        .get(addresses(), "", &ip.to_string())
        .is_some()
}

fn addresses() -> ResourceId {
    ResourceId::named("networking.k8s.io", "ipaddresses")
}

fn network(call: &Call, ipv6: bool) -> Option<IpNetwork> {
    call.server
        .options()
        .service_cidrs
        .iter()
        .find(|n| n.is_ipv6() == ipv6)
        .copied()
}

/// Usable addresses: neither the network's own nor IPv4's broadcast.
fn host_count(network: IpNetwork) -> u64 {
    match network {
        IpNetwork::V4(n) => u64::from(n.size()).saturating_sub(2),
        IpNetwork::V6(n) => u64::try_from(n.size() - 1).unwrap_or(u64::MAX >> 1),
    }
}

fn usable(network: IpNetwork, ip: IpAddr) -> bool {
    let broadcast =
        matches!((network, ip), (IpNetwork::V4(n), IpAddr::V4(ip)) if n.broadcast() == ip);
    ip != network.network() && !broadcast
}

fn nth(network: IpNetwork, index: u64) -> IpAddr {
    match network.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base).wrapping_add(index as u32)).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base).wrapping_add(u128::from(index))).into()),
    }
}

/// The IPAddress object as upstream's allocator writes it, in canonical form.
fn ip_address(call: &Call, doc: &Doc<'_>, ip: &str) -> String {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    format!(
        r#"{{"kind":"IPAddress","apiVersion":"networking.k8s.io/v1","metadata":{{"name":"{ip}","uid":"{}","creationTimestamp":"{}","labels":{{"ipaddress.kubernetes.io/ip-family":"{family}","ipaddress.kubernetes.io/managed-by":"ipallocator.k8s.io"}}}},"spec":{{"parentRef":{{"resource":"services","namespace":"{}","name":"{}"}}}}}}"#,
        clock::new_uid(),
        call.now_text(),
        doc.namespace(),
        doc.name(),
    )
}

fn set_strings<'s>(doc: &mut Doc<'_>, field: &str, texts: impl Iterator<Item = &'s str>) {
    let arena = doc.arena();
    let mut list = List::new_in(arena);
    list.extend(texts.map(|t| Value::string_in(t, arena)));
    doc.set(&["spec", field], Value::List(list));
}
