//! What there is to know of a network that containers join.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::address::{host_mac_of, same_host};
use crate::error::{Doing, Result};
use crate::link::{Link, Mac};
use crate::netlink::Netlink;
use crate::nft::{self, Policy};
use crate::owner::{Gateways, Mark, leased_address};
use crate::sysctl;

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
    /// The host's addresses on the bridge, also of a family that its next container has not.
    pub own: Vec<IpAddr>,
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
    /// What it said when it was looked at: see [`Link::forwards4`].
    pub forwards4: bool,
}

/// The addresses that a bridge of ours is to have. The kernel takes IPv6 off a link by a switch, too.
pub fn own_addresses(name: &str, gateways: &Gateways) -> impl Iterator<Item = IpNet> {
    let has_ipv6 = sysctl::ipv6_is_off(name).is_ok_and(|why| why.is_none());
    let v6 = gateways.v6.net().filter(|_| has_ipv6).map(IpNet::V6);
    [Some(IpNet::V4(gateways.v4)), v6].into_iter().flatten()
}

/// Which of its addresses a bridge of ours has lost.
///
/// # Errors
/// What the kernel says.
pub fn lost_address(route: &mut Netlink, bridge: &Link) -> Result<Option<IpNet>> {
    let Some(Mark::Network(gateways)) = &bridge.mark else {
        return Ok(None);
    };
    let there = route.addresses(bridge.index);
    let there = there.doing(|| format!("look at the addresses of {}", bridge.name))?;
    Ok(own_addresses(&bridge.name, gateways).find(|net| !there.contains(net)))
}

/// Whether the host end of a container was made as a port of a bridge, and is none: somebody has deleted that, or has taken it out.
pub fn is_stray(end: &Link) -> bool {
    // Of a point-to-point container it has the network's group.
    end.controller.is_none() && leased_address(&end.name).is_some() && !nft::is_ours(end.group)
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

    /// The IPv6 address that goes with an IPv4 address of its.
    pub fn partner6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        same_host(address, self.subnet, self.subnet6?)
    }

    /// Whether the address, or the one that goes with it, is the host's own.
    pub fn is_own(&self, address: Ipv4Addr) -> bool {
        let six = self.partner6(address);
        let is_own6 = |six: Ipv6Addr| Some(six) == self.gateway6 || self.own.contains(&six.into());
        address == self.gateway || self.own.contains(&address.into()) || six.is_some_and(is_own6)
    }

    /// The host has IPv6 on the bridge, whatever its next container gets.
    pub fn hosts_ipv6(&self) -> bool {
        self.own.iter().any(IpAddr::is_ipv6)
    }

    /// What cures the refusals of who comes to a network at its end.
    pub fn run_again(&self) -> String {
        format!("{} has just been removed; run it again", self.name)
    }

    /// The same without IPv6.
    pub fn without_ipv6(self) -> Network {
        Network {
            subnet6: None,
            gateway6: None,
            ..self
        }
    }

    pub(super) fn of_bridge(
        link: &Link,
        v4: Ipv4Net,
        v6: Option<Ipv6Net>,
        is_ours: bool,
    ) -> Network {
        Network {
            name: link.name.clone(),
            subnet: v4.trunc(),
            gateway: v4.addr(),
            subnet6: v6.map(|net| net.trunc()),
            gateway6: v6.map(|net| net.addr()),
            bridge: Some(Bridge {
                index: link.index,
                mac: link.mac,
                forwards4: link.forwards4,
            }),
            own: [Some(v4.addr().into()), v6.map(|net| net.addr().into())]
                .into_iter()
                .flatten()
                .collect(),
            is_ours,
            is_new: false,
            policy: nft::policy_of(link.group).unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} {} gateway {}", self.name, self.subnet, self.gateway)?;
        if let (Some(subnet), Some(gateway)) = (self.subnet6, self.gateway6) {
            write!(f, ", {subnet} gateway {gateway}")?;
        }
        // A bridge that nobody gave an address has none as long as it has no ports, if it had some once.
        if let Some(bridge) = self.bridge.filter(|bridge| bridge.mac != [0; 6]) {
            write!(f, " ({})", hawser::address::Mac(bridge.mac))?;
        }
        Ok(())
    }
}
