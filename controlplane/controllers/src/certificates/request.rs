//! The content of a PKCS #10 request, as far as the rules look at it.

use std::net::IpAddr;

use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// E-mail addresses, URIs and other names, which no node may have.
    pub other_names: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("the request is not PEM text")]
    NotText(#[source] std::str::Utf8Error),
    #[error("the request is not a valid PKCS #10 request")]
    Invalid(#[source] rcgen::Error),
}

/// Parses PEM and verifies the request's own signature.
pub fn parse(pem: &[u8]) -> Result<CertificateSigningRequestParams, ParseError> {
    let text = std::str::from_utf8(pem).map_err(ParseError::NotText)?;
    CertificateSigningRequestParams::from_pem(text).map_err(ParseError::Invalid)
}

impl Request {
    pub fn read(pem: &[u8]) -> Result<Self, ParseError> {
        let params = parse(pem)?.params;
        let mut request = Self::default();
        for (type_, value) in params.distinguished_name.iter() {
            match type_ {
                DnType::CommonName => request.common_name = text(value),
                DnType::OrganizationName => request.organizations.push(text(value)),
                _ => {}
            }
        }
        for name in params.subject_alt_names {
            match name {
                SanType::DnsName(name) => request.dns_names.push(name.as_str().to_owned()),
                SanType::IpAddress(address) => request.addresses.push(address),
                _ => request.other_names += 1,
            }
        }
        Ok(request)
    }

    pub fn has_names(&self) -> bool {
        !self.dns_names.is_empty() || !self.addresses.is_empty() || self.other_names > 0
    }
}

fn text(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        DnValue::TeletexString(text) => text.as_str().to_owned(),
        _ => String::new(),
    }
}
