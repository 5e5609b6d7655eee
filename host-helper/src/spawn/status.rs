//! The status pipe: the lines in which the child, and then init, say how far they are.

use std::fs::File;
use std::io::{ErrorKind, Read};

use crate::error::{Doing, Error, OURS, Result};

/// First word of what the child says on the status pipe when it fails before it is init; the sentence follows.
pub(super) const FAILED: &str = "failed";

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
pub struct StatusReader(Vec<u8>);

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

    /// The same for a pipe that does not block; `None`: there is no whole line yet.
    ///
    /// # Errors
    /// As [`StatusReader::read`]; a line that does not end.
    pub fn read_now(&mut self, status: &mut File) -> Result<Option<Said>> {
        const LONGEST: usize = 16 * 1024; // as the message that it is about
        loop {
            if let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.0.drain(..=end).collect();
                return parse_status(&String::from_utf8_lossy(&line[..end])).map(Some);
            }
            if self.0.len() > LONGEST {
                return Err(Error::new("understand init: its line does not end"));
            }
            let mut chunk = [0; 512];
            match status.read(&mut chunk) {
                Ok(0) => return Ok(Some(Said::Nothing)),
                Ok(len) => self.0.extend(&chunk[..len]),
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
}
