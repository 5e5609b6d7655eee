//! `/proc` and `/sys` in the view: what of them is hidden or cannot be written, and the switches of the container's network.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::{NODEV, NOEXEC, NOSUID, RDONLY, Rootfs, mount_new};
use crate::error::{Doing, Refusal, Result};
use crate::inside::{Permission, open_in_root, read_below};
use crate::sys::{again, attach_tree, attach_tree_at, clone_tree, set_mount_attributes};
use crate::users::UserMap;

/// Tells about the host or changes it: hidden. (What Docker and runc hide too.)
const MASKED_PROC: [&CStr; 11] = [
    c"acpi",
    c"asound",
    c"dynamic_debug",
    c"interrupts",
    c"kcore",
    c"keys",
    c"latency_stats",
    c"sched_debug",
    c"scsi",
    c"timer_list",
    c"timer_stats",
];

const MASKED_SYS: [&CStr; 2] = [c"firmware", c"devices/virtual/powercap"];

/// Changes the host: readable only.
const READ_ONLY_PROC: [&CStr; 5] = [c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger"];

/// The one switch of a network whose value names groups.
const PING_GROUPS: &str = "net/ipv4/ping_group_range";

/// The switches of its own network, where it has one.
pub(super) fn set_switches(proc: &OwnedFd, rootfs: &Rootfs, permission: &Permission) -> Result<()> {
    if rootfs.is_new_network {
        allow_ping(proc)?;
    }
    if !rootfs.sysctls.is_empty() {
        // Those of eth0 are there when it is.
        permission.wait().doing(|| "wait for the network".into())?;
    }
    let map = rootfs.users.as_ref().map(|users| users.map);
    for (path, value) in &rootfs.sysctls {
        let outside = map.and_then(|map| groups_outside(path, value, map));
        set_switch(proc, &format!("sys/{path}"), outside.as_ref().unwrap_or(value))
            .doing(|| format!("write {value} to /proc/sys/{path}"))
            .map_err(|error| {
                error
                    .cure(Errno::ENOENT, "a container's network has no such switch; what it has is below /proc/sys/net inside")
                    .cure(Errno::EINVAL, "it does not take this value")
            })?;
    }
    Ok(())
}

/// Writes all of a value. Some switches (`__do_proc_douintvec()`: those that are small numbers) take the first word, and say that they have
/// taken all: those are looked at.
fn set_switch(proc: &OwnedFd, path: &str, value: &str) -> std::result::Result<(), Refusal> {
    write_at(proc, path, value)?;
    let words = |text: &str| text.split_whitespace().count();
    let asked = words(value);
    // What cannot be read has told what it takes.
    let is_part = asked > 1 && read_below(proc, path).is_ok_and(|now| words(&now) < asked);
    match is_part {
        true => Err(Errno::EINVAL.into()),
        false => Ok(()),
    }
}

/// A range of groups, as the host numbers them: who writes it is not inside yet. `None`: it is no such range, or no group of the
/// container's is the first. More than all are all: so Docker's usual `0 2147483647` is.
fn groups_outside(path: &str, value: &str, map: UserMap) -> Option<String> {
    let numbers: Vec<u32> = value
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    let [low, high] = numbers[..] else {
        return None;
    };
    let is_range = path == PING_GROUPS && low <= high && low < map.count;
    let outside = |group: u32| map.gid.saturating_add(group.min(map.count - 1));
    is_range.then(|| format!("{} {}", outside(low), outside(high)))
}

/// `ping` for every user, without a capability (icmp(7)): a new network namespace allows it to no group. Those of the host
/// too, whoever is inside: a container of other users may join.
fn allow_ping(proc: &OwnedFd) -> Result<()> {
    let path = &format!("sys/{PING_GROUPS}");
    let written = match write_at(proc, path, "0 2147483647") {
        // In a user namespace only its own groups can be named.
        Err(refusal) if refusal.errno == Errno::EINVAL => write_at(proc, path, "0 0"),
        written => written,
    };
    match written {
        Err(refusal) if matches!(refusal.errno, Errno::ENOENT | Errno::EROFS) => Ok(()),
        written => written.doing(|| format!("write /proc/{path}")),
    }
}

fn write_at(directory: &OwnedFd, path: &str, value: &str) -> std::result::Result<(), Refusal> {
    let file = openat(
        directory,
        path,
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    match again(|| nix::unistd::write(&file, value.as_bytes()))? {
        // What is behind its last word is left over: it takes fewer.
        taken if taken < value.len() => Err(Errno::EINVAL.into()),
        _ => Ok(()),
    }
}

pub(super) fn mask_proc(
    proc: &OwnedFd,
    dev: &OwnedFd,
    scratch: &OwnedFd,
    rootfs: &Rootfs,
) -> Result<()> {
    let keep = || clone_tree(proc, c"sys/net", false);
    let own = rootfs.is_new_network.then(keep).transpose();
    let own = own.doing(|| "keep /proc/sys/net".into())?;
    for path in READ_ONLY_PROC {
        remount_proc(proc, path, RDONLY | NOSUID | NODEV | NOEXEC)?;
    }
    // The switches of its own network are the container's (the kernel shows those of the host read-only).
    if let Some(own) = own {
        attach_tree_at(own, proc, c"sys/net").doing(|| "keep /proc/sys/net".into())?;
    }
    for path in MASKED_PROC {
        mask((proc, "/proc"), path, dev, scratch)?;
    }
    Ok(())
}

/// Mounts `/sys`, read-only, and masks what tells about the host. Gives the file system.
pub(super) fn mount_sys(root: &OwnedFd, scratch: &OwnedFd) -> Result<OwnedFd> {
    let sys = match mount_new(root, c"sysfs", "sys", RDONLY | NOSUID | NODEV | NOEXEC) {
        // A user namespace may mount the sysfs of its own network namespace only: the host's as it is, then.
        Err(error) if error.errno == Some(Errno::EPERM) => {
            let doing = || "bind /sys".to_string();
            let place = open_in_root(root, Path::new("sys"), OFlag::O_PATH).doing(doing)?;
            let sys = clone_tree(AT_FDCWD, c"/sys", true).doing(doing)?;
            set_mount_attributes(&sys, RDONLY | NOSUID | NODEV | NOEXEC, true).doing(doing)?;
            attach_tree(&sys, &place).doing(doing)?;
            sys
        }
        mounted => mounted?,
    };
    for path in MASKED_SYS {
        mask((&sys, "/sys"), path, scratch, scratch)?;
    }
    Ok(sys)
}

/// Hides a path: a file behind the null device, a directory behind an empty one. Looked for first: a cover that is not used would take
/// the kernel a grace period to take apart.
fn mask(
    (under, place): (&OwnedFd, &str),
    path: &CStr,
    dev: &OwnedFd,
    scratch: &OwnedFd,
) -> Result<()> {
    let doing = || format!("mask {place}/{}", path.to_string_lossy());
    let mode = match fstatat(under, path, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(()),
        found => found.doing(doing)?.st_mode,
    };
    let cover = if mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
        let empty = clone_tree(scratch, c"empty", false).doing(doing)?;
        set_mount_attributes(&empty, RDONLY, false).doing(doing)?;
        empty
    } else {
        clone_tree(dev, c"null", false).doing(doing)?
    };
    attach_tree_at(&cover, under, path).doing(doing)
}

/// Mounts a path of `/proc` over itself with other attributes; what is not there needs none.
fn remount_proc(proc: &OwnedFd, path: &CStr, attributes: u64) -> Result<()> {
    let doing = || format!("remount /proc/{}", path.to_string_lossy());
    let tree = match clone_tree(proc, path, false) {
        Err(Errno::ENOENT) => return Ok(()),
        tree => tree.doing(doing)?,
    };
    set_mount_attributes(&tree, attributes, false).doing(doing)?;
    attach_tree_at(&tree, proc, path).doing(doing)
}
