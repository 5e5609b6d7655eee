//! Frames that a test makes itself, sent and seen on a link of any network namespace.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;

use crate::process::DEADLINE;
use crate::{Netns, sys};

/// A hardware address.
pub type Mac = [u8; 6];
/// To everybody.
pub const BROADCAST: Mac = [0xff; 6];

/// All nodes of a link (RFC 4291, section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// EtherType of IPv4 (RFC 894).
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6 (RFC 2464).
pub const IPV6: u16 = 0x86dd;

/// One end of a link: everything that is sent and received there, as it is.
pub struct Wire(OwnedFd);

impl Wire {
    /// Of link `name` of that namespace.
    pub fn open(netns: &Netns, name: &str) -> Self {
        netns.enter(|| Self::here(name))
    }

    /// Of link `name` of the present namespace.
    pub fn here(name: &str) -> Self {
        let index = if_nametoindex(name).unwrap_or_else(|error| panic!("link {name}: {error}"));
        let socket = sys::packet_socket(index).expect("a packet socket (CAP_NET_RAW)");
        Self(socket)
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        // Frames sent by one processor arrive in that order.
        let mut first = CpuSet::new();
        let is_pinned = first
            .set(0)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &first));
        is_pinned.expect("stay on one processor");
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty()).expect("send a frame");
        assert_eq!(sent, frame.len(), "the whole frame is sent");
    }

    /// Receives until a frame is as wanted; gives all that came, the wanted one last.
    #[track_caller]
    pub fn until(&self, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let end = Instant::now() + DEADLINE;
        let mut all: Vec<Vec<u8>> = Vec::new();
        loop {
            let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()))
                .unwrap_or(PollTimeout::MAX);
            let ready = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], left);
            assert!(
                ready.unwrap_or(0) > 0,
                "the frame never came, but {}: {all:02x?}",
                all.len()
            );
            let mut buffer = vec![0; 65536];
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty());
            // The link may be down now.
            buffer.truncate(length.unwrap_or(0));
            let is_last = is_wanted(&buffer);
            all.push(buffer);
            if is_last {
                return all;
            }
        }
    }
}

/// A frame.
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// A host on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Its hardware address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address.
    pub ip6: Ipv6Addr,
    /// Its link-local address.
    pub link_local: Ipv6Addr,
}

/// An ARP packet about the sender's two addresses and the target's (RFC 826); 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    ]
    .concat()
}

/// An IPv4 packet (RFC 791). `options` are padded by who makes them.
pub fn ipv4_with(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let words = (20 + options.len()) / 4;
    let length = u16::try_from(words * 4 + payload.len()).expect("a packet's length");
    let mut header = [
        &[0x40 | words as u8, 0][..],
        &length.to_be_bytes(),
        &[0, 7],
        &fragment.to_be_bytes(),
        &[64, protocol, 0, 0],
        &from.octets(),
        &to.octets(),
        options,
    ]
    .concat();
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

/// The same without options, and whole.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(from, to, protocol, 0, &[], payload)
}

/// A UDP datagram (RFC 768) without a checksum, as IPv4 allows.
pub fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("a datagram's length");
    [from, to, length, 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .chain(data.iter().copied())
        .collect()
}

/// The first segment of a TCP connection, or with the flags given (RFC 9293), over IPv4.
pub fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let mut segment = [
        &from.1.to_be_bytes()[..],
        &to.1.to_be_bytes(),
        &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0],
    ]
    .concat();
    let length = segment.len() as u8;
    let pseudo = [
        &from.0.octets()[..],
        &to.0.octets(),
        &[0, libc::IPPROTO_TCP as u8, 0, length],
        &segment,
    ]
    .concat();
    let sum = checksum(&pseudo).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// An IPv6 packet (RFC 8200) with a hop limit of 255; `next` is what `payload` begins with.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a packet's length");
    [
        &[0x60, 0, 0, 0][..],
        &length.to_be_bytes(),
        &[next, 255],
        &from.octets(),
        &to.octets(),
        payload,
    ]
    .concat()
}

/// Gives UDP and ICMPv6 payloads over IPv6 their checksum, which is at `offset` of `payload`.
pub fn sealed(from: Ipv6Addr, to: Ipv6Addr, next: u8, offset: usize, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let length = u32::try_from(payload.len()).expect("a packet's length");
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &length.to_be_bytes(),
        &[0, 0, 0, next],
        &payload,
    ]
    .concat();
    let sum = checksum(&pseudo).to_be_bytes();
    payload[offset..offset + 2].copy_from_slice(&sum);
    payload
}

/// An ICMPv6 message with its checksum.
pub fn icmp6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0][..], body].concat();
    sealed(from, to, libc::IPPROTO_ICMPV6 as u8, 2, &message)
}

/// A router advertisement (RFC 4861, section 4.2): lifetime of half an hour, and a prefix for addresses.
pub fn advertised_router() -> Vec<u8> {
    let prefix: Ipv6Addr = "2001:db8:66::".parse().expect("a prefix");
    let seconds = 1800u32.to_be_bytes();
    [
        &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[3, 4, 64, 0xc0],
        &seconds,
        &seconds,
        &[0, 0, 0, 0],
        &prefix.octets(),
    ]
    .concat()
}

/// A UDP datagram over IPv6, with its checksum.
pub fn udp6(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    let datagram = udp(from.1, to.1, data);
    sealed(from.0, to.0, libc::IPPROTO_UDP as u8, 6, &datagram)
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The hardware address that goes with an IPv6 multicast address (RFC 2464, section 7).
pub fn multicast(group: Ipv6Addr) -> Mac {
    let octets = group.octets();
    [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
}
