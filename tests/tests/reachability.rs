//! Walks the table of `docs/reachability.md`: both families, TCP and UDP, bridge netfilter off and on.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use lab::{DEADLINE, Lab, Netns, Running, packets, sh};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::Value;

/// How long nothing is waited for. What comes is there in less than a millisecond, but for what was lost and is sent again a second later.
const SILENCE: Duration = Duration::from_millis(300);

const DOCUMENT: &str = "docs/reachability.md";

/// A line of the table.
#[derive(Debug, Clone)]
struct Line {
    from: String,
    to: String,
    port: u16,
    seen: Option<String>,
}

fn table() -> Vec<Line> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(DOCUMENT);
    let text = std::fs::read_to_string(path).expect(DOCUMENT);
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(2);
    let lines: Vec<Line> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            Line {
                from: cells[1].to_owned(),
                to: cells[2].to_owned(),
                port: cells[3].parse().expect("a port"),
                seen: match cells[4] {
                    "yes" => Some(cells[5].to_owned()),
                    "no" => None,
                    other => panic!("neither yes nor no: {other}"),
                },
            }
        })
        .collect();
    assert!(lines.len() > 20, "the table is read: {lines:?}");
    lines
}

/// Answers each client with the address that it is seen by, as long as the case lives.
fn serve(addresses: &[SocketAddr]) {
    for address in addresses {
        let tcp = TcpListener::bind(address).unwrap_or_else(|why| panic!("{address}: {why}"));
        let udp = UdpSocket::bind(address).unwrap_or_else(|why| panic!("{address}: {why}"));
        std::thread::spawn(move || {
            for mut client in tcp.incoming().flatten() {
                let seen = client.peer_addr().map(|peer| peer.ip().to_canonical());
                if let Ok(seen) = seen {
                    let _ = client.write_all(seen.to_string().as_bytes());
                }
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((_, client)) = udp.recv_from(&mut bytes) {
                let seen = client.ip().to_canonical().to_string();
                let _ = udp.send_to(seen.as_bytes(), client);
            }
        });
    }
}

/// A connection from this address, whatever others there are.
fn connect(from: SocketAddr, to: SocketAddr, patience: Duration) -> Option<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let patience = TimeVal::milliseconds(patience.as_millis().try_into().expect("a timeout"));
    setsockopt(&made, sockopt::SendTimeout, &patience).expect("a timeout");
    bind(made.as_raw_fd(), &SockaddrStorage::from(from)).expect("its address");
    socket::connect(made.as_raw_fd(), &SockaddrStorage::from(to)).ok()?;
    Some(TcpStream::from(made))
}

/// Whom the server sees, or nothing for so long. `from`: the client's address, where it is to be one of several.
fn ask(
    from: Option<IpAddr>,
    address: SocketAddr,
    by_udp: bool,
    patience: Duration,
) -> Option<IpAddr> {
    let mut answer = String::new();
    let from = from.unwrap_or_else(|| pick(address.is_ipv4(), "0.0.0.0", "::"));
    let from = SocketAddr::new(from, 0);
    if by_udp {
        let socket = UdpSocket::bind(from).expect("a socket");
        socket.set_read_timeout(Some(patience)).expect("a timeout");
        socket.connect(address).ok()?;
        socket.send(b"who am I").ok()?;
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes).ok()?;
        answer.push_str(std::str::from_utf8(&bytes[..len]).expect("text"));
    } else {
        let mut stream = connect(from, address, patience)?;
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        stream.read_to_string(&mut answer).ok()?;
    }
    // A relay that accepts and then finds nobody gives nothing.
    answer.parse().ok()
}

/// A container, and where it is.
struct Place {
    netns: Netns,
    description: Value,
    _running: Running,
}

impl Place {
    fn start(lab: &Lab, name: &str, options: &[&str]) -> Self {
        let running = lab.start_idle(&[&["--name", name][..], options].concat());
        let text = lab.hawser(&["inspect", name]).ok();
        let description: Value = serde_json::from_str(&text).expect("JSON");
        let pid = description["pid"].as_i64().expect("pid");
        Self {
            netns: Netns::of(pid.try_into().expect("a process id")),
            description,
            _running: running,
        }
    }

    fn word(&self, key: &str) -> &str {
        self.description[key].as_str().expect(key)
    }

    /// `address` or `gateway`, of one family.
    fn ip(&self, key: &str, four: bool) -> IpAddr {
        let key = if four {
            key.to_owned()
        } else {
            format!("{key}6")
        };
        self.word(&key).parse().expect("an address")
    }
}

/// The containers of the table, and all servers.
struct Scene {
    web: Place,
    neighbour: Place,
    other: Place,
    internet: Netns,
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn pick(four: bool, a: &str, b: &str) -> IpAddr {
    if four { a } else { b }.parse().expect("an address")
}

impl Scene {
    fn new(lab: &Lab) -> Self {
        let tcp = ["8080:80", "127.0.0.1:8082:82", "[::1]:8082:82"];
        let udp = tcp.map(|port| format!("{port}/udp"));
        let ports: Vec<&str> = tcp
            .into_iter()
            .chain(udp.iter().map(String::as_str))
            .flat_map(|port| ["-p", port])
            .collect();
        let scene = Self {
            web: Place::start(lab, "web", &ports),
            neighbour: Place::start(lab, "neighbour", &[]),
            other: Place::start(
                lab,
                "other",
                &["--bridge", "blue", "--subnet", "172.28.0.0/24"],
            ),
            internet: lab.internet.again(),
        };
        let web = &scene.web;
        sh(&format!(
            "ip -n internet route add {} via 192.0.2.2; ip -n internet route add {} via 2001:db8:1::2",
            web.word("subnet"),
            web.word("subnet6"),
        ));
        // A socket of [::] is one of both families. By UDP it answers from any address of its host, though.
        web.netns
            .enter(|| serve(&[at("::", 80), at("::", 81), at("::", 82)]));
        let outside = [at("198.51.100.10", 9000), at("2001:db8:2::10", 9000)];
        scene.internet.enter(|| serve(&outside));
        for address in [
            "192.0.2.2",
            "2001:db8:1::2",
            web.word("gateway"),
            web.word("gateway6"),
        ] {
            serve(&[at(address, 9000)]);
        }
        serve(&[at("127.0.0.1", 9001), at("::1", 9001)]);
        scene
    }

    /// Where a line's client is (the host has no namespace of its own here), and its address.
    fn client(&self, line: &Line, four: bool) -> (Option<&Netns>, Option<IpAddr>) {
        let of = |place: &Place| place.ip("address", four);
        match line.from.as_str() {
            "host" => (None, None),
            "LAN" => {
                let address = pick(four, "192.0.2.1", "2001:db8:1::1");
                (Some(&self.internet), Some(address))
            }
            "the outside" => {
                let address = pick(four, "198.51.100.10", "2001:db8:2::10");
                (Some(&self.internet), Some(address))
            }
            "neighbour" => (Some(&self.neighbour.netns), Some(of(&self.neighbour))),
            "another network" => (Some(&self.other.netns), Some(of(&self.other))),
            "web" => (Some(&self.web.netns), Some(of(&self.web))),
            other => panic!("{other} in the table"),
        }
    }

    /// Tries one line in one family, and says what is not as it is written.
    fn walk(&self, line: &Line, four: bool) -> Vec<String> {
        let host = pick(four, "192.0.2.2", "2001:db8:1::2");
        let gateway = self.web.ip("gateway", four);
        let to = match line.to.as_str() {
            "web's address" => self.web.ip("address", four),
            "the host's address" => host,
            "the gateway" => gateway,
            "loopback" => pick(four, "127.0.0.1", "::1"),
            "the outside" => pick(four, "198.51.100.10", "2001:db8:2::10"),
            other => panic!("{other} in the table"),
        };
        let (netns, client) = self.client(line, four);
        let wanted = line.seen.as_deref().map(|seen| match seen {
            "the client" => client.expect("a client with an address"),
            "the gateway" => gateway,
            "the host" => host,
            other => panic!("{other} in the table"),
        });
        let address = SocketAddr::new(to, line.port);
        let patience = wanted.map_or(SILENCE, |_| DEADLINE);
        let mut faults = Vec::new();
        for by_udp in [false, true] {
            let seen = match netns {
                Some(netns) => netns.enter(|| ask(client, address, by_udp, patience)),
                None => ask(client, address, by_udp, patience),
            };
            // A datagram does not tell whether the container listens to IPv6: the relay takes IPv4.
            let by_relay = line.to == "loopback" && by_udp && wanted.is_some();
            let wanted = if by_relay {
                Some(self.web.ip("gateway", true))
            } else {
                wanted
            };
            if seen != wanted {
                let kind = if by_udp { "UDP" } else { "TCP" };
                faults.push(format!(
                    "{} to {address} ({}) by {kind}: {seen:?}, and not {wanted:?}",
                    line.from, line.to
                ));
            }
        }
        faults
    }
}

#[test]
fn the_table_is_true() {
    packets(|lab| {
        let scene = Scene::new(lab);
        let lines = table();
        let faults: Vec<String> = lines
            .iter()
            .flat_map(|line| [scene.walk(line, true), scene.walk(line, false)].concat())
            .collect();
        assert!(
            faults.is_empty(),
            "{} faults:\n{}",
            faults.len(),
            faults.join("\n")
        );
    });
}
