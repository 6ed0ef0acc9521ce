//! Valid objects by kind, and the questions made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use api::{Facts, Format, Resource};
use bumpalo::Bump;

use crate::mutate::mutate;
use crate::random::Random;
use crate::tree::Node;
use crate::values::Words;

/// The valid objects of every kind.
pub struct Bases {
    pub kinds: BTreeMap<String, Kind>,
    words: Words,
}

/// A kind and valid objects of it.
pub struct Kind {
    pub resource: &'static Resource,
    objects: Vec<Node>,
}

impl Bases {
    /// Reads the YAML files of a folder.
    pub fn read(folder: &Path) -> Result<Bases, String> {
        let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
        let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            for document in text.split("\n---\n") {
                let object = parse(document).map_err(|e| format!("{}: {e}", file.display()))?;
                let resource = resource(&object)
                    .ok_or_else(|| format!("{}: a kind that is not served", file.display()))?;
                kinds
                    .entry(label(resource))
                    .or_insert_with(|| Kind {
                        resource,
                        objects: Vec::new(),
                    })
                    .objects
                    .push(object);
            }
        }
        let words = Words::of(kinds.values().flat_map(|kind| &kind.objects));
        Ok(Bases { kinds, words })
    }

    /// The question of that number. A number and a seed give the same question, always.
    pub fn question(&self, kind: &Kind, seed: u64, number: usize) -> String {
        let mut random = Random::new(seed ^ (number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        loop {
            let base = &kind.objects[random.below(kind.objects.len())];
            let line = if random.chance(60) {
                self.creation(kind, base.clone(), &mut random)
            } else {
                self.update(kind, base.clone(), &mut random)
            };
            if let Some(line) = line {
                return line;
            }
        }
    }

    fn creation(&self, kind: &Kind, mut object: Node, random: &mut Random) -> Option<String> {
        mutate(&mut object, &kind.resource.schema, &self.words, random);
        let line = format!("{{\"op\":\"create\",\"object\":{}}}", object.json());
        is_named(&object).then_some(line)
    }

    fn update(&self, kind: &Kind, mut old: Node, random: &mut Random) -> Option<String> {
        let schema = &kind.resource.schema;
        let name = old
            .get("metadata")
            .and_then(|meta| meta.get("name"))
            .cloned();
        if random.chance(40) {
            mutate(&mut old, schema, &self.words, random);
        }
        let mut object = old.clone();
        mutate(&mut object, schema, &self.words, random);
        for stored in [&mut old, &mut object] {
            // The server refuses other names and versions before the rules are asked.
            stored.set_meta("name", name.clone().unwrap_or(Node::Null));
            stored.set_meta("resourceVersion", Node::text("5"));
        }
        let status = kind.resource.strategy.status && random.chance(30);
        let part = if status {
            ",\"subresource\":\"status\""
        } else {
            ""
        };
        let (object_text, old_text) = (object.json(), old.json());
        let line =
            format!("{{\"op\":\"update\"{part},\"object\":{object_text},\"old\":{old_text}}}");
        (is_named(&object) && is_named(&old)).then_some(line)
    }
}

/// Names are made from `generateName` before the rules are asked.
fn is_named(object: &Node) -> bool {
    let meta = |field| object.get("metadata").and_then(|m| m.get(field));
    let empty = |node: Option<&Node>| {
        node.is_none_or(|n| matches!(n, Node::Null) || n.as_text() == Some(""))
    };
    !empty(meta("name")) || empty(meta("generateName"))
}

fn parse(text: &str) -> Result<Node, String> {
    let arena = Bump::new();
    let bytes = arena.alloc_slice_copy(text.as_bytes());
    let value = api::codec::parse(Format::Yaml, bytes, &arena).map_err(|e| e.to_string())?;
    Ok(Node::from(&value))
}

fn resource(object: &Node) -> Option<&'static Resource> {
    let api_version = object.get("apiVersion")?.as_text()?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    Facts::get().resource_of_kind(group, version, object.get("kind")?.as_text()?)
}

fn label(resource: &Resource) -> String {
    api::status::qualified(resource.group, resource.kind)
}
