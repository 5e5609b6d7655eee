//! `init -s`, as PID 1 of a PID namespace and as an ordinary process. Neither has a terminal.

use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{DEADLINE, Outcome, Running, child, collect};
use crate::{init_binary, sys};

/// A running `init -s`, or the `unshare` above it.
pub struct Supervised {
    running: Running,
    init: i32,
    pidfd: OwnedFd,
}

impl Supervised {
    /// `init -s ARGUMENTS` as an ordinary process, with three pipes.
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(init_binary());
        command.arg("-s").args(arguments);
        prepare(command)
    }

    /// The same as PID 1, with a /proc of its PID namespace.
    pub fn command_as_pid_1(arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["-pf", "--mount-proc", "--kill-child"])
            .arg(init_binary())
            .arg("-s")
            .args(arguments);
        prepare(command)
    }

    /// Both of these.
    pub fn commands(arguments: &[&str]) -> [Command; 2] {
        [Self::command(arguments), Self::command_as_pid_1(arguments)]
    }

    /// Runs it to its end, with nothing to read.
    #[track_caller]
    pub fn run(arguments: &[&str]) -> Outcome {
        let mut command = Self::command(arguments);
        command.stdin(Stdio::null());
        collect(command, DEADLINE)
    }

    /// Starts it, and waits until `count` listeners have said that they are up.
    #[track_caller]
    pub fn start(command: Command, count: usize) -> Self {
        let is_below = command.get_program() == "unshare";
        let mut running = Running::spawn(command);
        for _ in 0..count {
            let line = running.line();
            assert!(line.contains(" up "), "{line}");
        }
        let mut init = running.pid();
        if is_below {
            init = child(init);
        }
        let pidfd = sys::pidfd(init).expect("pidfd of init");
        Self {
            running,
            init,
            pidfd,
        }
    }

    /// The number of init, seen from here.
    pub fn init(&self) -> i32 {
        self.init
    }

    /// Sends init a signal.
    pub fn send(&self, signal: i32) {
        sys::pidfd_signal(&self.pidfd, signal).expect("signal init");
    }

    /// False where the queue of its real-time signals is full.
    pub fn try_send(&self, signal: i32) -> bool {
        sys::pidfd_signal(&self.pidfd, signal).is_ok()
    }

    /// Closes stdin and waits for the end and the last byte of both outputs.
    #[track_caller]
    pub fn end(self) -> Outcome {
        self.running.end()
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub fn end_within(self, deadline: Duration) -> Outcome {
        self.running.end_within(deadline)
    }
}

fn prepare(mut command: Command) -> Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::without_terminal(&mut command);
    command
}

impl Deref for Supervised {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl DerefMut for Supervised {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.running
    }
}
