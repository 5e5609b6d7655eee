//! What is said to the container's first process, and what it answers, from the clone to the command.

use std::os::fd::{AsFd, OwnedFd};

use hawser::protocol;

use super::said::{expect, receive_made};
use crate::config;
use crate::error::{Doing, Result};
use crate::netlink::Netlink;
use crate::signals::Signals;
use crate::spawn::{self, Child, Early, Elsewhere, Said, Spawn, StatusReader, kill};
use crate::sys;

/// A child that is on its way to the command.
pub struct Talk<'a> {
    /// It.
    pub child: Child,
    /// What it has said.
    pub status: StatusReader,
    signals: &'a Signals,
    hears_init: bool,
    elsewhere: Option<Elsewhere>,
}

impl Talk<'_> {
    /// Clones the child, or tells the one that was cloned early. `hears_init`: the user reads what init has to say.
    ///
    /// # Errors
    /// As [`spawn::spawn`] and [`Early::tell`].
    pub fn begin<'a>(
        spawn: &Spawn,
        early: Option<Early>,
        signals: &'a Signals,
        hears_init: bool,
    ) -> Result<Talk<'a>> {
        let told = match early {
            Some(early) => early.tell(spawn)?,
            None => None,
        };
        let (child, elsewhere) = match told {
            Some(started) => started,
            None => spawn::spawn(spawn)?,
        };
        Ok(Talk {
            child,
            status: StatusReader::default(),
            signals,
            hears_init,
            elsewhere,
        })
    }

    /// What kills it, whatever becomes of this.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn end(&self) -> Result<impl FnOnce() + 'static> {
        let pidfd = self.child.pidfd.try_clone();
        let pidfd = pidfd.doing(|| "copy a descriptor".into())?;
        Ok(move || kill(&pidfd))
    }

    /// The network namespace that it has made, and a socket inside.
    ///
    /// # Errors
    /// Why it has made none; a signal.
    pub fn receive_network(&mut self) -> Result<Option<(OwnedFd, Netlink)>> {
        let Talk { child, status, .. } = self;
        let made = receive_made(child, status, self.signals, self.hears_init)?;
        let inside = made.into_iter().next().map(Netlink::handed_over);
        let namespace = |inside: Netlink| {
            let namespace = sys::network_of(inside.as_fd());
            let namespace = namespace.doing(|| "look for the network namespace".into())?;
            Ok((namespace, inside))
        };
        inside.map(namespace).transpose()
    }

    /// Gives init its message. A signal until then undoes everything.
    ///
    /// # Errors
    /// A signal; what the parser says, or write(2).
    pub fn tell(&mut self, message: &str) -> Result<()> {
        self.signals.check()?;
        config::send(&self.child.config, message)
    }

    /// The same, and it may go on to the command.
    ///
    /// # Errors
    /// As [`Talk::tell`] and [`Talk::let_go`].
    pub fn tell_all(&mut self, message: String) -> Result<()> {
        self.free()?;
        self.tell(&(message + protocol::GO_LINE))
    }

    /// Waits until init has said that.
    ///
    /// # Errors
    /// What it says instead; a signal.
    pub fn wait_for(&mut self, said: &Said) -> Result<()> {
        self.signals.interrupt_unless_readable(&self.child.status)?;
        self.expect(said)
    }

    /// The same at once, whatever signal comes.
    ///
    /// # Errors
    /// What it says instead.
    pub fn expect(&mut self, said: &Said) -> Result<()> {
        expect(said, &mut self.status, &mut self.child, self.hears_init)
    }

    /// It may go on to the command, on any processor.
    ///
    /// # Errors
    /// What write(2) or sched_setaffinity(2) says.
    pub fn let_go(&mut self) -> Result<()> {
        self.free()?;
        self.child.tell_to_go()
    }

    fn free(&mut self) -> Result<()> {
        match self.elsewhere.take() {
            Some(elsewhere) => elsewhere.end(self.child.pid),
            None => Ok(()),
        }
    }
}
