//! One certificate by CertificateSigningRequest: make a key, create the request, watch it until it
//! is signed, denied or failed. It knows the three requests of a node, not who approves them.

use std::net::IpAddr;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};

use crate::config::KeyPair;

/// How long a request may wait for approval and signature.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make the certificate request of {subject}: {source}")]
    Make {
        subject: String,
        source: rcgen::Error,
    },
    #[error("{message}")]
    Refused { message: String },
    #[error("create the certificate request of {subject}: {source}")]
    Create {
        subject: String,
        source: Box<kube::Error>,
    },
    #[error("watch certificate request {name}: {source}")]
    Watch {
        name: String,
        source: Box<watcher::Error>,
    },
    #[error("certificate request {name} of {subject} was {verdict}: {message}")]
    Rejected {
        name: String,
        subject: String,
        verdict: String,
        message: String,
    },
    #[error("certificate request {name} of {subject} was not signed within {} s", TIMEOUT.as_secs())]
    Timeout { name: String, subject: String },
}

/// What is asked for.
pub struct Request {
    subject: String,
    organization: &'static str,
    signer: &'static str,
    usages: &'static [&'static str],
    sans: Vec<SanType>,
}

const CLIENT_USAGES: &[&str] = &["digital signature", "client auth"];
const SERVER_USAGES: &[&str] = &["digital signature", "server auth"];

impl Request {
    /// The pod half's client certificate.
    pub fn node(node: &str) -> Self {
        Request {
            subject: format!("system:node:{node}"),
            organization: "system:nodes",
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            usages: CLIENT_USAGES,
            sans: Vec::new(),
        }
    }

    /// The net half's client certificate.
    pub fn net(node: &str) -> Self {
        Request {
            subject: format!("windlass:net:{node}"),
            organization: "windlass:net",
            signer: "kubernetes.io/kube-apiserver-client",
            usages: CLIENT_USAGES,
            sans: Vec::new(),
        }
    }

    /// The serving certificate of the kubelet API.
    pub fn serving(node: &str, ips: &[IpAddr]) -> Self {
        Request {
            subject: format!("system:node:{node}"),
            organization: "system:nodes",
            signer: "kubernetes.io/kubelet-serving",
            usages: SERVER_USAGES,
            sans: names(node, ips),
        }
    }
}

/// What a node's serving certificate is good for.
pub fn names(node: &str, ips: &[IpAddr]) -> Vec<SanType> {
    let mut names: Vec<_> = ips.iter().map(|ip| SanType::IpAddress(*ip)).collect();
    if let Ok(name) = node.try_into() {
        names.push(SanType::DnsName(name));
    }
    names
}

/// Creates the request and waits for its certificate.
pub async fn obtain(client: &Client, request: Request) -> Result<KeyPair, Error> {
    let Request {
        subject,
        organization,
        signer,
        usages,
        sans,
    } = request;
    let make = |source| Error::Make {
        subject: subject.clone(),
        source,
    };
    let key = rcgen::KeyPair::generate().map_err(make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    params
        .distinguished_name
        .push(DnType::CommonName, subject.as_str());
    params.subject_alt_names = sans;
    let pem = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(make)?;
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("csr-".to_owned()),
            ..Default::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
            ..Default::default()
        },
        status: None,
    };
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let created =
        api.create(&PostParams::default(), &object)
            .await
            .map_err(|error| match error {
                kube::Error::Api(status) if matches!(status.code, 401 | 403) => Error::Refused {
                    message: status.message.clone(),
                },
                source => Error::Create {
                    subject: subject.clone(),
                    source: Box::new(source),
                },
            })?;
    let name = created.metadata.name.unwrap_or_default();
    match tokio::time::timeout(TIMEOUT, signed(api, &name, &subject)).await {
        Ok(result) => result.map(|cert_pem| KeyPair {
            cert_pem,
            key_pem: key.serialize_pem().into_bytes(),
        }),
        Err(_) => Err(Error::Timeout { name, subject }),
    }
}

async fn signed(
    api: Api<CertificateSigningRequest>,
    name: &str,
    subject: &str,
) -> Result<Vec<u8>, Error> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher::watcher(api, config);
    let mut stream = std::pin::pin!(stream);
    loop {
        let event = stream.try_next().await.map_err(|source| Error::Watch {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        let object = match event {
            Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => object,
            Some(_) => continue,
            None => return Err(rejected(name, subject, "forgotten", "the watch ended")),
        };
        let Some(status) = object.status else {
            continue;
        };
        if let Some(verdict) = verdict(&status) {
            return Err(rejected(name, subject, &verdict.0, &verdict.1));
        }
        if let Some(ByteString(certificate)) = status.certificate {
            return Ok(certificate);
        }
    }
}

fn verdict(status: &CertificateSigningRequestStatus) -> Option<(String, String)> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"))
        .map(|condition| {
            (
                condition.type_.to_lowercase(),
                condition.message.clone().unwrap_or_default(),
            )
        })
}

fn rejected(name: &str, subject: &str, verdict: &str, message: &str) -> Error {
    Error::Rejected {
        name: name.to_owned(),
        subject: subject.to_owned(),
        verdict: verdict.to_owned(),
        message: message.to_owned(),
    }
}
