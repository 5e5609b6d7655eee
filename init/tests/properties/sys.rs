//! A kernel for the real command line parser of init (`options.rs` and what it needs), which runs inside a test: what it says is kept, and where it
//! would end the process it unwinds.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU8;

/// As in init.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);
/// As in init.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub i32);
/// As in init.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pid(pub i32);

pub const STDERR: Fd = Fd(2);

/// Descriptors below this one are open.
pub const OPEN: i32 = 1000;

/// Words that live as long as the parser runs.
#[derive(Clone, Copy)]
pub struct Arguments(&'static [&'static CStr]);

impl Arguments {
    pub fn first(&self) -> Option<&'static CStr> {
        self.0.first().copied()
    }

    pub fn take(&mut self) -> Option<&'static CStr> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Ending<T> {
    /// What the parser gave, or the exit code with which it would have ended.
    pub result: Result<T, u8>,
    /// What it has written, to each descriptor in turn.
    pub written: Vec<(i32, Vec<u8>)>,
    /// How it would have ended the machine.
    pub machine: Option<i32>,
}

thread_local! {
    static WRITTEN: RefCell<Vec<(i32, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
    static MACHINE: Cell<Option<i32>> = const { Cell::new(None) };
    static PID: Cell<i32> = const { Cell::new(0) };
}

struct Exit(u8);

/// Runs the parser on these words, as this process.
pub fn run<T>(words: &[&[u8]], pid: i32, parser: impl FnOnce(Arguments) -> T) -> Ending<T> {
    WRITTEN.take();
    MACHINE.take();
    PID.set(pid);
    let owned: Vec<CString> = words
        .iter()
        .map(|word| CString::new(*word).expect("words without NUL"))
        .collect();
    let borrowed: Vec<&CStr> = owned.iter().map(CString::as_c_str).collect();
    // SAFETY: `T` is made by the callers of values, and the parser is over before `borrowed` and `owned` are dropped.
    let words: &'static [&'static CStr] = unsafe { std::mem::transmute(&borrowed[..]) };
    let result =
        catch_unwind(AssertUnwindSafe(|| parser(Arguments(words)))).map_err(
            |payload| match payload.downcast::<Exit>() {
                Ok(exit) => exit.0,
                Err(other) => resume_unwind(other),
            },
        );
    Ending {
        result,
        written: WRITTEN.take(),
        machine: MACHINE.take(),
    }
}

pub fn exit(code: u8) -> ! {
    // Not a panic: no hook sees it.
    resume_unwind(Box::new(Exit(code)))
}

pub fn end_machine(how: i32) {
    MACHINE.set(Some(how));
}

pub fn own_pid() -> Pid {
    Pid(PID.get())
}

pub fn ignore_broken_pipes() {}

pub fn write_all(fd: Fd, bytes: &[u8]) -> Result<(), Errno> {
    WRITTEN.with_borrow_mut(|written| written.push((fd.0, bytes.to_vec())));
    Ok(())
}

pub fn write_if_ready(fd: Fd, bytes: &[u8]) {
    let _ = write_all(fd, bytes);
}

pub fn bytes_of(bytes: &[AtomicU8]) -> &[u8] {
    // SAFETY: as in init; the one test of the parser that runs at a time is what changes them.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

pub fn suffix(text: &'static CStr, count: usize) -> Option<&'static CStr> {
    let rest = text.to_bytes_with_nul().get(count..)?;
    CStr::from_bytes_with_nul(rest).ok()
}

pub fn variable(_: &[u8]) -> Option<&'static [u8]> {
    None
}

pub fn set_close_on_exec(fd: Fd) -> Result<u32, Errno> {
    if fd.0 < OPEN {
        Ok(0)
    } else {
        Err(Errno(libc::EBADF))
    }
}

/// There is no console.
pub fn open_inherited(_: &CStr) -> Result<Fd, Errno> {
    Err(Errno(libc::ENOENT))
}

// What the parser does not come to.

pub fn exists(_: &CStr) -> bool {
    unreachable!()
}

pub fn mount(_: &CStr, _: &CStr) -> Result<u32, Errno> {
    unreachable!()
}

pub fn close(_: Fd) {
    unreachable!()
}
