//! The host end as a port of a bridge.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use hawser::netlink::{Writer, ifinfomsg, read_u32, rtmsg};
use nix::errno::Errno;
use nix::sys::utsname::uname;

use super::Veth;
use crate::bridge::Network;
use crate::error::{Doing, Error, Result};
use crate::link::{IFINFOMSG, write_look, write_no_own_addresses};
use crate::netlink::{ACK, Netlink, find};
use crate::steps::warn;

// linux/if_link.h
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

/// Where `ifi_index` is in struct ifinfomsg.
const IFI_INDEX: usize = 4;

/// The bridge sends frames back by the port that they came from, as it never does by itself.
///
/// Undone with the link.
///
/// # Errors
/// What the kernel says.
pub fn let_back(route: &mut Netlink, veth: &Veth, network: &Network) -> Result<()> {
    const IFLA_BRPORT_MODE: u16 = 4; // linux/if_link.h
    route
        .request(|batch, sequence| {
            let header = ifinfomsg(veth.index, 0, 0);
            batch.begin(libc::RTM_NEWLINK, ACK, sequence, &header);
            let info = batch.open(libc::IFLA_LINKINFO);
            batch.string(IFLA_INFO_SLAVE_KIND, "bridge");
            let data = batch.open(IFLA_INFO_SLAVE_DATA);
            batch.attribute(IFLA_BRPORT_MODE, &[1]);
            batch.close(data);
            batch.close(info);
            batch.end();
        })
        .doing(|| format!("let the bridge send frames of {} back", veth.name))
        .map_err(|error| error.cure(Errno::EOPNOTSUPP, &network.run_again()))
}

/// Sets the host end up, where it is the port of a bridge, with what the message that creates it cannot say. It must be up before the
/// end inside is, or that one would not send until the kernel finds the time. And not long before, where that is in our hands: to a worker
/// of the kernel's that comes by meanwhile (linkwatch) it is a link that has lost its carrier, and it lets all others wait for a grace period.
///
/// Before: all else that changes the link, its mark say: the kernel goes through all routes when a link changes that is up and has no
/// carrier. Undone with the link.
///
/// # Errors
/// The bridge is gone; what the kernel says.
pub fn set_up(route: &mut Netlink, veth: &Veth, network: &Network) -> Result<()> {
    if network.bridge.is_some() && *COMES_UP_LATE {
        return bring_up(route, veth, network);
    }
    // It has come up as it was made or, where there is no bridge, with its addresses.
    Ok(())
}

/// Whether a host end is born dormant, and comes up last. Before Linux 6.8 a look at a link does not make the kernel finish what has begun
/// (see [`settle`]): a dormant port would forward nothing until its worker comes by, so there it comes up as soon as it is made.
pub(super) static COMES_UP_LATE: LazyLock<bool> = LazyLock::new(|| {
    let kernel = uname().ok();
    let release = kernel.as_ref().and_then(|kernel| kernel.release().to_str());
    release
        .and_then(version)
        .is_some_and(|found| found >= (6, 8))
});

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Frames to 01:80:c2:00:00:0x (IEEE 802.1D, table 7-10) are to go the way of all others, past the firewall: the bridge would learn
/// from them who is where, and give them to the host as what this link has received. And it is no place to send IPv6 packets to: an
/// address of its own would only cost, timers and packets about it.
pub(super) fn bring_up(route: &mut Netlink, veth: &Veth, network: &Network) -> Result<()> {
    let exchange = |route: &mut Netlink, has_ipv6: bool| {
        let write = |batch: &mut Writer, sequence: u32| {
            // Told of a change of a link that is up and has no carrier, the kernel goes through all routes (addrconf_notify()).
            write_port(batch, sequence, veth, has_ipv6);
            let up = libc::IFF_UP as u32;
            let header = ifinfomsg(veth.index, up, up);
            batch.begin(libc::RTM_NEWLINK, ACK, sequence + 1, &header);
            batch.end();
            sequence + 1
        };
        route.exchange(write, |_| {})
    };
    let done = match exchange(route, true) {
        Err(refusal) if refusal.errno == Errno::EAFNOSUPPORT => exchange(route, false),
        done => done,
    };
    done.doing(|| format!("set up veth {}", veth.name))
        .map_err(|error| error.cure(Errno::EOPNOTSUPP, &network.run_again()))
}

fn write_port(batch: &mut Writer, sequence: u32, veth: &Veth, has_ipv6: bool) {
    const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31; // linux/if_link.h
    // All but pause frames, which the bridge drops (BR_GROUPFWD_MACPAUSE, net/bridge/br_private.h).
    const ALL: u16 = !2;
    let header = ifinfomsg(veth.index, 0, 0);
    batch.begin(libc::RTM_NEWLINK, ACK, sequence, &header);
    let info = batch.open(libc::IFLA_LINKINFO);
    batch.string(IFLA_INFO_SLAVE_KIND, "bridge");
    let port = batch.open(IFLA_INFO_SLAVE_DATA);
    batch.attribute(IFLA_BRPORT_GROUP_FWD_MASK, &ALL.to_ne_bytes());
    batch.close(port);
    batch.close(info);
    if has_ipv6 {
        write_no_own_addresses(batch);
    }
    batch.end();
}

/// Makes the kernel finish what the coming up of the end inside has begun: a look at a link does that (linkwatch), and else it may
/// take a second. The bridge's port forwards from here on, and then the bridge, if that was its first, has a carrier.
/// Without this the command's first packets are lost now and then.
///
/// A bridge of somebody else's may have a spanning tree, which is told.
///
/// Then the port loses the host's route for IPv6 multicasts, which the kernel has made with the carrier: nobody sends any by a port,
/// and whenever one comes or goes the kernel would go through those of all.
///
/// # Errors
/// The host's end is not on its bridge any more.
pub fn settle(route: &mut Netlink, veth: &Veth, network: &Network) -> Result<()> {
    let bridge = network.bridge.map(|bridge| bridge.index);
    let (mut controller, mut is_held) = (None, false);
    let write = |batch: &mut Writer, sequence: u32| {
        write_look(batch, sequence, veth.index, |_| {});
        let Some(bridge) = bridge else {
            return sequence;
        };
        write_look(batch, sequence + 1, bridge, |_| {});
        write_no_multicasts(batch, sequence + 2, veth);
        sequence + 2
    };
    // Of all that is said of the two, two words are of interest.
    let done = route.exchange(write, |message| {
        if read_u32(message.payload, IFI_INDEX) == Some(veth.index) {
            let attributes = message.payload.get(IFINFOMSG..).unwrap_or(&[]);
            let master = find(attributes, libc::IFLA_MASTER);
            controller = Some(master.and_then(|index| read_u32(index, 0)));
            is_held = is_held_back(attributes);
        }
    });
    if is_held && !network.is_ours {
        let name = &network.name;
        warn(&format!(
            "the spanning tree of bridge {name} holds packets of {} back at first, for 30 seconds as a rule; turn it off with: ip link set {name} type bridge stp_state 0",
            veth.name
        ));
    }
    match (controller, done) {
        (Some(controller), _) if controller != bridge => Err(just_removed(veth, network)),
        // Its namespace is at its end, which is found out by another way.
        (None, Err(refusal)) if refusal.errno != Errno::ENODEV => {
            Err(refusal).doing(|| format!("look at link {}", veth.name))
        }
        // There may be no such route.
        _ => Ok(()),
    }
}

/// Whether a port is there that forwards nothing yet: a spanning tree (IEEE 802.1D) listens first, and learns.
fn is_held_back(attributes: &[u8]) -> bool {
    const IFLA_BRPORT_STATE: u16 = 1; // linux/if_link.h
    const HELD: [u8; 3] = [1, 2, 4]; // linux/if_bridge.h: listening, learning, blocking
    let of_link = find(attributes, libc::IFLA_LINKINFO);
    let of_port = of_link.and_then(|info| find(info, IFLA_INFO_SLAVE_DATA));
    let state = of_port.and_then(|port| find(port, IFLA_BRPORT_STATE));
    state
        .and_then(<[u8]>::first)
        .is_some_and(|state| HELD.contains(state))
}

/// The error of who comes to a network at its end.
pub fn just_removed(veth: &Veth, network: &Network) -> Error {
    let (name, network) = (&veth.name, &network.name);
    Error::new(format!(
        "attach {name} to {network}: it has just been removed; run it again"
    ))
}

fn write_no_multicasts(batch: &mut Writer, sequence: u32, veth: &Veth) {
    let mut header = rtmsg(libc::AF_INET6 as u8, 8, libc::RT_SCOPE_UNIVERSE, 0);
    header[4..6].copy_from_slice(&[libc::RT_TABLE_LOCAL, libc::RTPROT_UNSPEC]);
    batch.begin(libc::RTM_DELROUTE, ACK, sequence, &header);
    let multicasts = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0); // RFC 4291, section 2.7
    batch.attribute(libc::RTA_DST, &multicasts.octets());
    batch.number(libc::RTA_OIF, veth.index);
    batch.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_kernels() {
        let cases = [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("6.1.0-13-cloud-amd64", Some((6, 1))),
            ("6.8-rc1", Some((6, 8))),
            ("7.0.0", Some((7, 0))),
            ("unknown", None),
        ];
        for (release, numbers) in cases {
            assert_eq!(version(release), numbers, "{release}");
        }
    }
}
