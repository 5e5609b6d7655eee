//! What keeps a killed container from its end. The kernel waits until each of its processes has been waited for (pid_namespaces(7)), and the
//! commands of `exec` are children of somebody outside, who may be stopped.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::owner::namespace;

/// Wakes every process of this program that is stopped, while a child of its in the container of this first process is dead.
pub(super) fn wake_holders(first: Pid) {
    let Ok(processes) = namespace(&first.to_string(), "pid") else {
        return;
    };
    let own = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().filter(|name| name.parse::<i32>().is_ok());
        let Some((_, 'Z', parent)) = pid.and_then(state_of) else {
            continue;
        };
        if !pid.is_some_and(|pid| namespace(pid, "pid").is_ok_and(|found| found == processes)) {
            continue;
        }
        if let Some((name, 'T', _)) = state_of(&parent) {
            if let Some(parent) = parent.parse().ok().filter(|_| name == own.trim_end()) {
                // It may have ended meanwhile.
                let _ = kill(Pid::from_raw(parent), Signal::SIGCONT);
            }
        }
    }
}

/// The name of a process, its state in a letter, and its parent.
fn state_of(pid: &str) -> Option<(String, char, String)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold blanks and brackets.
    let (name, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.to_string();
    Some((name.split_once('(')?.1.to_string(), state, parent))
}
