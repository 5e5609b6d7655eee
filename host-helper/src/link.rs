//! Links, addresses and routes of the host as the kernel tells them. Only `link/message.rs` knows what is in the messages of
//! netlink-packet-route, whose releases break often.

mod message;

use std::cell::Cell;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use hawser::netlink::{Attributes, Writer, ifaddrmsg, ifinfomsg, ndmsg, read_u32, rtmsg};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::error::Refusal;
use crate::netlink::{ACK, DUMP, Netlink, parse};
use crate::owner::Mark;

pub use message::{gone, links, used_of};

use message::{address, advertised, is_broadcast, neighbour, route};

/// `RTEXT_FILTER_SKIP_STATS` of `linux/rtnetlink.h`: we never look at counters, and they are most of an answer.
const SKIP_STATS: u32 = 1 << 3;
/// `RTM_F_FIB_MATCH` of `linux/rtnetlink.h`: answer with the route that matched, not with the resolved path.
const FIB_MATCH: u32 = 0x2000;

/// The length of struct ifinfomsg.
pub const IFINFOMSG: usize = 16;

/// What the kernel answers who asks for the route to a place that there is none to.
const IS_NO_ROUTE: [Errno; 6] = [
    Errno::ENETUNREACH,
    Errno::EHOSTUNREACH,
    Errno::EACCES,
    Errno::EINVAL,
    Errno::EAFNOSUPPORT,
    Errno::EOPNOTSUPP,
];

/// Refuses what no link of ours, at either end, can be called: what the kernel does (`dev_valid_name` in net/core/dev.c), its pattern
/// %d, and the names that directories of switches have.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
    let is_name = !name.is_empty() && name.len() < libc::IFNAMSIZ && name.bytes().all(is_plain);
    if is_name && !matches!(name, "." | ".." | "lo" | "all" | "default") {
        return Ok(());
    }
    Err("an interface's name has 1 to 15 characters, none of them a blank, / : or %, and is not lo, all or default".into())
}

/// Hardware address of an Ethernet link.
pub type Mac = [u8; 6];

/// A network interface.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Other names that it answers to.
    pub altnames: Vec<String>,
    /// "bridge", "veth" ..., empty for hardware.
    pub kind: String,
    /// Its alias, when that is one of ours.
    pub mark: Option<Mark>,
    /// Its hardware address, all zeroes when it has none of six bytes.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its MTU for IPv6 in bytes: a router may have advertised a smaller one. `None`: there is no IPv6 on it.
    pub mtu6: Option<u32>,
    /// Routers that advertise themselves there are believed, unless the host forwards IPv6 (`accept_ra`).
    pub heeds_routers: bool,
    /// IPv4 packets that come in by it are forwarded (`forwarding`).
    pub forwards4: bool,
    /// Its group (`ip link` shows it).
    pub group: u32,
    /// Administratively up.
    pub is_up: bool,
    /// What it is connected with is up too.
    pub has_carrier: bool,
    /// The number of the link that it leads to, of a veth the other end.
    pub peer: Option<u32>,
    /// The namespace that the number is meant in, as [`Netlink::namespace_id`] counts; none: this one.
    pub peer_netns: Option<i32>,
    /// The index of the bridge that it is a port of.
    pub controller: Option<u32>,
}

/// A route of the host.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where it leads to.
    pub destination: IpNet,
    /// The link that it leaves by; of several hops the first one's.
    pub link: Option<u32>,
    /// Those of its other hops.
    pub other_links: Vec<u32>,
    /// The router that it goes by.
    pub gateway: Option<IpAddr>,
    /// Leads to an address of this host itself.
    pub is_local: bool,
    /// Packets by it are dropped, or refused.
    pub leads_nowhere: bool,
    /// A router has advertised it.
    pub is_advertised: bool,
    /// The MTU that it has by itself, in bytes.
    pub mtu: Option<u32>,
    /// The number of its table.
    pub table: u32,
}

impl Route {
    /// The links that it leaves by.
    pub fn links(&self) -> impl Iterator<Item = u32> {
        self.link
            .into_iter()
            .chain(self.other_links.iter().copied())
    }
}

/// `AF_INET` or `AF_INET6`, as a netlink header has it.
pub fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    family as u8
}

/// The bytes of an address, as a netlink attribute has them.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

impl Netlink {
    /// The link of this name, altnames included.
    ///
    /// # Errors
    /// What the kernel says; no such link is `Ok(None)`.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>, Refusal> {
        // IFLA_IFNAME holds 15 bytes, IFLA_ALT_IFNAME 127 (linux/if.h); the kernel looks both up by either.
        let kind = if name.len() < libc::IFNAMSIZ {
            libc::IFLA_IFNAME
        } else {
            libc::IFLA_ALT_IFNAME
        };
        self.one_link(0, |batch| batch.string(kind, name))
    }

    /// The link of this index.
    ///
    /// # Errors
    /// As [`Netlink::find_link`].
    pub fn link(&mut self, index: u32) -> Result<Option<Link>, Refusal> {
        self.one_link(index, |_| {})
    }

    /// Deletes a link by its number, which no other gets; gone already is success.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Refusal> {
        let done = self.request(|batch, sequence| {
            batch.begin(libc::RTM_DELLINK, ACK, sequence, &ifinfomsg(index, 0, 0));
            batch.end();
        });
        match done {
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(()),
            done => done,
        }
    }

    /// Sets a link down by its number: nothing comes by it any more. Gone already is success.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_link_down(&mut self, index: u32) -> Result<(), Refusal> {
        let done = self.request(|batch, sequence| {
            let down = ifinfomsg(index, 0, libc::IFF_UP as u32);
            batch.begin(libc::RTM_NEWLINK, ACK, sequence, &down);
            batch.end();
        });
        match done {
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(()),
            done => done,
        }
    }

    fn one_link(
        &mut self,
        index: u32,
        name: impl Fn(&mut Writer),
    ) -> Result<Option<Link>, Refusal> {
        let answer = self.ask(|batch, sequence| {
            write_look(batch, sequence, index, &name);
        });
        match answer {
            Ok(found) => Ok(links(found).next()),
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// The number that this network namespace has for another one, if it has one: as soon as a link leads there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn namespace_id(&mut self, other: impl AsFd) -> Result<Option<i32>, Refusal> {
        const RTM_GETNSID: u16 = 90; // linux/rtnetlink.h
        const NETNSA_NSID: u16 = 1; // linux/net_namespace.h, as the next
        const NETNSA_FD: u16 = 3;
        let mut found = None;
        self.exchange(
            |batch, sequence| {
                batch.begin(RTM_GETNSID, ACK, sequence, &[0; 4]);
                batch.number(NETNSA_FD, other.as_fd().as_raw_fd() as u32);
                batch.end();
                sequence
            },
            |message| {
                for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                    if kind == NETNSA_NSID {
                        found = read_u32(value, 0).map(|id| id as i32).filter(|id| *id >= 0);
                    }
                }
            },
        )?;
        Ok(found)
    }

    /// All links: for `ls`, `down` and errors, never on the start path.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> Result<Vec<Link>, Refusal> {
        let found = self.ask(|batch, sequence| {
            batch.begin(libc::RTM_GETLINK, DUMP, sequence, &ifinfomsg(0, 0, 0));
            batch.number(libc::IFLA_EXT_MASK, SKIP_STATS);
            batch.end();
        })?;
        Ok(links(found).collect())
    }

    /// The addresses of a link, of both families, with the lengths of their prefixes; without link-local ones and those that
    /// are about to expire.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, Refusal> {
        let mut all = Vec::new();
        // One after the other: to tell of both at once, the kernel waits for the lock of all links (since Linux 6.10).
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let found = self.ask(|batch, sequence| {
                let header = ifaddrmsg(family, 0, 0, 0, index);
                batch.begin(libc::RTM_GETADDR, DUMP, sequence, &header);
                batch.end();
            })?;
            let addresses = found.into_iter().filter_map(address);
            // A kernel without IPv6 tells of IPv4 again.
            all.extend(addresses.filter(|net| self::family(net.addr()) == family));
        }
        Ok(all)
    }

    /// The numbers of the links that have an address which a router has advertised.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn advertised(&mut self) -> Result<Vec<u32>, Refusal> {
        let found = self.ask(|batch, sequence| {
            let header = ifaddrmsg(libc::AF_INET6 as u8, 0, 0, 0, 0);
            batch.begin(libc::RTM_GETADDR, DUMP, sequence, &header);
            batch.end();
        })?;
        Ok(found.into_iter().filter_map(advertised).collect())
    }

    /// All permanent neighbours: where leftovers are swept, never on the start path.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn permanent_neighbours(&mut self) -> Result<Vec<Neighbour>, Refusal> {
        let found = self.ask(|batch, sequence| {
            let header = ndmsg(libc::AF_UNSPEC as u8, 0, 0);
            batch.begin(libc::RTM_GETNEIGH, DUMP, sequence, &header);
            batch.end();
        })?;
        Ok(found.into_iter().filter_map(neighbour).collect())
    }

    /// All routes of both families and all tables, broadcast and multicast ones left out.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self) -> Result<Vec<Route>, Refusal> {
        let mut header = rtmsg(libc::AF_UNSPEC as u8, 0, 0, 0);
        header[4..].fill(0); // no filter: every table, protocol, scope and type
        let found = self.ask(|batch, sequence| {
            batch.begin(libc::RTM_GETROUTE, DUMP, sequence, &header);
            batch.end();
        })?;
        let found = found.into_iter().filter(|found| !is_broadcast(found));
        Ok(found.filter_map(route).collect())
    }

    /// The routes that packets to each of `addresses` match, or `None` when there is none at all: one exchange.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes_to(&mut self, addresses: &[IpAddr]) -> Result<Vec<Option<Route>>, Refusal> {
        let mut found = vec![None; addresses.len()];
        let first = Cell::new(0);
        let done = self.exchange(
            |batch, sequence| {
                first.set(sequence);
                let mut last = sequence;
                for (number, address) in (sequence..).zip(addresses) {
                    last = number;
                    let bytes = octets(*address);
                    let mut header = rtmsg(family(*address), bytes.len() as u8 * 8, 0, FIB_MATCH);
                    header[4..8].fill(0);
                    batch.begin(libc::RTM_GETROUTE, 0, number, &header);
                    batch.attribute(libc::RTA_DST, &bytes);
                    batch.end();
                }
                last
            },
            |message| {
                let place = found.get_mut((message.sequence - first.get()) as usize);
                if let (Some(place), Some(message)) = (place, parse(message)) {
                    *place = route(message);
                }
            },
        );
        match done {
            // A lookup that finds nothing, or an unreachable or prohibiting route, is an errno here; so is a family that
            // the kernel lacks.
            Err(refusal) if !IS_NO_ROUTE.contains(&refusal.errno) => Err(refusal),
            _ => Ok(found),
        }
    }
}

/// Asks for the link of this index, or of the name that `name` writes.
pub fn write_look(batch: &mut Writer, sequence: u32, index: u32, name: impl Fn(&mut Writer)) {
    batch.begin(libc::RTM_GETLINK, 0, sequence, &ifinfomsg(index, 0, 0));
    name(batch);
    batch.number(libc::IFLA_EXT_MASK, SKIP_STATS);
    batch.end();
}

/// The link is to get no IPv6 address that the kernel makes by itself.
pub fn write_no_own_addresses(batch: &mut Writer) {
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8; // linux/if_link.h, as the next: enum in6_addr_gen_mode
    const NONE: u8 = 1;
    let families = batch.open(libc::IFLA_AF_SPEC);
    let family = batch.open(libc::AF_INET6 as u16);
    batch.attribute(IFLA_INET6_ADDR_GEN_MODE, &[NONE]);
    batch.close(family);
    batch.close(families);
}

/// IPv4 packets that come in by the link are forwarded, whatever links are born with (`default.forwarding`). `/proc/sys` may be read-only.
pub fn write_forwarding(batch: &mut Writer) {
    const IFLA_INET_CONF: u16 = 1; // linux/if_link.h
    const IPV4_DEVCONF_FORWARDING: u16 = 1; // linux/ip.h
    let families = batch.open(libc::IFLA_AF_SPEC);
    let family = batch.open(libc::AF_INET as u16);
    let switches = batch.open(IFLA_INET_CONF);
    batch.number(IPV4_DEVCONF_FORWARDING, 1);
    batch.close(switches);
    batch.close(family);
    batch.close(families);
}

/// fe80::/10 (RFC 4291, section 2.4).
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// A neighbour that the kernel does not forget by itself.
#[derive(Debug)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// The link that it is behind.
    pub link: u32,
    /// Its hardware address.
    pub mac: Option<Mac>,
}
