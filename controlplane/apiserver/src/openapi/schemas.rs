//! Schemas of kinds and of everything below them.

use std::collections::{BTreeMap, BTreeSet};

use api::schema::ListType;
use api::{Facts, Field, Struct, Type};

use super::Format;
use super::text::Text;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
pub const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const ANY: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

/// A kind by group, version and name.
type GroupVersionKind = (&'static str, &'static str, &'static str);

/// The schemas of the group-versions' kinds and of what they refer to, as entries of an object.
pub fn write(out: &mut Text, facts: &'static Facts, versions: &[(&str, &str)]) {
    let mut structs: BTreeMap<String, &'static Struct> = BTreeMap::new();
    let mut kinds: BTreeMap<String, BTreeSet<GroupVersionKind>> = BTreeMap::new();
    for kind in &facts.kinds {
        let Some(shape) = kind.schema.as_struct() else {
            continue;
        };
        let shared = kind.group.is_empty()
            && matches!(kind.kind, "DeleteOptions" | "Status")
            && name(shape).starts_with(META);
        if versions.contains(&(kind.group, kind.version)) || shared {
            kinds
                .entry(name(shape))
                .or_default()
                .insert((kind.group, kind.version, kind.kind));
            collect(shape, &mut structs);
        }
    }
    for resource in facts
        .resources
        .iter()
        .filter(|r| versions.contains(&(r.group, r.version)))
    {
        let subresources = resource.subresources.iter().filter_map(|sub| sub.schema());
        for shape in subresources.filter_map(Type::as_struct) {
            collect(shape, &mut structs);
        }
    }
    for (name, shape) in structs {
        out.key(&name);
        let kinds = kinds.get(&name);
        write_struct(out, shape, kinds.into_iter().flatten());
    }
    write_scalars(out);
}

/// The name of a struct in the documents.
pub fn name(shape: &Struct) -> String {
    if shape.openapi.is_empty() {
        format!("{}.{}", shape.package, shape.name)
    } else {
        shape.openapi.to_owned()
    }
}

fn collect(shape: &'static Struct, into: &mut BTreeMap<String, &'static Struct>) {
    if into.insert(name(shape), shape).is_some() {
        return;
    }
    for field in &shape.fields {
        let mut ty = &field.ty;
        while let Some(element) = ty.element() {
            ty = element;
        }
        if let Some(below) = ty.as_struct() {
            collect(below, into);
        }
    }
}

fn write_struct<'k>(
    out: &mut Text,
    shape: &Struct,
    kinds: impl Iterator<Item = &'k GroupVersionKind>,
) {
    out.raw(r#"{"type":"object""#);
    let required: Vec<&str> = shape
        .fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    if !required.is_empty() {
        out.key("required");
        out.strings(&required);
    }
    if !shape.fields.is_empty() {
        out.key("properties");
        out.raw("{");
        for field in &shape.fields {
            out.key(field.name);
            write_field(out, field);
        }
        out.raw("}");
    }
    if shape.atomic {
        out.entry("x-kubernetes-map-type", "atomic");
    }
    let mut kinds = kinds.peekable();
    if kinds.peek().is_some() {
        out.key("x-kubernetes-group-version-kind");
        out.raw("[");
        for (group, version, kind) in kinds {
            out.comma();
            out.group_version_kind(group, version, kind);
        }
        out.raw("]");
    }
    out.raw("}");
}

fn write_field(out: &mut Text, field: &Field) {
    out.raw("{");
    let reference = target(&field.ty).is_some();
    let siblings = !field.default.is_empty() || field.atomic;
    if reference && siblings && out.format == Format::V3 {
        // In 3.0 nothing may stand beside a reference.
        out.key("allOf");
        out.raw("[{");
        write_type(out, &field.ty);
        out.raw("}]");
    } else {
        write_type(out, &field.ty);
    }
    if !field.enum_values.is_empty() {
        out.key("enum");
        out.strings(&field.enum_values);
    }
    if !field.default.is_empty() {
        out.key("default");
        out.raw(field.default);
    }
    write_extensions(out, field);
    out.raw("}");
}

fn write_extensions(out: &mut Text, field: &Field) {
    if matches!(field.ty, Type::List(_)) {
        let list_type = match field.list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        out.entry("x-kubernetes-list-type", list_type);
    }
    if !field.list_keys.is_empty() {
        out.key("x-kubernetes-list-map-keys");
        out.strings(&field.list_keys);
    }
    if field.atomic && !matches!(field.ty, Type::List(_)) {
        out.entry("x-kubernetes-map-type", "atomic");
    }
    if !field.merge_key.is_empty() {
        out.entry("x-kubernetes-patch-merge-key", field.merge_key);
    }
    let strategies: Vec<&str> = [
        (field.patch.merge, "merge"),
        (field.patch.replace, "replace"),
        (field.patch.retain_keys, "retainKeys"),
    ]
    .into_iter()
    .filter_map(|(used, name)| used.then_some(name))
    .collect();
    if !strategies.is_empty() {
        out.entry("x-kubernetes-patch-strategy", &strategies.join(","));
    }
}

/// The schema a type refers to by name.
fn target(ty: &Type) -> Option<String> {
    let meta = |name: &str| Some(format!("{META}.{name}"));
    match ty {
        Type::IntOrString => Some(INT_OR_STRING.to_owned()),
        Type::Quantity => Some(QUANTITY.to_owned()),
        Type::Time => meta("Time"),
        Type::MicroTime => meta("MicroTime"),
        Type::Duration => meta("Duration"),
        Type::Fields => meta("FieldsV1"),
        Type::Raw => Some(RAW.to_owned()),
        Type::Any => Some(ANY.to_owned()),
        Type::Struct(id) => Some(name(id.get())),
        Type::String
        | Type::Bool
        | Type::Int32
        | Type::Int64
        | Type::Float
        | Type::Bytes
        | Type::List(_)
        | Type::Map(_) => None,
    }
}

fn write_type(out: &mut Text, ty: &Type) {
    if let Some(target) = target(ty) {
        return out.reference(&target);
    }
    let (kind, format) = match ty {
        Type::Bool => ("boolean", ""),
        Type::Int32 => ("integer", "int32"),
        Type::Int64 => ("integer", "int64"),
        Type::Float => ("number", "double"),
        Type::Bytes => ("string", "byte"),
        Type::List(_) => ("array", ""),
        Type::Map(_) => ("object", ""),
        _ => ("string", ""),
    };
    out.entry("type", kind);
    if !format.is_empty() {
        out.entry("format", format);
    }
    if let Some(element) = ty.element() {
        out.key(if matches!(ty, Type::List(_)) {
            "items"
        } else {
            "additionalProperties"
        });
        out.raw("{");
        write_type(out, element);
        out.raw("}");
    }
}

/// Schemas of the types that have JSON of their own.
fn write_scalars(out: &mut Text) {
    let v3 = out.format == Format::V3;
    let scalars = [
        (
            INT_OR_STRING,
            if v3 {
                r#"{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}"#
            } else {
                r#"{"type":"string","format":"int-or-string"}"#
            },
        ),
        (
            QUANTITY,
            if v3 {
                r#"{"oneOf":[{"type":"string"},{"type":"number"}]}"#
            } else {
                r#"{"type":"string"}"#
            },
        ),
        (RAW, r#"{"type":"object"}"#),
        (ANY, "{}"),
    ];
    for (name, schema) in scalars {
        out.key(name);
        out.raw(schema);
    }
    let of_meta = [
        ("Time", r#"{"type":"string","format":"date-time"}"#),
        ("MicroTime", r#"{"type":"string","format":"date-time"}"#),
        ("Duration", r#"{"type":"string"}"#),
        ("FieldsV1", r#"{"type":"object"}"#),
        ("Patch", r#"{"type":"object"}"#),
    ];
    for (name, schema) in of_meta {
        out.key(&format!("{META}.{name}"));
        out.raw(schema);
    }
}
