//! The programs that init can stand in for: called by their name it has their options, variables and defaults.
//! None of them drains, and none says anything of its own accord.

use hawser::address::{index_of, parse_number};

use crate::options::{OPTIONS, Options, Peer, Target};
use crate::sys;

const NAMES: &[u8] = b"tini tini-static docker-init dumb-init catatonit podman-init";

/// By the name that we were called by: the options to read and whose they are.
pub fn adopt(name: &[u8], options: &mut Options) -> (&'static [u8], Peer) {
    let slash = name.iter().rposition(|&byte| byte == b'/');
    let name = name.get(slash.map_or(0, |at| at + 1)..).unwrap_or(name);
    let (table, peer): (&[u8], _) = match index_of(NAMES, name) {
        Some(..=2) => (b"h. V.version s. p= v. w. g. e= l.", Peer::Tini),
        Some(3) => (
            b"c.single-child r=rewrite v.verbose h.help V.version",
            Peer::DumbInit,
        ),
        Some(_) => (b"g. h. L. P. V.version", Peer::Catatonit),
        None => return (OPTIONS, Peer::None),
    };
    options.supervise = true;
    let rules = &mut options.rules;
    rules.peer = peer;
    rules.target = Target::Child;
    match peer {
        Peer::DumbInit => {
            if sys::variable(b"DUMB_INIT_SETSID") != Some(b"0") {
                rules.target = Target::Group;
            }
            rules.verbose = sys::variable(b"DUMB_INIT_DEBUG") == Some(b"1");
        }
        Peer::Tini => {
            if sys::variable(b"TINI_KILL_PROCESS_GROUP").is_some() {
                rules.target = Target::Group;
            }
            let verbosity = sys::variable(b"TINI_VERBOSITY").and_then(parse_number);
            rules.verbose = verbosity.is_some_and(|verbosity| verbosity > 2);
        }
        _ => rules.verbose = sys::variable(b"CATATONIT_DEBUG").is_some(),
    }
    (table, peer)
}

/// What is printed for -h, and for --version and what asks for a licence. dockerd reads the first words of the version.
pub fn answer(peer: Peer, letter: u8) -> &'static str {
    match (letter, peer) {
        (b'h', Peer::Tini) => "usage: tini [-sgvwl] [-p SIGNAL] [-e CODE] [--] COMMAND...\n",
        (b'h', Peer::DumbInit) => "usage: dumb-init [-cv] [-r A:B] [--] COMMAND...\n",
        (b'h', _) => "usage: catatonit [-gP] [--] COMMAND...\n",
        (_, Peer::Tini) => concat!("tini version ", env!("CARGO_PKG_VERSION"), " (hawser)\n"),
        (_, Peer::DumbInit) => concat!("dumb-init v", env!("CARGO_PKG_VERSION"), " (hawser)\n"),
        _ => concat!(
            "tini version ",
            env!("CARGO_PKG_VERSION"),
            "_catatonit (hawser)\n"
        ),
    }
}
