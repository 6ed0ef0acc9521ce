//! TLS of the kubelet API: our serving certificate, and a client certificate of the cluster's CA that
//! belongs to the API server. Nodes have certificates of the same CA, so the CA alone is not enough.

use std::sync::{Arc, Mutex};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::KeyPair;

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

/// TLS for the kubelet API; new connections get the newest certificate in `serving`.
pub fn config(
    ca_pem: &[u8],
    serving: watch::Receiver<KeyPair>,
) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(cert?)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Newest::new(serving)?));
    // Streams are HTTP/1.1 upgrades.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// Presents the newest certificate there is.
#[derive(Debug)]
struct Newest(Mutex<Parsed>);

/// A certificate as TLS wants it, and where its successors come from.
#[derive(Debug)]
struct Parsed {
    pairs: watch::Receiver<KeyPair>,
    key: Arc<CertifiedKey>,
}

impl Newest {
    fn new(mut pairs: watch::Receiver<KeyPair>) -> Result<Self, Error> {
        let key = certified(&pairs.borrow_and_update())?;
        Ok(Self(Mutex::new(Parsed { pairs, key })))
    }
}

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut parsed = self.0.lock().expect("no holder of this lock panics");
        if parsed.pairs.has_changed().unwrap_or(false) {
            let newer = certified(&parsed.pairs.borrow_and_update());
            match newer {
                Ok(key) => parsed.key = key,
                Err(error) => tracing::error!(%error, "new serving certificate not usable"),
            }
        }
        Some(parsed.key.clone())
    }
}

fn certified(pair: &KeyPair) -> Result<Arc<CertifiedKey>, Error> {
    let chain = CertificateDer::pem_slice_iter(&pair.cert_pem).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&pair.key_pem)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> KeyPair {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["n".to_owned()]).unwrap();
        KeyPair {
            cert_pem: params.self_signed(&key).unwrap().pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        }
    }

    fn der(pair: &KeyPair) -> Vec<u8> {
        CertificateDer::from_pem_slice(&pair.cert_pem)
            .unwrap()
            .to_vec()
    }

    /// The certificate a new connection to `tls` shows.
    fn shown(tls: &Arc<rustls::ServerConfig>, roots: &[&KeyPair]) -> Vec<u8> {
        let mut store = RootCertStore::empty();
        for pair in roots {
            store.add(der(pair).into()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let name = "n".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = rustls::ServerConnection::new(tls.clone()).unwrap();
        while client.peer_certificates().is_none() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        client.peer_certificates().unwrap()[0].to_vec()
    }

    #[test]
    fn new_connections_see_a_renewed_certificate() {
        let (old, new) = (pair(), pair());
        let (sender, serving) = watch::channel(old.clone());
        let tls = Arc::new(config(&old.cert_pem, serving).unwrap());
        assert_eq!(shown(&tls, &[&old, &new]), der(&old));
        sender.send_replace(new.clone());
        assert_eq!(shown(&tls, &[&old, &new]), der(&new));
        // One that cannot be read changes nothing.
        sender.send_replace(KeyPair {
            cert_pem: Vec::new(),
            key_pem: b"?".to_vec(),
        });
        assert_eq!(shown(&tls, &[&old, &new]), der(&new));
    }
}
