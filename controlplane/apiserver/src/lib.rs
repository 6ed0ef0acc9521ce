//! The API server: a tower `Service` from HTTP requests to responses, usable without a socket.
//!
//! The rooms, in the order data passes them: `server` (TLS, h2) → `chain` (panic recovery, identity,
//! authorization) → `call` → `rest` (verbs), `subresource` → `attempt` (admission, allocation,
//! prepare, validate, compare-and-swap) → `storage` → `cache` → `rest::watch`; beside them `auth`,
//! `discovery`, `openapi`, `table` and `stream` (logs, exec, port-forward through the kubelets).
//! It knows no controller, scheduler or agent.

pub mod attributes;
pub mod identity;
pub mod options;

pub mod server;

mod body;
mod call;
mod chain;
mod clock;
pub mod health;
mod negotiate;

pub mod auth;
pub mod discovery;
pub mod openapi;
pub mod table;

mod admission;
mod allocate;
mod attempt;
mod convert;
mod endpoint;
mod present;
mod rest;
mod selection;
mod stream;
mod subresource;

pub mod bootstrap;

pub mod cache;
pub mod catalog;
pub mod storage;

pub use attributes::Attributes;
pub use auth::AuthOptions;
pub use body::{Body, BoxError};
pub use cache::{Cache, Change, Object};
pub use catalog::ResourceId;
pub use identity::{PeerAddr, PeerCertificates, UserInfo};
pub use options::{KubeletOptions, Options};
pub use server::{ApiServer, StartError, serve};
