//! What the tests run against: a control plane with hollow nodes, or a lab. Started for a run and
//! removed after it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Options;
use super::hollow::Hollow;
use super::run::{Programs, Target};
use crate::lab::{self, Lab, Place, Spec};
use crate::progress::Progress;
use crate::{build, images, kubeconfig, setup};

/// Name of the lab.
const LAB: &str = "conformance";
/// Port of the API server in node 1.
const API_PORT: u16 = 6443;

/// A running cluster.
pub enum Cluster {
    Hollow(Hollow),
    Lab { lab: Lab, target: Target },
}

/// Builds what a cluster consists of.
pub fn build(options: &Options, progress: &Progress) -> Result<()> {
    match options.without_nodes() {
        true => build::hollow(progress),
        false => {
            setup::setup(progress)?;
            build::build(progress).map(drop)
        }
    }
}

impl Cluster {
    /// Starts it; `dir` is the run's folder.
    pub fn start(
        options: &Options,
        dir: &Path,
        programs: &Programs,
        progress: &Progress,
    ) -> Result<Cluster> {
        match options.without_nodes() {
            true => Hollow::start(dir, &programs.kubectl, progress).map(Cluster::Hollow),
            false => start_lab(dir, progress),
        }
    }

    /// Ends everything; logs are left in `dir`.
    pub fn stop(self, dir: &Path) -> Result<()> {
        match self {
            Cluster::Hollow(hollow) => hollow.stop(),
            Cluster::Lab { lab, .. } => {
                let logs = save_logs(&lab, dir);
                lab.down()?;
                logs
            }
        }
    }

    /// What e2e.test is told.
    pub fn target(&self) -> &Target {
        match self {
            Cluster::Hollow(hollow) => hollow.target(),
            Cluster::Lab { target, .. } => target,
        }
    }

    /// A command that runs where the cluster is reached as its users reach it: for a lab in the
    /// outside world, which knows the nodes and no pod range.
    pub fn command(&self, argv: &[String]) -> Result<Command> {
        match self {
            Cluster::Hollow(_) => {
                let mut command = Command::new(&argv[0]);
                command.args(&argv[1..]);
                Ok(command)
            }
            Cluster::Lab { lab, .. } => lab.exec(Place::Outside, argv),
        }
    }
}

fn start_lab(dir: &Path, progress: &Progress) -> Result<Cluster> {
    let lab = Lab::named(LAB)?;
    lab.down()?;
    lab::shared::guard(&lab)?;
    let images = images::build()?;
    let spec = Spec {
        images: images.archives,
        toolbox: Some(images.toolbox),
        ..Spec::new(LAB)
    };
    let lab = Lab::up(&spec, progress)?;
    let target = Target {
        kubeconfig: dir.join("kubeconfig"),
        nodes: nodes(&lab)?.len(),
    };
    let text = fs::read_to_string(lab.kubeconfig())?;
    let address = lab::node_ip(1).to_string();
    fs::write(
        &target.kubeconfig,
        kubeconfig::with_address(&text, &address, API_PORT),
    )?;
    Ok(Cluster::Lab { lab, target })
}

/// The lab's nodes, by their directories.
fn nodes(lab: &Lab) -> Result<Vec<Place>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(lab.dir())? {
        let place = entry?.file_name().to_string_lossy().parse();
        nodes.extend(place.ok().filter(|place| matches!(place, Place::Node(_))));
    }
    Ok(nodes)
}

fn save_logs(lab: &Lab, dir: &Path) -> Result<()> {
    for place in nodes(lab)? {
        let from = lab.place_dir(place).join("log");
        let to = dir.join(place.to_string());
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}
