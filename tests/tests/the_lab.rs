//! The lab itself: what the other tests rest on holds without any program of ours.

use lab::{case, packets, sh};

#[test]
fn the_host_reaches_the_internet() {
    case(|lab| {
        lab.serve();
        assert_eq!(
            sh("busybox wget -q -O - http://198.51.100.10/"),
            "hello from the internet\n"
        );
        assert_eq!(
            sh("busybox wget -q -O - http://198.51.100.10/cgi-bin/whoami"),
            "192.0.2.2\n"
        );
        assert_eq!(
            sh("busybox wget -q -O - http://web.example.test/"),
            "hello from the internet\n"
        );
    });
}

#[test]
fn bridge_netfilter_is_off_and_then_on() {
    packets(|_| {
        let value = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
            .expect("br_netfilter");
        assert!(matches!(value.trim(), "0" | "1"));
        assert_eq!(
            value.trim(),
            std::env::var("HAWSER_TEST_BRIDGE_NF").expect("set by the lab")
        );
    });
}

#[test]
fn the_internet_answers_only_the_uplink() {
    case(|lab| {
        lab.serve();
        sh("ip addr add 172.19.0.1/16 dev lo");
        let from_inside =
            sh("busybox ping -c 1 -W 1 -I 172.19.0.1 198.51.100.10 || echo no answer");
        assert!(
            from_inside.contains("no answer"),
            "a lab that answers this proves no NAT: {from_inside}"
        );
    });
}

#[test]
fn each_case_has_a_host_of_its_own() {
    case(|_| {
        let links = sh("ip -o link show");
        assert_eq!(links.lines().count(), 2, "lo and uplink: {links}");
        assert_eq!(std::process::id(), 2, "its own process namespace");
        let uplink = sh("ip route get 198.51.100.10");
        assert!(uplink.contains("dev uplink src 192.0.2.2"), "{uplink}");
    });
}
