//! Ports: what a published one adds to a start, and how long it takes to give a living container one, however many
//! there are.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use lab::Lab;

use crate::contest::{self, Contender};
use crate::table::{Cell, Table};
use crate::times::Times;
use crate::world::Measured;
use crate::{Bench, track};

const ROUNDS: usize = 100;

/// The table.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    let mut table = Table::new(
        "Ports: published ones on the host, and what one more costs",
        &[
            "run -p / run",
            "-p on top, ms",
            "p10 of that, ms",
            "port add, ms",
            "port rm, ms",
            "run, ms",
            "run -p, ms",
        ],
    );
    let many = if bench.options.quick {
        "20000-20009:20000-20009"
    } else {
        "20000-29999:20000-29999"
    };
    let rows = [
        ("1", "10000:80", 1),
        (many, many, 1),
        ("1, among 200 connections", "10000:80", 200),
    ];
    for (name, ports, connections) in rows {
        let _tracked = track(lab, connections);
        let words = ["-d", "--name", "ports", "-p", ports];
        lab.run(&words, &["/bin/busybox", "sleep", "1000000"]).ok();
        let mut removed = Times::default();
        let mut all = starts(lab);
        all.push(Contender::new("port add", 1, |round| {
            // Each time another port.
            let port = 40_000 + round % 20_000;
            let added = ask(&format!("port add {port}:80/tcp"))?;
            removed.push(ask(&format!("port rm {port}:80/tcp"))?);
            Ok(added)
        }));
        contest::run(&mut all, bench.options.rounds(ROUNDS));
        let [run, with, added] = ["run", "run -p", "port add"].map(|name| {
            let found = contest::times_of(&all, name);
            found.cloned().unwrap_or_default()
        });
        drop(all);
        table.row(
            name,
            vec![
                Cell::Ratio(with.median() / run.median()),
                Cell::Ms(with.median() - run.median()),
                Cell::Ms(with.p10() - run.p10()),
                Cell::Ms(added.median()),
                Cell::Ms(removed.median()),
                Cell::Ms(run.median()),
                Cell::Ms(with.median()),
            ],
        );
        lab.hawser(&["stop", "ports"]).exits(0);
        lab.hawser(&["rm", "ports"]).exits(0);
        lab.settle();
    }
    table.note("The kernel tracks connections of others, as on any host: one, where a row names no more. `port add` and `port rm` by the control socket, from the request to the end of its answer: the port is held, and the rules lead to the container.");
    vec![table]
}

fn starts(lab: &Lab) -> Vec<Contender<'_>> {
    [("run", &[][..]), ("run -p", &["-p", "8080:80"])]
        .map(|(name, options)| {
            Contender::process(name, 1, move |_| lab.run_command(options, &["/bin/true"]))
        })
        .into()
}

/// A request to the supervisor.
fn ask(request: &str) -> Measured {
    let failed = |error: std::io::Error| format!("{request}: {error}");
    let start = Instant::now();
    let mut stream = UnixStream::connect("/run/hawser/ports.sock").map_err(failed)?;
    let line = format!("hawser 1 {request}\n");
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    match answer.starts_with("error") {
        true => Err(format!("{request}: {answer}")),
        false => Ok(start.elapsed()),
    }
}
