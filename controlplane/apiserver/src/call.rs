//! One request on a resource, as the verbs see it.

use api::{FieldValidation, Format, Resource, Status, Subresource};
use bytes::Bytes;
use http::{header, request::Parts};

use crate::{
    ApiServer, attributes::Attributes, catalog::ResourceId, clock, identity::UserInfo,
    negotiate::Output,
};

/// A request that was authenticated, authorized, routed and read.
pub struct Call {
    pub server: ApiServer,
    pub user: UserInfo,
    pub attributes: Attributes,
    pub resource: &'static Resource,
    /// None for resources whose objects are not kept (reviews).
    pub id: Option<ResourceId>,
    pub subresource: Option<&'static Subresource>,
    pub output: Output,
    pub parts: Parts,
    pub body: Bytes,
    /// When the request arrived, seconds since the Unix epoch.
    pub now: i64,
}

// === impl Call ===

impl Call {
    pub fn stored(&self) -> Result<ResourceId, Status> {
        self.id.ok_or_else(Status::method_not_allowed)
    }

    pub fn header(&self, name: &header::HeaderName) -> Option<&str> {
        self.parts.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub fn content_type(&self) -> &str {
        self.header(&header::CONTENT_TYPE).unwrap_or_default()
    }

    /// The encoding of the body.
    pub fn format(&self) -> Result<Format, Status> {
        Format::of_media_type(self.content_type()).ok_or_else(|| {
            Status::unsupported_media_type(&[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
            ])
        })
    }

    /// `dryRun=All`; other values were refused.
    pub fn dry_run(&self) -> bool {
        self.attributes.param("dryRun").is_some()
    }

    /// `fieldValidation`; unknown values were refused.
    pub fn field_validation(&self) -> FieldValidation {
        let text = self.attributes.param("fieldValidation").unwrap_or_default();
        FieldValidation::parse(text).unwrap_or_default()
    }

    pub fn now_text(&self) -> String {
        clock::rfc3339(self.now)
    }

    pub fn not_found(&self) -> Status {
        let Resource { group, plural, .. } = self.resource;
        Status::not_found(group, plural, &self.attributes.name)
    }
}
