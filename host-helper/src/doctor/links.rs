//! Links, addresses and routes: bridges that are down, `lo`, MTUs, routes that take our addresses.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;

use super::host::{Host, Network, address_of, name_of};
use super::{Fault, Report, with_cure};
use crate::address::{free_subnet, free_subnet6, is_default};
use crate::attached::kept::Kept;
use crate::attached::target::look_inside;
use crate::bridge;
use crate::control;
use crate::error::Refusal;
use crate::link::Link;
use crate::ls::Description;
use crate::netlink::Netlink;
use crate::nft::{self, Policy};
use crate::owner::{Gateway6, Gateways, Owner, namespace, place_of};
use crate::state;
use crate::veth::INSIDE;
use crate::wanted::DEFAULT_SUBNET;

const LO: &str = "lo";

pub fn examine(host: &Host, route: &mut Netlink, report: &mut Report) {
    if host.links.iter().any(|link| link.name == LO && !link.is_up) {
        report.find(
            Fault::LoDown,
            "host",
            "link lo is down: ports that are published on 127.0.0.1, and the host's own resolver there, answer nobody",
            "ip link set lo up",
        );
    }
    for network in &host.networks {
        examine_bridge(host, network, route, report);
        examine_routes(host, network, report);
    }
    for end in &host.ends {
        examine_end(host, end, report);
        examine_inside(end, report);
    }
}

/// A bridge of ours is as it was made.
fn examine_bridge(host: &Host, network: &Network, route: &mut Netlink, report: &mut Report) {
    let Some((bridge, gateways)) = &network.bridge else {
        return;
    };
    let name = &network.name;
    let cure = format!("host-helper up --bridge {name}");
    if !bridge.is_up {
        let cause = format!("bridge {name} is down");
        report.find(Fault::BridgeDown, network.place(), cause, cure);
        return;
    }
    let addresses = match route.addresses(bridge.index) {
        Ok(addresses) => addresses,
        Err(refusal) => return report.could_not(format!("addresses of {name}"), refusal),
    };
    let own: Vec<IpNet> = bridge::own_addresses(name, gateways).collect();
    if let Some(lost) = own.iter().find(|net| !addresses.contains(net)) {
        let cause = format!("bridge {name} has lost its address {lost}");
        return report.find(Fault::BridgeDown, network.place(), cause, cure);
    }
    // Those that came with the addresses.
    let leads_there = |net: &IpNet| {
        let mut routes = host.routes.iter();
        routes.any(|it| it.link == Some(bridge.index) && it.destination == net.trunc())
    };
    for net in own.iter().filter(|net| !leads_there(net)) {
        let to = net.trunc();
        let from = net.addr();
        report.find(
            Fault::BridgeDown,
            network.place(),
            format!(
                "bridge {name} has lost its route to {to}: the host does not find its containers"
            ),
            match from {
                IpAddr::V4(_) => {
                    format!("ip route replace {to} dev {name} proto kernel scope link src {from}")
                }
                IpAddr::V6(_) => {
                    format!("ip -6 route replace {to} dev {name} proto kernel metric 256")
                }
            },
        );
    }
}

/// No link but the network's own has a route to its addresses.
fn examine_routes(host: &Host, network: &Network, report: &mut Report) {
    let own = network.bridge.as_ref().map(|(bridge, _)| bridge.index);
    // Those of CNI are cut out of what the cluster has a route to.
    let policy = network.bridge.as_ref().map(|(bridge, _)| bridge.group);
    let is_cut_out = policy.and_then(nft::policy_of) != Some(Policy::Guarded);
    for subnet in network.subnets() {
        // No container can have it, and flannel's device does.
        let of_the_subnet_itself = IpNet::from(subnet.network());
        for route in &host.routes {
            let to = route.destination;
            let takes = subnet.contains(&to) && to != of_the_subnet_itself;
            let is_wider = !is_default(to) && !route.leads_nowhere && to.contains(&subnet);
            let overlaps = takes || is_wider && !is_cut_out;
            let Some(link) = route.link.filter(|_| overlaps && route.link != own) else {
                continue;
            };
            let link = host
                .link(link)
                .map_or_else(|| link.to_string(), |link| link.name.clone());
            let name = &network.name;
            let cure = if is_cut_out {
                format!("ip route del {to} dev {link}")
            } else {
                let force = if network.has_containers(host) {
                    "--force "
                } else {
                    ""
                };
                let subnets = network.subnets_elsewhere(host, subnet);
                format!(
                    "host-helper down {force}--bridge {name} && host-helper up --bridge {name} {subnets}"
                )
            };
            let cause =
                format!("its subnet {subnet} overlaps with {to}, which leads to link {link}");
            report.find(Fault::SubnetOverlap, network.place(), cause, cure);
            // One is enough: a link has a route to its subnet and one to each of its addresses.
            break;
        }
    }
}

impl Network {
    fn has_containers(&self, host: &Host) -> bool {
        let on_it = |end: &Link| host.network_of(end).is_some_and(|it| it.name == self.name);
        host.ends.iter().any(on_it)
    }

    /// What `up` is told to make this network again with another subnet instead of `taken`, and otherwise as it is.
    fn subnets_elsewhere(&self, host: &Host, taken: IpNet) -> String {
        let Some((bridge, Gateways { v4, v6 })) = &self.bridge else {
            return String::new();
        };
        let mut routes = host.routes.clone();
        routes.retain(|route| route.link != Some(bridge.index));
        // Where it has IPv6 the machine's number is there: nothing is written.
        let usual6 = || free_subnet6(&routes, &state::machine_id().ok()?, &self.name);
        let four = match taken {
            IpNet::V4(_) if free_subnet(&routes, DEFAULT_SUBNET.prefix_len()).is_some() => {
                "auto".to_string()
            }
            IpNet::V4(_) => "SUBNET".to_string(),
            IpNet::V6(_) => v4.trunc().to_string(),
        };
        let six = match (v6, taken) {
            (Gateway6::Never, _) => " --no-ipv6".to_string(),
            (Gateway6::At(net), IpNet::V4(_)) if Some(net.trunc()) != usual6() => {
                format!(" --subnet6 {}", net.trunc())
            }
            (Gateway6::At(_), IpNet::V6(_)) if usual6().is_none() => {
                " --subnet6 SUBNET6".to_string()
            }
            _ => String::new(),
        };
        format!("--subnet {four}{six}")
    }
}

/// A start sets its links up last. Its supervisor answers when it is done.
fn wait_for_start(name: &str) {
    let _ = control::ask(name, "inspect");
}

fn is_down_still(end: &Link) -> bool {
    wait_for_start(name_of(end));
    let link = Netlink::route().and_then(|mut route| route.link(end.index));
    link.is_ok_and(|link| link.is_some_and(|link| !link.is_up))
}

/// What a container calls the link that this is the host's end of, as far as it is told.
fn name_inside(end: &Link) -> String {
    Description::of_end(end)
        .and_then(|container| container.interface)
        .unwrap_or_else(|| INSIDE.to_string())
}

/// The host's end of a container's link.
fn examine_end(host: &Host, end: &Link, report: &mut Report) {
    let (name, link) = (name_of(end), &end.name);
    if !end.is_up && is_down_still(end) {
        report.find(
            Fault::BridgeDown,
            format!("container {name}"),
            format!(
                "link {link}, the host's end of its {}, is down",
                name_inside(end)
            ),
            format!("ip link set {link} up"),
        );
    }
    let Some(network) = host.network_of(end) else {
        examine_stray(host, end, report);
        return;
    };
    let Some((way, mtu)) = host.ways.narrowest(network.has_ipv6) else {
        return;
    };
    if end.mtu > mtu {
        let interface = name_inside(end);
        let inside = end.mark.as_ref().and_then(|mark| mark.owner());
        let inside = inside.map_or_else(String::new, |owner| {
            format!(
                " && nsenter -t {} -n ip link set {interface} mtu {mtu}",
                owner.pid
            )
        });
        report.find(
            Fault::MtuTooLarge,
            format!("container {name}"),
            format!(
                "its {interface} takes packets of {} bytes, and link {way}, by which they leave, takes {mtu}",
                end.mtu
            ),
            format!("ip link set {link} mtu {mtu}{inside}"),
        );
    }
}

/// One that was made as a port of a bridge is none.
fn examine_stray(host: &Host, end: &Link, report: &mut Report) {
    if !bridge::is_stray(end) {
        return;
    }
    let is_its = |network: &&Network| {
        let address = address_of(end);
        address.is_some_and(|it| network.subnets().iter().any(|net| net.contains(&it)))
    };
    let (name, link) = (name_of(end), &end.name);
    let known = Description::of_end(end).unwrap_or_default();
    let network = host.networks.iter().find(is_its);
    // What nobody knows is only theirs to know who has made it.
    let of_container = Some(known.network.as_str()).filter(|name| !name.is_empty());
    let bridge = network.map(|network| network.name.as_str());
    let bridge = bridge.or(of_container).unwrap_or("BRIDGE");
    let is_there = network.is_some() || host.links.iter().any(|link| link.name == bridge);
    let cni = Kept::of(end).and_then(|kept| kept.cni);
    let (what, first) = if is_there {
        (format!("no port of {bridge} any more"), String::new())
    } else if let Some(cni) = cni {
        // Ours would be closed to whom that of its plugin is open.
        let network = cni.network;
        (
            format!(
                "no port of a bridge any more: {bridge} is gone, and comes back with the next container of network {network}"
            ),
            String::new(),
        )
    } else {
        let subnet = known.subnet.unwrap_or_else(|| "SUBNET".to_string());
        let subnet6 = known.subnet6.map_or("--no-ipv6".to_string(), |subnet6| {
            format!("--subnet6 {subnet6}")
        });
        (
            format!("no port of a bridge any more: {bridge} is gone"),
            format!("host-helper up --bridge {bridge} --subnet {subnet} {subnet6} && "),
        )
    };
    report.find(
        Fault::BridgeDown,
        format!("container {name}"),
        format!(
            "link {link}, the host's end of its {}, is {what}",
            known.interface.as_deref().unwrap_or(INSIDE)
        ),
        format!("{first}ip link set {link} master {bridge}"),
    );
}

/// `lo` of a container.
fn examine_inside(end: &Link, report: &mut Report) {
    let Some(owner) = end.mark.as_ref().and_then(|mark| mark.owner()) else {
        return;
    };
    let mut lo = lo_inside(owner);
    if matches!(&lo, Ok(Some(lo)) if !lo.is_up) {
        wait_for_start(&owner.name);
        lo = lo_inside(owner);
    }
    match lo {
        Ok(Some(lo)) if !lo.is_up => report.find(
            Fault::LoDown,
            format!("container {}", owner.name),
            "its link lo is down: what listens on 127.0.0.1 there answers nobody",
            format!("nsenter -t {} -n ip link set lo up", owner.pid),
        ),
        Ok(_) => {}
        Err(refusal) => report.could_not("the inside of containers", with_cure(&refusal)),
    }
}

/// `None`: it ends at this moment, or cannot be told from another.
fn lo_inside(owner: &Owner) -> Result<Option<Link>, Refusal> {
    let pid = owner.pid.to_string();
    if !owner.is_running() || namespace("self", "pid").ok() != Some(owner.pidns) {
        return Ok(None);
    }
    if namespace(&pid, "net")? != owner.netns {
        return Ok(None);
    }
    let netns: OwnedFd = File::open(place_of(owner.pid).join("ns/net"))?.into();
    let mut inside = look_inside(&netns, Netlink::route)??;
    inside.find_link(LO)
}
