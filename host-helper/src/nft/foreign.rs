//! Tables of others: which of their chains drop what is forwarded. They are only looked at.

use hawser::netlink::{Attributes, Message, Writer, read_u32};

use super::TABLE;
use super::message::kind;
use crate::error::Refusal;
use crate::foreign::{Engine, Table};
use crate::netlink::{DUMP, Netlink};

// linux/netfilter/nf_tables.h
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_TARGET_NAME: u16 = 1;

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

/// What becomes of a packet whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped,
}

/// The tables of others that drop what is forwarded unless a rule accepts it; but none that has a rule about `link`:
/// whoever wrote that has decided.
///
/// # Errors
/// What the kernel refused.
pub fn tables(nft: &mut Netlink, link: &str) -> Result<Vec<Table>, Refusal> {
    let mut chains = Vec::new();
    dump(nft, libc::NFT_MSG_GETCHAIN, |message| {
        chains.extend(read_chain(message));
    })?;
    if !chains.iter().any(|chain| chain.is_hooked) {
        return Ok(Vec::new());
    }
    let mut decided = Vec::new();
    dump(nft, libc::NFT_MSG_GETRULE, |message| {
        let Some(rule) = read_rule(message) else {
            return;
        };
        if mentions(rule.expressions, link) {
            decided.push((rule.family, rule.table.clone()));
        }
        for chain in chains.iter_mut().filter(|chain| chain.is_hooked) {
            let is_here = (chain.family, &chain.table, &chain.name)
                == (rule.family, &rule.table, &rule.chain);
            // A chain's rules come in their order, but nothing comes behind one that ends it.
            if let (true, Some(end)) = (is_here, end(rule.expressions)) {
                chain.policy = end;
            }
        }
    })?;
    let barriers = chains.iter().filter(|chain| {
        chain.is_hooked
            && chain.policy == End::Dropped
            && !decided.contains(&(chain.family, chain.table.clone()))
    });
    Ok(barriers
        .map(|barrier| Table {
            engine: Engine::Nftables,
            family: barrier.family,
            name: barrier.table.clone(),
            barrier: barrier.name.clone(),
            chains: (chains.iter())
                .filter(|chain| (chain.family, &chain.table) == (barrier.family, &barrier.table))
                .map(|chain| chain.name.clone())
                .collect(),
        })
        .collect())
}

/// All objects of every family and table.
pub(super) fn dump(
    nft: &mut Netlink,
    what: i32,
    each: impl FnMut(&Message),
) -> Result<(), Refusal> {
    nft.exchange(
        |writer: &mut Writer, sequence| {
            // struct nfgenmsg: any family (linux/netfilter/nfnetlink.h).
            writer.begin(kind(what), DUMP, sequence, &[0; 4]);
            writer.end();
            sequence
        },
        each,
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

struct Rule<'a> {
    family: &'static str,
    table: String,
    chain: String,
    expressions: &'a [u8],
}

fn read_rule<'a>(message: &Message<'a>) -> Option<Rule<'a>> {
    let attributes = message.payload.get(4..)?;
    Some(Rule {
        family: family(message)?,
        table: text(find(attributes, NFTA_RULE_TABLE)?),
        chain: text(find(attributes, NFTA_RULE_CHAIN)?),
        expressions: find(attributes, NFTA_RULE_EXPRESSIONS)?,
    })
}

/// What a rule does with every packet; `None`: it is about some of them, or goes on.
fn end(expressions: &[u8]) -> Option<End> {
    for (_, expression) in Attributes::new(expressions) {
        let data = find(expression, NFTA_EXPR_DATA).unwrap_or(&[]);
        match text(find(expression, NFTA_EXPR_NAME)?).as_str() {
            "counter" | "log" => {}
            "reject" => return Some(End::Dropped),
            // An extension of iptables.
            "target" => {
                let name = text(find(data, NFTA_TARGET_NAME)?);
                return (name == "REJECT").then_some(End::Dropped);
            }
            "immediate" => {
                let verdict = find(find(data, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
                let code = number(find(verdict, NFTA_VERDICT_CODE)?)?;
                return match i32::from_ne_bytes(code.to_ne_bytes()) {
                    libc::NF_DROP => Some(End::Dropped),
                    libc::NF_ACCEPT => Some(End::Accepted),
                    _ => None,
                };
            }
            _ => return None,
        }
    }
    None
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

pub(super) fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = Attributes::new(attributes);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
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
