//! The firewall: two tables, `inet hawser` and `bridge hawser`, whose chains and rules never change (`tables.rs`).
//! A network or a container is elements of their sets (`elements.rs`): one batch adds them, one takes them back.
//!
//! [`ensure`] makes the kernel have the tables; an [`Entry`] is what they know of one container, as long as it lives.

mod elements;
mod expression;
pub mod foreign;
mod message;
mod tables;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use hawser::netlink::{Attributes, Message, read_u32};
use message::{Batch, Element, Family, kind};
use nix::errno::Errno;

use crate::attach::Attachment;
use crate::bridge::{Network, POINT_TO_POINT_NAME};
use crate::error::{Doing, Error, Refusal, Result};
use crate::mark;
use crate::netlink::Netlink;
use crate::owner::Mark;
use crate::ptp;
use crate::publish::Port;
use crate::reach::Reach;
use crate::state;
use crate::sys;

/// The group of the host ends that are ports of a bridge.
pub const PORT_GROUP: u32 = tables::PORT;
/// Name of both tables.
const TABLE: &str = "hawser";
/// The version that is in the tables' comments.
const COMMENT: &str = "hawser 3";

/// A chain, and how many rules it has, and how many jump to it.
type Expected = (Family, &'static str, u32, u32);
/// What [`tables::tables`] says, counted: a test compares them. On the start path the tables are not built.
const EXPECTED: [Expected; 22] = [
    (Family::Inet, "refuse", 2, 15),
    (Family::Inet, "egress", 7, 4),
    (Family::Inet, "from", 7, 1),
    (Family::Inet, "to", 12, 1),
    (Family::Inet, "prerouting", 7, 0),
    (Family::Inet, "input", 10, 0),
    (Family::Inet, "forward", 6, 0),
    (Family::Inet, "output", 2, 0),
    (Family::Inet, "nat_prerouting", 6, 0),
    (Family::Inet, "nat_output", 6, 0),
    (Family::Inet, "nat_postrouting", 4, 0),
    (Family::Bridge, "route", 3, 2),
    (Family::Bridge, "neighbours", 8, 1),
    (Family::Bridge, "solicitation", 7, 1),
    (Family::Bridge, "advertisement", 8, 1),
    (Family::Bridge, "routers", 5, 1),
    (Family::Bridge, "dhcp", 4, 2),
    (Family::Bridge, "arp", 4, 1),
    (Family::Bridge, "ipv6", 4, 1),
    (Family::Bridge, "ipv4", 3, 1),
    (Family::Bridge, "prerouting", 5, 0),
    (Family::Bridge, "forward", 2, 0),
];
/// How many chains and sets each table has.
const EXPECTED_OBJECTS: [(Family, u32); 2] = [(Family::Inet, 36), (Family::Bridge, 18)];

const NEW_TABLE: u16 = kind(libc::NFT_MSG_NEWTABLE);
const NEW_CHAIN: u16 = kind(libc::NFT_MSG_NEWCHAIN);
const NEW_ELEMENTS: u16 = kind(libc::NFT_MSG_NEWSETELEM);

/// The group of a network's links.
pub fn group_of(network: &Network) -> u32 {
    if network.bridge.is_some() {
        group_of_name(&network.name)
    } else {
        group_of_name(&network.subnet.to_string())
    }
}

/// The group of the network of this name: a bridge's, `ptp`, or a point-to-point network's subnet.
pub fn group_of_name(name: &str) -> u32 {
    let name = if name == POINT_TO_POINT_NAME {
        ptp::POINT_TO_POINT.to_string()
    } else {
        name.to_string()
    };
    // FNV-1a of 32 bits (RFC 9923), folded to 24.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    tables::OURS | ((hash >> 24) ^ (hash & 0x00ff_ffff))
}

/// Whether a link of this group is a bridge of ours, or the host end of a point-to-point container.
pub fn is_ours(group: u32) -> bool {
    group & tables::OURS_MASK == tables::OURS
}

/// A socket to nf_tables.
///
/// # Errors
/// The kernel has none.
pub fn open() -> Result<Netlink> {
    Netlink::netfilter()
        .doing(|| "open a netlink socket to nf_tables".into())
        .map_err(name_missing_options)
}

/// The tables are there, and whole. True: they were not, until now.
///
/// # Errors
/// What the kernel refused; the ruleset is then as it was.
pub fn ensure(nft: &mut Netlink) -> Result<bool> {
    let doing = || format!("look at nft table {TABLE}");
    if look(nft).doing(doing).map_err(name_missing_options)? == State::Whole {
        return Ok(false);
    }
    // One at a time: whoever comes second finds it whole.
    let _lock = state::lock()?;
    match look(nft).doing(doing)? {
        State::Whole => return Ok(false),
        State::Missing => {}
        State::Foreign(version) => replace(nft, &version)?,
    }
    install(nft)
        .doing(|| format!("install nft tables inet and bridge {TABLE}"))
        .map_err(name_missing_options)?;
    Ok(true)
}

/// What there is of our tables.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Whole,
    /// Something is, or everything.
    Missing,
    /// They are of another version, or somebody else's: this comment.
    Foreign(String),
}

/// Compares the tables in the kernel with ours by what they count: objects, rules of the chains, version.
fn look(nft: &mut Netlink) -> std::result::Result<State, Refusal> {
    const NFTA_TABLE_USE: u16 = 3;
    const NFTA_TABLE_USERDATA: u16 = 6;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_USE: u16 = 6;
    let (mut right, mut foreign) = (0, None);
    let done = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            for (family, _) in EXPECTED_OBJECTS {
                batch.ask_table(family);
            }
            for (family, chain, ..) in EXPECTED {
                batch.ask_chain(family, chain);
            }
            batch.last()
        },
        |message| {
            let family = message.payload.first().copied();
            let (mut name, mut uses, mut has_hook, mut comment) = ("", 0, false, None);
            for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                let number = || read_u32(value, 0).map_or(0, u32::from_be);
                match (message.kind, kind) {
                    (NEW_TABLE, NFTA_TABLE_USE) | (NEW_CHAIN, NFTA_CHAIN_USE) => uses = number(),
                    (NEW_TABLE, NFTA_TABLE_USERDATA) => {
                        let text = value.get(2..).unwrap_or(&[]);
                        comment = text.strip_suffix(b"\0");
                    }
                    (NEW_CHAIN, NFTA_CHAIN_NAME) => {
                        let text = value.strip_suffix(b"\0").unwrap_or(value);
                        name = std::str::from_utf8(text).unwrap_or_default();
                    }
                    (NEW_CHAIN, NFTA_CHAIN_HOOK) => has_hook = true,
                    _ => {}
                }
            }
            if message.kind == NEW_TABLE {
                // None: somebody has made it for the admin's chain.
                if let Some(other) = comment.filter(|text| *text != COMMENT.as_bytes()) {
                    foreign = Some(String::from_utf8_lossy(other).into_owned());
                }
                // The admin may have more in it, for their chain.
                let is_whole =
                    |(of, objects): &(Family, u32)| Some(*of as u8) == family && uses >= *objects;
                right += usize::from(EXPECTED_OBJECTS.iter().any(is_whole));
            } else if message.kind == NEW_CHAIN {
                let is_whole = |(of, chain, rules, jumps): &Expected| {
                    // Their chain may jump to ours.
                    let all = rules + jumps;
                    let is_right = if has_hook { uses == all } else { uses >= all };
                    Some(*of as u8) == family && *chain == name && is_right
                };
                right += usize::from(EXPECTED.iter().any(is_whole));
            }
        },
    );
    ignore_missing(done)?;
    Ok(match foreign {
        Some(comment) => State::Foreign(comment),
        None if right == EXPECTED.len() + EXPECTED_OBJECTS.len() => State::Whole,
        None => State::Missing,
    })
}

/// Takes tables of another version away, as long as nothing depends on them.
fn replace(nft: &mut Netlink, version: &str) -> Result<()> {
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let living = crate::detach::living(&mut route)?;
    let doing =
        format!("replace nft table inet {TABLE}, which says {version:?} and not {COMMENT:?}");
    if !living.is_empty() {
        return Err(Error::new(format!(
            "{doing}: containers live by its rules: {}; stop them first",
            living.join(", ")
        )));
    }
    if has_rules_of_the_admin(nft).doing(|| doing.clone())? {
        return Err(Error::new(format!(
            "{doing}: its chain {} has rules; save and delete them first (nft flush chain inet {TABLE} {0})",
            tables::USER
        )));
    }
    remove(nft)
}

/// Makes the tables what they are to be, in one transaction. The admin's chain and all elements stay.
fn install(nft: &mut Netlink) -> std::result::Result<(), Refusal> {
    transaction(nft, |batch| {
        let mut id = 0;
        for table in &tables::tables() {
            let family = table.family;
            batch.add_table(family, COMMENT);
            for chain in &table.chains {
                batch.add_chain(family, chain);
            }
            for set in &table.sets {
                id += 1;
                batch.add_set(family, set, id);
            }
            for chain in table
                .chains
                .iter()
                .filter(|chain| chain.name != tables::USER)
            {
                batch.delete_rules(family, chain.name);
            }
            for rule in &table.rules {
                batch.add_rule(family, rule);
            }
        }
    })
}

/// Deletes the tables; what the admin has put into their chain stays, and the chain. Gone already is success.
///
/// # Errors
/// What the kernel refused.
pub fn remove(nft: &mut Netlink) -> Result<()> {
    let doing = || format!("delete nft table {TABLE}");
    let keeps_user = has_rules_of_the_admin(nft).doing(doing)?;
    for table in &tables::tables() {
        let done = transaction(nft, |batch| {
            if keeps_user && table.family == Family::Inet {
                for chain in table
                    .chains
                    .iter()
                    .filter(|chain| chain.name != tables::USER)
                {
                    batch.delete_rules(table.family, chain.name);
                }
                for chain in table
                    .chains
                    .iter()
                    .filter(|chain| chain.name != tables::USER)
                {
                    batch.delete_chain(table.family, chain.name);
                }
                for set in &table.sets {
                    batch.delete_set(table.family, set.name);
                }
            } else {
                batch.delete_table(table.family);
            }
        });
        ignore_missing(done).doing(doing)?;
    }
    Ok(())
}

/// Beyond the one rule that jumps there.
fn has_rules_of_the_admin(nft: &mut Netlink) -> std::result::Result<bool, Refusal> {
    const NFTA_CHAIN_USE: u16 = 6;
    let mut uses = 0;
    let done = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.ask_chain(Family::Inet, tables::USER);
            batch.last()
        },
        |message| {
            for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                if kind == NFTA_CHAIN_USE {
                    uses = read_u32(value, 0).map_or(0, u32::from_be);
                }
            }
        },
    );
    ignore_missing(done)?;
    Ok(uses > 1)
}

/// What the tables know of a bridge of ours is there.
///
/// # Errors
/// What the kernel refused.
pub fn add_bridge(nft: &mut Netlink, name: &str) -> Result<()> {
    add(nft, None, &elements::of_bridge(name))
        .doing(|| format!("add network {name} to nft table {TABLE}"))
}

/// Takes a bridge of ours back; gone already is success.
///
/// # Errors
/// What the kernel refused.
pub fn remove_bridge(nft: &mut Netlink, name: &str) -> Result<()> {
    take(nft, None, &elements::of_bridge(name))
        .doing(|| format!("remove network {name} from nft table {TABLE}"))
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
}

impl Entry {
    /// Adds a container. What another has left over under its address is swept first.
    ///
    /// Undone by [`Entry::withdraw`], or [`forget`].
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
        if let Some((_, addresses)) = known(&mut nft, attachment) {
            sweep(&mut nft, &attachment.veth.name, &addresses)?;
        }
        let mut entry = Entry {
            nft,
            attachment: attachment.clone(),
            number: moment(),
            reach: reach.clone(),
            resolvers: resolvers.to_vec(),
            ports: ports.to_vec(),
        };
        entry.put()?;
        Ok(entry)
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
        Ok(matches!(owner, Some(Mark::Run(owner)) if owner.netns == self.attachment.netns))
    }

    fn put(&mut self) -> Result<()> {
        let elements = self.elements();
        let name = &self.attachment.veth.name;
        add(&mut self.nft, None, &elements).doing(|| format!("add {name} to nft table {TABLE}"))
    }

    /// Publishes further ports.
    ///
    /// # Errors
    /// What the kernel refused; nothing is changed then.
    pub fn add_ports(&mut self, ports: &[Port]) -> Result<()> {
        let tenant = self.tenant();
        let elements = elements::of_ports(&self.attachment, ports);
        add(&mut self.nft, Some(&tenant), &elements)
            .doing(|| "publish a port in nft".into())
            .map_err(|error| {
                let cure = "the container has deleted its link, and another has its address now";
                error.cure(Errno::EEXIST, cure)
            })?;
        self.ports.extend_from_slice(ports);
        Ok(())
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
        gone.retain(|element| !needed.contains(element));
        let tenant = self.tenant();
        take(&mut self.nft, Some(&tenant), &gone).doing(|| "take a port back from nft".into())?;
        self.ports = left;
        Ok(())
    }

    /// The container's resolvers have changed: `--egress dns` follows.
    ///
    /// # Errors
    /// What the kernel refused; the old ones then still hold.
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
        add(&mut self.nft, Some(&tenant), &without(&after, &before)).doing(doing)?;
        self.resolvers = resolvers.to_vec();
        Ok(())
    }

    /// How many packets were refused because of `--egress`.
    pub fn refused(&mut self) -> u64 {
        let asked: Vec<Element> = elements::addresses(&self.attachment)
            .map(elements::refused)
            .collect();
        let mut packets = 0;
        // Not limited: no such element, and nothing was refused.
        let _ = ask(&mut self.nft, &asked, |_, count| packets += count);
        packets
    }

    /// Listens to changes of the ruleset that may have taken ours away. See [`Entry::heard`].
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn listen() -> Result<Netlink> {
        let mut news = open()?;
        let doing = || "listen to nf_tables".to_string();
        sys::only_deletions(news.as_fd()).doing(doing)?;
        news.join(libc::NFNLGRP_NFTABLES as u32).doing(doing)?;
        Ok(news)
    }

    /// Something was deleted from the ruleset: what is ours is there again afterwards.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn restore(&mut self) -> Result<()> {
        // What is there is no error; looking for what is not would take as long.
        ensure(&mut self.nft)?;
        if self.has_link()? {
            self.put()?;
        }
        Ok(())
    }

    /// Takes the container back. What cannot be taken is swept by the next tenant of the address.
    pub fn withdraw(&mut self) {
        let elements = self.of_container();
        let tenant = self.tenant();
        let _ = take(&mut self.nft, Some(&tenant), &elements);
    }

    /// Without the network's own, which stay until `down`.
    fn of_container(&self) -> Vec<Element> {
        let network = elements::of_network(&self.attachment.network);
        let mut elements = self.elements();
        elements.retain(|element| !network.contains(element));
        elements
    }
}

impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.nft.as_fd()
    }
}

/// Takes back whatever the tables know of a container.
pub fn forget(attachment: &Attachment) {
    let addresses: Vec<IpAddr> = elements::addresses(attachment).collect();
    // Whoever takes the address next does it again.
    let _ = open().and_then(|mut nft| sweep(&mut nft, &attachment.veth.name, &addresses));
}

/// What the tables know of a container with this host end, whoever left it.
fn known(nft: &mut Netlink, attachment: &Attachment) -> Option<(String, Vec<IpAddr>)> {
    let asked = [elements::tenant(&attachment.veth.name)];
    let mut found = None;
    // Refused: there is none, or no table yet.
    let _ = ask(nft, &asked, |element, _| {
        found = elements::known(&Element {
            set: tables::TENANTS,
            ..element
        });
    });
    found
}

fn sweep(nft: &mut Netlink, link: &str, addresses: &[IpAddr]) -> Result<()> {
    let doing = || format!("sweep what is left over of {link}");
    let mut found = all_elements(nft).doing(doing)?;
    found.retain(|element| elements::is_of(element, addresses, link));
    take(nft, None, &found).doing(doing)
}

/// Sweeps what killed supervisors have left: of every container whose link is not there any more. Something that
/// changes meanwhile leaves it to the next call.
///
/// # Errors
/// What the kernel refused.
pub fn sweep_dead(route: &mut Netlink) -> Result<()> {
    const TRIES: u32 = 3;
    let doing = || "sweep what dead containers have left".to_string();
    let mut nft = open()?;
    for _ in 0..TRIES {
        let generation = generation(&mut nft).doing(doing)?;
        let mut tenants = elements_of(&mut nft, Family::Inet, tables::TENANTS).doing(doing)?;
        if tenants.is_empty() {
            return Ok(());
        }
        let links = route.links().doing(|| "list links".into())?;
        let names: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
        let dead: Vec<_> = tenants
            .drain(..)
            .filter_map(|tenant| elements::known(&tenant))
            .filter(|(name, _)| !names.contains(name.as_str()))
            .collect();
        if dead.is_empty() {
            return Ok(());
        }
        let mut found = all_elements(&mut nft).doing(doing)?;
        found.retain(|element| {
            dead.iter()
                .any(|(name, addresses)| elements::is_of(element, addresses, name))
        });
        let done = nft.exchange(
            |writer, sequence| {
                let mut batch = Batch::new(writer, sequence, TABLE);
                batch.begin_at(generation);
                batch.elements(libc::NFT_MSG_DELSETELEM, 0, &found);
                batch.commit()
            },
            |_| {},
        );
        match done {
            // Somebody else has changed the ruleset; an address may have been taken anew.
            Err(refusal) if matches!(refusal.errno, Errno::ERESTART | Errno::ENOENT) => {}
            done => {
                done.doing(doing)?;
                let addresses: Vec<IpAddr> = dead.into_iter().flat_map(|(_, all)| all).collect();
                return mark::sweep_neighbours(route, &addresses);
            }
        }
    }
    Ok(())
}

fn generation(nft: &mut Netlink) -> std::result::Result<u32, Refusal> {
    const NFTA_GEN_ID: u16 = 1;
    let mut generation = 0;
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.ask_generation();
            batch.last()
        },
        |message| {
            for (kind, value) in Attributes::new(message.payload.get(4..).unwrap_or(&[])) {
                if kind == NFTA_GEN_ID {
                    generation = read_u32(value, 0).map_or(0, u32::from_be);
                }
            }
        },
    )?;
    Ok(generation)
}

/// Adds elements in one transaction; those that are there already are no error. What is mapped to something else is
/// of nobody who lives, since the port is held by us: it is replaced. Not so `tenant`: whoever has another number there lives.
fn add(
    nft: &mut Netlink,
    tenant: Option<&Element>,
    elements: &[Element],
) -> std::result::Result<(), Refusal> {
    let put = |nft: &mut Netlink, old: &[Element]| {
        transaction(nft, |batch| {
            batch.elements(libc::NFT_MSG_DELSETELEM, 0, old);
            for elements in [tenant.map_or(&[][..], std::slice::from_ref), elements] {
                batch.elements(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, elements);
            }
        })
    };
    if elements.is_empty() {
        return Ok(());
    }
    match put(nft, &[]) {
        Err(refusal) if matches!(refusal.errno, Errno::EEXIST | Errno::ENOTEMPTY) => {
            let mut old = all_elements(nft)?;
            let keys: BTreeSet<_> = elements
                .iter()
                .map(|element| (element.family, element.set, &element.key))
                .collect();
            old.retain(|element| keys.contains(&(element.family, element.set, &element.key)));
            put(nft, &old)
        }
        done => done,
    }
}

/// Deletes elements in one transaction. Those that are gone already are no error. None is deleted when `tenant` is another.
fn take(
    nft: &mut Netlink,
    tenant: Option<&Element>,
    elements: &[Element],
) -> std::result::Result<(), Refusal> {
    match delete(nft, tenant, elements) {
        Err(refusal) if refusal.errno == Errno::ENOENT => {
            let wanted: BTreeSet<&Element> = elements.iter().collect();
            let mut left = all_elements(nft)?;
            // The transaction adds the tenant if it is not there.
            left.retain(|element| wanted.contains(element) && Some(element) != tenant);
            left.extend(tenant.filter(|tenant| wanted.contains(tenant)).cloned());
            delete(nft, tenant, &left)
        }
        done => done,
    }
}

fn delete(
    nft: &mut Netlink,
    tenant: Option<&Element>,
    elements: &[Element],
) -> std::result::Result<(), Refusal> {
    if elements.is_empty() {
        return Ok(());
    }
    transaction(nft, |batch| {
        let tenant = tenant.map_or(&[][..], std::slice::from_ref);
        batch.elements(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, tenant);
        batch.elements(libc::NFT_MSG_DELSETELEM, 0, elements);
    })
}

/// Of what is made one after the other under one name, no two are made at the same one.
fn moment() -> u32 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u32)
}

/// Asks for elements; `each` is given those that are there, with the packets that they have counted.
fn ask(
    nft: &mut Netlink,
    elements: &[Element],
    mut each: impl FnMut(Element, u64),
) -> std::result::Result<(), Refusal> {
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            for element in elements {
                batch.elements(libc::NFT_MSG_GETSETELEM, 0, std::slice::from_ref(element));
            }
            batch.last()
        },
        |message| read_elements(message, &mut each),
    )
}

/// Every element of our sets. For sweeps: it takes as long as there are many.
fn all_elements(nft: &mut Netlink) -> std::result::Result<Vec<Element>, Refusal> {
    let mut all = Vec::new();
    for table in &tables::tables() {
        for set in &table.sets {
            all.extend(elements_of(nft, table.family, set.name)?);
        }
    }
    Ok(all)
}

/// The elements of one set; none when it is not there.
fn elements_of(
    nft: &mut Netlink,
    family: Family,
    set: &'static str,
) -> std::result::Result<Vec<Element>, Refusal> {
    let mut found = Vec::new();
    let done = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.ask_elements(family, set);
            batch.last()
        },
        |message| {
            read_elements(message, &mut |element, _| {
                found.push(Element {
                    family,
                    set,
                    ..element
                })
            })
        },
    );
    ignore_missing(done)?;
    Ok(found)
}

fn read_elements(message: &Message, each: &mut impl FnMut(Element, u64)) {
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    const NFTA_SET_ELEM_EXPR: u16 = 7;
    const NFTA_SET_ELEM_KEY_END: u16 = 10;
    if message.kind != NEW_ELEMENTS {
        return;
    }
    let value = |data: &[u8]| {
        let found = Attributes::new(data).find(|(kind, _)| *kind == message::NFTA_DATA_VALUE);
        found.map_or(Vec::new(), |(_, value)| value.to_vec())
    };
    let lists = Attributes::new(message.payload.get(4..).unwrap_or(&[]))
        .filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
    for (_, one) in lists.flat_map(|(_, list)| Attributes::new(list)) {
        let mut element = Element {
            family: Family::Inet,
            set: "",
            key: Vec::new(),
            key_end: None,
            value: Vec::new(),
        };
        let mut packets = 0;
        for (kind, data) in Attributes::new(one) {
            match kind {
                NFTA_SET_ELEM_KEY => element.key = value(data),
                NFTA_SET_ELEM_KEY_END => element.key_end = Some(value(data)),
                NFTA_SET_ELEM_DATA => element.value = value(data),
                NFTA_SET_ELEM_EXPR => packets = counted(data),
                _ => {}
            }
        }
        each(element, packets);
    }
}

/// The packets of a counter.
fn counted(expression: &[u8]) -> u64 {
    const NFTA_EXPR_DATA: u16 = 2;
    const NFTA_COUNTER_PACKETS: u16 = 2;
    Attributes::new(expression)
        .filter(|(kind, _)| *kind == NFTA_EXPR_DATA)
        .flat_map(|(_, data)| Attributes::new(data))
        .find(|(kind, _)| *kind == NFTA_COUNTER_PACKETS)
        .and_then(|(_, value)| value.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

fn transaction(nft: &mut Netlink, write: impl Fn(&mut Batch)) -> std::result::Result<(), Refusal> {
    nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.begin();
            write(&mut batch);
            batch.commit()
        },
        |_| {},
    )
}

fn ignore_missing(done: std::result::Result<(), Refusal>) -> std::result::Result<(), Refusal> {
    match done {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
        done => done,
    }
}

fn name_missing_options(error: Error) -> Error {
    let cure = "the kernel lacks part of nf_tables: enable CONFIG_NF_TABLES, NF_TABLES_INET, NF_TABLES_BRIDGE, NFT_NAT, NFT_MASQ, NFT_CT, NFT_FIB_INET, NFT_REJECT_INET (modprobe nf_tables nft_masq nft_fib_inet nft_reject_inet)";
    // ENOENT: no chain of that type, or no such expression.
    [
        Errno::ENOENT,
        Errno::EOPNOTSUPP,
        Errno::EPROTONOSUPPORT,
        Errno::EAFNOSUPPORT,
    ]
    .into_iter()
    .fold(error, |error, errno| error.cure(errno, cure))
}

#[cfg(test)]
mod tests {
    use super::expression::{Expression, Verdict};
    use super::*;

    /// Supervisors of two builds would put their rules in the place of each other's, for ever, if both said that they
    /// were of one version: whoever changes a rule changes [`COMMENT`], and then this number.
    #[test]
    fn other_rules_are_another_version() {
        let text = format!("{:?}", tables::tables());
        let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        assert_eq!((COMMENT, hash), ("hawser 3", 3_855_188_695));
    }

    #[test]
    fn what_is_expected_is_what_is_installed() {
        let tables = tables::tables();
        let mut counted = Vec::new();
        let mut objects = Vec::new();
        for table in &tables {
            objects.push((table.family, (table.chains.len() + table.sets.len()) as u32));
            for chain in table.chains.iter().filter(|c| c.name != tables::USER) {
                let rules = table.rules.iter().filter(|r| r.chain == chain.name).count();
                let jumps = table
                    .rules
                    .iter()
                    .flat_map(|rule| &rule.expressions)
                    .filter(|expression| {
                        matches!(expression, Expression::Then(Verdict::Jump(to) | Verdict::Goto(to)) if *to == chain.name)
                    })
                    .count();
                counted.push((table.family, chain.name, rules as u32, jumps as u32));
            }
        }
        assert_eq!(EXPECTED.to_vec(), counted);
        assert_eq!(EXPECTED_OBJECTS.to_vec(), objects);
    }

    #[test]
    fn each_network_has_a_group_of_ours() {
        let names = ["hawser0", "hawser1", "blue", "10.0.0.0/24", "10.0.1.0/24"];
        let groups: BTreeSet<u32> = names.into_iter().map(group_of_name).collect();
        assert_eq!(groups.len(), names.len());
        assert!(groups.iter().all(|group| is_ours(*group)));
        assert!(!is_ours(PORT_GROUP) && !is_ours(0));
        assert_eq!(group_of_name("ptp"), group_of_name("10.0.0.0/24"));
    }
}
