//! Files, directories and mounts.

use core::ffi::{CStr, c_int};

use super::{Errno, Fd, call, call_by_value, retry, wait_for_signal};

/// Reads what there is, at most what fits; 0 is the end.
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<u32, Errno> {
    let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: the kernel writes at most `len` bytes to the buffer, which is exclusively ours.
    retry(|| unsafe { call(libc::SYS_read, [fd.0 as usize, start, len]) })
}

/// Writes all of it.
pub fn write_all(fd: Fd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let (start, len) = (bytes.as_ptr() as usize, bytes.len());
        // SAFETY: the kernel reads `len` bytes of the buffer.
        let written = retry(|| unsafe { call(libc::SYS_write, [fd.0 as usize, start, len]) })?;
        bytes = bytes.get(written as usize..).unwrap_or(&[]);
    }
    Ok(())
}

/// Writes if that does not block: a pipe that is ready has room for 4,096 bytes (pipe(7)), and we write fewer.
pub fn write_if_ready(fd: Fd, bytes: &[u8]) {
    let is_ready = poll(fd, libc::POLLOUT, 0).is_ok_and(|events| events & libc::POLLOUT != 0);
    if is_ready && write_all(fd, bytes).is_err() {
        // Nobody reads, and the SIGPIPE for it is ours: it must not be taken for one to pass on.
        wait_for_signal(1 << (libc::SIGPIPE - 1), 0);
    }
}

/// True when nobody has the other end any more.
pub fn has_hung_up(fd: Fd) -> Result<bool, Errno> {
    Ok(poll(fd, 0, 0)? & libc::POLLHUP != 0)
}

/// Waits for events, so many milliseconds at most, and gives those that there are.
#[inline(never)]
pub fn poll(fd: Fd, events: i16, milliseconds: u64) -> Result<i16, Errno> {
    let mut entry = libc::pollfd {
        fd: fd.0,
        events,
        revents: 0,
    };
    let time = timespec(milliseconds);
    let (at, time) = (&raw mut entry as usize, &raw const time as usize);
    // SAFETY: one pollfd, which the kernel writes to, and one timespec; no signal mask. (The kernel counts the timespec
    // down only in its own copy when it is interrupted, so that a retry would wait anew: signals are rare here.)
    retry(|| unsafe { call(libc::SYS_ppoll, [at, 1, time, 0, 0]) })?;
    Ok(entry.revents)
}

/// Milliseconds as the kernel's calls take them.
pub fn timespec(milliseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (milliseconds / 1000) as i64,
        tv_nsec: (milliseconds % 1000 * 1_000_000) as i64,
    }
}

/// Opens for reading.
pub fn open_read(path: &CStr) -> Result<Fd, Errno> {
    open_in(Fd(libc::AT_FDCWD), path)
}

/// Opens for reading what is in a directory.
pub fn open_in(directory: Fd, path: &CStr) -> Result<Fd, Errno> {
    open_at(directory, path, libc::O_RDONLY | libc::O_CLOEXEC)
}

/// Opens for writing, creates what is missing, and truncates nothing: that would flush the old blocks to disk.
pub fn open_write(path: &CStr) -> Result<Fd, Errno> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC;
    // A FIFO in its place would hold us until somebody reads it.
    open(path, flags | libc::O_NONBLOCK)
}

/// Opens to read and write what the command shall have too.
pub fn open_inherited(path: &CStr) -> Result<Fd, Errno> {
    open(path, libc::O_RDWR)
}

fn open(path: &CStr, flags: c_int) -> Result<Fd, Errno> {
    open_at(Fd(libc::AT_FDCWD), path, flags)
}

#[inline(never)]
fn open_at(directory: Fd, path: &CStr, flags: c_int) -> Result<Fd, Errno> {
    let directory = directory.0 as usize;
    let (path, flags) = (path.as_ptr() as usize, (flags | libc::O_NOCTTY) as usize);
    // SAFETY: the path is a C string.
    let fd = retry(|| unsafe { call(libc::SYS_openat, [directory, path, flags, 0o644]) })?;
    Ok(Fd(fd as i32))
}

/// Closes; there is nothing to be done about an error.
#[inline(never)]
pub fn close(fd: Fd) {
    let _ = call_by_value(libc::SYS_close, [fd.0 as usize]);
}

/// Closes every descriptor but the first three (since Linux 5.9).
#[inline(never)]
pub fn close_descriptors() {
    let _ = call_by_value(libc::SYS_close_range, [3, u32::MAX as usize, 0]);
}

/// The descriptor is closed when the command is executed.
pub fn set_close_on_exec(fd: Fd) -> Result<u32, Errno> {
    let (command, flag) = (libc::F_SETFD as usize, libc::FD_CLOEXEC as usize);
    call_by_value(libc::SYS_fcntl, [fd.0 as usize, command, flag])
}

/// The size of a file, and the position at its start; 0 for what has no size.
pub fn size_and_rewind(fd: Fd) -> u32 {
    let seek = |whence: c_int| call_by_value(libc::SYS_lseek, [fd.0 as usize, 0, whence as usize]);
    let size = seek(libc::SEEK_END).unwrap_or(0);
    let _ = seek(libc::SEEK_SET);
    size
}

/// Cuts a file.
pub fn truncate(fd: Fd, len: usize) -> Result<u32, Errno> {
    call_by_value(libc::SYS_ftruncate, [fd.0 as usize, len])
}

/// Entries of an open directory, as getdents64(2) packs them; 0 is the end.
pub fn read_directory(fd: Fd, buffer: &mut [u8]) -> Result<u32, Errno> {
    let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: the kernel writes at most `len` bytes.
    unsafe { call(libc::SYS_getdents64, [fd.0 as usize, start, len]) }
}

/// True when something has this name.
pub fn exists(path: &CStr) -> bool {
    let (directory, path) = (libc::AT_FDCWD as usize, path.as_ptr() as usize);
    // SAFETY: the path is a C string.
    unsafe { call(libc::SYS_faccessat, [directory, path, 0]) }.is_ok()
}

/// The working directory.
#[inline(always)]
pub fn change_directory(path: &CStr) -> Result<u32, Errno> {
    // SAFETY: the path is a C string.
    unsafe { call(libc::SYS_chdir, [path.as_ptr() as usize]) }
}

/// Mounts a file system of the kernel's own on a directory, which is made if it is missing.
pub fn mount(kind: &CStr, path: &CStr) -> Result<u32, Errno> {
    let (kind, path) = (kind.as_ptr() as usize, path.as_ptr() as usize);
    // SAFETY: all are C strings, and these file systems take no data.
    unsafe {
        let _ = call(libc::SYS_mkdirat, [libc::AT_FDCWD as usize, path, 0o755]);
        call(libc::SYS_mount, [kind, path, kind, 0, 0])
    }
}
