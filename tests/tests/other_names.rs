//! init under the names of other programs: their options, no drain, podman's pause. (What they do themselves is compared
//! elsewhere.)

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, Running, case, child, collect, init_binary, strace, sys, wait_for_end};

/// init by a link of that name.
fn named(lab: &Lab, name: &str, arguments: &[&str]) -> Command {
    let path = lab.dir.join(name);
    if !path.exists() {
        symlink(init_binary(), &path).expect("a link");
    }
    let mut command = Command::new(path);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::without_terminal(&mut command);
    command
}

/// Name, arguments, exit code, how standard output begins.
type Call = (&'static str, &'static [&'static str], i32, &'static str);

const ECHO: &str = "echo up; exit 5";
#[rustfmt::skip]
const CALLS: &[Call] = &[
    ("tini", &["--version"], 0, "tini version "),
    ("docker-init", &["--version"], 0, "tini version "),
    ("catatonit", &["--version"], 0, "tini version "),
    ("podman-init", &["-V"], 0, "tini version "),
    ("dumb-init", &["-V"], 0, "dumb-init v"),
    ("tini", &["-h"], 0, "usage: tini [-sgvwl]"),
    ("tini", &["-sg", "-e", "5", "-p", "SIGTERM", "--", "sh", "-c", ECHO], 0, "up"),
    ("docker-init", &["--", "sh", "-c", ECHO], 5, "up"),
    ("dumb-init", &["-c", "-r", "15:2", "sh", "-c", ECHO], 5, "up"),
    ("dumb-init", &["--single-child", "--rewrite", "15:0", "sh", "-c", "echo up"], 0, "up"),
    ("podman-init", &["--", "sh", "-c", "echo up; kill -9 $$"], 137, "up"),
    ("catatonit", &["-g", "sh", "-c", "echo up"], 0, "up"),
    ("docker-init", &["-s", "true"], 0, ""),
    ("docker-init", &["-P"], 125, ""),
    ("catatonit", &["--config", "x", "true"], 125, ""),
];

#[test]
fn they_have_that_programs_options() {
    case(|lab| {
        for &(name, arguments, code, words) in CALLS {
            let outcome = collect(named(lab, name, arguments), DEADLINE);
            assert_eq!(outcome.code, code, "{name} {arguments:?}: {outcome}");
            assert!(
                outcome.out().starts_with(words),
                "{name} {arguments:?}: {outcome}"
            );
            assert!(
                code == 125 || outcome.stderr.is_empty(),
                "{name} {arguments:?}: {outcome}"
            );
        }
    });
}

#[test]
fn they_do_not_drain() {
    case(|lab| {
        let script =
            "(trap '' TERM; echo $$; exec /bin/busybox cat /run/lab/fifo >/dev/null 2>&1) & exit 3";
        lab::sh("busybox mkfifo /run/lab/fifo");
        for name in ["tini", "docker-init", "catatonit", "podman-init"] {
            let outcome = collect(named(lab, name, &["--", "sh", "-c", script]), DEADLINE).exits(3);
            // What they leave alone is still there: it is the only reader that a writer of the FIFO can find.
            assert_eq!(outcome.out().lines().count(), 1, "{name}: {outcome}");
            std::fs::write("/run/lab/fifo", "").expect("a reader");
        }
    });
}

#[test]
fn a_pause_ends_by_int_or_term() {
    case(|lab| {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // strace says when it waits, and not before.
            let pause = named(lab, "catatonit", &["-P"]);
            let mut command =
                strace::traced(&pause, &["-e", "trace=rt_sigtimedwait"], "/dev/stderr");
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .stdin(Stdio::null());
            let mut running = Running::spawn(command);
            running.until_stderr("rt_sigtimedwait(");
            let pid = child(running.pid());
            let pidfd = sys::pidfd(pid).expect("pidfd of the pause");
            sys::pidfd_signal(&pidfd, signal).expect("signal it");
            wait_for_end(pid);
            running.end().exits(0);
        }
    });
}
