//! Where the config message comes from, and the word `go` that may follow it.

use core::ffi::CStr;

use hawser::address::strip;
use hawser::protocol::{Fault, GO_LINE, Kind, Message};
use hawser::{buffer::Buffer, cmdline};

use crate::error::{self, OrFail, Step};
use crate::options::parse_fd;
use crate::sys::{self, Fd};

/// An open source of a config message.
pub struct Source {
    /// Read from here.
    pub fd: Fd,
    name: &'static [u8],
    is_cmdline: bool,
}

/// A message and the bytes that came behind it.
pub struct Config<'a> {
    /// Read and checked.
    pub message: Message<'a>,
    /// What was read with it: perhaps the beginning of `go`.
    pub rest: &'a [u8],
}

const OPEN: Step = "open config";
const READ: Step = "read config";

impl Source {
    /// Opens `fd:N`, `-`, `cmdline` or a path. None of these stays open in the command, but standard input.
    pub fn open(path: &'static CStr) -> Self {
        let is_cmdline = path == c"cmdline";
        let path = if is_cmdline { c"/proc/cmdline" } else { path };
        let name = path.to_bytes();
        let fd = if name == b"-" {
            sys::STDIN
        } else if let Some(number) = strip(name, b"fd:") {
            let Some(fd) = parse_fd(number) else {
                error::fail(OPEN, name, "not a descriptor's number");
            };
            if fd != sys::STDIN {
                sys::set_close_on_exec(fd).or_fail(OPEN, name);
            }
            fd
        } else {
            sys::open_read(path).or_fail(OPEN, name)
        };
        Source {
            fd,
            name,
            is_cmdline,
        }
    }

    /// Reads up to `end` and checks all of it.
    #[inline(never)]
    pub fn read<'a>(&self, buffer: &'a mut [u8], space: &mut [u8]) -> Config<'a> {
        let len = if self.is_cmdline {
            self.translate(space, buffer)
        } else {
            self.read_message(buffer)
        };
        let read = buffer.get(..len).unwrap_or(&[]);
        match Message::parse(read) {
            Ok(message) => Config {
                message,
                rest: read.get(message.len()..).unwrap_or(&[]),
            },
            Err(fault) => error::fail_by_fault(READ, self.name, &fault),
        }
    }

    /// Writes what the kernel's command line says as a message, and gives its length.
    #[inline(never)]
    fn translate(&self, space: &mut [u8], buffer: &mut [u8]) -> usize {
        let mut len = 0;
        while self.read_some(space, &mut len, usize::MAX) > 0 {}
        let mut message = Buffer::new(buffer);
        match cmdline::translate(space.get(..len).unwrap_or(&[]), &mut message) {
            Ok(()) => message.len(),
            Err(fault) => {
                let (word, kind, cause) = (fault.word, fault.kind, fault.cause);
                error::fail_by_fault(READ, word, &Fault::of_all(kind, cause))
            }
        }
    }

    /// Reads until the message is complete, or cannot become it.
    fn read_message(&self, buffer: &mut [u8]) -> usize {
        // Standard input goes on to the command: not a byte behind the message may be taken from it.
        let step = if self.fd == sys::STDIN { 1 } else { usize::MAX };
        let mut len = 0;
        loop {
            let count = self.read_some(buffer, &mut len, step);
            let read = buffer.get(..len).unwrap_or(&[]);
            // To look at each byte whether the message is complete would take a second for the longest one.
            if count > 0 && read.last() != Some(&b'\n') {
                continue;
            }
            match Message::parse(read) {
                Err(fault) if fault.kind == Kind::Unfinished && count > 0 => {}
                // Parsed once more, and said then (10 us are nothing).
                _ => return len,
            }
        }
    }

    /// Reads the line `go`. The end of the pipe is never `go`: it means that the helper died.
    #[inline(never)]
    pub fn wait_for_go(&self, rest: &[u8]) {
        let mut missing = GO_LINE.as_bytes();
        let mut space = [0; 4];
        let mut come = rest;
        loop {
            missing = match strip(missing, come) {
                Some(&[]) => return,
                Some(missing) => missing,
                None => error::fail(READ, self.name, "another word than `go`"),
            };
            let mut len = 0;
            if self.read_some(&mut space, &mut len, missing.len()) == 0 {
                error::fail(READ, self.name, "it ended before `go`; the helper died");
            }
            come = space.get(..len).unwrap_or(&[]);
        }
    }

    /// Where no helper follows up, nothing may follow `end`: it would be a fact that is not heeded.
    pub fn check_end(&self, rest: &[u8]) {
        if rest.trim_ascii().is_empty() {
            return;
        }
        error::fail(READ, self.name, "something follows `end`")
    }

    /// Reads up to `step` bytes to `len`; 0 is the end, of the file or of the buffer.
    fn read_some(&self, buffer: &mut [u8], len: &mut usize, step: usize) -> usize {
        let space = buffer.get_mut(*len..).unwrap_or(&mut []);
        let most = space.len().min(step);
        let count =
            sys::read(self.fd, space.get_mut(..most).unwrap_or(&mut [])).or_fail(READ, self.name);
        *len += count as usize;
        count as usize
    }
}
