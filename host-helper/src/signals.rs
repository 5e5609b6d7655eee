//! Signals as a descriptor: nothing interrupts a step, and whoever waits sees them.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Doing, Error, Result};
use crate::sys;

/// All that can be forwarded. Not: those of our own faults, those that the terminal stops a job with (they stop us as
/// they would any program), SIGCHLD (a pidfd tells more) and SIGPIPE (std ignores it).
const FORWARDED: [Signal; 17] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGURG,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGSTKFLT,
];

/// Ask a program to end; a program that is PID 1 does not notice unless it has asked for them.
pub const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// The signals that this process does not get otherwise any more.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks them: from here on they wait here.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn block() -> Result<Signals> {
        let doing = || "block signals".to_string();
        // What our caller ignores (nohup) is ignored: blocked, it would be kept for us.
        let set: SigSet = FORWARDED
            .into_iter()
            .filter(|signal| !sys::is_ignored(*signal))
            .collect();
        set.thread_block().doing(doing)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .doing(doing)?;
        Ok(Signals(fd))
    }

    /// The next one that waits.
    pub fn next(&self) -> Option<Signal> {
        let found = self.0.read_signal().ok().flatten()?;
        Signal::try_from(found.ssi_signo as i32).ok()
    }

    /// Waits until `fd` can be read.
    ///
    /// # Errors
    /// A signal that asks to end came first: exit code 128 + n.
    pub fn interrupt_unless_readable(&self, fd: impl AsFd) -> Result<()> {
        loop {
            let mut fds = [
                PollFd::new(self.as_fd(), PollFlags::POLLIN),
                PollFd::new(fd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                polled => polled.doing(|| "wait for init".into())?,
            };
            let is_readable = fds[1].any().unwrap_or(false);
            while let Some(signal) = self.next() {
                if ENDING.contains(&signal) {
                    let code = 128 + signal as u8;
                    return Err(
                        Error::new(format!("start the command: interrupted by {signal}"))
                            .with_code(code),
                    );
                }
            }
            if is_readable {
                return Ok(());
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
