//! One line of the message, word by word ([`Cursor`]).

use crate::address::{Address, Mac, Prefix, cut, index_of, parse_hex, parse_number, strip};
use crate::capability::Capability;

use super::cursor::Cursor;
use super::{END, Fact, GROUPS, Groups, Text, Words};

/// True where a character is that does not belong there.
pub(super) fn has_control(text: &[u8]) -> bool {
    text.iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

pub(super) fn is_end(text: &[u8]) -> bool {
    let mut words = Cursor::new(text);
    words.next() == Some(END.as_bytes()) && words.next().is_none()
}

/// The first line is the version, so that a message of another version is not half understood.
pub(super) fn check_version(words: &mut Cursor<'_>) -> Option<()> {
    words.want("`hawser`", |word| Some(()).filter(|()| word == b"hawser"))?;
    words.want("version 1, the only one there is", |word| {
        Some(()).filter(|()| word == b"1")
    })?;
    words.finish()
}

// What a line may say depends on the lines before it: these have been seen.
const LINK: u32 = 1;
const NO_LINKS: u32 = 2;
const SEARCH: u32 = 4;
const HOSTNAME: u32 = 8;
const USER: u32 = 16;
const GROUP_LIST: u32 = 32;
const WORKDIR: u32 = 64;
const NO_NEW_PRIVILEGES: u32 = 128;
const CAPABILITIES: u32 = 256;
const NO_CAPABILITIES: u32 = 512;

/// One line, and whether it may stand behind those that were seen.
pub(super) fn check_line(words: &mut Cursor<'_>, seen: &mut u32) -> Option<()> {
    let Some(fact) = parse_line(words) else {
        // Nothing on it, or something wrong with it.
        return if words.is_refused() { None } else { Some(()) };
    };
    // What this line is, and what must not have been before it.
    let (bit, excludes) = match fact {
        Fact::Link { .. } => (LINK, NO_LINKS),
        Fact::NoLinks => (NO_LINKS, LINK | NO_LINKS),
        Fact::Search(_) => (SEARCH, SEARCH),
        Fact::Hostname(_) => (HOSTNAME, HOSTNAME),
        Fact::User { .. } => (USER, USER),
        Fact::Groups(_) => (GROUP_LIST, GROUP_LIST),
        Fact::Workdir(_) => (WORKDIR, WORKDIR),
        Fact::NoNewPrivileges => (NO_NEW_PRIVILEGES, NO_NEW_PRIVILEGES),
        Fact::Capabilities(0) => (NO_CAPABILITIES, CAPABILITIES | NO_CAPABILITIES),
        Fact::Capabilities(_) | Fact::Ambient(_) => (CAPABILITIES, NO_CAPABILITIES),
        Fact::Address(_) | Fact::Neighbour { .. } | Fact::Route { .. } if *seen & LINK == 0 => {
            return words.refuse_keyword("it belongs to no link; a `link` line comes before it");
        }
        _ => (0, 0),
    };
    if *seen & excludes != 0 {
        return words.refuse_keyword("an earlier line has said this, or the opposite");
    }
    *seen |= bit;
    Some(())
}

/// One line. `None` without a complaint is an empty one or a comment.
#[inline(never)]
pub(super) fn parse_line<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let keyword = words.next()?;
    if keyword.first() == Some(&b'#') {
        return None;
    }
    let index = index_of(KEYWORDS, keyword);
    let fact = match index.unwrap_or(u8::MAX) {
        0 => parse_link(words)?,
        1 => Fact::NoLinks,
        2 => Fact::Address(words.want(
            "an address of a machine, with its prefix length",
            parse_interface_address,
        )?),
        3 => parse_neighbour(words)?,
        4 => parse_route(words)?,
        5 => Fact::Nameserver(parse_address(words)?),
        6 => Fact::Search(parse_names(words)?),
        7 => Fact::Option(parse_names(words)?),
        8 => {
            let address = parse_address(words)?;
            Fact::Host {
                address,
                names: parse_names(words)?,
            }
        }
        9 => Fact::Hostname(words.want("a host name of at most 64 characters", parse_hostname)?),
        10 => words.want("UID:GID in numbers", parse_user)?,
        11 => Fact::Groups(words.want("at most 256 numbers, with commas", parse_groups)?),
        12 => Fact::Workdir(parse_workdir(words)?),
        13 => Fact::Capabilities(words.want("a capability", parse_capability)?),
        14 => Fact::Ambient(words.want("a capability", Capability::from_bytes)?),
        15 => Fact::NoNewPrivileges,
        _ => {
            words.refuse("unknown word");
            return None;
        }
    };
    words.finish()?;
    Some(fact)
}

/// The first words, in the order of their numbers above.
const KEYWORDS: &[u8] =
    b"link no-links address neighbour route nameserver search option host hostname user groups \
    workdir capability ambient no-new-privileges";

fn parse_link<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let name = words.want("a link's name", parse_link_name)?;
    let mut mtu = None;
    if !words.rest().is_empty() {
        words.want("`mtu`", |word| Some(()).filter(|()| word == b"mtu"))?;
        // 68: RFC 791. 65536: what `lo` has, and no link has more.
        let parse = |word| parse_number(word).filter(|mtu| (68..=65536).contains(mtu));
        mtu = Some(words.want("a number from 68 to 65536", parse)?);
    }
    Some(Fact::Link { name, mtu })
}

/// The kernel's rule for a name (`dev_valid_name`), and no control or other odd character.
fn parse_link_name(name: &[u8]) -> Option<Text<'_>> {
    for &byte in name {
        if byte == b'/' || byte == b':' || !byte.is_ascii_graphic() {
            return None;
        }
    }
    if name.len() > 15 || name == b"." || name == b".." {
        None
    } else {
        Some(Text(name))
    }
}

fn parse_interface_address(word: &[u8]) -> Option<Prefix> {
    Prefix::parse(word).filter(|prefix| prefix.address.is_unicast())
}

fn parse_unicast(word: &[u8]) -> Option<Address> {
    Address::parse(word).filter(Address::is_unicast)
}

#[inline(never)]
fn parse_neighbour<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let address = words.want("an address of a machine", parse_unicast)?;
    let mac = words.want("a MAC such as 02:00:ac:13:00:01", Mac::parse)?;
    Some(Fact::Neighbour { address, mac })
}

fn parse_route<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let word = words.expect("`default`, or a prefix with its length and no bit set behind it")?;
    let destination = Prefix::parse(word).filter(Prefix::is_network);
    if destination.is_none() && word != b"default" {
        return None;
    }
    let how = words.expect("`via` (or `onlink`, with an address)")?;
    if let Some(destination) = destination.filter(|_| how == b"onlink") {
        return Some(Fact::Route {
            destination,
            gateway: None,
        });
    }
    if how != b"via" {
        return None;
    }
    let gateway = words.want(
        "an address of a machine, of the destination's family",
        parse_unicast,
    )?;
    let family = gateway.family();
    let destination = destination.unwrap_or(Prefix {
        address: Address::unspecified(family),
        len: 0,
    });
    if destination.address.family() != family {
        return None;
    }
    Some(Fact::Route {
        destination,
        gateway: Some(gateway),
    })
}

#[inline(never)]
fn parse_address(words: &mut Cursor<'_>) -> Option<Address> {
    words.want("an IPv4 or IPv6 address", Address::parse)
}

/// Printable ASCII, without the characters that begin a comment in resolv.conf and hosts.
#[inline(never)]
fn is_name(word: &[u8]) -> bool {
    for &byte in word {
        if !byte.is_ascii_graphic() || byte == b'#' || byte == b';' {
            return false;
        }
    }
    true
}

/// At least one name, and nothing else to the end of the line.
#[inline(never)]
fn parse_names<'a>(words: &mut Cursor<'a>) -> Option<Words<'a>> {
    let names = Words(words.rest());
    loop {
        if !is_name(words.expect("a name in printable ASCII")?) {
            return None;
        }
        if words.rest().is_empty() {
            return Some(names);
        }
    }
}

/// 64 is `__NEW_UTS_LEN` of linux/utsname.h.
fn parse_hostname(name: &[u8]) -> Option<Text<'_>> {
    if name.len() <= 64 && is_name(name) {
        Some(Text(name))
    } else {
        None
    }
}

fn parse_capability(name: &[u8]) -> Option<u64> {
    match strip(name, b"0x") {
        Some(set) => parse_hex(set, 16),
        None if name == b"none" => Some(0),
        None => Some(Capability::from_bytes(name)?.bit()),
    }
}

/// The path goes to the end of the line: spaces may be in it.
fn parse_workdir<'a>(words: &mut Cursor<'a>) -> Option<Text<'a>> {
    let path = words.rest();
    words.expect("an absolute path of at most 4,095 bytes")?;
    words.take_rest();
    if path.first() == Some(&b'/') && path.len() < 4096 {
        Some(Text(path))
    } else {
        None
    }
}

/// A user's or group's number; the last one stands for "leave alone" in the kernel's calls.
#[inline(never)]
pub(super) fn parse_id(text: &[u8]) -> Option<u32> {
    parse_number(text).filter(|&id| id != u32::MAX)
}

fn parse_user<'a>(word: &[u8]) -> Option<Fact<'a>> {
    let (uid, gid) = cut(word, b':');
    let uid = parse_id(uid)?;
    Some(Fact::User {
        uid,
        gid: parse_id(gid?)?,
    })
}

fn parse_groups(word: &[u8]) -> Option<Groups<'_>> {
    let mut rest = Some(word);
    for _ in 0..GROUPS {
        let (group, tail) = cut(rest?, b',');
        parse_id(group)?;
        rest = tail;
        if rest.is_none() {
            return Some(Groups(word));
        }
    }
    None
}
