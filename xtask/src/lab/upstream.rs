//! The halves of a cluster that are upstream's: etcd, kube-apiserver, kube-controller-manager and
//! kube-scheduler in node 1; kubelet and kube-proxy on every node, CoreDNS in pods. The programs are
//! built on demand ([`crate::upstream`]) and run as units of the nodes, with the flags an ordinary
//! installation has: nodes join by TLS bootstrap with a bootstrap token, whoever serves the API.

mod control_plane;
mod node;
mod pki;

pub use control_plane::start as control_plane;
pub use node::{MACHINE_SETTINGS, cni_template, dns, start as node};

use anyhow::Result;

use super::{Half, Lab, Spec, up};
use crate::progress::Progress;
use crate::upstream::{self, Program};

/// Puts the programs of upstream's halves where every node sees them.
pub fn install(lab: &Lab, spec: &Spec, progress: &Progress) -> Result<()> {
    let mut programs: Vec<Program> = Vec::new();
    if spec.control_plane == Half::Upstream {
        programs.extend(control_plane::PROGRAMS);
    }
    if spec.node == Half::Upstream {
        programs.extend(node::PROGRAMS);
        node::install_plugins(lab, progress)?;
    }
    for program in programs {
        up::link(&upstream::program(progress, &program)?, &lab.programs())?;
    }
    Ok(())
}

/// The command line of a unit: a program of the lab and its flags.
fn argv(lab: &Lab, program: &str, flags: &[String]) -> Vec<String> {
    let mut argv = vec![lab.programs().join(program).display().to_string()];
    argv.extend_from_slice(flags);
    argv
}
