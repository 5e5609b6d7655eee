//! What keeps a killed container from its end. The kernel waits until each of its processes has been waited for (pid_namespaces(7)), and the
//! commands of `exec` are children of somebody outside, who may be stopped.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Supervisor;
use crate::error::{Doing, twice};
use crate::owner::{fields_from_third, namespace};
use crate::steps::warn;
use crate::sys::{self, End};

/// Wakes every process of this program that is stopped, while a child of its in the container of this first process is dead.
pub(super) fn wake_holders(first: Pid) {
    let Ok(processes) = namespace(&first.to_string(), "pid") else {
        return;
    };
    let own = name_of("self");
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse::<i32>().is_ok()) else {
            continue;
        };
        let Some(parent) = parent_in_state(pid, "Z") else {
            continue;
        };
        if !namespace(pid, "pid").is_ok_and(|found| found == processes) {
            continue;
        }
        let is_stopped = parent_in_state(&parent, "T").is_some();
        if is_stopped && own.is_some() && name_of(&parent) == own {
            if let Ok(parent) = parent.parse() {
                // It may have ended meanwhile.
                let _ = kill(Pid::from_raw(parent), Signal::SIGCONT);
            }
        }
    }
}

/// The parent of a process that is in this state.
fn parent_in_state(pid: &str, state: &str) -> Option<String> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let mut fields = fields_from_third(&stat);
    let is_in_it = fields.next()? == state;
    fields.next().filter(|_| is_in_it).map(String::from)
}

fn name_of(pid: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/comm")).ok()
}

impl Supervisor {
    /// The exit code, when the container has ended: one of another tool's has when no process of it is left.
    pub(super) fn reap(&mut self) -> Option<u8> {
        if let Some(ours) = &self.ours {
            // What names another may be the last descriptor that there is.
            self.spare = None;
            return match twice(|| ours.another())
                .doing(|| "look for the container's processes".into())
            {
                Ok(Some((pid, pidfd))) => {
                    self.container.child.pidfd = pidfd;
                    self.description.pid = Some(pid);
                    None
                }
                Ok(None) => Some(0),
                Err(error) => {
                    warn(&format!("{error}; it is detached"));
                    Some(0)
                }
            };
        }
        match sys::wait_for_end(&self.container.child.pidfd) {
            Ok(End::Exited(code)) => Some(code),
            Ok(End::Killed(signal)) => Some(self.killed_for.unwrap_or(128 + signal)),
            Err(Errno::ECHILD) => Some(crate::error::OURS),
            Err(_) => None,
        }
    }
}
