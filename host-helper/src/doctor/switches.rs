//! Switches of the kernel: forwarding, reverse path filtering, 127.0.0.0/8, connection tracking, router advertisements.

use std::fs;

use super::host::{Host, Network};
use super::{Fault, Report};
use crate::foreign::quote;
use crate::link::Link;
use crate::netlink::Netlink;
use crate::sysctl;
use crate::uplink;

/// What a switch is at; what cannot be read is said, what the kernel lacks is not.
fn value(switch: &str, report: &mut Report) -> Option<String> {
    sysctl::value(switch).unwrap_or_else(|error| {
        report.could_not(format!("net.{}", switch.replace('/', ".")), error);
        None
    })
}

fn is(switch: &str, wanted: &str, report: &mut Report) -> bool {
    value(switch, report).is_some_and(|value| value == wanted)
}

pub fn examine(host: &Host, route: &mut Netlink, report: &mut Report) {
    for network in &host.networks {
        examine_forwarding4(host, network, report);
        if network.has_ipv6 {
            examine_forwarding6(host, network, route, report);
        }
    }
    if !host.networks.is_empty() {
        for link in host.links.iter().filter(|link| !uplink::is_ours(link)) {
            examine_reverse_path(host, link, report);
        }
    }
    examine_localnet(report);
    examine_conntrack(report);
    examine_routers(host, route, report);
}

fn examine_forwarding4(host: &Host, network: &Network, report: &mut Report) {
    const ALL: &str = "ipv4/ip_forward";
    let off: Vec<&str> = network
        .links
        .iter()
        .map(String::as_str)
        .chain(host.ways.link4())
        .filter(|link| is(&format!("ipv4/conf/{link}/forwarding"), "0", report))
        .collect();
    if off.is_empty() {
        return;
    }
    if is(ALL, "0", report) {
        let cause = "net.ipv4.ip_forward is 0: the host passes no packets of its containers on";
        report.find(
            Fault::ForwardingOff,
            network.place(),
            cause,
            "sysctl -w net.ipv4.ip_forward=1",
        );
        return;
    }
    for link in off {
        let switch = name_of("ipv4", link, "forwarding");
        report.find(
            Fault::ForwardingOff,
            network.place(),
            format!("{switch} is 0: the host passes nothing on that comes in by link {link}"),
            set(&switch, 1),
        );
    }
}

fn examine_forwarding6(host: &Host, network: &Network, route: &mut Netlink, report: &mut Report) {
    if is("ipv6/conf/all/forwarding", "1", report) {
        return;
    }
    let usual = host.ways.link6();
    let uplinks = uplink::all6_of(&host.routes, &host.links);
    let others = uplinks.iter().map(|uplink| uplink.name.as_str());
    let others = others.filter(|link| Some(*link) != usual).chain(usual);
    let links = network.links.iter().map(String::as_str);
    for (link, is_ours) in links
        .map(|link| (link, true))
        .chain(others.map(|link| (link, false)))
    {
        let by_link = sysctl::by_link(link);
        let (switch, cure) = match value(&by_link, report).as_deref() {
            Some("0") => {
                let switch = name_of("ipv6", link, "force_forwarding");
                // `down` puts back what `up` has changed.
                let cure = match &network.bridge {
                    Some(_) if !is_ours => format!("host-helper up --bridge {}", network.name),
                    _ => set(&switch, 1),
                };
                (switch, cure)
            }
            Some(_) => continue,
            // Before Linux 6.17, where all links go together.
            None if !is_ours && Some(link) != usual => continue,
            None => {
                let (ours, is_bridge) = match &network.bridge {
                    Some(_) => (network.name.as_str(), true),
                    None => (link, false),
                };
                match sysctl::forwarding6_cure(route, ours, is_bridge) {
                    Ok(cure) => ("net.ipv6.conf.all.forwarding".to_string(), cure),
                    Err(error) => return report.could_not("IPv6 routes", error),
                }
            }
        };
        report.find(
            Fault::ForwardingOff,
            network.place(),
            format!(
                "{switch} is 0: the host passes no IPv6 packets on that come in by link {link}"
            ),
            cure,
        );
    }
}

/// A link by which the world may come in, while packets to the world leave by another.
fn examine_reverse_path(host: &Host, link: &Link, report: &mut Report) {
    let is_default = |route: &&crate::link::Route| {
        route.destination.prefix_len() == 0
            && route.destination.addr().is_ipv4()
            && route.links().any(|index| index == link.index)
    };
    let Some(usual) = host.ways.link4().filter(|usual| *usual != link.name) else {
        return;
    };
    if !host.routes.iter().any(|route| is_default(&route)) {
        return;
    }
    let mut strictness = |which: &str| -> u32 {
        let value = value(&format!("ipv4/conf/{which}/rp_filter"), report);
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    // The kernel takes the greater one: 0 off, 1 strict, 2 loose (ip-sysctl).
    if strictness("all").max(strictness(&link.name)) == 1 {
        let name = &link.name;
        let switch = name_of("ipv4", name, "rp_filter");
        report.find(
            Fault::ReversePath,
            format!("link {name}"),
            format!("{switch} is strict (1), and packets leave by link {usual}: what comes in by {name} for a container is dropped"),
            set(&switch, 2),
        );
    }
}

fn examine_localnet(report: &mut Report) {
    let mut links: Vec<String> = fs::read_dir("/proc/sys/net/ipv4/conf")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !matches!(name.as_str(), "lo" | "default"))
        .collect();
    links.sort();
    for link in links {
        if !is(&format!("ipv4/conf/{link}/route_localnet"), "1", report) {
            continue;
        }
        let switch = name_of("ipv4", &link, "route_localnet");
        let (place, whom) = match link.as_str() {
            "all" => ("host".to_string(), "every link".to_string()),
            link => (format!("link {link}"), format!("link {link}")),
        };
        report.find(
            Fault::LocalnetOpen,
            place,
            format!("{switch} is 1: but for firewall rules, services on 127.0.0.1 are open to whoever is on {whom}"),
            set(&switch, 0),
        );
    }
}

fn examine_conntrack(report: &mut Report) {
    /// Percent. New connections are dropped at 100, and a host is busy for seconds before that.
    const MUCH: u64 = 95;
    let mut number = |which: &str| -> Option<u64> {
        let value = value(&format!("netfilter/nf_conntrack_{which}"), report);
        value?.parse().ok()
    };
    let (Some(count), Some(most)) = (number("count"), number("max")) else {
        return;
    };
    // 0: no limit.
    if most > 0 && count.saturating_mul(100) >= most.saturating_mul(MUCH) {
        report.find(
            Fault::ConntrackFull,
            "host",
            format!("the kernel keeps track of {count} connections, of {most} at most: new ones are dropped"),
            format!("sysctl -w net.netfilter.nf_conntrack_max={}", most.max(count) * 2),
        );
    }
}

/// A host that forwards does not listen to its router, unless it is told to (`accept_ra` 2).
fn examine_routers(host: &Host, route: &mut Netlink, report: &mut Report) {
    let advertised = match route.advertised() {
        Ok(links) => links,
        Err(refusal) => return report.could_not("IPv6 addresses", refusal),
    };
    for link in host.links.iter().filter(|link| !uplink::is_ours(link)) {
        let name = &link.name;
        let mut defaults = host.routes.iter().filter(|route| {
            route.destination.addr().is_ipv6()
                && route.destination.prefix_len() == 0
                && route.links().any(|index| index == link.index)
        });
        let first = defaults.next();
        let loses = match first {
            // Nobody renews it.
            Some(route) => route.is_advertised || defaults.any(|route| route.is_advertised),
            None => advertised.contains(&link.index),
        };
        if loses
            && is(&format!("ipv6/conf/{name}/forwarding"), "1", report)
            && is(&format!("ipv6/conf/{name}/accept_ra"), "1", report)
        {
            let switch = name_of("ipv6", name, "accept_ra");
            let what = if first.is_some() {
                "goes when it expires"
            } else {
                "is gone"
            };
            report.find(
                Fault::RouterLost,
                format!("link {name}"),
                format!("{switch} is 1, and a host that forwards needs 2: the default route that its router has advertised {what}"),
                set(&switch, 2),
            );
        }
    }
}

/// A link's switch as sysctl(8) has it, which wants a slash where the link's name has a dot.
fn name_of(family: &str, link: &str, switch: &str) -> String {
    format!("net.{family}.conf.{}.{switch}", link.replace('.', "/"))
}

/// The command that sets it.
fn set(switch: &str, value: u32) -> String {
    format!("sysctl -w {}", quote(&format!("{switch}={value}")))
}
