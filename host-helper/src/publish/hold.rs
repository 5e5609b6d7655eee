//! Holding a port: a socket that is bound to it as long as the container lives, so that a second publisher, or a daemon
//! of the host, gets EADDRINUSE, and so do we.
//!
//! The socket answers nobody outside: it is bound to `lo` too, by device. What comes from elsewhere is the firewall's,
//! and where its rules have been flushed it finds no socket; `route_localnet`, which others set, does not lead to it.
//! TCP listens, because only listening settles between two that bind at the same moment, and because the splice takes
//! from it what comes by 127.0.0.1 and ::1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockname,
    setsockopt, socket, sockopt,
};

use super::{Port, Protocol, holder, reserved};
use crate::error::{Doing, Error, Result};

/// A port of the host that is ours as long as this lives.
pub struct Held {
    /// Which; its host port has been chosen.
    pub port: Port,
    /// Bound to it.
    pub socket: OwnedFd,
    /// Of SCTP: the name beside that socket.
    name: Option<OwnedFd>,
}

impl Held {
    /// How many it takes.
    pub fn descriptors(&self) -> usize {
        1 + usize::from(self.name.is_some())
    }
}

/// Binds all of them, or none. `netns`: the network namespace of a container whose runtime may hold its ports by itself: podman's conmon
/// does, from the container's start on, also when its network is made anew. What the parent of a process there has is no collision.
///
/// Before: nothing of the host has been changed for this container. Undone by dropping them.
///
/// # Errors
/// A port in use, by whom; an address that the host lacks; no more descriptors.
pub fn hold(ports: impl IntoIterator<Item = Port>, netns: Option<u64>) -> Result<Vec<Held>> {
    let ports = ports.into_iter().map(|port| hold_one(port, netns));
    let held: Vec<Held> = ports.collect::<Result<_>>()?;
    let ports = held.iter().map(|held| held.port);
    let named: Vec<Port> = ports
        .filter(|port| port.protocol == Protocol::Sctp)
        .collect();
    if named.is_empty() {
        return Ok(held);
    }
    match reserved::collision(&named) {
        Some(port) => {
            // Or it would be us who have it.
            drop(held);
            Err(holder::in_use(&port))
        }
        None => Ok(held),
    }
}

fn hold_one(port: Port, netns: Option<u64>) -> Result<Held> {
    let take = || match port.protocol {
        Protocol::Sctp => reserve_and_bind(port),
        _ => bind_socket(port).map(|(socket, host_port)| (socket, None, host_port)),
    };
    let bound = match take() {
        Err(Errno::EMFILE) => {
            raise_limit(0);
            take()
        }
        bound => bound,
    };
    if let Err(Errno::EADDRINUSE) = bound {
        if netns.is_none_or(|netns| !holder::is_held_for(&port, netns)) {
            return Err(holder::in_use(&port));
        }
        let flags = SockFlag::SOCK_CLOEXEC;
        let unbound = socket(AddressFamily::Inet, SockType::Datagram, flags, None);
        let socket = unbound.doing(|| format!("publish {port}"))?;
        return Ok(Held {
            port,
            socket,
            name: None,
        });
    }
    let (socket, name, host_port) = bound.doing(|| format!("publish {port}")).map_err(explain)?;
    if let Some(host) = port.host.filter(|host| is_broadcast(*host)) {
        return Err(Error::new(format!(
            "publish {port}: {host} is the broadcast address of a network of this host, to which nobody connects; name the host's own address there, or leave it out"
        )));
    }
    Ok(Held {
        port: Port { host_port, ..port },
        socket,
        name,
    })
}

/// The name of a port of SCTP, and the socket where the kernel has such sockets by now: who has published before that has the name alone.
fn reserve_and_bind(port: Port) -> nix::Result<(OwnedFd, Option<OwnedFd>, u16)> {
    /// How many free names may be ports that a daemon has.
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let (name, host_port) = reserved::reserve(port)?;
        if !reserved::has_sockets() {
            return Ok((name, None, host_port));
        }
        match bind_socket(Port { host_port, ..port }) {
            Err(Errno::EADDRINUSE) if port.host_port == 0 => {}
            bound => return bound.map(|(socket, _)| (socket, Some(name), host_port)),
        }
    }
    Err(Errno::EADDRINUSE)
}

/// The kernel lets sockets be bound to it, and refuses them the way there as long as they do not ask for broadcasts (ip(7)).
fn is_broadcast(host: IpAddr) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC;
    let probe = || -> nix::Result<()> {
        let probe = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        let there = SockaddrStorage::from(SocketAddr::new(host, 9)); // Nothing is sent.
        connect(probe.as_raw_fd(), &there)
    };
    host.is_ipv4() && probe() == Err(Errno::EACCES)
}

fn explain(error: Error) -> Error {
    error
        .cure(
            Errno::EADDRNOTAVAIL,
            "this host has no such address, or no free port",
        )
        .cure(Errno::EAFNOSUPPORT, "this host has no IPv6")
        .cure(
            Errno::EMFILE,
            "each port takes a descriptor; raise the hard limit (ulimit -Hn)",
        )
        .cure(Errno::EPERM, "run as root (sudo), or inside `unshare -rnm`")
}

fn bind_socket(port: Port) -> nix::Result<(OwnedFd, u16)> {
    let (kind, protocol) = match port.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let open = |family| socket(family, kind, flags, protocol);
    let unspecified = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let (socket, address) = match port.host.unwrap_or(unspecified) {
        IpAddr::V4(host) => (open(AddressFamily::Inet)?, IpAddr::V4(host)),
        IpAddr::V6(host) => match open(AddressFamily::Inet6) {
            Err(Errno::EAFNOSUPPORT) if port.host.is_none() => {
                (open(AddressFamily::Inet)?, Ipv4Addr::UNSPECIFIED.into())
            }
            opened => {
                let socket = opened?;
                setsockopt(&socket, sockopt::Ipv6V6Only, &port.host.is_some())?;
                (socket, IpAddr::V6(host))
            }
        },
    };
    // Connections of an earlier holder in TIME_WAIT are no reason to refuse. A free port is to be free of them. Of SCTP, where nobody
    // listens on these, it would let a second one in (sctp_get_port_local()).
    let reuses = port.protocol == Protocol::Tcp && port.host_port != 0;
    setsockopt(&socket, sockopt::ReuseAddr, &reuses)?;
    let wanted = SockaddrStorage::from(SocketAddr::new(address, port.host_port));
    bind(socket.as_raw_fd(), &wanted)?;
    if port.protocol != Protocol::Sctp {
        // Behind bind(2), so that it collides with whoever is bound to another device.
        setsockopt(&socket, sockopt::BindToDevice, &"lo".into())?;
    }
    match port.protocol {
        Protocol::Tcp => crate::sys::listen(&socket, BACKLOG)?,
        Protocol::Udp if address.is_ipv4() => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        Protocol::Udp => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        Protocol::Sctp => {}
    }
    // Off again, or a daemon that sets it could share the port.
    setsockopt(&socket, sockopt::ReuseAddr, &false)?;
    let bound: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let host_port = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
        (Some(bound), _) => bound.port(),
        (_, Some(bound)) => bound.port(),
        _ => port.host_port,
    };
    Ok((socket, host_port))
}

/// `net.core.somaxconn`'s default, which cuts it.
const BACKLOG: i32 = 4096;

/// Sees to it that so many descriptors may be open, or, for 0, twice as many as now. What cannot be raised is found when
/// there are no more. Of this process alone: the container has begun, and has its own limit.
pub fn raise_limit(needed: usize) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let needed = match needed {
        0 => soft.saturating_mul(2),
        needed => needed as u64,
    };
    if soft < needed && setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(needed), hard);
    }
}
