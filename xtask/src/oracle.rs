//! `cargo xtask oracle`: our API against upstream's own code. `tests/oracle` (Go) wraps that code;
//! this module builds what is needed and runs it.
//!
//! ```text
//!   in-process   mutated objects ─▶ our api crate │ upstream's packages ─▶ docs/oracle.md
//!   http         cases/*.yaml    ─▶ windlass server │ kube-apiserver + etcd, all on loopback
//!   facts        upstream's packages ─▶ controlplane/api/facts/facts.json
//!   answers      questions of a test ─▶ upstream's packages ─▶ answers.jsonl
//! ```

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::progress::Progress;
use crate::{command, upstream, workspace};

const SOURCES: &str = "tests/oracle";
const BASES: &str = "tests/oracle/bases";
const CASES: &str = "tests/oracle/cases";
const DOCUMENT: &str = "docs/oracle.md";
const FACTS: &str = "controlplane/api/facts/facts.json";
const QUESTIONS: &str = "controlplane/api/tests/upstream/questions.jsonl";
const ANSWERS: &str = "controlplane/api/tests/upstream/answers.jsonl";

/// What is compared.
#[derive(Debug, Clone, Subcommand)]
pub enum Task {
    /// Judge mutated objects twice: by our code and by upstream's
    InProcess(Mutations),
    /// Send the same requests to upstream's API server and to ours (the default)
    Http(Replay),
    /// Write the facts that the API is driven by
    Facts,
    /// Let upstream answer the questions of the api crate's tests again
    Answers,
}

/// How many objects, of which kinds.
#[derive(Debug, Clone, Args)]
pub struct Mutations {
    /// Pod, Deployment, …; every kind that has valid objects in tests/oracle/bases unless given
    #[arg(long = "kind", value_delimiter = ',')]
    kinds: Vec<String>,
    /// Objects per kind
    #[arg(long, default_value_t = 1000)]
    mutations: usize,
    /// A seed and a number name one mutation, always the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail when a kind agrees in fewer per cent
    #[arg(long, default_value_t = 0.0)]
    least: f64,
    /// Differences to print per kind, the most frequent first
    #[arg(long, default_value_t = 20)]
    show: usize,
    /// Write every differing case with both verdicts here
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Update docs/oracle.md
    #[arg(long)]
    record: bool,
}

/// Which cases.
#[derive(Debug, Clone, Default, Args)]
pub struct Replay {
    /// Only scenarios whose file or name contains this
    #[arg(long)]
    only: Option<String>,
}

/// Runs one comparison; an error when something differs that should not.
pub fn oracle(task: Option<Task>) -> Result<()> {
    let progress = Progress::shown();
    let program = program(&progress)?;
    match task {
        Some(Task::InProcess(mutations)) => in_process(&program, &mutations),
        Some(Task::Http(replay)) => http(&progress, &program, &replay),
        None => http(&progress, &program, &Replay::default()),
        Some(Task::Facts) => answered(Command::new(&program).arg("facts"), FACTS),
        Some(Task::Answers) => {
            let questions = File::open(workspace::root().join(QUESTIONS)).context(QUESTIONS)?;
            answered(
                Command::new(&program).arg("serve").stdin(questions),
                ANSWERS,
            )
        }
    }
}

/// `tests/oracle` as a program. Go itself knows what is up to date.
fn program(progress: &Progress) -> Result<PathBuf> {
    let source = workspace::root().join(SOURCES);
    upstream::check_go(&fs::read_to_string(source.join("go.mod"))?)?;
    let path = workspace::target().join("oracle").join("oracle");
    let mut go = upstream::go();
    go.current_dir(source)
        .args(["build", "-trimpath", "-o"])
        .arg(&path)
        .arg(".");
    command::output(&mut go).context("building tests/oracle")?;
    progress.mark("tests/oracle built");
    Ok(path)
}

fn in_process(program: &PathBuf, mutations: &Mutations) -> Result<()> {
    let Mutations {
        kinds,
        mutations,
        seed,
        least,
        show,
        dump,
        record,
    } = mutations;
    let mut cargo = command::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--package",
        "api",
        "--example",
        "agree",
        "--",
    ]);
    cargo.arg("--oracle").arg(program);
    cargo.args(["--bases", BASES, "--count", &mutations.to_string()]);
    cargo.args(["--seed", &seed.to_string(), "--least", &least.to_string()]);
    cargo.args(["--show", &show.to_string()]);
    if !kinds.is_empty() {
        cargo.args(["--kinds", &kinds.join(",")]);
    }
    if let Some(file) = dump {
        cargo.arg("--dump").arg(file);
    }
    if *record {
        cargo.args(["--record", DOCUMENT]);
    }
    command::shown(cargo.current_dir(workspace::root()))
}

fn http(progress: &Progress, program: &PathBuf, replay: &Replay) -> Result<()> {
    let etcd = upstream::program(progress, &upstream::ETCD)?;
    let apiserver = upstream::program(progress, &upstream::KUBE_APISERVER)?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--quiet", "--package", "windlass"]);
    command::shown(cargo.current_dir(workspace::root()))?;
    progress.mark("windlass built");
    let state = workspace::target().join("oracle").join("http");
    if state.exists() {
        fs::remove_dir_all(&state)?;
    }
    fs::create_dir_all(&state)?;
    let mut run = Command::new(program);
    run.arg("http")
        .arg("-etcd")
        .arg(etcd)
        .arg("-kube-apiserver")
        .arg(apiserver)
        .arg("-windlass")
        .arg(workspace::target().join("debug/windlass"))
        .arg("-cases")
        .arg(workspace::root().join(CASES))
        .arg("-state")
        .arg(state);
    if let Some(only) = &replay.only {
        run.args(["-only", only]);
    }
    command::shown(&mut run)
}

/// Runs to the end; only a whole answer replaces the file.
fn answered(run: &mut Command, file: &str) -> Result<()> {
    let output = run.stdout(Stdio::piped()).spawn()?.wait_with_output()?;
    ensure!(output.status.success(), "tests/oracle: {}", output.status);
    let path = workspace::root().join(file);
    fs::write(&path, output.stdout).with_context(|| path.display().to_string())?;
    println!("{file}");
    Ok(())
}
