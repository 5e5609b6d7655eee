//! Whom a container may reach: `--isolate`, `--internal`, `--connect`, `--egress`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::link::is_link_local;
use crate::publish::Protocol;

/// Whom a container may reach, beyond what its network says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Neither reaches its neighbours nor is reached by them.
    pub isolated: bool,
    /// Reaches nothing outside its network.
    pub internal: bool,
    /// Names of other networks that it reaches, and is reached from.
    pub connect: Vec<String>,
    /// What it may open connections to.
    pub egress: Egress,
}

impl Reach {
    /// It may not open every connection.
    pub fn is_limited(&self) -> bool {
        self.internal || self.is_routed()
    }

    /// Packets to its neighbours go by the host, which knows what it may.
    pub fn is_routed(&self) -> bool {
        self.isolated || self.egress != Egress::All
    }
}

/// `--egress`: what a container may open connections to, the host itself included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Egress {
    /// Everything.
    #[default]
    All,
    /// What is listed; nothing, when nothing is.
    Only(Vec<Allowed>),
}

/// One entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// The resolvers of its resolv.conf, port 53 of UDP and TCP.
    Resolvers,
    /// These addresses, at every port.
    Addresses(IpNet),
    /// One port of these addresses.
    Port(IpNet, Protocol, u16),
}

impl FromStr for Egress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Egress::All),
            "none" => Ok(Egress::Only(Vec::new())),
            list => {
                let parts: Result<Vec<Vec<Allowed>>, String> =
                    list.split(',').map(parse_entry).collect();
                Ok(Egress::Only(parts?.concat()))
            }
        }
    }
}

/// One entry; one without an address is one for each family.
fn parse_entry(text: &str) -> Result<Vec<Allowed>, String> {
    const FORM: &str = "write none, all, or a list of dns, ADDR/LEN, [ADDR/LEN]:PORT[/PROTO]";
    if text == "dns" {
        return Ok(vec![Allowed::Resolvers]);
    }
    // Two of them begin an IPv6 address.
    let port = text.strip_prefix(':');
    if let Some(port) = port.filter(|port| !port.starts_with(':')) {
        let (protocol, port) = parse_port(port)?;
        let anywhere = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
        ];
        return Ok(anywhere
            .map(|net| Allowed::Port(net, protocol, port))
            .to_vec());
    }
    let Some((address, rest)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => format!(
                "{text} has no length; write {address}/{} for this address alone",
                if address.is_ipv4() { 32 } else { 128 }
            ),
            Err(_) => format!("{text:?} is no rule; {FORM}"),
        });
    };
    let (length, port) = match rest.split_once(':') {
        Some((length, port)) => (length, Some(parse_port(port)?)),
        None => (rest, None),
    };
    // In brackets, as an IPv6 address before a port is often written.
    let address = address
        .strip_prefix('[')
        .map_or(address, |address| address.trim_end_matches(']'));
    let net: IpNet = format!("{address}/{}", length.trim_end_matches(']'))
        .parse()
        .map_err(|_| format!("{text:?} is no rule; {FORM}"))?;
    if net.addr() != net.network() {
        return Err(format!(
            "{text} has host bits set: its network is {}",
            net.trunc()
        ));
    }
    if is_link_local(net.addr()) {
        return Err(format!(
            "{text} is link-local: the host passes nothing on to such addresses, and what is on the link is reached by its other one"
        ));
    }
    Ok(vec![match port {
        Some((protocol, port)) => Allowed::Port(net, protocol, port),
        None => Allowed::Addresses(net),
    }])
}

fn parse_port(text: &str) -> Result<(Protocol, u16), String> {
    let (port, protocol) = match text.split_once('/') {
        Some((port, "tcp")) => (port, Protocol::Tcp),
        Some((port, "udp")) => (port, Protocol::Udp),
        Some((port, "sctp")) => (port, Protocol::Sctp),
        Some((_, other)) => return Err(format!("{other:?} is no protocol: tcp, udp or sctp")),
        None => (text, Protocol::Tcp),
    };
    match port.parse() {
        Ok(port) if port != 0 && !text.starts_with('+') => Ok((protocol, port)),
        _ => Err(format!("{port:?} is no port: 1 to 65535")),
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Allowed::Resolvers => write!(f, "dns"),
            Allowed::Addresses(net) => write!(f, "{net}"),
            Allowed::Port(net, protocol, port) => write!(f, "{net}:{port}/{}", protocol.name()),
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Egress::All => write!(f, "all"),
            Egress::Only(list) if list.is_empty() => write!(f, "none"),
            Egress::Only(list) => {
                let words: Vec<String> = list.iter().map(ToString::to_string).collect();
                write!(f, "{}", words.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match text.parse::<Egress>() {
            Ok(egress) => egress.to_string(),
            Err(why) => format!("! {why}"),
        }
    }

    #[test]
    fn lists() {
        for (text, read_as) in [
            ("all", "all"),
            ("none", "none"),
            ("dns", "dns"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1/32:443", "192.0.2.1/32:443/tcp"),
            ("192.0.2.1/32:53/udp,dns", "192.0.2.1/32:53/udp,dns"),
            (":443", "0.0.0.0/0:443/tcp,::/0:443/tcp"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::/32:443", "2001:db8::/32:443/tcp"),
            ("[2001:db8::/32]:443", "2001:db8::/32:443/tcp"),
            ("[2001:db8::]/32:443", "2001:db8::/32:443/tcp"),
            ("::/0", "::/0"),
            ("0.0.0.0/0,::/0:443", "0.0.0.0/0,::/0:443/tcp"),
            ("::2:0:0:0/80:53/udp", "::2:0:0:0/80:53/udp"),
        ] {
            assert_eq!(read(text), read_as, "{text}");
            // As it is kept of an attachment.
            assert_eq!(read(read_as), read_as);
        }
        for bad in [
            "",
            "everything",
            "192.0.2.1",
            "192.0.2.1:443",
            "192.0.2.1/24",
            "192.0.2.0/33",
            "192.0.2.0/24:0",
            "192.0.2.0/24:65536",
            "192.0.2.0/24:+1",
            "192.0.2.0/24:1/icmp",
            "dns,",
            "all,dns",
            ":",
            "::",
            "::/0:",
        ] {
            assert!(read(bad).starts_with('!'), "{bad}: {}", read(bad));
        }
    }
}
