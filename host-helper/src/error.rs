//! The one kind of error: a sentence of verb, object, cause and, where there is a usual one, the cure.

use std::fmt;

use nix::errno::Errno;

use crate::state;

/// What was refused: the errno is never lost, and the kernel's own sentence is passed on where it gives one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub errno: Errno,
    /// The kernel's extended-ack text, or empty.
    pub text: String,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal {
            errno,
            text: String::new(),
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Errno::from_raw(errno).into(),
            None => Refusal {
                errno: Errno::EIO,
                text: error.to_string(),
            },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut words = self.errno.desc().to_string();
        // "No such file" reads as part of our sentence; "RTNL" or "IPv6" would not, and none starts so.
        if let Some(first) = words.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        write!(f, "{words} ({:?})", self.errno)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

/// An error of ours, and the exit code that it means.
#[derive(Debug)]
pub struct Error {
    /// Exit code: 125, unless init has said 126 or 127, or a signal 128 + n.
    pub code: u8,
    /// The errno behind it, where there is one.
    pub errno: Option<Errno>,
    /// False when init has said it on the same standard error already.
    pub unsaid: bool,
    sentence: String,
}

/// What every step gives.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that no system call gave.
    pub fn new(sentence: impl Into<String>) -> Self {
        Error {
            code: OURS,
            errno: None,
            unsaid: true,
            sentence: sentence.into(),
        }
    }

    /// What the kernel has refused, with the usual cures.
    fn refused(sentence: String, errno: Errno) -> Self {
        let is_ours = sentence.contains(state::DIRECTORY);
        let error = Error::new(sentence).cause(errno);
        if is_ours {
            error
                .cure(
                    Errno::ENOSPC,
                    "make room in /run (host-helper rm NAME removes the log of a container that has ended)",
                )
                .cure(
                    Errno::EROFS,
                    "it is to be writable: mount -o remount,rw what it is on, or, where nothing is in /run, mount -t tmpfs none /run",
                )
        } else {
            error
        }
        .cure(Errno::EFBIG, "raise the limit of file sizes (ulimit -f)")
    }

    /// The same with another exit code.
    pub fn with_code(self, code: u8) -> Self {
        Error { code, ..self }
    }

    /// The same as one that this errno is behind.
    pub fn cause(self, errno: Errno) -> Self {
        Error {
            errno: Some(errno),
            ..self
        }
    }

    /// Ends with what to do about it, when `errno` is the cause.
    pub fn cure(mut self, errno: Errno, cure: &str) -> Self {
        if self.errno == Some(errno) {
            self.sentence = format!("{}; {cure}", self.sentence);
        }
        self
    }
}

/// One error of all that went wrong, for what goes on after an error; nothing wrong is success.
///
/// # Errors
/// That.
pub fn all_of(errors: &[Error]) -> Result<()> {
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if text.is_empty() {
        Ok(())
    } else {
        Err(Error::new(text.join("; and ")))
    }
}

/// Does what takes something back, and once more where it fails: what was wrong for a moment is not the second time.
///
/// # Errors
/// Those of the second time.
pub fn twice<T, E>(
    mut take_back: impl FnMut() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    take_back().or_else(|_| take_back())
}

/// Exit code: something of ours failed before the command ran, usage errors included.
pub const OURS: u8 = 125;

impl fmt::Display for Error {
    /// On one line, whatever a path or a name holds.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for character in self.sentence.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Says what was being done when a call was refused.
pub trait Doing<T> {
    /// `step` is verb and object: "create veth hwac130002".
    fn doing(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Refusal>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let refusal = error.into();
            Error::refused(format!("{}: {refusal}", step()), refusal.errno)
        })
    }
}
