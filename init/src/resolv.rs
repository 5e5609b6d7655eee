//! resolv.conf and hosts.
//!
//! Both are written in place: the file may be bound over another one, so that nothing can be renamed over it, and it is
//! not truncated when it is opened, since a truncate flushes the old blocks (0.3 ms on ext4).

use core::ffi::CStr;

use hawser::protocol::{Entry, Fact, Message};

use crate::error::{OrFail, Step};
use crate::sys::{self, Errno, Fd};

const RESOLV_CONF: &CStr = c"/etc/resolv.conf";
const HOSTS: &CStr = c"/etc/hosts";

/// Writes each file that the message has a line for.
pub fn write_files(message: &Message<'_>, text: &mut [u8]) {
    write_lines(RESOLV_CONF, message, text, |entry| match entry.fact {
        Fact::Nameserver(_) => Some(("nameserver ", entry.object())),
        Fact::Search(_) => Some(("search ", entry.object())),
        Fact::Option(_) => Some(("options ", entry.object())),
        _ => None,
    });
    write_lines(HOSTS, message, text, |entry| match entry.fact {
        Fact::Host { .. } => Some(("", entry.object())),
        _ => None,
    });
}

type Line<'a> = Option<(&'static str, &'a str)>;

fn write_lines(
    path: &'static CStr,
    message: &Message<'_>,
    text: &mut [u8],
    line_of: for<'e> fn(&Entry<'e>) -> Line<'e>,
) {
    if message.facts().all(|entry| line_of(&entry).is_none()) {
        return;
    }
    write_file(path, message, text, line_of).or_fail(STEP, path.to_bytes());
}

const STEP: Step = "write; bind a writable file over it, or leave its lines out of the config";

fn write_file(
    path: &CStr,
    message: &Message<'_>,
    text: &mut [u8],
    line_of: for<'e> fn(&Entry<'e>) -> Line<'e>,
) -> Result<(), Errno> {
    let file = sys::open_write(path)?;
    let old_len = sys::size_and_rewind(file);
    let mut page = Page {
        file,
        text,
        len: 0,
        written: 0,
    };
    for entry in message.facts() {
        if let Some((word, value)) = line_of(&entry) {
            page.push(word.as_bytes())?;
            page.push(value.as_bytes())?;
            page.push(b"\n")?;
        }
    }
    page.flush()?;
    if old_len > page.written {
        sys::truncate(file, page.written)?;
    }
    sys::close(file);
    Ok(())
}

/// Text on its way to a file: in one write where it fits the buffer.
struct Page<'a> {
    file: Fd,
    text: &'a mut [u8],
    len: usize,
    written: usize,
}

impl Page<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if self.len + bytes.len() > self.text.len() {
            self.flush()?;
        }
        match self.text.get_mut(self.len..self.len + bytes.len()) {
            Some(space) => {
                for (to, from) in space.iter_mut().zip(bytes) {
                    *to = *from;
                }
                self.len += bytes.len();
                Ok(())
            }
            // Longer than the whole buffer, which is empty now.
            None => {
                self.written += bytes.len();
                sys::write_all(self.file, bytes)
            }
        }
    }

    fn flush(&mut self) -> Result<(), Errno> {
        sys::write_all(self.file, self.text.get(..self.len).unwrap_or(&[]))?;
        self.written += self.len;
        self.len = 0;
        Ok(())
    }
}
