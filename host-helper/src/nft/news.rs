//! Hears when somebody takes rules of ours away.
//!
//! The kernel offers each transaction to each socket that listens, a microsecond and more for each, before the one who made it goes
//! on: with a socket for each of a thousand containers a start would take milliseconds longer. The supervisors of a network share
//! one: who comes later copies it from the process that has opened it (pidfd_getfd(2)), as long as that one lives.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::open;
use crate::bridge::Network;
use crate::error::{Doing, Result};
use crate::owner::start_time;
use crate::state::{self, Listener};
use crate::sys;

/// A socket that hears of deletions from our tables. It may be that of others too: what one has read no other hears of.
pub struct News {
    socket: OwnedFd,
    /// Others may read from it.
    pub is_shared: bool,
}

impl News {
    /// Listens from here on, in the network namespace of `like`, a socket of netfilter's.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn listen(network: &Network, like: BorrowedFd) -> Result<News> {
        // Two at the same moment would open one each.
        let _alone = state::lock_listener(&network.name);
        let shared = state::listener(&network.name).and_then(|known| copy(&known, like));
        if let Some(shared) = shared {
            return Ok(News {
                socket: shared,
                is_shared: true,
            });
        }
        let own = News::listen_alone()?;
        let pid = std::process::id() as i32;
        state::keep_listener(
            &network.name,
            Listener {
                pid,
                fd: own.socket.as_raw_fd(),
                start: start_time(pid).ok().flatten().unwrap_or(0),
            },
        );
        Ok(News {
            is_shared: true,
            ..own
        })
    }

    /// The same by a socket that is nobody else's.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn listen_alone() -> Result<News> {
        let mut own = open()?;
        let doing = || "listen to nf_tables".to_string();
        sys::only_deletions(own.as_fd()).doing(doing)?;
        own.join(libc::NFNLGRP_NFTABLES as u32).doing(doing)?;
        Ok(News {
            socket: own.as_fd().try_clone_to_owned().doing(doing)?,
            is_shared: false,
        })
    }

    /// Whether something is to be heard, which is left to the others too.
    pub fn is_there(&self) -> bool {
        let mut some = [0; 64];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        loop {
            match recv(self.socket.as_raw_fd(), &mut some, flags) {
                Err(Errno::EINTR) => {}
                found => return matches!(found, Ok(_) | Err(Errno::ENOBUFS)),
            }
        }
    }

    /// Takes what has been heard; false: nothing, or another was faster.
    pub fn take(&self) -> bool {
        let mut has = false;
        let mut some = [0; 64];
        loop {
            match recv(self.socket.as_raw_fd(), &mut some, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => {}
                // What exactly is not of interest, and more than fits says the same.
                Ok(_) | Err(Errno::ENOBUFS) => has = true,
                Err(_) => return has,
            }
        }
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The socket that is known of, should it still be what it was: one as `like` is, in the same network namespace.
fn copy(known: &Listener, like: BorrowedFd) -> Option<OwnedFd> {
    let process = sys::pidfd_open(known.pid).ok()?;
    if start_time(known.pid).ok()? != Some(known.start) {
        return None;
    }
    let socket = sys::pidfd_getfd(process.as_fd(), known.fd).ok()?;
    (kind(socket.as_fd())? == kind(like)?).then_some(socket)
}

/// What tells sockets apart: domain, protocol, network namespace.
fn kind(socket: BorrowedFd) -> Option<[[u8; 8]; 3]> {
    const SO_NETNS_COOKIE: i32 = 71; // asm-generic/socket.h, Linux 5.14
    let mut all = [[0; 8]; 3];
    for (value, option) in all
        .iter_mut()
        .zip([libc::SO_DOMAIN, libc::SO_PROTOCOL, SO_NETNS_COOKIE])
    {
        sys::socket_option(socket, libc::SOL_SOCKET, option, value).ok()?;
    }
    Some(all)
}
