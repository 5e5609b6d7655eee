//! Work that is disturbed at one of its system calls, and what has to be there afterwards: nothing.

use std::cell::RefCell;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use nix::mount::umount;
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use crate::net::{Lab, Netns};
use crate::plugin::{Plugin, Whose};
use crate::process::{DEADLINE, Outcome, Running, collect, wait_for_end};
use crate::snapshot::Snapshot;
use crate::strace;

/// Address and port of what is attached.
const ADDRESS: &[&str] = &["--ip", "172.19.0.9", "-p", "8080:80"];

/// What is disturbed.
pub struct Work<'a> {
    /// It, not started yet. What it needs is there.
    pub command: &'a dyn Fn() -> Command,
    /// Takes back what is there when it has succeeded, or was killed (-9); panics if something is left of any other end.
    pub undo: &'a dyn Fn(&Outcome),
    /// Whether nothing is to be there after this outcome, before any other command of ours.
    pub is_over: &'a dyn Fn(&Outcome) -> bool,
    /// What it reads.
    pub input: Option<PathBuf>,
}

impl Work<'_> {
    /// Under strace with these options.
    pub fn traced(&self, options: &[&str], trace: &str) -> Command {
        let mut command = strace::traced(&(self.command)(), options, trace);
        if let Some(path) = &self.input {
            command.stdin(File::open(path).expect("what it reads"));
        }
        command
    }
}

/// The system calls of a run, in order: name, and the how manieth of that name it is (strace counts like that).
pub fn calls(lab: &Lab, work: &Work) -> Vec<(String, usize)> {
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

/// Runs `work` with `fault` injected at each of the calls that `wanted` picks; each time `judge` says whether the outcome is
/// one of those that may be, and whether the fault had any effect.
#[track_caller]
pub fn inject_into(
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

/// `run` of a container that ends at once.
pub fn with_run(lab: &Lab, options: &[&str], body: impl FnOnce(&Work)) {
    with_run_of(lab, options, &["true"], body);
}

/// `run` of this command.
pub fn with_run_of(lab: &Lab, options: &[&str], command: &[&str], body: impl FnOnce(&Work)) {
    body(&Work {
        command: &|| lab.run_command(options, command),
        undo: &|_| {},
        is_over: &is_done,
        input: None,
    });
}

/// `exec` in a container that lives, and what there is without it.
pub fn with_exec(lab: &Lab, options: &[&str], body: impl FnOnce(&Work, &Snapshot)) {
    let web = lab.start_idle(&[&["--name", "web", "--network", "none"], options].concat());
    let before = Snapshot::take();
    let work = Work {
        command: &|| lab.command(&["exec", "web", "true"]),
        undo: &|_| {},
        is_over: &|_| false,
        input: None,
    };
    body(&work, &before);
    drop(web);
}

/// `run -d` of container web, and the `stop` that ends it; after a `stop` that has failed another, which says nothing.
pub fn with_run_and_stop(lab: &Lab, options: &[&str], body: impl FnOnce(&Work)) {
    let options = [&["-d", "--name", "web"], options].concat();
    let script =
        "\"$@\" || exit; \"$1\" stop web || { code=$?; \"$1\" stop web 2>/dev/null; exit $code; }";
    body(&Work {
        command: &|| {
            let run = lab.run_command(&options, &["sleep", "1000"]);
            let mut shell = lab.command_of("sh");
            shell.args(["-c", script, "sh"]).arg(run.get_program());
            shell.args(run.get_args());
            shell
        },
        undo: &|outcome| {
            // Of what has begun its log and its exit code stay.
            if outcome.out().contains("web") {
                lab.hawser(&["rm", "web"]).ok();
            }
        },
        is_over: &has_succeeded,
        input: None,
    });
}

/// `run -t` on a terminal, whose settings are to be the same afterwards; the output goes to a pipe.
pub fn with_run_on_terminal(lab: &Lab, options: &[&str], body: impl FnOnce(&Work)) {
    let pair = nix::pty::openpty(None, None).expect("open a terminal");
    let settings = || tcgetattr(&pair.slave).expect("settings of the terminal");
    let first = settings();
    let options = [&["-t"], options].concat();
    body(&Work {
        command: &|| {
            let mut run = lab.run_command(&options, &["true"]);
            run.stdin(pair.slave.try_clone().expect("duplicate the terminal"));
            run
        },
        undo: &|outcome| {
            let last = settings();
            tcsetattr(&pair.slave, SetArg::TCSANOW, &first).expect("as before");
            let is_killed = [-libc::SIGKILL, -libc::SIGABRT].contains(&outcome.code);
            assert!(
                is_killed || last == first,
                "the terminal's settings: {outcome}"
            );
        },
        is_over: &is_done,
        input: None,
    });
}

/// The same where there is no network yet; it is taken away again.
pub fn with_first_run(lab: &Lab, options: &[&str], body: impl FnOnce(&Work)) {
    lab.hawser(&["down"]).ok();
    body(&Work {
        command: &|| lab.run_command(options, &["true"]),
        undo: &|_| {
            lab.settle();
            lab.hawser(&["down"]).ok();
        },
        is_over: &has_failed,
        input: None,
    });
}

/// `attach` of a container with mounts of its own, and everything that it may leave taken back by `detach`.
pub fn with_attach(lab: &Lab, body: impl FnOnce(&Work)) {
    attached(lab, &[], is_taken_back, body);
}

/// `attach` of a new container each time, which ends, and nobody calls `detach`: what is left is for the next command.
pub fn with_attach_and_end(lab: &Lab, body: impl FnOnce(&Work)) {
    let guest = RefCell::new(None);
    body(&Work {
        command: &|| {
            let new = guest_with_mounts();
            let command = attach(lab, &new.pid().to_string(), &[]);
            guest.replace(Some(new));
            command
        },
        undo: &|_| {
            let guest = guest.take().expect("a container");
            Running::end(guest).exits(0);
        },
        is_over: &|_| false,
        input: None,
    });
}

/// `attach --stay` of the same, which is to be told by a signal that it is to go; it takes everything back then.
pub fn with_stay(lab: &Lab, body: impl FnOnce(&Work)) {
    let is_killed = |outcome: &Outcome| outcome.code != 0 && is_taken_back(outcome);
    attached(lab, &["--stay"], is_killed, body);
}

/// `attach --stay` of a new container each time, and what ends that: who stays goes by itself then.
pub fn with_stay_to_the_end(lab: &Lab, body: impl FnOnce(&Work, &(dyn Fn() + Sync))) {
    let guest = Mutex::new(None);
    let end = || {
        let guest = guest.lock().expect("a container").take();
        if let Some(guest) = guest {
            Running::end(guest).exits(0);
        }
    };
    let work = Work {
        command: &|| {
            let new = guest_with_mounts();
            let command = attach(lab, &new.pid().to_string(), &["--stay"]);
            *guest.lock().expect("a container") = Some(new);
            command
        },
        // Of one that was killed too.
        undo: &|_| end(),
        is_over: &|_| false,
        input: None,
    };
    body(&work, &end);
}

/// `attach --stay` of a network namespace, which is told to go as soon as it has said that it is there.
pub fn with_stay_of_namespace(lab: &Lab, body: impl FnOnce(&Work)) {
    let script = "{ sh -c 'echo $$; exec \"$@\"' sh \"$@\"; echo $?; } | {
            read -r pid; read -r said
            if [ \"$said\" = web ]; then kill -TERM $pid; read -r said; fi
            exit $said; }";
    let netns = Netns::new("a");
    let words = ["--netns", "/run/netns/a", "--name", "web"];
    let words = [&["attach", "--stay"], &words[..], ADDRESS].concat();
    let is_told = |outcome: &Outcome| has_succeeded(outcome) || has_failed(outcome);
    body(&Work {
        command: &|| {
            let stay = lab.command(&words);
            let mut shell = lab.command_of("sh");
            shell.args(["-c", script, "sh"]).arg(stay.get_program());
            shell.args(stay.get_args());
            shell
        },
        undo: &|outcome| {
            if !is_told(outcome) {
                lab.hawser(&["detach", "--netns", "/run/netns/a"]).ok();
            }
            let links = netns.sh("ip -o link");
            assert!(!links.contains("eth0"), "{outcome}: {links}");
        },
        // What it could not take back at the end it says: the next call does.
        is_over: &|outcome| {
            has_failed(outcome) || has_succeeded(outcome) && outcome.stderr.is_empty()
        },
        input: None,
    });
}

fn guest_with_mounts() -> Running {
    Running::unshared(&["-n", "-m"], "exec cat")
}

fn attach(lab: &Lab, pid: &str, options: &[&str]) -> Command {
    let words = ["attach", pid, "--name", "web"];
    lab.command(&[&words[..], ADDRESS, options].concat())
}

/// `is_left`: whether it is there, or may be.
fn attached(
    lab: &Lab,
    options: &[&str],
    is_left: impl Fn(&Outcome) -> bool,
    body: impl FnOnce(&Work),
) {
    let guest = guest_with_mounts();
    let pid = guest.pid().to_string();
    let netns = Netns::of(guest.pid());
    let mounts = || std::fs::read_to_string(format!("/proc/{pid}/mountinfo"));
    let first = mounts().expect("its mounts");
    body(&Work {
        command: &|| attach(lab, &pid, options),
        undo: &|outcome| {
            if is_left(outcome) {
                lab.hawser(&["detach", &pid]).ok();
            }
            let links = netns.sh("ip -o link");
            assert!(!links.contains("eth0"), "{outcome}: {links}");
            let now = mounts().expect("its mounts");
            assert!(now == first, "{outcome}: {now}");
        },
        is_over: &has_failed,
        input: None,
    });
    guest.end().exits(0);
}

/// `detach`, at any moment: the next one takes the rest.
pub fn with_detach(lab: &Lab, body: impl FnOnce(&Work)) {
    let guest = guest_with_mounts();
    let pid = guest.pid().to_string();
    body(&Work {
        command: &|| {
            collect(attach(lab, &pid, &[]), DEADLINE).exits(0);
            lab.command(&["detach", &pid])
        },
        undo: &|_| {
            lab.hawser(&["detach", &pid]).ok();
        },
        is_over: &has_succeeded,
        input: None,
    });
    guest.end().exits(0);
}

/// `up` of a network, and the `down` that takes it away.
pub fn with_up_and_down(lab: &Lab, body: impl FnOnce(&Work)) {
    lab.hawser(&["down"]).ok();
    body(&Work {
        command: &|| {
            let mut shell = lab.command_of("sh");
            let program = lab.command(&[]);
            let script = "\"$1\" up >/dev/null && \"$1\" down";
            shell.args(["-c", script, "sh"]).arg(program.get_program());
            shell
        },
        undo: &|_| {
            lab.hawser(&["down"]).ok();
        },
        is_over: &has_succeeded,
        input: None,
    });
}

/// createRuntime of a container with mounts of its own, and everything that it may leave taken back by poststop, as runtimes
/// call it after a hook that has failed: the container is gone then. Each time it is a new one, which takes the place of the one before:
/// one is always there.
pub fn with_hook(lab: &Lab, body: impl FnOnce(&Work)) {
    let bundle = lab
        .bundle("web", "")
        .annotated("hawser.ip", "172.19.0.9")
        .annotated("hawser.publish", "8080:80");
    let guest = RefCell::new(bundle.created());
    body(&Work {
        command: &|| {
            let state = bundle.state("web", "creating", guest.borrow().pid());
            lab.hook_command(&["--ip-file", "/run/hawser-ip"], &state)
        },
        undo: &|outcome| {
            let guest = guest.replace(bundle.created());
            let pid = guest.pid();
            if outcome.code > 0 {
                // What has failed by itself has left nothing inside either.
                let links = Netns::of(pid).sh("ip -o link");
                assert!(!links.contains("eth0"), "{outcome}: {links}");
            }
            guest.end().exits(0);
            wait_for_end(pid);
            let released = lab.hook(&[], &bundle.state("web", "stopped", 0));
            assert_eq!(released.err(), "", "{outcome}");
        },
        is_over: &has_failed,
        input: Some(lab.dir.join("state")),
    });
    guest.into_inner().end().exits(0);
}

/// poststop at any moment: the next one takes the rest.
pub fn with_poststop(lab: &Lab, body: impl FnOnce(&Work)) {
    let bundle = lab.bundle("web", "").annotated("hawser.ip", "172.19.0.9");
    let bundle = bundle.annotated("hawser.publish", "8080:80");
    body(&Work {
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
        // What it could not do it says, and has succeeded all the same: its runtime goes on.
        is_over: &|outcome| outcome.code == 0 && outcome.stderr.is_empty(),
        input: Some(lab.dir.join("state")),
    });
}

/// What the plugin attaches.
const WHOSE: Whose = Whose {
    container: "c1",
    interface: "eth0",
    netns: NETNS,
};
/// Where that is.
const NETNS: &str = "/run/netns/a";

/// The network that it is attached to, with one address and a port.
fn blue() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "blue", "type": "hawser", "ipMasq": true,
        "ipam": { "subnet": "10.22.0.0/24", "rangeStart": "10.22.0.9", "rangeEnd": "10.22.0.9" },
        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] },
    })
}

/// GC by a runtime that knows of no attachment, not started yet.
fn gc(plugin: &Plugin) -> Command {
    let config = with_none_known(&blue());
    plugin.command(config.to_string().as_bytes(), &[("CNI_COMMAND", "GC")])
}

/// An operation of the CNI plugin; what it may leave is taken back by DEL.
pub fn with_plugin(lab: &Lab, operation: &str, body: impl FnOnce(&Work)) {
    let netns = Netns::new("a");
    let (plugin, config) = (lab.plugin(), blue());
    let is_add = operation == "ADD";
    body(&Work {
        command: &|| {
            if !is_add {
                plugin.call("ADD", WHOSE, &config).ok();
            }
            if operation == "GC" {
                return gc(&plugin);
            }
            plugin.operation(operation, WHOSE, &config)
        },
        is_over: &|outcome| {
            if is_add {
                has_failed(outcome)
            } else {
                has_succeeded(outcome)
            }
        },
        input: Some(plugin.input()),
        undo: &|outcome| {
            let assert_gone = || {
                let links = netns.sh("ip -o link");
                assert!(!links.contains("eth0"), "{outcome}: {links}");
            };
            if !is_add && outcome.code == 0 {
                // What it says that it has done.
                assert_gone();
            }
            if !is_add || is_taken_back(outcome) {
                plugin.call("DEL", WHOSE, &config).ok();
            }
            assert_gone();
        },
    });
}

/// ADD to a new network namespace each time, which goes, and nobody calls DEL: what is left is for the next command. With it GC, which
/// may be that.
pub fn with_add_and_end(lab: &Lab, body: impl FnOnce(&Work, &dyn Fn())) {
    let (plugin, config) = (lab.plugin(), blue());
    let netns = RefCell::new(None);
    let work = Work {
        command: &|| {
            netns.replace(Some(Netns::new("a")));
            plugin.operation("ADD", WHOSE, &config)
        },
        undo: &|_| {
            drop(netns.take());
            umount(NETNS).expect("let go of a network namespace");
            std::fs::remove_file(NETNS).expect("remove what it was mounted on");
        },
        is_over: &|_| false,
        input: Some(plugin.input()),
    };
    body(&work, &|| {
        collect(gc(&plugin), DEADLINE).exits(0);
    });
}

/// What GC is told by a runtime that knows of no attachment.
fn with_none_known(config: &Value) -> Value {
    let mut config = config.clone();
    config["cni.dev/valid-attachments"] = json!([]);
    config
}

/// It has ended by itself, well or not.
fn is_done(outcome: &Outcome) -> bool {
    outcome.code >= 0 && outcome.code != 128 + libc::SIGABRT
}

fn has_failed(outcome: &Outcome) -> bool {
    [1, 125].contains(&outcome.code)
}

fn has_succeeded(outcome: &Outcome) -> bool {
    outcome.code == 0
}

/// Whether what it has made is there, or may be: it has succeeded, or nobody was left to take it back (killed, or without
/// memory).
fn is_taken_back(outcome: &Outcome) -> bool {
    [0, -libc::SIGKILL, -libc::SIGABRT].contains(&outcome.code)
}
