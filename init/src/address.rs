//! Addresses as both programs write and read them: IPv4, IPv6, a prefix, a MAC.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with the length of its network's prefix: `172.19.0.2/16`, `2001:db8::2/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address; bits behind the prefix may be set (an interface has them, a network does not).
    pub address: IpAddr,
    /// Bits: at most 32 or 128.
    pub len: u8,
}

/// The bytes of an address without allocation: 4 or 16 of them, in network order.
#[derive(Clone, Copy)]
pub enum Octets {
    /// IPv4
    Four([u8; 4]),
    /// IPv6
    Sixteen([u8; 16]),
}

impl Octets {
    /// The bytes of `address`.
    pub fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Octets::Four(v4.octets()),
            IpAddr::V6(v6) => Octets::Sixteen(v6.octets()),
        }
    }

    /// As netlink wants them.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Octets::Four(bytes) => bytes,
            Octets::Sixteen(bytes) => bytes,
        }
    }
}

/// `AF_INET` or `AF_INET6`.
pub fn family(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

impl Prefix {
    /// Reads `ADDRESS/LENGTH`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, len) = cut(text, b'/');
        let address = parse_ip(address)?;
        let len = parse_number(len?)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if len > most {
            return None;
        }
        Some(Prefix {
            address,
            len: len as u8,
        })
    }

    /// True when no bit behind the prefix is set: what a route's destination must be.
    pub fn is_network(&self) -> bool {
        let octets = Octets::of(&self.address);
        let mut before = usize::from(self.len);
        for byte in octets.as_slice() {
            let kept = before.min(8);
            if byte & (0xffu16 >> kept) as u8 != 0 {
                return false;
            }
            before -= kept;
        }
        true
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// A link-layer address of six bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `02:00:ac:13:00:01`, in either case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut mac = [0; 6];
        let mut bytes = text.bytes();
        for (index, value) in mac.iter_mut().enumerate() {
            if index > 0 && bytes.next()? != b':' {
                return None;
            }
            *value = hex(bytes.next()?)? << 4 | hex(bytes.next()?)?;
        }
        if bytes.next().is_some() {
            None
        } else {
            Some(Mac(mac))
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// What is before the first `byte`, and what is behind it when there is one.
pub(crate) fn cut(text: &str, byte: u8) -> (&str, Option<&str>) {
    match text.bytes().position(|found| found == byte) {
        Some(at) => (text.get(..at).unwrap_or(""), text.get(at + 1..)),
        None => (text, None),
    }
}

/// Reads a decimal number: digits alone, no sign, no leading zero, 32 bits.
pub fn parse_number(text: &str) -> Option<u32> {
    if text.is_empty() || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    let mut value: u32 = 0;
    for byte in text.bytes() {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u32::from(byte - b'0'))?;
    }
    Some(value)
}

/// Reads an IPv4 or an IPv6 address, without a zone.
///
/// By hand, since `core::net`'s parser is larger in init; the tests hold one against the other.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    match cut(text, b':') {
        (_, None) => parse_v4(text).map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        _ => parse_v6(text),
    }
}

#[inline(never)]
fn parse_v4(text: &str) -> Option<[u8; 4]> {
    let mut octets = [0; 4];
    let mut rest = Some(text);
    for octet in &mut octets {
        let (word, tail) = cut(rest?, b'.');
        *octet = u8::try_from(parse_number(word)?).ok()?;
        rest = tail;
    }
    if rest.is_some() { None } else { Some(octets) }
}

/// RFC 4291, section 2.2: eight groups, one `::` for one or more zero groups, the last two perhaps as IPv4.
fn parse_v6(text: &str) -> Option<IpAddr> {
    let mut groups = [0u16; 8];
    let mut count = 0;
    // Where the groups behind `::` begin.
    let mut gap = None;
    let mut rest = Some(text);
    if let Some(tail) = text.strip_prefix("::") {
        gap = Some(0);
        rest = Some(tail).filter(|tail| !tail.is_empty());
    }
    while let Some(text) = rest {
        let (word, tail) = cut(text, b':');
        rest = tail;
        if tail.is_none() && word.len() > 4 {
            let [a, b, c, d] = parse_v4(word)?;
            *groups.get_mut(count)? = u16::from_be_bytes([a, b]);
            count += 1;
            *groups.get_mut(count)? = u16::from_be_bytes([c, d]);
        } else {
            *groups.get_mut(count)? = parse_group(word)?;
        }
        count += 1;
        if let Some(behind) = tail.and_then(|tail| tail.strip_prefix(':')) {
            if gap.is_some() {
                return None;
            }
            gap = Some(count);
            rest = Some(behind).filter(|behind| !behind.is_empty());
        }
    }
    match gap {
        None if count == 8 => {}
        // The groups behind the gap go to the end, the last one first.
        Some(at) if count < 8 => {
            for from in (at..count).rev() {
                let group = *groups.get(from)?;
                *groups.get_mut(from)? = 0;
                *groups.get_mut(from + 8 - count)? = group;
            }
        }
        _ => return None,
    }
    Some(IpAddr::V6(Ipv6Addr::from(groups)))
}

fn parse_group(word: &str) -> Option<u16> {
    if word.is_empty() || word.len() > 4 {
        return None;
    }
    let mut value = 0;
    for byte in word.bytes() {
        value = value << 4 | u16::from(hex(byte)?);
    }
    Some(value)
}
