//! A copy of this program that has nothing of the host's: what whoever may look into it finds is its own.
//!
//! The process that `exec` clones into a container is this program until it becomes init. Who is inside and may trace it has its memory, with
//! the variables that it was started with, and by `/proc/PID/exe` its file: the host's, through a mount that can be written.

use std::ffi::OsString;
use std::fs::{self, File};

use nix::fcntl::AtFlags;
use nix::sys::prctl;
use nix::unistd::execveat;

use crate::error::{Doing, Result};
use crate::spawn::{c_strings, in_memory, is_in_memory};

/// What the kernel calls the process: of what is executed by descriptor that is the descriptor's number.
const NAME: &std::ffi::CStr = c"host-helper";

/// Executes this program once more, from a sealed memory file, with the words that we were called with; of our variables it has those alone that
/// the command gets (`KEY=VALUE`). Comes back in the copy only.
///
/// # Errors
/// The step that failed.
pub fn go_on_as(variables: &[String]) -> Result<()> {
    const OURS: &str = "/proc/self/exe";
    let doing = || format!("read {OURS}");
    if is_in_memory(&File::open(OURS).doing(doing)?) {
        return prctl::set_name(NAME).doing(|| "set our name".into());
    }
    let copy = in_memory(NAME, &fs::read(OURS).doing(doing)?)?;
    let words = c_strings(&std::env::args_os().collect::<Vec<OsString>>())?;
    let is_ours = |variable: &&String| {
        let (name, value) = variable.split_once('=').unwrap_or_default();
        std::env::var(name).is_ok_and(|ours| ours == value)
    };
    let kept: Vec<&String> = variables.iter().filter(is_ours).collect();
    execveat(
        &copy,
        c"",
        &words,
        &c_strings(&kept)?,
        AtFlags::AT_EMPTY_PATH,
    )
    .doing(|| "execute a copy of this program".into())
    .map(drop)
}
