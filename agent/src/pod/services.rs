//! The services of the cluster as container environments need them: one watch, one list. The type it
//! reads is a projection: of each Service only name, cluster address and ports are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::env::ServiceEnv;

/// `None` until the first complete list.
pub type Services = watch::Receiver<Option<Arc<Vec<ServiceEnv>>>>;

pub async fn follow(
    client: Client,
    sender: watch::Sender<Option<Arc<Vec<ServiceEnv>>>>,
    shutdown: CancellationToken,
) {
    let api: Api<Service> = Api::all(client);
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut known: BTreeMap<(String, String), ServiceEnv> = BTreeMap::new();
    let mut fresh = BTreeMap::new();
    loop {
        let event = tokio::select! {
            event = events.try_next() => event,
            () = shutdown.cancelled() => return,
        };
        match event {
            Ok(Some(watcher::Event::Init)) => {
                fresh.clear();
                continue;
            }
            Ok(Some(watcher::Event::InitApply(service))) => {
                add(&mut fresh, &service);
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => known = std::mem::take(&mut fresh),
            Ok(Some(watcher::Event::Apply(service))) => {
                known.remove(&key(&service));
                add(&mut known, &service);
            }
            Ok(Some(watcher::Event::Delete(service))) => {
                known.remove(&key(&service));
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "watch of services failed");
                continue;
            }
        }
        sender.send_replace(Some(Arc::new(known.values().cloned().collect())));
    }
}

fn key(service: &Service) -> (String, String) {
    let meta = &service.metadata;
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

/// Headless services and those without an address have no variables.
fn add(list: &mut BTreeMap<(String, String), ServiceEnv>, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(Ok(cluster_ip)) = spec.cluster_ip.as_ref().map(|ip| ip.parse()) else {
        return;
    };
    let (namespace, name) = key(service);
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((port.name.clone(), protocol, u16::try_from(port.port).ok()?))
    });
    let ports = ports.collect();
    let service = ServiceEnv {
        namespace: namespace.clone(),
        name: name.clone(),
        cluster_ip,
        ports,
    };
    list.insert((namespace, name), service);
}
