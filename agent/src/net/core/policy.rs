//! NetworkPolicies of the local endpoints: from state to rows, in the order that keeps every verdict
//! old or new.

use std::time::Instant;

use super::Core;
use crate::net::plan::endpoint::Verdicts;
use crate::net::plan::node::RangeClasses;
use crate::net::rows::Step;
use crate::state::ObjectKey;

/// Policies as planned.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// Classes of ranges, for the node plan.
    pub(super) ranges: RangeClasses,
    pub(super) ranges_new: bool,
}

impl Policy {
    pub(super) fn verdicts(&self, _pod: &ObjectKey) -> Verdicts {
        Verdicts::default()
    }
}

impl Core {
    pub(super) fn plan_policy(&mut self, now: Instant) {
        let steps: Vec<Step> = self.endpoint_rows().into_iter().map(Step::Put).collect();
        self.writer.apply(&steps, now);
    }
}
