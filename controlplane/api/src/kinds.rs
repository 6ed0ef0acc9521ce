//! What is particular to single kinds: defaults that depend on other fields, strategy and validation.

pub(crate) mod certificate;
pub(crate) mod defaults;
pub(crate) mod namespace;
pub(crate) mod pod;
pub(crate) mod service;
pub(crate) mod workload;
