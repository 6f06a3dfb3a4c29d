//! The system calls that no crate wraps. All unsafe code of the plugins is in this file.
#![expect(unsafe_code, reason = "the fence: bpf(2) takes its arguments as an untyped block")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::bpf_insn;
use zerocopy::{FromBytes, Immutable, IntoBytes};

// Commands of bpf(2), from the kernel's include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_ITER: u32 = 28;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
const BPF_F_UPROBE_MULTI_RETURN: u32 = 1;
const BPF_NOEXIST: u64 = 1;

/// `bpf_attr.link_create` for iterators.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// `bpf_attr` for the load of a program.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `bpf_attr.link_create` for uprobes at many places.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct UprobeLink {
    program: u32,
    target: u32,
    attach_type: u32,
    link_flags: u32,
    path: u64,
    offsets: u64,
    reference_counters: u64,
    cookies: u64,
    count: u32,
    flags: u32,
    pid: u32,
    padding: u32,
}

/// `bpf_attr.iter_create`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct IterCreate {
    link: u32,
    flags: u32,
}

/// `bpf_attr` for operations on one element of a map.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// # Safety
///
/// Addresses inside `attributes` must be valid for what `command` does with them.
unsafe fn bpf<T: IntoBytes + Immutable>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the block is passed with its own size and is only read; the addresses inside are
    // the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw const *attributes, mem::size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// # Safety
///
/// `fd` must be a new descriptor that nobody else owns.
unsafe fn own(fd: i32) -> OwnedFd {
    // SAFETY: passed on from the caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes a link for an iterator program, over the elements of `map` if the iterator needs one.
pub(crate) fn iter_link(
    program: BorrowedFd<'_>,
    map: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info` with its member `map`.
    let info: u32 = map.map_or(0, |map| map.as_raw_fd() as u32);
    let attributes = LinkCreate {
        program: program.as_raw_fd() as u32,
        target: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        iter_info: if map.is_some() { &raw const info as u64 } else { 0 },
        iter_info_len: if map.is_some() { mem::size_of_val(&info) as u32 } else { 0 },
        padding: 0,
    };
    // SAFETY: the kernel reads `iter_info_len` bytes at `iter_info`, which is `info` on this
    // stack or none; what it returns is a new descriptor.
    unsafe { bpf(BPF_LINK_CREATE, &attributes).map(|fd| own(fd)) }
}

/// Loads a program for [`uprobe_link`]; its maps and calls are resolved.
pub(crate) fn uprobe_load(
    name: &str,
    instructions: &[bpf_insn],
    license: &CStr,
) -> io::Result<OwnedFd> {
    let mut shown = [0; 16];
    let length = name.len().min(shown.len() - 1);
    shown[..length].copy_from_slice(&name.as_bytes()[..length]);
    let attributes = ProgramLoad {
        kind: BPF_PROG_TYPE_KPROBE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: shown,
        interface: 0,
        attach_type: BPF_TRACE_UPROBE_MULTI,
    };
    // SAFETY: the kernel reads so many instructions, and a text that ends with NUL, which both
    // outlive the call; what it returns is a new descriptor.
    unsafe { bpf(BPF_PROG_LOAD, &attributes).map(|fd| own(fd)) }
}

/// Attaches a program to places of a file, or where the functions that begin there return, in all
/// processes. `cookies` is empty, or as long as `offsets`.
pub(crate) fn uprobe_link(
    program: BorrowedFd<'_>,
    path: &str,
    offsets: &[u64],
    cookies: &[u64],
    at_return: bool,
) -> io::Result<OwnedFd> {
    if !cookies.is_empty() && cookies.len() != offsets.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = CString::new(path)?;
    let attributes = UprobeLink {
        program: program.as_raw_fd() as u32,
        target: 0,
        attach_type: BPF_TRACE_UPROBE_MULTI,
        link_flags: 0,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        reference_counters: 0,
        cookies: if cookies.is_empty() { 0 } else { cookies.as_ptr() as u64 },
        count: offsets.len() as u32,
        flags: if at_return { BPF_F_UPROBE_MULTI_RETURN } else { 0 },
        pid: 0,
        padding: 0,
    };
    // SAFETY: the kernel reads `count` numbers at `offsets`, and at `cookies` if it is not 0, which
    // was checked above, and a path that ends with NUL; all outlive the call, which returns a new
    // descriptor.
    unsafe { bpf(BPF_LINK_CREATE, &attributes).map(|fd| own(fd)) }
}

/// Starts one pass of an iterator: reading the descriptor runs the program.
pub(crate) fn iter_start(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = IterCreate { link: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: there is no address inside; what the call returns is a new descriptor.
    unsafe { bpf(BPF_ITER_CREATE, &attributes).map(|fd| own(fd)) }
}

/// Removes an element and returns its last value; `None` if it is not there. As in all calls of
/// this kind, `K` and `V` must be the map's own types, which `Map::open` has checked by size.
pub(crate) fn map_take<K, V>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>>
where
    K: IntoBytes + Immutable,
    V: FromBytes + IntoBytes,
{
    map_read(BPF_MAP_LOOKUP_AND_DELETE_ELEM, map, Some(key))
}

/// The value of an element; `None` if it is not there.
pub(crate) fn map_get<K, V>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>>
where
    K: IntoBytes + Immutable,
    V: FromBytes + IntoBytes,
{
    map_read(BPF_MAP_LOOKUP_ELEM, map, Some(key))
}

/// The key after `key`, or the first one; `None` after the last one.
pub(crate) fn map_next<K>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>>
where
    K: FromBytes + IntoBytes + Immutable,
{
    map_read(BPF_MAP_GET_NEXT_KEY, map, key)
}

/// Sets an element.
pub(crate) fn map_put<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    let attributes = MapElement::of(map, Some(key), value.as_bytes().as_ptr() as u64);
    // SAFETY: the kernel reads the map's key size at `key` and its value size at `value`;
    // `Map::open` refuses maps whose sizes are not those of `K` and `V`.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attributes) }.map(drop)
}

/// Removes an element; whether it was there.
pub(crate) fn map_remove<K: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<bool> {
    let attributes = MapElement::of(map, Some(key), 0);
    // SAFETY: the kernel reads the map's key size at `key`; `Map::open` refuses maps whose key
    // size is not that of `K`.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Commands that read a key, if there is one, and write an `R`: a value, or for
/// `BPF_MAP_GET_NEXT_KEY` a key.
fn map_read<K, R>(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    key: Option<&K>,
) -> io::Result<Option<R>>
where
    K: IntoBytes + Immutable,
    R: FromBytes + IntoBytes,
{
    let mut result = R::new_zeroed();
    let attributes = MapElement::of(map, key, result.as_mut_bytes().as_mut_ptr() as u64);
    // SAFETY: the kernel reads the map's key size at `key` and writes its value size, or its key
    // size, at `value`; `Map::open` refuses maps whose sizes are not those of `K` and `V`, and
    // the callers above choose `R` by the command.
    match unsafe { bpf(command, &attributes) } {
        Ok(_) => Ok(Some(result)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds an element; `false` if there is one of that key. `V` must be the map's value type, which
/// the caller has checked against the map's value size.
pub(crate) fn map_add<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<bool>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    let mut attributes = MapElement::of(map, Some(key), value.as_bytes().as_ptr() as u64);
    attributes.flags = BPF_NOEXIST;
    // SAFETY: the kernel reads the map's key size at `key` and its value size at `value`;
    // `Map::open` refuses maps whose sizes are not those of `K` and `V`.
    match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

impl MapElement {
    fn of<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: Option<&K>, value: u64) -> Self {
        Self {
            map: map.as_raw_fd() as u32,
            padding: 0,
            key: key.map_or(0, |key| key.as_bytes().as_ptr() as u64),
            value,
            flags: 0,
        }
    }
}

/// Gives memory that was freed back to the system: parsing kernel types takes tens of megabytes
/// once, which would otherwise stay with the process, and so would that of a burst.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no precondition; glibc takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
