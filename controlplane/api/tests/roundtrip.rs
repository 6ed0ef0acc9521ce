//! Protobuf and JSON are two spellings of the same object.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use api::codec::{decode_stored, envelope, to_protobuf};
use api::{Facts, FieldValidation, Format, canonical, decode};
use bumpalo::Bump;

fn objects() -> Vec<(&'static api::Resource, String)> {
    include_str!("upstream/answers.jsonl")
        .lines()
        .filter_map(|line| {
            let text = line
                .strip_prefix("{\"object\":")?
                .strip_suffix('}')?
                .to_owned();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let version = value["apiVersion"].as_str().unwrap();
            let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
            let kind = value["kind"].as_str().unwrap();
            Some((
                Facts::get().resource_of_kind(group, version, kind).unwrap(),
                text,
            ))
        })
        .collect()
}

#[test]
fn canonical_bytes_survive_a_trip_through_protobuf() {
    for (resource, text) in objects() {
        let arena = Bump::new();
        let doc = decode_stored(text.as_bytes(), &resource.schema, &arena).unwrap();
        let wire = to_protobuf(&doc).unwrap();
        assert_eq!(envelope(&wire).unwrap().kind, resource.kind);
        let (mut back, _) = decode(
            Format::Protobuf,
            &wire,
            &resource.schema,
            FieldValidation::Strict,
            &arena,
        )
        .unwrap();
        // What protobuf does not carry (the type meta of nested objects) comes back by defaulting.
        api::default::default(resource, &mut back);
        let back = String::from_utf8(canonical(&back)).unwrap();
        assert_eq!(back, text, "{}", resource.kind);
    }
}

#[test]
fn canonical_bytes_are_a_fixpoint() {
    for (resource, text) in objects() {
        let arena = Bump::new();
        let doc = decode_stored(text.as_bytes(), &resource.schema, &arena).unwrap();
        assert_eq!(
            String::from_utf8(canonical(&doc)).unwrap(),
            text,
            "{}",
            resource.kind
        );
    }
}

#[test]
fn broken_protobuf_is_an_error() {
    let pods = Facts::get().resource("", "v1", "pods").unwrap();
    let arena = Bump::new();
    for bytes in [
        &b""[..],
        b"k8s",
        b"k8s\0\x12\xff",
        b"k8s\0\x12\x03\x0a\xff\xff",
        b"{}",
    ] {
        let result = decode(
            Format::Protobuf,
            bytes,
            &pods.schema,
            FieldValidation::Warn,
            &arena,
        );
        assert!(result.is_err(), "{bytes:?}");
    }
}
