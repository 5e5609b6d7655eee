//! init by hand: config from a file, a pipe, a FIFO or stdin; what it refuses; the status pipe.

use std::io::Write as _;
use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, Outcome, Running, case, collect, init_binary, sys};

fn init(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(init_binary());
    command
        .args(arguments)
        .current_dir(&lab.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn with_stdin(lab: &Lab, config: &str) -> Outcome {
    let mut command = init(
        lab,
        &[
            "--config",
            "-",
            "--timeout",
            "0",
            "--",
            "/bin/busybox",
            "echo",
            "ran",
        ],
    );
    command.stdin(Stdio::piped());
    let mut running = Running::spawn(command);
    // A refusal may come before the last byte of an over-long message is written.
    let _ = running
        .stdin
        .take()
        .expect("a pipe")
        .write_all(config.as_bytes());
    running.end()
}

#[track_caller]
fn refused(outcome: &Outcome, words: &[&str]) {
    let text = outcome.err();
    assert_eq!(outcome.code, 125, "{outcome}");
    assert!(
        outcome.stdout.is_empty() && text.starts_with("init: ") && text.lines().count() == 1,
        "one line: {outcome}"
    );
    for word in words {
        assert!(
            text.contains(word),
            "the line should name {word:?}: {outcome}"
        );
    }
}

#[test]
fn config_comes_from_a_file_stdin_a_pipe_and_a_fifo() {
    case(|lab| {
        let config = "hawser 1\nno-links\nend\n";
        let path = lab.dir.join("config");
        std::fs::write(&path, config).expect("a file");
        let command = ["/bin/busybox", "echo", "ran"];
        let run = |from: &str| {
            collect(
                init(lab, &[&["--config", from, "--"], &command[..]].concat()),
                DEADLINE,
            )
            .ok()
        };
        assert_eq!(run("config"), "ran");
        assert_eq!(with_stdin(lab, config).ok(), "ran");
        lab::sh("busybox mkfifo /run/lab/fifo");
        let writer = std::thread::spawn(move || {
            std::fs::write("/run/lab/fifo", config).expect("write the FIFO")
        });
        assert_eq!(run("/run/lab/fifo"), "ran");
        writer.join().expect("writer");
        let file = std::fs::File::open(&path).expect("open").into();
        let mut by_number = init(
            lab,
            &["--config", "fd:9", "/bin/busybox", "ls", "/proc/self/fd"],
        );
        sys::pass_fd(&mut by_number, &file, 9);
        assert_eq!(
            collect(by_number, DEADLINE).ok(),
            "0\n1\n2\n3",
            "and its descriptor is closed"
        );
    });
}

#[test]
fn a_message_in_small_pieces_is_the_same_message() {
    case(|lab| {
        let mut command = init(lab, &["--config", "-", "--", "/bin/busybox", "echo", "ran"]);
        command.stdin(Stdio::piped());
        let mut running = Running::spawn(command);
        for byte in "hawser 1\nno-links\nend\n".chars() {
            running.say(&byte.to_string());
        }
        assert_eq!(running.end().ok(), "ran");
    });
}

#[test]
fn wrong_messages_are_refused_in_one_line() {
    case(|lab| {
        for (config, word) in [
            ("", "end"),
            ("hawser 1\nno-links\n", "end"),
            ("hawser 1\nno-links\nen", "en"),
            ("no-links\nend\n", "no-links"),
            ("hawser 2\nend\n", "version 1"),
            ("hawser 1\nteleport eth0\nend\n", "teleport"),
            (
                "hawser 1\nlink eth0\naddress 172.19.0.999/16\nend\n",
                "172.19.0.999",
            ),
            (
                "hawser 1\nlink eth0\naddress 172.19.0.9/33\nend\n",
                "172.19.0.9/33",
            ),
            (
                "hawser 1\nlink eth0\naddress 172.19.0.9\nend\n",
                "172.19.0.9",
            ),
            ("hawser 1\nlink eth0 mtu many\nend\n", "many"),
            ("hawser 1\naddress 172.19.0.9/16\nend\n", "link"),
            (
                "hawser 1\nlink eth0\nneighbour 172.19.0.1 02:00\nend\n",
                "02:00",
            ),
            (
                "hawser 1\nlink eth0\nroute default via nowhere\nend\n",
                "nowhere",
            ),
            ("hawser 1\nuser 0\nend\n", "UID:GID"),
            ("hawser 1\ncapability fly\nend\n", "fly"),
            ("hawser 1\nno-links now\nend\n", "now"),
            ("hawser 1\nnameserver one.example\nend\n", "one.example"),
        ] {
            let outcome = with_stdin(lab, config);
            refused(&outcome, &[word]);
        }
        let long = format!("hawser 1\n{}end\n", "option ndots:1\n".repeat(2000));
        refused(&with_stdin(lab, &long), &["16"]);
        assert!(
            lab::sh("ip -o addr")
                .lines()
                .all(|line| !line.contains("172.19")),
            "nothing was changed"
        );
    });
}

#[test]
fn sixteen_kibibytes_are_accepted() {
    case(|lab| {
        let line = "host 192.0.2.1 abcdefghi.test\n";
        let fixed = "hawser 1\nno-links\nend\n".len();
        let mut config = format!(
            "hawser 1\nno-links\n{}",
            line.repeat((16384 - fixed) / line.len() - 1)
        );
        config.push_str(&format!(
            "host 192.0.2.1 {}\n",
            "x".repeat(16384 - config.len() - "host 192.0.2.1 \nend\n".len())
        ));
        config.push_str("end\n");
        assert_eq!(config.len(), 16384);
        let rest = config.replacen("host 192.0.2.1 ", "host 192.0.2.1 y", 1);
        refused(&with_stdin(lab, &rest), &["16"]);
        // It writes /etc/hosts: give it one of its own.
        let hosts = lab.dir.join("hosts");
        std::fs::write(&hosts, "").expect("a file");
        lab::sh(&format!("mount --bind {} /etc/hosts", hosts.display()));
        assert_eq!(with_stdin(lab, &config).ok(), "ran");
        assert!(
            std::fs::read_to_string(&hosts)
                .expect("read")
                .contains("abcdefghi.test")
        );
    });
}

#[test]
fn a_failure_names_the_step_the_object_and_the_kernels_reason() {
    case(|lab| {
        refused(
            &with_stdin(lab, "hawser 1\nlink eth7\naddress 172.19.0.9/16\nend\n"),
            &["eth7"],
        );
        lab::sh("ip link add eth5 type veth peer name other");
        refused(
            &with_stdin(
                lab,
                "hawser 1\nlink eth5\naddress 172.19.0.9/16\nroute default via 10.1.1.1\nend\n",
            ),
            &["route", "10.1.1.1"],
        );
        refused(&with_stdin(lab, "hawser 1\nlink eth5 mtu 9\nend\n"), &["9"]);
        // The first takes the address away again, the second does not let it in.
        for _ in 0..2 {
            refused(
                &with_stdin(
                    lab,
                    "hawser 1\nlink eth5 mtu 1000\naddress 2001:db8::2/64\nend\n",
                ),
                &["2001:db8::2/64 to eth5", "IPv6 needs an MTU of 1280"],
            );
        }
    });
}

/// The kernel may not answer each of them: its answers would not fit into the socket.
#[test]
fn hundreds_of_addresses_may_be_there_already() {
    case(|lab| {
        lab::sh("ip link add eth5 type veth peer name other");
        for family in ["10.1.N.1/24", "2001:db8:N::1/64"] {
            let address = |number: u32| {
                format!(
                    "address {}\n",
                    family.replace('N', &format!("{}", number % 256))
                )
            };
            let addresses: String = (0..400).map(address).collect();
            let message = format!("hawser 1\nlink eth5\n{addresses}end\n");
            for _ in 0..2 {
                assert_eq!(with_stdin(lab, &message).ok(), "ran");
            }
        }
    });
}

#[test]
fn exit_codes_and_usage() {
    case(|lab| {
        let run = |arguments: &[&str]| collect(init(lab, arguments), DEADLINE);
        refused(&run(&[]), &["see -h"]);
        refused(&run(&["--config"]), &["--config"]);
        refused(&run(&["--what", "true"]), &["--what"]);
        refused(
            &run(&["--config", "/no/such/file", "true"]),
            &["/no/such/file"],
        );
        refused(&run(&["--config", "fd:77", "true"]), &["77"]);
        assert_eq!(
            run(&["/bin/busybox", "echo", "--config", "x"]).ok(),
            "--config x",
            "the first word that is no option starts the command"
        );
        assert_eq!(run(&["--", "/bin/busybox", "echo", "--", "y"]).ok(), "-- y");
        run(&["no-such-command"]).exits(127);
        run(&["/etc"]).exits(126);
        run(&["/bin/busybox", "sh", "-c", "exit 9"]).exits(9);
        assert!(run(&["--version"]).ok().contains("init"));
    });
}

/// init with a config pipe as stdin and its status pipe as stdout.
fn with_status(lab: &Lab, command: &[&str]) -> Running {
    let mut command = init(
        lab,
        &[&["--config", "fd:0", "--status-fd", "1", "--"], command].concat(),
    );
    command.stdin(Stdio::piped());
    Running::spawn(command)
}

#[test]
fn up_go_ready() {
    case(|lab| {
        let mut running = with_status(lab, &["/bin/busybox", "true"]);
        running.say("hawser 1\nno-links\nend\n");
        assert_eq!(running.until("up\n"), "up\n", "and no `ready` before `go`");
        running.say("go\n");
        assert_eq!(running.until("ready\n"), "ready\n");
        running.end().exits(0);
    });
}

#[test]
fn a_helper_that_dies_is_never_go() {
    case(|lab| {
        let mut running = with_status(lab, &["/bin/busybox", "touch", "/run/lab/ran"]);
        running.say("hawser 1\nno-links\nend\n");
        running.until("up\n");
        running.end().exits(125);
        let mut running = with_status(lab, &["/bin/busybox", "touch", "/run/lab/ran"]);
        running.say("hawser 1\nno-links\n");
        running.end().exits(125);
        assert!(!lab.dir.join("ran").exists(), "the command did not run");
    });
}

#[test]
fn errors_go_to_the_status_pipe_too() {
    case(|lab| {
        for (command, code) in [("/no/such/command", 127), ("/etc", 126)] {
            let mut running = with_status(lab, &[command]);
            running.say("hawser 1\nno-links\nend\ngo\n");
            // The helper lives on: its end of the pipe stays open.
            let _pipe = running.stdin.take();
            let outcome = running.end().exits(code);
            assert!(outcome.out().starts_with("up\nready\nerror "), "{outcome}");
            assert!(
                outcome.out().contains(&format!("\nerror {code} ")),
                "{outcome}"
            );
            let sentence = outcome.err().trim_start_matches("init: ").to_owned();
            assert!(
                outcome.out().ends_with(&sentence),
                "the same sentence: {outcome}"
            );
        }
        let mut running = with_status(lab, &["/bin/busybox"]);
        running.say("hawser 1\nteleport\nend\n");
        let outcome = running.end().exits(125);
        assert!(
            outcome.out().starts_with("error 125 ") && outcome.out().contains("teleport"),
            "{outcome}"
        );
    });
}
