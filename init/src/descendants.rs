//! The processes below a process, by `/proc/PID/task/TID/children` (proc(5)): what is left when kill(-1) would reach more
//! than our own.

use hawser::address::{cut, decimal, parse_number};

use crate::sys::{self, Fd, Pid};

const PROC: &[u8] = b"/proc/";

/// The processes below us, parents before their children; as many as fit into the space. All are found
/// before the first is given: the children of one that a signal ends would come to us, behind those already looked for.
///
/// They are not known when there is no /proc, or none with children (CONFIG_PROC_CHILDREN), or that of another PID namespace, whose
/// numbers are those of other processes here (`unshare -pf` without `--mount-proc`).
pub fn find_descendants<'a>(space: &'a mut [u8], entries: &mut [u8]) -> Queue<'a> {
    let mut queue = Queue {
        text: space,
        len: 0,
        at: 0,
        is_known: false,
    };
    // Our only thread has our number, in a /proc that counts as we do.
    let own = open_of(b"/proc/self/task/", sys::own_pid(), b"/..");
    queue.is_known = add_children(own, &mut queue, entries);
    while let Some(pid) = queue.take() {
        add_children(open_of(PROC, pid, b"/task"), &mut queue, entries);
    }
    queue.at = 0;
    queue
}

/// Numbers as the kernel has written them, each with a space behind it.
pub struct Queue<'a> {
    text: &'a mut [u8],
    /// Of the text.
    pub len: usize,
    at: usize,
    /// False when nobody could be looked for.
    pub is_known: bool,
}

impl Queue<'_> {
    /// Numbers that were found before.
    pub fn of(text: &mut [u8]) -> Queue<'_> {
        Queue {
            len: text.len(),
            text,
            at: 0,
            is_known: true,
        }
    }

    /// True where this one is among those to come.
    pub fn has(&mut self, pid: Pid) -> bool {
        while let Some(next) = self.take() {
            if next == pid {
                return true;
            }
        }
        false
    }

    /// The next one. A number that the end of the space has cut is none: it would be somebody else's.
    #[inline(never)]
    pub fn take(&mut self) -> Option<Pid> {
        let (number, tail) = cut(self.text.get(self.at..self.len)?, b' ');
        tail?;
        self.at += number.len() + 1;
        Some(Pid(parse_number(number)? as i32))
    }
}

/// Each thread has children of its own.
#[inline(never)]
fn add_children(tasks: Option<Fd>, queue: &mut Queue<'_>, entries: &mut [u8]) -> bool {
    let Some(tasks) = tasks else {
        return false;
    };
    let mut found = false;
    while let Ok(len @ 1..) = sys::read_directory(tasks, entries) {
        let mut at = 0;
        while at < len as usize {
            // struct linux_dirent64: 8 bytes inode, 8 offset, 2 length, 1 type, then the name.
            let (name, _) = cut(entries.get(at + 19..).unwrap_or(&[]), 0);
            // `.` and `..` have no such file.
            let mut path = [0; 32];
            let children = sys::c_string(&[name, b"/children"], &mut path);
            if let Some(Ok(children)) = children.map(|path| sys::open_in(tasks, path)) {
                while let Ok(len @ 1..) =
                    sys::read(children, queue.text.get_mut(queue.len..).unwrap_or(&mut []))
                {
                    queue.len += len as usize;
                }
                sys::close(children);
                found = true;
            }
            at += usize::from(hawser::netlink::read_u16(entries, at + 16).unwrap_or(!0));
        }
    }
    sys::close(tasks);
    found
}

/// A file or directory of a process.
#[inline(never)]
fn open_of(before: &[u8], pid: Pid, what: &[u8]) -> Option<Fd> {
    let mut digits = [0; 10];
    let mut path = [0; 32];
    let number = decimal(pid.0 as u32, &mut digits);
    let path = sys::c_string(&[before, number, what], &mut path)?;
    sys::open_read(path).ok()
}

/// What a process calls itself, for a message; `None` when it has ended or there is no /proc.
pub fn name_of(pid: Pid, space: &mut [u8; 64]) -> Option<&[u8]> {
    let file = open_of(PROC, pid, b"/cmdline")?;
    let len = sys::read(file, space).unwrap_or(0);
    sys::close(file);
    // Nothing at all is what those who have ended have.
    let words = space
        .get(..len as usize)
        .filter(|words| !words.is_empty())?;
    Some(cut(words, 0).0)
}
