//! The network that a container joins: a bridge of ours, somebody else's bridge, or point-to-point without one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hawser::netlink::{Writer, ifaddrmsg, ifinfomsg, rtmsg};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;

use crate::address::{gateway_of, host_mac_of, link_local_of, mac_of, same_host};
use crate::error::{Doing, Error, Result};
use crate::link::{Link, Mac, family, octets};
use crate::netlink::{ACK, CREATE, Netlink};
use crate::nft::{self, Policy};
use crate::owner::{Gateway6, Gateways, Mark};
use crate::state;
use crate::sysctl;
use crate::uplink::LEAST_MTU6;
use crate::wanted::{Ipv6, Wanted, choose_subnet};

/// The bridge that is used when none is named.
pub const DEFAULT_BRIDGE: &str = "hawser0";
/// What `ls` calls the network that has no bridge.
pub const POINT_TO_POINT_NAME: &str = "ptp";

/// Table and type of the two kinds of [`write_early_route`].
pub const LOCAL: (u8, u8) = (libc::RT_TABLE_LOCAL, libc::RTN_LOCAL);
/// See [`LOCAL`].
pub const UNICAST: (u8, u8) = (libc::RT_TABLE_MAIN, libc::RTN_UNICAST);

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
    /// Of one that is ours.
    pub policy: Policy,
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

    /// The host's own addresses, each with the length of its subnet.
    pub fn gateways(&self) -> (Ipv4Net, Option<Ipv6Net>) {
        let v4 = Ipv4Net::new_assert(self.gateway, self.subnet.prefix_len());
        let v6 = self.subnet6.zip(self.gateway6);
        let v6 = v6.map(|(subnet, gateway)| Ipv6Net::new_assert(gateway, subnet.prefix_len()));
        (v4, v6)
    }

    /// Its containers get IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.subnet6.is_some()
    }

    /// The same without IPv6.
    pub fn without_ipv6(self) -> Network {
        Network {
            subnet6: None,
            gateway6: None,
            ..self
        }
    }

    fn of_bridge(link: &Link, v4: Ipv4Net, v6: Option<Ipv6Net>, is_ours: bool) -> Network {
        Network {
            name: link.name.clone(),
            subnet: v4.trunc(),
            gateway: v4.addr(),
            subnet6: v6.map(|net| net.trunc()),
            gateway6: v6.map(|net| net.addr()),
            bridge: Some(Bridge {
                index: link.index,
                mac: link.mac,
            }),
            is_ours,
            is_new: false,
            policy: nft::policy_of(link.group).unwrap_or_default(),
        }
    }
}

/// The bridge is there, has its address and is up. Nothing is written when it is so already.
///
/// # Errors
/// A name that another kind of link has; another subnet on a bridge of ours; a subnet that a route has.
pub fn ensure(route: &mut Netlink, name: &str, wanted: &Wanted) -> Result<Network> {
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
fn complete(route: &mut Netlink, link: &Link, wanted: &Wanted) -> Result<Option<Network>> {
    let addresses = route
        .addresses(link.index)
        .doing(|| format!("list addresses of {}", link.name))?;
    let Some(Mark::Network(gateways)) = link.mark else {
        if is_half_made(link, &addresses) {
            return Ok(None);
        }
        return foreign(link, &addresses, wanted).map(Some);
    };
    let Gateways { v4, v6 } = gateways;
    wanted.check(&link.name, v4, v6)?;
    let has = |net: IpNet| addresses.contains(&net);
    let has_ipv6 = v6.net().is_some_and(|net| has(net.into()));
    let is_whole = link.is_up
        && nft::policy_of(link.group)
            .is_some_and(|policy| link.group == nft::group(&link.name, policy))
        && link.mac == mac_of(v4.addr())
        && has(v4.into())
        && (has_ipv6 || !may_have_ipv6(link, v6, wanted)?);
    let v6 = v6.net().filter(|_| has_ipv6);
    Ok(is_whole.then(|| Network::of_bridge(link, v4, v6, true)))
}

/// Whether a bridge of ours without IPv6 should have it.
fn may_have_ipv6(link: &Link, v6: Gateway6, wanted: &Wanted) -> Result<bool> {
    let should = match (v6, wanted.ipv6) {
        (Gateway6::At(_), Ipv6::Wanted) | (Gateway6::Undecided, Ipv6::Wanted | Ipv6::Never) => true,
        (Gateway6::Never, _) | (_, Ipv6::NotNow | Ipv6::Never) => false,
    };
    // One that is only to be told never to have any needs nothing of the host.
    Ok(should && (wanted.ipv6 == Ipv6::Never || wanted.host_has_ipv6(&link.name)?))
}

/// A bridge that somebody else made is used as it is, and never rewritten.
fn foreign(link: &Link, addresses: &[IpNet], wanted: &Wanted) -> Result<Network> {
    let name = &link.name;
    let (mut v4, mut v6) = (None, None);
    for address in addresses.iter().rev() {
        match address {
            IpNet::V4(net) => v4 = Some(*net),
            IpNet::V6(net) => v6 = Some(*net),
        }
    }
    let Some(gateway) = v4 else {
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
    // A gateway that forwards nothing would be worse than none: programs try IPv6 first, and wait.
    let is_gateway = |net: &Ipv6Net| {
        let has_room = same_host(gateway.addr(), gateway, *net).is_some();
        Ok(has_room && sysctl::forwards6(name)?)
    };
    let v6 = match v6.filter(|_| wanted.ipv6 == Ipv6::Wanted) {
        Some(net) if is_gateway(&net)? => Some(net),
        _ => None,
    };
    let has = v6.map_or(Gateway6::Never, Gateway6::At);
    wanted.check(name, gateway, has)?;
    Ok(Network::of_bridge(link, gateway, v6, false))
}

/// Ours, but its maker was killed before it could set the alias, and the link up with it: the group is in the create
/// message.
fn is_half_made(link: &Link, addresses: &[IpNet]) -> bool {
    link.mark.is_none() && nft::is_ours(link.group) && !link.is_up && addresses.is_empty()
}

fn repair(route: &mut Netlink, link: &Link, wanted: &Wanted) -> Result<Network> {
    let Some(Mark::Network(Gateways { v4, mut v6 })) = link.mark else {
        // Nothing says which length it was to have: begin again.
        delete(route, &link.name)?;
        return create(route, &link.name, wanted);
    };
    if v6 == Gateway6::Undecided {
        let routes = route.routes().doing(|| "list routes".to_string())?;
        v6 = wanted.choose_gateway6(route, &routes, &link.name, v4)?;
        wanted.check(&link.name, v4, v6)?;
    }
    configure(route, link, Gateways { v4, v6 }, wanted)
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
    let routes = route.routes().doing(|| "list routes".to_string())?;
    let routes = wanted.in_the_way(routes);
    let subnet = choose_subnet(route, &routes, wanted.subnet)?;
    let gateway = wanted.gateway.unwrap_or_else(|| gateway_of(subnet));
    let v4 = Ipv4Net::new_assert(gateway, subnet.prefix_len());
    let v6 = wanted.choose_gateway6(route, &routes, name, v4)?;
    wanted.check(name, v4, v6)?;
    check_group(route, name)?;
    route
        .request(|batch, sequence| write_bridge(batch, sequence, name, v4.addr(), wanted))
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
        let network = configure(route, &link, Gateways { v4, v6 }, wanted)?;
        Ok(Network {
            is_new: true,
            ..network
        })
    })();
    if made.is_err() {
        // The first error is the one that matters.
        let _ = delete(route, name);
    }
    made
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
    if let Some(net) = v6 {
        sysctl::ignore_advertisements(&link.name)?;
        addresses.push(net.into());
        // The kernel would make the same one, and be a second about it.
        addresses.push(Ipv6Net::new_assert(link_local_of(mac), 64).into());
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

/// Writes the request that adds an address of the host, with the one at the other end when there is no subnet on the link. An
/// IPv6 one can be used at once.
pub fn write_address(
    batch: &mut Writer,
    sequence: u32,
    index: u32,
    address: IpNet,
    peer: Option<IpAddr>,
) {
    let scope = libc::RT_SCOPE_UNIVERSE;
    let header = ifaddrmsg(
        family(address.addr()),
        address.prefix_len(),
        0,
        scope,
        index,
    );
    batch.begin(libc::RTM_NEWADDR, CREATE | ACK, sequence, &header);
    batch.attribute(libc::IFA_LOCAL, &octets(address.addr()));
    let other = peer.unwrap_or(address.addr());
    batch.attribute(libc::IFA_ADDRESS, &octets(other));
    match address {
        IpNet::V4(net) if peer.is_none() => {
            batch.attribute(libc::IFA_BROADCAST, &net.broadcast().octets());
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => batch.number(libc::IFA_FLAGS, libc::IFA_F_NODAD),
    }
    batch.end();
}

/// A bridge takes the least MTU of its ports, and with one under 1,280 bytes it would lose its IPv6 addresses: it gets that one by
/// itself before such a port comes.
///
/// # Errors
/// What the kernel says.
pub fn keep_ipv6(route: &mut Netlink, network: &Network) -> Result<()> {
    let Some(bridge) = network.bridge.filter(|_| network.is_ours) else {
        return Ok(());
    };
    route
        .request(|batch, sequence| {
            let header = ifinfomsg(bridge.index, 0, 0);
            batch.begin(libc::RTM_NEWLINK, ACK, sequence, &header);
            batch.number(libc::IFLA_MTU, LEAST_MTU6);
            batch.end();
        })
        .doing(|| format!("set MTU {LEAST_MTU6} of bridge {}", network.name))
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

/// Writes the request for a route that belongs to an IPv6 address of the host: the local one, by which packets to it are taken in,
/// or the one to the other end. The kernel leaves its own to a worker, and a container's first packet may come before that. This
/// one is there at once, and goes after a minute.
pub fn write_early_route(
    batch: &mut Writer,
    sequence: u32,
    index: u32,
    address: Ipv6Addr,
    (table, kind): (u8, u8),
) {
    const RTA_EXPIRES: u16 = 23; // linux/rtnetlink.h
    let mut header = rtmsg(libc::AF_INET6 as u8, 128, libc::RT_SCOPE_HOST, 0);
    [header[4], header[7]] = [table, kind];
    // Not exclusive: other host ends have the same address.
    let create = libc::NLM_F_CREATE as u16 | ACK;
    batch.begin(libc::RTM_NEWROUTE, create, sequence, &header);
    batch.attribute(libc::RTA_DST, &address.octets());
    batch.number(libc::RTA_OIF, index);
    batch.number(RTA_EXPIRES, 60);
    batch.end();
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
        if let (Some(subnet), Some(gateway)) = (self.subnet6, self.gateway6) {
            write!(f, ", {subnet} gateway {gateway}")?;
        }
        if let Some(bridge) = self.bridge {
            write!(f, " ({})", hawser::address::Mac(bridge.mac))?;
        }
        Ok(())
    }
}
