//! Links, addresses and routes of the host as the kernel tells them: the only module that knows the types of
//! netlink-packet-route, whose releases break often.

use std::net::{IpAddr, Ipv4Addr};

use hawser::netlink::{ifaddrmsg, ifinfomsg, rtmsg};
use ipnet::Ipv4Net;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;

use crate::error::Refusal;
use crate::netlink::{DUMP, Netlink};
use crate::owner::Mark;

/// `RTEXT_FILTER_SKIP_STATS` of `linux/rtnetlink.h`: we never look at counters, and they are most of an answer.
const SKIP_STATS: u32 = 1 << 3;
/// `RTM_F_FIB_MATCH` of `linux/rtnetlink.h`: answer with the route that matched, not with the resolved path.
const FIB_MATCH: u32 = 0x2000;

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
    /// Its group (`ip link` shows it).
    pub group: u32,
    /// Administratively up.
    pub is_up: bool,
    /// The index of the bridge that it is a port of.
    pub controller: Option<u32>,
}

/// A route of the host.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where it leads to.
    pub destination: Ipv4Net,
    /// The link that it leaves by.
    pub link: Option<u32>,
    /// The router that it goes by.
    pub gateway: Option<Ipv4Addr>,
    /// Leads to an address of this host itself.
    pub is_local: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Link {
            index: message.header.index,
            is_up: message.header.flags.contains(LinkFlags::Up),
            ..Link::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.mark = alias.parse().ok(),
                LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::PropList(names) => {
                    link.altnames
                        .extend(names.into_iter().filter_map(|name| match name {
                            Prop::AltIfName(name) => Some(name),
                            _ => None,
                        }))
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = kind.to_string();
                        }
                    }
                }
                _ => {}
            }
        }
        link
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

    fn one_link(
        &mut self,
        index: u32,
        name: impl Fn(&mut hawser::netlink::Writer),
    ) -> Result<Option<Link>, Refusal> {
        let answer = self.ask(|batch, sequence| {
            batch.begin(libc::RTM_GETLINK, 0, sequence, &ifinfomsg(index, 0, 0));
            name(batch);
            batch.number(libc::IFLA_EXT_MASK, SKIP_STATS);
            batch.end();
        });
        match answer {
            Ok(found) => Ok(links(found).next()),
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(refusal),
        }
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

    /// The IPv4 addresses of a link, with the lengths of their prefixes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Ipv4Net>, Refusal> {
        let found = self.ask(|batch, sequence| {
            let header = ifaddrmsg(libc::AF_INET as u8, 0, 0, 0, index);
            batch.begin(libc::RTM_GETADDR, DUMP, sequence, &header);
            batch.end();
        })?;
        let address = |message| match message {
            RouteNetlinkMessage::NewAddress(message) => {
                let length = message.header.prefix_len;
                message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Local(IpAddr::V4(address)) => {
                            Ipv4Net::new(*address, length).ok()
                        }
                        _ => None,
                    })
            }
            _ => None,
        };
        Ok(found.into_iter().filter_map(address).collect())
    }

    /// All IPv4 routes of all tables, broadcast and multicast ones left out.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self) -> Result<Vec<Route>, Refusal> {
        let mut header = rtmsg(libc::AF_INET as u8, 0, 0, 0);
        header[4..].fill(0); // no filter: every table, protocol, scope and type
        let found = self.ask(|batch, sequence| {
            batch.begin(libc::RTM_GETROUTE, DUMP, sequence, &header);
            batch.end();
        })?;
        Ok(found.into_iter().filter_map(route).collect())
    }

    /// The route that packets to `address` match, or `None` when there is none at all.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn route_to(&mut self, address: Ipv4Addr) -> Result<Option<Route>, Refusal> {
        let mut header = rtmsg(libc::AF_INET as u8, 32, 0, FIB_MATCH);
        header[4..8].fill(0);
        let answer = self.ask(|batch, sequence| {
            batch.begin(libc::RTM_GETROUTE, 0, sequence, &header);
            batch.attribute(libc::RTA_DST, &address.octets());
            batch.end();
        });
        match answer {
            Ok(found) => Ok(found.into_iter().find_map(route)),
            // A fib lookup that finds nothing, or an unreachable or prohibiting route, is an errno here.
            Err(r)
                if matches!(
                    r.errno,
                    Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL
                ) =>
            {
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        }
    }
}

fn links(found: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
    found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    })
}

/// The names of the links that these messages say are gone.
pub fn gone(messages: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
    messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::DelLink(message) => Some(Link::from(message)),
        _ => None,
    })
}

fn route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage {
        header, attributes, ..
    }) = message
    else {
        return None;
    };
    if matches!(
        header.kind,
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast
    ) {
        return None;
    }
    let mut route = Route {
        destination: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, header.destination_prefix_length).ok()?,
        link: None,
        gateway: None,
        is_local: header.kind == RouteType::Local,
    };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.destination = Ipv4Net::new(address, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(address),
            RouteAttribute::Oif(index) => route.link = Some(index),
            _ => {}
        }
    }
    Some(route)
}
