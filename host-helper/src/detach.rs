//! `down`: takes a network back. Clean-up goes on after an error, and what is gone already is success.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::attached;
use crate::bridge;
use crate::control;
use crate::error::{Doing, Error, Refusal, Result, all_of};
use crate::hosts;
use crate::link::Link;
use crate::ls::{self, Description};
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{Mark, leased_address};
use crate::reclaim;
use crate::request::{NetworkChoice, Request};
use crate::state::{self, Lock};
use crate::steps::Steps;
use crate::sysctl;

/// What to do about containers that live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Living {
    /// Refuse.
    Refuse,
    /// Stop them first.
    Stop,
}

/// Removes a bridge and, with the last network, the table, the switches and the files.
///
/// # Errors
/// Living containers, by name; a link that is no bridge of ours; then everything that could not be removed.
pub fn down(name: &str, living: Living, steps: &mut Steps) -> Result<()> {
    bridge::check_name(name).map_err(|why| Error::new(format!("remove bridge {name:?}: {why}")))?;
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let found = find(&mut route, name)?;
    empty(&mut route, name, found.as_ref(), living)?;
    steps.done("containers");
    // Nobody makes a network from here on, and whoever has been killed while making one has let go.
    let lock = state::lock()?;
    let found = find(&mut route, name)?;
    empty(&mut route, name, found.as_ref(), Living::Refuse)?;
    let mut errors = Vec::new();
    let mut keep = |done: Result<()>| errors.extend(done.err());
    if let Some(link) = &found {
        let deleted = route.delete_link(link.index);
        keep(deleted.doing(|| format!("delete link {}", link.name)));
    }
    steps.done("link");
    // It may have been named by another of its names.
    let name = found.as_ref().map_or(name, |link| &link.name);
    state::forget_offset(name);
    hosts::forget(name);
    match remove_tables_of_none(&mut route) {
        Ok(Some(removed)) => {
            steps.done("tables");
            keep(remove_rest(removed, &lock, steps));
        }
        Ok(None) => keep(nft::open().and_then(|mut nft| nft::remove_bridge(&mut nft, name))),
        Err(error) => keep(Err(error)),
    }
    all_of(&errors)
}

/// What stays of point-to-point networks when the first container of all could not be attached: nobody has it, unless somebody has come
/// meanwhile.
///
/// # Errors
/// Everything that could not be removed.
pub fn remove_rest_of_none() -> Result<()> {
    let lock = state::lock()?;
    remove_rest_if_last(&lock)
}

/// The same where somebody has removed this bridge meanwhile, which had this number. Gives whether he has.
///
/// # Errors
/// It cannot be told.
pub fn remove_rest_of_gone(route: &mut Netlink, bridge: u32) -> std::result::Result<bool, Refusal> {
    let is_gone = route.link(bridge)?.is_none();
    if is_gone {
        // There is an error already, which is the one that matters.
        let _ = remove_rest_of_none();
    }
    Ok(is_gone)
}

fn remove_rest_if_last(lock: &Lock) -> Result<()> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    // Those too that cannot say yet whose they are.
    let links = route.links().doing(|| "list links".into())?;
    if links.iter().any(|link| nft::is_ours(link.group)) {
        return Ok(());
    }
    match remove_tables_of_none(&mut route)? {
        Some(removed) => remove_rest(removed, lock, &Steps::silent()),
        None => Ok(()),
    }
}

/// Makes a start, and where that fails takes back what it has left beside its container. A point-to-point network goes too if that was the
/// first start of all: no link shows that it is there, as a bridge does.
///
/// # Errors
/// Those of the start.
pub fn or_take_back<T>(
    request: &mut Request,
    start: impl FnOnce(&mut Request) -> Result<T>,
) -> Result<T> {
    let is_first = !state::is_there();
    start(request).inspect_err(|_| take_rest_back(request, is_first))
}

fn take_rest_back(request: &Request, is_first: bool) {
    if is_first && request.network == NetworkChoice::PointToPoint {
        if let Ok(lock) = state::lock() {
            // Whoever has a name may be about to use what is there. The first error is the one that matters.
            let is_alone =
                control::sockets().is_ok_and(|all| !all.iter().any(|it| control::listens(it)));
            let _ = is_alone.then(|| remove_rest_if_last(&lock));
        }
    }
    state::remove_directory_if_empty();
}

/// Removes the tables if nothing of ours uses them any more, and gives what came of that.
///
/// A start without a bridge has nothing that shows until it has a link. So if the tables were told of a container since the look at all
/// links, they stay, and there is another look. Who finds that they are gone waits for the lock to make them again, and sees then what else
/// has gone.
///
/// # Errors
/// It cannot be told.
fn remove_tables_of_none(route: &mut Netlink) -> Result<Option<Result<()>>> {
    // Beside others who change the ruleset all the time the last look has to do.
    const PATIENCE: Duration = Duration::from_secs(2);
    let end = Instant::now() + PATIENCE;
    loop {
        let is_patient = Instant::now() < end;
        let mut nft = nft::open();
        let generation = nft.as_mut().ok().filter(|_| is_patient);
        let generation = generation.and_then(|nft| nft::generation(nft).ok());
        if !is_last(route)? {
            return Ok(None);
        }
        match nft.and_then(|mut nft| nft::remove(&mut nft, generation)) {
            Err(error) if error.errno == Some(Errno::ERESTART) && is_patient => {}
            removed => return Ok(Some(removed)),
        }
    }
}

/// What all networks have in common beside the tables, of which that is said: the switches and the files.
fn remove_rest(removed: Result<()>, lock: &Lock, steps: &Steps) -> Result<()> {
    let errors = [removed, sysctl::restore(steps)].map(Result::err);
    state::forget_offset(bridge::POINT_TO_POINT_NAME);
    state::remove_leftovers(lock);
    all_of(&errors.into_iter().flatten().collect::<Vec<_>>())
}

/// The bridge of a network of ours. The kernel finds a container's link by the container's name too: that is none.
///
/// # Errors
/// It is another link.
fn find(route: &mut Netlink, name: &str) -> Result<Option<Link>> {
    let doing = || format!("look for bridge {name}");
    let Some(link) = route.find_link(name).doing(doing)? else {
        return Ok(None);
    };
    if let Some(mark) = &link.mark {
        if let Some((container, _)) = mark.container() {
            let command = if mark.is_attached() { "detach" } else { "stop" };
            return Err(Error::new(format!(
                "remove network {name}: it is the link of container {container}; host-helper {command} {container} ends that"
            )));
        }
    }
    if link.kind != "bridge" || (link.mark.is_none() && !nft::is_ours(link.group)) {
        return Err(Error::new(format!(
            "remove bridge {name}: it is not ours; ip link del {name} removes it all the same"
        )));
    }
    Ok(Some(link))
}

/// No container lives on the network, or none does any more. Its bridge may be gone.
fn empty(route: &mut Netlink, name: &str, bridge: Option<&Link>, living: Living) -> Result<()> {
    // It may have been named by another of its names.
    let name = bridge.map_or(name, |bridge| &bridge.name);
    let ends = settled(living_on(route, name, bridge)?)?;
    if ends.is_empty() {
        return Ok(());
    }
    let names = |ends: &[Link]| ends.iter().map(name_of).collect::<Vec<_>>().join(", ");
    let guests = guests_of(&ends)?;
    if living == Living::Refuse {
        let further = match guests.as_slice() {
            [] => String::new(),
            guests => format!(", and in their networks {}", guests.join(", ")),
        };
        return Err(Error::new(format!(
            "remove bridge {name}: containers live on it: {}{further}; stop them first, or use --force",
            names(&ends)
        )));
    }
    let is_attached = |end: &&Link| end.mark.as_ref().is_some_and(Mark::is_attached);
    let (attached, run): (Vec<&Link>, Vec<&Link>) = ends.iter().partition(is_attached);
    // Their processes are not ours to end.
    all_of(&attached::take_over_all(route, &attached))?;
    let mut asked: Vec<&str> = run.iter().map(|end| name_of(end)).collect();
    asked.extend(guests.iter().map(String::as_str));
    let answers = control::stop_all(&asked, 10);
    for (end, asked) in run.iter().zip(answers) {
        if let (Err(_), Some(Mark::Run(owner))) = (asked, &end.mark) {
            // Its supervisor was killed, and it has seen to it that this was not its end.
            owner.kill();
        }
    }
    let left = settled(living_on(route, name, bridge)?)?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "remove bridge {name}: these did not end: {}",
        names(&left)
    )))
}

/// Who else is in the network namespaces of containers of ours: each of them holds the link, whether its owner still lives or not.
fn guests_of(ends: &[Link]) -> Result<Vec<String>> {
    let networks = ends.iter().filter_map(|end| match &end.mark {
        Some(Mark::Run(owner)) => Some(owner.netns),
        _ => None,
    });
    let networks: Vec<u64> = networks.collect();
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    ls::guests_of(&networks)
}

/// Those that stay. Where a start has failed a moment ago, or a supervisor was killed, the kernel is about to take the link: that is
/// waited for, a second at most for all of them.
fn settled(ends: Vec<Link>) -> Result<Vec<Link>> {
    let mut stay = Vec::new();
    let mut is_patient = true;
    for end in ends {
        let may_be_ending = match &end.mark {
            Some(Mark::Run(owner)) => !control::is_supervised(&owner.name),
            Some(mark) => mark.is_dead(),
            // Its maker was killed before it could say whose it is, or is about to.
            None => true,
        };
        if is_patient && may_be_ending {
            is_patient = reclaim::is_gone(end.index)?;
            if is_patient {
                continue;
            }
        }
        stay.push(end);
    }
    Ok(stay)
}

/// A container's name, or its link's.
fn name_of(end: &Link) -> &str {
    let container = end.mark.as_ref().and_then(Mark::container);
    container.map_or(&end.name, |(name, _)| name)
}

/// The host ends of the containers on a network.
fn living_on(route: &mut Netlink, name: &str, bridge: Option<&Link>) -> Result<Vec<Link>> {
    let mut ports = route.links().doing(|| "list links".into())?;
    let is_on = |port: &Link| match port.controller {
        Some(controller) => bridge.is_some_and(|bridge| bridge.index == controller),
        None => was_on(port, name),
    };
    ports.retain(|port| {
        leased_address(&port.name).is_some()
            && !port.mark.as_ref().is_some_and(Mark::is_dead)
            && is_on(port)
    });
    Ok(ports)
}

/// Somebody has deleted its bridge, which was that of this network: its supervisor says so, or what is kept of it.
pub fn was_on(port: &Link, network: &str) -> bool {
    bridge::is_stray(port)
        && Description::of_end(port).is_some_and(|container| container.network == network)
}

/// Whether nothing of ours uses the table any more.
fn is_last(route: &mut Netlink) -> Result<bool> {
    let links = route.links().doing(|| "list links".into())?;
    let is_network = |link: &Link| matches!(link.mark, Some(Mark::Network(_)));
    if links.iter().any(is_network) {
        return Ok(false);
    }
    // The dead ones too: as long as their links are there, their lines in files count. And those that do not say yet whose they are.
    let is_end = |link: &Link| {
        link.mark.is_some() || (nft::is_ours(link.group) && leased_address(&link.name).is_some())
    };
    let mut left = settled(links.into_iter().filter(is_end).collect())?;
    left.retain(|end| !end.mark.as_ref().is_some_and(Mark::is_dead));
    Ok(left.is_empty())
}

/// The names of all containers that live on a link of ours.
///
/// # Errors
/// What the kernel says.
pub fn living(route: &mut Netlink) -> Result<Vec<String>> {
    let links = route.links().doing(|| "list links".into())?;
    let living = links.iter().filter_map(|link| {
        let mark = link.mark.as_ref().filter(|mark| !mark.is_dead())?;
        mark.container().map(|(name, _)| name.to_string())
    });
    Ok(living.collect())
}
