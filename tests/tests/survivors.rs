//! Containers that outlive what they are known by: the first thread of a process, or the process that `attach` was given.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::{Lab, Netns, Running, case, mounts_of, sh};

const HEADLESS: &str = env!("CARGO_BIN_EXE_headless");
const FIXED: &[&str] = &["--ip", "172.19.0.9"];

/// A process in namespaces of its own whose first thread ends when it is told to.
fn headless(kinds: &[&str]) -> Running {
    let mut running = Running::unshared(kinds, &format!("exec {HEADLESS}"));
    running.until("up");
    running
}

/// Its first thread ends.
fn behead(running: &mut Running) {
    running.say("\n");
    running.until("headless");
}

/// A process that goes on when the first one has ended, as `/proc` names it.
fn thread_of(pid: i32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let names = threads.map(|one| one.expect("a thread").file_name().into_string());
    let mut names = names.map(|name| name.expect("a number"));
    let other = names.find(|name| *name != pid.to_string());
    format!("{pid}/task/{}", other.expect("another thread"))
}

/// A process in namespaces of another, which ends with its input.
fn joined(pid: i32, script: &str) -> Running {
    let mut command = Command::new("nsenter");
    command
        .args(["-t", &pid.to_string(), "-n", "-m", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = Running::spawn(command);
    running.until("up");
    running
}

const IDLE: &str = "echo up; exec cat";

fn attach(lab: &Lab, pid: i32, name: &str, options: &[&str]) {
    let pid = pid.to_string();
    lab.hawser(&[&["attach", &pid, "--name", name], options].concat())
        .ok();
}

fn index() -> String {
    sh("ip -o link show hwac130009 | cut -d: -f1")
}

/// The host end of 172.19.0.9 is that of a container which lives, to whoever looks.
#[track_caller]
fn lives(lab: &Lab, name: &str, index_before: &str) {
    lab.listed(name);
    lab.hawser(&["inspect", name]).ok();
    lab.run(FIXED, &["true"]).refused(&["172.19.0.9", name]);
    lab.hawser(&["down"]).refused(&[name]);
    assert_eq!(index(), index_before, "its link was touched");
}

#[test]
fn an_attached_process_without_its_first_thread_keeps_its_network() {
    case(|lab| {
        let before = lab.with_network();
        let mut guest = headless(&["-n", "-m"]);
        let pid = guest.pid();
        let first = mounts_of(pid);
        attach(lab, pid, "web", FIXED);
        let link = index();
        behead(&mut guest);
        let rest = thread_of(pid);
        lives(lab, "web", &link);
        assert_ne!(mounts_of(&rest), first);
        lab.hawser(&["detach", &pid.to_string()]).ok();
        assert_eq!(mounts_of(&rest), first);
        // It is attached as any other is.
        for way in ["web", &pid.to_string()] {
            attach(lab, pid, "web", &["--dns", "192.0.2.53"]);
            let seen = fs::read_to_string(format!("/proc/{rest}/root/etc/resolv.conf"));
            assert_eq!(seen.expect("its file"), "nameserver 192.0.2.53\n");
            let joined = ["--network", "container:web"];
            let out = lab.run(&joined, &["ip", "-o", "link", "show", "eth0"]).ok();
            assert!(out.contains("eth0"), "{out}");
            lab.hawser(&["detach", way]).ok();
            assert_eq!(mounts_of(&rest), first);
        }
        attach(lab, pid, "web", FIXED);
        guest.end().exits(0);
        lab.settle();
        lab.list();
        before.assert_back();
    });
}

#[test]
fn who_stays_for_a_process_without_its_first_thread_stays_until_its_end() {
    case(|lab| {
        let before = lab.with_network();
        let mut guest = headless(&["-n", "-m"]);
        let supervisor = lab.stay(guest.pid(), "web", FIXED);
        let link = index();
        behead(&mut guest);
        lives(lab, "web", &link);
        let shared = ["--network", "container:web"];
        lab.run(&shared, &["ip", "link", "show", "eth0"]).exits(0);
        guest.end().exits(0);
        supervisor.end().exits(0);
        before.assert_back();
    });
}

#[test]
fn a_container_of_run_without_its_first_thread_keeps_its_network() {
    case(|lab| {
        let program = format!("{HEADLESS}:/headless:ro");
        let libraries = ["/lib", "/lib64", "/usr"].map(|path| (Path::new(path), path));
        let binds = libraries.iter().filter(|(path, _)| path.exists());
        let mut binds: Vec<String> = binds.map(|(_, path)| format!("{path}:{path}:ro")).collect();
        binds.push(program);
        let mut options = [&["--name", "web"], FIXED].concat();
        for bind in &binds {
            options.extend(["-v", bind]);
        }
        let mut container = lab.start(&options, &["/headless"]);
        container.until("up");
        let link = index();
        behead(&mut container);
        lives(lab, "web", &link);
        let shared = ["--network", "container:web"];
        lab.run(&shared, &["ip", "link", "show", "eth0"]).exits(0);
        container.end().exits(0);
        lab.run(FIXED, &["true"]).ok();
    });
}

/// Who is answered twice by a supervisor has had it look at all that there was before the first question.
#[track_caller]
fn has_looked(lab: &Lab, name: &str) {
    for _ in 0..2 {
        lab.hawser(&["inspect", name]).ok();
    }
}

/// A container is its network namespace: it ends with the last process there, whichever `attach` was given.
#[test]
fn who_stays_goes_with_the_last_process_of_the_container() {
    case(|lab| {
        let before = lab.with_network();
        let guest = Running::unshared(&["-n", "-m"], "exec cat");
        let named = joined(guest.pid(), IDLE);
        let supervisor = lab.stay(named.pid(), "web", FIXED);
        let (link, mounts) = (index(), mounts_of(guest.pid()));
        named.end().exits(0);
        has_looked(lab, "web");
        lives(lab, "web", &link);
        assert_eq!(mounts_of(guest.pid()), mounts);
        let last = joined(guest.pid(), IDLE);
        guest.end().exits(0);
        has_looked(lab, "web");
        lives(lab, "web", &link);
        assert_eq!(mounts_of(last.pid()), mounts);
        last.end().exits(0);
        supervisor.end().exits(0);
        before.assert_back();
    });
}

/// The same of one that is told to let go.
#[test]
fn who_stays_takes_the_files_back_of_a_container_whose_process_has_ended() {
    case(|lab| {
        lab.with_network();
        let guest = Running::unshared(&["-n", "-m"], "exec cat");
        let first = mounts_of(guest.pid());
        for command in ["stop", "detach"] {
            let named = joined(guest.pid(), IDLE);
            let supervisor = lab.stay(named.pid(), "web", FIXED);
            named.end().exits(0);
            has_looked(lab, "web");
            lab.hawser(&[command, "web"]).ok();
            supervisor.end().exits(0);
            assert_eq!(mounts_of(guest.pid()), first, "{command}");
            assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
        }
        guest.end().exits(0);
    });
}

#[test]
fn files_are_taken_back_where_the_process_has_ended_and_others_go_on() {
    case(|lab| {
        lab.with_network();
        let guest = Running::unshared(&["-n", "-m"], "exec cat");
        let first = mounts_of(guest.pid());
        // Another container of the same network namespace, with an attachment and files of its own; the names of the network are in both.
        let other = joined(guest.pid(), "exec unshare -m sh -c 'echo up; exec cat'");
        attach(lab, other.pid(), "other", &["--iface", "eth1"]);
        let others = mounts_of(other.pid());
        let named = joined(guest.pid(), IDLE);
        attach(lab, named.pid(), "web", FIXED);
        assert_ne!(mounts_of(guest.pid()), first);
        named.end().exits(0);
        lab.hawser(&["detach", "web"]).ok();
        assert_eq!(mounts_of(guest.pid()), first);
        assert_eq!(mounts_of(other.pid()), others);
        lab.hawser(&["detach", "other"]).ok();
        other.end().exits(0);
        guest.end().exits(0);
    });
}

/// One that sees other files than the rest do is no reason to leave theirs as they are.
#[test]
fn files_are_taken_back_where_the_first_that_is_left_is_in_a_jail() {
    case(|lab| {
        lab.with_network();
        let script = "mkdir -p /run/jail && cp $(command -v busybox) /run/jail/sh && echo up; exec chroot /run/jail /sh -c 'read x'";
        let mut jailed = Running::unshared(&["-n", "-m"], script);
        jailed.until("up");
        let rest = joined(jailed.pid(), IDLE);
        let first = mounts_of(rest.pid());
        let named = joined(jailed.pid(), IDLE);
        attach(lab, named.pid(), "web", FIXED);
        assert_ne!(mounts_of(rest.pid()), first);
        named.end().exits(0);
        lab.hawser(&["detach", "web"]).ok();
        assert_eq!(mounts_of(rest.pid()), first);
        rest.end().exits(0);
        jailed.end().exits(1);
    });
}
