//! A child that is cloned before it is known what it is to be: it makes its network namespace while its parent reads the
//! command line.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::child::{given_up, go_on, leave_caller, make_network, receive_descriptor};
use super::{NAMESPACES, Spawn, Started, kill, start};
use crate::error::{Doing, Error, Result};
use crate::signals::Signals;
use crate::{sys, users};

/// What is said at most, in bytes: an empty socket takes it (`net.core.wmem_default`), so that nobody waits for the child.
const MOST: usize = 64 * 1024;

/// A child that waits for its [`Spawn`]. Unless it is told, this kills it in the end, and waits until it is gone.
pub struct Early(Option<Started>);

impl Early {
    /// Clones it. `None`: that is refused; whoever needs a child then will hear why.
    pub fn begin() -> Option<Early> {
        // In the child, until it has the time to say which; in its parent for the clone only: whatever that waits for in the command line
        // can be interrupted.
        let before = sys::swap_blocked_signals(!0).ok()?;
        let started = start(NAMESPACES.union(users::LATER), |ends| {
            // First, since its parent will wait for it.
            make_network(ends)?;
            let blocked = before | Signals::mask()?;
            sys::swap_blocked_signals(blocked).doing(|| "block signals".into())?;
            leave_caller()?;
            go_on(&receive(&ends.channel)?, ends)
        });
        let early = started.ok().map(|started| Early(Some(started)));
        sys::swap_blocked_signals(before).ok()?;
        early
    }

    /// Tells it what it is to be. `None`: it cannot be that, or cannot be told: a path or a word that is not UTF-8, a log, a long command line.
    ///
    /// # Errors
    /// What sendmsg(2) says; a child that has ended is no error here, its last words say why.
    pub fn tell(mut self, spawn: &Spawn) -> Result<Option<Started>> {
        let text = serde_json::to_vec(&(spawn, spawn.init.is_some())).ok();
        let Some(text) = text.filter(|text| text.len() <= MOST && spawn.makes_network()) else {
            return Ok(None);
        };
        if let Some((child, _)) = &self.0 {
            let doing = || "tell the child what it is to be".to_string();
            let length = text.len() as u64;
            let told =
                (&child.channel).write_all(&[&length.to_ne_bytes(), text.as_slice()].concat());
            match told {
                Err(error) if is_gone(error.kind()) => {}
                told => told.doing(doing)?,
            }
            if let Some(init) = &spawn.init {
                child.send(&[init.as_raw_fd()]).doing(doing)?;
            }
        }
        Ok(self.0.take())
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl Drop for Early {
    fn drop(&mut self) {
        if let Some((child, _)) = &self.0 {
            kill(&child.pidfd);
        }
    }
}

/// In the child: what [`Early::tell`] says.
fn receive(mut channel: &UnixStream) -> Result<Spawn> {
    const WHAT: &str = "what the child is to be";
    let doing = || format!("wait for {WHAT}");
    let mut read = |into: &mut [u8]| match channel.read_exact(into) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof || is_gone(error.kind()) => {
            Err(given_up(WHAT))
        }
        read => read.doing(doing),
    };
    let mut length = [0; size_of::<u64>()];
    read(&mut length)?;
    let mut text = vec![0; u64::from_ne_bytes(length) as usize];
    read(&mut text)?;
    let (mut spawn, has_init): (Spawn, bool) = serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("{}: {error}", doing())))?;
    if has_init {
        spawn.init = Some(receive_descriptor(channel, WHAT)?);
    }
    Ok(spawn)
}
