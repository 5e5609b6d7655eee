//! Who owns an address: the alias tells, and a link goes only when its owner is surely dead.

use std::os::unix::fs::MetadataExt as _;

use lab::{Lab, Netns, case, sh};

const FIXED: &[&str] = &["--ip", "172.19.0.9", "--name", "web"];

fn inode(path: &str) -> u64 {
    std::fs::metadata(path).expect("look at a namespace").ino()
}

/// The link of 172.19.0.9 with no owner yet: its other end is in a namespace without any process.
fn leftover(lab: &Lab) -> Netns {
    let box_ = Netns::new("box");
    lab.hawser(&["up"]).exits(0);
    sh(
        "ip link add hwac130009 type veth peer name eth0 netns box; ip link set hwac130009 master hawser0 up",
    );
    box_
}

fn index() -> String {
    sh("ip -o link show hwac130009 | cut -d: -f1")
}

#[test]
fn a_dead_owners_link_is_taken_back() {
    case(|lab| {
        let _netns = leftover(lab);
        let (pidns, inside) = (inode("/proc/self/ns/pid"), inode("/run/netns/box"));
        // No process has this number, whatever its start time.
        sh(&format!(
            "ip link set hwac130009 alias 'hawser 1 run old 4194303 77 {pidns} {inside}'"
        ));
        lab.run(FIXED, &["true"]).ok();
    });
}

#[test]
fn a_process_number_that_is_used_again_is_not_the_owner() {
    case(|lab| {
        let _netns = leftover(lab);
        let (pidns, inside, me) = (
            inode("/proc/self/ns/pid"),
            inode("/run/netns/box"),
            std::process::id(),
        );
        sh(&format!(
            "ip link set hwac130009 alias 'hawser 1 run old {me} 1 {pidns} {inside}'"
        ));
        lab.run(FIXED, &["true"]).ok();
    });
}

#[test]
fn an_owner_in_another_process_namespace_is_alive() {
    case(|lab| {
        let _netns = leftover(lab);
        let inside = inode("/run/netns/box");
        sh(&format!(
            "ip link set hwac130009 alias 'hawser 1 run old 4194303 77 4026531999 {inside}'"
        ));
        let before = index();
        lab.run(FIXED, &["true"]).refused(&["172.19.0.9", "old"]);
        assert_eq!(index(), before, "never touched");
    });
}

#[test]
fn a_dead_owner_with_somebody_else_in_its_network_is_alive() {
    case(|lab| {
        let netns = leftover(lab);
        let (pidns, inside) = (inode("/proc/self/ns/pid"), inode("/run/netns/box"));
        let mut guest = netns.command("/bin/busybox");
        guest
            .args(["sh", "-c", "echo up; read x"])
            .stdin(std::process::Stdio::piped());
        guest
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut guest = lab::Running::spawn(guest);
        guest.until("up");
        sh(&format!(
            "ip link set hwac130009 alias 'hawser 1 run old 4194303 77 {pidns} {inside}'"
        ));
        let before = index();
        lab.run(FIXED, &["true"]).refused(&["172.19.0.9"]);
        assert_eq!(index(), before, "never touched");
    });
}

#[test]
fn links_without_an_alias_of_ours_are_alive() {
    case(|lab| {
        let _netns = leftover(lab);
        let before = index();
        for alias in [
            "",
            "of somebody else",
            "hawser 2 run old 4194303 77 1 1",
            "hawser 1 run",
            "hawser 1 cni old",
        ] {
            sh(&format!("ip link set hwac130009 alias '{alias}'"));
            lab.run(FIXED, &["true"]).refused(&["172.19.0.9"]);
            assert_eq!(index(), before, "never touched: {alias:?}");
        }
    });
}

#[test]
fn a_left_over_socket_is_a_free_name() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        // Bound and closed: nobody answers, as after a crash.
        drop(
            std::os::unix::net::UnixListener::bind("/run/hawser/web.sock")
                .expect("leave a socket behind"),
        );
        lab.run(FIXED, &["true"]).ok();
        assert!(
            !std::path::Path::new("/run/hawser/web.sock").exists(),
            "and it is gone now"
        );
        lab.hawser(&["inspect", "web"]).refused(&["web"]);
    });
}
