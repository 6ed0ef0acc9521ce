//! A server in a directory of its own, raw requests to it, and a `kube::Client` over it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use apiserver::{ApiServer, Options, UserInfo};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full};
use serde_json::Value;
use tower::Service;

/// A server and its directory.
pub struct Harness {
    pub server: ApiServer,
    dir: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub code: StatusCode,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// The events of a watch.
pub struct Events {
    body: BodyStream<apiserver::Body>,
    pending: Vec<u8>,
}

impl Events {
    /// The next event; none when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.next().await?.unwrap();
            self.pending.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    pub async fn short(&mut self) -> (String, String) {
        let deadline = std::time::Duration::from_secs(10);
        let event = tokio::time::timeout(deadline, self.next())
            .await
            .unwrap()
            .unwrap();
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default();
        (event["type"].as_str().unwrap().to_owned(), name.to_owned())
    }
}

impl Harness {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(dir.path());
        change(&mut options);
        let server = ApiServer::new(options).await.unwrap();
        Self { server, dir }
    }

    /// With what a pod needs to be admitted: its namespace's service account.
    pub async fn with_account() -> Self {
        let harness = Self::new().await;
        let account = serde_json::json!({"metadata": {"name": "default"}});
        harness
            .create("/api/v1/namespaces/default/serviceaccounts", &account)
            .await;
        harness
    }

    /// Stops the server and starts another one in the same directory.
    pub async fn restart(self) -> Self {
        let Self { server, dir } = self;
        server.close().await;
        drop(server);
        let server = ApiServer::new(Options::new(dir.path())).await.unwrap();
        Self { server, dir }
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A client with all rights.
    pub fn client(&self) -> kube::Client {
        let server = self.server.clone();
        let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
            request.extensions_mut().insert(admin());
            server.clone().call(request)
        });
        kube::Client::new(service, "default")
    }

    /// A request with headers, as cluster administrator.
    pub async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<apiserver::Body> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::new(body.into())).unwrap();
        request.extensions_mut().insert(admin());
        self.server.clone().call(request).await.unwrap()
    }

    pub async fn ask(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (parts, body) = self.send(method, uri, headers, body).await.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        Reply {
            code: parts.status,
            headers: parts.headers,
            text,
        }
    }

    pub async fn get(&self, uri: &str) -> Reply {
        self.ask(Method::GET, uri, &[], "").await
    }

    pub async fn delete(&self, uri: &str) -> Reply {
        self.ask(Method::DELETE, uri, &[], "").await
    }

    pub async fn post(&self, uri: &str, body: &Value) -> Reply {
        self.ask(Method::POST, uri, &[], body.to_string()).await
    }

    pub async fn put(&self, uri: &str, body: &Value) -> Reply {
        self.ask(Method::PUT, uri, &[], body.to_string()).await
    }

    pub async fn patch(&self, uri: &str, kind: &str, body: &Value) -> Reply {
        let media = format!("application/{kind}+json");
        self.ask(
            Method::PATCH,
            uri,
            &[("content-type", &media)],
            body.to_string(),
        )
        .await
    }

    /// Creates and gives what was created.
    pub async fn create(&self, uri: &str, body: &Value) -> Value {
        let reply = self.post(uri, body).await;
        assert_eq!(reply.code, 201, "{}", reply.text);
        reply.json()
    }

    pub async fn watch(&self, uri: &str) -> Events {
        let response = self.send(Method::GET, uri, &[], "").await;
        assert_eq!(response.status(), 200);
        Events {
            body: BodyStream::new(response.into_body()),
            pending: Vec::new(),
        }
    }
}

pub fn admin() -> UserInfo {
    UserInfo::new("admin", ["system:masters"])
}

pub fn config_map(name: &str, value: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app": value}}, "data": {"key": value},
    })
}

pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
