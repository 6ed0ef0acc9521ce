//! Objects as rows of a `meta.k8s.io/v1 Table`: the columns are facts, the cells code per kind.
//!
//! Port of `pkg/printers/tablegenerator.go` and `internalversion/printers.go`. Kinds whose cells are
//! not ported yet get their name and age.

mod cells;
mod human;
mod pod;
mod workloads;

use api::{Column, Resource};
use bytes::Bytes;
use serde_json::Value;

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
    pub resource: &'static Resource,
    /// Complete objects as JSON, `kind`, `apiVersion` and resourceVersion included.
    pub objects: &'a [Bytes],
    pub include: IncludeObject,
    /// Without column definitions: every event of a table watch but the first.
    pub no_headers: bool,
    /// `metadata` of the list as JSON (`{"resourceVersion":"5"}`).
    pub list_meta: &'a str,
    /// `meta.k8s.io/v1`, or the beta that clients still ask for.
    pub api_version: &'static str,
    /// Unix seconds, for ages.
    pub now: i64,
}

/// What the cells of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// All columns of the facts.
    Facts,
    /// Only these columns of the facts: name and, where there is one, age.
    NameAndAge { age: bool },
    /// Name and time of creation: the kind has no columns (upstream: rest.DefaultTableConvertor).
    Created,
}

/// The Table as JSON.
pub fn render(input: &TableInput<'_>) -> Vec<u8> {
    let layout = layout(input.resource);
    let mut out = format!(
        r#"{{"kind":"Table","apiVersion":"{}","metadata":{},"columnDefinitions":["#,
        input.api_version, input.list_meta
    );
    if !input.no_headers {
        write_columns(&mut out, input.resource, layout);
    }
    out.push_str(r#"],"rows":["#);
    for (index, bytes) in input.objects.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_row(&mut out, input, layout, bytes);
    }
    out.push_str("]}");
    out.into_bytes()
}

fn layout(resource: &Resource) -> Layout {
    if resource.columns.is_empty() {
        Layout::Created
    } else if cells::of(resource).is_some() {
        Layout::Facts
    } else {
        Layout::NameAndAge {
            age: resource.columns.iter().any(|column| column.name == "Age"),
        }
    }
}

fn write_columns(out: &mut String, resource: &Resource, layout: Layout) {
    let created = [
        Column {
            name: "Name",
            ty: "string",
            format: "name",
            priority: 0,
        },
        Column {
            name: "Created At",
            ty: "date",
            format: "",
            priority: 0,
        },
    ];
    let columns: Vec<&Column> = match layout {
        Layout::Facts => resource.columns.iter().collect(),
        Layout::NameAndAge { .. } => resource
            .columns
            .iter()
            .filter(|column| matches!(column.name, "Name" | "Age"))
            .collect(),
        Layout::Created => created.iter().collect(),
    };
    for (index, column) in columns.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let Column {
            name,
            ty,
            format,
            priority,
        } = column;
        out.push_str(&format!(
            r#"{{"name":"{name}","type":"{ty}","format":"{format}","description":"","priority":{priority}}}"#
        ));
    }
}

fn write_row(out: &mut String, input: &TableInput<'_>, layout: Layout, bytes: &Bytes) {
    // Objects of the cache are JSON; one that is not would be an empty row rather than no answer.
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let name = object["metadata"]["name"].clone();
    let created = &object["metadata"]["creationTimestamp"];
    let cells = match (layout, cells::of(input.resource)) {
        (Layout::Facts, Some(cells)) => cells(&object, input.now),
        (Layout::NameAndAge { age: true }, _) => vec![name, human::age(created, input.now)],
        (Layout::NameAndAge { age: false }, _) => vec![name],
        (Layout::Created | Layout::Facts, _) => vec![name, created.clone()],
    };
    out.push_str(r#"{"cells":"#);
    out.push_str(&Value::Array(cells).to_string());
    if let Some(condition) = pod::row_condition(input.resource, &object) {
        out.push_str(r#","conditions":["#);
        out.push_str(&condition.to_string());
        out.push(']');
    }
    match input.include {
        IncludeObject::None => out.push_str(r#","object":null"#),
        IncludeObject::Metadata => {
            out.push_str(&format!(
                r#","object":{{"kind":"PartialObjectMetadata","apiVersion":"{}","metadata":"#,
                input.api_version
            ));
            out.push_str(&object["metadata"].to_string());
            out.push('}');
        }
        IncludeObject::Object => {
            out.push_str(r#","object":"#);
            out.push_str(&String::from_utf8_lossy(bytes));
        }
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use api::Facts;
    use serde_json::json;

    use super::*;

    /// 2024-01-01T00:00:00Z.
    const NOW: i64 = 1_704_067_200;

    fn table(group: &str, plural: &str, object: Value) -> Value {
        let resource = Facts::get().resource(group, "v1", plural).unwrap();
        let input = TableInput {
            resource,
            objects: &[Bytes::from(object.to_string())],
            include: IncludeObject::None,
            no_headers: false,
            list_meta: "{}",
            api_version: "meta.k8s.io/v1",
            now: NOW,
        };
        serde_json::from_slice(&render(&input)).unwrap()
    }

    fn cells(group: &str, plural: &str, object: Value) -> Value {
        table(group, plural, object)["rows"][0]["cells"].clone()
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for resource in &Facts::get().resources {
            let object =
                json!({"metadata": {"name": "x", "creationTimestamp": "2023-12-31T23:00:00Z"}});
            let input = TableInput {
                resource,
                objects: &[Bytes::from(object.to_string())],
                include: IncludeObject::Metadata,
                no_headers: false,
                list_meta: "{}",
                api_version: "meta.k8s.io/v1",
                now: NOW,
            };
            let table: Value = serde_json::from_slice(&render(&input)).unwrap();
            let columns = table["columnDefinitions"].as_array().unwrap().len();
            let cells = table["rows"][0]["cells"].as_array().unwrap();
            assert_eq!(
                columns,
                cells.len(),
                "{} {}",
                resource.group,
                resource.plural
            );
        }
    }

    #[test]
    fn a_deployment_shows_its_replicas() {
        let object = json!({
            "metadata": {"name": "web", "creationTimestamp": "2023-12-31T23:57:00Z"},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}},
            },
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
        });
        let expected = json!(["web", "2/3", 3, 2, "3m", "c", "i:1", "app=web"]);
        assert_eq!(cells("apps", "deployments", object), expected);
    }

    #[test]
    fn a_node_shows_roles_and_readiness() {
        let object = json!({
            "metadata": {
                "name": "n1",
                "creationTimestamp": "2023-12-31T23:59:59Z",
                "labels": {"node-role.kubernetes.io/control-plane": ""},
            },
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "False"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.37.0", "osImage": "Debian", "kernelVersion": "6.18",
                    "architecture": "amd64", "containerRuntimeVersion": "containerd://2"},
            },
        });
        let expected = json!([
            "n1",
            "NotReady,SchedulingDisabled",
            "control-plane",
            "1s",
            "v1.37.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.18 (amd64)",
            "containerd://2"
        ]);
        assert_eq!(cells("", "nodes", object), expected);
    }

    #[test]
    fn a_service_shows_addresses_and_ports() {
        let object = json!({
            "metadata": {"name": "web", "creationTimestamp": "2023-12-30T00:00:00Z"},
            "spec": {"type": "NodePort", "clusterIPs": ["10.96.0.5"], "selector": {"app": "web"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]},
        });
        let expected = json!([
            "web",
            "NodePort",
            "10.96.0.5",
            "<none>",
            "80:30080/TCP",
            "2d",
            "app=web"
        ]);
        assert_eq!(cells("", "services", object), expected);
    }

    #[test]
    fn roles_show_when_they_were_created() {
        let object =
            json!({"metadata": {"name": "r", "creationTimestamp": "2023-12-30T00:00:00Z"}});
        let table = table("rbac.authorization.k8s.io", "clusterroles", object);
        assert_eq!(table["columnDefinitions"][1]["name"], "Created At");
        assert_eq!(
            table["rows"][0]["cells"],
            json!(["r", "2023-12-30T00:00:00Z"])
        );
    }
}
