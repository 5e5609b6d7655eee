//! Processes, and the end of the machine.

use core::ffi::{CStr, c_int};
use core::sync::atomic::Ordering;

use super::{Arguments, ENVIRONMENT, Errno, call, call_by_value, retry, timespec};

/// A process, or one of its kind in the kernel's calls: negative for a group, -1 for all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pid(pub i32);

/// Ends the process.
pub fn exit(code: u8) -> ! {
    loop {
        let _ = call_by_value(libc::SYS_exit_group, [usize::from(code)]);
    }
}

/// Becomes another program; comes back only with an error.
#[inline(never)]
pub fn execute(path: &CStr, arguments: Arguments) -> Errno {
    let environment = ENVIRONMENT.load(Ordering::Relaxed) as usize;
    let (path, arguments) = (path.as_ptr() as usize, arguments.0 as usize);
    // SAFETY: the path is a C string, both lists end with a null pointer.
    let result = unsafe { call(libc::SYS_execve, [path, arguments, environment]) };
    result.err().unwrap_or(Errno(0))
}

/// A copy of this process: `None` in the copy.
pub fn fork() -> Result<Option<Pid>, Errno> {
    let flags = libc::SIGCHLD as usize;
    // SAFETY: without CLONE_VM this is fork(2): the copy has memory of its own, and there is one thread.
    let pid = unsafe { call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]) }?;
    Ok(if pid == 0 {
        None
    } else {
        Some(Pid(pid as i32))
    })
}

/// Our own number.
#[inline(never)]
pub fn own_pid() -> Pid {
    Pid(call_by_value(libc::SYS_getpid, []).unwrap_or(0) as i32)
}

/// The next child that has ended, stopped or gone on, with its status; `Ok(None)` when there is no news of any.
pub fn reap() -> Result<Option<(Pid, i32)>, Errno> {
    let mut status: c_int = 0;
    let (any, at) = (-1i32 as usize, &raw mut status as usize);
    let flags = (libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) as usize;
    // SAFETY: the kernel writes an int; no usage is asked for.
    let pid = retry(|| unsafe { call(libc::SYS_wait4, [any, at, flags, 0]) })?;
    Ok(if pid == 0 {
        None
    } else {
        Some((Pid(pid as i32), status))
    })
}

/// True where a child of ours, be it dead, is in this group: its number is nobody else's then.
pub fn has_child_in(group: Pid) -> bool {
    let flags = (libc::WNOHANG | libc::WEXITED | libc::WNOWAIT) as usize;
    // The kernel's call has a fifth argument, where it would write what was used of resources.
    let group = [libc::P_PGID as usize, group.0 as usize, 0, flags, 0];
    call_by_value(libc::SYS_waitid, group).is_ok()
}

/// The group of a process; of ours for 0.
#[inline(never)]
pub fn group_of(pid: Pid) -> Pid {
    Pid(call_by_value(libc::SYS_getpgid, [pid.0 as usize]).map_or(-1, |group| group as i32))
}

/// Makes a process the leader of a group of its own.
pub fn set_group_leader(pid: Pid) {
    let _ = call_by_value(libc::SYS_setpgid, [pid.0 as usize, 0]);
}

/// Makes us the leader of a session and a group of our own.
pub fn start_session() {
    let _ = call_by_value(libc::SYS_setsid, []);
}

/// Milliseconds of the clock that no one sets.
pub fn now() -> u64 {
    let mut time = timespec(0);
    let clock = libc::CLOCK_MONOTONIC as usize;
    // SAFETY: the kernel writes a timespec.
    let _ = unsafe { call(libc::SYS_clock_gettime, [clock, &raw mut time as usize]) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Writes what is cached to the disks, and ends the machine: `how` is a `LINUX_REBOOT_CMD_*` of linux/reboot.h. In a PID
/// namespace it ends that. It comes back only where that is not allowed.
pub fn end_machine(how: c_int) {
    let _ = call_by_value(libc::SYS_sync, []);
    let (magic, second) = (libc::LINUX_REBOOT_MAGIC1, libc::LINUX_REBOOT_MAGIC2);
    let numbers = [
        magic as u32 as usize,
        second as usize,
        how as u32 as usize,
        0,
    ];
    let _ = call_by_value(libc::SYS_reboot, numbers);
}
