//! What there is: containers as their supervisors describe them, and links whose supervisor is gone.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use hawser::address::Mac;
use serde::{Deserialize, Serialize};

use crate::attach::Attachment;
use crate::attached::kept::Kept;
use crate::bridge::{self, POINT_TO_POINT_NAME};
use crate::config::Privileges;
use crate::control;
use crate::dns::Resolvers;
use crate::error::{Doing, Result};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::owner::{Mark, leased_address, namespace};
use crate::publish::Range;
use crate::reach::Egress;
use crate::request::{NetworkChoice, Request};

/// One container, all of it: the answer to `inspect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// "running".
    pub status: String,
    /// Who has made it: `run`, `attach`, `hook` or `cni`.
    #[serde(default)]
    pub owner: String,
    /// Its PID 1, as the host counts; of an attached one the process that it was named by. Null: no process is known.
    pub pid: Option<i32>,
    /// The process that supervises it; null: nobody does.
    pub supervisor: Option<u32>,
    /// Seconds since 1970.
    pub started: u64,
    /// The command's words. As the variables, the privileges and the host name null for an attached one: whoever made that knows.
    pub command: Option<Vec<String>>,
    /// Its root directory on the host; null: the host's own with a throw-away layer.
    pub rootfs: Option<String>,
    /// Its variables, `KEY=VALUE`.
    pub environment: Option<Vec<String>>,
    /// What it may do, and where it starts.
    pub privileges: Option<Privileges>,
    /// What else `run` was asked for.
    #[serde(default)]
    pub options: Option<Options>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// The inode of its network namespace.
    #[serde(default)]
    pub netns: Option<u64>,
    /// The bridge, `ptp`, `none`, `host`, `container:NAME` or `ns:PATH`.
    pub network: String,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// The network's subnet, ADDRESS/LENGTH.
    pub subnet: Option<String>,
    /// The host's address in it.
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// The network's IPv6 subnet, ADDRESS/LENGTH.
    #[serde(default)]
    pub subnet6: Option<String>,
    /// The host's address in it.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Whom it resolves names with, now.
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
    /// The domains that it looks for names in.
    #[serde(default)]
    pub search: Vec<String>,
    /// What is behind `options` in its resolv.conf.
    #[serde(default)]
    pub resolver_options: Vec<String>,
    /// Further lines of its hosts file, `ADDRESS NAME`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Name of its interface inside.
    #[serde(default)]
    pub interface: Option<String>,
    /// The host end of its veth.
    pub veth: Option<String>,
    /// Hardware address inside.
    pub mac: Option<String>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// It neither reaches its neighbours nor is reached by them.
    pub isolated: bool,
    /// It reaches nothing outside its network.
    pub internal: bool,
    /// Other networks that it reaches.
    pub connect: Vec<String>,
    /// What it may open connections to; null: everything.
    pub egress: Option<String>,
    /// How many packets were refused because of that.
    pub refused: Option<u64>,
    /// Ports of the host that lead to it.
    pub ports: Vec<Range>,
    /// It runs by itself.
    pub is_detached: bool,
    /// Where its output goes, when it runs by itself.
    pub log: Option<String>,
}

/// Of a container of `run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Its root filesystem cannot be written.
    pub read_only: bool,
    /// `SOURCE:DESTINATION:ro` or `:rw`.
    pub volumes: Vec<String>,
    /// Where memory is mounted.
    pub tmpfs: Vec<String>,
    /// Switches of its network, `net.KEY=VALUE`.
    pub sysctls: Vec<String>,
    /// It has a terminal.
    pub tty: bool,
    /// Our init stays as its PID 1.
    pub init: bool,
    /// Seconds between TERM and KILL.
    pub grace: u64,
    /// How many descriptors of the caller's it has been handed.
    pub preserve_fds: u32,
}

impl Description {
    /// What is known of a container by its request and its place on the network.
    pub fn of(request: &Request, attachment: Option<&Attachment>) -> Description {
        let network = match &request.network {
            NetworkChoice::None => "none".to_string(),
            NetworkChoice::Host => "host".to_string(),
            NetworkChoice::Container(name) => format!("container:{name}"),
            NetworkChoice::Path(path) => format!("ns:{}", path.display()),
            _ => attachment.map_or_else(String::new, |attachment| attachment.network.name.clone()),
        };
        let mut one = Description {
            name: request.name.clone(),
            status: "running".into(),
            owner: "run".into(),
            supervisor: Some(std::process::id()),
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            hostname: Some(request.hostname.clone()),
            network,
            address: attachment.map(|attachment| attachment.veth.address),
            subnet: attachment.map(|attachment| attachment.network.subnet.to_string()),
            gateway: attachment.map(|attachment| attachment.network.gateway),
            address6: attachment.and_then(|attachment| attachment.veth.address6),
            subnet6: attachment
                .and_then(|attachment| attachment.network.subnet6)
                .map(|subnet| subnet.to_string()),
            gateway6: attachment.and_then(|attachment| attachment.network.gateway6),
            hosts: request
                .hosts
                .iter()
                .map(|(address, name)| format!("{address} {name}"))
                .collect(),
            interface: attachment.map(|_| request.interface.clone()),
            veth: attachment.map(|attachment| attachment.veth.name.clone()),
            mac: attachment.map(|attachment| Mac(attachment.veth.mac).to_string()),
            mtu: attachment.map(|attachment| attachment.mtu),
            isolated: request.reach.isolated,
            internal: request.reach.internal,
            connect: request.reach.connect.clone(),
            egress: (request.reach.egress != Egress::All).then(|| request.reach.egress.to_string()),
            ..Description::default()
        };
        one.resolve_with(&request.resolvers);
        one
    }

    /// It resolves names with these.
    pub fn resolve_with(&mut self, resolvers: &Resolvers) {
        self.resolvers.clone_from(&resolvers.servers);
        self.search.clone_from(&resolvers.search);
        self.resolver_options.clone_from(&resolvers.options);
    }

    /// What a container's supervisor says of it.
    ///
    /// # Errors
    /// It has none that answers so that we understand it.
    pub fn told_by(name: &str) -> io::Result<Description> {
        let answer = control::ask(name, "inspect")?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// What is known of the container whose link this is the host's end of: kept in a file, or told by its supervisor.
    pub fn of_end(end: &Link) -> Option<Description> {
        let kept = Kept::of(end).map(|kept| kept.container);
        let (name, _) = end.mark.as_ref().and_then(Mark::container)?;
        kept.or_else(|| Description::told_by(name).ok())
    }

    /// Without what it has given away with its link.
    pub fn forget_link(&mut self) {
        self.address = None;
        self.address6 = None;
        self.interface = None;
        self.veth = None;
        self.mac = None;
        self.mtu = None;
        self.ports = Vec::new();
    }

    /// As one JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).map_or_else(|_| "{}\n".to_string(), |text| text + "\n")
    }
}

/// One line of `ls`.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    address: Option<Ipv4Addr>,
    address6: Option<Ipv6Addr>,
    network: String,
    veth: Option<String>,
    pid: Option<i32>,
    netns: Option<u64>,
    owner: String,
    status: String,
    ports: Vec<Range>,
}

/// The status of one whose supervisor lives, and says nothing: it is stopped, say.
const UNRESPONSIVE: &str = "unresponsive";

impl Row {
    /// One of which nothing but the name is known: its supervisor does not answer, and no link is its.
    fn without_link(name: String) -> Row {
        Row {
            name,
            address: None,
            address6: None,
            network: String::new(),
            veth: None,
            pid: None,
            netns: None,
            owner: String::new(),
            status: UNRESPONSIVE.to_string(),
            ports: Vec::new(),
        }
    }

    /// One whose supervisor says nothing, or that has none: what the link does not say is kept, or not known.
    fn of_attachment(link: &Link, mark: &Mark, network: String, is_silent: bool) -> Row {
        let mut kept = Kept::of(link);
        if !is_silent {
            kept = kept.map(Kept::unsupervised);
        }
        Row {
            name: mark.container().unwrap_or_default().0.to_string(),
            address: leased_address(&link.name),
            address6: kept.as_ref().and_then(|kept| kept.container.address6),
            network: match &kept {
                Some(kept) if bridge::is_stray(link) => kept.container.network.clone(),
                _ => network,
            },
            veth: Some(link.name.clone()),
            pid: mark.owner().map(|owner| owner.pid),
            netns: mark.container().map(|(_, netns)| netns),
            // Where that is lost, whoever it was: it can be detached.
            owner: kept
                .as_ref()
                .map_or_else(|| "attach".to_string(), |kept| kept.container.owner.clone()),
            status: "attached".to_string(),
            ports: kept.map_or_else(Vec::new, |kept| kept.container.ports),
        }
    }
}

/// The containers of `run` that are in a network namespace that is another's, by its inode, as their supervisors say.
///
/// # Errors
/// `/run/hawser` cannot be read.
pub fn guests_of(networks: &[u64]) -> Result<Vec<String>> {
    let (mut rows, _) = ask_all()?;
    let is_in = |row: &Row| row.netns.is_some_and(|netns| networks.contains(&netns));
    rows.retain(|row| row.owner == "run" && row.veth.is_none() && is_in(row));
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// What supervisors say, and the names of those that say nothing.
fn ask_all() -> Result<(Vec<Row>, Vec<String>)> {
    let (mut rows, mut silent) = (Vec::new(), Vec::new());
    for (path, answer) in control::ask_each(&control::sockets()?, "inspect") {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // A refused connection is a name that somebody has left over; one that is being made will be listed later.
                silent.extend(control::is_silence(&error).then(|| control::name_at(path)));
                continue;
            }
        };
        let Ok(found) = serde_json::from_str::<Description>(&answer) else {
            continue;
        };
        rows.push(Row {
            name: found.name,
            address: found.address,
            address6: found.address6,
            network: found.network,
            veth: found.veth,
            pid: found.pid,
            // One from before an upgrade does not say it.
            netns: found.netns.or_else(|| {
                let pid = found.pid?.to_string();
                namespace(&pid, "net").ok()
            }),
            owner: found.owner,
            status: found.status,
            ports: found.ports,
        });
    }
    Ok((rows, silent))
}

/// All containers, by name.
///
/// # Errors
/// What the kernel says.
pub fn list() -> Result<Vec<Row>> {
    let (mut rows, silent) = ask_all()?;
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let links = route.links().doing(|| "list links".into())?;
    for row in rows.iter_mut().filter(|row| row.netns.is_none()) {
        let link = links
            .iter()
            .find(|link| row.veth.as_ref() == Some(&link.name));
        row.netns = link.and_then(|link| Some(link.mark.as_ref()?.container()?.1));
    }
    for link in &links {
        let known = rows.iter().any(|row| row.veth.as_ref() == Some(&link.name));
        let Some(address) = leased_address(&link.name).filter(|_| !known && link.kind == "veth")
        else {
            continue;
        };
        let bridge = links
            .iter()
            .find(|other| Some(other.index) == link.controller);
        let network = match bridge {
            Some(bridge) => &bridge.name,
            None if bridge::is_stray(link) => "",
            None => POINT_TO_POINT_NAME,
        };
        let network = network.to_string();
        let (name, pid, owner, status) = match &link.mark {
            Some(mark) if mark.is_attached() && !mark.is_dead() => {
                let name = mark.container().unwrap_or_default().0;
                let is_silent = silent.iter().any(|silent| silent == name);
                rows.push(Row::of_attachment(link, mark, network, is_silent));
                continue;
            }
            // The kernel is about to take it back.
            Some(mark) if mark.is_dead() => continue,
            Some(Mark::Run(owner)) if silent.contains(&owner.name) => {
                (owner.name.clone(), Some(owner.pid), "run", UNRESPONSIVE)
            }
            Some(Mark::Run(owner)) => (owner.name.clone(), Some(owner.pid), "run", "unsupervised"),
            _ => (String::new(), None, "", "unmarked"),
        };
        rows.push(Row {
            name,
            address: Some(address),
            address6: None,
            network,
            veth: Some(link.name.clone()),
            pid,
            netns: link
                .mark
                .as_ref()
                .and_then(|mark| Some(mark.container()?.1)),
            owner: owner.to_string(),
            status: status.to_string(),
            ports: Vec::new(),
        });
    }
    for name in silent {
        if rows.iter().all(|row| row.name != name) {
            rows.push(Row::without_link(name));
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// Writes the rows as a table.
///
/// # Errors
/// What the output refuses.
pub fn write_table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let dash = || "-".to_string();
    let mut lines = vec![
        [
            "NAME", "ADDRESS", "ADDRESS6", "NETWORK", "VETH", "PID", "NETNS", "OWNER", "STATUS",
            "PORTS",
        ]
        .map(String::from),
    ];
    for row in rows {
        lines.push([
            row.name.clone(),
            row.address.map_or_else(dash, |address| address.to_string()),
            row.address6
                .map_or_else(dash, |address| address.to_string()),
            match &*row.network {
                "" => dash(),
                network => network.to_string(),
            },
            row.veth.clone().unwrap_or_else(dash),
            row.pid.map_or_else(dash, |pid| pid.to_string()),
            row.netns.map_or_else(dash, |netns| netns.to_string()),
            match &*row.owner {
                "" => dash(),
                owner => owner.to_string(),
            },
            row.status.to_string(),
            match &row.ports[..] {
                [] => dash(),
                ports => ports
                    .iter()
                    .map(Range::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
            },
        ]);
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        writeln!(out, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}

/// Writes the rows as a JSON array.
///
/// # Errors
/// What the output refuses.
pub fn write_json(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, rows)?;
    writeln!(out)
}
