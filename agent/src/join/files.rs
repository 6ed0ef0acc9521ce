//! Credentials on disk: `ROOT/pki/ca.crt`, and one file per certificate that holds the chain and its key,
//! so that a renewal replaces both in one step. Readable by root alone.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::KeyPair;

const CA: &str = "ca.crt";
/// Begins the second part of a pair's file, whatever kind of key it is.
const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----";

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct Error {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

/// The CA; `None` if this machine has none yet.
pub fn load_ca(dir: &Path) -> Result<Option<Vec<u8>>, Error> {
    read(&dir.join(CA))
}

/// The pair kept under that name, if there is a whole one.
pub fn load_pair(dir: &Path, name: &str) -> Result<Option<KeyPair>, Error> {
    let Some(content) = read(&path_of(dir, name))? else {
        return Ok(None);
    };
    let at = content.windows(KEY.len()).position(|window| window == KEY);
    Ok(at.map(|at| KeyPair {
        cert_pem: content[..at].to_vec(),
        key_pem: content[at..].to_vec(),
    }))
}

pub fn save_ca(dir: &Path, pem: &[u8]) -> Result<(), Error> {
    replace(&dir.join(CA), &[pem])
}

pub fn save_pair(dir: &Path, name: &str, pair: &KeyPair) -> Result<(), Error> {
    replace(&path_of(dir, name), &[&pair.cert_pem, b"\n", &pair.key_pem])
}

fn path_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pem"))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Written beside its place, then renamed there.
fn replace(path: &Path, parts: &[&[u8]]) -> Result<(), Error> {
    let failed = |action| {
        move |source| Error {
            action,
            path: path.to_owned(),
            source,
        }
    };
    if let Some(dir) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(dir);
        made.map_err(failed("create the directory of"))?;
    }
    let temporary = path.with_extension("new");
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(failed("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_comes_back_as_it_was_saved_and_half_of_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        assert!(load_pair(&dir, "node").unwrap().is_none());
        let key = rcgen::KeyPair::generate().unwrap();
        let pair = KeyPair {
            cert_pem: b"-----BEGIN CERTIFICATE-----\n".to_vec(),
            key_pem: key.serialize_pem().into_bytes(),
        };
        save_pair(&dir, "node", &pair).unwrap();
        let loaded = load_pair(&dir, "node").unwrap().unwrap();
        assert_eq!(loaded.key_pem, pair.key_pem);
        assert!(loaded.cert_pem.starts_with(&pair.cert_pem));
        std::fs::write(dir.join("node.pem"), &pair.cert_pem).unwrap();
        assert!(load_pair(&dir, "node").unwrap().is_none());
    }
}
