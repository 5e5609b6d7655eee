//! Signals to the container: those that come to the supervisor, what is typed, and the end of patience.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::errno::Errno;
use nix::poll::poll;
use nix::unistd::Pid;

use super::Supervisor;
use super::held::wake_holders;
use crate::signals::ENDING;
use crate::sys;

/// When a kill that was refused is tried once more.
const AGAIN: Duration = Duration::from_secs(1);
/// When one that was killed and has not ended is held by somebody. A busy machine may take a while.
const HELD: Duration = Duration::from_secs(3);

/// How often a PID 1 that runs is looked at, and how long it has in between to come to its next wait: its turn, on a busy machine.
const LOOKS: usize = 50;
const BETWEEN_LOOKS: u8 = 1; // ms

/// Whether a PID 1 would notice a signal.
enum Seen {
    /// It is at rest, or would at any time.
    Sure(bool),
    /// As it looks in the middle of something. Who waits with sigwait(3) has what it waits for neither blocked nor handled meanwhile, until
    /// it has been woken and has run; a fork of musl's blocks all for a moment.
    Unsure(bool),
    /// It neither handles, nor ignores, nor blocks it, and it is not told whether it waits for it.
    Untold,
}

/// By two reads, between which it may have gone on: so its system call is read once more behind them.
fn look(pid: Pid, signal: i32) -> Seen {
    let call = || fs::read_to_string(format!("/proc/{pid}/syscall"));
    let before = call();
    // Without sys_ptrace that of another user, and with Yama's strictest scope any.
    let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let is_untold = before.as_ref().is_err_and(is_refused);
    let before = before.unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bit = 1u64 << (signal - 1);
    let has = |field: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & bit != 0)
    };
    let after = call().unwrap_or_default();
    // init and tini do.
    let sigwait = format!("{} ", libc::SYS_rt_sigtimedwait);
    let is_awaited = [&before, &after]
        .iter()
        .any(|call| call.starts_with(&sigwait));
    if is_awaited || has("SigCgt:") || has("SigIgn:") {
        return Seen::Sure(true);
    }
    let is_blocked = has("SigBlk:");
    if is_untold && !is_blocked {
        return Seen::Untold;
    }
    // proc(5): "running"; not to be read, it says nothing.
    if before != after || before.starts_with("running") {
        Seen::Unsure(is_blocked)
    } else {
        Seen::Sure(is_blocked)
    }
}

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
        if self.interrupts > 1 || self.notices(signal) == Some(false) {
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
        let Some(signal) = typed else {
            return;
        };
        // What it does have a handler for, the container's terminal has sent it.
        let notices = self.notices(signal);
        self.interrupts += u32::from(notices.is_none());
        if notices == Some(false) || notices.is_none() && self.interrupts > 1 {
            self.killed_for = Some(128 + signal as u8);
            self.kill();
        }
    }

    /// Whether PID 1 of the container has a handler for the signal, ignores it on purpose, or waits for it. The kernel
    /// does not deliver it otherwise, and the container would never end (kill(2), pid_namespaces(7)). `None`: it is not told.
    fn notices(&self, signal: i32) -> Option<bool> {
        // Our own init takes every signal, once its command runs.
        let is_init = !self.margin.is_zero() && !self.is_status_open;
        if self.container.lease.is_none() || is_init {
            // Or not a PID 1.
            return Some(true);
        }
        let mut seen = Seen::Sure(false);
        for _ in 0..LOOKS {
            seen = look(self.container.child.pid, signal);
            match seen {
                Seen::Sure(notices) => return Some(notices),
                Seen::Unsure(_) => drop(poll(&mut [], BETWEEN_LOOKS)),
                Seen::Untold => return None,
            }
        }
        Some(matches!(seen, Seen::Unsure(true)))
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
