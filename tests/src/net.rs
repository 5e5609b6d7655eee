//! The lab: this process is on the *host*; an *uplink* leads to the *internet*, where a web server and a DNS server are.
//!
//! ```text
//! host                          internet
//!   uplink 192.0.2.2/24  ------  eth0 192.0.2.1/24
//!          2001:db8:1::2/64           2001:db8:1::1/64
//!   default via 192.0.2.1        lo   198.51.100.10 web.example.test   198.51.100.53 DNS
//!                               2001:db8:2::10 six.example.test    2001:db8:2::53 DNS
//! ```
//! The internet has no route to any container: what is not masqueraded gets no answer.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nameindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::case::binary;
use crate::process::{DEADLINE, Outcome, Running, collect};
use crate::{Snapshot, rootfs, sh, sys};

/// A network namespace that the test made.
pub struct Netns(OwnedFd);

impl Netns {
    /// A new one, reachable as `/run/netns/NAME`, lo up.
    pub fn new(name: &str) -> Self {
        let netns = Self::bare(name);
        sh(&format!("ip -n {name} link set lo up"));
        netns
    }

    /// The same with lo down: no process is started for it.
    pub fn bare(name: &str) -> Self {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("new network namespace");
            fs::File::open("/proc/thread-self/ns/net").expect("descriptor of the namespace")
        });
        let file = thread.join().expect("thread that makes a namespace");
        fs::create_dir_all("/run/netns").expect("make /run/netns");
        let path = format!("/run/netns/{name}");
        fs::write(&path, "").expect("make a mount point");
        let file = OwnedFd::from(file);
        // Of this thread: another one may see other mounts.
        let from = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        bind_mount(&from, &path);
        Self(file)
    }

    /// That of a process.
    pub fn of(pid: i32) -> Self {
        Self::at(&format!("/proc/{pid}/ns/net"))
    }

    /// That of a file.
    pub fn at(path: &str) -> Self {
        let file = fs::File::open(path).unwrap_or_else(|error| panic!("open {path}: {error}"));
        Self(file.into())
    }

    /// The same once more.
    pub fn again(&self) -> Self {
        Self(self.0.try_clone().expect("copy a descriptor"))
    }

    /// Runs a witness there, as [`sh`] does here.
    pub fn sh(&self, script: &str) -> String {
        let mut shell = self.command("/bin/sh");
        shell.args(["-c", script]);
        let outcome = collect(shell, DEADLINE);
        assert_eq!(outcome.code, 0, "witness {script:?} failed: {outcome}");
        outcome.out()
    }

    /// A command that will run there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        sys::in_netns(&mut command, &self.0);
        command
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Runs `body` in a thread that is there: sockets that it opens belong to that namespace.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
                body()
            });
            thread.join().expect("thread in another namespace")
        })
    }
}

/// The host of one case, and all that is around it.
pub struct Lab {
    /// A busybox root filesystem of this case's own.
    pub rootfs: PathBuf,
    /// A directory for this case's files.
    pub dir: PathBuf,
    /// What is behind the uplink.
    pub internet: Netns,
    /// Whether the case runs as the real root: device nodes, an overlay over `/` and users other than 0 need that.
    pub real_root: bool,
}

impl Lab {
    /// Builds host, uplink and internet in the present namespaces, which must be new ones.
    pub(crate) fn new(bridge_nf: &str) -> Self {
        mount(
            Some("run"),
            "/run",
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=0755"),
        )
        .expect("tmpfs on /run");
        let dir = PathBuf::from("/run/lab");
        let rootfs = dir.join("rootfs");
        rootfs::make(&rootfs);
        let maps = fs::read_to_string("/proc/self/uid_map").expect("read uid_map");
        let real_root = maps.split_whitespace().nth(2) == Some("4294967295");
        sh("ip link set lo up");
        for which in ["iptables", "ip6tables", "arptables"] {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{which}");
            if fs::write(&path, bridge_nf).is_err() {
                assert!(
                    bridge_nf == "0",
                    "{path}: no br_netfilter (modprobe it), so the case at 1 cannot run"
                );
            }
        }
        // A new namespace inherits the machine's.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("forwarding off");
        let internet = Netns::new("internet");
        sh(
            "ip link add uplink mtu 1500 type veth peer name eth0 mtu 1500 netns internet
            echo 0 >/proc/sys/net/ipv6/conf/uplink/accept_dad # or its own address changes by itself, a second later
            ip addr add 192.0.2.2/24 dev uplink
            ip addr add 2001:db8:1::2/64 dev uplink nodad
            ip link set uplink up
            ip -n internet addr add 192.0.2.1/24 dev eth0
            ip -n internet addr add 2001:db8:1::1/64 dev eth0 nodad
            ip -n internet addr add 198.51.100.10/32 dev lo
            ip -n internet addr add 198.51.100.53/32 dev lo
            ip -n internet addr add 2001:db8:2::10/128 dev lo nodad
            ip -n internet addr add 2001:db8:2::53/128 dev lo nodad
            ip -n internet link set eth0 up
            ip route add default via 192.0.2.1
            ip -6 route add default via 2001:db8:1::1",
        );
        let lab = Self {
            rootfs,
            dir,
            internet,
            real_root,
        };
        lab.set_resolv_conf("nameserver 198.51.100.53\n");
        lab
    }

    /// The same with another directory, for what is set up beside it in other namespaces.
    pub fn beside(&self, name: &str) -> Self {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).expect("make a directory");
        Self {
            rootfs: self.rootfs.clone(),
            dir,
            internet: self.internet.again(),
            real_root: self.real_root,
        }
    }

    /// Gives the host this /etc/resolv.conf.
    pub fn set_resolv_conf(&self, text: &str) {
        let file = self.dir.join("host-resolv.conf");
        let first = !file.exists();
        fs::write(&file, text).expect("write the host's resolv.conf");
        if first {
            let target = fs::canonicalize("/etc/resolv.conf").ok().or_else(|| {
                let target = PathBuf::from("/etc").join(fs::read_link("/etc/resolv.conf").ok()?);
                fs::create_dir_all(target.parent()?).ok()?;
                fs::write(&target, "").ok()?;
                Some(target)
            });
            let target = target.expect("the machine has an /etc/resolv.conf to mount over");
            bind_mount(&file.to_string_lossy(), &target.to_string_lossy());
        }
    }

    /// Starts the web server (198.51.100.10:80: `/` says "hello from the internet", `/cgi-bin/whoami` the address that
    /// it sees) and the DNS server (198.51.100.53 and 2001:db8:2::53). Both are listening when this returns: they go to the background
    /// only then.
    pub fn serve(&self) {
        self.web("198.51.100.10:80");
        let mut dns = self.internet.command("dnsmasq");
        dns.args([
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=",
            "--group=",
        ]);
        dns.args([
            "--listen-address=198.51.100.53",
            "--listen-address=2001:db8:2::53",
            "--pid-file=",
            "--log-queries",
        ]);
        dns.arg(format!(
            "--log-facility={}",
            self.dir.join("dns.log").display()
        ));
        dns.args([
            "--local=/test/",
            "--address=/web.example.test/198.51.100.10",
            "--address=/alpha.one.test/198.51.100.10",
            "--address=/six.example.test/2001:db8:2::10",
            // Known to have no IPv6 address, where one of the above is not known at all: musl's resolver makes a difference.
            "--host-record=four.example.test,198.51.100.10",
        ]);
        quiet(dns, "dnsmasq (install dnsmasq-base, or run `make test`)");
    }

    /// Starts busybox httpd in the internet at ADDRESS:PORT.
    pub fn web(&self, address: &str) {
        let www = self.dir.join("www");
        fs::create_dir_all(www.join("cgi-bin")).expect("make the web server's directory");
        fs::write(www.join("index.html"), "hello from the internet\n").expect("write a page");
        fs::write(
            www.join("cgi-bin/whoami"),
            "#!/bin/busybox sh\necho Content-type: text/plain; echo; echo \"$REMOTE_ADDR\"\n",
        )
        .expect("write a script");
        sh(&format!(
            "chmod 755 {}",
            www.join("cgi-bin/whoami").display()
        ));
        let mut httpd = self.internet.command(rootfs::BUSYBOX);
        httpd.args(["httpd", "-p", address, "-h"]).arg(www);
        quiet(httpd, "busybox httpd");
    }

    /// host-helper with these arguments, stdin empty.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_of(binary());
        command.args(arguments);
        command
    }

    /// The same of another program.
    pub fn command_of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.current_dir(&self.dir);
        command
    }

    /// Runs host-helper to its end.
    pub fn hawser(&self, arguments: &[&str]) -> Outcome {
        collect(self.command(arguments), DEADLINE)
    }

    /// `host-helper attach --stay`, once it is attached.
    pub fn stay(&self, pid: i32, name: &str, options: &[&str]) -> Running {
        let pid = pid.to_string();
        let all = [&["attach", &pid, "--stay", "--name", name], options].concat();
        let mut running = Running::spawn(self.command(&all));
        running.until(name);
        running
    }

    /// `host-helper run --rootfs ROOTFS OPTIONS -- COMMAND`, not started yet.
    pub fn run_command(&self, options: &[&str], command: &[&str]) -> Command {
        let rootfs = self.rootfs.to_string_lossy();
        self.command(&[&["run", "--rootfs", &rootfs], options, &["--"], command].concat())
    }

    /// The same, run to its end.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Outcome {
        collect(self.run_command(options, command), DEADLINE)
    }

    /// The same with `sh -c SCRIPT` as the command.
    pub fn run_sh(&self, options: &[&str], script: &str) -> Outcome {
        self.run(options, &["sh", "-c", script])
    }

    /// The same, left running, with a pipe as stdin.
    pub fn start(&self, options: &[&str], command: &[&str]) -> Running {
        let mut command = self.run_command(options, command);
        command.stdin(Stdio::piped());
        Running::spawn(command)
    }

    /// The default network, made by a run, and what there is once nothing else of that run is left.
    pub fn with_network(&self) -> Snapshot {
        self.run(&[], &["true"]).ok();
        self.settle();
        Snapshot::take()
    }

    /// Waits until no veth of ours is left, living or on its way out.
    #[track_caller]
    pub fn settle(&self) {
        let is_end = |name: &CStr| name.to_bytes().starts_with(b"hw");
        let links = || if_nameindex().expect("list links");
        let gone = || !links().iter().any(|link| is_end(link.name()));
        assert!(
            Watch::new().until(gone),
            "a veth stays: {}",
            sh("ip -o link")
        );
    }

    /// A container that has printed "up" and now waits on its stdin.
    pub fn start_idle(&self, options: &[&str]) -> Running {
        let mut running = self.start(options, &["sh", "-c", "echo up; read x; exit 0"]);
        running.until("up");
        running
    }

    /// `ls --json`, parsed.
    #[track_caller]
    pub fn list(&self) -> Vec<serde_json::Value> {
        let text = self.hawser(&["ls", "--json"]).ok();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("ls --json is no array: {error}: {text}"))
    }

    /// One container of `ls --json`.
    #[track_caller]
    pub fn listed(&self, name: &str) -> serde_json::Value {
        let all = self.list();
        let found = all.iter().find(|one| one["name"] == name);
        found
            .unwrap_or_else(|| panic!("{name} is not in ls: {all:?}"))
            .clone()
    }

    /// The pid of a container's command, seen from the host.
    #[track_caller]
    pub fn pid_of(&self, name: &str) -> i32 {
        let pid = self.listed(name)["pid"].as_i64().expect("pid in ls");
        i32::try_from(pid).expect("a process id")
    }
}

/// Notices changes of links and addresses in the present network namespace.
pub struct Watch(OwnedFd);

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// Listens from now on.
    pub fn new() -> Self {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        Self::of(SockProtocol::NetlinkRoute, groups)
    }

    /// Notices changes of IPv6 routes, and what routers advertise, instead.
    pub fn routes() -> Self {
        let groups = libc::RTMGRP_IPV6_ROUTE | libc::RTMGRP_IPV6_PREFIX;
        Self::of(SockProtocol::NetlinkRoute, groups)
    }

    /// Notices that network namespaces to which links have led come and go instead.
    pub fn namespaces() -> Self {
        // linux/rtnetlink.h
        const RTNLGRP_NSID: u32 = 28;
        let groups = i32::try_from(1u32 << (RTNLGRP_NSID - 1)).expect("group bits");
        Self::of(SockProtocol::NetlinkRoute, groups)
    }

    /// Waits for the next change; false at the deadline.
    pub fn wait(&self) -> bool {
        let heard = std::cell::Cell::new(0);
        self.until(|| heard.replace(heard.get() + 1) > 0)
    }

    /// Notices changes of the ruleset instead.
    pub fn ruleset() -> Self {
        Self::of(
            SockProtocol::NetlinkNetFilter,
            1 << (libc::NFNLGRP_NFTABLES - 1),
        )
    }

    /// Notices that the kernel forgets connections instead.
    pub fn forgotten_connections() -> Self {
        Self::of(
            SockProtocol::NetlinkNetFilter,
            1 << (libc::NFNLGRP_CONNTRACK_DESTROY - 1),
        )
    }

    fn of(protocol: SockProtocol, groups: i32) -> Self {
        let family = AddressFamily::Netlink;
        let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .expect("netlink socket");
        let groups = u32::try_from(groups).expect("group bits");
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).expect("listen to netlink");
        Self(fd)
    }

    /// Waits until `condition` holds, looking again at every event. False at the deadline.
    pub fn until(&self, condition: impl Fn() -> bool) -> bool {
        let end = Instant::now() + DEADLINE;
        while !condition() {
            let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()))
                .unwrap_or(PollTimeout::MAX);
            if poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], left).unwrap_or(0) == 0 {
                return false;
            }
            let _ = recv(self.0.as_raw_fd(), &mut [0; 65536], MsgFlags::empty());
        }
        true
    }
}

/// Sockets that hear of changes of the firewall (proc(5), netlink): the kernel offers each change to each.
pub fn listeners() -> Vec<String> {
    const NETFILTER: &str = "12"; // linux/netlink.h
    const NFTABLES: u32 = 1 << 6; // linux/netfilter/nfnetlink.h, group 7
    let text = fs::read_to_string("/proc/thread-self/net/netlink").expect("list sockets");
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let groups = u32::from_str_radix(words.get(3)?, 16).ok()?;
        let hears = words.get(1) == Some(&NETFILTER) && groups & NFTABLES != 0;
        Some(format!("socket:[{}]", words.last()?)).filter(|_| hears)
    };
    text.lines().filter_map(inode).collect()
}

pub(crate) fn bind_mount(source: &str, target: &str) {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap_or_else(|error| panic!("bind {source} on {target}: {error}"));
}

/// The bridge has as many ports as there can be, each of them down.
pub fn fill(bridge: &str) {
    // The last of these pairs, at the latest, does not fit any more.
    let pairs: String = (0..512)
        .map(|at| {
            format!(
                "link add p{at} type veth peer name q{at}\nlink set p{at} master {bridge}\nlink set q{at} master {bridge}\n"
            )
        })
        .collect();
    sh(&format!(
        "ip -force -batch - 2>/dev/null <<END || true\n{pairs}END"
    ));
    let ports = sh(&format!("ip -o link show master {bridge}"));
    assert_eq!(ports.lines().count(), 1023);
}

/// Runs a server that forks to the background when it is ready.
fn quiet(mut command: Command, what: &str) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("start {what}: {error}"));
    assert!(status.success(), "start {what}: {status}");
}
