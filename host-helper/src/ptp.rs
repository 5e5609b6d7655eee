//! The network without a bridge: a route of its own to each container.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::address::{Subnet, colliding_route, gateway_of, is_default, same_host, unique_local};
use crate::bridge::{Network, POINT_TO_POINT_NAME};
use crate::error::{Doing, Result};
use crate::link::Route;
use crate::netlink::Netlink;
use crate::owner::{self, Gateway6};
use crate::state;
use crate::wanted::{Ipv6, Wanted};

/// The range of its containers, unless a route of the host has it.
pub const POINT_TO_POINT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 24);

/// The point-to-point network: nothing is made for it but its ranges are chosen, which costs one look at the routes
/// only when a route has the usual ones.
///
/// # Errors
/// A subnet that a route has.
pub fn choose(route: &mut Netlink, wanted: &Wanted) -> Result<Network> {
    let name = POINT_TO_POINT_NAME.to_string();
    let of = |subnet| wanted.gateway.unwrap_or_else(|| gateway_of(subnet));
    let subnet = choose_v4(route, wanted, of)?;
    let gateway = Ipv4Net::new_assert(of(subnet), subnet.prefix_len());
    let v6 = choose_v6(route, wanted, gateway)?;
    wanted.check(&name, gateway, v6.map_or(Gateway6::Undecided, Gateway6::At))?;
    Ok(Network {
        name,
        subnet,
        gateway: gateway.addr(),
        subnet6: v6.map(|net| net.trunc()),
        gateway6: v6.map(|net| net.addr()),
        bridge: None,
        own: Vec::new(),
        is_ours: true,
        is_new: false,
        policy: wanted.policy.unwrap_or_default(),
    })
}

fn choose_v4(
    route: &mut Netlink,
    wanted: &Wanted,
    gateway_of: impl Fn(Ipv4Net) -> Ipv4Addr,
) -> Result<Ipv4Net> {
    let usual = match wanted.subnet {
        None => Some(POINT_TO_POINT),
        Some(Subnet::Fixed(subnet)) => Some(subnet),
        Some(Subnet::Auto) => None,
    };
    if let Some(subnet) = usual {
        let addresses = [gateway_of(subnet), wanted.address.unwrap_or(subnet.addr())];
        if is_free(route, wanted, subnet.into(), addresses.map(IpAddr::V4))? {
            return Ok(subnet);
        }
    }
    let routes = wanted.in_the_way(foreign_routes(route)?);
    match wanted.subnet {
        Some(Subnet::Fixed(subnet)) => {
            refuse_taken(route, wanted, &routes, subnet.into()).map(|()| subnet)
        }
        _ => wanted.free_subnet(&routes, POINT_TO_POINT.prefix_len()),
    }
}

/// Its address in the IPv6 subnet that goes with this machine and the IPv4 subnet.
fn choose_v6(route: &mut Netlink, wanted: &Wanted, v4: Ipv4Net) -> Result<Option<Ipv6Net>> {
    if wanted.ipv6 != Ipv6::Wanted || !wanted.host_has_ipv6(POINT_TO_POINT_NAME)? {
        return Ok(None);
    }
    let name = v4.trunc().to_string();
    let usual = match wanted.subnet6 {
        Some(subnet) => subnet,
        None => unique_local(&state::machine_id()?, &name, 0),
    };
    let gateway = |subnet| same_host(v4.addr(), v4, subnet).unwrap_or(subnet.addr());
    let addresses = [gateway(usual), wanted.address6.unwrap_or(usual.addr())];
    let subnet = if is_free(route, wanted, usual.into(), addresses.map(IpAddr::V6))? {
        usual
    } else {
        let routes = wanted.in_the_way(foreign_routes(route)?);
        match wanted.subnet6 {
            Some(subnet) => {
                refuse_taken(route, wanted, &routes, subnet.into())?;
                subnet
            }
            None => match wanted.free_subnet6(&routes, &name)? {
                Some(subnet) => subnet,
                None => return Ok(None),
            },
        }
    };
    Ok(Some(Ipv6Net::new_assert(
        gateway(subnet),
        subnet.prefix_len(),
    )))
}

fn refuse_taken(
    route: &mut Netlink,
    wanted: &Wanted,
    routes: &[Route],
    subnet: IpNet,
) -> Result<()> {
    match colliding_route(routes, subnet) {
        Some(taken) => Err(wanted.collision(route, subnet, taken)),
        None => Ok(()),
    }
}

/// Whether packets to the range, and to the address that is asked for, would leave by a default route, or by a container of ours. No for a
/// range that was asked for, until a container of it lives: a route may lead to a part of it.
fn is_free(
    route: &mut Netlink,
    wanted: &Wanted,
    subnet: IpNet,
    [gateway, address]: [IpAddr; 2],
) -> Result<bool> {
    let addresses = [gateway, address, subnet.network(), subnet.broadcast()];
    let found = route
        .routes_to(&addresses)
        .doing(|| format!("look for a route to {subnet}"))?;
    let is_gateways = |found: &Route, to| found.is_local && to == gateway;
    let first = found.first().and_then(Option::as_ref);
    let lives = first.is_some_and(|found| is_gateways(found, gateway));
    let is_asked_for = match subnet {
        IpNet::V4(subnet) => wanted.subnet == Some(Subnet::Fixed(subnet)),
        IpNet::V6(subnet) => wanted.subnet6 == Some(subnet),
    };
    if is_asked_for && !lives && !wanted.is_cut_out {
        return Ok(false);
    }
    for (to, found) in addresses.into_iter().zip(&found) {
        let Some(found) = found else {
            continue;
        };
        let destination = found.destination;
        if is_default(destination) || is_gateways(found, to) || leads_to_ours(route, found)? {
            continue;
        }
        // A wider one has come since, where the gateway's address leads to a container of ours: their own are narrower.
        let is_wider = destination != subnet && destination.contains(&subnet);
        let is_ours = match first.filter(|_| is_wider && lives) {
            Some(gateways) => leads_to_ours(route, gateways)?,
            None => false,
        };
        if !is_ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the host has a route to this address, or to a part of the network around it, that is no container's: its LAN, or an address of its
/// own. [`choose`] has looked for those to all of the network, and at its ends.
///
/// # Errors
/// What the kernel says.
pub fn leads_elsewhere(route: &mut Netlink, network: &Network, address: Ipv4Addr) -> Result<bool> {
    let found = route
        .routes_to(&[address.into()])
        .doing(|| format!("look for a route to {address}"))?;
    let subnet = IpNet::from(network.subnet);
    let is_part =
        |found: &Route| found.destination != subnet && subnet.contains(&found.destination);
    match found.into_iter().flatten().find(is_part) {
        Some(found) => Ok(!leads_to_ours(route, &found)?),
        None => Ok(false),
    }
}

/// Whether a route leads to a container of ours, which may be about to end: the address of one that lives is leased.
fn leads_to_ours(route: &mut Netlink, found: &Route) -> Result<bool> {
    let leads_to_one = found.destination.prefix_len() == found.destination.max_prefix_len();
    let Some(index) = found.link.filter(|_| leads_to_one) else {
        return Ok(false);
    };
    let link = route.link(index).doing(|| "look at a link".into())?;
    Ok(link.is_none_or(|link| owner::leased_address(&link.name).is_some()))
}

/// The routes of the host but those to our own point-to-point containers.
fn foreign_routes(route: &mut Netlink) -> Result<Vec<Route>> {
    let mut routes = route.routes().doing(|| "list routes".to_string())?;
    // Behind the routes: containers of ours that come or go meanwhile are in nobody's way.
    let links = route.links().doing(|| "list links".to_string())?;
    let others: Vec<u32> = links
        .iter()
        .filter(|link| owner::leased_address(&link.name).is_none())
        .map(|link| link.index)
        .collect();
    routes.retain(|route| route.link.is_none_or(|link| others.contains(&link)));
    Ok(routes)
}
