//! What a process is and may do: names, users, groups, capabilities.

use core::ffi::c_int;

use super::{Errno, call, call_by_value};

/// The host name of this UTS namespace.
pub fn set_hostname(name: &[u8]) -> Result<u32, Errno> {
    // SAFETY: the kernel reads `len` bytes.
    unsafe { call(libc::SYS_sethostname, [name.as_ptr() as usize, name.len()]) }
}

/// `prctl(2)` with numbers. Some of its options insist on zeros behind theirs.
#[inline(never)]
pub fn control(option: c_int, a: usize, b: usize) -> Result<u32, Errno> {
    call_by_value(libc::SYS_prctl, [option as usize, a, b, 0, 0, 0])
}

/// How many supplementary groups there are.
pub fn count_groups() -> Result<u32, Errno> {
    call_by_value(libc::SYS_getgroups, [0, 0])
}

/// The supplementary groups, each as four bytes in host order.
pub fn set_groups(groups: &[u8]) -> Result<u32, Errno> {
    let (count, start) = (groups.len() / 4, groups.as_ptr() as usize);
    // SAFETY: the kernel reads as many numbers of four bytes as it is told, with whatever alignment.
    unsafe { call(libc::SYS_setgroups, [count, start]) }
}

/// Real, effective and saved group.
pub fn set_group(gid: u32) -> Result<u32, Errno> {
    let gid = gid as usize;
    call_by_value(libc::SYS_setresgid, [gid, gid, gid])
}

/// Real, effective and saved user. Clears the parent-death signal.
pub fn set_user(uid: u32) -> Result<u32, Errno> {
    let uid = uid as usize;
    call_by_value(libc::SYS_setresuid, [uid, uid, uid])
}

/// The effective user.
pub fn effective_user() -> u32 {
    call_by_value(libc::SYS_geteuid, []).unwrap_or(0)
}

/// Capability sets, as capget(2) has them: two blocks for 32 capabilities each.
#[repr(C)]
#[derive(Default)]
pub struct Capabilities(pub [CapabilityBlock; 2]);

/// 32 capabilities.
#[repr(C)]
#[derive(Default)]
pub struct CapabilityBlock {
    /// What the process can use.
    pub effective: u32,
    /// What it can make effective.
    pub permitted: u32,
    /// What can become ambient.
    pub inheritable: u32,
}

// _LINUX_CAPABILITY_VERSION_3 of linux/capability.h: two blocks.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `capget(2)` of this process.
pub fn read_capabilities(sets: &mut Capabilities) -> Result<u32, Errno> {
    let mut header = [CAPABILITY_VERSION, 0];
    let (header, sets) = (&raw mut header as usize, &raw mut *sets as usize);
    // SAFETY: the header has two words, and for its version the kernel writes two blocks.
    unsafe { call(libc::SYS_capget, [header, sets]) }
}

/// `capset(2)` of this process.
pub fn set_capabilities(sets: &Capabilities) -> Result<u32, Errno> {
    let mut header = [CAPABILITY_VERSION, 0];
    let (header, sets) = (&raw mut header as usize, &raw const *sets as usize);
    // SAFETY: the header has two words, and for its version the kernel reads two blocks.
    unsafe { call(libc::SYS_capset, [header, sets]) }
}
