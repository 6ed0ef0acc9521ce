//! The API as data and pure functions: every resource the server has, and what it means to decode,
//! default, patch, prepare and validate an object of it.
//!
//! The rooms, in the order data passes them: [`facts`] (the checked-in rows) → [`schema`] → [`doc`]
//! → [`codec`] (JSON, YAML, protobuf, canonical bytes) → [`patch`] → [`default`], [`strategy`],
//! [`validate`] → `kinds` (only what is particular to a kind). [`status`] is the error type of the
//! HTTP edge; [`header`] is the index over stored bytes; [`selector`], [`quantity`] and [`time`] are
//! values used on the way.
//!
//! Nothing here knows sockets, tasks, clocks or the store: `now` and ids are arguments.

pub mod facts;
pub mod schema;

pub mod doc;

pub mod codec;
pub mod patch;

pub mod default;
pub mod kinds;
pub mod strategy;
pub mod validate;
pub mod warn;

pub mod cron;
pub mod expression;
pub mod header;
pub mod limit_range;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod selector;
pub mod status;
pub mod time;

pub use codec::{DecodeError, FieldValidation, Format, canonical, decode};
pub use doc::{Doc, List, Object, Value};
pub use facts::{Column, Facts, Resource, Subresource};
pub use header::Header;
pub use patch::PatchKind;
pub use schema::{Field, Struct, StructId, Type};
pub use status::{Cause, FieldError, Status};
