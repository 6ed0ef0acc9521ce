//! YAML text to an untyped tree.
use bumpalo::Bump;

use super::DecodeError;
use crate::doc::Value;

pub(super) fn parse<'a>(
    bytes: &'a [u8],
    arena: &'a Bump,
    problems: &mut Vec<String>,
) -> Result<Value<'a>, DecodeError> {
    super::json::parse(bytes, arena, problems)
}
