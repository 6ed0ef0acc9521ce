//! Where things are: the repository, cargo's target directory, what `build` leaves in it.
//! The only module of xtask that reads the environment for paths.

use std::path::{Path, PathBuf};

/// The repository: the parent of this crate.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies one level below the repository")
        .to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Directory below which every lab keeps its state. `WINDLASS_LAB_DIR` moves it, for instance to
/// a file system that overlayfs accepts as an upper layer.
pub fn labs() -> PathBuf {
    match std::env::var_os("WINDLASS_LAB_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => target().join("lab"),
    }
}

/// Directory of what is kept between clones: `$WINDLASS_CACHE`, else `$XDG_CACHE_HOME/windlass`,
/// else `~/.cache/windlass`.
pub fn cache() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    var("WINDLASS_CACHE")
        .map(PathBuf::from)
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("windlass")))
        .or_else(|| var("HOME").map(|dir| PathBuf::from(dir).join(".cache/windlass")))
}

/// Image archives made by [`crate::images`].
pub fn images() -> PathBuf {
    target().join("images")
}

/// The release binary made by [`crate::build`]. `WINDLASS_BIN` names another one.
pub fn windlass() -> PathBuf {
    match std::env::var_os("WINDLASS_BIN") {
        Some(path) => PathBuf::from(path),
        None => target().join("release/windlass"),
    }
}

/// The hollow agent made by [`crate::build`], beside the binary.
pub fn hollow() -> PathBuf {
    windlass().with_file_name("hollow-agent")
}

/// The xtask binary. Labs start helper processes from it, also when the caller is a test.
pub fn xtask() -> PathBuf {
    if let Some(path) = std::env::var_os("WINDLASS_XTASK") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().unwrap_or_default();
    // the kernel's sign that a build has put a new one in its place
    let own = own.to_string_lossy();
    let own = Path::new(own.strip_suffix(" (deleted)").unwrap_or(&own));
    if own.file_name().is_some_and(|name| name == "xtask") {
        return own.to_owned();
    }
    // a test program: TARGET/PROFILE/deps/NAME-HASH; the binary lies one level up
    own.parent()
        .and_then(Path::parent)
        .map(|profile| profile.join("xtask"))
        .unwrap_or_else(|| target().join("debug/xtask"))
}

/// Programs that `setup` built.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// kubectl: one on PATH, else the one `setup` built.
pub fn kubectl() -> Option<PathBuf> {
    crate::command::find("kubectl")
        .or_else(|| Some(tools().join("kubectl")).filter(|path| path.is_file()))
}
