//! Containers of one network know each other by name.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use lab::{
    DEADLINE, Lab, Netns, Running, Seen, case, collect, packets, sh, strace, sys, wait_for_end,
};

const FILE: &str = "/run/hawser/hawser0.hosts";

fn start(lab: &Lab, name: &str, options: &[&str]) {
    let options = [&["-d", "--name", name], options].concat();
    lab.run(&options, &["sleep", "1000"]).ok();
}

fn hosts_of(lab: &Lab, name: &str) -> Seen {
    Seen::inside(lab.pid_of(name), "/etc/hosts")
}

/// Somebody else than root, where there is somebody.
fn user(lab: &Lab) -> &'static [&'static str] {
    if lab.real_root {
        &["-u", "1000:1000"]
    } else {
        &[]
    }
}

/// Address and name of each line that counts.
fn lines(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    words.filter(|line| !line.is_empty()).collect()
}

fn has(text: &str, line: &str) -> bool {
    lines(text).iter().any(|known| known == line)
}

fn supervisor(lab: &Lab, name: &str) -> i32 {
    let text = lab.hawser(&["inspect", name]).ok();
    let described: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    i32::try_from(described["supervisor"].as_i64().expect("a pid")).expect("a process id")
}

const PING: [&str; 5] = ["ping", "-c", "1", "-W", "2"];

/// As those that runtimes give (64 digits), and longer ones than a host name may be.
#[test]
fn long_names_are_in_the_file_of_the_network() {
    case(|lab| {
        for (number, length) in [(2, 63), (3, 64), (4, 65), (5, 127)] {
            let name = "n".repeat(length);
            let address = format!("172.19.0.{number}");
            let options = ["--name", &name, "--ip", &address];
            let script = "cat /etc/hosts; mount | grep -c '/etc/hosts .*[(,]ro'; hostname";
            let seen = lab.run_sh(&options, script).ok();
            let cut: String = name.chars().take(64).collect();
            assert!(has(&seen, &format!("{address} {cut}")), "{length}: {seen}");
            // A file of its own where its host name is not the name that its neighbours know.
            let shared = usize::from(length <= 64);
            let end = format!("\n{shared}\n{cut}");
            assert!(seen.ends_with(&end), "{length}: {seen}");
            // One that was asked for is another name of its own.
            let own = [&options[..], &["--hostname", "box"]].concat();
            let seen = lab.run(&own, &["cat", "/etc/hosts"]).ok();
            assert!(has(&seen, &format!("{address} box")), "{length}: {seen}");
            // Nobody stays to write anew what an attached one has.
            let guest = Running::unshared(&["-n", "-m"], "exec cat");
            let pid = guest.pid().to_string();
            for further in [&[][..], &["--add-host", "db:192.0.2.77"]] {
                let attach = [&["attach", &pid][..], &options, further].concat();
                lab.hawser(&attach).ok();
                let seen = Seen::inside(guest.pid(), "/etc/hosts").text();
                assert!(has(&seen, &format!("{address} {name}")), "{length}: {seen}");
                let whole = fs::read_to_string(FILE).expect("the network's file");
                assert_eq!(seen == whole, further.is_empty(), "{length}: {seen}");
                lab.hawser(&["detach", &name]).ok();
            }
            guest.end().exits(0);
        }
    });
}

#[test]
fn who_was_there_before_and_who_comes_later() {
    packets(|lab| {
        for network in ["bridge", "ptp"] {
            let options = ["--network", network];
            start(lab, "witness", &options);
            start(lab, "early", &options);
            let seen = hosts_of(lab, "witness");
            let begin = Instant::now();
            start(lab, "late", &options);
            seen.becomes(begin, |text| text.contains("late"));
            for (from, to) in [("early", "late"), ("late", "early"), ("late", "late")] {
                let text = lab
                    .hawser(&[&["exec", from], &PING[..], &[to]].concat())
                    .ok();
                assert!(
                    text.contains("1 packets received"),
                    "{network}: {from} to {to}: {text}"
                );
            }
            // Nobody has named this one, and it knows the others and itself.
            let script = "ping -c 1 -W 2 early && ping -c 1 -W 2 $(hostname)";
            let text = lab.run_sh(&options, script).ok();
            assert_eq!(text.matches("1 packets received").count(), 2, "{text}");
            for name in ["early", "late"] {
                lab.hawser(&["stop", name]).ok();
            }
            let left = lines(&seen.text());
            assert!(
                left.iter()
                    .all(|line| line.contains("localhost") || line.contains("witness")),
                "{left:?}"
            );
            lab.hawser(&["stop", "witness"]).ok();
        }
    });
}

/// A static program of musl's, for a root filesystem without a C library.
fn musl_program(lab: &Lab) -> String {
    let source = lab.dir.join("look-up.c");
    let text = r#"#include <netdb.h>
        #include <stdio.h>
        int main(int count, char **words) {
            struct addrinfo hints = { .ai_socktype = 1 }, *found;
            char text[64];
            if (getaddrinfo(words[1], 0, &hints, &found)) return 1;
            for (; found; found = found->ai_next)
                if (!getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST)) puts(text);
            return 0;
        }"#;
    fs::write(&source, text).expect("write a program");
    let program = lab.rootfs.join("bin/look-up");
    sh(&format!(
        "musl-gcc -static -o {} {}",
        program.display(),
        source.display()
    ));
    "/bin/look-up".to_owned()
}

#[test]
fn glibc_and_musl_and_busybox_find_them() {
    packets(|lab| {
        let look_up = musl_program(lab);
        start(lab, "web", &["--ip", "172.19.0.80"]);
        for number in 0..40 {
            start(lab, &format!("filler-{number}"), &[]);
        }
        start(lab, "db", &["--ip", "172.19.0.90"]);
        let musl = |name: &str| lab.run(&[], &[&look_up, name]).ok();
        let busybox = |name: &str| lab.run(&[], &[&PING[..], &[name]].concat()).ok();
        for (name, address) in [
            ("web", "172.19.0.80"),
            ("db", "172.19.0.90"),
            ("localhost", "127.0.0.1"),
        ] {
            let found = musl(name);
            assert!(found.contains(address), "{name}");
            assert!(found.contains(':'), "in the other family, too: {found}");
            assert!(
                busybox(name).contains(address) || name == "localhost",
                "{name}"
            );
            if lab.real_root {
                // The machine's own C library, with its nsswitch.conf.
                let glibc = lab.hawser(&["run", "--", "getent", "ahosts", name]).ok();
                assert!(
                    glibc.contains(address) || name == "localhost",
                    "{name}: {glibc}"
                );
            }
        }
        assert_eq!(lab.run(&[], &[&look_up, "we"]).code, 1, "no part of a name");
    });
}

#[test]
fn networks_do_not_know_each_other() {
    case(|lab| {
        start(lab, "here", &[]);
        start(
            lab,
            "there",
            &["--bridge", "lan0", "--subnet", "192.168.77.0/24"],
        );
        start(lab, "alone", &["--network", "ptp"]);
        let all = ["here", "there", "alone"];
        for name in all {
            let text = hosts_of(lab, name).text();
            for other in all {
                assert_eq!(
                    lines(&text)
                        .iter()
                        .any(|line| line.ends_with(&format!(" {other}"))),
                    name == other,
                    "{name}: {text}"
                );
            }
        }
    });
}

#[test]
fn it_is_one_file_that_nobody_inside_can_write() {
    case(|lab| {
        for options in [&[][..], &["--cap-add", "all"]] {
            let script = "echo 192.0.2.1 web >>/etc/hosts; cp /bin/busybox /etc/hosts; rm /etc/hosts; cat /etc/hosts";
            let outcome = lab.run_sh(options, script);
            assert_eq!(
                outcome.err().matches("Read-only file system").count(),
                2,
                "{outcome}"
            );
            assert!(
                outcome.out().starts_with("127.0.0.1 localhost"),
                "{outcome}"
            );
        }
        start(lab, "one", &[]);
        start(lab, "two", &[user(lab), &["--read-only"]].concat());
        let inode = fs::metadata(FILE)
            .map(|file| std::os::unix::fs::MetadataExt::ino(&file))
            .expect("a file");
        assert_eq!(hosts_of(lab, "one").inode(), inode);
        assert_eq!(hosts_of(lab, "two").inode(), inode);
        lab.hawser(&["exec", "two", "cat", "/etc/hosts"]).ok();
        // What is mounted on it inside stays inside.
        sh("mount --make-shared /run");
        let before = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        let script = "mount -o bind /bin/busybox /etc/hosts && echo up; read x";
        let mut mounter = lab.start(&["--cap-add", "sys_admin"], &["sh", "-c", script]);
        mounter.until("up");
        assert_eq!(
            fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo"),
            before
        );
        assert!(
            fs::read_to_string(FILE)
                .expect("read")
                .starts_with("127.0.0.1")
        );
    });
}

/// What a container can read it can lock, too, and stop whoever waits for that.
#[test]
fn a_container_that_locks_the_file_holds_nobody_up() {
    case(|lab| {
        start(lab, "holder", &[]);
        // As somebody inside would open it: busybox has no flock(1).
        let path = format!("/proc/{}/root/etc/hosts", lab.pid_of("holder"));
        let file = fs::File::open(path).expect("open it as a reader");
        let held = Flock::lock(file, FlockArg::LockExclusive).expect("lock it");
        start(lab, "late", &[]);
        lab.hawser(&["stop", "late"]).ok();
        drop(held);
    });
}

#[test]
fn a_strict_umask_hides_it_from_nobody() {
    case(|lab| {
        let command = format!(
            "umask 077; exec {} run --rootfs {} {} -- cat /etc/hosts /etc/resolv.conf",
            lab::binary().display(),
            lab.rootfs.display(),
            user(lab).join(" ")
        );
        assert!(sh(&command).contains("localhost"));
    });
}

/// With names of its own it has a file of its own, which can be written.
#[test]
fn its_own_lines_and_the_others() {
    case(|lab| {
        start(lab, "early", &[]);
        start(
            lab,
            "own",
            &[
                "--add-host",
                "db:192.0.2.77",
                "--hostname",
                "box",
                "--read-only",
            ],
        );
        start(lab, "edited", &["--add-host", "db:192.0.2.77"]);
        let (own, edited) = (hosts_of(lab, "own"), hosts_of(lab, "edited"));
        let address = |name: &str| {
            lab.listed(name)["address"]
                .as_str()
                .expect("an address")
                .to_owned()
        };
        let early = format!("{} early", address("early"));
        let text = own.text();
        for line in [
            &early,
            "192.0.2.77 db",
            &format!("{} box", address("own")),
            "127.0.0.1 localhost",
        ] {
            assert!(has(&text, line), "{line}: {text}");
        }
        lab.hawser(&[
            "exec",
            "edited",
            "sh",
            "-c",
            "echo 192.0.2.9 mine >>/etc/hosts",
        ])
        .ok();
        let begin = Instant::now();
        start(lab, "late", &[]);
        let late = format!("{} late", address("late"));
        own.becomes(begin, |text| {
            has(text, &late) && has(text, &early) && has(text, "192.0.2.77 db")
        });
        let begin = Instant::now();
        lab.hawser(&["stop", "early"]).ok();
        own.becomes(begin, |text| has(text, &late) && !has(text, &early));
        let text = edited.text();
        assert!(
            has(&text, "192.0.2.9 mine") && !has(&text, &late),
            "what it has written is its own: {text}"
        );
        // And the others know it.
        assert!(has(
            &hosts_of(lab, "late").text(),
            &format!("{} own", address("own"))
        ));
        let seen = lab.run(&["--network", "none"], &["cat", "/etc/hosts"]).ok();
        assert!(!seen.contains("late"), "it is on no network: {seen}");
    });
}

#[test]
fn an_isolated_container_knows_nobody_and_is_known_to_nobody() {
    case(|lab| {
        start(lab, "web", &[]);
        start(lab, "apart", &["--isolate"]);
        let apart = hosts_of(lab, "apart").text();
        let address = lab.listed("apart")["address"].clone();
        let own = format!("{} apart", address.as_str().expect("an address"));
        assert!(has(&apart, &own) && !apart.contains("web"), "{apart}");
        let seen = hosts_of(lab, "web").text();
        assert!(!seen.contains("apart"), "{seen}");
    });
}

#[test]
fn nobody_takes_the_name_of_the_machine_itself() {
    case(|lab| {
        start(lab, "web", &[]);
        start(lab, "localhost", &[]);
        let seen = hosts_of(lab, "web").text();
        assert_eq!(seen.matches(" localhost").count(), 2, "{seen}");
        assert!(has(
            &hosts_of(lab, "localhost").text(),
            "127.0.0.1 localhost"
        ));
    });
}

#[test]
fn who_was_killed_is_swept() {
    case(|lab| {
        for name in ["web", "db", "app"] {
            start(lab, name, &[]);
        }
        let seen = hosts_of(lab, "app");
        let kill = |name: &str| {
            let (supervisor, command) = (supervisor(lab, name), lab.pid_of(name));
            let address = lab.listed(name)["address"]
                .as_str()
                .expect("an address")
                .to_owned();
            let process = sys::pidfd(supervisor).expect("a process");
            sys::pidfd_signal(&process, libc::SIGKILL).expect("kill");
            wait_for_end(supervisor);
            wait_for_end(command);
            let link = format!(
                "hwac1300{:02x}",
                address
                    .rsplit('.')
                    .next()
                    .and_then(|last| last.parse::<u8>().ok())
                    .expect("a byte")
            );
            assert!(lab::Watch::new().until(|| !sh("ip -o link").contains(&link)));
            address
        };
        let (web, db) = (kill("web"), kill("db"));
        // Who has asked for the second one's address has taken away what was left of the first.
        assert!(!has(&seen.text(), &format!("{web} web")));
        assert!(
            has(&seen.text(), &format!("{db} db")),
            "nobody has written since"
        );
        // The same name again: it has one address.
        let begin = Instant::now();
        start(lab, "web", &[]);
        seen.becomes(begin, |text| {
            !has(text, &format!("{web} web")) && !has(text, &format!("{db} db"))
        });
        assert_eq!(
            lines(&seen.text())
                .iter()
                .filter(|line| line.ends_with(" web") && line.contains('.'))
                .count(),
            1
        );
        // The same address again, for somebody whom nobody has named: at once.
        let app = lab.listed("app")["address"]
            .as_str()
            .expect("an address")
            .to_owned();
        drop(seen);
        kill("app");
        let text = lab.run(&["--ip", &app], &["cat", "/etc/hosts"]).ok();
        assert_eq!(
            lines(&text)
                .iter()
                .filter(|line| line.starts_with(&format!("{app} ")))
                .count(),
            1,
            "{text}"
        );
        assert!(
            !lines(&text).iter().any(|line| line.ends_with(" app")),
            "{text}"
        );
    });
}

/// The writes to a hosts file that a command makes, itself and its children.
fn writes(lab: &Lab, options: &[&str]) -> Vec<String> {
    let file = lab.dir.join("trace");
    let command = lab.run_command(options, &["true"]);
    let traced = strace::traced(
        &command,
        &["-f", "-y", "-qq", "-e", "trace=write,pwrite64,ftruncate"],
        &file.to_string_lossy(),
    );
    collect(traced, DEADLINE).exits(0);
    let trace = fs::read_to_string(&file).expect("read the trace");
    trace
        .lines()
        .filter(|line| line.contains("hosts>"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_start_and_an_end_are_one_write_each_and_wake_nobody() {
    case(|lab| {
        for number in 0..20 {
            start(lab, &format!("box-{number}"), &[]);
        }
        let seen = hosts_of(lab, "box-0");
        let pids: Vec<i32> = (0..20)
            .map(|number| supervisor(lab, &format!("box-{number}")))
            .collect();
        // They have all begun to watch, and are at rest.
        let begin = Instant::now();
        lab.set_resolv_conf("nameserver 192.0.2.7\n");
        for number in 0..20 {
            Seen::inside(lab.pid_of(&format!("box-{number}")), "/etc/resolv.conf")
                .becomes(begin, |text| text.contains("192.0.2.7"));
        }
        let turns = || -> u64 {
            let count = |pid: &i32| {
                let status =
                    fs::read_to_string(format!("/proc/{pid}/status")).expect("read status");
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                    .expect("a count");
                line.trim().parse::<u64>().expect("a number")
            };
            pids.iter().map(count).sum()
        };
        let before = turns();
        for options in [&["--name", "web"][..], &[]] {
            let writes = writes(lab, options);
            let (ends, starts): (Vec<_>, Vec<_>) = writes
                .iter()
                .partition(|write| write.contains("\"#\", 1, "));
            // A byte for each family. In a slot that is used again the first byte of a line comes last, by itself.
            assert!((1..=2).contains(&ends.len()), "{writes:#?}");
            let most = if options.is_empty() { 4 } else { 1 };
            assert!((1..=most).contains(&starts.len()), "{writes:#?}");
        }
        // Each may have been on its way back to its wait.
        assert!(turns() <= before + 20, "{} turns", turns() - before);
        assert!(!seen.text().contains("\n172.19.0.22"));
    });
}

/// init's message holds 16 KiB: its own lines come first, and of the network's as many as there is room for; the rest follows.
#[test]
fn many_lines_of_its_own_on_a_network_with_many_names() {
    case(|lab| {
        let neighbours: Vec<String> = (0..40).map(|n| format!("{n:x<120}")).collect();
        for name in &neighbours {
            start(lab, name, &[]);
        }
        let own: Vec<String> = (0..170)
            .map(|n| format!("--add-host={n:x<32}:192.0.2.77"))
            .collect();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let has_own = |text: &str| text.matches("192.0.2.77 ").count() == own.len();
        // A line for each of its addresses.
        let has_all = |text: &str| {
            let names = neighbours.iter().map(|name| format!(" {name}\n"));
            has_own(text)
                && names
                    .into_iter()
                    .all(|name| text.matches(&name).count() == 2)
        };
        let text = lab.run(&own, &["cat", "/etc/hosts"]);
        assert!(has_own(&(text.ok() + "\n")));
        let begin = Instant::now();
        start(lab, "web", &own);
        hosts_of(lab, "web").becomes(begin, has_all);
        // Nobody stays to write the rest, and no message is in the way.
        let guest = Running::unshared(&["-n", "-m"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&[&["attach", &pid][..], &own].concat()).ok();
        assert!(has_all(&Seen::inside(guest.pid(), "/etc/hosts").text()));
        guest.end().exits(0);
    });
}

#[test]
fn a_thousand_that_nobody_has_named_leave_it_as_it_is() {
    case(|lab| {
        start(lab, "web", &[]);
        let length = || fs::metadata(FILE).expect("look at the file").len();
        let mut longest = 0;
        for _ in 0..100 {
            lab.run(&[], &["true"]).ok();
            longest = longest.max(length());
        }
        assert!(
            longest <= 7 * 64,
            "localhost, those of one container, those of one after the other: {longest}"
        );
    });
}

/// Who would open a file on which there is a lease waits, for 45 seconds at most: the kernel's fs.lease-break-time.
#[test]
fn a_container_with_a_lease_on_the_file_holds_nobody_up() {
    case(|lab| {
        for (kind, keeps_names) in [(libc::F_RDLCK, true), (libc::F_WRLCK, false)] {
            let guest = Running::unshared(&["-n", "-m"], "exec cat");
            let pid = guest.pid().to_string();
            let attach = ["attach", &pid, "--name", "web", "--dns", "192.0.2.53"];
            lab.hawser(&attach).ok();
            let path = format!("/proc/{pid}/root/etc/hosts");
            let file = fs::File::open(path).expect("open its hosts");
            sys::lease(&file, kind).expect("take a lease");
            let begin = Instant::now();
            let known = lab.run(&[], &["grep", " web ", "/etc/hosts"]);
            known.exits(if keeps_names { 0 } else { 1 });
            start(lab, "db", &[]);
            lab.run(&[], &["grep", " db ", "/etc/hosts"]).exits(0);
            lab.hawser(&["stop", "db"]).ok();
            lab.hawser(&["detach", "web"]).ok();
            lab.hawser(&["down"]).ok();
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(20), "{took:?}");
            assert!(!Path::new("/run/hawser").exists());
            guest.end().exits(0);
        }
    });
}

/// Two hosts, as they see it, with one `/run`: a bridge of the same name, and the same addresses.
#[test]
fn names_of_another_network_namespace_stay() {
    case(|lab| {
        start(lab, "web", &[]);
        let before = fs::read_to_string(FILE).expect("read the file");
        let other = Netns::new("other");
        let there = |mut command: Command| {
            sys::in_netns(&mut command, other.descriptor());
            collect(command, DEADLINE).ok()
        };
        there(lab.run_command(&["--name", "db"], &["grep", " db ", "/etc/hosts"]));
        assert!(fs::read_to_string(FILE).expect("read").starts_with(&before));
        there(lab.command(&["down"]));
        assert!(fs::read_to_string(FILE).expect("read").starts_with(&before));
        // It is still the file that those who are there see.
        start(lab, "late", &[]);
        assert!(hosts_of(lab, "web").text().contains(" late "));
        for name in ["web", "late"] {
            lab.hawser(&["stop", name]).ok();
        }
        lab.hawser(&["down"]).ok();
        assert!(!Path::new(FILE).exists());
    });
}

#[test]
fn it_goes_with_the_network() {
    case(|lab| {
        start(lab, "web", &[]);
        start(lab, "alone", &["--network", "ptp"]);
        assert!(Path::new(FILE).exists());
        for name in ["web", "alone"] {
            lab.hawser(&["stop", name]).ok();
        }
        lab.hawser(&["down"]).ok();
        assert!(
            !Path::new("/run/hawser").exists(),
            "{}",
            sh("ls /run/hawser")
        );
    });
}
