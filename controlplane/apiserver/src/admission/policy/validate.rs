//! ValidatingAdmissionPolicies: what they decide about a request.
//!
//! Port of `k8s.io/apiserver/pkg/admission/plugin/policy/validating/{dispatcher,validator}.go`.

use api::{
    Status,
    expression::{
        Expression, Scope, Value as Cel,
        policy::{Policy as Expressions, Validation},
    },
    status::Cause,
};

use super::{Invocation, Objects, Set, scope::scope};
use crate::admission::webhook::Told;

/// Longest message an expression may make, bytes (MaxEvaluatedMessageExpressionSizeBytes).
const MAX_MESSAGE: usize = 5 * 1024;

/// One validation that does not hold, or cannot be evaluated.
struct Failure {
    message: String,
    /// `""`: Invalid.
    reason: String,
}

/// Asks all; the first that denies decides.
pub fn validate(
    set: &Set,
    told: &Told<'_>,
    objects: Objects<'_, '_>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let (invocations, wrong) = set.invocations(told, objects);
    let mut denied: Option<Status> = None;
    for misconfigured in wrong.iter().filter(|wrong| !wrong.policy.fails_open) {
        let binding = misconfigured
            .binding
            .as_ref()
            .map(|binding| binding.name.as_str());
        let failure = Failure::new(misconfigured.message());
        let policy = &misconfigured.policy.name;
        denied.get_or_insert_with(|| refusal(told, policy, binding, failure));
    }
    for invocation in &invocations {
        let (policy, binding) = (invocation.policy, invocation.binding);
        let (failures, errors) = failures(told, invocation, objects)?;
        for failure in failures {
            if binding.warns {
                warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, failure.message
                ));
            }
            if binding.denies {
                let name = Some(binding.name.as_str());
                denied.get_or_insert_with(|| refusal(told, &policy.name, name, failure));
            }
        }
        for error in errors {
            let name = Some(binding.name.as_str());
            denied.get_or_insert_with(|| refusal(told, &policy.name, name, error));
        }
    }
    match denied {
        Some(status) => Err(status.with_warnings(std::mem::take(warnings))),
        None => Ok(()),
    }
}

/// What does not hold, by the binding's actions, and what denies whatever they are.
fn failures(
    told: &Told<'_>,
    invocation: &Invocation<'_>,
    objects: Objects<'_, '_>,
) -> Result<(Vec<Failure>, Vec<Failure>), Status> {
    let fails_open = invocation.policy.fails_open;
    let error = |why: String| {
        let failures = (!fails_open).then(|| Failure::new(why));
        (failures.into_iter().collect(), Vec::new())
    };
    let expressions = match invocation.policy.expressions() {
        Ok(expressions) => expressions,
        Err(why) => return Ok(error(why)),
    };
    let mut scope = scope(told, invocation, expressions, objects)?;
    match Expression::all_hold(&expressions.conditions, &scope) {
        Ok(true) => {}
        Ok(false) => return Ok((Vec::new(), Vec::new())),
        Err(why) => return Ok(error(why)),
    }
    bind_variables(&mut scope, expressions);
    let evaluated = expressions.validations.iter();
    let failures = evaluated.filter_map(|one| evaluate(one, &scope, fails_open));
    let audits = expressions.audits.iter();
    let errors = audits.filter_map(|audit| audit_error(audit, &scope, fails_open));
    Ok((failures.collect(), errors.collect()))
}

/// Variables may refer to those before them.
pub fn bind_variables(scope: &mut Scope, expressions: &Expressions) {
    for variable in &expressions.variables {
        scope.bind_variable(&variable.name, &variable.expression);
    }
}

fn evaluate(validation: &Validation, scope: &Scope, fails_open: bool) -> Option<Failure> {
    match validation.expression.evaluate(scope) {
        Ok(Cel::Bool(true)) => None,
        Ok(_) => Some(Failure {
            message: message(validation, scope),
            reason: validation.reason.clone(),
        }),
        Err(_) if fails_open => None,
        Err(why) => Some(Failure::new(validation.expression.failed(&why))),
    }
}

/// The message of a validation that does not hold: by its expression, its own, or the expression that
/// failed.
fn message(validation: &Validation, scope: &Scope) -> String {
    let made = validation.message_expression.as_ref();
    if let Some(Ok(Cel::String(text))) = made.map(|expression| expression.evaluate(scope)) {
        let text = text.trim();
        if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
            return text.to_owned();
        }
    }
    if !validation.message.is_empty() {
        return validation.message.clone();
    }
    format!(
        "failed expression: {}",
        validation.expression.source().trim()
    )
}

fn audit_error(audit: &Expression, scope: &Scope, fails_open: bool) -> Option<Failure> {
    match audit.evaluate(scope) {
        Ok(Cel::String(_) | Cel::Null) => None,
        Ok(other) => Some(Failure::new(format!(
            "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either \
             string or null.",
            audit.source(),
            other.type_of()
        ))),
        Err(_) if fails_open => None,
        Err(why) => Some(Failure::new(audit.failed(&why))),
    }
}

// === impl Failure ===

impl Failure {
    fn new(message: String) -> Self {
        Self {
            message,
            reason: String::new(),
        }
    }
}

fn refusal(told: &Told<'_>, policy: &str, binding: Option<&str>, failure: Failure) -> Status {
    let with = binding.map(|binding| format!(" with binding '{binding}'"));
    let message = format!(
        "ValidatingAdmissionPolicy '{policy}'{} denied request: {}",
        with.unwrap_or_default(),
        failure.message
    );
    let (group, plural) = (told.resource.group, told.resource.plural);
    let mut status = Status::forbidden(group, plural, told.name, &message);
    let (code, reason) = match failure.reason.as_str() {
        "" => (422, "Invalid".to_owned()),
        "Unauthorized" => (401, failure.reason),
        "Forbidden" => (403, failure.reason),
        "RequestEntityTooLarge" => (413, failure.reason),
        _ => (422, failure.reason),
    };
    status.code = code;
    status.reason = reason.into();
    status.with_cause(Cause {
        message,
        ..Cause::default()
    })
}
