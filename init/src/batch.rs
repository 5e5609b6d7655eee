//! The container's side of the network as requests to the kernel: one batch.
//!
//! First `lo`, then for all links their addresses, then the links go up (with their MTU), then neighbours and routes,
//! each in the order of the message. Each request has the number of its line, so that an error finds its fact again.

use crate::address::{Address, Family, Prefix};
use crate::netlink::{Writer, ifaddrmsg, ifinfomsg, ndmsg, rtmsg};
use crate::protocol::{self, Fact};

/// `LOOPBACK_IFINDEX` of the kernel's net/flow.h: `lo` is number 1 in every network namespace.
const LOOPBACK: u32 = 1;
/// The message's line 1 is its version: its number is free for the request that brings `lo` up.
const LOOPBACK_LINE: u32 = 1;

/// An address, a route or a neighbour becomes what the message says, whatever there was. (With NLM_F_EXCL each address that is there already
/// would be answered by an error: of some hundred of them the last ones, and the acknowledgement, would not fit into the socket.)
const NEW_OR_CHANGED: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

/// `AF_INET` or `AF_INET6`.
fn family(address: &Address) -> u8 {
    match address.family() {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

/// Writes the batch; the last request asks for the acknowledgement. `find_link` gives the index of a link.
///
/// Empty where the message leaves all links alone; `None` when `space` is too small.
pub fn write<'a>(
    message: &protocol::Message<'_>,
    mut find_link: impl FnMut(&[u8]) -> u32,
    space: &'a mut [u8],
) -> Option<&'a [u8]> {
    let mut batch = Writer::new(space);
    bring_up(&mut batch, LOOPBACK_LINE, LOOPBACK, None);
    for round in 0..3 {
        let mut index = 0;
        let mut facts = message.facts();
        while let Some(entry) = &facts.next() {
            let line = entry.line as u32;
            match (&entry.fact, round) {
                (Fact::Link { name, mtu }, _) => {
                    index = find_link(name.0);
                    if round == 1 {
                        bring_up(&mut batch, line, index, *mtu);
                    }
                }
                (Fact::Address(prefix), 0) => add_address(&mut batch, line, index, prefix),
                (Fact::Address(prefix), 2) if prefix.address.family() == Family::V6 => {
                    add_route(&mut batch, line, index, prefix, None, true);
                }
                (Fact::Neighbour { address, mac }, 2) => {
                    let header = ndmsg(family(address), index, libc::NUD_PERMANENT);
                    batch.begin(libc::RTM_NEWNEIGH, NEW_OR_CHANGED, line, &header);
                    put_address(&mut batch, libc::NDA_DST, address);
                    batch.attribute(libc::NDA_LLADDR, &mac.0);
                    batch.end();
                }
                (
                    Fact::Route {
                        destination,
                        gateway,
                    },
                    2,
                ) => {
                    add_route(
                        &mut batch,
                        line,
                        index,
                        destination,
                        gateway.as_ref(),
                        false,
                    );
                }
                (Fact::NoLinks, _) => return Some(&[]),
                _ => {}
            }
        }
    }
    batch.ask_acknowledgement();
    batch.finish()
}

#[inline(never)]
fn bring_up(batch: &mut Writer<'_>, line: u32, index: u32, mtu: Option<u32>) {
    let up = libc::IFF_UP as u32;
    batch.begin(libc::RTM_NEWLINK, 0, line, &ifinfomsg(index, up, up));
    if let Some(mtu) = mtu {
        batch.number(libc::IFLA_MTU, mtu);
    }
    batch.end();
}

/// IPv6 addresses skip duplicate address detection: they would be of no use for a second or two.
fn add_address(batch: &mut Writer<'_>, line: u32, index: u32, prefix: &Prefix) {
    let scope = libc::RT_SCOPE_UNIVERSE;
    let header = ifaddrmsg(family(&prefix.address), prefix.len, 0, scope, index);
    batch.begin(libc::RTM_NEWADDR, NEW_OR_CHANGED, line, &header);
    // IFA_LOCAL is what IPv4 must have and IPv6 has for a peer only.
    if prefix.address.family() == Family::V4 {
        put_address(batch, libc::IFA_LOCAL, &prefix.address);
    } else {
        put_address(batch, libc::IFA_ADDRESS, &prefix.address);
        batch.number(libc::IFA_FLAGS, libc::IFA_F_NODAD);
    }
    batch.end();
}

/// A route of the message, or one of our own by which packets to an IPv6 address are taken in: the kernel leaves its own to a
/// worker (addrconf_dad_work), and the answer to the first packet may come before that. Ours is there at once, and goes after a minute.
fn add_route(
    batch: &mut Writer<'_>,
    line: u32,
    index: u32,
    to: &Prefix,
    by: Option<&Address>,
    is_local: bool,
) {
    const RTA_EXPIRES: u16 = 23; // linux/rtnetlink.h
    let scope = if by.is_some() {
        libc::RT_SCOPE_UNIVERSE
    } else {
        libc::RT_SCOPE_LINK
    };
    let mut header = rtmsg(family(&to.address), to.len, scope, 0);
    if is_local {
        [header[1], header[4], header[7]] = [128, libc::RT_TABLE_LOCAL, libc::RTN_LOCAL];
    }
    batch.begin(libc::RTM_NEWROUTE, NEW_OR_CHANGED, line, &header);
    if to.len > 0 {
        put_address(batch, libc::RTA_DST, &to.address);
    }
    if let Some(gateway) = by {
        put_address(batch, libc::RTA_GATEWAY, gateway);
    }
    batch.number(libc::RTA_OIF, index);
    if is_local {
        batch.number(RTA_EXPIRES, 60);
    }
    batch.end();
}

#[inline(never)]
fn put_address(batch: &mut Writer<'_>, kind: u16, address: &Address) {
    batch.attribute(kind, address.octets());
}

/// True when an answer to one of these requests means failure. EEXIST says that the same is there already.
pub fn is_refusal(errno: i32) -> bool {
    errno != 0 && errno != libc::EEXIST
}
