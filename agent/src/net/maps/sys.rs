//! The agent's only direct use of `bpf(2)`: map elements (single and in batches), pins, links and test
//! runs. Values are byte slices whose lengths the callers take from the map's own `MapInfo`; typing
//! happens above. Nothing here knows what a map means.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_TEST_RUN: u32 = 10;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const MAP_LOOKUP_BATCH: u32 = 24;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

/// `bpf_attach_type` of tcx.
pub const TCX_INGRESS: u32 = 46;
/// See [`TCX_INGRESS`].
pub const TCX_EGRESS: u32 = 47;

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjFdAttr {
    fd: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The first fields of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

fn call<T>(command: u32, attr: &mut T) -> io::Result<i64> {
    // SAFETY: every attr type above is repr(C), without padding the kernel would read, and lists a prefix
    // of the command's `union bpf_attr`; pointers in it come from live slices of the sizes the map has.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

fn call_fd<T>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the command returned a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Reads the value of `key` into `value`; false if there is none.
pub fn lookup(fd: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        fd: raw(fd),
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..Default::default()
    };
    found(call(MAP_LOOKUP_ELEM, &mut attr))
}

/// Writes one element.
pub fn update(fd: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = ElemAttr {
        fd: raw(fd),
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags,
        ..Default::default()
    };
    call(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Deletes one element; false if there was none.
pub fn delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        fd: raw(fd),
        key: key.as_ptr() as u64,
        ..Default::default()
    };
    found(call(MAP_DELETE_ELEM, &mut attr))
}

/// The key after `key` (the first one if `None`); false at the end.
pub fn next_key(fd: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        fd: raw(fd),
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        ..Default::default()
    };
    found(call(MAP_GET_NEXT_KEY, &mut attr))
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// One step of a batch read of a hash (kernel 5.6).
pub struct Batch {
    /// Elements read.
    pub count: usize,
    /// No more follow.
    pub last: bool,
}

/// Reads up to `keys.len() / key_size` elements after `position` (updated; `started` false at first).
pub fn lookup_batch(
    fd: BorrowedFd<'_>,
    started: bool,
    position: &mut [u8],
    keys: &mut [u8],
    values: &mut [u8],
    count: usize,
) -> io::Result<Batch> {
    let at = position.as_mut_ptr() as u64;
    let mut attr = BatchAttr {
        in_batch: if started { at } else { 0 },
        out_batch: at,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: count as u32,
        fd: raw(fd),
        ..Default::default()
    };
    let last = match call(MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    Ok(Batch {
        count: attr.count as usize,
        last,
    })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Pins an object.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr {
        path: path.as_ptr() as u64,
        fd: raw(fd),
        flags: 0,
    };
    call(OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr {
        path: path.as_ptr() as u64,
        ..Default::default()
    };
    call_fd(OBJ_GET, &mut attr)
}

/// Type and sizes of a map.
pub fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: raw(fd),
        len: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Instructions the verifier processed for a program (kernel 5.16).
pub fn verified_instructions(prog: BorrowedFd<'_>) -> io::Result<u32> {
    /// Offset of `verified_insns` in `struct bpf_prog_info`, in words.
    const AT: usize = 54;
    let mut info = [0_u32; AT + 2];
    let mut attr = InfoAttr {
        fd: raw(prog),
        len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[AT])
}

/// Attaches a program to an interface (tcx; `target` is its index) or a cgroup (`target` is its fd).
pub fn link_create(prog: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        prog_fd: raw(prog),
        target,
        attach_type,
        ..Default::default()
    };
    call_fd(LINK_CREATE, &mut attr)
}

/// Replaces the program of a link, atomically.
pub fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: raw(link),
        new_prog_fd: raw(prog),
        ..Default::default()
    };
    call(LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once (the last reference alone would do it a moment later).
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = ObjFdAttr {
        fd: raw(link),
        pad: 0,
    };
    call(LINK_DETACH, &mut attr).map(drop)
}

/// What a test run returned.
#[derive(Debug, Clone, Copy)]
pub struct TestRun {
    /// The program's return value.
    pub retval: u32,
    /// Bytes in `output`.
    pub len: usize,
    /// Average nanoseconds of one run.
    pub nanos: u32,
}

/// Runs a program on a packet (`BPF_PROG_TEST_RUN`), `ctx` being a `struct __sk_buff` or empty.
pub fn test_run(
    prog: BorrowedFd<'_>,
    input: &[u8],
    output: &mut [u8],
    ctx: &mut [u8],
    repeat: u32,
) -> io::Result<TestRun> {
    let ctx_at = if ctx.is_empty() {
        0
    } else {
        ctx.as_mut_ptr() as u64
    };
    let mut attr = TestRunAttr {
        prog_fd: raw(prog),
        data_size_in: input.len() as u32,
        data_size_out: output.len() as u32,
        data_in: input.as_ptr() as u64,
        data_out: if output.is_empty() {
            0
        } else {
            output.as_mut_ptr() as u64
        },
        repeat,
        ctx_size_in: ctx.len() as u32,
        ctx_size_out: ctx.len() as u32,
        ctx_in: ctx_at,
        ctx_out: ctx_at,
        ..Default::default()
    };
    call(PROG_TEST_RUN, &mut attr)?;
    Ok(TestRun {
        retval: attr.retval,
        len: attr.data_size_out as usize,
        nanos: attr.duration,
    })
}
