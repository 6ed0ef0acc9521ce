//! What is asked: a request's path, method and query parsed once into the attributes that
//! authorization and routing use. Pure; knows no resource table, so any path has attributes.
//!
//! Port of the rules of `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`.

use http::Method;

/// The attributes of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`,
    /// `proxy`; for non-resource paths the lower-case method.
    pub verb: String,
    /// False for `/healthz`, `/apis`, `/openapi/v3` and the like.
    pub is_resource: bool,
    /// Path without query, decoded.
    pub path: String,
    /// `""` for the core group.
    pub group: String,
    pub version: String,
    /// `""` when cluster-scoped or all namespaces.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    pub subresource: String,
    /// `""` for collections; for list and watch the name of a `metadata.name=` field selector.
    pub name: String,
    /// The rest of the path after the subresource (`proxy/…`).
    pub rest: String,
    /// Raw query parameters, decoded, in order.
    pub query: Vec<(String, String)>,
}

// === impl Attributes ===

impl Attributes {
    /// Parses a request line.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Self {
        let mut attributes = Self {
            path: percent_decode(path, false),
            query: parse_query(query.unwrap_or_default()),
            ..Self::default()
        };
        // Empty parts in the middle count: the namespace of `/api/v1/namespaces//pods` is "".
        let parts: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|p| percent_decode(p, false))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                attributes.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                attributes.group = (*group).to_owned();
                attributes.version = (*version).to_owned();
                rest
            }
            _ => {
                attributes.verb = method.as_str().to_ascii_lowercase();
                return attributes;
            }
        };
        attributes.is_resource = true;
        attributes.parse_resource(rest, method);
        attributes
    }

    /// A query parameter's first value.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// All values of a query parameter.
    pub fn params(&self, name: &str) -> Vec<&str> {
        let values = self.query.iter().filter(|(k, _)| k == name);
        values.map(|(_, v)| v.as_str()).collect()
    }

    /// A boolean query parameter, by Go's rules of `strconv.ParseBool` as the API conversion uses
    /// them: absent, `0` and `false` are false, anything else is true.
    pub fn flag(&self, name: &str) -> bool {
        !matches!(
            self.param(name),
            None | Some("0" | "false" | "False" | "FALSE")
        )
    }

    /// `resource` or `resource/subresource`, as RBAC rules name it.
    pub fn resource_path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    fn parse_resource(&mut self, mut parts: &[&str], method: &Method) {
        // The deprecated `/watch/` and `/proxy/` prefixes.
        let mut legacy_watch = false;
        if parts.len() > 1 && parts[0] == "watch" {
            legacy_watch = true;
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].to_owned();
            // `namespaces/x/status` and `namespaces/x/finalize` are subresources of the namespace.
            if parts.len() > 2 && !matches!(parts[2], "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        self.resource = parts[0].to_owned();
        if let Some(name) = parts.get(1) {
            self.name = (*name).to_owned();
        }
        if let Some(subresource) = parts.get(2) {
            self.subresource = (*subresource).to_owned();
        }
        self.rest = parts.get(3..).map(|p| p.join("/")).unwrap_or_default();
        self.verb = self.resource_verb(method, legacy_watch);
    }

    fn resource_verb(&mut self, method: &Method, legacy_watch: bool) -> String {
        let verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let collection = self.name.is_empty();
        let verb = match verb {
            "get" if legacy_watch => "watch",
            "get" if collection && self.flag("watch") => "watch",
            "get" if collection => "list",
            "delete" if collection => "deletecollection",
            other => other,
        };
        if collection && matches!(verb, "list" | "watch" | "deletecollection") {
            let selected = self
                .param("fieldSelector")
                .and_then(selected_name)
                .map(str::to_owned);
            if let Some(name) = selected {
                self.name = name;
            }
        }
        verb.to_owned()
    }
}

/// The name a field selector pins with `metadata.name=`.
fn selected_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty()).then_some(value)
    })
}

/// Splits and decodes a query string.
pub fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, true), percent_decode(value, true))
        })
        .collect()
}

/// Percent-decoding; bad escapes stay as they are, bad UTF-8 is replaced.
pub fn percent_decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = (bytes[i] == b'%')
            .then(|| {
                text.get(i + 1..i + 3)
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            })
            .flatten();
        match (bytes[i], escape) {
            (_, Some(byte)) => {
                out.push(byte);
                i += 3;
                continue;
            }
            (b'+', None) if plus_is_space => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> Attributes {
        let (path, query) = uri
            .split_once('?')
            .map_or((uri, None), |(p, q)| (p, Some(q)));
        Attributes::parse(&method, path, query)
    }

    #[test]
    fn paths_become_attributes() {
        // method, uri, verb, group, namespace, resource, subresource, name
        let table = [
            ("GET", "/api/v1/pods", "list", "", "", "pods", "", ""),
            (
                "GET",
                "/api/v1/pods?watch=1",
                "watch",
                "",
                "",
                "pods",
                "",
                "",
            ),
            (
                "GET",
                "/api/v1/pods?watch=false",
                "list",
                "",
                "",
                "pods",
                "",
                "",
            ),
            ("GET", "/api/v1/watch/pods", "watch", "", "", "pods", "", ""),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/log",
                "get",
                "",
                "a",
                "pods",
                "log",
                "b",
            ),
            (
                "GET",
                "/api/v1/namespaces/a",
                "get",
                "",
                "a",
                "namespaces",
                "",
                "a",
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update",
                "",
                "a",
                "namespaces",
                "finalize",
                "a",
            ),
            (
                "POST",
                "/apis/apps/v1/namespaces/a/deployments",
                "create",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                "GET",
                "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
                "list",
                "",
                "",
                "nodes",
                "",
                "n1",
            ),
            (
                "GET",
                "/api/v1/namespaces//pods/",
                "list",
                "",
                "",
                "pods",
                "",
                "",
            ),
            (
                "PATCH",
                "/api/v1/nodes/n1/status",
                "patch",
                "",
                "",
                "nodes",
                "status",
                "n1",
            ),
        ];
        for (method, uri, verb, group, namespace, resource, subresource, name) in table {
            let a = parse(method.parse().unwrap(), uri);
            assert!(a.is_resource, "{uri}");
            let got = (
                a.verb.as_str(),
                a.group.as_str(),
                a.namespace.as_str(),
                a.resource.as_str(),
                a.subresource.as_str(),
                a.name.as_str(),
            );
            assert_eq!(
                got,
                (verb, group, namespace, resource, subresource, name),
                "{method} {uri}"
            );
        }
    }

    #[test]
    fn other_paths_are_not_resources() {
        for uri in [
            "/healthz",
            "/api",
            "/apis",
            "/api/v1",
            "/apis/apps",
            "/apis/apps/v1",
            "/openapi/v3/apis/apps/v1",
        ] {
            let a = parse(Method::GET, uri);
            assert!(!a.is_resource, "{uri}");
            assert_eq!(a.verb, "get");
        }
        assert_eq!(parse(Method::GET, "/a%3Cb%3E?c=d").path, "/a<b>");
    }

    #[test]
    fn queries_are_decoded() {
        let got = parse_query("a=b%20c+d&x&y=%zz");
        let want = [("a", "b c d"), ("x", ""), ("y", "%zz")];
        assert_eq!(got, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
