//! Burst: many containers started by many at once.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::contest::{self, timed};
use crate::start;
use crate::table::{Cell, Table};
use crate::times::Times;
use crate::{Bench, left};

/// Containers of one burst.
const COUNT: usize = 200;
/// How many start them.
const WORKERS: [usize; 4] = [1, 8, 32, 64];
/// Bursts of each kind, in turns; who is first changes from one to the next.
const TURNS: usize = 3;

/// Several bursts of one kind.
#[derive(Default)]
struct Bursts {
    rates: Vec<f64>,
    times: Times,
    /// What those have said that failed.
    failures: Vec<String>,
}

impl Bursts {
    /// That of the median burst.
    fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Says it, if some failed.
    fn complain(&self, who: &str, workers: usize) {
        let Some(last) = self.failures.last() else {
            return;
        };
        let failures = self.failures.len();
        let all = self.times.count() + failures;
        left::out(
            &format!("{who}, by {workers}"),
            &format!("{failures} of {all} starts failed: {last}"),
        );
    }
}

/// The table.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    let (count, turns) = match bench.options.quick {
        true => (8, 1),
        false => (COUNT, TURNS),
    };
    let title = format!("Burst: {count} containers around /bin/true, started by so many at once");
    let mut table = Table::new(
        &title,
        &[
            "time / floor's",
            "p50 / floor's",
            "a second",
            "floors a second",
            "p50, ms",
            "p99, ms",
            "failures",
            "floor's failures",
        ],
    );
    for workers in WORKERS {
        let [mut ours, mut floors] = [Bursts::default(), Bursts::default()];
        for turn in 0..turns {
            for is_ours in [turn % 2 == 0, turn % 2 == 1] {
                match is_ours {
                    true => one(&mut ours, workers, count, |_| {
                        lab.run_command(&[], &["/bin/true"])
                    }),
                    false => one(&mut floors, workers, count, |at| {
                        start::floor(lab, at, &["/bin/true"])
                    }),
                }
            }
        }
        table.row(
            format!("by {workers}"),
            vec![
                Cell::Ratio(floors.rate() / ours.rate()),
                Cell::Ratio(ours.times.median() / floors.times.median()),
                Cell::Ratio(ours.rate()),
                Cell::Ratio(floors.rate()),
                Cell::Ms(ours.times.median()),
                Cell::Ms(ours.times.quantile(0.99)),
                Cell::Count(ours.failures.len() as u64),
                Cell::Count(floors.failures.len() as u64),
            ],
        );
        ours.complain(start::OURS, workers);
        floors.complain("floor", workers);
    }
    vec![table]
}

fn one(
    bursts: &mut Bursts,
    workers: usize,
    count: usize,
    command: impl Fn(usize) -> Command + Sync,
) {
    let links = contest::count_links();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let done: Vec<Vec<Result<Duration, String>>> = std::thread::scope(|scope| {
        let worker = || {
            let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
            let mine = numbers.take_while(|number| *number < count);
            mine.map(|number| timed(command(number))).collect()
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let ends = threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker"));
        ends.collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let before = bursts.times.count();
    for result in done.into_iter().flatten() {
        match result {
            Ok(time) => bursts.times.push(time),
            Err(error) => bursts.failures.push(error),
        }
    }
    // What failed was none, however fast.
    let started = bursts.times.count() - before;
    bursts.rates.push(started as f64 / elapsed);
    contest::settle(links);
}
