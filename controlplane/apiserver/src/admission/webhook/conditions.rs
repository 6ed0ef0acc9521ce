//! Match conditions: expressions that say of a request that matches otherwise whether a webhook is asked.
//!
//! Port of `k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions/matcher.go`.

use std::sync::{Arc, OnceLock};

use api::{
    Resource, Status, Value,
    expression::{
        Expression, Kind, Scope,
        authorizer::{self, Access, Authorize, Decision, Subject},
        from_json,
        policy::REQUEST_RESOURCE,
    },
    kinds::WEBHOOK_CONDITIONS,
};

use super::{Told, review};
use crate::{
    attributes::Attributes,
    auth::{self, Auth},
    identity::UserInfo,
};

/// The conditions of one webhook, compiled when they are first needed.
pub struct Conditions {
    sources: Vec<String>,
    compiled: OnceLock<Result<Vec<Expression>, String>>,
}

// === impl Conditions ===

impl Conditions {
    /// Reads a webhook's `matchConditions`.
    pub fn read(hook: &Value<'_>) -> Self {
        let conditions = hook.list_of("matchConditions").iter();
        let sources = conditions.filter_map(|condition| condition.str_of("expression"));
        Self {
            sources: sources.map(|source| source.trim().to_owned()).collect(),
            compiled: OnceLock::new(),
        }
    }

    /// Whether all hold of a request as it is asked about in `resource`'s version. One that does not is
    /// enough, whatever the others come to; errors are decided by the failure policy.
    pub fn hold(
        &self,
        told: &Told<'_>,
        resource: &Resource,
        object: Option<&[u8]>,
        fails_open: bool,
    ) -> Result<bool, Status> {
        if self.sources.is_empty() {
            return Ok(true);
        }
        let scope = scope(told, resource, object)?;
        let compiled = self.compiled.get_or_init(|| {
            let compile = |source: &String| {
                Expression::compile_to(source, &WEBHOOK_CONDITIONS, &[Kind::Bool])
            };
            self.sources.iter().map(compile).collect()
        });
        let holds = compiled.as_ref().map_err(String::clone);
        match holds.and_then(|conditions| Expression::all_hold(conditions, &scope)) {
            Ok(holds) => Ok(holds),
            Err(_) if fails_open => Ok(false),
            Err(why) => Err(forbidden(told, &why)),
        }
    }
}

fn forbidden(told: &Told<'_>, why: &str) -> Status {
    let Resource { group, plural, .. } = told.resource;
    Status::forbidden(group, plural, told.name, why)
}

/// What the names in the conditions stand for.
fn scope(told: &Told<'_>, resource: &Resource, object: Option<&[u8]>) -> Result<Scope, Status> {
    let json = |json: Option<&[u8]>| match json {
        Some(json) => serde_json::from_slice(json).map_err(Status::internal),
        None => Ok(serde_json::Value::Null),
    };
    let mut scope = Scope::new();
    scope.bind("object", from_json(&json(object)?));
    scope.bind("oldObject", from_json(&json(told.old)?));
    scope.bind("request", from_json(&review::request(told, resource)?));
    scope.bind("namespaceObject", from_json(&serde_json::Value::Null));
    let authorize = Arc::new(Asking::new(told));
    let resource = authorizer::resource(authorize.clone(), told.access());
    scope.bind(REQUEST_RESOURCE, resource);
    scope.bind("authorizer", authorizer::authorizer(authorize));
    Ok(scope)
}

/// Answers what conditions ask of authorization.
pub struct Asking {
    auth: Auth,
    user: UserInfo,
}

// === impl Asking ===

impl Asking {
    pub fn new(told: &Told<'_>) -> Self {
        Self {
            auth: told.call.server.auth().clone(),
            user: told.call.user.clone(),
        }
    }
}

impl Authorize for Asking {
    fn decide(&self, subject: &Subject, access: &Access) -> Decision {
        let user = match subject {
            Subject::Requester => self.user.clone(),
            Subject::ServiceAccount { namespace, name } => {
                UserInfo::service_account(namespace, name)
            }
        };
        let attributes = Attributes {
            verb: access.verb.clone(),
            is_resource: access.path.is_none(),
            path: access.path.clone().unwrap_or_default(),
            group: access.group.clone(),
            resource: access.resource.clone(),
            subresource: access.subresource.clone(),
            namespace: access.namespace.clone(),
            name: access.name.clone(),
            ..Attributes::default()
        };
        let (allowed, reason) = match self.auth.authorize(&user, &attributes) {
            auth::Decision::Allow => (true, String::new()),
            auth::Decision::Deny(reason) => (false, reason),
        };
        Decision {
            allowed,
            reason,
            error: String::new(),
        }
    }
}
