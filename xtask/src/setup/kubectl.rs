//! kubectl: the one on PATH, or one built from the Go module when Go is there.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::{command, workspace};

const KUBERNETES: &str = "v1.37.0";
/// Version of the staging modules that belong to it.
const STAGING: &str = "v0.37.0";

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
    progress.mark("building kubectl (about 90 s)");
    build().context("kubectl from its Go module")
}

/// Kubernetes' go.mod replaces its staging modules by relative paths; as a dependency they must
/// be pinned to their released versions.
fn build() -> Result<()> {
    let dir = workspace::target().join("kubectl");
    fs::create_dir_all(&dir)?;
    let go = |args: &[&str]| -> Result<String> {
        let mut go = Command::new("go");
        go.args(args)
            .current_dir(&dir)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=mod");
        command::output(&mut go)
    };
    if !dir.join("go.mod").exists() {
        go(&["mod", "init", "windlass.invalid/kubectl"])?;
    }
    let module = format!("k8s.io/kubernetes@{KUBERNETES}");
    let found: serde_json::Value =
        serde_json::from_str(&go(&["mod", "download", "-json", &module])?)?;
    let upstream = fs::read_to_string(found["GoMod"].as_str().context("no go.mod")?)?;
    for line in upstream.lines() {
        if let Some((name, target)) = line.trim().split_once(" => ")
            && target.starts_with("./staging/")
        {
            go(&[
                "mod",
                "edit",
                "-replace",
                &format!("{name}={name}@{STAGING}"),
            ])?;
        }
    }
    go(&[
        "mod",
        "edit",
        "-require",
        &module,
        "-godebug=default=go1.26",
    ])?;
    let main = "//go:build tools\n\npackage tools\n\nimport _ \"k8s.io/kubernetes/cmd/kubectl\"\n";
    fs::write(dir.join("tools.go"), main)?;
    go(&["mod", "tidy"])?;
    let version = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES} \
         -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
    );
    fs::create_dir_all(workspace::tools())?;
    let out = workspace::tools().join("kubectl").display().to_string();
    go(&[
        "build",
        "-trimpath",
        "-ldflags",
        &version,
        "-o",
        &out,
        "k8s.io/kubernetes/cmd/kubectl",
    ])?;
    Ok(())
}
