//! UDP: each client has a socket of its own to the container, so that answers find their way back. Their number is
//! bounded; who has been silent longest makes room for who is new.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};

use super::{Gone, Target, Token};
use crate::publish::Held;

/// How many clients there are at a time.
pub const MOST: usize = 512;
/// How many datagrams come from one socket before it is the others' turn.
const AT_ONCE: usize = 64;

/// All clients.
#[derive(Default)]
pub struct Flows {
    all: Vec<Option<Flow>>,
    /// Goes on by one with each datagram.
    clock: u64,
}

/// Who has sent, and to which address of which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Client {
    port: u32,
    address: SocketAddr,
    host: IpAddr,
}

struct Flow {
    client: Client,
    socket: UdpSocket,
    /// Where else the container may listen.
    other: Option<SocketAddr>,
    used: u64,
}

impl Flows {
    /// Passes on what has come to port number `at`.
    pub fn receive(
        &mut self,
        epoll: &Epoll,
        at: u32,
        held: &Held,
        target: &Target,
        buffer: &mut [u8],
    ) -> Result<(), Gone> {
        for _ in 0..AT_ONCE {
            let Some((length, address, host)) = receive_one(held, buffer) else {
                return Ok(());
            };
            target.check_link(&held.socket)?;
            let client = Client {
                port: at,
                address,
                host,
            };
            if let Some(at) = self.flow(epoll, client, held.port.port, target) {
                if let Some(Some(flow)) = self.all.get_mut(at as usize) {
                    flow.used = self.clock;
                    flow.send(epoll, at, &buffer[..length]);
                }
            }
        }
        Ok(())
    }

    fn flow(&mut self, epoll: &Epoll, client: Client, port: u16, target: &Target) -> Option<u32> {
        self.clock += 1;
        // So few that to look at all of them takes less than the datagram's way.
        let is_its = |flow: &Option<Flow>| flow.as_ref().is_some_and(|flow| flow.client == client);
        match self.all.iter().position(is_its) {
            Some(at) => Some(at as u32),
            None => self.open(epoll, client, port, target),
        }
    }

    fn open(&mut self, epoll: &Epoll, client: Client, port: u16, target: &Target) -> Option<u32> {
        // Most programs listen on IPv4, or on both; one that does not costs its client the first datagram.
        let mut addresses = target.addresses(Ipv4Addr::LOCALHOST.into(), port);
        let socket = addresses.find_map(|address| connect(address).ok())?;
        let at = self.place();
        let event = Token::Flow(at).event(EpollFlags::EPOLLIN);
        epoll.add(&socket, event).ok()?;
        self.all[at as usize] = Some(Flow {
            client,
            socket,
            other: addresses.next(),
            used: self.clock,
        });
        Some(at)
    }

    /// A free place; when there is none, that of who has been silent longest.
    fn place(&mut self) -> u32 {
        if let Some(at) = self.all.iter().position(Option::is_none) {
            return at as u32;
        }
        if self.all.len() < MOST {
            self.all.push(None);
            return self.all.len() as u32 - 1;
        }
        let used = |flow: &Option<Flow>| flow.as_ref().map_or(0, |flow| flow.used);
        let oldest = (0..self.all.len()).min_by_key(|at| used(&self.all[*at]));
        oldest.map_or(0, |at| at as u32)
    }

    /// Port number `at` is not published any more.
    pub fn forget(&mut self, port: u32) {
        for flow in &mut self.all {
            flow.take_if(|flow| flow.client.port == port);
        }
        if self.all.iter().all(Option::is_none) {
            *self = Flows::default();
        }
    }

    /// Passes on what the container has answered to client number `at`.
    pub fn answer(
        &mut self,
        epoll: &Epoll,
        at: u32,
        held: &[Option<Held>],
        target: &Target,
        buffer: &mut [u8],
    ) {
        let Some(Some(flow)) = self.all.get_mut(at as usize) else {
            return;
        };
        let Some(Some(held)) = held.get(flow.client.port as usize) else {
            return;
        };
        self.clock += 1;
        flow.used = self.clock;
        for _ in 0..AT_ONCE {
            match flow.socket.recv(buffer) {
                Ok(length) if target.check_link(&held.socket).is_ok() => {
                    send_one(held, &flow.client, &buffer[..length]);
                }
                Ok(_) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    flow.try_other(epoll, at);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl Flow {
    /// The container said that nobody listens there.
    fn try_other(&mut self, epoll: &Epoll, at: u32) {
        let before = self.socket.peer_addr().ok();
        if let Some(other) = self.other.and_then(|other| connect(other).ok()) {
            let event = Token::Flow(at).event(EpollFlags::EPOLLIN);
            if epoll.add(&other, event).is_ok() {
                self.socket = other;
                // Who begins to listen there only now is found as well.
                self.other = before;
            }
        }
    }

    fn send(&mut self, epoll: &Epoll, at: u32, datagram: &[u8]) {
        // A refusal is about one that was sent before.
        if let Err(error) = self.socket.send(datagram) {
            if error.kind() == ErrorKind::ConnectionRefused {
                self.try_other(epoll, at);
                // UDP may lose what it carries.
                let _ = self.socket.send(datagram);
            }
        }
    }
}

fn connect(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    Ok(socket)
}

/// One datagram, from whom, and to which address of the host.
fn receive_one(held: &Held, datagram: &mut [u8]) -> Option<(usize, SocketAddr, IpAddr)> {
    let mut slices = [IoSliceMut::new(datagram)];
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let message = recvmsg::<SockaddrStorage>(
        held.socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .ok()?;
    let from = message.address?;
    let from = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(from), _) => SocketAddr::V4((*from).into()),
        (_, Some(from)) => SocketAddr::V6((*from).into()),
        _ => return None,
    };
    let host = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()))
        }
        _ => None,
    })?;
    Some((message.bytes, from, host))
}

/// Sends to a client, from the address that it has sent to. One that takes no more loses it, as with any UDP.
fn send_one(held: &Held, client: &Client, datagram: &[u8]) {
    let to = SockaddrStorage::from(client.address);
    let slices = [IoSlice::new(datagram)];
    let send = |control: ControlMessage| {
        let fd = held.socket.as_raw_fd();
        let _ = sendmsg(fd, &slices, &[control], MsgFlags::MSG_NOSIGNAL, Some(&to));
    };
    match client.host {
        IpAddr::V4(host) => send(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from(host).to_be(),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        })),
        IpAddr::V6(host) => send(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr {
                s6_addr: host.octets(),
            },
            ipi6_ifindex: 0,
        })),
    }
}
