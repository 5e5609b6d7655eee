//! Our controlling terminal.

use core::ffi::c_int;

use super::{Errno, Fd, Pid, STDIN, call, group_of, open_read};

/// A descriptor of it, where we have one: standard input, or else `/dev/tty`, since `a | init -s -- b` has a terminal too.
pub fn find_terminal() -> Fd {
    match session_of(STDIN) {
        Some(_) => STDIN,
        None => open_read(c"/dev/tty").unwrap_or(STDIN),
    }
}

#[inline(always)]
/// Who leads its session; `None` where `terminal` is not our controlling terminal.
pub fn session_of(terminal: Fd) -> Option<Pid> {
    let mut session: c_int = 0;
    // SAFETY: the kernel writes an int.
    let asked = unsafe { terminal_call(terminal, libc::TIOCGSID, &raw mut session as usize) };
    asked.is_ok().then_some(Pid(session))
}

/// Gives the controlling terminal up. Its foreground group gets HUP and CONT.
pub fn release_terminal(terminal: Fd) {
    // SAFETY: this request takes no memory.
    let _ = unsafe { terminal_call(terminal, libc::TIOCNOTTY, 0) };
}

/// Makes it our controlling terminal, with us in the foreground.
pub fn take_terminal(terminal: Fd) {
    // SAFETY: this request takes a number.
    let _ = unsafe { terminal_call(terminal, libc::TIOCSCTTY, 0) };
}

/// Puts another group in the foreground of the terminal on standard input, where ours is there.
pub fn pass_terminal(group: Pid) {
    let mut current: c_int = 0;
    // SAFETY: the kernel writes an int.
    let _ = unsafe { terminal_call(STDIN, libc::TIOCGPGRP, &raw mut current as usize) };
    if Pid(current) == group_of(Pid(0)) {
        // SAFETY: the kernel reads an int.
        let _ = unsafe { terminal_call(STDIN, libc::TIOCSPGRP, &raw const group.0 as usize) };
    }
}

/// # Safety
/// `argument` is what ioctl_tty(2) says for the request.
unsafe fn terminal_call(terminal: Fd, request: libc::Ioctl, argument: usize) -> Result<u32, Errno> {
    // SAFETY: as the caller promises.
    unsafe {
        call(
            libc::SYS_ioctl,
            [terminal.0 as usize, request as usize, argument],
        )
    }
}
