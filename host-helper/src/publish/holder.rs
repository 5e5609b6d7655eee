//! Who has a port: for the sentence that says why it cannot be published.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;

use super::{Port, Protocol, reserved};
use crate::control;
use crate::error::Error;
use crate::state;

/// The error of who wants a port that is in use.
pub fn in_use(port: &Port) -> Error {
    let what = match port.address() {
        Some(IpAddr::V6(host)) => format!("port {} of {host}", port.host_port),
        Some(host) => format!("port {} of {host}", port.host_port),
        None => format!("port {}", port.host_port),
    };
    if port.host_port == 0 {
        return Error::new(format!(
            "publish {port}: no port of the host is free; see net.ipv4.ip_local_port_range"
        ));
    }
    let holder = match find(port) {
        Found::Process(pid) => name(pid),
        Found::Ending => {
            "a connection that a program without SO_REUSEADDR has closed (TIME_WAIT, a minute at most)"
                .into()
        }
        Found::Nobody => "a process that cannot be seen from here".into(),
    };
    Error::new(format!(
        "publish {port}: {what} is in use by {holder}; choose another"
    ))
    .cause(Errno::EADDRINUSE)
}

/// Who listens on a port of the host, or has it without a peer; it may be a supervisor of ours.
pub fn listener(port: &Port) -> Option<String> {
    let listening = sockets(port).into_iter().filter(|socket| socket.listens);
    let inodes: Vec<u64> = listening.map(|socket| socket.inode).collect();
    owner_of(&inodes).map(name)
}

/// Whether who has a port is the parent of a process in this network namespace.
pub fn is_held_for(port: &Port, netns: u64) -> bool {
    let Found::Process(pid) = find(port) else {
        return false;
    };
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().any(|child| {
        let namespace = fs::metadata(format!("/proc/{child}/ns/net"));
        namespace.is_ok_and(|namespace| namespace.ino() == netns)
    })
}

enum Found {
    Process(i32),
    Ending,
    Nobody,
}

fn find(port: &Port) -> Found {
    let sockets = sockets(port);
    // Who listens has it; who is only connected by it comes second.
    let inodes = |is_wanted: &dyn Fn(&Socket) -> bool| -> Vec<u64> {
        let wanted = sockets.iter().filter(|socket| is_wanted(socket));
        wanted.map(|socket| socket.inode).collect()
    };
    let listening = inodes(&|socket| socket.listens);
    let others = inodes(&|socket| !socket.listens && socket.inode != 0);
    let pid = owner_of(&listening).or_else(|| owner_of(&others));
    match pid {
        Some(pid) => Found::Process(pid),
        None if listening.is_empty() && !sockets.is_empty() => Found::Ending,
        None => Found::Nobody,
    }
}

/// A line of `/proc/net/{tcp,udp}*`.
struct Socket {
    inode: u64,
    listens: bool,
}

fn sockets(port: &Port) -> Vec<Socket> {
    let read = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    match port.protocol {
        Protocol::Tcp | Protocol::Udp => {
            let name = port.protocol.name();
            let of = |name: &str| -> Vec<Socket> {
                let text = read(name);
                let lines = text.lines();
                lines.filter_map(|line| parse_line(line, port)).collect()
            };
            let mut all = of(name);
            // One of IPv6 may have the port of both families, and does not say so: unless there is another.
            if port.has_ipv6() || !all.iter().any(|socket| socket.listens) {
                all.extend(of(&format!("{name}6")));
            }
            all
        }
        Protocol::Sctp => {
            let all = reserved::all().into_iter();
            let same = all.filter(|reserved| reserved.port.is_same_as(port));
            same.map(|reserved| Socket {
                inode: reserved.inode,
                listens: true,
            })
            .collect()
        }
    }
}

/// `sl: ADDRESS:PORT ADDRESS:PORT STATE ... INODE`, in hexadecimal, addresses as the 32-bit words of this machine.
fn parse_line(line: &str, port: &Port) -> Option<Socket> {
    const LISTENS: &str = "0A"; // TCP_LISTEN, net/tcp_states.h
    const UNCONNECTED: &str = "07"; // TCP_CLOSE: a UDP socket that has no peer
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, number) = words.get(1)?.split_once(':')?;
    if u16::from_str_radix(number, 16).ok()? != port.host_port {
        return None;
    }
    let address = parse_address(address)?.to_canonical();
    let same_family = if address.is_ipv4() {
        port.has_ipv4()
    } else {
        port.has_ipv6() || address.is_unspecified()
    };
    let same_address =
        address.is_unspecified() || port.address().is_none() || port.address() == Some(address);
    let collides = same_family && same_address;
    collides.then_some(Socket {
        inode: words.get(9)?.parse().ok()?,
        listens: matches!(*words.get(3)?, LISTENS | UNCONNECTED),
    })
}

fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for at in 0..4 {
        bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

/// A process that has one of these sockets open.
fn owner_of(inodes: &[u64]) -> Option<i32> {
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| has_one(*pid, &links))
}

/// Whether a process has one of these open.
fn has_one(pid: i32, links: &[String]) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries.into_iter().flatten().flatten().any(|entry| {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        links
            .iter()
            .any(|wanted| link.as_os_str() == wanted.as_str())
    })
}

/// `nginx (pid 812)`; a supervisor of ours is named by its container, without asking it: it may be the one that asks.
fn name(pid: i32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match (supervised_by(pid), comm.trim_end()) {
        (Some(container), _) => format!("container {container} (pid {pid})"),
        (None, "") => format!("pid {pid}"),
        (None, comm) => format!("{comm} (pid {pid})"),
    }
}

/// The container whose control socket a process listens on.
fn supervised_by(pid: i32) -> Option<String> {
    let text = fs::read_to_string("/proc/net/unix").ok()?;
    let sockets = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let path = Path::new(words.next_back()?);
        let is_ours = path.parent() == Some(Path::new(state::DIRECTORY))
            && path
                .extension()
                .is_some_and(|extension| extension == "sock");
        let inode: u64 = words.next_back()?.parse().ok()?;
        is_ours.then_some((inode, path))
    });
    let mut its = sockets.filter(|(inode, _)| has_one(pid, &[format!("socket:[{inode}]")]));
    its.next().map(|(_, path)| control::name_at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let port: Port = "8080:80"
            .parse::<super::super::Range>()
            .unwrap()
            .ports()
            .next()
            .unwrap();
        let line = |address: &str, state: &str| {
            let text = format!(
                "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 x 100"
            );
            parse_line(&text, &port)
        };
        let found = line("00000000:1F90", "0A").unwrap();
        assert!(found.listens && found.inode == 4711);
        assert!(!line("00000000:1F90", "06").unwrap().listens);
        assert!(line("00000000:1F91", "0A").is_none());
        assert!(parse_line("  sl  local_address rem_address   st", &port).is_none());
        let localhost = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(
            parse_address(&format!("{localhost:08X}")),
            Some(Ipv4Addr::LOCALHOST.into())
        );
        let one = u32::from_ne_bytes([0, 0, 0, 1]);
        assert_eq!(
            parse_address(&format!("{:024X}{one:08X}", 0)),
            Some(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!(parse_address("xy"), None);
    }
}
