//! The files of configMap, secret, downwardAPI and projected volumes as data: path → bytes and mode.
//! Pure; objects, tokens and certificates are handed in (upstream: `pkg/volume/{configmap,secret,downwardapi,projected}`).

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, KeyToPath, Pod, PodCertificateProjection,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::certificate::state::Bundle;
use crate::pod::downward::{self, Facts};
use crate::pod::objects::anchors::{self, Anchors};
use crate::pod::objects::{Data, Key, Objects};
use crate::pod::resources;
use crate::pod::spec;

const DEFAULT_MODE: i32 = 0o644;
/// Lifetime of a projected token that names none.
const DEFAULT_EXPIRATION_SECONDS: i64 = 3600;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("references non-existent {kind} key: {key}")]
    MissingKey { kind: &'static str, key: String },
    #[error("invalid path {0:?}")]
    Path(String),
    #[error("downward API field {0:?} is not supported")]
    Field(String),
    #[error("volume source {0} is not supported by this node")]
    Unsupported(&'static str),
}

/// A file's contents may be secret: no derived `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({} bytes, {:o})", self.data.len(), self.mode)
    }
}

pub type Payload = BTreeMap<String, File>;

/// A token a projected volume asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    pub audience: String,
    pub expiration_seconds: i64,
}

impl From<&ServiceAccountTokenProjection> for TokenKey {
    fn from(projection: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: projection.audience.clone().unwrap_or_default(),
            expiration_seconds: projection
                .expiration_seconds
                .unwrap_or(DEFAULT_EXPIRATION_SECONDS),
        }
    }
}

/// A certificate of a pod: the source of a projected volume it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateKey {
    pub volume: String,
    pub source: usize,
}

/// Everything a payload is made of.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub facts: &'a Facts,
    pub objects: &'a Objects,
    pub tokens: &'a BTreeMap<TokenKey, String>,
    pub certificates: &'a BTreeMap<CertificateKey, Bundle>,
    pub allocatable: (i64, i64),
}

/// Tokens the pod's volumes need.
pub fn token_keys(pod: &Pod) -> Vec<TokenKey> {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    let projected = volumes
        .filter_map(|v| v.projected.as_ref()?.sources.as_ref())
        .flatten();
    projected
        .filter_map(|s| s.service_account_token.as_ref())
        .map(TokenKey::from)
        .collect()
}

/// Certificates the pod's volumes need.
pub fn certificate_sources(pod: &Pod) -> Vec<(CertificateKey, PodCertificateProjection)> {
    let mut found = Vec::new();
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let sources = volume.projected.iter().filter_map(|p| p.sources.as_ref());
        for (source, projection) in sources.flatten().enumerate() {
            if let Some(projection) = &projection.pod_certificate {
                let volume = volume.name.clone();
                found.push((CertificateKey { volume, source }, projection.clone()));
            }
        }
    }
    found
}

/// One source of a volume's files.
enum Source<'a> {
    /// Keys of a ConfigMap or Secret: all, or those listed.
    Object {
        key: Key,
        items: &'a [KeyToPath],
        optional: bool,
    },
    Fields(&'a [DownwardAPIVolumeFile]),
    Token(&'a ServiceAccountTokenProjection),
    Anchors(&'a ClusterTrustBundleProjection),
    Certificate(CertificateKey, &'a PodCertificateProjection),
}

/// The volume's files, or `None` when it is not of these kinds.
pub fn payload(input: Input<'_>, volume: &Volume) -> Result<Option<Payload>, Error> {
    let Some((mode, sources)) = sources(spec::namespace(input.pod), volume)? else {
        return Ok(None);
    };
    let mode = mode.unwrap_or(DEFAULT_MODE);
    let mut files = Payload::new();
    for source in sources {
        match source {
            Source::Object {
                key,
                items,
                optional,
            } => keys(input, key, items, (mode, optional), &mut files)?,
            Source::Fields(items) => fields(input, items, mode, &mut files)?,
            Source::Token(projection) => token(input, projection, mode, &mut files)?,
            Source::Anchors(projection) => {
                let data = trust(input, projection)?;
                files.insert(projection.path.clone(), File::new(data, mode));
            }
            Source::Certificate(key, projection) => {
                certificate(input, &key, projection, mode, &mut files)?;
            }
        }
    }
    files.keys().try_for_each(|path| check(path))?;
    Ok(Some(files))
}

/// A volume's default mode and what its files come from.
type Sources<'a> = (Option<i32>, Vec<Source<'a>>);

/// Default mode and sources of a volume of these kinds.
fn sources<'a>(namespace: &str, volume: &'a Volume) -> Result<Option<Sources<'a>>, Error> {
    let object = |key, items: &'a Option<Vec<KeyToPath>>, optional: Option<bool>| Source::Object {
        key,
        items: items.as_deref().unwrap_or_default(),
        optional: optional == Some(true),
    };
    let found = if let Some(v) = &volume.config_map {
        let key = Key::config_map(namespace, &v.name);
        (v.default_mode, vec![object(key, &v.items, v.optional)])
    } else if let Some(v) = &volume.secret {
        let key = Key::secret(namespace, v.secret_name.as_deref().unwrap_or_default());
        (v.default_mode, vec![object(key, &v.items, v.optional)])
    } else if let Some(v) = &volume.downward_api {
        let items = v.items.as_deref().unwrap_or_default();
        (v.default_mode, vec![Source::Fields(items)])
    } else if let Some(v) = &volume.projected {
        let projected = |(source, p): (usize, &'a VolumeProjection)| {
            Ok(if let Some(p) = &p.config_map {
                object(Key::config_map(namespace, &p.name), &p.items, p.optional)
            } else if let Some(p) = &p.secret {
                object(Key::secret(namespace, &p.name), &p.items, p.optional)
            } else if let Some(p) = &p.downward_api {
                Source::Fields(p.items.as_deref().unwrap_or_default())
            } else if let Some(p) = &p.service_account_token {
                Source::Token(p)
            } else if let Some(p) = &p.cluster_trust_bundle {
                Source::Anchors(p)
            } else if let Some(p) = &p.pod_certificate {
                let volume = volume.name.clone();
                Source::Certificate(CertificateKey { volume, source }, p)
            } else {
                return Err(Error::Unsupported("projected, of an unknown kind"));
            })
        };
        let sources = v.sources.iter().flatten().enumerate().map(projected);
        (v.default_mode, sources.collect::<Result<_, _>>()?)
    } else {
        return Ok(None);
    };
    Ok(Some(found))
}

fn token(
    input: Input<'_>,
    projection: &ServiceAccountTokenProjection,
    mode: i32,
    files: &mut Payload,
) -> Result<(), Error> {
    let key = TokenKey::from(projection);
    let token = input.tokens.get(&key).ok_or_else(|| Error::Missing {
        kind: "token",
        name: key.audience.clone(),
    })?;
    let file = File::new(token.clone().into_bytes(), credential_mode(input, mode));
    files.insert(projection.path.clone(), file);
    Ok(())
}

/// With an fsGroup the group gets to read it (volume/ownership.rs), without one everybody.
fn credential_mode(input: Input<'_>, mode: i32) -> i32 {
    let context = spec::spec(input.pod).security_context.as_ref();
    let group = context.and_then(|context| context.fs_group);
    if group.is_some() { 0o600 } else { mode }
}

fn certificate(
    input: Input<'_>,
    key: &CertificateKey,
    projection: &PodCertificateProjection,
    mode: i32,
    files: &mut Payload,
) -> Result<(), Error> {
    let bundle = input.certificates.get(key).ok_or_else(|| Error::Missing {
        kind: "certificate of signer",
        name: projection.signer_name.clone(),
    })?;
    let Bundle { key, chain } = bundle;
    let mode = credential_mode(input, mode);
    let mut add = |path: &Option<String>, data: Vec<u8>| {
        if let Some(path) = path.as_ref().filter(|path| !path.is_empty()) {
            files.insert(path.clone(), File::new(data, mode));
        }
    };
    add(
        &projection.credential_bundle_path,
        [&key[..], chain].concat(),
    );
    add(&projection.key_path, key.clone());
    add(&projection.certificate_chain_path, chain.clone());
    Ok(())
}

fn keys(
    input: Input<'_>,
    key: Key,
    items: &[KeyToPath],
    (mode, optional): (i32, bool),
    files: &mut Payload,
) -> Result<(), Error> {
    let kind = key.kind();
    let empty = Data::default();
    let data = found(input, &key, optional)?.unwrap_or(&empty);
    if items.is_empty() {
        let all = data.data.iter();
        files.extend(all.map(|(name, value)| (name.clone(), File::new(value.clone(), mode))));
        return Ok(());
    }
    for item in items {
        match data.data.get(&item.key) {
            Some(value) => {
                let file = File::new(value.clone(), item.mode.unwrap_or(mode));
                files.insert(item.path.clone(), file);
            }
            None if optional => {}
            None => {
                let key = item.key.clone();
                return Err(Error::MissingKey { kind, key });
            }
        }
    }
    Ok(())
}

/// An object that is there, or may be missing.
fn found<'a>(input: Input<'a>, key: &Key, optional: bool) -> Result<Option<&'a Data>, Error> {
    match input.objects.get(key) {
        Some(data) => Ok(Some(data)),
        None if optional && input.objects.is_missing(key) => Ok(None),
        None => Err(Error::Missing {
            kind: key.kind(),
            name: key.name(),
        }),
    }
}

/// Trust anchors in PEM; none where they may be missing.
fn trust(input: Input<'_>, projection: &ClusterTrustBundleProjection) -> Result<Vec<u8>, Error> {
    let key = Key::Anchors(Anchors::from(projection));
    let data = found(input, &key, projection.optional == Some(true))?;
    let pem = data.and_then(|data| data.data.get(anchors::PEM));
    Ok(pem.cloned().unwrap_or_default())
}

fn fields(
    input: Input<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    files: &mut Payload,
) -> Result<(), Error> {
    for item in items {
        let value = if let Some(reference) = &item.field_ref {
            downward::field(input.pod, input.facts, &reference.field_path)
                .ok_or_else(|| Error::Field(reference.field_path.clone()))?
        } else if let Some(reference) = &item.resource_field_ref {
            let name = reference.container_name.as_deref().unwrap_or_default();
            let divisor = reference.divisor.as_ref().map(|q| q.0.as_str());
            spec::find(input.pod, name)
                .and_then(|(_, c)| {
                    resources::field(&c, &reference.resource, divisor, input.allocatable)
                })
                .ok_or_else(|| Error::Field(reference.resource.clone()))?
        } else {
            continue;
        };
        let file = File::new(value.into_bytes(), item.mode.unwrap_or(mode));
        files.insert(item.path.clone(), file);
    }
    Ok(())
}

impl File {
    fn new(data: Vec<u8>, mode: i32) -> Self {
        Self {
            data,
            mode: bits(mode),
        }
    }
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

/// Paths are relative and stay below the volume.
fn check(path: &str) -> Result<(), Error> {
    let parsed = Path::new(path);
    let normal = parsed
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !normal || path.starts_with("..") {
        return Err(Error::Path(path.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(volume: serde_json::Value) -> Result<Option<Payload>, Error> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "labels": { "a": "b" } },
            "spec": { "containers": [] } }))
        .unwrap();
        let mut objects = Objects::default();
        let data = [
            ("one".to_owned(), b"1".to_vec()),
            ("two".to_owned(), b"2".to_vec()),
        ]
        .into();
        objects.insert(Key::config_map("ns", "cm"), Data { data });
        let roots = Key::Anchors(Anchors::Bundle("roots".to_owned()));
        let data = [(anchors::PEM.to_owned(), b"pem".to_vec())].into();
        objects.insert(roots, Data { data });
        let key = TokenKey {
            audience: String::new(),
            expiration_seconds: 3607,
        };
        let tokens = [(key, "jwt".to_owned())].into();
        let facts = Facts::default();
        let key = CertificateKey {
            volume: "v".to_owned(),
            source: 1,
        };
        let bundle = Bundle {
            key: b"key\n".to_vec(),
            chain: b"chain\n".to_vec(),
        };
        let certificates = [(key, bundle)].into();
        let input = Input {
            pod: &pod,
            facts: &facts,
            objects: &objects,
            tokens: &tokens,
            certificates: &certificates,
            allocatable: (1000, 1 << 30),
        };
        payload(input, &serde_json::from_value(volume).unwrap())
    }

    #[test]
    fn a_config_map_is_projected_whole_or_by_items() {
        let all = run(json!({ "name": "v", "configMap": { "name": "cm" } }))
            .unwrap()
            .unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["one", "two"]);
        let some = run(
            json!({ "name": "v", "configMap": { "name": "cm", "defaultMode": 256,
            "items": [{ "key": "two", "path": "dir/b" }] } }),
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            some["dir/b"],
            File {
                data: b"2".to_vec(),
                mode: 0o400
            }
        );
    }

    #[test]
    fn what_is_missing_is_an_error_unless_optional() {
        let missing = json!({ "name": "v", "configMap": { "name": "gone" } });
        let expected = Error::Missing {
            kind: "configmap",
            name: "gone".to_owned(),
        };
        assert_eq!(run(missing), Err(expected));
        let optional = json!({ "name": "v", "configMap": { "name": "gone", "optional": true } });
        assert_eq!(run(optional).unwrap(), Some(Payload::new()));
        let key = json!({ "name": "v", "configMap": { "name": "cm",
            "items": [{ "key": "no", "path": "x" }] } });
        assert!(matches!(run(key), Err(Error::MissingKey { .. })));
    }

    #[test]
    fn the_service_account_volume_has_token_ca_and_namespace() {
        let files = run(json!({ "name": "v", "projected": { "sources": [
            { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
            { "configMap": { "name": "cm", "items": [{ "key": "one", "path": "ca.crt" }] } },
            { "downwardAPI": { "items": [{ "path": "namespace",
                "fieldRef": { "fieldPath": "metadata.namespace" } }] } }] } }))
        .unwrap()
        .unwrap();
        assert_eq!(files["token"].data, b"jwt");
        assert_eq!(files["namespace"].data, b"ns");
        assert_eq!(files["ca.crt"].data, b"1");
    }

    #[test]
    fn trust_anchors_are_a_file_that_may_be_empty() {
        let source = |bundle| {
            json!({ "name": "v", "projected": { "sources": [
            { "clusterTrustBundle": bundle } ] } })
        };
        let missing = run(source(json!({ "name": "gone", "path": "ca.pem" })));
        let expected = Error::Missing {
            kind: "clustertrustbundle",
            name: "gone".to_owned(),
        };
        assert_eq!(missing, Err(expected));
        let optional = json!({ "name": "gone", "path": "ca.pem", "optional": true });
        let files = run(source(optional)).unwrap().unwrap();
        assert!(files["ca.pem"].data.is_empty());
        let found = run(source(json!({ "name": "roots", "path": "ca.pem" })));
        assert_eq!(found.unwrap().unwrap()["ca.pem"].data, b"pem");
    }

    #[test]
    fn a_certificate_is_a_bundle_or_its_parts() {
        let files = run(json!({ "name": "v", "projected": { "sources": [
            { "downwardAPI": { "items": [] } },
            { "podCertificate": { "signerName": "a.b/c", "keyType": "ED25519",
                "credentialBundlePath": "bundle.pem", "keyPath": "key.pem",
                "certificateChainPath": "chain.pem" } } ] } }))
        .unwrap()
        .unwrap();
        assert_eq!(files["bundle.pem"].data, b"key\nchain\n");
        assert_eq!(files["key.pem"].data, b"key\n");
        assert_eq!(files["chain.pem"].data, b"chain\n");
        let other = run(json!({ "name": "v", "projected": { "sources": [
            { "podCertificate": { "signerName": "a.b/c", "keyType": "ED25519",
                "keyPath": "key.pem" } } ] } }));
        assert!(matches!(other, Err(Error::Missing { .. })), "{other:?}");
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        for path in ["../x", "/etc/x", "a/../b", "..data", ""] {
            let volume = json!({ "name": "v", "configMap": { "name": "cm",
                "items": [{ "key": "one", "path": path }] } });
            assert!(matches!(run(volume), Err(Error::Path(_))), "{path}");
        }
    }
}
