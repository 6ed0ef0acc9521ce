//! Paths and operations of resources and subresources: for each verb what a client can send and
//! gets, and by which query parameters kubectl decides what the server can do.

use api::{Facts, Resource, Subresource, Type};

use super::Format;
use super::schemas::{DELETE_OPTIONS, PATCH, STATUS, name};
use super::text::Text;

const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const BODY_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// Query parameters with their types.
const WRITE: [(&str, &str); 3] = [
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const DELETE: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// One operation.
struct Operation<'o> {
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    id: String,
    group: &'o str,
    version: &'o str,
    kind: &'o str,
    query: Vec<(&'static str, &'static str)>,
    body: Option<String>,
    answer: String,
}

/// Where a path is: its parameters.
struct Place {
    path: String,
    parameters: &'static [&'static str],
}

/// The paths of the group-versions' resources, as entries of an object.
pub fn write(out: &mut Text, facts: &'static Facts, versions: &[(&str, &str)]) {
    let resources = facts.resources.iter();
    for resource in resources.filter(|r| versions.contains(&(r.group, r.version))) {
        write_resource(out, facts, resource);
    }
}

fn write_resource(out: &mut Text, facts: &Facts, resource: &Resource) {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let plural = resource.plural;
    let collection = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let list = facts
        .kind(
            resource.group,
            resource.version,
            &format!("{}List", resource.kind),
        )
        .and_then(|kind| kind.schema.as_struct())
        .map_or_else(|| schema_name(&resource.schema), name);
    let (in_namespace, named): (&'static [_], &'static [_]) = if resource.namespaced {
        (&["namespace"], &["name", "namespace"])
    } else {
        (&[], &["name"])
    };
    let place = Place {
        path: collection.clone(),
        parameters: in_namespace,
    };
    write_path(out, &place, collection_operations(resource, &list));
    let item = format!("{collection}/{{name}}");
    let place = Place {
        path: item.clone(),
        parameters: named,
    };
    write_path(out, &place, item_operations(resource));
    if resource.namespaced && resource.has_verb("list") {
        let place = Place {
            path: format!("{root}/{plural}"),
            parameters: &[],
        };
        let mut operation = list_operation(resource, &list);
        operation.id.push_str("ForAllNamespaces");
        write_path(out, &place, vec![operation]);
    }
    for sub in &resource.subresources {
        let place = Place {
            path: format!("{item}/{}", sub.name),
            parameters: named,
        };
        write_path(out, &place, subresource_operations(resource, sub));
    }
}

fn schema_name(ty: &Type) -> String {
    ty.as_struct().map(name).unwrap_or_default()
}

fn list_operation<'r>(resource: &'r Resource, list: &str) -> Operation<'r> {
    operation(
        resource,
        ("get", "list", "list"),
        &LIST,
        None,
        list.to_owned(),
    )
}

fn collection_operations<'r>(resource: &'r Resource, list: &str) -> Vec<Operation<'r>> {
    let own = schema_name(&resource.schema);
    let mut operations = Vec::new();
    if resource.has_verb("list") {
        operations.push(list_operation(resource, list));
    }
    if resource.has_verb("create") {
        let how = ("post", "post", "create");
        operations.push(operation(resource, how, &WRITE, Some(own.clone()), own));
    }
    if resource.has_verb("deletecollection") {
        let how = ("delete", "deletecollection", "deleteCollection");
        let options = Some(DELETE_OPTIONS.to_owned());
        let mut delete = operation(resource, how, &DELETE, options, STATUS.to_owned());
        delete.query.extend(
            LIST.iter()
                .filter(|(name, _)| !matches!(*name, "watch" | "allowWatchBookmarks")),
        );
        operations.push(delete);
    }
    operations
}

fn item_operations(resource: &Resource) -> Vec<Operation<'_>> {
    let own = schema_name(&resource.schema);
    let mut operations = Vec::new();
    if resource.has_verb("get") {
        operations.push(operation(
            resource,
            ("get", "get", "read"),
            &[],
            None,
            own.clone(),
        ));
    }
    if resource.has_verb("update") {
        let how = ("put", "put", "replace");
        operations.push(operation(
            resource,
            how,
            &WRITE,
            Some(own.clone()),
            own.clone(),
        ));
    }
    if resource.has_verb("patch") {
        let how = ("patch", "patch", "patch");
        let mut patch = operation(resource, how, &WRITE, Some(PATCH.to_owned()), own.clone());
        patch.query.push(("force", "boolean"));
        operations.push(patch);
    }
    if resource.has_verb("delete") {
        let how = ("delete", "delete", "delete");
        let options = Some(DELETE_OPTIONS.to_owned());
        let answer = if resource.strategy.return_deleted {
            own
        } else {
            STATUS.to_owned()
        };
        operations.push(operation(resource, how, &DELETE, options, answer));
    }
    operations
}

fn subresource_operations<'r>(resource: &'r Resource, sub: &'r Subresource) -> Vec<Operation<'r>> {
    let own = sub.schema().map(schema_name).unwrap_or_default();
    // Streams and proxies answer with text.
    let text = matches!(
        sub.name,
        "log" | "exec" | "attach" | "portforward" | "proxy"
    );
    let answer = if text { String::new() } else { own.clone() };
    sub.verbs
        .iter()
        .filter_map(|verb| {
            let (how, query, body): (_, &[_], _) = match *verb {
                "get" => (("get", "get", "read"), &[], None),
                "create" if text => (("post", "connect", "connectPost"), &[], None),
                "create" => (("post", "post", "create"), &WRITE, Some(own.clone())),
                "update" if text => (("put", "connect", "connectPut"), &[], None),
                "update" => (("put", "put", "replace"), &WRITE, Some(own.clone())),
                "patch" if text => (("patch", "connect", "connectPatch"), &[], None),
                "patch" => (("patch", "patch", "patch"), &WRITE, Some(PATCH.to_owned())),
                "delete" => (("delete", "connect", "connectDelete"), &[], None),
                _ => return None,
            };
            let mut operation = operation(resource, how, query, body, answer.clone());
            operation.id.push_str(&capitalized(sub.name));
            (operation.group, operation.version, operation.kind) =
                (sub.group, sub.version, sub.kind);
            Some(operation)
        })
        .collect()
}

fn operation<'r>(
    resource: &'r Resource,
    (method, action, prefix): (&'static str, &'static str, &str),
    query: &[(&'static str, &'static str)],
    body: Option<String>,
    answer: String,
) -> Operation<'r> {
    let group = resource
        .group
        .split('.')
        .next()
        .filter(|group| !group.is_empty());
    let id = format!(
        "{prefix}{}{}{}{}",
        capitalized(group.unwrap_or("core")),
        capitalized(resource.version),
        if resource.namespaced {
            "Namespaced"
        } else {
            ""
        },
        resource.kind
    );
    Operation {
        method,
        action,
        id,
        group: resource.group,
        version: resource.version,
        kind: resource.kind,
        query: query.to_vec(),
        body,
        answer,
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn write_path(out: &mut Text, place: &Place, operations: Vec<Operation<'_>>) {
    if operations.is_empty() {
        return;
    }
    out.key(&place.path);
    out.raw("{");
    for operation in &operations {
        out.key(operation.method);
        write_operation(out, operation);
    }
    if !place.parameters.is_empty() {
        out.key("parameters");
        out.raw("[");
        for parameter in place.parameters {
            write_parameter(out, parameter, "path", "string");
        }
        out.raw("]");
    }
    out.raw("}");
}

fn write_operation(out: &mut Text, operation: &Operation<'_>) {
    out.raw("{");
    out.entry("operationId", &operation.id);
    let v2 = out.format == Format::V2;
    let body_types: &[&str] = if operation.action == "patch" {
        &PATCH_TYPES
    } else {
        &BODY_TYPES
    };
    if v2 {
        out.key("consumes");
        out.strings(if operation.body.is_some() {
            body_types
        } else {
            &["*/*"]
        });
        out.key("produces");
        out.strings(&BODY_TYPES);
    }
    out.key("parameters");
    out.raw("[");
    if let Some(body) = operation.body.as_ref().filter(|_| v2) {
        out.raw(r#"{"name":"body","in":"body","required":true,"schema":{"#);
        out.reference(body);
        out.raw("}}");
    }
    for (name, ty) in &operation.query {
        write_parameter(out, name, "query", ty);
    }
    out.raw("]");
    if let Some(body) = operation.body.as_ref().filter(|_| !v2) {
        out.key("requestBody");
        out.raw(r#"{"content":"#);
        write_content(out, body_types, body);
        out.raw("}");
    }
    out.key("responses");
    out.raw(r#"{"200":{"description":"OK""#);
    if !operation.answer.is_empty() {
        if v2 {
            out.key("schema");
            out.raw("{");
            out.reference(&operation.answer);
            out.raw("}");
        } else {
            out.key("content");
            write_content(out, &BODY_TYPES, &operation.answer);
        }
    }
    out.raw("}}");
    out.entry("x-kubernetes-action", operation.action);
    out.key("x-kubernetes-group-version-kind");
    out.group_version_kind(operation.group, operation.version, operation.kind);
    out.raw("}");
}

fn write_content(out: &mut Text, media_types: &[&str], schema: &str) {
    out.raw("{");
    for media_type in media_types {
        out.key(media_type);
        out.raw(r#"{"schema":{"#);
        out.reference(schema);
        out.raw("}}");
    }
    out.raw("}");
}

fn write_parameter(out: &mut Text, name: &str, place: &str, ty: &str) {
    out.comma();
    out.raw("{");
    out.entry("name", name);
    out.entry("in", place);
    if place == "path" {
        out.key("required");
        out.raw("true");
    }
    match out.format {
        Format::V2 => out.entry("type", ty),
        Format::V3 => {
            out.key("schema");
            out.raw("{");
            out.entry("type", ty);
            out.raw("}");
        }
    }
    out.raw("}");
}
