//! Hollow nodes: made Ready once, kept Ready by their leases.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

/// Where kubelets renew their leases.
const LEASES: &str = "kube-node-lease";
/// Between two renewals; kubelet's default.
const RENEW: Duration = Duration::from_secs(10);
/// After this long without renewal a node counts as lost; kubelet's default.
const LEASE_SECONDS: i32 = 40;
/// First address of hollow nodes (of the range for documentation) and how many there are.
const FIRST: u8 = 16;
const ADDRESSES: u8 = 200;

/// Creates a Ready node with room for ten pods' worth of cpu.
pub async fn register(client: &Client, name: &str) -> kube::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    });
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
    });
    nodes.create(&PostParams::default(), &object(node)?).await?;
    let resources = json!({
        "cpu": "10", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110",
    });
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "lastTransitionTime": now(), "lastHeartbeatTime": now(),
    });
    let status = json!({"status": {
        "capacity": resources,
        "allocatable": resources,
        "conditions": [ready],
        "addresses": [
            {"type": "InternalIP", "address": address(name).to_string()},
            {"type": "Hostname", "address": name},
        ],
    }});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await?;
    Ok(())
}

/// Renews the leases of these nodes for ever. A renewal that fails is tried again the next time:
/// there is room for three before the node is lost.
pub async fn heartbeat(client: Client, names: Vec<String>) {
    let leases = Api::<Lease>::namespaced(client, LEASES);
    let mut tick = tokio::time::interval(RENEW);
    loop {
        tick.tick().await;
        for name in &names {
            if let Err(error) = renew(&leases, name).await {
                eprintln!("lease of {name}: {error}");
            }
        }
    }
}

async fn renew(leases: &Api<Lease>, name: &str) -> kube::Result<()> {
    let spec = json!({
        "holderIdentity": name,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": micro_now(),
    });
    let patch = Patch::Merge(json!({ "spec": spec }));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": LEASES},
                "spec": spec,
            });
            leases
                .create(&PostParams::default(), &object(lease)?)
                .await
                .map(drop)
        }
        result => result.map(drop),
    }
}

/// The address of a node, by its name alone.
pub fn address(name: &str) -> Ipv4Addr {
    let sum = name
        .bytes()
        .fold(0_u32, |sum, byte| sum * 31 % 251 + u32::from(byte));
    Ipv4Addr::new(192, 0, 2, FIRST + (sum % u32::from(ADDRESSES)) as u8)
}

/// The current second, RFC 3339.
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

fn micro_now() -> String {
    format!("{:.6}", Timestamp::now())
}

fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> kube::Result<K> {
    serde_json::from_value(value).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_the_api_takes() {
        let (second, micro) = (now(), micro_now());
        assert!(
            second.len() == "2030-01-01T00:00:00Z".len() && second.ends_with('Z'),
            "{second}"
        );
        assert!(
            micro.len() == "2030-01-01T00:00:00.000000Z".len(),
            "{micro}"
        );
    }

    #[test]
    fn two_nodes_of_a_run_have_different_addresses() {
        assert_ne!(address("hollow1"), address("hollow2"));
    }
}
