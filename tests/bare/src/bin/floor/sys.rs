//! The only file of this program with `unsafe`: its entry, and system calls.

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null;

use super::message::Batch;

/// What could not be done, and the errno.
pub struct Fail(pub &'static str, pub i32);

/// C's entry: without the start of Rust's runtime, which has no part in a floor.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    // SAFETY: C's start gives `count` pointers to strings that live as long as the process.
    let words: Vec<&CStr> = unsafe {
        let count = usize::try_from(count).unwrap_or_default();
        let words = std::slice::from_raw_parts(words, count);
        words.iter().map(|word| CStr::from_ptr(*word)).collect()
    };
    super::run(&words).unwrap_or_else(|Fail(what, errno)| {
        let error = std::io::Error::from_raw_os_error(errno);
        let line = format!("floor: {what}: {error}\n");
        // SAFETY: the string has as many bytes as are written.
        unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
        125
    })
}

fn check(what: &'static str, result: i64) -> Result<i32, Fail> {
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(Fail(
            what,
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        )),
    }
}

fn owned(what: &'static str, result: i64) -> Result<OwnedFd, Fail> {
    // SAFETY: a descriptor that the kernel has just given, and nobody else has.
    check(what, result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number of a link.
pub fn link_index(name: &CStr) -> Result<i32, Fail> {
    // SAFETY: the string ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    check("find BRIDGE", i64::from(index) - i64::from(index == 0))
}

/// A pipe: its reading end, its writing end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Fail> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two numbers into the array.
    check("make a pipe", unsafe {
        libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC).into()
    })?;
    // SAFETY: as above.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// A child in new namespaces: its pid, or None for the child itself.
pub fn clone() -> Result<Option<i32>, Fail> {
    let namespaces =
        libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: all of its fields are integers, for which zero is a value; the kernel reads as many bytes as it is told. The
    // child has a copy of the one thread's memory and goes on like after fork.
    let pid = unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = namespaces as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    let pid = check("clone", pid)?;
    Ok((pid > 0).then_some(pid))
}

/// The child begins on another processor than this one, where there is one. Gives all that it may run on in the end.
pub fn begin_elsewhere(child: i32) -> Result<libc::cpu_set_t, Fail> {
    // SAFETY: a set of bits, for which zero is a value; the kernel fills it.
    let (all, here) = unsafe {
        let mut all: libc::cpu_set_t = std::mem::zeroed();
        let done = libc::sched_getaffinity(0, size_of_val(&all), &raw mut all);
        check("look for processors", done.into())?;
        (all, libc::sched_getcpu())
    };
    let mut others = all;
    // SAFETY: the set has a bit for each processor.
    unsafe { libc::CPU_CLR(here as usize, &mut others) };
    // With a single processor this is refused, and nothing is lost.
    let _ = run_on(child, &others);
    Ok(all)
}

/// The child may run on these processors.
pub fn run_on(child: i32, processors: &libc::cpu_set_t) -> Result<(), Fail> {
    // SAFETY: the kernel reads a set of bits.
    let done = unsafe { libc::sched_setaffinity(child, size_of_val(processors), processors) };
    check("choose processors", done.into()).map(drop)
}

/// A descriptor of this process.
pub fn this_process() -> Result<OwnedFd, Fail> {
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid(), 0) };
    owned("open this process", fd)
}

/// The number of this process.
pub fn pid() -> i32 {
    // SAFETY: no arguments, and it cannot fail.
    unsafe { libc::getpid() }
}

/// This process goes into a new network namespace. Its sockets stay where they are.
pub fn new_network() -> Result<(), Fail> {
    // SAFETY: an integer.
    check("make a network namespace", unsafe {
        libc::unshare(libc::CLONE_NEWNET).into()
    })
    .map(drop)
}

/// Into the network namespace of a process.
pub fn join_network(of: &OwnedFd) -> Result<(), Fail> {
    // SAFETY: a descriptor and an integer.
    let done = unsafe { libc::setns(of.as_raw_fd(), libc::CLONE_NEWNET) };
    check("join a network namespace", done.into()).map(drop)
}

/// mount(2), without data.
pub fn mount(from: &CStr, to: &CStr, kind: Option<&CStr>, flags: u64) -> Result<(), Fail> {
    let kind = kind.map_or(null(), CStr::as_ptr);
    // SAFETY: all strings end with a zero byte; null is allowed for the kind and the data.
    let done = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind, flags, null()) };
    check("mount", done.into()).map(drop)
}

/// The working directory.
pub fn enter_directory(path: &CStr) -> Result<(), Fail> {
    // SAFETY: the string ends with a zero byte.
    check("enter ROOTFS", unsafe { libc::chdir(path.as_ptr()).into() }).map(drop)
}

/// A character device for everybody.
pub fn make_device(path: &CStr, major: u32, minor: u32) -> Result<(), Fail> {
    let device = libc::makedev(major, minor);
    // SAFETY: the string ends with a zero byte.
    let done = unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, device) };
    check("make a device", done.into()).map(drop)
}

/// The working directory becomes the root, and the old one goes.
pub fn pivot() -> Result<(), Fail> {
    let here = c".".as_ptr();
    // SAFETY: the string ends with a zero byte.
    unsafe {
        check(
            "pivot_root",
            libc::syscall(libc::SYS_pivot_root, here, here),
        )?;
        check(
            "unmount the old root",
            libc::umount2(here, libc::MNT_DETACH).into(),
        )
        .map(drop)
    }
}

/// The host name of the new namespace.
pub fn set_host_name(name: &str) -> Result<(), Fail> {
    // SAFETY: the kernel reads as many bytes as the string has.
    let done = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    check("set the host name", done.into()).map(drop)
}

/// The word of the other side.
pub fn read_byte(from: &OwnedFd) -> Result<(), Fail> {
    let mut byte = 0_u8;
    // SAFETY: one byte is read into one byte.
    let got = unsafe { libc::read(from.as_raw_fd(), (&raw mut byte).cast(), 1) };
    check("wait for the link", got as i64 - i64::from(got == 0)).map(drop)
}

/// Its counterpart.
pub fn write_byte(to: &OwnedFd) -> Result<(), Fail> {
    // SAFETY: one byte is written.
    let done = unsafe { libc::write(to.as_raw_fd(), c"g".as_ptr().cast(), 1) };
    check("say go", done as i64).map(drop)
}

/// Not truncated: a truncation makes ext4 flush.
pub fn write_file(path: &CStr, text: &[u8]) -> Result<(), Fail> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: the string ends with a zero byte, and as many bytes are written as there are.
    unsafe {
        let file = owned(
            "open resolv.conf",
            libc::open(path.as_ptr(), flags, 0o644).into(),
        )?;
        let done = libc::write(file.as_raw_fd(), text.as_ptr().cast(), text.len());
        check("write resolv.conf", done as i64).map(drop)
    }
}

/// Becomes the command; what comes back is why not.
pub fn exec(command: &[&CStr]) -> Fail {
    let mut words: Vec<*const c_char> = command.iter().map(|word| word.as_ptr()).collect();
    words.push(null());
    // SAFETY: the list ends with null, each string with a zero byte.
    unsafe { libc::execv(words[0], words.as_ptr()) };
    Fail(
        "execute COMMAND",
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
    )
}

/// The exit code of a child.
pub fn wait(child: i32) -> Result<i32, Fail> {
    let mut status = 0;
    // SAFETY: the kernel writes one number.
    check("wait for COMMAND", unsafe {
        libc::waitpid(child, &raw mut status, 0).into()
    })?;
    Ok(if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    })
}

/// An rtnetlink socket.
pub struct Socket(OwnedFd);

impl Socket {
    /// In the present network namespace.
    pub fn open() -> Result<Self, Fail> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: three integers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        owned("open rtnetlink", fd.into()).map(Self)
    }

    /// Sends a batch and takes the answer: an error, or what the last message asks for.
    pub fn request(&self, batch: &Batch) -> Result<(), Fail> {
        let mut answer = [0_u8; 8192];
        let fd = self.0.as_raw_fd();
        // SAFETY: as many bytes are sent as there are, and at most as many are received as there is room for.
        let length = unsafe {
            let sent = libc::send(fd, batch.0.as_ptr().cast(), batch.0.len(), 0);
            check("send to rtnetlink", sent as i64)?;
            libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0)
        };
        check("hear from rtnetlink", length as i64)?;
        // struct nlmsghdr: its type; then the error of struct nlmsgerr. An error is not followed by another answer of this batch.
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        if i32::from(kind) == libc::NLMSG_ERROR && error != 0 {
            return Err(Fail("configure a link", -error));
        }
        Ok(())
    }
}
