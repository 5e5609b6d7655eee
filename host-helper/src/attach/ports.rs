//! Published ports of one attachment, from being taken to leading there, and what the firewall knows of it.

use std::net::IpAddr;

use nix::errno::Errno;

use super::{Attachment, ensure};
use crate::attached::{self, kept};
use crate::bridge::Network;
use crate::conntrack;
use crate::detach;
use crate::error::Result;
use crate::netlink::Netlink;
use crate::nft;
use crate::publish::{self, Held, Port};
use crate::reach::Reach;
use crate::request::Request;
use crate::splice::{Splice, Target};
use crate::steps::Steps;
use crate::sysctl;
use crate::undo::Undo;
use crate::uplink;
use crate::veth;

/// Takes the ports. What cannot be had is refused before anything of the host is changed.
///
/// Undone by dropping them.
pub(super) fn hold(request: &Request, netns: Option<u64>, steps: &mut Steps) -> Result<Vec<Held>> {
    let held = hold_free(&request.ports, netns)?;
    if !held.is_empty() {
        steps.done("hold");
    }
    Ok(held)
}

/// Takes ports that no attachment has either. Those of an attachment that nobody stays for are held by nobody: the kernel may choose one,
/// and another is taken then. `netns`: as with [`publish::hold`].
///
/// Undone by dropping them.
///
/// # Errors
/// See [`publish::hold`]; an attachment has it.
pub fn hold_free(wanted: &[Port], netns: Option<u64>) -> Result<Vec<Held>> {
    const TRIES: usize = 100;
    let hold = |ports: &[Port]| publish::hold(ports.iter().copied(), netns);
    let check = |held: &[Held]| {
        let ports: Vec<Port> = held.iter().map(|one| one.port).collect();
        kept::check_ports(&ports)
    };
    let mut held = match hold(wanted) {
        // Who puts rules back holds such ports for a moment. Whose they are is said of the attachment, not of that one.
        Err(error) if error.errno == Some(Errno::EADDRINUSE) => {
            kept::check_ports(wanted)?;
            return Err(error);
        }
        held => held?,
    };
    // Not let go of before the end, or they would be chosen again.
    let mut theirs = Vec::new();
    for _ in 0..TRIES {
        let Err(refused) = check(&held) else {
            return Ok(held);
        };
        let before = theirs.len();
        let chosen = held.iter_mut().zip(wanted);
        for (one, wanted) in chosen.filter(|(_, wanted)| wanted.host_port == 0) {
            if check(std::slice::from_ref(one)).is_err() {
                for another in hold(&[*wanted])? {
                    theirs.push(std::mem::replace(one, another));
                }
            }
        }
        if theirs.len() == before {
            return Err(refused);
        }
    }
    check(&held).map(|()| held)
}

/// What comes to the ports by the host's loopback leads to the container, through us; and the container, by way of its bridge,
/// to itself.
///
/// Undone by dropping them, and with the link.
///
/// # Errors
/// A port of an IPv6 address for a container that has none.
pub(super) fn splice_to(
    route: &mut Netlink,
    request: &Request,
    attachment: Option<&Attachment>,
    held: Vec<Held>,
) -> Result<Splice> {
    let Some(attachment) = attachment else {
        return Ok(Splice::default());
    };
    let veth = &attachment.veth;
    for one in &held {
        publish::check_family(&one.port, veth.address6)?;
    }
    let mut splice = Splice::new(Target {
        ipv4: Some(veth.address),
        ipv6: veth.address6,
        link: veth.name.clone(),
        index: veth.index,
    });
    if request.details.is_hairpin {
        veth::let_back(route, veth, &attachment.network)?;
    } else {
        publish::let_back(route, attachment, held.iter().map(|one| &one.port))?;
    }
    splice.add(held)?;
    Ok(splice)
}

/// The firewall knows the container, and leads the ports to it.
///
/// Undone by [`nft::forget`].
pub(super) fn publish(
    route: &mut Netlink,
    request: &Request,
    known: Option<(&Attachment, Netlink)>,
    splice: &Splice,
    undo: &mut Undo,
) -> Result<Option<nft::Entry>> {
    let Some((attachment, mut nft)) = known else {
        return Ok(None);
    };
    if attachment.network.bridge.is_none() {
        // Its namespace takes it a moment later, and whoever takes the network back looks for it before that.
        let index = attachment.veth.index;
        undo.push(move || attached::delete_link(index));
    }
    let ours = attachment.clone();
    undo.push(move || nft::forget(&ours));
    if request.address6.is_some() {
        // Who had this address may have had it with another link, under which nobody would look.
        nft::sweep_dead_by(&mut nft, route)?;
    }
    let ports: Vec<Port> = splice.ports().collect();
    let servers = &request.resolvers.servers;
    let mut entry = nft::Entry::add(nft, attachment, &request.reach, &ports, servers)?;
    if entry.has_made_tables() {
        ensure::restore_others();
    }
    if entry.has_made_tables() && !has_way_out(route, &attachment.network)? {
        // Not flushed alone: whoever removed the last network has not seen that this one was about to be used.
        let gone = veth::just_removed(&attachment.veth, &attachment.network);
        let _ = route.delete_link(attachment.veth.index);
        let _ = detach::remove_rest_of_none();
        return Err(gone.cause(Errno::ENODEV));
    }
    if request.reach != Reach::default() || request.has_chosen_address() {
        // What the last one at its address had opened is not its own. Where nothing is tracked nothing is left.
        let addresses: Vec<IpAddr> = attachment.veth.addresses().collect();
        let _ = conntrack::forget_opened_by(entry.socket(), &addresses);
        let _ = conntrack::forget_container(entry.socket(), &addresses);
    }
    Ok(Some(entry))
}

/// Whether the host still forwards for a network of ours, as was seen to.
fn has_way_out(route: &mut Netlink, network: &Network) -> Result<bool> {
    if !network.is_ours {
        return Ok(true);
    }
    if !sysctl::is_forwarding()? {
        return Ok(false);
    }
    if !network.has_ipv6() {
        return Ok(true);
    }
    // What comes in by the container's own link is as that one says; the answers come in by the others.
    let ways = uplink::find(route)?;
    let bridge = network.bridge.map(|_| network.name.as_str());
    sysctl::is_forwarding6(bridge, ways.link6())
}
