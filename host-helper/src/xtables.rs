//! The packet filter of `iptables-legacy`, which is not nf_tables: only looked at, and only where there is one already.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use hawser::netlink::{read_u16, read_u32};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::foreign::{Engine, Table};
use crate::nft::foreign::mentions;
use crate::sys;

/// The table that drops packets, and its chain that forwarded ones pass.
const FILTER: &str = "filter";
const FORWARD: &str = "FORWARD";
/// `XT_TABLE_MAXNAMELEN` (linux/netfilter/x_tables.h).
const NAME: usize = 32;

/// A version of IP: what is different in its structures (linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h).
struct Version {
    family: &'static str,
    /// The tables that there are in this network namespace. Reading it loads no module.
    names: &'static str,
    domain: AddressFamily,
    level: i32,
    /// Bytes of struct ipt_ip, which tells what a rule is about.
    about: usize,
    /// Bytes of struct ipt_entry; the target is behind it and the matches.
    entry: usize,
}

const VERSIONS: [Version; 2] = [
    Version {
        family: "ip",
        names: "/proc/net/ip_tables_names",
        domain: AddressFamily::Inet,
        level: libc::SOL_IP,
        about: 84,
        entry: 112,
    },
    Version {
        family: "ip6",
        names: "/proc/net/ip6_tables_names",
        domain: AddressFamily::Inet6,
        level: libc::SOL_IPV6,
        about: 136,
        entry: 168,
    },
];

/// The tables that drop what is forwarded unless a rule accepts it; but none that has a rule about `link` which forwarded packets come by:
/// whoever wrote that has decided. What cannot be read is left out.
pub fn tables(link: &str) -> Vec<Table> {
    let found = VERSIONS.iter().filter_map(|version| {
        let names = fs::read_to_string(version.names).ok()?;
        if !names.lines().any(|name| name == FILTER) {
            return None;
        }
        let (at, rules) = read(version)?;
        let is_barrier = drops(version, &rules, at) && !is_decided(version, &rules, at, link);
        is_barrier.then(|| Table {
            engine: Engine::Xtables,
            family: version.family,
            name: FILTER.to_string(),
            barrier: FORWARD.to_string(),
            chains: [vec![FORWARD.to_string()], chains(version, &rules)].concat(),
            dropping: None,
        })
    });
    found.collect()
}

/// Where the chain begins in the table, and where its policy is.
#[derive(Clone, Copy)]
struct Place {
    begin: usize,
    policy: usize,
}

/// The table's rules, all chains one behind the other.
fn read(version: &Version) -> Option<(Place, Vec<u8>)> {
    const IPT_SO_GET_INFO: i32 = 64;
    const IPT_SO_GET_ENTRIES: i32 = 65;
    // struct ipt_getinfo: behind the name the hooks, where each begins, where each has its policy, rules, bytes.
    const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
    // struct ipt_get_entries: behind the name the bytes, and the rules at a multiple of eight.
    const ENTRIES: usize = NAME + 8;
    let socket = socket(
        version.domain,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )
    .ok()?;
    let ask = |socket: BorrowedFd, option, value: &mut [u8]| {
        value[..FILTER.len()].copy_from_slice(FILTER.as_bytes());
        sys::socket_option(socket, version.level, option, value).ok()
    };
    let mut info = [0; INFO];
    ask(socket.as_fd(), IPT_SO_GET_INFO, &mut info)?;
    let forward = 4 * libc::NF_INET_FORWARD as usize;
    let number = |at| read_u32(&info, at).map(|number| number as usize);
    let place = Place {
        begin: number(NAME + 4 + forward)?,
        policy: number(NAME + 24 + forward)?,
    };
    let len = number(INFO - 4)?;
    let mut entries = vec![0; ENTRIES + len];
    entries[NAME..NAME + 4].copy_from_slice(&(len as u32).to_ne_bytes());
    ask(socket.as_fd(), IPT_SO_GET_ENTRIES, &mut entries)?;
    Some((place, entries.split_off(ENTRIES)))
}

/// What follows a rule's matches: a verdict, or an extension.
enum Target<'a> {
    Verdict(i32),
    Extension(&'a [u8], &'a [u8]),
}

/// The rule at `at`: whether it is about every packet, its target, and how long it is.
fn rule<'a>(version: &Version, rules: &'a [u8], at: usize) -> Option<(bool, Target<'a>, usize)> {
    let rule = rules.get(at..)?;
    let target_at = usize::from(read_u16(rule, version.about + 4)?);
    let len = usize::from(read_u16(rule, version.about + 6)?);
    let is_about_all =
        target_at == version.entry && rule.get(..version.about)?.iter().all(|byte| *byte == 0);
    // struct xt_entry_target: its length, 29 bytes of name, revision.
    let target = rule.get(target_at..len)?;
    let name = until_zero(target.get(2..31)?);
    let target = if name.is_empty() {
        Target::Verdict(read_u32(target, NAME)? as i32)
    } else {
        Target::Extension(name, target.get(NAME..)?)
    };
    (len > 0).then_some((is_about_all, target, len))
}

/// Whether a packet that no rule accepts is dropped, or refused by the last one.
fn drops(version: &Version, rules: &[u8], place: Place) -> bool {
    // Verdicts are stored as their negative, less one.
    const DROP: i32 = -libc::NF_DROP - 1;
    const ACCEPT: i32 = -libc::NF_ACCEPT - 1;
    let mut at = place.begin;
    while let Some((is_about_all, target, len)) = rule(version, rules, at) {
        match target {
            Target::Verdict(DROP) if is_about_all => return true,
            Target::Verdict(ACCEPT) if is_about_all => return false,
            Target::Extension(b"REJECT", _) if is_about_all => return true,
            _ => {}
        }
        if at >= place.policy {
            break;
        }
        at += len;
    }
    false
}

/// Whether a rule has the link's name in it, of this chain or of those that it leads to.
fn is_decided(version: &Version, rules: &[u8], place: Place, link: &str) -> bool {
    let mut reached = BTreeSet::from([place.begin]);
    let mut left = vec![place.begin];
    while let Some(mut at) = left.pop() {
        while let Some((_, target, len)) = rule(version, rules, at) {
            match target {
                // The next chain's name.
                Target::Extension(b"ERROR", _) => break,
                // What is no verdict is where it goes on.
                Target::Verdict(to) => {
                    let to = usize::try_from(to).ok();
                    left.extend(to.filter(|to| reached.insert(*to)));
                }
                Target::Extension(..) => {}
            }
            let bytes = rules.get(at..at + len);
            if bytes.is_some_and(|rule| mentions(rule, link)) {
                return true;
            }
            if at == place.policy {
                break;
            }
            at += len;
        }
    }
    false
}

/// The chains of the admin and of other programs. Each begins with an error, which is its name.
fn chains(version: &Version, rules: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((_, target, len)) = rule(version, rules, at) {
        if let Target::Extension(b"ERROR", data) = target {
            found.push(String::from_utf8_lossy(until_zero(data)).into_owned());
        }
        at += len;
    }
    found
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}
