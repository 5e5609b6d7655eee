//! Ports as text: `[ADDR:][HOSTPORT:]PORT[/tcp|udp|sctp]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Port, Protocol, Range};

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        Range::from(*self).fmt(f)
    }
}

impl fmt::Display for Range {
    /// As `-p` wants it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let several = |f: &mut fmt::Formatter, first: u16| match self.count {
            0 | 1 => write!(f, "{first}"),
            count => write!(f, "{first}-{}", first.saturating_add(count - 1)),
        };
        match self.host {
            Some(IpAddr::V4(host)) => write!(f, "{host}:")?,
            Some(IpAddr::V6(host)) => write!(f, "[{host}]:")?,
            None => {}
        }
        if self.host_port != 0 {
            several(f, self.host_port)?;
            write!(f, ":")?;
        }
        several(f, self.port)?;
        write!(f, "/{}", self.protocol.name())
    }
}

impl FromStr for Range {
    type Err = String;

    /// Reads `[ADDR:][HOSTPORT:]PORT[/PROTOCOL]`. The error is the cause alone.
    fn from_str(text: &str) -> Result<Range, String> {
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::default()),
            Some((ports, name)) => (ports, parse_protocol(name)?),
        };
        let (host, ports) = split_host(ports)?;
        let host = host.map(parse_host).transpose()?;
        let (host_ports, ports) = match ports.split_once(':') {
            None => ("", ports),
            Some(both) => both,
        };
        let (port, last) = parse_ports(ports)?;
        let host_port = if host_ports.is_empty() {
            0
        } else {
            let (first, host_last) = parse_ports(host_ports)?;
            if host_last - first != last - port {
                return Err(format!(
                    "{host_ports} are {} ports of the host, and {ports} are {} of the container",
                    u32::from(host_last - first) + 1,
                    u32::from(last - port) + 1
                ));
            }
            first
        };
        if protocol == Protocol::Sctp && host.is_some_and(|host| host.is_loopback()) {
            return Err("SCTP is not forwarded from a loopback address".into());
        }
        Ok(Range {
            host,
            host_port,
            port,
            // 1 to 65535 are 65535.
            count: last - port + 1,
            protocol,
        })
    }
}

/// Reads the name of a protocol.
///
/// # Errors
/// It is none of them.
pub fn parse_protocol(name: &str) -> Result<Protocol, String> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.name() == name)
        .ok_or_else(|| format!("{name}: not one of tcp, udp, sctp"))
}

/// The address in front, and the rest, which has one colon at most.
fn split_host(text: &str) -> Result<(Option<&str>, &str), String> {
    const FORM: &str = "write it as [ADDR:][HOSTPORT:]PORT[/tcp|udp|sctp]";
    let (host, rest) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("[ without ]")?;
        (Some(host), rest.strip_prefix(':').ok_or(FORM)?)
    } else {
        match text.split_once(':') {
            Some((host, rest)) if host.contains('.') || rest.contains(':') => (Some(host), rest),
            _ => (None, text),
        }
    };
    if rest.matches(':').count() > 1 {
        return Err(
            if host.is_some_and(|host| host.parse::<Ipv4Addr>().is_ok()) {
                FORM.into()
            } else {
                "an IPv6 address is written in brackets: [2001:db8::2]:8080:80".into()
            },
        );
    }
    Ok((host, rest))
}

/// Reads an address of the host that a port may be published on.
///
/// # Errors
/// It is none.
pub fn parse_host(text: &str) -> Result<IpAddr, String> {
    let host: IpAddr = text
        .parse()
        .map_err(|_| format!("{text}: not an address of the host"))?;
    let host = host.to_canonical();
    let is_link_local = |host: Ipv6Addr| host.segments()[0] & 0xffc0 == 0xfe80; // RFC 4291
    match host {
        IpAddr::V6(host) if is_link_local(host) => Err(format!(
            "{host}: a link-local address means nothing without its link; name another address"
        )),
        host if host.is_multicast() || host == IpAddr::V4(Ipv4Addr::BROADCAST) => {
            Err(format!("{host}: not an address of one host"))
        }
        host => Ok(host),
    }
}

/// `N` or `N-M`: the first and the last.
fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u16>() {
            Ok(port) if port > 0 && is_number => Ok(port),
            _ if is_number => Err(format!("port {text}: a port is 1 to 65535")),
            _ => Err(format!("{text:?}: not a port")),
        }
    };
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{first}-{last}: the first port is after the last"));
            }
            Ok((first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Range, String> {
        text.parse()
    }

    #[test]
    fn what_is_written_is_read_and_written_again() {
        for (text, again) in [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("5000:5000/sctp", "5000:5000/sctp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:80/tcp"),
            ("127.0.0.1:80", "127.0.0.1:80/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080:80/tcp"),
            ("[::1]:8080:80/tcp", "[::1]:8080:80/tcp"),
            ("[::1]::80", "[::1]:80/tcp"),
            ("[::1]:80", "[::1]:80/tcp"),
            ("[2001:db8::2]:1-3:11-13/udp", "[2001:db8::2]:1-3:11-13/udp"),
            ("[::ffff:192.0.2.2]:1:1", "192.0.2.2:1:1/tcp"),
            ("8000-8003:80-83", "8000-8003:80-83/tcp"),
            ("80-83", "80-83/tcp"),
            ("1-65535:1-65535", "1-65535:1-65535/tcp"),
            ("7-7:80", "7:80/tcp"),
        ] {
            let read = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.to_string(), again, "{text}");
            assert_eq!(parse(again), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, cause) in [
            ("", "\"\": not a port"),
            ("x", "\"x\": not a port"),
            ("0", "port 0: a port is 1 to 65535"),
            ("0:80", "port 0: a port is 1 to 65535"),
            ("65536:80", "port 65536: a port is 1 to 65535"),
            ("80:99999", "port 99999: a port is 1 to 65535"),
            ("80:", "\"\": not a port"),
            ("+80:80", "\"+80\": not a port"),
            ("80:80/", ": not one of tcp, udp, sctp"),
            ("80:80/TCP", "TCP: not one of tcp, udp, sctp"),
            ("9-8:9-8", "9-8: the first port is after the last"),
            (
                "8000-8002:80-81",
                "8000-8002 are 3 ports of the host, and 80-81 are 2 of the container",
            ),
            (
                "8000-8002:80",
                "8000-8002 are 3 ports of the host, and 80 are 1 of the container",
            ),
            ("192.0.2:80:80", "192.0.2: not an address of the host"),
            ("example:80:80", "example: not an address of the host"),
            (
                "1.2.3.4:5:6:7",
                "write it as [ADDR:][HOSTPORT:]PORT[/tcp|udp|sctp]",
            ),
            (
                "::1:80:80",
                "an IPv6 address is written in brackets: [2001:db8::2]:8080:80",
            ),
            (
                "2001:db8::2:80:80",
                "an IPv6 address is written in brackets: [2001:db8::2]:8080:80",
            ),
            ("[::1:80:80", "[ without ]"),
            (
                "[::1]80",
                "write it as [ADDR:][HOSTPORT:]PORT[/tcp|udp|sctp]",
            ),
            (
                "[fe80::1]:80:80",
                "fe80::1: a link-local address means nothing without its link; name another address",
            ),
            ("224.0.0.1:80:80", "224.0.0.1: not an address of one host"),
            (
                "255.255.255.255:80:80",
                "255.255.255.255: not an address of one host",
            ),
            (
                "127.0.0.1:80:80/sctp",
                "SCTP is not forwarded from a loopback address",
            ),
        ] {
            assert_eq!(parse(text), Err(cause.into()), "{text}");
        }
    }
}
