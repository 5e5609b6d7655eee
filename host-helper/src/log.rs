//! The log of a container that runs by itself: what comes out of it comes by a pipe, and is copied.
//!
//! The file is not handed to the command. Who opens `/dev/stdout` anew would begin it anew, or write over what is in it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::error::{Doing, Result};
use crate::state;

/// What is read at a time. On the stack, whose memory a supervisor at rest gives back.
const CHUNK: usize = 16 * 1024;

/// A log, and the pipe to it.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    outlet: File,
    /// Held open: else the pipe is hung up, and readable for ever, once nobody inside has it open.
    inlet: OwnedFd,
}

impl Log {
    /// Makes the pipe. What comes by it stays there until there is the file.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn begin() -> Result<Log> {
        let doing = || "make a pipe for the output".to_string();
        let (outlet, inlet) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
        // This end alone: the other one waits as long as the pipe is full, as commands expect.
        fcntl(&outlet, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(doing)?;
        let outlet = outlet.into();
        Ok(Log {
            file: None,
            outlet,
            inlet,
        })
    }

    /// Makes the file: not before the container has started, since the last one of its name may have one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(&mut self, name: &str) -> Result<()> {
        self.file = Some(open(name)?);
        Ok(())
    }

    /// Where the command writes to.
    pub fn inlet(&self) -> BorrowedFd<'_> {
        self.inlet.as_fd()
    }

    /// Readable when there is something to copy.
    pub fn outlet(&self) -> BorrowedFd<'_> {
        self.outlet.as_fd()
    }

    /// Copies what is in the pipe now. What comes meanwhile is left for the next time once as much was copied as the pipe holds: who writes
    /// without a pause must not keep us from everything else.
    pub fn copy(&mut self) {
        let mut chunk = [0; CHUNK];
        let held = fcntl(&self.outlet, FcntlArg::F_GETPIPE_SZ).unwrap_or_default();
        let mut left = usize::try_from(held).unwrap_or_default();
        while left > 0 {
            match self.outlet.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(len) => {
                    // There may be no room. The container need not wait for any.
                    let file = self.file.as_mut();
                    let _ = file.map(|file| file.write_all(&chunk[..len]));
                    left = left.saturating_sub(len);
                }
            }
        }
    }
}

/// The file that the output of a container that runs by itself goes to.
///
/// # Errors
/// When it cannot be made.
pub fn open(name: &str) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = state::path(name, "log");
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path);
    log.doing(|| format!("open log {}", path.display()))
}
