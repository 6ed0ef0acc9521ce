//! Certificate signing requests: what they ask for, who may have it, and signing it.
//!
//! `request` parses, `approve` decides, `sign` signs with the cluster CA; `clean` takes pods' requests away
//! that have served. Rules of
//! pkg/apis/certificates/helpers.go and pkg/controller/certificates.

pub mod approve;
pub mod clean;
pub mod request;
pub mod sign;

use crate::kinds::{CertificateSigningRequest, condition};

pub const NODE_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const NODE_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
pub const NODES: &str = "system:nodes";
pub const NODE_USER_PREFIX: &str = "system:node:";
/// Organisation, and with a colon and the node's name the user, of a node's network half.
pub const NET: &str = "windlass:net";

fn has_condition(request: &CertificateSigningRequest, type_: &str) -> bool {
    condition(&request.status.conditions, type_).is_some()
}
