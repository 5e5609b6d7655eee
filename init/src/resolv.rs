//! resolv.conf and hosts.
//!
//! Both are written in place: the file may be bound over another one, so that nothing can be renamed over it, and it is
//! not truncated when it is opened, since a truncate flushes the old blocks (0.3 ms on ext4).

use core::ffi::CStr;

use hawser::buffer::Buffer;
use hawser::protocol::{Entry, Fact, Message};

use crate::error::{self, OURS, Step};
use crate::options::Resolv;
use crate::sys::{self, Errno};

const STEP: Step = "write; bind a writable file over it, leave its lines out, or use --resolv=off";

/// Writes each file that the message has a line for.
pub fn write_files(message: &Message<'_>, how: Resolv, space: &mut [u8]) {
    if how == Resolv::Off {
        return;
    }
    write_lines(
        c"/etc/resolv.conf",
        message,
        how,
        space,
        |entry| match entry.fact {
            Fact::Nameserver(_) => Some("nameserver "),
            Fact::Search(_) => Some("search "),
            Fact::Option(_) => Some("options "),
            _ => None,
        },
    );
    write_lines(c"/etc/hosts", message, how, space, |entry| {
        match entry.fact {
            Fact::Host { .. } => Some(""),
            _ => None,
        }
    });
}

/// Writes the lines of one file, if there are any: what `word_of` says and the rest of the fact's line.
#[inline(never)]
fn write_lines(
    path: &'static CStr,
    message: &Message<'_>,
    how: Resolv,
    space: &mut [u8],
    word_of: fn(&Entry<'_>) -> Option<&'static str>,
) {
    let mut page = Buffer::new(space);
    let mut facts = message.facts();
    while let Some(entry) = &facts.next() {
        if let Some(word) = word_of(entry) {
            page.put(word.as_bytes());
            page.put(entry.object());
            page.put(b"\n");
        }
    }
    if !page.is_empty() {
        // No line grows by more than a few bytes: all of them fit into the space for requests.
        if let Err(errno) = write_file(path, page.finish().unwrap_or(&[])) {
            error::complain(STEP, path.to_bytes(), errno);
            match how {
                Resolv::Required => error::end(OURS),
                _ => error::note(),
            }
        }
    }
}

fn write_file(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = sys::open_write(path)?;
    let old_len = sys::size_and_rewind(file);
    sys::write_all(file, text)?;
    if old_len as usize > text.len() {
        sys::truncate(file, text.len())?;
    }
    sys::close(file);
    Ok(())
}
