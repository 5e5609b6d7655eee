//! `run`: from the options to a supervised container, in the foreground or by itself.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::pipe2;

use crate::attach::{self, Container};
use crate::cli::{self, Resolv, Switch};
use crate::config::{self, Privileges};
use crate::control;
use crate::error::{Doing, Error, Result};
use crate::follower::{Follower, Following};
use crate::hosts::{Private, View};
use crate::ls::Description;
use crate::request::{Command, NetworkChoice, Request, StdioChoice};
use crate::rootfs::{self, Rootfs};
use crate::signals::Signals;
use crate::state;
use crate::steps::{Steps, warn};
use crate::supervisor::{self, Supervisor};
use crate::sys::{self, Clone};
use crate::terminal::{self, Output, Sides, Terminal};
use crate::user::{self, User};
use crate::users::UserMap;
use crate::written::Written;

/// Where programs are, inside.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a container. Gives the exit code.
///
/// # Errors
/// What went wrong before the command ran.
pub fn run(options: cli::Run, mut steps: Steps) -> Result<u8> {
    need_privileges("run a container")?;
    check_preserved(options.preserve_fds)?;
    // What else our caller has left open is nobody's: neither the command's nor, for its whole life, ours.
    sys::close_range(3 + options.preserve_fds, u32::MAX)
        .doing(|| "close file descriptors".into())?;
    let (request, command) = plan(&options)?;
    if options.detach {
        return run_detached(&options, &request, command, steps);
    }
    let signals = Signals::block()?;
    let container = start(&request, command, &signals, &mut steps)?;
    let supervisor = supervise(&options, &request, container, signals)?;
    Ok(supervisor.wait(None))
}

fn start(
    request: &Request,
    command: Command,
    signals: &Signals,
    steps: &mut Steps,
) -> Result<Container> {
    if request.writes_resolv && request.resolvers.servers.is_empty() && has_way_out(request) {
        warn(
            "no resolver for the container: the host has none but on loopback addresses; name one with --dns",
        );
    }
    attach::run(request, command, signals, steps)
        .inspect_err(|_| state::remove_directory_if_empty())
}

fn has_way_out(request: &Request) -> bool {
    request.network != NetworkChoice::None
}

/// The supervisor is a process of its own; the caller hears from it once the command runs.
fn run_detached(
    options: &cli::Run,
    request: &Request,
    command: Command,
    steps: Steps,
) -> Result<u8> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".into())?;
    match sys::clone_process(0).doing(|| "start a supervisor".into())? {
        Clone::Parent(_, pidfd) => {
            drop(write);
            let signals = Signals::block()?;
            let read = File::from(read);
            if let Err(interrupted) = signals.interrupt_unless_readable(&read) {
                // It takes back what it has made, or ends the container that nobody would know of.
                let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGTERM);
                let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
                return Err(interrupted);
            }
            let said = std::io::read_to_string(read).doing(|| "wait for the supervisor".into())?;
            if !said.is_empty() {
                return crate::show(&said);
            }
            // It has said why itself.
            match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, code)) => Ok(code as u8),
                _ => Err(Error::new("start a supervisor: it was killed")),
            }
        }
        Clone::Child => {
            drop(read);
            supervise_detached(options, request, command, steps, write.into())
        }
    }
}

fn supervise_detached(
    options: &cli::Run,
    request: &Request,
    command: Command,
    mut steps: Steps,
    caller: File,
) -> Result<u8> {
    nix::unistd::setsid().doing(|| "start a session".into())?;
    let signals = Signals::block()?;
    let container = start(request, command, &signals, &mut steps)?;
    let mut supervisor = supervise(options, request, container, signals)?;
    if let Err((code, text)) = supervisor.wait_for_exec() {
        supervisor.wait(None);
        return Err(Error::new(text).with_code(code));
    }
    supervisor.keep_output();
    // The command has them now.
    if options.preserve_fds > 0 {
        sys::close_range(3, 2 + options.preserve_fds).doing(|| "close file descriptors".into())?;
    }
    supervisor::detach().doing(|| "let go of the caller".into())?;
    Ok(supervisor.wait(Some(caller)))
}

fn supervise(
    options: &cli::Run,
    request: &Request,
    container: Container,
    signals: Signals,
) -> Result<Supervisor> {
    let files = if request.writes_resolv {
        terminal::receive_descriptors(&container.child.channel)
    } else {
        Vec::new()
    };
    let follower = follower(request, &container, files);
    let sides = match command_stdio(options) {
        StdioChoice::Terminal => terminal::receive_descriptors(&container.child.channel),
        _ => Vec::new(),
    };
    let terminal = match Sides::from(sides) {
        Some(host_side) if options.detach => Some(Terminal::join(
            host_side,
            Output::Log(attach::open_log(&request.name)?),
        )?),
        Some(host_side) => Some(Terminal::join(host_side, Output::Standard)?),
        None => None,
    };
    let description = describe(options, request, &container);
    let mut supervisor = Supervisor::new(
        container,
        terminal,
        signals,
        description,
        Duration::from_secs(options.grace),
    );
    supervisor.follow(follower);
    if options.init {
        supervisor.leave_the_end_to_init();
    }
    Ok(supervisor)
}

/// What keeps the container's files at what the host says. `files` are those that the child has given away.
pub fn follower(request: &Request, container: &Container, files: Vec<OwnedFd>) -> Option<Follower> {
    let mut files = files.into_iter().map(File::from);
    let (resolv, hosts) = (files.next(), files.next());
    let resolvers = request.follows.clone().zip(resolv).map(|(asked, file)| {
        let text = request.resolvers.to_file().unwrap_or_default();
        Following {
            asked,
            loopback: request.network.loopback(),
            known: request.resolvers.clone(),
            file: Written::new(file, text),
        }
    });
    let network = container.names.hosts.clone();
    let hosts = network.zip(hosts).map(|(network, file)| {
        let own = config::own_hosts(request, container.attachment.as_ref());
        Private::new(network, own, &container.names.first, file)
    });
    Follower::new(resolvers, hosts)
}

fn describe(options: &cli::Run, request: &Request, container: &Container) -> Description {
    Description {
        pid: container.child.pid.as_raw(),
        command: options
            .command
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        rootfs: options
            .rootfs
            .as_ref()
            .map(|path| path.display().to_string()),
        environment: container.environment.clone(),
        privileges: container.privileges.clone(),
        is_detached: options.detach,
        log: options
            .detach
            .then(|| state::path(&request.name, "log").display().to_string()),
        ..Description::of(request, container.attachment.as_ref())
    }
}

/// Refuses early, in words, what the kernel would refuse later with an errno.
///
/// # Errors
/// A capability is missing.
pub fn need_privileges(what: &str) -> Result<()> {
    // capabilities(7): CAP_NET_ADMIN and CAP_SYS_ADMIN.
    const NEEDED: u64 = 1 << 12 | 1 << 21;
    let have = sys::effective_capabilities().doing(|| "read our capabilities".into())?;
    if have & NEEDED == NEEDED {
        return Ok(());
    }
    Err(Error::new(format!(
        "{what}: permission denied (EPERM): it takes root: use sudo, or try it in namespaces of your own: unshare -rnm"
    )))
}

/// The descriptors that are to be handed on are there. Before we open any of our own.
fn check_preserved(count: u32) -> Result<()> {
    for fd in 0..3 {
        // By a directory of the host, the command could leave its root: openat(0, "..").
        if sys::is_directory(fd) {
            return Err(Error::new(format!(
                "pass file descriptor {fd} on: it is a directory; redirect it elsewhere"
            )));
        }
    }
    for fd in 3..3 + count as i32 {
        let doing = || format!("preserve file descriptor {fd}");
        sys::is_open(fd).doing(doing)?;
    }
    Ok(())
}

fn plan(options: &cli::Run) -> Result<(Request, Command)> {
    check_together(options)?;
    let needs_etc = options.net.resolv == Resolv::Required;
    let directory = options
        .rootfs
        .as_deref()
        .map(|path| rootfs::check(path, needs_etc))
        .transpose()?;
    let user = match &options.user {
        Some(asked) => user::find(asked, directory.as_deref())?,
        None => User::default(),
    };
    let request = options
        .net
        .request(options.name.as_deref(), options.hostname.as_deref());
    let rootfs = Rootfs {
        directory,
        is_read_only: options.read_only,
        volumes: options.volume.clone(),
        tmpfs: options.tmpfs.clone(),
        binds_resolv: needs_etc,
        shares_hosts: needs_etc && request.view_of_hosts() == Some(View::Shared),
        sysctls: sysctls(options),
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

/// What was asked for; and with IPv4 alone the kernel is not to make IPv6 addresses by itself either.
fn sysctls(options: &cli::Run) -> Vec<(String, String)> {
    const GENERATE: &str = "net/ipv6/conf/all/addr_gen_mode";
    const NONE: &str = "1"; // linux/if_link.h, enum in6_addr_gen_mode
    let is_there = Path::new("/proc/sys").join(GENERATE).exists();
    let no_ipv6 = options.net.no_ipv6 && is_there;
    let own = no_ipv6.then(|| (GENERATE.to_string(), NONE.to_string()));
    own.into_iter().chain(options.sysctl.clone()).collect()
}

/// Options that make no sense together.
fn check_together(options: &cli::Run) -> Result<()> {
    options.net.check()?;
    if !options.net.network.is_new() && !options.sysctl.is_empty() {
        return Err(cli::usage(
            "--sysctl needs a network namespace of the container's own",
        ));
    }
    Ok(())
}

/// Where the command's descriptors lead.
fn command_stdio(options: &cli::Run) -> StdioChoice {
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

/// `wait`: the exit code of a container, now or when it has one.
///
/// # Errors
/// There is and was no such container.
pub fn wait_for(name: &str) -> Result<u8> {
    let answer = control::ask(name, "wait");
    let code = match &answer {
        Ok(answer) => answer.strip_prefix("exit ").map(str::to_string),
        Err(_) => None,
    };
    // It ended before we asked, or its supervisor was killed meanwhile.
    let code = code.or_else(|| std::fs::read_to_string(state::path(name, "code")).ok());
    if let Some(code) = code.and_then(|code| code.trim().parse().ok()) {
        return Ok(code);
    }
    Err(match answer {
        Err(error) => control::no_such(name, &error),
        Ok(_) => Error::new(format!(
            "wait for container {name}: its supervisor was killed, and the exit code with it"
        )),
    })
}

/// `rm`: forgets what an ended container has left.
///
/// # Errors
/// It runs, or left nothing.
pub fn forget(name: &str) -> Result<()> {
    let _lock = state::lock()?;
    match control::ask(name, "inspect") {
        Ok(_) => Err(Error::new(format!(
            "forget container {name}: it runs; host-helper stop {name} ends it"
        ))),
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            Err(control::no_such(name, &error))
        }
        Err(error) if !state::forget_output(name) => Err(control::no_such(name, &error)),
        Err(_) => Ok(()),
    }
}
