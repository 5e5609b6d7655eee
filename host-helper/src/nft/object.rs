//! What nf_tables consist of, as data: rules, chains, sets and their elements.

use super::expression::Expression;

/// A family of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet = 1,
    /// `NFPROTO_BRIDGE`: frames on bridges.
    Bridge = 7,
}

/// A rule: its chain and its expressions in order.
#[derive(Debug)]
pub struct Rule {
    /// The chain that it is appended to.
    pub chain: &'static str,
    /// What it says.
    pub expressions: Vec<Expression>,
}

/// A chain.
#[derive(Debug)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it hangs; `None`: other chains jump to it.
    pub hook: Option<Hook>,
}

/// Where a chain hangs in the kernel.
#[derive(Debug)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `NF_INET_*`; those of bridges have the same numbers (`NF_BR_*`).
    pub number: i32,
    /// Where among others at this hook.
    pub priority: i32,
}

/// A type of nft's, of which keys and values consist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `ether_addr`
    Ether,
    /// `inet_proto`
    Protocol,
    /// `inet_service`
    Port,
    /// `ifname`
    LinkName,
    /// `devgroup`
    LinkGroup,
    /// `mark`: any number.
    Mark,
}

impl Type {
    /// nft's number for it (`enum datatypes`, nftables: include/datatype.h): the kernel keeps it for whoever lists.
    pub const fn number(self) -> u32 {
        match self {
            Type::Ipv4 => 7,
            Type::Ipv6 => 8,
            Type::Ether => 9,
            Type::Protocol => 12,
            Type::Port => 13,
            Type::Mark => 19,
            Type::LinkGroup => 35,
            Type::LinkName => 41,
        }
    }

    /// Bytes of a value.
    pub const fn len(self) -> usize {
        match self {
            Type::Ipv4 | Type::LinkGroup | Type::Mark => 4,
            Type::Ipv6 | Type::LinkName => 16,
            Type::Ether => 6,
            Type::Protocol => 1,
            Type::Port => 2,
        }
    }

    /// Bytes that it takes in registers, and in a key of several.
    pub const fn padded(self) -> usize {
        self.len().next_multiple_of(4)
    }
}

/// A set, or a map.
#[derive(Debug)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// What a key consists of.
    pub key: &'static [Type],
    /// What it is mapped to; empty for a set.
    pub value: &'static [Type],
    /// How it is kept.
    pub kind: SetKind,
}

/// How a set is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    /// By hash.
    Hash,
    /// By hash, and each element counts the packets that matched it.
    Counting,
    /// Each element is a range in every field.
    Ranges,
}

/// An element of a set or a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The table's family.
    pub family: Family,
    /// The set's name.
    pub set: &'static str,
    /// Its fields, each padded to four bytes.
    pub key: Vec<u8>,
    /// The last key of a range.
    pub key_end: Option<Vec<u8>>,
    /// What it is mapped to.
    pub value: Vec<u8>,
}

impl Element {
    /// Whether this has the place of `other`: the kernel keeps one of each key.
    pub fn is_another_at(&self, other: &Element) -> bool {
        let place = |it: &Element| (it.family, it.set);
        place(self) == place(other) && self.key == other.key && self.value != other.value
    }
}
