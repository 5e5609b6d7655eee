//! Sockets: options that nix has not, and filters for news of nf_tables and of links.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;

use super::Result;

/// `listen(2)`, with a queue of any length: nix allows no more than the C library's SOMAXCONN, which is 128 with musl.
pub fn listen(socket: impl AsFd, queue: i32) -> Result<()> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::listen(socket.as_fd().as_raw_fd(), queue) }).map(drop)
}

/// How the ports of our sockets to netfilter begin (`nl_pid`): no process has such a number, by which the kernel names sockets
/// that have chosen none, and those that it makes up are larger.
pub const OUR_PORTS: u8 = 0x68;

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// One instruction of classic BPF, with how many to skip if it is so, and if not. What it loads counts as big-endian.
const fn line(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Passes what begins with a deletion from a table called `hawser`, but of elements that one of us has taken away.
fn deletions() -> [libc::sock_filter; 16] {
    // linux/netfilter/nf_tables.h
    const NFT_MSG_DELTABLE: u32 = 2;
    const NFT_MSG_DELCHAIN: u32 = 5;
    const NFT_MSG_DELRULE: u32 = 8;
    const NFT_MSG_DELSET: u32 = 11;
    const NFT_MSG_DELSETELEM: u32 = 14;
    // struct nlmsghdr, struct nfgenmsg, then the first attribute, which is the table's name.
    const KIND: u32 = if cfg!(target_endian = "little") { 4 } else { 5 };
    // The first byte of the port of whoever has asked for it.
    const PORT: u32 = if cfg!(target_endian = "little") {
        15
    } else {
        12
    };
    const NAME: u32 = 24;
    [
        line(LOAD_BYTE, 0, 0, KIND),
        line(EQUALS, 6, 0, NFT_MSG_DELTABLE),
        line(EQUALS, 5, 0, NFT_MSG_DELCHAIN),
        line(EQUALS, 4, 0, NFT_MSG_DELRULE),
        line(EQUALS, 3, 0, NFT_MSG_DELSET),
        line(EQUALS, 0, 8, NFT_MSG_DELSETELEM),
        line(LOAD_BYTE, 0, 0, PORT),
        line(EQUALS, 6, 0, u32::from(OUR_PORTS)),
        line(LOAD_WORD, 0, 0, NAME),
        line(EQUALS, 0, 4, u32::from_be_bytes(*b"haws")),
        line(LOAD_HALF, 0, 0, NAME + 4),
        line(EQUALS, 0, 2, u32::from_be_bytes([0, 0, b'e', b'r'])),
        line(LOAD_BYTE, 0, 0, NAME + 6),
        line(EQUALS, 1, 0, 0),
        line(RETURN, 0, 0, 0),
        line(RETURN, 0, 0, u32::MAX),
    ]
}

/// A netlink socket to nf_tables hears only what begins with a deletion from a table called `hawser`, and not of elements
/// that one of us has taken away: other transactions wake nobody.
pub fn only_deletions(socket: BorrowedFd) -> Result<()> {
    attach_filter(socket, &mut deletions())
}

/// Passes what says that the link of this number goes, be it to another namespace, or from its bridge alone.
fn end_of_link(index: u32) -> [libc::sock_filter; 6] {
    // struct nlmsghdr, struct ifinfomsg; in the machine's own order.
    const KIND: u32 = 4;
    const INDEX: u32 = 20;
    let kind = u16::from_be_bytes(libc::RTM_DELLINK.to_ne_bytes());
    let index = u32::from_be_bytes(index.to_ne_bytes());
    [
        line(LOAD_HALF, 0, 0, KIND),
        line(EQUALS, 0, 3, u32::from(kind)),
        line(LOAD_WORD, 0, 0, INDEX),
        line(EQUALS, 0, 1, index),
        line(RETURN, 0, 0, u32::MAX),
        line(RETURN, 0, 0, 0),
    ]
}

/// A netlink socket that listens to links hears only that the one of this number goes: others wake nobody. What it has heard before stays.
pub fn only_end_of_link(socket: BorrowedFd, index: u32) -> Result<()> {
    attach_filter(socket, &mut end_of_link(index))
}

fn attach_filter(socket: BorrowedFd, program: &mut [libc::sock_filter]) -> Result<()> {
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option takes a sock_fprog, whose program outlives the call; the kernel copies it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// `getsockopt(2)`: fills `value` as far as there is something, and gives how far that is.
pub fn socket_option(
    socket: BorrowedFd,
    level: i32,
    option: i32,
    value: &mut [u8],
) -> Result<usize> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, and to `len` how many they were; any bytes are a [u8].
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    Errno::result(done).map(|_| len as usize)
}

/// `netdevice(7)` with `SIOCGIFINDEX`: the number of a link in the network namespace of `socket`.
pub fn link_index(socket: BorrowedFd, name: &str) -> Result<u32> {
    // SAFETY: plain bytes and integers, for which zero is fine.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // With a NUL behind it.
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: the kernel reads the name and stores a number in the request, which is there; SIOCGIFINDEX has the number
    // as that member.
    unsafe {
        let done = libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFINDEX as _,
            &raw mut request,
        );
        Errno::result(done)?;
        Ok(request.ifr_ifru.ifru_ifindex as u32)
    }
}

/// The network namespace of a socket: `SIOCGSKNS` (linux/sockios.h).
pub fn network_of(socket: BorrowedFd) -> Result<OwnedFd> {
    // SAFETY: integers only; what comes is a descriptor that nobody else has.
    unsafe {
        let namespace = libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS as _);
        Ok(OwnedFd::from_raw_fd(Errno::result(namespace)?))
    }
}

/// Which namespaces a namespace's file is one of (`CLONE_NEW*`): `NS_GET_NSTYPE` (linux/nsfs.h). ENOTTY: no namespace's.
pub fn kind_of_namespace(file: &OwnedFd) -> Result<libc::c_int> {
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) })
}

/// A netlink socket as netlink-sys has it.
pub fn netlink_socket(socket: OwnedFd) -> netlink_sys::Socket {
    // SAFETY: it owns the descriptor from here on, as we did.
    unsafe { netlink_sys::Socket::from_raw_fd(socket.into_raw_fd()) }
}
