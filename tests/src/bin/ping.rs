//! A ping over an unprivileged ICMP socket, which busybox does not know: `ping ADDRESS`, exit 0 for an answer.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

/// Echo request (RFC 792); the kernel fills in identifier and checksum.
const REQUEST: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 1];
/// Echo reply.
const REPLY: u8 = 0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .ok_or("usage: ping ADDRESS")?
        .parse()?;
    let icmp = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )?;
    let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
    sendto(icmp.as_raw_fd(), &REQUEST, &to, MsgFlags::empty())?;
    if poll(
        &mut [PollFd::new(icmp.as_fd(), PollFlags::POLLIN)],
        2000_u16,
    )? == 0
    {
        return Err("no answer in two seconds".into());
    }
    let mut answer = [0; 64];
    let length = recv(icmp.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    if length < REQUEST.len() || answer[0] != REPLY {
        return Err("something else than an answer".into());
    }
    Ok(())
}
