//! Where the time goes: what `--verbose` tells of a start.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Bench;
use crate::contest;
use crate::table::{Cell, Table};
use crate::times::Times;

const ROUNDS: usize = 100;

/// One table: a row for each step, in the order in which they are told.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    let ways: [(&str, &[&str]); 3] = [
        ("run", &[]),
        ("run -p", &["-p", "8080:80"]),
        ("ptp", &["--network", "ptp"]),
    ];
    let mut order: Vec<String> = vec![];
    let mut times = ways.map(|_| BTreeMap::<String, Times>::new());
    let links = contest::count_links();
    for round in 0..=bench.options.rounds(ROUNDS) {
        for at in contest::in_turn(ways.len(), round) {
            let ((_, options), times) = (&ways[at], &mut times[at]);
            let mut command = lab.run_command(options, &["/bin/true"]);
            // Before the subcommand, where it belongs.
            let mut verbose = std::process::Command::new(command.get_program());
            verbose.arg("--verbose").args(command.get_args());
            verbose.stdin(std::process::Stdio::null());
            command = verbose;
            let outcome = lab::collect(command, lab::DEADLINE).exits(0);
            for (step, time) in outcome.err().lines().filter_map(parse) {
                if !order.contains(&step) {
                    // Steps of ports come where they come, not behind the last one.
                    let last = order.iter().position(|one| one == WHOLE);
                    order.insert(last.unwrap_or(order.len()), step.clone());
                }
                if round > 0 {
                    times.entry(step).or_default().push(time);
                }
            }
            contest::settle(links);
        }
    }
    let mut columns = vec!["share of run".to_owned()];
    columns.extend(ways.iter().map(|(name, _)| format!("{name}, ms")));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let title = "Where the time goes: steps of host-helper as --verbose tells them, medians";
    let mut table = Table::new(title, &columns);
    let median = |times: &BTreeMap<String, Times>, step: &str| times.get(step).map(Times::median);
    let whole = median(&times[0], WHOLE);
    for step in &order {
        let share = median(&times[0], step).zip(whole);
        let mut cells = vec![share.map_or(Cell::None, |(part, whole)| Cell::Ratio(part / whole))];
        cells.extend(
            times
                .iter()
                .map(|times| median(times, step).map_or(Cell::None, Cell::Ms)),
        );
        table.row(step, cells);
    }
    table.note("From the first line of main to `ready`; the start of the process, `exec`, the command and the end come on top. `mounts`, `init` and `config` are the container's own, beside the others: `ready` is the wait for them.");
    vec![table]
}

/// The last line: all of them together.
const WHOLE: &str = "started in";

/// `host-helper: STEP N ms`.
fn parse(line: &str) -> Option<(String, Duration)> {
    let rest = line.strip_prefix("host-helper: ")?.strip_suffix(" ms")?;
    let (step, time) = rest.rsplit_once(' ')?;
    let seconds = time.parse::<f64>().ok()? / 1e3;
    Some((step.to_owned(), Duration::from_secs_f64(seconds)))
}
