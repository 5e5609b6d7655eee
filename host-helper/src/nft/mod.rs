//! The firewall: one table, `inet hawser`, whose chains and rules never change; what comes and goes are elements of
//! its sets. [`rules`] is the whole of it as data, [`ensure`] makes the kernel have it.
//!
//! `tests/golden/ruleset.nft` is what `nft list ruleset` makes of it.

mod message;

use hawser::netlink::{Attributes, read_u32};
use message::{Batch, Chain, Expression, Family, Rule};
use nix::errno::Errno;

use crate::error::{Doing, Refusal, Result};
use crate::netlink::Netlink;

/// Name of the table.
pub const TABLE: &str = "hawser";
/// The version that is in the table's comment; a table with another one is replaced.
const COMMENT: &str = "hawser 1";
/// The set of our bridges' names.
const NETWORKS: &str = "networks";
/// Host ends of point-to-point containers are links of their own: `hw` and eight digits (bridges are `ha...`, and
/// packets of a bridge's ports come in by the bridge).
const POINT_TO_POINT: Expression = Expression::StartsWith(b"hw");

const POSTROUTING: Chain = Chain {
    name: "postrouting",
    kind: "nat",
    hook: libc::NF_INET_POST_ROUTING as u32,
    priority: 100, // NF_IP_PRI_NAT_SRC, linux/netfilter_ipv4.h; nft calls it srcnat
};

/// Between our own networks addresses stay as they are; what leaves them takes the address of its way out.
fn rules() -> [Rule<'static>; 6] {
    use Expression::{In, InputName, Masquerade, OutputName, Return};
    let chain = POSTROUTING.name;
    [
        Rule {
            chain,
            expressions: &[InputName, In(NETWORKS), OutputName, In(NETWORKS), Return],
        },
        Rule {
            chain,
            expressions: &[InputName, In(NETWORKS), OutputName, POINT_TO_POINT, Return],
        },
        Rule {
            chain,
            expressions: &[InputName, In(NETWORKS), Masquerade],
        },
        Rule {
            chain,
            expressions: &[InputName, POINT_TO_POINT, OutputName, In(NETWORKS), Return],
        },
        Rule {
            chain,
            expressions: &[
                InputName,
                POINT_TO_POINT,
                OutputName,
                POINT_TO_POINT,
                Return,
            ],
        },
        Rule {
            chain,
            expressions: &[InputName, POINT_TO_POINT, Masquerade],
        },
    ]
}

/// The table is there, whole, and knows `bridge` (none: point-to-point). `all` names the bridges that a table which
/// has to be made anew must know besides.
///
/// # Errors
/// What the kernel refused; the ruleset is then as it was.
pub fn ensure(
    nft: &mut Netlink,
    bridge: Option<&str>,
    all: impl FnOnce() -> Result<Vec<String>>,
) -> Result<()> {
    let doing = || format!("look at nft table inet {TABLE}");
    let found = look(nft, bridge)
        .doing(doing)
        .map_err(name_missing_options)?;
    if found
        == (Found {
            is_whole: true,
            has_bridge: true,
        })
    {
        return Ok(());
    }
    if !found.is_whole {
        // One at a time: whoever installs it second would drop what was added meanwhile.
        let _lock = crate::state::lock()?;
        if look(nft, bridge).doing(doing)?.is_whole {
            return ensure(nft, bridge, all);
        }
        let all = all()?;
        let mut names: Vec<&str> = all.iter().map(String::as_str).collect();
        names.extend(bridge.filter(|bridge| !names.contains(bridge)));
        return install(nft, &names)
            .doing(|| format!("install nft table inet {TABLE}"))
            .map_err(name_missing_options);
    }
    let Some(bridge) = bridge else { return Ok(()) };
    transaction(nft, |batch| {
        batch.add_names(NETWORKS, &[bridge], libc::NLM_F_ACK)
    })
    .doing(|| format!("add {bridge} to nft set {NETWORKS}"))
}

/// The bridge is no longer one of ours. Gone already is success.
///
/// # Errors
/// What the kernel refused.
pub fn forget(nft: &mut Netlink, bridge: &str) -> Result<()> {
    let done = transaction(nft, |batch| {
        batch.delete_name(NETWORKS, bridge, libc::NLM_F_ACK)
    });
    ignore(Errno::ENOENT, done).doing(|| format!("delete {bridge} from nft set {NETWORKS}"))
}

/// Deletes the table. Gone already is success.
///
/// # Errors
/// What the kernel refused.
pub fn remove(nft: &mut Netlink) -> Result<()> {
    let done = transaction(nft, |batch| batch.delete_table(libc::NLM_F_ACK));
    ignore(Errno::ENOENT, done).doing(|| format!("delete nft table inet {TABLE}"))
}

fn ignore(
    errno: Errno,
    done: std::result::Result<(), Refusal>,
) -> std::result::Result<(), Refusal> {
    match done {
        Err(refusal) if refusal.errno == errno => Ok(()),
        done => done,
    }
}

fn name_missing_options(error: crate::error::Error) -> crate::error::Error {
    let cure = "the kernel lacks nf_tables NAT: enable CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ (modprobe nf_tables nft_masq)";
    error
        .cure(Errno::EOPNOTSUPP, cure)
        .cure(Errno::EPROTONOSUPPORT, cure)
        .cure(Errno::EAFNOSUPPORT, cure)
}

#[derive(PartialEq, Eq)]
struct Found {
    is_whole: bool,
    has_bridge: bool,
}

/// Compares the table in the kernel with ours by what it counts: its objects, its chain's rules, its version.
fn look(nft: &mut Netlink, bridge: Option<&str>) -> std::result::Result<Found, Refusal> {
    const NFTA_TABLE_USE: u16 = 3;
    const NFTA_TABLE_USERDATA: u16 = 6;
    const NFTA_CHAIN_USE: u16 = 6;
    let (mut objects, mut version, mut rule_count, mut has_bridge) =
        (0, false, 0, bridge.is_none());
    let new = |kind: i32| (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    let number = |value: &[u8]| read_u32(value, 0).map_or(0, u32::from_be);
    let done = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, Family::Inet, TABLE);
            batch.ask_table();
            batch.ask_chain(POSTROUTING.name);
            if let Some(bridge) = bridge {
                batch.ask_name(NETWORKS, bridge);
            }
            batch.last()
        },
        |message| {
            let attributes = || Attributes::new(message.payload.get(4..).unwrap_or(&[]));
            if message.kind == new(libc::NFT_MSG_NEWTABLE) {
                for (kind, value) in attributes() {
                    match kind {
                        NFTA_TABLE_USE => objects = number(value),
                        NFTA_TABLE_USERDATA => {
                            version = value
                                .get(2..)
                                .is_some_and(|v| v.starts_with(COMMENT.as_bytes()))
                        }
                        _ => {}
                    }
                }
            } else if message.kind == new(libc::NFT_MSG_NEWCHAIN) {
                let uses = attributes().find(|(kind, _)| *kind == NFTA_CHAIN_USE);
                rule_count = uses.map_or(0, |(_, value)| number(value));
            } else if message.kind == new(libc::NFT_MSG_NEWSETELEM) {
                has_bridge = true;
            }
        },
    );
    ignore(Errno::ENOENT, done)?;
    // One set and one chain.
    let is_whole = version && objects == 2 && rule_count as usize == rules().len();
    Ok(Found {
        is_whole,
        has_bridge,
    })
}

/// Makes the whole table in one transaction, in the place of whatever has its name.
fn install(nft: &mut Netlink, bridges: &[&str]) -> std::result::Result<(), Refusal> {
    transaction(nft, |batch| {
        // "Delete if it is there" in a transaction is add, delete, add: two at once end with the same one table.
        batch.add_table(COMMENT, 0);
        batch.delete_table(0);
        batch.add_table(COMMENT, 0);
        batch.add_name_set(NETWORKS);
        batch.add_chain(&POSTROUTING);
        for rule in rules() {
            batch.add_rule(&rule);
        }
        batch.add_names(NETWORKS, bridges, libc::NLM_F_ACK);
    })
}

fn transaction(nft: &mut Netlink, write: impl Fn(&mut Batch)) -> std::result::Result<(), Refusal> {
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, Family::Inet, TABLE);
            batch.begin();
            write(&mut batch);
            batch.commit()
        },
        |_| {},
    )
}
