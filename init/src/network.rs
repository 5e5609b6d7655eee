//! The container's side of the network: one batch of requests (`hawser::batch`), one acknowledgement.

use hawser::batch;
use hawser::netlink::{Messages, Outcome};
use hawser::protocol::{Fact, Message};

use crate::error::{self, OrFail, Step};
use crate::sys::{self, Errno, Fd};

const REQUEST: Step = "set up the network by rtnetlink";
const FIND_LINK: Step = "find link; it is not here, or takes longer than --timeout";

/// Sets up what the message says, and returns when the kernel has acknowledged all of it. A link may take so many
/// milliseconds to appear; `when_found` is called when all are there, before anything is changed.
#[inline(never)]
pub fn set_up(
    message: &Message<'_>,
    patience: u64,
    space: &mut [u8],
    reply: &mut [u8],
    when_found: impl FnOnce(),
) {
    let socket = sys::open_rtnetlink().or_fail(REQUEST, b"");
    let find_link = |name: &[u8]| wait_for_link(socket, name, patience, reply);
    let Some(batch) = batch::write(message, find_link, space) else {
        error::fail(REQUEST, b"", "the requests are too long");
    };
    when_found();
    if batch.is_empty() {
        return;
    }
    sys::write_all(socket, batch).or_fail(REQUEST, b"");
    receive(message, socket, batch, reply);
    sys::close(socket);
}

/// The index of a link, which may not be there yet: each change of a link wakes us up, and nothing else.
fn wait_for_link(socket: Fd, name: &[u8], patience: u64, reply: &mut [u8]) -> u32 {
    let mut deadline = None;
    loop {
        let found = sys::link_index(socket, name);
        if found != Err(Errno(libc::ENODEV)) || patience == 0 {
            return found.or_fail(FIND_LINK, name);
        }
        // Watched from before the second look on: nothing that comes between a look and a wait is missed.
        let Some(deadline) = deadline else {
            // It watches already where another link was waited for; who cannot hears of nothing, and fails at the end.
            let _ = sys::watch_links(socket);
            deadline = Some(sys::now() + patience);
            continue;
        };
        let left = deadline.saturating_sub(sys::now());
        if sys::poll(socket, libc::POLLIN, left) == Ok(0) {
            return found.or_fail(FIND_LINK, name);
        }
        let _ = sys::receive_now(socket, reply);
    }
}

/// Reads the answers. The kernel has gone through the whole batch when `sendmsg` returns (netlink_unicast_kernel calls
/// rtnetlink_rcv in the sender's context), so that all answers there will be are queued and none is waited for.
fn receive(message: &Message<'_>, socket: Fd, batch: &[u8], reply: &mut [u8]) {
    let last = Messages::new(batch)
        .last()
        .map_or(0, |request| request.sequence);
    loop {
        let len = match sys::receive_now(socket, reply) {
            // So many errors that the last ones did not fit. The first ones are there.
            Err(Errno(libc::ENOBUFS)) => continue,
            len => len.or_fail(REQUEST, b""),
        };
        for answer in Messages::new(reply.get(..len as usize).unwrap_or(&[])) {
            let Some(outcome) = answer.outcome() else {
                continue;
            };
            if batch::is_refusal(outcome.errno) {
                fail(message, answer.sequence, &outcome);
            }
            if answer.sequence == last {
                return;
            }
        }
    }
}

/// The step, the object and the kernel's reason.
#[inline(always)]
fn fail(message: &Message<'_>, line: u32, outcome: &Outcome<'_>) -> ! {
    let mut link: &[u8] = b"lo";
    let mut object = link;
    let (mut verb, mut word) = ("bring up link", "");
    for entry in message
        .facts()
        .take_while(|entry| entry.line <= line as usize)
    {
        object = entry.object();
        (verb, word) = match entry.fact {
            Fact::Link { name, .. } => {
                link = name.0;
                ("bring up link", "")
            }
            Fact::Address(_) => ("add address", " to "),
            Fact::Neighbour { .. } => ("add neighbour", " on "),
            _ => ("add route", " on "),
        };
    }
    error::begin(verb, object);
    if !word.is_empty() {
        error::push(word);
        error::push_bytes(link);
    }
    error::push_errno(Errno(outcome.errno));
    if !outcome.text.is_empty() {
        error::push(": ");
        error::push_bytes(outcome.text);
    }
    error::push_cure(match outcome.errno {
        libc::EPERM => "it needs CAP_NET_ADMIN here",
        libc::ENETUNREACH | libc::EHOSTUNREACH => {
            "a gateway is in an address's subnet, or an `onlink` route leads to it"
        }
        libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES => "there may be no IPv6",
        libc::EINVAL | libc::ENODEV if outcome.text.is_empty() => "IPv6 needs an MTU of 1280",
        _ => "",
    });
    error::end(error::OURS)
}
