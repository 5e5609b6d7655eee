//! The config message: one fact a line, `hawser 1` first, `end` last. `docs/protocol.md` is its manual.
//!
//! A message is read whole and checked whole by [`Message::parse`] before any of it is acted on; then [`Message::facts`]
//! goes over it as often as there are steps. [`Fact`]'s `Display` writes the line that reads back as the same fact.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::{Mac, Prefix, cut, parse_ip, parse_number};
use crate::capability::Capability;

/// The first line.
pub const VERSION: &str = "hawser 1";
/// The last line.
pub const END: &str = "end";
/// The line that follows the message when all is ready for the command.
pub const GO: &str = "go";
/// What init says on the status pipe once the kernel has acknowledged the network.
pub const UP: &str = "up";
/// What init says on the status pipe just before it becomes the command.
pub const READY: &str = "ready";
/// The first word of what init says on the status pipe when it fails; the exit code and the sentence follow.
pub const ERROR: &str = "error";
/// Bytes of a message at most, `end` and its newline included.
pub const LIMIT: usize = 16 * 1024;
/// Supplementary groups at most.
pub const GROUPS: usize = 256;

/// One line of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    /// `link NAME [mtu N]`: the interface that the addresses, neighbours and routes below belong to.
    Link {
        /// As the kernel knows it.
        name: &'a str,
        /// Bytes; `None` leaves it alone.
        mtu: Option<u32>,
    },
    /// `no-links`: the network namespace is somebody else's, even `lo` is left alone.
    NoLinks,
    /// `address A/LEN`
    Address(Prefix),
    /// `neighbour A MAC`: permanent.
    Neighbour {
        /// On the link above.
        address: IpAddr,
        /// Its link-layer address.
        mac: Mac,
    },
    /// `route default via A`, `route A/LEN via A`, `route A/LEN onlink`
    Route {
        /// `default` is a prefix of length 0 of the gateway's family.
        destination: Prefix,
        /// `None`: directly on the link.
        gateway: Option<IpAddr>,
    },
    /// `nameserver A`, for resolv.conf
    Nameserver(IpAddr),
    /// `search D...`, for resolv.conf
    Search(Words<'a>),
    /// `option O...`, for resolv.conf
    Option(Words<'a>),
    /// `host A NAME...`, for hosts
    Host {
        /// What the names stand for.
        address: IpAddr,
        /// At least one.
        names: Words<'a>,
    },
    /// `hostname H`
    Hostname(&'a str),
    /// `user UID:GID`
    User {
        /// Real, effective and saved.
        uid: u32,
        /// Real, effective and saved.
        gid: u32,
    },
    /// `groups G,G`: the supplementary ones.
    Groups(Groups<'a>),
    /// `workdir DIR`: an absolute path, to the end of the line.
    Workdir(&'a str),
    /// `capability NAME`: kept.
    Capability(Capability),
    /// `capability none`: an empty list, so that all are dropped.
    NoCapabilities,
    /// `ambient NAME`: kept, and ambient for a user who is not root.
    Ambient(Capability),
    /// `no-new-privileges`
    NoNewPrivileges,
}

/// Words with spaces between them, at least one.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.split_ascii_whitespace()
    }
}

impl PartialEq for Words<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Words<'_> {}

/// Group numbers with commas between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups<'a>(&'a str);

impl Groups<'_> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let mut rest = Some(self.0);
        core::iter::from_fn(move || {
            let (group, tail) = cut(rest?, b',');
            rest = tail;
            parse_id(group)
        })
    }
}

/// What is wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// From 1.
    pub line: usize,
    /// From 1; 0 when the line as a whole is wrong.
    pub word: usize,
    /// The word, empty when there is none (one too few, say).
    pub text: &'a str,
    /// Why.
    pub cause: &'static str,
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if self.word > 0 {
            write!(f, ", word {}", self.word)?;
        }
        if !self.text.is_empty() {
            write!(f, " `{}`", self.text)?;
        }
        write!(f, ": {}", self.cause)
    }
}

/// A fact and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// From 1.
    pub line: usize,
    /// The line itself.
    pub text: &'a str,
    /// What it says.
    pub fact: Fact<'a>,
}

impl<'a> Entry<'a> {
    /// The line without its first word: the object of an error's sentence.
    pub fn object(&self) -> &'a str {
        let mut cursor = Cursor::new(self.text);
        cursor.next();
        cursor.rest()
    }
}

/// A message that was checked from its first line to `end`.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    text: &'a [u8],
    len: usize,
}

/// The length of the message that `bytes` begins with, `end` and its newline included; `None` while `end` is missing.
pub fn message_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..)?;
        let newline = rest.iter().position(|&byte| byte == b'\n')?;
        at += newline + 1;
        let line = rest.get(..newline)?;
        if core::str::from_utf8(line).is_ok_and(is_end) {
            return Some(at);
        }
    }
}

impl<'a> Message<'a> {
    /// Reads and checks the message that `bytes` begins with. What follows `end` is not looked at; a missing newline
    /// behind `end` is forgiven.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault<'a>> {
        let mut lines = Lines {
            bytes,
            at: 0,
            number: 0,
        };
        let mut seen = 0;
        loop {
            let text = lines.next_line();
            let mut words = Cursor::new(text.unwrap_or(""));
            let checked = match text {
                None => words.refuse_line("the message stops without `end`"),
                _ if lines.at > LIMIT => words.refuse_line("the message is longer than 16 KiB"),
                Some(_) if lines.number == 1 => check_version(&mut words),
                Some(text) if is_end(text) => {
                    return Ok(Message {
                        text: bytes,
                        len: lines.at,
                    });
                }
                Some(_) => check_line(&mut words, &mut seen),
            };
            if checked.is_none() {
                return Err(Fault {
                    line: lines.number + usize::from(text.is_none()),
                    word: words.index,
                    text: words.last,
                    cause: words.cause,
                });
            }
        }
    }

    /// Bytes, with `end` and its newline: what follows in the same buffer is no part of it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is a version line at least.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Each fact in its order.
    pub fn facts(&self) -> Facts<'a> {
        let bytes = self.text.get(..self.len).unwrap_or(&[]);
        let mut lines = Lines {
            bytes,
            at: 0,
            number: 0,
        };
        lines.next_line();
        Facts(lines)
    }
}

/// The facts of a checked message.
pub struct Facts<'a>(Lines<'a>);

impl<'a> Iterator for Facts<'a> {
    type Item = Entry<'a>;

    #[inline(never)]
    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            let text = self.0.next_line()?;
            let fact = parse_line(&mut Cursor::new(text));
            if let Some(fact) = fact {
                let line = self.0.number;
                return Some(Entry { line, text, fact });
            }
        }
    }
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    /// A line that is not UTF-8 comes as a control character, which no line may have.
    #[inline(never)]
    fn next_line(&mut self) -> Option<&'a str> {
        let rest = self.bytes.get(self.at..)?;
        if rest.is_empty() {
            return None;
        }
        self.number += 1;
        let newline = rest.iter().position(|&byte| byte == b'\n');
        let len = newline.unwrap_or(rest.len());
        self.at += len + usize::from(newline.is_some());
        Some(core::str::from_utf8(rest.get(..len)?).unwrap_or("\0"))
    }
}

/// The words of one line, and what is wrong with the last of them.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    index: usize,
    last: &'a str,
    cause: &'static str,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Cursor {
            text,
            at: 0,
            index: 0,
            last: "",
            cause: "",
        }
    }

    /// What no word was made of yet, without the spaces around it.
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("").trim_ascii()
    }

    /// The next word; `missing` is the complaint when there is none.
    fn expect(&mut self, missing: &'static str) -> Option<&'a str> {
        let word = self.next();
        if word.is_none() {
            self.index += 1;
            self.last = "";
            self.cause = missing;
        }
        word
    }

    /// Complains about the word that [`Iterator::next`] gave last.
    fn refuse<T>(&mut self, cause: &'static str) -> Option<T> {
        self.cause = cause;
        None
    }

    /// Complains about the line as a whole.
    fn refuse_line<T>(&mut self, cause: &'static str) -> Option<T> {
        self.index = 0;
        self.last = "";
        self.refuse(cause)
    }

    /// Complains about the line's first word.
    fn refuse_keyword<T>(&mut self, cause: &'static str) -> Option<T> {
        self.at = 0;
        self.index = 0;
        self.next();
        self.refuse(cause)
    }

    /// A word's value, or a complaint about it.
    fn accept<T>(&mut self, value: Option<T>, cause: &'static str) -> Option<T> {
        if value.is_none() {
            self.cause = cause;
        }
        value
    }

    fn finish(&mut self) -> Option<()> {
        match self.next() {
            None => Some(()),
            Some(_) => self.refuse("one word too many"),
        }
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = &'a str;

    #[inline(never)]
    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(|&byte| is_space(byte)) {
            self.at += 1;
        }
        let start = self.at;
        while bytes.get(self.at).is_some_and(|&byte| !is_space(byte)) {
            self.at += 1;
        }
        if start == self.at {
            return None;
        }
        self.index += 1;
        self.last = self.text.get(start..self.at)?;
        Some(self.last)
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_end(text: &str) -> bool {
    let mut words = Cursor::new(text);
    words.next() == Some(END) && words.next().is_none()
}

/// The first line is the version, so that a message of another version is not half understood.
fn check_version(words: &mut Cursor<'_>) -> Option<()> {
    let first = words.next();
    words.accept(
        first.filter(|&word| word == "hawser"),
        "the first line is not `hawser 1`",
    )?;
    let second = words.expect("the first line is not `hawser 1`")?;
    words.accept(
        Some(second).filter(|&word| word == "1"),
        "only version 1 is understood",
    )?;
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
fn check_line(words: &mut Cursor<'_>, seen: &mut u32) -> Option<()> {
    let Some(fact) = parse_line(words) else {
        // Nothing on it, or something wrong with it.
        return Some(()).filter(|()| words.cause.is_empty());
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
        Fact::Capability(_) | Fact::Ambient(_) => (CAPABILITIES, NO_CAPABILITIES),
        Fact::NoCapabilities => (NO_CAPABILITIES, CAPABILITIES | NO_CAPABILITIES),
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

/// One line. `None` without a cause is an empty one or a comment, and `end`.
#[inline(never)]
fn parse_line<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let is_odd = |byte: u8| byte.is_ascii_control() && byte != b'\t';
    if words.text.bytes().any(is_odd) {
        return words.refuse_line("a control character, or not UTF-8");
    }
    let keyword = words.next()?;
    if keyword.starts_with('#') {
        return None;
    }
    let fact = match keyword {
        "link" => parse_link(words)?,
        "no-links" => Fact::NoLinks,
        "address" => Fact::Address(parse_interface_address(words)?),
        "neighbour" => parse_neighbour(words)?,
        "route" => parse_route(words)?,
        "nameserver" => Fact::Nameserver(parse_address(words)?),
        "search" => Fact::Search(parse_names(words)?),
        "option" => Fact::Option(parse_names(words)?),
        "host" => {
            let address = parse_address(words)?;
            let names = parse_names(words)?;
            Fact::Host { address, names }
        }
        "hostname" => Fact::Hostname(parse_hostname(words)?),
        "user" => parse_user(words)?,
        "groups" => Fact::Groups(parse_groups(words)?),
        "workdir" => Fact::Workdir(parse_workdir(words)?),
        "capability" => match parse_capability(words) {
            None if words.last == "none" => Fact::NoCapabilities,
            capability => Fact::Capability(capability?),
        },
        "ambient" => Fact::Ambient(parse_capability(words)?),
        "no-new-privileges" => Fact::NoNewPrivileges,
        _ => return words.refuse(UNKNOWN),
    };
    words.finish()?;
    Some(fact)
}

/// The kernel's rule for a name (`dev_valid_name`), and no control or other odd character.
fn parse_link<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let name = words.expect(NO_NAME)?;
    let is_odd = |byte: u8| byte == b'/' || byte == b':' || !byte.is_ascii_graphic();
    if name.len() > 15 || name.bytes().any(is_odd) || name == "." || name == ".." {
        return words.refuse("not a link's name");
    }
    let mut mtu = None;
    if let Some(word) = words.next() {
        if word != "mtu" {
            return words.refuse(UNKNOWN);
        }
        // 68: RFC 791. 65536: what `lo` has, and no link has more.
        let number = parse_number(words.expect("a number is missing")?);
        let number = number.filter(|mtu| (68..=65536).contains(mtu));
        mtu = Some(words.accept(number, "not an MTU from 68 to 65536")?);
    }
    Some(Fact::Link { name, mtu })
}

const NO_NAME: &str = "a name is missing";
const NO_ADDRESS: &str = "an address is missing";
const NO_PREFIX: &str = "not an address with the length of its prefix";
const UNKNOWN: &str = "unknown word";

fn parse_interface_address(words: &mut Cursor<'_>) -> Option<Prefix> {
    let word = words.expect(NO_ADDRESS)?;
    let prefix = words.accept(Prefix::parse(word), NO_PREFIX)?;
    check_unicast(words, prefix.address)?;
    Some(prefix)
}

fn parse_neighbour<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let address = parse_address(words)?;
    check_unicast(words, address)?;
    let word = words.expect("a MAC is missing")?;
    let mac = words.accept(Mac::parse(word), "not a MAC such as 02:00:ac:13:00:01")?;
    Some(Fact::Neighbour { address, mac })
}

fn parse_route<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let word = words.expect("a destination is missing")?;
    let destination = if word == "default" {
        None
    } else {
        let prefix = words.accept(Prefix::parse(word), NO_PREFIX)?;
        let network = Some(prefix).filter(Prefix::is_network);
        Some(words.accept(network, "bits are set behind the prefix")?)
    };
    let how = words.expect("`via` or `onlink` is missing")?;
    match destination {
        Some(destination) if how == "onlink" => {
            return Some(Fact::Route {
                destination,
                gateway: None,
            });
        }
        _ if how != "via" => return words.refuse(UNKNOWN),
        _ => {}
    }
    let gateway = parse_address(words)?;
    check_unicast(words, gateway)?;
    let everywhere = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let destination = destination.unwrap_or(Prefix {
        address: everywhere,
        len: 0,
    });
    if destination.address.is_ipv4() != gateway.is_ipv4() {
        return words.refuse("not of the destination's family");
    }
    Some(Fact::Route {
        destination,
        gateway: Some(gateway),
    })
}

#[inline(never)]
fn parse_address(words: &mut Cursor<'_>) -> Option<IpAddr> {
    let word = words.expect(NO_ADDRESS)?;
    words.accept(parse_ip(word), "not an IPv4 or IPv6 address")
}

#[inline(never)]
fn check_unicast(words: &mut Cursor<'_>, address: IpAddr) -> Option<()> {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return words.refuse("no address that a machine can have");
    }
    Some(())
}

/// Printable ASCII, without the characters that begin a comment in resolv.conf and hosts.
fn is_name(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b';')
}

#[inline(never)]
fn parse_names<'a>(words: &mut Cursor<'a>) -> Option<Words<'a>> {
    let names = Words(words.rest());
    let mut word = words.expect(NO_NAME)?;
    loop {
        words.accept(Some(()).filter(|()| is_name(word)), "not a name")?;
        match words.next() {
            Some(next) => word = next,
            None => return Some(names),
        }
    }
}

fn parse_hostname<'a>(words: &mut Cursor<'a>) -> Option<&'a str> {
    let name = words.expect(NO_NAME)?;
    // 64: __NEW_UTS_LEN of linux/utsname.h.
    let good = Some(name).filter(|name| name.len() <= 64 && is_name(name));
    words.accept(good, "not a host name of at most 64 characters")
}

fn parse_capability(words: &mut Cursor<'_>) -> Option<Capability> {
    let name = words.expect(NO_NAME)?;
    words.accept(Capability::from_name(name), "no capability")
}

/// The path goes to the end of the line: spaces may be in it.
fn parse_workdir<'a>(words: &mut Cursor<'a>) -> Option<&'a str> {
    let path = words.rest();
    words.expect("a directory is missing")?;
    let good = Some(path).filter(|path| path.starts_with('/') && path.len() < 4096);
    words.accept(good, "not an absolute path of at most 4,095 bytes")?;
    words.at = words.text.len();
    Some(path)
}

/// A user's or group's number; the last one stands for "leave alone" in the kernel's calls.
fn parse_id(text: &str) -> Option<u32> {
    parse_number(text).filter(|&id| id != u32::MAX)
}

fn parse_user<'a>(words: &mut Cursor<'a>) -> Option<Fact<'a>> {
    let (uid, gid) = cut(words.expect("UID:GID is missing")?, b':');
    let ids = parse_id(uid).zip(gid.and_then(parse_id));
    let (uid, gid) = words.accept(ids, "not UID:GID in numbers")?;
    Some(Fact::User { uid, gid })
}

fn parse_groups<'a>(words: &mut Cursor<'a>) -> Option<Groups<'a>> {
    let groups = Groups(words.expect("a group is missing")?);
    let commas = groups.0.bytes().filter(|&byte| byte == b',').count();
    // The iterator ends at the first word that is no number.
    let all = Some(groups).filter(|groups| groups.iter().count() == commas + 1);
    words.accept(all, "not numbers with commas between them")?;
    words.accept(all.filter(|_| commas < GROUPS), "more than 256 groups")
}

impl Fact<'_> {
    /// The line's first word.
    pub fn keyword(&self) -> &'static str {
        match self {
            Fact::Link { .. } => "link",
            Fact::NoLinks => "no-links",
            Fact::Address(_) => "address",
            Fact::Neighbour { .. } => "neighbour",
            Fact::Route { .. } => "route",
            Fact::Nameserver(_) => "nameserver",
            Fact::Search(_) => "search",
            Fact::Option(_) => "option",
            Fact::Host { .. } => "host",
            Fact::Hostname(_) => "hostname",
            Fact::User { .. } => "user",
            Fact::Groups(_) => "groups",
            Fact::Workdir(_) => "workdir",
            Fact::Capability(_) | Fact::NoCapabilities => "capability",
            Fact::Ambient(_) => "ambient",
            Fact::NoNewPrivileges => "no-new-privileges",
        }
    }
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{word}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())?;
        match self {
            Fact::NoLinks | Fact::NoNewPrivileges => Ok(()),
            Fact::Link { name, mtu: None } => write!(f, " {name}"),
            Fact::Link {
                name,
                mtu: Some(mtu),
            } => write!(f, " {name} mtu {mtu}"),
            Fact::Address(prefix) => write!(f, " {prefix}"),
            Fact::Neighbour { address, mac } => write!(f, " {address} {mac}"),
            Fact::Route {
                destination,
                gateway: None,
            } => write!(f, " {destination} onlink"),
            Fact::Route {
                destination,
                gateway: Some(gateway),
            } if destination.len == 0 => {
                write!(f, " default via {gateway}")
            }
            Fact::Route {
                destination,
                gateway: Some(gateway),
            } => write!(f, " {destination} via {gateway}"),
            Fact::Nameserver(address) => write!(f, " {address}"),
            Fact::Search(words) | Fact::Option(words) => write!(f, " {words}"),
            Fact::Host { address, names } => write!(f, " {address} {names}"),
            Fact::Hostname(text) | Fact::Workdir(text) => write!(f, " {text}"),
            Fact::User { uid, gid } => write!(f, " {uid}:{gid}"),
            Fact::Groups(groups) => write!(f, " {}", groups.0),
            Fact::Capability(capability) | Fact::Ambient(capability) => write!(f, " {capability}"),
            Fact::NoCapabilities => f.write_str(" none"),
        }
    }
}
