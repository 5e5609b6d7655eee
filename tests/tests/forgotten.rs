//! Connections by published ports: those of a container end with it, and no others.

use std::net::UdpSocket;

use lab::{Watch, case};

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
