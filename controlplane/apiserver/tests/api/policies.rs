//! Admission policies: they refuse, warn and change by expressions; what is told wrong of them.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Creates a policy about config maps, with a binding.
async fn policy(harness: &Harness, kind: &str, spec: Value, binding: Value) {
    let reply = register(harness, kind, spec, binding).await;
    assert_eq!(reply, "", "{reply}");
}

/// The message of a policy's refusal.
async fn register(harness: &Harness, kind: &str, spec: Value, binding: Value) -> String {
    let mut whole = json!({"matchConstraints": {"resourceRules": [{"operations": ["*"],
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}});
    if kind == "Mutating" {
        whole["matchConstraints"]["resourceRules"][0]["operations"] = json!(["CREATE", "UPDATE"]);
        whole["reinvocationPolicy"] = json!("Never");
    }
    whole
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    let object = json!({"metadata": {"name": "p"}, "spec": whole});
    let lower = kind.to_lowercase();
    let reply = harness
        .post(&format!("{GROUP}/{lower}admissionpolicies"), &object)
        .await;
    if reply.code != 201 {
        return reply.message();
    }
    let mut whole = json!({"policyName": "p"});
    if kind == "Validating" {
        whole["validationActions"] = json!(["Deny"]);
    }
    whole
        .as_object_mut()
        .unwrap()
        .extend(binding.as_object().unwrap().clone());
    let object = json!({"metadata": {"name": "b"}, "spec": whole});
    let reply = harness
        .post(&format!("{GROUP}/{lower}admissionpolicybindings"), &object)
        .await;
    match reply.code.as_u16() {
        201 => String::new(),
        _ => reply.message(),
    }
}

#[tokio::test]
async fn a_validating_policy_refuses_in_upstreams_words() {
    let harness = Harness::new().await;
    let spec = json!({
        "variables": [{"name": "key", "expression": "object.data.key"},
                      {"name": "bad", "expression": "variables.key == 'bad'"}],
        "validations": [
            {"expression": "request.operation == 'DELETE' || !variables.bad",
             "messageExpression": "'no ' + variables.key", "reason": "Forbidden"},
            {"expression": "request.operation == 'DELETE' || variables.key != 'worse'"},
            {"expression": "request.operation != 'DELETE' || oldObject.data.key != 'kept'",
             "message": "it is kept"},
        ],
    });
    policy(&harness, "Validating", spec, json!({})).await;
    let prefix = |name: &str| {
        format!(
            "configmaps \"{name}\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied \
             request: "
        )
    };
    let reply = harness.post(MAPS, &config_map("a", "bad")).await;
    assert_eq!(reply.code, 403);
    assert_eq!(reply.message(), format!("{}no bad", prefix("a")));
    assert_eq!(reply.json()["reason"], "Forbidden");
    let reply = harness.post(MAPS, &config_map("a", "worse")).await;
    assert_eq!(reply.code, 422);
    let text = "failed expression: request.operation == 'DELETE' || variables.key != 'worse'";
    assert_eq!(reply.message(), format!("{}{text}", prefix("a")));
    harness.create(MAPS, &config_map("a", "kept")).await;
    let uri = format!("{MAPS}/a");
    let reply = harness.put(&uri, &config_map("a", "bad")).await;
    assert_eq!(reply.code, 403);
    let reply = harness.delete(&uri).await;
    assert_eq!(reply.message(), format!("{}it is kept", prefix("a")));
    harness.put(&uri, &config_map("a", "free")).await;
    assert_eq!(harness.delete(&uri).await.code, 200);
    // An evaluation that fails is decided by the failure policy: Fail, when nothing is said.
    let reply = harness
        .post(MAPS, &json!({"metadata": {"name": "c"}}))
        .await;
    assert_eq!(reply.code, 422);
    let why = "composited variable \"bad\" fails to evaluate: composited variable \"key\" fails to \
               evaluate: no such key: data";
    assert!(reply.message().ends_with(why), "{}", reply.message());
}

#[tokio::test]
async fn bindings_warn_and_have_parameters_and_selectors() {
    let harness = Harness::new().await;
    let limit = json!({"metadata": {"name": "limit", "labels": {"exempt": "yes"}},
                       "data": {"most": "3"}});
    harness.create(MAPS, &limit).await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-system", "expression":
            "!request.userInfo.username.startsWith('system:')"}],
        "validations": [{"expression": "size(object.data.key) <= int(params.data.most)",
                         "message": "too long"}],
        "failurePolicy": "Ignore",
    });
    let binding = json!({
        "validationActions": ["Warn"],
        "paramRef": {"name": "limit", "namespace": "default", "parameterNotFoundAction": "Deny"},
        "matchResources": {"objectSelector": {"matchExpressions":
            [{"key": "exempt", "operator": "DoesNotExist"}]},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}},
    });
    policy(&harness, "Validating", spec, binding).await;
    let reply = harness.post(MAPS, &config_map("a", "long")).await;
    assert_eq!(reply.code, 201);
    let text =
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': too long\"";
    assert_eq!(reply.headers["warning"], text);
    let reply = harness.post(MAPS, &config_map("b", "ok")).await;
    assert!(reply.headers.get("warning").is_none());
    let exempt =
        json!({"metadata": {"name": "c", "labels": {"exempt": "1"}}, "data": {"key": "long"}});
    assert!(
        harness
            .post(MAPS, &exempt)
            .await
            .headers
            .get("warning")
            .is_none()
    );
}

#[tokio::test]
async fn authorization_can_be_asked() {
    let harness = Harness::new().await;
    let spec = json!({"validations": [{"expression":
        "authorizer.group('').resource('pods').namespace('default').check('create').allowed() \
         && authorizer.requestResource.check('delete').allowed() \
         && !authorizer.serviceAccount('default', 'x').path('/metrics').check('get').allowed()"}]});
    policy(&harness, "Validating", spec, json!({})).await;
    harness.create(MAPS, &config_map("a", "v")).await;
}

#[tokio::test]
async fn mutating_policies_apply_and_patch() {
    let harness = Harness::new().await;
    let spec = json!({
        "variables": [{"name": "name", "expression": "object.metadata.name"}],
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'by': 'policy', 'of': variables.name}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('a.b'), \
                  value: object.metadata.labels.by}]"}},
        ],
    });
    policy(&harness, "Mutating", spec, json!({})).await;
    let reply = harness.post(MAPS, &config_map("a", "v")).await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    let labels = json!({"app": "v", "by": "policy", "of": "a"});
    assert_eq!(reply.json()["metadata"]["labels"], labels);
    assert_eq!(reply.json()["data"], json!({"a.b": "policy", "key": "v"}));
    let patch = json!({"metadata": {"labels": {"by": null, "of": "b"}}});
    let reply = harness
        .patch(&format!("{MAPS}/a"), "merge-patch", &patch)
        .await;
    assert_eq!(reply.json()["metadata"]["labels"], labels);
    // What does not fit the kind is refused.
    let spec = json!({"spec": {"mutations": [{"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{nothing: 1}"}}]}});
    let uri = format!("{GROUP}/mutatingadmissionpolicies/p");
    assert_eq!(harness.patch(&uri, "merge-patch", &spec).await.code, 200);
    let reply = harness.post(MAPS, &config_map("b", "v")).await;
    assert_eq!(reply.code, 422);
    let text = "policy 'p' with binding 'b' denied request: error applying patch: failed to convert \
                patch object to typed object: .nothing: field not declared in schema";
    assert_eq!(reply.message(), text);
}

#[tokio::test]
async fn what_is_wrong_with_a_policy_is_told() {
    let harness = Harness::new().await;
    let cases = [
        (
            "Validating",
            json!({"validations": [{"expression": "object.x =="}]}),
            "spec.validations[0].expression: Invalid value: \"object.x ==\": compilation failed: ERROR",
        ),
        (
            "Validating",
            json!({"validations": [{"expression": "1"}]}),
            "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool",
        ),
        (
            "Validating",
            json!({"validations": [{"expression": "params.x"}]}),
            "undeclared reference to 'params'",
        ),
        (
            "Validating",
            json!({"validations": []}),
            "spec.validations: Required value: validations or auditAnnotations must contain",
        ),
        (
            "Validating",
            json!({"validations": [{"expression": "true"}], "matchConditions":
                [{"name": "a", "expression": "variables.x"}]}),
            "undeclared reference to 'variables'",
        ),
        (
            "Mutating",
            json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "{}"}}]}),
            "spec.mutations[0].jsonPatch.expression: Invalid value: \"{}\": must evaluate to list",
        ),
        (
            "Mutating",
            json!({"mutations": [{"patchType": "ApplyConfiguration"}]}),
            "spec.mutations[0].applyConfiguration: Required value: must be specified when patchType is",
        ),
        (
            "Mutating",
            json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
                   "variables": [{"name": "in", "expression": "1"}]}),
            "spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier",
        ),
    ];
    for (kind, spec, expected) in cases {
        let message = register(&harness, kind, spec, json!({})).await;
        assert!(message.contains(expected), "{message}");
    }
    let rules = json!({"validations": [{"expression": "true"}]});
    let binding = json!({"validationActions": ["Deny", "Warn"], "paramRef": {"name": "x"}});
    let message = register(&harness, "Validating", rules, binding).await;
    assert!(
        message.contains("must not contain both Deny and Warn"),
        "{message}"
    );
}

#[tokio::test]
async fn parameters_are_named_by_who_may_read_them() {
    let harness = Harness::new().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "writer"}, "rules": [{"apiGroups":
        ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]});
    harness.create(&format!("{rbac}/clusterroles"), &role).await;
    let binding = json!({"metadata": {"name": "bob"}, "subjects": [{"kind": "User", "name": "bob",
        "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "ClusterRole",
        "name": "writer", "apiGroup": "rbac.authorization.k8s.io"}});
    harness
        .create(&format!("{rbac}/clusterrolebindings"), &binding)
        .await;
    let as_bob = async |uri: &str, object: &Value| {
        let uri = format!("{GROUP}/{uri}");
        let bob = [("impersonate-user", "bob")];
        harness
            .ask(Method::POST, &uri, &bob, object.to_string())
            .await
    };
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "validations": [{"expression": "params.data.key == object.data.key"}],
        "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["configmaps"]}]}}});
    let reply = as_bob("validatingadmissionpolicies", &policy).await;
    let why = "spec.paramKind: Forbidden: user bob must have \"get\" permission on all objects of the \
               referenced paramKind (kind=Secret, apiVersion=v1)";
    assert_eq!(reply.code, 422);
    assert!(reply.message().contains(why), "{}", reply.message());
    harness
        .create(&format!("{GROUP}/validatingadmissionpolicies"), &policy)
        .await;
    let mut binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p",
        "validationActions": ["Deny"], "paramRef": {"name": "s", "namespace": "default",
        "parameterNotFoundAction": "Deny"}}});
    let plural = "validatingadmissionpolicybindings";
    let reply = as_bob(plural, &binding).await;
    let why = "spec.paramRef: Forbidden: user bob does not have \"get\" permission on the object \
               referenced by paramRef";
    assert!(reply.message().contains(why), "{}", reply.message());
    let spec = binding["spec"].as_object_mut().unwrap();
    spec.remove("paramRef");
    assert_eq!(as_bob(plural, &binding).await.code, 201);
}
