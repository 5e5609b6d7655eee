//! The container's side of the network: one batch of requests (`hawser::batch`), one acknowledgement.

use hawser::batch;
use hawser::netlink::{self, Messages, Writer};
use hawser::protocol::{Fact, Message};

use crate::error::{self, OrFail, Step};
use crate::sys::{self, Errno, Fd};

const REQUEST: Step = "set up the network by rtnetlink";
const FIND_LINK: Step = "find link; it must be in this network namespace before the config is sent";

/// Sets up what the message says, and returns when the kernel has acknowledged all of it.
pub fn set_up(message: &Message<'_>, space: &mut [u8], reply: &mut [u8]) {
    if message
        .facts()
        .any(|entry| matches!(entry.fact, Fact::NoLinks))
    {
        return;
    }
    let socket = sys::open_rtnetlink().or_fail(REQUEST, b"");
    let find_link = |name: &str| sys::link_index(socket, name).or_fail(FIND_LINK, name.as_bytes());
    let Some(batch) = batch::write(message, find_link, space) else {
        error::fail(REQUEST, b"", "the requests are too long");
    };
    sys::write_all(socket, batch).or_fail(REQUEST, b"");
    if let Some(refusal) = receive(socket, batch, reply).or_fail(REQUEST, b"") {
        fail(message, &refusal);
    }
    sys::close(socket);
}

/// What the kernel says against a request.
struct Refusal<'a> {
    line: u32,
    errno: Errno,
    text: &'a [u8],
}

/// Reads the answers. The kernel has gone through the whole batch when `sendmsg` returns (netlink_unicast_kernel calls
/// rtnetlink_rcv in the sender's context), so that all answers there will be are queued and none is waited for.
#[inline(never)]
fn receive<'a>(
    socket: Fd,
    batch: &[u8],
    reply: &'a mut [u8],
) -> Result<Option<Refusal<'a>>, Errno> {
    let last = Messages::new(batch)
        .last()
        .map_or(0, |message| message.sequence);
    let (head, dump) = reply
        .split_at_mut_checked(ANSWER)
        .ok_or(Errno(libc::ENOBUFS))?;
    let mut acknowledged = false;
    let (len, line) = 'refused: loop {
        let len = match sys::receive_now(socket, head) {
            Ok(len) => len,
            // So many errors that the last ones did not fit. The first ones are there.
            Err(Errno(libc::ENOBUFS)) => continue,
            Err(Errno(libc::EAGAIN)) if acknowledged => return Ok(None),
            Err(errno) => return Err(errno),
        };
        for message in Messages::new(head.get(..len).unwrap_or(&[])) {
            let Some(outcome) = message.outcome() else {
                continue;
            };
            let fine = outcome.errno == 0
                || (outcome.errno == libc::EEXIST && is_there(batch, message.sequence, dump));
            if !fine {
                break 'refused (len, message.sequence);
            }
            acknowledged |= message.sequence == last;
        }
    };
    let mut answers = Messages::new(head.get(..len).unwrap_or(&[]));
    let outcome = answers
        .find(|message| message.sequence == line)
        .and_then(|message| message.outcome());
    let outcome = outcome.ok_or(Errno(libc::EIO))?;
    Ok(Some(Refusal {
        line,
        errno: Errno(outcome.errno),
        text: outcome.text,
    }))
}

/// Bytes of an answer at most: two headers and a sentence.
const ANSWER: usize = 1024;

/// Looks whether what a request would have made is there already and equal: everything that the request says, the
/// kernel's own record says too.
fn is_there(batch: &[u8], line: u32, dump: &mut [u8]) -> bool {
    let Some(request) = Messages::new(batch).find(|message| message.sequence == line) else {
        return false;
    };
    let Ok(socket) = sys::open_rtnetlink() else {
        return false;
    };
    // A dump that was interrupted by a change may lack something (NLM_F_DUMP_INTR): it is taken again, a few times.
    let found = (0..8).find_map(|_| search_dump(socket, &request, dump).unwrap_or(Some(false)));
    sys::close(socket);
    found.unwrap_or(false)
}

/// `Some(false)` when a whole dump has nothing equal, `None` when the dump was interrupted.
#[inline(never)]
fn search_dump(
    socket: Fd,
    request: &netlink::Message<'_>,
    dump: &mut [u8],
) -> Result<Option<bool>, Errno> {
    let mut space = [0u8; 64];
    let mut writer = Writer::new(&mut space);
    let mut header = [0u8; 12];
    if let (Some(to), Some(from)) = (header.first_mut(), request.payload.first()) {
        *to = *from;
    }
    // RTM_GET* is RTM_NEW* + 2 for every kind (linux/rtnetlink.h).
    writer.begin(request.kind + 2, libc::NLM_F_DUMP as u16, 0, &header);
    writer.end();
    sys::write_all(socket, writer.finish().unwrap_or(&[]))?;
    let (mut found, mut interrupted) = (false, false);
    loop {
        let len = sys::receive(socket, dump)?;
        for message in Messages::new(dump.get(..len).unwrap_or(&[])) {
            interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
            match i32::from(message.kind) {
                libc::NLMSG_DONE if interrupted && !found => return Ok(None),
                libc::NLMSG_DONE | libc::NLMSG_ERROR => return Ok(Some(found)),
                _ => found |= batch::says_all_of(&message, request),
            }
        }
    }
}

/// The step, the object and the kernel's reason.
fn fail(message: &Message<'_>, refusal: &Refusal<'_>) -> ! {
    let mut link = "lo";
    let mut object = "lo";
    let (mut verb, mut word) = ("bring up link", "");
    for entry in message
        .facts()
        .take_while(|entry| entry.line <= refusal.line as usize)
    {
        object = entry.object();
        (verb, word) = match entry.fact {
            Fact::Link { name, .. } => {
                link = name;
                ("bring up link", "")
            }
            Fact::Address(_) => ("add address", " to "),
            Fact::Neighbour { .. } => ("add neighbour", " on "),
            _ => ("add route", " on "),
        };
    }
    error::begin(verb, object.as_bytes());
    if !word.is_empty() {
        error::push(word);
        error::push(link);
    }
    error::push_errno(refusal.errno);
    if !refusal.text.is_empty() {
        error::push(": ");
        error::push_bytes(refusal.text);
    }
    error::push_cure(match refusal.errno.0 {
        libc::EPERM => "it needs CAP_NET_ADMIN in this network namespace",
        libc::ENETUNREACH | libc::EHOSTUNREACH => {
            "a gateway is in the subnet of an address, or an `onlink` route before it leads to it"
        }
        libc::EEXIST => "another one is there and differs",
        libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES => {
            "the kernel or the link may lack IPv6"
        }
        _ => "",
    });
    error::end(error::OURS)
}
