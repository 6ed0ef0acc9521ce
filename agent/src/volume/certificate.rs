//! Certificates of a pod for its projected volumes, by PodCertificateRequest: asked for when a volume
//! needs one, asked for again when the signer says so, kept in memory alone (upstream:
//! `pkg/kubelet/podcertificate/podcertificatemanager.go`). Keys never reach a log.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::payload::{CertificateKey, certificate_sources};
use crate::events::{Kind, Recorder, Subject};
use crate::pod::spec;
use state::{Bundle, End, State};

mod key;
pub mod state;

/// Refreshes are put off by up to this time, so that they do not come all at once.
const JITTER: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("credential bundle is not issued yet")]
    NotIssued,
    #[error(
        "PodCertificateRequest was permanently {verdict}: reason={reason:?} message={message:?}"
    )]
    Refused {
        verdict: String,
        reason: String,
        message: String,
    },
    #[error(transparent)]
    Key(#[from] key::Error),
    #[error("while fetching {what}: {source}")]
    Fetch {
        what: &'static str,
        source: Box<kube::Error>,
    },
    #[error("while creating PodCertificateRequest: {0}")]
    Create(#[source] Box<kube::Error>),
}

/// A request under way.
struct Pending {
    name: String,
    key_pem: Vec<u8>,
    end: watch::Receiver<Option<End>>,
    _task: AbortOnDropHandle<()>,
}

/// The certificates of one pod.
pub struct Certificates {
    client: Client,
    recorder: Recorder,
    node: String,
    states: BTreeMap<CertificateKey, State<Pending>>,
}

impl Certificates {
    pub fn new(client: Client, recorder: Recorder, node: &str) -> Self {
        Self {
            client,
            recorder,
            node: node.to_owned(),
            states: BTreeMap::new(),
        }
    }

    /// All certificates the pod's volumes need; those that are missing are asked for and waited for until
    /// `patience` ends. Volumes that have to wait on are told with why.
    pub async fn ensure(
        &mut self,
        pod: &Pod,
        now: Timestamp,
        patience: Duration,
    ) -> (BTreeMap<CertificateKey, Bundle>, BTreeMap<String, Error>) {
        let sources = certificate_sources(pod);
        let mut waiting = BTreeMap::new();
        for (key, source) in &sources {
            if let Err(error) = self.advance(pod, key, source, now).await {
                waiting.entry(key.volume.clone()).or_insert(error);
            }
        }
        let deadline = tokio::time::Instant::now() + patience;
        let mut bundles = BTreeMap::new();
        for (key, _) in &sources {
            if let Some(State::Asked(pending)) = self.states.get_mut(key) {
                // Not issued in time is seen below.
                let ended = pending.end.wait_for(Option::is_some);
                let _ = tokio::time::timeout_at(deadline, ended).await;
                self.settle(pod, key);
            }
            match self.bundle(key) {
                Ok(bundle) => {
                    bundles.insert(key.clone(), bundle);
                }
                Err(error) => {
                    waiting.entry(key.volume.clone()).or_insert(error);
                }
            }
        }
        (bundles, waiting)
    }

    /// When to look at them again.
    pub fn refresh_at(&self) -> Option<Timestamp> {
        self.states.values().filter_map(State::wake).min()
    }

    /// Resolves when a request has ended since the last look.
    pub async fn changed(&mut self) {
        let pending = self.states.values_mut().filter_map(|state| match state {
            State::Asked(pending) | State::Renewing(_, pending) => Some(pending),
            State::Issued(_) | State::Refused(_) => None,
        });
        let ends: Vec<_> = pending
            .map(|pending| {
                Box::pin(async move {
                    if pending.end.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
            })
            .collect();
        if ends.is_empty() {
            std::future::pending::<()>().await;
        }
        futures::future::select_all(ends).await;
    }

    /// Takes in what has ended, and asks where it is time to.
    async fn advance(
        &mut self,
        pod: &Pod,
        key: &CertificateKey,
        source: &PodCertificateProjection,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.settle(pod, key);
        if let Some(state) = self.states.get_mut(key) {
            for (reason, message) in state.late(now) {
                let subject = Subject::pod(pod);
                self.recorder.warning(&subject, reason, message);
            }
        }
        let issued = match self.states.get(key) {
            None => None,
            Some(State::Issued(issued)) if issued.refresh <= now => Some(issued.clone()),
            Some(_) => return Ok(()),
        };
        let asked = self.ask(pod, source).await;
        let state = match (issued, asked) {
            (None, asked) => State::Asked(asked?),
            (Some(issued), Ok(pending)) => State::Renewing(issued, pending),
            (Some(_), Err(error)) => {
                tracing::warn!(%error, pod = spec::name(pod), "certificate not renewed yet");
                return Ok(());
            }
        };
        self.states.insert(key.clone(), state);
        Ok(())
    }

    /// Takes in the end of a request.
    fn settle(&mut self, pod: &Pod, key: &CertificateKey) {
        let pending = match self.states.get_mut(key) {
            Some(State::Asked(pending) | State::Renewing(_, pending)) => pending,
            Some(State::Issued(_) | State::Refused(_)) | None => return,
        };
        let Some(end) = pending.end.borrow_and_update().clone() else {
            return;
        };
        let (name, key_pem) = (pending.name.clone(), pending.key_pem.clone());
        if let End::Refused(refusal) = &end {
            let what = refusal.verdict.to_lowercase();
            let was = if what == "denied" {
                "was denied"
            } else {
                "failed"
            };
            let message = format!(
                "PodCertificateRequest {}/{name} {was}, reason={:?}, message={:?}",
                spec::namespace(pod),
                refusal.reason,
                refusal.message
            );
            let subject = Subject::pod(pod);
            self.recorder
                .record(&subject, Kind::Warning, refusal.verdict, message);
        }
        let jitter = JITTER.mul_f64(rand::random::<f64>());
        if let Some(state) = self.states.remove(key)
            && let Some(next) = state.ended(&key_pem, &end, jitter)
        {
            self.states.insert(key.clone(), next);
        }
    }

    fn bundle(&self, key: &CertificateKey) -> Result<Bundle, Error> {
        match self.states.get(key) {
            Some(State::Issued(issued) | State::Renewing(issued, _)) => Ok(issued.bundle.clone()),
            Some(State::Refused(refusal)) => Err(Error::Refused {
                verdict: refusal.verdict.to_lowercase(),
                reason: refusal.reason.clone(),
                message: refusal.message.clone(),
            }),
            Some(State::Asked(_)) | None => Err(Error::NotIssued),
        }
    }

    async fn ask(&self, pod: &Pod, source: &PodCertificateProjection) -> Result<Pending, Error> {
        let proof = key::make(&source.key_type)?;
        let namespace = spec::namespace(pod);
        let account = spec::spec(pod).service_account_name.clone();
        let account = account.unwrap_or_else(|| "default".to_owned());
        let fetch = |what| {
            move |source| Error::Fetch {
                what,
                source: Box::new(source),
            }
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = accounts.get(&account).await;
        let account_uid = found.map_err(fetch("service account"))?.metadata.uid;
        let found = nodes.get(&self.node).await;
        let node_uid = found.map_err(fetch("node"))?.metadata.uid;
        let (name, uid) = (spec::name(pod).to_owned(), spec::uid(pod).to_owned());
        let request = PodCertificateRequest {
            metadata: ObjectMeta {
                generate_name: Some("req-".to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    name: name.clone(),
                    uid: uid.clone(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: source.signer_name.clone(),
                pod_name: name,
                pod_uid: uid,
                service_account_name: account,
                service_account_uid: account_uid.unwrap_or_default(),
                node_name: self.node.clone(),
                node_uid: node_uid.unwrap_or_default(),
                max_expiration_seconds: source.max_expiration_seconds,
                stub_pkc_s10_request: ByteString(proof.request),
                unverified_user_annotations: source.user_annotations.clone(),
            },
            status: None,
        };
        let api: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), namespace);
        let created = api.create(&PostParams::default(), &request).await;
        let created = created.map_err(|error| Error::Create(Box::new(error)))?;
        let name = created.metadata.name.unwrap_or_default();
        let (sender, end) = watch::channel(None);
        let task = tokio::spawn(follow(api, name.clone(), self.node.clone(), sender));
        Ok(Pending {
            name,
            key_pem: proof.key_pem,
            end,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

/// Watches a request until it has ended. Nodes may watch what selects them.
async fn follow(
    api: Api<PodCertificateRequest>,
    name: String,
    node: String,
    sender: watch::Sender<Option<End>>,
) {
    let fields = format!("metadata.name={name},spec.nodeName={node}");
    let config = watcher::Config::default().fields(&fields);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut seen = false;
    loop {
        let end = match events.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                seen = false;
                None
            }
            Ok(Some(watcher::Event::InitApply(request) | watcher::Event::Apply(request))) => {
                seen = true;
                request.status.as_ref().and_then(End::of)
            }
            Ok(Some(watcher::Event::InitDone)) => (!seen).then_some(End::Forgotten),
            Ok(Some(watcher::Event::Delete(_))) => Some(End::Forgotten),
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, name, "watch of a certificate request failed");
                None
            }
        };
        if end.is_some() {
            sender.send_replace(end);
            // The sender stays: its end would look like a change that never comes.
            return std::future::pending().await;
        }
    }
}
