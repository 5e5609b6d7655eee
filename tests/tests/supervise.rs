//! `init -s`: exit codes, options, what is the command's and what is init's own.

use std::process::{Command, Stdio};

use lab::{DEADLINE, Running, Supervised, case, collect, init_binary, sys};

const LISTENER: &str = env!("CARGO_BIN_EXE_listener");

#[test]
fn exit_codes_are_the_commands() {
    case(|_| {
        for (arguments, expected) in [
            (&["true"][..], 0),
            (&["sh", "-c", "exit 7"], 7),
            (&["sh", "-c", "exit 127"], 127),
            (&["sh", "-c", "exit 255"], 255),
            (&["sh", "-c", "kill -SEGV $$"], 139),
            (&["sh", "-c", "kill -KILL $$"], 137),
            (&["sh", "-c", "kill -TERM $$"], 143),
            (&["sh", "-c", "kill -40 $$"], 168),
            (&["no-such-command"], 127),
            (&["/no/such/command"], 127),
            (&[""], 127),
            (&["/etc/passwd"], 126),
            (&["/etc"], 126),
            (&["-e", "7", "sh", "-c", "exit 7"], 0),
            (&["-e7", "-e", "143", "sh", "-c", "kill $$"], 0),
            (&["-e7", "-e", "143", "sh", "-c", "exit 7"], 0),
            (&["--map-exit=7", "sh", "-c", "exit 8"], 8),
            (&["-e", "0", "-e", "255", "sh", "-c", "exit 255"], 0),
            (&["-e127", "no-such-command"], 0),
            (&["--", "sh", "-c", "exit 3"], 3),
        ] {
            for command in Supervised::commands(arguments) {
                let outcome = Running::spawn(command).end();
                assert_eq!(outcome.code, expected, "{arguments:?}: {outcome}");
            }
        }
    });
}

#[test]
fn an_abnormal_end_is_said_and_a_normal_one_is_not() {
    case(|_| {
        for (script, said) in [
            ("kill -USR1 $$", "init: run sh: ended by SIGUSR1\n"),
            ("kill -KILL $$", "init: run sh: ended by SIGKILL\n"),
            ("kill -40 $$", "init: run sh: ended by SIG40\n"),
            (
                "ulimit -c 0; kill -SEGV $$",
                "init: run sh: ended by SIGSEGV\n",
            ),
            ("exit 3", ""),
            ("exit 143", ""),
        ] {
            for command in Supervised::commands(&["--", "sh", "-c", script]) {
                assert_eq!(Running::spawn(command).end().err(), said, "{script}");
            }
        }
    });
}

/// Whoever asks it to end knows; but a crash on the way is said.
#[test]
fn an_end_that_was_asked_for_is_not_said() {
    case(|_| {
        for (trap, said) in [
            ("-", ""),
            ("'kill -SEGV $$'", "init: run sh: ended by SIGSEGV\n"),
        ] {
            // A `wait` that is the last command may end the shell, before the trap is run, when `sleep` has ended.
            let script = format!(
                "ulimit -c 0; trap {trap} TERM; (echo cmd up $$; exec sleep 1000) & wait; exit 9"
            );
            let init = Supervised::start(Supervised::command(&["--", "sh", "-c", &script]), 1);
            init.send(libc::SIGTERM);
            assert_eq!(init.end().err(), said, "{script}");
        }
    });
}

#[test]
fn bad_options_are_one_line_that_names_the_word() {
    case(|lab| {
        for (arguments, words) in [
            (
                &["--no-such-option"][..],
                "`--no-such-option`: unknown option",
            ),
            (&["-x", "true"], "`-x`: unknown option"),
            (&["-cx", "true"], "`-cx`: unknown option"),
            (&["-r", "TERM", "true"], "`TERM`: not SIGNAL:SIGNAL"),
            (&["-r", "TERM:NOPE", "true"], "`NOPE`: no signal"),
            (&["-r", "NOPE:TERM", "true"], "`NOPE`: no signal"),
            (&["-r", "TERM:", "true"], "command line: no signal"),
            (&["-r", "0:TERM", "true"], "`0`: no signal"),
            (&["-r", "65:1", "true"], "`65`: no signal"),
            (&["-r", "1:65", "true"], "`65`: no signal"),
            (&["-r", "KILL:0", "true"], "`KILL:0`: nobody can catch"),
            (&["-r", "19:TERM", "true"], "`19:TERM`: nobody can catch"),
            (&["-e", "256", "true"], "`256`: not an exit code"),
            (&["-e", "-1", "true"], "`-1`: not an exit code"),
            (&["-e", "", "true"], "`-e`: its value is missing"),
            (&["-p", "SIGNOPE", "true"], "`SIGNOPE`: no signal"),
            (&["--grace", "soon", "true"], "`soon`: not a number"),
            (
                &["--grace", "4294967296", "true"],
                "`4294967296`: not a number",
            ),
            (&["--grace"], "`--grace`: its value is missing"),
            (&["--warn=yes", "true"], "`--warn=yes`: it takes no value"),
            (&[], "no command"),
            (&["--"], "no command"),
        ] {
            let outcome = Supervised::run(arguments);
            assert_eq!(outcome.code, 125, "{arguments:?}: {outcome}");
            let err = outcome.err();
            let plain = words.replace('`', "");
            assert!(
                outcome.stdout.is_empty()
                    && err.starts_with("init: read the command line")
                    && err.ends_with("; see -h\n")
                    && err.lines().count() == 1
                    && (err.contains(words) || err.contains(&plain)),
                "{arguments:?}: {outcome}"
            );
        }
        // Before anything is changed: the message that would bring lo up is not read, the terminal not given up.
        let config = lab.dir.join("config");
        std::fs::write(&config, "hawser 1\nhostname changed\nend\n").expect("a file");
        let config = config.to_string_lossy();
        let mut command = Command::new(init_binary());
        command
            .args(["--config", &config, "-r", "NOPE:1", "true"])
            .stdin(Stdio::null());
        collect(command, DEADLINE).exits(125);
        assert_ne!(lab::sh("uname -n"), "changed\n");
    });
}

/// sd_listen_fds(3): the sockets are for the process that LISTEN_PID names.
#[test]
fn socket_activation_names_the_command() {
    case(|_| {
        let script = "test \"$LISTEN_PID\" = $$ && test -z \"$LISTEN_PIDFDID\" && echo \"$LISTEN_FDS\" && ls -l /proc/$$/fd/3";
        // exec keeps the number: what this shell puts there is init's own.
        let outer = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_PIDFDID=77 exec \"$@\"";
        let mut command = Command::new("/bin/busybox");
        command
            .args(["sh", "-c", outer, "sh"])
            .arg(init_binary())
            .args(["-s", "--", "sh", "-c", script])
            .stdin(Stdio::null());
        let out = collect(command, DEADLINE).ok();
        assert!(
            out.starts_with("1\n") && out.ends_with("/dev/null"),
            "{out}"
        );
        for command in Supervised::commands(&["sh", "-c", "echo $$ $LISTEN_PID"]) {
            let mut command = command;
            command.env("LISTEN_PID", "1");
            let is_pid_1 = command.get_program() == "unshare";
            let out = Running::spawn(command).end().ok();
            let (own, listen) = out.split_once(' ').expect("two numbers");
            assert_eq!(own == listen, is_pid_1, "{out}: another's is left alone");
        }
    });
}

/// A descriptor that init keeps would keep a pipe open when the command has closed it (catatonit 0.1.6, 0.2.1).
#[test]
fn nothing_of_the_callers_is_left_in_init() {
    case(|lab| {
        let file = std::fs::File::open("/dev/null").expect("a file").into();
        let mut command = Supervised::command(&["--", LISTENER, "cmd"]);
        command.current_dir(&lab.dir);
        sys::pass_fd(&mut command, &file, 9);
        let mut init = Running::spawn(command);
        let line = init.line();
        let pid = line.split(' ').nth(2).expect("its number");
        // When a signal has gone through it, init is where it waits for the next.
        init.signal(libc::SIGUSR1);
        assert_eq!(init.line(), "cmd 10");
        let descriptors = |pid: &str| lab::sh(&format!("ls /proc/{pid}/fd | tr '\\n' ' '"));
        let directory = |pid: &str| std::fs::read_link(format!("/proc/{pid}/cwd")).expect("a link");
        let own = init.pid().to_string();
        assert_eq!(descriptors(&own), "0 1 2 ");
        assert_eq!(directory(&own).to_string_lossy(), "/");
        assert!(descriptors(pid).contains("9 "), "{}", descriptors(pid));
        assert_eq!(directory(pid), lab.dir);
        init.signal(libc::SIGTERM);
        init.end().exits(0);
    });
}

#[test]
fn the_command_begins_with_no_signal_blocked_or_ignored() {
    case(|_| {
        let mut command = Command::new("env");
        command
            .args(["--ignore-signal=HUP,PIPE,TERM", "--block-signal=USR1"])
            .arg(init_binary())
            .args([
                "-s",
                "--",
                "grep",
                "-E",
                "^Sig(Blk|Ign)",
                "/proc/self/status",
            ])
            .stdin(Stdio::null());
        let none = "0000000000000000";
        assert_eq!(
            collect(command, DEADLINE).ok(),
            format!("SigBlk:\t{none}\nSigIgn:\t{none}")
        );
    });
}

/// Orphans of an ordinary process come to it too: it is a subreaper by itself (tini needs -s, dumb-init cannot).
#[test]
fn it_is_a_subreaper_where_it_is_not_pid_1() {
    case(|_| {
        let script = format!("({LISTENER} orphan &); exec {LISTENER} cmd");
        let mut init = Running::spawn(Supervised::command(&[
            "--",
            "/bin/busybox",
            "sh",
            "-c",
            &script,
        ]));
        let lines = init.lines(2);
        for line in &lines {
            // The orphan may have been born before it was one.
            let mut words = line.split(' ');
            let pid = words.nth(2).expect("a number");
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
            let parent = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1));
            assert_eq!(parent, Some(init.pid().to_string().as_str()), "{line}");
        }
        init.signal(libc::SIGTERM);
        assert_eq!(init.lines(2), ["cmd 15", "orphan 15"]);
        init.end().exits(0);
    });
}
