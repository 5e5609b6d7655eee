//! CNI: ADD and DEL with a published port, beside the reference plugins, at the first and at the 300th container; GC.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use lab::{Lab, Netns};

use crate::contest::{self, Contender};
use crate::oci::{Plugins, Sandbox};
use crate::table::{Cell, Table};
use crate::times::Times;
use crate::world::Measured;
use crate::{Bench, complain};

/// What ours is called among contenders.
pub const OURS: &str = "hawser";
/// Measurements; the reference plugins have a turn in every fifth of them.
const ROUNDS: usize = 100;
const SLOW: usize = 5;
/// Containers that live at the second time.
const LIVING: usize = 299;

/// A network of ours beside the default one, from now on; its bridge is there.
pub struct Network(Plugins);

impl Network {
    /// Makes it.
    pub fn new(lab: &Lab) -> Self {
        let plugins = Plugins::ours(lab, "hawcni", "10.22.0.0/16");
        let links = contest::count_links() + 1;
        let (first, _) = one(&plugins, "first", None);
        first.unwrap_or_else(|complaint| panic!("{complaint}"));
        contest::settle(links);
        Self(plugins)
    }

    /// ADD with a port, for other parts.
    pub fn contender(&self) -> Contender<'_> {
        Contender::new(OURS, 1, |round| {
            one(&self.0, &format!("scale{round}"), Some(8080)).0
        })
    }

    /// Ends it.
    pub fn end(self, lab: &Lab) {
        // What belongs to nobody goes, and then the bridge.
        let emptied = self.0.collect_garbage(&[]);
        emptied.unwrap_or_else(|complaint| complain(&complaint));
        lab.hawser(&["down", "--bridge", "hawcni"]).exits(0);
    }
}

/// One container: ADD is what is measured; and how long DEL took.
fn one(plugins: &Plugins, id: &str, port: Option<u16>) -> (Measured, Duration) {
    let sandbox = Sandbox::new(id);
    let start = Instant::now();
    let added = plugins.add(id, port);
    let time = start.elapsed();
    let start = Instant::now();
    let deleted = plugins.del(id, port);
    let end = start.elapsed();
    drop(sandbox);
    (added.and(deleted).map(|()| time), end)
}

/// Whose ADD is measured: its name, its plugins, whether with a port, and where.
struct Player<'a> {
    name: &'static str,
    plugins: &'a Plugins,
    port: Option<u16>,
    host: Option<&'a Netns>,
    each: usize,
    dels: RefCell<Times>,
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
            let (done, deleted) = self.there(|plugins| one(plugins, &id, port));
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
    let ours = &network.0;
    let reference = [false, true].map(|chained| Plugins::reference(lab, "bench", chained));
    let [bridge, portmap] = reference.map(|made| {
        made.map_err(|complaint| complain(&format!("left out: {complaint}")))
            .ok()
    });
    let player = |name, plugins, port, host, each| Player {
        name,
        plugins,
        port,
        host,
        each,
        dels: RefCell::default(),
    };
    let mut players = vec![player("hawser, with a port", ours, Some(8080), None, 1)];
    players.push(player("hawser", ours, None, None, 1));
    if let Some(plugins) = &bridge {
        players.push(player("bridge", plugins, None, Some(&host), SLOW));
    }
    if let Some(plugins) = &portmap {
        players.push(player(
            "bridge, portmap, with a port",
            plugins,
            Some(8080),
            Some(&host),
            SLOW,
        ));
    }
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
    rows(&mut table, "the 1st", &players, bench);
    let living = if bench.options.quick { 3 } else { LIVING };
    let mut sandboxes = populate(&players[0], living);
    if let Some(last) = players.last().filter(|last| last.host.is_some()) {
        sandboxes.extend(populate(last, living));
    }
    rows(
        &mut table,
        &format!("the {}th", living + 1),
        &players,
        bench,
    );
    table.note(garbage(ours, living));
    drop(sandboxes);
    drop(players);
    network.end(lab);
    vec![table]
}

fn rows(table: &mut Table, which: &str, players: &[Player], bench: &Bench) {
    let mut all: Vec<Contender> = players.iter().map(Player::contender).collect();
    contest::run(&mut all, bench.options.rounds(ROUNDS));
    let base = all.first().map(|one| one.times.clone()).unwrap_or_default();
    for one in &all {
        let player = players.iter().find(|player| player.name == one.name);
        let del = player.map_or(f64::NAN, |player| player.dels.take().median());
        table.row(
            format!("{which}: {}", one.name),
            vec![
                Cell::Ratio(one.times.median() / base.median()),
                Cell::Ratio(one.times.p10() / base.p10()),
                Cell::Ms(one.times.median()),
                Cell::Ms(one.times.p10()),
                Cell::Ms(del),
                Cell::Count(one.times.count() as u64),
            ],
        );
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
        let sandbox = Sandbox::new(&id);
        let port = Some(20_000 + at as u16);
        player
            .there(|plugins| plugins.add(&id, port))
            .unwrap_or_else(|complaint| panic!("{complaint}"));
        sandbox
    };
    (0..count).map(make).collect()
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
