//! Embeds the BPF object, if it has been built (`cargo xtask build`): `$WINDLASS_BPF_OBJECT`, else
//! `target/bpf/windlass.o` of the workspace. Without it an empty stub is embedded, so that `cargo check`
//! needs no BPF toolchain; loading the stub is refused with a message that says so.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=WINDLASS_BPF_OBJECT");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let root = manifest.parent().expect("the agent lies in the workspace");
    let object = env::var_os("WINDLASS_BPF_OBJECT")
        .map_or_else(|| root.join("target/bpf/windlass.o"), PathBuf::from);
    let bytes = fs::read(&object).unwrap_or_default();
    // A path that is missing would make the crate stale for ever: watch the place it will appear in.
    let watched = if object.exists() {
        object
    } else {
        place_of(&object)
    };
    println!("cargo::rerun-if-changed={}", watched.display());
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("windlass.o"), bytes).expect("OUT_DIR is writable");
}

fn place_of(object: &Path) -> PathBuf {
    let place = object.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    // A read-only source tree only means that the object cannot appear in it either.
    let _ = fs::create_dir_all(&place);
    place
}
