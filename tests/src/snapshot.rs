//! What there is on the host, to hold a moment against a later one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::net::Watch;
use crate::process::wait_for_end;
use crate::sh;

/// Links, addresses, routes, rules, mounts, files and global sysctls of the host.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    links: BTreeSet<String>,
    routes: String,
    ruleset: String,
    mounts: String,
    files: BTreeSet<String>,
    forwarding: String,
    processes: BTreeSet<i32>,
}

impl Snapshot {
    /// What there is now.
    pub fn take() -> Self {
        let mut files = BTreeSet::new();
        walk(Path::new("/run"), &mut files);
        Self {
            links: links(),
            routes: sh("ip route show; ip rule show").replace(" linkdown", ""),
            // Without what counters have counted.
            ruleset: sh("nft -s list ruleset"),
            mounts: fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo"),
            files,
            forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .expect("read ip_forward"),
            processes: processes(),
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
        let mut changes = self.changes();
        let is_own = |change: &String| {
            let words = ["files: /run/lab/", "files: /run/mount "];
            words.iter().any(|word| change.starts_with(word))
        };
        changes.retain(|change| !is_own(change));
        assert!(changes.is_empty(), "not as before:\n{}", changes.join("\n"));
    }

    /// What is not as it was, after waiting for links and processes that are still on their way out.
    pub fn changes(&self) -> Vec<String> {
        for pid in processes().difference(&self.processes) {
            wait_for_end(*pid);
        }
        Watch::new().until(|| links() == self.links);
        let now = Self::take();
        let sets = [
            ("links", &self.links, &now.links),
            ("files", &self.files, &now.files),
        ];
        let texts = [
            ("routes", &self.routes, &now.routes),
            ("rules", &self.ruleset, &now.ruleset),
            ("mounts", &self.mounts, &now.mounts),
            ("ip_forward", &self.forwarding, &now.forwarding),
        ];
        let mut changes = vec![];
        for (what, before, after) in sets {
            changes.extend(
                before
                    .difference(after)
                    .map(|gone| format!("{what}: {gone} is gone")),
            );
            changes.extend(
                after
                    .difference(before)
                    .map(|left| format!("{what}: {left} is left")),
            );
        }
        for (what, before, after) in texts {
            if before != after {
                changes.push(format!("{what} were:\n{before}\nand are:\n{after}"));
            }
        }
        changes
    }
}

/// Names and what does not change by itself of all links: flags and states of a bridge follow its ports.
fn links() -> BTreeSet<String> {
    let text = sh("ip -o link show");
    text.lines()
        .map(|line| line.split(": ").nth(1).unwrap_or(line).to_owned())
        .collect()
}

fn processes() -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc").expect("list /proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn walk(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(path.to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && path != Path::new("/run/netns") {
            walk(&path, found);
        }
    }
}
