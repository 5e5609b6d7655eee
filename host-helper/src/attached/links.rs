//! The network inside a container, set up from outside: the same message as ever, made into the same batch as
//! init would (`hawser::batch`), and sent by a socket of that namespace. Nobody enters it but for the moment in which the
//! socket is made.

use std::os::fd::AsFd;

use hawser::batch;
use hawser::netlink::ifinfomsg;
use hawser::protocol::{Fact, Message};
use nix::errno::Errno;

use super::target::Target;
use crate::attach::Attachment;
use crate::config;
use crate::error::{Doing, Error, Refusal, Result};
use crate::link::write_no_own_addresses;
use crate::netlink::{ACK, Netlink};
use crate::request::Request;
use crate::sys;

/// What most messages make fits into this, and what the longest one makes into that (`docs/protocol.md`).
const USUAL: usize = 4 * 1024;
const LONGEST: usize = 256 * 1024;

/// Sets up the network of a container whose files are not ours to write.
///
/// Before: the link is there. Undone with the link.
///
/// # Errors
/// What the kernel refuses, of which line.
pub fn set_up(request: &Request, target: &Target, attachment: &Attachment) -> Result<()> {
    let mut inside = target.look()?;
    no_link_local(&mut inside, request);
    set_up_by(&mut inside, request, attachment)
}

/// The same by a socket inside.
///
/// # Errors
/// As [`set_up`].
pub fn set_up_by(inside: &mut Netlink, request: &Request, attachment: &Attachment) -> Result<()> {
    let text = config::write_links(request, attachment);
    let message = Message::parse(text.as_bytes());
    let message = message.map_err(|fault| Error::new(format!("write the config: {fault}")))?;
    let interface = &request.interface;
    // One that is not there is found out by the first request.
    let index = sys::link_index(inside.as_fd(), interface).unwrap_or(0);
    let mut space = vec![0; USUAL];
    if batch::write(&message, |_| index, &mut space).is_none() {
        space.resize(LONGEST, 0);
    }
    let requests = batch::write(&message, |_| index, &mut space);
    let requests = requests.ok_or_else(|| Error::new("write the batch: it is too long"))?;
    inside
        .submit(requests, batch::is_refusal)
        .map_err(|(line, refusal)| explain(&message, line as usize, interface, refusal))
}

/// In the words of init.
fn explain(message: &Message, line: usize, interface: &str, refusal: Refusal) -> Error {
    let step = || {
        if line == 0 {
            return format!("set up link {interface} in the container");
        }
        let lines = message.facts().take_while(|entry| entry.line <= line);
        let Some(entry) = lines.last() else {
            return "bring up link lo".to_string();
        };
        let object = String::from_utf8_lossy(entry.object()).into_owned();
        match entry.fact {
            Fact::Link { .. } => format!("bring up link {interface}"),
            Fact::Address(_) => format!("add address {object} to {interface}"),
            Fact::Neighbour { .. } => format!("add neighbour {object} on {interface}"),
            _ => format!("add route {object} on {interface}"),
        }
    };
    let refused: std::result::Result<(), Refusal> = Err(refusal);
    let error = match refused.doing(step) {
        Ok(()) => return Error::new("set up the container's network: nothing was refused"),
        Err(error) => error,
    };
    let gateway = "a gateway is in an address's subnet, or an `onlink` route leads to it";
    let ipv6 = "there may be no IPv6";
    error
        .cure(Errno::EPERM, "it needs CAP_NET_ADMIN here")
        .cure(Errno::ENETUNREACH, gateway)
        .cure(Errno::EHOSTUNREACH, gateway)
        .cure(Errno::EOPNOTSUPP, ipv6)
        .cure(Errno::EAFNOSUPPORT, ipv6)
        .cure(Errno::EACCES, ipv6)
}

/// With IPv4 alone the kernel is not to make IPv6 addresses by itself either. Without IPv6 there is no such switch, and a link
/// that is not there is found out later.
///
/// Before: it is known whether the network has IPv6.
pub fn no_link_local(inside: &mut Netlink, request: &Request) {
    if !request.no_ipv6 {
        return;
    }
    let refused = inside.request(|batch, sequence| {
        batch.begin(libc::RTM_NEWLINK, ACK, sequence, &ifinfomsg(0, 0, 0));
        batch.string(libc::IFLA_IFNAME, &request.interface);
        write_no_own_addresses(batch);
        batch.end();
    });
    drop(refused);
}
