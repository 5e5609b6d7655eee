//! Who a link belongs to, as its alias says it: the truth lives in the kernel and dies with the container.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::deadline;
use crate::sys;

/// First word and version of every alias of ours.
const PREFIX: &str = "hawser 1 ";

/// What the alias of a link of ours says; it stays under the 255 bytes that the kernel takes (`IFALIASZ`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// `network GATEWAY/LEN [GATEWAY6/LEN | -]`: a bridge.
    Network(Gateways),
    /// `run NAME PID START PIDNS NETNS`: the host end of a container's veth.
    Run(Owner),
    /// `attach NAME PID START PIDNS NETNS`: the same, of a container that another tool made.
    Attached(Owner),
    /// `netns NAME NETNS`: one of which only the network namespace is known. Nobody but `detach` can say that it is over.
    Netns(Named),
}

/// A network namespace that was given a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it is called.
    pub name: String,
    /// Its inode.
    pub netns: u64,
}

/// The addresses of the host on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateways {
    /// IPv4
    pub v4: Ipv4Net,
    /// IPv6
    pub v6: Gateway6,
}

/// The IPv6 address of the host on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway6 {
    /// None so far: the first container that wants IPv6 gets one for it.
    Undecided,
    /// None, as somebody wanted it.
    Never,
    /// This.
    At(Ipv6Net),
}

impl Gateway6 {
    /// The address, where there is one.
    pub fn net(self) -> Option<Ipv6Net> {
        match self {
            Gateway6::At(net) => Some(net),
            Gateway6::Undecided | Gateway6::Never => None,
        }
    }
}

/// Whoever keeps an attachment alive: the container's PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The container's name.
    pub name: String,
    /// Its PID 1, as the pid namespace `pidns` counts.
    pub pid: i32,
    /// When that process started, in clock ticks after boot (proc(5), field 22): tells a number that was reused.
    pub start: u64,
    /// Inode of the pid namespace that `pid` is meant in.
    pub pidns: u64,
    /// Inode of the container's network namespace.
    pub netns: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Mark::Network(Gateways { v4, v6 }) => {
                write!(f, "{PREFIX}network {v4}")?;
                match v6 {
                    Gateway6::Undecided => Ok(()),
                    Gateway6::Never => write!(f, " -"),
                    Gateway6::At(net) => write!(f, " {net}"),
                }
            }
            Mark::Run(owner) => write!(f, "{PREFIX}run {owner}"),
            Mark::Attached(owner) => write!(f, "{PREFIX}attach {owner}"),
            Mark::Netns(Named { name, netns }) => write!(f, "{PREFIX}netns {name} {netns}"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Owner {
            name,
            pid,
            start,
            pidns,
            netns,
        } = self;
        write!(f, "{name} {pid} {start} {pidns} {netns}")
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(alias: &str) -> Result<Self, ()> {
        fn number<T: FromStr>(word: &str) -> Result<T, ()> {
            word.parse().map_err(drop)
        }
        let words: Vec<&str> = alias.strip_prefix(PREFIX).ok_or(())?.split(' ').collect();
        match words[..] {
            ["network", v4, ref rest @ ..] => {
                let v6 = match rest {
                    [] => Gateway6::Undecided,
                    ["-"] => Gateway6::Never,
                    [net] => Gateway6::At(number(net)?),
                    _ => return Err(()),
                };
                let v4 = number(v4)?;
                Ok(Mark::Network(Gateways { v4, v6 }))
            }
            [kind @ ("run" | "attach"), name, pid, start, pidns, netns] => {
                let owner = Owner {
                    name: name.to_string(),
                    pid: number(pid)?,
                    start: number(start)?,
                    pidns: number(pidns)?,
                    netns: number(netns)?,
                };
                Ok(if kind == "run" {
                    Mark::Run(owner)
                } else {
                    Mark::Attached(owner)
                })
            }
            ["netns", name, netns] => Ok(Mark::Netns(Named {
                name: name.to_string(),
                netns: number(netns)?,
            })),
            _ => Err(()),
        }
    }
}

impl Mark {
    /// The name of the container whose host end this is, and the inode of its network namespace.
    pub fn container(&self) -> Option<(&str, u64)> {
        match self {
            Mark::Network(_) => None,
            Mark::Run(owner) | Mark::Attached(owner) => Some((&owner.name, owner.netns)),
            Mark::Netns(Named { name, netns }) => Some((name, *netns)),
        }
    }

    /// The process that keeps it alive, where one is known.
    pub fn owner(&self) -> Option<&Owner> {
        match self {
            Mark::Run(owner) | Mark::Attached(owner) => Some(owner),
            Mark::Network(_) | Mark::Netns(_) => None,
        }
    }

    /// It is of a container that another tool made.
    pub fn is_attached(&self) -> bool {
        matches!(self, Mark::Attached(_) | Mark::Netns(_))
    }

    /// Of a container that is sure to be dead.
    pub fn is_dead(&self) -> bool {
        self.owner().is_some_and(Owner::is_dead)
    }
}

impl Owner {
    /// The owner that process `pid` is, under `name`, with the network namespace of inode `netns`; `None` when the
    /// process is gone.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of(name: &str, pid: i32, netns: u64) -> io::Result<Option<Owner>> {
        let pidns = namespace("self", "pid")?;
        Ok(start_time(pid)?.map(|start| Owner {
            name: name.to_string(),
            pid,
            start,
            pidns,
            netns,
        }))
    }

    /// Whether the process still runs; unknown (another pid namespace's, or we cannot look) counts as running.
    pub fn is_running(&self) -> bool {
        match namespace("self", "pid") {
            Ok(ours) if ours == self.pidns => {
                start_time(self.pid).map_or(true, |start| start == Some(self.start))
            }
            _ => true,
        }
    }

    /// Whether the process is gone, or goes in that time.
    pub fn ends_within(&self, time: Duration) -> bool {
        let Ok(pidfd) = sys::pidfd_open(self.pid) else {
            return !self.is_running();
        };
        if !self.is_running() {
            return true;
        }
        let end = Instant::now() + deadline::left().map_or(time, |left| left.min(time));
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match poll(
                &mut fds,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO),
            ) {
                Err(Errno::EINTR) => {}
                polled => return polled.is_ok_and(|ready| ready > 0),
            }
        }
    }

    /// Kills the process and waits for its end; gone already is success.
    pub fn kill(&self) {
        let Ok(pidfd) = sys::pidfd_open(self.pid) else {
            return;
        };
        // The number may be another's by now; what the descriptor names is what is looked at.
        if self.is_running() && sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).is_ok() {
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        }
    }

    /// Sure to be dead: its process is gone, and no other process is left in its network namespace.
    ///
    /// The walk over all processes is off the start path: only a taken address or name leads here.
    pub fn is_dead(&self) -> bool {
        !self.is_running() && !any_process_in(self.netns)
    }
}

/// Inode number of a namespace of process `pid` ("self" is one): two are the same when these are.
pub fn namespace(pid: &str, kind: &str) -> io::Result<u64> {
    let look = |place: &Path| fs::metadata(place.join("ns").join(kind));
    let found = match look(&Path::new("/proc").join(pid)) {
        Err(error) if is_gone(&error) => look(&place_of(pid)),
        found => found,
    };
    Ok(found?.ino())
}

/// Where `/proc` shows the namespaces and the files of a process. Of one whose first thread has ended (pthread_exit(3)) the others alone
/// have any.
pub fn place_of(pid: impl fmt::Display) -> PathBuf {
    let place = PathBuf::from(format!("/proc/{pid}"));
    if !fs::metadata(place.join("ns/net")).is_err_and(|error| is_gone(&error)) {
        return place;
    }
    let threads = fs::read_dir(place.join("task")).into_iter().flatten();
    let mut places = threads.flatten().map(|thread| thread.path());
    let of_thread = places.find(|place| place.join("ns/net").exists());
    of_thread.unwrap_or(place)
}

/// Field 22 of `/proc/PID/stat`, or `None` when there is no such process or it is a zombie, which holds nothing.
///
/// # Errors
/// It cannot be told.
pub fn start_time(pid: i32) -> io::Result<Option<u64>> {
    // At one go: the name has at most 16 bytes, each of the 51 numbers at most 20 digits (proc(5)).
    let mut stat = [0; 2048];
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| {
        loop {
            match file.read(&mut stat) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    });
    match read {
        Err(error) if is_gone(&error) => Ok(None),
        read => Ok(start_in(&String::from_utf8_lossy(&stat[..read?]))),
    }
}

/// There is no such process (any more), as `/proc` says it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The fields of `/proc/PID/stat` from the third on, which is the state (proc(5)). The second is the command's name, which may hold blanks
/// and brackets: they begin behind the last one.
pub fn fields_from_third(stat: &str) -> impl Iterator<Item = &str> {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_ascii_whitespace()
}

fn start_in(stat: &str) -> Option<u64> {
    let mut fields = fields_from_third(stat);
    let state = fields.next()?;
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    // A first thread that has ended while others go on is one, too.
    if state == "X" || state == "Z" && threads <= 1 {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

/// Whether a process is left in this network namespace. It takes a look at each process.
pub fn any_process_in(netns: u64) -> bool {
    process_in(netns).map_or(true, |found| found.is_some())
}

/// A process that is in this network namespace: its number.
///
/// # Errors
/// `/proc` cannot be read.
pub fn process_in(netns: u64) -> io::Result<Option<String>> {
    find_in(netns, |name| Ok(Some(name.to_string())))
}

/// What `look` finds of the first of them of which it finds something.
///
/// # Errors
/// As [`process_in`]; those of `look`.
pub fn find_in<T>(
    netns: u64,
    mut look: impl FnMut(&str) -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    for entry in fs::read_dir("/proc")? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if !name.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        match namespace(&name, "net") {
            Ok(inode) if inode == netns => {
                if let Some(found) = look(&name)? {
                    return Ok(Some(found));
                }
            }
            // One that we may not look at is none of ours.
            Err(error) if !is_gone(&error) && error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The name that leases `address`: `hw` and its 8 or 32 hexadecimal digits. A host end has it as its name, for an IPv6
/// address as another one.
pub fn lease_name(address: impl Into<IpAddr>) -> String {
    match address.into() {
        IpAddr::V4(address) => format!("hw{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("hw{:032x}", u128::from(address)),
    }
}

/// Whether this is a name that leases an address.
pub fn is_lease(name: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    name.strip_prefix("hw")
        .is_some_and(|digits| matches!(digits.len(), 8 | 32) && digits.bytes().all(is_hex))
}

/// The address that a link of this name leases, if it is such a name.
pub fn leased_address(link: &str) -> Option<Ipv4Addr> {
    let digits = link.strip_prefix("hw")?;
    if digits.len() != 8 || !is_lease(link) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back() {
        let owner = Owner {
            name: "n".repeat(127),
            pid: i32::MAX,
            start: u64::MAX,
            pidns: 1 << 32,
            netns: 1 << 32,
        };
        let v4 = "172.19.0.1/16".parse().unwrap();
        let longest = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/64";
        let [undecided, never, at] = [
            Gateway6::Undecided,
            Gateway6::Never,
            Gateway6::At(longest.parse().unwrap()),
        ]
        .map(|v6| Mark::Network(Gateways { v4, v6 }));
        // As versions without IPv6 wrote it.
        assert_eq!(
            "hawser 1 network 172.19.0.1/16".parse(),
            Ok(undecided.clone())
        );
        let (attached, named) = (
            Mark::Attached(owner.clone()),
            Mark::Netns(Named {
                name: owner.name.clone(),
                netns: u64::MAX,
            }),
        );
        for mark in [Mark::Run(owner), attached, named, undecided, never, at] {
            let alias = mark.to_string();
            assert!(alias.len() < 255, "{alias} is too long for an alias");
            assert_eq!(alias.parse(), Ok(mark));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_mark() {
        for alias in [
            "",
            "uplink",
            "hawser 2 run a 1 2 3 4",
            "hawser 1 run a 1 2 3",
            "hawser 1 run a 1 2 3 4 5",
            "hawser 1 attach a 1 2 3",
            "hawser 1 netns a",
            "hawser 1 netns a x",
            "hawser 1 netns a 1 2",
            "hawser 1 network",
            "hawser 1 network 2001:db8::1/64",
            "hawser 1 network 192.0.2.1/24 x",
            "hawser 1 network 192.0.2.1/24 - -",
        ] {
            assert_eq!(alias.parse::<Mark>(), Err(()), "{alias}");
        }
    }

    #[test]
    fn a_lease_is_a_name() {
        assert_eq!(lease_name(Ipv4Addr::new(172, 19, 0, 2)), "hwac130002");
        let six = lease_name("2001:db8::2".parse::<IpAddr>().unwrap());
        assert_eq!(six, "hw20010db8000000000000000000000002");
        assert_eq!(leased_address(&six), None);
        assert_eq!(
            leased_address("hwac130002"),
            Some(Ipv4Addr::new(172, 19, 0, 2))
        );
        for name in ["hwac13000", "hawser0", "hwAC130002", "hw+c130002"] {
            assert_eq!(leased_address(name), None, "{name}");
        }
    }

    #[test]
    fn this_process_runs_and_a_finished_one_does_not() {
        let me = Owner::of(
            "me",
            std::process::id() as i32,
            namespace("self", "net").unwrap(),
        )
        .unwrap()
        .unwrap();
        assert!(me.is_running());
        assert!(
            !Owner {
                start: me.start + 1,
                ..me.clone()
            }
            .is_running()
        );
        // Something else lives in our network namespace: this process.
        assert!(
            !Owner {
                start: me.start + 1,
                ..me
            }
            .is_dead()
        );
    }
}
