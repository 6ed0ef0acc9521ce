//! Stored bytes to answers: complete objects, items of lists, metadata only, tables.
//!
//! A kind that is served in several versions is stored in one; reading it in another changes the
//! type meta (the only real conversions, autoscaling and Events, are in `convert`).

use api::{FieldError, Header, Resource, Status};
use bytes::Bytes;
use http::{HeaderValue, Response, header};

use crate::{
    attributes::Attributes,
    body::{self, Body},
    cache::Object,
    call::Call,
    chain::headers,
    convert,
    negotiate::{Form, Output},
    table::{IncludeObject, TableInput, render},
};

/// A verb's answer before its encoding.
pub struct Answer {
    pub code: u16,
    pub json: Vec<u8>,
    pub warnings: Vec<String>,
}

// === impl Answer ===

impl Answer {
    pub fn ok(json: Vec<u8>) -> Self {
        Self {
            code: 200,
            json,
            warnings: Vec::new(),
        }
    }

    /// A response in the form the client asked for.
    pub fn respond(self, call: &Call) -> Response<Body> {
        let json = match call.output.form {
            Form::Object | Form::PartialObjectMetadataList => self.json,
            Form::PartialObjectMetadata => {
                metadata_only(&self.json, call.output.meta_version()).unwrap_or(self.json)
            }
            Form::Table => {
                let meta = list_meta_of(&self.json);
                table(call, &[Bytes::from(self.json)], &meta, false)
            }
        };
        let mut response = body::json(self.code, json);
        finish(&mut response, call.output);
        let warnings = self.warnings.iter();
        warnings.fold(response, |response, warning| {
            headers::warned(response, warning)
        })
    }
}

/// Sets the content type.
fn finish(response: &mut Response<Body>, output: Output) {
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(output.content_type()),
    );
}

/// Complete JSON of an object as `resource` serves it, with the given resourceVersion.
pub fn object_at(resource: &Resource, object: &Object, revision: u64) -> Vec<u8> {
    if is_stored_version(resource) {
        return object.json_at(revision);
    }
    let item = item_at(resource, object, revision);
    let mut out = Vec::with_capacity(item.len() + 64);
    type_meta(resource, &mut out);
    join(&mut out, &item);
    out
}

/// Complete JSON of an object as `resource` serves it.
pub fn object(resource: &Resource, object: &Object) -> Vec<u8> {
    object_at(resource, object, object.revision)
}

/// JSON of an object without kind and apiVersion, as items of lists are.
pub fn item_at(resource: &Resource, object: &Object, revision: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.bytes.len() + 40);
    object.header.splice_item(&object.bytes, revision, &mut out);
    if is_stored_version(resource) {
        out
    } else {
        convert::item(resource, out)
    }
}

/// `PartialObjectMetadata` of complete JSON.
pub fn metadata_only(json: &[u8], api_version: &str) -> Option<Vec<u8>> {
    let span = Header::scan(json)?.metadata;
    let head =
        format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{api_version}","metadata":"#);
    let mut out = head.into_bytes();
    out.extend_from_slice(json.get(span.range())?);
    out.push(b'}');
    Some(out)
}

/// Checks that metadata alone is asked for of what there is: a list or an object (port of
/// `asPartialObjectMetadata` and its twin in `k8s.io/apiserver/pkg/endpoints/handlers/response.go`).
pub fn check_metadata(call: &Call) -> Result<(), Status> {
    let Resource { kind, .. } = call.resource;
    let package = internal_package(call.resource.group);
    let text = match (call.output.form, call.attributes.verb.as_str()) {
        (Form::PartialObjectMetadata, "list") => format!(
            "you requested PartialObjectMetadata, but the requested object is a list \
             (*{package}.{kind}List)"
        ),
        (Form::PartialObjectMetadataList, "get") => format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list \
             (*{package}.{kind})"
        ),
        _ => return Ok(()),
    };
    Err(Status::new(406, "NotAcceptable", text))
}

/// The package of upstream's internal types of a group, which its errors name.
pub fn internal_package(group: &str) -> &str {
    match group {
        "" | "events.k8s.io" => "core",
        other => other.split('.').next().unwrap_or_default(),
    }
}

/// Checks what a Table is asked for: port of `ValidateTableOptions`
/// (`k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go`).
pub fn check_table(attributes: &Attributes) -> Result<(), Status> {
    match attributes.param("includeObject").unwrap_or_default() {
        "" | "None" | "Metadata" | "Object" => Ok(()),
        other => {
            let text = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid("includeObject", other, text);
            Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: {error}"
            )))
        }
    }
}

/// Objects (complete JSON) as a Table.
pub fn table(call: &Call, objects: &[Bytes], list_meta: &str, no_headers: bool) -> Vec<u8> {
    let include = match call.attributes.param("includeObject") {
        Some("None") => IncludeObject::None,
        Some("Object") => IncludeObject::Object,
        _ => IncludeObject::Metadata,
    };
    render(&TableInput {
        resource: call.resource,
        api_version: call.output.meta_version(),
        objects,
        include,
        no_headers,
        list_meta,
        now: call.now,
    })
}

/// Whether the bytes in the store are already what this version serves.
fn is_stored_version(resource: &Resource) -> bool {
    resource.version == resource.storage_version && resource.group == resource.storage_group
}

fn type_meta(resource: &Resource, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(resource.kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(resource.api_version().as_bytes());
    out.extend_from_slice(b"\"}");
}

/// Joins two JSON objects: `{a}` + `{b}` = `{a,b}`.
fn join(out: &mut Vec<u8>, second: &[u8]) {
    out.pop();
    if second.len() > 2 {
        out.push(b',');
    }
    out.extend_from_slice(&second[1..]);
}

fn list_meta_of(json: &[u8]) -> String {
    let version = serde_json::from_slice::<serde_json::Value>(json)
        .ok()
        .and_then(|v| v["metadata"]["resourceVersion"].as_str().map(str::to_owned))
        .unwrap_or_default();
    format!(r#"{{"resourceVersion":"{version}"}}"#)
}
