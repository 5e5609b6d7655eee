//! The floor: what `host-helper run --rootfs` cannot do without, and nothing else, as bare system calls. No options, no
//! checks, no firewall, no IPv6, no lease, no undo, no supervisor, no second exec; and no cgroup namespace, devpts, masks
//! or capabilities, which are cheap. Timed beside host-helper, as a whole process, the ratio is what host-helper adds.
//!
//!     floor BRIDGE HOST-NUMBER ROOTFS COMMAND [ARG...]
//!
//! BRIDGE has 172.19.0.1/16. Whoever knows a faster way to the same state lowers this floor.
#![no_main]

mod message;
mod sys;

use std::ffi::CStr;

use message::{Batch, link, link_up};
use sys::{Fail, Socket};

/// The gateway: 172.19.0.1. The container has that plus its HOST-NUMBER, less one.
const GATEWAY: u32 = 0xac13_0001;
/// eth0's number in a namespace that is new (lo has 1).
const ETH0: i32 = 2;

/// The whole program: its exit code.
fn run(words: &[&'static CStr]) -> Result<i32, Fail> {
    let [_, bridge, number, rootfs, command @ ..] = words else {
        return Err(Fail("usage: floor BRIDGE HOST-NUMBER ROOTFS COMMAND", 0));
    };
    let number = number.to_str().ok().and_then(|word| word.parse().ok());
    let number: u32 = number.ok_or(Fail("read HOST-NUMBER", 0))?;
    let bridge = sys::link_index(bridge)?;
    let (wait, go) = sys::pipe()?;
    let Some(child) = sys::clone()? else {
        drop(go);
        enter(rootfs)?;
        sys::read_byte(&wait)?;
        set_up(number)?;
        return Err(sys::exec(command));
    };
    let host = Socket::open()?;
    let mut batch = Batch::default();
    link(&mut batch, number, bridge, child);
    host.request(&batch)?;
    sys::write_byte(&go)?;
    sys::wait(child)
}

/// Mounts: the root and what belongs into it.
fn enter(rootfs: &CStr) -> Result<(), Fail> {
    let quiet = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    sys::mount(rootfs, rootfs, None, libc::MS_BIND | libc::MS_REC)?;
    sys::enter_directory(rootfs)?;
    sys::mount(c"proc", c"proc", Some(c"proc"), quiet)?;
    sys::mount(c"sysfs", c"sys", Some(c"sysfs"), quiet | libc::MS_RDONLY)?;
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
    sys::pivot()?;
    sys::set_host_name("floor")
}

/// lo, eth0, its address and its route, in one batch; resolv.conf.
fn set_up(number: u32) -> Result<(), Fail> {
    let socket = Socket::open()?;
    let mut batch = Batch::default();
    link_up(&mut batch, 1);
    link_up(&mut batch, ETH0);
    message::address(&mut batch, ETH0, GATEWAY - 1 + number);
    message::route(&mut batch, GATEWAY);
    socket.request(&batch)?;
    sys::write_file(c"etc/resolv.conf", b"nameserver 192.0.2.1\n")
}
