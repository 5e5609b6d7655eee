//! The processes below a process, by `/proc/PID/task/TID/children` (proc(5)): what is left when kill(-1) would reach more
//! than our own.

use core::ffi::CStr;

use hawser::address::{cut, decimal, parse_number};

use crate::sys::{self, Buffers, Pid};

/// Calls `visit` for each process below us, parents before their children; as many as fit into the space for requests.
///
/// False when there is no /proc, or none with children (CONFIG_PROC_CHILDREN).
pub fn visit_descendants(buffers: &mut Buffers, mut visit: impl FnMut(Pid)) -> bool {
    let Buffers {
        batch, reply, text, ..
    } = buffers;
    let mut queue = Queue {
        pids: batch,
        len: 0,
        at: 0,
    };
    if !add_children(sys::own_pid(), &mut queue, reply, text) {
        return false;
    }
    while let Some(pid) = queue.take() {
        add_children(pid, &mut queue, reply, text);
        visit(pid);
    }
    true
}

/// Numbers of four bytes in a space.
struct Queue<'a> {
    pids: &'a mut [u8],
    len: usize,
    at: usize,
}

impl Queue<'_> {
    fn add(&mut self, pid: u32) {
        if let Some(space) = self.pids.get_mut(self.len..self.len + 4) {
            space.copy_from_slice(&pid.to_ne_bytes());
            self.len += 4;
        }
    }

    fn take(&mut self) -> Option<Pid> {
        let bytes = self.pids.get(self.at..self.len)?;
        let pid = hawser::netlink::read_u32(bytes, 0)?;
        self.at += 4;
        Some(Pid(pid as i32))
    }
}

/// Each thread has children of its own.
fn add_children(pid: Pid, queue: &mut Queue<'_>, space: &mut [u8], path: &mut [u8]) -> bool {
    let Some((entries, file)) = space.split_at_mut_checked(space.len() / 2) else {
        return false;
    };
    let mut digits = [0; 10];
    let number = decimal(pid.0 as u32, &mut digits);
    let tasks = sys::c_string(&[b"/proc/", number, b"/task"], path);
    let Some(Ok(tasks)) = tasks.map(sys::open_read) else {
        return false;
    };
    let mut found = false;
    while let Ok(len @ 1..) = sys::read_directory(tasks, entries) {
        let mut rest = entries.get(..len as usize).unwrap_or(&[]);
        // struct linux_dirent64: 8 bytes inode, 8 offset, 2 length, 1 type, then the name.
        while let Some(size) = hawser::netlink::read_u16(rest, 16) {
            let (name, _) = cut(rest.get(19..).unwrap_or(&[]), 0);
            let children = sys::c_string(&[b"/proc/", number, b"/task/", name, b"/children"], path);
            found |= children.is_some_and(|children| {
                parse_number(name).is_some() && add_file(children, queue, file)
            });
            rest = rest.get(usize::from(size.max(1))..).unwrap_or(&[]);
        }
    }
    sys::close(tasks);
    found
}

/// Numbers with spaces between them; a number that the end of the space cuts is read again with what follows.
fn add_file(path: &CStr, queue: &mut Queue<'_>, space: &mut [u8]) -> bool {
    let Ok(file) = sys::open_read(path) else {
        return false;
    };
    let mut number = None;
    while let Ok(len @ 1..) = sys::read(file, space) {
        for &byte in space.get(..len as usize).unwrap_or(&[]) {
            if byte.is_ascii_digit() {
                number = Some(number.unwrap_or(0) * 10 + u32::from(byte - b'0'));
            } else if let Some(pid) = number.take() {
                queue.add(pid);
            }
        }
    }
    sys::close(file);
    true
}

/// The name of a process, for a message; empty when it is gone or there is no /proc.
#[inline(never)]
pub fn name_of(pid: Pid, space: &mut [u8; 16]) -> &[u8] {
    let mut digits = [0; 10];
    let mut path = [0; 32];
    let number = decimal(pid.0 as u32, &mut digits);
    let path = sys::c_string(&[b"/proc/", number, b"/comm"], &mut path);
    let Some(Ok(file)) = path.map(sys::open_read) else {
        return &[];
    };
    let len = sys::read(file, space).unwrap_or(0);
    sys::close(file);
    cut(space.get(..len as usize).unwrap_or(&[]), b'\n').0
}
