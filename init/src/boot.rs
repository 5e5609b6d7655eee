//! The sequence. The steps have the letters of the design: a and b (mounts, this program's own start) are the helper's, and where that
//! has set up the links the message has none.
//!
//! - c: wait for the config message and check all of it; nothing was changed before
//! - d: the host name, when all links are there; the network: `lo` and the links, addresses, routes, neighbours in one batch; say `up`, unless `go` is there
//! - e: resolv.conf and hosts, while the helper does what is left to do
//! - f: drop privileges, then the parent-death signal, which setresuid would have cleared
//! - g: wait for `go`, say `ready` (and `up`, if that is still to be said), become the command
//!
//! Everything up to here fails loudly and completely.

use core::ffi::CStr;

use hawser::protocol::{BOTH_LINES, Fact, Message, READY_LINE, UP_LINE};

use crate::config::Source;
use crate::error::{self, OrFail, Step};
use crate::options::{Options, Resolv};
use crate::sys::{self, Arguments, Buffers, Fd, Pid};
use crate::{exec, machine, network, privileges, resolv};

/// Seconds that a link may take to appear: a machine's drivers come up meanwhile.
const TIMEOUT: u32 = 10;

/// Sets up what the config says and becomes `command`.
pub fn boot(options: &Options, command: Arguments) -> ! {
    let Some(buffers) = sys::take_buffers() else {
        error::fail("start", b"", "called twice");
    };
    sys::ignore_broken_pipes();
    if options.mounts {
        machine::set_up();
    }
    if let Some(path) = options.config {
        set_up(path, options, buffers);
    }
    if options.supervise {
        crate::supervise::supervise(&options.rules, command, buffers);
    }
    sys::reset_signals();
    sys::unblock_signals();
    exec::execute(command, &mut buffers.text)
}

fn set_up(path: &'static CStr, options: &Options, buffers: &mut Buffers) {
    let status = options.status;
    // What waits for a helper is ended by the helper; anything else can wait for ever, and PID 1 discards these signals.
    if status.is_none() && sys::own_pid() == Pid(1) {
        sys::end_by_signals(error::interrupted);
    }
    let Buffers {
        message,
        batch,
        reply,
        text,
    } = buffers;
    let source = Source::open(path);
    let config = source.read(message, reply);
    if status.is_none() {
        source.check_end(config.rest);
    }
    let message = &config.message;
    // With a helper, all is there before the message comes, and a file that is not written is a failure.
    let (timeout, resolv) = match status {
        Some(_) => (0, Resolv::Required),
        None => (TIMEOUT, Resolv::Try),
    };
    let patience = u64::from(options.timeout.unwrap_or(timeout)) * 1000;
    network::set_up(message, patience, batch, reply, || set_hostname(message));
    // Who has said `go` already waits for nothing: both at once.
    let is_let_go = !config.rest.is_empty();
    if !is_let_go {
        tell(status, UP_LINE);
    }
    resolv::write_files(message, options.resolv.unwrap_or(resolv), batch);
    privileges::drop_privileges(message, batch, text);
    if status.is_some() {
        die_with_helper(source.fd);
        source.wait_for_go(config.rest);
        tell(status, if is_let_go { BOTH_LINES } else { READY_LINE });
    }
}

fn set_hostname(message: &Message<'_>) {
    const STEP: Step = "set host name; it needs CAP_SYS_ADMIN and its own UTS namespace";
    let mut facts = message.facts();
    while let Some(entry) = &facts.next() {
        if let Fact::Hostname(name) = entry.fact {
            sys::set_hostname(name.0).or_fail(STEP, name.0);
        }
    }
}

/// Words over a pipe, and a missing reader is a dead helper.
#[inline(never)]
fn tell(status: Option<Fd>, line: &str) {
    if let Some(fd) = status {
        sys::write_all(fd, line.as_bytes()).or_fail("tell the helper", b"");
    }
}

/// From here on the kernel kills us when the helper dies. It may have died before, which only its pipe can tell:
/// getppid() is 0 in a PID namespace of our own.
#[inline(never)]
fn die_with_helper(fd: Fd) {
    const STEP: Step = "follow the helper";
    sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize, 0).or_fail(STEP, b"");
    if sys::has_hung_up(fd).or_fail(STEP, b"") {
        error::fail(STEP, b"", "it has died");
    }
}
