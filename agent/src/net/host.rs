//! What the net half needs to know of its host, read over netlink: uplinks, their MTU, the host's own
//! addresses, next hops of other nodes; and the one thing it adds: the cluster DNS addresses on `lo`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::netlink::{Address, Error, Link, Netlink};
use super::plan::node::{Facts, Reach};
use super::veth::{NAME_PREFIX, single};
use crate::Config;
use crate::state::State;

/// MTU of pods on a node without an uplink.
const DEFAULT_MTU: u32 = 1500;

/// The interfaces that lead out of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uplinks {
    pub links: Vec<Link>,
    /// Towards the world: carries the default route, else the node's primary address.
    pub world: u32,
}

impl Uplinks {
    /// MTU of the pods' interfaces.
    pub fn mtu(&self) -> u32 {
        self.links
            .iter()
            .map(|l| l.mtu)
            .min()
            .unwrap_or(DEFAULT_MTU)
    }

    pub fn names(&self) -> Vec<String> {
        self.links.iter().map(|l| l.name.clone()).collect()
    }
}

/// The configured uplinks, or those that carry the node's addresses and the default routes.
pub async fn uplinks(netlink: &Netlink, cfg: &Config) -> Result<Uplinks, Error> {
    let links = netlink.links().await?;
    let defaults = netlink.default_routes().await?;
    let addresses = netlink.addresses().await?;
    let carries = |link: &Link| {
        let mut own = addresses.iter().filter(|a| a.index == link.index);
        own.any(|a| cfg.node_ips.contains(&a.address))
    };
    let leads_out = |link: &Link| defaults.iter().any(|r| r.index == link.index);
    let wanted = |link: &&Link| {
        if !cfg.uplinks.is_empty() {
            return cfg.uplinks.contains(&link.name);
        }
        !link.loopback && (carries(link) || leads_out(link))
    };
    let chosen: Vec<Link> = links.iter().filter(wanted).cloned().collect();
    let world = chosen
        .iter()
        .find(|l| leads_out(l))
        .or_else(|| chosen.iter().find(|l| carries(l)));
    Ok(Uplinks {
        world: world.map_or(0, |l| l.index),
        links: chosen,
    })
}

/// Facts for the node plan.
pub async fn facts(netlink: &Netlink, cfg: &Config, state: &State) -> Result<Facts, Error> {
    let mut reach = HashMap::new();
    let others = state.nodes.values().filter(|n| *n.name != *cfg.node_name);
    for address in others.flat_map(|n| &n.addresses) {
        if let Some(route) = netlink.route_to(*address).await? {
            reach.insert(
                *address,
                Reach {
                    ifindex: route.index,
                    gateway: route.gateway,
                },
            );
        }
    }
    Ok(Facts {
        node_name: cfg.node_name.clone(),
        reach,
        own_addresses: own_addresses(netlink).await?,
        service_cidrs: cfg.service_cidrs.clone(),
        cluster_cidrs: cfg.cluster_cidrs.clone(),
    })
}

/// The host's addresses, without loopback and link-local ones: nobody reaches the node at those.
async fn own_addresses(netlink: &Netlink) -> Result<BTreeSet<IpAddr>, Error> {
    let links = netlink.links().await?;
    let pods: BTreeSet<u32> = links
        .iter()
        .filter(|l| l.name.starts_with(NAME_PREFIX) && l.veth)
        .map(|l| l.index)
        .collect();
    let link_local = |ip: &IpAddr| match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    let addresses = netlink.addresses().await?;
    let own = addresses
        .iter()
        .filter(|a| !pods.contains(&a.index))
        .map(|a| a.address);
    Ok(own.filter(|a| !a.is_loopback() && !link_local(a)).collect())
}

/// Puts the cluster DNS addresses on `lo`.
pub async fn add_dns_addresses(netlink: &Netlink, addresses: &[IpAddr]) -> Result<(), Error> {
    let Some(lo) = netlink.link("lo").await? else {
        return Ok(());
    };
    netlink.set_up(lo.index).await?;
    for address in addresses {
        let prefix_len = single(*address).prefix();
        netlink
            .add_address(Address {
                index: lo.index,
                address: *address,
                prefix_len,
            })
            .await?;
    }
    Ok(())
}
