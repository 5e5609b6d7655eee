//! What a PID 1 costs: bytes, memory, wake-ups while nothing happens, and what it adds to a start.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lab::{Running, init_binary, sys};

use crate::Bench;
use crate::contest::{self, Contender};
use crate::peers::find;
use crate::table::{Cell, Table};
use crate::times::Times;

/// A command without a PID 1 around it, and ours.
const NONE: &str = "none";
const OURS: &str = "init";
const ROUNDS: usize = 200;
/// How long they are watched, in seconds.
const WATCHED: u32 = 3;

/// A program, and what comes before the command. tini's -s is what the others do without being told.
struct Program {
    name: &'static str,
    path: PathBuf,
    words: &'static [&'static str],
}

impl Program {
    fn command(&self, command: &[&str]) -> Command {
        let mut whole = Command::new(&self.path);
        whole.args(self.words).args(command);
        whole
    }
}

/// The table.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let programs = programs();
    let mut all = vec![Contender::process(NONE, 1, |_| {
        let mut alone = Command::new("/bin/busybox");
        alone.arg("true");
        alone
    })];
    for program in &programs {
        let command = |_| program.command(&["/bin/busybox", "true"]);
        all.push(Contender::process(program.name, 1, command));
    }
    contest::run(&mut all, bench.options.rounds(ROUNDS));
    let times = |name: &str| contest::times_of(&all, name);
    // Who is left out is not watched.
    let programs: Vec<&Program> = programs
        .iter()
        .filter(|program| times(program.name).is_some())
        .collect();
    let seconds = if bench.options.quick { 0 } else { WATCHED };
    let idle = watch(&programs, seconds);
    let added = |name: &str, of: fn(&Times) -> f64| {
        let [with, without] = [name, NONE].map(|name| times(name).map_or(f64::NAN, of));
        with - without
    };
    let ours = programs.iter().position(|program| program.name == OURS);
    let resident = ours.map_or(f64::NAN, |at| idle[at].resident as f64);
    let mut table = Table::new(
        "PID 1: init -s and others, around a command",
        &[
            "added start / ours",
            "resident / ours",
            "file, bytes",
            "all files, bytes",
            "resident, kB",
            "own, kB",
            "wake-ups a second",
            "added start, ms",
            "p10, ms",
        ],
    );
    for (program, watched) in programs.iter().zip(&idle) {
        let file = fs::metadata(&program.path).map_or(0, |file| file.len());
        table.row(
            program.name,
            vec![
                Cell::Ratio(added(program.name, Times::median) / added(OURS, Times::median)),
                Cell::Ratio(watched.resident as f64 / resident),
                Cell::Count(file),
                Cell::Count(watched.files),
                Cell::Count(watched.resident),
                Cell::Count(watched.own),
                Cell::Ratio(watched.turns as f64 / f64::from(seconds.max(1))),
                Cell::Ms(added(program.name, Times::median)),
                Cell::Ms(added(program.name, Times::p10)),
            ],
        );
    }
    vec![table]
}

fn programs() -> Vec<Program> {
    let mut all = vec![Program {
        name: OURS,
        path: init_binary(),
        words: &["-s", "--"],
    }];
    let others: [(&str, &[&str]); 3] = [
        ("tini-static", &["-s", "--"]),
        ("catatonit", &["--"]),
        ("dumb-init", &["--"]),
    ];
    for (name, words) in others {
        all.extend(find(name).map(|path| Program { name, path, words }));
    }
    all
}

/// A program that supervises, seen from outside.
struct Watched {
    /// kB of memory, and of those what it has written to.
    resident: u64,
    own: u64,
    /// Bytes that have to be on the disk for it.
    files: u64,
    /// How often it was given a processor.
    turns: u64,
}

/// All of them at the same time, each around a command that does nothing for so many seconds.
fn watch(programs: &[&Program], seconds: u32) -> Vec<Watched> {
    let script = format!("echo up; sleep {seconds}; echo done; read line");
    let start = |program: &&Program| {
        let mut command = program.command(&["/bin/busybox", "sh", "-c", &script]);
        sys::without_terminal(&mut command);
        let mut running = Running::piped(command);
        running.until("up");
        running
    };
    let mut all: Vec<Running> = programs.iter().map(start).collect();
    let before: Vec<u64> = all.iter().map(|one| turns(one.pid())).collect();
    let look = |(running, before): (&mut Running, u64)| {
        running.until("done");
        let pid = running.pid();
        let rollup = read(pid, "smaps_rollup");
        Watched {
            resident: number(&rollup, "Rss"),
            // Pages of a file just built are dirty until they are on the disk, and not its own.
            own: number(&rollup, "Anonymous"),
            files: bytes_of_files(pid),
            turns: turns(pid) - before,
        }
    };
    all.iter_mut().zip(before).map(look).collect()
}

fn read(pid: i32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// The number behind a word of /proc/PID/status or smaps_rollup.
pub fn number(text: &str, key: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{key} in {text}"))
}

/// How often a process was given a processor.
pub fn turns(pid: i32) -> u64 {
    let status = read(pid, "status");
    number(&status, "voluntary_ctxt_switches") + number(&status, "nonvoluntary_ctxt_switches")
}

fn bytes_of_files(pid: i32) -> u64 {
    let maps = read(pid, "maps");
    let files: BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]))
        .collect();
    let length = |file: &&str| fs::metadata(file).map_or(0, |file| file.len());
    files.iter().map(length).sum()
}
