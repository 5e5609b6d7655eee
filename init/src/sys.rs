//! The kernel, and with its parts the only place of `unsafe`: system calls as functions that take and give Rust's own
//! types.
//!
//! The calls are made directly, and for musl the program starts at a `_start` of its own: libc's start, its errno and
//! its wrappers (cancellation points, setresuid in all threads) serve programs that have threads and stdio, and cost
//! 3 KB and two pages of memory here.

use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use hawser::address::cut;
use hawser::buffer::Buffer;
use hawser::protocol::LIMIT;

mod call;
mod file;
mod privilege;
mod process;
mod signal;
mod socket;
mod terminal;

use call::{call, call_by_value, retry};
pub use file::*;
pub use privilege::*;
pub use process::*;
pub use signal::*;
pub use socket::*;
pub use terminal::*;

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
    /// Requests to the kernel, and the text of files: the longest message makes at most 175 KiB of requests (13 bytes of text, `address ::/0`
    /// and its newline, make an address and a route of 140).
    pub batch: [u8; 192 * 1024],
    /// What the kernel answers; a message of a dump is at most this long (NLMSG_GOODSIZE is 8 KiB, what it has in store 32).
    pub reply: [u8; 32 * 1024],
    /// A path to execute, an error's sentence.
    pub text: [u8; 4096],
}

static TAKEN: AtomicBool = AtomicBool::new(false);
static mut BUFFERS: Buffers = Buffers {
    message: [0; LIMIT + 64],
    batch: [0; 192 * 1024],
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
    Some(find_variable(name)?.1)
}

/// Its entry and its value.
#[inline(never)]
fn find_variable(name: &[u8]) -> Option<(*mut *const c_char, &'static [u8])> {
    let mut variables = Arguments(ENVIRONMENT.load(Ordering::Relaxed));
    loop {
        let entry = variables.0.cast_mut();
        let (found, value) = cut(variables.take()?.to_bytes(), b'=');
        if found == name {
            return Some((entry, value?));
        }
    }
}

/// A C string without its first `count` bytes; `None` when it is shorter.
#[inline(always)]
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

// What the compiler calls for bytes: libc's are five times as long, for speed that nothing here needs.
#[cfg(all(target_env = "musl", panic = "abort", target_arch = "x86_64"))]
core::arch::global_asm!(
    ".globl memcpy, bcmp, strlen",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "bcmp:",
    "mov rcx, rdx",
    "xor eax, eax",
    "repe cmpsb",
    "setne al",
    "ret",
    "strlen:",
    "xor eax, eax",
    "or rcx, -1",
    "repne scasb",
    "sub rax, rcx",
    "sub rax, 2",
    "ret",
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

/// Replaces a variable of the environment by `text`, which is `NAME=VALUE`.
pub fn replace_variable(name: &[u8], text: &'static CStr) {
    if let Some((entry, _)) = find_variable(name) {
        // SAFETY: it is an entry of the list, which is on our own stack, and writable.
        unsafe { *entry = text.as_ptr() };
    }
}
