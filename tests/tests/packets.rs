//! Packets between containers and to the outside, with bridge netfilter off and on.

use lab::{Lab, Running, packets, sh};

/// Says by which address the internet's server sees who asks.
const WHO_AM_I: &str = "wget -q -O - http://198.51.100.10/cgi-bin/whoami";

#[test]
fn two_containers_reach_each_other() {
    packets(|lab| {
        std::fs::write(
            lab.rootfs.join("srv/index.html"),
            "hello from a container\n",
        )
        .expect("a page");
        let _server = serve(lab, "172.19.0.9");
        let page = lab
            .run(&[], &["wget", "-q", "-O", "-", "http://172.19.0.9/"])
            .ok();
        assert_eq!(page, "hello from a container");
        assert_eq!(
            sh("busybox wget -q -O - http://172.19.0.9/"),
            "hello from a container\n",
            "the host reaches it too"
        );
    });
}

#[test]
fn a_container_sees_the_others_own_address() {
    packets(|lab| {
        let script = lab.rootfs.join("srv/cgi-bin");
        std::fs::create_dir_all(&script).expect("a directory");
        std::fs::write(
            script.join("whoami"),
            "#!/bin/sh\necho Content-type: text/plain; echo; echo $REMOTE_ADDR\n",
        )
        .expect("a script");
        sh(&format!("chmod 755 {}/whoami", script.display()));
        let _server = serve(lab, "172.19.0.9");
        let seen = lab
            .run(
                &["--ip", "172.19.0.10"],
                &["wget", "-q", "-O", "-", "http://172.19.0.9/cgi-bin/whoami"],
            )
            .ok();
        assert!(
            seen.contains("172.19.0.10"),
            "nothing inside a network is masqueraded: {seen}"
        );
    });
}

#[test]
fn the_server_sees_the_uplinks_address() {
    packets(|lab| {
        lab.serve();
        let seen = lab.run_sh(&[], WHO_AM_I).ok();
        assert_eq!(seen, "192.0.2.2");
    });
}

#[test]
fn names_are_resolved() {
    packets(|lab| {
        lab.serve();
        let page = lab
            .run(&[], &["wget", "-q", "-O", "-", "http://web.example.test/"])
            .ok();
        assert_eq!(page, "hello from the internet");
        let lookup = lab
            .run(&[], &["nslookup", "-type=a", "web.example.test"])
            .ok();
        assert!(
            lookup.contains("198.51.100.53") && lookup.contains("198.51.100.10"),
            "{lookup}"
        );
        let log = std::fs::read_to_string(lab.dir.join("dns.log")).expect("log of the DNS server");
        assert!(
            log.contains("web.example.test from 192.0.2.2"),
            "asked by way of the uplink: {log}"
        );
    });
}

#[test]
fn the_gateway_and_the_outside_answer_a_ping() {
    packets(|lab| {
        lab.serve();
        for target in [
            "172.19.0.1",
            "198.51.100.10",
            "web.example.test",
            "127.0.0.1",
        ] {
            let ping = lab.run(&[], &["ping", "-c", "1", "-W", "2", target]).ok();
            assert!(ping.contains("1 packets received"), "{target}: {ping}");
        }
    });
}

#[test]
fn containers_on_two_bridges_and_ptp_reach_the_outside() {
    packets(|lab| {
        lab.serve();
        for options in [
            &["--bridge", "blue", "--subnet", "172.28.0.0/24"][..],
            &["--network", "ptp"],
            &[],
        ] {
            let seen = lab.run_sh(options, WHO_AM_I).ok();
            assert_eq!(seen, "192.0.2.2", "{options:?}");
        }
    });
}

#[test]
fn a_refused_port_is_refused_at_once() {
    packets(|lab| {
        let outcome = lab.run(&[], &["nc", "-w", "5", "172.19.0.1", "9"]).exits(1);
        assert!(
            outcome.err().contains("refused"),
            "the host's own answer, not silence: {outcome}"
        );
    });
}

#[test]
fn large_data_arrives_whole() {
    packets(|lab| {
        let data = lab.dir.join("www");
        lab.web("198.51.100.10:80");
        sh(&format!(
            "head -c 5000000 /dev/urandom > {}/data",
            data.display()
        ));
        let wanted = sh(&format!("md5sum < {}/data", data.display()));
        let got = lab
            .run_sh(&[], "wget -q -O - http://198.51.100.10/data | md5sum")
            .ok();
        assert_eq!(got.trim(), wanted.trim());
    });
}

/// busybox httpd in a container with this address; it accepts when this returns.
fn serve(lab: &Lab, address: &str) -> Running {
    // Without -f httpd goes to the background once it listens; the shell stays as PID 1.
    let mut server = lab.start(
        &["--ip", address],
        &["sh", "-c", "httpd -p 80 -h /srv && echo up && read x"],
    );
    server.until("up");
    server
}

/// What a client says of the largest segment that it takes, as a server in the internet hears it (tcp(7)).
fn largest_segment(lab: &Lab, url: &str, address: &str) -> u32 {
    let listener = lab
        .internet
        .enter(|| std::net::TcpListener::bind(address).expect("listen"));
    let _client = lab.start(&["--mtu", "1500"], &["wget", "-q", "-O", "-", url]);
    let (stream, _) = listener.accept().expect("a client");
    nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg)
        .expect("the largest segment")
}

#[test]
fn the_largest_segment_is_what_the_way_out_takes() {
    packets(|lab| {
        lab.run(&[], &["true"]).ok();
        let before = largest_segment(lab, "http://198.51.100.10/", "198.51.100.10:80");
        assert!(before > 1400, "{before}");
        // A tunnel comes up, say, and takes the default route; the containers' links stay as they are.
        sh("ip route change default via 192.0.2.1 mtu 1300
            ip -6 route change default via 2001:db8:1::1 mtu 1300");
        for (url, address, header) in [
            ("http://198.51.100.10/", "198.51.100.10:80", 20),
            ("http://[2001:db8:2::10]/", "[2001:db8:2::10]:80", 40),
        ] {
            let clamped = largest_segment(lab, url, address);
            assert!(
                clamped <= 1300 - header - 20 && clamped > 1200,
                "{url}: {clamped}"
            );
        }
    });
}
