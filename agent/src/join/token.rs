//! The join token: `ID.SECRET:CAHASH`. The first two parts are a Kubernetes bootstrap token, the
//! third is the SHA-256 of the cluster CA's SubjectPublicKeyInfo in hex.

use std::fmt;
use std::str::FromStr;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const HASH_LENGTH: usize = 64;

/// A parsed join token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: String,
    secret: String,
    ca_hash: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: {reason} (expected ID.SECRET:CAHASH, with 6 and 16 characters of a-z0-9 and \
     64 hex digits, as in DATA/join-token on the server)"
)]
pub struct ParseTokenError {
    reason: &'static str,
}

impl JoinToken {
    /// `ID.SECRET`, what is sent as bearer token.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// SHA-256 of the CA's SubjectPublicKeyInfo, hex.
    pub fn ca_hash(&self) -> &str {
        &self.ca_hash
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason| ParseTokenError { reason };
        let (bearer, ca_hash) = text
            .trim()
            .split_once(':')
            .ok_or(error("it has no colon and CA hash"))?;
        let (id, secret) = bearer.split_once('.').ok_or(error("it has no dot"))?;
        let word = |part: &str| {
            part.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if id.len() != ID_LENGTH || !word(id) {
            return Err(error("its id is malformed"));
        }
        if secret.len() != SECRET_LENGTH || !word(secret) {
            return Err(error("its secret is malformed"));
        }
        if ca_hash.len() != HASH_LENGTH || !ca_hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error("its CA hash is malformed"));
        }
        Ok(JoinToken {
            id: id.to_owned(),
            secret: secret.to_owned(),
            ca_hash: ca_hash.to_ascii_lowercase(),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.…)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts() {
        let hash = "a".repeat(64);
        let token: JoinToken = format!("abcdef.0123456789abcdef:{hash}\n").parse().unwrap();
        assert_eq!(token.bearer(), "abcdef.0123456789abcdef");
        assert_eq!(token.ca_hash(), hash);
    }

    #[test]
    fn malformed_tokens_are_refused_with_the_reason() {
        for (text, reason) in [
            ("abcdef.0123456789abcdef", "no colon"),
            ("abcdef:00", "no dot"),
            ("ABCDEF.0123456789abcdef:00", "id"),
            ("abcdef.short:00", "secret"),
            ("abcdef.0123456789abcdef:00", "CA hash"),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let token: JoinToken = format!("abcdef.0123456789abcdef:{}", "a".repeat(64))
            .parse()
            .unwrap();
        assert!(!format!("{token:?}").contains("0123456789abcdef"));
    }
}
