//! What our tables know of each container is what its supervisor, or the file of an attachment, says.

use std::io;

use super::host::{Host, name_of};
use super::{Fault, Report};
use crate::attached::kept::Kept;
use crate::bridge;
use crate::control;
use crate::error::Refusal;
use crate::link::Link;
use crate::ls::Description;
use crate::netlink::Netlink;
use crate::nft::examine::Known;
use crate::owner::Mark;

pub fn examine(
    host: &Host,
    nft: &mut Netlink,
    route: &mut Netlink,
    report: &mut Report,
) -> Result<(), Refusal> {
    let known = Known::look(nft)?;
    let lacking = host
        .ends
        .iter()
        .filter(|end| is_lacking(end, &known, route, report));
    let lacking: Vec<&Link> = lacking.collect();
    if lacking.is_empty() {
        return Ok(());
    }
    // One that ends at this moment, or changes its ports, has taken things back: its link goes, or its words change.
    let known = Known::look(nft)?;
    for end in lacking {
        let is_there = route
            .link(end.index)?
            .is_some_and(|link| link.mark == end.mark);
        if !is_there || !is_lacking(end, &known, &mut Netlink::route()?, report) {
            continue;
        }
        report.find(
            Fault::RulesMissing,
            format!("container {}", name_of(end)),
            "elements about it are missing in the sets of table inet hawser or bridge hawser: its ports lead nowhere, or its packets are dropped",
            "host-helper restore",
        );
    }
    Ok(())
}

/// Whether the tables lack something that they should know of it; not of one that nobody speaks for.
fn is_lacking(end: &Link, known: &Known, route: &mut Netlink, report: &mut Report) -> bool {
    // Without its bridge it cannot be told what there should be.
    if bridge::is_stray(end) {
        return false;
    }
    let mut look = || {
        // A supervisor knows of ports that have come later.
        let told = told_by(name_of(end), report);
        let (_, netns) = end.mark.as_ref().and_then(Mark::container)?;
        let kept = Kept {
            host: 0,
            index: end.index,
            netns,
            export: None,
            ip_file: None,
            id: None,
            is_whole: true,
            bound: Vec::new(),
            cni: None,
            container: told.or_else(|| Kept::of(end).map(|kept| kept.container))?,
        };
        let attachment = kept.attachment(route, end)?;
        let (reach, ports) = (kept.reach()?, kept.ports());
        Some(known.lacks(&attachment, &reach, &ports, &kept.container.resolvers))
    };
    look().unwrap_or(false)
}

/// What its supervisor says. One that says nothing puts no rules back either.
fn told_by(name: &str, report: &mut Report) -> Option<Description> {
    let silent = |error: &io::Error| {
        if control::is_silence(error) {
            let cause = control::no_such(name, error);
            report.could_not(format!("the rules of container {name}"), cause);
        }
    };
    Description::told_by(name).inspect_err(silent).ok()
}
