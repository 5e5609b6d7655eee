//! Rules of others that send packets somewhere else (DNAT): which ports they take, and where to. They are only looked at.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use hawser::netlink::{Attributes, Message, read_u16};

use super::TABLE;
use super::foreign::{dump, family, find, number, text};
use super::words::{NETWORK, NFT_META_L4PROTO, TRANSPORT};
use crate::error::Refusal;
use crate::netlink::Netlink;

/// A rule of somebody else's that translates destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// nft's name of the family of its table.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// By which it is deleted.
    pub handle: u64,
    /// Number of the protocol that it is about; none: it does not say.
    pub protocol: Option<u8>,
    /// Which ports of the host it is about; none: it does not say.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Where it leads; none: to the host itself, or the rule does not say.
    pub to: Option<IpAddr>,
}

/// All of them that are in a chain which packets come by: one that is hooked, or that something leads to.
///
/// # Errors
/// What the kernel refused.
pub fn all(nft: &mut Netlink) -> Result<Vec<Translation>, Refusal> {
    let mut found = Vec::new();
    // How many rules each chain has.
    let mut rules: BTreeMap<Name, u32> = BTreeMap::new();
    dump(nft, libc::NFT_MSG_GETRULE, |message| {
        let Some(rule) = read(message) else { return };
        *rules.entry(name_of(&rule)).or_default() += 1;
        if rule.translates && rule.translation.table != TABLE {
            found.push(rule.translation);
        }
    })?;
    if found.is_empty() {
        return Ok(found);
    }
    let mut idle = Vec::new();
    dump(nft, libc::NFT_MSG_GETCHAIN, |message| {
        idle.extend(read_idle_chain(message, &rules));
    })?;
    found.retain(|it| !idle.contains(&(it.family, it.table.clone(), it.chain.clone())));
    Ok(found)
}

/// Family, table and chain.
type Name = (&'static str, String, String);

fn name_of(rule: &Rule) -> Name {
    let it = &rule.translation;
    (it.family, it.table.clone(), it.chain.clone())
}

/// A chain that nothing leads to: no more uses it than its own rules.
fn read_idle_chain(message: &Message, rules: &BTreeMap<Name, u32>) -> Option<Name> {
    // linux/netfilter/nf_tables.h
    const NFTA_CHAIN_TABLE: u16 = 1;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_USE: u16 = 6;
    let attributes = message.payload.get(4..)?;
    let name = (
        family(message)?,
        text(find(attributes, NFTA_CHAIN_TABLE)?),
        text(find(attributes, NFTA_CHAIN_NAME)?),
    );
    let uses = number(find(attributes, NFTA_CHAIN_USE)?)?;
    let own = rules.get(&name).copied().unwrap_or_default();
    let is_idle = find(attributes, NFTA_CHAIN_HOOK).is_none() && uses <= own;
    is_idle.then_some(name)
}

struct Rule {
    translation: Translation,
    translates: bool,
}

fn read(message: &Message) -> Option<Rule> {
    const NFTA_RULE_TABLE: u16 = 1;
    const NFTA_RULE_CHAIN: u16 = 2;
    const NFTA_RULE_HANDLE: u16 = 3;
    const NFTA_RULE_EXPRESSIONS: u16 = 4;
    let attributes = message.payload.get(4..)?;
    let handle = find(attributes, NFTA_RULE_HANDLE)?;
    let mut reader = Reader::default();
    let expressions = find(attributes, NFTA_RULE_EXPRESSIONS).unwrap_or(&[]);
    for (_, expression) in Attributes::new(expressions) {
        // What is not understood says nothing.
        let _ = reader.read(expression);
    }
    Some(Rule {
        translates: reader.translates,
        translation: Translation {
            family: family(message)?,
            table: text(find(attributes, NFTA_RULE_TABLE)?),
            chain: text(find(attributes, NFTA_RULE_CHAIN)?),
            handle: u64::from_be_bytes(handle.try_into().ok()?),
            protocol: reader.protocol,
            ports: reader.ports,
            to: reader.to,
        },
    })
}

/// What was loaded last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Protocol,
    Port,
    Other,
}

/// What a rule's expressions have said so far.
#[derive(Default)]
struct Reader {
    loaded: Option<Loaded>,
    values: BTreeMap<u32, Vec<u8>>,
    translates: bool,
    protocol: Option<u8>,
    ports: Vec<RangeInclusive<u16>>,
    to: Option<IpAddr>,
}

impl Reader {
    fn read(&mut self, expression: &[u8]) -> Option<()> {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        let data = find(expression, NFTA_EXPR_DATA).unwrap_or(&[]);
        match text(find(expression, NFTA_EXPR_NAME)?).as_str() {
            "meta" => {
                const NFTA_META_KEY: u16 = 2;
                let is_protocol = number(find(data, NFTA_META_KEY)?)? == NFT_META_L4PROTO;
                self.loaded = Some(if is_protocol {
                    Loaded::Protocol
                } else {
                    Loaded::Other
                });
            }
            "payload" => self.loaded = Some(loaded(data)?),
            "cmp" => self.compare(data)?,
            "range" => {
                const NFTA_RANGE_FROM_DATA: u16 = 3;
                const NFTA_RANGE_TO_DATA: u16 = 4;
                if self.loaded == Some(Loaded::Port) {
                    let from = port(value(find(data, NFTA_RANGE_FROM_DATA)?)?)?;
                    let to = port(value(find(data, NFTA_RANGE_TO_DATA)?)?)?;
                    self.ports.push(from..=to);
                }
            }
            "immediate" => {
                const NFTA_IMMEDIATE_DREG: u16 = 1;
                const NFTA_IMMEDIATE_DATA: u16 = 2;
                let bytes = value(find(data, NFTA_IMMEDIATE_DATA)?)?;
                let register = number(find(data, NFTA_IMMEDIATE_DREG)?)?;
                self.values.insert(register, bytes.to_vec());
            }
            "nat" => {
                const NFTA_NAT_TYPE: u16 = 1;
                const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
                const NFT_NAT_DNAT: u32 = 1;
                self.translates |= number(find(data, NFTA_NAT_TYPE)?)? == NFT_NAT_DNAT;
                let register = number(find(data, NFTA_NAT_REG_ADDR_MIN)?)?;
                self.to = address(self.values.get(&register)?);
            }
            "redir" => self.translates = true,
            "match" => self.extension(data)?,
            "target" => self.target(data)?,
            _ => {}
        }
        Some(())
    }

    fn compare(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_CMP_OP: u16 = 2;
        const NFTA_CMP_DATA: u16 = 3;
        const NFT_CMP_EQ: u32 = 0;
        const NFT_CMP_LTE: u32 = 3;
        const NFT_CMP_GTE: u32 = 5;
        let bytes = value(find(data, NFTA_CMP_DATA)?)?;
        match (self.loaded?, number(find(data, NFTA_CMP_OP)?)?) {
            (Loaded::Protocol, NFT_CMP_EQ) => self.protocol = bytes.first().copied(),
            (Loaded::Port, NFT_CMP_EQ) => {
                // Both ports at once, where the source is any: only the last two bytes count.
                let port = port(bytes.last_chunk::<2>()?)?;
                self.ports.push(port..=port);
            }
            (Loaded::Port, NFT_CMP_GTE) => self.ports.push(port(bytes)?..=u16::MAX),
            (Loaded::Port, NFT_CMP_LTE) => {
                let last = port(bytes)?;
                let first = self.ports.pop().map_or(0, |range| *range.start());
                self.ports.push(first..=last);
            }
            _ => {}
        }
        Some(())
    }

    /// A match of iptables (linux/netfilter/xt_tcpudp.h, xt_multiport.h).
    fn extension(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_MATCH_NAME: u16 = 1;
        const NFTA_MATCH_INFO: u16 = 3;
        let info = find(data, NFTA_MATCH_INFO)?;
        match text(find(data, NFTA_MATCH_NAME)?).as_str() {
            // Of both structures the second pair of numbers is the range of the receiver's ports.
            "tcp" | "udp" => self.ports.push(read_u16(info, 4)?..=read_u16(info, 6)?),
            "multiport" => {
                const SOURCE: u8 = 0;
                let [flags, count] = *info.first_chunk()?;
                if flags != SOURCE {
                    let all = (0..usize::from(count).min(15)).map(|at| read_u16(info, 2 + 2 * at));
                    self.ports.extend(all.flatten().map(|port| port..=port));
                }
            }
            _ => {}
        }
        Some(())
    }

    /// A target of iptables (linux/netfilter/nf_nat.h).
    fn target(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_TARGET_NAME: u16 = 1;
        const NFTA_TARGET_REV: u16 = 2;
        const NFTA_TARGET_INFO: u16 = 3;
        match text(find(data, NFTA_TARGET_NAME)?).as_str() {
            "REDIRECT" => self.translates = true,
            "DNAT" => {
                self.translates = true;
                let info = find(data, NFTA_TARGET_INFO)?;
                // struct nf_nat_ipv4_multi_range_compat; later revisions have a union of 16 bytes behind the flags.
                let old = number(find(data, NFTA_TARGET_REV)?)? == 0;
                let bytes = info.get(if old { 8..12 } else { 4..20 })?;
                let is_ipv4 = bytes.get(4..).is_none_or(|rest| rest == [0; 12]);
                self.to = address(if is_ipv4 { &bytes[..4] } else { bytes });
            }
            _ => {}
        }
        Some(())
    }
}

/// What a load from the packet gives.
fn loaded(data: &[u8]) -> Option<Loaded> {
    const NFTA_PAYLOAD_BASE: u16 = 2;
    const NFTA_PAYLOAD_OFFSET: u16 = 3;
    const NFTA_PAYLOAD_LEN: u16 = 4;
    let field = |kind| find(data, kind).and_then(number);
    Some(
        match (
            field(NFTA_PAYLOAD_BASE)?,
            field(NFTA_PAYLOAD_OFFSET)?,
            field(NFTA_PAYLOAD_LEN)?,
        ) {
            (TRANSPORT, 2, 2) | (TRANSPORT, 0, 4) => Loaded::Port,
            // Of IPv4 and of IPv6.
            (NETWORK, 9 | 6, 1) => Loaded::Protocol,
            _ => Loaded::Other,
        },
    )
}

fn value(data: &[u8]) -> Option<&[u8]> {
    find(data, super::message::NFTA_DATA_VALUE)
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_says_nothing() {
        for len in 0..16 {
            let mut reader = Reader::default();
            assert_eq!(reader.read(&[0; 16][..len]), None);
        }
        assert_eq!(
            address(&[192, 0, 2, 1]),
            Some(Ipv4Addr::new(192, 0, 2, 1).into())
        );
        assert_eq!(address(&[0; 5]), None);
    }
}
