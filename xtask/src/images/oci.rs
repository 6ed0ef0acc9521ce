//! Writes images as an OCI image layout 1.0: a directory of blobs by digest and an index of names.
//! Layers are uncompressed archives made by `tar`; a layer that several images share is one blob.
//! Knows nothing of what is in a layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// containerd takes an image's full name from this annotation.
const NAME: &str = "io.containerd.image.name";
/// What a process finds programs by if an image says nothing else.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A layout being written.
pub struct Layout {
    dir: PathBuf,
    index: Vec<Value>,
}

/// A stored blob: media type, digest, size.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor(Value);

/// Layers and configuration of an image, before it has a name. Cloned to derive another from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    layers: Vec<Descriptor>,
    config: Value,
}

// === impl Image ===

impl Image {
    /// An image of one layer.
    pub fn of(layer: Descriptor) -> Image {
        Image {
            layers: vec![layer],
            config: json!({ "Env": [PATH] }),
        }
    }

    /// Another layer on top.
    pub fn layer(mut self, layer: Descriptor) -> Image {
        self.layers.push(layer);
        self
    }

    /// A field of the configuration: `Entrypoint`, `Cmd`, `User`, …
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Image {
        self.config[field] = value.into();
        self
    }

    fn document(&self) -> Value {
        let digests: Vec<&Value> = self.layers.iter().map(|layer| &layer.0["digest"]).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            // of an uncompressed layer both digests are the same
            "rootfs": { "type": "layers", "diff_ids": digests },
        })
    }
}

// === impl Descriptor ===

impl Descriptor {
    /// `sha256:` and the digest in hex.
    pub fn digest(&self) -> &str {
        self.0["digest"].as_str().unwrap_or_default()
    }
}

// === impl Layout ===

impl Layout {
    /// An empty layout in a directory that does not exist yet.
    pub fn create(dir: &Path) -> Result<Layout> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| blobs.display().to_string())?;
        Ok(Layout {
            dir: dir.to_owned(),
            index: Vec::new(),
        })
    }

    /// Makes a layer of a tree; everything in it belongs to root.
    pub fn layer(&self, tree: &Path) -> Result<Descriptor> {
        let file = self.dir.join("layer.tar");
        archive(tree, &file)?;
        self.blob(&file, LAYER)
    }

    /// Adds an image under its full names; returns its manifest.
    pub fn add(&mut self, names: &[&str], image: &Image) -> Result<Descriptor> {
        let config = self.json(&image.document(), CONFIG)?;
        let layers: Vec<&Value> = image.layers.iter().map(|layer| &layer.0).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.0, "layers": layers,
        });
        let manifest = self.json(&manifest, MANIFEST)?;
        for name in names {
            let mut entry = platform(&manifest);
            entry["annotations"] = json!({ NAME: name });
            self.index.push(entry);
        }
        Ok(manifest)
    }

    /// The bytes of a blob.
    pub fn read(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        let hex = blob.digest().trim_start_matches("sha256:");
        Ok(fs::read(self.dir.join("blobs/sha256").join(hex))?)
    }

    /// Config and layers of a manifest.
    pub fn parts(&self, manifest: &Descriptor) -> Result<Vec<Descriptor>> {
        let value: Value = serde_json::from_slice(&self.read(manifest)?)?;
        let layers = value["layers"]
            .as_array()
            .context("a manifest has layers")?;
        let all = std::iter::once(&value["config"]).chain(layers);
        Ok(all.map(|part| Descriptor(part.clone())).collect())
    }

    /// An index of one image: what registries serve for an image of several platforms.
    pub fn index_of(&self, manifest: &Descriptor) -> Result<Descriptor> {
        let entries = [platform(manifest)];
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        self.json(&index, INDEX)
    }

    /// Writes the index: only now the layout is one.
    pub fn finish(self) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.index });
        fs::write(self.dir.join("index.json"), index.to_string())?;
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        fs::write(self.dir.join("oci-layout"), version.to_string())?;
        Ok(())
    }

    fn json(&self, value: &Value, kind: &str) -> Result<Descriptor> {
        let file = self.dir.join("blob.json");
        fs::write(&file, value.to_string())?;
        self.blob(&file, kind)
    }

    /// Moves a file to where its digest says.
    fn blob(&self, file: &Path, kind: &str) -> Result<Descriptor> {
        let sum = command::output(Command::new("sha256sum").arg(file))?;
        let hex = sum.split_whitespace().next();
        let hex = hex.context("sha256sum printed nothing")?;
        let size = fs::metadata(file)?.len();
        fs::rename(file, self.dir.join("blobs/sha256").join(hex))?;
        let digest = format!("sha256:{hex}");
        Ok(Descriptor(
            json!({ "mediaType": kind, "digest": digest, "size": size }),
        ))
    }
}

fn platform(manifest: &Descriptor) -> Value {
    let mut entry = manifest.0.clone();
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    entry
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// A tar archive that depends on nothing but the tree's content.
pub fn archive(tree: &Path, to: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    command::output(tar.arg("-C").arg(tree).arg("-cf").arg(to).arg("."))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("wl-oci-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("tree")).unwrap();
        dir
    }

    #[test]
    fn the_same_tree_is_the_same_image_and_shared_layers_are_one_blob() {
        let dir = scratch("same");
        fs::write(dir.join("tree/file"), "text").unwrap();
        let made: Vec<(Descriptor, usize)> = ["a", "b"]
            .map(|name| {
                let mut layout = Layout::create(&dir.join(name)).unwrap();
                let base = Image::of(layout.layer(&dir.join("tree")).unwrap());
                let derived = base.clone().set("User", "1234");
                let manifest = layout.add(&["x/base:1"], &base).unwrap();
                layout
                    .add(&["x/derived:1", "x/derived:2"], &derived)
                    .unwrap();
                let blobs = fs::read_dir(dir.join(name).join("blobs/sha256")).unwrap();
                layout.finish().unwrap();
                (manifest, blobs.count())
            })
            .into();
        assert_eq!(made[0], made[1]);
        assert_eq!(made[0].1, 5, "a layer, two configs, two manifests");
        let index = fs::read(dir.join("a/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
        assert_eq!(index["manifests"][1]["annotations"][NAME], "x/derived:1");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn parts_of_a_manifest_are_its_config_and_its_layers() {
        let dir = scratch("parts");
        let mut layout = Layout::create(&dir.join("layout")).unwrap();
        let layer = layout.layer(&dir.join("tree")).unwrap();
        let image = Image::of(layer.clone());
        let manifest = layout.add(&["x/one:1"], &image).unwrap();
        let parts = layout.parts(&manifest).unwrap();
        assert_eq!(parts[1], layer);
        let config: Value = serde_json::from_slice(&layout.read(&parts[0]).unwrap()).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], layer.digest());
        fs::remove_dir_all(dir).unwrap();
    }
}
