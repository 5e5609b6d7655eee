//! Published ports: what `-p` says (`text.rs`), as data; and how they are held (`hold.rs`).

mod hold;
mod holder;
mod reserved;
mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::attach::Attachment;
use crate::error::{self, Error};
use crate::netlink::Netlink;
use crate::veth;

pub use hold::{Held, hold, raise_limit};
pub use holder::{is_held_for, listener};
pub use text::{parse_host, parse_protocol};

/// What a port is a port of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, which is meant where none is named.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `IPPROTO_*`, as IP headers have it.
    pub fn number(self) -> u8 {
        let number = match self {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
            Protocol::Sctp => libc::IPPROTO_SCTP,
        };
        number as u8
    }

    /// As it is written behind a port.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// One port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The address of the host; none: all of them, in both families. The unspecified one: all of its family.
    pub host: Option<IpAddr>,
    /// The host's port; 0 until a free one has been chosen.
    pub host_port: u16,
    /// The container's port.
    pub port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

impl Port {
    /// The one address of the host that it is reached by; none: every one of the families that it has.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.filter(|host| !host.is_unspecified())
    }

    /// It is reached by IPv4.
    pub fn has_ipv4(&self) -> bool {
        self.host.is_none_or(|host| host.is_ipv4())
    }

    /// It is reached by IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.host.is_none_or(|host| host.is_ipv6())
    }

    /// It is reached by the family of this address.
    pub fn has_family_of(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.has_ipv4(),
            IpAddr::V6(_) => self.has_ipv6(),
        }
    }

    /// It is on a loopback address: a matter of the splice alone, of which no rule of the firewall knows.
    pub fn is_loopback(&self) -> bool {
        self.host.is_some_and(|host| host.is_loopback())
    }

    /// Both are of the same port of the same address.
    pub fn is_same_as(&self, other: &Port) -> bool {
        (self.protocol, self.host_port) == (other.protocol, other.host_port) && self.collides(other)
    }

    /// Both would be reached by the same port of the same address.
    fn collides(&self, other: &Port) -> bool {
        let (ours, theirs) = (self.address(), other.address());
        let same_family =
            (self.has_ipv4() && other.has_ipv4()) || (self.has_ipv6() && other.has_ipv6());
        same_family && (ours.is_none() || theirs.is_none() || ours == theirs)
    }
}

/// Ports that follow one another: what one `-p` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// As [`Port::host`].
    pub host: Option<IpAddr>,
    /// The first of the host's ports; 0: any that are free, each for itself.
    pub host_port: u16,
    /// The first of the container's ports.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

impl Range {
    /// One by one.
    pub fn ports(self) -> impl Iterator<Item = Port> {
        (0..self.count).map(move |at| Port {
            host: self.host,
            host_port: if self.host_port == 0 {
                0
            } else {
                self.host_port + at
            },
            port: self.port + at,
            protocol: self.protocol,
        })
    }

    /// Whether a port is among them; with free ports of the host, whichever it got.
    pub fn has(&self, port: &Port) -> bool {
        let at = port.port.wrapping_sub(self.port);
        let same_host_port =
            self.host_port == 0 || port.host_port == self.host_port.wrapping_add(at);
        at < self.count
            && same_host_port
            && port.host == self.host
            && port.protocol == self.protocol
    }

    /// The same port is its next one.
    fn is_followed_by(&self, port: &Port) -> bool {
        let next = |first: u16| first.checked_add(self.count);
        self.host_port != 0
            && next(self.host_port) == Some(port.host_port)
            && next(self.port) == Some(port.port)
            && (self.host, self.protocol) == (port.host, port.protocol)
    }
}

impl From<Port> for Range {
    fn from(port: Port) -> Self {
        Range {
            host: port.host,
            host_port: port.host_port,
            port: port.port,
            count: 1,
            protocol: port.protocol,
        }
    }
}

/// Ports as the fewest ranges, in their order.
pub fn ranges(ports: impl IntoIterator<Item = Port>) -> Vec<Range> {
    let mut all: Vec<Range> = Vec::new();
    for port in ports {
        match all.last_mut() {
            Some(last) if last.is_followed_by(&port) => last.count += 1,
            _ => all.push(port.into()),
        }
    }
    all
}

/// A container reaches itself by its own ports: where frames on bridges pass by the host's firewall
/// (`bridge-nf-call-iptables`, which somebody may switch on at any time) they are rewritten on the bridge, which then has to
/// send them back by the port that they came from.
///
/// # Errors
/// What the kernel says.
pub fn let_back<'a>(
    route: &mut Netlink,
    attachment: &Attachment,
    ports: impl IntoIterator<Item = &'a Port>,
) -> error::Result<()> {
    let is_bridged = attachment.network.bridge.is_some();
    if !is_bridged || ports.into_iter().all(Port::is_loopback) {
        return Ok(());
    }
    veth::let_back(route, &attachment.veth, &attachment.network).map_err(|error| {
        let cure = "the container has ended, or has deleted its link";
        error.cure(nix::errno::Errno::ENODEV, cure)
    })
}

/// Refuses a port that is reached by an IPv6 address only, and would lead to a container that has none: addresses are
/// rewritten within a family. (The splice connects anew, and knows no such bounds.)
///
/// # Errors
/// It is one.
pub fn check_family(port: &Port, container: Option<Ipv6Addr>) -> error::Result<()> {
    if container.is_some() || port.has_ipv4() || port.is_loopback() {
        return Ok(());
    }
    Err(Error::new(format!(
        "publish {port}: the container has no IPv6 address; name an IPv4 address of the host, or none"
    )))
}

/// The first port that is reached by the same port of the same address as another one before it.
pub fn first_collision(ports: &[Port]) -> Option<Port> {
    let mut seen: BTreeMap<(Protocol, u16), Vec<Port>> = BTreeMap::new();
    ports
        .iter()
        .filter(|port| port.host_port != 0)
        .copied()
        .find(|port| {
            let others = seen.entry((port.protocol, port.host_port)).or_default();
            let collides = others.iter().any(|other| port.collides(other));
            others.push(*port);
            collides
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Range, String> {
        text.parse()
    }

    #[test]
    fn ranges_are_ports_and_ports_are_ranges() {
        let all: Vec<Port> = [
            "8000-8002:80-82",
            "8003:83",
            "9000:1/udp",
            "127.0.0.1:9001:2/udp",
            "5-6",
        ]
        .iter()
        .flat_map(|text| parse(text).unwrap().ports())
        .collect();
        assert_eq!(all.len(), 8);
        assert_eq!(all[2].to_string(), "8002:82/tcp");
        assert_eq!(all[7].to_string(), "6/tcp");
        let text: Vec<String> = ranges(all).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "8000-8003:80-83/tcp",
                "9000:1/udp",
                "127.0.0.1:9001:2/udp",
                "5/tcp",
                "6/tcp"
            ]
        );
        assert_eq!(ranges(parse("1-65535:1-65535").unwrap().ports()).len(), 1);
    }

    #[test]
    fn a_range_has_its_ports() {
        let has = |range: &str, port: &str| {
            let port = parse(port).unwrap().ports().next().unwrap();
            parse(range).unwrap().has(&port)
        };
        assert!(has("8000-8002:80-82", "8001:81"));
        assert!(has("80-82", "1234:81"));
        for not in [
            "8001:82",
            "8003:83",
            "7999:79",
            "8001:81/udp",
            "127.0.0.1:8001:81",
        ] {
            assert!(!has("8000-8002:80-82", not), "{not}");
        }
    }

    #[test]
    fn collisions() {
        let first = |texts: &[&str]| {
            let all: Vec<Port> = texts
                .iter()
                .flat_map(|text| parse(text).unwrap().ports())
                .collect();
            first_collision(&all).map(|port| port.to_string())
        };
        assert_eq!(first(&["80:80", "81:80", "80:80/udp", "80", "80"]), None);
        assert_eq!(
            first(&["127.0.0.1:80:80", "127.0.0.2:80:80", "[::1]:80:80"]),
            None
        );
        assert_eq!(first(&["0.0.0.0:80:80", "[::]:80:80"]), None);
        assert_eq!(first(&["80:80", "79-81:1-3"]), Some("80:2/tcp".into()));
        assert_eq!(
            first(&["192.0.2.2:80:80", "80:81"]),
            Some("80:81/tcp".into())
        );
        assert_eq!(
            first(&["0.0.0.0:80:80", "192.0.2.2:80:81"]),
            Some("192.0.2.2:80:81/tcp".into())
        );
    }

    #[test]
    fn addresses_and_families() {
        let port = |text: &str| parse(text).unwrap().ports().next().unwrap();
        let every = port("80:80");
        assert!(
            every.has_ipv4()
                && every.has_ipv6()
                && every.address().is_none()
                && !every.is_loopback()
        );
        let every4 = port("0.0.0.0:80:80");
        assert!(every4.has_ipv4() && !every4.has_ipv6() && every4.address().is_none());
        let one6 = port("[2001:db8::2]:80:80");
        assert!(!one6.has_ipv4() && one6.has_ipv6() && one6.address() == one6.host);
        assert!(port("127.8.0.1:80:80").is_loopback() && port("[::1]:80:80").is_loopback());
    }
}
