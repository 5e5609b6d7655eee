//! A port of a protocol that no socket of this kernel could be bound to, or not when some of its publishers came: between publishers, a
//! name in the abstract namespace of unix(7) is held as well, which lives and dies like a port, and in the same network namespace.
//!
//! Of two that bind the same name at the same moment the kernel settles which one has it. Names that differ may mean the
//! same port all the same: that of all addresses, and that of one. So whoever has bound looks at all others then; of two at the
//! same moment each may see the other, and none has it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, socket,
};

use super::Port;

/// What names begin with.
const PREFIX: &str = "hawser/";
/// What stands for every address of both families.
const EVERY: &str = "*";

/// A port that somebody has reserved.
pub struct Reserved {
    /// Which; of whose port of the container is not said.
    pub port: Port,
    /// Of the socket.
    pub inode: u64,
}

/// Whether the kernel has SCTP sockets now. To ask by making one would load the module.
pub fn has_sockets() -> bool {
    fs::exists("/proc/net/sctp").unwrap_or(false)
}

/// Binds the name of a port, one that is free for 0. [`collision`] has still to be asked.
///
/// # Errors
/// `EADDRINUSE`; what a socket of the host's address would be refused with.
pub fn reserve(port: Port) -> nix::Result<(OwnedFd, u16)> {
    if let Some(host) = port.host {
        check_address(host)?;
    }
    if port.host_port != 0 {
        return bind_name(&port).map(|socket| (socket, port.host_port));
    }
    let others = all();
    for _ in 0..100 {
        let host_port = ephemeral_port();
        let port = Port { host_port, ..port };
        if others.iter().any(|other| other.port.is_same_as(&port)) {
            continue;
        }
        match bind_name(&port) {
            Err(Errno::EADDRINUSE) => {}
            bound => return bound.map(|socket| (socket, host_port)),
        }
    }
    Err(Errno::EADDRINUSE)
}

/// The first of the ports, whose names are bound, that somebody else has by another name.
pub fn collision(ports: &[Port]) -> Option<Port> {
    let mut others: BTreeMap<u16, Vec<Port>> = BTreeMap::new();
    for Reserved { port, .. } in all() {
        others.entry(port.host_port).or_default().push(port);
    }
    let is_taken = |port: &&Port| {
        let same_port = others.get(&port.host_port).into_iter().flatten();
        let mut others = same_port.filter(|other| other.host != port.host);
        others.any(|other| other.is_same_as(port))
    };
    ports.iter().find(is_taken).copied()
}

/// All that are reserved in this network namespace.
pub fn all() -> Vec<Reserved> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    text.lines().filter_map(parse_line).collect()
}

/// `NUM: REFERENCES PROTOCOL FLAGS TYPE STATE INODE NAME`, where `@` stands for the byte 0.
fn parse_line(line: &str) -> Option<Reserved> {
    let mut words = line.split_whitespace();
    let name = words.next_back()?.strip_prefix('@')?.strip_prefix(PREFIX)?;
    let inode = words.next_back()?.parse().ok()?;
    let (protocol, rest) = name.split_once('/')?;
    let (host, host_port) = rest.rsplit_once('/')?;
    let port = Port {
        host: match host {
            EVERY => None,
            host => Some(host.parse().ok()?),
        },
        host_port: host_port.parse().ok()?,
        port: 0,
        protocol: super::parse_protocol(protocol).ok()?,
    };
    Some(Reserved { port, inode })
}

fn bind_name(port: &Port) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let host = port
        .host
        .map_or_else(|| EVERY.to_string(), |host| host.to_string());
    let name = format!("{PREFIX}{}/{host}/{}", port.protocol.name(), port.host_port);
    let name = UnixAddr::new_abstract(name.as_bytes())?;
    bind(socket.as_raw_fd(), &name)?;
    Ok(socket)
}

/// The host has it: a socket of any protocol can be bound to it.
fn check_address(host: IpAddr) -> nix::Result<()> {
    let family = match host {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let probe = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let any_port = SockaddrStorage::from(SocketAddr::new(host, 0));
    bind(probe.as_raw_fd(), &any_port)
}

fn ephemeral_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let mut bounds = range
        .iter()
        .flat_map(|range| range.split_whitespace())
        .filter_map(|bound| bound.parse::<u16>().ok());
    let first = bounds.next().unwrap_or(32768);
    let last = bounds.next().unwrap_or(60999).max(first);
    let count = u32::from(last - first) + 1;
    first + (crate::sys::random_u32() % count) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ports() {
        let read = |name: &str| {
            let line = format!("0000000000000000: 00000002 00000000 00000000 0002 01 4711 {name}");
            parse_line(&line).map(|found| {
                assert_eq!(found.inode, 4711);
                (found.port.host, found.port.host_port)
            })
        };
        assert_eq!(read("@hawser/sctp/*/80"), Some((None, 80)));
        let one = |host: &str| Some((Some(host.parse().unwrap()), 80));
        for host in ["0.0.0.0", "::", "192.0.2.2", "2001:db8::2"] {
            assert_eq!(read(&format!("@hawser/sctp/{host}/80")), one(host));
        }
        for other in [
            "hawser/sctp/*/80",
            "@hawser/closing",
            "@hawser/sctp/*/",
            "@hawser/x/*/80",
            "@other",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
        assert!(parse_line("Num       RefCount Protocol Flags    Type St Inode Path").is_none());
    }
}
