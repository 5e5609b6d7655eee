//! System calls that nix has not: with `sys/memory.rs` the only file of host-helper with unsafe code.
//!
//! Every function is the call of the same name, with types that cannot be confused; nothing here decides.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

mod memory;

pub use memory::{release_memory, release_spare, with_scratch};

type Result<T> = std::result::Result<T, Errno>;

/// Who a [`clone_process`] returned to.
pub enum Clone {
    /// In the new process.
    Child,
    /// In the caller: the new process, and a descriptor that names it for good.
    Parent(Pid, OwnedFd),
}

/// `clone3(2)` without shared memory: a fork into the namespaces `flags` (`CLONE_NEW*`).
pub fn clone_process(flags: libc::c_int) -> Result<Clone> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers; all zeroes is its documented "nothing asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child has a copy of everything; this program has one thread, so that no lock
    // of another thread can be held in the copy. args and pidfd outlive the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
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

/// `close_range(2)` with `CLOSE_RANGE_CLOEXEC`: everything from `first` on is closed by the next exec.
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    // SAFETY: marks descriptors, frees nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(done).map(drop)
}

/// `open_tree(2)` with `OPEN_TREE_CLONE`: a detached copy of the mount at `path` under `dir` (a bind mount).
pub fn clone_tree(dir: impl AsFd, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: path is NUL-terminated and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
        )
    };
    own(fd)
}

/// `move_mount(2)`: attaches the detached mount `tree` at the descriptor `target`.
pub fn attach_tree(tree: impl AsFd, target: impl AsFd) -> Result<()> {
    attach_tree_at(tree, target, c"")
}

/// The same at `path` under the directory `dir`; the last name is not followed where it is a link. Only where nobody else
/// can have put links on the way.
pub fn attach_tree_at(tree: impl AsFd, dir: impl AsFd, path: &CStr) -> Result<()> {
    // From linux/mount.h: an empty path is that of the descriptor itself.
    const F_EMPTY_PATH: u32 = 0x4;
    const T_EMPTY_PATH: u32 = 0x40;
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            F_EMPTY_PATH | T_EMPTY_PATH,
        )
    };
    Errno::result(done).map(drop)
}

/// `mount_setattr(2)`: sets `attributes` (`MOUNT_ATTR_*`) on the mount, and on those below it.
pub fn set_mount_attributes(mount: impl AsFd, attributes: u64, recursive: bool) -> Result<()> {
    change_mount_attributes(
        mount,
        attributes,
        0,
        if recursive { libc::AT_RECURSIVE } else { 0 },
    )
}

/// The same, clearing them on the mount alone.
pub fn clear_mount_attributes(mount: impl AsFd, attributes: u64) -> Result<()> {
    change_mount_attributes(mount, 0, attributes, 0)
}

/// The same with `MOUNT_ATTR_IDMAP`: on this mount, which must be detached, files have the owners that `users` maps theirs to.
pub fn map_mount(mount: impl AsFd, users: impl AsFd, recursive: bool) -> Result<()> {
    const IDMAP: u64 = 0x10_0000; // linux/mount.h
    // SAFETY: mount_attr is plain integers; zero means "leave alone".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = IDMAP;
    attr.userns_fd = users.as_fd().as_raw_fd() as u64;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    apply(mount, &attr, flags)
}

/// The same for what a container gets of the host's mounts: read-only data, and nothing mounted on the one appears on
/// the other.
pub fn seclude(mount: impl AsFd) -> Result<()> {
    let attributes = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    change_mount(mount, attributes, 0, libc::MS_PRIVATE, 0)
}

fn change_mount_attributes(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    flags: libc::c_int,
) -> Result<()> {
    change_mount(mount, set, clear, 0, flags)
}

fn change_mount(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    propagation: u64,
    flags: libc::c_int,
) -> Result<()> {
    // SAFETY: mount_attr is plain integers; zero means "leave alone".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = set;
    attr.attr_clr = clear;
    attr.propagation = propagation;
    apply(mount, &attr, flags)
}

fn apply(mount: impl AsFd, attr: &libc::mount_attr, flags: libc::c_int) -> Result<()> {
    // SAFETY: attr outlives the call and its size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            &raw const *attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop)
}

/// `fsopen`, `fsconfig` and `fsmount` of `linux/mount.h`: a new file system, detached, with mount `attributes`.
pub fn make_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Result<OwnedFd> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    const CLOEXEC: u32 = 1;
    // SAFETY: kind is NUL-terminated and outlives the call.
    let context = own(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })?;
    for (key, value) in options {
        let (command, value) = if value.is_empty() {
            (SET_FLAG, std::ptr::null())
        } else {
            (SET_STRING, value.as_ptr())
        };
        // SAFETY: key and value are NUL-terminated (or null for a flag) and outlive the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                key.as_ptr(),
                value,
                0,
            )
        };
        Errno::result(done)?;
    }
    // SAFETY: FSCONFIG_CMD_CREATE takes no key and no value.
    let done = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            0usize,
            0usize,
            0,
        )
    };
    Errno::result(done)?;
    // SAFETY: integers only.
    own(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            CLOEXEC,
            attributes as u32,
        )
    })
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

/// A new anonymous session keyring (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`): the host's is not inherited.
pub fn join_session_keyring() -> Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0usize, 0, 0, 0) };
    Errno::result(done).map(drop)
}

/// Makes a new pseudo-terminal of the devpts that `ptmx` is in; gives its number and the user's side.
pub fn open_terminal_peer(ptmx: BorrowedFd) -> Result<(u32, OwnedFd)> {
    let unlock: libc::c_int = 0;
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCSPTLCK reads an int, TIOCGPTN stores an unsigned int, TIOCGPTPEER takes open flags (ioctl_tty(2)).
    unsafe {
        Errno::result(libc::ioctl(
            ptmx.as_raw_fd(),
            libc::TIOCSPTLCK as _,
            &raw const unlock,
        ))?;
        Errno::result(libc::ioctl(
            ptmx.as_raw_fd(),
            libc::TIOCGPTN as _,
            &raw mut number,
        ))?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let peer = own(libc::c_long::from(libc::ioctl(
            ptmx.as_raw_fd(),
            libc::TIOCGPTPEER as _,
            flags,
        )))?;
        Ok((number, peer))
    }
}

/// Makes `terminal` the controlling terminal of this session (`TIOCSCTTY`, stealing nothing).
pub fn set_controlling_terminal(terminal: BorrowedFd) -> Result<()> {
    // SAFETY: an integer argument.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) }).map(drop)
}

/// Copies the window size of terminal `from` to terminal `to`.
pub fn copy_window_size(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    // SAFETY: winsize is plain integers that TIOCGWINSZ fills and TIOCSWINSZ reads.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        Errno::result(libc::ioctl(
            from.as_raw_fd(),
            libc::TIOCGWINSZ as _,
            &raw mut size,
        ))?;
        Errno::result(libc::ioctl(
            to.as_raw_fd(),
            libc::TIOCSWINSZ as _,
            &raw const size,
        ))
        .map(drop)
    }
}

/// Clears close-on-exec.
pub fn keep_over_exec(fd: RawFd) -> Result<()> {
    // SAFETY: F_SETFD changes a flag of a descriptor.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// Random bytes (`getrandom(2)`): never blocks after boot.
pub fn random_u32() -> u32 {
    let mut bytes = [0u8; 4];
    // SAFETY: the buffer is ours and its length is passed.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    u32::from_ne_bytes(bytes)
}

/// Borrows descriptor `fd`, which the caller of this program left open.
pub fn inherited(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used for 0, 1 and 2 only, which this program never closes.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn own(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: a system call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Owns a descriptor that has just come over a socket.
pub fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: SCM_RIGHTS has installed it in this process a moment ago (unix(7)), and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `fcntl(2)` with `F_DUPFD`: the same file at the first free number from `first` on, kept over exec.
pub fn duplicate_from(fd: RawFd, first: RawFd) -> Result<RawFd> {
    // SAFETY: makes a new descriptor; the caller execs next, so that nobody has to own it.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD, first) })
}

/// Whether there is a descriptor of this number (`EBADF` when not).
pub fn is_open(fd: RawFd) -> Result<()> {
    // SAFETY: F_GETFD reads a flag.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) }).map(drop)
}

/// `pidfd_open(2)`: a descriptor for process `pid`.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// `listen(2)`, with a queue of any length: nix allows no more than the C library's SOMAXCONN, which is 128 with musl.
pub fn listen(socket: impl AsFd, queue: i32) -> Result<()> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::listen(socket.as_fd().as_raw_fd(), queue) }).map(drop)
}

/// `prctl(2)` with `PR_SET_DUMPABLE` 0: nobody may trace this process or look at it under `/proc`, but for root with
/// CAP_SYS_PTRACE.
pub fn set_not_dumpable() -> Result<()> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Whether this process ignores a signal (`sigaction(2)`).
pub fn is_ignored(signal: nix::sys::signal::Signal) -> bool {
    // SAFETY: sigaction is plain integers and a pointer that is only compared; a null new action changes nothing.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as i32, std::ptr::null(), &raw mut now) == 0
            && now.sa_sigaction == libc::SIG_IGN
    }
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

/// `close_range(2)`: closes descriptors that this program has not opened itself.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: the caller names descriptors that were there when this program began, or none: nobody here owns them.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Whether an inherited descriptor is a directory; one that is not open is none.
pub fn is_directory(fd: RawFd) -> bool {
    let mode = nix::sys::stat::fstat(inherited(fd)).map_or(0, |found| found.st_mode);
    mode & libc::S_IFMT == libc::S_IFDIR
}

/// A netlink socket to nf_tables hears only what begins with a deletion from a table called `hawser`: other
/// transactions wake nobody.
pub fn only_deletions(socket: BorrowedFd) -> Result<()> {
    // linux/netfilter/nf_tables.h
    const NFT_MSG_DELTABLE: u32 = 2;
    const NFT_MSG_DELCHAIN: u32 = 5;
    const NFT_MSG_DELRULE: u32 = 8;
    const NFT_MSG_DELSET: u32 = 11;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // struct nlmsghdr, struct nfgenmsg, then the first attribute, which is the table's name.
    const KIND: u32 = if cfg!(target_endian = "little") { 4 } else { 5 };
    const NAME: u32 = 24;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        line(LOAD_BYTE, 0, 0, KIND),
        line(EQUALS, 3, 0, NFT_MSG_DELTABLE),
        line(EQUALS, 2, 0, NFT_MSG_DELCHAIN),
        line(EQUALS, 1, 0, NFT_MSG_DELRULE),
        line(EQUALS, 0, 6, NFT_MSG_DELSET),
        line(LOAD_WORD, 0, 0, NAME),
        line(EQUALS, 0, 4, u32::from_be_bytes(*b"haws")),
        line(LOAD_HALF, 0, 0, NAME + 4),
        line(EQUALS, 0, 2, u32::from_be_bytes([0, 0, b'e', b'r'])),
        line(LOAD_BYTE, 0, 0, NAME + 6),
        line(EQUALS, 1, 0, 0),
        line(RETURN, 0, 0, 0),
        line(RETURN, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option takes a sock_fprog, whose program outlives the call; the kernel copies it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// `_exit(2)`: ends a copy of this process, and runs nothing of what it was a copy of.
pub fn exit_now() -> ! {
    // SAFETY: takes no pointers, and does not come back.
    unsafe { libc::_exit(0) }
}

/// What [`keep_open_beyond_our_end`] hands to its process.
struct Kept {
    /// First and last of the descriptors to close, in pairs.
    closed: Vec<(u32, u32)>,
    /// Ends when we do.
    end: OwnedFd,
}

/// Starts a process that keeps descriptors open until this process is gone, and holds nothing else: for those that take
/// the kernel long to close. It closes them when that has become quick. It shares our memory: a copy of that, which nobody needs, would be half as dear as the wait.
pub fn keep_open_beyond_our_end(descriptors: &[BorrowedFd]) -> Result<()> {
    const STACK: usize = 16 * 1024;
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut kept: Vec<u32> = descriptors
        .iter()
        .chain([&read.as_fd()])
        .map(|kept| kept.as_raw_fd() as u32)
        .collect();
    kept.sort_unstable();
    let mut closed = Vec::new();
    let mut first = 0;
    for kept in kept {
        if first < kept {
            closed.push((first, kept - 1));
        }
        first = kept + 1;
    }
    closed.push((first, u32::MAX));
    // Both are there as long as the process is, which is longer than we are: never given back.
    let kept = Box::leak(Box::new(Kept { closed, end: read }));
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    // SAFETY: the stack is the new process's alone, and grows downwards from its aligned end; what it reads of ours is
    // leaked, and nobody writes to it.
    let pid = unsafe {
        let end = stack.as_mut_ptr().add(STACK);
        let end = end.sub(end.addr() % 16);
        libc::clone(
            keep_open,
            end.cast(),
            libc::CLONE_VM | libc::SIGCHLD,
            (&raw mut *kept).cast(),
        )
    };
    Errno::result(pid)?;
    // Open as long as we are.
    std::mem::forget(write);
    Ok(())
}

/// The process. What it shares with the other, which runs meanwhile, it only reads; it allocates nothing, and of its
/// system calls none fails that could (errno is shared).
extern "C" fn keep_open(kept: *mut libc::c_void) -> libc::c_int {
    // SAFETY: a Kept that is never given back; of descriptors it closes what is its own alone, and reads into a byte of
    // its stack.
    unsafe {
        let kept = &*kept.cast::<Kept>();
        for (first, last) in &kept.closed {
            libc::syscall(libc::SYS_close_range, *first, *last, 0);
        }
        libc::read(kept.end.as_raw_fd(), [0_u8].as_mut_ptr().cast(), 1);
        wait_for_rcu();
        libc::_exit(0)
    }
}

/// Waits until the kernel has given back what was deleted from nf_tables before, which it does a grace period of RCU
/// later. A socket of nf_tables that is closed earlier waits for the same, but with a lock that every link which goes
/// away takes while it has RTNL: for all that time nobody on this machine could make a link.
pub fn wait_for_rcu() {
    // The kernel's own wait may have begun after this one did: the second is begun after it. With one processor, or an
    // older kernel, neither waits, and closing does.
    for _ in 0..2 {
        // SAFETY: no pointers.
        unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    }
}

/// `getsockopt(2)`: fills `value` as far as there is something, and gives how far that is.
pub fn socket_option(
    socket: BorrowedFd,
    level: i32,
    option: i32,
    value: &mut [u8],
) -> Result<usize> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, and to `len` how many they were; any bytes are a [u8].
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    Errno::result(done).map(|_| len as usize)
}
