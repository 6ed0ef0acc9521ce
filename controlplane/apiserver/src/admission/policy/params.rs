//! Parameters of policies: objects of the policy's kind that a binding refers to.
//!
//! Port of `CollectParams` in `k8s.io/apiserver/pkg/admission/plugin/policy/generic/policy_dispatcher.go`.

use std::sync::Arc;

use api::{Facts, Resource};

use super::{Binding, Policy};
use crate::{admission::webhook::Told, cache::Object, catalog::ResourceId};

/// The parameters of a policy by a binding: none once, where there are to be none.
pub fn of(
    told: &Told<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Vec<Option<Arc<Object>>>, String> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.param_kind, &binding.param) else {
        return Ok(vec![None]);
    };
    let row = row(api_version, kind)
        .ok_or_else(|| format!("paramKind kind `{api_version}, Kind={kind}` not known"))?;
    let id = ResourceId::named(row.storage_group, row.plural);
    let namespace = match (row.namespaced, reference.namespace.as_str()) {
        (true, "") if told.namespace.is_empty() => {
            let text = "cannot use namespaced paramRef in policy binding that matches cluster-scoped \
                        resources";
            return Err(text.into());
        }
        (true, "") => told.namespace,
        (true, namespace) => namespace,
        (false, "") => "",
        (false, _) => {
            let text = "paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
            return Err(text.into());
        }
    };
    let cache = told.call.server.cache();
    let params: Vec<Option<Arc<Object>>> = match &reference.selector {
        Some(selector) => cache
            .snapshot(id)
            .iter(namespace)
            .filter(|object| selector.matches(|key| object.label(key)))
            .map(|object| Some(object.clone()))
            .collect(),
        None => {
            let found = cache.get(id, namespace, &reference.name);
            found.into_iter().map(Some).collect()
        }
    };
    if params.is_empty() && reference.must_exist {
        let text = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Err(text.into());
    }
    Ok(params)
}

/// The row of a kind.
pub fn row(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let mut rows = Facts::get().resources.iter();
    rows.find(|row| (row.group, row.version, row.kind) == (group, version, kind))
}
