//! PID 1 of a container: waits for its config, sets up its network, becomes the command.
//!
//! `boot.rs` is the sequence; `docs/protocol.md` specifies the config message and the words on the status pipe.
#![cfg_attr(all(target_env = "musl", panic = "abort"), no_std)]
#![no_main]

mod boot;
mod config;
mod error;
mod exec;
mod network;
mod options;
mod privileges;
mod resolv;
mod sys;

use core::convert::Infallible;

use error::{Failure, Sentence};
use hawser::protocol;
use options::{Action, Options};
use sys::{Arguments, Buffers};

/// Everything: what the C runtime's `main` returns is the exit code.
fn run(mut words: Arguments) -> u8 {
    let Some(Buffers {
        message,
        batch,
        reply,
        dump,
        text,
    }) = sys::take_buffers()
    else {
        return error::OURS;
    };
    words.take();
    let mut options = Options::default();
    let failure = match options.parse(words) {
        Ok(Action::Print(answer)) => return print(answer),
        Ok(Action::Boot(command)) => {
            let memory = boot::Memory {
                message,
                batch,
                reply,
                dump,
            };
            match boot::boot(&options, command, memory, text) {
                Ok(never) => match never {},
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    report(&failure, &options, text);
    failure.code
}

fn print(answer: &str) -> u8 {
    match sys::write_all(sys::STDOUT, answer.as_bytes()) {
        Ok(()) => 0,
        Err(_) => error::OURS,
    }
}

/// The one place where an error is said: on the status pipe for the helper, on standard error for people.
fn report(failure: &Failure<'_>, options: &Options, text: &mut [u8]) {
    if let Some(status) = options.status {
        let mut line = Sentence::new(text);
        line.push(protocol::ERROR);
        line.push(" ");
        line.push_number(u32::from(failure.code));
        line.push(" ");
        line.push_failure(failure);
        let _ = sys::write_all(status, line.finish());
    }
    let mut line = Sentence::new(text);
    line.push("init: ");
    line.push_failure(failure);
    let _ = sys::write_all(sys::STDERR, line.finish());
}

/// What ends in the command never returns.
type Never<'a> = Result<Infallible, Failure<'a>>;
