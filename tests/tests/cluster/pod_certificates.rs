//! Certificates of pods: asked for by the pod's node with its own identity, issued by a signer outside,
//! replaced when they are due.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::events::{Source, recorder};
use agent::volume::certificate::{Certificates, Error};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams};
use rcgen::{IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::Cluster;
use crate::wait::until;

const SIGNER: &str = "example.com/pods";
/// As long as a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: u64 = 3600;

/// The status of a request that is issued for an hour from now.
fn issued(request: &PodCertificateRequest) -> Value {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = Issuer::new(ca, KeyPair::generate().unwrap());
    let der = request.spec.stub_pkc_s10_request.0.clone();
    let mut wanted = CertificateSigningRequestParams::from_der(&der.into()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let start = now.as_secs();
    let time = |second: u64| UNIX_EPOCH + Duration::from_secs(second);
    wanted.params.not_before = time(start).into();
    wanted.params.not_after = time(start + HOUR).into();
    let text = |second: u64| {
        let second = i64::try_from(second).unwrap();
        Timestamp::from_second(second).unwrap().to_string()
    };
    json!({
        "certificateChain": wanted.signed_by(&ca).unwrap().pem(),
        "notBefore": text(start),
        "beginRefreshAt": text(start + HOUR / 2),
        "notAfter": text(start + HOUR),
        "conditions": [condition("Issued")],
    })
}

fn condition(ty: &str) -> Value {
    json!({"type": ty, "status": "True", "reason": "Tested", "message": "by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// Ends the one request that is open.
async fn end(cluster: &Cluster, status: impl Fn(&PodCertificateRequest) -> Value) {
    let api = cluster.api::<PodCertificateRequest>();
    let is_open = |r: &PodCertificateRequest| {
        let status = r.status.as_ref();
        status.is_none_or(|s| s.conditions.iter().flatten().next().is_none())
    };
    let all = until("an open request", api.clone(), "", |all| {
        all.iter().any(|r| is_open(r))
    })
    .await;
    let open = all.iter().find(|r| is_open(r)).unwrap();
    let patch = Patch::Merge(json!({"status": status(open)}));
    let name = open.metadata.name.as_deref().unwrap();
    let params = PatchParams::default();
    api.patch_status(name, &params, &patch).await.unwrap();
}

async fn pod(cluster: &Cluster) -> Pod {
    cluster
        .create(json!({"metadata": {"name": "p"}, "spec": {
            "nodeName": "n",
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "tls", "projected": {"sources": [{"podCertificate": {
                "signerName": SIGNER, "keyType": "ECDSAP256", "maxExpirationSeconds": HOUR,
                "userAnnotations": {"example.com/path": "x"},
                "credentialBundlePath": "bundle.pem"}}]}}]}}))
        .await
}

fn certificates(cluster: &Cluster) -> Certificates {
    let client = cluster.running.client_of_node("n");
    let source = Source {
        component: "kubelet",
        node: "n".to_owned(),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let (recorder, run) = recorder(client.clone(), source, stop);
    tokio::spawn(run);
    Certificates::new(client, recorder, "n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_certificate_is_issued_kept_and_replaced() {
    let cluster = Cluster::with_nodes(&["n"]).await;
    let pod = pod(&cluster).await;
    let mut certificates = certificates(&cluster);
    let now = Timestamp::now();
    let (none, waiting) = certificates.ensure(&pod, now, Duration::ZERO).await;
    assert!(none.is_empty());
    assert!(matches!(waiting["tls"], Error::NotIssued));
    let ((first, _), ()) = tokio::join!(
        certificates.ensure(&pod, now, PATIENCE),
        end(&cluster, issued)
    );
    let first = first.into_values().next().unwrap();
    assert!(first.key.starts_with(b"-----BEGIN PRIVATE KEY-----"));
    assert!(first.chain.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let (again, _) = certificates.ensure(&pod, now, Duration::ZERO).await;
    assert!(again.values().all(|bundle| *bundle == first));
    let requests = cluster.api::<PodCertificateRequest>();
    let all = requests.list(&Default::default()).await.unwrap();
    assert_eq!(all.items.len(), 1);
    let annotations = all.items[0].spec.unverified_user_annotations.as_ref();
    assert_eq!(annotations.unwrap()["example.com/path"], "x");
    let due = certificates.refresh_at().unwrap();
    let (old, _) = certificates.ensure(&pod, due, Duration::ZERO).await;
    assert!(
        old.values().all(|bundle| *bundle == first),
        "kept meanwhile"
    );
    let (_, ()) = tokio::join!(certificates.changed(), end(&cluster, issued));
    let (new, _) = certificates.ensure(&pod, due, Duration::ZERO).await;
    assert_eq!(new.len(), 1);
    assert!(new.values().all(|bundle| bundle.key != first.key));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_certificate_is_told_in_an_event() {
    let cluster = Cluster::with_nodes(&["n"]).await;
    let pod = pod(&cluster).await;
    let mut certificates = certificates(&cluster);
    let denied = |_: &PodCertificateRequest| json!({"conditions": [condition("Denied")]});
    let ((_, waiting), ()) = tokio::join!(
        certificates.ensure(&pod, Timestamp::now(), PATIENCE),
        end(&cluster, denied)
    );
    let wanted = "PodCertificateRequest was permanently denied: \
                  reason=\"Tested\" message=\"by a test\"";
    assert_eq!(waiting["tls"].to_string(), wanted);
    let events: Api<Event> = cluster.api();
    until("the event", events, "", |events| {
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("Denied"))
    })
    .await;
    cluster.stop().await;
}
