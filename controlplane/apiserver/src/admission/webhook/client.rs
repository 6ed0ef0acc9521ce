//! The client side of one webhook: where it is, whom it trusts, and its kept connections.
//!
//! Input: `clientConfig`; a review as JSON. Output: the answer's bytes, or why there is none in Go's
//! words, which users know. HTTP/1.1 only: concurrent requests spread over the endpoints of a service
//! (upstream's reason, kubernetes issue 75791).
//! Port of `k8s.io/apiserver/pkg/util/webhook/client.go`.

use std::{error::Error, net::IpAddr, sync::OnceLock, time::Duration};

use api::Value;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};

use super::connect::Connector;
use crate::{
    body,
    cache::Cache,
    endpoint::{self, ServicePort},
};

/// Longest answer of a webhook, bytes: a patch of the largest object fits.
const MAX_ANSWER_BYTES: usize = 3 << 20;
/// Longest part of an answer that is shown in an error, bytes.
const MAX_SHOWN_BYTES: usize = 2048;
/// How long an idle connection is kept (upstream: http.Transport's IdleConnTimeout).
const IDLE: Duration = Duration::from_secs(90);
/// Idle connections kept to one address of one webhook (upstream: MaxIdleConnsPerHost).
const MAX_IDLE: usize = 25;
const HTTPS_PORT: u16 = 443;

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
    Url(String),
    /// The configuration names neither.
    Nowhere,
}

/// A webhook's client.
pub struct Client {
    place: Place,
    /// PEM; empty: the system's roots.
    ca: Vec<u8>,
    /// Made at the first call.
    pool: OnceLock<Result<Pool, String>>,
}

// === impl Client ===

impl Client {
    pub fn new(place: Place, ca: Vec<u8>) -> Self {
        Self {
            place,
            ca,
            pool: OnceLock::new(),
        }
    }

    /// Reads a webhook's `clientConfig`.
    pub fn read(config: Option<&Value<'_>>) -> Self {
        let text = |field: &str| config.and_then(|config| config.str_of(field));
        let ca = STANDARD.decode(text("caBundle").unwrap_or_default());
        let place = match (config.and_then(|config| config.get("service")), text("url")) {
            (Some(service), _) => {
                let text = |field: &str| service.str_of(field).unwrap_or_default().to_owned();
                let port = service.get("port").and_then(Value::as_int);
                let port = port.and_then(|port| u16::try_from(port).ok());
                Place::Service {
                    namespace: text("namespace"),
                    name: text("name"),
                    port: port.filter(|port| *port != 0).unwrap_or(HTTPS_PORT),
                    path: text("path"),
                }
            }
            (None, Some(url)) => Place::Url(url.to_owned()),
            (None, None) => Place::Nowhere,
        };
        Self::new(place, ca.unwrap_or_default())
    }

    /// Asks once; the whole exchange takes no longer than `timeout`.
    pub async fn post(
        &self,
        cache: &Cache,
        review: Vec<u8>,
        timeout: Duration,
    ) -> Result<Bytes, String> {
        let url = self.url(timeout)?;
        let failed = |why: String| format!("Post \"{url}\": {why}");
        match tokio::time::timeout(timeout, self.exchange(cache, &url, review)).await {
            Ok(Ok((status, answer))) => checked(status, answer),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    /// The address as errors show it.
    fn url(&self, timeout: Duration) -> Result<String, String> {
        let base = match &self.place {
            Place::Service {
                namespace,
                name,
                port,
                path,
            } => {
                let slash = if path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
            Place::Url(url) => url.clone(),
            Place::Nowhere => {
                return Err("webhook configuration must have either service or URL".to_owned());
            }
        };
        Ok(format!("{base}?timeout={}s", timeout.as_secs()))
    }

    async fn exchange(
        &self,
        cache: &Cache,
        url: &str,
        review: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), String> {
        let shown: Uri = url
            .parse()
            .map_err(|e: http::uri::InvalidUri| e.to_string())?;
        let authority = shown.authority().ok_or("no Host in request URL")?.clone();
        let pool = self.pool(&shown).as_ref().map_err(String::clone)?;
        let uri = match self.endpoint(cache)? {
            None => shown,
            Some((ip, port)) => {
                let address = std::net::SocketAddr::new(ip, port).to_string();
                let mut parts = shown.into_parts();
                parts.authority = Some(address.parse().map_err(|_| "malformed address")?);
                Uri::from_parts(parts).map_err(|e| e.to_string())?
            }
        };
        let request = Request::post(uri)
            .header(header::HOST, authority.as_str())
            .header(header::CONTENT_TYPE, body::JSON)
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(Bytes::from(review)))
            .map_err(|e| e.to_string())?;
        let response = pool.request(request).await.map_err(|e| cause(&e))?;
        let (parts, answer) = response.into_parts();
        let answer = answer.map_err(Into::into).boxed_unsync();
        let answer = body::short(answer, MAX_ANSWER_BYTES).await.ok_or_else(|| {
            format!("the answer cannot be read, or is longer than {MAX_ANSWER_BYTES} bytes")
        })?;
        Ok((parts.status, answer))
    }

    /// Of a service: the endpoint that is asked this time.
    fn endpoint(&self, cache: &Cache) -> Result<Option<(IpAddr, u16)>, String> {
        let Place::Service {
            namespace,
            name,
            port,
            ..
        } = &self.place
        else {
            return Ok(None);
        };
        let port = port.to_string();
        let of = ServicePort {
            namespace,
            name,
            port: &port,
        };
        let found = endpoint::random(cache, of, |_| true);
        found.map(Some).map_err(|status| status.message)
    }

    fn pool(&self, url: &Uri) -> &Result<Pool, String> {
        self.pool.get_or_init(|| {
            let host = url.host().unwrap_or_default();
            let connector = Connector::new(host, &self.ca)?;
            Ok(legacy::Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(MAX_IDLE)
                .pool_timer(TokioTimer::new())
                .build(connector))
        })
    }
}

/// An answer that is one; the texts of `NewGenericServerResponse`
/// (`k8s.io/apimachinery/pkg/api/errors/errors.go`).
fn checked(status: StatusCode, answer: Bytes) -> Result<Bytes, String> {
    let text = match status.as_u16() {
        200..=206 => return Ok(answer),
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 => "forbidden",
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => "the server was unable to return a response in the time allotted",
        _ => {
            let shown = &answer[..answer.len().min(MAX_SHOWN_BYTES)];
            let shown = String::from_utf8_lossy(shown);
            return Err(format!(
                "an error on the server ({}) has prevented the request from succeeding",
                api::status::quote(shown.trim())
            ));
        }
    };
    Err(text.to_owned())
}

/// What is at the bottom of an error.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16, path: &str) -> Place {
        Place::Service {
            namespace: "n".into(),
            name: "s".into(),
            port,
            path: path.into(),
        }
    }

    #[test]
    fn the_address_has_the_time_in_it() {
        let table = [
            (service(443, ""), "https://s.n.svc:443/?timeout=10s"),
            (service(8443, "/a"), "https://s.n.svc:8443/a?timeout=10s"),
            (Place::Url("https://h/p".into()), "https://h/p?timeout=10s"),
        ];
        for (place, want) in table {
            let client = Client::new(place, Vec::new());
            assert_eq!(client.url(Duration::from_secs(10)).unwrap(), want);
        }
        let nowhere = Client::new(Place::Nowhere, Vec::new());
        assert!(nowhere.url(Duration::from_secs(1)).is_err());
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_no_webhook() {
        let client = Client::new(service(443, "/p"), Vec::new());
        let cache = Cache::new();
        let why = client
            .post(&cache, Vec::new(), Duration::from_secs(1))
            .await;
        let text = "Post \"https://s.n.svc:443/p?timeout=1s\": services \"s\" not found";
        assert_eq!(why.unwrap_err(), text);
    }
}
