//! Facts as lines: what is written here reads back as the same fact.

use core::fmt;

use super::{Fact, Text, Words};
use crate::capability::Capability;

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
            Fact::Capabilities(_) => "capability",
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
            Fact::Groups(groups) => write!(f, " {}", Text(groups.0)),
            Fact::Ambient(capability) => write!(f, " {capability}"),
            Fact::Capabilities(0) => f.write_str(" none"),
            Fact::Capabilities(set) => match Capability::all().find(|one| one.bit() == *set) {
                Some(one) => write!(f, " {one}"),
                None => write!(f, " {set:#x}"),
            },
        }
    }
}
