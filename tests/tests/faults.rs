//! Every system call fails once, in each way that its manual page names as likely, and the kernel refuses every netlink request
//! once: either the command succeeds all the same, or it says in one line what it was doing (verb and object), and why that
//! failed, and nothing is left.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use lab::tracer::{Call, Fault, Trace, trace};
use lab::{
    DEADLINE, Lab, Outcome, Snapshot, Work, calls, case, collect, errnos, sh, skip, with_attach,
    with_detach, with_first_run, with_hook, with_plugin, with_poststop, with_run,
    with_run_and_stop, with_run_of, with_run_on_terminal, with_stay_of_namespace, with_up_and_down,
};

/// What a call and its fault are called in a complaint.
fn describe(call: &Call, fault: Fault) -> String {
    match fault {
        Fault::Refused(..) => format!("process {}: {fault}", call.process),
        _ => {
            let name = errnos::name(call);
            format!("process {} {name} {}: {fault}", call.process, call.nth)
        }
    }
}

fn errno(fault: Fault) -> String {
    format!("{:?}", fault.errno())
}

/// Whether the cause is in a sentence: by its name, or in other words.
fn names_cause(sentence: &str, fault: Fault) -> bool {
    let is_named = sentence.contains(&format!("({})", errno(fault)));
    // It takes a free port or name for taken.
    let is_taken = fault == Fault::Instead(Errno::EADDRINUSE) && sentence.contains("is in use");
    // What init has no word for it tells as a number.
    let is_number = sentence.contains(&format!("errno {}", fault.errno() as i32));
    is_named || is_taken || is_number
}

/// What our steps begin with.
#[rustfmt::skip]
const VERBS: &[&str] = &[
    "add", "ask", "attach", "become", "bind", "block", "bring", "clone", "close", "copy", "create", "delete", "drop",
    "enter", "execute", "filter", "find", "follow", "forward", "give", "hand", "hide", "install", "join", "keep",
    "let", "list", "listen", "lock", "look", "make", "map", "mask", "mount", "name", "open", "pass", "pivot",
    "preserve", "publish", "put", "read", "redirect", "release", "remount", "remove", "send", "set", "show", "start",
    "sweep", "take", "tell", "uncover", "unmount", "use", "wait", "watch", "write",
];

/// Whether these words are a step: a verb, and what it is done to.
fn is_step(words: &str) -> bool {
    // All that is done at once is no object.
    if words == "set up the container's network" {
        return false;
    }
    let mut words = words.split(' ');
    let verb = words.next().unwrap_or_default();
    if ["mask", "remount"].contains(&verb) {
        return words.next().is_some_and(|path| path.starts_with('/'));
    }
    VERBS.contains(&verb)
        && words.any(|word| !["to", "at", "for", "up", "of", "on", "the"].contains(&word))
}

/// Whether a sentence is a step (`release container web: look for link 7`: one and its part), then why that has failed, and nothing
/// else but what the kernel says of it, and its cure.
fn names_step_and_cause(sentence: &str, fault: Fault) -> bool {
    let mut parts = sentence.split(": ");
    let mut is_step_before = false;
    loop {
        match parts.next() {
            Some(part) if is_step(part) => is_step_before = true,
            Some(part) => return is_step_before && names_cause(part, fault),
            None => return false,
        }
    }
}

/// No memory for what Rust's library does before `main` is called: it says so, and aborts. As a shell tells it, too.
fn has_not_begun(outcome: &Outcome, fault: Fault) -> bool {
    let is_aborted = [-libc::SIGABRT, 128 + libc::SIGABRT].contains(&outcome.code);
    let is_said = outcome.err().contains("alternative stack");
    is_aborted && is_said && fault == Fault::Instead(Errno::ENOMEM)
}

/// Whether an outcome of `run`, `attach` and the hook may be.
fn is_told(outcome: &Outcome, call: &Call, fault: Fault) -> bool {
    let (text, name) = (outcome.err(), errnos::name(call));
    let is_line = text.lines().count() == 1 && text.ends_with('\n');
    let is_ours = text.starts_with("host-helper: ") || text.starts_with("init: ");
    match outcome.code {
        // A warning, at most; and an interruption is none.
        0 if text.is_empty() => true,
        0 => is_line && is_ours && names_cause(&text, fault) && errno(fault) != "EINTR",
        // init has no status pipe to say it on, and its standard error is not ours.
        125 if name == "fcntl(F_DUPFD)" => is_line && text.contains("init"),
        125 if is_line && is_ours => {
            let sentence = text.split_once(": ").map_or("", |(_, sentence)| sentence);
            names_step_and_cause(sentence, fault) && errno(fault) != "EINTR"
        }
        126 | 127 => is_line && ["execve", "faccessat"].contains(&name.as_str()),
        _ => has_not_begun(outcome, fault),
    }
}

/// The same of a container on a terminal, where the standard error of init, and so what it says, is the terminal.
fn is_told_on_terminal(outcome: &Outcome, call: &Call, fault: Fault) -> bool {
    let mut said = [&outcome.stderr[..], &outcome.stdout].concat();
    said.retain(|byte| *byte != b'\r');
    let all = Outcome {
        stdout: vec![],
        stderr: said,
        ..*outcome
    };
    is_told(&all, call, fault)
}

/// The same of the CNI plugin.
fn is_told_in_json(outcome: &Outcome, _: &Call, fault: Fault) -> bool {
    let answer = serde_json::from_slice::<serde_json::Value>(&outcome.stdout).ok();
    let sentence = answer.as_ref().and_then(|answer| answer["msg"].as_str());
    match outcome.code {
        0 => sentence.is_none() && outcome.err().lines().count() < 2,
        1 => {
            let has_code = answer
                .as_ref()
                .is_some_and(|answer| answer["code"].is_u64());
            let is_told = sentence.is_some_and(|sentence| names_step_and_cause(sentence, fault));
            has_code && is_told && outcome.stderr.is_empty() && errno(fault) != "EINTR"
        }
        _ => has_not_begun(outcome, fault),
    }
}

/// What is left before any other command of ours: nothing, but the log and the exit code of a container that has run by itself.
fn left(before: &Snapshot) -> Vec<String> {
    let mut changes = before.changes();
    let is_output = |change: &String| {
        let files = ["log", "code"].map(|end| format!("files: /run/hawser/web.{end}"));
        files.iter().any(|file| change.starts_with(file))
    };
    changes.retain(|change| !is_output(change));
    changes
}

/// The same of a first run, which may leave the network: whole, as `with_network` shows it, but for what comes with the first container.
fn left_beside_network(before: &Snapshot, with_network: &Snapshot) -> Vec<String> {
    let is_there = if_nametoindex("hawser0").is_ok() || !sh("nft list tables").is_empty();
    let mut changes = left(if is_there { with_network } else { before });
    changes.retain(|change| {
        // Its names, which the next container completes.
        let is_of_network = change.starts_with("files: /run/hawser/hawser0.");
        let comes_later =
            change.starts_with("files: /run/hawser") || change.contains("elements = ");
        !(is_of_network || is_there && comes_later && change.ends_with(" is gone"))
    });
    changes
}

/// What was tried, and what came of it.
#[derive(Default)]
struct Tally {
    /// Faults that took place; of them those of requests, and those of requests whose answer nobody has read.
    tried: usize,
    refused: usize,
    unread: usize,
    /// Faults whose call another run did not make.
    missed: usize,
    /// Faults that were an error; of requests, those that were none.
    told: usize,
    survived: Vec<String>,
    complaints: Vec<String>,
}

/// The faults of the calls and of the requests of `work`.
fn faults_of(work: &Work, is_wanted: Wanted) -> (usize, Vec<(Call, Fault)>) {
    (work.undo)(&collect((work.command)(), DEADLINE).exits(0));
    // The one with the fewest calls: as long as another has the lock of all links, a write to a switch is made again and again.
    let seen = (0..3).map(|_| {
        let seen = trace((work.command)(), None);
        assert_eq!(seen.outcome.code, 0, "{}", seen.outcome);
        (work.undo)(&seen.outcome);
        seen
    });
    let seen = seen.min_by_key(|seen| seen.calls.len()).expect("three");
    let failing = seen.calls.iter().map(|call| (call, errnos::faults(call)));
    let failing = failing.filter(|(_, ways)| !ways.is_empty()).enumerate();
    let calls = failing.flat_map(|(nth, (call, ways))| {
        let ways = ways.into_iter().enumerate();
        let wanted = ways.filter(move |(way, _)| is_wanted(nth, *way));
        wanted.map(move |(_, fault)| (call.clone(), fault))
    });
    // There are so few requests that all of them are tried.
    let requests = seen.requests.iter().flat_map(|(call, request)| {
        let ways = errnos::REFUSALS.iter().enumerate();
        let wanted = ways.filter(|(way, _)| is_wanted(0, *way));
        wanted.map(|(_, errno)| (call.clone(), Fault::Refused(*request, *errno)))
    });
    (seen.calls.len(), calls.chain(requests).collect())
}

/// The namespace that `attach` and the plugin are told.
const NETNS: &str = "/run/netns/a";

/// Lets each call of `work` fail, and each of its requests be refused, in those of its ways that are wanted.
fn sweep(
    lab: &Lab,
    what: &str,
    work: &Work,
    is_wanted: Wanted,
    judge: impl Fn(&Outcome, &Call, Fault) -> bool,
) {
    sweep_and_look(lab, what, work, is_wanted, judge, left);
}

/// The same; `left` says what of it is not to be there, before any other command of ours.
fn sweep_and_look(
    lab: &Lab,
    what: &str,
    work: &Work,
    is_wanted: Wanted,
    judge: impl Fn(&Outcome, &Call, Fault) -> bool,
    left: impl Fn(&Snapshot) -> Vec<String>,
) {
    let (calls, faults) = faults_of(work, is_wanted);
    lab.settle();
    let mut before = Snapshot::take();
    let mut tally = Tally::default();
    let only = std::env::var("ONLY").ok();
    for (call, fault) in &faults {
        let (fault, described) = (*fault, describe(call, *fault));
        if only.as_ref().is_some_and(|only| !described.contains(only)) {
            continue;
        }
        let seen = trace((work.command)(), Some((call, fault)));
        let outcome = &seen.outcome;
        tally.count(&seen, fault, &described);
        let mut complain = |why: &str| {
            let complaint = format!("## {what} {described}: {why}: {outcome}").replace('\n', "; ");
            tally.complaints.push(complaint);
        };
        if seen.is_stuck {
            complain("it does not end");
        } else if seen.is_hit && !judge(outcome, call, fault) {
            complain("not told");
        }
        // What the caller has named is the object.
        let said = outcome.out() + &outcome.err();
        let is_named = |path: &str| seen.path != path || said.contains(path);
        if outcome.code != 0 && !(is_named(NETNS) && is_named(&lab.rootfs.to_string_lossy())) {
            complain(&format!("{} is not named", seen.path));
        }
        let is_over = !seen.is_stuck && (work.is_over)(outcome);
        if is_over {
            lab.settle();
            let left = left(&before);
            if !left.is_empty() {
                complain(&format!("left: {}", left.join("; ")));
            }
        }
        if catch_unwind(AssertUnwindSafe(|| (work.undo)(outcome))).is_err() {
            complain("left inside");
            // So that the next one is judged by itself.
            let again = trace((work.command)(), None);
            (work.undo)(&again.outcome);
        }
        // What it could not take back from the firewall, the next call does, once the link is gone.
        lab.settle();
        lab.hawser(&["ls"]).exits(0);
        let changes = before.changes();
        if !changes.is_empty() {
            complain(&changes.join("; "));
            before = Snapshot::take();
        }
    }
    tally.show(what, calls);
}

impl Tally {
    fn count(&mut self, seen: &Trace, fault: Fault, described: &str) {
        let is_told = seen.outcome.code != 0;
        self.missed += usize::from(!seen.is_hit);
        self.tried += usize::from(seen.is_hit);
        self.told += usize::from(is_told);
        if seen.is_hit && matches!(fault, Fault::Refused(..)) {
            self.refused += 1;
            self.unread += usize::from(!seen.is_read);
            if !is_told {
                self.survived.push(described.to_owned());
            }
        }
    }

    fn show(&self, what: &str, calls: usize) {
        show(&format!(
            "| {what} | {calls} calls | {} faults | {} of them refused requests ({} unread) | {} calls that another run did not make | {} errors |",
            self.tried, self.refused, self.unread, self.missed, self.told,
        ));
        for survived in &self.survived {
            show(&format!("| {what} | {survived} | succeeds all the same |"));
        }
        // Those are where processes wait for each other; what is left out is said above.
        let Tally { tried, missed, .. } = self;
        assert!(missed * 5 < *tried, "{missed} of the calls were not made");
        assert!(
            self.complaints.is_empty(),
            "{} complaints of {tried} faults:\n{}",
            self.complaints.len(),
            self.complaints.join("\n")
        );
    }
}

#[expect(
    clippy::print_stdout,
    reason = "libtest captures it, and shows it when it is asked to"
)]
fn show(line: &str) {
    // libtest has begun a line.
    println!("\n{line}");
}

/// Whether the how manieth call is to fail in the how manieth of its ways.
type Wanted = fn(usize, usize) -> bool;

/// Only the first way, the likeliest: in the time that all tests together may take.
fn likeliest(_: usize, way: usize) -> bool {
    way == 0
}

/// The same of every fifth call, where most are those of a plain run.
fn fifth(nth: usize, way: usize) -> bool {
    nth % 5 == 0 && way == 0
}

/// All of them: `cargo nextest run -p tests --test faults --run-ignored only --success-output final`.
fn all(_: usize, _: usize) -> bool {
    true
}

const RUN: &[&str] = &["--name", "web", "--ip", "172.19.0.9", "-p", "8080:80"];

#[test]
fn each_call_of_a_run_fails_in_its_likeliest_way() {
    case(|lab| with_run(lab, RUN, |work| sweep(lab, "run", work, likeliest, is_told)));
}

/// The firewall refuses everything from some moment on: what is left then is told, and taken back by what that says.
#[test]
fn what_cannot_be_taken_back_is_told() {
    case(|lab| {
        with_run(lab, RUN, |work| {
            let sent = calls(lab, work)
                .into_iter()
                .filter(|(name, _)| name == "sendto");
            lab.settle();
            let (before, mut told) = (Snapshot::take(), 0);
            for (_, nth) in sent {
                let inject = format!("inject=sendto:error=ENOBUFS:when={nth}+");
                let path = lab.dir.join("trace2");
                let options = ["-e", "trace=sendto", "-e", &inject];
                let outcome = collect(work.traced(&options, &path.to_string_lossy()), DEADLINE);
                std::fs::remove_file(&path).expect("the trace");
                lab.settle();
                let left = before.changes();
                let has_rules = left.iter().any(|change| change.starts_with("rules: "));
                let is_told = outcome.err().contains("; host-helper ls takes it back\n");
                assert!(is_told || !has_rules, "{inject}: {left:?}: {outcome}");
                told += usize::from(is_told && outcome.code == 0);
                lab.hawser(&["ls"]).exits(0);
                let rest = before.changes();
                assert!(rest.is_empty(), "{inject}: {rest:?}");
            }
            assert!(told > 0, "none of them is at the end");
        })
    });
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_a_run_fails_in_every_way() {
    case(|lab| with_run(lab, RUN, |work| sweep(lab, "run", work, all, is_told)));
}

fn first_run(lab: &Lab, is_wanted: Wanted) {
    lab.run(RUN, &["true"]).ok();
    lab.settle();
    let with_network = Snapshot::take();
    let left = |before: &Snapshot| left_beside_network(before, &with_network);
    with_first_run(lab, RUN, |work| {
        sweep_and_look(lab, "first run", work, is_wanted, is_told, left)
    });
}

#[test]
fn each_call_of_the_first_run_fails_in_its_likeliest_way() {
    case(|lab| first_run(lab, likeliest));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_the_first_run_fails_in_every_way() {
    case(|lab| first_run(lab, all));
}

#[test]
fn each_call_of_attach_fails_in_its_likeliest_way() {
    case(|lab| with_attach(lab, |work| sweep(lab, "attach", work, likeliest, is_told)));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_attach_fails_in_every_way() {
    case(|lab| with_attach(lab, |work| sweep(lab, "attach", work, all, is_told)));
}

#[test]
fn each_call_of_an_attach_that_stays_fails_in_its_likeliest_way() {
    case(|lab| {
        with_stay_of_namespace(lab, |work| {
            sweep(lab, "attach --stay", work, likeliest, is_told)
        })
    });
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_an_attach_that_stays_fails_in_every_way() {
    case(|lab| with_stay_of_namespace(lab, |work| sweep(lab, "attach --stay", work, all, is_told)));
}

#[test]
fn each_call_of_the_hook_fails_in_its_likeliest_way() {
    case(|lab| with_hook(lab, |work| sweep(lab, "hook", work, likeliest, is_told)));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_the_hook_fails_in_every_way() {
    case(|lab| with_hook(lab, |work| sweep(lab, "hook", work, all, is_told)));
}

#[test]
fn each_call_of_poststop_fails_in_its_likeliest_way() {
    case(|lab| with_poststop(lab, |work| sweep(lab, "poststop", work, likeliest, is_told)));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_poststop_fails_in_every_way() {
    case(|lab| with_poststop(lab, |work| sweep(lab, "poststop", work, all, is_told)));
}

#[test]
fn each_call_of_cni_add_fails_in_its_likeliest_way() {
    case(|lab| {
        with_plugin(lab, "ADD", |work| {
            sweep(lab, "CNI ADD", work, likeliest, is_told_in_json)
        })
    });
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_cni_add_fails_in_every_way() {
    case(|lab| {
        with_plugin(lab, "ADD", |work| {
            sweep(lab, "CNI ADD", work, all, is_told_in_json)
        })
    });
}

#[test]
fn each_call_of_cni_del_fails_in_its_likeliest_way() {
    case(|lab| {
        with_plugin(lab, "DEL", |work| {
            sweep(lab, "CNI DEL", work, likeliest, is_told_in_json)
        })
    });
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_cni_del_fails_in_every_way() {
    case(|lab| {
        with_plugin(lab, "DEL", |work| {
            sweep(lab, "CNI DEL", work, all, is_told_in_json)
        })
    });
}

#[test]
fn each_call_of_cni_gc_fails_in_its_likeliest_way() {
    case(|lab| {
        with_plugin(lab, "GC", |work| {
            sweep(lab, "CNI GC", work, likeliest, is_told_in_json)
        })
    });
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_cni_gc_fails_in_every_way() {
    case(|lab| {
        with_plugin(lab, "GC", |work| {
            sweep(lab, "CNI GC", work, all, is_told_in_json)
        })
    });
}

/// Addresses and ports as in a plain run.
const ADDRESS: &[&str] = &["--ip", "172.19.0.9", "-p", "8080:80"];

fn by_itself(lab: &Lab, is_wanted: Wanted) {
    with_run_and_stop(lab, ADDRESS, |work| {
        sweep(lab, "run -d, stop", work, is_wanted, is_told)
    });
}

#[test]
fn calls_of_a_run_by_itself_and_its_stop_fail_in_their_likeliest_way() {
    case(|lab| by_itself(lab, fifth));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_a_run_by_itself_and_its_stop_fails_in_every_way() {
    case(|lab| by_itself(lab, all));
}

fn with_init(lab: &Lab, is_wanted: Wanted) {
    // What the command leaves is asked to end.
    let command = ["sh", "-c", "sleep 1000 & exit 0"];
    with_run_of(lab, &[&["--init"], RUN].concat(), &command, |work| {
        sweep(lab, "run --init", work, is_wanted, is_told)
    });
}

#[test]
fn calls_of_a_run_with_init_fail_in_their_likeliest_way() {
    case(|lab| with_init(lab, fifth));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_a_run_with_init_fails_in_every_way() {
    case(|lab| with_init(lab, all));
}

fn with_users(lab: &Lab, is_wanted: Wanted) {
    if !lab.real_root {
        return skip("user namespaces for containers are made by root");
    }
    with_run(lab, &[&["--userns"], RUN].concat(), |work| {
        sweep(lab, "run --userns", work, is_wanted, is_told)
    });
}

#[test]
fn calls_of_a_run_with_a_user_namespace_fail_in_their_likeliest_way() {
    case(|lab| with_users(lab, fifth));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_a_run_with_a_user_namespace_fails_in_every_way() {
    case(|lab| with_users(lab, all));
}

fn on_terminal(lab: &Lab, is_wanted: Wanted) {
    with_run_on_terminal(lab, RUN, |work| {
        sweep(lab, "run -t", work, is_wanted, is_told_on_terminal)
    });
}

#[test]
fn calls_of_a_run_on_a_terminal_fail_in_their_likeliest_way() {
    case(|lab| on_terminal(lab, fifth));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_a_run_on_a_terminal_fails_in_every_way() {
    case(|lab| on_terminal(lab, all));
}

#[test]
fn each_call_of_detach_fails_in_its_likeliest_way() {
    case(|lab| with_detach(lab, |work| sweep(lab, "detach", work, likeliest, is_told)));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_detach_fails_in_every_way() {
    case(|lab| with_detach(lab, |work| sweep(lab, "detach", work, all, is_told)));
}

#[test]
fn each_call_of_up_and_down_fails_in_its_likeliest_way() {
    case(|lab| with_up_and_down(lab, |work| sweep(lab, "up, down", work, likeliest, is_told)));
}

#[test]
#[ignore = "a soak: minutes"]
fn each_call_of_up_and_down_fails_in_every_way() {
    case(|lab| with_up_and_down(lab, |work| sweep(lab, "up, down", work, all, is_told)));
}
