//! Projections: for each kind the controllers read, a small struct with only the fields used.
//!
//! Owns: the `Deserialize` structs and their `kube::Resource` implementations. Templates stay
//! `Value`, so that fields this version does not know pass through unchanged. Everything is
//! optional or defaulted: the API server has validated the objects already.

pub mod apps;
pub mod batch;
pub mod certificates;
pub mod core;
pub mod discovery;
pub mod policy;
pub mod rbac;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use crate::resource::Resource;

pub use apps::*;
pub use batch::*;
pub use certificates::*;
pub use core::*;
pub use discovery::*;
pub use policy::*;
pub use rbac::*;

/// A kind the shared view holds.
pub trait Projection:
    kube::Resource<DynamicType = ()>
    + DeserializeOwned
    + Clone
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    const RESOURCE: Resource;

    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}

/// Implements `kube::Resource` and `Projection` for a struct with a `metadata` field.
macro_rules! projection {
    ($type:ident, $scope:ident, $namespaced:literal, $group:literal, $version:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = kube::core::$scope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                stringify!($type).into()
            }
            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl $crate::kinds::Projection for $type {
            const RESOURCE: $crate::resource::Resource = $crate::resource::Resource {
                group: $group,
                version: $version,
                plural: $plural,
                kind: stringify!($type),
                namespaced: $namespaced,
            };
        }
    };
}
pub(crate) use projection;
