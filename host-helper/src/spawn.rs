//! The container's first process: cloned into its namespaces, moved into its files, and then init.

mod child;
mod early;
mod program;
mod status;

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use hawser::protocol;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, OURS, Result};
use crate::log::Log;
use crate::rootfs::Rootfs;
use crate::sys::{self, Clone};
use crate::terminal;
use crate::users;

pub use child::{connect, exec_init, filter, open_dev};
pub use early::Early;
pub use program::{embedded_init, in_memory, is_in_memory, open_init};
pub use status::{Said, StatusReader, clock};

use child::become_init;
use status::FAILED;

/// Where the command's standard descriptors lead.
#[derive(Debug, Serialize, Deserialize)]
pub enum Stdio {
    /// Where ours do.
    Inherit,
    /// To a terminal of its own.
    Terminal,
    /// Nothing comes in, and what comes out goes to a log.
    #[serde(skip)]
    Log(Log),
}

impl Stdio {
    /// The log, for who copies what comes.
    pub fn into_log(self) -> Option<Log> {
        match self {
            Stdio::Log(log) => Some(log),
            Stdio::Inherit | Stdio::Terminal => None,
        }
    }
}

/// All that the child needs to know.
#[derive(Serialize, Deserialize)]
pub struct Spawn {
    /// Its files.
    pub rootfs: Rootfs,
    /// Its standard descriptors.
    pub stdio: Stdio,
    /// Who owns its terminal.
    pub user: u32,
    /// It is the first process of its container.
    pub is_first: bool,
    /// init stays as PID 1, and gives what is left at the end so many seconds; else it becomes the command.
    pub supervised: Option<u64>,
    /// How many descriptors from 3 on the command inherits.
    pub preserved: u32,
    /// init's file; the embedded one when there is none.
    #[serde(skip)]
    pub init: Option<OwnedFd>,
    /// The command and its arguments.
    #[serde(with = "text")]
    pub command: Vec<CString>,
    /// `KEY=VALUE`.
    #[serde(with = "text")]
    pub environment: Vec<CString>,
    /// Somebody wants to know how long its steps take.
    pub is_verbose: bool,
    /// init and the command may make the system calls that go with these capabilities; `None`: all.
    pub filtered_for: Option<Vec<String>>,
}

/// Words as text, and not as lists of numbers, which take longer to write and to read: whoever begins early has a child that waits for it.
mod text {
    use std::ffi::CString;

    use serde::de::{Deserialize, Deserializer, Error as _};
    use serde::ser::{Error as _, Serializer};

    pub fn serialize<S: Serializer>(words: &[CString], to: S) -> Result<S::Ok, S::Error> {
        let words: Result<Vec<&str>, _> = words.iter().map(|word| word.to_str()).collect();
        to.collect_seq(words.map_err(S::Error::custom)?)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<CString>, D::Error> {
        let words = Vec::<String>::deserialize(from)?.into_iter();
        let words: Result<_, _> = words.map(CString::new).collect();
        words.map_err(D::Error::custom)
    }
}

impl Spawn {
    /// It makes its network namespace, and hands it over; else it waits for one to join.
    pub fn makes_network(&self) -> bool {
        self.rootfs.is_new_network && self.rootfs.users.is_none()
    }
}

/// The host's ends of a new child.
pub struct Child {
    /// As this pid namespace counts.
    pub pid: Pid,
    /// Names it for good.
    pub pidfd: OwnedFd,
    /// The config message goes in here, and then `go`.
    pub config: File,
    /// What init and the child before it say comes out here.
    pub status: File,
    /// Descriptors that come later go in here, and the host's side of a terminal comes out.
    pub channel: UnixStream,
}

/// Clones the child, on another processor than ours where there is room; it goes on by itself until init waits for its config.
///
/// Undone by killing it.
///
/// # Errors
/// No processes, namespaces or descriptors left; not allowed.
pub fn spawn(spawn: &Spawn) -> Result<Started> {
    let namespaces = match spawn.rootfs.users {
        None => NAMESPACES.union(users::LATER),
        Some(_) => NAMESPACES,
    };
    start(namespaces, |ends| become_init(spawn, ends))
}

/// A new child, and where it may run later if that is not the same as now.
pub type Started = (Child, Option<Elsewhere>);

/// [`clone`], on another processor where there is room.
fn start(
    namespaces: CloneFlags,
    work: impl FnOnce(&ChildEnds) -> Result<Infallible>,
) -> Result<Started> {
    let room = find_room();
    let child = clone(namespaces, work)?;
    let elsewhere = room.and_then(|room| begin_elsewhere(room, child.pid));
    Ok((child, elsewhere))
}

/// The child's ends of what connects it with this process.
pub struct ChildEnds {
    /// The config message comes out here, and then `go`.
    pub config: OwnedFd,
    /// What it has to say goes in here.
    pub status: File,
    /// Descriptors that come later come out here, and the host's side of a terminal goes in.
    pub channel: UnixStream,
}

/// Clones a child that does `work`, which only returns when it fails.
///
/// # Errors
/// No processes, namespaces or descriptors left; not allowed.
pub fn clone(
    namespaces: CloneFlags,
    work: impl FnOnce(&ChildEnds) -> Result<Infallible>,
) -> Result<Child> {
    let doing = || "make a pipe".to_string();
    let (config_read, config_write) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
    let (status_read, status_write) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
    let (channel, from_host) = UnixStream::pair().doing(|| "make a socket pair".into())?;
    let cloned = sys::clone_process(namespaces.bits());
    match cloned
        .doing(|| "clone into new namespaces".into())
        .map_err(explain_namespace)?
    {
        Clone::Parent(pid, pidfd) => {
            let (config, status) = (config_write.into(), status_read.into());
            Ok(Child {
                pid,
                pidfd,
                config,
                status,
                channel,
            })
        }
        Clone::Child => {
            drop((config_write, status_read, channel));
            let mut ends = ChildEnds {
                config: config_read,
                status: status_write.into(),
                channel: from_host,
            };
            let Err(error) = work(&ends);
            let _ = ends
                .status
                .write_all(format!("{FAILED} {error}\n").as_bytes());
            std::process::exit(OURS.into())
        }
    }
}

/// The processors that the child and this process may run on in the end, when they are kept apart for the beginning.
pub struct Elsewhere(CpuSet);

/// Lets the child begin on another processor than this one, of those that there are, and keeps this process where it is. A scheduler that
/// packs processes together would let one wait behind the other, while they are meant to work side by side. It does so at each word between
/// them in a virtual machine: a processor that sleeps there looks like one that the host has taken away (`vcpu_is_preempted`), and whoever is
/// woken goes where the other one works.
///
/// Undone by [`Elsewhere::end`], for this process by the end of what it gives.
fn begin_elsewhere(all: CpuSet, child: Pid) -> Option<Elsewhere> {
    let here = sched_getcpu().ok()?;
    let (mut own, mut others) = (CpuSet::new(), all);
    own.set(here).ok()?;
    others.unset(here).ok()?;
    // With a single processor this is refused, and nothing is lost.
    sched_setaffinity(child, &others).ok()?;
    let _ = sched_setaffinity(Pid::from_raw(0), &own);
    Some(Elsewhere(all))
}

/// The processors that we may run on, where a child has room beside us. Where a crowd wants to run it is left alone: it would wait for
/// another processor, when there is room on ours. Found out before the child is there, which is to begin at once.
fn find_room() -> Option<CpuSet> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let is_ours = |number: &usize| allowed.is_set(*number).unwrap_or(false);
    let processors = (0..CpuSet::count()).filter(is_ours).count();
    // This process is one of those that run; another is often a worker of the kernel's that takes apart what has just ended, and sleeps more
    // than it runs.
    (running()? <= 2 * processors).then_some(allowed)
}

/// How many threads run, or would if they had a processor: the first half of the fourth field of proc(5)'s loadavg.
fn running() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

impl Elsewhere {
    /// The child may run anywhere again.
    ///
    /// # Errors
    /// What sched_setaffinity(2) says; a child that has ended is no error here.
    pub fn end(self, child: Pid) -> Result<()> {
        match let_everywhere(child, &self.0) {
            Err(Errno::ESRCH) => Ok(()),
            set => set.doing(|| "let the container run on all processors".into()),
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = let_everywhere(Pid::from_raw(0), &self.0);
    }
}

/// Lets a process run on `before` again, and on what comes later: the kernel keeps what it is asked for, as a limit, when processors are
/// added or the process's group gets others. So it is asked for all that may ever be, unless our caller had a limit of its own.
fn let_everywhere(process: Pid, before: &CpuSet) -> nix::Result<()> {
    let mut all = CpuSet::new();
    (0..CpuSet::count()).try_for_each(|number| all.set(number))?;
    sched_setaffinity(process, &all)?;
    if sched_getaffinity(process)? != *before {
        sched_setaffinity(process, before)?;
    }
    Ok(())
}

impl Child {
    /// The last word to init: everything is ready for the command.
    ///
    /// # Errors
    /// What write(2) says; a child that has ended is no error here, its last words say why.
    pub fn tell_to_go(&mut self) -> Result<()> {
        match self
            .config
            .write_all(format!("{}\n", protocol::GO).as_bytes())
        {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            told => told.doing(|| "tell init to go on".into()),
        }
    }

    /// Gives the child what it could not inherit: the network namespace to join.
    ///
    /// # Errors
    /// What sendmsg(2) says; a child that has ended is no error here, its last words say why.
    pub fn hand_over(&self, network: &OwnedFd) -> Result<()> {
        self.send(&[network.as_raw_fd()])
            .doing(|| "hand the network namespace to the child".into())
    }

    /// Gives the child its `/etc/hosts`, a mount.
    ///
    /// # Errors
    /// As [`Child::hand_over`].
    pub fn hand_hosts(&self, hosts: &OwnedFd) -> Result<()> {
        self.send(&[hosts.as_raw_fd()])
            .doing(|| "hand hosts to the child".into())
    }

    fn send(&self, fds: &[RawFd]) -> nix::Result<()> {
        match terminal::send_descriptors(&self.channel, fds) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            sent => sent,
        }
    }
}

/// Kills a child and waits for its end.
pub fn kill(child: &OwnedFd) {
    let _ = sys::pidfd_send_signal(child.as_fd(), libc::SIGKILL);
    let _ = sys::wait_for_end(child);
}

/// The network namespace that this process is in.
///
/// # Errors
/// `/proc` is not there.
pub fn own_network_namespace() -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/proc/self/ns/net", flags, Mode::empty())
        .doing(|| "open /proc/self/ns/net".into())
}

/// A new network namespace, which this process is in from here on.
///
/// # Errors
/// None left; not allowed.
pub fn make_network_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .doing(|| "make a network namespace".into())
        .map_err(explain_namespace)
}

/// The network namespace is not among them: the child makes it, which takes as long as half of its mounts, while we look after the
/// host's side. Others are in [`users::LATER`].
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID.union(CloneFlags::CLONE_NEWNS);

/// Says what is lacking where a namespace is refused.
pub fn explain_namespace(error: Error) -> Error {
    explain_lack(error).cure(Errno::EPERM, "run as root (sudo), or inside `unshare -rnm`")
}

/// The same, but for who may not have one.
pub fn explain_lack(error: Error) -> Error {
    error
        .cure(Errno::EINVAL, "the kernel lacks a namespace: enable CONFIG_NET_NS, PID_NS, IPC_NS, UTS_NS and CGROUPS (and USER_NS for --userns)")
        .cure(Errno::ENOSPC, "the limits in /proc/sys/user/max_*_namespaces are reached; raise them")
        .cure(Errno::EAGAIN, "no more processes are allowed; raise pids.max of the cgroup (TasksMax= of a systemd unit), kernel.pid_max or ulimit -u")
}

/// Words as execve(2) wants them.
///
/// # Errors
/// One that holds a NUL.
pub fn c_strings(words: &[impl AsRef<OsStr>]) -> Result<Vec<CString>> {
    let made: std::result::Result<Vec<_>, _> = words
        .iter()
        .map(|word| CString::new(word.as_ref().as_bytes()))
        .collect();
    made.map_err(|_| Errno::EINVAL)
        .doing(|| "pass the command's words on".into())
}
