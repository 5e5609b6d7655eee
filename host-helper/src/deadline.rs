//! The moment by which this process must be done, where somebody would kill it else: an OCI runtime gives its hooks a
//! timeout. A process has one, so that whoever waits, however deep, can look at it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::error::{Error, Result};
use crate::sys::{self, Clone};

/// When, and what is said then.
static DEADLINE: OnceLock<(Instant, String)> = OnceLock::new();

/// From now on there is one; the first one stays. `sentence` is the error of who misses it.
pub fn set(at: Instant, sentence: String) {
    let _ = DEADLINE.set((at, sentence));
}

/// What is left; `None`: there is no deadline.
pub fn left() -> Option<Duration> {
    let (at, _) = DEADLINE.get()?;
    Some(at.saturating_duration_since(Instant::now()))
}

/// For poll(2).
pub fn poll_timeout() -> PollTimeout {
    poll_timeout_until(None)
}

/// The same, with an end of its own, where that comes first.
fn poll_timeout_until(end: Option<Instant>) -> PollTimeout {
    let own = end.map(|end| end.saturating_duration_since(Instant::now()));
    let first = own.into_iter().chain(left()).min();
    // A millisecond more: one that has not quite passed would be waited for again and again.
    let left = first.map(|left| PollTimeout::try_from(left + Duration::from_millis(1)));
    left.map_or(PollTimeout::NONE, |left| left.unwrap_or(PollTimeout::MAX))
}

/// # Errors
/// It has passed.
pub fn check() -> Result<()> {
    match DEADLINE.get() {
        Some((at, sentence)) if Instant::now() >= *at => Err(Error::new(sentence.clone())),
        _ => Ok(()),
    }
}

/// A file whose lock (flock(2)) is ours until this is dropped.
pub struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // It never waits, and what it says does not matter: with the last descriptor the lock goes too.
        let _ = sys::flock(&self.0, libc::LOCK_UN);
    }
}

/// Waits for a lock on a file (flock(2)), until the deadline at most.
///
/// # Errors
/// What the kernel says; ETIME: it is too late.
pub fn lock(file: File) -> nix::Result<Locked> {
    if left().is_none() {
        wait_for_lock(&file, libc::LOCK_EX)?;
        return Ok(Locked(file));
    }
    lock_unless(file, Duration::MAX, None)
}

/// The same, but for so long at most, and only until there is something to be read from `unless`.
///
/// # Errors
/// As [`lock`]; EINTR: there is.
pub fn lock_unless(
    file: File,
    within: Duration,
    unless: Option<BorrowedFd>,
) -> nix::Result<Locked> {
    match wait_for_lock(&file, libc::LOCK_EX | libc::LOCK_NB) {
        Err(Errno::EWOULDBLOCK) => {
            let_child_wait(&file, within, unless)?;
            wait_for_lock(&file, libc::LOCK_EX)?;
        }
        locked => locked?,
    }
    Ok(Locked(file))
}

fn wait_for_lock(file: &File, operation: i32) -> nix::Result<()> {
    loop {
        match sys::flock(file, operation) {
            Err(Errno::EINTR) => {}
            locked => return locked,
        }
    }
}

/// flock(2) knows no timeout, but a lock belongs to the open file, which a child shares: it waits in our place, and is
/// killed when we have no more time.
fn let_child_wait(file: &File, within: Duration, unless: Option<BorrowedFd>) -> nix::Result<()> {
    let end = Instant::now().checked_add(within);
    match sys::clone_process(0)? {
        Clone::Child => {
            let waits = || -> nix::Result<()> {
                set_pdeathsig(Signal::SIGKILL)?;
                wait_for_lock(file, libc::LOCK_EX)
            };
            std::process::exit(waits().err().map_or(0, |errno| errno as i32));
        }
        Clone::Parent(_, pidfd) => {
            let fds = [Some(pidfd.as_fd()), unless].into_iter().flatten();
            let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let ready = loop {
                match poll(&mut fds, poll_timeout_until(end)) {
                    Err(Errno::EINTR) => {}
                    polled => break polled?,
                }
            };
            let has_waited = fds[0].any().unwrap_or(false);
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = sys::wait_for_end(&pidfd);
            match ready {
                0 => Err(Errno::ETIME),
                _ if !has_waited => Err(Errno::EINTR),
                _ => Ok(()),
            }
        }
    }
}
