//! Replaces the files of a volume all at once: a new directory, one rename of the `..data` link, links
//! for the names a container sees. Readers never see a mix of old and new (upstream:
//! `pkg/volume/util/atomic_writer.go`).
//!
//! ```text
//! volume/token      → ..data/token
//! volume/..data     → ..2024_…            (renamed over)
//! volume/..2024_…/token                   (the file)
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::payload::{File, Payload};

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`; `version` names the new directory. Returns whether it changed. What
/// fails half-way, for instance on a full disk, leaves the old files and nothing else.
pub fn write(dir: &Path, payload: &Payload, version: &str) -> io::Result<bool> {
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)?
    {
        links(dir, payload)?;
        return Ok(false);
    }
    let fresh = format!("..{version}");
    if let Err(error) = fill(&dir.join(&fresh), payload).and_then(|()| point(dir, &fresh)) {
        // The error to tell is the first one.
        let _ = fs::remove_dir_all(dir.join(&fresh));
        return Err(error);
    }
    links(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn fill(dir: &Path, payload: &Payload) -> io::Result<()> {
    fs::create_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        create(&dir.join(path), file)?;
    }
    Ok(())
}

/// Lets the data link point to the new directory, in one step.
fn point(dir: &Path, fresh: &str) -> io::Result<()> {
    let tmp = dir.join(DATA_TMP);
    match fs::remove_file(&tmp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(fresh, &tmp)?;
    fs::rename(&tmp, dir.join(DATA))
}

fn create(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.data)?;
    // The mode is set afterwards: umask does not apply to it.
    fs::set_permissions(path, fs::Permissions::from_mode(file.mode))
}

/// Creates the visible links and removes those without a file.
fn links(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

fn same(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut files = 0;
    if !count(dir, &mut files)? || files != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        match fs::read(dir.join(path)) {
            Ok(data) if data == file.data => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Counts the files below `dir`; false when it does not exist.
fn count(dir: &Path, files: &mut usize) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count(&entry.path(), files)?;
        } else {
            *files += 1;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File {
            data: data.as_bytes().to_vec(),
            mode: 0o640,
        };
        files
            .iter()
            .map(|(path, data)| ((*path).to_owned(), file(data)))
            .collect()
    }

    #[test]
    fn files_appear_change_and_vanish_together() {
        let dir = std::env::temp_dir().join(format!("wl-atomic-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name));
        assert!(write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), "v1").unwrap());
        assert_eq!(
            (read("a").unwrap(), read("d/b").unwrap()),
            ("1".to_owned(), "2".to_owned())
        );
        let mode = fs::metadata(dir.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(!write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), "v2").unwrap());
        assert!(write(&dir, &payload(&[("a", "3")]), "v3").unwrap());
        assert_eq!(read("a").unwrap(), "3");
        assert!(read("d/b").is_err());
        let left = fs::read_dir(&dir).unwrap().count();
        assert_eq!(left, 3, "the link a, ..data and the current directory");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_full_disk_leaves_the_old_files_and_nothing_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        super::super::mount::tmpfs(dir, 64 << 10).unwrap();
        assert!(write(dir, &payload(&[("a", "1")]), "v1").unwrap());
        let big = "x".repeat(1 << 20);
        let full = write(dir, &payload(&[("a", "2"), ("b", &big)]), "v2").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
        assert!(write(dir, &payload(&[("a", "3")]), "v3").unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        super::super::mount::unmount_below(dir).unwrap();
    }
}
