//! Signals to the container: those that come to the supervisor, what is typed, and the end of patience.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Supervisor;
use super::held::wake_holders;
use crate::signals::ENDING;
use crate::sys;

/// When a kill that was refused is tried once more.
const AGAIN: Duration = Duration::from_secs(1);
/// When one that was killed and has not ended is held by somebody. A busy machine may take a while.
const HELD: Duration = Duration::from_secs(3);

impl Supervisor {
    pub(super) fn forward(&mut self, signal: i32) {
        if let Some(terminal) = &mut self.terminal {
            match signal {
                libc::SIGWINCH => return terminal.resize(),
                // Somebody else had our terminal meanwhile.
                libc::SIGCONT => {
                    terminal.make_raw();
                    terminal.resize();
                }
                _ => {}
            }
        }
        if self.ours.is_some() {
            self.is_leaving |= ENDING.contains(&signal);
            return;
        }
        if !ENDING.contains(&signal) {
            self.send(signal);
            return;
        }
        self.interrupts += u32::from(signal == libc::SIGINT);
        if self.interrupts > 1 || !self.notices(signal) {
            self.killed_for = Some(128 + signal as u8);
            return self.kill();
        }
        self.send(signal);
        if signal == libc::SIGTERM && self.kill_at.is_none() {
            self.kill_after(self.grace);
        }
    }

    pub(super) fn read_input(&mut self) {
        let first = self.container.child.pid;
        let typed = self
            .terminal
            .as_mut()
            .and_then(|terminal| terminal.read_input(first));
        // What it does have a handler for, the container's terminal has sent it.
        if let Some(signal) = typed.filter(|signal| !self.notices(*signal)) {
            self.killed_for = Some(128 + signal as u8);
            self.kill();
        }
    }

    /// Whether PID 1 of the container has a handler for the signal, ignores it on purpose, or waits for it. The kernel
    /// does not deliver it otherwise, and the container would never end (kill(2), pid_namespaces(7)).
    fn notices(&self, signal: i32) -> bool {
        if self.container.lease.is_none() {
            // Not a PID 1.
            return true;
        }
        // Who waits with sigwait(3) has what it waits for neither blocked nor handled meanwhile: init and tini do.
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.container.child.pid))
            .unwrap_or_default();
        let number = call.split(' ').next().unwrap_or_default();
        if number == libc::SYS_rt_sigtimedwait.to_string() {
            return true;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.container.child.pid))
            .unwrap_or_default();
        let bit = 1u64 << (signal - 1);
        ["SigCgt:", "SigIgn:", "SigBlk:"].iter().any(|field| {
            let mask = status.lines().find_map(|line| line.strip_prefix(field));
            mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .is_some_and(|mask| mask & bit != 0)
        })
    }

    /// False: it was refused.
    pub(super) fn send(&self, signal: i32) -> bool {
        let sent = sys::pidfd_send_signal(self.container.child.pidfd.as_fd(), signal);
        // Gone already is what a signal is for.
        matches!(sent, Ok(()) | Err(Errno::ESRCH))
    }

    pub(super) fn kill(&mut self) {
        if self.is_killed {
            wake_holders(self.container.child.pid);
        }
        // Somebody waits for the end.
        self.is_killed = self.send(libc::SIGKILL);
        let again = if self.is_killed { HELD } else { AGAIN };
        self.kill_at = Some(Instant::now() + again);
    }

    /// init, where it stays, ends what is left at the end of a grace of its own. A shorter one it does not know of.
    pub(super) fn kill_after(&mut self, grace: Duration) {
        let of_init = self.grace.saturating_add(self.margin);
        let patience = if grace < self.grace {
            grace
        } else {
            grace.max(of_init)
        };
        self.kill_at = Instant::now().checked_add(patience);
    }
}
