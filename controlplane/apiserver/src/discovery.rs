//! `/api`, `/apis`, `/api/v1`, `/apis/G`, `/apis/G/V`: older lists and aggregated discovery v2 (its
//! v2beta1 is gone from upstream too: who asks for nothing else gets the older lists).
//!
//! Everything comes from the facts and never changes while the process runs (there are no custom
//! resources yet), so each document is built once.
//! Ports of `k8s.io/apiserver/pkg/endpoints/discovery` and `discovery/aggregated`.

use std::sync::OnceLock;

use api::facts::Group;
use api::{Facts, Resource, Subresource};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Media type of the aggregated document.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A document with the hash it is known by.
struct Document {
    body: Bytes,
    etag: String,
}

/// The answer, or none when the path is not one of discovery's.
pub fn respond(path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
    let path = path.trim_end_matches('/');
    if matches!(path, "/api" | "/apis") && wants_aggregated(headers) {
        return Some(aggregated(path == "/api", headers));
    }
    let facts = Facts::get();
    let document = match path {
        "" => json!({"paths": root_paths(facts)}),
        "/api" => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        }),
        "/apis" => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": named_groups(facts).map(group).collect::<Vec<_>>(),
        }),
        "/api/v1" => resource_list(facts, "", "v1"),
        _ => named(facts, path.strip_prefix("/apis/")?)?,
    };
    Some(json_response(document.to_string().into()))
}

/// `/apis/G` and `/apis/G/V`.
fn named(facts: &Facts, rest: &str) -> Option<Value> {
    match rest.split_once('/') {
        None => {
            let found = named_groups(facts).find(|group| group.name == rest)?;
            let mut document = group(found);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            Some(document)
        }
        Some((name, version)) => {
            let known = named_groups(facts)
                .any(|group| group.name == name && group.versions.contains(&version));
            known.then(|| resource_list(facts, name, version))
        }
    }
}

fn named_groups(facts: &Facts) -> impl Iterator<Item = &Group> {
    facts.groups.iter().filter(|group| !group.name.is_empty())
}

fn root_paths(facts: &Facts) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in named_groups(facts) {
        paths.push(format!("/apis/{}", group.name));
        let versions = group.versions.iter();
        paths.extend(versions.map(|version| format!("/apis/{}/{version}", group.name)));
    }
    let others = [
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    paths.extend(others.map(str::to_owned));
    paths
}

// === the older lists ===

fn group(group: &Group) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

fn resource_list(facts: &Facts, group: &str, version: &str) -> Value {
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let mut entries = Vec::new();
    for resource in of_version(facts, group, version) {
        entries.push(resource_entry(resource));
        let subresources = resource.subresources.iter();
        entries.extend(subresources.map(|sub| subresource_entry(resource, sub)));
    }
    let mut list = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version,
        "resources": entries,
    });
    // The core group's list has never had one (upstream: stripVersionNegotiatedSerializer).
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list
}

fn of_version<'f>(
    facts: &'f Facts,
    group: &'f str,
    version: &'f str,
) -> impl Iterator<Item = &'f Resource> {
    facts
        .resources
        .iter()
        .filter(move |resource| resource.group == group && resource.version == version)
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.storage_version_hash.is_empty() {
        entry["storageVersionHash"] = resource.storage_version_hash.into();
    }
    entry
}

fn subresource_entry(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (sub.group, sub.version) != (resource.group, resource.version) {
        entry["group"] = sub.group.into();
        entry["version"] = sub.version.into();
    }
    entry
}

// === the aggregated document ===

/// Whether the client can read the aggregated document.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    accept.unwrap_or_default().split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_json = parts.next() == Some("application/json");
        let parameters: Vec<&str> = parts.collect();
        is_json && parameters.contains(&"as=APIGroupDiscoveryList") && parameters.contains(&"v=v2")
    })
}

fn aggregated(core: bool, headers: &HeaderMap) -> Response<Bytes> {
    static DOCUMENTS: OnceLock<[Document; 2]> = OnceLock::new();
    let documents = DOCUMENTS.get_or_init(|| [true, false].map(build));
    let document = &documents[usize::from(!core)];
    let mut response = conditional(&document.etag, AGGREGATED, headers, || {
        document.body.clone()
    });
    let public = HeaderValue::from_static("public");
    response.headers_mut().insert(header::CACHE_CONTROL, public);
    response
}

fn build(core: bool) -> Document {
    let facts = Facts::get();
    let groups = facts
        .groups
        .iter()
        .filter(|group| group.name.is_empty() == core);
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": groups.map(|group| group_discovery(facts, group)).collect::<Vec<_>>(),
    });
    let body = Bytes::from(list.to_string());
    let etag = etag(&body);
    Document { body, etag }
}

fn group_discovery(facts: &Facts, group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let resources = of_version(facts, group.name, version);
            let resources: Vec<Value> = resources.map(resource_discovery).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = json!({});
    if !group.name.is_empty() {
        metadata["name"] = group.name.into();
    }
    json!({"metadata": metadata, "versions": versions})
}

fn resource_discovery(resource: &Resource) -> Value {
    // Group and version are named where they are not those of the document's entry.
    let own = (resource.group, resource.version);
    let kind = |group, version, kind: &str| {
        let (group, version) = if (group, version) == own {
            ("", "")
        } else {
            (group, version)
        };
        json!({"group": group, "version": version, "kind": kind})
    };
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(resource.group, resource.version, resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subresource = |sub: &Subresource| {
            json!({
                "subresource": sub.name,
                "responseKind": kind(sub.group, sub.version, sub.kind),
                "verbs": sub.verbs,
            })
        };
        entry["subresources"] = resource.subresources.iter().map(subresource).collect();
    }
    entry
}

// === answers ===

/// A strong entity tag of the bytes.
pub(crate) fn etag(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    format!("\"{hex}\"")
}

/// The body under its entity tag, or 304 when the client has it.
pub(crate) fn conditional(
    etag: &str,
    media_type: &'static str,
    headers: &HeaderMap,
    body: impl FnOnce() -> Bytes,
) -> Response<Bytes> {
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let fresh = known.is_some_and(|known| {
        known
            .split(',')
            .any(|tag| matches!(tag.trim(), tag if tag == etag || tag == "*"))
    });
    let mut response = Response::new(if fresh { Bytes::new() } else { body() });
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(etag) {
        answer.insert(header::ETAG, value);
    }
    response
}

fn json_response(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, accept: &str) -> Option<Response<Bytes>> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        respond(path, &headers)
    }

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    /// What kubectl 1.32 sends.
    const KUBECTL: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

    #[test]
    fn the_aggregated_list_has_every_resource_once() {
        let count = |path: &str| -> usize {
            let list = body(&get(path, KUBECTL).unwrap());
            assert_eq!(list["apiVersion"], "apidiscovery.k8s.io/v2");
            let groups = list["items"].as_array().unwrap().clone();
            let versions = groups
                .iter()
                .flat_map(|g| g["versions"].as_array().unwrap().clone());
            versions
                .map(|v| v["resources"].as_array().unwrap().len())
                .sum()
        };
        assert_eq!(count("/api") + count("/apis"), Facts::get().resources.len());
    }

    #[test]
    fn clients_that_know_only_the_beta_get_the_older_lists() {
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(body(&get("/apis", beta).unwrap())["kind"], "APIGroupList");
    }

    #[test]
    fn what_goes_without_saying_is_left_out() {
        let list = body(&get("/api", KUBECTL).unwrap());
        assert_eq!(list["items"][0]["metadata"], json!({}));
        let resources = list["items"][0]["versions"][0]["resources"]
            .as_array()
            .unwrap();
        let pods = resources.iter().find(|r| r["resource"] == "pods").unwrap();
        let kind = |of: &Value| of["responseKind"].clone();
        assert_eq!(
            kind(pods),
            json!({"group": "", "version": "", "kind": "Pod"})
        );
        let subresources = pods["subresources"].as_array().unwrap();
        let eviction = subresources
            .iter()
            .find(|s| s["subresource"] == "eviction")
            .unwrap();
        let expected = json!({"group": "policy", "version": "v1", "kind": "Eviction"});
        assert_eq!(kind(eviction), expected);
        assert_eq!(
            body(&get("/api/v1", "*/*").unwrap()).get("apiVersion"),
            None
        );
        assert_eq!(
            body(&get("/apis/apps/v1", "*/*").unwrap())["apiVersion"],
            "v1"
        );
    }

    #[test]
    fn a_known_tag_gets_no_body() {
        let first = get("/apis", KUBECTL).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, KUBECTL.parse().unwrap());
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let second = respond("/apis", &headers).unwrap();
        assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
        assert!(second.body().is_empty());
    }

    #[test]
    fn the_older_lists_are_there_for_every_group_and_version() {
        let groups = body(&get("/apis", "application/json").unwrap());
        assert_eq!(groups["kind"], "APIGroupList");
        for group in groups["groups"].as_array().unwrap() {
            let name = group["name"].as_str().unwrap();
            assert_eq!(
                body(&get(&format!("/apis/{name}"), "*/*").unwrap())["kind"],
                "APIGroup"
            );
            for version in group["versions"].as_array().unwrap() {
                let path = format!("/apis/{}", version["groupVersion"].as_str().unwrap());
                let list = body(&get(&path, "*/*").unwrap());
                assert!(!list["resources"].as_array().unwrap().is_empty(), "{path}");
            }
        }
        let core = body(&get("/api/v1", "*/*").unwrap());
        let names: Vec<&str> = core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"pods") && names.contains(&"pods/exec"));
    }

    #[test]
    fn unknown_paths_are_not_answered() {
        for path in ["/apis/nope", "/apis/apps/v9", "/api/v2", "/metrics"] {
            assert!(get(path, "*/*").is_none(), "{path}");
        }
    }
}
