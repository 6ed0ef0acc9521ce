//! Client certificates: is the chain one of our CAs', and whom does its subject name.
//!
//! Port of `k8s.io/apiserver/pkg/authentication/request/x509`: the common name is the user, each
//! organization a group.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::UserInfo;

/// Extra key under which a credential's id is shown.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Verified leaves that are remembered; then all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// Why certificates prove nothing.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("read the client CA: {0}")]
    Ca(String),
    #[error("verify the client certificate: {0}")]
    Verify(#[from] rustls::Error),
    #[error("read the client certificate")]
    Parse,
    #[error("the client certificate has no common name")]
    NoName,
    #[error("the client certificate has expired or is not valid yet")]
    Time,
}

/// Verifies client certificates. A connection shows the same one in every request, so what was
/// verified is remembered by its hash, with the time it is valid until.
pub struct ClientCertificates {
    verifier: Arc<dyn ClientCertVerifier>,
    verified: Mutex<HashMap<[u8; 32], Verified>>,
}

#[derive(Clone)]
struct Verified {
    user: UserInfo,
    not_after: i64,
}

impl ClientCertificates {
    /// Believes the CAs in a PEM bundle.
    pub fn new(ca_pem: &str) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|e| CertificateError::Ca(e.to_string()))?;
            roots
                .add(certificate)
                .map_err(|e| CertificateError::Ca(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| CertificateError::Ca(e.to_string()))?;
        Ok(Self {
            verifier,
            verified: Mutex::default(),
        })
    }

    /// Whom the chain (leaf first) proves, at `now` in Unix seconds.
    pub fn authenticate(
        &self,
        chain: &[CertificateDer<'static>],
        now: i64,
    ) -> Result<UserInfo, CertificateError> {
        let (leaf, intermediates) = chain.split_first().ok_or(CertificateError::Parse)?;
        let id: [u8; 32] = Sha256::digest(leaf).into();
        if let Some(known) = self.remembered(&id) {
            return if now <= known.not_after {
                Ok(known.user)
            } else {
                Err(CertificateError::Time)
            };
        }
        let seconds = u64::try_from(now).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        self.verifier
            .verify_client_cert(leaf, intermediates, time)?;
        let (user, not_after) = identity(leaf, &id)?;
        let mut verified = self
            .verified
            .lock()
            .expect("no code panics under this lock");
        if verified.len() >= MAX_REMEMBERED {
            verified.clear();
        }
        verified.insert(
            id,
            Verified {
                user: user.clone(),
                not_after,
            },
        );
        Ok(user)
    }

    fn remembered(&self, id: &[u8; 32]) -> Option<Verified> {
        self.verified
            .lock()
            .expect("no code panics under this lock")
            .get(id)
            .cloned()
    }
}

fn identity(leaf: &CertificateDer<'_>, id: &[u8]) -> Result<(UserInfo, i64), CertificateError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Parse)?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .filter_map(|name| name.as_str().ok())
        .find(|name| !name.is_empty())
        .ok_or(CertificateError::NoName)?;
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok());
    let mut user = UserInfo::new(name, groups);
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra
        .insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hex}")]);
    Ok((user, certificate.validity().not_after.timestamp()))
}
