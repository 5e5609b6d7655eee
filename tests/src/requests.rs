//! Netlink requests of a tracee: found in what it sends, sent such that the kernel refuses one of them, and the errno that it
//! answers with told as another one. So the kernel really has not done it, for a reason that a machine gives.

use std::fmt;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::memory::{Place, read, write};
use crate::sys;

/// What one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Its family (`libc::NETLINK_*`).
    pub family: i32,
    /// What it asks for (`nlmsg_type`); of a transaction of nf_tables, its first message.
    pub number: u16,
}

/// One, told in a way that means the same in the next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What it is.
    pub kind: Kind,
    /// The how manieth of that kind it is in its process, from 1 on.
    pub nth: usize,
}

/// `struct nlmsghdr`: length, type, flags, sequence and port; `struct nlmsgerr` behind it begins with minus the errno.
const HEADER: usize = 16;
const KIND: usize = 4;
const SEQUENCE: usize = 8;
/// linux/netfilter/nfnetlink.h, `NFNL_MSG_BATCH_BEGIN`.
const BATCH: u16 = 0x10;

/// Whether this system call may send some: three arguments say of what, what, and how much.
pub fn may_send(number: i64) -> bool {
    [libc::SYS_sendto, libc::SYS_write].contains(&number)
}

/// The requests in what a tracee is about to send by descriptor `fd`, and where in it each begins, in bytes; none, if that is no
/// netlink socket.
pub fn requests(pid: Pid, fd: u64, place: Place) -> Vec<(Kind, usize)> {
    let Some(family) = sys::netlink_family(pid, fd) else {
        return vec![];
    };
    let bytes = read(pid, place);
    let kind = |at| Kind {
        family,
        number: half(&bytes, at + KIND),
    };
    let all: Vec<_> = messages(&bytes).map(|at| (kind(at), at)).collect();
    match all.first() {
        // Together or not at all.
        Some((first, _)) if first.number == BATCH => all.get(1).copied().into_iter().collect(),
        _ => all,
    }
}

/// One that the kernel refuses: it has no such kind.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    pid: Pid,
    fd: u64,
    /// Of the request, and so of its answer.
    sequence: u32,
    errno: Errno,
    /// Where its kind is, and which it was, until it is sent.
    kind: Option<(u64, u16)>,
    /// Where the answer is to come.
    answer: Option<u64>,
}

impl Refused {
    /// Writes a kind that the kernel does not know into the request that begins `at` these bytes behind `place`, which is about to
    /// be sent.
    pub fn new(pid: Pid, fd: u64, place: Place, at: usize, errno: Errno) -> Self {
        let bytes = read(pid, place);
        let address = place.address + (at + KIND) as u64;
        let kind = half(&bytes, at + KIND);
        // The subsystem of netfilter stays.
        write(pid, address, &(kind | 0xff).to_ne_bytes());
        Self {
            pid,
            fd,
            sequence: word(&bytes, at + SEQUENCE),
            errno,
            kind: Some((address, kind)),
            answer: None,
        }
    }

    /// Before a system call of any process.
    pub fn begins(&mut self, pid: Pid, number: i64, [fd, buffer, _]: [u64; 3]) {
        if pid == self.pid {
            let is_answer = number == libc::SYS_recvfrom && fd == self.fd;
            self.answer = is_answer.then_some(buffer);
        }
    }

    /// After one, with what it gave. Whether the answer was read, and tells the other errno now.
    pub fn ends(&mut self, pid: Pid, result: i64) -> bool {
        if pid != self.pid {
            return false;
        }
        if let Some((address, kind)) = self.kind.take() {
            write(pid, address, &kind.to_ne_bytes());
            return false;
        }
        let (Some(address), Ok(length)) = (self.answer.take(), usize::try_from(result)) else {
            return false;
        };
        let bytes = read(pid, Place { address, length });
        let answer = messages(&bytes).find(|at| {
            let is_error = half(&bytes, at + KIND) == libc::NLMSG_ERROR as u16;
            is_error && word(&bytes, at + SEQUENCE) == self.sequence
        });
        if let Some(at) = answer {
            let errno = -(self.errno as i32);
            write(pid, address + (at + HEADER) as u64, &errno.to_ne_bytes());
        }
        answer.is_some()
    }
}

/// Where each message begins.
fn messages(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let next = |at: usize| {
        let is_there = at + HEADER <= bytes.len();
        let length = is_there.then(|| word(bytes, at) as usize);
        length.filter(|length| *length >= HEADER)
    };
    let after = move |at: &usize| {
        let at = at + next(*at)?.next_multiple_of(4);
        next(at).map(|_| at)
    };
    std::iter::successors(next(0).map(|_| 0), after)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Kind { family, number } = self.kind;
        let family = match family {
            libc::NETLINK_ROUTE => "rtnetlink",
            libc::NETLINK_NETFILTER => "netfilter",
            libc::NETLINK_SOCK_DIAG => "sock_diag",
            _ => "netlink",
        };
        write!(f, "{family} request {number:#x} {}", self.nth)
    }
}
