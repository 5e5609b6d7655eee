//! `run --init`: init stays as PID 1 of the container.

use lab::{Lab, Running, Terminal, case, init_binary, wait_for_end, wait_untold};

/// Starts a container whose first line is `up`.
fn start(lab: &Lab, options: &[&str], script: &str) -> Running {
    let mut running = lab.start(&[&["--init"], options].concat(), &["sh", "-c", script]);
    assert_eq!(running.line(), "up");
    running
}

#[test]
fn init_is_pid_1_and_the_command_is_not() {
    case(|lab| {
        let script = "echo $$ $PPID; tr '\\0' ' ' </proc/1/cmdline; echo; readlink /proc/1/cwd; ls /proc/1/fd; ls /proc/self/fd";
        let out = lab.run(&["--init"], &["sh", "-c", script]).ok();
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.first(), Some(&"2 1"), "{out}");
        assert!(
            lines[1].starts_with("init ") && lines[1].contains("--supervise"),
            "{out}"
        );
        assert_eq!(
            &lines[2..],
            ["/", "0", "1", "2", "0", "1", "2", "3"],
            "{out}"
        );
        assert_eq!(
            lab.run(&[], &["sh", "-c", "echo $$"]).ok(),
            "1",
            "and without --init it is"
        );
    });
}

#[test]
fn exit_codes_are_the_commands() {
    case(|lab| {
        for (command, code, word) in [
            (&["true"][..], 0, ""),
            (&["sh", "-c", "exit 7"], 7, ""),
            (
                &["sh", "-c", "kill -SEGV $$"],
                139,
                "init: run sh: ended by SIGSEGV",
            ),
            // For a PID 1 this does nothing.
            (
                &["sh", "-c", "kill -TERM $$; exit 3"],
                143,
                "init: run sh: ended by SIGTERM",
            ),
            (&["no-such-command"], 127, "init: execute no-such-command"),
            (&["/etc"], 126, "init: execute /etc"),
        ] {
            let outcome = lab.run(&["--init"], command);
            assert_eq!(outcome.code, code, "{command:?}: {outcome}");
            assert!(
                outcome.err().starts_with(word)
                    && outcome.err().lines().count() == usize::from(!word.is_empty()),
                "{command:?}: {outcome}"
            );
        }
    });
}

/// A command without a handler gets them: it is not PID 1, and its end is its own.
#[test]
fn signals_end_a_command_without_a_handler() {
    case(|lab| {
        for (signal, code) in [
            (libc::SIGTERM, 143),
            (libc::SIGINT, 130),
            (libc::SIGHUP, 129),
            (libc::SIGQUIT, 131),
            (libc::SIGUSR1, 138),
            (40, 168),
        ] {
            let mut running = start(lab, &[], "ulimit -c 0; echo up; exec cat");
            running.say("word\n");
            assert_eq!(running.line(), "word", "it is cat already");
            running.signal(signal);
            let _pipe = running.stdin.take();
            let outcome = running.end().exits(code);
            assert!(outcome.elapsed.as_secs() < 5, "at once: {outcome}");
        }
    });
}

#[test]
fn a_term_drains() {
    case(|lab| {
        let script = "trap 'echo end; exit 4' TERM; (echo up; exec sleep 1000) & wait";
        let running = start(lab, &[], script);
        running.signal(libc::SIGTERM);
        let outcome = running.end().exits(4);
        assert_eq!(outcome.out(), "end\n", "{outcome}");
        assert!(
            outcome.elapsed.as_secs() < 5 && outcome.stderr.is_empty(),
            "{outcome}"
        );
    });
}

/// init has the grace of `run`, and the first word: the code is the command's, and who was killed is said.
#[test]
fn what_does_not_end_is_killed_by_init() {
    case(|lab| {
        let script = "trap 'exit 5' TERM; (trap '' TERM; echo up; exec sleep 1000) & wait";
        let running = start(lab, &["--grace", "1"], script);
        running.signal(libc::SIGTERM);
        let outcome = running.end().exits(5);
        assert!(
            outcome.err().contains("init: kill sleep (") && outcome.err().lines().count() == 1,
            "{outcome}"
        );
        assert!(outcome.elapsed.as_millis() >= 1000, "{outcome}");
    });
}

/// What the command, or an `exec`, orphans comes to init. (That it reaps, init's own tests say.)
#[test]
fn orphans_come_to_init() {
    case(|lab| {
        let orphan = "(sh -c 'echo orphan; read x <&3; grep ^PPid: /proc/$$/status' &)";
        let script = format!("exec 3<&0; {orphan}; echo up; exec sleep 1000");
        let mut running = lab.start(&["--init", "--name", "box"], &["sh", "-c", &script]);
        // The one in between has ended before `up`.
        assert_eq!(running.lines(2), ["orphan", "up"]);
        running.say("go\n");
        assert_eq!(running.line(), "PPid:\t1");
        let script = format!("exec 3<&0; {orphan}; echo up; exec sleep 1000");
        let mut command = lab.command(&["exec", "box", "sh", "-c", &script]);
        command.stdin(std::process::Stdio::piped());
        let mut exec = Running::spawn(command);
        assert_eq!(exec.lines(2), ["orphan", "up"]);
        exec.say("go\n");
        assert_eq!(exec.line(), "PPid:\t1");
        running.signal(libc::SIGTERM);
        running.end().exits(143);
        exec.end();
    });
}

#[test]
fn stop_and_wait_and_detached() {
    case(|lab| {
        // A FIFO: `run -d` does not wait until the command has done something.
        lab::sh(&format!("busybox mkfifo {}/tmp/up", lab.rootfs.display()));
        let script = "trap 'echo ending; exit 6' TERM; (echo up >/tmp/up; exec sleep 1000) & wait";
        lab.run(&["-d", "--init", "--name", "box"], &["sh", "-c", script])
            .exits(0);
        assert_eq!(lab.hawser(&["exec", "box", "cat", "/tmp/up"]).ok(), "up");
        let list = lab.hawser(&["ls"]).ok();
        assert!(list.contains("box ") && list.contains("running"), "{list}");
        lab.hawser(&["stop", "box"]).exits(0);
        assert_eq!(lab.hawser(&["wait", "box"]).ok(), "6");
        assert_eq!(lab.hawser(&["logs", "box"]).ok(), "ending");
    });
}

#[test]
fn the_death_of_one_is_the_end_of_the_other() {
    case(|lab| {
        let running = start(lab, &["--name", "box"], "echo up; exec sleep 1000");
        let pid = lab.pid_of("box");
        running.signal(libc::SIGKILL);
        wait_for_end(pid);
        running.end().exits(-libc::SIGKILL);
    });
}

/// init has dropped the same privileges as the command, and can signal and reap it all the same.
#[test]
fn as_a_user_and_without_capabilities() {
    case(|lab| {
        let script = "id -u; grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/1/status /proc/$$/status | sed 's/.*status://'; \
            trap 'exit 8' TERM; (trap '' TERM; echo up; exec sleep 1000) & wait";
        let mut sets = vec![&["--cap-drop", "all"][..]];
        if lab.real_root {
            sets.push(&["-u", "1000:1000"]);
            sets.push(&[
                "-u",
                "worker",
                "--cap-drop",
                "all",
                "--cap-add",
                "net_bind_service",
            ]);
        }
        for options in sets {
            let options = [&["--init", "--grace", "1"], options].concat();
            let mut running = lab.start(&options, &["sh", "-c", script]);
            let user = running.line();
            assert_eq!(user == "0", !options.contains(&"-u"), "{options:?}");
            let status: Vec<_> = (0..6).map(|_| running.line()).collect();
            assert_eq!(
                status[..3],
                status[3..],
                "init and the command: {options:?}"
            );
            assert_eq!(running.line(), "up");
            running.signal(libc::SIGTERM);
            let outcome = running.end().exits(8);
            assert!(
                outcome.err().contains("init: kill sleep ("),
                "{options:?}: {outcome}"
            );
        }
    });
}

#[test]
fn a_terminal_is_as_without_init() {
    case(|lab| {
        let shell = |init: &[&str]| {
            let options = [init, &["-e", "PS1=ready> "]].concat();
            Terminal::spawn(lab.run_command(&options, &["/bin/sh"]))
        };
        for init in [&[][..], &["--init"]] {
            let mut terminal = shell(init);
            let shown = terminal.until("ready> ");
            assert!(!shown.contains("job control"), "{init:?}: {shown}");
            terminal.keys("sh -c 'echo start''ed; exec sleep 1000'\n");
            terminal.until("started\r\n");
            terminal.keys("\x03");
            terminal.until("ready> ");
            terminal.keys("echo code $?\n");
            terminal.until("code 130\r\n");
            terminal.keys("sh -c 'echo start''ed; read x; echo we''nt on $x'\n");
            terminal.until("started\r\n");
            terminal.keys("\x1a");
            terminal.until("Stopped");
            terminal.until("ready> ");
            terminal.keys("fg\n");
            terminal.until("read x");
            terminal.keys("again\n");
            terminal.until("went on again");
            terminal.until("ready> ");
            terminal.keys("sh -c \"trap 'stty size; exit' WINCH; echo u''p; sleep 1000 & wait\"\n");
            terminal.until("up\r\n");
            terminal.resize(30, 100);
            terminal.until("30 100");
            terminal.until("ready> ");
            terminal.keys("exit 5\n");
            terminal.end().exits(5);
            // A program that is alone at the terminal.
            let mut terminal =
                Terminal::spawn(lab.run_command(init, &["sh", "-c", "echo up; exec cat"]));
            terminal.until("up");
            terminal.keys("word\n");
            terminal.until("word\r\nword\r\n");
            terminal.keys("\x03");
            terminal.end().exits(130);
        }
    });
}

/// An image's own PID 1 that waits for signals with sigwait(3), as tini does too, has no handler that one could see.
#[test]
fn an_init_of_the_images_own_gets_signals() {
    case(|lab| {
        std::fs::copy(init_binary(), lab.rootfs.join("bin/init")).expect("copy init");
        for name in ["init", "tini", "catatonit"] {
            if name != "init" {
                std::os::unix::fs::symlink("init", lab.rootfs.join("bin").join(name))
                    .expect("a link");
            }
            let script = "trap 'exit 6' TERM; (echo up; exec sleep 1000) & wait";
            let words = [name, "--", "sh", "-c", script];
            let words = if name == "init" {
                &[&["init", "-s"], &words[1..]].concat()
            } else {
                &words[..]
            };
            let mut running = lab.start(&[], words);
            assert_eq!(running.line(), "up");
            running.signal(libc::SIGTERM);
            running.end().exits(6);
        }
    });
}

/// Which system call it waits in is not told to who lacks sys_ptrace where the container's user is another.
#[test]
fn an_init_that_cannot_be_looked_at_gets_signals() {
    case(|lab| {
        std::fs::copy(init_binary(), lab.rootfs.join("bin/init")).expect("copy init");
        let run = |words: &[&str]| {
            let mut command = lab.command_of("setpriv");
            command
                .args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"])
                .arg(lab::binary())
                .args(["run", "-u", "1000", "--rootfs"])
                .arg(&lab.rootfs)
                .args(words);
            command
        };
        let script = "trap 'exit 6' TERM; (echo up; exec sleep 1000) & wait";
        let mut running = Running::spawn(run(&["--", "init", "-s", "--", "sh", "-c", script]));
        assert_eq!(running.line(), "up");
        running.signal(libc::SIGTERM);
        running.end().exits(6);
        // Who has no handler is ended by the second one.
        let mut terminal = Terminal::spawn(run(&["-t", "--name", "web", "--", "sleep", "1000"]));
        wait_untold("it runs", || {
            let found = lab.hawser(&["ls"]).ok();
            found.contains("web ")
        });
        terminal.keys("\x03");
        terminal.until("^C");
        terminal.keys("\x03");
        terminal.end().exits(130);
    });
}

/// An init that has just been woken by another signal, and has not run since, waits for none.
#[test]
fn a_signal_right_behind_another_is_noticed() {
    case(|lab| {
        std::fs::copy(init_binary(), lab.rootfs.join("bin/init")).expect("copy init");
        let script = "trap 'echo bye; exit 7' TERM; trap : USR1; (echo up; exec sleep 1000) & while :; do wait; done";
        let command = ["sh", "-c", script];
        for _ in 0..20 {
            let of_ours = lab.start(&["--init"], &command);
            let of_the_image = lab.start(&[], &[&["init", "-s", "--"], &command[..]].concat());
            for mut running in [of_ours, of_the_image] {
                assert_eq!(running.line(), "up");
                // Both wait when it goes on.
                running.signal(libc::SIGSTOP);
                running.wait_for_stop();
                for signal in [libc::SIGUSR1, libc::SIGTERM, libc::SIGCONT] {
                    running.signal(signal);
                }
                assert_eq!(running.end().exits(7).out(), "bye\n");
            }
        }
    });
}
