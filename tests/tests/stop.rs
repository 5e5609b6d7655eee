//! `stop NAME`, and what is kept of containers that have ended.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use lab::{DEADLINE, Lab, Running, case, collect, sh, sys, turns, wait_for_end, wait_untold};

/// A container that has said "up" by a FIFO, so that its handlers are in place.
fn detach_ready(lab: &Lab, name: &str, options: &[&str], before: &str) {
    let fifo = lab.dir.join(name);
    sh(&format!("mkfifo {}", fifo.display()));
    let script = format!("{before} sleep 1000 & echo up > /srv/{name}; while :; do wait; done");
    let all = [&["-d", "--name", name, "-v", "/run/lab:/srv"], options].concat();
    lab.run_sh(&all, &script).ok();
    assert_eq!(sh(&format!("cat {}", fifo.display())), "up\n");
}

#[test]
fn a_command_without_a_handler_is_killed_at_once() {
    case(|lab| {
        lab.run(&["-d", "--name", "web"], &["sleep", "1000"]).ok();
        let outcome = lab.hawser(&["stop", "web"]).exits(0);
        assert!(
            outcome.elapsed.as_secs() < 5,
            "not after the grace: {outcome}"
        );
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "143");
        assert!(
            lab.list().iter().all(|one| one["status"] != "running"),
            "it has ended when stop comes back"
        );
    });
}

#[test]
fn a_handler_has_its_say() {
    case(|lab| {
        detach_ready(lab, "web", &[], "trap 'echo closing; exit 6' TERM;");
        lab.hawser(&["stop", "web"]).exits(0);
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "6");
        assert_eq!(lab.hawser(&["logs", "web"]).ok(), "closing");
    });
}

#[test]
fn who_does_not_listen_is_killed_after_the_grace() {
    case(|lab| {
        detach_ready(lab, "deaf", &[], "trap '' TERM;");
        let outcome = lab.hawser(&["stop", "deaf", "--grace", "1"]).exits(0);
        let seconds = outcome.elapsed.as_secs_f64();
        assert!((1.0..5.0).contains(&seconds), "after a second: {outcome}");
        let code = lab.hawser(&["wait", "deaf"]).ok();
        assert!(["137", "143"].contains(&code.as_str()), "killed: {code}");
    });
}

/// init knows of its own grace alone: it is not waited for.
#[test]
fn a_shorter_grace_is_no_longer_with_init() {
    case(|lab| {
        detach_ready(lab, "deaf", &["--init"], "trap '' TERM;");
        let outcome = lab.hawser(&["stop", "deaf", "--grace", "1"]).exits(0);
        let seconds = outcome.elapsed.as_secs_f64();
        assert!((1.0..2.0).contains(&seconds), "after a second: {outcome}");
        assert_eq!(lab.hawser(&["wait", "deaf"]).ok(), "137");
    });
}

/// init is not killed while it does so.
#[test]
fn init_ends_what_is_left_where_the_grace_is_as_long_as_its_own() {
    case(|lab| {
        detach_ready(lab, "deaf", &["--init", "--grace", "1"], "trap '' TERM;");
        lab.hawser(&["stop", "deaf", "--grace", "1"]).exits(0);
        let log = lab.hawser(&["logs", "deaf"]).ok();
        assert!(log.contains("it has not ended in its grace"), "{log}");
    });
}

/// Of `run`, when it is told to end itself, and of `stop`.
#[test]
fn the_grace_is_ten_seconds_where_nobody_says_otherwise() {
    case(|lab| {
        detach_ready(lab, "deaf", &[], "trap '' TERM;");
        let script = "trap '' TERM; echo up; sleep 1000";
        let mut running = lab.start(&[], &["sh", "-c", script]);
        running.until("up");
        running.signal(libc::SIGTERM);
        let stopped = lab.hawser(&["stop", "deaf"]).exits(0);
        let ended = running.end();
        assert!([137, 143].contains(&ended.code), "killed: {ended}");
        for outcome in [stopped, ended] {
            let seconds = outcome.elapsed.as_secs_f64();
            assert!((10.0..15.0).contains(&seconds), "after ten: {outcome}");
        }
    });
}

/// However long the container itself, or somebody later, would wait.
#[test]
fn the_shortest_grace_counts() {
    case(|lab| {
        let most = u64::MAX.to_string();
        let options = ["--name", "deaf", "--grace", &most];
        let script = "trap 'echo asked' TERM; echo up; while :; do sleep 1000 & wait; done";
        let mut running = lab.start(&options, &["sh", "-c", script]);
        running.until("up");
        let first = Running::spawn(lab.command(&["stop", "--grace", "2", "deaf"]));
        running.until("asked");
        let second = Running::spawn(lab.command(&["stop", "--grace", "1000", "deaf"]));
        first.end().exits(0);
        second.end().exits(0);
        assert!([137, 143].contains(&running.end().code));
    });
}

/// Nobody who starts a container waits because somebody else's does not answer.
#[test]
fn rm_asks_nobody() {
    case(|lab| {
        let stopped = lab.start_idle(&["--name", "still"]);
        stopped.signal(libc::SIGSTOP);
        stopped.wait_for_stop();
        let outcome = lab.hawser(&["rm", "still"]);
        assert!(outcome.elapsed.as_secs() < 1, "{outcome}");
        outcome.refused(&["still", "it runs"]);
        stopped.signal(libc::SIGCONT);
        stopped.end().exits(0);
        lab.hawser(&["rm", "still"])
            .refused(&["still", "has ended"]);
    });
}

/// Neither does who is to end it.
#[test]
fn a_supervisor_that_does_not_answer_is_said_with_its_cure() {
    case(|lab| {
        let mut still = lab.start_idle(&["--name", "still"]);
        let lonely = lab.start_idle(&["--name", "lonely", "--network", "none"]);
        for stopped in [&still, &lonely] {
            stopped.signal(libc::SIGSTOP);
            stopped.wait_for_stop();
        }
        for one in lab.list() {
            assert_eq!(one["status"], "unresponsive", "{one}");
        }
        let cure = format!("kill -CONT {}", still.pid());
        lab.hawser(&["stop", "--grace", "1", "still"]).refused(&[
            "still",
            "does not answer",
            &cure,
        ]);
        lab.hawser(&["inspect", "lonely"])
            .refused(&["lonely", &format!("kill -CONT {}", lonely.pid())]);
        let doctor = lab.hawser(&["doctor"]).err();
        assert!(
            doctor.contains("the rules of container still") && doctor.contains(&cure),
            "{doctor}"
        );
        // Their rules may be gone.
        lab.hawser(&["restore"])
            .refused(&["still", "does not answer", &cure]);
        let pipe = still.stdin.take();
        for stopped in [&still, &lonely] {
            stopped.signal(libc::SIGCONT);
        }
        // It has heard of it.
        still.end().exits(143);
        lonely.end().exits(0);
        drop(pipe);
    });
}

fn inspected(lab: &Lab, name: &str) -> serde_json::Value {
    serde_json::from_str(&lab.hawser(&["inspect", name]).ok()).expect("JSON")
}

/// `web`, whose supervisor gets so many descriptors more and cannot help itself. Gives its number.
fn start_web_with(lab: &Lab, options: &[&str], more: usize) -> String {
    let mut run = lab.command_of("setpriv");
    run.args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"])
        .arg(lab::binary())
        .args(["run", "-d", "--name", "web", "--rootfs"])
        .arg(&lab.rootfs)
        .args(options)
        .args(["--", "sleep", "1000"]);
    collect(run, DEADLINE).ok();
    let supervisor = inspected(lab, "web")["supervisor"].to_string();
    let open = std::fs::read_dir(format!("/proc/{supervisor}/fd"));
    let most = open.expect("its descriptors").count() + more;
    sh(&format!(
        "prlimit --pid {supervisor} --nofile={most}:{most}"
    ));
    supervisor
}

/// Who has asked for the end of `web`.
fn wait_for_web() -> UnixStream {
    let mut client = UnixStream::connect("/run/hawser/web.sock").expect("a place");
    client
        .set_read_timeout(Some(DEADLINE / 4))
        .expect("a deadline");
    client.write_all(b"hawser 1 wait\n").expect("ask");
    client
}

/// Who waits takes a descriptor of the supervisor's, which may be as many as it may have: one place is left for who asks.
#[test]
fn a_supervisor_without_descriptors_is_stopped_all_the_same() {
    case(|lab| {
        start_web_with(lab, &[], 4);
        let mut waiting: Vec<_> = (0..10).map(|_| wait_for_web()).collect();
        let mut answer = String::new();
        let last = waiting.last_mut().expect("it waits");
        last.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with("error ") && answer.contains("ulimit -Hn"),
            "{answer}"
        );
        lab.hawser(&["inspect", "web"]).ok();
        lab.hawser(&["wait", "web"]).refused(&["web", "ulimit -Hn"]);
        lab.hawser(&["stop", "web", "--grace", "0"]).ok();
        answer.clear();
        waiting[0].read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("exit "), "{answer}");
    });
}

/// By a port of ours on 127.0.0.1 comes a client for whom there is no descriptor: it is reset, and the supervisor sleeps on.
#[test]
fn a_supervisor_without_descriptors_resets_who_comes_and_sleeps() {
    case(|lab| {
        let supervisor = start_web_with(lab, &["-p", "8080:80"], 3);
        let waiting: Vec<_> = (0..6).map(|_| wait_for_web()).collect();
        let mut refused = waiting.last().expect("it waits");
        refused
            .read_to_string(&mut String::new())
            .expect("an answer");
        for _ in 0..3 {
            let mut client = TcpStream::connect("127.0.0.1:8080").expect("the kernel's answer");
            client
                .set_read_timeout(Some(DEADLINE / 4))
                .expect("a deadline");
            let reset = client.read(&mut [0]).expect_err("nobody serves it");
            assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
        }
        let before = turns(&supervisor);
        // It takes the next one as well, and nothing in between.
        lab.hawser(&["inspect", "web"]).ok();
        assert!(turns(&supervisor) < before + 20);
        lab.hawser(&["stop", "web", "--grace", "0"]).ok();
    });
}

/// Who asks for something at the moment of its end has got nothing, and hears that.
#[test]
fn who_asks_as_it_ends_hears_that_it_has_ended() {
    case(|lab| {
        for question in [
            &["port", "add", "web", "8080:80"][..],
            &["inspect", "web"],
            &["port", "ls", "web"],
            &["exec", "web", "true"],
            &["run", "--network", "container:web", "--", "true"],
        ] {
            let run = lab.run_command(&["-d", "--name", "web"], &["sleep", "1000"]);
            collect(run, DEADLINE).ok();
            let found = inspected(lab, "web");
            let number = |key: &str| found[key].to_string().parse::<i32>().expect("a number");
            let (supervisor, first) = (number("supervisor"), number("pid"));
            let signal = |pid, signal| {
                sys::pidfd_signal(&sys::pidfd(pid).expect("pidfd"), signal).expect("signal");
            };
            signal(supervisor, libc::SIGSTOP);
            let asking = Running::spawn(lab.command(question));
            wait_untold("its question", || {
                let queue = sh("ss -xl | grep web.sock");
                queue.split_whitespace().nth(2) == Some("1")
            });
            signal(first, libc::SIGKILL);
            wait_for_end(first);
            signal(supervisor, libc::SIGCONT);
            asking.end().refused(&["web", "it has ended"]);
            lab.hawser(&["rm", "web"]);
        }
    });
}

/// The path of its socket has the beginning of its name alone.
#[test]
fn a_long_name_is_said_whole() {
    case(|lab| {
        let name = "n".repeat(100);
        let running = lab.start_idle(&["--name", &name, "-p", "8080:80"]);
        lab.run(&["-p", "8080:80"], &["true"])
            .refused(&[&format!("in use by container {name} (pid ")]);
        running.signal(libc::SIGSTOP);
        running.wait_for_stop();
        let listed = lab.list();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0]["name"], name);
        assert_eq!(listed[0]["status"], "unresponsive");
        lab.hawser(&["restore"])
            .refused(&[&format!("container {name}: "), "does not answer"]);
        running.signal(libc::SIGCONT);
        running.end().exits(0);
    });
}

/// As when it is stopped for an hour, and asked each second: connections of who has asked in vain stay until somebody takes them.
#[test]
fn a_supervisor_whose_queue_is_full_holds_nobody() {
    case(|lab| {
        sh("echo 1 >/proc/sys/net/core/somaxconn");
        let full = lab.start_idle(&["--name", "full"]);
        let other = lab.start_idle(&["--name", "other"]);
        full.signal(libc::SIGSTOP);
        full.wait_for_stop();
        // One more than the kernel was told (unix_recvq_full).
        for _ in 0..2 {
            UnixStream::connect("/run/hawser/full.sock").expect("a place in the queue");
        }
        assert_eq!(lab.listed("full")["status"], "unresponsive");
        assert_eq!(lab.listed("other")["status"], "running");
        for words in [
            &["inspect", "full"][..],
            &["exec", "full", "true"],
            &["stop", "full"],
            &["logs", "full"],
            &["restore"],
        ] {
            lab.hawser(words).refused(&["full"]);
        }
        // That of all others may start meanwhile.
        lab.run(&["--name", "full"], &["true"])
            .refused(&["full", "in use"]);
        lab.run(&[], &["true"]).ok();
        full.signal(libc::SIGCONT);
        full.end().exits(0);
        other.end().exits(0);
    });
}

/// Those who are asked side by side take a descriptor each.
#[test]
fn who_has_few_descriptors_is_told_of_all() {
    case(|lab| {
        let names: Vec<String> = (10..40).map(|number| format!("n{number}")).collect();
        for name in &names {
            let options = ["-d", "--network", "none", "--name", name];
            lab.run(&options, &["sleep", "1000"]).ok();
        }
        let ls = lab.command(&["ls", "--json"]);
        let program = ls.get_program().to_string_lossy();
        let listed = sh(&format!("ulimit -n 20; {program} ls --json"));
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let listed: Vec<_> = listed.as_array().expect("rows").iter().collect();
        assert_eq!(listed.len(), names.len(), "{listed:?}");
        for name in &names {
            lab.hawser(&["stop", "--grace", "0", name]).exits(0);
        }
    });
}

#[test]
fn what_has_lost_its_socket_is_said_with_its_process() {
    case(|lab| {
        detach_ready(lab, "web", &[], "");
        let kill = format!("kill -KILL {} ends it", lab.pid_of("web"));
        std::fs::remove_file("/run/hawser/web.sock").expect("its socket");
        let pidfd = sys::pidfd(lab.pid_of("web")).expect("its first process");
        for words in [&["stop", "web"][..], &["exec", "web", "true"]] {
            lab.hawser(words)
                .refused(&["web", "it runs", "/run/hawser/web.sock", &kill]);
        }
        std::fs::remove_dir_all("/run/hawser").expect("all that it has left");
        lab.hawser(&["stop", "web"])
            .refused(&["web", "it runs", &kill]);
        sys::pidfd_signal(&pidfd, libc::SIGKILL).expect("kill it");
    });
}

#[test]
fn one_in_the_foreground_is_stopped_too() {
    case(|lab| {
        let mut running = lab.start(&["--name", "web"], &["cat"]);
        running.say("up\n");
        running.until("up");
        let pipe = running.stdin.take();
        lab.hawser(&["stop", "web"]).exits(0);
        running.end().exits(143);
        drop(pipe);
    });
}

#[test]
fn nobody_is_asked_in_vain() {
    case(|lab| {
        let ask = || {
            for verb in ["stop", "rm", "logs", "wait", "inspect"] {
                lab.hawser(&[verb, "nobody"]).refused(&["nobody"]);
            }
        };
        ask();
        assert!(!std::path::Path::new("/run/hawser").exists());
        let before = lab.with_network();
        ask();
        before.assert_back();
    });
}

#[test]
fn name_and_address_are_free_when_stop_comes_back() {
    case(|lab| {
        let fixed = ["-d", "--name", "web", "--ip", "172.19.0.9"];
        for round in 0..10 {
            let outcome = lab.run(&fixed, &["sleep", "1000"]);
            assert_eq!(outcome.code, 0, "round {round}: {outcome}");
            lab.hawser(&["stop", "web"]).exits(0);
        }
    });
}

#[test]
fn logs_of_the_last_hundred_and_codes_of_more_are_kept() {
    case(|lab| {
        for number in 0..104 {
            lab.run(
                &["-d", "--network", "none", "--name", &format!("n{number}")],
                &["true"],
            )
            .ok();
            assert_eq!(lab.hawser(&["wait", &format!("n{number}")]).ok(), "0");
        }
        let count = |end: &str| {
            sh(&format!("ls /run/hawser | grep -c '{end}$' || true"))
                .trim()
                .parse::<u32>()
                .expect("a number")
        };
        let logs = count("log");
        assert!((100..=101).contains(&logs), "{logs} logs");
        lab.hawser(&["logs", "n0"]).refused(&["n0"]);
        assert_eq!(count("code"), 104);
        assert_eq!(lab.hawser(&["wait", "n0"]).ok(), "0");
        assert_eq!(lab.hawser(&["wait", "n103"]).ok(), "0");
    });
}
