//! `hollow-agent NODE…`: registers the nodes with the cluster of $KUBECONFIG and plays kubelet for
//! them until it is ended.

use anyhow::{Context as _, Result, ensure};
use kube::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!names.is_empty(), "usage: hollow-agent NODE…");
    // the default can be set once only, and this is the first thing that happens
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default().await.context("kubeconfig")?;
    for name in &names {
        hollow::register(&client, name)
            .await
            .with_context(|| format!("node {name}"))?;
    }
    tokio::join!(
        hollow::heartbeat(client.clone(), names),
        hollow::run(client)
    );
    Ok(())
}
