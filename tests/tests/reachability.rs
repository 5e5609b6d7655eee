//! Walks the table of `docs/reachability.md`: both families, TCP and UDP, bridge netfilter off and on.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use lab::{Lab, Netns, Running, packets, sh};
use serde_json::Value;

/// How long an answer may take that does not come. Those that come are there in less than a millisecond.
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

/// Whom the server sees, or nothing.
fn ask(address: SocketAddr, by_udp: bool) -> Option<IpAddr> {
    let mut answer = String::new();
    if by_udp {
        let any: SocketAddr = if address.is_ipv4() {
            "0.0.0.0:0".parse().expect("an address")
        } else {
            "[::]:0".parse().expect("an address")
        };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        socket.connect(address).ok()?;
        socket.send(b"who am I").ok()?;
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes).ok()?;
        answer.push_str(std::str::from_utf8(&bytes[..len]).expect("text"));
    } else {
        let mut stream = TcpStream::connect_timeout(&address, SILENCE).ok()?;
        stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
        stream.read_to_string(&mut answer).ok()?;
    }
    // A relay that accepts and then finds nobody gives nothing.
    answer.parse().ok()
}

/// A container, and where it is.
struct Place {
    netns: Netns,
    four: IpAddr,
    six: IpAddr,
    _running: Running,
}

fn start(lab: &Lab, name: &str, options: &[&str]) -> (Place, Value) {
    let running = lab.start_idle(&[&["--name", name][..], options].concat());
    let text = lab.hawser(&["inspect", name]).ok();
    let found: Value = serde_json::from_str(&text).expect("JSON");
    let address = |key: &str| found[key].as_str().expect(key).parse().expect("an address");
    let place = Place {
        netns: Netns::of(
            found["pid"]
                .as_i64()
                .and_then(|pid| pid.try_into().ok())
                .expect("pid"),
        ),
        four: address("address"),
        six: address("address6"),
        _running: running,
    };
    (place, found)
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

#[test]
fn the_table_is_true() {
    packets(|lab| {
        let ports = [
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1:8082:82",
            "-p",
            "[::1]:8082:82",
        ];
        let udp = [
            "-p",
            "8080:80/udp",
            "-p",
            "127.0.0.1:8082:82/udp",
            "-p",
            "[::1]:8082:82/udp",
        ];
        let (web, found) = start(lab, "web", &[ports, udp].concat());
        let (neighbour, _) = start(lab, "neighbour", &[]);
        let (other, _) = start(
            lab,
            "other",
            &["--bridge", "blue", "--subnet", "172.28.0.0/24"],
        );
        let word = |key: &str| found[key].as_str().expect(key).to_owned();
        sh(&format!(
            "ip -n internet route add {} via 192.0.2.2; ip -n internet route add {} via 2001:db8:1::2",
            word("subnet"),
            word("subnet6"),
        ));
        // A socket of [::] is one of both families. By UDP it answers from any address of its host, though.
        web.netns
            .enter(|| serve(&[at("::", 80), at("::", 81), at("::", 82)]));
        let outside = [at("198.51.100.10", 9000), at("2001:db8:2::10", 9000)];
        lab.internet.enter(|| serve(&outside));
        for address in [
            "192.0.2.2",
            "2001:db8:1::2",
            &word("gateway"),
            &word("gateway6"),
        ] {
            serve(&[at(address, 9000)]);
        }
        serve(&[at("127.0.0.1", 9001), at("::1", 9001)]);
        let mut faults = Vec::new();
        for line in table() {
            for four in [true, false] {
                let pick = |a: &str, b: &str| -> IpAddr {
                    if four { a } else { b }.parse().expect("an address")
                };
                let own = |place: &Place| if four { place.four } else { place.six };
                let host = pick("192.0.2.2", "2001:db8:1::2");
                let gateway4 = word("gateway").parse().expect("an address");
                let gateway = pick(&word("gateway"), &word("gateway6"));
                let to = match line.to.as_str() {
                    "web's address" => own(&web),
                    "the host's address" => host,
                    "the gateway" => gateway,
                    "loopback" => pick("127.0.0.1", "::1"),
                    "the outside" => pick("198.51.100.10", "2001:db8:2::10"),
                    other => panic!("{other} in the table"),
                };
                let (netns, client) = match line.from.as_str() {
                    "host" => (None, None),
                    "LAN" => (
                        Some(&lab.internet),
                        Some(pick("192.0.2.1", "2001:db8:1::1")),
                    ),
                    "neighbour" => (Some(&neighbour.netns), Some(own(&neighbour))),
                    "another network" => (Some(&other.netns), Some(own(&other))),
                    "web" => (Some(&web.netns), Some(own(&web))),
                    other => panic!("{other} in the table"),
                };
                let wanted = line.seen.as_deref().map(|seen| match seen {
                    "the client" => client.expect("a client with an address"),
                    "the gateway" => gateway,
                    "the host" => host,
                    other => panic!("{other} in the table"),
                });
                let address = SocketAddr::new(to, line.port);
                for by_udp in [false, true] {
                    let seen = match netns {
                        Some(netns) => netns.enter(|| ask(address, by_udp)),
                        None => ask(address, by_udp),
                    };
                    // A datagram does not tell whether the container listens to IPv6: the relay takes IPv4.
                    let by_relay = line.to == "loopback" && by_udp;
                    let wanted = if by_relay { Some(gateway4) } else { wanted };
                    if seen != wanted {
                        let kind = if by_udp { "UDP" } else { "TCP" };
                        faults.push(format!(
                            "{} to {address} ({}) by {kind}: {seen:?}, and not {wanted:?}",
                            line.from, line.to
                        ));
                    }
                }
            }
        }
        assert!(
            faults.is_empty(),
            "{} faults:\n{}",
            faults.len(),
            faults.join("\n")
        );
    });
}
