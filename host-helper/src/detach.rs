//! `down`: takes a network back. Clean-up goes on after an error, and what is gone already is success.

use crate::bridge;
use crate::control;
use crate::error::{Doing, Error, Result};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{Mark, leased_address};
use crate::state;
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
/// Living containers, by name; a bridge that is not ours; then everything that could not be removed.
pub fn down(name: &str, living: Living) -> Result<()> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let found = route
        .find_link(name)
        .doing(|| format!("look for bridge {name}"))?;
    if let Some(link) = &found {
        if !matches!(link.mark, Some(Mark::Network(_))) {
            return Err(Error::new(format!(
                "remove bridge {name}: it is not ours; ip link del {name} removes it all the same"
            )));
        }
        empty(&mut route, link, living)?;
    }
    let mut errors = Vec::new();
    let mut keep = |done: Result<()>| errors.extend(done.err());
    keep(bridge::delete(&mut route, name));
    state::forget_offset(name);
    match is_last(&mut route) {
        Ok(true) => {
            keep(nft::open().and_then(|mut nft| nft::remove(&mut nft)));
            keep(sysctl::restore_forwarding());
            state::forget_offset(bridge::POINT_TO_POINT_NAME);
            state::remove_leftovers();
        }
        Ok(false) => {}
        Err(error) => keep(Err(error)),
    }
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if text.is_empty() {
        Ok(())
    } else {
        Err(Error::new(text.join("; and ")))
    }
}

/// No container lives on the bridge, or none does any more.
fn empty(route: &mut Netlink, bridge: &Link, living: Living) -> Result<()> {
    let ports = route.links().doing(|| "list links".into())?;
    let owners: Vec<_> = ports
        .iter()
        .filter(|port| {
            port.controller == Some(bridge.index) && leased_address(&port.name).is_some()
        })
        .filter_map(|port| match &port.mark {
            Some(Mark::Run(owner)) if owner.is_dead() => None,
            Some(Mark::Run(owner)) => Some(owner.name.clone()),
            _ => Some(port.name.clone()),
        })
        .collect();
    if owners.is_empty() {
        return Ok(());
    }
    if living == Living::Refuse {
        return Err(Error::new(format!(
            "remove bridge {}: containers live on it: {}; stop them first, or use --force",
            bridge.name,
            owners.join(", ")
        )));
    }
    for owner in &owners {
        // One that has ended meanwhile is what we want; the link of one without a supervisor goes with the bridge's.
        let _ = control::ask(owner, "stop 10");
    }
    Ok(())
}

/// Whether nothing of ours uses the table any more.
fn is_last(route: &mut Netlink) -> Result<bool> {
    let links = route.links().doing(|| "list links".into())?;
    Ok(!links.iter().any(|link| match &link.mark {
        Some(Mark::Network(_)) => true,
        Some(Mark::Run(owner)) => link.controller.is_none() && !owner.is_dead(),
        None => false,
    }))
}
