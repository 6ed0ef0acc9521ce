//! The admin kubeconfig, with everything inline. Written as JSON, which is YAML.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::pki::Identity;

/// A kubeconfig for `identity` at `server`.
pub fn render(server: &str, ca_pem: &str, identity: &Identity) -> Vec<u8> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "windlass", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": STANDARD.encode(&identity.cert_pem),
            "client-key-data": STANDARD.encode(&identity.key_pem),
        }}],
        "contexts": [{"name": "windlass", "context": {"cluster": "windlass", "user": "admin"}}],
        "current-context": "windlass",
    });
    let mut text = serde_json::to_vec_pretty(&config).expect("a JSON value always serializes");
    text.push(b'\n');
    text
}
