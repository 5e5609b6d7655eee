//! Scale: what a start costs where so many containers live already.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{Lab, collect};

use crate::Bench;
use crate::cni;
use crate::contest::{self, Contender, timed};
use crate::start;
use crate::table::{Cell, Table};
use crate::times::Times;

/// How many live. A bridge has 1,023 ports.
const LIVING: [usize; 4] = [1, 100, 500, 1000];
/// Measurements of each, on each level.
const ROUNDS: usize = 60;
/// Who starts those that live.
const WORKERS: usize = 4;
/// For the end of all of them.
const DEADLINE: Duration = Duration::from_secs(300);

/// The table.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    let levels = if bench.options.quick {
        [1, 2, 3, 4]
    } else {
        LIVING
    };
    let mut table = Table::new(
        "Scale: a start, where so many containers live on the same bridge",
        &[
            "/ floor",
            "p10 / floor's p10",
            "ours / at 1",
            "-p on top, ms",
            "run, ms",
            "floor, ms",
        ],
    );
    let mut living = 0;
    let mut alone = f64::NAN;
    for level in levels {
        populate(lab, level - living);
        living = level;
        let mut all = vec![
            Contender::process("run", 1, |_| lab.run_command(&[], &["/bin/true"])),
            Contender::process("run -p", 1, |_| {
                lab.run_command(&["-p", "8080:80"], &["/bin/true"])
            }),
            Contender::process("floor", 1, |round| start::floor(lab, round, &["/bin/true"])),
        ];
        contest::run(&mut all, bench.options.rounds(ROUNDS));
        let of = |name: &str| contest::times_of(&all, name);
        let median = |name: &str| of(name).map_or(f64::NAN, Times::median);
        let p10 = |name: &str| of(name).map_or(f64::NAN, Times::p10);
        if alone.is_nan() {
            alone = median("run");
        }
        table.row(
            level.to_string(),
            vec![
                Cell::Ratio(median("run") / median("floor")),
                Cell::Ratio(p10("run") / p10("floor")),
                Cell::Ratio(median("run") / alone),
                Cell::Ms(median("run -p") - median("run")),
                Cell::Ms(median("run")),
                Cell::Ms(median("floor")),
            ],
        );
    }
    let start = Instant::now();
    collect(lab.command(&["down", "--force"]), DEADLINE).exits(0);
    let end = start.elapsed().as_secs_f64();
    table.note(format!("`down --force` with {living} living: {end:.1} s."));
    lab.settle();
    vec![table, plugin(bench, &levels)]
}

/// The same of ADD, where those that live are on its bridge.
fn plugin(bench: &Bench, levels: &[usize]) -> Table {
    let lab = bench.lab;
    lab.with_network();
    let mut table = Table::new(
        "Scale: ADD of the CNI plugin with a port, where so many live on the same bridge",
        &["/ floor", "ours / at 1", "ADD, ms", "floor, ms"],
    );
    let network = cni::Network::new(lab);
    let mut living = vec![];
    let mut alone = f64::NAN;
    for level in levels {
        network.populate(&mut living, *level);
        let mut all = vec![
            network.contender(),
            Contender::process("floor", 1, |round| start::floor(lab, round, &["/bin/true"])),
        ];
        contest::run(&mut all, bench.options.rounds(ROUNDS));
        let median = |name| contest::times_of(&all, name).map_or(f64::NAN, Times::median);
        let [ours, floor] = [cni::OURS, "floor"].map(median);
        if alone.is_nan() {
            alone = ours;
        }
        table.row(
            level.to_string(),
            vec![
                Cell::Ratio(ours / floor),
                Cell::Ratio(ours / alone),
                Cell::Ms(ours),
                Cell::Ms(floor),
            ],
        );
    }
    table.note("The floor is a container on another bridge, which is empty, from nothing to its end; ADD is given a network namespace.");
    network.end(lab);
    drop(living);
    lab.hawser(&["down"]).exits(0);
    lab.settle();
    table
}

/// So many more, that sleep.
pub fn populate(lab: &Lab, count: usize) {
    let started = AtomicUsize::new(0);
    let sleeper = || -> Command { lab.run_command(&["-d"], &["/bin/busybox", "sleep", "1000000"]) };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while started.fetch_add(1, Ordering::Relaxed) < count {
                    timed(sleeper())
                        .unwrap_or_else(|error| panic!("start one that stays: {error}"));
                }
            });
        }
    });
}
