//! Packages and sources of a Debian suite that need not be the machine's own: apt with sources,
//! lists and status of its own below a directory, so that the machine's are not touched. Signatures
//! are checked with Debian's keyring. Knows nothing of what the packages are for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite, seen through a directory.
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Writes what apt reads; fetches nothing. `types`: `deb`, `deb-src` or both.
    pub fn open(dir: &Path, suite: &str, types: &str) -> Result<Archive> {
        if !command::exists("apt-get") || !Path::new(KEYRING).exists() {
            bail!(
                "apt-get and {KEYRING} are needed: this runs on Debian (package debian-archive-keyring elsewhere)"
            );
        }
        fs::create_dir_all(dir.join("lists/partial"))?;
        fs::create_dir_all(dir.join("archives/partial"))?;
        let sources = format!(
            "Types: {types}\nURIs: {}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n",
            mirror()?
        );
        fs::write(dir.join("own.sources"), sources)?;
        // no package counts as installed: dependencies are complete
        fs::write(dir.join("status"), "")?;
        Ok(Archive {
            dir: dir.to_owned(),
        })
    }

    /// Fetches the suite's lists.
    pub fn update(&self) -> Result<()> {
        self.run("apt-get", &["update"]).map(drop)
    }

    /// Runs a program of apt in the directory.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut apt = Command::new(program);
        apt.current_dir(&self.dir)
            .args(["-q", "-o", "APT::Sandbox::User=root"])
            .args(["-o", "Dir::Etc::sourceparts=/dev/null"]);
        for (option, place) in [
            ("Dir::Etc::sourcelist", "own.sources"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache::archives", "archives"),
        ] {
            let place = self.dir.join(place);
            apt.args(["-o", &format!("{option}={}", place.display())]);
        }
        command::output(apt.args(args))
    }

    /// Downloads packages with all they depend on.
    pub fn download(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let fixed = [
            "--yes",
            "--no-install-recommends",
            "--download-only",
            "install",
        ];
        let archives = self.dir.join("archives");
        for file in packages(&archives)? {
            fs::remove_file(file)?;
        }
        self.run("apt-get", &[&fixed, names].concat())?;
        packages(&archives)
    }

    /// Downloads the upstream part of a source package.
    pub fn source(&self, name: &str) -> Result<PathBuf> {
        self.run("apt-get", &["--download-only", "source", name])?;
        let entries = fs::read_dir(&self.dir)?.flatten();
        let mut files = entries.map(|entry| entry.path());
        let original = format!("{name}_");
        files
            .find(|path| {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                file.starts_with(&original) && file.contains(".orig.tar.") && !file.ends_with("asc")
            })
            .with_context(|| format!("no upstream source of {name}"))
    }
}

/// The package files in a directory, sorted.
pub fn packages(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    Ok(files)
}

/// Unpacks a package file into a root file system in which /bin, /sbin and /lib are links into /usr.
pub fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut tar = Command::new("dpkg-deb");
    tar.arg("--fsys-tarfile").arg(package);
    let mut child = tar.stdout(std::process::Stdio::piped()).spawn()?;
    let stream = child.stdout.take().expect("stdout is piped");
    let mut extract = Command::new("tar");
    extract
        .args(["--keep-directory-symlink", "-xf", "-", "-C"])
        .arg(root);
    let extracted = command::from(&mut extract, stream.into());
    let status = child.wait()?;
    extracted.with_context(|| package.display().to_string())?;
    if !status.success() {
        bail!("dpkg-deb {}: {status}", package.display());
    }
    Ok(())
}

/// Where this machine gets Debian's packages from.
fn mirror() -> Result<String> {
    let format = ["indextargets", "--format", "$(REPO_URI)", "Label: Debian"];
    let targets = command::output(Command::new("apt-get").args(format))?;
    let first = targets.lines().next();
    Ok(first
        .context("apt-get knows no source of Debian")?
        .to_owned())
}
