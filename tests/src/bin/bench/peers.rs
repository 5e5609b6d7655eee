//! The machine, and who else is there: the versions that were measured.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{bare, binary, init_binary};
use serde_json::{Value, json};

use crate::left::{self, Left};
use crate::table::Table;

/// A peer: its program, Debian's package, the words that make it tell its version.
const PEERS: &[(&str, &str, &[&str])] = &[
    ("bwrap", "bubblewrap", &["--version"]),
    ("unshare", "util-linux", &["--version"]),
    ("ip", "iproute2", &["-V"]),
    ("iptables", "iptables", &["--version"]),
    ("crun", "crun", &["--version"]),
    ("runc", "runc", &["--version"]),
    ("/usr/lib/cni/bridge", "containernetworking-plugins", &[]),
    ("podman", "podman", &["--version"]),
    ("/usr/lib/podman/netavark", "netavark", &["--version"]),
    ("docker", "docker.io", &["--version"]),
    ("tini-static", "tini", &["--version"]),
    ("dumb-init", "dumb-init", &["--version"]),
    ("catatonit", "catatonit", &["--version"]),
];

/// Where packages are unpacked (see `.ci/unpack`).
fn unpacked() -> PathBuf {
    env::var_os("DEBIAN_ROOT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers"),
        PathBuf::from,
    )
}

/// Where a peer is: installed, or unpacked beside what is built.
pub fn find(program: &str) -> Option<PathBuf> {
    let unpacked = unpacked();
    let places: Vec<String> = if program.starts_with('/') {
        vec![program.into()]
    } else {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .map(|place| format!("{place}/{program}"))
            .into()
    };
    let installed = places.iter().map(PathBuf::from);
    let there = places
        .iter()
        .map(|place| unpacked.join(place.trim_start_matches('/')));
    installed.chain(there).find(|path| path.is_file())
}

/// What there is of the machine to say: a name and a value each.
pub fn machine() -> Vec<(&'static str, String)> {
    let line = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once([':', '=']));
        let value = value.map_or("unknown", |(_, value)| value.trim_matches([' ', '"', '\t']));
        value.to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        ("processor", line("/proc/cpuinfo", "model name")),
        ("processors", processors.to_string()),
        ("memory", line("/proc/meminfo", "MemTotal")),
        ("kernel", kernel.trim().to_owned()),
        ("system", line("/etc/os-release", "PRETTY_NAME=")),
        (
            "load before",
            load.split(' ').next().unwrap_or_default().to_owned(),
        ),
    ]
}

/// Why dockerd cannot be started.
pub const NO_GROUP: &str = "this machine gives its daemon no control group";

/// Peers with their versions, and those that are missing.
pub fn versions() -> (Vec<(String, String)>, Vec<Left>) {
    let size = |path: PathBuf| {
        let length = fs::metadata(&path).map_or(0, |file| file.len());
        format!("{length} bytes")
    };
    let mut found = vec![
        ("host-helper".to_owned(), size(binary())),
        ("init".to_owned(), size(init_binary())),
        ("floor".to_owned(), size(bare("floor"))),
    ];
    let mut missing = vec![];
    for (program, package, words) in PEERS {
        match find(program) {
            Some(path) => found.push(((*package).into(), version(&path, package, words))),
            None => missing.push(Left {
                part: None,
                name: (*program).into(),
                reason: format!("not installed or unpacked (Debian's {package})"),
            }),
        }
    }
    (found, missing)
}

/// What `.ci/unpack` has written down of a package, if the program is one that it has unpacked.
fn version_unpacked(path: &Path, package: &str) -> Option<String> {
    let unpacked = unpacked();
    if !path.starts_with(&unpacked) {
        return None;
    }
    let text = fs::read_to_string(unpacked.join("versions")).ok()?;
    let mut all = text.lines().filter_map(|line| line.split_once(' '));
    let (_, version) = all.find(|(name, _)| *name == package)?;
    Some(version.to_owned())
}

/// The first word of its answer that begins with a digit, or with a v and one.
fn version(path: &Path, package: &str, words: &[&str]) -> String {
    let mut command = Command::new(path);
    // What is unpacked has its libraries there.
    let libraries = path.ancestors().find(|place| place.ends_with("usr"));
    let libraries = libraries.map(|usr| {
        usr.join("lib")
            .join(format!("{}-linux-gnu", env::consts::ARCH))
    });
    command
        .args(words)
        .envs(libraries.map(|path| ("LD_LIBRARY_PATH", path)));
    if words.is_empty() {
        // Debian's plugins do not know theirs.
        if let Some(version) = version_unpacked(path, package) {
            return version;
        }
        command = Command::new("dpkg-query");
        command.args(["--show", "--showformat", "${Version}", package]);
    }
    let Ok(output) = command.output() else {
        return "unknown".into();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let numbers = text.split_whitespace().filter(|word| {
        let rest = word.trim_start_matches(['v', '(']);
        rest.starts_with(|first: char| first.is_ascii_digit()) && rest.contains('.')
    });
    let first = numbers
        .map(|word| word.trim_matches(['v', ',', '(', ')']))
        .next();
    let ip = text.split_once("iproute2-").map(|(_, rest)| rest);
    let ip = ip.and_then(|rest| rest.split([',', '\n']).next());
    ip.or(first).unwrap_or("unknown").to_owned()
}

/// For the head of the tables.
pub fn text(machine: &[(&str, String)], found: &[(String, String)]) -> String {
    let pairs = |all: &mut dyn Iterator<Item = (String, String)>| {
        let all: Vec<String> = all.map(|(name, value)| format!("{name} {value}")).collect();
        all.join(", ")
    };
    let machine = pairs(
        &mut machine
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone())),
    );
    let found = pairs(&mut found.iter().cloned());
    format!("machine: {machine}\nmeasured: {found}")
}

/// Everything for programs.
pub fn json(
    machine: &[(&str, String)],
    found: &[(String, String)],
    [missing, failed]: [&[Left]; 2],
    tables: &[(&str, Table)],
) -> String {
    let object = |all: &mut dyn Iterator<Item = (String, String)>| -> Value {
        Value::Object(all.map(|(name, value)| (name, json!(value))).collect())
    };
    let machine = object(
        &mut machine
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone())),
    );
    let found = object(&mut found.iter().cloned());
    let tables: Vec<Value> = tables
        .iter()
        .map(|(part, table)| table.json(part))
        .collect();
    let all = json!({
        "machine": machine,
        "measured": found,
        "missing": left::json(missing),
        "failed": left::json(failed),
        "tables": tables,
    });
    serde_json::to_string_pretty(&all).unwrap_or_default()
}
