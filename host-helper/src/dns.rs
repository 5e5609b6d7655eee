//! What the container resolves names with: the host's resolvers that it can reach, or those that were asked for.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::link::is_link_local;

/// The host's own file, and the one that systemd-resolved keeps behind its stub (resolved.conf(5)).
pub const HOST: &str = "/etc/resolv.conf";
/// Looked at only where the other names none that a container can reach.
pub const UPLINK: &str = "/run/systemd/resolve/resolv.conf";
/// Bytes: four times what init's message can hold.
const LONGEST: u64 = 64 * 1024;
/// resolv.conf(5): resolvers look at the first three (`MAXNS`) only.
const SERVERS: usize = 3;

/// From where resolvers are to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// The host's own network: all of the host's are.
    Host,
    /// Another.
    Network,
    /// Another with IPv4 alone.
    Network4,
}

/// What goes into resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// In order.
    pub servers: Vec<IpAddr>,
    /// Domains.
    pub search: Vec<String>,
    /// `ndots:1` and the like.
    pub options: Vec<String>,
}

impl Resolvers {
    /// What a resolv.conf says, without comments, without resolvers on a loopback address (nothing listens there
    /// inside), or on a link of the host's, without repetitions, and without the search domain `.` (musl gives up on it).
    fn parse(text: &str, within: Within) -> Resolvers {
        let mut found = Resolvers::default();
        let mut has_left_one = false;
        for line in text.lines() {
            // init takes no others, and one such word is no reason for no network: a name is ASCII (RFC 1035, RFC 5891).
            let is_plain = |word: &&str| word.bytes().all(|byte| byte.is_ascii_graphic());
            let mut words = words_of(line).filter(is_plain);
            match words.next() {
                Some("nameserver") => {
                    let word = words.next();
                    let server = word.and_then(|word| word.parse::<IpAddr>().ok());
                    let is_within_reach = |server: &IpAddr| {
                        let is_here = server.is_loopback() || server.is_unspecified();
                        let is_too_new = within == Within::Network4 && server.is_ipv6();
                        within == Within::Host || !(is_here || is_link_local(*server) || is_too_new)
                    };
                    has_left_one |= server.is_some_and(|server| !is_within_reach(&server))
                        || word.is_some_and(has_zone);
                    let server = server.filter(is_within_reach);
                    if let Some(server) = server.filter(|server| !found.servers.contains(server)) {
                        found.servers.push(server);
                    }
                }
                Some("search" | "domain") => {
                    found.search = words
                        .filter(|word| *word != ".")
                        .map(String::from)
                        .collect()
                }
                Some("options") => found.options.extend(words.map(String::from)),
                _ => {}
            }
        }
        found.servers.truncate(SERVERS);
        if has_left_one {
            // It was said of that one, and what is on the way to it: that its word on signatures may be believed (resolv.conf(5)).
            found.options.retain(|option| option != "trust-ad");
        }
        found
    }

    /// All that a resolv.conf says.
    pub fn parse_all(text: &str) -> Resolvers {
        Resolvers::parse(text, Within::Host)
    }

    /// Those of the host; where all of them are loopback ones, or its file is missing, those that systemd-resolved itself asks.
    fn of_host(within: Within) -> io::Result<Resolvers> {
        let (text, missing) = match read(HOST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), Some(error)),
            text => (text?, None),
        };
        let found = Resolvers::parse(&text, within);
        if !found.servers.is_empty() {
            return Ok(found);
        }
        let behind = match (read(UPLINK), missing) {
            (Err(_), Some(error)) => return Err(error),
            (text, _) => Resolvers::parse(&text.unwrap_or_default(), within),
        };
        Ok(Resolvers {
            servers: behind.servers,
            ..found
        })
    }

    /// Whether what systemd-resolved keeps behind its stub counts.
    pub fn looks_behind(within: Within) -> bool {
        let found = Resolvers::parse(&read(HOST).unwrap_or_default(), within);
        // Where there is no systemd, to wait for its directory would be to watch all of /run.
        found.servers.is_empty() && Path::new("/run/systemd").exists()
    }

    /// Whether any of it comes from the host.
    pub fn needs_host(&self) -> bool {
        self.servers.is_empty()
    }

    /// What was asked for, and the host's where nothing was.
    ///
    /// # Errors
    /// The host's file cannot be read.
    pub fn choose(asked: &Resolvers, within: Within) -> io::Result<Resolvers> {
        if !asked.needs_host() {
            return Ok(asked.clone());
        }
        let host = Resolvers::of_host(within)?;
        let or = |asked: &Vec<String>, host| {
            if asked.is_empty() {
                host
            } else {
                asked.clone()
            }
        };
        Ok(Resolvers {
            servers: host.servers,
            search: or(&asked.search, host.search),
            options: or(&asked.options, host.options),
        })
    }

    /// The lines of init's message.
    pub fn facts(&self) -> String {
        let mut facts: String = self
            .servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        for (word, values) in [("search", &self.search), ("option", &self.options)] {
            if !values.is_empty() {
                facts += &format!("{word} {}\n", values.join(" "));
            }
        }
        facts
    }

    /// The lines of resolv.conf, as init writes them. `None`: it would refuse them.
    pub fn to_file(&self) -> Option<String> {
        use hawser::protocol::{END, Message, VERSION};
        let facts = self.facts();
        let message = format!("{VERSION}\n{facts}{END}\n");
        Message::parse(message.as_bytes()).ok()?;
        let line = |fact: &str| match fact.strip_prefix("option ") {
            Some(options) => format!("options {options}\n"),
            None => format!("{fact}\n"),
        };
        Some(facts.lines().map(line).collect())
    }
}

/// The words by which the host's own file names a resolver: those of IPv6 may be written in several ways.
pub fn spellings(server: IpAddr) -> BTreeSet<String> {
    let text = read(HOST).unwrap_or_default();
    let words = text.lines().filter_map(named);
    let same = words.filter(|word| word.parse() == Ok(server));
    same.map(String::from).collect()
}

/// The first word by which the host's own file names a resolver on one of its links: it is left out, since init's message has no zones.
pub fn with_zone() -> Option<String> {
    let text = read(HOST).unwrap_or_default();
    let word = text.lines().filter_map(named).find(|word| has_zone(word));
    word.map(String::from)
}

/// Whether a word is an address with a zone, `fe80::1%eth0` (RFC 4007, section 11).
fn has_zone(word: &str) -> bool {
    let parts = word.split_once('%');
    parts.is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
}

/// Those of a line, without its comment.
fn words_of(line: &str) -> impl Iterator<Item = &str> {
    let said = line.split(['#', ';']).next().unwrap_or_default();
    said.split_whitespace()
}

/// The resolver that a line names.
fn named(line: &str) -> Option<&str> {
    let mut words = words_of(line);
    (words.next() == Some("nameserver")).then(|| words.next())?
}

/// All of a file of the host's, unless it is longer than any that is meant for this. Never waits.
fn read(path: &str) -> io::Result<String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    // A comment may be in any encoding.
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_repetitions_and_the_dot_are_left_out() {
        let text = "# a comment\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver ::1\n\
                    nameserver 2001:db8::1 # six\nnameserver x\nsearch a.example . b.example\noptions ndots:1 edns0\n\
                    nameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found = Resolvers::parse(text, Within::Network);
        let servers: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1", "192.0.2.2"]
            .map(|a| a.parse().unwrap())
            .into();
        assert_eq!(found.servers, servers);
        assert_eq!(found.search, ["a.example", "b.example"]);
        assert_eq!(found.options, ["ndots:1", "edns0"]);
        assert_eq!(Resolvers::parse("", Within::Network), Resolvers::default());
    }

    #[test]
    fn what_was_asked_for_is_taken_whole() {
        let asked = Resolvers {
            servers: vec!["192.0.2.9".parse().unwrap()],
            ..Resolvers::default()
        };
        assert_eq!(Resolvers::choose(&asked, Within::Network).unwrap(), asked);
    }
}
