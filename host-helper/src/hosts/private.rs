//! The hosts file of one container alone: lines of its own, and the names of its network, which it follows.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::Hosts;
use crate::written::Written;

/// The hosts file of a container with lines of its own.
pub struct Private {
    network: Hosts,
    own: String,
    file: Written,
}

impl Private {
    /// `own` and the first names are what it holds.
    pub fn new(network: Hosts, own: String, names: &str, file: File) -> Self {
        let text = format!("{own}{names}");
        Private {
            network,
            own,
            file: Written::new(file, text),
        }
    }

    /// The file whose names it follows: a change of its attributes says that there are others.
    pub fn network(&self) -> &Path {
        self.network.path()
    }

    /// The container's own.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes over the names that there are now.
    pub fn follow(&mut self) {
        let text = format!("{}{}", self.own, self.network.names(&self.own, usize::MAX));
        // A file that cannot be written is behind until the next change.
        let _ = self.file.write(text);
    }
}
