//! Errors: one sentence `verb object: cause; cure`, put together in a buffer at the end, since nothing is allocated.

use hawser::errno;
use hawser::protocol::Fault;

use crate::sys::Errno;

/// Exit code: we failed, before the command ran.
pub const OURS: u8 = 125;
/// Exit code: the command was found but cannot be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// Exit code: the command was not found.
pub const NOT_FOUND: u8 = 127;

/// Why the command does not run.
pub struct Failure<'a> {
    /// The exit code.
    pub code: u8,
    /// What was tried: `add address`.
    pub verb: &'static str,
    /// On what: `172.19.0.2/16`.
    pub object: &'a [u8],
    /// Where, with the word before it: `(" to ", "eth0")`.
    pub place: (&'static str, &'a str),
    /// What came in between.
    pub cause: Cause<'a>,
    /// What helps; empty when there is no usual cure.
    pub cure: &'static str,
}

/// What came in between.
pub enum Cause<'a> {
    /// The kernel refused.
    Errno(Errno),
    /// The kernel refused with a sentence of its own (netlink's extended acknowledgement).
    Kernel(Errno, &'a [u8]),
    /// The config message is wrong.
    Fault(Fault<'a>),
    /// Something else.
    Text(&'static str),
}

impl<'a> Failure<'a> {
    /// A system call failed.
    pub fn system(verb: &'static str, object: &'a [u8], errno: Errno) -> Self {
        Failure {
            code: OURS,
            verb,
            object,
            place: ("", ""),
            cause: Cause::Errno(errno),
            cure: "",
        }
    }

    /// Something else failed.
    pub fn text(verb: &'static str, object: &'a [u8], cause: &'static str) -> Self {
        Failure {
            code: OURS,
            verb,
            object,
            place: ("", ""),
            cause: Cause::Text(cause),
            cure: "",
        }
    }

    /// The same, with a cure.
    pub fn with_cure(self, cure: &'static str) -> Self {
        Failure { cure, ..self }
    }
}

/// A line in a buffer; what does not fit is left out.
pub struct Sentence<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Sentence<'a> {
    /// An empty one.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Sentence { buffer, len: 0 }
    }

    /// Text of ours.
    pub fn push(&mut self, text: &str) {
        self.push_bytes(text.as_bytes());
    }

    /// Text of others: a control character could forge a line of its own.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        // The last byte is kept for the newline.
        let room = self.buffer.len().saturating_sub(self.len + 1);
        let space = self.buffer.get_mut(self.len..).unwrap_or(&mut []);
        let count = bytes.len().min(room);
        for (to, &from) in space.iter_mut().zip(bytes.iter().take(count)) {
            *to = if from.is_ascii_control() { b'?' } else { from };
        }
        self.len += count;
    }

    /// A decimal number.
    pub fn push_number(&mut self, number: u32) {
        let mut digits = [b'0'; 10];
        let mut rest = number;
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            used += 1;
            if rest == 0 {
                break;
            }
        }
        self.push_bytes(digits.get(10 - used..).unwrap_or(&[]));
    }

    /// The sentence of an error.
    pub fn push_failure(&mut self, failure: &Failure<'_>) {
        self.push(failure.verb);
        if !failure.object.is_empty() {
            self.push(" ");
            self.push_bytes(failure.object);
        }
        self.push(failure.place.0);
        self.push(failure.place.1);
        self.push(": ");
        match failure.cause {
            Cause::Errno(errno) => self.push_errno(errno),
            Cause::Kernel(errno, text) => {
                self.push_errno(errno);
                if !text.is_empty() {
                    self.push(": ");
                    self.push_bytes(text);
                }
            }
            Cause::Fault(fault) => self.push_fault(fault),
            Cause::Text(text) => self.push(text),
        }
        if !failure.cure.is_empty() {
            self.push("; ");
            self.push(failure.cure);
        }
    }

    fn push_errno(&mut self, Errno(number): Errno) {
        match errno::describe(number) {
            Some((name, words)) => {
                self.push(words);
                self.push(" (");
                self.push(name);
                self.push(")");
            }
            None => {
                self.push("errno ");
                self.push_number(number.unsigned_abs());
            }
        }
    }

    fn push_fault(&mut self, fault: Fault<'_>) {
        self.push("line ");
        self.push_number(fault.line as u32);
        if fault.word > 0 {
            self.push(", word ");
            self.push_number(fault.word as u32);
        }
        if !fault.text.is_empty() {
            self.push(" `");
            self.push_bytes(fault.text.as_bytes());
            self.push("`");
        }
        self.push(": ");
        self.push(fault.cause);
    }

    /// The line with its newline.
    pub fn finish(self) -> &'a [u8] {
        let Sentence { buffer, len } = self;
        if let Some(end) = buffer.get_mut(len) {
            *end = b'\n';
        }
        buffer.get(..=len).unwrap_or(&[])
    }
}
