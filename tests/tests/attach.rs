//! `attach` and `detach`: containers that other tools made, here by `unshare` and `ip netns`. (By dockerd and podman: see
//! `attach_runtimes.rs`.)

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use lab::{
    DEADLINE, Lab, Netns, Running, Seen, Snapshot, case, child, children, collect, init_binary,
    mounts_of, packets, sh, sys, turns, wait_for_end, wait_untold,
};

/// A process in namespaces of its own (`-n`, `-m`...), which ends with its input.
fn guest(kinds: &[&str]) -> Running {
    Running::unshared(kinds, "exec cat")
}

fn attach(lab: &Lab, pid: i32, options: &[&str]) -> lab::Outcome {
    lab.hawser(&[&["attach", &pid.to_string()], options].concat())
}

fn detach(lab: &Lab, whom: &str) {
    lab.hawser(&["detach", whom]).ok();
}

/// A server there that greets so many, and then is gone: it would keep the namespace.
fn serve(inside: &Netns, port: u16, count: usize) -> JoinHandle<()> {
    let listener = inside.enter(|| TcpListener::bind(("::", port)).expect("listen"));
    std::thread::spawn(move || {
        for stream in listener.incoming().take(count) {
            let mut stream = stream.expect("a connection");
            stream.write_all(b"hello\n").expect("greet");
        }
    })
}

fn greeting(address: &str) -> std::io::Result<String> {
    let address = address.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn fetch(from: &str) -> String {
    let mut stream = TcpStream::connect(from).expect("connect");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("ask");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("read a page");
    page
}

fn inside(pid: i32, path: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/root{path}")).expect("a file of the container")
}

#[test]
fn a_process_gets_addresses_ports_and_a_way_out() {
    packets(|lab| {
        lab.serve();
        let before = lab.with_network();
        let guest = guest(&["-n"]);
        let options = ["--name", "web", "-p", "8080:80"];
        assert_eq!(attach(lab, guest.pid(), &options).ok(), "web");
        let netns = Netns::of(guest.pid());
        let links = netns.sh("ip -o addr show dev eth0; ip route; ip link show lo");
        for wanted in [
            "172.19.",
            "/16",
            "default via 172.19.0.1",
            "inet6 f",
            "LOOPBACK,UP",
        ] {
            assert!(links.contains(wanted), "{wanted}: {links}");
        }
        let page = netns.enter(|| fetch("198.51.100.10:80"));
        assert!(page.contains("hello from the internet"), "{page}");
        let row = lab.listed("web");
        assert_eq!(
            (&row["status"], &row["pid"]),
            (&"attached".into(), &guest.pid().into())
        );
        assert_eq!(row["ports"].as_array().map(Vec::len), Some(1), "{row}");
        let link = row["veth"].as_str().expect("a veth").to_owned();
        let all = lab.hawser(&["inspect", "web"]).ok();
        assert!(all.contains(&link) && all.contains("172.19.0.1"), "{all}");
        assert!(
            sh("ip link show dev web").contains(&link),
            "its name is one of the link's"
        );
        let server = serve(&netns, 80, 5);
        for from in ["192.0.2.2:8080", "[2001:db8:1::2]:8080"] {
            assert_eq!(greeting(from).expect("connect"), "hello\n", "{from}");
            let from = from.to_owned();
            lab.internet
                .enter(|| assert_eq!(greeting(&from).expect("connect"), "hello\n"));
        }
        // A neighbour finds it by name, and reaches it.
        lab.run_sh(&[], "nc -w 2 web 80 </dev/null | grep hello")
            .ok();
        server.join().expect("five were greeted");
        detach(lab, "web");
        assert_eq!(
            netns.sh("ip -o link show dev eth0 2>/dev/null || echo none"),
            "none\n"
        );
        detach(lab, "web");
        detach(lab, &guest.pid().to_string());
        lab.settle();
        drop((guest, netns));
        before.assert_back();
    });
}

#[test]
fn its_end_takes_the_network_back_too() {
    case(|lab| {
        for network in ["bridge", "ptp"] {
            let attached = || {
                let guest = guest(&["-n"]);
                let options = ["-p", "8080:80", "--network", network];
                attach(lab, guest.pid(), &options).exits(0);
                guest
            };
            detach(lab, &attached().pid().to_string());
            lab.settle();
            let before = Snapshot::take();
            let guest = attached();
            let pid = guest.pid();
            guest.end().exits(0);
            lab.settle();
            // What is about it goes with the next command that has the time.
            lab.hawser(&["ls"]).ok();
            detach(lab, &pid.to_string());
            before.assert_back();
        }
    });
}

#[test]
fn files_of_its_own_mounts_are_ours_and_the_hosts_are_not_touched() {
    case(|lab| {
        let neighbour = lab.start_idle(&["--name", "neighbour"]);
        let before = Snapshot::take();
        let guest = guest(&["-n", "-m"]);
        let files = ["/etc/resolv.conf", "/etc/hosts"].map(|path| (path, fs::read(path).ok()));
        let mounts = || mounts_of(guest.pid());
        let first = mounts();
        let options = [
            "--name",
            "web",
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "example.org",
        ];
        attach(lab, guest.pid(), &options).ok();
        let seen = inside(guest.pid(), "/etc/resolv.conf");
        assert_eq!(seen, "nameserver 192.0.2.53\nsearch example.org\n");
        let names = inside(guest.pid(), "/etc/hosts");
        assert!(
            names.contains(" neighbour") && names.contains(" web"),
            "{names}"
        );
        for (path, text) in &files {
            assert_eq!(&fs::read(path).ok(), text, "the host's {path}");
        }
        detach(lab, "web");
        let resolv = inside(guest.pid(), "/etc/resolv.conf");
        assert_eq!(
            Some(resolv.into_bytes()),
            files[0].1,
            "it sees the old one again"
        );
        assert_eq!(mounts(), first);
        guest.end().exits(0);
        before.assert_back();
        neighbour.end().exits(0);
    });
}

#[test]
fn a_container_without_a_resolver_is_told() {
    case(|lab| {
        for host in [
            "nameserver 127.0.0.1\n",
            "search corp.test\noptions ndots:2\n",
        ] {
            lab.set_resolv_conf(host);
            let outcome = attach(lab, guest(&["-n", "-m"]).pid(), &[]).exits(0);
            assert!(
                outcome.err().contains("no resolver for the container"),
                "{host:?}: {outcome}"
            );
        }
    });
}

#[test]
fn files_are_new_after_the_host_has_lost_what_they_were() {
    case(|lab| {
        lab.with_network();
        let guest = guest(&["-n", "-m"]);
        for (name, dns) in [("web", "192.0.2.53"), ("other", "192.0.2.54")] {
            let options = ["--name", name, "--dns", dns];
            attach(lab, guest.pid(), &options).ok();
            let names = inside(guest.pid(), "/etc/hosts");
            assert!(names.contains(&format!(" {name} ")), "{names}");
            let seen = inside(guest.pid(), "/etc/resolv.conf");
            assert_eq!(seen, format!("nameserver {dns}\n"));
            sh("rm -r /run/hawser");
            detach(lab, name);
        }
        // Whoever else has deleted a file there has it left there, and is told so.
        sh("mkdir /run/others; echo 127.0.0.9 others >/run/others/hosts");
        let mut their = Running::unshared(
            &["-n", "-m"],
            "mount --bind /run/others/hosts /etc/hosts; echo bound; exec cat",
        );
        their.until("bound");
        sh("rm -r /run/others");
        attach(lab, their.pid(), &[]).refused(&["/etc/hosts"]);
        assert_eq!(inside(their.pid(), "/etc/hosts"), "127.0.0.9 others\n");
    });
}

/// Whoever may delete a link in the container, or on the host, does not leave it with files that nobody takes away.
#[test]
fn files_go_with_a_link_that_somebody_has_deleted() {
    case(|lab| {
        lab.with_network();
        let guest = guest(&["-n", "-m"]);
        let first = mounts_of(guest.pid());
        for _ in 0..2 {
            let options = ["--name", "web", "--ip", "172.19.0.9"];
            attach(lab, guest.pid(), &options).ok();
            sh("ip link del hwac130009");
            detach(lab, "web");
            lab.list();
            assert_eq!(mounts_of(guest.pid()), first);
        }
        for command in ["stop", "detach"] {
            let supervisor = lab.stay(guest.pid(), "web", &["--ip", "172.19.0.9"]);
            sh("ip link del hwac130009");
            lab.hawser(&[command, "web"]).ok();
            supervisor.end();
            assert_eq!(mounts_of(guest.pid()), first, "{command}");
        }
        // Another has its address by the time that anybody looks.
        attach(lab, guest.pid(), &["--name", "web", "--ip", "172.19.0.9"]).ok();
        sh("ip link del hwac130009");
        let next = lab.start_idle(&["--name", "next", "--ip", "172.19.0.9"]);
        lab.list();
        assert_eq!(mounts_of(guest.pid()), first);
        next.end().exits(0);
        guest.end().exits(0);
    });
}

#[test]
fn who_has_lost_its_link_and_who_has_the_address_next_are_told_apart() {
    case(|lab| {
        lab.with_network();
        let (old, new) = (guest(&["-n", "-m"]), guest(&["-n", "-m"]));
        let first = mounts_of(old.pid());
        let supervisor = lab.stay(old.pid(), "old", &["--ip", "172.19.0.9"]);
        sh("ip link del hwac130009");
        let options = ["-p", "8081:80", "--export", "--egress", "192.0.2.0/24"];
        let named = ["--name", "new", "--ip", "172.19.0.9"];
        attach(lab, new.pid(), &[&named[..], &options[..]].concat()).ok();
        assert_eq!(mounts_of(old.pid()), first, "it has lost its network");
        let has = || {
            let kept = std::fs::read("/run/hawser/attachments/hwac130009").ok();
            let shown = sh("ls /run/netns; ip neigh show nud permanent");
            (kept, shown, mounts_of(new.pid()))
        };
        let before = has();
        // One of a loopback address is the supervisor's alone, and needs no rules.
        lab.hawser(&["port", "add", "old", "127.0.0.1:9000:80"])
            .ok();
        assert_eq!(has(), before, "a port of the old one");
        old.end().exits(0);
        supervisor.end();
        assert_eq!(has(), before, "the end of the old one");
        sh("nft flush ruleset");
        lab.hawser(&["restore"]).ok();
        sh("nft get element inet hawser ports4 { tcp . 8081 }");
        detach(lab, "new");
    });
}

/// The name of a link is its address: both are the next one's before all is taken back of who had them.
#[test]
fn whoever_has_the_address_next_keeps_what_is_its_own() {
    case(|lab| {
        lab.with_network();
        let (old, new) = (guest(&["-n", "-m"]), guest(&["-n", "-m"]));
        for stays in [false, false, false, true, true, true] {
            let options = ["--ip", "172.19.0.9", "-p", "8080:80"];
            let supervisor = stays.then(|| lab.stay(old.pid(), "old", &options));
            if !stays {
                let options = [&["--name", "old"], &options[..]].concat();
                attach(lab, old.pid(), &options).ok();
            }
            let leaving = Running::spawn(lab.command(&["detach", "old"]));
            let options = ["--name", "new", "--ip", "172.19.0.9", "-p", "8081:80"];
            let since = Instant::now();
            while attach(lab, new.pid(), &options).code != 0 {
                assert!(since.elapsed() < DEADLINE, "the address is never free");
            }
            leaving.end().ok();
            if let Some(supervisor) = supervisor {
                supervisor.end().exits(0);
            }
            let row = lab.listed("new");
            assert_eq!(row["ports"].as_array().map(Vec::len), Some(1), "{row}");
            sh("nft get element inet hawser ports4 { tcp . 8081 }");
            sh("ip neigh show 172.19.0.9 nud permanent | grep -q .");
            detach(lab, "new");
        }
    });
}

#[test]
fn mounts_that_are_shared_with_the_host_are_not_mounted_on() {
    case(|lab| {
        sh("mount --make-rshared /");
        let guest = guest(&["-n", "-m", "--propagation", "unchanged"]);
        let before = lab.with_network();
        attach(lab, guest.pid(), &[]).refused(&["/etc/resolv.conf", "shared", "--resolv=off"]);
        before.assert_back();
        attach(lab, guest.pid(), &["--resolv=off", "--name", "web"]).ok();
        detach(lab, "web");
        guest.end().exits(0);
        before.assert_back();
    });
}

#[test]
fn what_was_bound_before_a_failure_is_taken_back() {
    case(|lab| {
        let script = "mount --bind /etc/hosts /etc/hosts; mount --make-shared /etc/hosts; echo shared; exec cat";
        let mut guest = Running::unshared(&["-n", "-m"], script);
        guest.until("shared");
        let before = lab.with_network();
        let mounts = || mounts_of(guest.pid());
        let first = mounts();
        attach(lab, guest.pid(), &["-p", "8080:80"]).refused(&["/etc/hosts", "shared"]);
        assert_eq!(mounts(), first);
        before.assert_back();
    });
}

#[test]
fn files_that_were_missing_are_missing_again() {
    case(|lab| {
        let root = lab.rootfs.display();
        let script = format!("exec chroot {root} sh -c 'echo there; exec cat'");
        let mut guest = Running::unshared(&["-n", "-m"], &script);
        guest.until("there");
        attach(lab, guest.pid(), &["--name", "web"]).ok();
        let names = inside(guest.pid(), "/etc/hosts");
        assert!(
            names.contains(" web"),
            "it is the root of the process that counts: {names}"
        );
        detach(lab, "web");
        for name in ["resolv.conf", "hosts"] {
            assert!(!lab.rootfs.join("etc").join(name).exists(), "{name}");
        }
        fs::write(lab.rootfs.join("etc/resolv.conf"), "").expect("write a file");
        attach(lab, guest.pid(), &["--name", "web"]).ok();
        detach(lab, "web");
        assert!(
            lab.rootfs.join("etc/resolv.conf").exists(),
            "this one was there"
        );
        guest.end().exits(0);
    });
}

#[test]
fn what_is_missing_in_a_root_of_the_hosts_is_not_made() {
    case(|lab| {
        let script = "mount -t tmpfs none /etc; echo there; exec cat";
        let mut guest = Running::unshared(&["-n", "-m"], script);
        guest.until("there");
        let before = lab.with_network();
        attach(lab, guest.pid(), &[]).refused(&["/etc/resolv.conf", "empty file", "--resolv=off"]);
        before.assert_back();
        attach(lab, guest.pid(), &["--name", "web", "--resolv=off"]).ok();
        detach(lab, "web");
        before.assert_back();
    });
}

/// Root of the host may make files in all places that such a container sees, and its users may not.
#[test]
fn what_is_missing_among_other_users_is_not_made() {
    case(|lab| {
        let roots = lab.dir.join("roots");
        fs::create_dir(&roots).expect("make a directory");
        let top = lab.dir.join("top");
        fs::create_dir(&top).expect("make a directory");
        let script = format!(
            "cd {}; mount -t tmpfs none .; cd $PWD; mkdir etc host; mount --rbind / host; : >etc/hosts; ln -s /host{}/a/b etc/resolv.conf;
            exec chroot . /host/bin/busybox sh -c 'echo there; read x; /host/bin/busybox rm /etc/resolv.conf; : >/etc/resolv.conf; echo made; exec /host/bin/busybox cat'",
            top.display(),
            roots.display()
        );
        let mut guest = Running::unshared(&["-r", "-n", "-m"], &script);
        guest.until("there");
        let before = lab.with_network();
        attach(lab, guest.pid(), &[]).refused(&["/etc/resolv.conf", "empty file", "--resolv=off"]);
        before.assert_back();
        let made = fs::read_dir(&roots).expect("read a directory").count();
        assert_eq!(made, 0);
        guest.say("x\n");
        guest.until("made");
        let options = ["--name", "web", "--dns", "192.0.2.53"];
        attach(lab, guest.pid(), &options).ok();
        let seen = inside(guest.pid(), "/etc/resolv.conf");
        assert_eq!(seen, "nameserver 192.0.2.53\n");
        detach(lab, "web");
        assert_eq!(inside(guest.pid(), "/etc/resolv.conf"), "");
        guest.end().exits(0);
        before.assert_back();
    });
}

#[test]
fn a_network_whose_ipv6_is_off_gets_ipv4_alone() {
    case(|lab| {
        let guest = guest(&["-n"]);
        let netns = Netns::of(guest.pid());
        netns.sh("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
        let before = Snapshot::take();
        attach(lab, guest.pid(), &["--ip6", "fd00::9"]).refused(&["fd00::9", "disable_ipv6"]);
        before.assert_back();
        attach(lab, guest.pid(), &["--name", "web"]).ok();
        let out = netns.sh("ip -o addr show dev eth0");
        assert!(out.contains("172.19.") && !out.contains("inet6"), "{out}");
        detach(lab, "web");
        // And where it was not wanted, there is not even a link-local address.
        netns.sh("echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
        attach(lab, guest.pid(), &["--name", "web", "--no-ipv6"]).ok();
        let out = netns.sh("ip -o addr show dev eth0");
        assert!(out.contains("172.19.") && !out.contains("inet6"), "{out}");
        detach(lab, "web");
        // Nor in a network that has none.
        let red = ["--bridge", "red"];
        lab.hawser(&[&["up", "--no-ipv6", "--subnet", "172.28.0.0/24"][..], &red].concat())
            .ok();
        attach(lab, guest.pid(), &[&["--name", "web"][..], &red].concat()).ok();
        let out = netns.sh("ip -o addr show dev eth0");
        assert!(out.contains("172.28.") && !out.contains("inet6"), "{out}");
    });
}

/// What is kept of attachments is in a directory that goes with the last of them: another may be at that moment.
#[test]
fn a_directory_that_others_remove_is_made_again() {
    case(|lab| {
        lab.with_network();
        let guest = guest(&["-n"]);
        let before = Snapshot::take();
        let is_over = AtomicBool::new(false);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = fs::remove_dir("/run/hawser/attachments");
                    // Else nobody could ever put anything there.
                    (0..1000).for_each(|_| std::hint::spin_loop());
                }
            });
            let both = |_| {
                let attached = attach(lab, guest.pid(), &["--name", "web"]);
                [attached, lab.hawser(&["detach", "web"])]
            };
            let outcomes = (0..20).map(both).collect();
            is_over.store(true, Ordering::Relaxed);
            outcomes
        });
        for [attached, detached] in outcomes {
            attached.ok();
            detached.ok();
        }
        before.assert_back();
    });
}

#[test]
fn a_namespace_without_a_process() {
    case(|lab| {
        for path in ["/run", "/etc/passwd"] {
            lab.hawser(&["attach", "--netns", path]).refused(&[
                path,
                "it is no namespace",
                "/run/netns",
            ]);
        }
        sh("ip netns add blue");
        let before = lab.with_network();
        let path = "/run/netns/blue";
        for option in [["--dns", "192.0.2.53"], ["--add-host", "db:192.0.2.7"]] {
            lab.hawser(&[&["attach", "--netns", path][..], &option].concat())
                .refused(&[option[0], "no mount namespace", "leave it out"]);
        }
        let options = [
            "attach",
            "--netns",
            path,
            "--name",
            "web",
            "--ip",
            "172.19.0.9",
        ];
        assert_eq!(lab.hawser(&options).ok(), "web");
        let out = sh("ip netns exec blue ip -o -4 addr show dev eth0");
        assert!(out.contains("172.19.0.9/16"), "{out}");
        let row = lab.listed("web");
        assert_eq!(
            (&row["status"], &row["pid"]),
            (&"attached".into(), &serde_json::Value::Null)
        );
        // Nobody but detach can say that it is over.
        lab.run(&["--ip", "172.19.0.9"], &["true"])
            .refused(&["172.19.0.9", "web", "detach"]);
        lab.run(&["--name", "web"], &["true"])
            .refused(&["name web"]);
        lab.hawser(&["down"]).refused(&["web"]);
        for _ in 0..2 {
            lab.hawser(&["detach", "--netns", path]).ok();
        }
        assert_eq!(sh("ip -n blue -o link | wc -l"), "1\n");
        before.assert_back();
        sh("ip netns del blue");
        lab.hawser(&["detach", "--netns", path]).ok();
    });
}

/// No process tells that it is over, but its link goes with it.
#[test]
fn who_stays_for_a_namespace_leaves_with_it() {
    case(|lab| {
        // The first one makes /run/netns a mount.
        sh("ip netns add other");
        let before = lab.with_network();
        let begin = || {
            sh("ip netns add blue");
            let mut command = vec!["attach", "--stay", "--netns", "/run/netns/blue"];
            command.extend(["--name", "blue", "-p", "8080:80"]);
            let mut running = Running::spawn(lab.command(&command));
            running.until("blue");
            running
        };
        let running = begin();
        // Links of others come and go.
        lab.run(&[], &["true"]).ok();
        assert_eq!(lab.listed("blue")["status"], "attached");
        sh("ip netns del blue");
        running.end().exits(0);
        // Somebody has deleted the link.
        let running = begin();
        sh("ip -n blue link del eth0");
        running.end().exits(0);
        sh("ip netns del blue");
        // Or has moved it away.
        let running = begin();
        let link = lab.listed("blue")["veth"].clone();
        let link = link.as_str().expect("a veth");
        sh(&format!("ip link set {link} netns other"));
        running.end().exits(0);
        assert!(lab.list().is_empty());
        sh("ip netns del blue");
        lab.settle();
        before.assert_back();
    });
}

#[test]
fn links_of_others_do_not_wake_who_stays_for_a_namespace() {
    case(|lab| {
        sh("ip netns add blue");
        let command = ["attach", "--stay", "--netns", "/run/netns/blue"];
        let command = [&command[..], &["--name", "blue"]].concat();
        let mut running = Running::spawn(lab.command(&command));
        running.until("blue");
        let status = format!("/proc/{}/status", running.pid());
        let status = || fs::read_to_string(&status).expect("its status");
        // NETLINK_NETFILTER, with a group.
        let listens = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[1] == "12" && words[3] != "00000000"
        };
        wait_untold("it listens to the firewall", || {
            let sockets = fs::read_to_string("/proc/net/netlink").expect("the sockets");
            sockets.lines().skip(1).any(listens)
        });
        lab.hawser(&["inspect", "blue"]).ok();
        wait_untold("it sleeps", || status().contains("State:\tS"));
        let before = turns(running.pid());
        for network in ["bridge", "ptp"] {
            for _ in 0..5 {
                lab.run(&["--network", network], &["true"]).ok();
            }
        }
        sh("ip link add other type veth peer name far; ip link del other");
        assert_eq!(turns(running.pid()), before);
        sh("ip -n blue link del eth0");
        running.end().exits(0);
    });
}

#[test]
fn what_is_not_known_of_a_container_is_not_told() {
    case(|lab| {
        sh("ip netns add blue");
        let guest = guest(&["-n"]);
        attach(lab, guest.pid(), &["--name", "left"]).ok();
        let staying = [
            ("process", guest.pid().to_string()),
            ("blue", String::new()),
        ];
        let staying = staying.map(|(name, pid)| {
            let whom = match name {
                "blue" => vec!["--netns", "/run/netns/blue"],
                _ => vec![&*pid, "--iface", "eth1"],
            };
            let words = [&["attach", "--stay", "--name", name][..], &whom].concat();
            let mut running = Running::spawn(lab.command(&words));
            running.until(name);
            running
        });
        let supervisors = staying.each_ref().map(|it| Some(it.pid()));
        let of_process = (Some(guest.pid()), format!("/proc/{}/ns/net", guest.pid()));
        let of_blue = (None, "/run/netns/blue".to_owned());
        for (name, (pid, netns), supervisor) in [
            ("left", &of_process, None),
            ("process", &of_process, supervisors[0]),
            ("blue", &of_blue, supervisors[1]),
        ] {
            let all = lab.hawser(&["inspect", name]).ok();
            let all: serde_json::Value = serde_json::from_str(&all).expect("an object");
            assert_eq!(all["pid"], serde_json::json!(pid), "{all}");
            assert_eq!(all["supervisor"], serde_json::json!(supervisor), "{all}");
            for unknown in ["command", "environment", "privileges", "hostname"] {
                assert!(all[unknown].is_null(), "{unknown}: {all}");
            }
            let row = lab.listed(name);
            let inode = fs::metadata(netns).expect("a namespace").ino();
            assert_eq!(row["pid"], serde_json::json!(pid), "{row}");
            assert_eq!(row["netns"], serde_json::json!(inode), "{row}");
            lab.hawser(&["rm", name])
                .refused(&[name, "attached", "detach"]);
        }
        // Nobody knows what a command may do there.
        lab.hawser(&["exec", "process", "true"])
            .refused(&["process", "another tool", "nsenter"]);
        lab.hawser(&["exec", "blue", "true"]).refused(&[
            "blue",
            "without a process",
            "ip netns exec",
        ]);
        for (name, link) in [("process", "eth1"), ("blue", "eth0")] {
            let options = ["--network", &format!("container:{name}")];
            let out = lab.run(&options, &["ip", "-o", "-4", "addr"]).ok();
            assert!(out.contains(link) && out.contains("172.19."), "{out}");
        }
        let taken = lab.run(&["--name", "blue"], &["true"]);
        assert!(!taken.err().contains("pid"), "{taken}");
        taken.refused(&["name blue"]);
    });
}

#[test]
fn containers_join_the_network_of_an_attachment() {
    case(|lab| {
        sh("ip netns add blue");
        let guest = guest(&["-n"]);
        attach(lab, guest.pid(), &["--name", "web", "--ip", "172.19.0.9"]).ok();
        let lonely = ["attach", "--netns", "/run/netns/blue", "--name", "lonely"];
        lab.hawser(&[&lonely[..], &["--ip", "172.19.0.10"]].concat())
            .ok();
        for (name, address) in [("web", "172.19.0.9"), ("lonely", "172.19.0.10")] {
            let network = format!("container:{name}");
            let out = lab
                .run(&["--network", &network], &["ip", "-o", "-4", "addr"])
                .ok();
            assert!(out.contains(&format!("{address}/16")), "{out}");
        }
        // Nothing leads there any more, but the namespace lives: a descriptor holds it.
        let blue = Netns::at("/run/netns/blue");
        sh("ip netns del blue");
        lab.run(&["--network", "container:lonely"], &["true"])
            .refused(&["lonely", "ns:PATH"]);
        drop(blue);
        lab.run(&["--network", "container:nobody"], &["true"])
            .refused(&["nobody", "none of that name runs"]);
        // An altname that somebody else has given is no container.
        sh("ip link property add dev uplink altname impostor");
        lab.run(&["--network", "container:impostor"], &["true"])
            .refused(&["impostor", "none of that name runs"]);
    });
}

#[test]
fn down_by_force_detaches() {
    case(|lab| {
        let guest = guest(&["-n"]);
        attach(lab, guest.pid(), &["--name", "web"]).ok();
        lab.hawser(&["down", "--force"]).ok();
        assert!(!Path::new("/run/hawser").exists());
        assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
        // The container was not ended.
        guest.end().exits(0);
    });
}

#[test]
fn a_name_for_ip_netns() {
    case(|lab| {
        // It makes a mount of the directory.
        sh("ip netns add blue");
        let before = lab.with_network();
        let guest_ = guest(&["-n"]);
        attach(lab, guest_.pid(), &["--name", "web", "--export"]).ok();
        let out = sh("ip netns exec web ip -o -4 addr show dev eth0");
        assert!(out.contains("172.19."), "{out}");
        detach(lab, "web");
        assert!(!Path::new("/run/netns/web").exists());
        // Somebody else's name is not taken, and stays.
        sh("ip netns add web");
        attach(lab, guest_.pid(), &["--name", "web", "--export"]).refused(&["/run/netns/web"]);
        assert_eq!(Netns::of(guest_.pid()).sh("ip -o link | wc -l"), "1\n");
        sh("ip netns del web");
        // A name holds the namespace: both go with the next command when the container is gone.
        attach(lab, guest_.pid(), &["--name", "web", "--export"]).ok();
        guest_.end().exits(0);
        assert!(sh("ip -o link").contains(": hw"));
        lab.hawser(&["ls"]).ok();
        assert!(!Path::new("/run/netns/web").exists());
        before.assert_back();
    });
}

/// ip-netns(8) makes a mount of the directory with its first name, and would have copied one that is there.
#[test]
fn a_name_is_taken_back_that_was_there_before_those_of_others() {
    case(|lab| {
        lab.with_network();
        let guest = guest(&["-n"]);
        let hawser = lab::binary().display().to_string();
        let script = format!(
            "mount -t tmpfs none /run; {hawser} attach --name web --export {}
            ip netns add other; {hawser} detach web; ls /run/netns
            ip netns add web; ip netns del web; ip netns del other",
            guest.pid()
        );
        let mut shell = std::process::Command::new("unshare");
        shell.args(["-m", "sh", "-ec", &script]);
        assert_eq!(collect(shell, DEADLINE).exits(0).out(), "web\nother\n");
    });
}

#[test]
fn who_stays_holds_ports_and_follows_resolvers_until_it_ends() {
    packets(|lab| {
        let before = lab.with_network();
        let guest = guest(&["-n", "-m"]);
        let ports = ["-p", "8080:80", "-p", "127.0.0.1:8081:80"];
        let running = lab.stay(guest.pid(), "web", &ports);
        let netns = Netns::of(guest.pid());
        let server = serve(&netns, 80, 4);
        for address in [
            "127.0.0.1:8080",
            "[::1]:8080",
            "127.0.0.1:8081",
            "192.0.2.2:8080",
        ] {
            assert_eq!(greeting(address).expect(address), "hello\n");
        }
        server.join().expect("four were greeted");
        drop(netns);
        assert_eq!(lab.listed("web")["status"], "attached");
        let listed = lab.hawser(&["port", "ls", "web"]).ok();
        assert_eq!(listed.lines().count(), 2, "{listed}");
        lab.hawser(&["port", "add", "web", "8082:80"]).ok();
        lab.run(&["-p", "8080:80"], &["true"]).refused(&["8080"]);
        let resolv = Seen::inside(guest.pid(), "/etc/resolv.conf");
        let start = Instant::now();
        lab.set_resolv_conf("nameserver 198.51.100.54\n");
        resolv.becomes(start, |text| text.contains("198.51.100.54"));
        drop(resolv);
        // Rules that somebody flushes are back.
        sh("nft flush ruleset");
        assert!(
            lab::Watch::ruleset().until(|| sh("nft list ruleset").contains("8082")),
            "its ports are back"
        );
        guest.end().exits(0);
        running.end().exits(0);
        lab.set_resolv_conf("nameserver 198.51.100.53\n");
        before.assert_back();
    });
}

#[test]
fn who_stays_lets_go_when_it_is_told_to() {
    case(|lab| {
        // It makes a mount of the directory, as --export does.
        sh("ip netns add blue; ip netns del blue");
        let before = lab.with_network();
        let guest = guest(&["-n", "-m"]);
        let mounts = || mounts_of(guest.pid());
        let first = mounts();
        let options = ["--export", "-p", "8080:80"];
        let ways: [&dyn Fn(&Running); 4] = [
            &|running| running.signal(libc::SIGTERM),
            &|running| running.signal(libc::SIGINT),
            &|_| detach(lab, "web"),
            &|_| drop(lab.hawser(&["stop", "web"]).ok()),
        ];
        for end in ways {
            let running = lab.stay(guest.pid(), "web", &options);
            end(&running);
            running.end().exits(0);
            assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
            assert_eq!(mounts(), first);
        }
        // One that was killed leaves everything as it is, and detach takes it away all the same.
        let running = lab.stay(guest.pid(), "web", &options);
        running.signal(libc::SIGKILL);
        running.end().exits(-libc::SIGKILL);
        assert_eq!(lab.listed("web")["status"], "attached");
        detach(lab, "web");
        assert_eq!(mounts(), first);
        guest.end().exits(0);
        lab.settle();
        let _ = fs::remove_dir("/run/netns");
        before.assert_back();
    });
}

/// A port of a loopback address is its supervisor's alone: one that was killed has none any more, and one that is stopped has.
#[test]
fn who_stays_takes_ports_of_loopback_addresses_along() {
    case(|lab| {
        let guest = guest(&["-n", "-m"]);
        let ports = ["-p", "8080:80", "-p", "127.0.0.1:8081:80"];
        let running = lab.stay(guest.pid(), "web", &ports);
        let listed = || {
            let ports = lab.listed("web")["ports"].clone();
            let ports = ports.as_array().cloned().expect("ports");
            Vec::from_iter(ports.into_iter().map(|port| port["host_port"].clone()))
        };
        assert_eq!(listed(), [8080, 8081]);
        running.signal(libc::SIGSTOP);
        running.wait_for_stop();
        assert_eq!(listed(), [8080, 8081]);
        running.signal(libc::SIGKILL);
        running.end().exits(-libc::SIGKILL);
        assert_eq!(listed(), [8080]);
        let inspected = lab.hawser(&["inspect", "web"]).ok();
        assert!(!inspected.contains("8081"), "{inspected}");
        assert!(inspected.contains("\"supervisor\": null"), "{inspected}");
        // Another may have it, also when nobody can ask the rules any more.
        sh("nft flush ruleset");
        let other = lab.start_idle(&["-p", "127.0.0.1:8081:80"]);
        other.end().exits(0);
        detach(lab, "web");
    });
}

#[test]
fn rules_are_restored_from_what_is_kept() {
    case(|lab| {
        let guests = [guest(&["-n"]), guest(&["-n"]), guest(&["-n"])];
        let options: [&[&str]; 3] = [
            &[
                "--name",
                "a",
                "-p",
                "8080:80",
                "--egress",
                "dns,192.0.2.0/24,:443",
            ],
            &[
                "--name",
                "b",
                "--network",
                "ptp",
                "-p",
                "192.0.2.2:8081:80/udp",
            ],
            &["--name", "c", "--isolate", "--no-ipv6"],
        ];
        for (guest, options) in guests.iter().zip(options) {
            attach(lab, guest.pid(), options).ok();
        }
        // Sets are in no order of theirs.
        let rules = || {
            let text = sh("nft -a list ruleset");
            let mut words: Vec<String> = text
                .replace(['{', '}', ','], " ")
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            words.sort();
            words.join(" ")
        };
        let before = rules();
        for word in ["8080", "8081"] {
            assert!(before.contains(word), "{word}");
        }
        sh("nft flush ruleset");
        lab.hawser(&["restore"]).ok();
        let strip = |text: &str| {
            // Without handles, and without the moment of each container, which tells it from another of its address.
            let is_handle = |word: &str| word.parse::<u32>().is_ok() && word.len() != 4;
            let is_moment = |word: &str| word.starts_with("0x") && word.len() > 6;
            text.split(' ')
                .filter(|word| !is_handle(word) && !is_moment(word))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(strip(&rules()), strip(&before));
        for name in ["a", "b", "c"] {
            detach(lab, name);
        }
        let left = sh("nft list ruleset");
        assert!(!left.contains("8080") && !left.contains("8081"), "{left}");
    });
}

/// Its resolv.conf follows the host's, and so does what is kept of it for the day when its supervisor is gone.
#[test]
fn resolvers_are_restored_that_the_container_has_now() {
    case(|lab| {
        let guest = guest(&["-n", "-m"]);
        let running = lab.stay(guest.pid(), "web", &["--egress", "dns"]);
        let rules = || sh("nft list ruleset");
        let [old, new] = ["198.51.100.53", "198.51.100.54"];
        assert!(rules().contains(old), "{}", rules());
        let resolv = Seen::inside(guest.pid(), "/etc/resolv.conf");
        let start = Instant::now();
        lab.set_resolv_conf(&format!("nameserver {new}\n"));
        resolv.becomes(start, |text| text.contains(new));
        drop(resolv);
        running.signal(libc::SIGKILL);
        running.end().exits(-libc::SIGKILL);
        sh("nft flush ruleset");
        lab.hawser(&["restore"]).ok();
        let restored = rules();
        assert!(
            restored.contains(new) && !restored.contains(old),
            "{restored}"
        );
        let all = lab.hawser(&["inspect", "web"]).ok();
        assert!(all.contains(new) && !all.contains(old), "{all}");
        detach(lab, "web");
        guest.end().exits(0);
    });
}

/// What is there stays there, and whoever goes by it goes on.
#[test]
fn restored_rules_cut_no_connection() {
    packets(|lab| {
        let guest = guest(&["-n"]);
        attach(lab, guest.pid(), &["--name", "web", "-p", "8080:80"]).ok();
        let inside = Netns::of(guest.pid());
        let listener = inside
            .enter(|| TcpListener::bind("0.0.0.0:80"))
            .expect("a service");
        let mut client = lab
            .internet
            .enter(|| TcpStream::connect("192.0.2.2:8080"))
            .expect("connect");
        let (mut server, _) = listener.accept().expect("a connection");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut says = |word: &str| {
            server.write_all(word.as_bytes()).expect("send");
            let mut heard = vec![0; word.len()];
            client.read_exact(&mut heard).expect("it goes on");
            assert_eq!(heard, word.as_bytes());
        };
        says("before");
        let tenants = || sh("nft list map inet hawser tenants");
        let before = tenants();
        lab.hawser(&["restore"]).ok();
        says("after");
        assert_eq!(tenants(), before);
        detach(lab, "web");
    });
}

/// Nobody holds them, and who asks for one asks the tables.
/// A limit that cannot be put back is told of: nobody would miss it.
#[test]
fn a_limit_that_is_kept_and_cannot_be_read_is_told() {
    case(|lab| {
        let guest = guest(&["-n"]);
        let options = ["--name", "web", "--ip", "172.19.0.9", "--egress", "dns"];
        attach(lab, guest.pid(), &options).ok();
        let path = "/run/hawser/attachments/hwac130009";
        let text = fs::read_to_string(path).expect("what is kept");
        fs::write(path, text.replace("\"dns\"", "\"dnt\"")).expect("spoil it");
        sh("nft flush ruleset");
        lab.hawser(&["restore"]).refused(&["web", "egress"]);
        fs::write(path, text).expect("mend it");
        lab.hawser(&["restore"]).ok();
        detach(lab, "web");
    });
}

#[test]
fn ports_are_an_attachments_own_after_a_flush() {
    case(|lab| {
        lab.with_network();
        let guest = guest(&["-n"]);
        attach(lab, guest.pid(), &["--name", "web", "-p", "8080:80"]).ok();
        let leads = || sh("nft list ruleset").contains("8080");
        let taken = || {
            lab.run(&["-p", "8080:80"], &["true"])
                .refused(&["8080", "web", "detach"]);
        };
        // The next start makes the tables again.
        sh("nft flush ruleset");
        lab.run(&[], &["true"]).ok();
        assert!(leads());
        taken();
        // Or a supervisor does.
        let other = lab.start_idle(&[]);
        sh("nft flush ruleset");
        wait_untold("the port is back", leads);
        taken();
        other.end().exits(0);
        // A daemon of the host is no reason to take back what is there.
        let daemon = || TcpListener::bind("0.0.0.0:8080").expect("a daemon of the host");
        let holder = daemon();
        lab.hawser(&["restore"]).ok();
        assert!(leads());
        // Nor to say that it is the daemon's: whoever puts rules back holds it like that, for a moment.
        taken();
        drop(holder);
        // But one that has come while nothing was there.
        sh("nft flush ruleset");
        let holder = daemon();
        let started = lab.run(&[], &["true"]).exits(0);
        assert_eq!(started.err().lines().count(), 1, "{started}");
        for word in ["warning", "web", "8080"] {
            assert!(started.err().contains(word), "{started}");
        }
        assert!(!leads());
        lab.hawser(&["restore"]).refused(&["web", "8080"]);
        assert!(!leads());
        drop(holder);
        lab.hawser(&["restore"]).ok();
        assert!(leads());
        detach(lab, "web");
    });
}

#[test]
fn what_is_kept_is_believed_only_of_its_own_link() {
    case(|lab| {
        let guest_ = guest(&["-n"]);
        attach(
            lab,
            guest_.pid(),
            &["--name", "web", "-p", "8080:80", "--ip", "172.19.0.9"],
        )
        .ok();
        let path = "/run/hawser/attachments/hwac130009";
        let text = fs::read_to_string(path).expect("what is kept");
        assert_eq!(
            sh(&format!("stat -c '%a %u' {path} /run/hawser/attachments")),
            "600 0\n700 0\n"
        );
        for bad in [
            "".to_owned(),
            "{".to_owned(),
            text.replace("\"index\":", "\"index\":1"),
            text.replace("\"netns\":", "\"netns\":1"),
            text.replace("\"web\"", "\"other\""),
        ] {
            assert_ne!(bad, text);
            // One that does not fit is forgotten.
            fs::create_dir_all("/run/hawser/attachments").expect("make a directory");
            fs::write(path, bad).expect("spoil it");
            let row = lab.listed("web");
            assert_eq!(row["ports"].as_array().map(Vec::len), Some(0), "{row}");
            assert_eq!(row["status"], "attached");
        }
        detach(lab, "web");
        let left = sh("nft list ruleset");
        assert!(
            !left.contains("8080") && !left.contains("172.19.0.9"),
            "{left}"
        );
        assert!(!Path::new("/run/hawser/attachments").exists());
        guest_.end().exits(0);
    });
}

#[test]
fn whoever_cannot_be_attached_is_refused_and_nothing_is_changed() {
    case(|lab| {
        let ended = guest(&["-n"]);
        let gone = ended.pid();
        ended.end().exits(0);
        let plain = guest(&["-m"]);
        let full = guest(&["-n"]);
        Netns::of(full.pid()).sh("ip link add eth0 type veth peer name other");
        let fine = guest(&["-n"]);
        fs::write("/run/lab/file", "").expect("write a file");
        let before = Snapshot::take();
        attach(lab, gone, &[]).refused(&[&gone.to_string(), "no such process"]);
        for pid in [plain.pid(), std::process::id() as i32] {
            attach(lab, pid, &[]).refused(&[&pid.to_string(), "the host's own"]);
        }
        let netns = |path: &str| lab.hawser(&["attach", "--netns", path]);
        netns("/proc/self/ns/net").refused(&["the host's own"]);
        netns("/proc/1/ns/net").refused(&["the host's own"]);
        netns("/run/lab/file").refused(&["/run/lab/file"]);
        netns("/no/such/file").refused(&["/no/such/file"]);
        netns(&format!("/proc/{}/ns/mnt", plain.pid())).refused(&["ns/mnt"]);
        attach(lab, full.pid(), &[]).refused(&["eth0", &full.pid().to_string()]);
        let pid = fine.pid();
        for (options, words) in [
            (&["--network", "none"][..], &["--network"][..]),
            (&["--network", "host"], &["--network"]),
            (&["-p", "127.0.0.1:80:80"], &["127.0.0.1", "--stay"]),
            (&["--name", "eth7"], &["eth7"]),
            (&["--export"], &["--name"]),
            (&["--to", "/run/lab/file"], &["FIFO"]),
            (&["--to", "/no/such"], &["/no/such"]),
            (&["--netns", "/run/netns/internet"], &["--netns"]),
            (&["--connect", "nowhere"], &["nowhere"]),
            (&["-p", "192.0.2.99:80:80"], &["192.0.2.99"]),
            (&["--ip", "10.99.0.1", "--network", "ptp"], &["10.99.0.1"]),
        ] {
            attach(lab, pid, options).refused(words);
        }
        for words in [
            &["attach"][..],
            &["attach", "0"],
            &["attach", "-1"],
            &["attach", "x"],
            &["attach", "99999999999"],
            &["detach"],
            &["detach", "a/b"],
        ] {
            lab.hawser(words).refused(&[]);
        }
        lab.hawser(&["attach"])
            .refused(&["attach whom? give PID or --netns PATH"]);
        lab.hawser(&["detach", "nobody"]).ok();
        lab.hawser(&["detach", "99999999"]).ok();
        lab.hawser(&["detach", "--netns", "/no/such"]).ok();
        before.assert_back();
        attach(lab, pid, &["--name", "web"]).ok();
        attach(lab, pid, &["--name", "web2"]).refused(&["eth0", "detach"]);
        // It is there, and nobody answers for it.
        let said = "it is attached, and nobody stays for it";
        for words in [&["stop", "web"][..], &["wait", "web"]] {
            let outcome = lab.hawser(words);
            assert!(!outcome.err().contains("--stay"), "{outcome}");
            outcome.refused(&["web", said, "the tool that made it", "detach web"]);
        }
        for words in [
            &["port", "ls", "web"][..],
            &["port", "add", "web", "8080:80"],
        ] {
            lab.hawser(words)
                .refused(&["web", said, "detach web", "attach --stay"]);
        }
        lab.hawser(&["exec", "web", "true"])
            .refused(&["web", "another tool made it", "nsenter"]);
    });
}

#[test]
fn what_is_taken_is_refused_by_its_holder() {
    case(|lab| {
        lab.with_network();
        let running = lab.start_idle(&["--name", "box", "-p", "8080:80", "--ip", "172.19.0.9"]);
        let guests = [guest(&["-n"]), guest(&["-n"])];
        let [first, second] = [guests[0].pid(), guests[1].pid()];
        let before = Snapshot::take();
        attach(lab, first, &["--name", "box"]).refused(&["box"]);
        attach(lab, first, &["--ip", "172.19.0.9"]).refused(&["172.19.0.9", "box"]);
        attach(lab, first, &["-p", "8080:80"]).refused(&["8080"]);
        before.assert_back();
        let options = ["--name", "web", "-p", "8081:80", "--ip", "172.19.0.10"];
        attach(lab, first, &options).ok();
        let before = Snapshot::take();
        attach(lab, second, &["--name", "web"]).refused(&["web"]);
        attach(lab, second, &["--ip", "172.19.0.10"]).refused(&["172.19.0.10", "web"]);
        attach(lab, second, &["-p", "8081:80"]).refused(&["8081", "web", "detach"]);
        lab.run(&["-p", "8081:80"], &["true"])
            .refused(&["8081", "web"]);
        lab.run(&["--name", "web"], &["true"]).refused(&["web"]);
        before.assert_back();
        running.end().exits(0);
    });
}

#[test]
fn an_init_that_waits_is_served() {
    case(|lab| {
        let before = lab.with_network();
        sh("mkfifo /run/lab/fifo");
        let guest = guest(&["-n"]);
        let to = ["--to", "/run/lab/fifo"];
        attach(lab, guest.pid(), &to).refused(&["/run/lab/fifo", "nobody waits"]);
        assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
        guest.end().exits(0);
        let mut command = Command::new("unshare");
        command
            .args(["-n", "--"])
            .arg(init_binary())
            .args(["--config", "/run/lab/fifo", "--resolv=off", "--"])
            .args([
                "sh",
                "-c",
                "ip -o -4 addr show dev eth0; ip route; echo up; exec cat",
            ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // With both ends open here nobody waits for the other, and who opens it is heard.
        let both = fs::File::options()
            .read(true)
            .write(true)
            .open("/run/lab/fifo");
        let both = both.expect("open a FIFO");
        let opened = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        opened
            .add_watch("/run/lab/fifo", AddWatchFlags::IN_OPEN)
            .expect("watch a FIFO");
        let mut waiting = Running::spawn(command);
        opened.read_events().expect("init opens it");
        let options = ["--name", "web", "--ip", "172.19.0.9", "--no-ipv6"];
        let options = [&to[..], &options].concat();
        assert_eq!(attach(lab, waiting.pid(), &options).ok(), "web");
        drop(both);
        let seen = waiting.until("up");
        assert!(
            seen.contains("172.19.0.9/16") && seen.contains("default via"),
            "{seen}"
        );
        // Nor does the kernel make an address by itself.
        let link = Netns::of(waiting.pid()).sh("ip -d link show dev eth0");
        assert!(link.contains("addrgenmode none"), "{link}");
        detach(lab, "web");
        waiting.end().exits(0);
        sh("rm /run/lab/fifo");
        lab.settle();
        before.assert_back();
    });
}

#[test]
fn who_ends_or_goes_elsewhere_meanwhile_is_refused() {
    case(|lab| {
        // It is ending until a process of its PID namespace is waited for by its parent, which does not.
        let outer = Running::unshared(&["-n", "-m", "-p", "-f"], "exec cat");
        let ending = children(outer.pid())[0];
        let enter = format!(
            "nsenter -t {ending} -p --no-fork sh -c 'sleep 1000 >/dev/null & echo up; exec cat'"
        );
        let mut negligent = Running::unshared(&["-m"], &format!("exec {enter}"));
        negligent.until("up");
        sh(&format!("kill -9 {ending}"));
        wait_untold("it is ending", || {
            fs::read_link(format!("/proc/{ending}/ns/mnt")).is_err()
        });
        lab.hawser(&["attach", &ending.to_string()])
            .refused(&["it has ended"]);
        negligent.end().exits(0);
        drop(outer);
        sh("mkfifo /run/lab/fifo");
        let both = fs::File::options()
            .read(true)
            .write(true)
            .open("/run/lab/fifo");
        let mut both = both.expect("open a FIFO");
        let mut message = move || {
            let mut text = vec![0; 4096];
            let length = both.read(&mut text).expect("read the message");
            assert!(text[..length].ends_with(b"end\n"));
        };
        let waiting = |pid: i32| {
            let pid = pid.to_string();
            Running::spawn(lab.command(&["attach", &pid, "--to", "/run/lab/fifo"]))
        };
        let before = lab.with_network();
        let guest_ = guest(&["-n"]);
        let attaching = waiting(guest_.pid());
        message();
        guest_.end().exits(0);
        attaching.end().refused(&["ended meanwhile"]);
        before.assert_back();
        let mut guest = Running::unshared(
            &["-n"],
            "read x; exec unshare -n sh -c 'echo moved; exec cat'",
        );
        let netns = Netns::of(guest.pid());
        let attaching = waiting(guest.pid());
        message();
        guest.say("x\n");
        guest.until("moved");
        netns.sh("ip link set eth0 up");
        attaching.end().refused(&["another network namespace"]);
        guest.end().exits(0);
        drop(netns);
        before.assert_back();
    });
}

#[test]
fn another_network_with_the_same_directory_is_left_alone() {
    case(|lab| {
        let guest = guest(&["-n"]);
        let options = ["--name", "web", "--export", "-p", "8080:80"];
        attach(lab, guest.pid(), &options).ok();
        for words in [&["ls"][..], &["detach", "web"], &["restore"]] {
            let mut command = Command::new("unshare");
            command.arg("-n").arg(lab::binary()).args(words);
            collect(command, DEADLINE).exits(0);
        }
        assert!(Path::new("/run/netns/web").exists());
        assert_eq!(lab.listed("web")["ports"].as_array().map(Vec::len), Some(1));
        detach(lab, "web");
        assert!(!Path::new("/run/netns/web").exists());
        guest.end().exits(0);
    });
}

#[test]
fn a_killed_attach_leaves_what_detach_takes() {
    case(|lab| {
        let before = lab.with_network();
        let guest = guest(&["-n", "-m"]);
        let running = lab.stay(guest.pid(), "web", &[]);
        let supervisor = running.pid();
        sys::pidfd_signal(&sys::pidfd(supervisor).expect("pidfd"), libc::SIGKILL).expect("kill");
        running.end().exits(-libc::SIGKILL);
        wait_for_end(supervisor);
        guest.end().exits(0);
        lab.settle();
        lab.hawser(&["ls"]).ok();
        before.assert_back();
    });
}

#[test]
fn nothing_of_the_host_goes_in() {
    case(|lab| {
        // It could look at whoever comes into its pid namespace, or leaves descriptors there.
        let guest = Running::unshared(
            &["-n", "-m", "-p", "-f", "--mount-proc", "--kill-child"],
            "exec cat",
        );
        let child = child(guest.pid());
        let mut command = lab.command(&["attach", &child.to_string(), "--name", "web"]);
        let trace = "/run/lab/trace";
        let mut traced = Command::new("strace");
        traced.args([
            "-f",
            "-o",
            trace,
            "-e",
            "trace=execve,execveat,setns,chroot",
        ]);
        traced.arg(command.get_program()).args(command.get_args());
        command = traced;
        collect(command, DEADLINE).exits(0);
        let text = fs::read_to_string(trace).expect("a trace");
        let executed: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(" execve"))
            .collect();
        // Ourselves, init by its descriptor, and the empty name that ends it.
        assert!(executed[1].contains("AT_EMPTY_PATH"), "{executed:?}");
        assert!(
            executed[2..]
                .iter()
                .all(|line| line.contains("execve(\"\"")),
            "{executed:?}"
        );
        detach(lab, "web");
        guest.end().exits(0);
    });
}
