//! What comes to a published port by 127.0.0.1 and ::1: the kernel cannot rewrite ::1, and for 127.0.0.1 it would take
//! `route_localnet`, which opens the host's loopback to its neighbours. So TCP connections are accepted here and joined
//! to new ones to the container, and UDP datagrams are relayed; the container sees the host's address.
//!
//! All of it hangs on one epoll(7) descriptor, which the supervisor's loop waits on among its others. Nothing here
//! blocks, nothing has a time-out, and whoever is slow holds up nobody else.

mod tcp;
mod udp;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::error::{Doing, Result};
use crate::publish::{Held, Port, Protocol, Range, raise_limit};
use crate::sys;
use tcp::Connections;
use udp::Flows;

/// How many descriptors connections and flows may take, and a few for everything else.
pub const DESCRIPTORS: usize = 2 * tcp::MOST + udp::MOST + 256;

/// What is looked at in one turn.
const EVENTS: usize = 64;
/// How long what has come is passed on when the container has ended, at most: as much as the sockets hold takes some ten milliseconds.
const LAST: Duration = Duration::from_secs(1);
/// How long it is waited meanwhile for clients that take nothing.
const PATIENCE: Duration = Duration::from_millis(100);
/// What is read at a time: no datagram is longer. On the stack, whose memory a supervisor at rest gives back.
const BUFFER: usize = 64 * 1024;

/// Where a published port leads to.
#[derive(Debug, Default)]
pub struct Target {
    /// The container's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The name of its link's host end, which leases them.
    pub link: String,
    /// Its number, which no other link gets.
    pub index: u32,
}

/// The container has deleted its link, and lives on: its addresses are whoever's who comes next.
struct Gone;

impl Target {
    /// Whether the addresses are still the container's: then they have been all the time. By any socket of the host's.
    fn check_link(&self, socket: &impl AsFd) -> std::result::Result<(), Gone> {
        match sys::link_index(socket.as_fd(), &self.link) {
            Ok(index) if index == self.index => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Where to connect to for a client, and where else when nobody listens there: its own family comes first, and a
    /// program that listens on one family only is reached by both.
    fn addresses(&self, client: IpAddr, port: u16) -> impl Iterator<Item = SocketAddr> {
        let ipv4 = self.ipv4.map(IpAddr::V4);
        let ipv6 = self.ipv6.map(IpAddr::V6);
        let both = if client.to_canonical().is_ipv4() {
            [ipv4, ipv6]
        } else {
            [ipv6, ipv4]
        };
        both.into_iter()
            .flatten()
            .map(move |address| SocketAddr::new(address, port))
    }
}

/// What an event is about: the kind, and the number among its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Held(u32),
    Client(u32),
    Container(u32),
    Flow(u32),
}

impl Token {
    fn event(self, events: EpollFlags) -> EpollEvent {
        let (kind, at) = match self {
            Token::Held(at) => (0, at),
            Token::Client(at) => (1, at),
            Token::Container(at) => (2, at),
            Token::Flow(at) => (3, at),
        };
        EpollEvent::new(events, kind << 32 | u64::from(at))
    }

    fn of(event: &EpollEvent) -> Token {
        let at = event.data() as u32;
        match event.data() >> 32 {
            0 => Token::Held(at),
            1 => Token::Client(at),
            2 => Token::Container(at),
            _ => Token::Flow(at),
        }
    }
}

/// The published ports of a container, and what comes to them by the host's loopback.
#[derive(Default)]
pub struct Splice {
    epoll: Option<Epoll>,
    target: Target,
    held: Vec<Option<Held>>,
    connections: Connections,
    flows: Flows,
}

impl Splice {
    /// Of a container with these addresses.
    pub fn new(target: Target) -> Splice {
        Splice {
            target,
            ..Splice::default()
        }
    }

    /// Takes over ports.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn add(&mut self, held: Vec<Held>) -> Result<()> {
        let doing = || "watch published ports".to_string();
        if held.is_empty() {
            return Ok(());
        }
        let epoll = match self.epoll.take() {
            Some(epoll) => epoll,
            None => Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(doing)?,
        };
        let epoll = self.epoll.insert(epoll);
        let all = self.held.iter().flatten().chain(&held);
        raise_limit(all.map(Held::descriptors).sum::<usize>() + DESCRIPTORS);
        if held.iter().any(|one| one.port.protocol == Protocol::Tcp) {
            self.connections.keep_spare().doing(doing)?;
        }
        let mut free = (0..self.held.len()).filter(|at| self.held[*at].is_none());
        let places: Vec<usize> = free.by_ref().take(held.len()).collect();
        let end = self.held.len();
        for (at, one) in places.into_iter().chain(end..).zip(held) {
            if one.port.protocol != Protocol::Sctp {
                let token = Token::Held(at as u32);
                epoll
                    .add(&one.socket, token.event(EpollFlags::EPOLLIN))
                    .doing(doing)?;
            }
            if at == self.held.len() {
                self.held.push(None);
            }
            self.held[at] = Some(one);
        }
        Ok(())
    }

    /// Lets go of ports. Connections by them go on; datagrams do not.
    pub fn remove(&mut self, ports: &BTreeSet<Port>) {
        for at in 0..self.held.len() {
            let is_one = |held: &Held| ports.contains(&held.port);
            if self.held[at].as_ref().is_some_and(is_one) {
                self.held[at] = None;
                self.flows.forget(at as u32);
            }
        }
    }

    /// Passes on what has come, as far as somebody takes it, and cuts all connections off. Nobody new is let in, but the ports stay taken.
    pub fn finish(&mut self) {
        self.close_doors();
        let end = Instant::now() + LAST;
        while Instant::now() < end && (self.pass_on().unwrap_or(false) || self.has_takers()) {}
        self.connections.cut();
    }

    /// Whoever comes from here on is not heard: that the container's link is gone would be found out, and that cuts off the others.
    fn close_doors(&self) {
        let Some(epoll) = &self.epoll else { return };
        let mut heard = self.held.iter().flatten().collect::<Vec<_>>();
        heard.retain(|held| held.port.protocol != Protocol::Sctp);
        for held in heard {
            // Refused: then they are cut off.
            let _ = epoll.delete(&held.socket);
        }
    }

    /// Waits until somebody takes more who has taken no more before. False: there is nobody, or nobody does.
    fn has_takers(&self) -> bool {
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
        self.descriptor()
            .filter(|_| self.connections.is_any_held_up())
            .is_some_and(|epoll| {
                let mut fds = [PollFd::new(epoll, PollFlags::POLLIN)];
                sys::again(|| poll(&mut fds, timeout)).is_ok_and(|ready| ready > 0)
            })
    }

    /// Lets go of everything.
    pub fn let_go(&mut self) {
        self.connections.cut();
        *self = Splice::new(std::mem::take(&mut self.target));
    }

    /// The ports, in the order in which they were published (those that came later may be in the place of one that
    /// has gone).
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.held.iter().flatten().map(|held| held.port)
    }

    /// Those of a range.
    pub fn ports_of(&self, range: Range) -> Vec<Port> {
        self.ports().filter(|port| range.has(port)).collect()
    }

    /// Readable when there is something to do.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.0.as_fd())
    }

    /// Does what can be done now, a part of it at a time.
    pub fn turn(&mut self) {
        if let Err(Gone) = self.pass_on() {
            // Nobody is to come by them any more. The container may have ended a moment ago: what it has sent is delivered.
            self.finish();
            self.let_go();
        }
    }

    /// The same; false: there was nothing. Never part of its caller, whose stack it would be.
    #[inline(never)]
    fn pass_on(&mut self) -> std::result::Result<bool, Gone> {
        let Some(epoll) = &self.epoll else {
            return Ok(false);
        };
        let target = &self.target;
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut buffer = [0; BUFFER];
        let ready = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..ready] {
            match Token::of(event) {
                Token::Held(at) => {
                    let Some(Some(held)) = self.held.get(at as usize) else {
                        continue;
                    };
                    if held.port.protocol == Protocol::Tcp {
                        self.connections.accept(epoll, held, target)?;
                    } else {
                        self.flows.receive(epoll, at, held, target, &mut buffer)?;
                    }
                }
                Token::Client(at) | Token::Container(at) => {
                    self.connections.go_on(epoll, at, target, &mut buffer);
                }
                Token::Flow(at) => {
                    self.flows
                        .answer(epoll, at, &self.held, target, &mut buffer);
                }
            }
        }
        Ok(ready > 0)
    }
}
