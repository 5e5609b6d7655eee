//! What a container has of the names of its network: its entry in the hosts file, and the file itself.

use super::Attachment;
use crate::bridge::Network;
use crate::config;
use crate::error::Result;
use crate::hosts::{Hosts, Lines, View};
use crate::request::Request;
use crate::spawn::Child;

/// What a container has of the names of its network.
#[derive(Default)]
pub struct Names {
    /// Its hosts file, when it is on one.
    pub hosts: Option<Hosts>,
    /// That of the network, whether it is on it or not: starts look at what others have left by its times.
    pub swept: Option<Hosts>,
    /// What its own hosts file begins with.
    pub first: String,
    lines: Option<Lines>,
}

impl Names {
    /// What its hosts file begins with, where that is its own: as many names as there is `room` for, in bytes of init's message.
    /// The rest follows.
    pub(super) fn look_up(
        &mut self,
        request: &Request,
        attachment: Option<&Attachment>,
        room: impl FnOnce() -> usize,
    ) {
        if let (Some(hosts), Some(View::Private)) = (&self.hosts, request.view_of_hosts()) {
            self.first = hosts.names(&config::own_hosts(request, attachment), room());
        }
    }

    /// Enters the container, so that those that have been there know it.
    ///
    /// Before: its link is there. Undone by [`Names::leave`].
    pub(super) fn enter(&mut self, request: &Request, attachment: &Attachment) -> Result<()> {
        if let Some(hosts) = &self.hosts {
            self.lines = Some(hosts.enter(request, &attachment.veth)?);
        }
        Ok(())
    }

    /// Off the way of the start: those who keep a copy of the names hear of this one.
    pub fn announce(&self) {
        if let Some(lines) = &self.lines {
            lines.announce();
        }
    }

    /// The names that others have left go, where a start has to see to that. True: the rest of theirs is to go, too.
    pub fn sweep_if_due(&self) -> bool {
        self.swept.as_ref().is_some_and(Hosts::sweep_if_due)
    }

    /// What others have left of names. Off the way of the start, or of the end.
    pub fn sweep(&self) {
        if let Some(lines) = &self.lines {
            lines.sweep_others();
        }
    }

    /// The container has ended.
    pub fn leave(&self) {
        if let Some(lines) = &self.lines {
            lines.remove();
        }
    }
}

/// Opens the hosts file of the network, and gives it to the child, which is waiting for it or about to, unless it has no neighbours.
///
/// Before: the network is there.
pub(super) fn open_names(
    request: &Request,
    network: Option<&Network>,
    child: &Child,
) -> Result<Names> {
    let Some(network) = network else {
        return Ok(Names::default());
    };
    let hosts = Hosts::open(network)?;
    let view = request.view_of_hosts();
    if request.writes_resolv && view == Some(View::Shared) {
        child.hand_hosts(&hosts.mount()?)?;
    }
    Ok(Names {
        hosts: view.map(|_| hosts.clone()),
        swept: Some(hosts),
        ..Names::default()
    })
}
