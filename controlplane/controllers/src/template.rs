//! Pod templates: making pods of them, comparing and hashing them.

use serde_json::{Map, Value, json};

use crate::kinds::Projection;
use crate::object::controller_ref;

/// Label that ties pods to the revision of their template.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Letters of generated names: no vowels and nothing that looks like one
/// (k8s.io/apimachinery/pkg/util/rand).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest object name.
const MAX_NAME: usize = 253;

/// A pod made from `template`, controlled by `owner`, with a generated name.
/// Mechanism of pkg/controller/controller_utils.go `GetPodFromTemplate`.
pub fn pod<K: Projection>(template: &Value, owner: &K) -> Value {
    let meta = owner.metadata();
    let from = &template["metadata"];
    let name = meta.name.as_deref().unwrap_or_default();
    let mut metadata = json!({
        "generateName": format!("{name}-"),
        "namespace": meta.namespace,
        "ownerReferences": [controller_ref(&K::RESOURCE.api_version(), K::RESOURCE.kind, meta)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !from[field].is_null() {
            metadata[field] = from[field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Equal but for the hash label.
pub fn same(a: &Value, b: &Value) -> bool {
    without_hash(a) == without_hash(b)
}

/// The template without the hash label and without empty leftovers.
fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(POD_TEMPLATE_HASH);
        }
        metadata.retain(|_, value| {
            !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())
        });
    }
    template
}

/// A short name for a template, as stable as its content. Mechanism of
/// pkg/controller/controller_utils.go `ComputeHash`; the value differs from upstream's, which
/// hashes Go's own dump of the structs.
pub fn hash(template: &Value, collision_count: Option<i32>) -> String {
    let mut hash = Fnv::new();
    hash.value(template);
    if let Some(count) = collision_count {
        hash.bytes(&count.to_le_bytes());
    }
    let digits = hash.0.to_string();
    digits
        .bytes()
        .map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]))
        .collect()
}

/// `name-hash`, the name cut so that the whole stays a valid name.
pub fn hashed_name(name: &str, hash: &str) -> String {
    let room = MAX_NAME - 1 - hash.len();
    let mut name = name;
    while name.len() > room {
        name = &name[..name.len() - name.chars().next_back().map_or(1, char::len_utf8)];
    }
    format!("{name}-{hash}")
}

/// A copy of `template` with one more label.
pub fn with_label(template: &Value, key: &str, value: &str) -> Value {
    let mut template = template.clone();
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = Value::Object(Map::new());
    }
    template["metadata"]["labels"][key] = value.into();
    template
}

/// FNV-1a over a JSON value whose keys are taken in order.
struct Fnv(u32);

impl Fnv {
    fn new() -> Self {
        Self(2_166_136_261)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(16_777_619);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(b) => self.bytes(&[u8::from(*b)]),
            Value::Number(n) => self.bytes(n.to_string().as_bytes()),
            Value::String(s) => self.bytes(s.as_bytes()),
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item);
                    self.bytes(b",");
                }
            }
            Value::Object(map) => {
                let mut keys: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
                keys.sort_unstable_by_key(|(key, _)| *key);
                self.bytes(b"{");
                for (key, value) in keys {
                    self.bytes(key.as_bytes());
                    self.bytes(b":");
                    self.value(value);
                    self.bytes(b",");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_differ_only_in_the_hash_label_are_the_same() {
        let plain = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}});
        let labelled = with_label(&plain, POD_TEMPLATE_HASH, "abc");
        assert!(same(&plain, &labelled));
        let other = json!({"metadata": {"labels": {"app": "b"}}, "spec": {"containers": []}});
        assert!(!same(&plain, &other));
    }

    #[test]
    fn the_hash_follows_content_and_collisions_but_not_key_order() {
        let a: Value = serde_json::from_str(r#"{"x":1,"y":[true,"z"]}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"y":[true,"z"],"x":1}"#).unwrap();
        assert_eq!(hash(&a, None), hash(&b, None));
        assert_ne!(hash(&a, None), hash(&a, Some(1)));
        assert!(hash(&a, None).bytes().all(|b| ALPHABET.contains(&b)));
    }
}
