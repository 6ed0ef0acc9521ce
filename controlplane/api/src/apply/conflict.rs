//! Conflicts of an apply: fields it would change that others manage.
//!
//! Port of `internal/conflict.go` of apimachinery's managedfields, in its words. Managers come in the
//! order of their texts; upstream's causes come in no order.

use bumpalo::Bump;

use super::managers::{Identity, Operation};
use super::set::{Set, show_path};
use crate::status::{Cause, Status, quote};

/// Fields under the hands of others, by manager.
#[derive(Clone, Debug, Default)]
pub struct Conflicts<'a>(Vec<(Identity<'a>, Set<'a>)>);

// === impl Conflicts ===

impl<'a> Conflicts<'a> {
    /// Adds the fields of one manager.
    pub(super) fn add(&mut self, manager: Identity<'a>, fields: Set<'a>) {
        self.0.push((manager, fields));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The conflicts about other fields than those.
    pub(super) fn without(self, allowed: Set<'_>, arena: &'a Bump) -> Conflicts<'a> {
        let mut left = self.0;
        left.retain_mut(|(_, fields)| {
            *fields = fields.difference(allowed, arena);
            !fields.is_empty()
        });
        Conflicts(left)
    }

    /// 409 with a cause per field.
    pub fn to_status(&self) -> Status {
        let mut managers: Vec<&(Identity<'a>, Set<'a>)> = self.0.iter().collect();
        managers.sort_by_cached_key(|(manager, _)| manager.order_text());
        let mut causes = Vec::new();
        let mut lines = Vec::new();
        for (manager, fields) in managers {
            let who = shown(manager);
            lines.push(format!("conflicts with {who}:"));
            fields.paths(&mut |path| {
                let field = show_path(path);
                lines.push(format!("- {field}"));
                causes.push(Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {who}"),
                    field,
                });
            });
        }
        let message = match &causes[..] {
            [one] => format!(
                "Apply failed with 1 conflict: {}: {}",
                one.message, one.field
            ),
            many => format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                lines.join("\n")
            ),
        };
        causes
            .into_iter()
            .fold(Status::new(409, "Conflict", message), Status::with_cause)
    }
}

fn shown(manager: &Identity<'_>) -> String {
    let mut text = quote(manager.name);
    if !manager.subresource.is_empty() {
        text = format!("{text} with subresource {}", quote(manager.subresource));
    }
    match manager.operation {
        Operation::Apply => text,
        Operation::Update => format!("{text} using {}", manager.version),
    }
}
