//! The command line.

use core::ffi::CStr;

use hawser::address::parse_number;

use crate::error::{self, OrFail, Step};
use crate::sys::{self, Arguments, Fd};

/// What the options say.
#[derive(Default)]
pub struct Options {
    /// Where the config message comes from.
    pub config: Option<&'static CStr>,
    /// The pipe to the helper.
    pub status: Option<Fd>,
}

/// What to do.
pub enum Action {
    /// Print this and end.
    Print(&'static str),
    /// Set up what the config says and become this command.
    Boot(Options, Arguments),
}

const VERSION: &str = concat!("init (hawser) ", env!("CARGO_PKG_VERSION"), "\n");

const HELP: &str = "\
usage: init [--config fd:N|PATH|-] [--status-fd N] [--] COMMAND [ARG...]

Sets up the network and the privileges that a config message names, then
becomes COMMAND. As PID 1 of a container it waits for the message.

  --config fd:N    read the message from descriptor N
  --config PATH    read it from a file or a FIFO
  --config -       read it from standard input
  --status-fd N    tell a helper `up`, wait for its `go`, tell `ready`
  --help           print this
  --version        print the version

Without --config nothing is set up. Exit codes: 125 init failed, 126 COMMAND
cannot be executed, 127 COMMAND not found, else COMMAND's own.
";

const OPEN_STATUS: Step = "open status descriptor";

/// Reads the words behind the program's name. An error goes to the status pipe as soon as that is known.
pub fn parse(mut words: Arguments) -> Action {
    let mut options = Options::default();
    while let Some(word) = words.first() {
        let bytes = word.to_bytes();
        if !bytes.starts_with(b"-") || bytes == b"-" {
            break;
        }
        words.take();
        match bytes {
            b"--" => break,
            b"--help" | b"-h" => return Action::Print(HELP),
            b"--version" | b"-V" => return Action::Print(VERSION),
            _ => {}
        }
        if let Some(value) = value_of(word, b"--config", &mut words) {
            options.config = Some(value);
        } else if let Some(value) = value_of(word, b"--status-fd", &mut words) {
            let value = value.to_bytes();
            let Some(fd) = parse_fd(value) else {
                fail(value, "not a descriptor's number");
            };
            sys::set_close_on_exec(fd).or_fail(OPEN_STATUS, value);
            error::tell_errors_to(fd);
            options.status = Some(fd);
        } else {
            fail(bytes, "unknown option");
        }
    }
    if words.first().is_none() {
        fail(b"", "no command");
    }
    if options.status.is_some() && options.config.is_none() {
        fail(b"--status-fd", "it needs --config");
    }
    Action::Boot(options, words)
}

/// The value of option `name`, if `word` is that option: behind `=`, or the next word.
#[inline(never)]
fn value_of(word: &'static CStr, name: &[u8], words: &mut Arguments) -> Option<&'static CStr> {
    match word.to_bytes().strip_prefix(name)? {
        [] => match words.take() {
            None => fail(name, "its value is missing"),
            value => value,
        },
        [b'=', ..] => sys::suffix(word, name.len() + 1),
        _ => None,
    }
}

/// A descriptor's number.
pub fn parse_fd(text: &[u8]) -> Option<Fd> {
    let number = parse_number(text)?;
    Some(Fd(i32::try_from(number).ok()?))
}

fn fail(word: &[u8], cause: &str) -> ! {
    error::begin("read the command line", word);
    error::push(": ");
    error::push(cause);
    error::push("; see init --help");
    error::end(error::OURS)
}
