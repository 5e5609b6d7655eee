//! Stop: until it returns, until the kernel has everything back; and what a living container holds of memory.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use lab::{DEADLINE, Lab, Running, child, collect, sys};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Bench;
use crate::contest;
use crate::pid1::{number, turns};
use crate::ready::clock;
use crate::scale::populate;
use crate::start;
use crate::table::{Cell, Table};
use crate::times::Times;

const ROUNDS: usize = 50;
/// Containers whose memory is counted.
const COUNTED: usize = 200;
/// Starts that are no business of theirs.
const OTHERS: u64 = 20;

/// Both tables.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    vec![times(bench), memory(bench)]
}

/// One end: how long the whole process that ends it took, and from the end of the command until it returned, and until
/// the link was gone.
#[derive(Default)]
struct Ends {
    whole: Times,
    returned: Times,
    gone: Times,
}

impl Ends {
    /// `end` starts what ends the container with this PID 1, and waits for that.
    fn measure(&mut self, links: usize, pid: i32, end: impl FnOnce()) {
        let process = sys::pidfd(pid).expect("the container's first process");
        let ended = std::thread::spawn(move || {
            wait(&process);
            clock()
        });
        let start = clock();
        end();
        let returned = clock();
        contest::settle(links);
        let gone = clock();
        let ended = ended.join().expect("a thread that waits");
        self.whole.push(returned - start);
        self.returned.push(returned.saturating_sub(ended));
        self.gone.push(gone.saturating_sub(ended));
    }
}

fn wait(process: &OwnedFd) {
    let timeout = PollTimeout::try_from(DEADLINE).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, timeout).is_err() {}
}

fn times(bench: &Bench) -> Table {
    let lab = bench.lab;
    let links = contest::count_links();
    let mut all = [Ends::default(), Ends::default(), Ends::default()];
    for round in 0..bench.options.rounds(ROUNDS) {
        for at in contest::in_turn(all.len(), round) {
            let ends = &mut all[at];
            match at {
                0 => end_ours(lab, links, &[], ends),
                1 => end_ours(lab, links, &["--init"], ends),
                _ => end_floor(lab, links, ends),
            }
        }
    }
    let mut table = Table::new(
        "Stop: after the command has ended",
        &[
            "gone / floor's",
            "it returns, ms",
            "p99, ms",
            "the link is gone, ms",
            "p99, ms ",
            "whole process, ms",
        ],
    );
    let names = [
        "hawser stop (killed: sleep has no handler)",
        "hawser stop, --init (asked to end)",
        "floor, killed",
    ];
    let floor = all[2].gone.median();
    for (name, ends) in names.iter().zip(&all) {
        table.row(
            *name,
            vec![
                Cell::Ratio(ends.gone.median() / floor),
                Cell::Ms(ends.returned.median()),
                Cell::Ms(ends.returned.quantile(0.99)),
                Cell::Ms(ends.gone.median()),
                Cell::Ms(ends.gone.quantile(0.99)),
                Cell::Ms(ends.whole.median()),
            ],
        );
    }
    table
}

fn end_ours(lab: &Lab, links: usize, options: &[&str], ends: &mut Ends) {
    let options = [&["-d", "--name", "stops"], options].concat();
    lab.run(&options, &["/bin/busybox", "sleep", "1000000"])
        .ok();
    let pid = lab.pid_of("stops");
    ends.measure(links, pid, || {
        lab.hawser(&["stop", "stops"]).exits(0);
    });
    lab.hawser(&["rm", "stops"]).exits(0);
}

fn end_floor(lab: &Lab, links: usize, ends: &mut Ends) {
    let (floor, pid) = living_floor(lab, 1);
    let process = sys::pidfd(pid).expect("the floor's child");
    ends.measure(links, pid, || {
        sys::pidfd_signal(&process, libc::SIGKILL).expect("kill a floor");
        floor.end();
    });
}

/// A floor whose command sleeps, and that command.
fn living_floor(lab: &Lab, at: usize) -> (Running, i32) {
    let script = "echo up; exec sleep 1000000";
    let mut command = start::floor(lab, at, &["/bin/sh", "-c", script]);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut floor = Running::spawn(command);
    floor.until("up");
    let command = child(floor.pid());
    (floor, command)
}

/// What the kernel holds for containers, in kB: keys of /proc/meminfo.
const KERNEL: [&str; 4] = ["Slab", "Percpu", "KernelStack", "PageTables"];

fn kernel() -> [u64; 4] {
    let text = fs::read_to_string("/proc/meminfo").expect("read meminfo");
    KERNEL.map(|key| number(&text, key))
}

/// In kB: what a process has, pages that it shares divided by those who share them; and its private ones alone.
fn held(pid: i32) -> [u64; 2] {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(path).expect("read smaps_rollup");
    let of = |key| number(&text, key);
    [of("Pss"), of("Private_Clean") + of("Private_Dirty")]
}

/// The medians. The first one maps pages of the program that no other has a use for, and counts no more than the others.
fn middle(all: &[[u64; 2]]) -> [u64; 2] {
    [0, 1].map(|at| {
        let mut all: Vec<u64> = all.iter().map(|one| one[at]).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    })
}

fn memory(bench: &Bench) -> Table {
    let lab = bench.lab;
    let count = if bench.options.quick { 4 } else { COUNTED };
    let links = contest::count_links();
    let before = kernel();
    populate(lab, count);
    let ours = kernel();
    let all: Vec<i32> = lab.list().iter().map(|one| supervisor(lab, one)).collect();
    let supervisors: Vec<_> = all.iter().map(|pid| held(*pid)).collect();
    let before_others = all.iter().map(|pid| turns(*pid)).sum::<u64>();
    for _ in 0..OTHERS {
        lab.run(&["-p", "8080:80"], &["/bin/true"]).ok();
    }
    let woken = all.iter().map(|pid| turns(*pid)).sum::<u64>() - before_others;
    collect(lab.command(&["down", "--force"]), DEADLINE * 3).exits(0);
    lab.with_network();
    contest::settle(links);
    let between = kernel();
    let floors: Vec<_> = (0..count).map(|at| living_floor(lab, at)).collect();
    let of_floor = kernel();
    let parents: Vec<_> = floors.iter().map(|(floor, _)| held(floor.pid())).collect();
    for (_, child) in &floors {
        let process = sys::pidfd(*child).expect("the floor's child");
        sys::pidfd_signal(&process, libc::SIGKILL).expect("kill a floor");
    }
    drop(floors);
    contest::settle(links);
    let each = |after: [u64; 4], before: [u64; 4]| {
        let pairs = after.into_iter().zip(before);
        let each = pairs.map(|(after, before)| after.saturating_sub(before) / count as u64);
        each.collect::<Vec<u64>>()
    };
    let mut table = Table::new(
        &format!("Memory of a container that sleeps, one of {count}"),
        &[
            "kernel / floor's",
            "slab, kB",
            "per processor, kB",
            "stacks, kB",
            "page tables, kB",
            "supervisor, kB",
            "private, kB",
        ],
    );
    let rows = [
        ("hawser run -d", each(ours, before), middle(&supervisors)),
        ("floor", each(of_floor, between), middle(&parents)),
    ];
    let floor: u64 = rows[1].1.iter().sum();
    for (name, parts, process) in rows {
        let whole: u64 = parts.iter().sum();
        let mut cells = vec![Cell::Ratio(whole as f64 / floor.max(1) as f64)];
        cells.extend(parts.into_iter().map(Cell::Count));
        cells.extend(process.map(Cell::Count));
        table.row(name, cells);
    }
    let each = woken as f64 / (OTHERS * count as u64) as f64;
    table.note(format!(
        "A supervisor was woken {each:.2} times by each start and end of another container with a port ({OTHERS} of them)."
    ));
    table.note("The kernel's are differences of /proc/meminfo, which is the whole machine's: believe them on an idle one. The supervisor's are its Pss and what it shares with nobody, medians: the first one maps pages that no other has a use for. The floor's are those of the parent that waits.");
    table
}

fn supervisor(lab: &Lab, listed: &serde_json::Value) -> i32 {
    let name = listed["name"].as_str().expect("a name");
    let text = lab.hawser(&["inspect", name]).ok();
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let pid = all["supervisor"].as_i64().expect("a supervisor");
    i32::try_from(pid).expect("a process id")
}
