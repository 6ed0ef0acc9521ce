//! Managers of an object seen through its scale subresource, and back.
//!
//! Whoever manages `spec.replicas` of the object manages `spec.replicas` of its Scale, in that kind's
//! version.
//!
//! Port of `scalehandler.go` of apimachinery's managedfields.

use bumpalo::Bump;

use super::element::Element;
use super::managers::{Manager, Managers};
use super::set::{Node, Set};
use crate::doc::Value;

/// The version of the kind Scale.
pub const SCALE_VERSION: &str = "autoscaling/v1";

/// `spec.replicas`, in the scaled kinds as well as in Scale.
const REPLICAS: Set<'static> = Set::of_ordered(&[Node {
    element: Element::Field("spec"),
    member: false,
    below: Set::of_ordered(&[Node {
        element: Element::Field("replicas"),
        member: true,
        below: Set::EMPTY,
    }]),
}]);

fn has_replicas(set: Set<'_>) -> bool {
    set.has(&[Element::Field("spec"), Element::Field("replicas")])
}

fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// The entries of a Scale from those of the object, whose version is given.
pub fn to_scale<'a>(
    entries: &[Value<'a>],
    api_version: &str,
    arena: &'a Bump,
) -> Result<Option<Value<'a>>, String> {
    let mut managers = Managers::read(entries, None, arena)?;
    managers
        .0
        .retain(|m| group(m.version) == group(api_version) && has_replicas(m.set));
    for manager in &mut managers.0 {
        manager.version = SCALE_VERSION;
        manager.set = REPLICAS;
    }
    Ok(managers.write(None, arena))
}

/// The entries of the object after its Scale was written.
pub fn to_object<'a>(
    entries: &[Value<'a>],
    scale_entries: &[Value<'a>],
    api_version: &'a str,
    arena: &'a Bump,
) -> Result<Option<Value<'a>>, String> {
    let before = Managers::read(entries, None, arena)?;
    let mut scale = Managers::read(scale_entries, None, arena)?;
    let mut after = Managers::default();
    for manager in &before.0 {
        if group(manager.version) != group(api_version) {
            continue;
        }
        let mut set = manager.set;
        if has_replicas(set) && scale.remove(&manager.identity).is_none() {
            set = set.difference(REPLICAS, arena);
        }
        if !set.is_empty() {
            after.put(Manager { set, ..*manager });
        }
    }
    for manager in scale.0 {
        if !has_replicas(manager.set) {
            continue;
        }
        after.put(Manager {
            identity: manager.identity,
            version: api_version,
            // As upstream: the entry has the time it had on the object.
            time: before.get(&manager.identity).and_then(|m| m.time),
            set: REPLICAS,
        });
    }
    Ok(after.write(None, arena))
}
