//! Projections of EndpointSlice and Endpoints: typed both ways, the controllers own them whole.

use k8s_openapi::api::core::v1::EndpointSubset;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

use super::projection;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub metadata: ObjectMeta,
    pub address_type: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_is_empty")]
    pub ports: Vec<EndpointPort>,
}
projection!(
    EndpointSlice,
    NamespaceResourceScope,
    true,
    "discovery.k8s.io",
    "v1",
    "endpointslices"
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    pub metadata: ObjectMeta,
    pub subsets: Vec<EndpointSubset>,
}
projection!(
    Endpoints,
    NamespaceResourceScope,
    true,
    "",
    "v1",
    "endpoints"
);

/// Upstream writes an empty list of a required field as null.
fn null_is_empty<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
