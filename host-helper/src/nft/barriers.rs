//! What becomes of packets of a network of ours in the chains of others: which rule, or policy, is the first that ends their way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hawser::netlink::Attributes;
use ipnet::IpNet;

use super::conditions::{Conditions, Is, Links as What, Reader};
use super::foreign::{number, text};
use super::lookups::{Lookup, Range};
use super::members::Members;
use crate::foreign::{Dropping, Links};
use crate::netlink::find;

/// A chain's rules, by its name.
pub type Chains = BTreeMap<String, Vec<Rule>>;

/// The kernel's own limit, `NFT_JUMP_STACK_SIZE`.
const DEPTH: u32 = 16;

/// The sets and maps of a table, by their names.
pub type Sets = BTreeMap<String, Vec<Range>>;

/// A rule of theirs.
#[derive(Clone)]
pub struct Rule {
    handle: u64,
    conditions: Conditions,
    /// What is in the sets that it asks.
    members: Vec<Is<Members>>,
    verdict: Verdict,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// A packet goes on.
    None,
    /// To a program, say.
    Other,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It passes, or somebody has decided about the network.
    Accepted,
    /// By a rule that is about more than the network, or by a policy.
    Dropped,
    /// By a rule about the network.
    DroppedBy(Dropping),
}

/// Whether a rule is about packets of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    None,
    Some,
    All,
}

/// Packets of one kind: from the network, to it, or both.
#[derive(Debug, Clone)]
pub struct Packets<'a> {
    pub links: &'a Links,
    pub comes_in: bool,
    pub goes_out: bool,
    pub version: u8,
    pub protocol: u8,
    /// Frames that stay on a bridge, and pass rules for what leaves it.
    pub is_bridged: bool,
}

impl Rule {
    /// Of a table of this family.
    pub fn read(family: &str, handle: u64, expressions: &[u8]) -> Rule {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        let mut reader = Reader::new(family);
        let mut verdict = Verdict::None;
        for (_, expression) in Attributes::new(expressions) {
            let name = find(expression, NFTA_EXPR_NAME).map_or_else(String::new, text);
            let data = find(expression, NFTA_EXPR_DATA).unwrap_or(&[]);
            reader.read(&name, data);
            if let Some(found) = read_verdict(&name, data) {
                verdict = found;
            }
        }
        Rule {
            handle,
            conditions: reader.conditions,
            members: Vec::new(),
            verdict,
        }
    }

    /// The sets and maps that must be looked at.
    pub fn asks(&self) -> impl Iterator<Item = &str> {
        let lookups = self.conditions.lookups.iter();
        let asked = lookups.filter(|lookup| self.is_read(lookup));
        asked.map(|lookup| lookup.set.as_str())
    }

    /// Maps of verdicts; and sets of links or addresses, where it lets those through that are in them. Who drops by a set is not told of: the
    /// cure would be to delete it for all others, too.
    fn is_read(&self, lookup: &Lookup) -> bool {
        let lets_through = match self.verdict {
            Verdict::Accept | Verdict::Return | Verdict::Jump(_) | Verdict::Goto(_) => true,
            Verdict::None => self.conditions.lookups.iter().any(is_map_of_verdicts),
            Verdict::Drop | Verdict::Other => false,
        };
        let is_set = lookup.to.is_none() && Members::can_be(lookup.key);
        is_map_of_verdicts(lookup) || is_set && lets_through
    }

    /// The same with what is in these; of one that asks a map of verdicts, one for each element.
    pub fn with(mut self, sets: &Sets) -> Vec<Rule> {
        let lookups = self.conditions.lookups.clone();
        let (read, rest): (Vec<_>, Vec<_>) =
            lookups.into_iter().partition(|lookup| self.is_read(lookup));
        self.conditions.lookups = rest;
        let held = |lookup: &Lookup| sets.get(&lookup.set).map_or(&[][..], Vec::as_slice);
        let mut map = None;
        for lookup in &read {
            if is_map_of_verdicts(lookup) {
                map = Some(lookup);
            } else {
                self.ask(lookup, held(lookup));
            }
        }
        let Some(map) = map else {
            return vec![self];
        };
        let one = |element: &Range| {
            let mut one = self.clone();
            one.ask(map, std::slice::from_ref(element));
            one.verdict = find(&element.data, NFTA_DATA_VERDICT)
                .and_then(verdict)
                .unwrap_or(Verdict::None);
            // As of a set.
            one.conditions.has_more |= one.verdict == Verdict::Drop;
            one
        };
        held(map).iter().map(one).collect()
    }

    fn ask(&mut self, lookup: &Lookup, held: &[Range]) {
        let members = Members::of(lookup.key, held);
        let is_all = members.as_ref().is_some_and(|members| members.is_all);
        self.conditions.has_more |= !is_all;
        self.members.extend(members.map(|what| Is {
            what,
            is_not: lookup.is_not,
        }));
    }
}

fn is_map_of_verdicts(lookup: &Lookup) -> bool {
    const NFT_REG_VERDICT: u32 = 0;
    lookup.to == Some(NFT_REG_VERDICT)
}

// linux/netfilter/nf_tables.h
const NFTA_DATA_VERDICT: u16 = 2;

fn read_verdict(name: &str, data: &[u8]) -> Option<Verdict> {
    const NFTA_IMMEDIATE_DATA: u16 = 2;
    const NFTA_TARGET_NAME: u16 = 1;
    match name {
        "reject" => Some(Verdict::Drop),
        "queue" => Some(Verdict::Other),
        // An extension of iptables.
        "target" => match text(find(data, NFTA_TARGET_NAME)?).as_str() {
            "REJECT" => Some(Verdict::Drop),
            "NFQUEUE" => Some(Verdict::Other),
            _ => None,
        },
        "immediate" => verdict(find(find(data, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?),
        _ => None,
    }
}

fn verdict(data: &[u8]) -> Option<Verdict> {
    // linux/netfilter/nf_tables.h
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    const NFT_CONTINUE: i32 = -1;
    const NFT_JUMP: i32 = -3;
    const NFT_GOTO: i32 = -4;
    const NFT_RETURN: i32 = -5;
    let code = number(find(data, NFTA_VERDICT_CODE)?)?;
    let chain = || find(data, NFTA_VERDICT_CHAIN).map(text);
    Some(match i32::from_ne_bytes(code.to_ne_bytes()) {
        libc::NF_DROP => Verdict::Drop,
        libc::NF_ACCEPT => Verdict::Accept,
        NFT_CONTINUE => Verdict::None,
        NFT_JUMP => Verdict::Jump(chain()?),
        NFT_GOTO => Verdict::Goto(chain()?),
        NFT_RETURN => Verdict::Return,
        _ => Verdict::Other,
    })
}

/// A walk of packets through the chains of one table.
pub struct Walk<'a> {
    chains: &'a Chains,
    packets: Packets<'a>,
    /// Some of them may have been accepted before: answers, say.
    may_pass: bool,
}

impl<'a> Walk<'a> {
    pub fn new(chains: &'a Chains, packets: Packets<'a>) -> Walk<'a> {
        Walk {
            chains,
            packets,
            may_pass: false,
        }
    }

    /// What becomes of them in the chain that they come by first, whose policy this is.
    pub fn end(mut self, chain: &str, policy: End) -> End {
        match self.chain(chain, 0).unwrap_or(policy) {
            End::Dropped if self.is_decided(chain) => End::Accepted,
            // Whoever lets answers alone in wants just that.
            End::DroppedBy(_) if !self.packets.comes_in && self.may_pass => End::Accepted,
            end => end,
        }
    }

    fn rules(&self, chain: &str) -> &'a [Rule] {
        self.chains.get(chain).map_or(&[], Vec::as_slice)
    }

    /// `None`: they come to its end.
    fn chain(&mut self, name: &str, depth: u32) -> Option<End> {
        if depth > DEPTH {
            return Some(End::Accepted);
        }
        for rule in self.rules(name) {
            let about = self.packets.about(rule);
            let names_it = self.packets.are_named(rule);
            let decides = self.packets.are_meant(rule);
            match (&rule.verdict, about) {
                (_, About::None) | (Verdict::None, _) => {}
                (Verdict::Drop, About::All) if names_it => {
                    return Some(End::DroppedBy(Dropping {
                        chain: name.to_string(),
                        handle: rule.handle,
                    }));
                }
                (Verdict::Drop, About::All) => return Some(End::Dropped),
                (Verdict::Accept, About::All) => return Some(End::Accepted),
                (Verdict::Accept, About::Some) if decides => return Some(End::Accepted),
                (Verdict::Accept, About::Some) => self.may_pass = true,
                (Verdict::Jump(to) | Verdict::Goto(to), About::All) => {
                    let decides = decides && self.accepts(to, 0);
                    match self.chain(to, depth + 1) {
                        Some(End::Dropped) if decides => return Some(End::Accepted),
                        Some(end) => return Some(end),
                        None if matches!(rule.verdict, Verdict::Goto(_)) => return None,
                        None => {}
                    }
                }
                (Verdict::Jump(to) | Verdict::Goto(to), About::Some) if self.accepts(to, 0) => {
                    if decides {
                        return Some(End::Accepted);
                    }
                    self.may_pass = true;
                }
                (Verdict::Return, About::All) => return None,
                (Verdict::Other, About::All) => return Some(End::Accepted),
                (_, About::Some) => {}
            }
        }
        None
    }

    /// Whether a chain accepts anything, by itself or by those that it leads to.
    fn accepts(&self, chain: &str, depth: u32) -> bool {
        depth <= DEPTH
            && self.rules(chain).iter().any(|rule| match &rule.verdict {
                Verdict::Accept => true,
                Verdict::Jump(to) | Verdict::Goto(to) => self.accepts(to, depth + 1),
                _ => false,
            })
    }

    /// Somebody has a rule that lets something of the network through, to it or from it, in this chain or one that it leads to: the rest is as
    /// they want it. Who lets it reach the host itself, say, has said nothing of what is forwarded.
    fn is_decided(&self, chain: &str) -> bool {
        let there = &self.packets;
        let back = Packets {
            comes_in: there.goes_out,
            goes_out: there.comes_in,
            ..there.clone()
        };
        let is_about = |packets: &Packets, rule: &Rule| {
            packets.about(rule) != About::None && packets.are_meant(rule)
        };
        let reached = self.reached(chain);
        let mut rules = reached.into_iter().flat_map(|chain| self.rules(chain));
        rules.any(|rule| {
            let lets_through = match &rule.verdict {
                Verdict::Accept => true,
                Verdict::Jump(to) | Verdict::Goto(to) => self.accepts(to, 0),
                _ => false,
            };
            lets_through && (is_about(there, rule) || is_about(&back, rule))
        })
    }

    /// The chains that this one leads to, whichever packets, and it.
    fn reached<'b>(&self, chain: &'b str) -> BTreeSet<&'b str>
    where
        'a: 'b,
    {
        let mut reached = BTreeSet::from([chain]);
        let mut left = vec![chain];
        while let Some(chain) = left.pop() {
            for rule in self.rules(chain) {
                if let Verdict::Jump(to) | Verdict::Goto(to) = &rule.verdict {
                    if reached.insert(to) {
                        left.push(to);
                    }
                }
            }
        }
        reached
    }
}

impl Packets<'_> {
    /// What a rule says of where they come from, and of where they go: whether that is ours, whether the rule is about all else, and
    /// how far it is about us.
    fn sides(&self, rule: &Rule) -> [Vec<(bool, bool, About)>; 2] {
        let side = |is_source, is_ours, links: &[Is<What>], nets: &[Is<IpNet>]| {
            let links = links
                .iter()
                .map(|Is { what, is_not }| (self.link(what), *is_not));
            // Anybody is nobody's name.
            let nets = nets.iter().filter(|is| is.what.prefix_len() > 0);
            let nets = nets.map(|Is { what, is_not }| (self.net(what), *is_not));
            let members = rule.members.iter();
            let members =
                members.filter(|is| is.what.is_source == is_source && !is.what.are_anybody());
            let members = members.map(|Is { what, is_not }| (what.about(self.links), *is_not));
            let all = links.chain(nets).chain(members);
            all.map(|(about, is_not)| (is_ours, is_not, about))
                .collect()
        };
        let said = &rule.conditions;
        [
            side(true, self.comes_in, &said.links_in, &said.sources),
            side(false, self.goes_out, &said.links_out, &said.destinations),
        ]
    }

    fn link(&self, what: &What) -> About {
        let Links {
            name,
            is_prefix,
            index,
            ..
        } = self.links;
        let (all, some) = match what {
            What::Named(one) => (
                !is_prefix && one == name,
                *is_prefix && one.starts_with(name),
            ),
            What::Prefixed(start) => (
                name.starts_with(start),
                *is_prefix && start.starts_with(name),
            ),
            What::Numbered(one) => (Some(*one) == *index, index.is_none()),
        };
        how_many(all, some)
    }

    fn net(&self, net: &IpNet) -> About {
        of_addresses(self.links, &[(net.network(), net.broadcast())])
    }

    fn about(&self, rule: &Rule) -> About {
        let Conditions {
            version,
            protocol,
            ports,
            is_local,
            lookups,
            has_more,
            ..
        } = &rule.conditions;
        let is_it = |wanted: Option<u8>, is: u8| wanted.is_none_or(|wanted| wanted == is);
        if !is_it(*version, self.version) || !is_it(*protocol, self.protocol) {
            return About::None;
        }
        let sides = self.sides(rule);
        let of_sides = sides.into_iter().flatten().map(|side| match side {
            (true, false, about) => about,
            (true, true, About::All) | (false, false, About::All) => About::None,
            (true, true, About::None) | (false, true, About::All) => About::All,
            (true, true, About::Some) | (false, ..) => About::Some,
        });
        let is_narrower = !ports.is_empty() || *is_local || !lookups.is_empty() || *has_more;
        let rest = how_many(!is_narrower, true);
        of_sides.chain([rest]).min().unwrap_or(About::All)
    }

    /// Whether a rule says which network it is about, and that it is this.
    fn are_named(&self, rule: &Rule) -> bool {
        self.sides(rule).iter().flatten().any(names_it)
    }

    /// Whether a rule that lets some of them through shows that somebody has decided about all. What stays on a bridge is seldom thought of
    /// by who lets its containers out, and answers in.
    fn are_meant(&self, rule: &Rule) -> bool {
        if self.is_bridged {
            let mut sides = self.sides(rule).into_iter();
            rule.conditions.is_bridged || sides.all(|side| side.iter().any(names_it))
        } else {
            self.are_named(rule)
        }
    }
}

/// How far what is said of these addresses, of the first to the last each, is about a network: of what is not known of it, about some.
pub(super) fn of_addresses(links: &Links, ranges: &[(IpAddr, IpAddr)]) -> About {
    let is_v4 = ranges.iter().any(|(first, _)| first.is_ipv4());
    let own = links.subnets.iter();
    let own: Vec<&IpNet> = own.filter(|own| own.addr().is_ipv4() == is_v4).collect();
    if own.is_empty() && !ranges.is_empty() {
        return About::Some;
    }
    let is_in = |own: &IpNet| {
        let is_in = |(first, last): &_| *first <= own.network() && own.broadcast() <= *last;
        ranges.iter().any(is_in)
    };
    let has_some = |own: &IpNet| {
        let has_some = |(first, last): &_| *first <= own.broadcast() && own.network() <= *last;
        ranges.iter().any(has_some)
    };
    how_many(
        !ranges.is_empty() && own.iter().all(|own| is_in(own)),
        own.iter().any(|own| has_some(own)),
    )
}

fn names_it(side: &(bool, bool, About)) -> bool {
    *side == (true, false, About::All)
}

pub(super) fn how_many(all: bool, some: bool) -> About {
    match (all, some) {
        (true, _) => About::All,
        (false, true) => About::Some,
        (false, false) => About::None,
    }
}
