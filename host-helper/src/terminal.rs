//! A terminal for the command: a pseudo-terminal of the container's own, joined to the user's.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use nix::unistd::{
    Gid, Pid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, getpgrp, getsid, tcgetpgrp,
};

use crate::error::{Doing, Refusal, Result};
use crate::owner::fields_from_third;
use crate::rootfs;
use crate::signals::{ENDING, Signals};
use crate::steps::warn;
use crate::sys;

/// What is read at a time.
const CHUNK: usize = 4096;
/// More than a pseudo-terminal holds on its way to the host's side: some 16 KiB (8 KiB, `pty_common_install()`, which the last write may
/// pass, and the 4 KiB that the other side reads from, `N_TTY_BUF_SIZE`).
const HELD: usize = 64 << 10;
/// After which it is looked whether we have the user's terminal now. No shell has to tell: bash's `fg` sends no CONT to a job that runs.
const LOOK: Duration = Duration::from_millis(250);

/// Lets this process read from one descriptor, and write to another.
///
/// # Errors
/// As dup2(2).
pub fn become_standard(input: impl AsFd, output: impl AsFd) -> nix::Result<()> {
    sys::again(|| dup2_stdin(&input))?;
    sys::again(|| dup2_stdout(&output))?;
    sys::again(|| dup2_stderr(&output))
}

/// Sends descriptors to the process at the other end of a socket.
///
/// # Errors
/// As sendmsg(2).
pub fn send_descriptors(to: &UnixStream, fds: &[RawFd]) -> nix::Result<()> {
    let message = [ControlMessage::ScmRights(fds)];
    let (slices, flags) = ([IoSlice::new(b"t")], MsgFlags::MSG_NOSIGNAL);
    sys::again(|| sendmsg::<()>(to.as_raw_fd(), &slices, &message, flags, None).map(drop))
}

/// In the first process of a container: `/dev/console` is its terminal too.
///
/// # Errors
/// The step that failed.
pub fn bind_console(dev: &OwnedFd, number: u32) -> nix::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_CLOEXEC;
    let place = openat(dev, "console", flags, Mode::from_bits_truncate(0o600))?;
    let path = std::ffi::CString::new(format!("pts/{number}")).unwrap_or_default();
    sys::attach_tree(sys::clone_tree(dev, &path, false)?, place)
}

/// Waits for descriptors, as many at most as are handed over of a view. None: the other end is closed.
///
/// # Errors
/// As recvmsg(2); EMFILE when there is no room for them.
pub fn receive_descriptors(from: &UnixStream) -> nix::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; rootfs::OWN + 2]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            // The other end was closed with something unread in it.
            Err(Errno::ECONNRESET) => return Ok(Vec::new()),
            received => break received?,
        }
    };
    if message.bytes > 0 && message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMFILE);
    }
    let control = message.cmsgs().into_iter().flatten();
    let fds = control.flat_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds,
        _ => Vec::new(),
    });
    Ok(fds.map(sys::adopt).collect())
}

/// Both sides of a container's terminal.
pub struct Sides {
    host_side: OwnedFd,
    container_side: OwnedFd,
}

impl Sides {
    /// In the child: makes a terminal of the container's devpts all three standard descriptors. `dev` is the container's `/dev`. Gives the
    /// terminal's number too.
    ///
    /// # Errors
    /// The step that failed.
    pub fn open(dev: &OwnedFd, user: u32) -> Result<(Sides, u32)> {
        let doing = || "open a terminal".to_string();
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let host_side = openat(dev, "pts/ptmx", flags, Mode::empty()).doing(doing)?;
        let (number, container_side) = sys::open_terminal_peer(host_side.as_fd()).doing(doing)?;
        fchown(&container_side, Some(Uid::from_raw(user)), None::<Gid>).doing(doing)?;
        // First: a program may ask at once, and the user's is at hand no longer.
        take_size_over(host_side.as_fd());
        become_standard(&container_side, &container_side).doing(doing)?;
        let sides = Sides {
            host_side,
            container_side,
        };
        Ok((sides, number))
    }

    /// In the child, in a session of its own: makes it the session's terminal, and sends both sides over `to_host`.
    ///
    /// # Errors
    /// The step that failed.
    pub fn hand_over(self, to_host: &UnixStream) -> Result<()> {
        let doing = || "open a terminal".to_string();
        sys::set_controlling_terminal(self.container_side.as_fd()).doing(doing)?;
        let both = [&self.host_side, &self.container_side].map(AsRawFd::as_raw_fd);
        send_descriptors(to_host, &both).doing(doing)
    }

    /// What [`receive_descriptors`] gave; `None`: the child ended before it had one.
    pub fn from(received: Vec<OwnedFd>) -> Option<Sides> {
        let mut received = received.into_iter();
        Some(Sides {
            host_side: received.next()?,
            container_side: received.next()?,
        })
    }
}

/// The host's side of a container's terminal, and the user's own when there is one.
pub struct Terminal {
    host_side: File,
    /// Held open: else the host's side is hung up, and readable for ever, once nobody inside has it open.
    _container_side: OwnedFd,
    saved: Option<Termios>,
    output: Output,
    to_user: Vec<u8>,
    is_user_gone: bool,
    /// Another job has the user's terminal (`run … &` at a prompt): when that is looked at again. Whoever changes or reads it meanwhile is
    /// stopped (`tty_check_change()`, `job_control()`), and what is typed is not for us.
    behind_until: Option<Instant>,
    /// Nothing more comes from the user.
    is_input_over: bool,
    /// The last line that came from the user has no end yet.
    is_line_open: bool,
    to_container: VecDeque<u8>,
}

/// Where the container's output goes.
pub enum Output {
    /// To the user: by what [`reopen_standard`] gave, or by standard output as it is.
    Standard(Option<OwnedFd>),
    /// To the log of a container that runs by itself, which is not there before the container has started.
    Log(Option<File>),
}

impl Terminal {
    /// Joins the two: what the user types goes in unchanged, until this is dropped.
    ///
    /// # Errors
    /// What the user's terminal refuses.
    pub fn join(sides: Sides, output: Output) -> Result<Terminal> {
        let Sides {
            host_side,
            container_side,
        } = sides;
        let doing = || "join the terminal".to_string();
        nix::fcntl::fcntl(&host_side, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .doing(doing)?;
        let is_input_over = matches!(output, Output::Log(_));
        let mut joined = Terminal {
            host_side: host_side.into(),
            _container_side: container_side,
            saved: None,
            output,
            to_user: Vec::new(),
            is_user_gone: false,
            behind_until: None,
            is_input_over,
            is_line_open: false,
            to_container: VecDeque::new(),
        };
        if !is_input_over {
            joined.resize();
            joined.make_raw();
        }
        Ok(joined)
    }

    /// Makes the user's terminal hand everything on (again, after somebody else had it), when it is ours.
    pub fn make_raw(&mut self) {
        let user = user_side();
        self.behind_until = None;
        // No terminal: a pipe needs no changing, and one that was hung up meanwhile is at its end.
        let Ok(now) = tcgetattr(user) else { return };
        if is_behind() && !is_of_sudo() {
            self.behind_until = Some(Instant::now() + LOOK);
            return;
        }
        let mut raw = now.clone();
        cfmakeraw(&mut raw);
        if tcsetattr(user, SetArg::TCSANOW, &raw).is_ok() && self.saved.is_none() {
            self.saved = Some(now);
        }
    }

    /// The container's terminal gets the size of the user's.
    pub fn resize(&self) {
        take_size_over(self.host_side.as_fd());
    }

    /// Whether another job has the user's terminal, and when to [`Terminal::look_again`].
    pub fn behind_until(&self) -> Option<Instant> {
        self.behind_until
    }

    /// Takes the user's terminal when the other job has it no longer.
    pub fn look_again(&mut self) {
        if self.behind_until.is_some_and(|due| due <= Instant::now()) {
            self.make_raw();
            self.resize();
        }
    }

    /// The descriptor that the container's output comes from.
    pub fn host_side(&self) -> BorrowedFd<'_> {
        self.host_side.as_fd()
    }

    /// Whether there is something to write to the container, which did not take it yet.
    pub fn is_pending(&self) -> bool {
        !self.to_container.is_empty()
    }

    /// Whether the user's input is to be read now.
    pub fn wants_input(&self) -> bool {
        !self.is_input_over && !self.is_pending() && self.behind_until.is_none()
    }

    /// Reads what the user has typed. The end of it is what Ctrl-D is to the container.
    ///
    /// Gives the signal that the container's terminal makes of it for process `first`, when that one is in front: the
    /// kernel discards it if PID 1 has no handler.
    pub fn read_input(&mut self, first: Pid) -> Option<i32> {
        // It was ready before CONT has told that it is another's.
        if self.behind_until.is_some() {
            return None;
        }
        let mut signal = None;
        let mut chunk = [0; CHUNK];
        match nix::unistd::read(user_side(), &mut chunk) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(0) | Err(_) => {
                self.is_input_over = true;
                if let Ok(settings) = tcgetattr(&self.host_side) {
                    let end = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
                    // Behind a line without an end the first one is only that end.
                    let has_lines = settings.local_flags.contains(LocalFlags::ICANON);
                    let times = 1 + usize::from(self.is_line_open && has_lines);
                    self.to_container.extend(std::iter::repeat_n(end, times));
                }
            }
            Ok(len) => {
                signal = self.signal_of(&chunk[..len], first);
                self.is_line_open = !matches!(chunk[len - 1], b'\n' | b'\r');
                self.to_container.extend(&chunk[..len]);
            }
        }
        self.write_pending();
        signal
    }

    fn signal_of(&self, typed: &[u8], first: Pid) -> Option<i32> {
        let settings = tcgetattr(&self.host_side).ok()?;
        if !settings.local_flags.contains(LocalFlags::ISIG)
            || tcgetpgrp(&self.host_side) != Ok(first)
        {
            return None;
        }
        let is_typed =
            |key: SpecialCharacterIndices| typed.contains(&settings.control_chars[key as usize]);
        if is_typed(SpecialCharacterIndices::VINTR) {
            Some(libc::SIGINT)
        } else {
            is_typed(SpecialCharacterIndices::VQUIT).then_some(libc::SIGQUIT)
        }
    }

    /// Writes what the container takes now.
    pub fn write_pending(&mut self) {
        while !self.to_container.is_empty() {
            let (first, _) = self.to_container.as_slices();
            match self.host_side.write(first) {
                Ok(len) => drop(self.to_container.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody has the other side open any more.
                Err(_) => self.to_container.clear(),
            }
        }
    }

    /// Whether something of the container's waits for the user to take it: nothing more is read meanwhile.
    pub fn is_stalled(&self) -> bool {
        !self.to_user.is_empty()
    }

    /// The output goes to a file, which takes it at any time.
    pub fn is_to_log(&self) -> bool {
        matches!(self.output, Output::Log(_))
    }

    /// There is the file that the output goes to.
    pub fn log_to(&mut self, file: File) {
        self.output = Output::Log(Some(file));
    }

    /// Takes a part of what the container has written, for [`Terminal::write_output`]. False: there is nothing now.
    ///
    /// A part only: who writes without a pause must not keep us from everything else.
    pub fn read_output(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        match self.host_side.read(&mut chunk) {
            Ok(len) => {
                self.to_user.extend(&chunk[..len]);
                len > 0
            }
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }

    /// Hands on what was read, as much as is taken now. A user who is gone cannot be told; one whose file is full is.
    pub fn write_output(&mut self) {
        let written = match &mut self.output {
            Output::Standard(Some(own)) => nix::unistd::write(own, &self.to_user),
            Output::Standard(None) => nix::unistd::write(io::stdout(), &self.to_user),
            Output::Log(Some(file)) => nix::unistd::write(file, &self.to_user),
            // What has not started leaves no log.
            Output::Log(None) => Ok(self.to_user.len()),
        };
        match written {
            Ok(len) => drop(self.to_user.drain(..len)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(refusal) => {
                let is_gone = matches!(refusal, Errno::EPIPE | Errno::EIO);
                if !is_gone && !self.is_to_log() && !self.is_user_gone {
                    let refusal = Refusal::from(refusal);
                    warn(&format!(
                        "write the command's output to standard output: {refusal}; its terminal is hung up"
                    ));
                }
                self.to_user.clear();
                self.is_user_gone = true;
            }
        }
    }

    /// Hands on all that is left, when the command is dead; waits for a user who is slow, until a signal asks us to end. After `exec` others
    /// inside may still have the terminal open and write to it: what is read is what the terminal may hold of the command's, and no more.
    pub fn drain(&mut self, signals: &Signals) {
        let mut left = HELD;
        loop {
            if !self.is_stalled() {
                if left == 0 || !self.read_output() {
                    return;
                }
                left = left.saturating_sub(self.to_user.len());
            }
            let mut fds = [
                PollFd::new(sys::inherited(1), PollFlags::POLLOUT),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            if !self.is_to_log() {
                let _ = poll(&mut fds, PollTimeout::NONE);
                if signals
                    .next()
                    .is_some_and(|signal| ENDING.contains(&signal))
                {
                    return;
                }
                if !fds[0].any().unwrap_or(true) {
                    continue;
                }
            }
            self.write_output();
        }
    }

    /// Nobody reads what the container writes any more.
    pub fn is_user_gone(&self) -> bool {
        self.is_user_gone
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Another job's has been set for that one.
        if let Some(saved) = self.saved.as_ref().filter(|_| !is_behind()) {
            let _ = sys::again(|| tcsetattr(user_side(), SetArg::TCSADRAIN, saved));
        }
    }
}

/// The size is that of what the user types at, or where that is none (a pipe), looks at; of neither there is none.
fn take_size_over(to: BorrowedFd) {
    let _ = sys::copy_window_size(user_side(), to)
        .or_else(|_| sys::copy_window_size(sys::inherited(1), to));
}

fn user_side() -> BorrowedFd<'static> {
    sys::inherited(0)
}

/// Whether another job has the user's terminal. One that is not our session's (ENOTTY) stops nobody.
fn is_behind() -> bool {
    tcgetpgrp(user_side()).is_ok_and(|front| front != getpgrp())
}

/// Whether sudo has made this terminal (`use_pty`), and our job: it lets that one go to the front when it has stopped for it (TTOU, TTIN;
/// `exec_pty.c`), and at no other time, where sudo itself is in the background or has a pipe.
fn is_of_sudo() -> bool {
    let read = |pid: Pid, file| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let session = getsid(None).unwrap_or_else(|_| getpgrp());
    let job = read(getpgrp(), "stat").unwrap_or_default();
    let parent = fields_from_third(&job)
        .nth(1)
        .and_then(|pid| pid.parse().ok());
    parent == Some(session.as_raw())
        && read(session, "comm").is_ok_and(|name| name.trim_end() == "sudo")
}

/// The terminal that standard output is, opened once more: a write to it never waits, and our caller's own is left as it is.
///
/// A terminal is writable for poll(2) where it has room for one byte, and a write that may wait does so until it has taken all (`n_tty_poll()`,
/// `n_tty_write()`): a user who reads no more would hold up everything else.
pub fn reopen_standard() -> Option<OwnedFd> {
    let device = sys::terminal_device(sys::inherited(1)).ok()?;
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let own = open("/proc/self/fd/1", flags, Mode::empty()).ok()?;
    // By its name the host's side of a terminal, or /dev/tty0, is another one each time.
    (sys::terminal_device(own.as_fd()) == Ok(device)).then_some(own)
}

/// Whether a user sits at all ends: without `-t`, that decides whether the command gets a terminal, which has one output only.
pub fn is_interactive() -> bool {
    use io::IsTerminal;
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}
