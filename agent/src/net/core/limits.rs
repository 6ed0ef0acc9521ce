//! What does not fit the maps, by the objects it belongs to. Derived from what plans refused and what
//! the writer could not write, each time anew: a shortage is gone when its cause is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Core;
use super::host_ports::pod_of;
use crate::net::plan::service::Refused;
use crate::net::rows::{Key, Step};
use crate::net::shortage::{Fill, Limit, Limits, Shortage, Subject, limit_of};
use crate::net::writer::Failed;
use crate::state::ObjectKey;

impl Core {
    /// Shortages and how full the maps are.
    pub fn limits(&self) -> Limits {
        let mut shortages: BTreeSet<Shortage> = BTreeSet::new();
        for (key, refused) in &self.refused {
            let limits = refused.iter().map(|refused| Limit::Service(*refused));
            shortages.extend(limits.map(|limit| Shortage {
                subject: service_or_pod(key),
                limit,
            }));
        }
        for failed in self.writer.failed() {
            let limit = limit(failed);
            let subjects = self.subjects_of(&failed.step);
            shortages.extend(
                subjects
                    .into_iter()
                    .map(|subject| Shortage { subject, limit }),
            );
        }
        let unnumbered = self.node_program.nodes.index.iter();
        let unnumbered = unnumbered.filter(|(_, ix)| **ix == 0);
        shortages.extend(unnumbered.map(|(name, _)| Shortage {
            subject: Subject::Node(name.clone()),
            limit: Limit::NodeIndex,
        }));
        if let Some(have) = self.node_program.blocks_refused {
            let limit = Limit::Blocks {
                have,
                limit: abi::limits::NETS,
            };
            shortages.extend(self.policies_with_blocks().map(|key| Shortage {
                subject: Subject::NetworkPolicy(key),
                limit,
            }));
        }
        if self.writer.has_given_up() {
            shortages.insert(Shortage {
                subject: Subject::Here,
                limit: Limit::GivenUp,
            });
        }
        Limits {
            shortages,
            fill: self.fill(),
        }
    }

    fn fill(&self) -> Vec<Fill> {
        let sizes = self.writer.tables().sizes().into_iter();
        let fill = sizes.map(|(map, used)| Fill {
            map,
            used: u32::try_from(used).unwrap_or(u32::MAX),
            limit: limit_of(map),
        });
        fill.collect()
    }

    /// Whom it concerns that a step was not carried out.
    fn subjects_of(&self, step: &Step) -> Vec<Subject> {
        let here = || vec![Subject::Here];
        let Some(key) = step.key() else { return here() };
        match key {
            Key::Fe4(_) | Key::Fe6(_) | Key::Svc(_) | Key::Be4(_) | Key::Be6(_) | Key::Slot(_) => {
                let owner = self.services.owner_of(&key).map(service_or_pod);
                owner.map_or_else(here, |subject| vec![subject])
            }
            Key::Pol(key) => self.policies_of(key.set_id),
            Key::Polx(key) => self.policies_of(key.set_id),
            Key::Ep(ix) | Key::EpMac(ix) => self.pod_at(ix),
            Key::Ip4(ip) => self.pod_with(IpAddr::V4(ip.into())),
            Key::Ip6(ip) => self.pod_with(IpAddr::V6(ip.into())),
            Key::Node(_) | Key::Net4(_) | Key::Net6(_) | Key::Peer4(_) | Key::Peer6(_) => here(),
        }
    }

    fn policies_of(&self, set_id: u32) -> Vec<Subject> {
        let found: Vec<Subject> = self
            .policies_in_set(set_id)
            .into_iter()
            .map(Subject::NetworkPolicy)
            .collect();
        if found.is_empty() {
            return vec![Subject::Here];
        }
        found
    }

    fn pod_at(&self, ep_ix: u32) -> Vec<Subject> {
        let mut all = self.attachments.values();
        let found = all.find(|a| a.sandbox.ep_ix == ep_ix);
        vec![found.map_or(Subject::Here, |a| Subject::Pod(a.sandbox.pod_key()))]
    }

    fn pod_with(&self, address: IpAddr) -> Vec<Subject> {
        let mut all = self.attachments.values();
        let found = all.find(|a| a.sandbox.addresses.contains(&address));
        vec![found.map_or(Subject::Here, |a| Subject::Pod(a.sandbox.pod_key()))]
    }
}

fn service_or_pod(key: &ObjectKey) -> Subject {
    pod_of(key).map_or_else(|| Subject::Service(key.clone()), Subject::Pod)
}

fn limit(failed: &Failed) -> Limit {
    let map = failed.step.key().map_or("", |key| key.map());
    match failed.errno {
        // Hashes and arrays say the one, tries the other.
        libc::E2BIG | libc::ENOSPC => Limit::Full {
            map,
            limit: limit_of(map),
        },
        errno => Limit::Write { map, errno },
    }
}

/// Of a Service, or of the hostPorts of a pod.
pub(super) type RefusedOf = std::collections::BTreeMap<ObjectKey, BTreeSet<Refused>>;
