//! Mounts on the node: tmpfs for volumes in memory, bind mounts for sub-paths, and taking both away.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

/// Mounts a tmpfs of at most `size` bytes (0: the kernel's default), unless there is a mount already.
pub fn tmpfs(path: &Path, size: u64) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if is_mount(path)? {
        return Ok(());
    }
    let options = if size > 0 {
        format!("size={size},mode=0777")
    } else {
        "mode=0777".to_owned()
    };
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Binds `sub` of `volume` to `target`. Symbolic links in `sub` are resolved below the volume and cannot
/// lead out of it (openat2, Linux 5.6), and the opened file itself is what gets bound.
pub fn bind_sub_path(volume: &Path, sub: &str, target: &Path) -> io::Result<()> {
    let root = std::fs::File::open(volume)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = match openat2(&root, sub, how) {
        Err(nix::errno::Errno::ENOENT) => {
            create_below(&root, sub)?;
            openat2(&root, sub, how)?
        }
        other => other?,
    };
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let is_dir = std::fs::metadata(&source)?.is_dir();
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if target.exists() && is_mount(target)? {
        umount2(target, MntFlags::MNT_DETACH)?;
    }
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else if !target.exists() {
        std::fs::File::create(target)?;
    }
    let none: Option<&str> = None;
    mount(
        Some(&source),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?;
    Ok(())
}

/// Creates missing directories one by one, each opened beneath the volume, with the volume's own mode:
/// who may write to the volume may write to them.
fn create_below(root: &std::fs::File, sub: &str) -> io::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let permissions = root.metadata()?.permissions();
    let mut path = PathBuf::new();
    for part in Path::new(sub).components() {
        let parent = if path.as_os_str().is_empty() {
            None
        } else {
            Some(openat2(root, &path, how)?)
        };
        let made = match &parent {
            Some(parent) => nix::sys::stat::mkdirat(parent, part.as_os_str(), Mode::S_IRWXU),
            None => nix::sys::stat::mkdirat(root, part.as_os_str(), Mode::S_IRWXU),
        };
        path.push(part);
        match made {
            Ok(()) => {
                let dir = openat2(root, &path, how)?;
                let dir = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
                std::fs::set_permissions(dir, permissions.clone())?;
            }
            Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Unmounts everything at or below `dir`, deepest first.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = &dir.canonicalize()?;
    let mut points: Vec<PathBuf> = mount_points()?
        .into_iter()
        .filter(|point| point.starts_with(dir))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        umount2(&point, MntFlags::UMOUNT_NOFOLLOW)
            .or_else(|_| umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW))?;
    }
    Ok(())
}

pub fn is_mount(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    Ok(mount_points()?.contains(&path))
}

fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect())
}

/// mountinfo writes space, tab, line feed and backslash as `\ooo`.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }
}
