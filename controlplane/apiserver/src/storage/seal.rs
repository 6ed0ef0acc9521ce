//! Encryption of secrets at rest: AES-256-GCM with the log key as associated data, so that a value
//! moved to another key does not open.
//!
//! A sealed value is `version(1) | key id(4) | nonce(12) | ciphertext and tag`. The key file holds one
//! key per line, `id:base64`, the first one seals, all of them open: that is how keys rotate.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const HEADER_BYTES: usize = 1 + 4;

/// Why sealing or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} has no usable key in line {line}")]
    KeyFile { path: PathBuf, line: usize },
    #[error("no randomness from the system")]
    Random,
    #[error("sealed value does not open with any known key")]
    Open,
}

/// The keys.
pub struct Sealer {
    keys: Vec<(u32, LessSafeKey)>,
    random: SystemRandom,
}

// === impl Sealer ===

impl Sealer {
    /// Reads the key file, or makes one with a new key.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, &random)?,
            Err(source) => return Err(file_error("read", path, source)),
        };
        let mut keys = Vec::new();
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty())
        {
            let bad = || SealError::KeyFile {
                path: path.to_owned(),
                line: index + 1,
            };
            keys.push(parse_key(line).ok_or_else(bad)?);
        }
        if keys.is_empty() {
            return Err(SealError::KeyFile {
                path: path.to_owned(),
                line: 1,
            });
        }
        Ok(Self { keys, random })
    }

    /// Encrypts a value for a key of the log.
    pub fn seal(&self, log_key: &[u8], value: &[u8]) -> Result<Bytes, SealError> {
        let (id, key) = &self.keys[0];
        let mut nonce = [0; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| SealError::Random)?;
        let mut out = Vec::with_capacity(HEADER_BYTES + NONCE_LEN + value.len() + 16);
        out.push(VERSION);
        out.extend(id.to_be_bytes());
        out.extend(nonce);
        let mut body = value.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(log_key),
            &mut body,
        )
        .map_err(|_| SealError::Random)?;
        out.extend(body);
        Ok(out.into())
    }

    /// Decrypts what [`Sealer::seal`] made for the same key of the log.
    pub fn open_value(&self, log_key: &[u8], sealed: &[u8]) -> Result<Bytes, SealError> {
        let (header, rest) = sealed
            .split_at_checked(HEADER_BYTES)
            .ok_or(SealError::Open)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Open)?;
        let id = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let key = self
            .keys
            .iter()
            .find(|(other, _)| *other == id)
            .map(|(_, key)| key);
        let (Some(key), VERSION) = (key, header[0]) else {
            return Err(SealError::Open);
        };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Open)?;
        let mut body = body.to_vec();
        let plain = key
            .open_in_place(nonce, Aad::from(log_key), &mut body)
            .map_err(|_| SealError::Open)?
            .len();
        body.truncate(plain);
        Ok(body.into())
    }
}

fn create(path: &Path, random: &SystemRandom) -> Result<String, SealError> {
    let mut key = [0; KEY_BYTES];
    random.fill(&mut key).map_err(|_| SealError::Random)?;
    let text = format!("1:{}\n", STANDARD.encode(key));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| file_error("create the directory of", path, e))?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| file_error("create", path, e))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| file_error("write", path, e))?;
    Ok(text)
}

fn parse_key(line: &str) -> Option<(u32, LessSafeKey)> {
    let (id, key) = line.trim().split_once(':')?;
    let key = UnboundKey::new(&AES_256_GCM, &STANDARD.decode(key).ok()?).ok()?;
    Some((id.parse().ok()?, LessSafeKey::new(key)))
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> SealError {
    SealError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_under_its_own_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let sealer = Sealer::open(&path).unwrap();
        let sealed = sealer.seal(b"core/secrets/a/b", b"geheim").unwrap();
        assert!(!sealed.windows(6).any(|w| w == b"geheim"));
        let again = Sealer::open(&path).unwrap();
        assert_eq!(
            &again.open_value(b"core/secrets/a/b", &sealed).unwrap()[..],
            b"geheim"
        );
        assert!(again.open_value(b"core/secrets/a/c", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(
                again
                    .open_value(b"core/secrets/a/b", &sealed[..cut])
                    .is_err()
            );
        }
    }
}
