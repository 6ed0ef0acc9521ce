//! JSON web tokens signed with ES256, and the documents that publish the key.
//!
//! Knows signatures and claims, neither service accounts nor the cache. `now` is checked elsewhere.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as B64};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// DER of a SubjectPublicKeyInfo for a P-256 point, up to the point.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Tokens whose signature is remembered; then all are forgotten.
const MAX_REMEMBERED: usize = 8192;

/// Why a token is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("invalid bearer token")]
    Malformed,
    #[error("the token was not signed by this cluster's key")]
    Signature,
    #[error("the token is another issuer's")]
    Issuer,
}

/// An object a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ref {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims under `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    pub namespace: String,
    pub serviceaccount: Ref,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a service account's token. Times are Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    pub nbf: i64,
    pub sub: String,
}

/// Signs and verifies tokens.
pub struct TokenKey {
    key: EcdsaKeyPair,
    key_id: String,
    issuer: String,
    verified: Mutex<HashMap<[u8; 32], Claims>>,
}

impl TokenKey {
    /// From a PKCS#8 PEM with a P-256 key.
    pub fn new(pem: &str, issuer: &str) -> Result<Self, TokenError> {
        let der: String = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let der = STANDARD
            .decode(der.trim())
            .map_err(|_| TokenError::Malformed)?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|_| TokenError::Malformed)?;
        let mut spki = P256_SPKI_PREFIX.to_vec();
        spki.extend_from_slice(key.public_key().as_ref());
        Ok(Self {
            key_id: B64.encode(Sha256::digest(&spki)),
            key,
            issuer: issuer.to_owned(),
            verified: Mutex::default(),
        })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The token with these claims; the issuer is set here.
    pub fn sign(&self, mut claims: Claims) -> Result<String, TokenError> {
        claims.iss.clone_from(&self.issuer);
        let header = serde_json::json!({"alg": "ES256", "kid": self.key_id});
        let claims = serde_json::to_vec(&claims).map_err(|_| TokenError::Malformed)?;
        let mut token = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| TokenError::Signature)?;
        token.push('.');
        token.push_str(&B64.encode(signature));
        Ok(token)
    }

    /// The claims of a token this key signed. Whether they hold now is for the caller.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let id: [u8; 32] = Sha256::digest(token).into();
        let known = self
            .verified
            .lock()
            .expect("no code panics under this lock")
            .get(&id)
            .cloned();
        if let Some(claims) = known {
            return Ok(claims);
        }
        let claims = self.verify_signature(token)?;
        let mut verified = self
            .verified
            .lock()
            .expect("no code panics under this lock");
        if verified.len() >= MAX_REMEMBERED {
            verified.clear();
        }
        verified.insert(id, claims.clone());
        Ok(claims)
    }

    fn verify_signature(&self, token: &str) -> Result<Claims, TokenError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| B64.decode(part).map_err(|_| TokenError::Malformed);
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header.alg != "ES256" {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims =
            serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        Ok(claims)
    }

    /// `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self) -> serde_json::Value {
        serde_json::json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> serde_json::Value {
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        serde_json::json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": B64.encode(x),
            "y": B64.encode(y),
        }]})
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A fresh key as the composition root makes it.
    pub fn key_pem() -> String {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        let body = STANDARD.encode(document.as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    #[test]
    fn a_signed_token_verifies_and_a_changed_one_does_not() {
        let key = TokenKey::new(&key_pem(), "https://kubernetes.default.svc").unwrap();
        let claims = Claims {
            sub: "system:serviceaccount:a:b".into(),
            exp: 5,
            ..Claims::default()
        };
        let token = key.sign(claims.clone()).unwrap();
        let verified = key.verify(&token).unwrap();
        assert_eq!(verified.sub, claims.sub);
        assert_eq!(key.verify(&token), Ok(verified));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let forged = Claims {
            sub: "system:serviceaccount:a:admin".into(),
            ..claims
        };
        let forged = B64.encode(serde_json::to_vec(&forged).unwrap());
        let forged = format!("{header}.{forged}.{signature}");
        assert_eq!(key.verify(&forged), Err(TokenError::Signature));
        let none = format!("{}.{}.", B64.encode(r#"{"alg":"none"}"#), B64.encode("{}"));
        assert_eq!(key.verify(&none), Err(TokenError::Signature));
        assert_eq!(key.verify("nonsense"), Err(TokenError::Malformed));
    }

    #[test]
    fn another_clusters_token_is_refused() {
        let key = TokenKey::new(&key_pem(), "https://one").unwrap();
        let other = TokenKey::new(&key_pem(), "https://one").unwrap();
        let token = other.sign(Claims::default()).unwrap();
        assert_eq!(key.verify(&token), Err(TokenError::Signature));
    }
}
