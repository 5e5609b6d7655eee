//! A bridge that is there: whether it is ours and whole, ours and half made, or somebody else's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::Network;
use crate::address::{mac_of, same_host};
use crate::error::{Doing, Error, Result};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{Gateway6, Gateways, Mark};
use crate::sysctl;
use crate::wanted::{Ipv6, Wanted};

/// The network of this bridge, or `None` when it is ours and something is missing.
pub(super) fn complete(
    route: &mut Netlink,
    link: &Link,
    wanted: &Wanted,
) -> Result<Option<Network>> {
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
        && (!link.heeds_routers || sysctl::is_read_only())
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
    let fours = addresses.iter().filter_map(|address| match address {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    });
    // A bridge may have addresses of its own before the one of its subnet.
    let has_room = |net: &Ipv4Net| (8..=30).contains(&net.prefix_len());
    let Some(gateway) = fours.clone().find(has_room).or(fours.clone().next()) else {
        return Err(Error::new(format!(
            "use bridge {name}: it is not ours and has no IPv4 address for a gateway; give it one, or choose another"
        )));
    };
    if !link.is_up {
        return Err(Error::new(format!(
            "use bridge {name}: it is not ours and is down; set it up, or choose another"
        )));
    }
    if !has_room(&gateway) {
        return Err(Error::new(format!(
            "use bridge {name}: its subnet {gateway} has no room; its length must be 8 to 30"
        )));
    }
    let v6 = addresses.iter().find_map(|address| match address {
        IpNet::V6(net) if same_host(gateway.addr(), gateway, *net).is_some() => Some(*net),
        _ => None,
    });
    // A gateway that forwards nothing would be worse than none: programs try IPv6 first, and wait.
    let v6 = match v6.filter(|_| wanted.ipv6 == Ipv6::Wanted) {
        Some(net) if sysctl::forwards6(name)? => Some(net),
        _ => None,
    };
    let has = v6.map_or(Gateway6::Never, Gateway6::At);
    wanted.check(name, gateway, has)?;
    let network = Network {
        own: addresses.iter().map(IpNet::addr).collect(),
        ..Network::of_bridge(link, gateway, v6, false)
    };
    let fixed = wanted.fixed_address(gateway, v6)?;
    refuse_own(&network, fixed, wanted.address6)?;
    Ok(network)
}

/// A container with an address of the host's own would be reached by nobody.
fn refuse_own(
    network: &Network,
    address: Option<Ipv4Addr>,
    address6: Option<Ipv6Addr>,
) -> Result<()> {
    let partner = address.and_then(|address| network.partner6(address));
    let addresses = [
        address.map(IpAddr::V4),
        address6.or(partner).map(IpAddr::V6),
    ];
    let own = |address: &IpAddr| network.own.contains(address);
    match addresses.into_iter().flatten().find(own) {
        Some(address) => Err(Error::new(format!(
            "use address {address}: it is the host's own on bridge {}; choose another",
            network.name
        ))),
        None => Ok(()),
    }
}

/// Ours, but its maker was killed before it could set the alias, and the link up with it: the group is in the create
/// message.
pub(super) fn is_half_made(link: &Link, addresses: &[IpNet]) -> bool {
    link.mark.is_none() && nft::is_ours(link.group) && !link.is_up && addresses.is_empty()
}
