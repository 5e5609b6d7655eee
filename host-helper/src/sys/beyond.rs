//! What goes on after this process has ended: the kernel takes long to let go of some descriptors.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use super::{Result, again, wait_until_quiet};

/// What [`keep_open_beyond_our_end`] hands to its process.
struct Kept {
    /// First and last of the descriptors to close, in pairs.
    rest: Vec<(u32, u32)>,
    /// Sockets of netfilter, which are closed when that is quick.
    sockets: Vec<BorrowedFd<'static>>,
    /// What is closed at once.
    others: Vec<RawFd>,
    /// Ends when we do.
    end: OwnedFd,
}

/// The process that [`keep_open_beyond_our_end`] has started.
pub struct Beyond {
    pid: Pid,
    /// Open as long as we are.
    end: ManuallyDrop<OwnedFd>,
    /// Ends when it has closed its copies of what it is not to keep.
    closed: OwnedFd,
}

impl Beyond {
    /// For when this process is about to end: whoever hears of that is to find free what was ours, ports of the host for one. A process
    /// that has had no time yet to close its copies is waited for: ended instead, it would have the kernel take its time for the rest, which keeps all
    /// others waiting that start or end containers.
    pub fn leave(self) {
        let _ = again(|| nix::unistd::read(&self.closed, &mut [0]));
    }

    /// Ends it now: what it has kept open is still ours.
    pub fn end(self) {
        // It is our child, and has its number until it is waited for.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = again(|| waitpid(self.pid, None));
        drop(ManuallyDrop::into_inner(self.end));
    }
}

/// Starts a process that keeps descriptors open until this process is gone, and holds nothing else: for those that take
/// the kernel long to close, and for sockets of netfilter (see [`wait_until_quiet`]). It shares our memory: a copy of that, which
/// nobody needs, would be half as dear as the wait.
pub fn keep_open_beyond_our_end(sockets: &[BorrowedFd], others: &[BorrowedFd]) -> Result<Beyond> {
    const STACK: usize = 16 * 1024;
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let (closed, closing) = pipe2(OFlag::O_CLOEXEC)?;
    let mut kept: Vec<u32> = sockets
        .iter()
        .chain(others)
        .chain([&read.as_fd()])
        .map(|kept| kept.as_raw_fd() as u32)
        .collect();
    kept.sort_unstable();
    let mut rest = Vec::new();
    let mut first = 0;
    for kept in kept {
        if first < kept {
            rest.push((first, kept - 1));
        }
        first = kept + 1;
    }
    rest.push((first, u32::MAX));
    // Both are there as long as the process is, which is longer than we are: never given back.
    // SAFETY: the new process has a copy of each, under the same number, which it never closes.
    let sockets = sockets
        .iter()
        .map(|socket| unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) });
    let others = others.iter().map(AsRawFd::as_raw_fd).collect();
    let kept: &'static Kept = Box::leak(Box::new(Kept {
        rest,
        sockets: sockets.collect(),
        others,
        end: read,
    }));
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    // SAFETY: the stack is the new process's alone, and grows downwards from its aligned end; what it reads of ours is
    // leaked, and nobody writes to it.
    let pid = unsafe {
        let end = stack.as_mut_ptr().add(STACK);
        let end = end.sub(end.addr() % 16);
        libc::clone(
            keep_open,
            end.cast(),
            libc::CLONE_VM | libc::SIGCHLD,
            (&raw const *kept).cast_mut().cast(),
        )
    };
    drop(closing);
    Ok(Beyond {
        pid: Pid::from_raw(Errno::result(pid)?),
        end: ManuallyDrop::new(write),
        closed,
    })
}

/// The process. What it shares with the other, which runs meanwhile, it only reads; it allocates nothing, and as long as that one
/// is there none of its system calls fails that could (errno is shared).
extern "C" fn keep_open(kept: *mut libc::c_void) -> libc::c_int {
    // SAFETY: a Kept that is never given back; of descriptors it closes what is its own alone, and reads into a byte of
    // its stack.
    unsafe {
        let kept = &*kept.cast::<Kept>();
        for (first, last) in &kept.rest {
            // Without memory for that it would keep open what others wait for the end of.
            if libc::syscall(libc::SYS_close_range, *first, *last, 0) < 0 {
                libc::_exit(1);
            }
        }
        // An answer that is waiting in a socket is the other's as long as that one lives.
        while libc::read(kept.end.as_raw_fd(), [0_u8].as_mut_ptr().cast(), 1) < 0 {}
        for other in &kept.others {
            libc::close(*other);
        }
        wait_until_quiet(&kept.sockets);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_was_ours_is_free_when_it_is_left_at_once() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        for _ in 0..100 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let beyond = keep_open_beyond_our_end(&[], &[read.as_fd()]).unwrap();
            drop(listener);
            beyond.leave();
            // Connections never were: nothing but another descriptor can have it.
            TcpListener::bind(address).unwrap();
        }
    }
}
