//! What requests for certificates and pods say about signers: their names, the life of what they sign for
//! pods, and what pods tell them.
//!
//! Port of `pkg/apis/core/validation/names.go`, of `ValidateUserAnnotations` and of the limits in
//! `pkg/apis/certificates/types.go`.

use crate::doc::Object;
use crate::status::quote;
use crate::validate::meta::MAX_ANNOTATIONS_BYTES;
use crate::validate::names::{DNS_LABEL_MAX, DNS_SUBDOMAIN_MAX};
use crate::validate::names::{Problems, dns_label, dns_subdomain, label_key};
use crate::validate::path::{Errors, Path};

/// The longest name: domain, slash, and a namespaced name.
const MAX_NAME: usize = DNS_SUBDOMAIN_MAX + DNS_SUBDOMAIN_MAX + DNS_LABEL_MAX + 2;
/// A pod certificate's shortest life, in seconds, and the longest of upstream's own signers and of others.
const MIN_SECONDS: i64 = 3600;
const MAX_KUBERNETES_SECONDS: i64 = 24 * 3600;
const MAX_SECONDS: i64 = 91 * 24 * 3600;

/// The name of a signer: `domain.example/name`.
pub(crate) fn name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, own)) = name.split_once('/').filter(|(_, own)| !own.contains('/')) else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, detail);
    };
    if domain.len() > DNS_SUBDOMAIN_MAX {
        errors.too_long(path, DNS_SUBDOMAIN_MAX);
    }
    first_bad_label(domain, dns_label, path, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, domain, detail);
    }
    first_bad_label(own, dns_subdomain, path, errors);
    if name.len() > MAX_NAME {
        errors.too_long(path, MAX_NAME);
    }
}

fn first_bad_label(text: &str, check: fn(&str) -> Problems, path: &Path<'_>, errors: &mut Errors) {
    let problems = text.split('.').map(|label| (label, check(label)));
    if let Some((label, problems)) = problems.into_iter().find(|(_, p)| !p.is_empty()) {
        for problem in problems {
            let detail = format!("validating label {}: {problem}", quote(label));
            errors.invalid(path, text, detail);
        }
    }
}

/// The shortest and the longest life one may ask of a signer for a pod's certificate, in seconds.
pub(crate) fn life_of_pod_certificate(signer: &str) -> [i64; 2] {
    let host = signer.split('/').next().unwrap_or_default();
    let of_kubernetes = host == "kubernetes.io" || host.ends_with(".kubernetes.io");
    let max = if of_kubernetes {
        MAX_KUBERNETES_SECONDS
    } else {
        MAX_SECONDS
    };
    [MIN_SECONDS, max]
}

/// What a pod tells a signer: keys with a domain, as annotations otherwise.
pub(crate) fn user_annotations(map: Option<&Object<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in map.into_iter().flat_map(Object::iter) {
        size += key.len() + value.as_str().map_or(0, str::len);
        let key = key.to_lowercase();
        if key.is_empty() {
            errors.required(path, "");
            continue;
        }
        let problems = label_key(&key);
        if problems.is_empty() && !key.contains('/') {
            errors.invalid(
                path,
                &key,
                "must be a domain-prefixed key (such as \"acme.io/foo\")",
            );
        }
        errors.each(path, &key, problems);
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.too_long(path, MAX_ANNOTATIONS_BYTES);
    }
}
