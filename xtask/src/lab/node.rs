//! PID 1 of a node: makes the root file system of a machine of its own, then keeps the node's
//! units running as systemd would (`Restart=always` after 100 ms).
//!
//! ```text
//! up ── sh: join cgroups ── nsenter net ── unshare mount,pid,uts,ipc,cgroup ── xtask node-init
//!        commands ("start U", "stop U") ── FIFO DIR/control ──▶ init ── units: containerd, windlass
//! ```
//!
//! The root is an overlay of the machine's root with an upper layer in memory: a node can write
//! anywhere and leaves nothing behind. What must survive its processes or lie on a real file
//! system (containerd's layers, the store) is bound from the lab's directory.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, mkfifo, pivot_root, sethostname};
use serde_json::{Value, json};

use super::cgroups::{self, Hierarchy};
use super::process::Process;
use super::upstream;

/// Pause before a unit that ended is started again; systemd's default `RestartSec`.
const RESTART: Duration = Duration::from_millis(100);
/// Grace between SIGTERM and SIGKILL when a unit is stopped.
const STOP: Duration = Duration::from_secs(10);
/// Size of the memory file system for a node's changes to its root.
const UPPER: &str = "size=2g,mode=755";
/// The server's data directory.
pub const STORE: &str = "/var/lib/windlass/server";
/// Directories that live in the lab's directory instead of in memory.
const BOUND: [&str; 7] = [
    "var/lib/containerd",
    "var/lib/windlass",
    "var/lib/kubelet",
    "var/log/pods",
    "var/log/containers",
    "etc/cni/net.d",
    "opt/cni/bin",
];

/// What a node needs to know; written by `up`, read by `node-init`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's directory.
    pub dir: PathBuf,
    /// The lab's directory, visible in the node under the same path.
    pub lab_dir: PathBuf,
    /// Host name.
    pub name: String,
    /// Addresses for /etc/hosts.
    pub ips: Vec<String>,
    /// Name server for /etc/resolv.conf.
    pub dns: String,
    /// A kubelet will run here.
    pub kubelet: bool,
    /// Size of the file system at [`STORE`], MiB; 0: the machine's own.
    pub store_mib: u32,
}

impl Config {
    fn file(dir: &Path) -> PathBuf {
        dir.join("node.json")
    }

    /// Writes the configuration where [`init`] reads it.
    pub fn write(&self) -> Result<()> {
        let Config {
            dir,
            lab_dir,
            name,
            ips,
            dns,
            kubelet,
            store_mib,
        } = self;
        let value = json!({
            "labDir": lab_dir, "name": name, "ips": ips, "dns": dns, "kubelet": kubelet,
            "storeMib": store_mib,
        });
        fs::create_dir_all(dir.join("units"))?;
        fs::create_dir_all(dir.join("log"))?;
        fs::write(Config::file(dir), value.to_string())?;
        let _ = fs::remove_file(dir.join("control"));
        mkfifo(&dir.join("control"), Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(())
    }

    fn read(dir: &Path) -> Result<Config> {
        let value: Value = serde_json::from_slice(&fs::read(Config::file(dir))?)?;
        let text = |key: &str| -> Result<String> {
            Ok(value[key]
                .as_str()
                .with_context(|| format!("node.json: no {key}"))?
                .to_owned())
        };
        let ips = value["ips"].as_array().context("node.json: no ips")?;
        Ok(Config {
            dir: dir.to_owned(),
            lab_dir: text("labDir")?.into(),
            name: text("name")?,
            ips: ips
                .iter()
                .filter_map(|ip| ip.as_str().map(str::to_owned))
                .collect(),
            dns: text("dns")?,
            kubelet: value["kubelet"].as_bool().unwrap_or(false),
            store_mib: value["storeMib"].as_u64().unwrap_or(0) as u32,
        })
    }
}

/// Writes a unit's command line; it starts with the next `start` command.
pub fn write_unit(dir: &Path, unit: &str, argv: &[String], env: &[(String, String)]) -> Result<()> {
    let value = json!({ "argv": argv, "env": env });
    fs::write(
        dir.join("units").join(format!("{unit}.json")),
        value.to_string(),
    )?;
    Ok(())
}

/// Gives init a command.
pub fn tell(dir: &Path, line: &str) -> Result<()> {
    // non-blocking: opening a FIFO nobody reads fails instead of waiting for ever
    let mut control = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(dir.join("control"))
        .with_context(|| format!("{}: is the node running?", dir.display()))?;
    writeln!(control, "{line}")?;
    Ok(())
}

/// Where a node's programs are searched.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of everything in a node: the system's, not the caller's.
pub fn environment(command: &mut Command) {
    let keep = ["TERM", "RUST_LOG", "RUST_BACKTRACE"].map(|key| (key, std::env::var_os(key)));
    command.env_clear();
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command.env("HOME", "/root").env("LANG", "C.UTF-8");
    command.envs(
        keep.into_iter()
            .filter_map(|(key, value)| Some((key, value?))),
    );
}

/// Body of `xtask node-init DIR`.
pub fn init(dir: &Path) -> Result<()> {
    let config = Config::read(dir)?;
    // /proc still is the machine's: "self" resolves to the pid other processes know
    let pid = fs::read_link("/proc/self").context("/proc/self")?;
    let pid: i32 = pid
        .to_string_lossy()
        .parse()
        .context("/proc/self names no process")?;
    let own = Process::of(pid).context("this process")?;
    sethostname(&config.name)?;
    let hierarchies = cgroups::hierarchies()?;
    root(&config, &hierarchies)?;
    system(&config)?;
    own.record(&dir.join("init.pid"))?;
    Supervisor::new(dir)?.run()
}

// === the root file system ===

const NONE: Option<&str> = None;

fn fs_mount(kind: &str, at: &Path, flags: MsFlags, options: &str) -> Result<()> {
    fs::create_dir_all(at).with_context(|| at.display().to_string())?;
    mount(Some(kind), at, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} ({options}) at {}", at.display()))
}

fn bind(from: &Path, at: &Path, flags: MsFlags) -> Result<()> {
    fs::create_dir_all(from).with_context(|| from.display().to_string())?;
    fs::create_dir_all(at).with_context(|| at.display().to_string())?;
    mount(Some(from), at, NONE, MsFlags::MS_BIND | flags, NONE)
        .with_context(|| format!("bind {} at {}", from.display(), at.display()))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn root(config: &Config, hierarchies: &[Hierarchy]) -> Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let base = config.dir.join("root");
    fs_mount("tmpfs", &base, MsFlags::empty(), UPPER)?;
    let (new, upper, work) = (base.join("m"), base.join("upper"), base.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir)?;
    }
    let options = format!(
        "lowerdir=/,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    fs_mount("overlay", &new, MsFlags::empty(), &options)?;

    fs_mount("tmpfs", &new.join("tmp"), MsFlags::empty(), "mode=1777")?;
    bind(
        &config.lab_dir,
        &below(&new, &config.lab_dir),
        MsFlags::empty(),
    )?;
    fs_mount("proc", &new.join("proc"), MsFlags::empty(), "")?;
    // a new sysfs shows the devices of this network namespace
    fs_mount("sysfs", &new.join("sys"), MsFlags::empty(), "")?;
    fs_mount("bpf", &new.join("sys/fs/bpf"), MsFlags::empty(), "")?;
    cgroup_mounts(&new, hierarchies)?;
    bind(Path::new("/dev"), &new.join("dev"), MsFlags::MS_REC)?;
    if new.join("dev/shm").is_dir() {
        fs_mount("tmpfs", &new.join("dev/shm"), MsFlags::empty(), "mode=1777")?;
    }
    fs_mount("tmpfs", &new.join("run"), MsFlags::empty(), "mode=755")?;
    for dir in BOUND {
        bind(&config.dir.join(dir), &new.join(dir), MsFlags::empty())?;
    }
    if config.store_mib > 0 {
        let size = format!("size={}m,mode=700", config.store_mib);
        fs_mount(
            "tmpfs",
            &new.join("var/lib/windlass"),
            MsFlags::empty(),
            &size,
        )?;
    }
    if config.kubelet {
        machine_settings(&new)?;
    }
    files(&new, config)?;

    let old = new.join(".old");
    fs::create_dir_all(&old)?;
    pivot_root(&new, &old).context("pivot_root")?;
    chdir("/")?;
    umount2("/.old", MntFlags::MNT_DETACH)?;
    fs::remove_dir("/.old")?;
    // containers with bidirectional mount propagation expect a shared root
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE)?;
    Ok(())
}

/// Keeps a kubelet from writing settings of the whole machine: it finds what it wants.
fn machine_settings(new: &Path) -> Result<()> {
    for (name, value) in upstream::MACHINE_SETTINGS {
        let (file, at) = (
            new.join("run/sysctl").join(name),
            new.join("proc/sys").join(name),
        );
        if !at.exists() {
            continue;
        }
        fs::create_dir_all(file.parent().context("a setting has a directory")?)?;
        fs::write(&file, value)?;
        mount(Some(&file), &at, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("bind over {}", at.display()))?;
    }
    Ok(())
}

/// The hierarchies as this node's cgroup namespace sees them: its own cgroup is their root.
fn cgroup_mounts(new: &Path, hierarchies: &[Hierarchy]) -> Result<()> {
    if hierarchies.iter().any(|h| h.v1.is_some()) {
        fs_mount(
            "tmpfs",
            &new.join("sys/fs/cgroup"),
            MsFlags::empty(),
            "mode=755",
        )?;
    }
    for Hierarchy { path, v1 } in hierarchies {
        match v1 {
            Some(options) => fs_mount("cgroup", &below(new, path), MsFlags::empty(), options)?,
            None => fs_mount("cgroup2", &below(new, path), MsFlags::empty(), "")?,
        }
    }
    Ok(())
}

fn files(new: &Path, config: &Config) -> Result<()> {
    let replace = |path: &str, text: String| -> Result<()> {
        let path = new.join(path);
        // it may be a link into /run of the machine
        let _ = fs::remove_file(&path);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for ip in &config.ips {
        hosts.push_str(&format!("{ip} {}\n", config.name));
    }
    replace("etc/hosts", hosts)?;
    replace("etc/hostname", format!("{}\n", config.name))?;
    replace("etc/resolv.conf", format!("nameserver {}\n", config.dns))?;
    let _ = fs::remove_file(new.join("etc/mtab"));
    symlink("/proc/self/mounts", new.join("etc/mtab"))?;
    Ok(())
}

/// What a machine's boot would set; all of it belongs to this node's namespaces.
fn system(config: &Config) -> Result<()> {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").context("ipv6 forwarding")?;
    // per network namespace; without it, answers of Services between pods of one bridge are lost
    let bridge = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if config.kubelet && bridge.exists() {
        fs::write(bridge, "1").context("bridge-nf-call-iptables")?;
    }
    Ok(())
}

// === the units ===

struct Unit {
    wanted: bool,
    state: State,
}

enum State {
    Down { since: Option<Instant> },
    Up { pid: Pid, kill_at: Option<Instant> },
}

struct Supervisor {
    dir: PathBuf,
    units: BTreeMap<String, Unit>,
    control: fs::File,
    signals: SignalFd,
}

impl Supervisor {
    fn new(dir: &Path) -> Result<Supervisor> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // open for writing too: the FIFO then never reports end of file
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(dir.join("control"))?;
        Ok(Supervisor {
            dir: dir.to_owned(),
            units: BTreeMap::new(),
            control,
            signals,
        })
    }

    fn run(mut self) -> Result<()> {
        loop {
            self.reap();
            self.commands();
            let next = self.step(Instant::now());
            let timeout = match next {
                Some(wait) => PollTimeout::try_from(wait + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let mut fds = [
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            // EINTR only means: look again
            let _ = poll(&mut fds, timeout);
        }
    }

    /// Collects every ended process, orphans of pods included.
    fn reap(&mut self) {
        while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    let Some(pid) = status.pid() else { continue };
                    let unit = self.units.iter_mut().find(
                        |(_, unit)| matches!(unit.state, State::Up { pid: own, .. } if own == pid),
                    );
                    if let Some((name, unit)) = unit {
                        unit.state = State::Down {
                            since: Some(Instant::now()),
                        };
                        let _ = fs::remove_file(self.dir.join("units").join(format!("{name}.pid")));
                        eprintln!("{name}: {status:?}");
                    }
                }
            }
        }
    }

    fn commands(&mut self) {
        let mut buffer = [0; 4096];
        let Ok(n) = self.control.read(&mut buffer) else {
            return;
        };
        for line in String::from_utf8_lossy(&buffer[..n]).lines() {
            let (verb, name) = line.split_once(' ').unwrap_or((line, ""));
            let wanted = match verb {
                "start" => true,
                "stop" => false,
                _ => {
                    eprintln!("{line:?}: not a command");
                    continue;
                }
            };
            let fresh = || Unit {
                wanted,
                state: State::Down { since: None },
            };
            self.units
                .entry(name.to_owned())
                .or_insert_with(fresh)
                .wanted = wanted;
        }
    }

    /// Brings every unit closer to what is wanted; returns when to look again.
    fn step(&mut self, now: Instant) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut again = |wait: Duration| next = Some(next.map_or(wait, |n| n.min(wait)));
        for (name, unit) in &mut self.units {
            match &mut unit.state {
                State::Down { since } if unit.wanted => {
                    let rest = since.map_or(Duration::ZERO, |at| {
                        RESTART.saturating_sub(now.duration_since(at))
                    });
                    if !rest.is_zero() {
                        again(rest);
                        continue;
                    }
                    match start(&self.dir, name) {
                        Ok(pid) => unit.state = State::Up { pid, kill_at: None },
                        Err(error) => {
                            eprintln!("{name}: {error:#}");
                            *since = Some(now);
                            again(RESTART);
                        }
                    }
                }
                State::Up { pid, kill_at } if !unit.wanted => match kill_at {
                    None => {
                        let _ = kill(*pid, Signal::SIGTERM);
                        *kill_at = Some(now + STOP);
                        again(STOP);
                    }
                    Some(at) if *at <= now => {
                        let _ = kill(*pid, Signal::SIGKILL);
                    }
                    Some(at) => again(at.duration_since(now)),
                },
                State::Down { .. } | State::Up { .. } => {}
            }
        }
        next
    }
}

fn start(dir: &Path, name: &str) -> Result<Pid> {
    let value: Value =
        serde_json::from_slice(&fs::read(dir.join("units").join(format!("{name}.json")))?)?;
    let argv: Vec<&str> = value["argv"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some((program, args)) = argv.split_first() else {
        bail!("no command line")
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log").join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // its own group: a signal to init's group is not one to the units
    command.current_dir("/").process_group(0);
    environment(&mut command);
    for pair in value["env"].as_array().into_iter().flatten() {
        if let (Some(key), Some(value)) = (pair[0].as_str(), pair[1].as_str()) {
            command.env(key, value);
        }
    }
    // not waited for through the handle: reap() collects it
    let child = command.spawn().with_context(|| program.to_string())?;
    let pid = Pid::from_raw(child.id() as i32);
    fs::write(
        dir.join("units").join(format!("{name}.pid")),
        format!("{pid}\n"),
    )?;
    Ok(pid)
}
