//! The API server: a tower `Service` from HTTP requests to responses, usable without a socket.
//!
//! The rooms, in the order data passes them: `server` (TLS, h2) → `chain` → `attributes`, `route` →
//! `rest` (verbs) → `attempt` (admission, prepare, validate, compare-and-swap) → `storage` → `cache`
//! → `watch`; beside them `auth`, `discovery`, `openapi`, `table`, `stream` (logs, exec,
//! port-forward). It knows no controller, scheduler or agent.

pub mod attributes;
pub mod identity;

pub mod auth;
pub mod discovery;
pub mod openapi;
pub mod table;

pub mod cache;
pub mod catalog;
pub mod storage;

pub use attributes::Attributes;
pub use cache::{Cache, Change, Object};
pub use catalog::ResourceId;
pub use identity::{PeerAddr, PeerCertificates, UserInfo};
