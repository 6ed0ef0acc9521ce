//! Objects as rows of a `meta.k8s.io/v1 Table`.

/// What a row carries of its object (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// What a table is made of.
pub struct TableInput<'a> {
    pub resource: &'static api::Resource,
    /// Complete objects as JSON, `kind`, `apiVersion` and resourceVersion included.
    pub objects: &'a [bytes::Bytes],
    pub include: IncludeObject,
    /// Without column definitions: every event of a table watch but the first.
    pub no_headers: bool,
    /// `metadata` of the list as JSON (`{"resourceVersion":"5"}`).
    pub list_meta: &'a str,
    /// Unix seconds, for ages.
    pub now: i64,
}

/// The Table as JSON.
pub fn render(input: &TableInput<'_>) -> Vec<u8> {
    format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"columnDefinitions":[],"rows":[]}}"#,
        input.list_meta
    )
    .into_bytes()
}
