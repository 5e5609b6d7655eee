//! ADD: from the configuration to the request, and from what was made to the answer.

use std::path::Path;

use nix::errno::Errno;
use serde_json::Value;

use super::call::Call;
use super::configuration::Configuration;
use super::fault::{Fault, Judge, code};
use super::ipam::{Addressing, Pool};
use super::{delegate, outcome};
use crate::address::Subnet;
use crate::attach::guest::{self, How};
use crate::attached::kept::Cni;
use crate::attached::target::Target;
use crate::dns::Resolvers;
use crate::error::Doing;
use crate::netlink::Netlink;
use crate::reach::Reach;
use crate::request::{Details, Request};
use crate::signals::Signals;
use crate::state;
use crate::steps::Steps;

/// Gives the container its interface. Nothing is left when it fails.
///
/// # Errors
/// What makes no sense, what cannot be had, what the kernel refuses.
pub fn add(call: &Call, steps: Steps) -> Result<Value, Fault> {
    let configuration = Configuration::read(call)?;
    let target = target(call)?;
    refuse_second(call)?;
    let may_have_ipv6 = target.check_empty(&call.attachment.interface).judge()?;
    match &configuration.addressing {
        Addressing::Ours(pool) => attach(
            call,
            &configuration,
            pool,
            &target,
            may_have_ipv6,
            false,
            steps,
        ),
        Addressing::Delegated(kind) => {
            let given = delegate::ask(kind, "ADD", call)?;
            let done = Pool::of_result(given).and_then(|pool| {
                attach(
                    call,
                    &configuration,
                    &pool,
                    &target,
                    may_have_ipv6,
                    true,
                    steps,
                )
            });
            if done.is_err() {
                // The first error is the one that matters.
                let _ = delegate::ask(kind, "DEL", call);
            }
            done
        }
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

fn refuse_second(call: &Call) -> Result<(), Fault> {
    let name = call.name();
    let mut route = Netlink::route()
        .doing(|| "open a netlink socket".into())
        .judge()?;
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
    target: &Target,
    may_have_ipv6: bool,
    is_leased_elsewhere: bool,
    mut steps: Steps,
) -> Result<Value, Fault> {
    let mut request = request(call, configuration, pool, is_leased_elsewhere);
    if !may_have_ipv6 {
        if let Some(subnet6) = request.subnet6 {
            let text = format!(
                "use {subnet6}: IPv6 is off in the container's network; turn it on there (sysctl net.ipv6.conf.default.disable_ipv6=0), or leave it out"
            );
            return Err(Fault::new(code::FAILED, text));
        }
        request.no_ipv6 = true;
    }
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
    let guest = guest::attach(&request, target, &how, &signals, &mut steps)
        .inspect_err(|_| state::remove_directory_if_empty())
        .map_err(explain)?;
    let attachment = &guest.attachment;
    let end = route.find_link(&attachment.veth.name).ok().flatten();
    let end = end.map(|end| end.mac).unwrap_or_default();
    let dns = configuration.dns.as_ref().or(pool.dns.as_ref());
    let previous = configuration.previous.as_ref();
    Ok(outcome::of(call, &request, attachment, end, dns, previous))
}

/// No address is free: one may be in a moment.
fn explain(error: crate::error::Error) -> Fault {
    match error.errno {
        Some(Errno::EADDRNOTAVAIL) => Fault::new(code::AGAIN, error.to_string()),
        _ => error.into(),
    }
}

fn request(
    call: &Call,
    configuration: &Configuration,
    pool: &Pool,
    is_leased_elsewhere: bool,
) -> Request {
    let is_default = configuration.is_default_gateway;
    let has_default_route = is_default.unwrap_or(!pool.is_named);
    let mut routes = pool.routes.clone();
    if has_default_route {
        routes.retain(|(to, _)| to.prefix_len() != 0);
    }

    Request {
        name: call.name(),
        network: configuration.network.clone(),
        interface: call.attachment.interface.clone(),
        bridge: configuration.bridge.clone(),
        subnet: pool.subnet.map(Subnet::Fixed),
        address: pool.address,
        subnet6: pool.subnet6,
        address6: pool.address6,
        no_ipv6: pool.is_named && pool.subnet6.is_none(),
        ports: configuration.ports.clone(),
        reach: Reach::default(),
        mac: configuration.mac,
        mtu: configuration.mtu,
        resolvers: Resolvers::default(),
        writes_resolv: false,
        follows: None,
        is_name_made_up: false,
        hosts: Vec::new(),
        hostname: String::new(),
        details: Details {
            policy: Some(configuration.policy),
            checks_sources: configuration.checks_sources,
            gateway: pool.gateway,
            range: pool.range,
            // Whoever gives this host a part of a network has routes to the rest, or to all of it.
            is_cut_out: true,
            is_leased_elsewhere,
            has_default_route,
            routes,
            has_names: false,
            is_hairpin: configuration.is_hairpin,
            is_promiscuous: configuration.is_promiscuous,
        },
    }
}
