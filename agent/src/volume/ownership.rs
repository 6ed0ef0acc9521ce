//! fsGroup: files of the volume belong to the pod's group, which may read (and write, unless the volume
//! is read-only); directories hand the group down (upstream: `pkg/volume/volume_linux.go`).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const SETGID: u32 = 0o2000;

pub fn apply(dir: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(dir)?;
    if meta.is_symlink() {
        return lchown(dir, None, Some(group));
    }
    let mut mode = meta.mode() & 0o7777;
    mode |= if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        mode |= SETGID | 0o110;
    }
    if meta.gid() != group {
        lchown(dir, None, Some(group))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
    if meta.is_dir() {
        for entry in fs::read_dir(dir)? {
            apply(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}
