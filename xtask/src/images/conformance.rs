//! The images of upstream's conformance tests, under their exact names, in one OCI layout. No
//! registry is asked: they are made of the programs in [`crate::upstream`] and of Debian's packages.
//!
//! ```text
//!   CACHE/images/debian                apt's state and packages
//!   CACHE/images/conformance           the layout; `made-of` says from what
//!   CACHE/images/conformance-light     another one, without what takes long to build
//! ```
//!
//! What a test could notice: userland is Debian's where the originals have Alpine's (its os-release
//! says Alpine, because a test reads it), and nginx is the one of the suite.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::oci::{Descriptor, Image, Layout};
use super::{REGISTRY, busybox, pause_program, tree};
use crate::debian::{self, Archive};
use crate::progress::Progress;
use crate::upstream::{self, Program};
use crate::workspace;

/// Debian's release that brings the busybox that upstream's images have.
const SUITE: &str = "trixie";
/// Programs of the network image beyond agnhost itself.
const TOOLS: [&str; 9] = [
    "bash",
    "bind9-dnsutils",
    "curl",
    "iproute2",
    "libc-bin",
    "libcap2-bin",
    "netcat-openbsd",
    "socat",
    "util-linux",
];
/// Dependencies of packages' scripts, which do not run here, and the package whose links point out
/// of the tree.
const UNUSED: [&str; 8] = [
    "base-files_",
    "perl",
    "libperl",
    "debconf",
    "libdebconf",
    "gcc-",
    "dpkg_",
    "tar_",
];
/// What no test reads.
const BALLAST: [&str; 9] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/i18n",
    "usr/lib/x86_64-linux-gnu/gconv",
    "var/cache",
];
/// This recipe: an image made by another one is stale.
const RECIPE: &str = concat!(
    include_str!("conformance.rs"),
    include_str!("busybox.rs"),
    include_str!("tree.rs"),
    include_str!("oci.rs")
);

/// Programs that go into images.
const PROGRAMS: [Program; 5] = [
    upstream::AGNHOST,
    upstream::NNP,
    upstream::COREDNS,
    upstream::ETCD,
    upstream::SAMPLE_APISERVER,
];

/// How many of the images are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// Without the programs that are built from modules of their own, and the images made of them:
    /// few tests need one, and building them for the first time takes minutes.
    Light,
}

impl Extent {
    fn programs(self) -> Vec<&'static Program> {
        let whole = self == Extent::Whole;
        let chosen = |program: &&Program| whole || program.module == upstream::KUBERNETES;
        PROGRAMS.iter().filter(chosen).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Extent::Whole => "conformance",
            Extent::Light => "conformance-light",
        }
    }
}

/// The directory of the layout; makes it unless it is there as the recipe and the programs say.
pub fn build(extent: Extent, progress: &Progress) -> Result<PathBuf> {
    let cache = workspace::cache().context("no directory for a cache: set WINDLASS_CACHE")?;
    let cache = cache.join("images");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let programs = extent
        .programs()
        .into_iter()
        .map(|program| Ok((*program, upstream::program(progress, program)?)))
        .collect::<Result<Vec<_>>>()?;
    let made_of = made_of(&programs)?;
    let layout = cache.join(extent.name());
    let fresh = || fs::read_to_string(layout.join("made-of")).is_ok_and(|had| had == made_of);
    if fresh() {
        return Ok(layout);
    }
    // one builds, the others wait for it: both extents use the same archive
    let lock = File::create(cache.join("conformance.lock"))?;
    lock.lock().context("waiting for another build")?;
    if fresh() {
        return Ok(layout);
    }
    progress.mark("making the images of the conformance tests");
    let archive = Archive::open(&cache.join("debian"), SUITE, "deb deb-src")?;
    archive.update()?;
    let busybox = busybox::build(&archive, &cache, progress)?;
    let work = cache.join(format!("{}.new", extent.name()));
    let _ = fs::remove_dir_all(&work);
    let mut recipe = Recipe {
        extent,
        layout: Layout::create(&work.join("layout"))?,
        archive,
        busybox,
        programs,
        sources: upstream::sources(upstream::KUBERNETES)?.join("test/images"),
        work: work.clone(),
    };
    recipe.images()?;
    recipe.layout.finish()?;
    fs::write(work.join("layout/made-of"), made_of)?;
    let _ = fs::remove_dir_all(&layout);
    fs::rename(work.join("layout"), &layout)?;
    fs::remove_dir_all(work)?;
    progress.mark("images made");
    Ok(layout)
}

fn made_of(programs: &[(Program, PathBuf)]) -> Result<String> {
    let mut text = RECIPE.to_owned();
    for (_, program) in programs {
        let meta = fs::metadata(program)?;
        let (size, time) = (meta.len(), meta.modified()?);
        text.push_str(&format!("\n{} {size} {time:?}", program.display()));
    }
    Ok(text)
}

/// The full name of an image of upstream's tests.
fn test_image(name: &str) -> String {
    format!("{REGISTRY}/e2e-test-images/{name}")
}

struct Recipe {
    extent: Extent,
    layout: Layout,
    archive: Archive,
    busybox: PathBuf,
    programs: Vec<(Program, PathBuf)>,
    /// `test/images` of Kubernetes' sources.
    sources: PathBuf,
    work: PathBuf,
}

impl Recipe {
    fn images(&mut self) -> Result<()> {
        let pause = self.pause()?;
        let busybox = self.busybox()?;
        let tools = self.tools()?;
        self.agnhost(&tools, &pause)?;
        self.nginx()?;
        self.no_new_privileges(&busybox)?;
        match self.extent {
            Extent::Whole => self.servers(&busybox),
            Extent::Light => Ok(()),
        }
    }

    /// An empty directory for a layer.
    fn tree(&self, name: &str) -> Result<PathBuf> {
        let dir = self.work.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn layer(&self, tree: &Path) -> Result<Descriptor> {
        let layer = self.layout.layer(tree)?;
        fs::remove_dir_all(tree)?;
        Ok(layer)
    }

    /// A layer that holds one program.
    fn program_layer(&self, program: &Program, at: &str) -> Result<Descriptor> {
        let tree = self.tree(program.name)?;
        tree::copy(self.program(program)?, &tree.join(at))?;
        self.layer(&tree)
    }

    fn program(&self, program: &Program) -> Result<&Path> {
        let mut programs = self.programs.iter();
        let found = programs.find(|(known, _)| known == program);
        Ok(&found.context("a program of this recipe")?.1)
    }

    fn add(&mut self, names: &[&str], image: &Image) -> Result<Descriptor> {
        let names: Vec<String> = names.iter().map(|name| test_image(name)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.layout.add(&names, image)
    }

    fn pause(&mut self) -> Result<Descriptor> {
        let tree = self.tree("pause")?;
        pause_program(&tree.join("pause"))?;
        let image = Image::of(self.layer(&tree)?)
            .set("Entrypoint", json!(["/pause"]))
            .set("User", "65535:65535");
        let name = format!("{REGISTRY}/pause:3.10.2");
        self.layout.add(&[&name], &image)
    }

    fn busybox(&mut self) -> Result<Image> {
        let tree = self.tree("busybox")?;
        tree::base(&tree)?;
        tree::applets(&tree, &self.busybox)?;
        let image = Image::of(self.layer(&tree)?).set("Cmd", json!(["sh"]));
        self.add(&["busybox:1.37.0-2", "busybox:1.36.1-1"], &image)?;
        Ok(image)
    }

    /// The userland of the network images, and the images that are nothing else.
    fn tools(&mut self) -> Result<Image> {
        let tree = self.debian("tools", &TOOLS)?;
        // the names Debian's alternatives would give
        tree::link("nc.openbsd", &tree.join("usr/bin/nc"))?;
        // not busybox: tests call programs by names that its shell has built in
        tree::link("bash", &tree.join("usr/bin/sh"))?;
        fs::write(
            tree.join("etc/os-release"),
            "NAME=\"Alpine Linux\"\nID=alpine\nPRETTY_NAME=\"Debian, in place of Alpine Linux\"\n",
        )?;
        let image = Image::of(self.layer(&tree)?).set("Cmd", json!(["sh"]));
        self.add(&["nonroot:1.5"], &image.clone().set("User", "1234"))?;
        let bash = image.clone().set("Cmd", json!(["bash"]));
        self.add(&["glibc-dns-testing:2.1.1"], &bash)?;
        Ok(image)
    }

    fn agnhost(&mut self, tools: &Image, pause: &Descriptor) -> Result<()> {
        let tree = self.tree("agnhost")?;
        tree::copy(self.program(&upstream::AGNHOST)?, &tree.join("agnhost"))?;
        tree::link("agnhost", &tree.join("agnhost-2"))?;
        if self.extent == Extent::Whole {
            tree::copy(self.program(&upstream::COREDNS)?, &tree.join("coredns"))?;
        }
        for file in ["localhost.crt", "localhost.key"] {
            let from = self.sources.join("agnhost/porter").join(file);
            tree::copy(&from, &tree.join(file))?;
        }
        fs::create_dir_all(tree.join("uploads"))?;
        // a user whose groups only the image knows
        let home = "home/user-defined-in-image";
        fs::create_dir_all(tree.join(home))?;
        fs::create_dir_all(tree.join("etc"))?;
        let user = format!("user-defined-in-image:x:1000:1000::/{home}:/bin/sh\n");
        fs::write(tree.join("etc/passwd"), tree::PASSWD.to_owned() + &user)?;
        let groups = "user-defined-in-image:x:1000:\n\
            group-defined-in-image:x:50000:user-defined-in-image\n";
        fs::write(tree.join("etc/group"), tree::GROUP.to_owned() + groups)?;
        self.registry(&tree.join("var/registry/pause"), pause)?;
        let ports = json!({
            "80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}, "5000/tcp": {},
        });
        let image = tools
            .clone()
            .layer(self.layer(&tree)?)
            .set("Entrypoint", json!(["/agnhost"]))
            .set("Cmd", json!(["pause"]))
            .set("ExposedPorts", ports);
        self.add(&["agnhost:2.66.1", "agnhost:2.55"], &image)?;
        for pet in ["nautilus", "kitten"] {
            let tree = self.tree(pet)?;
            for file in fs::read_dir(self.sources.join(pet).join("html"))?.flatten() {
                tree::copy(&file.path(), &tree.join(file.file_name()))?;
            }
            let image = image.clone().layer(self.layer(&tree)?);
            let image = image.set("Cmd", json!(["test-webserver"]));
            self.add(&[&format!("{pet}:1.8")], &image)?;
        }
        Ok(())
    }

    /// The image `pause:testing` in the form agnhost's own registry serves: files by digest, and a
    /// file per tag that names one (test/images/agnhost/fakeregistryserver).
    fn registry(&self, dir: &Path, pause: &Descriptor) -> Result<()> {
        let put = |kind: &str, blob: &Descriptor| -> Result<()> {
            let hex = blob.digest().trim_start_matches("sha256:");
            let prefix = hex.get(..2).context("a digest has digits")?;
            let at = dir.join(kind).join("sha256").join(prefix).join(hex);
            fs::create_dir_all(&at)?;
            fs::write(at.join("data"), self.layout.read(blob)?)?;
            Ok(())
        };
        let index = self.layout.index_of(pause)?;
        put("manifests", &index)?;
        put("manifests", pause)?;
        for part in self.layout.parts(pause)? {
            put("blobs", &part)?;
        }
        fs::write(
            dir.join("manifests/testing"),
            format!("{}\n", index.digest()),
        )?;
        Ok(())
    }

    fn nginx(&mut self) -> Result<()> {
        let tree = self.debian("nginx", &["nginx"])?;
        tree::link("busybox", &tree.join("usr/bin/sh"))?;
        for dir in ["var/log/nginx", "var/lib/nginx", "etc/nginx/conf.d"] {
            fs::create_dir_all(tree.join(dir))?;
        }
        let html = tree.join("usr/share/nginx/html");
        fs::create_dir_all(&html)?;
        let page =
            "<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>Welcome to nginx!</h1>\n";
        fs::write(html.join("index.html"), page)?;
        fs::write(tree.join("etc/nginx/nginx.conf"), NGINX)?;
        fs::write(tree.join("etc/nginx/conf.d/default.conf"), NGINX_SITE)?;
        let image = Image::of(self.layer(&tree)?)
            .set("Cmd", json!(["nginx", "-g", "daemon off;"]))
            .set("ExposedPorts", json!({ "80/tcp": {} }))
            .set("StopSignal", "SIGQUIT");
        self.add(&["nginx:1.28.0-2", "nginx:1.27.0-2"], &image)?;
        Ok(())
    }

    fn no_new_privileges(&mut self, busybox: &Image) -> Result<()> {
        let tree = self.tree("nnp")?;
        let nnp = tree.join("usr/local/bin/nnp");
        tree::copy(self.program(&upstream::NNP)?, &nnp)?;
        // set-user-id, which a container without new privileges must not gain anything by
        tree::mode(&nnp, 0o6755)?;
        let image = busybox.clone().layer(self.layer(&tree)?);
        self.add(&["nonewprivs:1.4"], &image.set("Cmd", json!(["nnp"])))?;
        Ok(())
    }

    /// Servers of other modules, one an image.
    fn servers(&mut self, busybox: &Image) -> Result<()> {
        let layer = self.program_layer(&upstream::SAMPLE_APISERVER, "sample-apiserver")?;
        let image = busybox.clone().layer(layer);
        let image = image.set("Entrypoint", json!(["/sample-apiserver"]));
        self.add(&["sample-apiserver:1.29.2"], &image.set("Cmd", json!([])))?;

        let layer = self.program_layer(&upstream::ETCD, "usr/local/bin/etcd")?;
        let image = busybox.clone().layer(layer).set("Cmd", json!([]));
        let name = format!("{REGISTRY}/etcd:3.7.0-0");
        self.layout.add(&[&name], &image)?;

        let layer = self.program_layer(&upstream::COREDNS, "coredns")?;
        let image = Image::of(layer).set("Entrypoint", json!(["/coredns"]));
        let name = coredns_image()?;
        self.layout.add(&[&name], &image)?;
        Ok(())
    }

    /// A root file system of packages and busybox's applets.
    fn debian(&self, name: &str, packages: &[&str]) -> Result<PathBuf> {
        let root = self.tree(name)?;
        for dir in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(root.join("usr").join(dir))?;
            tree::link(&format!("usr/{dir}"), &root.join(dir))?;
        }
        for file in self.archive.download(packages)? {
            let own = file.file_name().unwrap_or_default().to_string_lossy();
            if !UNUSED.iter().any(|unused| own.starts_with(unused)) {
                debian::unpack(&file, &root)?;
            }
        }
        for ballast in BALLAST {
            let _ = fs::remove_dir_all(root.join(ballast));
        }
        tree::base(&root)?;
        tree::applets(&root, &self.busybox)?;
        Ok(root)
    }
}

/// The name of CoreDNS' image, of the release that is built.
pub fn coredns_image() -> Result<String> {
    let version = upstream::version(upstream::COREDNS_MODULE)?;
    Ok(format!("{REGISTRY}/coredns/coredns:{version}"))
}

const NGINX: &str = "user nginx;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_SITE: &str = "server {
    listen 80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html;
    }
}
";
