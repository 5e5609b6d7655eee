//! Signals: what is done about them, sending and taking them.

use core::ffi::c_int;
use core::mem::MaybeUninit;

use super::{Errno, Pid, call, call_by_value, timespec};

/// What the kernel calls `struct kernel_sigaction`: 8 bytes of mask at its end, and at most 32 bytes in all.
type SignalAction = [usize; 4];
const MASK_BYTES: usize = 8;
/// `asm/signal.h` of x86, which calls no handler without it: where one returns to is said. (None of ours does.)
const SA_RESTORER: usize = 0x0400_0000;

/// What came.
pub struct Arrival {
    /// Which signal; 0 for none.
    pub signal: u8,
    /// True when the kernel sent it, as a terminal does, and no process.
    pub by_kernel: bool,
}

/// Milliseconds without an end.
pub const FOREVER: u64 = u64::MAX;

/// A write to a pipe that nobody reads gives an error instead of a signal.
pub fn ignore_broken_pipes() {
    set_action(libc::SIGPIPE, libc::SIG_IGN);
}

/// INT and TERM call this, which ends the process, even where it is PID 1.
pub fn end_by_signals(handler: extern "C" fn(c_int) -> !) {
    set_action(libc::SIGINT, handler as libc::sighandler_t);
    set_action(libc::SIGTERM, handler as libc::sighandler_t);
}

/// No signal is ignored any more: what a command expects. Children begin like that too.
#[inline(never)]
pub fn reset_signals() {
    for signal in 1..=64 {
        set_action(signal, libc::SIG_DFL);
    }
}

/// Nor is any blocked.
#[inline(always)]
pub fn unblock_signals() {
    set_mask(0);
}

/// Blocks every signal that can be blocked, so that they come by [`wait_for_signal`] alone.
pub fn block_signals() {
    set_mask(!0);
}

/// Does what a signal that waits, blocked as all are, wants from us.
pub fn let_through(signal: u8) {
    set_mask(!(1 << (signal - 1)));
    set_mask(!0);
}

#[inline(never)]
fn set_action(signal: c_int, handler: libc::sighandler_t) {
    let action: SignalAction = [handler, SA_RESTORER, 0, 0];
    let (signal, action) = (signal as usize, &raw const action as usize);
    // SAFETY: a kernel_sigaction without a mask; a handler does not come back. KILL and STOP are refused, which is right.
    let _ = unsafe { call(libc::SYS_rt_sigaction, [signal, action, 0, MASK_BYTES]) };
}

#[inline(never)]
fn set_mask(mask: u64) {
    let (how, mask) = (libc::SIG_SETMASK as usize, &raw const mask as usize);
    // SAFETY: the mask has the 8 bytes that are said.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, [how, mask, 0, MASK_BYTES]) };
}

/// Takes the next signal of a set; waits for it, but no longer than so many milliseconds.
#[inline(never)]
pub fn wait_for_signal(set: u64, patience: u64) -> Arrival {
    // siginfo_t has 128 bytes: number, errno, code first (sigaction(2)).
    let mut information = MaybeUninit::<[c_int; 32]>::uninit();
    let time = timespec(patience);
    let time = match patience {
        FOREVER => 0,
        _ => &raw const time as usize,
    };
    let (set, at) = (&raw const set as usize, &raw mut information as usize);
    // SAFETY: the set has the 8 bytes that are said, the information its 128, the time is a timespec or null.
    let signal = unsafe { call(libc::SYS_rt_sigtimedwait, [set, at, time, MASK_BYTES]) };
    let signal = signal.unwrap_or(0) as u8;
    // SAFETY: where there is a signal the kernel has filled the information in.
    let by_kernel = signal != 0 && unsafe { information.assume_init() }[2] == libc::SI_KERNEL;
    Arrival { signal, by_kernel }
}

/// Beside a signal: CONT right behind it. Who is stopped does not notice before it goes on.
pub const WAKES: u8 = 0x80;

/// Sends a signal. An error means that nobody is there to get it, or that we may not.
#[inline(never)]
pub fn send(to: Pid, signal: u8) -> Result<u32, Errno> {
    let send = |signal| call_by_value(libc::SYS_kill, [to.0 as usize, usize::from(signal)]);
    let sent = send(signal & !WAKES);
    if signal & WAKES != 0 {
        let _ = send(libc::SIGCONT as u8);
    }
    sent
}
