//! Waiting for a condition of watched objects.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// Nothing here takes longer on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The objects of `api` with these labels, once `condition` holds for them.
pub async fn until<K>(
    what: &str,
    api: Api<K>,
    labels: &str,
    condition: impl Fn(&[&K]) -> bool,
) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let mut objects: BTreeMap<(Option<String>, String), K> = BTreeMap::new();
    let config = Config::default().labels(labels).streaming_lists();
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let wait = async {
        let mut listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => objects.clear(),
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    objects.insert((object.namespace(), object.name_any()), object);
                }
                Ok(Event::InitDone) => listed = true,
                Ok(Event::Delete(object)) => {
                    objects.remove(&(object.namespace(), object.name_any()));
                }
                Err(error) => eprintln!("{what}: {error}"),
            }
            if listed && condition(&objects.values().collect::<Vec<_>>()) {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(TIMEOUT, wait).await.is_ok();
    assert!(in_time, "not in time: {what}; there is: {objects:#?}");
    objects.into_values().collect()
}

/// The object called `name`, once `condition` holds for it.
pub async fn until_one<K>(what: &str, api: Api<K>, name: &str, condition: impl Fn(&K) -> bool) -> K
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let found = |all: &[&K]| all.iter().any(|o| o.name_any() == name && condition(o));
    let all = until(what, api, "", found).await;
    all.into_iter().find(|o| o.name_any() == name).unwrap()
}
