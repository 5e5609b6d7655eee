//! One system call, for each number of arguments and for both processors.

use core::ffi::c_long;

use super::Errno;

/// Makes a system call.
///
/// # Safety
/// The arguments must be all that the call documents; memory that it writes to must be exclusively ours.
#[inline(always)]
pub unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<u32, Errno> {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: handed on to the caller.
    let result = unsafe {
        match N {
            0 => call_0(number),
            1 => call_1(number, at(0)),
            2 => call_2(number, at(0), at(1)),
            3 => call_3(number, at(0), at(1), at(2)),
            4 => call_4(number, at(0), at(1), at(2), at(3)),
            _ => call_6(number, at(0), at(1), at(2), at(3), at(4), at(5)),
        }
    };
    // The last 4,095 values are errors (syscall(2); MAX_ERRNO in the kernel); no other result of these calls is negative.
    // As many bits for the value as for the error: so both come in registers.
    if result < 0 {
        Err(Errno(-result as i32))
    } else {
        Ok(result as u32)
    }
}

/// Makes a system call that touches no memory of ours.
#[inline(always)]
pub fn call_by_value<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<u32, Errno> {
    // SAFETY: every caller passes numbers only, and none of these calls reads or writes memory by them.
    unsafe { call(number, arguments) }
}

/// Makes a system call again as long as a signal interrupts it.
pub fn retry<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match attempt() {
            Err(Errno(libc::EINTR)) => {}
            result => return result,
        }
    }
}

/// The kernel takes the number and the arguments in these registers of x86-64 and aarch64, gives the result in the first
/// of them, and changes none that is not named here (syscall(2)).
macro_rules! define_call {
    ($name:ident $(, $argument:ident $x86_64:tt $aarch64:tt)*) => {
        /// # Safety
        /// As for [`call`].
        #[inline(always)]
        unsafe fn $name(number: c_long $(, $argument: usize)*) -> isize {
            let result: isize;
            // SAFETY: what the call does is up to the caller.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                core::arch::asm!(
                    "syscall",
                    in("rax") number, $(in($x86_64) $argument,)*
                    lateout("rax") result, lateout("rcx") _, lateout("r11") _,
                    options(nostack)
                );
            }
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                core::arch::asm!(
                    "svc 0",
                    in("x8") number, $(in($aarch64) $argument,)*
                    lateout("x0") result,
                    options(nostack)
                );
            }
            result
        }
    };
}

define_call!(call_0);
define_call!(call_1, a "rdi" "x0");
define_call!(call_2, a "rdi" "x0", b "rsi" "x1");
define_call!(call_3, a "rdi" "x0", b "rsi" "x1", c "rdx" "x2");
define_call!(call_4, a "rdi" "x0", b "rsi" "x1", c "rdx" "x2", d "r10" "x3");
define_call!(call_6, a "rdi" "x0", b "rsi" "x1", c "rdx" "x2", d "r10" "x3", e "r8" "x4", f "r9" "x5");
