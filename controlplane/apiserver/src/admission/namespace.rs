//! NamespaceLifecycle: nothing is created where no namespace is or where one is ending; the
//! namespaces every cluster has stay. Also the label every namespace carries.
//!
//! Port of `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go`.

use api::{Doc, Status, status::Cause};

use super::Admission;
use crate::{
    call::Call,
    catalog::ResourceId,
    storage::{Write, WriteChange},
};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The check, and the condition that keeps it true until the write is made: else an object could be
/// created behind the back of the controller that empties the namespace.
pub fn lifecycle(admission: &Admission<'_>, doc: &Doc<'_>) -> Result<Option<Write>, Status> {
    let namespace = doc.namespace();
    if !admission.is_create() || !admission.row.namespaced {
        return Ok(None);
    }
    let namespaces = ResourceId::named("", "namespaces");
    let Some(object) = admission.call.server.cache().get(namespaces, "", namespace) else {
        return Err(Status::not_found("", "namespaces", namespace));
    };
    if !object.is_terminating() {
        return Ok(Some(Write {
            resource: namespaces,
            key: object.key.clone(),
            change: WriteChange::Check,
            expect: Some(object.revision),
        }));
    }
    let text = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let status = Status::forbidden(admission.row.group, admission.row.plural, doc.name(), &text);
    Err(status.with_cause(Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    }))
}

/// `kubernetes.io/metadata.name` (pkg/apis/core/v1/defaults.go, SetDefaults_Namespace).
pub fn label(doc: &mut Doc<'_>) {
    let name = doc.name();
    if !name.is_empty() {
        doc.set_str(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
    }
}

pub fn may_delete(call: &Call) -> Result<(), Status> {
    let name = call.attributes.name.as_str();
    if call.resource.group.is_empty()
        && call.resource.plural == "namespaces"
        && IMMORTAL.contains(&name)
    {
        return Err(Status::forbidden(
            "",
            "namespaces",
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
