//! Other kernels: boots one in qemu without acceleration, with nothing but busybox and one program
//! in its initramfs, and returns what was printed. Enough to load every BPF program elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debian::{self, Archive};
use crate::{command, images, workspace};

/// Longest run of one kernel, seconds.
const LIMIT: &str = "180";
/// Memory of the machine, MiB: the datapath's maps are allocated at once.
const MEMORY: &str = "1024";

/// A kernel of Debian, by the suite it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// 6.12, newer than what is needed.
    Backports,
    /// 6.1, too old.
    Stable,
}

impl Kernel {
    fn suite(self) -> &'static str {
        match self {
            Kernel::Backports => "bookworm-backports",
            Kernel::Stable => "bookworm",
        }
    }

    /// The kernel's image, downloaded on the first call. The machine's package sources are not
    /// touched: apt gets lists and sources of its own.
    pub fn image(self) -> Result<PathBuf> {
        let dir = workspace::target().join("kernels").join(self.suite());
        if let Some(image) = image_in(&dir.join("boot")) {
            return Ok(image);
        }
        let archive = Archive::open(&dir, self.suite(), "deb")?;
        archive.update()?;
        let meta = archive.run("apt-cache", &["show", "linux-image-cloud-amd64"])?;
        let depends = meta.lines().find_map(|line| line.strip_prefix("Depends: "));
        let package = depends.and_then(|line| line.split([' ', ',']).next());
        let package = package.context("no kernel in the suite")?;
        archive.run("apt-get", &["download", package])?;
        for file in debian::packages(&dir)? {
            command::output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&dir))?;
            fs::remove_file(&file)?;
        }
        // modules are of no use here and large
        let _ = fs::remove_dir_all(dir.join("lib"));
        image_in(&dir.join("boot")).context("the package holds no kernel")
    }
}

fn image_in(boot: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(boot).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    })
}

/// Boots a kernel, runs `program` as its only work, returns the console's text.
pub fn run(kernel: Kernel, program: &Path) -> Result<String> {
    if !command::exists("qemu-system-x86_64") {
        bail!("qemu-system-x86_64 is not installed (Debian: qemu-system-x86)");
    }
    let image = kernel.image()?;
    let initramfs = initramfs(kernel, program)?;
    let mut qemu = Command::new("timeout");
    qemu.args([
        LIMIT,
        "qemu-system-x86_64",
        "-nographic",
        "-no-reboot",
        "-m",
        MEMORY,
    ]);
    // without cmpxchg16b: qemu 7.2 emulates it with wrong flags, and the kernel's allocator uses it
    qemu.args(["-accel", "tcg", "-cpu", "qemu64,-cx16", "-nic", "none"]);
    qemu.arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(&initramfs);
    // without no_timer_check a boot panics when the host does not schedule the emulated timer in time
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check"]);
    let out = command::output(&mut qemu);
    fs::remove_file(initramfs)?;
    out
}

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/busybox mount -t devtmpfs dev /dev
echo; echo \"kernel $(/bin/busybox uname -r)\"
/bin/program && echo 'program: success' || echo 'program: failure'
/bin/busybox reboot -f
";

fn initramfs(kernel: Kernel, program: &Path) -> Result<PathBuf> {
    let dir = workspace::target().join("kernels").join(format!(
        "root.{}.{}",
        kernel.suite(),
        std::process::id()
    ));
    fs::create_dir_all(dir.join("bin"))?;
    let busybox = command::find("busybox").context("busybox is not installed")?;
    images::tree::program(&dir, &busybox)?;
    images::tree::program(&dir, program)?;
    let name = program.file_name().context("program name")?;
    fs::rename(dir.join("bin").join(name), dir.join("bin/program"))?;
    // a debug build carries a hundred megabytes of symbols
    command::output(Command::new("strip").arg(dir.join("bin/program")))?;
    fs::write(dir.join("init"), INIT)?;
    fs::set_permissions(dir.join("init"), fs::Permissions::from_mode(0o755))?;
    let mut archive = Vec::new();
    cpio(&dir, &dir, &mut archive)?;
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    let file = dir.with_added_extension("cpio");
    fs::write(&file, archive)?;
    fs::remove_dir_all(&dir)?;
    Ok(file)
}

/// Files and directories below `dir` in the format "newc" (kernel: `initramfs-buffer-format.rst`).
fn cpio(root: &Path, dir: &Path, out: &mut Vec<u8>) -> Result<()> {
    for item in fs::read_dir(dir)?.flatten() {
        let path = item.path();
        let meta = fs::metadata(&path)?;
        let name = path.strip_prefix(root)?.display().to_string();
        if meta.is_dir() {
            entry(out, &name, 0o040_755, &[]);
            cpio(root, &path, out)?;
        } else {
            entry(
                out,
                &name,
                0o100_000 | (meta.permissions().mode() & 0o777),
                &fs::read(&path)?,
            );
        }
    }
    Ok(())
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let (size, length) = (data.len(), name.len() + 1);
    out.extend_from_slice(b"070701");
    for field in [0, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_aligned_and_as_long_as_it_says() {
        let mut out = Vec::new();
        entry(&mut out, "a", 0o100_644, b"hello");
        assert_eq!(out.len() % 4, 0);
        assert_eq!(&out[54..62], b"00000005");
        assert_eq!(&out[110..112], b"a\0");
        assert_eq!(&out[112..117], b"hello");
    }
}
