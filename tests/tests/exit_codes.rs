//! Exit codes are an interface: the command's own, 125 ours, 126 cannot execute, 127 not found, 128+n signal n.

use lab::{DEADLINE, Lab, case, collect};

const NONE: &[&str] = &["--network", "none"];

#[test]
fn zero_is_success() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
    });
}

#[test]
fn the_commands_code_is_ours() {
    case(|lab| {
        for code in [1, 3, 124, 125, 126, 127, 128, 255] {
            let outcome = lab.run_sh(NONE, &format!("exit {code}")).exits(code);
            assert!(
                outcome.stderr.is_empty(),
                "nothing to say about it: {outcome}"
            );
        }
    });
}

#[test]
fn a_command_that_is_not_there_is_127() {
    case(|lab| {
        let before = lab.with_network();
        for command in [
            "no-such-command",
            "/bin/no-such-command",
            "./no-such-command",
        ] {
            let outcome = lab.run(&[], &[command]).exits(127);
            one_line(&outcome.err(), "no-such-command");
            before.assert_back();
        }
    });
}

/// Of a variable that is not set, say: it would not be seen in the line otherwise.
#[test]
fn an_empty_command_is_127_and_is_seen() {
    case(|lab| {
        for options in [&[][..], &["--init"]] {
            let outcome = lab.run(options, &[""]).exits(127);
            one_line(&outcome.err(), "execute ''");
        }
        let _running = lab.start_idle(&["--name", "web"]);
        let outcome = lab.hawser(&["exec", "web", ""]).exits(127);
        one_line(&outcome.err(), "execute ''");
    });
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    case(|lab| {
        make(lab, "notes.txt", "just text\n", "644");
        make(lab, "foreign", "\u{7f}ELF and nothing more", "755");
        for command in ["/notes.txt", "/etc", "/foreign"] {
            let outcome = lab.run(&[], &[command]).exits(126);
            one_line(&outcome.err(), command);
        }
    });
}

#[test]
fn a_script_without_its_interpreter_is_126_and_says_so() {
    case(|lab| {
        make(lab, "script", "#!/no/such/interpreter\n", "755");
        let outcome = lab.run(NONE, &["/script"]).exits(126);
        one_line(&outcome.err(), "/script");
    });
}

#[test]
fn path_search_goes_past_what_cannot_be_executed() {
    case(|lab| {
        make(lab, "srv/tool", "text\n", "644");
        make(lab, "tmp/tool", "#!/bin/sh\necho found\n", "755");
        assert_eq!(
            lab.run(&["--network", "none", "-e", "PATH=/srv:/tmp"], &["tool"])
                .ok(),
            "found"
        );
        lab.run(&["--network", "none", "-e", "PATH=/srv:/bin"], &["tool"])
            .exits(126);
    });
}

#[test]
fn a_signal_is_128_and_its_number() {
    case(|lab| {
        // A shell that is PID 1 cannot kill itself by signal; one that is not, and whose code is passed on, can.
        for (name, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("USR1", 138)] {
            let script = format!("sh -c 'kill -{name} $$'; exit $?");
            lab.run_sh(NONE, &script).exits(code);
        }
    });
}

#[test]
fn a_command_that_is_killed_is_137() {
    case(|lab| {
        let running = lab.start_idle(&["--name", "victim"]);
        let pid = nix::unistd::Pid::from_raw(lab.pid_of("victim"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
            .expect("kill the container's command");
        running.end().exits(137);
    });
}

#[test]
fn usage_errors_are_125() {
    case(|lab| {
        for arguments in [
            &["run", "--no-such-option"][..],
            &["no-such-command"],
            &["run"],
            &["run", "--mtu", "many", "--", "true"],
            // Its blank would be lost on the way to init.
            &["run", "-w", "/srv ", "--", "true"],
            &[],
        ] {
            let outcome = lab.hawser(arguments).exits(125);
            assert!(
                !outcome.stderr.is_empty() && outcome.stdout.is_empty(),
                "the complaint goes to stderr: {outcome}"
            );
        }
    });
}

#[test]
fn help_and_version_are_everywhere() {
    case(|lab| {
        let version = lab.hawser(&["--version"]).ok();
        assert!(
            version.starts_with("host-helper ") && version.contains('.'),
            "{version}"
        );
        for words in [
            "", "run", "up", "down", "ls", "inspect", "logs", "wait", "rm", "stop", "exec",
        ] {
            let mut arguments: Vec<&str> = words.split_whitespace().collect();
            arguments.push("--help");
            let help = lab.hawser(&arguments).ok();
            assert!(help.contains("Usage"), "help of {words:?}: {help}");
            arguments.pop();
            arguments.push("--version");
            assert_eq!(lab.hawser(&arguments).ok(), version, "version of {words:?}");
        }
        let run = lab.hawser(&["run", "--help"]).ok();
        for option in [
            "--rootfs",
            "--network",
            "--read-only",
            "--tmpfs",
            "--preserve-fds",
            "--sysctl",
            "--cap-add",
            "--grace",
            "--add-host",
        ] {
            assert!(run.contains(option), "help of run names {option}: {run}");
        }
        assert!(
            run.contains("mounts"),
            "help says that the view of the host lacks its other mounts: {run}"
        );
    });
}

fn make(lab: &Lab, path: &str, text: &str, mode: &str) {
    let path = lab.rootfs.join(path);
    std::fs::write(&path, text).expect("write a file of the root filesystem");
    lab::sh(&format!("chmod {mode} {}", path.display()));
}

/// Then the kernel keeps no exit codes, unless it is told otherwise.
#[test]
fn a_caller_that_ignores_the_ends_of_its_children_gets_them_all_the_same() {
    case(|lab| {
        for options in [&[][..], &["--init"]] {
            let run = lab.run_command(&[NONE, options].concat(), &["sh", "-c", "exit 3"]);
            let mut command = lab.command_of("env");
            command.arg("--ignore-signal=CHLD").arg(run.get_program());
            command.args(run.get_args());
            let outcome = collect(command, DEADLINE).exits(3);
            assert_eq!(outcome.err(), "");
        }
    });
}

#[track_caller]
fn one_line(text: &str, word: &str) {
    assert!(
        text.lines().count() == 1 && text.contains(word),
        "one line that names {word}: {text:?}"
    );
}
