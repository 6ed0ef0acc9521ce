//! The running `oracle serve`: one process, questions written without waiting for answers.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Questions that may wait for the process.
const QUEUE: usize = 256;

/// Upstream's code, as a process.
pub struct Oracle {
    child: Child,
    questions: Option<SyncSender<String>>,
    writer: JoinHandle<std::io::Result<()>>,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    pub fn start(program: &Path) -> std::io::Result<Oracle> {
        let mut child = Command::new(program)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = BufWriter::new(child.stdin.take().expect("stdin is piped"));
        let stdout = child.stdout.take().expect("stdout is piped");
        let (questions, queue) = sync_channel::<String>(QUEUE);
        let writer = thread::spawn(move || {
            loop {
                // Lines are held back only while there are more.
                let line = match queue.try_recv() {
                    Ok(line) => line,
                    Err(_) => {
                        stdin.flush()?;
                        match queue.recv() {
                            Ok(line) => line,
                            Err(_) => return stdin.flush(),
                        }
                    }
                };
                stdin.write_all(line.as_bytes())?;
                stdin.write_all(b"\n")?;
            }
        });
        Ok(Oracle {
            child,
            questions: Some(questions),
            writer,
            answers: BufReader::new(stdout),
        })
    }

    /// Takes a question; blocks while too many wait. Answers come in the order of questions.
    pub fn sender(&mut self) -> SyncSender<String> {
        self.questions.take().expect("one sender per process")
    }

    /// The next answer.
    pub fn answer(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            return Err(std::io::Error::other(
                "the oracle ended before its last answer",
            ));
        }
        Ok(line)
    }

    /// Waits for its end; the sender is gone by now.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.writer.join().expect("the writer does not panic")?;
        self.child.wait().map(|_| ())
    }
}
