//! Processes, and what one may do.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::descriptors::own;
use super::{Result, again};

/// Who a [`clone_process`] returned to.
pub enum Clone {
    /// In the new process.
    Child,
    /// In the caller: the new process, and a descriptor that names it for good.
    Parent(Pid, OwnedFd),
}

/// `clone(2)` without shared memory: a fork, into the namespaces of `flags` (`CLONE_NEW*`), or whose parent is ours (`CLONE_PARENT`; the
/// number is as our own namespace counts then).
///
/// Not clone3(2), which a filter of system calls cannot look into: under one that allows some namespaces it is not there at all.
pub fn clone_process(flags: libc::c_int) -> Result<Clone> {
    let mut pidfd: RawFd = -1;
    let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has a copy of everything, and without a stack of its own it goes on where we are; this program has
    // one thread, so that no lock of another thread can be held in the copy. Of the pointers all but the one for the descriptor are null.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            0usize,
            &raw mut pidfd,
            0usize,
            0usize,
        )
    };
    match Errno::result(pid)? {
        0 => Ok(Clone::Child),
        pid => {
            // SAFETY: the kernel has stored a new descriptor there, and nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Clone::Parent(Pid::from_raw(pid as i32), pidfd))
        }
    }
}

/// Gives up all capabilities but those of this set, one bit each, for good (`PR_CAPBSET_DROP`, `capset(2)`).
pub fn keep_capabilities(kept: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    for number in (0..64).filter(|number| kept & 1 << number == 0) {
        // SAFETY: integers only.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }) {
            // The kernel knows of no more.
            Err(Errno::EINVAL) => break,
            dropped => dropped?,
        };
    }
    let kept = kept & effective_capabilities()?;
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let mut header = [VERSION_3, 0u32];
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: header and two sets of {effective, permitted, inheritable}, as linux/capability.h has it.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    Errno::result(done).map(drop)
}

/// Lets the ends of our children be waited for: a caller may have left SIGCHLD ignored, and then the kernel keeps none (wait(2)).
/// A write beyond RLIMIT_FSIZE is an error like others, and not the end of us in the middle of something (init gives its command
/// the default again).
pub fn choose_signals() {
    // SAFETY: no handler is set.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// How a process has ended.
pub enum End {
    /// By itself, with this code.
    Exited(u8),
    /// By the signal of this number.
    Killed(u8),
}

/// Waits for the end of a child of ours (`waitid(2)`; that of nix loses a child that a real-time signal has ended).
pub fn wait_for_end(child: impl AsFd) -> Result<End> {
    // SAFETY: siginfo_t is plain integers and pointers, for which zero is "nothing".
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = child.as_fd().as_raw_fd() as libc::id_t;
    again(|| {
        // SAFETY: a descriptor that is open, and a siginfo_t that outlives the call.
        let done = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut found, libc::WEXITED) };
        Errno::result(done).map(drop)
    })?;
    // SAFETY: the call has filled it in, as that of a child.
    let status = unsafe { found.si_status() } as u8;
    Ok(match found.si_code {
        libc::CLD_EXITED => End::Exited(status),
        _ => End::Killed(status),
    })
}

/// abort(3), in place of musl's: that one signals the thread whose number it remembers, and in a process that clone3(2) has
/// made this is its parent, which would end in its place and undo nothing.
#[cfg(target_env = "musl")]
#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    use nix::sys::signal::{SigSet, Signal};
    let signal = Signal::SIGABRT;
    // What is caught or blocked would come back from here.
    // SAFETY: no handler is set, and only the numbers of the signal and of this process are passed.
    unsafe {
        libc::signal(signal as i32, libc::SIG_DFL);
        let _ = SigSet::from(signal).thread_unblock();
        libc::kill(libc::getpid(), signal as i32);
    }
    // PID 1 of a container does not hear it.
    exit_now(128 + signal as u8)
}

/// `pidfd_send_signal(2)`; unlike `kill(2)` it cannot reach a process that got the number later.
pub fn pidfd_send_signal(pidfd: BorrowedFd, signal: i32) -> Result<()> {
    // SAFETY: no pointers but a null siginfo, which is documented to stand for that of kill(2).
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            0usize,
            0,
        )
    };
    Errno::result(done).map(drop)
}

/// The effective capabilities of this process, one bit each (`capget(2)`, version 3).
pub fn effective_capabilities() -> Result<u64> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0u32];
    let mut sets = [0u32; 6];
    // SAFETY: header and two sets of {effective, permitted, inheritable}, as linux/capability.h has it.
    let done = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    Errno::result(done)?;
    Ok(u64::from(sets[0]) | u64::from(sets[3]) << 32)
}

/// Whether this process, or what it executes, may get `CAP_SYS_CHROOT` (`PR_CAPBSET_READ`).
pub fn may_ever_chroot() -> Result<bool> {
    const CAP_SYS_CHROOT: libc::c_ulong = 18;
    // SAFETY: integers only.
    let has = unsafe { libc::prctl(libc::PR_CAPBSET_READ, CAP_SYS_CHROOT, 0, 0, 0) };
    Ok(Errno::result(has)? != 0)
}

/// A new anonymous session keyring (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`): the host's is not inherited.
pub fn join_session_keyring() -> Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0usize, 0, 0, 0) };
    Errno::result(done).map(drop)
}

/// `pidfd_open(2)`: a descriptor for process `pid`.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// `pidfd_getfd(2)`: a copy of another process's descriptor.
pub fn pidfd_getfd(process: BorrowedFd, fd: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// `prctl(2)` with `PR_SET_DUMPABLE` 0: nobody may trace this process or look at it under `/proc`, but for root with
/// CAP_SYS_PTRACE.
pub fn set_not_dumpable() -> Result<()> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Does something as a user that nobody else is, for what the kernel counts by user; where that is not allowed, as
/// ourselves. Only the effective user is another one, and only meanwhile.
pub fn as_nobody_else<T>(work: impl FnOnce() -> T) -> T {
    // systemd's UIDS-GIDS.md: no program gives users out from here on. A process id has 22 bits.
    const UNUSED: u32 = 0x7000_0000;
    const KEEP: u32 = u32::MAX;
    let me = nix::unistd::geteuid().as_raw();
    // SAFETY: integers only. This program has one thread: there is no other whose user would stay.
    let set = |user: u32| unsafe { libc::syscall(libc::SYS_setresuid, KEEP, user, KEEP) };
    set(UNUSED + std::process::id());
    let done = work();
    // From a user that is not root to root, which we still are: this cannot be refused (setresuid(2)).
    set(me);
    done
}

/// `seccomp(2)` with `SECCOMP_SET_MODE_FILTER`: this process, and what it becomes, makes system calls as `program` allows,
/// for good.
pub fn filter_system_calls(program: &[libc::sock_filter]) -> Result<()> {
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which outlives the call, and writes nothing there.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    Errno::result(done).map(drop)
}

/// The path that execve(2) was called with (getauxval(3), `AT_EXECFN`).
pub fn executed_path() -> Option<&'static Path> {
    // SAFETY: asks for a value of this process.
    let at = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if at.is_null() {
        return None;
    }
    // SAFETY: the kernel has put it behind the environment, NUL-terminated, where nothing is written any more.
    let path = unsafe { CStr::from_ptr(at) };
    Some(Path::new(OsStr::from_bytes(path.to_bytes())))
}

/// `_exit(2)`: nothing is flushed or run any more.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: takes no pointers, and does not come back.
    unsafe { libc::_exit(code.into()) }
}
