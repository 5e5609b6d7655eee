//! PID 1 of a container: waits for its config, sets up its network, becomes the command.
//!
//! `boot.rs` is the sequence; `docs/protocol.md` specifies the config message and the words on the status pipe.
#![cfg_attr(all(target_env = "musl", panic = "abort"), no_std)]
#![no_main]

mod boot;
mod config;
mod descendants;
mod error;
mod exec;
mod machine;
mod network;
mod options;
mod peers;
mod privileges;
mod resolv;
mod supervise;
mod sys;

use options::Options;
use sys::Arguments;

/// Everything. It comes back only when there is no command to become: with the exit code.
#[inline(always)]
fn run(mut words: Arguments) -> u8 {
    let name = words.take().unwrap_or(c"init");
    let mut options = Options::default();
    let Some(answer) = options::parse(name.to_bytes(), &mut words, &mut options) else {
        boot::boot(&options, words)
    };
    match sys::write_all(sys::STDOUT, answer.as_bytes()) {
        Ok(()) => 0,
        Err(_) => error::OURS,
    }
}
