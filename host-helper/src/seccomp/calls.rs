//! Which system calls a command may make: a list of what is allowed, in the spirit of Docker's default one.
//!
//! Not in it, and why: keyrings (one for all containers of a user), io_uring and userfaultfd (the way of most escapes of
//! the last years), kexec and swap, NUMA placement of others' pages, the obsolete; and whatever a capability that the
//! command lacks stands before anyway, so that a fault in the kernel's code behind it is out of reach.

use std::ops::Range;

use libc::*;

/// The newest call that this list was made with (`file_setattr`, Linux 6.17). Programs try what is newer, and do without
/// it where it is unknown. Docker's list ends with `removexattrat` (466); what is newer is here as what it stands for is:
/// `file_getattr` and `file_setattr` do what ioctl(2) does (`FS_IOC_FSGETXATTR`), `open_tree_attr` is `open_tree` and
/// `mount_setattr` in one.
pub const NEWEST: c_long = 469;

/// Numbers that no call has, between the architecture's own ones and those that are the same everywhere.
pub const NOT_GIVEN_OUT: Range<c_long> = if cfg!(target_arch = "x86_64") {
    337..424
} else {
    295..424
};

/// What libc does not name for each C library. Numbers from 424 on are the same everywhere.
mod recent {
    use libc::c_long;

    pub const IO_PGETEVENTS: c_long = if cfg!(target_arch = "x86_64") {
        333
    } else {
        292
    };
    pub const CACHESTAT: c_long = 451;
    pub const FCHMODAT2: c_long = 452;
    pub const MAP_SHADOW_STACK: c_long = 453;
    pub const FUTEX_WAKE: c_long = 454;
    pub const FUTEX_WAIT: c_long = 455;
    pub const FUTEX_REQUEUE: c_long = 456;
    pub const STATMOUNT: c_long = 457;
    pub const LISTMOUNT: c_long = 458;
    pub const LSM_GET_SELF_ATTR: c_long = 459;
    pub const LSM_SET_SELF_ATTR: c_long = 460;
    pub const LSM_LIST_MODULES: c_long = 461;
    pub const SETXATTRAT: c_long = 463;
    pub const GETXATTRAT: c_long = 464;
    pub const LISTXATTRAT: c_long = 465;
    pub const REMOVEXATTRAT: c_long = 466;
    pub const OPEN_TREE_ATTR: c_long = 467;
    pub const FILE_GETATTR: c_long = 468;
    pub const FILE_SETATTR: c_long = 469;
}

/// What every command may.
///
/// `sethostname` is init's: it does that before it drops the capability that the kernel demands for it.
#[rustfmt::skip]
pub const EVERYBODY: &[c_long] = &[
    // Files.
    SYS_close, SYS_close_range, SYS_copy_file_range, SYS_dup, SYS_dup3, SYS_faccessat, SYS_faccessat2, SYS_fadvise64,
    SYS_fallocate, SYS_fchdir, SYS_chdir, SYS_fchmod, SYS_fchmodat, recent::FCHMODAT2, SYS_fchown, SYS_fchownat,
    SYS_fcntl, SYS_fdatasync, SYS_flock, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_getcwd, SYS_getdents64,
    SYS_ioctl, SYS_linkat, SYS_lseek, SYS_mkdirat, SYS_mknodat, SYS_name_to_handle_at, SYS_newfstatat, SYS_openat,
    SYS_openat2, SYS_pipe2, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_read,
    SYS_readahead, SYS_readlinkat, SYS_readv, SYS_renameat, SYS_renameat2, SYS_sendfile, SYS_splice, SYS_statfs,
    SYS_statx, SYS_symlinkat, SYS_sync, SYS_sync_file_range, SYS_syncfs, SYS_tee, SYS_truncate, SYS_umask, SYS_unlinkat,
    SYS_utimensat, SYS_vmsplice, SYS_write, SYS_writev, recent::CACHESTAT, recent::FILE_GETATTR, recent::FILE_SETATTR,
    recent::STATMOUNT, recent::LISTMOUNT,
    SYS_fgetxattr, SYS_flistxattr, SYS_fremovexattr, SYS_fsetxattr, SYS_getxattr, SYS_lgetxattr, SYS_listxattr,
    SYS_llistxattr, SYS_lremovexattr, SYS_lsetxattr, SYS_removexattr, SYS_setxattr, recent::SETXATTRAT,
    recent::GETXATTRAT, recent::LISTXATTRAT, recent::REMOVEXATTRAT,
    // Waiting for them.
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2, SYS_fanotify_mark,
    SYS_inotify_add_watch, SYS_inotify_init1, SYS_inotify_rm_watch, SYS_io_cancel, SYS_io_destroy, SYS_io_getevents,
    recent::IO_PGETEVENTS, SYS_io_setup, SYS_io_submit, SYS_ppoll, SYS_pselect6, SYS_signalfd4,
    // Sockets; `socket` and `socketpair` are looked at.
    SYS_accept, SYS_accept4, SYS_bind, SYS_connect, SYS_getpeername, SYS_getsockname, SYS_getsockopt, SYS_listen,
    SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_setsockopt, SYS_shutdown,
    // Memory.
    SYS_brk, SYS_madvise, SYS_membarrier, SYS_memfd_create, SYS_memfd_secret, SYS_mincore, SYS_mlock, SYS_mlock2,
    SYS_mlockall, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_mseal, SYS_msync, SYS_munlock, SYS_munlockall, SYS_munmap,
    SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_remap_file_pages, recent::MAP_SHADOW_STACK,
    SYS_mq_getsetattr, SYS_mq_notify, SYS_mq_open, SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink, SYS_msgctl,
    SYS_msgget, SYS_msgrcv, SYS_msgsnd, SYS_semctl, SYS_semget, SYS_semop, SYS_semtimedop, SYS_shmat, SYS_shmctl,
    SYS_shmdt, SYS_shmget,
    // Processes and threads; `clone` is looked at. What ptrace(2) reaches is the kernel's to judge: nobody outside.
    SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_futex, SYS_futex_waitv, recent::FUTEX_WAKE,
    recent::FUTEX_WAIT, recent::FUTEX_REQUEUE, SYS_get_robust_list, SYS_getcpu, SYS_getpgid, SYS_getpid, SYS_getppid,
    SYS_getpriority, SYS_getrlimit, SYS_getrusage, SYS_getsid, SYS_gettid, SYS_ioprio_get, SYS_ioprio_set, SYS_kill,
    SYS_pidfd_open, SYS_pidfd_send_signal, SYS_prctl, SYS_prlimit64, SYS_process_mrelease, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_ptrace, SYS_rseq, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
    SYS_sched_getaffinity, SYS_sched_getattr, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_rr_get_interval,
    SYS_sched_setaffinity, SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_yield,
    SYS_set_robust_list, SYS_set_tid_address, SYS_setpgid, SYS_setpriority, SYS_setrlimit, SYS_setsid, SYS_tgkill,
    SYS_tkill, SYS_wait4, SYS_waitid,
    // Who one is, and what one may.
    SYS_capget, SYS_capset, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getgroups, SYS_getresgid, SYS_getresuid,
    SYS_getuid, SYS_landlock_add_rule, SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_seccomp,
    SYS_setfsgid, SYS_setfsuid, SYS_setgid, SYS_setgroups, SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid,
    SYS_setuid,
    // Signals and time.
    SYS_restart_syscall, SYS_rt_sigaction, SYS_rt_sigpending, SYS_rt_sigprocmask, SYS_rt_sigqueueinfo,
    SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigtimedwait, SYS_rt_tgsigqueueinfo, SYS_sigaltstack, SYS_adjtimex,
    SYS_clock_adjtime, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_getitimer, SYS_gettimeofday,
    SYS_nanosleep, SYS_setitimer, SYS_timer_create, SYS_timer_delete, SYS_timer_getoverrun, SYS_timer_gettime,
    SYS_timer_settime, SYS_timerfd_create, SYS_timerfd_gettime, SYS_timerfd_settime, SYS_times,
    // The machine.
    SYS_getrandom, SYS_sethostname, SYS_sysinfo, SYS_uname,
];

/// What there is besides, of old.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub const OLD: &[c_long] = &[
    SYS_access, SYS_alarm, SYS_arch_prctl, SYS_chmod, SYS_chown, SYS_creat, SYS_dup2, SYS_epoll_create, SYS_epoll_wait,
    SYS_eventfd, SYS_fork, SYS_futimesat, SYS_getdents, SYS_getpgrp, SYS_inotify_init, SYS_lchown, SYS_link, SYS_lstat,
    SYS_mkdir, SYS_mknod, SYS_modify_ldt, SYS_open, SYS_pause, SYS_pipe, SYS_poll, SYS_readlink, SYS_rename, SYS_rmdir, SYS_select,
    SYS_signalfd, SYS_stat, SYS_symlink, SYS_time, SYS_unlink, SYS_utime, SYS_utimes, SYS_vfork,
    // uretprobe and uprobe (Linux 6.18, newer than Docker's list): the kernel's own, in programs that somebody outside observes.
    // From elsewhere it refuses them itself.
    335, 336,
];

/// What there is besides, of old.
#[cfg(not(target_arch = "x86_64"))]
pub const OLD: &[c_long] = &[];

/// What who has a capability may besides. With `sys_admin`, `clone` and `clone3` are not looked at any more.
#[rustfmt::skip]
pub const WITH_CAPABILITY: &[(&str, &[c_long])] = &[
    ("bpf", &[SYS_bpf]),
    ("dac_read_search", &[SYS_open_by_handle_at]),
    ("perfmon", &[SYS_perf_event_open]),
    ("sys_admin", &[
        SYS_bpf, SYS_clone, SYS_clone3, SYS_fanotify_init, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick,
        recent::LSM_GET_SELF_ATTR, recent::LSM_LIST_MODULES, recent::LSM_SET_SELF_ATTR, SYS_mount, SYS_mount_setattr,
        SYS_move_mount, SYS_open_tree, recent::OPEN_TREE_ATTR, SYS_perf_event_open, SYS_pivot_root, SYS_quotactl,
        SYS_quotactl_fd, SYS_setdomainname, SYS_setns, SYS_syslog, SYS_umount2, SYS_unshare,
    ]),
    ("sys_boot", &[SYS_reboot]),
    ("sys_chroot", &[SYS_chroot]),
    ("sys_module", &[SYS_delete_module, SYS_finit_module, SYS_init_module]),
    ("sys_nice", &[SYS_get_mempolicy, SYS_mbind, SYS_set_mempolicy, SYS_set_mempolicy_home_node]),
    ("sys_pacct", &[SYS_acct]),
    ("sys_ptrace", &[SYS_kcmp, SYS_pidfd_getfd, SYS_process_madvise]),
    #[cfg(target_arch = "x86_64")]
    ("sys_rawio", &[SYS_ioperm, SYS_iopl]),
    ("sys_time", &[SYS_clock_settime, SYS_settimeofday]),
    ("sys_tty_config", &[SYS_vhangup]),
    ("syslog", &[SYS_syslog]),
];
