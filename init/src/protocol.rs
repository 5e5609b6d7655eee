//! The config message: one fact a line, `hawser 1` first, `end` last. `docs/protocol.md` is its manual.
//!
//! A message is read whole and checked whole by [`Message::parse`] before any of it is acted on; then [`Message::facts`]
//! goes over it as often as there are steps. [`Fact`]'s `Display` writes the line that reads back as the same fact.

use core::fmt;
use core::net::IpAddr;

use crate::address::{Mac, Prefix, parse_ip, parse_number};
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
        self.0.split(',').filter_map(parse_id)
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
        let mut rules = Rules::default();
        loop {
            let Some(raw) = lines.next_line() else {
                return Err(Fault {
                    line: lines.number + 1,
                    word: 0,
                    text: "",
                    cause: "the message stops without `end`",
                });
            };
            let line = lines.number;
            if lines.at > LIMIT {
                return Err(Fault {
                    line,
                    word: 0,
                    text: "",
                    cause: "the message is longer than 16 KiB",
                });
            }
            let text = core::str::from_utf8(raw).unwrap_or("\0");
            let complaint = if line == 1 {
                check_version(text)
            } else if is_end(text) {
                return Ok(Message {
                    text: bytes,
                    len: lines.at,
                });
            } else {
                check_line(text, &mut rules)
            };
            if let Err(Complaint { word, cause }) = complaint {
                let text = if word == 0 {
                    ""
                } else {
                    Cursor::new(text).nth(word - 1).unwrap_or("")
                };
                return Err(Fault {
                    line,
                    word,
                    text,
                    cause,
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
            let text = core::str::from_utf8(self.0.next_line()?).ok()?;
            if let Ok(Some(fact)) = parse_line(text) {
                return Some(Entry {
                    line: self.0.number,
                    text,
                    fact,
                });
            }
            if is_end(text) {
                return None;
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
    #[inline(never)]
    fn next_line(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        if rest.is_empty() {
            return None;
        }
        self.number += 1;
        let len = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(rest.len());
        // One behind the last byte where the newline is missing: rest is empty then.
        self.at = (self.at + len + 1).min(self.bytes.len());
        rest.get(..len)
    }
}

/// The words of one line, with their number.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    index: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Cursor {
            text,
            at: 0,
            index: 0,
        }
    }

    /// What no word was made of yet, without the spaces around it.
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("").trim_ascii()
    }

    /// The next word, or a complaint that there is none.
    fn expect(&mut self, cause: &'static str) -> Result<&'a str, Complaint> {
        match self.next() {
            Some(word) => Ok(word),
            None => Err(Complaint {
                word: self.index + 1,
                cause,
            }),
        }
    }

    /// A complaint about the word that [`Iterator::next`] gave last.
    fn complain<T>(&self, cause: &'static str) -> Result<T, Complaint> {
        Err(Complaint {
            word: self.index,
            cause,
        })
    }

    fn or_complain<T>(&self, value: Option<T>, cause: &'static str) -> Result<T, Complaint> {
        match value {
            Some(value) => Ok(value),
            None => self.complain(cause),
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
        self.text.get(start..self.at)
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_end(text: &str) -> bool {
    let mut words = Cursor::new(text);
    words.next() == Some(END) && words.next().is_none()
}

struct Complaint {
    word: usize,
    cause: &'static str,
}

/// The first line is the version, so that a message of another version is not half understood.
fn check_version(text: &str) -> Result<(), Complaint> {
    let mut words = Cursor::new(text);
    if words.next() != Some("hawser") {
        return Err(Complaint {
            word: 1,
            cause: "the first line is not `hawser 1`",
        });
    }
    if words.next() != Some("1") {
        return Err(Complaint {
            word: 2,
            cause: "only version 1 is understood",
        });
    }
    finish(&mut words)
}

fn finish(words: &mut Cursor<'_>) -> Result<(), Complaint> {
    match words.next() {
        None => Ok(()),
        Some(_) => words.complain("one word too many"),
    }
}

/// What a line may say depends on the lines before it.
#[derive(Default)]
struct Rules {
    seen: u32,
}

// Bits of `Rules::seen`.
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

fn check_line(text: &str, rules: &mut Rules) -> Result<(), Complaint> {
    let Some(fact) = parse_line(text)? else {
        return Ok(());
    };
    // What this line is, what must not have been before it.
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
        _ => (0, 0),
    };
    let needs_link = matches!(
        fact,
        Fact::Address(_) | Fact::Neighbour { .. } | Fact::Route { .. }
    );
    if needs_link && rules.seen & LINK == 0 {
        return Err(Complaint {
            word: 1,
            cause: "it belongs to no link; a `link` line comes before it",
        });
    }
    if rules.seen & excludes != 0 {
        return Err(Complaint {
            word: 1,
            cause: "an earlier line has said this, or the opposite",
        });
    }
    rules.seen |= bit;
    Ok(())
}

/// One line; `None` for an empty one and for a comment.
#[inline(never)]
fn parse_line(text: &str) -> Result<Option<Fact<'_>>, Complaint> {
    if text
        .bytes()
        .any(|byte| byte.is_ascii_control() && byte != b'\t')
    {
        return Err(Complaint {
            word: 0,
            cause: "a control character, or not UTF-8",
        });
    }
    let mut words = Cursor::new(text);
    let Some(keyword) = words.next() else {
        return Ok(None);
    };
    if keyword.starts_with('#') {
        return Ok(None);
    }
    let fact = match keyword {
        "link" => parse_link(&mut words)?,
        "no-links" => Fact::NoLinks,
        "address" => {
            let prefix = parse_prefix(&mut words)?;
            check_unicast(&words, prefix.address)?;
            Fact::Address(prefix)
        }
        "neighbour" => {
            let address = parse_address(&mut words)?;
            check_unicast(&words, address)?;
            let word = words.expect("a MAC is missing")?;
            let mac = words.or_complain(Mac::parse(word), "not a MAC such as 02:00:ac:13:00:01")?;
            Fact::Neighbour { address, mac }
        }
        "route" => parse_route(&mut words)?,
        "nameserver" => Fact::Nameserver(parse_address(&mut words)?),
        "search" => Fact::Search(parse_names(&mut words, "a domain is missing")?),
        "option" => Fact::Option(parse_names(&mut words, "an option is missing")?),
        "host" => {
            let address = parse_address(&mut words)?;
            Fact::Host {
                address,
                names: parse_names(&mut words, "a name is missing")?,
            }
        }
        "hostname" => {
            let name = words.expect("a name is missing")?;
            if name.len() > 64 || !is_name(name) {
                return words.complain("not a host name of at most 64 characters");
            }
            Fact::Hostname(name)
        }
        "user" => parse_user(&mut words)?,
        "groups" => parse_groups(&mut words)?,
        "workdir" => {
            let path = words.rest();
            words.expect("a directory is missing")?;
            if !path.starts_with('/') || path.len() > 4095 {
                return words.complain("not an absolute path of at most 4,095 bytes");
            }
            while words.next().is_some() {}
            Fact::Workdir(path)
        }
        "capability" => {
            let name = words.expect("a name is missing")?;
            if name == "none" {
                Fact::NoCapabilities
            } else {
                Fact::Capability(words.or_complain(Capability::from_name(name), "no capability")?)
            }
        }
        "ambient" => {
            let name = words.expect("a name is missing")?;
            Fact::Ambient(words.or_complain(Capability::from_name(name), "no capability")?)
        }
        "no-new-privileges" => Fact::NoNewPrivileges,
        _ => return words.complain("unknown word"),
    };
    finish(&mut words)?;
    Ok(Some(fact))
}

/// The kernel's rule for a name (`dev_valid_name`), and no control or other odd character.
fn parse_link<'a>(words: &mut Cursor<'a>) -> Result<Fact<'a>, Complaint> {
    let name = words.expect("a name is missing")?;
    let odd = name
        .bytes()
        .any(|byte| byte == b'/' || byte == b':' || !byte.is_ascii_graphic());
    if name.len() > 15 || odd || name == "." || name == ".." {
        return words.complain("not a link's name");
    }
    let mut mtu = None;
    if let Some(word) = words.next() {
        if word != "mtu" {
            return words.complain("unknown word");
        }
        let number = parse_number(words.expect("a number is missing")?);
        // 68: RFC 791. 65536: what `lo` has, and no link has more.
        mtu = Some(words.or_complain(
            number.filter(|mtu| (68..=65536).contains(mtu)),
            "not an MTU from 68 to 65536",
        )?);
    }
    Ok(Fact::Link { name, mtu })
}

fn parse_route<'a>(words: &mut Cursor<'a>) -> Result<Fact<'a>, Complaint> {
    let word = words.expect("a destination is missing")?;
    let destination = if word == "default" {
        None
    } else {
        let prefix = words.or_complain(Prefix::parse(word), NO_PREFIX)?;
        if !prefix.is_network() {
            return words.complain("bits are set behind the prefix");
        }
        Some(prefix)
    };
    match words.expect("`via` or `onlink` is missing")? {
        "via" => {}
        "onlink" if destination.is_some() => {
            let destination = words.or_complain(destination, NO_PREFIX)?;
            return Ok(Fact::Route {
                destination,
                gateway: None,
            });
        }
        _ => return words.complain("unknown word"),
    }
    let gateway = parse_address(words)?;
    check_unicast(words, gateway)?;
    let unspecified = Prefix {
        address: unspecified(gateway),
        len: 0,
    };
    let destination = destination.unwrap_or(unspecified);
    if destination.address.is_ipv4() != gateway.is_ipv4() {
        return words.complain("not of the destination's family");
    }
    Ok(Fact::Route {
        destination,
        gateway: Some(gateway),
    })
}

const NO_PREFIX: &str = "not an address with the length of its prefix";

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED),
    }
}

fn parse_prefix(words: &mut Cursor<'_>) -> Result<Prefix, Complaint> {
    let word = words.expect("an address is missing")?;
    words.or_complain(Prefix::parse(word), NO_PREFIX)
}

fn parse_address(words: &mut Cursor<'_>) -> Result<IpAddr, Complaint> {
    let word = words.expect("an address is missing")?;
    words.or_complain(parse_ip(word), "not an IPv4 or IPv6 address")
}

fn check_unicast(words: &Cursor<'_>, address: IpAddr) -> Result<(), Complaint> {
    let broadcast = address == IpAddr::V4(core::net::Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return words.complain("no address that a machine can have");
    }
    Ok(())
}

/// Printable ASCII, without the characters that begin a comment in resolv.conf and hosts.
fn is_name(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b';')
}

fn parse_names<'a>(words: &mut Cursor<'a>, missing: &'static str) -> Result<Words<'a>, Complaint> {
    let names = Words(words.rest());
    let mut word = words.expect(missing)?;
    loop {
        if !is_name(word) {
            return words.complain("not a name");
        }
        match words.next() {
            Some(next) => word = next,
            None => return Ok(names),
        }
    }
}

/// A user's or group's number; the last one stands for "leave alone" in the kernel's calls.
fn parse_id(text: &str) -> Option<u32> {
    parse_number(text).filter(|&id| id != u32::MAX)
}

fn parse_user<'a>(words: &mut Cursor<'a>) -> Result<Fact<'a>, Complaint> {
    let word = words.expect("UID:GID is missing")?;
    let colon = word.bytes().position(|byte| byte == b':').unwrap_or(0);
    let uid = word.get(..colon).and_then(parse_id);
    let gid = word.get(colon + 1..).and_then(parse_id);
    match (uid, gid) {
        (Some(uid), Some(gid)) => Ok(Fact::User { uid, gid }),
        _ => words.complain("not UID:GID in numbers"),
    }
}

fn parse_groups<'a>(words: &mut Cursor<'a>) -> Result<Fact<'a>, Complaint> {
    let word = words.expect("a group is missing")?;
    let mut count = 0;
    for group in word.split(',') {
        count += 1;
        words.or_complain(parse_id(group), "not numbers with commas between them")?;
    }
    if count > GROUPS {
        return words.complain("more than 256 groups");
    }
    Ok(Fact::Groups(Groups(word)))
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
