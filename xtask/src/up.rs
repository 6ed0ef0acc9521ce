//! `cargo xtask up`: from a clean clone to a running cluster and the demo's results.

use anyhow::Result;

use crate::images::conformance::Extent;
use crate::lab::{self, Halves, Lab, Place, Spec};
use crate::progress::Progress;
use crate::{build, demo, images, setup};

/// Starts the lab that upstream's tests run on.
pub fn suite(name: &str, halves: Halves, with_build: bool) -> Result<()> {
    let progress = Progress::shown();
    prepare(with_build, &progress)?;
    let spec = Spec::for_suite(name, halves, Extent::Whole, &progress)?;
    let lab = Lab::up(&spec, &progress)?;
    println!(
        "\nexport KUBECONFIG={}\nkubectl get nodes,pods -A -o wide\ncargo xtask down {name}",
        lab.kubeconfig().display()
    );
    Ok(())
}

/// Makes the machine ready for a lab, and builds what runs in it unless that was done before.
pub fn prepare(with_build: bool, progress: &Progress) -> Result<()> {
    if with_build {
        setup::setup(progress)?;
        build::build(progress)?;
    } else {
        setup::machine()?;
    }
    Ok(())
}

/// Starts the lab; idempotent.
pub fn up(mut spec: Spec, with_build: bool, with_demo: bool) -> Result<()> {
    let progress = Progress::shown();
    prepare(with_build, &progress)?;
    let images = images::build()?;
    progress.mark("images built");
    spec.images = images.archives;
    spec.toolbox = Some(images.toolbox);
    let lab = Lab::up(&spec, &progress)?;
    let demo = if with_demo { demo::run(&lab) } else { Ok(()) };
    hints(&lab);
    demo
}

fn hints(lab: &Lab) {
    let name = match lab.name() {
        lab::DEFAULT => String::new(),
        name => format!(" --name {name}"),
    };
    println!(
        "\nexport KUBECONFIG={}\nkubectl get nodes,pods -A -o wide\n\
         cargo xtask lab{name} exec {} -- toolbox get http://{}:{}/\n\
         cargo xtask down {}",
        lab.kubeconfig().display(),
        Place::Outside,
        lab::node_ip(lab.nodes().last().unwrap_or(1)),
        demo::NODE_PORT,
        lab.name(),
    );
}
