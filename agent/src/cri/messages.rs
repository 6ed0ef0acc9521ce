//! The messages of the CRI (`k8s.io/cri-api` v0.37.0, `runtime/v1/api.proto`) that this agent sends or
//! reads, declared by hand with only the fields it uses: unknown fields are skipped by protobuf, so a
//! newer runtime stays readable, and no protocol compiler is needed. Field numbers are the contract.
//! Knows nothing of pods.

use prost::Message;

mod container;
mod image;
mod sandbox;
mod stats;
mod streaming;

pub use container::*;
pub use image::*;
pub use sandbox::*;
pub use stats::*;
pub use streaming::*;

/// An answer without fields, and the request of calls whose filter is left out.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub struct VersionRequest {
    #[prost(string, tag = "1")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct VersionResponse {
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    #[prost(string, tag = "4")]
    pub runtime_api_version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {
    #[prost(bool, tag = "1")]
    pub verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RuntimeCondition {
    #[prost(string, tag = "1")]
    pub r#type: String,
    #[prost(bool, tag = "2")]
    pub status: bool,
    #[prost(string, tag = "3")]
    pub reason: String,
    #[prost(string, tag = "4")]
    pub message: String,
}
