//! What init refuses: one line that names the word, and the line of a message; exit code 125; and nothing is changed. With
//! and without `-s`.

use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, case, collect, init_binary, sys};

/// What a message has done so far when it is refused, if it were done line by line.
const CHANGES: &str = "hawser 1\nhostname changed\nlink lo mtu 1400\naddress 192.0.2.77/32\n";

fn state(lab: &Lab) -> String {
    let resolv = std::fs::read_to_string("/etc/resolv.conf").expect("resolv.conf");
    let ran = lab.dir.join("ran").exists();
    lab::sh("uname -n; ip -o link show lo; ip -o addr show lo") + &resolv + &ran.to_string()
}

#[track_caller]
fn refused(lab: &Lab, command: Command, words: &[&str]) {
    let before = state(lab);
    let described = format!("{command:?}");
    let outcome = collect(command, DEADLINE);
    assert_eq!(outcome.code, 125, "{described}: {outcome}");
    let err = outcome.err();
    assert!(
        outcome.stdout.is_empty() && err.starts_with("init: ") && err.lines().count() == 1,
        "one line: {described}: {outcome}"
    );
    for word in words {
        assert!(
            err.contains(word),
            "{described}: {word:?} is missing: {outcome}"
        );
    }
    assert_eq!(state(lab), before, "{described}");
}

fn init(lab: &Lab, options: &[&str]) -> Command {
    let mut command = Command::new(init_binary());
    command
        .args(options)
        .args(["--", "/bin/busybox", "touch", "ran"])
        .current_dir(&lab.dir)
        .stdin(Stdio::null());
    command
}

#[test]
fn a_message_with_a_fault() {
    case(|lab| {
        for (rest, words) in [
            ("teleport eth0\nend\n", &["line 5, word 1 `teleport`"][..]),
            (
                "address 192.0.2.999/24\nend\n",
                &["line 5, word 2 `192.0.2.999/24`"],
            ),
            ("address\nend\n", &["line 5, word 2"]),
            ("hostname twice\nend\n", &["line 5, word 1 `hostname`"]),
            (
                "nameserver 192.0.2.53 192.0.2.54\nend\n",
                &["line 5, word 3 `192.0.2.54`"],
            ),
            ("capability fly\nend\n", &["line 5, word 2 `fly`"]),
            ("no-links\nend\n", &["line 5, word 1 `no-links`"]),
            ("", &["line 5", "`end`"]),
            ("end\r\n", &["line 5: a control character"]),
            ("en", &["line 5", "`end`"]),
            ("end", &["line 5", "`end`"]),
            ("end\nhostname again\n", &["`end`"]),
        ] {
            std::fs::write(lab.dir.join("config"), format!("{CHANGES}{rest}")).expect("a file");
            for supervise in [&[][..], &["-s"]] {
                let options = [supervise, &["--config", "config"]].concat();
                refused(
                    lab,
                    init(lab, &options),
                    &[words, &["init: read config config: "]].concat(),
                );
            }
        }
    });
}

#[test]
fn a_message_that_cannot_be_read() {
    case(|lab| {
        for (source, words) in [
            ("/no/such/file", &["/no/such/file", "ENOENT"][..]),
            ("/etc", &["/etc", "EISDIR"]),
            ("config/below", &["config/below", "ENOTDIR"]),
            ("fd:77", &["fd:77", "EBADF"]),
            ("fd:nine", &["fd:nine", "not a descriptor's number"]),
            ("fd:-1", &["fd:-1", "not a descriptor's number"]),
            ("-", &["config -", "line 1", "`end`"]),
        ] {
            std::fs::write(lab.dir.join("config"), "").expect("a file");
            for supervise in [&[][..], &["-s"]] {
                refused(
                    lab,
                    init(lab, &[supervise, &["--config", source]].concat()),
                    words,
                );
            }
        }
        if lab.real_root {
            lab::sh("install -m 600 /dev/null /run/lab/secret; chmod 755 /run/lab");
            let mut command = init(lab, &["--config", "secret"]);
            sys::as_user(&mut command, 1000);
            refused(lab, command, &["secret", "EACCES"]);
        }
    });
}

/// The writer of a FIFO, or of a pipe, goes away in the middle of its message.
#[test]
fn a_writer_that_goes_away() {
    case(|lab| {
        lab::sh("busybox mkfifo /run/lab/fifo");
        for (written, line) in [
            ("", "line 1"),
            ("haw", "line 1"),
            ("hawser 1\n", "line 2"),
            (CHANGES, "line 5"),
            ("hawser 1\nhostname changed\nen", "line 3"),
        ] {
            for supervise in [&[][..], &["-s"]] {
                // A writer who waits for init to open it, says this much, and goes.
                let writer = std::thread::spawn(move || {
                    std::fs::write("/run/lab/fifo", written).expect("write the FIFO");
                });
                let command = init(lab, &[supervise, &["--config", "fifo"]].concat());
                refused(lab, command, &["init: read config fifo", line, "`end`"]);
                writer.join().expect("the writer");
            }
        }
    });
}

#[test]
fn options() {
    case(|lab| {
        std::fs::write(lab.dir.join("config"), format!("{CHANGES}end\n")).expect("a file");
        for (options, words) in [
            (
                &["--no-such-option"][..],
                &["--no-such-option", "unknown option"][..],
            ),
            (&["-sx"], &["-sx", "unknown option"]),
            (&["-r", "NOPE:TERM"], &["NOPE"]),
            (&["-p", "NOPE"], &["NOPE", "no signal"]),
            (&["-e", "256"], &["256", "not an exit code"]),
            (&["-e", "many"], &["many", "not an exit code"]),
            (&["--grace", "-1"], &["-1", "not a number"]),
            (&["--status-fd", "x"], &["x"]),
            (&["--config="], &["--config=", "its value is missing"]),
            (&["--config", ""], &["--config", "its value is missing"]),
            (&["--status-fd", "77"], &["77", "EBADF"]),
        ] {
            // Behind the config, so that it would be too late if it were read at once.
            refused(
                lab,
                init(lab, &[&["--config", "config"], options].concat()),
                words,
            );
        }
        // The witness: without a fault all of that changes.
        let before = state(lab);
        collect(init(lab, &["--config", "config"]), DEADLINE).exits(0);
        let after = state(lab);
        for word in ["changed\n", "mtu 1400", "192.0.2.77/32", "true"] {
            assert!(
                !before.contains(word) && after.contains(word),
                "{word}: {after}"
            );
        }
    });
}
