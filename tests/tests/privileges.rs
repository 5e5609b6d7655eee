//! What a container can do and what it cannot.

use lab::{Lab, Outcome, case, packets};

/// chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod audit_write setfcap
const DOCKERS: &str = "00000000a80425fb";
const NOTHING: &str = "0000000000000000";

/// `Key: value` of /proc/self/status in a container.
fn status(lab: &Lab, options: &[&str], key: &str) -> String {
    let text = lab.run(options, &["cat", "/proc/self/status"]).ok();
    let line = text
        .lines()
        .find(|line| line.starts_with(key))
        .unwrap_or_else(|| panic!("{key} in {text}"));
    line.split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn capabilities_are_dockers_default_set() {
    case(|lab| {
        for key in ["CapBnd", "CapPrm", "CapEff"] {
            assert_eq!(status(lab, &[], key), DOCKERS, "{key}");
        }
        for key in ["CapInh", "CapAmb"] {
            assert_eq!(status(lab, &[], key), NOTHING, "{key}");
        }
    });
}

#[test]
fn another_user_has_none() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        for key in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            assert_eq!(status(lab, &["-u", "1000"], key), NOTHING, "{key}");
        }
        assert_eq!(status(lab, &["-u", "1000"], "CapBnd"), DOCKERS);
    });
}

#[test]
fn capabilities_are_added_and_dropped() {
    case(|lab| {
        // 21 is sys_admin, 13 net_raw.
        let added = u64::from_str_radix(&status(lab, &["--cap-add", "sys_admin"], "CapEff"), 16)
            .expect("hex");
        assert_eq!(added, 0xa804_25fb | 1 << 21);
        for name in ["net_raw", "NET_RAW", "CAP_NET_RAW", "cap_net_raw"] {
            let left = u64::from_str_radix(&status(lab, &["--cap-drop", name], "CapBnd"), 16)
                .expect("hex");
            assert_eq!(left, 0xa804_25fb & !(1 << 13), "{name}");
        }
        for key in ["CapBnd", "CapPrm", "CapEff"] {
            assert_eq!(status(lab, &["--cap-drop", "all"], key), NOTHING, "{key}");
            assert_eq!(
                status(lab, &["--cap-drop", "all", "--cap-add", "kill"], key),
                "0000000000000020",
                "{key}"
            );
        }
        lab.run(&["--cap-add", "fly"], &["true"]).refused(&["fly"]);
        lab.run(&["--cap-drop", "fly"], &["true"]).refused(&["fly"]);
        // Which of them is meant is anybody's guess.
        for name in ["all", "net_raw"] {
            let both = ["--cap-add", name, "--cap-drop", &name.to_uppercase()];
            lab.run(&both, &["true"])
                .refused(&["--cap-add and --cap-drop both", name]);
        }
    });
}

#[test]
fn no_new_privileges_unless_told() {
    case(|lab| {
        assert_eq!(status(lab, &[], "NoNewPrivs"), "1");
        assert_eq!(status(lab, &["--no-new-privileges=off"], "NoNewPrivs"), "0");
    });
}

#[test]
fn mounting_is_refused() {
    case(|lab| {
        for script in [
            "mount -t tmpfs x /tmp",
            "mount -o remount,rw /sys",
            "umount /proc",
            "mount -o bind /etc /srv",
            "umount /etc/hosts",
        ] {
            not_permitted(&lab.run_sh(&[], script));
        }
        if lab.real_root {
            lab.run_sh(&["--cap-add", "sys_admin"], "mount -t tmpfs x /tmp")
                .ok();
        }
    });
}

#[test]
fn raw_sockets_are_allowed_until_dropped() {
    packets(|lab| {
        let script = "arping -c 1 -w 2 -I eth0 172.19.0.1";
        let seen = lab.run_sh(&[], script).ok();
        assert!(
            seen.contains("02:00:ac:13:00:01") || seen.contains("Received 1"),
            "{seen}"
        );
        not_permitted(&lab.run_sh(&["--cap-drop", "net_raw"], script));
    });
}

#[test]
fn ping_works_for_every_user() {
    packets(|lab| {
        // A dynamic program: it needs the host's libraries inside.
        let program = format!("{}:/ping:ro", env!("CARGO_BIN_EXE_ping"));
        let libraries = ["/lib", "/lib64", "/usr"]
            .iter()
            .filter(|path| std::path::Path::new(path).exists());
        let binds: Vec<String> = libraries
            .map(|path| format!("{path}:{path}:ro"))
            .chain([program])
            .collect();
        let binds: Vec<&str> = binds
            .iter()
            .flat_map(|bind| ["-v", bind.as_str()])
            .collect();
        let ping = |options: &[&str]| {
            lab.run(&[options, &binds].concat(), &["/ping", "172.19.0.1"])
                .ok();
        };
        ping(&["--cap-drop", "all"]);
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        for user in ["1000", "1000:1000", "worker", "65534", "4711:4712"] {
            ping(&["-u", user]);
        }
    });
}

#[test]
fn the_network_is_not_the_containers_to_change() {
    case(|lab| {
        // net_admin is not in the set.
        not_permitted(&lab.run_sh(&[], "ip link set eth0 down"));
        not_permitted(&lab.run_sh(&[], "ip addr add 172.19.0.77/16 dev eth0"));
        not_permitted(&lab.run_sh(&[], "ip route del default"));
    });
}

#[test]
fn sysctls_are_read_only_but_for_its_own_network() {
    case(|lab| {
        for path in [
            "kernel/hostname",
            "kernel/core_pattern",
            "vm/overcommit_memory",
            "fs/file-max",
            "kernel/modprobe",
        ] {
            not_permitted(&lab.run_sh(
                &[],
                &format!("cat /proc/sys/{path} > /tmp/old; cat /tmp/old > /proc/sys/{path}"),
            ));
        }
        let ttl =
            "echo 33 > /proc/sys/net/ipv4/ip_default_ttl; cat /proc/sys/net/ipv4/ip_default_ttl";
        // In a user namespace the kernel wants net_admin for it, whoever the files belong to.
        let options: &[&str] = if lab.real_root {
            &[]
        } else {
            &["--cap-add", "net_admin"]
        };
        assert_eq!(lab.run_sh(options, ttl).ok(), "33");
        assert_eq!(
            lab::sh("cat /proc/sys/net/ipv4/ip_default_ttl"),
            "64\n",
            "the host's is its own"
        );
    });
}

#[test]
fn dangerous_paths_are_masked() {
    case(|lab| {
        let masked = "interrupts kcore keys timer_list sched_debug latency_stats timer_stats";
        for path in masked.split_whitespace() {
            let bytes = lab
                .run_sh(
                    &[],
                    &format!("head -c 100 /proc/{path} 2>/dev/null | wc -c"),
                )
                .ok();
            assert_eq!(bytes.trim(), "0", "/proc/{path} shows nothing");
        }
        for path in ["acpi", "dynamic_debug", "scsi"] {
            assert_eq!(
                lab.run_sh(&[], &format!("ls /proc/{path} 2>/dev/null"))
                    .out(),
                "",
                "/proc/{path} shows nothing"
            );
        }
        assert_eq!(
            lab.run_sh(&[], "ls /sys/firmware 2>/dev/null").out(),
            "",
            "/sys/firmware shows nothing"
        );
        for path in [
            "sysrq-trigger",
            "irq/default_smp_affinity",
            "bus/pci/devices",
            "fs/nothing",
        ] {
            let script = format!(
                "test -e /proc/{} || exit 1; echo h > /proc/{path}",
                path.split('/').next().unwrap_or(path)
            );
            assert_ne!(
                lab.run_sh(&[], &script).code,
                0,
                "/proc/{path} cannot be written"
            );
        }
    });
}

#[test]
fn sys_is_its_own_and_read_only() {
    case(|lab| {
        let outcome = lab.run_sh(
            &[],
            "ls /sys/class/net; echo 1400 > /sys/class/net/eth0/mtu",
        );
        assert_ne!(outcome.code, 0, "{outcome}");
        assert_eq!(outcome.out(), "eth0\nlo\n");
        let mounts = lab.run(&[], &["cat", "/proc/self/mountinfo"]).ok();
        let sys = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/sys"))
            .expect("/sys is mounted");
        assert!(
            sys.split(' ')
                .nth(5)
                .is_some_and(|flags| flags.split(',').any(|flag| flag == "ro")),
            "{sys}"
        );
    });
}

#[test]
fn the_hosts_processes_are_not_seen_nor_traced_nor_signalled() {
    case(|lab| {
        let processes = lab.run_sh(&[], "ls /proc | grep -c '^[0-9]'; echo $$").ok();
        assert!(
            processes.starts_with("3\n1") || processes.starts_with("2\n1"),
            "its own alone: {processes}"
        );
        let me = std::process::id();
        let seen = lab.run_sh(
            &[],
            &format!("kill -0 {me} 2>&1; kill -0 99999 2>&1; ls -d /proc/{me}99 2>&1"),
        );
        assert!(seen.out().contains("No such process"), "{seen}");
        // dac_read_search, net_admin, sys_module, sys_rawio, sys_ptrace, sys_admin, sys_boot, sys_nice, sys_time, syslog,
        // perfmon, bpf, checkpoint_restore
        let set = u64::from_str_radix(&status(lab, &[], "CapBnd"), 16).expect("hex");
        for bit in [2, 12, 16, 17, 19, 21, 22, 23, 25, 34, 38, 39, 40] {
            assert_eq!(set & (1 << bit), 0, "capability {bit} is in {set:x}");
        }
    });
}

#[test]
fn namespaces_are_its_own() {
    case(|lab| {
        let kinds = "net pid mnt ipc uts cgroup";
        let inside = lab
            .run_sh(
                &[],
                &format!("for n in {kinds}; do readlink /proc/self/ns/$n; done"),
            )
            .ok();
        let outside = lab::sh(&format!(
            "for n in {kinds}; do readlink /proc/self/ns/$n; done"
        ));
        for (mine, yours) in inside.lines().zip(outside.lines()) {
            assert_ne!(mine, yours);
        }
        assert_eq!(inside.lines().count(), 6, "{inside}");
    });
}

#[test]
fn device_nodes_are_the_usual_ones_and_made_ones_do_not_open() {
    case(|lab| {
        let nodes = lab.run_sh(&[], "for n in null zero full random urandom tty; do test -c /dev/$n || echo no $n; done; \
            echo x > /dev/null; head -c 3 /dev/zero | wc -c; test -d /dev/pts && test -d /dev/shm && for n in fd stdin stdout stderr ptmx; do readlink /dev/$n || echo no $n; done; \
            echo x > /dev/shm/file && cat /dev/shm/file").ok();
        assert!(
            nodes.starts_with('3')
                && nodes.contains("/proc/self/fd")
                && nodes.ends_with('x')
                && !nodes.contains("no "),
            "{nodes}"
        );
        for place in ["/tmp", "/dev", "/dev/shm", "/run", "/etc"] {
            let script =
                format!("mknod {place}/node c 1 9 2>/dev/null || exit 0; head -c 1 {place}/node");
            let outcome = lab.run_sh(&["--tmpfs", "/run"], &script);
            assert!(
                outcome.out().is_empty(),
                "a device opened through a node made in {place}: {outcome}"
            );
            assert!(
                outcome.code == 0
                    || outcome.err().contains("denied")
                    || outcome.err().contains("not permitted"),
                "{outcome}"
            );
        }
    });
}

#[test]
fn a_setuid_program_gains_nothing() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        lab::sh(&format!(
            "cp {0}/bin/busybox {0}/bin/id-as-root; chmod 4755 {0}/bin/id-as-root",
            lab.rootfs.display()
        ));
        std::fs::remove_file(lab.rootfs.join("bin/id")).expect("unlink");
        lab::sh(&format!(
            "mkdir {0}/suid; mv {0}/bin/id-as-root {0}/suid/id",
            lab.rootfs.display()
        ));
        assert_eq!(lab.run(&["-u", "1000"], &["/suid/id", "-u"]).ok(), "1000");
    });
}

#[track_caller]
fn not_permitted(outcome: &Outcome) {
    let text = outcome.err().to_lowercase();
    let words = [
        "permitted",
        "denied",
        "read-only",
        "are you root",
        "can't create",
    ];
    assert!(
        outcome.code != 0 && words.iter().any(|word| text.contains(word)),
        "should be refused: {outcome}"
    );
}
