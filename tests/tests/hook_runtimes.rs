//! `hook` as a hook of the real runc and the real crun: containers that have a network as long as they exist.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use nix::fcntl::{Flock, FlockArg};

use lab::{Lab, Oci, Outcome, Running, case, hook, packets, sh};
use serde_json::{Value, json};

const IDLE: &str = "echo up; read x; exit 0";

fn page(address: &str) -> String {
    let mut text = String::new();
    let mut stream = TcpStream::connect(address).expect("connect");
    stream
        .write_all(b"GET /group HTTP/1.0\r\n\r\n")
        .expect("ask");
    stream.read_to_string(&mut text).expect("read");
    text
}

fn up(oci: &Oci, bundle: &lab::Bundle, id: &str) -> Running {
    oci.start(bundle, id)
        .up_or_end()
        .unwrap_or_else(|outcome| panic!("{id} does not start: {outcome}"))
}

/// Two containers: each other, the outside by name, a published port; and nothing of them is left.
fn have_networks(lab: &Lab, program: &'static str) {
    let Some(oci) = lab.oci(program) else {
        return;
    };
    lab.serve();
    let before = lab.with_network();
    let server = "httpd -p 80 -h /etc; echo up; read x; exit 0";
    let web = lab
        .bundle("web", server)
        .annotated("hawser.publish", "8080:80");
    let web = web.annotated("hawser.dns", "198.51.100.53");
    let web = up(&oci, &web, "web");
    let look = "ip -o addr; ip route; cat /etc/resolv.conf /etc/hosts; wget -q -O - http://web/group; \
        wget -q -O - http://web.example.test/; echo seen; read x; exit 0";
    let mut bundle = lab.bundle("box", look).annotated("hawser.ip", "172.19.0.9");
    // A root that can be written to, named by its place in the bundle.
    bundle.config["root"] = json!({"path": "../../rootfs"});
    let bundle = bundle.annotated("hawser.iface", "port0");
    let bundle = bundle.annotated("hawser.dns", "198.51.100.53");
    let mut other = oci.start(&bundle, "box");
    // Not a word of the hosts file, which has "made-up" in it.
    let seen = other.until("seen");
    for wanted in [
        "port0    inet 172.19.0.9/16",
        "default via 172.19.0.1",
        "inet6 f",
        "nameserver 198.51.100.53",
        " web",
        "wheel:x:27",
        "hello from the internet",
    ] {
        assert!(seen.contains(wanted), "{wanted}: {seen}");
    }
    for address in ["192.0.2.2:8080", "[2001:db8:1::2]:8080"] {
        assert!(page(address).contains("wheel"), "{address}");
        let far = lab.internet.enter(|| page(address));
        assert!(far.contains("wheel"), "{address} from afar");
    }
    for (name, owner) in [("web", "hook"), ("box", "hook")] {
        let state: Value = serde_json::from_str(&oci.call(&["state", name]).ok()).expect("JSON");
        let row = lab.listed(name);
        assert_eq!(
            (&row["owner"], &row["pid"]),
            (&owner.into(), &state["pid"]),
            "{row}"
        );
        assert_eq!(row["status"], "attached");
    }
    oci.call(&["kill", "web", "KILL"]).exits(0);
    let _ = web.end();
    other.end().exits(0);
    // `runc run` deletes them by itself.
    oci.call(&["state", "web"]).refused_by_runtime();
    before.assert_host_back();
    assert!(lab.list().is_empty());
}

trait Refused {
    fn refused_by_runtime(self) -> String;
}

impl Refused for Outcome {
    fn refused_by_runtime(self) -> String {
        assert_ne!(self.code, 0, "{self}");
        self.err()
    }
}

#[test]
fn containers_of_runc_have_networks() {
    packets(|lab| have_networks(lab, "runc"));
}

#[test]
fn containers_of_crun_have_networks() {
    packets(|lab| have_networks(lab, "crun"));
}

/// `create`, `start`, `delete`, each as a command of its own, again and again: always the same, and nothing piles up.
fn comes_and_goes(lab: &Lab, program: &'static str) {
    let Some(oci) = lab.oci(program) else {
        return;
    };
    let before = lab.with_network();
    let bundle = lab
        .bundle("web", "exec sleep 1000")
        .annotated("hawser.ip", "172.19.0.9");
    let path = bundle.path.to_string_lossy().into_owned();
    for _ in 0..5 {
        let mut create = oci.command(&["create", "--bundle", &path, "web"]);
        // What it leaves running would keep our pipes.
        create.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(create.status().expect("start the runtime").success());
        assert_eq!(lab.listed("web")["address"], "172.19.0.9");
        oci.call(&["start", "web"]).exits(0);
        oci.call(&["delete", "--force", "web"]).exits(0);
    }
    before.assert_host_back();
}

#[test]
fn containers_of_runc_come_and_go() {
    case(|lab| comes_and_goes(lab, "runc"));
}

#[test]
fn containers_of_crun_come_and_go() {
    case(|lab| comes_and_goes(lab, "crun"));
}

/// What goes wrong with the hook ends the container, is told, and leaves nothing.
fn fails_whole(lab: &Lab, program: &'static str) {
    let Some(oci) = lab.oci(program) else {
        return;
    };
    let before = lab.with_network();
    let nothing_is_left = || {
        lab.settle();
        // crun calls no poststop for what it has not created.
        lab.hawser(&["ls"]).ok();
        before.assert_host_back();
    };
    // An error of ours, which runc tells.
    let bundle = lab.bundle("web", IDLE).annotated("hawser.ip", "192.0.2.77");
    let said = oci.run(&bundle, "web").refused_by_runtime();
    let told = "host-helper: use address 192.0.2.77: ";
    assert!(said.contains(told) || program == "crun", "{said}");
    nothing_is_left();
    // Another hook behind ours.
    let mut bundle = lab
        .bundle("web", IDLE)
        .annotated("hawser.publish", "8080:80");
    bundle.config["hooks"]["createRuntime"] = json!([hook(&[]), {"path": "/bin/false"}]);
    bundle.write();
    oci.run(&bundle, "web").refused_by_runtime();
    nothing_is_left();
    // One that is killed half-way, at calls that come before, between and behind what it makes.
    for call in [
        "read:when=20",
        "sendto:when=5",
        "sendto:when=12",
        "rename:when=1",
        "rename:when=2",
        "waitid:when=1",
    ] {
        let mut killed = hook(&[]);
        let ours = lab::binary();
        let inject = format!("inject={}", call.replacen(':', ":signal=KILL:", 1));
        let words = ["strace", "-o", "/run/lab/trace", "-e", &inject];
        let words = words.map(String::from).into_iter();
        let words: Vec<String> = words
            .chain([ours.to_string_lossy().into_owned(), "hook".into()])
            .collect();
        killed["path"] = "/usr/bin/strace".into();
        killed["args"] = words.into();
        bundle.config["hooks"]["prestart"] = json!([]);
        bundle.config["hooks"]["createRuntime"] = json!([killed]);
        bundle.write();
        oci.run(&bundle, "web").refused_by_runtime();
        nothing_is_left();
    }
    // Somebody holds us up: we end before our runtime ends us.
    let directory = File::open("/run/hawser").expect("open a directory");
    let lock = Flock::lock(directory, FlockArg::LockExclusive).expect("lock");
    let mut slow = hook(&[]);
    slow["timeout"] = 1.into();
    bundle.config["hooks"]["createRuntime"] = json!([slow]);
    bundle.config["hooks"]["poststop"] = json!([slow]);
    bundle.write();
    let said = oci.run(&bundle, "web").refused_by_runtime();
    let told = "host-helper: attach container web: not done within 0.8 s of the 1 s";
    assert!(said.contains(told) || program == "crun", "{said}");
    drop(lock);
    nothing_is_left();
}

#[test]
fn what_fails_with_runc_leaves_nothing() {
    case(|lab| fails_whole(lab, "runc"));
}

#[test]
fn what_fails_with_crun_leaves_nothing() {
    case(|lab| fails_whole(lab, "crun"));
}

/// A network namespace that is another's: it is left alone, and goes with its own container.
fn leaves_shared_networks_alone(lab: &Lab, program: &'static str) {
    let Some(oci) = lab.oci(program) else {
        return;
    };
    let before = lab.with_network();
    let web = up(&oci, &lab.bundle("web", IDLE), "web");
    let pid = lab.pid_of("web");
    let mut bundle = lab.bundle("beside", "ip -o link; echo up; read x; exit 0");
    let path = format!("/proc/{pid}/ns/net");
    bundle.config["linux"]["namespaces"][1] = json!({"type": "network", "path": path});
    bundle.write();
    let mut beside = oci.start(&bundle, "beside");
    let links = beside.until("up");
    assert_eq!(links.matches("eth0").count(), 1, "{links}");
    assert_eq!(lab.list().len(), 1);
    let ruleset = sh("nft list ruleset");
    beside.end().exits(0);
    assert_eq!(sh("nft list ruleset"), ruleset);
    assert_eq!(lab.pid_of("web"), pid);
    let _ = web.end();
    before.assert_host_back();
    // The host's own is no network for us, unless that is said.
    let mut bundle = lab.bundle("hosts", "ip -o link; echo up");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut();
    namespaces.expect("a list").remove(1);
    bundle.write();
    oci.run(&bundle, "hosts").refused_by_runtime();
    let seen = oci
        .run(&bundle.annotated("hawser.network", "host"), "hosts")
        .ok();
    assert!(seen.contains("uplink") && !seen.contains("eth0"), "{seen}");
    before.assert_host_back();
}

#[test]
fn runc_leaves_shared_networks_alone() {
    case(|lab| leaves_shared_networks_alone(lab, "runc"));
}

#[test]
fn crun_leaves_shared_networks_alone() {
    case(|lab| leaves_shared_networks_alone(lab, "crun"));
}

/// A root without the files, and one that nobody can write to whose files are empty, as those of images for read-only roots.
fn has_files_in_any_root(lab: &Lab, program: &'static str) {
    let Some(oci) = lab.oci(program) else {
        return;
    };
    let look = "cat /etc/resolv.conf; grep -c '^1.* web' /etc/hosts; touch /x 2>&1; echo $?";
    let see = |is_read_only: bool| {
        let bundle = lab
            .bundle("web", look)
            .annotated("hawser.dns", "192.0.2.53");
        let mut bundle = bundle.annotated("hawser.no-ipv6", "true");
        bundle.config["root"]["readonly"] = is_read_only.into();
        bundle.write();
        oci.run(&bundle, "web").ok()
    };
    let files = ["resolv.conf", "hosts"].map(|name| lab.rootfs.join("etc").join(name));
    assert!(!files[0].exists());
    assert!(see(true).starts_with("nameserver 192.0.2.53\n1\n"));
    for file in &files {
        assert_eq!(fs::read(file).expect("it was made for it"), b"");
    }
    assert_eq!(see(false), "nameserver 192.0.2.53\n1\n0");
    fs::remove_file(lab.rootfs.join("x")).expect("it was made inside");
    // Nowhere to make them.
    let away = lab.dir.join("etc");
    fs::rename(lab.rootfs.join("etc"), &away).expect("rename");
    let bundle = lab.bundle("web", look);
    let said = oci.run(&bundle, "web").refused_by_runtime();
    let told = "use the container's /etc: no such file or directory (ENOENT); make that directory";
    assert!(said.contains(told) || program == "crun", "{said}");
    fs::rename(away, lab.rootfs.join("etc")).expect("rename");
    // A file system that cannot be written to at all.
    let root = lab.rootfs.to_string_lossy();
    sh(&format!(
        "mount --bind {root} {root}; mount -o remount,ro,bind {root}"
    ));
    let seen = see(true);
    assert!(
        seen.starts_with("nameserver 192.0.2.53\n1\n") && seen.ends_with("\n1"),
        "{seen}"
    );
}

#[test]
fn files_are_there_in_any_root_of_runc() {
    case(|lab| has_files_in_any_root(lab, "runc"));
}

#[test]
fn files_are_there_in_any_root_of_crun() {
    case(|lab| has_files_in_any_root(lab, "crun"));
}

/// The complete example of the README, but for where things are.
#[test]
fn the_example_of_the_readme_works() {
    case(|lab| {
        let Some(oci) = lab.oci("runc") else {
            return;
        };
        let before = lab.with_network();
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let readme = fs::read_to_string(readme).expect("the README");
        let (_, example) = readme.split_once("```json\n").expect("an example");
        let (example, _) = example.split_once("```").expect("its end");
        let example = example.replace(
            "/usr/local/bin/host-helper",
            &lab::binary().to_string_lossy(),
        );
        let mut bundle = lab.bundle("web", "");
        let group = bundle.config["linux"]["cgroupsPath"].clone();
        bundle.config = serde_json::from_str(&example).expect("JSON");
        bundle.config["linux"]["cgroupsPath"] = group;
        fs::rename(&lab.rootfs, bundle.path.join("rootfs")).expect("rename");
        assert_eq!(bundle.config["process"]["args"][0], "httpd");
        let script = "httpd -p 8000 -h /etc; echo up; exec sleep 1000";
        bundle.config["process"]["args"] = json!(["sh", "-c", script]);
        bundle.write();
        let web = up(&oci, &bundle, "web");
        assert!(page("172.19.0.80:8000").contains("root:x:0:"));
        assert!(
            lab.internet
                .enter(|| page("192.0.2.2:80"))
                .contains("root:x:0:")
        );
        let row = lab.listed("web");
        assert_eq!(
            (&row["owner"], &row["status"]),
            (&"hook".into(), &"attached".into())
        );
        oci.call(&["kill", "web", "KILL"]).exits(0);
        let _ = web.end();
        before.assert_host_back();
    });
}

/// podman reads hooks from a directory, for all containers that have an annotation.
#[test]
fn containers_of_podman_have_networks_by_annotation() {
    packets(|lab| {
        let Some(podman) = lab.podman() else {
            return;
        };
        lab.serve();
        lab.with_network();
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/host-helper.8.md");
        let page = fs::read_to_string(page).expect("read the manual");
        let (_, rest) = page
            .split_once("podman reads hooks from a directory, `")
            .expect("where podman has its hooks");
        let (hooks, _) = rest.split_once('`').expect("a directory");
        fs::create_dir_all(hooks).expect("make a directory");
        let ours = json!({
            "version": "1.0.0",
            "hook": {"path": lab::binary(), "args": ["host-helper", "hook"], "timeout": 20},
            "when": {"annotations": {"^hawser\\.": ".*"}},
            "stages": ["createRuntime", "poststop"]
        });
        fs::write(Path::new(hooks).join("hawser.json"), ours.to_string()).expect("write a hook");
        let archive = lab.archive("box", &[]).to_string_lossy().into_owned();
        podman.call(&["import", &archive, "box"]).exits(0);
        let look = "cat /etc/resolv.conf; wget -q -O - http://web.example.test/; echo up; \
            httpd -p 80 -h /etc; read x; exit 0";
        let run = |options: &[&str], script: &str| {
            let words = ["run", "-i", "--rm", "--network", "none"];
            let mut command =
                podman.command(&[&words[..], options, &["box", "sh", "-c", script]].concat());
            command.stdin(Stdio::piped());
            Running::spawn(command)
        };
        let options = [
            "--annotation=hawser.name=web",
            "--annotation=hawser.dns=198.51.100.53",
            "--annotation=hawser.publish=8080:80",
        ];
        let mut running = run(&options, look);
        let seen = running.until("up");
        for wanted in ["nameserver 198.51.100.53", "hello from the internet"] {
            assert!(seen.contains(wanted), "{wanted}: {seen}");
        }
        running.stdin.as_ref().expect("a pipe");
        assert_eq!(lab.listed("web")["owner"], "hook");
        // What crun leaves out is where the manual says.
        let why = lab.dir.join("why");
        let told = format!("--annotation=run.oci.hooks.stderr={}", why.display());
        let refused = run(&["--annotation=hawser.publish=8080:80", &told], "exit 0").end();
        assert_ne!(refused.code, 0, "{refused}");
        let why = fs::read_to_string(why).expect("what the hook has said");
        assert!(why.contains("8080:80/tcp: it is in use by web"), "{why}");
        running.end().exits(0);
        assert!(lab.list().is_empty());
        assert!(!sh("nft list ruleset").contains("8080"));
        // Without an annotation it is none of ours.
        let plain = run(&[], "ip -o link").end().ok();
        assert!(!plain.contains("eth0"), "{plain}");
    });
}
