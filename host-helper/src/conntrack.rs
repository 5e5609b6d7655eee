//! Connections that the kernel tracks (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`): those of a published port
//! are forgotten when it is published and when it goes. Address translation is decided by the first packet of a
//! connection. For UDP a client that goes on from the same port is the same connection for ever: it would keep reaching
//! whoever had the port before. So is one that connects by TCP from a port that it had used before, until the old
//! connection is forgotten: a minute when it was closed by one side, five days when it was by none.
//!
//! They are looked for in the kernel by protocol and port, and deleted one by one, by their whole tuple: kernels before
//! 6.8 take a deletion by port as one of everything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hawser::netlink::{Attributes, Message, Writer};
use nix::errno::Errno;

use crate::error::Refusal;
use crate::netlink::{ACK, DUMP, Netlink};
use crate::publish::{Port, Protocol};

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
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// What is deleted in one exchange.
const AT_ONCE: usize = 64;

/// Forgets the connections by these ports of the host's own addresses, but for those that lead to one of the addresses
/// `kept`. Gives how many.
///
/// # Errors
/// What the kernel says; one without connection tracking has none to forget.
pub fn forget(ports: &[Port], kept: &[IpAddr]) -> Result<usize, Refusal> {
    let mut count = 0;
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let mut wanted: Wanted = BTreeMap::new();
        for port in ports {
            if port.protocol == protocol && !port.is_loopback() {
                wanted.entry(port.host_port).or_default().push(*port);
            }
        }
        if !wanted.is_empty() {
            count += forget_some(protocol, &wanted, kept)?;
        }
    }
    Ok(count)
}

/// Ports of one protocol, by the host's.
type Wanted = BTreeMap<u16, Vec<Port>>;

fn forget_some(protocol: Protocol, wanted: &Wanted, kept: &[IpAddr]) -> Result<usize, Refusal> {
    let mut conntrack = Netlink::netfilter()?;
    let mut route = Netlink::route()?;
    let mut known: BTreeMap<IpAddr, bool> = BTreeMap::new();
    let mut count = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let found = match find(&mut conntrack, family as u8, protocol, wanted) {
            // No connection tracking, or not of this family.
            Err(refusal) if is_absent(refusal.errno) => continue,
            found => found?,
        };
        // A connection through this host to the same port of another is none of ours.
        let mut ours = Vec::new();
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
        count += ours.len();
        for some in ours.chunks(AT_ONCE) {
            delete(&mut conntrack, family as u8, some)?;
        }
    }
    Ok(count)
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
    /// Whom it was opened to.
    to: IpAddr,
    /// Who answers.
    by: IpAddr,
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
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
            write_filter(batch, protocol, one);
            batch.end();
            sequence
        },
        |message| {
            let of = |port: &Port, to| match port.address() {
                Some(address) => address == to,
                None => true,
            };
            let entry = read(message).filter(|(port, entry)| {
                let ports = wanted.get(port);
                ports.is_some_and(|ports| ports.iter().any(|port| of(port, entry.to)))
            });
            found.extend(entry.map(|(_, entry)| entry));
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
    let filter = batch.open(nested(CTA_FILTER));
    let by_port = port.map_or(0, |_| BY_DESTINATION_PORT);
    batch.number(CTA_FILTER_ORIG_FLAGS, BY_PROTOCOL | by_port);
    batch.number(CTA_FILTER_REPLY_FLAGS, 0);
    batch.close(filter);
}

fn nested(kind: u16) -> u16 {
    kind | libc::NLA_F_NESTED as u16
}

/// The destination port and the rest of a connection that the kernel tells of.
fn read(message: &Message) -> Option<(u16, Entry)> {
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
    let port = inner(&proto, CTA_PROTO_DST_PORT)?;
    let to = address(
        &inner(&tuple, CTA_TUPLE_IP)?,
        [CTA_IP_V4_DST, CTA_IP_V6_DST],
    )?;
    let by = address(
        &inner(&reply, CTA_TUPLE_IP)?,
        [CTA_IP_V4_SRC, CTA_IP_V6_SRC],
    )?;
    let entry = Entry {
        to,
        by,
        zone: find(CTA_ZONE),
        id: find(CTA_ID),
        tuple,
    };
    Some((u16::from_be_bytes(port.try_into().ok()?), entry))
}

fn address(ip: &[u8], kinds: [u16; 2]) -> Option<IpAddr> {
    let (_, value) = Attributes::new(ip).find(|(kind, _)| kinds.contains(kind))?;
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
    }
}

fn delete(conntrack: &mut Netlink, family: u8, entries: &[Entry]) -> Result<(), Refusal> {
    let deleted = conntrack.exchange(
        |batch, first| {
            let mut sequence = first;
            for entry in entries {
                batch.begin(DELETE, ACK, sequence, &[family, 0, 0, 0]);
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
