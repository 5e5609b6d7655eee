//! `exec`: a further command in a container that runs, with the same privileges.
//!
//! The namespaces that it enters may be hostile. What enters them is not dumpable, so that nobody inside can look into
//! it; it holds no descriptor and no working directory of the host; and the program that it becomes there is init in a
//! sealed memory file, which cannot be written by `/proc/PID/exe` (CVE-2019-5736, CVE-2024-21626).

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::setsid;

use crate::attach::{self, Container, Names};
use crate::cli;
use crate::config::{self, Privileges};
use crate::control;
use crate::error::{Doing, Error, Result};
use crate::ls::Description;
use crate::rootfs::Rootfs;
use crate::run;
use crate::signals::Signals;
use crate::spawn::{self, ChildEnds, Said, Spawn, StatusReader, Stdio};
use crate::splice::Splice;
use crate::supervisor::Supervisor;
use crate::sys;
use crate::terminal::{self, Output, Sides, Terminal};
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
pub fn exec(options: &cli::Exec) -> Result<u8> {
    run::need_privileges("enter a container")?;
    let name = &options.name;
    let answer = control::ask(name, "inspect").map_err(|error| control::no_such(name, &error))?;
    let found: Description = serde_json::from_str(&answer)
        .map_err(|error| Error::new(format!("understand the supervisor of {name}: {error}")))?;
    let pidfd = sys::pidfd_open(found.pid).doing(|| format!("open the first process of {name}"))?;
    // It was alive when it was asked, and its number is the same process's as long as it answers again.
    if control::pid_of(name)? != found.pid {
        return Err(Error::new(format!(
            "enter container {name}: it has just been replaced by another; run it again"
        )));
    }
    let wants_terminal = options.tty || (!options.no_tty && terminal::is_interactive());
    let mut privileges = found.privileges.clone();
    privileges.workdir = options.workdir.clone().or(privileges.workdir);
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
            found.environment.clone(),
            &options.env,
        ))?,
        filtered_for: privileges.filtered_for(),
    };
    let signals = Signals::block()?;
    // Before anything of ours is in there.
    sys::set_not_dumpable().doing(|| "hide from the container".into())?;
    setns(&pidfd, CloneFlags::CLONE_NEWPID).doing(|| format!("join the processes of {name}"))?;
    let namespaces = match &privileges.users {
        None => NAMESPACES,
        Some(users) => {
            users.own_pipes();
            NAMESPACES.union(CloneFlags::CLONE_NEWUSER)
        }
    };
    let child = spawn::clone(CloneFlags::empty(), |ends| {
        enter(&spawn, &pidfd, namespaces, ends)
    })?;
    supervise(&spawn, child, &privileges, signals, found)
}

/// In the child: into the container, and to its privileges. Only returns when something fails.
fn enter(
    spawn: &Spawn,
    pidfd: &OwnedFd,
    namespaces: CloneFlags,
    ends: &ChildEnds,
) -> Result<Infallible> {
    set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal".into())?;
    setsid().doing(|| "start a session".into())?;
    // The root and the working directory are the container's from here on (setns(2)).
    setns(pidfd, namespaces).doing(|| "join the container's namespaces".into())?;
    if namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        users::become_root()?;
    }
    spawn::exec_init(spawn, &spawn::open_dev()?, ends)
}

fn supervise(
    spawn: &Spawn,
    mut child: spawn::Child,
    privileges: &Privileges,
    signals: Signals,
    description: Description,
) -> Result<u8> {
    let has_terminal = matches!(spawn.stdio, Stdio::Terminal);
    let mut status = StatusReader::default();
    let pidfd = child
        .pidfd
        .try_clone()
        .doing(|| "copy a descriptor".into())?;
    let begun = begin(&mut child, &mut status, privileges, &signals, !has_terminal);
    // It may have been stopped before it was bound to our end.
    begun.inspect_err(|_| spawn::kill(&pidfd))?;
    let sides = match spawn.stdio {
        Stdio::Terminal => {
            let sides = terminal::receive_descriptors(&child.channel);
            Sides::from(sides.doing(|| "take over the terminal".into())?)
        }
        _ => None,
    };
    let terminal = sides
        .map(|sides| Terminal::join(sides, Output::Standard))
        .transpose()?;
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
    };
    let description = Description {
        is_detached: false,
        ..description
    };
    Ok(Supervisor::new(container, terminal, signals, description, Duration::MAX).wait(None))
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
