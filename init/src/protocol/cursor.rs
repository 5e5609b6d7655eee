//! The words of a line, and the complaint about the last of them.
//!
//! A parser says what it expects before it looks ([`Cursor::want`]): when it gives `None`, the complaint is ready.

use super::{Fault, Kind, Text};

/// The words of one line, and the complaint about the last of them.
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    index: usize,
    last: &'a [u8],
    complaint: Option<Kind>,
    cause: &'static str,
}

impl<'a> Cursor<'a> {
    #[inline(never)]
    pub(super) fn new(text: &'a [u8]) -> Self {
        Cursor {
            text,
            at: 0,
            index: 0,
            last: &[],
            complaint: None,
            cause: "",
        }
    }

    /// What no word was made of yet, without the spaces around it.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or(&[]).trim_ascii()
    }

    /// What is left belongs to the last word.
    pub(super) fn take_rest(&mut self) {
        self.at = self.text.len();
    }

    /// The complaint, about this line of the message.
    #[inline(never)]
    pub(super) fn fault(&self, line: usize) -> Fault<'a> {
        let kind = self.complaint.unwrap_or(Kind::Because);
        Fault {
            line,
            word: self.index,
            text: Text(self.last),
            kind,
            cause: self.cause,
        }
    }

    /// The next word, which should be `what`; `None` with a complaint when it is missing.
    #[inline(never)]
    pub(super) fn expect(&mut self, what: &'static str) -> Option<&'a [u8]> {
        self.cause = what;
        let word = self.next();
        if word.is_none() {
            self.index += 1;
            self.last = &[];
            self.complaint = Some(Kind::Missing);
        } else {
            self.complaint = Some(Kind::Not);
        }
        word
    }

    /// The value of the next word, which should be `what`.
    pub(super) fn want<T>(
        &mut self,
        what: &'static str,
        parse: impl FnOnce(&'a [u8]) -> Option<T>,
    ) -> Option<T> {
        parse(self.expect(what)?)
    }

    /// Complains about the word that came last.
    #[inline(never)]
    pub(super) fn refuse(&mut self, cause: &'static str) {
        self.complaint = Some(Kind::Because);
        self.cause = cause;
    }

    /// Complains about the line as a whole.
    pub(super) fn refuse_line<T>(&mut self, cause: &'static str) -> Option<T> {
        self.index = 0;
        self.last = &[];
        self.refuse(cause);
        None
    }

    /// Whether there is something to complain about.
    pub(super) fn is_refused(&self) -> bool {
        self.complaint.is_some()
    }

    /// Complains that the message is not all there.
    pub(super) fn refuse_end(&mut self) -> Option<()> {
        self.cause = "the message has no whole `end` line";
        self.complaint = Some(Kind::Unfinished);
        None
    }

    /// Complains about the line's first word.
    pub(super) fn refuse_keyword(&mut self, cause: &'static str) -> Option<()> {
        self.at = 0;
        self.index = 0;
        self.next();
        self.refuse(cause);
        None
    }

    pub(super) fn finish(&mut self) -> Option<()> {
        self.refuse("one word too many");
        if self.next().is_some() {
            None
        } else {
            Some(())
        }
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = &'a [u8];

    #[inline(never)]
    fn next(&mut self) -> Option<&'a [u8]> {
        let bytes = self.text;
        let mut at = self.at;
        while bytes.get(at).is_some_and(|&byte| is_space(byte)) {
            at += 1;
        }
        let start = at;
        while bytes.get(at).is_some_and(|&byte| !is_space(byte)) {
            at += 1;
        }
        self.at = at;
        if start == at {
            return None;
        }
        self.index += 1;
        self.last = self.text.get(start..at)?;
        Some(self.last)
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}
