//! What a CronJob must hold.
//!
//! Port of `pkg/apis/batch/validation/validation.go`.

use super::job;
use crate::cron::{Schedule, time_zone};
use crate::doc::{Doc, Value};
use crate::validate::path::{Errors, Path};

/// The controller appends a dash and ten digits to make the names of Jobs.
const MAX_NAME: usize = 52;
const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];

/// A new CronJob.
pub(crate) fn create(doc: &Doc<'_>, errors: &mut Errors) {
    spec(doc, None, errors);
    if doc.name().len() > MAX_NAME {
        let metadata = Path::new("metadata");
        let detail = format!("must be no more than {MAX_NAME} characters");
        errors.invalid(&metadata.child("name"), doc.name(), detail);
    }
}

/// A changed CronJob.
pub(crate) fn update(new: &Doc<'_>, old: &Doc<'_>, errors: &mut Errors) {
    spec(new, Some(old), errors);
}

fn spec(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let path = Path::new("spec");
    let text = spec.str_of("schedule").unwrap_or_default();
    let zone = spec.str_of("timeZone");
    let had_zone = old
        .and_then(|old| old.str_at(&["spec", "schedule"]))
        .is_some_and(|schedule| schedule.contains("TZ"));
    let at = path.child("schedule");
    if text.is_empty() {
        errors.required(&at, "");
    } else {
        schedule(text, had_zone, zone.is_some(), &at, errors);
    }
    let field = "startingDeadlineSeconds";
    errors.non_negative(&path.child(field), spec.int_of(field));
    let has_changed = old.is_none_or(|old| old.str_at(&["spec", "timeZone"]) != zone);
    if let Some(zone) = zone.filter(|_| has_changed) {
        check_zone(zone, &path.child("timeZone"), errors);
    }
    let policy = spec.str_of("concurrencyPolicy");
    errors.one_of(&path.child("concurrencyPolicy"), policy, &POLICIES, true);
    job_template(doc, old, errors);
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.non_negative(&path.child(field), spec.int_of(field));
    }
}

fn schedule(text: &str, had_zone: bool, has_field: bool, path: &Path<'_>, errors: &mut Errors) {
    if let Err(why) = Schedule::parse(text) {
        errors.invalid(path, text, why.to_string());
    }
    let names_zone = text.contains("TZ");
    if had_zone && names_zone && has_field {
        let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.invalid(path, text, detail);
    } else if !had_zone && names_zone {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(path, text, detail);
    }
}

fn check_zone(zone: &str, path: &Path<'_>, errors: &mut Errors) {
    const MAX_PART: usize = 14;
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    let is_part = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_+".contains(&b);
        !matches!(part, "" | "." | "..")
            && !part.starts_with('-')
            && part.len() <= MAX_PART
            && part.bytes().all(allowed)
    };
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(is_part) {
        return errors.invalid(path, zone, unknown);
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in \
                      https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    }
    if zone != "Local" && time_zone(zone).is_none() {
        errors.invalid(path, zone, unknown);
    }
}

fn job_template(doc: &Doc<'_>, old: Option<&Doc<'_>>, errors: &mut Errors) {
    let path = Path::new("spec");
    let path = path.child("jobTemplate");
    let at = path.child("spec");
    let spec = doc
        .get(&["spec", "jobTemplate", "spec"])
        .unwrap_or(&Value::Null);
    let old = old.and_then(|old| old.get(&["spec", "jobTemplate", "spec", "template"]));
    job::spec(spec, old.unwrap_or(&Value::Null), &at, errors);
    if let Some(selector) = spec.get("selector") {
        let detail = "`selector` will be auto-generated";
        errors.invalid_value(&at.child("selector"), Some(selector), detail);
    }
    if spec.bool_of("manualSelector") == Some(true) {
        errors.not_supported(&at.child("manualSelector"), "true", &["nil", "false"]);
    }
}
