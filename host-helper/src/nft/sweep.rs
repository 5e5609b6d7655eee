//! What containers have left in the tables goes: of one that ends, and of all that were killed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;

use hawser::netlink::Writer;
use nix::errno::Errno;

use super::message::Batch;
use super::object::{Element, Family};
use super::sets::{all_elements, elements_of, is_missing, known, take_if_its};
use super::{TABLE, elements, generation, open, tables};
use crate::attach::Attachment;
use crate::conntrack::{self, Holder};
use crate::control;
use crate::error::{Doing, Refusal, Result, all_of, twice};
use crate::hosts;
use crate::mark;
use crate::netlink::Netlink;
use crate::owner::Mark;
use crate::steps::warn;
use crate::sys;

/// Takes back whatever the tables know of a container.
pub fn forget(attachment: &Attachment) {
    let holder = attachment.veth.holder();
    let once = || {
        let mut nft = open()?;
        let swept = sweep(&mut nft, None, &holder, conntrack::are_many());
        close_later(&nft);
        swept
    };
    if let Err(error) = twice(once) {
        warn_of_rest(&error);
    }
}

/// Of what could not be taken back from the tables, and is there now without its container.
pub fn warn_of_rest(error: &impl std::fmt::Display) {
    warn(&format!("{error}; host-helper ls takes it back"));
}

/// For one that ends soon after elements were deleted, by whomever: see [`sys::wait_until_quiet`].
pub fn close_later(nft: &Netlink) {
    // Where there can be no process, we wait.
    let _ = sys::keep_open_beyond_our_end(&[nft.as_fd()], &[]);
}

/// The same by the name and the number of its host end alone, as long as that name is its own. Gives the addresses that it had; `None`: another
/// has the name by now.
///
/// # Errors
/// What the kernel refused, twice.
pub fn forget_link(
    link: &str,
    index: u32,
    mut is_its: impl FnMut() -> bool,
) -> Result<Option<Vec<IpAddr>>> {
    let once = || {
        let mut nft = open()?;
        let known = known(&mut nft, link)?;
        // In this order: who comes later has another number.
        if !is_its() {
            return Ok(None);
        }
        let Some(tenant) = known else {
            return Ok(Some(Vec::new()));
        };
        let swept = sweep_tenant(&mut nft, &tenant, index, conntrack::are_many());
        close_later(&nft);
        swept.map(Some)
    };
    twice(once)
}

/// Sweeps what the tables know of a container, unless another has its place by now. Gives the addresses that it had. `index`: the number
/// of the link that has its name now, and is ours. `opened`: the connections are forgotten, too, that it has opened; it may live on, without the
/// link that it has deleted.
///
/// # Errors
/// What the kernel refused.
pub fn sweep_tenant(
    nft: &mut Netlink,
    tenant: &Element,
    index: u32,
    opened: bool,
) -> Result<Vec<IpAddr>> {
    let Some((link, addresses)) = elements::known(tenant) else {
        return Ok(Vec::new());
    };
    let holder = holder((link, addresses), index);
    sweep(nft, Some(tenant), &holder, opened)?;
    Ok(holder.addresses)
}

fn sweep(nft: &mut Netlink, tenant: Option<&Element>, holder: &Holder, opened: bool) -> Result<()> {
    let Holder {
        link, addresses, ..
    } = holder;
    let doing = || format!("sweep what is left over of {link}");
    let mut found = all_elements(nft).doing(doing)?;
    found.retain(|element| elements::is_of(element, addresses, link));
    let is_taken = take_if_its(nft, tenant, &found).doing(doing)?;
    if is_taken && !found.is_empty() {
        // Those that are left would reach whoever gets an address next.
        conntrack::forget_ended(nft, std::slice::from_ref(holder), true, opened);
    }
    Ok(())
}

/// The link that a container had, and its addresses.
type Dead = (String, Vec<IpAddr>);

fn holder((link, addresses): Dead, index: u32) -> Holder {
    Holder {
        link,
        index,
        addresses,
    }
}

/// Sweeps what killed supervisors have left: of every container whose link is not there any more. Something that
/// changes meanwhile leaves it to the next call.
///
/// # Errors
/// What the kernel refused.
pub fn sweep_dead(route: &mut Netlink) -> Result<()> {
    let mut nft = open()?;
    if sweep_dead_by(&mut nft, route)? {
        close_later(&nft);
    }
    Ok(())
}

/// The same by a socket that is there already. True: something was deleted.
///
/// # Errors
/// What the kernel refused.
pub fn sweep_dead_by(nft: &mut Netlink, route: &mut Netlink) -> Result<bool> {
    match try_to_sweep_dead(nft, route) {
        // A dump that others went on to interrupt: that, too, is left to the next call.
        Err(error) if error.errno == Some(Errno::EINTR) => Ok(true),
        done => done,
    }
}

fn try_to_sweep_dead(nft: &mut Netlink, route: &mut Netlink) -> Result<bool> {
    const TRIES: u32 = 3;
    let doing = || "sweep what dead containers have left".to_string();
    let mut has_closed = false;
    for _ in 0..TRIES {
        let tenants = elements_of(nft, Family::Inet, tables::TENANTS).doing(doing)?;
        if tenants.is_empty() {
            return Ok(has_closed);
        }
        has_closed |= close_ports(nft, route, &tenants).doing(doing)?;
        let (dead, found) = find_dead(nft, route, &tenants).doing(doing)?;
        if dead.is_empty() {
            return Ok(has_closed);
        }
        let generation = generation(nft).doing(doing)?;
        // What was read before that, which takes long among many, is so still if who may have been replaced is there: who takes an address
        // sweeps first, and who takes a port has it lead elsewhere.
        let mut replaceable = found.clone();
        replaceable.retain(|element| !element.value.is_empty());
        let are_dead = dead.iter().all(|(name, _)| is_gone(route, name));
        if !are_dead || is_missing(nft, &replaceable).doing(doing)? {
            continue;
        }
        // Tenants go last: by them whoever sweeps finds what is left, should we be killed.
        let (tenants, rest): (Vec<_>, Vec<_>) =
            (found.into_iter()).partition(|element| elements::known(element).is_some());
        let delete = |nft: &mut Netlink| {
            let write = |writer: &mut Writer, sequence| {
                let mut batch = Batch::new(writer, sequence, TABLE);
                batch.begin_at(generation);
                batch.elements(libc::NFT_MSG_DELSETELEM, 0, &rest);
                batch.commit()
            };
            nft.exchange(write, |_| {})
        };
        // An empty transaction is answered by no kernel before 6.10.
        let done = if rest.is_empty() { Ok(()) } else { delete(nft) };
        match done {
            // Somebody else has changed the ruleset; an address may have been taken anew.
            Err(refusal) if matches!(refusal.errno, Errno::ERESTART | Errno::ENOENT) => {}
            done => {
                done.doing(doing)?;
                let forgotten = forget_dead(nft, route, dead);
                for tenant in &tenants {
                    take_if_its(nft, Some(tenant), std::slice::from_ref(tenant)).doing(doing)?;
                }
                return forgotten.map(|()| true);
            }
        }
    }
    Ok(has_closed)
}

/// Whether there is no such link. One by one: a list of all links takes the kernel twenty times as long.
fn is_gone(route: &Netlink, name: &str) -> bool {
    sys::link_index(route.as_fd(), name) == Err(Errno::ENODEV)
}

/// Those of the tenants whose link is gone, by its name, with the addresses that nobody living has by now; and all their elements.
fn find_dead(
    nft: &mut Netlink,
    route: &Netlink,
    tenants: &[Element],
) -> std::result::Result<(Vec<Dead>, Vec<Element>), Refusal> {
    let (mut dead, living): (Vec<_>, Vec<_>) = tenants
        .iter()
        .filter_map(elements::known)
        .partition(|(name, _)| is_gone(route, name));
    if dead.is_empty() {
        return Ok((dead, Vec::new()));
    }
    let taken: BTreeSet<IpAddr> = living.into_iter().flat_map(|(_, all)| all).collect();
    for (_, addresses) in &mut dead {
        addresses.retain(|address| !taken.contains(address));
    }
    let mut found = all_elements(nft)?;
    found.retain(|element| {
        dead.iter()
            .any(|(name, addresses)| elements::is_of(element, addresses, name))
    });
    Ok((dead, found))
}

/// The rest of those that are in the tables no more.
fn forget_dead(nft: &mut Netlink, route: &mut Netlink, mut dead: Vec<Dead>) -> Result<()> {
    let swept = hosts::sweep_links(&dead.iter().map(|(name, _)| name.as_str()).collect());
    // Else what follows is the next one's.
    dead.retain(|(name, _)| is_gone(route, name));
    let holders: Vec<Holder> = dead.iter().map(|one| holder(one.clone(), 0)).collect();
    // And those that they have opened: by an answer to that anybody could speak to whoever gets an address next.
    conntrack::forget_ended(nft, &holders, true, true);
    let neighbours = mark::sweep_neighbours(route, &dead, 0);
    all_of(
        &[swept, neighbours]
            .into_iter()
            .filter_map(Result::err)
            .collect::<Vec<_>>(),
    )
}

/// Takes the ports back of containers that have ended with their supervisors, whose networks others live on in: nobody holds them. Where
/// there are ports at all: it takes a look at processes. True: there were some.
fn close_ports(
    nft: &mut Netlink,
    route: &mut Netlink,
    tenants: &[Element],
) -> std::result::Result<bool, Refusal> {
    let mut has_closed = false;
    let mut ports = Vec::new();
    for set in elements::sets_of_ports() {
        ports.extend(elements_of(nft, Family::Inet, set)?);
    }
    let led_to: BTreeSet<IpAddr> = ports.iter().filter_map(elements::target_of).collect();
    for tenant in tenants {
        let Some((name, addresses)) = elements::known(tenant) else {
            continue;
        };
        if !addresses.iter().any(|address| led_to.contains(address)) {
            continue;
        }
        let link = route.find_link(&name)?;
        let Some((index, Mark::Run(owner))) = link.and_then(|it| Some((it.index, it.mark?))) else {
            continue;
        };
        if owner.is_running() || control::is_supervised(&owner.name) {
            continue;
        }
        let mut gone = all_elements(nft)?;
        gone.retain(|element| elements::is_of_ports_of(element, &addresses, &name));
        take_if_its(nft, Some(tenant), &gone)?;
        // Others live on there, and what they have opened.
        conntrack::forget_ended(nft, &[holder((name, addresses), index)], true, false);
        has_closed = true;
    }
    Ok(has_closed)
}
