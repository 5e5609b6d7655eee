//! The firewall: two tables, `inet hawser` and `bridge hawser`, whose chains and rules never change (`tables.rs`, in the kernel: `installed.rs`).
//! A network or a container is elements of their sets (`elements.rs`): one batch adds them, one takes them back.
//!
//! [`ensure`] makes the kernel have the tables; an [`Entry`] is what they know of one container, as long as it lives.

mod barriers;
pub mod conditions;
mod elements;
mod entry;
pub mod examine;
mod expression;
pub mod foreign;
mod frames;
mod group;
mod inet;
mod installed;
mod limits;
mod lookups;
mod matches;
mod members;
mod message;
mod nat;
mod news;
mod object;
mod sets;
mod sweep;
mod tables;
pub mod translations;
mod words;

pub use entry::{Entry, Rules, refused};
pub use group::{Policy, group, group_of, group_of_hash, group_of_name, is_ours, policy_of};
pub use installed::{State, check_version, ensure, is_whole, look, remove, state};
pub use news::News;
pub use sets::{led_to, tenant_at};
pub use sweep::{close_later, forget, forget_link, sweep_dead, sweep_dead_by};

use hawser::netlink::{Attributes, read_u32};
use nix::errno::Errno;

use crate::attach::Attachment;
use crate::error::{Doing, Error, Refusal, Result};
use crate::netlink::Netlink;
use crate::publish::Port;
use crate::reach::Reach;

use group::POLICIES;
use message::{Batch, kind};
use object::Element;

/// The group of the host ends that are ports of a bridge.
pub const PORT_GROUP: u32 = tables::PORT;
/// The group of host ends on their way out: no rule is about it, and they are down by then.
pub const LEAVING_GROUP: u32 = tables::LEAVING;
/// Name of both tables.
const TABLE: &str = "hawser";

const NEW_ELEMENTS: u16 = kind(libc::NFT_MSG_NEWSETELEM);

/// A socket to nf_tables.
///
/// # Errors
/// The kernel has none.
pub fn open() -> Result<Netlink> {
    Netlink::netfilter()
        .doing(|| "open a netlink socket to nf_tables".into())
        .map_err(name_missing_options)
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

/// Nobody flushes the tables so often in so short a time.
const TRIES: u32 = 16;

/// Adds elements to our tables, and makes those again that somebody has flushed a moment ago; whether there were none.
fn add_again(
    nft: &mut Netlink,
    tenant: Option<&Element>,
    elements: &[Element],
    doing: impl Fn() -> String,
) -> Result<bool> {
    for again in 0..TRIES {
        match sets::add(nft, tenant, elements) {
            Err(refusal) if refusal.errno == Errno::ENOENT => drop(ensure(nft)?),
            done => return done.doing(doing).map(|()| again > 0),
        }
    }
    sets::add(nft, tenant, elements).doing(doing).map(|()| true)
}

/// What the tables know of a bridge of ours is there.
///
/// # Errors
/// What the kernel refused.
pub fn add_bridge(nft: &mut Netlink, name: &str, policy: Policy) -> Result<()> {
    add_again(nft, None, &elements::of_bridge(name, policy), || {
        format!("add network {name} to nft table {TABLE}")
    })
    .map(drop)
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
    transaction_at(nft, None, write)
}

/// The same, refused with ERESTART when the ruleset is not that of this number any more.
fn transaction_at(
    nft: &mut Netlink,
    generation: Option<u32>,
    write: impl Fn(&mut Batch),
) -> std::result::Result<(), Refusal> {
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            match generation {
                Some(generation) => batch.begin_at(generation),
                None => batch.begin(),
            }
            write(&mut batch);
            batch.commit()
        },
        |_| {},
    )
}

/// The number of the ruleset, which counts its changes.
///
/// # Errors
/// What the kernel says.
pub fn generation(nft: &mut Netlink) -> std::result::Result<u32, Refusal> {
    const NFTA_GEN_ID: u16 = 1;
    let mut generation = 0;
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.ask_generation();
            batch.last()
        },
        |message| {
            for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                if kind == NFTA_GEN_ID {
                    generation = read_u32(value, 0).map_or(0, u32::from_be);
                }
            }
        },
    )?;
    Ok(generation)
}

fn ignore_missing<T: Default>(
    done: std::result::Result<T, Refusal>,
) -> std::result::Result<T, Refusal> {
    match done {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(T::default()),
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
