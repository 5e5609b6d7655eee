//! How `init -s` ends: what is left is asked, waited for, and killed; the code is the command's. The reproducers of what
//! others are reproached with are here.

use std::process::{Command, Stdio};

use lab::{Running, Supervised, case, child, skip, sys, wait_for_end};

const LISTENER: &str = env!("CARGO_BIN_EXE_listener");

/// tini#180: the command ends at once, its child takes its time, and is killed by the end of PID 1.
#[test]
fn a_child_that_takes_its_time_is_waited_for() {
    case(|_| {
        for command in Supervised::commands(&["--", LISTENER, "cmd=8", "%inner", "@%outer"]) {
            let mut init = Supervised::start(command, 3);
            init.send(libc::SIGTERM);
            assert_eq!(init.lines(3), ["cmd 15", "inner 15", "outer 15"]);
            // The command has ended, and these two are at work until they are told.
            drop(init.stdin.take());
            assert_eq!(init.lines(2), ["inner done", "outer done"]);
            init.end().exits(8);
        }
    });
}

/// tini#229: daemons, orphans in sessions of their own, get no TERM.
#[test]
fn daemons_are_asked_too() {
    case(|_| {
        let script = format!("exec 3<&0; ({LISTENER} @%daemon <&3 &); exec {LISTENER} cmd");
        for command in Supervised::commands(&["--", "/bin/busybox", "sh", "-c", &script]) {
            let mut init = Supervised::start(command, 2);
            init.send(libc::SIGTERM);
            assert_eq!(init.lines(2), ["cmd 15", "daemon 15"]);
            drop(init.stdin.take());
            assert_eq!(init.line(), "daemon done");
            init.end().ok();
        }
    });
}

/// dumb-init#212: `crond & nginx` from an entry point; all of them are waited for, not the first.
#[test]
fn all_are_waited_for_and_not_the_first() {
    case(|_| {
        let script = format!("exec 3<&0; {LISTENER} %crond <&3 & {LISTENER} nginx; exit 5");
        for command in Supervised::commands(&["--", "/bin/busybox", "sh", "-c", &script]) {
            let mut init = Supervised::start(command, 2);
            init.send(libc::SIGTERM);
            assert_eq!(init.lines(2), ["crond 15", "nginx 15"]);
            drop(init.stdin.take());
            assert_eq!(init.line(), "crond done");
            // The shell has no handler for TERM.
            init.end().exits(143);
        }
    });
}

/// catatonit#4: the command and an orphan end at the same time, which gives one SIGCHLD: here surely, because init does
/// not run meanwhile.
#[test]
fn two_that_end_at_once_are_both_seen() {
    case(|_| {
        let script = format!("exec 3<&0; ({LISTENER} '<orphan' <&3 &); exec {LISTENER} '<cmd=3'");
        let command = Supervised::command(&["-w", "--", "/bin/busybox", "sh", "-c", &script]);
        let mut init = Running::spawn(command);
        let pids: Vec<i32> = (0..2)
            .map(|_| {
                let line = init.line();
                let pid = line.split(' ').nth(2).expect("its number");
                pid.parse().expect("a number")
            })
            .collect();
        init.signal(libc::SIGSTOP);
        init.wait_for_stop();
        drop(init.stdin.take());
        for pid in pids {
            wait_for_end(pid);
        }
        init.signal(libc::SIGCONT);
        let outcome = init.end().exits(3);
        assert!(outcome.err().contains("reap an orphan"), "{outcome}");
    });
}

#[test]
fn what_the_command_leaves_is_asked_and_waited_for() {
    case(|_| {
        for command in Supervised::commands(&["--", LISTENER, "<cmd=5", "inner", "@outer"]) {
            let mut init = Supervised::start(command, 3);
            drop(init.stdin.take());
            assert_eq!(init.lines(2), ["inner 15", "outer 15"]);
            assert!(init.end().exits(5).stderr.is_empty(), "nothing to say");
        }
    });
}

/// Who is stopped notices TERM only when it goes on: it is woken.
#[test]
fn what_is_stopped_is_woken_to_be_asked() {
    case(|_| {
        for options in [&["--"][..], &["--all", "--"]] {
            let words = [options, &[LISTENER, "cmd=5", "^inner", "^@outer"]].concat();
            for command in Supervised::commands(&words) {
                // All are up, and the command has seen two of them stop.
                let mut init = Supervised::start(command, 3 + 2);
                init.send(libc::SIGTERM);
                let mut lines = init.lines(3);
                lines.sort();
                assert_eq!(lines, ["cmd 15", "inner 15", "outer 15"]);
                assert_eq!(init.end().exits(5).err(), "", "nobody had to be killed");
            }
        }
    });
}

/// With -c the command is to end its own workers, in its own order; what it leaves is asked when it has ended.
#[test]
fn with_single_child_the_rest_is_asked_when_the_command_has_ended() {
    case(|_| {
        for command in Supervised::commands(&["-c", "--", LISTENER, "%cmd=5", "worker"]) {
            let mut init = Supervised::start(command, 2);
            init.send(libc::SIGTERM);
            assert_eq!(init.line(), "cmd 15");
            drop(init.stdin.take());
            assert_eq!(init.line(), "cmd done", "before the worker hears of it");
            assert_eq!(init.line(), "worker 15");
            init.end().exits(5);
        }
    });
}

#[test]
fn what_does_not_end_in_its_grace_is_killed_and_named() {
    case(|_| {
        // Long enough for the one that does end, on a machine that is busy.
        let arguments = ["--grace", "3", "--", LISTENER, "cmd=6", "!inner", "@!outer"];
        for command in Supervised::commands(&arguments) {
            let mut init = Supervised::start(command, 3);
            init.send(libc::SIGTERM);
            // CONT is for those that are stopped, and comes to all.
            let lines = ["cmd 15", "inner 15", "inner 18", "outer 15", "outer 18"];
            assert_eq!(init.lines(5), lines);
            let outcome = init.end().exits(6);
            let mut lines = vec![];
            for line in outcome.err().lines() {
                let (name, rest) = line.split_once(" (").expect("a number in parentheses");
                let (pid, rest) = rest.split_once(')').expect("a number in parentheses");
                assert!(pid.parse::<u32>().is_ok(), "{line}");
                lines.push(format!("{name}{rest}"));
            }
            lines.sort();
            let line = |name| format!("init: kill listener {name}: it has not ended in its grace");
            assert_eq!(lines, [line("!inner"), line("@!outer")]);
            assert!(
                outcome.elapsed.as_millis() >= 3000,
                "not before its grace is over: {outcome}"
            );
        }
    });
}

#[test]
fn the_grace_is_five_seconds_where_nobody_says_otherwise() {
    case(|_| {
        let init = Supervised::start(Supervised::command(&["--", LISTENER, "!cmd"]), 1);
        init.send(libc::SIGTERM);
        let outcome = init.end().exits(137);
        let seconds = outcome.elapsed.as_secs_f64();
        assert!((5.0..9.0).contains(&seconds), "after five: {outcome}");
    });
}

#[test]
fn a_command_that_does_not_end_is_killed_too() {
    case(|_| {
        for command in Supervised::commands(&["--grace=0", "--", LISTENER, "!cmd"]) {
            let init = Supervised::start(command, 1);
            init.send(libc::SIGTERM);
            let outcome = init.end().exits(137);
            assert!(
                outcome.err().starts_with("init: kill ") && outcome.err().lines().count() == 1,
                "{outcome}"
            );
        }
    });
}

/// The one that has to be killed sends signals all the time: there is always one to take before patience is over.
#[test]
fn a_storm_of_signals_does_not_put_off_the_end() {
    case(|_| {
        let script = "trap '' TERM USR1; echo cmd up $$ $PPID; while :; do kill -USR1 $PPID; done";
        for command in Supervised::commands(&["--grace", "1", "sh", "-c", script]) {
            let init = Supervised::start(command, 1);
            init.send(libc::SIGTERM);
            init.end().exits(137);
        }
    });
}

/// The same with a queue of them that is there already: the end is not behind it.
#[test]
fn a_queue_of_signals_does_not_put_off_the_end() {
    case(|_| {
        let command = Supervised::command(&["--grace", "0", "--", LISTENER, "!cmd"]);
        let init = Supervised::start(command, 1);
        init.signal(libc::SIGSTOP);
        init.wait_for_stop();
        let sent = (0..50_000).take_while(|_| init.try_send(50)).count();
        assert!(sent > 5_000, "{sent} real-time signals");
        // The lower number comes first.
        init.send(libc::SIGTERM);
        init.signal(libc::SIGCONT);
        let outcome = init.end().exits(137);
        let passed_on = outcome.out().matches("cmd 50").count();
        assert!(passed_on < 100, "{passed_on} of {sent}");
    });
}

/// A dead process that its parent does not reap had not to be killed.
#[test]
fn the_dead_are_not_named() {
    case(|_| {
        // exec takes the shell away that would reap the other one.
        let script = "trap '' TERM; /bin/busybox true & echo dead $!; exec /bin/busybox cat";
        let mut init = Running::spawn(Supervised::command(&["--grace=0", "sh", "-c", script]));
        let dead = init.line();
        let pid = dead.strip_prefix("dead ").expect("its number");
        wait_for_end(pid.parse().expect("a number"));
        // Before the exec is done it has no name.
        init.say("cat is up\n");
        assert_eq!(init.line(), "cat is up");
        init.signal(libc::SIGTERM);
        let _input = init.stdin.take();
        let outcome = init.end().exits(137);
        assert_eq!(outcome.err().lines().count(), 1, "{outcome}");
    });
}

/// kill(-1) is for PID 1 alone: elsewhere it would end this test, and the machine.
#[test]
fn a_process_outside_survives() {
    case(|_| {
        for options in [&["--all"][..], &[], &["-c"]] {
            let mut outside_command = Command::new(LISTENER);
            outside_command
                .arg("outside")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut outside = Running::spawn(outside_command);
            assert!(outside.line().starts_with("outside up "));
            let arguments = [
                options,
                &["--grace", "0", "--", LISTENER, "!cmd", "!inner", "@!outer"],
            ]
            .concat();
            let init = Supervised::start(Supervised::command(&arguments), 3);
            init.send(libc::SIGUSR2);
            init.send(libc::SIGTERM);
            let outcome = init.end().exits(137);
            assert_eq!(outcome.err().lines().count(), 3, "{outcome}");
            outside.signal(libc::SIGUSR1);
            assert_eq!(
                outside.line(),
                "outside 10",
                "alive, and the first that it hears"
            );
        }
    });
}

/// init with these words, where nothing is mounted on /proc.
fn without_proc(words: &[&str]) -> Running {
    let script = "mount -t tmpfs none /proc; exec \"$@\"";
    unshared(&["-m", "sh", "-c", script, "sh"], words)
}

/// init with these words, started by `unshare` with those.
fn unshared(before: &[&str], words: &[&str]) -> Running {
    let init = Supervised::command(words);
    let mut command = Command::new("unshare");
    command
        .args(before)
        .arg(init.get_program())
        .args(init.get_args());
    sys::without_terminal(&mut command);
    Running::piped(command)
}

#[test]
fn without_proc_the_process_group_is_all() {
    case(|_| {
        let mut running = without_proc(&["--grace", "0", "--", LISTENER, "!cmd", "%inner"]);
        assert_eq!(running.lines(2).len(), 2, "both are up");
        running.signal(libc::SIGTERM);
        let outcome = running.end().exits(137);
        assert_eq!(
            outcome.err(),
            "init: kill what is left: it has not ended in its grace\n"
        );
    });
}

/// As by `unshare -pf` without `--mount-proc`: the numbers in that /proc are those of other processes.
#[test]
fn nobody_is_looked_for_in_the_proc_of_another_namespace() {
    case(|_| {
        let words = ["--grace", "0", "--", LISTENER, "!cmd", "%inner"];
        for before in [&[][..], &["sh", "-c", "\"$@\"; exit $?", "sh"]] {
            let mut running = unshared(&[&["-pf", "--kill-child"], before].concat(), &words);
            assert_eq!(running.lines(2).len(), 2, "both are up");
            let mut init = child(running.pid());
            if !before.is_empty() {
                init = child(init);
            }
            let init = sys::pidfd(init).expect("pidfd of init");
            sys::pidfd_signal(&init, libc::SIGTERM).expect("signal init");
            let outcome = running.end().exits(137);
            assert_eq!(
                outcome.err(),
                "init: kill what is left: it has not ended in its grace\n"
            );
        }
    });
}

/// What the command starts when it is asked has not been asked itself: it is when the command has ended, and it alone.
#[test]
fn newcomers_are_asked_when_the_command_has_ended() {
    case(|_| {
        let script = format!(
            "trap '{LISTENER} late & read x; exit 5' TERM; {LISTENER} !old & echo cmd up $$; read x"
        );
        for command in Supervised::commands(&["--grace", "2", "--", "sh", "-c", &script]) {
            let mut init = Supervised::start(command, 2);
            init.send(libc::SIGTERM);
            let mut lines = [init.line(), init.line(), init.line()];
            // CONT follows TERM, and may find the newcomer there already.
            if let Some(early) = lines.iter_mut().find(|line| *line == "late 18") {
                *early = init.line();
            }
            lines.sort();
            assert_eq!(lines[1..], ["old 15", "old 18"]);
            assert!(lines[0].starts_with("late up "), "{lines:?}");
            drop(init.stdin.take());
            let line = init.line();
            let line = if line == "late 18" { init.line() } else { line };
            assert_eq!(line, "late 15");
            assert_eq!(init.end().exits(5).out(), "", "nobody is asked twice");
        }
    });
}

/// Without /proc nobody finds it: then nothing is killed, and nothing waited for.
#[test]
fn without_proc_another_session_is_left() {
    case(|_| {
        let words = ["--grace", "0", "--", LISTENER, "<cmd=5", "@!outer"];
        let mut running = without_proc(&words);
        let mut lines = running.lines(2);
        let outer = lines.pop().expect("the other one's");
        let outer = outer.split(' ').nth(2).expect("its number");
        let outer = sys::pidfd(outer.parse().expect("a number")).expect("pidfd of it");
        drop(running.stdin.take());
        wait_for_end(running.pid());
        // It is there still, and has our pipes.
        sys::pidfd_signal(&outer, libc::SIGKILL).expect("kill it");
        let outcome = running.end().exits(5);
        assert_eq!(
            outcome.err(),
            "init: leave what is left: it has not ended in its grace\n"
        );
        assert!(outcome.elapsed.as_secs() < 5, "{outcome}");
    });
}

#[test]
fn a_process_too_many_is_an_error_that_says_what_to_do() {
    case(|lab| {
        if !lab.real_root {
            return skip("it needs a second user, which only root has");
        }
        let mut command = Supervised::command(&["true"]);
        // Root is not limited, and nobody else has this number.
        sys::with_rlimit(&mut command, libc::RLIMIT_NPROC, 1);
        sys::as_user(&mut command, 47_110);
        let outcome = Running::spawn(command).end().exits(125);
        let err = outcome.err();
        assert!(
            err.starts_with("init: start the command: ")
                && err.contains("EAGAIN")
                && err.contains("ulimit -u"),
            "{outcome}"
        );
    });
}

/// Somebody else's process is not waited for without an end: here root's, started by way of a program of root's.
#[test]
fn what_cannot_be_killed_does_not_hold_the_code() {
    case(|lab| {
        if !lab.real_root {
            return skip("it needs a second user, which only root has");
        }
        // The tmpfs of the lab lets no program become root.
        let directory = lab.dir.join("suid");
        std::fs::create_dir(&directory).expect("a directory");
        let script = format!(
            "mount -t tmpfs -o mode=755 none {directory}; cp $(command -v setpriv) {directory}; chmod 4755 {directory}/setpriv",
            directory = directory.display()
        );
        lab::sh(&script);
        let setpriv = directory.join("setpriv");
        let script = format!(
            "{} --reuid 0 {LISTENER} !root & exec {LISTENER} cmd=7",
            setpriv.display()
        );
        let mut command = Supervised::command(&["--grace", "1", "--", "sh", "-c", &script]);
        sys::as_user(&mut command, 1000);
        let mut init = Running::spawn(command);
        let up = init.lines(2).pop().expect("a line of each");
        let root = up.split(' ').nth(2).expect("its number");
        let root = sys::pidfd(root.parse().expect("a number")).expect("pidfd of root's");
        init.signal(libc::SIGTERM);
        // The same session: CONT may pass, and that alone (kill(2)).
        assert_eq!(init.lines(2), ["cmd 15", "root 18"]);
        wait_for_end(init.pid());
        // It is there still, and has our pipes.
        sys::pidfd_signal(&root, libc::SIGKILL).expect("kill it");
        let outcome = init.end().exits(7);
        assert_eq!(outcome.err().lines().count(), 1, "{outcome}");
    });
}
