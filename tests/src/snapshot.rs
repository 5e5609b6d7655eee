//! What there is on the host, to hold a moment against a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::net::if_::if_nameindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::net::Watch;
use crate::process::DEADLINE;
use crate::{sh, sys};

/// What `ip` shows of the host; which line is about what, it says itself.
const SHOWN: &str = "\
    addr show\n\
    route show\n\
    rule show\n\
    neigh show nud permanent\n\
    neigh show proxy\n";

/// Links, addresses, routes, neighbours, rules with all that is in their sets, connections that containers answer, mounts, files,
/// processes and forwarding.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    parts: BTreeMap<&'static str, Vec<String>>,
    processes: BTreeMap<i32, Kin>,
    switches: Option<BTreeMap<String, String>>,
}

/// The parent of a process, and its name.
type Kin = (String, String);

impl Snapshot {
    /// What there is now.
    pub fn take() -> Self {
        let mut files = Vec::new();
        walk(Path::new("/run"), &mut files);
        files.sort();
        let lines = |path| {
            let text = fs::read_to_string(path).expect("read what the kernel shows");
            text.lines().map(str::to_owned).collect()
        };
        let mut parts = witnessed();
        parts.insert("links", links());
        parts.insert("mounts", lines("/proc/self/mountinfo"));
        parts.insert("files", files);
        parts.insert("ip_forward", lines("/proc/sys/net/ipv4/ip_forward"));
        Self {
            parts,
            processes: processes(),
            switches: None,
        }
    }

    /// With the network namespaces to which links have led, where none of those that tests have made is new.
    pub fn with_namespaces() -> Self {
        let mut now = Self::take();
        now.parts.insert("namespaces", namespace_ids());
        now
    }

    /// With all switches below `/proc/sys/net`: for before the first run, and after `down`.
    pub fn whole() -> Self {
        Self {
            switches: Some(switches()),
            ..Self::take()
        }
    }

    /// Panics unless everything is again as it was, waiting for links and processes that are still on their way out.
    #[track_caller]
    pub fn assert_back(&self) {
        let changes = self.changes();
        assert!(changes.is_empty(), "not as before:\n{}", changes.join("\n"));
    }

    /// The same, but for the files of the case and of the tools that it uses.
    #[track_caller]
    pub fn assert_host_back(&self) {
        let changes = self.host_changes();
        assert!(changes.is_empty(), "not as before:\n{}", changes.join("\n"));
    }

    /// What is not as it was, but for the files of the case and of the tools that it uses.
    pub fn host_changes(&self) -> Vec<String> {
        let mut changes = self.changes();
        let is_own = |change: &String| {
            let words = ["files: /run/lab/", "files: /run/mount "];
            words.iter().any(|word| change.starts_with(word))
        };
        changes.retain(|change| !is_own(change));
        changes
    }

    /// But for those that have taken the place of another one: a supervisor makes the process that outlives it anew when it begins to listen
    /// to the firewall.
    fn new_processes(&self) -> impl Iterator<Item = i32> {
        let now = processes();
        let gone = self
            .processes
            .iter()
            .filter(|(pid, _)| !now.contains_key(pid));
        let mut gone: Vec<Kin> = gone.map(|(_, kin)| kin.clone()).collect();
        let new = now
            .into_iter()
            .filter(|(pid, _)| !self.processes.contains_key(pid));
        new.filter_map(
            move |(pid, kin)| match gone.iter().position(|one| *one == kin) {
                Some(place) => {
                    gone.swap_remove(place);
                    None
                }
                None => Some(pid),
            },
        )
    }

    /// What is not as it was, after waiting for links and processes that are still on their way out.
    pub fn changes(&self) -> Vec<String> {
        let mut changes: Vec<String> = self.new_processes().filter_map(lives_on).collect();
        Watch::new().until(|| links() == self.parts["links"]);
        let mut now = Self::take();
        if let Some(namespaces) = self.parts.get("namespaces") {
            Watch::namespaces().until(|| namespace_ids().len() <= namespaces.len());
            now.parts.insert("namespaces", namespace_ids());
        }
        let parts: BTreeSet<_> = self.parts.keys().chain(now.parts.keys()).collect();
        let none = Vec::new();
        for part in parts {
            let [before, after] = [self, &now].map(|one| one.parts.get(part).unwrap_or(&none));
            changes.extend(differences(part, before, after));
        }
        if let Some(before) = &self.switches {
            let after = switches();
            for (switch, old) in before {
                let now = after.get(switch);
                if now != Some(old) {
                    changes.push(format!("switches: {switch} was {old:?} and is {now:?}"));
                }
            }
        }
        changes
    }
}

/// What one has and the other has not; where that is nothing and they differ all the same, both.
fn differences(part: &str, before: &[String], after: &[String]) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let without = |all: &[String], others: &[String], what: &str| -> Vec<String> {
        let missing = all.iter().filter(|line| !others.contains(line));
        missing
            .map(|line| format!("{part}: {line} {what}"))
            .collect()
    };
    let mut all = without(before, after, "is gone");
    all.extend(without(after, before, "is left"));
    if all.is_empty() {
        let (before, after) = (before.join("\n"), after.join("\n"));
        all.push(format!("{part} were:\n{before}\nand are:\n{after}"));
    }
    all
}

/// What `ip` and `nft` show, and which connections there are, without what changes by itself.
fn witnessed() -> BTreeMap<&'static str, Vec<String>> {
    let mut parts: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let shown = sh(&format!("printf '{SHOWN}' | ip -o -batch -; ip -6 route"));
    for line in shown.lines().map(str::trim_end) {
        let is_numbered = line.starts_with(|first: char| first.is_ascii_digit());
        let (part, told) = if line.ends_with(" PERMANENT") || line.ends_with(" proxy") {
            ("neighbours", Some(line.to_owned()))
        } else if is_numbered && line.contains(": ") {
            ("addresses", address(line))
        } else {
            ("routes", route(line))
        };
        parts.entry(part).or_default().extend(told);
    }
    let connections = fs::read_to_string("/proc/net/nf_conntrack").expect("the connections");
    let connections = connections.lines().filter_map(connection).collect();
    parts.insert("connections", connections);
    for lines in parts.values_mut() {
        lines.sort();
    }
    let rules = sh("nft -s list ruleset");
    parts.insert("rules", rules.lines().map(str::to_owned).collect());
    parts
}

/// An address without the number of its link; none that the kernel makes by itself, whenever a link has a carrier.
fn address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(": ")?;
    is_told(rest).then(|| rest.replace(" tentative", ""))
}

/// A route without what follows the carrier, or the time.
fn route(line: &str) -> Option<String> {
    let words = line.replace(" linkdown", "");
    let (route, rest) = words.split_once(" expires ").unwrap_or((&words, ""));
    let rest = rest.split_once(' ').map_or("", |(_, rest)| rest);
    is_told(line).then(|| format!("{route} {rest}").trim_end().to_owned())
}

/// Of links that are not ours, link-local addresses come and go with the carrier.
fn is_told(line: &str) -> bool {
    !line.contains("fe80:") || line.contains("hawser") || line.contains(" hw")
}

/// Who is connected with whom, where a container answers: with an address that is none of the lab's own, nor a gateway's. What a
/// container has opened is forgotten by the kernel in its time.
fn connection(line: &str) -> Option<String> {
    const LAB: [&str; 5] = ["192.0.2.", "198.51.100.", "127.", "2001:", "0000:"];
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut sources = words.iter().filter_map(|word| word.strip_prefix("src="));
    let answers = sources.next_back()?;
    let is_gateways = [".0.1", ":0001"].iter().any(|end| answers.ends_with(end));
    let is_ours = !is_gateways && !LAB.iter().any(|own| answers.starts_with(own));
    let kept = |word: &&&str| word.contains('=') && !word.starts_with("use=");
    let known: Vec<&str> = words.iter().filter(kept).copied().collect();
    is_ours.then(|| format!("{} {}", words[2], known.join(" ")))
}

/// The network namespaces that links lead to, or have led to and something still keeps.
fn namespace_ids() -> Vec<String> {
    let text = sh("ip netns list-id");
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// The names of all links: flags and states of a bridge follow its ports.
fn links() -> Vec<String> {
    let all = if_nameindex().expect("list links");
    let names = all.iter().map(|link| link.name().to_string_lossy());
    let mut links: Vec<String> = names.map(|name| name.into_owned()).collect();
    links.sort();
    links
}

fn processes() -> BTreeMap<i32, Kin> {
    let kin = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.rsplit_once(") ")?;
        Some((
            rest.split(' ').nth(1)?.to_owned(),
            name.split_once(" (")?.1.to_owned(),
        ))
    };
    let entries = fs::read_dir("/proc").expect("list /proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, kin(pid)?)))
        .collect()
}

/// Waits until a process has ended and is reaped; says which one it is when it does not end, or nobody reaps it.
fn lives_on(pid: i32) -> Option<String> {
    let fd = sys::pidfd(pid).ok()?;
    let timeout = PollTimeout::try_from(DEADLINE).unwrap_or(PollTimeout::MAX);
    let wait = |flags| poll(&mut [PollFd::new(fd.as_fd(), flags)], timeout).unwrap_or(0) > 0;
    let look = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?);
        // The first process of the case is about to reap its own; who has no parent is being reaped.
        let is_waited_for = state == "Z" && ["0", "1"].contains(&parent);
        (!is_waited_for).then(|| format!("processes: {} is left", stat.trim_end()))
    };
    if !wait(PollFlags::POLLIN) {
        return look();
    }
    look()?;
    // Its parent may be about to, as podman's conmon is. POLLHUP, which nobody has to ask for, is that (Linux 6.9 on).
    wait(PollFlags::empty());
    look()
}

/// Every file below a directory; of those of ours with what they say.
fn walk(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(format!("{}{}", path.display(), content(&path)));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && path != Path::new("/run/netns") {
            walk(&path, found);
        }
    }
}

/// What a file of ours says: not a counter, nor the slots of a hosts file that nobody has.
fn content(path: &Path) -> String {
    let is_counter = path
        .extension()
        .is_some_and(|extension| extension == "next");
    let is_told = path.starts_with("/run/hawser") && path.is_file() && !is_counter;
    if !is_told {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| format!("\n    {}", line.trim_end()))
        .collect()
}

/// All switches that are not about the moment, and not random.
fn switches() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    read_below(Path::new("/proc/sys/net"), &mut all);
    let is_of_the_moment =
        |path: &str| path.ends_with("_count") || path.ends_with("flush") || path.ends_with("key");
    all.retain(|path, _| !is_of_the_moment(path));
    all
}

fn read_below(directory: &Path, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_below(&path, all);
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Not all of them can be read.
            let name = path.strip_prefix("/proc/sys").unwrap_or(&path);
            all.insert(name.display().to_string(), value.trim_end().to_owned());
        }
    }
}
