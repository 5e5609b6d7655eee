//! What there is on this host: links, routes, networks of ours and the containers on them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hawser::netlink::read_u32;
use ipnet::IpNet;

use crate::bridge::POINT_TO_POINT_NAME;
use crate::error::{Doing, Result};
use crate::link::{Link, Route};
use crate::netlink::{DUMP, Netlink, find};
use crate::nft;
use crate::owner::{Gateways, Mark, leased_address};
use crate::uplink::{self, WaysOut};

/// All of it, at one moment.
pub struct Host {
    /// Every link.
    pub links: Vec<Link>,
    /// Every route that packets may take.
    pub routes: Vec<Route>,
    /// The ways out.
    pub ways: WaysOut,
    /// Networks of ours.
    pub networks: Vec<Network>,
    /// Host ends of living containers, on networks of ours and on others' bridges.
    pub ends: Vec<Link>,
}

/// A network of ours.
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its bridge, and the host's addresses there; none: point-to-point.
    pub bridge: Option<(Link, Gateways)>,
    /// The names of the links that packets of containers come in by.
    pub links: Vec<String>,
    /// It has IPv6.
    pub has_ipv6: bool,
}

impl Host {
    /// Takes a look.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look(route: &mut Netlink) -> Result<Host> {
        let links = route.links().doing(|| "list links".to_string())?;
        let mut routes = route.routes().doing(|| "list routes".to_string())?;
        let tables = tables(route);
        routes.retain(|route| tables.contains(&route.table));
        let ways = uplink::find(route)?;
        let is_end = |link: &&Link| {
            let mark = link.mark.as_ref();
            leased_address(&link.name).is_some()
                && mark.is_some_and(|mark| mark.container().is_some() && !mark.is_dead())
        };
        let ends: Vec<Link> = links.iter().filter(is_end).cloned().collect();
        let mut networks: Vec<Network> = links.iter().filter_map(of_bridge).collect();
        networks.extend(point_to_point(&ends, &routes));
        Ok(Host {
            links,
            routes,
            ways,
            networks,
            ends,
        })
    }

    /// The link of this number.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The addresses of the host itself.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let local = self.routes.iter().filter(|route| route.is_local);
        local.map(|route| route.destination.addr())
    }

    /// The addresses of the containers of a point-to-point network, whose subnet nothing says: those that the host has a route to by their links.
    pub fn addresses_of(&self, network: &Network) -> Vec<IpNet> {
        let own: BTreeSet<IpAddr> = self.own_addresses().collect();
        let is_its = |end: &&Link| network.links.contains(&end.name);
        let ends: Vec<&Link> = self.ends.iter().filter(is_its).collect();
        let routes = self.routes.iter();
        let to_one = routes.filter(|route| ends.iter().any(|end| leads_to(route, end)));
        let all: BTreeSet<IpNet> = to_one.map(|route| route.destination).collect();
        let others = all.into_iter().filter(|net| !own.contains(&net.addr()));
        others.collect()
    }

    /// The network of ours that a host end is on.
    pub fn network_of(&self, end: &Link) -> Option<&Network> {
        self.networks.iter().find(|network| match &network.bridge {
            Some((bridge, _)) => end.controller == Some(bridge.index),
            None => network.links.contains(&end.name),
        })
    }
}

impl Network {
    /// As a finding names it.
    pub fn place(&self) -> String {
        format!("network {}", self.name)
    }

    /// Its subnets; of point-to-point ones nothing says them.
    pub fn subnets(&self) -> Vec<IpNet> {
        let Some((_, Gateways { v4, v6 })) = self.bridge else {
            return Vec::new();
        };
        let v4 = IpNet::V4(v4.trunc());
        let v6 = v6.net().filter(|_| self.has_ipv6);
        [Some(v4), v6.map(|net| IpNet::V6(net.trunc()))]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// The tables of routes that a rule leads packets to. A kernel without such rules has none but its own.
fn tables(route: &mut Netlink) -> BTreeSet<u32> {
    // linux/fib_rules.h: struct fib_rule_hdr has the family and the lengths of prefixes before the table.
    const FIB_RULE_HDR: usize = 12;
    const TABLE: usize = 4;
    const FRA_TABLE: u16 = 15;
    let own = [
        libc::RT_TABLE_DEFAULT,
        libc::RT_TABLE_MAIN,
        libc::RT_TABLE_LOCAL,
    ];
    let mut tables = BTreeSet::from(own.map(u32::from));
    let named = route.dump(
        |writer, sequence| {
            writer.begin(libc::RTM_GETRULE, DUMP, sequence, &[0; FIB_RULE_HDR]);
            writer.end();
        },
        |message| {
            let attributes = message.payload.get(FIB_RULE_HDR..).unwrap_or(&[]);
            // Numbers that the header has no room for.
            let named = find(attributes, FRA_TABLE).and_then(|value| read_u32(value, 0));
            named.or(message.payload.get(TABLE).map(|table| u32::from(*table)))
        },
    );
    tables.extend(named.unwrap_or_default());
    tables
}

fn of_bridge(link: &Link) -> Option<Network> {
    let Some(Mark::Network(gateways)) = link.mark else {
        return None;
    };
    Some(Network {
        name: link.name.clone(),
        bridge: Some((link.clone(), gateways)),
        links: vec![link.name.clone()],
        has_ipv6: gateways.v6.net().is_some(),
    })
}

/// All point-to-point containers together.
fn point_to_point(ends: &[Link], routes: &[Route]) -> Option<Network> {
    let ours: Vec<&Link> = ends
        .iter()
        .filter(|end| end.controller.is_none() && nft::is_ours(end.group))
        .collect();
    let leads_to_one = |route: &Route| {
        route.destination.addr().is_ipv6() && ours.iter().any(|end| leads_to(route, end))
    };
    (!ours.is_empty()).then(|| Network {
        name: POINT_TO_POINT_NAME.to_string(),
        bridge: None,
        links: ours.iter().map(|end| end.name.clone()).collect(),
        has_ipv6: routes.iter().any(leads_to_one),
    })
}

/// Whether it is the route to a container's address.
fn leads_to(route: &Route, end: &Link) -> bool {
    let to = route.destination;
    to.prefix_len() == to.max_prefix_len() && !route.is_local && route.link == Some(end.index)
}

/// The name of the container behind a host end, or the link's.
pub fn name_of(end: &Link) -> &str {
    let container = end.mark.as_ref().and_then(Mark::container);
    container.map_or(&end.name, |(name, _)| name)
}

/// The address that a host end leases.
pub fn address_of(end: &Link) -> Option<IpAddr> {
    leased_address(&end.name).map(IpAddr::from)
}
