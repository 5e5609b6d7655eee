//! Becoming the command.

use crate::error::{self, CANNOT_EXECUTE, NOT_FOUND, Step};
use crate::sys::{self, Arguments, Errno};

/// Where a command is looked for when the environment has no PATH: Docker's and Debian's default for root.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const VERB: Step = "execute";

/// Executes a command; a name without a slash is looked for in the PATH of the environment.
pub fn execute(command: Arguments, text: &mut [u8]) -> ! {
    let path = command.first().unwrap_or(c"");
    let name = path.to_bytes();
    if name.is_empty() || name.iter().position(|&byte| byte == b'/').is_some() {
        let errno = sys::execute(path, command);
        fail(name, errno, sys::exists(path));
    }
    let mut denied = false;
    let mut rest = Some(sys::variable(b"PATH").unwrap_or(DEFAULT_PATH));
    while let Some(directories) = rest {
        let colon = directories
            .iter()
            .position(|&byte| byte == b':')
            .unwrap_or(directories.len());
        rest = directories.get(colon + 1..);
        // POSIX: an empty one is the working directory.
        let directory = if colon == 0 {
            b"."
        } else {
            directories.get(..colon).unwrap_or(b".")
        };
        let Some(path) = sys::c_string(&[directory, b"/", name], text) else {
            continue;
        };
        // A failing execve costs as much as a look, and a trace shows the command executed once.
        if !sys::exists(path) {
            continue;
        }
        match sys::execute(path, command) {
            Errno(libc::EACCES) => denied = true,
            errno => fail(name, errno, true),
        }
    }
    if denied {
        fail(name, Errno(libc::EACCES), true);
    }
    error::begin(VERB, name);
    error::push(": not found in PATH");
    error::end(NOT_FOUND)
}

fn fail(name: &[u8], errno: Errno, exists: bool) -> ! {
    // An empty word would not be seen.
    let name = if name.is_empty() { b"''" } else { name };
    let (code, step) = match errno.0 {
        libc::ENOENT if exists => (
            CANNOT_EXECUTE,
            "execute; it is there, its interpreter or loader is not",
        ),
        libc::ENOENT | libc::ENOTDIR => (NOT_FOUND, VERB),
        libc::ENOEXEC => (
            CANNOT_EXECUTE,
            "execute; it is for another machine, or a script without `#!`",
        ),
        libc::EACCES => (
            CANNOT_EXECUTE,
            "execute; it lacks the x bit, or a mount has noexec, or a directory above it is closed",
        ),
        _ => (CANNOT_EXECUTE, VERB),
    };
    error::fail_by_errno(step, name, errno, code)
}
