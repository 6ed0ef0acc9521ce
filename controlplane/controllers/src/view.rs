//! The shared view: one indexed store per kind, owned by the driver, read by every plan.
//!
//! Input: watch deliveries and the answers to our own writes. Output: `Change`s (old and new
//! value of one object). Synchronous and without I/O.
//!
//! Answers to our writes enter the view at once, so that the next plan of the same key sees what
//! it just did. That takes the place of upstream's expectations
//! (pkg/controller/controller_utils.go, `ControllerExpectations`). An answer is ignored when the
//! watch has already delivered a newer revision of that kind: the watch then knows better, also
//! about a deletion.

pub mod store;

use std::sync::Arc;

use kube::runtime::watcher::Event;
use serde_json::Value;

use crate::kinds::*;
use crate::object::Key;
use crate::resource::Resource;
pub use store::{Index, Store};

/// Old and new value of one object; both are absent never.
#[derive(Clone, Debug)]
pub struct Delta<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K: Projection> Delta<K> {
    /// The newest value there is.
    pub fn latest(&self) -> &Arc<K> {
        self.new
            .as_ref()
            .or(self.old.as_ref())
            .expect("a delta has at least one side")
    }

    pub fn key(&self) -> Key {
        Key::of(self.latest().metadata())
    }

    /// Both values, old first.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

/// Objects of a kind, which may be one that the view does not hold, are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub group: String,
    pub plural: String,
    /// None: in any namespace.
    pub namespace: Option<Arc<str>>,
}

macro_rules! world {
    ($($kind:ident $field:ident),* $(,)?) => {
        /// Everything the controllers know about the cluster.
        #[derive(Debug, Default)]
        pub struct World {
            $(pub $field: Store<$kind>,)*
        }

        /// What a feed delivers.
        #[derive(Debug)]
        pub enum Delivery {
            $($kind(Event<$kind>),)*
        }

        $(impl From<Event<$kind>> for Delivery {
            fn from(event: Event<$kind>) -> Self {
                Self::$kind(event)
            }
        })*

        /// One object changed.
        #[derive(Clone, Debug)]
        pub enum Change {
            $($kind(Delta<$kind>),)*
            Removed(Removed),
        }

        impl World {
            /// Takes in one watch event.
            pub fn deliver(&mut self, delivery: Delivery) -> Vec<Change> {
                match delivery {
                    $(Delivery::$kind(event) => self.$field.deliver(event)
                        .into_iter().map(Change::$kind).collect(),)*
                }
            }

            /// Takes in the answer to one of our own writes.
            pub fn observe(&mut self, resource: &Resource, object: Value) -> Option<Change> {
                $(if *resource == $kind::RESOURCE {
                    let object = serde_json::from_value(object).ok()?;
                    return self.$field.observe(object).map(Change::$kind);
                })*
                None
            }

            /// Takes in that one of our own deletes was accepted.
            pub fn observe_delete(&mut self, resource: &Resource, key: &Key, uid: &str) -> Option<Change> {
                $(if *resource == $kind::RESOURCE {
                    return self.$field.observe_delete(key, uid).map(Change::$kind);
                })*
                None
            }

            /// True once every kind has been listed.
            pub fn is_synced(&self) -> bool {
                $(self.$field.is_synced())&&*
            }

            /// What a simulated watch delivers of an object that is there.
            #[cfg(test)]
            pub fn show(&mut self, resource: &Resource, object: Value) -> Vec<Change> {
                $(if *resource == $kind::RESOURCE {
                    let object = serde_json::from_value(object).expect("a valid object");
                    return self.deliver(Delivery::$kind(Event::Apply(object)));
                })*
                Vec::new()
            }

            /// What a simulated watch delivers of an object that is gone.
            #[cfg(test)]
            pub fn forget(&mut self, resource: &Resource, object: Value) -> Vec<Change> {
                $(if *resource == $kind::RESOURCE {
                    let object = serde_json::from_value(object).expect("a valid object");
                    return self.deliver(Delivery::$kind(Event::Delete(object)));
                })*
                Vec::new()
            }
        }
    };
}

world! {
    Namespace namespaces,
    Node nodes,
    Lease leases,
    Pod pods,
    Service services,
    Endpoints endpoints,
    EndpointSlice slices,
    Deployment deployments,
    ReplicaSet replicasets,
    DaemonSet daemonsets,
    ControllerRevision revisions,
    StatefulSet statefulsets,
    PersistentVolumeClaim claims,
    Job jobs,
    CronJob cronjobs,
    ServiceAccount accounts,
    ConfigMap configmaps,
    CertificateSigningRequest requests,
    PodCertificateRequest pod_requests,
    ClusterRole clusterroles,
    ReplicationController replicationcontrollers,
    ResourceQuota quotas,
    PodDisruptionBudget budgets,
}
