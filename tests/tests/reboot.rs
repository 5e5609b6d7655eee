//! The machine was reset: what was in the kernel is gone. `/run/hawser` is gone too, or, where it outlives a boot or a network
//! namespace, what it says is about another one.

use std::fs;
use std::process::Stdio;

use serde_json::json;

use lab::{
    Answer, DEADLINE, Lab, Netns, Outcome, Plugin, Running, Whose, binary, case, collect, sh, sys,
    wait_for_end,
};

const SITE: Whose = Whose {
    container: "c1",
    interface: "eth0",
    netns: "/run/netns/pod",
};

fn network() -> serde_json::Value {
    json!({
        "cniVersion": "1.1.0", "name": "blue", "type": "hawser", "ipMasq": true,
        "ipam": { "subnet": "10.22.0.0/24", "rangeStart": "10.22.0.9", "rangeEnd": "10.22.0.9" },
        "runtimeConfig": { "portMappings": [{ "hostPort": 8081, "containerPort": 80 }] },
    })
}

/// A host after its boot: network namespaces have nothing of the old one's, and its switches are the kernel's.
struct Boot<'a> {
    lab: &'a Lab,
    netns: Netns,
    plugin: Plugin,
}

impl Boot<'_> {
    fn hawser(&self, arguments: &[&str]) -> Outcome {
        let binary = binary();
        let mut command = self.netns.command(&binary.to_string_lossy());
        command.args(arguments).current_dir(&self.lab.dir);
        command.stdin(Stdio::null());
        collect(command, DEADLINE)
    }

    fn run(&self, options: &[&str], script: &str) -> Outcome {
        let rootfs = self.lab.rootfs.to_string_lossy();
        let words = ["--", "sh", "-c", script];
        self.hawser(&[&["run", "--rootfs", &rootfs], options, &words].concat())
    }

    fn call(&self, operation: &str) -> Answer {
        let mut command = self.plugin.operation(operation, SITE, &network());
        sys::in_netns(&mut command, self.netns.descriptor());
        Answer(collect(command, DEADLINE))
    }

    fn forwarding(&self) -> String {
        self.netns.sh("cat /proc/sys/net/ipv4/ip_forward")
    }
}

const WEB: &[&str] = &["--name", "web", "--ip", "172.19.0.9", "-p", "8080:80"];

/// Has one of everything, and ends all processes at once. What is in the kernel stays behind in a namespace that nobody is in.
fn live_and_die(lab: &Lab) {
    Netns::new("pod");
    let plugin = lab.plugin();
    lab.hawser(&["up", "--bridge", "green", "--subnet", "172.28.0.0/24"])
        .exits(0);
    let rootfs = lab.rootfs.to_string_lossy();
    let detached = ["run", "-d", "--rootfs", &rootfs, "--name", "by-itself"];
    lab.hawser(&[&detached[..], &["--", "sleep", "1000"]].concat())
        .exits(0);
    plugin.call("ADD", SITE, &network()).ok();
    let guest = Running::unshared(&["-n", "-m"], "exec cat");
    let pid = guest.pid().to_string();
    lab.hawser(&["attach", &pid, "--name", "guest", "-p", "8082:80"])
        .exits(0);
    let web = lab.start_idle(WEB);
    let all: Vec<i32> = sh("pidof host-helper")
        .split_whitespace()
        .map(|pid| pid.parse().expect("a process id"))
        .collect();
    let inside = ["web", "by-itself"].map(|name| lab.pid_of(name));
    for pid in &all {
        sh(&format!("kill -9 {pid}"));
    }
    for pid in all.into_iter().chain(inside) {
        wait_for_end(pid);
    }
    web.end().exits(-libc::SIGKILL);
    guest.end().exits(0);
    sh("umount /run/netns/pod; rm /run/netns/pod");
}

/// The next run works, with the names, addresses and ports that there were; nothing old is shown, and `down` takes all that is new.
fn works(lab: &Lab, forwarding: &str) {
    let boot = Boot {
        lab,
        netns: Netns::new("reset"),
        plugin: lab.plugin(),
    };
    let _pod = Netns::new("pod");
    // The machine's own network namespace has the same number again; one that lives beside ours would be somebody's.
    let old = sh("stat -Lc %i /proc/self/ns/net");
    let new = boot.netns.sh("stat -Lc %i /proc/self/ns/net");
    sh(&format!(
        "test ! -e /run/hawser || find /run/hawser -name '*.hosts' | xargs -r sed -i 's/ {} / {} /'",
        old.trim(),
        new.trim()
    ));
    boot.netns
        .sh(&format!("echo {forwarding} >/proc/sys/net/ipv4/ip_forward"));
    assert_eq!(boot.hawser(&["ls", "--json"]).ok(), "[]");
    let hosts = boot.run(WEB, "grep -v ^# /etc/hosts").ok();
    for old in ["by-itself", "guest"] {
        assert!(!hosts.contains(old), "{old} is gone: {hosts}");
    }
    assert!(hosts.contains("172.19.0.9 web"), "{hosts}");
    boot.run(&["--name", "by-itself"], "ping -c 1 -W 2 172.19.0.1")
        .exits(0);
    boot.run(&["-p", "8081:80", "-p", "8082:80"], "true").ok();
    boot.call("ADD").ok();
    boot.call("DEL").ok();
    boot.hawser(&["up", "--bridge", "green", "--subnet", "172.28.0.0/24"])
        .exits(0);
    assert_eq!(boot.hawser(&["ls", "--json"]).ok(), "[]");
    for bridge in ["green", "cni0", "hawser0"] {
        boot.hawser(&["down", "--bridge", bridge]).ok();
    }
    assert_eq!(boot.netns.sh("nft list ruleset"), "");
    assert_eq!(boot.forwarding().trim(), forwarding);
    let links = boot.netns.sh("ip -o link");
    assert_eq!(links.lines().count(), 1, "lo alone: {links}");
}

#[test]
fn nothing_of_it_is_left_but_persistent_files() {
    case(|lab| {
        live_and_die(lab);
        fs::remove_dir_all("/run/hawser").expect("a tmpfs that is new");
        works(lab, "0");
        assert!(!fs::exists("/run/hawser").expect("a look"));
    });
}

#[test]
fn the_old_files_are_there_still() {
    case(|lab| {
        live_and_die(lab);
        works(lab, "0");
    });
}

/// What is put back is what this boot had.
#[test]
fn a_switch_that_the_administrator_has_set_since_stays() {
    case(|lab| {
        live_and_die(lab);
        works(lab, "1");
    });
}
