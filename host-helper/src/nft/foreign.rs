//! Tables of others: which of their chains drop what is forwarded. They are only looked at.

use std::collections::{BTreeMap, BTreeSet};

use hawser::netlink::{Message, read_u32};

use super::TABLE;
use super::barriers::{Chains, End, Packets, Rule, Sets, Walk};
use super::lookups;
use super::message::kind;
use crate::error::Refusal;
use crate::foreign::{Engine, Links, Table};
use crate::netlink::{DUMP, Netlink, find};

// linux/netfilter/nf_tables.h
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

/// A chain of theirs.
struct Chain {
    family: &'static str,
    table: String,
    name: String,
    /// Forwarded packets pass it.
    is_hooked: bool,
    /// What it does with a packet that reaches its end.
    policy: End,
}

/// Which packets of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Those that it sends and is sent, and those that pass the chains of bridges.
    Forwarded,
    /// Those of a version of IP that stay on its bridge, and pass the chains for what is forwarded.
    Bridged(u8),
}

/// Family and name of a table.
type Name = (&'static str, String);

/// The chains of others that drop packets of a network which are forwarded, and the rules about it that do. But no chain that drops what is
/// left, in a table with a rule that lets something of the network through: whoever wrote that has decided.
///
/// # Errors
/// What the kernel refused.
pub fn tables(nft: &mut Netlink, links: &Links, way: Way) -> Result<Vec<Table>, Refusal> {
    let chains = dump(nft, libc::NFT_MSG_GETCHAIN, read_chain)?;
    let hooked: Vec<&Chain> = chains.iter().filter(|chain| chain.is_hooked).collect();
    if hooked.is_empty() {
        return Ok(Vec::new());
    }
    let read = dump(nft, libc::NFT_MSG_GETRULE, |message| {
        let is_of = |table: &Name| {
            let is_its = |chain: &&Chain| (chain.family, &chain.table) == (table.0, &table.1);
            hooked.iter().any(is_its)
        };
        read_rule(message).filter(|(table, ..)| is_of(table))
    })?;
    let sets = sets(nft, &read)?;
    let (mut rules, none) = (BTreeMap::<Name, Chains>::new(), Sets::new());
    for (table, chain, rule) in read {
        let of_rule = rule.with(sets.get(&table).unwrap_or(&none));
        let chains = rules.entry(table).or_default();
        chains.entry(chain).or_default().extend(of_rule);
    }
    let mut found = Vec::new();
    for barrier in hooked {
        let rules = rules.entry((barrier.family, barrier.table.clone()));
        for end in ends(rules.or_default(), barrier, links, way) {
            let dropping = match end {
                End::Accepted => continue,
                End::Dropped => None,
                End::DroppedBy(rule) => Some(rule),
            };
            let table = Table {
                engine: Engine::Nftables,
                family: barrier.family,
                name: barrier.table.clone(),
                barrier: barrier.name.clone(),
                chains: (chains.iter())
                    .filter(|chain| {
                        (chain.family, &chain.table) == (barrier.family, &barrier.table)
                    })
                    .map(|chain| chain.name.clone())
                    .collect(),
                dropping,
            };
            if !found.contains(&table) {
                found.push(table);
            }
        }
    }
    Ok(found)
}

/// What is in the sets and maps that these rules ask.
fn sets(
    nft: &mut Netlink,
    rules: &[(Name, String, Rule)],
) -> Result<BTreeMap<Name, Sets>, Refusal> {
    let asked: BTreeSet<(&Name, &str)> = rules
        .iter()
        .flat_map(|(table, _, rule)| rule.asks().map(move |set| (table, set)))
        .collect();
    let mut sets: BTreeMap<Name, Sets> = BTreeMap::new();
    for (table, set) in asked {
        let held = lookups::elements(nft, table.0, &table.1, set)?;
        let of_table = sets.entry(table.clone()).or_default();
        of_table.insert(set.to_string(), held);
    }
    Ok(sets)
}

/// What becomes of packets of each kind in a chain.
fn ends(rules: &Chains, chain: &Chain, links: &Links, way: Way) -> Vec<End> {
    let mut versions: Vec<u8> = match chain.family {
        "ip" => vec![4],
        "ip6" => vec![6],
        _ if links.has_ipv6 => vec![4, 6],
        _ => vec![4],
    };
    let ports = Links::of(None);
    let (links, ways) = match (chain.family, way) {
        // Frames between containers of one bridge come from a port of ours, and go to one.
        ("bridge", Way::Forwarded) => (&ports, &[(true, true)][..]),
        ("bridge", Way::Bridged(_)) => return Vec::new(),
        (_, Way::Forwarded) => (links, &[(true, false), (false, true)][..]),
        // To these chains they come in by the bridge, and leave by it.
        (_, Way::Bridged(version)) => {
            versions.retain(|one| *one == version);
            (links, &[(true, true)][..])
        }
    };
    let mut ends = Vec::new();
    for version in versions {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            for (comes_in, goes_out) in ways {
                let packets = Packets {
                    links,
                    comes_in: *comes_in,
                    goes_out: *goes_out,
                    version,
                    protocol: protocol as u8,
                    is_bridged: way != Way::Forwarded,
                };
                ends.push(Walk::new(rules, packets).end(&chain.name, chain.policy.clone()));
            }
        }
    }
    ends
}

/// All objects of every family and table, as far as they can be read.
pub(super) fn dump<T>(
    nft: &mut Netlink,
    what: i32,
    read: impl Fn(&Message) -> Option<T>,
) -> Result<Vec<T>, Refusal> {
    nft.dump(
        |writer, sequence| {
            // struct nfgenmsg: any family (linux/netfilter/nfnetlink.h).
            writer.begin(kind(what), DUMP, sequence, &[0; 4]);
            writer.end();
        },
        read,
    )
}

fn read_chain(message: &Message) -> Option<Chain> {
    let family = family(message)?;
    let attributes = message.payload.get(4..)?;
    let table = text(find(attributes, NFTA_CHAIN_TABLE)?);
    let hook = find(attributes, NFTA_CHAIN_HOOK).and_then(|hook| find(hook, NFTA_HOOK_HOOKNUM));
    let is_forward = hook.and_then(number) == Some(libc::NF_INET_FORWARD as u32);
    let drops = find(attributes, NFTA_CHAIN_POLICY).and_then(number) == Some(libc::NF_DROP as u32);
    Some(Chain {
        family,
        name: text(find(attributes, NFTA_CHAIN_NAME)?),
        is_hooked: is_forward && table != TABLE,
        policy: if drops { End::Dropped } else { End::Accepted },
        table,
    })
}

/// A rule, its table and its chain.
fn read_rule(message: &Message) -> Option<(Name, String, Rule)> {
    let attributes = message.payload.get(4..)?;
    let family = family(message)?;
    let handle = find(attributes, NFTA_RULE_HANDLE)?.try_into().ok()?;
    let expressions = find(attributes, NFTA_RULE_EXPRESSIONS)?;
    Some((
        (family, text(find(attributes, NFTA_RULE_TABLE)?)),
        text(find(attributes, NFTA_RULE_CHAIN)?),
        Rule::read(family, u64::from_be_bytes(handle), expressions),
    ))
}

/// Whether a rule's bytes hold the link's name, whole.
pub fn mentions(rule: &[u8], link: &str) -> bool {
    let name = [link.as_bytes(), b"\0"].concat();
    let windows = rule.windows(name.len()).enumerate();
    let mut found = windows.filter(|(_, bytes)| *bytes == name);
    // What is in front of it may be part of a longer name, which is another link's.
    let before = |at: usize| at.checked_sub(1).and_then(|before| rule.get(before));
    found.any(|(at, _)| !before(at).is_some_and(u8::is_ascii_graphic))
}

/// Those that packets of containers pass.
pub(super) fn family(message: &Message) -> Option<&'static str> {
    match i32::from(*message.payload.first()?) {
        libc::NFPROTO_INET => Some("inet"),
        libc::NFPROTO_IPV4 => Some("ip"),
        libc::NFPROTO_IPV6 => Some("ip6"),
        libc::NFPROTO_BRIDGE => Some("bridge"),
        _ => None,
    }
}

pub(super) fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    read_u32(value, 0).map(u32::from_be)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_a_link_whose_whole_name_it_has() {
        for (rule, is_about_it) in [
            (&b"lan0\0"[..], true),
            (b"\x08\0\x01\0lan0\0\0\0", true),
            // A mask of addresses, in iptables-legacy.
            (b"\xff\xff\xff\xfflan0\0", true),
            (b"vlan0\0\0\0\0lan0\0", true),
            (b"\x08\0\x01\0vlan0\0\0", false),
            (b"-lan0\0", false),
            (b"\0lan01\0", false),
            (b"\0lan0", false),
            (b"", false),
        ] {
            assert_eq!(mentions(rule, "lan0"), is_about_it, "{rule:?}");
        }
    }
}
