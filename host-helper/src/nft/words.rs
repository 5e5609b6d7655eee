//! What rules are put together from: fields of packets, and small conditions about them.

use Expression::{And, In, Is, IsNot, Load, NotIn, Then};

use super::expression::{Expression, Field, Verdict};
use super::object::{Chain, Hook, Rule};
use super::tables::{Ip, OURS, OURS_MASK};

pub const NFT_META_IIF: u32 = 4;
pub const NFT_META_IIFNAME: u32 = 6;
pub const NFT_META_OIFNAME: u32 = 7;
pub const NFT_META_NFPROTO: u32 = 15;
pub const NFT_META_L4PROTO: u32 = 16;
pub const NFT_META_IIFGROUP: u32 = 21;
pub const NFT_META_OIFGROUP: u32 = 22;
pub const NFT_CT_STATE: u32 = 0;
pub const NFT_CT_STATUS: u32 = 2;
pub const NFT_CT_PROTO_DST: u32 = 12;
pub const NFT_CT_DST_IP: u32 = 20;
pub const NFT_CT_DST_IP6: u32 = 22;
/// Headers of a packet.
pub const LINK: u32 = 0;
pub const NETWORK: u32 = 1;
pub const TRANSPORT: u32 = 2;

pub const IN_GROUP: Field = Field::Meta(NFT_META_IIFGROUP);
pub const OUT_GROUP: Field = Field::Meta(NFT_META_OIFGROUP);
pub const IN_NAME: Field = Field::Meta(NFT_META_IIFNAME);
pub const OUT_NAME: Field = Field::Meta(NFT_META_OIFNAME);
pub const PROTOCOL: Field = Field::Meta(NFT_META_L4PROTO);
pub const SOURCE_PORT: Field = Field::Payload(TRANSPORT, 0, 2);
pub const DESTINATION_PORT: Field = Field::Payload(TRANSPORT, 2, 2);
pub const ORIGINAL_PORT: Field = Field::Original(NFT_CT_PROTO_DST);
pub const ICMP_TYPE: Field = Field::Payload(TRANSPORT, 0, 1);
pub const ETHER_SOURCE: Field = Field::Payload(LINK, 6, 6);
pub const ETHER_TYPE: Field = Field::Payload(LINK, 12, 2);

pub const TCP: u8 = libc::IPPROTO_TCP as u8;
// ICMPv6, RFC 4861; ICMP, RFC 792 and RFC 1256.
pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT6: u8 = 137;
pub const REDIRECT4: u8 = 5;
pub const ROUTER_ADVERTISEMENT4: u8 = 9;
// Who asks for members of groups gets all that is sent to any: MLD (RFC 2710, RFC 3810), IGMP (RFC 2236), and RFC 4286 of both.
pub const MEMBERSHIP_QUERY6: u8 = 130;
pub const MEMBERSHIP_REPORT6: u8 = 131;
pub const MEMBERSHIP_DONE6: u8 = 132;
pub const MEMBERSHIP_REPORT6_V2: u8 = 143;
pub const MULTICAST_ROUTER6: u8 = 151;
pub const MEMBERSHIP_QUERY4: u8 = 0x11;
pub const MULTICAST_ROUTER4: u8 = 0x30;

pub fn hooked(name: &'static str, kind: &'static str, number: i32, priority: i32) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            kind,
            number,
            priority,
        }),
    }
}

pub fn plain(name: &'static str) -> Chain {
    Chain { name, hook: None }
}

/// Loads fields one behind the other, as a key has them.
pub fn key(fields: &[Field]) -> Vec<Expression> {
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

pub fn rule(chain: &'static str, parts: &[Vec<Expression>]) -> Rule {
    Rule {
        chain,
        expressions: parts.concat(),
    }
}

pub fn then(verdict: Verdict) -> Vec<Expression> {
    vec![Then(verdict)]
}

/// Goes on when the fields together are in the set.
pub fn is_in(fields: &[Field], set: &'static str) -> Vec<Expression> {
    [key(fields), vec![In(set)]].concat()
}

/// Goes on when they are not.
pub fn is_not_in(fields: &[Field], set: &'static str) -> Vec<Expression> {
    [key(fields), vec![NotIn(set)]].concat()
}

pub fn is(field: Field, value: &[u8]) -> Vec<Expression> {
    vec![Load(field, 0), Is(value.to_vec())]
}

pub fn is_not(field: Field, value: &[u8]) -> Vec<Expression> {
    vec![Load(field, 0), IsNot(value.to_vec())]
}

/// Groups of links are in host byte order.
pub fn group_of_ours(field: Field) -> Vec<Expression> {
    vec![
        Load(field, 0),
        And(OURS_MASK.to_ne_bytes().to_vec()),
        Is(OURS.to_ne_bytes().to_vec()),
    ]
}

pub fn group_of_others(field: Field) -> Vec<Expression> {
    vec![
        Load(field, 0),
        And(OURS_MASK.to_ne_bytes().to_vec()),
        IsNot(OURS.to_ne_bytes().to_vec()),
    ]
}

/// Of an IPv6 packet: its source is in fe80::/10.
pub fn is_link_local() -> Vec<Expression> {
    link_local_at(8)
}

/// The same of its destination.
pub fn is_to_link_local() -> Vec<Expression> {
    link_local_at(24)
}

fn link_local_at(offset: u32) -> Vec<Expression> {
    vec![
        Load(Field::Payload(NETWORK, offset, 2), 0),
        And(vec![0xff, 0xc0]),
        Is(vec![0xfe, 0x80]),
    ]
}

/// In the inet table: the version of IP.
pub fn ip_is(ip: &Ip) -> Vec<Expression> {
    is(Field::Meta(NFT_META_NFPROTO), &[ip.number as u8])
}

pub fn protocol(number: i32) -> Vec<Expression> {
    is(PROTOCOL, &[number as u8])
}

pub fn icmp6(kind: u8) -> Vec<Expression> {
    [protocol(libc::IPPROTO_ICMPV6), is(ICMP_TYPE, &[kind])].concat()
}

/// Connections that are let through, and what belongs to them.
pub fn is_established() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4; // NF_CT_STATE_BIT of both, as nft has them
    vec![
        Load(Field::Connection(NFT_CT_STATE), 0),
        And(ESTABLISHED_OR_RELATED.to_ne_bytes().to_vec()),
        IsNot(vec![0; 4]),
    ]
}

/// Connections to a published port.
pub fn is_published() -> Vec<Expression> {
    const IPS_DST_NAT: u32 = 1 << 5; // linux/netfilter/nf_conntrack_common.h
    vec![
        Load(Field::Connection(NFT_CT_STATUS), 0),
        And(IPS_DST_NAT.to_ne_bytes().to_vec()),
        IsNot(vec![0; 4]),
    ]
}

pub const NFT_FIB_RESULT_OIF: u32 = 1;
pub const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
pub const NFTA_FIB_F_SADDR: u32 = 1;
pub const NFTA_FIB_F_DADDR: u32 = 2;
pub const NFTA_FIB_F_IIF: u32 = 8;
pub const NFTA_FIB_F_PRESENT: u32 = 32;
/// `RTN_LOCAL`, in host byte order.
pub const LOCAL: [u8; 4] = (libc::RTN_LOCAL as u32).to_ne_bytes();
