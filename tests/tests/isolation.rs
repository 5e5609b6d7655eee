//! Who reaches whom: networks apart and connected, --isolate, --internal, --egress. With bridge netfilter off and on.

use std::net::{SocketAddrV6, UdpSocket};
use std::time::Duration;

use nix::net::if_::if_nametoindex;

use lab::strace::Stopped;
use lab::wire::Host as Place;
use lab::{DEADLINE, Lab, Netns, Running, Station, case, packets, sh, wait_for_end};

/// A container with a web server on port 80 and another on 81.
fn serve(lab: &Lab, options: &[&str]) -> Running {
    std::fs::write(lab.rootfs.join("srv/index.html"), "hello\n").expect("a page");
    let mut server = lab.start(
        options,
        &[
            "sh",
            "-c",
            "httpd -p 80 -h /srv; httpd -p 81 -h /srv; echo up; read x; exit 0",
        ],
    );
    server.until("up");
    server
}

/// What a fetch gives in a container: `hello`, or how it was refused.
fn fetch(lab: &Lab, options: &[&str], url: &str) -> String {
    let outcome = lab.run(options, &["timeout", "2", "wget", "-q", "-O", "-", url]);
    (outcome.out() + &outcome.err()).trim().to_owned()
}

/// By a reset, or an ICMP error.
#[track_caller]
fn refused(said: &str) {
    let words = ["refused", "unreachable", "No route"];
    assert!(words.iter().any(|word| said.contains(word)), "{said:?}");
}

#[test]
fn networks_do_not_reach_each_other_unless_connected() {
    packets(|lab| {
        let blue = ["--bridge", "blue", "--subnet", "172.28.0.0/24"];
        let _server = serve(lab, &[&blue[..], &["--ip", "172.28.0.9"]].concat());
        assert_eq!(fetch(lab, &blue, "http://172.28.0.9/"), "hello");
        refused(&fetch(lab, &[], "http://172.28.0.9/"));
        assert_eq!(
            fetch(lab, &["--connect", "blue"], "http://172.28.0.9/"),
            "hello"
        );
        let ptp = ["--network", "ptp"];
        refused(&fetch(lab, &ptp, "http://172.28.0.9/"));
        let connected = ["--network", "ptp", "--connect", "blue"];
        assert_eq!(fetch(lab, &connected, "http://172.28.0.9/"), "hello");
        refused(&fetch(lab, &ptp, "http://172.28.0.9/"));
    });
}

#[test]
fn point_to_point_networks_are_told_apart_by_their_subnets() {
    packets(|lab| {
        let one = ["--network", "ptp", "--subnet", "10.1.0.0/24"];
        let two = ["--network", "ptp", "--subnet", "10.2.0.0/24"];
        let _server = serve(lab, &[&one[..], &["--ip", "10.1.0.9"]].concat());
        assert_eq!(fetch(lab, &one, "http://10.1.0.9/"), "hello");
        refused(&fetch(lab, &two, "http://10.1.0.9/"));
        let connected = [&two[..], &["--connect", "10.1.0.0/24"]].concat();
        assert_eq!(fetch(lab, &connected, "http://10.1.0.9/"), "hello");
    });
}

#[test]
fn who_was_connected_to_is_reached_back() {
    packets(|lab| {
        let connected = ["--ip", "172.19.0.9", "--connect", "blue"];
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        let _server = serve(lab, &connected);
        let blue = ["--bridge", "blue"];
        assert_eq!(fetch(lab, &blue, "http://172.19.0.9/"), "hello");
    });
}

#[test]
fn the_isolated_reach_the_gateway_and_beyond_and_no_neighbour() {
    packets(|lab| {
        lab.serve();
        let _server = serve(lab, &["--ip", "172.19.0.9"]);
        let isolated = ["--isolate"];
        let page = fetch(lab, &isolated, "http://198.51.100.10/");
        assert_eq!(page, "hello from the internet");
        refused(&fetch(lab, &isolated, "http://172.19.0.9/"));
        let pinged = lab
            .run_sh(&isolated, "ping -c 1 -W 2 172.19.0.1; ip route")
            .ok();
        assert!(pinged.contains("1 packets received"), "{pinged}");
    });
}

#[test]
fn no_neighbour_reaches_the_isolated_and_the_host_does() {
    packets(|lab| {
        let _isolated = serve(lab, &["--ip", "172.19.0.9", "--isolate"]);
        let said = fetch(lab, &[], "http://172.19.0.9/");
        assert!(!said.contains("hello"), "{said}");
        assert_eq!(sh("busybox wget -q -O - http://172.19.0.9/"), "hello\n");
    });
}

#[test]
fn isolated_point_to_point() {
    packets(|lab| {
        let ptp = ["--network", "ptp"];
        let _server = serve(lab, &[&ptp[..], &["--ip", "10.0.0.9"]].concat());
        assert_eq!(fetch(lab, &ptp, "http://10.0.0.9/"), "hello");
        let isolated = [&ptp[..], &["--isolate"]].concat();
        refused(&fetch(lab, &isolated, "http://10.0.0.9/"));
    });
}

#[test]
fn internal_is_no_way_out_at_all() {
    packets(|lab| {
        lab.serve();
        let _server = serve(lab, &["--ip", "172.19.0.9"]);
        let blue = ["--bridge", "blue", "--subnet", "172.28.0.0/24"];
        let _other = serve(
            lab,
            &[&blue[..], &["--ip", "172.28.0.9", "-p", "8082:80"]].concat(),
        );
        let _host = Host::serve("0.0.0.0:8099");
        let internal = ["--internal"];
        assert_eq!(fetch(lab, &internal, "http://172.19.0.9/"), "hello");
        assert_eq!(fetch(lab, &internal, "http://172.19.0.1:8099/"), "hello");
        for elsewhere in [
            "http://198.51.100.10/",
            "http://172.28.0.9/",
            "http://192.0.2.2:8099/",
            "http://192.0.2.2:8082/",
            "http://172.19.0.1:8082/",
        ] {
            refused(&fetch(lab, &internal, elsewhere));
        }
    });
}

/// A neighbour's published port, by the host, from the link-local address that every container has.
#[test]
fn internal_is_no_way_to_published_ports_by_link_local_addresses() {
    packets(|lab| {
        let _web = lab.start_idle(&["--name", "web", "-p", "5300:53/udp"]);
        let server = Netns::of(lab.pid_of("web")).enter(|| UdpSocket::bind("[::]:53"));
        let server = server.expect("a service");
        server.set_nonblocking(true).expect("no waiting");
        let gateway = Place::read(&sh("ip -j addr show dev hawser0"));
        let _shut = lab.start_idle(&["--name", "shut", "--internal"]);
        let station = Station::new(Netns::of(lab.pid_of("shut")));
        let client = station.netns.enter(|| {
            let index = if_nametoindex("eth0").expect("eth0");
            let from = SocketAddrV6::new(station.host.link_local, 0, 0, index);
            let client = UdpSocket::bind(from).expect("a socket");
            client.connect((gateway.ip6, 5300)).expect("an address");
            client
        });
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.send(b"around").expect("send");
        let error = client.recv(&mut [0; 8]).expect_err("it is refused");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
        assert!(server.recv(&mut [0; 8]).is_err());
    });
}

#[test]
fn egress_is_what_is_listed() {
    packets(|lab| {
        lab.serve();
        let _server = serve(lab, &["--ip", "172.19.0.9"]);
        let _host = Host::serve("0.0.0.0:8099");
        let outside = "http://198.51.100.10/";
        let neighbour = "http://172.19.0.9/";
        let gateway = "http://172.19.0.1:8099/";
        let name = "http://web.example.test/";
        let page = "hello from the internet";
        for (egress, allowed, not) in [
            ("none", vec![], vec![outside, neighbour, gateway]),
            (
                "198.51.100.0/24",
                vec![(outside, page)],
                vec![neighbour, gateway],
            ),
            (
                "198.51.100.10/32:80",
                vec![(outside, page)],
                vec![neighbour],
            ),
            ("198.51.100.10/32:443", vec![], vec![outside]),
            ("198.51.100.10/32:80/udp", vec![], vec![outside]),
            (
                ":80",
                vec![(outside, page), (neighbour, "hello")],
                vec![gateway],
            ),
            ("dns,:80", vec![(name, page)], vec![gateway]),
            ("0.0.0.0/0,::/0", vec![(outside, page)], vec![]),
            (
                "172.19.0.0/16",
                vec![(neighbour, "hello"), (gateway, "hello")],
                vec![outside],
            ),
            (
                "172.19.0.9/32:80",
                vec![(neighbour, "hello")],
                vec!["http://172.19.0.9:81/"],
            ),
        ] {
            let options = ["--egress", egress];
            for (url, page) in allowed {
                assert_eq!(fetch(lab, &options, url), page, "{egress}: {url}");
            }
            for url in not {
                refused(&fetch(lab, &options, url));
            }
        }
    });
}

#[test]
fn the_limited_are_reached_by_their_neighbours() {
    packets(|lab| {
        let _limited = serve(lab, &["--ip", "172.19.0.9", "--egress", "none"]);
        assert_eq!(fetch(lab, &[], "http://172.19.0.9/"), "hello");
        assert_eq!(sh("busybox wget -q -O - http://172.19.0.9/"), "hello\n");
        let pinged = lab.run_sh(&[], "ping -c 2 -W 2 172.19.0.9").ok();
        assert!(pinged.contains("2 packets received"), "{pinged}");
    });
}

/// Also where nobody stays who could be asked.
#[test]
fn what_the_attached_are_refused_is_counted() {
    packets(|lab| {
        let refused = || -> serde_json::Value {
            let text = lab.hawser(&["inspect", "web"]).ok();
            let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            found["refused"].clone()
        };
        for options in [&["--stay"][..], &[]] {
            let guest = Running::unshared(&["-n"], "exec cat");
            let pid = guest.pid().to_string();
            let limited = ["--name", "web", "--egress", "none"];
            let attach = [&["attach", &pid], options, &limited].concat();
            let mut attached = Running::piped(lab.command(&attach));
            attached.until("web");
            assert_eq!(refused(), 0, "{options:?}");
            let client = Limited::client(&Netns::of(guest.pid()));
            for _ in 0..2 {
                // The last refusal is an error of the next.
                let _ = client.send_to(b"out", "198.51.100.10:9");
            }
            assert_eq!(refused(), 2, "{options:?}");
            lab.hawser(&["detach", "web"]).ok();
            attached.end().exits(0);
        }
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", &pid, "--name", "web"]).ok();
        assert_eq!(refused(), serde_json::Value::Null, "it has no limit");
    });
}

#[test]
fn what_was_refused_is_counted() {
    packets(|lab| {
        lab.serve();
        let mut limited = lab.start(
            &["--name", "limited", "--egress", "none"],
            &[
                "sh",
                "-c",
                "timeout 2 wget -q -O - http://198.51.100.10/; timeout 2 wget -q -O - http://198.51.100.10/; echo up; read x; exit 0",
            ],
        );
        limited.until("up");
        let text = lab.hawser(&["inspect", "limited"]).ok();
        let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(found["egress"], "none");
        assert_eq!(found["refused"], 2, "{text}");
        limited.say("\n");
        limited.end().exits(0);
    });
}

#[test]
fn no_capability_inside_lifts_it() {
    packets(|lab| {
        lab.serve();
        let _server = serve(lab, &["--ip", "172.19.0.9"]);
        let all = ["--cap-add", "all", "--egress", "none"];
        let said = lab.run_sh(
            &all,
            "ip route flush table main; ip route add default via 172.19.0.1 dev eth0 onlink
             ip neigh flush dev eth0
             timeout 2 wget -q -O - http://172.19.0.9/
             ip addr add 172.19.0.77/16 dev eth0; ip addr del $(ip -o -4 addr show eth0 | awk '{print $4; exit}') dev eth0
             timeout 2 wget -q -O - http://172.19.0.9/; timeout 2 wget -q -O - http://198.51.100.10/; exit 0",
        );
        assert!(!said.out().contains("hello"), "{said}");
    });
}

#[test]
fn bad_limits_are_refused_and_change_nothing() {
    packets(|lab| {
        let before = lab.with_network();
        for (options, words) in [
            (
                &["--egress", "192.0.2.1"][..],
                &["--egress", "192.0.2.1/32"][..],
            ),
            (
                &["--egress", "192.0.2.1/24"],
                &["host bits", "192.0.2.0/24"],
            ),
            (&["--egress", "192.0.2.0/24:0"], &["port"]),
            (&["--egress", ":80/icmp"], &["icmp", "tcp"]),
            (&["--connect", "nowhere"], &["nowhere", "up --bridge"]),
            (&["--connect", "a/b"], &["--connect"]),
            (&["--network", "none", "--isolate"], &["--isolate"]),
            (&["--network", "host", "--egress", "none"], &["--egress"]),
        ] {
            lab.run(options, &["true"]).refused(words);
        }
        before.assert_back();
        sh("ip link add br9 type bridge; ip addr add 172.29.0.1/24 dev br9; ip link set br9 up");
        lab.run(&["--bridge", "br9", "--egress", "none"], &["true"])
            .refused(&["br9", "not ours"]);
    });
}

/// A web server of the host, which has gone to the background when it listens, and goes with the case.
struct Host;

impl Host {
    fn serve(address: &str) -> Self {
        std::fs::create_dir_all("/run/lab/host").expect("a directory");
        std::fs::write("/run/lab/host/index.html", "hello\n").expect("a page");
        sh(&format!(
            "busybox httpd -p {address} -h /run/lab/host >/dev/null 2>&1"
        ));
        Host
    }
}

#[test]
fn what_the_last_tenant_of_an_address_opened_is_closed_to_the_next() {
    packets(|lab| {
        let server = "198.51.100.10:9000";
        let echo = lab.internet.enter(|| std::net::UdpSocket::bind(server));
        let echo = echo.expect("a server");
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((len, client)) = echo.recv_from(&mut bytes) {
                let _ = echo.send_to(&bytes[..len], client);
            }
        });
        let ask = |options: &[&str], patience: Duration| {
            let options = [&["--ip", "172.19.0.9", "--name", "tenant"][..], options].concat();
            let _tenant = lab.start_idle(&options);
            let netns = lab::Netns::of(lab.pid_of("tenant"));
            netns.enter(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:5555").expect("a socket");
                socket.set_read_timeout(Some(patience)).expect("a timeout");
                socket.connect(server).expect("an address");
                let sent = socket.send(b"hello");
                sent.and_then(|_| socket.recv(&mut [0; 64])).is_ok()
            })
        };
        assert!(ask(&[], DEADLINE), "the first may");
        let silence = Duration::from_millis(500);
        assert!(!ask(&["--egress", "none"], silence), "the next may not");
    });
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    packets(|lab| {
        for other in ["--internal", "--isolate"] {
            lab.run(&["--connect", "blue", other], &["true"])
                .refused(&["--connect", other]);
        }
    });
}

/// Attached containers, each of them limited and on no bridge.
struct Limited<'a> {
    lab: &'a Lab,
    far: UdpSocket,
    trace: std::path::PathBuf,
}

impl<'a> Limited<'a> {
    const OPTIONS: [&'static str; 5] = ["--network", "ptp", "--egress", "none", "--no-ipv6"];

    fn new(lab: &'a Lab) -> Self {
        let far = lab.internet.enter(|| UdpSocket::bind("0.0.0.0:9"));
        let far = far.expect("a service");
        far.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let trace = lab.dir.join("trace");
        Self { lab, far, trace }
    }

    /// A container, and what sends from it.
    fn guest(&self, options: &[&str]) -> (Running, UdpSocket) {
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        let options = [
            &["attach", &pid, "--name", "web"],
            &Self::OPTIONS[..],
            options,
        ]
        .concat();
        self.lab.hawser(&options).ok();
        let client = Self::client(&Netns::of(guest.pid()));
        (guest, client)
    }

    fn client(inside: &Netns) -> UdpSocket {
        let client = inside.enter(|| UdpSocket::bind("0.0.0.0:0"));
        client.expect("a socket")
    }

    /// What is sent from inside does not arrive, wherever it is sent to.
    #[track_caller]
    fn holds(&self, client: &UdpSocket, when: &str) {
        for place in ["192.0.2.1:9", "198.51.100.10:9"] {
            // There may be no link by now.
            let _ = client.send_to(b"out", place);
        }
        let host = UdpSocket::bind("192.0.2.2:0").expect("a socket");
        host.send_to(b"last", "192.0.2.1:9").expect("send");
        let mut data = [0; 64];
        let length = self.far.recv(&mut data).expect("the last one arrives");
        assert_eq!(&data[..length], b"last", "{when}");
    }
}

/// A limit holds to the end, also of one that lives on: the link is down before its rules go.
#[test]
fn what_is_detached_is_limited_to_the_end() {
    case(|lab| {
        let limited = Limited::new(lab);
        for has_two in [false, true] {
            for nth in 1.. {
                let (guest, client) = limited.guest(&[]);
                let pid = guest.pid().to_string();
                if has_two {
                    let second = ["attach", &pid, "--name", "second", "--iface", "eth1"];
                    lab.hawser(&[&second[..], &Limited::OPTIONS].concat()).ok();
                    Netns::of(guest.pid())
                        .sh("ip route add 198.51.100.10 via 10.0.0.1 dev eth1 onlink");
                }
                limited.holds(&client, "attached");
                let detach = lab.command(&["detach", &pid]);
                let detach = Stopped::at_message(nth, &detach, &limited.trace);
                limited.holds(&client, &format!("message {nth} of detach"));
                let is_stopped = detach.is_stopped;
                detach.go_on().end().ok();
                if !is_stopped {
                    assert!(nth > 5, "it sends more than {nth} messages");
                    break;
                }
            }
        }
    });
}

#[test]
fn who_stays_lifts_no_limit_at_its_end() {
    case(|lab| {
        let limited = Limited::new(lab);
        for nth in 1.. {
            let guest = Running::unshared(&["-n"], "exec cat");
            let pid = guest.pid().to_string();
            let stay = ["attach", &pid, "--stay", "--name", "web"];
            let stay = lab.command(&[&stay[..], &Limited::OPTIONS].concat());
            let mut stay = Running::piped(stay);
            stay.until("web");
            let client = Limited::client(&Netns::of(guest.pid()));
            limited.holds(&client, "attached");
            let ends = Stopped::after_signal(libc::SIGTERM, nth, stay, &limited.trace);
            limited.holds(&client, &format!("message {nth} of the end"));
            let is_stopped = ends.is_stopped;
            ends.go_on().end().exits(0);
            if !is_stopped {
                assert!(nth > 5, "it sends more than {nth} messages");
                break;
            }
        }
    });
}

/// The runtime says that it is over, and another lives in its network.
#[test]
fn who_shares_a_network_that_is_released_is_limited_to_the_end() {
    case(|lab| {
        let limited = Limited::new(lab);
        let bundle = lab.bundle("web", "");
        let guest = bundle.created();
        let state = bundle.state("web", "creating", guest.pid());
        lab.hook(&Limited::OPTIONS, &state).ok();
        let client = Limited::client(&Netns::of(guest.pid()));
        limited.holds(&client, "attached");
        let pid = guest.pid();
        guest.end().exits(0);
        wait_for_end(pid);
        let release = lab.hook_command(&[], &bundle.state("web", "stopped", 0));
        let release = Running::spawn(release);
        while !release.has_ended() {
            limited.holds(&client, "released");
        }
        release.end().exits(0);
        assert!(lab.list().is_empty());
    });
}
