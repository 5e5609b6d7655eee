//! IPv6: there by default beside IPv4, usable from the first instruction on, and nowhere where it is not wanted or not there.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use lab::wire::{
    ALL_NODES, ARP, BROADCAST, Host, IPV6, Mac, Wire, advertised_router, arp, ethernet, icmp6,
    ipv6, multicast,
};
use lab::{
    Lab, Netns, Outcome, Scene, Snapshot, Station, Watch, Whose, case, packets, sh, wait_for_end,
};
use serde_json::json;

const SUBNET6: &[&str] = &["--subnet6", "2001:db8:6::/64"];

/// The value of a switch, or nothing where the kernel has no such switch.
fn switch(name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}"));
    text.unwrap_or_default().trim().to_owned()
}

fn inspect(lab: &Lab, name: &str) -> serde_json::Value {
    let text = lab.hawser(&["inspect", name]).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What `--verbose` says of one run.
fn verbose(lab: &Lab, options: &[&str], command: &[&str]) -> Outcome {
    lab.run(&[&["--verbose"], options].concat(), command)
        .exits(0)
}

#[test]
fn a_container_has_both_families_by_default() {
    packets(|lab| {
        for (options, length) in [(&[][..], 64), (&["--network", "ptp"], 128)] {
            let name = ["--name", "web"];
            let mut web = lab.start_idle(&[options, &name].concat());
            let seen = inspect(lab, "web");
            let text = |key: &str| seen[key].as_str().unwrap_or_default().to_owned();
            let subnet = text("subnet6");
            let prefix = subnet.strip_suffix("::/64").expect("a /64");
            assert!(prefix.starts_with("fd"), "unique local: {seen}");
            assert_eq!(text("gateway6"), format!("{prefix}::1"), "{seen}");
            let host = text("address").rsplit('.').next().map(str::to_owned);
            let host: u8 = host.and_then(|host| host.parse().ok()).expect("an octet");
            assert_eq!(text("address6"), format!("{prefix}::{host:x}"), "{seen}");
            assert_eq!(lab.listed("web")["address6"], seen["address6"]);
            web.say("\n");
            web.end().exits(0);
            let script = "ip -6 addr show dev eth0; ip -6 route; ip -6 neigh; cat /etc/hosts";
            let inside = lab.run_sh(options, script).ok();
            assert!(
                inside.contains(&format!("/{length} scope global")),
                "{inside}"
            );
            for words in [
                "scope link",
                &format!("default via {prefix}::1 dev eth0"),
                "PERMANENT",
                &format!("\n{prefix}::"),
            ] {
                assert!(inside.contains(words), "{words}: {inside}");
            }
            assert!(!inside.contains("tentative"), "{inside}");
        }
    });
}

#[test]
fn the_subnet_is_the_same_again_and_each_networks_own() {
    case(|lab| {
        let subnet = |options: &[&str]| {
            let script = "ip -6 route | grep ^fd.*/64";
            lab.run_sh(options, script)
                .ok()
                .split('/')
                .next()
                .map(str::to_owned)
        };
        let first = subnet(&[]);
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        assert_eq!(subnet(&[]), first);
        let other = subnet(&["--bridge", "blue", "--subnet", "172.28.0.0/24"]);
        assert!(other.is_some() && other != first, "{other:?} {first:?}");
        // One that somebody else has is left to him.
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        let taken = first.clone().expect("a subnet");
        sh(&format!("ip -6 route add {taken}/64 via 2001:db8:1::1"));
        let moved = subnet(&[]);
        assert!(moved.is_some() && moved != first, "{moved:?} {first:?}");
    });
}

#[test]
fn a_machine_without_an_id_gets_one_until_the_last_network_goes() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("only the real root may mount over /etc/machine-id");
        }
        for path in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
            if Path::new(path).exists() {
                sh(&format!("mount --bind /dev/null {path}"));
            }
        }
        let site = |network: &str| {
            let options = ["--network", network, "--bridge", "blue"];
            let options = if network == "ptp" {
                &options[..2]
            } else {
                &options
            };
            let script = "ip -6 route show default";
            let route = lab.run_sh(options, script).ok();
            let gateway = route.split(' ').nth(2).expect("a gateway").to_owned();
            gateway.split(':').take(3).collect::<Vec<_>>().join(":")
        };
        let first = site("bridge");
        assert!(first.starts_with("fd"), "{first}");
        assert_eq!(site("ptp"), first, "of one machine");
        lab.settle();
        lab.hawser(&["down", "--bridge", "blue"]).exits(0);
        assert!(!Path::new("/run/hawser").exists());
        assert_ne!(site("bridge"), first, "a random one");
    });
}

#[test]
fn the_gateway_neighbours_and_the_host_are_reached() {
    packets(|lab| {
        let sees = |options: &[&str], address: &str| {
            let script = format!("ping -c 1 -W 2 {address}");
            let outcome = lab.run_sh(options, &script);
            assert_eq!(outcome.code, 0, "{options:?} {address}: {outcome}");
        };
        for options in [&[][..], &["--network", "ptp"]] {
            let _web = lab.start_idle(&[options, &["--name", "web"]].concat());
            let web = inspect(lab, "web");
            for key in ["gateway6", "address6", "gateway", "address"] {
                sees(options, web[key].as_str().expect("an address"));
            }
            // Of the host: the one that it has on its uplink.
            sees(options, "2001:db8:1::2");
            let address6 = web["address6"].as_str().expect("an address").to_owned();
            sh(&format!(
                "ping -6 -c 1 -W 2 {address6} || busybox ping -6 -c 1 -W 2 {address6}"
            ));
        }
    });
}

#[test]
fn the_internet_sees_the_hosts_own_address() {
    packets(|lab| {
        lab.serve();
        lab.web("[2001:db8:2::10]:80");
        // A resolver that is reached by IPv6 alone, and a name that has no IPv4 address.
        lab.set_resolv_conf("nameserver 2001:db8:2::53\n");
        let whoami = [
            "wget",
            "-q",
            "-O",
            "-",
            "http://six.example.test/cgi-bin/whoami",
        ];
        for options in [&[][..], &["--network", "ptp"]] {
            let seen = lab.run(options, &whoami).ok();
            assert_eq!(seen, "[2001:db8:1::2]", "{options:?}");
        }
    });
}

fn bind_at_once(lab: &Lab, runs: usize) {
    for run in 0..runs {
        let options = [SUBNET6, &["--ip", "172.19.0.9"]].concat();
        // The server goes to the background when it has bound its address, and fails when it cannot.
        for address in ["[2001:db8:6::9]:80", "[fe80::acff:fe13:9%eth0]:80"] {
            let command = ["busybox", "httpd", "-p", address, "-h", "/"];
            let outcome = lab.run(&options, &command);
            assert_eq!(outcome.code, 0, "run {run}, {address}: {outcome}");
        }
    }
}

#[test]
fn the_first_instruction_can_bind_its_addresses() {
    case(|lab| bind_at_once(lab, 20));
}

#[test]
#[ignore = "long: cargo test -p tests --test ipv6 -- --ignored"]
fn the_first_instruction_can_bind_its_addresses_a_thousand_times() {
    case(|lab| bind_at_once(lab, 1000));
}

/// The kernel leaves the route by which packets to an address are taken in to a worker, who now and then comes too late.
#[test]
fn the_first_packet_is_answered() {
    packets(|lab| {
        for network in ["bridge", "ptp"] {
            for run in 0..50 {
                let ping = ["ping", "-c", "1", "-W", "2", "2001:db8:1::2"];
                let outcome = lab.run(&["--network", network], &ping);
                assert_eq!(outcome.code, 0, "{network}, run {run}: {outcome}");
            }
        }
    });
}

#[test]
fn a_fixed_address_brings_its_ipv4_address_along() {
    case(|lab| {
        let options = [SUBNET6, &["--ip6", "2001:db8:6::102", "--name", "web"]].concat();
        let _web = lab.start_idle(&options);
        let web = inspect(lab, "web");
        assert_eq!(web["address"], "172.19.1.2", "{web}");
        assert_eq!(web["address6"], "2001:db8:6::102", "{web}");
        assert_eq!(web["subnet6"], "2001:db8:6::/64", "{web}");
        for taken in [["--ip6", "2001:db8:6::102"], ["--ip", "172.19.1.2"]] {
            lab.run(&taken, &["true"]).refused(&["172.19.1.2", "web"]);
        }
    });
}

#[test]
fn an_address_beyond_those_is_leased_by_a_name_of_the_link() {
    case(|lab| {
        let fixed = ["--ip6", "2001:db8:6::beef:cafe"];
        let options = [SUBNET6, &fixed, &["--name", "web"]].concat();
        for _ in 0..3 {
            let web = lab.start_idle(&options);
            assert_eq!(lab.listed("web")["address6"], "2001:db8:6::beef:cafe");
            let lease = "hw20010db80006000000000000beefcafe";
            let before = sh(&format!(
                "ip link show dev {lease}; ip neigh show dev hawser0"
            ));
            assert!(before.contains("altname web"), "{before}");
            lab.run(&fixed, &["true"])
                .refused(&["2001:db8:6::beef:cafe", "web", "choose another"]);
            let after = sh(&format!(
                "ip link show dev {lease}; ip neigh show dev hawser0"
            ));
            assert_eq!(after, before, "nothing of the holder's was touched");
            let script = "ip -6 addr show dev eth0 | grep beef:cafe/64";
            lab.run_sh(&[], script).exits(1);
            // Also free at once when its supervisor was killed.
            let pid = lab.pid_of("web");
            web.signal(libc::SIGKILL);
            wait_for_end(pid);
            drop(web.end());
        }
    });
}

/// What the firewall knows of a container it knows by its address: the end of one would be the end of the other's limits.
#[test]
fn two_point_to_point_networks_may_have_a_subnet_in_common_and_no_address() {
    case(|lab| {
        let ptp = ["--network", "ptp", "--egress", "none"];
        let with = |subnet, ip, rest: &[&'static str]| -> Vec<&'static str> {
            [&ptp, &["--subnet", subnet, "--ip", ip][..], rest].concat()
        };
        let named = ["--subnet6", "2001:db8:6::/64"];
        let a = with("10.0.0.0/24", "10.0.0.5", &named);
        for _ in 0..3 {
            let first = lab.start_idle(&[&a, &["--name", "a"][..]].concat());
            assert_eq!(lab.listed("a")["address6"], "2001:db8:6::5");
            let second = lab.start_idle(&with("10.1.0.0/24", "10.1.0.6", &named));
            let before = lab::Snapshot::take();
            lab.run(&with("10.1.0.0/24", "10.1.0.5", &named), &["true"])
                .refused(&["2001:db8:6::5", "container a", "choose another"]);
            before.assert_back();
            first.end().exits(0);
            let limited = sh("nft list set inet hawser limited6");
            assert!(limited.contains("2001:db8:6::6"), "{limited}");
            // Free at once.
            lab.run(&with("10.1.0.0/24", "10.1.0.5", &named), &["true"])
                .ok();
            second.end().exits(0);
        }
        // The one that another network has by itself.
        let first = lab.start_idle(&with("10.0.0.0/24", "10.0.0.5", &["--name", "a"]));
        let subnet6 = inspect(lab, "a")["subnet6"].as_str().map(str::to_owned);
        let subnet6 = subnet6.expect("a subnet");
        let options = with("10.1.0.0/24", "10.1.0.5", &[]);
        let options: Vec<&str> = [&options, &["--subnet6", &subnet6][..]].concat();
        lab.run(&options, &["true"])
            .refused(&["::5", "container a", "choose another"]);
        first.end().exits(0);
        lab.run(&options, &["true"]).ok();
    });
}

#[test]
fn no_ipv6_is_none_at_all() {
    case(|lab| {
        let script = "ip -6 addr show dev eth0; ip -6 route show default; grep -v '^#' /etc/hosts | grep -c :";
        for options in [&["--no-ipv6"][..], &["--no-ipv6", "--network", "ptp"]] {
            let seen = lab.run_sh(options, script).ok();
            assert_eq!(seen, "1", "only localhost's: {options:?}");
        }
        // The first one made the network; the next one gives it IPv6.
        assert!(!sh("ip -6 addr show dev hawser0").contains("global"));
        let seen = lab.run_sh(&[], script).ok();
        assert!(seen.contains("scope global"), "{seen}");
        // On a network that has it, too.
        assert_eq!(lab.run_sh(&["--no-ipv6"], script).ok(), "1");
        // Who says it by the kernel's switch has no address that cannot be given.
        for link in ["all", "eth0"] {
            let switch = format!("net.ipv6.conf.{link}.disable_ipv6=1");
            for network in ["bridge", "ptp"] {
                let options = ["--network", network, "--sysctl", &switch];
                let shown = lab.run_sh(&options, "ip -o addr show dev eth0").ok();
                assert!(!shown.contains("inet6"), "{options:?}: {shown}");
            }
            lab.run(&["--ip6", "fd00::9", "--sysctl", &switch], &["true"])
                .refused(&["--sysctl", "--ip6"]);
        }
    });
}

#[test]
fn a_network_without_ipv6_stays_without() {
    case(|lab| {
        lab.hawser(&["up", "--no-ipv6"]).exits(0);
        let said = verbose(lab, &[], &["ip", "-6", "route", "show", "default"]);
        lab.settle();
        let before = Snapshot::take();
        assert!(said.stdout.is_empty(), "{said}");
        assert!(said.err().contains("IPv4 alone"), "{said}");
        // As with --no-ipv6: the kernel makes no address by itself either.
        assert_eq!(
            lab.run_sh(&[], "ip -6 addr show dev eth0").ok(),
            "",
            "a link-local address"
        );
        lab.run(SUBNET6, &["true"])
            .refused(&["2001:db8:6::/64", "hawser0", "no IPv6"]);
        lab.run(&["--ip6", "2001:db8:6::7"], &["true"]).refused(&[
            "2001:db8:6::7",
            "hawser0",
            "no IPv6",
        ]);
        before.assert_back();
        // One that has it does not lose it.
        lab.hawser(&["down"]).exits(0);
        lab.hawser(&["up"]).exits(0);
        lab.hawser(&["up", "--no-ipv6"]).refused(&["hawser0", "fd"]);
    });
}

#[test]
fn a_host_without_ipv6_gives_ipv4_alone() {
    case(|lab| {
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        for network in ["bridge", "ptp"] {
            let options = ["--network", network];
            let script =
                "ip -6 route show default; ping -c 1 -W 2 192.0.2.1 | grep -o '1 packets received'";
            let said = verbose(lab, &options, &["sh", "-c", script]);
            assert_eq!(said.out(), "1 packets received\n", "{said}");
            assert!(
                said.err().contains("IPv4 alone") && said.err().contains("disable_ipv6"),
                "{said}"
            );
            lab.settle();
            let before = Snapshot::take();
            for asked in [SUBNET6, &["--ip6", "2001:db8:6::7"]] {
                lab.run(&[&options, asked].concat(), &["true"])
                    .refused(&[asked[1], "disable_ipv6"]);
            }
            before.assert_back();
        }
        // Once it has IPv6 again, so has the network.
        sh("echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        let seen = lab.run_sh(&[], "ip -6 route show default").ok();
        assert!(seen.contains("via fd"), "{seen}");
    });
}

#[test]
fn a_network_of_a_version_without_ipv6_gets_it() {
    case(|lab| {
        let _old = lab.start_idle(&["--no-ipv6", "--name", "old"]);
        sh("ip link set hawser0 alias 'hawser 1 network 172.19.0.1/16'");
        let seen = lab.run_sh(&[], "ip -6 route show default").ok();
        assert!(seen.contains("via fd"), "{seen}");
        assert!(sh("ip link show hawser0").contains("172.19.0.1/16 fd"));
    });
}

#[test]
fn an_address_that_somebody_has_taken_off_the_bridge_comes_back() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        sh("ip -6 addr flush dev hawser0; ip link set hawser0 address 02:00:00:00:00:99");
        let gateway = "ping -c 1 -W 2 $(ip -6 route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')";
        lab.run_sh(&[], gateway).exits(0);
        assert!(sh("ip link show hawser0").contains("02:00:ac:13:00:01"));
    });
}

#[test]
fn permanent_neighbours_are_replaced_and_go() {
    packets(|lab| {
        lab.hawser(&[&["up"], SUBNET6].concat()).exits(0);
        let neighbours = || sh("ip neigh show nud permanent");
        sh(
            "ip neigh add 172.19.0.9 lladdr 02:00:00:00:00:99 dev hawser0 nud permanent
            ip neigh add 2001:db8:6::9 lladdr 02:00:00:00:00:99 dev hawser0 nud permanent",
        );
        let mut web = lab.start_idle(&["--ip", "172.19.0.9", "--name", "web"]);
        for address in ["172.19.0.9", "2001:db8:6::9"] {
            let line = format!("{address} dev hawser0 lladdr 02:00:ac:13:00:09 PERMANENT");
            assert!(neighbours().contains(&line), "{line}: {}", neighbours());
        }
        web.say("\n");
        web.end().exits(0);
        assert_eq!(neighbours(), "", "none stays");
        // Those of one whose supervisor was killed go with the next call.
        let killed = lab.start_idle(&["--ip", "172.19.0.9", "--name", "web"]);
        let pid = lab.pid_of("web");
        killed.signal(libc::SIGKILL);
        wait_for_end(pid);
        drop(killed.end());
        lab.settle();
        assert_eq!(neighbours().lines().count(), 2, "so far");
        lab.hawser(&["ls"]).exits(0);
        assert_eq!(neighbours(), "");
    });
}

/// On a host with the networks hawser0 (2001:db8:6::/64) and blue, and a route to 2001:db8:9::/56.
const REFUSED: &[(&[&str], &[&str])] = &[
    (
        &["--ip", "2001:db8:6::2"],
        &["--ip", "2001:db8:6::2", "--ip6"],
    ),
    (&["--ip6", "172.19.0.2"], &["--ip6", "172.19.0.2", "--ip "]),
    (&["--subnet6", "172.19.0.0/16"], &["--subnet6", "--subnet "]),
    (&["--subnet", "2001:db8:6::/64"], &["--subnet", "--subnet6"]),
    (
        &["--subnet6", "2001:db8:6::2/64"],
        &["host bits", "2001:db8:6::/64"],
    ),
    (&["--subnet6", "fe80::/64"], &["fe80::/64"]),
    (
        &["--no-ipv6", "--ip6", "2001:db8:6::2"],
        &["--no-ipv6", "--ip6"],
    ),
    (
        &["--no-ipv6", "--subnet6", "2001:db8:6::/64"],
        &["--no-ipv6", "--subnet6"],
    ),
    (
        &["--ip6", "2001:db8:7::2"],
        &["2001:db8:7::2", "outside", "2001:db8:6::/64"],
    ),
    (&["--ip6", "2001:db8:6::1"], &["2001:db8:6::1", "gateway"]),
    (
        &["--ip6", "2001:db8:6::"],
        &["2001:db8:6::", "network's own"],
    ),
    (
        &["--ip6", "2001:db8:6::ffff"],
        &["2001:db8:6::ffff", "172.19.255.255", "broadcast"],
    ),
    (
        &["--ip", "172.19.0.5", "--ip6", "2001:db8:6::6"],
        &["2001:db8:6::6", "172.19.0.6", "172.19.0.5"],
    ),
    (
        &["--subnet6", "2001:db8:7::/64"],
        &["2001:db8:7::/64", "2001:db8:6::/64", "hawser0"],
    ),
    (
        &["--bridge", "red", "--subnet6", "2001:db8:9:1::/64"],
        &["2001:db8:9::/56", "uplink"],
    ),
    (
        &["--bridge", "red", "--subnet6", "2001:db8:6::/64"],
        &["2001:db8:6::/64", "hawser0"],
    ),
    (
        &["--network", "ptp", "--subnet6", "2001:db8:6::/64"],
        &["2001:db8:6::/64", "hawser0"],
    ),
    (
        &["--network", "ptp", "--subnet6", "2001:db8:9:1::/64"],
        &["2001:db8:9::/56", "uplink"],
    ),
    (
        &["--network", "none", "--ip6", "2001:db8:6::2"],
        &["--ip6", "network"],
    ),
    (
        &["--network", "host", "--no-ipv6"],
        &["--no-ipv6", "network"],
    ),
    (
        &["--mtu", "1279", "--ip6", "2001:db8:6::2"],
        &["address 2001:db8:6::2", "1280", "--mtu"],
    ),
    (
        &["--mtu", "1279", "--subnet6", "2001:db8:6::/64"],
        &["subnet 2001:db8:6::/64", "1280", "--mtu"],
    ),
    (
        &[
            "--mtu",
            "1000",
            "--bridge",
            "red",
            "--subnet6",
            "2001:db8:7::/64",
        ],
        &["subnet 2001:db8:7::/64", "1280", "it is 1000"],
    ),
    (
        &[
            "--mtu",
            "1000",
            "--network",
            "ptp",
            "--subnet6",
            "2001:db8:7::/64",
        ],
        &["subnet 2001:db8:7::/64", "1280", "it is 1000"],
    ),
];

#[test]
fn bad_input_changes_nothing() {
    case(|lab| {
        lab.hawser(&[&["up"], SUBNET6].concat()).exits(0);
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        sh("ip -6 route add 2001:db8:9::/56 via 2001:db8:1::1");
        let before = Snapshot::take();
        for (options, words) in REFUSED {
            lab.run(options, &["true"]).refused(words);
            before.assert_back();
        }
        lab.hawser(&["up", "--subnet6", "2001:db8:7::/64"])
            .refused(&["2001:db8:7::/64", "2001:db8:6::/64"]);
        lab.hawser(&["up", "--no-ipv6", "--subnet6", "2001:db8:7::/64"])
            .refused(&["--no-ipv6"]);
        before.assert_back();
    });
}

#[test]
fn a_small_mtu_costs_its_container_ipv6_and_nobody_else() {
    case(|lab| {
        let mut big = lab.start(&["--name", "big"], &["sh", "-c", "echo up; while read x; do ping -c 1 -W 2 $(ip -6 route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'); done"]);
        big.until("up");
        let show = ["ip", "-6", "route", "show", "default"];
        // First by who wants no IPv6: it is the others' all the same.
        let said = verbose(lab, &["--no-ipv6", "--mtu", "1000"], &show);
        assert!(said.stdout.is_empty(), "{said}");
        big.say("\n");
        let seen = big.until("packet loss");
        assert!(seen.contains("1 packets received"), "{seen}");
        let said = verbose(lab, &["--mtu", "1000"], &show);
        assert!(
            said.stdout.is_empty() && said.err().contains("1280"),
            "{said}"
        );
        big.say("\n");
        let seen = big.until("packet loss");
        assert!(seen.contains("1 packets received"), "{seen}");
    });
}

/// The kernel takes IPv6 away from a link whose MTU is too small for it, and does not give it back.
#[test]
fn a_bridge_whose_mtu_was_made_too_small_gets_ipv6_again() {
    case(|lab| {
        let script = "echo up; read x; ping -c 1 -W 2 $(ip -6 route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')";
        let mut before = lab.start(&["--name", "before"], &["sh", "-c", script]);
        before.until("up");
        sh("ip link set hawser0 mtu 1000");
        let address = lab.run(&[], &["ip", "-6", "-o", "address", "show", "dev", "eth0"]);
        assert!(address.ok().contains("scope global"), "has IPv6");
        before.say("\n");
        before.end().exits(0);
    });
}

#[test]
fn the_mtu_is_that_of_the_route() {
    case(|lab| {
        let mtu = |options: &[&str]| {
            let text = lab.run(options, &["cat", "/sys/class/net/eth0/mtu"]).ok();
            text.parse::<u32>().expect("a number")
        };
        assert_eq!(mtu(&[]), 1500);
        sh("ip route change default via 192.0.2.1 mtu 1450");
        assert_eq!((mtu(&[]), mtu(&["--network", "ptp"])), (1450, 1450));
        // What a router has advertised for IPv6 counts for IPv6.
        sh("echo 1440 > /proc/sys/net/ipv6/conf/uplink/mtu");
        assert_eq!((mtu(&[]), mtu(&["--no-ipv6"])), (1440, 1450));
        sh("ip -6 route change default via 2001:db8:1::1 mtu 1400");
        assert_eq!((mtu(&[]), mtu(&["--no-ipv6"])), (1400, 1450));
        sh("ip route del default; ip -6 route del default");
        assert_eq!(mtu(&[]), 1500, "nowhere to go to");
        // IPv6 may go another way.
        sh("ip link add tunnel mtu 1380 type veth peer name far
            ip link set tunnel up; ip link set far up
            ip -6 addr add 2001:db8:3::2/64 dev tunnel nodad
            ip route add default via 192.0.2.1; ip -6 route add 2000::/3 dev tunnel");
        assert_eq!((mtu(&[]), mtu(&["--no-ipv6"])), (1380, 1500));
        assert_eq!(mtu(&["--mtu", "1500"]), 1500, "what was asked for");
    });
}

/// Packets leave by any hop of a default route with several (ECMP), and answers come in by any.
#[test]
fn all_hops_of_a_default_route_count() {
    case(|lab| {
        sh("ip link set uplink mtu 1450
            ip link add second mtu 1400 type veth peer name far
            ip link set second up; ip link set far up
            ip addr add 203.0.113.1/24 dev second
            ip route replace default nexthop via 192.0.2.1 dev uplink nexthop via 203.0.113.2 dev second
            ip -6 route del default
            ip -6 route add default nexthop via fe80::1 dev uplink nexthop via fe80::2 dev second");
        for options in [&["--no-ipv6"][..], &[], &["--network", "ptp"]] {
            let mtu = lab.run(options, &["cat", "/sys/class/net/eth0/mtu"]).ok();
            assert_eq!(mtu, "1400", "{options:?}");
        }
        if forwards_by_link() {
            for link in ["uplink", "second"] {
                assert_eq!(switch(&format!("{link}/force_forwarding")), "1", "{link}");
            }
        }
    });
}

/// A bridge that is not ours, with addresses of both families.
const FOREIGN: &str = "ip link add br9 type bridge; ip addr add 172.29.0.1/24 dev br9
    ip addr add 2001:db8:29::1/64 dev br9 nodad; ip link set br9 up";

#[test]
fn a_bridge_that_is_not_ours_gives_what_it_has() {
    case(|lab| {
        sh(FOREIGN);
        let options = ["--bridge", "br9"];
        let script = "ip -6 route show default; ip -o -6 addr show scope global";
        // A gateway that forwards nothing is none.
        assert_eq!(lab.run_sh(&options, script).ok(), "");
        // Nor has its container a resolver that it could not reach, or an address by itself.
        lab.set_resolv_conf("nameserver 2001:db8:2::53\nnameserver 198.51.100.53\n");
        let look = "grep -v '^#' /etc/resolv.conf; ip -6 addr show dev eth0";
        let seen = lab.run_sh(&options, look).ok();
        assert_eq!(seen, "nameserver 198.51.100.53");
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let seen = lab.run_sh(&options, script).ok();
        assert!(
            seen.contains("via 2001:db8:29::1") && seen.contains("2001:db8:29::"),
            "{seen}"
        );
        lab.run(&[&options[..], SUBNET6].concat(), &["true"])
            .refused(&["2001:db8:6::/64", "2001:db8:29::/64", "br9"]);
    });
}

/// The kernel takes IPv6 off a bridge with a port of less than 1,280 bytes, and nobody but its maker could give it back.
#[test]
fn a_bridge_that_is_not_ours_keeps_its_ipv6() {
    case(|lab| {
        sh(FOREIGN);
        let before = Snapshot::take();
        let words = ["MTU 1000", "br9", "--mtu", "--bridge"];
        for family in [&[][..], &["--no-ipv6"]] {
            let options = [&["--bridge", "br9", "--mtu", "1000"], family].concat();
            lab.run(&options, &["true"]).refused(&words);
            before.assert_back();
        }
        lab.run(&["--bridge", "br9", "--mtu", "1280"], &["true"])
            .ok();
        let seen = sh("ip -6 addr show dev br9; ip -6 addr del 2001:db8:29::1/64 dev br9");
        assert!(seen.contains("2001:db8:29::1"), "{seen}");
        lab.run(&["--bridge", "br9", "--mtu", "1000"], &["true"])
            .ok();
    });
}

#[test]
fn the_hosts_own_addresses_on_a_bridge_that_is_not_ours_are_no_containers() {
    case(|lab| {
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            ip link add br9 type bridge; ip addr add 172.29.0.1/24 dev br9
            ip addr add 172.29.0.2/24 dev br9; ip addr add 192.0.2.77/32 dev br9
            ip addr add 2001:db8:29::3/64 dev br9 nodad
            ip addr add 2001:db8:29::1/64 dev br9 nodad; ip link set br9 up");
        let before = Snapshot::take();
        for (option, wanted, named) in [
            ("--ip", "172.29.0.2", "172.29.0.2"),
            ("--ip", "172.29.0.3", "2001:db8:29::3"),
            ("--ip6", "2001:db8:29::2", "172.29.0.2"),
            ("--ip6", "2001:db8:29::3", "2001:db8:29::3"),
        ] {
            lab.run(&["--bridge", "br9", option, wanted], &["true"])
                .refused(&[named, "the host's own", "br9"]);
            before.assert_back();
        }
        let script = "ip -o addr show dev eth0 scope global";
        let first = lab.run_sh(&["--bridge", "br9"], script).ok();
        assert!(
            first.contains("172.29.0.4/24") && first.contains("2001:db8:29::4/64"),
            "{first}"
        );
        // Without IPv6 its addresses are in nobody's way.
        let alone = ["--bridge", "br9", "--no-ipv6", "--ip", "172.29.0.3"];
        lab.run(&alone, &["true"]).ok();
    });
}

/// A router advertises itself there, to all of the link and to one by its hardware address; whoever has this IPv4 address has seen that.
fn advertise_to(wire: &Wire, from: Host, (to_mac, to): (Mac, Ipv4Addr)) {
    let Host { mac, ip, .. } = from;
    let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66);
    let advertisement = icmp6(own, ALL_NODES, 134, &advertised_router());
    let packet = ipv6(own, ALL_NODES, libc::IPPROTO_ICMPV6 as u8, &advertisement);
    for all_or_one in [multicast(ALL_NODES), to_mac] {
        wire.send(&ethernet(all_or_one, mac, IPV6, &packet));
    }
    // An answer to what was sent behind it.
    let question = arp(1, (mac, ip), ([0; 6], to));
    wire.send(&ethernet(BROADCAST, mac, ARP, &question));
    let is_answer = |frame: &[u8]| {
        frame.starts_with(&mac)
            && frame[12..14] == ARP.to_be_bytes()
            && frame[28..32] == to.octets()
    };
    wire.until(is_answer);
}

/// What the host believes of a router that advertises itself from there.
fn advertise(from: &Netns) -> String {
    let station = Station::new(from.again());
    let gateway = from.sh("ip route show default");
    let gateway = gateway.split(' ').nth(2).expect("a gateway");
    let gateway = gateway.parse().expect("an address");
    let to_all = multicast(ALL_NODES);
    advertise_to(&station.wire, station.host, (to_all, gateway));
    advertised_route()
}

/// What it takes of a router would not be its own to send from: its packets would be lost, and with the default route all IPv6.
#[test]
fn a_container_hears_no_router_on_a_bridge_that_is_not_ours() {
    packets(|lab| {
        // One that has IPv6, and one that has not.
        for forwards in [false, true] {
            sh(&format!(
                "echo {} >/proc/sys/net/ipv6/conf/all/forwarding",
                u8::from(forwards)
            ));
            let plain = Scene::plain();
            let router = &plain.attacker;
            let bridge = Wire::here(plain.bridge);
            let believed = |netns: &Netns| {
                netns.sh("ip -6 route show default proto ra; ip -6 addr show dynamic")
            };
            let check = |netns: Netns| {
                let it = Host::read(&netns.sh("ip -j addr show dev eth0"));
                // From a port, and from the host itself.
                advertise_to(&router.wire, router.host, (it.mac, it.ip));
                advertise_to(&bridge, plain.gateway, (it.mac, it.ip));
                assert_eq!(believed(&netns), "", "{it:?}, forwards: {forwards}");
            };
            let options = [
                "--bridge",
                plain.bridge,
                "--name",
                "web",
                "--ip",
                "172.31.0.9",
            ];
            for family in [&[][..], &["--no-ipv6"]] {
                let web = lab.start_idle(&[&options, family].concat());
                check(Netns::of(lab.pid_of("web")));
                web.end().exits(0);
                lab.settle();
                let guest = Netns::new("guest");
                let words = ["attach", "--netns", "/run/netns/guest"];
                lab.hawser(&[&words, &options[..], family].concat()).ok();
                check(guest.again());
                lab.hawser(&["detach", "web"]).ok();
                sh("umount /run/netns/guest; rm /run/netns/guest");
            }
            // The witness, whom nobody keeps from hearing it.
            let victim = &plain.victim;
            let it = (victim.host.mac, victim.host.ip);
            for (wire, from) in [(&router.wire, router.host), (&bridge, plain.gateway)] {
                victim.netns.sh("ip -6 route flush proto ra");
                advertise_to(wire, from, it);
                let heard = believed(&victim.netns);
                assert!(heard.contains("via fe80::66"), "{heard}");
                assert!(heard.contains("2001:db8:66:"), "{heard}");
            }
            // Not with their namespaces, a while later.
            sh(
                "for link in plain0 plain2 plain3; do ip link del $link; done
                umount /run/netns/*; rm /run/netns/*",
            );
        }
    });
}

#[test]
fn routers_do_not_advertise_themselves_to_the_host_from_a_container() {
    case(|lab| {
        let plain = Scene::plain();
        let believed = advertise(&plain.attacker.netns);
        assert!(believed.contains("fe80::66 dev plain0"), "{believed}");
        sh("ip link del plain0");
        let no_ipv6 = "--no-ipv6";
        lab.hawser(&["up", "--bridge", "never", "--subnet", "auto", no_ipv6])
            .exits(0);
        for (link, options) in [
            ("hawser0", &[][..]),
            ("never", &["--bridge", "never"]),
            ("red", &["--bridge", "red", "--subnet", "auto", no_ipv6]),
            ("hw0a000009", &["--network", "ptp", "--ip", "10.0.0.9"]),
            (
                "hw0a000008",
                &["--network", "ptp", "--ip", "10.0.0.8", no_ipv6],
            ),
        ] {
            let web = lab.start_idle(&[options, &["--name", "web"]].concat());
            let inside = Netns::of(lab.pid_of("web"));
            assert_eq!(advertise(&inside), "", "{link}");
            assert_eq!(switch(&format!("{link}/accept_ra")), "0", "{link}");
            drop(inside);
            web.end().exits(0);
            lab.settle();
        }
        let plugin = lab.plugin();
        let open = json!({
            "cniVersion": "1.0.0", "name": "n", "type": "hawser",
            "ipam": { "ranges": [[{ "subnet": "10.88.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] },
        });
        for (bridge, is_masqueraded) in [(Some("cni0"), true), (Some("cni1"), false), (None, true)]
        {
            let mut config = open.clone();
            config["ipMasq"] = is_masqueraded.into();
            match bridge {
                Some(bridge) => config["bridge"] = bridge.into(),
                None => config["mode"] = "ptp".into(),
            }
            let inside = Netns::new("a");
            let whose = Whose {
                container: "c",
                interface: "eth0",
                netns: "/run/netns/a",
            };
            let result = plugin.call("ADD", whose, &config).ok();
            let link =
                bridge.unwrap_or_else(|| result["interfaces"][0]["name"].as_str().expect("a name"));
            assert_eq!(advertise(&inside), "", "{link}");
            assert_eq!(switch(&format!("{link}/accept_ra")), "0", "{link}");
            plugin.call("DEL", whose, &config).ok();
            let _ = bridge.map(|bridge| lab.hawser(&["down", "--bridge", bridge]).exits(0));
            drop(inside);
            sh("umount /run/netns/a; rm /run/netns/a");
        }
    });
}

/// The kernel gives a link new switches when its MTU has been too small for IPv6 meanwhile, and somebody may have turned it on.
#[test]
fn a_bridge_that_heeds_routers_does_so_no_longer_than_to_the_next_start() {
    case(|lab| {
        for options in [&["--no-ipv6"][..], &[]] {
            lab.run(options, &["true"]).ok();
            for change in [
                "echo 1 >/proc/sys/net/ipv6/conf/hawser0/accept_ra",
                "ip link set hawser0 mtu 1000; ip link set hawser0 mtu 1500",
            ] {
                sh(change);
                assert_eq!(switch("hawser0/accept_ra"), "1", "{change}");
                lab.run(options, &["true"]).ok();
                assert_eq!(switch("hawser0/accept_ra"), "0", "{change}: {options:?}");
            }
        }
        // Where the kernel has no IPv6 on it there is nothing to turn off.
        sh("echo 1 >/proc/sys/net/ipv6/conf/hawser0/accept_ra
            echo 1 >/proc/sys/net/ipv6/conf/hawser0/disable_ipv6
            mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys");
        for network in ["bridge", "ptp"] {
            lab.run(&["--network", network, "--no-ipv6"], &["true"])
                .ok();
        }
    });
}

/// No address; and no route for multicasts, else the kernel goes through those of all ports when one comes or goes. Before Linux 6.8 its
/// worker may come by, and make the route, after that has been deleted.
#[test]
fn a_port_has_no_part_in_the_hosts_ipv6() {
    case(|lab| {
        lab.with_network();
        let release = sh("uname -r");
        let mut numbers = release
            .trim()
            .split(['.', '-'])
            .map_while(|word| word.parse().ok());
        let is_settled = (numbers.next(), numbers.next()) >= (Some(6), Some(8));
        let mut look = "ip -6 addr show dev hwac130009".to_owned();
        if is_settled {
            look.push_str("; ip -6 route show table all dev hwac130009");
        }
        for options in [
            &["--ip", "172.19.0.9"][..],
            &["--ip", "172.19.0.9", "--no-ipv6"],
        ] {
            let mut web = lab.start_idle(options);
            assert_eq!(sh(&look), "", "{options:?}");
            web.say("\n");
            web.end().exits(0);
            lab.settle();
        }
    });
}

/// The kernel forwards IPv6 link by link from 6.17 on.
fn forwards_by_link() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists()
}

/// Not to be written any more, as in a container whose `/proc/sys` is read-only.
fn seal(path: &str) {
    sh(&format!(
        "mount --bind {path} {path} && mount -o remount,bind,ro {path}"
    ));
}

#[test]
fn forwarding_is_switched_on_for_the_links_that_need_it_and_back() {
    case(|lab| {
        sh("ip link add other type veth peer name far; ip link set other up");
        let dump = "grep -s . /proc/sys/net/ipv6/conf/*/force_forwarding /proc/sys/net/ipv6/conf/*/forwarding /proc/sys/net/ipv6/conf/*/accept_ra; true";
        let before = sh(dump);
        let said = verbose(lab, &[], &["true"]).err();
        if forwards_by_link() {
            assert!(
                said.contains("net.ipv6.conf.uplink.force_forwarding was 0 and is 1 now"),
                "{said}"
            );
            for (link, expected) in [
                ("hawser0", "1"),
                ("uplink", "1"),
                ("other", "0"),
                ("all", "0"),
            ] {
                let name = format!("{link}/force_forwarding");
                assert_eq!(switch(&name), expected, "{name}");
            }
            assert_eq!(switch("all/forwarding"), "0");
        } else {
            assert!(
                said.contains("net.ipv6.conf.all.forwarding was 0 and is 1 now"),
                "{said}"
            );
        }
        assert!(
            !verbose(lab, &[], &["true"]).err().contains(" was 0"),
            "once"
        );
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        assert_eq!(sh(dump), before);
        // Not ours to put back.
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let said = verbose(lab, &[], &["true"]).err();
        assert!(!said.contains("ipv6"), "{said}");
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        assert_eq!(switch("all/forwarding"), "1");
    });
}

/// A host without a default route of IPv6 has other routes: its LAN has unique local addresses, say.
#[test]
fn links_without_a_default_route_forward_for_all_networks() {
    case(|lab| {
        let far = Netns::new("far");
        sh("ip -6 route del default
            ip link add lan0 type veth peer name eth0 netns far
            ip link set lan0 up; ip addr add 2001:db8:5::1/64 dev lan0 nodad");
        far.sh(
            "ip link set eth0 up; ip addr add 2001:db8:5::9/64 dev eth0 nodad
            ip -6 route add default via 2001:db8:5::1",
        );
        // A look at a link makes the kernel finish what its coming up has begun.
        sh("ip link show dev lan0");
        far.sh("ip link show dev eth0");
        let ping = ["ping", "-c", "1", "-W", "5", "2001:db8:5::9"];
        for network in ["bridge", "ptp"] {
            let options = ["--network", network];
            // The first wants none of it.
            lab.run(&[&options[..], &["--no-ipv6"]].concat(), &["true"])
                .ok();
            for _ in 0..2 {
                lab.run(&options, &ping).exits(0);
                lab.settle();
            }
            let said = verbose(lab, &options, &["true"]).err();
            assert!(!said.contains(" was 0"), "once: {said}");
            lab.settle();
            lab.hawser(&["down"]).exits(0);
            assert_ne!(switch("lan0/force_forwarding"), "1");
            assert_eq!(switch("all/forwarding"), "0");
            // And again after that.
            lab.run(&options, &ping).exits(0);
            lab.settle();
            lab.hawser(&["down"]).exits(0);
        }
    });
}

#[test]
fn forwarding_that_somebody_has_switched_off_comes_back() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        // What sysctl --system does with a file that says so; all links follow.
        sh(
            "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        lab.run(&[], &["true"]).ok();
        assert!(switch("hawser0/force_forwarding") == "1" || switch("all/forwarding") == "1");
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        assert_eq!(switch("all/forwarding"), "0");
        assert_ne!(switch("uplink/force_forwarding"), "1");
    });
}

#[test]
fn without_forwarding_there_is_ipv4_alone() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("only the real root may mount over /proc/sys");
        }
        for name in ["uplink/force_forwarding", "all/forwarding"] {
            let path = format!("/proc/sys/net/ipv6/conf/{name}");
            if Path::new(&path).exists() {
                seal(&path);
            }
        }
        let said = verbose(lab, &[], &["ip", "-6", "route", "show", "default"]);
        assert!(said.stdout.is_empty(), "{said}");
        assert!(
            said.err().contains("IPv4 alone") && said.err().contains("read-only here"),
            "{said}"
        );
        lab.run(
            &[
                "--ip6",
                "2001:db8:6::7",
                "--bridge",
                "red",
                "--subnet6",
                "2001:db8:6::/64",
                "--subnet",
                "auto",
            ],
            &["true"],
        )
        .refused(&["all/forwarding", "EROFS"]);
        assert!(!sh("ip -o link").contains("red"));
    });
}

/// The link of a container comes later than the look at the others.
#[test]
fn without_a_bridge_there_is_ipv4_alone_where_nothing_can_be_written() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("only the real root may mount over /proc/sys");
        }
        sh("sysctl -q -w net.ipv4.ip_forward=1; ip -6 route del default");
        let options = ["--network", "ptp"];
        let script = "ip -6 route show default; ping -c 1 -W 2 192.0.2.1 >/dev/null";
        let alone = || {
            let said = verbose(lab, &options, &["sh", "-c", script]);
            let err = said.err();
            assert!(said.stdout.is_empty(), "{said}");
            let words = "IPv4 alone: write 1 to /proc/sys/net/ipv6/conf/all/forwarding: ";
            assert!(
                err.contains(words) && err.contains("set net.ipv6.conf.all.forwarding=1 outside"),
                "{said}"
            );
        };
        seal("/proc/sys");
        alone();
        lab.run(&[&options, SUBNET6].concat(), &["true"])
            .refused(&["all/forwarding", "EROFS"]);
        // No route leads anywhere.
        sh("ip -6 addr flush dev uplink");
        alone();
        if forwards_by_link() {
            sh("umount /proc/sys; echo 1 >/proc/sys/net/ipv6/conf/default/force_forwarding");
            seal("/proc/sys");
            let seen = lab.run_sh(&options, script).ok();
            assert!(seen.contains("via fd"), "{seen}");
        }
        // With the cure.
        sh("umount /proc/sys; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        seal("/proc/sys");
        let seen = lab.run_sh(&options, script).ok();
        assert!(seen.contains("via fd"), "{seen}");
    });
}

/// Not once the network is there, which nobody would take back.
#[test]
fn a_port_of_ipv6_for_a_container_without_changes_nothing() {
    case(|lab| {
        let port = ["-p", "[2001:db8:1::2]:8080:80"];
        let words = ["2001:db8:1::2", "8080", "no IPv6 address"];
        let before = Snapshot::take();
        for network in ["bridge", "ptp"] {
            let options = [&["--network", network, "--mtu", "1000"][..], &port].concat();
            lab.run(&options, &["true"]).refused(&words);
            before.assert_back();
        }
        let guest = Netns::new("guest");
        guest.sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
        let before = Snapshot::take();
        let attach = ["attach", "--netns", "/run/netns/guest"];
        lab.hawser(&[&attach[..], &port].concat()).refused(&words);
        before.assert_back();
        // By loopback it is connected anew.
        lab.run(&["--mtu", "1000", "-p", "[::1]:8080:80"], &["true"])
            .ok();
    });
}

fn advertised_route() -> String {
    sh("ip -6 route show default proto ra")
}

/// The default route of the host came from a router; it is still there two of its lifetimes later, and a container's packets go
/// by it.
fn outlive_two_lifetimes(lab: &mut Lab, expected: &[(&str, &str)]) {
    sh("ip -6 route del default");
    let watch = Watch::routes();
    // For six seconds at a time, as real routers do for half an hour.
    let _router = lab.router(
        "AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 6;
         prefix 2001:db8:5::/64 { AdvValidLifetime 3600; AdvPreferredLifetime 1800; };",
    );
    assert!(watch.until(|| !advertised_route().is_empty()), "a router");
    let values = || -> Vec<String> {
        let all = ["accept_ra", "force_forwarding", "forwarding"];
        let of = |link: &str| all.map(|name| switch(&format!("{link}/{name}"))).to_vec();
        [of("uplink"), of("all")].concat()
    };
    let before = values();
    let mut web = lab.start(
        &["--verbose"],
        &["sh", "-c", "echo up; read x; ping -c 1 -W 2 2001:db8:2::10"],
    );
    web.until("up");
    for (name, value) in expected {
        assert_eq!(switch(name), *value, "{name}");
    }
    // Each advertisement that is heeded gives the route a new time to live; one that is not leaves it to die after six seconds.
    let begin = std::time::Instant::now();
    let mut heard = 0;
    while begin.elapsed().as_secs() < 13 {
        assert!(watch.wait(), "no advertisement was heeded: {heard} were");
        heard += 1;
        assert!(
            !advertised_route().is_empty(),
            "after {:?}",
            begin.elapsed()
        );
    }
    web.say("\n");
    let outcome = web.end();
    assert_eq!(outcome.code, 0, "{outcome}");
    lab.settle();
    lab.hawser(&["down"]).exits(0);
    assert_eq!(values(), before, "as before");
    assert!(
        !advertised_route().is_empty(),
        "and the route is still there"
    );
}

#[test]
fn routers_are_heard_while_the_host_forwards_link_by_link() {
    case(|lab| {
        if forwards_by_link() {
            let expected = [
                ("uplink/force_forwarding", "1"),
                ("uplink/accept_ra", "1"),
                ("all/forwarding", "0"),
            ];
            outlive_two_lifetimes(lab, &expected);
        } else {
            outlive_two_lifetimes(lab, &[("uplink/accept_ra", "2"), ("all/forwarding", "1")]);
        }
    });
}

#[test]
fn routers_are_heard_while_the_host_forwards_everywhere() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("only the real root may mount over /proc/sys");
        }
        if forwards_by_link() {
            seal("/proc/sys/net/ipv6/conf/uplink/force_forwarding");
        }
        outlive_two_lifetimes(lab, &[("uplink/accept_ra", "2"), ("all/forwarding", "1")]);
    });
}

#[test]
fn what_a_killed_one_left_under_an_address_is_not_obeyed_with_another_link() {
    case(|lab| {
        let fixed = ["--ip6", "2001:db8:6::beef:cafe"];
        let first = [
            "--name",
            "first",
            "--ip",
            "172.19.0.40",
            "--egress",
            "none",
            "-p",
            "8090:80",
        ];
        let running = lab.start_idle(&[SUBNET6, &fixed, &first].concat());
        let pid = lab.pid_of("first");
        running.signal(libc::SIGKILL);
        wait_for_end(pid);
        drop(running.end());
        let _second = lab.start_idle(&[&fixed[..], &["--ip", "172.19.0.41"]].concat());
        let rules = sh("nft list ruleset");
        for left in ["172.19.0.40", "8090"] {
            assert!(!rules.contains(left), "{left}: {rules}");
        }
        let limited = sh("nft list set inet hawser limited6");
        assert!(!limited.contains("beef:cafe"), "{limited}");
        lab.hawser(&["ls"]).exits(0);
        assert!(sh("ip -6 neigh show nud permanent").contains("beef:cafe"));
    });
}
