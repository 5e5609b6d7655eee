//! Control groups: who comes into a container later is limited, and counted, with those who are there.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Where each hierarchy is mounted, by its controllers; version 2 alone, or beside the others as `unified`.
const ROOT: &str = "/sys/fs/cgroup";

/// Moves this process to the groups that a process is in, where they are others than ours. What cannot be found or is refused stays as it
/// is.
pub fn join(pid: i32) {
    let groups = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let (ours, theirs) = (groups("self"), groups(&pid.to_string()));
    let others = theirs
        .lines()
        .filter(|line| ours.lines().all(|one| one != *line));
    for place in others.filter_map(place) {
        // 0: whoever writes it (cgroups(7)).
        let _ = File::options()
            .write(true)
            .open(place + "/cgroup.procs")
            .and_then(|mut processes| processes.write_all(b"0"));
    }
}

/// The directory of a line of `/proc/PID/cgroup`: hierarchy, controllers (none in version 2), path. Not outside of what our own cgroup
/// namespace shows, where that path would lead into another hierarchy.
fn place(line: &str) -> Option<String> {
    let (_, line) = line.split_once(':')?;
    let (controllers, path) = line.split_once(':')?;
    if path.split('/').any(|name| name == "..") {
        return None;
    }
    match controllers.strip_prefix("name=").unwrap_or(controllers) {
        "" if Path::new(ROOT).join("cgroup.controllers").exists() => Some(format!("{ROOT}{path}")),
        "" => Some(format!("{ROOT}/unified{path}")),
        controllers => Some(format!("{ROOT}/{controllers}{path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_group_is() {
        let named = place("9:name=systemd:/a.slice/b.scope");
        assert_eq!(
            named.as_deref(),
            Some("/sys/fs/cgroup/systemd/a.slice/b.scope")
        );
        let two = place("3:cpu,cpuacct:/a:b");
        assert_eq!(two.as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct/a:b"));
        assert!(place("0::/a").is_some_and(|place| place.ends_with("/a")));
        assert_eq!(place("0::/../a"), None);
        assert_eq!(place("nothing"), None);
    }
}
