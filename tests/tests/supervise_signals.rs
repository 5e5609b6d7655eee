//! `init -s` and signals: which are passed on, as which, and to whom. The listeners say what they get.

use std::process::Command;

use lab::{Running, Supervised, case, child, init_binary, sys, wait_untold};

const LISTENER: &str = env!("CARGO_BIN_EXE_listener");

/// All that can be passed on: not KILL and STOP, which cannot be caught, not CHLD, which is for init itself, and not
/// what glibc keeps for its threads, and lets no program block.
fn forwardable() -> impl Iterator<Item = i32> {
    (1..=64).filter(|signal| !matches!(signal, 9 | 17 | 19 | 32 | 33))
}

#[test]
fn every_signal_that_can_be_forwarded_is() {
    case(|_| {
        for command in Supervised::commands(&["--", LISTENER, "cmd=9"]) {
            let mut init = Supervised::start(command, 1);
            for signal in forwardable().filter(|signal| *signal != libc::SIGTERM) {
                init.send(signal);
                assert_eq!(init.line(), format!("cmd {signal}"));
            }
            init.send(libc::SIGTERM);
            assert_eq!(init.line(), "cmd 15");
            init.end().exits(9);
        }
    });
}

/// Of the others one that waits already is enough (signal(7)); these come as often as they are sent.
#[test]
fn real_time_signals_queue() {
    case(|_| {
        let mut init = Supervised::start(Supervised::command(&["--", LISTENER, "cmd"]), 1);
        for _ in 0..100 {
            init.send(40);
        }
        for _ in 0..100 {
            assert_eq!(init.line(), "cmd 40");
        }
        init.send(libc::SIGTERM);
        init.end().exits(0);
    });
}

#[test]
fn the_group_gets_signals_or_the_command_alone_or_all() {
    case(|_| {
        for (options, expected) in [
            (&[][..], "cmd inner"),
            (&["-c"], "cmd"),
            (&["--single-child"], "cmd"),
            (&["--all"], "cmd inner outer"),
        ] {
            let arguments = [options, &["--", LISTENER, "cmd", "inner", "@outer"]].concat();
            for command in Supervised::commands(&arguments) {
                let mut init = Supervised::start(command, 3);
                init.send(libc::SIGUSR1);
                // Each says two lines: that would be one too few if a signal came to one that it is not for.
                let got = expected.split(' ').map(|name| format!("{name} 10"));
                assert_eq!(
                    init.lines(expected.split(' ').count()),
                    got.collect::<Vec<_>>(),
                    "{options:?}"
                );
                init.send(libc::SIGTERM);
                assert_eq!(
                    init.lines(3),
                    ["cmd 15", "inner 15", "outer 15"],
                    "{options:?}"
                );
                init.end().ok();
            }
        }
    });
}

#[test]
fn signals_are_rewritten_and_dropped() {
    case(|_| {
        let options = [
            "-c",
            "-r",
            "HUP:USR1",
            "-r2:SIGUSR2",
            "--rewrite=QUIT:0",
            "--rewrite",
            "TERM:34",
            "-vrALRM:TERM",
        ];
        let arguments = [&options[..], &["--", LISTENER, "cmd=7"]].concat();
        let mut init = Supervised::start(Supervised::command(&arguments), 1);
        for (sent, got) in [(1, 10), (2, 12), (10, 10)] {
            init.send(sent);
            assert_eq!(init.line(), format!("cmd {got}"), "for {sent}");
        }
        init.send(libc::SIGTERM);
        assert_eq!(init.lines(2), ["cmd 18", "cmd 34"], "it is woken too");
        init.send(libc::SIGQUIT);
        init.send(libc::SIGALRM);
        assert_eq!(init.line(), "cmd 15", "and nothing for QUIT");
        let said = init.end().exits(7).err();
        let words: Vec<_> = said
            .lines()
            .map(|line| line.split(" to ").next().unwrap_or(""))
            .collect();
        assert_eq!(
            words,
            [
                "init: pass on SIGUSR1",
                "init: pass on SIGUSR2",
                "init: pass on SIGUSR1",
                "init: pass on SIG34",
                "init: pass on SIGTERM"
            ]
        );
    });
}

#[test]
fn a_dropped_term_begins_no_end() {
    case(|_| {
        let arguments = [
            "-r", "TERM:0", "--grace", "0", "--", LISTENER, "cmd=3", "inner",
        ];
        let mut init = Supervised::start(Supervised::command(&arguments), 2);
        init.send(libc::SIGTERM);
        init.send(libc::SIGUSR1);
        assert_eq!(init.lines(2), ["cmd 10", "inner 10"]);
        drop(init.stdin.take());
        drop(init);
    });
}

#[test]
fn what_the_command_leaves_behind_is_asked_by_what_term_was_rewritten_to() {
    case(|_| {
        for (rewritten, asked) in [("TERM:USR1", 10), ("TERM:0", 15)] {
            let arguments = [
                "-c",
                "-r",
                rewritten,
                "-r",
                "ALRM:TERM",
                "--",
                LISTENER,
                "cmd=7",
                "<!inner",
            ];
            let mut init = Supervised::start(Supervised::command(&arguments), 2);
            // The command alone, which ends by itself as far as init knows.
            init.send(libc::SIGALRM);
            let asked = format!("inner {asked}");
            assert_eq!(init.lines(3), ["cmd 15", &asked, "inner 18"], "{rewritten}");
            drop(init.stdin.take());
            init.end().exits(7);
        }
    });
}

#[test]
fn the_parents_death_comes_as_a_signal() {
    case(|_| {
        let mut parent = Command::new("/bin/busybox");
        parent
            .args(["sh", "-c", "\"$@\" & read go", "sh"])
            .arg(init_binary())
            .args(["-s", "-p", "USR1", "--", LISTENER, "cmd"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        sys::without_terminal(&mut parent);
        let mut parent = Running::spawn(parent);
        let up = parent.line();
        let init = up.rsplit(' ').next().expect("the command's parent");
        let init = sys::pidfd(init.parse().expect("a number")).expect("pidfd of init");
        parent.say("go\n");
        assert_eq!(parent.line(), "cmd 10");
        sys::pidfd_signal(&init, libc::SIGTERM).expect("signal init");
        parent.end().exits(0);
    });
}

/// What is orphaned comes to init, be it PID 1 or not.
#[test]
fn orphans_are_reaped_and_warned_about_when_asked() {
    case(|_| {
        let script = format!("({LISTENER} one & {LISTENER} two &); exec {LISTENER} '<cmd'");
        for (option, count) in [("-w", 2), ("--warn", 2), ("-v", 0)] {
            for command in
                Supervised::commands(&[option, "--", "/bin/busybox", "sh", "-c", &script])
            {
                let outcome = Supervised::start(command, 3).end().exits(0);
                let warnings = outcome
                    .err()
                    .lines()
                    .filter(|line| line.starts_with("init: reap an orphan: process "))
                    .count();
                assert_eq!(warnings, count, "{option}: {outcome}");
            }
        }
    });
}

#[test]
fn signals_to_stop_stop_the_command_and_init_and_cont_wakes_both() {
    case(|_| {
        let script = "echo cmd up $$; while read x; do echo $x; done; exit 15";
        for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
            let command = Supervised::command(&["--", "/bin/busybox", "sh", "-c", script]);
            let mut init = Running::spawn(command);
            let line = init.line();
            let pid = line.rsplit(' ').next().expect("its number").to_owned();
            init.signal(signal);
            init.wait_for_stop();
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
            assert!(stat.contains(") T "), "the command too: {stat}");
            init.signal(libc::SIGCONT);
            init.say("again\n");
            assert_eq!(init.line(), "again");
            init.end().exits(15);
        }
    });
}

/// The kernel stops no PID 1, and nobody would wait for it: its command is stopped, and it goes on.
#[test]
fn signals_to_stop_stop_the_command_of_a_pid_1() {
    case(|_| {
        let script = "echo cmd up $$; while read x; do echo $x; done; exit 4";
        let command =
            Supervised::command_as_pid_1(&["-w", "--", "/bin/busybox", "sh", "-c", script]);
        let mut init = Supervised::start(command, 1);
        init.send(libc::SIGTSTP);
        init.send(libc::SIGCONT);
        init.say("again\n");
        assert_eq!(init.line(), "again");
        init.end().exits(4);
    });
}

/// A stop of its own, which comes to nothing, would make the kernel forget a CONT that waits.
#[test]
fn a_pid_1_hears_of_a_cont_that_comes_with_the_stop_of_its_command() {
    case(|_| {
        let command = Supervised::command_as_pid_1(&["--", LISTENER, "cmd=5"]);
        let mut init = Supervised::start(command, 1);
        let command = child(init.init());
        // Stopped from above, it is to find both at once: that its command has stopped, and CONT.
        init.send(libc::SIGTSTP);
        assert_eq!(init.line(), "cmd 20");
        for pid in [init.init(), command] {
            let pidfd = sys::pidfd(pid).expect("pidfd of a process");
            sys::pidfd_signal(&pidfd, libc::SIGSTOP).expect("stop it");
            let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
            wait_untold("the stop of a process", || stat().contains(") T "));
        }
        init.send(libc::SIGCONT);
        assert_eq!(init.line(), "cmd 18");
        init.send(libc::SIGTERM);
        assert_eq!(init.line(), "cmd 15");
        init.end().exits(5);
    });
}

/// A program that handles it, as an editor does, decides: init does not stop before it, nor without it.
#[test]
fn a_command_that_does_not_stop_is_not_left_alone() {
    case(|_| {
        let mut init = Supervised::start(Supervised::command(&["--", LISTENER, "cmd=6"]), 1);
        for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
            init.send(signal);
            assert_eq!(init.line(), format!("cmd {signal}"));
            init.send(libc::SIGUSR1);
            assert_eq!(init.line(), "cmd 10", "init goes on");
        }
        init.send(libc::SIGTERM);
        init.end().exits(6);
    });
}
