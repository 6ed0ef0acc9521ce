//! Asking webhooks: the mutating ones one after the other, the validating ones all at once.
//!
//! Port of `k8s.io/apiserver/pkg/admission/plugin/webhook/{mutating,validating}/dispatcher.go` and
//! `mutating/reinvocationcontext.go`.

use std::{borrow::Cow, collections::HashSet};

use api::{FieldValidation, PatchKind, Resource, Status, Type, status::quote};
use bumpalo::Bump;
use futures::{StreamExt, stream::FuturesUnordered};

use super::{
    Hook, Hooks, Told,
    review::{self, Question, Unread, Verdict},
};
use crate::{clock, convert};

/// How often mutating webhooks are asked about one object: twice, the second time only those that want
/// to see what others changed after them.
#[derive(Default)]
pub struct Rounds {
    is_second: bool,
    is_changed: bool,
    /// Asked already, and to be asked again should the object change.
    asked: HashSet<usize>,
    /// To be asked in the second round.
    due: HashSet<usize>,
}

/// Why a webhook did not let a request pass.
enum Failure {
    /// It could not be asked; its failure policy decides.
    Calling(String),
    /// Whatever the policy.
    Refused(Status),
}

/// A question and its answer.
struct Asked<'h> {
    hook: &'h Hook,
    /// The version it was about.
    resource: &'h Resource,
    mutates: bool,
}

// === impl Rounds ===

impl Rounds {
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// The built-in plugins have been over what the webhooks changed.
    pub fn begin_second(&mut self, is_changed_again: bool) {
        self.is_second = true;
        if is_changed_again {
            self.require_asked();
        }
    }

    /// One round over all webhooks.
    pub async fn ask(
        &mut self,
        told: &Told<'_>,
        hooks: &Hooks,
        object: &mut Option<Vec<u8>>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        for at in hooks.index.candidates(told.resource.plural) {
            let hook = &hooks.list[*at];
            let Some(resource) = hook.is_asked(told, object.as_deref())? else {
                continue;
            };
            if self.is_second && !self.due.contains(at) {
                continue;
            }
            let asked = Asked {
                hook,
                resource,
                mutates: true,
            };
            let outcome = asked.changed(told, object, warnings).await;
            if matches!(outcome, Ok(true)) {
                self.is_changed = true;
                self.require_asked();
            }
            if hook.is_asked_again {
                self.asked.insert(*at);
            }
            outcome
                .map(|_| ())
                .or_else(|failure| hook.decide(failure))?;
        }
        Ok(())
    }

    fn require_asked(&mut self) {
        self.due.extend(self.asked.drain());
    }
}

/// Asks all at once; the first refusal to arrive is the answer, when all have answered.
pub async fn validate(
    told: &Told<'_>,
    hooks: &Hooks,
    object: Option<&[u8]>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let mut questions = Vec::new();
    for at in hooks.index.candidates(told.resource.plural) {
        let hook = &hooks.list[*at];
        if let Some(resource) = hook.is_asked(told, object)? {
            questions.push(Asked {
                hook,
                resource,
                mutates: false,
            });
        }
    }
    let mut answers: FuturesUnordered<_> = questions
        .iter()
        .map(|asked| async move { (asked.hook, asked.verdict(told, object).await) })
        .collect();
    let mut first = Ok(());
    while let Some((hook, answer)) = answers.next().await {
        let outcome = answer.and_then(|mut verdict| {
            warnings.append(&mut verdict.warnings);
            verdict
                .denied
                .map_or(Ok(()), |denied| Err(Failure::Refused(denied)))
        });
        first = first.and(outcome.or_else(|failure| hook.decide(failure)));
    }
    first
}

// === impl Hook ===

impl Hook {
    /// What a failure comes to.
    fn decide(&self, failure: Failure) -> Result<(), Status> {
        match failure {
            Failure::Refused(status) => Err(status),
            Failure::Calling(why) => {
                let text = format!("failed calling webhook {}: {why}", quote(&self.name));
                if !self.fails_open {
                    return Err(Status::internal(text));
                }
                tracing::warn!("{text}, failing open");
                Ok(())
            }
        }
    }
}

// === impl Asked ===

impl Asked<'_> {
    /// Asks, and applies the patch; whether it changed the object.
    async fn changed(
        &self,
        told: &Told<'_>,
        object: &mut Option<Vec<u8>>,
        warnings: &mut Vec<String>,
    ) -> Result<bool, Failure> {
        let mut verdict = self.verdict(told, object.as_deref()).await?;
        warnings.append(&mut verdict.warnings);
        if let Some(denied) = verdict.denied {
            return Err(Failure::Refused(denied));
        }
        let Some(patch) = verdict.patch else {
            return Ok(false);
        };
        if is_nothing(&patch)? {
            return Ok(false);
        }
        let Some(before) = object.as_deref() else {
            return Err(Failure::Refused(Status::internal(format_args!(
                "admission webhook {} attempted to modify the object, which is not supported for \
                 this operation",
                quote(&self.hook.name)
            ))));
        };
        let after = self.patched(told, before, &patch)?;
        let is_changed = after != before;
        *object = Some(after);
        Ok(is_changed)
    }

    /// Asks.
    async fn verdict(&self, told: &Told<'_>, object: Option<&[u8]>) -> Result<Verdict, Failure> {
        let hook = self.hook;
        if told.dry_run && hook.has_side_effects {
            return Err(Failure::Refused(Status::bad_request(format!(
                "admission webhook {} does not support dry run",
                quote(&hook.name)
            ))));
        }
        let Some(version) = hook.version else {
            return Err(Failure::Calling(
                "could not create admission objects: webhook does not accept known \
                 AdmissionReview versions (v1, v1beta1)"
                    .to_owned(),
            ));
        };
        let uid = clock::new_uid();
        let object = object.map(|json| self.versioned(told, json));
        let old = told.old.map(|json| self.versioned(told, json));
        let question = Question {
            version,
            uid: &uid,
            resource: self.resource,
            object: object.as_deref(),
            old: old.as_deref(),
        };
        let json = question.json(told).map_err(Failure::Refused)?;
        let cache = told.call.server.cache();
        let answer = hook.client.post(cache, json, hook.timeout).await;
        let answer =
            answer.map_err(|why| Failure::Calling(format!("failed to call webhook: {why}")))?;
        let of = review::Hook {
            name: &hook.name,
            mutates: self.mutates,
        };
        review::read(&answer, version, &uid, of).map_err(|unread| {
            Failure::Calling(match unread {
                Unread::Undecoded(why) => format!("failed to call webhook: {why}"),
                Unread::Invalid(why) => format!("received invalid webhook response: {why}"),
                Unread::Unsupported(why) => why,
            })
        })
    }

    /// The object in the version the webhook is asked about.
    fn versioned<'j>(&self, told: &Told<'_>, json: &'j [u8]) -> Cow<'j, [u8]> {
        between(told, told.resource, self.resource, json)
    }

    /// The object with a patch and with defaults, in the version of the request.
    fn patched(&self, told: &Told<'_>, json: &[u8], patch: &[u8]) -> Result<Vec<u8>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Refused(Status::internal(error));
        let arena = Bump::new();
        let schema = self.schema(told);
        let versioned = self.versioned(told, json);
        let doc = api::codec::decode_stored(arena.alloc_slice_copy(&versioned), schema, &arena);
        let doc = doc.map_err(|error| failed(&error))?;
        let patch = arena.alloc_slice_copy(patch);
        let lenient = FieldValidation::Ignore;
        let patched = api::patch::apply_patch(PatchKind::Json, &doc, patch, lenient, &arena);
        let (mut doc, _) = patched.map_err(|error| failed(&error))?;
        api::default::default(self.resource, &mut doc);
        let bytes = api::canonical(&doc);
        Ok(between(told, self.resource, told.resource, &bytes).into_owned())
    }

    fn schema(&self, told: &Told<'_>) -> &Type {
        let of_resource = &self.resource.schema;
        if told.is_of_resource() {
            return of_resource;
        }
        let sub = self.resource.subresource(told.subresource);
        sub.and_then(|sub| sub.schema()).unwrap_or(of_resource)
    }
}

/// Whether a patch has no operations.
fn is_nothing(patch: &[u8]) -> Result<bool, Failure> {
    let operations: Vec<serde_json::Value> = serde_json::from_slice(patch).map_err(|error| {
        let text = format!("received undecodable patch in webhook response: {error}");
        Failure::Calling(text)
    })?;
    Ok(operations.is_empty())
}

/// JSON of one version of a resource in another.
fn between<'j>(told: &Told<'_>, from: &Resource, to: &Resource, json: &'j [u8]) -> Cow<'j, [u8]> {
    let is_same = (from.group, from.version) == (to.group, to.version);
    if is_same || !told.is_of_resource() {
        return Cow::Borrowed(json);
    }
    convert::between(from, to, json).map_or(Cow::Borrowed(json), Cow::Owned)
}
