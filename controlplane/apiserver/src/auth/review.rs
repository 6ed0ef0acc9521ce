//! Access and token reviews: the questions about identities that are asked as objects.
//!
//! Ports of `pkg/registry/authorization/*` and `pkg/registry/authentication/*`. Each takes the body
//! as JSON and answers it with `status` filled in.

use std::collections::BTreeMap;

use api::{FieldError, Status};
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
    body: &[u8],
    namespace: &str,
    own: Option<&UserInfo>,
    decide: impl Fn(&UserInfo, &Attributes) -> Verdict,
) -> Result<Vec<u8>, Status> {
    let (object, spec): (Object, AccessSpec) = parse(body)?;
    let errors = errors(&spec, own.is_some());
    let user = match own {
        Some(own) => own.clone(),
        None => UserInfo {
            username: spec.user,
            uid: spec.uid,
            groups: spec.groups,
            extra: spec.extra,
        },
    };
    let attributes = match (spec.resource_attributes, spec.non_resource_attributes) {
        (Some(resource), None) if errors.is_empty() => resource.attributes(),
        (None, Some(other)) if errors.is_empty() => other.attributes(),
        // Upstream's own form of a review has lost its kind by now.
        _ => return Err(Status::invalid("authorization.k8s.io", "", "", &errors)),
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

/// Port of `ValidateSubjectAccessReviewSpec` and `ValidateSelfSubjectAccessReviewSpec`
/// (pkg/apis/authorization/validation/validation.go).
fn errors(spec: &AccessSpec, asks_about_itself: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.resource_attributes.is_some() == spec.non_resource_attributes.is_some() {
        let given = spec.non_resource_attributes.as_ref();
        let shown = given.map(|given| json!({"Path": given.path, "Verb": given.verb}));
        let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid_raw("spec", json!(shown), text));
    }
    if !asks_about_itself && spec.user.is_empty() && spec.groups.is_empty() {
        let text = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", "", text));
    }
    errors
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
    let (mut object, spec): (Object, Spec) = parse(body)?;
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
    // Upstream answers with a review of its own, in which nothing was asked.
    object.insert("spec".into(), json!({}));
    finish(object, status)
}

/// Answers SelfSubjectReview, as of `now`.
pub fn who_am_i(body: &[u8], user: &UserInfo, now: &str) -> Result<Vec<u8>, Status> {
    let (mut object, _): (Object, Value) = parse(body)?;
    object.insert("metadata".into(), json!({"creationTimestamp": now}));
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
        let answer = access(body, "", None, |user, asked| {
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
        let refused = |body: &[u8], namespace: &str, own: Option<&UserInfo>| {
            let status = access(body, namespace, own, yes).unwrap_err();
            (status.code, status.message)
        };
        let union = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let nobody =
            "spec.user: Invalid value: \"\": at least one of user or group must be specified";
        let none = br#"{"spec":{"resourceAttributes":{"verb":"get"}}}"#;
        let invalid = ".authorization.k8s.io \"\" is invalid";
        assert_eq!(
            refused(none, "", None),
            (422, format!("{invalid}: {nobody}"))
        );
        let neither = br#"{"spec":{}}"#;
        let message = format!("{invalid}: [spec: Invalid value: null: {union}, {nobody}]");
        assert_eq!(refused(neither, "", None), (422, message));
        let message = format!("{invalid}: spec: Invalid value: null: {union}");
        assert_eq!(
            refused(neither, "", Some(&UserInfo::default())),
            (422, message)
        );
        let elsewhere = br#"{"spec":{"user":"jane","resourceAttributes":{"namespace":"b"}}}"#;
        assert_eq!(refused(elsewhere, "a", None).0, 400);
    }

    #[test]
    fn answers_about_oneself_say_no_more_than_upstreams() {
        let body = br#"{"kind":"SelfSubjectRulesReview","spec":{"namespace":"a"}}"#;
        let answer: Value =
            serde_json::from_slice(&rules(body, |_| (Vec::new(), false)).unwrap()).unwrap();
        assert_eq!(answer["spec"], json!({}));
        let body = br#"{"kind":"SelfSubjectReview"}"#;
        let now = "2024-01-01T00:00:00Z";
        let answer = who_am_i(body, &UserInfo::default(), now).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["metadata"]["creationTimestamp"], now);
    }
}
