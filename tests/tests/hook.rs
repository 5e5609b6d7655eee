//! `hook`, called as an OCI runtime would: what it makes of options, annotations and states, and of those that are none.
//! (By the real runc and crun: see `hook_runtimes.rs`.)

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use lab::strace::Stopped;
use lab::{Bundle, Lab, Netns, Running, Snapshot, Watch, case, hook, sh, wait_for_end};

/// What podman would make of an id that begins so.
const SHORT: &str = "3f2a90c5d7e1";

fn attached(lab: &Lab, bundle: &Bundle, id: &str, options: &[&str]) -> Running {
    let guest = bundle.created();
    let done = lab.hook(options, &bundle.state(id, "creating", guest.pid()));
    assert_eq!(done.ok(), "", "nobody reads what a hook prints");
    guest
}

/// Its end, as its runtime sees to it.
fn release(lab: &Lab, bundle: &Bundle, id: &str, guest: Running) {
    let pid = guest.pid();
    guest.end().exits(0);
    wait_for_end(pid);
    let done = lab.hook(&[], &bundle.state(id, "stopped", 0));
    assert_eq!(done.err(), "");
    done.exits(0);
}

#[test]
fn a_container_has_a_network_from_createruntime_to_poststop() {
    case(|lab| {
        let before = lab.with_network();
        let bundle = lab.bundle("web", "");
        let guest = attached(lab, &bundle, "web", &["-p", "8080:80"]);
        let netns = Netns::of(guest.pid());
        let seen = netns.sh("ip -o addr; ip route");
        for wanted in ["eth0    inet 172.19.", "default via 172.19.0.1", "inet6 f"] {
            assert!(seen.contains(wanted), "{wanted}: {seen}");
        }
        let row = lab.listed("web");
        let inode = fs::read_link(format!("/proc/{}/ns/net", guest.pid())).expect("a namespace");
        assert_eq!(inode.to_string_lossy(), format!("net:[{}]", row["netns"]));
        assert_eq!(
            (&row["owner"], &row["pid"]),
            (&"hook".into(), &guest.pid().into())
        );
        let links = netns.sh("ip -o link");
        // crun says what runc does not; and where both hooks are there, the second one finds it done.
        for status in ["created", "creating"] {
            let again = bundle.state("web", status, guest.pid());
            lab.hook(&["-p", "8080:80"], &again).ok();
        }
        assert_eq!(netns.sh("ip -o link"), links);
        assert_eq!(lab.list().len(), 1);
        // Not its end: a process of it lives.
        lab.hook(&[], &bundle.state("web", "stopped", 0)).ok();
        assert_eq!(lab.list().len(), 1);
        assert_eq!(netns.sh("ip -o link"), links);
        drop(netns);
        release(lab, &bundle, "web", guest);
        // At once, and not when the next one comes.
        assert!(!sh("ip -o link").contains(": hw"));
        before.assert_host_back();
        for id in ["web", "nobody", "a/b"] {
            let again = lab.hook(&[], &bundle.state(id, "stopped", 0));
            assert_eq!(again.err(), "", "{id}");
            again.ok();
        }
        before.assert_host_back();
    });
}

/// Runtimes make it of the id.
#[test]
fn a_container_finds_its_own_host_name() {
    case(|lab| {
        let id = format!("{SHORT}{}", "0".repeat(52));
        for (name, options, is_found) in [
            (SHORT, &["--name", "web"][..], true),
            (SHORT, &[], true),
            (SHORT, &["--name", SHORT], true),
            (
                SHORT,
                &["--name", "web", "--add-host", "db:192.0.2.77"],
                true,
            ),
            // It would be a name for all of its network.
            ("db.example.com", &["--name", "web"], false),
        ] {
            let before = lab.with_network();
            let bundle = lab.bundle(name, "");
            let guest = attached(lab, &bundle, &id, options);
            let root = bundle.config["root"]["path"].as_str().expect("a root");
            let hosts = format!("/proc/{}/root{root}/etc/hosts", guest.pid());
            let hosts = fs::read_to_string(hosts).expect("its hosts");
            let row = &lab.list()[0];
            for address in [&row["address"], &row["address6"]] {
                let address = address.as_str().expect("an address");
                let line = |name: &str| hosts.contains(&format!("{address} {name}"));
                assert_eq!(line(name), is_found, "{hosts}");
                assert!(line(row["name"].as_str().expect("a name")), "{hosts}");
            }
            release(lab, &bundle, &id, guest);
            before.assert_host_back();
        }
    });
}

/// Who takes that for his own name does not take it from the container, and what was killed leaves no address of its under it.
#[test]
fn a_short_id_is_its_containers_as_long_as_that_lives() {
    case(|lab| {
        lab.with_network();
        let id = format!("{SHORT}{}", "0".repeat(52));
        let bundle = lab.bundle(SHORT, "");
        let addresses = || {
            let names = fs::read_to_string("/run/hawser/hawser0.hosts").expect("the names");
            let mut lines = names.lines().filter(|line| !line.starts_with('#'));
            let is_its = |line: &&str| line.split_whitespace().nth(1) == Some(SHORT);
            let found = lines.by_ref().filter(is_its);
            let words = found.filter_map(|line| line.split_whitespace().next());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let guest = attached(lab, &bundle, &id, &["--name", "web"]);
        let its = addresses();
        assert_eq!(its.len(), 2, "{its:?}");
        let other = lab.start_idle(&["--name", SHORT, "--ip", "172.19.0.77"]);
        assert_eq!(addresses().len(), 4, "{:?}", addresses());
        other.end().exits(0);
        assert_eq!(addresses(), its);
        guest.end().exits(0);
        assert!(
            Watch::new()
                .until(|| sh("ip -br link show type veth | grep -c hw || true").trim() == "0")
        );
        let again = attached(lab, &bundle, &id, &["--name", "web", "--ip", "172.19.0.78"]);
        let its = addresses();
        assert!(
            its.len() == 2 && its.contains(&"172.19.0.78".into()),
            "{its:?}"
        );
        release(lab, &bundle, &id, again);
    });
}

/// Nobody is inside yet: what is missing is made, whosever users it has, and stays.
#[test]
fn what_is_missing_among_other_users_is_made() {
    case(|lab| {
        let before = lab.with_network();
        let bundle = lab.bundle("web", "");
        let root = lab.rootfs.display();
        let script = format!("mount --bind {root} {root} && echo bound && exec cat");
        let mut guest = Running::unshared(&["-r", "-n", "-m"], &script);
        guest.until("bound");
        let state = bundle.state("web", "creating", guest.pid());
        lab.hook(&["--dns", "192.0.2.53"], &state).ok();
        let seen = format!("/proc/{}/root{root}/etc/resolv.conf", guest.pid());
        let seen = fs::read_to_string(seen).expect("its resolv.conf");
        assert_eq!(seen, "nameserver 192.0.2.53\n");
        release(lab, &bundle, "web", guest);
        for name in ["resolv.conf", "hosts"] {
            let path = lab.rootfs.join("etc").join(name);
            assert_eq!(fs::read(&path).expect("it was made for it"), b"");
            fs::remove_file(path).expect("remove a file");
        }
        before.assert_host_back();
    });
}

#[test]
fn what_genuinetools_netns_has_is_there() {
    case(|lab| {
        let before = Snapshot::take();
        // --bridge, --ip (of the bridge), --iface, --mtu, --static-ip, --ipfile
        let options = [
            "--bridge=netns0",
            "--subnet=192.168.77.0/24",
            "--iface=port0",
            "--mtu=1400",
            "--ip=192.168.77.9",
            "--ip-file=/run/lab/ip",
        ];
        let bundle = lab.bundle("web", "");
        let guest = attached(lab, &bundle, "web", &options);
        let seen = Netns::of(guest.pid()).sh("ip addr show dev port0");
        assert!(
            seen.contains("mtu 1400") && seen.contains("inet 192.168.77.9/24"),
            "{seen}"
        );
        assert!(sh("ip -4 addr show dev netns0").contains("192.168.77.1/24"));
        assert_eq!(
            fs::read("/run/lab/ip").expect("the file"),
            b"192.168.77.9\n"
        );
        // create, ls, rm
        let table = lab.hawser(&["ls"]).ok();
        let cells: Vec<&str> = table.lines().flat_map(str::split_whitespace).collect();
        for wanted in [
            "ADDRESS",
            "VETH",
            "PID",
            "STATUS",
            "NETNS",
            "192.168.77.9",
            "hwc0a84d09",
        ] {
            assert!(cells.contains(&wanted), "{wanted}: {table}");
        }
        release(lab, &bundle, "web", guest);
        assert!(!Path::new("/run/lab/ip").exists());
        lab.hawser(&["down", "--bridge", "netns0"]).ok();
        before.assert_host_back();
    });
}

#[test]
fn the_file_of_the_address_is_the_containers_as_long_as_it_says_so() {
    case(|lab| {
        let bundle = lab.bundle("web", "");
        let file = Path::new("/run/lab/ip");
        let options = ["--ip-file", "/run/lab/ip", "--ip", "172.19.0.9"];
        let guest = attached(lab, &bundle, "web", &options);
        fs::write(file, "another's\n").expect("write");
        release(lab, &bundle, "web", guest);
        assert_eq!(fs::read(file).expect("it stays"), b"another's\n");
        // A link in its place is replaced, and not followed.
        fs::remove_file(file).expect("remove");
        symlink("/run/lab/elsewhere", file).expect("link");
        let guest = attached(lab, &bundle, "web", &options);
        assert!(!Path::new("/run/lab/elsewhere").exists());
        assert_eq!(fs::read(file).expect("the file"), b"172.19.0.9\n");
        release(lab, &bundle, "web", guest);
        let before = Snapshot::take();
        let guest = bundle.created();
        let state = bundle.state("web", "creating", guest.pid());
        let fixed = ["--ip", "172.19.0.9"];
        lab.hook(&["--ip-file", "ip"], &state)
            .refused(&["--ip-file", "absolute"]);
        let nowhere = [&fixed[..], &["--ip-file", "/run/nowhere/ip"]].concat();
        lab.hook(&nowhere, &state)
            .refused(&["/run/nowhere/ip", "ENOENT"]);
        guest.end().exits(0);
        before.assert_host_back();
    });
}

/// Whose end nobody has told yet, when the next one has its address: what others read of it goes all the same.
#[test]
fn what_others_read_of_a_dead_one_goes_with_its_address() {
    case(|lab| {
        // It makes a mount of the directory, as --export does.
        sh("ip netns add blue; ip netns del blue");
        let before = lab.with_network();
        let old = Running::unshared(&["-n"], "exec cat");
        let options = ["--name", "old", "--export", "--ip", "172.19.0.9"];
        lab.hawser(&[&["attach", &old.pid().to_string()], &options[..]].concat())
            .ok();
        old.end().exits(0);
        let attached = |bundle: &Bundle, id: &str| {
            let file = format!("/run/lab/{id}");
            attached(lab, bundle, id, &["--ip", "172.19.0.9", "--ip-file", &file])
        };
        let bundle = lab.bundle("web", "");
        let web = attached(&bundle, "web");
        assert!(!Path::new("/run/netns/old").exists());
        assert!(Path::new("/run/lab/web").exists());
        web.end().exits(0);
        let next = lab.bundle("next", "");
        let guest = attached(&next, "next");
        assert!(!Path::new("/run/lab/web").exists());
        lab.hook(&[], &bundle.state("web", "stopped", 0)).exits(0);
        assert!(Path::new("/run/lab/next").exists());
        release(lab, &next, "next", guest);
        before.assert_host_back();
    });
}

/// The next one at an address writes the same words: to the same file, if it is told to.
#[test]
fn a_file_with_an_address_is_the_next_ones_while_another_sweeps() {
    case(|lab| {
        lab.with_network();
        let file = "/run/lab/ip";
        let options = ["--ip", "172.19.0.9", "--ip-file", file, "-p", "8080:80"];
        let [old, next] = ["old", "next"].map(|name| lab.bundle(name, ""));
        let trace = lab.dir.join("trace");
        for nth in 1.. {
            let guest = attached(lab, &old, "old", &options);
            // Or whoever comes would wait for that to go.
            sh("ip link del hwac130009");
            guest.end().exits(0);
            let sweep = Stopped::at_message(nth, &lab.command(&["ls"]), &trace);
            let guest = next.created();
            let state = next.state("next", "creating", guest.pid());
            let attaching = Running::spawn(lab.hook_command(&options, &state));
            attaching.ends_or_waits_for_a_lock();
            let is_stopped = sweep.is_stopped;
            let sweep = sweep.go_on();
            attaching.end().ok();
            sweep.end().ok();
            let written = fs::read_to_string(file).unwrap_or_default();
            assert_eq!(written, "172.19.0.9\n", "message {nth}");
            release(lab, &next, "next", guest);
            assert!(!Path::new(file).exists(), "message {nth}");
            if !is_stopped {
                assert!(nth > 20, "it sends more than {nth} messages");
                break;
            }
        }
    });
}

#[test]
fn annotations_are_options() {
    case(|lab| {
        let before = lab.with_network();
        let bundle = lab
            .bundle("web", "")
            .annotated("hawser.publish", "8080:80, 8443:443\n53:53/udp")
            .annotated("hawser.ip", "172.19.0.9")
            .annotated("hawser.no-ipv6", "true")
            .annotated("hawser.isolate", "false")
            .annotated("hawser.name", "site")
            .annotated("hawser.dns", "192.0.2.53 192.0.2.54")
            .annotated("hawser.add-host", "db:192.0.2.77")
            .annotated("org.example.other", "anything");
        // Those of the arguments are added to.
        let guest = attached(lab, &bundle, "3f2a+x", &["-p", "9090:90"]);
        let row = lab.listed("site");
        assert_eq!(row["address"], "172.19.0.9");
        assert_eq!(row["address6"], Value::Null);
        assert_eq!(row["ports"].as_array().map(Vec::len), Some(4), "{row}");
        let file = |path: &str| {
            let root = bundle.config["root"]["path"].as_str().expect("a root");
            let inside = format!("/proc/{}/root{root}{path}", guest.pid());
            fs::read_to_string(inside).expect("a file of the container's")
        };
        assert_eq!(
            file("/etc/resolv.conf"),
            "nameserver 192.0.2.53\nnameserver 192.0.2.54\n"
        );
        assert!(file("/etc/hosts").contains("192.0.2.77 db"));
        release(lab, &bundle, "3f2a+x", guest);
        before.assert_host_back();
        // Without a bridge.
        let bundle = lab
            .bundle("web", "")
            .annotated("hawser.network", "ptp")
            .annotated("hawser.egress", "192.0.2.0/24");
        let guest = attached(lab, &bundle, "web", &[]);
        let row = lab.listed("web");
        assert_eq!(row["network"], "ptp", "{row}");
        let routes = Netns::of(guest.pid()).sh("ip route");
        assert!(routes.contains("default via 10.0.0.1"), "{routes}");
        let all = lab.hawser(&["inspect", "web"]).ok();
        assert!(all.contains("\"egress\": \"192.0.2.0/24\""), "{all}");
        release(lab, &bundle, "web", guest);
        // The network stays, as one with a bridge does.
        let before = Snapshot::take();
        // A runtime that does not pass them on has them in config.json.
        let bundle = lab.bundle("web", "").annotated("hawser.ip", "172.19.0.9");
        let guest = bundle.created();
        let state =
            json!({"id": "web", "status": "created", "pid": guest.pid(), "bundle": bundle.path});
        lab.hook(&[], &state.to_string()).ok();
        assert_eq!(lab.listed("web")["address"], "172.19.0.9");
        release(lab, &bundle, "web", guest);
        before.assert_host_back();
    });
}

#[test]
fn annotations_that_are_none_are_refused() {
    case(|lab| {
        let before = lab.with_network();
        for (key, value, words) in [
            (
                "hawser.egres",
                "none",
                &["hawser.egres", "no such option"][..],
            ),
            ("hawser.", "", &["hawser.", "no such option"]),
            (
                "hawser.isolate",
                "maybe",
                &["hawser.isolate", "true or false"],
            ),
            ("hawser.ip", "999", &["hawser.ip", "--ip <ADDR>"]),
            (
                "hawser.publish",
                "80:80/tls",
                &["hawser.publish", "80:80/tls"],
            ),
            (
                "hawser.ip-file",
                "/etc/passwd",
                &["hawser.ip-file", "argument"],
            ),
            ("hawser.egress", "all", &["--egress", "multiple times"]),
            (
                "hawser.publish",
                "127.0.0.1:80:80",
                &["annotations of container web", "loopback", "attach --stay"],
            ),
            ("hawser.network", "container:a", &["linux.namespaces"]),
            (
                "hawser.name",
                "eth7",
                &["hawser.name", "network interfaces"],
            ),
            ("hawser.mtu", "1\n2", &["hawser.mtu"]),
        ] {
            let bundle = lab.bundle("web", "").annotated(key, value);
            let guest = bundle.created();
            let state = bundle.state("web", "creating", guest.pid());
            lab.hook(&["--egress", "none"], &state).refused(words);
            guest.end().exits(0);
        }
        // Nor do they unsay a switch of the arguments: what both give is refused.
        for switch in ["isolate", "internal", "no-ipv6"] {
            let key = format!("hawser.{switch}");
            let bundle = lab.bundle("web", "").annotated(&key, "false");
            let guest = bundle.created();
            let state = bundle.state("web", "creating", guest.pid());
            lab.hook(&[&format!("--{switch}")], &state)
                .refused(&[&key, "the hook's arguments say the contrary"]);
            guest.end().exits(0);
        }
        // A limit of the arguments means the resolvers of the arguments.
        let bundle = lab.bundle("web", "").annotated("hawser.dns", "192.0.2.66");
        let guest = bundle.created();
        let state = bundle.state("web", "creating", guest.pid());
        for limit in ["dns", "192.0.2.0/24,dns"] {
            let words = ["hawser.dns", "--egress dns", "--dns"];
            lab.hook(&["--egress", limit], &state).refused(&words);
        }
        guest.end().exits(0);
        let mut bundle = lab.bundle("web", "");
        bundle.config["annotations"] = json!({"hawser.mtu": 1400});
        let guest = bundle.created();
        let state = bundle.state("web", "creating", guest.pid());
        lab.hook(&[], &state).refused(&["hawser.mtu", "no string"]);
        // An id that is no name.
        let bundle = lab.bundle("web", "");
        let state = bundle.state("eth0", "creating", guest.pid());
        lab.hook(&[], &state)
            .refused(&["name container eth0", "annotation hawser.name"]);
        guest.end().exits(0);
        before.assert_host_back();
    });
}

#[test]
fn states_that_are_none_are_refused_in_one_line() {
    case(|lab| {
        let before = lab.with_network();
        let bundle = lab.bundle("web", "");
        let guest = bundle.created();
        let pid = guest.pid();
        let without = |key: &str| {
            let mut state: Value =
                serde_json::from_str(&bundle.state("web", "creating", pid)).expect("JSON");
            state.as_object_mut().expect("an object").remove(key);
            state.to_string()
        };
        let nowhere = json!({"id": "web", "status": "creating", "pid": pid, "bundle": "/nowhere"});
        for (state, words) in [
            (String::new(), &["read the container's state", "empty"][..]),
            ("\n".into(), &["empty"]),
            ("hello".into(), &["no JSON"]),
            ("[1]".into(), &["no JSON object"]),
            ("[".repeat(500_000), &["no JSON"]),
            (
                format!("{{\"id\": \"{}\"}}", "a".repeat(10 << 20)),
                &["longer than 1 MiB"],
            ),
            (without("id"), &["no container (id)"]),
            (without("status"), &["no status"]),
            (
                without("pid"),
                &["attach container web", "no process (pid)"],
            ),
            (bundle.state("web", "creating", 0), &["no process (pid)"]),
            (
                bundle.state("web", "creating", i32::MAX),
                &["process 2147483647", "ESRCH"],
            ),
            (
                bundle.state("web", "running", pid),
                &["createRuntime and poststop"],
            ),
            (nowhere.to_string(), &["/nowhere/config.json", "ENOENT"]),
            // Called elsewhere than in the bundle.
            (without("bundle"), &["./config.json", "ENOENT"]),
            // The host's, and one of the kernel's own.
            (bundle.state("web", "creating", 1), &["host's own"]),
        ] {
            lab.hook(&[], &state).refused(words);
        }
        // What is left out has another place.
        let mut command = lab.hook_command(&[], &without("bundle"));
        command.current_dir(&bundle.path);
        lab::collect(command, lab::DEADLINE).ok();
        lab.hook(&[], &without("annotations")).ok();
        release(lab, &bundle, "web", guest);
        before.assert_host_back();
    });
}

#[test]
fn configs_that_are_none_are_refused() {
    case(|lab| {
        let before = lab.with_network();
        let bundle = lab.bundle("web", "");
        let guest = bundle.created();
        let state = bundle.state("web", "creating", guest.pid());
        for (config, words) in [
            ("", &["config.json"][..]),
            ("[]", &["config.json"]),
            ("{}", &["network", "linux.namespaces"]),
            (
                r#"{"linux": {"namespaces": [{"type": "network"}]}}"#,
                &["root.path"],
            ),
            (
                r#"{"root": {"path": "nowhere"}, "linux": {"namespaces": [{"type": "network"}]}}"#,
                &["nowhere", "ENOENT"],
            ),
        ] {
            fs::write(bundle.path.join("config.json"), config).expect("write");
            lab.hook(&[], &state).refused(words);
        }
        let long = " ".repeat((16 << 20) + 1);
        fs::write(bundle.path.join("config.json"), long).expect("write");
        lab.hook(&[], &state).refused(&["16 MiB"]);
        guest.end().exits(0);
        before.assert_host_back();
    });
}

/// A runtime that cannot write all of the state may take that for a failure, or be ended by SIGPIPE.
#[test]
fn the_state_is_always_read_to_its_end() {
    case(|lab| {
        let bundle = lab.bundle("web", "");
        let padding = "x".repeat(10 << 20);
        let long = json!({"id": "web", "status": "creating", "annotations": {"a": padding}});
        let short =
            json!({"id": "web", "status": "creating", "annotations": {"a": &padding[..300_000]}});
        for (options, state) in [
            (&[][..], long.to_string()),
            (&["--nonsense"], long.to_string()),
            (&["--nonsense"], short.to_string()),
            (&[], short.to_string()),
            (&[], padding.clone()),
        ] {
            let mut command = lab.command(&[&["hook"], options].concat());
            command.current_dir(&bundle.path).stdin(Stdio::piped());
            let mut running = Running::spawn(command);
            let mut stdin = running.stdin.take().expect("a pipe");
            let written = stdin.write_all(state.as_bytes());
            drop(stdin);
            let outcome = running.end();
            assert!(written.is_ok(), "{options:?}: {written:?}: {outcome}");
            outcome.refused(&[]);
        }
    });
}

#[test]
fn a_release_never_fails() {
    case(|lab| {
        let before = lab.with_network();
        for state in [
            r#"{"id": "web", "status": "stopped"}"#,
            r#"{"id": "web", "status": "stopped", "pid": "x", "bundle": 7, "annotations": [1]}"#,
            r#"{"id": "web", "status": "stopped", "pid": 1, "bundle": "/nowhere"}"#,
            r#"{"id": "../../x", "status": "stopped", "annotations": {"hawser.nonsense": ""}}"#,
        ] {
            let outcome = lab.hook(&[], state);
            assert_eq!(outcome.err(), "", "{state}");
            outcome.exits(0);
        }
        // An option that another version had.
        let bundle = lab.bundle("web", "");
        let guest = attached(lab, &bundle, "web", &[]);
        let pid = guest.pid();
        guest.end().exits(0);
        wait_for_end(pid);
        let outcome = lab.hook(&["--nonsense"], &bundle.state("web", "stopped", 0));
        assert!(
            outcome.err().contains("warning: read the command line"),
            "{outcome}"
        );
        outcome.exits(0);
        before.assert_host_back();
        // What cannot be done is a warning.
        let guest = attached(lab, &bundle, "web", &[]);
        let pid = guest.pid();
        guest.end().exits(0);
        wait_for_end(pid);
        let mut command = lab.hook_command(&[], &bundle.state("web", "stopped", 0));
        lab::sys::as_user(&mut command, 65534);
        if lab.real_root {
            let outcome = lab::collect(command, lab::DEADLINE);
            assert!(
                outcome.err().contains("warning: release container web: "),
                "{outcome}"
            );
            outcome.exits(0);
        }
        // What was kept of it is lost: the kernel has its name. And the other way round.
        fs::remove_dir_all("/run/hawser/attachments").expect("remove");
        lab.hook(&[], &bundle.state("web", "stopped", 0)).ok();
        lab.settle();
        lab.hawser(&["ls"]).ok();
        before.assert_host_back();
    });
}

#[test]
fn processes_of_other_containers_are_left_alone() {
    case(|lab| {
        let first = lab.with_network();
        let web = lab.bundle("web", "");
        let guest = attached(lab, &web, "web", &["-p", "8080:80"]);
        let before = Snapshot::take();
        // Of one that has a network of ours.
        let other = lab.bundle("other", "");
        let state = other.state("other", "creating", guest.pid());
        lab.hook(&[], &state)
            .refused(&["container web", "has a network already"]);
        let port0 = ["--iface", "port0"];
        lab.hook(&port0, &state).refused(&["container web"]);
        lab.hook(&port0, &web.state("web", "creating", guest.pid()))
            .refused(&["has eth0 already", "one interface"]);
        before.assert_host_back();
        // Of one that has none, with another root.
        let mut other = lab.bundle("other", "");
        let root = lab.dir.join("another");
        fs::create_dir_all(root.join("etc")).expect("make a directory");
        other.config["root"]["path"] = root.to_string_lossy().into();
        other.write();
        let stranger = lab.bundle("stranger", "").created();
        let state = other.state("other", "creating", stranger.pid());
        lab.hook(&[], &state)
            .refused(&["another", "nothing is mounted", "this container?"]);
        // One of the same name elsewhere.
        let state = web.state("web", "creating", stranger.pid());
        lab.hook(&[], &state).refused(&["in use by container web"]);
        let links = Netns::of(stranger.pid()).sh("ip -o link");
        assert_eq!(links.lines().count(), 1, "{links}");
        stranger.end().exits(0);
        before.assert_host_back();
        release(lab, &web, "web", guest);
        first.assert_host_back();
    });
}

#[test]
fn what_a_killed_hook_has_left_is_taken_over() {
    case(|lab| {
        let before = lab.with_network();
        let bundle = lab.bundle("web", "");
        let options = ["--ip", "172.19.0.9", "-p", "8080:80"];
        let guest = attached(lab, &bundle, "web", &options);
        // As if it had been killed a moment earlier.
        let path = "/run/hawser/attachments/hwac130009";
        let text = fs::read_to_string(path).expect("what is kept");
        let text = text.replace("\"is_whole\":true", "\"is_whole\":false");
        fs::write(path, text).expect("write");
        let state = bundle.state("web", "creating", guest.pid());
        lab.hook(&options, &state).ok();
        let again = fs::read_to_string(path).expect("what is kept");
        assert!(again.contains("\"is_whole\":true"), "{again}");
        let links = Netns::of(guest.pid()).sh("ip -o link");
        assert_eq!(links.lines().count(), 2, "{links}");
        release(lab, &bundle, "web", guest);
        before.assert_host_back();
    });
}

#[test]
fn it_ends_before_its_runtime_ends_it() {
    case(|lab| {
        let before = lab.with_network();
        let mut bundle = lab.bundle("web", "");
        let mut ours = hook(&["-p", "8080:80"]);
        ours["timeout"] = 1.into();
        bundle.config["hooks"] = json!({
            "createRuntime": [{"path": "/bin/true", "timeout": 9}, ours, hook(&[])],
            "poststop": [{"path": lab::binary(), "timeout": 1}],
        });
        bundle.write();
        let guest = bundle.created();
        let during = Snapshot::take();
        let directory = File::open("/run/hawser").expect("open a directory");
        let lock = Flock::lock(directory, FlockArg::LockExclusive).expect("lock");
        let call = |status: &str| {
            let mut command = lab.hook_command(
                &["-p", "8080:80"],
                &bundle.state("web", status, guest.pid()),
            );
            // As a runtime does it.
            std::os::unix::process::CommandExt::arg0(&mut command, "host-helper");
            let start = Instant::now();
            // How much more it takes is the machine's: it is told to give up after 0.8 s, and says so.
            let outcome = lab::collect(command, lab::DEADLINE);
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(750), "{took:?}: {outcome}");
            outcome
        };
        call("creating").refused(&["attach container web: not done within 0.8 s of the 1 s"]);
        drop(lock);
        during.assert_host_back();
        // A port is what somebody else holds meanwhile: nothing to wait for.
        let taken = TcpListener::bind("0.0.0.0:8080").expect("listen");
        let state = bundle.state("web", "creating", guest.pid());
        lab.hook(&["-p", "8080:80"], &state).refused(&["8080"]);
        drop(taken);
        guest.end().exits(0);
        before.assert_host_back();
    });
}
