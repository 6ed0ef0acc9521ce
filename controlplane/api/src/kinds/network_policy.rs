//! NetworkPolicies: validation.
//!
//! Port of `pkg/apis/networking/validation/validation.go`.

use crate::doc::{Doc, Value};
use crate::validate::ip;
use crate::validate::meta::label_selector;
use crate::validate::names::{port_name, port_number};
use crate::validate::path::{Errors, Path};

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// A NetworkPolicy.
pub(crate) fn validate(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let selector = doc.get(&["spec", "podSelector"]);
    label_selector(selector, &path.child("podSelector"), errors);
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
                peer(item, &peers_at.index(p), errors);
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

fn peer(peer: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let mut found = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if peer.get(selector).is_some() {
            found += 1;
            label_selector(peer.get(selector), &at.child(selector), errors);
        }
    }
    let block = peer.get("ipBlock");
    if let Some(block) = block {
        found += 1;
        ip_block(block, &at.child("ipBlock"), errors);
    }
    if found == 0 {
        errors.required(at, "must specify a peer");
    } else if found > 1 && block.is_some() {
        errors.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let text = block.str_of("cidr").unwrap_or_default();
    if text.is_empty() {
        return errors.required(&at.child("cidr"), "");
    }
    let Some(cidr) = ip::cidr(text, &at.child("cidr"), errors) else {
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
        let Some(except) = ip::cidr(text, &at, errors) else {
            continue;
        };
        if !cidr.contains(&except) || cidr.length >= except.length {
            errors.invalid(&at, text, "must be a strict subset of `cidr`");
        }
    }
}
