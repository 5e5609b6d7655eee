//! The kernel takes long to close a socket of netfilter while something was deleted from the ruleset, and nobody can make a link
//! meanwhile. So those of containers that have ended stay open as long as the ruleset changes, with one process for all, and no longer.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, Running, Watch, binary, case, wait_for_end};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, recv,
    socket,
};
use nix::unistd::Pid;

const NAME: &str = "hawser/closing";

/// Changes the ruleset again and again.
fn changes() -> Running {
    let mut shell = Command::new("/bin/sh");
    let script = "while nft add table ip changes && nft delete table ip changes; do :; done";
    shell.args(["-c", script]);
    Running::spawn(shell)
}

/// What is left of runs: processes of that name.
fn helpers() -> Vec<i32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains("(host-helper) ") && !stat.contains(") Z ")
        })
        .collect()
}

/// Whether somebody collects.
fn is_collected() -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").expect("unix sockets");
    sockets
        .lines()
        .any(|line| line.ends_with(&format!(" @{NAME}")))
}

/// How many sockets to netfilter there are (NETLINK_NETFILTER is 12).
fn sockets() -> usize {
    let sockets = fs::read_to_string("/proc/net/netlink").expect("netlink sockets");
    let protocols = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    protocols.filter(|protocol| *protocol == "12").count()
}

/// Runs some containers while the ruleset changes, and waits until one process is left of them all. Gives that one.
fn collector(lab: &Lab, count: usize) -> i32 {
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        let watch = Watch::ruleset();
        for _ in 0..count {
            lab.run(&[], &["true"]).ok();
        }
        let is_one_left = || helpers().len() == usize::from(is_collected());
        assert!(watch.until(is_one_left), "left are {:?}", helpers());
        // None: for a moment the ruleset has stayed as it is.
        if let [collector] = helpers()[..] {
            return collector;
        }
    }
    panic!("nobody has collected");
}

#[test]
fn sockets_stay_open_while_the_ruleset_changes() {
    case(|lab| {
        let before = sockets();
        let changes = changes();
        // One of each run, at least; but once the ruleset may happen to stay as it is for a moment.
        let has_many = |_: &i32| sockets() >= before + 5;
        let collector = (0..20).map(|_| collector(lab, 5)).find(has_many);
        let collector = collector.expect("one that has the sockets of five runs");
        changes.signal(libc::SIGKILL);
        changes.end();
        wait_for_end(collector);
        assert!(!is_collected());
        assert_eq!(sockets(), before);
    });
}

#[test]
fn who_collects_may_be_killed() {
    case(|lab| {
        let changes = changes();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let collector = collector(lab, 3);
            kill(Pid::from_raw(collector), signal).expect("a process of ours");
            wait_for_end(collector);
        }
        let last = collector(lab, 3);
        changes.signal(libc::SIGKILL);
        changes.end();
        wait_for_end(last);
        lab.settle();
        assert!(lab.list().is_empty());
    });
}

/// A program that shares the host's network, a container's say, takes the name.
#[test]
fn a_stranger_gets_none() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        helpers().into_iter().for_each(wait_for_end);
        let listener = listen_to_all();
        let changes = changes();
        // In a pid namespace below ours, from where we are nobody, and which lives on.
        let watch = Watch::ruleset();
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--mount-proc", "sh", "-c"])
            .args([
                "for i in $(seq 20); do \"$@\"; done; echo ran; read x; exit 0",
                "sh",
            ])
            .arg(binary())
            .args(["run", "--rootfs"])
            .arg(&lab.rootfs)
            .args(["--", "true"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut below = Running::spawn(command);
        below.until("ran");
        // Of so many one at least has ended while the ruleset changed.
        let deadline = PollTimeout::try_from(DEADLINE).expect("a timeout");
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, deadline), Ok(1));
        let connection = accept(listener.as_raw_fd()).expect("a connection");
        assert_eq!(recv(connection, &mut [0], MsgFlags::empty()), Ok(0));
        assert!(
            watch.until(|| helpers().is_empty()),
            "left are {:?}",
            helpers()
        );
        below.say("");
        below.end().exits(0);
        changes.signal(libc::SIGKILL);
        changes.end();
    });
}

fn listen_to_all() -> OwnedFd {
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let listener = listener.expect("a socket");
    let name = UnixAddr::new_abstract(NAME.as_bytes()).expect("a name");
    bind(listener.as_raw_fd(), &name).expect("bind");
    listen(&listener, Backlog::new(8).expect("a number")).expect("listen");
    listener
}
