//! A link of an attachment, from the first that is taken back of it to the last.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hawser::netlink::{Writer, ifinfomsg};

use super::away::{delete, forget, forget_connections};
use super::join;
use super::kept::{self, Kept};
use super::target::Process;
use crate::error::{Doing, Error, Result, all_of};
use crate::hosts;
use crate::link::Link;
use crate::mark;
use crate::netlink::{ACK, Netlink};
use crate::nft;
use crate::owner::{Mark, leased_address};

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
        let now = route.find_link(&end.name).ok().flatten();
        if now.is_some_and(|now| now.index != end.index) {
            return None;
        }
        let mut errors = Vec::new();
        let kept = Kept::of(end);
        // Who was killed may have kept nothing yet.
        let known = nft::forget_link(&end.name);
        let known = known
            .map_err(|error| errors.push(error))
            .unwrap_or_default();
        let mut addresses = addresses_of(end, kept.as_ref());
        addresses.extend(known);
        errors.extend(mark::sweep_neighbours(route, &addresses).err());
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
            forget_connections(kept, &addresses);
        }
        errors.extend(hosts::sweep_links(&BTreeSet::from([&*end.name])).err());
        // Until then it says what is left to be done. What the next one keeps under this name is not ours.
        let now = kept::read(&end.name);
        if errors.is_empty() && (now.is_none() || kept.is_none() || now == kept) {
            forget(&end.name);
        }
        all_of(&errors)
    }
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
    match process.and_then(|process| process.files) {
        Some(files) => join::unbind(&files, &kept.bound),
        None => Ok(()),
    }
}
