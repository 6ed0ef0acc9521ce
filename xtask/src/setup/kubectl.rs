//! kubectl: the one on PATH, or one built from the Go module when Go is there.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::{command, upstream, workspace};

pub fn setup(progress: &Progress) -> Result<()> {
    if workspace::kubectl().is_some() {
        return Ok(());
    }
    if !command::exists("go") {
        bail!(
            "kubectl is not installed and there is no Go to build it with. Install it as \
             https://kubernetes.io/docs/tasks/tools/ says, or install Go, and run this again"
        );
    }
    let built =
        upstream::program(progress, &upstream::KUBECTL).context("kubectl from its Go module")?;
    let link = workspace::tools().join("kubectl");
    fs::create_dir_all(workspace::tools())?;
    // a link whose target is gone is no file, and in the way
    let _ = fs::remove_file(&link);
    symlink(built, &link).with_context(|| link.display().to_string())
}
