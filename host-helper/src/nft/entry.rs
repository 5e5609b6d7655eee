//! What the tables know of one container, as long as it lives.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::limits::Limits;
use super::object::Element;
use super::sets::{add, ask, is_missing, known, take, take_if_its};
use super::sweep::{sweep_tenant, warn_of_rest};
use super::{TABLE, TRIES, add_again, elements, ensure, is_whole, open};
use crate::attach::Attachment;
use crate::conntrack;
use crate::error::{Doing, Result, twice};
use crate::netlink::Netlink;
use crate::owner::Mark;
use crate::publish::{Port, Protocol};
use crate::reach::Reach;
use crate::sys;
use crate::veth::Veth;

/// Whether our rules were all there until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// They were: what they have let through, they let through.
    Whole,
    /// Some were not, and are again.
    Back,
}

/// What the tables know of one container.
pub struct Entry {
    nft: Netlink,
    attachment: Attachment,
    /// See [`elements::tenant_of`].
    number: u32,
    reach: Reach,
    resolvers: Vec<IpAddr>,
    ports: Vec<Port>,
    has_made_tables: bool,
}

impl Entry {
    /// Adds a container. What another has left over under its address is swept first.
    ///
    /// Undone by [`Entry::withdraw`], or [`super::forget`].
    ///
    /// # Errors
    /// What the kernel refused; nothing is changed then.
    pub fn add(
        mut nft: Netlink,
        attachment: &Attachment,
        reach: &Reach,
        ports: &[Port],
        resolvers: &[IpAddr],
    ) -> Result<Entry> {
        if let Some(tenant) = known(&mut nft, &attachment.veth.name)? {
            sweep_tenant(&mut nft, &tenant, attachment.veth.index, true)?;
        }
        let mut entry = Entry::of(moment(), nft, attachment, reach, ports, resolvers);
        entry.has_made_tables = entry.put(None)?;
        Ok(entry)
    }

    /// The same of a container that the tables may know already: then what is missing is added, and its connections go on by what is there.
    /// Where something was, of the rules too, it is forgotten what that has let through. Of one whose link is gone by now nothing is added:
    /// another may have its address.
    ///
    /// # Errors
    /// As [`Entry::add`].
    pub fn put_back(
        nft: Netlink,
        rules: Rules,
        attachment: &Attachment,
        reach: &Reach,
        ports: &[Port],
        resolvers: &[IpAddr],
    ) -> Result<()> {
        let once = |mut nft: Netlink| -> Result<()> {
            let tenant = known(&mut nft, &attachment.veth.name)?;
            // In this order: who comes later has another number.
            if !is_link_of(&nft, &attachment.veth)? {
                return Ok(());
            }
            let number = tenant.as_ref().and_then(elements::number_of);
            let is_its = |number: &u32| Some(elements::tenant_of(attachment, *number)) == tenant;
            let number = number.filter(is_its);
            if let (None, Some(last)) = (number, &tenant) {
                sweep_tenant(&mut nft, last, attachment.veth.index, true)?;
            }
            let is_known = number.is_some();
            let number = number.unwrap_or_else(moment);
            let mut entry = Entry::of(number, nft, attachment, reach, ports, resolvers);
            let elements = entry.elements();
            // What cannot be told may be missing.
            let is_there = is_known && matches!(is_missing(&mut entry.nft, &elements), Ok(false));
            let ours = entry.tenant();
            let has_made_tables = entry.put(Some(&ours))?;
            if !is_there || has_made_tables || rules == Rules::Back {
                entry.judge_anew();
            }
            Ok(())
        };
        let mut done = once(nft);
        for _ in 0..TRIES {
            // Another puts it back, or adds it, by a number of its own: then it is known by that one.
            match done {
                Err(error) if error.errno == Some(Errno::EEXIST) => {}
                done => return done,
            }
            done = once(open()?);
        }
        done
    }

    fn of(
        number: u32,
        nft: Netlink,
        attachment: &Attachment,
        reach: &Reach,
        ports: &[Port],
        resolvers: &[IpAddr],
    ) -> Entry {
        Entry {
            nft,
            attachment: attachment.clone(),
            number,
            reach: reach.clone(),
            resolvers: resolvers.to_vec(),
            ports: ports.to_vec(),
            has_made_tables: false,
        }
    }

    /// The rules were not there: what it has opened meanwhile, nothing forbade, and who has asked by UDP was not led to it.
    fn judge_anew(&mut self) {
        let addresses: Vec<IpAddr> = self.attachment.veth.addresses().collect();
        let mut udp = self.ports.clone();
        udp.retain(|port| port.protocol == Protocol::Udp);
        self.forget_barred();
        // Where nothing is tracked nothing is left.
        let _ = conntrack::forget(&mut self.nft, &udp, &addresses);
    }

    /// It may not open every connection.
    pub fn is_limited(&self) -> bool {
        self.reach.is_limited()
    }

    /// Forgets what a limited container has opened, unless its rules would let it: it is judged anew. What nobody has answered is, too: it may go
    /// on with an address that is not the host's.
    pub fn forget_barred(&mut self) {
        let mut limits = Limits::new(&self.attachment, &self.reach, &self.resolvers);
        if self.is_limited() {
            let holder = self.attachment.veth.holder();
            // Where nothing is tracked nothing is left, and there is nobody to tell.
            let _ = conntrack::forget_opened_if(&mut self.nft, holder, &mut |entry| {
                !entry.is_answered || !limits.allow(entry)
            });
        }
    }

    fn elements(&self) -> Vec<Element> {
        elements::of(
            &self.attachment,
            self.number,
            &self.reach,
            &self.ports,
            &self.resolvers,
        )
    }

    /// Refused by the kernel when another has come in our place.
    fn tenant(&self) -> Element {
        elements::tenant_of(&self.attachment, self.number)
    }

    /// Whether the link is still the one that was made for this container, which may have deleted it: then its name, and its
    /// addresses, are whoever's who comes next.
    fn has_link(&self) -> Result<bool> {
        let name = &self.attachment.veth.name;
        let doing = || format!("look for link {name}");
        let mut route = Netlink::route().doing(doing)?;
        let link = route.find_link(name).doing(doing)?;
        let owner = link.and_then(|link| link.mark);
        let container = owner.as_ref().and_then(Mark::container);
        Ok(container.is_some_and(|(_, netns)| netns == self.attachment.netns))
    }

    /// The tables were gone when it came to be added, which they had not been before.
    pub fn has_made_tables(&self) -> bool {
        self.has_made_tables
    }

    fn put(&mut self, tenant: Option<&Element>) -> Result<bool> {
        let elements = self.elements();
        let name = &self.attachment.veth.name;
        add_again(&mut self.nft, tenant, &elements, || {
            format!("add {name} to nft table {TABLE}")
        })
    }

    /// Whether the tables know of it: somebody may have flushed them.
    pub fn is_known(&mut self) -> bool {
        matches!(
            known(&mut self.nft, &self.attachment.veth.name),
            Ok(Some(_))
        )
    }

    /// Whether nothing is missing, neither of the tables nor of what they know of it: somebody may have flushed one table, a chain or
    /// a map. That takes a question for each element.
    pub fn is_whole(&mut self) -> bool {
        let elements = self.elements();
        // What cannot be told may be missing.
        matches!(is_whole(&mut self.nft), Ok(true))
            && matches!(is_missing(&mut self.nft, &elements), Ok(false))
    }

    /// Publishes further ports.
    ///
    /// # Errors
    /// What the kernel refused; nothing is changed then.
    pub fn add_ports(&mut self, ports: &[Port]) -> Result<()> {
        let tenant = self.tenant();
        let elements = elements::of_ports(&self.attachment, ports);
        add_again(&mut self.nft, Some(&tenant), &elements, || {
            "publish a port in nft".into()
        })
        .map_err(|error| {
            let cure = "the container has deleted its link, and another has its address now";
            error.cure(Errno::EEXIST, cure)
        })?;
        self.ports.extend_from_slice(ports);
        Ok(())
    }

    /// For what else is to be said to netfilter.
    pub fn socket(&mut self) -> &mut Netlink {
        &mut self.nft
    }

    /// Takes ports back.
    ///
    /// # Errors
    /// What the kernel refused; nothing is changed then.
    pub fn remove_ports(&mut self, ports: &[Port]) -> Result<()> {
        let going: BTreeSet<&Port> = ports.iter().collect();
        let left: Vec<Port> = (self.ports.iter().copied())
            .filter(|port| !going.contains(port))
            .collect();
        // What several ports share they share with those that lead to the same port inside; or it is what any one needs.
        let inside: BTreeSet<_> = ports
            .iter()
            .map(|port| (port.protocol, port.port))
            .collect();
        let any = left.iter().find(|port| !port.is_loopback()).copied();
        let shares = |port: &&Port| inside.contains(&(port.protocol, port.port));
        let sharing: Vec<Port> = left.iter().filter(shares).copied().chain(any).collect();
        let needed: BTreeSet<Element> =
            BTreeSet::from_iter(elements::of_ports(&self.attachment, &sharing));
        let mut gone = elements::of_ports(&self.attachment, ports);
        let network = &self.attachment.network;
        gone.retain(|it| !needed.contains(it) && !elements::is_shared(it, network));
        let tenant = self.tenant();
        take(&mut self.nft, Some(&tenant), &gone).doing(|| "take a port back from nft".into())?;
        self.ports = left;
        Ok(())
    }

    /// The container's resolvers have changed: `--egress dns` follows.
    ///
    /// # Errors
    /// What the kernel refused; it may reach neither the old nor the new ones then, until [`Entry::restore`].
    pub fn set_resolvers(&mut self, resolvers: &[IpAddr]) -> Result<()> {
        let doing = || "let the container reach its new resolvers".to_string();
        let before = elements::of_reach(&self.attachment, &self.reach, &self.resolvers);
        let after = elements::of_reach(&self.attachment, &self.reach, resolvers);
        let without = |some: &[Element], others: &[Element]| -> Vec<Element> {
            let mut left = some.to_vec();
            left.retain(|element| !others.contains(element));
            left
        };
        let tenant = self.tenant();
        take(&mut self.nft, Some(&tenant), &without(&before, &after)).doing(doing)?;
        // What puts elements back is to put these back.
        self.resolvers = resolvers.to_vec();
        add(&mut self.nft, Some(&tenant), &without(&after, &before)).doing(doing)
    }

    /// How many packets were refused because of `--egress`.
    pub fn refused(&mut self) -> u64 {
        refused(&mut self.nft, self.attachment.veth.addresses())
    }

    /// Something was deleted from the ruleset: what is ours is there again afterwards. True: the tables were not, until now.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn restore(&mut self) -> Result<bool> {
        // What is there is no error; looking for what is not would take as long.
        let mut has_made_tables = ensure(&mut self.nft)?;
        if self.has_link()? {
            let tenant = self.tenant();
            has_made_tables |= self.put(Some(&tenant))?;
        }
        Ok(has_made_tables)
    }

    /// Takes the container back. Of what cannot be taken the user is told.
    pub fn withdraw(&mut self) {
        let elements = self.of_container();
        self.take_back(&elements);
    }

    /// The same, but for the one by which whoever sweeps finds what is left of it, should we be killed before we have
    /// forgotten its connections. [`Entry::withdraw_tenant`] comes after that, unless this has not been done.
    pub fn withdraw_but_tenant(&mut self) -> bool {
        let mut elements = self.of_container();
        let tenant = self.tenant();
        elements.retain(|element| *element != tenant);
        self.take_back(&elements)
    }

    /// The last of it, unless another has its place by now.
    pub fn withdraw_tenant(&mut self) {
        let tenant = self.tenant();
        self.take_back(std::slice::from_ref(&tenant));
    }

    fn take_back(&mut self, elements: &[Element]) -> bool {
        let tenant = self.tenant();
        let once = || take_if_its(&mut self.nft, Some(&tenant), elements);
        let done = twice(once);
        let name = &self.attachment.veth.name;
        let done = done.doing(|| format!("take {name} out of nft table {TABLE}"));
        done.inspect_err(warn_of_rest).is_ok()
    }

    /// Without those of all who are on its network, which stay until `down`.
    fn of_container(&self) -> Vec<Element> {
        let mut elements = self.elements();
        elements.retain(|element| !elements::is_shared(element, &self.attachment.network));
        elements
    }
}

impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.nft.as_fd()
    }
}

/// How many packets were refused because of `--egress` of who has these addresses.
pub fn refused(nft: &mut Netlink, addresses: impl Iterator<Item = IpAddr>) -> u64 {
    let asked: Vec<Element> = addresses.map(elements::refused).collect();
    let mut packets = 0;
    // Not limited: no such element, and nothing was refused.
    let _ = ask(nft, &asked, |_, count| packets += count);
    packets
}

/// Whether a link is there still, and its name not another's.
fn is_link_of(nft: &Netlink, veth: &Veth) -> Result<bool> {
    match sys::link_index(nft.as_fd(), &veth.name) {
        Err(Errno::ENODEV) => Ok(false),
        found => {
            let index = found.doing(|| format!("look for link {}", veth.name))?;
            Ok(index == veth.index)
        }
    }
}

/// Of what is made one after the other under one name, no two are made at the same one.
fn moment() -> u32 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u32)
}
