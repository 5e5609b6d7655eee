//! STATUS: whether a container could be added now; and what those that are there lack.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use super::call::Call;
use super::configuration::Configuration;
use super::fault::{Fault, Judge, code};
use super::ipam::{Addressing, Pool};
use super::{add, delegate};
use crate::address::{Subnet, partner_of, usable};
use crate::attach;
use crate::bridge::{self, Network};
use crate::detach;
use crate::error::{Doing, Error, Result as OurResult};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{Mark, leased_address};
use crate::request::NetworkChoice;
use crate::rootfs::make_private;
use crate::state;
use crate::steps::warn;
use crate::sysctl;
use crate::veth::{self, Wish};
use crate::wanted::{Ipv6, Wanted, Words};

/// A bridge has so many ports (`BR_MAX_PORTS`, net/bridge/br_private.h), without number 0.
const MOST_PORTS: usize = 1023;

/// Looks, and changes nothing.
///
/// # Errors
/// 50: ADD would fail; 51: and containers that are there lack something that it would not bring back.
pub fn status(call: &Call) -> Result<(), Fault> {
    let asked = Configuration::read(call)?;
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
    let links = route.links().doing(|| "list links".into()).judge()?;
    if let Ok(mut nft) = nft::open() {
        let refused = |error: Error| unavailable(&error.to_string());
        nft::check_version(&mut nft).map_err(refused)?;
    }
    let bridge = match asked.network {
        NetworkChoice::Bridge => route
            .find_link(&asked.bridge)
            .doing(|| format!("look for bridge {}", asked.bridge))
            .judge()?,
        _ => None,
    };
    let bridge = bridge.filter(|link| link.kind == "bridge");
    match &bridge {
        Some(bridge) => check_bridge(&mut route, bridge, &links)?,
        None if asked.network == NetworkChoice::Bridge => check_left(&asked.bridge, &links)?,
        None => {}
    }
    match &asked.addressing {
        Addressing::Ours(pool) => {
            let network = check_network(call, &asked, pool, &mut route, bridge.as_ref())?;
            check_pool(pool, &network, &links)?;
        }
        Addressing::Delegated(_) if bridge.is_some() => {
            let any = Pool::default();
            check_network(call, &asked, &any, &mut route, bridge.as_ref())?;
        }
        // Which network it is to be says the other plugin.
        Addressing::Delegated(_) => {}
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

/// A network of ours with IPv6, which the host has too.
fn has_ipv6(bridge: &Link) -> bool {
    let Some(Mark::Network(gateways)) = &bridge.mark else {
        return false;
    };
    bridge::own_addresses(&bridge.name, gateways).any(|net| matches!(net, IpNet::V6(_)))
}

/// The bridge that is there takes further ports. What those that it has lack is said where the next ADD brings it back: who is refused
/// asks for no ADD, and nobody would.
fn check_bridge(route: &mut Netlink, bridge: &Link, links: &[Link]) -> Result<(), Fault> {
    let name = &bridge.name;
    let ports = links
        .iter()
        .filter(|link| link.controller == Some(bridge.index));
    let ports: Vec<&Link> = ports.collect();
    let has_containers = ports
        .iter()
        .any(|port| leased_address(&port.name).is_some());
    if !is_ours(bridge) && !bridge.is_up {
        let code = if has_containers {
            code::LIMITED
        } else {
            code::UNAVAILABLE
        };
        return Err(Fault::new(code, say_down(name)));
    }
    if has_containers && is_ours(bridge) {
        if let Some(lack) = find_lack(route, bridge)? {
            warn(&lack);
        }
    }
    if ports.len() >= MOST_PORTS {
        let why = format!(
            "add to bridge {name}: it has {} ports, and takes no more; give further containers another {}",
            ports.len(),
            Words::CNI.bridge
        );
        return Err(unavailable(&why));
    }
    Ok(())
}

fn say_down(name: &str) -> String {
    format!("use bridge {name}: it is down; set it up (ip link set {name} up)")
}

/// What the containers on a bridge of ours lack, the first of it. An ADD brings it back.
///
/// # Errors
/// 51: it cannot.
fn find_lack(route: &mut Netlink, bridge: &Link) -> Result<Option<String>, Fault> {
    let name = &bridge.name;
    let mut not_forwarding = sysctl::not_forwarding4(name).judge()?;
    // The bridge's own switch of IPv4 an ADD sets without /proc/sys.
    let mut is_mended = not_forwarding.is_some() && sysctl::is_forwarding().judge()?;
    let is_next = not_forwarding.is_none() || is_mended;
    if is_next && has_ipv6(bridge) && !sysctl::forwards6(name).judge()? {
        is_mended = false;
        not_forwarding = Some(sysctl::not_forwarding6(route, name, true).judge()?);
    }
    let not_forwarding = not_forwarding.map(|why| format!("look at {name}: {why}"));
    let is_limited = |_: &&String| !is_mended && sysctl::is_read_only();
    if let Some(why) = not_forwarding.as_ref().filter(is_limited) {
        return Err(Fault::new(code::LIMITED, why));
    }
    if !bridge.is_up {
        return Ok(Some(say_down(name)));
    }
    let mut nft = nft::open().judge()?;
    if !nft::is_whole(&mut nft).judge()? {
        return Ok(Some(format!(
            "look at the rules of {name}: they are not there; host-helper restore puts them back"
        )));
    }
    let lost = bridge::lost_address(route, bridge).judge()?;
    let lost = lost.map(|lost| {
        format!(
            "look at {name}: it has lost its address {lost}; host-helper up --bridge {name} puts it back"
        )
    });
    Ok(lost.or(not_forwarding))
}

/// Nobody has deleted the bridge under containers that live on it.
fn check_left(name: &str, links: &[Link]) -> Result<(), Fault> {
    let left = links.iter().filter_map(|link| {
        let mark = link.mark.as_ref().filter(|mark| !mark.is_dead())?;
        let (container, _) = mark.container()?;
        detach::was_on(link, name).then_some(container)
    });
    let left: Vec<&str> = left.collect();
    if left.is_empty() {
        return Ok(());
    }
    let why = format!(
        "use bridge {name}: it is gone, and containers live on it: {}; DEL and ADD put them on another",
        left.join(", ")
    );
    Err(Fault::new(code::LIMITED, why))
}

/// The network is, or can be, what the next container would ask for.
fn check_network(
    call: &Call,
    asked: &Configuration,
    pool: &Pool,
    route: &mut Netlink,
    bridge: Option<&Link>,
) -> Result<Network, Fault> {
    let request = add::request_of_next(call, asked, pool, bridge)?;
    let refused = |error: Error| unavailable(&error.to_string());
    attach::look_at_network(route, &request).map_err(refused)
}

/// An address is free.
fn check_pool(pool: &Pool, network: &Network, links: &[Link]) -> Result<(), Fault> {
    let (first, last) = pool
        .range
        .unwrap_or_else(|| usable(network.subnet, network.gateway));
    let within = |address: &Ipv4Addr| (first..=last).contains(address);
    let six = network.subnet6.zip(network.gateway6);
    let six = six.and_then(|(subnet6, gateway6)| partner_of(gateway6, subnet6, network.subnet));
    let six = six.filter(|six| *six != network.gateway);
    let gateways = [Some(network.gateway), six].into_iter().flatten();
    let all = u64::from(u32::from(last) - u32::from(first)) + 1;
    let all = all - gateways.filter(within).count() as u64;
    let living = links
        .iter()
        .filter(|link| !link.mark.as_ref().is_some_and(Mark::is_dead));
    let taken = living
        .filter_map(|link| leased_address(&link.name))
        .filter(within);
    if taken.count() as u64 >= all {
        let Words { bridge, subnet, .. } = Words::CNI;
        let why = format!(
            "take an address of {first} to {last}: all {all} are in use (host-helper ls shows by whom); use another {bridge} with a wider {subnet}"
        );
        return Err(unavailable(&why));
    }
    Ok(())
}

/// This process goes to a network namespace that ends with it, and has a `/run` of its own there: a bridge that is made has a name that one
/// of the host's may have, or another's who shares the directory, and what is kept of that is not to be taken for the new one's.
fn move_apart() -> OurResult<()> {
    // A directory that nobody could use is refused before it is out of sight.
    drop(state::lock()?);
    state::remove_directory_if_empty();
    let apart = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(apart).doing(|| "make a network namespace".into())?;
    let nothing = None::<&str>;
    make_private()?;
    mount(nothing, "/run", Some("tmpfs"), MsFlags::empty(), nothing)
        .doing(|| "mount a /run to try in".into())
}

/// Makes all that a container needs where it ends with us: what the kernel lacks is found there.
///
/// After: this process is there.
fn try_all() -> OurResult<()> {
    move_apart()?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let namespace = openat(AT_FDCWD, "/proc/self/ns/net", flags, Mode::empty())
        .doing(|| "open a network namespace".into())?;
    // TEST-NET-1, RFC 5737.
    let subnet = Subnet::Fixed(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24));
    let wanted = Wanted {
        subnet: Some(subnet),
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
            names_subnet6: false,
            offset: 0,
            mac: None,
            mtu: 1500,
            namespace: namespace.as_fd(),
            words: Words::CNI,
        };
        let veth = veth::create(&mut route, &wish)?;
        veth::set_up(&mut route, &veth, &network)
    };
    made().map_err(|error| Error::new(format!("try what a container needs: {error}")))
}
