//! A signal, or a failure, at any system call of the helper: nothing is left.

use lab::{Lab, Outcome, case, inject_into, with_attach, with_hook, with_plugin, with_run};

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
