//! A read-only image registry over an OCI layout: what a container runtime asks for when it pulls,
//! and nothing else (OCI distribution specification, "pull"). An image is known by the full name in
//! the layout's index; a runtime that uses this as a mirror says whose name it means (`?ns=`).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;

use crate::Args;
use crate::web;

/// The annotation that carries an image's full name.
const NAME: &str = "io.containerd.image.name";
/// Hexadecimal digits of a sha256 digest.
const DIGEST_DIGITS: usize = 64;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    /// Whether this is a registry at all.
    Version,
    Manifest {
        host: &'a str,
        name: &'a str,
        reference: &'a str,
    },
    Blob(&'a str),
    Unknown,
}

impl<'a> Asked<'a> {
    fn parse(target: &'a str) -> Asked<'a> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Asked::Unknown;
        };
        if rest.is_empty() {
            return Asked::Version;
        }
        if let Some((name, reference)) = rest.split_once("/manifests/") {
            let host = query.split('&').find_map(|pair| pair.strip_prefix("ns="));
            return Asked::Manifest {
                host: host.unwrap_or_default(),
                name,
                reference,
            };
        }
        match rest.split_once("/blobs/") {
            Some((_, digest)) => Asked::Blob(digest),
            None => Asked::Unknown,
        }
    }
}

/// `toolbox registry ADDRESS:PORT LAYOUT`.
pub fn serve(args: &Args) -> Result<(), String> {
    let at: SocketAddr = args.word(0)?.parse().map_err(|_| "not an address")?;
    let layout = PathBuf::from(args.word(1)?);
    web::each(at, move |stream| {
        let _ = answer(stream, &layout);
    })?;
    loop {
        thread::park();
    }
}

fn answer(mut stream: TcpStream, layout: &Path) -> io::Result<()> {
    let (method, target) = web::request(&stream)?;
    let found = match Asked::parse(&target) {
        Asked::Version => return head(&mut stream, "200 OK", "application/json", None, 0),
        Asked::Manifest {
            host,
            name,
            reference,
        } => manifest(layout, host, name, reference),
        Asked::Blob(digest) => Some((digest.to_owned(), "application/octet-stream".to_owned())),
        Asked::Unknown => None,
    };
    let file = found.and_then(|(digest, kind)| {
        let file = File::open(blob(layout, &digest)?).ok()?;
        Some((digest, kind, file))
    });
    let Some((digest, kind, mut file)) = file else {
        return head(&mut stream, "404 Not Found", "text/plain", None, 0);
    };
    let length = file.metadata()?.len();
    head(&mut stream, "200 OK", &kind, Some(&digest), length)?;
    if method == "GET" {
        io::copy(&mut file, &mut stream)?;
    }
    Ok(())
}

fn head(
    stream: &mut TcpStream,
    status: &str,
    kind: &str,
    digest: Option<&str>,
    length: u64,
) -> io::Result<()> {
    let digest = digest.map(|digest| format!("Docker-Content-Digest: {digest}\r\n"));
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{}\
         Connection: close\r\n\r\n",
        digest.unwrap_or_default()
    )
}

/// Digest and media type of the image that is meant.
fn manifest(layout: &Path, host: &str, name: &str, reference: &str) -> Option<(String, String)> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).ok()?).ok()?;
    let full = format!("{host}/{name}:{reference}");
    let entry = index["manifests"].as_array()?.iter().find(|entry| {
        entry["digest"] == reference || entry["annotations"][NAME] == full.as_str()
    })?;
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    Some((text("digest")?, text("mediaType")?))
}

/// Where a digest's bytes are; nothing for what is no digest, such as a path.
fn blob(layout: &Path, digest: &str) -> Option<PathBuf> {
    let hex = digest.strip_prefix("sha256:")?;
    let plain = hex.len() == DIGEST_DIGITS && hex.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| layout.join("blobs/sha256").join(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_version_a_manifest_a_blob_or_unknown() {
        assert_eq!(Asked::parse("/v2/"), Asked::Version);
        assert_eq!(
            Asked::parse("/v2/e2e/pause/manifests/3.1?ns=registry.k8s.io"),
            Asked::Manifest {
                host: "registry.k8s.io",
                name: "e2e/pause",
                reference: "3.1"
            }
        );
        assert_eq!(
            Asked::parse("/v2/a/blobs/sha256:0"),
            Asked::Blob("sha256:0")
        );
        assert_eq!(Asked::parse("/"), Asked::Unknown);
    }

    #[test]
    fn only_a_digest_names_a_file() {
        let layout = Path::new("/l");
        let hex = "0a".repeat(32);
        let path = format!("/l/blobs/sha256/{hex}");
        assert_eq!(blob(layout, &format!("sha256:{hex}")), Some(path.into()));
        assert_eq!(blob(layout, "sha256:../../index.json"), None);
        assert_eq!(blob(layout, &hex), None);
    }
}
