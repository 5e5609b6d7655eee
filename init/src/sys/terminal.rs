//! The terminal on standard input.

use core::ffi::c_int;

use super::{Errno, Pid, call, own_pid};

/// True when standard input is our controlling terminal and we lead its session.
pub fn leads_terminal() -> bool {
    let mut session: c_int = 0;
    // SAFETY: the kernel writes an int.
    let asked = unsafe { terminal_call(libc::TIOCGSID as usize, &raw mut session as usize) };
    asked.is_ok() && Pid(session) == own_pid()
}

/// True when standard input is our controlling terminal.
pub fn has_terminal() -> bool {
    let mut group: c_int = 0;
    // SAFETY: the kernel writes an int.
    unsafe { terminal_call(libc::TIOCGPGRP as usize, &raw mut group as usize) }.is_ok()
}

/// Gives the controlling terminal up. Its foreground group gets HUP and CONT.
pub fn release_terminal() {
    // SAFETY: this request takes no memory.
    let _ = unsafe { terminal_call(libc::TIOCNOTTY as usize, 0) };
}

/// Makes standard input our controlling terminal, with us in the foreground.
pub fn take_terminal() {
    // SAFETY: this request takes a number.
    let _ = unsafe { terminal_call(libc::TIOCSCTTY as usize, 0) };
}

/// # Safety
/// `argument` is what ioctl_tty(2) says for the request.
unsafe fn terminal_call(request: usize, argument: usize) -> Result<u32, Errno> {
    // SAFETY: as the caller promises.
    unsafe { call(libc::SYS_ioctl, [0, request, argument]) }
}
