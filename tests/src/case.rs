//! One case, one set of namespaces: the test binary starts itself again inside them.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::net::Lab;
use crate::process::{Running, collect};
use crate::sys::{self, IdMaps};

const INSIDE: &str = "HAWSER_TEST_CASE";
const BRIDGE_NF: &str = "HAWSER_TEST_BRIDGE_NF";
/// Longer than any case takes on two busy cores, one that boots a machine and runs other cases there too.
const CASE_DEADLINE: Duration = Duration::from_secs(1800);

/// Runs `body` in a lab of its own. `body` must be the closure of the one `case` call in a `#[test]`.
pub fn case<F: FnOnce(&mut Lab)>(body: F) {
    run(body, &["1"]);
}

/// Like [`case`], twice: with `bridge-nf-call-{iptables,ip6tables,arptables}` at 0, and at 1. For every test of packets
/// between containers: a stock Debian has 0, a kernel with br_netfilter built in starts each namespace with 1.
pub fn packets<F: FnOnce(&mut Lab)>(body: F) {
    run(body, &["0", "1"]);
}

fn run<F: FnOnce(&mut Lab)>(body: F, bridge_nf: &[&str]) {
    let name = test_name::<F>();
    if env::var(INSIDE).is_ok_and(|inside| inside == name) {
        let value = env::var(BRIDGE_NF).expect("set by the outer half of this case");
        body(&mut Lab::new(&value));
        return;
    }
    for value in bridge_nf {
        run_inside(&name, value);
    }
}

/// Runs `body` in a lab of its own, for a program that is no test: it starts itself again inside, with the same arguments.
/// Gives what `body` gives, as an exit code. Panics when it takes longer than `deadline`.
pub fn program(deadline: Duration, body: impl FnOnce(&mut Lab) -> u8) -> u8 {
    if env::var_os(INSIDE).is_some() {
        // As a stock Debian has it, where it is a module that is not loaded.
        return body(&mut Lab::new("0"));
    }
    let mut command = Command::new(env::current_exe().expect("path of this program"));
    command.args(env::args_os().skip(1)).env(INSIDE, "program");
    command.stdin(Stdio::null());
    sys::isolate(&mut command, None);
    let outcome = Running::spawn(command).end_within(deadline);
    u8::try_from(outcome.code).unwrap_or(1)
}

/// The name of the `#[test]` as libtest knows it, from the type of its closure: `file::test::{{closure}}`.
fn test_name<F>() -> String {
    let full = std::any::type_name::<F>();
    let mut parts = full
        .split("::")
        .skip(1)
        .take_while(|part| *part != "{{closure}}");
    let mut name = parts
        .next()
        .expect("a closure inside a function")
        .to_owned();
    for part in parts {
        name.push_str("::");
        name.push_str(part);
    }
    name
}

fn run_inside(name: &str, bridge_nf: &str) {
    let mut command = Command::new(env::current_exe().expect("path of the test binary"));
    command.args([
        "--exact",
        name,
        "--nocapture",
        "--include-ignored",
        "--test-threads=1",
    ]);
    command
        .env(INSIDE, name)
        .env(BRIDGE_NF, bridge_nf)
        .env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null());
    let maps = (!is_root()).then(|| IdMaps {
        uid: format!("0 {} 1", nix::unistd::getuid()),
        gid: format!("0 {} 1", nix::unistd::getgid()),
    });
    sys::isolate(&mut command, maps);
    let outcome = collect(command, CASE_DEADLINE);
    assert_eq!(
        outcome.code,
        0,
        "case {name} (bridge-nf-call at {bridge_nf}):\n{}",
        outcome.err()
    );
    assert!(
        outcome.out().contains("1 passed"),
        "{name} is no test: `case` must be called by the test itself:\n{}",
        outcome.out()
    );
    show_tables(&outcome.out());
}

/// What a case has measured: the lines of its tables (`cargo test -- --nocapture` shows them).
#[expect(
    clippy::print_stdout,
    reason = "libtest captures it, and shows it when it is asked to"
)]
fn show_tables(out: &str) {
    for line in out.lines().filter(|line| line.starts_with("| ")) {
        println!("{line}");
    }
}

/// Whether the tests were started by root (inside a case this is still true for a mapped root: see [`Lab::real_root`]).
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says that a test cannot run here, and why: a failure under `MUST_WORK=1`, else a line on stderr and in
/// `target/tests-skipped.txt`, which outlives runners that hide what a passing test prints.
pub fn skip(reason: &str) {
    assert!(
        env::var("MUST_WORK").as_deref() != Ok("1"),
        "cannot run here, and MUST_WORK=1: {reason}"
    );
    let name = env::var(INSIDE).unwrap_or_default();
    let line = format!("skipped: {name}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(target().join("tests-skipped.txt"));
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("write down what is skipped");
}

/// The directory that cargo builds in.
fn target() -> PathBuf {
    let exe = env::current_exe().expect("path of the test binary");
    let is_test = exe.parent().is_some_and(|place| place.ends_with("deps"));
    exe.ancestors()
        .nth(if is_test { 3 } else { 2 })
        .expect("target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM")
        .to_owned()
}

/// Waits until no other test holds this, and holds it until dropped: for bursts, which would slow each other down and
/// be measured as slow.
pub fn alone() -> Flock<File> {
    let file = File::create(target().join("tests-alone.lock")).expect("make a lock file");
    Flock::lock(file, FlockArg::LockExclusive)
        .unwrap_or_else(|(_, error)| panic!("lock a file: {error}"))
}

/// The host-helper under test.
pub fn binary() -> PathBuf {
    find("HOST_HELPER", "host-helper")
}

/// The init under test.
pub fn init_binary() -> PathBuf {
    find("INIT_BIN", "init")
}

/// A program that runs where there is nothing but a kernel: `floor` or `probe`.
pub fn bare(name: &str) -> PathBuf {
    let built = format!("../target/{}-unknown-linux-musl/release", env::consts::ARCH);
    let directory = env::var_os("BARE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(built),
        PathBuf::from,
    );
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `make bench`, or set BARE",
        path.display()
    );
    path
}

fn find(variable: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let path =
        env::var_os(variable).map_or_else(|| root.join("target/release").join(name), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: run `make build` first, or set {variable}",
        path.display()
    );
    path
}
