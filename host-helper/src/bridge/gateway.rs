//! The requests that give a link of the host its addresses: those of a bridge, or of a point-to-point host end.

use std::net::{IpAddr, Ipv6Addr};

use hawser::netlink::{Writer, ifaddrmsg, rtmsg};
use ipnet::IpNet;

use crate::link::{family, octets};
use crate::netlink::{ACK, CREATE};

/// Table and type of the two kinds of [`write_early_route`].
pub const LOCAL: (u8, u8) = (libc::RT_TABLE_LOCAL, libc::RTN_LOCAL);

/// See [`LOCAL`].
pub const UNICAST: (u8, u8) = (libc::RT_TABLE_MAIN, libc::RTN_UNICAST);

/// Writes the request that adds an address of the host, with the one at the other end when there is no subnet on the link. An
/// IPv6 one can be used at once.
pub fn write_address(
    batch: &mut Writer,
    sequence: u32,
    index: u32,
    address: IpNet,
    peer: Option<IpAddr>,
) {
    let scope = libc::RT_SCOPE_UNIVERSE;
    let header = ifaddrmsg(
        family(address.addr()),
        address.prefix_len(),
        0,
        scope,
        index,
    );
    batch.begin(libc::RTM_NEWADDR, CREATE | ACK, sequence, &header);
    batch.attribute(libc::IFA_LOCAL, &octets(address.addr()));
    let other = peer.unwrap_or(address.addr());
    batch.attribute(libc::IFA_ADDRESS, &octets(other));
    match address {
        IpNet::V4(net) if peer.is_none() => {
            batch.attribute(libc::IFA_BROADCAST, &net.broadcast().octets());
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => batch.number(libc::IFA_FLAGS, libc::IFA_F_NODAD),
    }
    batch.end();
}

/// Writes the request for a route that belongs to an IPv6 address of the host: the local one, by which packets to it are taken in,
/// or the one to the other end. The kernel leaves its own to a worker, and a container's first packet may come before that. This
/// one is there at once, and goes after a minute.
pub fn write_early_route(
    batch: &mut Writer,
    sequence: u32,
    index: u32,
    address: Ipv6Addr,
    (table, kind): (u8, u8),
) {
    const RTA_EXPIRES: u16 = 23; // linux/rtnetlink.h
    let mut header = rtmsg(libc::AF_INET6 as u8, 128, libc::RT_SCOPE_HOST, 0);
    [header[4], header[7]] = [table, kind];
    // Not exclusive: other host ends have the same address.
    let create = libc::NLM_F_CREATE as u16 | ACK;
    batch.begin(libc::RTM_NEWROUTE, create, sequence, &header);
    batch.attribute(libc::RTA_DST, &address.octets());
    batch.number(libc::RTA_OIF, index);
    batch.number(RTA_EXPIRES, 60);
    batch.end();
}
