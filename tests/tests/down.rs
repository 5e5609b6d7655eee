//! `up`, `down`, sysctls of the host.

use std::process::Command;

use lab::{
    Lab, Outcome, Running, Snapshot, alone, case, packets, sh, strace::Stopped, wait_for_end,
};

fn forwarding() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
        .expect("read ip_forward")
        .trim()
        .to_owned()
}

#[test]
fn everything_is_as_before() {
    case(|lab| {
        let (links, addresses) = (sh("ip -o link"), sh("ip -o addr; ip route; ip -6 route"));
        assert_eq!(forwarding(), "0");
        lab.run(&[], &["true"]).ok();
        lab.run(&["--network", "ptp"], &["true"]).ok();
        assert_eq!(forwarding(), "1");
        lab.hawser(&["down"]).exits(0);
        assert_eq!(
            sh("nft list ruleset"),
            "",
            "the tables go with the last network"
        );
        assert_eq!(forwarding(), "0", "the sysctl is put back");
        lab.settle();
        assert_eq!(sh("ip -o link").lines().count(), links.lines().count());
        assert_eq!(sh("ip -o addr; ip route; ip -6 route"), addresses);
        let files: Vec<_> = std::fs::read_dir("/run/hawser")
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        assert!(files.is_empty(), "{files:?}");
    });
}

#[test]
fn forwarding_that_was_on_stays_on() {
    case(|lab| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("write ip_forward");
        lab.run(&[], &["true"]).ok();
        lab.hawser(&["down"]).exits(0);
        assert_eq!(forwarding(), "1");
    });
}

/// With each change of ip_forward the kernel gives all links its value, and changes whether redirects are heeded (inet_forward_change()).
#[test]
fn switches_that_go_along_with_forwarding_come_back() {
    const DUMP: &str =
        "cd /proc/sys/net/ipv4; grep . ip_forward conf/*/forwarding conf/*/*_redirects";
    let uplink = |value: &str| sh(&format!("sysctl -q -w net.ipv4.conf.uplink.{value}"));
    case(|lab| {
        sh("sysctl -q -w net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.default.forwarding=1");
        uplink("forwarding=1");
        let before = sh(DUMP);
        let first = || {
            lab.hawser(&["up"]).exits(0);
            assert_eq!(forwarding(), "1");
        };
        let last = || {
            lab.hawser(&["down"]).exits(0);
            sh(DUMP)
        };
        first();
        assert_eq!(last(), before);
        // Somebody was faster.
        first();
        sh("sysctl -q -w net.ipv4.ip_forward=0");
        assert_eq!(last(), before);
        // A link that forwards since then, and a second change.
        uplink("forwarding=0");
        first();
        sh("sysctl -q -w net.ipv4.ip_forward=0");
        uplink("forwarding=1");
        lab.run(&[], &["true"]).ok();
        assert_eq!(last(), before);
        // Whoever has changed one of them meanwhile means it.
        first();
        sh("sysctl -q -w net.ipv4.conf.all.accept_redirects=1");
        uplink("forwarding=0");
        let after = last();
        for line in [
            "conf/all/accept_redirects:1",
            "conf/uplink/forwarding:0",
            "conf/default/forwarding:1",
        ] {
            assert!(after.lines().any(|one| one == line), "{line}: {after}");
        }
    });
}

/// The network of a container lives as long as anybody is in it.
#[test]
fn who_has_joined_a_containers_network_is_stopped_with_it() {
    case(|lab| {
        // Mount points that were missing stay.
        lab.run(&["--network", "none"], &["true"]).ok();
        lab.hawser(&["down"]).ok();
        let before = Snapshot::take();
        for outlives in [false, true] {
            let first = lab.start_idle(&["--name", "first"]);
            let guest = ["--network", "container:first", "--name", "guest"];
            let guest = lab.start_idle(&guest);
            if outlives {
                lab.hawser(&["stop", "first"]).ok();
            }
            lab.hawser(&["down"]).refused(&["first", "guest"]);
            lab.hawser(&["down", "--force"]).ok();
            first.end();
            guest.end();
            before.assert_back();
        }
    });
}

#[test]
fn the_tables_stay_while_another_network_does() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        lab.hawser(&["down", "--bridge", "blue"]).exits(0);
        assert!(!sh("ip -o link").contains("blue"));
        assert!(sh("ip -o link").contains("hawser0"));
        assert!(sh("nft list ruleset").contains("masquerade"));
        assert_eq!(forwarding(), "1");
        lab.hawser(&["down"]).exits(0);
        assert_eq!(sh("nft list ruleset"), "");
        assert_eq!(forwarding(), "0");
    });
}

#[test]
fn it_refuses_while_containers_live_and_names_them() {
    case(|lab| {
        let one = lab.start_idle(&["--name", "one"]);
        let two = lab.start_idle(&["--name", "two"]);
        let before = Snapshot::take();
        lab.hawser(&["down"]).refused(&["one", "two", "--force"]);
        before.assert_back();
        one.end().exits(0);
        two.end().exits(0);
        lab.hawser(&["down"]).exits(0);
        assert!(!sh("ip -o link").contains("hawser0"));
    });
}

/// Somebody has deleted the bridge: the containers of another network are none of this one's.
#[test]
fn containers_live_on_a_network_without_its_bridge_too() {
    case(|lab| {
        let web = lab.start_idle(&["--name", "web", "-p", "8080:80"]);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", &pid, "--name", "guest"]).ok();
        let blue = lab.start_idle(&[
            "--name",
            "other",
            "--bridge",
            "blue",
            "--subnet",
            "172.28.0.0/24",
        ]);
        let ptp = lab.start_idle(&["--name", "alone", "--network", "ptp"]);
        sh("ip link del hawser0; ip link del blue");
        let rules = sh("nft -s list ruleset");
        let outcome = lab.hawser(&["down"]);
        assert!(
            !outcome.err().contains("other") && !outcome.err().contains("alone"),
            "{outcome}"
        );
        outcome.refused(&["web", "guest", "--force"]);
        assert_eq!(sh("nft -s list ruleset"), rules);
        lab.hawser(&["down", "--force"]).ok();
        web.end().exits(143);
        let listed = lab.list();
        let names: Vec<_> = listed.iter().map(|one| one["name"].as_str()).collect();
        assert_eq!(names, [Some("alone"), Some("other")]);
        blue.end().exits(0);
        lab.hawser(&["down", "--bridge", "blue"]).ok();
        ptp.end().exits(0);
    });
}

#[test]
fn force_takes_it_away_from_living_containers() {
    case(|lab| {
        let _one = lab.start_idle(&["--name", "one"]);
        lab.hawser(&["down", "--force"]).exits(0);
        assert!(!sh("ip -o link").contains("hawser0"));
        assert_eq!(sh("nft list ruleset"), "");
        assert_eq!(forwarding(), "0");
    });
}

/// Each may take ten seconds.
#[test]
fn force_tells_all_at_once() {
    case(|lab| {
        let start = |name: &str, trap: &str| {
            let script = format!("trap '{trap}' TERM; echo up; while :; do sleep 0.01; done");
            let mut container = lab.start(&["--name", name], &["sh", "-c", &script]);
            container.until("up");
            container
        };
        // The kernel lists links by number: the first is asked first.
        let deaf = start("deaf", "");
        let mut other = start("other", "echo heard; exit 3");
        let down = Running::spawn(lab.command(&["down", "--force"]));
        other.until("heard");
        other.end().exits(3);
        lab.hawser(&["inspect", "deaf"]).ok();
        lab.hawser(&["stop", "deaf", "--grace", "0"]).ok();
        deaf.end().exits(137);
        down.end().exits(0);
        assert!(!sh("ip -o link").contains("hawser0"));
    });
}

#[test]
fn a_network_that_is_not_there_is_said_or_fine_but_a_strangers_bridge_is_refused() {
    case(|lab| {
        sh("ip link add br0 type bridge");
        lab.hawser(&["down", "--bridge", "br0"]).refused(&["br0"]);
        assert!(sh("ip -o link").contains("br0"));
        lab.hawser(&["down", "--bridge", "uplink"])
            .refused(&["uplink"]);
        assert!(sh("ip -o link").contains("uplink"));
    });
}

#[test]
fn the_link_of_a_container_is_no_network() {
    case(|lab| {
        let web = lab.start_idle(&["--name", "web"]);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", &pid, "--name", "guest"]).ok();
        let link = lab.listed("web")["veth"].clone();
        let link = link.as_str().expect("a veth");
        let before = Snapshot::take();
        for options in [&[][..], &["--force"]] {
            for (name, words) in [
                ("web", ["container web", "host-helper stop web"]),
                ("guest", ["container guest", "host-helper detach guest"]),
                (link, [link, "hw"]),
                ("name-of-more-than-15", ["name-of-more-than-15", "1 to 15"]),
            ] {
                let command = ["down", "--bridge", name];
                lab.hawser(&[&command[..], options].concat())
                    .refused(&words);
                before.assert_back();
            }
        }
        web.end().exits(0);
    });
}

#[test]
fn a_network_goes_by_another_of_its_names_too() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        let before = Snapshot::take();
        lab.run(
            &["--bridge", "blue", "--subnet", "172.28.0.0/24"],
            &["true"],
        )
        .ok();
        lab.settle();
        sh("ip link property add dev blue altname azure");
        lab.hawser(&["down", "--bridge", "azure"]).exits(0);
        for name in ["resolv.conf", "hosts"] {
            let _ = std::fs::remove_file(lab.rootfs.join("etc").join(name));
        }
        before.assert_back();
    });
}

#[test]
fn down_is_idempotent() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        lab.hawser(&["down"]).exits(0);
        lab.settle();
        let before = Snapshot::take();
        let outcome = lab.hawser(&["down"]);
        assert!([0, 125].contains(&outcome.code), "{outcome}");
        before.assert_back();
        lab.run(&[], &["true"]).ok();
    });
}

#[test]
fn only_forwarding_is_written_of_the_hosts_sysctls() {
    case(|lab| {
        let by_link = std::path::Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists();
        let dump = "cd /proc/sys/net && find ipv4 ipv6 core bridge netfilter -type f -perm -400 | grep -v -e neigh/hawser0 -e conf/hawser0 -e netfilter/nf_conntrack_count -e route/flush \
            | sort | xargs grep -s '' | sed 's/:/ /'";
        let before = sh(dump);
        lab.run(&[], &["true"]).ok();
        lab.settle();
        let after = sh(dump);
        let old: std::collections::BTreeSet<&str> = before.lines().collect();
        let changed: Vec<&str> = after
            .lines()
            .filter(|line| !old.contains(line) && !line.starts_with("netfilter/"))
            .collect();
        // ip_forward drags conf/*/forwarding along; for IPv6 it is the uplink alone, or, before Linux 6.17, all of them.
        assert!(
            changed
                .iter()
                .any(|line| line.starts_with("ipv4/ip_forward 1")),
            "{changed:?}"
        );
        for line in changed {
            let known = line.starts_with("ipv4/ip_forward ")
                || (line.starts_with("ipv4/conf/") && line.contains("/forwarding "))
                || line == "ipv6/conf/uplink/force_forwarding 1"
                || (!by_link && line.starts_with("ipv6/conf/") && line.contains("/forwarding "))
                || line.contains("/accept_redirects")
                || line.contains("/dev_mtu");
            assert!(known, "the host's {line} was changed");
            assert!(!line.contains("route_localnet"), "{line}");
        }
        lab.hawser(&["down"]).exits(0);
        let after = sh(dump);
        let differs = |line: &&str| !line.starts_with("netfilter/") && !old.contains(line);
        assert_eq!(after.lines().find(differs), None, "all of it is back");
    });
}

#[test]
fn verbose_names_the_sysctl_and_each_step_with_its_duration() {
    case(|lab| {
        let outcome = lab.run(&["--verbose"], &["true"]).exits(0);
        let text = outcome.err();
        assert!(
            text.contains("ip_forward"),
            "a global sysctl is named: {text}"
        );
        let steps = |text: &str| -> Vec<String> {
            let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let timed = words.filter(|words| words.len() == 4 && words[3] == "ms");
            timed.map(|words| words[1].to_string()).collect()
        };
        let all = [
            "plan",
            "clone",
            "ensure",
            "namespace",
            "veth",
            "publish",
            "mark",
            "link",
            "mounts",
            "init",
            "config",
            "ready",
            "exec",
        ];
        assert_eq!(steps(&text), all, "{text}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
        let text = lab.run(&["--verbose", "-d"], &["true"]).exits(0).err();
        assert_eq!(steps(&text), all, "{text}");
        let text = lab
            .run(&["--verbose"], &["/no/such/program"])
            .exits(127)
            .err();
        assert_eq!(steps(&text), all[..all.len() - 1], "{text}");
        let web = lab.start_idle(&["--name", "web"]);
        let text = lab
            .hawser(&["--verbose", "exec", "web", "true"])
            .exits(0)
            .err();
        assert_eq!(steps(&text), ["inspect", "join", "ready", "exec"], "{text}");
        web.end().exits(0);
        let text = lab.hawser(&["--verbose", "ls"]).exits(0).err();
        assert!(text.contains("all in "), "{text}");
        let text = lab.hawser(&["down", "--verbose"]).exits(0).err();
        assert_eq!(steps(&text), ["sweep", "containers", "link", "tables"]);
        assert!(text.contains(" was 1 and is 0 again"), "{text}");
    });
}

#[test]
fn what_the_kernel_is_about_to_end_is_no_living_container() {
    case(|lab| {
        // The kernel takes links back one after the other, those of all tests.
        let _alone = alone();
        let before = Snapshot::take();
        for network in ["bridge", "ptp"] {
            for _ in 0..10 {
                let running = lab.start_idle(&["--network", network]);
                running.signal(libc::SIGKILL);
                // Its container is another matter.
                wait_for_end(running.pid());
                lab.hawser(&["down"]).ok();
                running.end();
                assert_eq!(sh("nft list ruleset"), "", "it was the last one");
            }
        }
        lab.settle();
        std::fs::remove_file(lab.rootfs.join("etc/resolv.conf")).expect("made by the runs");
        std::fs::remove_file(lab.rootfs.join("etc/hosts")).expect("made by the runs");
        before.assert_back();
    });
}

#[test]
fn what_has_outlived_its_supervisor_is_said_and_ended_by_force() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        // PID 1 changes its user, and with that loses the signal of its parent's death.
        let words = ["busybox", "su", "worker", "-c", "echo up; exec sleep 1000"];
        let mut running = lab.start(&["--name", "web"], &words);
        running.until("up");
        let pid = lab.pid_of("web");
        running.signal(libc::SIGKILL);
        wait_for_end(running.pid());
        assert_eq!(lab.listed("web")["status"], "unsupervised");
        lab.hawser(&["down"]).refused(&["web", "--force"]);
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        lab.hawser(&["down", "--force"]).ok();
        wait_for_end(pid);
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn the_counter_of_a_bridge_of_others_goes_with_the_last_network() {
    case(|lab| {
        sh("ip link add lan type bridge; ip addr add 172.30.0.1/24 dev lan; ip link set lan up");
        lab.run(&["--bridge", "lan"], &["true"]).ok();
        assert!(std::path::Path::new("/run/hawser/lan.next").exists());
        lab.settle();
        lab.hawser(&["down"]).ok();
        assert!(!std::path::Path::new("/run/hawser").exists());
    });
}

/// The link of a start without a bridge shows that it is there, before it says whose it is.
#[test]
fn a_start_beside_the_end_of_the_last_bridge_has_a_way_out_or_is_refused() {
    packets(|lab| {
        lab.run(&[], &["true"]).ok();
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        let asks = "ping -c 1 -W 10 198.51.100.10 && ping -c 1 -W 10 2001:db8:2::10";
        let start = lab.run_command(&["--network", "ptp"], &["sh", "-c", asks]);
        // The host may have forwarded IPv4 before, and IPv6 not.
        for forwards in ["0", "1"] {
            sh(&format!("sysctl -q -w net.ipv4.ip_forward={forwards}"));
            let started = beside_down(lab, &start, |outcome| match outcome.code {
                125 => {
                    outcome.refused(&["removed"]);
                    assert_eq!(sh("nft list ruleset"), "", "nothing of it stays");
                }
                _ => drop(outcome.exits(0)),
            });
            assert!(started > 10, "it sends more than {started} messages");
            lab.settle();
            lab.hawser(&["down"]).exits(0);
            assert_eq!(forwarding(), forwards);
        }
    });
}

/// Between the look of `down` at who is there and the end of the tables: what the firewall was told of a container meanwhile is not lost, and
/// the host goes on forwarding for it.
#[test]
fn a_start_between_the_steps_of_the_last_down_has_a_way_out_or_is_refused() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        lab.settle();
        let asks = "echo up; read x; ping -c 1 -W 2 198.51.100.10 && ping -c 1 -W 2 2001:db8:2::10";
        let start = lab.run_command(&["--network", "ptp"], &["sh", "-c", asks]);
        let [trace, other] = ["trace", "other"].map(|name| lab.dir.join(name));
        let shows = |word: &str| sh("ip link show type veth").contains(word);
        // The message behind which it has a link, which it says is its own when the firewall knows of it.
        let with_link = (1..)
            .find(|nth| {
                lab.hawser(&["down"]).exits(0);
                lab.hawser(&["up"]).exits(0);
                let start = Stopped::at_message(*nth, &start, &trace);
                let has_link = shows("hw0a000");
                start.go_on().end();
                lab.settle();
                has_link
            })
            .expect("a message");
        // The host may have forwarded before.
        for forwards in ["0", "1"] {
            lab.hawser(&["down"]).exits(0);
            sh(&format!(
                "sysctl -q -w net.ipv4.ip_forward={forwards} net.ipv6.conf.all.forwarding={forwards}"
            ));
            let mut between = 0;
            for nth in 1.. {
                lab.hawser(&["up"]).exits(0);
                let start = Stopped::at_message(with_link - 1, &start, &trace);
                let down = Stopped::at_message(nth, &lab.command(&["down"]), &other);
                start.go_on_until(|| shows("hawser 1 run"));
                let is_known = shows("hawser 1 run");
                let is_over = !down.is_stopped;
                down.go_on().end().exits(0);
                match start.go_on().up_or_end() {
                    Err(refused) => refused.refused(&["removed"]),
                    Ok(mut running) => {
                        let names = sh("cat /run/hawser/*.hosts");
                        assert!(names.contains("hw0a0000"), "{nth}: {names}");
                        running.say("\n");
                        let outcome = running.end();
                        assert_eq!(outcome.code, 0, "{nth}: {outcome}");
                    }
                }
                between += u32::from(is_known && !is_over);
                lab.settle();
                lab.hawser(&["down"]).exits(0);
                assert_eq!(sh("nft list ruleset"), "", "{nth}: nothing stays");
                assert_eq!(forwarding(), forwards, "{nth}");
                if is_over {
                    break;
                }
            }
            assert!(between > 5, "{between} times the start came in between");
        }
    });
}

/// Starts `command` where there is a network, once for each of its messages; behind that it waits while `down` takes the network away,
/// as far as that can. Gives how many they were.
fn beside_down(lab: &Lab, command: &Command, mut judge: impl FnMut(Outcome)) -> usize {
    let trace = lab.dir.join("trace");
    for nth in 1.. {
        lab.hawser(&["up"]).exits(0);
        let start = Stopped::at_message(nth, command, &trace);
        let is_stopped = start.is_stopped;
        let down = Running::spawn(lab.command(&["down"]));
        down.ends_or_waits_for_a_lock();
        let outcome = start.go_on().end();
        let refused = down.end();
        if refused.code != 0 {
            refused.refused(&["containers live on it"]);
        }
        judge(outcome);
        if !is_stopped {
            return nth - 1;
        }
    }
    unreachable!("it ends")
}

/// Whoever has found the bridge has nothing of his own yet that `down` would see: what he makes for all networks after that has nobody
/// else to take it back.
#[test]
fn who_comes_to_the_last_bridge_at_its_end_leaves_nothing() {
    case(|lab| {
        // Mount points that were missing stay.
        lab.run(&[], &["true"]).ok();
        lab.settle();
        lab.hawser(&["down"]).ok();
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        let before = Snapshot::whole();
        let is_there = || sh("ip -o link").contains("hawser0");
        let commands = [
            lab.command(&["up"]),
            lab.run_command(&[], &["true"]),
            lab.command(&["attach", &pid]),
        ];
        for (nth, command) in commands.iter().enumerate() {
            let (mut removed, mut vain) = (0, 0);
            let messages = beside_down(lab, command, |outcome| {
                let told = outcome.to_string();
                if outcome.code == 125 {
                    removed += 1;
                    outcome.refused(&["removed"]);
                } else {
                    outcome.exits(0);
                    vain += i32::from(!is_there());
                    let _ = lab.hawser(&["detach", &pid]);
                    lab.settle();
                    lab.hawser(&["down"]).ok();
                }
                lab.settle();
                let left = before.host_changes();
                assert!(left.is_empty(), "{command:?}: {told}: {left:?}");
            });
            // What `up` has said is so, unless the end came behind its last message, or its own end. A command may be over before that.
            assert!(nth > 0 || vain <= 2, "{vain} times there was no bridge");
            assert!(removed > 0, "{command:?}: none of {messages}");
        }
        guest.end().exits(0);
    });
}

/// It makes the tables anew, for a bridge that it has seen.
#[test]
fn a_restore_at_the_end_of_the_last_bridge_leaves_nothing() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        lab.hawser(&["down"]).ok();
        let before = Snapshot::whole();
        let messages = beside_down(lab, &lab.command(&["restore"]), |outcome| {
            let left = before.host_changes();
            assert!(left.is_empty(), "{outcome}: {left:?}");
        });
        assert!(messages > 0);
    });
}
