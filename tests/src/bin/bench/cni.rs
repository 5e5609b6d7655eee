//! CNI: ADD and DEL with a published port, beside the reference plugins, at the first and at the 300th container of each; GC.
//!
//! Namespaces that were measured with stay until all is measured: the kernel takes seconds to take so many back, by a lock that the next
//! ADD waits for, and that is no part of it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use lab::{Lab, Netns};

use crate::contest::{self, Contender};
use crate::oci::{Plugins, Sandbox};
use crate::table::{Cell, Table};
use crate::times::Times;
use crate::world::Measured;
use crate::{Bench, complain, left};

/// What ours is called among contenders.
pub const OURS: &str = "hawser";
/// The same with a port, in its own table: what the others are compared with.
const WITH_PORT: &str = "hawser, with a port";
/// Measurements; the reference plugins have a turn in every fifth of them.
const ROUNDS: usize = 100;
const SLOW: usize = 5;
/// Containers that live at the second time.
const LIVING: usize = 299;

/// A network of ours beside the default one, from now on; its bridge is there.
pub struct Network {
    plugins: Plugins,
    used: RefCell<Vec<Sandbox>>,
}

impl Network {
    /// Makes it.
    pub fn new(lab: &Lab) -> Self {
        let plugins = Plugins::ours(lab, "hawcni", "10.22.0.0/16");
        let links = contest::count_links() + 1;
        let (first, ..) = one(&plugins, "first", None);
        first.unwrap_or_else(|complaint| panic!("{complaint}"));
        contest::settle(links);
        Self {
            plugins,
            used: RefCell::default(),
        }
    }

    /// ADD with a port, for other parts.
    pub fn contender(&self) -> Contender<'_> {
        Contender::new(OURS, 1, |_| {
            let id = format!("scale{}", self.used.borrow().len());
            let (done, _, sandbox) = one(&self.plugins, &id, Some(8080));
            self.used.borrow_mut().push(sandbox);
            done
        })
    }

    /// So many live on it from now on, each with a port of its own; as many as these had before.
    pub fn populate(&self, living: &mut Vec<Sandbox>, count: usize) {
        for at in living.len()..count {
            living.push(settle(&self.plugins, &name(at), at));
        }
    }

    /// What belongs to nobody goes.
    fn empty(&self) {
        let emptied = self.plugins.collect_garbage(&[]);
        emptied.unwrap_or_else(|complaint| complain(&complaint));
    }

    /// Ends it.
    pub fn end(self, lab: &Lab) {
        self.empty();
        lab.hawser(&["down", "--bridge", "hawcni"]).exits(0);
    }
}

/// One container: ADD is what is measured; and how long DEL took, and the namespace.
fn one(plugins: &Plugins, id: &str, port: Option<u16>) -> (Measured, Duration, Sandbox) {
    let sandbox = Sandbox::new(id);
    let start = Instant::now();
    let added = plugins.add(id, port);
    let time = start.elapsed();
    let start = Instant::now();
    let deleted = plugins.del(id, port);
    let end = start.elapsed();
    (added.and(deleted).map(|()| time), end, sandbox)
}

/// Whose ADD is measured: its name, its plugins, whether with a port, and where.
struct Player<'a> {
    name: &'static str,
    plugins: &'a Plugins,
    port: Option<u16>,
    host: Option<&'a Netns>,
    each: usize,
    dels: RefCell<Times>,
    used: RefCell<Vec<Sandbox>>,
}

impl Player<'_> {
    fn there<T: Send>(&self, work: impl FnOnce(&Plugins) -> T + Send) -> T {
        match self.host {
            Some(host) => host.enter(|| work(self.plugins)),
            None => work(self.plugins),
        }
    }

    fn contender(&self) -> Contender<'_> {
        Contender::new(self.name, self.each, |round| {
            let id = format!(
                "{}{round}",
                self.name.replace(|one: char| !one.is_alphanumeric(), "")
            );
            let port = self.port;
            let (done, deleted, sandbox) = self.there(|plugins| one(plugins, &id, port));
            self.used.borrow_mut().push(sandbox);
            if round > 0 {
                self.dels.borrow_mut().push(deleted);
            }
            done
        })
    }
}

/// The table.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    let named = Sandbox::new("reference");
    let host = named.netns.again();
    host.sh("ip link set lo up");
    let network = Network::new(lab);
    let ours = &network.plugins;
    let reference = [false, true].map(|chained| Plugins::reference(lab, "bench", chained));
    let [bridge, portmap] = reference.map(|made| {
        made.map_err(|complaint| left::out("bridge of CNI", &complaint))
            .ok()
    });
    let player = |name, plugins, port, host, each| Player {
        name,
        plugins,
        port,
        host,
        each,
        dels: RefCell::default(),
        used: RefCell::default(),
    };
    let with_port = player(WITH_PORT, ours, Some(8080), None, 1);
    let without = player("hawser", ours, None, None, 1);
    let bridge = bridge
        .as_ref()
        .map(|plugins| player("bridge", plugins, None, Some(&host), SLOW));
    let portmap = portmap.as_ref().map(|plugins| {
        let name = "bridge, portmap, with a port";
        player(name, plugins, Some(8080), Some(&host), SLOW)
    });
    let hawser = [&with_port, &without];
    let theirs: Vec<&Player> = bridge.iter().chain(&portmap).collect();
    let mut table = Table::new(
        "CNI: ADD and DEL of one container",
        &[
            "ADD / ours with a port",
            "p10 / ours",
            "ADD, ms",
            "p10, ms",
            "DEL, ms",
            "runs",
        ],
    );
    let all = [&hawser[..], &theirs].concat();
    rows(&mut table, "the 1st", &all, &mut None, bench);
    let living = if bench.options.quick { 3 } else { LIVING };
    let which = format!("the {}th", living + 1);
    let mut base = None;
    let sandboxes = populate(hawser[0], living);
    rows(&mut table, &which, &hawser, &mut base, bench);
    table.note(garbage(ours, living));
    network.empty();
    drop(sandboxes);
    if let Some(last) = theirs.last() {
        let _sandboxes = populate(last, living);
        rows(&mut table, &which, &theirs, &mut base, bench);
    }
    network.end(lab);
    vec![table]
}

/// `base`: those that the others are divided by, ours with a port of these unless there is one.
fn rows(
    table: &mut Table,
    which: &str,
    players: &[&Player],
    base: &mut Option<Times>,
    bench: &Bench,
) {
    let mut all: Vec<Contender> = players.iter().map(|player| player.contender()).collect();
    contest::run(&mut all, bench.options.rounds(ROUNDS));
    if base.is_none() {
        *base = contest::times_of(&all, WITH_PORT).cloned();
    }
    let ratio = |time: f64, of: fn(&Times) -> f64| {
        let base = base.as_ref().map(of);
        base.map_or(Cell::None, |base| Cell::Ratio(time / base))
    };
    for one in &all {
        let player = players.iter().find(|player| player.name == one.name);
        let del = player.map_or(f64::NAN, |player| player.dels.take().median());
        table.row(
            format!("{which}: {}", one.name),
            vec![
                ratio(one.times.median(), Times::median),
                ratio(one.times.p10(), Times::p10),
                Cell::Ms(one.times.median()),
                Cell::Ms(one.times.p10()),
                Cell::Ms(del),
                Cell::Count(one.times.count() as u64),
            ],
        );
    }
    for player in players {
        player.used.take();
    }
}

/// The name of a container that stays.
fn name(at: usize) -> String {
    format!("stays{at}")
}

/// So many containers that stay, each with a port of its own.
fn populate(player: &Player, count: usize) -> Vec<Sandbox> {
    let prefix = if player.host.is_some() {
        "reference"
    } else {
        ""
    };
    let make = |at: usize| {
        let id = format!("{prefix}{}", name(at));
        player.there(|plugins| settle(plugins, &id, at))
    };
    (0..count).map(make).collect()
}

/// A container that stays, with a port of its own.
fn settle(plugins: &Plugins, id: &str, at: usize) -> Sandbox {
    let sandbox = Sandbox::new(id);
    let added = plugins.add(id, Some(20_000 + at as u16));
    added.unwrap_or_else(|complaint| panic!("{complaint}"));
    sandbox
}

/// GC while all are known, and when a third is not.
fn garbage(ours: &Plugins, living: usize) -> String {
    let timed = |known: usize| {
        let known: Vec<String> = (0..known).map(name).collect();
        let start = Instant::now();
        let done = ours.collect_garbage(&known);
        done.unwrap_or_else(|complaint| complain(&complaint));
        start.elapsed().as_secs_f64() * 1e3
    };
    let (nothing, removed) = (timed(living), living.div_ceil(3));
    let some = timed(living - removed);
    format!(
        "GC with {living} containers that are all known: {nothing:.1} ms; when {removed} of them are not: {some:.1} ms. No reference plugin has one."
    )
}
