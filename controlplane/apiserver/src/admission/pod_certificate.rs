//! The certificates in PodCertificateRequests: that a new request proves possession of its key, that what
//! was issued is for this key and this life, and that whoever decides may sign for the signer.
//!
//! Port of `pkg/apis/certificates/validation` and of the status strategy in
//! `pkg/registry/certificates/podcertificaterequest`; all else is in `api/kinds/certificate/of_pod.rs`.
//! Keys on the curve P-521 are refused: nothing here can verify their signatures.

use api::strategy::same;
use api::{Doc, FieldError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA1WITHRSA, OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::call::Call;

/// The longest chain of certificates, in bytes.
const MAX_CHAIN: usize = 100 * 1024;
/// Bits of RSA keys.
const RSA_BITS: [usize; 2] = [3072, 4096];
/// How far the start of a certificate may be from now, in seconds.
const MAX_SKEW: i64 = 5 * 60;
/// The shortest life, and how far from both of its ends the refresh begins, in seconds.
const MIN_LIFE: i64 = 3600;
const REFRESH_MARGIN: i64 = 10 * 60;

const REQUEST: &str = "spec.stubPKCS10Request";
const CHAIN: &str = "status.certificateChain";
const NOT_BEFORE: &str = "status.notBefore";
const NOT_AFTER: &str = "status.notAfter";
const REFRESH: &str = "status.beginRefreshAt";

/// What is wrong with the request of a new object; one that is absent or too long was told already.
pub fn check_request(doc: &Doc<'_>) -> Option<FieldError> {
    let request = doc.str_at(&["spec", "stubPKCS10Request"])?;
    let wrong = |detail: &str| Some(FieldError::invalid_raw(REQUEST, "", detail));
    let der = STANDARD.decode(request).unwrap_or_default();
    let Some(request) = read_request(&der) else {
        return wrong("must be a valid PKCS#10 CSR");
    };
    if let Err(error) = check_key(&request.certification_request_info.subject_pki) {
        return Some(error);
    }
    let is_weak = request.signature_algorithm.algorithm == OID_PKCS1_SHA1WITHRSA;
    if is_weak || request.verify_signature().is_err() {
        return wrong("invalid signature");
    }
    None
}

/// What is wrong with an update of the status that is well-formed otherwise.
pub fn check_status(call: &Call, new: &Doc<'_>, old: &Doc<'_>) -> Option<FieldError> {
    if same(new, old, &["status"]) {
        return None;
    }
    if api::kinds::pod_certificate_end(new) == Some("Issued")
        && let Err(error) = check_issued(new, old, call.now)
    {
        return Some(error);
    }
    let signer = old.str_at(&["spec", "signerName"]).unwrap_or_default();
    if call.server.auth().may_sign(&call.user, signer) {
        return None;
    }
    let user = &call.user.username;
    Some(FieldError::forbidden(
        "spec.signerName",
        format!("User {user:?} is not permitted to \"sign\" for signer {signer:?}"),
    ))
}

fn read_request(der: &[u8]) -> Option<X509CertificationRequest<'_>> {
    let (rest, request) = X509CertificationRequest::from_der(der).ok()?;
    rest.is_empty().then_some(request)
}

fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), FieldError> {
    let wrong = |value: &str, detail: &str| {
        let error = if value.is_empty() {
            FieldError::invalid_raw(REQUEST, "", detail)
        } else {
            FieldError::invalid(REQUEST, value, detail)
        };
        Err(error)
    };
    let algorithm = &key.algorithm;
    if algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let parameters = algorithm.parameters.as_ref();
        let curve = parameters.and_then(|any| any.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            curve => {
                let curve = curve.map(|c| format!("curve {c}")).unwrap_or_default();
                wrong(&curve, "elliptic public keys must use curve P256 or P384")
            }
        };
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION => {
            // Rounded up to bytes, as `rsa.PublicKey.Size`.
            let bits = rsa.key_size().div_ceil(8) * 8;
            if RSA_BITS.contains(&bits) {
                return Ok(());
            }
            let value = format!("{bits}-bit modulus");
            wrong(&value, "RSA keys must have modulus size 3072 or 4096")
        }
        _ => wrong(
            "",
            "unknown public key type; supported types are Ed25519, ECDSA, and RSA",
        ),
    }
}

/// The certificate of a request that ends issued at `now`.
fn check_issued(new: &Doc<'_>, old: &Doc<'_>, now: i64) -> Result<(), FieldError> {
    let chain = new
        .str_at(&["status", "certificateChain"])
        .unwrap_or_default();
    let wrong = |detail: &str| FieldError::invalid(CHAIN, chain, detail);
    if chain.len() > MAX_CHAIN {
        return Err(FieldError::too_long(CHAIN, MAX_CHAIN));
    }
    // Upstream ends at the first block it cannot read, too.
    let mut blocks = Pem::iter_from_buffer(chain.as_bytes()).map_while(Result::ok);
    let Some(leaf) = blocks.next() else {
        return Err(wrong(
            "issued certificate chain must contain at least one certificate",
        ));
    };
    if leaf.label != "CERTIFICATE" {
        return Err(wrong(
            "issued certificate chain must consist entirely of CERTIFICATE PEM blocks",
        ));
    }
    let Ok((_, leaf)) = X509Certificate::from_der(&leaf.contents) else {
        return Err(wrong("leaf certificate does not parse as valid X.509"));
    };
    check_names(&leaf)?;
    let request = old
        .str_at(&["spec", "stubPKCS10Request"])
        .unwrap_or_default();
    let der = STANDARD.decode(request).unwrap_or_default();
    let Some(request) = read_request(&der) else {
        let detail = "must be a valid PKCS#10 CSR";
        return Err(FieldError::invalid_raw(REQUEST, "", detail));
    };
    let wanted = &request.certification_request_info.subject_pki;
    let key = leaf.public_key();
    if (&key.algorithm.algorithm, &key.subject_public_key.data)
        != (&wanted.algorithm.algorithm, &wanted.subject_public_key.data)
    {
        return Err(wrong(
            "leaf certificate was not issued to the requested public key",
        ));
    }
    check_times(new, &leaf, now)?;
    for block in blocks {
        if block.label != "CERTIFICATE" {
            return Err(wrong(
                "issued certificate chain must consist entirely of CERTFICATE PEM blocks",
            ));
        }
        if X509Certificate::from_der(&block.contents).is_err() {
            return Err(wrong(
                "intermediate certificate does not parse as valid X.509",
            ));
        }
    }
    Ok(())
}

fn check_names(leaf: &X509Certificate<'_>) -> Result<(), FieldError> {
    let names = leaf.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let (text, problem) = match name {
            GeneralName::DNSName(text) => (*text, dns_problem(text)),
            GeneralName::RFC822Name(text) if !is_mail_address(text) => (
                *text,
                Some("leaf certificate should not contain invalid EmailAddress"),
            ),
            _ => continue,
        };
        if let Some(detail) = problem {
            return Err(FieldError::invalid(CHAIN, text, detail));
        }
    }
    Ok(())
}

fn dns_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("leaf certificate should not contain empty DNSName")
    } else if name.contains("..") {
        Some("leaf certificate's DNSName should not contain '..'")
    } else if name.starts_with('.') || name.ends_with('.') {
        Some("leaf certificate's DNSName should not start or end with '.'")
    } else {
        None
    }
}

/// `local@domain`; upstream's parser also takes display names and quoted parts.
fn is_mail_address(text: &str) -> bool {
    let plain = |part: &str| {
        let special = |c: char| c.is_whitespace() || c.is_control() || "()<>[]:;@\\,\"".contains(c);
        !part.is_empty() && !part.contains(special)
    };
    text.rsplit_once('@')
        .is_some_and(|(local, domain)| plain(local) && plain(domain))
}

fn check_times(doc: &Doc<'_>, leaf: &X509Certificate<'_>, now: i64) -> Result<(), FieldError> {
    let time = |field: &str, detail: &str| {
        let text = doc.str_at(&["status", field]).unwrap_or_default();
        match api::time::parse_time(text) {
            Some(time) => Ok((time.unix_timestamp(), text)),
            None => Err(FieldError::required(format!("status.{field}"), detail)),
        }
    };
    let consistent = "must be present and consistent with the issued certificate";
    let (not_before, not_before_text) = time("notBefore", consistent)?;
    let (not_after, not_after_text) = time("notAfter", consistent)?;
    let (refresh, refresh_text) = time(
        "beginRefreshAt",
        "must be present and in the range [notbefore+10min, notafter-10min]",
    )?;
    let validity = leaf.validity();
    let must = |holds: bool, field: &str, value: &str, detail: &str| {
        if holds {
            Ok(())
        } else {
            Err(FieldError::invalid(field, value, detail))
        }
    };
    must(
        not_before == validity.not_before.timestamp(),
        NOT_BEFORE,
        not_before_text,
        "must be set to the NotBefore time encoded in the leaf certificate",
    )?;
    must(
        (not_before - now).abs() < MAX_SKEW,
        NOT_BEFORE,
        not_before_text,
        "must be set to within 5 minutes of kube-apiserver's current time",
    )?;
    must(
        not_after == validity.not_after.timestamp(),
        NOT_AFTER,
        not_after_text,
        "must be set to the NotAfter time encoded in the leaf certificate",
    )?;
    let life = not_after - not_before;
    let life_text = format!("{life}s");
    let max = doc.int_at(&["spec", "maxExpirationSeconds"]).unwrap_or(0);
    must(
        life >= MIN_LIFE,
        CHAIN,
        &life_text,
        "leaf certificate lifetime must be >= 1 hour",
    )?;
    must(
        life <= max,
        CHAIN,
        &life_text,
        &format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({max})"),
    )?;
    must(
        refresh >= not_before + REFRESH_MARGIN,
        REFRESH,
        refresh_text,
        "must be at least 10 minutes after status.notBefore",
    )?;
    must(
        refresh <= not_after - REFRESH_MARGIN,
        REFRESH,
        refresh_text,
        "must be at least 10 minutes before status.notAfter",
    )
}
