//! The kernel, and the only file with `unsafe`: system calls as functions that take and give Rust's own types.
//!
//! The calls are made directly, and for musl the program starts at a `_start` of its own: libc's start, its errno and
//! its wrappers (cancellation points, setresuid in all threads) serve programs that have threads and stdio, and cost
//! 3 KB and two pages of memory here.

use core::ffi::{CStr, c_char, c_int, c_long};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use hawser::buffer::Buffer;
use hawser::protocol::LIMIT;

// The libc crate without its default features names no library to link (it leaves that to std). What is taken from it
// is memcpy and its like.
#[link(name = "c")]
unsafe extern "C" {}

/// An errno as the kernel gave it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// A file descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub i32);

/// Standard input.
pub const STDIN: Fd = Fd(0);
/// Standard output.
pub const STDOUT: Fd = Fd(1);
/// Standard error.
pub const STDERR: Fd = Fd(2);

/// The memory that init works in. It is zero pages until it is written to.
pub struct Buffers {
    /// The config message and, behind it, `go`.
    pub message: [u8; LIMIT + 64],
    /// Requests to the kernel, and the text of files: the longest message makes 92 KiB of requests (18 bytes of text, `route ::/0 onlink` and
    /// its newline, make 76).
    pub batch: [u8; 128 * 1024],
    /// What the kernel answers; a message of a dump is at most this long (NLMSG_GOODSIZE is 8 KiB, what it has in store 32).
    pub reply: [u8; 32 * 1024],
    /// A path to execute, an error's sentence.
    pub text: [u8; 4096],
}

static TAKEN: AtomicBool = AtomicBool::new(false);
static mut BUFFERS: Buffers = Buffers {
    message: [0; LIMIT + 64],
    batch: [0; 128 * 1024],
    reply: [0; 32 * 1024],
    text: [0; 4096],
};

/// The buffers, once.
pub fn take_buffers() -> Option<&'static mut Buffers> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    let buffers = &raw mut BUFFERS;
    // SAFETY: TAKEN lets only the first call come here, so this is the only reference there ever is.
    Some(unsafe { &mut *buffers })
}

/// What the program was called with: a list of C strings that ends with a null pointer, from some word on.
#[derive(Clone, Copy)]
pub struct Arguments(*const *const c_char);

impl Arguments {
    /// The first word.
    pub fn first(&self) -> Option<&'static CStr> {
        // SAFETY: the pointer comes from `main` (or is one further for each word before the null pointer), the
        // strings live as long as the process.
        unsafe {
            if (*self.0).is_null() {
                None
            } else {
                Some(CStr::from_ptr(*self.0))
            }
        }
    }

    /// Takes the first word off.
    pub fn take(&mut self) -> Option<&'static CStr> {
        let word = self.first()?;
        // SAFETY: the entry is not the null pointer that ends the list, so there is one behind it.
        self.0 = unsafe { self.0.add(1) };
        Some(word)
    }
}

impl Arguments {
    /// The list behind the one that begins here: the environment, on the stack of a new program.
    fn skip_list(mut self) -> Arguments {
        while self.take().is_some() {}
        // SAFETY: `first` has seen the null pointer, and behind that of `argv` the kernel puts `envp`.
        Arguments(unsafe { self.0.add(1) })
    }
}

/// The environment as it was when the program started.
static ENVIRONMENT: AtomicPtr<*const c_char> = AtomicPtr::new(core::ptr::null_mut());

/// The value of an environment variable.
pub fn variable(name: &[u8]) -> Option<&'static [u8]> {
    let mut variables = Arguments(ENVIRONMENT.load(Ordering::Relaxed));
    while let Some(variable) = variables.take() {
        let value = variable.to_bytes().strip_prefix(name);
        if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
            return Some(value);
        }
    }
    None
}

/// A C string without its first `count` bytes; `None` when it is shorter.
pub fn suffix(text: &'static CStr, count: usize) -> Option<&'static CStr> {
    if count > text.count_bytes() {
        return None;
    }
    // SAFETY: at most the NUL is left, so this is the rest of a C string that lives as long.
    Some(unsafe { CStr::from_ptr(text.as_ptr().add(count)) })
}

/// Joins parts to a C string in `space`; `None` when it does not fit or has a NUL inside.
pub fn c_string<'a>(parts: &[&[u8]], space: &'a mut [u8]) -> Option<&'a CStr> {
    let mut path = Buffer::new(space);
    for part in parts {
        path.put(part);
    }
    path.put(b"\0");
    let path = path.finish()?;
    if path.iter().position(|&byte| byte == 0)? + 1 < path.len() {
        return None;
    }
    // SAFETY: the only NUL is the last byte.
    Some(unsafe { CStr::from_bytes_with_nul_unchecked(path) })
}

/// Bytes that are kept in atomics.
pub fn bytes_of(bytes: &[AtomicU8]) -> &[u8] {
    // SAFETY: AtomicU8 has the representation of u8, and there is no other thread that could change it meanwhile.
    unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// The beginning, whoever calls it: `argv`, and `envp` right behind it as the kernel has put them on the stack.
extern "C" fn start(words: *const *const c_char) -> ! {
    let words = Arguments(words);
    ENVIRONMENT.store(words.skip_list().0.cast_mut(), Ordering::Relaxed);
    exit(crate::run(words))
}

// The kernel starts a program with the number of arguments on top of the stack, and `argv` above it (elf(5), the
// processor's ABI). The stack must be aligned to 16 bytes where a function is called. build.rs makes this the entry.
#[cfg(all(target_env = "musl", panic = "abort", target_arch = "x86_64"))]
core::arch::global_asm!(
    ".globl hawser_start",
    "hawser_start:",
    "xor ebp, ebp",
    "lea rdi, [rsp + 8]",
    "and rsp, -16",
    "call {start}",
    start = sym start
);

#[cfg(all(target_env = "musl", panic = "abort", target_arch = "aarch64"))]
core::arch::global_asm!(
    ".globl hawser_start",
    "hawser_start:",
    "mov x29, #0",
    "add x0, sp, #8",
    "bl {start}",
    start = sym start
);

/// Where the C runtime hands over, on targets where there is one, and the entry that its start code refers to.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, words: *const *const c_char) -> c_int {
    start(words)
}

#[cfg(all(target_env = "musl", panic = "abort"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(125)
}

/// Ends the process.
pub fn exit(code: u8) -> ! {
    loop {
        let _ = call_by_value(libc::SYS_exit_group, usize::from(code), 0, 0, 0, 0);
    }
}

/// One system call.
///
/// # Safety
/// The arguments must be what the call documents; memory that it writes to must be exclusively ours.
#[inline(always)]
unsafe fn call(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
) -> Result<usize, Errno> {
    // SAFETY: handed on to the caller.
    let result = unsafe { call_raw(number, a, b, c, d, e) };
    // The last 4,095 values are errors (syscall(2); MAX_ERRNO in the kernel); no other result of these calls is negative.
    if result < 0 {
        Err(Errno(-result as i32))
    } else {
        Ok(result as usize)
    }
}

/// The result as the kernel gives it, since a register is where it needs no code to pick it up.
///
/// # Safety
/// As for [`call`].
#[inline(never)]
unsafe fn call_raw(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result: isize;
    // SAFETY: what the call does is up to the caller. The kernel takes the number and the arguments in these registers,
    // gives the result in the first of them, and changes none that is not named here (syscall(2)).
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") 0,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!(
            "svc 0",
            inlateout("x0") a as isize => result,
            in("x8") number, in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") 0,
            options(nostack)
        );
    }
    result
}

/// A system call that touches no memory of ours.
fn call_by_value(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
) -> Result<usize, Errno> {
    // SAFETY: every caller passes numbers only, and none of these calls reads or writes memory by them.
    unsafe { call(number, a, b, c, d, e) }
}

fn retry<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match attempt() {
            Err(Errno(libc::EINTR)) => {}
            result => return result,
        }
    }
}

/// Reads what there is, at most what fits; 0 is the end.
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `len` bytes to the buffer, which is exclusively ours.
    retry(|| unsafe {
        call(
            libc::SYS_read,
            fd.0 as usize,
            buffer.as_mut_ptr() as usize,
            buffer.len(),
            0,
            0,
        )
    })
}

/// Writes all of it.
pub fn write_all(fd: Fd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let (start, len) = (bytes.as_ptr() as usize, bytes.len());
        // SAFETY: the kernel reads `len` bytes of the buffer.
        let written = retry(|| unsafe { call(libc::SYS_write, fd.0 as usize, start, len, 0, 0) })?;
        bytes = bytes.get(written..).unwrap_or(&[]);
    }
    Ok(())
}

/// Opens for reading.
pub fn open_read(path: &CStr) -> Result<Fd, Errno> {
    open(path, libc::O_RDONLY)
}

/// Opens for writing, creates what is missing, and truncates nothing: that would flush the old blocks to disk.
pub fn open_write(path: &CStr) -> Result<Fd, Errno> {
    open(path, libc::O_WRONLY | libc::O_CREAT)
}

fn open(path: &CStr, flags: c_int) -> Result<Fd, Errno> {
    let flags = (flags | libc::O_CLOEXEC | libc::O_NOCTTY) as usize;
    // SAFETY: the path is a C string.
    let fd = retry(|| unsafe {
        call(
            libc::SYS_openat,
            libc::AT_FDCWD as usize,
            path.as_ptr() as usize,
            flags,
            0o644,
            0,
        )
    })?;
    Ok(Fd(fd as i32))
}

/// Closes; there is nothing to be done about an error.
pub fn close(fd: Fd) {
    let _ = call_by_value(libc::SYS_close, fd.0 as usize, 0, 0, 0, 0);
}

/// The size of a file, and the position at its start; 0 for what has no size.
pub fn size_and_rewind(fd: Fd) -> usize {
    let size = call_by_value(
        libc::SYS_lseek,
        fd.0 as usize,
        0,
        libc::SEEK_END as usize,
        0,
        0,
    )
    .unwrap_or(0);
    let _ = call_by_value(
        libc::SYS_lseek,
        fd.0 as usize,
        0,
        libc::SEEK_SET as usize,
        0,
        0,
    );
    size
}

/// Cuts a file.
pub fn truncate(fd: Fd, len: usize) -> Result<usize, Errno> {
    call_by_value(libc::SYS_ftruncate, fd.0 as usize, len, 0, 0, 0)
}

/// The descriptor is closed when the command is executed.
pub fn set_close_on_exec(fd: Fd) -> Result<usize, Errno> {
    call_by_value(
        libc::SYS_fcntl,
        fd.0 as usize,
        libc::F_SETFD as usize,
        libc::FD_CLOEXEC as usize,
        0,
        0,
    )
}

/// True when nobody has the other end any more.
pub fn has_hung_up(fd: Fd) -> Result<bool, Errno> {
    let mut entry = libc::pollfd {
        fd: fd.0,
        events: 0,
        revents: 0,
    };
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one pollfd, which the kernel writes to, and one timespec; no signal mask.
    retry(|| unsafe {
        call(
            libc::SYS_ppoll,
            &raw mut entry as usize,
            1,
            &raw const now as usize,
            0,
            0,
        )
    })?;
    Ok(entry.revents & libc::POLLHUP != 0)
}

/// A socket for rtnetlink whose errors come with the kernel's sentence, and without a copy of the request.
pub fn open_rtnetlink() -> Result<Fd, Errno> {
    let kind = (libc::SOCK_RAW | libc::SOCK_CLOEXEC) as usize;
    let fd = call_by_value(
        libc::SYS_socket,
        libc::AF_NETLINK as usize,
        kind,
        libc::NETLINK_ROUTE as usize,
        0,
        0,
    )?;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: c_int = 1;
        let value = &raw const on as usize;
        // SAFETY: the value is an int, its size is said. A refusal costs the sentence only.
        let _ = unsafe {
            call(
                libc::SYS_setsockopt,
                fd,
                libc::SOL_NETLINK as usize,
                option as usize,
                value,
                size_of::<c_int>(),
            )
        };
    }
    Ok(Fd(fd as i32))
}

/// One datagram, if there is one.
pub fn receive_now(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (len, flags) = (buffer.len(), libc::MSG_DONTWAIT as usize);
    // SAFETY: the kernel writes at most `len` bytes to the buffer; no address is asked for.
    retry(|| unsafe {
        call(
            libc::SYS_recvfrom,
            fd.0 as usize,
            buffer.as_mut_ptr() as usize,
            len,
            flags,
            0,
        )
    })
}

/// The number of the interface with this name.
pub fn link_index(socket: Fd, name: &[u8]) -> Result<u32, Errno> {
    /// `struct ifreq` as `SIOCGIFINDEX` uses it (netdevice(7)): 16 bytes of name, a union of 24.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        index: c_int,
        rest: [u8; 20],
    }
    let mut request = Request {
        name: [0; 16],
        index: 0,
        rest: [0; 20],
    };
    // The last byte stays zero: a longer name is cut off, and then there is no such link.
    for (to, from) in request.name.iter_mut().zip(name.iter().take(15)) {
        *to = *from;
    }
    // SAFETY: the request has the size and the layout of `struct ifreq`, the kernel writes to it.
    unsafe {
        call(
            libc::SYS_ioctl,
            socket.0 as usize,
            libc::SIOCGIFINDEX as usize,
            &raw mut request as usize,
            0,
            0,
        )
    }?;
    Ok(request.index as u32)
}

/// The host name of this UTS namespace.
pub fn set_hostname(name: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads `len` bytes.
    unsafe {
        call(
            libc::SYS_sethostname,
            name.as_ptr() as usize,
            name.len(),
            0,
            0,
            0,
        )
    }
}

/// The working directory.
pub fn change_directory(path: &CStr) -> Result<usize, Errno> {
    // SAFETY: the path is a C string.
    unsafe { call(libc::SYS_chdir, path.as_ptr() as usize, 0, 0, 0, 0) }
}

/// `prctl(2)` with numbers.
pub fn control(option: c_int, a: usize, b: usize) -> Result<usize, Errno> {
    call_by_value(libc::SYS_prctl, option as usize, a, b, 0, 0)
}

/// How many supplementary groups there are.
pub fn count_groups() -> Result<usize, Errno> {
    call_by_value(libc::SYS_getgroups, 0, 0, 0, 0, 0)
}

/// The supplementary groups, each as four bytes in host order.
pub fn set_groups(groups: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads as many numbers of four bytes as it is told, with whatever alignment.
    unsafe {
        call(
            libc::SYS_setgroups,
            groups.len() / 4,
            groups.as_ptr() as usize,
            0,
            0,
            0,
        )
    }
}

/// Real, effective and saved group.
pub fn set_group(gid: u32) -> Result<usize, Errno> {
    let gid = gid as usize;
    call_by_value(libc::SYS_setresgid, gid, gid, gid, 0, 0)
}

/// Real, effective and saved user. Clears the parent-death signal.
pub fn set_user(uid: u32) -> Result<usize, Errno> {
    let uid = uid as usize;
    call_by_value(libc::SYS_setresuid, uid, uid, uid, 0, 0)
}

/// The effective user.
pub fn effective_user() -> u32 {
    call_by_value(libc::SYS_geteuid, 0, 0, 0, 0, 0).unwrap_or(0) as u32
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
pub fn read_capabilities(sets: &mut Capabilities) -> Result<usize, Errno> {
    let mut header = [CAPABILITY_VERSION, 0];
    let (header, sets) = (&raw mut header as usize, &raw mut *sets as usize);
    // SAFETY: the header has two words, and for its version the kernel writes two blocks.
    unsafe { call(libc::SYS_capget, header, sets, 0, 0, 0) }
}

/// `capset(2)` of this process.
pub fn set_capabilities(sets: &Capabilities) -> Result<usize, Errno> {
    let mut header = [CAPABILITY_VERSION, 0];
    let (header, sets) = (&raw mut header as usize, &raw const *sets as usize);
    // SAFETY: the header has two words, and for its version the kernel reads two blocks.
    unsafe { call(libc::SYS_capset, header, sets, 0, 0, 0) }
}

/// What the kernel calls `struct kernel_sigaction`: 8 bytes of mask at its end, and at most 32 bytes in all.
type SignalAction = [usize; 4];
const MASK_BYTES: usize = 8;

/// A write to a pipe that nobody reads gives an error instead of a signal.
pub fn ignore_broken_pipes() {
    set_action(libc::SIGPIPE, libc::SIG_IGN);
}

/// No signal is blocked or ignored any more: what a command expects.
pub fn reset_signals() {
    for signal in 1..=64 {
        set_action(signal, libc::SIG_DFL);
    }
    let none = 0u64;
    let (how, mask) = (libc::SIG_SETMASK as usize, &raw const none as usize);
    // SAFETY: the mask has the 8 bytes that are said.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, how, mask, 0, MASK_BYTES, 0) };
}

fn set_action(signal: c_int, handler: libc::sighandler_t) {
    let action: SignalAction = [handler, 0, 0, 0];
    // SAFETY: a kernel_sigaction without handler code, flags or mask. KILL and STOP are refused, which is right.
    let _ = unsafe {
        call(
            libc::SYS_rt_sigaction,
            signal as usize,
            &raw const action as usize,
            0,
            MASK_BYTES,
            0,
        )
    };
}

/// Becomes another program; comes back only with an error.
pub fn execute(path: &CStr, arguments: Arguments) -> Errno {
    let environment = ENVIRONMENT.load(Ordering::Relaxed);
    // SAFETY: the path is a C string, both lists end with a null pointer.
    let result = unsafe {
        call(
            libc::SYS_execve,
            path.as_ptr() as usize,
            arguments.0 as usize,
            environment as usize,
            0,
            0,
        )
    };
    result.err().unwrap_or(Errno(0))
}

/// True when something has this name.
pub fn exists(path: &CStr) -> bool {
    // SAFETY: the path is a C string.
    let result = unsafe {
        call(
            libc::SYS_faccessat,
            libc::AT_FDCWD as usize,
            path.as_ptr() as usize,
            0,
            0,
            0,
        )
    };
    result.is_ok()
}

/// What supervising needs.
#[cfg(feature = "supervise")]
mod processes {
    use super::*;

    /// A process, or one of its kind in the kernel's calls: negative for a group, -1 for all.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Pid(pub i32);

    /// What came.
    pub struct Arrival {
        /// Which signal.
        pub signal: u8,
        /// True when the kernel sent it, as a terminal does, and no process.
        pub by_kernel: bool,
    }

    /// A copy of this process: `None` in the copy.
    pub fn fork() -> Result<Option<Pid>, Errno> {
        let flags = libc::SIGCHLD as usize;
        // SAFETY: without CLONE_VM this is fork(2): the copy has memory of its own, and there is one thread.
        let pid = unsafe { call(libc::SYS_clone, flags, 0, 0, 0, 0) }?;
        Ok(if pid == 0 {
            None
        } else {
            Some(Pid(pid as i32))
        })
    }

    /// Our own number.
    pub fn own_pid() -> Pid {
        Pid(call_by_value(libc::SYS_getpid, 0, 0, 0, 0, 0).unwrap_or(0) as i32)
    }

    /// Sends a signal. An error means that nobody is there to get it, or that we may not.
    pub fn send(to: Pid, signal: u8) -> Result<usize, Errno> {
        call_by_value(libc::SYS_kill, to.0 as usize, usize::from(signal), 0, 0, 0)
    }

    /// The next child that has ended, with its status; `Ok(None)` when all that there are live on.
    pub fn reap() -> Result<Option<(Pid, i32)>, Errno> {
        let mut status: c_int = 0;
        let (any, flags) = (-1i32 as usize, libc::WNOHANG as usize);
        // SAFETY: the kernel writes an int; no usage is asked for.
        let pid =
            retry(|| unsafe { call(libc::SYS_wait4, any, &raw mut status as usize, flags, 0, 0) })?;
        Ok(if pid == 0 {
            None
        } else {
            Some((Pid(pid as i32), status))
        })
    }

    /// Blocks every signal that can be blocked, so that they come by [`wait_for_signal`] alone.
    pub fn block_signals() {
        set_mask(!0);
    }

    /// No signal is blocked, and none ignored.
    pub fn unblock_signals() {
        reset_signals();
    }

    fn set_mask(mask: u64) {
        let (how, mask) = (libc::SIG_SETMASK as usize, &raw const mask as usize);
        // SAFETY: the mask has the 8 bytes that are said.
        let _ = unsafe { call(libc::SYS_rt_sigprocmask, how, mask, 0, MASK_BYTES, 0) };
    }

    /// Takes the next signal of a set; waits for it, but no longer than so many milliseconds.
    pub fn wait_for_signal(set: u64, patience: Option<u64>) -> Result<Arrival, Errno> {
        // siginfo_t has 128 bytes: number, errno, code first (sigaction(2)).
        let mut information = [0i32; 32];
        let milliseconds = patience.unwrap_or(0);
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: (milliseconds % 1000 * 1_000_000) as c_long,
        };
        time.tv_sec += (milliseconds / 1000) as i64;
        let time = if patience.is_some() {
            &raw const time as usize
        } else {
            0
        };
        let (set, information_at) = (&raw const set as usize, &raw mut information as usize);
        // SAFETY: the set has the 8 bytes that are said, the information its 128, the time is a timespec or null.
        let signal = unsafe {
            call(
                libc::SYS_rt_sigtimedwait,
                set,
                information_at,
                time,
                MASK_BYTES,
                0,
            )
        }?;
        let [_, _, code, ..] = information;
        Ok(Arrival {
            signal: signal as u8,
            by_kernel: code == libc::SI_KERNEL,
        })
    }

    /// Milliseconds of the clock that no one sets.
    pub fn now() -> u64 {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let clock = libc::CLOCK_MONOTONIC as usize;
        // SAFETY: the kernel writes a timespec.
        let _ = unsafe {
            call(
                libc::SYS_clock_gettime,
                clock,
                &raw mut time as usize,
                0,
                0,
                0,
            )
        };
        time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
    }

    /// Makes a process the leader of a group of its own.
    pub fn set_group_leader(pid: Pid) {
        let _ = call_by_value(libc::SYS_setpgid, pid.0 as usize, 0, 0, 0, 0);
    }

    /// Makes us the leader of a session and a group of our own.
    pub fn start_session() {
        let _ = call_by_value(libc::SYS_setsid, 0, 0, 0, 0, 0);
    }

    /// True when standard input is our controlling terminal and we lead its session.
    pub fn leads_terminal() -> bool {
        let mut session: c_int = 0;
        // SAFETY: the kernel writes an int.
        let asked = unsafe { terminal_call(libc::TIOCGSID as usize, &raw mut session as usize) };
        asked.is_ok() && Pid(session) == own_pid()
    }

    /// True when standard input is our controlling terminal.
    pub fn has_terminal() -> bool {
        let mut group: c_int = 0;
        // SAFETY: the kernel writes an int.
        unsafe { terminal_call(libc::TIOCGPGRP as usize, &raw mut group as usize) }.is_ok()
    }

    /// Gives the controlling terminal up. Its foreground group gets HUP and CONT.
    pub fn release_terminal() {
        // SAFETY: this request takes no memory.
        let _ = unsafe { terminal_call(libc::TIOCNOTTY as usize, 0) };
    }

    /// Makes standard input our controlling terminal, with us in the foreground.
    pub fn take_terminal() {
        // SAFETY: this request takes a number.
        let _ = unsafe { terminal_call(libc::TIOCSCTTY as usize, 0) };
    }

    /// # Safety
    /// `argument` is what ioctl_tty(2) says for the request.
    unsafe fn terminal_call(request: usize, argument: usize) -> Result<usize, Errno> {
        // SAFETY: as the caller promises.
        unsafe { call(libc::SYS_ioctl, 0, request, argument, 0, 0) }
    }

    /// Closes every descriptor but the first three (since Linux 5.9).
    pub fn close_descriptors() {
        let _ = call_by_value(libc::SYS_close_range, 3, u32::MAX as usize, 0, 0, 0);
    }

    /// Writes if that does not block: a pipe that is ready has room for 4,096 bytes (pipe(7)), and we write fewer.
    pub fn write_if_ready(fd: Fd, bytes: &[u8]) {
        let mut entry = libc::pollfd {
            fd: fd.0,
            events: libc::POLLOUT,
            revents: 0,
        };
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: one pollfd, which the kernel writes to, and one timespec; no signal mask.
        let ready = unsafe {
            call(
                libc::SYS_ppoll,
                &raw mut entry as usize,
                1,
                &raw const now as usize,
                0,
                0,
            )
        };
        if ready == Ok(1) && entry.revents & libc::POLLOUT != 0 {
            let _ = write_all(fd, bytes);
        }
    }

    /// Entries of an open directory, as getdents64(2) packs them; 0 is the end.
    pub fn read_directory(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
        // SAFETY: the kernel writes at most `len` bytes.
        unsafe { call(libc::SYS_getdents64, fd.0 as usize, start, len, 0, 0) }
    }

    /// Replaces a variable of the environment by `text`, which is `NAME=VALUE`.
    pub fn replace_variable(name: &[u8], text: &'static CStr) {
        let mut at = ENVIRONMENT.load(Ordering::Relaxed);
        let mut variables = Arguments(at);
        while let Some(variable) = variables.take() {
            if variable
                .to_bytes()
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(b"="))
            {
                // SAFETY: `at` is the entry that `take` has just read; the list is on our own stack, and writable.
                unsafe { *at = text.as_ptr() };
            }
            // SAFETY: the entry was not the null pointer that ends the list.
            at = unsafe { at.add(1) };
        }
    }
}

#[cfg(feature = "supervise")]
pub use processes::*;
