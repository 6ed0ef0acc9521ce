//! Loading the programs, pinning their maps and attaching them. Attachments and maps outlive the agent:
//! a new agent takes over the maps whose version and shape match, and swaps the program of every
//! existing link atomically instead of attaching again.
//!
//! Below the agent's bpffs directory: `NAME_vVERSION` per map (bpffs reserves the dot), `links/HOOK_IFINDEX` per attached
//! program and `links/sock_NAME` per socket hook.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use abi::event::Tail;
use abi::map::{self, Keep, Kind, MapDef};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use crate::net::maps::{MapError, MapSet, pin_name, sys};

mod links;
mod tick;

pub use links::{Attached, netns_cookie};

/// First kernel with tcx links.
const MIN_KERNEL: (u32, u32) = (6, 6);

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/windlass.o"));

/// The datapath could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("this agent was built without BPF programs (run `cargo xtask build`)")]
    NoObject,
    #[error("kernel {found} is too old: the datapath needs {}.{} or newer", MIN_KERNEL.0, MIN_KERNEL.1)]
    KernelTooOld { found: String },
    #[error("cannot {operation} {path}")]
    File {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot load the BPF object")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("cannot load BPF program {program}")]
    Program {
        program: String,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("program {0} is missing from the BPF object")]
    Missing(&'static str),
    #[error("cannot {operation} ({target})")]
    Link {
        operation: &'static str,
        target: String,
        source: io::Error,
    },
    #[error("cannot find out the length of a kernel tick")]
    Tick(#[source] io::Error),
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Sizes that depend on the machine; everything else has the size `abi::limits` says.
#[derive(Debug, Clone, Default)]
pub struct Sizes {
    /// Map name (`abi::map`) → entries.
    pub entries: BTreeMap<&'static str, u32>,
}

/// Memory from which the hashes that grow with the cluster or its traffic are doubled, and doubled again.
const ROOMY: [u64; 2] = [64 << 30, 256 << 30];

impl Sizes {
    /// Sizes for a machine with so many bytes of memory.
    pub fn for_memory(bytes: u64) -> Self {
        let doublings = ROOMY.iter().filter(|limit| bytes >= **limit).count() as u32;
        if doublings == 0 {
            return Self::default();
        }
        let grows = |def: &&MapDef| matches!(def.kind, Kind::Hash | Kind::LruHash | Kind::LpmTrie);
        let entries = map::ALL
            .iter()
            .filter(grows)
            .map(|def| (def.name, def.entries << doublings));
        Self {
            entries: entries.collect(),
        }
    }
}

/// Families whose programs are loaded. Those of IPv6 are half of what the verifier has to do at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv6 packets of pods are dropped, those of uplinks left to the host's stack.
    Ipv4,
    Both,
}

impl Families {
    fn include(self, program: &str) -> bool {
        let of_ipv6 = |(tail, name): &(Tail, &str)| *name == program && tail.is_ipv6();
        self == Self::Both || !Tail::PROGRAMS.iter().any(of_ipv6)
    }
}

/// The loaded datapath of this node.
#[derive(Debug)]
pub struct Datapath {
    dir: PathBuf,
    programs: BTreeMap<String, OwnedFd>,
    tick_mult: u32,
}

// === impl Datapath ===

impl Datapath {
    /// Loads the embedded object. Existing links keep running their old programs until
    /// [`Self::adopt_links`]. Write `cfg` before attaching anything.
    pub fn load(dir: &Path, sizes: &Sizes, families: Families) -> Result<Self, LoadError> {
        Self::load_object(OBJECT, dir, sizes, families)
    }

    /// As [`Self::load`], with an object that is not the embedded one (tests).
    pub fn load_object(
        object: &[u8],
        dir: &Path,
        sizes: &Sizes,
        families: Families,
    ) -> Result<Self, LoadError> {
        if object.is_empty() {
            return Err(LoadError::NoObject);
        }
        check_kernel()?;
        links::ensure_bpffs(dir)?;
        discard_unusable(dir, sizes)?;
        let programs = load_programs(object, dir, sizes, families)?;
        let clock = programs.get("clock").ok_or(LoadError::Missing("clock"))?;
        let tick_mult = tick::multiplier(clock.as_fd()).map_err(LoadError::Tick)?;
        let datapath = Self {
            dir: dir.to_path_buf(),
            programs,
            tick_mult,
        };
        datapath.fill_tail_calls(families)?;
        Ok(datapath)
    }

    /// The maps, opened anew.
    pub fn maps(&self) -> Result<MapSet, LoadError> {
        Ok(MapSet::open(&self.dir)?)
    }

    /// Directory of the pins, for [`MapSet::events`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// For `Cfg::tick_mult`.
    pub fn tick_mult(&self) -> u32 {
        self.tick_mult
    }

    /// Seconds as conntrack entries count them, now.
    pub fn seconds(&self) -> Result<u32, LoadError> {
        let jiffies = tick::jiffies(self.program("clock")?).map_err(LoadError::Tick)?;
        Ok(((u128::from(jiffies) * u128::from(self.tick_mult)) >> 32) as u32)
    }

    /// A loaded program, for test runs.
    pub fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        self.programs
            .get(name)
            .map(AsFd::as_fd)
            .ok_or(LoadError::Missing(name))
    }

    /// Programs with the number of instructions the verifier processed for each.
    pub fn verified(&self) -> Result<Vec<(&str, u32)>, LoadError> {
        self.programs
            .iter()
            .map(|(name, fd)| match sys::verified_instructions(fd.as_fd()) {
                Ok(count) => Ok((name.as_str(), count)),
                Err(source) => {
                    let target = name.clone();
                    Err(LoadError::Link {
                        operation: "examine program",
                        target,
                        source,
                    })
                }
            })
            .collect()
    }

    fn fill_tail_calls(&self, families: Families) -> Result<(), LoadError> {
        // A fresh program array: the programs that still run keep theirs until their links are swapped.
        let fresh = self.dir.join(format!("{}_new", pin_name(tail_def())));
        let array = open(&fresh)?;
        let slots = Tail::PROGRAMS.iter();
        for (slot, name) in slots.filter(|(_, name)| families.include(name)) {
            let program = self.program(name)?.as_raw_fd() as u32;
            let slot = *slot as u32;
            sys::update(
                array.as_fd(),
                &slot.to_ne_bytes(),
                &program.to_ne_bytes(),
                0,
            )
            .map_err(|source| MapError {
                map: map::TAIL,
                operation: "update",
                source,
            })?;
        }
        Ok(())
    }

    /// Lets the new program array take the place of the old one, whose programs no link runs any more.
    fn promote_tail_calls(&self) -> Result<(), LoadError> {
        let name = pin_name(tail_def());
        let fresh = self.dir.join(format!("{name}_new"));
        if !fresh.exists() {
            return Ok(());
        }
        let path = self.dir.join(name);
        std::fs::rename(&fresh, &path).map_err(|source| LoadError::File {
            operation: "replace",
            path,
            source,
        })
    }
}

fn tail_def() -> &'static MapDef {
    map::ALL
        .iter()
        .find(|def| def.name == map::TAIL)
        .expect("tail is one of the maps")
}

fn check_kernel() -> Result<(), LoadError> {
    let release = nix::sys::utsname::uname()
        .map_err(|errno| LoadError::Tick(errno.into()))?
        .release()
        .to_string_lossy()
        .into_owned();
    match parse_release(&release) {
        Some(version) if version >= MIN_KERNEL => Ok(()),
        _ => Err(LoadError::KernelTooOld { found: release }),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn open(path: &Path) -> Result<OwnedFd, LoadError> {
    sys::open(path).map_err(|source| LoadError::File {
        operation: "open",
        path: path.to_path_buf(),
        source,
    })
}

fn entries_of(def: &MapDef, sizes: &Sizes) -> u32 {
    sizes.entries.get(def.name).copied().unwrap_or(def.entries)
}

/// aya takes a pinned map over unchecked: whatever does not have the shape this agent expects is unpinned
/// here, and so are maps of one load. Programs that still run keep using what they have.
fn discard_unusable(dir: &Path, sizes: &Sizes) -> Result<(), LoadError> {
    let tail = format!("{}_new", pin_name(tail_def()));
    remove(&dir.join(tail))?;
    for def in map::ALL.iter().filter(|def| def.keep != Keep::Load) {
        let path = dir.join(pin_name(def));
        let usable = match sys::open(&path).and_then(|fd| sys::map_info(fd.as_fd())) {
            Ok(info) => has_shape(&info, def, sizes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => false,
        };
        if !usable {
            tracing::warn!(
                map = def.name,
                "pinned map has another shape and is built anew"
            );
            remove(&path)?;
        }
    }
    Ok(())
}

fn has_shape(info: &sys::MapInfo, def: &MapDef, sizes: &Sizes) -> bool {
    let wanted = entries_of(def, sizes);
    // The kernel rounds the size of an LRU up to its CPUs.
    let fits = if def.kind == Kind::LruHash {
        info.max_entries >= wanted && info.max_entries < wanted.saturating_add(1024)
    } else {
        info.max_entries == wanted
    };
    info.kind == def.kind as u32
        && info.key_size as usize == def.key
        && info.value_size as usize == def.value
        && fits
}

fn remove(path: &Path) -> Result<(), LoadError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::File {
            operation: "remove",
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Loads without the verifier's log, which costs as much as verification itself; if a program is refused,
/// again with it, to say why.
fn load_programs(
    object: &[u8],
    dir: &Path,
    sizes: &Sizes,
    families: Families,
) -> Result<BTreeMap<String, OwnedFd>, LoadError> {
    let mut quiet = load_maps(object, dir, sizes, VerifierLogLevel::DISABLE)?;
    match verify_programs(&mut quiet, families) {
        Err(LoadError::Program { .. }) => {
            let told = VerifierLogLevel::DEBUG | VerifierLogLevel::STATS;
            verify_programs(&mut load_maps(object, dir, sizes, told)?, families)
        }
        done => done,
    }
}

fn load_maps(
    object: &[u8],
    dir: &Path,
    sizes: &Sizes,
    log: VerifierLogLevel,
) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(log);
    for def in map::ALL {
        let name = match def.keep {
            Keep::Load => format!("{}_new", pin_name(def)),
            Keep::Derived | Keep::State => pin_name(def),
        };
        loader.map_pin_path(def.name, dir.join(name));
        if sizes.entries.contains_key(def.name) {
            loader.map_max_entries(def.name, entries_of(def, sizes));
        }
    }
    loader
        .load(object)
        .map_err(|error| LoadError::Object(Box::new(error)))
}

fn verify_programs(
    ebpf: &mut Ebpf,
    families: Families,
) -> Result<BTreeMap<String, OwnedFd>, LoadError> {
    let mut programs = BTreeMap::new();
    let wanted = ebpf.programs_mut();
    for (name, program) in wanted.filter(|(name, _)| families.include(name)) {
        let failed = |source| LoadError::Program {
            program: name.to_owned(),
            source: Box::new(source),
        };
        let fd = match program {
            Program::SchedClassifier(program) => {
                program.load().map_err(failed)?;
                program.fd().map_err(failed)?.as_fd().try_clone_to_owned()
            }
            Program::CgroupSockAddr(program) => {
                program.load().map_err(failed)?;
                program.fd().map_err(failed)?.as_fd().try_clone_to_owned()
            }
            _ => continue,
        };
        let fd = fd.map_err(|source| LoadError::Link {
            operation: "keep program",
            target: name.to_owned(),
            source,
        })?;
        programs.insert(name.to_owned(), fd);
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_their_first_two_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse_release("6.1.0-38-amd64"), Some((6, 1)));
        assert!(parse_release("6.6.1") >= Some(MIN_KERNEL));
        assert_eq!(parse_release("x"), None);
    }

    #[test]
    fn hashes_grow_with_memory_and_arrays_do_not() {
        assert!(Sizes::for_memory(8 << 30).entries.is_empty());
        let sizes = Sizes::for_memory(300 << 30);
        assert_eq!(sizes.entries[map::CT4_TCP], abi::limits::CT4_TCP * 4);
        assert!(!sizes.entries.contains_key(map::LIVE));
    }

    #[test]
    fn a_pinned_map_of_another_shape_is_not_taken_over() {
        let def = map::ALL.iter().find(|def| def.name == map::FE4).unwrap();
        let mut info = sys::MapInfo {
            kind: def.kind as u32,
            id: 1,
            key_size: def.key as u32,
            value_size: def.value as u32,
            max_entries: def.entries,
            flags: 1,
        };
        assert!(has_shape(&info, def, &Sizes::default()));
        info.value_size += 4;
        assert!(!has_shape(&info, def, &Sizes::default()));
    }
}
