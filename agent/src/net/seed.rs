//! The seed of the datapath's hash: which backend a connection gets must be the same on every node, and
//! nobody outside may compute it. The server keeps 16 random bytes in a Secret that only the net halves
//! may read.
//!
//! On a Kubernetes that is not ours nobody makes that Secret unless its operator does
//! (`kubectl -n kube-system create secret generic windlass-datapath --from-literal=seed=…`, and a Role
//! that lets the agents get it). Without it the seed derives from the cluster's CA: the nodes still
//! agree, but whoever has the CA certificate can tell which backend a connection of his will get.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "windlass-datapath";
const KEY: &str = "seed";
/// Pause after no answer, and after an answer without the Secret.
const RETRY: Duration = Duration::from_secs(2);
const ABSENT: Duration = Duration::from_secs(300);

/// Reads the Secret until it is there; `known` then holds the seed.
pub async fn follow(
    client: Client,
    known: watch::Sender<Option<u64>>,
    shutdown: CancellationToken,
) {
    let api = Api::<Secret>::namespaced(client, NAMESPACE);
    let mut said = false;
    loop {
        let pause = match api.get_opt(NAME).await {
            Ok(secret) => {
                let data = secret.and_then(|s| s.data).unwrap_or_default();
                if let Some(bytes) = data.get(KEY).filter(|bytes| !bytes.0.is_empty()) {
                    known.send_replace(Some(of_secret(&bytes.0)));
                    return;
                }
                absent(&mut said, "it is not there, or has no `seed`")
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                absent(&mut said, &status.message)
            }
            Err(error) => {
                tracing::debug!(%error, "read the datapath's seed");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn absent(said: &mut bool, why: &str) -> Duration {
    if !std::mem::replace(said, true) {
        tracing::warn!(
            why,
            "Secret {NAMESPACE}/{NAME}: the seed derives from the cluster's CA"
        );
    }
    ABSENT
}

/// The seed that the Secret's bytes mean.
pub fn of_secret(bytes: &[u8]) -> u64 {
    derive(b"windlass seed", bytes)
}

/// The seed without a Secret: the same on every node, and no secret.
pub fn of_ca(ca_pem: &[u8]) -> u64 {
    derive(b"windlass hash", ca_pem)
}

fn derive(purpose: &[u8], from: &[u8]) -> u64 {
    let digest = Sha256::new()
        .chain_update(purpose)
        .chain_update(from)
        .finalize();
    let first = digest.first_chunk().expect("SHA-256 has 32 bytes");
    // 0 stands for "none" in a configuration row.
    u64::from_ne_bytes(*first).max(1)
}

/// What the programs use: the Secret's seed as soon as it is known; until then what an earlier agent
/// used, so that a restart changes nothing.
pub fn choose(known: Option<u64>, before: Option<u64>, ca_pem: &[u8]) -> u64 {
    let before = before.filter(|seed| *seed != 0);
    known.or(before).unwrap_or_else(|| of_ca(ca_pem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_wins_over_what_was_used_before_and_that_over_the_ca() {
        let ca = b"a certificate";
        assert_eq!(choose(Some(7), Some(8), ca), 7);
        assert_eq!(choose(None, Some(8), ca), 8);
        assert_eq!(choose(None, Some(0), ca), of_ca(ca));
        assert_eq!(choose(None, None, ca), of_ca(ca));
        assert_ne!(of_secret(ca), of_ca(ca));
    }
}
