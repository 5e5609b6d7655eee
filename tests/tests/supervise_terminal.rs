//! `init -s` at a terminal: each scene is played with init and without it, and must be the same play.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use lab::{Outcome, Terminal, case, init_binary, skip, sys, wait_untold};

const LISTENER: &str = env!("CARGO_BIN_EXE_listener");

/// What happens at a terminal, in this order.
enum Step {
    /// This is on the screen at last.
    Shows(&'static str),
    /// Somebody types.
    Keys(&'static str),
    /// The window has other rows and columns.
    Size(u16, u16),
    /// The process, or init in its place, gets a signal.
    Signal(i32),
    /// What has been shown since the last `Shows` lacks this.
    Lacks(&'static str),
    /// Somebody asks the shell for its jobs until one is stopped: it tells of that only when it is asked.
    AsksUntilStopped,
    /// All but the shell is stopped. A shell sees init alone, which by a second Ctrl-Z may be stopped before it has run again: its command, if that
    /// has not run either, would take what is typed next before it stops.
    AllStopped,
}
use Step::{AllStopped, AsksUntilStopped, Keys, Lacks, Shows, Signal, Size};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";
const CTRL_BACKSLASH: &str = "\x1c";

/// Says on a failure which of the many it was.
struct Scenery(String);

impl Drop for Scenery {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::io::stderr().write_all(format!("in {}\n", self.0).as_bytes());
        }
    }
}

/// The end of a program that a signal ends, as init and a shell tell it.
fn code(outcome: &Outcome) -> i32 {
    if outcome.code < 0 {
        128 - outcome.code
    } else {
        outcome.code
    }
}

#[track_caller]
fn play(terminal: &mut Terminal, steps: &[Step]) {
    let mut shown = String::new();
    for step in steps {
        match step {
            Shows(text) => shown = terminal.until(text),
            Keys(text) => terminal.keys(text),
            Size(rows, columns) => terminal.resize(*rows, *columns),
            Signal(signal) => terminal.process.signal(*signal),
            Lacks(text) => assert!(!shown.contains(text), "{shown:?} has {text:?}"),
            AsksUntilStopped => {
                let is_stopped = (0..10_000).any(|_| {
                    terminal.keys("jobs\n");
                    terminal.until("jobs\r\n");
                    terminal.until("ready> ").contains("Stopped")
                });
                assert!(is_stopped, "no job is");
            }
            AllStopped => {
                let leader = terminal.process.pid();
                // Only their parents are told.
                wait_untold("all are stopped", || are_stopped(leader));
            }
        }
    }
}

/// Whether all processes of a session are stopped but for its leader.
fn are_stopped(leader: i32) -> bool {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = all.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let mut others = stats.filter(|stat| {
        // proc(5): the name in parentheses, then state, parent, group and session.
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let numbers: Vec<i32> = fields.split(' ').filter_map(|it| it.parse().ok()).collect();
        // Orphans are nobody's job any more.
        matches!(numbers[..], [parent, _, session, ..] if parent > 1 && session == leader)
            && !stat.starts_with(&format!("{leader} "))
    });
    others.all(|stat| stat.contains(") T "))
}

/// A script, what happens to it, its exit code.
type Scene = (&'static str, &'static [Step], i32);

/// The program leads the session of its terminal, as the first one of a container does.
const LEADER: &[Scene] = &[
    ("echo up; exec cat", &[Shows("up"), Keys(CTRL_C)], 130),
    (
        "ulimit -c 0; exec cat",
        &[
            Keys("word\n"),
            Shows("word\r\nword\r\n"),
            Keys(CTRL_BACKSLASH),
        ],
        131,
    ),
    ("echo up; exec cat", &[Shows("up"), Keys(CTRL_D)], 0),
    (
        "echo up; exec cat",
        &[
            Shows("up\r\n"),
            Keys("word\n"),
            Shows("word\r\nword\r\n"),
            Keys(CTRL_D),
        ],
        0,
    ),
    (
        "trap 'echo got INT; exit 3' INT; (echo up; exec sleep 1000) & wait",
        &[Shows("up"), Keys(CTRL_C), Shows("got INT")],
        3,
    ),
    // Nobody could wake it: the kernel stops no orphaned group by a terminal's wish.
    (
        "echo up; exec cat",
        &[
            Shows("up\r\n"),
            Keys(CTRL_Z),
            Keys("word\n"),
            Shows("word\r\nword\r\n"),
            Keys(CTRL_D),
        ],
        0,
    ),
    (
        "echo up; exec cat",
        &[
            Shows("up\r\n"),
            Signal(libc::SIGTSTP),
            Keys("word\n"),
            Shows("word\r\nword\r\n"),
            Keys(CTRL_D),
        ],
        0,
    ),
    (
        "echo up; exec cat",
        &[Shows("up"), Signal(libc::SIGTERM)],
        143,
    ),
    (
        "trap 'echo got; exit 4' USR1; (echo up; exec sleep 1000) & wait",
        &[Shows("up"), Signal(libc::SIGUSR1), Shows("got")],
        4,
    ),
    (
        "trap 'stty size; exit 5' WINCH; stty size; sleep 1000 & wait",
        &[Shows("24 80"), Size(30, 100), Shows("30 100")],
        5,
    ),
    // Its own job control: a job in the background that reads is stopped, the one in the foreground gets the keys.
    (
        "PS1='ready> ' exec /bin/dash -i",
        &[
            Shows("ready> "),
            Keys("cat </dev/tty &\n"),
            Shows("ready> "),
            AsksUntilStopped,
            Keys("sh -c 'echo u''p; exec cat'\n"),
            Shows("up\r\n"),
            Keys(CTRL_C),
            Shows("ready> "),
            Keys("echo code $?\n"),
            Shows("code 130"),
            Keys("sh -c 'echo u''p; exec cat'\n"),
            Shows("up\r\n"),
            Keys(CTRL_Z),
            Shows("Stopped"),
            Shows("ready> "),
            Keys("fg\n"),
            Shows("cat"),
            Keys("word\n"),
            Shows("word\r\nword\r\n"),
            Keys(CTRL_D),
            Shows("ready> "),
            Keys("fg %1\n"),
            Shows("/dev/tty"),
            Keys("more\n"),
            Shows("more\r\nmore\r\n"),
            Keys(CTRL_C),
            Shows("ready> "),
            Keys("exit 6\n"),
        ],
        6,
    ),
    (
        "echo up >/dev/tty; tty; exit 7",
        &[Shows("up"), Shows("/dev/pts/")],
        7,
    ),
];

fn leader(script: &str, with_init: bool) -> Terminal {
    let mut command = if with_init {
        let mut command = Command::new(init_binary());
        command.args(["-s", "--", "/bin/busybox"]);
        command
    } else {
        Command::new("/bin/busybox")
    };
    command.args(["sh", "-c", script]).env("ENV", "");
    Terminal::spawn(command)
}

#[test]
fn a_leader_of_a_session_is_as_without_init() {
    case(|_| {
        for &(script, steps, expected) in LEADER {
            for with_init in [false, true] {
                let _scenery = Scenery(format!("{script}, with init: {with_init}"));
                let mut terminal = leader(script, with_init);
                play(&mut terminal, steps);
                assert_eq!(
                    code(&terminal.end()),
                    expected,
                    "{script}, with init: {with_init}"
                );
            }
        }
    });
}

#[test]
fn the_end_of_the_terminal_hangs_up() {
    case(|_| {
        for with_init in [false, true] {
            let mut terminal = leader("echo up; exec sleep 1000", with_init);
            terminal.until("up");
            assert_eq!(code(&terminal.hang_up()), 129, "with init: {with_init}");
        }
    });
}

/// dumb-init#136: giving the terminal up sends HUP and CONT, which killed a command that was quick, or was told of them.
#[test]
fn the_signals_of_the_hand_off_are_not_passed_on() {
    case(|_| {
        let script = "trap 'echo got HUP' HUP; trap 'echo got CONT' CONT; echo up; read x; echo over; exit 8";
        let steps = [Shows("up"), Keys("x\n"), Shows("over"), Lacks("got")];
        for _ in 0..25 {
            let mut terminal = leader(script, true);
            play(&mut terminal, &steps);
            assert_eq!(code(&terminal.end()), 8);
            // Any later one is.
            let mut terminal = leader(
                "trap 'echo got HUP; exit 9' HUP; (echo up; exec sleep 1000) & wait",
                true,
            );
            play(
                &mut terminal,
                &[Shows("up"), Signal(libc::SIGHUP), Shows("got HUP")],
            );
            assert_eq!(code(&terminal.end()), 9);
        }
    });
}

/// A shell leads the session, init is in a job of it. `$I` is `.../init -s --`, or nothing.
const JOBS: &[&[Step]] = &[
    // Ctrl-C, and codes.
    &[
        Keys("$I sh -c 'echo u''p; exec cat'; echo code $?\n"),
        Shows("up\r\n"),
        Keys(CTRL_C),
        Shows("ready> "),
        Keys(
            "$I sh -c 'exit 7'; echo co''de $?; $I sh -c 'kill -9 $$'; echo co''de $?; $I no-such; echo co''de $?\n",
        ),
        Shows("code 7"),
        Shows("code 137"),
        Shows("code 127"),
    ],
    // Ctrl-Z, fg, Ctrl-Z, bg, and Ctrl-C after fg.
    &[
        Keys("$I sh -c 'echo u''p; exec cat'\n"),
        Shows("up\r\n"),
        Keys(CTRL_Z),
        Shows("Stopped"),
        Shows("ready> "),
        Keys("fg\n"),
        Shows("cat"),
        Keys("word\n"),
        Shows("word\r\nword\r\n"),
        Keys(CTRL_Z),
        Shows("Stopped"),
        Shows("ready> "),
        AllStopped,
        // In the background it takes nothing away from the shell.
        Keys("bg\n"),
        Shows("ready> "),
        AsksUntilStopped,
        Keys("fg\n"),
        Shows("cat"),
        Keys("again\n"),
        Shows("again\r\nagain\r\n"),
        Keys(CTRL_C),
        Shows("ready> "),
        Keys("echo co''de $?\n"),
        Shows("code 130"),
    ],
    // Begun in the background.
    &[
        Keys("$I sh -c 'read x; echo go''t $x' &\n"),
        Shows("ready> "),
        AsksUntilStopped,
        Keys("fg\n"),
        Shows("read x"),
        Keys("word\n"),
        Shows("got word"),
        Shows("ready> "),
        Keys("$I sh -c 'echo u''p; exec sleep 1000' &\n"),
        Shows("up\r\n"),
        Keys("kill %1; wait %1; echo co''de $?\n"),
        Shows("code 143"),
    ],
    // Its standard input is no terminal, and it has one nevertheless: `less` asks it.
    &[
        Keys("echo piped | $I sh -c 'read x; echo u''p; read y </dev/tty; echo go''t $x $y'\n"),
        Shows("up\r\n"),
        Keys("word\n"),
        Shows("got piped word"),
        Shows("ready> "),
        Keys(
            "$I sh -c 'echo u''p; while read x; do echo $x; done' | $I sh -c 'while read x; do echo $x; done'\n",
        ),
        Shows("up\r\n"),
        Keys("word\n"),
        Shows("word\r\nword\r\n"),
        Keys(CTRL_Z),
        Shows("Stopped"),
        Shows("ready> "),
        Keys("fg\n"),
        Shows("echo"),
        Keys("again\n"),
        Shows("again\r\nagain\r\n"),
        Keys(CTRL_D),
        Shows("ready> "),
        Keys("echo co''de $?\n"),
        Shows("code 0"),
    ],
    // CONT comes once.
    &[
        Keys(
            "$I sh -c \"trap 'echo go''ing' CONT; echo u''p; while ! read x; do :; done; echo go''t \\$x\"\n",
        ),
        Shows("up\r\n"),
        Keys(CTRL_Z),
        Shows("Stopped"),
        Shows("ready> "),
        Keys("fg\n"),
        Shows("going\r\n"),
        Keys("word\n"),
        Shows("got word"),
        Lacks("going"),
    ],
    // A command that does not stop is still in the foreground.
    &[
        Keys("$I sh -c \"trap '' TSTP; echo u''p; read x; echo go''t \\$x\"\n"),
        Shows("up\r\n"),
        Keys(CTRL_Z),
        Keys("word\n"),
        Shows("got word"),
        Lacks("Stopped"),
    ],
    // The command is asked first, as an editor that puts the terminal in order before it stops.
    &[
        Keys(
            "$I sh -c \"trap 'echo sav''ed; kill -STOP \\$\\$; echo we''nt on; kill \\$!; exit 6' TSTP; sleep 1000 & echo u''p; wait\"\n",
        ),
        Shows("up\r\n"),
        Keys(CTRL_Z),
        Shows("saved"),
        Shows("Stopped"),
        Shows("ready> "),
        Keys("fg\n"),
        Shows("went on"),
        Shows("ready> "),
        Keys("echo co''de $?\n"),
        Shows("code 6"),
    ],
    // It stops itself, and asks nobody.
    &[
        Keys("$I sh -c 'echo u''p; kill -STOP $$; echo we''nt on; exit 6'\n"),
        Shows("up\r\n"),
        Shows("Stopped"),
        Shows("ready> "),
        Keys("fg\n"),
        Shows("went on"),
        Shows("ready> "),
        Keys("echo co''de $?\n"),
        Shows("code 6"),
    ],
    // The window.
    &[
        Keys("$I sh -c \"trap 'stty size; exit 5' WINCH; stty size; sleep 1000 & wait\"\n"),
        Shows("24 80"),
        Size(30, 100),
        Shows("30 100"),
        Size(24, 80),
    ],
];

/// In the group of a job are others too, init among them: only what is below it gets the signals that init gets.
#[test]
fn a_signal_to_a_job_goes_to_its_group() {
    case(|_| {
        let script = "\"$@\" | cat; echo over";
        let mut command = Command::new("/bin/dash");
        command
            .args(["-c", script, "sh"])
            .arg(init_binary())
            .args(["-s", "--", LISTENER, "cmd=7", "inner", "@outer"]);
        let mut terminal = Terminal::spawn(command);
        let mut shown = terminal.until(" up ") + &terminal.until(" up ") + &terminal.until(" up ");
        shown += &terminal.until("\r\n");
        let up = shown.lines().find(|line| line.starts_with("cmd up"));
        let init = up.expect("the command's line").rsplit(' ').next();
        let init = init.expect("its parent").parse().expect("a number");
        let init = sys::pidfd(init).expect("pidfd of init");
        sys::pidfd_signal(&init, libc::SIGUSR1).expect("signal init");
        let both = terminal.until(" 10\r\n") + &terminal.until(" 10\r\n");
        assert!(
            both.contains("cmd 10") && both.contains("inner 10"),
            "{both}"
        );
        sys::pidfd_signal(&init, libc::SIGTERM).expect("signal init");
        let rest = terminal.until("over");
        for line in ["cmd 15", "inner 15", "outer 15"] {
            assert!(rest.contains(line), "{rest}");
        }
        assert!(!rest.contains(" 10"), "{rest}");
        terminal.end().exits(0);
    });
}

/// Shells with job control, as people have them. (That of busybox loses a key now and then, without init too.)
const SHELLS: &[(&str, &[&str])] = &[
    ("/bin/dash", &["-i"]),
    ("/bin/bash", &["--norc", "--noprofile", "--noediting", "-i"]),
];

/// A shell as the command has a group of its own, which the shell above does not know: init wakes it, and gives it the
/// terminal back.
const SUSPENDED: &[Step] = &[
    Keys("$I /bin/bash --norc --noprofile --noediting -i\n"),
    Shows("ready> "),
    Keys("echo in''ner\n"),
    Shows("inner\r\n"),
    Shows("ready> "),
    Keys("suspend\n"),
    Shows("Stopped"),
    Shows("ready> "),
    Keys("fg\n"),
    Shows("bash"),
    Keys("sh -c 'echo u''p; exec cat'\n"),
    Shows("up\r\n"),
    Keys("word\n"),
    Shows("word\r\nword\r\n"),
    Keys(CTRL_C),
    Shows("ready> "),
    Keys("suspend\n"),
    Shows("Stopped"),
    Shows("ready> "),
    Keys("fg\n"),
    Shows("bash"),
    Keys("exit 3\n"),
    Shows("ready> "),
    Keys("echo co''de $?\n"),
    Shows("code 3"),
];

#[test]
fn a_job_of_a_shell_is_as_without_init() {
    case(|_| {
        let jobs = JOBS.iter().chain([&SUSPENDED]);
        for (shell, arguments) in SHELLS {
            if !Path::new(shell).exists() {
                skip(&format!("there is no {shell}"));
                continue;
            }
            for with_init in [false, true] {
                let prefix = if with_init {
                    format!("{} -s --", init_binary().display())
                } else {
                    String::new()
                };
                let mut command = Command::new(shell);
                command
                    .args(*arguments)
                    .env("PS1", "ready> ")
                    .env("ENV", "")
                    .env("TERM", "dumb")
                    .env("I", &prefix);
                let mut terminal = Terminal::spawn(command);
                terminal.until("ready> ");
                for (number, scene) in jobs.clone().enumerate() {
                    let _scenery =
                        Scenery(format!("{shell}, scene {number}, with init: {with_init}"));
                    play(&mut terminal, scene);
                    terminal.keys("echo n''ext\n");
                    terminal.until("next\r\n");
                    terminal.until("ready> ");
                }
                terminal.keys("exit 9\n");
                assert_eq!(terminal.end().code, 9, "{shell} {prefix}");
            }
        }
    });
}
