//! A webhook server over HTTPS: a CA of its own, and a record of what it was asked.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::Harness;

pub const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// A webhook server: what it was asked, by path.
pub struct Server {
    pub address: std::net::SocketAddr,
    ca: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// `answer` gives the response to a request at a path; null: there is none, ever.
    pub async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "hook.default.svc"].map(str::to_owned);
        let params = CertificateParams::new(names).unwrap();
        let leaf = params.signed_by(&key, &ca).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(leaf.pem().as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, log, answer) = (
            TlsAcceptor::from(Arc::new(tls)),
            seen.clone(),
            Arc::new(answer),
        );
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, log, answer) = (acceptor.clone(), log.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(socket).await else {
                        return;
                    };
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        reply(request, log.clone(), answer.clone())
                    });
                    let serving = hyper::server::conn::http1::Builder::new();
                    let _ = serving.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self {
            address,
            ca: ca.pem(),
            seen,
            task,
        }
    }

    /// A configuration of one webhook at a path, for rules `(operations, group, version, resource)`.
    pub fn hook(&self, path: &str, rule: (&[&str], &str, &str, &str)) -> Value {
        let (operations, group, version, resource) = rule;
        json!({
            "name": format!("{}.example.com", path.trim_matches('/')),
            "clientConfig": {
                "url": format!("https://{}{path}", self.address),
                "caBundle": STANDARD.encode(&self.ca),
            },
            "rules": [{"operations": operations, "apiGroups": [group], "apiVersions": [version],
                       "resources": [resource]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        })
    }

    pub fn asked(&self, path: &str) -> Vec<Value> {
        let seen = self.seen.lock().unwrap();
        let of_path = seen.iter().filter(|(at, _)| at == path);
        of_path.map(|(_, request)| request.clone()).collect()
    }
}

async fn reply<A>(
    request: Request<hyper::body::Incoming>,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    answer: Arc<A>,
) -> Result<Response<Full<Bytes>>, hyper::Error>
where
    A: Fn(&str, &Value) -> Value,
{
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let request = review["request"].clone();
    seen.lock().unwrap().push((path.clone(), request.clone()));
    let mut response = answer(&path, &request);
    if response.is_null() {
        std::future::pending::<()>().await;
    }
    response["uid"] = request["uid"].clone();
    let review = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"],
                        "response": response});
    Ok(Response::new(Full::new(Bytes::from(review.to_string()))))
}

pub fn allowed() -> Value {
    json!({"allowed": true})
}

pub fn denied(text: &str) -> Value {
    json!({"allowed": false, "status": {"message": text, "code": 403, "reason": "Forbidden"}})
}

pub fn patched(patch: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
}

/// Registers webhooks; `kind` is `validating` or `mutating`.
pub async fn register(harness: &Harness, kind: &str, name: &str, hooks: &[Value]) {
    let uri = format!("{CONFIGURATIONS}/{kind}webhookconfigurations");
    let body = json!({"metadata": {"name": name}, "webhooks": hooks});
    harness.create(&uri, &body).await;
}
