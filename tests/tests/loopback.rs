//! What the host binds to 127.0.0.1 and ::1 is the host's alone, and from the LAN a container's address leads nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use lab::wire::{Host, IPV4, IPV6, Mac, Wire, ethernet, ipv4, ipv6, tcp, udp, udp6};
use lab::{DEADLINE, Lab, Netns, Running, Scene, Station, packets, sh};

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const SYN: u8 = 2;
const ACK: u8 = 16;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where the service is.
const PORT: u16 = 1000;

/// A service of the host that is bound to its loopback, in both families.
struct Service([UdpSocket; 2]);

impl Service {
    fn new() -> Self {
        sh("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$file; done");
        Self(["127.0.0.1:1000", "[::1]:1000"].map(|address| {
            let socket = UdpSocket::bind(address).expect("a service on the loopback");
            socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            socket
        }))
    }

    /// What it has heard until now: what is sent over `lo` comes after all of that.
    fn heard(&self) -> Vec<String> {
        let mut all = Vec::new();
        for socket in &self.0 {
            let own = socket.local_addr().expect("its own address");
            socket
                .send_to(b"the last word", own)
                .expect("send to itself");
            loop {
                let mut data = [0; 64];
                let (length, from) = socket.recv_from(&mut data).expect("the last word");
                if from == own {
                    break;
                }
                let text = String::from_utf8_lossy(&data[..length]);
                all.push(format!("{own} from {from}: {text}"));
            }
        }
        all
    }
}

/// Frames to the service from a station whose next hop is `gateway`: in its own name, and as from the loopback itself.
fn to_loopback(me: Host, gateway: Mac) -> Vec<Vec<u8>> {
    let four = |from, to| {
        let packet = ipv4(from, to, UDP, &udp(PORT, PORT, b"from outside"));
        ethernet(gateway, me.mac, IPV4, &packet)
    };
    let six = |from: Ipv6Addr, to| {
        let data = udp6((from, PORT), (to, PORT), b"from outside");
        ethernet(gateway, me.mac, IPV6, &ipv6(from, to, UDP, &data))
    };
    let mapped = LOOPBACK.to_ipv6_mapped();
    let syn = tcp((me.ip, PORT), (LOOPBACK, PORT), SYN);
    vec![
        four(me.ip, LOOPBACK),
        four(Ipv4Addr::new(127, 0, 0, 2), LOOPBACK),
        six(me.ip6, Ipv6Addr::LOCALHOST),
        six(me.link_local, Ipv6Addr::LOCALHOST),
        six(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
        six(me.ip6, mapped),
        ethernet(gateway, me.mac, IPV4, &ipv4(me.ip, LOOPBACK, TCP, &syn)),
    ]
}

/// What the service hears when the station sends all that it can think of.
fn attack(service: &Service, station: &Station, gateway: Mac) -> Vec<String> {
    let mut frames = to_loopback(station.host, gateway);
    // A bridge hands these to the host before its rules are looked at.
    frames.extend(to_loopback(station.host, [1, 0x80, 0xc2, 0, 0, 0xe]));
    let answers = Wire::open(&station.netns, "eth0");
    for frame in frames {
        station.wire.send(&frame);
    }
    // Behind all of these: an answer to it comes after every answer to them.
    let question = ethernet(
        gateway,
        station.host.mac,
        lab::wire::ARP,
        &lab::wire::arp(
            1,
            (station.host.mac, station.host.ip),
            ([0; 6], gateway_of(station)),
        ),
    );
    station.wire.send(&question);
    let is_answer = |frame: &[u8]| frame[12..14] == [8, 6] && frame[..6] == station.host.mac;
    let mut all = service.heard();
    // A TCP port that is closed is an answer too.
    let from_loopback = |frame: &Vec<u8>| {
        frame[12..14] == [8, 0] && frame.get(26..30) == Some(&LOOPBACK.octets()[..])
    };
    let seen = answers.until(is_answer);
    all.extend(
        seen.iter()
            .filter(|f| from_loopback(f))
            .map(|f| format!("{f:02x?}")),
    );
    all
}

/// The station's next hop.
fn gateway_of(station: &Station) -> Ipv4Addr {
    let routes = station.netns.sh("ip route show default");
    let words: Vec<&str> = routes.split_whitespace().collect();
    let via = words.iter().position(|word| *word == "via");
    let gateway = via.and_then(|at| words.get(at + 1)).expect("a gateway");
    gateway.parse().expect("an address")
}

fn set_route_localnet(value: u8) {
    sh(&format!(
        "for file in /proc/sys/net/ipv4/conf/*/route_localnet; do echo {value} >$file; done"
    ));
}

/// The neighbour on the host's LAN.
fn neighbour(lab: &Lab) -> Station {
    lab.internet
        .sh("ip route add default via 192.0.2.2 2>/dev/null || :");
    Station::new(lab.internet.again())
}

fn mac_of(link: &str) -> Mac {
    Host::read(&sh(&format!("ip -j addr show dev {link}"))).mac
}

#[test]
fn the_attack_is_one() {
    packets(|lab| {
        let service = Service::new();
        set_route_localnet(1);
        let plain = Scene::plain();
        let heard = attack(&service, &plain.attacker, plain.gateway.mac);
        assert!(!heard.is_empty(), "without rules nothing is in its way");
        let lan = neighbour(lab);
        let heard = attack(&service, &lan, mac_of("uplink"));
        assert!(!heard.is_empty(), "without rules nothing is in its way");
    });
}

#[test]
fn no_container_reaches_the_hosts_loopback() {
    packets(|lab| {
        let service = Service::new();
        let ours = Scene::of_ours(lab);
        for value in [0, 1] {
            set_route_localnet(value);
            let heard = attack(&service, &ours.attacker, ours.gateway.mac);
            assert!(heard.is_empty(), "route_localnet {value}: {heard:?}");
        }
        ours.end();
    });
}

#[test]
fn no_container_without_a_bridge_reaches_it() {
    packets(|lab| {
        let service = Service::new();
        let _container = ptp(lab);
        let station = Station::new(Netns::of(lab.pid_of("mallory")));
        let mac = mac_of(&host_end(&station));
        for value in [0, 1] {
            set_route_localnet(value);
            let heard = attack(&service, &station, mac);
            assert!(heard.is_empty(), "route_localnet {value}: {heard:?}");
        }
    });
}

fn ptp(lab: &Lab) -> Running {
    lab.start_idle(&["--name", "mallory", "--network", "ptp"])
}

fn host_end(station: &Station) -> String {
    let [a, b, c, d] = station.host.ip.octets();
    format!("hw{a:02x}{b:02x}{c:02x}{d:02x}")
}

#[test]
fn nobody_on_a_bridge_of_others_reaches_it() {
    packets(|lab| {
        let service = Service::new();
        sh(
            "ip link add br9 type bridge && ip addr add 172.29.0.1/24 dev br9 && ip link set br9 up",
        );
        let _container = lab.start_idle(&["--name", "mallory", "--bridge", "br9"]);
        let station = Station::new(Netns::of(lab.pid_of("mallory")));
        for value in [0, 1] {
            set_route_localnet(value);
            let heard = attack(&service, &station, mac_of("br9"));
            assert!(heard.is_empty(), "route_localnet {value}: {heard:?}");
        }
    });
}

#[test]
fn nobody_on_the_lan_reaches_it() {
    packets(|lab| {
        let service = Service::new();
        let _container = lab.start_idle(&[]);
        let lan = neighbour(lab);
        for value in [0, 1] {
            set_route_localnet(value);
            let heard = attack(&service, &lan, mac_of("uplink"));
            assert!(heard.is_empty(), "route_localnet {value}: {heard:?}");
        }
    });
}

/// Rules are not what keeps it closed: nothing of ours has opened it.
#[test]
fn it_is_closed_without_rules_too() {
    packets(|lab| {
        let service = Service::new();
        let ours = Scene::of_ours(lab);
        let lan = neighbour(lab);
        let before = sh("cat /proc/sys/net/ipv4/conf/*/route_localnet");
        assert!(
            !before.contains('1'),
            "route_localnet is never set: {before}"
        );
        // Supervisors that do not run put no rules back.
        ours.signal(libc::SIGSTOP);
        sh("nft flush ruleset");
        let heard = attack(&service, &ours.attacker, ours.gateway.mac);
        assert!(heard.is_empty(), "from a container: {heard:?}");
        let heard = attack(&service, &lan, mac_of("uplink"));
        assert!(heard.is_empty(), "from the LAN: {heard:?}");
        assert_eq!(sh("nft list ruleset"), "", "and there were none");
        ours.signal(libc::SIGCONT);
        ours.end();
    });
}

/// A container that listens everywhere, and hears what reaches it.
struct Listener {
    socket: UdpSocket,
    station: Station,
}

impl Listener {
    fn new(lab: &Lab, name: &str) -> Self {
        let station = Station::new(Netns::of(lab.pid_of(name)));
        let socket = station.netns.enter(|| UdpSocket::bind("[::]:1000"));
        let socket = socket.expect("a service in a container");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Self { socket, station }
    }

    /// Who was heard; the host, which may, has the last word.
    fn heard(&self) -> Vec<String> {
        let host = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let to = (self.station.host.ip, PORT);
        host.send_to(b"the last word", to).expect("send to it");
        let mut all = Vec::new();
        loop {
            let mut data = [0; 64];
            let (length, from) = self.socket.recv_from(&mut data).expect("the last word");
            if data[..length] == *b"the last word" {
                return all;
            }
            all.push(from.ip().to_canonical().to_string());
        }
    }
}

/// What the LAN's neighbour sends straight to a container, by the host's hardware address: in its own name, in that of
/// another container, of the gateway and of the container itself.
fn straight_to(them: Host, me: Host, host: Mac) -> Vec<Vec<u8>> {
    let [a, b, c, _] = them.ip.octets();
    let four = [
        me.ip,
        Ipv4Addr::new(a, b, c, 3),
        Ipv4Addr::new(a, b, c, 1),
        them.ip,
    ]
    .map(|from| {
        let packet = ipv4(from, them.ip, UDP, &udp(PORT, PORT, b"straight"));
        ethernet(host, me.mac, IPV4, &packet)
    });
    let six = [me.ip6, me.link_local, them.ip6].map(|from| {
        let data = udp6((from, PORT), (them.ip6, PORT), b"straight");
        ethernet(host, me.mac, IPV6, &ipv6(from, them.ip6, UDP, &data))
    });
    let segments = [SYN, ACK].map(|flags| {
        let segment = tcp((me.ip, 4000), (them.ip, PORT), flags);
        ethernet(host, me.mac, IPV4, &ipv4(me.ip, them.ip, TCP, &segment))
    });
    [&four[..], &six, &segments].concat()
}

fn send_straight(lab: &Lab, listener: &Listener) -> Vec<String> {
    let lan = neighbour(lab);
    let inside = Wire::open(&listener.station.netns, "eth0");
    for frame in straight_to(listener.station.host, lan.host, mac_of("uplink")) {
        lan.wire.send(&frame);
    }
    let mut all = listener.heard();
    // Nothing of it, not even what nobody listens to: the last word is from the host, and all before it is seen.
    let seen = inside.until(|frame| frame.ends_with(b"the last word"));
    let is_tcp = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame.get(23) == Some(&TCP);
    all.extend(
        seen.iter()
            .filter(is_tcp)
            .map(|frame| format!("{frame:02x?}")),
    );
    all
}

#[test]
fn from_the_lan_a_containers_address_leads_nowhere() {
    packets(|lab| {
        for network in ["bridge", "ptp"] {
            let container = lab.start_idle(&["--name", "web", "--network", network]);
            let listener = Listener::new(lab, "web");
            let heard = send_straight(lab, &listener);
            assert!(heard.is_empty(), "{network}: {heard:?}");
            container.end().exits(0);
        }
    });
}

#[test]
fn without_rules_it_would() {
    packets(|lab| {
        let plain = Scene::plain();
        sh(
            "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
            for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$file; done",
        );
        let lan = neighbour(lab);
        let (them, inside) = (plain.victim.host, &plain.victim.wire);
        for frame in straight_to(them, lan.host, mac_of("uplink")) {
            lan.wire.send(&frame);
        }
        let word = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        word.send_to(b"the last word", (them.ip, PORT))
            .expect("send");
        let seen = inside.until(|frame| frame.ends_with(b"the last word"));
        let came = seen
            .iter()
            .filter(|frame| frame.ends_with(b"straight"))
            .count();
        assert!(came >= 4, "{came}: {seen:02x?}");
    });
}

/// Only who is on a connected network is let in: not who says so from elsewhere.
#[test]
fn from_the_lan_in_the_name_of_a_connected_container() {
    packets(|lab| {
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        let _web = lab.start_idle(&["--name", "web", "--bridge", "blue", "--ip", "172.28.0.9"]);
        let _friend = lab.start_idle(&[
            "--name",
            "friend",
            "--ip",
            "172.19.0.8",
            "--connect",
            "blue",
        ]);
        let listener = Listener::new(lab, "web");
        let lan = neighbour(lab);
        let them = listener.station.host;
        let from = Ipv4Addr::new(172, 19, 0, 8);
        let packet = ipv4(from, them.ip, UDP, &udp(PORT, PORT, b"straight"));
        sh("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$file; done");
        lan.wire
            .send(&ethernet(mac_of("uplink"), lan.host.mac, IPV4, &packet));
        assert_eq!(listener.heard(), Vec::<String>::new());
        let friend = Netns::of(lab.pid_of("friend"));
        friend.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.send_to(b"hello", (them.ip, PORT)).expect("send");
        });
        let heard = listener.heard();
        assert_eq!(
            heard,
            [IpAddr::V4(from).to_string()],
            "the friend itself is"
        );
    });
}
