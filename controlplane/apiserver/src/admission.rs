//! Built-in admission: what changes a write or refuses it beyond the object's own validity.
//!
//! One file per plugin, each a function named after upstream's plugin; order as in
//! `pkg/kubeapiserver/options/plugins.go`.

mod certificate;
mod limits;
pub mod matching;
mod namespace;
mod node;
mod pod;
mod pod_certificate;
mod policy;
mod priority;
pub mod quota;
mod runtime_class;
pub mod webhook;

use api::{Doc, FieldError, Object as DocObject, Resource, Status, Value};

use crate::{cache::Object, call::Call, storage::Write};

/// One pass of a write through the plugins.
pub struct Admission<'c> {
    pub call: &'c Call,
    pub row: &'static Resource,
    /// The stored version; none for a creation.
    pub old: Option<(&'c Object, &'c Doc<'c>)>,
    pub warnings: Vec<String>,
    /// A condition of the write: the namespace is still the one that was looked at.
    pub guard: Option<Write>,
}

/// What is about to be stored.
#[derive(Clone, Copy)]
pub struct Written<'w> {
    /// `""` for the object's own endpoint.
    pub subresource: &'w str,
    pub namespace: &'w str,
    pub name: &'w str,
    /// Canonical JSON.
    pub bytes: &'w [u8],
}

// === impl Admission ===

impl<'c> Admission<'c> {
    pub fn new(
        call: &'c Call,
        row: &'static Resource,
        old: Option<(&'c Object, &'c Doc<'c>)>,
    ) -> Self {
        Self {
            call,
            row,
            old,
            warnings: Vec::new(),
            guard: None,
        }
    }

    /// Plugins that may change the object.
    pub fn mutate(&mut self, doc: &mut Doc<'_>) -> Result<(), Status> {
        self.guard = namespace::lifecycle(self, doc)?;
        if self.is("", "namespaces") {
            namespace::label(doc);
        }
        if self.is("certificates.k8s.io", "certificatesigningrequests") && self.is_create() {
            certificate::set_requestor(doc, &self.call.user);
        }
        if self.is("", "nodes") && self.is_create() {
            node::taint(doc);
        }
        if self.is("", "pods") && self.call.subresource.is_none() {
            pod::mutate(self, doc)?;
        }
        Ok(())
    }

    /// What is wrong with a well-formed object that `api` cannot tell: certificates, which it does not read,
    /// and parameters that the user may not. `status_of` is what an update of the status starts from.
    pub fn check(&self, doc: &Doc<'_>, status_of: Option<&Doc<'_>>) -> Option<FieldError> {
        if !self.is("certificates.k8s.io", "podcertificaterequests") {
            return policy::check_params(self, doc);
        }
        match status_of {
            Some(old) => pod_certificate::check_status(self.call, doc, old),
            None if self.is_create() => pod_certificate::check_request(doc),
            None => None,
        }
    }

    /// Plugins that look at the final bytes. Webhooks are asked after them, and quotas charged last
    /// (`quota`), so that nobody pays for what is refused.
    pub fn admit_written(&self, written: &Written<'_>) -> Result<(), Status> {
        limits::check(self, written)
    }

    /// Plugins that only look.
    pub fn validate(&mut self, doc: &Doc<'_>) -> Result<(), Status> {
        if self.is("scheduling.k8s.io", "priorityclasses") {
            priority::check_class(self, doc)?;
        }
        let old = self.old.map(|(object, _)| object.bytes.as_ref());
        self.call
            .server
            .auth()
            .admit(&self.call.user, &self.call.attributes, Some(doc), old)
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.row.group == group && self.row.plural == plural
    }

    pub fn is_create(&self) -> bool {
        self.old.is_none()
    }
}

/// Whether an object may be deleted at all.
pub fn admit_delete(call: &Call, old: &Object) -> Result<(), Status> {
    namespace::may_delete(call)?;
    call.server
        .auth()
        .admit(&call.user, &call.attributes, None, Some(&old.bytes))
}

/// Appends JSON text of our own to a list, making the list when it is absent.
fn append(doc: &mut Doc<'_>, path: &[&str], json: &str) {
    let arena = doc.arena();
    let bytes = arena.alloc_str(json).as_bytes();
    let value = api::codec::parse(api::Format::Json, bytes, arena)
        .unwrap_or_else(|_| Value::Object(DocObject::new_in(arena)));
    if let Some(list) = doc.get_mut(path).and_then(Value::as_list_mut) {
        list.push(value);
        return;
    }
    let mut list = api::List::new_in(arena);
    list.push(value);
    let Some((field, parents)) = path.split_last() else {
        return;
    };
    // `Doc::set` would take a list on the way for a missing object.
    match doc.get_mut(parents).and_then(Value::as_object_mut) {
        Some(parent) => parent.set_copied(field, Value::List(list)),
        None => doc.set(path, Value::List(list)),
    }
}
