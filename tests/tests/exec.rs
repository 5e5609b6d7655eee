//! `exec NAME`: a further command in a running container, with the same privileges and nothing of the host.

use lab::strace::traced;
use lab::{
    DEADLINE, Group, Lab, Running, Snapshot, Terminal, case, children, collect, packets, sh, sys,
    wait_untold,
};

const FIXED: &[&str] = &["--name", "box", "--ip", "172.19.0.9"];

fn exec(lab: &Lab, arguments: &[&str]) -> lab::Outcome {
    lab.hawser(&[&["exec"], arguments].concat())
}

#[test]
fn it_is_in_the_same_namespaces() {
    packets(|lab| {
        let _box = lab.start_idle(FIXED);
        let kinds = "for n in net pid mnt ipc uts cgroup; do readlink /proc/self/ns/$n; done";
        let first = exec(
            lab,
            &[
                "box",
                "--",
                "sh",
                "-c",
                "for n in net pid mnt ipc uts cgroup; do readlink /proc/1/ns/$n; done",
            ],
        )
        .ok();
        assert_eq!(exec(lab, &["box", "--", "sh", "-c", kinds]).ok(), first);
        assert_eq!(exec(lab, &["box", "--", "hostname"]).ok(), "box");
        let address = exec(
            lab,
            &["box", "--", "ip", "-o", "addr", "show", "dev", "eth0"],
        )
        .ok();
        assert!(address.contains("172.19.0.9/16"), "{address}");
        exec(
            lab,
            &["box", "--", "ping", "-c", "1", "-W", "2", "172.19.0.1"],
        )
        .ok();
        let seen = exec(lab, &["box", "--", "sh", "-c", "cat /proc/1/comm; ls /"]).ok();
        assert!(
            seen.starts_with("sh\n") && !seen.contains("home/") && seen.contains("proc"),
            "{seen}"
        );
    });
}

#[test]
fn codes_are_those_of_run() {
    case(|lab| {
        let _box = lab.start_idle(FIXED);
        for code in [0, 1, 7, 125, 127, 255] {
            exec(lab, &["box", "--", "sh", "-c", &format!("exit {code}")]).exits(code);
        }
        exec(lab, &["box", "--", "sh", "-c", "kill -KILL $$"]).exits(137);
        exec(lab, &["box", "--", "no-such-command"]).exits(127);
        exec(lab, &["box", "--", "/etc"]).exits(126);
        exec(lab, &["nobody", "--", "true"]).refused(&["nobody"]);
        exec(lab, &["box"]).exits(125);
    });
}

#[test]
fn privileges_are_the_containers() {
    case(|lab| {
        for options in [
            &["--name", "box"][..],
            &["--name", "box", "--cap-drop", "all", "--cap-add", "kill"],
            &["--name", "box", "--no-new-privileges=off"],
        ] {
            let running = lab.start_idle(options);
            let status = |pid: &str| {
                let text = exec(lab, &["box", "--", "cat", &format!("/proc/{pid}/status")]).ok();
                let wanted = [
                    "CapInh",
                    "CapPrm",
                    "CapEff",
                    "CapBnd",
                    "CapAmb",
                    "NoNewPrivs",
                    "Seccomp:",
                    "Uid",
                    "Gid",
                    "Groups",
                ];
                text.lines()
                    .filter(|line| wanted.iter().any(|word| line.starts_with(word)))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(status("self"), status("1"), "{options:?}");
            running.end().exits(0);
        }
        if lab.real_root {
            let _box = lab.start_idle(&["--name", "user", "-u", "worker"]);
            let seen = exec(lab, &["user", "--", "id"]).ok();
            assert!(
                seen.starts_with("uid=1000(worker) gid=1000(worker)") && seen.contains("27(wheel)"),
                "{seen}"
            );
        }
    });
}

#[test]
fn nothing_of_the_host_goes_in() {
    case(|lab| {
        let _box = lab.start_idle(&["--name", "box", "-e", "INSIDE=1", "-w", "/srv"]);
        let mut command = lab.command(&[
            "exec",
            "-e",
            "A=b",
            "box",
            "--",
            "sh",
            "-c",
            "ls /proc/self/fd; pwd; env; true",
        ]);
        command.env("SECRET", "of the host").current_dir("/run/lab");
        let file = std::fs::File::open("/etc/passwd")
            .expect("open a file")
            .into();
        sys::pass_fd(&mut command, &file, 207);
        let seen = collect(command, DEADLINE).ok();
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[..5], ["0", "1", "2", "3", "/srv"], "{seen}");
        assert!(
            lines.contains(&"A=b") && lines.contains(&"INSIDE=1") && !seen.contains("SECRET"),
            "{seen}"
        );
        let exe = exec(
            lab,
            &[
                "box",
                "--",
                "readlink",
                "/proc/self/exe",
                "/proc/self/root",
                "/proc/self/cwd",
            ],
        );
        assert!(
            !exe.out().contains("host-helper") && !exe.out().contains("/run/lab"),
            "{exe}"
        );
    });
}

/// What enters is a copy of the program then, which knows of its caller's variables those alone that are named.
#[test]
fn a_container_that_may_trace_gets_what_others_get() {
    case(|lab| {
        let _box = lab.start_idle(&["--name", "box", "--cap-add", "sys_ptrace"]);
        let script = "echo $A $B $C ${D-none}; cat; ls /proc/self/fd; exit 7";
        let words = ["-e", "A=1", "-e", "A", "-e", "B", "-e", "C=c=d", "box"];
        let mut command = lab.command(&[&["exec"], &words[..], &["sh", "-c", script]].concat());
        command.env("A", "of ours").env("B", "two\nlines = b");
        command.env("C", "another").env("D", "unsaid");
        command.stdin(std::process::Stdio::piped());
        let mut running = Running::spawn(command);
        running.say("some words\n");
        let outcome = running.end().exits(7);
        let seen = "of ours two lines = b c=d none\nsome words\n0\n1\n2\n3\n";
        assert_eq!(outcome.out(), seen, "{outcome}");
        exec(lab, &["box", "no-such-command"]).exits(127);
        exec(lab, &["-e", "A=1", "nobody", "true"]).refused(&["nobody"]);
        let words = ["exec", "box", "sh", "-c", "echo up; exec sleep 1000"];
        let mut running = Running::spawn(lab.command(&words));
        running.until("up");
        let comm = format!("/proc/{}/comm", running.pid());
        let name = std::fs::read_to_string(comm).expect("its name");
        assert_eq!(name, "host-helper\n");
        running.signal(libc::SIGTERM);
        running.end().exits(143);
    });
}

#[test]
fn pipes_and_terminals() {
    case(|lab| {
        let _box = lab.start_idle(FIXED);
        let mut command =
            lab.command(&["exec", "box", "--", "sh", "-c", "cat; echo complaint >&2"]);
        command.stdin(std::process::Stdio::piped());
        let mut running = Running::spawn(command);
        running.say("some words\n");
        let outcome = running.end().exits(0);
        assert_eq!(
            (outcome.out().as_str(), outcome.err().as_str()),
            ("some words\n", "complaint\n")
        );
        let mut terminal =
            Terminal::spawn(lab.command(&["exec", "-e", "PS1=ready> ", "box", "--", "sh"]));
        terminal.until("ready> ");
        terminal.keys("sh -c 'echo start''ed; exec sleep 1000'\n");
        terminal.until("started\r\n");
        terminal.keys("\x03");
        terminal.until("ready> ");
        terminal.keys("exit 4\n");
        terminal.end().exits(4);
    });
}

#[test]
fn signals_and_ends() {
    case(|lab| {
        let box_ = lab.start_idle(FIXED);
        let script = "trap 'echo got TERM; exit 7' TERM; sleep 1000 >/dev/null 2>&1 & echo up; while :; do wait; done";
        let mut running = Running::spawn(lab.command(&["exec", "box", "--", "sh", "-c", script]));
        running.until("up");
        running.signal(libc::SIGTERM);
        assert_eq!(running.end().exits(7).out(), "got TERM\n");
        // Real-time signals have no names, and end who does not know them like others.
        for signal in [40, 64, 34] {
            let words = ["exec", "box", "--", "sh", "-c", "echo up; exec sleep 1000"];
            let mut running = Running::spawn(lab.command(&words));
            running.until("up");
            running.signal(signal);
            running.end().exits(128 + signal);
        }
        // The container's end is the end of all in it.
        let mut running = Running::spawn(lab.command(&[
            "exec",
            "box",
            "--",
            "sh",
            "-c",
            "echo up; sleep 1000; true",
        ]));
        running.until("up");
        box_.end().exits(0);
        running.end().exits(137);
    });
}

/// It is limited by them, and counted, as the container's own are.
#[test]
fn it_is_in_the_control_groups_of_the_container() {
    case(|lab| {
        for (version, options) in [("any", &[][..]), ("any", &["--userns"]), ("2", &[])] {
            if version == "2" {
                // As where there are no others.
                sh("mount -t cgroup2 cgroup2 /sys/fs/cgroup");
            }
            let Some(group) = Group::new(lab) else { return };
            let script = ["sh", "-c", "echo up; exec cat"];
            let command = lab.run_command(&[FIXED, options].concat(), &script);
            let mut running = Running::piped(group.hold(&command));
            running.until("up");
            let path = format!("/proc/{}/cgroup", lab.pid_of("box"));
            let of_first = std::fs::read_to_string(path).expect("its groups");
            assert!(of_first.contains(group.name()), "{of_first}");
            let inside =
                |pid| exec(lab, &["box", "--", "cat", &format!("/proc/{pid}/cgroup")]).ok();
            assert_eq!(inside("self"), inside("1"));
            running.end().exits(0);
        }
    });
}

#[test]
fn the_umask_is_that_of_the_containers_command() {
    case(|lab| {
        let _box = lab.start_idle(FIXED);
        let command = lab.command(&["exec", "box", "--", "sh", "-c", "umask"]);
        let mut strict = std::process::Command::new("/bin/sh");
        strict.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        strict.arg(command.get_program()).args(command.get_args());
        assert_eq!(collect(strict, DEADLINE).ok(), "0022");
    });
}

/// One inside with CAP_SYS_PTRACE may seize whoever is among its processes: that one has joined everything by then, has given up what
/// the container has not, and has its filter.
#[test]
fn who_is_among_its_processes_has_nothing_of_the_host() {
    case(|lab| {
        let _box = lab.start_idle(FIXED);
        let path = lab.dir.join("trace").display().to_string();
        let calls = "trace=setns,seccomp,capset,clone,execveat";
        let command = lab.command(&["exec", "box", "--", "true"]);
        collect(traced(&command, &["-f", "-e", calls], &path), DEADLINE).exits(0);
        let trace = std::fs::read_to_string(&path).expect("the trace");
        let lines: Vec<&str> = trace.lines().collect();
        let entered = lines.iter().position(|line| line.contains("CLONE_PARENT"));
        let (before, behind) = lines.split_at(entered.expect("its clone"));
        for call in ["CLONE_NEWPID", "CLONE_NEWNS", "seccomp(", "capset("] {
            assert!(
                before.iter().any(|line| line.contains(call)),
                "{call}: {trace}"
            );
        }
        assert!(!behind.iter().any(|line| line.contains("setns")), "{trace}");
    });
}

/// Its pipes cannot be opened by them before it has their privileges, however long it is on its way.
#[test]
fn who_is_among_its_processes_is_closed_to_them_at_first() {
    case(|lab| {
        let script = "echo up; read x
            for n in /proc/[0-9]*; do echo has $n; test -e $n/fd/0 && echo open $n; done; echo tried; read x";
        let mut inside = lab.start(FIXED, &["sh", "-c", script]);
        inside.until("up");
        let command = lab.command(&["exec", "--no-tty", "box", "true"]);
        let slow = ["-f", "--inject=waitid:delay_enter=3s:when=1"];
        let tracer = Running::spawn(traced(&command, &slow, "/dev/null"));
        wait_untold("init waits for its message", || {
            let of_exec = children(tracer.pid()).into_iter().flat_map(children);
            let words = of_exec.map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")));
            words.flatten().any(|words| words.starts_with(b"init\0"))
        });
        inside.say("\n");
        let seen = inside.until("tried");
        assert_eq!(seen.matches("has ").count(), 2, "{seen}");
        assert!(seen.contains("open /proc/1\n"), "{seen}");
        assert_eq!(seen.matches("open ").count(), 1, "{seen}");
        tracer.end().exits(0);
    });
}

#[test]
fn no_directory_of_the_host_goes_in() {
    case(|lab| {
        let _box = lab.start_idle(FIXED);
        let mut command = lab.command(&["exec", "box", "--", "true"]);
        command.stdin(std::fs::File::open("/").expect("a directory"));
        collect(command, DEADLINE).refused(&["file descriptor 0", "directory"]);
    });
}

/// The kernel lets no container go before its dead are waited for: by whoever has started each.
#[test]
fn an_exec_that_is_stopped_does_not_hold_a_container_that_is_to_end() {
    case(|lab| {
        lab.run(&["-d", "--name", "box"], &["sleep", "1000"]).ok();
        let command = lab.command(&["exec", "box", "--", "sh", "-c", "echo up; exec sleep 1000"]);
        let mut stopped = Running::spawn(command);
        stopped.until("up");
        stopped.signal(libc::SIGSTOP);
        stopped.wait_for_stop();
        lab.hawser(&["stop", "box"]).exits(0);
        stopped.end().exits(137);
        assert_eq!(lab.hawser(&["wait", "box"]).ok(), "143");
    });
}

/// The one that it has made ends then, which nobody knows, and does not wait for what nobody sends.
#[test]
fn a_child_that_is_killed_before_it_hands_the_command_over_holds_nobody() {
    case(|lab| {
        let _box = lab.start_idle(FIXED);
        let before = Snapshot::take();
        let command = lab.command(&["exec", "box", "--", "true"]);
        // Whoever waits looks when the other has become init, and has closed the channel.
        let killed = "inject=sendmsg:signal=KILL";
        let late = "inject=?poll,ppoll:delay_enter=1s";
        let killed = ["-f", "-e", killed, "-e", late];
        let outcome = collect(traced(&command, &killed, "/dev/null"), DEADLINE);
        outcome.refused(&["command"]);
        before.assert_back();
        lab.hawser(&["exec", "box", "--", "true"]).ok();
    });
}
