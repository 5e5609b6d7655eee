//! ADD: from the configuration to the request, and from what was made to the answer.

use std::net::Ipv4Addr;
use std::path::Path;

use nix::errno::Errno;
use serde_json::Value;

use super::call::Call;
use super::configuration::Configuration;
use super::fault::{Fault, Judge, code};
use super::ipam::{Addressing, Pool};
use super::members;
use super::{delegate, outcome};
use crate::address::{Subnet, gateway_of};
use crate::attach::guest::{self, How};
use crate::attached::kept::Cni;
use crate::attached::target::Target;
use crate::detach::{self, Living};
use crate::dns::Resolvers;
use crate::error::Doing;
use crate::link::Link;
use crate::netlink::Netlink;
use crate::owner::Mark;
use crate::reach::Reach;
use crate::request::{Details, NetworkChoice, Request};
use crate::signals::Signals;
use crate::state;
use crate::steps::Steps;
use crate::veth;
use crate::wanted::Words;

/// Gives the container its interface. Nothing is left when it fails.
///
/// # Errors
/// What makes no sense, what cannot be had, what the kernel refuses.
pub fn add(call: &Call, steps: Steps) -> Result<Value, Fault> {
    let configuration = Configuration::read(call)?;
    let target = target(call)?;
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
    refuse_second(call, &mut route)?;
    let bridge = find_bridge(&configuration, &mut route)?;
    let bridge = bridge.as_ref();
    let done = match &configuration.addressing {
        Addressing::Ours(pool) => {
            let request = request(call, &configuration, pool, bridge, Some(&target));
            attach(call, &configuration, pool, request, &target, steps)
        }
        Addressing::Delegated(kind) => {
            // Before it is asked: a container that cannot have the interface needs no address.
            target.check_empty(&call.attachment.interface).judge()?;
            let given = delegate::ask(kind, "ADD", call).and_then(Pool::of_result);
            let done = given.and_then(|pool| {
                let request = request(call, &configuration, &pool, bridge, Some(&target));
                attach(call, &configuration, &pool, request, &target, steps)
            });
            if done.is_err() {
                // It may have leased an address and failed after that. The first error is the one that matters.
                let _ = delegate::ask(kind, "DEL", call);
            }
            done
        }
    };
    if done.is_err() && configuration.network.has_bridge() && bridge.is_none() {
        // Made for it; it stays if others are on it by now.
        let _ = detach::down(&configuration.bridge, Living::Refuse, &mut Steps::silent());
    }
    if done.is_err() {
        state::remove_directory_if_empty();
    }
    done
}

/// The bridge that there is before; `None`: it is not there, or none is meant.
fn find_bridge(configuration: &Configuration, route: &mut Netlink) -> Result<Option<Link>, Fault> {
    if !configuration.network.has_bridge() {
        return Ok(None);
    }
    let name = &configuration.bridge;
    let found = route.find_link(name);
    found.doing(|| format!("look for bridge {name}")).judge()
}

/// The host's address in the network, where that is known beforehand.
fn gateway(bridge: Option<&Link>, pool: &Pool) -> Option<Ipv4Addr> {
    match bridge.map(|bridge| &bridge.mark) {
        Some(Some(Mark::Network(gateways))) => Some(gateways.v4.addr()),
        Some(_) => pool.gateway,
        None => pool.gateway.or(pool.subnet.map(gateway_of)),
    }
}

/// The container's network namespace.
pub fn target(call: &Call) -> Result<Target, Fault> {
    let path = call.netns.as_deref().unwrap_or(Path::new(""));
    Target::of_path(path).map_err(|error| match error.errno {
        // Nothing is to be cleaned up of what is not there.
        Some(Errno::ENOENT | Errno::ESRCH) => Fault::new(code::CONTAINER, error.to_string()),
        _ => Fault::new(code::ENVIRONMENT, error.to_string()),
    })
}

fn refuse_second(call: &Call, route: &mut Netlink) -> Result<(), Fault> {
    let name = call.name();
    let found = route
        .find_link(&name)
        .doing(|| format!("look for link {name}"))
        .judge()?;
    match found {
        Some(link) => Err(Fault::new(
            code::FAILED,
            format!(
                "add container {} to network {}: its interface {} is there already, with {}; DEL comes first",
                call.attachment.container, call.network, call.attachment.interface, link.name
            ),
        )),
        None => Ok(()),
    }
}

fn attach(
    call: &Call,
    configuration: &Configuration,
    pool: &Pool,
    request: Result<Request, Fault>,
    target: &Target,
    mut steps: Steps,
) -> Result<Value, Fault> {
    let mut request = request?;
    let how = How {
        cni: Some(Cni {
            network: call.network.clone(),
            container: call.attachment.container.clone(),
            interface: call.attachment.interface.clone(),
        }),
        ..How::default()
    };
    // What could fail comes before: nothing takes it back afterwards.
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
    let signals = Signals::block().judge()?;
    // Runtimes add a container to several networks at once: which of them is its way out is the first one's to say.
    let _alone = target.lock(&signals).judge()?;
    let mut inside = target.check_empty(&request.interface).judge()?;
    request.details.taken = target.destinations(&mut inside).judge()?;
    drop(inside);
    let guest = guest::attach(&mut request, target, &how, &signals, &mut steps);
    if guest.is_err() && request.network == NetworkChoice::PointToPoint {
        // Made for it; it stays if others live by it. The first error is the one that matters.
        let _ = detach::remove_rest_of_none();
    }
    let mut guest = guest.map_err(explain)?;
    let attachment = &mut guest.attachment;
    let is_ours = attachment.network.is_ours;
    // One that nobody gave an address has that of one of its ports, by now perhaps of this one.
    if let Some(bridge) = attachment.network.bridge.as_mut().filter(|_| !is_ours) {
        let now = route.link(bridge.index).ok().flatten();
        bridge.mac = now.map_or(bridge.mac, |now| now.mac);
    }
    let end = route.find_link(&attachment.veth.name).ok().flatten();
    let end = end.map(|end| end.mac).unwrap_or_default();
    let dns = configuration.dns.as_ref().or(pool.dns.as_ref());
    let previous = configuration.previous.as_ref();
    Ok(outcome::of(call, &request, attachment, end, dns, previous))
}

/// No address is free: one may be in a moment.
fn explain(error: crate::error::Error) -> Fault {
    match error.errno {
        Some(veth::NONE_FREE) => Fault::new(code::AGAIN, error.to_string()),
        _ => error.into(),
    }
}

/// What the next container would ask for, whichever it is: IPv6 only where that is named.
pub fn request_of_next(
    call: &Call,
    configuration: &Configuration,
    pool: &Pool,
    bridge: Option<&Link>,
) -> Result<Request, Fault> {
    request(call, configuration, pool, bridge, None)
}

fn request(
    call: &Call,
    configuration: &Configuration,
    pool: &Pool,
    bridge: Option<&Link>,
    target: Option<&Target>,
) -> Result<Request, Fault> {
    let is_wanted = pool.subnet6.is_some() || !pool.is_named;
    let has_ipv6 = match target {
        Some(target) => is_wanted && target.may_have_ipv6().judge()?,
        None => pool.subnet6.is_some(),
    };
    if let Some(subnet6) = pool.subnet6.filter(|_| !has_ipv6) {
        let text = format!(
            "use {subnet6}: IPv6 is off in the container's network; turn it on there (sysctl net.ipv6.conf.default.disable_ipv6=0), or leave it out"
        );
        return Err(Fault::new(code::FAILED, text));
    }
    let details = details(configuration, pool);
    let gateway = gateway(bridge, pool);
    let gateway6 = gateway.and_then(|gateway| pool.gateway6_with(gateway));
    // Where it is not known yet, it is looked at with the network.
    let refused = details.check_routers(gateway, gateway6);
    refused.map_err(|error| members::configuration(&error.to_string()))?;
    Ok(Request {
        name: call.name(),
        network: configuration.network.clone(),
        interface: call.attachment.interface.clone(),
        bridge: configuration.bridge.clone(),
        subnet: pool.subnet.map(Subnet::Fixed),
        address: pool.address,
        subnet6: pool.subnet6,
        address6: pool.address6,
        no_ipv6: !has_ipv6,
        ports: configuration.ports.clone(),
        reach: Reach::default(),
        mac: configuration.mac,
        mtu: configuration.mtu,
        resolvers: Resolvers::default(),
        unread_resolvers: None,
        writes_resolv: false,
        asked: None,
        follows: false,
        is_name_made_up: false,
        short_id: None,
        hosts: Vec::new(),
        hostname: String::new(),
        details,
    })
}

fn details(configuration: &Configuration, pool: &Pool) -> Details {
    let is_default = configuration.is_default_gateway;
    Details {
        policy: Some(configuration.policy),
        checks_sources: configuration.checks_sources,
        gateway: pool.gateway,
        range: pool.range,
        // Whoever gives this host a part of a network has routes to the rest, or to all of it.
        is_cut_out: true,
        is_leased_elsewhere: matches!(configuration.addressing, Addressing::Delegated(_)),
        has_default_route: is_default.unwrap_or(!pool.is_named),
        taken: Vec::new(),
        routes: pool.routes.clone(),
        has_names: false,
        is_hairpin: configuration.is_hairpin,
        is_promiscuous: configuration.is_promiscuous,
        words: Words::CNI,
    }
}
