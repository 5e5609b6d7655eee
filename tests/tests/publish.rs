//! Published ports: who reaches them and whom the container sees, what holds them, and how they come and go.
//! (By the host's loopback: see `loopback_ports.rs`.)

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use lab::{
    DEADLINE, Lab, Netns, Running, Snapshot, binary, case, collect, packets, parent, sh, sys,
    wait_for_end,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// A container of `run -d`, and its network namespace.
fn container(lab: &Lab, name: &str, options: &[&str]) -> Netns {
    let options = [&["-d", "--name", name], options].concat();
    lab.run(&options, &["sleep", "1000"]).ok();
    Netns::of(lab.pid_of(name))
}

/// Both kinds of server on one port, with one address that it sees.
struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    fn new(inside: &Netns, address: &str) -> Server {
        inside.enter(|| {
            let udp = UdpSocket::bind(address).expect("bind");
            udp.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            let tcp = TcpListener::bind(address).expect("listen");
            Server { tcp, udp }
        })
    }

    /// The address that it sees, by TCP and by UDP, of somebody who connects to `to`, and gets its answer.
    #[track_caller]
    fn sees(&self, from: &Netns, to: &str) -> IpAddr {
        let to: SocketAddr = to.parse().expect("an address");
        let mut client = from
            .enter(|| connect(to))
            .unwrap_or_else(|error| panic!("{to}: {error}"));
        let (mut stream, peer) = self.tcp.accept().expect("a connection");
        stream.write_all(b"tcp").expect("write");
        let mut answer = [0; 3];
        client.read_exact(&mut answer).expect("read");
        assert_eq!(&answer, b"tcp");
        assert_eq!(self.sees_udp(from, to), peer.ip(), "by UDP as by TCP");
        peer.ip()
    }

    #[track_caller]
    fn sees_udp(&self, from: &Netns, to: SocketAddr) -> IpAddr {
        let client = from.enter(|| udp_client(to));
        client.send(b"question").expect("send");
        let mut buffer = [0; 100];
        let (length, peer) = self.udp.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..length], b"question");
        self.udp.send_to(b"answer", peer).expect("answer");
        let length = client.recv(&mut buffer).expect("the answer arrives");
        assert_eq!(&buffer[..length], b"answer");
        peer.ip()
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

fn udp_client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = UdpSocket::bind(any).expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client.connect(to).expect("connect");
    client
}

fn supervisor(lab: &Lab, name: &str) -> i32 {
    let text = lab.hawser(&["inspect", name]).ok();
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    i32::try_from(found["supervisor"].as_i64().expect("a pid")).expect("a pid")
}

/// This process's own namespace: the host.
fn host() -> Netns {
    Netns::of(i32::try_from(std::process::id()).expect("a pid"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const BOTH: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

#[test]
fn everybody_reaches_it_and_is_seen() {
    packets(|lab| {
        let web = container(lab, "web", &BOTH);
        let server = Server::new(&web, "0.0.0.0:80");
        let neighbour = container(lab, "neighbour", &[]);
        let stranger = container(
            lab,
            "stranger",
            &["--bridge", "lan0", "--subnet", "172.20.0.0/16"],
        );
        let alone = container(lab, "alone", &["--network", "ptp"]);
        let host = host();
        assert_eq!(
            server.sees(&lab.internet, "192.0.2.2:8080"),
            ip("192.0.2.1"),
            "the LAN"
        );
        assert_eq!(
            server.sees(&host, "192.0.2.2:8080"),
            ip("192.0.2.2"),
            "the host"
        );
        assert_eq!(
            server.sees(&host, "172.19.0.1:8080"),
            ip("172.19.0.1"),
            "by its bridge"
        );
        for local in ["127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(server.sees(&host, local), ip("172.19.0.1"), "{local}");
        }
        for address in ["192.0.2.2:8080", "172.19.0.1:8080"] {
            assert_eq!(
                server.sees(&stranger, address),
                ip("172.20.0.2"),
                "another network"
            );
            assert_eq!(
                server.sees(&alone, address),
                ip("10.0.0.2"),
                "point-to-point"
            );
            // On the same bridge answers would go past the host.
            assert_eq!(
                server.sees(&neighbour, address),
                ip("172.19.0.1"),
                "a neighbour"
            );
            assert_eq!(server.sees(&web, address), ip("172.19.0.1"), "itself");
        }
    });
}

#[test]
fn point_to_point_as_well() {
    packets(|lab| {
        let options = [&["--network", "ptp"], &BOTH[..]].concat();
        let web = container(lab, "web", &options);
        let server = Server::new(&web, "0.0.0.0:80");
        let neighbour = container(lab, "neighbour", &["--network", "ptp"]);
        let stranger = container(lab, "stranger", &[]);
        let host = host();
        assert_eq!(
            server.sees(&lab.internet, "192.0.2.2:8080"),
            ip("192.0.2.1")
        );
        assert_eq!(server.sees(&host, "192.0.2.2:8080"), ip("192.0.2.2"));
        assert_eq!(server.sees(&host, "[::1]:8080"), ip("10.0.0.1"));
        assert_eq!(server.sees(&neighbour, "192.0.2.2:8080"), ip("10.0.0.3"));
        assert_eq!(server.sees(&stranger, "192.0.2.2:8080"), ip("172.19.0.2"));
        assert_eq!(
            server.sees(&web, "192.0.2.2:8080"),
            ip("10.0.0.1"),
            "itself"
        );
    });
}

/// Its neighbours and a container itself come back by the bridge: what is needed for that is all its containers'.
#[test]
fn on_a_bridge_of_others_a_port_outlives_those_of_other_containers() {
    packets(|lab| {
        sh(
            "ip link add br9 type bridge; ip addr add 172.29.0.1/24 dev br9; ip link set br9 up
            sysctl -q -w net.ipv4.ip_forward=1",
        );
        let on = |name: &str, ports: &[&str]| {
            container(lab, name, &[&["--bridge", "br9"], ports].concat())
        };
        let web = on("web", &BOTH);
        let server = Server::new(&web, "0.0.0.0:80");
        let neighbour = on("neighbour", &["-p", "8081:80"]);
        let check = |when: &str| {
            for (from, who) in [(&web, "itself"), (&neighbour, "a neighbour")] {
                let reached = from.enter(|| connect("172.29.0.1:8080".parse().expect("address")));
                reached.unwrap_or_else(|error| panic!("{who}, {when}: {error}"));
                drop(server.tcp.accept().expect("its connection"));
                let seen = server.sees(from, "172.29.0.1:8080");
                assert_eq!(seen, ip("172.29.0.1"), "{who}, {when}");
            }
        };
        check("two publish ports");
        lab.hawser(&["port", "rm", "neighbour", "8081:80"]).ok();
        check("the other has taken its last port back");
        on("another", &["-p", "8082:80"]);
        lab.hawser(&["stop", "another"]).ok();
        check("another has ended");
        drop((server, web, neighbour));
        for name in ["web", "neighbour"] {
            lab.hawser(&["stop", name]).ok();
        }
        lab.settle();
        lab.hawser(&["down"]).ok();
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn in_the_foreground_too_and_only_as_long_as_it_lives() {
    packets(|lab| {
        let before = lab.with_network();
        let mut running = lab.start(
            &["-p", "8080:80"],
            &["sh", "-c", "httpd -p 80 -h /srv && echo up; read x; exit 0"],
        );
        running.until("up");
        let get = || {
            lab.internet
                .enter(|| connect("192.0.2.2:8080".parse().expect("address")))
        };
        let mut stream = get().expect("reached");
        stream.write_all(b"GET /no HTTP/1.0\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        assert!(answer.contains("404"), "{answer}");
        drop(stream);
        running.end().exits(0);
        assert_eq!(
            get().expect_err("nobody").kind(),
            ErrorKind::ConnectionRefused
        );
        lab.settle();
        before.assert_back();
    });
}

#[test]
fn one_address_of_the_host_and_no_other() {
    packets(|lab| {
        sh("ip addr add 192.0.2.3/24 dev uplink");
        let web = container(
            lab,
            "web",
            &["-p", "192.0.2.3:8080:80", "-p", "192.0.2.3:8080:80/udp"],
        );
        let server = Server::new(&web, "0.0.0.0:80");
        assert_eq!(
            server.sees(&lab.internet, "192.0.2.3:8080"),
            ip("192.0.2.1")
        );
        server.sees(&host(), "192.0.2.3:8080");
        for (from, to) in [
            (&lab.internet, "192.0.2.2:8080"),
            (&host(), "192.0.2.2:8080"),
            (&host(), "127.0.0.1:8080"),
        ] {
            let refused = from.enter(|| connect(to.parse().expect("address")));
            assert_eq!(refused.expect_err(to).kind(), ErrorKind::ConnectionRefused);
        }
        // The same port of another address is another port.
        let other = container(
            lab,
            "other",
            &[
                "-p",
                "192.0.2.2:8080:81",
                "-p",
                "192.0.2.2:8080:81/udp",
                "-p",
                "127.0.0.1:8080:81",
                "-p",
                "127.0.0.1:8080:81/udp",
            ],
        );
        let other_server = Server::new(&other, "0.0.0.0:81");
        other_server.sees(&lab.internet, "192.0.2.2:8080");
        other_server.sees(&host(), "127.0.0.1:8080");
        server.sees(&lab.internet, "192.0.2.3:8080");
    });
}

#[test]
fn who_has_the_port_is_named() {
    case(|lab| {
        let before = lab.with_network();
        let taken = |options: &[&str], words: &[&str]| {
            lab.run(options, &["true"]).refused(words);
        };
        {
            let _daemon = TcpListener::bind("0.0.0.0:8080").expect("a daemon of the host");
            let _udp = UdpSocket::bind("[::1]:8080").expect("another");
            let me = format!("(pid {})", std::process::id());
            taken(
                &["-p", "8080:80"],
                &["publish 8080:80/tcp", "port 8080 is in use by publish", &me],
            );
            taken(
                &["-p", "127.0.0.1:8080:80"],
                &["8080 of 127.0.0.1 is in use by", &me],
            );
            taken(&["-p", "8080:80/udp"], &["8080:80/udp", &me]);
            taken(&["-p", "8079-8080:80-81"], &["8080:81/tcp", &me]);
        }
        before.assert_back();
        container(
            lab,
            "web",
            &["-p", "8080:80", "-p", "8080:80/udp", "-p", "8080:80/sctp"],
        );
        let pid = format!("(pid {})", supervisor(lab, "web"));
        let before = Snapshot::take();
        for options in [
            ["-p", "8080:81"],
            ["-p", "127.0.0.1:8080:81"],
            ["-p", "192.0.2.2:8080:81"],
            ["-p", "0.0.0.0:8080:81"],
            ["-p", "8080:81/udp"],
            ["-p", "8080:81/sctp"],
        ] {
            taken(&options, &[options[1], "in use by container web", &pid]);
        }
        before.assert_back();
        // And a daemon of the host learns it from the kernel.
        for address in [
            "0.0.0.0:8080",
            "127.0.0.1:8080",
            "192.0.2.2:8080",
            "[::]:8080",
        ] {
            let tcp = TcpListener::bind(address).expect_err(address);
            let udp = UdpSocket::bind(address).expect_err(address);
            assert_eq!(
                (tcp.kind(), udp.kind()),
                (ErrorKind::AddrInUse, ErrorKind::AddrInUse)
            );
        }
    });
}

/// Of SCTP this kernel may have no sockets: the same collide as of the others, and the same do not.
#[test]
fn addresses_and_families_collide_as_those_of_sockets() {
    case(|lab| {
        for protocol in ["sctp", "tcp", "udp"] {
            let of = |port: &str| format!("{port}/{protocol}");
            let start = |name: &str, ports: &[&str]| {
                let ports: Vec<String> = ports.iter().map(|port| of(port)).collect();
                let options = ports.iter().flat_map(|port| ["-p", port]);
                let options: Vec<&str> = options.collect();
                container(lab, &format!("{name}-{protocol}"), &options);
            };
            start("both", &["0.0.0.0:81:81", "[::]:81:81"]);
            start("four", &["0.0.0.0:80:80"]);
            start("six", &["[::]:80:80"]);
            start("one", &["192.0.2.2:82:82", "83:83"]);
            start("other", &["[2001:db8:1::2]:82:82"]);
            let before = Snapshot::take();
            for (port, by) in [
                ("80:1", ""),
                ("0.0.0.0:80:1", "four"),
                ("192.0.2.2:80:1", "four"),
                ("[::]:80:1", "six"),
                ("[2001:db8:1::2]:80:1", "six"),
                ("82:1", ""),
                ("0.0.0.0:82:1", "one"),
                ("192.0.2.2:82:1", "one"),
                ("[::]:82:1", "other"),
                ("[2001:db8:1::2]:82:1", "other"),
                ("83:1", "one"),
                ("0.0.0.0:83:1", "one"),
                ("[::]:83:1", "one"),
                ("192.0.2.2:83:1", "one"),
                ("[2001:db8:1::2]:83:1", "one"),
                ("90-92:90-92", ""),
            ] {
                let (port, by) = (of(port), format!("in use by container {by}"));
                let words = if port.starts_with("90") {
                    // Free, all of them; and let go of again, since another one is not.
                    ["99.9.9.9:1:1", "no such address"]
                } else {
                    [&*port, &*by]
                };
                let mut options = vec!["-p", &port];
                if port.starts_with("90") {
                    options.extend(["-p", "99.9.9.9:1:1"]);
                }
                lab.run(&options, &["true"]).refused(&words);
            }
            let lacking = ["192.0.2.99:84:84", "[2001:db8:1::99]:84:84"].map(of);
            for port in &lacking {
                lab.run(&["-p", port], &["true"])
                    .refused(&[port, "no such address"]);
            }
            before.assert_back();
            for name in ["both", "four", "six", "one", "other"] {
                lab.hawser(&["stop", &format!("{name}-{protocol}")]).ok();
            }
            start("again", &["80:1", "82:1", "192.0.2.2:83:1"]);
            lab.hawser(&["stop", &format!("again-{protocol}")]).ok();
        }
    });
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    case(|lab| {
        let before = Snapshot::take();
        for (options, words) in [
            (&["-p", "0:80"][..], &["port 0", "1 to 65535"][..]),
            (&["-p", "80:65536"], &["65536"]),
            (&["-p", "80-81:80"], &["80-81 are 2 ports"]),
            (&["-p", "::1:80:80"], &["brackets"]),
            (
                &["-p", "192.0.2.99:80:80"],
                &["publish 192.0.2.99:80:80/tcp", "no such address"],
            ),
            // The kernel would let sockets be bound to it.
            (
                &["-p", "192.0.2.255:80:80"],
                &["publish 192.0.2.255:80:80/tcp", "broadcast address", "name"],
            ),
            (
                &["-p", "127.255.255.255:80:80/udp"],
                &["127.255.255.255", "broadcast address"],
            ),
            (
                &["-p", "255.255.255.255:80:80"],
                &["255.255.255.255", "not an address of one host"],
            ),
            (
                &["-p", "[2001:db8:1::99]:80:80/udp"],
                &["2001:db8:1::99", "no such address"],
            ),
            (
                &["-p", "80:80", "-p", "80:81"],
                &["80:81/tcp", "another --publish"],
            ),
            (
                &["-p", "80:80", "-p", "127.0.0.1:80:81"],
                &["127.0.0.1:80:81/tcp", "another --publish"],
            ),
            (
                &["-p", "80:80", "--network", "none"],
                &["--publish", "--network"],
            ),
            (
                &["-p", "80:80", "--network", "host"],
                &["--publish", "--network"],
            ),
            (
                &["-p", "80:80", "--network", "container:web"],
                &["--publish", "--network"],
            ),
            (
                &["-p", "80:80", "--network", "ns:/run/netns/internet"],
                &["--publish", "--network"],
            ),
        ] {
            lab.run(options, &["true"]).refused(words);
            before.assert_back();
        }
    });
}

#[test]
fn a_free_port_is_chosen_and_shown() {
    case(|lab| {
        let web = container(
            lab,
            "web",
            &[
                "-p",
                "80",
                "-p",
                "80/udp",
                "-p",
                "127.0.0.1::81",
                "-p",
                "90-91",
                "-p",
                "99/sctp",
            ],
        );
        let ports = lab.listed("web")["ports"].clone();
        let of = |at: usize| {
            u16::try_from(ports[at]["host_port"].as_u64().expect("a port")).expect("a port")
        };
        let all: Vec<u16> = (0..6).map(of).collect();
        assert!(all.iter().all(|port| *port >= 1024), "{ports}");
        assert_eq!(ports[2]["host"], "127.0.0.1");
        assert_eq!(ports[1]["protocol"], "udp");
        let tcp = web.enter(|| TcpListener::bind("0.0.0.0:80").expect("listen"));
        lab.internet
            .enter(|| connect(SocketAddr::new(ip("192.0.2.2"), all[0])))
            .expect("reached");
        tcp.accept().expect("a connection");
        let lines = lab.hawser(&["port", "ls", "web"]).ok();
        assert_eq!(
            lines.lines().next(),
            Some(&format!("{}:80/tcp", all[0])[..])
        );
        assert!(
            lab.hawser(&["ls"]).ok().contains(&lines.replace('\n', " ")),
            "in ls too"
        );
        let json: serde_json::Value =
            serde_json::from_str(&lab.hawser(&["port", "ls", "web", "--json"]).ok()).expect("JSON");
        assert_eq!(json, ports);
        let inspected: serde_json::Value =
            serde_json::from_str(&lab.hawser(&["inspect", "web"]).ok()).expect("JSON");
        assert_eq!(inspected["ports"], ports);
    });
}

#[test]
fn ports_come_and_go_while_it_lives() {
    packets(|lab| {
        let web = container(lab, "web", &["-p", "8080:80", "-p", "8080:80/udp"]);
        let server = Server::new(&web, "0.0.0.0:80");
        let to = |port: u16| SocketAddr::new(ip("192.0.2.2"), port);
        let mut before = lab.internet.enter(|| connect(to(8080))).expect("reached");
        let (mut before_side, _) = server.tcp.accept().expect("a connection");
        assert_eq!(
            lab.hawser(&["port", "add", "web", "8081:80", "8081:80/udp"])
                .ok(),
            "8081:80/tcp\n8081:80/udp"
        );
        assert_eq!(
            server.sees(&lab.internet, "192.0.2.2:8081"),
            ip("192.0.2.1")
        );
        assert_eq!(server.sees(&host(), "127.0.0.1:8081"), ip("172.19.0.1"));
        let free = lab.hawser(&["port", "add", "web", "80"]).ok();
        assert_eq!(lab.hawser(&["port", "ls", "web"]).ok().lines().count(), 5);
        assert_eq!(
            lab.hawser(&["port", "rm", "web", "8081:80"]).ok(),
            "8081:80/tcp"
        );
        for from in [&lab.internet, &host()] {
            let refused = from.enter(|| connect(to(8081))).expect_err("withdrawn");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        server.sees_udp(&lab.internet, to(8081));
        assert_eq!(lab.hawser(&["port", "rm", "web", &free]).ok(), free);
        // A connection by another port has not noticed.
        before_side.write_all(b"still").expect("write");
        let mut said = [0; 5];
        before.read_exact(&mut said).expect("read");
        server.sees(&lab.internet, "192.0.2.2:8080");
        // And the port is anybody's.
        TcpListener::bind("0.0.0.0:8081").expect("free");
        // Without a host port, all that lead there.
        assert_eq!(lab.hawser(&["port", "rm", "web", "80"]).ok(), "8080:80/tcp");
        assert_eq!(
            lab.hawser(&["port", "ls", "web"]).ok(),
            "8080:80/udp\n8081:80/udp"
        );
        // What does not work changes nothing.
        let snapshot = Snapshot::take();
        let _daemon = TcpListener::bind("0.0.0.0:9000").expect("a daemon of the host");
        lab.hawser(&["port", "add", "web", "9000:80"])
            .refused(&["9000", "in use by publish"]);
        lab.hawser(&["port", "add", "web", "8999-9000:80-81"])
            .refused(&["9000", "in use by publish"]);
        lab.hawser(&["port", "add", "web", "8300:80", "9000:80"])
            .refused(&["9000", "in use by publish"]);
        let left = lab.hawser(&["port", "ls", "web"]).ok();
        assert!(!left.contains("8300"), "all or none: {left}");
        // Neither does what it has itself.
        lab.hawser(&["port", "add", "web", "8080:81/udp"])
            .refused(&["8080:81/udp", "in use by container web"]);
        lab.hawser(&["port", "rm", "web", "8080:80"])
            .refused(&["withdraw 8080:80/tcp", "web"]);
        for more in ["8300:80", "8080:80/udp"] {
            lab.hawser(&["port", "rm", "web", "8080:80/udp", "8081:80/udp", more])
                .refused(&["withdraw", more]);
            assert_eq!(lab.hawser(&["port", "ls", "web"]).ok(), left, "all or none");
        }
        lab.hawser(&["port", "add", "nobody", "80"])
            .refused(&["nobody"]);
        lab.hawser(&["port", "add", "web", "0:80"])
            .refused(&["port 0"]);
        snapshot.assert_back();
        lab.run(
            &["-d", "--name", "alone", "--network", "none"],
            &["sleep", "1000"],
        )
        .ok();
        lab.hawser(&["port", "add", "alone", "80"])
            .refused(&["alone", "no network of its own"]);
    });
}

/// Whose number nobody was told is not published: a free one would lead in from everywhere, and nobody would know of it.
#[test]
fn a_port_whose_number_cannot_be_said_is_taken_back() {
    case(|lab| {
        lab.run(&["-d", "--name", "web"], &["sleep", "1000"]).ok();
        lab.hawser(&["port", "add", "web", "8080:80"]).ok();
        let snapshot = Snapshot::take();
        let mut command = lab.command_of("/bin/sh");
        let script = format!(
            "exec {} port add web 80 8081:81 >/dev/full",
            binary().display()
        );
        command.args(["-c", &script]);
        collect(command, DEADLINE).refused(&["write to standard output", "ENOSPC"]);
        assert_eq!(lab.hawser(&["port", "ls", "web"]).ok(), "8080:80/tcp");
        snapshot.assert_back();
    });
}

/// Who has given up waiting has said that nothing is published.
#[test]
fn a_port_whose_publisher_has_given_up_is_taken_back() {
    case(|lab| {
        lab.run(&["-d", "--name", "web"], &["sleep", "1000"]).ok();
        let snapshot = Snapshot::take();
        let supervisor = sys::pidfd(parent(lab.pid_of("web"))).expect("pidfd");
        for ports in [&["8080:80", "8081:81/udp"][..], &["80"]] {
            sys::pidfd_signal(&supervisor, libc::SIGSTOP).expect("stop the supervisor");
            lab.hawser(&[&["port", "add", "web"], ports].concat())
                .refused(&["does not answer"]);
            sys::pidfd_signal(&supervisor, libc::SIGCONT).expect("let it go on");
            assert_eq!(lab.hawser(&["port", "ls", "web"]).ok(), "");
            snapshot.assert_back();
        }
    });
}

/// The supervisor is the test.
#[test]
fn ports_before_one_that_is_not_answered_for_are_taken_back() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        let listener = UnixListener::bind("/run/hawser/web.sock").expect("a control socket");
        let deadline = TimeVal::seconds(DEADLINE.as_secs() as i64 / 4);
        setsockopt(&listener, sockopt::ReceiveTimeout, &deadline).expect("a deadline");
        let asked = |answer: &str| {
            let (mut client, _) = listener.accept().expect("it asks");
            let mut line = String::new();
            BufReader::new(&client).read_line(&mut line).expect("read");
            client.write_all(answer.as_bytes()).expect("answer");
            line
        };
        let adding = Running::spawn(lab.command(&["port", "add", "web", "8080:80", "81"]));
        assert_eq!(asked("8080:80/tcp\n"), "hawser 1 port add 8080:80/tcp\n");
        assert_eq!(asked(""), "hawser 1 port add 81/tcp\n");
        assert_eq!(asked("8080:80/tcp\n"), "hawser 1 port rm 8080:80/tcp\n");
        adding.end().refused(&["ask container web"]);
    });
}

/// All or none, also where the kernel has taken some already.
#[test]
fn a_range_that_is_refused_half_way_leaves_nothing() {
    case(|lab| {
        lab.run(&["-d", "--name", "web"], &["sleep", "1000"]).ok();
        let snapshot = Snapshot::take();
        let supervisor = parent(lab.pid_of("web"));
        let mut command = lab.command_of("/bin/sh");
        let script = format!(
            "exec strace -o /dev/null -p {supervisor} -e inject=epoll_ctl:error=ENOSPC:when=3 2>&1"
        );
        command.args(["-c", &script]);
        let mut strace = Running::spawn(command);
        strace.until("attached");
        lab.hawser(&["port", "add", "web", "9000-9003:90-93"])
            .refused(&["watch published ports", "ENOSPC"]);
        strace.signal(libc::SIGINT);
        strace.end();
        assert_eq!(lab.hawser(&["port", "ls", "web"]).ok(), "");
        snapshot.assert_back();
        lab.hawser(&["port", "add", "web", "9000:90"]).ok();
    });
}

#[test]
fn a_killed_supervisor_leaves_neither_the_address_nor_the_port_to_the_next() {
    packets(|lab| {
        let options = [
            "--ip",
            "172.19.0.9",
            "-p",
            "8080:80",
            "-p",
            "8080:80/udp",
            "-p",
            "8085:80",
        ];
        let web = container(lab, "web", &options);
        let server = Server::new(&web, "0.0.0.0:80");
        server.sees(&lab.internet, "192.0.2.2:8080");
        // Connections of its splice, open on both sides: what is left of them must not hold the port.
        let client = connect("127.0.0.1:8080".parse().expect("address")).expect("reached");
        let _server_side = server.tcp.accept().expect("a connection");
        let kill = |name: &str| {
            let inspected: serde_json::Value =
                serde_json::from_str(&lab.hawser(&["inspect", name]).ok()).expect("JSON");
            let pid = i32::try_from(inspected["supervisor"].as_i64().expect("pid")).expect("pid");
            let command = lab.pid_of(name);
            sys::pidfd_signal(&sys::pidfd(pid).expect("pidfd"), libc::SIGKILL).expect("kill");
            wait_for_end(pid);
            wait_for_end(command);
        };
        kill("web");
        drop((web, server));
        // The next tenant of the port, at another address.
        let next = container(
            lab,
            "next",
            &["--ip", "172.19.0.10", "-p", "8080:81", "-p", "8080:81/udp"],
        );
        let next_server = Server::new(&next, "0.0.0.0:81");
        assert_eq!(
            next_server.sees(&lab.internet, "192.0.2.2:8080"),
            ip("192.0.2.1")
        );
        assert_eq!(
            next_server.sees(&host(), "127.0.0.1:8080"),
            ip("172.19.0.1")
        );
        drop(client);
        // The next tenant of the address, which has published nothing.
        let tenant = container(lab, "tenant", &["--ip", "172.19.0.9"]);
        let _tenant_server = Server::new(&tenant, "0.0.0.0:80");
        let refused = lab
            .internet
            .enter(|| connect("192.0.2.2:8085".parse().expect("address")));
        assert_eq!(
            refused.expect_err("not its port").kind(),
            ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn a_client_that_goes_on_by_udp_reaches_the_next_holder_of_the_port() {
    packets(|lab| {
        let to = SocketAddr::new(ip("192.0.2.2"), 8080);
        let client = lab.internet.enter(|| udp_client(to));
        let other = lab
            .internet
            .enter(|| udp_client(SocketAddr::new(ip("192.0.2.2"), 8081)));
        // Before anybody has it: the kernel remembers that it was the host itself.
        client.send(b"nobody").expect("send");
        let error = client.recv(&mut [0]).expect_err("nobody");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        for (name, address) in [
            ("one", "172.19.0.5"),
            ("two", "172.19.0.6"),
            ("three", "172.19.0.7"),
        ] {
            let inside = container(
                lab,
                name,
                &["--ip", address, "-p", "8080:80/udp", "-p", "8081:80/udp"],
            );
            // It answers behind having forgotten what was before.
            lab.hawser(&["port", "ls", name]).ok();
            let server = inside.enter(|| UdpSocket::bind("0.0.0.0:80").expect("bind"));
            server.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            for client in [&client, &other] {
                client.send(name.as_bytes()).expect("send");
                let mut buffer = [0; 10];
                let (length, from) = server.recv_from(&mut buffer).expect("it arrives");
                assert_eq!(&buffer[..length], name.as_bytes());
                server.send_to(b"yes", from).expect("answer");
                client.recv(&mut buffer).expect("answered");
            }
            if name == "one" {
                // Withdrawn: the host itself again, and the other one as before.
                lab.hawser(&["port", "rm", name, "8080:80/udp"]).ok();
                lab.hawser(&["port", "ls", name]).ok();
                client.send(b"nobody").expect("send");
                let error = client.recv(&mut [0]).expect_err("nobody");
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                lab.hawser(&["stop", name]).ok();
            } else {
                let command = lab.pid_of(name);
                let inspected: serde_json::Value =
                    serde_json::from_str(&lab.hawser(&["inspect", name]).ok()).expect("JSON");
                let pid =
                    i32::try_from(inspected["supervisor"].as_i64().expect("pid")).expect("pid");
                sys::pidfd_signal(&sys::pidfd(pid).expect("pidfd"), libc::SIGKILL).expect("kill");
                wait_for_end(command);
                wait_for_end(pid);
            }
        }
    });
}

#[test]
fn a_port_whose_last_connections_linger_is_published_all_the_same() {
    case(|lab| {
        let web = container(lab, "web", &["-p", "8080:80"]);
        let server = Server::new(&web, "0.0.0.0:80");
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            let mut client = connect(address.parse().expect("address")).expect("reached");
            // The server closes first: TIME_WAIT is on the side of the port.
            drop(server.tcp.accept().expect("a connection"));
            assert_eq!(client.read(&mut [0]).expect("its end"), 0);
        }
        lab.hawser(&["stop", "web"]).ok();
        let lingering = sh("ss -tan 2>/dev/null || cat /proc/net/tcp /proc/net/tcp6");
        assert!(
            lingering.contains("8080") || lingering.contains(":1F90"),
            "{lingering}"
        );
        container(lab, "again", &["-p", "8080:80"]);
    });
}

#[test]
fn ten_thousand_ports() {
    packets(|lab| {
        let before = lab.with_network();
        let web = container(lab, "web", &["-p", "20000-29999:20000-29999"]);
        let last = web.enter(|| TcpListener::bind("0.0.0.0:29999").expect("listen"));
        let listed = lab.listed("web")["ports"].clone();
        assert_eq!(
            (listed[0]["count"].as_u64(), listed[1].is_null()),
            (Some(10_000), true),
            "{listed}"
        );
        for (from, to) in [(&lab.internet, "192.0.2.2:29999"), (&host(), "[::1]:29999")] {
            from.enter(|| connect(to.parse().expect("address")))
                .expect(to);
            last.accept().expect("a connection");
        }
        // Of the limit that was raised, the container has noticed nothing.
        let limits =
            fs::read_to_string(format!("/proc/{}/limits", lab.pid_of("web"))).expect("limits");
        let ours = fs::read_to_string("/proc/self/limits").expect("limits");
        let files = |text: &str| {
            text.lines()
                .find(|line| line.starts_with("Max open files"))
                .map(str::to_owned)
        };
        assert_eq!(files(&limits), files(&ours));
        assert_eq!(
            lab.hawser(&["port", "rm", "web", "20001-29998:20001-29998"])
                .ok(),
            "20001-29998:20001-29998/tcp"
        );
        assert_eq!(
            lab.hawser(&["port", "ls", "web"]).ok(),
            "20000:20000/tcp\n29999:29999/tcp"
        );
        drop((web, last));
        lab.hawser(&["stop", "web"]).ok();
        lab.hawser(&["rm", "web"]).ok();
        lab.settle();
        before.assert_back();
    });
}

/// Connects from this port of the internet, which may have been used a moment ago.
fn connect_from(lab: &Lab, port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let from: SockaddrStorage = SocketAddr::new(ip("192.0.2.1"), port).into();
    lab.internet.enter(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        // No goodbye when it is closed, and no waiting for ever.
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&socket, sockopt::Linger, &linger)?;
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(10))?;
        bind(socket.as_raw_fd(), &from)?;
        nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(socket))
    })
}

#[test]
fn a_client_that_comes_back_by_tcp_reaches_the_next_holder_of_the_port() {
    packets(|lab| {
        let to = SocketAddr::new(ip("192.0.2.2"), 8080);
        let kept = SocketAddr::new(ip("192.0.2.2"), 8081);
        let other = container(lab, "other", &["-p", "8081:80"]);
        let other = other.enter(|| TcpListener::bind("0.0.0.0:80").expect("listen"));
        let mut other_client = connect_from(lab, 40_001, kept).expect("reached");
        let mut other_side = other.accept().expect("a connection").0;
        let one = container(lab, "one", &["--ip", "172.19.0.5", "-p", "8080:80"]);
        let listener = one.enter(|| TcpListener::bind("0.0.0.0:80").expect("listen"));
        let client = connect_from(lab, 40_000, to).expect("reached");
        let side = listener.accept().expect("a connection");
        // The client's machine is switched off: the kernel does not hear that the connection is over.
        sh("ip -n internet link set eth0 down");
        drop((client, side, listener, one));
        lab.hawser(&["stop", "one"]).ok();
        sh("ip -n internet link set eth0 up");
        let two = container(lab, "two", &["--ip", "172.19.0.6", "-p", "8080:80"]);
        let listener = two.enter(|| TcpListener::bind("0.0.0.0:80").expect("listen"));
        // It answers behind having forgotten what was before.
        lab.hawser(&["port", "ls", "two"]).ok();
        let _client = connect_from(lab, 40_000, to).expect("reached, at once");
        listener.accept().expect("a connection");
        // Another port's connection has not noticed, nor have those of a port that is withdrawn.
        lab.hawser(&["port", "rm", "other", "80"]).ok();
        lab.hawser(&["port", "ls", "other"]).ok();
        other_side.write_all(b"still").expect("write");
        let mut said = [0; 5];
        other_client
            .set_read_timeout(Some(DEADLINE))
            .expect("a deadline");
        other_client.read_exact(&mut said).expect("read");
    });
}

#[test]
fn by_ipv6_as_by_ipv4() {
    packets(|lab| {
        let web = container(lab, "web", &BOTH);
        let server = Server::new(&web, "[::]:80");
        let neighbour = container(lab, "neighbour", &[]);
        let other = ["--bridge", "lan0", "--subnet", "172.20.0.0/16"];
        let stranger = container(lab, "stranger", &other);
        let address = |name: &str, field: &str| -> IpAddr {
            let text = lab.hawser(&["inspect", name]).ok();
            let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            ip(found[field]
                .as_str()
                .unwrap_or_else(|| panic!("{field} in {text}")))
        };
        let gateway = address("web", "gateway6");
        let host = host();
        assert_eq!(
            server.sees(&lab.internet, "[2001:db8:1::2]:8080"),
            ip("2001:db8:1::1"),
            "the LAN"
        );
        assert_eq!(
            server.sees(&host, "[2001:db8:1::2]:8080"),
            ip("2001:db8:1::2"),
            "the host"
        );
        for address_of_host in ["[2001:db8:1::2]:8080", &format!("[{gateway}]:8080")] {
            assert_eq!(
                server.sees(&stranger, address_of_host),
                address("stranger", "address6"),
                "another network"
            );
            assert_eq!(
                server.sees(&neighbour, address_of_host),
                gateway,
                "a neighbour"
            );
            assert_eq!(server.sees(&web, address_of_host), gateway, "itself");
        }
        // One address of the host; and one that cannot be, for a container without IPv6.
        let options = ["-p", "[2001:db8:1::2]:8090:80"];
        let six = container(lab, "six", &options);
        let listener = six.enter(|| TcpListener::bind("[::]:80").expect("listen"));
        for (from, to) in [
            (&lab.internet, "[2001:db8:1::2]:8090"),
            (&host, "[2001:db8:1::2]:8090"),
        ] {
            from.enter(|| connect(to.parse().expect("address")))
                .expect(to);
            listener.accept().expect("a connection");
        }
        for to in ["[::1]:8090", "192.0.2.2:8090"] {
            let refused = host.enter(|| connect(to.parse().expect("address")));
            assert_eq!(refused.expect_err(to).kind(), ErrorKind::ConnectionRefused);
        }
        lab.run(&["--no-ipv6", "-p", "[2001:db8:1::2]:8091:80"], &["true"])
            .refused(&["publish [2001:db8:1::2]:8091:80/tcp", "no IPv6 address"]);
    });
}
