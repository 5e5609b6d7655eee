//! `exec`: a further command in a container that runs, with the same privileges.
//!
//! The namespaces that it enters may be hostile, and who is among their processes may be seized by one with
//! CAP_SYS_PTRACE. So a process that nobody inside sees joins all the others first; what it then clones into them has the
//! container's root, no more privileges than the container but for what init needs ([`NEEDED`]), and its filter. It is not dumpable, so
//! that nobody else inside can look into it; it holds no descriptor and no working directory of the host; and the
//! program that it becomes there is init in a sealed memory file, which cannot be written by `/proc/PID/exe`
//! (CVE-2019-5736, CVE-2024-21626).

mod copy;

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use hawser::capability::Capability;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, pipe2, read, setsid, write};

use crate::attach::{self, Container, Names};
use crate::attached;
use crate::cgroup;
use crate::cli;
use crate::config::{self, Privileges};
use crate::control;
use crate::error::{Doing, Error, Result};
use crate::ls::Description;
use crate::reclaim;
use crate::rootfs::Rootfs;
use crate::run;
use crate::signals::Signals;
use crate::spawn::{self, ChildEnds, Said, Spawn, StatusReader, Stdio};
use crate::splice::Splice;
use crate::steps::Steps;
use crate::supervisor::Supervisor;
use crate::sys::{self, Clone};
use crate::terminal;
use crate::users;

/// All namespaces of a container, but for that of its users. That of its processes holds for children only, and so is joined before the clone.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// Runs the command. Gives its exit code.
///
/// # Errors
/// No such container; what went wrong before the command ran.
pub fn exec(options: &cli::Exec, mut steps: Steps) -> Result<u8> {
    run::check_preserved(0)?;
    run::close_others(0)?;
    run::need_privileges("enter a container")?;
    let name = &options.name;
    let answer = control::ask(name, "inspect").map_err(|error| match attached::describe(name) {
        Ok(Some(found)) => made_by_another(&found),
        _ => control::no_such(name, &error),
    })?;
    let found: Description = serde_json::from_str(&answer)
        .map_err(|error| Error::new(format!("understand the supervisor of {name}: {error}")))?;
    let (Some(first), Some(mut privileges)) = (found.pid, found.privileges.clone()) else {
        return Err(made_by_another(&found));
    };
    if may_look_into_us(&privileges) {
        copy::go_on_as(&options.env)?;
    }
    steps.done("inspect");
    let pidfd = sys::pidfd_open(first).doing(|| format!("open the first process of {name}"))?;
    // It was alive when it was asked, and its number is the same process's as long as it answers again.
    if control::pid_of(name)? != first {
        return Err(Error::new(format!(
            "enter container {name}: it has just been replaced by another; run it again"
        )));
    }
    let wants_terminal = options.tty || (!options.no_tty && terminal::is_interactive());
    privileges.workdir = options.workdir.clone().or(privileges.workdir);
    // It is there before init is.
    let filtered_for = privileges.filtered_for();
    let spawn = Spawn {
        rootfs: Rootfs::default(),
        stdio: if wants_terminal {
            Stdio::Terminal
        } else {
            Stdio::Inherit
        },
        user: privileges.user.uid,
        is_first: false,
        supervised: None,
        preserved: 0,
        init: Some(spawn::embedded_init()?),
        command: spawn::c_strings(&options.command)?,
        environment: spawn::c_strings(&run::with_variables(
            found.environment.clone().unwrap_or_default(),
            &options.env,
        ))?,
        is_verbose: false,
        filtered_for: None,
    };
    let signals = Signals::block()?;
    // Before anything of ours is in there.
    sys::set_not_dumpable().doing(|| "hide from the container".into())?;
    let map = privileges.users.as_ref();
    let user = map.map_or(spawn.user, |map| map.outside(spawn.user));
    if user != 0 {
        users::give_pipes_to(user);
    }
    let room = Room {
        processes: &pidfd,
        first,
        has_users: map.is_some(),
        capabilities: kept_on_the_way(&privileges.capabilities),
        filtered_for: filtered_for.as_deref(),
    };
    let mut child = spawn::clone(CloneFlags::empty(), |ends| room.enter(&spawn, ends))?;
    let mut status = StatusReader::default();
    become_second(&mut child, &mut status, &signals, !wants_terminal)
        .inspect_err(|_| kill_both(&child.pidfd))?;
    steps.done("join");
    supervise(&spawn, child, status, &privileges, signals, found, steps)
}

/// The error of who would enter an attached container. Its users, its filter of system calls, its cgroup and its security module's labels are
/// that tool's: a command of ours would have others, more perhaps.
fn made_by_another(found: &Description) -> Error {
    let why = match found.pid {
        Some(pid) => format!(
            "another tool made it, and knows what a command in it may do; use that tool (docker exec), or nsenter --target {pid} --all"
        ),
        None => {
            "it is a network namespace without a process; use ip netns exec, or nsenter --net=PATH"
                .to_string()
        }
    };
    Error::new(format!("enter container {}: {why}", found.name))
}

/// What init takes to become the command: its user, its bounding set, and to give its terminal away.
const NEEDED: [&str; 4] = ["setuid", "setgid", "setpcap", "chown"];

/// Good for nothing in a container. A process with one of these, until init has dropped it, is closed to the container's own, which have none:
/// who lacks a capability of another opens none of its descriptors (ptrace(2), "access mode checking").
const GUARDS: [&str; 2] = ["wake_alarm", "block_suspend"];

fn bit(name: &str) -> u64 {
    Capability::from_name(name).map_or(0, Capability::bit)
}

fn bits(names: &[impl AsRef<str>]) -> u64 {
    names.iter().fold(0, |all, name| all | bit(name.as_ref()))
}

/// Whether the container's processes may trace any that they see: also who is none of them yet, and not dumpable, where our users are theirs
/// (`__ptrace_may_access()`: the capability is asked for in the user namespace that our memory is of).
fn may_look_into_us(container: &Privileges) -> bool {
    container.users.is_none() && bits(&container.capabilities) & bit("sys_ptrace") != 0
}

/// The set of capabilities, one bit each, with which a process is among the container's before it is one of them.
fn kept_on_the_way(containers: &[String]) -> u64 {
    let containers = bits(containers);
    let needed = bits(&NEEDED);
    // Who may trace any process would get it with that.
    let may_trace = containers & bit("sys_ptrace") != 0;
    let is_of_use = |guard: &u64| !may_trace && containers & guard == 0;
    let guard = GUARDS.map(bit).into_iter().find(is_of_use);
    containers | needed | guard.unwrap_or(0)
}

/// Where the command is to run.
struct Room<'a> {
    /// The container's first process, by its number too.
    processes: &'a OwnedFd,
    first: i32,
    /// Its users are others outside.
    has_users: bool,
    /// What is kept until init has dropped the rest, one bit each.
    capabilities: u64,
    filtered_for: Option<&'a [String]>,
}

impl Room<'_> {
    /// In the child: into the container, to its privileges, and among its processes. Only returns when something fails.
    fn enter(&self, spawn: &Spawn, ends: &ChildEnds) -> Result<Infallible> {
        set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal".into())?;
        // Whose terminal is ours, and no longer that of the one which we clone.
        setsid().doing(|| "start a session".into())?;
        // As long as these are the host's files.
        cgroup::join(self.first);
        let join = |namespaces| setns(self.processes, namespaces);
        join(CloneFlags::CLONE_NEWPID).doing(|| "join the container's processes".into())?;
        // The root and the working directory are the container's from here on (setns(2)).
        let mut namespaces = NAMESPACES;
        namespaces.set(CloneFlags::CLONE_NEWUSER, self.has_users);
        join(namespaces).doing(|| "join the container's namespaces".into())?;
        if self.has_users {
            users::become_root()?;
        }
        let dev = spawn::open_dev()?;
        // The host's keys stay the host's; a kernel without keyrings has none.
        let _ = sys::join_session_keyring();
        spawn::filter(self.filtered_for)?;
        sys::keep_capabilities(self.capabilities).doing(|| "give capabilities up".into())?;
        // Not the user's terminal either.
        let terminal = spawn::connect(spawn, &dev)?;
        let doing = || "clone into the container".to_string();
        let (handed_over, first) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
        match sys::clone_process(libc::CLONE_PARENT).doing(doing)? {
            Clone::Child => {
                set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal".into())?;
                // Who waits for us would take the terminal that we hand over for us. Without a word nobody knows us: the first was killed.
                drop(first);
                if sys::again(|| read(&handed_over, &mut [0])) != Ok(1) {
                    sys::exit_now(125);
                }
                setsid().doing(|| "start a session".into())?;
                // As that of the container's command, and not our caller's.
                umask(Mode::from_bits_truncate(0o022));
                spawn::exec_init(spawn, terminal, ends, || Ok(()))
            }
            Clone::Parent(_, second) => {
                terminal::send_descriptors(&ends.channel, &[second.as_raw_fd()])
                    .inspect_err(|_| spawn::kill(&second))
                    .doing(|| "hand the command's process over".into())?;
                // Else it ends.
                let _ = sys::again(|| write(&first, &[0]));
                sys::exit_now(0)
            }
        }
    }
}

/// Takes the process for the child that the child has cloned, which is ours too.
fn become_second(
    child: &mut spawn::Child,
    status: &mut StatusReader,
    signals: &Signals,
    hears_init: bool,
) -> Result<()> {
    let doing = || "take over the command's process".to_string();
    let ends = [child.channel.as_fd(), child.pidfd.as_fd()];
    let [is_made, _] = signals.interrupt_unless_any(ends)?;
    let made = if is_made {
        attach::receive_made(child, status, signals, hears_init)?
    } else {
        Vec::new()
    };
    let second = made.into_iter().next();
    let second = second.ok_or(Errno::ESRCH).doing(doing)?;
    let first = std::mem::replace(&mut child.pidfd, second);
    sys::wait_for_end(&first).doing(doing)?;
    let known = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", child.pidfd.as_raw_fd()));
    let known = known.doing(doing)?;
    let pid = known.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.and_then(|pid| pid.trim().parse().ok());
    child.pid = Pid::from_raw(pid.unwrap_or(0));
    Ok(())
}

/// Kills the child, and the one that it may have cloned and not handed over: somebody inside may have stopped that before it was bound to
/// our end.
fn kill_both(first: &OwnedFd) {
    spawn::kill(first);
    // We have no others (proc(5); a kernel without CONFIG_PROC_CHILDREN leaves the one that was stopped).
    let left = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    for pid in left.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // Ours until it is waited for: no other process has its number.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn supervise(
    spawn: &Spawn,
    mut child: spawn::Child,
    mut status: StatusReader,
    privileges: &Privileges,
    signals: Signals,
    description: Description,
    mut steps: Steps,
) -> Result<u8> {
    let has_terminal = matches!(spawn.stdio, Stdio::Terminal);
    let pidfd = child.pidfd.try_clone();
    let pidfd = pidfd
        .inspect_err(|_| spawn::kill(&child.pidfd))
        .doing(|| "copy a descriptor".into())?;
    let begun = begin(&mut child, &mut status, privileges, &signals, !has_terminal);
    // It may have been stopped before it was bound to our end.
    begun.inspect_err(|_| spawn::kill(&pidfd))?;
    steps.done("ready");
    let container = Container {
        child,
        status,
        lease: None,
        attachment: None,
        entry: None,
        splice: Splice::default(),
        privileges: privileges.clone(),
        environment: Vec::new(),
        names: Names::default(),
        log: None,
        slow: Vec::new(),
    };
    let description = Description {
        is_detached: false,
        ..description
    };
    let mut supervisor = Supervisor::new(container, signals, description, Duration::MAX);
    if has_terminal {
        supervisor.take_terminal()?;
    }
    supervisor.tell(steps);
    reclaim::sweep_apart();
    Ok(supervisor.wait(None))
}

/// The hand-off. Whoever is root inside may stop or kill the child, and open its ends of the pipes, as soon as it has no more
/// privileges than they: so nothing here waits for its words alone, or for a pipe to be emptied.
fn begin(
    child: &mut spawn::Child,
    status: &mut StatusReader,
    privileges: &Privileges,
    signals: &Signals,
    hears_init: bool,
) -> Result<()> {
    for pipe in [&child.config, &child.status] {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(|| "set up a pipe".into())?;
    }
    config::send(&child.config, &config::write_privileges(privileges))?;
    expect(&Said::Up, child, status, signals, hears_init)?;
    child.tell_to_go()?;
    expect(&Said::Ready, child, status, signals, hears_init)
}

fn expect(
    expected: &Said,
    child: &mut spawn::Child,
    status: &mut StatusReader,
    signals: &Signals,
    hears_init: bool,
) -> Result<()> {
    let mut has_ended = false;
    let said = loop {
        match status.read_now(&mut child.status)? {
            Some(said) => break said,
            None if has_ended => break Said::Nothing,
            None => {}
        }
        let ends = [child.status.as_fd(), child.pidfd.as_fd()];
        [_, has_ended] = signals.interrupt_unless_any(ends)?;
    };
    if matches!(said, Said::InitFailed(..)) {
        // It says the same on its standard error, and must not be killed before it has.
        signals.interrupt_unless_readable(&child.pidfd)?;
    }
    attach::judge(said, expected, hears_init)
}
