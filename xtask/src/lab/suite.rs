//! The lab that upstream's tests run on: what they expect of a cluster beyond a lab's defaults.

use anyhow::Result;

use super::{Halves, Spec};
use crate::images::conformance::Extent;
use crate::progress::Progress;
use crate::{images, setup, upstream};

/// The tests expect two nodes that take any pod.
const NODES: u8 = 2;

impl Spec {
    /// A lab for upstream's tests; builds what it needs. containerd is upstream's newest (1.6 has no
    /// image volumes), a light one has the machine's. Tests run in the outside world ([`super::Place::Outside`]) with
    /// [`super::Lab::kubeconfig_inside`].
    pub fn for_suite(
        name: &str,
        halves: Halves,
        extent: Extent,
        progress: &Progress,
    ) -> Result<Spec> {
        setup::for_suite(progress)?;
        let own = images::build()?;
        let layout = images::conformance::build(extent, progress)?;
        let mut spec = Spec::new(name);
        spec.nodes = NODES;
        spec.control_plane = halves.control_plane;
        spec.node = halves.node;
        if extent == Extent::Whole {
            for beside in &upstream::CONTAINERD[1..] {
                upstream::program(progress, beside)?;
            }
            spec.containerd = upstream::program(progress, &upstream::CONTAINERD[0])?;
        }
        spec.images = own.archives;
        spec.images.push(layout.clone());
        spec.registry = Some(layout);
        spec.toolbox = Some(own.toolbox);
        spec.routes_to_pods = true;
        Ok(spec)
    }
}
