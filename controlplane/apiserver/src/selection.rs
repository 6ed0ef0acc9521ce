//! Which objects a list or watch is about: label and field selectors against stored bytes.

use api::{
    Resource, Status,
    selector::{FieldSelector, LabelSelector},
};

use crate::{
    attributes::Attributes,
    cache::{Object, Scope},
    convert,
};

/// Label and field selector of a request.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

// === impl Selection ===

impl Selection {
    /// Parses and checks `labelSelector` and `fieldSelector`.
    pub fn parse(resource: &Resource, attributes: &Attributes) -> Result<Self, Status> {
        let labels = LabelSelector::parse(attributes.param("labelSelector").unwrap_or_default())
            .map_err(|e| Status::bad_request(e.to_string()))?;
        let mut fields =
            FieldSelector::parse(attributes.param("fieldSelector").unwrap_or_default())
                .map_err(|e| Status::bad_request(e.to_string()))?;
        for term in &mut fields.terms {
            check_field(resource, &term.field)?;
            if let Some(stored) = convert::stored_path(resource, &term.field) {
                term.field = stored;
            }
        }
        Ok(Self { labels, fields })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub fn matches(&self, object: &Object) -> bool {
        self.matches_labels(object) && self.matches_fields(object)
    }

    /// The narrowest index that covers everything selected.
    pub fn scope(&self, resource: &Resource, namespace: &str) -> Scope {
        let name = self
            .fields
            .required_value("metadata.name")
            .filter(|n| !n.is_empty());
        if let (Some(name), true) = (name, !namespace.is_empty() || !resource.namespaced) {
            return Scope::Name(namespace.to_owned(), name.to_owned());
        }
        let is_pod = resource.group.is_empty() && resource.plural == "pods";
        let node = self
            .fields
            .required_value("spec.nodeName")
            .filter(|n| is_pod && !n.is_empty());
        match node {
            Some(node) => Scope::Node(node.to_owned()),
            None if namespace.is_empty() => Scope::All,
            None => Scope::Namespace(namespace.to_owned()),
        }
    }

    fn matches_labels(&self, object: &Object) -> bool {
        if self.labels.is_everything() {
            return true;
        }
        self.labels.matches(|key| object.label(key))
    }

    fn matches_fields(&self, object: &Object) -> bool {
        self.fields.terms.iter().all(|term| {
            let value = field_value(object, &term.field);
            (value == term.value) == term.equal
        })
    }
}

fn check_field(resource: &Resource, field: &str) -> Result<(), Status> {
    let known = field == "metadata.name"
        || (field == "metadata.namespace" && resource.namespaced)
        || resource.selectable_fields.contains(&field);
    if known {
        return Ok(());
    }
    // Kinds without fields of their own answer in other words (DefaultMetaV1FieldSelectorConversion of
    // k8s.io/apimachinery/pkg/runtime/conversion.go).
    Err(Status::bad_request(
        if resource.selectable_fields.is_empty() {
            format!(
                "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                api::status::quote(field)
            )
        } else {
            format!("field label not supported: {field}")
        },
    ))
}

/// A field as the selector sees it; absent fields have their Go zero value.
fn field_value(object: &Object, field: &str) -> String {
    match field {
        "metadata.name" => return object.name().to_owned(),
        "metadata.namespace" => return object.namespace().to_owned(),
        _ => {}
    }
    // Labels that are not paths of the stored object (registry strategies' SelectableFields).
    let path = match field {
        "source"
            if object
                .field("reportingComponent")
                .is_some_and(|v| v != "\"\"") =>
        {
            "reportingComponent"
        }
        "source" => "source.component",
        "status.successful" => "status.succeeded",
        other => other,
    };
    match object.field(path) {
        Some(raw) if raw.starts_with('"') => {
            serde_json::from_str(raw).unwrap_or_else(|_| raw.trim_matches('"').to_owned())
        }
        Some("null") | None => zero_value(field).to_owned(),
        Some(raw) => raw.to_owned(),
    }
}

fn zero_value(field: &str) -> &'static str {
    match field {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}
