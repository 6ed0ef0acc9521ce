//! Requests for pods' certificates: proven by their key, made by the pod's node, ended once and by whom
//! may sign.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use apiserver::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use tower::Service;

use crate::harness::Harness;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
const SIGNER: &str = "example.com/pods";

/// Of an answer: code, and the object or the status.
async fn ask(
    harness: &Harness,
    user: &UserInfo,
    method: Method,
    uri: &str,
    body: &Value,
) -> (u16, Value) {
    let body = Full::new(Bytes::from(body.to_string()));
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(body)
        .unwrap();
    request.extensions_mut().insert(user.clone());
    let answer = harness.server.clone().call(request).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap())
}

fn request_of(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn object(name: &str, pkcs10: &[u8]) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": {"name": name},
        "spec": {
            "signerName": SIGNER,
            "podName": "p", "podUID": "pod-uid",
            "serviceAccountName": "default", "serviceAccountUID": "account-uid",
            "nodeName": "n1", "nodeUID": "node-uid",
            "stubPKCS10Request": STANDARD.encode(pkcs10),
        },
    })
}

/// The status with a certificate for `key`.
fn issued(key: &KeyPair, life: Duration) -> Value {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = Issuer::new(ca, ca_key);
    let start = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name.push(DnType::CommonName, "p");
    leaf.not_before = start;
    leaf.not_after = start + life;
    let chain = leaf.signed_by(key, &ca).unwrap().pem();
    let text = |time: OffsetDateTime| time.format(&Rfc3339).unwrap();
    json!({
        "certificateChain": chain,
        "notBefore": text(start),
        "beginRefreshAt": text(start + life / 2),
        "notAfter": text(start + life),
        "conditions": [{"type": "Issued", "status": "True", "reason": "Signed", "message": "",
            "lastTransitionTime": text(start)}],
    })
}

#[tokio::test]
async fn a_request_proves_that_its_key_is_held() {
    let harness = Harness::new().await;
    let key = KeyPair::generate().unwrap();
    let good = request_of(&key);
    let created = harness.create(REQUESTS, &object("good", &good)).await;
    assert_eq!(created["spec"]["maxExpirationSeconds"], 86400);
    let mut forged = good.clone();
    // The signature's last byte.
    *forged.last_mut().unwrap() ^= 1;
    let refused = harness.post(REQUESTS, &object("forged", &forged)).await;
    assert_eq!(refused.code, 422);
    let wanted = "spec.stubPKCS10Request: Invalid value: invalid signature";
    assert!(refused.message().ends_with(wanted), "{}", refused.message());
    let refused = harness.post(REQUESTS, &object("other", b"other")).await;
    let wanted = "must be a valid PKCS#10 CSR";
    assert!(refused.message().ends_with(wanted), "{}", refused.message());
    let weak = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let accepted = harness
        .post(REQUESTS, &object("ed", &request_of(&weak)))
        .await;
    assert_eq!(accepted.code, 201, "{}", accepted.text);
    let mut changed = created.clone();
    changed["spec"]["podName"] = "q".into();
    let refused = harness.put(&format!("{REQUESTS}/good"), &changed).await;
    assert_eq!(refused.code, 422);
    let mut short = object("short", &good);
    short["spec"]["maxExpirationSeconds"] = 60.into();
    short["spec"]["podUID"] = "".into();
    let message = harness.post(REQUESTS, &short).await.message();
    assert!(
        message.contains("must be in the range [3600, 7862400]"),
        "{message}"
    );
    assert!(
        message.contains("spec.podUID: Invalid value: \"\": must not be empty"),
        "{message}"
    );
}

#[tokio::test]
async fn a_certificate_is_for_the_key_and_the_time_that_were_asked_for() {
    let harness = Harness::new().await;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let created = harness
        .create(REQUESTS, &object("a", &request_of(&key)))
        .await;
    let uri = format!("{REQUESTS}/a/status");
    let with = |status: Value| {
        let mut object = created.clone();
        object["status"] = status;
        object
    };
    let hour = Duration::hours(1);
    let mut late = issued(&key, hour);
    late["beginRefreshAt"] = late["notAfter"].clone();
    let mut unlike = issued(&key, hour);
    unlike["notAfter"] = unlike["beginRefreshAt"].clone();
    for (status, wanted) in [
        (
            issued(&other, hour),
            "was not issued to the requested public key",
        ),
        (issued(&key, hour / 2), "lifetime must be >= 1 hour"),
        (
            issued(&key, hour * 48),
            "must be <= spec.maxExpirationSeconds (86400)",
        ),
        (late, "must be at least 10 minutes before status.notAfter"),
        (
            unlike,
            "must be set to the NotAfter time encoded in the leaf certificate",
        ),
    ] {
        let refused = harness.put(&uri, &with(status)).await;
        assert_eq!(refused.code, 422, "{}", refused.text);
        assert!(refused.message().contains(wanted), "{}", refused.message());
    }
    let done = harness.put(&uri, &with(issued(&key, hour))).await;
    assert_eq!(done.code, 200, "{}", done.text);
    let again = json!({"status": issued(&key, hour)});
    let refused = harness.patch(&uri, "merge-patch", &again).await;
    assert!(
        refused.message().contains("immutable after"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn only_who_may_sign_for_the_signer_ends_a_request() {
    let harness = Harness::new().await;
    let key = KeyPair::generate().unwrap();
    harness
        .create(REQUESTS, &object("a", &request_of(&key)))
        .await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let group = "certificates.k8s.io";
    let status = json!({"apiGroups": [group], "resources": ["podcertificaterequests/status"],
        "verbs": ["patch"]});
    let sign = json!({"apiGroups": [group], "resources": ["signers"],
        "resourceNames": ["example.com/*"], "verbs": ["sign"]});
    for (name, rules) in [
        ("writer", json!([status])),
        ("signer", json!([status, sign])),
    ] {
        let role = json!({"metadata": {"name": name}, "rules": rules});
        harness.create(&format!("{rbac}/clusterroles"), &role).await;
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
        harness
            .create(&format!("{rbac}/clusterrolebindings"), &binding)
            .await;
    }
    let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True",
        "reason": "No", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let uri = format!("{REQUESTS}/a/status");
    let mut codes = Vec::new();
    for name in ["writer", "signer"] {
        let user = UserInfo::new(name, Vec::<String>::new());
        let mut request = Request::builder()
            .method(Method::PATCH)
            .uri(&uri)
            .header("content-type", "application/merge-patch+json")
            .body(Full::new(Bytes::from(denied.to_string())))
            .unwrap();
        request.extensions_mut().insert(user);
        let answer = harness.server.clone().call(request).await.unwrap();
        codes.push(answer.status().as_u16());
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if name == "writer" {
            let wanted = r#"User \"writer\" is not permitted to \"sign\" for signer"#;
            assert!(text.contains(wanted), "{text}");
        }
    }
    assert_eq!(codes, [422, 200]);
}

#[tokio::test]
async fn a_node_asks_for_its_own_pods_and_the_signers_they_name() {
    let harness = Harness::with_account().await;
    let node = json!({"metadata": {"name": "n1"}});
    let node = harness.create("/api/v1/nodes", &node).await;
    let pod = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "tls", "projected": {"sources": [{"podCertificate": {
                "signerName": SIGNER, "keyType": "ECDSAP256",
                "credentialBundlePath": "bundle.pem"}}]}}]}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let own = harness.create(pods, &pod("own", "n1")).await;
    let foreign = harness.create(pods, &pod("foreign", "n2")).await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    let account = harness.get(account).await.json();
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let key = KeyPair::generate().unwrap();
    let of = |name: &str, pod: &Value| {
        let mut request = object(name, &request_of(&key));
        request["spec"]["podName"] = pod["metadata"]["name"].clone();
        request["spec"]["podUID"] = uid(pod);
        request["spec"]["nodeUID"] = uid(&node);
        request["spec"]["serviceAccountUID"] = uid(&account);
        request
    };
    let user = UserInfo::new("system:node:n1", ["system:nodes"]);
    let other = UserInfo::new("system:node:n2", ["system:nodes"]);
    let (harness, user) = (&harness, &user);
    let post = async |body: Value| ask(harness, user, Method::POST, REQUESTS, &body).await;
    let (code, answer) = post(of("own", &own)).await;
    assert_eq!(code, 201, "{answer}");
    let (code, answer) = post(of("foreign", &foreign)).await;
    assert_eq!(code, 403, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("is not running on node \"n1\""),
        "{message}"
    );
    let mut unnamed = of("unnamed", &own);
    unnamed["spec"]["signerName"] = "example.com/other".into();
    let (code, answer) = post(unnamed).await;
    assert_eq!(code, 403, "{answer}");
    let mut stale = of("stale", &own);
    stale["spec"]["podUID"] = "gone".into();
    assert_eq!(post(stale).await.0, 500);
    let mut elsewhere = of("elsewhere", &own);
    elsewhere["spec"]["nodeName"] = "n2".into();
    assert_eq!(post(elsewhere).await.0, 403);
    let uri = format!("{REQUESTS}/own");
    for (who, uri, wanted) in [
        (user, uri.as_str(), 200),
        (&other, uri.as_str(), 403),
        (user, REQUESTS, 403),
        (
            user,
            &format!("{REQUESTS}?fieldSelector=spec.nodeName%3Dn1"),
            200,
        ),
        (
            user,
            &format!("{REQUESTS}?fieldSelector=metadata.name%3Down,spec.nodeName%3Dn1"),
            200,
        ),
    ] {
        let (code, answer) = ask(harness, who, Method::GET, uri, &Value::Null).await;
        assert_eq!(code, wanted, "{uri}: {answer}");
    }
}
