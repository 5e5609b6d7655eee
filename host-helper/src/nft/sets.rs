//! Elements of our sets in the kernel: adding, deleting and finding them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hawser::netlink::{Attributes, Message};
use nix::errno::Errno;

use super::installed::{State, look};
use super::message::{self, Batch};
use super::object::{Element, Family};
use super::{NEW_ELEMENTS, TABLE, TRIES, elements, ignore_missing, tables, transaction};
use crate::error::{Doing, Refusal, Result};
use crate::netlink::{Netlink, find};
use crate::owner::lease_name;
use crate::publish::Port;

/// The element by which the tables know a container with this host end, whoever left it.
///
/// # Errors
/// What the kernel says.
pub fn known(nft: &mut Netlink, link: &str) -> Result<Option<Element>> {
    let asked = elements::tenant(link);
    let mut found = None;
    let done = ask(nft, std::slice::from_ref(&asked), |element, _| {
        found = Some(Element {
            value: element.value,
            ..asked.clone()
        });
    });
    // There is none, or no table yet.
    ignore_missing(done).doing(|| format!("look for {link} in nft table {TABLE}"))?;
    Ok(found)
}

/// Adds elements in one transaction; those that are there already are no error. What is mapped to something else is
/// of nobody who lives, since the port is held by us: it is replaced. Not so `tenant`: whoever has another number there lives.
pub fn add(
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
            if tenant.is_some_and(|tenant| old.iter().any(|it| it.is_another_at(tenant))) {
                return Err(refusal);
            }
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

/// As [`take`], unless another is the tenant by now: then nothing is deleted, and that is no error. True: it was not.
pub fn take_if_its(
    nft: &mut Netlink,
    tenant: Option<&Element>,
    elements: &[Element],
) -> std::result::Result<bool, Refusal> {
    match take(nft, tenant, elements) {
        Err(refusal) if refusal.errno == Errno::EEXIST => Ok(false),
        taken => taken.map(|()| true),
    }
}

/// Deletes elements in one transaction. Those that are gone already are no error, nor those that lead to another by now. None is deleted
/// when `tenant` is another.
pub fn take(
    nft: &mut Netlink,
    tenant: Option<&Element>,
    elements: &[Element],
) -> std::result::Result<(), Refusal> {
    let mut done = delete(nft, tenant, elements);
    for _ in 0..TRIES {
        match done {
            Err(ref refusal) if matches!(refusal.errno, Errno::ENOENT | Errno::EEXIST) => {}
            done => return done,
        }
        // Others may take some of these, too, before the next try.
        let wanted: BTreeSet<&Element> = elements.iter().collect();
        let mut left = all_elements(nft)?;
        if tenant.is_some_and(|tenant| left.iter().any(|it| it.is_another_at(tenant))) {
            return done;
        }
        // The transaction adds the tenant if it is not there.
        left.retain(|element| wanted.contains(element) && Some(element) != tenant);
        left.extend(tenant.filter(|tenant| wanted.contains(tenant)).cloned());
        done = delete(nft, tenant, &left);
    }
    let is_missing = matches!(&done, Err(refusal) if refusal.errno == Errno::ENOENT);
    if tenant.is_some() && is_missing && look(nft)? != State::Whole {
        // Somebody has deleted the table of tenants: there is none that could be another. What is left is in the other table.
        let mut rest = elements.to_vec();
        rest.retain(|element| Some(element) != tenant);
        return take(nft, None, &rest);
    }
    done
}

/// The kernel deletes by the key alone. What has a value is added first, which it refuses where another has that key by now.
fn delete(
    nft: &mut Netlink,
    tenant: Option<&Element>,
    elements: &[Element],
) -> std::result::Result<(), Refusal> {
    if elements.is_empty() {
        return Ok(());
    }
    let mut guards: Vec<Element> = tenant.into_iter().cloned().collect();
    let is_mapped = |it: &&Element| !it.value.is_empty() && Some(*it) != tenant;
    guards.extend(elements.iter().filter(is_mapped).cloned());
    transaction(nft, |batch| {
        batch.elements(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, &guards);
        batch.elements(libc::NFT_MSG_DELSETELEM, 0, elements);
    })
}

/// Asks for elements; `each` is given those that are there, with the packets that they have counted.
pub fn ask(
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

/// Whether one of these is not there, or leads elsewhere.
pub fn is_missing(nft: &mut Netlink, elements: &[Element]) -> std::result::Result<bool, Refusal> {
    // As many answers as fit into the socket in any case.
    const AT_ONCE: usize = 16;
    for some in elements.chunks(AT_ONCE) {
        let mut left = some.iter();
        let mut is_other = false;
        // They are answered in order, until one is not there.
        let asked = ask(nft, some, |found, _| {
            is_other |= left.next().is_none_or(|one| one.value != found.value);
        });
        ignore_missing(asked)?;
        if is_other || left.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The container's addresses that a port of the host leads to by now; `None`: there is no table that could say so.
///
/// # Errors
/// What the kernel says.
pub fn led_to(nft: &mut Netlink, port: &Port) -> std::result::Result<Option<Vec<IpAddr>>, Refusal> {
    let table = nft.exchange(
        |writer, sequence| {
            let mut batch = Batch::new(writer, sequence, TABLE);
            batch.ask_table(Family::Inet);
            batch.last()
        },
        |_| {},
    );
    match table {
        Err(refusal) if refusal.errno == Errno::ENOENT => return Ok(None),
        table => table?,
    }
    let mut all = Vec::new();
    for element in elements::of_port(port) {
        let asked = ask(nft, &[element], |found, _| {
            all.extend(elements::target_of(&found));
        });
        ignore_missing(asked)?;
    }
    for set in elements::sets_of_addresses(port) {
        let mut found = elements_of(nft, Family::Inet, set)?;
        found.retain(|element| elements::is_of_port(element, port));
        all.extend(found.iter().filter_map(elements::target_of));
    }
    Ok(Some(all))
}

/// The host end of the container with this address, as the tables know it.
///
/// # Errors
/// What the kernel says.
pub fn tenant_at(
    nft: &mut Netlink,
    address: IpAddr,
) -> std::result::Result<Option<String>, Refusal> {
    if let IpAddr::V4(address) = address {
        return Ok(Some(lease_name(address)));
    }
    let all = elements_of(nft, Family::Inet, tables::TENANTS)?;
    let mut known = all.iter().filter_map(elements::known);
    Ok(known
        .find(|(_, has)| has.contains(&address))
        .map(|(name, _)| name))
}

/// Every element of our sets. For sweeps, and `doctor`: it takes as long as there are many.
pub fn all_elements(nft: &mut Netlink) -> std::result::Result<Vec<Element>, Refusal> {
    let mut all = Vec::new();
    for table in &tables::tables() {
        for set in &table.sets {
            all.extend(elements_of(nft, table.family, set.name)?);
        }
    }
    Ok(all)
}

/// The elements of one set; none when it is not there.
///
/// Others may delete some meanwhile, and whoever sweeps must not miss one: see [`Netlink::dump`].
pub fn elements_of(
    nft: &mut Netlink,
    family: Family,
    set: &'static str,
) -> std::result::Result<Vec<Element>, Refusal> {
    let dumped = nft.dump(
        |writer, sequence| Batch::new(writer, sequence, TABLE).ask_elements(family, set),
        |message| {
            let mut found = Vec::new();
            read_elements(message, &mut |element, _| {
                found.push(Element {
                    family,
                    set,
                    ..element
                })
            });
            found
        },
    );
    ignore_missing(dumped)
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
        let found = find(data, message::NFTA_DATA_VALUE);
        found.map_or(Vec::new(), <[u8]>::to_vec)
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
