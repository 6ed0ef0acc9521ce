//! The veth contract of a pod: one pair, the pod's end with full-length addresses and a default
//! route through a gateway that exists only as a permanent neighbour, the host's end with one fixed
//! MAC and a host route per address. Every step is idempotent; making twice changes nothing.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha256};

use super::netlink::{Address, Mac, Netlink, Route, Veth};
use super::{netlink, netns, sysctl};

/// Prefix of the host ends' names; the rest is a hash of the sandbox.
pub const NAME_PREFIX: &str = "wl";
/// Hex digits of the hash in a name: 14 of the 15 bytes an interface name may have.
const NAME_DIGITS: usize = 12;

/// What could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Netlink(#[from] netlink::Error),
    #[error("{0}")]
    Netns(#[from] netns::Error),
    #[error("{0}")]
    Sysctl(#[from] sysctl::Error),
    #[error("link {0} is not there after it was made")]
    Missing(String),
}

/// A pod's interface to make.
#[derive(Debug, Clone)]
pub struct Plan {
    pub host_name: String,
    pub pod_name: String,
    pub pod_mac: Mac,
    pub addresses: Vec<IpAddr>,
    pub mtu: u32,
    pub alias: String,
}

/// Name of the host end for a sandbox's interface.
pub fn host_name(container_id: &str, ifname: &str) -> String {
    let digest = Sha256::digest(format!("{container_id}/{ifname}"));
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("{NAME_PREFIX}{}", &hex[..NAME_DIGITS])
}

/// The pod's MAC, derived from its primary address: stable, and unique within the cluster for IPv4.
pub fn pod_mac(address: IpAddr) -> Mac {
    let [a, b, c] = abi::POD_MAC_PREFIX;
    let tail = match address {
        IpAddr::V4(v4) => [v4.octets()[1], v4.octets()[2], v4.octets()[3]],
        IpAddr::V6(v6) => [v6.octets()[13], v6.octets()[14], v6.octets()[15]],
    };
    [a, b, c, tail[0], tail[1], tail[2]]
}

/// Makes the pair, both ends down; returns the index of the host's end.
pub async fn make(host: &Netlink, plan: &Plan, pod: BorrowedFd<'_>) -> Result<u32, Error> {
    let veth = Veth {
        host_name: &plan.host_name,
        host_mac: abi::HOST_MAC,
        alias: &plan.alias,
        pod_name: &plan.pod_name,
        pod_mac: plan.pod_mac,
        mtu: plan.mtu,
        pod_netns: pod,
    };
    host.add_veth(&veth).await?;
    let link = host.link(&plan.host_name).await?;
    let link = link.ok_or_else(|| Error::Missing(plan.host_name.clone()))?;
    sysctl::write_all(&sysctl::of_veth(&plan.host_name))?;
    Ok(link.index)
}

/// Sets up the pod's end, inside its namespace.
pub async fn furnish(plan: &Plan, pod: OwnedFd) -> Result<(), Error> {
    let inside = plan.clone();
    netns::run(pod, move || async move { pod_end(&inside).await }).await?
}

/// Sets the host's end up and routes the pod's addresses to it.
pub async fn open(host: &Netlink, index: u32, plan: &Plan) -> Result<(), Error> {
    host.set_up(index).await?;
    for address in &plan.addresses {
        host.replace_neighbour(index, *address, plan.pod_mac)
            .await?;
        host.replace_route(&host_route(index, *address)).await?;
    }
    Ok(())
}

/// Removes the pair; the routes go with it.
pub async fn remove(host: &Netlink, host_name: &str) -> Result<(), Error> {
    if let Some(link) = host.link(host_name).await? {
        host.delete_link(link.index).await?;
    }
    Ok(())
}

/// The route of the host to a local pod.
pub fn host_route(index: u32, address: IpAddr) -> Route {
    Route {
        destination: single(address),
        gateway: None,
        index,
        onlink: false,
        source: None,
    }
}

/// Runs inside the pod's namespace.
async fn pod_end(plan: &Plan) -> Result<(), Error> {
    let netlink = Netlink::open()?;
    if let Some(lo) = netlink.link("lo").await? {
        netlink.set_up(lo.index).await?;
    }
    let link = netlink.link(&plan.pod_name).await?;
    let link = link.ok_or_else(|| Error::Missing(plan.pod_name.clone()))?;
    if plan.addresses.iter().any(IpAddr::is_ipv6) {
        // The runtime may have switched IPv6 off in the new namespace.
        sysctl::write_all(&sysctl::of_pod(&plan.pod_name))?;
    }
    for address in &plan.addresses {
        let prefix_len = single(*address).prefix();
        let address = Address {
            index: link.index,
            address: *address,
            prefix_len,
        };
        netlink.add_address(address).await?;
    }
    netlink.set_up(link.index).await?;
    for address in &plan.addresses {
        let gateway = gateway(*address);
        netlink
            .replace_neighbour(link.index, gateway, abi::HOST_MAC)
            .await?;
        let destination = IpNetwork::new(unspecified(*address), 0).expect("0 is a valid prefix");
        let via = Route {
            destination,
            gateway: Some(gateway),
            index: link.index,
            onlink: true,
            source: None,
        };
        netlink.replace_route(&via).await?;
    }
    Ok(())
}

/// The gateway of pods in the family of `address`.
pub fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => abi::GATEWAY4.into(),
        IpAddr::V6(_) => abi::GATEWAY6.into(),
    }
}

/// The network that holds one address only.
pub fn single(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
