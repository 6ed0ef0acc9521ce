//! Keys of pods' certificates: made here, in PEM for the pod, and proven to be held by an empty PKCS#10
//! request (upstream: `generateKeyAndProof` in `pkg/kubelet/podcertificate/podcertificatemanager.go`).

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

use crate::join::pem_block;

/// PKCS#8 of an Ed25519 key without its public half: the seed follows.
const ED25519_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const ED25519_SEED: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "key type {0} is not supported by this node, which makes ECDSAP256, ECDSAP384 and ED25519 keys"
    )]
    Unsupported(String),
    #[error("make a key of type {key_type}: {source}")]
    Make {
        key_type: String,
        source: rcgen::Error,
    },
}

/// A key and the request that proves it.
#[derive(Clone)]
pub struct Proof {
    pub key_pem: Vec<u8>,
    /// PKCS#10 in DER.
    pub request: Vec<u8>,
}

/// A new key of a type of the API.
pub fn make(key_type: &str) -> Result<Proof, Error> {
    let algorithm = match key_type {
        "ECDSAP256" => &PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &PKCS_ECDSA_P384_SHA384,
        "ED25519" => &PKCS_ED25519,
        other => return Err(Error::Unsupported(other.to_owned())),
    };
    let failed = |source| Error::Make {
        key_type: key_type.to_owned(),
        source,
    };
    let key = KeyPair::generate_for(algorithm).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok(Proof {
        key_pem: pem_block("PRIVATE KEY", &plain(key.serialize_der())),
        request: request.der().to_vec(),
    })
}

/// Readers of keys older than RFC 5958 do not know keys that carry their public half.
fn plain(der: Vec<u8>) -> Vec<u8> {
    const VERSION: usize = 4;
    let mut head = ED25519_PREFIX;
    head[1] = der.get(1).copied().unwrap_or_default();
    head[VERSION] = 1;
    match der.get(head.len()..head.len() + ED25519_SEED) {
        Some(seed) if der.starts_with(&head) => [&ED25519_PREFIX, seed].concat(),
        Some(_) | None => der,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    #[test]
    fn a_key_is_readable_and_its_request_empty_and_signed_by_it() {
        for key_type in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let proof = make(key_type).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&proof.key_pem).unwrap();
            rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
            let (rest, request) = X509CertificationRequest::from_der(&proof.request).unwrap();
            assert!(rest.is_empty());
            request.verify_signature().unwrap();
            let info = &request.certification_request_info;
            assert_eq!(info.subject.iter().count(), 0, "{key_type}");
            assert_eq!(info.attributes().len(), 0, "{key_type}");
        }
    }

    #[test]
    fn an_ed25519_key_is_without_its_public_half() {
        let proof = make("ED25519").unwrap();
        let key = PrivateKeyDer::from_pem_slice(&proof.key_pem).unwrap();
        assert_eq!(key.secret_der().len(), ED25519_PREFIX.len() + ED25519_SEED);
    }

    #[test]
    fn other_types_are_refused_by_name() {
        let error = make("RSA3072").err().unwrap().to_string();
        assert!(
            error.contains("key type RSA3072 is not supported"),
            "{error}"
        );
    }
}
