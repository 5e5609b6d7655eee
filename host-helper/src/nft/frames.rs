//! `bridge hawser`: who the frames of containers say they are from, and which of them go up to the host.

use Expression::{Mapped, Then};
use Verdict::{Accept, Drop, Goto, Jump};

use super::expression::{Expression, Field, Verdict};
use super::object::{Chain, Family, Rule, Set, SetKind, Type};
use super::tables::*;
use super::words::*;

/// The table.
pub fn table() -> Table {
    let mut rules = frame_rules();
    rules.extend(server_rules());
    rules.extend(neighbour_rules());
    rules.extend(advertised_rules());
    rules.extend(bridge_rules());
    Table {
        family: Family::Bridge,
        chains: bridge_chains(),
        sets: bridge_sets(),
        rules,
    }
}

/// nft's names for priorities of bridges (linux/netfilter_bridge.h).
const BRIDGE_DSTNAT: i32 = -300;
const BRIDGE_FILTER: i32 = -200;

fn bridge_chains() -> Vec<Chain> {
    use libc::{NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_PRE_ROUTING};
    vec![
        plain("route"),
        plain("neighbours"),
        plain("solicitation"),
        plain("advertisement"),
        plain("routers"),
        plain("dhcp"),
        plain("arp"),
        plain("ipv6"),
        plain("ipv4"),
        hooked("prerouting", "filter", NF_INET_PRE_ROUTING, BRIDGE_DSTNAT),
        hooked("forward", "filter", NF_INET_FORWARD, BRIDGE_FILTER),
        hooked("output", "filter", NF_INET_LOCAL_OUT, BRIDGE_FILTER),
    ]
}

fn bridge_sets() -> Vec<Set> {
    use Type::{Ether, Ipv4, Ipv6, LinkName};
    let set = |name, key, value| Set {
        name,
        key,
        value,
        kind: SetKind::Hash,
    };
    vec![
        set(V4.sources, &[LinkName, Ether, Ipv4], &[]),
        set(V6.sources, &[LinkName, Ether, Ipv6], &[]),
        set(ROUTED_PORTS, &[LinkName], &[Ether]),
        set(V4.routed, &[Ipv4], &[Ether]),
        set(V6.routed, &[Ipv6], &[Ether]),
        set(ISOLATED_PORTS, &[LinkName], &[]),
        set(LIMITED_PORTS, &[LinkName], &[]),
    ]
}

/// Frames of containers: nobody speaks for another, and nobody for a router or a DHCP server.
///
/// What is too short to be looked at matches no rule, hence a rule for what passes and then a drop.
fn frame_rules() -> Vec<Rule> {
    let ether = |number: u16| is(ETHER_TYPE, &number.to_be_bytes());
    // 255 is reserved: what can be loaded is not it. It cannot when the header or a length in it is wrong.
    let is_well_formed = is_not(PROTOCOL, &[255]);
    let ours = |ip: &Ip| {
        let own = is_in(&[IN_NAME, ETHER_SOURCE, ip.source], ip.sources);
        [is_well_formed.clone(), own].concat()
    };
    let from_link_local = |ports| [is_in(&[IN_NAME], ports), is_link_local()].concat();
    // RFC 826: Ethernet and IPv4, and the sender's two addresses at 8 and 14.
    const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let arp_kind = Field::Payload(NETWORK, 0, 6);
    let arp_ether = Field::Payload(NETWORK, 8, 6);
    let arp_address = Field::Payload(NETWORK, 14, 4);
    let arp_frame = [IN_NAME, ETHER_SOURCE, arp_address];
    let arp_sender = [IN_NAME, arp_ether, arp_address];
    vec![
        rule(
            "prerouting",
            &[is_not(IN_GROUP, &PORT.to_ne_bytes()), then(Accept)],
        ),
        rule("prerouting", &[ether(V4.ether_type), then(Goto("ipv4"))]),
        rule("prerouting", &[ether(V6.ether_type), then(Goto("ipv6"))]),
        rule(
            "prerouting",
            &[ether(libc::ETH_P_ARP as u16), then(Goto("arp"))],
        ),
        rule("prerouting", &[then(Drop)]),
        rule("ipv4", &[is_not(PROTOCOL, &[TCP]), then(Jump("routers"))]),
        rule("ipv4", &[ours(&V4), then(Goto("route"))]),
        rule("ipv4", &[then(Drop)]),
        rule(
            "ipv6",
            &[is_not(PROTOCOL, &[TCP]), then(Jump("neighbours"))],
        ),
        rule("ipv6", &[from_link_local(LIMITED_PORTS), then(Drop)]),
        rule("ipv6", &[from_link_local(ISOLATED_PORTS), then(Drop)]),
        rule("ipv6", &[ours(&V6), then(Goto("route"))]),
        rule("ipv6", &[then(Drop)]),
        rule("arp", &[is_not(arp_kind, &ETHERNET_AND_IPV4), then(Drop)]),
        rule("arp", &[is_not_in(&arp_frame, V4.sources), then(Drop)]),
        rule("arp", &[is_in(&arp_sender, V4.sources), then(Accept)]),
        rule("arp", &[then(Drop)]),
    ]
}

/// What only routers and DHCP servers say. A client may read its answers from the link, and look at no port but its own.
fn server_rules() -> Vec<Rule> {
    let icmp4 = |kind: u8| [protocol(libc::IPPROTO_ICMP), is(ICMP_TYPE, &[kind])].concat();
    let igmp = |kind: u8| [protocol(libc::IPPROTO_IGMP), is(ICMP_TYPE, &[kind])].concat();
    let udp = protocol(libc::IPPROTO_UDP);
    let mut rules = vec![
        rule("routers", &[udp.clone(), then(Goto("dhcp"))]),
        rule("routers", &[icmp4(REDIRECT4), then(Drop)]),
        rule("routers", &[icmp4(ROUTER_ADVERTISEMENT4), then(Drop)]),
        rule("routers", &[igmp(MEMBERSHIP_QUERY4), then(Drop)]),
        rule("routers", &[igmp(MULTICAST_ROUTER4), then(Drop)]),
        rule("neighbours", &[udp, then(Goto("dhcp"))]),
    ];
    // RFC 2131 and RFC 8415: servers and clients.
    for port in [67u16, 547] {
        let from = is(SOURCE_PORT, &port.to_be_bytes());
        rules.push(rule("dhcp", &[from, then(Drop)]));
    }
    for port in [68u16, 546] {
        let to = is(DESTINATION_PORT, &port.to_be_bytes());
        rules.push(rule("dhcp", &[to, then(Drop)]));
    }
    // Reports are for routers, and each container sends some at its start: to all of the others, were they let through.
    for kind in [
        MEMBERSHIP_QUERY6,
        MEMBERSHIP_REPORT6,
        MEMBERSHIP_DONE6,
        MEMBERSHIP_REPORT6_V2,
        ROUTER_SOLICITATION,
        ROUTER_ADVERTISEMENT,
        REDIRECT6,
        MULTICAST_ROUTER6,
    ] {
        rules.push(rule("neighbours", &[icmp6(kind), then(Drop)]));
    }
    rules
}

/// Neighbour discovery (RFC 4861): as long as it has no option or one, the right one, which is looked at. Behind
/// extension headers, or with several options, it could not be. (Fragments of it the kernel throws away: RFC 6980.)
fn neighbour_rules() -> Vec<Rule> {
    let next_header = Field::Payload(NETWORK, 6, 1);
    let length = Field::Payload(NETWORK, 4, 2);
    let target = Field::Payload(TRANSPORT, 8, 16);
    let option_kind = Field::Payload(TRANSPORT, 24, 1);
    let option_ether = Field::Payload(TRANSPORT, 26, 6);
    let frame_of = |whose| is_not_in(&[IN_NAME, ETHER_SOURCE, whose], V6.sources);
    let mut rules = Vec::new();
    // The option with the sender's hardware address, and whose it is said to be.
    for (chain, kind, option, whose) in [
        ("solicitation", NEIGHBOUR_SOLICITATION, 1u8, V6.source),
        ("advertisement", NEIGHBOUR_ADVERTISEMENT, 2, target),
    ] {
        let plain = [libc::IPPROTO_ICMPV6 as u8];
        let option_of = is_in(&[IN_NAME, option_ether, whose], V6.sources);
        rules.extend([
            rule("neighbours", &[icmp6(kind), then(Goto(chain))]),
            rule(chain, &[is_not(next_header, &plain), then(Drop)]),
            rule(chain, &[frame_of(V6.source), then(Drop)]),
        ]);
        if whose != V6.source {
            rules.push(rule(chain, &[frame_of(whose), then(Drop)]));
        }
        rules.extend([
            rule(chain, &[is(length, &24u16.to_be_bytes()), then(Accept)]),
            rule(chain, &[is_not(length, &32u16.to_be_bytes()), then(Drop)]),
            rule(chain, &[is_not(option_kind, &[option]), then(Drop)]),
            rule(chain, &[option_of, then(Accept)]),
            rule(chain, &[then(Drop)]),
        ]);
    }
    rules
}

/// Whose frames are looked at is told of no router, be it one on a bridge of somebody else's, or that bridge itself: it would take the
/// addresses that are advertised, and may send nothing from them.
fn advertised_rules() -> Vec<Rule> {
    let is_to_port = is(OUT_GROUP, &PORT.to_ne_bytes());
    let advertised = icmp6(ROUTER_ADVERTISEMENT);
    ["forward", "output"]
        .map(|chain| rule(chain, &[advertised.clone(), is_to_port.clone(), then(Drop)]))
        .into()
}

/// From and to isolated and limited containers: by the host, whatever the frame says.
fn bridge_rules() -> Vec<Rule> {
    let up = vec![
        Expression::SetEtherDestination,
        Expression::Zero, // PACKET_HOST, linux/if_packet.h
        Expression::SetPacketType,
        Then(Accept),
    ];
    let ether = |number: u16| is(ETHER_TYPE, &number.to_be_bytes());
    let mut rules = vec![rule(
        "route",
        &[key(&[IN_NAME]), vec![Mapped(ROUTED_PORTS)], up.clone()],
    )];
    for ip in IPS {
        rules.push(rule(
            "route",
            &[
                ether(ip.ether_type),
                key(&[ip.destination]),
                vec![Mapped(ip.routed)],
                up.clone(),
            ],
        ));
    }
    for side in [IN_NAME, OUT_NAME] {
        rules.push(rule(
            "forward",
            &[is_in(&[side], ISOLATED_PORTS), then(Drop)],
        ));
    }
    rules.extend(link_local_rules());
    rules
}

/// What the host passes on along one bridge, to a link-local address too, is to reach no isolated container by it: that address is in no
/// set of the inet table, since others may have the same. Such a container sends nothing from it, but for neighbour discovery.
fn link_local_rules() -> Vec<Rule> {
    let chain = "output";
    let is_six = is(ETHER_TYPE, &V6.ether_type.to_be_bytes());
    vec![
        rule(
            chain,
            &[is_not_in(&[OUT_NAME], ISOLATED_PORTS), then(Accept)],
        ),
        rule(chain, &[icmp6(NEIGHBOUR_SOLICITATION), then(Accept)]),
        rule(chain, &[icmp6(NEIGHBOUR_ADVERTISEMENT), then(Accept)]),
        rule(chain, &[is_six, is_to_link_local(), then(Drop)]),
    ]
}
