//! Who writes a policy or a binding must be able to read the parameters it names: its expressions can tell
//! what is in them.
//!
//! Port of `pkg/registry/admissionregistration/*/authz.go`.

use api::{Doc, FieldError, Format, Value};
use bumpalo::Bump;

use super::{GROUP, MUTATING, VALIDATING, params};
use crate::{
    admission::Admission, attributes::Attributes, auth::Decision, catalog::ResourceId,
    identity::GROUP_MASTERS,
};

/// Why the user of a write may not refer to the parameters.
pub fn check(admission: &Admission<'_>, doc: &Doc<'_>) -> Option<FieldError> {
    let row = admission.row;
    let [policies, _] = *[VALIDATING, MUTATING]
        .iter()
        .find(|pair| row.group == GROUP && pair.contains(&row.plural))?;
    if admission.call.user.in_group(GROUP_MASTERS) {
        return None;
    }
    let is_policy = row.plural == policies;
    let field = if is_policy { "paramKind" } else { "paramRef" };
    let named = doc.get(&["spec", field])?;
    let is_same = |path: &[&str]| {
        let old = admission.old.and_then(|(_, old)| old.get(path));
        old == doc.get(path)
    };
    if is_same(&["spec", field]) && (is_policy || is_same(&["spec", "policyName"])) {
        return None;
    }
    let why = match is_policy {
        true => of_policy(admission, named),
        false => of_binding(admission, doc, named, policies),
    };
    why.map(|why| FieldError::forbidden(format!("spec.{field}"), why))
}

fn of_policy(admission: &Admission<'_>, kind: &Value<'_>) -> Option<String> {
    let attributes = Attributes {
        verb: "get".into(),
        name: "*".into(),
        namespace: "*".into(),
        ..resource(Some(kind))
    };
    let text = |field| kind.str_of(field).unwrap_or_default();
    (!may(admission, &attributes)).then(|| {
        format!(
            "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, \
             apiVersion={})",
            admission.call.user.username,
            text("kind"),
            text("apiVersion")
        )
    })
}

fn of_binding(
    admission: &Admission<'_>,
    doc: &Doc<'_>,
    reference: &Value<'_>,
    policies: &'static str,
) -> Option<String> {
    let name = doc.str_at(&["spec", "policyName"]).unwrap_or_default();
    let cache = admission.call.server.cache();
    let policy = cache.get(ResourceId::named(GROUP, policies), "", name);
    let arena = Bump::new();
    let kind = policy.as_ref().and_then(|policy| {
        let bytes = arena.alloc_slice_copy(&policy.bytes);
        let value = api::codec::parse(Format::Json, bytes, &arena).ok()?;
        value.at(&["spec", "paramKind"]).cloned()
    });
    let text = |field| reference.str_of(field).unwrap_or_default();
    let verb = match text("name") {
        "" => "list",
        _ => "get",
    };
    let attributes = Attributes {
        verb: verb.into(),
        name: text("name").into(),
        namespace: text("namespace").into(),
        ..resource(kind.as_ref())
    };
    if may(admission, &attributes) {
        return None;
    }
    let user = &admission.call.user.username;
    Some(match policy {
        Some(_) => format!(
            "user {user} does not have \"{verb}\" permission on the object referenced by paramRef"
        ),
        None => format!(
            "unable to get policy {name} to determine minimum required permissions and user {user} does \
             not have \"{verb}\" permission for all groups, versions and resources"
        ),
    })
}

/// What is to be read: everything, when the kind is not known.
fn resource(kind: Option<&Value<'_>>) -> Attributes {
    let text = |field| kind.and_then(|kind| kind.str_of(field)).unwrap_or_default();
    let api_version = text("apiVersion");
    let row = params::row(api_version, text("kind"));
    let (group, version) = match (kind, api_version.split_once('/')) {
        (None, _) => ("*", "*"),
        (Some(_), Some(both)) => both,
        (Some(_), None) => ("", api_version),
    };
    Attributes {
        is_resource: true,
        group: group.into(),
        version: version.into(),
        resource: row.map_or("*", |row| row.plural).into(),
        ..Attributes::default()
    }
}

fn may(admission: &Admission<'_>, attributes: &Attributes) -> bool {
    let call = admission.call;
    matches!(
        call.server.auth().authorize(&call.user, attributes),
        Decision::Allow
    )
}
