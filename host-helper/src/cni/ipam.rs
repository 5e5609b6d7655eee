//! Where a container's addresses come from: a part of a subnet, of which the names of links are the leases; or another
//! plugin, whose addresses are taken as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::fault::Fault;
use super::members::{Members, configuration, parsed, unsupported, wrong};
use super::{TYPE, fault::code};
use crate::address::{Subnet, gateway_of, parse_subnet6, same_host, usable};
use crate::dns::Resolvers;

/// The plugin that is never asked: it wants the container's interface to be there, which is made with its address.
pub const DHCP: &str = "dhcp";

/// Where addresses come from.
#[derive(Debug, Clone)]
pub enum Addressing {
    /// From us.
    Ours(Box<Pool>),
    /// From the plugin of this type.
    Delegated(String),
}

/// What we give addresses from.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// Something is said of addresses.
    pub is_named: bool,
    /// The network's subnet; none: the usual one.
    pub subnet: Option<Ipv4Net>,
    /// Which part of it is given.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The host's address in it.
    pub gateway: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub subnet6: Option<Ipv6Net>,
    /// The host's address there.
    pub gateway6: Option<Ipv6Addr>,
    /// The address that is wanted.
    pub address: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub address6: Option<Ipv6Addr>,
    /// Destinations, each with its router.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    /// What is said of names.
    pub dns: Option<Value>,
}

/// One range of a configuration.
struct Range {
    subnet: IpNet,
    first: Option<IpAddr>,
    last: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// Reads `ipam`, and which addresses are asked for: by capabilities, by `args`, and by the environment's `IP`.
pub fn read(
    all: &mut Members,
    run_time: &mut Members,
    arguments: &mut Members,
    environment: Option<&str>,
) -> Result<Addressing, Fault> {
    let mut ipam = all.object("ipam")?;
    let ranges = run_time.list("ipRanges")?;
    let asked = [run_time.texts("ips")?, arguments.texts("ips")?].concat();
    match ipam.text("type")? {
        Some(other) if other == DHCP => {
            let why =
                "it asks by the container's interface, which is made with its address; use another";
            return Err(unsupported("ipam.type", &json!(other), why));
        }
        // It reads the rest, what is asked for included.
        Some(other) if other != TYPE => return Ok(Addressing::Delegated(other)),
        _ => {}
    }
    ipam.refuse(
        "dataDir",
        "addresses are leased by the names of links, and no file says so",
    )?;
    let mut pool = Pool::default();
    let sets = ipam.list("ranges")?;
    let legacy = read_range("ipam", &mut ipam, false)?;
    let mut sets: Vec<Range> = [ranges, sets]
        .concat()
        .into_iter()
        .map(read_set)
        .collect::<Result<_, _>>()?;
    sets.extend(legacy);
    for range in sets {
        pool.add(range)?;
    }
    pool.routes = routes(&ipam.path_of("routes"), ipam.list("routes")?)?;
    pool.dns = ipam.parsed("resolvConf", resolvers_of)?;
    ipam.end()?;
    pool.check()?;
    for text in asked.iter().map(String::as_str).chain(environment) {
        pool.ask(text)?;
    }
    if let (true, None, Some(address)) = (pool.is_named, pool.subnet6, pool.address6) {
        return Err(configuration(&format!(
            "the address {address}: the network has no IPv6 range; add one, or leave it out"
        )));
    }
    Ok(Addressing::Ours(Box::new(pool)))
}

/// One set of `ranges`: one address is given of each.
fn read_set(set: Value) -> Result<Range, Fault> {
    const PATH: &str = "ipam.ranges";
    let why = "a set has one range; the next one is of the other version of IP";
    match set {
        Value::Array(mut ranges) if ranges.len() == 1 => {
            let mut range = Members::of(PATH, ranges.pop())?;
            let read = read_range(PATH, &mut range, true)?;
            range.end()?;
            read.ok_or_else(|| configuration(&format!("{PATH}: a range without a subnet")))
        }
        Value::Array(ranges) => Err(unsupported(PATH, &ranges.into(), why)),
        other => Err(wrong(PATH, &other, "a list of lists of ranges")),
    }
}

fn read_range(path: &str, from: &mut Members, is_needed: bool) -> Result<Option<Range>, Fault> {
    let address = |text: &str| text.parse::<IpAddr>().map_err(|error| error.to_string());
    let first = from.parsed("rangeStart", address)?;
    let last = from.parsed("rangeEnd", address)?;
    let gateway = from.parsed("gateway", address)?;
    let subnet = from.parsed("subnet", |text| {
        if text.contains(':') {
            return parse_subnet6(text).map(IpNet::V6);
        }
        match text.parse::<Subnet>()? {
            Subnet::Fixed(net) => Ok(IpNet::V4(net)),
            Subnet::Auto => Err("name one, or leave it out".to_string()),
        }
    })?;
    let said = [
        ("rangeStart", first),
        ("rangeEnd", last),
        ("gateway", gateway),
    ];
    let Some(subnet) = subnet else {
        let alone = said.into_iter().find(|(_, value)| value.is_some());
        return match alone {
            Some((key, _)) => Err(configuration(&format!("{path}.{key}: it needs a subnet"))),
            None if is_needed => Err(configuration(&format!("{path}: a range without a subnet"))),
            None => Ok(None),
        };
    };
    for (key, value) in said {
        if let Some(value) = value.filter(|value| !subnet.contains(value)) {
            let why = format!("{path}.{key} {value}: it is outside {subnet}");
            return Err(configuration(&why));
        }
    }
    Ok(Some(Range {
        subnet,
        first,
        last,
        gateway,
    }))
}

impl Pool {
    fn add(&mut self, range: Range) -> Result<(), Fault> {
        const TWICE: &str = "a container has one address of each version of IP on a network";
        self.is_named = true;
        match range.subnet {
            IpNet::V4(subnet) if self.subnet.is_none() => self.add4(subnet, &range),
            IpNet::V6(subnet) if self.subnet6.is_none() => self.add6(subnet, &range),
            subnet => Err(unsupported(
                "ipam.ranges",
                &json!(subnet.to_string()),
                TWICE,
            )),
        }
    }

    fn add4(&mut self, subnet: Ipv4Net, range: &Range) -> Result<(), Fault> {
        let v4 = |address: Option<IpAddr>| match address {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        let gateway = v4(range.gateway);
        let whole = usable(subnet, gateway.unwrap_or_else(|| gateway_of(subnet)));
        let (first, last) = (v4(range.first), v4(range.last));
        if first.is_some() || last.is_some() {
            // The network's own address and the broadcast address are nobody's.
            let chosen = (
                first.map_or(whole.0, |first| first.max(whole.0)),
                last.map_or(whole.1, |last| last.min(whole.1)),
            );
            if chosen.0 > chosen.1 {
                let why = format!("ipam: no address is between {} and {}", chosen.0, chosen.1);
                return Err(configuration(&why));
            }
            self.range = Some(chosen);
        }
        (self.subnet, self.gateway) = (Some(subnet), gateway);
        Ok(())
    }

    fn add6(&mut self, subnet: Ipv6Net, range: &Range) -> Result<(), Fault> {
        const RANGE: &str = "an IPv6 address has the host part of the container's IPv4 address";
        let said = [("rangeStart", range.first), ("rangeEnd", range.last)];
        for (key, value) in said {
            if let Some(value) = value {
                let path = format!("ipam.ranges.{key}");
                return Err(unsupported(&path, &json!(value.to_string()), RANGE));
            }
        }
        self.subnet6 = Some(subnet);
        self.gateway6 = match range.gateway {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        };
        Ok(())
    }

    /// An address that is asked for, with or without a length, which the network has.
    fn ask(&mut self, text: &str) -> Result<(), Fault> {
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        let read = |text: &str| text.parse::<IpAddr>().map_err(|error| error.to_string());
        let twice = "another one of the same version of IP is asked for";
        match parsed("the address", address, read)? {
            IpAddr::V4(address) if self.address.is_none_or(|other| other == address) => {
                let range = self.range.unwrap_or((address, address));
                if !(range.0..=range.1).contains(&address) {
                    return Err(configuration(&format!(
                        "the address {address}: it is outside {} to {}",
                        range.0, range.1
                    )));
                }
                self.address = Some(address);
            }
            IpAddr::V6(address) if self.address6.is_none_or(|other| other == address) => {
                self.address6 = Some(address);
            }
            address => {
                return Err(unsupported(
                    "the address",
                    &json!(address.to_string()),
                    twice,
                ));
            }
        }
        Ok(())
    }

    /// The host's IPv6 address that goes with this one, where one is known.
    pub fn gateway6_with(&self, gateway: Ipv4Addr) -> Option<Ipv6Addr> {
        let usual = || same_host(gateway, self.subnet?, self.subnet6?);
        self.gateway6.or_else(usual)
    }

    /// What has IPv6 alone cannot be had; nor gateways that differ in their host parts, or are everybody's address.
    pub fn check(&self) -> Result<(), Fault> {
        let is_broadcast = |(gateway, subnet): &(Ipv4Addr, Ipv4Net)| *gateway == subnet.broadcast();
        if let Some((gateway, subnet)) = self.gateway.zip(self.subnet).filter(is_broadcast) {
            return Err(configuration(&format!(
                "gateway {gateway}: it is the broadcast address of {subnet}; choose another"
            )));
        }
        let (subnet, subnet6) = match (self.subnet, self.subnet6) {
            (_, None) => return Ok(()),
            (None, Some(subnet6)) => {
                let why = "a network has IPv4, whatever else; add a range of it";
                let value = json!(subnet6.to_string());
                return Err(unsupported("ipam.ranges", &value, why));
            }
            (Some(subnet), Some(subnet6)) => (subnet, subnet6),
        };
        let gateway = self.gateway.unwrap_or_else(|| gateway_of(subnet));
        let usual = same_host(gateway, subnet, subnet6);
        match self.gateway6.filter(|gateway6| Some(*gateway6) != usual) {
            Some(other) => Err(unsupported(
                "ipam gateway",
                &json!(other.to_string()),
                "the host's IPv6 address has the host part of its IPv4 address",
            )),
            None => Ok(()),
        }
    }

    /// What another plugin has given.
    pub fn of_result(result: Value) -> Result<Pool, Fault> {
        const PATH: &str = "ips";
        let mut all = Members::of("", Some(result))?;
        let mut pool = Pool {
            is_named: true,
            ..Pool::default()
        };
        for one in all.list(PATH)? {
            let mut one = Members::of(PATH, Some(one))?;
            let net = one.parsed("address", |text| {
                text.parse::<IpNet>().map_err(|error| error.to_string())
            })?;
            let read = |text: &str| text.parse::<IpAddr>().map_err(|error| error.to_string());
            let gateway = one.parsed("gateway", read)?;
            match (net, gateway) {
                (Some(IpNet::V4(net)), gateway) if pool.address.is_none() => {
                    if !(8..=30).contains(&net.prefix_len()) {
                        let why = "a network has a length of 8 to 30";
                        return Err(unsupported("ips.address", &json!(net.to_string()), why));
                    }
                    pool.address = Some(net.addr());
                    pool.subnet = Some(net.trunc());
                    pool.gateway = match gateway {
                        Some(IpAddr::V4(gateway)) => Some(gateway),
                        _ => None,
                    };
                }
                (Some(IpNet::V6(net)), gateway) if pool.address6.is_none() => {
                    pool.gateway6 = match gateway {
                        Some(IpAddr::V6(gateway)) => Some(gateway),
                        _ => None,
                    };
                    pool.address6 = Some(net.addr());
                    pool.subnet6 = Some(net.trunc());
                }
                (Some(net), _) => {
                    let why = "a container has one address of each version of IP on a network";
                    return Err(unsupported("ips.address", &json!(net.to_string()), why));
                }
                (None, _) => return Err(configuration("ips: one has no address")),
            }
        }
        if pool.address.is_none() {
            let why = "it has given no IPv4 address, without which there is no network of ours";
            return Err(Fault::new(
                code::DELEGATE,
                format!("ask for an address: {why}"),
            ));
        }
        pool.routes = routes("routes", all.list("routes")?)?;
        pool.dns = all.take("dns").filter(|dns| {
            let members = dns.as_object();
            members.is_some_and(|members| !members.is_empty())
        });
        pool.check()?;
        Ok(pool)
    }
}

/// `routes`, each `{dst, gw}`.
pub fn routes(path: &str, list: Vec<Value>) -> Result<Vec<(IpNet, Option<IpAddr>)>, Fault> {
    const OTHER: &str = "a route has a destination and a router";
    let mut all = Vec::new();
    for one in list {
        let mut one = Members::of(path, Some(one))?;
        let to = one.parsed("dst", |text| {
            let net = text.parse::<IpNet>().map_err(|error| error.to_string())?;
            Ok(net.trunc())
        })?;
        let Some(to) = to else {
            return Err(configuration(&format!("{path}: a route without dst")));
        };
        let by = one.parsed("gw", |text| {
            text.parse::<IpAddr>().map_err(|error| error.to_string())
        })?;
        if by.is_some_and(|by| by.is_ipv4() != to.addr().is_ipv4()) {
            let why = format!("{path}: the router of {to} is of the other version of IP");
            return Err(configuration(&why));
        }
        for key in ["mtu", "advmss", "priority", "table", "scope"] {
            one.refuse(key, OTHER)?;
        }
        one.end()?;
        all.push((to, by));
    }
    Ok(all)
}

/// `resolvConf`: a file that says what the result is to say of names.
fn resolvers_of(path: &str) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let found = Resolvers::parse_all(&text);
    let servers: Vec<String> = found.servers.iter().map(IpAddr::to_string).collect();
    Ok(names(&servers, None, &found.search, &found.options))
}

/// As a result has it; what is empty is left out.
pub fn names(
    servers: &[String],
    domain: Option<&str>,
    search: &[String],
    options: &[String],
) -> Value {
    let mut all = json!({});
    for (key, list) in [
        ("nameservers", servers),
        ("search", search),
        ("options", options),
    ] {
        if !list.is_empty() {
            all[key] = json!(list);
        }
    }
    if let Some(domain) = domain {
        all["domain"] = json!(domain);
    }
    all
}
