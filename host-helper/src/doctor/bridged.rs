//! Frames between containers of a bridge, which the kernel sends through the rules for what is forwarded where it is told to
//! (br_netfilter): rules that were written for what leaves the bridge, or comes back, drop them.

use super::host::{Host, Network};
use super::{Fault, Report};
use crate::error::Refusal;
use crate::foreign::{self, Links, Table};
use crate::netlink::Netlink;
use crate::nft::examine::Known;
use crate::nft::{self, Policy};
use crate::sysctl;

/// The switches, which each network namespace has: the version of IP, whose tables, where it is.
const SWITCHES: [(u8, &str, &str); 2] = [
    (4, "ip", "bridge/bridge-nf-call-iptables"),
    (6, "ip6", "bridge/bridge-nf-call-ip6tables"),
];

/// `dropped`: what drops packets that leave the bridge, or come to it.
pub fn examine(
    host: &Host,
    network: &Network,
    links: &Links,
    nft: &mut Netlink,
    dropped: &[Table],
    report: &mut Report,
) -> Result<(), Refusal> {
    for (version, _, switch) in SWITCHES {
        if !is_on(network, version, switch) {
            continue;
        }
        let mut found = foreign::nft_barriers_within(nft, links, version)?;
        // The cure of a rule is to delete it, of which has been told.
        found.retain(|table| table.dropping.is_none() || !dropped.contains(table));
        if found.is_empty() || !wants_neighbours(host, network, nft)? {
            continue;
        }
        for table in &found {
            tell(network, links, switch, table, report);
        }
    }
    Ok(())
}

/// The same of iptables-legacy: whoever drops what leaves the bridge drops this.
pub fn tell_legacy(network: &Network, links: &Links, dropped: &[Table], report: &mut Report) {
    for table in dropped {
        for (version, family, switch) in SWITCHES {
            if table.family == family && is_on(network, version, switch) {
                tell(network, links, switch, table, report);
            }
        }
    }
}

fn is_on(network: &Network, version: u8, switch: &str) -> bool {
    network.bridge.is_some()
        && (version == 4 || network.has_ipv6)
        && sysctl::value(switch).ok().flatten().as_deref() == Some("1")
}

/// Where all are isolated nobody misses anything.
fn wants_neighbours(host: &Host, network: &Network, nft: &mut Netlink) -> Result<bool, Refusal> {
    let bridge = network.bridge.as_ref().map(|(bridge, _)| bridge.index);
    let ends = host.ends.iter().filter(|end| end.controller == bridge);
    let mut ends = ends.map(|end| end.name.as_str()).peekable();
    if ends.peek().is_none() {
        return Ok(true);
    }
    let known = Known::look(nft)?;
    Ok(ends.any(|end| !known.is_isolated(end)))
}

fn tell(network: &Network, links: &Links, switch: &str, table: &Table, report: &mut Report) {
    let switch = format!("net.{}", switch.replace('/', "."));
    let chain = foreign::describe(table);
    report.find(
        Fault::BridgeNetfilter,
        network.place(),
        format!("{switch} is 1, so that {chain} drops what its containers send to each other"),
        if is_open(network) {
            // The services of its cluster need it on where both ends are on the bridge.
            foreign::cure(table, links).join(" && ")
        } else {
            format!("sysctl -w {switch}=0")
        },
    );
}

/// A network of the CNI plugin.
fn is_open(network: &Network) -> bool {
    let bridge = network.bridge.as_ref();
    let policy = bridge.and_then(|(link, _)| nft::policy_of(link.group));
    policy.is_some_and(|policy| policy != Policy::Guarded)
}
