//! Other firewalls of the host: which of them may drop what our containers send and are sent. A packet passes only if
//! every chain at the forward hook lets it, so that nothing of ours can help. Nothing of theirs is changed: whoever has
//! made a network is told, in one line, with the command that lets its packets through.

use ipnet::IpNet;

use crate::bridge::Network;
use crate::error::Refusal;
use crate::netlink::Netlink;
use crate::nft::{self, foreign::Way};
use crate::steps::warn;
use crate::xtables;

/// A table of somebody else with a chain that forwarded packets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Who evaluates it.
    pub engine: Engine,
    /// nft's name of its family.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// Its chain that drops, or refuses, what reaches its end.
    pub barrier: String,
    /// All of its chains.
    pub chains: Vec<String>,
    /// The rule about the network that drops its packets; none: they are dropped with others.
    pub dropping: Option<Dropping>,
}

/// A rule of nf_tables that drops packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropping {
    /// Its chain.
    pub chain: String,
    /// By which it is deleted.
    pub handle: u64,
}

/// The two packet filters of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// nf_tables.
    Nftables,
    /// That of iptables before there was nf_tables.
    Xtables,
}

/// What a rule calls the links of the network on which packets of its containers arrive.
#[derive(Debug, Clone)]
pub struct Links {
    /// A link's name, or the beginning of several.
    pub name: String,
    /// The beginning of several.
    pub is_prefix: bool,
    /// Its number.
    pub index: Option<u32>,
    /// The addresses of the network, as far as they are known.
    pub subnets: Vec<IpNet>,
    /// It has IPv6.
    pub has_ipv6: bool,
}

impl Links {
    /// Those of the network with this bridge; without one they are the host ends of its containers.
    pub fn of(bridge: Option<&str>) -> Links {
        Links {
            name: bridge.unwrap_or("hw").to_string(),
            is_prefix: bridge.is_none(),
            index: None,
            subnets: Vec::new(),
            has_ipv6: true,
        }
    }

    fn with(&self, wildcard: &str) -> String {
        let wildcard = if self.is_prefix { wildcard } else { "" };
        format!("{}{wildcard}", self.name)
    }
}

/// Tells which firewalls may drop what is forwarded for a network that has just been made. That is a hint: what cannot
/// be looked at is not told about, and a chain may accept the packets before it drops the rest.
pub fn tell(network: &Network, nft: &mut Netlink) {
    let subnet6 = network.subnet6.map(IpNet::V6);
    let links = Links {
        index: network.bridge.map(|bridge| bridge.index),
        subnets: [Some(IpNet::V4(network.subnet)), subnet6]
            .into_iter()
            .flatten()
            .collect(),
        has_ipv6: network.has_ipv6(),
        ..Links::of(network.bridge.map(|_| network.name.as_str()))
    };
    let mut found = nft_barriers(nft, &links).unwrap_or_default();
    found.extend(xtables_barriers(&links));
    found.retain(|table| table.family != "ip6" || network.has_ipv6());
    if !found.is_empty() {
        warn(&sentence(&network.name, &links, &found));
    }
}

/// The tables of nf_tables that may drop what arrives on these links, or leaves by them.
///
/// # Errors
/// What the kernel refused.
pub fn nft_barriers(nft: &mut Netlink, links: &Links) -> Result<Vec<Table>, Refusal> {
    nft::foreign::tables(nft, links, Way::Forwarded)
}

/// Those that may drop what stays on this bridge, of a version of IP, where such frames pass the rules for what is forwarded.
///
/// # Errors
/// What the kernel refused.
pub fn nft_barriers_within(
    nft: &mut Netlink,
    links: &Links,
    version: u8,
) -> Result<Vec<Table>, Refusal> {
    nft::foreign::tables(nft, links, Way::Bridged(version))
}

/// Those of iptables-legacy. What cannot be read is left out.
pub fn xtables_barriers(links: &Links) -> Vec<Table> {
    // With its wildcard: that is a part of the name there.
    xtables::tables(&links.with("+"))
}

fn sentence(network: &str, links: &Links, found: &[Table]) -> String {
    let chains: Vec<String> = found.iter().map(describe).collect();
    let mut cures: Vec<String> = Vec::new();
    for command in found.iter().flat_map(|table| cure(table, links)) {
        if !cures.contains(&command) {
            cures.push(command);
        }
    }
    format!(
        "forward packets of network {network}: {} may drop them; let them through with: {}",
        chains.join(" and "),
        cures.join(" && ")
    )
}

/// What the chain is that is in the way.
pub fn describe(table: &Table) -> String {
    let Table {
        family,
        name,
        barrier,
        dropping,
        ..
    } = table;
    if let Some(Dropping { chain, handle }) = dropping {
        return format!("rule {handle} of chain {chain} of nft table {family} {name}");
    }
    match table.engine {
        Engine::Nftables => format!("chain {barrier} of nft table {family} {name}"),
        Engine::Xtables => format!("chain {barrier} of {}", iptables(table)),
    }
}

/// The command for a table that it has made, as far as there is one for each engine.
fn iptables(table: &Table) -> &'static str {
    match (table.engine, table.family) {
        (Engine::Xtables, "ip") => "iptables-legacy",
        (Engine::Xtables, _) => "ip6tables-legacy",
        (Engine::Nftables, "ip") => "iptables-nft",
        (Engine::Nftables, _) => "ip6tables-nft",
    }
}

/// The commands that let packets of these links pass a table, in the language of whoever has made it.
pub fn cure(table: &Table, links: &Links) -> Vec<String> {
    /// Docker's, for rules of the admin; it is evaluated before Docker's own, and never flushed.
    const DOCKER: &str = "DOCKER-USER";
    /// That of `ufw route`.
    const UFW: [&str; 2] = ["ufw-user-forward", "ufw6-user-forward"];
    /// Of firewalld, where it is told to use iptables.
    const FIREWALLD: &str = "FORWARD_direct";
    if let Some(Dropping { chain, handle }) = &table.dropping {
        let [name, chain] = [&table.name, chain].map(|name| quote(name));
        let family = table.family;
        return vec![format!(
            "nft delete rule {family} {name} {chain} handle {handle}"
        )];
    }
    let has = |name: &str| table.chains.iter().any(|chain| chain == name);
    let (plus, star) = (quote(&links.with("+")), links.with("*"));
    if table.name == "firewalld" || has(FIREWALLD) {
        return vec![
            format!("firewall-cmd --permanent --zone=trusted --add-interface={plus}"),
            "firewall-cmd --reload".to_string(),
        ];
    }
    if table.name == "filter" && table.barrier == "FORWARD" {
        let chain = if has(DOCKER) { DOCKER } else { "FORWARD" };
        if chain != DOCKER && UFW.into_iter().any(has) {
            return ["in", "out"]
                .map(|way| format!("ufw route allow {way} on {plus}"))
                .into();
        }
        let command = iptables(table);
        return ["-i", "-o"]
            .map(|way| format!("{command} -I {chain} {way} {plus} -j ACCEPT"))
            .into();
    }
    let matches = match table.family {
        // Frames between containers of one bridge: whatever comes from a port of ours.
        "bridge" => vec!["iifname \"hw*\"".to_string()],
        _ => ["iifname", "oifname"]
            .map(|way| format!("{way} \"{star}\""))
            .into(),
    };
    let chain = format!("{} {} {}", table.family, table.name, table.barrier);
    matches
        .iter()
        .map(|what| {
            let rule = format!("insert rule {chain} {what} accept");
            format!("nft {}", quote(&rule))
        })
        .collect()
}

/// As one word of a shell.
pub fn quote(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+=/".contains(&b);
    if text.bytes().all(is_plain) {
        text.to_string()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(engine: Engine, family: &'static str, name: &str, chains: &[&str]) -> Table {
        Table {
            engine,
            family,
            name: name.to_string(),
            barrier: chains[0].to_string(),
            chains: chains.iter().map(ToString::to_string).collect(),
            dropping: None,
        }
    }

    fn cured(links: &Links, table: &Table) -> String {
        cure(table, links).join(" && ")
    }

    fn links(name: &str) -> Links {
        let is_prefix = name == "hw";
        Links {
            name: name.to_string(),
            is_prefix,
            ..Links::of(None)
        }
    }

    #[test]
    fn the_cure_is_in_the_language_of_whoever_made_the_table() {
        use Engine::{Nftables, Xtables};
        for (link, table, words) in [
            (
                "hawser0",
                table(Nftables, "ip", "filter", &["FORWARD", "INPUT"]),
                "iptables-nft -I FORWARD -i hawser0 -j ACCEPT && iptables-nft -I FORWARD -o hawser0 -j ACCEPT",
            ),
            (
                "hawser0",
                table(Xtables, "ip6", "filter", &["FORWARD", "DOCKER-USER"]),
                "ip6tables-legacy -I DOCKER-USER -i hawser0 -j ACCEPT && ip6tables-legacy -I DOCKER-USER -o hawser0 -j ACCEPT",
            ),
            (
                "hw",
                table(Nftables, "ip6", "filter", &["FORWARD", "ufw6-user-forward"]),
                "ufw route allow in on hw+ && ufw route allow out on hw+",
            ),
            (
                "hw",
                table(Nftables, "inet", "firewalld", &["filter_FORWARD"]),
                "firewall-cmd --permanent --zone=trusted --add-interface=hw+ && firewall-cmd --reload",
            ),
            (
                "hw",
                table(Nftables, "inet", "filter", &["forward"]),
                "nft 'insert rule inet filter forward iifname \"hw*\" accept' && nft 'insert rule inet filter forward oifname \"hw*\" accept'",
            ),
            (
                "br$0'",
                table(Nftables, "ip", "mine", &["FORWARD"]),
                "nft 'insert rule ip mine FORWARD iifname \"br$0'\\''\" accept' && nft 'insert rule ip mine FORWARD oifname \"br$0'\\''\" accept'",
            ),
            (
                "hawser0",
                table(Nftables, "bridge", "filter", &["forward"]),
                "nft 'insert rule bridge filter forward iifname \"hw*\" accept'",
            ),
        ] {
            assert_eq!(cured(&links(link), &table), words);
        }
    }

    #[test]
    fn one_line_for_all_of_them_and_each_command_once() {
        let ufw = ["FORWARD", "ufw-user-forward", "ufw6-user-forward"];
        let found = ["ip", "ip6"].map(|family| table(Engine::Nftables, family, "filter", &ufw));
        assert_eq!(
            sentence("hawser0", &links("hawser0"), &found),
            "forward packets of network hawser0: chain FORWARD of nft table ip filter and chain FORWARD of nft table ip6 filter may drop them; \
            let them through with: ufw route allow in on hawser0 && ufw route allow out on hawser0"
        );
    }
}
