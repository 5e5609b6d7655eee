//! `--to FIFO`: the container's own init waits there for its config (`init --config FIFO`), and sets its network up by
//! itself.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

use super::links::no_link_local;
use super::target::Target;
use crate::attach::Attachment;
use crate::config;
use crate::error::{Doing, Error, Result};
use crate::inside::open_path;
use crate::netlink::Netlink;
use crate::request::Request;

/// How long init may take: it waits for its link no longer either.
const WITHIN: Duration = Duration::from_secs(10);

/// Where an init waits, found once: whoever may rename things there does not lead what is written elsewhere.
pub struct Fifo {
    path: PathBuf,
    place: OwnedFd,
}

impl Fifo {
    /// Refuses what is none, before anything is changed. It is not opened for writing yet: whoever waits takes the end of
    /// what was opened for the end of the config.
    ///
    /// # Errors
    /// It is none, or is not there.
    pub fn find(path: &Path) -> Result<Fifo> {
        let doing = || format!("look at {}", path.display());
        let place = open_path(path).doing(doing)?;
        let mode = SFlag::from_bits_truncate(fstat(&place).doing(doing)?.st_mode);
        if mode & SFlag::S_IFMT != SFlag::S_IFIFO {
            return Err(Error::new(format!(
                "{}: it is no FIFO; make one (mkfifo) and let init --config wait on it",
                doing()
            )));
        }
        let path = path.to_path_buf();
        Ok(Fifo { path, place })
    }

    fn open(&self) -> std::io::Result<File> {
        File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", self.place.as_raw_fd()))
    }
}

/// Writes the message, and waits until the link inside is up.
///
/// Before: the link is there.
///
/// # Errors
/// Nobody waits; init has ended, or taken too long.
pub fn serve(
    fifo: &Fifo,
    request: &Request,
    target: &Target,
    attachment: &Attachment,
) -> Result<()> {
    let doing = || format!("send the config to {}", fifo.path.display());
    let mut news = Netlink::route().doing(doing)?;
    // Joined before the message, so that the change cannot be missed.
    news.join(libc::RTNLGRP_LINK).doing(doing)?;
    no_link_local(&mut target.look()?, request);
    let message = config::write_attached(request, attachment, config::Of::Theirs);
    let mut pipe = fifo.open().doing(doing).map_err(|error| {
        let cure = "nobody waits there; start init --config in the container first";
        error.cure(Errno::ENXIO, cure)
    })?;
    config::check(&message)?;
    pipe.write_all(message.as_bytes()).doing(doing)?;
    drop(pipe);
    let name = &attachment.veth.name;
    let deadline = Instant::now() + WITHIN;
    loop {
        let link = news.find_link(name).doing(doing)?;
        if link.is_some_and(|link| link.has_carrier) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = vec![PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        let process = target.process.as_ref();
        fds.extend(process.map(|it| PollFd::new(it.pidfd.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, left) {
            Err(Errno::EINTR) => continue,
            Ok(0) => {
                return Err(Error::new(format!(
                    "{}: init has not set its link up within {} seconds",
                    doing(),
                    WITHIN.as_secs()
                )));
            }
            polled => polled.doing(doing)?,
        };
        target.check()?;
        // What it is does not matter: the link is looked at.
        let _ = news.receive(libc::MSG_DONTWAIT);
    }
}
