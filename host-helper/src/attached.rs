//! `attach` and `detach`: containers that other tools made. A supervisor stays only where one is asked for; without one,
//! what the link does not say is kept in a file (`attached/kept.rs`).

mod away;
pub mod join;
pub mod kept;
pub mod labels;
mod leaving;
mod links;
pub mod target;
pub mod waiting;

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::attach::Container;
use crate::attach::guest::{self, Guest, How};
use crate::cli::{self, usage};
use crate::config::{self, Privileges};
use crate::control;
use crate::detach;
use crate::error::{Doing, Error, Result};
use crate::link::Link;
use crate::ls::Description;
use crate::netlink::Netlink;
use crate::nft::{self, Rules};
use crate::owner::{Mark, namespace, place_of, process_in};
use crate::publish::{self, Held, Port};
use crate::reach::Egress;
use crate::request::Request;
use crate::run;
use crate::signals::Signals;
use crate::spawn::{Child, StatusReader};
use crate::state;
use crate::steps::{Steps, warn};
use crate::supervisor::{self, Supervisor};
use crate::sys;
pub use away::{
    Ours, delete_link, delete_unmarked, detach, release, set_down, sweep, take_over, take_over_all,
};
use kept::Kept;
pub use leaving::take_last_back;
pub use links::{no_link_local, set_up_by};
use target::Target;
pub use target::socket_inside;
use waiting::Fifo;

/// Attaches a container. Gives the exit code.
///
/// # Errors
/// What went wrong; nothing of it is left then.
pub fn attach(options: &cli::Attach, mut steps: Steps) -> Result<u8> {
    run::need_privileges("attach a container")?;
    check_together(options)?;
    let mut how = How {
        stays: options.stay,
        to: options.to.as_deref().map(Fifo::find).transpose()?,
        exports: options.export,
        ..How::default()
    };
    let target = find(options)?;
    let signals = Signals::block()?;
    let alone = target.lock(&signals)?;
    let to = how.to.as_ref();
    if target.files().is_none() && to.is_none() {
        let why = "it has no mount namespace of its own, and sees the host's";
        let net = &options.net;
        // They are also what --egress dns means.
        refuse_lines(net, why, net.egress == Egress::All, "leave it out")?;
    }
    let name = options.name.as_deref();
    let mut request = request(&options.net, name, &target, to, &steps)?;
    // Before there is anything to take back.
    let watch = options.stay.then(|| Watch::begin(&target)).transpose()?;
    let attach = |request: &mut _| guest::attach(request, &target, &how, &signals, &mut steps);
    let guest = detach::or_take_back(&mut request, attach)?;
    // Or its file system would be in use as long as we stay.
    how.to = None;
    drop(alone);
    if let Err(error) = crate::show(&format!("{}\n", request.name)) {
        // Its name may be made up: nobody would know of it.
        take_back(guest);
        return Err(error);
    }
    let Some(watch) = watch else {
        return Ok(0);
    };
    Ok(stay(&request, &how, target, guest, signals, watch))
}

/// Detaches again. What goes wrong is no matter: there was an error already.
fn take_back(guest: Guest) {
    let link = guest.attachment.veth.name.clone();
    // Whoever detaches asks for a supervisor by the name, which is ours until now.
    drop(guest);
    if let Ok(mut route) = Netlink::route() {
        if let Ok(Some(end)) = route.find_link(&link) {
            let _ = take_over(&mut route, &end);
        }
    }
    state::remove_directory_if_empty();
}

/// What options ask for, as far as that container can have it. `to`: its own init writes its files.
///
/// # Errors
/// It has a link already, or cannot have what was asked for.
pub fn request(
    net: &cli::Network,
    name: Option<&str>,
    target: &Target,
    to: Option<&Fifo>,
    steps: &Steps,
) -> Result<Request> {
    let mut inside = target.check_empty(&net.iface)?;
    let mut request = net.request(name, None);
    // The kernel's is the container's own, and may be shorter; in its files it has the name that its neighbours know.
    request.hostname.clone_from(&request.name);
    request.details.taken = target.destinations(&mut inside)?;
    if !request.ports.is_empty() && !request.details.leads_everywhere(true) {
        warn(&format!(
            "publish ports of {}: the container's default route is by another of its links, and answers leave by that; they are reached from its own network alone",
            request.name
        ));
    }
    if !request.no_ipv6 && !target.may_have_ipv6()? {
        let fixed = net.ip6.map(|address| address.to_string());
        let asked = fixed.or(net.subnet6.map(|subnet| subnet.to_string()));
        if let Some(asked) = asked {
            return Err(Error::new(format!(
                "use {asked}: IPv6 is off in the container's network; turn it on there (sysctl net.ipv6.conf.default.disable_ipv6=0), or leave it out"
            )));
        }
        steps.say("IPv4 alone: IPv6 is off in the container's network");
        request.no_ipv6 = true;
    }
    request.choose_resolvers();
    if target.files().is_none() && to.is_none() {
        // The files that its processes see are the host's.
        request.writes_resolv = false;
        steps.say("resolv.conf stays as it is: the container has no mount namespace of its own");
    } else if let Some(holder) = holder_of_files(target)?.filter(|_| to.is_none()) {
        let why = format!("it has those of its attachment {holder}");
        refuse_lines(
            net,
            &why,
            true,
            "leave it out, or give it to the first attach",
        )?;
        request.writes_resolv = false;
        steps.say(&format!(
            "resolv.conf and hosts stay as they are: the container has those of its attachment {holder}"
        ));
    } else if let Some(lack) = request.lacks_resolvers() {
        warn(&lack);
    }
    config::check_own(&request, &Privileges::default())?;
    Ok(request)
}

/// The attachment whose files the container sees already: a second one's, over these, could not be taken away by themselves.
fn holder_of_files(target: &Target) -> Result<Option<String>> {
    let Some(files) = target.files() else {
        return Ok(None);
    };
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let ends = target.host_ends(&mut route)?;
    let mut others = ends.iter().filter_map(Kept::of);
    let holder = others.find(|kept| join::are_seen(files, &kept.bound));
    Ok(holder.map(|kept| kept.container.name))
}

/// Refuses options about the files of a container that get none of ours.
fn refuse_lines(net: &cli::Network, why: &str, with_dns: bool, cure: &str) -> Result<()> {
    match net.option_for_files(with_dns) {
        Some(option) => Err(Error::new(format!(
            "write {option} into the container's resolv.conf and hosts: {why}; {cure}"
        ))),
        None => Ok(()),
    }
}

/// The network namespace of an attachment; none of that name is `None`. Whether its first process lives is no matter: the link lives
/// as long as the namespace.
///
/// # Errors
/// Nothing leads to the namespace any more.
pub fn namespace_of(name: &str) -> Result<Option<OwnedFd>> {
    let doing = || format!("look for container {name}");
    let Some(netns) = inode_of(name)? else {
        return Ok(None);
    };
    let process = process_in(netns).doing(doing)?;
    let of_process = process.map(|pid| place_of(pid).join("ns/net"));
    let names = std::fs::read_dir(labels::NAMES)
        .into_iter()
        .flatten()
        .flatten();
    let is_its = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.ino() == netns);
    let mut paths = of_process
        .into_iter()
        .chain(names.map(|entry| entry.path()));
    let found = paths
        .find(is_its)
        .and_then(|path| std::fs::File::open(path).ok());
    // A process may have ended since, and its number be another's.
    let is_still = |file: &std::fs::File| file.metadata().is_ok_and(|now| now.ino() == netns);
    if let Some(file) = found.filter(is_still) {
        return Ok(Some(file.into()));
    }
    Err(Error::new(format!(
        "join the network of {name}: no process is in it, and it has no name in {}; give its path: --network ns:PATH",
        labels::NAMES
    )))
}

/// The inode of the network namespace of an attachment.
fn inode_of(name: &str) -> Result<Option<u64>> {
    let doing = || format!("look for container {name}");
    let mut route = Netlink::route().doing(doing)?;
    let link = route.find_link(name).doing(doing)?;
    let mark = link.and_then(|link| link.mark);
    let found = mark
        .as_ref()
        .filter(|mark| mark.is_attached())
        .and_then(Mark::container)
        .filter(|(its, _)| *its == name);
    Ok(found.map(|(_, netns)| netns))
}

/// Whether an attachment has this name, with a supervisor or without, as far as that can be known.
pub fn is_there(name: &str) -> bool {
    inode_of(name).is_ok_and(|netns| netns.is_some())
}

fn check_together(options: &cli::Attach) -> Result<()> {
    options.net.check()?;
    options.net.check_files()?;
    if !options.net.network.has_link() {
        return Err(usage("attach gives a link: --network bridge or ptp"));
    }
    match options.net.loopback_port().filter(|_| !options.stay) {
        Some(port) => Err(usage(&format!(
            "--publish {port}: a port of a loopback address takes a supervisor: --stay"
        ))),
        None => Ok(()),
    }
}

fn find(options: &cli::Attach) -> Result<Target> {
    match (options.pid, &options.netns) {
        (Some(pid), _) => Target::of_process(pid),
        (None, Some(path)) => Target::of_path(path),
        (None, None) => Err(usage("attach whom? give PID or --netns PATH")),
    }
}

/// `--stay`: until the container ends, or we are told to. Nothing of it fails: its name is known by now.
fn stay(
    request: &Request,
    how: &How,
    target: Target,
    guest: Guest,
    signals: Signals,
    watch: Watch,
) -> u8 {
    let netns = target.inode;
    let link = guest.attachment.veth.name.clone();
    let description = guest::describe(request, &target, how, &guest.attachment, &guest.splice);
    // Or its namespace would live as long as we do.
    drop(target);
    let container = Container {
        child: watch.child,
        status: StatusReader::default(),
        lease: guest.lease,
        attachment: Some(guest.attachment),
        entry: Some(guest.entry),
        splice: guest.splice,
        privileges: Privileges::default(),
        environment: Vec::new(),
        names: guest.names,
        log: None,
        slow: Vec::new(),
    };
    let follower = run::follower(request, &container, guest.files);
    let mut supervisor = Supervisor::new(container, signals, description, Duration::MAX);
    supervisor.follow(follower);
    supervisor.watch_over(Ours { link, netns });
    if let Some(links) = watch.links {
        supervisor.leave_with_its_link(links);
    }
    supervisor.wait(None)
}

/// By what a supervisor hears of the end of a container that is not its own.
struct Watch {
    /// A process that is not our child, as one: its end is all that there is to hear of it.
    child: Child,
    /// A namespace alone never ends: its link does.
    links: Option<Netlink>,
}

impl Watch {
    fn begin(target: &Target) -> Result<Watch> {
        let doing = || "watch the container".to_string();
        let links = target.process.is_none().then(supervisor::hear_of_links);
        let links = links.transpose()?;
        let (pid, pidfd) = match &target.process {
            Some(process) => (process.pid, process.pidfd.try_clone().doing(doing)?),
            None => (0, sys::pidfd_open(std::process::id() as i32).doing(doing)?),
        };
        let nothing = || -> Result<OwnedFd> {
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
            openat(AT_FDCWD, "/dev/null", flags, Mode::empty()).doing(doing)
        };
        let child = Child {
            pid: Pid::from_raw(pid),
            pidfd,
            config: nothing()?.into(),
            status: nothing()?.into(),
            channel: UnixStream::pair().doing(doing)?.0,
        };
        Ok(Watch { child, links })
    }
}

/// Attachments that nobody supervises, with what is kept of them.
///
/// # Errors
/// What the kernel says.
pub fn unsupervised(route: &mut Netlink) -> Result<Vec<(Link, Kept)>> {
    let mut found = Vec::new();
    for name in kept::links() {
        let end = route
            .find_link(&name)
            .doing(|| format!("look for link {name}"))?;
        let Some((end, kept)) = end.and_then(|end| Some((Kept::of(&end)?, end))).map(swap) else {
            continue;
        };
        if !control::is_supervised(&kept.container.name) {
            found.push((end, kept.unsupervised()));
        }
    }
    Ok(found)
}

fn swap((kept, end): (Kept, Link)) -> (Link, Kept) {
    (end, kept)
}

/// Puts the rules of attachments that nobody supervises back.
///
/// # Errors
/// What the kernel refused, of all of them; ports that others have taken meanwhile.
pub fn restore(route: &mut Netlink, mut rules: Rules) -> Vec<Error> {
    let found = match unsupervised(route) {
        Ok(found) => found,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for (end, kept) in found {
        let Some(attachment) = kept.attachment(route, &end) else {
            continue;
        };
        let Some(reach) = kept.reach() else {
            // Nobody would miss a limit.
            errors.push(Error::new(format!(
                "put back the rules of container {}: its egress list as it is kept cannot be read; detach it, and attach it again",
                kept.container.name
            )));
            continue;
        };
        let done = nft::open().and_then(|mut nft| {
            if nft::ensure(&mut nft)? {
                rules = Rules::Back;
            }
            // Held until they lead there: whoever comes for one meanwhile is refused, or has it.
            let (ports, _held) = hold_again(&mut nft, &kept, &mut errors);
            let servers = &kept.container.resolvers;
            nft::Entry::put_back(nft, rules, &attachment, &reach, &ports, servers)
        });
        errors.extend(done.err());
    }
    errors
}

/// The same for whoever has made the tables again: nobody else would put back what either of them knew. A port that is in no table looks
/// like one that nobody has.
///
/// # Errors
/// As [`restore`].
pub fn restore_to_new_tables() -> Vec<Error> {
    if kept::links().is_empty() {
        return Vec::new();
    }
    match Netlink::route().doing(|| "open a netlink socket".into()) {
        Ok(mut route) => restore(&mut route, Rules::Back),
        Err(error) => vec![error],
    }
}

/// The ports of an attachment, but for those that do not lead to it any more, and are another's by now.
fn hold_again(nft: &mut Netlink, kept: &Kept, errors: &mut Vec<Error>) -> (Vec<Port>, Vec<Held>) {
    let (mut ports, mut all) = (Vec::new(), Vec::new());
    for port in kept.ports() {
        // As when it was attached.
        let held = publish::hold([port], kept.cni.as_ref().map(|_| kept.netns));
        let leads_there = |nft: &mut Netlink| {
            let found = nft::led_to(nft, &port).ok().flatten().unwrap_or_default();
            kept.addresses().any(|address| found.contains(&address))
        };
        match held {
            Err(error) if error.errno == Some(Errno::EADDRINUSE) && !leads_there(nft) => {
                errors.push(Error::new(format!(
                    "restore container {}: {error}",
                    kept.container.name
                )));
            }
            held => {
                ports.push(port);
                all.extend(held.into_iter().flatten());
            }
        }
    }
    (ports, all)
}

/// What is kept of an attachment of this name that nobody supervises.
///
/// # Errors
/// What the kernel says.
pub fn describe(name: &str) -> Result<Option<Description>> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let all = unsupervised(&mut route)?;
    let named = all
        .into_iter()
        .find(|(_, kept)| kept.container.name == name);
    let counted = named.map(|(_, mut kept)| {
        if kept.container.egress.is_some() {
            let nft = nft::open().ok();
            kept.container.refused = nft.map(|mut nft| nft::refused(&mut nft, kept.addresses()));
        }
        kept.container
    });
    Ok(counted)
}

/// The first process of a container of `run` whose link says that it is there.
fn unsupervised_run(name: &str) -> Option<i32> {
    let link = Netlink::route().ok()?.find_link(name).ok()??;
    let Some(Mark::Run(owner)) = link.mark else {
        return None;
    };
    // Elsewhere the number is another process's.
    let is_of_here = namespace("self", "pid").is_ok_and(|ours| ours == owner.pidns);
    (is_of_here && owner.name == name && owner.is_running()).then_some(owner.pid)
}

/// The error of who asks for a container of a name that nobody answers to.
pub fn unanswered(name: &str) -> Error {
    let why = match (describe(name), unsupervised_run(name)) {
        (Ok(Some(_)), _) => format!(
            "it is attached, and nobody stays for it; the tool that made it ends it and knows its end, host-helper detach {name} releases it"
        ),
        (_, Some(pid)) => format!(
            "it runs, and nobody answers for it: {} is gone, or its supervisor was killed; kill -KILL {pid} ends it",
            state::path(name, "sock").display()
        ),
        _ => what_is_left(name),
    };
    Error::new(format!("find container {name}: {why}"))
}

fn what_is_left(name: &str) -> String {
    match ["log", "code"].map(|left| state::path(name, left).exists()) {
        [true, true] => format!(
            "it has ended; host-helper wait {name} prints its exit code, logs {name} what it has written, and rm {name} forgets both"
        ),
        [false, true] => format!(
            "it has ended; host-helper wait {name} prints its exit code, and rm {name} forgets that"
        ),
        [true, false] => format!(
            "it was killed, or had no room for its exit code; host-helper logs {name} shows what it has written, and rm {name} forgets that"
        ),
        [false, false] => "none of that name runs; host-helper ls shows those that do".to_string(),
    }
}
