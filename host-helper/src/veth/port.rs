//! The host end as a port of a bridge.

use hawser::netlink::{Writer, ifinfomsg};
use nix::errno::Errno;

use super::Veth;
use crate::bridge::Network;
use crate::error::{Doing, Result};
use crate::link::write_no_own_addresses;
use crate::netlink::{ACK, Netlink};
use crate::sysctl;

/// The bridge sends frames back by the port that they came from, as it never does by itself.
///
/// Undone with the link.
///
/// # Errors
/// What the kernel says.
pub fn let_back(route: &mut Netlink, veth: &Veth) -> Result<()> {
    const IFLA_INFO_SLAVE_KIND: u16 = 4; // linux/if_link.h, as the next two
    const IFLA_INFO_SLAVE_DATA: u16 = 5;
    const IFLA_BRPORT_MODE: u16 = 4;
    route
        .request(|batch, sequence| {
            batch.begin(libc::RTM_NEWLINK, ACK, sequence, &ifinfomsg(0, 0, 0));
            batch.string(libc::IFLA_IFNAME, &veth.name);
            let info = batch.open(libc::IFLA_LINKINFO);
            batch.string(IFLA_INFO_SLAVE_KIND, "bridge");
            let data = batch.open(IFLA_INFO_SLAVE_DATA);
            batch.attribute(IFLA_BRPORT_MODE, &[1]);
            batch.close(data);
            batch.close(info);
            batch.end();
        })
        .doing(|| format!("let the bridge send frames of {} back", veth.name))
}

/// Sets a port of a bridge up, with what the message that creates it cannot say. It must be up before the end inside is, or that
/// one would not send until the kernel finds the time.
///
/// Frames to 01:80:c2:00:00:0x (IEEE 802.1D, table 7-10) are to go the way of all others, past the firewall: the bridge would learn
/// from them who is where, and give them to the host as what this link has received.
///
/// And it is no place to send IPv6 packets to. Its share of the host's IPv6 would be a route for multicasts, and through the routes of
/// all ports the kernel walks whenever one comes or goes. Where that switch cannot be written, it has at least no address of its own,
/// with timers and packets about it.
pub(super) fn set_up_port(route: &mut Netlink, veth: &Veth, network: &Network) -> Result<()> {
    // linux/if_link.h
    const IFLA_INFO_SLAVE_KIND: u16 = 4;
    const IFLA_INFO_SLAVE_DATA: u16 = 5;
    const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31;
    // All but pause frames, which the bridge drops (BR_GROUPFWD_MACPAUSE, net/bridge/br_private.h).
    const ALL: u16 = !2;
    let is_without_ipv6 = sysctl::turn_ipv6_off(&veth.name);
    let up = libc::IFF_UP as u32;
    let write = |batch: &mut Writer, sequence| {
        batch.begin(libc::RTM_NEWLINK, ACK, sequence, &ifinfomsg(0, up, up));
        batch.string(libc::IFLA_IFNAME, &veth.name);
        let info = batch.open(libc::IFLA_LINKINFO);
        batch.string(IFLA_INFO_SLAVE_KIND, "bridge");
        let port = batch.open(IFLA_INFO_SLAVE_DATA);
        batch.attribute(IFLA_BRPORT_GROUP_FWD_MASK, &ALL.to_ne_bytes());
        batch.close(port);
        batch.close(info);
        if !is_without_ipv6 && network.has_ipv6() {
            write_no_own_addresses(batch);
        }
        batch.end();
    };
    route
        .request(write)
        .doing(|| format!("set up veth {}", veth.name))
        .map_err(|error| {
            let cure = format!("{} has just been removed; run it again", network.name);
            error.cure(Errno::EOPNOTSUPP, &cure)
        })
}
