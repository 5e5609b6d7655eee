//! `run --userns`: root inside is nobody outside, and all else is as without.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lab::{Lab, case, packets, sh};

/// Where no range is given away in /etc/subuid.
const BASE: u32 = 0x7800_0000;

/// These tests map users that only the machine's first user namespace has.
fn cannot_map(lab: &Lab) -> bool {
    if !lab.real_root {
        lab::skip("a range of users needs real root");
    }
    !lab.real_root
}

/// `Uid:` of a process, as the host sees it.
fn user_of(pid: i32) -> u32 {
    fs::metadata(format!("/proc/{pid}"))
        .expect("a process")
        .uid()
}

#[test]
fn root_inside_is_nobody_outside() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        lab.run(&["-d", "--name", "web", "--userns"], &["sleep", "1000"])
            .ok();
        assert_eq!(user_of(lab.pid_of("web")), BASE);
        let map = lab.run(
            &["--userns"],
            &["cat", "/proc/self/uid_map", "/proc/self/gid_map"],
        );
        for line in map.ok().lines() {
            let numbers: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(numbers, ["0", "2013265920", "65536"]);
        }
        let inspect: serde_json::Value =
            serde_json::from_str(&lab.hawser(&["inspect", "web"]).ok()).expect("JSON");
        assert_eq!(inspect["privileges"]["users"]["uid"], BASE);
        // All its namespaces are its own, and nobody's of the host.
        let pid = lab.pid_of("web");
        for kind in ["user", "net", "pid", "mnt", "ipc", "uts", "cgroup"] {
            let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect(kind);
            assert_ne!(link(&pid.to_string()), link("self"), "{kind}");
        }
        lab.run(
            &["-u", "worker", "--userns"],
            &["sh", "-c", "id -u; id -G; touch /tmp/x 2>&1 || true"],
        )
        .ok();
    });
}

#[test]
fn files_have_the_owners_that_they_have_without() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        let script = "touch /srv/roots; touch /srv/workers; chown 1000:1000 /srv/workers; stat -c '%u:%g' /srv/roots /srv/workers /etc/passwd /tmp";
        let seen = lab.run_sh(&["--userns"], script).ok();
        assert_eq!(seen, "0:0\n1000:1000\n0:0\n0:0");
        for (name, owner) in [("roots", 0), ("workers", 1000)] {
            let path = lab.rootfs.join("srv").join(name);
            assert_eq!(fs::metadata(path).expect(name).uid(), owner, "{name}");
        }
        // What belongs to nobody inside cannot be touched there.
        let path = lab.rootfs.join("srv/strangers");
        fs::write(&path, "theirs\n").expect("write");
        std::os::unix::fs::chown(&path, Some(70_000), Some(70_000)).expect("chown");
        let outcome = lab.run_sh(
            &["--userns"],
            "stat -c %u /srv/strangers; echo x > /srv/strangers",
        );
        assert!(outcome.code != 0 && outcome.out() == "65534\n", "{outcome}");
        assert_eq!(fs::read_to_string(&path).expect("read"), "theirs\n");
    });
}

#[test]
fn volumes_and_places_for_them() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        let data = lab.dir.join("data");
        fs::create_dir(&data).expect("make a directory");
        fs::write(data.join("file"), "text\n").expect("write");
        let shown = format!("{}:/new/place", data.display());
        let file = format!("{}:/new/file:ro", data.join("file").display());
        let options = ["--userns", "-v", &shown, "-v", &file, "--tmpfs", "/empty"];
        let script = "cat /new/file; echo more > /new/place/made; echo x > /new/file; touch /empty/y && stat -c %u /empty";
        let outcome = lab.run_sh(&options, script).exits(0);
        assert_eq!(outcome.out(), "text\n0\n");
        assert!(outcome.err().contains("Read-only"), "{outcome}");
        let made = fs::metadata(data.join("made")).expect("made inside");
        assert_eq!((made.uid(), made.gid()), (0, 0));
        for place in ["new", "new/place", "new/file", "empty", "etc/resolv.conf"] {
            let place = fs::metadata(lab.rootfs.join(place)).expect(place);
            assert_eq!((place.uid(), place.gid()), (0, 0));
        }
        // A volume that the root file system is in.
        let above = format!("{}:/above", lab.dir.display());
        let seen = lab.run(&["--userns", "-v", &above], &["cat", "/above/data/made"]);
        assert_eq!(seen.ok(), "more");
    });
}

#[test]
fn the_hosts_own_files() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        let before = lab.with_network();
        let script = "stat -c %u / /etc/passwd; echo x > /hawser-test && rm /etc/passwd && chown 5 /etc/group && stat -c %u /etc/group";
        let outcome = lab.hawser(&["run", "--userns", "--", "sh", "-c", script]);
        assert_eq!(outcome.ok(), "0\n0\n5");
        assert!(!Path::new("/hawser-test").exists() && Path::new("/etc/passwd").exists());
        before.assert_back();
    });
}

#[test]
fn the_network_is_there_and_its_own() {
    packets(|lab| {
        if cannot_map(lab) {
            return;
        }
        lab.serve();
        let script = "wget -q -O - http://web.example.test/; cat /etc/resolv.conf; grep -c box /etc/hosts; hostname";
        for network in ["bridge", "ptp"] {
            let options = ["--userns", "--network", network, "--name", "box"];
            let seen = lab.run_sh(&options, script).ok();
            assert!(
                seen.starts_with("hello from the internet\nnameserver 198.51.100.53\n"),
                "{seen}"
            );
            assert!(seen.ends_with("\nbox"), "{seen}");
        }
        let change = "ip link set eth0 mtu 1400 && ip link show eth0 | grep -o 'mtu 1400'";
        let options = ["--userns", "--cap-add", "net_admin"];
        assert_eq!(lab.run_sh(&options, change).ok(), "mtu 1400");
        assert_ne!(lab.run_sh(&["--userns"], change).code, 0);
        // The host's is nobody's inside, whatever the capabilities.
        let options = ["--userns", "--cap-add", "all", "--network", "host"];
        let outcome = lab.run_sh(&options, "ip link set uplink down");
        assert!(outcome.err().contains("not permitted"), "{outcome}");
    });
}

#[test]
fn another_container_may_share_it() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        lab.run(&["-d", "--name", "web", "--userns"], &["sleep", "1000"])
            .ok();
        let join = ["--userns", "--network", "container:web"];
        lab.run(&join, &["ping", "-c", "1", "-W", "2", "172.19.0.1"])
            .ok();
        lab.run(&["--userns", "--network", "container:none"], &["true"])
            .refused(&["none"]);
        let user = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).expect("a link");
        let inside = lab.run(&join, &["readlink", "/proc/self/ns/user"]).ok();
        assert_eq!(Path::new(&inside), user(&lab.pid_of("web").to_string()));
    });
}

#[test]
fn exec_terminals_logs_and_init() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        let before = lab.with_network();
        let options = ["-d", "--name", "web", "--userns", "--init"];
        let script = "echo said > /dev/stdout; id -u; exec sleep 1000";
        lab.run_sh(&options, script).ok();
        let exec = |options: &[&str], command: &str| {
            lab.hawser(&[&["exec"], options, &["web", "sh", "-c", command]].concat())
        };
        let seen = exec(&[], "id -u; cat /proc/self/uid_map; echo x > /dev/stdout; readlink /proc/self/exe; hostname").ok();
        let words: Vec<&str> = seen.split_whitespace().collect();
        assert_eq!(
            words,
            ["0", "0", "2013265920", "65536", "x", "/bin/busybox", "web"]
        );
        let status = exec(&[], "grep -E 'CapEff|Seccomp:' /proc/self/status").ok();
        assert_eq!(status, "CapEff:\t00000000a80425fb\nSeccomp:\t2");
        assert_eq!(
            exec(&["-t"], "tty; stat -c %u /dev/pts/0")
                .ok()
                .replace('\r', ""),
            "/dev/pts/0\n0"
        );
        assert_eq!(lab.hawser(&["logs", "web"]).ok(), "said\n0");
        assert_eq!(
            lab.run_sh(
                &["--userns", "-t"],
                "tty; stat -c %u:%g $(tty) /dev/console"
            )
            .ok()
            .replace('\r', ""),
            "/dev/pts/0\n0:5\n0:5"
        );
        lab.hawser(&["stop", "web"]).ok();
        lab.hawser(&["rm", "web"]).ok();
        before.assert_back();
    });
}

#[test]
fn capabilities_reach_what_is_its_own_alone() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        let all = ["--userns", "--cap-add", "all"];
        let can = "mount -t tmpfs x /tmp && umount /tmp && hostname other && chown 7 /srv && stat -c %u /srv";
        assert_eq!(lab.run_sh(&all, can).ok(), "7");
        for cannot in [
            "mount -o remount,rw /sys",
            "umount /proc/keys",
            "umount /proc/sys",
            "echo 1 > /proc/sys/vm/drop_caches",
            "mknod /tmp/null c 1 3",
            "ulimit -Hn 2000000000",
            "nice -n -5 true",
        ] {
            assert_ne!(lab.run_sh(&all, cannot).code, 0, "{cannot}");
        }
    });
}

#[test]
fn the_range_of_subuid() {
    case(|lab| {
        if cannot_map(lab) {
            return;
        }
        // The lab's own, and nothing is left in the machine's: this is a mount namespace of the case's.
        let words = r"web:1:65536\nroot:300000:65536\n";
        sh(&format!(
            "cd {} && mkdir upper work && mount -t overlay over -o lowerdir=/etc,upperdir=upper,workdir=work /etc && \
             printf '{words}' | tee /etc/subuid >/etc/subgid",
            lab.dir.display()
        ));
        let map = lab.run(&["--userns"], &["cat", "/proc/self/uid_map"]).ok();
        assert!(map.contains(" 300000 "), "{map}");
    });
}

#[test]
fn what_cannot_be_is_refused() {
    case(|lab| {
        lab.run(&["--userns", "-u", "70000"], &["true"])
            .refused(&[if lab.real_root { "70000" } else { "--userns" }]);
        if cannot_map(lab) {
            return;
        }
        let root = lab.dir.join("over");
        sh(&format!(
            "cd {} && mkdir upper work over && mount -t overlay over -o lowerdir={},upperdir=upper,workdir=work over",
            lab.dir.display(),
            lab.rootfs.display()
        ));
        let before = lab.with_network();
        let path = root.to_string_lossy();
        lab.hawser(&["run", "--userns", "--rootfs", &path, "--", "true"])
            .refused(&["EINVAL", &path, "idmapped", "leave --userns away"]);
        before.assert_back();
        let script = format!(
            "mkdir -p /run/hawser && mount -t tmpfs run /run/hawser && exec {} run --userns --rootfs {} -- true",
            lab::binary().display(),
            lab.rootfs.display()
        );
        let mut command = std::process::Command::new("unshare");
        command.args(["-rnm", "sh", "-c", &script]);
        lab::collect(command, lab::DEADLINE)
            .refused(&["user namespace", "run as root of the host"]);
    });
}
