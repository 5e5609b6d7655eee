//! Errors: one sentence `verb object: cause; cure`, said in one place, which ends the program.
//!
//! There is nothing to undo and nobody to hand an error up to: what init has set up dies with its namespaces. So a step
//! that fails ends here, and steps have no `Result`. Nothing is allocated: the sentence is put together in one buffer.

use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering::Relaxed};

use hawser::protocol::{ERROR, Fault};
use hawser::{errno, signal};

use crate::machine;
use crate::sys::{self, Errno, Fd};

/// Exit code: we failed, before the command ran.
pub const OURS: u8 = 125;
/// Exit code: the command was found but cannot be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// Exit code: the command was not found.
pub const NOT_FOUND: u8 = 127;

/// Where the sentence begins: `error 125 ` or `init: ` fits before it.
const START: usize = 16;
/// Of somebody else's words at most: the cure behind them must still fit.
const OBJECT: usize = 256;

// Atomics because a buffer of the program that safe code can write to is made of them; there is one thread.
static SENTENCE: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];
/// Where it ends.
static LEN: AtomicUsize = AtomicUsize::new(0);

const NAME: &str = "init: ";

/// One more than the number of the pipe to the helper; 0 for none. (What begins as zero costs no byte of the file.)
static STATUS: AtomicI32 = AtomicI32::new(0);

/// From now on the helper is told too.
pub fn tell_errors_to(status: Fd) {
    STATUS.store(status.0 + 1, Relaxed);
}

/// Text of ours.
#[inline(always)]
pub fn push(text: &str) {
    push_bytes(text.as_bytes());
}

/// Text of others: a control character in it could forge a line of its own.
#[inline(never)]
pub fn push_bytes(bytes: &[u8]) {
    for &byte in bytes.iter().take(OBJECT) {
        push_byte(if byte.is_ascii_control() { b'?' } else { byte });
    }
}

/// The last byte of the space is kept for the end of the line.
#[inline(never)]
fn push_byte(byte: u8) {
    let len = LEN.load(Relaxed);
    if let Some(space) = SENTENCE.get(len) {
        space.store(byte, Relaxed);
        LEN.store((len + 1).min(SENTENCE.len() - 1), Relaxed);
    }
}

/// A decimal number.
#[inline(never)]
pub fn push_number(number: u32) {
    let mut scale = 1_000_000_000;
    while scale > 0 {
        if number >= scale || scale == 1 {
            push_byte(b'0' + (number / scale % 10) as u8);
        }
        scale /= 10;
    }
}

/// Begins the sentence: `verb object`.
#[inline(never)]
pub fn begin(verb: &str, object: &[u8]) {
    LEN.store(START, Relaxed);
    push(verb);
    if !object.is_empty() {
        push(" ");
        push_bytes(object);
    }
}

/// Adds a cause that the kernel gave as a number.
#[inline(never)]
pub fn push_errno(Errno(number): Errno) {
    push(": ");
    match errno::describe(number) {
        Some((name, words)) => {
            push_bytes(words);
            push(" (");
            push_bytes(name);
            push(")");
        }
        None => {
            push("errno ");
            push_number(number.unsigned_abs());
        }
    }
}

/// Adds a cure, if there is one.
#[inline(always)]
pub fn push_cure(cure: &str) {
    if !cure.is_empty() {
        push("; ");
        push(cure);
    }
}

/// Ends with `verb object: cause`, where the cause may have a cure behind a semicolon.
#[inline(never)]
pub fn fail(verb: &str, object: &[u8], cause: &str) -> ! {
    begin(verb, object);
    push(": ");
    push(cause);
    end(OURS)
}

/// Ends with `verb object: line 3, word 2 ...`
pub fn fail_by_fault(verb: &str, object: &[u8], fault: &Fault<'_>) -> ! {
    begin(verb, object);
    if fault.line > 0 {
        push(": line ");
        push_number(fault.line as u32);
    }
    if fault.word > 0 {
        push(", word ");
        push_number(fault.word as u32);
    }
    if !fault.text.0.is_empty() {
        push(" `");
        push_bytes(fault.text.0);
        push("`");
    }
    let (before, behind) = fault.around();
    push(": ");
    push(before);
    push(fault.cause);
    push(behind);
    end(OURS)
}

/// What a step is called and, behind a semicolon, what usually helps when it fails: `chdir; the user must ...`.
pub type Step = &'static str;

/// A system call that has to succeed.
pub trait OrFail<T> {
    /// The value; or the end, with `verb object: words (ERRNO); cure`.
    fn or_fail(self, step: Step, object: &[u8]) -> T;
}

impl<T> OrFail<T> for Result<T, Errno> {
    fn or_fail(self, step: Step, object: &[u8]) -> T {
        match self {
            Ok(value) => value,
            Err(errno) => fail_by_errno(step, object, errno, OURS),
        }
    }
}

/// Ends with `verb object: words (ERRNO); cure`.
#[inline(never)]
pub fn fail_by_errno(step: Step, object: &[u8], errno: Errno, code: u8) -> ! {
    complain(step, object, errno);
    end(code)
}

/// The handler of a signal that comes before the command runs.
pub extern "C" fn interrupted(signal: c_int) -> ! {
    begin("wait for the network", b"");
    push(": ended by SIG");
    push_bytes(signal::name(signal as u8));
    end(128 + signal as u8)
}

/// Makes the sentence `verb object: words (ERRNO); cure`.
#[inline(never)]
pub fn complain(step: Step, object: &[u8], errno: Errno) {
    let semicolon = step
        .bytes()
        .position(|byte| byte == b';')
        .unwrap_or(step.len());
    begin(step.get(..semicolon).unwrap_or(step), object);
    push_errno(errno);
    push(step.get(semicolon..).unwrap_or(""));
}

/// Says the sentence, to the helper on the status pipe and to people on standard error, and ends the program.
#[inline(never)]
pub fn end(code: u8) -> ! {
    if let Some(end) = machine::give_up() {
        push("; ");
        push_bytes(end);
    }
    push_byte(b'\n');
    let end = LEN.load(Relaxed);
    let status = STATUS.load(Relaxed);
    if status > 0 {
        // `error `, the code and a space.
        let start = START - ERROR.len() - 5;
        LEN.store(start, Relaxed);
        push(ERROR);
        push(" ");
        push_number(u32::from(code));
        push(" ");
        // Nothing is left to be done when nobody listens.
        let _ = sys::write_all(Fd(status - 1), line(start, end));
    }
    // A command was to be executed, which expects the signal.
    sys::ignore_broken_pipes();
    let _ = sys::write_all(sys::STDERR, line_for_people(end));
    machine::leave(code)
}

/// Says the sentence on standard error and goes on, if that does not block: nobody reading must not stop PID 1.
#[inline(never)]
pub fn note() {
    push_byte(b'\n');
    sys::write_if_ready(sys::STDERR, line_for_people(LEN.load(Relaxed)));
}

#[inline(never)]
fn line_for_people(end: usize) -> &'static [u8] {
    let start = START - NAME.len();
    LEN.store(start, Relaxed);
    push(NAME);
    line(start, end)
}

/// Written at once, so that the line stays whole among the lines of others.
fn line(start: usize, end: usize) -> &'static [u8] {
    sys::bytes_of(SENTENCE.get(start..end).unwrap_or(&[]))
}
