//! One netlink request function that knows the rules: sequence numbers, acknowledgements, EINTR, dumps that were
//! interrupted, the kernel's own sentence about an error. Every verb is data and one call.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hawser::netlink::{Attributes, HEADER, Message, Messages, Writer};
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols};
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

use crate::deadline;
use crate::error::Refusal;
use crate::link;
use crate::sys;

/// What an answer fits into: the kernel builds dump replies of at most 32 KiB (netlink(7)).
const ANSWER: usize = 32 * 1024;
/// What a request fits into at first, and at most.
const REQUEST: usize = 4 * 1024;
const LARGEST_REQUEST: usize = 16 * 1024 * 1024;
/// What a socket takes at one go by default (`net.core.wmem_default`), the kernel's own books included: half of it.
const USUAL_REQUEST: usize = 100 * 1024;

/// How often a dump that the kernel calls inconsistent (`NLM_F_DUMP_INTR`), or that others have changed meanwhile, is taken again at least; and
/// for how long.
const DUMP_TRIES: u8 = 16;
const DUMP_PATIENCE: Duration = Duration::from_secs(2);

/// How many ports are tried: there are 16 million.
const PORT_TRIES: u32 = 4;

/// A flag of a request as the message header has it.
pub const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
/// Asks for an acknowledgement.
pub const ACK: u16 = libc::NLM_F_ACK as u16;
/// Asks for all objects that fit.
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// A connection to one netlink family of the network namespace that it was made in.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// rtnetlink(7): links, addresses, routes, neighbours.
    pub fn route() -> Result<Self, Refusal> {
        let this = Self::open(protocols::NETLINK_ROUTE)?;
        // Filters in a dump's header are obeyed, not ignored: O(1) for "the addresses of this link". Linux 4.20.
        this.socket.set_netlink_get_strict_chk(true)?;
        Ok(this)
    }

    /// A socket of [`Netlink::route`] that came from another process of ours, which has sent nothing.
    pub fn handed_over(socket: OwnedFd) -> Self {
        Self::new(sys::netlink_socket(socket))
    }

    fn new(socket: Socket) -> Self {
        Netlink {
            socket,
            sequence: 0,
            buffer: Vec::new(),
        }
    }

    /// nf_tables, by its subsystem of netfilter's netlink. By the port, supervisors tell what we do from what others do.
    pub fn netfilter() -> Result<Self, Refusal> {
        let mut this = Self::unbound(protocols::NETLINK_NETFILTER)?;
        for _ in 0..PORT_TRIES {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let moment = since.map_or(0, |since| since.subsec_nanos());
            let port = u32::from(sys::OUR_PORTS) << 24 | moment & 0xff_ffff;
            match this
                .socket
                .bind(&SocketAddr::new(port, 0))
                .map_err(Refusal::from)
            {
                Err(refusal) if refusal.errno == Errno::EADDRINUSE => {}
                bound => return bound.map(|()| this),
            }
        }
        // Any: then some wake up for nothing.
        this.socket.bind(&SocketAddr::new(0, 0))?;
        Ok(this)
    }

    fn open(protocol: isize) -> Result<Self, Refusal> {
        let mut this = Self::unbound(protocol)?;
        this.socket.bind(&SocketAddr::new(0, 0))?;
        Ok(this)
    }

    fn unbound(protocol: isize) -> Result<Self, Refusal> {
        let socket = Socket::new(protocol)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self::new(socket))
    }

    /// Joins a multicast group (`RTNLGRP_*`).
    pub fn join(&mut self, group: u32) -> Result<(), Refusal> {
        Ok(self.socket.add_membership(group)?)
    }

    /// Sends what `write` puts into the batch (it is given the first sequence number, and gives back the last one
    /// whose answer ends the exchange) and hands every answer to `each`. The first refusal is the result.
    ///
    /// # Errors
    /// The errno of the first message that the kernel refused, with its sentence. EINTR: the answers are those of a dump that the kernel
    /// calls inconsistent; [`Netlink::dump`] asks again.
    pub fn exchange(
        &mut self,
        write: impl Fn(&mut Writer, u32) -> u32,
        mut each: impl FnMut(&Message),
    ) -> Result<(), Refusal> {
        let first = self.sequence + 1;
        let last = self.send(&write)?;
        match self.collect(first..=last, &mut each)? {
            true => Ok(()),
            false => Err(Errno::EINTR.into()),
        }
    }

    /// One message that wants an acknowledgement and nothing else.
    pub fn request(&mut self, write: impl Fn(&mut Writer, u32)) -> Result<(), Refusal> {
        self.exchange(
            |batch, sequence| {
                write(batch, sequence);
                sequence
            },
            |_| {},
        )
    }

    /// Sends requests that are written already, each with a number of its own, of which the last one asks for the
    /// acknowledgement. Which errors are refusals says `is_refusal`.
    ///
    /// Before: this socket has sent nothing that is not answered.
    ///
    /// # Errors
    /// The number of the first request that was refused or could not be sent, and why; number 0: the answers could not be read.
    pub fn submit(
        &mut self,
        requests: &[u8],
        is_refusal: impl Fn(i32) -> bool,
    ) -> Result<(), (u32, Refusal)> {
        let mut last = 0;
        // One by one: whoever waits for a grace period of the kernel's, as the container's first process does meanwhile, waits until this
        // processor has come out of a system call.
        let mut rest = requests;
        while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
            let length = (length as usize).max(HEADER).min(rest.len());
            let (request, others) = rest.split_at(length);
            let sequence = Messages::new(request).next().map(|one| one.sequence);
            last = sequence.unwrap_or(last);
            match self.socket.send(request, 0).map_err(Refusal::from) {
                Err(refusal) if refusal.errno == Errno::EINTR => {}
                Err(refusal) => return Err((last, refusal)),
                Ok(_) => rest = others,
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        loop {
            // Worked off when send(2) has returned: nothing is waited for.
            let len = self.receive(libc::MSG_DONTWAIT);
            let len = len.map_err(|refusal| (0, refusal))?;
            for answer in Messages::new(&self.buffer[..len]) {
                let Some(outcome) = answer.outcome() else {
                    continue;
                };
                if is_refusal(outcome.errno) {
                    let text = String::from_utf8_lossy(outcome.text).into_owned();
                    let errno = Errno::from_raw(outcome.errno);
                    return Err((answer.sequence, Refusal { errno, text }));
                }
                if answer.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// One request of rtnetlink whose answers are parsed: the objects of a dump, or the one that was asked for.
    pub fn ask(
        &mut self,
        write: impl Fn(&mut Writer, u32),
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        self.dump(write, parse)
    }

    /// What `read` makes of the answers to one question for all objects that fit. It is asked again where they have changed before all were
    /// told: what the kernel goes on with may not be where it was.
    ///
    /// # Errors
    /// As [`Netlink::exchange`]; EINTR: they go on changing.
    pub fn dump<T, I: IntoIterator<Item = T>>(
        &mut self,
        write: impl Fn(&mut Writer, u32),
        read: impl Fn(&Message) -> I,
    ) -> Result<Vec<T>, Refusal> {
        let patience = deadline::left().unwrap_or(DUMP_PATIENCE).min(DUMP_PATIENCE);
        let end = Instant::now() + patience;
        let mut tries = 0_u8;
        while tries < DUMP_TRIES || Instant::now() < end {
            if tries > 0 {
                // Others are let go first.
                let _ = poll(&mut [], PollTimeout::from(tries.min(20) / 2)); // ms
            }
            tries = tries.saturating_add(1);
            let mut found = Vec::new();
            let (mut ruleset, mut is_one) = (None, true);
            let first = self.sequence + 1;
            let last = self.send(&|batch: &mut Writer, sequence| {
                write(batch, sequence);
                sequence
            })?;
            let each = &mut |message: &Message| {
                let number = ruleset_of(message);
                is_one &= *ruleset.get_or_insert(number) == number;
                found.extend(read(message));
            };
            if self.collect(first..=last, each)? && is_one {
                return Ok(found);
            }
        }
        Err(Errno::EINTR.into())
    }

    fn send(&mut self, write: &impl Fn(&mut Writer, u32) -> u32) -> Result<u32, Refusal> {
        let mut buffer = vec![0; REQUEST];
        let (bytes, last) = loop {
            let mut batch = Writer::new(&mut buffer);
            let last = write(&mut batch, self.sequence + 1);
            if let Some(bytes) = batch.finish().map(<[u8]>::len) {
                break (&buffer[..bytes], last);
            }
            if buffer.len() >= LARGEST_REQUEST {
                return Err(Errno::EMSGSIZE.into());
            }
            buffer.resize(buffer.len() * 4, 0);
        };
        self.sequence = last;
        if bytes.len() > USUAL_REQUEST {
            // Thousands of ports in one batch. Refused without CAP_NET_ADMIN on the machine itself, and then send(2) is.
            let _ = setsockopt(&self.socket, SndBufForce, &(bytes.len() * 2));
        }
        loop {
            match self.socket.send(bytes, 0).map_err(Refusal::from) {
                Err(refusal) if refusal.errno == Errno::EINTR => {}
                sent => return sent.map(|_| last),
            }
        }
    }

    /// Reads until the answer to `last` is complete. False: the dump was interrupted and must be asked for again.
    fn collect(
        &mut self,
        asked: RangeInclusive<u32>,
        each: &mut impl FnMut(&Message),
    ) -> Result<bool, Refusal> {
        let mut first_refusal = None;
        let mut consistent = true;
        loop {
            // Requests are worked off before send(2) returns: behind a refusal there is nothing left to wait for,
            // and the answer to the last message may never come (a refused nf_tables batch header ends it all).
            let flags = if first_refusal.is_some() {
                libc::MSG_DONTWAIT
            } else {
                0
            };
            let len = match (self.receive(flags), &first_refusal) {
                (Ok(len), _) => len,
                (Err(error), Some(refusal)) if error.errno == Errno::EAGAIN => {
                    return Err(Refusal::clone(refusal));
                }
                (Err(error), _) => return Err(error),
            };
            for message in Messages::new(&self.buffer[..len]) {
                // Behind an error answers to what was asked before may still be there.
                if !asked.contains(&message.sequence) {
                    continue;
                }
                consistent &= message.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                let done = message.kind == libc::NLMSG_DONE as u16;
                if let Some(outcome) = message.outcome() {
                    if outcome.errno != 0 && first_refusal.is_none() {
                        let text = String::from_utf8_lossy(outcome.text).into_owned();
                        first_refusal = Some(Refusal {
                            errno: Errno::from_raw(outcome.errno),
                            text,
                        });
                    }
                } else if !done {
                    each(&message);
                }
                let answered = done
                    || message.outcome().is_some()
                    || message.flags & libc::NLM_F_MULTI as u16 == 0;
                if message.sequence == *asked.end() && answered {
                    return match first_refusal {
                        Some(refusal) => Err(refusal),
                        None => Ok(consistent),
                    };
                }
            }
        }
    }

    /// Waits for one datagram, unless `flags` say `MSG_DONTWAIT`.
    pub fn receive(&mut self, flags: i32) -> Result<usize, Refusal> {
        // Not zeroed: the memory of a supervisor is what was touched.
        self.buffer.clear();
        self.buffer.reserve(ANSWER);
        loop {
            match self
                .socket
                .recv(&mut self.buffer, flags)
                .map_err(Refusal::from)
            {
                Err(refusal) if refusal.errno == Errno::EINTR => {}
                received => return received,
            }
        }
    }

    /// The rtnetlink messages of the datagram that [`Netlink::receive`] got.
    pub fn received(&self, len: usize) -> Vec<RouteNetlinkMessage> {
        Messages::new(&self.buffer[..len])
            .filter_map(|message| parse(&message))
            .collect()
    }
}

impl std::os::fd::AsFd for Netlink {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The last bits of the number of the ruleset that an answer of nf_tables was read from (`res_id` of struct nfgenmsg, in
/// linux/netfilter/nfnetlink.h). Of elements of sets, nothing else tells that a dump was interrupted.
fn ruleset_of(message: &Message) -> Option<[u8; 2]> {
    let is_nftables = i32::from(message.kind >> 8) == libc::NFNL_SUBSYS_NFTABLES;
    let number = message.payload.get(2..4).filter(|_| is_nftables)?;
    number.try_into().ok()
}

/// The first attribute of a kind.
pub fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = Attributes::new(attributes);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// One message of rtnetlink, if its kind is known.
pub fn parse(message: &Message) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = message.kind;
    let used = match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Cow::Owned(link::used_of(message.payload)),
        _ => Cow::Borrowed(message.payload),
    };
    RouteNetlinkMessage::deserialize(&header, &used).ok()
}
