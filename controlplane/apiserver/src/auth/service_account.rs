//! Service accounts: tokens for them, bound to objects, and whom such a token proves.
//!
//! Ports of `pkg/serviceaccount/claims.go` and `pkg/registry/core/serviceaccount/storage/token.go`.
//! A token is as alive as what it is bound to: pod, secret, node and the account itself are looked
//! up in the cache at every use.

use std::sync::Arc;

use api::{FieldError, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::jwt::{Claims, Kubernetes, Ref, TokenKey};
use super::lenient;
use super::x509::CREDENTIAL_ID;
use crate::attributes::Attributes;
use crate::cache::{Cache, Object};
use crate::catalog::ResourceId;
use crate::clock;
use crate::identity::UserInfo;

/// Tolerated difference of clocks, in seconds.
const LEEWAY: i64 = 60;
/// Default validity of a token, in seconds.
const DEFAULT_EXPIRATION: i64 = 3600;
/// Least validity that can be asked for, in seconds.
const MIN_EXPIRATION: i64 = 600;
/// Most validity that can be asked for, in seconds.
const MAX_EXPIRATION: i64 = 1 << 32;
/// Longest validity that is given, in seconds: two days.
const GIVEN_EXPIRATION: i64 = 48 * 3600;

/// Why a token proves nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {found:?} do not intersect with the server's")]
    Audience { found: Vec<String> },
    #[error("{0}")]
    Gone(String),
}

/// An authenticated token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    pub user: UserInfo,
    /// The audiences the token and the question have in common.
    pub audiences: Vec<String>,
}

/// Reads what tokens refer to.
#[derive(Clone)]
pub struct Accounts {
    key: Arc<TokenKey>,
    cache: Cache,
    accounts: ResourceId,
    pods: ResourceId,
    secrets: ResourceId,
    nodes: ResourceId,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TokenRequestSpec {
    audiences: Vec<String>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<BoundRef>,
}

/// `spec.boundObjectRef`.
#[derive(Debug, Default, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct BoundRef {
    pub kind: String,
    pub api_version: String,
    pub name: String,
    pub uid: String,
}

// === impl Accounts ===

impl Accounts {
    pub fn new(key: Arc<TokenKey>, cache: &Cache) -> Self {
        Self {
            key,
            cache: cache.clone(),
            accounts: ResourceId::named("", "serviceaccounts"),
            pods: ResourceId::named("", "pods"),
            secrets: ResourceId::named("", "secrets"),
            nodes: ResourceId::named("", "nodes"),
        }
    }

    /// Whom the token proves to somebody in `audiences`, at `now`.
    pub fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        now: i64,
    ) -> Result<Authenticated, InvalidToken> {
        let claims = self
            .key
            .verify(token)
            .map_err(|e| InvalidToken::Gone(e.to_string()))?;
        if now - LEEWAY > claims.exp {
            return Err(InvalidToken::Expired);
        }
        if now + LEEWAY < claims.nbf {
            return Err(InvalidToken::NotYet);
        }
        let common: Vec<String> = claims
            .aud
            .iter()
            .filter(|aud| audiences.contains(aud))
            .cloned()
            .collect();
        if common.is_empty() {
            return Err(InvalidToken::Audience { found: claims.aud });
        }
        self.check_alive(&claims.kubernetes)?;
        Ok(Authenticated {
            user: user(&claims),
            audiences: common,
        })
    }

    fn check_alive(&self, bound: &Kubernetes) -> Result<(), InvalidToken> {
        let namespace = bound.namespace.as_str();
        let account = &bound.serviceaccount;
        self.alive(self.accounts, namespace, account, "service account")?;
        if let Some(secret) = &bound.secret {
            self.alive(self.secrets, namespace, secret, "secret")?;
        }
        if let Some(pod) = &bound.pod {
            self.alive(self.pods, namespace, pod, "pod")?;
        } else if let Some(node) = &bound.node {
            // A pod's token names the node for information only.
            self.alive(self.nodes, "", node, "node")?;
        }
        Ok(())
    }

    fn alive(
        &self,
        resource: ResourceId,
        namespace: &str,
        wanted: &Ref,
        what: &str,
    ) -> Result<(), InvalidToken> {
        let Some(object) = self.cache.get(resource, namespace, &wanted.name) else {
            let text = format!("the {what} {} of the token no longer exists", wanted.name);
            return Err(InvalidToken::Gone(text));
        };
        if object.uid() != wanted.uid {
            let text = format!(
                "{what} UID ({}) does not match claim ({})",
                object.uid(),
                wanted.uid
            );
            return Err(InvalidToken::Gone(text));
        }
        Ok(())
    }

    /// Answers a TokenRequest for the account `asked` names.
    pub fn issue(&self, asked: &Attributes, body: &[u8], now: i64) -> Result<Vec<u8>, Status> {
        let malformed = |e: serde_json::Error| Status::bad_request(e.to_string());
        let mut request: Map<String, Value> = serde_json::from_slice(body).map_err(malformed)?;
        let spec = request
            .get("spec")
            .cloned()
            .unwrap_or_else(|| Value::Object(Map::new()));
        let mut spec: TokenRequestSpec = lenient::from_value(spec).map_err(malformed)?;
        let (namespace, name) = (asked.namespace.as_str(), asked.name.as_str());
        let account = self
            .cache
            .get(self.accounts, namespace, name)
            .ok_or_else(|| Status::not_found("", "serviceaccounts", name))?;
        let seconds = expiration(&spec)?;
        if spec.audiences.is_empty() {
            spec.audiences = vec![self.key.issuer().to_owned()];
        }
        let mut kubernetes = Kubernetes {
            namespace: namespace.to_owned(),
            serviceaccount: reference(&account),
            ..Kubernetes::default()
        };
        if let Some(bound) = &spec.bound_object_ref {
            self.bind(bound, asked, &mut kubernetes)?;
        }
        let claims = Claims {
            aud: spec.audiences.clone(),
            exp: now + seconds,
            iat: now,
            nbf: now,
            iss: String::new(),
            jti: clock::new_uid(),
            kubernetes,
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        };
        let token = self.key.sign(claims).map_err(Status::internal)?;
        let mut answer_spec = serde_json::json!({
            "audiences": spec.audiences,
            "expirationSeconds": seconds,
        });
        answer_spec["boundObjectRef"] =
            serde_json::to_value(&spec.bound_object_ref).unwrap_or_default();
        request.insert("spec".into(), answer_spec);
        request.insert(
            "metadata".into(),
            serde_json::json!({
                "name": name,
                "namespace": namespace,
                "uid": account.uid(),
                "creationTimestamp": clock::rfc3339(now),
            }),
        );
        let until = clock::rfc3339(now + seconds);
        let status = serde_json::json!({"token": token, "expirationTimestamp": until});
        request.insert("status".into(), status);
        serde_json::to_vec(&request).map_err(Status::internal)
    }

    /// Binds the token to an object that exists.
    fn bind(
        &self,
        bound: &BoundRef,
        asked: &Attributes,
        into: &mut Kubernetes,
    ) -> Result<(), Status> {
        let namespace = asked.namespace.as_str();
        let find = |resource, namespace: &str, plural| {
            self.cache
                .get(resource, namespace, &bound.name)
                .ok_or_else(|| Status::not_found("", plural, &bound.name))
        };
        let object = match (bound.api_version.as_str(), bound.kind.as_str()) {
            ("v1", "Pod") => {
                let pod = find(self.pods, namespace, "pods")?;
                let account = pod.field("spec.serviceAccountName").unwrap_or_default();
                if account.trim_matches('"') != asked.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        asked.name
                    )));
                }
                into.node = pod.node_name().map(|node| {
                    let uid = self
                        .cache
                        .get(self.nodes, "", node)
                        .map(|n| n.uid().to_owned());
                    Ref {
                        name: node.to_owned(),
                        uid: uid.unwrap_or_default(),
                    }
                });
                into.pod = Some(reference(&pod));
                pod
            }
            ("v1", "Secret") => {
                let secret = find(self.secrets, namespace, "secrets")?;
                into.secret = Some(reference(&secret));
                secret
            }
            ("v1", "Node") => {
                let node = find(self.nodes, "", "nodes")?;
                into.node = Some(reference(&node));
                node
            }
            (version, kind) => {
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {version}, Kind={kind}"
                )));
            }
        };
        if !bound.uid.is_empty() && bound.uid != object.uid() {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                bound.uid
            );
            return Err(Status::conflict("", &bound.kind, &bound.name, &why));
        }
        Ok(())
    }
}

fn expiration(spec: &TokenRequestSpec) -> Result<i64, Status> {
    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION);
    let field = "spec.expirationSeconds";
    let error = if seconds < MIN_EXPIRATION {
        FieldError::invalid_raw(
            field,
            seconds,
            "may not specify a duration less than 10 minutes",
        )
    } else if seconds > MAX_EXPIRATION {
        FieldError::invalid_raw(
            field,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        )
    } else {
        return Ok(seconds.min(GIVEN_EXPIRATION));
    };
    Err(Status::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        &[error],
    ))
}

fn reference(object: &Object) -> Ref {
    Ref {
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
    }
}

/// The identity the claims describe.
fn user(claims: &Claims) -> UserInfo {
    let Kubernetes {
        namespace,
        serviceaccount,
        pod,
        node,
        ..
    } = &claims.kubernetes;
    let mut user = UserInfo::service_account(namespace, &serviceaccount.name);
    user.uid.clone_from(&serviceaccount.uid);
    let mut extra = |key: &str, value: String| {
        user.extra
            .insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    if let Some(pod) = pod {
        extra("pod-name", pod.name.clone());
        extra("pod-uid", pod.uid.clone());
    }
    if let Some(node) = node {
        extra("node-name", node.name.clone());
        if !node.uid.is_empty() {
            extra("node-uid", node.uid.clone());
        }
    }
    if !claims.jti.is_empty() {
        user.extra.insert(
            CREDENTIAL_ID.to_owned(),
            vec![format!("JTI={}", claims.jti)],
        );
    }
    user
}
