//! What the tests run against: a control plane with hollow nodes, or a lab. Started for a run and
//! removed after it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Options;
use super::hollow::Hollow;
use super::run::{Programs, Target};
use crate::images::conformance::Extent;
use crate::lab::{self, Lab, Place, Spec};
use crate::progress::Progress;
use crate::{build, up};

/// Name of the lab.
const LAB: &str = "conformance";

/// A running cluster.
pub enum Cluster {
    Hollow(Hollow),
    Lab { lab: Lab, target: Target },
}

/// Makes the machine ready and builds what a cluster consists of, unless that was done before.
pub fn prepare(options: &Options, progress: &Progress) -> Result<()> {
    match (options.without_nodes(), options.no_build) {
        (true, false) => build::hollow(progress),
        (true, true) => Ok(()),
        (false, no_build) => up::prepare(!no_build, progress),
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
            false => start_lab(options, dir, progress),
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

fn start_lab(options: &Options, dir: &Path, progress: &Progress) -> Result<Cluster> {
    let lab = Lab::named(LAB)?;
    lab.down()?;
    let extent = match options.light {
        true => Extent::Light,
        false => Extent::Whole,
    };
    let spec = Spec::for_suite(LAB, options.halves, extent, progress)?;
    lab::shared::guard(&lab)?;
    let started = Lab::up(&spec, progress);
    let lab = Lab::named(LAB)?;
    if let Err(error) = started {
        // why it did not start stands in its logs, if there are any yet
        let logs = save_logs(&lab, dir);
        lab.down()?;
        return Err(error.context(match logs {
            Ok(()) => format!("the lab did not start; its logs: {}", dir.display()),
            Err(_) => "the lab did not start".to_owned(),
        }));
    }
    let target = Target {
        kubeconfig: lab.kubeconfig_inside(),
        nodes: lab.nodes().count(),
    };
    Ok(Cluster::Lab { lab, target })
}

fn save_logs(lab: &Lab, dir: &Path) -> Result<()> {
    for place in lab.nodes().map(Place::Node) {
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
