//! Rules of others that lead packets to one of our addresses that nobody has, or take a port that is published by us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::host::{Host, address_of};
use super::{Fault, Report};
use crate::error::Refusal;
use crate::foreign::quote;
use crate::netlink::Netlink;
use crate::nft::conditions::{Conditions, Is, Links};
use crate::nft::examine::{Published, left_over, published};
use crate::nft::translations::{self, Translation};

pub fn examine(host: &Host, nft: &mut Netlink, report: &mut Report) -> Result<(), Refusal> {
    if host.networks.is_empty() {
        return Ok(());
    }
    let others = translations::all(nft)?;
    if others.is_empty() {
        return Ok(());
    }
    let published = published(nft)?;
    // IPv6 addresses are not leased by the names of links: the tables tell them.
    let mut known: BTreeMap<String, Vec<IpAddr>> = left_over(nft, &[])?.into_iter().collect();
    let told: Vec<_> = host
        .ends
        .iter()
        .map(|end| known.remove(&end.name))
        .collect();
    let tells_all = told.iter().all(Option::is_some);
    let leased = host.ends.iter().filter_map(address_of);
    let taken: BTreeSet<IpAddr> = (told.into_iter().flatten().flatten())
        .chain(leased)
        .chain(host.own_addresses())
        .collect();
    for rule in others {
        let network = host.networks.iter().find(|network| {
            let subnets = network.subnets();
            rule.to
                .is_some_and(|to| subnets.iter().any(|net| net.contains(&to)))
        });
        let leads_nowhere = rule
            .to
            .is_some_and(|to| (to.is_ipv4() || tells_all) && !taken.contains(&to));
        match (network, rule.to) {
            // Whichever packets it is about.
            (Some(network), Some(to)) if leads_nowhere => report.find(
                Fault::RuleStale,
                network.place(),
                format!("{} leads to {to}, which no container has", describe(&rule)),
                delete(&rule),
            ),
            _ => tell_shadow(host, &rule, &published, report),
        }
    }
    Ok(())
}

/// Whether a rule takes a port.
#[derive(Debug, PartialEq, Eq)]
enum Takes {
    No,
    Yes,
    /// It has a condition that is not understood.
    Perhaps,
}

fn takes(host: &Host, conditions: &Conditions, published: &Published) -> Takes {
    let Conditions {
        version,
        protocol,
        links_in,
        links_out,
        sources,
        destinations,
        ports,
        lookups,
        has_more,
        // So are the packets that are for a port that we publish.
        is_local: _,
        // Has more.
        is_bridged: _,
    } = conditions;
    let is_of_it = version.is_none_or(|of| of == published.version)
        && protocol.is_none_or(|of| of == published.protocol)
        && ports.iter().any(|range| range.contains(&published.port));
    let own: Vec<IpAddr> = match published.address {
        Some(address) => vec![address],
        None => host.own_addresses().collect(),
    };
    let (excluded, wanted): (Vec<_>, Vec<_>) = destinations.iter().partition(|is| is.is_not);
    let is_for = |address: &IpAddr| {
        (wanted.is_empty() || wanted.iter().any(|is| is.what.contains(address)))
            && !excluded.iter().any(|is| is.what.contains(address))
    };
    if !is_of_it || !own.iter().any(is_for) || !links_in.iter().all(|is| comes_by(host, is)) {
        return Takes::No;
    }
    if *has_more || !lookups.is_empty() || !links_out.is_empty() || !sources.is_empty() {
        return Takes::Perhaps;
    }
    Takes::Yes
}

/// Whether there is a link that packets of such a rule come in by.
fn comes_by(host: &Host, Is { what, is_not }: &Is<Links>) -> bool {
    host.links.iter().any(|link| {
        let is_it = match what {
            Links::Named(name) => link.name == *name,
            Links::Prefixed(start) => link.name.starts_with(start),
            Links::Numbered(index) => link.index == *index,
        };
        is_it != *is_not
    })
}

fn tell_shadow(
    host: &Host,
    rule: &Translation,
    published: &BTreeSet<Published>,
    report: &mut Report,
) {
    let mut told = BTreeSet::new();
    for one in published {
        let takes = takes(host, &rule.conditions, one);
        // Once for both versions of IP.
        if takes == Takes::No || !told.insert((one.protocol, one.port)) {
            continue;
        }
        let port = format!("port {}/{}", one.port, protocol_name(one.protocol));
        if takes == Takes::Perhaps {
            report.could_not(
                describe(rule),
                format!(
                    "it may take {port}, which is published: one of its conditions is not understood; look at it with nft -a list chain {}",
                    place(rule)
                ),
            );
            continue;
        }
        let to = rule
            .to
            .map_or("the host itself".to_string(), |to| to.to_string());
        report.find(
            Fault::PortShadowed,
            port,
            format!(
                "{} leads it to {to} too; which of the two has it depends on the order of tables",
                describe(rule)
            ),
            delete(rule),
        );
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
    format!(
        "a rule of chain {} of nft table {} {}",
        rule.chain, rule.family, rule.table
    )
}

/// The chain, as nft takes it in a shell.
fn place(rule: &Translation) -> String {
    format!(
        "{} {} {}",
        rule.family,
        quote(&rule.table),
        quote(&rule.chain)
    )
}

/// What takes it away, and nothing else that the rule does.
fn delete(rule: &Translation) -> String {
    let place = place(rule);
    let Translation {
        family,
        table,
        handle,
        conditions,
        element,
        ..
    } = rule;
    let Some(element) = element else {
        return format!("nft delete rule {place} handle {handle}");
    };
    match (&element.map, conditions.ports.first()) {
        (Some(map), Some(ports)) => {
            let (first, last) = (ports.start(), ports.end());
            let key = if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            };
            let [table, map] = [table, map].map(|name| quote(name));
            format!("nft delete element {family} {table} {map} '{{ {key} }}'")
        }
        (None, _) if !element.is_only => {
            format!("nft replace rule {place} handle {handle} RULE")
        }
        _ => format!("nft delete rule {place} handle {handle}"),
    }
}
