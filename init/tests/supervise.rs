//! Supervising, as a black box. Nothing here sleeps: each step waits for what the one before has said.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// `INIT_BIN`, else what `cargo build` has left: built with the feature `supervise`.
fn init() -> PathBuf {
    let path = match std::env::var_os("INIT_BIN") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_BIN_EXE_init")),
    };
    assert!(path.exists(), "{} is missing", path.display());
    path
}

fn supervised(arguments: &[&str]) -> Command {
    let mut command = Command::new(init());
    command.arg("-s").args(arguments).stdin(Stdio::null());
    command
}

/// In a PID namespace of its own: init is PID 1 there.
fn as_pid_1(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["-rpf", "--mount-proc", "--kill-child"])
        .arg(init())
        .arg("-s")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Put before a script: descriptor 3 is a pipe that the test holds open, and `read` on it waits without polling.
const HOLD: &str = "exec 3<&0; hold() { while :; do read x <&3; done; }; ";

fn holding(script: &str) -> String {
    format!("{HOLD}{script}")
}

fn output(mut command: Command) -> (Output, String, String) {
    let output = command.output().expect("a program that starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

fn code_of(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| -output.status.signal().unwrap_or(0))
}

/// A program that says lines on standard output.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program that starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim_end().to_string()
    }

    fn kill(&self, signal: &str) {
        send(signal, &self.child.id().to_string());
    }

    /// The exit code and what was said on standard error.
    fn end(mut self) -> (i32, String) {
        let mut rest = String::new();
        let _ = self.lines.read_to_string(&mut rest);
        let mut err = String::new();
        let mut pipe = self.child.stderr.take().expect("a pipe");
        pipe.read_to_string(&mut err).expect("what it says");
        let status = self.child.wait().expect("its end");
        (
            status.code().unwrap_or(-status.signal().unwrap_or(0)),
            rest + &err,
        )
    }
}

fn send(signal: &str, pid: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), "--", pid])
        .status()
        .expect("kill");
    assert!(status.success(), "kill -{signal} {pid}");
}

#[test]
fn exit_codes_are_the_commands() {
    for (arguments, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -SEGV $$"], 139),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["no-such-command"], 127),
        (&["/etc/passwd"], 126),
        (&["-e", "7", "sh", "-c", "exit 7"], 0),
        (&["-e7", "-e", "143", "sh", "-c", "kill $$"], 0),
        (&["--map-exit=7", "sh", "-c", "exit 8"], 8),
        (&["--", "sh", "-c", "exit 255"], 255),
    ] {
        for command in [supervised(arguments), as_pid_1(arguments)] {
            assert_eq!(code_of(&output(command).0), expected, "{arguments:?}");
        }
    }
}

#[test]
fn an_abnormal_end_is_said_and_a_normal_one_is_not() {
    let (_, _, err) = output(supervised(&["sh", "-c", "kill -USR1 $$"]));
    assert_eq!(err, "init: run sh: ended by SIGUSR1\n");
    let (_, _, err) = output(supervised(&["sh", "-c", "exit 3"]));
    assert_eq!(err, "");
}

#[test]
fn usage_errors_are_one_line_and_125() {
    for (arguments, words) in [
        (
            &["--no-such-option"][..],
            "--no-such-option: unknown option",
        ),
        (&["-x", "true"], "-x: unknown option"),
        (&["-r", "TERM", "true"], "TERM: not two signals"),
        (&["-r", "TERM:NOPE", "true"], "TERM:NOPE: not two signals"),
        (&["-r", "65:1", "true"], "65:1: not two signals"),
        (&["-e", "256", "true"], "256: not an exit code"),
        (&["-e", "-1", "true"], "-1: not an exit code"),
        (&["-p", "SIGNOPE", "true"], "SIGNOPE: no signal"),
        (
            &["--grace", "soon", "true"],
            "soon: not a number of seconds",
        ),
        (&["--grace"], "--grace: its value is missing"),
        (&["--warn=yes", "true"], "--warn=yes: it takes no value"),
        (&[], "no command"),
    ] {
        let (output, out, err) = output(supervised(arguments));
        assert_eq!(code_of(&output), 125, "{arguments:?}: {err}");
        assert!(
            out.is_empty() && err.lines().count() == 1 && err.contains(words),
            "{arguments:?}: {err}"
        );
    }
}

#[test]
fn a_term_drains_and_the_code_is_the_commands() {
    let script = "trap 'exit 11' TERM; (trap '' TERM; echo ready; exec sleep 1000) & wait";
    let mut running = Running::start(supervised(&["--grace", "1", "sh", "-c", script]));
    assert_eq!(running.line(), "ready");
    running.kill("TERM");
    let (code, said) = running.end();
    assert_eq!(code, 11);
    assert!(said.contains("kill sleep ("), "{said}");
}

/// catatonit#4: many that end at once give one SIGCHLD.
#[test]
fn ten_thousand_orphans_are_reaped() {
    let script = "i=0; while [ $i -lt 100 ]; do (j=0; while [ $j -lt 100 ]; do (:) & j=$((j+1)); done) & i=$((i+1)); done; \
        wait; exit 12";
    for command in [
        supervised(&["sh", "-c", script]),
        as_pid_1(&["sh", "-c", script]),
    ] {
        assert_eq!(code_of(&output(command).0), 12);
    }
}

#[test]
fn a_hundred_thousand_signals_lose_no_exit_code() {
    let script = "trap 'n=1' USR1 USR2; echo ready; read line; exit 13";
    let mut command = supervised(&["-c", "sh", "-c", script]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    assert_eq!(running.line(), "ready");
    let pid = running.child.id();
    let storm = format!(
        "i=0; while [ $i -lt 50000 ]; do kill -USR1 {pid}; kill -USR2 {pid}; i=$((i+1)); done"
    );
    let status = Command::new("sh")
        .args(["-c", &storm])
        .status()
        .expect("sh");
    assert!(status.success());
    let mut stdin = running.child.stdin.take().expect("a pipe");
    // A shell that a signal interrupts in `read` may end it: whatever it does, its code is what we get.
    let _ = stdin.write_all(b"go\n");
    drop(stdin);
    assert_eq!(running.end().0, 13);
}

/// Nobody reads standard error, and its pipe is full.
#[test]
fn a_full_pipe_does_not_stop_it() {
    let script = "i=0; while [ $i -lt 3000 ]; do (sh -c : &); i=$((i+1)); done; wait; exit 14";
    let mut command = supervised(&["-w", "sh", "-c", script]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("init");
    // The pipe is open and unread until the end.
    let unread = child.stderr.take();
    assert_eq!(child.wait().expect("its end").code(), Some(14));
    drop(unread);
}

#[test]
fn socket_activation_names_the_command() {
    let own = supervised(&[
        "sh",
        "-c",
        "test \"$LISTEN_PID\" = $$ && echo \"$LISTEN_FDS\"",
    ]);
    // exec keeps the PID: what the shell puts there is init's own.
    let mut command = Command::new("sh");
    command
        .args(["-c", "LISTEN_FDS=2 LISTEN_PID=$$ exec \"$@\"", "sh"])
        .arg(own.get_program())
        .args(own.get_args());
    let (output, out, _) = output(command);
    assert_eq!((code_of(&output), out.as_str()), (0, "2\n"));
    let mut other = supervised(&["sh", "-c", "echo $LISTEN_PID"]);
    other.env("LISTEN_PID", "1");
    assert_eq!(other.output().expect("init").stdout, b"1\n");
}

#[test]
fn nothing_of_ours_is_left_in_the_command_and_nothing_of_the_callers_in_us() {
    let script = "exec 9</dev/null; exec \"$@\"";
    let own = supervised(&[
        "-c",
        "sh",
        "-c",
        "ls /proc/$PPID/fd | wc -l; readlink /proc/$PPID/cwd; ls /proc/self/fd | grep -c 9",
    ]);
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(own.get_program())
        .args(own.get_args());
    let (_, out, _) = output(command);
    assert_eq!(out, "3\n/\n1\n");
}

/// Links to init under the other programs' names; the directory goes when this does.
struct Peers(PathBuf);

impl Peers {
    fn new(test: &str) -> Self {
        let name = format!("hawser-{test}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        for name in [
            "tini",
            "docker-init",
            "dumb-init",
            "catatonit",
            "podman-init",
        ] {
            std::os::unix::fs::symlink(init(), directory.join(name)).expect("a link");
        }
        Peers(directory)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.0.join(name));
        command.args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Name, arguments, exit code, how standard output begins.
type Call = (&'static str, &'static [&'static str], i32, &'static str);

const CALLS: &[Call] = &[
    ("tini", &["--version"], 0, "tini version "),
    ("docker-init", &["--version"], 0, "tini version "),
    ("catatonit", &["--version"], 0, "tini version "),
    ("podman-init", &["-V"], 0, "tini version "),
    ("dumb-init", &["-V"], 0, "dumb-init v"),
    ("tini", &["-h"], 0, "usage: tini"),
    (
        "tini",
        &[
            "-sg",
            "-e",
            "5",
            "-p",
            "SIGTERM",
            "--",
            "sh",
            "-c",
            "echo up; exit 5",
        ],
        0,
        "up",
    ),
    (
        "docker-init",
        &["--", "sh", "-c", "echo up; exit 5"],
        5,
        "up",
    ),
    (
        "dumb-init",
        &["-c", "-r", "15:2", "sh", "-c", "echo up; exit 5"],
        5,
        "up",
    ),
    (
        "dumb-init",
        &["--single-child", "--rewrite", "15:0", "sh", "-c", "echo up"],
        0,
        "up",
    ),
    (
        "podman-init",
        &["--", "sh", "-c", "echo up; kill -9 $$"],
        137,
        "up",
    ),
    ("catatonit", &["-g", "sh", "-c", "echo up"], 0, "up"),
    ("docker-init", &["-s", "true"], 125, ""),
    ("catatonit", &["--config", "x", "true"], 125, ""),
];

#[test]
fn called_by_another_name_it_has_that_programs_options() {
    let peers = Peers::new("options");
    for &(name, arguments, code, words) in CALLS {
        let (output, out, err) = output(peers.command(name, arguments));
        assert_eq!(code_of(&output), code, "{name} {arguments:?}: {err}");
        assert!(out.starts_with(words), "{name} {arguments:?}: {out}");
        assert!(code == 125 || err.is_empty(), "{name} {arguments:?}: {err}");
    }
}

#[test]
fn called_by_another_name_it_does_not_drain() {
    let peers = Peers::new("drain");
    let script = "(trap '' TERM; echo $$; exec sleep 1000 >/dev/null 2>&1) & exit 3";
    let (output, out, _) = output(peers.command("tini", &["--", "sh", "-c", script]));
    assert_eq!(code_of(&output), 3);
    // What it leaves alone is still there.
    send("KILL", &format!("-{}", out.trim()));
}

#[test]
fn a_pause_ends_by_int_or_term() {
    let peers = Peers::new("pause");
    for signal in ["INT", "TERM"] {
        let running = Running::start(peers.command("catatonit", &["-P"]));
        let status = format!("/proc/{}/status", running.child.id());
        // The only place where it sleeps is where it waits for signals.
        while !std::fs::read_to_string(&status)
            .expect("its status")
            .contains("State:\tS")
        {
            std::thread::yield_now();
        }
        running.kill(signal);
        assert_eq!(running.end(), (0, String::new()));
    }
}

/// Says `ready`, and then each signal that comes, until TERM.
const TALKER: &str = "for s in HUP INT QUIT USR1 USR2 ALRM CONT WINCH; do trap \"echo $s\" $s; done; \
    trap 'echo TERM; exit 9' TERM; echo ready; hold";

fn talker(options: &[&str]) -> Running {
    let script = holding(TALKER);
    let mut running = Running::start(supervised(&[options, &["sh", "-c", &script]].concat()));
    assert_eq!(running.line(), "ready");
    running
}

#[test]
fn every_signal_is_passed_on() {
    let mut running = talker(&["-c"]);
    for signal in [
        "HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "WINCH", "CONT",
    ] {
        running.kill(signal);
        assert_eq!(running.line(), signal);
    }
    running.kill("TERM");
    assert_eq!(running.line(), "TERM");
    assert_eq!(running.end().0, 9);
}

#[test]
fn signals_are_rewritten_and_dropped() {
    let mut running = talker(&["-c", "-r", "HUP:USR1", "-r2:SIGUSR2", "--rewrite=QUIT:0"]);
    running.kill("HUP");
    assert_eq!(running.line(), "USR1");
    running.kill("INT");
    assert_eq!(running.line(), "USR2");
    running.kill("QUIT");
    running.kill("ALRM");
    assert_eq!(running.line(), "ALRM");
    running.kill("TERM");
    assert_eq!(running.end().0, 9);
}

#[test]
fn the_group_gets_signals_or_the_command_alone() {
    // The command has a child that says what it gets; the command itself only waits for it.
    let script = holding(
        "(trap 'echo child; exit' USR1; echo ready; hold) & trap 'echo command' USR1; wait; wait; echo over",
    );
    let mut running = Running::start(supervised(&["sh", "-c", &script]));
    assert_eq!(running.line(), "ready");
    running.kill("USR1");
    let mut both = [running.line(), running.line()];
    both.sort();
    assert_eq!(both, ["child", "command"]);
    assert_eq!(running.end().0, 0);
    let mut alone = Running::start(supervised(&["-c", "--grace", "0", "sh", "-c", &script]));
    assert_eq!(alone.line(), "ready");
    alone.kill("USR1");
    assert_eq!(alone.line(), "command");
    alone.kill("TERM");
    alone.end();
}

/// tini#180, tini#229: what the command leaves is asked to end and waited for; dumb-init#212: all of it, not the first.
#[test]
fn what_is_left_is_asked_and_waited_for() {
    let script = holding(
        "for i in 1 2 3; do (trap 'echo ended; exit' TERM; echo up; hold) & done; trap 'exit 5' USR1; wait; hold",
    );
    // The second one is PID 1 behind unshare, which passes no USR1 on: its command is asked by its own number.
    for command in [
        supervised(&["-c", "sh", "-c", &script]),
        as_pid_1(&["-c", "sh", "-c", &script]),
    ] {
        let mut running = Running::start(command);
        for _ in 0..3 {
            assert_eq!(running.line(), "up");
        }
        let init = init_of(&running);
        send("USR1", &init);
        let (code, said) = running.end();
        assert_eq!((code, said.as_str()), (5, "ended\nended\nended\n"));
    }
}

/// init's number: the process's own, or that of its child where the process is unshare.
fn init_of(running: &Running) -> String {
    let pid = &running.child.id().to_string();
    let expected = init();
    let is_init = |pid: &str| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == expected)
    };
    if is_init(pid) {
        return pid.to_string();
    }
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    let child = children.split_whitespace().find(|child| is_init(child));
    child.expect("an init below it").to_string()
}

#[test]
fn what_does_not_end_is_killed_and_named() {
    let script = "(trap '' TERM; echo up; exec sleep 1000) & read go; exit 6";
    for command in [
        supervised(&["--grace", "1", "sh", "-c", script]),
        as_pid_1(&["--grace", "1", "sh", "-c", script]),
    ] {
        let mut running = Running::start(command);
        assert_eq!(running.line(), "up");
        running
            .child
            .stdin
            .as_mut()
            .expect("a pipe")
            .write_all(b"go\n")
            .expect("a reader");
        let (code, said) = running.end();
        assert_eq!(code, 6);
        assert!(said.contains(" ("), "{said}");
        assert!(
            said.contains("): it has not ended in its grace\n"),
            "{said}"
        );
    }
}

/// kill(-1) is for PID 1 alone: elsewhere it would end this test, and the machine.
#[test]
fn a_process_outside_survives() {
    let mut outside = Command::new("sleep")
        .arg("1000")
        .process_group(0)
        .spawn()
        .expect("sleep");
    let script = "setsid sh -c 'trap \"\" TERM; echo ready; exec sleep 1000' & wait";
    let mut running = Running::start(supervised(&["--all", "--grace", "0", "sh", "-c", script]));
    assert_eq!(running.line(), "ready");
    running.kill("TERM");
    let (_, said) = running.end();
    assert!(said.contains("init: kill "), "{said}");
    assert!(
        outside.try_wait().expect("its state").is_none(),
        "a process outside was killed"
    );
    outside.kill().expect("kill");
    outside.wait().expect("its end");
}

#[test]
fn orphans_are_warned_about_when_asked() {
    let (output, _, err) = output(supervised(&[
        "-w",
        "sh",
        "-c",
        "(sh -c 'exit 3' & exit 0); exit 0",
    ]));
    assert_eq!(code_of(&output), 0);
    assert!(err.contains("init: reap an orphan: process "), "{err}");
}

#[test]
fn stop_signals_stop_the_group_and_us() {
    let script = holding("echo $$; trap 'echo CONT; exit 15' CONT; hold");
    let mut running = Running::start(supervised(&["sh", "-c", &script]));
    let command = running.line();
    running.kill("TSTP");
    // Nothing tells us of a stop without waitpid(WUNTRACED), so we look until both have the state.
    let own = running.child.id().to_string();
    let is_stopped = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    };
    while !(is_stopped(&own) && is_stopped(&command)) {
        std::thread::yield_now();
    }
    running.kill("CONT");
    assert_eq!(running.line(), "CONT");
    assert_eq!(running.end().0, 15);
}
