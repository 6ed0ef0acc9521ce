//! `cargo xtask conformance`: upstream's test suite, built from its sources, against a cluster that
//! is started for it and removed afterwards.
//!
//! ```text
//!   list (suite) ─ Selection ─▶ tests ─ phases ─▶ ginkgo + e2e.test (run, follow) ─▶ report.json
//!                                                                        Results (report) ◀─┘
//!                                      summary on the screen, JUnit in a folder, docs (record) ◀─┘
//! ```

mod cluster;
mod follow;
mod hollow;
mod interrupt;
mod record;
mod report;
mod run;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use regex_lite::Regex;

use self::cluster::Cluster;
use self::interrupt::Interrupt;
use self::record::Facts;
use self::report::Results;
use self::run::{Phase, Programs};
use self::suite::{Selection, Test};
use crate::lab::{Half, Halves};
use crate::progress::Progress;
use crate::{command, upstream, workspace};

/// The conformance tests of the pinned version of Kubernetes.
const CONFORMANCE: &str = "tests/conformance/v1.37.tsv";
/// Upstream's tests of NetworkPolicy, which are no part of conformance.
const NETPOL: &str = "tests/conformance/netpol-v1.37.tsv";
/// Where results are published.
const DOCUMENT: &str = "docs/conformance.md";
/// Tests that passed and must go on passing: a part of `cargo xtask test`, on a light lab. The lists grow
/// with `--record`.
const GUARDED: [Guarded; 2] = [
    Guarded {
        section: "api-only",
        list: "tests/conformance/api-only.txt",
        longest: Duration::from_secs(30),
        takes: |test| test.api_only,
    },
    // those without nodes are in the other list, and minutes do not suffice for one after the other
    Guarded {
        section: "lab",
        list: "tests/conformance/lab.txt",
        longest: Duration::from_secs(10),
        takes: |test| !test.api_only && !test.serial && !lacks_light(test),
    },
];
/// What a light lab cannot run: volumes of images want a newer containerd than Debian's, the aggregator
/// images that are not made for it.
const LIGHT_LACKS: [&str; 2] = ["ImageVolume", "Aggregator "];
/// Tests at the same time, unless told otherwise: most of them sleep most of the time.
const PARALLEL: usize = 12;
/// Longest run of one phase.
const LIMIT: Duration = Duration::from_secs(3 * 60 * 60);

/// Tests that passed before and must go on passing.
struct Guarded {
    /// The section of the document whose runs add to the list.
    section: &'static str,
    list: &'static str,
    /// Longest test of the list: all of them together must end within minutes.
    longest: Duration,
    takes: fn(&Test) -> bool,
}

fn lacks_light(test: &Test) -> bool {
    LIGHT_LACKS.iter().any(|name| test.name.contains(name))
}

/// Which tests, against what, and what becomes of the results.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Only tests of this SIG (apps, network, …); may be given several times
    #[arg(long, value_name = "NAME")]
    pub sig: Vec<String>,
    /// Only tests whose name matches; if no conformance test does, those of upstream's other tests that do
    #[arg(long, value_name = "REGEX")]
    pub focus: Option<Regex>,
    /// No test whose name matches
    #[arg(long, value_name = "REGEX")]
    pub skip: Option<Regex>,
    /// Exactly the tests that a file names, one a line
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// Only tests that need no node, against a server without an agent and two hollow nodes: no
    /// root, no containerd, no eBPF
    #[arg(long)]
    pub api_only: bool,
    /// All tests against hollow nodes: pods become Ready without containers
    #[arg(long)]
    pub hollow: bool,
    /// Upstream's network policy tests instead of conformance
    #[arg(long)]
    pub netpol: bool,
    #[command(flatten)]
    pub halves: Halves,
    /// Tests at the same time; those that must run alone follow afterwards
    #[arg(long, value_name = "N", default_value_t = PARALLEL)]
    pub parallel: usize,
    /// Build less: Debian's containerd, and no images of what is not Kubernetes' own (etcd, CoreDNS,
    /// sample-apiserver)
    #[arg(long)]
    pub light: bool,
    /// Publish the results in docs/conformance.md
    #[arg(long)]
    pub record: bool,
    /// Use what was built before
    #[arg(long)]
    pub no_build: bool,
}

impl Options {
    /// Whether the cluster has only hollow nodes.
    fn without_nodes(&self) -> bool {
        self.api_only || self.hollow
    }
}

/// A run with everything decided.
struct Plan {
    tests: Vec<Test>,
    /// Chosen too, but of no use here, with the reason.
    cannot: Vec<(String, String)>,
    /// Name of the section of the document, and of the run's folder.
    section: &'static str,
}

/// Runs the suite; an error if a test failed.
pub fn conformance(options: &Options) -> Result<()> {
    let progress = Progress::shown();
    let plan = Plan::new(options, &progress)?;
    let programs = programs(&progress)?;
    cluster::prepare(options, &progress)?;
    let dir = folder(plan.section)?;
    progress.mark(format!(
        "{} tests, logs in {}",
        plan.tests.len(),
        dir.display()
    ));
    let cluster = Cluster::start(options, &dir, &programs, &progress)?;
    let ran = suite(&plan, options, &cluster, &programs, &dir, &progress);
    // the cluster is removed whatever the tests came to
    let stopped = cluster.stop(&dir);
    let (results, facts) = ran?;
    stopped?;
    let summary = results.summary(&facts.cannot);
    fs::write(dir.join("summary.txt"), &summary)?;
    print!("{summary}");
    println!("JUnit and logs: {}", dir.display());
    if options.record {
        ensure!(
            facts.complete,
            "the run was ended early: nothing is recorded"
        );
        publish(&results, &facts)?;
    }
    ensure!(results.good(), "not every test passed");
    Ok(())
}

impl Plan {
    fn new(options: &Options, progress: &Progress) -> Result<Plan> {
        let (list, section) = kind(options)?;
        let selection = Selection {
            sigs: options.sig.clone(),
            focus: options.focus.clone(),
            skip: options.skip.clone(),
            api_only: options.api_only,
            names: options.list.as_deref().map(names).transpose()?,
        };
        ensure!(
            !options.record || selection.whole(),
            "a part of the suite cannot stand for it: --record goes without --sig, --focus, --skip \
             and --list"
        );
        ensure!(
            !(options.record && options.light),
            "tests that a light lab has no images for count as failed: --record goes without --light"
        );
        if options.record {
            // not found out after an hour
            record::body(&document()?, section)
                .context("--record: runs of this kind are not published")?;
        }
        ensure!(
            !(options.light && options.halves.node == Half::Upstream),
            "upstream's nodes run CoreDNS, of which a light lab has no image: --light goes without --node"
        );
        ensure!(options.parallel > 0, "--parallel: at least 1");
        let protocols = fs::read_to_string("/proc/net/protocols").unwrap_or_default();
        let mut chosen = selection.of(&tests(list)?)?;
        if chosen.is_empty() && selection.focus.is_some() {
            chosen = selection.of(&whole_suite(progress)?)?;
        }
        ensure!(!chosen.is_empty(), "no test is chosen");
        let (tests, cannot) = suite::able(chosen, &protocols);
        Ok(Plan {
            tests,
            cannot,
            section,
        })
    }
}

/// The list of tests, and the name of the run's section and folder. There is no section of hollow
/// nodes, which prove nothing about tests that need real ones, nor of upstream's whole cluster, which
/// the list itself tells of.
fn kind(options: &Options) -> Result<(&'static str, &'static str)> {
    let Halves {
        control_plane,
        node,
    } = options.halves;
    if options.without_nodes() {
        ensure!(!options.netpol, "network policies need real nodes");
        ensure!(
            options.halves == Halves::default(),
            "hollow nodes stand below our control plane only"
        );
        let section = if options.api_only {
            "api-only"
        } else {
            "hollow"
        };
        return Ok((CONFORMANCE, section));
    }
    Ok(match (options.netpol, control_plane, node) {
        (false, Half::Windlass, Half::Windlass) => (CONFORMANCE, "lab"),
        (false, Half::Windlass, Half::Upstream) => (CONFORMANCE, "lab-upstream-node"),
        (false, Half::Upstream, Half::Windlass) => (CONFORMANCE, "lab-upstream-control-plane"),
        (false, Half::Upstream, Half::Upstream) => (CONFORMANCE, "lab-upstream"),
        (true, Half::Windlass, Half::Windlass) => (NETPOL, "netpol"),
        (true, Half::Upstream, Half::Windlass) => (NETPOL, "netpol-upstream-control-plane"),
        (true, _, Half::Upstream) => bail!("upstream's nodes enforce no network policies"),
    })
}

fn tests(list: &str) -> Result<Vec<Test>> {
    let path = workspace::root().join(list);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    suite::parse(&text).with_context(|| list.to_owned())
}

/// Every test that upstream's program has.
fn whole_suite(progress: &Progress) -> Result<Vec<Test>> {
    let mut list = Command::new(upstream::program(progress, &upstream::E2E)?);
    list.arg("--list-tests");
    Ok(suite::listed(&command::output(&mut list)?))
}

fn names(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(suite::names(&text))
}

fn programs(progress: &Progress) -> Result<Programs> {
    Ok(Programs {
        e2e: upstream::program(progress, &upstream::E2E)?,
        ginkgo: upstream::program(progress, &upstream::GINKGO)?,
        kubectl: upstream::program(progress, &upstream::KUBECTL)?,
    })
}

/// A new folder for a run: target/conformance/SECTION-1, -2, …
fn folder(section: &str) -> Result<PathBuf> {
    let base = workspace::target().join("conformance");
    fs::create_dir_all(&base)?;
    for n in 1.. {
        let dir = base.join(format!("{section}-{n}"));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| dir.display().to_string()),
        }
    }
    bail!("no free folder in {}", base.display())
}

/// All phases; ends early with an error only when asked to end.
fn suite(
    plan: &Plan,
    options: &Options,
    cluster: &Cluster,
    programs: &Programs,
    dir: &Path,
    progress: &Progress,
) -> Result<(Results, Facts)> {
    let interrupt = Interrupt::new()?;
    let mut reports = Vec::new();
    let mut phases = Vec::new();
    let mut complete = true;
    for phase in run::phases(&plan.tests, options.parallel) {
        let Phase { name, tests, procs } = &phase;
        progress.mark(format!(
            "{name}: {} tests, {procs} at the same time",
            tests.len()
        ));
        let ended = run::run(
            &phase,
            &|argv| cluster.command(argv),
            (programs, cluster.target()),
            dir,
            LIMIT,
        )?
        .ended(&interrupt, progress)?;
        reports.extend(ended.report);
        phases.push(((*name).to_owned(), ended.took));
        if ended.interrupted {
            complete = false;
            break;
        }
    }
    let results = Results::new(&plan.tests, &reports)?;
    let facts = Facts {
        section: plan.section.to_owned(),
        complete,
        commit: commit()?,
        parallel: options.parallel,
        phases,
        cannot: plan.cannot.clone(),
    };
    Ok((results, facts))
}

/// The commit that runs, with a sign when the tree differs from it.
fn commit() -> Result<String> {
    let mut git = Command::new("git");
    git.args([
        "describe",
        "--always",
        "--dirty",
        "--abbrev=10",
        "--exclude=*",
    ]);
    let text = command::output(git.current_dir(workspace::root()))?;
    Ok(text.trim().to_owned())
}

fn document() -> Result<String> {
    fs::read_to_string(workspace::root().join(DOCUMENT)).with_context(|| DOCUMENT.to_owned())
}

fn publish(results: &Results, facts: &Facts) -> Result<()> {
    let body = record::section(results, facts);
    let document = record::replace(&document()?, &facts.section, &body)?;
    let document = record::side_by_side(&document, &tests(CONFORMANCE)?)?;
    fs::write(workspace::root().join(DOCUMENT), document)?;
    println!("recorded in {DOCUMENT}");
    for guarded in GUARDED.iter().filter(|of| of.section == facts.section) {
        let path = workspace::root().join(guarded.list);
        let text = fs::read_to_string(&path).with_context(|| guarded.list.to_owned())?;
        let passed = results.passed_within(guarded.longest, guarded.takes);
        fs::write(&path, suite::grown(&text, &passed))?;
    }
    Ok(())
}

/// Runs what passed before, with this binary: for `cargo xtask test`.
pub fn guarded(windlass: &Path, progress: &Progress) -> Result<()> {
    if let Err(error) = upstream::available(upstream::KUBERNETES) {
        progress.mark(format!("conformance is left out: {error:#}"));
        return Ok(());
    }
    let mut result = Ok(());
    for Guarded { section, list, .. } in &GUARDED {
        // as anybody would run it, and so that the binary can be another one than that of this process
        let mut run = Command::new(workspace::xtask());
        run.args(["conformance", "--light", "--no-build", "--list", list])
            .args((*section == "api-only").then_some("--api-only"))
            .env("WINDLASS_BIN", windlass)
            .current_dir(workspace::root());
        result = result.and(command::shown(&mut run));
        progress.mark(format!("{list} ended"));
    }
    result
}
