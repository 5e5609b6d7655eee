//! Sets and maps of others that rules ask: what they hold. They are only looked at.

use hawser::netlink::{Attributes, Message};

use super::conditions::value;
use super::foreign::number;
use super::ignore_missing;
use super::message::kind;
use crate::error::Refusal;
use crate::netlink::{DUMP, Netlink, find};

/// A lookup in a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Its name.
    pub set: String,
    /// What is looked for; with what follows it, where several things are looked for at once.
    pub key: Key,
    /// What is not in it.
    pub is_not: bool,
    /// The register that what the map has for it goes to.
    pub to: Option<u32>,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The receiver's port.
    Port,
    /// The name of the link by which packets come in, or else leave.
    Link {
        /// It is that.
        comes_in: bool,
    },
    /// Its number.
    Index {
        /// As there.
        comes_in: bool,
    },
    /// The sender's address, or else the receiver's.
    Address {
        /// It is the sender's.
        is_source: bool,
        /// Of IPv6.
        is_v6: bool,
    },
    /// Something that is not understood.
    Other,
}

/// What a set or map holds: from the first key to the last. Of what it has for all else both are empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first.
    pub first: Vec<u8>,
    /// The last.
    pub last: Vec<u8>,
    /// What a map has for it, as the kernel says it (`NFTA_SET_ELEM_DATA`).
    pub data: Vec<u8>,
}

/// All that it holds; nothing when it is not there any more.
///
/// # Errors
/// What the kernel refused.
pub fn elements(
    nft: &mut Netlink,
    family: &str,
    table: &str,
    set: &str,
) -> Result<Vec<Range>, Refusal> {
    const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    let family = match family {
        "ip" => libc::NFPROTO_IPV4,
        "ip6" => libc::NFPROTO_IPV6,
        "bridge" => libc::NFPROTO_BRIDGE,
        _ => libc::NFPROTO_INET,
    };
    let dumped = nft.dump(
        |writer, sequence| {
            let header = [family as u8, 0, 0, 0];
            writer.begin(kind(libc::NFT_MSG_GETSETELEM), DUMP, sequence, &header);
            writer.string(NFTA_SET_ELEM_LIST_TABLE, table);
            writer.string(NFTA_SET_ELEM_LIST_SET, set);
            writer.end();
        },
        read_elements,
    );
    ignore_missing(dumped).map(ranges)
}

/// One of a set. `end` is the last of a range, where that says so itself.
struct Element {
    key: Vec<u8>,
    /// It is the first one behind a range.
    is_end: bool,
    end: Option<Vec<u8>>,
    data: Vec<u8>,
}

fn read_elements(message: &Message) -> Vec<Element> {
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    const NFTA_SET_ELEM_FLAGS: u16 = 3;
    const NFTA_SET_ELEM_KEY_END: u16 = 10;
    const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
    const NFT_SET_ELEM_CATCHALL: u32 = 2;
    let list = find(
        message.payload.get(4..).unwrap_or(&[]),
        NFTA_SET_ELEM_LIST_ELEMENTS,
    );
    let read = |element: &[u8]| {
        let flags = find(element, NFTA_SET_ELEM_FLAGS)
            .and_then(number)
            .unwrap_or_default();
        let key = |kind| Some(value(find(element, kind)?)?.to_vec());
        Some(Element {
            key: match flags & NFT_SET_ELEM_CATCHALL {
                0 => key(NFTA_SET_ELEM_KEY)?,
                _ => Vec::new(),
            },
            is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            end: key(NFTA_SET_ELEM_KEY_END),
            data: find(element, NFTA_SET_ELEM_DATA).unwrap_or(&[]).to_vec(),
        })
    };
    Attributes::new(list.unwrap_or(&[]))
        .filter_map(|(_, element)| read(element))
        .collect()
}

fn ranges(elements: Vec<Element>) -> Vec<Range> {
    let (ends, firsts): (Vec<Element>, Vec<Element>) =
        elements.into_iter().partition(|element| element.is_end);
    let mut ends: Vec<Vec<u8>> = ends.into_iter().map(|element| element.key).collect();
    ends.sort();
    let last = |key: &Vec<u8>| match ends.get(ends.partition_point(|end| end <= key)) {
        _ if ends.is_empty() || key.is_empty() => key.clone(),
        Some(end) => one_less(end),
        None => vec![u8::MAX; key.len()],
    };
    let mut ranges: Vec<Range> = firsts
        .into_iter()
        .map(|Element { key, end, data, .. }| Range {
            last: end.unwrap_or_else(|| last(&key)),
            first: key,
            data,
        })
        .collect();
    ranges.sort();
    ranges
}

/// Of a number that is not zero.
fn one_less(number: &[u8]) -> Vec<u8> {
    let mut less = number.to_vec();
    for byte in less.iter_mut().rev() {
        let (one_less, borrows) = byte.overflowing_sub(1);
        *byte = one_less;
        if !borrows {
            break;
        }
    }
    less
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_sets_are_ranges() {
        let element = |port: u16, is_end| Element {
            key: port.to_be_bytes().to_vec(),
            is_end,
            end: None,
            data: Vec::new(),
        };
        let port = |key: &[u8]| key.iter().fold(0, |all, byte| all << 8 | u16::from(*byte));
        let read = |elements| -> Vec<(u16, u16)> {
            let ranges = ranges(elements).into_iter();
            ranges
                .map(|range| (port(&range.first), port(&range.last)))
                .collect()
        };
        assert_eq!(
            read(vec![element(8443, false), element(8080, false)]),
            [(8080, 8080), (8443, 8443)]
        );
        let ranges = vec![
            element(0, true),
            element(8448, true),
            element(8443, false),
            element(8000, false),
            element(8192, true),
            element(8192, false),
            element(8193, true),
            element(65000, false),
        ];
        assert_eq!(
            read(ranges),
            [(8000, 8191), (8192, 8192), (8443, 8447), (65000, 65535)]
        );
    }
}
