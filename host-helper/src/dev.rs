//! The container's `/dev`.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::symlinkat;

use crate::error::{Doing, Result};
use crate::inside::{open_directory, open_in_root, open_path};
use crate::rootfs::{NODEV, NOEXEC, NOSUID, RDONLY};
use crate::sys::{attach_tree, attach_tree_at, clone_tree, make_mount, set_mount_attributes};
use crate::users::UserMap;

/// Mounts it: the usual nodes, terminals and shared memory. `scratch` has a directory `dev`. `users`: who those of the container are. Gives
/// `/dev`, and the file systems for terminals and shared memory.
///
/// # Errors
/// The step that failed.
pub fn mount_dev(
    root: &OwnedFd,
    scratch: &OwnedFd,
    users: Option<UserMap>,
) -> Result<(OwnedFd, [OwnedFd; 2])> {
    let doing = || "make /dev".to_string();
    let place =
        open_in_root(root, Path::new("dev"), OFlag::O_PATH | OFlag::O_DIRECTORY).doing(doing)?;
    let dev = clone_tree(scratch, c"dev", false).doing(doing)?;
    set_mount_attributes(&dev, NODEV, false).doing(doing)?;
    attach_tree(&dev, &place).doing(doing)?;
    let host = open_path(Path::new("/dev")).doing(|| "open /dev".into())?;
    for name in [c"null", c"zero", c"full", c"random", c"urandom", c"tty"] {
        bind_device(&dev, &host, name).doing(|| format!("bind /dev/{}", name.to_string_lossy()))?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ] {
        symlinkat(target, &dev, name).doing(|| format!("make /dev/{name}"))?;
    }
    for name in ["pts", "shm"] {
        mkdirat(&dev, name, Mode::from_bits_truncate(0o755))
            .doing(|| format!("make /dev/{name}"))?;
    }
    // Group 5 is tty, as everywhere; a user namespace may have none.
    let group = CString::new((5 + users.map_or(0, |map| map.gid)).to_string()).unwrap_or_default();
    let with_group: [(&CStr, &CStr); 3] =
        [(c"ptmxmode", c"666"), (c"mode", c"620"), (c"gid", &group)];
    let terminals = match make_mount(c"devpts", &with_group, NOSUID | NOEXEC) {
        Err(Errno::EINVAL) => make_mount(c"devpts", &with_group[..2], NOSUID | NOEXEC),
        made => made,
    };
    // In a directory of our own there is no link that a path could follow.
    let attach = |made, name| attach_tree_at(&made, &dev, name).map(|()| made);
    let terminals = terminals
        .and_then(|made| attach(made, c"pts"))
        .doing(|| "mount devpts on /dev/pts".into())?;
    let modes = [(c"mode", c"1777"), (c"size", c"65536k")];
    let memory = make_mount(c"tmpfs", &modes, NOSUID | NODEV | NOEXEC)
        .and_then(|made| attach(made, c"shm"))
        .doing(|| "mount tmpfs on /dev/shm".into())?;
    if let Some(map) = users {
        for directory in [".", "shm"] {
            let directory = open_directory(&dev, directory).doing(doing)?;
            map.own(directory).doing(doing)?;
        }
    }
    Ok((dev, [terminals, memory]))
}

/// A device node of the host, read-only: its mode is the host's to change, and writing to the device is not concerned.
/// On `/dev` itself no node counts.
fn bind_device(dev: &OwnedFd, host: &OwnedFd, name: &CStr) -> nix::Result<()> {
    // A file to mount on: not opened, since that costs a descriptor.
    mknodat(
        dev,
        name,
        SFlag::S_IFREG,
        Mode::from_bits_truncate(0o666),
        0,
    )?;
    let node = clone_tree(host, name, false)?;
    set_mount_attributes(&node, RDONLY | NOSUID | NOEXEC, false)?;
    attach_tree_at(&node, dev, name)
}
