//! One container's veth: created in one message, its peer born inside, its host end's name the lease of the address.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use hawser::netlink::{Writer, ifinfomsg, ndmsg};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::address::{candidates, check_fixed, host_mac_of, mac_of};
use crate::attach::Attachment;
use crate::bridge::{self, Network};
use crate::control;
use crate::error::{Doing, Error, Refusal, Result};
use crate::link::{Mac, gone};
use crate::netlink::{ACK, CREATE, Netlink};
use crate::nft;
use crate::owner::{Mark, Owner, lease_name};

/// Name of the interface inside.
pub const INSIDE: &str = "eth0";
/// How long a link whose owner is dead may take to go away before it is deleted: it takes 1 ms.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// What a veth is to be like.
pub struct Wish<'a> {
    /// Whose it is to be: the container's name, which is leased.
    pub name: &'a str,
    /// The network it joins.
    pub network: &'a Network,
    /// The container's address, or any.
    pub address: Option<Ipv4Addr>,
    /// Where the search for a free one starts.
    pub offset: u32,
    /// The hardware address inside, or the one that goes with the address.
    pub mac: Option<Mac>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// The network namespace that the peer is born in.
    pub namespace: BorrowedFd<'a>,
}

/// A veth that is there.
#[derive(Debug, Clone)]
pub struct Veth {
    /// Name of the host end.
    pub name: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, where the network has a subnet for it.
    pub address6: Option<Ipv6Addr>,
    /// Its link-local address: there whenever `address6` is.
    pub link_local: Option<Ipv6Addr>,
    /// The hardware address inside.
    pub mac: Mac,
}

/// Creates the veth on the first address that is free; the kernel's `EEXIST` is the lease that another has.
///
/// Before: the namespace is there. After: both ends are there, the host end is up and enslaved; nothing
/// is marked yet. Undone by the end of the namespace.
///
/// # Errors
/// A taken fixed address names its holder; an exhausted subnet, a full bridge say what to do.
pub fn create(route: &mut Netlink, wish: &Wish) -> Result<Veth> {
    let network = wish.network;
    if let Some(address) = wish.address {
        check_fixed(address, network.subnet, network.gateway)?;
        while !try_create(route, wish, address)? {
            reclaim(
                route,
                &lease_name(address),
                &format!("address {address}"),
                wish.name,
            )?;
        }
        return Ok(made(wish, address));
    }
    let mut all =
        candidates(network.subnet, wish.offset).filter(|address| *address != network.gateway);
    // In a large subnet half of it is never taken (a bridge has 1,023 ports): nothing to be gained by the rest.
    for address in all.by_ref() {
        if try_create(route, wish, address)? {
            return Ok(made(wish, address));
        }
    }
    // All are taken; those of the dead are being given back at this moment, or were left over.
    for address in candidates(network.subnet, wish.offset) {
        if reclaim(
            route,
            &lease_name(address),
            &format!("address {address}"),
            wish.name,
        )
        .is_ok()
            && try_create(route, wish, address)?
        {
            return Ok(made(wish, address));
        }
    }
    Err(Error::new(format!(
        "take an address on {}: all of {} are in use (host-helper ls shows by whom); use another --bridge with a wider --subnet",
        network.name, network.subnet
    )))
}

fn made(wish: &Wish, address: Ipv4Addr) -> Veth {
    Veth {
        name: lease_name(address),
        address,
        address6: None,
        link_local: None,
        mac: wish.mac.unwrap_or_else(|| mac_of(address)),
    }
}

/// One attempt; false when the host name is taken.
fn try_create(route: &mut Netlink, wish: &Wish, address: Ipv4Addr) -> Result<bool> {
    let name = lease_name(address);
    let network = &wish.network.name;
    // Twice: the holder may have gone between the kernel's refusal and our look for it.
    for _ in 0..2 {
        // Travels alone: the kernel goes on with a batch after an error, and the rest would hit the living holder's.
        let refusal =
            match route.request(|batch, sequence| write_veth(batch, sequence, wish, address)) {
                Ok(()) => return Ok(true),
                Err(refusal) => refusal,
            };
        if refusal.errno != Errno::EEXIST {
            return Err(refusal)
                .doing(|| format!("create veth {name} on {network}"))
                .map_err(|e| explain_create(e, network));
        }
        if route
            .find_link(&name)
            .doing(|| format!("look for link {name}"))?
            .is_some()
        {
            return Ok(false);
        }
    }
    Err(Error::new(format!(
        "create veth {name} on {network}: the namespace has a link {INSIDE} already"
    )))
}

fn explain_create(error: Error, network: &str) -> Error {
    error
        .cure(
            Errno::EXFULL,
            "a bridge holds 1,023 ports; give this container another with --bridge",
        )
        .cure(
            Errno::EOPNOTSUPP,
            "the kernel lacks veth: enable CONFIG_VETH (modprobe veth)",
        )
        .cure(Errno::EPERM, "run as root (sudo), or inside `unshare -rnm`")
        .cure(
            Errno::ENODEV,
            &format!("{network} has just been removed; run it again"),
        )
        .cure(
            Errno::EINVAL,
            &format!("if {network} has just been removed, run it again"),
        )
}

fn write_veth(batch: &mut Writer, sequence: u32, wish: &Wish, address: Ipv4Addr) {
    const VETH_INFO_PEER: u16 = 1; // linux/veth.h
    let up = libc::IFF_UP as u32;
    batch.begin(
        libc::RTM_NEWLINK,
        CREATE | ACK,
        sequence,
        &ifinfomsg(0, up, up),
    );
    batch.string(libc::IFLA_IFNAME, &lease_name(address));
    batch.attribute(libc::IFLA_ADDRESS, &host_mac_of(address));
    match wish.network.bridge {
        Some(bridge) => {
            batch.number(libc::IFLA_MASTER, bridge.index);
            batch.number(libc::IFLA_GROUP, nft::PORT_GROUP);
        }
        None => batch.number(libc::IFLA_GROUP, nft::group_of(wish.network)),
    }
    write_end(batch, wish.mtu);
    let info = batch.open(libc::IFLA_LINKINFO);
    batch.string(libc::IFLA_INFO_KIND, "veth");
    let data = batch.open(libc::IFLA_INFO_DATA);
    let peer = batch.open(VETH_INFO_PEER);
    batch.bytes(&ifinfomsg(0, 0, 0));
    batch.string(libc::IFLA_IFNAME, INSIDE);
    batch.attribute(
        libc::IFLA_ADDRESS,
        &wish.mac.unwrap_or_else(|| mac_of(address)),
    );
    batch.number(libc::IFLA_NET_NS_FD, wish.namespace.as_raw_fd() as u32);
    write_end(batch, wish.mtu);
    batch.close(peer);
    batch.close(data);
    batch.close(info);
    batch.end();
}

fn write_end(batch: &mut Writer, mtu: u32) {
    batch.number(libc::IFLA_MTU, mtu);
    // Else one queue per CPU, half of the cost of the whole request.
    batch.number(libc::IFLA_NUM_TX_QUEUES, 1);
    batch.number(libc::IFLA_NUM_RX_QUEUES, 1);
}

/// Says on the link whose it is, makes it answer to the container's name, and tells the host's link `device`, behind
/// which the container is, its hardware address.
///
/// Before: the link is ours, acknowledged. Undone with the link, but for the neighbour: see [`forget_neighbour_of`].
///
/// # Errors
/// A name that a living link has.
pub fn mark(route: &mut Netlink, veth: &Veth, owner: &Owner, device: Option<u32>) -> Result<()> {
    loop {
        let done = route.exchange(
            |batch, sequence| write_marks(batch, sequence, veth, owner, device),
            |_| {},
        );
        match done {
            Err(refusal) if refusal.errno == Errno::EEXIST => {
                reclaim(
                    route,
                    &owner.name,
                    &format!("name {}", owner.name),
                    &owner.name,
                )?;
            }
            done => return done.doing(|| format!("name veth {} {}", veth.name, owner.name)),
        }
    }
}

fn write_marks(
    batch: &mut Writer,
    sequence: u32,
    veth: &Veth,
    owner: &Owner,
    device: Option<u32>,
) -> u32 {
    const RTM_NEWLINKPROP: u16 = 108; // linux/rtnetlink.h
    if let Some(device) = device {
        write_neighbour(batch, sequence, veth, device);
    }
    batch.begin(libc::RTM_NEWLINK, 0, sequence + 1, &ifinfomsg(0, 0, 0));
    batch.string(libc::IFLA_IFNAME, &veth.name);
    batch.string(libc::IFLA_IFALIAS, &Mark::Run(owner.clone()).to_string());
    batch.end();
    let append = CREATE | libc::NLM_F_APPEND as u16 | ACK;
    batch.begin(RTM_NEWLINKPROP, append, sequence + 2, &ifinfomsg(0, 0, 0));
    batch.string(libc::IFLA_IFNAME, &veth.name);
    let names = batch.open(libc::IFLA_PROP_LIST | libc::NLA_F_NESTED as u16);
    batch.string(libc::IFLA_ALT_IFNAME, &owner.name);
    batch.close(names);
    batch.end();
    sequence + 2
}

/// Permanent neighbours are not counted: of others the kernel keeps 1,024 for all namespaces together (gc_thresh3),
/// and a host that starts hundreds of containers a second would soon reach none of them. Replaced, since one that was
/// left over may be of another hardware address.
fn write_neighbour(batch: &mut Writer, sequence: u32, veth: &Veth, device: u32) {
    let replace = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let header = ndmsg(libc::AF_INET as u8, device, libc::NUD_PERMANENT);
    batch.begin(libc::RTM_NEWNEIGH, replace, sequence, &header);
    batch.attribute(libc::NDA_DST, &veth.address.octets());
    batch.attribute(libc::NDA_LLADDR, &veth.mac);
    batch.end();
}

/// A bridge keeps its permanent neighbours when they are gone: this takes one back. One that stays, because its
/// supervisor was killed, does no harm: who takes the address replaces it.
pub fn forget_neighbour_of(attachment: &Attachment) {
    let (Some(device), Some(_)) = (attachment.device, attachment.network.bridge) else {
        return;
    };
    // Gone already, with the bridge say, is what is wanted, and nothing depends on it.
    let _ = Netlink::route().and_then(|mut route| {
        route.request(|batch, sequence| {
            batch.begin(
                libc::RTM_DELNEIGH,
                ACK,
                sequence,
                &ndmsg(libc::AF_INET as u8, device, 0),
            );
            batch.attribute(libc::NDA_DST, &attachment.veth.address.octets());
            batch.end();
        })
    });
}

/// Gives the host end of a point-to-point veth the gateway's address; the route to the container comes with it. Gives the host
/// end's number.
///
/// # Errors
/// What the kernel says.
pub fn address_host_end(route: &mut Netlink, veth: &Veth, network: &Network) -> Result<u32> {
    let doing = || format!("add address {} to {}", network.gateway, veth.name);
    let link = route
        .find_link(&veth.name)
        .doing(doing)?
        .ok_or(Errno::ENODEV)
        .doing(doing)?;
    let host = Ipv4Net::new_assert(network.gateway, 32);
    bridge::add_address(route, link.index, host, Some(veth.address)).doing(doing)?;
    Ok(link.index)
}

/// A link has a name that somebody wants: waits until it is gone when its owner is dead. `ours` is the container's name
/// that we have leased: nobody else supervises one of that name.
///
/// # Errors
/// Names the owner when it lives.
fn reclaim(route: &mut Netlink, name: &str, what: &str, ours: &str) -> Result<()> {
    let mut news = Netlink::route().doing(|| "open a netlink socket".to_string())?;
    // Joined before the look, so that the end cannot be missed in between.
    news.join(libc::RTNLGRP_LINK)
        .doing(|| "listen to links".to_string())?;
    let Some(link) = route
        .find_link(name)
        .doing(|| format!("look for link {name}"))?
    else {
        return Ok(());
    };
    let holder = match &link.mark {
        Some(Mark::Run(owner)) if owner.is_dead() => None,
        Some(Mark::Run(owner)) => {
            // Whose supervisor was killed is being killed by the kernel at this moment.
            let is_supervised = owner.name != ours && control::is_supervised(&owner.name);
            if !is_supervised && wait_until_gone(&mut news, link.index)? {
                return Ok(());
            }
            Some(format!("container {} (pid {})", owner.name, owner.pid))
        }
        Some(Mark::Network(_)) => Some(format!("network {}", link.name)),
        // Not marked yet, or its maker was killed before it could.
        None if link.kind == "veth" && link.name.starts_with("hw") => {
            if wait_until_gone(&mut news, link.index)? {
                return Ok(());
            }
            Some(format!(
                "link {}, which says nothing of its owner (ip link del {0} gives it back)",
                link.name
            ))
        }
        None => Some(format!("link {}", link.name)),
    };
    if let Some(holder) = holder {
        return Err(Error::new(format!(
            "take {what}: it is in use by {holder}; choose another"
        )));
    }
    if !wait_until_gone(&mut news, link.index)? {
        bridge::delete(route, &link.name)?;
    }
    Ok(())
}

/// Waits for the kernel to say that link `index` is gone; false when it has not in time.
fn wait_until_gone(news: &mut Netlink, index: u32) -> Result<bool> {
    let doing = || "wait for a link to go".to_string();
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .as_millis() as u16;
        let mut fds = [PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(left)) {
            Ok(0) => return Ok(false),
            Err(Errno::EINTR) => continue,
            polled => polled.map_err(Refusal::from).doing(doing)?,
        };
        let is_gone = match news.receive(0) {
            Ok(len) => gone(news.received(len)).any(|link| link.index == index),
            // More news than fits: look instead.
            Err(refusal) if refusal.errno == Errno::ENOBUFS => {
                news.link(index).doing(doing)?.is_none()
            }
            Err(refusal) => return Err(refusal).doing(doing),
        };
        if is_gone {
            return Ok(true);
        }
    }
}
