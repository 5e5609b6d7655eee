//! Ports that are published and withdrawn while the container lives.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Container, Supervisor};
use crate::attach;
use crate::conntrack;
use crate::error::{Doing, Error, Result};
use crate::netlink::Netlink;
use crate::nft::Entry;
use crate::port::not_published;
use crate::publish::{self, Port, Protocol, Range};
use crate::sys;

impl Supervisor {
    /// Publishes ports: all of them, or none. Gives them as they are, free ones chosen.
    pub(super) fn add_ports(&mut self, range: Range) -> Result<Vec<Range>> {
        let container = &mut self.container;
        let Some(attachment) = &container.attachment else {
            return Err(Error::new(format!(
                "publish {range}: container {} has no network of its own",
                self.description.name
            )));
        };
        let wanted: Vec<Port> = range.ports().collect();
        let held = attach::hold_free(&wanted, None)?;
        let ports: Vec<Port> = held.iter().map(|one| one.port).collect();
        for port in &ports {
            publish::check_family(port, attachment.veth.address6)?;
        }
        let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
        publish::let_back(&mut route, attachment, &ports)?;
        if let Some(entry) = &mut container.entry {
            entry.add_ports(&ports)?;
        }
        if let Err(error) = container.splice.add(held) {
            // It may hold some of them.
            let taken = BTreeSet::from_iter(ports.iter().copied());
            container.splice.remove(&taken);
            if let Some(entry) = &mut container.entry {
                let _ = entry.remove_ports(&ports);
            }
            return Err(error);
        }
        self.published.extend(&ports);
        self.had_ports = true;
        self.keep_ports();
        Ok(publish::ranges(ports))
    }

    /// Withdraws those ports of a range that are published. Gives them.
    pub(super) fn remove_ports(&mut self, range: Range) -> Result<Vec<Range>> {
        let container = &mut self.container;
        let ports = container.splice.ports_of(range);
        if ports.is_empty() {
            return Err(not_published(range, &self.description.name));
        }
        if let Some(entry) = &mut container.entry {
            entry.remove_ports(&ports)?;
        }
        container
            .splice
            .remove(&BTreeSet::from_iter(ports.iter().copied()));
        // By TCP those that there are go on.
        let ends = |port: &&Port| port.protocol == Protocol::Udp;
        self.withdrawn.extend(ports.iter().filter(ends));
        self.keep_ports();
        Ok(publish::ranges(ports))
    }

    /// Who has joined the network lives on in it, with its address and its limits, but nobody holds its ports any more: whoever takes them
    /// next is to be reached by them.
    pub(super) fn close_ports(&mut self) {
        let ports: Vec<Port> = self.container.splice.ports().collect();
        if let Some(entry) = &mut self.container.entry {
            // Refused, to who has lost the link: there is nothing of ours left.
            let _ = entry.remove_ports(&ports);
        }
    }

    fn keep_ports(&self) {
        if let Some(ours) = &self.ours {
            ours.keep_ports(publish::ranges(self.container.splice.ports()));
        }
    }

    /// Rules have come back. Who has asked by UDP meanwhile was not led to the container, and would not be for as long as
    /// it goes on asking; by TCP it was refused, and begins anew. To look at all connections takes long, and every
    /// supervisor is at it after a flush: the rules of all others come first.
    pub(super) fn forget_later(&mut self) {
        const OTHERS: Duration = Duration::from_secs(1);
        let mut ports = self.container.splice.ports();
        if self.is_limited() || ports.any(|port| port.protocol == Protocol::Udp) {
            self.forget_at = Instant::now().checked_add(OTHERS);
        }
    }

    /// What the kernel remembers of these ports is forgotten. It may take as long as its table is large, and so nobody
    /// waits for it.
    pub(super) fn forget_connections(&mut self) {
        if self.forget_at.is_some_and(|at| at <= Instant::now()) {
            self.forget_at = None;
            if let Some(entry) = &mut self.container.entry {
                entry.forget_barred();
            }
            let ports = self.container.splice.ports();
            self.published
                .extend(ports.filter(|port| port.protocol == Protocol::Udp));
        }
        let is_later = self.first_look.is_some_and(|at| at > Instant::now());
        let mut published = Vec::new();
        if !is_later {
            self.first_look = None;
            published = std::mem::take(&mut self.published);
        }
        let withdrawn = std::mem::take(&mut self.withdrawn);
        if published.is_empty() && withdrawn.is_empty() {
            return;
        }
        let ours = self.addresses();
        if let Some(entry) = &mut self.container.entry {
            // Without it, who goes on from an old connection reaches nobody; there is nobody to tell here.
            let _ = conntrack::forget(entry.socket(), &published, &ours);
            let _ = conntrack::forget(entry.socket(), &withdrawn, &[]);
        }
    }

    /// The container has ended: so have its connections. Who goes on with one hears at once that it is over, and not
    /// whoever gets the address next.
    ///
    /// `lives_on`: others are in its network still, whose own go on.
    pub(super) fn forget_container(&mut self, lives_on: bool) {
        let Container {
            entry, attachment, ..
        } = &mut self.container;
        if let (Some(entry), Some(attachment)) = (entry, attachment) {
            let are_many = !lives_on && conntrack::are_many();
            let holder = attachment.veth.holder();
            conntrack::forget_ended(entry.socket(), &[holder], self.had_ports, are_many);
        }
    }

    /// Somebody has deleted its link, and another has come in its place.
    pub(super) fn is_address_anothers(&self) -> bool {
        let Container {
            entry, attachment, ..
        } = &self.container;
        let (Some(entry), Some(attachment)) = (entry, attachment) else {
            return false;
        };
        let found = sys::link_index(entry.as_fd(), &attachment.veth.name);
        found.is_ok_and(|index| index != attachment.veth.index)
    }

    /// It may not open every connection.
    pub(super) fn is_limited(&self) -> bool {
        let entry = self.container.entry.as_ref();
        entry.is_some_and(Entry::is_limited)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let attachment = self.container.attachment.iter();
        attachment.flat_map(|one| one.veth.addresses()).collect()
    }
}

/// The answer to a request that changes ports: what was changed, or why nothing was.
pub(super) fn answer(changed: &Result<Vec<Range>>) -> String {
    match changed {
        Ok(ranges) => ranges.iter().map(|range| format!("{range}\n")).collect(),
        Err(error) => format!("error {error}\n"),
    }
}
