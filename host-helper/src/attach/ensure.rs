//! The network is there before its first container is: bridge, firewall, forwarding, MTU.

use std::net::IpAddr;

use nix::errno::Errno;

use crate::attached;
use crate::bridge::{self, Network, POINT_TO_POINT_NAME};
use crate::control;
use crate::detach;
use crate::error::{Doing, Error, Result, all_of};
use crate::foreign;
use crate::link::Link;
use crate::netlink::Netlink;
use crate::nft::{self, Policy, Rules};
use crate::ptp;
use crate::publish;
use crate::reach::Reach;
use crate::request::{NetworkChoice, Request};
use crate::state;
use crate::steps::{Steps, warn};
use crate::sysctl;
use crate::undo::Undo;
use crate::uplink::{self, WaysOut};
use crate::wanted::{Ipv6, Wanted};

/// The links that packets to the rest of the world leave by.
pub(super) fn find_ways_out(route: &mut Netlink, request: &Request) -> Result<WaysOut> {
    if request.network.has_link() {
        uplink::find(route)
    } else {
        Ok(WaysOut::default())
    }
}

/// The network is there, the host forwards for it and hides its addresses.
///
/// Not undone: it is the network, and belongs to all of its containers. But what all networks have in common is, where somebody removes
/// the bridge meanwhile and it was the last: he may have done so before it was made.
pub(super) fn ensure_network(
    route: &mut Netlink,
    request: &Request,
    ways: &WaysOut,
    undo: &mut Undo,
    steps: &Steps,
) -> Result<Option<(Network, Netlink)>> {
    check_connect(route, request)?;
    check_ipv6(request, ways)?;
    let wanted = Wanted::of(request);
    let network = match &request.network {
        NetworkChoice::Bridge => bridge::ensure(route, &request.bridge, &wanted)?,
        NetworkChoice::PointToPoint => ptp::choose(route, &wanted)?,
        _ => return Ok(None),
    };
    if !network.is_ours && request.reach != Reach::default() {
        return Err(Error::new(format!(
            "limit what {} reaches: bridge {} is not ours, and its packets pass by no rules of ours; choose another --bridge",
            request.name, network.name
        )));
    }
    check_policy(&network, request)?;
    check_routers(&network, request)?;
    check_port_mtu(&network, request, ways)?;
    if request.details.is_promiscuous {
        bridge::take_all_frames(route, &network)?;
    }
    let ensured = ensure_way_out(route, network, &wanted, ways, steps)?;
    if let Some(bridge) = ensured.0.bridge {
        undo.push_last(move || {
            let _ = Netlink::route()
                .and_then(|mut route| detach::remove_rest_of_gone(&mut route, bridge.index));
        });
    }
    Ok(Some(ensured))
}

/// The network that a container with a link would come to. What would be refused of it is, and nothing is made.
///
/// # Errors
/// As of a container that asks for it.
pub fn look_at_network(route: &mut Netlink, request: &Request) -> Result<Network> {
    let ways = find_ways_out(route, request)?;
    check_ipv6(request, &ways)?;
    let wanted = Wanted::of(request);
    let network = match &request.network {
        NetworkChoice::Bridge => bridge::look(route, &request.bridge, &wanted)?,
        _ => ptp::choose(route, &wanted)?,
    };
    check_policy(&network, request)?;
    check_routers(&network, request)?;
    check_port_mtu(&network, request, &ways)?;
    Ok(network)
}

/// IPv6 that is asked for is not left out for want of room; nor has a container without it, whatever the network has, a port that only
/// IPv6 leads to.
fn check_ipv6(request: &Request, ways: &WaysOut) -> Result<()> {
    let mtu = request.mtu.unwrap_or_else(|| ways.mtu(true));
    let has_room = mtu >= uplink::LEAST_MTU6;
    if !has_room || request.no_ipv6 {
        for port in &request.ports {
            publish::check_family(port, None)?;
        }
    }
    let (what, asked) = match (request.subnet6, request.address6) {
        (Some(subnet), _) => ("subnet", subnet.to_string()),
        (None, Some(address)) => ("address", address.to_string()),
        (None, None) => return Ok(()),
    };
    if has_room {
        return Ok(());
    }
    Err(Error::new(format!(
        "use {what} {asked}: IPv6 needs an MTU of {}, and it is {mtu}; choose a larger {}, or leave the {what} out",
        uplink::LEAST_MTU6,
        request.details.words.mtu
    )))
}

/// A bridge of somebody else's is not made to lose its IPv6, which nobody would give back: see [`bridge::keep_ipv6`].
fn check_port_mtu(network: &Network, request: &Request, ways: &WaysOut) -> Result<()> {
    let mtu = request.mtu.unwrap_or_else(|| ways.mtu(network.has_ipv6()));
    if network.is_ours || !network.hosts_ipv6() || mtu >= uplink::LEAST_MTU6 {
        return Ok(());
    }
    let words = &request.details.words;
    Err(Error::new(format!(
        "use MTU {mtu} on bridge {}: it is not ours, and would lose its IPv6; choose a larger {}, or another {}",
        network.name, words.mtu, words.bridge
    )))
}

/// What was asked for is what the network's rules do.
fn check_policy(network: &Network, request: &Request) -> Result<()> {
    let name = &network.name;
    if network.is_ours && network.policy != Policy::Guarded && request.reach != Reach::default() {
        return Err(Error::new(format!(
            "limit what {} reaches: network {name} is an open one, of the CNI plugin; choose another --bridge",
            request.name
        )));
    }
    match request.details.policy {
        None => Ok(()),
        Some(Policy::OpenMasqueraded) if !network.is_ours => Err(Error::new(format!(
            "masquerade packets from bridge {name}: it is not ours, and its packets pass by no rules of ours; leave ipMasq out, or choose another bridge"
        ))),
        Some(policy) if network.is_ours && policy != network.policy => Err(Error::new(format!(
            "use bridge {name} with {}: it is there with {}; choose another, or remove it first (host-helper down --bridge {name})",
            policy.shown(),
            network.policy.shown()
        ))),
        Some(_) => Ok(()),
    }
}

/// A way out by another router than the network's gateway is not passed over for that.
fn check_routers(network: &Network, request: &Request) -> Result<()> {
    let details = &request.details;
    details.check_routers(Some(network.gateway), network.gateway6)
}

/// The networks that it is to reach are there.
fn check_connect(route: &mut Netlink, request: &Request) -> Result<()> {
    // Point-to-point networks are there with their containers.
    let is_link = |name: &&String| *name != POINT_TO_POINT_NAME && !name.contains('/');
    for name in request.reach.connect.iter().filter(is_link) {
        let found = route
            .find_link(name)
            .doing(|| format!("look for network {name}"))?;
        if !found.is_some_and(|link| nft::is_ours(link.group) && link.kind == "bridge") {
            return Err(Error::new(format!(
                "connect {} to network {name}: there is no bridge of ours of that name; make it with host-helper up --bridge {name}",
                request.name
            )));
        }
    }
    Ok(())
}

/// `up`: a network without a container.
///
/// # Errors
/// As [`super::run`].
pub fn ensure_bridge(name: &str, wanted: &Wanted, steps: &mut Steps) -> Result<Network> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let network = bridge::ensure(&mut route, name, wanted)?;
    let ways = uplink::find(&mut route)?;
    let (network, mut nft) = ensure_way_out(&mut route, network, wanted, &ways, steps)?;
    if network.is_ours && network.has_ipv6() {
        let uplinks = uplink::all6(&mut route)?;
        match sysctl::forward_all6(Some(&network.name), &uplinks) {
            Ok(changes) => say_changes(changes, steps),
            // The bridge has gone again, which is looked at last.
            Err(error) if error.errno == Some(Errno::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    let added = match network.is_ours {
        true => nft::add_bridge(&mut nft, &network.name, network.policy),
        false => Ok(()),
    };
    // Whoever removes it from here on has seen all of that.
    check_there(&mut route, &network)?;
    added?;
    steps.done("ensure");
    Ok(network)
}

/// The bridge is still there; else what all networks have in common goes again, if it was the last.
fn check_there(route: &mut Netlink, network: &Network) -> Result<()> {
    let Some(bridge) = network.bridge else {
        return Ok(());
    };
    let doing = || format!("look for bridge {}", network.name);
    if !detach::remove_rest_of_gone(route, bridge.index).doing(doing)? {
        return Ok(());
    }
    let gone = Err(Errno::ENODEV).doing(doing);
    gone.map_err(|error| error.cure(Errno::ENODEV, &network.run_again()))
}

/// `restore`: the tables, all networks of ours, and by their supervisors all containers.
///
/// # Errors
/// What the kernel refused; what a supervisor says, by its container's name.
pub fn restore() -> Result<()> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let doing = || "list links".to_string();
    let links = route.links().doing(doing)?;
    let bridges: Vec<&Link> = links
        .iter()
        .filter(|link| link.kind == "bridge" && nft::is_ours(link.group))
        .collect();
    let mut errors = Vec::new();
    let mut rules = Rules::Whole;
    if !bridges.is_empty() {
        let mut nft = nft::open()?;
        if nft::ensure(&mut nft)? {
            rules = Rules::Back;
        }
        for bridge in &bridges {
            let policy = nft::policy_of(bridge.group).unwrap_or_default();
            errors.extend(nft::add_bridge(&mut nft, &bridge.name, policy).err());
        }
    }
    for path in control::sockets()? {
        let name = || control::name_at(&path);
        match control::ask_at(&path, "restore") {
            Ok(answer) => errors.extend(
                answer
                    .strip_prefix("error ")
                    .map(|why| Error::new(format!("restore container {}: {}", name(), why.trim()))),
            ),
            Err(error) if control::is_silence(&error) => {
                errors.push(control::no_such(&name(), &error));
            }
            // Nobody listens: the container is gone.
            Err(_) => {}
        }
    }
    errors.extend(attached::restore(&mut route, rules));
    for bridge in bridges {
        // Whoever takes the last one down meanwhile has not seen the tables.
        errors.extend(
            detach::remove_rest_of_gone(&mut route, bridge.index)
                .doing(doing)
                .err(),
        );
    }
    all_of(&errors)
}

/// The firewall and forwarding. When they cannot be, a bridge that has just been made for it goes again, and with the first network of
/// all the tables and the switches. One that is not ours has its own way out, but nobody on it speaks for another.
fn ensure_way_out(
    route: &mut Netlink,
    network: Network,
    wanted: &Wanted,
    ways: &WaysOut,
    steps: &Steps,
) -> Result<(Network, Netlink)> {
    let mut network = network;
    if wanted.ipv6 != Ipv6::Wanted {
        network = network.without_ipv6();
    } else if !network.has_ipv6() {
        let why = sysctl::ipv6_is_off(&network.name)?;
        let why = why.unwrap_or_else(|| format!("network {} has none", network.name));
        steps.say(&format!("IPv4 alone: {why}"));
    }
    let ensured = nft::open().and_then(|mut nft| {
        let is_first = nft::ensure(&mut nft)?;
        if network.is_ours {
            ensure_forwarding(route, &mut network, wanted, ways, steps)?;
        }
        Ok((nft, is_first))
    });
    if ensured.is_err() {
        // The first error is the one that matters.
        if network.is_new {
            let _ = bridge::delete(route, &network.name);
        }
        let _ = detach::remove_rest_of_none();
    }
    let (mut nft, is_first) = ensured?;
    if is_first {
        restore_others();
    }
    // Nothing is made for point-to-point networks but the tables, for the first network of all, and the counter.
    let is_first_link = network.name == POINT_TO_POINT_NAME && state::begin_counter(&network.name);
    if network.is_new || is_first && network.is_ours || is_first_link {
        foreign::tell(&network, &mut nft);
    }
    Ok((network, nft))
}

/// The tables are new, and know nothing of those that were there before: who is attached, and nobody stays for, has nobody else to say it.
pub(super) fn restore_others() {
    for error in attached::restore_to_new_tables() {
        warn(&error.to_string());
    }
}

/// The host end of a point-to-point container has a switch of its own: see [`super::attach`].
fn ensure_forwarding(
    route: &mut Netlink,
    network: &mut Network,
    wanted: &Wanted,
    ways: &WaysOut,
    steps: &Steps,
) -> Result<()> {
    let mut changes: Vec<String> = sysctl::ensure_forwarding()?.into_iter().collect();
    bridge::ensure_forwarding4(route, network)?;
    if network.has_ipv6() {
        let bridge = network.bridge.map(|_| network.name.as_str());
        let uplinks = || uplink::all6(route);
        match sysctl::ensure_forwarding6(bridge, ways.link6(), uplinks) {
            Ok(more) => changes.extend(more),
            Err(error) if error.errno == Some(Errno::ENODEV) => {
                return Err(error.cure(Errno::ENODEV, &network.run_again()));
            }
            Err(error) if wanted.subnet6.is_some() || wanted.address6.is_some() => {
                return Err(error);
            }
            Err(error) => {
                steps.say(&format!("IPv4 alone: {error}"));
                *network = network.clone().without_ipv6();
            }
        }
    }
    say_changes(changes, steps);
    Ok(())
}

fn say_changes(changes: Vec<String>, steps: &Steps) {
    for change in changes {
        steps.say(&format!(
            "{change}: the host must forward for its containers (down puts it back)"
        ));
    }
}

/// The MTU, and the network without IPv6 where that is too small for it and none was asked for.
pub(super) fn choose_mtu(
    route: &mut Netlink,
    request: &Request,
    network: Option<Network>,
    ways: &WaysOut,
    steps: &Steps,
) -> Result<(u32, Option<Network>)> {
    let has_ipv6 = network.as_ref().is_some_and(Network::has_ipv6);
    let mtu = request.mtu.unwrap_or_else(|| ways.mtu(has_ipv6));
    if mtu >= uplink::LEAST_MTU6 {
        return Ok((mtu, network));
    }
    // That of the others, too, where this container wants none.
    if let Some(network) = &network {
        bridge::keep_ipv6(route, network)?;
    }
    if !has_ipv6 {
        return Ok((mtu, network));
    }
    let why = format!(
        "IPv6 needs an MTU of {}, and it is {mtu}",
        uplink::LEAST_MTU6
    );
    steps.say(&format!("IPv4 alone: {why}"));
    Ok((mtu, network.map(Network::without_ipv6)))
}

/// What the network has not, its container has not either, whoever's bridge it is: of one without IPv6 it gets no resolvers of IPv6.
///
/// Before: nobody has read the request's resolvers.
pub(super) fn know_network(request: &mut Request, network: Option<&Network>) {
    let is_alone = network.is_some_and(|network| !network.has_ipv6());
    if request.no_ipv6 || !is_alone {
        return;
    }
    request.no_ipv6 = true;
    if !request.resolvers.servers.iter().any(IpAddr::is_ipv6) {
        return;
    }
    let lacked = request.lacks_resolvers();
    request.choose_resolvers();
    // Else it has been said.
    if let Some(lack) = request.lacks_resolvers().filter(|_| lacked.is_none()) {
        warn(&lack);
    }
}
