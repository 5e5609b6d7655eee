//! The tables in the kernel: whether they are there and whole, and how they are made, replaced and removed.

use hawser::netlink::{Attributes, read_u32};

use super::message::{Batch, kind};
use super::object::Family;
use super::{TABLE, ignore_missing, name_missing_options, tables, transaction, transaction_at};
use crate::error::{Doing, Error, Refusal, Result};
use crate::netlink::Netlink;
use crate::state;

/// The version that is in the tables' comments.
const COMMENT: &str = "hawser 8";

/// A chain, and how many rules it has, and how many jump to it.
type Expected = (Family, &'static str, u32, u32);

/// What [`tables::tables`] says, counted: a test compares them. On the start path the tables are not built.
const EXPECTED: [Expected; 23] = [
    (Family::Inet, "refuse", 2, 15),
    (Family::Inet, "egress", 7, 4),
    (Family::Inet, "from", 7, 1),
    (Family::Inet, "to", 12, 1),
    (Family::Inet, "prerouting", 7, 0),
    (Family::Inet, "input", 10, 0),
    (Family::Inet, "forward", 6, 0),
    (Family::Inet, "output", 2, 0),
    (Family::Inet, "nat_prerouting", 7, 0),
    (Family::Inet, "nat_output", 6, 0),
    (Family::Inet, "nat_postrouting", 7, 0),
    (Family::Bridge, "route", 3, 2),
    (Family::Bridge, "neighbours", 11, 1),
    (Family::Bridge, "solicitation", 7, 1),
    (Family::Bridge, "advertisement", 8, 1),
    (Family::Bridge, "routers", 5, 1),
    (Family::Bridge, "dhcp", 4, 2),
    (Family::Bridge, "arp", 4, 1),
    (Family::Bridge, "ipv6", 5, 1),
    (Family::Bridge, "ipv4", 3, 1),
    (Family::Bridge, "prerouting", 5, 0),
    (Family::Bridge, "forward", 3, 0),
    (Family::Bridge, "output", 5, 0),
];

/// How many chains and sets each table has.
const EXPECTED_OBJECTS: [(Family, u32); 2] = [(Family::Inet, 36), (Family::Bridge, 19)];

const NEW_TABLE: u16 = kind(libc::NFT_MSG_NEWTABLE);

const NEW_CHAIN: u16 = kind(libc::NFT_MSG_NEWCHAIN);

const NEW_RULE: u16 = kind(libc::NFT_MSG_NEWRULE);

/// The tables are there, and whole. True: they were not, until now.
///
/// # Errors
/// What the kernel refused; the ruleset is then as it was.
pub fn ensure(nft: &mut Netlink) -> Result<bool> {
    let doing = || format!("look at nft table {TABLE}");
    if look(nft).doing(doing).map_err(name_missing_options)? == State::Whole {
        return Ok(false);
    }
    // One at a time: whoever comes second finds it whole.
    let _lock = state::lock()?;
    match look(nft).doing(doing)? {
        State::Whole => return Ok(false),
        State::Missing => {}
        State::Foreign(version) => replace(nft, &version)?,
    }
    install(nft)
        .doing(|| format!("install nft tables inet and bridge {TABLE}"))
        .map_err(name_missing_options)?;
    Ok(true)
}

/// What there is of our tables, and for people, why that cannot be told.
///
/// # Errors
/// What the kernel says.
pub fn state(nft: &mut Netlink) -> Result<State> {
    let doing = || format!("look at nft table {TABLE}");
    look(nft).doing(doing).map_err(name_missing_options)
}

/// Whether the tables are there, and whole.
///
/// # Errors
/// What the kernel says.
pub fn is_whole(nft: &mut Netlink) -> Result<bool> {
    Ok(state(nft)? == State::Whole)
}

/// Refuses tables of another version that [`ensure`] would not replace. Nothing is changed.
///
/// # Errors
/// Who lives by them.
pub fn check_version(nft: &mut Netlink) -> Result<()> {
    match look(nft) {
        Ok(State::Foreign(version)) => check_replaced(nft, &version),
        _ => Ok(()),
    }
}

/// What there is of our tables.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// All that is ours.
    Whole,
    /// Something is, or everything.
    Missing,
    /// They are of another version, or somebody else's: this comment.
    Foreign(String),
}

/// Compares the tables in the kernel with ours by what they count: objects, rules of the chains, version.
///
/// # Errors
/// What the kernel refused.
pub fn look(nft: &mut Netlink) -> std::result::Result<State, Refusal> {
    const NFTA_TABLE_USE: u16 = 3;
    const NFTA_TABLE_USERDATA: u16 = 6;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_USE: u16 = 6;
    let (mut right, mut foreign) = (0, None);
    let done = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            for (family, _) in EXPECTED_OBJECTS {
                batch.ask_table(family);
            }
            for (family, chain, ..) in EXPECTED {
                batch.ask_chain(family, chain);
            }
            batch.last()
        },
        |message| {
            let family = message.payload.first().copied();
            let (mut name, mut uses, mut has_hook, mut comment) = ("", 0, false, None);
            for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                let number = || read_u32(value, 0).map_or(0, u32::from_be);
                match (message.kind, kind) {
                    (NEW_TABLE, NFTA_TABLE_USE) | (NEW_CHAIN, NFTA_CHAIN_USE) => uses = number(),
                    (NEW_TABLE, NFTA_TABLE_USERDATA) => {
                        let text = value.get(2..).unwrap_or(&[]);
                        comment = text.strip_suffix(b"\0");
                    }
                    (NEW_CHAIN, NFTA_CHAIN_NAME) => {
                        let text = value.strip_suffix(b"\0").unwrap_or(value);
                        name = std::str::from_utf8(text).unwrap_or_default();
                    }
                    (NEW_CHAIN, NFTA_CHAIN_HOOK) => has_hook = true,
                    _ => {}
                }
            }
            if message.kind == NEW_TABLE {
                // None: somebody has made it for the admin's chain.
                if let Some(other) = comment.filter(|text| *text != COMMENT.as_bytes()) {
                    foreign = Some(String::from_utf8_lossy(other).into_owned());
                }
                // The admin may have more in it, for their chain.
                let is_whole =
                    |(of, objects): &(Family, u32)| Some(*of as u8) == family && uses >= *objects;
                right += usize::from(EXPECTED_OBJECTS.iter().any(is_whole));
            } else if message.kind == NEW_CHAIN {
                let is_whole = |(of, chain, rules, jumps): &Expected| {
                    // Their chain may jump to ours.
                    let all = rules + jumps;
                    let is_right = if has_hook { uses == all } else { uses >= all };
                    Some(*of as u8) == family && *chain == name && is_right
                };
                right += usize::from(EXPECTED.iter().any(is_whole));
            }
        },
    );
    ignore_missing(done)?;
    Ok(match foreign {
        Some(comment) => State::Foreign(comment),
        None if right == EXPECTED.len() + EXPECTED_OBJECTS.len() => State::Whole,
        None => State::Missing,
    })
}

/// Takes tables of another version away, as long as nothing depends on them.
fn replace(nft: &mut Netlink, version: &str) -> Result<()> {
    check_replaced(nft, version)?;
    remove(nft, None)
}

fn check_replaced(nft: &mut Netlink, version: &str) -> Result<()> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let living = crate::detach::living(&mut route)?;
    let doing =
        format!("replace nft table inet {TABLE}, which says {version:?} and not {COMMENT:?}");
    if !living.is_empty() {
        return Err(Error::new(format!(
            "{doing}: containers live by its rules: {}; stop them first",
            living.join(", ")
        )));
    }
    if has_rules_of_the_admin(nft).doing(|| doing.clone())? {
        return Err(Error::new(format!(
            "{doing}: its chain {} has rules; save and delete them first (nft flush chain inet {TABLE} {0})",
            tables::USER
        )));
    }
    Ok(())
}

/// Makes the tables what they are to be, in one transaction. The admin's chain and all elements stay.
fn install(nft: &mut Netlink) -> std::result::Result<(), Refusal> {
    transaction(nft, write_tables)
}

pub(super) fn write_tables(batch: &mut Batch) {
    let mut id = 0;
    for table in &tables::tables() {
        let family = table.family;
        batch.add_table(family, COMMENT);
        for chain in &table.chains {
            batch.add_chain(family, chain);
        }
        for set in &table.sets {
            id += 1;
            batch.add_set(family, set, id);
        }
        for chain in table
            .chains
            .iter()
            .filter(|chain| chain.name != tables::USER)
        {
            batch.delete_rules(family, chain.name);
        }
        for rule in &table.rules {
            batch.add_rule(family, rule);
        }
    }
}

/// Deletes the tables; what the admin has put into their chain stays, and the chain. Gone already is success.
///
/// # Errors
/// What the kernel refused. ERESTART: the ruleset is not that of `generation` any more, and nothing was deleted.
pub fn remove(nft: &mut Netlink, mut generation: Option<u32>) -> Result<()> {
    let doing = || format!("delete nft table {TABLE}");
    let keeps_user = has_rules_of_the_admin(nft).doing(doing)?;
    for table in &tables::tables() {
        // The first of them changes it.
        let done = transaction_at(nft, generation.take(), |batch| {
            if keeps_user && table.family == Family::Inet {
                for chain in table
                    .chains
                    .iter()
                    .filter(|chain| chain.name != tables::USER)
                {
                    batch.delete_rules(table.family, chain.name);
                }
                for chain in table
                    .chains
                    .iter()
                    .filter(|chain| chain.name != tables::USER)
                {
                    batch.delete_chain(table.family, chain.name);
                }
                for set in &table.sets {
                    batch.delete_set(table.family, set.name);
                }
            } else {
                batch.delete_table(table.family);
            }
        });
        ignore_missing(done).doing(doing)?;
    }
    Ok(())
}

/// Asked for, not counted: how often a chain is used says nothing of its rules where something jumps there, or nothing does any more.
fn has_rules_of_the_admin(nft: &mut Netlink) -> std::result::Result<bool, Refusal> {
    let dumped = nft.dump(
        |writer, sequence| {
            Batch::new(writer, sequence, TABLE).ask_rules(Family::Inet, tables::USER)
        },
        |message| (message.kind == NEW_RULE).then_some(()),
    );
    ignore_missing(dumped).map(|rules| !rules.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::expression::{Expression, Verdict};

    /// Supervisors of two builds would put their rules in the place of each other's, for ever, if both said that they
    /// were of one version: whoever changes a rule changes [`COMMENT`], and then this number.
    #[test]
    fn other_rules_are_another_version() {
        let text = format!("{:?}", tables::tables());
        let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        assert_eq!((COMMENT, hash), ("hawser 8", 2_704_562_386));
    }

    #[test]
    fn what_is_expected_is_what_is_installed() {
        let tables = tables::tables();
        let mut counted = Vec::new();
        let mut objects = Vec::new();
        for table in &tables {
            objects.push((table.family, (table.chains.len() + table.sets.len()) as u32));
            for chain in table.chains.iter().filter(|c| c.name != tables::USER) {
                let rules = table.rules.iter().filter(|r| r.chain == chain.name).count();
                let jumps = table
                    .rules
                    .iter()
                    .flat_map(|rule| &rule.expressions)
                    .filter(|expression| {
                        matches!(expression, Expression::Then(Verdict::Jump(to) | Verdict::Goto(to)) if *to == chain.name)
                    })
                    .count();
                counted.push((table.family, chain.name, rules as u32, jumps as u32));
            }
        }
        assert_eq!(EXPECTED.to_vec(), counted);
        assert_eq!(EXPECTED_OBJECTS.to_vec(), objects);
    }
}
