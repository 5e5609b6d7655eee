//! What the tables know of one network and of one container: elements of their sets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::object::{Element, Family};
use super::tables::{
    HAIRPIN, IPS, ISOLATED_PORTS, Ip, LIMITED_PORTS, NETWORKS, ROUTED_PORTS, TENANTS, V4, V6,
};
use super::{Policy, group, group_of, group_of_name};
use crate::attach::Attachment;
use crate::bridge::Network;
use crate::link::Mac;
use crate::owner::leased_address;
use crate::publish::{Port, Protocol};
use crate::reach::{Allowed, Egress, Reach};

/// Everything that is in the tables because of a container.
///
/// `resolvers` are those of its resolv.conf; `number` is its tenant's (see [`tenant_of`]).
pub fn of(
    attachment: &Attachment,
    number: u32,
    reach: &Reach,
    ports: &[Port],
    resolvers: &[IpAddr],
) -> Vec<Element> {
    let mut elements = of_network(&attachment.network);
    elements.push(tenant_of(attachment, number));
    elements.extend(of_sources(attachment));
    elements.extend(of_reach(attachment, reach, resolvers));
    elements.extend(of_ports(attachment, ports));
    elements
}

/// What is there for a network, and stays until `down`.
pub fn of_network(network: &Network) -> Vec<Element> {
    if !network.is_ours {
        return Vec::new();
    }
    match network.bridge {
        Some(_) => of_bridge(&network.name, network.policy),
        None => vec![passes_within(group_of(network))],
    }
}

/// What is there for a bridge of ours.
pub fn of_bridge(name: &str, policy: Policy) -> Vec<Element> {
    vec![passes_within(group(name, policy)), hairpin(name)]
}

/// Whether an element is there for a network, or for the ports of all who are on its bridge: it is not taken back with one container.
pub fn is_shared(element: &Element, network: &Network) -> bool {
    let is_hairpin = || network.bridge.is_some() && *element == hairpin(&network.name);
    of_network(network).contains(element) || is_hairpin()
}

fn passes_within(group: u32) -> Element {
    let group = group.to_ne_bytes();
    set(Family::Inet, NETWORKS, [group, group].concat())
}

/// The element that says that a container is there. It can be added again, but not by who has another number.
pub fn tenant_of(attachment: &Attachment, number: u32) -> Element {
    let veth = &attachment.veth;
    let address = bytes(veth.address6.unwrap_or(Ipv6Addr::UNSPECIFIED).into());
    Element {
        value: [&address[..], &number.to_ne_bytes()].concat(),
        ..tenant(&veth.name)
    }
}

/// The number in such an element.
pub fn number_of(tenant: &Element) -> Option<u32> {
    let (_, number) = tenant.value.split_at_checked(16)?;
    number.try_into().ok().map(u32::from_ne_bytes)
}

/// Which frames are its own. Without a bridge there are none but its own.
fn of_sources(attachment: &Attachment) -> Vec<Element> {
    let veth = &attachment.veth;
    if attachment.network.bridge.is_none() {
        return Vec::new();
    }
    let link_local = veth.link_local.map(IpAddr::V6);
    attachment
        .veth
        .addresses()
        .chain(link_local)
        .map(|address| {
            let key = [link_name(&veth.name), padded_mac(veth.mac), bytes(address)].concat();
            set(Family::Bridge, names_of(address).sources, key)
        })
        .collect()
}

/// What follows from whom it may reach.
pub fn of_reach(attachment: &Attachment, reach: &Reach, resolvers: &[IpAddr]) -> Vec<Element> {
    let mut elements = Vec::new();
    for address in attachment.veth.addresses() {
        let ip = names_of(address);
        let mut mark = |set_name| elements.push(set(Family::Inet, set_name, bytes(address)));
        if reach.isolated {
            mark(ip.isolated);
        }
        if reach.internal {
            mark(ip.internal);
        }
        if reach.egress != Egress::All {
            mark(ip.limited);
            mark(ip.refused);
        }
        for network in &reach.connect {
            let group = group_of_name(network).to_ne_bytes();
            let key = [&bytes(address)[..], &group].concat();
            elements.push(set(Family::Inet, ip.connected, key));
        }
        if let Egress::Only(allowed) = &reach.egress {
            elements.extend(of_egress(address, allowed, resolvers));
        }
    }
    if reach.egress != Egress::All {
        let family = match attachment.network.bridge {
            Some(_) => Family::Bridge,
            None => Family::Inet,
        };
        let name = link_name(&attachment.veth.name);
        elements.push(set(family, LIMITED_PORTS, name));
    }
    let bridge = attachment
        .network
        .bridge
        .filter(|_| attachment.network.is_ours && reach.is_routed());
    if let Some(bridge) = bridge {
        let name = &attachment.veth.name;
        elements.push(map(ROUTED_PORTS, link_name(name), bridge.mac));
        elements.extend(
            attachment
                .veth
                .addresses()
                .map(|address| map(names_of(address).routed, bytes(address), bridge.mac)),
        );
        if reach.isolated {
            elements.push(isolated(name));
        }
    }
    elements
}

/// RFC 1035, section 4.2
pub(super) const DNS: u16 = 53;

/// The ranges must not overlap: of nested ones the outer one is kept.
fn of_egress(source: IpAddr, allowed: &[Allowed], resolvers: &[IpAddr]) -> Vec<Element> {
    let ip = names_of(source);
    let mut everywhere = Vec::new();
    let mut by_port: Vec<((Protocol, u16), Vec<IpNet>)> = Vec::new();
    let mut add = |key, net| match by_port.iter_mut().find(|(of, _)| *of == key) {
        Some((_, nets)) => nets.push(net),
        None => by_port.push((key, vec![net])),
    };
    for entry in allowed {
        match entry {
            Allowed::Addresses(net) => everywhere.push(*net),
            Allowed::Port(net, protocol, port) => add((*protocol, *port), *net),
            Allowed::Resolvers => {
                for resolver in resolvers {
                    add((Protocol::Udp, DNS), IpNet::from(*resolver));
                    add((Protocol::Tcp, DNS), IpNet::from(*resolver));
                }
            }
        }
    }
    let same_family = |net: &IpNet| net.addr().is_ipv4() == source.is_ipv4();
    let disjoint = |nets: Vec<IpNet>| {
        let nets = nets.into_iter().filter(same_family).collect();
        IpNet::aggregate(&nets)
    };
    let range = |set_name, net: IpNet, rest: &[u8]| Element {
        key_end: Some([&bytes(source)[..], &bytes(net.broadcast()), rest].concat()),
        ..set(
            Family::Inet,
            set_name,
            [&bytes(source)[..], &bytes(net.network()), rest].concat(),
        )
    };
    let mut elements: Vec<Element> = disjoint(everywhere)
        .into_iter()
        .map(|net| range(ip.egress, net, &[]))
        .collect();
    for ((protocol, port), nets) in by_port {
        let rest = [padded(&[protocol.number()]), padded(&port.to_be_bytes())].concat();
        elements.extend(
            disjoint(nets)
                .into_iter()
                .map(|net| range(ip.egress_ports, net, &rest)),
        );
    }
    elements
}

/// What published ports need. Those on loopback addresses need nothing: the supervisor has them.
pub fn of_ports(attachment: &Attachment, ports: &[Port]) -> Vec<Element> {
    let mut seen = BTreeSet::new();
    let mut elements = Vec::new();
    for port in ports.iter().filter(|port| !port.is_loopback()) {
        let protocol = padded(&[port.protocol.number()]);
        let host_port = padded(&port.host_port.to_be_bytes());
        let inner_port = padded(&port.port.to_be_bytes());
        for address in attachment.veth.addresses() {
            if !port.has_family_of(address) {
                continue;
            }
            let ip = names_of(address);
            let target = [bytes(address), inner_port.clone()].concat();
            let (name, key) = match port.address() {
                Some(host) => (
                    ip.address_ports,
                    [bytes(host), protocol.clone(), host_port.clone()].concat(),
                ),
                None => (ip.ports, [protocol.clone(), host_port.clone()].concat()),
            };
            elements.push(Element {
                value: target,
                ..set(Family::Inet, name, key)
            });
            // By way of one address of the host is not by every way; to an open network every way is open, and this says
            // that it is we who lead there.
            if port.address().is_none() || attachment.network.policy != Policy::Guarded {
                let key = [bytes(address), protocol.clone(), inner_port.clone()].concat();
                elements.push(set(Family::Inet, ip.open, key));
            }
        }
    }
    // A bridge of ours has this already; a link of one container, or somebody else's bridge, needs it for its ports. There it stays (see
    // [`is_shared`]): no element says whether another container needs it.
    if !elements.is_empty() {
        let network = &attachment.network;
        match network.bridge {
            Some(_) if !network.is_ours => elements.push(hairpin(&network.name)),
            None => elements.push(hairpin(&attachment.veth.name)),
            Some(_) => {}
        }
    }
    elements.retain(|element| seen.insert(element.clone()));
    elements.sort_by_key(|element| element.set);
    elements
}

/// Without their values, the elements that lead a port of the host to somebody, as far as they can be named: one that is to be
/// reached by every address of the host is in the way of those of one address each, too (see [`is_of_port`]).
pub fn of_port(port: &Port) -> Vec<Element> {
    let protocol = padded(&[port.protocol.number()]);
    let host_port = padded(&port.host_port.to_be_bytes());
    let mut all = Vec::new();
    for (ip, is_reached) in [(&V4, port.has_ipv4()), (&V6, port.has_ipv6())] {
        if is_reached {
            let key = [protocol.clone(), host_port.clone()].concat();
            all.push(set(Family::Inet, ip.ports, key));
        }
    }
    if let Some(host) = port.address() {
        let key = [bytes(host), protocol, host_port].concat();
        all.push(set(Family::Inet, names_of(host).address_ports, key));
    }
    all
}

/// The sets of ports of one address each that such a port may be in the way of.
pub fn sets_of_addresses(port: &Port) -> impl Iterator<Item = &'static str> {
    let reached = [(&V4, port.has_ipv4()), (&V6, port.has_ipv6())];
    let is_every = port.address().is_none();
    let sets = reached
        .into_iter()
        .filter(move |(_, is_reached)| is_every && *is_reached);
    sets.map(|(ip, _)| ip.address_ports)
}

/// Whether an element of these is of the same port.
pub fn is_of_port(element: &Element, port: &Port) -> bool {
    let protocol = padded(&[port.protocol.number()]);
    let host_port = padded(&port.host_port.to_be_bytes());
    element.key.ends_with(&[protocol, host_port].concat())
}

/// The container's address that a port leads to.
pub fn target_of(element: &Element) -> Option<IpAddr> {
    match element.value.len() {
        8 => <[u8; 4]>::try_from(element.value.get(..4)?)
            .ok()
            .map(IpAddr::from),
        _ => <[u8; 16]>::try_from(element.value.get(..16)?)
            .ok()
            .map(IpAddr::from),
    }
}

/// The maps of ports of the host.
pub fn sets_of_ports() -> impl Iterator<Item = &'static str> {
    IPS.iter().flat_map(|ip| [ip.ports, ip.address_ports])
}

/// Whether an element is there because of the ports of a container with these addresses and this link.
pub fn is_of_ports_of(element: &Element, addresses: &[IpAddr], link: &str) -> bool {
    let is_port = sets_of_ports().any(|set| element.set == set);
    let is_opened = IPS.iter().any(|ip| element.set == ip.open) || element.set == HAIRPIN;
    (is_port || is_opened) && is_of(element, addresses, link)
}

/// Whether an element is there because of a container with one of these addresses, or of this link.
pub fn is_of(element: &Element, addresses: &[IpAddr], link: &str) -> bool {
    let is_port = sets_of_ports().any(|set| element.set == set);
    let begins = if is_port {
        &element.value
    } else {
        &element.key
    };
    // Not by the bytes alone: those of an IPv4 address may be the first ones of an IPv6 address, or of a link's name.
    match IPS.iter().find(|ip| ip.begins_with_container(element.set)) {
        Some(ip) => addresses
            .iter()
            .filter(|address| ip.number == names_of(**address).number)
            .any(|address| begins.starts_with(&bytes(*address))),
        None => element.set != NETWORKS && begins.starts_with(&link_name(link)),
    }
}

/// The element by which a container with this host end is known, without its value.
pub fn tenant(link: &str) -> Element {
    set(Family::Inet, TENANTS, link_name(link))
}

/// Who is known by this element: the name of the host end, and the addresses.
pub fn known(element: &Element) -> Option<(String, Vec<IpAddr>)> {
    if element.set != TENANTS {
        return None;
    }
    let name = element.key.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    let six: [u8; 16] = element.value.get(..16)?.try_into().ok()?;
    let six = Some(Ipv6Addr::from(six)).filter(|address| !address.is_unspecified());
    let four = leased_address(&name).map(IpAddr::V4);
    Some((name, four.into_iter().chain(six.map(IpAddr::V6)).collect()))
}

/// The element that counts what it was refused.
pub fn refused(address: IpAddr) -> Element {
    set(Family::Inet, names_of(address).refused, bytes(address))
}

fn names_of(address: IpAddr) -> &'static Ip {
    if address.is_ipv4() { &V4 } else { &V6 }
}

/// The element that keeps this host end's container from its neighbours.
pub fn isolated(link: &str) -> Element {
    set(Family::Bridge, ISOLATED_PORTS, link_name(link))
}

fn hairpin(link: &str) -> Element {
    let name = link_name(link);
    set(Family::Inet, HAIRPIN, [&name[..], &name[..]].concat())
}

fn set(family: Family, set: &'static str, key: Vec<u8>) -> Element {
    Element {
        family,
        set,
        key,
        key_end: None,
        value: Vec::new(),
    }
}

fn map(name: &'static str, key: Vec<u8>, mac: Mac) -> Element {
    Element {
        value: mac.to_vec(),
        ..set(Family::Bridge, name, key)
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A field of a key, which takes whole words.
fn padded(field: &[u8]) -> Vec<u8> {
    let mut bytes = field.to_vec();
    bytes.resize(field.len().next_multiple_of(4), 0);
    bytes
}

fn padded_mac(mac: Mac) -> Vec<u8> {
    padded(&mac)
}

fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(libc::IFNAMSIZ, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_one_container_do_not_overlap() {
        let Ok(Egress::Only(list)) =
            "10.0.0.0/8,10.1.0.0/16,192.0.2.1/32,10.2.0.0/16:443,10.2.3.0/24:443".parse()
        else {
            panic!("not a list");
        };
        let all = of_egress("172.19.0.2".parse().unwrap(), &list, &[]);
        assert_eq!(all.len(), 3, "{all:?}");
        let six = of_egress("fd00::2".parse().unwrap(), &list, &[]);
        assert!(six.is_empty(), "{six:?}");
    }

    #[test]
    fn an_address_that_begins_like_another_or_like_a_name_is_not_that() {
        let mark = |ip: &Ip, address: &str| {
            let address: IpAddr = address.parse().unwrap();
            set(Family::Inet, ip.limited, bytes(address))
        };
        // 32.1.13.184 has the bytes of 2001:db8::, and 104.119.97.99 those of "hwac".
        let four = "32.1.13.184".parse().unwrap();
        assert!(!is_of(&mark(&V6, "2001:db8::2"), &[four], "hw20010db8"));
        assert!(is_of(&mark(&V4, "32.1.13.184"), &[four], "hw20010db8"));
        let named = "104.119.97.99".parse().unwrap();
        assert!(!is_of(&tenant("hwac130002"), &[named], "hw68776163"));
        assert!(is_of(&tenant("hw68776163"), &[named], "hw68776163"));
    }

    #[test]
    fn what_begins_with_an_address_is_what_the_tables_say() {
        for one in super::super::tables::tables()
            .iter()
            .flat_map(|table| &table.sets)
        {
            let is_port = sets_of_ports().any(|set| one.name == set);
            let begins = if is_port { one.value } else { one.key }.first();
            for ip in IPS {
                let is_of_family = begins == Some(&ip.kind);
                assert_eq!(
                    ip.begins_with_container(one.name),
                    is_of_family,
                    "{}",
                    one.name
                );
            }
        }
    }
}
