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
pub struct Octets {
    bytes: [u8; 16],
    len: usize,
}

impl Octets {
    /// The bytes of `address`.
    pub fn of(address: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => {
                for (to, from) in bytes.iter_mut().zip(v4.octets()) {
                    *to = from;
                }
                Octets { bytes, len: 4 }
            }
            IpAddr::V6(v6) => Octets {
                bytes: v6.octets(),
                len: 16,
            },
        }
    }

    /// As netlink wants them.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// `AF_INET` or `AF_INET6`.
pub fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

impl Prefix {
    /// Reads `ADDRESS/LENGTH`.
    pub fn parse(text: &str) -> Option<Self> {
        let slash = text.bytes().position(|byte| byte == b'/')?;
        let address = parse_ip(text.get(..slash)?)?;
        let len = parse_number(text.get(slash + 1..)?)?;
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
        let octets = Octets::of(self.address);
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
/// By hand, since `core::net`'s parser is 1.3 KB larger in init; the tests hold one against the other.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.bytes().any(|byte| byte == b':') {
        Some(IpAddr::V6(parse_v6(text)?))
    } else {
        Some(IpAddr::V4(parse_v4(text)?))
    }
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut rest = text;
    for (index, octet) in octets.iter_mut().enumerate() {
        let (word, tail) = match rest.bytes().position(|byte| byte == b'.') {
            Some(dot) if index < 3 => (rest.get(..dot)?, rest.get(dot + 1..)?),
            None if index == 3 => (rest, ""),
            _ => return None,
        };
        *octet = u8::try_from(parse_number(word)?).ok()?;
        rest = tail;
    }
    Some(Ipv4Addr::from(octets))
}

/// RFC 4291, section 2.2: eight groups, one `::` for one or more zero groups, the last two perhaps as IPv4.
fn parse_v6(text: &str) -> Option<Ipv6Addr> {
    let mut groups = [0u16; 8];
    let mut count = 0;
    // Where the groups behind `::` begin.
    let mut gap = None;
    let mut rest = text;
    if let Some(tail) = rest.strip_prefix("::") {
        gap = Some(0);
        rest = tail;
    }
    while !rest.is_empty() {
        let word_len = rest
            .bytes()
            .position(|byte| byte == b':')
            .unwrap_or(rest.len());
        let word = rest.get(..word_len)?;
        rest = rest.get(word_len..)?;
        if word.bytes().any(|byte| byte == b'.') {
            let [a, b, c, d] = parse_v4(word)?.octets();
            if !rest.is_empty() {
                return None;
            }
            *groups.get_mut(count)? = u16::from_be_bytes([a, b]);
            *groups.get_mut(count + 1)? = u16::from_be_bytes([c, d]);
            count += 2;
            break;
        }
        *groups.get_mut(count)? = parse_group(word)?;
        count += 1;
        if let Some(tail) = rest.strip_prefix("::") {
            if gap.is_some() {
                return None;
            }
            gap = Some(count);
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix(':') {
            if tail.is_empty() {
                return None;
            }
            rest = tail;
        }
    }
    match gap {
        None if count == 8 => {}
        Some(at) if count < 8 => {
            let behind = groups.get_mut(at..)?;
            behind.rotate_right(8 - count);
        }
        _ => return None,
    }
    Some(Ipv6Addr::from(groups))
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
