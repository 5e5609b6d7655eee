//! Answers of the kernel, as links, addresses, neighbours and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hawser::netlink::{Attributes, HEADER, Writer};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressProtocol};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, Prop,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};

use super::{IFINFOMSG, Link, Neighbour, Route, is_link_local};

/// Of a message about a link what a [`Link`] is made of: a bridge says some ninety things of itself, and to parse them all takes
/// longer than to ask for them.
pub fn used_of(payload: &[u8]) -> Vec<u8> {
    const USED: [u16; 9] = [
        libc::IFLA_IFNAME,
        libc::IFLA_IFALIAS,
        libc::IFLA_ADDRESS,
        libc::IFLA_MTU,
        libc::IFLA_LINK,
        libc::IFLA_LINK_NETNSID,
        libc::IFLA_GROUP,
        libc::IFLA_MASTER,
        libc::IFLA_PROP_LIST,
    ];
    const FAMILIES: [u16; 2] = [libc::AF_INET as u16, libc::AF_INET6 as u16];
    const SETTINGS: [u16; 2] = [1, 2]; // IFLA_INET_CONF and IFLA_INET6_CONF of linux/if_link.h
    let mut used = vec![0; HEADER + payload.len()];
    let mut writer = Writer::new(&mut used);
    let (header, attributes) = payload.split_at(payload.len().min(IFINFOMSG));
    writer.begin(0, 0, 0, header);
    for (kind, value) in Attributes::new(attributes) {
        match kind {
            libc::IFLA_LINKINFO => {
                let nest = writer.open(kind);
                copy(&mut writer, value, &[libc::IFLA_INFO_KIND]);
                writer.close(nest);
            }
            libc::IFLA_AF_SPEC => {
                let nest = writer.open(kind);
                for (family, settings) in of(value, &FAMILIES) {
                    let nest = writer.open(family);
                    copy(&mut writer, settings, &SETTINGS);
                    writer.close(nest);
                }
                writer.close(nest);
            }
            _ if USED.contains(&kind) => writer.attribute(kind, value),
            _ => {}
        }
    }
    writer.end();
    // Never longer than what was there.
    let len = writer.finish().map_or(HEADER, <[u8]>::len);
    used.truncate(len);
    used.drain(..HEADER);
    used
}

fn of<'a>(attributes: &'a [u8], kinds: &[u16]) -> impl Iterator<Item = (u16, &'a [u8])> {
    Attributes::new(attributes).filter(|(kind, _)| kinds.contains(kind))
}

fn copy(writer: &mut Writer, attributes: &[u8], kinds: &[u16]) {
    for (kind, value) in of(attributes, kinds) {
        writer.attribute(kind, value);
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Link {
            index: message.header.index,
            is_up: message.header.flags.contains(LinkFlags::Up),
            has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
            ..Link::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.mark = alias.parse().ok(),
                LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::PropList(names) => {
                    link.altnames
                        .extend(names.into_iter().filter_map(|name| match name {
                            Prop::AltIfName(name) => Some(name),
                            _ => None,
                        }))
                }
                LinkAttribute::AfSpecUnspec(families) => {
                    link.forwards4 = forwards4(&families);
                    if let Some(switches) = switches6(&families) {
                        link.mtu6 = u32::try_from(switches.mtu6).ok();
                        link.heeds_routers = switches.accept_ra != 0;
                    }
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

fn forwards4(families: &[AfSpecUnspec]) -> bool {
    let is_on =
        |setting: &AfSpecInet| matches!(setting, AfSpecInet::DevConf(all) if all.forwarding != 0);
    families
        .iter()
        .any(|family| matches!(family, AfSpecUnspec::Inet(settings) if settings.iter().any(is_on)))
}

/// The switches of a link that has IPv6.
fn switches6(families: &[AfSpecUnspec]) -> Option<&Inet6DevConf> {
    families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(settings) => settings.iter().find_map(|setting| match setting {
            AfSpecInet6::DevConf(switches) if switches.disable_ipv6 == 0 => Some(switches),
            _ => None,
        }),
        _ => None,
    })
}

pub(super) fn neighbour(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(four)) => {
                address = Some(four.into());
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(six)) => {
                address = Some(six.into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        link: message.header.ifindex,
        mac,
    })
}

pub(super) fn address(message: RouteNetlinkMessage) -> Option<IpNet> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let length = message.header.prefix_len;
    let is_ipv6 = message.header.family == AddressFamily::Inet6;
    let mut found: Option<IpNet> = None;
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Flags(flags)
                if is_ipv6
                    && flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated) =>
            {
                return None;
            }
            // IPv4 has both where there is somebody at the other end, IPv6 the first one only then.
            AddressAttribute::Local(address) => found = IpNet::new(address, length).ok(),
            AddressAttribute::Address(address) if found.is_none() => {
                found = IpNet::new(address, length).ok();
            }
            _ => {}
        }
    }
    found.filter(|found| !is_link_local(found.addr()))
}

/// The number of the link whose address a router has advertised.
pub(super) fn advertised(message: RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewAddress(address) = message else {
        return None;
    };
    let ra = AddressAttribute::Protocol(AddressProtocol::RouterAnnouncement);
    let is_advertised = address.attributes.contains(&ra);
    is_advertised.then_some(address.header.index)
}

/// The links among messages.
pub fn links(found: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
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

/// A route to the broadcast address of a LAN of the host's. It counts for who asks about that one address.
pub(super) fn is_broadcast(message: &RouteNetlinkMessage) -> bool {
    matches!(message, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Broadcast)
}

pub(super) fn route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage {
        header, attributes, ..
    }) = message
    else {
        return None;
    };
    if matches!(header.kind, RouteType::Multicast | RouteType::Anycast) {
        return None;
    }
    let length = header.destination_prefix_length;
    let unspecified = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route {
        destination: IpNet::new(unspecified, length).ok()?,
        link: None,
        other_links: Vec::new(),
        gateway: None,
        is_local: header.kind == RouteType::Local,
        leads_nowhere: matches!(
            header.kind,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw
        ),
        is_advertised: header.protocol == RouteProtocol::Ra,
        mtu: None,
        table: u32::from(header.table),
    };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = IpNet::new(plain(address)?, length).ok()?;
            }
            RouteAttribute::Gateway(address) => route.gateway = plain(address),
            RouteAttribute::Oif(index) => route.link = Some(index),
            RouteAttribute::MultiPath(hops) => {
                let mut links = hops.iter().map(|hop| hop.interface_index);
                route.link = links.next();
                route.other_links = links.collect();
            }
            // Numbers that the header has no room for.
            RouteAttribute::Table(table) => route.table = table,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(route)
}

fn plain(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(address.into()),
        RouteAddress::Inet6(address) => Some(address.into()),
        _ => None,
    }
}
