//! Kubeconfigs of a lab, whoever serves its API: the administrator's for this machine and for places
//! of the lab, and those of machines that join. All are written as JSON, which is YAML.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{API_PORT, Lab, node_ip};

/// The directory of keys and kubeconfigs that every node sees.
pub fn dir(lab: &Lab) -> Result<PathBuf> {
    let dir = lab.dir().join("pki");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// URL of the API for members of the cluster.
pub fn url() -> String {
    format!("https://{}:{API_PORT}", node_ip(1))
}

/// Certificate of the cluster's CA.
pub fn ca(lab: &Lab) -> Result<PathBuf> {
    Ok(dir(lab)?.join("ca.crt"))
}

/// What a machine joins with: the CA and a bootstrap token.
pub fn bootstrap(lab: &Lab) -> Result<PathBuf> {
    Ok(dir(lab)?.join("bootstrap.kubeconfig"))
}

/// Writes the administrator's kubeconfig for this machine and for places of the lab.
pub fn write_admin(lab: &Lab, admin: &str, port: u16) -> Result<()> {
    let outside = redirect(admin, &format!("https://127.0.0.1:{port}"));
    fs::write(lab.kubeconfig(), outside)?;
    fs::write(lab.kubeconfig_inside(), redirect(admin, &url()))?;
    Ok(())
}

/// Writes what machines join with.
pub fn write_bootstrap(lab: &Lab, token: &str) -> Result<()> {
    let text = kubeconfig(lab, json!({ "token": token }))?;
    fs::write(bootstrap(lab)?, text)?;
    Ok(())
}

/// A kubeconfig for members of the cluster.
pub fn kubeconfig(lab: &Lab, user: Value) -> Result<String> {
    let cluster = json!({ "server": url(), "certificate-authority": ca(lab)? });
    let context = json!({ "cluster": "lab", "user": "lab" });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": cluster }],
        "users": [{ "name": "lab", "user": user }],
        "contexts": [{ "name": "lab", "context": context }],
        "current-context": "lab",
    });
    Ok(config.to_string())
}

/// A kubeconfig of a service account in kube-system, which must be there.
pub fn of_service_account(lab: &Lab, account: &str) -> Result<PathBuf> {
    let file = dir(lab)?.join(format!("{account}.kubeconfig"));
    if !file.exists() {
        let create = ["-n", "kube-system", "create", "token", account];
        let token = lab.kubectl_output(&[&create[..], &["--duration=24h"]].concat())?;
        fs::write(&file, kubeconfig(lab, json!({ "token": token.trim() }))?)?;
    }
    Ok(file)
}

/// The same kubeconfig for another URL of the server.
fn redirect(kubeconfig: &str, server: &str) -> String {
    let Some(start) = kubeconfig.find("https://") else {
        return kubeconfig.to_owned();
    };
    let rest = &kubeconfig[start..];
    let end = rest
        .find(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .unwrap_or(rest.len());
    format!("{}{server}{}", &kubeconfig[..start], &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_points_elsewhere_in_yaml_and_json() {
        let there = "https://127.0.0.1:7";
        let yaml = redirect("  server: https://10.90.0.11:6443\n  x: y\n", there);
        assert_eq!(yaml, "  server: https://127.0.0.1:7\n  x: y\n");
        let json = redirect(r#"{"server":"https://[fd90::11]:6443"}"#, there);
        assert_eq!(json, r#"{"server":"https://127.0.0.1:7"}"#);
    }
}
