//! `--userns`: the users and groups of a container are others outside, of a range that nobody else has. Root inside is
//! one of them: nobody, on the host.
//!
//! The namespace is made here, by a process that does nothing else, and so is the network namespace, which must belong to
//! it. The child makes its view of files as root of the host, which alone may show files under other owners, and joins
//! as the last thing before it is init. Its other namespaces are made then.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{Gid, Pid, Uid, fchown, pipe2, setfsgid, setfsuid, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use crate::config::Privileges;
use crate::control;
use crate::error::{Doing, Error, Result};
use crate::ls::Description;
use crate::owner::place_of;
use crate::spawn::explain_lack;
use crate::sys::{self, Clone};
use crate::user::User;

/// How many users, and groups, a container has: what 16 bits can tell, `nobody` included.
const COUNT: u32 = 0x1_0000;
/// Where no range is given away: no program gives out users from 0x70000000 on (systemd's UIDS-GIDS.md), and we use the
/// lower ones ourselves (`sys::as_nobody_else`).
const HIGH: u32 = 0x7800_0000;

/// user_namespaces(7), and where the system keeps them to root (`kernel.unprivileged_userns_clone`).
const MAY_NOT: &str = "host-helper was started in a chroot (start it outside), or has not got the capability sys_admin (start it where it has), or a filter of system calls forbids it";

/// Who root of a container is outside; its other users and groups follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMap {
    /// The user that is root inside.
    pub uid: u32,
    /// The group that is root's inside.
    pub gid: u32,
    /// How many users and groups there are inside.
    pub count: u32,
}

impl UserMap {
    /// The range that `/etc/subuid` and `/etc/subgid` give root, or a fixed one.
    ///
    /// # Errors
    /// We are in a user namespace ourselves, which does not have that range.
    pub fn choose() -> Result<UserMap> {
        let given = |file: &str| given(&fs::read_to_string(file).unwrap_or_default());
        let (uid, gid) = given("/etc/subuid")
            .zip(given("/etc/subgid"))
            .unwrap_or((HIGH, HIGH));
        for (kind, first) in [("uid", uid), ("gid", gid)] {
            let path = format!("/proc/self/{kind}_map");
            let ours = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
            if !has_range(&ours, first) {
                return Err(Error::new(format!(
                    "map users to {first} and on: this user namespace has no such {kind}; run as root of the host, or without --userns"
                )));
            }
        }
        Ok(UserMap {
            uid,
            gid,
            count: COUNT,
        })
    }

    /// Refuses a user that is none inside.
    ///
    /// # Errors
    /// The number is too high.
    pub fn check(&self, user: &User) -> Result<()> {
        let all = [user.uid, user.gid].into_iter();
        match all
            .chain(user.groups.iter().copied())
            .find(|number| *number >= self.count)
        {
            None => Ok(()),
            Some(number) => Err(Error::new(format!(
                "run as user or group {number}: with --userns there are {} inside; give a lower number, or leave --userns away",
                self.count
            ))),
        }
    }

    /// A user inside, as the host numbers it.
    pub fn outside(&self, user: u32) -> u32 {
        self.uid.saturating_add(user)
    }

    /// Gives a file to root inside.
    ///
    /// # Errors
    /// As fchown(2).
    pub fn own(&self, file: impl AsFd) -> nix::Result<()> {
        fchown(
            file,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
        )
    }
}

/// Gives the caller's pipes, where they are the command's standard descriptors, to a user, as the host numbers them: the command
/// may open them again (`/dev/stdout`). What has a name somewhere stays its owner's.
pub fn give_pipes_to(user: u32) {
    const PIPEFS: u64 = 0x5049_5045; // linux/magic.h
    for fd in 0..3 {
        let fd = sys::inherited(fd);
        let kind = nix::sys::statfs::fstatfs(fd).map(|found| found.filesystem_type().0);
        if kind.is_ok_and(|kind| kind as u64 == PIPEFS) {
            // Who does not open them again does not need it.
            let _ = fchown(fd, Some(Uid::from_raw(user)), None);
        }
    }
}

/// The first range of root's that is long enough: `NAME:FIRST:COUNT` (subuid(5)).
fn given(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut words = line.split(':');
        let is_roots = matches!(words.next()?, "root" | "0");
        let first: u32 = words.next()?.parse().ok()?;
        let count: u32 = words.next()?.trim().parse().ok()?;
        let is_usable = first > 0 && first.checked_add(count)? < u32::MAX;
        (is_roots && is_usable && count >= COUNT).then_some(first)
    })
}

/// Whether a map (user_namespaces(7)) has the whole range from `first` on.
fn has_range(map: &str, first: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [from, _, count] = numbers[..] else {
            return false;
        };
        let first = u64::from(first);
        from <= first && first + u64::from(COUNT) <= from + count
    })
}

/// A container's user namespace.
#[derive(Debug)]
pub struct Users {
    /// Who is who.
    pub map: UserMap,
    /// The namespace.
    pub namespace: OwnedFd,
    /// The network namespace that belongs to it, if the container is to have one of its own.
    pub network: Option<OwnedFd>,
}

impl Users {
    /// Those of a container whose network is to be joined: its network is its users'. `None`: it has none, or others.
    ///
    /// # Errors
    /// Its supervisor says what we do not understand.
    pub fn of_container(name: &str, map: UserMap) -> Result<Option<Users>> {
        let Ok(answer) = control::ask(name, "inspect") else {
            // Whoever joins its network will hear.
            return Ok(None);
        };
        let found: Description = serde_json::from_str(&answer)
            .map_err(|error| Error::new(format!("understand the supervisor of {name}: {error}")))?;
        let has_same = |privileges: &Privileges| privileges.users == Some(map);
        let Some(pid) = found
            .pid
            .filter(|_| found.privileges.as_ref().is_some_and(has_same))
        else {
            return Ok(None);
        };
        let path = place_of(pid).join("ns/user");
        Ok(Some(Users {
            map,
            namespace: open(&path)?,
            network: None,
        }))
    }

    /// Makes the namespaces. A process is in them for a moment: they need one to be made, and this one could not go back.
    ///
    /// Undone by dropping them.
    ///
    /// # Errors
    /// None left; not allowed.
    pub fn make(map: UserMap, network: NewNetwork) -> Result<Users> {
        let mut flags = CloneFlags::CLONE_NEWUSER;
        if network == NewNetwork::Yes {
            flags |= CloneFlags::CLONE_NEWNET;
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".into())?;
        let cloned = sys::clone_process(flags.bits())
            .doing(|| "make a user namespace".into())
            .map_err(|error| explain_lack(error).cure(Errno::EPERM, MAY_NOT))?;
        let (pid, pidfd) = match cloned {
            Clone::Parent(pid, pidfd) => (pid, pidfd),
            Clone::Child => {
                drop(write);
                // Until the other end is closed; nothing is ever in it.
                while nix::unistd::read(&read, &mut [0]).is_err() {}
                sys::exit_now(0)
            }
        };
        drop(read);
        let made = Users::open(pid, map, network);
        drop(write);
        let _ = sys::wait_for_end(&pidfd);
        made
    }

    fn open(pid: Pid, map: UserMap, network: NewNetwork) -> Result<Users> {
        for (kind, first) in [("uid", map.uid), ("gid", map.gid)] {
            let path = format!("/proc/{pid}/{kind}_map");
            fs::write(&path, format!("0 {first} {}\n", map.count))
                .doing(|| format!("map users to {first} and on"))?;
        }
        let open = |kind: &str| open(Path::new(&format!("/proc/{pid}/ns/{kind}")));
        Ok(Users {
            map,
            namespace: open("user")?,
            network: match network {
                NewNetwork::Yes => Some(open("net")?),
                NewNetwork::No => None,
            },
        })
    }

    /// In the child, when its view of files is made: joins, and makes the namespaces that it has not had yet, which are
    /// the container's then. What the host has mounted stays as it is: no capability inside reaches it.
    ///
    /// # Errors
    /// The step that failed.
    pub fn join(&self) -> Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWUSER)
            .doing(|| "join the user namespace".into())?;
        become_root()?;
        unshare(LATER).doing(|| "make the container's namespaces".into())
    }

    /// Shows the files of a mount that nobody sees yet as those of the container's users: root's as root's.
    ///
    /// # Errors
    /// Its file system, or one mounted below it, cannot do that.
    pub fn show_as_own(&self, mount: &OwnedFd, path: &Path, is_recursive: bool) -> Result<()> {
        let cure = "a file system there has no idmapped mounts (overlay, NFS, and tmpfs before Linux 6.3), or has one already: use a directory of another one, or leave --userns away";
        sys::map_mount(mount, &self.namespace, is_recursive)
            .doing(|| format!("map the owners of {}", path.display()))
            .map_err(|error| error.cure(Errno::EINVAL, cure).cure(Errno::EPERM, cure))
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))
}

/// Whether the container is to have a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewNetwork {
    /// It is made with the user namespace.
    Yes,
    /// It joins another.
    No,
}

/// Those that are made in the user namespace; without one, they are made with the child.
pub const LATER: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// In a process that has joined a user namespace, and is nobody there: becomes its root. What the change of the user takes
/// away is put back.
///
/// # Errors
/// What the kernel says.
pub fn become_root() -> Result<()> {
    let doing = || "become root of the user namespace".to_string();
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group).doing(doing)?;
    setresuid(user, user, user).doing(doing)?;
    // As fs.suid_dumpable has it now: it may say that everybody may look.
    sys::set_not_dumpable().doing(doing)?;
    set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal".into())
}

/// Does something as the owner of a directory: on a mount whose owners are mapped, the host's root is nobody, and can make
/// nothing (`EOVERFLOW`).
pub fn as_owner<T>(directory: &FileStat, work: impl FnOnce() -> T) -> T {
    let user = setfsuid(Uid::from_raw(directory.st_uid));
    let group = setfsgid(Gid::from_raw(directory.st_gid));
    let done = work();
    setfsgid(group);
    setfsuid(user);
    done
}

/// Makes a file or a directory in `directory`; see [`as_owner`].
///
/// # Errors
/// What `make` says.
pub fn make_in<T>(directory: &OwnedFd, make: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
    match make() {
        Err(Errno::EOVERFLOW) => as_owner(&fstat(directory)?, make),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_first_range_that_is_long_enough() {
        for (text, expected) in [
            ("", None),
            ("web:100000:65536\n", None),
            ("web:100000:65536\nroot:200000:65536\n", Some(200_000)),
            ("root:100000:1000\n0:300000:131072\n", Some(300_000)),
            ("root:0:65536\n", None),
            ("root:4294930000:65536\n", None),
            ("root:x:65536\nroot\n\n# root:1:2\n", None),
        ] {
            assert_eq!(given(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_range_of_our_own_user_namespace() {
        assert!(has_range("         0          0 4294967295\n", HIGH));
        assert!(!has_range("         0       1000          1\n", HIGH));
        assert!(!has_range("0 100000 65536\n", 1));
        assert!(has_range("0 0 10\n100 100000 65636\n", 200));
        assert!(!has_range("", 0));
    }
}
