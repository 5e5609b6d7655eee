//! The status pipe: the lines in which the child, and then init, say how far they are.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::error::{Doing, Error, OURS, Result};

/// First word of what the child says on the status pipe when it fails before it is init; the sentence follows.
pub(super) const FAILED: &str = "failed";

/// First word of what the child says of a step that somebody wants to know the duration of.
const TOOK: &str = "took";

/// A step of the child's.
#[derive(Debug, PartialEq, Eq)]
pub struct Took {
    /// What it did.
    pub step: String,
    /// How long.
    pub time: Duration,
    /// Until when, as [`clock`] has it.
    pub end: Duration,
}

/// The time by a clock that goes on alike in all processes.
pub fn clock() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).unwrap_or_default()
}

impl Took {
    /// Says in the child that a step that began then is done.
    pub(super) fn say(mut status: &File, step: &str, begin: Duration) {
        let end = clock();
        let time = end.saturating_sub(begin);
        let line = format!("{TOOK} {step} {} {}\n", time.as_nanos(), end.as_nanos());
        // Whoever does not hear it misses nothing else.
        let _ = status.write_all(line.as_bytes());
    }

    fn parse(text: &str) -> Option<Took> {
        let mut words = text.split(' ');
        let step = words.next()?.to_string();
        let mut time = || Some(Duration::from_nanos(words.next()?.parse().ok()?));
        let (time, end) = (time()?, time()?);
        Some(Took { step, time, end })
    }
}

/// What was said on the status pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The network is there.
    Up,
    /// The command is next.
    Ready,
    /// It failed, with this exit code, and this sentence; init has put it on standard error too.
    InitFailed(u8, String),
    /// The child failed before it was init.
    Failed(String),
    /// The other end is closed.
    Nothing,
}

/// Reads the status pipe line by line.
#[derive(Default)]
pub struct StatusReader {
    text: Vec<u8>,
    /// The child's steps, as far as it has told them.
    pub took: Vec<Took>,
}

impl StatusReader {
    /// Reads the next line; waits for it when the pipe blocks.
    ///
    /// # Errors
    /// What read(2) says; a line that is none of ours.
    pub fn read(&mut self, status: &mut File) -> Result<Said> {
        loop {
            if let Some(said) = self.read_now(status)? {
                return Ok(said);
            }
        }
    }

    /// Something was said that nobody has asked for.
    pub fn has_more(&self) -> bool {
        !self.text.is_empty()
    }

    /// The same for a pipe that does not block; `None`: there is no whole line yet.
    ///
    /// # Errors
    /// As [`StatusReader::read`]; a line that does not end.
    pub fn read_now(&mut self, status: &mut File) -> Result<Option<Said>> {
        const LONGEST: usize = 16 * 1024; // as the message that it is about
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line[..end]);
                let took = line.strip_prefix(TOOK).map(str::trim_start);
                match took.and_then(Took::parse) {
                    Some(took) => self.took.push(took),
                    None => return parse_status(&line).map(Some),
                }
                continue;
            }
            if self.text.len() > LONGEST {
                return Err(Error::new("understand init: its line does not end"));
            }
            let mut chunk = [0; 512];
            match status.read(&mut chunk) {
                Ok(0) => return Ok(Some(Said::Nothing)),
                Ok(len) => self.text.extend(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).doing(|| "read what init says".into()),
            }
        }
    }
}

fn parse_status(line: &str) -> Result<Said> {
    use hawser::protocol::{ERROR, READY, UP};
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        UP => Ok(Said::Up),
        READY => Ok(Said::Ready),
        FAILED => Ok(Said::Failed(rest.to_string())),
        ERROR => {
            let (code, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Ok(Said::InitFailed(
                code.parse().unwrap_or(OURS),
                text.to_string(),
            ))
        }
        _ => Err(Error::new(format!(
            "understand init: it says {line:?}; is --init-path another version's?"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_says() {
        assert_eq!(parse_status("up").unwrap(), Said::Up);
        assert_eq!(parse_status("ready").unwrap(), Said::Ready);
        assert_eq!(
            parse_status("error 127 exec x: not there").unwrap(),
            Said::InitFailed(127, "exec x: not there".into())
        );
        assert_eq!(
            parse_status("failed mount").unwrap(),
            Said::Failed("mount".into())
        );
        assert!(parse_status("hello").is_err());
    }

    #[test]
    fn steps_are_told_between_the_lines() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let (mut read, mut write) = (File::from(read), File::from(write));
        Took::say(&write, "mounts", clock());
        write.write_all(b"up\ntook nothing\n").unwrap();
        let mut reader = StatusReader::default();
        assert_eq!(reader.read(&mut read).unwrap(), Said::Up);
        assert_eq!(reader.took[0].step, "mounts");
        assert!(reader.took[0].time < reader.took[0].end);
        assert!(reader.read(&mut read).is_err());
    }
}
