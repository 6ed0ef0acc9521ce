//! Authentication, authorization and what admission owes to them: the one door of the rest of the
//! server to `auth/*`.
//!
//! The chain calls [`Auth::authenticate`] once per request, [`Auth::authorize`] for each set of
//! attributes (impersonation and create-by-update ask again), [`Auth::admit`] from every write
//! attempt, and [`Auth::review`] for resources that are only created (reviews, tokens).

mod lenient;
mod rule;

mod bootstrap_token;
mod jwt;
mod service_account;
mod x509;

mod node;
mod rbac;

mod certificates;
mod escalation;
mod restriction;

mod reconcile;
mod review;
mod seed;

use std::sync::{Arc, RwLock, RwLockReadGuard};

use api::{Doc, Status};
use bytes::Bytes;
use http::request::Parts;

use crate::attributes::Attributes;
use crate::cache::{Cache, Change};
use crate::clock;
use crate::identity::{GROUP_MASTERS, PeerCertificates, UserInfo};
use jwt::TokenKey;
use node::{NodeAnswer, NodeGraph, Source};
use rbac::{RbacIndex, RbacKind};
use review::Verdict;
use rule::PolicyRule;
use service_account::Accounts;
use x509::ClientCertificates;

pub use reconcile::Reconciled;
pub use seed::{Seed, seeds};

/// Paths open to everybody, with what is below them.
const PUBLIC_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// What the composition root decides about identities.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// PEM of the CAs whose client certificates are believed.
    pub client_ca_pem: String,
    /// PEM (PKCS#8) of the P-256 key that signs service account tokens.
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
    #[error("client CA: {0}")]
    ClientCa(#[from] x509::CertificateError),
    #[error("service account key: {0}")]
    TokenKey(#[from] jwt::TokenError),
}

/// Handle to authentication and authorization; cheap to clone.
#[derive(Clone)]
pub struct Auth {
    inner: Arc<Inner>,
}

struct Inner {
    cache: Cache,
    /// None: no client CA, certificates prove nothing.
    certificates: Option<ClientCertificates>,
    /// None: no signing key, there are no tokens.
    tokens: Option<Tokens>,
    rbac: Arc<RwLock<RbacIndex>>,
    nodes: Arc<RwLock<NodeGraph>>,
    node_rules: Vec<PolicyRule>,
}

struct Tokens {
    key: Arc<TokenKey>,
    accounts: Accounts,
    audiences: Vec<String>,
}

// === impl Auth ===

impl Auth {
    /// Builds the indexes; registers observers on the cache for RBAC objects and the node graph.
    /// An empty client CA or key switches that way of proving an identity off.
    pub fn new(options: AuthOptions, cache: &Cache) -> Result<Self, AuthError> {
        let AuthOptions {
            client_ca_pem,
            service_account_key_pem,
            issuer,
        } = options;
        let certificates = match client_ca_pem.as_str() {
            "" => None,
            pem => Some(ClientCertificates::new(pem)?),
        };
        let tokens = match service_account_key_pem.as_str() {
            "" => None,
            pem => {
                let key = Arc::new(TokenKey::new(pem, &issuer)?);
                let accounts = Accounts::new(key.clone(), cache);
                Some(Tokens {
                    key,
                    accounts,
                    audiences: vec![issuer],
                })
            }
        };
        let inner = Inner {
            cache: cache.clone(),
            certificates,
            tokens,
            rbac: observe_rbac(cache),
            nodes: observe_node_graph(cache),
            node_rules: seed::node_rules(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The caller's identity: `UserInfo` in the extensions, peer certificate, bearer token,
    /// anonymous (on the public paths) without any of them; 401 otherwise.
    pub async fn authenticate(&self, parts: &Parts) -> Result<UserInfo, Status> {
        if let Some(user) = parts.extensions.get::<UserInfo>() {
            return Ok(user.clone());
        }
        let now = clock::unix_now();
        if let Some(user) = self.certificate_user(parts, now) {
            return Ok(user);
        }
        if let Some(token) = bearer_token(parts) {
            return match self.token_user(token, &[], now) {
                Ok((user, _)) => Ok(user),
                Err(reason) => {
                    tracing::debug!(reason, "token refused");
                    Err(Status::unauthorized("Unauthorized"))
                }
            };
        }
        if is_public(parts.uri.path()) {
            return Ok(UserInfo::anonymous());
        }
        Err(Status::unauthorized("Unauthorized"))
    }

    /// Node and RBAC authorizers.
    pub fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let verdict = self.decide(user, attributes);
        if verdict.allowed {
            Decision::Allow
        } else {
            Decision::Deny(verdict.reason)
        }
    }

    /// Whether somebody may decide about requests to a signer.
    pub fn may_sign(&self, user: &UserInfo, signer: &str) -> bool {
        certificates::may_for_signer("sign", signer, |asked| self.decide(user, asked).allowed)
    }

    /// NodeRestriction, RBAC escalation, CSR signer checks. Runs inside every write attempt after
    /// defaulting; `new` is absent for deletes, `old` is the stored object's canonical bytes.
    pub fn admit(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
        new: Option<&Doc<'_>>,
        old: Option<&[u8]>,
    ) -> Result<(), Status> {
        let may = |further: &Attributes| self.decide(user, further).allowed;
        if let Some(node) = user.node_name() {
            let old: Option<serde_json::Value> =
                old.and_then(|old| serde_json::from_slice(old).ok());
            let cache = &self.inner.cache;
            restriction::NodeWrite {
                cache,
                node,
                asked: attributes,
                new,
                old: old.as_ref(),
                may: &may,
            }
            .check()?;
        }
        let Some(new) = new else { return Ok(()) };
        match (attributes.group.as_str(), attributes.resource.as_str()) {
            (
                escalation::GROUP,
                "roles" | "clusterroles" | "rolebindings" | "clusterrolebindings",
            ) => {
                let bytes = api::canonical(new);
                escalation::check(&self.inner.rbac, user, attributes, (&bytes, old), may)
            }
            (certificates::GROUP, "certificatesigningrequests") => {
                let old = old.and_then(|old| serde_json::from_slice(old).ok());
                certificates::check(attributes, new, old.as_ref(), may)
            }
            _ => Ok(()),
        }
    }

    /// Creates on virtual resources: token, access and self-subject reviews, and
    /// `serviceaccounts/token` (`attributes.subresource == "token"`). Takes the decoded, defaulted
    /// body as canonical JSON, gives the answer's JSON.
    pub fn review(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
        body: &[u8],
    ) -> Result<Vec<u8>, Status> {
        let decide = |user: &UserInfo, asked: &Attributes| self.decide(user, asked);
        match (
            attributes.resource.as_str(),
            attributes.subresource.as_str(),
        ) {
            ("serviceaccounts", "token") => self.issue_token(user, attributes, body),
            ("tokenreviews", "") => review::token(body, |token, audiences| {
                self.token_user(token, audiences, clock::unix_now())
            }),
            ("subjectaccessreviews", "") => review::access(body, "", None, decide),
            ("localsubjectaccessreviews", "") => {
                let namespace = &attributes.namespace;
                review::access(body, namespace, None, decide)
            }
            ("selfsubjectaccessreviews", "") => review::access(body, "", Some(user), decide),
            ("selfsubjectrulesreviews", "") => review::rules(body, |namespace| {
                (
                    self.rbac().rules_for(user, namespace),
                    user.node_name().is_some(),
                )
            }),
            ("selfsubjectreviews", "") => {
                let now = clock::rfc3339(clock::unix_now());
                review::who_am_i(body, user, &now)
            }
            (resource, _) => Err(Status::not_found(
                &attributes.group,
                resource,
                &attributes.name,
            )),
        }
    }

    /// The documents that let others verify service account tokens; none for other paths.
    pub fn openid(&self, path: &str) -> Option<http::Response<Bytes>> {
        let key = &self.inner.tokens.as_ref()?.key;
        let (document, media_type) = match path {
            "/.well-known/openid-configuration" => (key.openid_configuration(), "application/json"),
            "/openid/v1/jwks" => (key.jwks(), "application/jwk-set+json"),
            _ => return None,
        };
        let mut response = http::Response::new(Bytes::from(document.to_string()));
        let headers = response.headers_mut();
        headers.insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static(media_type),
        );
        let cached = http::HeaderValue::from_static("public, max-age=3600");
        headers.insert(http::header::CACHE_CONTROL, cached);
        Some(response)
    }

    fn certificate_user(&self, parts: &Parts, now: i64) -> Option<UserInfo> {
        let PeerCertificates(chain) = parts.extensions.get()?;
        match self.inner.certificates.as_ref()?.authenticate(chain, now) {
            Ok(user) => Some(user),
            Err(error) => {
                tracing::debug!(%error, "client certificate refused");
                None
            }
        }
    }

    /// Whom a token proves to the audiences (none: the server's own), and which of these it has.
    fn token_user(
        &self,
        token: &str,
        audiences: &[String],
        now: i64,
    ) -> Result<(UserInfo, Vec<String>), String> {
        let tokens = self.inner.tokens.as_ref();
        let own = tokens.map_or(&[][..], |tokens| tokens.audiences.as_slice());
        let audiences = if audiences.is_empty() { own } else { audiences };
        if let Some((id, secret)) = bootstrap_token::parse(token) {
            return bootstrap_token::authenticate(&self.inner.cache, id, secret, now)
                .map(|user| (user, audiences.to_vec()))
                .ok_or_else(|| "invalid bearer token".to_owned());
        }
        let tokens = tokens.ok_or_else(|| "there is no token key".to_owned())?;
        let found = tokens.accounts.authenticate(token, audiences, now);
        found
            .map(|found| (found.user, found.audiences))
            .map_err(|error| error.to_string())
    }

    fn issue_token(
        &self,
        user: &UserInfo,
        asked: &Attributes,
        body: &[u8],
    ) -> Result<Vec<u8>, Status> {
        if let Some(node) = user.node_name() {
            let body: serde_json::Value =
                serde_json::from_slice(body).map_err(|e| Status::bad_request(e.to_string()))?;
            let bound = lenient::from_value(body["spec"]["boundObjectRef"].clone()).ok();
            restriction::check_token(&self.inner.cache, node, asked, bound.as_ref())?;
        }
        let tokens = self.inner.tokens.as_ref();
        let tokens = tokens.ok_or_else(|| Status::internal("there is no token key"))?;
        tokens.accounts.issue(asked, body, clock::unix_now())
    }

    fn decide(&self, user: &UserInfo, asked: &Attributes) -> Verdict {
        let allow = |reason: String| Verdict {
            allowed: true,
            reason,
        };
        if user.in_group(GROUP_MASTERS) {
            return allow(String::new());
        }
        if !asked.is_resource && is_health(&asked.path) {
            return allow(String::new());
        }
        let mut reason = String::new();
        if let Some(node) = user.node_name() {
            match self.nodes().authorize(node, asked, &self.inner.node_rules) {
                NodeAnswer::Allow => return allow(String::new()),
                NodeAnswer::NoOpinion(why) => reason = why,
            }
        }
        match self.rbac().allows(user, asked) {
            Some(why) => allow(why),
            None => Verdict {
                allowed: false,
                reason,
            },
        }
    }

    fn rbac(&self) -> RwLockReadGuard<'_, RbacIndex> {
        self.inner
            .rbac
            .read()
            .expect("no code panics under this lock")
    }

    fn nodes(&self) -> RwLockReadGuard<'_, NodeGraph> {
        self.inner
            .nodes
            .read()
            .expect("no code panics under this lock")
    }
}

fn observe_rbac(cache: &Cache) -> Arc<RwLock<RbacIndex>> {
    let index = Arc::new(RwLock::new(RbacIndex::default()));
    let kinds = [
        ("roles", RbacKind::Role),
        ("clusterroles", RbacKind::ClusterRole),
        ("rolebindings", RbacKind::RoleBinding),
        ("clusterrolebindings", RbacKind::ClusterRoleBinding),
    ];
    for (plural, kind) in kinds {
        let Some(resource) = cache.resource(escalation::GROUP, plural) else {
            continue;
        };
        let index = index.clone();
        let observer = move |change: &Change| {
            index
                .write()
                .expect("no code panics under this lock")
                .apply(kind, change);
        };
        cache.observe(resource, Box::new(observer));
    }
    index
}

fn observe_node_graph(cache: &Cache) -> Arc<RwLock<NodeGraph>> {
    let graph = Arc::new(RwLock::new(NodeGraph::default()));
    let kinds = [
        ("", "pods", Source::Pod),
        (
            certificates::GROUP,
            "podcertificaterequests",
            Source::PodCertificateRequest,
        ),
    ];
    for (group, plural, source) in kinds {
        let Some(resource) = cache.resource(group, plural) else {
            continue;
        };
        let observed = graph.clone();
        let observer = move |change: &Change| {
            observed
                .write()
                .expect("no code panics under this lock")
                .apply(source, change);
        };
        cache.observe(resource, Box::new(observer));
    }
    graph
}

fn bearer_token(parts: &Parts) -> Option<&str> {
    let value = parts
        .headers
        .get(http::header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

fn is_public(path: &str) -> bool {
    PUBLIC_PATHS.iter().any(|public| {
        path.strip_prefix(public)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Health is answered also before there is any RBAC object.
fn is_health(path: &str) -> bool {
    is_public(path) && !path.starts_with("/version")
}
