//! Signs approved requests with the cluster CA, and forgets old requests.
//!
//! Mechanism of pkg/controller/certificates/signer/signer.go, authority/policies.go and
//! cleaner/cleaner.go. The plan says what to sign; `Signer` holds the key.

use std::time::Duration;

use ::time::OffsetDateTime;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use rand::Rng;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber};
use serde_json::json;

use super::approve::{is_node_client, is_node_serving};
use super::request::{Request, parse};
use super::{CLIENT_SIGNER, NODE_CLIENT_SIGNER, NODE_SERVING_SIGNER, has_condition};
use crate::driver::apply::FollowUp;
use crate::kinds::{CertificateSigningRequest, Projection, condition};
use crate::object::{Key, MetaExt, time};
use crate::plan::{Controller, Cx, Job, Plan};
use crate::view::{Change, World};
use crate::write::{Edit, Write};

/// Longest validity of a signed certificate.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Shortest validity.
const MIN_TTL: Duration = Duration::from_secs(10 * 60);
/// Certificates are valid from a little before they are signed: clocks differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Certificates shorter than this are not shortened by the backdating.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// Decided requests are kept this long.
const KEEP_DECIDED: Duration = Duration::from_secs(3600);
/// Undecided requests are kept this long.
const KEEP_PENDING: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a serial number.
const SERIAL_LEN: usize = 16;

/// What to sign.
#[derive(Clone, Debug, PartialEq)]
pub struct Sign {
    pub key: Key,
    pub resource_version: String,
    pub request: Vec<u8>,
    pub usages: Vec<String>,
    pub ttl: Duration,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct Signing;

impl Controller for Signing {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn react(&mut self, _: &World, change: &Change, keys: &mut Vec<Key>) {
        if let Change::CertificateSigningRequest(delta) = change {
            keys.push(delta.key());
        }
    }

    fn plan(&mut self, world: &World, key: &Key, cx: &Cx<'_>) -> Plan {
        let Some(csr) = world.requests.get(key) else {
            return Plan::nothing();
        };
        plan(csr, cx)
    }
}

fn plan(csr: &CertificateSigningRequest, cx: &Cx<'_>) -> Plan {
    let is_ours =
        [NODE_CLIENT_SIGNER, NODE_SERVING_SIGNER, CLIENT_SIGNER].contains(&&*csr.spec.signer_name);
    let wants_signature = is_ours
        && has_condition(csr, "Approved")
        && !has_condition(csr, "Denied")
        && !has_condition(csr, "Failed")
        && csr.status.certificate.0.is_empty();
    if !wants_signature {
        return forget(csr, cx);
    }
    if let Err(reason) = check(csr) {
        return Plan::write(failed(&Key::of(&csr.metadata), csr, reason, cx));
    }
    let ttl = csr.spec.expiration_seconds.map_or(MAX_TTL, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).clamp(MIN_TTL, MAX_TTL)
    });
    let sign = Sign {
        key: Key::of(&csr.metadata),
        resource_version: csr.metadata.resource_version().to_owned(),
        request: csr.spec.request.0.clone(),
        usages: csr.spec.usages.clone(),
        ttl,
        now: cx.now,
    };
    Plan {
        job: Some(Job::Sign(sign)),
        ..Plan::default()
    }
}

/// Even an approved request must have the form its signer stands for.
fn check(csr: &CertificateSigningRequest) -> Result<(), &'static str> {
    let spec = &csr.spec;
    let request = Request::read(&spec.request.0).map_err(|_| "the request cannot be parsed")?;
    let is_valid = match spec.signer_name.as_str() {
        NODE_CLIENT_SIGNER => is_node_client(spec, &request),
        NODE_SERVING_SIGNER => is_node_serving(spec, &request),
        _ => {
            let allowed = ["digital signature", "key encipherment", "client auth"];
            spec.usages.iter().any(|u| u == "client auth")
                && spec.usages.iter().all(|u| allowed.contains(&u.as_str()))
        }
    };
    is_valid
        .then_some(())
        .ok_or("the request does not have the form its signer requires")
}

fn failed(key: &Key, csr: &CertificateSigningRequest, reason: &str, cx: &Cx<'_>) -> Write {
    let now = time(cx.now);
    let mut conditions =
        serde_json::to_value(&csr.status.conditions).expect("conditions are plain data");
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.push(json!({
            "type": "Failed", "status": "True", "reason": "SignerValidationFailure",
            "message": reason, "lastUpdateTime": now, "lastTransitionTime": now,
        }));
    }
    Write::edit_status(
        &CertificateSigningRequest::RESOURCE,
        key.clone(),
        csr.metadata.resource_version(),
        vec![Edit::set("/status/conditions", conditions)],
    )
}

/// Deletes a request some time after it was decided, or not decided.
fn forget(csr: &CertificateSigningRequest, cx: &Cx<'_>) -> Plan {
    let decided = ["Approved", "Denied", "Failed"]
        .iter()
        .filter_map(|type_| condition(&csr.status.conditions, type_))
        .filter_map(|c| c.last_update_time.as_ref().map(|t| t.0))
        .max();
    let (since, keep) = match decided {
        Some(at) => (at, KEEP_DECIDED),
        None => (csr.metadata.created(), KEEP_PENDING),
    };
    let age = cx.now.as_second() - since.as_second();
    let left = keep.as_secs() as i64 - age;
    if left > 0 {
        return Plan::after(Duration::from_secs(u64::try_from(left).unwrap_or(1)));
    }
    let key = Key::of(&csr.metadata);
    Plan::write(Write::delete(
        &CertificateSigningRequest::RESOURCE,
        key,
        csr.metadata.uid(),
    ))
}

/// The cluster CA's key.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("read the CA's key")]
    Key(#[source] rcgen::Error),
    #[error("read the CA's certificate")]
    Certificate(#[source] rcgen::Error),
    #[error("the CA's certificate is not X.509")]
    NotX509,
    #[error("the CA's certificate has expired")]
    Expired,
    #[error("parse the request")]
    Request(#[source] super::request::ParseError),
    #[error("unknown usage {0:?}")]
    Usage(String),
    #[error("sign the request")]
    Sign(#[source] rcgen::Error),
}

impl Signer {
    pub fn new(ca_cert_pem: &str, ca_key_pem: &str) -> Result<Self, SignError> {
        let key = KeyPair::from_pem(ca_key_pem).map_err(SignError::Key)?;
        let issuer = Issuer::from_ca_cert_pem(ca_cert_pem, key).map_err(SignError::Certificate)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(ca_cert_pem.as_bytes())
            .map_err(|_| SignError::NotX509)?;
        let ca = pem.parse_x509().map_err(|_| SignError::NotX509)?;
        let not_after = ca.validity().not_after.to_datetime();
        Ok(Self { issuer, not_after })
    }

    /// Signs, and says how to hand the certificate over.
    pub fn sign(&self, sign: Sign) -> FollowUp {
        match self.certificate(&sign) {
            Ok(pem) => {
                let write = Write::edit_status(
                    &CertificateSigningRequest::RESOURCE,
                    sign.key,
                    &sign.resource_version,
                    vec![Edit::set("/status/certificate", STANDARD.encode(pem))],
                );
                FollowUp {
                    writes: vec![write],
                    ..FollowUp::default()
                }
            }
            Err(error) => FollowUp {
                failure: Some(error.to_string()),
                ..FollowUp::default()
            },
        }
    }

    fn certificate(&self, sign: &Sign) -> Result<String, SignError> {
        let mut request = parse(&sign.request).map_err(SignError::Request)?;
        let now = OffsetDateTime::from_unix_timestamp(sign.now.as_second())
            .map_err(|_| SignError::Expired)?;
        if now >= self.not_after {
            return Err(SignError::Expired);
        }
        let ttl = if sign.ttl < SHORT {
            sign.ttl
        } else {
            sign.ttl - BACKDATE
        };
        let params = &mut request.params;
        params.not_before = now - BACKDATE;
        params.not_after = (now + ttl).min(self.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions.clear();
        params.serial_number = Some(serial());
        (params.key_usages, params.extended_key_usages) = usages(&sign.usages)?;
        Ok(request
            .signed_by(&self.issuer)
            .map_err(SignError::Sign)?
            .pem())
    }
}

fn serial() -> SerialNumber {
    let mut bytes = [0_u8; SERIAL_LEN];
    rand::rng().fill_bytes(&mut bytes);
    // A serial number is positive.
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

fn usages(
    names: &[String],
) -> Result<(Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>), SignError> {
    let mut key = Vec::new();
    let mut extended = Vec::new();
    for name in names {
        match name.as_str() {
            "signing" | "digital signature" => key.push(KeyUsagePurpose::DigitalSignature),
            "key encipherment" => key.push(KeyUsagePurpose::KeyEncipherment),
            "key agreement" => key.push(KeyUsagePurpose::KeyAgreement),
            "data encipherment" => key.push(KeyUsagePurpose::DataEncipherment),
            "server auth" => extended.push(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => extended.push(ExtendedKeyUsagePurpose::ClientAuth),
            _ => return Err(SignError::Usage(name.clone())),
        }
    }
    Ok((key, extended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType};

    fn signer() -> Signer {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "windlass-ca");
        let ca = params.self_signed(&key).unwrap();
        Signer::new(&ca.pem(), &key.serialize_pem()).unwrap()
    }

    fn node_request() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "system:node:a");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap()
            .into_bytes()
    }

    #[test]
    fn a_signed_certificate_has_the_asked_usages_and_is_no_ca() {
        let sign = Sign {
            key: Key::cluster("r"),
            resource_version: "1".into(),
            request: node_request(),
            usages: vec!["digital signature".into(), "client auth".into()],
            ttl: MAX_TTL,
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        };
        let pem = signer().certificate(&sign).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert!(!certificate.is_ca());
        assert!(
            certificate
                .subject()
                .to_string()
                .contains("CN=system:node:a")
        );
        let usage = certificate.extended_key_usage().unwrap().unwrap();
        assert!(usage.value.client_auth && !usage.value.server_auth);
        let validity = certificate.validity();
        assert_eq!(
            validity.not_after.timestamp() - validity.not_before.timestamp(),
            MAX_TTL.as_secs() as i64
        );
    }

    #[test]
    fn only_an_approved_request_of_the_right_form_is_signed() {
        let csr = |conditions: serde_json::Value, usage: &str| -> CertificateSigningRequest {
            serde_json::from_value(json!({
                "metadata": {"name": "r", "uid": "u", "resourceVersion": "1",
                    "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": STANDARD.encode(node_request()),
                    "signerName": NODE_CLIENT_SIGNER, "username": "x",
                    "usages": ["digital signature", usage]},
                "status": {"conditions": conditions}}))
            .unwrap()
        };
        let now = "2026-01-01T00:00:01Z".parse().unwrap();
        let cx = Cx { now, failure: None };
        let approved = json!([{"type": "Approved", "status": "True",
            "lastUpdateTime": "2026-01-01T00:00:00Z"}]);
        assert!(plan(&csr(json!([]), "client auth"), &cx).job.is_none());
        assert!(
            plan(&csr(approved.clone(), "client auth"), &cx)
                .job
                .is_some()
        );
        let refused = plan(&csr(approved, "server auth"), &cx);
        assert!(refused.job.is_none() && refused.writes.len() == 1);
    }
}
