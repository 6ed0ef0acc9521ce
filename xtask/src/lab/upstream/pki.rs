//! Certificates of upstream's control plane, made with openssl as its installers do.
//! Everything lies in one directory, which every node sees.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::command;

/// A lab does not grow this old.
const DAYS: &str = "365";

/// The directory, and who signs.
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    pub fn open(dir: PathBuf) -> Pki {
        Pki { dir }
    }

    /// Path of a file of the directory.
    pub fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }

    fn openssl(&self, args: &[&str]) -> Result<()> {
        let mut openssl = Command::new("openssl");
        command::output(openssl.args(args).current_dir(&self.dir)).map(drop)
    }

    fn has(&self, file: &str) -> bool {
        self.dir.join(file).exists()
    }

    /// `NAME.key` and the self-signed `NAME.crt`.
    pub fn authority(&self, name: &str) -> Result<()> {
        if self.has(&format!("{name}.crt")) {
            return Ok(());
        }
        let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
        let subject = format!("/CN=lab-{name}");
        let own = [
            "-keyout", &key, "-out", &crt, "-days", DAYS, "-subj", &subject,
        ];
        self.openssl(&[&["req", "-x509"], &EC[..], &own[..]].concat())
    }

    /// `NAME.key` and `NAME.crt`, signed by an authority.
    pub fn identity(&self, name: &str, authority: &str, subject: &str, sans: &str) -> Result<()> {
        if self.has(&format!("{name}.crt")) {
            return Ok(());
        }
        let [key, crt, csr, ext] =
            ["key", "crt", "csr", "ext"].map(|kind| format!("{name}.{kind}"));
        let (ca, ca_key) = (format!("{authority}.crt"), format!("{authority}.key"));
        let own = ["-keyout", &key, "-out", &csr, "-subj", subject];
        self.openssl(&[&["req"], &EC[..], &own[..]].concat())?;
        let mut extensions = "keyUsage=critical,digitalSignature\n\
            extendedKeyUsage=serverAuth,clientAuth\n"
            .to_owned();
        if !sans.is_empty() {
            extensions.push_str(&format!("subjectAltName={sans}\n"));
        }
        fs::write(self.dir.join(&ext), extensions)?;
        let from = ["x509", "-req", "-in", &csr, "-extfile", &ext, "-days", DAYS];
        let by = ["-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        self.openssl(&[&from[..], &by[..], &["-out", &crt]].concat())
    }

    /// The key that signs service accounts' tokens: `sa.key` and `sa.pub`.
    pub fn service_accounts(&self) -> Result<()> {
        if self.has("sa.pub") {
            return Ok(());
        }
        let curve = "ec_paramgen_curve:P-256";
        self.openssl(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            curve,
            "-out",
            "sa.key",
        ])?;
        self.openssl(&["pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub"])
    }

    /// The user of a kubeconfig who is this identity.
    pub fn user(&self, name: &str) -> Value {
        json!({
            "client-certificate": self.path(&format!("{name}.crt")),
            "client-key": self.path(&format!("{name}.key")),
        })
    }
}

/// Keys of every certificate, unencrypted.
const EC: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];
