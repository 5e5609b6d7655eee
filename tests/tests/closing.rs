//! The kernel takes long to close a socket of netfilter while something was deleted from the ruleset, and nobody can make a link
//! meanwhile. So those of containers that have ended stay open as long as the ruleset changes, with one process for all, and no longer.

use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lab::crash::{Sweep, Victims};
use lab::{DEADLINE, Lab, Running, Watch, Work, binary, case, sh, wait_for_end};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind,
    connect, listen, recv, sendmsg, socket,
};
use nix::unistd::{Pid, pipe2};

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

/// The process that outlives a run alone makes this call.
fn waits_for_rcu(calls: &[u64]) -> bool {
    calls.iter().any(|call| is_barrier(*call as i64))
}

fn is_barrier(call: i64) -> bool {
    call == libc::SYS_membarrier
}

/// A run whose last process is killed at each of its system calls: it holds nothing then, and the next run is as any other. `at_call` is told what
/// it is about to do, and how many barriers came before.
fn killed_at_any_moment(
    lab: &Lab,
    title: &str,
    at_call: &(dyn Fn(i64, usize) + Sync),
    undo: &dyn Fn(),
) {
    let barriers = AtomicUsize::new(0);
    let work = Work {
        command: &|| {
            barriers.store(0, Relaxed);
            // Not over before that process is ready: it would be ended with the run.
            lab.run_command(&[], &["sleep", "0.05"])
        },
        undo: &|outcome| {
            assert_eq!(outcome.code, 0, "it is nothing to the run: {outcome}");
            undo();
        },
        is_over: &|_| false,
        input: None,
    };
    let before = lab.with_network();
    // One of the run that made the network may be at its work still.
    helpers().into_iter().for_each(wait_for_end);
    let sockets_before = sockets();
    let counted = |call| {
        let count = barriers.fetch_add(usize::from(is_barrier(call)), Relaxed);
        at_call(call, count);
    };
    let sweep = Sweep {
        next: &|| {
            assert!(!is_collected());
            lab.run(&[], &["true"]).ok();
            helpers().into_iter().for_each(wait_for_end);
            assert_eq!(sockets(), sockets_before);
        },
        whom: Some(waits_for_rcu),
        at_call: Some(&counted),
        is_published: false,
        ..Sweep::new(lab, &work)
    };
    sweep.run(title, &[Victims::It], &before);
}

fn is_readable(fd: &OwnedFd, patience: Duration) -> bool {
    let patience = PollTimeout::try_from(patience).expect("a timeout");
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, patience).expect("look at a descriptor") > 0
}

/// While it waits, so that it may not end yet.
fn change() {
    sh("nft add table ip changes && nft delete table ip changes");
}

#[test]
fn who_collects_may_be_killed_at_any_moment() {
    case(|lab| {
        let handed_over = Mutex::new(None);
        let at_call = |call, barriers| match barriers {
            0 if is_barrier(call) => change(),
            2 if is_barrier(call) => {
                change();
                // It collects by now.
                let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
                hand_over(&write);
                *handed_over.lock().expect("a pipe") = Some(read);
            }
            _ => {}
        };
        let count = AtomicUsize::new(0);
        let undo = || {
            let Some(pipe) = handed_over.lock().expect("a pipe").take() else {
                return;
            };
            assert!(is_readable(&pipe, DEADLINE), "somebody holds it");
            count.fetch_add(1, Relaxed);
        };
        killed_at_any_moment(lab, "who collects", &at_call, &undo);
        assert!(count.into_inner() > 1, "nothing was handed over");
    });
}

/// Another was faster: it takes the name in between.
#[test]
fn who_hands_over_may_be_killed_at_any_moment() {
    case(|lab| {
        let listener = Mutex::new(None);
        let at_call = |call, barriers| match barriers {
            0 if is_barrier(call) => change(),
            2 if call == libc::SYS_bind => {
                *listener.lock().expect("a socket") = Some(listen_to_all());
            }
            _ => {}
        };
        let count = AtomicUsize::new(0);
        let undo = || {
            let Some(listener) = listener.lock().expect("a socket").take() else {
                return;
            };
            let has_come = is_readable(&listener, Duration::ZERO);
            count.fetch_add(usize::from(has_come), Relaxed);
        };
        killed_at_any_moment(lab, "who hands over", &at_call, &undo);
        assert!(count.into_inner() > 1, "nothing was handed over");
    });
}

/// As one of ours does.
fn hand_over(descriptor: &OwnedFd) {
    let connection = open();
    let name = UnixAddr::new_abstract(NAME.as_bytes()).expect("a name");
    connect(connection.as_raw_fd(), &name).expect("who collects");
    let descriptors = [descriptor.as_raw_fd()];
    let parcel = [ControlMessage::ScmRights(&descriptors)];
    let text = [IoSlice::new(b"x")];
    let (fd, flags) = (connection.as_raw_fd(), MsgFlags::empty());
    sendmsg::<()>(fd, &text, &parcel, flags, None).expect("send a descriptor");
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
        assert!(is_readable(&listener, DEADLINE), "none has handed over");
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

fn open() -> OwnedFd {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    socket(AddressFamily::Unix, kind, flags, None).expect("a socket")
}

fn listen_to_all() -> OwnedFd {
    let listener = open();
    let name = UnixAddr::new_abstract(NAME.as_bytes()).expect("a name");
    bind(listener.as_raw_fd(), &name).expect("bind");
    listen(&listener, Backlog::new(8).expect("a number")).expect("listen");
    listener
}
