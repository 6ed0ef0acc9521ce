//! Where the engine attaches programs, and the one row of configuration they read: the loaded
//! datapath, or nothing (tests of everything above the programs).

use std::sync::Arc;

use super::host::Uplinks;
use super::load::{Datapath, Families, LoadError, Sizes, netns_cookie};
use super::maps::{CfgTable, MapError, MapSet};
use super::seed;
use crate::Config;

/// Attachment of the programs.
#[derive(Debug)]
pub enum Hooks {
    /// The programs, and the configuration they have.
    Kernel(Box<Kernel>),
    /// No programs: rows are written, nothing is attached.
    None,
}

/// The loaded datapath.
#[derive(Debug)]
pub struct Kernel {
    datapath: Arc<Datapath>,
    cfg: abi::Cfg,
}

/// The part of the configuration that changes while the agent runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Index of this node, 0 until it is known.
    pub node_ix: u32,
    /// A Service has a backend in this node's host network; `None` until that is known.
    pub host_backends: Option<bool>,
    /// A pod here has a hostPort.
    pub host_ports: bool,
    /// Somebody reads flows and drops.
    pub events: bool,
    /// Of the hash that chooses backends; `None` until it is known.
    pub seed: Option<u64>,
}

/// The datapath could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("read the cookie of the network namespace")]
    Cookie(#[source] std::io::Error),
}

/// Loads the programs, writes their configuration, and attaches those of the node. What an earlier
/// agent attached gets the new programs in one go.
pub fn load(cfg: &Config, uplinks: &Uplinks, seed: Option<u64>) -> Result<(Hooks, MapSet), Error> {
    let families = if cfg.has_ipv6() {
        Families::Both
    } else {
        Families::Ipv4
    };
    let datapath = Datapath::load(&cfg.bpf_dir, &Sizes::default(), families)?;
    let mut maps = datapath.maps()?;
    let before = maps.get::<CfgTable>(&0)?;
    let mut row = configuration(cfg, uplinks, &datapath, before)?;
    row.secret = seed::choose(seed, before.map(|b| b.secret), &cfg.ca_pem);
    maps.put::<CfgTable>(&0, &row)?;
    let adopted = datapath.adopt_links()?;
    tracing::info!(links = adopted.len(), "datapath loaded");
    for link in &uplinks.links {
        datapath.attach_uplink(link.index)?;
    }
    std::fs::create_dir_all(&cfg.cgroup2_dir).map_err(|source| LoadError::File {
        operation: "create",
        path: cfg.cgroup2_dir.clone(),
        source,
    })?;
    datapath.attach_sockets(&cfg.cgroup2_dir)?;
    let kernel = Kernel {
        datapath: Arc::new(datapath),
        cfg: row,
    };
    Ok((Hooks::Kernel(Box::new(kernel)), maps))
}

fn configuration(
    cfg: &Config,
    uplinks: &Uplinks,
    datapath: &Datapath,
    before: Option<abi::Cfg>,
) -> Result<abi::Cfg, Error> {
    let v4 = cfg.node_ips.iter().find_map(|ip| match ip {
        std::net::IpAddr::V4(a) => Some(abi::V4::from(*a)),
        std::net::IpAddr::V6(_) => None,
    });
    let v6 = cfg.node_ips.iter().find_map(|ip| match ip {
        std::net::IpAddr::V6(a) => Some(abi::V6::from(*a)),
        std::net::IpAddr::V4(_) => None,
    });
    Ok(abi::Cfg {
        secret: before.map_or(0, |b| b.secret),
        netns_cookie: netns_cookie().map_err(Error::Cookie)?,
        // Running programs need what an earlier agent knew until this one knows it again.
        flags: before.map_or(0, |b| b.flags & (abi::CFG_UPLINK_OUT | abi::CFG_HOST_PORTS)),
        tick_mult: datapath.tick_mult(),
        node_ip4: v4.unwrap_or(abi::V4(0)),
        node_ip6: v6.unwrap_or(abi::V6([0; 4])),
        uplink: uplinks.world,
        node_ix: before.map_or(0, |b| b.node_ix),
        snat_lo: abi::SNAT_LO,
        snat_hi: abi::SNAT_HI,
        node_port_lo: cfg.node_ports.0,
        node_port_hi: cfg.node_ports.1,
        reserved: [0; 9],
    })
}

// === impl Hooks ===

impl Hooks {
    /// Attaches, or takes over, the programs of a pod's interface.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), LoadError> {
        match self {
            Self::Kernel(kernel) => kernel.datapath.attach_pod(ifindex),
            Self::None => Ok(()),
        }
    }

    /// Detaches the programs of a pod's interface.
    pub fn detach_pod(&mut self, ifindex: u32) {
        match self {
            Self::Kernel(kernel) => {
                if let Err(error) = kernel.datapath.detach_pod(ifindex) {
                    tracing::warn!(ifindex, %error, "detach programs");
                }
            }
            Self::None => {}
        }
    }

    /// Writes the configuration, if it changed.
    pub fn configure(&mut self, maps: &mut MapSet, settings: Settings) {
        let Self::Kernel(kernel) = self else { return };
        let Settings {
            node_ix,
            host_backends,
            host_ports,
            events,
            seed,
        } = settings;
        let mut cfg = kernel.cfg;
        if let Some(seed) = seed {
            cfg.secret = seed;
        }
        if node_ix != 0 {
            cfg.node_ix = node_ix;
        }
        let mut flag = |bits: u32, on: bool| {
            cfg.flags = if on {
                cfg.flags | bits
            } else {
                cfg.flags & !bits
            };
        };
        if let Some(on) = host_backends {
            flag(abi::CFG_UPLINK_OUT, on);
            flag(abi::CFG_HOST_PORTS, host_ports);
        }
        flag(abi::CFG_EVENTS_FLOWS | abi::CFG_EVENTS_DROPS, events);
        if cfg == kernel.cfg {
            return;
        }
        match maps.put::<CfgTable>(&0, &cfg) {
            Ok(()) => kernel.cfg = cfg,
            Err(error) => tracing::warn!(%error, "write the datapath's configuration"),
        }
    }

    /// The loaded programs, for what runs beside the engine.
    pub fn datapath(&self) -> Option<Arc<Datapath>> {
        match self {
            Self::Kernel(kernel) => Some(kernel.datapath.clone()),
            Self::None => None,
        }
    }
}
