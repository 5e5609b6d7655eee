//! rtnetlink's socket.

use core::ffi::c_int;

use super::{Errno, Fd, call, call_by_value, retry};

/// A socket for rtnetlink whose errors come with the kernel's sentence, and without a copy of the request.
pub fn open_rtnetlink() -> Result<Fd, Errno> {
    let kind = (libc::SOCK_RAW | libc::SOCK_CLOEXEC) as usize;
    let (family, protocol) = (libc::AF_NETLINK as usize, libc::NETLINK_ROUTE as usize);
    let fd = call_by_value(libc::SYS_socket, [family, kind, protocol])?;
    let socket = Fd(fd as i32);
    // A refusal costs the sentence only.
    let _ = set_option(socket, libc::NETLINK_EXT_ACK, 1);
    let _ = set_option(socket, libc::NETLINK_CAP_ACK, 1);
    Ok(socket)
}

/// The socket gets a message for each link that appears or changes.
pub fn watch_links(socket: Fd) -> Result<u32, Errno> {
    // struct sockaddr_nl (netlink(7)): family, padding, an address that the kernel chooses, groups. Without an address
    // the socket would be taken for the sender of the kernel's own messages, which is spared them.
    let address = [libc::AF_NETLINK as u32, 0, libc::RTMGRP_LINK as u32];
    let (fd, at) = (socket.0 as usize, &raw const address as usize);
    // SAFETY: the address has the size that is said. (Its family is a u16 in a little-endian u32.)
    unsafe { call(libc::SYS_bind, [fd, at, size_of_val(&address)]) }
}

#[inline(never)]
fn set_option(socket: Fd, option: c_int, value: c_int) -> Result<u32, Errno> {
    let (level, at) = (libc::SOL_NETLINK as usize, &raw const value as usize);
    let (option, size) = (option as usize, size_of::<c_int>());
    // SAFETY: the value is an int, its size is said.
    unsafe {
        call(
            libc::SYS_setsockopt,
            [socket.0 as usize, level, option, at, size],
        )
    }
}

/// One datagram, if there is one.
pub fn receive_now(fd: Fd, buffer: &mut [u8]) -> Result<u32, Errno> {
    let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    let flags = libc::MSG_DONTWAIT as usize;
    // SAFETY: the kernel writes at most `len` bytes to the buffer; no address is asked for.
    retry(|| unsafe { call(libc::SYS_recvfrom, [fd.0 as usize, start, len, flags, 0, 0]) })
}

/// The number of the interface with this name.
pub fn link_index(socket: Fd, name: &[u8]) -> Result<u32, Errno> {
    /// `struct ifreq` as `SIOCGIFINDEX` uses it (netdevice(7)): 16 bytes of name, a union of 24.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        index: c_int,
        rest: [u8; 20],
    }
    let mut request = Request {
        name: [0; 16],
        index: 0,
        rest: [0; 20],
    };
    // The last byte stays zero: a longer name is cut off, and then there is no such link.
    for (to, from) in request.name.iter_mut().zip(name.iter().take(15)) {
        *to = *from;
    }
    let (command, at) = (libc::SIOCGIFINDEX as usize, &raw mut request as usize);
    // SAFETY: the request has the size and the layout of `struct ifreq`, the kernel writes to it.
    unsafe { call(libc::SYS_ioctl, [socket.0 as usize, command, at]) }?;
    Ok(request.index as u32)
}
