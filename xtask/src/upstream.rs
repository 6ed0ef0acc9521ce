//! Programs of other projects, built on demand from the Go module proxy: the one home of "which
//! program, from which pinned module, with which flags". Each Go module below `tests/upstream` pins
//! one project by go.mod and go.sum. Results lie outside the tree, so that every clone and every
//! `cargo clean` finds them again:
//!
//! ```text
//!   $WINDLASS_CACHE, else $XDG_CACHE_HOME/windlass, else ~/.cache/windlass
//!   └─ upstream/kubernetes-v1.37.0/bin/kubectl, kubectl.key (what it was made of), kubectl.lock
//! ```
//!
//! A program is built again when its key differs: go.mod, package, flags. Knows nothing of what the
//! programs are for.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::{command, workspace};

/// One upstream project: a folder below `tests/upstream` with go.mod, go.sum and a file of imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    pub folder: &'static str,
    /// Module path; its version in go.mod is the version of the programs.
    pub path: &'static str,
}

/// How `go` makes a program of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `go build` of a main package.
    Main,
    /// `go test -c`: the package's tests as a program.
    Tests,
}

/// One program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// File name, as others look for it on PATH.
    pub name: &'static str,
    pub module: Module,
    pub package: &'static str,
    pub kind: Kind,
    /// Variables that the linker sets to the module's version, or to the part of it that they name.
    pub versions: &'static [&'static str],
    pub tags: &'static [&'static str],
    /// Roughly, on two cores with an empty build cache: shown to who waits for it.
    pub seconds: u32,
}

pub const KUBERNETES: Module = Module {
    folder: "kubernetes",
    path: "k8s.io/kubernetes",
};

const KUBERNETES_VERSIONS: &[&str] = &[
    "k8s.io/component-base/version.gitVersion",
    // tests choose by them what pods may look like
    "k8s.io/component-base/version.gitMajor",
    "k8s.io/component-base/version.gitMinor",
    "k8s.io/client-go/pkg/version.gitVersion",
];

/// A program of `cmd/` of Kubernetes.
const fn kubernetes(name: &'static str, package: &'static str, seconds: u32) -> Program {
    Program {
        name,
        module: KUBERNETES,
        package,
        kind: Kind::Main,
        versions: KUBERNETES_VERSIONS,
        tags: &[],
        seconds,
    }
}

/// The conformance suite.
pub const E2E: Program = Program {
    kind: Kind::Tests,
    ..kubernetes("e2e.test", "k8s.io/kubernetes/test/e2e", 150)
};
/// Runs it in parallel; of the very version that the suite is built with.
pub const GINKGO: Program = Program {
    versions: &[],
    ..kubernetes("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo", 10)
};
pub const KUBECTL: Program = kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl", 80);
pub const AGNHOST: Program = kubernetes("agnhost", "k8s.io/kubernetes/test/images/agnhost", 10);
pub const KUBE_APISERVER: Program = kubernetes(
    "kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-apiserver",
    170,
);
pub const KUBE_CONTROLLER_MANAGER: Program = kubernetes(
    "kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    60,
);
pub const KUBE_SCHEDULER: Program =
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 30);
pub const KUBE_PROXY: Program = kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 30);
pub const KUBELET: Program = kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet", 90);

/// Every program, for who knows only the name.
pub const PROGRAMS: [&Program; 20] = [
    &E2E,
    &GINKGO,
    &KUBECTL,
    &AGNHOST,
    &KUBE_APISERVER,
    &KUBE_CONTROLLER_MANAGER,
    &KUBE_SCHEDULER,
    &KUBE_PROXY,
    &KUBELET,
    &NNP,
    &CONTAINERD[0],
    &CONTAINERD[1],
    &CONTAINERD[2],
    &CNI[0],
    &CNI[1],
    &CNI[2],
    &CNI[3],
    &ETCD,
    &COREDNS,
    &SAMPLE_APISERVER,
];

/// A program by its name.
pub fn named(name: &str) -> Result<&'static Program> {
    let found = PROGRAMS.into_iter().find(|program| program.name == name);
    found.with_context(|| {
        let names: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
        format!("{name:?} is not one of {}", names.join(", "))
    })
}

/// A program outside of Kubernetes' own module.
const fn other(
    name: &'static str,
    module: Module,
    package: &'static str,
    versions: &'static [&'static str],
    seconds: u32,
) -> Program {
    Program {
        name,
        module,
        package,
        kind: Kind::Main,
        versions,
        tags: &[],
        seconds,
    }
}

/// Checks that a container's processes gain no privileges; the program of an image.
pub const NNP: Program = Program {
    versions: &[],
    ..kubernetes("nnp", "k8s.io/kubernetes/test/images/nonewprivs", 5)
};

pub const CONTAINERD_MODULE: Module = Module {
    folder: "containerd",
    path: "github.com/containerd/containerd/v2",
};

const fn containerd(name: &'static str, package: &'static str, seconds: u32) -> Program {
    const VERSION: &[&str] = &["github.com/containerd/containerd/v2/version.Version"];
    Program {
        // no cgo, and no such file systems in a lab
        tags: &["no_btrfs", "no_devmapper", "no_zfs"],
        ..other(name, CONTAINERD_MODULE, package, VERSION, seconds)
    }
}

/// containerd with its shim and its client: one release, side by side.
pub const CONTAINERD: [Program; 3] = [
    containerd(
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd",
        90,
    ),
    containerd(
        "containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        10,
    ),
    containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr", 20),
];

pub const CNI_MODULE: Module = Module {
    folder: "cni",
    path: "github.com/containernetworking/plugins",
};

const fn cni(name: &'static str, package: &'static str) -> Program {
    other(name, CNI_MODULE, package, &[], 5)
}

/// The plugins of a node whose network is a bridge.
pub const CNI: [Program; 4] = [
    cni(
        "bridge",
        "github.com/containernetworking/plugins/plugins/main/bridge",
    ),
    cni(
        "host-local",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
    ),
    cni(
        "loopback",
        "github.com/containernetworking/plugins/plugins/main/loopback",
    ),
    cni(
        "portmap",
        "github.com/containernetworking/plugins/plugins/meta/portmap",
    ),
];

pub const ETCD_MODULE: Module = Module {
    folder: "etcd",
    path: "go.etcd.io/etcd/server/v3",
};
pub const ETCD: Program = other("etcd", ETCD_MODULE, "go.etcd.io/etcd/server/v3", &[], 20);

pub const COREDNS_MODULE: Module = Module {
    folder: "coredns",
    path: "github.com/coredns/coredns",
};
pub const COREDNS: Program = other(
    "coredns",
    COREDNS_MODULE,
    "github.com/coredns/coredns",
    &[],
    100,
);

pub const SAMPLE_APISERVER_MODULE: Module = Module {
    folder: "sample-apiserver",
    path: "k8s.io/sample-apiserver",
};
/// An API server that upstream's tests add to the one under test.
pub const SAMPLE_APISERVER: Program = other(
    "sample-apiserver",
    SAMPLE_APISERVER_MODULE,
    "k8s.io/sample-apiserver",
    &[],
    60,
);

/// The program's path; builds it first unless it is there as the pins say.
pub fn program(progress: &Progress, program: &Program) -> Result<PathBuf> {
    let source = folder(program.module);
    let go_mod = fs::read_to_string(source.join("go.mod"))
        .with_context(|| format!("{}/go.mod", source.display()))?;
    let version = required(&go_mod, program.module.path)?;
    let args = arguments(program, version);
    let key = format!("{}\n{go_mod}", args.join(" "));
    let bin = cache()?
        .join(format!("{}-{version}", program.module.folder))
        .join("bin");
    let path = bin.join(program.name);
    let key_file = bin.join(format!("{}.key", program.name));
    let fresh = || path.is_file() && fs::read_to_string(&key_file).is_ok_and(|had| had == key);
    if fresh() {
        return Ok(path);
    }
    fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    // one builds, the others wait for it: two xtasks may ask at the same time
    let lock = File::create(bin.join(format!("{}.lock", program.name)))?;
    lock.lock().context("waiting for another build")?;
    if fresh() {
        return Ok(path);
    }
    check_go(&go_mod)?;
    progress.mark(format!(
        "building {} {version} (about {} s)",
        program.name, program.seconds
    ));
    // complete or not there: an interrupted build leaves only this file
    let made = bin.join(format!("{}.new", program.name));
    let mut go = go();
    go.current_dir(&source)
        .args(&args)
        .arg("-o")
        .arg(&made)
        .arg(program.package);
    command::output(&mut go).with_context(|| format!("building {}", program.name))?;
    fs::rename(&made, &path)?;
    fs::write(&key_file, key)?;
    progress.mark(format!("{} built", program.name));
    Ok(path)
}

/// The sources of a module, downloaded if need be: for files that are no program.
pub fn sources(module: Module) -> Result<PathBuf> {
    let mut go = go();
    go.current_dir(folder(module))
        .args(["list", "-m", "-f", "{{.Dir}}", module.path]);
    let dir = |go: &mut Command| command::output(go).map(|text| text.trim().to_owned());
    let mut found = dir(&mut go)?;
    if found.is_empty() {
        let mut download = self::go();
        download
            .current_dir(folder(module))
            .args(["mod", "download", module.path]);
        command::output(&mut download)?;
        found = dir(&mut go)?;
    }
    Ok(found.into())
}

/// The pinned version of a module.
pub fn version(module: Module) -> Result<String> {
    let go_mod = fs::read_to_string(folder(module).join("go.mod"))?;
    required(&go_mod, module.path).map(str::to_owned)
}

/// Whether programs can be built here: Go is installed and new enough.
pub fn available(module: Module) -> Result<()> {
    check_go(&fs::read_to_string(folder(module).join("go.mod"))?)
}

/// Directory of everything that is kept between builds and clones.
pub fn cache() -> Result<PathBuf> {
    Ok(workspace::cache()
        .context("no directory for a cache: set WINDLASS_CACHE, XDG_CACHE_HOME or HOME")?
        .join("upstream"))
}

fn folder(module: Module) -> PathBuf {
    workspace::root().join("tests/upstream").join(module.folder)
}

pub(crate) fn go() -> Command {
    let mut go = Command::new("go");
    go.env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false");
    go
}

fn arguments(program: &Program, version: &str) -> Vec<String> {
    let verb: &[&str] = match program.kind {
        Kind::Main => &["build"],
        // without `go vet`, which would check every dependency
        Kind::Tests => &["test", "-c", "-vet=off"],
    };
    let mut args: Vec<String> = verb.iter().map(|&word| word.to_owned()).collect();
    let mut flags = "-s -w".to_owned();
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next(), numbers.next());
    for variable in program.versions {
        let value = match variable.rsplit('.').next() {
            Some("gitMajor") => major.unwrap_or_default(),
            Some("gitMinor") => minor.unwrap_or_default(),
            Some(_) | None => version,
        };
        flags.push_str(&format!(" -X {variable}={value}"));
    }
    args.extend(["-trimpath".to_owned(), "-ldflags".to_owned(), flags]);
    if !program.tags.is_empty() {
        args.extend(["-tags".to_owned(), program.tags.join(",")]);
    }
    args
}

// === go.mod and `go version` ===

/// The version that go.mod requires of a module.
fn required<'a>(go_mod: &'a str, module: &str) -> Result<&'a str> {
    go_mod
        .lines()
        .map(|line| line.trim().trim_start_matches("require "))
        .find_map(|line| line.strip_prefix(module)?.strip_prefix(' '))
        .and_then(|rest| rest.split_whitespace().next())
        .filter(|version| version.starts_with('v'))
        .with_context(|| format!("go.mod requires no {module}"))
}

pub(crate) fn check_go(go_mod: &str) -> Result<()> {
    let needed = go_mod
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .context("go.mod names no version of Go")?;
    let why = "only conformance and oracle need Go";
    if !command::exists("go") {
        bail!("Go is not installed ({why}): install Go {needed} or newer, see https://go.dev/dl");
    }
    let found = command::output(&mut command::command("go", ["version"]))?;
    let found = found.split_whitespace().nth(2).unwrap_or_default();
    if release(found.trim_start_matches("go")) < release(needed) {
        bail!("{found} is too old ({why}): install Go {needed} or newer, see https://go.dev/dl");
    }
    Ok(())
}

/// "1.26.8" as numbers; what is no number ("rc1") counts as 0.
fn release(version: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect();
    numbers.resize(3, 0);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module m\n\ngo 1.26.0\n\nrequire k8s.io/one v1.2.3\n\nrequire (\n\
        \tk8s.io/one/two v0.1.0\n\tk8s.io/kubernetes v1.37.0 // indirect\n)\n\n\
        replace (\n\tk8s.io/three => k8s.io/three v0.37.0\n)\n";

    #[test]
    fn the_version_is_the_one_go_mod_requires() {
        assert_eq!(required(GO_MOD, "k8s.io/one").unwrap(), "v1.2.3");
        assert_eq!(required(GO_MOD, "k8s.io/kubernetes").unwrap(), "v1.37.0");
        assert!(required(GO_MOD, "k8s.io/three").is_err());
    }

    #[test]
    fn a_program_is_found_by_its_name() {
        assert_eq!(named("ginkgo").unwrap(), &GINKGO);
        assert!(named("gingko").is_err());
    }

    #[test]
    fn releases_of_go_compare_as_numbers() {
        assert!(release("1.26.8") >= release("1.26.0"));
        assert!(release("1.9") < release("1.26.0"));
        assert!(release("1.26rc1") < release("1.26.0"));
    }

    #[test]
    fn every_module_of_the_table_is_pinned() {
        assert_eq!(version(KUBERNETES).unwrap(), "v1.37.0");
        for module in [
            CONTAINERD_MODULE,
            CNI_MODULE,
            ETCD_MODULE,
            COREDNS_MODULE,
            SAMPLE_APISERVER_MODULE,
        ] {
            version(module).unwrap();
        }
    }

    #[test]
    fn flags_carry_the_version_and_the_tags() {
        let tagged = Program {
            tags: &["a", "b"],
            ..KUBECTL
        };
        let args = arguments(&tagged, "v1.37.0").join(" ");
        assert!(args.starts_with("build -trimpath -ldflags -s -w -X k8s.io/component-base"));
        for set in ["gitVersion=v1.37.0 ", "gitMajor=1 ", "gitMinor=37 "] {
            assert!(
                args.contains(&format!("component-base/version.{set}")),
                "{args}"
            );
        }
        assert!(args.ends_with("-tags a,b"));
        assert!(arguments(&E2E, "v1").join(" ").starts_with("test -c "));
    }
}
