//! The firewall: one table, `inet hawser`, whose one rule never changes. Our bridges and the host ends of
//! point-to-point containers are links of one group, and the rule is about that group: there is nothing to add for a
//! container or a network, and nothing that one could leave behind.
//!
//! [`rules`] is the whole of it as data, [`ensure`] makes the kernel have it; `tests/golden` has what
//! `nft list ruleset` makes of it.

mod message;

use hawser::netlink::{Attributes, read_u32};
use message::{Batch, Chain, Expression, Family, Rule};
use nix::errno::Errno;

use crate::error::{Doing, Error, Refusal, Result};
use crate::netlink::Netlink;
use crate::state;

/// The group (`IFLA_GROUP`) of the links that packets of our containers come in by: "hw" in ASCII.
pub const GROUP: u32 = 0x6877;
/// Name of the table.
const TABLE: &str = "hawser";
/// The version that is in the table's comment; a table with another one is replaced.
const COMMENT: &str = "hawser 1";

const POSTROUTING: Chain = Chain {
    name: "postrouting",
    kind: "nat",
    hook: libc::NF_INET_POST_ROUTING as u32,
    priority: 100, // NF_IP_PRI_NAT_SRC, linux/netfilter_ipv4.h; nft calls it srcnat
};

/// Between our own networks addresses stay as they are; what leaves them takes the address of its way out.
const RULES: [Rule; 1] = [Rule {
    chain: POSTROUTING.name,
    expressions: &[
        Expression::InputGroup,
        Expression::Is(GROUP),
        Expression::OutputGroup,
        Expression::IsNot(GROUP),
        Expression::Masquerade,
    ],
}];

/// A socket to nf_tables.
///
/// # Errors
/// The kernel has none.
pub fn open() -> Result<Netlink> {
    Netlink::netfilter()
        .doing(|| "open a netlink socket to nf_tables".into())
        .map_err(name_missing_options)
}

/// The table is there, and whole.
///
/// # Errors
/// What the kernel refused; the ruleset is then as it was.
pub fn ensure(nft: &mut Netlink) -> Result<()> {
    let doing = || format!("look at nft table inet {TABLE}");
    if is_whole(nft).doing(doing).map_err(name_missing_options)? {
        return Ok(());
    }
    // One at a time: whoever comes second finds it whole.
    let _lock = state::lock()?;
    if is_whole(nft).doing(doing)? {
        return Ok(());
    }
    install(nft)
        .doing(|| format!("install nft table inet {TABLE}"))
        .map_err(name_missing_options)
}

/// Deletes the table. Gone already is success.
///
/// # Errors
/// What the kernel refused.
pub fn remove(nft: &mut Netlink) -> Result<()> {
    let done = transaction(nft, |batch| batch.delete_table(libc::NLM_F_ACK));
    ignore_missing(done).doing(|| format!("delete nft table inet {TABLE}"))
}

fn ignore_missing(done: std::result::Result<(), Refusal>) -> std::result::Result<(), Refusal> {
    match done {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
        done => done,
    }
}

fn name_missing_options(error: Error) -> Error {
    let cure = "the kernel lacks nf_tables NAT: enable CONFIG_NF_TABLES, NF_TABLES_INET, NFT_NAT and NFT_MASQ (modprobe nf_tables nft_masq)";
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

/// Compares the table in the kernel with ours by what it counts: its objects, its chain's rules, its version.
fn is_whole(nft: &mut Netlink) -> std::result::Result<bool, Refusal> {
    const NFTA_TABLE_USE: u16 = 3;
    const NFTA_TABLE_USERDATA: u16 = 6;
    const NFTA_CHAIN_USE: u16 = 6;
    const NEW_TABLE: u16 = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_NEWTABLE) as u16;
    const NEW_CHAIN: u16 = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_NEWCHAIN) as u16;
    let (mut objects, mut rules, mut is_ours) = (0, 0, false);
    let done = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, Family::Inet, TABLE);
            batch.ask_table();
            batch.ask_chain(POSTROUTING.name);
            batch.last()
        },
        |message| {
            for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                let number = || read_u32(value, 0).map_or(0, u32::from_be) as usize;
                match (message.kind, kind) {
                    (NEW_TABLE, NFTA_TABLE_USE) => objects = number(),
                    (NEW_TABLE, NFTA_TABLE_USERDATA) => {
                        let comment = value.get(2..).unwrap_or(&[]);
                        is_ours = comment.strip_suffix(b"\0") == Some(COMMENT.as_bytes());
                    }
                    (NEW_CHAIN, NFTA_CHAIN_USE) => rules = number(),
                    _ => {}
                }
            }
        },
    );
    ignore_missing(done)?;
    Ok(is_ours && objects == 1 && rules == RULES.len())
}

/// Makes the whole table in one transaction, in the place of whatever has its name.
fn install(nft: &mut Netlink) -> std::result::Result<(), Refusal> {
    transaction(nft, |batch| {
        // "Delete if it is there" in a transaction is add, delete, add.
        batch.add_table(COMMENT, 0);
        batch.delete_table(0);
        batch.add_table(COMMENT, 0);
        batch.add_chain(&POSTROUTING);
        for rule in &RULES {
            batch.add_rule(rule, libc::NLM_F_ACK);
        }
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
