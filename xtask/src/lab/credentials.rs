//! Kubeconfigs of a lab, whoever serves its API: the administrator's for this machine and for places
//! of the lab, and those of machines that join. All are written as JSON, which is YAML.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{API_PORT, Lab, node_ip};
use crate::kubeconfig;

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
    let here = kubeconfig::with_address(admin, "127.0.0.1", port);
    fs::write(lab.kubeconfig(), here)?;
    let inside = kubeconfig::with_address(admin, &node_ip(1).to_string(), API_PORT);
    fs::write(lab.kubeconfig_inside(), inside)?;
    Ok(())
}

/// Writes what machines join with.
pub fn write_bootstrap(lab: &Lab, token: &str) -> Result<()> {
    let text = member(lab, json!({ "token": token }))?;
    fs::write(bootstrap(lab)?, text)?;
    Ok(())
}

/// A kubeconfig for members of the cluster.
pub fn member(lab: &Lab, user: Value) -> Result<String> {
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
        fs::write(&file, member(lab, json!({ "token": token.trim() }))?)?;
    }
    Ok(file)
}
