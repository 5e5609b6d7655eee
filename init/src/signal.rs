//! Signals by name.

use crate::address::{index_of, nth, parse_number, strip};

/// In the order of their numbers from 1 on, which x86 and ARM share (signal(7)).
const NAMES: &[u8] = b"HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP \
    TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

/// The highest number.
pub const LAST: u8 = 64;

/// Reads `TERM`, `SIGTERM` or `15`.
pub fn parse(text: &[u8]) -> Option<u8> {
    if let Some(number) = parse_number(text) {
        return u8::try_from(number)
            .ok()
            .filter(|&number| (1..=LAST).contains(&number));
    }
    let name = strip(text, b"SIG").unwrap_or(text);
    Some(index_of(NAMES, name)? + 1)
}

/// The name without `SIG`; empty where there is none (the real-time signals).
pub fn name(signal: u8) -> &'static [u8] {
    nth(NAMES, signal.saturating_sub(1)).unwrap_or(&[])
}
