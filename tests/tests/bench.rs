//! `make bench` works: each of its parts, with as few measurements as can be. No time is looked at here.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Outcome, alone, collect, is_root, skip};
use serde_json::Value;

/// For all parts together, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(900);

fn bench(words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(words).stdin(Stdio::null());
    collect(command, DEADLINE)
}

#[test]
fn each_part_measures_something() {
    if !is_root() {
        skip("bench wants root");
        return;
    }
    let _alone = alone();
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench.json");
    let name = file.to_string_lossy();
    let outcome = bench(&["--quick", "--json", &name]).exits(0);
    let text = std::fs::read_to_string(&file).expect("read what it has written");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let tables = all["tables"].as_array().expect("tables");
    let help = bench(&["--help"]).ok();
    let parts = help
        .split_once("\n\n")
        .and_then(|(_, rest)| rest.split_once("\n\n"));
    let (_, parts) = parts.expect("a list of parts");
    for part in parts
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        let mut of_part = tables.iter().filter(|table| table["part"] == part);
        let rows = of_part.next().map(|table| &table["rows"]);
        let rows = rows.and_then(Value::as_array).map_or(0, Vec::len);
        assert!(rows > 0, "{part} has no rows: {outcome}");
    }
    let bursts = rows_of(&all, "burst");
    for key in ["failures", "floor's failures"] {
        assert!(bursts.iter().all(|row| row[key] == 0), "{key}: {outcome}");
    }
    let out = outcome.out();
    assert!(out.contains("hawser run "), "{outcome}");
    assert!(all["machine"]["kernel"].is_string(), "{text}");
    assert!(!outcome.err().contains("left out: hawser"), "{outcome}");
}

/// Those of the first table of a part.
#[track_caller]
fn rows_of<'a>(all: &'a Value, part: &str) -> &'a [Value] {
    let tables = all["tables"].as_array().expect("tables");
    let mut of_part = tables.iter().filter(|table| table["part"] == part);
    let rows = of_part.next().and_then(|table| table["rows"].as_array());
    rows.unwrap_or_else(|| panic!("{part}: {all}"))
}

/// How one fails whose command is `/bin/true`.
const NO_TRUE: &str = "case \"$*\" in */bin/true) echo it fails on purpose >&2; exit 1;; esac";

/// A directory with a program of this name: a script with these lines, which becomes the real one behind them.
fn failing(place: &str, real: &Path, lines: &str) -> PathBuf {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(place);
    std::fs::create_dir_all(&place).expect("a directory");
    let program = place.join(real.file_name().expect("a name"));
    let script = format!(
        "#!/bin/sh\nreal='{0}'\n{lines}\nexec \"$real\" \"$@\"\n",
        real.display()
    );
    std::fs::write(&program, script).expect("write a program");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("make it one");
    place
}

/// Bench with these variables; what it has written.
fn measured(words: &[&str], variables: &[(&str, &Path)]) -> (Value, Outcome) {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("measured.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command
        .args(["--quick", "--json"])
        .arg(&file)
        .args(words)
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    let outcome = collect(command, DEADLINE).exits(0);
    let text = std::fs::read_to_string(&file).expect("read what it has written");
    (serde_json::from_str(&text).expect("JSON"), outcome)
}

/// What failed is no container a second, and is told at the end of the tables.
#[test]
fn starts_that_fail_in_a_burst_are_none() {
    if !is_root() {
        skip("bench wants root");
        return;
    }
    let _alone = alone();
    let ours = failing("failing-ours", &lab::binary(), NO_TRUE);
    let floor = failing("failing-floor", &lab::bare("floor"), NO_TRUE);
    for (variable, path, rate, failures, name) in [
        (
            "HOST_HELPER",
            ours.join("host-helper"),
            "a second",
            "failures",
            "hawser run",
        ),
        (
            "BARE",
            floor,
            "floors a second",
            "floor's failures",
            "floor",
        ),
    ] {
        let (all, outcome) = measured(&["--only", "burst"], &[(variable, &path)]);
        let rows = rows_of(&all, "burst");
        for row in rows {
            assert_eq!(
                (&row[rate], &row[failures]),
                (&0.0.into(), &8.into()),
                "{outcome}"
            );
        }
        let failed = all["failed"].as_array().expect("a list");
        assert_eq!(failed.len(), rows.len(), "{outcome}");
        for one in failed {
            let [who, why] = ["name", "reason"].map(|key| one[key].as_str().expect("a word"));
            assert!(who.starts_with(name), "{one}");
            assert!(
                why.starts_with("8 of 8 starts failed: ") && why.ends_with("on purpose"),
                "{one}"
            );
        }
    }
}

/// Who is left out is no base of anybody, and nobody else is one in its place.
#[test]
fn what_is_left_out_divides_nothing() {
    if !is_root() {
        skip("bench wants root");
        return;
    }
    let _alone = alone();
    let no_connect = "case \"$*\" in *connect*) exit 1;; esac";
    let floor = failing("no-connect", &lab::bare("floor"), no_connect);
    let probe = floor.join("probe");
    let _ = std::fs::remove_file(&probe);
    symlink(lab::bare("probe"), probe).expect("make a link");
    let no_port = "test -z \"$CNI_COMMAND\" && exec \"$real\" \"$@\"
        input=$(cat)
        case $CNI_COMMAND$input in ADD*8080*) exit 1;; esac
        printf %s \"$input\" | \"$real\" cni
        exit";
    let plugin = failing("no-port", &lab::binary(), no_port).join("host-helper");
    let no_true = "case \"$*\" in *'busybox true') exit 1;; esac";
    let init = failing("no-true", &lab::init_binary(), no_true).join("init");
    // The last table of the part, and the row that is not there.
    for (part, variable, path, table, ratios, gone) in [
        (
            "ready",
            "BARE",
            &floor,
            "Ready:",
            &["p50 / floor"][..],
            "floor: to the gateway",
        ),
        (
            "cni",
            "HOST_HELPER",
            &plugin,
            "CNI:",
            &["ADD / ours with a port", "p10 / ours"],
            "hawser, with a port",
        ),
        (
            "scale",
            "HOST_HELPER",
            &plugin,
            "Scale: ADD",
            &["/ floor", "ours / at 1"],
            "hawser",
        ),
        (
            "init",
            "INIT_BIN",
            &init,
            "PID 1:",
            &["added start / ours", "resident / ours"],
            "init",
        ),
    ] {
        let (all, outcome) = measured(&["--only", part], &[(variable, path)]);
        let mut tables = all["tables"].as_array().expect("tables").iter();
        let is_it = |one: &&Value| {
            one["title"]
                .as_str()
                .is_some_and(|title| title.starts_with(table))
        };
        let found = tables.find(is_it).and_then(|one| one["rows"].as_array());
        let rows = found.unwrap_or_else(|| panic!("{part}: {outcome}"));
        assert!(!rows.is_empty(), "{part}: {outcome}");
        for row in rows {
            // Rows of a level begin with it.
            let name = row["name"].as_str().expect("a name");
            let name = name.strip_prefix("the 1st: ").unwrap_or(name);
            assert_ne!(name, gone, "{outcome}");
            assert!(
                ratios.iter().all(|ratio| row[ratio].is_null()),
                "{row}: {outcome}"
            );
        }
        let failed = all["failed"].as_array().expect("a list");
        assert!(failed.iter().any(|one| one["name"] == gone), "{outcome}");
    }
}

/// What `make bench` unpacks is not there.
#[test]
fn who_is_left_out_is_at_the_end_of_the_tables() {
    if !is_root() {
        skip("bench wants root");
        return;
    }
    let _alone = alone();
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (file, empty) = (place.join("left-out.json"), place.join("no-peers"));
    let name = file.to_string_lossy();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command
        .args(["--quick", "--only", "start", "--json", &name])
        .env("DEBIAN_ROOT", &empty)
        .stdin(Stdio::null());
    let outcome = collect(command, DEADLINE).exits(0);
    let text = std::fs::read_to_string(&file).expect("read what it has written");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let out = outcome.out();
    let (_, end) = out.rsplit_once("\nmissing:").expect("the end");
    let (missing, failed) = end.split_once("\nfailed:").expect("the end");
    for (list, lines) in [("missing", missing), ("failed", failed)] {
        let list = all[list].as_array().expect("a list");
        assert_eq!(list.len(), lines.matches("\n- ").count(), "{outcome}");
        for one in list {
            let [name, reason] = ["name", "reason"].map(|key| one[key].as_str().expect("a word"));
            let is_told = |line: &str| line.contains(name) && line.ends_with(reason);
            assert!(lines.lines().any(is_told), "{one}: {outcome}");
        }
    }
    if ["/usr/bin/podman", "/bin/podman"]
        .map(Path::new)
        .iter()
        .any(|path| path.exists())
    {
        return;
    }
    assert!(
        missing.contains("- podman: not installed or unpacked (Debian's podman)"),
        "{outcome}"
    );
    assert!(
        failed.contains("- podman (start): there is none"),
        "{outcome}"
    );
}

/// The plugins do not tell theirs, and dpkg knows nothing of what is unpacked.
#[test]
fn the_version_of_what_is_unpacked_is_told() {
    if !is_root() {
        skip("bench wants root");
        return;
    }
    if Path::new("/usr/lib/cni/bridge").exists() {
        return;
    }
    let _alone = alone();
    let unpacked = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("unpacked");
    let plugins = unpacked.join("usr/lib/cni");
    std::fs::create_dir_all(&plugins).expect("a directory");
    std::fs::write(plugins.join("bridge"), "").expect("a file");
    let versions = "conmon 2.1.6\ncontainernetworking-plugins 1:1.1.1+ds1-3\n";
    std::fs::write(unpacked.join("versions"), versions).expect("a list");
    let (all, outcome) = measured(&["--only", "steps"], &[("DEBIAN_ROOT", &unpacked)]);
    let found = &all["measured"]["containernetworking-plugins"];
    assert_eq!(found, "1:1.1.1+ds1-3", "{outcome}");
}

#[test]
fn what_it_does_not_know_is_refused() {
    for words in [
        &["--only", "nonsense"][..],
        &["--rounds", "0"],
        &["--json"],
        &["-x"],
    ] {
        let outcome = bench(words).exits(125);
        assert_eq!(outcome.err().lines().count(), 1, "{outcome}");
    }
}
