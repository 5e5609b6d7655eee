//! What `run` is asked for, as a request and a command: nothing is made yet, but what makes no sense is refused.

use std::path::{Path, PathBuf};

use hawser::capability::Capability;

use crate::cli::{self, Resolv, Switch};
use crate::config::{self, Privileges};
use crate::error::{Doing, Error, Result};
use crate::hosts::View;
use crate::request::{Command, Request, StdioChoice};
use crate::rootfs::{self, Rootfs};
use crate::sys;
use crate::user::Lists;
use crate::users::UserMap;

/// Where programs are, inside.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn plan(options: &cli::Run) -> Result<(Request, Command)> {
    check_together(options)?;
    let needs_etc = options.net.resolv == Resolv::Required;
    let directory = options
        .rootfs
        .as_deref()
        .map(|path| rootfs::check(path, needs_etc))
        .transpose()?;
    let lists = Lists {
        root: directory.as_deref(),
        volumes: &options.volume,
        tmpfs: &options.tmpfs,
    };
    let user = options.user.as_ref().map(|asked| lists.find(asked));
    let user = user.transpose()?.unwrap_or_default();
    let mut request = options
        .net
        .request(options.name.as_deref(), options.hostname.as_deref());
    request.no_ipv6 |= turns_ipv6_off(options);
    request.choose_resolvers();
    let rootfs = Rootfs {
        directory,
        is_read_only: options.read_only,
        volumes: options.volume.clone(),
        tmpfs: options.tmpfs.clone(),
        binds_resolv: needs_etc,
        shares_hosts: needs_etc && request.view_of_hosts() == Some(View::Shared),
        sysctls: options.sysctl.clone(),
        is_new_network: options.net.network.is_new(),
        users: None,
    };
    let environment = environment(&options.env, &user.home, &request.hostname);
    let privileges = Privileges {
        workdir: options.workdir.clone(),
        capabilities: options.capabilities(),
        ambient: if user.uid == 0 {
            Vec::new()
        } else {
            ambient(options)
        },
        no_new_privileges: options.no_new_privileges == Switch::On,
        seccomp: options.seccomp,
        users: options.userns.then(UserMap::choose).transpose()?,
        user,
    };
    if let Some(map) = &privileges.users {
        map.check(&privileges.user)?;
    }
    config::check_own(&request, &privileges)?;
    let command = Command {
        rootfs,
        stdio: command_stdio(options),
        privileges,
        supervised: options.init.then_some(options.grace),
        preserved: options.preserve_fds,
        init: options.open_init()?,
        words: options.command.clone(),
        environment,
    };
    Ok((request, command))
}

/// Options that make no sense together.
fn check_together(options: &cli::Run) -> Result<()> {
    options.net.check()?;
    options.net.check_files()?;
    if !options.net.network.is_new() && !options.sysctl.is_empty() {
        return Err(cli::usage(
            "--sysctl needs a network namespace of the container's own",
        ));
    }
    let asks_for_ipv6 = options.net.ip6.is_some() || options.net.subnet6.is_some();
    if asks_for_ipv6 && turns_ipv6_off(options) {
        return Err(cli::usage(
            "--sysctl turns the IPv6 off that --ip6 and --subnet6 ask for; leave one of them out",
        ));
    }
    if let Some(port) = options
        .net
        .port_of_ipv6()
        .filter(|_| turns_ipv6_off(options))
    {
        return Err(cli::usage(&format!(
            "--publish {port} leads to nothing: --sysctl turns the container's IPv6 off"
        )));
    }
    let is_dropped = |name: &&String| options.cap_drop.contains(name);
    if let Some(both) = options.cap_add.iter().find(is_dropped) {
        return Err(cli::usage(&format!(
            "--cap-add and --cap-drop both name {both}; leave it out of one of them"
        )));
    }
    if !options.userns {
        check_capabilities(&options.cap_add)?;
    }
    let volumes = options.volume.iter().map(|volume| &volume.destination);
    let places: Vec<_> = volumes.chain(&options.tmpfs).collect();
    let is_named_before = |(at, place): &(usize, &&PathBuf)| places[..*at].contains(place);
    if let Some((_, place)) = places.iter().enumerate().find(is_named_before) {
        return Err(cli::usage(&format!(
            "two of --volume and --tmpfs name {}; leave one of them out",
            place.display()
        )));
    }
    match places.into_iter().find(|place| is_ours(place)) {
        Some(place) if options.net.resolv == Resolv::Required => Err(cli::usage(&format!(
            "{} would lie under the one that is made for the container; leave it out (--dns, --add-host say what is in it), or use --resolv=off",
            place.display()
        ))),
        _ => Ok(()),
    }
}

/// What is asked for by name is there to be kept. (In a user namespace of its own the container has them all.)
fn check_capabilities(asked: &[String]) -> Result<()> {
    let mut asked = asked.iter().filter_map(|name| Capability::from_name(name));
    let Some(first) = asked.next() else {
        return Ok(());
    };
    let own = sys::effective_capabilities().doing(|| "look at our capabilities".into())?;
    let lacks = |one: &Capability| own & one.bit() == 0;
    match [first].into_iter().chain(asked).find(lacks) {
        Some(one) => Err(Error::new(format!(
            "keep capability {one}: host-helper has not got it itself; start it where it has (another unit, container or user), or leave --cap-add {one} out"
        ))),
        None => Ok(()),
    }
}

/// Whether a switch that is asked for leaves the link no IPv6: no address could be given to it.
fn turns_ipv6_off(options: &cli::Run) -> bool {
    let of_link = |which| format!("net/ipv6/conf/{which}/disable_ipv6");
    let switches = ["all", &options.net.iface].map(of_link);
    let mut asked = options.sysctl.iter();
    asked.any(|(path, value)| switches.contains(path) && value != "0")
}

/// Whether a place inside is that of a file that is ours by default.
fn is_ours(place: &Path) -> bool {
    let inside = place.strip_prefix("/");
    inside.is_ok_and(|inside| {
        [rootfs::RESOLV, rootfs::HOSTS]
            .map(Path::new)
            .contains(&inside)
    })
}

/// Where the command's descriptors lead.
pub(super) fn command_stdio(options: &cli::Run) -> StdioChoice {
    match (options.wants_terminal(), options.detach) {
        (true, _) => StdioChoice::Terminal,
        (false, true) => StdioChoice::Log,
        (false, false) => StdioChoice::Inherit,
    }
}

/// A user who is not root gets what was asked for by name, and no more.
fn ambient(options: &cli::Run) -> Vec<String> {
    let kept = options.capabilities();
    options
        .cap_add
        .iter()
        .filter(|name| kept.contains(name))
        .cloned()
        .collect()
}

/// A clean environment, and what was asked for.
fn environment(asked: &[String], home: &str, hostname: &str) -> Vec<String> {
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_string());
    let all = [
        PATH.to_string(),
        format!("HOME={home}"),
        format!("TERM={term}"),
        format!("HOSTNAME={hostname}"),
    ];
    with_variables(all.into(), asked)
}

/// Variables, of which later ones replace those of the same name.
pub fn with_variables(mut all: Vec<String>, further: &[String]) -> Vec<String> {
    for variable in further {
        let name = variable.split('=').next().unwrap_or_default();
        all.retain(|other| other.split('=').next() != Some(name));
        all.push(variable.clone());
    }
    all
}
