//! Which system calls can be made to fail, and how: with the errors that their manual pages (section 2 and, for netlink and
//! sockets, 7; of man-pages 6) name, and that a machine that is short of something, or does not allow something, gives. Not
//! those of a caller's mistakes (EBADF, EFAULT, EINVAL), nor those that would be a lie about what was asked (ENOENT,
//! EEXIST, EINTR of open(2), which only what is slow to open gives).

use libc::c_long;
use nix::errno::Errno::{self, *};

use crate::tracer::{Call, Fault};

/// Number, name and errors of a call; the likeliest comes first.
type Row = (c_long, &'static str, &'static [Errno]);

/// It is short of descriptors, here or on the whole machine, or of memory.
const NEW_DESCRIPTOR: &[Errno] = &[EMFILE, ENFILE, ENOMEM];
const OPEN: &[Errno] = &[EMFILE, ENFILE, ENOMEM, EACCES];
const MAKE: &[Errno] = &[ENOSPC, EACCES, ENOMEM, EDQUOT];
const REMOVE: &[Errno] = &[EACCES, EBUSY, ENOMEM];
const LOOK: &[Errno] = &[EACCES, ENOMEM];
const READ: &[Errno] = &[EINTR, EIO];
const WRITE: &[Errno] = &[ENOSPC, EINTR, EIO];
const SEND: &[Errno] = &[ENOBUFS, EINTR, ENOMEM];
const PROCESS: &[Errno] = &[EAGAIN, ENOMEM, EPERM, ENOSPC];

/// What the kernel refuses a netlink request for, whatever it asks: there is no memory, or a security module, or something that is
/// about to go, is in the way.
pub const REFUSALS: &[Errno] = &[ENOMEM, EPERM, EBUSY, ENOBUFS];

/// All that the programs were seen to make, and that can fail.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    (libc::SYS_read, "read", READ),
    (libc::SYS_pread64, "pread64", READ),
    (libc::SYS_write, "write", WRITE),
    (libc::SYS_pwrite64, "pwrite64", WRITE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", OPEN),
    (libc::SYS_openat, "openat", OPEN),
    // EAGAIN: somebody moves directories about meanwhile.
    (libc::SYS_openat2, "openat2", &[EMFILE, ENFILE, ENOMEM, EACCES, EAGAIN]),
    // It takes place whatever it says. EIO, which is about what was written, no file of ours gives: all are in memory.
    (libc::SYS_close, "close", &[EINTR]),
    (libc::SYS_close_range, "close_range", &[EMFILE, ENOMEM]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, "stat", LOOK),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat, "lstat", LOOK),
    (libc::SYS_newfstatat, "newfstatat", LOOK),
    (libc::SYS_statx, "statx", LOOK),
    (libc::SYS_fstat, "fstat", &[ENOMEM]),
    (libc::SYS_statfs, "statfs", &[EACCES, ENOMEM, EINTR, EIO]),
    (libc::SYS_fstatfs, "fstatfs", &[ENOMEM, EINTR, EIO]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, "access", LOOK),
    (libc::SYS_faccessat, "faccessat", LOOK),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, "readlink", LOOK),
    (libc::SYS_readlinkat, "readlinkat", LOOK),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll", &[EINTR, ENOMEM]),
    (libc::SYS_ppoll, "ppoll", &[EINTR, ENOMEM]),
    (libc::SYS_epoll_create1, "epoll_create1", NEW_DESCRIPTOR),
    (libc::SYS_epoll_ctl, "epoll_ctl", &[ENOMEM, ENOSPC]),
    (libc::SYS_epoll_pwait, "epoll_pwait", &[EINTR]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait", &[EINTR]),
    (libc::SYS_mmap, "mmap", &[ENOMEM]),
    (libc::SYS_mprotect, "mprotect", &[ENOMEM]),
    (libc::SYS_munmap, "munmap", &[ENOMEM]),
    (libc::SYS_mremap, "mremap", &[ENOMEM]),
    (libc::SYS_madvise, "madvise", &[ENOMEM, EAGAIN]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_dup2, "dup2", &[EMFILE, EBUSY, EINTR]),
    (libc::SYS_dup3, "dup3", &[EMFILE, EBUSY, EINTR]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", MAKE),
    (libc::SYS_renameat, "renameat", MAKE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", MAKE),
    (libc::SYS_mkdirat, "mkdirat", MAKE),
    (libc::SYS_mknodat, "mknodat", &[ENOSPC, EPERM, EACCES, ENOMEM, EDQUOT]),
    (libc::SYS_symlinkat, "symlinkat", MAKE),
    (libc::SYS_fallocate, "fallocate", &[ENOSPC, ENOMEM, EINTR, EIO]),
    (libc::SYS_ftruncate, "ftruncate", &[EINTR, EIO, EPERM]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", REMOVE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", REMOVE),
    (libc::SYS_unlinkat, "unlinkat", REMOVE),
    (libc::SYS_fchmod, "fchmod", &[EPERM, EIO]),
    (libc::SYS_fchmodat, "fchmodat", &[EPERM, EACCES, ENOMEM]),
    (libc::SYS_fchown, "fchown", &[EPERM, EIO]),
    (libc::SYS_fchownat, "fchownat", &[EPERM, EACCES, ENOMEM]),
    (libc::SYS_utimensat, "utimensat", &[EACCES, EPERM]),
    (libc::SYS_getdents64, "getdents64", &[EIO]),
    (libc::SYS_fchdir, "fchdir", LOOK),
    (libc::SYS_chdir, "chdir", LOOK),
    (libc::SYS_chroot, "chroot", &[EPERM, ENOMEM]),
    (libc::SYS_pivot_root, "pivot_root", &[EBUSY, EPERM]),
    (libc::SYS_mount, "mount", &[EPERM, EBUSY, ENOMEM, EACCES]),
    (libc::SYS_umount2, "umount2", &[EBUSY, EPERM, ENOMEM]),
    (libc::SYS_open_tree, "open_tree", &[EMFILE, ENFILE, ENOMEM, EPERM, EACCES, ENOSPC]),
    (libc::SYS_move_mount, "move_mount", &[EBUSY, EPERM, ENOMEM, EACCES]),
    (libc::SYS_fsopen, "fsopen", &[EMFILE, ENFILE, ENOMEM, EPERM]),
    (libc::SYS_fsconfig, "fsconfig", &[EBUSY, EPERM, ENOMEM]),
    (libc::SYS_fsmount, "fsmount", &[EBUSY, EMFILE, ENFILE, ENOMEM, EPERM]),
    (libc::SYS_mount_setattr, "mount_setattr", &[EBUSY, EPERM, ENOMEM]),
    (libc::SYS_socket, "socket", &[EMFILE, ENFILE, ENOBUFS, ENOMEM, EACCES]),
    (libc::SYS_socketpair, "socketpair", &[EMFILE, ENFILE]),
    (libc::SYS_connect, "connect", &[EINTR, EAGAIN, EACCES]),
    (libc::SYS_accept4, "accept4", &[EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM]),
    (libc::SYS_bind, "bind", &[EADDRINUSE, ENOMEM, EACCES]),
    (libc::SYS_listen, "listen", &[EADDRINUSE]),
    (libc::SYS_getsockname, "getsockname", &[ENOBUFS]),
    // Kernels are older, or built without.
    (libc::SYS_setsockopt, "setsockopt", &[ENOPROTOOPT, EPERM]),
    (libc::SYS_getsockopt, "getsockopt", &[ENOPROTOOPT]),
    (libc::SYS_sendto, "sendto", SEND),
    (libc::SYS_sendmsg, "sendmsg", SEND),
    // netlink(7): ENOBUFS, more was said than there is room for.
    (libc::SYS_recvfrom, "recvfrom", &[ENOBUFS, EINTR, ENOMEM]),
    (libc::SYS_recvmsg, "recvmsg", &[EINTR, ENOMEM]),
    (libc::SYS_clone, "clone", PROCESS),
    (libc::SYS_clone3, "clone3", PROCESS),
    (libc::SYS_unshare, "unshare", &[EPERM, ENOMEM, ENOSPC]),
    (libc::SYS_setns, "setns", &[EPERM, ENOMEM]),
    (libc::SYS_execve, "execve", &[ENOMEM, EACCES, EPERM, EAGAIN, EIO]),
    (libc::SYS_execveat, "execveat", &[ENOMEM, EACCES, EPERM, EAGAIN, EIO]),
    (libc::SYS_waitid, "waitid", &[EINTR]),
    (libc::SYS_wait4, "wait4", &[EINTR]),
    (libc::SYS_pidfd_open, "pidfd_open", NEW_DESCRIPTOR),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal", &[EPERM]),
    (libc::SYS_signalfd4, "signalfd4", NEW_DESCRIPTOR),
    (libc::SYS_memfd_create, "memfd_create", NEW_DESCRIPTOR),
    (libc::SYS_pipe2, "pipe2", &[EMFILE, ENFILE]),
    (libc::SYS_inotify_init1, "inotify_init1", NEW_DESCRIPTOR),
    (libc::SYS_inotify_add_watch, "inotify_add_watch", &[ENOSPC, ENOMEM, EACCES]),
    (libc::SYS_capset, "capset", &[EPERM]),
    (libc::SYS_prctl, "prctl", &[EPERM]),
    (libc::SYS_prlimit64, "prlimit64", &[EPERM]),
    (libc::SYS_seccomp, "seccomp", &[ENOMEM, EACCES]),
    (libc::SYS_setsid, "setsid", &[EPERM]),
    // For who executes another program meanwhile.
    (libc::SYS_setpgid, "setpgid", &[EACCES]),
    (libc::SYS_setgroups, "setgroups", &[ENOMEM, EPERM]),
    (libc::SYS_setresuid, "setresuid", &[EAGAIN, EPERM]),
    (libc::SYS_setresgid, "setresgid", &[EAGAIN, EPERM]),
    (libc::SYS_sethostname, "sethostname", &[EPERM]),
    (libc::SYS_keyctl, "keyctl", &[EDQUOT, ENOMEM, EACCES]),
    (libc::SYS_sched_setaffinity, "sched_setaffinity", &[EPERM]),
    // It has too few bytes before the machine has collected some.
    (libc::SYS_getrandom, "getrandom", &[EAGAIN, EINTR]),
    (libc::SYS_membarrier, "membarrier", &[ENOSYS, EPERM]),
];

/// The same of calls that do many things: number, second argument, name and errors. None: that fails for mistakes alone.
#[rustfmt::skip]
const COMMANDS: &[(c_long, u64, &str, &[Errno])] = &[
    (libc::SYS_fcntl, libc::F_DUPFD_CLOEXEC as u64, "fcntl(F_DUPFD_CLOEXEC)", &[EMFILE]),
    (libc::SYS_fcntl, libc::F_DUPFD as u64, "fcntl(F_DUPFD)", &[EMFILE]),
    (libc::SYS_fcntl, libc::F_ADD_SEALS as u64, "fcntl(F_ADD_SEALS)", &[EBUSY, EPERM]),
    (libc::SYS_fcntl, libc::F_GET_SEALS as u64, "fcntl(F_GET_SEALS)", &[]),
    (libc::SYS_fcntl, libc::F_SETFD as u64, "fcntl(F_SETFD)", &[]),
    (libc::SYS_fcntl, libc::F_GETFD as u64, "fcntl(F_GETFD)", &[]),
    (libc::SYS_fcntl, libc::F_GETFL as u64, "fcntl(F_GETFL)", &[]),
    (libc::SYS_fcntl, libc::F_SETFL as u64, "fcntl(F_SETFL)", &[]),
    (libc::SYS_fcntl, libc::F_GETPIPE_SZ as u64, "fcntl(F_GETPIPE_SZ)", &[]),
    (libc::SYS_flock, libc::LOCK_EX as u64, "flock(LOCK_EX)", &[EINTR, ENOLCK]),
    (libc::SYS_flock, (libc::LOCK_EX | libc::LOCK_NB) as u64, "flock(LOCK_EX | LOCK_NB)", &[ENOLCK]),
    (libc::SYS_flock, libc::LOCK_UN as u64, "flock(LOCK_UN)", &[]),
    (libc::SYS_ioctl, libc::TIOCGWINSZ, "ioctl(TIOCGWINSZ)", &[]),
    (libc::SYS_ioctl, libc::TIOCSWINSZ, "ioctl(TIOCSWINSZ)", &[]),
    (libc::SYS_ioctl, libc::TIOCGSID, "ioctl(TIOCGSID)", &[]),
    (libc::SYS_ioctl, libc::TIOCGPGRP, "ioctl(TIOCGPGRP)", &[]),
    (libc::SYS_ioctl, libc::TIOCGDEV, "ioctl(TIOCGDEV)", &[]),
    (libc::SYS_ioctl, libc::TIOCGPTN, "ioctl(TIOCGPTN)", &[]),
    (libc::SYS_ioctl, libc::TIOCSPTLCK, "ioctl(TIOCSPTLCK)", &[]),
    (libc::SYS_ioctl, libc::TCGETS, "ioctl(TCGETS)", &[]),
    (libc::SYS_ioctl, libc::TCSETS, "ioctl(TCSETS)", &[]),
    (libc::SYS_ioctl, libc::TCSETSW, "ioctl(TCSETSW)", &[EINTR]),
    (libc::SYS_ioctl, libc::TIOCSPGRP, "ioctl(TIOCSPGRP)", &[]),
    (libc::SYS_ioctl, libc::TIOCGPTPEER, "ioctl(TIOCGPTPEER)", &[EMFILE, ENFILE, ENOMEM, EIO]),
    (libc::SYS_ioctl, libc::TIOCSCTTY, "ioctl(TIOCSCTTY)", &[EPERM]),
    (libc::SYS_ioctl, libc::TIOCNOTTY, "ioctl(TIOCNOTTY)", &[]),
    (libc::SYS_ioctl, libc::FIONBIO, "ioctl(FIONBIO)", &[]),
    // linux/nsfs.h.
    (libc::SYS_ioctl, 0xb703, "ioctl(NS_GET_NSTYPE)", &[]),
    // A descriptor of a namespace, as open(2) of its file in /proc gives one; and CAP_NET_ADMIN there.
    (libc::SYS_ioctl, libc::SIOCGSKNS, "ioctl(SIOCGSKNS)", &[EMFILE, ENFILE, ENOMEM, EPERM]),
    // netdevice(7): there is no such link (any more).
    (libc::SYS_ioctl, libc::SIOCGIFINDEX, "ioctl(SIOCGIFINDEX)", &[ENODEV]),
    (libc::SYS_ioctl, libc::SIOCGIFNAME, "ioctl(SIOCGIFNAME)", &[ENODEV]),
    (libc::SYS_ioctl, libc::SIOCGIFFLAGS, "ioctl(SIOCGIFFLAGS)", &[ENODEV]),
    (libc::SYS_ioctl, libc::SIOCSIFFLAGS, "ioctl(SIOCSIFFLAGS)", &[EPERM, ENODEV]),
    (libc::SYS_ioctl, libc::SIOCGIFHWADDR, "ioctl(SIOCGIFHWADDR)", &[ENODEV]),
];

/// Whether its second argument says what it does.
pub fn has_commands(number: i64) -> bool {
    COMMANDS.iter().any(|(found, ..)| *found == number)
}

/// Which argument of those that open something is its path.
pub fn path_argument(number: i64) -> Option<usize> {
    match number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => Some(0),
        libc::SYS_openat | libc::SYS_openat2 | libc::SYS_open_tree => Some(1),
        _ => None,
    }
}

/// All others that they were seen to make, and why they are let alone.
#[rustfmt::skip]
const LEFT_OUT: &[(c_long, &str)] = &[
    // They fail for mistakes of the caller's alone, or never.
    (libc::SYS_rt_sigaction, "rt_sigaction"),
    (libc::SYS_rt_sigprocmask, "rt_sigprocmask"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
    (libc::SYS_kill, "kill"),
    (libc::SYS_sigaltstack, "sigaltstack"),
    (libc::SYS_lseek, "lseek"),
    (libc::SYS_capget, "capget"),
    (libc::SYS_sched_getaffinity, "sched_getaffinity"),
    (libc::SYS_getcpu, "getcpu"),
    (libc::SYS_clock_gettime, "clock_gettime"),
    (libc::SYS_getpid, "getpid"),
    (libc::SYS_getpgid, "getpgid"),
    (libc::SYS_geteuid, "geteuid"),
    (libc::SYS_uname, "uname"),
    (libc::SYS_getuid, "getuid"),
    (libc::SYS_getgroups, "getgroups"),
    (libc::SYS_umask, "umask"),
    (libc::SYS_set_tid_address, "set_tid_address"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_arch_prctl, "arch_prctl"),
    // It says where the end of the data is, not whether it failed.
    (libc::SYS_brk, "brk"),
    // They do not come back.
    (libc::SYS_exit, "exit"),
    (libc::SYS_exit_group, "exit_group"),
    // After a stop; nobody asks for it.
    (libc::SYS_restart_syscall, "restart_syscall"),
];

/// What a call is called.
pub fn name(call: &Call) -> String {
    let of_command = COMMANDS
        .iter()
        .filter(|(number, command, ..)| (*number, *command) == (call.number, call.command))
        .map(|(.., name, _)| name);
    let rows = ROWS.iter().map(|(number, name, _)| (number, name));
    let left_out = LEFT_OUT.iter().map(|(number, name)| (number, name));
    let of_number = rows
        .chain(left_out)
        .filter(|(number, _)| **number == call.number)
        .map(|(_, name)| name);
    of_command
        .chain(of_number)
        .next()
        .map_or_else(|| call.number.to_string(), |name| (*name).to_owned())
}

/// The ways in which a call can fail, the likeliest first; none: it is let alone. Panics for one that no table has.
#[track_caller]
pub fn faults(call: &Call) -> Vec<Fault> {
    let of_command = COMMANDS
        .iter()
        .find(|(number, command, ..)| (*number, *command) == (call.number, call.command))
        .map(|(.., errnos)| errnos);
    let of_number = ROWS
        .iter()
        .find(|(number, ..)| *number == call.number)
        .map(|(.., errnos)| errnos);
    if let Some(errnos) = of_command.or(of_number) {
        let fault = |errno: &Errno| match call.number {
            libc::SYS_close => Fault::After(*errno),
            _ => Fault::Instead(*errno),
        };
        return errnos.iter().map(fault).collect();
    }
    assert!(
        LEFT_OUT.iter().any(|(number, _)| *number == call.number),
        "{call:?} is in no table of {}: how can it fail?",
        file!()
    );
    vec![]
}
