//! What the supervisor waits for: one poll(2) over all of its descriptors.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Supervisor;
use crate::follower::Follower;
use crate::sys;
use crate::terminal::Terminal;

/// After so long a silence there is time to give memory back.
const LULL: u8 = 100; // ms

/// Which descriptor of the poll is which; the clients follow.
pub(super) const SIGNALS: usize = 0;
pub(super) const CHILD: usize = 1;
pub(super) const LISTENER: usize = 2;
pub(super) const STATUS: usize = 3;
pub(super) const TERMINAL: usize = 4;
pub(super) const INPUT: usize = 5;
pub(super) const OUTPUT: usize = 6;
pub(super) const NEWS: usize = 7;
pub(super) const FOLLOWER: usize = 8;
pub(super) const PORTS: usize = 9;
pub(super) const LINKS: usize = 10;
pub(super) const CLIENTS: usize = 11;

impl Supervisor {
    /// Waits, and gives which descriptors are ready.
    pub(super) fn poll(&mut self) -> Vec<bool> {
        if self.spare.is_none() {
            self.spare = self.container.child.pidfd.try_clone().ok();
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.look_again();
        }
        let mut answered = std::mem::take(&mut self.answered);
        let mut fds = self.watched();
        let look_at = self.follower.as_ref().and_then(Follower::due);
        let behind_until = self.terminal.as_ref().and_then(Terminal::behind_until);
        let next = [
            self.kill_at,
            self.forget_at,
            self.first_look,
            self.listen_at,
            look_at,
            behind_until,
        ];
        let next = next.into_iter().flatten().min();
        let timeout = next.map_or(PollTimeout::NONE, |deadline| {
            let left =
                deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let is_ready = |fds: &[PollFd]| fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if self.is_busy {
            answered.clear();
            // What is given back now would only be fetched again for the next packet.
            let lull = match timeout {
                PollTimeout::NONE => LULL.into(),
                timeout => timeout.min(LULL.into()),
            };
            if !matches!(poll(&mut fds, lull), Ok(0)) {
                return is_ready(&fds);
            }
        }
        // Last of all: each place in the program that runs after it costs 64 kB again.
        if self.description.is_detached {
            sys::release_memory();
        }
        drop(answered);
        match poll(&mut fds, timeout) {
            Ok(_) => is_ready(&fds),
            Err(_) => Vec::new(),
        }
    }

    fn watched(&self) -> Vec<PollFd<'_>> {
        let child = &self.container.child;
        let signals = self.signals.as_fd();
        let none = PollFlags::empty();
        // A descriptor that is not wanted takes its place with no events: the places keep their numbers.
        let (host_side, events) = match &self.terminal {
            Some(terminal) => {
                let read = if terminal.is_stalled() {
                    none
                } else {
                    PollFlags::POLLIN
                };
                let write = if terminal.is_pending() {
                    PollFlags::POLLOUT
                } else {
                    none
                };
                (terminal.host_side(), read | write)
            }
            None => match &self.container.log {
                Some(log) => (log.outlet(), PollFlags::POLLIN),
                None => (signals, none),
            },
        };
        let is_stalled = self.terminal.as_ref().is_some_and(Terminal::is_stalled);
        let wants_input = self.terminal.as_ref().is_some_and(Terminal::wants_input);
        let mut fds = vec![
            PollFd::new(signals, PollFlags::POLLIN),
            PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN),
            match &self.container.lease {
                Some(lease) if self.spare.is_some() => {
                    PollFd::new(lease.listener.as_fd(), PollFlags::POLLIN)
                }
                _ => PollFd::new(signals, none),
            },
            if self.is_status_open {
                PollFd::new(child.status.as_fd(), PollFlags::POLLIN)
            } else {
                PollFd::new(signals, none)
            },
            PollFd::new(host_side, events),
            if wants_input {
                PollFd::new(sys::inherited(0), PollFlags::POLLIN)
            } else {
                PollFd::new(signals, none)
            },
            if is_stalled {
                PollFd::new(sys::inherited(1), PollFlags::POLLOUT)
            } else {
                PollFd::new(signals, none)
            },
            match &self.news {
                Some(news) => PollFd::new(news.as_fd(), PollFlags::POLLIN),
                None => PollFd::new(signals, none),
            },
            match self.follower.as_ref().and_then(Follower::descriptor) {
                Some(changes) => PollFd::new(changes, PollFlags::POLLIN),
                None => PollFd::new(signals, none),
            },
            match self.container.splice.descriptor() {
                Some(ports) => PollFd::new(ports, PollFlags::POLLIN),
                None => PollFd::new(signals, none),
            },
            match &self.links {
                Some(links) => PollFd::new(links.as_fd(), PollFlags::POLLIN),
                None => PollFd::new(signals, none),
            },
        ];
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)),
        );
        // Of those that wait only their going is of interest.
        fds.extend(
            self.waiting
                .iter()
                .map(|client| PollFd::new(client.as_fd(), none)),
        );
        fds
    }
}
