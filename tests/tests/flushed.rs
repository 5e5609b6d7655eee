//! What is open and what is closed while the rules are gone, and after they are back. `docs/security.md` says it, and
//! this walks it. Supervisors that are stopped put nothing back: the second that it takes is as long as we want.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};

use lab::strace::Stopped;
use lab::{DEADLINE, Lab, Netns, Running, Watch, case, listeners, packets, sh, wait_untold};

const LIST: &str = "nft list table inet hawser 2>&1; nft list table bridge hawser 2>&1; true";
const NOBODY: &str = "";
const HELLO: &str = "hello";

fn page(lab: &Lab) {
    std::fs::write(lab.rootfs.join("srv/index.html"), "hello\n").expect("a page");
}

/// What somebody in that namespace gets, or nothing.
fn ask(netns: &Netns, url: &str) -> String {
    let script = format!("busybox timeout 2 busybox wget -q -O - {url} 2>/dev/null || :");
    netns.sh(&script).trim().to_owned()
}

struct Containers {
    running: Vec<Running>,
    before: String,
}

impl Containers {
    fn start(lab: &Lab, options: &[&[&str]]) -> Self {
        page(lab);
        let script = "httpd -p 80 -h /srv; httpd -p 81 -h /srv; echo up; read x; exit 0";
        let start = |options: &&[&str]| {
            let mut one = lab.start(options, &["sh", "-c", script]);
            one.until("up");
            one
        };
        let running = options.iter().map(start).collect();
        Self {
            running,
            before: sh(LIST),
        }
    }

    fn flush(&self, how: &str) {
        for one in &self.running {
            one.signal(libc::SIGSTOP);
        }
        sh(how);
    }

    #[track_caller]
    fn put_back(&self) {
        let monitor = Watch::ruleset();
        for one in &self.running {
            one.signal(libc::SIGCONT);
        }
        assert!(monitor.until(|| sh(LIST) == self.before), "{}", sh(LIST));
    }
}

#[test]
fn what_is_open_without_rules_and_what_is_not() {
    packets(|lab| {
        lab.serve();
        sh(
            "echo private >/run/lab/index.html; busybox httpd -p 127.0.0.1:9000 -h /run/lab; busybox httpd -p '[::1]:9001' -h /run/lab",
        );
        let all = Containers::start(
            lab,
            &[
                &[
                    "--name",
                    "web",
                    "--ip",
                    "172.19.0.9",
                    "-p",
                    "8080:80",
                    "-p",
                    "127.0.0.1:8081:80",
                ],
                &["--name", "shut", "--egress", "none"],
                &[
                    "--name",
                    "green",
                    "--bridge",
                    "blue",
                    "--subnet",
                    "172.28.0.0/24",
                ],
            ],
        );
        let [web, shut, blue] = ["web", "shut", "green"].map(|name| Netns::of(lab.pid_of(name)));
        let lan = &lab.internet;
        lan.sh("ip route add 172.19.0.9 via 192.0.2.2");
        let internet = "http://198.51.100.10/";
        let check = |what: &str, open: &str, published: &str, out: &str| {
            let see = |netns: &Netns, url: &str, gives: &str| {
                assert_eq!(ask(netns, url), gives, "{url} when {what}");
            };
            // Closed, always: what the host has on its loopback, and what is published there.
            for (netns, host) in [
                (lan, "192.0.2.2"),
                (&web, "172.19.0.1"),
                (&web, "192.0.2.2"),
                (&blue, "192.0.2.2"),
            ] {
                for port in [8081, 9000, 9001] {
                    see(netns, &format!("http://{host}:{port}/"), NOBODY);
                }
            }
            // Open without rules.
            see(lan, "http://172.19.0.9:81/", open);
            see(&blue, "http://172.19.0.9:81/", open);
            see(&shut, "http://172.19.0.9:81/", open);
            see(&shut, "http://192.0.2.2:9000/", NOBODY);
            // Not there without rules.
            see(lan, "http://192.0.2.2:8080/", published);
            see(&blue, "http://192.0.2.2:8080/", published);
            // Nobody answers an address that the world does not know.
            see(&blue, internet, out);
        };
        let outside = "hello from the internet";
        check("the rules are there", NOBODY, HELLO, outside);
        all.flush("nft flush ruleset");
        check("the rules are gone", HELLO, NOBODY, NOBODY);
        all.put_back();
        check("the rules are back", NOBODY, HELLO, outside);
    });
}

/// Without their sockets supervisors cannot tell each other, and each hears of it by itself: the second time, too.
#[test]
fn all_are_back_where_run_hawser_is_lost() {
    packets(|lab| {
        let mut all = Containers::start(
            lab,
            &[
                &["--name", "web", "-p", "8080:80"],
                &["--name", "other", "-p", "8081:80"],
                &["--name", "shut", "--egress", "none"],
            ],
        );
        assert_eq!(listening(&all), 1);
        sh("rm -r /run/hawser");
        for _ in 0..2 {
            all.flush("nft flush ruleset");
            all.put_back();
        }
        assert_eq!(listening(&all), 3);
        let lan = &lab.internet;
        assert_eq!(ask(lan, "http://192.0.2.2:8081/"), HELLO);
        // Who comes later has a socket, and those without one hear as before.
        let mut later = Containers::start(lab, &[&["--name", "later"]]);
        all.running.append(&mut later.running);
        all.before = later.before;
        all.flush("nft flush ruleset");
        all.put_back();
    });
}

/// The kernel keeps for a connection what its first packet has met. Who has asked while there were no rules would not
/// be led to the container as long as it goes on.
#[test]
fn who_goes_on_is_served_again() {
    packets(|lab| {
        // With it, connections are tracked also while our rules are gone.
        sh(
            "nft 'table inet other { chain c { type filter hook input priority 0; ct state established accept; }; }'",
        );
        let all = Containers::start(
            lab,
            &[&["--name", "web", "-p", "5300:53/udp", "-p", "5301:54"]],
        );
        let inside = Netns::of(lab.pid_of("web"));
        let server = inside
            .enter(|| UdpSocket::bind("0.0.0.0:53"))
            .expect("a service");
        let client = lab.internet.enter(|| {
            let client = UdpSocket::bind("192.0.2.1:4000").expect("a socket");
            client.connect("192.0.2.2:5300").expect("an address");
            client
        });
        let listener = inside
            .enter(|| TcpListener::bind("0.0.0.0:54"))
            .expect("a service");
        let mut lasting = lab
            .internet
            .enter(|| TcpStream::connect("192.0.2.2:5301"))
            .expect("connect");
        let (mut served, _) = listener.accept().expect("a connection");
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        }
        let mut data = [0; 64];
        let mut ask = |word: &str| {
            client.send(word.as_bytes()).expect("send");
            let length = server.recv(&mut data).expect("it arrives");
            assert_eq!(&data[..length], word.as_bytes());
        };
        ask("before");
        all.flush("nft delete table inet hawser; nft delete table bridge hawser");
        sh("nft list tables | grep -q other");
        let forgotten = Watch::forgotten_connections();
        // Another connection, which begins while there are no rules.
        let late = lab.internet.enter(|| {
            let late = UdpSocket::bind("192.0.2.1:4001").expect("a socket");
            late.connect("192.0.2.2:5300").expect("an address");
            late
        });
        late.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        late.send(b"nobody").expect("send");
        let refused = late.recv(&mut [0; 64]).expect_err("nobody is there");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        all.put_back();
        let looked = Cell::new(0);
        let once = || looked.replace(looked.get() + 1) > 0;
        assert!(forgotten.until(once), "the connection that led nowhere");
        lasting.write_all(b"after").expect("send");
        served.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut data = [0; 5];
        served
            .read_exact(&mut data)
            .expect("a connection that was there before goes on");
        late.send(b"after").expect("send");
        let mut data = [0; 64];
        let length = server.recv(&mut data).expect("it arrives");
        assert_eq!(&data[..length], b"after");
    });
}

/// The same of containers that nobody stays for; and what a limited one has opened meanwhile ends.
#[test]
fn the_attached_are_judged_anew() {
    packets(|lab| {
        sh(
            "nft 'table inet other { chain c { type filter hook input priority 0; ct state established accept; }; }'",
        );
        let guests = [(); 2].map(|()| Running::unshared(&["-n"], "exec cat"));
        let options: [&[&str]; 2] = [
            &["--name", "web", "-p", "5300:53/udp"],
            &["--name", "shut", "--egress", "none"],
        ];
        for (guest, options) in guests.iter().zip(options) {
            let pid = guest.pid().to_string();
            lab.hawser(&[&["attach", &pid], options].concat()).ok();
        }
        let [web, shut] = guests.each_ref().map(|guest| Netns::of(guest.pid()));
        let at = |netns: &Netns, address: &str| {
            let bound = netns.enter(|| UdpSocket::bind(address)).expect("a socket");
            bound.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            bound
        };
        let server = at(&web, "0.0.0.0:53");
        let outside = at(&lab.internet, "192.0.2.1:4000");
        outside.connect("192.0.2.2:5300").expect("an address");
        let host = UdpSocket::bind("172.19.0.1:7000").expect("a service");
        host.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let inside = at(&shut, "0.0.0.0:4000");
        inside.connect("172.19.0.1:7000").expect("an address");
        let mut data = [0; 64];
        let mut refused = |client: &UdpSocket, errno| {
            client.send(b"nobody").expect("send");
            let error = client.recv(&mut data).expect_err("it is refused");
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
        };
        refused(&inside, libc::EHOSTUNREACH);
        sh("nft delete table inet hawser; nft delete table bridge hawser");
        refused(&outside, libc::ECONNREFUSED);
        inside.send(b"open").expect("send");
        let (_, from) = host.recv_from(&mut [0; 64]).expect("it arrives");
        host.send_to(b"open", from).expect("answer");
        inside.recv(&mut [0; 64]).expect("an answer");
        lab.hawser(&["restore"]).ok();
        refused(&inside, libc::EHOSTUNREACH);
        outside.send(b"after").expect("send");
        server.recv(&mut [0; 64]).expect("it arrives");
        for name in ["web", "shut"] {
            lab.hawser(&["detach", name]).ok();
        }
    });
}

/// A connection whose server speaks first, and whose client says nothing: it goes on as long as the kernel knows of it.
struct Lasting {
    server: TcpStream,
    client: TcpStream,
}

impl Lasting {
    fn open(server: &dyn Fn(&str) -> TcpListener, client: &Netns, address: &str) -> Self {
        let listener = server(address);
        let client = client.enter(|| TcpStream::connect(address));
        let client = client.expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let (server, _) = listener.accept().expect("a connection");
        let mut all = Self { server, client };
        all.goes_on("at first");
        all
    }

    #[track_caller]
    fn goes_on(&mut self, when: &str) {
        self.server.write_all(b"more").expect(when);
        self.client.read_exact(&mut [0; 4]).expect(when);
    }
}

/// What somebody asks of another, from a port by which it is found in the table.
fn asked(from: &Netns, port: u16, to: &str) -> UdpSocket {
    from.enter(|| {
        let any = if to.starts_with('[') {
            "[::]"
        } else {
            "0.0.0.0"
        };
        let client = UdpSocket::bind(format!("{any}:{port}")).expect("a client");
        client.connect(to).expect("an address");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.send(b"x").expect("send");
        client
    })
}

/// The same with an answer of that service.
fn answered(from: &Netns, port: u16, to: &str, service: &UdpSocket) -> UdpSocket {
    let client = asked(from, port, to);
    let (_, from) = service.recv_from(&mut [0; 8]).expect("it arrives");
    service.send_to(b"open", from).expect("answer");
    client.recv(&mut [0; 8]).expect("an answer");
    client
}

/// What the client sends does not arrive.
fn is_refused(client: &UdpSocket, service: &UdpSocket) {
    client.send(b"after").expect("send");
    let own = client.peer_addr().expect("an address");
    service.send_to(b"last", own).expect("send");
    let mut data = [0; 8];
    let length = service.recv(&mut data).expect("the last one arrives");
    assert_eq!(&data[..length], b"last", "{own}");
}

/// Waits until the kernel has forgotten what was asked from these ports. It tells of that a moment before it is so.
fn are_judged(ports: &[u16]) {
    wait_untold("connections are judged anew", || {
        let all = std::fs::read_to_string("/proc/net/nf_conntrack").expect("the connections");
        let is_left = |port: &u16| all.contains(&format!(" sport={port} "));
        !ports.iter().any(is_left)
    });
}

/// What a limited container has opened, and may, is left alone.
#[test]
fn what_the_limited_may_open_goes_on() {
    packets(|lab| {
        // With it, connections are tracked also while our rules are gone.
        sh(
            "nft 'table inet other { chain c { type filter hook input priority 0; ct state established accept; }; }'",
        );
        let list = "192.0.2.1/32,2001:db8:1::1/128:9000,192.0.2.1/32:9001/udp";
        let limits: [&[&str]; 3] = [
            &["--name", "lim", "--egress", list],
            &["--name", "shut", "--internal"],
            &["--name", "apart", "--isolate"],
        ];
        let all = Containers::start(lab, &limits);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", &pid, "--name", "guest", "--egress", list])
            .ok();
        let [lim, shut, apart] = ["lim", "shut", "apart"].map(|name| Netns::of(lab.pid_of(name)));
        let guest_inside = Netns::of(guest.pid());
        let outside = |address: &str| {
            let bound = lab.internet.enter(|| TcpListener::bind(address));
            bound.expect("a server")
        };
        let here = |address: &str| TcpListener::bind(address).expect("a server");
        let neighbour = |address: &str| {
            let bound = lim.enter(|| TcpListener::bind(address));
            bound.expect("a server")
        };
        let lim_address = lab.listed("lim")["address"].clone();
        let lim_address = lim_address.as_str().expect("an address").to_owned();
        let mut lasting = [
            Lasting::open(&outside, &lim, "192.0.2.1:9000"),
            Lasting::open(&outside, &lim, "[2001:db8:1::1]:9000"),
            Lasting::open(&here, &shut, "172.19.0.1:9000"),
            Lasting::open(&neighbour, &shut, &format!("{lim_address}:9002")),
            Lasting::open(&outside, &apart, "192.0.2.1:9003"),
            Lasting::open(&here, &apart, "172.19.0.1:9004"),
            Lasting::open(&outside, &guest_inside, "192.0.2.1:9005"),
        ];
        // Nobody answers: that is judged anew, in any case.
        let _asked = [
            asked(&lim, 4001, "192.0.2.1:7001"),
            asked(&shut, 4002, "172.19.0.1:7001"),
            asked(&apart, 4003, "192.0.2.1:7001"),
        ];
        lab.hawser(&["restore"]).ok();
        are_judged(&[4001, 4002, 4003]);
        for (number, one) in lasting.iter_mut().enumerate() {
            one.goes_on(&format!("{number} when nothing was missing"));
        }
        // While there are no rules, it is answered what each may not ask.
        let [host, elsewhere] = ["172.19.0.1:7000", "192.0.2.2:7000"]
            .map(|address| UdpSocket::bind(address).expect("a service"));
        let other = lim.enter(|| UdpSocket::bind("0.0.0.0:7000"));
        let other = other.expect("a service");
        for service in [&host, &elsewhere, &other] {
            service
                .set_read_timeout(Some(DEADLINE))
                .expect("a deadline");
        }
        all.flush("nft delete table inet hawser; nft delete table bridge hawser");
        let opened = [
            answered(&lim, 4011, "172.19.0.1:7000", &host),
            answered(&shut, 4012, "192.0.2.2:7000", &elsewhere),
            answered(&apart, 4013, &format!("{lim_address}:7000"), &other),
            answered(&guest_inside, 4014, "172.19.0.1:7000", &host),
        ];
        for one in &all.running {
            one.signal(libc::SIGCONT);
        }
        are_judged(&[4011, 4012, 4013, 4014]);
        for (client, service) in opened.iter().zip([&host, &elsewhere, &other, &host]) {
            is_refused(client, service);
        }
        for (number, one) in lasting.iter_mut().enumerate() {
            one.goes_on(&format!("{number} when the rules were gone"));
        }
        lab.hawser(&["detach", "guest"]).ok();
    });
}

/// Whoever makes the tables again puts into both what either has lost of those that nobody stays for.
#[test]
fn the_attached_are_in_tables_that_others_have_made_again() {
    packets(|lab| {
        lab.serve();
        lab.with_network();
        let others = Containers::start(lab, &[&["--name", "other"]]);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", &pid, "--name", "web", "--isolate"])
            .ok();
        let inside = Netns::of(guest.pid());
        let of_bridge = || sh("nft list table bridge hawser 2>&1 || :");
        let tenants = || {
            let listed = sh("nft list map inet hawser tenants 2>&1 || :");
            listed.matches(" : ").count()
        };
        let (before, all) = (of_bridge(), tenants());
        let are_back = || of_bridge() == before && tenants() == all;
        let internet = "http://198.51.100.10/";
        for how in [
            "nft delete table bridge hawser",
            "nft flush table bridge hawser",
            "nft delete table inet hawser",
            "nft flush ruleset",
        ] {
            others.flush(how);
            lab.run(&["--network", "ptp"], &["true"]).ok();
            for one in &others.running {
                one.signal(libc::SIGCONT);
            }
            assert_eq!(ask(&inside, internet), "hello from the internet", "{how}");
            let monitor = Watch::ruleset();
            assert!(monitor.until(are_back), "{how}");
            // The same by a supervisor.
            others.flush(how);
            let monitor = Watch::ruleset();
            for one in &others.running {
                one.signal(libc::SIGCONT);
            }
            assert!(monitor.until(are_back), "{how}");
            assert_eq!(ask(&inside, internet), "hello from the internet", "{how}");
        }
        lab.hawser(&["detach", "web"]).ok();
    });
}

/// Rules may be gone while all that their sets know is there.
#[test]
fn the_attached_are_judged_anew_when_rules_alone_were_gone() {
    packets(|lab| {
        sh(
            "nft 'table inet other { chain c { type filter hook input priority 0; ct state established accept; }; }'",
        );
        let guests = ["shut", "too"].map(|name| {
            let guest = Running::unshared(&["-n"], "exec cat");
            let pid = guest.pid().to_string();
            lab.hawser(&["attach", &pid, "--name", name, "--egress", "none"])
                .ok();
            guest
        });
        let service = "172.19.0.1:7000";
        let host = UdpSocket::bind(service).expect("a service");
        // Not connected: they hear of no refusal, of which the kernel tells some alone.
        let clients = guests.each_ref().map(|guest| {
            let client = Netns::of(guest.pid()).enter(|| UdpSocket::bind("0.0.0.0:4000"));
            client.expect("a socket")
        });
        for socket in clients.iter().chain([&host]) {
            socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        }
        let refused = |how: &str| {
            for client in &clients {
                client.send_to(b"refused", service).expect("send");
                host.send_to(b"last", service).expect("send");
                let mut data = [0; 64];
                let length = host.recv(&mut data).expect("the last one arrives");
                assert_eq!(&data[..length], b"last", "{how}");
            }
        };
        let restore = || lab.hawser(&["restore"]);
        let start = || lab.run(&["--network", "ptp"], &["true"]);
        for how in [
            "nft flush chain inet hawser input",
            "nft flush table inet hawser",
            "nft delete table inet hawser",
        ] {
            for (by, put_back) in [("restore", &restore as &dyn Fn() -> _), ("run", &start)] {
                refused(how);
                sh(how);
                for client in &clients {
                    client.send_to(b"open", service).expect("send");
                    let (_, from) = host.recv_from(&mut [0; 64]).expect("it arrives");
                    host.send_to(b"open", from).expect("answer");
                    client.recv(&mut [0; 64]).expect("an answer");
                }
                put_back().ok();
                refused(&format!("{how}; {by}"));
            }
        }
        for name in ["shut", "too"] {
            lab.hawser(&["detach", name]).ok();
        }
    });
}

fn has_lock(pid: i32) -> bool {
    let pid = pid.to_string();
    let all = std::fs::read_to_string("/proc/locks").expect("the locks");
    let mut locks = all.lines().filter(|line| !line.contains("->"));
    locks.any(|line| line.split_whitespace().nth(4) == Some(&pid))
}

/// Who puts back has read of all of them before. Another may have the address by now: it has neither the ports nor the limits of the last.
#[test]
fn what_is_put_back_beside_a_detach_is_not_the_next_ones() {
    case(|lab| {
        let address = ["--ip", "172.19.0.9"];
        let trace = lab.dir.join("trace");
        let rules = || sh(&format!("({LIST}) | grep -e elements -e hw"));
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        let attach = ["attach", &pid, "--name", "last", "-p", "8080:80"];
        let attach = [&attach[..], &["--egress", "none"], &address].concat();
        for how in ["true", "nft flush ruleset"] {
            for nth in 1.. {
                lab.hawser(&attach).ok();
                sh(how);
                let restore = Stopped::at_message(nth, &lab.command(&["restore"]), &trace);
                if has_lock(restore.pid()) {
                    // Nobody comes in between.
                    restore.go_on().end().exits(0);
                    lab.hawser(&["detach", "last"]).ok();
                    continue;
                }
                lab.hawser(&["detach", "last"]).ok();
                let next = lab.start_idle(&[&["--name", "next"], &address[..]].concat());
                let whole = rules();
                let is_stopped = restore.is_stopped;
                restore.go_on().end().exits(0);
                assert_eq!(rules(), whole, "{how}, message {nth}");
                next.end().exits(0);
                if !is_stopped {
                    assert!(nth > 5, "it sends more than {nth} messages");
                    break;
                }
            }
        }
    });
}

/// Who makes the tables again puts into them whom it finds in the files, and one may not be there yet that is on its way.
#[test]
fn who_is_being_attached_while_others_make_the_tables_again_is_in_them() {
    case(|lab| {
        // Or the first directory that is made would be another.
        let _first = lab.start_idle(&["--network", "none"]);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        let attach = "attach --name web --ip 172.19.0.9 -p 8080:80 --egress none";
        let attach: Vec<&str> = attach.split(' ').chain([&*pid]).collect();
        let directory = "?mkdir,?mkdirat";
        for makes in [true, false] {
            let attaching =
                Stopped::at_call(directory, &lab.command(&attach), &lab.dir.join("trace"));
            assert!(attaching.is_stopped);
            let rules = sh(LIST);
            assert!(rules.contains("8080"), "it is published: {rules}");
            sh("nft flush ruleset");
            if makes {
                lab.run(&["--network", "ptp"], &["true"]).ok();
            }
            attaching.go_on().end().ok();
            let rules = sh(LIST);
            for what in ["hwac130009", "8080", "counter packets 0 bytes 0"] {
                assert!(rules.contains(what), "{what}: {rules}");
            }
            lab.hawser(&["detach", "web"]).ok();
        }
    });
}

/// Waits until all of them listen, which a supervisor does only after a while, and says by how many sockets.
fn listening(all: &Containers) -> usize {
    let hears = |one: &Running, sockets: &[String]| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", one.pid())).expect("its descriptors");
        let leads = open
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        leads
            .into_iter()
            .any(|to| sockets.iter().any(|socket| to.as_os_str() == &**socket))
    };
    let mut sockets = Vec::new();
    wait_untold("all listen", || {
        sockets = listeners();
        all.running.iter().all(|one| hears(one, &sockets))
    });
    sockets.len()
}

/// The process that has opened it.
fn opener() -> i32 {
    let kept = std::fs::read("/run/hawser/hawser0.next").expect("who listens");
    i32::from_ne_bytes(kept[4..8].try_into().expect("its number"))
}

#[test]
fn the_supervisors_of_a_network_hear_by_one_socket() {
    packets(|lab| {
        lab.with_network();
        let mut all = Containers::start(lab, &[&[], &["-p", "8080:80"], &["--egress", "none"]]);
        assert_eq!(listening(&all), 1);
        all.flush("nft flush ruleset");
        all.put_back();
        // Who has opened it ends; the others keep it. That is whoever was the first to listen, not to start.
        let opener = opener();
        let is_opener = |one: &Running| one.pid() == opener;
        let at = all.running.iter().position(is_opener);
        let mut first = all.running.remove(at.expect("one of them has opened it"));
        first.say("\n");
        first.end().exits(0);
        assert_eq!(listeners().len(), 1);
        all.before = sh(LIST);
        all.flush("nft flush ruleset");
        all.put_back();
        // Who comes now cannot get it from whoever has opened it, nor does it hear less.
        let mut more = Containers::start(lab, &[&["-p", "8081:80"], &[]]);
        more.running.append(&mut all.running);
        assert_eq!(listening(&more), 2);
        more.flush("nft flush ruleset");
        more.put_back();
    });
}

/// Each would open one, where none of them has found one yet.
#[test]
fn who_begin_to_listen_at_the_same_moment_hear_by_one_socket() {
    const AT_ONCE: usize = 12;
    packets(|lab| {
        let start = |options: &[&str]| lab.start(options, &["sh", "-c", "echo up; read x; exit 0"]);
        for _ in 0..4 {
            let mut running: Vec<Running> = (0..AT_ONCE).map(|_| start(&[])).collect();
            for one in &mut running {
                one.until("up");
                one.signal(libc::SIGSTOP);
            }
            // When this one listens, which has come last, it is time for the others too.
            let mut clock = start(&["--bridge", "blue", "--subnet", "172.28.0.0/24"]);
            clock.until("up");
            let before = sh(LIST);
            let last = Containers {
                running: vec![clock],
                before: before.clone(),
            };
            listening(&last);
            let all = Containers { running, before };
            all.put_back();
            assert_eq!(listening(&all), 2);
            for one in all.running.into_iter().chain(last.running) {
                one.end().exits(0);
            }
        }
    });
}

/// Parts of the tables, each by itself: what somebody deletes by hand, or a script of theirs.
const PARTS: &[&str] = &[
    "nft delete table bridge hawser",
    "nft flush table bridge hawser",
    "nft flush chain inet hawser forward",
    "nft flush map inet hawser ports4",
    "nft flush map inet hawser tenants",
    "nft flush set inet hawser open4",
    "nft flush set bridge hawser sources4",
];

const WITH_PORTS: &[&[&str]] = &[&["-p", "8080:80"], &["--egress", "none"]];

#[test]
fn a_part_that_is_gone_before_a_supervisor_listens_is_put_back() {
    packets(|lab| {
        lab.with_network();
        for how in PARTS {
            let mut all = Containers::start(lab, WITH_PORTS);
            all.flush(how);
            assert_ne!(sh(LIST), all.before, "{how}");
            all.put_back();
            for mut one in all.running.drain(..) {
                one.say("\n");
                one.end().exits(0);
            }
        }
    });
}

#[test]
fn a_part_that_is_gone_is_put_back() {
    packets(|lab| {
        lab.with_network();
        let all = Containers::start(lab, WITH_PORTS);
        assert_eq!(listening(&all), 1);
        for how in PARTS {
            all.flush(how);
            assert_ne!(sh(LIST), all.before, "{how}");
            all.put_back();
        }
    });
}

#[test]
fn an_end_right_after_a_flush_has_nothing_to_say() {
    packets(|lab| {
        for how in [
            "nft flush ruleset",
            "nft delete table inet hawser",
            "nft delete table bridge hawser",
            "nft flush table inet hawser",
        ] {
            let script = "echo up; read x; exit 0";
            let mut web = lab.start(&["-p", "8080:80"], &["sh", "-c", script]);
            web.until("up");
            // Nobody listens yet, in the first half second.
            sh(how);
            let outcome = web.end().exits(0);
            assert!(outcome.stderr.is_empty(), "{how}: {outcome}");
            let rules = sh("nft list ruleset");
            assert!(!rules.contains("172.19.0.2 "), "{how}: {rules}");
            lab.hawser(&["down"]).exits(0);
        }
    });
}
