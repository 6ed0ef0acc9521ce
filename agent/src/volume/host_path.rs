//! hostPath volumes: the path's type is checked, or the file made, as the volume asks
//! (upstream: `pkg/volume/hostpath`).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    Type { path: String, wanted: &'static str },
    #[error("hostPath {path}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

pub fn check(path: &Path, kind: Option<&str>) -> Result<(), Error> {
    let shown = || path.display().to_string();
    let io = |source: io::Error| Error::Io {
        path: shown(),
        source,
    };
    let found = fs::metadata(path);
    let absent = matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound);
    match kind.unwrap_or_default() {
        "DirectoryOrCreate" if absent => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(io),
        "FileOrCreate" if absent => fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(io),
        "" => Ok(()),
        kind => {
            let found = found.map(|meta| meta.file_type());
            let holds = |test: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(test);
            let (ok, wanted) = match kind {
                "Directory" | "DirectoryOrCreate" => (holds(fs::FileType::is_dir), "directory"),
                "File" | "FileOrCreate" => (holds(fs::FileType::is_file), "file"),
                "Socket" => (holds(fs::FileType::is_socket), "socket"),
                "CharDevice" => (holds(fs::FileType::is_char_device), "character device"),
                "BlockDevice" => (holds(fs::FileType::is_block_device), "block device"),
                _ => (false, "known type"),
            };
            if ok {
                Ok(())
            } else {
                Err(Error::Type {
                    path: shown(),
                    wanted,
                })
            }
        }
    }
}
