//! Firewalls: ours, which must be whole, and those of others, which may drop our packets or have our ports.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use nix::errno::Errno;

use super::host::{Host, Network, address_of};
use super::{Fault, Report, with_cure};
use crate::attached::kept::{self, Kept};
use crate::control;
use crate::error::Refusal;
use crate::foreign::{self, Engine, Links, Table, quote};
use crate::ls::Description;
use crate::netlink::Netlink;
use crate::nft::translations::Translation;
use crate::nft::{self, State, examine as tables, translations};
use crate::publish::Port;
use crate::sysctl;

/// What is named when it cannot be looked at.
const RULES: &str = "the rules of nf_tables";

pub fn examine(host: &Host, route: &mut Netlink, report: &mut Report) {
    examine_legacy(host, report);
    // Without root each question is refused alike.
    let done = Netlink::netfilter().and_then(|mut nft| {
        examine_own(host, &mut nft, report)?;
        examine_barriers(host, &mut nft, report)?;
        examine_left_over(&mut nft, route, report)?;
        examine_translations(host, &mut nft, report)
    });
    if let Err(refusal) = done {
        report.could_not(RULES, with_cure(&refusal));
    }
    examine_unheld(host, report);
}

/// Our tables; where there are none, whether there could be.
fn examine_own(host: &Host, nft: &mut Netlink, report: &mut Report) -> Result<(), Refusal> {
    let state = nft::look(nft)?;
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
            format!("its firewall tables are of another version, {version:?}"),
            format!("host-helper down --force --bridge {0} && host-helper up --bridge {0}", network.name),
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
    Ok(())
}

/// Which rules of others decide about the packets of a network.
fn links_of(network: &Network) -> Links {
    Links::of(network.bridge.as_ref().map(|_| network.name.as_str()))
}

fn examine_barriers(host: &Host, nft: &mut Netlink, report: &mut Report) -> Result<(), Refusal> {
    for network in &host.networks {
        let found = foreign::nft_barriers(nft, &links_of(network))?;
        tell_barriers(network, &found, report);
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
        tell_barriers(
            network,
            &foreign::xtables_barriers(&links_of(network)),
            report,
        );
    }
}

fn tell_barriers(network: &Network, found: &[Table], report: &mut Report) {
    let links = links_of(network);
    let name = &network.name;
    for table in found {
        if table.family == "ip6" && !network.has_ipv6 {
            continue;
        }
        let chain = foreign::describe(table);
        report.find(
            Fault::ForwardDropped,
            network.place(),
            format!("{chain} drops what none of its rules accepts, and no rule of that table names {name}"),
            foreign::cure(table, &links).join(" && "),
        );
        for switch in bridged(table).iter().filter(|_| network.bridge.is_some()) {
            if sysctl::value(switch).ok().flatten().as_deref() != Some("1") {
                continue;
            }
            let switch = format!("net.{}", switch.replace('/', "."));
            report.find(
                Fault::BridgeNetfilter,
                network.place(),
                format!("{switch} is 1, so that {chain} also drops what its containers send to each other"),
                format!("sysctl -w {switch}=0"),
            );
        }
    }
}

/// The switches that send frames of bridges through a table.
fn bridged(table: &Table) -> &'static [&'static str] {
    const SWITCHES: [&str; 2] = [
        "bridge/bridge-nf-call-iptables",
        "bridge/bridge-nf-call-ip6tables",
    ];
    match (table.engine, table.family) {
        (_, "ip") => &SWITCHES[..1],
        (_, "ip6") => &SWITCHES[1..],
        (Engine::Nftables, "inet") => &SWITCHES,
        _ => &[],
    }
}

/// What is known of containers whose link is gone. One that ends at this moment still has its supervisor, or has taken its
/// rules back by the time of the second look.
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
    let supervised: BTreeSet<String> = control::sockets()
        .unwrap_or_default()
        .iter()
        .filter_map(|path| control::ask_at(path, "inspect").ok())
        .filter_map(|answer| serde_json::from_str::<Description>(&answer).ok()?.veth)
        .collect();
    let links = route.links()?;
    let still = tables::left_over(nft, &links)?;
    for (link, addresses) in found.iter().filter(|it| still.contains(it)) {
        if supervised.contains(link) {
            continue;
        }
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

/// Rules of others that lead packets to one of our addresses that nobody has, or take a port that is published by us.
fn examine_translations(
    host: &Host,
    nft: &mut Netlink,
    report: &mut Report,
) -> Result<(), Refusal> {
    if host.networks.is_empty() {
        return Ok(());
    }
    let others = translations::all(nft)?;
    if others.is_empty() {
        return Ok(());
    }
    let published = tables::published(nft)?;
    let taken: BTreeSet<IpAddr> = host.ends.iter().filter_map(address_of).collect();
    for rule in others {
        let network = host.networks.iter().find(|network| {
            let subnets = network.subnets();
            rule.to
                .is_some_and(|to| subnets.iter().any(|net| net.contains(&to)))
        });
        // IPv6 addresses are not leased by the names of links.
        let leads_nowhere = rule
            .to
            .is_some_and(|to| to.is_ipv4() && !taken.contains(&to));
        match (network, rule.to) {
            (Some(network), Some(to)) if leads_nowhere => report.find(
                Fault::RuleStale,
                network.place(),
                format!("{} leads to {to}, which no container has", describe(&rule)),
                delete(&rule),
            ),
            _ => tell_shadow(&rule, &published, report),
        }
    }
    Ok(())
}

fn tell_shadow(rule: &Translation, published: &BTreeSet<(u8, u16)>, report: &mut Report) {
    for (protocol, port) in published {
        let is_of_it = rule.protocol.is_none_or(|of| of == *protocol);
        if is_of_it && rule.ports.iter().any(|range| range.contains(port)) {
            let to = rule
                .to
                .map_or("the host itself".to_string(), |to| to.to_string());
            report.find(
                Fault::PortShadowed,
                format!("port {port}/{}", protocol_name(*protocol)),
                format!("{} leads it to {to} too; which of the two has it depends on the order of tables", describe(rule)),
                delete(rule),
            );
        }
    }
}

fn protocol_name(number: u8) -> &'static str {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        _ => "sctp",
    }
}

fn describe(rule: &Translation) -> String {
    let Translation {
        family,
        table,
        chain,
        ..
    } = rule;
    format!("a rule of chain {chain} of nft table {family} {table}")
}

fn delete(rule: &Translation) -> String {
    let Translation {
        family,
        table,
        chain,
        handle,
        ..
    } = rule;
    let names = [table, chain].map(|name| quote(name)).join(" ");
    format!("nft delete rule {family} {names} handle {handle}")
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
    if let Some(holder) = crate::publish::listener(&port) {
        let name = &kept.container.name;
        report.find(
            Fault::PortShadowed,
            format!("port {}/{}", port.host_port, port.protocol.name()),
            format!("container {name} is attached with it, without a supervisor that holds it, and {holder} listens there by now"),
            format!("host-helper detach {name}"),
        );
    }
}
