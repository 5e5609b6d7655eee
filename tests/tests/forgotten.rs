//! Connections by published ports: those of a container end with it, and no others.

use std::net::UdpSocket;

use lab::strace::Stopped;
use lab::{Lab, Netns, Running, Watch, case, sh};

/// The lines of the kernel's table that are about a port of the host.
fn led_by(port: u16) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/net/nf_conntrack").expect("the connections");
    let by_port = format!("dport={port} ");
    let lines = all.lines().filter(|line| line.contains(&by_port));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_end_of_a_container_ends_its_own_and_no_others() {
    case(|lab| {
        let options = ["-p", "8080:80/udp", "--name"];
        let one = lab.start_idle(&[&options[..], &["one"]].concat());
        let two = lab.start_idle(&["-p", "8081:80/udp", "--name", "two"]);
        lab.internet.enter(|| {
            for host in ["192.0.2.2", "2001:db8:1::2"] {
                let from = if host.contains(':') {
                    "[::]:0"
                } else {
                    "0.0.0.0:0"
                };
                let client = UdpSocket::bind(from).expect("a client");
                for port in [8080, 8081] {
                    client.send_to(b"x", (host, port)).expect("send");
                }
            }
        });
        assert_eq!([8080, 8081].map(|port| led_by(port).len()), [2, 2]);
        let forgotten = Watch::forgotten_connections();
        one.end().exits(0);
        let is_left = || led_by(8080).len();
        assert!(forgotten.until(|| is_left() == 0), "{:?}", led_by(8080));
        assert_eq!(led_by(8081).len(), 2, "those of the other go on");
        two.end().exits(0);
    });
}

/// What is published by IPv6 alone is no matter of who has the same port by IPv4.
#[test]
fn connections_of_the_other_family_go_on() {
    case(|lab| {
        let one = lab.start_idle(&["-p", "0.0.0.0:8080:80/udp", "--name", "one"]);
        lab.internet.enter(|| {
            let client = UdpSocket::bind("0.0.0.0:0").expect("a client");
            client.send_to(b"x", ("192.0.2.2", 8080)).expect("send");
        });
        assert_eq!(led_by(8080).len(), 1);
        let two = lab.start_idle(&["-p", "[::]:8080:80/udp", "--name", "two"]);
        assert_eq!(led_by(8080).len(), 1, "they go on");
        two.end().exits(0);
        one.end().exits(0);
    });
}

/// From this port of the internet's to one of the host's: how the next one is told from who was there before.
fn asks(lab: &Lab, from: u16, host: &str, port: u16) {
    let any = if host.contains(':') {
        "[::]"
    } else {
        "0.0.0.0"
    };
    lab.internet.enter(|| {
        let client = UdpSocket::bind(format!("{any}:{from}")).expect("a client");
        client.send_to(b"x", (host, port)).expect("send");
    });
}

/// How many lines of the kernel's table are about those that were asked from there.
fn asked_from(port: u16) -> usize {
    let by_port = format!("sport={port} ");
    let lines = led_by(8080);
    lines.iter().filter(|line| line.contains(&by_port)).count()
}

/// Somebody who takes a container away is stopped behind each of its messages to the kernel, and when it is about connections, another
/// takes its address and its port.
fn the_next_one_keeps_its_own(lab: &Lab, ends: impl Fn(usize) -> Stopped, next: impl Fn() -> Next) {
    let (mut tried, trace) = (0, lab.dir.join("trace"));
    for nth in 1..200 {
        let ends = ends(nth);
        let told = std::fs::read_to_string(&trace).expect("the trace");
        let is_stopped = ends.is_stopped;
        let last = told.lines().rev().find(|line| line.contains("sendto("));
        if is_stopped && last.is_some_and(|line| line.contains("IPCTNL_MSG_CT_")) {
            // Refused, as long as the first one has its port.
            if let Some(next) = next() {
                asks(lab, 5000, "192.0.2.2", 8080);
                assert_eq!(asked_from(5000), 1);
                drop(ends.go_on().end());
                assert_eq!(asked_from(5000), 1, "behind message {nth}: {told}");
                tried += 1;
                next(lab);
                continue;
            }
        }
        drop(ends.go_on().end());
        if !is_stopped {
            break;
        }
    }
    assert!(tried > 1, "{tried}");
}

/// How the next one is taken away again.
type Next = Option<Box<dyn FnOnce(&Lab)>>;

const WEB: [&str; 6] = ["--name", "web", "--ip", "172.19.0.9", "-p", "8080:80/udp"];

fn next_run(lab: &Lab) -> Next {
    let next = lab.start(&WEB, &["sh", "-c", "echo up; read x; exit 0"]);
    let next = next.up_or_end().ok()?;
    Some(Box::new(move |_| drop(next.end().exits(0))))
}

/// The name, the port and the address are free before its supervisor has forgotten its connections.
#[test]
fn who_comes_while_another_ends_keeps_its_connections() {
    case(|lab| {
        lab.with_network();
        let trace = lab.dir.join("trace");
        let ends = |nth| {
            let first = lab.start_idle(&WEB);
            asks(lab, 4000, "192.0.2.2", 8080);
            Stopped::after_signal(libc::SIGTERM, nth, first, &trace)
        };
        the_next_one_keeps_its_own(lab, ends, || next_run(lab));
    });
}

#[test]
fn who_comes_while_another_sweeps_keeps_its_connections() {
    case(|lab| {
        lab.with_network();
        let trace = lab.dir.join("trace");
        let ends = |nth| {
            let killed = lab.start_idle(&WEB);
            asks(lab, 4000, "192.0.2.2", 8080);
            killed.signal(libc::SIGKILL);
            drop(killed.end());
            lab.settle();
            Stopped::at_message(nth, &lab.command(&["ls"]), &trace)
        };
        the_next_one_keeps_its_own(lab, ends, || next_run(lab));
    });
}

#[test]
fn who_comes_while_another_is_detached_keeps_its_connections() {
    case(|lab| {
        lab.with_network();
        let trace = lab.dir.join("trace");
        let attach = || {
            let guest = Running::unshared(&["-n"], "exec cat");
            let pid = guest.pid().to_string();
            let attached = lab.hawser(&[&["attach", &pid], &WEB[..]].concat());
            (attached.code == 0).then_some(guest)
        };
        let ends = |nth| {
            let first = attach().expect("the first one");
            asks(lab, 4000, "192.0.2.2", 8080);
            let detach = Stopped::at_message(nth, &lab.command(&["detach", "web"]), &trace);
            drop(first);
            detach
        };
        let next = || -> Next {
            let next = attach()?;
            Some(Box::new(move |lab| {
                lab.hawser(&["detach", "web"]).ok();
                drop(next);
            }))
        };
        the_next_one_keeps_its_own(lab, ends, next);
    });
}

/// Somebody has deleted its link, and another has its IPv6 address by now, but not its other one.
#[test]
fn who_has_lost_an_address_forgets_nothing_of_it() {
    case(|lab| {
        let start = |host: &str, port: &str| {
            let network = ["--bridge", "six", "--subnet", "172.28.0.0/24"];
            let fixed = ["--subnet6", "2001:db8:6::/64", "--ip6", "2001:db8:6::102"];
            lab.start_idle(&[&network[..], &fixed, &["--ip", host, "-p", port]].concat())
        };
        let first = start("172.28.0.9", "8081:80/udp");
        asks(lab, 4000, "2001:db8:1::2", 8081);
        sh("ip link del hwac1c0009");
        let next = start("172.28.0.10", "8080:80/udp");
        asks(lab, 5000, "2001:db8:1::2", 8080);
        assert_eq!(asked_from(5000), 1, "{:?}", led_by(8080));
        first.end().exits(0);
        assert_eq!(asked_from(5000), 1, "{:?}", led_by(8080));
        next.end().exits(0);
    });
}

/// The same of a limited one, when rules are restored: what the next one has opened is none of its.
#[test]
fn who_has_lost_its_address_judges_nobody_else() {
    case(|lab| {
        lab.with_network();
        let options = [
            "--ip",
            "172.19.0.9",
            "--egress",
            "none",
            "-p",
            "5300:53/udp",
        ];
        let first = lab.start_idle(&options);
        sh("ip link del hwac130009");
        let next = lab.start_idle(&["--ip", "172.19.0.9", "--name", "next"]);
        Netns::of(lab.pid_of("next")).enter(|| {
            let client = UdpSocket::bind("172.19.0.9:5000").expect("a client");
            client.send_to(b"x", "192.0.2.1:8080").expect("send");
        });
        assert_eq!(asked_from(5000), 1);
        // Behind what it has opened it forgets who has asked meanwhile.
        asks(lab, 4000, "192.0.2.2", 5300);
        assert_eq!(led_by(5300).len(), 1);
        lab.hawser(&["restore"]).ok();
        lab::wait_untold("it is forgotten", || led_by(5300).is_empty());
        assert_eq!(asked_from(5000), 1, "{:?}", led_by(8080));
        next.end().exits(0);
        first.end().exits(0);
    });
}
