//! Container logs in the CRI's format: `2016-10-06T00:17:09.669794202Z stdout F text`. `Selection` is
//! the pure part (which lines, cut how); `stream` reads a file, and follows it while its container runs.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

/// Pause between looks at a followed file; only while somebody follows it.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// The runtime is asked whether the container still runs after so many looks in vain.
const LOOKS_PER_STATUS: u32 = 4;
/// Block size when looking for the last lines.
const BLOCK: usize = 64 << 10;
/// Longest line accepted; the runtime splits at 16 KiB.
const MAX_LINE: usize = 1 << 20;

/// What the client asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub limit_bytes: Option<u64>,
    pub since: Option<Timestamp>,
    /// Only this stream, `stdout` or `stderr`.
    pub stream: Option<String>,
}

/// One parsed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// The runtime cut the line here; the next entry continues it.
    pub partial: bool,
    pub text: &'a [u8],
}

/// Parses one line without its line feed.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next().unwrap_or_default();
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Entry {
        time,
        stream,
        partial,
        text,
    })
}

/// Turns raw lines into what the client gets.
#[derive(Debug)]
pub struct Selection {
    options: Options,
    left: Option<u64>,
    /// Lines to go. Not when following: then the tail is only where to begin.
    lines: Option<usize>,
    /// The last entry was cut, so this one starts without a time.
    continues: bool,
}

impl Selection {
    pub fn new(options: Options) -> Self {
        Self {
            left: options.limit_bytes,
            lines: options.tail_lines.filter(|_| !options.follow),
            options,
            continues: false,
        }
    }

    /// The bytes to send for this line; empty when it is not selected.
    pub fn line(&mut self, raw: &[u8]) -> Vec<u8> {
        let Some(entry) = parse(raw) else {
            return Vec::new();
        };
        if let Some(lines) = &mut self.lines {
            *lines = lines.saturating_sub(1);
        }
        if self
            .options
            .stream
            .as_deref()
            .is_some_and(|wanted| wanted != entry.stream)
        {
            return Vec::new();
        }
        if let Some(since) = self.options.since
            && entry
                .time
                .parse::<Timestamp>()
                .is_ok_and(|time| time < since)
        {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(entry.text.len() + 40);
        if self.options.timestamps && !self.continues {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        self.continues = entry.partial;
        if let Some(left) = &mut self.left {
            let keep = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len());
            out.truncate(keep);
            *left -= u64::try_from(keep).unwrap_or(0);
        }
        out
    }

    /// Whether no more lines or bytes are wanted.
    pub fn done(&self) -> bool {
        self.left == Some(0) || self.lines == Some(0)
    }
}

/// Offset of the beginning of the last `lines` lines.
fn tail_offset(file: &mut std::fs::File, lines: usize) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(size);
    }
    let mut end = size;
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let length = usize::try_from(end - start).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        for at in (0..length).rev() {
            let position = start + at as u64;
            // The line feed that ends the last line does not begin one.
            if block[at] == b'\n' && position + 1 < size {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The last lines of a log as text, bounded in lines and bytes.
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let offset = tail_offset(&mut file, lines)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw)?;
    let mut selection = Selection::new(Options::default());
    let mut kept: VecDeque<u8> = VecDeque::new();
    for line in raw.split(|byte| *byte == b'\n') {
        kept.extend(selection.line(line));
    }
    let skip = kept.len().saturating_sub(bytes);
    let kept: Vec<u8> = kept.into_iter().skip(skip).collect();
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// Whether the log was rotated: its name is that of another file.
async fn is_elsewhere(open: &tokio::fs::File, path: &Path) -> io::Result<bool> {
    let open = open.metadata().await?;
    match tokio::fs::metadata(path).await {
        Ok(named) => Ok((named.dev(), named.ino()) != (open.dev(), open.ino())),
        // The new one is not there yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends the selected lines of `path`; follows it until `running` says that nothing more will come.
pub async fn stream<R>(
    path: PathBuf,
    options: Options,
    sender: mpsc::Sender<Bytes>,
    running: impl Fn() -> R,
) -> io::Result<()>
where
    R: Future<Output = bool>,
{
    let offset = match options.tail_lines {
        Some(lines) => tail_offset(&mut std::fs::File::open(&path)?, lines)?,
        None => 0,
    };
    let mut file = tokio::fs::File::open(&path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut reader = BufReader::with_capacity(BLOCK, file);
    let follow = options.follow;
    let mut selection = Selection::new(options);
    let mut line = Vec::new();
    let mut last_look = false;
    let mut moved = false;
    let mut quiet: u32 = 0;
    while !selection.done() {
        let read = reader.read_until(b'\n', &mut line).await?;
        if line.last() == Some(&b'\n') {
            line.pop();
            let out = selection.line(&line);
            line.clear();
            (last_look, quiet) = (false, 0);
            if !out.is_empty() && sender.send(Bytes::from(out)).await.is_err() {
                return Ok(());
            }
            continue;
        }
        if line.len() > MAX_LINE {
            line.clear();
        }
        if read > 0 {
            continue;
        }
        if !follow {
            return Ok(());
        }
        if moved {
            // Its last words were read: the log goes on in the new file.
            let file = tokio::fs::File::open(&path).await?;
            reader = BufReader::with_capacity(BLOCK, file);
            moved = false;
            continue;
        }
        if last_look {
            return Ok(());
        }
        moved = is_elsewhere(reader.get_ref(), &path).await?;
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_PAUSE) => {}
            () = sender.closed() => return Ok(()),
        }
        quiet += 1;
        if quiet.is_multiple_of(LOOKS_PER_STATUS) {
            // One more look after the container ended: its last words may just have been written.
            last_look = !running().await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2024-01-01T00:00:01.000000000Z stdout F one\n\
                       2024-01-01T00:00:02.000000000Z stderr P tw\n\
                       2024-01-01T00:00:02.500000000Z stderr F o\n\
                       2024-01-01T00:00:03.000000000Z stdout F three\n";

    fn select(options: Options) -> String {
        let mut selection = Selection::new(options);
        let lines = LOG.lines().map(|line| selection.line(line.as_bytes()));
        String::from_utf8(lines.collect::<Vec<_>>().concat()).unwrap()
    }

    #[test]
    fn lines_lose_their_prefix_and_partial_ones_are_joined() {
        assert_eq!(select(Options::default()), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_line_keeps_its_spaces_and_may_be_empty() {
        let entry = parse(b"2024-01-01T00:00:01Z stdout F  a b ").unwrap();
        assert_eq!(entry.text, b" a b ");
        assert_eq!(parse(b"2024-01-01T00:00:01Z stdout F ").unwrap().text, b"");
        assert_eq!(parse(b"nonsense"), None);
    }

    #[test]
    fn options_select_cut_and_stamp() {
        let since = Some("2024-01-01T00:00:02.7Z".parse().unwrap());
        assert_eq!(
            select(Options {
                since,
                ..Options::default()
            }),
            "three\n"
        );
        let stderr = Options {
            stream: Some("stderr".to_owned()),
            ..Options::default()
        };
        assert_eq!(select(stderr), "two\n");
        assert_eq!(
            select(Options {
                limit_bytes: Some(6),
                ..Options::default()
            }),
            "one\ntw"
        );
        let stamped = select(Options {
            timestamps: true,
            ..Options::default()
        });
        assert!(stamped.starts_with(
            "2024-01-01T00:00:01.000000000Z one\n2024-01-01T00:00:02.000000000Z two\n"
        ));
    }

    #[test]
    fn lines_written_meanwhile_are_not_of_the_tail() {
        let tail = |tail_lines, follow| Options {
            tail_lines: Some(tail_lines),
            follow,
            ..Options::default()
        };
        let mut selection = Selection::new(tail(1, false));
        let mut lines = LOG.lines().map(str::as_bytes);
        assert!(!selection.done());
        assert_eq!(selection.line(lines.next().unwrap()), b"one\n");
        assert!(selection.done());
        assert!(Selection::new(tail(0, false)).done());
        let mut followed = Selection::new(tail(1, true));
        lines.for_each(|line| drop(followed.line(line)));
        assert!(!followed.done());
    }

    #[test]
    fn the_tail_is_found_from_the_end() {
        let path = std::env::temp_dir().join(format!("wl-log-{}", std::process::id()));
        std::fs::write(&path, LOG).unwrap();
        assert_eq!(tail_text(&path, 1, 100).unwrap(), "three\n");
        assert_eq!(tail_text(&path, 100, 100).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(tail_text(&path, 100, 4).unwrap(), "ree\n");
        assert_eq!(tail_text(&path, 0, 100).unwrap(), "");
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_log_is_followed_into_the_file_that_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2024-01-01T00:00:01.000000000Z stdout F {text}\n");
        std::fs::write(&path, line("old")).unwrap();
        let (sender, mut receiver) = mpsc::channel(4);
        let options = Options {
            follow: true,
            ..Options::default()
        };
        let following = stream(path.clone(), options, sender, || std::future::ready(true));
        let reading = async {
            assert_eq!(&receiver.recv().await.unwrap()[..], b"old\n");
            std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
            std::fs::write(&path, line("new")).unwrap();
            assert_eq!(&receiver.recv().await.unwrap()[..], b"new\n");
            drop(receiver);
        };
        let (followed, ()) = tokio::join!(following, reading);
        followed.unwrap();
    }
}
