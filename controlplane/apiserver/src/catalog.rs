//! Numbers for stored resources, so that tables are a vector and ids are copied freely.
//!
//! Built once from the facts: one id per (storage group, plural), however many versions and groups
//! serve it, plus the server's own internal resources.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::OnceLock,
};

use api::{Facts, Resource};

/// Group of resources that exist in the store only and are served nowhere.
pub const INTERNAL_GROUP: &str = "internal.windlass";
/// Claims on node ports: one object per taken port, named by its number.
pub const NODE_PORTS: &str = "nodeports";

/// A stored resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId(u16);

/// All stored resources.
pub struct Catalog {
    entries: Vec<(&'static str, &'static str)>,
    by_name: HashMap<(&'static str, &'static str), ResourceId>,
}

static CATALOG: OnceLock<Catalog> = OnceLock::new();

// === impl ResourceId ===

impl ResourceId {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The id of a served resource's storage; none when its objects are not kept.
    pub fn of(resource: &Resource) -> Option<Self> {
        Catalog::get().id(resource.storage_group, resource.plural)
    }

    /// Of a resource the code names; for those the facts are known to have.
    pub fn named(group: &str, plural: &str) -> Self {
        Catalog::get()
            .id(group, plural)
            .expect("built-in resources are in the facts")
    }

    /// Claims on node ports.
    pub fn node_ports() -> Self {
        Self::named(INTERNAL_GROUP, NODE_PORTS)
    }
}

// === impl Catalog ===

impl Catalog {
    pub fn get() -> &'static Self {
        CATALOG.get_or_init(|| {
            let mut catalog = Self {
                entries: Vec::new(),
                by_name: HashMap::new(),
            };
            for resource in Facts::get().resources.iter().filter(|r| r.stored) {
                catalog.add(resource.storage_group, resource.plural);
            }
            catalog.add(INTERNAL_GROUP, NODE_PORTS);
            catalog
        })
    }

    pub fn id(&self, group: &str, plural: &str) -> Option<ResourceId> {
        self.by_name.get(&(group, plural)).copied()
    }

    /// (storage group, plural) of an id.
    pub fn name(&self, id: ResourceId) -> (&'static str, &'static str) {
        self.entries[id.index()]
    }

    pub fn ids(&self) -> impl Iterator<Item = ResourceId> {
        (0..self.entries.len() as u16).map(ResourceId)
    }

    fn add(&mut self, group: &'static str, plural: &'static str) {
        let id = ResourceId(self.entries.len() as u16);
        if let Entry::Vacant(slot) = self.by_name.entry((group, plural)) {
            slot.insert(id);
            self.entries.push((group, plural));
        }
    }
}
