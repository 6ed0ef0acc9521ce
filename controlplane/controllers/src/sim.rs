//! A cluster in memory for tests: carries plans out, steps kubelets, keeps the view current.
//!
//! It knows just enough of the API server: uids, revisions, generations, graceful deletion of
//! pods, finalizers. Everything happens at once and in an order the test chooses.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use crate::kinds::Projection;
use crate::object::Key;
use crate::plan::{Controller, Cx, Plan};
use crate::resource::Resource;
use crate::view::{Change, World};
use crate::write::{PatchKind, Verb, Write, apply_edit};

/// Plans in a row that count as never coming to an end.
const MAX_PLANS: usize = 10_000;

pub struct Sim {
    pub world: World,
    pub now: Timestamp,
    controllers: Vec<Box<dyn Controller>>,
    objects: BTreeMap<(&'static str, Key), Value>,
    queue: std::collections::BTreeSet<(usize, Key)>,
    revision: u64,
}

impl Sim {
    pub fn new(controllers: Vec<Box<dyn Controller>>) -> Self {
        Self {
            world: World::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            controllers,
            objects: BTreeMap::new(),
            queue: std::collections::BTreeSet::new(),
            revision: 0,
        }
    }

    pub fn create<K: Projection>(&mut self, object: Value) -> Key {
        self.create_at(&K::RESOURCE, object)
    }

    fn create_at(&mut self, resource: &'static Resource, mut object: Value) -> Key {
        self.revision += 1;
        let meta = &mut object["metadata"];
        if meta["name"].is_null() {
            let prefix = meta["generateName"].as_str().unwrap().to_owned();
            meta["name"] = format!("{prefix}{:05}", self.revision).into();
        }
        meta["uid"] = format!("uid-{}", self.revision).into();
        meta["generation"] = 1.into();
        meta["creationTimestamp"] = self.now.to_string().into();
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let key = Key::new(&text(&meta["namespace"]), &text(&meta["name"]));
        assert!(
            !self.objects.contains_key(&(resource.plural, key.clone())),
            "{key} exists"
        );
        self.put(resource, key.clone(), object);
        key
    }

    pub fn get<K: Projection>(&self, key: &Key) -> Option<&Value> {
        self.objects.get(&(K::RESOURCE.plural, key.clone()))
    }

    pub fn all<K: Projection>(&self) -> Vec<(Key, Value)> {
        let of_kind = self
            .objects
            .iter()
            .filter(|((plural, _), _)| *plural == K::RESOURCE.plural);
        of_kind
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Changes an object as a user or an agent would.
    pub fn edit<K: Projection>(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let old = self.get::<K>(key).unwrap().clone();
        let mut new = old.clone();
        change(&mut new);
        self.update(&K::RESOURCE, key, &old, new);
    }

    /// Ends an object's deletion as an agent would: it goes, unless finalizers hold it.
    pub fn remove<K: Projection>(&mut self, key: &Key) {
        self.end_at(&K::RESOURCE, key);
    }

    fn end_at(&mut self, resource: &'static Resource, key: &Key) {
        let Some(old) = self.objects.get(&(resource.plural, key.clone())).cloned() else {
            return;
        };
        if is_held(&old) {
            let mut new = old.clone();
            if new["metadata"]["deletionTimestamp"].is_null() {
                new["metadata"]["deletionTimestamp"] = self.now.to_string().into();
            }
            new["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            self.update(resource, key, &old, new);
        } else {
            self.remove_at(resource, key);
        }
    }

    fn remove_at(&mut self, resource: &Resource, key: &Key) {
        self.revision += 1;
        let Some(mut object) = self.objects.remove(&(resource.plural, key.clone())) else {
            return;
        };
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let changes = self.world.forget(resource, object);
        self.react(changes);
    }

    fn update(&mut self, resource: &'static Resource, key: &Key, old: &Value, mut new: Value) {
        if *old == new {
            return;
        }
        let has_ended = new["metadata"]["deletionGracePeriodSeconds"] == 0;
        if has_ended && !is_held(&new) {
            return self.remove_at(resource, key);
        }
        if old["spec"] != new["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap();
            new["metadata"]["generation"] = (generation + 1).into();
        }
        self.put(resource, key.clone(), new);
    }

    fn put(&mut self, resource: &'static Resource, key: Key, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.objects.insert((resource.plural, key), object.clone());
        let changes = self.world.show(resource, object);
        self.react(changes);
    }

    fn react(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            for (index, controller) in self.controllers.iter_mut().enumerate() {
                let mut keys = Vec::new();
                controller.react(&self.world, &change, &mut keys);
                self.queue.extend(keys.into_iter().map(|key| (index, key)));
            }
        }
    }

    /// Makes and carries out one plan; `pick` chooses among those that are due.
    pub fn step(&mut self, pick: usize) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        let chosen = self
            .queue
            .iter()
            .nth(pick % self.queue.len())
            .unwrap()
            .clone();
        self.queue.remove(&chosen);
        let (index, key) = chosen;
        let plan = self.plan(index, &key);
        self.carry_out(plan);
        true
    }

    /// What a controller would do about a key now.
    pub fn plan(&mut self, controller: usize, key: &Key) -> Plan {
        let cx = Cx {
            now: self.now,
            failure: None,
        };
        self.controllers[controller].plan(&self.world, key, &cx)
    }

    /// Carries plans out until nothing is due.
    pub fn settle(&mut self) {
        for _ in 0..MAX_PLANS {
            if !self.step(0) {
                return;
            }
        }
        panic!("the controllers do not come to rest");
    }

    pub fn advance(&mut self, seconds: i64) {
        self.now += seconds.seconds();
    }

    /// Queues a key as its delay ending would.
    pub fn wake(&mut self, controller: usize, key: &Key) {
        self.queue.insert((controller, key.clone()));
    }

    pub fn carry_out(&mut self, plan: Plan) {
        for write in plan.writes.into_iter().chain(plan.status) {
            self.apply(write);
        }
    }

    fn apply(&mut self, write: Write) {
        let Write {
            resource,
            key,
            verb,
            notes: _,
        } = write;
        let old = self.objects.get(&(resource.plural, key.clone())).cloned();
        match (verb, old) {
            (Verb::Create { body }, _) => {
                self.create_at(resource, body);
            }
            (_, None) => {}
            (Verb::Replace { body, .. }, Some(old)) => self.update(resource, &key, &old, body),
            (
                Verb::Edit {
                    resource_version,
                    edits,
                    ..
                },
                Some(old),
            ) => {
                let current = old["metadata"]["resourceVersion"].as_str();
                if resource_version.is_some() && resource_version.as_deref() != current {
                    return;
                }
                let mut new = old.clone();
                edits.iter().for_each(|edit| apply_edit(&mut new, edit));
                self.update(resource, &key, &old, new);
            }
            (Verb::Patch { kind, body, .. }, Some(old)) => {
                let mut new = old.clone();
                merge(&mut new, &body, kind);
                self.update(resource, &key, &old, new);
            }
            (Verb::Delete { grace_seconds, .. }, Some(old)) => {
                let is_bound = !old["spec"]["nodeName"].is_null();
                if resource.kind == "Pod" && is_bound && grace_seconds != Some(0) {
                    let mut new = old.clone();
                    new["metadata"]["deletionTimestamp"] = self.now.to_string().into();
                    new["metadata"]["deletionGracePeriodSeconds"] = 30.into();
                    self.update(resource, &key, &old, new);
                } else {
                    self.end_at(resource, &key);
                }
            }
        }
    }
}

fn is_held(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|list| !list.is_empty())
}

/// Merge patch; strategic ones merge conditions by type, owner references by uid and finalizers as
/// a set.
fn merge(into: &mut Value, patch: &Value, kind: PatchKind) {
    let (Some(fields), true) = (patch.as_object(), into.is_object()) else {
        *into = patch.clone();
        return;
    };
    for (name, value) in fields {
        let merge_key = match name.as_str() {
            "conditions" => Some("type"),
            "ownerReferences" => Some("uid"),
            _ => None,
        };
        if kind == PatchKind::Strategic && merge_finalizers(into, name, value) {
            continue;
        }
        match (merge_key.filter(|_| kind == PatchKind::Strategic), value) {
            (Some(merge_key), Value::Array(items)) => merge_list(&mut into[name], items, merge_key),
            (_, Value::Null) => {
                into.as_object_mut().unwrap().remove(name);
            }
            _ if into[name].is_object() => merge(&mut into[name], value, kind),
            _ => into[name] = value.clone(),
        }
    }
}

fn merge_finalizers(into: &mut Value, name: &str, value: &Value) -> bool {
    let (Some(items), true) = (value.as_array(), name.ends_with("finalizers")) else {
        return false;
    };
    let mut list = into["finalizers"].as_array().cloned().unwrap_or_default();
    list.retain(|old| !items.contains(old));
    if name == "finalizers" {
        list.extend(items.iter().cloned());
    }
    into["finalizers"] = Value::Array(list);
    true
}

fn merge_list(into: &mut Value, items: &[Value], merge_key: &str) {
    let mut list = into.as_array().cloned().unwrap_or_default();
    for item in items {
        list.retain(|old| old[merge_key] != item[merge_key]);
        if item["$patch"] != "delete" {
            let mut item = item.clone();
            if let Some(fields) = item.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            list.push(item);
        }
    }
    *into = Value::Array(list);
}

/// A condition that began now.
pub fn condition(type_: &str, status: &str, now: Timestamp) -> Value {
    json!({"type": type_, "status": status, "lastTransitionTime": now.to_string()})
}
