//! What [`doctor`](crate::doctor) asks of nf_tables. Nothing is changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::conditions::address;
use super::installed::write_tables;
use super::message::Batch;
use super::object::{Element, Family};
use super::sets::{all_elements, elements_of};
use super::tables::{IPS, TENANTS};
use super::{TABLE, elements};
use crate::attach::Attachment;
use crate::error::Refusal;
use crate::link::Link;
use crate::netlink::Netlink;
use crate::publish::Port;
use crate::reach::Reach;

/// Whether the kernel would take our tables: a transaction that is never committed, as `nft --check` does it. The kernel
/// loads what modules of its own it needs for that.
///
/// # Errors
/// What it would refuse.
pub fn would_take(nft: &mut Netlink) -> Result<(), Refusal> {
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.begin();
            write_tables(&mut batch);
            batch.abandon()
        },
        |_| {},
    )
}

/// The containers that our tables know and whose host end is none of `links`: its name, and the addresses.
///
/// # Errors
/// What the kernel refused.
pub fn left_over(nft: &mut Netlink, links: &[Link]) -> Result<Vec<(String, Vec<IpAddr>)>, Refusal> {
    let tenants = elements_of(nft, Family::Inet, TENANTS)?;
    let known = tenants.iter().filter_map(elements::known);
    Ok(known
        .filter(|(name, _)| !links.iter().any(|link| link.name == *name))
        .collect())
}

/// A port of the host that leads to a container by our tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Number of the protocol.
    pub protocol: u8,
    /// Which.
    pub port: u16,
    /// The one address of the host that it is reached by; none: by all.
    pub address: Option<IpAddr>,
    /// Version of IP.
    pub version: u8,
}

/// All of them.
///
/// # Errors
/// What the kernel refused.
pub fn published(nft: &mut Netlink) -> Result<BTreeSet<Published>, Refusal> {
    let mut all = BTreeSet::new();
    for (ip, version) in IPS.into_iter().zip([4, 6]) {
        for set in [ip.ports, ip.address_ports] {
            for element in elements_of(nft, Family::Inet, set)? {
                // The last two fields of either key, of four bytes each; of one there is the address before them.
                if let Some((before, [protocol, _, _, _, high, low, _, _])) =
                    element.key.split_last_chunk()
                {
                    all.insert(Published {
                        protocol: *protocol,
                        port: u16::from_be_bytes([*high, *low]),
                        address: address(before),
                        version,
                    });
                }
            }
        }
    }
    Ok(all)
}

/// Everything that our tables know of containers.
pub struct Known(BTreeSet<Element>);

impl Known {
    /// At this moment.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn look(nft: &mut Netlink) -> Result<Known, Refusal> {
        Ok(Known(all_elements(nft)?.into_iter().collect()))
    }

    /// Whether the container with this host end is not to talk to its neighbours.
    pub fn is_isolated(&self, end: &str) -> bool {
        self.0.contains(&elements::isolated(end))
    }

    /// Whether something is missing of what they should know of this one.
    pub fn lacks(
        &self,
        attachment: &Attachment,
        reach: &Reach,
        ports: &[Port],
        resolvers: &[IpAddr],
    ) -> bool {
        let wanted = elements::of(attachment, 0, reach, ports, resolvers);
        wanted.iter().any(|element| {
            // Its number is known to whoever added it alone.
            let is_it = |one: &Element| one.set == TENANTS && one.key == element.key;
            if element.set == TENANTS {
                !self.0.iter().any(is_it)
            } else {
                !self.0.contains(element)
            }
        })
    }
}
