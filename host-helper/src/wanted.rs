//! What was asked of a network, held against what it has; and the subnets of a new one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::address::{
    POOL, Subnet, check_fixed, colliding_route, free_subnet, free_subnet6, partner_of, same_host,
    unique_local,
};
use crate::error::{Error, Result};
use crate::link::Route;
use crate::netlink::Netlink;
use crate::nft::Policy;
use crate::owner::Gateway6;
use crate::request::Request;
use crate::state;
use crate::sysctl;

/// The subnet of a bridge, unless a route of the host has it.
pub const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 19, 0, 0), 16);

/// What was asked of a network.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Its subnet.
    pub subnet: Option<Subnet>,
    /// An address that a container is to get.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 subnet.
    pub subnet6: Option<Ipv6Net>,
    /// An IPv6 address that a container is to get.
    pub address6: Option<Ipv6Addr>,
    /// Whether it is to have IPv6 at all.
    pub ipv6: Ipv6,
    /// The host's address, instead of the subnet's first.
    pub gateway: Option<Ipv4Addr>,
    /// Who may open connections to its containers, when it is to be made.
    pub policy: Option<Policy>,
    /// Its subnets are cut out of wider ones, which the host may have routes to.
    pub is_cut_out: bool,
    /// Somebody else sees to it that no two have the same address.
    pub is_leased_elsewhere: bool,
    /// What cures name.
    pub words: Words,
}

/// What those who ask have by which names: a cure says what they can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// The IPv4 one.
    pub subnet: &'static str,
    /// The IPv6 one.
    pub subnet6: &'static str,
    /// The bridge.
    pub bridge: &'static str,
    /// The hardware address.
    pub mac: &'static str,
    /// The MTU.
    pub mtu: &'static str,
}

impl Words {
    /// On a command line.
    pub const OPTIONS: Words = Words {
        subnet: "--subnet",
        subnet6: "--subnet6",
        bridge: "--bridge",
        mac: "--mac",
        mtu: "--mtu",
    };
    /// In a CNI configuration.
    pub const CNI: Words = Words {
        subnet: "ipam.ranges",
        subnet6: "ipam.ranges",
        bridge: "bridge",
        mac: "runtimeConfig.mac",
        mtu: "mtu",
    };
}

/// Whether IPv6 is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// Where the host has it.
    Wanted,
    /// By this container not; the next one may want it.
    NotNow,
    /// The network is never to have it.
    Never,
}

impl Wanted {
    /// What a container asks of its network.
    pub fn of(request: &Request) -> Wanted {
        Wanted {
            subnet: request.subnet,
            address: request.address,
            subnet6: request.subnet6,
            address6: request.address6,
            ipv6: if request.no_ipv6 {
                Ipv6::NotNow
            } else {
                Ipv6::Wanted
            },
            gateway: request.details.gateway,
            policy: request.details.policy,
            is_cut_out: request.details.is_cut_out,
            is_leased_elsewhere: request.details.is_leased_elsewhere,
            words: request.details.words,
        }
    }

    /// Refuses what the network with these gateways cannot give.
    ///
    /// # Errors
    /// Another subnet, both named; an address that no container of it can have.
    pub fn check(&self, name: &str, v4: Ipv4Net, v6: Gateway6) -> Result<()> {
        let refuse = |wanted: IpNet, has: String, word: &str| {
            Err(Error::new(format!(
                "use subnet {wanted} on bridge {name}: the bridge has {has}; leave {word} out, or choose another {}",
                self.words.bridge
            )))
        };
        match self.subnet {
            Some(Subnet::Fixed(wanted)) if wanted != v4.trunc() => {
                return refuse(wanted.into(), v4.trunc().to_string(), self.words.subnet);
            }
            _ => {}
        }
        match (self.subnet6, v6) {
            (Some(wanted), Gateway6::At(has)) if wanted != has.trunc() => {
                return refuse(wanted.into(), has.trunc().to_string(), self.words.subnet6);
            }
            (Some(wanted), Gateway6::Never) => {
                return refuse(wanted.into(), "no IPv6".into(), self.words.subnet6);
            }
            _ => {}
        }
        if let Some(gateway) = self.gateway.filter(|gateway| *gateway != v4.addr()) {
            return Err(Error::new(format!(
                "use gateway {gateway} on bridge {name}: it has {}; use that, or another bridge",
                v4.addr()
            )));
        }
        self.fixed_address(v4, v6.net())?;
        match (self.address6, v6) {
            (Some(address), Gateway6::Never) => Err(Error::new(format!(
                "use address {address}: network {name} has no IPv6; leave it out, or choose another network"
            ))),
            _ if self.ipv6 != Ipv6::Never => Ok(()),
            (_, Gateway6::At(has)) => Err(Error::new(format!(
                "make bridge {name} without IPv6: it has {}; remove it first (host-helper down --bridge {name})",
                has.trunc()
            ))),
            _ => Ok(()),
        }
    }

    /// The IPv4 address that was asked for, also by the IPv6 address that goes with it: who has the one has the other.
    ///
    /// # Errors
    /// One that no container can have; two that do not go with each other.
    pub fn fixed_address(&self, v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<Option<Ipv4Addr>> {
        let check =
            |address: IpAddr, gateway: IpNet| check_fixed(address, gateway.trunc(), gateway.addr());
        if let Some(address) = self.address {
            check(address.into(), v4.into())?;
        }
        let (Some(address6), Some(v6)) = (self.address6, v6) else {
            return Ok(self.address);
        };
        check(address6.into(), v6.into())?;
        if self.is_leased_elsewhere {
            return Ok(self.address);
        }
        let Some(partner) = partner_of(address6, v6, v4) else {
            return Ok(self.address);
        };
        let goes_with = format!("use address {address6}: it goes with {partner}");
        match self.address {
            Some(address) if address != partner => Err(Error::new(format!(
                "{goes_with}, and not with {address}; leave one of them out"
            ))),
            _ => check(partner.into(), v4.into())
                .map(|()| Some(partner))
                .map_err(|error| Error::new(format!("{goes_with}; {error}"))),
        }
    }

    /// Whether the host has IPv6 for link `name`, which need not be there yet.
    ///
    /// # Errors
    /// It has not, and an IPv6 subnet or address was asked for.
    pub fn host_has_ipv6(&self, name: &str) -> Result<bool> {
        let Some(why) = sysctl::ipv6_is_off(name)? else {
            return Ok(true);
        };
        let asked = match (self.subnet6, self.address6) {
            (Some(subnet), _) => format!("subnet {subnet}"),
            (None, Some(address)) => format!("address {address}"),
            (None, None) => return Ok(false),
        };
        Err(Error::new(format!(
            "use {asked}: {why}; turn IPv6 on, or leave it out"
        )))
    }

    /// Those of the host's routes that may be in the way of a new network.
    pub fn in_the_way(&self, mut routes: Vec<Route>) -> Vec<Route> {
        let four = match self.subnet {
            Some(Subnet::Fixed(subnet)) => Some(IpNet::V4(subnet)),
            _ => None,
        };
        let cut_out = [four, self.subnet6.map(IpNet::V6)];
        let cut_out = cut_out.into_iter().flatten().filter(|_| self.is_cut_out);
        for subnet in cut_out {
            let is_wider = |to: IpNet| to.contains(&subnet) && to != subnet;
            routes.retain(|route| !is_wider(route.destination));
        }
        routes
    }

    /// The gateway of a new network of this name, between those routes.
    ///
    /// # Errors
    /// A subnet that a route has; the host's IPv6 is off, and some was asked for.
    pub fn choose_gateway6(
        &self,
        route: &mut Netlink,
        routes: &[Route],
        name: &str,
        v4: Ipv4Net,
    ) -> Result<Gateway6> {
        match self.ipv6 {
            Ipv6::Never => return Ok(Gateway6::Never),
            Ipv6::NotNow => return Ok(Gateway6::Undecided),
            Ipv6::Wanted if !self.host_has_ipv6(name)? => return Ok(Gateway6::Undecided),
            Ipv6::Wanted => {}
        }
        let subnet = match self.subnet6 {
            Some(subnet) => match colliding_route(routes, subnet) {
                Some(taken) => return Err(self.collision(route, subnet.into(), taken)),
                None => subnet,
            },
            None => match self.free_subnet6(routes, name)? {
                Some(subnet) => subnet,
                None => return Ok(Gateway6::Undecided),
            },
        };
        let gateway = same_host(v4.addr(), v4, subnet).unwrap_or(subnet.addr());
        Ok(Gateway6::At(Ipv6Net::new_assert(
            gateway,
            subnet.prefix_len(),
        )))
    }

    /// The IPv6 subnet that goes with this machine and this name, or the next one that no route has. `None`: there is none, and nobody has asked
    /// for IPv6.
    ///
    /// # Errors
    /// There is none.
    pub fn free_subnet6(&self, routes: &[Route], name: &str) -> Result<Option<Ipv6Net>> {
        let id = state::machine_id()?;
        let found = free_subnet6(routes, &id, name);
        if found.is_none() && self.address6.is_some() {
            let site = Ipv6Net::new_assert(unique_local(&id, name, 0).addr(), 48).trunc();
            return Err(Error::new(format!(
                "choose an IPv6 subnet: none of {site} is free of the host's routes; give {}",
                self.words.subnet6
            )));
        }
        Ok(found)
    }

    /// The first IPv4 subnet of `length` that no route has.
    ///
    /// # Errors
    /// When there is none.
    pub fn free_subnet(&self, routes: &[Route], length: u8) -> Result<Ipv4Net> {
        free_subnet(routes, length).ok_or_else(|| {
            Error::new(format!(
                "choose a subnet: no /{length} of {POOL} is free of the host's routes; give {}",
                self.words.subnet
            ))
        })
    }

    /// The IPv4 subnet of a new bridge, between those routes.
    ///
    /// # Errors
    /// One that was asked for and that a route has; none is free.
    pub fn choose_subnet(&self, route: &mut Netlink, routes: &[Route]) -> Result<Ipv4Net> {
        match self.subnet {
            Some(Subnet::Fixed(subnet)) => match colliding_route(routes, subnet) {
                Some(taken) => Err(self.collision(route, subnet.into(), taken)),
                None => Ok(subnet),
            },
            None if colliding_route(routes, DEFAULT_SUBNET).is_none() => Ok(DEFAULT_SUBNET),
            _ => self.free_subnet(routes, DEFAULT_SUBNET.prefix_len()),
        }
    }

    /// The error of who wants a subnet that a route has. Who wants none gets one that is free.
    pub fn collision(&self, route: &mut Netlink, subnet: IpNet, taken: &Route) -> Error {
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
        let word = match subnet {
            IpNet::V4(_) => self.words.subnet,
            IpNet::V6(_) => self.words.subnet6,
        };
        Error::new(text + &format!("; choose another subnet, or leave {word} out"))
    }
}
