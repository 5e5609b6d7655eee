//! What others have left that were killed; and a link that is in the way of one that is to come: its owner lives, and is named, or is dead, and
//! the link goes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::attached;
use crate::control;
use crate::deadline;
use crate::error::{Doing, Error, Refusal, Result};
use crate::link::gone;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::Mark;
use crate::sys::{self, Clone};

/// How long a link whose owner is dead may take to go away before it is deleted: it takes 1 ms.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Sweeps what killed processes have left, of any container. What is not allowed whoever is allowed does.
pub fn sweep() {
    let _ = Netlink::route().map(|mut route| nft::sweep_dead(&mut route));
    let _ = attached::sweep();
    control::sweep_stale();
}

/// The same for a process that stays: sockets of nf_tables, and those that keep them open, are to end (see [`nft::close_later`]). So another does it,
/// which is waited for.
pub fn sweep_apart() {
    match sys::clone_process(0) {
        Ok(Clone::Child) => {
            sweep();
            sys::exit_now(0)
        }
        Ok(Clone::Parent(_, pidfd)) => drop(sys::wait_for_end(&pidfd)),
        // There is no room for it: another time.
        Err(_) => {}
    }
}

/// A link has a name that somebody wants: waits until it is gone when its owner is dead. `ours` is the container's name
/// that we have leased: nobody else supervises one of that name.
///
/// # Errors
/// Names the owner when it lives.
pub fn reclaim(route: &mut Netlink, name: &str, what: &str, ours: &str) -> Result<()> {
    let mut news = Netlink::route().doing(|| "open a netlink socket".to_string())?;
    // Joined before the look, so that the end cannot be missed in between.
    news.join(libc::RTNLGRP_LINK)
        .doing(|| "listen to links".to_string())?;
    let Some(link) = route
        .find_link(name)
        .doing(|| format!("look for link {name}"))?
    else {
        return Ok(());
    };
    let holder = match &link.mark {
        Some(mark) if mark.is_dead() => None,
        Some(Mark::Run(owner)) => {
            // Whose supervisor was killed is being killed by the kernel at this moment.
            let is_supervised = owner.name != ours && control::is_supervised(&owner.name);
            if !is_supervised && wait_until_gone(&mut news, link.index)? {
                return Ok(());
            }
            Some(format!("container {} (pid {})", owner.name, owner.pid))
        }
        Some(Mark::Network(_)) => Some(format!("network {}", link.name)),
        Some(Mark::Attached(owner)) => {
            Some(format!("container {} (pid {})", owner.name, owner.pid))
        }
        Some(Mark::Netns(named)) => Some(format!(
            "network namespace {} (host-helper detach {0} gives it back)",
            named.name
        )),
        // Not marked yet, or its maker was killed before it could.
        None if link.kind == "veth" && link.name.starts_with("hw") => {
            if wait_until_gone(&mut news, link.index)? {
                return Ok(());
            }
            Some(format!(
                "link {}, which says nothing of its owner (ip link del {0} gives it back)",
                link.name
            ))
        }
        None => Some(format!("link {}", link.name)),
    };
    if let Some(holder) = holder {
        return Err(Error::new(format!(
            "take {what}: it is in use by {holder}; choose another"
        )));
    }
    if !wait_until_gone(&mut news, link.index)? {
        // By its number: somebody may have the name by now.
        route
            .delete_link(link.index)
            .doing(|| format!("delete link {}", link.name))?;
    }
    Ok(())
}

/// Waits until a link is gone whose owner is dead; false when it stays.
///
/// # Errors
/// What the kernel says.
pub fn is_gone(index: u32) -> Result<bool> {
    let mut news = Netlink::route().doing(|| "open a netlink socket".to_string())?;
    news.join(libc::RTNLGRP_LINK)
        .doing(|| "listen to links".to_string())?;
    Ok(!is_there(index)? || wait_until_gone(&mut news, index)?)
}

/// By a socket of its own: one that listens may have more to say than it holds.
fn is_there(index: u32) -> Result<bool> {
    let found = Netlink::route().and_then(|mut route| route.link(index));
    Ok(found.doing(|| format!("look for link {index}"))?.is_some())
}

/// Waits for the kernel to say that link `index` is gone; false when it has not in time.
fn wait_until_gone(news: &mut Netlink, index: u32) -> Result<bool> {
    let doing = || "wait for a link to go".to_string();
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = deadline::left().map_or(left, |ours| left.min(ours));
        let left = left.as_millis() as u16;
        let mut fds = [PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(left)) {
            Ok(0) => return Ok(false),
            Err(Errno::EINTR) => continue,
            polled => polled.map_err(Refusal::from).doing(doing)?,
        };
        let is_gone = match news.receive(0) {
            Ok(len) => gone(news.received(len)).any(|link| link.index == index),
            // More news than fits: look instead.
            Err(refusal) if refusal.errno == Errno::ENOBUFS => !is_there(index)?,
            Err(refusal) => return Err(refusal).doing(doing),
        };
        if is_gone {
            return Ok(true);
        }
    }
}
