//! The memory of a tracee.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use nix::unistd::Pid;

/// What fits into a page is there, or nothing of it.
const PAGE: u64 = 4096;

/// Part of it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Where it begins.
    pub address: u64,
    /// How many bytes.
    pub length: usize,
}

/// What is there; nothing of one that was killed meanwhile.
pub fn read(pid: Pid, place: Place) -> Vec<u8> {
    let mut bytes = vec![0; place.length];
    let memory = OpenOptions::new().read(true).open(path(pid));
    let read = memory.and_then(|memory| memory.read_exact_at(&mut bytes, place.address));
    read.map(|()| bytes).unwrap_or_default()
}

/// A path, as system calls get them: up to a zero byte, or to the end of its page.
pub fn read_path(pid: Pid, address: u64) -> String {
    let length = (PAGE - address % PAGE) as usize;
    let bytes = read(pid, Place { address, length });
    let words = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(words).into_owned()
}

/// Writes there.
pub fn write(pid: Pid, address: u64, bytes: &[u8]) {
    let memory = OpenOptions::new().write(true).open(path(pid));
    let memory = memory.expect("open the memory of a tracee");
    let written = memory.write_all_at(bytes, address);
    written.expect("write the memory of a tracee");
}

fn path(pid: Pid) -> String {
    format!("/proc/{pid}/mem")
}
