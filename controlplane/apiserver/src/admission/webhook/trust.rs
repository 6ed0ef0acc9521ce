//! Whose certificates a webhook's client believes: those its CA bundle vouches for, or the system's roots
//! where it has none, and a certificate that is in the bundle itself.
//!
//! The last is what Go does. It is how a webhook with a self-signed certificate is configured, which may
//! be a CA's; webpki takes no such certificate for a server's.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

/// Where systems keep their roots, as one file; the first that is there (Go: crypto/x509/root_linux.go).
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Debug)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    webpki: Arc<WebPkiServerVerifier>,
}

/// The verifier of a bundle (PEM).
pub fn verifier(
    ca: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let (certificates, roots) = if ca.is_empty() {
        (Vec::new(), system_roots())
    } else {
        bundle(ca)?
    };
    if roots.is_empty() {
        return Err(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
                .to_owned(),
        );
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(Bundle {
        certificates,
        webpki,
    }))
}

fn bundle(ca: &[u8]) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca).collect();
    let certificates = certificates.map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("unable to load root certificates".to_owned());
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        let added = roots.add(certificate.clone());
        added.map_err(|error| error.to_string())?;
    }
    Ok((certificates, roots))
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let file = SYSTEM_ROOTS
        .iter()
        .map(Path::new)
        .find(|path| path.exists());
    if let Some(Ok(certificates)) = file.map(CertificateDer::pem_file_iter) {
        roots.add_parsable_certificates(certificates.flatten());
    }
    roots
}

// === impl Bundle ===

impl Bundle {
    /// A certificate of the bundle itself: its name and its time are what is left to check.
    fn verify_own(
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        let encoding = Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| encoding.clone())?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let now = ASN1Time::from_timestamp(seconds).map_err(|_| encoding)?;
        if parsed.validity().is_valid_at(now) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::Expired))
    }
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.certificates.contains(certificate) {
            return Self::verify_own(certificate, name, now);
        }
        self.webpki
            .verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_of_the_bundle_is_believed_for_its_name_and_time() {
        let mut params = CertificateParams::new(vec!["s.n.svc".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let own = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(own.pem().as_bytes(), provider).unwrap();
        let now = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let verify = |name: &'static str, seconds| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify_server_cert(own.der(), &[], &name, &[], now(seconds))
        };
        let year = 365 * 24 * 3600;
        assert!(verify("s.n.svc", 50 * year).is_ok());
        assert!(verify("other.n.svc", 50 * year).is_err());
        assert!(verify("s.n.svc", 200 * year).is_err());
    }

    #[test]
    fn a_bundle_has_certificates() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        assert!(verifier(b"nothing", provider).is_err());
    }
}
