//! What a Job's status may say, and how it may change.
//!
//! Port of `validateJobStatus` and `ValidateJobStatusUpdate`; with `getStatusValidationOptions` most
//! rules hold only when a field they speak of changes, so that an old fault blocks nothing.

use crate::doc::{Doc, Value};
use crate::strategy::same;
use crate::validate::path::{Errors, Path};

/// The status of a Job with the one before it.
struct Change<'d, 'a> {
    new: &'d Doc<'a>,
    old: &'d Doc<'a>,
}

/// The update of a Job's status.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    let change = Change { new, old };
    numbers(new, errors);
    uncounted(new, errors);
    change.times(errors);
    change.ends(errors);
    change.finished(errors);
    change.indexes(errors);
    change.exclusive(errors);
    change.history(errors);
}

fn numbers(new: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        errors.non_negative(&path.child(field), new.int_at(&["status", field]));
    }
}

fn uncounted(new: &Doc<'_>, errors: &mut Errors) {
    let status = Path::new("status");
    let path = status.child("uncountedTerminatedPods");
    let mut seen = Vec::new();
    for field in ["succeeded", "failed"] {
        let list = path.child(field);
        let uids = new.list_at(&["status", "uncountedTerminatedPods", field]);
        for (i, uid) in uids.iter().filter_map(Value::as_str).enumerate() {
            if uid.is_empty() {
                errors.invalid(&list.index(i), uid, "must not be empty");
            } else if seen.contains(&uid) {
                errors.duplicate(&list.index(i), uid);
            } else {
                seen.push(uid);
            }
        }
    }
}

fn has(doc: &Doc<'_>, type_: &str, status: &str) -> bool {
    let conditions = doc.list_at(&["status", "conditions"]);
    conditions
        .iter()
        .any(|c| c.str_of("type") == Some(type_) && c.str_of("status") == Some(status))
}

fn is(doc: &Doc<'_>, type_: &str) -> bool {
    has(doc, type_, "True")
}

fn is_finished(doc: &Doc<'_>) -> bool {
    is(doc, "Complete") || is(doc, "Failed")
}

impl Change<'_, '_> {
    fn differs(&self, field: &str) -> bool {
        !same(self.new, self.old, &["status", field])
    }

    fn turns(&self, type_: &str) -> bool {
        is(self.new, type_) != is(self.old, type_)
    }

    fn finishes(&self) -> bool {
        is_finished(self.new) != is_finished(self.old)
    }

    fn number(&self, field: &str) -> i64 {
        self.new.int_at(&["status", field]).unwrap_or(0)
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.new.str_at(&["status", field])
    }

    /// When it was completed, and that this comes after its start.
    fn times(&self, errors: &mut Errors) {
        let path = Path::new("status");
        let at = path.child("completionTime");
        let (start, end) = (self.text("startTime"), self.text("completionTime"));
        if self.turns("Complete") || self.differs("completionTime") {
            match (end, is(self.new, "Complete")) {
                (Some(end), false) => {
                    let detail =
                        "cannot set completionTime when there is no Complete=True condition";
                    errors.invalid(&at, end, detail);
                }
                (None, true) => {
                    errors.required(&at, "completionTime is required for Complete jobs");
                }
                _ => {}
            }
        }
        if (self.differs("startTime") || self.differs("completionTime"))
            && let (Some(start), Some(end)) = (start, end)
            && end < start
        {
            errors.invalid(&at, end, "must be equal to or after `startTime`");
        }
    }

    /// An end must have been announced, and there is one only.
    fn ends(&self, errors: &mut Errors) {
        let new = self.new;
        let rules = [
            (
                self.turns("Complete") || self.turns("Failed"),
                is(new, "Complete") && is(new, "Failed"),
                "cannot set Complete=True and Failed=true conditions",
            ),
            (
                self.turns("Complete") || self.turns("FailureTarget"),
                is(new, "Complete") && is(new, "FailureTarget"),
                "cannot set Complete=True and FailureTarget=true conditions",
            ),
            (
                self.turns("Failed") || self.differs("failedIndexes"),
                is(new, "Failed") && !is(new, "FailureTarget"),
                "cannot set Failed=True condition without the FailureTarget=true condition",
            ),
            (
                self.turns("Complete") || self.turns("SuccessCriteriaMet"),
                is(new, "Complete") && !is(new, "SuccessCriteriaMet"),
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ),
        ];
        conditions(&rules, errors);
    }

    /// A finished Job has begun, and has no pods left.
    fn finished(&self, errors: &mut Errors) {
        let path = Path::new("status");
        let finishes = self.finishes();
        if is_finished(self.new) {
            let active = self.number("active");
            if active > 0 && (finishes || self.differs("active")) {
                let detail = "active>0 is invalid for finished job";
                errors.invalid_number(&path.child("active"), active, detail);
            }
            let is_empty = self.new.bool_at(&["spec", "suspend"]) == Some(true)
                && self.new.int_at(&["spec", "completions"]) == Some(0);
            let concerns_start = (finishes || self.differs("startTime")) && !is_empty;
            if concerns_start && self.text("startTime").is_none() {
                let detail = "startTime is required for finished job";
                errors.required(&path.child("startTime"), detail);
            }
            let uncounted = self.new.get(&["status", "uncountedTerminatedPods"]);
            let is_left = ["succeeded", "failed"]
                .iter()
                .any(|list| uncounted.is_some_and(|u| !u.list_of(list).is_empty()));
            if is_left && (finishes || self.differs("uncountedTerminatedPods")) {
                let at = path.child("uncountedTerminatedPods");
                errors.invalid_value(&at, uncounted, "must be empty for finished job");
            }
            let terminating = self.number("terminating");
            if terminating > 0 && (finishes || self.differs("terminating")) {
                let detail = "terminating>0 is invalid for finished job";
                errors.invalid_number(&path.child("terminating"), terminating, detail);
            }
        }
        let ready = self.number("ready");
        if (self.differs("ready") || self.differs("active")) && ready > self.number("active") {
            let detail = "cannot set more ready pods than active";
            errors.invalid_number(&path.child("ready"), ready, detail);
        }
    }

    fn indexes(&self, errors: &mut Errors) {
        let path = Path::new("status");
        let completions = self.new.int_at(&["spec", "completions"]);
        let per_index = self.new.get(&["spec", "backoffLimitPerIndex"]).is_some();
        let is_indexed = self.new.str_at(&["spec", "completionMode"]) == Some("Indexed");
        let completed = self.text("completedIndexes").unwrap_or_default();
        let failed = self.text("failedIndexes");
        let (completed_differ, failed_differ) = (
            self.differs("completedIndexes"),
            self.differs("failedIndexes"),
        );
        let at = path.child("completedIndexes");
        if completed_differ && let Some(Err(why)) = completions.map(|n| indexes(completed, n)) {
            errors.invalid(
                &at,
                completed,
                format!("error parsing completedIndexes: {why}"),
            );
        }
        if completed_differ && !completed.is_empty() && !is_indexed {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.invalid(&at, completed, detail);
        }
        let Some(failed) = failed else { return };
        let at = path.child("failedIndexes");
        if failed_differ && !per_index {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.invalid(&at, failed, detail);
        }
        let Some(completions) = completions else {
            return;
        };
        if failed_differ
            && per_index
            && let Err(why) = indexes(failed, completions)
        {
            errors.invalid(&at, failed, format!("error parsing failedIndexes: {why}"));
        }
        if (failed_differ || completed_differ)
            && let Some(index) = overlap(completed, failed, completions)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.invalid(&at, failed, detail);
        }
    }

    fn exclusive(&self, errors: &mut Errors) {
        let (met, new) = (is(self.new, "SuccessCriteriaMet"), self.new);
        let has_policy = new.get(&["spec", "successPolicy"]).is_some();
        let rules = [
            (
                true,
                met && is(new, "Failed"),
                "cannot set SuccessCriteriaMet=True and Failed=true conditions",
            ),
            (
                true,
                met && is(new, "FailureTarget"),
                "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
            ),
            (
                has_policy,
                !met && is(new, "Complete"),
                "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ),
        ];
        conditions(&rules, errors);
    }

    /// What was said once stays said.
    fn history(&self, errors: &mut Errors) {
        let (new, old, path) = (self.new, self.old, Path::new("status"));
        for type_ in ["Failed", "Complete", "FailureTarget"] {
            if is(old, type_) && !is(new, type_) {
                let detail = format!("cannot disable the terminal {type_}=True condition");
                errors.invalid_omitted(&path.child("conditions"), &detail);
            }
        }
        let may_shrink = new.str_at(&["spec", "completionMode"]) == Some("Indexed")
            && new.int_at(&["spec", "completions"]) == new.int_at(&["spec", "parallelism"]);
        for (field, counts) in [("failed", true), ("succeeded", !may_shrink)] {
            let before = old.int_at(&["status", field]).unwrap_or(0);
            if counts && self.number(field) < before {
                let detail = format!("cannot decrease the {field} counter");
                errors.invalid_number(&path.child(field), self.number(field), detail);
            }
        }
        let before = old.str_at(&["status", "completionTime"]);
        if let (Some(now), Some(before)) = (self.text("completionTime"), before)
            && now != before
        {
            errors.invalid(&path.child("completionTime"), now, "field is immutable");
        }
        let is_resuming = is(old, "Suspended") && has(new, "Suspended", "False");
        let is_suspended = new.bool_at(&["spec", "suspend"]) == Some(true);
        let had_begun = old.get(&["status", "startTime"]).is_some();
        if self.differs("startTime") && had_begun && !is_resuming && !is_suspended {
            let detail = "field is immutable for unsuspended job once set";
            let now = self.text("startTime").unwrap_or("null");
            errors.invalid(&path.child("startTime"), now, detail);
        }
        let met = |doc| is(doc, "SuccessCriteriaMet");
        let rules = [
            (
                true,
                met(old) && !met(new),
                "cannot disable the SuccessCriteriaMet=True condition",
            ),
            (
                is(old, "Complete"),
                !met(old) && met(new),
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
            ),
        ];
        conditions(&rules, errors);
    }
}

/// Rules about conditions: when they hold, what they forbid, and the text.
fn conditions(rules: &[(bool, bool, &str)], errors: &mut Errors) {
    let status = Path::new("status");
    for (_, _, detail) in rules.iter().filter(|(holds, broken, _)| *holds && *broken) {
        errors.invalid_omitted(&status.child("conditions"), detail);
    }
}

/// The intervals of `0,2-5`, all below `completions` and in order (`validateIndexesFormat`).
pub(crate) fn indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, before)) = intervals.last().filter(|(_, before)| *before >= first) {
            return Err(format!(
                "non-increasing order, previous: {before}, current: {first}"
            ));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |text: &str| match text.parse::<i64>() {
        Ok(number) if number >= completions => Err(format!("too large index: {text:?}")),
        Ok(number) => Ok(number),
        Err(_) => Err(format!(
            "cannot convert string to integer for index: {text:?}"
        )),
    };
    match parts[..] {
        [first] => number(first).map(|first| (first, first)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!(
                    "non-increasing order, previous: {first}, current: {last}"
                ));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at \
             most two parts separated by '-'"
        )),
    }
}

/// The first index in both; what cannot be read has been said elsewhere.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts
            .filter_map(|part| interval(part, completions).ok())
            .collect()
    };
    let (completed, failed) = (read(completed), read(failed));
    let (mut c, mut f) = (0, 0);
    while let (Some(a), Some(b)) = (completed.get(c), failed.get(f)) {
        if a.0 <= b.1 && b.0 <= a.1 {
            return Some(a.0.max(b.0));
        }
        if a.0 <= b.0 {
            c += 1;
        } else {
            f += 1;
        }
    }
    None
}
