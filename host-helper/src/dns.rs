//! What the container resolves names with: the host's resolvers that it can reach, or those that were asked for.

use std::fs;
use std::net::IpAddr;

/// The host's own file, and the one that systemd-resolved keeps behind its stub (resolved.conf(5)).
const HOST: &str = "/etc/resolv.conf";
const UPLINK: &str = "/run/systemd/resolve/resolv.conf";
/// resolv.conf(5): resolvers look at the first three (`MAXNS`) only.
const SERVERS: usize = 3;

/// Whose the loopback addresses of the host are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// The container has others: nothing listens there.
    NotOurs,
    /// The container's too: it is in the host's network.
    Ours,
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
    /// What a resolv.conf says, without resolvers on a loopback address (nothing listens there inside), without
    /// repetitions, and without the search domain `.` (musl gives up on it).
    fn parse(text: &str, loopback: Loopback) -> Resolvers {
        let mut found = Resolvers::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    let server = server.filter(|server| {
                        loopback == Loopback::Ours
                            || !server.is_loopback() && !server.is_unspecified()
                    });
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
        found
    }

    /// Those of the host; where all of them are loopback ones, those that systemd-resolved itself asks.
    fn of_host(loopback: Loopback) -> Resolvers {
        let read = |path| Resolvers::parse(&fs::read_to_string(path).unwrap_or_default(), loopback);
        let found = read(HOST);
        if found.servers.is_empty() {
            Resolvers {
                servers: read(UPLINK).servers,
                ..found
            }
        } else {
            found
        }
    }

    /// What was asked for, and the host's where nothing was.
    pub fn choose(asked: &Resolvers, loopback: Loopback) -> Resolvers {
        let host = if asked.servers.is_empty() {
            Resolvers::of_host(loopback)
        } else {
            Resolvers::default()
        };
        let or = |asked: &Vec<String>, host| {
            if asked.is_empty() {
                host
            } else {
                asked.clone()
            }
        };
        Resolvers {
            servers: if asked.servers.is_empty() {
                host.servers
            } else {
                asked.servers.clone()
            },
            search: or(&asked.search, host.search),
            options: or(&asked.options, host.options),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_repetitions_and_the_dot_are_left_out() {
        let text = "# a comment\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver ::1\n\
                    nameserver 2001:db8::1\nnameserver x\nsearch a.example . b.example\noptions ndots:1 edns0\n\
                    nameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found = Resolvers::parse(text, Loopback::NotOurs);
        let servers: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1", "192.0.2.2"]
            .map(|a| a.parse().unwrap())
            .into();
        assert_eq!(found.servers, servers);
        assert_eq!(found.search, ["a.example", "b.example"]);
        assert_eq!(found.options, ["ndots:1", "edns0"]);
        assert_eq!(
            Resolvers::parse("", Loopback::NotOurs),
            Resolvers::default()
        );
    }

    #[test]
    fn what_was_asked_for_is_taken_whole() {
        let asked = Resolvers {
            servers: vec!["192.0.2.9".parse().unwrap()],
            ..Resolvers::default()
        };
        assert_eq!(Resolvers::choose(&asked, Loopback::NotOurs), asked);
    }
}
