//! Fetches the cluster CA out of the API server's certificate chain and trusts it only if its key
//! hashes to what the join token says; the rest of the chain is then verified against it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Uri;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Time for one connection and handshake.
const TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 6443;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{server} is not a URL of an API server (expected https://HOST:PORT)")]
    Url { server: String },
    #[error("connect to {server}: {source}")]
    Connect {
        server: String,
        source: std::io::Error,
    },
    #[error("connect to {server}: no answer within {} s", TIMEOUT.as_secs())]
    Timeout { server: String },
    #[error(
        "{server} is not the server of this join token: no certificate it shows has the CA hash \
         {hash}; check the address and the token"
    )]
    OtherCa { server: String, hash: String },
    #[error("TLS handshake with {server}: {source}")]
    Handshake {
        server: String,
        source: std::io::Error,
    },
}

impl Error {
    /// Whether trying again cannot help.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Url { .. } | Error::OtherCa { .. } => true,
            Error::Connect { .. } | Error::Timeout { .. } | Error::Handshake { .. } => false,
        }
    }
}

/// The CA certificate of `server`, PEM, if the SHA-256 of its public key is `hash`.
pub async fn fetch(server: &str, hash: &str) -> Result<Vec<u8>, Error> {
    let url_error = || Error::Url {
        server: server.to_owned(),
    };
    let uri: Uri = server.parse().map_err(|_| url_error())?;
    let host = uri
        .host()
        .ok_or_else(url_error)?
        .trim_matches(['[', ']'])
        .to_owned();
    let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
    let name = ServerName::try_from(host.clone()).map_err(|_| url_error())?;
    match tokio::time::timeout(TIMEOUT, handshake(server, (host, port), name, hash)).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout {
            server: server.to_owned(),
        }),
    }
}

async fn handshake(
    server: &str,
    address: (String, u16),
    name: ServerName<'static>,
    hash: &str,
) -> Result<Vec<u8>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(HashVerifier {
        hash: hash.to_owned(),
        provider: provider.clone(),
        seen: Mutex::new(Seen::Nothing),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| Error::Connect {
            server: server.to_owned(),
            source,
        })?;
    let result = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    let seen = std::mem::replace(
        &mut *verifier
            .seen
            .lock()
            .expect("no code panics while it holds the lock"),
        Seen::Nothing,
    );
    match (result, seen) {
        (Ok(_), Seen::Ca(der)) => Ok(pem(&der)),
        (_, Seen::Other) => Err(Error::OtherCa {
            server: server.to_owned(),
            hash: hash.to_owned(),
        }),
        (Err(source), _) => Err(Error::Handshake {
            server: server.to_owned(),
            source,
        }),
        (Ok(_), Seen::Nothing) => unreachable!("a handshake always verifies the server"),
    }
}

/// A certificate as PEM.
pub fn pem(der: &[u8]) -> Vec<u8> {
    pem_block("CERTIFICATE", der)
}

/// DER as a PEM block of this type.
pub fn pem_block(label: &str, der: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem.into_bytes()
}

#[derive(Debug)]
enum Seen {
    Nothing,
    Ca(Vec<u8>),
    Other,
}

/// Accepts a chain that ends in the CA with the expected hash and is valid under it.
#[derive(Debug)]
struct HashVerifier {
    hash: String,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

impl HashVerifier {
    fn matches(&self, der: &CertificateDer<'_>) -> bool {
        let Ok((_, cert)) = X509Certificate::from_der(der) else {
            return false;
        };
        let digest = Sha256::digest(cert.tbs_certificate.subject_pki.raw);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex == self.hash
    }

    fn note(&self, seen: Seen) {
        *self
            .seen
            .lock()
            .expect("no code panics while it holds the lock") = seen;
    }
}

impl ServerCertVerifier for HashVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(ca) = intermediates.iter().find(|der| self.matches(der)) else {
            self.note(Seen::Other);
            return Err(CertificateError::UnknownIssuer.into());
        };
        self.note(Seen::Ca(ca.to_vec()));
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
