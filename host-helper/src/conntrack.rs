//! Connections that the kernel tracks (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`): those of a published port
//! are forgotten when it is published and when it goes. Address translation is decided by the first packet of a
//! connection. For UDP a client that goes on from the same port is the same connection for ever: it would keep reaching
//! whoever had the port before. So is one that connects by TCP from a port that it had used before, until the old
//! connection is forgotten: a minute when it was closed by one side, five days when it was by none.
//!
//! What led to a container that has ended is deleted by the kernel itself, where it can (6.8 on): that takes 0.2 ms. To look
//! for what leads elsewhere takes a dump, which locks every chain of the kernel's table in turn, 9 ms for 262,144 of them.
//! So it is done once for both families when there are few connections, and not at all when there are none, or very few of which
//! none is meant: `/proc` locks nothing, and tells all of an empty table in 0.15 ms.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use hawser::netlink::{Attributes, Message, Writer, read_u32};
use nix::errno::Errno;

use crate::error::{Refusal, twice};
use crate::netlink::{self, ACK, DUMP, Netlink};
use crate::publish::{Port, Protocol};
use crate::sysctl;

const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | 1) as u16; // IPCTNL_MSG_CT_GET
const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | 2) as u16; // IPCTNL_MSG_CT_DELETE

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Bits of the filter's flags, `net/netfilter/nf_internals.h`.
const BY_SOURCE: u32 = 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// What is deleted in one exchange.
const AT_ONCE: usize = 64;
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
    for some in ours.chunks(AT_ONCE) {
        delete(conntrack, some)?;
    }
    Ok(ours.len())
}

/// Forgets all connections that were opened to one of these addresses, or were led there. Nobody has them any more.
///
/// # Errors
/// As [`forget`].
pub fn forget_container(conntrack: &mut Netlink, addresses: &[IpAddr]) -> Result<(), Refusal> {
    forget_of(conntrack, addresses, CTA_TUPLE_REPLY)
}

/// Forgets all connections that one of these addresses has opened: what it may open is judged anew.
///
/// # Errors
/// As [`forget`].
pub fn forget_opened_by(conntrack: &mut Netlink, addresses: &[IpAddr]) -> Result<(), Refusal> {
    forget_of(conntrack, addresses, CTA_TUPLE_ORIG)
}

/// Forgets the connections of containers that have ended, with these addresses: those that were led there (`had_ports`), and those that they
/// have opened (`opened`: where there [`are_many`], as a rule). Where nothing is tracked nothing is left, and there is nobody to tell.
pub fn forget_ended(conntrack: &mut Netlink, addresses: &[IpAddr], had_ports: bool, opened: bool) {
    if had_ports {
        let _ = twice(|| forget_container(conntrack, addresses));
    }
    if opened {
        let _ = twice(|| forget_opened_by(conntrack, addresses));
    }
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
    let (original, reply) = if side == CTA_TUPLE_ORIG {
        (BY_SOURCE, 0)
    } else {
        (0, BY_SOURCE)
    };
    let write = |batch: &mut Writer, command, flags, sequence| {
        batch.begin(command, flags, sequence, &[libc::AF_INET as u8, 0, 0, 0]);
        let tuple = batch.open(nested(side));
        let ip = batch.open(nested(CTA_TUPLE_IP));
        batch.attribute(CTA_IP_V4_SRC, &address.octets());
        batch.close(ip);
        batch.close(tuple);
        write_flags(batch, original, reply);
        batch.end();
    };
    match conntrack.request(|batch, sequence| write(batch, DELETE, ACK, sequence)) {
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
    let nth = usize::from(side == CTA_TUPLE_REPLY);
    let is_meant = |line: &str| {
        let source = values(line, "src=").nth(nth).map(str::parse);
        source.is_some_and(|source| source.is_ok_and(|source: IpAddr| addresses.contains(&source)))
    };
    if addresses.is_empty() || may_be_there(conntrack, is_meant)? == 0 {
        return Ok(());
    }
    let mut found = Vec::new();
    let dumped = conntrack.exchange(
        |batch, sequence| {
            batch.begin(GET, DUMP, sequence, &[family as u8, 0, 0, 0]);
            batch.end();
            sequence
        },
        |message| {
            let entry = read(message).map(|(_, _, entry)| entry);
            found.extend(entry.filter(|entry| addresses.contains(&entry.source(side))));
        },
    );
    match dumped {
        // No connection tracking of this family.
        Err(refusal) if is_absent(refusal.errno) => return Ok(()),
        dumped => dumped?,
    }
    for some in found.chunks(AT_ONCE) {
        delete(conntrack, some)?;
    }
    Ok(())
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

fn is_absent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT
    )
}

/// A connection, as it is named in a deletion.
struct Entry {
    /// Who has opened it.
    from: IpAddr,
    /// Whom it was opened to.
    to: IpAddr,
    /// Who answers.
    by: IpAddr,
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

impl Entry {
    /// Who has sent the first packet, or the first answer.
    fn source(&self, side: u16) -> IpAddr {
        if side == CTA_TUPLE_ORIG {
            self.from
        } else {
            self.by
        }
    }
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
            let entry = read(message).filter(|(number, port, entry)| {
                if *number != protocol.number() {
                    return false;
                }
                let ports = wanted.get(port);
                ports.is_some_and(|ports| ports.iter().any(|port| of(port, entry.to)))
            });
            found.extend(entry.map(|(_, _, entry)| entry));
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

/// What of the tuples in a message counts.
fn write_flags(batch: &mut Writer, original: u32, reply: u32) {
    let filter = batch.open(nested(CTA_FILTER));
    batch.number(CTA_FILTER_ORIG_FLAGS, original);
    batch.number(CTA_FILTER_REPLY_FLAGS, reply);
    batch.close(filter);
}

fn nested(kind: u16) -> u16 {
    kind | libc::NLA_F_NESTED as u16
}

/// The protocol, the destination port and the rest of a connection that the kernel tells of.
fn read(message: &Message) -> Option<(u8, u16, Entry)> {
    let attributes = || Attributes::new(message.payload.get(4..).unwrap_or(&[]));
    let find = |wanted: u16| {
        attributes()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value.to_vec())
    };
    let tuple = find(CTA_TUPLE_ORIG)?;
    let reply = find(CTA_TUPLE_REPLY)?;
    let inner = |tuple: &[u8], wanted: u16| {
        let mut attributes = Attributes::new(tuple);
        let found = attributes.find(|(kind, _)| *kind == wanted);
        found.map(|(_, value)| value.to_vec())
    };
    let proto = inner(&tuple, CTA_TUPLE_PROTO)?;
    let number = *inner(&proto, CTA_PROTO_NUM)?.first()?;
    let port = inner(&proto, CTA_PROTO_DST_PORT).unwrap_or(vec![0; 2]);
    let to = address(
        &inner(&tuple, CTA_TUPLE_IP)?,
        [CTA_IP_V4_DST, CTA_IP_V6_DST],
    )?;
    let from = address(
        &inner(&tuple, CTA_TUPLE_IP)?,
        [CTA_IP_V4_SRC, CTA_IP_V6_SRC],
    )?;
    let by = address(
        &inner(&reply, CTA_TUPLE_IP)?,
        [CTA_IP_V4_SRC, CTA_IP_V6_SRC],
    )?;
    let entry = Entry {
        from,
        to,
        by,
        zone: find(CTA_ZONE),
        id: find(CTA_ID),
        tuple,
    };
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some((number, port, entry))
}

fn address(ip: &[u8], kinds: [u16; 2]) -> Option<IpAddr> {
    let (_, value) = Attributes::new(ip).find(|(kind, _)| kinds.contains(kind))?;
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
    }
}

fn delete(conntrack: &mut Netlink, entries: &[Entry]) -> Result<(), Refusal> {
    let deleted = conntrack.exchange(
        |batch, first| {
            let mut sequence = first;
            for entry in entries {
                let family = if entry.to.is_ipv4() {
                    libc::AF_INET
                } else {
                    libc::AF_INET6
                };
                batch.begin(DELETE, ACK, sequence, &[family as u8, 0, 0, 0]);
                batch.attribute(nested(CTA_TUPLE_ORIG), &entry.tuple);
                if let Some(zone) = &entry.zone {
                    batch.attribute(CTA_ZONE, zone);
                }
                if let Some(id) = &entry.id {
                    batch.attribute(CTA_ID, id);
                }
                batch.end();
                sequence += 1;
            }
            sequence - 1
        },
        |_| {},
    );
    match deleted {
        // Gone meanwhile; the others have been worked off all the same.
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
        deleted => deleted,
    }
}
