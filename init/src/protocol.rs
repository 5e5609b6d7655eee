//! The config message: one fact a line, `hawser 1` first, `end` last. `docs/protocol.md` is its manual.
//!
//! A message is read whole and checked whole by [`Message::parse`] before any of it is acted on; then [`Message::facts`]
//! goes over it as often as there are steps. [`Fact`]'s `Display` writes the line that reads back as the same fact.

use core::fmt;

use crate::address::{Address, Mac, Prefix, cut};
use crate::capability::Capability;

mod cursor;
mod line;
mod write;

use cursor::Cursor;
use line::{check_line, check_version, has_control, is_end, parse_id, parse_line};

/// The first line.
pub const VERSION: &str = "hawser 1";
/// The last line.
pub const END: &str = "end";
/// The line that follows the message when all is ready for the command.
pub const GO: &str = "go";
/// [`GO`] as a line.
pub const GO_LINE: &str = "go\n";
/// What init says on the status pipe once the kernel has acknowledged the network.
pub const UP: &str = "up";
/// [`UP`] as a line.
pub const UP_LINE: &str = "up\n";
/// What init says on the status pipe just before it becomes the command.
pub const READY: &str = "ready";
/// [`READY`] as a line.
pub const READY_LINE: &str = "ready\n";
/// [`UP_LINE`] and [`READY_LINE`].
pub const BOTH_LINES: &str = "up\nready\n";
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
        name: Text<'a>,
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
        address: Address,
        /// Its link-layer address.
        mac: Mac,
    },
    /// `route default via A`, `route A/LEN via A`, `route A/LEN onlink`
    Route {
        /// `default` is a prefix of length 0 of the gateway's family.
        destination: Prefix,
        /// `None`: directly on the link.
        gateway: Option<Address>,
    },
    /// `nameserver A`, for resolv.conf
    Nameserver(Address),
    /// `search D...`, for resolv.conf
    Search(Words<'a>),
    /// `option O...`, for resolv.conf
    Option(Words<'a>),
    /// `host A NAME...`, for hosts
    Host {
        /// What the names stand for.
        address: Address,
        /// At least one.
        names: Words<'a>,
    },
    /// `hostname H`
    Hostname(Text<'a>),
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
    Workdir(Text<'a>),
    /// `capability NAME`, `capability 0xSET`: kept, one bit each; `capability none`: an empty list, so that all are dropped.
    Capabilities(u64),
    /// `ambient NAME`: kept, and ambient for a user who is not root.
    Ambient(Capability),
    /// `no-new-privileges`
    NoNewPrivileges,
}

/// Bytes of the message: without control characters, in UTF-8 if whoever wrote them did so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.escape_ascii())
    }
}

/// Words with spaces between them, at least one.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Text<'a>> + use<'a> {
        Cursor::new(self.0).map(Text)
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
pub struct Groups<'a>(&'a [u8]);

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
    /// From 1; 0 when it is no line's.
    pub line: usize,
    /// From 1; 0 when the line as a whole is wrong.
    pub word: usize,
    /// The word, empty when there is none.
    pub text: Text<'a>,
    /// How `cause` is meant.
    pub kind: Kind,
    /// What is wrong, or what the word should be.
    pub cause: &'static str,
}

/// How a cause is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such word, and it should be what `cause` says.
    Missing,
    /// The word is not what `cause` says.
    Not,
    /// `cause` is the whole reason.
    Because,
    /// All is well so far, and `end` has not come.
    Unfinished,
}

impl Fault<'_> {
    /// Of no line in particular.
    #[inline(always)]
    pub fn of_all(kind: Kind, cause: &'static str) -> Self {
        Fault {
            line: 0,
            word: 0,
            text: Text(&[]),
            kind,
            cause,
        }
    }

    /// The words before and behind `cause` in a sentence.
    #[inline(always)]
    pub fn around(&self) -> (&'static str, &'static str) {
        match self.kind {
            Kind::Missing => ("", " is missing"),
            Kind::Not => ("not ", ""),
            Kind::Because | Kind::Unfinished => ("", ""),
        }
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if self.word > 0 {
            write!(f, ", word {}", self.word)?;
        }
        if !self.text.0.is_empty() {
            write!(f, " `{}`", self.text)?;
        }
        let (before, behind) = self.around();
        write!(f, ": {before}{}{behind}", self.cause)
    }
}

/// A fact and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// From 1.
    pub line: usize,
    /// The line itself.
    pub text: Text<'a>,
    /// What it says.
    pub fact: Fact<'a>,
}

impl<'a> Entry<'a> {
    /// The line without its first word: the object of an error's sentence.
    pub fn object(&self) -> &'a [u8] {
        let mut cursor = Cursor::new(self.text.0);
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

impl<'a> Message<'a> {
    /// Reads and checks the message that `bytes` begins with. What follows `end` and its newline is not looked at.
    ///
    /// A message of which only the first part has come yet is a fault of [`Kind::Unfinished`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault<'a>> {
        let mut lines = Lines {
            bytes,
            at: 0,
            number: 0,
        };
        let mut seen = 0;
        loop {
            let text = lines.next_line();
            let mut words = Cursor::new(text.unwrap_or(&[]));
            let checked = match text {
                _ if lines.at > LIMIT => words.refuse_line("the message is longer than 16 KiB"),
                None => words.refuse_end(),
                Some(text) if has_control(text) => {
                    words.refuse_line("a control character (a CR before the newline?)")
                }
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
                let line = lines.number + usize::from(text.is_none());
                return Err(words.fault(line));
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
                return Some(Entry {
                    line,
                    text: Text(text),
                    fact,
                });
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
    /// The next line, without its newline: a line is what has one.
    #[inline(never)]
    fn next_line(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        match cut(rest, b'\n') {
            (line, Some(_)) => {
                self.number += 1;
                self.at += line.len() + 1;
                Some(line)
            }
            (part, None) => {
                self.at += part.len();
                None
            }
        }
    }
}
