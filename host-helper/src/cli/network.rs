//! The options of a network, which every front end with a command line has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{Args, ValueEnum};
use ipnet::Ipv6Net;

use super::values::{parse_connect, parse_host, parse_interface, parse_network, parse_word};
use super::{PORT, usage};
use crate::address::{Subnet, parse_address, parse_address6, parse_mac, parse_subnet6};
use crate::bridge::DEFAULT_BRIDGE;
use crate::dns::Resolvers;
use crate::error::Result;
use crate::link::Mac;
use crate::publish;
use crate::reach::{Egress, Reach};
use crate::request::{Details, NetworkChoice, Request, host_name_of};
use crate::sys;
use crate::veth::INSIDE;

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Answer {
    /// Yes.
    Yes,
    /// No.
    No,
}

/// `--resolv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Resolv {
    /// Bound over those of the root file system; an error when that cannot be.
    Required,
    /// Left alone.
    Off,
}

// No sentence for the documentation: clap would put it in the place of the command's.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// bridge, ptp (no bridge: a route of its own), none (only lo), host, container:NAME, ns:PATH
    #[arg(long, default_value = "bridge", value_parser = parse_network)]
    pub network: NetworkChoice,
    /// The bridge; one that is not there is made, one that is not ours is used as it is
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// Name of the interface inside
    #[arg(long, value_name = "NAME", default_value = INSIDE, value_parser = parse_interface)]
    pub iface: String,
    /// Subnet of the network [default: 172.19.0.0/16, ptp: 10.0.0.0/24; auto: one of 172.16.0.0/12 that no route has]
    #[arg(long, value_name = "CIDR")]
    pub subnet: Option<Subnet>,
    /// Address of the container [default: the next free one]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 subnet of the network [default: a unique local one, made from the machine's id and the network's name]
    #[arg(long, value_name = "CIDR", value_parser = parse_subnet6)]
    pub subnet6: Option<Ipv6Net>,
    /// IPv6 address of the container [default: the one with the host part of its IPv4 address]
    #[arg(long, value_name = "ADDR", value_parser = parse_address6)]
    pub ip6: Option<Ipv6Addr>,
    /// Give the container IPv4 alone
    #[arg(long, conflicts_with_all = ["subnet6", "ip6"])]
    pub no_ipv6: bool,
    /// Neither reach the neighbours on the network nor be reached by them
    #[arg(long)]
    pub isolate: bool,
    /// Reach nothing outside the network
    #[arg(long)]
    pub internal: bool,
    /// Reach another network too, and be reached from it: a bridge's name, or a point-to-point subnet; repeatable
    #[arg(long, value_name = "NETWORK", value_parser = parse_connect)]
    pub connect: Vec<String>,
    /// What the container may open connections to, the host included: none, all, or a list of dns, ADDR/LEN,
    /// [ADDR/LEN]:PORT[/PROTO]
    #[arg(long, default_value = "all", value_name = "none|all|LIST")]
    pub egress: Egress,
    /// Hardware address of the container [default: made from its address]
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub mac: Option<Mac>,
    /// Forward a port of the host, or as many as a range has; without HOSTPORT, one that is free; repeatable
    #[arg(short, long, value_name = PORT)]
    pub publish: Vec<publish::Range>,
    /// MTU in bytes [default: that of the host's default routes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(68..=65535))]
    pub mtu: Option<u32>,
    /// Resolver to use instead of the host's; repeatable
    #[arg(long, value_name = "ADDR")]
    pub dns: Vec<IpAddr>,
    /// Domain to search instead of the host's; repeatable
    #[arg(long, value_name = "DOMAIN", value_parser = parse_word)]
    pub dns_search: Vec<String>,
    /// Option for the resolver, ndots:1 say, instead of the host's; repeatable
    #[arg(long, value_name = "OPTION", value_parser = parse_word)]
    pub dns_option: Vec<String>,
    /// Whether a change of the host's resolvers reaches the running container
    #[arg(long, value_name = "yes|no", default_value = "yes")]
    pub dns_follow: Answer,
    /// A line for /etc/hosts; repeatable
    #[arg(long, value_name = "NAME:ADDR", value_parser = parse_host)]
    pub add_host: Vec<(IpAddr, String)>,
    /// off: /etc/resolv.conf and /etc/hosts stay those of the root file system
    #[arg(long, value_name = "required|off", default_value = "required")]
    pub resolv: Resolv,
}

impl Network {
    /// A port that only a supervisor can publish.
    pub fn loopback_port(&self) -> Option<publish::Port> {
        let mut ports = self.publish.iter().flat_map(|range| range.ports());
        ports.find(publish::Port::is_loopback)
    }

    /// A port that only a container with IPv6 can have.
    pub fn port_of_ipv6(&self) -> Option<publish::Port> {
        let mut ports = self.publish.iter().flat_map(|range| range.ports());
        // What comes by loopback is connected anew.
        ports.find(|port| !port.has_ipv4() && !port.is_loopback())
    }

    /// Whether an option needs a network of the container's own.
    fn option_of_a_network(&self) -> Option<&'static str> {
        [
            ("--bridge", self.bridge.is_some()),
            ("--iface", self.iface != INSIDE),
            ("--subnet", self.subnet.is_some()),
            ("--ip", self.ip.is_some()),
            ("--subnet6", self.subnet6.is_some()),
            ("--ip6", self.ip6.is_some()),
            ("--no-ipv6", self.no_ipv6),
            ("--mac", self.mac.is_some()),
            ("--mtu", self.mtu.is_some()),
            ("--publish", !self.publish.is_empty()),
        ]
        .into_iter()
        .find_map(|(option, is_given)| is_given.then_some(option))
    }

    /// Refuses options that make no sense together.
    ///
    /// # Errors
    /// Which they are.
    pub fn check(&self) -> Result<()> {
        match self.option_of_a_network() {
            Some(option) if !self.network.has_link() => {
                return Err(usage(&format!(
                    "{option} needs a network of the container's own: --network bridge or ptp"
                )));
            }
            _ => {}
        }
        if self.bridge.is_some() && self.network == NetworkChoice::PointToPoint {
            return Err(usage("--network ptp has no bridge; leave --bridge out"));
        }
        let ports: Vec<_> = self
            .publish
            .iter()
            .flat_map(|range| range.ports())
            .collect();
        if let Some(port) = publish::first_collision(&ports) {
            return Err(usage(&format!(
                "--publish {port} takes a port of the host that another --publish takes"
            )));
        }
        if let Some(port) = self.port_of_ipv6().filter(|_| self.no_ipv6) {
            return Err(usage(&format!(
                "--publish {port} leads to nothing: with --no-ipv6 the container has no IPv6 address"
            )));
        }
        if !self.network.has_link() && self.reach() != Reach::default() {
            return Err(usage(
                "--isolate, --internal, --connect and --egress are about a network of ours: --network bridge or ptp",
            ));
        }
        if !self.connect.is_empty() && (self.internal || self.isolate) {
            return Err(usage(
                "--connect leads out of the network, which --internal and --isolate forbid; leave one of them out",
            ));
        }
        Ok(())
    }

    /// Refuses lines for files that are left alone. Not of a hook: its arguments and a container's annotations need not know each other.
    ///
    /// # Errors
    /// Which they are.
    pub fn check_files(&self) -> Result<()> {
        // Not --dns: it also says which resolvers --egress dns means.
        let written = self.option_for_files(false);
        match written.filter(|_| self.resolv == Resolv::Off) {
            Some(option) => Err(usage(&format!(
                "{option} is for files that --resolv=off leaves alone; leave one of them out"
            ))),
            None => Ok(()),
        }
    }

    /// An option that is given and says what is in the container's resolv.conf and hosts; `--dns` may be one.
    pub fn option_for_files(&self, with_dns: bool) -> Option<&'static str> {
        let options = [
            ("--dns", with_dns && !self.dns.is_empty()),
            ("--dns-search", !self.dns_search.is_empty()),
            ("--dns-option", !self.dns_option.is_empty()),
            ("--add-host", !self.add_host.is_empty()),
        ];
        let mut options = options.into_iter().filter(|(_, is_given)| *is_given);
        options.next().map(|(option, _)| option)
    }

    /// The request for a container of this name, or of one that is made up; without the host's resolvers: see [`Request::choose_resolvers`].
    pub fn request(&self, name: Option<&str>, hostname: Option<&str>) -> Request {
        let is_name_made_up = name.is_none();
        let name = name.map_or_else(|| format!("box-{:08x}", sys::random_u32()), str::to_string);
        let hostname = hostname.unwrap_or(host_name_of(&name)).to_string();
        let asked = Resolvers {
            servers: self.dns.clone(),
            search: self.dns_search.clone(),
            options: self.dns_option.clone(),
        };
        let needs_files = self.resolv == Resolv::Required;
        Request {
            name,
            network: self.network.clone(),
            interface: self.iface.clone(),
            bridge: self
                .bridge
                .clone()
                .unwrap_or_else(|| DEFAULT_BRIDGE.to_string()),
            subnet: self.subnet,
            address: self.ip,
            subnet6: self.subnet6,
            address6: self.ip6,
            no_ipv6: self.no_ipv6,
            ports: self
                .publish
                .iter()
                .flat_map(|range| range.ports())
                .collect(),
            reach: self.reach(),
            mac: self.mac,
            mtu: self.mtu,
            resolvers: asked.clone(),
            unread_resolvers: None,
            writes_resolv: needs_files,
            asked: (needs_files && asked.needs_host()).then_some(asked),
            follows: self.dns_follow == Answer::Yes,
            is_name_made_up,
            short_id: None,
            hosts: self.add_host.clone(),
            hostname,
            details: Details::default(),
        }
    }

    fn reach(&self) -> Reach {
        Reach {
            isolated: self.isolate,
            internal: self.internal,
            connect: self.connect.clone(),
            egress: self.egress.clone(),
        }
    }
}
