//! Mounts, named by descriptors: copies, new ones, their attributes, and where they go.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;

use super::Result;
use super::descriptors::own;

/// `open_tree(2)` with `OPEN_TREE_CLONE`: a detached copy of the mount at `path` under `dir` (a bind mount).
pub fn clone_tree(dir: impl AsFd, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: path is NUL-terminated and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
        )
    };
    own(fd)
}

/// `move_mount(2)`: attaches the detached mount `tree` at the descriptor `target`.
pub fn attach_tree(tree: impl AsFd, target: impl AsFd) -> Result<()> {
    attach_tree_at(tree, target, c"")
}

/// The same at `path` under the directory `dir`; the last name is not followed where it is a link. Only where nobody else
/// can have put links on the way.
pub fn attach_tree_at(tree: impl AsFd, dir: impl AsFd, path: &CStr) -> Result<()> {
    // From linux/mount.h: an empty path is that of the descriptor itself.
    const F_EMPTY_PATH: u32 = 0x4;
    const T_EMPTY_PATH: u32 = 0x40;
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            F_EMPTY_PATH | T_EMPTY_PATH,
        )
    };
    Errno::result(done).map(drop)
}

/// `mount_setattr(2)`: sets `attributes` (`MOUNT_ATTR_*`) on the mount, and on those below it.
pub fn set_mount_attributes(mount: impl AsFd, attributes: u64, recursive: bool) -> Result<()> {
    change_mount_attributes(
        mount,
        attributes,
        0,
        if recursive { libc::AT_RECURSIVE } else { 0 },
    )
}

/// The same, clearing them on the mount alone.
pub fn clear_mount_attributes(mount: impl AsFd, attributes: u64) -> Result<()> {
    change_mount_attributes(mount, 0, attributes, 0)
}

/// The same with `MOUNT_ATTR_IDMAP`: on this mount, which must be detached, files have the owners that `users` maps theirs to.
pub fn map_mount(mount: impl AsFd, users: impl AsFd, recursive: bool) -> Result<()> {
    const IDMAP: u64 = 0x10_0000; // linux/mount.h
    // SAFETY: mount_attr is plain integers; zero means "leave alone".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = IDMAP;
    attr.userns_fd = users.as_fd().as_raw_fd() as u64;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    apply(mount, &attr, flags)
}

/// The same for what a container gets of the host's mounts: read-only data, and nothing mounted on the one appears on
/// the other.
pub fn seclude(mount: impl AsFd) -> Result<()> {
    let attributes = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    change_mount(mount, attributes, 0, libc::MS_PRIVATE, 0)
}

fn change_mount_attributes(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    flags: libc::c_int,
) -> Result<()> {
    change_mount(mount, set, clear, 0, flags)
}

fn change_mount(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    propagation: u64,
    flags: libc::c_int,
) -> Result<()> {
    // SAFETY: mount_attr is plain integers; zero means "leave alone".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = set;
    attr.attr_clr = clear;
    attr.propagation = propagation;
    apply(mount, &attr, flags)
}

fn apply(mount: impl AsFd, attr: &libc::mount_attr, flags: libc::c_int) -> Result<()> {
    // SAFETY: attr outlives the call and its size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            &raw const *attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop)
}

/// `fsopen`, `fsconfig` and `fsmount` of `linux/mount.h`: a new file system, detached, with mount `attributes`.
pub fn make_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Result<OwnedFd> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    const CLOEXEC: u32 = 1;
    // SAFETY: kind is NUL-terminated and outlives the call.
    let context = own(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })?;
    for (key, value) in options {
        let (command, value) = if value.is_empty() {
            (SET_FLAG, std::ptr::null())
        } else {
            (SET_STRING, value.as_ptr())
        };
        // SAFETY: key and value are NUL-terminated (or null for a flag) and outlive the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                key.as_ptr(),
                value,
                0,
            )
        };
        Errno::result(done)?;
    }
    // SAFETY: FSCONFIG_CMD_CREATE takes no key and no value.
    let done = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            0usize,
            0usize,
            0,
        )
    };
    Errno::result(done)?;
    // SAFETY: integers only.
    own(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            CLOEXEC,
            attributes as u32,
        )
    })
}
