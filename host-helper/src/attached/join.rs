//! What is done inside a container that another tool made, by a process of its own: init, with the same message as ever,
//! and before it, in the container's mount namespace, files of ours over its resolv.conf and hosts. (Where there are no files
//! to write no process is needed: `links.rs`.)
//!
//! The namespaces may be hostile. The files are written by descriptor, before they are there: init opens nothing by name. What enters them is as in `exec.rs`: not dumpable, init in a sealed memory file, no
//! descriptor and no working directory of the host. It stays in the host's pid namespace, where nothing of the container
//! sees it, and executes nothing that is inside.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{UnlinkatFlags, chroot, fchdir, setsid, unlinkat};
use serde::{Deserialize, Serialize};

use super::links;
use super::target::{Files, Target};
use crate::attach::{self, Attachment};
use crate::config;
use crate::error::{Doing, Error, Result};
use crate::inside::{Permission, is_directory, mount_of, open_in_root, open_path, read_below};
use crate::netlink::Netlink;
use crate::request::Request;
use crate::rootfs::{self, HOSTS, NODEV, NOEXEC, NOSUID, RESOLV, Rootfs, make_private};
use crate::signals::Signals;
use crate::spawn::{self, Child, ChildEnds, Said, Spawn, StatusReader, Stdio};
use crate::state;
use crate::sys::{self, Clone, End, attach_tree, clone_tree, make_mount};
use crate::terminal;
use crate::written::Written;

/// What helps where nothing is made.
const IN_HOSTS_ROOT: &str = "the container's root is the host's, in which nothing is made: make an empty file there, or use --resolv=off";
const AMONG_OTHERS: &str = "the container's users are others than ours, and nothing is made among them: make an empty file there, or use --resolv=off";

/// A file that was mounted over one of the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Below the container's root.
    pub path: String,
    /// What tells it from others.
    pub device: u64,
    /// What tells it from others.
    pub inode: u64,
    /// There was nothing before: what it lies over was made for it.
    pub was_missing: bool,
}

/// Sets the network up inside, and the files. `hosts` is the file of the network, where the container shares it; `keep` is
/// told what will be bound, before it is. Gives its resolv.conf, and its hosts where that is its own, to be written.
///
/// Before: the link is there. Undone with the link, and by [`unbind`].
///
/// # Errors
/// What init, or the child before it, says; a signal meanwhile.
pub fn configure(
    request: &Request,
    target: &Target,
    attachment: &Attachment,
    names: &str,
    hosts: Option<&OwnedFd>,
    signals: &Signals,
    keep: impl FnOnce(Vec<Bound>) -> Result<()>,
) -> Result<Vec<OwnedFd>> {
    let Some(files) = target.files().filter(|_| request.writes_resolv) else {
        return links::set_up(request, target, attachment).map(|()| Vec::new());
    };
    let spawn = Spawn {
        rootfs: Rootfs::default(),
        stdio: Stdio::Inherit,
        user: 0,
        is_first: false,
        supervised: None,
        preserved: 0,
        init: Some(spawn::embedded_init()?),
        // There is no program of this name: init says that it is ready, and is at its end.
        command: vec![c"".to_owned()],
        environment: Vec::new(),
        is_verbose: false,
        filtered_for: None,
    };
    let was_missing = |path: &str| {
        let found = open_in_root(&files.root, Path::new(path), OFlag::O_PATH);
        matches!(found, Err(Errno::ENOENT))
    };
    let missing = [RESOLV, HOSTS].map(was_missing);
    let nothing = open_nothing()?;
    // Before anything of ours is in there.
    sys::set_not_dumpable().doing(|| "hide from the container".into())?;
    let child = spawn::clone(CloneFlags::empty(), |ends| {
        enter(request, target, files, hosts, ends)?;
        redirect(&nothing)?;
        spawn::exec_init(&spawn, None, ends, || Ok(()))
    })?;
    let mut child = Ended(child);
    let mut status = StatusReader::default();
    // It binds nothing before the message comes; so nothing is bound that could not be taken back.
    let made = attach::receive_made(&mut child.0, &mut status, signals, false)?;
    let bound = bound(&made, hosts, missing)?;
    keep(bound.clone())?;
    write(&made, &config::files(request, attachment, names)?)?;
    let message = config::write_attached(request, attachment, config::Of::Ours);
    let done = talk(&mut child.0, &mut status, &message, signals);
    drop(child);
    if done.is_err() {
        // The first error is the one that matters.
        let _ = unbind(files, &bound);
    }
    done.map(|()| made)
}

/// By descriptor, and while nobody inside sees them: by name init would write to whatever the container puts there.
fn write(made: &[OwnedFd], texts: &[String; 2]) -> Result<()> {
    let named = [RESOLV, HOSTS].into_iter().zip(texts);
    for (file, (path, text)) in made.iter().zip(named) {
        let doing = || format!("write the container's /{path}");
        let file = File::from(file.try_clone().doing(doing)?);
        let mut file = Written::new(file, String::new());
        file.write(text.clone()).doing(doing)?;
    }
    Ok(())
}

/// A child that does not outlive its work.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Closed: who waits for more of it has had all that there is, and it is not the kill alone that ends it.
        if let Ok(nothing) = File::open("/dev/null") {
            self.0.config = nothing;
        }
        spawn::kill(&self.0.pidfd);
    }
}

/// Until init is ready: all is done then.
fn talk(
    child: &mut Child,
    status: &mut StatusReader,
    message: &str,
    signals: &Signals,
) -> Result<()> {
    config::send(&child.config, message)?;
    signals.interrupt_unless_readable(&child.status)?;
    attach::expect(&Said::Up, status, child, false)?;
    child.tell_to_go()?;
    attach::expect(&Said::Ready, status, child, false)
}

fn bound(files: &[OwnedFd], hosts: Option<&OwnedFd>, missing: [bool; 2]) -> Result<Vec<Bound>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let names = [RESOLV, HOSTS].into_iter().zip(missing);
    let all = files.iter().chain(hosts).zip(names);
    all.map(|(file, (path, was_missing))| {
        let found = fstat(file).doing(|| format!("look at /{path}"))?;
        Ok(Bound {
            path: path.to_string(),
            device: found.st_dev,
            inode: found.st_ino,
            was_missing,
        })
    })
    .collect()
}

fn open_nothing() -> Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/dev/null", flags, Mode::empty()).doing(|| "open /dev/null".into())
}

fn redirect(nothing: &OwnedFd) -> Result<()> {
    let doing = || "redirect init's output".to_string();
    terminal::become_standard(nothing, nothing).doing(doing)
}

/// In the child: into the container's network, and to its files.
fn enter(
    request: &Request,
    target: &Target,
    files: &Files,
    hosts: Option<&OwnedFd>,
    ends: &ChildEnds,
) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal".into())?;
    setsid().doing(|| "start a session".into())?;
    let _ = sys::join_session_keyring();
    umask(Mode::empty());
    let made = make_files(hosts)?;
    // Named by the host's /proc, whatever the container has there.
    let ourselves = open_path(Path::new("/proc/self")).doing(|| "open /proc/self".into())?;
    setns(&target.netns, CloneFlags::CLONE_NEWNET).doing(|| "join the network namespace".into())?;
    if request.no_ipv6 {
        let mut inside = Netlink::route().doing(|| "open a netlink socket".into())?;
        links::no_link_local(&mut inside, request);
    }
    let hosts_root = open_path(Path::new("/")).doing(|| "open /".into())?;
    let hosts_root = identity(&hosts_root).ok();
    let root = enter_files(files)?;
    let fds: Vec<RawFd> = made.files.iter().map(AsRawFd::as_raw_fd).collect();
    terminal::send_descriptors(&ends.channel, &fds)
        .doing(|| "hand resolv.conf to the host".into())?;
    let permission = Permission(ends.config.as_fd());
    permission.wait().doing(|| "wait for the config".into())?;
    let lacking = if hosts_root == Some(identity(&root)?) {
        Some(IN_HOSTS_ROOT)
    } else {
        (!files.may_be_made).then_some(AMONG_OTHERS)
    };
    for (path, tree) in made.trees {
        uncover_deleted(&ourselves, &root, path)?;
        let place = match &lacking {
            Some(cure) => open_there(&root, path, cure)?,
            None => {
                check_before_making(&ourselves, &root, path)?;
                rootfs::open_place(&root, path, &permission)?
            }
        };
        // The very one: its name may lead elsewhere by now.
        check_private(&ourselves, &place, path)?;
        attach_tree(tree, &place).doing(|| format!("bind a file of our own on /{path}"))?;
    }
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// The place of a file that is not to be made.
fn open_there(root: &OwnedFd, path: &str, cure: &str) -> Result<OwnedFd> {
    let doing = || format!("bind a file of our own on /{path}");
    let open = || match open_in_root(root, Path::new(path), OFlag::O_PATH)? {
        place if is_directory(&place)? => Err(Errno::EISDIR),
        place => Ok(place),
    };
    let place = open().doing(doing);
    place.map_err(|error| error.cure(Errno::ENOENT, cure).cure(Errno::EISDIR, cure))
}

/// What tells a file from others.
fn identity(file: &OwnedFd) -> Result<(u64, u64)> {
    let found = fstat(file).doing(|| "look at a file".into())?;
    Ok((found.st_dev, found.st_ino))
}

/// Files of ours, and mounts of them, that are attached nowhere yet.
struct Made {
    files: Vec<OwnedFd>,
    trees: Vec<(&'static str, OwnedFd)>,
}

/// In a mount namespace that nobody else sees: on a file system of their own, so that what a container writes there
/// takes nothing of the host's.
fn make_files(hosts: Option<&OwnedFd>) -> Result<Made> {
    let doing = || "make files for the container".to_string();
    unshare(CloneFlags::CLONE_NEWNS).doing(doing)?;
    make_private()?;
    let options = [(c"mode", c"755"), (c"size", c"1m")];
    let scratch = make_mount(c"tmpfs", &options, NOSUID | NODEV | NOEXEC).doing(doing)?;
    let place = open_path(Path::new(state::DIRECTORY)).doing(doing)?;
    attach_tree(&scratch, &place).doing(doing)?;
    let mut made = Made {
        files: Vec::new(),
        trees: Vec::new(),
    };
    let own_hosts = hosts.is_none().then_some(HOSTS);
    for path in [Some(RESOLV), own_hosts].into_iter().flatten() {
        let name = CString::new(path.replace('/', "-")).unwrap_or_default();
        let flags = OFlag::O_CREAT | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        made.files
            .push(openat(&scratch, &*name, flags, mode).doing(doing)?);
        made.trees
            .push((path, clone_tree(&scratch, &name, false).doing(doing)?));
    }
    if let Some(hosts) = hosts {
        let hosts = hosts.try_clone().doing(doing)?;
        made.trees.push((HOSTS, hosts));
    }
    Ok(made)
}

/// Joins the mounts of the container, with its root as ours.
fn enter_files(files: &Files) -> Result<OwnedFd> {
    let doing = || "join the container's files".to_string();
    setns(&files.mounts, CloneFlags::CLONE_NEWNS).doing(doing)?;
    fchdir(&files.root).doing(doing)?;
    chroot(".").doing(doing)?;
    open_path(Path::new("/")).doing(doing)
}

/// A file of ours that is deleted, since the host has lost what is in `/run/hawser`, lies over the container's, and nothing can be mounted
/// over it: it goes.
fn uncover_deleted(ourselves: &OwnedFd, root: &OwnedFd, path: &str) -> Result<()> {
    let doing = || format!("uncover /{path}, over which a deleted file of ours lies");
    let Ok(place) = open_in_root(root, Path::new(path), OFlag::O_PATH) else {
        return Ok(());
    };
    let is_deleted = fstat(&place).is_ok_and(|found| found.st_nlink == 0);
    if !is_deleted {
        return Ok(());
    }
    let mount = mount_line(ourselves, &place).doing(doing)?;
    let file = mount.get(3).and_then(|root| root.strip_suffix("//deleted"));
    let directory = file.and_then(|file| Path::new(file).parent()?.file_name());
    if directory.is_some() && directory == Path::new(state::DIRECTORY).file_name() {
        fchdir(ourselves).doing(doing)?;
        let name = format!("fd/{}", place.as_raw_fd());
        umount2(&*name, MntFlags::MNT_DETACH).doing(doing)?;
        fchdir(root).doing(doing)?;
    }
    Ok(())
}

/// What proc(5) says of the mount that a file is on: number, its parent's, device, root, place, options, others up to a dash.
fn mount_line(ourselves: &OwnedFd, place: &OwnedFd) -> std::io::Result<Vec<String>> {
    let number = mount_of(ourselves, place)?;
    let mounts = read_below(ourselves, "mountinfo")?;
    let line = mounts
        .lines()
        .map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .find(|words| words[0] == number);
    Ok(line.unwrap_or_default())
}

/// Before the place of a file is made: where it is to be may be shared, too.
fn check_before_making(ourselves: &OwnedFd, root: &OwnedFd, path: &str) -> Result<()> {
    match open_in_root(root, Path::new(path), OFlag::O_PATH) {
        Err(Errno::ENOENT) => {
            let etc = open_in_root(root, Path::new("etc"), OFlag::O_PATH)
                .doing(|| "use the container's /etc".into())
                .map_err(|error| {
                    let cure = "make that directory in its root file system, or use --resolv=off";
                    error.cure(Errno::ENOENT, cure)
                })?;
            check_private(ourselves, &etc, path)
        }
        _ => Ok(()),
    }
}

/// What is mounted on a mount that others share appears there too, on the host, say.
fn check_private(ourselves: &OwnedFd, place: &OwnedFd, path: &str) -> Result<()> {
    let doing = || format!("look at the mounts of /{path}");
    let line = mount_line(ourselves, place).doing(doing)?;
    let mut optional = line.iter().skip(6);
    if optional
        .by_ref()
        .take_while(|word| *word != "-")
        .any(|word| word.starts_with("shared:"))
    {
        return Err(Error::new(format!(
            "bind a file of our own on /{path}: the mount there is shared with others, the host perhaps; make it private inside (mount --make-rprivate /), or use --resolv=off"
        )));
    }
    Ok(())
}

/// Takes the files away that lie over the container's; whatever else lies there stays. Gone already is success.
///
/// # Errors
/// What the kernel refused.
pub fn unbind(files: &Files, bound: &[Bound]) -> Result<()> {
    if bound.is_empty() {
        return Ok(());
    }
    sys::set_not_dumpable().doing(take_back)?;
    // Killed, for want of memory say: once the link is gone nobody looks for them any more.
    if try_unbind(files, bound)? || try_unbind(files, bound)? {
        return Ok(());
    }
    Err(Error::new(format!("{}: killed meanwhile", take_back())))
}

fn take_back() -> String {
    "take resolv.conf back".into()
}

/// By a child; false when it was killed.
fn try_unbind(files: &Files, bound: &[Bound]) -> Result<bool> {
    match sys::clone_process(0).doing(take_back)? {
        Clone::Parent(_, pidfd) => match sys::wait_for_end(&pidfd) {
            Ok(End::Exited(0)) => Ok(true),
            Ok(End::Exited(errno)) => Err(Errno::from_raw(errno.into())).doing(take_back),
            _ => Ok(false),
        },
        Clone::Child => {
            let Err(error) = unbind_inside(files, bound);
            std::process::exit(error.errno.map_or(libc::EIO, |errno| errno as i32));
        }
    }
}

/// What was made to be mounted on goes, as long as nothing has been written to it and no link leads there.
fn remove_if_empty(root: &OwnedFd, path: &Path) {
    let remove = || -> nix::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default();
        let parent = open_in_root(root, parent, OFlag::O_PATH)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = fstat(openat(&parent, name, flags, Mode::empty())?)?;
        let is_file = found.st_mode & libc::S_IFMT == libc::S_IFREG;
        if is_file && found.st_size == 0 {
            unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    };
    // One that stays is empty.
    let _ = remove();
}

/// Whether any of these files is what is seen there now.
pub fn are_seen(files: &Files, bound: &[Bound]) -> bool {
    bound.iter().any(|one| is_seen(files, one))
}

/// Whether all of them are: another attachment of the same network has the file of its names, too.
pub fn are_all_seen(files: &Files, bound: &[Bound]) -> bool {
    bound.iter().all(|one| is_seen(files, one))
}

fn is_seen(files: &Files, one: &Bound) -> bool {
    let place = open_in_root(&files.root, Path::new(&one.path), OFlag::O_PATH);
    let found = place.ok().and_then(|place| identity(&place).ok());
    found == Some((one.device, one.inode))
}

/// In the child. By descriptor, and the host's names of those: no link inside leads an unmount elsewhere.
fn unbind_inside(files: &Files, bound: &[Bound]) -> Result<Infallible> {
    let descriptors = open_path(Path::new("/proc/self/fd")).doing(take_back)?;
    let root = enter_files(files)?;
    fchdir(&descriptors).doing(take_back)?;
    for one in bound {
        let Ok(place) = open_in_root(&root, Path::new(&one.path), OFlag::O_PATH) else {
            continue;
        };
        if identity(&place)? == (one.device, one.inode) {
            let name = place.as_raw_fd().to_string();
            umount2(&*name, MntFlags::MNT_DETACH).doing(take_back)?;
        }
        if one.was_missing && files.may_be_made {
            remove_if_empty(&root, Path::new(&one.path));
        }
    }
    std::process::exit(0)
}
