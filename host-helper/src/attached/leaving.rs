//! A link of an attachment, from the first that is taken back of it to the last.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hawser::netlink::{Writer, ifinfomsg};

use super::join;
use super::kept::{self, Kept};
use super::labels;
use super::target::Process;
use crate::conntrack::{self, Holder};
use crate::control;
use crate::error::{Doing, Error, Result, all_of, twice};
use crate::hosts;
use crate::link::Link;
use crate::mark;
use crate::netlink::{ACK, Netlink};
use crate::nft;
use crate::owner::{self, Mark, leased_address, namespace};
use crate::reach::Reach;
use crate::steps::warn;

/// A link of an attachment that is about to be deleted.
pub(super) struct Leaving<'a> {
    end: &'a Link,
    kept: Option<Kept>,
    addresses: Vec<IpAddr>,
    errors: Vec<Error>,
}

impl<'a> Leaving<'a> {
    /// Takes back what is found by the name and the addresses of the link: they are the next one's as soon as it is deleted. `None`: they
    /// are that already.
    pub(super) fn begin(route: &mut Netlink, end: &'a Link) -> Option<Leaving<'a>> {
        let mut errors = Vec::new();
        let kept = Kept::of(end);
        errors.extend(shut(route, end, kept.as_ref()).err());
        // Who was killed may have kept nothing yet.
        let known = nft::forget_link(&end.name, end.index, || !is_anothers(route, end));
        let known = known.unwrap_or_else(|error| {
            errors.push(error);
            Some(Vec::new())
        });
        let mut addresses = addresses_of(end, kept.as_ref());
        addresses.extend(known?);
        if is_anothers(route, end) {
            return None;
        }
        let its = [(end.name.clone(), addresses.clone())];
        errors.extend(mark::sweep_neighbours(route, &its, end.index).err());
        Some(Leaving {
            end,
            kept,
            addresses,
            errors,
        })
    }

    /// Deletes the link, and takes the rest back.
    pub(super) fn end(self, route: &mut Netlink) -> Result<()> {
        let Leaving {
            end,
            kept,
            addresses,
            mut errors,
        } = self;
        if let Some(kept) = &kept {
            errors.extend(take_files_back(end, kept).err());
        }
        errors.extend(delete(route, end.index).err());
        if let Some(kept) = &kept {
            forget_connections(kept, &end.name, end.index, addresses);
        }
        errors.extend(hosts::sweep_links(&BTreeSet::from([&*end.name])).err());
        // Until then it says what is left to be done.
        if errors.is_empty() {
            // It may not have been readable before.
            forget(&end.name, kept.or_else(|| Kept::of(end)).as_ref());
        }
        all_of(&errors)
    }
}

/// Whether another link has the name of this one by now.
pub(super) fn is_anothers(route: &mut Netlink, end: &Link) -> bool {
    let now = route.find_link(&end.name).ok().flatten();
    now.is_some_and(|now| now.index != end.index)
}

/// The kernel waits some 20 ms for the end of a link, and as long for that of many.
///
/// They are down before they are in another group than that which the rules are about.
pub(super) fn delete_together(route: &mut Netlink, leaving: &[Leaving]) -> Result<()> {
    let write = |batch: &mut Writer, first: u32| {
        let mut sequence = first;
        for Leaving { end, .. } in leaving {
            let down = ifinfomsg(end.index, 0, libc::IFF_UP as u32);
            batch.begin(libc::RTM_NEWLINK, 0, sequence, &down);
            batch.end();
            let same = ifinfomsg(end.index, 0, 0);
            batch.begin(libc::RTM_NEWLINK, 0, sequence + 1, &same);
            batch.number(libc::IFLA_GROUP, nft::LEAVING_GROUP);
            batch.end();
            sequence += 2;
        }
        batch.begin(libc::RTM_DELLINK, ACK, sequence, &ifinfomsg(0, 0, 0));
        batch.number(libc::IFLA_GROUP, nft::LEAVING_GROUP);
        batch.end();
        sequence
    };
    let done = route.exchange(write, |_| {});
    done.doing(|| "delete links".into())
}

/// Its leases; what the file says counts only for a family that has none: neighbours of these addresses are ours.
fn addresses_of(end: &Link, kept: Option<&Kept>) -> Vec<IpAddr> {
    let first = leased_address(&end.name).map(IpAddr::from);
    first
        .into_iter()
        .chain(kept.iter().flat_map(|kept| kept.addresses()))
        .collect()
}

/// Only while the process lives that they were put into: who has its number now is somebody else.
fn take_files_back(end: &Link, kept: &Kept) -> Result<()> {
    let Some(owner) = end.mark.as_ref().and_then(Mark::owner) else {
        return Ok(());
    };
    let process = Process::pin(owner.pid).ok().filter(|it| it.is(owner));
    match process {
        Some(process) => process
            .files
            .map_or(Ok(()), |files| join::unbind(&files, &kept.bound)),
        None => take_files_back_of_rest(kept),
    }
}

/// Its process has ended: they lie where others of the same network namespace see them, if any live. Nothing else is taken away there.
///
/// Before: the link is there. Its namespace's number would be another's.
fn take_files_back_of_rest(kept: &Kept) -> Result<()> {
    if kept.bound.is_empty() {
        return Ok(());
    }
    let (mut done, mut errors) = (BTreeSet::new(), Vec::new());
    let looked: std::io::Result<Option<()>> = owner::find_in(kept.netns, |name| {
        let mounts = namespace(name, "mnt").ok();
        let process = name.parse().ok().and_then(|pid| Process::pin(pid).ok());
        // Its number may have been another's.
        let is_its = || namespace(name, "net").is_ok_and(|now| now == kept.netns);
        let files = process.filter(|_| is_its()).and_then(|it| it.files);
        let seen = files.filter(|files| join::are_all_seen(files, &kept.bound));
        if let Some(files) = seen.filter(|_| done.insert(mounts)) {
            errors.extend(join::unbind(&files, &kept.bound).err());
        }
        Ok(None)
    });
    errors.extend(looked.doing(|| "look for its processes".into()).err());
    all_of(&errors)
}

/// What a container was given that somebody has deleted the link of, and that lives on, when another has its address now.
///
/// Before: what that one keeps is not written yet.
pub fn take_last_back(link: &str, index: u32) {
    let last = kept::read(link).filter(|it| it.is_of_here() && it.index != index);
    if let Some(last) = last {
        uncover(&last);
        withdraw(link, &last);
    }
}

/// The same where the link is gone, which names its process: somebody has deleted it, and the container lives on.
pub(super) fn uncover(kept: &Kept) {
    let Some(pid) = kept.container.pid else {
        return;
    };
    let its = namespace(&pid.to_string(), "net").ok();
    let process = Process::pin(pid).ok().filter(|_| its == Some(kept.netns));
    if let Some(files) = process.and_then(|process| process.files) {
        if let Err(error) = join::unbind(&files, &kept.bound) {
            warn(&error.to_string());
        }
    }
}

/// Connections by its ports that are left would be led to whoever has the address next; those that it has opened may fill
/// the kernel's table.
pub(super) fn forget_connections(kept: &Kept, link: &str, index: u32, addresses: Vec<IpAddr>) {
    let (has_ports, are_many) = (!kept.container.ports.is_empty(), conntrack::are_many());
    if !has_ports && !are_many {
        return;
    }
    // Without a socket there is nobody to tell either.
    if let Ok(mut netfilter) = twice(Netlink::netfilter) {
        let holder = Holder {
            link: link.to_string(),
            index,
            addresses,
        };
        conntrack::forget_ended(&mut netfilter, &[holder], has_ports, are_many);
        nft::close_later(&netfilter);
    }
}

/// Forgets what is kept of a link, and takes back what others read of it. What another keeps under its name by now is not ours.
pub(super) fn forget(link: &str, kept: Option<&Kept>) {
    match kept {
        Some(kept) => {
            withdraw(link, kept);
            kept::forget_if(link, kept);
        }
        // It cannot be read, if there is any.
        None if kept::read(link).is_none() => kept::forget(link),
        None => {}
    }
}

/// Takes back what others read of it: the name that it had for `ip netns`, and the file with its address.
fn withdraw(link: &str, kept: &Kept) {
    if let Some(name) = &kept.export {
        labels::withdraw_export(name, kept.netns);
    }
    // The next one at this address writes the same words, perhaps to the same file, but is kept before.
    let is_next = |now: Kept| (now.host, now.index) != (kept.host, kept.index);
    let is_its = !kept::read(link).is_some_and(is_next);
    if let (Some(path), Some(address), true) = (&kept.ip_file, leased_address(link), is_its) {
        labels::withdraw_ip_file(path, address);
    }
    control::forget_stale(&kept.container.name);
}

/// Before its rules go, the host end is down of whoever is limited and on no bridge: it would send anywhere without them. On a bridge
/// nobody sends whom they do not know.
pub(super) fn shut(route: &mut Netlink, end: &Link, kept: Option<&Kept>) -> Result<()> {
    let is_free = kept.is_some_and(|kept| kept.reach() == Some(Reach::default()));
    if is_free || end.controller.is_some() {
        return Ok(());
    }
    let done = route.set_link_down(end.index);
    done.doing(|| format!("set link {} down", end.index))
}

pub(super) fn delete(route: &mut Netlink, index: u32) -> Result<()> {
    let done = twice(|| route.delete_link(index));
    done.doing(|| format!("delete link {index}"))
}
