//! From a request to a container whose command runs in its network: the one sequence, in the order of
//! `docs/operation.md`. Each step's function says what must hold before it and what undoes it.

mod ensure;
pub mod guest;
mod names;
mod namespace;
mod ports;
mod said;
mod talk;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::fstat;

use crate::attached;
use crate::bridge::{self, Network};
use crate::config::{self, Links, Privileges};
use crate::control::{self, Lease};
use crate::error::{Doing, Error, Result};
use crate::log::Log;
use crate::mark;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{Mark, Owner};
use crate::request::{Command, Request, StdioChoice};
use crate::rootfs::Rootfs;
use crate::signals::Signals;
use crate::spawn::{self, Child, Early, Said, Spawn, StatusReader, Stdio};
use crate::splice::Splice;
use crate::state;
use crate::steps::Steps;
use crate::sysctl;
use crate::undo::Undo;
use crate::veth::{self, Veth, Wish};
use crate::wanted::Wanted;

pub use ensure::{ensure_bridge, look_at_network, restore};
pub use names::Names;
pub use namespace::namespace;
pub use ports::hold_free;
pub use said::{expect, judge, receive_made};

use ensure::{choose_mtu, ensure_network, find_ways_out, know_network};
use names::open_names;
use namespace::make_users;
use ports::{hold, publish, splice_to};
use talk::Talk;

/// A container whose command runs.
pub struct Container {
    /// Its first process.
    pub child: Child,
    /// What init has still to say.
    pub status: StatusReader,
    /// Its name is ours. A command that has joined another's container has none.
    pub lease: Option<Lease>,
    /// Its network, when we made one.
    pub attachment: Option<Attachment>,
    /// What the firewall knows of it.
    pub entry: Option<nft::Entry>,
    /// Its published ports.
    pub splice: Splice,
    /// What the command may do.
    pub privileges: Privileges,
    /// Its variables.
    pub environment: Vec<String>,
    /// The names of its network.
    pub names: Names,
    /// Where its output goes, when it runs by itself and without a terminal.
    pub log: Option<Log>,
    /// What the kernel takes long to take apart, and nobody need wait for: init's file, where that has a mount of its own, and file systems
    /// that nobody but the container has.
    pub slow: Vec<OwnedFd>,
}

/// One container's place on a network.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The network.
    pub network: Network,
    /// The veth.
    pub veth: Veth,
    /// MTU in bytes.
    pub mtu: u32,
    /// The link of the host that it is behind: our bridge, or the host end. A bridge that is not ours is left alone.
    pub device: Option<u32>,
    /// Inode of its network namespace.
    pub netns: u64,
}

/// The sequence. Nothing is left behind when it fails.
///
/// The child comes first: making its view of files takes as long as everything that is done for its network, and the
/// two go on side by side. It changes nothing but its own namespaces until its config is there, which is after
/// everything that can be refused has been accepted.
///
/// # Errors
/// The first step that failed; a signal meanwhile is one.
pub fn run(
    request: &mut Request,
    command: Command,
    early: Option<Early>,
    signals: &Signals,
    steps: &mut Steps,
) -> Result<Container> {
    // What init says on its standard error reaches the user, and need not be said twice.
    let hears_init = command.stdio == StdioChoice::Inherit;
    // A log, and the root of a view of the host's files, are in the directory of names.
    let needs_directory = command.stdio == StdioChoice::Log || command.rootfs.directory.is_none();
    let lease_first = needs_directory.then(|| lease_name(request)).transpose()?;
    let environment = command.environment.clone();
    let (mut spawn, privileges) = prepare(request, command)?;
    spawn.is_verbose = steps.is_wanted();
    steps.done("plan");
    let mut talk = Talk::begin(&spawn, early, signals, hears_init)?;
    let mut names;
    // Let go of last: as long as a port is held, what the firewall says of it is about us.
    let splice;
    let mut undo = Undo::default();
    undo.push(talk.end()?);
    steps.done("clone");
    // Beside what the child makes, as all that follows.
    let joined = namespace::join(&talk.child, &request.network, &mut spawn)?;
    let held = hold(request, None, steps)?;
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    signals.check()?;
    let lease = lease_first.map_or_else(|| lease_name(request), Ok)?;
    let ways = find_ways_out(&mut route, request)?;
    let (network, nft) = ensure_network(&mut route, request, &ways, &mut undo, steps)?.unzip();
    let (mtu, network) = choose_mtu(&mut route, request, network, &ways, steps)?;
    know_network(request, network.as_ref());
    names = open_names(request, network.as_ref(), &talk.child)?;
    let (start, owner) = look_early(request, network.as_ref(), &talk.child)?;
    steps.done("ensure");
    signals.check()?;
    let (namespace, mut inside) = match joined {
        Some(joined) => joined,
        None => talk.receive_network()?.unzip(),
    };
    steps.done("namespace");
    let (network, namespace) = (network.as_ref(), namespace.as_ref());
    let attachment = attach(&mut route, request, network, mtu, namespace, start)?;
    steps.done("veth");
    splice = splice_to(&mut route, request, attachment.as_ref(), held)?;
    let known = attachment.as_ref().zip(nft);
    let entry = publish(&mut route, request, known, &splice, &mut undo)?;
    steps.done("publish");
    let own = attachment.as_ref();
    names.look_up(request, own, || config::room(request, &privileges, own));
    if let Some(attachment) = &attachment {
        let ours = attachment.clone();
        undo.push(move || mark::forget_neighbours_of(&ours));
        mark_veth(&mut route, request, attachment, owner)?;
        names.enter(request, attachment)?;
        steps.done("mark");
    }
    undo.push(|| names.leave());
    let message = |links| {
        config::write(
            request,
            &privileges,
            attachment.as_ref(),
            links,
            &names.first,
        )
    };
    // Both before the link is up; switches are set by the child, and init comes after that.
    if let Some(inside) = inside.as_mut().filter(|_| attachment.is_some()) {
        attached::no_link_local(inside, request);
    }
    let inside = inside.filter(|_| spawn.rootfs.sysctls.is_empty());
    let attached = attachment.as_ref();
    hand_off(
        &mut talk, &mut route, inside, attached, request, message, steps,
    )?;
    steps.total("started");
    undo.commit();
    Ok(Container {
        child: talk.child,
        status: talk.status,
        lease: Some(lease),
        attachment,
        entry,
        splice,
        privileges,
        environment,
        names,
        log: spawn.stdio.into_log(),
        slow: spawn.init.into_iter().collect(),
    })
}

/// The rest of it: the container's end, where it is set up from here; init's message; and then the command. `message` writes
/// what init is to do.
fn hand_off(
    talk: &mut Talk,
    route: &mut Netlink,
    inside: Option<Netlink>,
    attachment: Option<&Attachment>,
    request: &Request,
    message: impl FnOnce(Links) -> String,
    steps: &mut Steps,
) -> Result<()> {
    if let Some(Attachment { veth, network, .. }) = attachment {
        veth::set_up(route, veth, network)?;
    }
    let settle = |route: &mut Netlink| match attachment {
        Some(Attachment { veth, network, .. }) => veth::settle(route, veth, network),
        None => Ok(()),
    };
    if let Some(mut inside) = inside {
        if let Some(attachment) = attachment {
            attached::set_up_by(&mut inside, request, attachment)?;
        }
        settle(route)?;
        steps.done("link");
        // All at once: init finds `go` with its message, and nobody is woken twice.
        talk.tell_all(message(Links::Ours))?;
        talk.wait_for(&Said::Up)?;
    } else {
        talk.tell(&message(Links::OfInit))?;
        talk.wait_for(&Said::Up)?;
        settle(route)?;
        steps.done("link");
        namespace::check_again(&talk.child, &request.network)?;
        talk.let_go()?;
    }
    // At once, and a signal from here on is the command's.
    talk.expect(&Said::Ready)?;
    for took in &talk.status.took {
        steps.beside(&took.step, took.time);
    }
    if let Some(last) = talk.status.took.last() {
        steps.beside("config", spawn::clock().saturating_sub(last.end));
    }
    steps.done("ready");
    Ok(())
}

/// Takes the name.
///
/// Undone by dropping the lease.
fn lease_name(request: &Request) -> Result<Lease> {
    let name = &request.name;
    let leased = Lease::take(name, &state::lock()?)?;
    let lease = leased.ok_or_else(|| control::in_use(name))?;
    // An attachment that nobody stays for has its name by its link alone, and so is found by that of another container.
    if !request.network.has_link() && attached::is_there(name) {
        return Err(Error::new(format!(
            "take name {name}: it is in use by an attached container; choose another --name, or release that one (host-helper detach {name})"
        )));
    }
    Ok(lease)
}

fn prepare(request: &Request, command: Command) -> Result<(Spawn, Privileges)> {
    let stdio = match command.stdio {
        StdioChoice::Inherit => Stdio::Inherit,
        StdioChoice::Terminal => Stdio::Terminal,
        StdioChoice::Log => Stdio::Log(Log::begin()?),
    };
    let users = make_users(request, &command.privileges)?;
    let spawn = Spawn {
        rootfs: Rootfs {
            users,
            ..command.rootfs
        },
        stdio,
        user: command.privileges.user.uid,
        is_first: true,
        supervised: command.supervised,
        preserved: command.preserved,
        init: command.init,
        command: spawn::c_strings(&command.words)?,
        environment: spawn::c_strings(&command.environment)?,
        is_verbose: false,
        filtered_for: command.privileges.filtered_for(),
    };
    Ok((spawn, command.privileges))
}

/// Where the search for an address begins.
struct Start {
    /// The one that it is to be.
    address: Option<Ipv4Addr>,
    /// Or the place of the first that is tried, where it may be any.
    offset: u32,
}

impl Start {
    fn find(request: &Request, network: &Network) -> Result<Start> {
        let (v4, v6) = network.gateways();
        let address = Wanted::of(request).fixed_address(v4, v6)?;
        let offset = match address {
            Some(_) => 0,
            None => state::next_offset(&network.name, &state::lock()?),
        };
        Ok(Start { address, offset })
    }
}

/// The veth, and for point-to-point the host's address on it.
///
/// Undone by the end of the namespace.
fn attach(
    route: &mut Netlink,
    request: &Request,
    network: Option<&Network>,
    mtu: u32,
    namespace: Option<&OwnedFd>,
    start: Option<Start>,
) -> Result<Option<Attachment>> {
    let (Some(network), Some(namespace), Some(start)) = (network, namespace, start) else {
        return Ok(None);
    };
    // Before there is anything to take back.
    let netns = fstat(namespace)
        .doing(|| "look at the network namespace".into())?
        .st_ino;
    let Start { address, offset } = start;
    let details = &request.details;
    let wish = Wish {
        name: &request.name,
        inside: &request.interface,
        range: details.range,
        checks_sources: details.checks_sources,
        network,
        address,
        address6: request.address6,
        names_subnet6: request.subnet6.is_some(),
        offset,
        mac: request.mac,
        mtu,
        namespace: namespace.as_fd(),
        words: details.words,
    };
    let veth = veth::create(route, &wish)?;
    let device = match network.bridge {
        Some(bridge) => network.is_ours.then_some(bridge.index),
        None => {
            set_up_host_end(route, &veth, network, request)
                .inspect_err(|_| drop(route.delete_link(veth.index)))?;
            Some(veth.index)
        }
    };
    Ok(Some(Attachment {
        network: network.clone(),
        veth,
        mtu,
        device,
        netns,
    }))
}

fn set_up_host_end(
    route: &mut Netlink,
    veth: &Veth,
    network: &Network,
    request: &Request,
) -> Result<()> {
    // Before there is anybody behind it.
    bridge::ignore_routers(&veth.name, network.policy)?;
    veth::address_host_end(route, veth, network)?;
    if veth.address6.is_some() && !request.keeps_mac() {
        veth::add_link_local(route, veth)?;
    }
    if network.has_ipv6() {
        sysctl::forward_from(&veth.name)?;
    }
    Ok(())
}

/// What can be known before the container's network namespace is there: where the search for its address begins, and its owner, but for
/// that namespace; none when it has ended. Nothing without a network.
fn look_early(
    request: &Request,
    network: Option<&Network>,
    child: &Child,
) -> Result<(Option<Start>, Option<Owner>)> {
    let Some(network) = network else {
        return Ok((None, None));
    };
    let start = Start::find(request, network)?;
    let owner = Owner::of(&request.name, child.pid.as_raw(), 0);
    let owner = owner.doing(|| "look at the container's first process".into())?;
    Ok((Some(start), owner))
}

fn mark_veth(
    route: &mut Netlink,
    request: &Request,
    attachment: &Attachment,
    owner: Option<Owner>,
) -> Result<()> {
    // One that has ended will be found to have said why.
    owner.map_or(Ok(()), |owner| {
        let netns = attachment.netns;
        mark_as(
            route,
            request,
            attachment,
            &Mark::Run(Owner { netns, ..owner }),
        )
    })
}

fn mark_as(
    route: &mut Netlink,
    request: &Request,
    attachment: &Attachment,
    mark: &Mark,
) -> Result<()> {
    let Attachment {
        network,
        veth,
        device,
        ..
    } = attachment;
    // What is said of it here is what others of a chosen hardware address look at.
    let _alone = match request.mac {
        Some(_) => {
            let lock = state::lock()?;
            veth::check_mac_again(route, veth, network, request.details.words.mac)?;
            Some(lock)
        }
        None => None,
    };
    let is_known = request.keeps_mac();
    if !is_known {
        // Who had the address before may have been known.
        mark::forget_neighbours_of(attachment);
    }
    mark::mark(route, veth, mark, network, device.filter(|_| is_known))
}
