//! The floor: what `host-helper run --rootfs` cannot do without, and nothing else, as bare system calls. No options, no
//! checks, no firewall, no IPv6, no lease, no undo, no supervisor, no second exec; and no cgroup namespace, devpts, masks
//! or capabilities, which are cheap. Timed beside host-helper, as a whole process, the ratio is what host-helper adds.
//!
//!     floor BRIDGE HOST-NUMBER ROOTFS COMMAND [ARG...]
//!
//! BRIDGE has 172.19.0.1/16. Whoever knows a faster way to the same state lowers this floor.
//!
//! While the child mounts, the parent makes the network namespace, by going there itself: its first socket stays on the
//! host, its second one is inside, so that nobody has to wait for the other one to set a link up. That is 0.93 of what
//! it takes when clone3 makes the namespace and the child sets the link up. And the child begins on another processor, where
//! there is one; it would wait behind its parent.
#![no_main]

mod message;
mod sys;

use std::ffi::CStr;

use message::Batch;
use sys::{Fail, Socket};

/// The gateway: 172.19.0.1. The container has that plus its HOST-NUMBER, less one.
const GATEWAY: u32 = 0xac13_0001;
/// eth0's number in a namespace that is new (lo has 1).
const ETH0: i32 = 2;

/// Of all mounts but /dev.
const QUIET: u64 = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// The whole program: its exit code.
fn run(words: &[&'static CStr]) -> Result<i32, Fail> {
    let [_, bridge, number, rootfs, command @ ..] = words else {
        return Err(Fail("usage: floor BRIDGE HOST-NUMBER ROOTFS COMMAND", 0));
    };
    let number = number.to_str().ok().and_then(|word| word.parse().ok());
    let number: u32 = number.ok_or(Fail("read HOST-NUMBER", 0))?;
    let bridge = sys::link_index(bridge)?;
    let host = Socket::open()?;
    let (wait, go) = sys::pipe()?;
    let this = sys::this_process()?;
    let Some(child) = sys::clone()? else {
        drop(go);
        mount(rootfs)?;
        // The namespace is there,
        sys::read_byte(&wait)?;
        sys::join_network(&this)?;
        mount_sys()?;
        // and now the network.
        sys::read_byte(&wait)?;
        return Err(sys::exec(command));
    };
    let processors = sys::begin_elsewhere(child)?;
    sys::new_network()?;
    sys::write_byte(&go)?;
    set_up(&host, bridge, number)?;
    sys::run_on(child, &processors)?;
    sys::write_byte(&go)?;
    sys::wait(child)
}

/// The root and what belongs into it.
fn mount(rootfs: &CStr) -> Result<(), Fail> {
    sys::mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    sys::mount(rootfs, rootfs, None, libc::MS_BIND | libc::MS_REC)?;
    sys::enter_directory(rootfs)?;
    sys::mount(c"proc", c"proc", Some(c"proc"), QUIET)?;
    sys::mount(c"tmpfs", c"dev", Some(c"tmpfs"), libc::MS_NOSUID)?;
    // Numbers: Documentation/admin-guide/devices.txt of the kernel.
    for (path, major, minor) in [
        (c"dev/null", 1, 3),
        (c"dev/zero", 1, 5),
        (c"dev/full", 1, 7),
        (c"dev/random", 1, 8),
        (c"dev/urandom", 1, 9),
        (c"dev/tty", 5, 0),
    ] {
        sys::make_device(path, major, minor)?;
    }
    sys::set_host_name("floor")
}

/// /sys shows the network namespace that it is mounted in. Then the root becomes the root.
fn mount_sys() -> Result<(), Fail> {
    sys::mount(c"sysfs", c"sys", Some(c"sysfs"), QUIET | libc::MS_RDONLY)?;
    sys::pivot()?;
    sys::write_file(c"etc/resolv.conf", b"nameserver 192.0.2.1\n")
}

/// Both ends of the link; inside, lo, eth0, its address and its route, in one batch; the bridge's port forwards.
fn set_up(host: &Socket, bridge: i32, number: u32) -> Result<(), Fail> {
    let mut batch = Batch::default();
    message::link(&mut batch, number, bridge, sys::pid());
    host.request(&batch)?;
    let inside = Socket::open()?;
    let mut batch = Batch::default();
    message::link_up(&mut batch, 1);
    message::link_up(&mut batch, ETH0);
    message::address(&mut batch, ETH0, GATEWAY - 1 + number);
    message::route(&mut batch, GATEWAY);
    inside.request(&batch)?;
    let mut batch = Batch::default();
    message::look(&mut batch, number);
    host.request(&batch)
}
