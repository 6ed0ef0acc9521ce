//! The cluster's keys: the CA and the service account key are kept in `DATA/pki`; every other
//! certificate of the server is issued anew from the CA at each start, so there is nothing to renew
//! and nothing to compare when an address changes. It knows files and X.509, nothing of the API.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use crate::files;

/// Validity of the cluster CA.
const CA_VALIDITY: Duration = Duration::days(3650);
/// Validity of certificates issued at start.
const LEAF_VALIDITY: Duration = Duration::days(365);
/// Certificates are valid from a little before now, for clocks that disagree.
const CLOCK_SKEW: Duration = Duration::hours(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("{path} exists but {missing} does not: restore it, or remove both to make a new one")]
    Half { path: PathBuf, missing: PathBuf },
    #[error("read {path}: {source}")]
    Parse { path: PathBuf, source: rcgen::Error },
    #[error("read the certificate in {path}: {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error("issue the certificate of {name}: {source}")]
    Issue { name: String, source: rcgen::Error },
}

/// The cluster CA and the service account signing key.
pub struct Pki {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    ca_key_pem: String,
    sa_key_pem: String,
    spki_sha256: String,
}

/// A certificate (leaf, then the CA) with its key, PEM.
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

impl Pki {
    /// Reads the keys in `dir`, or makes them where there are none.
    pub fn open(dir: &Path) -> Result<Pki, Error> {
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (ca_pem, ca_key_pem) = match (files::read(&cert_path)?, files::read(&key_path)?) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => create_ca(&cert_path, &key_path)?,
            (Some(_), None) => {
                return Err(Error::Half {
                    path: cert_path,
                    missing: key_path,
                });
            }
            (None, Some(_)) => {
                return Err(Error::Half {
                    path: key_path,
                    missing: cert_path,
                });
            }
        };
        let parse = |source| Error::Parse {
            path: key_path.clone(),
            source,
        };
        let key = KeyPair::from_pem(&ca_key_pem).map_err(parse)?;
        let ca = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(|source| Error::Parse {
            path: cert_path.clone(),
            source,
        })?;
        let spki_sha256 = spki_sha256(&ca_pem).map_err(|reason| Error::Certificate {
            path: cert_path.clone(),
            reason,
        })?;
        let sa_key_pem = service_account_key(&dir.join("sa.key"))?;
        Ok(Pki {
            ca,
            ca_pem,
            ca_key_pem,
            sa_key_pem,
            spki_sha256,
        })
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Private key of the CA, for the signer of CertificateSigningRequests.
    pub fn ca_key_pem(&self) -> &str {
        &self.ca_key_pem
    }

    /// PKCS#8 PEM of the P-256 key that signs service account tokens (ES256).
    pub fn sa_key_pem(&self) -> &str {
        &self.sa_key_pem
    }

    /// SHA-256 of the CA's SubjectPublicKeyInfo, hex: what a join token carries.
    pub fn ca_hash(&self) -> &str {
        &self.spki_sha256
    }

    /// A client certificate for user `name` in `group`.
    pub fn client(&self, name: &str, group: &str) -> Result<Identity, Error> {
        self.issue(
            name,
            Some(group),
            Vec::new(),
            ExtendedKeyUsagePurpose::ClientAuth,
        )
    }

    /// A serving certificate for the given names and addresses.
    pub fn server(&self, name: &str, dns: &[String], ips: &[IpAddr]) -> Result<Identity, Error> {
        self.serving(name, None, dns, ips)
    }

    /// A kubelet's serving certificate, in the form of the kubernetes.io/kubelet-serving signer.
    pub fn kubelet_serving(&self, node: &str, ips: &[IpAddr]) -> Result<Identity, Error> {
        let name = format!("system:node:{node}");
        self.serving(&name, Some("system:nodes"), &[node.to_owned()], ips)
    }

    fn serving(
        &self,
        name: &str,
        group: Option<&str>,
        dns: &[String],
        ips: &[IpAddr],
    ) -> Result<Identity, Error> {
        let issue = |source| Error::Issue {
            name: name.to_owned(),
            source,
        };
        let mut sans = Vec::with_capacity(dns.len() + ips.len());
        for host in dns {
            sans.push(SanType::DnsName(host.as_str().try_into().map_err(issue)?));
        }
        sans.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
        self.issue(name, group, sans, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue(
        &self,
        name: &str,
        group: Option<&str>,
        sans: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, Error> {
        let issue = |source| Error::Issue {
            name: name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, group);
        params.subject_alt_names = sans;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(LEAF_VALIDITY);
        let cert = params.signed_by(&key, &self.ca).map_err(issue)?;
        Ok(Identity {
            cert_pem: format!("{}{}", cert.pem(), self.ca_pem),
            key_pem: key.serialize_pem(),
        })
    }
}

fn create_ca(cert_path: &Path, key_path: &Path) -> Result<(String, String), Error> {
    let issue = |source| Error::Issue {
        name: "windlass-ca".to_owned(),
        source,
    };
    let key = KeyPair::generate().map_err(issue)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("windlass-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    (params.not_before, params.not_after) = validity(CA_VALIDITY);
    let cert = params.self_signed(&key).map_err(issue)?;
    files::write_secret(key_path, key.serialize_pem().as_bytes())?;
    files::write(cert_path, cert.pem().as_bytes())?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn service_account_key(path: &Path) -> Result<String, Error> {
    if let Some(pem) = files::read(path)? {
        return Ok(pem);
    }
    let issue = |source| Error::Issue {
        name: "service accounts".to_owned(),
        source,
    };
    let pem = KeyPair::generate().map_err(issue)?.serialize_pem();
    files::write_secret(path, pem.as_bytes())?;
    Ok(pem)
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

fn validity(span: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - CLOCK_SKEW, now + span)
}

fn spki_sha256(pem: &str) -> Result<String, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| e.to_string())?;
    let cert = pem.parse_x509().map_err(|e| e.to_string())?;
    let digest = Sha256::digest(cert.tbs_certificate.subject_pki.raw);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_and_its_hash_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path()).unwrap();
        let second = Pki::open(dir.path()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.ca_hash(), second.ca_hash());
        assert_eq!(first.sa_key_pem(), second.sa_key_pem());
        assert_eq!(first.ca_hash().len(), 64);
    }

    #[test]
    fn a_lost_ca_key_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = Pki::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("restore it, or remove both"), "{error}");
    }

    #[test]
    fn a_client_certificate_carries_user_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let identity = pki.client("jane", "devs").unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(identity.cert_pem.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let subject = cert.subject();
        let organizations: Vec<_> = subject
            .iter_organization()
            .map(|o| o.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            subject.iter_common_name().next().unwrap().as_str().unwrap(),
            "jane"
        );
        assert_eq!(organizations, ["devs"]);
    }
}
