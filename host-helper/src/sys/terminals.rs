//! Terminals: new ones, and whose they are.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::Result;
use super::descriptors::own;

/// Makes a new pseudo-terminal of the devpts that `ptmx` is in; gives its number and the user's side.
pub fn open_terminal_peer(ptmx: BorrowedFd) -> Result<(u32, OwnedFd)> {
    let unlock: libc::c_int = 0;
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCSPTLCK reads an int, TIOCGPTN stores an unsigned int, TIOCGPTPEER takes open flags (ioctl_tty(2)).
    unsafe {
        Errno::result(libc::ioctl(
            ptmx.as_raw_fd(),
            libc::TIOCSPTLCK as _,
            &raw const unlock,
        ))?;
        Errno::result(libc::ioctl(
            ptmx.as_raw_fd(),
            libc::TIOCGPTN as _,
            &raw mut number,
        ))?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let peer = own(libc::c_long::from(libc::ioctl(
            ptmx.as_raw_fd(),
            libc::TIOCGPTPEER as _,
            flags,
        )))?;
        Ok((number, peer))
    }
}

/// Makes `terminal` the controlling terminal of this session (`TIOCSCTTY`, stealing nothing).
pub fn set_controlling_terminal(terminal: BorrowedFd) -> Result<()> {
    // SAFETY: an integer argument.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) }).map(drop)
}

/// The device number of a terminal, by whichever name it was opened; of the host's side, that of its other side.
pub fn terminal_device(terminal: BorrowedFd) -> Result<u32> {
    let mut device: libc::c_uint = 0;
    // SAFETY: TIOCGDEV stores an unsigned int (tty_ioctl()).
    Errno::result(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGDEV as _, &raw mut device)
    })?;
    Ok(device)
}

/// Copies the window size of terminal `from` to terminal `to`.
pub fn copy_window_size(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    // SAFETY: winsize is plain integers that TIOCGWINSZ fills and TIOCSWINSZ reads.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        Errno::result(libc::ioctl(
            from.as_raw_fd(),
            libc::TIOCGWINSZ as _,
            &raw mut size,
        ))?;
        Errno::result(libc::ioctl(
            to.as_raw_fd(),
            libc::TIOCSWINSZ as _,
            &raw const size,
        ))
        .map(drop)
    }
}
