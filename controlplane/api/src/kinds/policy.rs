//! PodDisruptionBudgets: validation.
//!
//! Port of `pkg/apis/policy/validation/validation.go`.

use crate::doc::Doc;
use crate::kinds::workload::validate::{at_most_all, int_or_percent};
use crate::validate::meta::{Selectors, label_selector};
use crate::validate::path::{Errors, Path};

const POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

/// A PodDisruptionBudget.
pub(crate) fn budget(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    let field = |name: &str| doc.get(&["spec", name]);
    if field("minAvailable").is_some() && field("maxUnavailable").is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid_value(&path, doc.get(&["spec"]), detail);
    }
    for name in ["minAvailable", "maxUnavailable"] {
        let at = path.child(name);
        int_or_percent(field(name), &at, errors);
        at_most_all(field(name), &at, errors);
    }
    label_selector(
        field("selector"),
        Selectors::Strict,
        &path.child("selector"),
        errors,
    );
    let policy = doc.str_at(&["spec", "unhealthyPodEvictionPolicy"]);
    let at = path.child("unhealthyPodEvictionPolicy");
    errors.one_of(&at, policy, &POLICIES, false);
}

/// The status of a PodDisruptionBudget.
pub(crate) fn budget_status(doc: &Doc<'_>, errors: &mut Errors) {
    let path = Path::new("status");
    for field in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        errors.non_negative(&path.child(field), doc.int_at(&["status", field]));
    }
}
