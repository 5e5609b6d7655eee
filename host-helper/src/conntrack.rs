//! Connections that the kernel tracks (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`): those of a published port
//! are forgotten when it is published and when it goes. Address translation is decided by the first packet of a
//! connection. For UDP a client that goes on from the same port is the same connection for ever: it would keep reaching
//! whoever had the port before. So is one that connects by TCP from a port that it had used before, until the old
//! connection is forgotten: a minute when it was closed by one side, five days when it was by none.
//!
//! What is left of the last one at an address is deleted, for who has it now, by the kernel itself, where it can (6.8 on): that takes 0.2 ms. To
//! look for what leads elsewhere, or for what is not to be the next one's (`holder.rs`), takes a dump, which locks every chain of the kernel's table in turn, 9 ms for 262,144 of them.
//! So it is done once for both families when there are few connections, and not at all when there are none, or very few of which
//! none is meant: `/proc` locks nothing, and tells all of an empty table in 0.15 ms.

mod entry;
mod holder;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use hawser::netlink::{Writer, read_u32};
use nix::errno::Errno;

use crate::error::Refusal;
use crate::netlink::{self, ACK, DUMP, Netlink};
use crate::publish::{Port, Protocol};
use crate::sysctl;
pub use entry::Entry;
use entry::{
    CTA_PROTO_DST_PORT, CTA_PROTO_NUM, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_TUPLE_REPLY, DELETE,
    GET, delete, dump, is_absent, nested, read, write_flags, write_source,
};
pub use holder::{Holder, forget_ended, forget_opened_if};

/// Bits of the filter's flags, `net/netfilter/nf_internals.h`.
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// The connections of so few addresses are looked for by the kernel, one address after the other.
const SINGLY: usize = 8;
/// So few connections are told whole: a megabyte.
const FEW: u32 = 4096;
/// So few are looked at by way of `/proc` first, which takes 2 us for each.
const VERY_FEW: u32 = 1024;

/// Forgets the connections by these ports of the host's own addresses, but for those that lead to one of the addresses
/// `kept`. Gives how many. By a socket that is there: one that is closed after elements were deleted waits until the kernel has let
/// go of them (some 10 ms), whether it has deleted them itself or not.
///
/// # Errors
/// What the kernel says; one without connection tracking has none to forget.
pub fn forget(conntrack: &mut Netlink, ports: &[Port], kept: &[IpAddr]) -> Result<usize, Refusal> {
    let mut count = 0;
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let mut wanted: Wanted = BTreeMap::new();
        for port in ports {
            if port.protocol == protocol && !port.is_loopback() {
                wanted.entry(port.host_port).or_default().push(*port);
            }
        }
        if !wanted.is_empty() {
            count += forget_some(conntrack, protocol, &wanted, kept)?;
        }
    }
    Ok(count)
}

/// Ports of one protocol, by the host's.
type Wanted = BTreeMap<u16, Vec<Port>>;

fn forget_some(
    conntrack: &mut Netlink,
    protocol: Protocol,
    wanted: &Wanted,
    kept: &[IpAddr],
) -> Result<usize, Refusal> {
    let is_meant = |line: &str| {
        let port = values(line, "dport=").next().map(str::parse);
        port.is_some_and(|port| port.is_ok_and(|port: u16| wanted.contains_key(&port)))
    };
    let families: &[i32] = match may_be_there(conntrack, is_meant)? {
        0 => return Ok(0),
        1..=FEW => &[libc::AF_UNSPEC],
        _ => &[libc::AF_INET, libc::AF_INET6],
    };
    let mut route = Netlink::route()?;
    let mut known: BTreeMap<IpAddr, bool> = BTreeMap::new();
    let mut ours = Vec::new();
    for family in families {
        let found = match find(conntrack, *family as u8, protocol, wanted) {
            // No connection tracking of this family.
            Err(refusal) if is_absent(refusal.errno) => continue,
            found => found?,
        };
        // A connection through this host to the same port of another is none of ours.
        for entry in found.into_iter().filter(|entry| !kept.contains(&entry.by)) {
            let local = match known.get(&entry.to) {
                Some(local) => *local,
                None => is_local(&mut route, entry.to)?,
            };
            known.insert(entry.to, local);
            if local {
                ours.push(entry);
            }
        }
    }
    delete(conntrack, &ours)?;
    Ok(ours.len())
}

/// Forgets all connections that were opened to one of these addresses, or were led there. By whoever has them, and has had nobody
/// by them yet.
///
/// # Errors
/// As [`forget`].
pub fn forget_container(conntrack: &mut Netlink, addresses: &[IpAddr]) -> Result<(), Refusal> {
    forget_of(conntrack, addresses, CTA_TUPLE_REPLY)
}

/// The same of those that one of these addresses has opened.
///
/// # Errors
/// As [`forget`].
pub fn forget_opened_by(conntrack: &mut Netlink, addresses: &[IpAddr]) -> Result<(), Refusal> {
    forget_of(conntrack, addresses, CTA_TUPLE_ORIG)
}

/// Whether the host tracks many connections: one that has ended may have filled the table with those that it had opened, which the
/// kernel would keep for up to five days. Where they are few they end by themselves: so a peer that has not read yet what
/// it was sent hears of no reset. Asked without a socket, whose end may take long.
pub fn are_many() -> bool {
    // To find them takes the kernel a walk through all.
    const SHARE: u32 = 16;
    let number = |name: &str| -> Option<u32> {
        let value = sysctl::value(&format!("netfilter/nf_conntrack_{name}"));
        value.ok().flatten()?.parse().ok()
    };
    let is_of_many = |count: u32| number("max").is_some_and(|most| count > most / SHARE);
    number("count").is_some_and(|count| count > FEW && is_of_many(count))
}

/// `side`: whose source the addresses are, of the first packet's or of the answer's.
fn forget_of(conntrack: &mut Netlink, addresses: &[IpAddr], side: u16) -> Result<(), Refusal> {
    if entries(conntrack)? == 0 {
        return Ok(());
    }
    if addresses.len() > SINGLY {
        return forget_by_look(conntrack, libc::AF_UNSPEC, addresses.iter().collect(), side);
    }
    let mut v6 = BTreeSet::new();
    for address in addresses {
        match address {
            IpAddr::V4(v4) => forget_one(conntrack, *v4, side)?,
            IpAddr::V6(_) => drop(v6.insert(address)),
        }
    }
    // The kernel's comparison is the wrong way round for IPv6 (ctnetlink_filter_match_tuple() takes what ipv6_addr_cmp() gives for its
    // opposite): all others would be deleted.
    forget_by_look(conntrack, libc::AF_INET6, v6, side)
}

/// Those of one IPv4 address, which the kernel looks for.
fn forget_one(conntrack: &mut Netlink, address: Ipv4Addr, side: u16) -> Result<(), Refusal> {
    let done = conntrack.request(|batch, sequence| {
        batch.begin(DELETE, ACK, sequence, &[libc::AF_INET as u8, 0, 0, 0]);
        write_source(batch, address, side);
        batch.end();
    });
    match done {
        // An older kernel, which takes it for one connection, whose other half is missing.
        Err(refusal) if is_absent(refusal.errno) => {
            let address = IpAddr::V4(address);
            forget_by_look(conntrack, libc::AF_INET, BTreeSet::from([&address]), side)
        }
        Err(refusal) if refusal.errno != Errno::ENOENT => Err(refusal),
        _ => Ok(()),
    }
}

/// Those of all these addresses, with one look at all connections of a family.
fn forget_by_look(
    conntrack: &mut Netlink,
    family: i32,
    addresses: BTreeSet<&IpAddr>,
    side: u16,
) -> Result<(), Refusal> {
    let is_meant = |line: &str| is_from(line, side, |source| addresses.contains(source));
    if addresses.is_empty() || may_be_there(conntrack, is_meant)? == 0 {
        return Ok(());
    }
    let mut found = Vec::new();
    let is_meant = |entry: &Entry| addresses.contains(&entry.source(side));
    dump(conntrack, family, None, |entry| {
        found.extend(Some(entry).filter(is_meant));
    })?;
    delete(conntrack, &found)
}

/// Who has sent the first packet of this line of `/proc`, or the first answer.
fn is_from(line: &str, side: u16, is_meant: impl Fn(&IpAddr) -> bool) -> bool {
    let nth = usize::from(side == CTA_TUPLE_REPLY);
    let source = values(line, "src=").nth(nth).map(str::parse);
    source.is_some_and(|source| source.is_ok_and(|source| is_meant(&source)))
}

/// How many connections there are; none where none is meant, by its line in `/proc`.
fn may_be_there(conntrack: &mut Netlink, is_meant: impl Fn(&str) -> bool) -> Result<u32, Refusal> {
    let mut count = entries(conntrack)?;
    // It is told in pages: one may be passed over when another before it ends meanwhile. What has run out is counted, but not told, and
    // gone with that.
    for _ in 0..2 {
        if count == 0 || count > VERY_FEW {
            break;
        }
        let Ok(all) = std::fs::read_to_string("/proc/net/nf_conntrack") else {
            break;
        };
        if all.lines().any(&is_meant) {
            break;
        }
        if all.lines().count() >= count as usize {
            return Ok(0);
        }
        count = entries(conntrack)?;
    }
    Ok(count)
}

/// What is behind such a word in a line, once for the first packet's direction and once for the answer's.
fn values<'a>(line: &'a str, word: &str) -> impl Iterator<Item = &'a str> {
    let words = line.split_ascii_whitespace();
    words.filter_map(move |found| found.strip_prefix(word))
}

/// How many connections there are; none where the kernel tracks none.
fn entries(conntrack: &mut Netlink) -> Result<u32, Refusal> {
    const GET_STATS: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | 5) as u16; // IPCTNL_MSG_CT_GET_STATS
    const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
    let mut count = 0;
    let asked = conntrack.exchange(
        |batch, sequence| {
            // The answer says that more follows, and nothing does but the acknowledgement.
            batch.begin(GET_STATS, ACK, sequence, &[0; 4]);
            batch.end();
            sequence
        },
        |message| {
            let attributes = message.payload.get(4..).unwrap_or(&[]);
            let number = netlink::find(attributes, CTA_STATS_GLOBAL_ENTRIES);
            let number = number.and_then(|value| read_u32(value, 0));
            count = number.map_or(0, u32::from_be);
        },
    );
    match asked {
        Err(refusal) if is_absent(refusal.errno) => Ok(0),
        asked => asked.map(|()| count),
    }
}

fn is_local(route: &mut Netlink, address: IpAddr) -> Result<bool, Refusal> {
    let found = route.routes_to(&[address])?;
    Ok(found.into_iter().flatten().any(|route| route.is_local))
}

/// All connections to one of these ports, of whichever host.
fn find(
    conntrack: &mut Netlink,
    family: u8,
    protocol: Protocol,
    wanted: &Wanted,
) -> Result<Vec<Entry>, Refusal> {
    // One port is looked for by the kernel; of several, everything of the protocol is looked at here.
    let one = wanted.keys().next().copied().filter(|_| wanted.len() == 1);
    let mut found = Vec::new();
    conntrack.exchange(
        |batch, sequence| {
            batch.begin(GET, DUMP, sequence, &[family, 0, 0, 0]);
            if i32::from(family) != libc::AF_UNSPEC {
                write_filter(batch, protocol, one);
            }
            batch.end();
            sequence
        },
        |message| {
            let of = |port: &Port, to: IpAddr| match port.address() {
                Some(address) => address == to,
                None => port.has_family_of(to),
            };
            let is_meant = |entry: &Entry| {
                let ports = wanted.get(&entry.port);
                entry.protocol == protocol.number()
                    && ports.is_some_and(|ports| ports.iter().any(|port| of(port, entry.to)))
            };
            found.extend(read(message).filter(is_meant));
        },
    )?;
    Ok(found)
}

fn write_filter(batch: &mut Writer, protocol: Protocol, port: Option<u16>) {
    let tuple = batch.open(nested(CTA_TUPLE_ORIG));
    let proto = batch.open(nested(CTA_TUPLE_PROTO));
    batch.attribute(CTA_PROTO_NUM, &[protocol.number()]);
    if let Some(port) = port {
        batch.attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes());
    }
    batch.close(proto);
    batch.close(tuple);
    let by_port = port.map_or(0, |_| BY_DESTINATION_PORT);
    write_flags(batch, BY_PROTOCOL | by_port, 0);
}
