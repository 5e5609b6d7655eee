//! Keeps a container's resolv.conf and hosts at what the host, and its network, say while it runs.
//!
//! Both are files of a tmpfs of ours, written through descriptors that the child gave away before it was init: nothing
//! inside can lead a write elsewhere. What the container itself has written there is its own, and stays.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dns::{HOST, Resolvers, UPLINK, Within};
use crate::hosts::Private;
use crate::watch::{Of, Watch};
use crate::written::Written;

/// A container that lives shorter than this is none that a change is for: closing an inotify descriptor may take the
/// kernel 16 ms, which would be at its end. Nor is a flush of the firewall: as soon as somebody listens, the kernel builds
/// what it tells of each element. What has happened until then is looked for once, all at the same moment.
pub const BEGIN: Duration = Duration::from_millis(500);
/// From the first sign of a change until it is read: who writes a file in place empties it first, and who replaces it
/// may remove it before.
const SETTLE: Duration = Duration::from_millis(100);

/// What came with the container.
pub struct Follower {
    resolvers: Option<Following>,
    hosts: Option<Private>,
    watch: Option<Watch>,
    due: Option<Instant>,
}

/// resolv.conf.
pub struct Following {
    /// What was asked for: the rest is the host's.
    pub asked: Resolvers,
    /// From where they are to be reached.
    pub within: Within,
    /// What the container was told last.
    pub known: Resolvers,
    /// Its resolv.conf.
    pub file: Written,
}

impl Follower {
    /// Begins after a while.
    pub fn new(resolvers: Option<Following>, hosts: Option<Private>) -> Option<Self> {
        if resolvers.is_none() && hosts.is_none() {
            return None;
        }
        Some(Follower {
            resolvers,
            hosts,
            watch: None,
            due: Instant::now().checked_add(BEGIN),
        })
    }

    /// When to look even if nothing has happened.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What the kernel takes long to close: that, and files that are the last to hold a file system of the container's.
    pub fn slow_to_close(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let resolvers = self.resolvers.as_ref().map(|one| one.file.as_fd());
        let hosts = self.hosts.as_ref().map(Private::file);
        self.descriptor().into_iter().chain(resolvers).chain(hosts)
    }

    /// What to wait for.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// After each wait. The host's resolvers, when they are others than the container was told: it is to be told by
    /// [`Follower::tell`].
    pub fn look(&mut self, is_ready: bool) -> Option<Resolvers> {
        let now = Instant::now();
        if is_ready && self.watch.as_ref().is_some_and(Watch::has_changed) && self.due.is_none() {
            self.due = now.checked_add(SETTLE);
        }
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        self.watch();
        if let Some(hosts) = &mut self.hosts {
            hosts.follow();
        }
        let resolvers = self.resolvers.as_ref()?;
        // A file that is not there says nothing, and neither does one that init would refuse.
        let found = Resolvers::choose(&resolvers.asked, resolvers.within).ok()?;
        (found != resolvers.known && found.to_file().is_some()).then_some(found)
    }

    /// Writes the container's resolv.conf.
    pub fn tell(&mut self, found: Resolvers) {
        if let (Some(resolvers), Some(text)) = (&mut self.resolvers, found.to_file()) {
            // A file that cannot be written (its file system is full) is behind until the next change.
            let _ = resolvers.file.write(text);
            resolvers.known = found;
        }
    }

    /// Before anything is read, so that nothing is missed.
    fn watch(&mut self) {
        if self.watch.is_none() {
            // Refused: the files stay as they are.
            self.watch = Watch::new().ok();
        }
        let Some(watch) = &mut self.watch else { return };
        let mut paths = Vec::new();
        if let Some(hosts) = &self.hosts {
            paths.push((hosts.network(), Of::Attributes));
        }
        if let Some(resolvers) = &self.resolvers {
            paths.push((Path::new(HOST), Of::Content));
            watch.follow(&paths);
            if Resolvers::looks_behind(resolvers.within) {
                paths.push((Path::new(UPLINK), Of::Content));
            }
        }
        watch.follow(&paths);
        // Of what we have changed about the watch itself.
        watch.has_changed();
    }
}
