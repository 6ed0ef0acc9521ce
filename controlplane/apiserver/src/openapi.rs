//! `/openapi/v2` and `/openapi/v3`, published from the facts.
//!
//! The documents are big and asked for rarely, so they are built per request and only their hashes
//! are kept. Descriptions are upstream's prose and therefore absent.

mod paths;
mod schemas;
mod text;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use api::Facts;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::discovery::{conditional, etag};
use text::Text;

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";

/// Which of the two formats a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    V2,
    V3,
}

/// Hashes of the v3 documents by path below `/openapi/v3/`.
static V3_HASHES: OnceLock<BTreeMap<String, String>> = OnceLock::new();
static V2_HASH: OnceLock<String> = OnceLock::new();

/// The answer, or none when the path is not one of OpenAPI's.
pub fn respond(
    path: &str,
    query: &[(String, String)],
    headers: &HeaderMap,
) -> Option<Response<Bytes>> {
    let path = path.trim_end_matches('/');
    match path {
        "/openapi/v2" => Some(v2(headers)),
        "/openapi/v3" => Some(v3_index(headers)),
        _ => {
            let name = path.strip_prefix("/openapi/v3/")?;
            let hash = v3_hashes().get(name)?;
            let wanted = query
                .iter()
                .find(|(key, _)| key == "hash")
                .map(|(_, value)| value);
            if wanted.is_some_and(|wanted| wanted != hash) {
                return Some(redirect(name, hash));
            }
            let (group, version) = split(name)?;
            let tag = format!("\"{hash}\"");
            let mut response = conditional(&tag, "application/json", headers, || {
                document(Format::V3, &[(group, version)]).into()
            });
            if wanted.is_some() {
                // The hash names the content, so it never changes.
                let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
                response
                    .headers_mut()
                    .insert(header::CACHE_CONTROL, forever);
            }
            Some(response)
        }
    }
}

fn v2(headers: &HeaderMap) -> Response<Bytes> {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let protobuf_only = accept.is_some_and(|accept| {
        accept.contains(V2_PROTOBUF) && !accept.contains("json") && !accept.contains("*/*")
    });
    if protobuf_only {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
        return response;
    }
    let build = || Bytes::from(document(Format::V2, &all_versions()));
    let tag = V2_HASH.get_or_init(|| etag(&build()));
    conditional(tag, "application/json", headers, build)
}

fn v3_index(headers: &HeaderMap) -> Response<Bytes> {
    let paths: serde_json::Map<String, serde_json::Value> = v3_hashes()
        .iter()
        .map(|(name, hash)| {
            let url = format!("/openapi/v3/{name}?hash={hash}");
            (name.clone(), serde_json::json!({"serverRelativeURL": url}))
        })
        .collect();
    let body = Bytes::from(serde_json::json!({"paths": paths}).to_string());
    conditional(&etag(&body), "application/json", headers, || body)
}

fn redirect(name: &str, hash: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(url) = HeaderValue::from_str(&format!("/openapi/v3/{name}?hash={hash}")) {
        response.headers_mut().insert(header::LOCATION, url);
    }
    response
}

fn v3_hashes() -> &'static BTreeMap<String, String> {
    V3_HASHES.get_or_init(|| {
        all_versions()
            .into_iter()
            .map(|(group, version)| {
                let name = if group.is_empty() {
                    format!("api/{version}")
                } else {
                    format!("apis/{group}/{version}")
                };
                let tag = etag(&document(Format::V3, &[(group, version)]));
                (name, tag.trim_matches('"').to_owned())
            })
            .collect()
    })
}

fn all_versions() -> Vec<(&'static str, &'static str)> {
    let groups = Facts::get().groups.iter();
    groups
        .flat_map(|group| group.versions.iter().map(|version| (group.name, *version)))
        .collect()
}

/// Group and version of `api/v1` or `apis/apps/v1`.
fn split(name: &str) -> Option<(&str, &str)> {
    match name.strip_prefix("apis/") {
        Some(rest) => rest.split_once('/'),
        None => name.strip_prefix("api/").map(|version| ("", version)),
    }
}

/// A complete document of some group-versions.
fn document(format: Format, versions: &[(&str, &str)]) -> Vec<u8> {
    let facts = Facts::get();
    let mut out = Text::new(format);
    let start = match format {
        Format::V2 => r#"{"swagger":"2.0","info":{"title":"Kubernetes","version":""#,
        Format::V3 => r#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":""#,
    };
    out.raw(start);
    out.raw(facts.kubernetes);
    out.raw(r#""},"paths":{"#);
    paths::write(&mut out, facts, versions);
    out.raw(match format {
        Format::V2 => r#"},"definitions":{"#,
        Format::V3 => r#"},"components":{"schemas":{"#,
    });
    schemas::write(&mut out, facts, versions);
    out.raw(match format {
        Format::V2 => "}}",
        Format::V3 => "}}}",
    });
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn get(path: &str) -> Value {
        let response = respond(path, &[], &HeaderMap::new()).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        serde_json::from_slice(response.body()).unwrap()
    }

    /// Every `$ref` in a document.
    fn refs<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match value {
                        Value::String(target) if key == "$ref" => found.push(target),
                        _ => refs(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| refs(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_document_of_the_index_is_whole() {
        let index = get("/openapi/v3");
        let paths = index["paths"].as_object().unwrap();
        assert_eq!(paths.len(), all_versions().len());
        for name in paths.keys() {
            let document = get(&format!("/openapi/v3/{name}"));
            let mut found = Vec::new();
            refs(&document, &mut found);
            assert!(!found.is_empty(), "{name}");
            for target in found {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{name}: {target}");
            }
        }
    }

    #[test]
    fn kubectl_finds_the_query_parameters_of_a_kinds_patch() {
        let document = get("/openapi/v3/apis/apps/v1");
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        let kind = serde_json::json!({"group": "apps", "kind": "Deployment", "version": "v1"});
        assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert!(
            names.contains(&"dryRun") && names.contains(&"fieldValidation"),
            "{names:?}"
        );
    }

    #[test]
    fn merge_keys_and_kinds_are_in_the_schemas() {
        let document = get("/openapi/v3/api/v1");
        let schemas = &document["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        let kinds = &schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"];
        assert_eq!(
            *kinds,
            serde_json::json!([{"group": "", "kind": "Pod", "version": "v1"}])
        );
    }

    #[test]
    fn v2_is_json_with_an_entity_tag_and_whole() {
        let document = get("/openapi/v2");
        let mut found = Vec::new();
        refs(&document, &mut found);
        for target in found {
            assert!(
                document
                    .pointer(target.strip_prefix('#').unwrap())
                    .is_some(),
                "{target}"
            );
        }
        let response = respond("/openapi/v2", &[], &HeaderMap::new()).unwrap();
        assert!(
            response.headers()[header::ETAG]
                .to_str()
                .unwrap()
                .starts_with('"')
        );
    }

    #[test]
    fn an_old_hash_leads_to_the_new_one() {
        let query = [("hash".to_owned(), "OLD".to_owned())];
        let response = respond("/openapi/v3/api/v1", &query, &HeaderMap::new()).unwrap();
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
        let url = response.headers()[header::LOCATION].to_str().unwrap();
        let hash = url.split_once("?hash=").unwrap().1.to_owned();
        let query = [("hash".to_owned(), hash)];
        let response = respond("/openapi/v3/api/v1", &query, &HeaderMap::new()).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}
