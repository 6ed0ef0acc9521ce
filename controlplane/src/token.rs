//! The join token of this server: `ID.SECRET:CAHASH` in `DATA/join-token`, where ID and SECRET are a
//! Kubernetes bootstrap token (kept as a Secret by the API) and CAHASH lets a machine that joins
//! verify the server.

use std::path::Path;

use rand::RngExt;

use crate::files;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error(
        "the join token is not ID.SECRET with 6 and 16 characters of a-z0-9; correct --token, or \
         remove {path} to get a new one"
    )]
    Malformed { path: String },
}

/// A bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub secret: String,
}

/// The token given, else the one kept in `path`, else a new one; `path` holds it afterwards.
pub fn open(path: &Path, given: Option<&str>, ca_hash: &str) -> Result<Token, Error> {
    let kept = files::read(path)?;
    let malformed = || Error::Malformed {
        path: path.display().to_string(),
    };
    let token = match given.or(kept.as_deref()) {
        Some(text) => parse(text).ok_or_else(malformed)?,
        None => Token {
            id: random(ID_LENGTH),
            secret: random(SECRET_LENGTH),
        },
    };
    let line = format!("{}.{}:{ca_hash}\n", token.id, token.secret);
    if kept.as_deref() != Some(line.as_str()) {
        files::write_secret(path, line.as_bytes())?;
    }
    Ok(token)
}

fn parse(text: &str) -> Option<Token> {
    let text = text.trim();
    let (id, secret) = text
        .split_once(':')
        .map_or(text, |(token, _)| token)
        .split_once('.')?;
    let word = |part: &str| part.bytes().all(|byte| ALPHABET.contains(&byte));
    (id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH && word(id) && word(secret)).then(
        || Token {
            id: id.to_owned(),
            secret: secret.to_owned(),
        },
    )
}

fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length)
        .map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join-token");
        let first = open(&path, None, "00").unwrap();
        let second = open(&path, None, "00").unwrap();
        assert!(first == second);
        let line = std::fs::read_to_string(&path).unwrap();
        assert_eq!(line, format!("{}.{}:00\n", first.id, first.secret));
    }

    #[test]
    fn a_given_token_replaces_the_kept_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join-token");
        open(&path, None, "00").unwrap();
        let given = open(&path, Some("abcdef.0123456789abcdef"), "00").unwrap();
        assert_eq!(given.id, "abcdef");
        assert!(open(&path, None, "00").unwrap() == given);
        assert!(open(&path, Some("nonsense"), "00").is_err());
    }
}
