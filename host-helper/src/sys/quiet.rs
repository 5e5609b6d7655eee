//! Sockets of nf_tables are closed when that is quick, by one process for all who end at about the same time.
//!
//! The kernel gives back what was deleted from nf_tables a grace period of RCU (some 10 ms) after the transaction. Who closes a socket of
//! netfilter meanwhile, and be it another one's deletion, waits for it with a lock that every link which comes or goes takes
//! while it has RTNL: for all that time nobody on this machine can make a link. So these sockets stay open until nobody
//! has changed the ruleset for two grace periods. While others go on changing it, all are handed to one process, so that there are not as many
//! of these.

use std::io::{Cursor, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, socket,
    sockopt::PeerCredentials,
};
use nix::sys::stat::stat;
use nix::unistd::{geteuid, setsid};

use super::{Result, adopt, listen};

/// Who collects listens here: a name without a file, of this network namespace, as the ruleset is.
const NAME: &[u8] = b"hawser/closing";
/// So many are held at most; then they are closed, whoever waits: a process may have 1,024 descriptors (getrlimit(2)).
const MOST: usize = 768;
/// A process hands over so many at most,
const AT_ONCE: usize = 4;
/// and a moment after it has connected.
const AT_LEISURE: u8 = 10; // ms

/// Comes back when this process may end, which closes the sockets: that is quick then, or another has them too. The first
/// one is asked for the number of the ruleset.
///
/// Allocates nothing: the heap may be that of a process which was killed while it did.
pub fn wait_until_quiet(sockets: &[BorrowedFd]) {
    let Some(first) = sockets.first() else {
        return;
    };
    let before = generation(*first);
    wait_for_rcu();
    if generation(*first) == before || hand_over(sockets).is_ok() {
        return;
    }
    if collect(*first) == Err(Errno::EADDRINUSE) {
        // Another was faster, and listens by then. If it cannot be, they are closed as they are.
        wait_for_rcu();
        let _ = hand_over(sockets);
    }
}

/// Waits until the kernel has given back what was deleted from nf_tables before.
fn wait_for_rcu() {
    // The kernel's own wait may have begun after this one did: the second is begun after it. With one processor, with
    // nohz_full, or an older kernel, neither waits, and closing does.
    for _ in 0..2 {
        // SAFETY: no pointers.
        unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    }
}

/// The number that counts changes of the ruleset; `None` where it cannot be had.
fn generation(netfilter: BorrowedFd) -> Option<u32> {
    const NEW_GENERATION: u16 = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_NEWGEN) as u16;
    const ANSWERS: usize = 64;
    // struct nlmsghdr and struct nfgenmsg, and nothing else.
    let mut request = [0_u8; 20];
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETGEN) as u16;
    request[0] = request.len() as u8;
    if cfg!(target_endian = "big") {
        request.swap(0, 3);
    }
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    let fd = netfilter.as_raw_fd();
    // SAFETY: reads the request's bytes.
    let sent = unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return None;
    }
    // Before it may come what its owner has not read.
    for _ in 0..ANSWERS {
        let mut answer = [0_u8; 256];
        // SAFETY: writes at most that many bytes there.
        let len = unsafe {
            let space = answer.as_mut_ptr().cast();
            libc::recv(fd, space, answer.len(), libc::MSG_DONTWAIT)
        };
        let answer = answer.get(..usize::try_from(len).ok()?)?;
        let word = |at: usize| answer.get(at..at + 4).and_then(|word| word.try_into().ok());
        if answer.get(4..6)? == NEW_GENERATION.to_ne_bytes() {
            // NFTA_GEN_ID comes first, behind both headers and its own.
            return word(24).map(u32::from_be_bytes);
        }
    }
    None
}

/// To the process that collects, if there is one.
fn hand_over(sockets: &[BorrowedFd]) -> Result<()> {
    let connection = open()?;
    connect(connection.as_raw_fd(), &address()?)?;
    check_is_ours(connection.as_fd())?;
    let mut descriptors = [NONE; AT_ONCE];
    for (place, socket) in descriptors.iter_mut().zip(sockets) {
        *place = socket.as_raw_fd();
    }
    let count = sockets.len().min(AT_ONCE);
    transfer(&connection, &mut descriptors, Way::Out(count)).map(drop)
}

/// Holds what others hand over, until the ruleset has stayed as it is.
fn collect(first: BorrowedFd) -> Result<()> {
    let listener = open()?;
    bind(listener.as_raw_fd(), &address()?)?;
    listen(&listener, MOST as i32)?;
    // Neither a job of our caller's any more, nor kept from an end: TERM closes what we hold.
    let _ = setsid();
    SigSet::empty().thread_set_mask()?;
    let mut held = 0;
    while held < MOST {
        let before = generation(first);
        wait_for_rcu();
        let came = take_all(&listener);
        held += came;
        if came == 0 && generation(first) == before && take_all(&listener) == 0 {
            break;
        }
    }
    Ok(())
}

/// Takes what has been handed over by now, for good, and says how many descriptors and connections it was.
fn take_all(listener: &OwnedFd) -> usize {
    let mut count = 0;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    while let Ok(connection) = accept4(listener.as_raw_fd(), flags) {
        let connection = adopt(connection);
        // Who has handed them over may have ended, and need not be looked at: what can be had from us is to be held.
        if process_of_our_user(connection.as_fd()).is_ok() {
            let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, AT_LEISURE);
            // They are this process's now, which closes them by ending.
            count += transfer(&connection, &mut [NONE; AT_ONCE], Way::In).unwrap_or(0);
        }
        // Whoever comes with nothing is not to come for ever.
        count += 1;
        if count >= MOST {
            break;
        }
    }
    count
}

fn open() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

fn address() -> Result<UnixAddr> {
    UnixAddr::new_abstract(NAME)
}

/// The other end's process, which must be the same user's.
fn process_of_our_user(connection: BorrowedFd) -> Result<libc::pid_t> {
    let other = getsockopt(&connection, PeerCredentials)?;
    if other.uid() == geteuid().as_raw() {
        Ok(other.pid())
    } else {
        Err(Errno::EPERM)
    }
}

/// The other end must be one of us: the same user, and in no container that shares the host's network.
fn check_is_ours(connection: BorrowedFd) -> Result<()> {
    let namespace = |path: &str| stat(path).map(|found| (found.st_dev, found.st_ino));
    let mut path = [0; 32];
    let mut writer = Cursor::new(&mut path[..]);
    let pid = process_of_our_user(connection)?;
    write!(writer, "/proc/{pid}/ns/pid").map_err(|_| Errno::ENAMETOOLONG)?;
    let len = writer.position() as usize;
    let path = std::str::from_utf8(&path[..len]).map_err(|_| Errno::EINVAL)?;
    if namespace(path)? == namespace("/proc/self/ns/pid")? {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// In the place of a descriptor.
const NONE: RawFd = -1;

/// Which way descriptors go, and how many.
enum Way {
    In,
    Out(usize),
}

/// Sends or receives descriptors, with a byte that has no meaning, and says how many they were.
fn transfer(connection: &OwnedFd, descriptors: &mut [RawFd; AT_ONCE], way: Way) -> Result<usize> {
    /// As cmsg(3) lays it out: what follows the header is aligned as the header is.
    #[repr(C)]
    struct Parcel {
        header: libc::cmsghdr,
        descriptors: [RawFd; AT_ONCE],
    }
    let size = |count: usize| size_of::<libc::cmsghdr>() + count * size_of::<RawFd>();
    let room = match way {
        Way::In => AT_ONCE,
        Way::Out(count) => count,
    };
    // SAFETY: both are plain integers and pointers, for which zero is "nothing".
    let (mut parcel, mut message): (Parcel, libc::msghdr) = unsafe { std::mem::zeroed() };
    parcel.header.cmsg_len = size(room) as _;
    parcel.header.cmsg_level = libc::SOL_SOCKET;
    parcel.header.cmsg_type = libc::SCM_RIGHTS;
    parcel.descriptors = *descriptors;
    let mut byte = [0_u8];
    let mut text = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: byte.len(),
    };
    message.msg_iov = &raw mut text;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut parcel).cast();
    message.msg_controllen = size(room) as _;
    let fd = connection.as_raw_fd();
    // SAFETY: the message points to one byte, and to a header with room for as many descriptors as it says; all of it
    // outlives the call.
    let done = unsafe {
        match way {
            Way::In => libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC),
            Way::Out(_) => libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL),
        }
    };
    Errno::result(done)?;
    *descriptors = parcel.descriptors;
    Ok(descriptors.iter().filter(|fd| **fd != NONE).count())
}
