//! The container's side of the network: one batch of requests, one acknowledgement.
//!
//! First `lo`, then for all links their addresses, then the links go up (with their MTU), then neighbours and routes,
//! each in the order of the message. Each request has the number of its line, so that an error finds its fact again.

use core::net::IpAddr;

use hawser::address::{Octets, Prefix, family};
use hawser::netlink::{self, Messages, Writer, ifaddrmsg, ifinfomsg, ndmsg, rtmsg};
use hawser::protocol::{Fact, Message};

use crate::error::{self, OrFail, Step};
use crate::sys::{self, Errno, Fd};

/// `LOOPBACK_IFINDEX` of the kernel's net/flow.h: `lo` is number 1 in every network namespace.
const LOOPBACK: u32 = 1;
/// The message's line 1 is its version: its number is free for the request that brings `lo` up.
const LOOPBACK_LINE: u32 = 1;

const NEW: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const NEW_OR_CHANGED: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

const REQUEST: Step = "set up the network by rtnetlink";
const FIND_LINK: Step = "find link; it must be in this network namespace before the config is sent";

/// Sets up what the message says, and returns when the kernel has acknowledged all of it.
pub fn set_up(message: &Message<'_>, batch: &mut [u8], reply: &mut [u8]) {
    if message
        .facts()
        .any(|entry| matches!(entry.fact, Fact::NoLinks))
    {
        return;
    }
    let socket = sys::open_rtnetlink().or_fail(REQUEST, b"");
    let batch = write_batch(message, socket, batch);
    sys::write_all(socket, batch).or_fail(REQUEST, b"");
    if let Some(refusal) = receive(socket, batch, reply).or_fail(REQUEST, b"") {
        fail(message, &refusal);
    }
    sys::close(socket);
}

/// In which round a fact is written.
#[derive(Clone, Copy, PartialEq)]
enum Round {
    Addresses,
    Links,
    Rest,
}

fn write_batch<'b>(message: &Message<'_>, socket: Fd, buffer: &'b mut [u8]) -> &'b [u8] {
    let mut batch = Writer::new(buffer);
    bring_up(&mut batch, LOOPBACK_LINE, LOOPBACK, None);
    for round in [Round::Addresses, Round::Links, Round::Rest] {
        let mut index = 0;
        for entry in message.facts() {
            let line = entry.line as u32;
            match entry.fact {
                Fact::Link { name, mtu } => {
                    index = sys::link_index(socket, name).or_fail(FIND_LINK, name.as_bytes());
                    if round == Round::Links {
                        bring_up(&mut batch, line, index, mtu);
                    }
                }
                Fact::Address(prefix) if round == Round::Addresses => {
                    add_address(&mut batch, line, index, prefix)
                }
                Fact::Neighbour { address, mac } if round == Round::Rest => {
                    let header = ndmsg(family(address), index, libc::NUD_PERMANENT);
                    batch.begin(libc::RTM_NEWNEIGH, NEW_OR_CHANGED, line, &header);
                    batch.attribute(libc::NDA_DST, Octets::of(address).as_slice());
                    batch.attribute(libc::NDA_LLADDR, &mac.0);
                    batch.end();
                }
                Fact::Route {
                    destination,
                    gateway,
                } if round == Round::Rest => {
                    add_route(&mut batch, line, index, destination, gateway);
                }
                _ => {}
            }
        }
    }
    batch.ask_acknowledgement();
    match batch.finish() {
        Some(batch) => batch,
        None => error::fail(REQUEST, b"", "the requests are too long"),
    }
}

fn bring_up(batch: &mut Writer<'_>, line: u32, index: u32, mtu: Option<u32>) {
    let up = libc::IFF_UP as u32;
    batch.begin(libc::RTM_NEWLINK, 0, line, &ifinfomsg(index, up, up));
    if let Some(mtu) = mtu {
        batch.number(libc::IFLA_MTU, mtu);
    }
    batch.end();
}

/// IPv6 addresses skip duplicate address detection: they would be of no use for a second or two.
fn add_address(batch: &mut Writer<'_>, line: u32, index: u32, prefix: Prefix) {
    let family = family(prefix.address);
    batch.begin(
        libc::RTM_NEWADDR,
        NEW,
        line,
        &ifaddrmsg(family, prefix.len, 0, libc::RT_SCOPE_UNIVERSE, index),
    );
    let octets = Octets::of(prefix.address);
    match prefix.address {
        IpAddr::V4(_) => batch.attribute(libc::IFA_LOCAL, octets.as_slice()),
        IpAddr::V6(_) => {
            batch.attribute(libc::IFA_ADDRESS, octets.as_slice());
            batch.number(libc::IFA_FLAGS, libc::IFA_F_NODAD);
        }
    }
    batch.end();
}

fn add_route(
    batch: &mut Writer<'_>,
    line: u32,
    index: u32,
    destination: Prefix,
    gateway: Option<IpAddr>,
) {
    let scope = if gateway.is_some() {
        libc::RT_SCOPE_UNIVERSE
    } else {
        libc::RT_SCOPE_LINK
    };
    batch.begin(
        libc::RTM_NEWROUTE,
        NEW,
        line,
        &rtmsg(family(destination.address), destination.len, scope, 0),
    );
    if destination.len > 0 {
        batch.attribute(libc::RTA_DST, Octets::of(destination.address).as_slice());
    }
    if let Some(gateway) = gateway {
        batch.attribute(libc::RTA_GATEWAY, Octets::of(gateway).as_slice());
    }
    batch.number(libc::RTA_OIF, index);
    batch.end();
}

/// What the kernel says against a request.
struct Refusal<'a> {
    line: u32,
    errno: Errno,
    text: &'a [u8],
}

/// Reads the answers. The kernel has gone through the whole batch when `sendmsg` returns (netlink_unicast_kernel calls
/// rtnetlink_rcv in the sender's context), so that all answers there will be are queued and none is waited for.
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
                _ => found |= says_all_of(&message, request),
            }
        }
    }
}

/// True when `record` says everything that `request` says.
fn says_all_of(record: &netlink::Message<'_>, request: &netlink::Message<'_>) -> bool {
    // The bytes of the family header that say what it is, and its length. struct ifaddrmsg: family, prefix length,
    // index. struct rtmsg: family, prefix length, table, type.
    let (same, header): (&[usize], usize) = if request.kind == libc::RTM_NEWADDR {
        (&[0, 1, 4, 5, 6, 7], 8)
    } else {
        (&[0, 1, 4, 7], 12)
    };
    record.kind == request.kind
        && same
            .iter()
            .all(|&at| record.payload.get(at) == request.payload.get(at))
        && netlink::Attributes::new(request.payload.get(header..).unwrap_or(&[])).all(|wanted| {
            let is_flags = request.kind == libc::RTM_NEWADDR && wanted.0 == libc::IFA_FLAGS;
            is_flags
                || netlink::Attributes::new(record.payload.get(header..).unwrap_or(&[]))
                    .any(|has| has == wanted)
        })
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
