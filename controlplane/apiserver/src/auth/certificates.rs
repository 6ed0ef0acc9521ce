//! Admission of CertificateSigningRequests: who may approve and sign for a signer, and which subjects
//! nobody gets.
//!
//! Ports of `plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}`.

use api::{Doc, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use crate::attributes::Attributes;
use crate::identity::GROUP_MASTERS;

pub const GROUP: &str = "certificates.k8s.io";

/// The subject of a certificate request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// The subject of a request as `spec.request` has it: base64 of PEM.
pub fn subject(request: &str) -> Option<Subject> {
    let pem = STANDARD.decode(request).ok()?;
    let (_, pem) = parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let text = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        name.as_str().unwrap_or_default().to_owned()
    };
    Some(Subject {
        common_name: subject
            .iter_common_name()
            .next()
            .map(text)
            .unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
    })
}

/// Checks a write of a request; `may` asks the authorizers about the writer.
pub fn check(
    asked: &Attributes,
    new: &Doc<'_>,
    old: Option<&serde_json::Value>,
    may: impl Fn(&Attributes) -> bool,
) -> Result<(), Status> {
    let signer = match old {
        Some(old) => old["spec"]["signerName"].as_str().unwrap_or_default(),
        None => new.str_at(&["spec", "signerName"]).unwrap_or_default(),
    };
    let forbid = |why: String| Err(Status::forbidden(GROUP, &asked.resource, new.name(), &why));
    match (asked.verb.as_str(), asked.subresource.as_str()) {
        ("create", "") => {
            let request = new.str_at(&["spec", "request"]).unwrap_or_default();
            let masters = signer == "kubernetes.io/kube-apiserver-client"
                && subject(request)
                    .is_some_and(|s| s.organizations.iter().any(|o| o == GROUP_MASTERS));
            if masters {
                return forbid(format!(
                    "use of {signer} signer with {GROUP_MASTERS} group is not allowed"
                ));
            }
            Ok(())
        }
        ("update" | "patch", "approval") if !may_for_signer("approve", signer, &may) => forbid(
            format!("user not permitted to approve requests with signerName {signer:?}"),
        ),
        ("update" | "patch", "status") => {
            let before = old.and_then(|old| old["status"]["certificate"].as_str());
            let after = new.str_at(&["status", "certificate"]);
            if before != after && !may_for_signer("sign", signer, &may) {
                return forbid(format!(
                    "user not permitted to sign requests with signerName {signer:?}"
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// By the signer's name or by its domain.
pub fn may_for_signer(verb: &str, signer: &str, may: impl Fn(&Attributes) -> bool) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer.to_owned(), format!("{domain}/*")]
        .into_iter()
        .any(|name| {
            may(&Attributes {
                verb: verb.to_owned(),
                is_resource: true,
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                ..Attributes::default()
            })
        })
}
