//! What projected volumes must hold.
//!
//! Port of `validateProjectionSources` and of `pkg/apis/core/validation/names.go`.

use std::collections::HashSet;

use super::{downward_file, is_reserved, items, non_reserved, require, user};
use crate::doc::Value;
use crate::kinds::certificate::signer;
use crate::kinds::pod::options::Spec;
use crate::validate::meta::{Selectors, label_selector};
use crate::validate::names::{Problems, dns_subdomain};
use crate::validate::path::{Errors, Path};

/// A token's life, in seconds.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const KEY_TYPES: [&str; 6] = [
    "RSA3072",
    "RSA4096",
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
];
const SAME_PATH: &str = "conflicting duplicate paths";

/// The sources of a projected volume.
pub(super) fn sources(
    known: &Spec<'_, '_>,
    volume: &Value<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut paths: HashSet<&str> = HashSet::new();
    let list = path.child("sources");
    for (i, source) in volume.list_of("sources").iter().enumerate() {
        let at = list.index(i);
        for kind in ["secret", "configMap"] {
            let Some(keyed) = source.get(kind) else {
                continue;
            };
            let at = at.child(kind);
            require(keyed, "name", &at, errors);
            let name = keyed.str_of("name").unwrap_or_default();
            items(keyed, &at, errors, |target, errors| {
                if !target.is_empty() && !paths.insert(target) {
                    errors.invalid(path, name, SAME_PATH);
                }
            });
        }
        if let Some(downward) = source.get("downwardAPI") {
            for file in downward.list_of("items") {
                downward_file(file, &at.child("downwardAPI"), errors);
                let target = file.str_of("path").unwrap_or_default();
                if !target.is_empty() && !paths.insert(target) {
                    errors.invalid(path, target, SAME_PATH);
                }
            }
        }
        if let Some(token) = source.get("serviceAccountToken") {
            self::token(known, token, path, &at.child("serviceAccountToken"), errors);
        }
        if let Some(bundle) = source.get("clusterTrustBundle") {
            trust_bundle(bundle, &at.child("clusterTrustBundle"), errors);
            let target = bundle.str_of("path").unwrap_or_default();
            if !paths.insert(target) {
                errors.invalid(path, target, SAME_PATH);
            }
        }
        if let Some(certificate) = source.get("podCertificate") {
            let at = at.child("podCertificate");
            self::certificate(certificate, &at, errors);
            certificate_paths(certificate, path, &at, &mut paths, errors);
        }
        if source.as_object().is_some_and(|o| o.len() > 1) {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn token(
    known: &Spec<'_, '_>,
    token: &Value<'_>,
    volume: &Path<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let seconds_at = at.child("expirationSeconds");
    match token.int_of("expirationSeconds") {
        None => errors.required(&seconds_at, ""),
        Some(s) if s < MIN_TOKEN_SECONDS => {
            let detail = "may not specify a duration less than 10 minutes";
            errors.invalid_number(&seconds_at, s, detail);
        }
        Some(s) if s > MAX_TOKEN_SECONDS => {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.invalid_number(&seconds_at, s, detail);
        }
        Some(_) => {}
    }
    match token.str_of("path").unwrap_or_default() {
        "" => errors.required(&volume.child("path"), ""),
        _ if known.options.foreign_token_paths => {}
        text => non_reserved(text, &volume.child("path"), errors),
    }
    user(token, "user", at, errors);
}

fn trust_bundle(bundle: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let selector = bundle.get("labelSelector");
    match (bundle.str_of("name"), bundle.str_of("signerName")) {
        (Some(_), Some(_)) => {
            let detail = "only one of name and signerName may be used";
            errors.invalid_value(at, Some(bundle), detail);
        }
        (Some(name), None) => {
            let name_at = at.child("name");
            if name.is_empty() {
                errors.required(&name_at, "must be a valid object name");
            }
            for problem in trust_bundle_name(name) {
                let detail = format!("not a valid clustertrustbundlename: {problem}");
                errors.invalid(&name_at, name, detail);
            }
            if selector.is_some() {
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid_value(&at.child("labelSelector"), selector, detail);
            }
        }
        (None, Some(signer)) => {
            let signer_at = at.child("signerName");
            if signer.is_empty() {
                errors.required(&signer_at, "must be a valid signer name");
            }
            signer::name(signer, &signer_at, errors);
            label_selector(
                selector,
                Selectors::Strict,
                &at.child("labelSelector"),
                errors,
            );
        }
        (None, None) => errors.required(at, "either name or signerName must be specified"),
    }
    require(bundle, "path", at, errors);
    user(bundle, "user", at, errors);
    non_reserved(
        bundle.str_of("path").unwrap_or_default(),
        &at.child("path"),
        errors,
    );
}

/// A bundle of a signer is named after the signer, with colons for slashes, and a name of its own.
fn trust_bundle_name(name: &str) -> Problems {
    match name.rsplit_once(':') {
        None => dns_subdomain(name),
        Some(("", _)) => {
            let text = "ClusterTrustBundle without signer name must not have \":\" in its name";
            vec![text.to_owned()]
        }
        Some((_, own)) => dns_subdomain(own),
    }
}

fn certificate(certificate: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let text = |field| certificate.str_of(field).unwrap_or_default();
    signer::name(text("signerName"), &at.child("signerName"), errors);
    let annotations = certificate
        .get("userAnnotations")
        .and_then(Value::as_object);
    signer::user_annotations(annotations, &at.child("userAnnotations"), errors);
    user(certificate, "user", at, errors);
    if !KEY_TYPES.contains(&text("keyType")) {
        errors.not_supported(&at.child("keyType"), text("keyType"), &KEY_TYPES);
    }
    let Some(seconds) = certificate.int_of("maxExpirationSeconds") else {
        return;
    };
    let seconds_at = at.child("maxExpirationSeconds");
    let mut wrong = |is: bool, bound: String| {
        if is {
            let detail = format!("if provided, maxExpirationSeconds must be {bound}");
            errors.invalid_number(&seconds_at, seconds, detail);
        }
    };
    let [min, max] = signer::life_of_pod_certificate(text("signerName"));
    wrong(seconds < min, format!(">= {min}"));
    wrong(seconds > max, format!("<= {max}"));
}

fn certificate_paths<'v>(
    certificate: &'v Value<'_>,
    volume: &Path<'_>,
    at: &Path<'_>,
    paths: &mut HashSet<&'v str>,
    errors: &mut Errors,
) {
    let mut count = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let target = certificate.str_of(field).unwrap_or_default();
        if target.is_empty() {
            continue;
        }
        count += 1;
        non_reserved(target, &at.child(field), errors);
        if !paths.insert(target) {
            errors.invalid(volume, target, SAME_PATH);
        }
    }
    if count == 0 {
        let detail =
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(at, detail);
    }
}

/// Tokens need a service account.
pub(in super::super) fn no_tokens(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let volumes = path.child("volumes");
    for (v, volume) in spec.list_of("volumes").iter().enumerate() {
        let Some(projected) = volume.get("projected") else {
            continue;
        };
        let volume_at = volumes.index(v);
        let projected_at = volume_at.child("projected");
        let list = projected_at.child("sources");
        for (s, source) in projected.list_of("sources").iter().enumerate() {
            if source.get("serviceAccountToken").is_some() {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&list.index(s).child("serviceAccountToken"), detail);
            }
        }
    }
}

/// Whether a spec has tokens with paths out of their volume.
pub(in super::super) fn has_foreign_token_paths(spec: &Value<'_>) -> bool {
    let projected = spec
        .list_of("volumes")
        .iter()
        .filter_map(|v| v.get("projected"));
    projected
        .flat_map(|p| p.list_of("sources"))
        .filter_map(|s| s.get("serviceAccountToken"))
        .any(|token| is_reserved(token.str_of("path").unwrap_or_default()))
}
