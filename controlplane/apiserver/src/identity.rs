//! Who is asking: the identity every later layer works with, and how it enters a request.
//!
//! An identity arrives in one of two ways: the authenticator derives it from the connection and the
//! headers, or an in-process caller puts a [`UserInfo`] into `http::Extensions` (nothing that came
//! over a socket can do that). This file knows neither how identities are proven nor what they may do.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use rustls::pki_types::CertificateDer;

/// Group of every identity that was proven.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Group of requests without an identity.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of requests without an identity.
pub const USER_ANONYMOUS: &str = "system:anonymous";
/// Members may do everything.
pub const GROUP_MASTERS: &str = "system:masters";

/// An authenticated (or anonymous) caller. Field names are those of `authentication.k8s.io/v1.UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub username: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The certificate chain the peer presented in TLS, leaf first; `serve` puts it into the extensions.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub Arc<Vec<CertificateDer<'static>>>);

/// The peer's address; `serve` puts it into the extensions.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddr(pub SocketAddr);

// === impl UserInfo ===

impl UserInfo {
    /// A proven identity; `system:authenticated` is added.
    pub fn new<I, S>(username: impl Into<String>, groups: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.into());
        }
        Self {
            username: username.into(),
            groups,
            ..Self::default()
        }
    }

    /// The identity of a request that proved nothing.
    pub fn anonymous() -> Self {
        Self {
            username: USER_ANONYMOUS.into(),
            groups: vec![GROUP_UNAUTHENTICATED.into()],
            ..Self::default()
        }
    }

    /// An in-process service account, with the groups a token of it would carry.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            [
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
        )
    }

    /// The API server itself (namespace creation, reconcilers of its own).
    pub fn apiserver() -> Self {
        Self::new("system:apiserver", [GROUP_MASTERS])
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name when this is a kubelet's identity (`system:node:NAME` in `system:nodes`).
    pub fn node_name(&self) -> Option<&str> {
        let name = self.username.strip_prefix("system:node:")?;
        (!name.is_empty() && self.in_group("system:nodes")).then_some(name)
    }
}
