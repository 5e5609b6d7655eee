//! init without a helper: links that come late, files that cannot be written, the kernel's command line, a machine's end.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, Outcome, Running, case, child, collect, init_binary, sh, skip, sys};

/// init with these words behind it, in the lab's host; `before` are the words of what starts it.
fn init(lab: &Lab, before: &[&str], words: &[&str]) -> Command {
    let binary = init_binary();
    let binary = binary.to_string_lossy();
    let all = [before, &[&binary], words].concat();
    let (first, rest) = all.split_first().expect("init at least");
    let mut command = Command::new(first);
    command
        .args(rest)
        .current_dir(&lab.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(lab: &Lab, before: &[&str], words: &[&str]) -> Outcome {
    collect(init(lab, before, words), DEADLINE)
}

/// Writes a config file and gives its path.
fn config(lab: &Lab, lines: &str) -> String {
    let path = lab.dir.join("config");
    fs::write(&path, format!("hawser 1\n{lines}end\n")).expect("write a config");
    path.to_string_lossy().into_owned()
}

/// A file of this text over another one, in this case's mount namespace.
fn bind(lab: &Lab, over: &str, text: &str) {
    let path = lab
        .dir
        .join(Path::new(over).file_name().expect("a file's name"));
    fs::write(&path, text).expect("write a file");
    sh(&format!("mount --bind {} {over}", path.display()));
}

const PID_1: &[&str] = &["unshare", "-pf", "--mount-proc"];

#[test]
fn a_link_that_comes_late_is_waited_for() {
    case(|lab| {
        let config = config(lab, "link late0\naddress 192.0.2.77/24\n");
        let words = [
            "--config",
            &config,
            "/bin/busybox",
            "ip",
            "-o",
            "addr",
            "show",
            "late0",
        ];
        let mut waiting = Running::spawn(init(lab, &["strace", "-e", "trace=ppoll"], &words));
        waiting.until_stderr("ppoll(");
        sh("ip link add other0 type veth peer name other1");
        waiting.until_stderr("ppoll(");
        sh("ip link add late0 type veth peer name late1");
        let outcome = waiting.end().exits(0);
        assert!(outcome.out().contains("192.0.2.77/24"), "{outcome}");
    });
}

/// One after the other, as cards are found.
#[test]
fn links_that_come_late_are_waited_for() {
    case(|lab| {
        let lines = "link late0\naddress 192.0.2.77/24\nlink late1\naddress 192.0.2.78/24\n";
        let config = config(lab, lines);
        let words = ["--config", &config, "/bin/busybox", "ip", "-o", "addr"];
        let mut waiting = Running::spawn(init(lab, &["strace", "-e", "trace=ppoll"], &words));
        waiting.until_stderr("ppoll(");
        sh("ip link add late0 type bridge");
        waiting.until_stderr("= 1");
        waiting.until_stderr("ppoll(");
        sh("ip link add late1 type bridge");
        let outcome = waiting.end().exits(0);
        for address in ["192.0.2.77/24", "192.0.2.78/24"] {
            assert!(outcome.out().contains(address), "{outcome}");
        }
    });
}

#[test]
fn a_link_that_never_comes_is_an_error_and_changes_nothing() {
    case(|lab| {
        let lines = "hostname changed\nlink uplink\naddress 192.0.2.77/24\nlink late0\n";
        let config = config(lab, lines);
        let (before, name) = (sh("ip addr"), sh("uname -n"));
        for seconds in ["0", "1"] {
            let words = ["--config", &config, "--timeout", seconds, "true"];
            run(lab, &[], &words).refused(&["find link late0", "ENODEV", "--timeout"]);
        }
        assert_eq!(sh("ip addr"), before);
        assert_eq!(sh("uname -n"), name);
        run(lab, &[], &["--timeout", "soon", "true"]).refused(&["soon"]);
    });
}

#[test]
fn resolv_conf_is_required_tried_or_left() {
    case(|lab| {
        let config = config(lab, "no-links\nnameserver 198.51.100.53\n");
        bind(lab, "/etc/resolv.conf", "old\n");
        let with = |how: &[&str]| {
            let words = [how, &["--config", &config, "/bin/busybox", "echo", "ran"]].concat();
            run(lab, &[], &words)
        };
        assert_eq!(with(&["--resolv=off"]).ok(), "ran");
        assert_eq!(
            fs::read_to_string("/etc/resolv.conf").expect("read"),
            "old\n"
        );
        assert_eq!(with(&[]).ok(), "ran");
        let written = fs::read_to_string("/etc/resolv.conf").expect("read");
        assert_eq!(written, "nameserver 198.51.100.53\n");
        sh("mount -o remount,bind,ro /etc/resolv.conf");
        for how in [&[][..], &["--resolv", "try"]] {
            let outcome = with(how).exits(0);
            assert_eq!(outcome.out(), "ran\n");
            let line = outcome.err();
            assert!(
                line.starts_with("init: write /etc/resolv.conf: read-only file system (EROFS); ")
                    && line.contains("--resolv=off")
                    && line.lines().count() == 1,
                "{outcome}"
            );
        }
        with(&["--resolv=required"]).refused(&["/etc/resolv.conf", "EROFS"]);
        assert_eq!(with(&["--resolv=off"]).ok(), "ran");
        with(&["--resolv=maybe"]).refused(&["maybe", "required"]);
    });
}

#[test]
fn what_is_there_already_is_success() {
    case(|lab| {
        let config = config(
            lab,
            "link eth5\naddress 192.0.2.77/24\naddress 2001:db8:5::2/64\nroute default via 192.0.2.99\n",
        );
        sh("ip route del default
            ip link add eth5 type veth peer name other5
            ip link set other5 up
            ip addr add 192.0.2.77/24 dev eth5
            mount -o bind,ro /proc/sys /proc/sys");
        let without_dev = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
        let before = ["unshare", "-m", "sh", "-c", without_dev];
        let words = ["--config", &config, "/bin/busybox", "echo", "ran"];
        for _ in 0..2 {
            assert_eq!(run(lab, &before, &words).ok(), "ran");
        }
        assert!(sh("ip route").contains("default via 192.0.2.99 dev eth5"));
        assert!(sh("ip -6 addr show eth5").contains("2001:db8:5::2/64"));
    });
}

#[test]
fn a_fifo_whose_writer_goes_away_is_an_error() {
    case(|lab| {
        sh("busybox mkfifo /run/lab/fifo");
        let writer = std::thread::spawn(|| {
            fs::write(
                "/run/lab/fifo",
                "hawser 1\nlink uplink\naddress 192.0.2.78/24\n",
            )
        });
        let outcome = run(lab, &[], &["--config", "fifo", "true"]);
        writer.join().expect("writer").expect("write the FIFO");
        outcome.refused(&["fifo", "line 4", "`end`"]);
        assert!(!sh("ip addr").contains("192.0.2.78"), "nothing was changed");
    });
}

/// PID 1 discards a signal that it has no handler for.
#[test]
fn the_wait_for_a_config_or_a_link_can_be_ended() {
    case(|lab| {
        sh("busybox mkfifo /run/lab/fifo");
        let config = config(lab, "link late0\n");
        for supervise in [&[][..], &["-s"]] {
            for (signal, name) in [(libc::SIGTERM, "TERM"), (libc::SIGINT, "INT")] {
                let ended = format!("init: wait for the network: ended by SIG{name}\n");
                let words = [supervise, &["--config", "fifo", "true"]].concat();
                let waiting = Running::spawn(init(lab, PID_1, &words));
                // This waits until init has opened it too.
                let writer = fs::File::create("/run/lab/fifo").expect("open the FIFO");
                let pid = sys::pidfd(child(waiting.pid())).expect("pidfd of init");
                sys::pidfd_signal(&pid, signal).expect("signal init");
                assert_eq!(waiting.end().exits(128 + signal).err(), ended);
                drop(writer);

                let words = [supervise, &["--config", &config, "true"]].concat();
                let traced = [&["strace", "-f", "-e", "trace=ppoll"], PID_1].concat();
                let mut waiting = Running::spawn(init(lab, &traced, &words));
                waiting.until_stderr("ppoll(");
                let pid = child(child(waiting.pid()));
                let pid = sys::pidfd(pid).expect("pidfd of init");
                sys::pidfd_signal(&pid, signal).expect("signal init");
                let outcome = waiting.end().exits(128 + signal);
                assert!(outcome.err().contains(&ended), "{outcome}");
            }
        }
        // Any other process ends by the signal itself.
        let waiting = Running::spawn(init(lab, &[], &["--config", "fifo", "true"]));
        let _writer = fs::File::create("/run/lab/fifo").expect("open the FIFO");
        waiting.signal(libc::SIGTERM);
        waiting.end().exits(-libc::SIGTERM);
    });
}

#[test]
fn a_fifo_in_the_place_of_a_file_does_not_hold_it() {
    case(|lab| {
        let config = config(lab, "no-links\nnameserver 198.51.100.53\n");
        sh("busybox mkfifo /run/lab/fifo; mount --bind /run/lab/fifo /etc/resolv.conf");
        let words = ["--config", &config, "/bin/busybox", "echo", "ran"];
        let outcome = run(lab, &[], &words).exits(0);
        assert_eq!(outcome.out(), "ran\n");
        assert!(outcome.err().contains("ENXIO"), "{outcome}");
    });
}

#[test]
fn the_kernels_command_line_is_a_config() {
    case(|lab| {
        sh("ip link add eth5 type veth peer name other5
            ip link add eth6 type veth peer name other6");
        bind(lab, "/etc/resolv.conf", "");
        bind(
            lab,
            "/proc/cmdline",
            "quiet ip=192.0.2.77::192.0.2.99:255.255.255.0:box:eth5:off:198.51.100.53:198.51.100.54 \
             ip=[2001:db8:6::2]::[2001:db8:6::1]:64::eth6:none root=/dev/vda\n",
        );
        let words = ["--config", "cmdline", "/bin/busybox", "hostname"];
        assert_eq!(run(lab, &["unshare", "-u"], &words).ok(), "box");
        assert!(sh("ip -o addr show eth5").contains("192.0.2.77/24"));
        assert!(sh("ip -o addr show eth6").contains("2001:db8:6::2/64"));
        assert!(sh("ip route").contains("default via 192.0.2.99 dev eth5"));
        assert!(sh("ip -6 route").contains("default via 2001:db8:6::1 dev eth6"));
        assert_eq!(
            fs::read_to_string("/etc/resolv.conf").expect("read"),
            "nameserver 198.51.100.53\nnameserver 198.51.100.54\n"
        );
    });
}

#[test]
fn a_command_line_that_is_none_is_refused_in_a_sentence() {
    case(|lab| {
        bind(lab, "/proc/cmdline", "");
        for (text, word) in [
            ("quiet\n", "no word `ip=`"),
            ("ip=dhcp\n", "ip=dhcp: only static addresses"),
            ("ip=on\n", "ip=on: only static addresses"),
            ("ip=::::box:eth5:any\n", "only static addresses"),
            ("ip=192.0.2.77\n", "a netmask"),
            (
                "ip=192.0.2.777:::24\n",
                "ip=192.0.2.777:::24: not an address",
            ),
            ("ip=eth0:dhcp\n", "ip=eth0:dhcp: only static addresses"),
            ("ip=192.0.2.77:::255.0.255.0\n", "a netmask"),
            ("ip=192.0.2.77::nowhere:24\n", "nowhere"),
        ] {
            fs::write(lab.dir.join("cmdline"), text).expect("write");
            run(lab, &[], &["--config", "cmdline", "true"]).refused(&[word]);
        }
    });
}

#[test]
fn a_machine_ends_when_its_command_has_ended() {
    case(|lab| {
        // In a PID namespace the kernel says how it ended by the signal that its PID 1 seems to die of (reboot(2)).
        for (end, signal) in [("poweroff", 2), ("halt", 2), ("reboot", 1)] {
            let words = [
                "--at-end",
                end,
                "--",
                "/bin/busybox",
                "sh",
                "-c",
                "echo $$; exit 3",
            ];
            let outcome = run(lab, PID_1, &words).exits(-signal);
            assert_eq!(outcome.out(), "2\n", "it stays as PID 1");
            assert_eq!(
                outcome.err(),
                format!("init: run /bin/busybox: exit code 3; {end}\n")
            );
        }
        let killed = [
            "--at-end",
            "poweroff",
            "/bin/busybox",
            "sh",
            "-c",
            "kill -9 $$",
        ];
        let outcome = run(lab, PID_1, &killed).exits(-2);
        assert_eq!(
            outcome.err(),
            "init: run /bin/busybox: ended by SIGKILL; poweroff\n"
        );
        let missing = ["--at-end", "reboot", "/no/such/command"];
        let outcome = run(lab, PID_1, &missing).exits(-1);
        assert!(
            outcome.err().ends_with("exit code 127; reboot\n"),
            "{outcome}"
        );
    });
}

/// The end of a machine takes a capability (reboot(2)); without it the kernel panics when PID 1 is gone.
#[test]
fn a_machine_ends_whatever_its_command_may_do() {
    case(|lab| {
        let nobody = "user 1000:1000\n";
        let few = "capability net_bind_service\n";
        let no_one = ("0000000000000000", None);
        for (lines, (permitted, bounding)) in [
            (nobody, no_one),
            (few, ("0000000000000400", Some("0000000000000400"))),
        ] {
            if lines == nobody && !lab.real_root {
                skip("only root has other users");
                continue;
            }
            let config = config(lab, &format!("no-links\n{lines}"));
            let words = ["--at-end", "poweroff", "--config", &config, "--"];
            let command = ["/bin/busybox", "grep", "^Cap", "/proc/self/status"];
            let outcome = run(lab, PID_1, &[&words[..], &command].concat()).exits(-2);
            let has = |name: &str, set: &str| outcome.out().contains(&format!("{name}:\t{set}\n"));
            for name in ["CapPrm", "CapEff"] {
                assert!(has(name, permitted), "{outcome}");
            }
            for name in ["CapInh", "CapAmb"] {
                assert!(has(name, no_one.0), "{outcome}");
            }
            assert!(bounding.is_none_or(|set| has("CapBnd", set)), "{outcome}");
        }
    });
}

/// Who reads what it says may have gone.
#[test]
fn a_command_that_is_not_there_is_127_where_nobody_hears_of_it() {
    case(|_| {
        for words in [&["--", "nosuch"][..], &["-s", "--", "nosuch"]] {
            let (reader, writer) = nix::unistd::pipe().expect("a pipe");
            drop(reader);
            let mut command = std::process::Command::new(lab::init_binary());
            command.args(words).stderr(writer);
            let status = command.status().expect("init");
            assert_eq!(status.code(), Some(127), "{words:?}");
        }
    });
}

#[test]
fn a_machine_that_cannot_start_its_command_says_why_and_ends() {
    case(|lab| {
        for (words, line) in [
            (
                &["--at-end", "poweroff"][..],
                "no command; it begins with `/`",
            ),
            (
                &["--at-end", "later", "/bin/true"],
                "later: not poweroff, reboot, halt or restart",
            ),
            (
                &["--at-end=halt", "--config", "/none", "/bin/true"],
                "open config /none",
            ),
            // What has failed once is not run again.
            (
                &["--at-end=restart", "--config", "/none", "/bin/true"],
                "open config /none",
            ),
        ] {
            let outcome = run(lab, PID_1, words).exits(-2);
            let end = if words[0].ends_with("halt") {
                "; halt\n"
            } else {
                "; poweroff\n"
            };
            assert!(
                outcome.err().contains(line) && outcome.err().ends_with(end),
                "{outcome}"
            );
            assert_eq!(outcome.err().lines().count(), 1, "{outcome}");
        }
        // Where the kernel has opened nothing, on the console.
        let script = "touch /run/lab/console; mount -t tmpfs none /dev; touch /dev/console
            mount --bind /run/lab/console /dev/console; exec \"$@\" <&- >&- 2>&-";
        let before = ["unshare", "-mpf", "sh", "-c", script, "sh"];
        run(lab, &before, &["--at-end", "poweroff"]).exits(-2);
        let said = fs::read_to_string("/run/lab/console").expect("the console");
        assert!(
            said.starts_with("init: ") && said.contains("no command"),
            "{said}"
        );
        // Not of this machine, whose PID 1 is another process.
        for words in [
            ["--at-end", "poweroff", "/bin/true"],
            ["--mounts", "--", "/bin/true"],
        ] {
            run(lab, &[], &words).refused(&[words[0], "not PID 1"]);
        }
    });
}

#[test]
fn words_that_a_kernel_leaves_are_warned_about() {
    case(|lab| {
        let words = [
            "splash",
            "-x",
            "--at-end=poweroff",
            "rhgb",
            "--nonsense=3",
            "/bin/busybox",
            "echo",
            "--y",
        ];
        let outcome = run(lab, PID_1, &words).exits(-2);
        assert_eq!(outcome.out(), "--y\n");
        let lines: Vec<_> = outcome.err().lines().map(str::to_owned).collect();
        for (line, word) in lines.iter().zip(["splash", "-x", "rhgb", "--nonsense=3"]) {
            assert!(
                line.starts_with(&format!("init: ignore {word}: no option of init")),
                "{outcome}"
            );
        }
        assert_eq!(lines.len(), 5, "and the end: {outcome}");
        run(lab, PID_1, &["-x", "/bin/true"]).refused(&["-x"]);
    });
}

#[test]
fn a_command_that_shall_run_again_does() {
    case(|lab| {
        let words = [
            "--at-end",
            "restart",
            "--",
            "/bin/busybox",
            "sh",
            "-c",
            "echo up; exit 4",
        ];
        let before = ["unshare", "-pf", "--kill-child", "--mount-proc"];
        let mut running = Running::spawn(init(lab, &before, &words));
        running.until("up");
        running.until("up");
        running.until_stderr("exit code 4; restart");
        // Where it began the first time.
        let config = config(lab, "no-links\nworkdir /usr\n");
        let words = ["--at-end", "restart", "--config", &config, "--"];
        let script = ["/bin/busybox", "sh", "-c", "echo in $PWD; exit 4"];
        let mut running = Running::spawn(init(lab, &before, &[&words[..], &script].concat()));
        running.until("in /usr");
        running.until("in /usr");
    });
}

#[test]
fn a_machine_without_anything_gets_its_mounts() {
    case(|lab| {
        if !lab.real_root {
            return skip("only the real root may mount devtmpfs");
        }
        let root = lab.rootfs.to_string_lossy().into_owned();
        fs::copy(init_binary(), lab.rootfs.join("init")).expect("copy init");
        for directory in ["proc", "sys", "dev"] {
            fs::remove_dir(lab.rootfs.join(directory)).expect("remove a directory");
        }
        let mut command = Command::new("unshare");
        command.args(["-mpf", "--mount-proc", "chroot", &root, "/init"]);
        command.args(["--mounts", "--", "sh", "-c"]);
        command.arg("cat /proc/1/comm && ls -d /sys/kernel /dev/null && test -c /dev/null && readlink /proc/self/fd/0");
        command.stdin(Stdio::null());
        let outcome = collect(command, DEADLINE).exits(-2);
        assert_eq!(
            outcome.out(),
            "init\n/dev/null\n/sys/kernel\n/dev/null\n",
            "{outcome}"
        );
        assert_eq!(outcome.err(), "init: run sh: exit code 0; poweroff\n");
    });
}
