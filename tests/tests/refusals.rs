//! What bad input gets: one line, exit 125, nothing created. (Addresses, names, files and resolv.conf: see those files.)

use std::fs;
use std::process::{Command, Stdio};

use lab::{
    DEADLINE, Lab, Outcome, Running, Snapshot, case, collect, fill, sh, strace, sys, within,
};

/// Runs it in a state that must not change.
#[track_caller]
fn refused(lab: &Lab, options: &[&str], words: &[&str]) {
    let before = Snapshot::take();
    let outcome = lab.run(options, &["true"]);
    refused_with(outcome, words, &before);
}

#[track_caller]
fn refused_with(outcome: Outcome, words: &[&str], before: &Snapshot) {
    outcome.refused(words);
    before.assert_back();
}

#[test]
fn not_root() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("needs root to become somebody else");
        }
        let before = Snapshot::take();
        let program = lab.dir.join("host-helper");
        fs::copy(lab::binary(), &program).expect("copy host-helper to where everybody can read it");
        for arguments in [&["run", "--", "true"][..], &["up"], &["down"]] {
            let mut command = std::process::Command::new(&program);
            command
                .args(arguments)
                .current_dir("/")
                .stdin(std::process::Stdio::null());
            sys::as_user(&mut command, 1000);
            collect(command, DEADLINE).refused(&["root", "sudo"]);
        }
        fs::remove_file(program).expect("unlink");
        before.assert_back();
    });
}

#[test]
fn a_run_that_cannot_be_written() {
    case(|lab| {
        let mut command = lab.command_of("unshare");
        let script = "mount -t tmpfs -o ro none /run && exec \"$1\" up";
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(lab::binary());
        let cure = "mount -t tmpfs none /run";
        collect(command, DEADLINE).refused(&["create /run/hawser", "EROFS", cure]);
        if !lab.real_root {
            return;
        }
        let mut command = lab.command_of("unshare");
        command.args(["-rnm", "sh", "-c", "exec \"$1\" up", "sh"]);
        let program = lab.dir.join("host-helper");
        fs::copy(lab::binary(), &program).expect("copy host-helper to where everybody can read it");
        command.arg(&program).current_dir("/");
        sys::as_user(&mut command, 1000);
        collect(command, DEADLINE).refused(&["create /run/hawser", "EACCES", cure]);
        fs::remove_file(program).expect("unlink");
    });
}

#[test]
fn a_run_without_room() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        lab.hawser(&["down"]).exits(0);
        sh("mkdir -p -m 700 /run/hawser
            mount -t tmpfs -o size=16k,mode=700 none /run/hawser
            head -c 64k /dev/zero >/run/hawser/full 2>/dev/null || true");
        let before = Snapshot::take();
        let cure = "make room in /run";
        for network in ["bridge", "ptp"] {
            for options in [&[][..], &["-d"], &["-p", "8080:80"]] {
                let options = [&["--network", network], options].concat();
                let outcome = lab.run(&options, &["true"]);
                refused_with(outcome, &["/run/hawser/", "ENOSPC", cure], &before);
            }
        }
        fs::remove_file("/run/hawser/full").expect("unlink");
        lab.run(&[], &["true"]).ok();
        lab.hawser(&["down"]).exits(0);
        sh("umount /run/hawser");
    });
}

/// tmpfs has a limit of files, too.
#[test]
fn a_run_without_room_for_another_file_or_for_any() {
    case(|lab| {
        sh("mkdir -p -m 700 /run/hawser
            mount -t tmpfs -o nr_inodes=2,mode=700 none /run/hawser
            touch /run/hawser/full");
        let named = ["--name", "web"];
        let words = ["web", "/run/hawser", "ENOSPC", "make room in /run"];
        lab.run(&named, &["true"]).refused(&words);
        fs::remove_file("/run/hawser/full").expect("unlink");
        sh("mount -o remount,ro /run/hawser");
        let words = ["web", "/run/hawser", "EROFS", "mount -o remount,rw"];
        lab.run(&named, &["true"]).refused(&words);
        sh("umount /run/hawser");
        lab.run(&named, &["true"]).ok();
    });
}

/// Nobody can make what it leads to, and nobody waits for that.
#[test]
fn a_link_in_the_place_of_our_directory() {
    case(|lab| {
        let place = lab.dir.join("elsewhere");
        std::os::unix::fs::symlink(&place, "/run/hawser").expect("a link");
        for command in [&["up"][..], &["run", "--", "true"], &["run", "-d", "true"]] {
            lab.hawser(command)
                .refused(&["use /run/hawser", "leads nowhere", "remove it"]);
        }
        assert!(!place.exists(), "nothing is made there");
        // One that leads to a directory like ours is as good.
        sh(&format!("mkdir -m 700 {}", place.display()));
        lab.run(&[], &["true"]).ok();
        lab.hawser(&["down"]).exits(0);
        fs::remove_file("/run/hawser").expect("unlink");
    });
}

#[test]
fn a_host_without_run() {
    case(|lab| {
        let jail = lab.dir.join("jail");
        fs::create_dir(&jail).expect("a directory");
        fs::copy(lab::binary(), jail.join("host-helper")).expect("copy host-helper");
        let start = || {
            let mut command = Command::new("chroot");
            command.arg(&jail).args(["/host-helper", "up"]);
            collect(command, DEADLINE).refused(&["create /run/hawser", "ENOENT", "mkdir /run"]);
        };
        start();
        std::os::unix::fs::symlink("var/run", jail.join("run")).expect("a link");
        start();
    });
}

#[test]
fn working_directories_that_init_does_not_take() {
    case(|lab| {
        let before = Snapshot::take();
        let long = format!("/{}", "a".repeat(4095));
        for (path, words) in [
            ("/tmp\r", &["--workdir", "control character"][..]),
            ("/a\u{1b}[m", &["--workdir", "control character"]),
            ("/a\nb", &["--workdir", "control character"]),
            (&long, &["--workdir", "4095"]),
        ] {
            refused_with(lab.run(&["-w", path], &["true"]), words, &before);
            let exec = lab.hawser(&["exec", "-w", path, "web", "true"]);
            refused_with(exec, words, &before);
        }
        let path = "/tmp/a\tb";
        fs::create_dir(lab.rootfs.join(&path[1..])).expect("a directory");
        assert_eq!(lab.run(&["-w", path], &["pwd"]).ok(), path);
        // Some that are there can be that long.
        lab.run(&["-w", &long[..4095]], &["true"])
            .refused(&["ENAMETOOLONG"]);
    });
}

/// Its message holds 16 KiB; what was asked for is refused in words of that, before there is a network.
#[test]
fn more_lines_than_init_takes() {
    case(|lab| {
        let name = "n".repeat(60);
        let hosts: Vec<String> = (0..220)
            .map(|_| format!("--add-host={name}:192.0.2.1"))
            .collect();
        let searched: Vec<String> = (0..300).map(|_| format!("--dns-search={name}")).collect();
        let guest = Running::unshared(&["-n", "-m"], "exec cat");
        let pid = guest.pid().to_string();
        for options in [hosts, searched] {
            let before = Snapshot::take();
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let words = ["16 KiB", "--add-host", "--dns-search", "give fewer"];
            refused_with(lab.run(&options, &["true"]), &words, &before);
            let attached = lab.hawser(&[&["attach", &pid][..], &options].concat());
            refused_with(attached, &words, &before);
            // Just under it.
            lab.run(&options[..180], &["true"]).ok();
            lab.hawser(&["down"]).exits(0);
        }
        guest.end().exits(0);
    });
}

#[test]
fn no_such_root_filesystem() {
    case(|lab| {
        let before = Snapshot::take();
        refused_with(
            lab.hawser(&["run", "--rootfs", "/no/such/place", "--", "true"]),
            &["/no/such/place"],
            &before,
        );
        refused_with(
            lab.hawser(&["run", "--rootfs", "/bin/busybox", "--", "true"]),
            &["/bin/busybox", "directory"],
            &before,
        );
        refused_with(
            lab.hawser(&["run", "--rootfs", "", "--", "true"]),
            &["rootfs"],
            &before,
        );
    });
}

#[test]
fn a_root_filesystem_without_the_mount_points() {
    case(|lab| {
        for name in ["proc", "sys", "dev"] {
            fs::remove_dir(lab.rootfs.join(name)).expect("remove");
            refused(lab, &[], &[&format!("/{name}"), "mkdir"]);
            assert!(!lab.rootfs.join(name).exists(), "/{name} is not made");
            fs::create_dir(lab.rootfs.join(name)).expect("put back");
        }
        fs::remove_dir(lab.rootfs.join("sys")).expect("remove");
        std::os::unix::fs::symlink("/run/netns", lab.rootfs.join("sys"))
            .expect("a link to somewhere on the host");
        // What is there is not made: mkdir would say so.
        refused(lab, &[], &["/sys", "replace", "rootfs/sys"]);
        fs::remove_file(lab.rootfs.join("sys")).expect("unlink");
        fs::write(lab.rootfs.join("sys"), "").expect("a file");
        fs::remove_dir(lab.rootfs.join("proc")).expect("remove");
        let both = ["mkdir", "rootfs/proc)", "replace", "rootfs/sys,"];
        refused(lab, &[], &both);
        fs::remove_file(lab.rootfs.join("sys")).expect("unlink");
        // A command that can be run as it is, whatever the path.
        let root = lab.dir.join("a root's");
        fs::rename(&lab.rootfs, &root).expect("rename");
        let outcome = || {
            let path = root.to_string_lossy();
            lab.hawser(&["run", "--rootfs", &path, "--", "true"])
        };
        for end in [")", "), or use --resolv=off"] {
            let said = outcome().err();
            let command = said.trim_end().rsplit_once("make it (").expect("a cure").1;
            sh(command.strip_suffix(end).expect("a command"));
            fs::remove_dir_all(root.join("etc")).ok();
        }
        std::os::unix::fs::symlink("etc", root.join("etc")).expect("a loop");
        outcome().refused(&["/etc", "replace", "--resolv=off"]);
    });
}

#[test]
fn mtu_out_of_range() {
    case(|lab| {
        for mtu in ["0", "67", "65536", "-1", "1500x"] {
            let before = Snapshot::take();
            lab.run(&[&format!("--mtu={mtu}")], &["true"])
                .refused(&[mtu]);
            before.assert_back();
        }
        for mtu in ["68", "65535"] {
            lab.run(&["--mtu", mtu], &["true"]).ok();
        }
    });
}

#[test]
fn bad_subnets_and_macs() {
    case(|lab| {
        for subnet in [
            "172.20.0.0",
            "172.20.0.0/33",
            "172.20.0.1/16",
            "0.0.0.0/0",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "home",
        ] {
            let before = Snapshot::take();
            lab.run(&["--bridge", "b1", "--subnet", subnet], &["true"])
                .refused(&[subnet]);
            before.assert_back();
        }
        for mac in [
            "02:00:00:00:00",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "02-zz",
            "+2:00:00:00:00:+5",
        ] {
            let before = Snapshot::take();
            lab.run(&["--mac", mac], &["true"]).refused(&[mac]);
            before.assert_back();
        }
    });
}

#[test]
fn a_bridge_name_that_is_another_kind_of_link() {
    case(|lab| {
        refused(lab, &["--bridge", "uplink"], &["uplink", "veth"]);
        refused(lab, &["--bridge", "lo"], &["lo"]);
        for name in ["a/b", "", "name-of-more-than-15", ".", "two words"] {
            let before = Snapshot::take();
            lab.run(&["--bridge", name], &["true"]).refused(&[]);
            before.assert_back();
        }
    });
}

/// The firewall would take its containers for those of the network that has no bridge.
#[test]
fn a_bridge_with_the_name_of_the_network_that_has_none() {
    case(|lab| {
        refused(lab, &["--bridge", "ptp"], &["ptp", "without a bridge"]);
        let _other = lab.start_idle(&["--name", "box", "--network", "ptp"]);
        let before = Snapshot::take();
        for command in [&["up"][..], &["down"], &["down", "--force"]] {
            lab.hawser(&[command, &["--bridge", "ptp"]].concat())
                .refused(&["ptp", "without a bridge"]);
            before.assert_back();
        }
    });
}

#[test]
fn a_bridge_of_ours_with_another_subnet() {
    case(|lab| {
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        let both = ["blue", "172.28.0.", "172.29.0.0/24"];
        refused(
            lab,
            &["--bridge", "blue", "--subnet", "172.29.0.0/24"],
            &both,
        );
        let before = Snapshot::take();
        refused_with(
            lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.29.0.0/24"]),
            &both,
            &before,
        );
        lab.run(
            &["--bridge", "blue", "--subnet", "172.28.0.0/24"],
            &["true"],
        )
        .ok();
    });
}

/// What is set of it, without what follows its ports: its state, its MAC and its timers.
const BR7: &str = "ip -o addr show dev br7; ip -o link show dev br7 | grep -o 'alias.*'; \
    ip -d link show dev br7 | grep -o -e ' forward_delay [0-9]*' -e ' stp_state [0-9]*' -e ' vlan_filtering [0-9]*' -e ' mcast_snooping [0-9]*'";

#[test]
fn a_strangers_bridge_is_used_as_it_is_and_never_rewritten() {
    case(|lab| {
        sh("ip link add br7 type bridge; ip addr add 172.27.0.1/24 dev br7; ip link set br7 up");
        let before = sh(BR7);
        let outcome = lab.run(
            &["--bridge", "br7"],
            &["sh", "-c", "ip -o addr show dev eth0"],
        );
        if outcome.code == 0 {
            assert!(
                outcome.out().contains("172.27.0."),
                "its subnet is taken from it: {outcome}"
            );
        } else {
            outcome.refused(&["br7"]);
        }
        let after = sh(BR7);
        assert_eq!(before, after);
        assert!(
            !sh("ip -o link show dev br7").contains("hawser"),
            "no mark of ours on it"
        );
        assert!(
            !sh("nft list ruleset").contains("elements"),
            "no network of ours, and its container is gone"
        );
    });
}

#[test]
fn a_strangers_bridge_may_have_addresses_without_a_subnet() {
    case(|lab| {
        sh("ip link add br7 type bridge; ip addr add 198.51.100.7/32 dev br7; ip link set br7 up");
        let bridge = ["--bridge", "br7"];
        let before = Snapshot::take();
        lab.run(&bridge, &["true"])
            .refused(&["br7", "198.51.100.7/32 has no room"]);
        before.assert_back();
        sh("ip addr add 172.27.0.1/24 dev br7");
        let seen = lab
            .run_sh(&bridge, "ip -o addr show dev eth0; ip route")
            .ok();
        assert!(
            seen.contains("172.27.0.") && seen.contains("default via 172.27.0.1"),
            "{seen}"
        );
    });
}

#[test]
fn a_strangers_bridge_keeps_its_address_and_is_the_gateway() {
    case(|lab| {
        // As on a LAN: nobody has set its address, and it has its card's.
        sh("ip link add br7 type bridge; ip addr add 172.27.0.1/24 dev br7; ip link set br7 up
            ip link add card type veth peer name lan; ip link set card address 52:54:00:12:34:56 master br7 up");
        let address = || sh("ip -o link show dev br7 | grep -o 'ether [0-9a-f:]*'");
        let before = address();
        assert!(before.contains("52:54:00:12:34:56"), "{before}");
        let script = "ping -c 1 -W 2 172.27.0.1";
        let seen = lab
            .run_sh(&["--bridge", "br7", "--ip", "172.27.0.2"], script)
            .ok();
        assert!(seen.contains("1 packets received"), "{seen}");
        assert_eq!(address(), before);
    });
}

/// The last port of a bridge takes its address along.
#[test]
fn a_strangers_bridge_may_have_no_hardware_address() {
    case(|lab| {
        sh("ip link add br7 type bridge; ip addr add 172.27.0.1/24 dev br7; ip link set br7 up
            ip link add card type veth peer name lan; ip link set card master br7; ip link del card");
        let address = sh("ip -o link show dev br7");
        assert!(address.contains("ether 00:00:00:00:00:00"), "{address}");
        let said = lab.hawser(&["up", "--bridge", "br7"]).ok();
        assert_eq!(said, "br7 172.27.0.0/24 gateway 172.27.0.1");
        lab.run(&["--bridge", "br7"], &["ping", "-c", "1", "172.27.0.1"])
            .ok();
    });
}

#[test]
fn a_full_bridge() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        fill("hawser0");
        lab.run(&[], &["true"])
            .refused(&["hawser0", "1,023", "--bridge"]);
        assert!(
            !sh("ip -o link").contains(" hwac13"),
            "nothing is left of the try"
        );
    });
}

#[test]
fn a_kernel_without_nf_tables() {
    case(|lab| {
        let trace = lab.dir.join("trace");
        let path = trace.to_string_lossy();
        let plain = strace::traced(&lab.command(&["up"]), &["-e", "trace=socket"], &path);
        collect(plain, DEADLINE).exits(0);
        lab.hawser(&["down"]).exits(0);
        let calls = fs::read_to_string(&trace).expect("the trace");
        let calls: Vec<&str> = calls
            .lines()
            .filter(|line| line.contains("socket("))
            .collect();
        // The last one: before it somebody looks for what dead containers have left, and may not be able to.
        let at = calls
            .iter()
            .rposition(|line| line.contains("NETLINK_NETFILTER"))
            .expect("a socket for nf_tables")
            + 1;
        let before = Snapshot::take();
        // From that one on: netlink-sys asks again without close-on-exec.
        let inject = format!("inject=socket:error=EPROTONOSUPPORT:when={at}+");
        let command = strace::traced(
            &lab.command(&["up"]),
            &["-e", "trace=socket", "-e", &inject],
            &path,
        );
        collect(command, DEADLINE).refused(&["CONFIG_NF_TABLES"]);
        before.assert_back();
    });
}

/// Its root is replaced, and not what is above it: whoever may chroot(2) inside would climb out.
#[test]
fn who_starts_it_in_a_chroot() {
    case(|lab| {
        let jail = lab.dir.join("jail");
        fs::create_dir(&jail).expect("a directory");
        let jail = jail.to_str().expect("a path");
        let run = lab.run_command(&["--network", "none"], &["true"]);
        let start = || {
            let mut command = within(&["chroot", jail], &run);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            collect(command, DEADLINE)
        };
        sh(&format!(
            "mount --rbind / {jail} && mount --make-rprivate /"
        ));
        start().refused(&["chroot", "outside"]);
        if lab.real_root {
            // The kernel makes no user namespace for who is in one.
            let run = lab.run_command(&["--network", "none", "--userns"], &["true"]);
            let mut command = within(&["chroot", jail], &run);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            collect(command, DEADLINE).refused(&["user namespace", "EPERM", "chroot", "outside"]);
        }
        sh("mount --make-rshared /");
        start().refused(&["chroot", "outside"]);
        // Of a directory that is no mount.
        sh(&format!(
            "mount --make-rprivate / && umount -l {jail} && mkdir {jail}/proc && mount --rbind /proc {jail}/proc
            mkdir {jail}/run && cp {} {jail}/host-helper && cp -a {} {jail}/rootfs",
            lab::binary().display(),
            lab.rootfs.display(),
        ));
        let words = [
            "run",
            "--network",
            "none",
            "--rootfs",
            "/rootfs",
            "--",
            "true",
        ];
        let mut command = Command::new("chroot");
        command.arg(jail).arg("/host-helper").args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        collect(command, DEADLINE).refused(&["chroot", "outside"]);
    });
}

#[test]
fn a_capability_that_it_has_not_got() {
    case(|lab| {
        let start = |options: &[&str]| {
            let run = lab.run_command(options, &["true"]);
            let mut command = within(&["setpriv", "--bounding-set", "-sys_time"], &run);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            collect(command, DEADLINE)
        };
        start(&["--cap-add", "sys_time"]).refused(&["sys_time", "--cap-add"]);
        start(&["--cap-add", "net_admin"]).exits(0);
        start(&["--cap-add", "all"]).exits(0);
    });
}

/// Who cannot chroot(2) climbs out of nothing; in a user namespace of its own the container could.
#[test]
fn who_may_not_chroot() {
    case(|lab| {
        let start = |options: &[&str]| {
            let run = lab.run_command(&[&["--network", "none"], options].concat(), &["true"]);
            let without = [
                "setpriv",
                "--bounding-set=-sys_chroot",
                "--inh-caps=-sys_chroot",
            ];
            let mut command = within(&without, &run);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            collect(command, DEADLINE)
        };
        start(&[]).exits(0);
        start(&["--userns"]).refused(&["EPERM", "sys_chroot", "start it where it has"]);
    });
}

/// A filter that allows some namespaces (a systemd unit's RestrictNamespaces=) says that there is no clone3(2).
#[test]
fn nothing_takes_a_call_that_filters_cannot_look_into() {
    case(|lab| {
        let trace = lab.dir.join("trace");
        let path = trace.to_string_lossy();
        let inject = ["-f", "--trace=clone3", "--inject=clone3:error=ENOSYS"];
        let start = |options: &[&str]| {
            let run = lab.run_command(options, &["true"]);
            collect(strace::traced(&run, &inject, &path), DEADLINE)
        };
        start(&[]).exits(0);
        start(&["-d", "--name", "web"]).exits(0);
        assert_eq!(lab.hawser(&["wait", "web"]).ok(), "0");
    });
}

#[test]
fn unknown_words_everywhere() {
    case(|lab| {
        let before = lab.with_network();
        for options in [
            &["--network", "container:"][..],
            &["--network", "ns:"],
            &["--no-new-privileges=maybe"],
            &["--resolv=maybe"],
            &["--grace", "soon"],
            &["--preserve-fds", "-1"],
            &["--sysctl", "kernel.msgmax=1"],
            &["--sysctl", "net.ipv4.ip_default_ttl"],
            &["--sysctl", "net.ipv4.no_such_thing=1"],
            &["--sysctl", "net/../kernel/msgmax=1"],
        ] {
            lab.run(options, &["true"]).refused(&[]);
            before.assert_back();
        }
    });
}

#[test]
fn options_that_do_not_go_together() {
    case(|lab| {
        for options in [
            &["--network", "host", "--ip", "172.19.0.9"][..],
            &["--network", "none", "--mac", "02:00:00:00:00:01"],
            &["--network", "host", "--sysctl", "net.ipv4.ip_default_ttl=3"],
        ] {
            let before = Snapshot::take();
            lab.run(options, &["true"]).refused(&[]);
            before.assert_back();
        }
    });
}

#[test]
fn egress_to_where_nothing_is_passed_on() {
    case(|lab| {
        for entry in ["fe80::1/128", "[fe80::/64]:53/udp", "dns,fe80::/10"] {
            lab.run(&["--egress", entry], &["true"])
                .refused(&["link-local", "fe80::"]);
        }
    });
}

#[test]
fn a_hardware_address_of_the_host() {
    case(|lab| {
        for (options, holder) in [
            (&["--mac", "02:00:ac:13:00:01"][..], "bridge hawser0"),
            (&["--mac", "02:01:ac:13:00:07"], "hwac130007"),
            (
                &["--network", "ptp", "--mac", "02:01:0a:00:00:02"],
                "hw0a000002",
            ),
        ] {
            lab.run(options, &["true"])
                .refused(&[options[options.len() - 1], holder, "--mac"]);
        }
        sh(
            "ip link add lan address 02:00:5e:10:00:01 type bridge; ip addr add 172.30.0.1/24 dev lan; ip link set lan up",
        );
        lab.run(
            &["--bridge", "lan", "--mac", "02:00:5e:10:00:01"],
            &["true"],
        )
        .refused(&["bridge lan"]);
        let mac = ["--mac", "02:00:5e:10:00:01"];
        lab.run(&mac, &["true"]).ok();
    });
}

/// Each looks before the other can be seen.
#[test]
fn a_hardware_address_of_who_starts_at_the_same_moment() {
    case(|lab| {
        lab.with_network();
        let mac = ["--mac", "02:00:5e:10:00:01"];
        for round in 0..20 {
            let both = [(), ()].map(|()| lab.start(&mac, &["sh", "-c", "echo up; read x; exit 0"]));
            let both = both.map(Running::up_or_end);
            let ([Ok(one), Err(other)] | [Err(other), Ok(one)]) = both else {
                panic!("round {round}: both or none have it");
            };
            other.refused(&[mac[1], "container", "--mac"]);
            one.end().exits(0);
        }
    });
}

/// A bridge sends frames to where it has last heard their address: the second one to have it would get the first one's.
#[test]
fn a_hardware_address_of_a_neighbour() {
    case(|lab| {
        let victim = lab.start_idle(&["--name", "victim", "--ip", "172.19.0.9"]);
        let derived = ["--mac", "02:00:ac:13:00:09"];
        let given = ["--mac", "02:00:5e:10:00:01"];
        let other = lab.start_idle(&[&["--name", "other"], &given[..]].concat());
        let before = lab::Snapshot::take();
        lab.run(&derived, &["true"])
            .refused(&[derived[1], "172.19.0.9", "--mac"]);
        lab.run(&given, &["true"])
            .refused(&[given[1], "container other", "--mac"]);
        // One that nobody has yet, but whoever gets that address would.
        lab.run(&["--mac", "02:00:ac:13:00:77"], &["true"])
            .refused(&["172.19.0.119"]);
        before.assert_back();
        // Where no frame comes from one to the other both may have it.
        let ptp = ["--network", "ptp"];
        lab.run(&[&ptp, &given[..]].concat(), &["true"]).ok();
        victim.end().exits(0);
        other.end().exits(0);
        lab.run(&given, &["true"]).ok();
        // Its own.
        lab.run(&[&["--ip", "172.19.0.9"], &derived[..]].concat(), &["true"])
            .ok();
    });
}
