//! The command line.

use core::ffi::CStr;

use hawser::address::parse_number;

use crate::error::Failure;
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
    Boot(Arguments),
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

impl Options {
    /// Reads the words behind the program's name. What was understood before an error is kept: the status pipe is
    /// where that error goes.
    pub fn parse(&mut self, mut words: Arguments) -> Result<Action, Failure<'static>> {
        while let Some(word) = words.first() {
            let bytes = word.to_bytes();
            if !bytes.starts_with(b"-") || bytes == b"-" {
                break;
            }
            words.take();
            match bytes {
                b"--" => break,
                b"--help" | b"-h" => return Ok(Action::Print(HELP)),
                b"--version" | b"-V" => return Ok(Action::Print(VERSION)),
                _ => {}
            }
            if let Some(value) = value_of(word, "--config", &mut words)? {
                self.config = Some(value);
            } else if let Some(value) = value_of(word, "--status-fd", &mut words)? {
                let fd = parse_fd(value).ok_or(usage(value, "not a descriptor's number"))?;
                sys::set_close_on_exec(fd).map_err(|errno| {
                    Failure::system("open --status-fd", value.to_bytes(), errno)
                })?;
                self.status = Some(fd);
            } else {
                return Err(usage(word, "unknown option"));
            }
        }
        if words.first().is_none() {
            return Err(usage(c"", "no command"));
        }
        if self.status.is_some() && self.config.is_none() {
            return Err(usage(c"--status-fd", "it needs --config"));
        }
        Ok(Action::Boot(words))
    }
}

/// The value of option `name`, if `word` is that option: behind `=`, or the next word.
fn value_of(
    word: &'static CStr,
    name: &str,
    words: &mut Arguments,
) -> Result<Option<&'static CStr>, Failure<'static>> {
    let Some(rest) = word.to_bytes().strip_prefix(name.as_bytes()) else {
        return Ok(None);
    };
    if rest.is_empty() {
        return match words.take() {
            Some(value) => Ok(Some(value)),
            None => Err(usage(word, "its value is missing")),
        };
    }
    if !rest.starts_with(b"=") {
        return Ok(None);
    }
    let value = word
        .to_bytes_with_nul()
        .get(name.len() + 1..)
        .unwrap_or(&[]);
    Ok(CStr::from_bytes_with_nul(value).ok())
}

/// A descriptor's number.
pub fn parse_fd(text: &CStr) -> Option<Fd> {
    let number = parse_number(text.to_str().ok()?)?;
    Some(Fd(i32::try_from(number).ok()?))
}

fn usage(word: &'static CStr, cause: &'static str) -> Failure<'static> {
    Failure::text("read the command line", word.to_bytes(), cause).with_cure("see init --help")
}
