//! `hook`: what an OCI runtime calls while it makes a container (createRuntime, or prestart as it was called before) and
//! when it deletes it (poststop); which of them it is, the state says that the runtime writes to us. What it says, and
//! the bundle's config.json, become the request of `attach`; the wiring is that one's.

mod annotations;
mod bundle;
mod told;

use std::time::{Duration, Instant};

use crate::attach::guest::{self, How};
use crate::attached;
use crate::attached::kept::Kept;
use crate::attached::target::Target;
use crate::cli;
use crate::deadline;
use crate::detach;
use crate::error::{Doing, Error, Result};
use crate::netlink::Netlink;
use crate::nft;
use crate::request::NetworkChoice;
use crate::run;
use crate::signals::Signals;
use crate::steps::{Steps, warn};

use bundle::{Bundle, Namespace};
use told::{Stage, Told};

/// Of a runtime that sets no timeout.
const LONGEST: Duration = Duration::from_secs(30);
/// What is kept of a timeout for taking back what was made: a fifth of it, this at most.
const FOR_UNDO: Duration = Duration::from_secs(2);

/// The hook. Gives the exit code.
///
/// # Errors
/// What went wrong, and nothing of it is left then; but the end of a container never fails.
pub fn hook(options: cli::Hook, begin: Instant, steps: Steps) -> Result<u8> {
    let told = Told::read()?;
    match told.stage()? {
        Stage::Begins => attach(&told, options, begin, steps).map(|()| 0),
        Stage::Ends => Ok(release(&told, begin)),
    }
}

/// The command line was refused: what the runtime says is heard to its end all the same, and a container that ends is
/// none the worse for it.
///
/// # Errors
/// The one that was.
pub fn refuse(error: Error, begin: Instant) -> Result<u8> {
    match Told::read() {
        Ok(told) if matches!(told.stage(), Ok(Stage::Ends)) => {
            warn(&error.to_string());
            Ok(release(&told, begin))
        }
        _ => Err(error),
    }
}

/// A container's end: nothing that goes wrong here may keep its runtime from deleting it.
fn release(told: &Told, begin: Instant) -> u8 {
    let doing = || -> Result<()> {
        run::need_privileges("release a container")?;
        // A bundle may be gone by now, and its timeout with it.
        let timeout = Bundle::read(told)
            .ok()
            .and_then(|bundle| bundle.timeout(Stage::Ends));
        set_deadline(&told.id, timeout, Stage::Ends, begin);
        attached::release(&told.id)?;
        // Others may have been killed before they could.
        let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
        nft::sweep_dead(&mut route)?;
        attached::sweep()
    };
    if let Err(error) = doing() {
        warn(&format!(
            "release container {}: {error}; the next command tries again",
            told.id
        ));
    }
    0
}

fn attach(told: &Told, options: cli::Hook, begin: Instant, mut steps: Steps) -> Result<()> {
    run::need_privileges("attach a container")?;
    let bundle = Bundle::read(told)?;
    set_deadline(
        &told.id,
        bundle.timeout(Stage::Begins),
        Stage::Begins,
        begin,
    );
    let options = annotations::add(options, told, &bundle)?;
    check_together(&options).map_err(|error| annotations::explain(error, told, &bundle))?;
    if !needs_link(told, &bundle, &options, &steps)? {
        return Ok(());
    }
    let mut target = Target::of_process(told.pid()?)?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => crate::request::check_name(&told.id)
            .map(|()| told.id.clone())
            .map_err(|why| {
                Error::new(format!(
                    "name container {}: {why}; give it another name with the annotation hawser.name",
                    told.id
                ))
            })?,
    };
    let signals = Signals::block()?;
    let _alone = target.lock(&signals)?;
    if is_attached(told, &target, &name, &options.net.iface)? {
        steps.say("it is attached already");
        return Ok(());
    }
    if options.net.resolv == cli::Resolv::Required {
        target.take_root(&bundle.root()?)?;
    }
    let mut request = attached::request(&options.net, Some(&name), &target, None, &steps)?;
    let short_id = bundle.short_id(told).filter(|short| *short != name);
    request.short_id = short_id.map(str::to_string);
    steps.done("plan");
    let how = How {
        hook: Some(&told.id),
        ip_file: options.ip_file.as_deref(),
        ..How::default()
    };
    let attach = |request: &mut _| guest::attach(request, &target, &how, &signals, &mut steps);
    detach::or_take_back(&mut request, attach).map(drop)
}

fn set_deadline(id: &str, timeout: Option<Duration>, stage: Stage, begin: Instant) {
    let whole = timeout.unwrap_or(LONGEST);
    let within = whole - (whole / 5).min(FOR_UNDO);
    let verb = match stage {
        Stage::Begins => "attach",
        Stage::Ends => "release",
    };
    let cure = match timeout {
        Some(_) => "give the hook a longer timeout in config.json, or see who holds it up",
        None => "see who holds it up",
    };
    let sentence = format!(
        "{verb} container {id}: not done within {:.1} s of the {} s that its hook has; {cure}",
        within.as_secs_f64(),
        whole.as_secs()
    );
    deadline::set(begin + within, sentence);
}

fn check_together(options: &cli::Hook) -> Result<()> {
    if matches!(
        options.net.network,
        NetworkChoice::Container(_) | NetworkChoice::Path(_)
    ) {
        return Err(cli::usage(
            "whose network a container shares is its runtime's matter: linux.namespaces in config.json",
        ));
    }
    options.net.check()?;
    match options.net.loopback_port() {
        Some(port) => Err(cli::usage(&format!(
            "--publish {port}: a port of a loopback address takes a supervisor, and a hook leaves none: use attach --stay"
        ))),
        None => Ok(()),
    }
}

/// Whether there is anything to do: a container that shares the network of others is left alone.
fn needs_link(told: &Told, bundle: &Bundle, options: &cli::Hook, steps: &Steps) -> Result<bool> {
    let id = &told.id;
    match (bundle.network(), &options.net.network) {
        (Namespace::Own, NetworkChoice::Host) => Err(Error::new(format!(
            "attach container {id}: its config.json gives it a network of its own, and not the host's; leave out one of the two"
        ))),
        (Namespace::Own, NetworkChoice::None) => Ok(false),
        (Namespace::Own, _) => Ok(true),
        (Namespace::Shared(path), _) => {
            steps.say(&format!(
                "container {id} shares the network of {}: it is left alone",
                path.display()
            ));
            Ok(false)
        }
        (Namespace::Hosts, NetworkChoice::Host) => Ok(false),
        (Namespace::Hosts, _) => Err(Error::new(format!(
            "attach container {id}: its config.json leaves it in the host's own network; add {{\"type\": \"network\"}} to linux.namespaces, or say hawser.network=host"
        ))),
    }
}

/// Whether the hook has done its work already, under another of its names. What one has left that was killed is taken
/// away.
fn is_attached(told: &Told, target: &Target, name: &str, interface: &str) -> Result<bool> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    for end in target.host_ends(&mut route)? {
        let Some(mark) = &end.mark else {
            attached::delete_link(end.index);
            continue;
        };
        let (theirs, _) = mark.container().unwrap_or_default();
        let is_same = mark.owner().is_some_and(|owner| target.is(owner));
        if !mark.is_attached() || theirs != name || !is_same {
            return Err(Error::new(format!(
                "attach container {}: its state names a process of container {theirs}, which has a network already",
                told.id
            )));
        }
        match Kept::of(&end) {
            Some(kept) if kept.is_whole => {
                let has = kept.container.interface.unwrap_or_default();
                if has == interface {
                    return Ok(true);
                }
                return Err(Error::new(format!(
                    "attach container {}: it has {has} already, and a hook gives one interface",
                    told.id
                )));
            }
            _ => attached::take_over(&mut route, &end)?,
        }
    }
    Ok(false)
}
