//! Subnets: what collides is named, what is free is found.

use lab::{Lab, Snapshot, case, packets, sh};

fn address(lab: &Lab, options: &[&str]) -> String {
    let text = lab.run_sh(options, "ip -o -4 addr show dev eth0").ok();
    text.split_whitespace()
        .nth(3)
        .expect("an address")
        .to_owned()
}

#[test]
fn a_subnet_that_collides_with_a_route_names_the_route() {
    case(|lab| {
        sh("ip route add 172.20.5.0/24 via 192.0.2.1");
        let before = Snapshot::take();
        for subnet in ["172.20.0.0/16", "172.20.5.0/24", "172.20.5.128/25"] {
            lab.run(&["--bridge", "b1", "--subnet", subnet], &["true"])
                .refused(&[subnet, "172.20.5.0/24", "uplink"]);
            before.assert_back();
        }
        lab.hawser(&["up", "--bridge", "b1", "--subnet", "192.0.2.128/25"])
            .refused(&["192.0.2.0/24", "uplink"]);
        before.assert_back();
        // The default route collides with nothing.
        assert!(
            address(lab, &["--bridge", "b1", "--subnet", "172.21.0.0/16"]).starts_with("172.21.")
        );
    });
}

#[test]
fn two_networks_of_ours_do_not_overlap_either() {
    case(|lab| {
        lab.hawser(&["up", "--bridge", "b1", "--subnet", "172.28.0.0/24"])
            .exits(0);
        lab.hawser(&["up", "--bridge", "b2", "--subnet", "172.28.0.0/16"])
            .refused(&["172.28.0.0/24", "b1"]);
    });
}

#[test]
fn auto_takes_a_free_one() {
    packets(|lab| {
        lab.serve();
        sh("ip route add 172.16.0.0/13 via 192.0.2.1");
        let auto = ["--bridge", "b1", "--subnet", "auto"];
        let first = address(lab, &auto);
        let octets: Vec<u8> = first
            .split(['.', '/'])
            .filter_map(|word| word.parse().ok())
            .collect();
        assert!(
            octets[0] == 172 && (24..32).contains(&octets[1]),
            "of 172.16.0.0/12 without the route's: {first}"
        );
        let whoami = "wget -q -O - http://198.51.100.10/cgi-bin/whoami";
        let seen = lab.run_sh(&auto, whoami).ok();
        assert_eq!(seen, "192.0.2.2", "and it is masqueraded");
        let second = address(lab, &["--bridge", "b2", "--subnet", "auto"]);
        assert_ne!(
            first.split('.').nth(1),
            second.split('.').nth(1),
            "two of them differ: {first} {second}"
        );
    });
}

#[test]
fn a_default_network_whose_range_is_taken_moves() {
    packets(|lab| {
        lab.serve();
        sh("ip route add 172.19.128.0/24 via 192.0.2.1");
        let script =
            "ip -o -4 addr show dev eth0; wget -q -O - http://198.51.100.10/cgi-bin/whoami";
        let seen = lab.run_sh(&[], script).exits(0).out();
        assert!(
            seen.contains(" 172.") && !seen.contains("172.19."),
            "{seen}"
        );
        assert!(seen.contains("192.0.2.2"), "{seen}");
        let again = address(lab, &[]);
        let network = |text: &str| {
            text.split(' ')
                .find(|word| word.starts_with("172."))
                .map(|word| word.split('.').take(2).collect::<Vec<_>>().join("."))
        };
        assert_eq!(
            network(&seen),
            network(&again),
            "the next run uses the same"
        );
    });
}

#[test]
fn ptp_moves_too() {
    packets(|lab| {
        lab.serve();
        sh("ip route add 10.0.0.0/8 via 192.0.2.1");
        let script =
            "ip -o -4 addr show dev eth0; wget -q -O - http://198.51.100.10/cgi-bin/whoami";
        let seen = lab.run_sh(&["--network", "ptp"], script).exits(0).out();
        assert!(seen.contains(" 172.") && seen.contains("/32"), "{seen}");
        assert!(seen.contains("192.0.2.2"), "{seen}");
        lab.run(&["--network", "ptp", "--subnet", "10.0.0.0/24"], &["true"])
            .refused(&["10.0.0.0/8"]);
    });
}

/// A VPN that is to have all packets, and leaves the default route as it is, has those of wider ones than any network is.
#[test]
fn routes_to_the_halves_of_all_addresses_are_a_default_route() {
    packets(|lab| {
        lab.serve();
        lab.internet.sh("ip route add 192.0.2.128/25 via 192.0.2.2");
        for half in ["0.0.0.0/1", "128.0.0.0/1"] {
            sh(&format!("ip route add {half} via 192.0.2.1"));
        }
        for part in ["::/3", "2000::/4", "3000::/4", "fc00::/7"] {
            sh(&format!("ip -6 route add {part} via 2001:db8:1::1"));
        }
        let whoami = "ip -o addr show dev eth0 scope global; wget -q -O - http://198.51.100.10/cgi-bin/whoami";
        let networks: [&[&str]; 4] = [
            &[],
            &["--bridge", "b1", "--subnet", "10.99.0.0/24"],
            &["--network", "ptp"],
            &["--network", "ptp", "--subnet", "10.98.0.0/24"],
        ];
        for network in networks {
            let seen = lab.run_sh(network, whoami).exits(0).out();
            assert!(
                seen.contains("192.0.2.2") && seen.contains("inet6"),
                "{seen}"
            );
            assert_eq!(lab.hawser(&["doctor"]).ok(), "");
        }
        assert!(address(lab, &[]).starts_with("172.19."));
    });
}

/// Who has no other use for private addresses says so to the kernel.
#[test]
fn wide_routes_that_lead_nowhere_are_in_nobodys_way() {
    case(|lab| {
        for (kind, private) in [
            ("blackhole", "10.0.0.0/8"),
            ("unreachable", "172.16.0.0/12"),
            ("prohibit", "192.168.0.0/16"),
            ("unreachable", "fd00::/8"),
        ] {
            sh(&format!("ip route add {kind} {private}"));
        }
        let networks: [&[&str]; 4] = [
            &[],
            &["--bridge", "b1", "--subnet", "192.168.77.0/24"],
            &["--network", "ptp"],
            &["--network", "ptp", "--subnet", "10.98.0.0/24"],
        ];
        for network in networks {
            let seen = lab.run_sh(
                network,
                "ip -o addr show dev eth0; ping -c 1 -W 2 192.0.2.2",
            );
            assert!(seen.exits(0).out().contains("inet6 fd"));
        }
        lab.serve();
        assert_eq!(lab.hawser(&["doctor"]).ok(), "");
        lab.run(&["--bridge", "b2", "--subnet", "172.16.0.0/12"], &["true"])
            .refused(&["172.16.0.0/12"]);
    });
}

/// Nobody has asked for IPv6.
#[test]
fn where_no_ipv6_subnet_is_free_there_is_ipv4_alone() {
    case(|lab| {
        sh("ip -6 route add fd00::/8 dev uplink");
        for network in ["bridge", "ptp"] {
            let network = ["--network", network];
            let seen = lab
                .run_sh(&network, "ip -o addr show dev eth0")
                .exits(0)
                .out();
            assert!(
                seen.contains("inet ") && !seen.contains("inet6 fd"),
                "{seen}"
            );
            let wanted = [&network[..], &["--ip6", "fd00:5::9"]].concat();
            lab.run(&wanted, &["true"]).refused(&["fd"]);
        }
    });
}

/// The containers' own routes are narrower.
#[test]
fn a_ptp_network_that_lives_stays_where_a_wider_route_has_come() {
    case(|lab| {
        let ptp = ["--network", "ptp"];
        let _first = lab.start_idle(&[&ptp[..], &["--name", "db"]].concat());
        sh("ip route add 10.0.0.0/8 via 192.0.2.1");
        let seen = lab
            .run_sh(&ptp, "ip -o addr show dev eth0; ping -c 1 -W 2 db")
            .exits(0)
            .out();
        assert!(seen.contains("inet 10.0.0."), "{seen}");
        lab.run(
            &[&ptp[..], &["--subnet", "10.0.0.0/24"]].concat(),
            &["true"],
        )
        .ok();
    });
}

/// Whoever gets an address of such a part would get the packets of another: of the router of the host's LAN, say.
#[test]
fn ptp_does_not_take_a_range_that_a_part_of_is_somebody_elses() {
    case(|lab| {
        sh("ip route add 172.20.5.0/24 via 192.0.2.1; ip -6 route add fd00:5:0:7::/64 dev uplink");
        let ptp = ["--network", "ptp"];
        let run = |options: &[&str]| lab.run(&[&ptp, options].concat(), &["true"]);
        let before = Snapshot::take();
        run(&["--subnet", "172.20.0.0/16"]).refused(&["172.20.0.0/16", "172.20.5.0/24"]);
        let router = ["--subnet", "192.0.0.0/16", "--ip", "192.0.2.1"];
        run(&router).refused(&["192.0.0.0/16", "192.0.2.0/24"]);
        run(&["--subnet6", "fd00:5::/48"]).refused(&["fd00:5::/48", "fd00:5:0:7::/64"]);
        before.assert_back();
        let alive = ["--subnet", "172.21.0.0/16"];
        let _first = lab.start_idle(&[&ptp[..], &alive].concat());
        run(&alive).ok();
        sh("ip route add 172.21.5.0/24 via 192.0.2.1");
        run(&[&alive[..], &["--ip", "172.21.5.9"]].concat()).refused(&["172.21.5.0/24"]);
    });
}

/// The host itself, its router, or what is behind its VPN would not be reached any more, and the container would reach nobody.
#[test]
fn ptp_passes_over_what_is_somebody_elses_in_the_middle_of_its_range() {
    case(|lab| {
        // 10.0.0.4 to 10.0.0.7, with the broadcast address.
        sh("ip addr add 10.0.0.2/32 dev uplink; ip addr add 10.0.0.5/30 brd + dev uplink");
        let script = "ip -o -4 addr show dev eth0; ping -c 1 -W 2 10.0.0.1";
        let ptp = ["--network", "ptp"];
        for _ in 0..8 {
            let seen = lab.run_sh(&ptp, script).ok();
            let (_, address) = seen.split_once("inet 10.0.0.").expect(&seen);
            let (last, _) = address.split_once('/').expect(&seen);
            assert!(!["2", "4", "5", "6", "7"].contains(&last), "{seen}");
        }
        // Those that live are no hindrance to the next. Whose link is on its way out has its address still.
        lab.settle();
        let _three = lab.start_idle(&[&ptp[..], &["--ip", "10.0.0.3"]].concat());
        let _eight = lab.start_idle(&[&ptp[..], &["--ip", "10.0.0.8"]].concat());
        sh("rm /run/hawser/ptp.next");
        let seen = lab.run_sh(&ptp, script).ok();
        assert!(seen.contains("inet 10.0.0.9/32"), "{seen}");
    });
}

#[test]
fn no_room_at_all_is_said() {
    case(|lab| {
        sh("ip route add 172.16.0.0/12 via 192.0.2.1");
        let before = Snapshot::take();
        lab.run(&["--subnet", "auto"], &["true"])
            .refused(&["172.16.0.0/12", "--subnet"]);
        before.assert_back();
    });
}

#[test]
fn a_bridge_whose_group_somebody_has() {
    case(|lab| {
        lab.hawser(&["up", "--bridge", "blue"]).exits(0);
        let group = sh("ip -o link show dev blue | sed 's/.* group \\([^ ]*\\) .*/\\1/'");
        lab.hawser(&["down", "--bridge", "blue"]).exits(0);
        sh(&format!("ip link set dev uplink group {}", group.trim()));
        lab.hawser(&["up", "--bridge", "blue"])
            .refused(&["blue", "uplink", "group"]);
        sh("ip link set dev uplink group 0");
    });
}
