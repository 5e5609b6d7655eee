//! The link of a container of which nothing but the network namespace is known: its end is that one's, of which nobody else tells.

use std::os::fd::AsFd;

use super::Supervisor;
use crate::error::{Doing, Result};
use crate::netlink::Netlink;
use crate::sys;

/// Hears of links from now on.
///
/// # Errors
/// What the kernel says.
pub fn hear_of_links() -> Result<Netlink> {
    let doing = || "watch the container's link".to_string();
    let mut links = Netlink::route().doing(doing)?;
    links.join(libc::RTNLGRP_LINK).doing(doing)?;
    Ok(links)
}

impl Supervisor {
    /// Leaves with the link. It may have gone since `links` began to hear.
    pub fn leave_with_its_link(&mut self, links: Netlink) {
        if let Some(attachment) = &self.container.attachment {
            // Refused, it wakes for the links of others too.
            let _ = sys::only_end_of_link(links.as_fd(), attachment.veth.index);
        }
        self.links = Some(links);
        self.look_at_link();
    }

    /// What is said of links, and whether all of it was heard, does not matter: ours is looked at.
    pub(super) fn look_at_link(&mut self) {
        if let Some(links) = &mut self.links {
            while links.receive(libc::MSG_DONTWAIT).is_ok() {}
            self.is_leaving |= self.has_deleted_its_link();
        }
    }
}
