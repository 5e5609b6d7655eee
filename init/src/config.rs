//! Where the config message comes from, and the word `go` that may follow it.

use core::ffi::CStr;

use hawser::protocol::{GO, Message, message_len};

use crate::error::{Cause, Failure};
use crate::options::parse_fd;
use crate::sys::{self, Fd};

/// An open source of a config message.
pub struct Source {
    /// Read from here.
    pub fd: Fd,
    name: &'static CStr,
}

/// A message and the bytes that came behind it.
pub struct Config<'a> {
    /// Read and checked.
    pub message: Message<'a>,
    /// What was read with it: the beginning of `go`.
    rest: &'a [u8],
}

impl Source {
    /// Opens `fd:N`, `-` or a path. None of these stays open in the command, but standard input.
    pub fn open(name: &'static CStr) -> Result<Self, Failure<'static>> {
        let bytes = name.to_bytes();
        let fd = if bytes == b"-" {
            sys::STDIN
        } else if bytes.starts_with(b"fd:") {
            let number = name
                .to_bytes_with_nul()
                .get(3..)
                .and_then(|rest| CStr::from_bytes_with_nul(rest).ok());
            let fd = number.and_then(parse_fd).ok_or(Failure::text(
                "open config",
                bytes,
                "not a descriptor's number",
            ))?;
            if fd != sys::STDIN {
                sys::set_close_on_exec(fd)
                    .map_err(|errno| Failure::system("open config", bytes, errno))?;
            }
            fd
        } else {
            sys::open_read(name).map_err(|errno| Failure::system("open config", bytes, errno))?
        };
        Ok(Source { fd, name })
    }

    /// Reads up to `end` and checks all of it.
    pub fn read<'a>(&self, buffer: &'a mut [u8]) -> Result<Config<'a>, Failure<'a>> {
        // Standard input goes on to the command: not a byte behind the message may be taken from it.
        let step = if self.fd == sys::STDIN {
            1
        } else {
            buffer.len()
        };
        let mut len = 0;
        loop {
            let space = buffer.get_mut(len..).unwrap_or(&mut []);
            let space_len = space.len().min(step);
            let space = space.get_mut(..space_len).unwrap_or(&mut []);
            let count =
                sys::read(self.fd, space).map_err(|errno| self.failure(Cause::Errno(errno)))?;
            len += count;
            let read = buffer.get(..len).unwrap_or(&[]);
            // The end of the file and a full buffer end it too, and the check below says what is missing.
            if count == 0
                || (read.last() == Some(&b'\n') || step > 1) && message_len(read).is_some()
            {
                break;
            }
        }
        let read = buffer.get(..len).unwrap_or(&[]);
        let message = Message::parse(read).map_err(|fault| self.failure(Cause::Fault(fault)))?;
        let rest = read.get(message.len()..).unwrap_or(&[]);
        Ok(Config { message, rest })
    }

    /// Reads the line `go`. The end of the pipe is never `go`: it means that the helper died.
    pub fn wait_for_go(&self, rest: &[u8]) -> Result<(), Failure<'static>> {
        let mut line = [0u8; 8];
        let mut len = 0;
        for (to, from) in line.iter_mut().zip(rest) {
            *to = *from;
            len += 1;
        }
        while line.get(..len).is_some_and(|read| !read.contains(&b'\n')) {
            let space = line.get_mut(len..).unwrap_or(&mut []);
            let count =
                sys::read(self.fd, space).map_err(|errno| self.failure(Cause::Errno(errno)))?;
            if count == 0 {
                return Err(self.failure(Cause::Text(
                    "it ended, or went on with another word, before `go`",
                )));
            }
            len += count;
        }
        match line.strip_prefix(GO.as_bytes()) {
            Some([b'\n', ..]) => Ok(()),
            _ => Err(self.failure(Cause::Text("another word came instead of `go`"))),
        }
    }

    fn failure<'a>(&self, cause: Cause<'a>) -> Failure<'a> {
        Failure {
            cause,
            ..Failure::text("read config", self.name.to_bytes(), "")
        }
    }
}

impl<'a> Config<'a> {
    /// What was read behind the message.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Where no helper follows up, nothing may follow `end`: it would be a fact that is not heeded.
    pub fn check_nothing_follows(&self, source: &Source) -> Result<(), Failure<'static>> {
        if self.rest.trim_ascii().is_empty() {
            return Ok(());
        }
        Err(source.failure(Cause::Text("something follows `end`")))
    }
}
