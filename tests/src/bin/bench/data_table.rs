//! What the probe says, and the tables made of it.

use crate::data::{Rates, WAYS};
use crate::table::{Cell, Table};

/// What is measured on a way.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Connections, one after the other.
    Connections,
    /// Requests and answers over one connection.
    Requests,
    /// Bytes in one direction.
    Stream,
}

impl Kind {
    /// In the order in which they are measured.
    pub const ALL: [Self; 3] = [Self::Connections, Self::Requests, Self::Stream];

    /// As the probe calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Stream => "stream",
        }
    }

    /// So many a second, and the other numbers of the line. `time` is in milliseconds.
    pub fn parse(self, line: &str, time: &str) -> Vec<f64> {
        let words = line.split_whitespace();
        let mut numbers: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
        if !matches!(self, Self::Stream) {
            let seconds = time.parse::<f64>().unwrap_or(f64::NAN) / 1e3;
            numbers[0] /= seconds;
        }
        numbers
    }
}

/// The median of the n-th number of all lines.
fn median(lines: &[Vec<f64>], at: usize) -> f64 {
    let mut all: Vec<f64> = lines
        .iter()
        .filter_map(|line| line.get(at).copied())
        .collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A table for each way. What a place is compared with is the last one without rules before it: of the same minute.
pub fn tables(rates: &[Rates]) -> Vec<Table> {
    let columns = [
        "request / no rules",
        "connection / no rules",
        "stream / no rules",
        "requests a second",
        "p50, us",
        "p99, us",
        "connections a second",
        "p50, us ",
        "stream, MB a second",
    ];
    let table = |(at, title): (usize, &'static str)| {
        let mut table = Table::new(&format!("Data path: {title}"), &columns);
        let mut base = &rates[0];
        for one in rates {
            if one.name == rates[0].name {
                base = one;
            }
            let [connections, requests, stream] = [0, 1, 2].map(|kind| &one.measured[at][kind]);
            let ratio = |kind: usize, number: usize| {
                let (own, without) = (&one.measured[at][kind], &base.measured[at][kind]);
                Cell::Ratio(median(own, number) / median(without, number))
            };
            table.row(
                one.name,
                vec![
                    ratio(1, 1),
                    ratio(0, 1),
                    ratio(2, 0),
                    Cell::Ratio(median(requests, 0)),
                    Cell::Ms(median(requests, 1)),
                    Cell::Ms(median(requests, 2)),
                    Cell::Ratio(median(connections, 0)),
                    Cell::Ms(median(connections, 1)),
                    Cell::Ratio(median(stream, 0)),
                ],
            );
        }
        table.note("Ratios of the median times of a request (64 bytes and back) and of a connection with one request; of the bytes of a stream, where more is better. With 10,000 ports the measured one is in the middle of the rules of others.");
        table
    };
    let titles = WAYS.iter().map(|way| way.title);
    titles.enumerate().map(table).collect()
}
