//! `inet hawser`: who opens connections to whom; `nat.rs` has where published ports lead.

use Expression::{And, Is, IsNot, Load};
use Verdict::{Accept, Drop, Goto, Jump, Return};

use super::expression::{Expression, Field, Verdict};
use super::nat::nat_rules;
use super::object::{Chain, Family, Rule, Set, SetKind, Type};
use super::tables::*;
use super::words::*;

/// The table.
pub fn table() -> Table {
    let mut rules = Vec::new();
    for part in [
        prerouting_rules(),
        input_rules(),
        forward_rules(),
        from_rules(),
        to_rules(),
        egress_rules(),
        nat_rules(),
    ] {
        rules.extend(part);
    }
    Table {
        family: Family::Inet,
        chains: inet_chains(),
        sets: inet_sets(),
        rules,
    }
}

/// nft's names for priorities (linux/netfilter_ipv4.h, linux/netfilter_bridge.h).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

fn inet_chains() -> Vec<Chain> {
    use libc::{
        NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING,
        NF_INET_PRE_ROUTING,
    };
    vec![
        plain(USER),
        plain("refuse"),
        plain("egress"),
        plain("from"),
        plain("to"),
        hooked("prerouting", "filter", NF_INET_PRE_ROUTING, RAW),
        hooked("input", "filter", NF_INET_LOCAL_IN, FILTER),
        hooked("forward", "filter", NF_INET_FORWARD, FILTER),
        hooked("output", "filter", NF_INET_LOCAL_OUT, FILTER),
        hooked("nat_prerouting", "nat", NF_INET_PRE_ROUTING, DSTNAT),
        hooked("nat_output", "nat", NF_INET_LOCAL_OUT, DSTNAT),
        hooked("nat_postrouting", "nat", NF_INET_POST_ROUTING, SRCNAT),
    ]
}

fn inet_sets() -> Vec<Set> {
    use Type::{LinkGroup, LinkName, Port, Protocol};
    let set = |name, key| Set {
        name,
        key,
        value: &[],
        kind: SetKind::Hash,
    };
    let mut sets = vec![
        set(NETWORKS, &[LinkGroup, LinkGroup]),
        set(HAIRPIN, &[LinkName, LinkName]),
        set(LIMITED_PORTS, &[LinkName]),
        Set {
            value: &[Type::Ipv6, Type::Mark],
            ..set(TENANTS, &[LinkName])
        },
    ];
    for ip in IPS {
        let one: &'static [Type] = match ip.kind {
            Type::Ipv4 => &[Type::Ipv4],
            _ => &[Type::Ipv6],
        };
        let both: &'static [Type] = match ip.kind {
            Type::Ipv4 => &[Type::Ipv4, Type::Ipv4],
            _ => &[Type::Ipv6, Type::Ipv6],
        };
        let both_and_port: &'static [Type] = match ip.kind {
            Type::Ipv4 => &[Type::Ipv4, Type::Ipv4, Protocol, Port],
            _ => &[Type::Ipv6, Type::Ipv6, Protocol, Port],
        };
        let address_port: &'static [Type] = match ip.kind {
            Type::Ipv4 => &[Type::Ipv4, Protocol, Port],
            _ => &[Type::Ipv6, Protocol, Port],
        };
        let target: &'static [Type] = match ip.kind {
            Type::Ipv4 => &[Type::Ipv4, Port],
            _ => &[Type::Ipv6, Port],
        };
        let group: &'static [Type] = match ip.kind {
            Type::Ipv4 => &[Type::Ipv4, LinkGroup],
            _ => &[Type::Ipv6, LinkGroup],
        };
        let map = |name, key| Set {
            name,
            key,
            value: target,
            kind: SetKind::Hash,
        };
        sets.extend([
            map(ip.ports, &[Protocol, Port]),
            map(ip.address_ports, address_port),
            set(ip.open, address_port),
            set(ip.isolated, one),
            set(ip.internal, one),
            set(ip.connected, group),
            set(ip.limited, one),
            Set {
                kind: SetKind::Ranges,
                ..set(ip.egress, both)
            },
            Set {
                kind: SetKind::Ranges,
                ..set(ip.egress_ports, both_and_port)
            },
            Set {
                kind: SetKind::Counting,
                ..set(ip.refused, one)
            },
        ]);
    }
    sets
}

/// What comes in, from wherever: not to the host's loopback, whatever route_localnet says. And from containers: not from
/// an address that is not reached by the way that it comes from, nor what only a router says.
///
/// A port of a bridge is no way in: only frames to 01:80:c2:00:00:0x (IEEE 802.1D, table 7-10) are given to the host as
/// what the port has received and not the bridge, some of them past every hook of the bridge family.
fn prerouting_rules() -> Vec<Rule> {
    let chain = "prerouting";
    let source_route = Field::Route(
        NFT_FIB_RESULT_OIF,
        NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT,
    );
    let loopback6 = [&[0; 15][..], &[1]].concat();
    vec![
        rule(
            chain,
            &[
                ip_is(&V4),
                is(Field::Payload(NETWORK, 16, 1), &[127]),
                is_not(Field::Meta(NFT_META_IIF), &LOOPBACK.to_ne_bytes()),
                then(Drop),
            ],
        ),
        rule(
            chain,
            &[
                vec![
                    Load(IN_GROUP, 0),
                    And(OURS_OR_PORT_MASK.to_ne_bytes().to_vec()),
                    IsNot(OURS.to_ne_bytes().to_vec()),
                ],
                then(Accept),
            ],
        ),
        rule(chain, &[is(IN_GROUP, &PORT.to_ne_bytes()), then(Drop)]),
        rule(
            chain,
            &[ip_is(&V6), is(V6.destination, &loopback6), then(Drop)],
        ),
        rule(chain, &[icmp6(ROUTER_ADVERTISEMENT), then(Drop)]),
        rule(chain, &[icmp6(REDIRECT6), then(Drop)]),
        rule(chain, &[is(source_route, &[0; 4]), then(Drop)]),
    ]
}

/// From containers to the host itself; and the host's redirects, which would lead around the rules.
fn input_rules() -> Vec<Rule> {
    let chain = "input";
    let here = Field::Route(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF);
    let mut rules = vec![
        rule(chain, &[group_of_others(IN_GROUP), then(Accept)]),
        rule(chain, &[is_established(), then(Accept)]),
        rule(chain, &[icmp6(NEIGHBOUR_SOLICITATION), then(Accept)]),
        rule(chain, &[icmp6(NEIGHBOUR_ADVERTISEMENT), then(Accept)]),
    ];
    for ip in IPS {
        let from = |set| [ip_is(ip), is_in(&[ip.source], set)].concat();
        rules.push(rule(chain, &[from(ip.limited), then(Jump("egress"))]));
        let elsewhere = is_not(here, &LOCAL);
        rules.push(rule(
            chain,
            &[from(ip.internal), elsewhere, then(Goto("refuse"))],
        ));
    }
    // No way around: from a link-local address a limited container reaches nothing, and others nothing else than such addresses.
    let elsewhere = vec![
        Load(Field::Payload(NETWORK, 24, 1), 0),
        And(vec![0xfe]),
        IsNot(vec![0xfe]),
    ];
    for limit in [is_in(&[IN_NAME], LIMITED_PORTS), elsewhere] {
        let from = [ip_is(&V6), is_link_local()].concat();
        rules.push(rule(chain, &[from, limit, then(Goto("refuse"))]));
    }
    let redirect4 = [protocol(libc::IPPROTO_ICMP), is(ICMP_TYPE, &[REDIRECT4])].concat();
    for redirect in [redirect4, icmp6(REDIRECT6)] {
        rules.push(rule(
            "output",
            &[group_of_ours(OUT_GROUP), redirect, then(Drop)],
        ));
    }
    rules
}

fn forward_rules() -> Vec<Rule> {
    let chain = "forward";
    // Of the flags SYN and RST only SYN: byte 13 of TCP's header.
    let is_syn = vec![
        Load(Field::Payload(TRANSPORT, 13, 1), 0),
        And(vec![0x06]),
        Is(vec![0x02]),
    ];
    let clamp = vec![
        Load(Field::TcpSegment, 0),
        Expression::ToNetworkOrder,
        Expression::SetTcpSegment,
    ];
    let tcp = protocol(libc::IPPROTO_TCP);
    let mut rules = vec![rule(chain, &[then(Jump(USER))])];
    for side in [IN_GROUP, OUT_GROUP] {
        rules.push(rule(
            chain,
            &[
                group_of_ours(side),
                tcp.clone(),
                is_syn.clone(),
                clamp.clone(),
            ],
        ));
    }
    rules.extend([
        rule(chain, &[is_established(), then(Accept)]),
        rule(chain, &[group_of_ours(IN_GROUP), then(Jump("from"))]),
        rule(chain, &[group_of_ours(OUT_GROUP), then(Jump("to"))]),
    ]);
    rules
}

/// What a container may open.
fn from_rules() -> Vec<Rule> {
    let chain = "from";
    let mut rules = Vec::new();
    for ip in IPS {
        let limited = [ip_is(ip), is_in(&[ip.source], ip.limited)].concat();
        rules.push(rule(chain, &[limited, then(Jump("egress"))]));
    }
    // Whoever may not leave does not by way of a published port of another network either.
    let from = |ip: &Ip, set| [ip_is(ip), is_in(&[ip.source], set)].concat();
    for ip in IPS {
        let leaves = is_not_in(&[IN_GROUP, OUT_GROUP], NETWORKS);
        let internal = from(ip, ip.internal);
        rules.push(rule(chain, &[internal, leaves, then(Goto("refuse"))]));
    }
    rules.push(rule(chain, &[is_published(), then(Return)]));
    for ip in IPS {
        let isolated = [from(ip, ip.isolated), group_of_ours(OUT_GROUP)].concat();
        rules.push(rule(chain, &[isolated, then(Goto("refuse"))]));
    }
    rules
}

/// What may be opened to a container.
fn to_rules() -> Vec<Rule> {
    let chain = "to";
    let mut rules = vec![rule(chain, &[is_published(), then(Accept)])];
    for ip in IPS {
        let isolated = [ip_is(ip), is_in(&[ip.destination], ip.isolated)].concat();
        rules.push(rule(
            chain,
            &[isolated, group_of_ours(IN_GROUP), then(Goto("refuse"))],
        ));
    }
    rules.push(rule(
        chain,
        &[is_in(&[IN_GROUP, OUT_GROUP], NETWORKS), then(Accept)],
    ));
    for ip in IPS {
        // Not from elsewhere: who sends from there may say to be anybody.
        let from = [ip_is(ip), is_in(&[ip.source, OUT_GROUP], ip.connected)].concat();
        rules.push(rule(chain, &[group_of_ours(IN_GROUP), from, then(Accept)]));
        let to = [ip_is(ip), is_in(&[ip.destination, IN_GROUP], ip.connected)].concat();
        rules.push(rule(chain, &[to, then(Accept)]));
    }
    rules.push(rule(
        chain,
        &[group_of_ours(IN_GROUP), then(Goto("refuse"))],
    ));
    for ip in IPS {
        let open = is_in(&[ip.destination, PROTOCOL, DESTINATION_PORT], ip.open);
        rules.push(rule(chain, &[ip_is(ip), open, then(Accept)]));
    }
    rules.push(rule(chain, &[then(Goto("refuse"))]));
    rules
}

/// What a limited container may open, by where it wanted to; and the answer to the rest.
fn egress_rules() -> Vec<Rule> {
    let chain = "egress";
    let mut rules = Vec::new();
    for ip in IPS {
        let pair = [ip.source, ip.original_destination];
        let to = is_in(&pair, ip.egress);
        rules.push(rule(chain, &[ip_is(ip), to, then(Return)]));
        let four = [pair[0], pair[1], PROTOCOL, ORIGINAL_PORT];
        let to = is_in(&four, ip.egress_ports);
        rules.push(rule(chain, &[ip_is(ip), to, then(Return)]));
    }
    for ip in IPS {
        let counted = is_in(&[ip.source], ip.refused);
        rules.push(rule(chain, &[ip_is(ip), counted, then(Goto("refuse"))]));
    }
    rules.push(rule(chain, &[then(Goto("refuse"))]));
    rules.push(rule(
        "refuse",
        &[protocol(libc::IPPROTO_TCP), vec![Expression::Reset]],
    ));
    rules.push(rule("refuse", &[vec![Expression::Prohibit]]));
    rules
}
