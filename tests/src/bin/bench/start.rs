//! Start: a container with a network around `/bin/true`, as a whole process, beside the floor and the peers.

use std::process::Command;
use std::thread::{Scope, scope};

use lab::{Lab, bare};

use crate::contest::{self, Contender};
use crate::oci;
use crate::peers::NO_GROUP;
use crate::peers::find;
use crate::table::{Cell, Table};
use crate::world::{Measure, World};
use crate::{Bench, left};

/// Rounds; what takes a tenth of a second has a turn in every tenth of them.
const ROUNDS: usize = 200;
const SLOW: usize = 10;
const SLOWEST: usize = 20;

/// The first row, and what others are compared with.
pub const OURS: &str = "hawser run";
/// The same of the floor.
pub const FLOOR: &str = "floor: the bare system calls";

/// The floor on our bridge, with an address that ours do not reach in a run of this.
pub fn floor(lab: &Lab, number: usize, command: &[&str]) -> Command {
    let mut floor = Command::new(bare("floor"));
    // 172.19.128.0 and on.
    let number = 0x8000 + number % 0x7f00;
    floor.args(["hawser0", &number.to_string()]);
    floor.arg(&lab.rootfs).args(command);
    floor
}

/// The table.
pub fn measure(bench: &Bench) -> Vec<Table> {
    let lab = bench.lab;
    // The bridge and the tables are there, as after the first container of a machine.
    lab.with_network();
    scope(|scope| {
        let mut all = of_ours(lab);
        without_network(lab, &mut all);
        for peer in others(scope, lab, bench.options.quick) {
            all.extend(peer);
        }
        contest::run(&mut all, bench.options.rounds(ROUNDS));
        vec![table(&all)]
    })
}

fn of_ours<'a>(lab: &'a Lab) -> Vec<Contender<'a>> {
    let ours = |name: &str, options: &'static [&'static str]| {
        Contender::process(name, 1, move |_| lab.run_command(options, &["/bin/true"]))
    };
    vec![
        ours(OURS, &[]),
        ours("hawser run --no-ipv6", &["--no-ipv6"]),
        ours("hawser run -p 8080:80", &["-p", "8080:80"]),
        ours("hawser run --init", &["--init"]),
        ours("hawser run --network ptp", &["--network", "ptp"]),
        Contender::process(FLOOR, 1, |round| floor(lab, round, &["/bin/true"])),
    ]
}

/// Those who leave the network away.
fn without_network<'a>(lab: &'a Lab, all: &mut Vec<Contender<'a>>) {
    if let Some(program) = find("bwrap") {
        all.push(Contender::process(
            "bwrap --unshare-all (no network)",
            1,
            move |_| {
                let mut bwrap = Command::new(&program);
                bwrap.arg("--unshare-all").arg("--bind").arg(&lab.rootfs);
                bwrap.args(["/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]);
                bwrap
            },
        ));
    }
    if let Some(program) = find("unshare") {
        all.push(Contender::process(
            "unshare -npmuif (no network)",
            1,
            move |_| {
                let mut unshare = Command::new(&program);
                unshare.args(["-n", "-p", "-m", "-u", "-i", "-f", "/bin/busybox", "true"]);
                unshare
            },
        ));
    }
}

type Made<'a> = Result<Vec<Contender<'a>>, String>;

/// Those who need a world of their own.
fn others<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    lab: &'env Lab,
    quick: bool,
) -> Vec<Vec<Contender<'scope>>> {
    let each = |usual| if quick { 1 } else { usual };
    let mut all = vec![];
    let mut add = |name: &str, made: Made<'scope>| match made {
        Ok(made) => all.push(made),
        Err(complaint) => left::out(name, &complaint),
    };
    let recipe = World::new(scope, "recipe", || Ok(recipe(lab)));
    add(
        "shell",
        contenders(recipe, &["shell: ip, iptables, unshare"], each(SLOW)),
    );
    for runtime in ["crun", "runc"] {
        let world = World::new(scope, runtime, move || oci::set_up(lab, runtime));
        let names = match runtime {
            "crun" => ["crun + CNI bridge", "crun + CNI bridge, portmap"],
            _ => ["runc + CNI bridge", "runc + CNI bridge, portmap"],
        };
        add(runtime, contenders(world, &names, each(SLOW)));
    }
    let world = World::new(scope, "podman", || podman(lab));
    let names = ["podman run + netavark", "podman run -p + netavark"];
    add("podman", contenders(world, &names, each(SLOWEST)));
    let world = World::new(scope, "docker", || docker(lab));
    let names = ["docker run", "docker run -p"];
    add("docker", contenders(world, &names, each(SLOWEST)));
    all
}

/// The ways of one world.
fn contenders<'a>(
    world: Result<World, String>,
    names: &[&str],
    each: usize,
) -> Result<Vec<Contender<'a>>, String> {
    let world = std::rc::Rc::new(world?);
    let one = |(way, name): (usize, &&str)| {
        let world = world.clone();
        Contender::new(*name, each, move |round| world.measure(way, round))
    };
    Ok(names.iter().enumerate().map(one).collect())
}

/// What tutorials do by hand.
const RECIPE: &str = "set -e
ip netns add box
ip link add veth0 type veth peer name veth1
ip link set veth1 netns box
ip addr add 10.0.0.1/24 dev veth0
ip link set veth0 up
iptables -t nat -A POSTROUTING -s 10.0.0.0/24 -j MASQUERADE
ip -n box link set lo up
ip -n box addr add 10.0.0.2/24 dev veth1
ip -n box link set veth1 up
ip -n box route add default via 10.0.0.1
ip netns exec box unshare --pid --mount --uts --ipc --fork chroot \"$0\" /bin/true
iptables -t nat -D POSTROUTING -s 10.0.0.0/24 -j MASQUERADE
ip netns del box";

fn recipe(lab: &Lab) -> Measure<'_> {
    Box::new(move |_, _| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", RECIPE]).arg(&lab.rootfs);
        let done = contest::timed(shell);
        // The kernel takes the link back later, and the next round makes one of that name.
        contest::settle(3);
        done
    })
}

fn podman(lab: &Lab) -> Result<Measure<'_>, String> {
    find("podman").ok_or("there is none")?;
    find("/usr/lib/podman/netavark").ok_or("there is no netavark")?;
    let lab = lab.beside("podman");
    let podman = lab.podman().ok_or("it wants the real root")?;
    Ok(Box::new(move |way, _| {
        let ports: &[&str] = [&[][..], &["-p", "8080:80"]][way];
        let rootfs = lab.rootfs.to_string_lossy();
        let words = ["--rm", "--network", "podman"];
        let rest = ["--rootfs", &rootfs, "/bin/true"];
        let words = [&words[..], ports, &rest].concat();
        contest::timed(podman.run_command(&words))
    }))
}

fn docker(lab: &Lab) -> Result<Measure<'_>, String> {
    find("docker").ok_or("there is none")?;
    let lab = lab.beside("docker");
    let mut docker = lab.docker_with_network().ok_or(NO_GROUP)?;
    docker.options = vec![];
    let archive = lab.archive("box", &[]).to_string_lossy().into_owned();
    docker.call(&["import", &archive, "box"]).exits(0);
    Ok(Box::new(move |way, _| {
        let ports: &[&str] = [&[][..], &["-p", "8080:80"]][way];
        let words = [&["--rm"], ports, &["box", "/bin/true"]].concat();
        contest::timed(docker.run_command(&words))
    }))
}

fn table(all: &[Contender]) -> Table {
    let of = |name: &str| all.iter().find(|one| one.name == name);
    let (ours, floor) = (of(OURS), of(FLOOR));
    let ratio =
        |time: f64, base: Option<f64>| base.map_or(Cell::None, |base| Cell::Ratio(time / base));
    let mut table = Table::new(
        "Start: a container with a network around /bin/true, whole process",
        &[
            "/ ours",
            "/ floor",
            "p10 / floor's p10",
            "median, ms",
            "p10, ms",
            "runs",
        ],
    );
    for one in all {
        let (median, p10) = (one.times.median(), one.times.p10());
        table.row(
            &one.name,
            vec![
                ratio(median, ours.map(|ours| ours.times.median())),
                ratio(median, floor.map(|floor| floor.times.median())),
                ratio(p10, floor.map(|floor| floor.times.p10())),
                Cell::Ms(median),
                Cell::Ms(p10),
                Cell::Count(one.times.count() as u64),
            ],
        );
    }
    table.note("Without a network: no link but lo. CNI: netns, ADD, run, DEL, as an engine calls them. The floor has no firewall, IPv6, devpts, masks, second exec.");
    table
}
