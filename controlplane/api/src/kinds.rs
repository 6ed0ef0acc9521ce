//! What is particular to single kinds: defaults that depend on other fields, strategy and validation.
