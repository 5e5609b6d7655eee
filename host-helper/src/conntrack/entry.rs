//! A connection, as the kernel tells of it, and as it is named in a deletion.

use std::net::{IpAddr, Ipv4Addr};

use hawser::netlink::{Attributes, Message, Writer, read_u32};
use nix::errno::Errno;

use crate::error::Refusal;
use crate::netlink::{self, ACK, DUMP, Netlink};

pub(super) const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | 1) as u16; // IPCTNL_MSG_CT_GET
pub(super) const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | 2) as u16; // IPCTNL_MSG_CT_DELETE

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
pub(super) const CTA_PROTO_NUM: u16 = 1;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Of the bits of the filter's flags, `net/netfilter/nf_internals.h`.
const BY_SOURCE: u32 = 1;

/// What is deleted in one exchange.
const AT_ONCE: usize = 64;

/// A connection.
pub struct Entry {
    /// Who has opened it.
    pub from: IpAddr,
    /// Whom it was opened to.
    pub to: IpAddr,
    /// Who answers.
    pub by: IpAddr,
    /// The number of its protocol.
    pub protocol: u8,
    /// The port that it was opened to; 0 where the protocol has none.
    pub port: u16,
    /// Something has come back.
    pub is_answered: bool,
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

impl Entry {
    /// Who has sent the first packet, or the first answer.
    pub(super) fn source(&self, side: u16) -> IpAddr {
        if side == CTA_TUPLE_ORIG {
            self.from
        } else {
            self.by
        }
    }
}

/// What the kernel tells of a connection.
pub(super) fn read(message: &Message) -> Option<Entry> {
    const IPS_SEEN_REPLY: u32 = 1 << 1; // linux/netfilter/nf_conntrack_common.h
    let attributes = message.payload.get(4..).unwrap_or(&[]);
    let find = |wanted: u16| netlink::find(attributes, wanted);
    let tuple = find(CTA_TUPLE_ORIG)?;
    let reply = find(CTA_TUPLE_REPLY)?;
    let proto = netlink::find(tuple, CTA_TUPLE_PROTO)?;
    let port = netlink::find(proto, CTA_PROTO_DST_PORT).unwrap_or(&[0; 2]);
    let ip = netlink::find(tuple, CTA_TUPLE_IP)?;
    let status = find(CTA_STATUS).and_then(|value| read_u32(value, 0));
    Some(Entry {
        from: address(ip, [CTA_IP_V4_SRC, CTA_IP_V6_SRC])?,
        to: address(ip, [CTA_IP_V4_DST, CTA_IP_V6_DST])?,
        by: address(
            netlink::find(reply, CTA_TUPLE_IP)?,
            [CTA_IP_V4_SRC, CTA_IP_V6_SRC],
        )?,
        protocol: *netlink::find(proto, CTA_PROTO_NUM)?.first()?,
        port: u16::from_be_bytes(port.try_into().ok()?),
        is_answered: u32::from_be(status?) & IPS_SEEN_REPLY != 0,
        tuple: tuple.to_vec(),
        zone: find(CTA_ZONE).map(<[u8]>::to_vec),
        id: find(CTA_ID).map(<[u8]>::to_vec),
    })
}

fn address(ip: &[u8], kinds: [u16; 2]) -> Option<IpAddr> {
    let (_, value) = Attributes::new(ip).find(|(kind, _)| kinds.contains(kind))?;
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
    }
}

/// Asks for all connections of a family, or, of the kernels that can tell them apart, for those of one IPv4 address on one side.
///
/// # Errors
/// What the kernel says; one that tracks none of this family has none.
pub(super) fn dump(
    conntrack: &mut Netlink,
    family: i32,
    of: Option<(Ipv4Addr, u16)>,
    mut each: impl FnMut(Entry),
) -> Result<(), Refusal> {
    let dumped = conntrack.exchange(
        |batch, sequence| {
            batch.begin(GET, DUMP, sequence, &[family as u8, 0, 0, 0]);
            if let Some((address, side)) = of {
                write_source(batch, address, side);
            }
            batch.end();
            sequence
        },
        |message| {
            if let Some(entry) = read(message) {
                each(entry);
            }
        },
    );
    match dumped {
        Err(refusal) if is_absent(refusal.errno) => Ok(()),
        dumped => dumped,
    }
}

/// What only those match whose first packet or first answer is from this address.
pub(super) fn write_source(batch: &mut Writer, address: Ipv4Addr, side: u16) {
    let tuple = batch.open(nested(side));
    let ip = batch.open(nested(CTA_TUPLE_IP));
    batch.attribute(CTA_IP_V4_SRC, &address.octets());
    batch.close(ip);
    batch.close(tuple);
    let (original, reply) = if side == CTA_TUPLE_ORIG {
        (BY_SOURCE, 0)
    } else {
        (0, BY_SOURCE)
    };
    write_flags(batch, original, reply);
}

/// What of the tuples in a message counts.
pub(super) fn write_flags(batch: &mut Writer, original: u32, reply: u32) {
    let filter = batch.open(nested(CTA_FILTER));
    batch.number(CTA_FILTER_ORIG_FLAGS, original);
    batch.number(CTA_FILTER_REPLY_FLAGS, reply);
    batch.close(filter);
}

pub(super) fn nested(kind: u16) -> u16 {
    kind | libc::NLA_F_NESTED as u16
}

/// There is no connection tracking, or none of that kind.
pub(super) fn is_absent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT
    )
}

/// Deletes these very connections; another that has come in the place of one stays.
///
/// # Errors
/// What the kernel says; gone already is success.
pub(super) fn delete(conntrack: &mut Netlink, entries: &[Entry]) -> Result<(), Refusal> {
    for some in entries.chunks(AT_ONCE) {
        delete_some(conntrack, some)?;
    }
    Ok(())
}

fn delete_some(conntrack: &mut Netlink, entries: &[Entry]) -> Result<(), Refusal> {
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
