//! What changes about the host: its resolvers, a router on its uplink; and files that are looked at until they have.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::net::bind_mount;
use crate::{DEADLINE, Lab, Running, sh, skip};

/// A file of a container, seen from the host: as it is inside, whatever has been mounted there.
pub struct Seen {
    path: PathBuf,
    changes: Inotify,
}

impl Seen {
    /// A file of the container whose first process this is.
    pub fn inside(pid: i32, path: &str) -> Self {
        Self::at(Path::new(&format!("/proc/{pid}/root{path}")))
    }

    /// A file of the host.
    pub fn at(path: &Path) -> Self {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB;
        changes.add_watch(path, flags).expect("watch a file");
        Self {
            path: path.to_owned(),
            changes,
        }
    }

    /// Its text now.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("read a file that is watched")
    }

    /// Its number.
    pub fn inode(&self) -> u64 {
        fs::metadata(&self.path).expect("look at a file").ino()
    }

    /// Waits until it is so, looking again whenever it changes; no longer than a second since `start`.
    #[track_caller]
    pub fn becomes(&self, start: Instant, is_so: impl Fn(&str) -> bool) -> Duration {
        let end = start + Duration::from_secs(1);
        while !is_so(&self.text()) {
            let left = end.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).expect("a second");
            let changes = self.changes.as_fd();
            let ready = poll(&mut [PollFd::new(changes, PollFlags::POLLIN)], left).unwrap_or(0);
            assert!(ready > 0, "after a second it is still {:?}", self.text());
            let _ = self.changes.read_events();
        }
        start.elapsed()
    }
}

impl Lab {
    /// A router on the uplink that advertises itself, in the words of radvd.conf(5).
    pub fn router(&self, advertisement: &str) -> Running {
        let config = self.dir.join("radvd.conf");
        fs::write(&config, format!("interface eth0 {{ {advertisement} }};\n"))
            .expect("write a file");
        // One that says in its answers that it is no router is soon none to the host.
        self.internet
            .sh("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        let mut radvd = self.internet.command("radvd");
        radvd
            .args(["-n", "-m", "stderr", "-u", "root"])
            .args(["-p", "/run/lab/radvd.pid", "-C"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(fs::File::create(self.dir.join("radvd.log")).expect("make a file"));
        Running::spawn(radvd)
    }

    /// An `/etc` of this case's own, where files can be replaced: what the lab has mounted over one cannot.
    pub fn own_etc(&self) -> PathBuf {
        let etc = self.dir.join("etc");
        fs::create_dir_all(&etc).expect("make a directory");
        for entry in fs::read_dir("/etc").expect("list /etc").flatten() {
            // Some are for the real root only.
            let _ = fs::copy(entry.path(), etc.join(entry.file_name()));
        }
        bind_mount(&etc.to_string_lossy(), "/etc");
        etc
    }

    /// systemd-resolved, the real one, with its stub in `/etc/resolv.conf` as on a Debian that has it. It asks nobody
    /// but whom [`Resolved::link`] names. `None`: it cannot run here, which was said.
    pub fn resolved(&self) -> Option<Resolved> {
        if !self.real_root {
            skip("systemd-resolved needs a user of its own, which the real root has to give");
            return None;
        }
        let unpacked = std::env::var_os("RESOLVED_ROOT").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/resolved"),
            PathBuf::from,
        );
        let program = unpacked.join("usr/lib/systemd/systemd-resolved");
        assert!(
            program.exists(),
            "{} is missing: run `make test`, or set RESOLVED_ROOT",
            program.display()
        );
        let etc = self.own_etc();
        let append = |name: &str, line: &str| {
            let old = fs::read_to_string(etc.join(name)).unwrap_or_default();
            fs::write(etc.join(name), format!("{old}{line}\n")).expect("write a file of /etc");
        };
        append("passwd", "systemd-resolve:x:901:901::/:/usr/sbin/nologin");
        append("group", "systemd-resolve:x:901:");
        fs::create_dir_all(etc.join("systemd")).expect("make a directory");
        let settings = "[Resolve]\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n";
        fs::write(etc.join("systemd/resolved.conf"), settings).expect("write resolved.conf");
        for directory in ["resolve", "netif/links"] {
            let path = Path::new("/run/systemd").join(directory);
            fs::create_dir_all(path).expect("make a directory");
        }
        chown("/run/systemd/resolve", Some(901), Some(901)).expect("give it a directory");
        let stub = etc.join("resolv.conf");
        let _ = fs::remove_file(&stub);
        std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", stub)
            .expect("link the stub");
        let mut command = Command::new(program);
        command
            .env("LD_LIBRARY_PATH", libraries(&unpacked))
            .env("SYSTEMD_LOG_TARGET", "console")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let changes = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        changes
            .add_watch("/run/systemd/resolve", AddWatchFlags::IN_MOVED_TO)
            .expect("watch a directory");
        let resolved = Resolved {
            _running: Running::spawn(command),
            changes,
        };
        resolved.until(|| Path::new(BEHIND).exists() && Path::new("/etc/resolv.conf").exists());
        Some(resolved)
    }
}

/// Where the programs of a directory of packages find theirs.
fn libraries(unpacked: &Path) -> OsString {
    let found = sh(&format!(
        "find {} -type d -path '*/lib/*-linux-gnu*'",
        unpacked.display()
    ));
    found.lines().collect::<Vec<_>>().join(":").into()
}

/// A running systemd-resolved.
pub struct Resolved {
    _running: Running,
    changes: Inotify,
}

/// What it keeps behind its stub.
const BEHIND: &str = "/run/systemd/resolve/resolv.conf";

impl Resolved {
    fn until(&self, is_so: impl Fn() -> bool) {
        while !is_so() {
            let left = PollTimeout::try_from(DEADLINE).expect("a minute");
            let changes = self.changes.as_fd();
            let ready = poll(&mut [PollFd::new(changes, PollFlags::POLLIN)], left).unwrap_or(0);
            assert!(ready > 0, "systemd-resolved does not write its files");
            let _ = self.changes.read_events();
        }
    }

    /// A link comes up, and has a resolver: what systemd-networkd tells it, in the file by which it does. Comes back
    /// when it has heard.
    pub fn link(&self, name: &str, server: &str) {
        let line = sh(&format!("ip -o link show dev {name}"));
        let index = line.split(':').next().expect("a number");
        let links = Path::new("/run/systemd/netif/links");
        let new = links.with_file_name("new");
        let text = format!("ADMIN_STATE=configured\nOPER_STATE=routable\nDNS={server}\n");
        fs::write(&new, text).expect("write a link's state");
        fs::rename(new, links.join(index)).expect("move a link's state");
        let is_there = || fs::read_to_string(BEHIND).is_ok_and(|text| text.contains(server));
        self.until(is_there);
    }
}
