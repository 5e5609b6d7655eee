//! The network that a container joins: a bridge of ours, somebody else's bridge, or point-to-point without one.

use std::net::{Ipv4Addr, Ipv6Addr};

use hawser::netlink::{Writer, ifaddrmsg, ifinfomsg};
use ipnet::{Ipv4Net, Ipv6Net};
use nix::errno::Errno;

use crate::address::{
    Subnet, check_fixed, colliding_route, free_subnet, gateway_of, host_mac_of, mac_of,
};
use crate::error::{Doing, Error, Refusal, Result};
use crate::link::{Link, Mac, Route};
use crate::netlink::{ACK, CREATE, Netlink};
use crate::nft;
use crate::owner::Mark;
use crate::state;

/// The bridge that is used when none is named.
pub const DEFAULT_BRIDGE: &str = "hawser0";
/// Its subnet, unless a route of the host has it.
const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 19, 0, 0), 16);
/// What `ls` calls the network that has no bridge.
pub const POINT_TO_POINT_NAME: &str = "ptp";

/// A network that containers can be attached to.
#[derive(Debug, Clone)]
pub struct Network {
    /// The bridge's name, or "ptp".
    pub name: String,
    /// Where its addresses are from.
    pub subnet: Ipv4Net,
    /// The host's own address in it.
    pub gateway: Ipv4Addr,
    /// Where its IPv6 addresses are from; `None`: it has none.
    pub subnet6: Option<Ipv6Net>,
    /// The host's own address in it.
    pub gateway6: Option<Ipv6Addr>,
    /// The bridge, unless it is point-to-point.
    pub bridge: Option<Bridge>,
    /// False for a bridge that somebody else made: it is used as it is, and NAT is theirs too.
    pub is_ours: bool,
    /// Made a moment ago.
    pub is_new: bool,
}

/// What there is to know of a bridge.
#[derive(Debug, Clone, Copy)]
pub struct Bridge {
    /// Its number.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
}

impl Network {
    /// The hardware address of the gateway, as the container with `address` sees it.
    pub fn gateway_mac(&self, address: Ipv4Addr) -> Mac {
        self.bridge
            .map_or_else(|| host_mac_of(address), |bridge| bridge.mac)
    }

    fn of_bridge(link: &Link, gateway: Ipv4Net, is_ours: bool) -> Network {
        Network {
            name: link.name.clone(),
            subnet: gateway.trunc(),
            gateway: gateway.addr(),
            subnet6: None,
            gateway6: None,
            bridge: Some(Bridge {
                index: link.index,
                mac: link.mac,
            }),
            is_ours,
            is_new: false,
        }
    }
}

/// The bridge is there, has its address and is up. Nothing is written when it is so already.
///
/// # Errors
/// A name that another kind of link has; another subnet on a bridge of ours; a subnet that a route has.
pub fn ensure(route: &mut Netlink, name: &str, wanted: Wanted) -> Result<Network> {
    check_name(name)?;
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

fn check_name(name: &str) -> Result<()> {
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%';
    if name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || !name.bytes().all(is_plain)
        || matches!(name, "." | "..")
    {
        return Err(Error::new(format!(
            "use bridge {name:?}: a link's name has 1 to 15 visible characters, no / : %"
        )));
    }
    if name.starts_with("hw") {
        return Err(Error::new(format!(
            "use bridge {name}: names that begin with hw are our containers' links; choose another"
        )));
    }
    Ok(())
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
            "use bridge {name}: there is a link of that name that is no bridge but {kind}; choose another with --bridge"
        )));
    }
    Ok(Some(link))
}

/// The network of this bridge, or `None` when it is ours and something is missing.
fn complete(route: &mut Netlink, link: &Link, wanted: Wanted) -> Result<Option<Network>> {
    let addresses = route
        .addresses(link.index)
        .doing(|| format!("list addresses of {}", link.name))?;
    let Some(Mark::Network(gateway)) = link.mark else {
        if is_half_made(link, &addresses) {
            return Ok(None);
        }
        return foreign(link, &addresses, wanted).map(Some);
    };
    wanted.check(&link.name, gateway)?;
    let is_whole =
        link.is_up && link.group == nft::group_of_name(&link.name) && addresses.contains(&gateway);
    Ok(is_whole.then(|| Network::of_bridge(link, gateway, true)))
}

/// A bridge that somebody else made is used as it is, and never rewritten.
fn foreign(link: &Link, addresses: &[Ipv4Net], wanted: Wanted) -> Result<Network> {
    let name = &link.name;
    let Some(gateway) = addresses.first() else {
        return Err(Error::new(format!(
            "use bridge {name}: it is not ours and has no IPv4 address for a gateway; give it one, or choose another"
        )));
    };
    if !link.is_up {
        return Err(Error::new(format!(
            "use bridge {name}: it is not ours and is down; set it up, or choose another"
        )));
    }
    if !(8..=30).contains(&gateway.prefix_len()) {
        return Err(Error::new(format!(
            "use bridge {name}: its subnet {gateway} has no room; its length must be 8 to 30"
        )));
    }
    wanted.check(name, *gateway)?;
    Ok(Network::of_bridge(link, *gateway, false))
}

/// What was asked of a network.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Its subnet.
    pub subnet: Option<Subnet>,
    /// An address that a container is to get.
    pub address: Option<Ipv4Addr>,
}

impl Wanted {
    /// Refuses what the network with this gateway cannot give.
    ///
    /// # Errors
    /// Another subnet, both named; an address that no container of it can have.
    pub fn check(&self, name: &str, gateway: Ipv4Net) -> Result<()> {
        let has = gateway.trunc();
        match self.subnet {
            Some(Subnet::Fixed(wanted)) if wanted != has => Err(Error::new(format!(
                "use subnet {wanted} on bridge {name}: the bridge has {has}; leave --subnet out, or choose another --bridge"
            ))),
            _ => self
                .address
                .map_or(Ok(()), |address| check_fixed(address, has, gateway.addr())),
        }
    }
}

/// Ours, but its maker was killed before it could set the alias, and the link up with it: the group is in the create
/// message.
fn is_half_made(link: &Link, addresses: &[Ipv4Net]) -> bool {
    link.mark.is_none() && nft::is_ours(link.group) && !link.is_up && addresses.is_empty()
}

fn repair(route: &mut Netlink, link: &Link, wanted: Wanted) -> Result<Network> {
    let gateway = match link.mark {
        Some(Mark::Network(gateway)) => gateway,
        _ => {
            // Nothing says which length it was to have: begin again.
            delete(route, &link.name)?;
            return create(route, &link.name, wanted);
        }
    };
    configure(route, link, gateway)?;
    Ok(Network::of_bridge(link, gateway, true))
}

fn create(route: &mut Netlink, name: &str, wanted: Wanted) -> Result<Network> {
    let subnet = choose_subnet(route, wanted.subnet)?;
    let gateway = Ipv4Net::new_assert(gateway_of(subnet), subnet.prefix_len());
    wanted.check(name, gateway)?;
    route
        .request(|batch, sequence| write_bridge(batch, sequence, name, gateway.addr()))
        .doing(|| format!("create bridge {name}"))
        .map_err(|e| {
            e.cure(
                Errno::EOPNOTSUPP,
                "the kernel lacks bridges: enable CONFIG_BRIDGE (modprobe bridge)",
            )
        })?;
    let made = (|| {
        let link = find(route, name)?
            .ok_or_else(|| Error::new(format!("find bridge {name}: it is gone again")))?;
        configure(route, &link, gateway)?;
        Ok(Network {
            is_new: true,
            ..Network::of_bridge(&link, gateway, true)
        })
    })();
    if made.is_err() {
        // The first error is the one that matters.
        let _ = delete(route, name);
    }
    made
}

fn write_bridge(batch: &mut Writer, sequence: u32, name: &str, gateway: Ipv4Addr) {
    // linux/if_link.h; snooping would only cost: a timer per port, and no user of multicast groups to speak of.
    const IFLA_BR_MCAST_SNOOPING: u16 = 23;
    batch.begin(
        libc::RTM_NEWLINK,
        CREATE | ACK,
        sequence,
        &ifinfomsg(0, 0, 0),
    );
    batch.string(libc::IFLA_IFNAME, name);
    batch.number(libc::IFLA_GROUP, nft::group_of_name(name));
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

/// Alias, address, up: each is no error when it is so already.
fn configure(route: &mut Netlink, link: &Link, gateway: Ipv4Net) -> Result<()> {
    let up = libc::IFF_UP as u32;
    route
        .request(|batch, sequence| {
            batch.begin(
                libc::RTM_NEWLINK,
                ACK,
                sequence,
                &ifinfomsg(link.index, up, up),
            );
            batch.string(libc::IFLA_IFALIAS, &Mark::Network(gateway).to_string());
            batch.number(libc::IFLA_GROUP, nft::group_of_name(&link.name));
            batch.end();
        })
        .doing(|| format!("set up bridge {}", link.name))?;
    add_address(route, link.index, gateway, None)
        .doing(|| format!("add address {gateway} to {}", link.name))
}

/// Adds an address of the host, with the one at the other end when there is no subnet on the link.
///
/// # Errors
/// What the kernel says; an address that is there already is success.
pub fn add_address(
    route: &mut Netlink,
    index: u32,
    address: Ipv4Net,
    peer: Option<Ipv4Addr>,
) -> std::result::Result<(), Refusal> {
    let added = route.request(|batch, sequence| {
        let header = ifaddrmsg(
            libc::AF_INET as u8,
            address.prefix_len(),
            0,
            libc::RT_SCOPE_UNIVERSE,
            index,
        );
        batch.begin(libc::RTM_NEWADDR, CREATE | ACK, sequence, &header);
        batch.attribute(libc::IFA_LOCAL, &address.addr().octets());
        batch.attribute(libc::IFA_ADDRESS, &peer.unwrap_or(address.addr()).octets());
        if peer.is_none() {
            batch.attribute(libc::IFA_BROADCAST, &address.broadcast().octets());
        }
        batch.end();
    });
    match added {
        Err(refusal) if refusal.errno == Errno::EEXIST => Ok(()),
        added => added,
    }
}

fn choose_subnet(route: &mut Netlink, wanted: Option<Subnet>) -> Result<Ipv4Net> {
    let routes = route.routes().doing(|| "list routes".to_string())?;
    match wanted {
        Some(Subnet::Fixed(subnet)) => match colliding_route(&routes, subnet) {
            Some(taken) => Err(collision(route, subnet, taken)),
            None => Ok(subnet),
        },
        None if colliding_route(&routes, DEFAULT_SUBNET).is_none() => Ok(DEFAULT_SUBNET),
        _ => free_subnet(&routes, DEFAULT_SUBNET.prefix_len()),
    }
}

/// The error of who wants a subnet that a route has.
pub fn collision(route: &mut Netlink, subnet: Ipv4Net, taken: &Route) -> Error {
    let mut text = format!(
        "use subnet {subnet}: the host has a route to {}",
        taken.destination
    );
    if let Some(gateway) = taken.gateway {
        text += &format!(" via {gateway}");
    }
    if let Some(Ok(Some(link))) = taken.link.map(|index| route.link(index)) {
        text += &format!(" dev {}", link.name);
    }
    Error::new(text + "; choose another subnet, or --subnet auto")
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

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} {} gateway {}", self.name, self.subnet, self.gateway)?;
        if let Some(bridge) = self.bridge {
            write!(f, " ({})", hawser::address::Mac(bridge.mac))?;
        }
        Ok(())
    }
}
