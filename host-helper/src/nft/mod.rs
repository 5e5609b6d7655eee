//! The firewall: two tables, `inet hawser` and `bridge hawser`, whose chains and rules never change (`tables.rs`).
//! A network or a container is elements of their sets (`elements.rs`): one batch adds them, one takes them back.
//!
//! [`ensure`] makes the kernel have the tables; an [`Entry`] is what they know of one container, as long as it lives.

mod elements;
mod entry;
pub mod examine;
mod expression;
pub mod foreign;
mod frames;
mod inet;
mod message;
mod sets;
mod tables;
pub mod translations;
mod words;

pub use entry::Entry;
pub use sets::{close_later, forget, forget_link, led_to, sweep_dead, tenant_at};

use hawser::netlink::{Attributes, read_u32};
use message::{Batch, Family, kind};
use nix::errno::Errno;

use crate::attach::Attachment;
use crate::bridge::{Network, POINT_TO_POINT_NAME};
use crate::error::{Doing, Error, Refusal, Result};
use crate::netlink::Netlink;
use crate::ptp;
use crate::publish::Port;
use crate::reach::Reach;
use crate::state;

/// The group of the host ends that are ports of a bridge.
pub const PORT_GROUP: u32 = tables::PORT;
/// Name of both tables.
const TABLE: &str = "hawser";
/// The version that is in the tables' comments.
const COMMENT: &str = "hawser 5";

/// A chain, and how many rules it has, and how many jump to it.
type Expected = (Family, &'static str, u32, u32);
/// What [`tables::tables`] says, counted: a test compares them. On the start path the tables are not built.
const EXPECTED: [Expected; 22] = [
    (Family::Inet, "refuse", 2, 15),
    (Family::Inet, "egress", 7, 4),
    (Family::Inet, "from", 7, 1),
    (Family::Inet, "to", 12, 1),
    (Family::Inet, "prerouting", 7, 0),
    (Family::Inet, "input", 10, 0),
    (Family::Inet, "forward", 6, 0),
    (Family::Inet, "output", 2, 0),
    (Family::Inet, "nat_prerouting", 6, 0),
    (Family::Inet, "nat_output", 6, 0),
    (Family::Inet, "nat_postrouting", 7, 0),
    (Family::Bridge, "route", 3, 2),
    (Family::Bridge, "neighbours", 8, 1),
    (Family::Bridge, "solicitation", 7, 1),
    (Family::Bridge, "advertisement", 8, 1),
    (Family::Bridge, "routers", 5, 1),
    (Family::Bridge, "dhcp", 4, 2),
    (Family::Bridge, "arp", 4, 1),
    (Family::Bridge, "ipv6", 4, 1),
    (Family::Bridge, "ipv4", 3, 1),
    (Family::Bridge, "prerouting", 5, 0),
    (Family::Bridge, "forward", 2, 0),
];
/// How many chains and sets each table has.
const EXPECTED_OBJECTS: [(Family, u32); 2] = [(Family::Inet, 36), (Family::Bridge, 18)];

const NEW_TABLE: u16 = kind(libc::NFT_MSG_NEWTABLE);
const NEW_CHAIN: u16 = kind(libc::NFT_MSG_NEWCHAIN);
const NEW_ELEMENTS: u16 = kind(libc::NFT_MSG_NEWSETELEM);

/// Who may open connections to a network's containers, and what their packets are said to be from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Their neighbours alone, and who comes by a published port; packets get the host's address on their way out.
    #[default]
    Guarded,
    /// Anybody. Packets get the host's address.
    OpenMasqueraded,
    /// Anybody. Packets keep their own.
    Open,
}

impl Policy {
    /// In the words of a CNI configuration.
    pub fn shown(self) -> &'static str {
        match self {
            Policy::Guarded => "host-helper's own rules (it was made by up, run or attach)",
            Policy::OpenMasqueraded => "ipMasq true",
            Policy::Open => "ipMasq false",
        }
    }
}

const POLICIES: [(Policy, u32); 3] = [
    (Policy::Guarded, tables::OURS),
    (Policy::OpenMasqueraded, tables::OPEN_MASQUERADED),
    (Policy::Open, tables::OPEN),
];

/// The policy of a network of ours, by the group of its link.
pub fn policy_of(group: u32) -> Option<Policy> {
    let is_it = |(_, class): &&(Policy, u32)| group & tables::OURS_MASK == *class;
    POLICIES.iter().find(is_it).map(|(policy, _)| *policy)
}

/// The group of a network's links.
pub fn group_of(network: &Network) -> u32 {
    if network.bridge.is_some() {
        group(&network.name, network.policy)
    } else {
        group(&network.subnet.to_string(), network.policy)
    }
}

/// The group of the network of this name and policy: a bridge's, `ptp`, or a point-to-point network's subnet.
pub fn group(name: &str, policy: Policy) -> u32 {
    let class = POLICIES.iter().find(|(one, _)| *one == policy);
    group_of_name(name) & !tables::OURS_MASK | class.map_or(tables::OURS, |(_, class)| *class)
}

/// The group that a network with this one would have if it were guarded.
pub fn group_of_hash(group: u32) -> u32 {
    group & !tables::OURS_MASK | tables::OURS
}

/// The same of one that is guarded.
pub fn group_of_name(name: &str) -> u32 {
    let name = if name == POINT_TO_POINT_NAME {
        ptp::POINT_TO_POINT.to_string()
    } else {
        name.to_string()
    };
    // FNV-1a of 32 bits (RFC 9923), folded to 24.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    tables::OURS | ((hash >> 24) ^ (hash & 0x00ff_ffff))
}

/// Whether a link of this group is a bridge of ours, or the host end of a point-to-point container.
pub fn is_ours(group: u32) -> bool {
    policy_of(group).is_some()
}

/// A socket to nf_tables.
///
/// # Errors
/// The kernel has none.
pub fn open() -> Result<Netlink> {
    Netlink::netfilter()
        .doing(|| "open a netlink socket to nf_tables".into())
        .map_err(name_missing_options)
}

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

/// Whether the tables are there, and whole.
///
/// # Errors
/// What the kernel says.
pub fn is_whole(nft: &mut Netlink) -> Result<bool> {
    let doing = || format!("look at nft table {TABLE}");
    let found = look(nft).doing(doing).map_err(name_missing_options)?;
    Ok(found == State::Whole)
}

/// What they say that they are, where that is another version.
///
/// # Errors
/// What the kernel says.
pub fn other_version(nft: &mut Netlink) -> Result<Option<String>> {
    let doing = || format!("look at nft table {TABLE}");
    match look(nft).doing(doing).map_err(name_missing_options)? {
        State::Foreign(version) => Ok(Some(version)),
        _ => Ok(None),
    }
}

/// Whether something is missing of what they should know of a container that is guarded by nothing but where it is.
///
/// # Errors
/// What the kernel says.
pub fn missing(nft: &mut Netlink, attachment: &Attachment, ports: &[Port]) -> Result<bool> {
    let reach = Reach::default();
    let mut wanted = elements::of(attachment, 0, &reach, ports, &[]);
    // Its number is known to whoever added it alone.
    wanted.retain(|element| element.set != tables::TENANTS);
    sets::is_missing(nft, &wanted).doing(|| format!("look at nft table {TABLE}"))
}

/// Adds elements to our tables, and makes those again that somebody has flushed a moment ago.
fn add_again(
    nft: &mut Netlink,
    tenant: Option<&message::Element>,
    elements: &[message::Element],
    doing: impl Fn() -> String,
) -> Result<()> {
    /// Nobody flushes them so often in so short a time.
    const TRIES: u32 = 16;
    for _ in 0..TRIES {
        match sets::add(nft, tenant, elements) {
            Err(refusal) if refusal.errno == Errno::ENOENT => drop(ensure(nft)?),
            done => return done.doing(doing),
        }
    }
    sets::add(nft, tenant, elements).doing(doing)
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
    remove(nft)
}

/// Makes the tables what they are to be, in one transaction. The admin's chain and all elements stay.
fn install(nft: &mut Netlink) -> std::result::Result<(), Refusal> {
    transaction(nft, write_tables)
}

fn write_tables(batch: &mut Batch) {
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
/// What the kernel refused.
pub fn remove(nft: &mut Netlink) -> Result<()> {
    let doing = || format!("delete nft table {TABLE}");
    let keeps_user = has_rules_of_the_admin(nft).doing(doing)?;
    for table in &tables::tables() {
        let done = transaction(nft, |batch| {
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

/// Beyond the one rule that jumps there.
fn has_rules_of_the_admin(nft: &mut Netlink) -> std::result::Result<bool, Refusal> {
    const NFTA_CHAIN_USE: u16 = 6;
    let mut uses = 0;
    let done = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.ask_chain(Family::Inet, tables::USER);
            batch.last()
        },
        |message| {
            for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                if kind == NFTA_CHAIN_USE {
                    uses = read_u32(value, 0).map_or(0, u32::from_be);
                }
            }
        },
    );
    ignore_missing(done)?;
    Ok(uses > 1)
}

/// What the tables know of a bridge of ours is there.
///
/// # Errors
/// What the kernel refused.
pub fn add_bridge(nft: &mut Netlink, name: &str, policy: Policy) -> Result<()> {
    add_again(nft, None, &elements::of_bridge(name, policy), || {
        format!("add network {name} to nft table {TABLE}")
    })
}

/// Takes a bridge of ours back; gone already is success.
///
/// # Errors
/// What the kernel refused.
pub fn remove_bridge(nft: &mut Netlink, name: &str) -> Result<()> {
    let elements = POLICIES.map(|(policy, _)| elements::of_bridge(name, policy));
    sets::take(nft, None, &elements.concat())
        .doing(|| format!("remove network {name} from nft table {TABLE}"))
}

fn transaction(nft: &mut Netlink, write: impl Fn(&mut Batch)) -> std::result::Result<(), Refusal> {
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.begin();
            write(&mut batch);
            batch.commit()
        },
        |_| {},
    )
}

fn ignore_missing(done: std::result::Result<(), Refusal>) -> std::result::Result<(), Refusal> {
    match done {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
        done => done,
    }
}

fn name_missing_options(error: Error) -> Error {
    let cure = "the kernel lacks part of nf_tables: enable CONFIG_NF_TABLES, NF_TABLES_INET, NF_TABLES_BRIDGE, NFT_NAT, NFT_MASQ, NFT_CT, NFT_FIB_INET, NFT_REJECT_INET (modprobe nf_tables nft_masq nft_fib_inet nft_reject_inet)";
    // ENOENT: no chain of that type, or no such expression.
    [
        Errno::ENOENT,
        Errno::EOPNOTSUPP,
        Errno::EPROTONOSUPPORT,
        Errno::EAFNOSUPPORT,
    ]
    .into_iter()
    .fold(error, |error, errno| error.cure(errno, cure))
}

#[cfg(test)]
mod tests {
    use super::expression::{Expression, Verdict};
    use std::collections::BTreeSet;

    use super::*;

    /// Supervisors of two builds would put their rules in the place of each other's, for ever, if both said that they
    /// were of one version: whoever changes a rule changes [`COMMENT`], and then this number.
    #[test]
    fn other_rules_are_another_version() {
        let text = format!("{:?}", tables::tables());
        let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        assert_eq!((COMMENT, hash), ("hawser 5", 856_346_274));
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

    #[test]
    fn each_network_has_a_group_of_ours() {
        let names = ["hawser0", "hawser1", "blue", "10.0.0.0/24", "10.0.1.0/24"];
        let groups: BTreeSet<u32> = names.into_iter().map(group_of_name).collect();
        assert_eq!(groups.len(), names.len());
        assert!(groups.iter().all(|group| is_ours(*group)));
        for (policy, _) in POLICIES {
            assert_eq!(policy_of(group("blue", policy)), Some(policy));
        }
        assert!(!is_ours(PORT_GROUP) && !is_ours(0));
        assert_eq!(group_of_name("ptp"), group_of_name("10.0.0.0/24"));
    }
}
