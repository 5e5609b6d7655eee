//! The sequence for a container that another tool made: the same steps in the same order, but for its processes, which
//! are there and are not ours. What `run` leaves to the end of the namespace is undone here one by one.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::ensure::restore_others;
use super::{
    Attachment, Names, Start, choose_mtu, ensure_network, find_ways_out, hold, know_network,
    lease_name, mark_as, publish, splice_to,
};
use crate::attached;
use crate::attached::join::{self, Bound};
use crate::attached::kept::{self, Cni, Kept};
use crate::attached::labels;
use crate::attached::target::Target;
use crate::attached::waiting::{self, Fifo};
use crate::conntrack;
use crate::control::{self, Lease};
use crate::error::{Doing, Error, Result};
use crate::hosts::{Hosts, View};
use crate::ls::Description;
use crate::mark;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::namespace;
use crate::publish::{self as ports, Port};
use crate::request::Request;
use crate::signals::Signals;
use crate::splice::Splice;
use crate::state;
use crate::steps::Steps;
use crate::undo::Undo;
use crate::veth;

/// What was asked for, beyond the request.
#[derive(Default)]
pub struct How<'a> {
    /// A supervisor stays.
    pub stays: bool,
    /// The container's own init waits here for its config.
    pub to: Option<Fifo>,
    /// The name is to be one for `ip netns`.
    pub exports: bool,
    /// A container runtime knows it by this.
    pub cni: Option<Cni>,
    /// A hook does it, of a runtime that calls the container so.
    pub hook: Option<&'a str>,
    /// Its address is written there.
    pub ip_file: Option<&'a Path>,
}

impl How<'_> {
    fn owner(&self) -> &'static str {
        if self.hook.is_some() {
            "hook"
        } else if self.cni.is_some() {
            "cni"
        } else {
            "attach"
        }
    }
}

/// A container of another tool's that is attached.
pub struct Guest {
    /// Its name is ours, when we stay.
    pub lease: Option<Lease>,
    /// Its place on the network.
    pub attachment: Attachment,
    /// What the firewall knows of it.
    pub entry: nft::Entry,
    /// Its published ports.
    pub splice: Splice,
    /// The names of its network.
    pub names: Names,
    /// Its resolv.conf, and its hosts where that is its own, to be written.
    pub files: Vec<OwnedFd>,
}

/// The sequence. Nothing is left behind when it fails, but for the network.
///
/// # Errors
/// The first step that failed; a signal meanwhile is one.
pub fn attach(
    request: &mut Request,
    target: &Target,
    how: &How,
    signals: &Signals,
    steps: &mut Steps,
) -> Result<Guest> {
    let mut lease = take_name(request, how)?;
    let of_runtime = how.cni.as_ref().map(|_| target.inode);
    let held = hold(request, of_runtime, steps)?;
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    signals.check()?;
    let ways = find_ways_out(&mut route, request)?;
    let mut names = Names::default();
    // Let go of last: as long as a port is held, what the firewall says of it is about us.
    let splice;
    let mut undo = Undo::default();
    let (network, nft) = ensure_network(&mut route, request, &ways, &mut undo, steps)?.unzip();
    let (mtu, network) = choose_mtu(&mut route, request, network, &ways, steps)?;
    know_network(request, network.as_ref());
    steps.done("ensure");
    let start = network
        .as_ref()
        .map(|network| Start::find(request, network));
    let (start, netns) = (start.transpose()?, Some(&target.netns));
    let attachment = super::attach(&mut route, request, network.as_ref(), mtu, netns, start)?;
    let attachment = attachment.ok_or_else(|| Error::new("attach: it has no network"))?;
    let name = attachment.veth.name.clone();
    let index = attachment.veth.index;
    undo.push(move || attached::delete_link(index));
    steps.done("veth");
    target.check()?;
    splice = splice_to(&mut route, request, Some(&attachment), held)?;
    let known = Some(&attachment).zip(nft);
    let entry = publish(&mut route, request, known, &splice, &mut undo)?;
    let mut entry = entry.ok_or_else(|| Error::new("attach: it has no rules"))?;
    steps.done("publish");
    let ours = attachment.clone();
    undo.push(move || mark::forget_neighbours_of(&ours));
    mark_as(
        &mut route,
        request,
        &attachment,
        &target.mark(&request.name)?,
    )?;
    let hosts = enter_names(&mut names, request, how, &attachment)?;
    steps.done("mark");
    undo.push(|| names.leave());
    let mut kept = keep(request, target, how, &attachment, &splice, &mut undo)?;
    know_again(how, &mut entry)?;
    let up = attachment.clone();
    undo.push(move || attached::set_down(&up));
    veth::set_up(&mut route, &attachment.veth, &attachment.network)?;
    let files = match &how.to {
        Some(fifo) => waiting::serve(fifo, request, target, &attachment).map(|()| Vec::new())?,
        None => {
            let keep = |bound: Vec<Bound>| {
                kept.bound = bound;
                kept::write(&name, &kept)
            };
            let (first, hosts) = (&names.first, hosts.as_ref());
            join::configure(request, target, &attachment, first, hosts, signals, keep)?
        }
    };
    let bound = kept.bound.clone();
    undo.push(move || take_files_back(target, &bound));
    veth::settle(&mut route, &attachment.veth, &attachment.network)?;
    steps.done("link");
    target.check()?;
    signals.check()?;
    if how.hook.is_some() {
        kept.is_whole = true;
        kept::write(&name, &kept)?;
    }
    undo.commit();
    lease.iter_mut().for_each(Lease::begin_output);
    if !how.stays {
        tell(&attachment, &mut entry, &splice, &names);
    }
    steps.total("attached");
    Ok(Guest {
        lease,
        attachment,
        entry,
        splice,
        names,
        files,
    })
}

/// What a supervisor does as soon as it can, where there is none.
fn tell(attachment: &Attachment, entry: &mut nft::Entry, splice: &Splice, names: &Names) {
    let published: Vec<Port> = splice.ports().collect();
    // Without it, a client that goes on from an old connection reaches nobody; there is nobody to tell.
    let places = attachment.veth.places(&attachment.network);
    let addresses: Vec<_> = places.map(|place| place.address).collect();
    let _ = conntrack::forget(entry.socket(), &published, &addresses);
    names.announce();
    names.sweep();
}

/// What the link cannot say is kept; and the namespace has a name, where one is wanted.
///
/// Undone by forgetting it.
fn keep(
    request: &Request,
    target: &Target,
    how: &How,
    attachment: &Attachment,
    splice: &Splice,
    undo: &mut Undo,
) -> Result<Kept> {
    let link = attachment.veth.name.clone();
    let kept = Kept {
        host: namespace("self", "net").doing(|| "look at our network namespace".into())?,
        index: attachment.veth.index,
        netns: target.inode,
        export: how.exports.then(|| request.name.clone()),
        ip_file: how.ip_file.map(Path::to_path_buf),
        id: how.hook.map(str::to_string),
        is_whole: false,
        bound: Vec::new(),
        cni: how.cni.clone(),
        container: describe(request, target, how, attachment, splice),
    };
    attached::take_last_back(&link, attachment.veth.index);
    // Before what it speaks of, so that whoever finds it can take that back.
    let ours = link.clone();
    undo.push(move || kept::forget(&ours));
    kept::write(&link, &kept)?;
    if let Some(name) = &kept.export {
        labels::export(name, target)?;
        let (name, netns) = (name.clone(), target.inode);
        undo.push(move || labels::withdraw_export(&name, netns));
    }
    if let Some(path) = how.ip_file {
        let (path, address) = (path.to_path_buf(), attachment.veth.address);
        labels::write_ip_file(&path, address)?;
        undo.push(move || labels::withdraw_ip_file(&path, address));
    }
    Ok(kept)
}

/// Where the tables were flushed behind publish, and made again before it was kept, nobody has put it back: whoever makes them asks the
/// files. A supervisor would see it.
///
/// Before: it is kept, and its link is not up.
fn know_again(how: &How, entry: &mut nft::Entry) -> Result<()> {
    if !how.stays && !entry.is_known() && entry.restore()? {
        restore_others();
    }
    Ok(())
}

/// The name is nobody's: as long as we stay by its socket, and else by the link.
fn take_name(request: &Request, how: &How) -> Result<Option<Lease>> {
    if how.stays {
        return lease_name(request).map(Some);
    }
    let lock = state::lock()?;
    let is_taken = control::is_supervised(&request.name);
    drop(lock);
    if is_taken {
        return Err(control::in_use(&request.name));
    }
    Ok(None)
}

/// Its neighbours find it by its name, and it finds them, where its files can be ours.
fn enter_names(
    names: &mut Names,
    request: &Request,
    how: &How,
    attachment: &Attachment,
) -> Result<Option<OwnedFd>> {
    let Some(view) = request.view_of_hosts() else {
        return Ok(None);
    };
    let hosts = Hosts::open(&attachment.network)?;
    let is_shared = view == View::Shared && request.writes_resolv && how.to.is_none();
    let mount = is_shared.then(|| hosts.mount()).transpose()?;
    names.hosts = Some(hosts);
    if how.to.is_none() {
        // Its file is not init's to write.
        names.look_up(request, Some(attachment), || usize::MAX);
    }
    names.enter(request, attachment)?;
    Ok(mount)
}

fn take_files_back(target: &Target, bound: &[Bound]) {
    if let Some(files) = target.files() {
        // Gone with the container, or left to it.
        let _ = join::unbind(files, bound);
    }
}

/// What is known of it. Its command, its privileges and its host name are another tool's matter.
pub fn describe(
    request: &Request,
    target: &Target,
    how: &How,
    attachment: &Attachment,
    splice: &Splice,
) -> Description {
    Description {
        status: "attached".into(),
        owner: how.owner().into(),
        pid: target.process.as_ref().map(|process| process.pid),
        supervisor: how.stays.then(std::process::id),
        hostname: None,
        netns: Some(target.inode),
        ports: ports::ranges(splice.ports()),
        ..Description::of(request, Some(attachment))
    }
}
