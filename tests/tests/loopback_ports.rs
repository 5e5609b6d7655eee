//! Published ports by 127.0.0.1 and ::1, where the supervisor itself joins both sides; and on 127.0.0.1 only.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use lab::{DEADLINE, Lab, Netns, case, sh, sys, turns, wait_for_end, wait_untold};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A container of `run -d` with these published ports, and its network namespace.
fn container(lab: &Lab, options: &[&str]) -> Netns {
    let options = [&["-d", "--name", "web"], options].concat();
    lab.run(&options, &["sleep", "1000"]).ok();
    Netns::of(lab.pid_of("web"))
}

fn listen(inside: &Netns, address: &str) -> TcpListener {
    inside.enter(|| TcpListener::bind(address).expect("listen in the container"))
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    patient(&stream);
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("a connection");
    patient(&stream);
    stream
}

fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
        .set_write_timeout(Some(DEADLINE))
        .expect("a deadline");
}

fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("read to the end");
    all
}

/// Sends until all sockets on the way are full; gives how much that was.
fn fill(lab: &Lab, mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).expect("do not wait");
    let part = pattern(1 << 16);
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 3 {
        let before = sent;
        while let Ok(length) = stream.write(&part) {
            sent += length;
        }
        // The supervisor answers behind what it could pass on.
        lab.hawser(&["port", "ls", "web"]).ok();
        quiet = if sent == before { quiet + 1 } else { 0 };
    }
    stream.set_nonblocking(false).expect("wait");
    sent
}

/// The state of the one connection of port 80 inside (`/proc/net/tcp`: 01 established, 05 its end was taken), and how much it has
/// sent that nobody has taken.
fn queue_of_port_80(inside: &Netns) -> String {
    let table = inside.enter(|| fs::read_to_string("/proc/thread-self/net/tcp"));
    let table = table.expect("the connections");
    let mut lines = table.lines().map(|line| line.split_whitespace().collect());
    let is_it = |fields: &Vec<&str>| fields[1].ends_with(":0050") && fields[3] != "0A";
    let fields = lines.find(is_it).expect("the connection");
    let (unsent, _) = fields[4].split_once(':').expect("two queues");
    format!("{} {unsent}", fields[3])
}

fn supervisor(lab: &Lab) -> i32 {
    let text = lab.hawser(&["inspect", "web"]).ok();
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    i32::try_from(found["supervisor"].as_i64().expect("a pid")).expect("a pid")
}

/// Not the program's own pages, which count as dirty until they are written to the disk.
fn private_kb(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("read smaps_rollup");
    let lines = text.lines().filter(|line| line.starts_with("Anonymous:"));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// Bytes that are not the same anywhere near.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at ^ at >> 8 ^ at >> 16) as u8)
        .collect()
}

#[test]
fn both_families_and_both_directions() {
    case(|lab| {
        let inside = container(lab, &["-p", "8080:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        for address in ["127.0.0.1:8080", "[::1]:8080", "127.1.2.3:8080"] {
            let mut client = connect(address);
            let mut server = accept(&listener);
            let peer = server.peer_addr().expect("peer").ip();
            assert_eq!(peer, "172.19.0.1".parse::<IpAddr>().expect("address"));
            server
                .write_all(b"hello\n")
                .expect("the server speaks first");
            let mut hello = [0; 6];
            client.read_exact(&mut hello).expect("read");
            assert_eq!(&hello, b"hello\n");
            // Each direction ends by itself.
            client.write_all(b"question").expect("write");
            client.shutdown(Shutdown::Write).expect("half-close");
            assert_eq!(read_all(&server), b"question");
            server.write_all(b"answer").expect("write");
            drop(server);
            assert_eq!(read_all(&client), b"answer");
            // And the other way round.
            let client = connect(address);
            let server = accept(&listener);
            server.shutdown(Shutdown::Write).expect("half-close");
            assert_eq!(read_all(&client), b"");
            (&client).write_all(b"still here").expect("write");
            drop(client);
            assert_eq!(read_all(&server), b"still here");
        }
    });
}

#[test]
fn every_byte_arrives_also_when_nobody_reads_for_a_while() {
    case(|lab| {
        const LENGTH: usize = 48 << 20;
        let inside = container(lab, &["-p", "8080:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        let pid = supervisor(lab);
        let before = private_kb(pid);
        let sender = connect("127.0.0.1:8080");
        let receiver = accept(&listener);
        sender.set_nonblocking(true).expect("do not wait");
        let all = pattern(LENGTH);
        let mut sent = 0;
        loop {
            match (&sender).write(&all[sent..]) {
                Ok(length) => sent += length,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    // The kernel has taken what it would: is the supervisor at rest too? It answers behind that.
                    lab.hawser(&["port", "ls", "web"]).ok();
                    let more = (&sender).write(&all[sent..]);
                    let Ok(more) = more else { break };
                    sent += more;
                }
            }
            assert!(sent < LENGTH, "the sender is never held up");
        }
        let more = private_kb(pid).saturating_sub(before);
        assert!(more < 500, "the supervisor keeps {more} kB");
        // Meanwhile others are served.
        let mut other = connect("[::1]:8080");
        let other_side = accept(&listener);
        other.write_all(b"not held up").expect("write");
        drop(other);
        assert_eq!(read_all(&other_side), b"not held up");
        sender.set_nonblocking(false).expect("wait");
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                (&sender).write_all(&all[sent..]).expect("write");
                sender.shutdown(Shutdown::Write).expect("end");
            });
            read_all(&receiver)
        });
        assert!(received == all, "{} bytes of {LENGTH}", received.len());
    });
}

#[test]
fn two_thousand_connections_at_once() {
    case(|lab| {
        const COUNT: usize = 2000;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit");
        let inside = container(lab, &["-p", "8080:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        let before = private_kb(supervisor(lab));
        let clients: Vec<_> = (0..COUNT)
            .map(|number| {
                let mut client = connect("127.0.0.1:8080");
                let server = accept(&listener);
                client.write_all(&number.to_be_bytes()).expect("write");
                (client, server)
            })
            .collect();
        for (number, (client, mut server)) in clients.into_iter().enumerate() {
            let mut said = [0; 8];
            server.read_exact(&mut said).expect("read");
            assert_eq!(said, number.to_be_bytes());
            server.write_all(&said).expect("write");
            drop(server);
            assert_eq!(read_all(&client), said);
        }
        let fds = fs::read_dir(format!("/proc/{}/fd", supervisor(lab))).expect("its descriptors");
        assert!(fds.count() < 40, "all of them are closed");
        let more = private_kb(supervisor(lab)).saturating_sub(before);
        assert!(more <= 100, "{more} kB are left");
    });
}

#[test]
fn nobody_listens_and_somebody_hangs_up() {
    case(|lab| {
        let inside = container(lab, &["-p", "8080:80"]);
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            // Before connect(2) has returned, where this side is the slower one.
            let outcome = TcpStream::connect(address).and_then(|mut client| {
                patient(&client);
                client.read(&mut [0])
            });
            let error = outcome.expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        // A reset is passed on, both ways.
        let listener = listen(&inside, "0.0.0.0:80");
        for client_hangs_up in [true, false] {
            let client = connect("127.0.0.1:8080");
            let server = accept(&listener);
            let (gone, left) = if client_hangs_up {
                (client, server)
            } else {
                (server, client)
            };
            // Unread data makes a reset of a close (RFC 2525, 2.17).
            (&left).write_all(b"unread").expect("write");
            gone.peek(&mut [0]).expect("it has come");
            drop(gone);
            let error = (&left).read(&mut [0]).expect_err("the other has hung up");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
}

/// Also where it is heard of by writing there, and what came before it was passed on long ago.
#[test]
fn a_reset_in_the_middle_of_a_long_request_is_no_end() {
    case(|lab| {
        let inside = container(lab, &["-p", "8080:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        for client_hangs_up in [false, true] {
            let client = connect("127.0.0.1:8080");
            let server = accept(&listener);
            let (gone, mut left) = if client_hangs_up {
                (client, server)
            } else {
                (server, client)
            };
            (&gone).write_all(b"half").expect("write");
            let mut half = [0; 4];
            left.read_exact(&mut half).expect("what was sent before");
            assert_eq!(&half, b"half");
            // What is unread makes a reset of the close.
            fill(lab, &left);
            drop(gone);
            let end = left.read(&mut [0]);
            let error = end.expect_err("the other has hung up");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
}

/// Sends, and gives what comes back within a moment that is long enough for whatever works.
#[test]
fn what_is_cut_off_is_no_end() {
    case(|lab| {
        let inside = container(lab, &["-p", "8080:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        let client = connect("127.0.0.1:8080");
        let server = accept(&listener);
        server.set_nonblocking(true).expect("do not wait");
        let part = pattern(1 << 16);
        // More than the sockets on the way hold, so that somebody has some of it still.
        let mut sent = 0;
        while let Ok(length) = (&server).write(&part) {
            sent += length;
        }
        server.set_nonblocking(false).expect("wait");
        (&client).write_all(b"a part of a request").expect("write");
        lab.hawser(&["stop", "web"]).exits(0);
        for (name, mut side) in [("client", &client), ("server", &server)] {
            let mut got = Vec::new();
            let end = side.read_to_end(&mut got);
            let error = end.expect_err(&format!("the {name} was told of an end"));
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}");
            assert!(got.len() <= sent, "{name}");
        }
    });
}

/// The client begins to read when the container has ended; the sockets on the way are full then.
#[test]
fn a_long_answer_right_before_the_end_is_whole() {
    case(|lab| {
        let inside = container(lab, &["-p", "8080:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        let client = connect("127.0.0.1:8080");
        let server = accept(&listener);
        let [supervisor, pid] = [supervisor(lab), lab.pid_of("web")];
        let held = sys::pidfd(supervisor).expect("its supervisor");
        let sent = fill(lab, &server);
        sys::pidfd_signal(&held, libc::SIGSTOP).expect("hold it up");
        drop(server);
        let command = sys::pidfd(pid).expect("the command");
        sys::pidfd_signal(&command, libc::SIGKILL).expect("end the container");
        wait_for_end(pid);
        let got = thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(&client).len());
            sys::pidfd_signal(&held, libc::SIGCONT).expect("let it go on");
            reader.join().expect("all of it")
        });
        assert_eq!(got, sent);
    });
}

/// Somebody is in the middle of a long answer when the container's link goes, and another one comes, before whom it is looked whether the
/// link is still there.
fn answer_while_the_link_goes(lab: &Lab, take_link: impl FnOnce(i32)) {
    const LENGTH: usize = 32 << 20;
    let inside = container(lab, &["-p", "8080:80", "-p", "5353:53/udp"]);
    let pid = lab.pid_of("web");
    let held = sys::pidfd(supervisor(lab)).expect("its supervisor");
    let listener = listen(&inside, "0.0.0.0:80");
    let mut client = connect("127.0.0.1:8080");
    let server = accept(&listener);
    // So the kernel makes room for more than is passed on in one turn.
    let before = pattern(LENGTH);
    thread::scope(|scope| {
        scope.spawn(|| (&server).write_all(&before).expect("write"));
        let mut all = vec![0; LENGTH];
        client.read_exact(&mut all).expect("read");
    });
    let sent = fill(lab, &server);
    let mut got = 0;
    // What the server has sent is with the host, but for what the host has no room for.
    while queue_of_port_80(&inside) != "01 00000000" {
        got += client.read(&mut [0; 1 << 16]).expect("a part of it");
        lab.hawser(&["port", "ls", "web"]).ok();
    }
    sys::pidfd_signal(&held, libc::SIGSTOP).expect("hold it up");
    server.shutdown(Shutdown::Write).expect("the end of it");
    wait_untold("the host has heard of it", || {
        queue_of_port_80(&inside) == "05 00000000"
    });
    drop((server, listener, inside));
    take_link(pid);
    wait_untold("the link goes", || !sh("ip -o link").contains("hwac"));
    let late = connect("127.0.0.1:8080");
    udp_client("127.0.0.1:5353").send(b"late").expect("send");
    got += thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(&client).len());
        sys::pidfd_signal(&held, libc::SIGCONT).expect("let it go on");
        reader.join().expect("all of it")
    });
    assert_eq!(got, sent);
    let error = (&late).read(&mut [0]).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn who_comes_after_the_end_cuts_off_nobody() {
    case(|lab| {
        answer_while_the_link_goes(lab, |pid| {
            let command = sys::pidfd(pid).expect("the command");
            sys::pidfd_signal(&command, libc::SIGKILL).expect("end the container");
        });
    });
}

#[test]
fn who_comes_after_the_link_was_deleted_cuts_off_nobody() {
    case(|lab| {
        answer_while_the_link_goes(lab, |pid| {
            sh(&format!("nsenter -t {pid} -n ip link del eth0"));
        });
    });
}

#[test]
fn who_was_answered_right_before_the_end_has_the_answer() {
    case(|lab| {
        // More than are looked at in one turn.
        const COUNT: usize = 200;
        let inside = container(lab, &["-p", "8080:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        let (clients, servers): (Vec<_>, Vec<_>) = (0..COUNT)
            .map(|_| (connect("127.0.0.1:8080"), accept(&listener)))
            .unzip();
        let pid = lab.pid_of("web");
        let [supervisor, command] =
            [supervisor(lab), pid].map(|pid| sys::pidfd(pid).expect("a process of ours"));
        sys::pidfd_signal(&supervisor, libc::SIGSTOP).expect("hold it up");
        for mut server in servers {
            server.write_all(b"answer").expect("write");
        }
        sys::pidfd_signal(&command, libc::SIGKILL).expect("end the container");
        wait_for_end(pid);
        sys::pidfd_signal(&supervisor, libc::SIGCONT).expect("let it go on");
        for client in clients {
            assert_eq!(read_all(&client), b"answer");
        }
    });
}

fn exchange(client: &UdpSocket, server: &UdpSocket, text: &str) -> SocketAddr {
    client.send(text.as_bytes()).expect("send");
    let mut buffer = [0; 65536];
    let (length, from) = server.recv_from(&mut buffer).expect("it arrives");
    assert_eq!(&buffer[..length], text.as_bytes());
    server.send_to(&buffer[..length], from).expect("answer");
    let length = client.recv(&mut buffer).expect("the answer arrives");
    assert_eq!(&buffer[..length], text.as_bytes());
    from
}

fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

/// Connected: what does not come from where it was sent to is not heard.
fn udp_client(address: &str) -> UdpSocket {
    let client = udp(if address.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    });
    client.connect(address).expect("connect");
    client
}

#[test]
fn datagrams_and_their_answers() {
    case(|lab| {
        let inside = container(lab, &["-p", "5353:53/udp", "-p", "127.0.0.1:5354:54/udp"]);
        let server = inside.enter(|| udp("0.0.0.0:53"));
        let addresses = ["127.0.0.1:5353", "[::1]:5353", "127.3.2.1:5353"];
        let clients: Vec<_> = addresses
            .iter()
            .map(|address| udp_client(address))
            .collect();
        let mut seen = Vec::new();
        for round in ["one", "two", &"long ".repeat(13_000)] {
            for client in &clients {
                seen.push(exchange(client, &server, round));
            }
        }
        assert_eq!(seen[..3], seen[3..6], "a client stays the same one");
        assert!(seen[0] != seen[1] && seen[1] != seen[2], "and no other");
        let server = inside.enter(|| udp("0.0.0.0:54"));
        exchange(&udp_client("127.0.0.1:5354"), &server, "only there");
        let client = udp_client("[::1]:5354");
        client.send(b"x").expect("send");
        let error = client.recv(&mut [0]).expect_err("not published there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

/// A client that was there before whoever it asks for is none the worse for it, also after both families were tried.
#[test]
fn who_has_sent_too_early_is_served_later() {
    case(|lab| {
        let inside = container(lab, &["-p", "127.0.0.1:5354:54/udp"]);
        // By which family the supervisor asks for port 54.
        let asks_by = |table: &str| {
            let sockets = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
            sockets.expect("sockets").lines().any(|line| {
                let remote = line.split_whitespace().nth(2);
                remote.is_some_and(|remote| remote.ends_with(":0036"))
            })
        };
        let client = udp_client("127.0.0.1:5354");
        for text in ["one", "two"] {
            client.send(b"early").expect("send");
            wait_untold("a refusal by IPv4", || asks_by("udp6"));
            let server = inside.enter(|| udp("0.0.0.0:54"));
            client.send(b"early").expect("send");
            wait_untold("a refusal by IPv6", || asks_by("udp"));
            exchange(&client, &server, text);
        }
    });
}

#[test]
fn the_oldest_of_many_clients_makes_room() {
    case(|lab| {
        let inside = container(lab, &["-p", "5353:53/udp"]);
        let server = inside.enter(|| udp("0.0.0.0:53"));
        let idle = private_kb(supervisor(lab));
        let first = udp_client("127.0.0.1:5353");
        let before = exchange(&first, &server, "first");
        for number in 0..600 {
            exchange(&udp_client("127.0.0.1:5353"), &server, &number.to_string());
        }
        let fds = fs::read_dir(format!("/proc/{}/fd", supervisor(lab))).expect("its descriptors");
        assert!(fds.count() < 540, "512 clients, and not 600");
        assert_ne!(
            exchange(&first, &server, "again"),
            before,
            "it is new again"
        );
        let more = private_kb(supervisor(lab)).saturating_sub(idle);
        assert!(more <= 200, "{more} kB for 512 clients");
    });
}

#[test]
fn idle_it_sleeps() {
    case(|lab| {
        let inside = container(lab, &["-p", "8080:80", "-p", "5353:53/udp"]);
        let listener = listen(&inside, "0.0.0.0:80");
        let pid = supervisor(lab);
        let idle = private_kb(pid);
        let client = connect("127.0.0.1:8080");
        let server = accept(&listener);
        // One side is over, the other open: nothing to do, and nothing that would be reported for ever.
        client.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_all(&server), b"");
        let udp_server = inside.enter(|| udp("0.0.0.0:53"));
        exchange(&udp_client("127.0.0.1:5353"), &udp_server, "once");
        lab.hawser(&["port", "ls", "web"]).ok();
        let before = turns(pid);
        // Work of another container's, for much longer than the lull after which memory is given back.
        for _ in 0..30 {
            lab.run(&["--network", "none"], &["true"]).ok();
        }
        // What the last exchange has left to do comes on a busy machine after the count has begun.
        assert!(turns(pid) <= before + 5, "{} wake-ups", turns(pid) - before);
        let more = private_kb(pid).saturating_sub(idle);
        assert!(more <= 100, "{more} kB are left");
    });
}

#[test]
fn what_is_published_on_loopback_is_reached_from_nowhere_else() {
    case(|lab| {
        let inside = container(lab, &["-p", "127.0.0.1:8080:80", "-p", "[::1]:8081:80"]);
        let listener = listen(&inside, "0.0.0.0:80");
        for address in ["127.0.0.1:8080", "[::1]:8081"] {
            let mut client = connect(address);
            accept(&listener).write_all(b"x").expect("write");
            client.read_exact(&mut [0]).expect("read");
        }
        for address in [
            "[::1]:8080",
            "127.0.0.1:8081",
            "192.0.2.2:8080",
            "[2001:db8:1::2]:8081",
        ] {
            let error = TcpStream::connect(address).expect_err("not published there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
        }
        let rules = sh("nft list ruleset");
        assert!(
            !rules.contains("8080") && !rules.contains("8081"),
            "{rules}"
        );
        // A neighbour sends to 127.0.0.1 by the wire, somebody has set route_localnet, and the rules are gone: the supervisor, which
        // would put them back, sleeps. (The kernel completes connections to a socket that listens all the same.)
        let _plain = TcpListener::bind("127.0.0.1:9090").expect("a service of the host's own");
        sh("echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
            ip -n internet address del 127.0.0.1/8 dev lo
            ip -n internet route add 127.0.0.0/8 via 192.0.2.2
            ip netns exec internet sh -c 'echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet'");
        let supervisor = sys::pidfd(supervisor(lab)).expect("pidfd");
        sys::pidfd_signal(&supervisor, libc::SIGSTOP).expect("stop the supervisor");
        sh("nft flush ruleset");
        let attack = |address: &'static str| {
            lab.internet.enter(move || {
                let timeout = std::time::Duration::from_secs(2);
                let address: SocketAddr = address.parse().expect("an address");
                TcpStream::connect_timeout(&address, timeout).is_ok()
            })
        };
        assert!(
            attack("127.0.0.1:9090"),
            "the attack works on a socket that is bound to 127.0.0.1"
        );
        assert!(!attack("127.0.0.1:8080"), "and not on ours");
        assert!(!attack("192.0.2.2:8080"), "nor the plain way");
        sys::pidfd_signal(&supervisor, libc::SIGCONT).expect("let it go on");
    });
}
