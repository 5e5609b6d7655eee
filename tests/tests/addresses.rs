//! Addresses are leased by veth names: a living holder is named and never touched, a dead one's is free at once.

use std::collections::BTreeSet;

use lab::{DEADLINE, Lab, Running, alone, case, collect, packets, sh, wait_for_end};

const FIXED: &[&str] = &["--ip", "172.19.0.9", "--name", "web"];

#[test]
fn a_taken_address_does_not_touch_its_holder() {
    packets(|lab| {
        let mut holder = lab.start(
            FIXED,
            &[
                "sh",
                "-c",
                "echo up; read x; ping -c 1 -W 2 172.19.0.1; read x",
            ],
        );
        holder.until("up");
        let before =
            sh("ip -d link show dev hwac130009; ip -d link show dev hawser0; nft list ruleset");
        let pid = lab.pid_of("web").to_string();
        lab.run(&["--ip", "172.19.0.9"], &["true"])
            .refused(&["172.19.0.9", "web", &pid]);
        lab.run(&["--ip", "172.19.0.9", "--name", "other"], &["true"])
            .refused(&["172.19.0.9", "web"]);
        lab.run(&["-d", "--ip", "172.19.0.9", "--name", "other"], &["true"])
            .refused(&["172.19.0.9", "web"]);
        let after =
            sh("ip -d link show dev hwac130009; ip -d link show dev hawser0; nft list ruleset");
        assert_eq!(
            timeless(&after),
            timeless(&before),
            "alias, altname and rules of the holder"
        );
        holder.say("\n");
        assert!(holder.until("packet loss").contains("1 packets received"));
    });
}

/// Without the timers that `ip -d` shows of a bridge.
fn timeless(text: &str) -> String {
    text.split_whitespace()
        .filter(|word| !word.contains('.') || word.parse::<f64>().is_err())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn an_address_that_a_neighbour_network_holds_is_taken_too() {
    case(|lab| {
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        let _one = lab.start_idle(&["--bridge", "blue", "--ip", "172.28.0.9"]);
        lab.run(&["--bridge", "blue", "--ip", "172.28.0.9"], &["true"])
            .refused(&["172.28.0.9"]);
    });
}

#[test]
fn fixed_address_and_name_one_right_after_the_other() {
    packets(|lab| {
        for round in 0..20 {
            let outcome = lab.run(FIXED, &["ping", "-c", "1", "-W", "2", "172.19.0.1"]);
            assert_eq!(outcome.code, 0, "round {round}: {outcome}");
        }
    });
}

/// What helps is what that kind of network has.
#[test]
fn a_network_that_is_full_names_what_helps() {
    case(|lab| {
        for (kind, cure) in [
            ("bridge", "use another --bridge with a wider --subnet"),
            ("ptp", "choose another --subnet"),
        ] {
            let options = ["--network", kind, "--subnet", "10.77.0.0/30"];
            let _only = lab.start_idle(&options);
            lab.run(&options, &["true"]).refused(&[
                "10.77.0.0/30",
                "in use",
                &format!("; {cure}\n"),
            ]);
            lab.hawser(&["down", "--force"]).ok();
        }
    });
}

#[test]
fn fixed_address_and_name_on_ptp_one_right_after_the_other() {
    case(|lab| {
        for round in 0..10 {
            let outcome = lab.run(
                &["--network", "ptp", "--ip", "10.0.0.9", "--name", "web"],
                &["ping", "-c", "1", "-W", "2", "10.0.0.1"],
            );
            assert_eq!(outcome.code, 0, "round {round}: {outcome}");
        }
    });
}

#[test]
fn fixed_address_and_name_right_after_a_kill() {
    case(|lab| {
        for round in 0..10 {
            let running = lab.start_idle(FIXED);
            running.signal(libc::SIGKILL);
            running.end().exits(-libc::SIGKILL);
            let outcome = lab.run(FIXED, &["true"]);
            assert_eq!(outcome.code, 0, "round {round}: {outcome}");
        }
    });
}

#[test]
fn fixed_address_right_after_a_detached_one_was_killed() {
    case(|lab| {
        for round in 0..5 {
            lab.run(&[&["-d"], FIXED].concat(), &["sleep", "1000"]).ok();
            let pid = lab.pid_of("web");
            let pidfd = lab::sys::pidfd(pid).expect("the command");
            lab::sys::pidfd_signal(&pidfd, libc::SIGKILL).expect("kill it");
            wait_for_end(pid);
            assert_eq!(lab.hawser(&["wait", "web"]).ok(), "137");
            let outcome = lab.run(FIXED, &["true"]);
            assert_eq!(outcome.code, 0, "round {round}: {outcome}");
        }
    });
}

#[test]
fn a_stopped_helper_still_holds_its_address() {
    case(|lab| {
        let holder = lab.start_idle(FIXED);
        holder.signal(libc::SIGSTOP);
        let outcome = lab.run(&["--ip", "172.19.0.9"], &["true"]);
        holder.signal(libc::SIGCONT);
        outcome.refused(&["172.19.0.9", "web"]);
        holder.end().exits(0);
    });
}

#[test]
fn two_at_once_for_one_address_give_one_winner() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        let mut running: Vec<Running> = (0..8)
            .map(|_| {
                lab.start(
                    &["--ip", "172.19.0.9"],
                    &["sh", "-c", "echo up; read x; exit 0"],
                )
            })
            .collect();
        // The losers end by themselves; the winner waits for us.
        let mut winners = vec![];
        while let Some(one) = running.pop() {
            match one.up_or_end() {
                Ok(up) => winners.push(up),
                Err(outcome) => outcome.refused(&["172.19.0.9"]),
            }
        }
        assert_eq!(winners.len(), 1, "one holder of an address");
    });
}

#[test]
fn bad_addresses_are_refused() {
    case(|lab| {
        let before = lab.with_network();
        for (address, word) in [
            ("172.20.0.1", "172.19.0.0/16"),
            ("10.0.0.2", "172.19.0.0/16"),
            ("172.19.0.1", "gateway"),
            ("172.19.255.255", "broadcast"),
            ("172.19.0.0", "172.19.0.0"),
            ("172.19.0", "172.19.0"),
            ("172.19.0.256", "172.19.0.256"),
            ("localhost", "localhost"),
        ] {
            lab.run(&["--ip", address], &["true"])
                .refused(&[address, word]);
        }
        before.assert_back();
    });
}

#[test]
fn two_hundred_by_sixteen_at_once_give_two_hundred_addresses() {
    case(|lab| {
        let lab: &Lab = lab;
        let _alone = alone();
        std::thread::scope(|scope| {
            for worker in 0..16 {
                scope.spawn(move || {
                    for _ in (worker..200).step_by(16) {
                        let outcome =
                            collect(lab.run_command(&["-d"], &["sleep", "1000"]), DEADLINE);
                        assert_eq!(outcome.code, 0, "{outcome}");
                    }
                });
            }
        });
        let all = lab.list();
        let of = |key: &str| {
            all.iter()
                .filter_map(|one| one[key].as_str().map(str::to_owned))
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(all.len(), 200);
        assert_eq!(of("address").len(), 200, "two have the same address");
        assert_eq!(of("name").len(), 200, "two have the same name");
        let ports = sh("ip -o link show master hawser0");
        assert_eq!(ports.lines().count(), 200);
    });
}

#[test]
fn an_exhausted_subnet_is_an_error_and_then_has_room_again() {
    case(|lab| {
        let options = ["--bridge", "tiny", "--subnet", "192.168.99.0/29"];
        let mut running: Vec<_> = (0..5).map(|_| lab.start_idle(&options)).collect();
        lab.run(&options, &["true"]).refused(&["192.168.99.0/29"]);
        running.pop().expect("one of five").end().exits(0);
        lab.run(&options, &["true"]).ok();
        lab.hawser(&["up", "--bridge", "none", "--subnet", "192.168.98.0/31"])
            .refused(&["192.168.98.0/31"]);
    });
}

#[test]
fn addresses_are_not_used_again_at_once() {
    case(|lab| {
        let show = ["sh", "-c", "ip -o -4 addr show dev eth0"];
        let seen: BTreeSet<String> = (0..10).map(|_| lab.run(&[], &show).ok()).collect();
        assert!(seen.len() > 5, "ten starts in a row, addresses: {seen:?}");
    });
}
