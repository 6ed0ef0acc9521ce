//! Bootstrap tokens: `ID.SECRET`, kept as Secrets of a type of their own in kube-system.
//!
//! Port of `plugin/pkg/auth/authenticator/token/bootstrap`.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::lenient;
use crate::cache::{Cache, Object};
use crate::catalog::ResourceId;
use crate::identity::UserInfo;

/// The group every bootstrap token is in.
pub const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const ID_CHARS: usize = 6;
const SECRET_CHARS: usize = 16;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Secret {
    #[serde(rename = "type")]
    kind: String,
    data: HashMap<String, String>,
}

/// The id and secret of text that has the form of a bootstrap token.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let word = |part: &str, chars| {
        part.len() == chars
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (word(id, ID_CHARS) && word(secret, SECRET_CHARS)).then_some((id, secret))
}

/// Whom the token proves at `now` (Unix seconds).
pub fn authenticate(cache: &Cache, id: &str, secret: &str, now: i64) -> Option<UserInfo> {
    let name = format!("bootstrap-token-{id}");
    let object = cache.get(ResourceId::named("", "secrets"), "kube-system", &name)?;
    check(&object, id, secret, now)
}

fn check(object: &Object, id: &str, secret: &str, now: i64) -> Option<UserInfo> {
    if object.is_terminating() {
        return None;
    }
    user(&object.bytes, id, secret, now)
}

fn user(bytes: &[u8], id: &str, secret: &str, now: i64) -> Option<UserInfo> {
    let object: Secret = lenient::from_slice(bytes).ok()?;
    if object.kind != SECRET_TYPE {
        return None;
    }
    let data = |key: &str| {
        let decoded = STANDARD.decode(object.data.get(key)?).ok()?;
        String::from_utf8(decoded).ok()
    };
    if !equal_in_constant_time(data("token-secret")?.as_bytes(), secret.as_bytes())
        || data("token-id")? != id
        || data("usage-bootstrap-authentication")? != "true"
    {
        return None;
    }
    if let Some(expiration) = data("expiration").filter(|text| !text.is_empty()) {
        // An expiration nobody can read has passed.
        let until = OffsetDateTime::parse(&expiration, &Rfc3339).ok()?;
        if until.unix_timestamp() <= now {
            return None;
        }
    }
    let mut groups = vec![GROUP_BOOTSTRAPPERS.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',') {
        if group.is_empty() {
            continue;
        }
        if !group.starts_with("system:bootstrappers:") {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(UserInfo::new(format!("system:bootstrap:{id}"), groups))
}

fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(changes: &[(&str, &str)]) -> Vec<u8> {
        let mut data: HashMap<&str, &str> = HashMap::from([
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:nodes"),
        ]);
        data.extend(changes.iter().copied());
        let data: HashMap<_, _> = data
            .into_iter()
            .map(|(k, v)| (k, STANDARD.encode(v)))
            .collect();
        serde_json::to_vec(&serde_json::json!({"type": SECRET_TYPE, "data": data})).unwrap()
    }

    #[test]
    fn a_good_token_proves_its_id_and_groups() {
        let user = user(&secret(&[]), "abcdef", "0123456789abcdef", 1_700_000_000).unwrap();
        assert_eq!(user.username, "system:bootstrap:abcdef");
        let groups = [
            "system:bootstrappers",
            "system:bootstrappers:nodes",
            "system:authenticated",
        ];
        assert_eq!(user.groups, groups);
    }

    #[test]
    fn a_bad_token_proves_nobody() {
        let cases = [
            ("token-secret", "fedcba9876543210"),
            ("token-id", "fedcba"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
        ];
        for change in cases {
            let secret = secret(&[change]);
            let user = user(&secret, "abcdef", "0123456789abcdef", 1_700_000_000);
            assert_eq!(user, None, "{change:?}");
        }
    }

    #[test]
    fn only_the_exact_form_is_a_token() {
        assert_eq!(
            parse("abcdef.0123456789abcdef"),
            Some(("abcdef", "0123456789abcdef"))
        );
        for text in [
            "abcdef",
            "abcde.0123456789abcdef",
            "abcdef.0123456789ABCDEF",
            "a.b.c",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
