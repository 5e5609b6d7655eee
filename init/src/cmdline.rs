//! The kernel's own syntax for a network, as a config message: `ip=client:server:gateway:netmask:host:device:autoconf:dns0:dns1`
//! (Documentation/admin-guide/nfs/nfsroot.rst), several times, and with IPv6 in brackets as dracut.cmdline(7) has it.

use crate::address::{cut, decimal, index_of, parse_number, parse_v4, strip};
use crate::buffer::Buffer;
use crate::protocol::{self, Kind, Message};

/// What is wrong with a word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// `ip=...`
    pub word: &'a [u8],
    /// How `cause` is meant.
    pub kind: Kind,
    /// Why.
    pub cause: &'static str,
}

/// Writes the message that the `ip=` words of a kernel command line mean.
///
/// The host name of the last word that has one counts.
pub fn translate<'a>(cmdline: &'a [u8], message: &mut Buffer<'_>) -> Result<(), Fault<'a>> {
    let mut host: &[u8] = &[];
    let mut last: &[u8] = &[];
    message.put(b"hawser 1\n");
    // At the kernel's blanks: a tab or a newline left in a word would get into the message, and begin a line there.
    for word in cmdline.split(|byte| matches!(byte, b' ' | b'\t'..=b'\r')) {
        // The rest is init's, and its command's.
        if word == b"--" {
            break;
        }
        let Some(value) = strip(word, b"ip=") else {
            continue;
        };
        match translate_word(value, message) {
            Ok([]) => {}
            Ok(name) => host = name,
            Err(cause) => return Err(refuse(word, cause)),
        }
        check(message, word)?;
        last = word;
    }
    if last.is_empty() {
        return Err(refuse(last, "it has no word `ip=`"));
    }
    put_line(message, b"hostname ", host);
    check(message, last)?;
    message.put(b"end\n");
    Ok(())
}

fn refuse<'a>(word: &'a [u8], cause: &'static str) -> Fault<'a> {
    let kind = Kind::Because;
    Fault { word, kind, cause }
}

/// What is wrong with the message so far, whose lines nobody has seen, is said of the word that made it.
#[inline(never)]
fn check<'a>(message: &Buffer<'_>, word: &'a [u8]) -> Result<(), Fault<'a>> {
    match Message::parse(message.bytes()) {
        Err(protocol::Fault { kind, cause, .. }) if kind != Kind::Unfinished => {
            Err(Fault { word, kind, cause })
        }
        _ => Ok(()),
    }
}

/// What asks somebody else for an address, or nobody.
const ASKING: &[u8] = b"dhcp on any both off none ibft dhcp6 auto6 link6 either6";

/// Gives the host name.
fn translate_word<'a>(value: &'a [u8], message: &mut Buffer<'_>) -> Result<&'a [u8], &'static str> {
    let mut fields = Fields(value);
    let client = fields.next();
    let server = fields.next();
    let gateway = fields.next();
    let netmask = fields.next();
    let host = fields.next();
    let device = fields.next();
    // A single word is `autoconf`, and so is a second one behind a device (dracut has that): neither is an address.
    let is_static = matches!(fields.next(), b"" | b"none" | b"off");
    let asks = |word| index_of(ASKING, word).is_some();
    if !is_static || asks(client) || asks(server) {
        return Err("only static addresses; not dhcp, on or any");
    }
    let Some(len) = prefix_len(netmask) else {
        return Err("a netmask such as 255.255.255.0 is missing");
    };
    put_line(
        message,
        b"link ",
        if device.is_empty() { b"eth0" } else { device },
    );
    message.put(b"address ");
    message.put(client);
    put_line(message, b"/", decimal(len, &mut [0; 10]));
    put_line(message, b"route default via ", gateway);
    put_line(message, b"nameserver ", fields.next());
    put_line(message, b"nameserver ", fields.next());
    let _time_server = fields.next();
    if fields.0.is_empty() {
        Ok(host)
    } else {
        Err("one field too many")
    }
}

#[inline(never)]
fn put_line(message: &mut Buffer<'_>, word: &[u8], value: &[u8]) {
    if !value.is_empty() {
        message.put(word);
        message.put(value);
        message.put(b"\n");
    }
}

/// What has colons between it.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Up to a colon; the brackets of an IPv6 address, which has colons of its own, are taken off. Empty at the end, and
    /// for 0.0.0.0, which is none for the kernel too.
    #[inline(never)]
    fn next(&mut self) -> &'a [u8] {
        let (inner, end) = match strip(self.0, b"[") {
            Some(inner) => (inner, b']'),
            None => (self.0, b':'),
        };
        let (field, tail) = cut(inner, end);
        let tail = tail.unwrap_or(&[]);
        self.0 = if end == b']' {
            strip(tail, b":").unwrap_or(&[])
        } else {
            tail
        };
        if field == b"0.0.0.0" { b"" } else { field }
    }
}

/// As a number, or as an IPv4 mask without a hole.
fn prefix_len(netmask: &[u8]) -> Option<u32> {
    if let Some(mask) = parse_v4(netmask) {
        let mask = u32::from_be_bytes(mask);
        let len = mask.leading_ones();
        return if len == mask.count_ones() {
            Some(len)
        } else {
            None
        };
    }
    parse_number(netmask)
}
