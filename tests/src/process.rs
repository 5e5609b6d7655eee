//! Processes with deadlines: what they print, how they end. Waiting is by poll on descriptors.

use std::fmt;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::sys;

/// Long enough for anything a test starts, on an emulated processor too; short enough to fail before a human gives up.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How a process ended and what it said.
pub struct Outcome {
    /// The exit code; minus the signal's number when a signal ended the process itself.
    pub code: i32,
    /// Standard output, whole.
    pub stdout: Vec<u8>,
    /// Standard error, whole.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub elapsed: Duration,
}

impl Outcome {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Panics with the whole outcome unless the code is `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code: {self}");
        self
    }

    /// Exit code 0 and nothing on stderr; gives stdout without the last newline.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.code == 0 && self.stderr.is_empty(),
            "wanted exit 0 and a silent stderr: {self}"
        );
        self.out().trim_end_matches('\n').to_owned()
    }

    /// What every refusal must be: exit 125, nothing on stdout, one line on stderr that starts with the program's name
    /// and holds each of `words`.
    #[track_caller]
    pub fn refused(self, words: &[&str]) {
        assert_eq!(self.code, 125, "wanted a refusal: {self}");
        assert!(
            self.stdout.is_empty(),
            "a refusal prints nothing on stdout: {self}"
        );
        let text = self.err();
        assert!(
            text.starts_with("host-helper: ") || text.starts_with("init: "),
            "the line starts with the program's name: {self}"
        );
        assert!(
            text.ends_with('\n') && text.lines().count() == 1,
            "a refusal is one line: {self}"
        );
        assert!(!text.trim_end().ends_with('.'), "no full stop: {self}");
        for word in words {
            assert!(text.contains(word), "the line should name {word:?}: {self}");
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { code, elapsed, .. } = self;
        write!(
            f,
            "code {code} after {elapsed:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.out(),
            self.err()
        )
    }
}

/// Runs `command` to its end, and until both of its outputs are closed. Panics after `deadline`, with what was said.
pub fn collect(mut command: Command, deadline: Duration) -> Outcome {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::spawn(command).end_within(deadline)
}

/// A started process with its three pipes. Dropping it kills it.
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    /// Its standard input, when that is a pipe; drop it to send an end of file.
    pub stdin: Option<ChildStdin>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    started: Instant,
    status: Option<ExitStatus>,
}

impl Running {
    /// A process in namespaces of its own (`-n`, `-m`...), which is up, and does `script`; `exec cat` ends with its input.
    pub fn unshared(kinds: &[&str], script: &str) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(kinds)
            .args(["sh", "-c", &format!("echo up; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut running = Self::spawn(command);
        running.until("up");
        running
    }

    /// Starts `command` with stdout and stderr as they were set.
    pub fn spawn(mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let pid = i32::try_from(child.id()).expect("a process id");
        let pidfd = sys::pidfd(pid).expect("pidfd of our own child");
        let stdin = child.stdin.take();
        Self {
            child,
            pidfd,
            stdin,
            stdout: Vec::new(),
            stderr: Vec::new(),
            started,
            status: None,
        }
    }

    /// The same with a pipe at each of its three standard descriptors.
    pub fn piped(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::spawn(command)
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        sys::pidfd_signal(&self.pidfd, signal).expect("signal our own child");
    }

    /// Reads stdout until it holds `word`; gives all that was read since the last call.
    #[track_caller]
    pub fn until(&mut self, word: &str) -> String {
        self.until_within(word, DEADLINE)
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub fn until_within(&mut self, word: &str, deadline: Duration) -> String {
        let end = Instant::now() + deadline;
        loop {
            let text = String::from_utf8_lossy(&self.stdout).into_owned();
            if let Some(at) = text.find(word) {
                let rest = text[at + word.len()..].to_owned().into_bytes();
                let line = rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(rest.len(), |newline| newline + 1);
                self.stdout = rest[line..].to_vec();
                return text;
            }
            assert!(
                self.pump(end),
                "waited for {word:?} on stdout of {}: {text}",
                self.describe()
            );
        }
    }

    /// The next line of stdout, without its newline.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.stdout.iter().position(|byte| *byte == b'\n') {
                let rest = self.stdout.split_off(at + 1);
                let line = std::mem::replace(&mut self.stdout, rest);
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            assert!(
                self.pump(end),
                "waited for a line on stdout of {}",
                self.describe()
            );
        }
    }

    /// The next lines of stdout, sorted: for what several processes say.
    #[track_caller]
    pub fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines: Vec<_> = (0..count).map(|_| self.line()).collect();
        lines.sort();
        lines
    }

    /// Waits until it is stopped; gives the signal that did it.
    #[track_caller]
    pub fn wait_for_stop(&self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        let flags = WaitPidFlag::WSTOPPED;
        match waitid(Id::Pid(pid), flags).expect("wait for our own child") {
            WaitStatus::Stopped(_, signal) => signal as i32,
            other => panic!("not stopped: {other:?}"),
        }
    }

    /// Whether it has ended, its outputs aside.
    pub fn has_ended(&self) -> bool {
        is_readable(self.pidfd.as_fd())
    }

    /// Waits until it has ended, or cannot until another lets go of a lock.
    #[track_caller]
    pub fn ends_or_waits_for_a_lock(&self) {
        wait_untold("it ends or waits", || {
            self.has_ended() || self.waits_for_a_lock()
        });
    }

    /// Whether it cannot go on until another lets go of a lock.
    pub fn waits_for_a_lock(&self) -> bool {
        let all = std::fs::read_to_string("/proc/locks").expect("the locks");
        let waiting = all.lines().filter(|line| line.contains("->"));
        let mut ids =
            waiting.filter_map(|line| line.split_whitespace().nth(5)?.parse::<i32>().ok());
        ids.any(|id| id == self.pid() || children(self.pid()).contains(&id))
    }

    /// Waits until it has printed "up", or has ended.
    #[track_caller]
    pub fn up_or_end(mut self) -> Result<Self, Outcome> {
        let end = Instant::now() + DEADLINE;
        while !String::from_utf8_lossy(&self.stdout).contains("up") {
            if self.is_over() {
                return Err(self.end());
            }
            assert!(self.pump(end), "neither up nor over: {}", self.describe());
        }
        Ok(self)
    }

    /// Reads stderr until it holds `word`.
    #[track_caller]
    pub fn until_stderr(&mut self, word: &str) {
        let end = Instant::now() + DEADLINE;
        while !String::from_utf8_lossy(&self.stderr).contains(word) {
            assert!(
                self.pump(end),
                "waited for {word:?} on stderr of {}",
                self.describe()
            );
        }
    }

    /// Writes to its standard input.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is a pipe");
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .expect("write to the command");
    }

    /// Closes stdin and waits for the end and the last byte of both outputs.
    #[track_caller]
    pub fn end(self) -> Outcome {
        self.end_within(DEADLINE)
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub fn end_within(mut self, deadline: Duration) -> Outcome {
        self.stdin = None;
        let end = Instant::now() + deadline;
        while self.pump(end) {}
        assert!(
            self.is_over(),
            "no end within {deadline:?}: {}",
            self.describe()
        );
        let status = self.reap();
        let code = status
            .code()
            .unwrap_or_else(|| -status.signal().expect("a code or a signal"));
        let (stdout, stderr) = (
            std::mem::take(&mut self.stdout),
            std::mem::take(&mut self.stderr),
        );
        Outcome {
            code,
            stdout,
            stderr,
            elapsed: self.started.elapsed(),
        }
    }

    /// Whether the process ended and closed its outputs.
    fn is_over(&mut self) -> bool {
        self.child.stdout.is_none()
            && self.child.stderr.is_none()
            && is_readable(self.pidfd.as_fd())
    }

    fn describe(&self) -> String {
        let (out, err) = (
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr),
        );
        format!(
            "pid {}, so far stdout {out:?} stderr {err:?}",
            self.child.id()
        )
    }

    /// Waits for one event. False at the deadline, and when there is nothing left to wait for.
    fn pump(&mut self, end: Instant) -> bool {
        if self.is_over() {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        let (out, err) = (self.child.stdout.as_ref(), self.child.stderr.as_ref());
        let mut fds = vec![];
        fds.extend(out.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(err.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        if fds.is_empty() {
            fds.push(PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).unwrap_or(0) == 0 {
            return false;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter();
        if self.child.stdout.is_some() && ready.next() == Some(true) {
            read_some(&mut self.child.stdout, &mut self.stdout);
        }
        if self.child.stderr.is_some() && ready.next() == Some(true) {
            read_some(&mut self.child.stderr, &mut self.stderr);
        }
        true
    }

    fn reap(&mut self) -> ExitStatus {
        *self
            .status
            .get_or_insert_with(|| self.child.wait().expect("wait for our own child"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = sys::pidfd_signal(&self.pidfd, libc::SIGKILL);
            self.reap();
        }
    }
}

fn read_some<R: Read>(pipe: &mut Option<R>, into: &mut Vec<u8>) {
    let mut buffer = [0; 65536];
    match pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(&mut buffer)) {
        Ok(0) | Err(_) => *pipe = None,
        Ok(length) => into.extend_from_slice(&buffer[..length]),
    }
}

fn is_readable(fd: BorrowedFd) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap_or(0) > 0
}

/// Waits for what nobody is told of.
#[track_caller]
pub fn wait_untold(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not after {DEADLINE:?}");
        std::thread::yield_now();
    }
}

/// What is mounted where process `pid`, or a thread as `/proc` names it, is.
pub fn mounts_of(pid: impl std::fmt::Display) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts")
}

/// How often process `pid` has gone to sleep: each time something had woken it.
pub fn turns(pid: impl std::fmt::Display) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read status");
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count
        .and_then(|count| count.trim().parse().ok())
        .expect("a count")
}

/// The processes that process `pid`, of one thread, is the parent of.
pub fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let numbers = std::fs::read_to_string(path).unwrap_or_default();
    let numbers = numbers.split_whitespace();
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The one process that process `pid` is the parent of.
#[track_caller]
pub fn child(pid: i32) -> i32 {
    let all = children(pid);
    assert_eq!(all.len(), 1, "children of process {pid}: {all:?}");
    all[0]
}

/// Waits until process `pid`, whoever's it is, has ended.
#[track_caller]
pub fn wait_for_end(pid: i32) {
    let Ok(fd) = sys::pidfd(pid) else { return };
    let timeout = PollTimeout::try_from(DEADLINE).unwrap_or(PollTimeout::MAX);
    let ready = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap_or(0);
    assert!(ready > 0, "process {pid} is still there after {DEADLINE:?}");
}

/// The parent of a process.
pub fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .expect("its parent");
    line.trim().parse().expect("a process id")
}
