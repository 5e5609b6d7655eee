//! The container's view of files, made in its own mount namespace. [`enter`] is the sequence.
//!
//! Paths of the container are opened inside its root (`openat2(2)` with `RESOLVE_IN_ROOT`) and mounted on by
//! descriptor: a symbolic link in an image cannot lead a mount out of it.

mod files;
mod kernel;
mod volumes;

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat, stat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{chroot, fchdir, pivot_root};
use serde::{Deserialize, Serialize};

use crate::dev::mount_dev;
use crate::error::{Doing, Error, Result};
use crate::foreign::quote;
use crate::inside::{Permission, open_directory, open_if_there, open_in_root, open_path};
use crate::state;
use crate::sys::{
    self, attach_tree, attach_tree_at, clear_mount_attributes, clone_tree, make_mount,
    set_mount_attributes,
};
use crate::users::Users;

pub use files::{HOSTS, RESOLV, open_place};

use files::bind_file;
use kernel::{mask_proc, mount_sys, set_switches};
use volumes::{copy_volumes, mount_volumes};

/// As `mount_setattr(2)` has it.
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// As `mount_setattr(2)` has it.
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// As `mount_setattr(2)` has it.
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
/// As `mount_setattr(2)` has it.
pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// The kernel's first root is never replaced ("EINVAL: the current root is on the rootfs"), nor one on a mount that others see, as above a
/// chroot (pivot_root(2)).
const ON_INITRAMFS: &str = "the root of this machine is an initramfs (switch_root to another file system first), or host-helper was started in a chroot (start it outside)";
/// mount(2): only what is mounted can be made private.
const IN_CHROOT: &str = "host-helper was started in a chroot; start it outside";

/// What the container is to see. Paths were checked when this was made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rootfs {
    /// The root directory, absolute, or the host's own with a throw-away layer over it.
    pub directory: Option<PathBuf>,
    /// The root is mounted read-only.
    pub is_read_only: bool,
    /// Bind mounts.
    pub volumes: Vec<Volume>,
    /// Empty file systems.
    pub tmpfs: Vec<PathBuf>,
    /// `/etc/resolv.conf` and `/etc/hosts` are ours, not the image's.
    pub binds_resolv: bool,
    /// `/etc/hosts` is its network's: it comes when the network is there.
    pub shares_hosts: bool,
    /// Written under `/proc/sys`, as (path, value).
    pub sysctls: Vec<(String, String)>,
    /// The network namespace is new, and its switches are ours to set.
    pub is_new_network: bool,
    /// Its users are others outside.
    #[serde(skip)]
    pub users: Option<Users>,
}

/// `-v SOURCE:DESTINATION[:ro]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the container, absolute.
    pub destination: PathBuf,
    /// Cannot be written inside.
    pub is_read_only: bool,
}

/// Terminals, shared memory, `/proc`, `/sys`.
pub const OWN: usize = 4;

/// What is given away of a view.
pub struct View {
    /// The container's `/dev`, for a terminal.
    pub dev: OwnedFd,
    /// File systems that are nobody else's. The kernel takes long to take them apart: whoever holds them may do that when nobody waits.
    pub own: [OwnedFd; OWN],
    /// Its resolv.conf, and its hosts where that is its own, to be written: for its supervisor.
    pub files: Vec<OwnedFd>,
}

/// Makes the view and moves into it.
///
/// Before: in a mount namespace of our own, the host's files still visible. After: the root is the container's, and the working directory,
/// with the host's mounts over it until [`leave_host`]. Undone by the end of the namespace.
///
/// # Errors
/// The step that failed and on which path.
pub fn enter(
    rootfs: &Rootfs,
    permission: &Permission,
    join_network: impl FnOnce() -> Result<()>,
    receive_hosts: impl FnOnce() -> Result<OwnedFd>,
) -> Result<View> {
    make_private()?;
    // Copied before anything is mounted: a source may be above the root.
    let volumes = copy_volumes(rootfs)?;
    let (root, scratch) = mount_root(rootfs)?;
    let proc = mount_new(&root, c"proc", "proc", NOSUID | NODEV | NOEXEC)?;
    let map = rootfs.users.as_ref().map(|users| users.map);
    let (dev, [terminals, memory]) = mount_dev(&root, &scratch, map)?;
    mask_proc(&proc, &dev, &scratch, rootfs)?;
    join_network()?;
    let sys = mount_sys(&root, &scratch)?;
    set_switches(&proc, rootfs, permission)?;
    mount_volumes(&root, rootfs, volumes, permission)?;
    let mut files = Vec::new();
    let mut place_of_hosts = None;
    if rootfs.binds_resolv {
        files.push(bind_file(&root, &scratch, RESOLV, map, permission)?);
        if rootfs.shares_hosts {
            place_of_hosts = Some(open_place(&root, HOSTS, permission)?);
        } else {
            files.push(bind_file(&root, &scratch, HOSTS, map, permission)?);
        }
    }
    if rootfs.is_read_only {
        set_mount_attributes(&root, RDONLY, false).doing(|| "make the root read-only".into())?;
    }
    fchdir(&root).doing(|| "enter the root".into())?;
    pivot_root(".", ".")
        .doing(|| "pivot to the container's root".into())
        .map_err(|error| error.cure(Errno::EINVAL, ON_INITRAMFS))?;
    if let Some(place) = place_of_hosts {
        // Now, because it comes late: the network is there by then.
        let hosts = receive_hosts()?;
        attach_tree(&hosts, &place).doing(|| format!("bind a file of our own on /{HOSTS}"))?;
    }
    let own = [terminals, memory, proc, sys];
    Ok(View { dev, own, files })
}

/// Unmounts what [`enter`] has left of the host's mounts. As late as can be: the kernel waits until all other processors have come out of
/// the kernel once, and `host-helper` is in there for long while it makes the network.
///
/// # Errors
/// What umount2(2) says; there is a way up from the container's root.
pub fn leave_host(rootfs: &Rootfs) -> Result<()> {
    umount2(".", MntFlags::MNT_DETACH).doing(|| "unmount the host's root".into())?;
    check_top(rootfs.users.is_some())
}

/// Where we were started in a chroot, its root alone is replaced and unmounted: what is above that stays, and whoever may chroot(2) climbs
/// out to it. So do we, to see: from a working directory outside of our root, `..` leads on.
///
/// Who has not got the capability for that, nor can get it by executing something, climbs nowhere, and a new user namespace, which has all
/// capabilities, is made by nobody in a chroot (user_namespaces(7)). Not so those in one that we make.
fn check_top(is_in_userns: bool) -> Result<()> {
    let doing = || "look above the container's root".to_string();
    let look = |path| stat(path).map(|found| (found.st_dev, found.st_ino));
    let moved = chroot("proc");
    let may_climb = || is_in_userns || !matches!(sys::may_ever_chroot(), Ok(false));
    if moved == Err(Errno::EPERM) && !may_climb() {
        return Ok(());
    }
    let cure = "host-helper has not got the capability sys_chroot; start it where it has";
    moved
        .doing(doing)
        .map_err(|error| error.cure(Errno::EPERM, cure))?;
    let (here, above) = (look("."), look(".."));
    chroot(".").doing(doing)?;
    if here.doing(doing)? == above.doing(doing)? {
        return Ok(());
    }
    Err(Error::new(
        "unmount the host's root: host-helper was started in a chroot, and the container could climb out of that; start it outside",
    ))
}

/// What is mounted in this mount namespace, which is new, appears in no other.
///
/// # Errors
/// What mount(2) says.
pub fn make_private() -> Result<()> {
    let (nothing, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(nothing, "/", nothing, flags, nothing)
        .doing(|| "make mounts private".into())
        .map_err(|error| error.cure(Errno::EINVAL, IN_CHROOT))
}

/// The root, and under it a tmpfs of our own: `/dev` and what is bound into the container come from there, and it goes
/// with the host's root.
///
/// Nobody's device nodes count: an image that brings some, or a container that may make some, would have the host's
/// disks.
fn mount_root(rootfs: &Rootfs) -> Result<(OwnedFd, OwnedFd)> {
    let path = rootfs
        .directory
        .as_deref()
        .unwrap_or(Path::new(state::DIRECTORY));
    let doing = || format!("bind root file system {}", path.display());
    let place = open_path(path).doing(doing)?;
    // Copied before anything is mounted there.
    let copy = rootfs
        .directory
        .as_ref()
        .map(|_| clone_tree(&place, c"", true));
    let copy = copy.transpose().doing(doing)?;
    if let (Some(copy), Some(users)) = (&copy, &rootfs.users) {
        users.show_as_own(copy, path, true)?;
    }
    let scratch = mount_scratch(rootfs, &place)?;
    let root = copy.map_or_else(|| make_copy_of_host(&scratch, rootfs.users.as_ref()), Ok)?;
    set_mount_attributes(&root, NODEV, true).doing(doing)?;
    if rootfs.is_read_only {
        let was_read_only = fstatvfs(&root).doing(doing)?.flags();
        // All that is mounted below it too; the root itself when what is missing in it was made.
        set_mount_attributes(&root, RDONLY, true).doing(doing)?;
        if !was_read_only.contains(FsFlags::ST_RDONLY) {
            clear_mount_attributes(&root, RDONLY).doing(doing)?;
        }
    }
    attach_tree(&root, &scratch).doing(doing)?;
    Ok((root, scratch))
}

fn mount_scratch(rootfs: &Rootfs, place: &OwnedFd) -> Result<OwnedFd> {
    let doing = || "mount a tmpfs for /dev".to_string();
    let (mode, size) = ((c"mode", c"755"), (c"size", c"65536k"));
    // What a container changes in its view of the host's files is kept there too: /dev is limited by itself then.
    let options = if rootfs.directory.is_some() {
        &[mode, size][..]
    } else {
        &[mode]
    };
    let scratch = make_mount(c"tmpfs", options, NOSUID | NOEXEC).doing(doing)?;
    attach_tree(&scratch, place).doing(doing)?;
    for directory in ["dev", "empty"] {
        mkdirat(&scratch, directory, Mode::from_bits_truncate(0o755)).doing(doing)?;
    }
    if rootfs.directory.is_none() {
        let limited = make_mount(c"tmpfs", &[mode, size], NOSUID | NOEXEC).doing(doing)?;
        attach_tree_at(limited, &scratch, c"dev").doing(doing)?;
    }
    Ok(scratch)
}

fn make_copy_of_host(scratch: &OwnedFd, users: Option<&Users>) -> Result<OwnedFd> {
    let doing = || "mount an overlay over /".to_string();
    for directory in ["upper", "work", "lower"] {
        mkdirat(scratch, directory, Mode::from_bits_truncate(0o755)).doing(doing)?;
    }
    let lower = match users {
        None => c"/".to_owned(),
        Some(users) => {
            let host = clone_tree(AT_FDCWD, c"/", false).doing(doing)?;
            users.show_as_own(&host, Path::new("/"), false)?;
            let place = open_if_there(scratch, c"lower").doing(doing)?;
            attach_tree(&host, place.ok_or(Errno::ENOENT).doing(doing)?).doing(doing)?;
            let upper = open_directory(scratch, "upper").doing(doing)?;
            users.map.own(upper).doing(doing)?;
            CString::new(format!("{}/lower", state::DIRECTORY))
                .map_err(|_| Errno::EINVAL)
                .doing(doing)?
        }
    };
    let upper = CString::new(format!("{}/upper", state::DIRECTORY))
        .map_err(|_| Errno::EINVAL)
        .doing(doing)?;
    let work = CString::new(format!("{}/work", state::DIRECTORY))
        .map_err(|_| Errno::EINVAL)
        .doing(doing)?;
    let options: [(&CStr, &CStr); 3] = [
        (c"lowerdir", &lower),
        (c"upperdir", &upper),
        (c"workdir", &work),
    ];
    make_mount(c"overlay", &options, 0).doing(doing).map_err(|error| {
        let cure = "the kernel refuses an overlay of / here (no CONFIG_OVERLAY_FS, or a user namespace): give --rootfs DIR";
        [Errno::EPERM, Errno::EINVAL, Errno::ENODEV].into_iter().fold(error, |error, errno| error.cure(errno, cure))
    })
}

/// A new file system on `path` under `root`.
fn mount_new(root: &OwnedFd, kind: &CStr, path: &str, attributes: u64) -> Result<OwnedFd> {
    let doing = || format!("mount {} on /{path}", kind.to_string_lossy());
    let place =
        open_in_root(root, Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY).doing(doing)?;
    let made = make_mount(kind, &[], attributes).doing(doing)?;
    attach_tree(&made, &place).doing(doing)?;
    Ok(made)
}

/// Refuses a root file system that cannot be one, before anything is made.
///
/// # Errors
/// Not there, not a directory, or without the directories that are mounted on.
pub fn check(directory: &Path, needs_etc: bool) -> Result<PathBuf> {
    let shown = directory.display();
    let whole =
        std::path::absolute(directory).doing(|| format!("open root file system {shown}"))?;
    let root = openat(
        AT_FDCWD,
        &whole,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .doing(|| format!("open root file system {shown}"))?;
    let mut missing = Vec::new();
    for name in ["proc", "sys", "dev"] {
        missing.extend(Missing::look(&root, &whole, name)?);
    }
    if !missing.is_empty() {
        let list: Vec<_> = missing.iter().map(|it| format!("/{}", it.name)).collect();
        return Err(Error::new(format!(
            "use root file system {shown}: it has no directory {} to mount on; {}",
            list.join(", "),
            Missing::cure(&missing, directory)
        )));
    }
    let etc = needs_etc.then(|| Missing::look(&root, &whole, "etc"));
    if let Some(missing) = etc.transpose()?.flatten() {
        return Err(Error::new(format!(
            "use root file system {shown}: it has no directory /etc for resolv.conf; {}, or use --resolv=off",
            Missing::cure(&[missing], directory)
        )));
    }
    Ok(whole)
}

/// A directory that a root file system lacks.
struct Missing {
    name: &'static str,
    /// Something else has its name.
    is_covered: bool,
}

impl Missing {
    fn look(root: &OwnedFd, path: &Path, name: &'static str) -> Result<Option<Missing>> {
        let doing = || format!("open {}", path.join(name).display());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match open_in_root(root, Path::new(name), flags) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            opened => return opened.map(|_| None).doing(doing),
        }
        let is_covered = path.join(name).symlink_metadata().is_ok();
        Ok(Some(Missing { name, is_covered }))
    }

    /// What to do about them: commands where one will do.
    fn cure(all: &[Missing], root: &Path) -> String {
        let paths = |is_covered| {
            let these = all.iter().filter(|it| it.is_covered == is_covered);
            let paths = these.map(|it| quote(&root.join(it.name).to_string_lossy()));
            paths.collect::<Vec<_>>().join(" ")
        };
        let (absent, covered) = (paths(false), paths(true));
        let make = format!("make it (mkdir {absent})");
        let replace = format!(
            "replace {covered}, which is a file, or a link that leads to no directory inside"
        );
        match (absent.is_empty(), covered.is_empty()) {
            (_, true) => make,
            (true, _) => replace,
            _ => format!("{make}, and {replace}"),
        }
    }
}
