//! Containers that hold on to the host with all they can. Each time: `stop` works within its grace, the helper does what it
//! does otherwise, other containers do, and nothing of the host has changed in the end.
//!
//! Who changes its address, or deletes its eth0 and lives on, is in `spoofing.rs`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};
use nix::unistd::Pid;

use lab::strace::{Stopped, traced};
use lab::{
    DEADLINE, Lab, Netns, Outcome, Running, Seen, Snapshot, Terminal, case, child, children,
    collect, packets, sh, sys, wait_for_end, wait_untold,
};

/// Some seconds more than a grace of one second, on a busy machine.
const SOON: Duration = Duration::from_secs(8);

/// A dynamic program of the C library's needs the host's libraries; and a place to tell something: a file, and a FIFO that
/// somebody waits at.
fn options(lab: &Lab) -> Vec<String> {
    let program = format!("{}:/hostile:ro", env!("CARGO_BIN_EXE_hostile"));
    let place = format!("{}:/srv", lab.dir.join("place").display());
    ["/lib", "/lib64", "/usr"]
        .iter()
        .filter(|path| Path::new(path).exists())
        .map(|path| format!("{path}:{path}:ro"))
        .chain([program, place])
        .flat_map(|bind| ["-v".to_owned(), bind])
        .collect()
}

/// The host with a network, and a root file system that has all places to mount on.
fn before(lab: &Lab) -> Snapshot {
    let place = lab.dir.join("place");
    fs::create_dir_all(&place).expect("make a directory");
    fs::write(place.join("told"), "").expect("make a file");
    sh(&format!("mkfifo {}/waiting", place.display()));
    let own = options(lab);
    let options: Vec<&str> = own.iter().map(String::as_str).collect();
    lab.run(&options, &["true"]).ok();
    lab.with_network()
}

/// `hostile WORDS` in a container called mallory, not started yet.
fn mallory(lab: &Lab, further: &[&str], words: &[&str]) -> std::process::Command {
    let own = options(lab);
    let own = own.iter().map(String::as_str);
    let options: Vec<&str> = ["--name", "mallory"]
        .into_iter()
        .chain(own)
        .chain(further.iter().copied())
        .collect();
    let mut command = lab.run_command(&options, &[&["/hostile"], words].concat());
    command.stdin(Stdio::piped());
    command
}

/// The same, when it has begun.
fn start(lab: &Lab, further: &[&str], words: &[&str]) -> Running {
    let mut running = Running::spawn(mallory(lab, further, words));
    running.until("up");
    running
}

/// `stop` with a grace of a second ends it, and nothing but its network is left.
#[track_caller]
fn stops(lab: &Lab, running: Running, before: &Snapshot) {
    let stopped = lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
    assert!(stopped.elapsed < SOON, "{stopped}");
    running.end();
    before.assert_back();
}

/// Other containers start, have a network, and are seen.
#[track_caller]
fn others_work(lab: &Lab) {
    let ping = ["ping", "-c", "1", "-W", "5", "172.19.0.1"];
    lab.run(&["--name", "other"], &ping).ok();
    assert_eq!(lab.listed("mallory")["status"], "running");
}

fn exec(lab: &Lab, words: &[&str]) -> Outcome {
    lab.hawser(&[&["exec", "--no-tty", "mallory"], words].concat())
}

#[test]
fn forks_without_end() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("a limit of processes needs another user, and real root");
        }
        const USER: u32 = 4321;
        let before = before(lab);
        // The limit is the machine's protection, not the test's subject.
        let mut command = mallory(lab, &["-u", &USER.to_string()], &["forks"]);
        sys::with_rlimit(&mut command, libc::RLIMIT_NPROC, 400);
        let mut running = Running::spawn(command);
        running.until("full");
        let pid = lab.pid_of("mallory");
        others_work(lab);
        assert!(processes_of(USER) > 300, "{}", processes_of(USER));
        stops(lab, running, &before);
        wait_for_end(pid);
        assert_eq!(processes_of(USER), 0, "all of them have ended");
    });
}

fn processes_of(user: u32) -> usize {
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == user))
        .count()
}

#[test]
fn ignores_every_signal() {
    case(|lab| {
        let before = lab.with_network();
        for init in [&[][..], &["--init"]] {
            let script = "for s in $(seq 1 64); do trap '' $s 2>/dev/null; done; echo up; while :; do read x; done";
            let options = [&["--name", "mallory", "--grace", "1"], init].concat();
            let mut running = lab.start(&options, &["sh", "-c", script]);
            running.until("up");
            others_work(lab);
            // From outside it is forwarded, and then there is the grace.
            let begun = Instant::now();
            running.signal(libc::SIGTERM);
            let outcome = running.end();
            assert!(begun.elapsed() < SOON, "{outcome}");
            assert!([137, 143].contains(&outcome.code), "{outcome}");
            let mut running = lab.start(&options, &["sh", "-c", script]);
            running.until("up");
            stops(lab, running, &before);
        }
    });
}

#[test]
fn fills_its_file_systems() {
    case(|lab| {
        let before = before(lab);
        // /dev is where its resolv.conf lies, too.
        for place in ["/dev", "/dev/shm"] {
            let running = start(lab, &[], &["fills", place]);
            others_work(lab);
            // What follows the host cannot be written there now, and is when there is space again.
            lab.set_resolv_conf("nameserver 198.51.100.53\noptions ndots:2\n");
            assert_eq!(exec(lab, &["echo", "in"]).ok(), "in");
            let tty = lab.hawser(&["exec", "-t", "mallory", "tty"]);
            assert!(tty.code == 0 || place == "/dev", "{tty}");
            lab.set_resolv_conf("nameserver 198.51.100.53\n");
            stops(lab, running, &before);
        }
    });
}

/// Its resolv.conf is the old one or the new one, whole: a text that has no room is not begun.
#[test]
fn has_no_room_for_a_longer_resolv_conf() {
    case(|lab| {
        let before = before(lab);
        for users in [&[][..], &["--userns"]] {
            if !users.is_empty() && !lab.real_root {
                return lab::skip("a range of users needs real root");
            }
            let running = start(lab, users, &["fills", "/dev"]);
            let inside = Seen::inside(lab.pid_of("mallory"), "/etc/resolv.conf");
            let first = inside.text();
            let has_heard = |server: &str| {
                let said = lab.hawser(&["inspect", "mallory"]).ok();
                let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
                said["resolvers"] == serde_json::json!([server])
            };
            let long = format!("search {}\n", "a-long-domain.test ".repeat(300).trim_end());
            lab.set_resolv_conf(&format!("nameserver 192.0.2.7\n{long}"));
            lab::wait_untold("it hears of the change", || has_heard("192.0.2.7"));
            assert_eq!(inside.text(), first);
            // One that needs no more room than it has is written, and any when there is room again.
            let begun = Instant::now();
            lab.set_resolv_conf("nameserver 192.0.2.8\n");
            inside.becomes(begun, |text| text == "nameserver 192.0.2.8\n");
            exec(lab, &["sh", "-c", ">/dev/filling"]).ok();
            let begun = Instant::now();
            lab.set_resolv_conf(&format!("nameserver 192.0.2.9\n{long}"));
            inside.becomes(begun, |text| text.ends_with(&long));
            lab.set_resolv_conf("nameserver 198.51.100.53\n");
            stops(lab, running, &before);
        }
    });
}

/// Its root, a `--tmpfs`, or both.
#[test]
fn fills_its_root_and_what_is_mounted_there() {
    case(|lab| {
        let root = lab.dir.join("small");
        let path = root.to_string_lossy();
        sh(&format!(
            "mkdir {path} && mount -t tmpfs -o size=8m small {path} && cp -a {}/. {path}",
            lab.rootfs.display()
        ));
        let run = |options: &[&str], script: &str| {
            let words = [
                &["run", "--rootfs", &path],
                options,
                &["--", "sh", "-c", script],
            ];
            let mut command = lab.command(&words.concat());
            command.stdin(Stdio::piped());
            Running::spawn(command)
        };
        run(&["--tmpfs", "/srv"], "true").end().exits(0);
        let before = lab.with_network();
        for place in ["/", "/srv"] {
            let script = format!(
                "echo up; read go; cat /dev/zero >{place}/filling 2>/dev/null; echo full; trap '' TERM; read x"
            );
            let mut running = run(&["--name", "mallory", "--tmpfs", "/srv"], &script);
            running.until("up");
            let pid = lab.pid_of("mallory");
            // Half of the machine's memory is more than a test may fill.
            sh(&format!(
                "nsenter -t {pid} -m mount -t tmpfs -o remount,size=1m none /srv"
            ));
            running.say("\n");
            running.until("full");
            let inside = Seen::inside(pid, "/etc/resolv.conf");
            let begun = Instant::now();
            lab.set_resolv_conf("nameserver 198.51.100.53\noptions ndots:2\n");
            inside.becomes(begun, |text| text.ends_with("ndots:2\n"));
            assert_ne!(
                exec(lab, &["sh", "-c", &format!("echo x >{place}/more")]).code,
                0
            );
            let tty = lab.hawser(&["exec", "-t", "mallory", "tty"]).exits(0);
            assert!(tty.out().starts_with("/dev/pts/"), "{tty}");
            // One more in the same root.
            let second = run(&["--tmpfs", "/srv"], "hostname && touch /srv/x").end();
            assert_eq!(second.exits(0).err(), "");
            others_work(lab);
            lab.set_resolv_conf("nameserver 198.51.100.53\n");
            lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
            let outcome = running.end();
            assert!(outcome.elapsed < SOON, "{outcome}");
            sh(&format!("rm -f {path}/filling {path}/more"));
            before.assert_back();
        }
    });
}

/// What it changes of the host's files is in memory too, which the kernel limits, but its /dev is as small as any.
#[test]
fn fills_dev_in_its_view_of_the_hosts_files() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("the kernel refuses an overlay over / in a user namespace");
        }
        let before = lab.with_network();
        let script = "busybox head -c 80000000 /dev/zero > /dev/filling; busybox stat -c %s /dev/filling; ls /dev/null /dev/pts/ptmx";
        for options in [&[][..], &["--userns"]] {
            let words = [&["run"], options, &["--", "sh", "-c", script]].concat();
            let outcome = lab.hawser(&words).exits(0);
            let len: u64 = outcome
                .out()
                .lines()
                .next()
                .map_or(0, |len| len.parse().unwrap_or(0));
            assert!(
                (60 << 20..=64 << 20).contains(&len),
                "{options:?}: {outcome}"
            );
            before.assert_back();
        }
    });
}

/// Ctrl-C, and again. Before the command the first one undoes, of the command the second one is the end; one that comes
/// before the one before was read is none.
fn interrupt_until_it_ends(running: &Running) {
    let pidfd = sys::pidfd(running.pid()).expect("a pidfd");
    let has_ended = || {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 500_u16) == Ok(1)
    };
    for _ in 0..10 {
        running.signal(libc::SIGINT);
        if has_ended() {
            return;
        }
    }
}

#[test]
fn stops_whoever_enters() {
    case(|lab| {
        let before = before(lab);
        let mut running = start(lab, &[], &["stops"]);
        for _ in 0..5 {
            let mut command = lab.command(&["exec", "--no-tty", "mallory", "sleep", "1000"]);
            command.stdin(Stdio::piped());
            let entering = Running::spawn(command);
            running.until("caught");
            interrupt_until_it_ends(&entering);
            let outcome = entering.end();
            assert!(outcome.elapsed < SOON, "{outcome}");
            assert!(outcome.code > 125, "{outcome}");
        }
        stops(lab, running, &before);
    });
}

/// By the process that has made them both, and that nobody inside sees, but is slow here.
#[test]
fn stops_whoever_is_not_handed_over_yet() {
    case(|lab| {
        let before = before(lab);
        let mut running = start(lab, &[], &["stops"]);
        let command = lab.command(&["exec", "--no-tty", "mallory", "sleep", "1000"]);
        let slow = ["-f", "--inject=sendmsg:delay_enter=5s"];
        let mut command = traced(&command, &slow, "/dev/null");
        command.stdin(Stdio::piped());
        let tracer = Running::spawn(command);
        running.until("caught");
        let entering = Pid::from_raw(child(tracer.pid()));
        kill(entering, Signal::SIGINT).expect("a process of ours");
        // As soon as none of them is left.
        let outcome = tracer.end();
        assert!(outcome.elapsed < SOON, "{outcome}");
        assert_eq!(outcome.code, 130, "{outcome}");
        stops(lab, running, &before);
    });
}

#[test]
fn grabs_the_pipes_of_whoever_enters() {
    case(|lab| {
        let before = before(lab);
        let running = start(lab, &[], &["grabs"]);
        let told = lab.dir.join("place/told");
        // Between its privileges and its command init has no more of them than the container: it is a race, which is won
        // some time.
        for attempt in 0.. {
            let outcome = exec(lab, &["true"]);
            assert!(outcome.elapsed < SOON, "{outcome}");
            // What it says in init's name is believed or is not; it is its own command.
            assert!([0, 125].contains(&outcome.code), "{outcome}");
            if !fs::read(&told).expect("read").is_empty() {
                break;
            }
            assert!(attempt < 2000, "the race is never won");
        }
        // It holds what it has got.
        for _ in 0..20 {
            let outcome = exec(lab, &["true"]);
            assert!(outcome.elapsed < SOON, "{outcome}");
        }
        others_work(lab);
        stops(lab, running, &before);
    });
}

/// Who has come in, once for each word that it is told: its program and terminal, whether its input is one of ours, and whether it knows a secret of its caller's.
const LOOKS: &str = r#"echo up
while read word; do
    for at in /proc/[2-9]* /proc/1[0-9]*; do
        grep -qs '^PPid:.0$' $at/status && found=$at && break
    done
    chmod 777 $found/exe 2>/dev/null
    chown 1000 $found/exe 2>/dev/null
    echo "program $(readlink $found/exe)"
    echo "terminal $(cut -d ' ' -f 7 $found/stat)"
    test "$(stat -Lc %d $found/fd/0)" = "$(stat -c %d /dev/pts)" && echo own input
    grep -qs SECRET $found/environ $found/cmdline && echo secret
    echo seen
done"#;

/// With CAP_SYS_PTRACE it sees all of whoever enters, from the moment that this is among its processes.
#[test]
fn looks_into_whoever_enters() {
    case(|lab| {
        let program = lab.dir.join("bin/host-helper");
        fs::create_dir_all(lab.dir.join("bin")).expect("make a directory");
        fs::copy(lab::binary(), &program).expect("copy the program");
        let mode_and_owner = || {
            let found = fs::metadata(&program).expect("stat");
            (found.mode(), found.uid())
        };
        let untouched = mode_and_owner();
        let before = before(lab);
        let all = [&["sys_ptrace"][..], &["kill"], &["all", "--userns"]];
        for further in all.iter().take(if lab.real_root { 3 } else { 2 }) {
            let may_look = further == &["sys_ptrace"];
            let options = [&["--name", "mallory", "--cap-add"], *further].concat();
            let mut running = lab.start(&options, &["sh", "-c", LOOKS]);
            running.until("up");
            for tty in ["--no-tty", "-t"] {
                let mut command = lab.command_of(&program);
                command.args(["exec", tty, "mallory", "sleep", "1000"]);
                command.env("SECRET", "of the caller");
                // It is made, and does not hear what it waits for.
                let slow = ["-f", "--inject=sendmsg:delay_enter=10s"];
                let entering = Terminal::spawn(traced(&command, &slow, "/dev/null"));
                let tracer = entering.process.pid();
                let made = || children(tracer).into_iter().flat_map(children);
                wait_untold("it is made", || made().count() == 2);
                running.say("look\n");
                let seen = running.until("seen");
                let entered = Pid::from_raw(child(tracer));
                kill(entered, Signal::SIGINT).expect("a process of ours");
                assert_eq!(entering.end().code, 130, "{seen}");
                assert_eq!(mode_and_owner(), untouched, "{seen}");
                assert!(seen.contains("terminal 0\n"), "{tty}: {seen}");
                assert!(!seen.contains("secret"), "{tty}: {seen}");
                if may_look {
                    assert!(seen.contains("program /memfd:host-helper"), "{seen}");
                    assert_eq!(seen.contains("own input"), tty == "-t", "{seen}");
                } else {
                    assert!(seen.contains("program \n"), "{seen}");
                }
            }
            running.end().exits(0);
        }
        before.assert_back();
    });
}

#[test]
fn has_no_pipe_of_the_helpers() {
    case(|lab| {
        for init in [&[][..], &["--init"]] {
            let options = [&["-d", "--name", "mallory"], init].concat();
            lab.run(&options, &["sleep", "1000"]).ok();
            let numbers = exec(lab, &["ls", "/proc/1/fd"]).ok();
            assert_eq!(numbers, "0\n1\n2", "{init:?}");
            lab.hawser(&["stop", "mallory"]).exits(0);
        }
    });
}

#[test]
fn closes_its_terminal() {
    case(|lab| {
        let before = before(lab);
        let mut running = Running::spawn(mallory(lab, &["-t"], &["closes"]));
        running.until("up");
        assert_eq!(
            sh(&format!("cat {}/place/waiting", lab.dir.display())),
            "closed\n"
        );
        // The helper waits, and does not look again and again.
        let ticks = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", running.pid())).expect("stat");
            let fields: Vec<&str> = stat
                .rsplit(") ")
                .next()
                .unwrap_or_default()
                .split(' ')
                .collect();
            fields[11..13]
                .iter()
                .map(|ticks| ticks.parse::<u64>().expect("ticks"))
                .sum::<u64>()
        };
        let spent = ticks();
        others_work(lab);
        others_work(lab);
        assert!(ticks() - spent < 10, "{} ticks", ticks() - spent);
        let tty = lab.hawser(&["exec", "-t", "mallory", "tty"]).exits(0);
        assert!(tty.out().starts_with("/dev/pts/"), "{tty}");
        stops(lab, running, &before);
    });
}

#[test]
fn remounts_what_it_has() {
    case(|lab| {
        let before = lab.with_network();
        let tries = "echo up; for how in remount,rw,bind remount,rw; do for at in / /proc /proc/sys /sys /dev/null /etc/hosts /dev; do
            mount -o $how $at 2>/dev/null && echo $how $at; done; done
            for at in /proc/keys /proc/sys /sys /dev /etc/hosts /; do umount $at 2>/dev/null && echo umount $at; umount -l $at 2>/dev/null && echo umount -l $at; done
            mount --move /proc /tmp 2>/dev/null && echo move; echo 1 > /proc/sys/kernel/panic 2>/dev/null && echo panic; echo over";
        for options in [&[][..], &["--init"], &["--read-only"], &["-u", "1000"]] {
            if options == ["-u", "1000"] && !lab.real_root {
                continue;
            }
            let outcome = lab.run(
                &[&["--tmpfs", "/tmp"], options].concat(),
                &["sh", "-c", tries],
            );
            assert_eq!(outcome.out(), "up\nover\n", "{options:?}: {outcome}");
        }
        if lab.real_root {
            // With every capability, of its own mounts; what was locked stays, the host's file systems are as they were.
            let all = ["--userns", "--cap-add", "all", "--tmpfs", "/tmp"];
            let outcome = lab.run(&all, &["sh", "-c", tries]);
            for locked in [
                "remount,rw /sys",
                "remount,rw,bind /sys",
                "remount,rw,bind /proc/sys",
                "umount /proc/sys",
                "umount /proc/keys",
                "umount /sys",
                "remount,rw /\n",
                "panic",
            ] {
                assert!(!outcome.out().contains(locked), "{locked}: {outcome}");
            }
        }
        before.assert_back();
    });
}

/// Whoever executes the command is the program behind `/proc/self/exe`: it is not the host's.
#[test]
fn executes_what_executes_it() {
    case(|lab| {
        std::os::unix::fs::symlink("/proc/self/exe", lab.rootfs.join("again")).expect("a link");
        for options in [&[][..], &["--init"], &["--userns"]] {
            let outcome = lab.run(options, &["/again", "-V"]).exits(0);
            assert!(outcome.out().starts_with("init (hawser) "), "{outcome}");
        }
    });
}

#[test]
fn writes_to_init() {
    case(|lab| {
        // A copy of the program, as it would be installed.
        let own = lab.dir.join("init");
        fs::copy(lab::init_binary(), &own).expect("copy init");
        let whole = fs::read(&own).expect("read it");
        let path = own.to_string_lossy();
        let script = "for at in /proc/1/exe /proc/self/exe; do
            for how in '>' '>>' '<>'; do (eval \"exec 3$how$at\") 2>/dev/null && echo $how $at; done
            chmod 777 $at 2>/dev/null && echo chmod $at; chown 1000 $at 2>/dev/null && echo chown $at; done; true";
        let before = fs::metadata(&own).expect("stat");
        for init in [&["--init"][..], &["--init", "--init-path", &path]] {
            let seen = lab.run(init, &["sh", "-c", script]).exits(0);
            // The mode of a memory file is its own, and nobody else's.
            let harmless = |line: &str| line.starts_with("ch") && init.len() == 1;
            for line in seen.out().lines().filter(|line| !harmless(line)) {
                assert!(!line.ends_with("/proc/1/exe"), "{init:?}: {seen}");
            }
        }
        let after = fs::metadata(&own).expect("stat");
        assert_eq!((before.mode(), before.uid()), (after.mode(), after.uid()));
        assert!(
            fs::read(&own).expect("read it") == whole,
            "not a byte of it"
        );
        // Who enters is init for a moment, too; a race, of which every outcome is the same.
        let running = lab.start(&["--name", "mallory"], &["sh", "-c", "echo up; while :; do for exe in /proc/[0-9]*/exe; do case $exe in /proc/1/*) ;; *) (exec 3>$exe) 2>/dev/null && echo written $exe; esac; done; done"]);
        let mut running = running;
        running.until("up");
        for _ in 0..20 {
            exec(lab, &["/bin/true"]).exits(0);
        }
        let stopped = lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
        assert!(stopped.elapsed < SOON);
        let outcome = running.end();
        assert!(!outcome.out().contains("written"), "{outcome}");
        exec_again(lab);
    });
}

/// The program with its init beside it, as they are installed, and what they are.
fn install(lab: &Lab) -> [(PathBuf, Vec<u8>); 2] {
    let own = [
        ("bin/host-helper", lab::binary()),
        ("libexec/hawser/init", lab::init_binary()),
    ];
    own.map(|(path, from)| {
        let path = lab.dir.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        fs::copy(from, &path).expect("copy a program");
        let whole = fs::read(&path).expect("read it");
        (path, whole)
    })
}

/// Not while it is executed, which the kernel refuses, but when it is not any more (CVE-2019-5736).
#[test]
fn writes_to_the_programs_that_it_holds() {
    case(|lab| {
        let installed = install(lab);
        let program = &installed[0].0;
        let before = before(lab);
        for further in [&[][..], &["--cap-add", "sys_ptrace"]] {
            let mut running = start(lab, further, &["holds"]);
            let entering = || {
                let mut command = lab.command_of(program);
                command.args(["exec", "--no-tty", "mallory", "true"]);
                command
            };
            // As long as it is not handed over, and as init waits for its message.
            for slow in ["sendmsg:delay_enter=2s", "waitid:delay_enter=2s:when=1"] {
                let slow = ["-f", &format!("--inject={slow}")];
                collect(traced(&entering(), &slow, "/dev/null"), DEADLINE).exits(0);
                if !further.is_empty() {
                    let seen = running.until("over");
                    assert!(!seen.contains("Ok("), "{seen}");
                    assert!(seen.contains("/memfd:"), "it holds none: {seen}");
                }
            }
            for _ in 0..20 {
                collect(entering(), DEADLINE).exits(0);
            }
            let stopped = lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
            assert!(stopped.elapsed < SOON, "{stopped}");
            let outcome = running.end();
            assert!(!outcome.out().contains("Ok("), "{outcome}");
        }
        // Of PID 1 another container may have a descriptor, by a socket that both see, when this one has ended.
        let path = installed[1].0.to_string_lossy();
        let carried = lab::binary();
        let inits = [
            (&carried, &["--init"][..]),
            (program, &["--init"]),
            (&carried, &["--init", "--init-path", &path]),
        ];
        for (program, init) in inits {
            let rootfs = lab.rootfs.to_string_lossy();
            let options = ["run", "-d", "--name", "mallory", "--rootfs", &rootfs];
            let mut command = lab.command_of(program);
            command.args([&options[..], init, &["--", "sleep", "1000"]].concat());
            collect(command, DEADLINE).exits(0);
            let pid = lab.pid_of("mallory");
            let held = File::open(format!("/proc/{pid}/exe")).expect("its program");
            lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
            wait_for_end(pid);
            let again = format!("/proc/self/fd/{}", held.as_raw_fd());
            let again = File::options().write(true).open(again);
            let written = again.and_then(|mut file| file.write_all(b"not a program"));
            let refusal = written.expect_err("it can be written").kind();
            assert_ne!(refusal, ErrorKind::ExecutableFileBusy, "{init:?}");
            lab.hawser(&["rm", "mallory"]).exits(0);
        }
        for (path, whole) in &installed {
            let now = fs::read(path).expect("read it");
            assert!(now == *whole, "{}: not a byte of it", path.display());
        }
        before.assert_back();
    });
}

/// init is still what it was.
fn exec_again(lab: &Lab) {
    let _idle = lab.start_idle(&["--name", "mallory"]);
    assert_eq!(exec(lab, &["echo", "well"]).ok(), "well");
}

/// How many connections the host tracks, and how many it does at most.
fn tracked(what: &str) -> u32 {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{what}");
    let count = fs::read_to_string(path).expect("a count");
    count.trim().parse().expect("a number")
}

/// So few are left to end by themselves.
fn few() -> u32 {
    (tracked("max") / 16).max(4096)
}

#[test]
fn exhausts_ports_and_connections() {
    packets(|lab| opens(lab, u32::from(u16::MAX)));
}

/// As many as there can be, where that is no work of minutes: the limit is the machine's.
#[test]
fn exhausts_the_table_of_connections() {
    case(|lab| {
        let most = tracked("max").min(400_000);
        opens(lab, most + most / 8);
    });
}

/// A container opens so many, and the helper does what it does otherwise.
fn opens(lab: &Lab, wanted: u32) {
    lab.serve();
    // They do not end by themselves: so it is with those by TCP that are never closed.
    sh("echo 3600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout");
    let before = before(lab);
    let neighbour = lab.start_idle(&["--name", "neighbour", "-p", "8081:81"]);
    let running = start(lab, &[], &["floods", &wanted.to_string()]);
    let count = tracked("count");
    assert!(
        count > wanted / 2,
        "the host follows {count} connections of {wanted}"
    );
    others_work(lab);
    // To the same server, with names, and with ports of the host's.
    let fetched = lab.run(&[], &["wget", "-q", "-O", "-", "http://web.example.test/"]);
    assert_eq!(fetched.ok(), "hello from the internet");
    lab.run(&["-p", "8082:82"], &["true"]).ok();
    lab.hawser(&["port", "add", "mallory", "8080:80"]).exits(0);
    assert_eq!(
        lab.hawser(&["port", "rm", "mallory", "8080:80"])
            .exits(0)
            .err(),
        ""
    );
    lab.hawser(&["restore"]).exits(0);
    let guest = Running::unshared(&["-n"], "exec cat");
    let pid = guest.pid().to_string();
    lab.hawser(&["attach", &pid]).exits(0);
    lab.hawser(&["detach", &pid]).exits(0);
    guest.end().exits(0);
    neighbour.end().exits(0);
    stops(lab, running, &before);
    // The next one does not find them.
    lab::wait_untold("its connections go", || tracked("count") <= few());
}

/// One of ctnetlink's messages (linux/netfilter/nfnetlink_conntrack.h): a connection by UDP that both sides keep up.
fn kept_up(number: u32) -> Vec<u8> {
    const NESTED: u16 = libc::NLA_F_NESTED as u16;
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len();
        let head = [(length as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        let padding = vec![0; length.next_multiple_of(4) - length];
        [head, value.to_vec(), padding].concat()
    }
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (number >> 4)).octets();
    let (to, port) = ([192, 0, 2, 1], (1000 + (number & 15) as u16).to_be_bytes());
    let tuple = |kind, [source, destination]: [[u8; 4]; 2]| {
        let ip = [attribute(1, &source), attribute(2, &destination)].concat();
        let ports = [attribute(2, &port), attribute(3, &port)].concat();
        let protocol = [attribute(1, &[libc::IPPROTO_UDP as u8]), ports].concat();
        let both = [attribute(NESTED | 1, &ip), attribute(NESTED | 2, &protocol)].concat();
        attribute(NESTED | kind, &both)
    };
    // IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED (linux/netfilter/nf_conntrack_common.h), for an hour.
    let [status, hour] = [2 | 4 | 8, 3600_u32].map(u32::to_be_bytes);
    let body = [
        vec![libc::AF_INET as u8, 0, 0, 0],
        tuple(1, [from, to]),
        tuple(2, [to, from]),
        attribute(3, &status),
        attribute(7, &hour),
    ];
    let body = body.concat();
    let kind = (libc::NFNL_SUBSYS_CTNETLINK << 8) as u16; // IPCTNL_MSG_CT_NEW
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_CREATE) as u16;
    let head = [
        (16 + body.len() as u32).to_ne_bytes().to_vec(),
        [kind.to_ne_bytes(), flags.to_ne_bytes()].concat(),
        vec![0; 8],
    ];
    [head.concat(), body].concat()
}

/// As many connections as there can be, none of which the kernel gives up for another.
fn fill_table() {
    let netfilter = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )
    .expect("a socket of netfilter");
    let most = tracked("max");
    for some in (0..most).collect::<Vec<_>>().chunks(100) {
        let batch: Vec<u8> = some.iter().flat_map(|number| kept_up(*number)).collect();
        send(netfilter.as_raw_fd(), &batch, MsgFlags::empty()).expect("make connections");
    }
    // The last ones found no room, where there were others before.
    assert!(tracked("count") >= most, "{} of {most}", tracked("count"));
}

/// By connections that both sides keep up: those that there are go on, new ones are dropped, and all commands work.
#[test]
fn fills_the_table_of_connections_for_good() {
    case(|lab| {
        let before = lab.with_network();
        let neighbour = lab.start_idle(&["--name", "neighbour"]);
        let inside = Netns::of(lab.pid_of("neighbour"));
        let listener = lab
            .internet
            .enter(|| TcpListener::bind("192.0.2.1:80").expect("a server"));
        let connect = || {
            let to = "192.0.2.1:80".parse().expect("an address");
            inside.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)))
        };
        let mut client = connect().expect("connect");
        let (mut server, _) = listener.accept().expect("a client");
        fill_table();
        let mut echo = |text: &[u8]| {
            server.write_all(text).expect("write");
            let mut got = vec![0; text.len()];
            client.read_exact(&mut got).expect("read");
            assert_eq!(got, text);
        };
        echo(b"it goes on");
        connect().expect_err("there is no room");
        let said = lab.hawser(&["doctor"]).exits(1);
        assert!(said.out().contains("conntrack-full"), "{said}");
        lab.run(
            &["--name", "mallory", "-d", "-p", "8080:80"],
            &["sleep", "1000"],
        )
        .ok();
        assert_eq!(lab.listed("mallory")["status"], "running");
        exec(lab, &["true"]).exits(0);
        lab.hawser(&["port", "add", "mallory", "8081:81"]).exits(0);
        lab.hawser(&["port", "rm", "mallory", "8081:81"]).exits(0);
        lab.hawser(&["restore"]).exits(0);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", "--resolv=off", &pid]).exits(0);
        lab.hawser(&["detach", &pid]).exits(0);
        guest.end().exits(0);
        lab.hawser(&["stop", "mallory"]).exits(0);
        lab.hawser(&["rm", "mallory"]).exits(0);
        echo(b"still");
        // They would keep its network.
        drop((client, server, inside));
        neighbour.end().exits(0);
        before.assert_back();
    });
}

/// All of the host's ports towards one server's port are taken then: others reach that again when it has ended, and everything else before.
#[test]
fn takes_every_port_towards_a_server() {
    case(|lab| {
        let before = lab.with_network();
        let neighbour = lab.start_idle(&["--name", "neighbour"]);
        let inside = Netns::of(lab.pid_of("neighbour"));
        let mallory = lab.start_idle(&["--name", "mallory"]);
        let server = |port: u16| {
            let socket = lab
                .internet
                .enter(|| UdpSocket::bind(("192.0.2.1", port)).expect("a server"));
            socket.set_nonblocking(true).expect("do not wait");
            socket
        };
        let (taken, other) = (server(9), server(10));
        Netns::of(lab.pid_of("mallory")).enter(|| {
            for port in 1..=u16::MAX {
                let socket = UdpSocket::bind(("0.0.0.0", port)).expect("a port");
                socket.send_to(b"mallory", "192.0.2.1:9").expect("send");
            }
        });
        assert!(tracked("count") > 60_000, "{}", tracked("count"));
        let reaches = |server: &UdpSocket| {
            let to = server.local_addr().expect("its address");
            let client = inside.enter(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
            client.send_to(b"neighbour", to).expect("send");
            let mut text = [0; 9];
            while let Ok((length, _)) = server.recv_from(&mut text) {
                if &text[..length] == b"neighbour" {
                    return true;
                }
            }
            false
        };
        wait_untold("another port of it", || reaches(&other));
        assert!(!reaches(&taken), "a port was left");
        lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
        mallory.end();
        wait_untold("the same port", || reaches(&taken));
        neighbour.end().exits(0);
        // It would keep its network.
        drop(inside);
        before.assert_back();
    });
}

/// What it has opened goes with its link, too.
#[test]
fn exhausts_connections_from_where_it_is_attached() {
    case(|lab| {
        let before = lab.with_network();
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", "--resolv=off", &pid]).exits(0);
        let inside = lab::Netns::of(guest.pid());
        let mut flood = inside.command(env!("CARGO_BIN_EXE_hostile"));
        flood.args(["floods", "50000"]).stdout(Stdio::piped());
        let mut flood = Running::spawn(flood);
        flood.until("up");
        assert!(tracked("count") > 30_000, "{}", tracked("count"));
        lab.hawser(&["detach", &pid]).exits(0);
        assert!(tracked("count") <= few(), "{}", tracked("count"));
        flood.signal(libc::SIGKILL);
        flood.end();
        guest.end().exits(0);
        before.assert_back();
    });
}

/// What is written into its files is not led to files of the host by what it puts in their place meanwhile.
#[test]
fn puts_links_in_the_place_of_its_files_while_it_is_attached() {
    case(|lab| {
        lab.with_network();
        let victim = lab.dir.join("victim");
        fs::write(&victim, "the host's\n").expect("write a file");
        let script = format!(
            "mount -t tmpfs none /etc; cd /etc; : >real; : >names; ln -s real resolv.conf; ln -s names hosts;
            for link in one other; do ln -s {} $link; done; echo there; read x; mv one resolv.conf; mv other hosts; echo moved; exec cat",
            victim.display()
        );
        let mut guest = Running::unshared(&["-n", "-m"], &script);
        guest.until("there");
        let pid = guest.pid().to_string();
        let words = [
            "attach",
            "--dns",
            "192.0.2.53",
            "--add-host",
            "db:192.0.2.1",
            &pid,
        ];
        let attaching = Stopped::at_init(&lab.command(&words), &lab.dir.join("trace"));
        assert!(attaching.is_stopped, "it becomes init");
        guest.say("x\n");
        guest.until("moved");
        attaching.go_on().end().exits(0);
        let left = fs::read_to_string(&victim).expect("read a file");
        assert_eq!(left, "the host's\n");
        let inside = |name| fs::read_to_string(format!("/proc/{pid}/root/etc/{name}"));
        let resolv = inside("real").expect("its resolv.conf");
        assert_eq!(resolv, "nameserver 192.0.2.53\n");
        let hosts = inside("names").expect("its hosts");
        assert!(hosts.contains("192.0.2.1 db\n"), "{hosts}");
        guest.end().exits(0);
    });
}

/// It is the FIFO that was found, whatever its name leads to by the time that the config is written.
#[test]
fn puts_a_link_in_the_place_of_the_fifo_at_which_its_init_waits() {
    case(|lab| {
        let before = lab.with_network();
        let [fifo, victim] = ["fifo", "victim"].map(|name| lab.dir.join(name));
        fs::write(&victim, "the host's\n").expect("write a file");
        sh(&format!("mkfifo {}", fifo.display()));
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        // It can have whoever attaches it wait, by a lock.
        let lock = format!("exec flock /proc/{pid}/ns/net sh -c 'echo locked; exec cat'");
        let mut holder = Running::unshared(&["-m"], &lock);
        holder.until("locked");
        let to = fifo.to_string_lossy();
        let words = ["attach", "--to", &*to, &pid];
        let attaching = Running::spawn(lab.command(&words));
        lab::wait_untold("it waits, by a child", || {
            !children(attaching.pid()).is_empty()
        });
        sh(&format!(
            "ln -s {} {to}.new; mv {to}.new {to}",
            victim.display()
        ));
        holder.end().ok();
        let outcome = attaching.end();
        let left = fs::read_to_string(&victim).expect("read a file");
        assert_eq!(left, "the host's\n");
        outcome.refused(&["nobody waits there"]);
        // Nor does a link that is there from the beginning lead to what is none.
        lab.hawser(&words).refused(&["it is no FIFO"]);
        guest.end().exits(0);
        for path in [&fifo, &victim] {
            fs::remove_file(path).expect("remove a file");
        }
        before.assert_back();
    });
}

/// Those of who lives on in its network stay, and those of who was killed go with the next sweep.
#[test]
fn connections_of_who_lives_on_stay_and_of_who_was_killed_go() {
    packets(|lab| {
        lab.serve();
        drop(before(lab));
        lab.run(&["-d", "--name", "own"], &["sleep", "1000"]).ok();
        let side = start(lab, &["--network", "container:own"], &["floods", "50000"]);
        let supervisor = lab::parent(lab.pid_of("own"));
        lab.hawser(&["stop", "own"]).ok();
        lab::wait_for_end(supervisor);
        assert!(tracked("count") > 30_000, "{}", tracked("count"));
        drop(side);
        lab.settle();
        lab.hawser(&["ls"]).ok();
        assert!(tracked("count") <= few(), "{}", tracked("count"));
    });
}

#[test]
fn speaks_netlink_to_the_host() {
    case(|lab| {
        lab.run(&["--network", "ptp"], &["true"]).ok();
        lab.settle();
        let _victim = lab.start_idle(&["--name", "victim"]);
        let before = Snapshot::take();
        let script = "for link in hawser0 uplink eth0; do ip link del $link; ip link set $link down; ip link set $link name mine; done
            ip link set eth0 netns 1; ip addr flush dev uplink; ip addr flush dev hawser0; ip route del default; ip route flush table all; ip rule del pref 32766
            ip link add dev other type dummy; true";
        // Its own network, as its admin, is its own to break; the host's is not, and less so without that capability.
        for options in [
            &["--cap-add", "net_admin"][..],
            &["--network", "host"],
            &["--network", "ptp", "--cap-add", "net_admin"],
            &["--network", "container:victim"],
        ] {
            lab.run(options, &["sh", "-c", script]).exits(0);
            before.assert_back();
        }
        lab.run(&[], &["ping", "-c", "1", "-W", "5", "172.19.0.1"])
            .ok();
    });
}

#[test]
fn outlives_the_owner_of_its_network() {
    packets(|lab| {
        lab.serve();
        let before = lab.with_network();
        let options = ["--name", "owner", "--ip", "172.19.0.9", "-p", "8080:80"];
        let owner = lab.start_idle(&options);
        let join = [
            "--name",
            "mallory",
            "--network",
            "container:owner",
            "--cap-add",
            "net_admin",
        ];
        let mut sharer = lab.start(&join, &["sh", "-c", "echo up; trap '' TERM; while read x; do wget -q -O - http://web.example.test/ && echo fetched; done"]);
        sharer.until("up");
        collect(lab.command(&["stop", "owner"]), DEADLINE).exits(0);
        owner.end();
        // Its address is nobody else's as long as it is in use, and named.
        lab.run(&["--ip", "172.19.0.9"], &["true"])
            .refused(&["172.19.0.9"]);
        lab.run(&["--name", "owner"], &["true"]).refused(&["owner"]);
        // Its port is free, and leads to whoever has it next.
        let next = lab.start_idle(&["--name", "next", "-p", "8080:80"]);
        let ports = sh("nft list map inet hawser ports4");
        assert!(!ports.contains("172.19.0.9"), "{ports}");
        sharer.say("\n");
        sharer.until("fetched");
        next.end();
        let stopped = lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
        assert!(stopped.elapsed < SOON, "{stopped}");
        sharer.end();
        // The next command that looks sweeps what nobody was there to take back.
        lab.settle();
        lab.hawser(&["ls"]).exits(0);
        before.assert_back();
        lab.run(&["--ip", "172.19.0.9"], &["true"]).ok();
    });
}
