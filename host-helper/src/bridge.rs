//! The network that a container joins: a bridge of ours, somebody else's bridge, or point-to-point without one.

mod found;
mod gateway;
mod network;

use std::net::{IpAddr, Ipv4Addr};

use hawser::netlink::{Writer, ifinfomsg};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;

use crate::address::{gateway_of, link_local_of, mac_of};
use crate::error::{Doing, Error, Result};
use crate::hosts;
use crate::link::{self, Link};
use crate::netlink::{ACK, CREATE, Netlink};
use crate::nft::{self, Policy};
use crate::owner::{Gateway6, Gateways, Mark};
use crate::state;
use crate::sysctl;
use crate::uplink::LEAST_MTU6;
use crate::wanted::Wanted;

pub use gateway::{LOCAL, UNICAST, write_address, write_early_route};
pub use network::{Bridge, Network, is_stray, lost_address, own_addresses};

use found::{complete, is_half_made};

/// The bridge that is used when none is named.
pub const DEFAULT_BRIDGE: &str = "hawser0";
/// What `ls` calls the network that has no bridge.
pub const POINT_TO_POINT_NAME: &str = "ptp";

/// The bridge is there, has its address and is up. Nothing is written when it is so already.
///
/// # Errors
/// A name that another kind of link has; another subnet on a bridge of ours; a subnet that a route has.
pub fn ensure(route: &mut Netlink, name: &str, wanted: &Wanted) -> Result<Network> {
    check_usable(name)?;
    // One of our group without a mark is being made at this moment, and cannot be judged before that is over.
    let settled =
        find(route, name)?.filter(|link| link.mark.is_some() || !nft::is_ours(link.group));
    if let Some(link) = settled {
        if let Some(network) = complete(route, &link, wanted)? {
            return Ok(network);
        }
    }
    // Missing or half-made: one at a time, and whoever comes second finds it whole.
    let _lock = state::lock()?;
    match find(route, name)? {
        Some(link) => match complete(route, &link, wanted)? {
            Some(network) => Ok(network),
            None => repair(route, &link, wanted),
        },
        None => create(route, name, wanted),
    }
}

/// The network that [`ensure`] would give, by what it finds and chooses. Nothing is written; one that would be made has no bridge yet.
///
/// # Errors
/// As [`ensure`], but for what the kernel says of what is made.
pub fn look(route: &mut Netlink, name: &str, wanted: &Wanted) -> Result<Network> {
    check_usable(name)?;
    let found = find(route, name)?;
    if let Some(link) = &found {
        if let Some(network) = complete(route, link, wanted)? {
            return Ok(network);
        }
        if let Some(Gateways { v4, v6 }) = gateways_of(route, link, wanted)? {
            return Ok(Network::of_bridge(link, v4, v6.net(), true));
        }
    } else {
        check_group(route, name)?;
    }
    let Gateways { v4, v6 } = choose_gateways(route, name, wanted)?;
    Ok(Network {
        name: name.to_string(),
        subnet: v4.trunc(),
        gateway: v4.addr(),
        subnet6: v6.net().map(|net| net.trunc()),
        gateway6: v6.net().map(|net| net.addr()),
        bridge: None,
        own: Vec::new(),
        is_ours: true,
        is_new: true,
        policy: wanted.policy.unwrap_or_default(),
    })
}

/// Refuses a name that no bridge of ours can have.
///
/// # Errors
/// What is wrong with it: no link's name; that of a container's link, or of the network without a bridge.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    link::check_name(name)?;
    if name.starts_with("hw") {
        return Err("names that begin with hw are our containers' links; choose another".into());
    }
    if name == POINT_TO_POINT_NAME {
        return Err("the network without a bridge is called so; choose another".into());
    }
    Ok(())
}

fn check_usable(name: &str) -> Result<()> {
    check_name(name).map_err(|why| Error::new(format!("use bridge {name:?}: {why}")))
}

fn find(route: &mut Netlink, name: &str) -> Result<Option<Link>> {
    let Some(link) = route
        .find_link(name)
        .doing(|| format!("look for bridge {name}"))?
    else {
        return Ok(None);
    };
    if link.kind != "bridge" {
        let kind = if link.kind.is_empty() {
            "hardware"
        } else {
            &link.kind
        };
        return Err(Error::new(format!(
            "use bridge {name}: there is a link of that name that is no bridge but {kind}; choose another name"
        )));
    }
    Ok(Some(link))
}

fn repair(route: &mut Netlink, link: &Link, wanted: &Wanted) -> Result<Network> {
    match gateways_of(route, link, wanted)? {
        Some(gateways) => configure(route, link, gateways, wanted),
        None => {
            // Nothing says which length it was to have: begin again.
            delete(route, &link.name)?;
            create(route, &link.name, wanted)
        }
    }
}

/// The gateways of a bridge of ours, and what is to be decided of them; `None`: nothing says what they were to be.
fn gateways_of(route: &mut Netlink, link: &Link, wanted: &Wanted) -> Result<Option<Gateways>> {
    let Some(Mark::Network(Gateways { v4, mut v6 })) = link.mark else {
        return Ok(None);
    };
    if v6 == Gateway6::Undecided {
        let routes = route.routes().doing(|| "list routes".to_string())?;
        let routes = wanted.in_the_way(routes);
        v6 = wanted.choose_gateway6(route, &routes, &link.name, v4)?;
        wanted.check(&link.name, v4, v6)?;
    }
    Ok(Some(Gateways { v4, v6 }))
}

/// The gateways of a bridge that is to be made.
fn choose_gateways(route: &mut Netlink, name: &str, wanted: &Wanted) -> Result<Gateways> {
    let routes = route.routes().doing(|| "list routes".to_string())?;
    let routes = wanted.in_the_way(routes);
    let subnet = wanted.choose_subnet(route, &routes)?;
    let gateway = wanted.gateway.unwrap_or_else(|| gateway_of(subnet));
    let v4 = Ipv4Net::new_assert(gateway, subnet.prefix_len());
    let v6 = wanted.choose_gateway6(route, &routes, name, v4)?;
    wanted.check(name, v4, v6)?;
    Ok(Gateways { v4, v6 })
}

/// The firewall tells networks apart by their groups, and a group has 24 bits of the name's hash.
fn check_group(route: &mut Netlink, name: &str) -> Result<()> {
    let group = nft::group_of_name(name);
    let links = route.links().doing(|| "list links".into())?;
    let is_same =
        |link: &&Link| nft::is_ours(link.group) && nft::group_of_hash(link.group) == group;
    match links.iter().find(is_same) {
        Some(other) => Err(Error::new(format!(
            "create bridge {name}: link {} has the same group ({group:#x}), by which the firewall tells networks apart; choose another name",
            other.name
        ))),
        None => Ok(()),
    }
}

fn create(route: &mut Netlink, name: &str, wanted: &Wanted) -> Result<Network> {
    let gateways = choose_gateways(route, name, wanted)?;
    check_group(route, name)?;
    let v4 = gateways.v4;
    let made = route
        .request(|batch, sequence| write_bridge(batch, sequence, name, v4.addr(), wanted))
        .doing(|| format!("create bridge {name}"))
        .map_err(|e| {
            e.cure(
                Errno::EOPNOTSUPP,
                "the kernel lacks bridges: enable CONFIG_BRIDGE (modprobe bridge)",
            )
        });
    // It is there if the kernel has made it, and had no memory to say so.
    made.inspect_err(|_| drop(delete_half_made(route, name)))?;
    let made = (|| {
        let link = find(route, name)?
            .ok_or_else(|| Error::new(format!("find bridge {name}: it is gone again")))?;
        let network = configure(route, &link, gateways, wanted)?;
        Ok(Network {
            is_new: true,
            ..network
        })
    })();
    hosts::begin(name);
    if made.is_err() {
        // The first error is the one that matters.
        let _ = delete(route, name);
    }
    made
}

/// Deletes a bridge of this name that is ours and not whole; another one stays.
///
/// Before: nobody else is making it.
fn delete_half_made(route: &mut Netlink, name: &str) -> Result<()> {
    let Some(link) = find(route, name)? else {
        return Ok(());
    };
    let addresses = route
        .addresses(link.index)
        .doing(|| format!("list addresses of {name}"))?;
    if is_half_made(&link, &addresses) {
        delete(route, name)?;
    }
    Ok(())
}

fn write_bridge(batch: &mut Writer, sequence: u32, name: &str, gateway: Ipv4Addr, wanted: &Wanted) {
    // linux/if_link.h; snooping would only cost: a timer per port, and no user of multicast groups to speak of.
    const IFLA_BR_MCAST_SNOOPING: u16 = 23;
    batch.begin(
        libc::RTM_NEWLINK,
        CREATE | ACK,
        sequence,
        &ifinfomsg(0, 0, 0),
    );
    batch.string(libc::IFLA_IFNAME, name);
    let policy = wanted.policy.unwrap_or_default();
    batch.number(libc::IFLA_GROUP, nft::group(name, policy));
    // In the create message: a bridge that follows its ports' addresses, or udev's, breaks its neighbours' caches.
    batch.attribute(libc::IFLA_ADDRESS, &mac_of(gateway));
    let info = batch.open(libc::IFLA_LINKINFO);
    batch.string(libc::IFLA_INFO_KIND, "bridge");
    let data = batch.open(libc::IFLA_INFO_DATA);
    batch.attribute(IFLA_BR_MCAST_SNOOPING, &[0]);
    batch.close(data);
    batch.close(info);
    batch.end();
}

/// Alias, addresses, up: each is no error when it is so already.
fn configure(
    route: &mut Netlink,
    link: &Link,
    gateways: Gateways,
    wanted: &Wanted,
) -> Result<Network> {
    let up = libc::IFF_UP as u32;
    let mac = mac_of(gateways.v4.addr());
    let policy = nft::policy_of(link.group).or(wanted.policy);
    let group = nft::group(&link.name, policy.unwrap_or_default());
    route
        .request(|batch, sequence| {
            batch.begin(
                libc::RTM_NEWLINK,
                ACK,
                sequence,
                &ifinfomsg(link.index, up, up),
            );
            batch.string(libc::IFLA_IFALIAS, &Mark::Network(gateways).to_string());
            batch.number(libc::IFLA_GROUP, group);
            if link.mac != mac {
                batch.attribute(libc::IFLA_ADDRESS, &mac);
            }
            batch.end();
        })
        .doing(|| format!("set up bridge {}", link.name))?;
    let mut addresses = vec![IpNet::from(gateways.v4)];
    let v6 = match gateways.v6.net() {
        Some(net) if sysctl::ipv6_is_off(&link.name)?.is_none() => Some(net),
        _ => None,
    };
    if v6.is_some() && !sysctl::is_ready_for_ipv6(&link.name) {
        // Somebody has made its MTU too small since.
        set_least_mtu6(route, link.index, &link.name)?;
    }
    ignore_routers(&link.name, policy.unwrap_or_default())?;
    if let Some(net) = v6 {
        // The kernel would make the same one, and be a second about it. Before the one by which the bridge counts as whole.
        addresses.push(Ipv6Net::new_assert(link_local_of(mac), 64).into());
        addresses.push(net.into());
    }
    for address in addresses {
        let added = route.request(|batch, sequence| {
            write_address(batch, sequence, link.index, address, None);
        });
        match added {
            Err(refusal) if refusal.errno == Errno::EEXIST => {}
            added => added.doing(|| format!("add address {address} to {}", link.name))?,
        }
        if let IpAddr::V6(address) = address.addr() {
            // There already is the same.
            let _ = route.request(|batch, sequence| {
                write_early_route(batch, sequence, link.index, address, LOCAL);
            });
        }
    }
    let link = Link {
        mac,
        group,
        ..link.clone()
    };
    Ok(Network::of_bridge(&link, gateways.v4, v6, true))
}

/// Routers that advertise themselves on a link of ours are not heeded: containers may say anything there. The rules drop what guarded ones
/// say, so that a `/proc/sys` that is read-only is no hindrance to those.
///
/// # Errors
/// The host would heed them, and cannot be told not to.
pub fn ignore_routers(link: &str, policy: Policy) -> Result<()> {
    match sysctl::ignore_advertisements(link) {
        Err(error) if error.errno == Some(Errno::EROFS) && policy == Policy::Guarded => Ok(()),
        done => done,
    }
}

/// What comes in by a bridge of ours is forwarded, as soon as the host forwards at all. One that has gone is found out by others.
///
/// # Errors
/// What the kernel says.
pub fn ensure_forwarding4(route: &mut Netlink, network: &Network) -> Result<()> {
    let Some(bridge) = network.bridge.filter(|bridge| !bridge.forwards4) else {
        return Ok(());
    };
    let done = route.request(|batch, sequence| {
        batch.begin(
            libc::RTM_NEWLINK,
            ACK,
            sequence,
            &ifinfomsg(bridge.index, 0, 0),
        );
        link::write_forwarding(batch);
        batch.end();
    });
    match done {
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(()),
        done => done.doing(|| format!("forward IPv4 from {}", network.name)),
    }
}

/// A bridge takes the least MTU of its ports, and with one under 1,280 bytes it would lose its IPv6 addresses: it gets that one by
/// itself before such a port comes.
///
/// # Errors
/// What the kernel says.
pub fn keep_ipv6(route: &mut Netlink, network: &Network) -> Result<()> {
    match network
        .bridge
        .filter(|_| network.is_ours && network.hosts_ipv6())
    {
        Some(bridge) => set_least_mtu6(route, bridge.index, &network.name),
        None => Ok(()),
    }
}

fn set_least_mtu6(route: &mut Netlink, index: u32, name: &str) -> Result<()> {
    route
        .request(|batch, sequence| {
            batch.begin(libc::RTM_NEWLINK, ACK, sequence, &ifinfomsg(index, 0, 0));
            batch.number(libc::IFLA_MTU, LEAST_MTU6);
            batch.end();
        })
        .doing(|| format!("set MTU {LEAST_MTU6} of bridge {name}"))
}

/// The bridge takes in frames to anybody: those between its ports go up to the host too.
///
/// # Errors
/// What the kernel says.
pub fn take_all_frames(route: &mut Netlink, network: &Network) -> Result<()> {
    let Some(bridge) = network.bridge else {
        return Ok(());
    };
    let promiscuous = libc::IFF_PROMISC as u32;
    route
        .request(|batch, sequence| {
            let header = ifinfomsg(bridge.index, promiscuous, promiscuous);
            batch.begin(libc::RTM_NEWLINK, ACK, sequence, &header);
            batch.end();
        })
        .doing(|| format!("make bridge {} promiscuous", network.name))
}

/// Deletes a bridge. Gone already is success.
///
/// # Errors
/// What the kernel says.
pub fn delete(route: &mut Netlink, name: &str) -> Result<()> {
    let done = route.request(|batch, sequence| {
        batch.begin(libc::RTM_DELLINK, ACK, sequence, &ifinfomsg(0, 0, 0));
        batch.string(libc::IFLA_IFNAME, name);
        batch.end();
    });
    match done {
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(()),
        done => done.doing(|| format!("delete link {name}")),
    }
}
