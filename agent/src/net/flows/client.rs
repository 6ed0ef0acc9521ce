//! The reading end of the flows socket, for the command line: one request, lines to stdout. What goes
//! wrong says what to do about it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{COUNTERS, Counter, DUMP, FLOWS, Failed, Flow, socket_path};

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no agent's socket at {0}: run this on a node; while its network is not up, \
         `kubectl describe node` says why under NetworkUnavailable (--run-dir names another directory)"
    )]
    Absent(PathBuf),
    #[error("nobody answers at {0}: the agent has ended; start it and ask again")]
    Ended(PathBuf),
    #[error("{0} is root's: run this as root")]
    Forbidden(PathBuf),
    #[error("the agent ended; ask again when it is back")]
    BrokenOff,
    #[error("the agent could not answer: {0}")]
    Refused(String),
    #[error("ask the agent at {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    fn of(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::NotFound => Self::Absent(path),
            ErrorKind::ConnectionRefused => Self::Ended(path),
            ErrorKind::PermissionDenied => Self::Forbidden(path),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::BrokenOff,
            _ => Self::Io { path, source },
        }
    }
}

/// Prints flows and drops until stdout closes: as JSON lines, or readable. A stream has no end of
/// its own: when the agent ends, that is an error.
pub async fn flows(run_dir: &Path, json: bool) -> Result<(), Error> {
    let show = |line: &str| match serde_json::from_str::<Flow>(line) {
        Ok(flow) if !json => flow.to_string(),
        Ok(_) | Err(_) => line.to_owned(),
    };
    match ask(run_dir, FLOWS, show).await? {
        End::OfAnswer => Err(Error::BrokenOff),
        End::OfReader => Ok(()),
    }
}

/// Prints the datapath's counters: as JSON lines, or readable.
pub async fn counters(run_dir: &Path, json: bool) -> Result<(), Error> {
    let show = |line: &str| match serde_json::from_str::<Counter>(line) {
        Ok(counter) if !json => counter.to_string(),
        Ok(_) | Err(_) => line.to_owned(),
    };
    ask(run_dir, COUNTERS, show).await.map(drop)
}

/// Prints what the datapath's maps hold, a line per row.
pub async fn maps(run_dir: &Path) -> Result<(), Error> {
    ask(run_dir, DUMP, str::to_owned).await.map(drop)
}

/// Who stopped first.
enum End {
    OfAnswer,
    /// stdout is closed: `windlass flows | head`.
    OfReader,
}

async fn ask(run_dir: &Path, word: &str, show: impl Fn(&str) -> String) -> Result<End, Error> {
    let path = socket_path(run_dir);
    let failed = |source| Error::of(&path, source);
    let mut stream = UnixStream::connect(&path).await.map_err(failed)?;
    let request = format!("{word}\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut lines = BufReader::new(stream).lines();
    let mut stdout = tokio::io::stdout();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        if let Ok(Failed { error }) = serde_json::from_str(&line) {
            return Err(Error::Refused(error));
        }
        let text = format!("{}\n", show(&line));
        if stdout.write_all(text.as_bytes()).await.is_err() || stdout.flush().await.is_err() {
            return Ok(End::OfReader);
        }
    }
    Ok(End::OfAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errors_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let absent = flows(dir.path(), false).await.unwrap_err().to_string();
        assert!(
            absent.contains("run this on a node") && absent.contains("--run-dir"),
            "{absent}"
        );
        // A socket without a listener is what a killed agent leaves.
        drop(std::os::unix::net::UnixListener::bind(socket_path(dir.path())).unwrap());
        let ended = counters(dir.path(), false).await.unwrap_err().to_string();
        assert!(ended.contains("start it"), "{ended}");
    }

    #[tokio::test]
    async fn an_agent_that_cannot_answer_is_quoted_and_one_that_ends_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(socket_path(dir.path())).unwrap();
        let agent = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let line = "{\"error\":\"map fe4: cannot open\"}\n";
            stream.write_all(line.as_bytes()).await.unwrap();
            drop(stream);
            drop(listener.accept().await.unwrap());
        };
        let client = async {
            let refused = maps(dir.path()).await.unwrap_err().to_string();
            assert!(refused.contains("map fe4"), "{refused}");
            let ended = flows(dir.path(), false).await.unwrap_err();
            assert!(matches!(ended, Error::BrokenOff), "{ended:?}");
        };
        tokio::join!(agent, client);
    }
}
