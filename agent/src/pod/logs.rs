//! Rotation of container logs: a log that has grown is set aside under the time, the runtime begins a new
//! one, older ones are compressed and the oldest go (upstream: `pkg/kubelet/logs/container_log_manager.go`).
//! Workers say which containers run, so that a look at the logs asks the runtime for nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::observed::{Observed, State};
use crate::cri;

/// A log of this many bytes is rotated (upstream: containerLogMaxSize).
const MAX_SIZE: u64 = 10 << 20;
/// Files a container has at most, the one being written included (upstream: containerLogMaxFiles).
const MAX_FILES: usize = 5;
/// Pause between two looks (upstream: containerLogMonitorInterval).
const PERIOD: Duration = Duration::from_secs(10);
const COMPRESSED: &str = ".gz";
const UNFINISHED: &str = ".tmp";

/// The log of a container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    id: String,
    path: PathBuf,
}

/// The logs being written on this node, by pod.
#[derive(Debug, Default)]
pub struct Logs {
    running: Mutex<HashMap<String, Vec<Running>>>,
}

/// What is done with the older logs of a container before its latest one joins them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<String>,
    compress: Vec<String>,
}

// === impl Logs ===

impl Logs {
    /// Takes in what a pod runs.
    pub fn note(&self, uid: &str, observed: &Observed) {
        let running: Vec<Running> = observed
            .containers
            .iter()
            .filter(|c| c.state == State::Running && !c.log_path.is_empty())
            .map(|c| Running {
                id: c.id.clone(),
                path: PathBuf::from(&c.log_path),
            })
            .collect();
        let mut pods = self.running.lock().expect("no holder of this lock panics");
        if running.is_empty() {
            pods.remove(uid);
        } else {
            pods.insert(uid.to_owned(), running);
        }
    }

    pub fn forget(&self, uid: &str) {
        let mut pods = self.running.lock().expect("no holder of this lock panics");
        pods.remove(uid);
    }

    fn all(&self) -> Vec<Running> {
        let pods = self.running.lock().expect("no holder of this lock panics");
        pods.values().flatten().cloned().collect()
    }
}

/// Rotates logs until `shutdown`.
pub async fn run(logs: Arc<Logs>, runtime: cri::Client, shutdown: CancellationToken) {
    let mut looks = tokio::time::interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = looks.tick() => {}
        }
        for Running { id, path } in logs.all() {
            if let Err(error) = look(&runtime, &id, &path).await {
                let path = path.display();
                tracing::warn!(error = %error.detail(), id, %path, "log not rotated");
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("rotate the files")]
    Files(#[from] io::Error),
    #[error("begin a new log")]
    Reopen(#[from] cri::Error),
}

impl Error {
    fn detail(&self) -> String {
        match self {
            Self::Files(error) => format!("{self}: {error}"),
            Self::Reopen(error) => format!("{self}: {}", error.detail()),
        }
    }
}

/// Rotates one log if it has grown; brings one that was taken away back.
async fn look(runtime: &cri::Client, id: &str, path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(log) if log.len() < MAX_SIZE => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(runtime.reopen_container_log(id).await?);
        }
        Err(error) => return Err(error.into()),
    }
    let (log, now) = (path.to_owned(), Timestamp::now());
    let aside = tokio::task::spawn_blocking(move || set_aside(&log, now));
    let aside = aside.await.map_err(io::Error::other)??;
    if let Err(error) = runtime.reopen_container_log(id).await {
        // The runtime goes on writing to the old file: it is tried again.
        fs::rename(&aside, path)?;
        return Err(error.into());
    }
    Ok(())
}

/// Tidies the older logs and gives the latest one a name of its own.
fn set_aside(log: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let dir = log.parent().unwrap_or(Path::new("/"));
    let Plan { remove, compress } = Plan::new(older(log)?, MAX_FILES);
    for name in remove {
        fs::remove_file(dir.join(name))?;
    }
    for name in compress {
        self::compress(&dir.join(name))?;
    }
    let aside = with_suffix(log, &format!(".{}", now.strftime("%Y%m%d-%H%M%S")));
    fs::rename(log, &aside)?;
    Ok(aside)
}

/// Names of the logs set aside, and of what is left of them.
fn older(log: &Path) -> io::Result<Vec<String>> {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.");
    let dir = fs::read_dir(log.parent().unwrap_or(Path::new("/")))?;
    let mut names = Vec::new();
    for entry in dir {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with(&prefix)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes the log of a container that is gone, with those set aside.
pub fn remove(log: &Path) -> io::Result<()> {
    let dir = log.parent().unwrap_or(Path::new("/"));
    let gone = |path: &Path| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    for name in older(log)? {
        gone(&dir.join(name))?;
    }
    gone(log)
}

fn compress(log: &Path) -> io::Result<()> {
    let mut from = File::open(log)?;
    let mode = from.metadata()?.permissions().mode();
    let unfinished = with_suffix(log, UNFINISHED);
    let to = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&unfinished, with_suffix(log, COMPRESSED))?;
    fs::remove_file(log)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

// === impl Plan ===

impl Plan {
    /// `names` are those of the logs set aside; the time in them is their order.
    fn new(mut names: Vec<String>, max_files: usize) -> Self {
        names.sort();
        let is_used = |name: &String| {
            let is_compressed = name.ends_with(COMPRESSED);
            let has_copy = || names.contains(&format!("{name}{COMPRESSED}"));
            !name.ends_with(UNFINISHED) && (is_compressed || !has_copy())
        };
        let (used, mut remove): (Vec<String>, Vec<String>) =
            names.iter().cloned().partition(is_used);
        // The latest log is about to join, and a new one to be begun.
        let kept = max_files.saturating_sub(2);
        let (excess, kept) = used.split_at(used.len().saturating_sub(kept));
        remove.extend_from_slice(excess);
        let compress = kept.iter().filter(|name| !name.ends_with(COMPRESSED));
        Self {
            compress: compress.cloned().collect(),
            remove,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn older_logs_are_compressed_and_the_oldest_go() {
        let found = ["0.log.3", "0.log.1.gz", "0.log.2.gz", "0.log.4"];
        let wanted = Plan {
            remove: names(&["0.log.1.gz"]),
            compress: names(&["0.log.3", "0.log.4"]),
        };
        assert_eq!(Plan::new(names(&found), 5), wanted);
        assert_eq!(Plan::new(Vec::new(), 5), Plan::default());
        let all = Plan::new(names(&["0.log.1.gz"]), 2);
        assert_eq!(all.remove, ["0.log.1.gz"]);
    }

    #[test]
    fn what_an_interrupted_compression_left_goes() {
        let found = ["0.log.1", "0.log.1.gz", "0.log.2", "0.log.2.tmp"];
        let wanted = Plan {
            remove: names(&["0.log.1", "0.log.2.tmp"]),
            compress: names(&["0.log.2"]),
        };
        assert_eq!(Plan::new(names(&found), 5), wanted);
    }

    #[test]
    fn a_log_is_set_aside_five_files_deep_and_removed_with_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for second in 0..6 {
            let mut file = File::create(&log).unwrap();
            writeln!(file, "round {second}").unwrap();
            set_aside(&log, Timestamp::from_second(second).unwrap()).unwrap();
        }
        let mut found = older(&log).unwrap();
        found.sort();
        let stamp = |second: u32, end: &str| format!("0.log.19700101-00000{second}{end}");
        let wanted = [
            stamp(2, ".gz"),
            stamp(3, ".gz"),
            stamp(4, ".gz"),
            stamp(5, ""),
        ];
        assert_eq!(found, wanted);
        let compressed = File::open(dir.path().join(&found[2])).unwrap();
        let mut text = String::new();
        let mut decoder = flate2::read::GzDecoder::new(compressed);
        decoder.read_to_string(&mut text).unwrap();
        assert_eq!(text, "round 4\n");
        remove(&log).unwrap();
        assert!(older(&log).unwrap().is_empty());
    }
}
