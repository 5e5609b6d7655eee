//! The two tables as data: every chain, set and rule. Nothing of it depends on which containers there are: those are
//! elements of the sets (`elements.rs`). `tests/golden` has what `nft list ruleset` makes of it.
//!
//! `inet hawser` decides about packets of IPv4 and IPv6; `bridge hawser` about frames, which the other never sees: who
//! they say they are from, and that those of limited containers go up to the host, where `inet hawser` decides.

use super::expression::{Expression, Field, Verdict};
use super::message::{Chain, Family, Hook, Rule, Set, SetKind, Type};
use Expression::{And, In, Is, IsNot, Load, Mapped, NotIn, Then};
use Verdict::{Accept, Drop, Goto, Jump, Return};

/// The upper byte of the groups (`IFLA_GROUP`) of our bridges and of the host ends of point-to-point containers; the
/// rest tells the network. "h" in ASCII.
pub const OURS: u32 = 0x6800_0000;
/// Which part of a group that is.
pub const OURS_MASK: u32 = 0xff00_0000;
/// The group of the host ends that are ports of a bridge, whoever's.
pub const PORT: u32 = 0x6900_0000;
/// What both have in common.
const OURS_OR_PORT_MASK: u32 = 0xfe00_0000;
/// The number of `lo`, in each network namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LOOPBACK: u32 = 1;

/// The admin's chain: made once, never changed.
pub const USER: &str = "user";

/// A version of IP, and the names of what there is for each.
pub struct Ip {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    number: i32,
    ether_type: u16,
    kind: Type,
    source: Field,
    destination: Field,
    original_destination: Field,
    /// In the inet table. Host port to container.
    pub ports: &'static str,
    /// Host address and port to container.
    pub address_ports: &'static str,
    /// Container's address and port that may be reached without translation.
    pub open: &'static str,
    /// Neither reaches its neighbours nor is reached by them.
    pub isolated: &'static str,
    /// Reaches nothing outside its network.
    pub internal: &'static str,
    /// Reaches this other network, and is reached from it.
    pub connected: &'static str,
    /// May only open the connections in the next two sets.
    pub limited: &'static str,
    /// To these addresses.
    pub egress: &'static str,
    /// To these addresses at these ports.
    pub egress_ports: &'static str,
    /// Counts what was refused.
    pub refused: &'static str,
    /// In the bridge table. Which addresses a port may send from.
    pub sources: &'static str,
    /// Addresses that frames to take the way through the host, and the host's hardware address there.
    pub routed: &'static str,
}

const NFT_META_IIF: u32 = 4;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_META_IIFGROUP: u32 = 21;
const NFT_META_OIFGROUP: u32 = 22;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
const NFT_CT_PROTO_DST: u32 = 12;
const NFT_CT_DST_IP: u32 = 20;
const NFT_CT_DST_IP6: u32 = 22;
/// Headers of a packet.
const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// IPv4.
pub const V4: Ip = Ip {
    number: libc::NFPROTO_IPV4,
    ether_type: libc::ETH_P_IP as u16,
    kind: Type::Ipv4,
    source: Field::Payload(NETWORK, 12, 4),
    destination: Field::Payload(NETWORK, 16, 4),
    original_destination: Field::Original(NFT_CT_DST_IP),
    ports: "ports4",
    address_ports: "address_ports4",
    open: "open4",
    isolated: "isolated4",
    internal: "internal4",
    connected: "connected4",
    limited: "limited4",
    egress: "egress4",
    egress_ports: "egress_ports4",
    refused: "refused4",
    sources: "sources4",
    routed: "routed4",
};

/// IPv6.
pub const V6: Ip = Ip {
    number: libc::NFPROTO_IPV6,
    ether_type: libc::ETH_P_IPV6 as u16,
    kind: Type::Ipv6,
    source: Field::Payload(NETWORK, 8, 16),
    destination: Field::Payload(NETWORK, 24, 16),
    original_destination: Field::Original(NFT_CT_DST_IP6),
    ports: "ports6",
    address_ports: "address_ports6",
    open: "open6",
    isolated: "isolated6",
    internal: "internal6",
    connected: "connected6",
    limited: "limited6",
    egress: "egress6",
    egress_ports: "egress_ports6",
    refused: "refused6",
    sources: "sources6",
    routed: "routed6",
};

/// Both.
pub const IPS: [&Ip; 2] = [&V4, &V6];

/// The host end of each container, with its IPv6 address, and a number that no other has had there: whose link is not there was
/// left over, and who has another number has lost it to the next.
pub const TENANTS: &str = "tenants";
/// Pairs of groups between which packets pass: each network's own, twice.
pub const NETWORKS: &str = "networks";
/// Pairs of links between which a published port needs masquerading: each bridge's own, twice.
pub const HAIRPIN: &str = "hairpin";
/// In the bridge table. Ports whose frames go up to the host, and its hardware address there.
pub const ROUTED_PORTS: &str = "routed_ports";
/// Ports that no frame passes between.
pub const ISOLATED_PORTS: &str = "isolated_ports";

/// In both. Links of limited containers: a link-local address is in none of the sets of addresses, since others may have the same.
pub const LIMITED_PORTS: &str = "limited_ports";

const IN_GROUP: Field = Field::Meta(NFT_META_IIFGROUP);
const OUT_GROUP: Field = Field::Meta(NFT_META_OIFGROUP);
const IN_NAME: Field = Field::Meta(NFT_META_IIFNAME);
const OUT_NAME: Field = Field::Meta(NFT_META_OIFNAME);
const PROTOCOL: Field = Field::Meta(NFT_META_L4PROTO);
const SOURCE_PORT: Field = Field::Payload(TRANSPORT, 0, 2);
const DESTINATION_PORT: Field = Field::Payload(TRANSPORT, 2, 2);
const ORIGINAL_PORT: Field = Field::Original(NFT_CT_PROTO_DST);
const ICMP_TYPE: Field = Field::Payload(TRANSPORT, 0, 1);
const ETHER_SOURCE: Field = Field::Payload(LINK, 6, 6);
const ETHER_TYPE: Field = Field::Payload(LINK, 12, 2);

const TCP: u8 = libc::IPPROTO_TCP as u8;
// ICMPv6, RFC 4861; ICMP, RFC 792 and RFC 1256.
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT6: u8 = 137;
const REDIRECT4: u8 = 5;
const ROUTER_ADVERTISEMENT4: u8 = 9;
// Who asks for members of groups gets all that is sent to any: MLD (RFC 2710), IGMP (RFC 2236), and RFC 4286 of both.
const MEMBERSHIP_QUERY6: u8 = 130;
const MULTICAST_ROUTER6: u8 = 151;
const MEMBERSHIP_QUERY4: u8 = 0x11;
const MULTICAST_ROUTER4: u8 = 0x30;

/// All of a table.
#[derive(Debug)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its chains; [`USER`] is among them.
    pub chains: Vec<Chain>,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Both tables.
pub fn tables() -> [Table; 2] {
    [inet(), bridge()]
}

fn inet() -> Table {
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

fn bridge() -> Table {
    let mut rules = frame_rules();
    rules.extend(server_rules());
    rules.extend(neighbour_rules());
    rules.extend(bridge_rules());
    Table {
        family: Family::Bridge,
        chains: bridge_chains(),
        sets: bridge_sets(),
        rules,
    }
}

/// nft's names for priorities (linux/netfilter_ipv4.h, linux/netfilter_bridge.h).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;
const BRIDGE_DSTNAT: i32 = -300;
const BRIDGE_FILTER: i32 = -200;

fn hooked(name: &'static str, kind: &'static str, number: i32, priority: i32) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            kind,
            number,
            priority,
        }),
    }
}

fn plain(name: &'static str) -> Chain {
    Chain { name, hook: None }
}

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

/// Loads fields one behind the other, as a key has them.
fn key(fields: &[Field]) -> Vec<Expression> {
    let mut word = 0;
    fields
        .iter()
        .map(|field| {
            let load = Load(*field, word);
            word += match field {
                Field::Meta(NFT_META_IIFNAME | NFT_META_OIFNAME) => 4,
                Field::Original(NFT_CT_DST_IP6) => 4,
                Field::Payload(_, _, bytes) => bytes.div_ceil(4),
                _ => 1,
            };
            load
        })
        .collect()
}

fn rule(chain: &'static str, parts: &[Vec<Expression>]) -> Rule {
    Rule {
        chain,
        expressions: parts.concat(),
    }
}

fn then(verdict: Verdict) -> Vec<Expression> {
    vec![Then(verdict)]
}

/// Goes on when the fields together are in the set.
fn is_in(fields: &[Field], set: &'static str) -> Vec<Expression> {
    [key(fields), vec![In(set)]].concat()
}

/// Goes on when they are not.
fn is_not_in(fields: &[Field], set: &'static str) -> Vec<Expression> {
    [key(fields), vec![NotIn(set)]].concat()
}

fn is(field: Field, value: &[u8]) -> Vec<Expression> {
    vec![Load(field, 0), Is(value.to_vec())]
}

fn is_not(field: Field, value: &[u8]) -> Vec<Expression> {
    vec![Load(field, 0), IsNot(value.to_vec())]
}

/// Groups of links are in host byte order.
fn group_of_ours(field: Field) -> Vec<Expression> {
    vec![
        Load(field, 0),
        And(OURS_MASK.to_ne_bytes().to_vec()),
        Is(OURS.to_ne_bytes().to_vec()),
    ]
}

fn group_of_others(field: Field) -> Vec<Expression> {
    vec![
        Load(field, 0),
        And(OURS_MASK.to_ne_bytes().to_vec()),
        IsNot(OURS.to_ne_bytes().to_vec()),
    ]
}

/// Of an IPv6 packet: its source is in fe80::/10.
fn is_link_local() -> Vec<Expression> {
    vec![
        Load(Field::Payload(NETWORK, 8, 2), 0),
        And(vec![0xff, 0xc0]),
        Is(vec![0xfe, 0x80]),
    ]
}

/// In the inet table: the version of IP.
fn ip_is(ip: &Ip) -> Vec<Expression> {
    is(Field::Meta(NFT_META_NFPROTO), &[ip.number as u8])
}

fn protocol(number: i32) -> Vec<Expression> {
    is(PROTOCOL, &[number as u8])
}

fn icmp6(kind: u8) -> Vec<Expression> {
    [protocol(libc::IPPROTO_ICMPV6), is(ICMP_TYPE, &[kind])].concat()
}

/// Connections that are let through, and what belongs to them.
fn is_established() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4; // NF_CT_STATE_BIT of both, as nft has them
    vec![
        Load(Field::Connection(NFT_CT_STATE), 0),
        And(ESTABLISHED_OR_RELATED.to_ne_bytes().to_vec()),
        IsNot(vec![0; 4]),
    ]
}

/// Connections to a published port.
fn is_published() -> Vec<Expression> {
    const IPS_DST_NAT: u32 = 1 << 5; // linux/netfilter/nf_conntrack_common.h
    vec![
        Load(Field::Connection(NFT_CT_STATUS), 0),
        And(IPS_DST_NAT.to_ne_bytes().to_vec()),
        IsNot(vec![0; 4]),
    ]
}

const NFT_FIB_RESULT_OIF: u32 = 1;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_SADDR: u32 = 1;
const NFTA_FIB_F_DADDR: u32 = 2;
const NFTA_FIB_F_IIF: u32 = 8;
const NFTA_FIB_F_PRESENT: u32 = 32;
/// `RTN_LOCAL`, in host byte order.
const LOCAL: [u8; 4] = (libc::RTN_LOCAL as u32).to_ne_bytes();

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

/// Published ports, and the way out.
fn nat_rules() -> Vec<Rule> {
    let local = Field::Route(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR);
    let is_local = is(local, &LOCAL);
    let loopback6 = [&[0; 15][..], &[1]].concat();
    // Loopback ports are the supervisor's: the kernel would have to be told to route what must never be routed.
    let mut rules = vec![
        rule(
            "nat_output",
            &[
                ip_is(&V4),
                is(Field::Payload(NETWORK, 16, 1), &[127]),
                then(Accept),
            ],
        ),
        rule(
            "nat_output",
            &[ip_is(&V6), is(V6.destination, &loopback6), then(Accept)],
        ),
    ];
    // Whoever may not leave is not led elsewhere: the host refuses it at its own addresses.
    for ip in IPS {
        let internal = [ip_is(ip), is_in(&[ip.source], ip.internal)].concat();
        rules.push(rule("nat_prerouting", &[internal, then(Accept)]));
    }
    for chain in ["nat_prerouting", "nat_output"] {
        for ip in IPS {
            let to = Expression::Destination(ip.number as u32, ip.kind.padded() as u32 / 4);
            let by_address = key(&[ip.destination, PROTOCOL, DESTINATION_PORT]);
            let by_port = key(&[PROTOCOL, DESTINATION_PORT]);
            for (fields, map) in [(by_address, ip.address_ports), (by_port, ip.ports)] {
                let mapped = vec![Mapped(map), to.clone()];
                rules.push(rule(chain, &[ip_is(ip), is_local.clone(), fields, mapped]));
            }
        }
    }
    rules.extend([
        rule(
            "nat_postrouting",
            &[
                group_of_ours(IN_GROUP),
                group_of_others(OUT_GROUP),
                vec![Expression::Masquerade],
            ],
        ),
        // Else the answer would go straight back, and be from nobody whom the client has asked.
        rule(
            "nat_postrouting",
            &[
                is_published(),
                is_in(&[IN_NAME, OUT_NAME], HAIRPIN),
                vec![Expression::Masquerade],
            ],
        ),
        // The same of frames that are rewritten on their bridge (bridge-nf-call): they come in by no link that a rule
        // could name here. What the host itself has sent does not either, and keeps its address.
        rule(
            "nat_postrouting",
            &[vec![Load(IN_NAME, 0), IsNot(vec![0; 16]), Then(Accept)]],
        ),
        rule(
            "nat_postrouting",
            &[
                is_published(),
                is_not(
                    Field::Route(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR),
                    &LOCAL,
                ),
                is_in(&[OUT_NAME, OUT_NAME], HAIRPIN),
                vec![Expression::Masquerade],
            ],
        ),
    ]);
    rules
}

fn bridge_chains() -> Vec<Chain> {
    use libc::{NF_INET_FORWARD, NF_INET_PRE_ROUTING};
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
    let is_limited = is_in(&[IN_NAME], LIMITED_PORTS);
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
        rule("ipv6", &[is_limited, is_link_local(), then(Drop)]),
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
    for kind in [
        MEMBERSHIP_QUERY6,
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
    rules
}
