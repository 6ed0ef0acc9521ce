//! Projections of CertificateSigningRequest and PodCertificateRequest.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::core::Condition;
use super::projection;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CertificateSigningRequest {
    pub metadata: ObjectMeta,
    pub spec: CertificateSigningRequestSpec,
    pub status: CertificateSigningRequestStatus,
}
projection!(
    CertificateSigningRequest,
    ClusterResourceScope,
    false,
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests"
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateSigningRequestSpec {
    pub request: ByteString,
    pub signer_name: String,
    pub username: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
    pub usages: Vec<String>,
    pub expiration_seconds: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CertificateSigningRequestStatus {
    pub conditions: Vec<Condition>,
    pub certificate: ByteString,
}

/// Only when it was made matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodCertificateRequest {
    pub metadata: ObjectMeta,
}
projection!(
    PodCertificateRequest,
    NamespaceResourceScope,
    true,
    "certificates.k8s.io",
    "v1",
    "podcertificaterequests"
);
