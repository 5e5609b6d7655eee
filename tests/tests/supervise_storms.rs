//! What a child can do to `init -s`: floods of signals, of orphans and of text. None of it ends init early, or loses the
//! command's exit code.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{DEADLINE, Running, Supervised, case, collect, init_binary};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

const LISTENER: &str = env!("CARGO_BIN_EXE_listener");
/// Many processes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_hundred_thousand_signals() {
    case(|_| {
        for command in Supervised::commands(&[
            "-c",
            "--",
            "/bin/busybox",
            "sh",
            "-c",
            "echo cmd up $$; read x; exit 13",
        ]) {
            let mut init = Supervised::start(command, 1);
            // What a shell ignores by itself or gets for nothing; the real-time one fills the queue of signals.
            for signal in
                [libc::SIGCHLD, libc::SIGCONT, libc::SIGWINCH, libc::SIGURG].repeat(25_000)
            {
                init.send(signal);
            }
            init.say("end\n");
            init.end().exits(13);
        }
    });
}

/// Real-time signals queue, up to a limit: then sending one fails, for us as for anybody.
#[test]
fn a_full_queue_of_signals() {
    case(|_| {
        let command = Supervised::command(&["--", LISTENER, "cmd=12"]);
        let mut init = Supervised::start(command, 1);
        init.signal(libc::SIGSTOP);
        init.wait_for_stop();
        let sent = (0..200_000).take_while(|_| init.try_send(50)).count();
        assert!(sent > 100, "{sent} real-time signals");
        init.send(libc::SIGTERM);
        init.signal(libc::SIGCONT);
        // The lower number comes first, and then as many as were sent, or as the command's own queue can take.
        assert_eq!(init.line(), "cmd 15");
        init.end_within(LONG).exits(12);
    });
}

/// catatonit#4 and podman#4142: however many there are, each is reaped, and none stays a zombie.
#[test]
fn ten_thousand_orphans() {
    case(|lab| {
        let script = "i=0; while [ $i -lt 10 ]; do \
            (j=0; while [ $j -lt 1000 ]; do (: &); j=$((j+1)); done) & i=$((i+1)); done; wait; exit 12";
        for mut command in Supervised::commands(&["-w", "--", "/bin/busybox", "sh", "-c", script]) {
            // A file has room for every line; a pipe whose reader is slow has not.
            let path = lab.dir.join("warnings");
            command.stderr(File::create(&path).expect("a file"));
            Running::spawn(command).end_within(LONG).exits(12);
            let said = std::fs::read_to_string(&path).expect("the warnings");
            assert_eq!(said.lines().count(), 10_000);
        }
    });
}

/// Those that fork while they are killed are killed too, and what they fork.
#[test]
fn what_is_being_born_at_the_end() {
    case(|_| {
        let script = "trap '' TERM; i=0; while [ $i -lt 5 ]; do setsid /bin/busybox sh -c \
            'while :; do (:); done' & i=$((i+1)); done; echo cmd up $$; wait; exit 9";
        let arguments = ["--grace", "0", "--", "/bin/busybox", "sh", "-c", script];
        for command in Supervised::commands(&arguments) {
            let init = Supervised::start(command, 1);
            init.send(libc::SIGTERM);
            let outcome = init.end_within(LONG).exits(137);
            assert!(outcome.err().contains("init: kill "), "{outcome}");
        }
    });
}

/// A pipe with no byte of room, and its unread end.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (unread, full) = nix::unistd::pipe().expect("a pipe");
    fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("no waiting");
    let mut file = File::from(full);
    while file.write(&[0; 4096]).is_ok() {}
    let full = OwnedFd::from(file);
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).expect("waiting");
    (unread, full)
}

#[test]
fn a_full_standard_error() {
    case(|_| {
        let script =
            "(sh -c 'exit 3' & :); (sh -c 'kill -9 $$' & :); echo cmd up $$; read x; exit 14";
        for mut command in Supervised::commands(&["-wv", "--", "/bin/busybox", "sh", "-c", script])
        {
            let (unread, full) = full_pipe();
            command.stderr(Stdio::from(full));
            let mut init = Supervised::start(command, 1);
            for _ in 0..1000 {
                init.send(libc::SIGWINCH);
            }
            init.say("end\n");
            init.end().exits(14);
            drop(unread);
        }
    });
}

/// The SIGPIPE for a message that nobody reads is not one to pass on.
#[test]
fn a_closed_standard_error() {
    case(|_| {
        for mut command in Supervised::commands(&["-wv", "--", LISTENER, "cmd=15"]) {
            let (unread, closed) = nix::unistd::pipe().expect("a pipe");
            drop(unread);
            command.stderr(Stdio::from(closed));
            let mut init = Supervised::start(command, 1);
            for signal in [
                libc::SIGUSR1,
                libc::SIGUSR2,
                libc::SIGPIPE,
                libc::SIGHUP,
                libc::SIGTERM,
            ] {
                init.send(signal);
                assert_eq!(init.line(), format!("cmd {signal}"));
            }
            init.end().exits(15);
        }
    });
}

/// Nothing below it can signal a PID 1 to death, KILL included; an ordinary process is killed, and the kernel says so.
#[test]
fn the_command_cannot_kill_pid_1() {
    case(|_| {
        let script =
            "for s in KILL STOP SEGV ABRT BUS ILL FPE; do kill -$s $PPID; done; read x; exit 16";
        let arguments = [
            "-r", "SEGV:0", "-r", "ABRT:0", "-r", "BUS:0", "-r", "ILL:0", "-r", "FPE:0",
        ];
        let arguments = [&arguments[..], &["--", "/bin/busybox", "sh", "-c", script]].concat();
        Running::spawn(Supervised::command_as_pid_1(&arguments))
            .end()
            .exits(16);
    });
}

/// A command that asks for its own end, and leaves somebody who ends with it: the group is asked twice, and looked for in between.
#[test]
fn a_group_that_ends_at_once() {
    case(|_| {
        for _ in 0..300 {
            let mut init = Command::new(init_binary());
            let script = "kill -TERM $PPID; sleep 100 & wait";
            init.arg0("dumb-init").args(["--", "sh", "-c", script]);
            collect(init, DEADLINE).exits(128 + libc::SIGTERM);
        }
    });
}
