//! The network namespace of a container: made for it, another container's, or one that is there.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use crate::attached::{self, socket_inside};
use crate::config::Privileges;
use crate::control;
use crate::error::{Doing, Error, Result};
use crate::netlink::Netlink;
use crate::owner::{self, place_of};
use crate::request::{NetworkChoice, Request};
use crate::spawn::{self, Child, Spawn};
use crate::sys;
use crate::users::{NewNetwork, Users};

/// The user namespace, where the container is to have one, and the network namespace with it.
///
/// Undone by dropping it.
pub(super) fn make_users(request: &Request, privileges: &Privileges) -> Result<Option<Users>> {
    let Some(map) = privileges.users else {
        return Ok(None);
    };
    let made = match &request.network {
        NetworkChoice::Container(name) => match Users::of_container(name, map)? {
            Some(shared) => Ok(shared),
            None => Users::make(map, NewNetwork::No),
        },
        choice if choice.is_new() => Users::make(map, NewNetwork::Yes),
        _ => Users::make(map, NewNetwork::No),
    };
    made.map(Some)
}

/// That of the container, unless the child makes it: made with the user namespace, another's, or the host's, which is `None`.
/// With it, when it is new, a socket inside. The child is told to join it.
pub(super) fn join(
    child: &Child,
    choice: &NetworkChoice,
    spawn: &mut Spawn,
) -> Result<Option<(Option<OwnedFd>, Option<Netlink>)>> {
    if spawn.makes_network() {
        return Ok(None);
    }
    let users = spawn.rootfs.users.as_mut();
    if let Some(made) = users.and_then(|users| users.network.take()) {
        child.hand_over(&made)?;
        let inside = socket_inside(&made, "the network namespace")?;
        return Ok(Some((Some(made), Some(inside))));
    }
    let joined = namespace(choice)?;
    match &joined {
        Some(namespace) => child.hand_over(namespace)?,
        None => child.hand_over(&spawn::own_network_namespace()?)?,
    }
    Ok(Some((joined, None)))
}

/// What is said of a container that ends while somebody comes to share its network.
const ENDED: &str = "the container has ended meanwhile; host-helper ls shows those that run";

/// Whether the network that the child has joined is still that of the container. Until it was in there nobody was to be seen there, and
/// with the container's end its limits went. From here on it is seen.
///
/// Before: the child has joined it, and its command waits.
///
/// # Errors
/// The container has ended, whoever has its name now.
pub(super) fn check_again(child: &Child, choice: &NetworkChoice) -> Result<()> {
    let NetworkChoice::Container(name) = choice else {
        return Ok(());
    };
    let doing = || format!("join the network of {name}");
    let joined = owner::namespace(&child.pid.to_string(), "net").doing(doing)?;
    let now = match namespace(choice)? {
        Some(now) => Some(fstat(now).doing(doing)?.st_ino),
        None => None,
    };
    match now == Some(joined) {
        true => Ok(()),
        false => Err(Error::new(format!("{}: {ENDED}", doing()))),
    }
}

/// The network namespace of the container; `None`: the host's.
pub fn namespace(choice: &NetworkChoice) -> Result<Option<OwnedFd>> {
    let path = match choice {
        NetworkChoice::Host => return Ok(None),
        NetworkChoice::Container(name) => match control::join(name) {
            Ok(pid) => place_of(pid).join("ns/net"),
            // An attachment without a supervisor.
            Err(error) => {
                let found = attached::namespace_of(name)?;
                return found.map(Some).ok_or(error);
            }
        },
        NetworkChoice::Path(path) => path.clone(),
        _ => return Err(Error::new("open a network namespace: it is not there yet")),
    };
    let doing = || format!("open network namespace {}", path.display());
    let file = openat(
        AT_FDCWD,
        &path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    );
    const CURE: &str = "give one of /run/netns, or /proc/PID/ns/net";
    let cure = match choice {
        NetworkChoice::Container(_) => ENDED,
        _ => CURE,
    };
    let file = file
        .doing(doing)
        .map_err(|error| error.cure(Errno::ENOENT, cure))?;
    // Any other file would be refused by setns(2), but after everything else was made.
    let is_not = match sys::kind_of_namespace(&file) {
        Ok(libc::CLONE_NEWNET) => return Ok(Some(file)),
        Ok(_) => "it is a namespace of another kind",
        Err(Errno::ENOTTY) => "it is no namespace",
        Err(errno) => return Err(errno).doing(doing),
    };
    Err(Error::new(format!("{}: {is_not}; {CURE}", doing())))
}
