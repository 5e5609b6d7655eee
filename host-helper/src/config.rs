//! The config message that init reads (`docs/protocol.md`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;

use hawser::protocol;

use crate::address::DisplayMac;
use crate::attach::Attachment;
use crate::dns::Resolvers;
use crate::error::{Doing, Error, Result};
use crate::request::{NetworkChoice, Request};
use crate::user::User;
use crate::veth::INSIDE;

/// What [`config`] needs of the command after its descriptors went to the child.
pub struct Privileges {
    pub user: User,
    pub workdir: Option<String>,
    pub capabilities: Vec<String>,
    pub ambient: Vec<String>,
    pub no_new_privileges: bool,
}

/// The config message (`docs/protocol.md`).
pub fn write(
    request: &Request,
    privileges: &Privileges,
    attachment: Option<&Attachment>,
) -> String {
    let mut text = format!("{}\n", protocol::VERSION);
    let mut line = |fact: std::fmt::Arguments| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{fact}");
    };
    if let Some(Attachment { network, veth, .. }) = attachment {
        line(format_args!("link {INSIDE}"));
        let gateway = network.gateway;
        if network.bridge.is_some() {
            line(format_args!(
                "address {}/{}",
                veth.address,
                network.subnet.prefix_len()
            ));
        } else {
            line(format_args!("address {}/32", veth.address));
            line(format_args!("route {gateway}/32 onlink"));
        }
        line(format_args!(
            "neighbour {gateway} {}",
            DisplayMac(network.gateway_mac(veth.address))
        ));
        line(format_args!("route default via {gateway}"));
    } else if request.network != NetworkChoice::None {
        line(format_args!("no-links"));
    }
    if request.writes_resolv {
        resolv_lines(request, attachment, &mut line);
    }
    line(format_args!("hostname {}", request.hostname));
    if let Some(workdir) = &privileges.workdir {
        line(format_args!("workdir {workdir}"));
    }
    if privileges.user.uid != 0 || privileges.user.gid != 0 {
        line(format_args!(
            "user {}:{}",
            privileges.user.uid, privileges.user.gid
        ));
    }
    if !privileges.user.groups.is_empty() {
        let groups: Vec<String> = privileges.user.groups.iter().map(u32::to_string).collect();
        line(format_args!("groups {}", groups.join(",")));
    }
    if privileges.capabilities.is_empty() {
        line(format_args!("capability none"));
    }
    for capability in &privileges.capabilities {
        line(format_args!("capability {capability}"));
    }
    for capability in &privileges.ambient {
        line(format_args!("ambient {capability}"));
    }
    if privileges.no_new_privileges {
        line(format_args!("no-new-privileges"));
    }
    text + protocol::END + "\n"
}

fn resolv_lines(
    request: &Request,
    attachment: Option<&Attachment>,
    line: &mut impl FnMut(std::fmt::Arguments),
) {
    let resolvers = Resolvers::choose(&request.resolvers);
    for server in &resolvers.servers {
        line(format_args!("nameserver {server}"));
    }
    if !resolvers.search.is_empty() {
        line(format_args!("search {}", resolvers.search.join(" ")));
    }
    if !resolvers.options.is_empty() {
        line(format_args!("option {}", resolvers.options.join(" ")));
    }
    line(format_args!("host 127.0.0.1 localhost"));
    line(format_args!(
        "host ::1 localhost ip6-localhost ip6-loopback"
    ));
    let own = attachment.map_or(Ipv4Addr::LOCALHOST, |attachment| attachment.veth.address);
    line(format_args!("host {own} {}", request.hostname));
    for (address, name) in &request.hosts {
        line(format_args!("host {address} {name}"));
    }
}

pub fn send(mut config: &File, text: &str) -> Result<()> {
    if let Err(fault) = protocol::Message::parse(text.as_bytes()) {
        return Err(Error::new(format!("write init's config: {fault}")));
    }
    // A pipe holds 64 KiB and the message is at most 16: this never waits. EPIPE: the child says why.
    match config.write_all(text.as_bytes()) {
        Err(error) if error.raw_os_error() == Some(libc::EPIPE) => Ok(()),
        written => written.doing(|| "write init's config".into()),
    }
}
