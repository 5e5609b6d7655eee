//! STATUS: whether a container could be added now, and whether those that are there have all that they need.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use super::call::Call;
use super::configuration::Configuration;
use super::delegate;
use super::fault::{Fault, Judge, code};
use super::ipam::{Addressing, Pool};
use crate::address::{Subnet, colliding_route, usable};
use crate::bridge;
use crate::error::{Doing, Error, Result as OurResult};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{Gateways, Mark, leased_address};
use crate::request::NetworkChoice;
use crate::state;
use crate::sysctl;
use crate::veth::{self, Wish};
use crate::wanted::{Ipv6, Wanted, Words};

/// A bridge has so many ports (`BR_MAX_PORTS`, net/bridge/br_private.h), without number 0.
const MOST_PORTS: usize = 1023;

/// Nothing is asked of a network.
const NOTHING: Wanted = Wanted {
    subnet: None,
    address: None,
    subnet6: None,
    address6: None,
    ipv6: Ipv6::Never,
    gateway: None,
    policy: None,
    is_leased_elsewhere: false,
    is_cut_out: false,
    words: Words::CNI,
};

/// Looks, and changes nothing.
///
/// # Errors
/// 50: ADD would fail; 51: and containers that are there lack something.
pub fn status(call: &Call) -> Result<(), Fault> {
    let asked = Configuration::read(call)?;
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
    let links = route.links().doing(|| "list links".into()).judge()?;
    let bridge = match asked.network {
        NetworkChoice::Bridge => links.iter().find(|link| link.name == asked.bridge),
        _ => None,
    };
    if let Some(bridge) = bridge {
        check_bridge(bridge, &links)?;
    }
    let pool = match &asked.addressing {
        Addressing::Ours(pool) => Some(pool),
        Addressing::Delegated(_) => None,
    };
    if let Some(pool) = pool {
        check_pool(&mut route, pool, bridge, &links)?;
    }
    if let Addressing::Delegated(kind) = &asked.addressing {
        delegate::ask(kind, "STATUS", call)?;
    }
    let is_whole = nft::open().and_then(|mut nft| nft::is_whole(&mut nft));
    if bridge.is_none() || !is_whole.unwrap_or(false) {
        try_all().map_err(|error| Fault::new(code::UNAVAILABLE, error.to_string()))?;
    }
    Ok(())
}

fn unavailable(why: &str) -> Fault {
    Fault::new(code::UNAVAILABLE, why)
}

fn is_ours(bridge: &Link) -> bool {
    matches!(bridge.mark, Some(Mark::Network(_)))
}

/// The bridge that is there takes further ports; and those that it has are served.
fn check_bridge(bridge: &Link, links: &[Link]) -> Result<(), Fault> {
    let name = &bridge.name;
    if bridge.kind != "bridge" {
        let why = format!("use bridge {name}: there is a link of that name that is no bridge");
        return Err(unavailable(&why));
    }
    let ports = links
        .iter()
        .filter(|link| link.controller == Some(bridge.index));
    let ports: Vec<&Link> = ports.collect();
    let has_containers = ports
        .iter()
        .any(|port| leased_address(&port.name).is_some());
    let code = if has_containers {
        code::LIMITED
    } else {
        code::UNAVAILABLE
    };
    let limited = |why: String| Err(Fault::new(code, why));
    if !bridge.is_up && (has_containers || !is_ours(bridge)) {
        return limited(format!(
            "use bridge {name}: it is down; set it up (ip link set {name} up)"
        ));
    }
    if has_containers && is_ours(bridge) {
        let mut nft = nft::open().judge()?;
        if let Some(version) = nft::other_version(&mut nft).judge()? {
            return Err(unavailable(&format!(
                "add to bridge {name}: its containers live by rules of another version ({version}); drain this host"
            )));
        }
        if !nft::is_whole(&mut nft).judge()? {
            return limited(format!(
                "look at the rules of {name}: they are not there; host-helper restore puts them back"
            ));
        }
        if !sysctl::is_forwarding().judge()? {
            return limited(format!(
                "look at {name}: the host does not forward (net.ipv4.ip_forward is 0)"
            ));
        }
    }
    if ports.len() >= MOST_PORTS {
        let why = format!(
            "add to bridge {name}: it has {} ports, and takes no more",
            ports.len()
        );
        return Err(unavailable(&why));
    }
    Ok(())
}

/// An address is free, and its subnet is nobody else's.
fn check_pool(
    route: &mut Netlink,
    pool: &Pool,
    bridge: Option<&Link>,
    links: &[Link],
) -> Result<(), Fault> {
    let of_bridge = match bridge.and_then(|bridge| bridge.mark.as_ref()) {
        Some(Mark::Network(Gateways { v4, .. })) => Some(*v4),
        _ => None,
    };
    if let (Some(has), Some(wanted)) = (of_bridge, pool.subnet) {
        let gateway = pool.gateway.unwrap_or(has.addr());
        if wanted != has.trunc() || gateway != has.addr() {
            let why = format!("use subnet {wanted}, gateway {gateway}: the bridge has {has}");
            return Err(unavailable(&why));
        }
    }
    if let (None, Some(wanted)) = (bridge, pool.subnet) {
        let routes = route.routes().doing(|| "list routes".into()).judge()?;
        let asked = Wanted {
            subnet: Some(Subnet::Fixed(wanted)),
            is_cut_out: true,
            ..NOTHING
        };
        let routes = asked.in_the_way(routes);
        if let Some(taken) = colliding_route(&routes, wanted) {
            let why = asked.collision(route, wanted.into(), taken);
            return Err(unavailable(&why.to_string()));
        }
    }
    let has = of_bridge.or(pool.subnet.map(|net| {
        let gateway = pool.gateway.unwrap_or(crate::address::gateway_of(net));
        ipnet::Ipv4Net::new_assert(gateway, net.prefix_len())
    }));
    let Some(has) = has else {
        return Ok(());
    };
    let (first, last) = pool
        .range
        .unwrap_or_else(|| usable(has.trunc(), has.addr()));
    let within = |address: &Ipv4Addr| (first..=last).contains(address);
    let all = u64::from(u32::from(last) - u32::from(first)) + 1;
    let all = all - u64::from(within(&has.addr()));
    let living = links
        .iter()
        .filter(|link| !link.mark.as_ref().is_some_and(Mark::is_dead));
    let taken = living
        .filter_map(|link| leased_address(&link.name))
        .filter(within);
    if taken.count() as u64 >= all {
        let why = format!("take an address of {first} to {last}: all {all} are in use");
        return Err(unavailable(&why));
    }
    Ok(())
}

/// Makes all that a container needs in a network namespace that ends with us: what the kernel lacks is found there.
///
/// After: this process is in it.
fn try_all() -> OurResult<()> {
    unshare(CloneFlags::CLONE_NEWNET).doing(|| "make a network namespace".into())?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let namespace = openat(AT_FDCWD, "/proc/self/ns/net", flags, Mode::empty())
        .doing(|| "open a network namespace".into())?;
    // TEST-NET-1, RFC 5737.
    let subnet = Subnet::Fixed(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24));
    let wanted = Wanted {
        subnet: Some(subnet),
        ..NOTHING
    };
    let made = || -> OurResult<()> {
        let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
        let network = bridge::ensure(&mut route, bridge::DEFAULT_BRIDGE, &wanted)?;
        let mut nft = nft::open()?;
        nft::ensure(&mut nft)?;
        let wish = Wish {
            name: "status",
            inside: veth::INSIDE,
            range: None,
            checks_sources: true,
            network: &network,
            address: None,
            address6: None,
            offset: 0,
            mac: None,
            mtu: 1500,
            namespace: namespace.as_fd(),
            words: Words::CNI,
        };
        let veth = veth::create(&mut route, &wish)?;
        veth::set_up(&mut route, &veth, &network)
    };
    let done = made().map_err(|error| Error::new(format!("try what a container needs: {error}")));
    state::remove_directory_if_empty();
    done
}
