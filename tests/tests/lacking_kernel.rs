//! A kernel without what we need: the option that is missing is named, and nothing is left.
//!
//! strace lets the kernel see another word than the one that host-helper wrote, so that it is the kernel that refuses.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::net::if_::if_nametoindex;

use lab::{DEADLINE, Lab, Snapshot, Work, calls, case, collect, sh, strace};

/// Runs `arguments` so that the first netlink message with `kind` in it asks for `other` instead.
fn without(lab: &Lab, arguments: &[&str], kind: &str, other: &str) -> lab::Outcome {
    lacking(lab, &|| lab.command(arguments), None, kind, other)
}

/// The same with any command, which reads `input`.
fn lacking(
    lab: &Lab,
    command: &dyn Fn() -> Command,
    input: Option<&Path>,
    kind: &str,
    other: &str,
) -> lab::Outcome {
    let traced = |options: &[&str], path: &str| {
        let mut traced = strace::traced(&command(), options, path);
        if let Some(input) = input {
            traced.stdin(File::open(input).expect("what it reads"));
        }
        collect(traced, DEADLINE)
    };
    assert_eq!(kind.len(), other.len(), "the message keeps its length");
    let trace = lab.dir.join("trace");
    let path = trace.to_string_lossy();
    let options = ["-e", "trace=sendto", "-e", "write=3,4,5,6,7,8,9,10,11,12"];
    traced(&options, &path).exits(0);
    lab.settle();
    lab.hawser(&["down"]).exits(0);
    let sent = strace::dumps(&fs::read_to_string(&trace).expect("the trace"), "sendto(");
    let at = |bytes: &[u8]| {
        bytes
            .windows(kind.len())
            .position(|window| window == kind.as_bytes())
    };
    let index = sent
        .iter()
        .position(|bytes| at(bytes).is_some())
        .expect("a message that asks for it");
    let mut bytes = sent[index].clone();
    let start = at(&bytes).expect("the word");
    bytes[start..start + other.len()].copy_from_slice(other.as_bytes());
    // strace takes no more than some thousand bytes: the rest stays as it is.
    bytes.truncate(start + other.len());
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let poke = format!("inject=sendto:poke_enter=@arg2={hex}:when={}", index + 1);
    let options = ["-e", "trace=sendto", "-e", &poke];
    let outcome = traced(&options, &path);
    fs::remove_file(&trace).expect("remove the trace");
    outcome
}

#[test]
fn bridges() {
    case(|lab| {
        let before = Snapshot::take();
        without(lab, &["up"], "bridge", "bridgx").refused(&[
            "hawser0",
            "EOPNOTSUPP",
            "CONFIG_BRIDGE",
        ]);
        before.assert_back();
    });
}

#[test]
fn veths() {
    case(|lab| {
        let before = Snapshot::take();
        let rootfs = lab.rootfs.to_string_lossy();
        for network in ["bridge", "ptp"] {
            let arguments = [
                "run",
                "--rootfs",
                &rootfs,
                "--network",
                network,
                "--ip",
                "",
                "--",
                "true",
            ];
            let address = if network == "ptp" {
                "10.0.0.9"
            } else {
                "172.19.0.9"
            };
            let arguments = arguments.map(|word| if word.is_empty() { address } else { word });
            let outcome = without(lab, &arguments, "veth", "vetx");
            outcome.refused(&["EOPNOTSUPP", "CONFIG_VETH"]);
            lab.hawser(&["down"]);
        }
        fs::remove_file(lab.rootfs.join("etc/resolv.conf")).expect("made by the run that was good");
        fs::remove_file(lab.rootfs.join("etc/hosts")).expect("made by the run that was good");
        before.assert_back();
    });
}

#[test]
fn nat() {
    case(|lab| {
        let before = Snapshot::take();
        // The type of the first chain that is about addresses.
        without(lab, &["up"], "nat\0", "nax\0").refused(&["CONFIG_NF_TABLES", "NFT_NAT"]);
        before.assert_back();
    });
}

/// STATUS of the CNI plugin tries what a container needs, and says what is missing (50).
#[test]
fn status_of_a_network() {
    case(|lab| {
        let plugin = lab.plugin();
        let config = r#"{"cniVersion":"1.1.0","name":"blue","type":"hawser"}"#;
        let command = || plugin.command(config.as_bytes(), &[("CNI_COMMAND", "STATUS")]);
        let before = Snapshot::take();
        for (kind, other, why) in [
            ("bridge", "bridgx", "CONFIG_BRIDGE"),
            ("veth", "vetx", "CONFIG_VETH"),
            ("nat\0", "nax\0", "NFT_NAT"),
        ] {
            let outcome = lacking(lab, &command, Some(&plugin.input()), kind, other);
            lab::Answer(outcome).fault(50, &["try what a container needs", why]);
            before.assert_back();
        }
    });
}

/// Each request to the kernel is refused, one in each run, on a host that has no network yet. Either nothing is changed, or the network
/// is there, and whole; and `down` leaves nothing of that either.
#[test]
fn a_first_run_of_which_anything_is_refused() {
    case(|lab| {
        let options = ["--name", "web", "--ip", "172.19.0.9", "-p", "8080:80"];
        lab.run(&options, &["true"]).ok();
        lab.settle();
        let with_network = Snapshot::take();
        lab.hawser(&["down"]).ok();
        let untouched = Snapshot::whole();
        let work = Work {
            command: &|| {
                lab.hawser(&["down"]).ok();
                lab.run_command(&options, &["true"])
            },
            undo: &|_| (),
            is_over: &|_| false,
            input: None,
        };
        let all = calls(lab, &work);
        fs::remove_file(lab.dir.join("trace")).expect("remove the trace");
        let (mut refused, mut complaints) = (0, Vec::new());
        for (call, errors) in [
            ("sendto", ["EPERM", "EOPNOTSUPP"]),
            ("socket", ["EPERM", "EAFNOSUPPORT"]),
        ] {
            let times = all.iter().filter(|(name, _)| name == call).count();
            for (when, error) in (1..=times).flat_map(|when| errors.map(|error| (when, error))) {
                let inject = format!("inject={call}:error={error}:when={when}");
                let (is_refused, found) = refuse(lab, &work, &inject, &with_network);
                refused += u32::from(is_refused);
                lab.hawser(&["down"]).ok();
                let changes = [found, untouched.changes()].concat();
                complaints.extend(changes.iter().map(|change| format!("{inject}: {change}")));
            }
        }
        assert!(
            complaints.is_empty(),
            "{} complaints:\n{}",
            complaints.len(),
            complaints.join("\n")
        );
        assert!(refused > 20, "hardly anything was refused: {refused}");
    });
}

/// Whether it was, and what is not as it should be.
fn refuse(lab: &Lab, work: &Work, inject: &str, with_network: &Snapshot) -> (bool, Vec<String>) {
    let trace = lab.dir.join("trace");
    let outcome = collect(
        work.traced(&["-e", inject], &trace.to_string_lossy()),
        DEADLINE,
    );
    fs::remove_file(&trace).expect("remove the trace");
    lab.settle();
    // What could not be taken back.
    lab.hawser(&["ls"]).exits(0);
    let mut found = Vec::new();
    let is_told = outcome.code == 125 && outcome.err().lines().count() == 1;
    if outcome.code != 0 && !is_told {
        found.push(outcome.to_string());
    }
    if if_nametoindex("hawser0").is_ok() || !sh("nft list tables").is_empty() {
        let mut changes = with_network.changes();
        // Files of the network come with its first container, and so do the elements by which the rules know it. A neighbour that
        // cannot be taken back does no harm: see `mark.rs`.
        let comes_later = |change: &String| {
            change.starts_with("files: ")
                || change.starts_with("neighbours: ")
                || (change.contains("elements = ") && change.ends_with(" is gone"))
        };
        changes.retain(|change| !comes_later(change));
        found.extend(changes);
    }
    (outcome.code == 125, found)
}

#[test]
fn switches_that_cannot_be_written() {
    case(|lab| {
        sh("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys");
        let before = Snapshot::whole();
        for network in ["bridge", "ptp"] {
            let outcome = lab.run(&["--network", network], &["true"]);
            outcome.refused(&["EROFS", "/proc/sys is read-only here: set net.", " outside"]);
        }
        assert_eq!(before.host_changes(), Vec::<String>::new());
    });
}
