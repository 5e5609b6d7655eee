//! What `attach` gave is taken away again: by `detach`, by a supervisor at its end, and, of containers that are gone, by
//! whoever comes next. Clean-up goes on after an error, and what is gone already is success.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;

use super::kept::{self, Kept};
use super::leaving::{
    Leaving, delete, delete_together, forget, forget_connections, is_anothers, shut, uncover,
};
use super::target::Target;
use crate::attach::Attachment;
use crate::cli;
use crate::control;
use crate::dns::Resolvers;
use crate::error::{Doing, Error, Refusal, Result, all_of, twice};
use crate::hosts;
use crate::link::Link;
use crate::ls::Description;
use crate::mark;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{self, Mark, namespace, start_time};
use crate::publish::Range;
use crate::reclaim;
use crate::request::check_name;
use crate::run;
use crate::state;
use crate::steps::warn;
use crate::sys;

/// How long a container may take to be over that its runtime says is: it takes a millisecond.
const DYING: Duration = Duration::from_secs(1);

/// What a supervisor takes away at the end, of a container that is not its own.
pub struct Ours {
    /// The name of the host end.
    pub link: String,
    /// The inode of the container's network namespace.
    pub netns: u64,
}

impl Ours {
    /// What is kept of it. Another may have its address by now, and keep something under the same name.
    fn kept(&self) -> Option<Kept> {
        kept::read(&self.link).filter(|kept| kept.is_of_here() && kept.netns == self.netns)
    }

    /// A process that is left of the container: its number, and what names it for good.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn another(&self) -> std::io::Result<Option<(i32, OwnedFd)>> {
        owner::find_in(self.netns, |name| {
            let Ok(pid) = name.parse() else {
                return Ok(None);
            };
            let is_its = || namespace(name, "net").is_ok_and(|now| now == self.netns);
            match sys::pidfd_open(pid) {
                // Its number may have been another's before.
                Ok(pidfd) => Ok(is_its().then_some((pid, pidfd))),
                Err(Errno::ESRCH) => Ok(None),
                Err(errno) => Err(errno.into()),
            }
        })
    }

    /// Its ports are others now.
    pub fn keep_ports(&self, ports: Vec<Range>) {
        self.keep(|container| container.ports = ports);
    }

    /// It resolves names with others now.
    pub fn keep_resolvers(&self, resolvers: &Resolvers) {
        self.keep(|container| container.resolve_with(resolvers));
    }

    fn keep(&self, change: impl FnOnce(&mut Description)) {
        if let Some(mut kept) = self.kept() {
            change(&mut kept.container);
            // A matter of what restore knows when we are killed, and no more.
            let _ = kept::write(&self.link, &kept);
        }
    }

    /// All of it. Gone already is success; of the rest the user is told.
    pub fn take_away(&self) {
        let look = || {
            let mut route = Netlink::route()?;
            let end = route.find_link(&self.link)?;
            Ok((route, end))
        };
        let found: std::result::Result<_, Refusal> = twice(look);
        let (mut route, end) = match found.doing(|| format!("look for link {}", self.link)) {
            Ok(found) => found,
            Err(error) => return warn(&format!("{error}; host-helper detach takes it back")),
        };
        let is_ours = |end: &Link| {
            let container = end.mark.as_ref().and_then(Mark::container);
            container.is_some_and(|(_, netns)| netns == self.netns)
        };
        match end.filter(is_ours) {
            Some(end) => {
                if let Err(error) = take_away(&mut route, &end) {
                    warn(&format!("{error}; host-helper ls takes it back"));
                }
            }
            None => {
                if let Some(kept) = self.kept() {
                    uncover(&kept);
                    forget(&self.link, Some(&kept));
                }
            }
        }
    }
}

/// `detach`: takes an attachment away. None that is there is success.
///
/// # Errors
/// Everything that could not be taken.
pub fn detach(options: &cli::Detach) -> Result<()> {
    run::need_privileges("detach a container")?;
    let netns = match (&options.netns, &options.target) {
        (Some(path), _) => match std::fs::metadata(path) {
            Ok(found) => Some(std::os::unix::fs::MetadataExt::ino(&found)),
            Err(_) => return Ok(()),
        },
        (None, Some(target)) => match target.parse::<u32>() {
            Ok(_) => namespace(target, "net").ok(),
            Err(_) => None,
        },
        (None, None) => None,
    };
    let is_meant = |end: &Link| {
        let Some(mark) = end.mark.as_ref().filter(|mark| mark.is_attached()) else {
            return false;
        };
        let (name, its) = mark.container().unwrap_or_default();
        // The number of one that has ended may be another's by now.
        let is_of_pid = |pid: &String| {
            let owner = mark.owner().filter(|it| it.pid.to_string() == *pid);
            owner.is_some_and(|it| it.is_running() || matches!(start_time(it.pid), Ok(None)))
        };
        let target = options.target.as_ref();
        netns == Some(its) || target.is_some_and(|target| target == name || is_of_pid(target))
    };
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let mut ends = route.links().doing(|| "list links".into())?;
    if !ends.iter().any(is_meant) {
        let target = options.target.as_deref();
        let told = target.and_then(|name| Description::told_by(name).ok());
        refuse_of_run(target, told.as_ref(), netns, &ends)?;
        if let Some(told) = told {
            // Somebody has deleted its link: whoever stays for it has the rest.
            return control::stop(&told.name, 0);
        }
    }
    ends.retain(is_meant);
    check_meaning(options, &ends)?;
    let target = match (&options.netns, &options.target) {
        (Some(path), _) => Target::of_path(path).ok(),
        (None, target) => target
            .as_ref()
            .and_then(|target| Target::of_process(target.parse().ok()?).ok()),
    };
    if let Some(target) = target {
        delete_unmarked(&target);
    }
    let ends: Vec<&Link> = ends.iter().collect();
    let errors = take_over_all(&mut route, &ends);
    state::remove_directory_if_empty();
    all_of(&errors)
}

/// A container of `run` cannot do without its network. `told`: what a supervisor of this name says.
///
/// # Errors
/// It is one, and runs.
fn refuse_of_run(
    target: Option<&str>,
    told: Option<&Description>,
    netns: Option<u64>,
    links: &[Link],
) -> Result<()> {
    let is_meant = |mark: &&Mark| match mark {
        Mark::Run(owner) => {
            target.is_some_and(|it| it == owner.name || it == owner.pid.to_string())
                || netns == Some(owner.netns)
        }
        _ => false,
    };
    let mut marks = links.iter().filter_map(|link| link.mark.as_ref());
    let by_link = marks.find(|mark| is_meant(mark) && !mark.is_dead());
    let by_link = by_link.and_then(Mark::container).map(|(name, _)| name);
    let has_none = told.filter(|it| it.owner == "run");
    match by_link.or(has_none.map(|it| it.name.as_str())) {
        Some(name) => Err(Error::new(format!(
            "detach {name}: it is no attached container, but one of host-helper run; host-helper stop {name} ends it"
        ))),
        None => Ok(()),
    }
}

/// A number may be the process of one container and the name of another.
///
/// # Errors
/// It means containers of different network namespaces.
fn check_meaning(options: &cli::Detach, ends: &[Link]) -> Result<()> {
    let Some(number) = options
        .target
        .as_ref()
        .filter(|it| it.parse::<u32>().is_ok())
    else {
        return Ok(());
    };
    let marks = ends.iter().filter_map(|end| end.mark.as_ref());
    let meant: Vec<_> = marks.filter_map(Mark::container).collect();
    if meant.windows(2).all(|two| two[0].1 == two[1].1) {
        return Ok(());
    }
    let names: Vec<&str> = meant.iter().map(|(name, _)| *name).collect();
    Err(Error::new(format!(
        "detach {number}: as a name and as a process it means containers of different network namespaces: {}; say which with --netns PATH",
        names.join(", ")
    )))
}

/// [`take_over`] of each, and what could not be taken of any.
pub fn take_over_all<'a>(route: &mut Netlink, ends: &[&'a Link]) -> Vec<Error> {
    if ends.len() < 2 {
        let over = |end: &&Link| take_over(route, end).err();
        return ends.iter().filter_map(over).collect();
    }
    for end in ends {
        ask_to_let_go(end);
    }
    let begin = |end: &&'a Link| Leaving::begin(route, end);
    let leaving: Vec<Leaving> = ends.iter().filter_map(begin).collect();
    // What is refused here is deleted below, one by one.
    let _ = delete_together(route, &leaving);
    let end = |one: Leaving| one.end(route).err();
    leaving.into_iter().filter_map(end).collect()
}

/// By its supervisor, where it has one, and else, or if that left something, by ourselves.
///
/// # Errors
/// What could not be taken.
pub fn take_over(route: &mut Netlink, end: &Link) -> Result<()> {
    ask_to_let_go(end);
    take_away(route, end)
}

/// Asks whoever supervises this link: a container without one may have the same name.
fn ask_to_let_go(end: &Link) {
    let Some((name, _)) = end.mark.as_ref().and_then(Mark::container) else {
        return;
    };
    let is_its = match control::ask(name, "inspect") {
        Ok(answer) => {
            let found = serde_json::from_str::<Description>(&answer).ok();
            found.is_some_and(|it| it.veth.as_deref() == Some(&*end.name))
        }
        // Nobody listens: there is none. One that does not answer now may be it.
        Err(error) => control::is_silence(&error),
    };
    if is_its {
        let _ = control::stop_all(&[name], 0);
    }
}

/// Takes everything back that belongs to a link of an attachment, and goes on after an error.
fn take_away(route: &mut Netlink, end: &Link) -> Result<()> {
    match Leaving::begin(route, end) {
        Some(leaving) => leaving.end(route),
        None => Ok(()),
    }
}

/// A runtime says that the container which it calls so is over: its processes are gone, and its network goes with it, even
/// where another shares that. None that is there is success; one that lives is another's, of the same name.
///
/// # Errors
/// Everything that could not be taken.
pub fn release(id: &str) -> Result<()> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let of_id = |link: String| {
        let kept = kept::read(&link).filter(|kept| kept.is_of(id))?;
        Some((link, Some(kept)))
    };
    let mut links: Vec<_> = kept::links().into_iter().filter_map(of_id).collect();
    if links.is_empty() && check_name(id).is_ok() {
        // What was kept of it is lost: its name, as a rule, is not.
        let named = route
            .find_link(id)
            .doing(|| format!("look for link {id}"))?;
        links.extend(named.map(|link| (link.name, None)));
    }
    let mut errors = Vec::new();
    for (link, kept) in links {
        errors.extend(release_link(&mut route, &link, kept).err());
    }
    state::remove_directory_if_empty();
    all_of(&errors)
}

fn release_link(route: &mut Netlink, link: &str, kept: Option<Kept>) -> Result<()> {
    let end = route
        .find_link(link)
        .doing(|| format!("look for link {link}"))?;
    let Some(end) = end else {
        return tidy(route, link, kept, Vec::new());
    };
    let mark = end.mark.as_ref().filter(|mark| mark.is_attached());
    let Some(owner) = mark.and_then(Mark::owner) else {
        // Another's by now.
        return Ok(());
    };
    // crun says that a container is over which it has just killed.
    if !owner.ends_within(DYING) {
        return Ok(());
    }
    if owner.is_dead() {
        // Others may live in that network, whose link does not go.
        let shut = shut(route, &end, kept.as_ref());
        // The kernel takes the link back in a moment, sooner than we could.
        let known = nft::forget_link(link, end.index, || !is_anothers(route, &end));
        if reclaim::is_gone(end.index)? {
            let mut errors = Vec::from_iter(shut.err());
            let known = known
                .map_err(|error| errors.push(error))
                .unwrap_or_default();
            errors.extend(tidy(route, link, kept, known.unwrap_or_default()).err());
            return all_of(&errors);
        }
    }
    take_over(route, &end)
}

/// What a link has left, but for its rules: they are swept with those of all others. `kept` is what was kept of it, nothing of one who was
/// killed before it was written; `known` are addresses that they said it had.
///
/// Before: the link is gone, and was of here.
fn tidy(route: &mut Netlink, link: &str, kept: Option<Kept>, known: Vec<IpAddr>) -> Result<()> {
    let mut addresses = known;
    addresses.extend(kept.iter().flat_map(Kept::addresses));
    if let Some(kept) = &kept {
        forget_connections(kept, link, 0, addresses.clone());
        uncover(kept);
    }
    hosts::sweep_links(&BTreeSet::from([link]))?;
    mark::sweep_neighbours(route, &[(link.to_string(), addresses)], 0)?;
    forget(link, kept.as_ref());
    Ok(())
}

/// Deletes a host end of ours that leads there and says nothing of its owner: whoever made it was killed before it could.
///
/// Before: nobody else is attaching the same container.
pub fn delete_unmarked(target: &Target) {
    let delete_it = || -> Result<()> {
        let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
        let mut ends = target.host_ends(&mut route)?;
        ends.retain(|end| end.mark.is_none());
        for end in ends {
            delete(&mut route, end.index)?;
        }
        Ok(())
    };
    // What stays is `unmarked`.
    let _ = delete_it();
}

/// The undo of a link.
pub fn delete_link(index: u32) {
    let once = || {
        let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
        delete(&mut route, index)
    };
    // What stays says whose it is, or nothing, and is reclaimed.
    let _ = twice(once);
}

/// The undo of setting up a link without a bridge, which comes before that of its rules: see [`shut`].
pub fn set_down(attachment: &Attachment) {
    if attachment.network.bridge.is_some() {
        return;
    }
    // What cannot be set down is deleted in a moment.
    let _ = twice(|| Netlink::route()?.set_link_down(attachment.veth.index));
}

/// What attachments have left whose container is gone: files, names, and a link that lives on by its name alone.
///
/// # Errors
/// What the kernel says.
pub fn sweep() -> Result<()> {
    let links = kept::links();
    if links.is_empty() {
        kept::remove_directory_if_empty();
        return Ok(());
    }
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    for name in links {
        let doing = || format!("look for link {name}");
        // In this order: what is read is of the link that is found, or of one before it.
        let kept = kept::read(&name);
        let end = route.find_link(&name).doing(doing)?;
        match (end, kept) {
            (_, Some(kept)) if !kept.is_of_here() => {}
            (None, kept) => tidy(&mut route, &name, kept, Vec::new())?,
            (Some(end), Some(kept)) if kept.is_of_link(&end) => {
                if end.mark.as_ref().is_some_and(Mark::is_dead) {
                    take_away(&mut route, &end)?;
                }
            }
            // An older link's, of the same name.
            (Some(_), Some(kept)) => {
                uncover(&kept);
                forget(&name, Some(&kept));
            }
            // It is being written.
            (Some(_), None) => {}
        }
    }
    Ok(())
}
