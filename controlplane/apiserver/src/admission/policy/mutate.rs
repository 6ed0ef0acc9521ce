//! MutatingAdmissionPolicies: what they make of an object.
//!
//! Port of `k8s.io/apiserver/pkg/admission/plugin/policy/mutating/{dispatcher,reinvocationcontext}.go` and
//! `patch/`.

use api::{
    Doc, Resource, Status, Type, Value,
    expression::{Expression, Scope, into_value, policy::Mutation},
    patch,
    status::Cause,
};
use bumpalo::Bump;

use super::{Invocation, Objects, Set, read, scope::scope, validate};
use crate::admission::webhook::Told;

/// Lets them change the object; with `again` only those that want to see others' changes.
pub fn mutate(set: &Set, told: &Told<'_>, json: Vec<u8>, again: bool) -> Result<Vec<u8>, Status> {
    let arena = Bump::new();
    let bytes = arena.alloc_slice_copy(&json);
    let mut doc =
        api::codec::decode_stored(bytes, shape(told), &arena).map_err(Status::internal)?;
    let old = read(told.old, &arena)?;
    let before = doc.clone();
    let objects = Objects {
        object: Some(before.root()),
        old: old.as_ref(),
    };
    let (invocations, wrong) = set.invocations(told, objects);
    let old = old.as_ref();
    let mut errors: Vec<String> = wrong
        .iter()
        .filter(|wrong| !wrong.policy.fails_open)
        .map(|wrong| {
            denial(
                &wrong.policy.name,
                wrong.binding.as_deref(),
                &wrong.message(),
            )
        })
        .collect();
    // Those that ran before somebody else changed the object.
    let mut stale: Vec<&Invocation<'_>> = Vec::new();
    let mut seen: Vec<&Invocation<'_>> = Vec::new();
    let wanted = |one: &&Invocation<'_>| !again || one.policy.is_asked_again;
    for invocation in invocations.iter().filter(wanted) {
        let changed = invoke(told, invocation, &mut doc, old, &mut errors)?;
        if changed {
            let before = seen.drain(..).filter(|one| one.policy.is_asked_again);
            stale.extend(before);
        }
        seen.push(invocation);
    }
    if !again {
        for invocation in stale {
            invoke(told, invocation, &mut doc, old, &mut errors)?;
        }
    }
    match errors.as_slice() {
        [] => Ok(api::canonical(&doc)),
        [first, ..] => {
            let Resource { group, plural, .. } = told.resource;
            let mut status = Status::forbidden(group, plural, told.name, "");
            status.message.clone_from(first);
            status.code = 422;
            status.reason = "Invalid".into();
            let causes = errors.iter().map(|message| Cause {
                message: message.clone(),
                ..Cause::default()
            });
            Err(causes.fold(status, Status::with_cause))
        }
    }
}

/// The shape of the request's body.
fn shape(told: &Told<'_>) -> &'static Type {
    match told.resource.subresource(told.subresource) {
        Some(sub) if !told.is_of_resource() => sub.schema().unwrap_or(&Type::Any),
        _ => &told.resource.schema,
    }
}

/// Runs the mutations of one policy; whether they changed the object.
fn invoke(
    told: &Told<'_>,
    invocation: &Invocation<'_>,
    doc: &mut Doc<'_>,
    old: Option<&Value<'_>>,
    errors: &mut Vec<String>,
) -> Result<bool, Status> {
    let policy = invocation.policy;
    let fail = |errors: &mut Vec<String>, why: &str| {
        if !policy.fails_open {
            errors.push(denial(&policy.name, Some(invocation.binding), why));
        }
    };
    let expressions = match policy.expressions() {
        Ok(expressions) => expressions,
        Err(why) => {
            fail(errors, &why);
            return Ok(false);
        }
    };
    let before = api::canonical(doc);
    for (i, mutation) in expressions.mutations.iter().enumerate() {
        let objects = Objects {
            object: Some(doc.root()),
            old,
        };
        // Each mutation sees what those before it made.
        let mut scope = scope(told, invocation, expressions, objects)?;
        if i == 0 {
            match Expression::all_hold(&expressions.conditions, &scope) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => {
                    fail(errors, &why);
                    return Ok(false);
                }
            }
        }
        validate::bind_variables(&mut scope, expressions);
        if let Err(why) = apply(mutation, &scope, doc) {
            fail(errors, &why);
            return Ok(false);
        }
        if told.is_of_resource() {
            api::default::default(told.resource, doc);
        }
    }
    Ok(api::canonical(doc) != before)
}

fn apply(mutation: &Mutation, scope: &Scope, doc: &mut Doc<'_>) -> Result<(), String> {
    let arena = doc.arena();
    let evaluate = |expression: &Expression| {
        let value = expression.evaluate(scope);
        let value = value.map_err(|why| expression.failed(&why))?;
        into_value(&value, arena).ok_or_else(|| {
            format!(
                "expression '{}' made what JSON has no form of",
                expression.source()
            )
        })
    };
    match mutation {
        Mutation::Apply(expression) => patch::typed::merge(doc, evaluate(expression)?)
            .map_err(|why| format!("error applying patch: {why}")),
        Mutation::JsonPatch(expression) => {
            let operations = evaluate(expression)?;
            let mut patched = doc.clone();
            patch::json::apply(patched.root_mut(), &operations, arena)
                .map_err(|error| format!("JSON Patch: {error}"))?;
            // What it made must have the shape of the kind.
            let json = arena.alloc_slice_copy(&api::canonical(&patched));
            *doc = api::codec::decode_stored(json, doc.schema(), arena)
                .map_err(|error| format!("JSON Patch: {error}"))?;
            Ok(())
        }
    }
}

fn denial(policy: &str, binding: Option<&super::Binding>, why: &str) -> String {
    let with = binding.map(|binding| format!(" with binding '{}'", binding.name));
    let with = with.unwrap_or_default();
    format!("policy '{policy}'{with} denied request: {why}")
}
