//! Conversions between the versions of a kind. Only two kinds have any: core Event and
//! events.k8s.io Event, and HorizontalPodAutoscaler v1 and v2.

use api::Resource;
use serde_json::{Map, Value};

/// Whether bodies of `resource` differ from what is stored.
pub fn is_needed(resource: &Resource) -> bool {
    resource.plural == "events" && resource.group == "events.k8s.io"
}

/// An item of a list (no type meta) from the stored version to the one `resource` serves.
pub fn item(resource: &Resource, stored: Vec<u8>) -> Vec<u8> {
    if !is_needed(resource) {
        return stored;
    }
    match serde_json::from_slice::<Map<String, Value>>(&stored) {
        Ok(mut map) => {
            serve(&mut map);
            serde_json::to_vec(&map).unwrap_or(stored)
        }
        Err(_) => stored,
    }
}

/// A body in the version `resource` serves to the stored one; none when they are the same.
pub fn to_stored(resource: &Resource, body: &[u8]) -> Option<Vec<u8>> {
    if !is_needed(resource) {
        return None;
    }
    let mut map = serde_json::from_slice::<Map<String, Value>>(body).ok()?;
    rename_back(&mut map);
    map.insert("apiVersion".into(), "v1".into());
    serde_json::to_vec(&map).ok()
}

/// Complete JSON of one version of a resource in another; none when it is no object.
pub fn between(from: &Resource, to: &Resource, json: &[u8]) -> Option<Vec<u8>> {
    let mut map = serde_json::from_slice::<Map<String, Value>>(json).ok()?;
    if is_needed(from) {
        rename_back(&mut map);
    }
    if is_needed(to) {
        serve(&mut map);
    }
    map.insert("apiVersion".into(), to.api_version().into());
    map.insert("kind".into(), to.kind.into());
    serde_json::to_vec(&map).ok()
}

/// core/v1 name, events.k8s.io/v1 name (pkg/apis/events/v1/conversion.go).
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The stored name of a field that `resource` serves under another, by its path.
pub fn stored_path(resource: &Resource, path: &str) -> Option<String> {
    if !is_needed(resource) {
        return None;
    }
    let (first, rest) = path.split_at(path.find('.').unwrap_or(path.len()));
    let (stored, _) = EVENT_FIELDS.iter().find(|(_, new)| *new == first)?;
    Some(format!("{stored}{rest}"))
}

/// The stored fields as they are served.
fn serve(map: &mut Map<String, Value>) {
    rename(map, EVENT_FIELDS);
    // Left out when empty, in this version alone.
    for field in ["reportingController", "reportingInstance"] {
        if map.get(field).is_some_and(|value| value == "") {
            map.remove(field);
        }
    }
}

fn rename_back(map: &mut Map<String, Value>) {
    let back: Vec<(&str, &str)> = EVENT_FIELDS
        .iter()
        .map(|(core, new)| (*new, *core))
        .collect();
    rename(map, &back);
}

fn rename(map: &mut Map<String, Value>, names: &[(&str, &str)]) {
    for (from, to) in names {
        if let Some(value) = map.remove(*from) {
            map.insert((*to).to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use api::Facts;

    use super::*;

    #[test]
    fn an_event_without_a_controller_names_none() {
        let resource = Facts::get()
            .resource("events.k8s.io", "v1", "events")
            .unwrap();
        let stored = br#"{"message":"m","reportingComponent":"","reportingInstance":""}"#;
        let served = item(resource, stored.to_vec());
        assert_eq!(served, br#"{"note":"m"}"#);
    }
}
