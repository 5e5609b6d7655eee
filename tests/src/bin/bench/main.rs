//! Measures hawser beside its peers and beside the floor (the bare system calls), in one run, in namespaces of its own:
//! the machine's network is not touched. `make bench` builds what it needs and starts it.
//!
//! Others run on the machine too, and processors differ: believe the ratios, which come first; the times are the
//! machine's. What is compared runs in turns, in an order that changes, so that noise hits all alike; levels (how many
//! live already, or start at once) and memory are measured one after the other.

mod burst;
mod cni;
mod contest;
mod data;
mod data_table;
mod left;
mod oci;
mod options;
mod peers;
mod pid1;
mod ports;
mod ready;
mod scale;
mod servers;
mod start;
mod steps;
mod stop;
mod table;
mod times;
mod world;

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use lab::{Lab, is_root, program};
use options::Options;
use table::Table;

/// A part that hangs is not waited for longer.
const DEADLINE: Duration = Duration::from_secs(3600);

/// What a part gets.
struct Bench<'a> {
    /// Where it happens.
    lab: &'a Lab,
    /// How much of it.
    options: &'a Options,
}

/// A part: its name, what it answers, and what measures it.
type Part = (&'static str, &'static str, fn(&Bench) -> Vec<Table>);

const PARTS: &[Part] = &[
    (
        "start",
        "a container around /bin/true, as a whole process",
        start::measure,
    ),
    (
        "ready",
        "until the command's first connection",
        ready::measure,
    ),
    ("steps", "where the time goes", steps::measure),
    ("burst", "many started by many at once", burst::measure),
    ("scale", "a start where many live already", scale::measure),
    (
        "stop",
        "the end, and the memory that is held until then",
        stop::measure,
    ),
    ("cni", "ADD, DEL and GC of the plugin", cni::measure),
    (
        "ports",
        "what one more published port costs",
        ports::measure,
    ),
    ("data", "what packets pay for rules", data::measure),
    ("init", "what a PID 1 costs", pid1::measure),
];

fn main() -> ExitCode {
    let names: Vec<&str> = PARTS.iter().map(|(name, ..)| *name).collect();
    let options = match Options::parse(std::env::args().skip(1), &names) {
        Ok(options) => options,
        Err(complaint) => return refuse(&complaint),
    };
    if options.help {
        return usage();
    }
    if !is_root() {
        return refuse("measure: it takes root (devices, control groups); use sudo");
    }
    ExitCode::from(program(DEADLINE, |lab| run(lab, &options)))
}

/// All parts that were asked for, each with its tables as soon as they are there.
fn run(lab: &Lab, options: &Options) -> u8 {
    let bench = Bench { lab, options };
    let machine = peers::machine();
    let (found, missing) = peers::versions();
    say(&peers::text(&machine, &found));
    left::hear_of_panics();
    // As on any host: some of what a port costs depends on whether there is any.
    let _tracked = track(lab, 1);
    let (mut tables, mut failed, mut is_complete) = (vec![], vec![], true);
    for (name, title, measure) in PARTS {
        if !options.wants(name) {
            continue;
        }
        say(&format!("\n## {name}: {title}\n"));
        // The complaint is printed by then.
        match catch_unwind(AssertUnwindSafe(|| measure(&bench))) {
            Ok(made) => {
                for table in made {
                    say(&format!("\n{table}"));
                    tables.push((*name, table));
                }
            }
            Err(_) => {
                // What it has left must not be in the way of the next one.
                lab.hawser(&["down", "--force"]);
                left::out("the whole part", &left::last_panic());
                is_complete = false;
            }
        }
        failed.extend(left::take(name));
    }
    say(&format!("\n{}", left::text("missing", &missing)));
    say(&left::text("failed", &failed));
    if let Some(file) = &options.json {
        let json = peers::json(&machine, &found, [&missing, &failed], &tables);
        let written = if file == "-" {
            say(&json);
            Ok(())
        } else {
            std::fs::write(file, json + "\n")
        };
        if let Err(error) = written {
            complain(&format!("write {file}: {error}"));
            is_complete = false;
        }
    }
    u8::from(!is_complete)
}

/// So many connections that the kernel tracks, until they are dropped.
fn track(lab: &Lab, count: usize) -> Vec<(TcpStream, TcpStream)> {
    // Its tables have the kernel track connections.
    lab.with_network();
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let to = listener.local_addr().expect("its address");
    let open = |_| {
        let client = TcpStream::connect(to).expect("connect");
        (client, listener.accept().expect("a connection").0)
    };
    let all = (0..count).map(open).collect();
    let tracked = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    let tracked: usize = tracked.expect("how many").trim().parse().expect("a number");
    assert!(tracked >= count, "{tracked} connections are tracked");
    all
}

fn usage() -> ExitCode {
    say(options::USAGE);
    for (name, title, _) in PARTS {
        say(&format!("  {name:8} {title}"));
    }
    ExitCode::SUCCESS
}

fn refuse(complaint: &str) -> ExitCode {
    complain(complaint);
    ExitCode::from(125)
}

fn complain(line: &str) {
    let _ = std::io::stderr().write_all(format!("bench: {line}\n").as_bytes());
}

fn say(text: &str) {
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
}
