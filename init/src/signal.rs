//! Signals by name.

use crate::address::{index_of, parse_number};

/// In the order of their numbers from 1 on, which x86 and ARM share (signal(7)).
const NAMES: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP \
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
    let name = text.strip_prefix(b"SIG").unwrap_or(text);
    Some(index_of(NAMES.as_bytes(), name)? + 1)
}

/// The name without `SIG`; empty where there is none (the real-time signals).
pub fn name(signal: u8) -> &'static str {
    let mut rest = NAMES;
    for _ in 1..signal {
        let Some(space) = rest.bytes().position(|byte| byte == b' ') else {
            return "";
        };
        rest = rest.get(space + 1..).unwrap_or("");
    }
    let end = rest
        .bytes()
        .position(|byte| byte == b' ')
        .unwrap_or(rest.len());
    rest.get(..end).unwrap_or("")
}
