//! The only file of this package with `unsafe`: new namespaces for a case, another network namespace for a command,
//! descriptors of processes, packet sockets, and what a terminal needs.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::ptrace;
use nix::unistd::Pid;

/// What is written to `uid_map` and `gid_map` of a case that is not run by root.
#[derive(Clone)]
pub struct IdMaps {
    /// One line: `0 UID 1`.
    pub uid: String,
    /// One line: `0 GID 1`.
    pub gid: String,
}

/// Makes `command` start in namespaces of its own, under a PID 1 that reaps orphans. When the command ends, PID 1
/// ends, and the kernel takes every process, mount and link of the case away.
pub fn isolate(command: &mut Command, maps: Option<IdMaps>) {
    // SAFETY: the closure calls nothing but system calls: no allocation, no lock, so it may run between fork and exec
    // of a process with threads.
    unsafe {
        command.pre_exec(move || enter(maps.as_ref()));
    }
}

/// Makes `command` start in the network namespace behind `netns`, which must stay open until it is spawned.
pub fn in_netns(command: &mut Command, netns: &OwnedFd) {
    let fd = netns.as_raw_fd();
    // SAFETY: setns is one system call; `fd` is open for as long as the caller keeps `netns`.
    unsafe {
        command.pre_exec(move || check(libc::setns(fd, libc::CLONE_NEWNET)).map(drop));
    }
}

/// Moves this thread, and what it starts, into a new mount namespace and the network namespace behind `netns`.
pub fn move_apart(netns: &OwnedFd) -> io::Result<()> {
    // SAFETY: system calls with integers; `netns` is open.
    unsafe {
        check(libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS))?;
        check(libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET)).map(drop)
    }
}

/// Makes `command` a tracee of the thread that spawns it: it stops once it is executed.
pub fn trace(command: &mut Command) {
    // SAFETY: PTRACE_TRACEME is one system call without arguments.
    unsafe {
        command.pre_exec(|| ptrace::traceme().map_err(io::Error::from));
    }
}

/// Makes `command` keep `fd` open as descriptor `number`.
pub fn pass_fd(command: &mut Command, fd: &OwnedFd, number: RawFd) {
    let fd = fd.as_raw_fd();
    // SAFETY: dup2 and fcntl are system calls; `fd` is open for as long as the caller keeps it. A dup2 onto itself
    // leaves close-on-exec set, hence the fcntl.
    unsafe {
        command.pre_exec(move || {
            check(libc::dup2(fd, number))?;
            check(libc::fcntl(number, libc::F_SETFD, 0)).map(drop)
        });
    }
}

/// Moves descriptors in `command` to lower numbers, after every [`pass_fd`].
pub fn renumber(command: &mut Command, moves: &[(RawFd, RawFd)]) {
    let moves = moves.to_vec();
    // SAFETY: dup2 and close are system calls; the vector was allocated before the fork and is only read.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in &moves {
                check(libc::dup2(*from, *to))?;
                libc::close(*from);
            }
            Ok(())
        });
    }
}

/// Makes the thread that spawns `command` the tracer of it: see ptrace(2).
pub fn be_traced(command: &mut Command) {
    // SAFETY: one system call, between fork and exec.
    unsafe {
        command.pre_exec(|| nix::sys::ptrace::traceme().map_err(io::Error::from));
    }
}

/// The number of the system call that a tracee is about to make; `None` when it has just made one.
pub fn entered_call(pid: nix::unistd::Pid) -> Option<u64> {
    let info = nix::sys::ptrace::syscall_info(pid).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: `op` says that this is the member of the union which the kernel has filled in.
    Some(unsafe { info.u.entry.nr })
}

/// What the system call gives that a tracee has just made: less than zero is an error's number.
pub fn result_of_call(pid: nix::unistd::Pid) -> Option<i64> {
    let info = nix::sys::ptrace::syscall_info(pid).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_EXIT {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { info.u.exit.sval })
}

/// Makes `command` the leader of a session whose controlling terminal is its standard input.
pub fn with_terminal(command: &mut Command) {
    // SAFETY: setsid and ioctl are system calls; TIOCSCTTY takes an integer.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            check(libc::ioctl(0, libc::TIOCSCTTY, 0)).map(drop)
        });
    }
}

/// Makes `command` the leader of a session without a terminal.
pub fn without_terminal(command: &mut Command) {
    // SAFETY: setsid is a system call.
    unsafe {
        command.pre_exec(|| check(libc::setsid()).map(drop));
    }
}

/// Limits the number of descriptors that `command` may open.
pub fn with_rlimit(command: &mut Command, resource: u32, value: u64) {
    // SAFETY: setrlimit is a system call that reads the struct during the call.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit {
                rlim_cur: value,
                rlim_max: value,
            };
            check(libc::setrlimit(resource, &limit)).map(drop)
        });
    }
}

/// Makes `command` start as another user, without supplementary groups, and without CAP_SETGID's last traces.
pub fn as_user(command: &mut Command, id: u32) {
    // SAFETY: three system calls, all of them allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::setgid(id))?;
            check(libc::setuid(id)).map(drop)
        });
    }
}

/// Makes `command` start with these supplementary groups.
pub fn with_groups(command: &mut Command, groups: &[u32]) {
    let groups = groups.to_vec();
    // SAFETY: one system call, which reads as many numbers as the vector has; it was allocated before the fork.
    unsafe {
        command.pre_exec(move || check(libc::setgroups(groups.len(), groups.as_ptr())).map(drop));
    }
}

/// A descriptor of process `pid` that becomes readable when it has ended; an error when there is none.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and gives a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to the process behind `pidfd`, and to no other.
pub fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed: the kernel fills one in.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Takes a lease (`F_RDLCK`, `F_WRLCK`) on a file. Who wants it back asks by a signal that is ignored.
pub fn lease(file: &std::fs::File, kind: i32) -> io::Result<()> {
    const F_SETSIG: i32 = 10; // asm-generic/fcntl.h
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) })?;
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }).map(drop)
}

/// Sets the size of a terminal; the kernel sends SIGWINCH to its foreground process group.
pub fn set_window(terminal: BorrowedFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize, which lives until the call returns.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// A socket that sends and receives whole frames of link `index`.
pub fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes integers and gives a new descriptor, which nobody else has. It hears nothing until it is bound.
    let socket = unsafe {
        let fd = check(libc::socket(libc::AF_PACKET, flags, 0))?;
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all of its fields are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: bind reads `length` bytes of the address, which lives until the call returns.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The forks of `isolate`: A (the caller's child) waits for B, B is PID 1 and reaps, C returns to be the command.
fn enter(maps: Option<&IdMaps>) -> io::Result<()> {
    let user = if maps.is_some() {
        libc::CLONE_NEWUSER
    } else {
        0
    };
    let others = libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: system calls without memory arguments; after fork there is one thread, which makes system calls only.
    unsafe {
        // What a test runner lets through must not look like a leak of ours.
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        check(libc::unshare(user | others))?;
        if let Some(maps) = maps {
            write(c"/proc/self/setgroups", b"deny")?;
            write(c"/proc/self/uid_map", maps.uid.as_bytes())?;
            write(c"/proc/self/gid_map", maps.gid.as_bytes())?;
        }
        let first = check(libc::fork())?;
        if first != 0 {
            wait_and_exit(first);
        }
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
        mount(
            c"proc",
            c"/proc",
            Some(c"proc"),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        )?;
        let command = check(libc::fork())?;
        if command != 0 {
            wait_and_exit(command);
        }
    }
    Ok(())
}

/// Waits for all children until `last` has ended, then ends as it did. Closes the pipe by which `Command::spawn` waits
/// for the exec, or it would wait for us.
fn wait_and_exit(last: i32) -> ! {
    // SAFETY: close_range, waitpid and _exit are system calls; `status` outlives the call that fills it.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        loop {
            let mut status = 0;
            let pid = libc::waitpid(-1, &mut status, 0);
            if pid == last {
                let signal = 128 + libc::WTERMSIG(status);
                libc::_exit(if libc::WIFEXITED(status) {
                    libc::WEXITSTATUS(status)
                } else {
                    signal
                });
            }
            if pid < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                libc::_exit(1);
            }
        }
    }
}

fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: `path` ends with a zero byte, `bytes` has the length that is given, the descriptor is closed once.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let done = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let error = io::Error::last_os_error();
        libc::close(fd);
        if done < 0 { Err(error) } else { Ok(()) }
    }
}

fn mount(source: &CStr, target: &CStr, kind: Option<&CStr>, flags: u64) -> io::Result<()> {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: all strings end with a zero byte, and null is allowed for the kind and the data.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind,
            flags,
            std::ptr::null(),
        )
    })
    .map(drop)
}

/// The number of the system call that a tracee is stopped before, and its first three arguments.
pub fn call(pid: Pid) -> nix::Result<(i64, [u64; 3])> {
    let registers = ptrace::getregs(pid)?;
    #[cfg(target_arch = "x86_64")]
    let (number, arguments) = (
        registers.orig_rax,
        [registers.rdi, registers.rsi, registers.rdx],
    );
    #[cfg(target_arch = "aarch64")]
    let (number, arguments) = (
        registers.regs[8],
        [registers.regs[0], registers.regs[1], registers.regs[2]],
    );
    Ok((number as i64, arguments))
}

/// What a system call that a tracee is stopped after has given; minus an errno.
pub fn result(pid: Pid) -> nix::Result<i64> {
    let registers = ptrace::getregs(pid)?;
    #[cfg(target_arch = "x86_64")]
    let result = registers.rax;
    #[cfg(target_arch = "aarch64")]
    let result = registers.regs[0];
    Ok(result as i64)
}

/// The netlink family (`libc::NETLINK_*`) of a process's descriptor; `None` when it is something else.
pub fn netlink_family(pid: Pid, fd: u64) -> Option<i32> {
    let process = pidfd(pid.as_raw()).ok()?;
    // SAFETY: pidfd_getfd takes integers and gives a new descriptor.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    let copy = RawFd::try_from(copy).ok().filter(|copy| *copy >= 0)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let is_netlink = socket_option(&copy, libc::SO_DOMAIN)? == libc::AF_NETLINK;
    is_netlink.then(|| socket_option(&copy, libc::SO_PROTOCOL))?
}

fn socket_option(socket: &OwnedFd, option: i32) -> Option<i32> {
    let mut value: i32 = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes into the integer; both live until the call returns.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (done == 0).then_some(value)
}

/// Lets a tracee that is stopped before a system call not make it.
pub fn skip_call(pid: Pid) -> nix::Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut registers = ptrace::getregs(pid)?;
        registers.orig_rax = u64::MAX;
        ptrace::setregs(pid, registers)
    }
    #[cfg(target_arch = "aarch64")]
    {
        // linux/elf.h
        const NT_ARM_SYSTEM_CALL: usize = 0x404;
        let mut number: i32 = -1;
        let mut vector = libc::iovec {
            iov_base: (&raw mut number).cast(),
            iov_len: size_of::<i32>(),
        };
        // SAFETY: PTRACE_SETREGSET reads the vector and the number, which live until the call returns.
        let done = unsafe {
            libc::ptrace(
                libc::PTRACE_SETREGSET,
                pid.as_raw(),
                NT_ARM_SYSTEM_CALL,
                &raw mut vector,
            )
        };
        nix::errno::Errno::result(done).map(drop)
    }
}

/// Lets a system call that a tracee is stopped after have given `result`.
pub fn set_result(pid: Pid, result: i64) -> nix::Result<()> {
    let mut registers = ptrace::getregs(pid)?;
    #[cfg(target_arch = "x86_64")]
    {
        registers.rax = result as u64;
    }
    #[cfg(target_arch = "aarch64")]
    {
        registers.regs[0] = result as u64;
    }
    ptrace::setregs(pid, registers)
}
