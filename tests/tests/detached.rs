//! `run -d` and what looks after such containers: ls, inspect, logs, wait, rm.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Instant;

use lab::{
    DEADLINE, Lab, Running, Watch, binary, case, children, collect, packets, parent, sh, sys,
    wait_for_end, wait_untold, within,
};

fn detach(lab: &Lab, options: &[&str], script: &str) -> String {
    lab.run_sh(&[&["-d"], options].concat(), script).ok()
}

#[test]
fn it_prints_the_name_and_returns() {
    case(|lab| {
        assert_eq!(detach(lab, &["--name", "web"], "sleep 1000"), "web");
        let name = detach(lab, &[], "sleep 1000");
        assert!(
            !name.is_empty() && !name.contains(char::is_whitespace),
            "{name:?}"
        );
        assert_eq!(lab.list().len(), 2);
        assert_eq!(lab.listed("web")["status"], "running");
        assert_eq!(lab.listed(&name)["status"], "running");
    });
}

#[test]
fn wait_gives_the_code() {
    case(|lab| {
        detach(lab, &["--name", "seven"], "exit 7");
        assert_eq!(lab.hawser(&["wait", "seven"]).ok(), "7");
        assert_eq!(
            lab.hawser(&["wait", "seven"]).ok(),
            "7",
            "as often as asked"
        );
        detach(lab, &["--name", "slow"], "sleep 1000");
        let waiting = lab::Running::spawn(lab.command(&["wait", "slow"]));
        let pidfd = lab::sys::pidfd(lab.pid_of("slow")).expect("the command");
        lab::sys::pidfd_signal(&pidfd, libc::SIGKILL).expect("kill it");
        assert_eq!(waiting.end().ok(), "137");
        lab.hawser(&["wait", "nobody"]).refused(&["nobody"]);
    });
}

#[test]
fn logs_show_both_outputs_and_every_byte() {
    case(|lab| {
        detach(
            lab,
            &["--name", "web"],
            "echo out; echo err >&2; printf 'a\\000\\377b'; exit 3",
        );
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "3");
        let logs = lab.hawser(&["logs", "web"]).exits(0);
        assert_eq!(logs.stdout, b"out\nerr\na\0\xffb", "{logs}");
        lab.hawser(&["logs", "nobody"]).refused(&["nobody"]);
    });
}

/// The kernel waits for who has a lease on a file, for 45 seconds at most: a network file system may be slow like that.
#[test]
fn a_start_whose_command_is_slow_to_execute_can_be_interrupted() {
    case(|lab| {
        let slow = lab.rootfs.join("bin/slow");
        std::fs::copy(lab.rootfs.join("bin/busybox"), &slow).expect("copy a program");
        let file = File::open(&slow).expect("open it");
        sys::lease(&file, libc::F_WRLCK).expect("take a lease");
        detach(lab, &["--name", "web"], "echo result; exit 3");
        lab.hawser(&["wait", "web"]).ok();
        let before = lab.with_network();
        let deaf = ["sh", "-c", "trap '' TERM; exec \"$@\"", "sh"];
        for (shell, signal, code) in [
            (&["env"][..], libc::SIGINT, 130),
            (&["env"], libc::SIGTERM, 143),
            (&deaf, libc::SIGHUP, 129),
        ] {
            let run = lab.run_command(&["-d", "--name", "web"], &["slow", "true"]);
            let mut command = within(shell, &run);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let caller = Running::spawn(command);
            let executes = format!("{} ", libc::SYS_execve);
            wait_untold("init executes it", || {
                let of_supervisor = children(caller.pid()).into_iter().flat_map(children);
                let mut calls = of_supervisor
                    .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/syscall")));
                calls.any(|call| call.is_ok_and(|call| call.starts_with(&executes)))
            });
            let begin = Instant::now();
            caller.signal(signal);
            let outcome = caller.end().exits(code);
            assert!(begin.elapsed().as_secs() < 20, "{outcome}");
            assert_eq!(outcome.err().lines().count(), 1, "{outcome}");
            before.assert_back();
            let left = lab.hawser(&["logs", "web"]).ok();
            assert_eq!(left, "result", "of the one before");
        }
    });
}

#[test]
fn an_ended_one_is_forgotten_by_rm() {
    case(|lab| {
        let before = lab.with_network();
        detach(lab, &["--name", "web"], "echo hello");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
        lab.hawser(&["rm", "web"]).ok();
        before.assert_back();
        lab.hawser(&["logs", "web"]).refused(&["web"]);
        lab.hawser(&["rm", "web"]).refused(&["web"]);
        assert_eq!(
            detach(lab, &["--name", "web"], "true"),
            "web",
            "and the name is free"
        );
    });
}

#[test]
fn who_asks_for_an_ended_one_hears_what_is_left_of_it() {
    case(|lab| {
        detach(lab, &["--name", "web"], "echo hello");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
        let ask = |words: &[&str]| {
            for request in [
                &["stop", "web"][..],
                &["inspect", "web"],
                &["exec", "web", "true"],
                &["port", "ls", "web"],
            ] {
                lab.hawser(request).refused(words);
            }
            lab.run(&["--network", "container:web"], &["true"])
                .refused(words);
        };
        ask(&["web: it has ended", "wait web", "logs web", "rm web"]);
        std::fs::remove_file("/run/hawser/web.log").expect("forget its log");
        ask(&["web: it has ended", "wait web", "rm web forgets that"]);
        std::fs::rename("/run/hawser/web.code", "/run/hawser/web.log").expect("lose its code");
        ask(&["web: it was killed", "logs web", "rm web"]);
        lab.hawser(&["wait", "web"])
            .refused(&["web: it was killed"]);
        lab.hawser(&["rm", "web"]).ok();
        ask(&["none of that name runs"]);
    });
}

/// It cannot do without its network: nobody else would give it one.
#[test]
fn a_living_one_is_not_detached() {
    case(|lab| {
        detach(lab, &["--name", "web"], "sleep 1000");
        detach(
            lab,
            &["--name", "lonely", "--network", "none"],
            "sleep 1000",
        );
        let pid = lab.pid_of("web").to_string();
        let path = format!("/proc/{pid}/ns/net");
        for (words, name) in [
            (&["detach", "web"][..], "web"),
            (&["detach", &pid], "web"),
            (&["detach", "--netns", &path], "web"),
            (&["detach", "lonely"], "lonely"),
        ] {
            let cure = format!("host-helper stop {name}");
            lab.hawser(words).refused(&["detach", name, &cure]);
        }
        for name in ["web", "lonely"] {
            lab.hawser(&["stop", name]).ok();
            lab.hawser(&["detach", name]).ok();
        }
        lab.hawser(&["rm", "nobody"])
            .refused(&["nobody", "host-helper ls"]);
    });
}

#[test]
fn a_living_one_is_not_removed() {
    case(|lab| {
        detach(lab, &["--name", "web"], "sleep 1000");
        lab.hawser(&["rm", "web"]).refused(&["web"]);
        assert_eq!(lab.listed("web")["status"], "running");
        lab.run(&["-d", "--name", "web"], &["true"])
            .refused(&["web"]);
    });
}

#[test]
fn a_name_of_an_ended_one_can_be_used_again() {
    case(|lab| {
        for code in ["4", "5"] {
            detach(lab, &["--name", "web"], &format!("exit {code}"));
            assert_eq!(lab.hawser(&["wait", "web"]).ok(), code);
        }
    });
}

#[test]
fn a_start_that_fails_is_told_at_once() {
    case(|lab| {
        let before = lab.with_network();
        lab.run(&["-d"], &["/no/such/command"]).exits(127);
        lab.run(&["-d"], &["/etc"]).exits(126);
        lab.run(&["-d", "--ip", "10.99.0.1"], &["true"]).exits(125);
        before.assert_back();
    });
}

#[test]
fn a_start_that_fails_leaves_what_the_last_one_has_left() {
    case(|lab| {
        detach(lab, &["--name", "web"], "echo result; exit 3");
        let left = || {
            let logs = lab.hawser(&["logs", "web"]).ok();
            (logs, lab.hawser(&["wait", "web"]).ok())
        };
        lab.hawser(&["wait", "web"]).ok();
        let first = left();
        assert_eq!(first, ("result".to_string(), "3".to_string()));
        for (options, command, code) in [
            (&["-d", "--ip", "10.99.0.1"][..], "true", 125),
            (&["-d"], "/no/such/command", 127),
            (&["--ip", "10.99.0.1"], "true", 125),
        ] {
            let options = [options, &["--name", "web"]].concat();
            lab.run(&options, &[command]).exits(code);
            assert_eq!(left(), first, "{options:?} {command}");
        }
        detach(lab, &["--name", "web"], "echo other");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
        assert_eq!(left().0, "other");
    });
}

#[test]
fn what_a_terminal_shows_is_in_the_log() {
    case(|lab| {
        let shown = |name: &str| lab.hawser(&["logs", name]).ok().replace('\r', "");
        detach(lab, &["-t", "--name", "web"], "tty; echo hello");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
        assert_eq!(shown("web"), "/dev/pts/0\nhello");
        // What never began changes nothing of it.
        let again = &["-d", "-t", "--name", "web"];
        lab.run(again, &["/no/such/command"]).exits(127);
        assert_eq!(shown("web"), "/dev/pts/0\nhello");
        detach(lab, &["-t", "--name", "web"], "echo other; sleep 1000");
        lab::wait_untold("its first line", || shown("web") == "other");
        detach(lab, &["-t", "--init", "--name", "init"], "echo with init");
        assert_eq!(lab.hawser(&["wait", "init"]).ok(), "0");
        assert_eq!(shown("init"), "with init");
    });
}

/// Who reads more slowly than the container writes would never see the end.
#[test]
fn logs_end_with_what_was_there() {
    case(|lab| {
        let before = 1_000_000;
        let script = format!("head -c {before} /dev/zero; exec sleep 1000");
        detach(lab, &["--name", "web"], &script);
        let mut log = std::fs::File::options();
        let mut log = log.append(true).open("/run/hawser/web.log").expect("open");
        let size = || std::fs::metadata("/run/hawser/web.log").map_or(0, |log| log.len());
        lab::wait_untold("all of it is in the log", || size() == before);
        let mut logs = lab.command(&["logs", "web"]).spawn().expect("run logs");
        let mut shown = logs.stdout.take().expect("its output");
        // It has begun, and waits: a pipe holds less.
        shown.read_exact(&mut [0]).expect("the first byte");
        log.write_all(b"later").expect("write more");
        let mut rest = Vec::new();
        shown.read_to_end(&mut rest).expect("the rest");
        assert!(logs.wait().expect("its end").success());
        assert_eq!(rest.len() as u64, before - 1);
    });
}

/// Of a hundred and two that have ended the oldest logs go, also where a killed supervisor has left no code, but not while a container has its name.
#[test]
fn the_log_of_who_has_the_name_again_is_not_an_old_one() {
    case(|lab| {
        detach(lab, &["--name", "old"], "echo up; sleep 1000");
        sh("cd /run/hawser; touch -d '1 hour ago' old.code older.code older.log killed.log");
        sh("cd /run/hawser; for at in $(seq 100); do echo 0 >n$at.code; : >n$at.log; done");
        detach(lab, &["--name", "last"], "true");
        lab.hawser(&["wait", "last"]).ok();
        let is_there = |name: &str| std::path::Path::new("/run/hawser").join(name).exists();
        assert!(Watch::new().until(|| !is_there("older.log") && !is_there("killed.log")));
        assert!(is_there("old.log"));
        sh("rm /run/hawser/old.code");
        lab.hawser(&["stop", "old"]).ok();
    });
}

#[test]
fn it_has_the_whole_network() {
    packets(|lab| {
        lab.serve();
        detach(
            lab,
            &["--name", "web"],
            "wget -q -O - http://web.example.test/",
        );
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
        assert_eq!(lab.hawser(&["logs", "web"]).ok(), "hello from the internet");
    });
}

#[test]
fn logs_that_cannot_be_written_are_an_error_without_an_end_of_line_too() {
    case(|lab| {
        detach(lab, &["--name", "web"], "printf abc");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
        let mut command = lab.command_of("/bin/sh");
        let script = format!("exec {} logs web >/dev/full", binary().display());
        command.args(["-c", &script]);
        collect(command, DEADLINE).refused(&["the log of web", "ENOSPC"]);
    });
}

/// The file of that name says which machine this is, and goes with the last network.
#[test]
fn a_container_may_be_called_machine_id() {
    case(|lab| {
        let options = ["--name", "machine-id", "--network", "none"];
        detach(lab, &options, "sleep 1000");
        lab.hawser(&["down"]).ok();
        assert_eq!(lab.listed("machine-id")["status"], "running");
        lab.hawser(&["stop", "machine-id"]).ok();
    });
}

/// Each of them takes a descriptor of the supervisor's.
#[test]
fn who_waits_keeps_nobody_from_stopping_it() {
    case(|lab| {
        let (program, root) = (binary(), lab.rootfs.display());
        let program = program.display();
        sh(&format!(
            "ulimit -Sn 40; {program} run -d --network none --name web --rootfs {root} -- sleep 1000"
        ));
        let waiting: Vec<_> = (0..60)
            .map(|_| lab::Running::spawn(lab.command(&["wait", "web"])))
            .collect();
        lab.hawser(&["stop", "web"]).ok();
        for one in waiting {
            one.end();
        }
    });
}

#[test]
fn its_supervisor_is_gone_from_our_terminal_and_session() {
    case(|lab| {
        detach(lab, &["--name", "web"], "readlink /proc/1/fd/0; sleep 1000");
        let pid = lab.pid_of("web");
        let supervisor = parent(pid);
        let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).expect("its stat");
        let session: i32 = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(3)?.parse().ok())
            .expect("its session");
        assert_ne!(
            session,
            nix::unistd::getsid(None).expect("our session").as_raw(),
            "a session of its own"
        );
        for fd in 0..3 {
            let target =
                std::fs::read_link(format!("/proc/{supervisor}/fd/{fd}")).unwrap_or_default();
            assert!(
                !target.to_string_lossy().contains("pipe"),
                "descriptor {fd} of the supervisor is our pipe"
            );
        }
        assert_eq!(
            std::fs::read_link(format!("/proc/{supervisor}/cwd"))
                .expect("its directory")
                .to_string_lossy(),
            "/"
        );
    });
}

#[test]
fn neither_it_nor_its_supervisor_stays_on_one_processor() {
    fn processors(status: &str) -> &str {
        let mut lines = status.lines();
        let line = lines.find(|line| line.starts_with("Cpus_allowed_list:"));
        line.expect("its processors")
    }
    let read = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    case(|lab| {
        let own = read("self");
        detach(lab, &["--name", "web"], "sleep 1000");
        let supervisor = parent(lab.pid_of("web"));
        assert_eq!(processors(&read(&supervisor.to_string())), processors(&own));
        let inside = lab.run_sh(&[], "cat /proc/self/status").ok();
        assert_eq!(processors(&inside), processors(&own));
    });
}

#[test]
fn the_supervisors_death_ends_it_and_the_other_way_round() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        detach(lab, &["--name", "web"], "sleep 1000");
        let pid = lab.pid_of("web");
        let supervisor = parent(pid);
        let pidfd = lab::sys::pidfd(supervisor).expect("the supervisor");
        lab::sys::pidfd_signal(&pidfd, libc::SIGKILL).expect("kill it");
        wait_for_end(pid);
        detach(lab, &["--name", "web"], "sleep 1000");
        let pid = lab.pid_of("web");
        let supervisor = parent(pid);
        let pidfd = lab::sys::pidfd(pid).expect("the command");
        lab::sys::pidfd_signal(&pidfd, libc::SIGKILL).expect("kill it");
        wait_for_end(supervisor);
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "137");
    });
}

#[test]
fn its_supervisor_passes_signals_on() {
    case(|lab| {
        sh("mkfifo /run/lab/fifo");
        let script = "trap 'echo closing; exit 6' TERM; sleep 1000 & echo up > /srv/fifo; while :; do wait; done";
        detach(lab, &["--name", "web", "-v", "/run/lab:/srv"], script);
        assert_eq!(sh("cat /run/lab/fifo"), "up\n");
        let pidfd = lab::sys::pidfd(parent(lab.pid_of("web"))).expect("the supervisor");
        lab::sys::pidfd_signal(&pidfd, libc::SIGTERM).expect("end it");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "6");
        assert_eq!(lab.hawser(&["logs", "web"]).ok(), "closing");
    });
}

#[test]
fn logs_of_a_living_one_show_what_there_is_so_far() {
    case(|lab| {
        sh("mkfifo /run/lab/fifo");
        detach(
            lab,
            &["--name", "web", "-v", "/run/lab:/srv"],
            "echo so far; echo up > /srv/fifo; sleep 1000",
        );
        assert_eq!(sh("cat /run/lab/fifo"), "up\n");
        assert_eq!(lab.hawser(&["logs", "web"]).ok(), "so far");
    });
}

#[test]
fn ls_is_a_table_and_json() {
    case(|lab| {
        assert_eq!(lab.list().len(), 0, "an empty array before the first start");
        detach(lab, &["--name", "web", "--ip", "172.19.0.9"], "sleep 1000");
        let _lonely = lab.start_idle(&["--name", "lonely", "--network", "none"]);
        let table = lab.hawser(&["ls"]).ok();
        let mut lines = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            lines.next().expect("a head"),
            [
                "NAME", "ADDRESS", "ADDRESS6", "NETWORK", "VETH", "PID", "NETNS", "OWNER",
                "STATUS", "PORTS"
            ]
        );
        let web = lines
            .find(|line| line[0] == "web")
            .expect("web in the table");
        assert_eq!(web.len(), 10, "{table}");
        assert!(
            web[1].starts_with("172.19.0.9")
                && web[2].starts_with("fd")
                && web[3] == "hawser0"
                && web[4] == "hwac130009"
                && web[7..9] == ["run", "running"],
            "{table}"
        );
        let row = lab.listed("web");
        for key in [
            "name", "address", "address6", "network", "veth", "pid", "netns", "owner", "status",
        ] {
            assert!(!row[key].is_null(), "{key} in {row}");
        }
        assert_eq!(row["pid"].to_string(), web[5]);
        let netns = std::fs::read_link(format!("/proc/{}/ns/net", web[5])).expect("a namespace");
        assert_eq!(netns.to_string_lossy(), format!("net:[{}]", web[6]));
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", row["pid"])).expect("its status");
        let numbers = status
            .lines()
            .find(|line| line.starts_with("NSpid:"))
            .expect("its numbers");
        assert!(numbers.ends_with("	1"), "PID 1 of a namespace: {numbers}");
        assert_eq!(
            lab.listed("lonely")["status"],
            "running",
            "also without a veth"
        );
    });
}

#[test]
fn inspect_tells_all_of_it() {
    case(|lab| {
        detach(
            lab,
            &[
                "--name",
                "web",
                "--ip",
                "172.19.0.9",
                "--hostname",
                "box",
                "-e",
                "COLOUR=blue",
                "-v",
                "/usr:/srv/of host:ro",
                "--tmpfs",
                "/cache",
                "--read-only",
                "--sysctl",
                "net.ipv4.ip_default_ttl=63",
                "--add-host",
                "db:192.0.2.7",
                "--dns",
                "192.0.2.53",
                "--dns-search",
                "example.test",
                "--dns-option",
                "ndots:3",
                "--init",
                "--grace",
                "7",
            ],
            "sleep 1000",
        );
        let text = lab.hawser(&["inspect", "web"]).ok();
        let all: serde_json::Value = serde_json::from_str(&text).expect("inspect prints JSON");
        assert!(all.is_object(), "{text}");
        assert_eq!(all["name"], "web");
        assert_eq!(all["pid"], lab.listed("web")["pid"]);
        let listed = lab.listed("web");
        let row = listed.as_object().expect("a row of ls");
        for (key, value) in row {
            assert_eq!(all[key], *value, "{key}, which ls shows");
        }
        let options = &all["options"];
        assert_eq!(options["read_only"], true);
        assert_eq!(options["init"], true);
        assert_eq!(options["grace"], 7);
        for word in [
            "/usr:/srv/of host:ro",
            "/cache",
            "net.ipv4.ip_default_ttl=63",
            "192.0.2.7 db",
            "192.0.2.53",
            "example.test",
            "ndots:3",
            "172.19.0.9",
            "hawser0",
            "hwac130009",
            "172.19.0.1",
            "02:00:ac:13:00:09",
            "box",
            "sleep 1000",
            "rootfs",
            "COLOUR=blue",
        ] {
            assert!(text.contains(word), "inspect should hold {word}: {text}");
        }
        lab.hawser(&["inspect", "nobody"]).refused(&["nobody"]);
    });
}

#[test]
fn its_socket_answers_nobody_else() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        detach(lab, &["--name", "web"], "sleep 1000");
        // As if the directory were no obstacle.
        sh("chmod 755 /run/hawser; chmod 777 /run/hawser/web.sock");
        let by_another = |words: &[&str]| {
            let mut command = lab.command(words);
            sys::as_user(&mut command, 1000);
            collect(command, DEADLINE)
        };
        by_another(&["inspect", "web"]).refused(&["web"]);
        by_another(&["stop", "web"]);
        assert_eq!(lab.listed("web")["status"], "running");
    });
}

#[test]
fn a_link_of_somebody_else_is_no_container() {
    case(|lab| {
        sh("ip link add hwac130009 type veth peer name other");
        let all = lab.list();
        assert_eq!(
            (&all[0]["status"], &all[0]["name"]),
            (&"unmarked".into(), &"".into())
        );
        lab.run(&["--ip", "172.19.0.9"], &["true"])
            .refused(&["172.19.0.9"]);
        assert!(
            sh("ip -o link").contains("hwac130009"),
            "and it is not touched"
        );
    });
}

/// As `/dev/stdout` of a container of the command's own user is.
#[test]
fn another_user_opens_the_log_and_a_pipe_again() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        let script = "echo one; echo two >>/dev/stdout; echo three >>/dev/stderr";
        for users in [&[][..], &["--userns"]] {
            let options = [&["-u", "5"], users].concat();
            let run = lab.run_sh(&options, script).exits(0);
            assert_eq!(
                (run.out(), run.err()),
                ("one\ntwo\n".into(), "three\n".into())
            );
            lab.run_sh(&[&["-d", "--name", "web"], &options[..]].concat(), script)
                .ok();
            lab.hawser(&["wait", "web"]).ok();
            assert_eq!(lab.hawser(&["logs", "web"]).ok(), "one\ntwo\nthree");
        }
    });
}

#[test]
fn logs_wait_until_the_supervisor_has_copied() {
    case(|lab| logs_have(lab, "echo late", "late", &[]));
}

/// More than one read of it gives.
#[test]
fn logs_wait_until_the_supervisor_has_copied_a_terminal() {
    case(|lab| {
        let all = "x".repeat(10_000);
        logs_have(lab, "head -c 10000 /dev/zero | tr '\\0' x", &all, &["-t"]);
    });
}

/// What a container writes while its supervisor cannot copy it is in its log for who asks before that can.
#[track_caller]
fn logs_have(lab: &Lab, writes: &str, all: &str, options: &[&str]) {
    sh("mkfifo /run/lab/go /run/lab/done");
    let script = format!("read x </srv/go; {writes}; echo up >/srv/done; sleep 1000");
    let options = [&["--name", "web", "-v", "/run/lab:/srv"], options].concat();
    detach(lab, &options, &script);
    let supervisor = lab::sys::pidfd(parent(lab.pid_of("web"))).expect("the supervisor");
    lab::sys::pidfd_signal(&supervisor, libc::SIGSTOP).expect("stop it");
    assert_eq!(sh("echo >/run/lab/go; cat /run/lab/done"), "up\n");
    let logs = lab::Running::spawn(lab.command(&["logs", "web"]));
    let status = format!("/proc/{}/status", logs.pid());
    lab::wait_untold("logs asks, or has ended", || {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        !["R", "D"]
            .iter()
            .any(|busy| status.contains(&format!("State:\t{busy}")))
    });
    lab::sys::pidfd_signal(&supervisor, libc::SIGCONT).expect("let it go on");
    assert_eq!(logs.end().ok(), all);
}

/// `>/dev/stdout` truncates, and writes from the beginning on, where that is a file.
#[test]
fn who_opens_its_output_anew_keeps_what_is_there() {
    case(|lab| {
        let script = "echo one; echo two >/dev/stdout; echo three >/dev/stderr; : >/proc/self/fd/1; echo four";
        let users: [&[&str]; 4] = [&[], &["-u", "5"], &["--userns"], &["--userns", "-u", "5"]];
        for user in &users[..if lab.real_root { 4 } else { 1 }] {
            detach(lab, &[&["--name", "web"], *user].concat(), script);
            assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
            let logs = lab.hawser(&["logs", "web"]).ok();
            assert_eq!(logs, "one\ntwo\nthree\nfour", "{user:?}");
            let log = std::fs::metadata("/run/hawser/web.log").expect("its log");
            assert_eq!((log.uid(), log.mode() & 0o777), (0, 0o600), "{user:?}");
        }
    });
}

/// More than ten times what fits into the largest pipe.
const MUCH: u64 = 10 * 1024 * 1024;

#[test]
fn all_that_it_wrote_is_in_the_log_at_its_end() {
    case(|lab| {
        sh("mkfifo /run/lab/fifo");
        let write = format!("dd if=/dev/zero bs=64k count={} 2>/dev/null", MUCH / 65536);
        let length = || {
            std::fs::metadata("/run/hawser/web.log")
                .expect("its log")
                .len()
        };
        for options in [&[][..], &["--init"]] {
            let options = [&["--name", "web", "-v", "/run/lab:/srv"], options].concat();
            detach(lab, &options, &write);
            assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
            assert_eq!(length(), MUCH);
            let script =
                format!("trap '{write}; exit 6' TERM; echo up >/srv/fifo; while :; do :; done");
            detach(lab, &options, &script);
            assert_eq!(sh("cat /run/lab/fifo"), "up\n");
            lab.hawser(&["stop", "web"]).ok();
            assert_eq!(length(), MUCH);
            assert_eq!(lab.hawser(&["wait", "web"]).ok(), "6");
        }
    });
}

#[test]
fn who_holds_its_output_beyond_the_end_holds_up_nobody() {
    case(|lab| {
        detach(lab, &["--name", "web"], "sleep 1000");
        let output = format!("/proc/{}/fd/1", lab.pid_of("web"));
        let mut other = lab.command_of("sh");
        let script = "exec 3>&1 >$0; echo up >&3; while echo still; do :; done";
        other.args(["-c", script, &output]);
        let mut other = lab::Running::spawn(other);
        other.until("up");
        lab.hawser(&["stop", "web"]).ok();
        // Nobody reads what it writes.
        assert_ne!(other.end().code, 0);
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "143");
    });
}

#[test]
fn a_log_without_room_holds_up_nobody() {
    case(|lab| {
        sh("mkfifo /run/lab/fifo; mkdir -m 700 /run/hawser");
        sh("mount -t tmpfs -o size=256k,mode=700 none /run/hawser");
        let script = "dd if=/dev/zero bs=64k count=160 && echo up >/srv/fifo; sleep 1000";
        detach(lab, &["--name", "web", "-v", "/run/lab:/srv"], script);
        assert_eq!(sh("cat /run/lab/fifo"), "up\n");
        assert_eq!(lab.listed("web")["status"], "running");
        assert!(!lab.hawser(&["logs", "web"]).exits(0).stdout.is_empty());
        lab.hawser(&["stop", "web"]).ok();
    });
}

/// The last of a log makes room for it; where there is none to make, nobody promises a code that is not there.
#[test]
fn the_exit_code_has_room_beside_a_log_that_has_none() {
    case(|lab| {
        sh("mkdir -m 700 /run/hawser");
        sh("mount -t tmpfs -o size=256k,mode=700 none /run/hawser");
        detach(lab, &["--name", "web"], "head -c 1000000 /dev/zero; exit 3");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "3");
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "3", "when it has ended");
        assert!(!lab.hawser(&["logs", "web"]).exits(0).stdout.is_empty());
        detach(lab, &["--name", "small"], "echo said; exec sleep 1000");
        sh("cat /dev/zero >/run/hawser/else 2>/dev/null || true");
        lab.hawser(&["stop", "small"]).ok();
        lab.hawser(&["wait", "small"])
            .refused(&["small: it was killed, or had no room", "logs small"]);
        lab.hawser(&["rm", "small"]).ok();
        sh("rm /run/hawser/else");
    });
}

/// Of what writes more than RLIMIT_FSIZE the kernel asks by a signal (SIGXFSZ) to end.
#[test]
fn a_log_at_the_limit_of_files_ends_nobody() {
    case(|lab| {
        const LIMIT: u64 = 256 * 1024;
        let script = "dd if=/dev/zero bs=64k count=16; exit 3";
        for init in [&[][..], &["--init"]] {
            let options = [&["-d", "--name", "web"], init].concat();
            let mut command = lab.run_command(&options, &["sh", "-c", script]);
            sys::with_rlimit(&mut command, libc::RLIMIT_FSIZE, LIMIT);
            collect(command, DEADLINE).ok();
            assert_eq!(lab.hawser(&["wait", "web"]).ok(), "3");
            let log = std::fs::metadata("/run/hawser/web.log").expect("its log");
            assert_eq!(log.len(), LIMIT);
        }
    });
}

/// `vm.memfd_noexec` of a pid namespace: programs in memory must be meant to be ones (Linux 6.3).
#[test]
fn init_in_memory_is_meant_to_be_executed() {
    case(|lab| {
        let is_there = std::path::Path::new("/proc/sys/vm/memfd_noexec").exists();
        if !is_there || !lab.real_root {
            return lab::skip("vm.memfd_noexec needs Linux 6.3 and real root");
        }
        let run = lab.run_command(&["--network", "none"], &["echo", "ran"]);
        let mut command = lab.command_of("unshare");
        let script = "echo 1 >/proc/sys/vm/memfd_noexec && exec \"$@\"";
        command.args(["-p", "-f", "--mount-proc", "sh", "-c", script, "sh"]);
        command.arg(run.get_program()).args(run.get_args());
        assert_eq!(collect(command, DEADLINE).ok(), "ran");
    });
}
