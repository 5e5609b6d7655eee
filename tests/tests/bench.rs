//! `make bench` works: each of its parts, with as few measurements as can be. No time is looked at here.

use std::path::PathBuf;
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
    let out = outcome.out();
    assert!(out.contains("hawser run "), "{outcome}");
    assert!(all["machine"]["kernel"].is_string(), "{text}");
    assert!(!outcome.err().contains("left out: hawser"), "{outcome}");
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
