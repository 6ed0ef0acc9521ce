//! NetworkPolicies: validation.
//!
//! Port of `pkg/apis/networking/validation/validation.go`.

use crate::doc::{Doc, Value};
use crate::validate::ip::{self, Cidr};
use crate::validate::meta::{Selectors, label_selector};
use crate::validate::names::{port_name, port_number};
use crate::validate::path::{Errors, Path};

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// A new NetworkPolicy.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    validate(doc, &Rules::default(), errors);
}

/// An updated NetworkPolicy: CIDRs the old one had are not looked at again, and label values in its
/// selectors only if they were all well-formed.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let mut rules = Rules::default();
    each_block(old, |block, _| {
        rules.kept.extend(block.str_of("cidr"));
        rules
            .kept
            .extend(block.list_of("except").iter().filter_map(Value::as_str));
    });
    let mut problems = Errors::default();
    let at = Path::new("spec");
    label_selector(
        old.get(&["spec", "podSelector"]),
        Selectors::Strict,
        &at,
        &mut problems,
    );
    if !problems.0.is_empty() {
        rules.selectors = Selectors::AnyValue;
    }
    validate(new, &rules, errors);
}

/// Warnings about CIDRs that are valid but not written as usual.
pub(crate) fn warnings(doc: &Doc<'_>) -> Vec<String> {
    let mut out = Vec::new();
    each_block(doc, |block, at| {
        ip::cidr_warnings(
            block.str_of("cidr").unwrap_or_default(),
            &at.child("cidr"),
            &mut out,
        );
        let list = at.child("except");
        for (i, text) in block
            .list_of("except")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            ip::cidr_warnings(text, &list.index(i), &mut out);
        }
    });
    out
}

/// What an update does not look at.
#[derive(Default)]
struct Rules<'a> {
    kept: Vec<&'a str>,
    selectors: Selectors,
}

/// Every `ipBlock` with its path.
fn each_block<'a>(doc: &Doc<'a>, mut visit: impl FnMut(&Value<'a>, &Path<'_>)) {
    let spec = Path::new("spec");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = spec.child(direction);
        for (i, rule) in doc.list_at(&["spec", direction]).iter().enumerate() {
            let rule_at = rules.index(i);
            let peers_at = rule_at.child(peers);
            for (p, peer) in rule.list_of(peers).iter().enumerate() {
                if let Some(block) = peer.get("ipBlock") {
                    visit(block, &peers_at.index(p).child("ipBlock"));
                }
            }
        }
    }
}

fn validate(doc: &Doc<'_>, rules: &Rules<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let selector = doc.get(&["spec", "podSelector"]);
    label_selector(
        selector,
        rules.selectors,
        &path.child("podSelector"),
        errors,
    );
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = path.child(direction);
        for (i, rule) in doc.list_at(&["spec", direction]).iter().enumerate() {
            let at = list.index(i);
            let ports_at = at.child("ports");
            for (p, item) in rule.list_of("ports").iter().enumerate() {
                port(item, &ports_at.index(p), errors);
            }
            let peers_at = at.child(peers);
            for (p, item) in rule.list_of(peers).iter().enumerate() {
                peer(item, rules, &peers_at.index(p), errors);
            }
        }
    }
    let types = doc.list_at(&["spec", "policyTypes"]);
    let at = path.child("policyTypes");
    if types.len() > TYPES.len() {
        let value = doc.get(&["spec", "policyTypes"]);
        return errors.invalid_value(&at, value, "may not specify more than two policyTypes");
    }
    for (i, ty) in types.iter().enumerate() {
        let ty = ty.as_str().unwrap_or_default();
        if !TYPES.contains(&ty) {
            errors.not_supported(&at.index(i), ty, &TYPES);
        }
    }
}

fn port(port: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    errors.one_of(
        &at.child("protocol"),
        port.str_of("protocol"),
        &PROTOCOLS,
        false,
    );
    let end = port.int_of("endPort");
    let end_at = at.child("endPort");
    match port.get("port") {
        Some(Value::Int(number)) => {
            errors.each_number(&at.child("port"), *number, port_number(*number));
            if let Some(end) = end {
                if end < *number {
                    let detail = "must be greater than or equal to `port`";
                    errors.invalid_number(&end_at, end, detail);
                }
                errors.each_number(&end_at, end, port_number(end));
            }
        }
        Some(Value::String(name)) => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is non-numeric";
                errors.invalid_number(&end_at, end, detail);
            }
            errors.each(&at.child("port"), name, port_name(name));
        }
        _ => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is not specified";
                errors.invalid_number(&end_at, end, detail);
            }
        }
    }
}

fn peer(peer: &Value<'_>, rules: &Rules<'_>, at: &Path<'_>, errors: &mut Errors) {
    let mut found = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if peer.get(selector).is_some() {
            found += 1;
            label_selector(
                peer.get(selector),
                rules.selectors,
                &at.child(selector),
                errors,
            );
        }
    }
    let block = peer.get("ipBlock");
    if let Some(block) = block {
        found += 1;
        ip_block(block, &rules.kept, &at.child("ipBlock"), errors);
    }
    if found == 0 {
        errors.required(at, "must specify a peer");
    } else if found > 1 && block.is_some() {
        errors.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &Value<'_>, kept: &[&str], at: &Path<'_>, errors: &mut Errors) {
    let text = block.str_of("cidr").unwrap_or_default();
    if text.is_empty() {
        return errors.required(&at.child("cidr"), "");
    }
    ip::cidr(text, kept, &at.child("cidr"), errors);
    let Some(cidr) = Cidr::parse(text) else {
        return;
    };
    let list = at.child("except");
    for (i, text) in block
        .list_of("except")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        let at = list.index(i);
        ip::cidr(text, kept, &at, errors);
        let Some(except) = Cidr::parse(text) else {
            continue;
        };
        if !cidr.contains(&except) || cidr.length >= except.length {
            errors.invalid(&at, text, "must be a strict subset of `cidr`");
        }
    }
}
