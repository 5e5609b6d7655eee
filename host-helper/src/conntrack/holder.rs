//! Connections of a container that may have lost its addresses by now: they are the next one's as soon as its link is gone, and who
//! has them says so by the name of a link. So they are listed before that is looked at, and what is deleted is what was listed.

use std::collections::BTreeSet;
use std::iter;
use std::net::IpAddr;

use super::entry::{CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, Entry, delete, dump};
use super::{FEW, SINGLY, forget_of, is_from, may_be_there};
use crate::error::{Refusal, twice};
use crate::netlink::Netlink;
use crate::owner::lease_name;

/// Who has, or had, addresses.
pub struct Holder {
    /// The name of the link, which leases the IPv4 address.
    pub link: String,
    /// The number of the link, that no other gets; 0: it is gone.
    pub index: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Holder {
    /// Whether another has this address of its by now.
    fn has_lost(&self, route: &mut Netlink, address: IpAddr) -> Result<bool, Refusal> {
        // An IPv6 address that goes with no IPv4 one is leased by a further name of a link.
        let further = Some(address).filter(IpAddr::is_ipv6).map(lease_name);
        for name in iter::once(self.link.clone()).chain(further) {
            let now = route.find_link(&name)?;
            if now.is_some_and(|now| now.index != self.index) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Forgets the connections of containers that have ended: those that were led there (`had_ports`), and those that they
/// have opened (`opened`: where there [`super::are_many`], as a rule). Where nothing is tracked nothing is left, and there is nobody to tell.
pub fn forget_ended(conntrack: &mut Netlink, holders: &[Holder], had_ports: bool, opened: bool) {
    let led = had_ports.then_some(CTA_TUPLE_REPLY);
    let sides: Vec<u16> = led
        .into_iter()
        .chain(opened.then_some(CTA_TUPLE_ORIG))
        .collect();
    let _ = twice(|| forget_listed(conntrack, holders, &sides, &mut |_| true));
}

/// Forgets those connections of a container that it has opened and that are meant; of a flood of them, all that it has opened.
///
/// # Errors
/// As [`super::forget`].
pub fn forget_opened_if(
    conntrack: &mut Netlink,
    holder: Holder,
    is_meant: &mut dyn FnMut(&Entry) -> bool,
) -> Result<(), Refusal> {
    forget_listed(conntrack, &[holder], &[CTA_TUPLE_ORIG], is_meant)
}

fn forget_listed(
    conntrack: &mut Netlink,
    holders: &[Holder],
    sides: &[u16],
    is_meant: &mut dyn FnMut(&Entry) -> bool,
) -> Result<(), Refusal> {
    let all = holders.iter().flat_map(|one| one.addresses.iter().copied());
    let mut found = list(conntrack, &all.collect(), sides, is_meant)?;
    if found.is_empty() {
        return Ok(());
    }
    let mut route = Netlink::route()?;
    let mut left = BTreeSet::new();
    for holder in holders {
        for address in &holder.addresses {
            if !holder.has_lost(&mut route, *address)? {
                left.insert(*address);
            }
        }
    }
    // A flood: what is left of it is the kernel's to find, whoever is among them.
    if found.len() > FEW as usize {
        let left: Vec<IpAddr> = left.into_iter().collect();
        let mut each = sides.iter().map(|side| forget_of(conntrack, &left, *side));
        return each.find(Result::is_err).unwrap_or(Ok(()));
    }
    found.retain(|entry| sides.iter().any(|side| left.contains(&entry.source(*side))));
    delete(conntrack, &found)
}

/// Those of these addresses, or, where they are more than a few, one more than that.
fn list(
    conntrack: &mut Netlink,
    addresses: &BTreeSet<IpAddr>,
    sides: &[u16],
    is_meant: &mut dyn FnMut(&Entry) -> bool,
) -> Result<Vec<Entry>, Refusal> {
    let are_there = |line: &str| {
        let mut sides = sides.iter();
        sides.any(|side| is_from(line, *side, |source| addresses.contains(source)))
    };
    if addresses.is_empty() || sides.is_empty() {
        return Ok(Vec::new());
    }
    let mut asked = vec![(libc::AF_UNSPEC, None)];
    let count = may_be_there(conntrack, are_there)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > FEW && addresses.len() <= SINGLY {
        asked.clear();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => {
                    let each = sides.iter().map(|side| (libc::AF_INET, Some((*v4, *side))));
                    asked.extend(each);
                }
                IpAddr::V6(_) => asked.push((libc::AF_INET6, None)),
            }
        }
        asked.dedup();
    }
    let mut found = Vec::new();
    for (family, of) in asked {
        dump(conntrack, family, of, |entry| {
            let is_of = |side: &u16| addresses.contains(&entry.source(*side));
            if found.len() <= FEW as usize && sides.iter().any(is_of) && is_meant(&entry) {
                found.push(entry);
            }
        })?;
    }
    Ok(found)
}
