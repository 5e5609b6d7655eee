//! `run --userns` with the other options: each does what it does without.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Instant;

use lab::{Lab, Outcome, Seen, case, collect, packets, sh, sys};

/// These tests map users that only the machine's first user namespace has.
fn cannot_map(lab: &Lab) -> bool {
    if !lab.real_root {
        lab::skip("a range of users needs real root");
    }
    !lab.real_root
}

/// What a script says with these options and `--userns`: the same as without.
#[track_caller]
fn same(lab: &Lab, options: &[&str], script: &str) -> String {
    let both = [&[][..], &["--userns"]].map(|users| {
        let outcome = lab.run_sh(&[users, options].concat(), script);
        (outcome.code, outcome.out(), outcome.err())
    });
    assert_eq!(both[0], both[1], "{options:?}: {script}");
    both[0].1.clone()
}

/// A container in the background; `exec` in it.
fn start(lab: &Lab, name: &str, options: &[&str], command: &[&str]) {
    let options = [&["-d", "--userns", "--name", name], options].concat();
    lab.run(&options, command).ok();
}

fn exec(lab: &Lab, name: &str, script: &str) -> Outcome {
    lab.hawser(&["exec", name, "sh", "-c", script])
}

#[test]
fn switches_files_users_and_capabilities() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        let switches = "cd /proc/sys/net; cat ipv4/ip_unprivileged_port_start core/somaxconn ipv4/conf/eth0/rp_filter; ip -o -6 addr";
        let options = [
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=0",
            "--sysctl",
            "net.core.somaxconn=77",
            "--sysctl",
            "net.ipv4.conf.eth0.rp_filter=2",
            "--sysctl",
            "net.ipv6.conf.all.disable_ipv6=1",
        ];
        assert_eq!(same(lab, &options, switches), "0\n77\n2\n");
        for bad in ["net.no.such=1", "net.core.rmem_max=1000000"] {
            same(lab, &["--sysctl", bad], "true");
        }
        let files = "touch /x; touch /kept/x && echo kept; touch /dev/shm/x && echo shm; stat -c %a:%u:%g / /kept /dev /dev/shm /etc/hosts /etc/resolv.conf; echo line >>/etc/hosts && tail -n 1 /etc/hosts";
        let options = [
            "--read-only",
            "--tmpfs",
            "/kept",
            "--add-host",
            "a:192.0.2.1",
        ];
        let said = same(lab, &options, files);
        assert!(said.starts_with("kept\nshm\n755:0:0\n1777:0:0\n"), "{said}");
        let who = "id; stat -c %u:%g /proc/self/ /proc/self/fd /proc/self/mem; touch /tmp/x && stat -c %u:%g /tmp/x; rm -f /tmp/x; hostname; pwd; echo $A";
        for user in ["0", "worker", "1000:27", "65535:65535"] {
            let options = [
                "-u",
                user,
                "--hostname",
                "host",
                "-w",
                "/srv",
                "-e",
                "A=b",
                "--init",
            ];
            same(lab, &options, who);
        }
        let has = "grep -E 'Cap|NoNew|Seccomp' /proc/self/status; ip link set eth0 mtu 1300; cat /sys/class/net/eth0/mtu; chroot / echo in";
        for options in [
            &["--cap-add", "net_admin"][..],
            &["--cap-add", "net_admin", "-u", "1000"],
            &["--cap-drop", "all"],
            &["--cap-drop", "all", "--cap-add", "sys_chroot"],
            &["--no-new-privileges=off", "--seccomp", "unconfined"],
        ] {
            same(lab, options, has);
        }
        let script = "echo 3 >/proc/sys/net/ipv4/conf/eth0/arp_ignore; cat /proc/sys/net/ipv4/conf/eth0/arp_ignore";
        assert_eq!(same(lab, &["--cap-add", "net_admin"], script), "3\n");
    });
}

/// The one switch whose value names groups: those inside.
#[test]
fn groups_that_may_ping_are_those_inside() {
    packets(|lab| {
        if cannot_map(lab) {
            return;
        }
        let program = format!("{}:/ping:ro", env!("CARGO_BIN_EXE_ping"));
        let libraries = ["/lib", "/lib64", "/usr"].into_iter();
        let binds: Vec<String> = libraries
            .filter(|path| std::path::Path::new(path).exists())
            .map(|path| format!("{path}:{path}:ro"))
            .chain([program])
            .collect();
        let binds: Vec<&str> = binds.iter().flat_map(|bind| ["-v", bind]).collect();
        let ping = |user: &str, groups: &str| {
            let groups = format!("net.ipv4.ping_group_range={groups}");
            let options = ["--userns", "-u", user, "--sysctl", &groups];
            let outcome = lab.run(&[&options, &binds[..]].concat(), &["/ping", "172.19.0.1"]);
            outcome.code == 0
        };
        let asked = |groups: &str| {
            let groups = format!("net.ipv4.ping_group_range={groups}");
            let options = ["--userns", "--sysctl", &groups];
            lab.run(&options, &["cat", "/proc/sys/net/ipv4/ping_group_range"])
                .ok()
        };
        assert_eq!(asked("1000 2000"), "1000\t2000");
        // As it is often asked for: everybody.
        assert_eq!(asked("0 2147483647"), "0\t65535");
        for (user, groups, may) in [
            ("1000:1000", "1000 1000", true),
            ("1000:1000", "1001 2000", false),
            ("1000:1000", "0 2147483647", true),
            ("1000:1000", "1 0", false),
            ("1000:1000", "70000 80000", false),
        ] {
            assert_eq!(ping(user, groups), may, "{user}, {groups}");
        }
        let bad = "net.ipv4.ping_group_range=many";
        lab.run(&["--userns", "--sysctl", bad], &["true"])
            .refused(&["ping_group_range", "does not take this value"]);
        // Who joins without users of its own may ping, too.
        start(lab, "web", &[], &["sleep", "1000"]);
        let join = ["-u", "1000:1000", "--network", "container:web"];
        for users in [&[][..], &["--userns"]] {
            lab.run(&[users, &join, &binds].concat(), &["/ping", "172.19.0.1"])
                .ok();
        }
    });
}

#[test]
fn descriptors_of_the_caller() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        let secret = lab.dir.join("secret");
        std::fs::write(&secret, "text\n").expect("write a file");
        sh(&format!("chmod 600 {}", secret.display()));
        for init in [&[][..], &["--init"]] {
            let options = [&["--userns", "--preserve-fds", "2"], init].concat();
            // Read, and not opened again: the file is the host's root's.
            let script = "cat <&3; readlink /proc/self/fd/4; cat /proc/self/fd/3";
            let mut command = lab.run_command(&options, &["sh", "-c", script]);
            let open = || OwnedFd::from(File::open(&secret).expect("open a file"));
            let (first, second) = (open(), open());
            sys::pass_fd(&mut command, &first, 3);
            sys::pass_fd(&mut command, &second, 4);
            let outcome = collect(command, lab::DEADLINE);
            assert!(outcome.out().starts_with("text\n/"), "{outcome}");
            assert!(outcome.err().contains("Permission denied"), "{outcome}");
        }
    });
}

/// In containers that live, by a bridge and point to point.
#[test]
fn ports_terminals_and_resolvers() {
    packets(|lab| {
        if cannot_map(lab) {
            return;
        }
        lab.serve();
        for network in ["bridge", "ptp"] {
            lab.run(&["--network", network], &["true"]).ok();
            let before = lab.with_network();
            let options = [
                "--network",
                network,
                "-p",
                "80",
                "-p",
                "8080:80",
                "--init",
                "--tmpfs",
                "/srv",
                "--isolate",
                "--egress",
                "dns,198.51.100.10/32",
            ];
            let script =
                "mkdir /srv/www; echo hello >/srv/www/index.html; exec httpd -f -p 80 -h /srv/www";
            start(lab, "web", &options, &["sh", "-c", script]);
            let free = lab.hawser(&["port", "ls", "web"]).ok();
            let free = free
                .lines()
                .find(|line| !line.starts_with("8080:"))
                .expect("a free port");
            let (free, _) = free.split_once(':').expect("a port");
            lab.hawser(&["port", "add", "web", "9090:80"]).ok();
            lab::wait_untold("it serves", || {
                exec(lab, "web", "wget -q -O - http://127.0.0.1/").code == 0
            });
            for port in [free, "8080", "9090"] {
                let ask = format!("wget -q -O - --timeout=5 http://192.0.2.2:{port}/");
                assert_eq!(lab.internet.sh(&ask), "hello\n", "{port}");
                let ask = format!("wget -q -O - --timeout=5 http://127.0.0.1:{port}/");
                assert_eq!(sh(&ask), "hello\n", "{port} by loopback");
            }
            lab.hawser(&["port", "rm", "web", "9090:80"]).ok();
            // The limit holds, and is counted.
            let out = exec(lab, "web", "wget -q -O - http://web.example.test/").ok();
            assert_eq!(out, "hello from the internet");
            assert_ne!(exec(lab, "web", "nc -w 2 198.51.100.53 80").code, 0);
            let found: serde_json::Value =
                serde_json::from_str(&lab.hawser(&["inspect", "web"]).ok()).expect("JSON");
            assert!(found["refused"].as_u64() > Some(0), "{found}");
            let terminal =
                lab.hawser(&["exec", "-t", "web", "sh", "-c", "tty; stat -c %u:%g $(tty)"]);
            assert_eq!(terminal.ok().replace('\r', ""), "/dev/pts/0\n0:5");
            let inside = Seen::inside(lab.pid_of("web"), "/etc/resolv.conf");
            let begun = Instant::now();
            lab.set_resolv_conf("nameserver 198.51.100.53\noptions ndots:3\n");
            inside.becomes(begun, |text| text.contains("ndots:3"));
            let out = exec(
                lab,
                "web",
                "grep -c ndots:3 /etc/resolv.conf; echo own >/etc/resolv.conf && cat /etc/resolv.conf",
            );
            assert_eq!(out.ok(), "1\nown");
            lab.set_resolv_conf("nameserver 198.51.100.53\n");
            lab.hawser(&["stop", "web"]).ok();
            lab.hawser(&["rm", "web"]).ok();
            lab.settle();
            before.assert_back();
        }
    });
}

/// Who joins a network, with users of its own and without, by who has made it, with them and without.
#[test]
fn the_network_of_another() {
    packets(|lab| {
        if cannot_map(lab) {
            return;
        }
        let before = lab.with_network();
        for owners in [&[][..], &["--userns"]] {
            let options = [&["-d", "--name", "web", "--cap-add", "net_admin"], owners].concat();
            lab.run(&options, &["sh", "-c", "exec httpd -f -p 8000 -h /etc"])
                .ok();
            lab::wait_untold("it serves", || {
                exec(lab, "web", "wget -q -O - http://127.0.0.1:8000/hosts").code == 0
            });
            for users in [&[][..], &["--userns"]] {
                let options = [
                    &["-d", "--name", "second", "--network", "container:web", "-t"],
                    users,
                ]
                .concat();
                lab.run(&options, &["sleep", "1000"]).ok();
                let script = "wget -q -O - http://127.0.0.1:8000/hosts | grep -c 172.19; touch /x && stat -c %u:%g /x; rm /x; echo own >>/etc/resolv.conf && tail -n 1 /etc/resolv.conf; stat -c %u:%g $(tty)";
                let said = lab.hawser(&["exec", "-t", "second", "sh", "-c", script]);
                let said = said.ok().replace('\r', "");
                assert!(
                    said.ends_with("\n0:0\nown\n0:5"),
                    "{owners:?} {users:?}: {said}"
                );
                // The network belongs to the owner's users: from others no capability reaches it.
                let is_own = users.is_empty() || owners == users;
                let change = ["ping", "-c", "1", "-W", "5", "172.19.0.1"];
                let outcome = lab.hawser(&[&["exec", "second"], &change[..]].concat());
                assert_eq!(outcome.code == 0, is_own, "{owners:?} {users:?}: {outcome}");
                lab.hawser(&["stop", "second"]).ok();
                lab.hawser(&["rm", "second"]).ok();
            }
            lab.hawser(&["stop", "web"]).ok();
            lab.hawser(&["rm", "web"]).ok();
            lab.settle();
            before.assert_back();
        }
    });
}
