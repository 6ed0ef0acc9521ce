//! Files of a volume that hide each other.

use crate::doc::Value;
use crate::status::quote;

/// A path and what puts a file there.
#[derive(Clone, PartialEq)]
struct Target {
    path: String,
    source: String,
}

impl Target {
    fn shown(&self) -> String {
        match &*self.source {
            "" => quote(&self.path),
            source => format!("{} ({source})", quote(&self.path)),
        }
    }
}

/// Warnings about overlapping paths in volumes of files.
pub(super) fn warnings(spec: &Value<'_>, out: &mut Vec<String>) {
    for volume in spec.list_of("volumes") {
        let name = quote(volume.str_of("name").unwrap_or_default());
        for (kind, what, named) in [
            ("configMap", "ConfigMap", "name"),
            ("secret", "Secret", "secretName"),
            ("downwardAPI", "DownwardAPI", ""),
        ] {
            let Some(source) = volume.get(kind) else {
                continue;
            };
            let described = match named {
                "" => what.to_owned(),
                named => format!("{what} {}", quote(source.str_of(named).unwrap_or_default())),
            };
            let mut known = Vec::new();
            for target in targets(source, "") {
                overlaps(&mut known, target, &name, &described, out);
            }
        }
        if let Some(projected) = volume.get("projected") {
            let mut known = Vec::new();
            for source in projected.list_of("sources") {
                if source.as_object().is_none_or(|o| o.is_empty()) {
                    out.push(format!("volume {name} (Projected) has no sources provided"));
                }
                for target in projection(source) {
                    overlaps(&mut known, target, &name, "Projected", out);
                }
            }
        }
    }
}

fn targets(source: &Value<'_>, described: &str) -> Vec<Target> {
    let items = source.list_of("items").iter();
    items
        .map(|item| target(item.str_of("path").unwrap_or_default(), described))
        .collect()
}

fn target(path: &str, source: &str) -> Target {
    Target {
        path: path.to_owned(),
        source: source.to_owned(),
    }
}

/// Only the first source with files counts.
fn projection(source: &Value<'_>) -> Vec<Target> {
    for (kind, what) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if let Some(inner) = source.get(kind).filter(|s| s.get("items").is_some()) {
            let name = quote(inner.str_of("name").unwrap_or_default());
            return targets(inner, &format!("{what} {name}"));
        }
    }
    if let Some(inner) = source
        .get("downwardAPI")
        .filter(|s| s.get("items").is_some())
    {
        return targets(inner, "DownwardAPI");
    }
    if let Some(token) = source.get("serviceAccountToken") {
        return vec![target(
            token.str_of("path").unwrap_or_default(),
            "ServiceAccountToken",
        )];
    }
    if let Some(bundle) = source.get("clusterTrustBundle") {
        let name = bundle
            .str_of("name")
            .or(bundle.str_of("signerName"))
            .unwrap_or_default();
        let described = format!("ClusterTrustBundle {}", quote(name));
        return vec![target(
            bundle.str_of("path").unwrap_or_default(),
            &described,
        )];
    }
    let certificate = source.get("podCertificate").unwrap_or(&Value::Null);
    [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ]
    .into_iter()
    .filter_map(|(field, what)| {
        certificate
            .str_of(field)
            .filter(|p| !p.is_empty())
            .map(|path| target(path, what))
    })
    .collect()
}

fn overlaps(
    known: &mut Vec<Target>,
    mut new: Target,
    volume: &str,
    described: &str,
    out: &mut Vec<String>,
) {
    new.path.truncate(new.path.trim_end_matches('/').len());
    let below = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
    for other in known
        .iter()
        .filter(|o| !o.path.is_empty() && !new.path.is_empty())
    {
        if *other == new || below(&other.path, &new.path) || below(&new.path, &other.path) {
            out.push(format!(
                "volume {volume} ({described}): overlapping paths: {} with {}",
                new.shown(),
                other.shown()
            ));
        }
    }
    known.push(new);
}
