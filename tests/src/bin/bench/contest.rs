//! Several who do the same, measured in turns.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::time::Instant;

use lab::Watch;

use crate::left;
use crate::times::Times;
use crate::world::Measured;

/// One of them.
pub struct Contender<'a> {
    /// As the table calls it.
    pub name: String,
    /// What was measured so far.
    pub times: Times,
    /// It is its turn once in so many rounds: what is slow would take most of the time.
    each: usize,
    measure: Box<dyn FnMut(usize) -> Measured + 'a>,
    failure: Option<String>,
}

impl<'a> Contender<'a> {
    /// Measured by `measure`, which is told how often it has been before.
    pub fn new(
        name: impl Into<String>,
        each: usize,
        measure: impl FnMut(usize) -> Measured + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            times: Times::default(),
            each,
            measure: Box::new(measure),
            failure: None,
        }
    }

    /// What is measured is a whole process.
    pub fn process(
        name: impl Into<String>,
        each: usize,
        mut command: impl FnMut(usize) -> Command + 'a,
    ) -> Self {
        Self::new(name, each, move |round| timed(command(round)))
    }
}

/// Rounds in which each has its turn, in an order that changes. The first one warms up. Who fails is left out, and that is
/// said.
pub fn run(contenders: &mut Vec<Contender>, rounds: usize) {
    let links = count_links();
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        for last in (1..order.len()).rev() {
            // Marsaglia's xorshift: the same order in each run.
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            order.swap(last, (dice % (last as u64 + 1)) as usize);
        }
        for at in order {
            let one = &mut contenders[at];
            if one.failure.is_some() || round % one.each.min(rounds) != 0 {
                continue;
            }
            match (one.measure)(round) {
                Ok(time) if round > 0 => one.times.push(time),
                Ok(_) => {}
                Err(failure) => {
                    left::out(&one.name, &failure);
                    one.failure = Some(failure);
                }
            }
            settle(links);
        }
    }
    contenders.retain(|one| one.failure.is_none() && one.times.count() > 0);
}

/// So many in a circle: in each round the next one is the first.
pub fn in_turn(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (at + round) % count)
}

/// What was measured of the one of this name, unless it is left out: who comes behind it is no base in its place.
pub fn times_of<'a>(contenders: &'a [Contender], name: &str) -> Option<&'a Times> {
    let found = contenders.iter().find(|one| one.name == name);
    found.map(|one| &one.times)
}

/// How long a process takes from before it is started until it is known to have ended.
pub fn timed(mut command: Command) -> Measured {
    let mut said = scratch();
    let stderr = said.try_clone().expect("copy a descriptor");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let start = Instant::now();
    let status = command
        .status()
        .map_err(|error| format!("start {}: {error}", command.get_program().to_string_lossy()))?;
    let elapsed = start.elapsed();
    if status.success() {
        return Ok(elapsed);
    }
    let mut text = String::new();
    let _ = said.seek(SeekFrom::Start(0));
    let _ = said.read_to_string(&mut text);
    let line = text.trim().lines().last().unwrap_or_default().to_owned();
    Err(format!("{status}: {line}"))
}

/// A file without a name, for what is only read when something fails.
fn scratch() -> fs::File {
    let name = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    nix::sys::memfd::memfd_create("said", name)
        .expect("memory as a file")
        .into()
}

/// Links of this network namespace.
pub fn count_links() -> usize {
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("list links");
    text.lines().count()
}

/// Waits until the kernel has taken back the links of what has ended: there are as many as before.
pub fn settle(links: usize) {
    assert!(
        Watch::new().until(|| count_links() <= links),
        "a link of something that has ended stays: {}",
        lab::sh("ip -brief link")
    );
}
