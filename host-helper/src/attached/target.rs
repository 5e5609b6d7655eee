//! Whose network namespace it is: found once, held by descriptors, and compared again before anything counts on it. A
//! number of a process may be another's a moment later; a descriptor is not.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};

use crate::attach;
use crate::deadline::{self, Locked};
use crate::error::{Doing, Error, Result, twice};
use crate::inside::{mount_of, open_in_root, open_path};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::owner::{
    Mark, Named, Owner, fields_from_third, leased_address, namespace, place_of, start_time,
};
use crate::request::NetworkChoice;
use crate::signals::Signals;
use crate::sys;

/// How long others who attach the same container are waited for: an init of its own (`--to`) may take ten seconds.
const OTHERS_TAKE: Duration = Duration::from_secs(15);

/// A container that another tool made.
pub struct Target {
    /// Its network namespace.
    pub netns: OwnedFd,
    /// The inode of that.
    pub inode: u64,
    /// The process that it was named by.
    pub process: Option<Process>,
    /// As it was named.
    shown: String,
}

/// A process, pinned.
pub struct Process {
    /// As this pid namespace counts.
    pub pid: i32,
    /// Names it for good.
    pub pidfd: OwnedFd,
    /// Its files, unless it sees those of the host as the host does.
    pub files: Option<Files>,
    start: u64,
}

/// What a process sees of files.
pub struct Files {
    /// Its mount namespace.
    pub mounts: OwnedFd,
    /// Its root.
    pub root: OwnedFd,
    /// What is missing there may be made. In a user namespace of its own none of its users may do there what the host's
    /// root may, and they could lead that to any place that they see.
    pub may_be_made: bool,
}

impl Target {
    /// The container that process `pid` is of.
    ///
    /// # Errors
    /// No such process, a thread of the kernel's; the host's own network.
    pub fn of_process(pid: i32) -> Result<Target> {
        let shown = format!("process {pid}");
        let process = Process::pin(pid)?;
        let path = place_of(pid).join("ns/net");
        Target::new(open_namespace(&path)?, Some(process), shown)
    }

    /// The network namespace at this path, of which nothing else is known.
    ///
    /// # Errors
    /// It is none, or the host's own.
    pub fn of_path(path: &Path) -> Result<Target> {
        let shown = format!("network namespace {}", path.display());
        Target::new(open_namespace(path)?, None, shown)
    }

    fn new(netns: OwnedFd, process: Option<Process>, shown: String) -> Result<Target> {
        let inode = fstat(&netns).doing(|| format!("look at {shown}"))?.st_ino;
        let target = Target {
            netns,
            inode,
            process,
            shown,
        };
        // Another's than ours may still be the host's: that of its first process.
        let ours = namespace("self", "net").doing(|| "look at our own network".into())?;
        if ours == inode || namespace("1", "net").is_ok_and(|hosts| hosts == inode) {
            return Err(Error::new(format!(
                "attach {}: its network is the host's own; give it one first (--network none, unshare -n)",
                target.shown
            )));
        }
        target.check()?;
        Ok(target)
    }

    /// It is still what it was.
    ///
    /// # Errors
    /// The process has ended, or has moved to another network namespace.
    pub fn check(&self) -> Result<()> {
        let Some(process) = &self.process else {
            return Ok(());
        };
        let doing = || format!("look at {}", self.shown);
        let now = namespace(&process.pid.to_string(), "net");
        // Behind the look at its number: as long as it lives, that is its own.
        if has_ended(&process.pidfd)?
            || start_time(process.pid).doing(doing)? != Some(process.start)
        {
            return Err(Error::new(format!(
                "attach {}: it has ended meanwhile",
                self.shown
            )));
        }
        if now.doing(doing)? != self.inode {
            return Err(Error::new(format!(
                "attach {}: it has gone to another network namespace meanwhile; run it again",
                self.shown
            )));
        }
        Ok(())
    }

    /// Waits until nobody else attaches it, and keeps others from it until what this gives is dropped: what an attachment gives the
    /// container depends on those that there are.
    ///
    /// The lock is the namespace's own file, which a process in there can hold, too: so it is not waited for without end.
    ///
    /// # Errors
    /// Somebody holds it too long; a signal, or the deadline.
    pub fn lock(&self, signals: &Signals) -> Result<Locked> {
        let doing = || format!("lock {}", self.shown);
        let end = Instant::now() + OTHERS_TAKE;
        loop {
            let file = File::from(self.netns.try_clone().doing(doing)?);
            let left = end.saturating_duration_since(Instant::now());
            match deadline::lock_unless(file, left, Some(signals.as_fd())) {
                Err(Errno::EINTR) => signals.check()?,
                Err(Errno::ETIME) => {
                    deadline::check()?;
                    return Err(Error::new(format!(
                        "attach {}: somebody else attaches it, or holds a lock on its network namespace, for {} seconds by now; run it again",
                        self.shown,
                        OTHERS_TAKE.as_secs()
                    )));
                }
                locked => return locked.doing(doing),
            }
        }
    }

    /// Refuses a namespace that has what it would get. Gives a socket there for a further look.
    ///
    /// # Errors
    /// It has.
    pub fn check_empty(&self, interface: &str) -> Result<Netlink> {
        let doing = || format!("look into {}", self.shown);
        let mut inside = self.look()?;
        if inside.find_link(interface).doing(doing)?.is_some() {
            return Err(Error::new(format!(
                "attach {}: the namespace has a link {interface} already; host-helper detach takes it away if it is ours",
                self.shown
            )));
        }
        Ok(inside)
    }

    /// Where the routes of the namespace's main table lead to, but for those to its own addresses: what another link has is not taken away
    /// from it. What another table has (of a VRF, of policy routing) is for others than who asks the main one. `inside` is a socket of it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn destinations(&self, inside: &mut Netlink) -> Result<Vec<IpNet>> {
        let routes = inside.routes();
        let mut routes = routes.doing(|| format!("look into {}", self.shown))?;
        routes.retain(|route| route.table == u32::from(libc::RT_TABLE_MAIN) && !route.is_local);
        Ok(routes.into_iter().map(|route| route.destination).collect())
    }

    /// Whether links that come there may have IPv6: whoever made it may have turned that off, as Docker does.
    ///
    /// Not for every container: under a directory of switches the kernel goes through those of all namespaces that anybody has
    /// looked into, a third of a millisecond where there are three hundred.
    ///
    /// # Errors
    /// The namespace may not be entered.
    pub fn may_have_ipv6(&self) -> Result<bool> {
        const SWITCH: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
        let is_on = || std::fs::read_to_string(SWITCH).is_ok_and(|value| value.trim() != "0");
        let is_off = look_inside(&self.netns, is_on);
        is_off
            .map(|is_off| !is_off)
            .doing(|| format!("look into {}", self.shown))
    }

    /// The host's ends of its links, of those that are of our kind.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn host_ends(&self, route: &mut Netlink) -> Result<Vec<Link>> {
        let doing = || format!("look into {}", self.shown);
        let inside = self.look()?.links().doing(doing)?;
        let mut ends = Vec::new();
        for link in inside.iter().filter(|link| link.kind == "veth") {
            let Some(index) = link.peer else {
                continue;
            };
            // Numbers of links mean something in their own namespace only: it has to point back, into that very one.
            let netns = route.namespace_id(&self.netns).doing(doing)?;
            ends.extend(route.link(index).doing(doing)?.filter(|end| {
                end.kind == "veth"
                    && leased_address(&end.name).is_some()
                    && end.peer == Some(link.index)
                    && end.peer_netns.is_some()
                    && end.peer_netns == netns
            }));
        }
        Ok(ends)
    }

    /// A socket of the namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look(&self) -> Result<Netlink> {
        socket_inside(&self.netns, &self.shown)
    }

    /// What the link says of it.
    pub fn mark(&self, name: &str) -> Result<Mark> {
        let Some(process) = &self.process else {
            return Ok(Mark::Netns(Named {
                name: name.to_string(),
                netns: self.inode,
            }));
        };
        self.check()?;
        let owner = Owner::of(name, process.pid, self.inode);
        let owner = owner.doing(|| format!("look at {}", self.shown))?;
        let owner = owner.filter(|owner| owner.start == process.start);
        owner
            .map(Mark::Attached)
            .ok_or_else(|| Error::new(format!("attach {}: it has ended meanwhile", self.shown)))
    }

    /// Whether it was named by this process.
    pub fn is(&self, owner: &Owner) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.is(owner))
    }

    /// Its files are those below `path`, which its runtime is about to make its root.
    ///
    /// # Errors
    /// Nothing is mounted there, as runtimes do before that: it is another container's.
    pub fn take_root(&mut self, path: &Path) -> Result<()> {
        let doing = || format!("find the root {} of {}", path.display(), self.shown);
        let Some(files) = self
            .process
            .as_ref()
            .and_then(|process| process.files.as_ref())
        else {
            return Ok(());
        };
        let open = |path: &Path| {
            open_in_root(&files.root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).doing(doing)
        };
        let cure = "is it a process of this container?";
        let root = open(path).map_err(|error| error.cure(Errno::ENOENT, cure))?;
        let ourselves = open_path(Path::new("/proc/self")).doing(|| "open /proc/self".into())?;
        let mount = |file: &OwnedFd| mount_of(&ourselves, file).doing(doing);
        if mount(&root)? == mount(&open(&path.join(".."))?)? {
            return Err(Error::new(format!(
                "{}: nothing is mounted there in its namespace; {cure}",
                doing()
            )));
        }
        if let Some(files) = self
            .process
            .as_mut()
            .and_then(|process| process.files.as_mut())
        {
            files.root = root;
            // Nobody is inside yet who could lead it elsewhere.
            files.may_be_made = true;
        }
        Ok(())
    }

    /// Its own files.
    pub fn files(&self) -> Option<&Files> {
        self.process.as_ref()?.files.as_ref()
    }
}

impl Process {
    /// Names it once and for all.
    ///
    /// # Errors
    /// No such process, or one of the kernel's own.
    pub fn pin(pid: i32) -> Result<Process> {
        let doing = || format!("attach process {pid}");
        let pidfd = sys::pidfd_open(pid).doing(doing).map_err(|error| {
            let cure = "give the number of a process, not of one of its threads";
            let error = error.cure(Errno::EINVAL, cure);
            error.cure(Errno::ENOENT, cure)
        })?;
        let ended = || Error::new(format!("attach process {pid}: it has ended"));
        let or_ended = |error: Error| match error.errno {
            Some(Errno::ENOENT | Errno::ESRCH) => ended(),
            _ => error,
        };
        let start = start_time(pid).doing(doing)?.ok_or_else(ended)?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).doing(doing);
        let stat = stat.map_err(or_ended)?;
        if is_of_kernel(&stat) {
            return Err(Error::new(format!(
                "attach process {pid}: it is a thread of the kernel's, and no container"
            )));
        }
        // One that is ending has none any more, for as long as its PID namespace takes.
        let files = files_of(pid).map_err(or_ended)?;
        if has_ended(&pidfd)? {
            return Err(ended());
        }
        Ok(Process {
            pid,
            pidfd,
            files,
            start,
        })
    }

    /// Whether this is whom a link names.
    pub fn is(&self, owner: &Owner) -> bool {
        // Its start, and that its number is meant as ours are, are part of it.
        self.start == owner.start
            && Owner::of(&owner.name, self.pid, owner.netns)
                .is_ok_and(|found| found.as_ref() == Some(owner))
    }
}

/// A socket of rtnetlink in a network namespace, which is called so.
///
/// # Errors
/// It may not be entered, or there are no descriptors left.
pub fn socket_inside(netns: &OwnedFd, shown: &str) -> Result<Netlink> {
    let doing = || format!("look into {shown}");
    let socket = look_inside(netns, Netlink::route).doing(doing)?;
    socket.doing(doing)
}

/// What is to be seen in another network namespace, or a socket of it. This process is in it for that moment only.
///
/// # Errors
/// It may not be entered.
pub fn look_inside<T>(netns: &OwnedFd, look: impl FnOnce() -> T) -> nix::Result<T> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let host = openat(AT_FDCWD, "/proc/self/ns/net", flags, Mode::empty())?;
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    let seen = look();
    let back = || setns(&host, CloneFlags::CLONE_NEWNET);
    if twice(back).is_err() {
        // In the container's network everything else that is done, the undo too, would be done to the wrong one.
        std::process::abort();
    }
    Ok(seen)
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    let opened = attach::namespace(&NetworkChoice::Path(path.to_path_buf()))?;
    opened.ok_or_else(|| Error::new("open network namespace: there is none"))
}

fn has_ended(pidfd: &OwnedFd) -> Result<bool> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let ready = sys::again(|| poll(&mut fds, PollTimeout::ZERO));
    Ok(ready.doing(|| "look at a process".into())? > 0)
}

/// Field 9 of proc(5)'s stat has this bit.
fn is_of_kernel(stat: &str) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000; // linux/sched.h
    let flags = fields_from_third(stat).nth(6);
    flags
        .and_then(|flags| flags.parse().ok())
        .is_none_or(|flags: u64| flags & PF_KTHREAD != 0)
}

/// A mount namespace that it shares with us shows the host's files: those are left alone.
fn files_of(pid: i32) -> Result<Option<Files>> {
    let doing = || format!("look at the files of process {pid}");
    let inode = |pid: &str| namespace(pid, "mnt").doing(doing);
    let theirs = inode(&pid.to_string())?;
    if [inode("self")?, namespace("1", "mnt").unwrap_or_default()].contains(&theirs) {
        return Ok(None);
    }
    let place = place_of(pid);
    let open = |what: &str, flags| {
        let flags = flags | OFlag::O_CLOEXEC;
        openat(AT_FDCWD, &place.join(what), flags, Mode::empty()).doing(doing)
    };
    Ok(Some(Files {
        mounts: open("ns/mnt", OFlag::O_RDONLY)?,
        root: open("root", OFlag::O_PATH | OFlag::O_DIRECTORY)?,
        // Without user namespaces there is no such file.
        may_be_made: namespace(&pid.to_string(), "user").ok() == namespace("self", "user").ok(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_kernel_are_known_by_a_flag() {
        let ours = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(!is_of_kernel(&ours));
        let kthreadd = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 2 0 0";
        assert!(is_of_kernel(kthreadd));
        assert!(is_of_kernel(&kthreadd.replace("kthreadd", "a) S 0 (b")));
        assert!(!is_of_kernel(&kthreadd.replace("2129984", "4194560")));
        assert!(is_of_kernel(""));
    }
}
