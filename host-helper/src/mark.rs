//! What a veth says of its owner, and what the host knows of the container behind it.

use std::net::IpAddr;
use std::os::fd::AsFd;

use hawser::netlink::{Writer, ifinfomsg, ndmsg};
use nix::errno::Errno;

use crate::address::mac_of;
use crate::attach::Attachment;
use crate::bridge::Network;
use crate::error::{Doing, Refusal, Result, twice};
use crate::link::{Mac, Neighbour, family, octets, write_forwarding};
use crate::netlink::{ACK, CREATE, Netlink};
use crate::owner::Mark;
use crate::reclaim::reclaim;
use crate::sys;
use crate::veth::Veth;

/// Says on the link whose it is, makes it answer to the container's name, and tells the host's link `device`,
/// behind which the container is, its hardware address.
///
/// Before: the link is ours, acknowledged. Undone with the link, but for the neighbours: see [`forget_neighbours_of`].
///
/// # Errors
/// A name that a living link has.
pub fn mark(
    route: &mut Netlink,
    veth: &Veth,
    mark: &Mark,
    network: &Network,
    device: Option<u32>,
) -> Result<()> {
    let (name, _) = mark.container().unwrap_or_default();
    loop {
        let done = route.exchange(
            |batch, sequence| write_marks(batch, sequence, veth, mark, network, device),
            |_| {},
        );
        match done {
            Err(refusal) if refusal.errno == Errno::EEXIST => {
                reclaim(route, name, &format!("name {name}"), name)?;
            }
            done => {
                let done = done.doing(|| format!("name veth {} {name}", veth.name));
                return done.map_err(|error| error.cure(Errno::ENODEV, &network.run_again()));
            }
        }
    }
}

fn write_marks(
    batch: &mut Writer,
    first: u32,
    veth: &Veth,
    mark: &Mark,
    network: &Network,
    device: Option<u32>,
) -> u32 {
    let mut sequence = first;
    if let Some(device) = device {
        for place in veth.places(network) {
            // One that was left over may be of another hardware address.
            let how = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
            write_neighbour(batch, sequence, place.address, veth.mac, device, how);
            sequence += 1;
        }
    }
    batch.begin(libc::RTM_NEWLINK, 0, sequence, &ifinfomsg(0, 0, 0));
    batch.string(libc::IFLA_IFNAME, &veth.name);
    batch.string(libc::IFLA_IFALIAS, &mark.to_string());
    if network.bridge.is_none() {
        // One of its own for each container: to look at its switch below /proc/sys would cost each start.
        write_forwarding(batch);
    }
    batch.end();
    let (name, _) = mark.container().unwrap_or_default();
    write_altname(batch, sequence + 1, veth, name);
    sequence + 1
}

/// Writes the request that gives a veth a further name.
pub fn write_altname(batch: &mut Writer, sequence: u32, veth: &Veth, name: &str) {
    const RTM_NEWLINKPROP: u16 = 108; // linux/rtnetlink.h
    let append = CREATE | libc::NLM_F_APPEND as u16 | ACK;
    batch.begin(RTM_NEWLINKPROP, append, sequence, &ifinfomsg(0, 0, 0));
    batch.string(libc::IFLA_IFNAME, &veth.name);
    let names = batch.open(libc::IFLA_PROP_LIST | libc::NLA_F_NESTED as u16);
    batch.string(libc::IFLA_ALT_IFNAME, name);
    batch.close(names);
    batch.end();
}

/// Permanent neighbours are not counted: of others the kernel keeps 1,024 for all namespaces together (gc_thresh3),
/// and a host that starts hundreds of containers a second would soon reach none of them. `how`: flags of the request.
fn write_neighbour(
    batch: &mut Writer,
    sequence: u32,
    address: IpAddr,
    mac: Mac,
    device: u32,
    how: i32,
) {
    let header = ndmsg(family(address), device, libc::NUD_PERMANENT);
    batch.begin(libc::RTM_NEWNEIGH, how as u16, sequence, &header);
    batch.attribute(libc::NDA_DST, &octets(address));
    batch.attribute(libc::NDA_LLADDR, &mac);
    batch.end();
}

/// A bridge keeps its permanent neighbours when they are gone: this takes those of one container back. Those that stay, because
/// its supervisor was killed, do no harm: who takes the address replaces them.
pub fn forget_neighbours_of(attachment: &Attachment) {
    let (Some(device), Some(_)) = (attachment.device, attachment.network.bridge) else {
        return;
    };
    let forget = || {
        let write = |batch: &mut Writer, first: u32| {
            let mut last = first;
            let places = attachment.veth.places(&attachment.network);
            for (sequence, place) in (first..).zip(places) {
                write_removal(batch, sequence, place.address, device);
                last = sequence;
            }
            last
        };
        Netlink::route()?.exchange(write, |_| {})
    };
    // Gone already, with the bridge say, is what is wanted.
    let _: std::result::Result<(), Refusal> = twice(forget);
}

/// Takes the neighbours back that killed supervisors have left on bridges of ours, by the names of their containers' links, and their
/// addresses. Where another link than number `own` has the name they are the next one's, also when that comes at this moment.
///
/// # Errors
/// What the kernel says.
pub fn sweep_neighbours(
    route: &mut Netlink,
    containers: &[(String, Vec<IpAddr>)],
    own: u32,
) -> Result<()> {
    let doing = || "sweep neighbours that dead containers have left".to_string();
    for neighbour in route.permanent_neighbours().doing(doing)? {
        let has_it = |(_, all): &&(String, Vec<IpAddr>)| all.contains(&neighbour.address);
        let Some((name, _)) = containers.iter().find(has_it) else {
            continue;
        };
        let is_anothers =
            |route: &Netlink| sys::link_index(route.as_fd(), name).is_ok_and(|index| index != own);
        let link = route.link(neighbour.link).doing(doing)?;
        let is_on_ours = link.is_some_and(|link| matches!(link.mark, Some(Mark::Network(_))));
        if !is_on_ours || is_anothers(route) {
            continue;
        }
        let removed = route.request(|batch, sequence| {
            write_removal(batch, sequence, neighbour.address, neighbour.link);
        });
        match removed {
            // Gone already, it or the bridge, is success.
            Err(refusal) if matches!(refusal.errno, Errno::ENOENT | Errno::ENODEV) => {}
            removed => removed.doing(doing)?,
        }
        if is_anothers(route) {
            put_back(route, &neighbour).doing(doing)?;
        }
    }
    Ok(())
}

/// Whoever has come since may have had it. What is there was written after it was removed, and what is written yet replaces it.
fn put_back(route: &mut Netlink, neighbour: &Neighbour) -> std::result::Result<(), Refusal> {
    // One that was chosen (`--mac`) may be the dead one's alone.
    let usual = match neighbour.address {
        IpAddr::V4(address) => Some(mac_of(address)),
        IpAddr::V6(_) => neighbour.mac,
    };
    let Some(mac) = neighbour.mac.filter(|mac| Some(*mac) == usual) else {
        return Ok(());
    };
    let (address, device) = (neighbour.address, neighbour.link);
    let how = libc::NLM_F_CREATE | libc::NLM_F_EXCL | i32::from(ACK);
    let put = route.request(|batch, sequence| {
        write_neighbour(batch, sequence, address, mac, device, how);
    });
    match put {
        Err(refusal) if matches!(refusal.errno, Errno::EEXIST | Errno::ENODEV) => Ok(()),
        put => put,
    }
}

fn write_removal(batch: &mut Writer, sequence: u32, address: IpAddr, device: u32) {
    let header = ndmsg(family(address), device, 0);
    batch.begin(libc::RTM_DELNEIGH, ACK, sequence, &header);
    batch.attribute(libc::NDA_DST, &octets(address));
    batch.end();
}
