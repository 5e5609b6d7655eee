//! Addresses as both programs write and read them: IPv4, IPv6, a prefix, a MAC.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// An IPv4 or IPv6 address.
///
/// Not `core::net::IpAddr`, which init would be 2 KB larger with: it is copied by case, and its parser is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// In network order; 4 of them where it is IPv4, the others zero.
    bytes: [u8; 16],
    family: Family,
}

impl Address {
    /// `0.0.0.0` or `::`.
    pub fn unspecified(family: Family) -> Self {
        Address {
            bytes: [0; 16],
            family,
        }
    }

    /// Reads an address, without a zone.
    pub fn parse(text: &[u8]) -> Option<Self> {
        match cut(text, b':') {
            (_, None) => {
                let mut address = Address::unspecified(Family::V4);
                let [a, b, c, d] = parse_v4(text)?;
                let [w, x, y, z, ..] = &mut address.bytes;
                (*w, *x, *y, *z) = (a, b, c, d);
                Some(address)
            }
            _ => Some(Address {
                bytes: parse_v6(text)?,
                family: Family::V6,
            }),
        }
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its bytes, 4 or 16, as netlink wants them.
    pub fn octets(&self) -> &[u8] {
        match self.family {
            Family::V4 => self.bytes.get(..4).unwrap_or(&[]),
            Family::V6 => &self.bytes,
        }
    }

    /// True for an address that a machine can have: not unspecified, not multicast, not broadcast.
    pub fn is_unicast(&self) -> bool {
        let first = self.bytes.first().copied().unwrap_or(0);
        let is_all = |value: u8| self.octets().iter().all(|&byte| byte == value);
        // RFC 4291, section 2.7: ff00::/8. RFC 5771: 224.0.0.0/4.
        let multicast = match self.family {
            Family::V4 => first & 0xf0 == 0xe0,
            Family::V6 => first == 0xff,
        };
        !multicast && !is_all(0) && !is_all(0xff)
    }
}

impl core::str::FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Address::parse(text.as_bytes()).ok_or(())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                let bytes = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                Address {
                    bytes,
                    family: Family::V4,
                }
            }
            IpAddr::V6(v6) => Address {
                bytes: v6.octets(),
                family: Family::V6,
            },
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.family {
            Family::V4 => {
                let [a, b, c, d, ..] = address.bytes;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            Family::V6 => IpAddr::V6(Ipv6Addr::from(address.bytes)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// An address with the length of its network's prefix: `172.19.0.2/16`, `2001:db8::2/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address; bits behind the prefix may be set (an interface has them, a network does not).
    pub address: Address,
    /// Bits: at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// Reads `ADDRESS/LENGTH`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (address, len) = cut(text, b'/');
        let address = Address::parse(address)?;
        let len = parse_number(len?)?;
        if len as usize > address.octets().len() * 8 {
            return None;
        }
        Some(Prefix {
            address,
            len: len as u8,
        })
    }

    /// True when no bit behind the prefix is set: what a route's destination must be.
    pub fn is_network(&self) -> bool {
        let mut before = u32::from(self.len);
        for byte in self.address.octets() {
            let kept = before.min(8);
            if byte & (0xff >> kept) as u8 != 0 {
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
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut mac = [0; 6];
        let mut bytes = text.iter();
        for (index, value) in mac.iter_mut().enumerate() {
            if index > 0 && bytes.next()? != &b':' {
                return None;
            }
            *value = hex(*bytes.next()?)? << 4 | hex(*bytes.next()?)?;
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
pub fn cut(text: &[u8], byte: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&found| found == byte) {
        Some(at) => (text.get(..at).unwrap_or(&[]), text.get(at + 1..)),
        None => (text, None),
    }
}

/// What follows a prefix. (The slices' own is compiled once for each length of a prefix.)
#[inline(never)]
pub fn strip<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    text.strip_prefix(prefix)
}

/// Which of `names`, which have a space between them, is `word`: from 0.
///
/// A table of slices is larger, and `match` compares byte by byte.
#[inline(never)]
pub fn index_of(names: &[u8], word: &[u8]) -> Option<u8> {
    let mut rest = names;
    let mut index = 0;
    loop {
        let (name, tail) = cut(rest, b' ');
        if name == word {
            return Some(index);
        }
        rest = tail?;
        index += 1;
    }
}

/// The name at `index`, from 0, of `names`, which have a space between them.
#[inline(never)]
pub fn nth(names: &[u8], index: u8) -> Option<&[u8]> {
    let mut rest = names;
    for _ in 0..index {
        rest = cut(rest, b' ').1?;
    }
    Some(cut(rest, b' ').0)
}

/// A number as text.
#[inline(never)]
pub fn decimal(number: u32, space: &mut [u8; 10]) -> &[u8] {
    let mut rest = number;
    let mut start = space.len();
    while let Some(digit) = start.checked_sub(1).and_then(|at| space.get_mut(at)) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start -= 1;
        if rest == 0 {
            break;
        }
    }
    space.get(start..).unwrap_or(&[])
}

/// Reads a decimal number: digits alone, no sign, no leading zero, 32 bits.
pub fn parse_number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || (text.len() > 1 && text.first() == Some(&b'0')) {
        return None;
    }
    let mut value: u32 = 0;
    for &byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u32::from(byte - b'0'))?;
    }
    Some(value)
}

#[inline(never)]
pub(crate) fn parse_v4(text: &[u8]) -> Option<[u8; 4]> {
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
fn parse_v6(text: &[u8]) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut len = 0;
    // Where the bytes behind `::` begin.
    let mut gap = None;
    let mut rest = Some(text);
    if let Some(tail) = strip(text, b"::") {
        gap = Some(0);
        rest = Some(tail).filter(|tail| !tail.is_empty());
    }
    while let Some(text) = rest {
        let (word, tail) = cut(text, b':');
        rest = tail;
        if tail.is_none() && word.len() > 4 {
            for byte in parse_v4(word)? {
                *bytes.get_mut(len)? = byte;
                len += 1;
            }
        } else {
            let group = parse_group(word)?;
            *bytes.get_mut(len)? = (group >> 8) as u8;
            *bytes.get_mut(len + 1)? = group as u8;
            len += 2;
        }
        if let Some(behind) = tail.and_then(|tail| strip(tail, b":")) {
            if gap.is_some() {
                return None;
            }
            gap = Some(len);
            rest = Some(behind).filter(|behind| !behind.is_empty());
        }
    }
    match gap {
        None if len == 16 => {}
        // What is behind the gap goes to the end, the last byte first.
        Some(at) if len < 16 => {
            for from in (at..len).rev() {
                let byte = core::mem::take(bytes.get_mut(from)?);
                *bytes.get_mut(from + 16 - len)? = byte;
            }
        }
        _ => return None,
    }
    Some(bytes)
}

fn parse_group(word: &[u8]) -> Option<u16> {
    parse_hex(word, 4).map(|value| value as u16)
}

/// A number in hexadecimal of at most so many digits (16 fit).
#[inline(never)]
pub fn parse_hex(word: &[u8], digits: usize) -> Option<u64> {
    if word.is_empty() || word.len() > digits {
        return None;
    }
    let mut value = 0;
    for &byte in word {
        value = value << 4 | u64::from(hex(byte)?);
    }
    Some(value)
}
