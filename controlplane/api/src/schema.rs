//! Shapes of the built-in kinds: structs, their fields in order, and what a value of a field may be.
//!
//! Input: the `structs` of the fact file. Knows names, order, omission rules, protobuf numbers, merge
//! keys and static defaults; does not know values. A struct is referred to by [`StructId`], because
//! shapes are recursive (JSONSchemaProps).

use serde::Deserialize;

use crate::facts::Facts;

/// Index of a struct in [`Facts::structs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StructId(pub u16);

impl StructId {
    /// The struct itself.
    pub fn get(self) -> &'static Struct {
        &Facts::get().structs[usize::from(self.0)]
    }
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A string (enums too: their values are in [`Field::enum_values`]).
    String,
    /// true or false.
    Bool,
    /// A signed integer of 32 bits.
    Int32,
    /// A signed integer of 64 bits.
    Int64,
    /// A floating point number.
    Float,
    /// Bytes, base64 in JSON.
    Bytes,
    /// An integer or a string.
    IntOrString,
    /// A resource quantity, a string in its canonical form.
    Quantity,
    /// RFC 3339 with seconds, in UTC.
    Time,
    /// RFC 3339 with microseconds, in UTC.
    MicroTime,
    /// A Go duration written as a string.
    Duration,
    /// Any object with a kind of its own (RawExtension).
    Raw,
    /// The managedFields set (FieldsV1): any object.
    Fields,
    /// Any JSON value.
    Any,
    /// A struct with declared fields.
    Struct(StructId),
    /// A list.
    List(Box<Type>),
    /// A map from strings.
    Map(Box<Type>),
}

impl Type {
    /// The struct, if this is one.
    pub fn as_struct(&self) -> Option<&'static Struct> {
        match self {
            Type::Struct(id) => Some(id.get()),
            _ => None,
        }
    }

    /// The element type of a list or map.
    pub fn element(&self) -> Option<&Type> {
        match self {
            Type::List(t) | Type::Map(t) => Some(t),
            _ => None,
        }
    }

    /// Parses the notation of the fact file: one letter per scalar, `#n` a struct, `[` a list of,
    /// `{` a map of.
    pub fn parse(text: &str) -> Option<Type> {
        let mut chars = text.chars();
        let first = chars.next()?;
        let rest = chars.as_str();
        let plain = |t: Type| rest.is_empty().then_some(t);
        match first {
            's' => plain(Type::String),
            'b' => plain(Type::Bool),
            'i' => plain(Type::Int32),
            'l' => plain(Type::Int64),
            'f' => plain(Type::Float),
            'y' => plain(Type::Bytes),
            'I' => plain(Type::IntOrString),
            'Q' => plain(Type::Quantity),
            'T' => plain(Type::Time),
            'M' => plain(Type::MicroTime),
            'D' => plain(Type::Duration),
            'R' => plain(Type::Raw),
            'F' => plain(Type::Fields),
            'A' => plain(Type::Any),
            '#' => rest.parse().ok().map(|n| Type::Struct(StructId(n))),
            '[' => Type::parse(rest).map(|t| Type::List(Box::new(t))),
            '{' => Type::parse(rest).map(|t| Type::Map(Box::new(t))),
            _ => None,
        }
    }
}

/// When a field is left out of canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omit {
    /// Never: the zero value is written (`null` for a nil list, map or pointer).
    Never,
    /// When empty: false, 0, "", an empty list or map, a nil pointer; never a struct by value.
    Empty,
    /// When zero: as `Empty`, and structs and times whose value is zero.
    Zero,
}

/// How two lists (or maps) are merged by a strategic patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists merge by [`Field::merge_key`], or as sets where there is no key.
    pub merge: bool,
    /// A map given in a patch replaces the old one.
    pub replace: bool,
    /// Keys not named by `$retainKeys` are dropped.
    pub retain_keys: bool,
}

/// How apply sees a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// A map by [`Field::list_keys`].
    Map,
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON; empty for an inlined struct.
    pub name: &'static str,
    /// What its value may be.
    pub ty: Type,
    /// Name of the Go type where it is not evident from `ty` (for error texts), or "".
    pub go_type: &'static str,
    /// Whether the Go field is a pointer: zero and absent differ.
    pub pointer: bool,
    /// When it is left out of canonical bytes.
    pub omit: Omit,
    /// Its fields belong to the outer struct in JSON (but not in protobuf).
    pub inline: bool,
    /// The Go name of the inlined struct it comes from, or "".
    pub via: &'static str,
    /// The protobuf field number; 0 if it has none.
    pub proto: u32,
    /// How strategic patches merge it.
    pub patch: PatchStrategy,
    /// The key by which its list merges, or "".
    pub merge_key: &'static str,
    /// How apply sees the list.
    pub list_type: ListType,
    /// A map or struct that apply replaces as a whole.
    pub atomic: bool,
    /// Keys of a list of type map.
    pub list_keys: Vec<&'static str>,
    /// Allowed values; empty when free.
    pub enum_values: Vec<&'static str>,
    /// The static default as JSON text, or "".
    pub default: &'static str,
    /// Listed as required in the published schema.
    pub required: bool,
}

/// A struct of the API.
#[derive(Debug)]
pub struct Struct {
    /// The Go name, for example `PodSpec`.
    pub name: &'static str,
    /// The Go package's last element, for example `v1`.
    pub package: &'static str,
    /// The name in the OpenAPI documents, for example `io.k8s.api.core.v1.PodSpec`.
    pub openapi: &'static str,
    /// Apply replaces it as a whole, wherever it stands.
    pub atomic: bool,
    /// The fields as declared, inlined structs unexpanded: the protobuf view.
    pub declared: Vec<Field>,
    /// The fields in order with inlined structs expanded: the JSON view.
    pub fields: Vec<Field>,
    /// Indexes into `fields`, sorted by name.
    by_name: Vec<u16>,
}

impl Field {
    /// Whether apply replaces the map or struct as a whole, by the field or by its type.
    pub fn is_atomic(&self) -> bool {
        self.atomic || self.ty.as_struct().is_some_and(|shape| shape.atomic)
    }
}

impl Struct {
    /// The field of that JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|i| &self.fields[i])
    }

    /// The index in `fields` of that JSON name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name
            .binary_search_by(|&i| self.fields[usize::from(i)].name.cmp(name))
            .ok()
            .map(|found| usize::from(self.by_name[found]))
    }
}

/// A struct as the fact file has it.
#[derive(Deserialize)]
pub(crate) struct RawStruct {
    #[serde(rename = "n")]
    name: &'static str,
    #[serde(rename = "p")]
    package: &'static str,
    #[serde(rename = "o", default)]
    openapi: &'static str,
    #[serde(rename = "a", default)]
    atomic: bool,
    #[serde(rename = "f", default)]
    fields: Vec<RawField>,
}

#[derive(Deserialize)]
struct RawField {
    #[serde(rename = "j", default)]
    name: &'static str,
    #[serde(rename = "t")]
    ty: &'static str,
    #[serde(rename = "g", default)]
    go_type: &'static str,
    /// Letters: `p` pointer, `e` omitempty, `z` omitzero, `i` inline, `r` required, `m` patch merge,
    /// `x` patch replace, `k` retainKeys, `a` atomic, `s` list set, `l` list map.
    #[serde(rename = "x", default)]
    flags: &'static str,
    #[serde(rename = "b", default)]
    proto: u32,
    #[serde(rename = "k", default)]
    merge_key: &'static str,
    #[serde(rename = "lk", default)]
    list_keys: Vec<&'static str>,
    #[serde(rename = "en", default)]
    enum_values: Vec<&'static str>,
    #[serde(rename = "d", default)]
    default: Option<&'static serde_json::value::RawValue>,
}

/// Builds the structs: parses types, expands inlined structs and indexes names.
pub(crate) fn link(raw: Vec<RawStruct>) -> Vec<Struct> {
    let declared: Vec<Vec<Field>> = raw
        .iter()
        .map(|s| s.fields.iter().map(field).collect())
        .collect();
    raw.iter()
        .enumerate()
        .map(|(i, s)| {
            let mut fields = Vec::with_capacity(declared[i].len());
            expand(&raw, &declared, i, "", &mut fields);
            let mut by_name: Vec<u16> = (0..fields.len() as u16).collect();
            by_name.sort_by_key(|&f| fields[usize::from(f)].name);
            Struct {
                name: s.name,
                package: s.package,
                openapi: s.openapi,
                atomic: s.atomic,
                declared: declared[i].clone(),
                fields,
                by_name,
            }
        })
        .collect()
}

fn field(raw: &RawField) -> Field {
    let has = |letter: char| raw.flags.contains(letter);
    Field {
        name: raw.name,
        ty: Type::parse(raw.ty).expect("the fact file's types are checked by a test"),
        go_type: raw.go_type,
        pointer: has('p'),
        omit: match (has('z'), has('e')) {
            (true, _) => Omit::Zero,
            (false, true) => Omit::Empty,
            (false, false) => Omit::Never,
        },
        inline: has('i'),
        via: "",
        proto: raw.proto,
        patch: PatchStrategy {
            merge: has('m'),
            replace: has('x'),
            retain_keys: has('k'),
        },
        merge_key: raw.merge_key,
        list_type: match (has('s'), has('l')) {
            (true, _) => ListType::Set,
            (false, true) => ListType::Map,
            (false, false) => ListType::Atomic,
        },
        atomic: has('a'),
        list_keys: raw.list_keys.clone(),
        enum_values: raw.enum_values.clone(),
        default: raw.default.map_or("", |d| d.get()),
        required: has('r'),
    }
}

fn expand(
    raw: &[RawStruct],
    all: &[Vec<Field>],
    at: usize,
    via: &'static str,
    into: &mut Vec<Field>,
) {
    for f in &all[at] {
        match (&f.ty, f.inline) {
            (Type::Struct(id), true) => {
                let inner = usize::from(id.0);
                expand(raw, all, inner, raw[inner].name, into);
            }
            _ => into.push(Field { via, ..f.clone() }),
        }
    }
}
