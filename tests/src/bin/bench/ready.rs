//! Ready: from the start of the process to the command's first connection, inside, to the gateway, to a server behind
//! NAT, to a name.

use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{DEADLINE, collect};
use nix::time::{ClockId, clock_gettime};

use crate::contest::{self, Contender};
use crate::left;
use crate::servers::{self, GATEWAY, NAME, OUTSIDE, PORT, PROBE};
use crate::start;
use crate::table::{Cell, Table};
use crate::times::Times;
use crate::{Bench, world::Measured};

const ROUNDS: usize = 200;
const FLOOR: &str = "floor: to the gateway";
/// What takes longer has lost a packet: TCP and ARP wait a second before the next one.
const SECOND_TRY: Duration = Duration::from_secs(1);

/// The table.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    servers::start(lab);
    // Packets that were lost, and with which a connection took a second.
    let retried = std::cell::Cell::new(0_u64);
    let ours = |name: &str, options: &'static [&'static str], to: &'static str| {
        let retried = &retried;
        Contender::new(name, 1, move |_| {
            let to = format!("{to}:{PORT}");
            first(lab.run_command(options, &[PROBE, "connect", &to]), retried)
        })
    };
    let floor_retried = std::cell::Cell::new(0_u64);
    let mut all = vec![
        ours("hawser run: to the gateway", &[], GATEWAY),
        ours("hawser run: to a server outside, through NAT", &[], OUTSIDE),
        ours("hawser run: to its name", &[], NAME),
        ours(
            "hawser run --network ptp: to the gateway",
            &["--network", "ptp"],
            "10.0.0.1",
        ),
        Contender::new(FLOOR, 1, |round| {
            let to = format!("{GATEWAY}:{PORT}");
            first(
                start::floor(lab, round, &[PROBE, "connect", &to]),
                &floor_retried,
            )
        }),
    ];
    contest::run(&mut all, bench.options.rounds(ROUNDS));
    let mut table = Table::new(
        "Ready: from the start of the process to the first connection inside",
        &["p50 / floor", "p50, ms", "p99, ms", "longest, ms", "runs"],
    );
    let floor = contest::times_of(&all, FLOOR).map(Times::median);
    for one in &all {
        table.row(
            &one.name,
            vec![
                floor.map_or(Cell::None, |floor| Cell::Ratio(one.times.median() / floor)),
                Cell::Ms(one.times.median()),
                Cell::Ms(one.times.quantile(0.99)),
                Cell::Ms(one.times.quantile(1.0)),
                Cell::Count(one.times.count() as u64),
            ],
        );
    }
    let (ours, floors) = (retried.get(), floor_retried.get());
    if ours > 0 {
        let reason = format!("{ours} connections took a second try; none is to");
        left::out("hawser run", &reason);
    }
    table.note(format!(
        "Second tries, of TCP or for a neighbour's address: {ours} by ours, {floors} by the floor."
    ));
    vec![table]
}

/// The time on the clock that all namespaces share.
pub fn clock() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .expect("a clock")
        .into()
}

/// What `probe connect` says, counted from now.
fn first(mut command: Command, retried: &std::cell::Cell<u64>) -> Measured {
    command.stdin(Stdio::null());
    let start = clock();
    let outcome = collect(command, DEADLINE);
    let text = outcome.out();
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    match (words.next(), words.next()) {
        (Some(Ok(time)), Some(Ok(again))) if outcome.code == 0 => {
            let elapsed = Duration::from_nanos(time).saturating_sub(start);
            // The kernel asks for a neighbour's address again after a second, and TCP does not notice.
            let late = u64::from(elapsed >= SECOND_TRY);
            retried.set(retried.get() + again.max(late));
            Ok(elapsed)
        }
        _ => Err(outcome.err().trim().to_owned()),
    }
}
