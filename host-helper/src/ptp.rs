//! The network without a bridge: a route of its own to each container.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::address::{Subnet, colliding_route, free_subnet, gateway_of};
use crate::bridge::{Network, POINT_TO_POINT_NAME, Wanted, collision};
use crate::error::{Doing, Result};
use crate::link::Route;
use crate::netlink::Netlink;
use crate::owner;

/// The range of its containers, unless a route of the host has it.
pub const POINT_TO_POINT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 24);

/// The point-to-point network: nothing is made for it but its range is chosen, which costs one look at the routes
/// only when a route has the usual one.
///
/// # Errors
/// A subnet that a route has.
pub fn choose(route: &mut Netlink, wanted: Wanted) -> Result<Network> {
    let subnet = match wanted.subnet {
        None if is_free(route, POINT_TO_POINT)? => POINT_TO_POINT,
        Some(Subnet::Fixed(subnet)) if is_free(route, subnet)? => subnet,
        _ => {
            let routes = foreign_routes(route)?;
            match wanted.subnet {
                Some(Subnet::Fixed(subnet)) => match colliding_route(&routes, subnet) {
                    Some(taken) => return Err(collision(route, subnet, taken)),
                    None => subnet,
                },
                _ => free_subnet(&routes, POINT_TO_POINT.prefix_len())?,
            }
        }
    };
    let name = POINT_TO_POINT_NAME.to_string();
    let gateway = Ipv4Net::new_assert(gateway_of(subnet), subnet.prefix_len());
    wanted.check(&name, gateway)?;
    Ok(Network {
        name,
        subnet,
        gateway: gateway.addr(),
        subnet6: None,
        gateway6: None,
        bridge: None,
        is_ours: true,
        is_new: false,
    })
}

/// Whether packets to the range would leave by a default route, or by a container of ours.
fn is_free(route: &mut Netlink, subnet: Ipv4Net) -> Result<bool> {
    for address in [subnet.network(), gateway_of(subnet), subnet.broadcast()] {
        let found = route
            .route_to(address)
            .doing(|| format!("look for a route to {address}"))?;
        let Some(found) = found else { continue };
        if found.destination.prefix_len() > 0 && !(found.is_local && address == gateway_of(subnet))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The routes of the host but those to our own point-to-point containers.
fn foreign_routes(route: &mut Netlink) -> Result<Vec<Route>> {
    let links = route.links().doing(|| "list links".to_string())?;
    let ours: Vec<u32> = links
        .iter()
        .filter(|link| owner::leased_address(&link.name).is_some())
        .map(|link| link.index)
        .collect();
    let mut routes = route.routes().doing(|| "list routes".to_string())?;
    routes.retain(|route| !route.link.is_some_and(|link| ours.contains(&link)));
    Ok(routes)
}
