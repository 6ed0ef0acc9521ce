//! Who may do what, through the whole chain: identities are proven by certificates and tokens, and
//! allowed by the roles every cluster starts with.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use apiserver::{ApiServer, AuthOptions, Options, PeerCertificates, UserInfo};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tower::Service;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// How a request proves who it is from.
#[derive(Clone)]
enum As {
    Nobody,
    User(UserInfo),
    Certificate(PeerCertificates),
    Token(String),
}

struct Cluster {
    server: ApiServer,
    ca: Issuer<'static, KeyPair>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca, ca_pem) = new_ca();
        let mut options = Options::new(dir.path());
        options.auth = AuthOptions {
            client_ca_pem: ca_pem,
            service_account_key_pem: KeyPair::generate().unwrap().serialize_pem(),
            issuer: ISSUER.to_owned(),
        };
        let server = ApiServer::new(options).await.unwrap();
        Self {
            server,
            ca,
            _dir: dir,
        }
    }

    fn certificate(&self, name: &str, group: &str) -> As {
        certificate_of(&self.ca, name, group)
    }

    async fn request(
        &self,
        who: &As,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_null() {
            request = request.header("content-type", "application/json");
        }
        if let As::Token(token) = who {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut request = request.body(Full::new(Bytes::from(body))).unwrap();
        match who {
            As::User(user) => {
                request.extensions_mut().insert(user.clone());
            }
            As::Certificate(chain) => {
                request.extensions_mut().insert(chain.clone());
            }
            As::Nobody | As::Token(_) => {}
        }
        let response = self.server.clone().call(request).await.unwrap();
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn get(&self, who: &As, path: &str) -> StatusCode {
        self.request(who, Method::GET, path, Value::Null).await.0
    }

    async fn post(&self, who: &As, path: &str, body: Value) -> (StatusCode, Value) {
        self.request(who, Method::POST, path, body).await
    }

    async fn created(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.post(&admin(), path, body).await;
        assert_eq!(code, StatusCode::CREATED, "{answer}");
        answer
    }
}

fn new_ca() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ca");
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn certificate_of(ca: &Issuer<'static, KeyPair>, name: &str, group: &str) -> As {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, ca).unwrap();
    let der = CertificateDer::from(certificate.der().to_vec());
    As::Certificate(PeerCertificates(Arc::new(vec![der])))
}

fn admin() -> As {
    As::User(UserInfo::new("admin", ["system:masters"]))
}

fn user(name: &str) -> As {
    As::User(UserInfo::new(name, Vec::<String>::new()))
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "env"}}]}],
        },
    })
}

#[tokio::test]
async fn nobody_sees_health_and_version_only() {
    let cluster = Cluster::new().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(
            cluster.get(&As::Nobody, path).await,
            StatusCode::OK,
            "{path}"
        );
    }
    for path in [
        "/api",
        "/apis",
        "/api/v1/pods",
        "/openapi/v2",
        "/openid/v1/jwks",
        "/",
    ] {
        assert_eq!(
            cluster.get(&As::Nobody, path).await,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
}

#[tokio::test]
async fn certificates_of_the_cluster_ca_prove_user_and_group() {
    let cluster = Cluster::new().await;
    let admin = cluster.certificate("admin", "system:masters");
    assert_eq!(cluster.get(&admin, "/api/v1/secrets").await, StatusCode::OK);
    let jane = cluster.certificate("jane", "devs");
    let (code, status) = cluster
        .request(
            &jane,
            Method::GET,
            "/api/v1/namespaces/default/pods",
            Value::Null,
        )
        .await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        status["message"],
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    assert_eq!(cluster.get(&jane, "/apis").await, StatusCode::OK);
    let (other_ca, _) = new_ca();
    let stranger = certificate_of(&other_ca, "admin", "system:masters");
    assert_eq!(
        cluster.get(&stranger, "/api/v1/secrets").await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_role_binding_gives_what_its_role_says_until_it_is_gone() {
    let cluster = Cluster::new().await;
    let jane = user("jane");
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    cluster.created(path, binding).await;
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(cluster.get(&jane, pods).await, StatusCode::OK);
    assert_eq!(
        cluster
            .get(&jane, "/api/v1/namespaces/kube-system/pods")
            .await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        cluster
            .get(&jane, "/api/v1/namespaces/default/secrets")
            .await,
        StatusCode::FORBIDDEN
    );
    let (code, _) = cluster
        .request(
            &admin(),
            Method::DELETE,
            &format!("{path}/jane"),
            Value::Null,
        )
        .await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(cluster.get(&jane, pods).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let cluster = Cluster::new().await;
    let group = "rbac.authorization.k8s.io";
    let roles = format!("/apis/{group}/v1/namespaces/default/roles");
    let bindings = format!("/apis/{group}/v1/namespaces/default/rolebindings");
    let bind = |name: &str, role: &str, who: &str| {
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": group, "kind": "User", "name": who}],
        })
    };
    cluster
        .created(&bindings, bind("jane", "admin", "jane"))
        .await;
    let jane = user("jane");
    let role = |rules: Value| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "Role",
            "metadata": {"generateName": "r-"}, "rules": rules})
    };
    let held = role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]));
    let (code, answer) = cluster.post(&jane, &roles, held).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let wanted = role(json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]}]));
    let (code, status) = cluster.post(&jane, &roles, wanted).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("attempting to grant RBAC permissions not currently held"),
        "{message}"
    );
    let (code, _) = cluster
        .post(&jane, &bindings, bind("more", "cluster-admin", "jane"))
        .await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let (code, answer) = cluster
        .post(&jane, &bindings, bind("less", "view", "joe"))
        .await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
}

#[tokio::test]
async fn a_service_accounts_token_lives_as_long_as_what_it_is_bound_to() {
    let cluster = Cluster::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot"}});
    cluster.created(accounts, account).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "anchor"}});
    let secret = cluster
        .created("/api/v1/namespaces/default/secrets", secret)
        .await;
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "anchor",
            "uid": secret["metadata"]["uid"]}},
    });
    let answer = cluster
        .created(&format!("{accounts}/bot/token"), request)
        .await;
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let bot = As::Token(token.clone());
    let whoami = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = cluster.post(&bot, path, whoami).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    assert_eq!(
        answer["status"]["userInfo"]["username"],
        "system:serviceaccount:default:bot"
    );
    let review = |audiences: Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences}})
    };
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = cluster.created(reviews, review(json!([ISSUER]))).await;
    assert_eq!(answer["status"]["authenticated"], true);
    let answer = cluster.created(reviews, review(json!(["other"]))).await;
    assert_ne!(answer["status"]["authenticated"], true);
    let path = "/api/v1/namespaces/default/secrets/anchor";
    cluster
        .request(&admin(), Method::DELETE, path, Value::Null)
        .await;
    assert_eq!(cluster.get(&bot, "/apis").await, StatusCode::UNAUTHORIZED);
    let forged = As::Token(format!("{token}x"));
    assert_eq!(
        cluster.get(&forged, "/apis").await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_bootstrap_token_may_ask_for_a_certificate_and_nothing_else() {
    let cluster = Cluster::new().await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"},
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true"},
    });
    cluster
        .created("/api/v1/namespaces/kube-system/secrets", secret)
        .await;
    let machine = As::Token("abcdef.0123456789abcdef".to_owned());
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests/x";
    assert_eq!(cluster.get(&machine, requests).await, StatusCode::NOT_FOUND);
    assert_eq!(
        cluster.get(&machine, "/api/v1/nodes").await,
        StatusCode::FORBIDDEN
    );
    let wrong = As::Token("abcdef.fedcba9876543210".to_owned());
    assert_eq!(
        cluster.get(&wrong, requests).await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need_and_writes_its_own() {
    let cluster = Cluster::new().await;
    for name in ["env", "other"] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        cluster
            .created("/api/v1/namespaces/default/secrets", secret)
            .await;
    }
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    // The controller makes it in a real cluster.
    cluster
        .post(
            &admin(),
            "/api/v1/namespaces/default/serviceaccounts",
            account,
        )
        .await;
    let n1 = cluster.certificate("system:node:n1", "system:nodes");
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(
        cluster.get(&n1, &format!("{secrets}/env")).await,
        StatusCode::FORBIDDEN
    );
    let created = cluster
        .created("/api/v1/namespaces/default/pods", pod("web", "n1"))
        .await;
    assert_eq!(
        cluster.get(&n1, &format!("{secrets}/env")).await,
        StatusCode::OK
    );
    assert_eq!(
        cluster.get(&n1, &format!("{secrets}/other")).await,
        StatusCode::FORBIDDEN
    );
    let n2 = cluster.certificate("system:node:n2", "system:nodes");
    assert_eq!(
        cluster.get(&n2, &format!("{secrets}/env")).await,
        StatusCode::FORBIDDEN
    );

    let node = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let nodes = "/api/v1/nodes";
    let labels = json!({"kubernetes.io/hostname": "n1"});
    assert_eq!(
        cluster.post(&n1, nodes, node("n1", labels)).await.0,
        StatusCode::CREATED
    );
    assert_eq!(
        cluster.post(&n1, nodes, node("n3", json!({}))).await.0,
        StatusCode::FORBIDDEN
    );
    let role = json!({"node-role.kubernetes.io/control-plane": ""});
    assert_eq!(
        cluster.post(&n2, nodes, node("n2", role)).await.0,
        StatusCode::FORBIDDEN
    );

    let token = |uid: &Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef":
                {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid}}})
    };
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let uid = &created["metadata"]["uid"];
    let (code, answer) = cluster.post(&n1, tokens, token(uid)).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let unbound =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    assert_eq!(
        cluster.post(&n1, tokens, unbound).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        cluster.post(&n2, tokens, token(uid)).await.0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn access_reviews_answer_for_others_and_for_oneself() {
    let cluster = Cluster::new().await;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "system:kube-scheduler",
            "resourceAttributes": {"verb": "list", "resource": "pods"}},
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = cluster.created(path, review).await;
    assert_eq!(answer["status"]["allowed"], true, "{answer}");
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (code, answer) = cluster.post(&user("jane"), path, review).await;
    assert_eq!(
        (code, &answer["status"]["allowed"]),
        (StatusCode::CREATED, &json!(false))
    );
}

#[tokio::test]
async fn the_documents_that_verify_tokens_are_published_to_the_authenticated() {
    let cluster = Cluster::new().await;
    let (code, document) = cluster
        .request(
            &admin(),
            Method::GET,
            "/.well-known/openid-configuration",
            Value::Null,
        )
        .await;
    assert_eq!(
        (code, &document["issuer"]),
        (StatusCode::OK, &json!(ISSUER))
    );
    let (_, keys) = cluster
        .request(&admin(), Method::GET, "/openid/v1/jwks", Value::Null)
        .await;
    assert_eq!(keys["keys"][0]["alg"], "ES256");
}
