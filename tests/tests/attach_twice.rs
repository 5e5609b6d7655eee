//! `attach` and `detach` of more than is usual: many ports, two at once, two networks, a number that means two.

use std::fs;

use lab::{
    DEADLINE, Netns, Running, Snapshot, case, children, collect, sh, strace::Stopped, sys,
    wait_untold,
};

/// A process in a network namespace of its own, which ends with its input.
fn guest() -> Running {
    Running::unshared(&["-n"], "exec cat")
}

#[test]
fn what_is_kept_of_many_ports_is_known_afterwards() {
    case(|lab| {
        let guest = guest();
        let before = lab.with_network();
        let pid = guest.pid().to_string();
        // Free ports of the host are in no range, and so each has a place of its own.
        lab.hawser(&["attach", &pid, "--name", "web", "-p", "1-12000"])
            .ok();
        let all = lab.hawser(&["inspect", "web"]).ok();
        let all: serde_json::Value = serde_json::from_str(&all).expect("an object");
        let ports = all["ports"].as_array().expect("its ports");
        assert!(ports.len() > 10_000, "{}", ports.len());
        let port = &ports[0]["host_port"];
        lab.run(&["-p", &format!("{port}:80")], &["true"])
            .refused(&["web", "detach"]);
        lab.hawser(&["detach", "web"]).ok();
        lab.settle();
        before.assert_back();
    });
}

#[test]
fn of_two_who_attach_a_container_at_once_one_succeeds() {
    case(|lab| {
        lab.with_network();
        for round in 0..30 {
            let guest = guest();
            let pid = guest.pid().to_string();
            // Ports, so that it takes a while until the link says whose it is.
            let attach = |name| {
                let options = ["attach", &pid, "--name", name, "-p", "1-500"];
                Running::spawn(lab.command(&options))
            };
            let outcomes = ["one", "other"].map(attach).map(Running::end);
            let succeeded = outcomes.iter().filter(|it| it.code == 0).count();
            let [one, other] = outcomes;
            assert_eq!(succeeded, 1, "round {round}: {one} {other}");
            assert_eq!(lab.list().len(), 1, "round {round}");
            lab.hawser(&["detach", &pid]).ok();
            assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
        }
    });
}

/// Each finds what the other has given: the files are one's, and so is the way out.
#[test]
fn two_who_attach_a_container_at_once_do_as_one_after_the_other() {
    case(|lab| {
        lab.with_network();
        for round in 0..20 {
            let guest = Running::unshared(&["-n", "-m"], "exec cat");
            let pid = guest.pid().to_string();
            let mounts = || fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
            let before = mounts();
            let attach = |[name, interface]: [&str; 2]| {
                let options = ["attach", &pid, "--name", name, "--iface", interface];
                Running::spawn(lab.command(&options))
            };
            let both = [["one", "eth0"], ["two", "eth1"]].map(attach);
            for attach in both {
                attach.end().ok();
            }
            let bound = mounts().lines().count() - before.lines().count();
            assert_eq!(bound, 2, "round {round}: {}", mounts());
            for name in [["one", "two"], ["two", "one"]][round % 2] {
                lab.hawser(&["detach", name]).ok();
            }
            assert_eq!(mounts(), before, "round {round}");
            assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
        }
    });
}

/// A process in there can hold the lock by which they wait for each other.
#[test]
fn who_waits_for_another_to_attach_may_be_interrupted() {
    case(|lab| {
        let guest = guest();
        let pid = guest.pid().to_string();
        lab.with_network();
        let path = format!("/proc/{pid}/ns/net");
        let script = format!("exec flock {path} sh -c 'echo locked; exec cat'");
        let mut holder = Running::unshared(&["-m"], &script);
        holder.until("locked");
        let before = Snapshot::take();
        let attach = || {
            let attach = Running::spawn(lab.command(&["attach", &pid]));
            // It waits by a child.
            wait_untold("attach waits", || !children(attach.pid()).is_empty());
            attach
        };
        let interrupted = attach();
        interrupted.signal(libc::SIGTERM);
        let told = interrupted.end().exits(143).err();
        // It starts no command.
        let expected = "host-helper: finish what was begun: interrupted by SIGTERM\n";
        assert_eq!(told, expected);
        before.assert_back();
        let patient = attach();
        holder.end().ok();
        patient.end().ok();
        lab.hawser(&["detach", &pid]).ok();
    });
}

/// Whoever takes back what a dead one has left may be as slow as it likes: what the next one has by then stays that one's.
#[test]
fn what_is_taken_while_another_sweeps_is_kept() {
    case(|lab| {
        lab.with_network();
        let new = guest();
        let attach = |pid: i32, name: &str, address: &str| {
            let pid = pid.to_string();
            let options = ["--export", "--ip", address, "-p", "8080:80"];
            lab.command(&[&["attach", &pid, "--name", name], &options[..]].concat())
        };
        let trace = lab.dir.join("trace");
        let mut stops = 0;
        let elements = || sh("nft list ruleset | tr , '\\n' | wc -l");
        let cases = [
            ("172.19.0.9", false),
            ("172.19.0.10", false),
            ("172.19.0.9", true),
        ];
        for (address, is_deleted) in cases {
            collect(attach(new.pid(), "new", address), DEADLINE).exits(0);
            let all = elements();
            lab.hawser(&["detach", "new"]).ok();
            for nth in 1.. {
                // The network outlives the process that it was attached for, and so the kernel does not take the link.
                let old = guest();
                let heir = Netns::of(old.pid());
                collect(attach(old.pid(), "old", "172.19.0.9"), DEADLINE).exits(0);
                if is_deleted {
                    sh("ip link del hwac130009");
                }
                old.end().exits(0);
                let sweep = Stopped::at_message(nth, &lab.command(&["ls"]), &trace);
                let attaching = Running::spawn(attach(new.pid(), "new", address));
                attaching.ends_or_waits_for_a_lock();
                let is_stopped = sweep.is_stopped;
                let sweep = sweep.go_on();
                attaching.end().ok();
                sweep.end().ok();
                let port = sh("nft get element inet hawser ports4 { tcp . 8080 }");
                assert!(port.contains(&format!("{address} . 80")), "{nth}: {port}");
                assert_eq!(elements(), all, "{nth}");
                assert_eq!(sh("cd /run/netns; echo *"), "internet new\n", "{nth}");
                lab.hawser(&["inspect", "new"]).ok();
                lab.hawser(&["detach", "new"]).ok();
                drop(heir);
                if !is_stopped {
                    break;
                }
                stops += 1;
            }
        }
        assert!(stops > 40, "it sends more than {stops} messages");
    });
}

/// What says nothing of its owner may be another's, who attaches the same container at this moment.
#[test]
fn who_fails_leaves_a_link_alone_that_it_has_not_made() {
    case(|lab| {
        let guest = guest();
        let pid = guest.pid().to_string();
        lab.with_network();
        sh(&format!(
            "ip link add hwac130009 type veth peer name eth1 netns {pid}"
        ));
        let before = Snapshot::take();
        let attach = |options: &[&str]| lab.hawser(&[&["attach", &pid], options].concat());
        let link = sh("ip -o link show hawser0");
        let (_, rest) = link.split_once("ether ").expect("a hardware address");
        attach(&["--mac", &rest[..17]]).refused(&["the gateway"]);
        attach(&["--ip", "172.19.0.9"]).refused(&["172.19.0.9"]);
        attach(&["--iface", "eth1"]).refused(&["eth1"]);
        before.assert_back();
        lab.hawser(&["detach", &pid]).ok();
        assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
    });
}

/// As with `docker network connect`: the way out, and the files, are the first one's, and each goes without the other.
#[test]
fn a_second_network_leaves_the_first_one_what_it_has() {
    case(|lab| {
        let lan1 = ["--bridge", "lan1", "--subnet", "192.168.77.0/24"];
        lab.run(&lan1, &["true"]).ok();
        lab.with_network();
        let guest = Running::unshared(&["-n", "-m"], "exec cat");
        let pid = guest.pid().to_string();
        let netns = Netns::of(guest.pid());
        let routes = |version| netns.sh(&format!("ip -{version} route show default"));
        let read = |path: &str| fs::read_to_string(format!("/proc/{pid}/root{path}")).ok();
        let files = || ["/etc/resolv.conf", "/etc/hosts"].map(read);
        let mounts = || fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
        let attach = |options: &[&str]| lab.hawser(&[&["attach", &pid], options].concat());
        let second = ["--name", "two", "--iface", "eth1", "--bridge", "lan1"];
        let (before, old_mounts, old_files) = (Snapshot::take(), mounts(), files());
        for order in [["one", "two"], ["two", "one"]] {
            attach(&["--name", "one", "--dns", "192.0.2.53"]).ok();
            let firsts = || (routes(4), routes(6), files());
            let of_first = firsts();
            assert!(of_first.0.contains("172.19.0.1 dev eth0"), "{of_first:?}");
            attach(&[&second[..], &["--dns", "192.0.2.54"]].concat()).refused(&[
                "resolv.conf",
                "one",
                "--dns",
            ]);
            let published = attach(&[&second[..], &["-p", "8080:80"]].concat()).exits(0);
            assert!(published.err().contains("default route"), "{published}");
            assert_eq!(firsts(), of_first);
            assert!(netns.sh("ip route").contains("192.168.77.0/24 dev eth1"));
            // Its neighbours there find it.
            lab.run(&["--bridge", "lan1"], &["grep", " two", "/etc/hosts"])
                .exits(0);
            lab.hawser(&["detach", order[0]]).ok();
            if order[0] == "two" {
                assert_eq!(firsts(), of_first);
            } else {
                assert_eq!(files(), old_files);
            }
            lab.hawser(&["detach", order[1]]).ok();
            assert_eq!((mounts(), files()), (old_mounts.clone(), old_files.clone()));
            before.assert_back();
        }
        // Without files of the first, the second has its own.
        attach(&["--name", "one", "--resolv=off"]).ok();
        attach(&[&second[..], &["--dns", "192.0.2.54"]].concat()).ok();
        let [resolv, hosts] = files().map(Option::unwrap_or_default);
        assert!(
            resolv.contains("192.0.2.54") && hosts.contains(" two"),
            "{resolv}{hosts}"
        );
        for name in ["two", "one"] {
            lab.hawser(&["detach", name]).ok();
        }
        assert_eq!(mounts(), old_mounts);
        before.assert_back();
    });
}

#[test]
fn a_second_place_on_a_network_leaves_the_first_one_its_routes() {
    case(|lab| {
        for options in [&["--network", "ptp"][..], &["--isolate"], &[]] {
            let guest = guest();
            let pid = guest.pid().to_string();
            let netns = Netns::of(guest.pid());
            let attach = |own: &[&str]| {
                let all = [&["attach", &pid], own, options].concat();
                lab.hawser(&all).ok()
            };
            attach(&["--name", "one"]);
            let routes = || netns.sh("ip route show dev eth0; ip -6 route show dev eth0");
            let of_first = routes();
            attach(&["--name", "two", "--iface", "eth1"]);
            assert_eq!(routes(), of_first, "{options:?}");
            lab.hawser(&["detach", "two"]).ok();
            assert_eq!(routes(), of_first, "{options:?}");
            lab.hawser(&["detach", "one"]).ok();
            assert_eq!(netns.sh("ip -o link | wc -l"), "1\n");
        }
    });
}

#[test]
fn a_number_that_means_two_containers_is_refused() {
    case(|lab| {
        let guests = [guest(), guest()];
        let [first, second] = [0, 1].map(|at: usize| guests[at].pid().to_string());
        lab.hawser(&["attach", &first, "--name", &second]).ok();
        lab.hawser(&["attach", &second, "--name", "other"]).ok();
        let before = Snapshot::take();
        lab.hawser(&["detach", &second])
            .refused(&[&second, "other", "--netns"]);
        before.assert_back();
        let netns = format!("/proc/{second}/ns/net");
        lab.hawser(&["detach", "--netns", &netns]).ok();
        let left = lab.list();
        assert!(left.len() == 1 && left[0]["name"] == *second, "{left:?}");
        // Now it means one alone.
        lab.hawser(&["detach", &second]).ok();
        assert!(lab.list().is_empty());
    });
}

/// The number of one that has ended, whose network lives on, may be that of a process of another container.
#[test]
fn a_number_that_is_anothers_by_now_means_that_one() {
    case(|lab| {
        let script = "sleep 1000 </dev/null >/dev/null 2>&1 & exec cat";
        let old = Running::unshared(&["-n"], script);
        let pid = old.pid();
        lab.hawser(&["attach", &pid.to_string(), "--name", "web"])
            .ok();
        old.end().exits(0);
        let number = pid.to_string();
        let new = (0..1000).find_map(|_| {
            sh(&format!("echo {} >/proc/sys/kernel/ns_last_pid", pid - 1));
            let new = guest();
            (new.pid() == pid).then_some(new)
        });
        let new = new.expect("a process of the same number");
        lab.hawser(&["detach", &number]).ok();
        assert_eq!(lab.listed("web")["pid"], pid);
        lab.hawser(&["attach", &number, "--name", "new"]).ok();
        lab.hawser(&["detach", &number]).ok();
        assert_eq!(lab.list().len(), 1);
        new.end().exits(0);
        // Nobody has it any more: it means that one again.
        lab.hawser(&["detach", &number]).ok();
        assert!(lab.list().is_empty());
    });
}

/// Nobody stays for an attachment: its name is its link's alone, and a container without a link has none.
#[test]
fn a_container_without_a_link_does_not_take_the_name_and_is_not_stopped_for_it() {
    case(|lab| {
        let guest = guest();
        let pid = guest.pid().to_string();
        let attach = || lab.hawser(&["attach", &pid, "--name", "web"]).ok();
        attach();
        let before = Snapshot::take();
        let ns = format!("ns:/proc/{pid}/ns/net");
        for network in ["none", "host", "container:web", &ns] {
            for options in [&["-d"][..], &[]] {
                let options = [options, &["--name", "web", "--network", network]].concat();
                lab.run(&options, &["true"])
                    .refused(&["web", "attached", "detach web"]);
            }
        }
        before.assert_back();
        // From where that link is not to be seen it does, and goes on.
        let options = ["-d", "--name", "web", "--network", "none"];
        let mut elsewhere = lab.run_command(&options, &["sleep", "1000"]);
        let other = Netns::new("other");
        sys::in_netns(&mut elsewhere, other.descriptor());
        collect(elsewhere, DEADLINE).ok();
        let running = || lab.pid_of("web");
        let first = running();
        lab.hawser(&["detach", "web"]).ok();
        assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
        assert_eq!(running(), first);
        lab.hawser(&["stop", "web"]).ok();
        attach();
        lab.hawser(&["detach", "web"]).ok();
    });
}

/// Nobody holds the port of an attachment that nobody stays for, and so the kernel may choose it.
#[test]
fn a_free_port_is_none_of_an_attachments() {
    case(|lab| {
        lab.with_network();
        let guest = guest();
        sh("echo 40000 40001 >/proc/sys/net/ipv4/ip_local_port_range");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", &pid, "--name", "web", "-p", "80"])
            .ok();
        // In two of three of them it is chosen first.
        for _ in 0..10 {
            lab.run(&["-p", "80"], &["true"]).ok();
            lab.run(&["-p", "80/udp"], &["true"]).ok();
        }
        let running = lab.start_idle(&["--name", "db"]);
        let options = ["port", "add", "db", "80"];
        for _ in 0..10 {
            let port = lab.hawser(&options).ok();
            lab.hawser(&["port", "rm", "db", &port]).ok();
        }
        lab.hawser(&options).ok();
        lab.hawser(&options)
            .refused(&["no port of the host is free"]);
        lab.run(&["-p", "80"], &["true"])
            .refused(&["no port of the host is free"]);
        drop(running);
        lab.hawser(&["detach", "web"]).ok();
    });
}
