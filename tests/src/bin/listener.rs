//! A process that says which signals it gets, for tests of who gets which. It blocks all of them, so that none ends,
//! stops or surprises it, and takes them one at a time.
//!
//!     listener [FLAGS]NAME[=CODE] [CHILD...]
//!
//! Each CHILD is started as a listener of that specification. Lines on standard output: `NAME up PID PPID` when it is
//! ready, then `NAME N` for each signal N. TERM ends it with CODE (0). Flags:
//!
//! - `@` it leads a session of its own
//! - `!` TERM does not end it
//! - `%` TERM makes it wait for the end of standard input, and say `NAME done` then
//! - `<` the end of standard input ends it
//! - `^` it stops itself when it is up; its parent says `NAME saw PID up and stopped`

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{getpid, getppid, setsid};

const FLAGS: [char; 5] = ['@', '!', '%', '<', '^'];

#[expect(
    clippy::zombie_processes,
    reason = "reap() waits for whichever has ended"
)]
fn main() -> ExitCode {
    let mut words = std::env::args();
    let program = words.next().expect("a program");
    let specification = words.next().expect("a name");
    let has = |flag: char| specification.contains(flag);
    let (name, code) = specification
        .trim_start_matches(FLAGS)
        .split_once('=')
        .unwrap_or((specification.trim_start_matches(FLAGS), "0"));
    let code = ExitCode::from(code.parse::<u8>().expect("an exit code"));
    if has('@') {
        setsid().expect("a session of its own");
    }
    SigSet::all().thread_block().expect("block signals");
    let signals = SignalFd::new(&SigSet::all()).expect("signals as a descriptor");
    for child in words {
        // There may be no /proc.
        Command::new(&program)
            .arg0(format!("listener {child}"))
            .arg(child)
            .spawn()
            .expect("start a child");
    }
    say(&format!("{name} up {} {}", getpid(), getppid()));
    if has('^') {
        raise(Signal::SIGSTOP).expect("stop");
    }
    let input = std::io::stdin();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if has('<') {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        poll(&mut fds, PollTimeout::NONE).expect("wait for something");
        if fds[0].any() != Some(true) {
            return code;
        }
        let signal = signals.read_signal().expect("a signal").expect("one");
        match signal.ssi_signo as i32 {
            libc::SIGCHLD => reap(name),
            libc::SIGTERM => {
                say(&format!("{name} 15"));
                if has('%') {
                    let _ = input.lock().read_to_end(&mut Vec::new());
                    say(&format!("{name} done"));
                }
                if !has('!') {
                    return code;
                }
            }
            other => say(&format!("{name} {other}")),
        }
    }
}

fn reap(name: &str) {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
    loop {
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(WaitStatus::Stopped(pid, _)) => say(&format!("{name} saw {pid} up and stopped")),
            Ok(_) => {}
        }
    }
}

/// In one write, so that the lines of several stay whole.
fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
