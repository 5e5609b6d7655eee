//! Many at once, who get in each other's way on purpose: containers by `run`, `attach` and the CNI plugin, with the same names,
//! addresses and ports, and others who list, publish, collect garbage, remove networks and flush the firewall meanwhile. Nothing
//! fails but what is asked to, no address has two holders, and nothing is left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::{
    DEADLINE, Lab, Outcome, Running, Snapshot, Watch, alone, case, collect, sh, wait_untold,
    with_run,
};
use serde_json::{Value, json};

const STARTS: usize = 500;
/// What the kernel's own caches differ by, in kB: 1 to 3 MB was seen behind 800 and 2,000 containers.
const SLAB: u64 = 8192;
const AT_ONCE: usize = 32;

/// Says its address, and waits to be told to end.
const IDLE: &str = "ip -o -4 addr show dev eth0; echo up; read x; exit 0";

/// What a port is refused with by a container that ends in the moment it is up, or by who has the port.
const ENDING: [&str; 6] = [
    "none of that name runs",
    "is in use by",
    "it has ended meanwhile",
    "it runs, and nobody answers for it",
    "the container has ended",
    "the container has deleted its link",
];

/// What a start says whose bridge somebody removes.
const REMOVED: [&str; 3] = [
    "; if lan0 has just been removed, run it again",
    "; lan0 has just been removed; run it again",
    // Its link was a port already, of nobody who was there yet.
    " to lan0: it has just been removed; run it again",
];
/// How often a supervisor is asked that does not get a processor for seconds.
const TRIES: usize = 10;

/// What happens in one test.
struct Crowd<'a> {
    lab: &'a Lab,
    /// Who has which address now.
    holders: Mutex<BTreeMap<String, String>>,
    /// How often each thing happened, and whether it was refused.
    counts: Mutex<BTreeMap<(&'static str, bool), usize>>,
}

impl Crowd<'_> {
    fn count(&self, what: &'static str, is_refused: bool) {
        *self
            .counts
            .lock()
            .expect("nobody panicked")
            .entry((what, is_refused))
            .or_default() += 1;
    }

    /// Somebody has this address, and nobody else; gives it back.
    fn hold<'a>(&'a self, address: &'a str, who: String) -> Held<'a> {
        let other = self
            .holders
            .lock()
            .expect("nobody panicked")
            .insert(address.to_owned(), who.clone());
        assert_eq!(other, None, "{address} has two holders, one of them {who}");
        Held(self, address)
    }

    /// It went well, or was refused in one line with one of these in it.
    #[track_caller]
    fn judge(&self, what: &'static str, outcome: Outcome, refusals: &[&str]) {
        if outcome.code == 0 {
            assert_eq!(outcome.err(), "", "{what}: {outcome}");
            return self.count(what, false);
        }
        let text = outcome.err();
        let is_known = refusals.iter().any(|refusal| text.contains(refusal));
        assert!(
            outcome.code == 125 && text.lines().count() == 1 && is_known,
            "{what}: {outcome}"
        );
        self.count(what, true);
    }

    /// A container that stays until the end of this call. `meanwhile` happens while it is there.
    #[track_caller]
    fn container(
        &self,
        what: &'static str,
        options: &[&str],
        refusals: &[&str],
        meanwhile: impl FnOnce(),
    ) {
        match self.lab.start(options, &["sh", "-c", IDLE]).up_or_end() {
            Err(outcome) => {
                assert_ne!(outcome.code, 0, "{what}: {outcome}");
                self.judge(what, outcome, refusals);
            }
            Ok(mut running) => {
                let said = running.until("up");
                let held = self.hold(address_in(&said), format!("{what} {options:?}"));
                meanwhile();
                drop(held);
                self.judge(what, running.end(), &[]);
            }
        }
    }

    /// A container that somebody else ends.
    fn stopped(&self, number: usize) {
        let name = format!("plain{number}");
        let mut running = self.lab.start(&["--name", &name], &["sh", "-c", IDLE]);
        let said = running.until("up");
        let held = self.hold(address_in(&said), name.clone());
        self.disturb(number);
        drop(held);
        self.judge("stop", self.lab.hawser(&["stop", &name]), &[]);
        running.end().exits(143);
        self.count("plain", false);
    }

    /// One of another tool's. `meanwhile` happens while it is there.
    fn attachment(&self, number: usize, meanwhile: impl FnOnce()) {
        let guest = Running::unshared(&["-n"], "exec cat");
        let (pid, name) = (guest.pid().to_string(), format!("guest{number}"));
        let attached = self.lab.hawser(&["attach", "--name", &name, &pid]);
        self.judge("attach", attached, &[]);
        let inside = lab::Netns::of(guest.pid()).sh("ip -o -4 addr show dev eth0");
        let held = self.hold(address_in(&inside), name.clone());
        meanwhile();
        drop(held);
        if number % 2 == 0 {
            self.judge("detach", self.lab.hawser(&["detach", &name]), &[]);
        }
        guest.end().exits(0);
    }

    /// One of the plugin's. `meanwhile` happens while it is there.
    fn pod(&self, number: usize, meanwhile: impl FnOnce()) {
        let guest = Running::unshared(&["-n"], "exec cat");
        let (netns, id) = (
            format!("/proc/{}/ns/net", guest.pid()),
            format!("pod{number}"),
        );
        let whose = [
            ("CNI_CONTAINERID", id.as_str()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", &netns),
        ];
        let added = self.cni("ADD", number, &whose, &pods());
        let result: Value = serde_json::from_str(&added.ok()).expect("a result");
        let address = result["ips"][0]["address"].as_str().expect("an address");
        let held = self.hold(address, id.clone());
        meanwhile();
        drop(held);
        if number % 20 == 6 {
            self.collect_garbage(number, |valid| valid != number);
            let left = lab::Netns::of(guest.pid()).sh("ip -o link");
            assert!(!left.contains("eth0"), "{id} is collected: {left}");
            self.count("collected", false);
        }
        self.cni("DEL", number, &whose, &pods()).ok();
        self.count("pod", false);
        guest.end().exits(0);
    }

    /// Those pods live.
    fn collect_garbage(&self, number: usize, is_valid: impl Fn(usize) -> bool) {
        let pod = |number| json!({ "containerID": format!("pod{number}"), "ifname": "eth0" });
        let all: Vec<Value> = (0..STARTS).filter(|one| is_valid(*one)).map(pod).collect();
        let mut config = pods();
        config["cni.dev/valid-attachments"] = all.into();
        self.judge("GC", self.cni("GC", STARTS + number, &[], &config), &[]);
    }

    fn cni(
        &self,
        verb: &str,
        number: usize,
        variables: &[(&str, &str)],
        config: &Value,
    ) -> Outcome {
        let path = self.lab.dir.join(format!("input{number}"));
        let mut file = File::create(&path).expect("make a file");
        file.write_all(config.to_string().as_bytes())
            .expect("write the input");
        let mut command = self.lab.command(&["cni"]);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", &self.lab.dir);
        command
            .envs(variables.iter().copied())
            .stdin(File::open(&path).expect("open the input"));
        let outcome = collect(command, DEADLINE);
        fs::remove_file(path).expect("remove the input");
        outcome
    }

    /// One more port for who is there all the time, and it is taken back: nothing is in the way of that, but that the others have
    /// the processors.
    fn publish(&self, number: usize) {
        let port = format!("{}:80", 20_000 + number);
        for (what, verb) in [("keeper's port", "add"), ("keeper's port rm", "rm")] {
            let ask = || self.lab.hawser(&["port", verb, "keeper", &port]);
            let mut all = (0..TRIES).map(|_| ask());
            let is_answer = |outcome: &Outcome| !outcome.err().contains("does not answer (EAGAIN)");
            let outcome = all
                .find(is_answer)
                .unwrap_or_else(|| panic!("{what}: no answer"));
            self.judge(what, outcome, &[]);
        }
    }

    /// What others do meanwhile.
    fn disturb(&self, number: usize) {
        let lab = self.lab;
        match number / 10 % 5 {
            0 => self.judge("ls", lab.hawser(&["ls", "--json"]), &[]),
            1 if number % 2 == 0 => self.publish(number),
            1 => {
                let port = format!("{}:80", 9000 + number % 3);
                let name = format!("same{}", number % 3);
                let outcome = lab.hawser(&["port", "add", &name, &port]);
                self.judge("port add", outcome, &ENDING);
            }
            2 => {
                let bridge = if number % 100 < 50 { "hawser0" } else { "lan0" };
                let outcome = lab.hawser(&["down", "--bridge", bridge]);
                self.judge("down", outcome, &["containers live on it"]);
            }
            3 => self.collect_garbage(number, |_| true),
            _ => {
                sh("nft flush ruleset");
                self.count("flush", false);
            }
        }
    }

    fn start(&self, number: usize) {
        let same = number % 3;
        let (name, address, port) = (
            format!("same{same}"),
            format!("172.19.9.{same}"),
            format!("808{same}:80"),
        );
        let taken = ["is in use by"];
        let nothing = || {};
        let list = || self.judge("ls", self.lab.hawser(&["ls", "--json"]), &[]);
        match number % 10 {
            0 => self.container("same name", &["--name", &name], &taken, nothing),
            1 => self.container("same address", &["--ip", &address], &taken, nothing),
            2 => self.container(
                "same both",
                &["--name", &name, "--ip", &address],
                &taken,
                nothing,
            ),
            3 => self.container("same port", &["-p", &port], &taken, nothing),
            4 => self.container("ptp", &["--network", "ptp"], &[], nothing),
            5 => self.attachment(number, list),
            6 => self.pod(number, list),
            // Somebody removes this one, as soon as nobody is on it.
            7 => self.container(
                "removed",
                &["--bridge", "lan0", "--subnet", "172.28.0.0/24"],
                &REMOVED,
                nothing,
            ),
            8 => self.container("isolated", &["--isolate", "--egress", "dns"], &[], || {
                self.disturb(number)
            }),
            _ if number / 10 % 2 == 0 => self.stopped(number),
            _ => self.container("plain", &[], &[], || self.disturb(number)),
        }
    }
}

/// The address that `ip addr` tells of.
#[track_caller]
fn address_in(said: &str) -> &str {
    let found = said.split_whitespace().find(|word| word.contains('/'));
    found.unwrap_or_else(|| panic!("no address: {said}"))
}

/// An address, as long as its holder is sure to be there.
struct Held<'a>(&'a Crowd<'a>, &'a str);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Ok(mut holders) = self.0.holders.lock() {
            holders.remove(self.1);
        }
    }
}

/// The network of pods.
fn pods() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "hawser", "bridge": "cni0", "isGateway": true, "ipMasq": true,
        "ipam": { "ranges": [[{ "subnet": "10.22.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] },
    })
}

/// Nothing of ours is left, after the networks are removed.
fn removed(lab: &Lab) {
    lab.settle();
    for bridge in ["lan0", "cni0", "hawser0"] {
        lab.hawser(&["down", "--bridge", bridge]).ok();
    }
}

#[test]
fn five_hundred_starts_by_thirty_two_at_once() {
    case(|lab| {
        let _alone = alone();
        lab.run(&[], &["true"]).ok();
        removed(lab);
        let before = Snapshot::take();
        let crowd = Crowd {
            lab,
            holders: Mutex::default(),
            counts: Mutex::default(),
        };
        // Somebody is there all the time, whose network and rules must outlive all of it.
        let keeper = lab.start_idle(&["--name", "keeper", "-p", "8888:80"]);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= STARTS {
                            break;
                        }
                        crowd.start(number);
                    }
                });
            }
        });
        let counts = crowd.counts.into_inner().expect("nobody panicked");
        let of = |what, is_refused| counts.get(&(what, is_refused)).copied().unwrap_or(0);
        for what in ["same name", "same address", "same both", "same port"] {
            assert!(
                of(what, false) > 0 && of(what, true) > 0,
                "nothing collided: {counts:?}"
            );
        }
        for what in ["plain", "isolated", "ptp", "attach", "pod"] {
            assert_eq!(of(what, false), STARTS / 10, "{what}: {counts:?}");
        }
        for what in ["stop", "collected"] {
            assert_eq!(of(what, false), STARTS / 20, "{what}: {counts:?}");
        }
        for what in ["keeper's port", "keeper's port rm"] {
            assert_eq!(of(what, false), STARTS / 50, "{what}: {counts:?}");
        }
        assert_eq!(
            of("removed", false) + of("removed", true),
            STARTS / 10,
            "{counts:?}"
        );
        assert!(of("removed", false) > 0, "{counts:?}");
        assert!(of("down", true) > 0 && of("flush", false) > 0, "{counts:?}");
        let publishes = || sh("nft list ruleset").contains(" 8888 :");
        assert!(Watch::ruleset().until(publishes), "the keeper's port");
        assert_eq!(lab.list().len(), 1, "{:?}", lab.list());
        keeper.end().exits(0);
        removed(lab);
        before.assert_back();
    });
}

/// A flush that comes while a supervisor is not listening yet is noticed all the same.
#[test]
fn who_starts_while_rules_are_flushed_has_them() {
    case(|lab| {
        for round in 0..4 {
            let started: Vec<Running> = std::thread::scope(|scope| {
                let flusher = scope.spawn(|| (0..20).for_each(|_| drop(sh("nft flush ruleset"))));
                let starters: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| lab.start_idle(&["--isolate"])))
                    .collect();
                let started = starters
                    .into_iter()
                    .map(|one| one.join().expect("it starts"));
                let started = started.collect();
                flusher.join().expect("it flushes");
                started
            });
            let all: Vec<String> = lab
                .list()
                .iter()
                .map(|one| one["address6"].as_str().expect("an address").to_owned())
                .collect();
            assert_eq!(all.len(), started.len(), "round {round}");
            let known = || {
                let ruleset = sh("nft list ruleset");
                all.iter()
                    .all(|address| ruleset.contains(&format!(" : {address} . ")))
            };
            assert!(
                Watch::ruleset().until(known),
                "round {round}: {all:?}: {}",
                sh("nft list ruleset")
            );
            for container in started {
                container.end().exits(0);
            }
        }
    });
}

/// Objects of a kernel cache, or none where that is not told.
fn objects(cache: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/slabinfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(cache))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn unreclaimable() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("read meminfo");
    let line = text
        .lines()
        .find(|line| line.starts_with("SUnreclaim:"))
        .expect("a line");
    line.split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("kB")
}

/// What is counted before and after.
struct Counts {
    namespaces: Option<u64>,
    unreclaimable: u64,
    files: usize,
    rules: String,
    /// System calls of a start: the fewest of some.
    calls: usize,
    /// The median of some starts, in milliseconds.
    takes: f64,
}

impl Counts {
    fn of(lab: &Lab) -> Self {
        let mut times: Vec<f64> = (0..200)
            .map(|_| lab.run(&[], &["true"]).exits(0).elapsed.as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let mut calls = usize::MAX;
        for _ in 0..10 {
            with_run(lab, &[], |work| {
                calls = calls.min(lab::calls(lab, work).len());
            });
        }
        let gone = || sh("ip -o link").matches(": hw").count() == 1;
        assert!(Watch::new().until(gone), "a veth stays");
        Counts {
            namespaces: objects("net_namespace"),
            unreclaimable: unreclaimable(),
            files: fs::read_dir("/run/hawser").expect("list").count(),
            rules: sh("nft -s list ruleset"),
            calls,
            takes: times[times.len() / 2],
        }
    }
}

/// One container of each kind, in turn.
fn live_shortly(crowd: &Crowd, worker: usize, number: usize) {
    let lab = crowd.lab;
    let (port, name) = (format!("{}:80", 9000 + worker), format!("short{number}"));
    let ends = |options: &[&str]| drop(lab.run(options, &["true"]).ok());
    match number % 8 {
        0 => ends(&["-p", &port]),
        1 => ends(&["--isolate", "--egress", "dns"]),
        2 => ends(&["--network", "ptp"]),
        3 => ends(&["--init", "-t"]),
        // Numbers of pods that collect no others, and of attachments that are detached.
        4 => crowd.pod(number * 20, || ()),
        5 => crowd.attachment(number * 2, || ()),
        6 => {
            lab.run(&["-d", "--name", &name], &["sleep", "1000"]).ok();
            lab.hawser(&["stop", &name]).ok();
            lab.hawser(&["rm", &name]).ok();
        }
        _ if lab.real_root => ends(&["--userns", "-p", &port]),
        _ => ends(&[]),
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is what it is for")]
#[ignore = "minutes: run it alone on a quiet machine"]
fn a_soak_of_short_containers() {
    case(|lab| {
        const WORKERS: usize = 8;
        let asked = std::env::var("SOAK")
            .ok()
            .and_then(|text| text.parse().ok());
        let starts: usize = asked.unwrap_or(20_000);
        let keeper = lab.start_idle(&["--name", "keeper", "-p", "8888:80"]);
        let crowd = Crowd {
            lab,
            holders: Mutex::default(),
            counts: Mutex::default(),
        };
        // Each kind at once, and the caches of the kernel filled.
        (0..64).for_each(|number| live_shortly(&crowd, 0, number));
        let before = Counts::of(lab);
        let begin = std::time::Instant::now();
        let next = AtomicUsize::new(64);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (next, crowd) = (&next, &crowd);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= starts + 64 {
                            break;
                        }
                        live_shortly(crowd, worker, number);
                    }
                });
            }
        });
        let took = begin.elapsed().as_secs_f64();
        let after = Counts::of(lab);
        println!(
            "| containers | seconds | a second | a start before, ms | after, ms | its system calls | network namespaces | unreclaimable slab, kB |"
        );
        println!(
            "| {starts} | {took:.0} | {:.0} | {:.2} | {:.2} | {} to {} | {:?} to {:?} | {} to {} |",
            starts as f64 / took,
            before.takes,
            after.takes,
            before.calls,
            after.calls,
            before.namespaces,
            after.namespaces,
            before.unreclaimable,
            after.unreclaimable
        );
        assert_eq!(
            (before.files, &before.rules),
            (after.files, &after.rules),
            "files and rules"
        );
        // A busy machine makes a start wait once or twice more.
        assert!(
            after.calls <= before.calls + 8,
            "a start makes {} system calls, and {} before",
            after.calls,
            before.calls
        );
        assert!(after.takes < before.takes * 1.25, "a start takes longer");
        // What the kernel frees later it has freed some time; the rest are caches of the processors. (`user_namespace.rs` counts a
        // few containers' namespaces to the last.)
        let namespaces = before.namespaces.unwrap_or_default() + 16;
        wait_untold("network namespaces go", || {
            objects("net_namespace").is_none_or(|now| now < namespaces)
        });
        wait_untold("unreclaimable slab is as before", || {
            unreclaimable() < before.unreclaimable + SLAB
        });
        keeper.end().exits(0);
    });
}
