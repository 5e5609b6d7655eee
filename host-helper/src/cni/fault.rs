//! Errors, as runtimes read them: a number of the specification's and a sentence.

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The specification's numbers, section 5, "Error". From 100 on they are our own.
pub mod code {
    /// The version is not spoken.
    pub const VERSION: u64 = 1;
    /// A key of the configuration that nothing is done about.
    pub const FIELD: u64 = 2;
    /// The container is not there: nothing is to be cleaned up.
    pub const CONTAINER: u64 = 3;
    /// The environment lacks something, or it is wrong.
    pub const ENVIRONMENT: u64 = 4;
    /// Something could not be read.
    pub const IO: u64 = 5;
    /// It was read, and is no JSON.
    pub const DECODE: u64 = 6;
    /// A value of the configuration makes no sense.
    pub const CONFIGURATION: u64 = 7;
    /// It may be otherwise in a moment.
    pub const AGAIN: u64 = 11;
    /// STATUS: no container could be added.
    pub const UNAVAILABLE: u64 = 50;
    /// STATUS: and those that are there lack something for good.
    pub const LIMITED: u64 = 51;
    /// Ours: the kernel, or the network as it is, does not let us.
    pub const FAILED: u64 = 100;
    /// Ours: CHECK has found a difference.
    pub const DIFFERS: u64 = 101;
    /// Ours: the plugin that does a part of it cannot be run.
    pub const DELEGATE: u64 = 102;
}

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// See [`code`].
    pub code: u64,
    /// The sentence.
    pub text: String,
    /// More of it, of another plugin's.
    pub details: String,
}

impl Fault {
    /// One.
    pub fn new(code: u64, text: impl Into<String>) -> Fault {
        Fault {
            code,
            text: text.into(),
            details: String::new(),
        }
    }

    /// As it is written to standard output.
    pub fn to_json(&self, version: &str) -> Value {
        let mut answer = json!({ "cniVersion": version, "code": self.code, "msg": self.text });
        if !self.details.is_empty() {
            answer["details"] = self.details.clone().into();
        }
        answer
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        let code = match error.errno {
            // ENODEV: the network was just removed, by who has failed to add the first container to it.
            Some(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM | Errno::ENODEV) => {
                code::AGAIN
            }
            _ => code::FAILED,
        };
        Fault::new(code, error.to_string())
    }
}

/// Errors of the rest of the program, as faults.
pub trait Judge<T> {
    /// With the number that follows from what is behind it.
    fn judge(self) -> std::result::Result<T, Fault>;
}

impl<T> Judge<T> for Result<T> {
    fn judge(self) -> std::result::Result<T, Fault> {
        self.map_err(Fault::from)
    }
}

/// What went wrong in several places, as one.
pub fn first_of(faults: Vec<Fault>) -> std::result::Result<(), Fault> {
    let mut faults = faults.into_iter();
    let Some(mut first) = faults.next() else {
        return Ok(());
    };
    for other in faults {
        first.text += &format!("; and {}", other.text);
    }
    Err(first)
}
