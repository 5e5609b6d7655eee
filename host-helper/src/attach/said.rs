//! What init says next, and what it means that it says something else; and the end of a container that is not to be.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::error::{Doing, Error, Result};
use crate::signals::Signals;
use crate::spawn::{Child, Said, StatusReader, kill};
use crate::sys;
use crate::terminal;

/// Waits until init has said what is expected next; anything else is the error that it means. `hears_init`: the user
/// has read what init had to say.
pub fn expect(
    expected: &Said,
    status: &mut StatusReader,
    child: &mut Child,
    hears_init: bool,
) -> Result<()> {
    let said = status.read(&mut child.status)?;
    if matches!(said, Said::InitFailed(..)) {
        // Its end: it says the same on its standard error, and must not be killed before it has.
        while !matches!(status.read(&mut child.status), Ok(Said::Nothing) | Err(_)) {}
    }
    if said == Said::Nothing {
        if let Some(code) = exit_code(child) {
            let mut error = Error::new(format!(
                "start the command: init has ended with exit code {code} before it, and could not say why"
            ));
            error.unsaid = !hears_init;
            return Err(error);
        }
    }
    judge(said, expected, hears_init)
}

/// What the child has made and hands over.
///
/// # Errors
/// Its last words, where it has made nothing, or that it had none; a signal.
pub fn receive_made(
    child: &mut Child,
    status: &mut StatusReader,
    signals: &Signals,
    hears_init: bool,
) -> Result<Vec<OwnedFd>> {
    signals.interrupt_unless_readable(&child.channel)?;
    let made = terminal::receive_descriptors(&child.channel);
    let made = made.doing(|| "take over what was made inside".into())?;
    if made.is_empty() {
        kill(&child.pidfd);
        expect(&Said::Up, status, child, hears_init)?;
    }
    Ok(made)
}

/// The exit code of a child that has closed its status pipe, which it does as it ends; none if it was killed. It has failed
/// before it could write there, and what it had to say is on its standard error alone.
fn exit_code(child: &Child) -> Option<i32> {
    const AT_ONCE: u16 = 1000; // milliseconds
    let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    // One that has not ended then is told apart below.
    let _ = sys::again(|| poll(&mut fds, AT_ONCE));
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    match waitid(Id::PIDFd(child.pidfd.as_fd()), flags) {
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        _ => None,
    }
}

/// The error that it is, when something else is said than what is expected.
///
/// # Errors
/// That.
pub fn judge(said: Said, expected: &Said, hears_init: bool) -> Result<()> {
    match said {
        said if said == *expected => Ok(()),
        Said::Failed(text) => Err(Error::new(text)),
        Said::InitFailed(code, text) => {
            let mut error = Error::new(text).with_code(code);
            error.unsaid = !hears_init;
            Err(error)
        }
        Said::Nothing => Err(Error::new("start the command: init was killed before it")),
        said => Err(Error::new(format!(
            "start the command: init says {said:?} and not {expected:?}"
        ))),
    }
}
