//! Signals: PID 1 gets what it can handle, and is killed by what it cannot; no death of one leaves the other.

use lab::{Lab, Running, case, packets, sys, wait_for_end};

const WITH_HANDLER: &str = "trap 'echo got TERM; exit 7' TERM; trap 'echo got INT; exit 8' INT; trap 'echo got HUP; exit 9' HUP; \
    trap 'echo got QUIT; exit 10' QUIT; trap 'echo got USR1' USR1; sleep 1000 & echo up; while :; do wait; done";

#[test]
fn a_command_without_a_handler_is_killed_and_the_code_is_the_signals() {
    case(|lab| {
        for (signal, code) in [
            (libc::SIGTERM, 143),
            (libc::SIGINT, 130),
            (libc::SIGHUP, 129),
            (libc::SIGQUIT, 131),
        ] {
            // cat has no handler, and when it has repeated a word it is surely running.
            let mut running = lab.start(&[], &["cat"]);
            running.say(
                "up
",
            );
            let pipe = running.stdin.take();
            let outcome = signalled(running, signal).exits(code);
            drop(pipe);
            assert!(
                outcome.elapsed.as_secs() < 5,
                "at once, not after the grace: {outcome}"
            );
        }
    });
}

#[test]
fn a_command_with_a_handler_gets_the_signal() {
    case(|lab| {
        for (signal, code, word) in [
            (libc::SIGTERM, 7, "TERM"),
            (libc::SIGINT, 8, "INT"),
            (libc::SIGHUP, 9, "HUP"),
            (libc::SIGQUIT, 10, "QUIT"),
        ] {
            let outcome =
                signalled(lab.start(&[], &["sh", "-c", WITH_HANDLER]), signal).exits(code);
            assert_eq!(outcome.out(), format!("got {word}\n"));
        }
    });
}

#[test]
fn a_command_that_ignores_term_is_killed_after_the_grace() {
    case(|lab| {
        let running = lab.start(
            &["--grace", "1"],
            &["sh", "-c", "trap '' TERM; echo up; sleep 1000"],
        );
        let outcome = signalled(running, libc::SIGTERM);
        assert!([137, 143].contains(&outcome.code), "killed: {outcome}");
        let seconds = outcome.elapsed.as_secs_f64();
        assert!(
            (1.0..5.0).contains(&seconds),
            "after the grace of one second: {outcome}"
        );
    });
}

#[test]
fn the_grace_is_for_handlers_too() {
    case(|lab| {
        let script = "trap 'echo closing' TERM; sleep 1000 & echo up; while :; do wait; done";
        let outcome = signalled(
            lab.start(&["--grace", "1"], &["sh", "-c", script]),
            libc::SIGTERM,
        );
        assert!([137, 143].contains(&outcome.code), "killed: {outcome}");
        assert_eq!(outcome.out(), "closing\n");
    });
}

#[test]
fn a_second_interrupt_kills() {
    case(|lab| {
        let script = "trap 'echo interrupted' INT; sleep 1000 & echo up; while :; do wait; done";
        let mut running = lab.start(&["--grace", "1000"], &["sh", "-c", script]);
        running.until("up");
        running.signal(libc::SIGINT);
        running.until("interrupted");
        running.signal(libc::SIGINT);
        let outcome = running.end();
        assert!([130, 137].contains(&outcome.code), "killed: {outcome}");
    });
}

#[test]
fn other_signals_are_left_to_the_helper_or_passed_on_but_never_end_the_container_wrongly() {
    case(|lab| {
        let mut running = lab.start(&[], &["sh", "-c", WITH_HANDLER]);
        running.until("up");
        running.signal(libc::SIGWINCH);
        running.signal(libc::SIGCONT);
        // The first of the real-time signals, SIGRTMIN of other programs; a C library has up to three before its own first one.
        for signal in 32..36 {
            running.signal(signal);
        }
        running.signal(libc::SIGTERM);
        assert_eq!(running.end().exits(7).out(), "got TERM\n");
    });
}

#[test]
fn what_its_caller_ignores_is_not_passed_on() {
    case(|lab| {
        let script = format!("trap 'exit 11' 36; trap 'exit 12' 40; {WITH_HANDLER}");
        let run = lab.run_command(&[], &["sh", "-c", &script]);
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "trap '' HUP 36; exec \"$@\"", "sh"])
            .arg(run.get_program())
            .args(run.get_args());
        let mut running = Running::piped(command);
        running.until("up");
        // Whoever gets all of them hears of the lowest one first.
        running.signal(libc::SIGHUP);
        running.signal(36);
        running.signal(40);
        assert_eq!(running.end().exits(12).out(), "");
    });
}

#[test]
fn a_helper_that_is_killed_takes_its_container_along() {
    packets(|lab| killed(lab, &[]));
}

#[test]
fn also_when_the_command_is_not_root() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        killed(lab, &["-u", "1000:1000"]);
        killed(lab, &["-u", "worker"]);
    });
}

fn killed(lab: &Lab, options: &[&str]) {
    let before = lab.with_network();
    let options = [options, &["--name", "victim"]].concat();
    let running = lab.start(
        &options,
        &["sh", "-c", "sleep 1000 & echo up; sleep 1000; true"],
    );
    let mut running = running;
    running.until("up");
    let pid = lab.pid_of("victim");
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .expect("its name")
            .trim(),
        "sh"
    );
    running.signal(libc::SIGKILL);
    wait_for_end(pid);
    running.end().exits(-libc::SIGKILL);
    // A dead helper cannot unlink its socket; the next to ask for the name does. What the firewall knew, any other call.
    lab.run(&["--name", "victim"], &["true"]).ok();
    lab.settle();
    lab.hawser(&["ls"]).exits(0);
    before.assert_back();
}

#[test]
fn a_container_that_is_killed_ends_its_helper() {
    case(|lab| {
        let before = lab.with_network();
        let options = if lab.real_root {
            &["--name", "victim", "-u", "1000"][..]
        } else {
            &["--name", "victim"]
        };
        let running = lab.start_idle(options);
        let pidfd = sys::pidfd(lab.pid_of("victim")).expect("the container's command");
        sys::pidfd_signal(&pidfd, libc::SIGKILL).expect("kill it");
        running.end().exits(137);
        before.assert_back();
    });
}

#[test]
fn processes_that_the_command_leaves_behind_end_with_it() {
    case(|lab| {
        let before = lab.with_network();
        let outcome = lab
            .run_sh(
                &[],
                "setsid sleep 1000 >/dev/null 2>&1 & trap '' TERM HUP; exit 4",
            )
            .exits(4);
        assert!(outcome.elapsed.as_secs() < 5, "{outcome}");
        before.assert_back();
    });
}

#[test]
fn a_stopped_helper_still_ends_when_it_goes_on() {
    case(|lab| {
        let mut running = lab.start_idle(&[]);
        running.signal(libc::SIGSTOP);
        running.say("\n");
        running.signal(libc::SIGCONT);
        running.end().exits(0);
    });
}

#[test]
fn a_parent_that_dies_early_does_not_hang_anything() {
    case(|lab| {
        let before = lab.with_network();
        // stdout and stderr are pipes whose reader is gone: SIGPIPE or EPIPE, never a hang.
        let mut command = lab.run_command(&[], &["sh", "-c", "yes"]);
        command
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("start host-helper");
        drop(child.stdout.take());
        wait_for_pid(&child);
        let status = child.wait().expect("its end");
        assert!(!status.success(), "{status}");
        before.assert_back();
    });
}

fn wait_for_pid(child: &std::process::Child) {
    wait_for_end(i32::try_from(child.id()).expect("a process id"));
}

fn signalled(mut running: Running, signal: i32) -> lab::Outcome {
    running.until("up");
    running.signal(signal);
    running.end()
}
