//! A signal, or a failure, at any system call of the helper: nothing is left. Where a tracer sends the signal, it is at every sixth call,
//! from another one on each day (`CRASH_STRIDE=1`: at every second; `CRASH_FIRST`).

use lab::crash::{Sweep, Victims};
use lab::{
    Lab, Outcome, Snapshot, Work, case, inject_into, with_attach, with_detach, with_exec,
    with_hook, with_plugin, with_poststop, with_run, with_run_and_stop, with_run_on_terminal,
    with_stay, with_up_and_down,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use Signal::{SIGHUP, SIGINT, SIGTERM};
use Victims::{All, It};

const FIXED: &[&str] = &["--name", "web", "--ip", "172.19.0.9"];

/// Runs with `fault` injected at each of the calls that `wanted` picks.
fn inject(
    lab: &Lab,
    fault: &str,
    options: &[&str],
    wanted: impl Fn(&str) -> bool,
    judge: impl Fn(&Outcome) -> (bool, bool),
) {
    with_run(lab, options, |work| {
        inject_into(lab, fault, work, wanted, judge);
    });
}

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

fn is_ours(call: &str) -> bool {
    !OTHERS.contains(&call)
}

/// Success all the same, or the one line that says what has failed; whether it was that.
fn told_in_one_line(outcome: &Outcome) -> (bool, bool) {
    let told = outcome.code == 125
        && outcome.stderr.starts_with(b"host-helper: ")
        && outcome.err().lines().count() == 1;
    (outcome.code == 0 || told, told)
}

#[test]
fn a_system_call_that_fails_leaves_nothing_and_is_told_in_one_line() {
    case(|lab| inject(lab, "error=ENOSPC", FIXED, is_ours, told_in_one_line));
}

/// What a closed terminal, and Ctrl-\\, send.
#[test]
fn a_hangup_at_any_moment_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 125, 129, -1].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject(lab, "signal=HUP", FIXED, |_| true, judge));
}

#[test]
fn a_quit_at_any_moment_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 125, 131, -3].contains(&outcome.code), outcome.code != 0);
    case(|lab| inject(lab, "signal=QUIT", FIXED, |_| true, judge));
}

#[test]
fn an_interrupt_of_attach_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 125, 130, -2].contains(&outcome.code), outcome.code != 0);
    case(|lab| {
        with_attach(lab, |work| {
            inject_into(lab, "signal=INT", work, |_| true, judge)
        })
    });
}

#[test]
fn a_system_call_of_attach_that_fails_leaves_nothing_and_is_told_in_one_line() {
    case(|lab| {
        with_attach(lab, |work| {
            inject_into(lab, "error=ENOSPC", work, is_ours, told_in_one_line)
        })
    });
}

#[test]
fn a_termination_of_a_hook_leaves_nothing() {
    let judge = |outcome: &Outcome| {
        (
            [0, 125, 143, -15].contains(&outcome.code),
            outcome.code != 0,
        )
    };
    case(|lab| {
        with_hook(lab, |work| {
            inject_into(lab, "signal=TERM", work, |_| true, judge)
        })
    });
}

#[test]
fn a_system_call_of_a_hook_that_fails_leaves_nothing_and_is_told_in_one_line() {
    case(|lab| {
        with_hook(lab, |work| {
            inject_into(lab, "error=ENOSPC", work, is_ours, told_in_one_line)
        })
    });
}

/// poststop at any moment: the next one takes the rest.
#[test]
fn a_termination_of_a_cni_add_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 1, -15].contains(&outcome.code), outcome.code != 0);
    case(|lab| {
        with_plugin(lab, "ADD", |work| {
            inject_into(lab, "signal=TERM", work, |_| true, judge)
        })
    });
}

/// Its runtime calls DEL again.
#[test]
fn a_termination_of_a_cni_del_leaves_nothing() {
    let judge = |outcome: &Outcome| ([0, 1, -15].contains(&outcome.code), outcome.code != 0);
    case(|lab| {
        with_plugin(lab, "DEL", |work| {
            inject_into(lab, "signal=TERM", work, |_| true, judge)
        })
    });
}

#[test]
fn a_system_call_of_a_cni_add_that_fails_leaves_nothing_and_is_told() {
    let judge = |outcome: &Outcome| {
        let answer = serde_json::from_slice::<serde_json::Value>(&outcome.stdout);
        let told = outcome.code == 1 && answer.is_ok_and(|answer| answer["code"].is_u64());
        (outcome.code == 0 || told, told)
    };
    case(|lab| {
        with_plugin(lab, "ADD", |work| {
            inject_into(lab, "error=ENOSPC", work, is_ours, judge)
        })
    });
}

/// Sends `signal` to one, and to all at once, as a terminal does: whoever is told to end takes everything back, before any other command.
fn send(lab: &Lab, title: &str, signal: Signal, work: &Work) {
    let sweep = Sweep {
        keeper: Some(0),
        signal,
        is_published: false,
        stride: 2,
        ..Sweep::new(lab, work)
    };
    sweep.run_and_down(&format!("{title}, {signal}"), &[It, All]);
}

/// The same to one that does not heed it, and dies: the next one takes the rest.
fn end(lab: &Lab, title: &str, signal: Signal, work: &Work) {
    let sweep = Sweep {
        signal,
        is_published: false,
        stride: 2,
        ..Sweep::new(lab, work)
    };
    sweep.run_and_down(&format!("{title}, {signal}"), &[It]);
}

#[test]
fn a_termination_of_attach_leaves_nothing() {
    case(|lab| with_attach(lab, |work| send(lab, "attach", SIGTERM, work)));
}

#[test]
fn a_hangup_of_attach_leaves_nothing() {
    case(|lab| with_attach(lab, |work| send(lab, "attach", SIGHUP, work)));
}

/// Before it has said its word, and after, when it has been told to go already.
#[test]
fn a_termination_of_an_attach_that_stays_leaves_nothing() {
    case(|lab| {
        let stop = |main: Pid| kill(main, SIGTERM).expect("a process of ours");
        with_stay(lab, |work| {
            let sweep = Sweep {
                keeper: Some(0),
                at_word: Some(&stop),
                signal: SIGTERM,
                is_published: false,
                stride: 2,
                ..Sweep::new(lab, work)
            };
            sweep.run_and_down("attach --stay, SIGTERM", &[It]);
        });
    });
}

#[test]
fn an_interrupt_of_a_hook_leaves_nothing() {
    case(|lab| with_hook(lab, |work| send(lab, "hook createRuntime", SIGINT, work)));
}

#[test]
fn a_termination_of_a_hook_that_releases_leaves_nothing_that_the_next_does_not_take() {
    case(|lab| with_poststop(lab, |work| end(lab, "hook poststop", SIGTERM, work)));
}

#[test]
fn a_termination_of_detach_leaves_nothing_that_the_next_does_not_take() {
    case(|lab| with_detach(lab, |work| end(lab, "detach", SIGTERM, work)));
}

#[test]
fn an_interrupt_of_a_cni_del_leaves_nothing() {
    case(|lab| with_plugin(lab, "DEL", |work| end(lab, "CNI DEL", SIGINT, work)));
}

#[test]
fn a_termination_of_up_or_down_leaves_nothing_that_the_next_down_does_not_take() {
    case(|lab| with_up_and_down(lab, |work| end(lab, "up, down", SIGTERM, work)));
}

#[test]
fn an_interrupt_of_run_with_an_init_leaves_nothing() {
    case(|lab| {
        let options = [&["--init"], FIXED].concat();
        with_run(lab, &options, |work| send(lab, "run --init", SIGINT, work));
    });
}

#[test]
fn a_termination_of_run_with_an_init_leaves_nothing() {
    case(|lab| {
        let options = [&["--init"], FIXED].concat();
        with_run(lab, &options, |work| send(lab, "run --init", SIGTERM, work));
    });
}

#[test]
fn an_interrupt_of_run_and_its_command_leaves_nothing() {
    case(|lab| with_run(lab, FIXED, |work| send(lab, "run", SIGINT, work)));
}

#[test]
fn an_interrupt_of_run_on_a_terminal_leaves_that_as_it_was() {
    case(|lab| with_run_on_terminal(lab, FIXED, |work| send(lab, "run -t", SIGINT, work)));
}

#[test]
fn a_hangup_of_run_on_a_terminal_leaves_that_as_it_was() {
    case(|lab| with_run_on_terminal(lab, FIXED, |work| send(lab, "run -t", SIGHUP, work)));
}

/// The caller has been given the name of a container that has run, or nothing is left.
fn by_itself(lab: &Lab, signal: Signal) {
    let options = [&["-d"], FIXED].concat();
    let work = Work {
        command: &|| lab.run_command(&options, &["true"]),
        undo: &|outcome| {
            if outcome.code == 0 {
                assert_eq!(outcome.out(), "web\n", "{outcome}");
                let code = lab.hawser(&["wait", "web"]).ok();
                let ended = (128 + signal as i32).to_string();
                assert!(code == "0" || code == ended, "{outcome}: {code}");
                lab.hawser(&["rm", "web"]).ok();
            } else {
                assert_eq!(outcome.out(), "", "{outcome}");
            }
        },
        is_over: &|_| false,
        input: None,
    };
    send(lab, "run -d", signal, &work);
}

#[test]
fn a_termination_of_run_by_itself_leaves_a_whole_container_or_nothing() {
    case(|lab| by_itself(lab, SIGTERM));
}

#[test]
fn an_interrupt_of_run_by_itself_leaves_a_whole_container_or_nothing() {
    case(|lab| by_itself(lab, SIGINT));
}

/// A command beside another: it ends, and the container goes on.
#[test]
fn a_signal_to_exec_leaves_nothing() {
    case(|lab| {
        with_exec(lab, &[], |work, before| {
            for signal in [SIGINT, SIGHUP, SIGTERM] {
                let sweep = Sweep {
                    keeper: Some(0),
                    signal,
                    is_published: false,
                    stride: 2,
                    ..Sweep::new(lab, work)
                };
                sweep.run(&format!("exec, {signal}"), &[It, All], before);
            }
        });
    });
}

/// What waits begins again after a stop that is over, or is told EINTR: it is none the worse for it.
fn stop_often(lab: &Lab, title: &str, at_word: Option<&(dyn Fn(Pid) + Sync)>, work: &Work) {
    let sweep = Sweep {
        at_word,
        ..Sweep::new(lab, work)
    };
    (work.undo)(&sweep.trace(None, &|| ()).outcome.exits(0));
    lab.settle();
    let before = Snapshot::take();
    let sweep = Sweep {
        interrupts: true,
        ..sweep
    };
    let traced = sweep.trace(None, &|| ());
    assert!(traced.interrupted > 0, "{title}: nothing was interrupted");
    let outcome = traced.outcome.exits(0);
    assert_eq!(outcome.err(), "", "{title}");
    (work.undo)(&outcome);
    lab.settle();
    let changes = before.changes();
    assert!(changes.is_empty(), "{title}: {}", changes.join("; "));
}

#[test]
fn a_stop_at_each_call_of_a_run_changes_nothing() {
    case(|lab| {
        let stop = |title: &str, work: &Work| stop_often(lab, title, None, work);
        with_run(lab, FIXED, |work| stop("run", work));
        let options = ["--init", "--network", "ptp"];
        with_run(lab, &options, |work| stop("run --init", work));
        with_run_and_stop(lab, &FIXED[2..], |work| stop("run -d, stop", work));
        with_run_on_terminal(lab, FIXED, |work| stop("run -t", work));
        with_up_and_down(lab, |work| stop("up, down", work));
    });
}

#[test]
fn a_stop_at_each_call_of_an_attachment_changes_nothing() {
    case(|lab| {
        let stop = |title: &str, work: &Work| stop_often(lab, title, None, work);
        with_attach(lab, |work| stop("attach", work));
        with_detach(lab, |work| stop("detach", work));
        with_hook(lab, |work| stop("hook createRuntime", work));
        with_poststop(lab, |work| stop("hook poststop", work));
        let leave = |main: Pid| kill(main, SIGTERM).expect("a process of ours");
        with_stay(lab, |work| {
            stop_often(lab, "attach --stay", Some(&leave), work);
        });
    });
}

#[test]
fn a_stop_at_each_call_of_a_cni_add_changes_nothing() {
    case(|lab| with_plugin(lab, "ADD", |work| stop_often(lab, "CNI ADD", None, work)));
}

#[test]
fn a_stop_at_each_call_of_a_cni_del_changes_nothing() {
    case(|lab| with_plugin(lab, "DEL", |work| stop_often(lab, "CNI DEL", None, work)));
}
