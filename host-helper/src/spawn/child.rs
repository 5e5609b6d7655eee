//! In the child: from the clone to init.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, execveat, fchown, setsid};

use super::program::embedded_init;
use super::status::{Took, clock};
use super::{ChildEnds, Spawn, Stdio, make_network_namespace};
use crate::error::{Doing, Error, Result};
use crate::inside::Permission;
use crate::netlink::Netlink;
use crate::rootfs;
use crate::seccomp;
use crate::sys;
use crate::terminal::{self, Sides};
use crate::users;

/// In the child. Only returns when something fails.
pub(super) fn become_init(spawn: &Spawn, ends: &ChildEnds) -> Result<Infallible> {
    leave_caller()?;
    if spawn.makes_network() {
        make_network(ends)?;
    }
    go_on(spawn, ends)
}

/// Bound to our end, and to nothing else of our caller's.
pub(super) fn leave_caller() -> Result<()> {
    // init sets it again: a change of user clears it.
    set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal".into())?;
    setsid().doing(|| "start a session".into())?;
    umask(Mode::empty());
    Ok(())
}

/// A network namespace, which is handed over as a socket inside.
pub(super) fn make_network(ends: &ChildEnds) -> Result<()> {
    make_network_namespace()?;
    let inside = Netlink::route().doing(|| "open a netlink socket".into())?;
    terminal::send_descriptors(&ends.channel, &[inside.as_fd().as_raw_fd()])
        .doing(|| "hand the network namespace over".into())
}

/// All that follows.
pub(super) fn go_on(spawn: &Spawn, ends: &ChildEnds) -> Result<Infallible> {
    let begin = spawn.is_verbose.then(clock);
    let receive = |what: &str| receive_descriptor(&ends.channel, what);
    let join_network = || {
        if spawn.makes_network() {
            return Ok(());
        }
        // Without it nothing may be changed any more: this is still the host's network.
        let network = receive("the network namespace")?;
        setns(network, CloneFlags::CLONE_NEWNET).doing(|| "join the network namespace".into())
    };
    let receive_hosts = || receive("the network's hosts");
    let view = rootfs::enter(
        &spawn.rootfs,
        &Permission(ends.config.as_fd()),
        join_network,
        receive_hosts,
    )?;
    if let Some(begin) = begin {
        Took::say(&ends.status, "mounts", begin);
    }
    // Before anything of the container's runs.
    let fds = view.own.iter().chain(&view.files).map(AsRawFd::as_raw_fd);
    terminal::send_descriptors(&ends.channel, &fds.collect::<Vec<RawFd>>())
        .doing(|| "hand resolv.conf to the supervisor".into())?;
    umask(Mode::from_bits_truncate(0o022));
    let map = spawn.rootfs.users.as_ref().map(|users| users.map);
    let user = map.map_or(spawn.user, |map| map.outside(spawn.user));
    match &spawn.stdio {
        // The command may open it again: /dev/stdout.
        Stdio::Log(log) if user != 0 => {
            let given = fchown(log.inlet(), Some(Uid::from_raw(user)), None);
            given.doing(|| "give the log away".into())?;
        }
        Stdio::Inherit if user != 0 => users::give_pipes_to(user),
        _ => {}
    }
    let Some(users) = &spawn.rootfs.users else {
        let terminal = connect(spawn, &view.dev)?;
        return exec_init(spawn, terminal, ends, || rootfs::leave_host(&spawn.rootfs));
    };
    rootfs::leave_host(&spawn.rootfs)?;
    users.join()?;
    // The same as it is in the new mount namespace.
    exec_init(spawn, connect(spawn, &open_dev()?)?, ends, || Ok(()))
}

/// A descriptor that is handed over.
pub(super) fn receive_descriptor(channel: &UnixStream, what: &str) -> Result<OwnedFd> {
    let arrived = terminal::receive_descriptors(channel).doing(|| format!("wait for {what}"))?;
    let first = arrived.into_iter().next();
    first.ok_or_else(|| given_up(what))
}

/// The other end was closed before that came.
pub(super) fn given_up(what: &str) -> Error {
    Error::new(format!("wait for {what}: host-helper has given up"))
}

/// The container's `/dev`, from inside.
///
/// # Errors
/// It is not there.
pub fn open_dev() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/dev", flags, Mode::empty()).doing(|| "open /dev".into())
}

/// From here on this process makes the system calls only that go with these capabilities; `None`: all.
///
/// # Errors
/// The kernel has no filters; not allowed.
pub fn filter(capabilities: Option<&[String]>) -> Result<()> {
    let Some(capabilities) = capabilities else {
        return Ok(());
    };
    sys::filter_system_calls(&seccomp::program(capabilities))
        .doing(|| "filter system calls".into())
        .map_err(|error| {
            let cure = "the kernel lacks CONFIG_SECCOMP_FILTER: --seccomp=unconfined does without";
            error.cure(Errno::EINVAL, cure).cure(Errno::ENOSYS, cure)
        })
}

/// Connects the standard descriptors, and gives the terminal that they lead to. `dev` is the container's `/dev`.
///
/// # Errors
/// The step that failed.
pub fn connect(spawn: &Spawn, dev: &OwnedFd) -> Result<Option<Sides>> {
    match &spawn.stdio {
        Stdio::Terminal => {
            let (terminal, number) = Sides::open(dev, spawn.user)?;
            if spawn.is_first {
                terminal::bind_console(dev, number).doing(|| "bind /dev/console".into())?;
            }
            return Ok(Some(terminal));
        }
        Stdio::Log(log) => {
            let doing = || "redirect the command's output".to_string();
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
            let nothing = openat(dev, "null", flags, Mode::empty()).doing(doing)?;
            terminal::become_standard(nothing, log.inlet()).doing(doing)?;
        }
        Stdio::Inherit => {}
    }
    Ok(None)
}

/// Hands the terminal over, lets go of all descriptors but the standard ones, and becomes init. `leave` is the last that is done without a
/// filter.
///
/// # Errors
/// The step that failed.
pub fn exec_init(
    spawn: &Spawn,
    terminal: Option<Sides>,
    ends: &ChildEnds,
    leave: impl FnOnce() -> Result<()>,
) -> Result<Infallible> {
    let begin = spawn.is_verbose.then(clock);
    if let Some(terminal) = terminal {
        terminal.hand_over(&ends.channel)?;
    }
    let embedded;
    let init = match &spawn.init {
        Some(init) => init,
        None => {
            embedded = embedded_init()?;
            &embedded
        }
    };
    // The host's keys stay the host's; a kernel without keyrings has none.
    let _ = sys::join_session_keyring();
    let doing = || "execute init".to_string();
    let first_free = 3 + spawn.preserved as RawFd;
    sys::close_on_exec_from(3).doing(doing)?;
    // Above the descriptors that the command inherits, whatever they are.
    let raise = |fd: RawFd| sys::duplicate_from(fd, first_free).doing(doing);
    let (config, status) = (
        raise(ends.config.as_raw_fd())?,
        raise(ends.status.as_raw_fd())?,
    );
    for fd in 3..first_free {
        sys::keep_over_exec(fd).doing(|| format!("preserve file descriptor {fd}"))?;
    }
    let mut arguments: Vec<CString> = [c"init", c"--config"]
        .map(CStr::to_owned)
        .into_iter()
        .collect();
    let number = |text: String| CString::new(text).unwrap_or_default();
    arguments.push(number(format!("fd:{config}")));
    arguments.push(c"--status-fd".to_owned());
    arguments.push(number(status.to_string()));
    if let Some(grace) = spawn.supervised {
        // init reads 32 bits.
        let grace = grace.min(u32::MAX.into());
        arguments.push(number(format!("--grace={grace}")));
        arguments.push(c"--supervise".to_owned());
    }
    arguments.push(c"--".to_owned());
    arguments.extend(spawn.command.iter().cloned());
    leave()?;
    // Here, where it takes no no-new-privileges; what follows is in its list.
    filter(spawn.filtered_for.as_deref())?;
    if let Some(begin) = begin {
        Took::say(&ends.status, "init", begin);
    }
    execveat(
        init,
        c"",
        &arguments,
        &spawn.environment,
        AtFlags::AT_EMPTY_PATH,
    )
    .doing(|| "execute init (see --init-path)".into())
    .map_err(|error| {
        let cure =
            "it is there, but its interpreter is not in the container: give a static program";
        error.cure(Errno::ENOENT, cure).cure(
            Errno::ENOEXEC,
            "it is no program for this machine: give the init of hawser, or leave --init-path out",
        )
    })
}
