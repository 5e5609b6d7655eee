//! The sequence. The steps have the letters of the design: a and b (mounts, this program's own start) are the helper's.
//!
//! - c: wait for the config message and check all of it; nothing was changed before
//! - d: the network: `lo` and the links, addresses, routes, neighbours in one batch; say `up`
//! - e: resolv.conf and hosts, while the helper looks whether its end forwards
//! - f: drop privileges, then the parent-death signal, which setresuid would have cleared
//! - g: wait for `go`, say `ready`, become the command
//!
//! Everything up to here fails loudly and completely.

use hawser::protocol::{Fact, Message, READY, UP};

use crate::config::Source;
use crate::error::Failure;
use crate::options::Options;
use crate::sys::{self, Arguments, Fd};
use crate::{Never, exec, network, privileges, resolv};

/// What the steps work in.
pub struct Memory<'a> {
    /// The config message.
    pub message: &'a mut [u8],
    /// Requests to the kernel, later the text of files.
    pub batch: &'a mut [u8],
    /// The kernel's answers.
    pub reply: &'a mut [u8],
    /// What the kernel has.
    pub dump: &'a mut [u8],
}

/// Sets up what the config says and becomes `command`.
pub fn boot<'a>(
    options: &Options,
    command: Arguments,
    memory: Memory<'a>,
    text: &mut [u8],
) -> Never<'a> {
    sys::ignore_broken_pipes();
    if let Some(name) = options.config {
        set_up(name, options.status, memory, text)?;
    }
    sys::reset_signals();
    exec::execute(command, text)
}

fn set_up<'a>(
    name: &'static core::ffi::CStr,
    status: Option<Fd>,
    memory: Memory<'a>,
    text: &mut [u8],
) -> Result<(), Failure<'a>> {
    let source = Source::open(name)?;
    let config = source.read(memory.message)?;
    if status.is_none() {
        config.check_nothing_follows(&source)?;
    }
    let message = config.message;
    set_hostname(&message)?;
    network::set_up(&message, memory.batch, memory.reply, memory.dump)?;
    tell(status, UP)?;
    resolv::write_files(&message, text)?;
    privileges::drop_privileges(&message, text)?;
    if status.is_some() {
        die_with_helper(source.fd)?;
        source.wait_for_go(config.rest())?;
        tell(status, READY)?;
    }
    Ok(())
}

fn set_hostname<'a>(message: &Message<'a>) -> Result<(), Failure<'a>> {
    for entry in message.facts() {
        if let Fact::Hostname(name) = entry.fact {
            sys::set_hostname(name)
                .map_err(|errno| Failure::system("set host name", name.as_bytes(), errno))?;
        }
    }
    Ok(())
}

/// Words over a pipe, and a missing reader is a dead helper.
fn tell(status: Option<Fd>, word: &'static str) -> Result<(), Failure<'static>> {
    let Some(fd) = status else { return Ok(()) };
    let mut line = [0u8; 8];
    let mut sentence = crate::Sentence::new(&mut line);
    sentence.push(word);
    sys::write_all(fd, sentence.finish())
        .map_err(|errno| Failure::system("tell the helper", word.as_bytes(), errno))
}

/// From here on the kernel kills us when the helper dies. It may have died before, which only its pipe can tell:
/// getppid() is 0 in a PID namespace of our own.
fn die_with_helper(fd: Fd) -> Result<(), Failure<'static>> {
    sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize, 0)
        .map_err(|errno| Failure::system("set the parent-death signal", b"", errno))?;
    match sys::has_hung_up(fd) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Failure::text("wait for the helper", b"", "it is gone")),
        Err(errno) => Err(Failure::system("wait for the helper", b"", errno)),
    }
}
