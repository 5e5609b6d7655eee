//! With a real systemd-udevd that is told of every link: none of ours gets another hardware address.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use lab::{DEADLINE, Lab, Running, case, collect, sh};

const UDEVD: &str = "/lib/systemd/systemd-udevd";
/// How many containers live at once.
const BATCH: usize = 50;

/// systemd-udevd in the host's namespaces, listening.
struct Udevd(Child);

impl Udevd {
    fn start(lab: &Lab) -> Self {
        // What it looks at must be this network namespace's.
        sh("mount -t sysfs sysfs /sys && mkdir -p /run/udev");
        let path = lab.dir.join("notify");
        let ready = UnixDatagram::bind(&path).expect("a socket");
        ready.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut udevd = Command::new(UDEVD);
        udevd.env("NOTIFY_SOCKET", &path).stdin(Stdio::null());
        let log = std::fs::File::create(lab.dir.join("udevd.log")).expect("a file");
        udevd.stderr(log);
        let child = udevd.spawn().unwrap_or_else(|error| {
            panic!("start {UDEVD} (install udev, or run `make test`): {error}")
        });
        let mut said = [0; 1024];
        let length = ready.recv(&mut said).expect("udevd is ready");
        let text = String::from_utf8_lossy(&said[..length]);
        assert!(text.contains("READY=1"), "{text}");
        Self(child)
    }

    /// It has done all that it was told to.
    fn settle(&self) {
        let mut settle = Command::new("udevadm");
        settle.args(["settle", "--timeout=30"]);
        collect(settle, DEADLINE).exits(0);
    }
}

impl Drop for Udevd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Link, hardware address, and how it came by that (`NET_ADDR_*` of linux/netdevice.h: 1 at random, 3 was set) of all links.
fn links() -> Vec<(String, String, String)> {
    let text = sh("cd /sys/class/net; grep . */address | sed 's|/address:| |'");
    let kind = |name: &str| {
        let path = format!("/sys/class/net/{name}/addr_assign_type");
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, mac)| (name.to_owned(), mac.to_owned(), kind(name)))
        .collect()
}

/// What goes with the address that is in the name of a host end.
fn own_mac(link: &str) -> Option<String> {
    let digits = link.strip_prefix("hw")?;
    let bytes: Vec<&str> = (0..4)
        .filter_map(|at| digits.get(at * 2..at * 2 + 2))
        .collect();
    Some(format!("02:01:{}", bytes.join(":")))
}

fn keeps_addresses(lab: &Lab, creations: usize) {
    if !lab.real_root {
        return lab::skip("systemd-udevd wants to be the real root");
    }
    let udevd = Udevd::start(lab);
    // The witness: a link without an address of its own gets one.
    sh("ip link add plain type bridge");
    udevd.settle();
    let plain = links().into_iter().find(|(name, ..)| name == "plain");
    let (_, _, kind) = plain.expect("the witness");
    assert_eq!(kind, "3", "udevd has not set the address of a new bridge");
    for first in (0..creations).step_by(BATCH) {
        let network = if first / BATCH % 2 == 0 {
            "bridge"
        } else {
            "ptp"
        };
        let command = [
            "sh",
            "-c",
            "cat /sys/class/net/eth0/address /sys/class/net/eth0/addr_assign_type; echo up; read x; exit 0",
        ];
        let mut all: Vec<Running> = (0..BATCH.min(creations - first))
            .map(|_| lab.start(&["--network", network], &command))
            .collect();
        for one in &mut all {
            let inside = one.until("up");
            assert!(
                inside.contains("\n3\n") && inside.starts_with("02:00:"),
                "{inside}"
            );
        }
        udevd.settle();
        let mut seen = 0;
        for (name, mac, kind) in links() {
            let expected = match own_mac(&name) {
                Some(mac) => mac,
                None if name == "hawser0" => "02:00:ac:13:00:01".to_owned(),
                None => continue,
            };
            assert_eq!((mac, kind.as_str()), (expected, "3"), "{name}");
            seen += usize::from(name != "hawser0");
        }
        assert_eq!(seen, all.len(), "{network}: of all containers");
        for one in all {
            one.end().exits(0);
        }
        lab.settle();
    }
}

#[test]
fn no_address_of_a_hundred_links_is_changed() {
    case(|lab| keeps_addresses(lab, 100));
}

#[test]
#[ignore = "long: cargo test -p tests --test udev -- --ignored"]
fn no_address_of_a_thousand_links_is_changed() {
    case(|lab| keeps_addresses(lab, 1000));
}
