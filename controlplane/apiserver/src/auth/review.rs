//! Access and token reviews: the questions about identities that are asked as objects.
//!
//! Ports of `pkg/registry/authorization/*` and `pkg/registry/authentication/*`. Each takes the body
//! as JSON and answers it with `status` filled in.

use std::collections::BTreeMap;

use api::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::lenient;
use super::rule::PolicyRule;
use crate::attributes::Attributes;
use crate::identity::UserInfo;

/// What an authorizer says, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct AccessSpec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NonResourceAttributes {
    path: String,
    verb: String,
}

type Object = Map<String, Value>;

/// Answers SubjectAccessReview, LocalSubjectAccessReview and SelfSubjectAccessReview (for these
/// `own` is whom they ask about).
pub fn access(
    kind: &str,
    body: &[u8],
    namespace: &str,
    own: Option<&UserInfo>,
    decide: impl Fn(&UserInfo, &Attributes) -> Verdict,
) -> Result<Vec<u8>, Status> {
    let (object, spec): (Object, AccessSpec) = parse(body)?;
    let invalid = |field: &str, detail: &str| {
        let error = api::FieldError::invalid_raw(field, "{}", detail);
        Status::invalid("authorization.k8s.io", kind, "", &[error])
    };
    let user = match own {
        Some(own) => own.clone(),
        None if spec.user.is_empty() && spec.groups.is_empty() => {
            return Err(invalid(
                "spec.user",
                "at least one of user or group must be specified",
            ));
        }
        None => UserInfo {
            username: spec.user,
            uid: spec.uid,
            groups: spec.groups,
            extra: spec.extra,
        },
    };
    let attributes = match (spec.resource_attributes, spec.non_resource_attributes) {
        (Some(resource), None) => resource.attributes(),
        (None, Some(other)) => other.attributes(),
        (Some(_), Some(_)) => {
            return Err(invalid(
                "spec.nonResourceAttributes",
                "cannot be specified in combination with resourceAttributes",
            ));
        }
        (None, None) => {
            return Err(invalid(
                "spec.resourceAttributes",
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    if !namespace.is_empty() && attributes.namespace != namespace {
        let text = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
        return Err(Status::bad_request(text));
    }
    let verdict = decide(&user, &attributes);
    let mut status = json!({"allowed": verdict.allowed});
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.into();
    }
    finish(object, status)
}

/// Answers SelfSubjectRulesReview from the rules that apply in `spec.namespace`.
pub fn rules(
    body: &[u8],
    rules_for: impl Fn(&str) -> (Vec<PolicyRule>, bool),
) -> Result<Vec<u8>, Status> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Spec {
        namespace: String,
    }
    let (object, spec): (Object, Spec) = parse(body)?;
    if spec.namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (rules, incomplete) = rules_for(&spec.namespace);
    let (mut resource, mut other) = (Vec::new(), Vec::new());
    for rule in rules {
        let PolicyRule {
            verbs,
            api_groups,
            resources,
            resource_names,
            non_resource_urls,
        } = rule;
        if !resources.is_empty() {
            let mut entry =
                json!({"verbs": verbs, "apiGroups": api_groups, "resources": resources});
            if !resource_names.is_empty() {
                entry["resourceNames"] = resource_names.into();
            }
            resource.push(entry);
        }
        if !non_resource_urls.is_empty() {
            other.push(json!({"verbs": verbs, "nonResourceURLs": non_resource_urls}));
        }
    }
    let status =
        json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": incomplete});
    finish(object, status)
}

/// Answers SelfSubjectReview.
pub fn who_am_i(body: &[u8], user: &UserInfo) -> Result<Vec<u8>, Status> {
    let (object, _): (Object, Value) = parse(body)?;
    finish(object, json!({"userInfo": user_json(user)}))
}

/// Answers TokenReview; `authenticate` gets the token and the audiences it must have (none: the
/// server's own).
pub fn token(
    body: &[u8],
    authenticate: impl Fn(&str, &[String]) -> Result<(UserInfo, Vec<String>), String>,
) -> Result<Vec<u8>, Status> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Spec {
        token: String,
        audiences: Vec<String>,
    }
    let (object, spec): (Object, Spec) = parse(body)?;
    if spec.token.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let status = match authenticate(&spec.token, &spec.audiences) {
        Ok((user, audiences)) => json!({
            "authenticated": true,
            "user": user_json(&user),
            "audiences": audiences,
        }),
        Err(error) => json!({"user": {}, "error": error}),
    };
    finish(object, status)
}

fn parse<T: DeserializeOwned + Default>(body: &[u8]) -> Result<(Object, T), Status> {
    let malformed = |e: serde_json::Error| Status::bad_request(e.to_string());
    let object: Object = serde_json::from_slice(body).map_err(malformed)?;
    let spec = match object.get("spec") {
        Some(spec) if !spec.is_null() => lenient::from_value(spec.clone()).map_err(malformed)?,
        _ => T::default(),
    };
    Ok((object, spec))
}

fn finish(mut object: Object, status: Value) -> Result<Vec<u8>, Status> {
    object.insert("status".into(), status);
    serde_json::to_vec(&object).map_err(Status::internal)
}

fn user_json(user: &UserInfo) -> Value {
    let UserInfo {
        username,
        uid,
        groups,
        extra,
    } = user;
    let mut json = json!({"username": username, "groups": groups});
    if !uid.is_empty() {
        json["uid"] = uid.clone().into();
    }
    if !extra.is_empty() {
        json["extra"] = json!(extra);
    }
    json
}

// === impl ResourceAttributes ===

impl ResourceAttributes {
    fn attributes(self) -> Attributes {
        let Self {
            namespace,
            verb,
            group,
            version,
            resource,
            subresource,
            name,
        } = self;
        Attributes {
            verb,
            is_resource: true,
            group,
            version,
            namespace,
            resource,
            subresource,
            name,
            ..Attributes::default()
        }
    }
}

// === impl NonResourceAttributes ===

impl NonResourceAttributes {
    fn attributes(self) -> Attributes {
        Attributes {
            verb: self.verb,
            path: self.path,
            ..Attributes::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yes(_: &UserInfo, _: &Attributes) -> Verdict {
        Verdict {
            allowed: true,
            reason: "because".into(),
        }
    }

    #[test]
    fn a_review_asks_about_the_user_it_names() {
        let body = br#"{"kind":"SubjectAccessReview","spec":{"user":"jane","groups":["devs"],
            "resourceAttributes":{"verb":"get","resource":"pods","namespace":"a"}}}"#;
        let answer = access("SubjectAccessReview", body, "", None, |user, asked| {
            assert_eq!(
                (user.username.as_str(), asked.resource.as_str()),
                ("jane", "pods")
            );
            yes(user, asked)
        });
        let answer: Value = serde_json::from_slice(&answer.unwrap()).unwrap();
        assert_eq!(
            answer["status"],
            json!({"allowed": true, "reason": "because"})
        );
        assert_eq!(answer["spec"]["user"], "jane");
    }

    #[test]
    fn incomplete_reviews_are_invalid() {
        let none = br#"{"spec":{"resourceAttributes":{"verb":"get"}}}"#;
        assert_eq!(
            access("SubjectAccessReview", none, "", None, yes)
                .unwrap_err()
                .code,
            422
        );
        let neither = br#"{"spec":{"user":"jane"}}"#;
        assert_eq!(
            access("SubjectAccessReview", neither, "", None, yes)
                .unwrap_err()
                .code,
            422
        );
        let elsewhere = br#"{"spec":{"user":"jane","resourceAttributes":{"namespace":"b"}}}"#;
        assert_eq!(
            access("LocalSubjectAccessReview", elsewhere, "a", None, yes)
                .unwrap_err()
                .code,
            400
        );
    }
}
