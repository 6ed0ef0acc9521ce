//! Service account tokens for projected volumes, by TokenRequest, bound to their pod. Kept until a fifth
//! of their life is left (upstream: `pkg/kubelet/token/token_manager.go`). Tokens never reach a log.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::payload::{TokenKey, token_keys};
use crate::pod::backoff::add;
use crate::pod::spec;

/// Part of a token's life after which it is replaced, in percent, and the longest time it is used.
const USED_PERCENT: u32 = 80;
const MAX_USE: Duration = Duration::from_secs(24 * 3600);

struct Held {
    token: String,
    expires: Timestamp,
    refresh: Timestamp,
}

/// The tokens of one pod.
pub struct Tokens {
    client: Client,
    held: BTreeMap<TokenKey, Held>,
}

impl Tokens {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            held: BTreeMap::new(),
        }
    }

    /// All tokens the pod's volumes need, requesting those that are missing or due.
    pub async fn ensure(
        &mut self,
        pod: &Pod,
        now: Timestamp,
    ) -> Result<BTreeMap<TokenKey, String>, kube::Error> {
        let mut tokens = BTreeMap::new();
        for key in token_keys(pod) {
            let fresh = self.held.get(&key).is_some_and(|held| held.refresh > now);
            if !fresh {
                match self.request(pod, &key, now).await {
                    Ok(held) => {
                        self.held.insert(key.clone(), held);
                    }
                    Err(error) if self.held.get(&key).is_some_and(|held| held.expires > now) => {
                        tracing::warn!(%error, "token not renewed yet, the old one is still valid");
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(held) = self.held.get(&key) {
                tokens.insert(key, held.token.clone());
            }
        }
        Ok(tokens)
    }

    /// When the first token has to be replaced.
    pub fn refresh_at(&self) -> Option<Timestamp> {
        self.held.values().map(|held| held.refresh).min()
    }

    async fn request(
        &self,
        pod: &Pod,
        key: &TokenKey,
        now: Timestamp,
    ) -> Result<Held, kube::Error> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), spec::namespace(pod));
        let account = spec::spec(pod)
            .service_account_name
            .as_deref()
            .unwrap_or("default");
        let audiences = Some(key.audience.clone()).filter(|audience| !audience.is_empty());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audiences.map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(key.expiration_seconds),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let status = answer.status.unwrap_or_default();
        let expires = status.expiration_timestamp.map_or(now, |time| time.0);
        let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
        let used = (life * USED_PERCENT / 100).min(MAX_USE);
        Ok(Held {
            token: status.token.unwrap_or_default(),
            expires,
            refresh: add(now, used),
        })
    }
}
