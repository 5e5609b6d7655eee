//! Signals by numbers, and sets of one bit each, the lowest for signal 1: nix knows those up to 31 alone, and the sets of a C library lack
//! those that it has for itself: 34 too with musl (`sigfillset()`, `sigaddset()`), which is any program's SIGRTMIN with glibc.

use std::os::fd::OwnedFd;

use super::Result;
use super::descriptors::own;
use nix::errno::Errno;

/// As the kernel wants it (rt_sigprocmask(2), signalfd(2)).
const SET_BYTES: usize = size_of::<u64>();

/// `rt_sigprocmask(2)`: these too are blocked.
pub fn block_signals(set: u64) -> Result<()> {
    change_mask(libc::SIG_BLOCK, set).map(drop)
}

/// `rt_sigprocmask(2)`: these are blocked, and no others. Gives those that were.
pub fn swap_blocked_signals(set: u64) -> Result<u64> {
    change_mask(libc::SIG_SETMASK, set)
}

/// Whether this process ignores a signal (`rt_sigaction(2)`, which musl does not ask about 32 to 34).
pub fn is_ignored(number: i32) -> bool {
    // A handler, flags, a restorer where there is one, and a set (`struct sigaction` of <asm/signal.h>): the handler is first.
    let mut now = [0_usize; 4];
    // SAFETY: a null new action changes nothing, and the old one fits.
    let asked = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            number,
            std::ptr::null::<usize>(),
            now.as_mut_ptr(),
            SET_BYTES,
        )
    };
    asked == 0 && now[0] == libc::SIG_IGN
}

/// What our caller ignores does what it does by default again (`signal(2)`).
pub fn heed(number: i32) {
    // SAFETY: no handler is set.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

fn change_mask(how: libc::c_int, set: u64) -> Result<u64> {
    let mut before = 0_u64;
    // SAFETY: both sets have the bytes that are said, and outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const set,
            &raw mut before,
            SET_BYTES,
        )
    };
    Errno::result(done).map(|_| before)
}

/// `signalfd(2)`: those of a set, without waiting.
pub fn signal_descriptor(set: u64) -> Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set has the bytes that are said; -1 asks for a new descriptor.
    own(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const set, SET_BYTES, flags) })
}
