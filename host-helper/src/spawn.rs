//! The container's first process: cloned into its namespaces, moved into its files, and then init.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use hawser::protocol;
use libc::sock_filter;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::sched::{
    CloneFlags, CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity, setns, unshare,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{
    AccessFlags, Pid, access, dup2_stderr, dup2_stdin, dup2_stdout, execveat, pipe2, setsid,
};

use crate::error::{Doing, Error, OURS, Result};
use crate::inside::Permission;
use crate::rootfs::{self, Rootfs};
use crate::sys::{self, Clone};
use crate::terminal;
use crate::users;

/// init for containers, as built with this program.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// Where the command's standard descriptors lead.
#[derive(Debug)]
pub enum Stdio {
    /// Where ours do.
    Inherit,
    /// To a terminal of its own.
    Terminal,
    /// Nothing comes in, and what comes out goes to this file.
    Log(File),
}

/// All that the child needs to know.
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
    pub init: Option<OwnedFd>,
    /// The command and its arguments.
    pub command: Vec<CString>,
    /// `KEY=VALUE`.
    pub environment: Vec<CString>,
    /// The system calls that init and the command may make; `None`: all.
    pub filter: Option<Vec<sock_filter>>,
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

/// init: from `path`, or from the installed place beside this program; `None`: the embedded one is to be used.
/// The container cannot write to it, not even by `/proc/1/exe`.
///
/// # Errors
/// A file that cannot be opened.
pub fn open_init(path: Option<&Path>) -> Result<Option<OwnedFd>> {
    if let Some(path) = path {
        let doing = || format!("open init {}", path.display());
        access(path, AccessFlags::X_OK).doing(doing)?;
        let found = read_only(path).doing(doing)?;
        let mode = SFlag::from_bits_truncate(fstat(&found).doing(doing)?.st_mode);
        return match mode & SFlag::S_IFMT {
            SFlag::S_IFREG => Ok(Some(found)),
            _ => Err(Error::new(format!(
                "{}: it is no file that can be executed",
                doing()
            ))),
        };
    }
    let installed = installed_init()
        .map(|path| read_only(&path).doing(|| format!("open init {}", path.display())));
    installed.transpose()
}

/// `../libexec/hawser/init`, when this program is in a `bin` (or `sbin`) and nobody but root, or we, can have put it
/// there.
fn installed_init() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let directory = program.parent()?;
    directory
        .file_name()?
        .to_str()?
        .ends_with("bin")
        .then_some(())?;
    let path = directory.parent()?.join("libexec/hawser/init");
    let found = std::fs::symlink_metadata(&path).ok()?;
    let is_trusted = found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw();
    (found.is_file() && is_trusted && found.mode() & 0o022 == 0).then_some(path)
}

/// A file through a mount of its own that nobody can write through.
fn read_only(path: &Path) -> nix::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let file = sys::clone_tree(AT_FDCWD, &path, false)?;
    sys::set_mount_attributes(&file, libc::MOUNT_ATTR_RDONLY, false)?;
    Ok(file)
}

/// The init inside this program, in a sealed memory file.
///
/// # Errors
/// No memory or descriptors left.
pub fn embedded_init() -> Result<OwnedFd> {
    let doing = || "put init into memory".to_string();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"init", flags).doing(doing)?);
    file.write_all(EMBEDDED).doing(doing)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).doing(doing)?;
    Ok(file.into())
}

/// Clones the child; it goes on by itself until init waits for its config.
///
/// Undone by killing it.
///
/// # Errors
/// No processes, namespaces or descriptors left; not allowed.
pub fn spawn(spawn: &Spawn) -> Result<Child> {
    let namespaces = match spawn.rootfs.users {
        None => NAMESPACES.union(users::LATER),
        Some(_) => NAMESPACES,
    };
    clone(namespaces, |ends| become_init(spawn, ends))
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

/// The processors that the child may run on in the end, when it was kept off ours for the beginning.
pub struct Elsewhere(CpuSet);

/// Lets the child begin on another processor. A scheduler that packs processes together would let it wait behind this
/// one, which goes on working; the two are meant to work side by side.
///
/// Undone by [`Elsewhere::end`].
pub fn begin_elsewhere(child: Pid) -> Option<Elsewhere> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut others = allowed;
    others.unset(sched_getcpu().ok()?).ok()?;
    // With a single processor this is refused, and nothing is lost.
    sched_setaffinity(child, &others).ok()?;
    Some(Elsewhere(allowed))
}

impl Elsewhere {
    /// The child may run anywhere again.
    ///
    /// # Errors
    /// What sched_setaffinity(2) says; a child that has ended is no error here.
    pub fn end(self, child: Pid) -> Result<()> {
        match sched_setaffinity(child, &self.0) {
            Err(Errno::ESRCH) => Ok(()),
            set => set.doing(|| "let the container run on all processors".into()),
        }
    }
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

/// The network namespace that this process is in.
///
/// # Errors
/// `/proc` is not there.
pub fn own_network_namespace() -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/proc/self/ns/net", flags, Mode::empty())
        .doing(|| "open /proc/self/ns/net".into())
}

/// A new network namespace. Making it takes as long as half of the child's mounts, and so it is made here, beside
/// them, and not by clone3; this process is in it for a moment only.
///
/// # Errors
/// None left; not allowed.
pub fn make_network_namespace() -> Result<OwnedFd> {
    let host = own_network_namespace()?;
    unshare(CloneFlags::CLONE_NEWNET)
        .doing(|| "make a network namespace".into())
        .map_err(explain_namespace)?;
    let made = own_network_namespace();
    setns(host, CloneFlags::CLONE_NEWNET)
        .doing(|| "go back to the host's network namespace".into())?;
    made
}

/// First word of what the child says on the status pipe when it fails before it is init; the sentence follows.
pub const FAILED: &str = "failed";

/// The network namespace is not among them: see [`make_network_namespace`]; others are in [`users::LATER`].
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID.union(CloneFlags::CLONE_NEWNS);

/// Says what is lacking where a namespace is refused.
pub fn explain_namespace(error: Error) -> Error {
    error
        .cure(Errno::EPERM, "run as root (sudo), or inside `unshare -rnm`")
        .cure(Errno::EINVAL, "the kernel lacks a namespace: enable CONFIG_NET_NS, PID_NS, IPC_NS, UTS_NS and CGROUPS (and USER_NS for --userns)")
        .cure(Errno::ENOSPC, "the limits in /proc/sys/user/max_*_namespaces are reached; raise them")
        .cure(Errno::EAGAIN, "no more processes are allowed; raise RLIMIT_NPROC or kernel.pid_max")
}

/// In the child. Only returns when something fails.
fn become_init(spawn: &Spawn, ends: &ChildEnds) -> Result<Infallible> {
    // init sets it again: a change of user clears it.
    set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal".into())?;
    setsid().doing(|| "start a session".into())?;
    umask(Mode::empty());
    let join_network = || {
        let mut arrived = terminal::receive_descriptors(&ends.channel).into_iter();
        // Without it nothing may be changed any more: this is still the host's network.
        let network = arrived.next().ok_or_else(|| {
            Error::new("wait for the network namespace: host-helper has given up")
        })?;
        setns(network, CloneFlags::CLONE_NEWNET).doing(|| "join the network namespace".into())
    };
    let receive_hosts = || {
        let mut arrived = terminal::receive_descriptors(&ends.channel).into_iter();
        let hosts = arrived.next();
        hosts.ok_or_else(|| Error::new("wait for the network's hosts: host-helper has given up"))
    };
    let view = rootfs::enter(
        &spawn.rootfs,
        &Permission(ends.config.as_fd()),
        join_network,
        receive_hosts,
    )?;
    if !view.files.is_empty() {
        // Before anything of the container's runs.
        let fds: Vec<RawFd> = view.files.iter().map(AsRawFd::as_raw_fd).collect();
        terminal::send_descriptors(&ends.channel, &fds)
            .doing(|| "hand resolv.conf to the supervisor".into())?;
    }
    umask(Mode::from_bits_truncate(0o022));
    let Some(users) = &spawn.rootfs.users else {
        return exec_init(spawn, &view.dev, ends);
    };
    match &spawn.stdio {
        // The command may open it again: /dev/stdout.
        Stdio::Log(log) => users.map.own(log).doing(|| "give the log away".into())?,
        Stdio::Inherit => users.map.own_pipes(),
        Stdio::Terminal => {}
    }
    users.join()?;
    // The same as it is in the new mount namespace.
    exec_init(spawn, &open_dev()?, ends)
}

/// The container's `/dev`, from inside.
///
/// # Errors
/// It is not there.
pub fn open_dev() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/dev", flags, Mode::empty()).doing(|| "open /dev".into())
}

/// Connects the standard descriptors, lets go of all others, and becomes init. `dev` is the container's `/dev`.
///
/// # Errors
/// The step that failed.
pub fn exec_init(spawn: &Spawn, dev: &OwnedFd, ends: &ChildEnds) -> Result<Infallible> {
    match &spawn.stdio {
        Stdio::Terminal => {
            let number = terminal::take(dev, spawn.user, &ends.channel)?;
            if spawn.is_first {
                terminal::bind_console(dev, number).doing(|| "bind /dev/console".into())?;
            }
        }
        Stdio::Log(log) => {
            let doing = || "redirect the command's output".to_string();
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
            let nothing = openat(dev, "null", flags, Mode::empty()).doing(doing)?;
            dup2_stdin(nothing).doing(doing)?;
            dup2_stdout(log).doing(doing)?;
            dup2_stderr(log).doing(doing)?;
        }
        Stdio::Inherit => {}
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
    if let Some(filter) = &spawn.filter {
        // Here, where it takes no no-new-privileges; what follows is in its list.
        sys::filter_system_calls(filter)
            .doing(|| "filter system calls".into())
            .map_err(|error| {
                let cure =
                    "the kernel lacks CONFIG_SECCOMP_FILTER: --seccomp=unconfined does without";
                error.cure(Errno::EINVAL, cure).cure(Errno::ENOSYS, cure)
            })?;
    }
    execveat(
        init,
        c"",
        &arguments,
        &spawn.environment,
        AtFlags::AT_EMPTY_PATH,
    )
    .doing(|| "execute init (see --init-path)".into())
}

/// What was said on the status pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The network is there.
    Up,
    /// The command is next.
    Ready,
    /// It failed, with this exit code, and this sentence; init has put it on standard error too.
    InitFailed(u8, String),
    /// The child failed before it was init.
    Failed(String),
    /// The other end is closed.
    Nothing,
}

/// Reads the status pipe line by line.
#[derive(Default)]
pub struct StatusReader(Vec<u8>);

impl StatusReader {
    /// Reads the next line; waits for it when the pipe blocks.
    ///
    /// # Errors
    /// What read(2) says; a line that is none of ours.
    pub fn read(&mut self, status: &mut File) -> Result<Said> {
        loop {
            if let Some(said) = self.read_now(status)? {
                return Ok(said);
            }
        }
    }

    /// The same for a pipe that does not block; `None`: there is no whole line yet.
    ///
    /// # Errors
    /// As [`StatusReader::read`]; a line that does not end.
    pub fn read_now(&mut self, status: &mut File) -> Result<Option<Said>> {
        const LONGEST: usize = 16 * 1024; // as the message that it is about
        loop {
            if let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.0.drain(..=end).collect();
                return parse_status(&String::from_utf8_lossy(&line[..end])).map(Some);
            }
            if self.0.len() > LONGEST {
                return Err(Error::new("understand init: its line does not end"));
            }
            let mut chunk = [0; 512];
            match status.read(&mut chunk) {
                Ok(0) => return Ok(Some(Said::Nothing)),
                Ok(len) => self.0.extend(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).doing(|| "read what init says".into()),
            }
        }
    }
}

fn parse_status(line: &str) -> Result<Said> {
    use hawser::protocol::{ERROR, READY, UP};
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        UP => Ok(Said::Up),
        READY => Ok(Said::Ready),
        FAILED => Ok(Said::Failed(rest.to_string())),
        ERROR => {
            let (code, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Ok(Said::InitFailed(
                code.parse().unwrap_or(OURS),
                text.to_string(),
            ))
        }
        _ => Err(Error::new(format!(
            "understand init: it says {line:?}; is --init-path another version's?"
        ))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_says() {
        assert_eq!(parse_status("up").unwrap(), Said::Up);
        assert_eq!(parse_status("ready").unwrap(), Said::Ready);
        assert_eq!(
            parse_status("error 127 exec x: not there").unwrap(),
            Said::InitFailed(127, "exec x: not there".into())
        );
        assert_eq!(
            parse_status("failed mount").unwrap(),
            Said::Failed("mount".into())
        );
        assert!(parse_status("hello").is_err());
    }
}
