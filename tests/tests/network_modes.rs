//! Each network mode, seen from inside by busybox and from outside by ip.

use std::net::{TcpListener, TcpStream};

use lab::strace::Stopped;
use lab::{
    Answer, DEADLINE, Netns, Whose, case, packets, paste, sh, skip, wait_for_end, wait_untold,
};
use serde_json::{Value, json};

#[test]
fn bridge_is_the_default() {
    case(|lab| {
        let mut running = lab.start(
            &["--name", "web", "--ip", "172.19.0.9"],
            &["sh", "-c", "ip -o addr; ip route; echo up; read x"],
        );
        let inside = running.until("up");
        assert!(
            inside.contains("eth0") && inside.contains("172.19.0.9/16"),
            "{inside}"
        );
        assert!(inside.contains("127.0.0.1/8"), "lo is up: {inside}");
        assert!(
            inside.contains("default via 172.19.0.1 dev eth0"),
            "{inside}"
        );
        let bridge = sh("ip -d addr show dev hawser0");
        assert!(
            bridge.contains("172.19.0.1/16") && bridge.contains("bridge") && bridge.contains("UP"),
            "{bridge}"
        );
        let veth = sh("ip -d link show dev hwac130009");
        assert!(
            veth.contains("master hawser0") && veth.contains("altname web"),
            "{veth}"
        );
        let alias = veth
            .lines()
            .find_map(|line| line.trim().strip_prefix("alias "))
            .expect("an alias");
        assert!(alias.starts_with("hawser 1 run web "), "{alias}");
        assert!(sh("ip link show dev hawser0").contains("alias hawser 1 network 172.19.0.1/16"));
    });
}

#[test]
fn eth0_has_the_mac_of_its_address_and_the_uplinks_mtu() {
    case(|lab| {
        sh("ip link set uplink mtu 1400");
        let link = lab
            .run(
                &["--ip", "172.19.0.9"],
                &["ip", "link", "show", "dev", "eth0"],
            )
            .ok();
        assert!(
            link.contains("mtu 1400") && link.contains("02:00:ac:13:00:09"),
            "{link}"
        );
        let link = lab
            .run(
                &["--mtu", "1300", "--mac", "02:00:00:00:00:77"],
                &["ip", "link", "show", "dev", "eth0"],
            )
            .ok();
        assert!(
            link.contains("mtu 1300") && link.contains("02:00:00:00:00:77"),
            "{link}"
        );
    });
}

#[test]
fn ptp_has_no_bridge() {
    packets(|lab| {
        lab.serve();
        let script = "ip -o addr show dev eth0; ip route; ping -c 1 -W 2 10.0.0.1 >/dev/null && echo pinged; \
            wget -q -O - http://198.51.100.10/cgi-bin/whoami; echo up; read x";
        let mut first = lab.start(&["--network", "ptp"], &["sh", "-c", script]);
        let inside = first.until("up");
        assert!(
            inside.contains("10.0.0.2/32"),
            "the first container's address: {inside}"
        );
        assert!(
            inside.contains("10.0.0.1") && inside.contains("default via 10.0.0.1 dev eth0"),
            "{inside}"
        );
        assert!(inside.contains("pinged"), "the host answers: {inside}");
        assert!(
            inside.contains("192.0.2.2"),
            "the server sees the uplink's address: {inside}"
        );
        assert!(
            !sh("ip -o link show type bridge").contains("hawser"),
            "no bridge"
        );
        assert!(sh("ip -o addr").contains("10.0.0.1"), "the host's address");
        assert!(sh("ip link show dev hw0a000002").contains("alias hawser 1 run "));
        let mut second = lab.start(
            &["--network", "ptp"],
            &[
                "sh",
                "-c",
                "ip -o addr show dev eth0; ping -c 1 -W 2 10.0.0.2; echo up; read x",
            ],
        );
        let inside = second.until("up");
        assert!(
            inside.contains("/32") && !inside.contains("inet 10.0.0.2/32"),
            "{inside}"
        );
        assert!(
            inside.contains("1 packets received"),
            "two point-to-point containers reach each other: {inside}"
        );
    });
}

#[test]
fn none_has_lo_alone() {
    case(|lab| {
        let links = lab
            .run_sh(
                &["--network", "none"],
                "ip -o link | cut -d: -f2; ping -c 1 -W 1 127.0.0.1 >/dev/null && echo lo answers",
            )
            .ok();
        assert_eq!(links, " lo\nlo answers");
        assert!(!sh("ip -o link").contains("hw"), "nothing on the host");
    });
}

#[test]
fn none_needs_no_network_on_the_host() {
    case(|lab| {
        lab.run(&["--network", "none"], &["true"]).ok();
        assert_eq!(sh("nft list ruleset"), "", "no table for it");
        assert!(!sh("ip -o link").contains("hawser0"), "no bridge for it");
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .expect("a sysctl")
                .trim(),
            "0",
            "no forwarding for it"
        );
    });
}

#[test]
fn host_is_the_hosts_own() {
    case(|lab| {
        let inside = lab
            .run(
                &["--network", "host"],
                &[
                    "sh",
                    "-c",
                    "ip -o link; readlink /proc/self/ns/net; cat /etc/resolv.conf",
                ],
            )
            .ok();
        assert!(inside.contains("uplink"), "{inside}");
        assert!(
            inside.contains(sh("readlink /proc/self/ns/net").trim()),
            "{inside}"
        );
        assert!(inside.contains("nameserver 198.51.100.53"), "{inside}");
        assert!(
            sh("ip -o link show uplink").contains("UP"),
            "and stays as it was"
        );
    });
}

#[test]
fn container_shares_the_others_network() {
    packets(|lab| {
        let _first = lab.start_idle(&["--name", "first", "--ip", "172.19.0.9"]);
        let inside = lab
            .run_sh(
                &["--network", "container:first"],
                "ip -o addr show dev eth0; ping -c 1 -W 2 172.19.0.1 >/dev/null && echo pinged",
            )
            .ok();
        assert!(
            inside.contains("172.19.0.9/16") && inside.contains("pinged"),
            "{inside}"
        );
        let ports = sh("ip -o link show master hawser0");
        assert_eq!(ports.lines().count(), 1, "one veth for both: {ports}");
        lab.run(&["--network", "container:nobody"], &["true"])
            .refused(&["nobody"]);
    });
}

#[test]
fn a_network_outlives_its_first_container_while_another_shares_it() {
    packets(|lab| {
        let mut first = lab.start_idle(&["--name", "first", "--ip", "172.19.0.9"]);
        let mut second = lab.start(
            &["--name", "second", "--network", "container:first"],
            &[
                "sh",
                "-c",
                "echo up; read x; ping -c 1 -W 2 172.19.0.1; read x",
            ],
        );
        second.until("up");
        first.say("\n");
        first.end().exits(0);
        second.say("\n");
        assert!(
            second.until("packet loss").contains("1 packets received"),
            "the network is still there"
        );
        lab.run(&["--ip", "172.19.0.9"], &["true"])
            .refused(&["172.19.0.9"]);
        second.say("\n");
        second.end().exits(0);
    });
}

/// Who comes to share a network is not to be seen in there yet when it ends: its limits go then, and nobody is to run without them.
#[test]
fn who_joins_a_container_that_ends_meanwhile_is_refused() {
    case(|lab| {
        let own = "--name own --network ptp --egress none -d";
        let own: Vec<&str> = own.split(' ').collect();
        let join = ["--name", "guest", "--network", "container:own"];
        let join = lab.run_command(&join, &["echo", "it has run"]);
        for is_again_there in [false, true] {
            lab.run(&own, &["sleep", "1000"]).exits(0);
            let netns = std::fs::read_link(format!("/proc/{}/ns/net", lab.pid_of("own")));
            let netns = netns.expect("its network namespace");
            // The child, before it has joined anything.
            let guest = Stopped::at_call("mount", &join, &lab.dir.join("trace"));
            let fds = format!("/proc/{}/fd", guest.pid());
            wait_untold("it has the network", || {
                let open = std::fs::read_dir(&fds).expect("its descriptors").flatten();
                let mut leads = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
                leads.any(|to| to == netns)
            });
            lab.hawser(&["stop", "--grace", "0", "own"]).ok();
            if is_again_there {
                lab.run(&own, &["sleep", "1000"]).exits(0);
            }
            guest.go_on().end().refused(&["own", "ended"]);
        }
        lab.hawser(&["stop", "--grace", "0", "own"]).ok();
    });
}

/// Nobody holds them any more: whoever takes one next is to be reached by it.
#[test]
fn the_ports_are_closed_with_the_first_container() {
    packets(|lab| {
        lab.run(
            &["-d", "--name", "own", "-p", "8080:80", "--egress", "dns"],
            &["sleep", "1000"],
        )
        .exits(0);
        let mut guest = lab.start(
            &["--name", "guest", "--network", "container:own"],
            &["sh", "-c", "echo up; read x"],
        );
        guest.until("up");
        assert!(sh("nft list ruleset").contains("8080"), "it leads there");
        lab.hawser(&["stop", "--grace", "0", "own"]).ok();
        // Whoever has heard of the end finds it free.
        let daemon = TcpListener::bind("0.0.0.0:8080").expect("a daemon of the host");
        for again in [false, true] {
            if again {
                lab.hawser(&["restore"]).ok();
            }
            let rules = sh("nft list ruleset");
            assert!(!rules.contains("8080"), "{rules}");
            assert!(rules.contains("172.19.0.2"), "its limits stay: {rules}");
            let address = "192.0.2.2:8080".parse().expect("an address");
            let asking = lab
                .internet
                .enter(|| TcpStream::connect_timeout(&address, DEADLINE));
            asking.expect("connect");
            daemon.set_nonblocking(true).expect("look at a socket");
            daemon.accept().expect("it comes to the host");
        }
        drop(guest);
    });
}

/// Nobody is there to close them: the next command does.
#[test]
fn the_ports_of_who_was_killed_are_closed_though_its_network_lives_on() {
    packets(|lab| {
        let options = [
            "-p",
            "8080:80",
            "-p",
            "192.0.2.2:8081:80/udp",
            "--egress",
            "dns",
        ];
        let own = lab.start_idle(&[&["--name", "own"], &options[..]].concat());
        let other = lab.start_idle(&["--name", "other", "-p", "8082:80"]);
        let script = ["sh", "-c", "echo up; read x"];
        let mut guest = lab.start(&["--name", "guest", "--network", "container:own"], &script);
        guest.until("up");
        let address = lab.listed("own")["address"].as_str().map(str::to_owned);
        let address = address.expect("its address");
        let first = lab.pid_of("own");
        own.signal(libc::SIGKILL);
        wait_for_end(own.pid());
        wait_for_end(first);
        let rules = sh("nft list ruleset");
        assert!(rules.contains("8080") && rules.contains("8081"), "{rules}");
        lab.hawser(&["ls"]).ok();
        let rules = sh("nft list ruleset");
        assert!(
            !rules.contains("8080") && !rules.contains("8081"),
            "{rules}"
        );
        assert!(rules.contains("8082"), "the other's stays: {rules}");
        assert!(rules.contains(&address), "its limits stay: {rules}");
        let opened = sh("nft list set inet hawser open4");
        assert!(!opened.contains(&address), "{opened}");
        // Who is reached by it now is the host.
        let daemon = TcpListener::bind("0.0.0.0:8080").expect("a daemon of the host");
        let host = "192.0.2.2:8080".parse().expect("an address");
        let connect = || TcpStream::connect_timeout(&host, DEADLINE);
        lab.internet.enter(connect).expect("connect");
        daemon.set_nonblocking(true).expect("look at a socket");
        daemon.accept().expect("it comes to the host");
        guest.end();
        other.end().exits(0);
    });
}

#[test]
fn ns_joins_an_existing_one() {
    case(|lab| {
        let inside = lab
            .run(
                &["--network", "ns:/run/netns/internet"],
                &["ip", "-o", "addr"],
            )
            .ok();
        assert!(inside.contains("198.51.100.10"), "{inside}");
        assert!(
            sh("ip -n internet -o link").contains("eth0"),
            "and it lives on"
        );
        lab.run(&["--network", "ns:/run/lab/nothing"], &["true"])
            .refused(&["/run/lab/nothing"]);
        let cure = "give one of /run/netns";
        for (path, is_not) in [
            ("/etc/passwd", "no namespace"),
            ("/etc", "no namespace"),
            ("/proc/self/ns/uts", "another kind"),
        ] {
            lab.run(&["--network", &format!("ns:{path}")], &["true"])
                .refused(&[path, is_not, cure]);
            lab.hawser(&["attach", "--netns", path])
                .refused(&[path, is_not, cure]);
        }
    });
}

#[test]
fn an_unknown_network_is_refused() {
    case(|lab| {
        let outcome = lab.run(&["--network", "macvlan"], &["true"]).exits(125);
        assert!(outcome.err().contains("macvlan"), "{outcome}");
    });
}

#[test]
fn up_makes_a_network_without_a_container() {
    case(|lab| {
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        assert!(sh("ip addr show dev blue").contains("172.28.0.1/24"));
        assert!(
            sh("nft list ruleset").contains("masquerade"),
            "its traffic is masqueraded"
        );
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        let inside = lab
            .run(
                &["--bridge", "blue"],
                &["ip", "-o", "addr", "show", "dev", "eth0"],
            )
            .ok();
        assert!(
            inside.contains("172.28.0."),
            "run takes the subnet of the bridge that is there: {inside}"
        );
        lab.hawser(&["up"]).exits(0);
        assert!(sh("ip addr show dev hawser0").contains("172.19.0.1/16"));
    });
}

#[test]
fn a_host_without_an_uplink_has_networks_too() {
    packets(|lab| {
        sh("ip link del uplink");
        for (network, gateway) in [("bridge", "172.19.0.1"), ("ptp", "10.0.0.1")] {
            let script = format!("ping -c 1 -W 2 {gateway} && ip link show dev eth0");
            let seen = lab.run_sh(&["--network", network], &script).ok();
            assert!(seen.contains("mtu 1500"), "{seen}");
        }
    });
}

#[test]
fn the_interface_inside_is_called_as_it_is_asked_to_be() {
    case(|lab| {
        let look = "ip -o -4 addr show dev port0; ip route; ls /sys/class/net 2>&1";
        for network in ["bridge", "ptp"] {
            let options = ["--iface", "port0", "--no-ipv6", "--network", network];
            let seen = lab.run_sh(&options, look).ok();
            assert!(
                seen.contains("inet 1") && seen.contains("default via") && !seen.contains("eth0"),
                "{seen}"
            );
        }
        for name in ["lo", "a/b", "sixteen-letters-", "", "eth%d", "all"] {
            let refused = lab.run(&["--iface", name], &["true"]);
            refused.refused(&["--iface <NAME>", "1 to 15 characters"]);
        }
    });
}

/// As NetworkManager's and netplan's bridges have it, unless they are told: a port is half a minute in waiting, and so is its container.
#[test]
fn a_spanning_tree_that_holds_packets_back_is_told() {
    case(|lab| {
        sh("ip link add br9 type bridge stp_state 1
            ip addr add 172.29.0.1/24 dev br9; ip link set br9 up");
        let run = || {
            lab.run(
                &["--bridge", "br9"],
                &["ping", "-c", "1", "-W", "1", "172.29.0.1"],
            )
        };
        let told = run();
        let cure = "ip link set br9 type bridge stp_state 0";
        assert!(told.out().contains("100% packet loss"), "{told}");
        assert!(
            told.err().contains(cure) && told.err().lines().count() == 1,
            "{told}"
        );
        let plugin = lab.plugin();
        let config = json!({
            "cniVersion": "1.0.0", "name": "lan", "type": "hawser", "bridge": "br9",
            "ipam": { "ranges": [[{ "subnet": "172.29.0.0/24" }]] },
        });
        let _pod = Netns::new("a");
        let whose = Whose {
            container: "c",
            interface: "eth0",
            netns: "/run/netns/a",
        };
        let Answer(told) = plugin.call("ADD", whose, &config);
        assert!(told.err().contains(cure), "{told}");
        let result: Value = serde_json::from_str(&told.out()).expect("a result");
        assert_eq!(result["interfaces"][0]["name"], "br9", "{told}");
        plugin.call("DEL", whose, &config).ok();
        paste(cure);
        run().ok();
    });
}

/// Where `default.forwarding` is 0, all links that come later forward nothing, though the host does.
#[test]
fn links_that_are_born_without_forwarding() {
    case(|lab| {
        lab.serve();
        sh("sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.default.forwarding=0");
        let off = |link: &str| {
            sh(&format!(
                "echo 0 >/proc/sys/net/ipv4/conf/{link}/forwarding"
            ))
        };
        let ping = ["ping", "-c", "1", "-W", "2", "198.51.100.10"];
        for network in ["bridge", "ptp"] {
            lab.run(&["--network", network], &ping).exits(0);
        }
        // Somebody has switched it off since.
        off("hawser0");
        lab.run(&[], &ping).exits(0);
        let plugin = lab.plugin();
        for mode in ["bridge", "ptp"] {
            let inside = Netns::new("a");
            let whose = Whose {
                container: "c",
                interface: "eth0",
                netns: "/run/netns/a",
            };
            let mut config = json!({
                "cniVersion": "1.1.0", "name": mode, "type": "hawser", "mode": mode, "ipMasq": true,
                "ipam": { "ranges": [[{ "subnet": "10.88.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] },
            });
            if mode == "bridge" {
                config["bridge"] = json!("cni0");
            }
            let result = plugin.call("ADD", whose, &config).ok();
            inside.sh(&format!("busybox {}", ping.join(" ")));
            // The bridge; without one the host's end.
            let link = result["interfaces"][0]["name"].as_str().expect("a name");
            config["prevResult"] = result.clone();
            plugin.call("CHECK", whose, &config).ok();
            off(link);
            let cure = format!("sysctl -w net.ipv4.conf.{link}.forwarding=1");
            let fault = plugin.call("CHECK", whose, &config);
            fault.fault(101, &["does not forward", &cure]);
            if mode == "bridge" {
                // The next ADD switches it on again.
                let said = plugin.of_network("STATUS", &config).0.exits(0).err();
                assert!(
                    said.contains("does not forward") && said.contains(&cure),
                    "{said}"
                );
            }
            paste(&cure);
            plugin.call("CHECK", whose, &config).ok();
            plugin.of_network("STATUS", &config).ok();
            plugin.call("DEL", whose, &config).ok();
            lab.hawser(&["down", "--bridge", "cni0"]).exits(0);
            drop(inside);
            sh("umount /run/netns/a; rm /run/netns/a");
        }
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        let left = sh("sysctl -n net.ipv4.ip_forward net.ipv4.conf.default.forwarding");
        assert_eq!(left, "1\n0\n");
    });
}

/// And nothing below `/proc/sys` can be written: the kernel is told by netlink.
#[test]
fn links_that_are_born_without_forwarding_are_told_otherwise() {
    case(|lab| {
        if !lab.real_root {
            return skip("only the real root may mount over /proc/sys");
        }
        lab.serve();
        let seal = || sh("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys");
        sh(
            "sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.default.forwarding=0
            echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra",
        );
        seal();
        let ping = ["ping", "-c", "1", "-W", "2", "198.51.100.10"];
        for network in ["bridge", "ptp"] {
            lab.run(&["--network", network], &ping).exits(0);
        }
        let plugin = lab.plugin();
        let _inside = Netns::new("a");
        let whose = Whose {
            container: "c",
            interface: "eth0",
            netns: "/run/netns/a",
        };
        let config = json!({
            "cniVersion": "1.1.0", "name": "n", "type": "hawser", "bridge": "cni0",
            "ipam": { "ranges": [[{ "subnet": "10.88.0.0/24" }]] },
        });
        plugin.call("ADD", whose, &config).ok();
        // Somebody has switched it off since.
        sh("umount /proc/sys
            for link in hawser0 cni0; do echo 0 >/proc/sys/net/ipv4/conf/$link/forwarding; done");
        seal();
        lab.run(&[], &ping).exits(0);
        // The next ADD switches it on again.
        let said = plugin.of_network("STATUS", &config).0.exits(0).err();
        assert!(said.contains("cni0.forwarding is 0"), "{said}");
        plugin.call("DEL", whose, &config).ok();
        plugin.call("ADD", whose, &config).ok();
        plugin.of_network("STATUS", &config).ok();
    });
}
