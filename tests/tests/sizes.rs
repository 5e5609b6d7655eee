//! What the README promises about sizes, and that both programs are static.

use std::fs;
use std::path::Path;
use std::process::Command;

use lab::{Running, binary, case, init_binary};

/// A value of /proc/PID/smaps_rollup, in kB.
fn rollup(pid: i32, keys: &[&str]) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("read smaps_rollup");
    let of = |key: &&str| -> u64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(*key)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("{key} in {text}"))
    };
    keys.iter().map(of).sum()
}

#[test]
fn init_is_at_most_32_kib() {
    let length = fs::metadata(init_binary()).expect("look at init").len();
    assert!(length <= 32 * 1024, "init is {length} bytes");
}

#[test]
fn neither_has_an_interpreter() {
    for path in [init_binary(), binary()] {
        assert!(!has_interpreter(&path), "{} is dynamic", path.display());
    }
    assert!(
        has_interpreter(Path::new("/proc/self/exe")),
        "this test is dynamic, and the check notices that"
    );
}

/// Whether one of the ELF program headers is PT_INTERP (3).
fn has_interpreter(path: &Path) -> bool {
    let bytes = fs::read(path).expect("read a program");
    let number = |at: usize, length: usize| {
        bytes[at..at + length]
            .iter()
            .rev()
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    assert_eq!(
        bytes[..5],
        [0x7f, b'E', b'L', b'F', 2],
        "{}: a 64-bit ELF file",
        path.display()
    );
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|index| number(start + index * size, 4) == 3)
}

#[test]
fn init_waits_in_64_kb() {
    case(|lab| {
        let mut command = Command::new(init_binary());
        command
            .args(["--config", "-", "--", "/bin/busybox", "true"])
            .current_dir(&lab.dir);
        let mut running = Running::piped(command);
        let pipe = running.stdin.as_ref().expect("a pipe");
        nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))
            .expect("make the pipe small");
        // The pipe holds one page: the second write returns only once init has read the first, and waits.
        running.say(&format!(
            "hawser 1\nno-links\n{}",
            "option ndots:1\n".repeat(270)
        ));
        running.say(&"option ndots:1\n".repeat(270));
        let resident = rollup(running.pid(), &["Rss"]);
        running.say("end\n");
        assert!(resident <= 64, "init waits with {resident} kB resident");
        assert!(resident > 0, "a measurement of nothing");
    });
}

#[test]
fn the_supervisor_is_at_most_300_kb_private() {
    case(|lab| {
        for name in ["one", "two"] {
            lab.run(&["-d", "--name", name], &["sleep", "1000"]).ok();
        }
        // Not the first: that one made the network, by pages of the program that no other has a use for.
        let pid = lab.pid_of("two");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read status");
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .expect("a parent");
        let supervisor: i32 = parent.trim().parse().expect("a process id");
        let exe = fs::read_link(format!("/proc/{supervisor}/exe")).expect("its program");
        assert!(
            exe.to_string_lossy().contains("host-helper"),
            "{}",
            exe.display()
        );
        let private = rollup(supervisor, &["Private_Clean", "Private_Dirty"]);
        assert!(
            (1..=300).contains(&private),
            "the supervisor has {private} kB of its own"
        );
    });
}
