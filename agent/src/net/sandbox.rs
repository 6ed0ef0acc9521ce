//! Pod sandboxes with an interface on this node, and their durable records: one small file each,
//! written before the interface is made and removed after it is gone, so that addresses and endpoint
//! indices survive a restart of the agent. A record without its interface (after a reboot) is stale.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::netlink::Mac;
use super::plan::endpoint::Local;
use crate::cni::Args;
use crate::state::ObjectKey;

/// Container id and interface name: what CNI identifies an attachment by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxId {
    pub container_id: String,
    pub ifname: String,
}

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    pub id: SandboxId,
    pub pod: Args,
    pub addresses: Vec<IpAddr>,
    pub mac: Mac,
    /// Name of the host's end of the pair.
    pub host_name: String,
    pub ep_ix: u32,
}

/// The records on disk.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

/// A record that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {path}")]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("container id {0:?} is not a file name")]
    Id(String),
}

// === impl Sandbox ===

impl Sandbox {
    /// The pod's key.
    pub fn pod_key(&self) -> ObjectKey {
        ObjectKey::new(&self.pod.namespace, &self.pod.name)
    }

    /// As the endpoint plan sees it.
    pub fn local(&self, ifindex: u32) -> Local {
        Local {
            ep_ix: self.ep_ix,
            ifindex,
            mac: self.mac,
            addresses: self.addresses.clone(),
        }
    }
}

// === impl Store ===

impl Store {
    /// Records live in `root/sandboxes`, those given out last in `root/last-addresses`.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let store = Self {
            dir: root.to_path_buf(),
        };
        std::fs::create_dir_all(store.records()).map_err(at("create", &store.records()))?;
        Ok(store)
    }

    /// All records; unreadable ones are reported and skipped.
    pub fn load(&self) -> Result<Vec<Sandbox>, Error> {
        let dir = self.records();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(at("list", &dir))? {
            let path = entry.map_err(at("list", &dir))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let parsed = std::fs::read(&path)
                .ok()
                .and_then(|b| serde_json::from_slice(&b).ok());
            match parsed {
                Some(sandbox) => found.push(sandbox),
                None => tracing::warn!(path = %path.display(), "unreadable sandbox record"),
            }
        }
        Ok(found)
    }

    pub fn save(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let path = self.path(&sandbox.id)?;
        let json = serde_json::to_vec(sandbox).expect("a sandbox has string keys only");
        write_atomically(&path, &json)?;
        let last: String = sandbox.addresses.iter().map(|a| format!("{a}\n")).collect();
        write_atomically(&self.dir.join("last-addresses"), last.as_bytes())
    }

    pub fn remove(&self, id: &SandboxId) -> Result<(), Error> {
        let path = self.path(id)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(at("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// The addresses given out last.
    pub fn last_addresses(&self) -> Vec<IpAddr> {
        let text = std::fs::read_to_string(self.dir.join("last-addresses")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn records(&self) -> PathBuf {
        self.dir.join("sandboxes")
    }

    fn path(&self, id: &SandboxId) -> Result<PathBuf, Error> {
        let name = format!("{}-{}", id.container_id, id.ifname);
        if name.contains('/') || name.starts_with('.') {
            return Err(Error::Id(name));
        }
        Ok(self.records().join(format!("{name}.json")))
    }
}

/// Writes a file beside its place and renames it there.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let write = || {
        let mut file = std::fs::File::create(&new)?;
        file.write_all(content)?;
        file.sync_data()?;
        std::fs::rename(&new, path)
    };
    write().map_err(at("write", path))
}

fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_ids_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = SandboxId {
            container_id: "c1".into(),
            ifname: "eth0".into(),
        };
        let sandbox = Sandbox {
            id: id.clone(),
            pod: Args {
                namespace: "a".into(),
                name: "b".into(),
                uid: "u".into(),
            },
            addresses: vec!["10.0.0.7".parse().unwrap()],
            mac: [2; 6],
            host_name: "wl0".into(),
            ep_ix: 4,
        };
        store.save(&sandbox).unwrap();
        assert_eq!(store.load().unwrap(), std::slice::from_ref(&sandbox));
        assert_eq!(store.last_addresses(), sandbox.addresses);
        store.remove(&id).unwrap();
        store.remove(&id).unwrap();
        assert!(store.load().unwrap().is_empty());
        let id = SandboxId {
            container_id: "../x".into(),
            ifname: "eth0".into(),
        };
        assert!(store.save(&Sandbox { id, ..sandbox }).is_err());
    }
}
