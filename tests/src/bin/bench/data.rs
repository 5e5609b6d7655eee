//! Data path: what packets pay for rules. A small client and server, between the host, a container and the internet;
//! beside the same links without a rule, and beside the rules of others.

use std::ops::RangeInclusive;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread::{Scope, scope};

use lab::{DEADLINE, Lab, Netns, Running, bare, collect, sh};

use crate::contest;
use crate::data_table::{Kind, tables};
use crate::oci::{Plugins, Sandbox};
use crate::peers::NO_GROUP;
use crate::peers::find;
use crate::servers::OUTSIDE;
use crate::table::Table;
use crate::world::World;
use crate::{Bench, left};

/// Places of others.
const DOCKER: &str = "docker";
const PLUGINS: &str = "CNI bridge, portmap";
/// How long one measurement lasts, in milliseconds, and how many there are of each.
const TIME: &str = "200";
const TIMES: usize = 5;
/// In containers, and in the internet; the port of the host that leads there.
const INSIDE: u16 = 80;
const FAR: u16 = 7100;
const PUBLISHED: u16 = 8080;

/// Those that are published besides.
const MANY: RangeInclusive<u16> = 20_000..=29_999;

/// A host with a container on it.
struct Place {
    name: &'static str,
    host: Netns,
    container: Netns,
    /// Of the container, seen from the host.
    near: String,
    /// Of the container, seen from the internet.
    published: String,
    _server: Running,
}

impl Place {
    fn new(
        name: &'static str,
        host: Netns,
        container: Netns,
        near: &str,
        published: String,
    ) -> Self {
        let server = serve(&container, &format!("0.0.0.0:{INSIDE}"));
        Self {
            name,
            host,
            container,
            near: format!("{near}:{INSIDE}"),
            published,
            _server: server,
        }
    }
}

/// One measured way: where a client starts, and where to.
pub struct Way {
    /// As its table is called.
    pub title: &'static str,
    from: fn(&Place, &Lab) -> Netns,
    to: fn(&Place) -> String,
}

/// Three ways.
pub const WAYS: [Way; 3] = [
    Way {
        title: "host to container",
        from: |place, _| place.host.again(),
        to: |place| place.near.clone(),
    },
    Way {
        title: "container to a server outside, through NAT",
        from: |place, _| place.container.again(),
        to: |_| format!("{OUTSIDE}:{FAR}"),
    },
    Way {
        title: "from outside to a published port",
        from: |_, lab| lab.internet.again(),
        to: |place| place.published.clone(),
    },
];

/// What was measured of one place: by way and kind, each as often as it was.
pub struct Rates {
    /// The place.
    pub name: &'static str,
    /// Lines of the probe, parsed: a number a second, and microseconds if it counts something.
    pub measured: Vec<Vec<Vec<Vec<f64>>>>,
}

/// A table for each way.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    lab.with_network();
    let _far = serve(&lab.internet, &format!("{OUTSIDE}:{FAR}"));
    let (time, times) = match bench.options.quick {
        true => ("20", 1),
        false => (TIME, TIMES),
    };
    let rates = scope(|scope| {
        let mut places = vec![plain(lab), ours(lab, "hawser", "172.19.7.1", &[])];
        let (docker, others) = others(scope, lab);
        places.extend(others);
        let mut rates = rounds(lab, &places, time, times);
        // The same with many ports.
        drop(places.remove(1));
        lab.hawser(&["down", "--force"]).exits(0);
        lab.with_network();
        places.iter_mut().for_each(crowd);
        let ports = format!("{}-{}", MANY.start(), MANY.end());
        let ports = ["-p", &format!("{ports}:{ports}")];
        places.push(ours(lab, "hawser, 10,000 ports", "172.19.7.2", &ports));
        rates.extend(rounds(lab, &places, time, times));
        drop(docker);
        rates
    });
    lab.hawser(&["down", "--force"]).exits(0);
    lab.with_network();
    tables(&rates)
}

/// Writes the rules by which others publish ports, as they do it, for many: half before those of the port that is measured,
/// half behind. They would take minutes for that.
fn crowd(place: &mut Place) {
    place.name = match place.name {
        DOCKER => "docker's rules, 10,000 ports",
        PLUGINS => "portmap's rules, 10,000 ports",
        _ => return,
    };
    let saved = place.host.sh("iptables-save -t nat");
    let own = PUBLISHED.to_string();
    let rules = saved.lines().filter_map(|line| line.strip_prefix("-A "));
    let rules: Vec<(&str, &str)> = rules
        .filter(|rule| rule.contains(&own))
        .filter_map(|rule| rule.split_once(' '))
        .collect();
    let mut text = "*nat\n".to_owned();
    for (chain, rest) in rules {
        // portmap names fifteen ports in one rule of what leads to a container's chain.
        let at_once = if rest.contains("--dports") { 15 } else { 1 };
        let ports: Vec<u16> = MANY.collect();
        for (at, some) in ports.chunks(at_once).enumerate() {
            let some: Vec<String> = some.iter().map(u16::to_string).collect();
            let rest = rest.replace(&own, &some.join(","));
            text += &match at % 2 {
                0 => format!("-I {chain} 1 {rest}\n"),
                _ => format!("-A {chain} {rest}\n"),
            };
        }
    }
    text += "COMMIT\n";
    std::fs::write("/run/lab/rules", text).expect("write rules");
    place.host.sh("iptables-restore --noflush </run/lab/rules");
}

/// All places, in turns.
fn rounds(lab: &Lab, places: &[Place], time: &str, times: usize) -> Vec<Rates> {
    let empty = |place: &Place| Rates {
        name: place.name,
        measured: vec![vec![vec![]; Kind::ALL.len()]; WAYS.len()],
    };
    let mut rates: Vec<Rates> = places.iter().map(empty).collect();
    for round in 0..times {
        for (at, way) in WAYS.iter().enumerate() {
            for (which, kind) in Kind::ALL.iter().enumerate() {
                for whose in contest::in_turn(places.len(), round) {
                    let (place, rates) = (&places[whose], &mut rates[whose]);
                    let netns = (way.from)(place, lab);
                    match probe(&netns, kind.word(), &(way.to)(place), time) {
                        Ok(line) => rates.measured[at][which].push(kind.parse(&line, time)),
                        Err(error) => left::out(&format!("{}, {}", place.name, way.title), &error),
                    }
                }
            }
        }
    }
    rates
}

fn probe(netns: &Netns, word: &str, to: &str, time: &str) -> Result<String, String> {
    let mut command = netns.command(&bare("probe").to_string_lossy());
    command.args([word, to, time]).stdin(Stdio::null());
    let outcome = collect(command, DEADLINE);
    match outcome.code {
        0 => Ok(outcome.out()),
        _ => Err(outcome.err().trim().to_owned()),
    }
}

fn serve(netns: &Netns, at: &str) -> Running {
    let mut command = netns.command(&bare("probe").to_string_lossy());
    command.args(["serve", at]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::spawn(command);
    running.until("up");
    running
}

/// The host of this lab.
fn here() -> Netns {
    Netns::of(i32::try_from(std::process::id()).expect("a process id"))
}

fn ours(lab: &Lab, name: &'static str, ip: &str, ports: &[&str]) -> Place {
    let port = format!("{PUBLISHED}:{INSIDE}");
    let words = ["-d", "--name", "data", "--ip", ip, "-p", &port];
    let words = [&words[..], ports].concat();
    lab.run(&words, &["/bin/busybox", "sleep", "1000000"]).ok();
    let container = Netns::of(lab.pid_of("data"));
    Place::new(
        name,
        here(),
        container,
        ip,
        format!("192.0.2.2:{PUBLISHED}"),
    )
}

/// An uplink of a further host: its address is 203.0.113.NUMBER. Called where that host is.
fn add_uplink(number: u8) {
    let (own, far) = (format!("203.0.113.{number}"), 100 + number);
    sh(&format!(
        "ip link set lo up
        ip link add uplink type veth peer name far{number} netns internet
        ip addr add {own} peer 203.0.113.{far} dev uplink
        ip link set uplink up
        ip -n internet addr add 203.0.113.{far} peer {own} dev far{number}
        ip -n internet link set far{number} up
        ip route add default via 203.0.113.{far}
        ip link show uplink >/dev/null; ip -n internet link show far{number} >/dev/null"
    ));
}

/// The same links without any rule: the internet has a route to the container.
fn plain(lab: &Lab) -> Place {
    // Their names are there for as long as they are needed, the namespaces for as long as the place is.
    let named = ["plain", "plainbox"].map(Sandbox::new);
    let [host, container] = [0, 1].map(|at: usize| named[at].netns.again());
    // The second one of a run must not find what is left of the first one.
    sh("ip -n internet link del far2 2>/dev/null || :");
    host.enter(|| add_uplink(2));
    host.sh("ip link add br0 type bridge
        ip addr add 10.9.0.1/24 dev br0
        ip link set br0 up
        ip link add box0 type veth peer name eth0 netns plainbox
        ip link set box0 master br0 up
        echo 1 >/proc/sys/net/ipv4/ip_forward");
    container.sh("ip addr add 10.9.0.2/24 dev eth0
        ip link set eth0 up
        ip route add default via 10.9.0.1");
    host.sh("ip link show box0 >/dev/null; ip link show br0 >/dev/null");
    lab.internet
        .sh("ip route replace 10.9.0.0/24 via 203.0.113.2 dev far2");
    Place::new(
        "no rules",
        host,
        container,
        "10.9.0.2",
        format!("10.9.0.2:{INSIDE}"),
    )
}

/// Those who are there. The first value keeps docker's daemon.
fn others<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    lab: &'env Lab,
) -> (Option<World>, Vec<Place>) {
    let mut all = vec![];
    match plugins(lab) {
        Ok(place) => all.push(place),
        Err(complaint) => left::out(PLUGINS, &complaint),
    }
    let (tell, told) = channel();
    let world = World::new(scope, "docker", move || {
        find("docker").ok_or("there is none")?;
        let lab = lab.beside("docker-data");
        add_uplink(4);
        let mut docker = lab.docker_with_network().ok_or(NO_GROUP)?;
        docker.options = vec![];
        let archive = lab.archive("box", &[]).to_string_lossy().into_owned();
        docker.call(&["import", &archive, "box"]).exits(0);
        let port = format!("{PUBLISHED}:{INSIDE}");
        let words = [
            "-d",
            "--name",
            "data",
            "-p",
            &port,
            "box",
            "/bin/sleep",
            "1000000",
        ];
        docker.run(&words).exits(0);
        let format = "{{.State.Pid}} {{.NetworkSettings.IPAddress}}";
        let said = docker.call(&["inspect", "--format", format, "data"]).ok();
        let (pid, address) = said.split_once(' ').ok_or("it does not say where it is")?;
        let pid = pid.parse::<i32>().map_err(|error| error.to_string())?;
        let _ = tell.send((
            Netns::of(nix::unistd::gettid().as_raw()),
            pid,
            address.to_owned(),
        ));
        Ok(Box::new(move |_, _| {
            docker.call(&["rm", "--force", "data"]).exits(0);
            Ok(std::time::Duration::ZERO)
        }))
    });
    match world {
        Ok(world) => {
            if let Ok((host, pid, address)) = told.recv() {
                let published = format!("203.0.113.4:{PUBLISHED}");
                all.push(Place::new(
                    DOCKER,
                    host,
                    Netns::of(pid),
                    &address,
                    published,
                ));
            }
            (Some(world), all)
        }
        Err(complaint) => {
            left::out(DOCKER, &complaint);
            (None, all)
        }
    }
}

/// The reference plugins: bridge and portmap.
fn plugins(lab: &Lab) -> Result<Place, String> {
    let named = ["plugins", "pluginsbox"].map(Sandbox::new);
    let [host, container] = [0, 1].map(|at: usize| named[at].netns.again());
    host.enter(|| {
        add_uplink(3);
        Plugins::reference(lab, "data", true)?.add("pluginsbox", Some(PUBLISHED))
    })?;
    let address = container.sh("ip -o -4 addr show dev eth0 | awk '{ print $4 }' | cut -d/ -f1");
    let published = format!("203.0.113.3:{PUBLISHED}");
    Ok(Place::new(
        PLUGINS,
        host,
        container,
        address.trim(),
        published,
    ))
}
