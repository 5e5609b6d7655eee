//! Hosts files, and lines in them, that nobody needs any more.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::file::{lock_of, open_to_read};
use super::slots::{FREE, Here, SLOT, lines_of};
use super::{Hosts, LOCALHOST, path_named};
use crate::error::{Doing, Result, all_of};
use crate::state;

/// Forgets the file of a network that is gone. Where others who share the directory have a network of that name it is theirs, too, but for
/// the lines of ours.
pub fn forget(network: &str) {
    let path = path_named(network);
    if is_left_over(&path) {
        let _ = std::fs::remove_file(lock_of(&path));
        let _ = std::fs::remove_file(path);
    } else {
        begin(network);
    }
}

impl Hosts {
    /// Sweeps this file where a start has to. True: everything else is to be swept, too.
    pub fn sweep_if_due(&self) -> bool {
        let is_due = self.is_sweep_due();
        if is_due && self.sweep().unwrap_or(false) {
            // Nobody who waits could do anything about it.
            let _ = self.tell();
        }
        is_due
    }

    /// Whether it is time for a start to look for what others have left that were killed: somebody in this file is dead, or nobody has
    /// looked for a second. A look at all of a thousand containers takes six milliseconds, and one at this file one: no look at a long file.
    fn is_sweep_due(&self) -> bool {
        const PERIOD: Duration = Duration::from_secs(1);
        const SHORT: u64 = 128 * SLOT as u64;
        let last = self.lock.metadata().and_then(|lock| lock.modified());
        // A time to come was told before the clock was set.
        let is_recent = last.is_ok_and(|last| last.elapsed().is_ok_and(|since| since < PERIOD));
        if is_recent {
            let is_short = self.file.metadata().is_ok_and(|file| file.len() <= SHORT);
            return is_short && has(&self.read().unwrap_or_default(), |is_alive| !is_alive);
        }
        // Others need not look, too.
        self.lock.set_modified(SystemTime::now()).is_ok()
    }
}

/// A bridge is there anew: what its file says of the containers of an older one, from before the machine was reset say, goes.
pub fn begin(network: &str) {
    let path = path_named(network);
    if path.exists() {
        // What stays goes with the next container that has been given a name.
        drop(Hosts::at(path).and_then(|hosts| hosts.sweep()));
    }
}

/// Removes what containers with these links have left, which are gone, in the file of whatever network. Others may share the
/// directory with us who have links of those names: they are told apart by their namespaces, and numbers.
///
/// # Errors
/// What the file system refuses, after all files were looked at.
pub fn sweep_links(links: &BTreeSet<&str>) -> Result<()> {
    let doing = || "sweep names that dead containers have left".to_string();
    let entries = match std::fs::read_dir(state::DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(doing)?,
    };
    let mut errors = Vec::new();
    for entry in entries {
        let path = entry.doing(doing)?.path();
        if path.extension().is_none_or(|it| it != "hosts") {
            continue;
        }
        let swept = Hosts::at(path).and_then(|hosts| {
            let has_changed = hosts.sweep_some(|link| links.contains(link))?;
            if has_changed { hosts.tell() } else { Ok(()) }
        });
        errors.extend(swept.doing(doing).err());
    }
    all_of(&errors)
}

/// Whether nobody who lives, here or in another network namespace, is in a file.
pub fn is_left_over(path: &Path) -> bool {
    let mut text = Vec::new();
    let read = open_to_read(path).and_then(|mut file| file.read_to_end(&mut text));
    read.is_err() || !has(&text, |is_alive| is_alive)
}

/// Whether somebody is in a file's text who is meant, by whether he is alive.
fn has(text: &[u8], is_meant: impl Fn(bool) -> bool) -> bool {
    let (mut lines, here) = (lines_of(text).skip(LOCALHOST.len()), Here::find());
    lines.any(|(_, line)| line[0] != FREE && is_meant(here.is_alive(line)))
}
