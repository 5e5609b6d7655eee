//! A line of a hosts file in its slot: how it is written, read, and seen to be about somebody who lives.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::fstat;

use crate::owner::{any_process_in, namespace};
use crate::sys::{link_index, network_of};

pub(super) const SLOT: usize = 64;

/// Of a slot that nobody has.
pub(super) const FREE: u8 = b'#';

/// A line in its slot.
pub(super) fn slot(line: &str) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    let whole = (bytes.len() + 1).next_multiple_of(SLOT);
    bytes.resize(whole - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Lines with their newlines, and where they are.
pub(super) fn lines_of(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    // A name has 253 letters at most, and a thousand containers two thousand lines: not each of their bytes is looked at.
    const MOST: usize = 8;
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &text[at..];
        let ends = |end: &usize| rest.get(end - 1) == Some(&b'\n');
        let end = (1..=MOST).map(|slots| slots * SLOT).find(ends);
        // Lines of somebody else's may be of any length.
        let anywhere = || rest.iter().position(|byte| *byte == b'\n');
        let end = end.or_else(|| anywhere().map(|place| place + 1));
        let line = &rest[..end.unwrap_or(rest.len())];
        at += line.len();
        (!line.is_empty()).then_some((at - line.len(), line))
    })
}

/// Address and name.
pub(super) fn first_words(line: &[u8]) -> (&[u8], &[u8]) {
    let mut words = line.split(|byte| *byte == b' ');
    (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    )
}

/// Address, name, and the words of the comment.
pub(super) fn words_of(line: &[u8]) -> (&str, &str, &str) {
    let line = std::str::from_utf8(line).unwrap_or_default();
    let (line, comment) = line.split_once('#').unwrap_or((line, ""));
    let mut words = line.split_whitespace();
    (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
        comment.trim(),
    )
}

/// The name of the link that a line is about.
pub(super) fn link_of(line: &[u8]) -> &str {
    let mut words = words_of(line).2.split_whitespace();
    words.next().unwrap_or_default()
}

/// The network namespace whose links lines are about that come from here. Others may share the directory.
pub(super) struct Here {
    /// In it: asked of a socket, the kernel takes a fifth of the time of a path below `/proc/self`.
    socket: Option<OwnedFd>,
    inode: u64,
    /// What the last line said of its link, and whether that is there: a container's lines for both families are neighbours, as a rule.
    last: RefCell<(String, bool)>,
}

impl Here {
    /// Ours.
    pub(super) fn find() -> Here {
        let (family, flags) = (AddressFamily::Unix, SockFlag::SOCK_CLOEXEC);
        let socket = socket(family, SockType::Datagram, flags, None).ok();
        let own = |socket: &OwnedFd| Some(fstat(network_of(socket.as_fd()).ok()?).ok()?.st_ino);
        let inode = socket.as_ref().and_then(own);
        // Not known: such a line is whoever's asks.
        let inode = inode.unwrap_or_else(|| namespace("self", "net").unwrap_or_default());
        let last = RefCell::default();
        Here {
            socket,
            inode,
            last,
        }
    }

    /// Its inode.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// Whether a line is about a link of another network namespace.
    pub(super) fn is_not_of(&self, line: &[u8]) -> bool {
        self.elsewhere(line).is_some()
    }

    /// The other network namespace; lines of older versions do not say which.
    fn elsewhere(&self, line: &[u8]) -> Option<u64> {
        let netns = words_of(line).2.split_whitespace().nth(2);
        let netns: Option<u64> = netns.and_then(|word| word.parse().ok());
        netns.filter(|netns| *netns != 0 && *netns != self.inode)
    }

    /// Whether the link is there by which the line's address is leased: the one that was there then. Who may have a link elsewhere
    /// counts as living.
    pub(super) fn is_alive(&self, line: &[u8]) -> bool {
        let comment = words_of(line).2;
        if self.last.borrow().0 == comment {
            return self.last.borrow().1;
        }
        let mut words = comment.split_whitespace();
        let (link, index) = (words.next().unwrap_or_default(), words.next());
        let now = self.socket.as_ref().map(|it| link_index(it.as_fd(), link));
        let now = now.and_then(Result::ok).map(|index| index.to_string());
        let is_alive = (now.is_some() && now.as_deref() == index)
            || self.elsewhere(line).is_some_and(may_live);
        self.last.replace((comment.to_string(), is_alive));
        is_alive
    }
}

/// Whether there may be such a network namespace. The supervisors of its containers are in it; all processes are seen from the first pid
/// namespace alone.
fn may_live(netns: u64) -> bool {
    // linux/proc_ns.h, PROC_PID_INIT_INO
    const FIRST: u64 = 0xefff_fffc;
    namespace("self", "pid").map_or(true, |ours| ours != FIRST) || any_process_in(netns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_length_are_found() {
        let long = "n".repeat(253);
        let ours = [
            slot("192.0.2.2 web # lo 1"),
            slot(&format!("2001:db8::2 {long} # lo 1")),
        ];
        let mut text: Vec<u8> = slot("127.0.0.1 localhost");
        text.extend(ours.concat());
        text.extend(b"192.0.2.3\tsomebody's\n\n");
        text.extend(ours.concat());
        text.extend(b"192.0.2.4 half");
        let by_newline: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let found: Vec<(usize, &[u8])> = lines_of(&text).collect();
        assert_eq!(
            found.iter().map(|(_, line)| *line).collect::<Vec<_>>(),
            by_newline
        );
        assert!(found.iter().all(|(at, line)| text[*at..].starts_with(line)));
        assert_eq!(first_words(&ours[0]), (&b"192.0.2.2"[..], &b"web"[..]));
    }
}
