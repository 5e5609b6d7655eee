//! The links that packets to the rest of the world leave by: they decide the MTU, and IPv6 packets must be forwarded from
//! them, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Doing, Result};
use crate::link::{Link, Route, is_link_local};
use crate::netlink::Netlink;
use crate::owner::leased_address;

/// Addresses that no route is more specific for than the default one: of 240.0.0.0/4, which is reserved for ever (RFC 1112,
/// section 4), and of 2000::/3, which a tunnel may have instead of a default route, a part that nobody has.
const SOMEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1)),
];
/// RFC 894
const ETHERNET: u32 = 1500;
/// What IPv6 takes at least (RFC 8200, section 5); the kernel has none on a link with less.
pub const LEAST_MTU6: u32 = 1280;

/// The ways out of the host, as far as there are any.
#[derive(Debug, Default)]
pub struct WaysOut {
    v4: Option<Way>,
    v6: Option<Way>,
}

#[derive(Debug)]
struct Way {
    link: String,
    mtu: u32,
}

/// A link that IPv6 packets leave by.
#[derive(Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its default route came with a router advertisement.
    pub is_advertised: bool,
}

impl WaysOut {
    /// The MTU that suits all packets, in bytes: the smaller one where IPv6 takes another way.
    pub fn mtu(&self, has_ipv6: bool) -> u32 {
        let v6 = self.v6.as_ref().filter(|_| has_ipv6);
        let mtus = self.v4.iter().chain(v6).map(|way| way.mtu);
        mtus.min().unwrap_or(ETHERNET)
    }

    /// The link that IPv4 packets leave by.
    pub fn link4(&self) -> Option<&str> {
        self.v4.as_ref().map(|way| way.link.as_str())
    }

    /// The link that takes least at a time, and how many bytes.
    pub fn narrowest(&self, has_ipv6: bool) -> Option<(&str, u32)> {
        let v6 = self.v6.as_ref().filter(|_| has_ipv6);
        let ways = self.v4.iter().chain(v6);
        ways.map(|way| (way.link.as_str(), way.mtu))
            .min_by_key(|(_, mtu)| *mtu)
    }

    /// The link that IPv6 packets leave by.
    pub fn link6(&self) -> Option<&str> {
        self.v6.as_ref().map(|way| way.link.as_str())
    }
}

/// Finds them: one look at the routes, and one at each link.
///
/// # Errors
/// What the kernel says.
pub fn find(route: &mut Netlink) -> Result<WaysOut> {
    let doing = || "look for the default route".to_string();
    let routes = route.routes_to(&SOMEWHERE).doing(doing)?;
    let mut found: Option<Link> = None;
    let mut ways = [None, None];
    for (place, way) in ways.iter_mut().zip(routes) {
        let Some(way) = way.filter(|way| !way.is_local) else {
            continue;
        };
        for index in way.links() {
            if found.as_ref().is_none_or(|link| link.index != index) {
                found = route.link(index).doing(doing)?;
            }
            let Some(link) = &found else { continue };
            let of_link = match way.destination {
                ipnet::IpNet::V4(_) => link.mtu,
                ipnet::IpNet::V6(_) => link.mtu6.unwrap_or(link.mtu),
            };
            let mtu = way.mtu.map_or(of_link, |mtu| mtu.min(of_link));
            let mtu = mtu.clamp(68, 65535);
            // Of several hops the narrowest: packets may take any of them.
            if place.as_ref().is_none_or(|way: &Way| mtu < way.mtu) {
                *place = Some(Way {
                    link: link.name.clone(),
                    mtu,
                });
            }
        }
    }
    let [v4, v6] = ways;
    Ok(WaysOut { v4, v6 })
}

/// The links, but for ours, that any IPv6 packets leave by: answers come back by them. For a new network, not for each start.
///
/// # Errors
/// What the kernel says.
pub fn all6(route: &mut Netlink) -> Result<Vec<Uplink>> {
    let routes = route.routes().doing(|| "list routes".to_string())?;
    let there = route.links().doing(|| "list links".to_string())?;
    Ok(all6_of(&routes, &there))
}

/// The same of routes and links that were looked at.
pub fn all6_of(routes: &[Route], there: &[Link]) -> Vec<Uplink> {
    let mut all: Vec<Uplink> = Vec::new();
    for way in routes.iter().filter(|way| !way.is_local) {
        let destination = way.destination;
        if destination.addr().is_ipv4() || is_link_local(destination.addr()) {
            continue;
        }
        let is_advertised = way.is_advertised && destination.prefix_len() == 0;
        let by_index = |index| there.iter().find(|link| link.index == index);
        let links = way.links().filter_map(by_index);
        for link in links.filter(|link| !is_ours(link) && link.name != "lo") {
            match all.iter_mut().find(|uplink| uplink.name == link.name) {
                Some(uplink) => uplink.is_advertised |= is_advertised,
                None => all.push(Uplink {
                    name: link.name.clone(),
                    is_advertised,
                }),
            }
        }
    }
    all
}

/// Whether we have made it.
pub fn is_ours(link: &Link) -> bool {
    link.mark.is_some() || leased_address(&link.name).is_some()
}
