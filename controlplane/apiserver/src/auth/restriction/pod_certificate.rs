//! A node asks for certificates of pods it runs, for their service account, and for signers they name.
//!
//! Port of `admitPodCertificateRequest` in `plugin/pkg/admission/noderestriction/admission.go`.

use api::{Doc, Status};
use serde::Deserialize;

use super::{MIRROR_ANNOTATION, NodeWrite};
use crate::attributes::Attributes;
use crate::auth::lenient;
use crate::cache::Object;
use crate::catalog::ResourceId;

/// What a node must be allowed to ask of a signer that no volume of the pod names.
const FURTHER_VERB: &str = "request-serviceaccounts-podcertificate-signer";

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    service_account_name: String,
    volumes: Vec<Volume>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Volume {
    projected: Projected,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Projected {
    sources: Vec<Source>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Source {
    pod_certificate: Option<PodCertificate>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodCertificate {
    signer_name: String,
}

impl NodeWrite<'_> {
    pub(super) fn pod_certificate(&self) -> Result<(), Status> {
        let Some(new) = self.new.filter(|_| self.asked.verb == "create") else {
            return self.forbid(format!("unexpected operation {}", self.asked.verb));
        };
        if !self.asked.subresource.is_empty() {
            let part = &self.asked.subresource;
            return self.forbid(format!("unexpected subresource {part}"));
        }
        self.check_node(new)?;
        let spec = self.check_pod(new)?;
        self.check_account(new)?;
        self.check_signer(new, &spec)
    }

    fn check_node(&self, new: &Doc<'_>) -> Result<(), Status> {
        let (named, node) = (text(new, "nodeName"), self.node);
        if named != node {
            return self.forbid(format!(
                "PodCertificateRequest.Spec.NodeName={named:?}, which is not the requesting node {node:?}"
            ));
        }
        let found = self.find("node", "nodes", "", named)?;
        let (uid, is) = (text(new, "nodeUID"), found.uid());
        if uid == is {
            return Ok(());
        }
        let pod = self.pod_name(new);
        Err(again(format!(
            "PodCertificateRequest for pod {pod:?} names node UID {uid:?}, inconsistent with the running node ({is:?})"
        )))
    }

    /// The pod is a real one and runs here.
    fn check_pod(&self, new: &Doc<'_>) -> Result<PodSpec, Status> {
        let pod = self.pod_name(new);
        let found = self.find("pod", "pods", &self.asked.namespace, text(new, "podName"))?;
        let (uid, is) = (text(new, "podUID"), found.uid());
        if uid != is {
            return Err(again(format!(
                "PodCertificateRequest for pod {pod:?} contains pod UID ({uid:?}) which differs from running pod {is:?}"
            )));
        }
        let node = text(new, "nodeName");
        let annotations = found.field("metadata.annotations").unwrap_or_default();
        let annotations: serde_json::Value = serde_json::from_str(annotations).unwrap_or_default();
        let spec = found.field("spec").unwrap_or_default();
        let spec: PodSpec = lenient::from_slice(spec.as_bytes()).unwrap_or_default();
        let (named, is) = (
            text(new, "serviceAccountName"),
            spec.service_account_name.as_str(),
        );
        if found.node_name() != Some(node) {
            self.forbid(format!(
                "pod {pod:?} is not running on node {node:?} named in the PodCertificateRequest"
            ))?;
        }
        if annotations.get(MIRROR_ANNOTATION).is_some() {
            self.forbid(format!("pod {pod:?} is a mirror pod"))?;
        }
        if named != is {
            self.forbid(format!(
                "PodCertificateRequest for pod {pod:?} contains serviceAccountName ({named:?}) that differs from running pod ({is:?})"
            ))?;
        }
        Ok(spec)
    }

    fn check_account(&self, new: &Doc<'_>) -> Result<(), Status> {
        let name = text(new, "serviceAccountName");
        let namespace = &self.asked.namespace;
        let found = self.find("service account", "serviceaccounts", namespace, name)?;
        let (uid, is) = (text(new, "serviceAccountUID"), found.uid());
        if uid == is {
            return Ok(());
        }
        let pod = self.pod_name(new);
        Err(again(format!(
            "PodCertificateRequest for pod {pod:?} names service account UID {uid:?}, which differs from the running service account ({is:?})"
        )))
    }

    /// A volume of the pod names the signer, or the node may ask for it all the same.
    fn check_signer(&self, new: &Doc<'_>, spec: &PodSpec) -> Result<(), Status> {
        let signer = text(new, "signerName");
        let sources = spec.volumes.iter().flat_map(|v| &v.projected.sources);
        let mut certificates = sources.filter_map(|source| source.pod_certificate.as_ref());
        if certificates.any(|certificate| certificate.signer_name == signer) {
            return Ok(());
        }
        let further = Attributes {
            verb: FURTHER_VERB.to_owned(),
            is_resource: true,
            group: self.asked.group.clone(),
            version: self.asked.version.clone(),
            // RBAC has no slashes in resources.
            resource: signer.replace('/', ":"),
            namespace: self.asked.namespace.clone(),
            name: text(new, "serviceAccountName").to_owned(),
            ..Attributes::default()
        };
        if (self.may)(&further) {
            return Ok(());
        }
        let pod = self.pod_name(new);
        self.forbid(format!(
            "pod {pod:?} does not mount a podCertificate projected volume for signer {signer:?}"
        ))
    }

    fn find(
        &self,
        what: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<std::sync::Arc<Object>, Status> {
        let id = ResourceId::named("", plural);
        let shown = match namespace {
            "" => name.to_owned(),
            namespace => format!("{namespace}/{name}"),
        };
        self.cache.get(id, namespace, name).ok_or_else(|| {
            again(format!(
                "while retrieving {what} {shown:?} named in the PodCertificateRequest: {plural} {name:?} not found"
            ))
        })
    }

    fn pod_name(&self, new: &Doc<'_>) -> String {
        format!("{}/{}", self.asked.namespace, text(new, "podName"))
    }
}

fn text<'d>(new: &'d Doc<'_>, field: &str) -> &'d str {
    new.str_at(&["spec", field]).unwrap_or_default()
}

/// What another try may find otherwise is no 403 but upstream's error without a reason.
fn again(why: String) -> Status {
    Status::new(500, "", why)
}
