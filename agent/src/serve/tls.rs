//! TLS of the kubelet API: our serving certificate, and a client certificate of the cluster's CA that
//! belongs to the API server. Nodes have certificates of the same CA, so the CA alone is not enough.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Config;

/// Who may use the kubelet API: the API server's client certificate, and cluster administrators.
const CLIENT_NAME: &str = "kube-apiserver-kubelet-client";
const ADMIN_GROUP: &str = "system:masters";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("the cluster CA is not usable: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("serving certificate: {0}")]
    Tls(#[from] rustls::Error),
}

pub fn config(config: &Config) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&config.ca_pem) {
        roots.add(cert?)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain =
        CertificateDer::pem_slice_iter(&config.serving.cert_pem).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&config.serving.key_pem)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    // Streams are HTTP/1.1 upgrades.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// Whether the peer's (verified) certificate may use the kubelet API.
pub fn allowed(certificates: Option<&[CertificateDer<'_>]>) -> bool {
    let Some(leaf) = certificates.and_then(<[_]>::first) else {
        return false;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let subject = certificate.subject();
    let is = |value: &x509_parser::x509::AttributeTypeAndValue<'_>, wanted: &str| {
        value.as_str().is_ok_and(|value| value == wanted)
    };
    subject.iter_common_name().any(|name| is(name, CLIENT_NAME))
        || subject
            .iter_organization()
            .any(|group| is(group, ADMIN_GROUP))
}
