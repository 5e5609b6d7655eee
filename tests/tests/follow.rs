//! The host's resolvers change while containers run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use lab::{Lab, Seen, case, turns};

const RESOLV: &str = "/etc/resolv.conf";

/// A container in the background; its resolv.conf.
fn start(lab: &Lab, name: &str, options: &[&str]) -> Seen {
    let options = [&["-d", "--name", name], options].concat();
    lab.run(&options, &["sleep", "1000"]).ok();
    Seen::inside(lab.pid_of(name), RESOLV)
}

/// The process that supervises a container.
fn supervisor(lab: &Lab, name: &str) -> i64 {
    described(lab, name)["supervisor"]
        .as_i64()
        .expect("a process id")
}

fn described(lab: &Lab, name: &str) -> serde_json::Value {
    serde_json::from_str(&lab.hawser(&["inspect", name]).ok()).expect("JSON")
}

/// How many inotify instances a process has.
fn watches(pid: i64) -> usize {
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("list descriptors")
        .flatten();
    fds.filter(|fd| {
        fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains("inotify"))
    })
    .count()
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("write a file");
    fs::rename(new, path).expect("rename a file");
}

fn server(number: u32) -> String {
    format!("nameserver 192.0.2.{number}\n")
}

#[test]
fn however_the_file_is_replaced() {
    case(|lab| {
        let etc = lab.own_etc();
        let file = etc.join("resolv.conf");
        let managed = Path::new("/run/NetworkManager/resolv.conf");
        fs::create_dir_all("/run/NetworkManager").expect("make a directory");
        fs::write(managed, server(106)).expect("write a file");
        replace(&file, &server(100));
        let inside = start(lab, "web", &[]);
        assert_eq!(inside.text(), server(100));
        let inode = inside.inode();
        let relink = |target: &str| {
            let new = file.with_extension("link");
            symlink(target, &new).expect("make a link");
            fs::rename(new, &file).expect("rename a link");
        };
        let ways: [(&str, &dyn Fn(), u32); 9] = [
            ("by rename, at once", &|| replace(&file, &server(101)), 101),
            ("by rename, again", &|| replace(&file, &server(102)), 102),
            (
                "in place",
                &|| fs::write(&file, server(103)).expect("write"),
                103,
            ),
            (
                "in place, and open for long",
                &|| {
                    use std::io::Write as _;
                    let mut open = fs::File::create(&file).expect("open");
                    open.write_all(server(104).as_bytes()).expect("write");
                    // Closed only when this case ends.
                    std::mem::forget(open);
                },
                104,
            ),
            (
                "removed and made",
                &|| {
                    fs::remove_file(&file).expect("remove");
                    fs::write(&file, server(105)).expect("write");
                },
                105,
            ),
            (
                "by a link",
                &|| relink("/run/NetworkManager/resolv.conf"),
                106,
            ),
            (
                "what the link leads to, by rename",
                &|| replace(managed, &server(107)),
                107,
            ),
            (
                "what the link leads to, in place",
                &|| fs::write(managed, server(108)).expect("write"),
                108,
            ),
            ("by a file again", &|| replace(&file, &server(109)), 109),
        ];
        for (way, change, number) in ways {
            let start = Instant::now();
            change();
            inside.becomes(start, |text| text == server(number));
            assert_eq!(inside.inode(), inode, "{way}: another file");
            let now = described(lab, "web");
            assert_eq!(now["resolvers"][0], format!("192.0.2.{number}"), "{way}");
        }
    });
}

#[test]
fn a_read_only_container_and_a_descriptor_that_is_open() {
    case(|lab| {
        let script =
            "exec 5</etc/resolv.conf; echo up; read x; cat <&5; echo =; cat /etc/resolv.conf";
        let user = ["-u", "1000:1000"];
        let user = if lab.real_root { &user[..] } else { &[] };
        let options = ["--name", "web", "--read-only", "--cap-drop", "all"];
        let options = [&options, user].concat();
        let mut container = lab.start(&options, &["sh", "-c", script]);
        container.until("up");
        let inside = Seen::inside(lab.pid_of("web"), RESOLV);
        let start = Instant::now();
        lab.set_resolv_conf("nameserver 192.0.2.7\nsearch one.test two.test\noptions ndots:3\n");
        inside.becomes(start, |text| text.contains("ndots"));
        container.say("\n");
        let seen = container.end().exits(0).out();
        let text = "nameserver 192.0.2.7\nsearch one.test two.test\noptions ndots:3\n";
        assert_eq!(seen, format!("{text}=\n{text}"));
    });
}

#[test]
fn a_shorter_text_is_never_seen_with_the_end_of_the_longer_one() {
    case(|lab| {
        let (long, short) = (
            format!(
                "{}search {}\n",
                server(1),
                "a-long-domain.test ".repeat(20).trim_end()
            ),
            "nameserver 192.0.2.20\n".to_string(),
        );
        lab.set_resolv_conf(&long);
        let inside = start(lab, "web", &[]);
        for text in [&short, &long, &short] {
            let start = Instant::now();
            lab.set_resolv_conf(text);
            // Every state on the way is looked at: it is one of the two, but for empty lines.
            inside.becomes(start, |now| {
                let now = now.trim_end_matches('\n').to_owned() + "\n";
                assert!(now == long || now == short, "{now:?}");
                now == *text
            });
        }
    });
}

#[test]
fn what_the_container_has_written_is_its_own() {
    case(|lab| {
        let inside = start(lab, "web", &[]);
        let other = start(lab, "other", &[]);
        lab.hawser(&[
            "exec",
            "web",
            "sh",
            "-c",
            "echo nameserver 127.0.0.1 >/etc/resolv.conf",
        ])
        .ok();
        for number in [7, 8] {
            let start = Instant::now();
            lab.set_resolv_conf(&server(number));
            other.becomes(start, |text| text == server(number));
        }
        assert_eq!(inside.text(), "nameserver 127.0.0.1\n");
    });
}

#[test]
fn only_what_came_from_the_host_is_followed() {
    case(|lab| {
        lab.set_resolv_conf("nameserver 192.0.2.1\nsearch host.test\n");
        let search = start(lab, "search", &["--dns-search", "mine.test"]);
        let all = start(lab, "all", &[]);
        let hosts_own = start(lab, "hosts-own", &["--network", "host"]);
        let still = [
            ("dns", &["--dns", "192.0.2.9"][..]),
            ("no", &["--dns-follow=no"]),
            ("off", &["--resolv=off", "--dns-follow", "yes"]),
        ];
        fs::write(lab.rootfs.join("etc/resolv.conf"), server(5)).expect("write a file");
        let still = still.map(|(name, options)| {
            let file = start(lab, name, options);
            let text = file.text();
            (name, file, text)
        });
        let start = Instant::now();
        lab.set_resolv_conf("nameserver 192.0.2.2\nnameserver 127.0.0.1\nsearch other.test\n");
        search.becomes(start, |text| {
            text == "nameserver 192.0.2.2\nsearch mine.test\n"
        });
        all.becomes(start, |text| {
            text == "nameserver 192.0.2.2\nsearch other.test\n"
        });
        hosts_own.becomes(start, |text| text.contains("nameserver 127.0.0.1\n"));
        for (name, file, text) in still {
            assert_eq!(file.text(), text, "{name}");
            assert_eq!(watches(supervisor(lab, name)), 0, "{name}");
        }
        lab.run(&["--dns-follow=maybe"], &["true"])
            .refused(&["maybe", "--dns-follow"]);
    });
}

#[test]
fn no_resolver_is_made_up_and_a_file_that_is_missing_says_nothing() {
    case(|lab| {
        let file = lab.own_etc().join("resolv.conf");
        replace(&file, &server(1));
        let inside = start(lab, "web", &["--add-host", "x:192.0.2.77"]);
        let hosts = Seen::inside(lab.pid_of("web"), "/etc/hosts");
        let change = |text: &str, expected: &str| {
            let start = Instant::now();
            replace(&file, text);
            inside.becomes(start, |text| text == expected);
        };
        // Its supervisor looks at everything when a name comes, and has done so when it answers then.
        let looked = |name: &str| {
            let options = ["-d", "--name", name, "--dns", "192.0.2.1"];
            lab.run(&options, &["sleep", "1000"]).ok();
            hosts.becomes(Instant::now(), |text| text.contains(name));
            described(lab, "web");
        };
        change("nameserver 127.0.0.1\nsearch a.test\n", "search a.test\n");
        change(&server(2), &server(2));
        fs::remove_file(&file).expect("remove a file");
        looked("one");
        assert_eq!(inside.text(), server(2));
        change(&server(3), &server(3));
        // What init would refuse is not written either.
        replace(
            &file,
            &format!("{}search {}\n", server(4), "d.test ".repeat(4000)),
        );
        looked("two");
        assert_eq!(inside.text(), server(3));
        change(&server(5), &server(5));
    });
}

#[test]
fn systemd_resolved_and_a_vpn_that_comes_up() {
    case(|lab| {
        let Some(resolved) = lab.resolved() else {
            return;
        };
        resolved.link("uplink", "192.0.2.53");
        let stub = fs::read_to_string(RESOLV).expect("read the stub");
        assert!(stub.contains("nameserver 127.0.0.53"), "{stub}");
        let inside = start(lab, "web", &[]);
        inside.becomes(Instant::now(), |text| {
            text.starts_with("nameserver 192.0.2.53\n")
        });
        lab::sh(
            "ip link add tun0 type veth peer name tun1; ip addr add 203.0.113.9/24 dev tun0; ip link set tun0 up",
        );
        let start = Instant::now();
        resolved.link("tun0", "203.0.113.53");
        inside.becomes(start, |text| text.contains("nameserver 203.0.113.53\n"));
        let text = inside.text();
        assert!(
            text.contains("nameserver 192.0.2.53\n") && !text.contains("127."),
            "{text}"
        );
        lab::sh("ip link del tun0");
        inside.becomes(Instant::now(), |text| !text.contains("203.0.113.53"));
    });
}

#[test]
fn twenty_at_once() {
    case(|lab| {
        let names: Vec<String> = (0..20).map(|number| format!("box-{number}")).collect();
        let all: Vec<Seen> = names.iter().map(|name| start(lab, name, &[])).collect();
        for number in [7, 8] {
            let start = Instant::now();
            lab.set_resolv_conf(&server(number));
            for inside in &all {
                inside.becomes(start, |text| text == server(number));
            }
        }
    });
}

/// Nobody is woken by what happens beside the file.
#[test]
fn a_busy_etc_and_a_busy_run_wake_nobody() {
    case(|lab| {
        let etc = lab.own_etc();
        fs::create_dir_all("/run/NetworkManager").expect("make a directory");
        let managed = Path::new("/run/NetworkManager/resolv.conf");
        fs::write(managed, server(1)).expect("write a file");
        let _ = fs::remove_file(etc.join("resolv.conf"));
        symlink(managed, etc.join("resolv.conf")).expect("make a link");
        let inside = start(lab, "web", &[]);
        let start = Instant::now();
        replace(managed, &server(2));
        inside.becomes(start, |text| text == server(2));
        let pid = supervisor(lab, "web");
        // It may be on its way back to its wait, once.
        let before = turns(pid);
        for _ in 0..300 {
            for directory in [
                etc.as_path(),
                Path::new("/run"),
                Path::new("/run/NetworkManager"),
                Path::new("/run/hawser"),
            ] {
                replace(&directory.join("busy"), "x");
            }
        }
        for _ in 0..20 {
            lab.run(&[], &["true"]).ok();
        }
        assert!(turns(pid) <= before + 1, "{} turns", turns(pid) - before);
        let start = Instant::now();
        replace(managed, &server(3));
        inside.becomes(start, |text| text == server(3));
        assert!(turns(pid) > before, "this test sees a turn");
    });
}

/// inotify(7): 128 instances for all programs of a user.
#[test]
fn more_containers_than_a_user_may_watch_for() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("only the real root may charge another user's number");
        }
        let limit =
            fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").expect("read a limit");
        let limit: usize = limit.trim().parse().expect("a number");
        if limit > 200 {
            return lab::skip(
                "fs.inotify.max_user_instances is over 200 here: too many containers to reach it",
            );
        }
        let _alone = lab::alone();
        let names: Vec<String> = (0..limit + 10)
            .map(|number| format!("box-{number}"))
            .collect();
        for name in &names {
            let options = ["-d", "--name", name, "--network", "none"];
            lab.run(&options, &["sleep", "1000"]).ok();
        }
        let start = Instant::now();
        lab.set_resolv_conf(&server(7));
        for name in names.iter().rev() {
            let inside = Seen::inside(lab.pid_of(name), RESOLV);
            inside.becomes(start, |text| text == server(7));
        }
        for name in &names {
            assert_eq!(watches(supervisor(lab, name)), 1, "{name}");
        }
        Seen::at(Path::new(RESOLV));
    });
}
