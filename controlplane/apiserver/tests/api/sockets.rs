//! Over real sockets: TLS with HTTP/1.1 and h2, client certificates, and streams through a fake
//! kubelet.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{net::SocketAddr, sync::Arc};

use apiserver::{ApiServer, KubeletOptions, Options};
use bytes::Bytes;
use futures::{StreamExt, future::ready};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Pem {
    chain: String,
    key: String,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn leaf(&self, name: &str, group: &str) -> Pem {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pem {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap())
            .unwrap();
        roots
    }

    fn server(&self, pem: &Pem) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(pem), key(pem))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    async fn connect(
        &self,
        address: SocketAddr,
        identity: Option<&Pem>,
        protocol: &[u8],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match identity {
            Some(pem) => builder.with_client_auth_cert(chain(pem), key(pem)).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::from(address.ip());
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap()
    }
}

fn chain(pem: &Pem) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.chain.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap()
}

fn key(pem: &Pem) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap()
}

struct Served {
    ca: Ca,
    address: SocketAddr,
    server: ApiServer,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

async fn served() -> Served {
    let ca = Ca::new();
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.auth.client_ca_pem = ca.pem();
    let kubelet_client = ca.leaf("kube-apiserver-kubelet-client", "system:masters");
    options.kubelet = KubeletOptions {
        ca_pem: ca.pem(),
        cert_pem: kubelet_client.chain,
        key_pem: kubelet_client.key,
    };
    let server = ApiServer::new(options).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let tls = ca.server(&ca.leaf("apiserver", "x"));
    tokio::spawn(apiserver::serve(
        server.clone(),
        listener,
        tls,
        stop.clone(),
    ));
    Served {
        ca,
        address,
        server,
        stop,
        _dir: dir,
    }
}

type Answer = (StatusCode, String);

async fn read(response: Response<hyper::body::Incoming>) -> Answer {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn http1(served: &Served, identity: Option<&Pem>, request: Request<Full<Bytes>>) -> Answer {
    let stream = served
        .ca
        .connect(served.address, identity, b"http/1.1")
        .await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    read(sender.send_request(request).await.unwrap()).await
}

fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri)
        .header("host", "x")
        .body(Full::default())
        .unwrap()
}

#[tokio::test]
async fn certificates_are_identities_over_http1_and_h2() {
    let served = served().await;
    let admin = served.ca.leaf("admin", "system:masters");
    let nobody = served.ca.leaf("nobody", "none");
    let uri = "/api/v1/namespaces/default";
    let (code, text) = http1(&served, Some(&admin), get(uri)).await;
    assert_eq!(code, 200, "{text}");
    let (code, text) = http1(&served, Some(&nobody), get(uri)).await;
    assert_eq!(code, 403);
    assert!(
        text.contains(r#"User \"nobody\" cannot get resource \"namespaces\""#),
        "{text}"
    );
    assert_eq!(http1(&served, None, get(uri)).await.0, 401);
    assert_eq!(
        http1(&served, None, get("/healthz")).await,
        (StatusCode::OK, "ok".to_owned())
    );

    let stream = served.ca.connect(served.address, Some(&admin), b"h2").await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = get(&format!("https://127.0.0.1{uri}"));
    let (code, text) = read(sender.send_request(request).await.unwrap()).await;
    assert_eq!(code, 200, "{text}");
    served.stop.cancel();
}

/// A kubelet that logs its path and, asked to upgrade, echoes.
async fn fake_kubelet(ca: &Ca) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(ca.server(&ca.leaf("kubelet", "x")));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tls = acceptor.accept(socket).await.unwrap();
            assert!(tls.get_ref().1.peer_certificates().is_some());
            let service = service_fn(|mut request: Request<hyper::body::Incoming>| async move {
                let uri = request.uri().to_string();
                let page = uri.ends_with(".html").then_some("<a href=/x>");
                let body = page.map_or(uri, str::to_owned);
                let mut response = Response::new(Full::new(Bytes::from(body)));
                if page.is_some() {
                    let html = header::HeaderValue::from_static("text/html; charset=utf-8");
                    response.headers_mut().insert(header::CONTENT_TYPE, html);
                }
                if request.headers().contains_key(header::UPGRADE) {
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    response
                        .headers_mut()
                        .insert(header::CONNECTION, "Upgrade".parse().unwrap());
                    response
                        .headers_mut()
                        .insert(header::UPGRADE, "websocket".parse().unwrap());
                    let uri = response.body().clone().collect().await.unwrap().to_bytes();
                    response
                        .headers_mut()
                        .insert("x-uri", uri.as_ref().try_into().unwrap());
                    *response.body_mut() = Full::default();
                    tokio::spawn(async move {
                        let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
                        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
                        tokio::io::copy(&mut from, &mut to).await
                    });
                }
                Ok::<_, hyper::Error>(response)
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tls), service)
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    address
}

async fn with_pod(served: &Served, admin: &Pem, kubelet: SocketAddr) {
    let post = |uri: &str, body: serde_json::Value| {
        Request::post(uri)
            .header("host", "x")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap()
    };
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
    let creations = [
        ("/api/v1/nodes", json!({"metadata": {"name": "n1"}})),
        (
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        ),
        (
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": "p"}, "spec": spec}),
        ),
    ];
    for (uri, body) in creations {
        let (code, text) = http1(served, Some(admin), post(uri, body)).await;
        assert_eq!(code, 201, "{text}");
    }
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": kubelet.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
    }});
    let patch = Request::patch("/api/v1/nodes/n1/status")
        .header("host", "x")
        .header("content-type", "application/merge-patch+json")
        .body(Full::new(Bytes::from(status.to_string())))
        .unwrap();
    let (code, text) = http1(served, Some(admin), patch).await;
    assert_eq!(code, 200, "{text}");
}

/// The messages of a log until its end.
async fn log_over_websocket(served: &Served, admin: &Pem, path: &str) -> Vec<String> {
    let ca = &served.ca;
    let stream = ca.connect(served.address, Some(admin), b"http/1.1").await;
    let uri = format!("wss://{}{path}", served.address);
    let (socket, _) = tokio_tungstenite::client_async(uri, stream).await.unwrap();
    let messages = socket.map(|message| message.unwrap());
    let messages = messages.take_while(|message| ready(!message.is_close()));
    let text = |message: Message| String::from_utf8(message.into_data().to_vec()).unwrap();
    messages.map(text).collect().await
}

#[tokio::test]
async fn logs_and_exec_go_to_the_kubelet() {
    let served = served().await;
    let admin = served.ca.leaf("admin", "system:masters");
    let kubelet = fake_kubelet(&served.ca).await;
    with_pod(&served, &admin, kubelet).await;
    let pod = "/api/v1/namespaces/default/pods/p";
    let log = http1(
        &served,
        Some(&admin),
        get(&format!("{pod}/log?tailLines=5&x=y")),
    )
    .await;
    assert_eq!(
        log,
        (
            StatusCode::OK,
            "/containerLogs/default/p/c?tailLines=5".to_owned()
        )
    );
    let messages = log_over_websocket(&served, &admin, &format!("{pod}/log?tailLines=5")).await;
    assert_eq!(messages, ["", "/containerLogs/default/p/c?tailLines=5"]);
    let wrong = http1(
        &served,
        Some(&admin),
        get(&format!("{pod}/log?container=z")),
    )
    .await;
    assert_eq!(wrong.0, 400);
    assert!(
        wrong.1.contains("container z is not valid for pod p"),
        "{}",
        wrong.1
    );

    let stream = served
        .ca
        .connect(served.address, Some(&admin), b"http/1.1")
        .await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!(
        "{pod}/exec?command=ls&command=-l%20a&stdout=true&tty=0"
    ))
    .header("host", "x")
    .header("connection", "Upgrade")
    .header("upgrade", "websocket")
    .header("sec-websocket-key", "k")
    .body(Empty::<Bytes>::new())
    .unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(
        response.headers()["x-uri"],
        "/exec/default/p/c?command=ls&command=-l%20a&output=1"
    );
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut stream = TokioIo::new(upgraded);
    stream.write_all(b"echo").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"echo");
    served.stop.cancel();
    served.server.close().await;
}

#[tokio::test]
async fn what_is_asked_through_proxy_goes_on_as_it_was_sent() {
    let served = served().await;
    let admin = served.ca.leaf("admin", "system:masters");
    let kubelet = fake_kubelet(&served.ca).await;
    with_pod(&served, &admin, kubelet).await;
    let ask = |uri: String| {
        let mut request = get(&uri);
        let html = header::HeaderValue::from_static("text/html");
        request.headers_mut().insert(header::ACCEPT, html);
        http1(&served, Some(&admin), request)
    };
    let path = "a%20b//c/?x=y%2Fz";
    let told = (StatusCode::OK, format!("/{path}"));
    let node = "/api/v1/nodes/n1";
    assert_eq!(ask(format!("{node}/proxy/{path}")).await, told);
    let port = kubelet.port();
    assert_eq!(ask(format!("{node}:{port}/proxy/{path}")).await, told);
    let mut options = get(&format!("{node}/proxy/{path}"));
    *options.method_mut() = http::Method::OPTIONS;
    assert_eq!(http1(&served, Some(&admin), options).await, told);
    let page = (StatusCode::OK, format!("<a href={node}/proxy/x>"));
    assert_eq!(ask(format!("{node}/proxy/a.html")).await, page);
    let (code, _) = ask(format!("{node}/proxy")).await;
    assert_eq!(code, StatusCode::MOVED_PERMANENTLY);

    let pods = "/api/v1/namespaces/default/pods";
    let (code, text) = ask(format!("{pods}/p:80/proxy/")).await;
    assert_eq!(code, 400, "no address yet");
    assert!(text.contains("address not allowed"), "{text}");
    let (code, text) = ask(format!("{pods}/a:b:c:d/proxy/")).await;
    assert_eq!(code, 400);
    assert!(text.contains("invalid pod request"), "{text}");
    assert_eq!(ask(format!("{pods}/q/proxy/")).await.0, 404);
    served.stop.cancel();
}
