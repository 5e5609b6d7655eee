//! `attach` gives containers of the real dockerd and the real podman their network, which these were told to make without
//! one.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

use lab::{Lab, Netns, Running, Runtime, Snapshot, case};

/// An image without resolv.conf and hosts, and one with empty ones, as images for read-only roots must be.
fn import(lab: &Lab, runtime: &Runtime) {
    let empty = lab.dir.join("empty");
    std::fs::write(&empty, "").expect("write a file");
    let files: [(&str, &Path); 2] = [("etc/resolv.conf", &empty), ("etc/hosts", &empty)];
    for (image, files) in [("box", &[][..]), ("full", &files)] {
        let archive = lab.archive(image, files).to_string_lossy().into_owned();
        runtime.call(&["import", &archive, image]).exits(0);
    }
}

/// A container that has said "up" and sleeps, and its first process.
fn start(runtime: &Runtime, options: &[&str]) -> (Running, i32) {
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done";
    let words = ["--rm", "--name", "web", "--network", "none"];
    let words = [&words[..], options, &["sh", "-c", script]].concat();
    let mut command = runtime.command(&[&["run"], &words[..]].concat());
    command.stdin(Stdio::null());
    let mut running = Running::spawn(command);
    running.until("up");
    let pid = runtime
        .call(&["inspect", "--format", "{{.State.Pid}}", "web"])
        .ok();
    (running, pid.parse().expect("a process id"))
}

fn greeting(address: &str) -> String {
    let mut text = String::new();
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.read_to_string(&mut text).expect("read");
    text
}

/// All that a network is for, and all of it taken away again.
fn has_a_network(lab: &Lab, runtime: &Runtime, options: &[&str]) {
    let (running, pid) = start(runtime, options);
    let exec = |words: &[&str]| runtime.call(&[&["exec", "web"], words].concat()).ok();
    let files = "cat /etc/resolv.conf /etc/hosts 2>&1";
    let look = || runtime.call(&["exec", "web", "sh", "-c", files]).out();
    let first = look();
    let before = Snapshot::take();
    let words = ["attach", &pid.to_string(), "--name", "web", "-p", "8080:80"];
    let words = [&words[..], &["--dns", "198.51.100.53"]].concat();
    assert_eq!(lab.hawser(&words).ok(), "web");
    let link = exec(&["ip", "-o", "-4", "addr", "show", "dev", "eth0"]);
    assert!(link.contains("172.19."), "{link}");
    assert_eq!(
        exec(&["cat", "/etc/resolv.conf"]),
        "nameserver 198.51.100.53"
    );
    // It has no IPv6 address, which nslookup calls a failure.
    let found = runtime.call(&["exec", "web", "nslookup", "web.example.test"]);
    assert!(found.out().contains("198.51.100.10"), "{found}");
    let page = exec(&["wget", "-q", "-O", "-", "http://web.example.test/"]);
    assert_eq!(page, "hello from the internet");
    assert!(exec(&["cat", "/etc/hosts"]).contains(" web"));
    let listener = Netns::of(pid).enter(|| TcpListener::bind(("::", 80)).expect("listen"));
    let server = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let _ = stream.expect("a connection").write_all(b"hello");
        }
    });
    assert_eq!(greeting("192.0.2.2:8080"), "hello");
    assert_eq!(lab.internet.enter(|| greeting("192.0.2.2:8080")), "hello");
    server.join().expect("both were greeted");
    lab.hawser(&["detach", "web"]).ok();
    let links = exec(&["ip", "-o", "link"]);
    assert!(!links.contains("eth0"), "{links}");
    assert_eq!(look(), first);
    let mut changes = before.changes();
    // The runtime's own.
    changes.retain(|change| !change.contains("/run/lab/"));
    assert!(changes.is_empty(), "{changes:?}");
    // The end of the container is the end of whoever stays for it.
    let pid = pid.to_string();
    let words = [
        "attach",
        &pid,
        "--stay",
        "--name",
        "web",
        "-p",
        "127.0.0.1:8080:80",
    ];
    let mut stays = Running::spawn(lab.command(&words));
    stays.until("web");
    runtime.call(&["stop", "web"]).exits(0);
    running.end();
    stays.end().exits(0);
    assert!(lab.list().is_empty());
    lab.settle();
}

#[test]
fn docker_containers_without_a_network_get_one() {
    case(|lab| {
        let Some(docker) = lab.docker(None) else {
            return;
        };
        lab.serve();
        lab.with_network();
        import(lab, &docker);
        has_a_network(lab, &docker, &["box"]);
        has_a_network(lab, &docker, &["--read-only", "full"]);
        docker.end();
    });
}

#[test]
fn podman_containers_without_a_network_get_one() {
    case(|lab| {
        let Some(podman) = lab.podman() else {
            return;
        };
        lab.serve();
        lab.with_network();
        import(lab, &podman);
        has_a_network(lab, &podman, &["box"]);
        has_a_network(lab, &podman, &["--read-only", "full"]);
        assert!(Path::new("/run/hawser").exists());
    });
}
