//! resolv.conf and hosts: whose resolvers, and where the files go.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use lab::{Lab, Netns, Outcome, Running, Seen, Snapshot, case, packets, sh};

const SHOW: &[&str] = &["cat", "/etc/resolv.conf"];

fn words(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().map(|line| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    lines
        .filter(|line| !line.is_empty() && !line[0].starts_with(['#', ';']))
        .collect()
}

fn resolv_conf(lab: &Lab, options: &[&str]) -> Vec<String> {
    words(&lab.run(options, SHOW).ok())
        .iter()
        .map(|line| line.join(" "))
        .collect()
}

#[test]
fn it_holds_the_hosts_resolvers_search_and_options() {
    case(|lab| {
        lab.set_resolv_conf("# a comment\nnameserver 198.51.100.53\nnameserver 192.0.2.53\nsearch one.test two.test\noptions ndots:2 edns0\n");
        let lines = resolv_conf(lab, &[]);
        assert_eq!(
            lines,
            [
                "nameserver 198.51.100.53",
                "nameserver 192.0.2.53",
                "search one.test two.test",
                "options ndots:2 edns0"
            ]
        );
    });
}

#[test]
fn options_replace_what_the_host_says() {
    case(|lab| {
        lab.set_resolv_conf("nameserver 198.51.100.53\nsearch one.test\noptions ndots:2\n");
        let options = [
            "--dns",
            "192.0.2.1",
            "--dns",
            "192.0.2.2",
            "--dns-search",
            "three.test",
            "--dns-search",
            "four.test",
            "--dns-option",
            "ndots:5",
            "--dns-option",
            "rotate",
        ];
        let lines = resolv_conf(lab, &options);
        assert_eq!(
            lines,
            [
                "nameserver 192.0.2.1",
                "nameserver 192.0.2.2",
                "search three.test four.test",
                "options ndots:5 rotate"
            ]
        );
        lab.run(&["--dns", "one.example"], &["true"])
            .refused(&["one.example"]);
        // What would begin a comment there.
        for (option, word) in [("--dns-search", "a;b"), ("--dns-option", "#a")] {
            lab.run(&[option, word], &["true"])
                .refused(&["read the command line", word, option]);
        }
    });
}

#[test]
fn a_search_domain_completes_a_short_name() {
    packets(|lab| {
        lab.serve();
        let seen = lab
            .run(
                &["--dns-search", "one.test"],
                &["ping", "-c", "1", "-W", "2", "alpha"],
            )
            .ok();
        assert!(seen.contains("198.51.100.10"), "{seen}");
    });
}

/// init takes ASCII alone: what is not is no reason for a container without a start.
#[test]
fn words_of_other_alphabets_are_left_out() {
    case(|lab| {
        lab.set_resolv_conf(
            "nameserver 198.51.100.53\nsearch b\u{fc}ro.test one.test # b\u{fc}ro\noptions \u{e9}dns ndots:2\n",
        );
        let wanted = [
            "nameserver 198.51.100.53",
            "search one.test",
            "options ndots:2",
        ];
        assert_eq!(resolv_conf(lab, &[]), wanted);
    });
}

#[test]
fn loopback_resolvers_are_left_out() {
    case(|lab| {
        lab.set_resolv_conf("nameserver 127.0.0.1\nnameserver ::1\nnameserver 127.0.1.1\nnameserver 198.51.100.53\n");
        assert_eq!(resolv_conf(lab, &[]), ["nameserver 198.51.100.53"]);
    });
}

#[test]
fn resolveds_stub_is_followed_to_its_uplink_file() {
    case(|lab| {
        fs::create_dir_all("/run/systemd/resolve").expect("a directory");
        fs::write(
            "/run/systemd/resolve/resolv.conf",
            "nameserver 198.51.100.53\nsearch corp.test\n",
        )
        .expect("a file");
        lab.set_resolv_conf("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.test\n");
        let lines = resolv_conf(lab, &[]);
        assert!(
            lines.contains(&"nameserver 198.51.100.53".to_owned())
                && lines.contains(&"search corp.test".to_owned()),
            "{lines:?}"
        );
        assert!(!lines.iter().any(|line| line.contains("127.")), "{lines:?}");
        // What is behind the stub was not said to be trusted.
        assert!(lines.contains(&"options edns0".to_owned()), "{lines:?}");
        // Nor is another beside one that was; and who is on a link of the host's is within nobody's reach.
        lab.set_resolv_conf("nameserver 127.0.0.1\nnameserver fe80::1\nnameserver 198.51.100.53\noptions trust-ad\n");
        assert_eq!(resolv_conf(lab, &[]), ["nameserver 198.51.100.53"]);
        lab.set_resolv_conf("nameserver 198.51.100.53\noptions trust-ad\n");
        let both = ["nameserver 198.51.100.53", "options trust-ad"];
        assert_eq!(resolv_conf(lab, &[]), both);
        // Who has IPv4 alone has no use for others, which would take all places.
        let six: String = (1..4)
            .map(|n| format!("nameserver 2001:db8::{n}\n"))
            .collect();
        lab.set_resolv_conf(&format!("{six}nameserver 198.51.100.53\n"));
        let alone = resolv_conf(lab, &["--no-ipv6"]);
        assert_eq!(alone, ["nameserver 198.51.100.53"]);
        assert_eq!(resolv_conf(lab, &[]).len(), 3);
    });
}

/// Resolvers of IPv6 that would take all places, and others.
fn behind_three_of_ipv6(rest: &str) -> String {
    let six = (1..4).map(|n| format!("nameserver 2001:db8::{n}\n"));
    six.collect::<String>() + rest
}

#[test]
fn ipv4_alone_gets_resolvers_of_ipv4_whoever_turned_ipv6_off() {
    const SERVER: &str = "nameserver 198.51.100.53";
    case(|lab| {
        lab.set_resolv_conf(&behind_three_of_ipv6(SERVER));
        let four = ["--bridge", "b4"];
        let up = ["up", "--subnet", "172.30.0.0/24", "--no-ipv6"];
        lab.hawser(&[&up[..], &four].concat()).ok();
        let switch = ["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"];
        for options in [&switch[..], &four, &["--mtu", "1200"]] {
            assert_eq!(resolv_conf(lab, options), [SERVER], "{options:?}");
            // They are also whom these rules let it reach.
            let options = [options, &["--egress", "dns", "--name", "web", "-d"]].concat();
            lab.run(&options, &["sleep", "1000"]).ok();
            let rules = sh("nft list table inet hawser");
            assert!(rules.contains("198.51.100.53"), "{options:?}: {rules}");
            lab.hawser(&["stop", "web"]).ok();
            lab.hawser(&["rm", "web"]).ok();
        }
        // Who has none left is told so, once.
        lab.set_resolv_conf(&behind_three_of_ipv6(""));
        let outcome = lab.run(&four, &["true"]).exits(0);
        assert_eq!(outcome.err().matches("--dns").count(), 1, "{outcome}");
        // Also by what the host says later.
        let alone = [&four[..], &["--name", "web", "-d"]].concat();
        lab.run(&alone, &["sleep", "1000"]).exits(0);
        let inside = Seen::inside(lab.pid_of("web"), "/etc/resolv.conf");
        let start = Instant::now();
        lab.set_resolv_conf(&behind_three_of_ipv6("nameserver 198.51.100.54\n"));
        inside.becomes(start, |text| text == "nameserver 198.51.100.54\n");
        lab.hawser(&["stop", "web"]).ok();
    });
}

#[test]
fn an_attached_container_whose_ipv6_is_off_gets_resolvers_of_ipv4() {
    case(|lab| {
        lab.set_resolv_conf(&behind_three_of_ipv6("nameserver 198.51.100.53\n"));
        let guest = Running::unshared(&["-n", "-m"], "exec cat");
        Netns::of(guest.pid()).sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
        lab.hawser(&["attach", &guest.pid().to_string(), "--name", "web"])
            .ok();
        let path = format!("/proc/{}/root/etc/resolv.conf", guest.pid());
        let seen = fs::read_to_string(path).expect("a file of the container");
        assert_eq!(words(&seen), [["nameserver", "198.51.100.53"]]);
        lab.hawser(&["detach", "web"]).ok();
        guest.end().exits(0);
    });
}

#[test]
fn a_port_of_ipv6_needs_a_container_that_has_it() {
    case(|lab| {
        let before = lab.with_network();
        let port = ["-p", "[2001:db8:1::2]:8080:80"];
        for off in [
            &["--no-ipv6"][..],
            &["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"],
        ] {
            lab.run(&[off, &port].concat(), &["true"]).refused(&[
                "read the command line",
                port[1],
                off[0],
            ]);
            before.assert_back();
            // What comes by loopback is connected anew, in the container's own family.
            let options = [off, &["-p", "[::1]:8080:80", "--resolv=off"]].concat();
            let script = "httpd -p 80 -h /etc; echo up; read x; exit 0";
            let mut web = lab.start(&options, &["sh", "-c", script]);
            web.until("up");
            let mut stream = TcpStream::connect("[::1]:8080").expect("connect");
            let request = b"GET /passwd HTTP/1.0\r\n\r\n";
            stream.write_all(request).expect("ask");
            let mut page = String::new();
            stream.read_to_string(&mut page).expect("read a page");
            assert!(page.contains("worker"), "{off:?}: {page}");
            drop(stream);
            web.end().exits(0);
            lab.settle();
        }
    });
}

/// Who removes systemd-resolved's stub leaves a host whose own programs ask it all the same (nss-resolve(8)).
#[test]
fn without_a_file_of_the_host_those_behind_the_stub_count() {
    case(|lab| {
        let link = lab.own_etc().join("resolv.conf");
        let behind = Path::new("/run/systemd/resolve/resolv.conf");
        let _ = fs::remove_file(&link);
        for target in [None, Some("../run/gone/resolv.conf"), Some("/etc/gone")] {
            if let Some(target) = target {
                symlink(target, &link).expect("a link");
            }
            let nobody = lab.run(&[], &["true"]).exits(0);
            assert!(nobody.err().contains("no resolver"), "{target:?}: {nobody}");
            fs::create_dir_all("/run/systemd/resolve").expect("a directory");
            fs::write(behind, "nameserver 198.51.100.53\n").expect("a file");
            assert_eq!(
                resolv_conf(lab, &[]),
                ["nameserver 198.51.100.53"],
                "{target:?}"
            );
            lab.run(&["--name", "web", "-d"], &["sleep", "1000"]).ok();
            let inside = Seen::inside(lab.pid_of("web"), "/etc/resolv.conf");
            let start = Instant::now();
            fs::write(behind, "nameserver 198.51.100.54\n").expect("a file");
            inside.becomes(start, |text| text == "nameserver 198.51.100.54\n");
            lab.hawser(&["stop", "web"]).ok();
            lab.hawser(&["rm", "web"]).ok();
            fs::remove_dir_all("/run/systemd").expect("remove");
            let _ = fs::remove_file(&link);
        }
    });
}

/// NetworkManager and rdnssd write what a router has advertised so.
#[test]
fn a_resolver_on_a_link_of_the_hosts_is_left_out_and_said_to_be() {
    const ON_LINK: &str = "nameserver fe80::1%uplink";
    case(|lab| {
        let both = format!("{ON_LINK}\nnameserver 198.51.100.53\noptions trust-ad\n");
        lab.set_resolv_conf(&both);
        for network in ["bridge", "host"] {
            let lines = resolv_conf(lab, &["--network", network]);
            assert_eq!(lines, ["nameserver 198.51.100.53"], "{network}");
        }
        lab.set_resolv_conf(&format!("{ON_LINK}\n"));
        let outcome = lab.run(&[], &["true"]).exits(0);
        assert!(outcome.err().contains("name one with --dns"), "{outcome}");
        // Where it could be reached, there is a way.
        let outcome = lab.run(&["--network", "host"], &["true"]).exits(0);
        let said = outcome.err();
        assert!(said.contains("fe80::1%uplink"), "{outcome}");
        let cure = said.trim_end().rsplit_once("own file: ").expect("a cure").1;
        let cure: Vec<&str> = cure.split(' ').collect();
        let options = [&["--network", "host"][..], &cure].concat();
        assert_eq!(resolv_conf(lab, &options), [ON_LINK]);
    });
}

#[test]
fn none_left_is_a_warning_and_nothing_public_is_put_in() {
    case(|lab| {
        for host in ["nameserver 127.0.0.1\n", "", "search corp.test\n"] {
            lab.set_resolv_conf(host);
            let outcome = lab.run(&[], SHOW).exits(0);
            assert!(
                !outcome.out().contains("nameserver"),
                "nothing unasked: {outcome}"
            );
            assert_eq!(outcome.err().lines().count(), 1, "one line: {outcome}");
            assert!(
                outcome.err().contains("--dns"),
                "it says what to do: {outcome}"
            );
            assert_eq!(
                resolv_conf(lab, &["--dns", "192.0.2.1"])[0],
                "nameserver 192.0.2.1",
                "and then is silent"
            );
        }
    });
}

#[test]
fn hosts_are_added() {
    case(|lab| {
        let hosts = lab
            .run(
                &[
                    "--add-host",
                    "db:192.0.2.77",
                    "--add-host",
                    "six:2001:db8::7",
                ],
                &["cat", "/etc/hosts"],
            )
            .ok();
        let lines = words(&hosts);
        assert!(
            lines.contains(&vec!["192.0.2.77".into(), "db".into()]),
            "{hosts}"
        );
        assert!(
            lines.contains(&vec!["2001:db8::7".into(), "six".into()]),
            "{hosts}"
        );
        for wrong in ["db", "db:", ":192.0.2.1", "db:192.0.2.300"] {
            lab.run(&["--add-host", wrong], &["true"]).refused(&[wrong]);
        }
    });
}

#[test]
fn the_root_filesystems_own_files_are_covered_not_changed() {
    case(|lab| {
        fs::write(
            lab.rootfs.join("etc/resolv.conf"),
            "nameserver 203.0.113.1\n",
        )
        .expect("a file");
        fs::write(lab.rootfs.join("etc/hosts"), "203.0.113.1 old\n").expect("a file");
        let seen = lab.run_sh(&[], "cat /etc/resolv.conf /etc/hosts").ok();
        assert!(!seen.contains("203.0.113"), "{seen}");
        assert_eq!(
            fs::read_to_string(lab.rootfs.join("etc/resolv.conf")).expect("read"),
            "nameserver 203.0.113.1\n"
        );
        assert_eq!(
            fs::read_to_string(lab.rootfs.join("etc/hosts")).expect("read"),
            "203.0.113.1 old\n"
        );
    });
}

#[test]
fn a_missing_target_is_made_empty() {
    case(|lab| {
        assert!(!lab.rootfs.join("etc/resolv.conf").exists());
        assert_eq!(resolv_conf(lab, &[]), ["nameserver 198.51.100.53"]);
        for name in ["resolv.conf", "hosts"] {
            assert_eq!(
                fs::read_to_string(lab.rootfs.join("etc").join(name)).expect("made"),
                "",
                "{name}: empty"
            );
        }
    });
}

#[test]
fn links_are_resolved_inside_the_root() {
    case(|lab| {
        fs::create_dir_all("/run/victim").expect("a directory");
        fs::write("/run/victim/there", "the host's\n").expect("a file");
        fs::create_dir_all(lab.rootfs.join("run/victim")).expect("a directory");
        let targets = [
            "/run/victim/there",
            "/run/victim/dangling",
            "../run/victim/dangling",
            "../../../../../../run/victim/there",
            "../run/victim/./../victim/dangling",
        ];
        for target in targets {
            let link = lab.rootfs.join("etc/resolv.conf");
            let _ = fs::remove_file(&link);
            symlink(target, &link).expect("a link");
            assert_eq!(
                resolv_conf(lab, &[]),
                ["nameserver 198.51.100.53"],
                "{target}"
            );
            assert_eq!(
                fs::read_to_string("/run/victim/there").expect("read"),
                "the host's\n",
                "{target}"
            );
            assert_eq!(
                fs::read_dir("/run/victim").expect("list").count(),
                1,
                "{target}: made outside of the root"
            );
            assert!(
                fs::symlink_metadata(&link).expect("look").is_symlink(),
                "{target}: the link is still one"
            );
            let _ = fs::remove_dir_all(lab.rootfs.join("run/victim"));
            fs::create_dir_all(lab.rootfs.join("run/victim")).expect("a directory");
        }
    });
}

#[test]
fn the_stub_link_of_a_systemd_image_works() {
    case(|lab| {
        symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            lab.rootfs.join("etc/resolv.conf"),
        )
        .expect("a link");
        assert_eq!(resolv_conf(lab, &[]), ["nameserver 198.51.100.53"]);
        assert!(!Path::new("/run/systemd").exists(), "nothing on the host");
    });
}

#[test]
fn a_loop_of_links_is_an_error() {
    case(|lab| {
        symlink("resolv.conf", lab.rootfs.join("etc/resolv.conf")).expect("a link");
        with_a_cure(lab.run(&[], &["true"]));
    });
}

#[test]
fn a_read_only_root_filesystem_needs_the_files_or_resolv_off() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        fs::remove_file(lab.rootfs.join("etc/resolv.conf")).expect("unlink");
        let place = lab.rootfs.display();
        sh(&format!(
            "mount --bind {place} {place}; mount -o remount,bind,ro {place}"
        ));
        lab.settle();
        let before = Snapshot::take();
        with_a_cure(lab.run(&[], &["true"]));
        before.assert_back();
        let seen = lab
            .run_sh(
                &["--resolv=off"],
                "cat /etc/resolv.conf 2>&1; ip -o addr show dev eth0",
            )
            .ok();
        assert!(
            seen.contains("No such file") && seen.contains("172.19."),
            "the network is there, the file is not: {seen}"
        );
        sh(&format!(
            "mount -o remount,bind,rw {place}; touch {place}/etc/resolv.conf; mount -o remount,bind,ro {place}"
        ));
        assert_eq!(resolv_conf(lab, &[]), ["nameserver 198.51.100.53"]);
    });
}

#[test]
fn a_root_filesystem_without_etc_needs_resolv_off() {
    case(|lab| {
        fs::remove_dir_all(lab.rootfs.join("etc")).expect("remove");
        with_a_cure(lab.run(&[], &["true"]));
        assert!(!lab.rootfs.join("etc").exists(), "nothing is made");
        lab.run(&["--resolv=off"], &["true"]).ok();
    });
}

#[test]
fn resolv_off_leaves_the_files_alone() {
    case(|lab| {
        fs::write(
            lab.rootfs.join("etc/resolv.conf"),
            "nameserver 203.0.113.1\n",
        )
        .expect("a file");
        assert_eq!(
            resolv_conf(lab, &["--resolv=off"]),
            ["nameserver 203.0.113.1"]
        );
        assert!(!lab.rootfs.join("etc/hosts").exists(), "nothing is made");
    });
}

#[test]
fn a_directory_in_the_place_of_the_file_is_an_error() {
    case(|lab| {
        fs::create_dir(lab.rootfs.join("etc/resolv.conf")).expect("a directory");
        with_a_cure(lab.run(&[], &["true"]));
    });
}

#[track_caller]
fn with_a_cure(outcome: Outcome) {
    outcome.refused(&["resolv.conf", "--resolv=off"]);
}

/// A comment of another encoding, and a character that no name has.
#[test]
fn what_is_no_text_is_passed_over() {
    case(|lab| {
        lab.set_resolv_conf("");
        let text = b"# f\xfcr alle\nnameserver 198.51.100.53\nsearch one.test t\x01wo.test\n";
        fs::write(lab.dir.join("host-resolv.conf"), text).expect("the host's resolv.conf");
        let lines = resolv_conf(lab, &[]);
        assert_eq!(lines, ["nameserver 198.51.100.53", "search one.test"]);
    });
}
