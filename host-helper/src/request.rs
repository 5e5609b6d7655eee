//! What front ends translate their options into.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv6Net};
use nix::errno::Errno;

use crate::address::Subnet;
use crate::config::Privileges;
use crate::dns::{self, Resolvers, Within};
use crate::error::{Doing, Error, Result};
use crate::hosts::View;
use crate::link::Mac;
use crate::nft::Policy;
use crate::owner;
use crate::publish::Port;
use crate::reach::Reach;
use crate::rootfs::Rootfs;
use crate::wanted::Words;

/// `--network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChoice {
    /// A bridge.
    Bridge,
    /// A route of its own to each container.
    PointToPoint,
    /// A namespace with nothing but `lo`.
    None,
    /// The host's own.
    Host,
    /// Another container's.
    Container(String),
    /// The one at this path.
    Path(PathBuf),
}

impl NetworkChoice {
    /// The container gets a link of its own.
    pub fn has_link(&self) -> bool {
        matches!(self, NetworkChoice::Bridge | NetworkChoice::PointToPoint)
    }

    /// It has a bridge.
    pub fn has_bridge(&self) -> bool {
        *self == NetworkChoice::Bridge
    }

    /// From where resolvers are to be reached, also with IPv4 alone.
    pub fn within(&self, no_ipv6: bool) -> Within {
        match self {
            NetworkChoice::Host => Within::Host,
            _ if no_ipv6 => Within::Network4,
            _ => Within::Network,
        }
    }

    /// The container gets a network namespace of its own.
    pub fn is_new(&self) -> bool {
        self.has_link() || *self == NetworkChoice::None
    }
}

/// What front ends translate their options into: everything about the network and the names.
#[derive(Debug, Clone)]
pub struct Request {
    /// The container's name.
    pub name: String,
    /// Which kind of network.
    pub network: NetworkChoice,
    /// Name of the interface inside.
    pub interface: String,
    /// The bridge's name.
    pub bridge: String,
    /// The network's subnet.
    pub subnet: Option<Subnet>,
    /// A fixed address.
    pub address: Option<Ipv4Addr>,
    /// The network's IPv6 subnet, instead of its own.
    pub subnet6: Option<Ipv6Net>,
    /// A fixed IPv6 address, instead of the one whose host part is that of the IPv4 address.
    pub address6: Option<Ipv6Addr>,
    /// IPv4 alone.
    pub no_ipv6: bool,
    /// Ports of the host that lead to it.
    pub ports: Vec<Port>,
    /// Whom it may reach.
    pub reach: Reach,
    /// A fixed hardware address.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// What goes into resolv.conf: what was asked for, and else the host's.
    pub resolvers: Resolvers,
    /// Why the host's are not among them: its file could not be read.
    pub unread_resolvers: Option<String>,
    /// resolv.conf and hosts are written.
    pub writes_resolv: bool,
    /// What was asked for of resolv.conf, when the rest is the host's.
    pub asked: Option<Resolvers>,
    /// The rest is kept at what the host says.
    pub follows: bool,
    /// Nobody has asked for its name.
    pub is_name_made_up: bool,
    /// A host name that its runtime has made of its id, and that it is known by, too.
    pub short_id: Option<String>,
    /// Further lines of hosts.
    pub hosts: Vec<(IpAddr, String)>,
    /// Host name inside.
    pub hostname: String,
    /// The rest, which is rarely another than usual.
    pub details: Details,
}

/// What most networks and containers have alike.
#[derive(Debug, Clone)]
pub struct Details {
    /// Who may open connections to the network's containers, where that matters.
    pub policy: Option<Policy>,
    /// A port of the bridge sends what its container's addresses say alone.
    pub checks_sources: bool,
    /// The host's address, instead of the subnet's first.
    pub gateway: Option<Ipv4Addr>,
    /// The first and the last address that are given, instead of all of the subnet.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The subnet is cut out of a cluster's: a wider route of the host's is not in its way.
    pub is_cut_out: bool,
    /// Somebody else gives addresses, and sees to it that no two are the same.
    pub is_leased_elsewhere: bool,
    /// The gateway leads everywhere.
    pub has_default_route: bool,
    /// Routes that another link of the container has: those are not taken away.
    pub taken: Vec<IpNet>,
    /// Further routes; without a router by the gateway. A default route counts where the gateway does not lead everywhere.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    /// It takes part in the names of its network.
    pub has_names: bool,
    /// The bridge sends frames back by the port that they came from.
    pub is_hairpin: bool,
    /// The bridge takes in frames to anybody.
    pub is_promiscuous: bool,
    /// What cures name.
    pub words: Words,
}

impl Details {
    /// The gateway leads everywhere, in this version of IP.
    pub fn leads_everywhere(&self, is_ipv4: bool) -> bool {
        let is_it = |to: &IpNet| to.prefix_len() == 0 && to.addr().is_ipv4() == is_ipv4;
        self.has_default_route && !self.taken.iter().any(is_it)
    }

    /// Another link of the container, on the same network, leads to this gateway, and nothing is to go by ours.
    pub fn leaves_to_another(&self, gateway: IpAddr) -> bool {
        let is_ipv4 = gateway.is_ipv4();
        self.taken.contains(&gateway.into())
            && !self.leads_everywhere(is_ipv4)
            && self.routes_of(is_ipv4).next().is_none()
    }

    /// Refuses a further default route by another router than the gateway, where that leads everywhere: there is one of each version of IP.
    /// `None`: which it is is not known, or there is none.
    ///
    /// # Errors
    /// There is one.
    pub fn check_routers(
        &self,
        gateway: Option<Ipv4Addr>,
        gateway6: Option<Ipv6Addr>,
    ) -> Result<()> {
        for (to, by) in self.routes.iter().filter(|(to, _)| self.is_doubled(to)) {
            let gateway = match to {
                IpNet::V4(_) => gateway.map(IpAddr::V4),
                IpNet::V6(_) => gateway6.map(IpAddr::V6),
            };
            let pair = by.zip(gateway);
            if let Some((by, gateway)) = pair.filter(|(by, gateway)| by != gateway) {
                return Err(Error::new(format!(
                    "ipam.routes {to}: its router {by} is not the gateway {gateway}, by which the default route goes; leave it out, or set isDefaultGateway to false"
                )));
            }
        }
        Ok(())
    }

    /// A default route, of which there is one by the gateway anyway.
    fn is_doubled(&self, to: &IpNet) -> bool {
        self.has_default_route && to.prefix_len() == 0
    }

    /// The further routes of a version of IP.
    pub fn routes_of(
        &self,
        is_ipv4: bool,
    ) -> impl Iterator<Item = (IpNet, Option<IpAddr>)> + use<'_> {
        let all = self.routes.iter().copied();
        let all = all.filter(move |(to, _)| to.addr().is_ipv4() == is_ipv4);
        all.filter(move |(to, _)| !self.taken.contains(to) && !self.is_doubled(to))
    }
}

impl Default for Details {
    fn default() -> Self {
        Details {
            policy: None,
            checks_sources: true,
            gateway: None,
            range: None,
            is_cut_out: false,
            is_leased_elsewhere: false,
            has_default_route: true,
            taken: Vec::new(),
            routes: Vec::new(),
            has_names: true,
            is_hairpin: false,
            is_promiscuous: false,
            words: Words::OPTIONS,
        }
    }
}

impl Request {
    /// It gets an address that somebody else may have had a moment ago. Whoever leases addresses gives the others first.
    pub fn has_chosen_address(&self) -> bool {
        let is_chosen = self.address.is_some() || self.address6.is_some();
        is_chosen && !self.details.is_leased_elsewhere
    }

    /// What resolv.conf is to say, and why not what the host's does.
    ///
    /// Before: it is known whether the container gets IPv6, or is again.
    pub fn choose_resolvers(&mut self) {
        let Some(asked) = &self.asked else {
            return;
        };
        let found = Resolvers::choose(asked, self.network.within(self.no_ipv6));
        let found = found.doing(|| format!("read {}", dns::HOST));
        (self.resolvers, self.unread_resolvers) = match found {
            Ok(found) => (found, None),
            // A host without the file has no resolvers.
            Err(error) if error.errno == Some(Errno::ENOENT) => (asked.clone(), None),
            Err(error) => (asked.clone(), Some(error.to_string())),
        };
    }

    /// What to warn of: its resolv.conf is to name resolvers, and names none. `None`: nothing.
    pub fn lacks_resolvers(&self) -> Option<String> {
        if !self.writes_resolv || !self.resolvers.servers.is_empty() {
            return None;
        }
        let is_hosts = self.network == NetworkChoice::Host && self.asked.is_some();
        let with_zone = is_hosts.then(dns::with_zone).flatten();
        let why = match (&self.unread_resolvers, with_zone) {
            (Some(error), _) => error.clone(),
            (None, Some(word)) => {
                return Some(format!(
                    "no resolver for the container: {word} cannot be written with its link; give it the host's own file: --resolv=off -v {0}:{0}",
                    dns::HOST
                ));
            }
            (None, None) => "the host has none that it could reach".to_string(),
        };
        Some(format!(
            "no resolver for the container: {why}; name one with --dns"
        ))
    }

    /// The host knows the container's hardware address once and for all. Where nobody checks that, another plugin may change it, after us and
    /// without a word: the host asks who is there, as for anybody else.
    pub fn keeps_mac(&self) -> bool {
        self.mac.is_some() || self.details.checks_sources
    }

    /// How the container comes by the names of its network; `None`: it has no neighbours.
    pub fn view_of_hosts(&self) -> Option<View> {
        let has_neighbours = self.network.has_link() && !self.reach.isolated;
        (has_neighbours && self.details.has_names).then(|| View::of(self))
    }
}

/// What is to run, and how.
pub struct Command {
    /// Its files.
    pub rootfs: Rootfs,
    /// Where its descriptors lead.
    pub stdio: StdioChoice,
    /// What it may do, and where it starts.
    pub privileges: Privileges,
    /// init stays as PID 1, and gives what is left at the end so many seconds; else it becomes the command.
    pub supervised: Option<u64>,
    /// Descriptors from 3 on that it inherits.
    pub preserved: u32,
    /// init's file; the embedded one when there is none.
    pub init: Option<OwnedFd>,
    /// The words.
    pub words: Vec<OsString>,
    /// `KEY=VALUE`.
    pub environment: Vec<String>,
}

/// Where the command's standard descriptors lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdioChoice {
    /// Where ours do.
    Inherit,
    /// To a terminal.
    Terminal,
    /// Into the container's log.
    Log,
}

/// The host name of a container of this name, where nobody asks for another.
pub fn host_name_of(name: &str) -> &str {
    // A host name holds 64 bytes (sethostname(2)), a container's name 127.
    const LONGEST: usize = 64;
    name.get(..LONGEST).unwrap_or(name)
}

/// Refuses a name that a container cannot have.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    const LONGEST: usize = 127; // ALTIFNAMSIZ - 1, linux/if.h
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > LONGEST {
        return Err(format!("a name has 1 to {LONGEST} characters"));
    }
    if !name.bytes().all(is_plain) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(
            "a name consists of letters, digits, _ . and -, and begins with a letter or digit"
                .into(),
        );
    }
    // It is also another name of the link: hardware, and networkd's .network files, must not find theirs taken.
    let is_of_hardware = ["eth", "en", "wl", "ww"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let is_bridge = name
        .strip_prefix("hawser")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    if is_of_hardware || is_bridge || name == "lo" || owner::is_lease(name) {
        return Err("such names belong to network interfaces: what begins with eth, en, wl or ww, lo, hawser with or without a number, hw with an address".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [
            "web",
            "a",
            "box-1",
            "a.b_c",
            "hawser-test",
            &"n".repeat(127),
        ] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a/b",
            ".",
            "-a",
            "eth0",
            "ethel",
            "enp1s0",
            "wlan0",
            "wwan0",
            "lo",
            "hwac130002",
            "hw20010db8000000000000000000000002",
            "hawser0",
            "a b",
            &"n".repeat(128),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        let why = check_name("hawser0").unwrap_err();
        assert!(why.contains("hawser with or without a number"), "{why}");
    }
}
