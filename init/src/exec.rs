//! Becoming the command.

use core::ffi::CStr;

use crate::Never;
use crate::error::{CANNOT_EXECUTE, Cause, Failure, NOT_FOUND};
use crate::sys::{self, Arguments, Errno};

/// Where a command is looked for when the environment has no PATH: Docker's and Debian's default for root.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes a command; a name without a slash is looked for in the PATH of the environment.
pub fn execute<'a>(command: Arguments, text: &mut [u8]) -> Never<'a> {
    let name = command.first().unwrap_or(c"");
    let bytes = name.to_bytes();
    if bytes.contains(&b'/') {
        let errno = sys::execute(name, command);
        return Err(failure(name, errno, sys::exists(name)));
    }
    let mut denied = false;
    for directory in sys::variable("PATH")
        .unwrap_or(DEFAULT_PATH)
        .split(|&byte| byte == b':')
    {
        let Some(path) = join(directory, bytes, text) else {
            continue;
        };
        match sys::execute(path, command) {
            // Nothing there, unless what is missing is the interpreter of what is there.
            Errno(libc::ENOENT | libc::ENOTDIR) if !sys::exists(path) => {}
            Errno(libc::EACCES) => denied = true,
            errno => return Err(failure(name, errno, true)),
        }
    }
    if denied {
        return Err(failure(name, Errno(libc::EACCES), true));
    }
    let failure = Failure::text("execute", bytes, "not found in PATH");
    Err(Failure {
        code: NOT_FOUND,
        ..failure
    })
}

fn failure<'a>(name: &'static CStr, errno: Errno, exists: bool) -> Failure<'a> {
    let (code, cure) = match errno.0 {
        libc::ENOENT if exists => (
            CANNOT_EXECUTE,
            "it is there, but its interpreter or loader is not",
        ),
        libc::ENOENT | libc::ENOTDIR => (NOT_FOUND, ""),
        libc::ENOEXEC => (
            CANNOT_EXECUTE,
            "it is for another machine, or a script without `#!`",
        ),
        libc::EACCES => (
            CANNOT_EXECUTE,
            "it needs the x bit, a mount without noexec and a path that the user may search",
        ),
        _ => (CANNOT_EXECUTE, ""),
    };
    Failure {
        code,
        cure,
        ..Failure {
            cause: Cause::Errno(errno),
            ..Failure::text("execute", name.to_bytes(), "")
        }
    }
}

/// `directory/name` as a C string; an empty directory is the current one (POSIX).
fn join<'t>(directory: &[u8], name: &[u8], text: &'t mut [u8]) -> Option<&'t CStr> {
    let mut space = text.iter_mut();
    let directory: &[u8] = if directory.is_empty() {
        b"."
    } else {
        directory
    };
    for part in [directory, b"/", name, b"\0"] {
        for byte in part {
            *space.next()? = *byte;
        }
    }
    CStr::from_bytes_until_nul(text).ok()
}
