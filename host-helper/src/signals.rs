//! Signals as a descriptor: nothing interrupts a step, and whoever waits sees them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;

use crate::deadline;
use crate::error::{Doing, Error, Result};
use crate::sys;

/// What is not forwarded: signals of our own faults, those that the terminal stops a job with (they stop us as they
/// would any program), SIGCHLD (a pidfd tells more), SIGPIPE (std ignores it) and SIGXFSZ ([`sys::choose_signals`]
/// does). Everything else is, real-time signals too.
const OUR_OWN: [Signal; 13] = [
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGXFSZ,
];

/// Ask a program to end; a program that is PID 1 does not notice unless it has asked for them.
pub const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// The last signal (`_NSIG` of <asm-generic/signal.h>): a set has one bit for each.
const LAST: i32 = u64::BITS as i32;

/// Bytes of a `struct signalfd_siginfo`; its number comes first (signalfd(2)).
const INFORMATION: usize = 128;

/// The signals that this process does not get otherwise any more.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks them: from here on they wait here.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn block() -> Result<Signals> {
        let set = Signals::mask()?;
        let fd = sys::signal_descriptor(set).doing(|| "open a descriptor for signals".into())?;
        Ok(Signals(fd))
    }

    /// With SIGTERM, where our caller ignores it: for a process that its parent ends by that.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn with_term(self) -> Result<Signals> {
        if !sys::is_ignored(libc::SIGTERM) {
            return Ok(self);
        }
        sys::heed(libc::SIGTERM);
        Signals::block()
    }

    /// Blocks them, and nobody hears of them: for a child, which a [`Signals::block`] before its clone would have done it for.
    /// Gives them, one bit each.
    ///
    /// # Errors
    /// None that sigprocmask(2) knows.
    pub fn mask() -> Result<u64> {
        let mut set = !0;
        // What our caller ignores (nohup) is ignored: blocked, it would be kept for us.
        let ignored = (1..=LAST).filter(|number| sys::is_ignored(*number));
        for number in OUR_OWN
            .map(|signal| signal as i32)
            .into_iter()
            .chain(ignored)
        {
            set &= !(1 << (number - 1));
        }
        sys::block_signals(set).doing(|| "block signals".into())?;
        Ok(set)
    }

    /// The next one that waits.
    pub fn next(&self) -> Option<i32> {
        let mut found = [0; INFORMATION];
        nix::unistd::read(&self.0, &mut found).ok()?;
        let [a, b, c, d, ..] = found;
        Some(i32::from_ne_bytes([a, b, c, d]))
    }

    /// Looks whether a signal has asked to end meanwhile, or the time is over.
    ///
    /// # Errors
    /// It has: exit code 128 + n. It is.
    pub fn check(&self) -> Result<()> {
        while let Some(signal) = self.next() {
            if ENDING.contains(&signal) {
                let code = 128 + signal as u8;
                return Err(Error::new(format!(
                    "finish what was begun: interrupted by {}",
                    name(signal)
                ))
                .with_code(code));
            }
        }
        deadline::check()
    }

    /// Waits until `fd` can be read.
    ///
    /// # Errors
    /// A signal that asks to end came first: exit code 128 + n; or the deadline.
    pub fn interrupt_unless_readable(&self, fd: impl AsFd) -> Result<()> {
        self.interrupt_unless_any([fd.as_fd()]).map(drop)
    }

    /// Waits until one of `fds` can be read, and tells which can.
    ///
    /// # Errors
    /// As [`Signals::interrupt_unless_readable`].
    pub fn interrupt_unless_any<const N: usize>(&self, fds: [BorrowedFd; N]) -> Result<[bool; N]> {
        loop {
            let others = fds.into_iter();
            let mut polled: Vec<PollFd> = [self.as_fd()]
                .into_iter()
                .chain(others)
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match poll(&mut polled, deadline::poll_timeout()) {
                Err(Errno::EINTR) => continue,
                polled => polled.doing(|| "wait for init".into())?,
            };
            // First: who is told to end may have ended, and a command that runs gets the signal itself.
            let ready = std::array::from_fn(|at| polled[at + 1].any().unwrap_or(false));
            if ready.contains(&true) {
                return Ok(ready);
            }
            self.check()?;
        }
    }
}

fn name(signal: i32) -> &'static str {
    Signal::try_from(signal).map_or("a signal", Signal::as_str)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
