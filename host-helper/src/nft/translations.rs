//! Rules of others that send packets somewhere else (DNAT): which ports they take, and where to. They are only looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use hawser::netlink::{Attributes, Message};

use super::TABLE;
use super::conditions::{Conditions, Is, Reader, address, port, value};
use super::foreign::{dump, family, number, text};
use super::lookups::{self, Key, Lookup, Range};
use crate::error::Refusal;
use crate::netlink::{Netlink, find};

/// A rule of somebody else's that translates destinations; of one that asks a map, an element of that.
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
    /// Which packets it is about.
    pub conditions: Conditions,
    /// Where it leads; none: to the host itself, or the rule does not say.
    pub to: Option<IpAddr>,
    /// Where that is written, if not in the rule.
    pub element: Option<MapElement>,
}

/// An element of a map from ports to addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapElement {
    /// The map's name; none: it is part of the rule.
    pub map: Option<String>,
    /// There are no others in it.
    pub is_only: bool,
}

/// All of them that are in a chain which packets come by: one that is hooked, or that something leads to.
///
/// # Errors
/// What the kernel refused.
pub fn all(nft: &mut Netlink) -> Result<Vec<Translation>, Refusal> {
    let mut found = Vec::new();
    let mut chains = Chains::default();
    let rules = dump(nft, libc::NFT_MSG_GETRULE, |message| {
        let rule = read_rule(message)?;
        let said = Said::of(&rule);
        let leads_to = said.leads_to.filter(|_| is_for_the_host(&said.conditions));
        let is_wanted = said.translates && rule.chain.1 != TABLE;
        Some((rule.chain.clone(), leads_to, is_wanted.then_some(rule)))
    })?;
    for (chain, leads_to, rule) in rules {
        let (family, table, _) = chain.clone();
        chains
            .reached
            .extend(leads_to.map(|to| (family, table, to)));
        *chains.rules.entry(chain).or_default() += 1;
        found.extend(rule);
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    for chain in dump(nft, libc::NFT_MSG_GETCHAIN, ChainRead::of)? {
        chains.add(chain);
    }
    found.retain(|rule| !chains.idle.contains(&rule.chain));
    let sets = sets(nft, &found)?;
    let mut all = Vec::new();
    for rule in &found {
        let mut read = translations(rule, &sets);
        if !chains.reached.contains(&rule.chain) {
            // Only some packets get there.
            for it in &mut read {
                it.conditions.has_more = true;
            }
        }
        all.append(&mut read);
    }
    Ok(all)
}

/// Family, table and chain, or set.
type Name = (&'static str, String, String);

/// Which chains packets come by.
#[derive(Default)]
struct Chains {
    /// How many rules each has.
    rules: BTreeMap<Name, u32>,
    /// Those that all packets for the host come by: they are hooked, or lead to from one by one rule at least.
    reached: BTreeSet<Name>,
    /// Those that nothing leads to: no more uses them than their own rules.
    idle: BTreeSet<Name>,
}

/// What the kernel says of a chain.
struct ChainRead {
    name: Name,
    is_hooked: bool,
    /// Its own rules, and those that lead to it.
    uses: u32,
}

impl ChainRead {
    fn of(message: &Message) -> Option<ChainRead> {
        // linux/netfilter/nf_tables.h
        const NFTA_CHAIN_TABLE: u16 = 1;
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_HOOK: u16 = 4;
        const NFTA_CHAIN_USE: u16 = 6;
        let attributes = message.payload.get(4..)?;
        Some(ChainRead {
            name: (
                family(message)?,
                text(find(attributes, NFTA_CHAIN_TABLE)?),
                text(find(attributes, NFTA_CHAIN_NAME)?),
            ),
            is_hooked: find(attributes, NFTA_CHAIN_HOOK).is_some(),
            uses: number(find(attributes, NFTA_CHAIN_USE)?)?,
        })
    }
}

impl Chains {
    fn add(&mut self, chain: ChainRead) {
        let own = self.rules.get(&chain.name).copied().unwrap_or_default();
        if chain.is_hooked {
            self.reached.insert(chain.name);
        } else if chain.uses <= own {
            self.idle.insert(chain.name);
        }
    }
}

/// A rule that leads on, and keeps back nothing that a published port is about.
fn is_for_the_host(conditions: &Conditions) -> bool {
    let all = Conditions {
        version: conditions.version,
        protocol: conditions.protocol,
        is_local: conditions.is_local,
        ..Conditions::default()
    };
    *conditions == all
}

struct Rule {
    chain: Name,
    handle: u64,
    expressions: Vec<u8>,
}

fn read_rule(message: &Message) -> Option<Rule> {
    const NFTA_RULE_TABLE: u16 = 1;
    const NFTA_RULE_CHAIN: u16 = 2;
    const NFTA_RULE_HANDLE: u16 = 3;
    const NFTA_RULE_EXPRESSIONS: u16 = 4;
    let attributes = message.payload.get(4..)?;
    let chain = (
        family(message)?,
        text(find(attributes, NFTA_RULE_TABLE)?),
        text(find(attributes, NFTA_RULE_CHAIN)?),
    );
    let handle = find(attributes, NFTA_RULE_HANDLE)?;
    let expressions = find(attributes, NFTA_RULE_EXPRESSIONS).unwrap_or(&[]);
    Some(Rule {
        chain,
        handle: u64::from_be_bytes(handle.try_into().ok()?),
        expressions: expressions.to_vec(),
    })
}

/// What a rule's expressions have said.
#[derive(Default)]
struct Said {
    conditions: Conditions,
    values: BTreeMap<u32, Vec<u8>>,
    translates: bool,
    /// Where the address is taken from.
    register: Option<u32>,
    to: Option<IpAddr>,
    /// Another chain.
    leads_to: Option<String>,
}

impl Said {
    fn of(rule: &Rule) -> Said {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        let mut reader = Reader::new(rule.chain.0);
        let mut said = Said::default();
        for (_, expression) in Attributes::new(&rule.expressions) {
            let name = find(expression, NFTA_EXPR_NAME).map_or_else(String::new, text);
            let data = find(expression, NFTA_EXPR_DATA).unwrap_or(&[]);
            reader.read(&name, data);
            // What is not understood says nothing.
            let _ = said.read(&name, data);
        }
        said.conditions = reader.conditions;
        said.to = said.register.map_or(said.to, |register| {
            said.values.get(&register).and_then(|it| target(it))
        });
        said
    }

    fn read(&mut self, name: &str, data: &[u8]) -> Option<()> {
        match name {
            "immediate" => {
                const NFTA_IMMEDIATE_DREG: u16 = 1;
                const NFTA_IMMEDIATE_DATA: u16 = 2;
                const NFTA_DATA_VERDICT: u16 = 2;
                const NFTA_VERDICT_CHAIN: u16 = 2;
                let bytes = find(data, NFTA_IMMEDIATE_DATA)?;
                if let Some(verdict) = find(bytes, NFTA_DATA_VERDICT) {
                    self.leads_to = find(verdict, NFTA_VERDICT_CHAIN).map(text);
                    return Some(());
                }
                let register = number(find(data, NFTA_IMMEDIATE_DREG)?)?;
                self.values.insert(register, value(bytes)?.to_vec());
            }
            "nat" => {
                const NFTA_NAT_TYPE: u16 = 1;
                const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
                const NFT_NAT_DNAT: u32 = 1;
                self.translates |= number(find(data, NFTA_NAT_TYPE)?)? == NFT_NAT_DNAT;
                self.register = find(data, NFTA_NAT_REG_ADDR_MIN).and_then(number);
            }
            "redir" => self.translates = true,
            "target" => self.target(data)?,
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

/// An address, alone or with a port behind it, which takes four bytes.
fn target(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        8 | 20 => address(&bytes[..bytes.len() - 4]),
        _ => address(bytes),
    }
}

/// Those that these rules ask.
fn sets(nft: &mut Netlink, rules: &[Rule]) -> Result<BTreeMap<Name, Vec<Range>>, Refusal> {
    let is_read = |lookup: &Lookup| is_port(lookup) || is_destination(lookup);
    let names: BTreeSet<Name> = rules
        .iter()
        .flat_map(|rule| {
            let (family, table, _) = &rule.chain;
            let lookups = Said::of(rule).conditions.lookups.into_iter();
            let read = lookups.filter(is_read);
            read.map(|lookup| (*family, table.clone(), lookup.set))
        })
        .collect();
    let mut sets = BTreeMap::new();
    for name in names {
        let (family, table, set) = &name;
        let ranges = lookups::elements(nft, family, table, set)?;
        sets.insert(name, ranges);
    }
    Ok(sets)
}

fn is_port(lookup: &Lookup) -> bool {
    lookup.key == Key::Port
}

fn is_destination(lookup: &Lookup) -> bool {
    matches!(
        lookup.key,
        Key::Address {
            is_source: false,
            ..
        }
    )
}

/// What a rule does; one for each element of the map that it asks.
fn translations(rule: &Rule, sets: &BTreeMap<Name, Vec<Range>>) -> Vec<Translation> {
    let said = Said::of(rule);
    let (family, table, chain) = &rule.chain;
    let mut of_rule = Translation {
        family,
        table: table.clone(),
        chain: chain.clone(),
        handle: rule.handle,
        conditions: said.conditions,
        to: said.to,
        element: None,
    };
    let mut of_map: Option<(String, &Vec<Range>)> = None;
    for lookup in std::mem::take(&mut of_rule.conditions.lookups) {
        let set = sets.get(&(*family, table.clone(), lookup.set.clone()));
        let conditions = &mut of_rule.conditions;
        let is_understood = match (set, lookup.to) {
            (Some(set), None) if is_port(&lookup) => {
                let ports = set.iter().filter_map(port_range);
                conditions.ports.extend(ports);
                set.iter().all(|it| port_range(it).is_some())
            }
            (Some(set), None) if is_destination(&lookup) => {
                let nets = set.iter().filter_map(one_address);
                conditions.destinations.extend(nets);
                set.iter().all(|it| one_address(it).is_some())
            }
            (Some(set), Some(to)) if is_port(&lookup) && said.register == Some(to) => {
                of_map = Some((lookup.set, set));
                true
            }
            _ => false,
        };
        conditions.has_more |= !is_understood;
    }
    let Some((map, elements)) = of_map else {
        return vec![of_rule];
    };
    let one = |element: &Range| {
        let mut one = of_rule.clone();
        match port_range(element) {
            Some(ports) => one.conditions.ports = vec![ports],
            None => one.conditions.has_more = true,
        }
        one.to = value(&element.data).and_then(target);
        one.element = Some(MapElement {
            // The kernel calls those without a name so.
            map: (!map.starts_with("__")).then(|| map.clone()),
            is_only: elements.len() == 1,
        });
        one
    };
    elements.iter().map(one).collect()
}

fn port_range(Range { first, last, .. }: &Range) -> Option<RangeInclusive<u16>> {
    (first.len() == 2).then_some(port(first)?..=port(last)?)
}

fn one_address(Range { first, last, .. }: &Range) -> Option<Is<ipnet::IpNet>> {
    let what = address(first).filter(|_| first == last)?.into();
    Some(Is {
        what,
        is_not: false,
    })
}
