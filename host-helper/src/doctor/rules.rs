//! Firewalls: ours, which must be whole, and those of others, which may drop our packets or have our ports.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::host::{Host, Network};
use super::{Fault, Report, bridged, entries, translated, with_cure};
use crate::attached::kept::{self, Kept};
use crate::control;
use crate::error::Refusal;
use crate::foreign::{self, Links, Table};
use crate::link::Link;
use crate::ls::Description;
use crate::netlink::Netlink;
use crate::nft::{self, State, examine as tables};
use crate::publish::{self, Port};

/// What is named when it cannot be looked at.
const RULES: &str = "the rules of nf_tables";

pub fn examine(host: &Host, route: &mut Netlink, report: &mut Report) {
    examine_legacy(host, report);
    // Without root each question is refused alike.
    let done = Netlink::netfilter().and_then(|mut nft| {
        if examine_own(host, &mut nft, report)? {
            entries::examine(host, &mut nft, route, report)?;
        }
        examine_barriers(host, &mut nft, report)?;
        examine_left_over(&mut nft, route, report)?;
        translated::examine(host, &mut nft, report)
    });
    if let Err(refusal) = done {
        report.could_not(RULES, with_cure(&refusal));
    }
    examine_unheld(host, report);
}

/// Our tables: whether they are whole; where there are none, whether there could be.
fn examine_own(host: &Host, nft: &mut Netlink, report: &mut Report) -> Result<bool, Refusal> {
    let state = nft::look(nft)?;
    let state_is_whole = state == State::Whole;
    match (state, host.networks.first()) {
        (State::Whole, _) => {}
        (State::Missing, Some(network)) => report.find(
            Fault::RulesMissing,
            network.place(),
            "its firewall tables, inet hawser and bridge hawser, have been flushed or changed: nothing is translated, no port published",
            "host-helper restore",
        ),
        (State::Foreign(version), Some(network)) => report.find(
            Fault::RulesMissing,
            network.place(),
            format!("its firewall tables are of another version, {version:?}, and are not replaced while containers live"),
            replacement(host),
        ),
        (_, None) => match tables::would_take(nft) {
            Err(refusal) if refusal.errno == Errno::EPERM => return Err(refusal),
            Err(refusal) => report.find(
                Fault::NatMissing,
                "host",
                format!("the kernel refuses our firewall tables: {refusal}; it needs CONFIG_NF_TABLES, NF_TABLES_INET, NF_TABLES_BRIDGE, NFT_NAT, NFT_MASQ, NFT_CT, NFT_FIB_INET, NFT_REJECT_INET"),
                "modprobe -a nf_tables nft_chain_nat nft_nat nft_masq nft_ct nft_fib_inet nft_reject_inet",
            ),
            Ok(()) => {}
        },
    }
    Ok(state_is_whole)
}

/// The commands after which our tables are those of this version: nobody lives by the others, and all bridges stay. Point-to-point, the
/// next start makes them.
fn replacement(host: &Host) -> String {
    let release = |end: &Link| {
        let mark = end.mark.as_ref()?;
        let verb = if mark.is_attached() { "detach" } else { "stop" };
        Some(format!("host-helper {verb} {}", mark.container()?.0))
    };
    // One may have several links.
    let living: BTreeSet<String> = host.ends.iter().filter_map(release).collect();
    let has_bridge = host.networks.iter().any(|one| one.bridge.is_some());
    let last = has_bridge.then(|| "host-helper restore".to_string());
    let commands: Vec<String> = living.into_iter().chain(last).collect();
    commands.join(" && ")
}

/// Which rules of others decide about the packets of a network.
fn links_of(host: &Host, network: &Network) -> Links {
    let bridge = network.bridge.as_ref();
    let subnets = match bridge {
        Some(_) => network.subnets(),
        None => host.addresses_of(network),
    };
    Links {
        index: bridge.map(|(bridge, _)| bridge.index),
        subnets,
        has_ipv6: network.has_ipv6,
        ..Links::of(bridge.map(|_| network.name.as_str()))
    }
}

fn examine_barriers(host: &Host, nft: &mut Netlink, report: &mut Report) -> Result<(), Refusal> {
    for network in &host.networks {
        let links = links_of(host, network);
        let found = foreign::nft_barriers(nft, &links)?;
        tell_barriers(network, &links, &found, report);
        bridged::examine(host, network, &links, nft, &found, report)?;
    }
    Ok(())
}

/// The packet filter of iptables-legacy, where there is one.
fn examine_legacy(host: &Host, report: &mut Report) {
    for names in ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"] {
        match fs::read(names) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let cause = with_cure(&error.into());
                report.could_not("the rules of iptables-legacy", cause);
            }
            _ => {}
        }
    }
    for network in &host.networks {
        let links = links_of(host, network);
        let found = foreign::xtables_barriers(&links);
        tell_barriers(network, &links, &found, report);
        bridged::tell_legacy(network, &links, &found, report);
    }
}

fn tell_barriers(network: &Network, links: &Links, found: &[Table], report: &mut Report) {
    let name = &network.name;
    for table in found {
        if table.family == "ip6" && !network.has_ipv6 {
            continue;
        }
        let chain = foreign::describe(table);
        let cause = match table.dropping {
            Some(_) => format!("{chain} drops what {name} sends or is sent"),
            None => format!(
                "{chain} drops what none of its rules accepts, and none accepts all that {name} sends and is sent"
            ),
        };
        report.find(
            Fault::ForwardDropped,
            network.place(),
            cause,
            foreign::cure(table, links).join(" && "),
        );
    }
}

/// How long the last of a container's rules may take to go: connections are forgotten before, and whoever has stopped it has been told.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// What is known of containers whose link is gone. One that ends at this moment still has its supervisor, or takes its rules back
/// while we wait for that.
fn examine_left_over(
    nft: &mut Netlink,
    route: &mut Netlink,
    report: &mut Report,
) -> Result<(), Refusal> {
    let links = route.links()?;
    let found = tables::left_over(nft, &links)?;
    if found.is_empty() {
        return Ok(());
    }
    let mut news = Netlink::netfilter()?;
    news.join(libc::NFNLGRP_NFTABLES as u32)?;
    let sockets = control::sockets().unwrap_or_default();
    let supervised: BTreeSet<String> = control::ask_each(&sockets, "inspect")
        .filter_map(|(_, answer)| {
            serde_json::from_str::<Description>(&answer.ok()?)
                .ok()?
                .veth
        })
        .collect();
    let end = Instant::now() + GONE_WITHIN;
    let left = loop {
        let still = tables::left_over(nft, &route.links()?)?;
        let is_left = |it: &_| still.contains(it) && !supervised.contains(&it.0);
        let left: Vec<_> = found.iter().filter(|it| is_left(it)).collect();
        let time = end.saturating_duration_since(Instant::now());
        if left.is_empty() || time.is_zero() {
            break left;
        }
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        // What it says, and whether it says anything, is to be seen in the tables.
        let _ = poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], timeout);
        while news.receive(libc::MSG_DONTWAIT).is_ok() {}
    };
    for (link, addresses) in left {
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        report.find(
            Fault::RuleStale,
            format!("link {link}"),
            format!(
                "our firewall tables still know the container that had {}; it was killed with its supervisor",
                addresses.join(" and ")
            ),
            "host-helper ls",
        );
    }
    Ok(())
}

/// Ports of attachments that no supervisor holds, and a process of the host has by now.
fn examine_unheld(host: &Host, report: &mut Report) {
    for end in &host.ends {
        let Some(kept) = Kept::of(end).filter(|kept| !control::is_supervised(&kept.container.name))
        else {
            continue;
        };
        for port in kept.ports() {
            tell_unheld(&kept, port, report);
        }
    }
}

fn tell_unheld(kept: &kept::Kept, port: Port, report: &mut Report) {
    // The runtime itself may hold it, for this container.
    if kept.cni.is_some() && publish::is_held_for(&port, kept.netns) {
        return;
    }
    if let Some(holder) = publish::listener(&port) {
        let name = &kept.container.name;
        report.find(
            Fault::PortShadowed,
            format!("port {}/{}", port.host_port, port.protocol.name()),
            format!("container {name} is attached with it, without a supervisor that holds it, and {holder} listens there by now"),
            format!("host-helper detach {name}"),
        );
    }
}
