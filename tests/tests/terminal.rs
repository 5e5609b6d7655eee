//! A terminal: prompt, job control, window size; and what is no terminal stays a pipe, byte for byte.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;

use lab::strace::traced;
use lab::{
    DEADLINE, Lab, Running, Terminal, case, child, children, collect, wait_for_end, wait_untold,
    within,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// An interactive shell that reads no files.
const BASH: [&str; 5] = ["/bin/bash", "--norc", "--noprofile", "--noediting", "-is"];

#[test]
fn a_shell_at_a_prompt() {
    case(|lab| {
        let plain = lab.run_command(&["-e", "PS1=ready> "], &["/bin/sh"]);
        // Around it a shell, as for a human: what the terminal is like before and afterwards.
        let script = "stty -g; \"$@\"; echo code $?; stty -g; echo end";
        let shell = ["/bin/sh", "-c", script, "sh"];
        let mut terminal = Terminal::spawn(within(&shell, &plain));
        let before = terminal.until("ready> ");
        terminal.keys("echo $((6 * 7)) $(tty)\n");
        terminal.until("42 /dev/pts/0\r\n");
        terminal.until("ready> ");
        terminal.keys("exit 5\n");
        terminal.until("code 5\r\n");
        let after = terminal.until("end");
        let settings = before.lines().next().expect("a line of settings");
        assert_eq!(
            after.lines().next(),
            Some(settings),
            "the terminal's settings are put back"
        );
        terminal.end().exits(0);
    });
}

#[test]
fn there_is_no_complaint_about_job_control() {
    case(|lab| {
        let mut terminal = Terminal::spawn(lab.run_command(&["-e", "PS1=ready> "], &["/bin/sh"]));
        let shown = terminal.until("ready> ");
        assert!(!shown.contains("job control"), "{shown}");
        terminal.keys("exit\n");
        terminal.end().exits(0);
    });
}

#[test]
fn control_c_interrupts_the_foreground_job_only() {
    case(|lab| {
        let mut terminal = Terminal::spawn(lab.run_command(&["-e", "PS1=ready> "], &["/bin/sh"]));
        terminal.until("ready> ");
        terminal.keys("sh -c 'echo start''ed; exec sleep 1000'\n");
        terminal.until("started\r\n");
        terminal.keys("\x03");
        terminal.until("ready> ");
        terminal.keys("echo code $?\n");
        terminal.until("code 130\r\n");
        terminal.keys("exit 3\n");
        terminal.end().exits(3);
    });
}

#[test]
fn control_z_stops_and_fg_goes_on() {
    case(|lab| {
        let mut terminal = Terminal::spawn(lab.run_command(&["-e", "PS1=ready> "], &["/bin/sh"]));
        terminal.until("ready> ");
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
        terminal.keys("\x04");
        terminal.end().exits(0);
    });
}

/// `sleep &` at a prompt runs on, and what is typed is the shell's. bash tells a job that runs nothing of `fg`; dash sends it CONT.
#[test]
fn in_the_background_it_runs_on_and_leaves_the_terminal_alone() {
    case(|lab| {
        let script = "echo start''ed; read x; echo got $x; exec cat";
        for shell in [&BASH[..], &["/bin/dash", "-is"]] {
            let _inside = lab.start_idle(&["--name", "other"]);
            let run = lab.run_command(&["--name", "box"], &["sh", "-c", script]);
            let exec = lab.command(&["exec", "other", "sh", "-c", script]);
            for command in [run, exec] {
                let mut outer = within(shell, &command);
                outer.env("PS1", "ready> ");
                let mut terminal = Terminal::spawn(outer);
                let before = settings(&mut terminal);
                terminal.keys("\"$@\" &\n");
                terminal.until("started");
                assert_eq!(settings(&mut terminal), before, "{shell:?}");
                terminal.keys("fg\n");
                terminal.keys("words\n");
                terminal.until("got words");
                // When cat has repeated a word it is surely running.
                terminal.keys("up\n");
                terminal.until("up\r\nup\r\n");
                terminal.keys("\x03");
                terminal.until("ready> ");
                terminal.keys("echo code $?\n");
                terminal.until("code 130");
                assert_eq!(settings(&mut terminal), before, "{shell:?}");
                terminal.keys("exit\n");
                terminal.end().exits(0);
            }
        }
    });
}

#[test]
fn in_the_background_it_can_be_stopped() {
    case(|lab| {
        let run = lab.run_command(&["--name", "box"], &["sh", "-c", "echo up; read x"]);
        let mut terminal = Terminal::spawn(within(&BASH, &run));
        terminal.keys("\"$@\" & wait $!; echo code $?\n");
        terminal.until("up\r");
        lab.hawser(&["stop", "box"]).exits(0);
        terminal.until("code 143");
        terminal.keys("exit\n");
        terminal.end().exits(0);
    });
}

/// A shell that exits lets its jobs run on; with it goes the terminal.
#[test]
fn in_the_background_its_input_ends_with_the_terminal() {
    case(|lab| {
        let run = lab.run_command(&["--name", "box"], &["sh", "-c", "echo up; read x"]);
        let mut terminal = Terminal::spawn(within(&BASH, &run));
        terminal.keys("\"$@\" &\n");
        terminal.until("up\r");
        let pid = lab.pid_of("box");
        terminal.keys("exit\n");
        terminal.end().exits(0);
        wait_for_end(pid);
    });
}

/// It makes a terminal of its own, whose front it gives to a job that has stopped for that, and to no other.
#[test]
fn under_sudo_it_gets_the_terminal_by_stopping_for_it() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("sudo trusts nobody's files but root's");
        }
        let sudoers = lab.dir.join("sudoers");
        std::fs::write(&sudoers, "Defaults use_pty\nroot ALL=(ALL:ALL) ALL\n").expect("write");
        lab::sh(&format!("mount --bind {} /etc/sudoers", sudoers.display()));
        let script = "echo start''ed; read x; echo got $x";
        for (line, front) in [("sudo \"$@\" | cat\n", ""), ("sudo \"$@\" &\n", "fg\n")] {
            let run = lab.run_command(&["-t", "--name", "box"], &["sh", "-c", script]);
            let mut outer = within(&BASH, &run);
            outer.env("PS1", "ready> ");
            let mut terminal = Terminal::spawn(outer);
            terminal.until("ready> ");
            terminal.keys(line);
            if !front.is_empty() {
                // bash tells it at its next prompt.
                terminal.keys("while test -z \"$(jobs -s)\"; do :; done; echo stop''ped\n");
                terminal.until("stopped\r");
                terminal.keys(front);
            }
            terminal.until("started");
            terminal.keys("words\n");
            terminal.until("got words");
            // What is typed while sudo puts the settings back is lost.
            terminal.until("ready> ");
            terminal.keys("exit\n");
            terminal.end().exits(0);
        }
    });
}

#[test]
fn it_goes_on_in_the_background() {
    case(|lab| {
        let script = "trap 'echo again' CONT; echo up; while :; do sleep 1000 & wait; done";
        let run = lab.run_command(&["--name", "box"], &["sh", "-c", script]);
        let mut terminal = Terminal::spawn(within(&BASH, &run));
        let before = settings(&mut terminal);
        terminal.keys("\"$@\"\n");
        terminal.until("up\r");
        let helper = nix::unistd::Pid::from_raw(child(terminal.process.pid()));
        nix::sys::signal::kill(helper, nix::sys::signal::Signal::SIGSTOP).expect("stop it");
        terminal.until("Stopped");
        terminal.keys("bg\n");
        terminal.until("again");
        assert_eq!(settings(&mut terminal), before);
        lab.hawser(&["stop", "box"]).exits(0);
        terminal.keys("exit\n");
        terminal.end().exits(0);
    });
}

/// Of a terminal at whose prompt a shell is.
fn settings(terminal: &mut Terminal) -> String {
    terminal.keys("stty -g; echo e''nd\n");
    let shown = terminal.until("end\r\n");
    // Behind a prompt, where the shell had not read yet.
    let words = shown.split_whitespace().rev().nth(1);
    words.expect("settings").to_owned()
}

#[test]
fn the_window_has_the_terminals_size_and_follows_it() {
    case(|lab| {
        let script = "stty size; trap 'stty size; exit 6' WINCH; sleep 1000 & echo up; while :; do wait; done";
        let run = lab.run_command(&["-t"], &["sh", "-c", script]);
        let elsewhere = ["sh", "-c", "exec \"$@\" </dev/null", "sh"];
        for command in [within(&["env"], &run), within(&elsewhere, &run)] {
            let mut terminal = Terminal::spawn(command);
            let shown = terminal.until("up\r");
            assert!(shown.contains("24 80"), "{shown}");
            terminal.resize(40, 100);
            terminal.until("40 100");
            terminal.end().exits(6);
        }
    });
}

#[test]
fn a_command_without_a_handler_is_killed_by_control_c() {
    case(|lab| {
        // cat has no handler, and when it has repeated a word it is surely running.
        let command = lab.run_command(&[], &["sh", "-c", "echo ready; exec cat"]);
        let mut terminal = Terminal::spawn(command);
        terminal.until("ready\r\n");
        terminal.keys("up\n");
        terminal.until("up\r\nup\r\n");
        terminal.keys("\x03");
        terminal.end().exits(130);
    });
}

#[test]
fn the_terminal_is_the_containers_own() {
    case(|lab| {
        let script = "ls /dev/pts; echo; stat -c %u $(tty); test -e /dev/tty && echo hello > /dev/tty && echo up";
        let mut terminal = Terminal::spawn(lab.run_command(&[], &["sh", "-c", script]));
        let shown = terminal.until("up");
        let mut words = shown.split_whitespace();
        assert_eq!(
            words.next(),
            Some("0"),
            "one terminal and no other of the host: {shown}"
        );
        assert!(shown.contains("hello"), "/dev/tty is it: {shown}");
        terminal.end().exits(0);
    });
}

#[test]
fn a_hangup_of_the_terminal_ends_the_container() {
    case(|lab| {
        let mut terminal = Terminal::spawn(lab.run_command(
            &["--name", "box"],
            &["sh", "-c", "echo up; exec sleep 1000"],
        ));
        terminal.until("up");
        let pid = lab.pid_of("box");
        terminal.process.signal(libc::SIGHUP);
        terminal.end().exits(129);
        lab::wait_for_end(pid);
    });
}

#[test]
fn t_makes_a_terminal_where_there_is_none() {
    case(|lab| {
        let outcome = lab
            .run(&["-t"], &["sh", "-c", "tty; echo to stderr >&2"])
            .exits(0);
        assert!(
            outcome.out().contains("/dev/pts/0") && outcome.out().contains("to stderr"),
            "{outcome}"
        );
        assert!(
            outcome.stderr.is_empty(),
            "a terminal has one output: {outcome}"
        );
    });
}

#[test]
fn pipes_stay_pipes() {
    case(|lab| {
        let outcome = lab
            .run(
                &[],
                &[
                    "sh",
                    "-c",
                    "tty; test -t 1 || echo no tty; echo complaint >&2",
                ],
            )
            .exits(0);
        assert_eq!(outcome.out(), "not a tty\nno tty\n");
        assert_eq!(outcome.err(), "complaint\n", "stderr stays apart");
    });
}

#[test]
fn a_terminal_as_stdin_alone_leaves_stdout_a_pipe() {
    case(|lab| {
        let pair = nix::pty::openpty(None, None).expect("open a terminal");
        let mut command =
            lab.run_command(&[], &["sh", "-c", "printf 'a\\nb\\n'; echo complaint >&2"]);
        command.stdin(Stdio::from(pair.slave));
        let outcome = lab::Running::spawn(command).end().exits(0);
        assert_eq!(outcome.out(), "a\nb\n", "no carriage returns");
        assert_eq!(outcome.err(), "complaint\n");
    });
}

/// `2>errors.log` at a prompt: a terminal has one output only.
#[test]
fn a_standard_error_elsewhere_leaves_all_three_as_they_are() {
    case(|lab| {
        let _box = lab.start_idle(&["--name", "box"]);
        let words = ["sh", "-c", "test -t 1; echo $?; echo complaint >&2"];
        let exec = lab.command(&[&["exec", "box"][..], &words].concat());
        for mut command in [lab.run_command(&[], &words), exec] {
            let pair = nix::pty::openpty(None, None).expect("open a terminal");
            command.stdin(pair.slave.try_clone().expect("duplicate the terminal"));
            command.stdout(pair.slave).stderr(Stdio::piped());
            let outcome = Running::spawn(command).end().exits(0);
            assert_eq!(outcome.err(), "complaint\n");
            let mut shown = [0; 3];
            let mut user = File::from(pair.master);
            user.read_exact(&mut shown).expect("what it shows");
            assert_eq!(&shown, b"0\r\n", "it has the caller's");
        }
    });
}

#[test]
fn stdin_is_read_to_its_end() {
    case(|lab| {
        let mut running = lab.start(&[], &["sh", "-c", "cat; echo end"]);
        running.say("some words");
        assert_eq!(running.end().ok(), "some wordsend");
    });
}

#[test]
fn pipes_are_binary_clean() {
    case(|lab| {
        let mut command = lab.run_command(&[], &["tee", "/dev/stderr"]);
        command.stdin(Stdio::piped());
        let data: Vec<u8> = (0..1_000_003_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect();
        assert!(
            (0..=255).all(|byte| data.contains(&byte)),
            "every byte is in it"
        );
        let mut child = command.spawn().expect("start host-helper");
        let mut stdin = child.stdin.take().expect("a pipe");
        let (mut out, mut err) = (
            child.stdout.take().expect("a pipe"),
            child.stderr.take().expect("a pipe"),
        );
        let (seen_out, seen_err) = std::thread::scope(|scope| {
            scope.spawn(|| {
                stdin.write_all(&data).expect("write to the command");
                drop(stdin);
            });
            let errors = scope.spawn(move || {
                let mut seen = vec![];
                err.read_to_end(&mut seen).expect("read stderr");
                seen
            });
            let mut seen = vec![];
            out.read_to_end(&mut seen).expect("read stdout");
            (seen, errors.join().expect("reader of stderr"))
        });
        assert!(child.wait().expect("its end").success());
        assert!(
            seen_out == data,
            "{} bytes of {} came through stdout",
            seen_out.len(),
            data.len()
        );
        assert!(
            seen_err == data,
            "{} bytes of {} came through stderr",
            seen_err.len(),
            data.len()
        );
    });
}

/// The process that has cloned the command's hands that over, and is slower here than the command's, which opens a terminal meanwhile.
#[test]
fn a_terminal_waits_for_whoever_opens_it_to_be_known() {
    case(|lab| {
        let _idle = lab.start_idle(&["--name", "box"]);
        let mut command = lab.command(&["exec", "-t", "box", "tty"]);
        command.stdin(Stdio::null());
        let slow = ["-f", "--inject=clone,clone3:delay_exit=500000"];
        let outcome = collect(traced(&command, &slow, "/dev/null"), DEADLINE);
        assert_eq!(outcome.ok().trim_end(), "/dev/pts/0");
    });
}

/// As a closed terminal ends a shell.
/// Ctrl-D behind a line without an end is no end of input, and from a file comes no second one.
#[test]
fn input_ends_where_its_file_does() {
    case(|lab| {
        let _box = lab.start_idle(&["--name", "box"]);
        let typed = lab.dir.join("typed");
        let words = ["sh", "-c", "cat; echo end"];
        for text in ["", "word", "word\n"] {
            std::fs::write(&typed, text).expect("a file");
            let exec = lab.command(&[&["exec", "-t", "box"][..], &words].concat());
            for mut command in [lab.run_command(&["-t"], &words), exec] {
                command.stdin(File::open(&typed).expect("open it"));
                let shown = Running::spawn(command).end().exits(0);
                assert!(shown.out().ends_with("end\r\n"), "{text:?}: {shown}");
            }
        }
    });
}

#[test]
fn who_reads_no_more_hangs_up() {
    case(|lab| {
        let script = "while :; do echo word; done";
        let mut command = lab.run_command(&["-t"], &["sh", "-c", script]);
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        command.stdin(Stdio::null()).stdout(write);
        let helper = Running::spawn(command);
        let patience = PollTimeout::try_from(DEADLINE).expect("a time");
        let mut word = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut word, patience), Ok(1), "a word");
        drop(read);
        helper.end().exits(129);
    });
}

#[test]
fn output_that_finds_no_room_is_told() {
    case(|lab| {
        let _box = lab.start_idle(&["--name", "box"]);
        let words = ["write the command's output", "ENOSPC", "hung up"];
        let full = || {
            let full = File::options().write(true).open("/dev/full");
            full.expect("open /dev/full")
        };
        let script = "echo hi; sleep 1000";
        let mut run = lab.run_command(&["-t"], &["sh", "-c", script]);
        run.stdin(Stdio::null()).stdout(full());
        let mut exec = lab.command(&["exec", "-t", "box", "sh", "-c", script]);
        exec.stdin(Stdio::null()).stdout(full());
        for command in [run, exec] {
            let said = Running::spawn(command).end().exits(129).err();
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
    });
}

/// What a container has written waits for a reader, and nothing else does.
#[test]
fn an_end_does_not_wait_for_who_reads() {
    case(|lab| {
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        let mut command = lab.run_command(&["-t", "--name", "web"], &["yes"]);
        let output = write.try_clone().expect("copy a descriptor");
        command.stdin(Stdio::null()).stdout(output);
        let helper = Running::spawn(command);
        // Whatever it writes from then on stays with host-helper.
        wait_untold("the pipe is full", || {
            let mut end = [PollFd::new(write.as_fd(), PollFlags::POLLOUT)];
            poll(&mut end, PollTimeout::ZERO) == Ok(0)
        });
        lab.hawser(&["stop", "--grace", "0", "web"]).exits(0);
        lab.run(&["--name", "web"], &["true"]).ok();
        // It has something to say still, and goes when it is told to.
        helper.signal(libc::SIGTERM);
        let ended = helper.end();
        assert!([137, 143].contains(&ended.code), "{ended}");
        drop(read);
    });
}

/// A terminal that nobody reads takes a part of what is written, and then nothing: a write that waits for the rest waits for ever.
#[test]
fn a_terminal_that_nobody_reads_holds_nothing_up() {
    case(|lab| {
        // It has no handler.
        let writer = ["dd", "if=/dev/zero", "bs=4000"];
        for (is_raw, is_stopped) in [(true, true), (true, false), (false, true), (false, false)] {
            let pair = nix::pty::openpty(None, None).expect("open a terminal");
            let end = || Stdio::from(pair.slave.try_clone().expect("duplicate the terminal"));
            let mut command = lab.run_command(&["-t", "--name", "web"], &writer);
            // The terminal of its input is made raw; another one is left as it is.
            let input = if is_raw { end() } else { Stdio::null() };
            command.stdin(input).stdout(end()).stderr(Stdio::piped());
            let helper = Running::spawn(command);
            wait_until_full(&pair.slave);
            let pid = lab.pid_of("web");
            if is_stopped {
                lab.hawser(&["stop", "--grace", "1", "web"]).exits(0);
            } else {
                helper.signal(libc::SIGTERM);
            }
            wait_for_end(pid);
            // It has something to say still, and goes when it is told to.
            wait_untold("its name is free", || lab.list().is_empty());
            helper.signal(libc::SIGTERM);
            helper.end().exits(143);
        }
        let _box = lab.start_idle(&["--name", "box"]);
        let pair = nix::pty::openpty(None, None).expect("open a terminal");
        let mut command = lab.command(&[&["exec", "-t", "box", "--"], &writer[..]].concat());
        command
            .stdin(Stdio::null())
            .stdout(pair.slave.try_clone().expect("duplicate the terminal"));
        let helper = Running::spawn(command);
        wait_until_full(&pair.slave);
        helper.signal(libc::SIGTERM);
        wait_untold("its command has ended", || {
            children(helper.pid()).is_empty()
        });
        helper.signal(libc::SIGTERM);
        helper.end().exits(143);
    });
}

/// Waits until a terminal that nobody reads is full.
fn wait_until_full(terminal: &OwnedFd) {
    wait_untold("the terminal is full", || {
        let mut end = [PollFd::new(terminal.as_fd(), PollFlags::POLLOUT)];
        poll(&mut end, PollTimeout::ZERO) == Ok(0)
    });
}

/// Others inside may open its terminal, and write to it for ever.
#[test]
fn the_end_of_exec_waits_for_nobody_else_inside() {
    case(|lab| {
        let _box = lab.start_idle(&["--name", "box"]);
        let (helper, pipe) = end_unread(lab);
        let path = format!("/proc/{}/root/dev/pts/0", lab.pid_of("box"));
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let mut options = File::options();
        let options = options.write(true).custom_flags(flags.bits());
        let mut terminal = options.open(path).expect("open its terminal");
        let written = read_slowly(&helper, pipe, || {
            while terminal.write(&[b'y'; 4096]).is_ok() {}
        });
        assert!(written.len() < 256 << 10, "{} bytes", written.len());
        helper.end().exits(7);
    });
}

#[test]
fn what_a_command_has_written_last_is_there_after_exec() {
    case(|lab| {
        let _box = lab.start_idle(&["--name", "box"]);
        let (helper, pipe) = end_unread(lab);
        let written = read_slowly(&helper, pipe, || {});
        let count = written.iter().filter(|byte| **byte == b'z').count();
        assert_eq!(count, 7000);
        assert!(written.ends_with(b"end\r\n"));
        helper.end().exits(7);
    });
}

/// `exec` of a command that has ended, of which nobody has read more than the first byte: the pipe that it writes to is full, and so is
/// almost its terminal.
fn end_unread(lab: &Lab) -> (Running, [OwnedFd; 2]) {
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    let output = write.try_clone().expect("copy a descriptor");
    let script = "echo up; read x; head -c 7000 /dev/zero | tr '\\0' z; echo end; exit 7";
    let mut command = lab.command(&["exec", "-t", "box", "--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(output);
    let mut helper = Running::spawn(command);
    assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(1), "its first byte");
    helper.say("\n");
    wait_untold("the command has ended", || {
        lab::children(helper.pid()).is_empty()
    });
    (helper, [read, write])
}

/// Whatever comes until its end, a mebibyte at most. Before each part of it `first` is done.
fn read_slowly(helper: &Running, [read, write]: [OwnedFd; 2], mut first: impl FnMut()) -> Vec<u8> {
    let end = lab::sys::pidfd(helper.pid()).expect("our own child");
    let (mut written, mut read) = (Vec::new(), File::from(read));
    while written.len() < 1 << 20 {
        let mut has_ended = false;
        wait_untold("the pipe is full, or its writer gone", || {
            let mut fds = [
                PollFd::new(write.as_fd(), PollFlags::POLLOUT),
                PollFd::new(end.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, PollTimeout::ZERO).expect("look at both");
            has_ended = fds[1].any() == Some(true);
            has_ended || fds[0].any() == Some(false)
        });
        if has_ended {
            drop(write);
            read.read_to_end(&mut written).expect("read the rest");
            return written;
        }
        first();
        let mut chunk = [0; 4096];
        let len = read.read(&mut chunk).expect("read its output");
        written.extend_from_slice(&chunk[..len]);
    }
    written
}
