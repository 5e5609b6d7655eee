//! A signal, or a failure, at any system call of the helper: nothing is left.

use std::cell::RefCell;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use lab::{
    DEADLINE, Lab, Netns, Outcome, Running, Snapshot, Whose, case, collect, strace, wait_for_end,
};

/// What is disturbed.
struct Work<'a> {
    command: &'a dyn Fn() -> Command,
    /// Takes back what is there when it has succeeded, or was killed.
    undo: &'a dyn Fn(&Outcome),
    /// What it reads.
    input: Option<PathBuf>,
}

impl Work<'_> {
    /// Under strace with these options.
    fn traced(&self, options: &[&str], trace: &str) -> Command {
        let mut command = strace::traced(&(self.command)(), options, trace);
        if let Some(path) = &self.input {
            command.stdin(File::open(path).expect("what it reads"));
        }
        command
    }
}

/// The system calls of a run, in order: name, and the how manieth of that name it is (strace counts like that).
fn calls(lab: &Lab, work: &Work) -> Vec<(String, usize)> {
    let path = lab.dir.join("trace");
    let command = work.traced(&[], &path.to_string_lossy());
    (work.undo)(&collect(command, DEADLINE).exits(0));
    let trace = std::fs::read_to_string(&path).expect("the trace");
    let names: Vec<&str> = trace
        .lines()
        .filter_map(|line| line.split_once('('))
        .map(|(name, _)| name)
        .collect();
    let nth = |index: usize| {
        names[..=index]
            .iter()
            .filter(|name| **name == names[index])
            .count()
    };
    let all = names
        .iter()
        .enumerate()
        .map(|(index, name)| ((*name).to_owned(), nth(index)));
    all.filter(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .collect()
}

/// Runs with `fault` injected at each of the calls that `wanted` picks; each time `judge` says whether the outcome is
/// one of those that may be, and whether the fault had any effect.
fn inject(
    lab: &Lab,
    fault: &str,
    options: &[&str],
    wanted: impl Fn(&str) -> bool,
    judge: impl Fn(&Outcome) -> (bool, bool),
) {
    let work = Work {
        command: &|| lab.run_command(options, &["true"]),
        undo: &|_| {},
        input: None,
    };
    inject_into(lab, fault, &work, wanted, judge);
}

/// The same with any work.
fn inject_into(
    lab: &Lab,
    fault: &str,
    work: &Work,
    wanted: impl Fn(&str) -> bool,
    judge: impl Fn(&Outcome) -> (bool, bool),
) {
    (work.undo)(&collect((work.command)(), DEADLINE).exits(0));
    let all: Vec<_> = calls(lab, work)
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .collect();
    assert!(all.len() > 20, "a run makes more system calls than {all:?}");
    lab.settle();
    let before = Snapshot::take();
    let path = lab.dir.join("trace2");
    let (mut effects, mut complaints) = (0, vec![]);
    for (name, count) in &all {
        let inject = format!("inject={name}:{fault}:when={count}");
        let command = work.traced(
            &["-e", &format!("trace={name}"), "-e", &inject],
            &path.to_string_lossy(),
        );
        let outcome = collect(command, DEADLINE);
        let _ = std::fs::remove_file(&path);
        (work.undo)(&outcome);
        let (allowed, effect) = judge(&outcome);
        if !allowed {
            complaints.push(format!("{inject}: {outcome}"));
        }
        effects += i32::from(effect);
        if fault.contains("KILL") {
            // Who is killed cannot unlink its socket; that is a stale name, and the next start takes it.
            let _ = std::fs::remove_file("/run/hawser/web.sock");
        }
        // What it could not take back from the firewall, the next call does, once the link is gone.
        lab.settle();
        lab.hawser(&["ls"]).exits(0);
        let changes = before.changes();
        if !changes.is_empty() {
            complaints.push(format!(
                "{inject}: code {}: {}",
                outcome.code,
                changes.join("; ")
            ));
            // So that the next one is judged by itself.
            let _ = std::fs::remove_file("/run/hawser/web.sock");
        }
    }
    assert!(
        complaints.is_empty(),
        "{} complaints:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
    assert!(effects > 5, "hardly one of them had an effect");
}

const FIXED: &[&str] = &["--name", "web", "--ip", "172.19.0.9"];

#[test]
fn an_interrupt_at_any_moment_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 125, 130, -2].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject(lab, "signal=INT", FIXED, |_| true, judge));
}

#[test]
fn a_termination_at_any_moment_leaves_nothing() {
    let judge = |outcome: &Outcome| {
        (
            [0, 125, 143, -15].contains(&outcome.code),
            outcome.code != 0,
        )
    };
    case(|lab| inject(lab, "signal=TERM", &["--network", "ptp"], |_| true, judge));
}

#[test]
fn a_kill_at_any_moment_leaves_nothing_but_a_stale_name() {
    let judge = |outcome: &Outcome| ([0, -9].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject(lab, "signal=KILL", FIXED, |_| true, judge));
}

/// Not those of the C library's start and of the allocator, nor those that cannot fail, nor those that take away.
const OTHERS: [&str; 22] = [
    "execve",
    "flock",
    "stat",
    "unlink",
    "mmap",
    "munmap",
    "brk",
    "close",
    "exit_group",
    "arch_prctl",
    "set_tid_address",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
    "mprotect",
    "madvise",
    "poll",
    "ppoll",
    "read",
    "write",
    "wait4",
    "waitid",
];

#[test]
fn a_system_call_that_fails_leaves_nothing_and_is_told_in_one_line() {
    let judge = |outcome: &Outcome| {
        let told = outcome.code == 125
            && outcome.stderr.starts_with(b"host-helper: ")
            && outcome.err().lines().count() == 1;
        (outcome.code == 0 || told, told)
    };
    case(|lab| {
        inject(
            lab,
            "error=ENOSPC",
            FIXED,
            |name| !OTHERS.contains(&name),
            judge,
        )
    });
}

/// `attach` of a container with mounts of its own, and everything that it may leave taken back by `detach`.
fn inject_into_attach(
    lab: &Lab,
    fault: &str,
    wanted: impl Fn(&str) -> bool,
    judge: impl Fn(&Outcome) -> (bool, bool),
) {
    let guest = Running::unshared(&["-n", "-m"], "exec cat");
    let pid = guest.pid().to_string();
    let netns = Netns::of(guest.pid());
    let mounts = || std::fs::read_to_string(format!("/proc/{pid}/mountinfo"));
    let first = mounts().expect("its mounts");
    let words = [
        "attach",
        &pid,
        "--name",
        "web",
        "--ip",
        "172.19.0.9",
        "-p",
        "8080:80",
    ];
    let is_kill = fault.contains("KILL");
    let work = Work {
        command: &|| lab.command(&words),
        undo: &|outcome| {
            if is_kill || outcome.code == 0 {
                lab.hawser(&["detach", &pid]).ok();
            }
            let links = netns.sh("ip -o link");
            assert!(!links.contains("eth0"), "{fault}: {outcome}: {links}");
            let now = mounts().expect("its mounts");
            assert!(now == first, "{fault}: {outcome}: {now}");
        },
        input: None,
    };
    inject_into(lab, fault, &work, wanted, judge);
    guest.end().exits(0);
}

#[test]
fn an_interrupt_of_attach_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 125, 130, -2].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject_into_attach(lab, "signal=INT", |_| true, judge));
}

#[test]
fn a_kill_of_attach_leaves_nothing_that_detach_does_not_take() {
    let judge = |outcome: &Outcome| ([0, -9].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject_into_attach(lab, "signal=KILL", |_| true, judge));
}

#[test]
fn a_system_call_of_attach_that_fails_leaves_nothing_and_is_told_in_one_line() {
    let judge = |outcome: &Outcome| {
        let told = outcome.code == 125
            && outcome.stderr.starts_with(b"host-helper: ")
            && outcome.err().lines().count() == 1;
        (outcome.code == 0 || told, told)
    };
    case(|lab| inject_into_attach(lab, "error=ENOSPC", |name| !OTHERS.contains(&name), judge));
}

/// createRuntime of a container with mounts of its own, and everything that it may leave taken back by poststop, as runtimes
/// call it after a hook that has failed: the container is gone then. Each time it is a new one.
fn inject_into_hook(
    lab: &Lab,
    fault: &str,
    wanted: impl Fn(&str) -> bool,
    judge: impl Fn(&Outcome) -> (bool, bool),
) {
    let bundle = lab
        .bundle("web", "")
        .annotated("hawser.ip", "172.19.0.9")
        .annotated("hawser.publish", "8080:80");
    let guest = RefCell::new(None);
    let work = Work {
        command: &|| {
            let created = bundle.created();
            let state = bundle.state("web", "creating", created.pid());
            guest.replace(Some(created));
            lab.hook_command(&["--ip-file", "/run/hawser-ip"], &state)
        },
        undo: &|outcome| {
            let guest = guest.take().expect("a container");
            let pid = guest.pid();
            if outcome.code > 0 {
                // What has failed by itself has left nothing inside either.
                let links = Netns::of(pid).sh("ip -o link");
                assert!(!links.contains("eth0"), "{fault}: {outcome}: {links}");
            }
            guest.end().exits(0);
            wait_for_end(pid);
            let released = lab.hook(&[], &bundle.state("web", "stopped", 0));
            assert_eq!(released.err(), "", "{fault}: {outcome}");
        },
        input: Some(lab.dir.join("state")),
    };
    inject_into(lab, fault, &work, wanted, judge);
}

#[test]
fn a_termination_of_a_hook_leaves_nothing() {
    let judge = |outcome: &Outcome| {
        (
            [0, 125, 143, -15].contains(&outcome.code),
            outcome.code != 0,
        )
    };
    case(|lab| inject_into_hook(lab, "signal=TERM", |_| true, judge));
}

#[test]
fn a_kill_of_a_hook_leaves_nothing_that_poststop_does_not_take() {
    let judge = |outcome: &Outcome| ([0, -9].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject_into_hook(lab, "signal=KILL", |_| true, judge));
}

#[test]
fn a_system_call_of_a_hook_that_fails_leaves_nothing_and_is_told_in_one_line() {
    let judge = |outcome: &Outcome| {
        let told = outcome.code == 125
            && outcome.stderr.starts_with(b"host-helper: ")
            && outcome.err().lines().count() == 1;
        (outcome.code == 0 || told, told)
    };
    case(|lab| inject_into_hook(lab, "error=ENOSPC", |name| !OTHERS.contains(&name), judge));
}

/// poststop at any moment: the next one takes the rest.
#[test]
fn a_kill_of_poststop_leaves_nothing_that_the_next_one_does_not_take() {
    case(|lab| {
        let bundle = lab.bundle("web", "").annotated("hawser.ip", "172.19.0.9");
        let bundle = bundle.annotated("hawser.publish", "8080:80");
        let work = Work {
            command: &|| {
                let guest = bundle.created();
                let pid = guest.pid();
                lab.hook(&[], &bundle.state("web", "creating", pid)).ok();
                guest.end().exits(0);
                wait_for_end(pid);
                lab.hook_command(&[], &bundle.state("web", "stopped", 0))
            },
            undo: &|_| {
                let released = lab.hook(&[], &bundle.state("web", "stopped", 0));
                assert_eq!(released.err(), "");
            },
            input: Some(lab.dir.join("state")),
        };
        let judge = |outcome: &Outcome| ([0, -9].contains(&outcome.code), outcome.code != 0);
        inject_into(lab, "signal=KILL", &work, |_| true, judge);
    });
}

/// An operation of the CNI plugin; what it may leave is taken back by DEL.
fn inject_into_plugin(
    lab: &Lab,
    operation: &str,
    fault: &str,
    wanted: impl Fn(&str) -> bool,
    judge: impl Fn(&Outcome) -> (bool, bool),
) {
    let netns = Netns::new("a");
    let plugin = lab.plugin();
    let whose = Whose {
        container: "c1",
        interface: "eth0",
        netns: "/run/netns/a",
    };
    let config = json!({
        "cniVersion": "1.1.0", "name": "blue", "type": "hawser", "ipMasq": true,
        "ipam": { "subnet": "10.22.0.0/24", "rangeStart": "10.22.0.9", "rangeEnd": "10.22.0.9" },
        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] },
    });
    let is_add = operation == "ADD";
    let takes_back = !is_add || fault.contains("KILL");
    let work = Work {
        command: &|| {
            if !is_add {
                plugin.call("ADD", whose, &config).ok();
            }
            plugin.operation(operation, whose, &config)
        },
        input: Some(plugin.input()),
        undo: &|outcome| {
            if takes_back || outcome.code == 0 {
                plugin.call("DEL", whose, &config).ok();
            }
            let links = netns.sh("ip -o link");
            assert!(!links.contains("eth0"), "{fault}: {outcome}: {links}");
        },
    };
    inject_into(lab, fault, &work, wanted, judge);
}

#[test]
fn a_kill_of_a_cni_add_leaves_nothing_that_del_does_not_take() {
    let judge = |outcome: &Outcome| ([0, -9].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject_into_plugin(lab, "ADD", "signal=KILL", |_| true, judge));
}

#[test]
fn a_kill_of_a_cni_del_leaves_nothing_that_the_next_does_not_take() {
    let judge = |outcome: &Outcome| ([0, -9].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject_into_plugin(lab, "DEL", "signal=KILL", |_| true, judge));
}

#[test]
fn a_termination_of_a_cni_add_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 1, -15].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject_into_plugin(lab, "ADD", "signal=TERM", |_| true, judge));
}

#[test]
fn a_system_call_of_a_cni_add_that_fails_leaves_nothing_and_is_told() {
    let judge = |outcome: &Outcome| {
        let answer = serde_json::from_slice::<serde_json::Value>(&outcome.stdout);
        let told = outcome.code == 1 && answer.is_ok_and(|answer| answer["code"].is_u64());
        (outcome.code == 0 || told, told)
    };
    let wanted = |name: &str| !OTHERS.contains(&name);
    case(|lab| inject_into_plugin(lab, "ADD", "error=ENOSPC", wanted, judge));
}
