//! Two stations on a bridge, one of which attacks the other: containers of ours, and a bridge without any rules.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::net::Lab;
use crate::process::Running;
use crate::wire::{ARP, BROADCAST, Host, IPV4, Mac, Wire, arp, ethernet, ipv4, udp};
use crate::{Netns, sh};

/// The port of the datagrams that say "all has been sent".
const MARKER_PORT: u16 = 9;

/// A station: where it is, and its end of the link.
pub struct Station {
    /// Its namespace.
    pub netns: Netns,
    /// Its eth0.
    pub wire: Wire,
    /// What it is entitled to say it is.
    pub host: Host,
}

impl Station {
    /// The one in this namespace.
    pub fn new(netns: Netns) -> Self {
        let host = Host::read(&netns.sh("ip -j addr show dev eth0"));
        let wire = Wire::open(&netns, "eth0");
        Self { netns, wire, host }
    }
}

/// The attacker, its neighbour, and the host that is the gateway of both.
pub struct Scene {
    /// Who sends the frames.
    pub attacker: Station,
    /// Who must not be deceived.
    pub victim: Station,
    /// The host's own place on the bridge.
    pub gateway: Host,
    /// The bridge.
    pub bridge: &'static str,
    containers: Vec<Running>,
}

impl Scene {
    /// Two containers of ours on the default network.
    pub fn of_ours(lab: &Lab) -> Self {
        let containers = [("mallory", "172.19.0.2"), ("victim", "172.19.0.3")]
            .map(|(name, ip)| lab.start_idle(&["--name", name, "--ip", ip]));
        let station = |name| Station::new(Netns::of(lab.pid_of(name)));
        Self {
            attacker: station("mallory"),
            victim: station("victim"),
            gateway: Host::read(&sh("ip -j addr show dev hawser0")),
            bridge: "hawser0",
            containers: containers.into(),
        }
    }

    /// Two namespaces on a bridge that the test makes, with nobody's rules.
    pub fn plain() -> Self {
        // In a namespace that is deleted the links go later: names that are there already would be in the way.
        sh("ip link del plain0 2>/dev/null || :
            echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
            ip link add plain0 address 02:00:ac:1f:00:01 type bridge
            ip addr add 172.31.0.1/24 dev plain0
            ip addr add fd00:31::1/64 dev plain0 nodad
            ip link set plain0 up");
        let station = |name: &str, number: u8| {
            let netns = Netns::new(name);
            netns.sh("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad");
            sh(&format!(
                "ip link add plain{number} type veth peer name eth0 address 02:00:ac:1f:00:0{number} netns {name}
                ip link set plain{number} master plain0 up"
            ));
            netns.sh(&format!(
                "ip addr add 172.31.0.{number}/24 dev eth0
                ip addr add fd00:31::{number}/64 dev eth0 nodad
                ip link set eth0 up
                ip route add default via 172.31.0.1"
            ));
            netns
        };
        let netns = [station("mallory", 2), station("victim", 3)];
        // A look at a link makes the kernel finish what its coming up has begun: a port forwards from then on.
        sh("for link in plain2 plain3 plain0; do ip link show dev $link >/dev/null; done");
        let [attacker, victim] = netns.map(Station::new);
        Self {
            attacker,
            victim,
            gateway: Host::read(&sh("ip -j addr show dev plain0")),
            bridge: "plain0",
            containers: Vec::new(),
        }
    }

    /// Sends a frame from the attacker's eth0; whether it came to the victim's, whoever it was for.
    #[track_caller]
    pub fn arrives(&self, frame: &[u8]) -> bool {
        self.attacker.wire.send(frame);
        let before = self.mark();
        before.iter().any(|seen| is_same(seen, frame))
    }

    /// Everything that the attacker has sent so far has arrived, or never will: what the victim has seen until then.
    #[track_caller]
    pub fn mark(&self) -> Vec<Vec<u8>> {
        let (from, to) = (self.attacker.host, self.victim.host);
        let marker = udp(MARKER_PORT, MARKER_PORT, b"all has been sent");
        let packet = ipv4(from.ip, to.ip, libc::IPPROTO_UDP as u8, &marker);
        // To all: who is where is what an attack may have changed.
        let marker = ethernet(BROADCAST, from.mac, IPV4, &packet);
        self.attacker.wire.send(&marker);
        self.victim.wire.until(|frame| frame == marker)
    }

    /// The victim still hears what the attacker has to say in its own name, and answers.
    #[track_caller]
    pub fn both_talk(&self) {
        let (from, to) = (self.attacker.host, self.victim.host);
        let question = arp(1, (from.mac, from.ip), ([0; 6], to.ip));
        self.attacker
            .wire
            .send(&ethernet(BROADCAST, from.mac, ARP, &question));
        let answer = arp(2, (to.mac, to.ip), (from.mac, from.ip));
        let answer = ethernet(from.mac, to.mac, ARP, &answer);
        self.attacker.wire.until(|frame| frame.starts_with(&answer));
    }

    /// Sends a signal to the supervisors of both containers.
    pub fn signal(&self, signal: i32) {
        for container in &self.containers {
            container.signal(signal);
        }
    }

    /// Ends the containers.
    #[track_caller]
    pub fn end(self) {
        for container in self.containers {
            container.end().exits(0);
        }
    }
}

/// Whether a frame is the one that was sent. The outer VLAN tag is not in what a packet socket sees.
fn is_same(seen: &[u8], sent: &[u8]) -> bool {
    let tags = match sent[12..14] {
        [0x81, 0] | [0x88, 0xa8] => 4,
        _ => 0,
    };
    let rest = &sent[12 + tags..];
    seen.len() >= 12 && seen[..12] == sent[..12] && seen[12..] == *rest
}

impl Host {
    /// What `ip -j addr show` says of one link. Without IPv6 there, addresses that it would have.
    pub fn read(json: &str) -> Self {
        let links: Vec<Value> = serde_json::from_str(json).expect("ip -j");
        let link = &links[0];
        let mac = mac(link["address"].as_str().expect("a hardware address"));
        let address = |family: &str, scope: &str| {
            let all = link["addr_info"].as_array().expect("addresses");
            let found = all
                .iter()
                .find(|one| one["family"] == family && one["scope"] == scope)?;
            found["local"].as_str()?.parse::<std::net::IpAddr>().ok()
        };
        let six = |scope, prefix: u16| match address("inet6", scope) {
            Some(std::net::IpAddr::V6(address)) => address,
            _ => Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, 0, u16::from(mac[5])),
        };
        let ip = match address("inet", "global") {
            Some(std::net::IpAddr::V4(address)) => address,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        Self {
            mac,
            ip,
            ip6: six("global", 0xfd00),
            link_local: six("link", 0xfe80),
        }
    }
}

fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("a hardware address"))
        .collect();
    bytes.try_into().expect("six bytes")
}
