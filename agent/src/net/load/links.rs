//! Attaching: one pinned link per program and place. A link that exists gets the new program, so that no
//! packet ever passes a moment without one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Datapath, LoadError};
use crate::net::maps::sys::{self, TCX_EGRESS, TCX_INGRESS};

/// Programs of a pod's veth.
const POD: [(&str, u32); 2] = [("pod_out", TCX_INGRESS), ("pod_in", TCX_EGRESS)];
/// Programs of an uplink.
const UPLINK: [(&str, u32); 2] = [("uplink_in", TCX_INGRESS), ("uplink_out", TCX_EGRESS)];
/// Socket programs with their `bpf_attach_type`.
const SOCKET: [(&str, u32); 8] = [
    ("sock_connect4", 10),
    ("sock_connect6", 11),
    ("sock_sendmsg4", 14),
    ("sock_sendmsg6", 15),
    ("sock_recvmsg4", 19),
    ("sock_recvmsg6", 20),
    ("sock_getpeername4", 29),
    ("sock_getpeername6", 30),
];

/// A link that was found and now runs this agent's program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attached {
    /// Interface index of a pod's veth or an uplink, with the program's name.
    Interface(u32, String),
    /// A socket program.
    Socket(String),
}

impl Datapath {
    /// Swaps the program of every pinned link for this agent's, all links in one loop after all are open.
    /// Links whose interface is gone are unpinned. Returns what is attached now.
    pub fn adopt_links(&self) -> Result<Vec<Attached>, LoadError> {
        let dir = self.links_dir()?;
        let entries = std::fs::read_dir(&dir).map_err(file("list", &dir))?;
        let mut links = Vec::new();
        for entry in entries {
            let entry = entry.map_err(file("list", &dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((program, attached)) = parse_pin(&name) else {
                continue;
            };
            let fd = sys::open(&entry.path()).map_err(file("open", &entry.path()))?;
            links.push((program, attached, fd, entry.path()));
        }
        let mut adopted = Vec::new();
        for (program, attached, fd, path) in links {
            match sys::link_update(fd.as_fd(), self.program(program)?) {
                Ok(()) => adopted.push(attached),
                Err(error) if is_defunct(&error) => super::remove(&path)?,
                Err(source) => return Err(link("update the link", path.display(), source)),
            }
        }
        self.promote_tail_calls()?;
        adopted.sort();
        Ok(adopted)
    }

    /// Attaches both programs to the host side of a pod's veth, in the current network namespace; those
    /// that are attached already get the new program.
    pub fn attach_pod(&self, ifindex: u32) -> Result<(), LoadError> {
        POD.iter()
            .try_for_each(|(program, kind)| self.attach_interface(program, *kind, ifindex))
    }

    /// Attaches both programs to an uplink.
    pub fn attach_uplink(&self, ifindex: u32) -> Result<(), LoadError> {
        UPLINK
            .iter()
            .try_for_each(|(program, kind)| self.attach_interface(program, *kind, ifindex))
    }

    /// Attaches the socket programs to a cgroup v2 directory.
    pub fn attach_sockets(&self, cgroup: &Path) -> Result<(), LoadError> {
        let dir = std::fs::File::open(cgroup).map_err(file("open", cgroup))?;
        for (program, kind) in SOCKET {
            self.attach(
                program,
                kind,
                dir.as_raw_fd() as u32,
                program,
                &cgroup.display(),
            )?;
        }
        self.promote_tail_calls()
    }

    /// Detaches a pod's programs; nothing if they are gone with their interface.
    pub fn detach_pod(&self, ifindex: u32) -> Result<(), LoadError> {
        let dir = self.links_dir()?;
        POD.iter()
            .try_for_each(|(program, _)| detach(&dir.join(format!("{program}_{ifindex}"))))
    }

    /// Detaches every socket program.
    pub fn detach_sockets(&self) -> Result<(), LoadError> {
        let dir = self.links_dir()?;
        SOCKET
            .iter()
            .try_for_each(|(program, _)| detach(&dir.join(program)))
    }

    /// Detaches everything and removes all pins below `dir`: the node's datapath is gone.
    pub fn remove_all(dir: &Path) -> Result<(), LoadError> {
        for (place, end) in [
            (
                dir.join("links"),
                detach as fn(&Path) -> Result<(), LoadError>,
            ),
            (dir.to_path_buf(), super::remove),
        ] {
            let Ok(entries) = std::fs::read_dir(&place) else {
                continue;
            };
            for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
                end(&entry.path())?;
            }
        }
        // What is not empty or not ours stays.
        let _ = std::fs::remove_dir(dir.join("links"));
        let _ = std::fs::remove_dir(dir);
        Ok(())
    }

    fn attach_interface(
        &self,
        program: &'static str,
        kind: u32,
        ifindex: u32,
    ) -> Result<(), LoadError> {
        self.attach(
            program,
            kind,
            ifindex,
            &format!("{program}_{ifindex}"),
            &ifindex,
        )?;
        self.promote_tail_calls()
    }

    fn attach(
        &self,
        program: &'static str,
        kind: u32,
        target: u32,
        pin: &str,
        shown: &dyn std::fmt::Display,
    ) -> Result<(), LoadError> {
        let path = self.links_dir()?.join(pin);
        let program_fd = self.program(program)?;
        match sys::open(&path) {
            Ok(existing) => match sys::link_update(existing.as_fd(), program_fd) {
                Ok(()) => return Ok(()),
                // The interface of that index is gone, this is another one.
                Err(error) if is_defunct(&error) => super::remove(&path)?,
                Err(source) => return Err(link("update the link", path.display(), source)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(file("open", &path)(source)),
        }
        let created: OwnedFd = sys::link_create(program_fd, target, kind)
            .map_err(|source| link("attach", format!("{program} to {shown}"), source))?;
        sys::pin(created.as_fd(), &path).map_err(file("pin", &path))
    }

    fn links_dir(&self) -> Result<PathBuf, LoadError> {
        let dir = self.dir.join("links");
        std::fs::create_dir_all(&dir).map_err(file("create", &dir))?;
        Ok(dir)
    }
}

/// Detaches a pinned link and unpins it; nothing if it is not there.
fn detach(path: &Path) -> Result<(), LoadError> {
    if let Ok(fd) = sys::open(path) {
        match sys::link_detach(fd.as_fd()) {
            Err(source) if !is_defunct(&source) => {
                return Err(link("detach", path.display(), source));
            }
            _ => {}
        }
    }
    super::remove(path)
}

/// A link without its interface answers ENOLINK.
fn is_defunct(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOLINK)
}

fn parse_pin(name: &str) -> Option<(&'static str, Attached)> {
    if let Some((program, _)) = SOCKET.iter().find(|(program, _)| *program == name) {
        return Some((program, Attached::Socket(name.to_owned())));
    }
    let (program, ifindex) = name.rsplit_once('_')?;
    let (program, _) = POD
        .iter()
        .chain(&UPLINK)
        .find(|(known, _)| *known == program)?;
    Some((
        program,
        Attached::Interface(ifindex.parse().ok()?, (*program).to_owned()),
    ))
}

fn file(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> LoadError {
    let path = path.to_path_buf();
    move |source| LoadError::File {
        operation,
        path: path.clone(),
        source,
    }
}

fn link(operation: &'static str, target: impl ToString, source: io::Error) -> LoadError {
    LoadError::Link {
        operation,
        target: target.to_string(),
        source,
    }
}

/// Makes sure `dir` exists on a bpffs; mounts one there if no bpffs is mounted above it.
pub(super) fn ensure_bpffs(dir: &Path) -> Result<(), LoadError> {
    std::fs::create_dir_all(dir).map_err(file("create", dir))?;
    let kind = statfs(dir).map_err(|errno| file("examine", dir)(errno.into()))?;
    if kind.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    let none: Option<&str> = None;
    nix::mount::mount(
        Some("bpf"),
        dir,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        none,
    )
    .map_err(|errno| file("mount bpffs at", dir)(errno.into()))
}

/// Cookie of the current network namespace, for `Cfg::netns_cookie`.
pub fn netns_cookie() -> io::Result<u64> {
    // Not in libc's constants for every target: asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `len` bytes to `cookie`, which lives during the call.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut len,
        )
    };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_links_are_recognised_and_others_are_left_alone() {
        assert_eq!(
            parse_pin("pod_out_12"),
            Some(("pod_out", Attached::Interface(12, "pod_out".into())))
        );
        assert_eq!(
            parse_pin("sock_connect4"),
            Some(("sock_connect4", Attached::Socket("sock_connect4".into())))
        );
        assert_eq!(parse_pin("fe4_v1"), None);
        assert_eq!(parse_pin("pod_out_x"), None);
    }
}
