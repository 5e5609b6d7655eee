//! strace as a witness: which system calls a program makes, and what happens when it is interrupted at one of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Running, wait_untold};
use crate::sys;

/// `command` under strace with these options, and with its variables; the trace goes to `file`.
pub fn traced(command: &Command, options: &[&str], file: &str) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-o", file])
        .args(options)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        strace.current_dir(directory);
    }
    strace
}

/// A program that was stopped when it had sent a message, or a child of its when that had become another program.
pub struct Stopped {
    running: Running,
    /// The process that is stopped.
    stopped: i32,
    /// Where it was not started by that.
    _strace: Option<Running>,
    /// False: it has ended without sending that many.
    pub is_stopped: bool,
}

impl Stopped {
    /// Starts `command`, whose first process is stopped behind its `nth` message (sendto(2)), from 1 on.
    #[track_caller]
    pub fn at_message(nth: usize, command: &Command, trace: &Path) -> Self {
        let stop = format!("inject=sendto:signal=SIGSTOP:when={nth}");
        // It is our child, and not strace's.
        let options = ["-D", "-e", "trace=sendto", "-e", &stop];
        let _ = fs::remove_file(trace);
        let running = Running::piped(traced(command, &options, &trace.to_string_lossy()));
        Self::wait(running, None, trace)
    }

    /// Starts `command`, of whose processes that one is stopped which has just become init.
    #[track_caller]
    pub fn at_init(command: &Command, trace: &Path) -> Self {
        Self::at_call("execveat", command, trace)
    }

    /// Starts `command`, of whose processes that one is stopped which has just made its first call of this name.
    #[track_caller]
    pub fn at_call(name: &str, command: &Command, trace: &Path) -> Self {
        let trace_it = format!("trace={name}");
        let stop = format!("inject={name}:signal=SIGSTOP:when=1");
        let options = ["-D", "-f", "-e", &trace_it, "-e", &stop];
        let _ = fs::remove_file(trace);
        let running = Running::piped(traced(command, &options, &trace.to_string_lossy()));
        let mut made = Self::wait(running, None, trace);
        let told = fs::read_to_string(trace).unwrap_or_default();
        let line = told.lines().find(|line| line.contains("stopped by"));
        let pid = line.and_then(|line| line.split(' ').next()?.parse().ok());
        made.stopped = pid.expect("one that is stopped");
        made
    }

    /// Sends a signal to a process that is there already, which is stopped behind its `nth` message from then on.
    #[track_caller]
    pub fn after_signal(signal: i32, nth: usize, running: Running, trace: &Path) -> Self {
        let stop = format!("inject=sendto:signal=SIGSTOP:when={nth}");
        let pid = running.pid().to_string();
        let _ = fs::remove_file(trace);
        let mut strace = Command::new("strace");
        strace.args(["-e", "trace=sendto", "-e", &stop, "-p", &pid, "-o"]);
        strace.arg(trace);
        let mut strace = Running::piped(strace);
        strace.until_stderr("attached");
        running.signal(signal);
        Self::wait(running, Some(strace), trace)
    }

    fn wait(running: Running, strace: Option<Running>, trace: &Path) -> Self {
        // Not by waiting for our child: strace has stopped that once already.
        let is_stopped = || {
            let told = fs::read_to_string(trace).unwrap_or_default();
            told.contains("stopped by SIGSTOP")
        };
        wait_untold("it stops or ends", || is_stopped() || running.has_ended());
        let is_stopped = is_stopped();
        Self {
            stopped: running.pid(),
            running,
            _strace: strace,
            is_stopped,
        }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// It goes on, until this is so, or it has ended, or another has a lock that it needs.
    #[track_caller]
    pub fn go_on_until(&self, is_so: impl Fn() -> bool) {
        self.running.signal(libc::SIGCONT);
        wait_untold("it goes on", || {
            is_so() || self.running.has_ended() || self.running.waits_for_a_lock()
        });
    }

    /// It goes on.
    pub fn go_on(self) -> Running {
        let stopped = sys::pidfd(self.stopped).expect("a process of ours");
        sys::pidfd_signal(&stopped, libc::SIGCONT).expect("let it go on");
        self.running
    }
}

/// What a program wrote or sent: for each call of `name` in a trace with `-e write=...`, its bytes. strace dumps them
/// below the call, sixteen a line, ` | 00000  20 00 .. |`.
pub fn dumps(trace: &str, name: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![];
    let mut wanted = false;
    for line in trace.lines() {
        if let Some(dump) = line.strip_prefix(" | ").filter(|_| wanted) {
            let digits = dump.get(5..).and_then(|rest| rest.get(..51));
            let digits = digits.expect("a line of a dump").split_whitespace();
            let bytes =
                digits.map(|digits| u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
            all.last_mut().expect("a call above its dump").extend(bytes);
        } else if !line.starts_with(" *") {
            wanted = line.contains(name);
            if wanted {
                all.push(vec![]);
            }
        }
    }
    all
}
