//! Whether the resolvers that containers are given answer. Each is asked for the servers of the root, which any resolver knows;
//! any answer will do, a refusal too.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Fault, Report};
use crate::dns::{self, Resolvers, Within};
use crate::error::{Doing, Refusal};
use crate::sys;

/// RFC 1035, section 4.2
const PORT: u16 = 53;
/// How often one is asked, since a datagram may be lost, and how long it may take to answer each time.
const TRIES: u32 = 2;
const PATIENCE: Duration = Duration::from_millis(1500);

/// What names a resolver for good where systemd-resolved writes the files.
const OF_RESOLVED: &str = "resolvectl dns LINK ADDRESS";

/// A resolver that has not answered yet.
struct Asked {
    server: IpAddr,
    socket: UdpSocket,
    number: u16,
}

enum Answer {
    Came,
    NotYet,
    Refused(Refusal),
}

pub fn examine(report: &mut Report) {
    let found = Resolvers::choose(&Resolvers::default(), Within::Network);
    let servers = match found.doing(|| format!("read {}", dns::HOST)) {
        Ok(found) => found.servers,
        Err(error) if error.errno == Some(Errno::ENOENT) => Vec::new(),
        Err(error) => return report.could_not("the host's resolvers", error),
    };
    if servers.is_empty() {
        report.find(
            Fault::ResolverDead,
            "host",
            format!(
                "{} names no resolver that a container could reach",
                dns::HOST
            ),
            // It would write over what is added to its file.
            if Path::new(dns::UPLINK).exists() {
                OF_RESOLVED.to_string()
            } else {
                one_more()
            },
        );
    }
    let others = if servers.len() > 1 {
        Others::Some
    } else {
        Others::None
    };
    let mut asked = Vec::new();
    for server in servers {
        match ask(server) {
            Ok(one) => asked.push(one),
            Err(refusal) => tell(server, &refusal.to_string(), others, report),
        }
    }
    for _ in 0..TRIES {
        // What cannot be sent is told by the answer.
        asked
            .iter()
            .for_each(|one| drop(one.socket.send(&question(one.number))));
        wait(&mut asked, others, report);
    }
    for one in asked {
        tell(one.server, "it does not answer", others, report);
    }
}

/// Whether the host has another one.
#[derive(Clone, Copy)]
enum Others {
    Some,
    None,
}

fn tell(server: IpAddr, why: &str, others: Others, report: &mut Report) {
    // Where those behind systemd-resolved's stub count; it writes their file anew.
    let is_behind = Resolvers::looks_behind(Within::Network);
    let cure = match others {
        _ if is_behind => OF_RESOLVED.to_string(),
        Others::Some => without(server),
        Others::None => format!("echo nameserver ADDRESS >{}", dns::HOST),
    };
    let file = if is_behind { dns::UPLINK } else { dns::HOST };
    let cause = format!("{file} names it, and so do containers: {why}");
    report.find(
        Fault::ResolverDead,
        format!("resolver {server}"),
        cause,
        cure,
    );
}

/// The command that names the host's first one.
fn one_more() -> String {
    let file = Path::new(dns::HOST);
    if file.is_symlink() && !file.exists() {
        // The directory that it leads to may be gone with whoever made it.
        return format!("rm {0} && echo nameserver ADDRESS >{0}", dns::HOST);
    }
    // Its last line may have no end.
    format!(r"printf '\nnameserver ADDRESS\n' >>{}", dns::HOST)
}

/// The command that takes a resolver out of the host's file. That may be a link to another one, or have been mounted: it is written, not
/// replaced.
fn without(server: IpAddr) -> String {
    let lines: String = dns::spellings(server)
        .iter()
        .map(|word| {
            let word = word.replace('.', "\\.");
            format!(
                r" -e '/^[[:space:]]*nameserver[[:space:]]\{{1,\}}{word}\([[:space:]#;].*\)\{{0,1\}}$/d'"
            )
        })
        .collect();
    let file = dns::HOST;
    format!(r#"kept=$(sed{lines} {file}) && printf '%s\n' "$kept" >{file}"#)
}

fn ask(server: IpAddr) -> Result<Asked, Refusal> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(server, PORT))?;
    socket.set_nonblocking(true)?;
    let number = sys::random_u32() as u16;
    Ok(Asked {
        server,
        socket,
        number,
    })
}

/// A message of DNS (RFC 1035, section 4.1): one question, recursion desired; the root, type NS, class IN.
fn question(number: u16) -> Vec<u8> {
    let head = [0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    [&number.to_be_bytes()[..], &head, &[0, 0, 2, 0, 1]].concat()
}

/// Waits until all have answered, or the time is up; those that have are taken out.
fn wait(asked: &mut Vec<Asked>, others: Others, report: &mut Report) {
    let end = Instant::now() + PATIENCE;
    while !asked.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds: Vec<PollFd> = asked
            .iter()
            .map(|one| PollFd::new(one.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, left) {
            Err(Errno::EINTR) => continue,
            Ok(1..) => {}
            _ => return,
        }
        drop(fds);
        asked.retain(|one| match read(one) {
            Answer::Came => false,
            Answer::NotYet => true,
            Answer::Refused(refusal) => {
                tell(one.server, &refusal.to_string(), others, report);
                false
            }
        });
    }
}

fn read(one: &Asked) -> Answer {
    let mut message = [0; 512];
    match one.socket.recv(&mut message) {
        Ok(len) if message[..len].starts_with(&one.number.to_be_bytes()) => Answer::Came,
        Ok(_) => Answer::NotYet,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Answer::NotYet
        }
        Err(error) => Answer::Refused(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_seventeen_bytes() {
        let text = question(0x1234);
        assert_eq!(
            text,
            [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]
        );
    }
}
