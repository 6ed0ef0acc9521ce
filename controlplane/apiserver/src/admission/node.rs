//! NodeTaint: a new node takes no pods before the node controller has seen it ready.
//!
//! Port of `plugin/pkg/admission/nodetaint/admission.go`.

use api::Doc;

use super::append;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Taints a new node, unless it is already.
pub fn taint(doc: &mut Doc<'_>) {
    let path = ["spec", "taints"];
    let tainted = doc.list_at(&path).iter().any(|taint| {
        taint.str_of("key") == Some(NOT_READY) && taint.str_of("effect") == Some("NoSchedule")
    });
    if !tainted {
        let taint = format!(r#"{{"key":"{NOT_READY}","effect":"NoSchedule"}}"#);
        append(doc, &path, &taint);
    }
}
