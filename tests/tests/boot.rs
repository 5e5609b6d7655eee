//! A real machine with init as its first process: Debian's kernel under qemu (see [`Machine`]). 6.1 is the oldest
//! kernel that must work.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{CARD, Lab, Machine, PATIENCE, alone, binary, case, init_binary, sh};

/// The word of a kernel command line that leads to the internet.
const IP: &str = "ip=10.0.2.15::10.0.2.2:255.255.255.0:box:eth0:none:198.51.100.53";

/// Panics unless these are all lines on the console that are not the kernel's own.
#[track_caller]
fn assert_console(console: &str, wanted: &[&str]) {
    let lines = console.lines().map(str::trim_end);
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with('[')).collect();
    assert_eq!(lines, wanted, "on the console:\n{console}");
}

/// Panics unless the kernel's last words are these.
#[track_caller]
fn assert_last(console: &str, word: &str) {
    let last = console.trim_end().lines().last().unwrap_or_default();
    let last = last.split_once("] ").unwrap_or_default().1;
    assert_eq!(last, word, "on the console:\n{console}");
}

#[test]
fn the_command_line_is_the_network() {
    case(|lab| {
        let Some(mut machine) = Machine::new(lab) else {
            return;
        };
        lab.serve();
        lab.web("[2001:db8:2::10]:80");
        // Nothing is open, as where a kernel found no console.
        machine.last.push_str(" <&- >&- 2>&-");
        machine.script(
            "/check",
            "echo child of $PPID; uname -r; hostname
            for link in lo eth0 eth1; do
                ip -o addr show $link | sed -n 's/.*: \\([a-z0-9]*\\) *\\(inet6* [^ ]*\\).*/\\1 \\2/p' | grep -v fe80
            done
            ip route | sed 's/ *$//'; ip -6 route show default
            cat /etc/resolv.conf
            grep -o ' /proc\\| /sys\\| /dev' /proc/mounts; ls -l /proc/$$/fd | grep -c /dev/console
            wget -q -O - http://web.example.test/; wget -q -O - http://198.51.100.10/cgi-bin/whoami
            wget -q -O - http://[2001:db8:2::10]/",
        );
        let console = machine.run(&format!(
            "{IP}:198.51.100.54 ip=[fec0::15]::[fec0::2]:64::eth0:none ip=10.77.0.5:::24::eth1:off -- /check"
        ));
        let wanted = [
            "child of 1",
            machine.release(),
            "box",
            "lo inet 127.0.0.1/8",
            "lo inet6 ::1/128",
            "eth0 inet 10.0.2.15/24",
            "eth0 inet6 fec0::15/64",
            "eth1 inet 10.77.0.5/24",
            "default via 10.0.2.2 dev eth0",
            "10.0.2.0/24 dev eth0 scope link  src 10.0.2.15",
            "10.77.0.0/24 dev eth1 scope link  src 10.77.0.5",
            "default via fec0::2 dev eth0  metric 1024",
            "nameserver 198.51.100.53",
            "nameserver 198.51.100.54",
            " /proc",
            " /sys",
            " /dev",
            "3",
            "hello from the internet",
            "192.0.2.2",
            "hello from the internet",
            "init: run /check: exit code 0; poweroff",
        ];
        assert_console(&console, &wanted);
        assert_last(&console, "reboot: Power down");
    });
}

#[test]
fn the_kernel_can_start_it_itself() {
    case(|lab| {
        let Some(machine) = Machine::new(lab) else {
            return;
        };
        machine.copy(&init_binary(), "/init");
        let console = machine.run("splash -- --mounts --timeout 1 /bin/readlink /proc/1/exe");
        let wanted = [
            "init: ignore splash: no option of init; the kernel may know it",
            "/init",
            "init: run /bin/readlink: exit code 0; poweroff",
        ];
        assert_console(&console, &wanted);
        assert_last(&console, "reboot: Power down");
    });
}

#[test]
fn the_outcome_is_said() {
    case(|lab| {
        let Some(machine) = Machine::new(lab) else {
            return;
        };
        // Words that nobody knows are left to init, and what is behind `--` is the command's alone.
        let console = machine.run(&format!(
            "splash {IP} -- /bin/sh -c \"echo ip=dhcp ; exit 3\""
        ));
        let wanted = [
            "init: ignore splash: no option of init; the kernel may know it",
            "ip=dhcp",
            "init: run /bin/sh: exit code 3; poweroff",
        ];
        assert_console(&console, &wanted);
        assert_last(&console, "reboot: Power down");
    });
}

#[test]
fn an_error_is_one_line_and_the_end() {
    case(|lab| {
        let Some(machine) = Machine::new(lab) else {
            return;
        };
        let console = machine.run("ip=dhcp -- /bin/echo not me");
        assert_console(
            &console,
            &["init: read config ip=dhcp: only static addresses; not dhcp, on or any; poweroff"],
        );
        assert_last(&console, "reboot: Power down");
    });
}

#[test]
fn a_command_that_is_not_there_is_the_end_too() {
    case(|lab| {
        let Some(machine) = Machine::new(lab) else {
            return;
        };
        let console = machine.run(&format!("{IP} -- /bin/nosuchcommand"));
        let wanted = [
            "init: execute /bin/nosuchcommand: no such file or directory (ENOENT)",
            "init: run /bin/nosuchcommand: exit code 127; poweroff",
        ];
        assert_console(&console, &wanted);
        assert_last(&console, "reboot: Power down");
    });
}

#[test]
fn a_late_card_is_waited_for() {
    case(|lab| {
        let Some(mut machine) = Machine::new(lab) else {
            return;
        };
        lab.serve();
        // The kernel tells the other process of the script when PID 1 begins to wait.
        machine.before = format!(
            "mount -t devtmpfs dev /dev
            mount -t tracefs trace /srv
            for call in poll ppoll; do
                echo common_pid == 1 >/srv/events/syscalls/sys_enter_$call/filter
                echo 1 >/srv/events/syscalls/sys_enter_$call/enable
            done
            {{
                head -n 1 /srv/trace_pipe | grep -o 'sys_.*poll'
                {}
            }} &\n",
            machine.load(CARD)
        );
        let console = machine.run(&format!(
            "{IP} -- /bin/wget -q -O - http://web.example.test/"
        ));
        let wanted = [
            "sys_ppoll",
            "hello from the internet",
            "init: run /bin/wget: exit code 0; poweroff",
        ];
        assert_console(&console, &wanted);
    });
}

#[test]
fn a_card_that_never_comes_is_the_end_after_a_while() {
    case(|lab| {
        let Some(mut machine) = Machine::new(lab) else {
            return;
        };
        machine.before.clear();
        let mut running = machine.boot(&format!(
            "{IP} -- --timeout 1 --at-end halt /bin/echo not me"
        ));
        let console = running.until_within("reboot: System halted", PATIENCE);
        let text = console.replace('\r', "");
        assert!(
            text.starts_with("init: find link eth0: no such device (ENODEV)"),
            "{text}"
        );
        assert!(!text.contains("not me"), "{text}");
    });
}

#[test]
fn a_file_is_the_network_and_the_machine_starts_again() {
    case(|lab| {
        let Some(mut machine) = Machine::new(lab) else {
            return;
        };
        lab.serve();
        machine.last = machine.last.replace("cmdline", "/etc/hawser.conf");
        machine.file(
            "/etc/hawser.conf",
            "hawser 1\nlink eth0\naddress 10.0.2.15/24\nroute default via 10.0.2.2\nend\n",
        );
        let console =
            machine.run("-- --at-end reboot /bin/wget -q -O - http://198.51.100.10/cgi-bin/whoami");
        let wanted = ["192.0.2.2", "init: run /bin/wget: exit code 0; reboot"];
        assert_console(&console, &wanted);
        assert_last(&console, "reboot: Restarting system");
    });
}

#[test]
fn a_command_can_be_started_again_and_again() {
    case(|lab| {
        let Some(machine) = Machine::new(lab) else {
            return;
        };
        machine.script(
            "/check",
            "echo run; echo >>/runs; [ $(wc -l </runs) -lt 3 ] && exit 4; exec poweroff -f",
        );
        let console = machine.run(&format!("{IP} -- --at-end restart /check"));
        let once = ["run", "init: run /check: exit code 4; restart"];
        assert_console(&console, &[&once[..], &once, &["run"]].concat());
        assert_last(&console, "reboot: Power down");
    });
}

#[test]
fn containers_need_another_root_than_an_initramfs() {
    case(|lab| {
        let Some(machine) = Machine::new(lab) else {
            return;
        };
        machine.copy(&binary(), "/bin/host-helper");
        let console = machine.run(&format!(
            "{IP} -- /bin/host-helper run --network none --rootfs / true"
        ));
        let wanted = [
            "host-helper: pivot to the container's root: invalid argument (EINVAL); the root of this machine is an initramfs (switch_root to another file system first), or host-helper was started in a chroot (start it outside)",
            "init: run /bin/host-helper: exit code 125; poweroff",
        ];
        assert_console(&console, &wanted);
    });
}

/// What the spine's tests start, besides busybox.
const TOOLS: &str = "cat chroot dnsmasq env grep id ip ls mount nft nsenter radvd sed setpriv sleep strace true unshare";

/// The files of the spine that ask most of a kernel.
const CHOSEN: &[&str] = &[
    "files",
    "host_view",
    "init_bytes",
    "ipv6",
    "packets",
    "ruleset",
    "sysctls",
    "user_namespace",
];

/// Need what is not on the disk, measure times, type before a slow shell has ended its line, or start so many processes
/// that an emulator takes minutes.
const LEFT_OUT: &[&str] = &[
    "bench",
    "boot",
    "costs",
    "drop_in",
    "interrupted",
    "manuals",
    "peers",
    "ready",
    "supervise_terminal",
    "udev",
];

/// A thousand links on one bridge, for which all others wait.
const SLOW_CASE: &str = "a_full_bridge";
/// On an emulated processor the kernel's worker that makes an IPv6 address's neighbour known is late now and then.
const RACING_CASE: &str = "the_first_packet_is_answered";

#[test]
fn the_spine() {
    case(|lab| drop(spine(lab, "", CHOSEN)));
}

#[test]
fn a_kernel_without_ipv6_gives_ipv4_alone() {
    case(|lab| {
        if let Some(console) = spine(lab, "ipv6.disable=1", &[]) {
            let said = "IPv4 alone: the host's kernel has no IPv6";
            assert!(console.contains(said), "{console}");
        }
    });
}

#[test]
#[ignore = "more than half an hour under an emulator, and what needs tools that are not on the disk fails"]
fn the_whole_spine() {
    case(|lab| {
        let names = list("tests")
            .into_iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.strip_suffix(".rs")?.to_owned()));
        let names: Vec<String> = names.collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.retain(|name| !LEFT_OUT.contains(name));
        spine(lab, "", &names);
    });
}

/// Runs a container and these files of tests inside a machine, under init, whose kernel has a further parameter. What the
/// machine has said.
fn spine(lab: &Lab, parameter: &str, names: &[&str]) -> Option<String> {
    let mut machine = Machine::new(lab)?;
    let _alone = alone();
    let binaries: Vec<PathBuf> = names.iter().map(|name| test_binary(name)).collect();
    let mut files = binaries.clone();
    files.extend([binary(), init_binary()]);
    files.extend(["/bin/sh", "/bin/bash", "/bin/dash"].map(PathBuf::from));
    files.extend(list("golden"));
    // A directory is bench, which measures.
    for source in list("src/bin").iter().filter(|path| path.is_file()) {
        let name = source.file_stem().expect("a file's name");
        files.push(Path::new(env!("CARGO_BIN_EXE_ping")).with_file_name(name));
    }
    files.extend(TOOLS.split_whitespace().map(tool));
    machine.add_disk(&files, |root| {
        for binary in &binaries {
            sh(&format!("strip {}{}", root.display(), binary.display()));
        }
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").expect("write hosts");
        let id = "0123456789abcdef0123456789abcdef\n";
        fs::write(root.join("etc/machine-id"), id).expect("write machine-id");
        // By them nft names what the rules have as numbers.
        let protocols = "icmp 1\ntcp 6\nudp 17\nipv6-icmp 58\n";
        fs::write(root.join("etc/protocols"), protocols).expect("write protocols");
        machine_script(root, &binaries);
    });
    lab.serve();
    let console = machine.run_within(
        &format!("{IP} {parameter} -- /spine"),
        Duration::from_secs(1700),
    );
    let good = console
        .lines()
        .filter(|line| line.starts_with("== ") && line.ends_with(": 0"));
    assert_eq!(good.count(), 2 + names.len(), "{console}");
    assert!(console.contains("hello from the internet"), "{console}");
    assert!(
        console.contains("init: run /spine: exit code 0; poweroff"),
        "{console}"
    );
    show_results(&console, machine.release());
    Some(console)
}

/// The line of libtest on each file.
#[expect(
    clippy::print_stdout,
    reason = "libtest captures it, and shows it when it is asked to"
)]
fn show_results(console: &str, release: &str) {
    let mut result = "";
    for line in console.lines() {
        if let Some(rest) = line.strip_prefix("test result: ") {
            result = rest;
        } else if let Some(name) = line.strip_prefix("== ") {
            println!("| {release} | {name} | {result} |");
        }
    }
}

/// Writes the command of a machine: all tests, one file after the other.
fn machine_script(root: &Path, binaries: &[PathBuf]) {
    let mut script = format!(
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin MUST_WORK=1 HOST_HELPER={} INIT_BIN={}
        ln -s /proc/self/fd /dev/fd; for n in 0:stdin 1:stdout 2:stderr; do ln -s fd/${{n%:*}} /dev/${{n#*:}}; done
        mkdir -p /dev/pts; mount -t devpts devpts /dev/pts; mount -t cgroup2 cgroup /sys/fs/cgroup
        # All modules come by themselves, with the first container; where two at once ask for one, busybox's modprobe
        # tells the second one too early that it is there.
        $HOST_HELPER --verbose run -- wget -q -O - http://198.51.100.10/; echo == first: $?
        test -z \"$($HOST_HELPER run --network none -- ls /proc/dynamic_debug)\"; echo == masked: $?
        $HOST_HELPER down; modprobe br_netfilter\n",
        binary().display(),
        init_binary().display()
    );
    for binary in binaries {
        let name = binary.file_name().expect("a file").to_string_lossy();
        script.push_str(&format!(
            "{} --test-threads=2 --skip {SLOW_CASE} --skip {RACING_CASE}; echo == {name}: $?\n",
            binary.display()
        ));
    }
    lab::write_script(&root.join("spine"), "#!/bin/sh", &script);
}

/// The files in a directory of this package.
fn list(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(directory).expect("list a directory");
    entries.map(|entry| entry.expect("a file").path()).collect()
}

/// The newest binary of a file of tests, beside this one.
fn test_binary(name: &str) -> PathBuf {
    let own = env::current_exe().expect("path of the test binary");
    let directory = own.parent().expect("a directory");
    let files = fs::read_dir(directory).expect("list the test binaries");
    let paths = files.map(|file| file.expect("a file").path());
    let prefix = format!("{name}-");
    let found = paths.filter(|path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with(&prefix) && !file.contains('.')
    });
    let time = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
    found
        .max_by_key(time)
        .unwrap_or_else(|| panic!("{name} is not built: cargo test -p tests --no-run"))
}

/// Where a program is.
fn tool(name: &str) -> PathBuf {
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/bin:/bin";
    let mut paths = path
        .split(':')
        .map(|directory| Path::new(directory).join(name));
    let found = paths.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {name} in {path}"))
}
