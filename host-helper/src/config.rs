//! The config message that init reads (`docs/protocol.md`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use hawser::address::Mac;
use hawser::capability::Capability;
use hawser::protocol::{self, Fact};
use serde::{Deserialize, Serialize};

use crate::attach::Attachment;
use crate::dns;
use crate::error::{Doing, Error, Result};
use crate::hosts::{LOCALHOST, View};
use crate::request::{NetworkChoice, Request};
use crate::seccomp::Seccomp;
use crate::user::{self, User};
use crate::users::UserMap;
use crate::veth::Place;

/// What a line of a hosts file begins with in the message.
pub const HOST: &str = "host ";
/// Bytes of the message that are left to the lines of the network, with the container's names there, and to those that every command has.
const OTHERS: usize = 1024;

/// What a command may do, and where it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// Who it runs as.
    pub user: User,
    /// Where it starts; `/` when nothing is said.
    pub workdir: Option<String>,
    /// The capabilities that are kept.
    pub capabilities: Vec<String>,
    /// Those that a user who is not root keeps, too.
    pub ambient: Vec<String>,
    /// It gets none by exec.
    pub no_new_privileges: bool,
    /// Which system calls it may make. (Not init's business: it begins under the filter.)
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Who its users are outside; `None`: the same. (Nor this: it begins as root inside.)
    #[serde(default)]
    pub users: Option<UserMap>,
}

impl Privileges {
    /// The capabilities that a filter of system calls goes with, if there is one.
    pub fn filtered_for(&self) -> Option<Vec<String>> {
        match self.seccomp {
            Seccomp::Default => Some(self.capabilities.clone()),
            Seccomp::Unconfined => None,
        }
    }
}

/// Who sets up a container's end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// We do: see [`write_links`].
    Ours,
    /// init does.
    OfInit,
}

/// The config message (`docs/protocol.md`). `names` are those of its network that its own hosts file begins with.
pub fn write(
    request: &Request,
    privileges: &Privileges,
    attachment: Option<&Attachment>,
    links: Links,
    names: &str,
) -> String {
    message(|line| {
        match attachment {
            Some(attachment) if links == Links::OfInit => network_lines(request, attachment, line),
            None if request.network == NetworkChoice::None => {}
            _ => line(format_args!("no-links")),
        }
        if request.writes_resolv {
            resolv_lines(request, attachment, names, line);
        }
        line(format_args!("hostname {}", request.hostname));
        privilege_lines(privileges, line);
    })
}

/// A message about the container's end of the link alone: what init would be told if it had to set that up.
pub fn write_links(request: &Request, attachment: &Attachment) -> String {
    message(|line| network_lines(request, attachment, line))
}

/// Whose init a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Ours: it ends when the network is there, and needs nothing for that.
    Ours,
    /// The container's: it is to become the container's command.
    Theirs,
}

/// The same for a container that another tool made: its host name and its privileges are that tool's. Our init writes no
/// files there: see [`files`].
pub fn write_attached(request: &Request, attachment: &Attachment, init: Of) -> String {
    message(|line| {
        network_lines(request, attachment, line);
        match init {
            Of::Ours => privilege_lines(&Privileges::default(), line),
            Of::Theirs if request.writes_resolv => {
                resolv_lines(request, Some(attachment), "", line);
            }
            Of::Theirs => {}
        }
    })
}

/// What resolv.conf and hosts begin with, as init would write them; hosts is empty where it is the network's.
///
/// # Errors
/// What init would refuse of its own lines.
pub fn files(request: &Request, attachment: &Attachment, names: &str) -> Result<[String; 2]> {
    let attachment = Some(attachment);
    check(&message(|line| resolv_lines(request, attachment, "", line)))?;
    let resolv = request.resolvers.to_file().unwrap_or_default();
    Ok([resolv, own_hosts(request, attachment) + names])
}

fn message(facts: impl FnOnce(&mut dyn FnMut(std::fmt::Arguments))) -> String {
    let mut text = format!("{}\n", protocol::VERSION);
    facts(&mut |fact| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{fact}");
    });
    text + protocol::END + "\n"
}

fn network_lines(
    request: &Request,
    attachment: &Attachment,
    line: &mut dyn FnMut(std::fmt::Arguments),
) {
    let Attachment { network, veth, .. } = attachment;
    line(format_args!("link {}", request.interface));
    // Who may not reach all of its neighbours asks the gateway for each, who says no at once.
    let is_on_link = network.bridge.is_some() && !request.reach.is_routed();
    if let Some(link_local) = veth.link_local {
        // The one that the kernel would make, but at once.
        line(format_args!("address {link_local}/64"));
    }
    for place in veth.places(network) {
        let Place {
            address,
            subnet,
            gateway,
        } = place;
        let whole = subnet.max_prefix_len();
        if is_on_link {
            line(format_args!("address {address}/{}", subnet.prefix_len()));
        } else {
            line(format_args!("address {address}/{whole}"));
            if !request.details.leaves_to_another(gateway) {
                line(format_args!("route {gateway}/{whole} onlink"));
            }
        }
        if network.is_ours {
            let mac = Mac(network.gateway_mac(veth.address));
            line(format_args!("neighbour {gateway} {mac}"));
        }
        let is_ipv4 = address.is_ipv4();
        if request.details.leads_everywhere(is_ipv4) {
            line(format_args!("route default via {gateway}"));
        }
        for (destination, router) in request.details.routes_of(is_ipv4) {
            let router = router.unwrap_or(gateway);
            if destination.prefix_len() == 0 {
                line(format_args!("route default via {router}"));
            } else {
                line(format_args!("route {destination} via {router}"));
            }
        }
    }
}

/// The same for a command that joins a container: its network is there.
pub fn write_privileges(privileges: &Privileges) -> String {
    message(|line| {
        line(format_args!("no-links"));
        privilege_lines(privileges, line);
    })
}

fn privilege_lines(privileges: &Privileges, line: &mut dyn FnMut(std::fmt::Arguments)) {
    let Privileges {
        user,
        workdir,
        capabilities,
        ambient,
        no_new_privileges,
        seccomp: _,
        users: _,
    } = privileges;
    if let Some(workdir) = workdir {
        line(format_args!("workdir {workdir}"));
    }
    // For root too: it has no groups but those that are named.
    if *user != User::default() || user::may_set_groups() {
        line(format_args!("user {}:{}", user.uid, user.gid));
    }
    if !user.groups.is_empty() {
        let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
        line(format_args!("groups {}", groups.join(",")));
    }
    // As one line: init goes over all lines for each of its steps.
    let mut set = 0;
    for name in capabilities {
        match Capability::from_name(name) {
            Some(capability) => set |= capability.bit(),
            // Of a newer program's container: refused in words.
            None => line(format_args!("capability {name}")),
        }
    }
    line(format_args!("{}", Fact::Capabilities(set)));
    for capability in ambient {
        line(format_args!("ambient {capability}"));
    }
    if *no_new_privileges {
        line(format_args!("no-new-privileges"));
    }
}

fn resolv_lines(
    request: &Request,
    attachment: Option<&Attachment>,
    names: &str,
    line: &mut dyn FnMut(std::fmt::Arguments),
) {
    for fact in request.resolvers.facts().lines() {
        line(format_args!("{fact}"));
    }
    for own in own_hosts(request, attachment).lines().chain(names.lines()) {
        line(format_args!("{HOST}{own}"));
    }
}

/// The lines of a hosts file that are the container's own; none where it has its network's file.
pub fn own_hosts(request: &Request, attachment: Option<&Attachment>) -> String {
    if request.view_of_hosts() == Some(View::Shared) {
        return String::new();
    }
    let own: Vec<IpAddr> = match attachment {
        Some(Attachment { network, veth, .. }) => {
            veth.places(network).map(|place| place.address).collect()
        }
        None => vec![Ipv4Addr::LOCALHOST.into()],
    };
    let mut lines = LOCALHOST.map(|line| format!("{line}\n")).concat();
    let names = [Some(&request.hostname), request.short_id.as_ref()];
    let names = names.into_iter().flatten();
    let named = names.flat_map(|name| own.iter().map(move |address| (*address, name)));
    for (address, name) in named.chain(request.hosts.iter().map(|(address, name)| (*address, name)))
    {
        lines += &format!("{address} {name}\n");
    }
    lines
}

/// Bytes that are left in a container's message for the names of its network. `None`: not even all of its own has room.
fn left(
    request: &Request,
    privileges: &Privileges,
    attachment: Option<&Attachment>,
) -> Option<usize> {
    let mut own = OTHERS;
    if request.writes_resolv {
        resolv_lines(request, attachment, "", &mut |fact| {
            own += fact.to_string().len() + 1
        });
    }
    let Privileges {
        user,
        workdir,
        ambient,
        ..
    } = privileges;
    own += workdir
        .as_ref()
        .map_or(0, |path| "workdir \n".len() + path.len());
    own += user.groups.len() * "4294967294,".len();
    own += ambient
        .iter()
        .map(|name| "ambient \n".len() + name.len())
        .sum::<usize>();
    protocol::LIMIT.checked_sub(own)
}

/// The same, where that has room, as [`check_own`] has seen.
pub fn room(request: &Request, privileges: &Privileges, attachment: Option<&Attachment>) -> usize {
    left(request, privileges, attachment).unwrap_or(0)
}

/// Refuses more than init's message holds, before anything is made.
///
/// # Errors
/// What was asked for, and the host's resolv.conf, say too much.
pub fn check_own(request: &Request, privileges: &Privileges) -> Result<()> {
    left(request, privileges, None).map(drop).ok_or_else(|| {
        Error::new(format!(
            "write init's config: it holds {} KiB, and --add-host, --dns, --dns-search, --dns-option, or the host's {}, say more; give fewer of them",
            protocol::LIMIT / 1024,
            dns::HOST
        ))
    })
}

/// Refuses a message that init would refuse.
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &str) -> Result<()> {
    match protocol::Message::parse(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(fault) => Err(Error::new(format!("write init's config: {fault}"))),
    }
}

pub fn send(mut config: &File, text: &str) -> Result<()> {
    check(text)?;
    // A pipe holds 64 KiB and the message is at most 16: this never waits. EPIPE: the child says why.
    match config.write_all(text.as_bytes()) {
        Err(error) if error.raw_os_error() == Some(libc::EPIPE) => Ok(()),
        written => written.doing(|| "write init's config".into()),
    }
}
