//! `run`: from the options to a supervised container, in the foreground or by itself.

mod plan;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{PathBuf, absolute};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use crate::attach::{self, Container};
use crate::attached;
use crate::cli;
use crate::config;
use crate::control;
use crate::detach;
use crate::error::{Doing, Error, Refusal, Result};
use crate::follower::{Follower, Following};
use crate::hosts::Private;
use crate::ls::{self, Description};
use crate::request::{Command, NetworkChoice, Request, StdioChoice};
use crate::rootfs::{self, Volume};
use crate::signals::Signals;
use crate::spawn::{Early, explain_namespace};
use crate::state;
use crate::steps::{Steps, warn};
use crate::supervisor::{self, Supervisor};
use crate::sys::{self, Clone, End};
use crate::terminal;
use crate::written::Written;

pub use plan::with_variables;

use plan::{command_stdio, plan};

/// Runs a container. Gives the exit code. `early`: what [`begin`] has given, where there is no `--preserve-fds`.
///
/// # Errors
/// What went wrong before the command ran.
pub fn run(options: cli::Run, early: Option<Early>, mut steps: Steps) -> Result<u8> {
    need_privileges("run a container")?;
    check_preserved(options.preserve_fds)?;
    if early.is_none() {
        close_others(options.preserve_fds)?;
    }
    let (mut request, command) = plan(&options)?;
    if options.detach {
        drop(early);
        return run_detached(&options, &mut request, command, steps);
    }
    let signals = Signals::block()?;
    let container = start(&mut request, command, early, &signals, &mut steps)?;
    let mut supervisor = supervise(&options, &request, container, signals);
    let begun = take_terminal(&options, &mut supervisor);
    let begun = begun.and_then(|()| hand_over(options.preserve_fds));
    if let Err(error) = begun.and_then(|()| supervisor.begin_output()) {
        supervisor.give_up();
        return Err(error);
    }
    supervisor.tell(steps);
    Ok(supervisor.wait(None))
}

/// Begins before the command line is read: with the child. `None`: that is refused, and whoever needs one will hear why.
pub fn begin() -> Option<Early> {
    close_others(0).ok()?;
    Early::begin()
}

/// What else our caller has left open is nobody's: neither the command's nor, for its whole life, ours.
pub fn close_others(preserved: u32) -> Result<()> {
    sys::close_range(3 + preserved, u32::MAX).doing(|| "close file descriptors".into())
}

fn start(
    request: &mut Request,
    command: Command,
    early: Option<Early>,
    signals: &Signals,
    steps: &mut Steps,
) -> Result<Container> {
    if let Some(lack) = request.lacks_resolvers().filter(|_| has_way_out(request)) {
        warn(&lack);
    }
    let start = |request: &mut _| attach::run(request, command, early, signals, steps);
    detach::or_take_back(request, start)
}

fn has_way_out(request: &Request) -> bool {
    request.network != NetworkChoice::None
}

/// The exit code of who was ended by SIGTERM.
const ENDED: u8 = 128 + libc::SIGTERM as u8;

/// The supervisor is a process of its own; the caller hears from it once the command runs.
fn run_detached(
    options: &cli::Run,
    request: &mut Request,
    command: Command,
    steps: Steps,
) -> Result<u8> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".into())?;
    let read = File::from(read);
    // For both: each hears of its own. And the supervisor of ours, from its first moment on, also where our caller ignores that.
    let signals = Signals::block()?;
    sys::block_signals(1 << (libc::SIGTERM - 1)).doing(|| "block signals".into())?;
    let cloned = sys::clone_process(0).doing(|| "start a supervisor".into());
    match cloned.map_err(explain_namespace)? {
        Clone::Parent(_, pidfd) => {
            drop(write);
            let mut said = String::new();
            tell_of_start(&read, &signals, &mut said).inspect_err(|_| {
                // It takes back what it has made, or ends the container that nobody would know of.
                let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGTERM);
                let _ = sys::wait_for_end(&pidfd);
                // Before the name comes, what is there is the last one's of that name.
                if !said.is_empty() || has_word(&read) {
                    let _ = forget(&request.name);
                }
            })?;
            if !said.is_empty() {
                return Ok(0);
            }
            match sys::wait_for_end(&pidfd) {
                Ok(End::Exited(ENDED)) => {
                    Err(Error::new("start a supervisor: interrupted by SIGTERM").with_code(ENDED))
                }
                // It has said why itself.
                Ok(End::Exited(code)) => Ok(code),
                _ => Err(Error::new("start a supervisor: it was killed")),
            }
        }
        Clone::Child => {
            drop(read);
            let signals = signals.with_term()?;
            supervise_detached(options, request, command, steps, signals, write.into())
        }
    }
}

/// Waits for the name that the supervisor tells once the command runs, and prints it; `said` has it then. Without one it has ended.
fn tell_of_start(mut read: &File, signals: &Signals, said: &mut String) -> Result<()> {
    signals.interrupt_unless_readable(read)?;
    read.read_to_string(said)
        .doing(|| "wait for the supervisor".into())?;
    match said.is_empty() {
        true => Ok(()),
        false => crate::show(said).map(drop),
    }
}

/// Whether something waits to be read, and not an end alone.
fn has_word(read: &File) -> bool {
    let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
    let _ = sys::again(|| poll(&mut fds, PollTimeout::ZERO));
    fds[0]
        .revents()
        .is_some_and(|all| all.contains(PollFlags::POLLIN))
}

fn supervise_detached(
    options: &cli::Run,
    request: &mut Request,
    command: Command,
    mut steps: Steps,
    signals: Signals,
    caller: File,
) -> Result<u8> {
    nix::unistd::setsid().doing(|| "start a session".into())?;
    // Its caller has ended it, as a rule, and says why.
    let unless_ended = |mut error: Error| {
        error.unsaid &= error.code != ENDED;
        error
    };
    let container = start(request, command, None, &signals, &mut steps).map_err(unless_ended)?;
    let mut supervisor = supervise(options, request, container, signals);
    let terminal = take_terminal(options, &mut supervisor);
    supervisor.tell(steps);
    match supervisor.wait_for_exec() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            supervisor.wait_in_vain();
            return Err(error);
        }
        Err(error) => {
            supervisor.give_up();
            return Err(unless_ended(error));
        }
    }
    if let Err(error) = terminal.and_then(|()| go_on_alone(options, &mut supervisor)) {
        supervisor.give_up();
        return Err(error);
    }
    supervisor.keep_output();
    Ok(supervisor.wait(Some(caller)))
}

fn go_on_alone(options: &cli::Run, supervisor: &mut Supervisor) -> Result<()> {
    hand_over(options.preserve_fds)?;
    supervisor.begin_output()?;
    supervisor::detach().doing(|| "let go of the caller".into())
}

/// The command has them now: who waits for the end of one waits for the command alone.
fn hand_over(preserved: u32) -> Result<()> {
    if preserved == 0 {
        return Ok(());
    }
    sys::close_range(3, 2 + preserved).doing(|| "close file descriptors".into())
}

/// What the child has opened for its command, where it is to have a terminal.
fn take_terminal(options: &cli::Run, supervisor: &mut Supervisor) -> Result<()> {
    match command_stdio(options) {
        StdioChoice::Terminal => supervisor.take_terminal(),
        _ => Ok(()),
    }
}

fn supervise(
    options: &cli::Run,
    request: &Request,
    mut container: Container,
    signals: Signals,
) -> Supervisor {
    // The command runs already: where they do not come, it stays as it is.
    let mut own = terminal::receive_descriptors(&container.child.channel).unwrap_or_else(|errno| {
        if request.writes_resolv {
            let cause = Refusal::from(errno);
            warn(&format!("follow the host's resolvers: {cause}"));
        }
        Vec::new()
    });
    let files = own.split_off(own.len().min(rootfs::OWN));
    container.slow.append(&mut own);
    let follower = follower(request, &container, files);
    let description = describe(options, request, &container);
    let mut supervisor = Supervisor::new(
        container,
        signals,
        description,
        Duration::from_secs(options.grace),
    );
    supervisor.follow(follower);
    if options.init {
        supervisor.leave_the_end_to_init();
    }
    supervisor
}

/// What keeps the container's files at what the host says. `files` are those that the child has given away.
pub fn follower(request: &Request, container: &Container, files: Vec<OwnedFd>) -> Option<Follower> {
    let mut files = files.into_iter().map(File::from);
    let (resolv, hosts) = (files.next(), files.next());
    let asked = request.asked.clone().filter(|_| request.follows);
    let resolvers = asked.zip(resolv).map(|(asked, file)| {
        let text = request.resolvers.to_file().unwrap_or_default();
        Following {
            asked,
            within: request.network.within(request.no_ipv6),
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
    let words = options.command.iter();
    let words = words.map(|word| word.to_string_lossy().into_owned());
    Description {
        pid: Some(container.child.pid.as_raw()),
        command: Some(words.collect()),
        rootfs: options
            .rootfs
            .as_ref()
            .map(|path| absolute(path).unwrap_or_else(|_| path.clone()))
            .map(|path| path.display().to_string()),
        environment: Some(container.environment.clone()),
        privileges: Some(container.privileges.clone()),
        options: Some(asked(options)),
        is_detached: options.detach,
        log: options
            .detach
            .then(|| state::path(&request.name, "log").display().to_string()),
        ..Description::of(request, container.attachment.as_ref())
    }
}

fn asked(options: &cli::Run) -> ls::Options {
    let text = |path: &PathBuf| path.display().to_string();
    let volume = |volume: &Volume| {
        let mode = if volume.is_read_only { "ro" } else { "rw" };
        let (source, destination) = (text(&volume.source), text(&volume.destination));
        format!("{source}:{destination}:{mode}")
    };
    let sysctls = options.sysctl.iter();
    ls::Options {
        read_only: options.read_only,
        volumes: options.volume.iter().map(volume).collect(),
        tmpfs: options.tmpfs.iter().map(text).collect(),
        sysctls: sysctls
            .map(|(path, value)| format!("{}={value}", path.replace('/', ".")))
            .collect(),
        tty: options.wants_terminal(),
        init: options.init,
        grace: options.grace,
        preserve_fds: options.preserve_fds,
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
        "{what}: permission denied (EPERM): it takes root: use sudo, or try it in namespaces of your own, with a tmpfs on /run: unshare -rnm"
    )))
}

/// The descriptors that are to be handed on are there. Before we open any of our own.
pub fn check_preserved(count: u32) -> Result<()> {
    for fd in 0..3 {
        // By a directory of the host, the command could leave its root: openat(0, "..").
        if sys::is_directory(fd) {
            return Err(Error::new(format!(
                "pass file descriptor {fd} on: it is a directory; redirect it elsewhere"
            )));
        }
    }
    let cure = "open it (in a shell: 3<FILE), or give a smaller --preserve-fds";
    for fd in 3..3 + count as i32 {
        let doing = || format!("preserve file descriptor {fd}");
        let open = sys::is_open(fd).doing(doing);
        open.map_err(|error| error.cure(Errno::EBADF, cure))?;
    }
    Ok(())
}

/// `wait`: the exit code of a container, now or when it has one.
///
/// # Errors
/// There is and was no such container.
pub fn wait_for(name: &str) -> Result<u8> {
    let answer = control::ask(name, "wait");
    let refused = answer
        .as_ref()
        .ok()
        .and_then(|answer| answer.strip_prefix("error "));
    if let Some(why) = refused {
        return Err(Error::new(format!(
            "wait for container {name}: {}",
            why.trim()
        )));
    }
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
/// It runs, is attached, or has left nothing.
pub fn forget(name: &str) -> Result<()> {
    let mut runs = false;
    if state::is_there() {
        let _lock = state::lock()?;
        // Not asked: a supervisor that does not answer would hold up whoever waits for the lock.
        runs = control::is_supervised(name);
        if !runs && state::forget_output(name) {
            return Ok(());
        }
    }
    let why = if attached::is_there(name) {
        format!("it is attached; host-helper detach {name} releases it")
    } else if runs {
        format!("it runs; host-helper stop {name} ends it")
    } else {
        "no container of run -d has ended that had this name; host-helper ls shows those that run, which have nothing to forget".to_string()
    };
    Err(Error::new(format!("forget container {name}: {why}")))
}
