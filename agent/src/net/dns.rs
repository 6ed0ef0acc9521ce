//! Cluster DNS on this node: the zone follows the state, one object at a time; the server listens at
//! the cluster DNS addresses, which are on `lo`. Names, answers and forwarding are the `dns` crate's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dns::server::Metrics;
use dns::zone::{self, Kind, ServiceKey, Zone};
use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cni::chain;
use crate::Config;
use crate::state::{EndpointSlice, ObjectKey, Protocol, Service, ServiceKind, SliceKey, State};

const PORT: u16 = 53;
/// Pause before the addresses are bound again: another program may be letting go of them.
const RETRY: Duration = Duration::from_secs(2);

/// Serves until `shutdown`.
pub async fn run(
    cfg: Arc<Config>,
    mut states: watch::Receiver<Arc<State>>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let zone = Zone::new(&cfg.cluster_domain, &cfg.cluster_dns);
    let (sender, receiver) = watch::channel(Arc::new(zone.clone()));
    // Names of an incomplete cluster would be denied, and the denial remembered.
    let synced = states.wait_for(|s| s.synced.services_and_nodes());
    tokio::select! {
        synced = synced => match synced {
            Ok(_) => {}
            Err(_) => return,
        },
        () = shutdown.cancelled() => return,
    }
    tokio::join!(
        follow(zone, states, sender, &shutdown),
        serve(&cfg, receiver, &metrics, &shutdown)
    );
}

async fn serve(
    cfg: &Config,
    zone: watch::Receiver<Arc<Zone>>,
    metrics: &Arc<Metrics>,
    shutdown: &CancellationToken,
) {
    let addresses: Vec<SocketAddr> = cfg
        .cluster_dns
        .iter()
        .map(|ip| SocketAddr::new(*ip, PORT))
        .collect();
    let text = std::fs::read_to_string(&cfg.resolv_conf).unwrap_or_else(|error| {
        tracing::warn!(path = %cfg.resolv_conf.display(), %error, "no upstream DNS servers");
        String::new()
    });
    let mut upstreams = dns::forward::parse_resolv_conf(&text);
    upstreams.retain(|upstream| !addresses.contains(upstream));
    while !shutdown.is_cancelled() {
        let (zone, metrics) = (zone.clone(), metrics.clone());
        let served =
            dns::server::serve(&addresses, zone, &upstreams, metrics, shutdown.clone()).await;
        if let Err(error) = served {
            tracing::warn!(error = chain(&error), "serve DNS");
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
}

async fn follow(
    mut zone: Zone,
    mut states: watch::Receiver<Arc<State>>,
    sender: watch::Sender<Arc<Zone>>,
    shutdown: &CancellationToken,
) {
    let mut shown = Arc::new(State::default());
    loop {
        let state = states.borrow_and_update().clone();
        if !shown.same_services(&state) {
            update(&mut zone, &shown, &state);
            sender.send_replace(Arc::new(zone.clone()));
            shown = state;
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Carries the difference of two states over to the zone.
fn update(zone: &mut Zone, old: &State, new: &State) {
    for item in old.services.diff(&new.services) {
        match item {
            DiffItem::Add(key, service)
            | DiffItem::Update {
                new: (key, service),
                ..
            } => {
                zone.set_service(&zone_key(key), zone_service(service));
            }
            DiffItem::Remove(key, _) => zone.remove_service(&zone_key(key)),
        }
    }
    for item in old.slices.diff(&new.slices) {
        match item {
            DiffItem::Add(key, slice)
            | DiffItem::Update {
                new: (key, slice), ..
            } => {
                zone.set_slice(&zone_key(&key.service), &key.name, zone_slice(slice));
            }
            DiffItem::Remove(SliceKey { service, name }, _) => {
                zone.remove_slice(&zone_key(service), name);
            }
        }
    }
}

fn zone_key(key: &ObjectKey) -> ServiceKey {
    ServiceKey::new(&key.namespace, &key.name)
}

fn zone_service(service: &Service) -> zone::Service {
    let kind = match (&service.external_name, service.kind) {
        (Some(name), ServiceKind::ExternalName) => Kind::ExternalName(name.clone()),
        _ if service.headless => Kind::Headless,
        _ => Kind::ClusterIp(service.cluster_ips.clone()),
    };
    let ports = service
        .ports
        .iter()
        .map(|p| port(&p.name, p.protocol, p.port));
    zone::Service {
        kind,
        ports: ports.collect(),
    }
}

fn zone_slice(slice: &EndpointSlice) -> zone::Slice {
    let ports = slice
        .ports
        .iter()
        .filter_map(|p| Some(port(&p.name, p.protocol, p.port?)));
    let endpoints = slice.endpoints.iter().map(|e| zone::Endpoint {
        addresses: e.addresses.clone(),
        ready: e.ready,
        hostname: e.hostname.clone(),
    });
    zone::Slice {
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    }
}

fn port(name: &str, protocol: Protocol, port: u16) -> zone::Port {
    let protocol = match protocol {
        Protocol::Tcp => zone::Protocol::Tcp,
        Protocol::Udp => zone::Protocol::Udp,
        Protocol::Sctp => zone::Protocol::Sctp,
    };
    zone::Port {
        name: name.into(),
        protocol,
        port,
    }
}
