//! Fills the directory that becomes a layer: the skeleton of a root file system, programs with the
//! shared libraries they name, links for busybox's applets.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Users and groups of every image.
pub const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nginx:x:101:101:nginx:/nonexistent:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
";
pub const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnginx:x:101:\nnogroup:x:65534:\n";

/// Files every image has that a person may open a shell in.
pub fn base(root: &Path) -> Result<()> {
    for dir in [
        "bin", "etc", "root", "home", "tmp", "proc", "sys", "dev", "run", "mnt", "var/log",
        "var/tmp", "var/run", "usr/bin",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    for dir in ["tmp", "var/tmp"] {
        mode(&root.join(dir), 0o1777)?;
    }
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::write(root.join("etc/group"), GROUP)?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    Ok(())
}

/// Sets the permission bits of a file.
pub fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| path.display().to_string())
}

/// Copies a file into the tree, with the directories above it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file in the root directory")?)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

/// Makes a symbolic link in place of whatever is there.
pub fn link(target: &str, at: &Path) -> Result<()> {
    let _ = fs::remove_file(at);
    symlink(target, at).with_context(|| at.display().to_string())
}

/// Copies a program into /bin and the shared libraries it needs to where its loader looks.
pub fn program(root: &Path, path: &Path) -> Result<()> {
    let name = path.file_name().context("program name")?;
    copy(path, &root.join("bin").join(name))?;
    let listed = command::raw(Command::new("ldd").arg(path))?;
    // "libc.so.6 => /lib/…/libc.so.6 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)"
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let wanted = line.trim().split(" => ").last().unwrap_or_default();
        let Some(library) = wanted
            .split_whitespace()
            .next()
            .filter(|p| p.starts_with('/'))
        else {
            continue;
        };
        copy(Path::new(library), &root.join(&library[1..]))?;
    }
    Ok(())
}

/// busybox, with a link for every applet of which no program is there.
pub fn applets(root: &Path, busybox: &Path) -> Result<()> {
    program(root, busybox)?;
    let list = command::output(Command::new(busybox).arg("--list"))?;
    for applet in list.lines() {
        let places = ["bin", "sbin", "usr/bin", "usr/sbin"].map(|dir| root.join(dir).join(applet));
        if !places.iter().any(|path| path.exists() || path.is_symlink()) {
            link("busybox", &places[0])?;
        }
    }
    Ok(())
}
