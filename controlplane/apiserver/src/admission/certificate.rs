//! Who asks for a certificate is the server's knowledge, not the object's: `spec.username`, `uid`,
//! `groups` and `extra` of a new CertificateSigningRequest are those of the caller.
//!
//! Port of `pkg/registry/certificates/certificates/strategy.go` (`PrepareForCreate`).

use api::Doc;
use api::doc::{List, Object, Value};

use crate::identity::UserInfo;

pub fn set_requestor(doc: &mut Doc<'_>, user: &UserInfo) {
    let UserInfo {
        username,
        uid,
        groups,
        extra,
    } = user;
    let arena = doc.arena();
    let strings = |texts: &[String]| {
        let mut list = List::new_in(arena);
        list.extend(texts.iter().map(|text| Value::string_in(text, arena)));
        Value::List(list)
    };
    let mut extras = Object::new_in(arena);
    for (key, values) in extra {
        extras.set_copied(key, strings(values));
    }
    let groups = strings(groups);
    doc.set_str(&["spec", "username"], username);
    doc.set_str(&["spec", "uid"], uid);
    doc.set(&["spec", "groups"], groups);
    doc.set(&["spec", "extra"], Value::Object(extras));
}
