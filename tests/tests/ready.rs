//! Ready means ready: the command's first connect is answered, however many start at once.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, Running, alone, bare, case, collect, packets, sh, wait_untold};

/// Connects to the gateway and to the outside server, to that by its name and by IPv6 too, and prints of each when it was there (which is
/// no test), and how many packets had to be sent again.
const SCRIPT: &str = "probe connect GATEWAY:7000 || exit 8; probe connect 198.51.100.10:7000 || exit 9; \
    probe connect four.example.test:7000 || exit 10; probe connect [2001:db8:2::10]:7000 || exit 11";

/// What there is to see on the host when a start was slow.
const WITNESSES: &str = "nft list ruleset; grep . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding; ip -o addr; ip route; ip neigh | grep -v PERMANENT; \
    ip -n internet neigh; ip -s link show uplink; grep -e Ip: -e Tcp: /proc/net/snmp; cat /proc/net/stat/nf_conntrack; \
    grep -v TIME_WAIT /proc/net/nf_conntrack | head -5; grep -c . /proc/net/nf_conntrack; \
    busybox nc -w 2 198.51.100.10 7000 </dev/null && echo the host reaches the outside; dmesg | tail -3";

/// Accepts for ever; the threads end with the process.
fn answer(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"hello\n"));
        }
    });
}

fn starts(lab: &Lab, count: usize, options: &[&str], gateway: &str) {
    let _alone = alone();
    fs::copy(bare("probe"), lab.rootfs.join("bin/probe")).expect("copy the probe");
    answer(TcpListener::bind("0.0.0.0:7000").expect("listen on the host"));
    lab.serve();
    for outside in ["198.51.100.10:7000", "[2001:db8:2::10]:7000"] {
        let listen = || TcpListener::bind(outside).expect("listen in the internet");
        answer(lab.internet.enter(listen));
    }
    // Without one a router asks for no neighbour on behalf of others; the kernel makes it when it has seen the carrier.
    wait_untold("the lab's routers have link-local addresses", || {
        let all = "ip -6 addr show dev uplink scope link; ip -n internet -6 addr show dev eth0 scope link";
        let said = sh(all);
        said.matches("fe80").count() == 2 && !said.contains("tentative")
    });
    let script = SCRIPT.replace("GATEWAY", gateway);
    let slow: Vec<String> = std::thread::scope(|scope| {
        let worker = |first: usize| {
            let script = &script;
            move || -> Vec<String> {
                let runs = (first..count)
                    .step_by(16)
                    .map(|_| collect(lab.run_command(options, &["sh", "-c", script]), DEADLINE));
                runs.filter_map(|outcome| complaint(&outcome)).collect()
            }
        };
        let threads: Vec<_> = (0..16).map(|first| scope.spawn(worker(first))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a worker"))
            .collect()
    });
    if !slow.is_empty() {
        let host = sh(WITNESSES);
        panic!("{} of {count} starts: {slow:#?}\n{host}", slow.len());
    }
}

/// What was wrong: a failure, or a packet that was lost: TCP sends it again after a second. How long a connect took is the machine's.
fn complaint(outcome: &lab::Outcome) -> Option<String> {
    let text = outcome.out();
    let again: Vec<u32> = text
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.parse().ok())
        .collect();
    (outcome.code != 0 || again != [0; 4])
        .then(|| format!("packets sent again to each: {again:?}; {outcome}"))
}

#[test]
fn two_hundred_starts_by_sixteen() {
    packets(|lab| starts(lab, 200, &[], "172.19.0.1"));
}

#[test]
fn a_hundred_starts_by_sixteen_on_ptp() {
    packets(|lab| starts(lab, 100, &["--network", "ptp"], "10.0.0.1"));
}

/// The host's neighbour table holds 1,024 for all namespaces together, and a bridge that keeps its carrier keeps its
/// neighbours: those that are gone must not be in the way of new ones.
#[test]
fn more_starts_than_a_neighbour_table_holds() {
    case(|lab| {
        let _stays = lab.start_idle(&[]);
        starts(lab, 1200, &[], "172.19.0.1");
    });
}

#[test]
#[ignore = "long: a thousand starts, twice"]
fn a_thousand_starts_by_sixteen() {
    packets(|lab| starts(lab, 1000, &[], "172.19.0.1"));
}

/// Until the container's end is up the host's has no carrier: a bridge that took it for one that works would come up and go down
/// again, with all who use links waiting for that.
#[test]
fn a_host_end_comes_up_when_all_is_said_and_works_when_it_has_a_carrier() {
    packets(|lab| {
        lab.with_network();
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "link"]);
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut monitor = Running::spawn(command);
        let pid = monitor.pid().to_string();
        let listens = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Its number and its groups.
            words.get(2) == Some(&pid.as_str()) && words.get(3) != Some(&"00000000")
        };
        wait_untold("ip listens", || {
            let sockets = fs::read_to_string("/proc/thread-self/net/netlink");
            sockets.expect("list sockets").lines().any(listens)
        });
        lab.run(&["--name", "late"], &["true"]).ok();
        let said = monitor.until("LOWER_UP> mtu 1500 qdisc noqueue master hawser0 state UP");
        let is_up = |line: &&str| line.contains(": hw") && line.contains(",UP");
        let up = said.lines().find(is_up).expect("a host end that is up");
        // Or the kernel has looked already, and it is down.
        let works = ["state UP", "state UNKNOWN"]
            .iter()
            .any(|state| up.contains(state));
        assert!(!works && up.contains("altname late"), "{said}");
    });
}
