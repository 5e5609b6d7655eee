//! What is in a set of links or addresses that a rule of others asks, and how far that is about a network.

use std::net::IpAddr;

use hawser::netlink::read_u32;

use super::barriers::{About, how_many, of_addresses};
use super::conditions::address;
use super::lookups::{Key, Range};
use crate::foreign::Links;

/// A link's name, padded with zeroes.
type Name = [u8; libc::IFNAMSIZ];

/// What is in a set.
#[derive(Debug, Clone)]
pub struct Members {
    /// It is about where packets come from, or else about where they go.
    pub is_source: bool,
    /// The set holds nothing else, nor asks for more at once.
    pub is_all: bool,
    kind: Kind,
}

/// From the first to the last.
#[derive(Debug, Clone)]
enum Kind {
    Names(Vec<(Name, Name)>),
    Numbers(Vec<u32>),
    Addresses(Vec<(IpAddr, IpAddr)>),
}

impl Members {
    /// Whether such a set can be understood.
    pub fn can_be(key: Key) -> bool {
        !matches!(key, Key::Port | Key::Other)
    }

    /// What is in these; `None`: they are of something else.
    pub fn of(key: Key, held: &[Range]) -> Option<Members> {
        let (is_source, length) = match key {
            Key::Link { comes_in } => (comes_in, libc::IFNAMSIZ),
            Key::Index { comes_in } => (comes_in, 4),
            Key::Address { is_source, is_v6 } => (is_source, if is_v6 { 16 } else { 4 }),
            Key::Port | Key::Other => return None,
        };
        // Several things that are looked for at once begin with this one.
        let cut = |range: &Range| {
            let of = |bytes: &[u8]| bytes.get(..length).map(<[u8]>::to_vec);
            of(&range.first).zip(of(&range.last))
        };
        let keys = || held.iter().filter_map(cut);
        let kind = match key {
            Key::Link { .. } => Kind::Names(
                keys()
                    .filter_map(|(first, last)| Some((name(&first)?, name(&last)?)))
                    .collect(),
            ),
            Key::Index { .. } => Kind::Numbers(
                keys()
                    .filter(|(first, last)| first == last)
                    .filter_map(|(first, _)| read_u32(&first, 0))
                    .collect(),
            ),
            _ => Kind::Addresses(
                keys()
                    .filter_map(|(first, last)| address(&first).zip(address(&last)))
                    .collect(),
            ),
        };
        let is_all = held.iter().all(|range| range.first.len() == length);
        Some(Members {
            is_source,
            is_all,
            kind,
        })
    }

    /// Every address is: that is nobody's name.
    pub fn are_anybody(&self) -> bool {
        let is_anybody = |(first, last): &(IpAddr, IpAddr)| {
            let is_last = match last {
                IpAddr::V4(last) => last.is_broadcast(),
                IpAddr::V6(last) => last.octets() == [u8::MAX; 16],
            };
            first.is_unspecified() && is_last
        };
        matches!(&self.kind, Kind::Addresses(all) if all.iter().any(is_anybody))
    }

    /// How far a rule for what is in it is about the network with these links.
    pub fn about(&self, links: &Links) -> About {
        let most = match &self.kind {
            Kind::Names(all) => all.iter().map(|range| of_names(links, range)).max(),
            Kind::Numbers(all) => (all.iter())
                .map(|one| how_many(Some(*one) == links.index, links.index.is_none()))
                .max(),
            Kind::Addresses(all) => Some(of_addresses(links, all)),
        };
        most.unwrap_or(About::None)
    }
}

fn of_names(links: &Links, (first, last): &(Name, Name)) -> About {
    let padded = |with| {
        let mut bytes = links.name.as_bytes().to_vec();
        bytes.resize(libc::IFNAMSIZ, with);
        bytes
    };
    let low = padded(0);
    let high = if links.is_prefix {
        padded(u8::MAX)
    } else {
        low.clone()
    };
    let (first, last) = (&first[..], &last[..]);
    how_many(
        first <= &low[..] && &high[..] <= last,
        first <= &high[..] && &low[..] <= last,
    )
}

fn name(bytes: &[u8]) -> Option<Name> {
    bytes.try_into().ok()
}
