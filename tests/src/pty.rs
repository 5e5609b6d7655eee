//! A terminal with a program on it, driven like a human would.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::{DEADLINE, Outcome, Running};
use crate::sys;

/// Our end of a terminal, and the process on the other end.
pub struct Terminal {
    main: File,
    /// The other end, kept open: a terminal that nobody has open gives an error to its reader.
    _tty: OwnedFd,
    /// The process.
    pub process: Running,
    seen: String,
}

impl Terminal {
    /// Starts `command` with a new terminal of 24 by 80 as stdin, stdout, stderr and controlling terminal.
    pub fn spawn(mut command: Command) -> Self {
        let pair = nix::pty::openpty(None, None).expect("open a terminal");
        // Whoever has this end keeps the other one from being hung up.
        let flags = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        fcntl(&pair.master, flags).expect("close it in the process");
        sys::set_window(pair.slave.as_fd(), 24, 80).expect("size of the terminal");
        let end = || Stdio::from(pair.slave.try_clone().expect("duplicate the terminal"));
        command.stdin(end()).stdout(end()).stderr(end());
        sys::with_terminal(&mut command);
        let process = Running::spawn(command);
        Self {
            main: File::from(pair.master),
            _tty: pair.slave,
            process,
            seen: String::new(),
        }
    }

    /// Types `keys`.
    pub fn keys(&mut self, keys: &str) {
        self.main
            .write_all(keys.as_bytes())
            .expect("type on the terminal");
    }

    /// Reads until the screen has shown `word`; gives everything since the last call, `word` included.
    #[track_caller]
    pub fn until(&mut self, word: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.find(word) {
                let rest = self.seen.split_off(at + word.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()))
                .unwrap_or(PollTimeout::MAX);
            let ready = poll(
                &mut [PollFd::new(self.main.as_fd(), PollFlags::POLLIN)],
                left,
            )
            .unwrap_or(0);
            assert!(
                ready > 0,
                "waited for {word:?} on the terminal, which shows {:?}",
                self.seen
            );
            let mut buffer = [0; 4096];
            let length = self.main.read(&mut buffer).expect("read the terminal");
            self.seen
                .push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }

    /// Changes the size.
    pub fn resize(&self, rows: u16, columns: u16) {
        sys::set_window(self.main.as_fd(), rows, columns).expect("size of the terminal");
    }

    /// Lets go of it: the kernel hangs up the other end. Waits for the end of the process.
    #[track_caller]
    pub fn hang_up(self) -> Outcome {
        let Self {
            main,
            _tty,
            process,
            ..
        } = self;
        drop((main, _tty));
        process.end()
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn end(self) -> Outcome {
        self.process.end()
    }
}
