//! Nobody grants what they do not hold: checks on writes of roles and bindings.
//!
//! Port of `pkg/registry/rbac/*/policybased/storage.go` and `pkg/registry/rbac/escalation_check.go`.

use std::sync::{RwLock, RwLockReadGuard};

use api::Status;
use serde::Deserialize;
use serde_json::Value;

use super::lenient;
use super::rbac::{RbacIndex, RoleRef};
use super::rule::{PolicyRule, describe, uncovered};
use crate::attributes::Attributes;
use crate::identity::{GROUP_MASTERS, UserInfo};

pub const GROUP: &str = "rbac.authorization.k8s.io";

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RoleObject {
    rules: Option<Vec<PolicyRule>>,
    aggregation_rule: Option<Value>,
    role_ref: RoleRef,
}

/// Checks a write: `new` and `old` are the object's JSON; `may` asks the authorizers about further
/// attributes of the same user (which reads the index, so it is never locked meanwhile).
pub fn check(
    index: &RwLock<RbacIndex>,
    user: &UserInfo,
    asked: &Attributes,
    (new, old): (&[u8], Option<&[u8]>),
    may: impl Fn(&Attributes) -> bool,
) -> Result<(), Status> {
    if user.in_group(GROUP_MASTERS) || only_collected(new, old) {
        return Ok(());
    }
    let object: RoleObject = lenient::from_slice(new).unwrap_or_default();
    let forbidden = |why: String| {
        Err(Status::forbidden(
            GROUP,
            &asked.resource,
            &name_of(asked, new),
            &why,
        ))
    };
    let rules = match asked.resource.as_str() {
        "roles" | "clusterroles" => {
            if may(&further(asked, "escalate", &asked.resource, &asked.name)) {
                return Ok(());
            }
            object.rules.unwrap_or_default()
        }
        _ => {
            let role = &object.role_ref;
            let plural = if role.kind == "ClusterRole" {
                "clusterroles"
            } else {
                "roles"
            };
            if may(&further(asked, "bind", plural, &role.name)) {
                return Ok(());
            }
            match read(index).referenced(role, &asked.namespace) {
                Some(rules) => rules.to_vec(),
                None => return Err(Status::not_found(GROUP, plural, &role.name)),
            }
        }
    };
    let own = read(index).rules_for(user, &asked.namespace);
    let missing = uncovered(&own, &rules);
    if !missing.is_empty() {
        return forbidden(format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.username,
            user.groups,
            describe(missing)
        ));
    }
    let aggregates = |rule: &Option<Value>| rule.as_ref().is_some_and(|rule| !rule.is_null());
    let before: RoleObject = old
        .and_then(|old| lenient::from_slice(old).ok())
        .unwrap_or_default();
    if (aggregates(&object.aggregation_rule) || aggregates(&before.aggregation_rule))
        && !uncovered(&own, &PolicyRule::full_authority()).is_empty()
    {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return forbidden(why.to_owned());
    }
    Ok(())
}

/// The question whether the same user may do something else with roles where this is asked.
fn further(asked: &Attributes, verb: &str, resource: &str, name: &str) -> Attributes {
    Attributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        namespace: asked.namespace.clone(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

fn read(index: &RwLock<RbacIndex>) -> RwLockReadGuard<'_, RbacIndex> {
    index.read().expect("no code panics under this lock")
}

/// Whether only fields changed that let the garbage collector do its work.
fn only_collected(new: &[u8], old: Option<&[u8]>) -> bool {
    let Some(old) = old else { return false };
    let without = |bytes: &[u8]| -> Option<Value> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        let metadata = value.get_mut("metadata")?.as_object_mut()?;
        for field in [
            "ownerReferences",
            "finalizers",
            "resourceVersion",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        Some(value)
    };
    matches!((without(new), without(old)), (Some(new), Some(old)) if new == old)
}

fn name_of(asked: &Attributes, new: &[u8]) -> String {
    if !asked.name.is_empty() {
        return asked.name.clone();
    }
    let value: Value = serde_json::from_slice(new).unwrap_or_default();
    value["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
