//! What the rules say of a connection that a limited container has opened, for one that is there already: whoever was let through while there
//! were no rules would go on, and who would be let through now is to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::elements::DNS;
use super::{Policy, policy_of};
use crate::attach::Attachment;
use crate::conntrack::Entry;
use crate::netlink::Netlink;
use crate::publish::Protocol;
use crate::reach::{Allowed, Egress, Reach};

/// The limits of one container.
pub struct Limits<'a> {
    attachment: &'a Attachment,
    reach: &'a Reach,
    resolvers: &'a [IpAddr],
    route: Option<Netlink>,
    /// The links behind which there are containers of ours; none before it was asked.
    guarded: Option<BTreeSet<u32>>,
    /// Whether an address is behind one of them.
    known: BTreeMap<IpAddr, bool>,
}

impl<'a> Limits<'a> {
    /// Nothing is asked yet.
    pub fn new(attachment: &'a Attachment, reach: &'a Reach, resolvers: &'a [IpAddr]) -> Self {
        Limits {
            attachment,
            reach,
            resolvers,
            route: None,
            guarded: None,
            known: BTreeMap::new(),
        }
    }

    /// Whether none of the limits is against it. What cannot be told is.
    pub fn allow(&mut self, entry: &Entry) -> bool {
        let is_listed = match &self.reach.egress {
            Egress::All => true,
            Egress::Only(list) => list.iter().any(|one| self.lists(*one, entry)),
        };
        // Led on by a port of the host: the chain `from`.
        let is_published = entry.to != entry.by;
        is_listed
            && (!self.reach.internal || self.is_on_network(entry.by))
            && (!self.reach.isolated || is_published || !self.is_guarded(entry.by))
    }

    fn lists(&self, one: Allowed, entry: &Entry) -> bool {
        let is_by =
            |protocol: Protocol, port| entry.protocol == protocol.number() && entry.port == port;
        match one {
            Allowed::Addresses(net) => net.contains(&entry.to),
            Allowed::Port(net, protocol, port) => net.contains(&entry.to) && is_by(protocol, port),
            Allowed::Resolvers => {
                let is_dns = is_by(Protocol::Udp, DNS) || is_by(Protocol::Tcp, DNS);
                is_dns && self.resolvers.contains(&entry.to)
            }
        }
    }

    fn is_on_network(&self, address: IpAddr) -> bool {
        let network = &self.attachment.network;
        let subnet6 = network.subnet6.map(IpNet::V6);
        let mut subnets = [Some(network.subnet.into()), subnet6].into_iter().flatten();
        network.gateway == address || subnets.any(|subnet: IpNet| subnet.contains(&address))
    }

    /// The host itself has its own addresses on such links.
    fn is_guarded(&mut self, address: IpAddr) -> bool {
        if let Some(is_guarded) = self.known.get(&address) {
            return *is_guarded;
        }
        let is_guarded = self.look(address).unwrap_or(true);
        self.known.insert(address, is_guarded);
        is_guarded
    }

    /// `None`: it cannot be told, or no way leads there.
    fn look(&mut self, address: IpAddr) -> Option<bool> {
        if self.route.is_none() {
            self.route = Netlink::route().ok();
        }
        let route = self.route.as_mut()?;
        if self.guarded.is_none() {
            let mut links = route.links().ok()?;
            links.retain(|link| policy_of(link.group) == Some(Policy::Guarded));
            self.guarded = Some(links.iter().map(|link| link.index).collect());
        }
        let guarded = self.guarded.as_ref()?;
        let way = route.routes_to(&[address]).ok()?.pop()??;
        Some(!way.is_local && way.links().any(|link| guarded.contains(&link)))
    }
}
