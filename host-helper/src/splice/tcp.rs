//! TCP: two connections joined, each with its own pace. What one side has sent is looked at, handed to the other side,
//! and taken out of its socket as far as the other side has taken it: nothing is kept here, and the kernel's windows hold
//! up who sends too fast.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, accept4, connect,
    recv, setsockopt, socket, sockopt,
};

use super::{Gone, Target, Token};
use crate::publish::Held;
use crate::sys::release_spare;

/// How many connections there are at a time; further ones are reset.
pub const MOST: usize = 10_000;
/// How many buffers one side may fill before it is the others' turn.
const CHUNKS: usize = 4;
/// How many connections of a port are accepted before it is the others' turn.
const ACCEPTED: usize = 64;

/// All connections.
#[derive(Default)]
pub struct Connections {
    all: Vec<Option<Connection>>,
    free: Vec<u32>,
    /// Given up when there is no other descriptor left, to take a connection and reset it: it would make the port
    /// readable for ever.
    spare: Option<File>,
}

struct Connection {
    client: End,
    container: End,
    /// The container has not answered yet; where else it may listen.
    connecting: Option<Option<SocketAddr>>,
    up: Way,
    down: Way,
}

struct End {
    socket: TcpStream,
    /// What epoll tells us of; empty: nothing, not even that it has been hung up.
    interest: EpollFlags,
    /// The kernel has said so where we wrote, and says it once: who reads hears of an end like any other then.
    was_reset: bool,
}

/// One of the two directions.
#[derive(Default)]
struct Way {
    /// The other side takes no more for now.
    is_stalled: bool,
    /// Its end has been passed on, or nobody takes anything any more.
    is_over: bool,
}

/// The connection was reset.
struct Reset;

impl Connections {
    /// Sees to it that connections can be reset when no descriptor is left.
    ///
    /// # Errors
    /// None is left now.
    pub fn keep_spare(&mut self) -> std::io::Result<()> {
        if self.spare.is_none() {
            self.spare = Some(File::open("/dev/null")?);
        }
        Ok(())
    }

    /// Takes new connections to a port, and begins to join each to one to the container.
    pub fn accept(&mut self, epoll: &Epoll, held: &Held, target: &Target) -> Result<(), Gone> {
        target.check_link(&held.socket)?;
        let _ = self.keep_spare();
        for _ in 0..ACCEPTED {
            match accept_one(&held.socket) {
                Ok(client) if self.all.len() - self.free.len() < MOST => {
                    self.open(epoll, client, held.port.port, target);
                }
                Ok(client) => reset(&client),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.spare = None;
                    if let Ok(client) = accept_one(&held.socket) {
                        reset(&client);
                    }
                    // Nobody else has taken the place meanwhile.
                    let _ = self.keep_spare();
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn open(&mut self, epoll: &Epoll, client: TcpStream, port: u16, target: &Target) {
        // In TIME_WAIT it must not keep the port's next holder from binding it, whose socket has this set too.
        let _ = setsockopt(&client, sockopt::ReuseAddr, &true);
        let _ = client.set_nodelay(true);
        let Ok(peer) = client.peer_addr() else { return };
        let mut addresses = target.addresses(peer.ip(), port);
        let Some(container) = addresses.find_map(|address| begin_to_connect(address).ok()) else {
            return reset(&client);
        };
        let at = self.free.pop().unwrap_or(self.all.len() as u32);
        let mut connection = Connection {
            client: End::new(client),
            container: End::new(container),
            connecting: Some(addresses.next()),
            up: Way::default(),
            down: Way::default(),
        };
        if connection.listen_to_both(epoll, at).is_err() {
            self.free
                .extend((at as usize != self.all.len()).then_some(at));
            return reset(&connection.client.socket);
        }
        if at as usize == self.all.len() {
            if self.all.is_empty() {
                // At once, and at one place: what is not used costs nothing, and a heap that grew would keep holes.
                self.all.reserve(MOST);
                self.free.reserve(MOST);
            }
            self.all.push(None);
        }
        self.all[at as usize] = Some(connection);
    }

    /// Whether a client takes no more for now of what has come.
    pub fn is_any_held_up(&self) -> bool {
        self.all.iter().flatten().any(|one| one.down.is_stalled)
    }

    /// Closes all. Who has not heard of an end of the other side's hears that there was none.
    pub fn cut(&mut self) {
        for connection in std::mem::take(self).all.iter().flatten() {
            if !connection.down.is_over {
                reset(&connection.client.socket);
            }
            if !connection.up.is_over {
                reset(&connection.container.socket);
            }
        }
    }

    /// Passes on what can be passed on.
    pub fn go_on(&mut self, epoll: &Epoll, at: u32, target: &Target, buffer: &mut [u8]) {
        let Some(Some(connection)) = self.all.get_mut(at as usize) else {
            return;
        };
        let moved = connection.go_on(target, buffer);
        let listens = moved
            .as_ref()
            .is_ok_and(|()| connection.listen_to_both(epoll, at).is_ok());
        if !listens {
            reset(&connection.client.socket);
            reset(&connection.container.socket);
        }
        if !listens || connection.is_over() {
            self.all[at as usize] = None;
            self.free.push(at);
            if self.free.len() == self.all.len() {
                // The last one: a burst leaves no memory behind.
                self.all.clear();
                self.free.clear();
                release_spare(&mut self.all);
                release_spare(&mut self.free);
            }
        }
    }
}

impl Connection {
    fn go_on(&mut self, target: &Target, buffer: &mut [u8]) -> Result<(), Reset> {
        if let Some(other) = &mut self.connecting {
            match self.container.socket.take_error() {
                Ok(None) if self.container.socket.peer_addr().is_err() => return Ok(()),
                Ok(None) => {
                    // Who still has the link is who has answered.
                    let socket = &self.container.socket;
                    target.check_link(socket).map_err(|Gone| Reset)?;
                    let _ = socket.set_nodelay(true);
                    self.connecting = None;
                }
                _ => {
                    // Closed, and so out of epoll.
                    let begun = begin_to_connect(other.take().ok_or(Reset)?).map_err(|_| Reset)?;
                    self.container = End::new(begun);
                    return Ok(());
                }
            }
        }
        self.up.pump(&self.client, &mut self.container, buffer)?;
        self.down.pump(&self.container, &mut self.client, buffer)
    }

    fn is_over(&self) -> bool {
        self.up.is_over && self.down.is_over
    }

    fn listen_to_both(&mut self, epoll: &Epoll, at: u32) -> nix::Result<()> {
        let (mut client, mut container) = (EpollFlags::empty(), EpollFlags::empty());
        if self.connecting.is_some() {
            container = EpollFlags::EPOLLOUT;
        } else {
            client.set(EpollFlags::EPOLLIN, self.up.reads());
            client.set(EpollFlags::EPOLLOUT, self.down.is_stalled);
            container.set(EpollFlags::EPOLLIN, self.down.reads());
            container.set(EpollFlags::EPOLLOUT, self.up.is_stalled);
        }
        self.client.listen(epoll, Token::Client(at), client)?;
        self.container
            .listen(epoll, Token::Container(at), container)
    }
}

impl End {
    fn new(socket: TcpStream) -> End {
        End {
            socket,
            interest: EpollFlags::empty(),
            was_reset: false,
        }
    }

    /// A descriptor that nothing is wanted of leaves epoll: hung up, it would be reported for ever.
    fn listen(&mut self, epoll: &Epoll, token: Token, interest: EpollFlags) -> nix::Result<()> {
        if interest == self.interest {
            return Ok(());
        }
        let mut event = token.event(interest);
        if interest.is_empty() {
            epoll.delete(&self.socket)?;
        } else if self.interest.is_empty() {
            epoll.add(&self.socket, event)?;
        } else {
            epoll.modify(&self.socket, &mut event)?;
        }
        self.interest = interest;
        Ok(())
    }
}

impl Way {
    fn reads(&self) -> bool {
        !self.is_over && !self.is_stalled
    }

    /// Moves bytes until one of the two has no more, or takes no more, or has had its turn.
    fn pump(&mut self, from: &End, to: &mut End, buffer: &mut [u8]) -> Result<(), Reset> {
        self.is_stalled = false;
        for _ in 0..CHUNKS {
            if self.is_over {
                return Ok(());
            }
            let length = match from.socket.peek(buffer) {
                Ok(length) => length,
                Err(error) if is_passing(error.kind()) => return Ok(()),
                Err(_) => return Err(Reset),
            };
            if length == 0 && from.was_reset {
                return Err(Reset);
            }
            if length == 0 {
                let _ = to.socket.shutdown(Shutdown::Write);
                self.is_over = true;
                return Ok(());
            }
            match to.socket.write(&buffer[..length]) {
                Ok(taken) => {
                    discard(&from.socket, &mut buffer[..taken]);
                    self.is_stalled = taken < length;
                }
                Err(error) if is_passing(error.kind()) => self.is_stalled = true,
                // Nobody takes it any more. What comes the other way may still be of use.
                Err(error) => {
                    self.is_over = true;
                    // Not where it had ended before that, and in order (EPIPE).
                    to.was_reset = error.kind() != ErrorKind::BrokenPipe;
                }
            }
            if self.is_stalled {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Takes what has been passed on out of the socket: for TCP, MSG_TRUNC copies nothing (tcp(7)).
fn discard(from: &TcpStream, passed_on: &mut [u8]) {
    let mut left = passed_on.len();
    while left > 0 {
        match recv(
            from.as_raw_fd(),
            &mut passed_on[..left],
            MsgFlags::MSG_TRUNC,
        ) {
            Ok(0) | Err(_) => return,
            Ok(length) => left -= length.min(left),
        }
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn accept_one(listener: &OwnedFd) -> nix::Result<TcpStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    accept4(listener.as_raw_fd(), flags).map(|fd| crate::sys::adopt(fd).into())
}

fn begin_to_connect(address: SocketAddr) -> nix::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd.into()),
        Err(errno) => Err(errno),
    }
}

/// The next close(2) tells the other side that this was not the end.
fn reset(stream: &TcpStream) {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(&stream.as_fd(), sockopt::Linger, &now);
}
