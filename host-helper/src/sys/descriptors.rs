//! Descriptors: whose they are, and what becomes of them at the next exec.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::Result;

/// flock(2): `LOCK_EX`, `LOCK_UN`... nix's guard panics where unlocking fails.
pub fn flock(file: &File, operation: i32) -> Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
}

/// `close_range(2)` with `CLOSE_RANGE_CLOEXEC`: everything from `first` on is closed by the next exec.
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    // SAFETY: marks descriptors, frees nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(done).map(drop)
}

/// Clears close-on-exec.
pub fn keep_over_exec(fd: RawFd) -> Result<()> {
    // SAFETY: F_SETFD changes a flag of a descriptor.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// Borrows descriptor `fd`, which the caller of this program left open.
pub fn inherited(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used for 0, 1 and 2 only, which this program never closes.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

pub(super) fn own(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: a system call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Owns a descriptor that has just come over a socket.
pub fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: SCM_RIGHTS has installed it in this process a moment ago (unix(7)), and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `fcntl(2)` with `F_DUPFD`: the same file at the first free number from `first` on, kept over exec.
pub fn duplicate_from(fd: RawFd, first: RawFd) -> Result<RawFd> {
    // SAFETY: makes a new descriptor; the caller execs next, so that nobody has to own it.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD, first) })
}

/// Whether there is a descriptor of this number (`EBADF` when not).
pub fn is_open(fd: RawFd) -> Result<()> {
    // SAFETY: F_GETFD reads a flag.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) }).map(drop)
}

/// `close_range(2)`: closes descriptors that this program has not opened itself.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: the caller names descriptors that were there when this program began, or none: nobody here owns them.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Whether an inherited descriptor is a directory; one that is not open is none.
pub fn is_directory(fd: RawFd) -> bool {
    let mode = nix::sys::stat::fstat(inherited(fd)).map_or(0, |found| found.st_mode);
    mode & libc::S_IFMT == libc::S_IFDIR
}
