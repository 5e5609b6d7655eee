//! CHECK: what ADD has made is compared with what is there.

use std::net::IpAddr;
use std::path::Path;

use hawser::address::Mac;
use ipnet::IpNet;
use serde_json::Value;

use super::call::{Call, is_marked};
use super::configuration::Configuration;
use super::fault::{Fault, Judge, code};
use super::ipam::Addressing;
use super::members::configuration;
use super::{add, delegate};
use crate::attach::Attachment;
use crate::attached::kept::Kept;
use crate::attached::target::Target;
use crate::bridge;
use crate::error::{Doing, Error, Result as OurResult};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::nft::{self, State};
use crate::sysctl;

/// Compares. Other plugins may have added to what we have made; nothing of ours may be missing.
///
/// # Errors
/// The first difference.
pub fn check(call: &Call) -> Result<(), Fault> {
    let asked = Configuration::read(call)?;
    let Some(previous) = &asked.previous else {
        return Err(configuration(
            "prevResult is missing: CHECK compares with it",
        ));
    };
    // An answer of "unknown container" would say that there is nothing to clean up.
    let target = add::target(call).map_err(|fault| match fault.code {
        code::CONTAINER => differs(
            call,
            "its network namespace is gone; DEL gives back what is left of it",
        ),
        _ => fault,
    })?;
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
    let has_bridge = asked.network.has_bridge();
    let end = check_host_end(call, &mut route, &target, previous, has_bridge)?;
    check_inside(call, &target, previous)?;
    if let Some(kept) = Kept::of(&end) {
        check_rules(call, &mut route, &kept, &end)?;
    }
    match &asked.addressing {
        Addressing::Ours(_) => Ok(()),
        Addressing::Delegated(kind) => delegate::ask(kind, "CHECK", call).map(drop),
    }
}

fn differs(call: &Call, why: &str) -> Fault {
    let (container, network) = (&call.attachment.container, &call.network);
    let text = format!("check container {container} on network {network}: {why}");
    Fault::new(code::DIFFERS, text)
}

/// Which of the interfaces of a result is ours: it has this name, and is in a sandbox or not.
fn listed<'a>(result: &'a Value, name: &str, is_inside: bool) -> Option<(usize, &'a Value)> {
    let all = result.get("interfaces")?.as_array()?;
    all.iter().enumerate().find(|(_, one)| {
        let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
        text("name") == name && text("sandbox").is_empty() != is_inside
    })
}

/// `place`: what comes before a command that is to see the link.
fn check_mac(call: &Call, listed: &Value, link: &Link, place: &str) -> Result<(), Fault> {
    let wanted = listed
        .get("mac")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let has = Mac(link.mac).to_string();
    if wanted.is_empty() || wanted.eq_ignore_ascii_case(&has) {
        return Ok(());
    }
    let name = &link.name;
    let why = format!(
        "{name} has the hardware address {has}, and had {wanted} ({place}ip link set {name} address {wanted})"
    );
    Err(differs(call, &why))
}

fn check_host_end(
    call: &Call,
    route: &mut Netlink,
    target: &Target,
    previous: &Value,
    has_bridge: bool,
) -> Result<Link, Fault> {
    let name = call.name();
    let doing = || "look for the host's end".to_string();
    let found = route.find_link(&name).doing(doing).judge()?;
    let Some(end) = found else {
        let why = "the host's end of its link is not there; DEL and ADD make it anew";
        return Err(differs(call, why));
    };
    let mark = end.mark.as_ref().filter(|mark| is_marked(mark, &name));
    let netns = mark
        .and_then(|mark| mark.container())
        .map(|(_, netns)| netns);
    if netns != Some(target.inode) {
        let why = format!(
            "{} leads to another network namespace; DEL and ADD make one that leads to this",
            end.name
        );
        return Err(differs(call, &why));
    }
    if !end.is_up {
        let why = format!("{0} is down (ip link set {0} up)", end.name);
        return Err(differs(call, &why));
    }
    if let Some((_, listed)) = listed(previous, &end.name, false) {
        check_mac(call, listed, &end, "")?;
    }
    let bridge = match end.controller {
        Some(index) => route.link(index).doing(doing).judge()?,
        None => None,
    };
    let Some(bridge) = bridge else {
        if has_bridge {
            let why = format!(
                "{} is no port of a bridge any more; DEL and ADD make it one",
                end.name
            );
            return Err(differs(call, &why));
        }
        return Ok(end);
    };
    let name = &bridge.name;
    if listed(previous, name, false).is_none() {
        let why = format!(
            "{} is a port of {name}, which prevResult does not name; DEL and ADD put it where it belongs",
            end.name
        );
        return Err(differs(call, &why));
    }
    if !bridge.is_up {
        let why = format!("bridge {name} is down (ip link set {name} up)");
        return Err(differs(call, &why));
    }
    if let Some(lost) = bridge::lost_address(route, &bridge).judge()? {
        let why =
            format!("bridge {name} has lost its address {lost} (host-helper up --bridge {name})");
        return Err(differs(call, &why));
    }
    Ok(end)
}

/// The interface inside, with the addresses and routes that are said to be its own.
fn check_inside(call: &Call, target: &Target, previous: &Value) -> Result<(), Fault> {
    let name = &call.attachment.interface;
    let doing = || "look into the container's network".to_string();
    let mut inside = target.look().judge()?;
    let Some(link) = inside.find_link(name).doing(doing).judge()? else {
        let why = format!("it has no interface {name}; DEL and ADD make one");
        return Err(differs(call, &why));
    };
    let netns = call.netns.as_deref().unwrap_or(Path::new(""));
    let place = format!("nsenter --net={} ", netns.display());
    if !link.is_up {
        let why = format!("its interface {name} is down ({place}ip link set {name} up)");
        return Err(differs(call, &why));
    }
    let Some((index, listed)) = listed(previous, name, true) else {
        let why = format!("prevResult does not name its interface {name}");
        return Err(differs(call, &why));
    };
    check_mac(call, listed, &link, &place)?;
    let addresses = inside.addresses(link.index).doing(doing).judge()?;
    let mut subnets = Vec::new();
    for ip in list(previous, "ips") {
        let of = ip.get("interface").and_then(Value::as_u64);
        let address = ip
            .get("address")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let Ok(address) = address.parse::<IpNet>() else {
            return Err(configuration(&format!(
                "prevResult.ips {address:?} is no address"
            )));
        };
        let has = |net: &IpNet| net.addr() == address.addr();
        if of.is_some_and(|of| of != index as u64) {
            continue;
        }
        if !addresses.iter().any(has) {
            let why = format!(
                "{name} has no address {address} ({place}ip address add {address} dev {name})"
            );
            return Err(differs(call, &why));
        }
        subnets.push(address);
    }
    let routes = inside.routes().doing(doing).judge()?;
    for one in list(previous, "routes") {
        let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
        let (to, by) = (
            text("dst").parse::<IpNet>(),
            text("gw").parse::<IpAddr>().ok(),
        );
        let Ok(to) = to else {
            return Err(configuration(&format!(
                "prevResult.routes {one} is no route"
            )));
        };
        // All of ours have a router, on one of our subnets.
        if !by.is_some_and(|by| subnets.iter().any(|subnet| subnet.contains(&by))) {
            continue;
        }
        let is_there = routes
            .iter()
            .any(|route| route.destination == to.trunc() && route.gateway == by);
        if !is_there {
            let by = text("gw");
            let why = format!(
                "it has no route to {to} by {by} ({place}ip route add {to} via {by} dev {name} onlink)"
            );
            return Err(differs(call, &why));
        }
    }
    Ok(())
}

fn list<'a>(result: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    let list = result.get(key).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// The address of a point-to-point container that the host does not find by its link any more.
fn lost_route(
    route: &mut Netlink,
    attachment: &Attachment,
    end: &Link,
) -> OurResult<Option<IpAddr>> {
    if attachment.network.bridge.is_some() {
        return Ok(None);
    }
    let routes = route.routes().doing(|| "list routes".into())?;
    let leads_there = |address: &IpAddr| {
        let to = IpNet::from(*address);
        let mut by_it = routes.iter().filter(|route| route.link == Some(end.index));
        by_it.any(|route| route.destination == to)
    };
    let veth = &attachment.veth;
    let v6 = veth.address6.map(IpAddr::V6);
    let mut own = [Some(IpAddr::V4(veth.address)), v6].into_iter().flatten();
    Ok(own.find(|address| !leads_there(address)))
}

/// The firewall knows it, and leads its ports to it; and the host forwards.
fn check_rules(call: &Call, route: &mut Netlink, kept: &Kept, end: &Link) -> Result<(), Fault> {
    let mut found = || -> OurResult<Option<String>> {
        let attachment = kept.attachment(route, end);
        let attachment = attachment.ok_or_else(|| Error::new("read what is kept of it"))?;
        let mut nft = nft::open()?;
        let missing = match nft::state(&mut nft)? {
            State::Whole => nft::missing(&mut nft, &attachment, &kept.ports())?
                .then_some("the firewall does not know it, or not all of its ports"),
            State::Missing => Some("the firewall's rules are not there"),
            // It goes on by those of another version, of which nothing is known here.
            State::Foreign(_) => None,
        };
        if let Some(missing) = missing {
            return Ok(Some(format!("{missing} (host-helper restore)")));
        }
        let (by, is_bridge) = match attachment.network.bridge {
            Some(_) => (&attachment.network.name, true),
            None => (&end.name, false),
        };
        let of_ours = Some(by).filter(|_| attachment.network.is_ours);
        if let Some(why) = of_ours.map_or(Ok(None), |by| sysctl::not_forwarding4(by))? {
            return Ok(Some(why));
        }
        if let Some(lost) = lost_route(route, &attachment, end)? {
            let name = &end.name;
            return Ok(Some(format!(
                "the host has lost its route to {lost} by {name} (ip route replace {lost} dev {name})"
            )));
        }
        let has_ipv6 = attachment.veth.address6.is_some() && attachment.network.is_ours;
        if has_ipv6 && !sysctl::forwards6(by)? {
            return sysctl::not_forwarding6(route, by, is_bridge).map(Some);
        }
        Ok(None)
    };
    match found().judge()? {
        Some(why) => Err(differs(call, &why)),
        None => Ok(()),
    }
}
