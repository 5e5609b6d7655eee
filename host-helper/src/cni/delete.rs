//! DEL and GC: what an attachment has is taken back, whatever of it is left, and whatever else is missing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::call::{Attachment, Call, attachment_name, is_marked};
use super::delegate;
use super::fault::{Fault, Judge, first_of};
use super::ipam::DHCP;
use super::members::{self, Members, configuration};
use super::{TYPE, add};
use crate::attached::{self, kept};
use crate::error::Doing;
use crate::link::Link;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::Mark;
use crate::reclaim;
use crate::signals::Signals;
use crate::state;

/// Takes an attachment back. None that is there is success.
///
/// # Errors
/// Everything that could not be taken.
pub fn delete(call: &Call) -> Result<(), Fault> {
    let mut faults = Vec::new();
    faults.extend(delete_ours(call).err());
    if let Some(kind) = delegated(&call.configuration) {
        faults.extend(delegate::ask(&kind, "DEL", call).err());
    }
    state::remove_directory_if_empty();
    first_of(faults)
}

fn delete_ours(call: &Call) -> Result<(), Fault> {
    let name = call.name();
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
    let found = route
        .find_link(&name)
        .doing(|| format!("look for link {name}"))
        .judge()?;
    let is_it = |link: &Link| {
        link.mark
            .as_ref()
            .is_some_and(|mark| is_marked(mark, &name))
    };
    if let Some(end) = found.filter(is_it) {
        let taken = attached::take_over(&mut route, &end).judge();
        // What others have left.
        reclaim::sweep();
        return taken;
    }
    // Its network namespace has gone, with the link; or whoever added it was killed before it could say so.
    if let Some(target) = call.netns.as_ref().and_then(|_| add::target(call).ok()) {
        let signals = Signals::block().judge()?;
        // Who adds it to another network at this moment has not said yet whose that link is.
        match target.lock(&signals) {
            Ok(_alone) => attached::delete_unmarked(&target),
            Err(_) => signals.check().judge()?,
        }
    }
    nft::sweep_dead(&mut route).judge()?;
    attached::sweep().judge()
}

/// The plugin that gives addresses, where that is another one.
pub fn delegated(configuration: &Value) -> Option<String> {
    let kind = members::find(members::find(configuration, "ipam")?, "type")?.as_str()?;
    (!["", TYPE, DHCP].contains(&kind)).then(|| kind.to_string())
}

/// Takes back what belongs to attachments of this network that the runtime does not know.
///
/// # Errors
/// It does not say which it knows; everything that could not be taken.
pub fn collect_garbage(call: &Call) -> Result<(), Fault> {
    let known = known(call)?;
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
    let links = route.links().doing(|| "list links".into()).judge()?;
    let is_unknown = |end: &&Link| {
        let mark = end.mark.as_ref();
        let of_network = mark.and_then(|mark| attachment_of(call, end, mark));
        of_network.is_some_and(|attachment| !known.contains(&attachment))
    };
    let unknown: Vec<&Link> = links.iter().filter(is_unknown).collect();
    let errors = attached::take_over_all(&mut route, &unknown);
    let mut faults: Vec<Fault> = errors.into_iter().map(Fault::from).collect();
    faults.extend(nft::sweep_dead(&mut route).judge().err());
    faults.extend(attached::sweep().judge().err());
    if let Some(kind) = delegated(&call.configuration) {
        faults.extend(delegate::ask(&kind, "GC", call).err());
    }
    state::remove_directory_if_empty();
    first_of(faults)
}

/// The attachment of this network that a link is of: as it is kept, and else by its name, which is made of that.
fn attachment_of(call: &Call, end: &Link, mark: &Mark) -> Option<Attachment> {
    let Mark::Netns(named) = mark else {
        return None;
    };
    let kept = kept::Kept::of(end).and_then(|kept| kept.cni);
    if let Some(kept) = kept {
        let attachment = Attachment {
            container: kept.container,
            interface: kept.interface,
        };
        return (kept.network == call.network).then_some(attachment);
    }
    let (rest, _) = named.name.strip_prefix("cni-")?.rsplit_once('.')?;
    let (container, interface) = rest.rsplit_once('.')?;
    let mut attachments = spellings(interface).map(|interface| Attachment {
        container: container.to_string(),
        interface,
    });
    attachments.find(|attachment| attachment_name(&call.network, attachment) == named.name)
}

/// The interfaces that a name may be made of: `-` and `.` are `_` there, as others are that no usual interface has in its name.
fn spellings(shown: &str) -> impl Iterator<Item = String> {
    const ALL: [char; 3] = ['_', '-', '.'];
    const MOST: usize = 6;
    let count = shown.matches('_').count().min(MOST) as u32;
    let spell = |mut number: usize| {
        let mut spell_one = |shown| match shown {
            '_' => {
                let one = ALL[number % ALL.len()];
                number /= ALL.len();
                one
            }
            plain => plain,
        };
        shown.chars().map(&mut spell_one).collect()
    };
    (0..ALL.len().pow(count)).map(spell)
}

/// Those that the runtime knows, under the specification's key or under the one that its first library had.
fn known(call: &Call) -> Result<BTreeSet<Attachment>, Fault> {
    const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    let lists = KEYS.map(|key| call.configuration.get(key).map(|list| (key, list)));
    let mut all = BTreeSet::new();
    let mut is_said = false;
    for (key, list) in lists.into_iter().flatten() {
        is_said = true;
        let mut one = Members::of("", Some(serde_json::json!({ key: list })))?;
        for value in one.list(key)? {
            let mut value = Members::of(key, Some(value))?;
            let mut text = |member: &str| -> Result<String, Fault> {
                let path = value.path_of(member);
                let text = value.text(member)?;
                text.ok_or_else(|| configuration(&format!("{path}: it must be said")))
            };
            all.insert(Attachment {
                container: text("containerID")?,
                interface: text("ifname")?,
            });
        }
    }
    if is_said {
        return Ok(all);
    }
    // Nothing said is not the same as none.
    let why = format!("{} is missing: GC keeps what it names", KEYS[0]);
    Err(configuration(&why))
}
