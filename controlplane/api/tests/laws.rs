//! Laws that hold for every document and every patch.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use api::codec::{coerce, decode_stored, parse};
use api::patch::{PatchKind, apply_patch};
use api::{Doc, Facts, FieldValidation, Format, Header, Type, canonical, decode};
use bumpalo::Bump;
use proptest::prelude::*;
use serde_json::{Value, json};

fn config_map() -> &'static Type {
    &Facts::get()
        .resource("", "v1", "configmaps")
        .unwrap()
        .schema
}

fn pods() -> &'static api::Resource {
    Facts::get().resource("", "v1", "pods").unwrap()
}

/// Any JSON value, not too deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[a-d]{1,2}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Pods whose parts vary in presence and order.
fn any_pod() -> impl Strategy<Value = Value> {
    let labels = prop::collection::hash_map("[a-z]{1,3}", "[a-z0-9]{0,3}", 0..5);
    let cpu = prop_oneof![
        "[0-9]{1,4}m",
        "[0-9]{1,3}",
        "[0-9]\\.[0-9]{1,4}",
        "[1-9][0-9]{0,3}Mi"
    ];
    let container =
        ("[a-c]", "[a-z]{1,4}(:[0-9])?", prop::option::of(cpu)).prop_map(|(name, image, cpu)| {
            match cpu {
                Some(cpu) => {
                    json!({"resources": {"limits": {"cpu": cpu}}, "image": image, "name": name})
                }
                None => json!({"name": name, "image": image, "env": []}),
            }
        });
    (
        labels,
        prop::collection::vec(container, 0..4),
        any::<Option<bool>>(),
    )
        .prop_map(|(labels, containers, host)| {
            json!({
                "spec": {"hostNetwork": host, "containers": containers},
                "metadata": {"name": "p", "labels": labels, "namespace": "n"},
                "kind": "Pod",
                "apiVersion": "v1",
            })
        })
}

fn read<'a>(value: &Value, schema: &'a Type, arena: &'a Bump) -> Option<Doc<'a>> {
    let text = arena.alloc_str(&value.to_string()).as_bytes();
    let decoded = decode(Format::Json, text, schema, FieldValidation::Ignore, arena);
    decoded.ok().map(|(doc, _)| doc)
}

fn patched(kind: PatchKind, doc: &Doc<'_>, patch: &Value) -> Option<Vec<u8>> {
    let arena = Bump::new();
    let copy = Doc::from_value(doc.root().copy_in(&arena), config_map(), &arena);
    let patch = arena.alloc_str(&patch.to_string()).as_bytes();
    let result = apply_patch(kind, &copy, patch, FieldValidation::Ignore, &arena);
    result.ok().map(|(doc, _)| canonical(&doc))
}

proptest! {
    #[test]
    fn writing_and_reading_again_changes_nothing(pod in any_pod()) {
        let arena = Bump::new();
        let resource = pods();
        if let Some(mut doc) = read(&pod, &resource.schema, &arena) {
            api::default::default(resource, &mut doc);
            let first = canonical(&doc);
            let mut again = decode_stored(&first, &resource.schema, &arena).unwrap();
            prop_assert_eq!(&first, &canonical(&again));
            api::default::default(resource, &mut again);
            prop_assert_eq!(&first, &canonical(&again));
        }
    }

    #[test]
    fn the_header_finds_what_the_document_has(pod in any_pod(), revision in any::<u64>()) {
        let arena = Bump::new();
        let Some(doc) = read(&pod, &pods().schema, &arena) else { return Ok(()) };
        let bytes = canonical(&doc);
        let header = Header::scan(&bytes).unwrap();
        prop_assert_eq!(header.name.text(&bytes), doc.name());
        prop_assert_eq!(header.namespace.text(&bytes), doc.namespace());
        for (key, value) in header.labels(&bytes) {
            prop_assert_eq!(doc.map_value(&["metadata", "labels"], &key).unwrap_or(""), &*value);
        }
        let mut whole = Vec::new();
        header.splice(&bytes, revision, &mut whole);
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        let spliced = whole["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        prop_assert_eq!(spliced, revision.to_string());
    }

    #[test]
    fn a_merge_patch_applied_twice_is_applied_once(
        data in prop::collection::hash_map("[a-c]", "[a-c]?", 0..4),
        changes in prop::collection::hash_map("[a-c]", prop::option::of("[a-c]?"), 0..4),
    ) {
        let arena = Bump::new();
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": data});
        let doc = read(&object, config_map(), &arena).unwrap();
        let patch = json!({"data": changes});
        for kind in [PatchKind::Merge, PatchKind::Strategic] {
            let once = patched(kind, &doc, &patch).unwrap();
            let twice = decode_stored(&once, config_map(), &arena).unwrap();
            prop_assert_eq!(&once, &patched(kind, &twice, &patch).unwrap());
        }
        prop_assert_eq!(
            patched(PatchKind::Merge, &doc, &patch),
            patched(PatchKind::Strategic, &doc, &patch)
        );
        let empty = patched(PatchKind::Merge, &doc, &json!({})).unwrap();
        prop_assert_eq!(empty, canonical(&doc));
    }

    #[test]
    fn no_input_makes_a_decoder_panic(value in any_json(), bytes in any::<Vec<u8>>()) {
        let arena = Bump::new();
        for resource in [pods(), Facts::get().resource("apps", "v1", "deployments").unwrap()] {
            let object = json!({"metadata": value, "spec": value, "data": value});
            if let Some(mut doc) = read(&object, &resource.schema, &arena) {
                api::default::default(resource, &mut doc);
                api::validate::validate_create(resource, &doc);
                canonical(&doc);
            }
        }
        for format in [Format::Json, Format::Yaml, Format::Protobuf] {
            let mut framed = b"k8s\0".to_vec();
            framed.extend_from_slice(&bytes);
            for input in [&bytes, &framed] {
                let input = arena.alloc_slice_copy(input);
                let _ = decode(format, input, &pods().schema, FieldValidation::Strict, &arena);
            }
        }
    }

    #[test]
    fn no_patch_makes_the_patcher_panic(pod in any_pod(), patch in any_json()) {
        let arena = Bump::new();
        let Some(doc) = read(&pod, &pods().schema, &arena) else { return Ok(()) };
        for kind in [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic] {
            for text in [patch.to_string(), json!({"spec": patch}).to_string()] {
                let text = arena.alloc_str(&text).as_bytes();
                let _ = apply_patch(kind, &doc, text, FieldValidation::Warn, &arena);
            }
        }
    }

    #[test]
    fn plain_json_survives_parsing(value in any_json()) {
        let arena = Bump::new();
        let text = arena.alloc_str(&value.to_string()).as_bytes();
        let parsed = parse(Format::Json, text, &arena).unwrap();
        let mut out = Vec::new();
        api::codec::write_value(&parsed, &mut out);
        prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), value);
        let _ = coerce(parsed, config_map(), FieldValidation::Warn, &arena);
    }
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    let arena = Bump::new();
    let deep = |depth: usize, open: &str, leaf: &str, close: &str| {
        format!("{}{leaf}{}", open.repeat(depth), close.repeat(depth))
    };
    for (open, leaf, close) in [("[", "", "]"), ("{\"a\":", "1", "}")] {
        for depth in [
            api::codec::MAX_DEPTH - 5,
            api::codec::MAX_DEPTH + 5,
            100_000,
        ] {
            let text = arena.alloc_str(&deep(depth, open, leaf, close)).as_bytes();
            for format in [Format::Json, Format::Yaml] {
                if format == Format::Yaml && depth > 2 * api::codec::MAX_DEPTH {
                    continue;
                }
                let parsed = parse(format, text, &arena);
                // YAML has a lower limit of its own for brackets.
                let fits = depth < api::codec::MAX_DEPTH;
                assert!(
                    parsed.is_ok() == fits || format == Format::Yaml,
                    "{format:?} {depth}"
                );
                assert!(parsed.is_err() || fits, "{format:?} {depth}");
                if let Ok(value) = parsed {
                    let copy = value.clone();
                    assert!(copy == value);
                    let mut out = Vec::new();
                    api::codec::write_value(&copy.copy_in(&arena), &mut out);
                }
            }
        }
    }
}

#[test]
fn the_facts_load_in_time() {
    let began = std::time::Instant::now();
    assert_eq!(Facts::get().resources.len(), 72);
    // Generous: tests are not optimised and share the machine.
    assert!(
        began.elapsed() < std::time::Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn problems_are_told_in_the_order_of_the_text() {
    let arena = Bump::new();
    let body =
        br#"{"a": 1, "data": {"k": "1", "k": "2"}, "b": 2, "metadata": {"c": 3}, "data": {}}"#;
    let (_, warnings) = decode(
        Format::Json,
        body,
        config_map(),
        FieldValidation::Warn,
        &arena,
    )
    .unwrap();
    assert_eq!(
        warnings,
        [
            "unknown field \"a\"",
            "duplicate field \"data.k\"",
            "unknown field \"b\"",
            "unknown field \"metadata.c\"",
            "duplicate field \"data\"",
        ]
    );
}
