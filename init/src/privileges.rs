//! Dropping privileges: groups, bounding set, user, capabilities, no-new-privileges, working directory.
//!
//! The order is the kernel's: the bounding set needs CAP_SETPCAP, the groups CAP_SETGID, and both are gone with the user;
//! what shall be ambient must be permitted and inheritable first, and stays permitted only with PR_SET_KEEPCAPS.

use core::ffi::CStr;

use hawser::capability::Capability;
use hawser::protocol::{Fact, GROUPS, Message};

use crate::error::Failure;
use crate::sys::{self, Capabilities, Errno};

/// What the message says about privileges.
struct Wanted<'a> {
    /// Where there is no list, capabilities are left alone.
    has_list: bool,
    kept: u64,
    ambient: u64,
    user: Option<(u32, u32)>,
    no_new_privileges: bool,
    workdir: Option<&'a str>,
}

/// Drops what the message does not keep, and changes to its user and working directory.
pub fn drop_privileges<'a>(message: &Message<'a>, text: &mut [u8]) -> Result<(), Failure<'a>> {
    let wanted = collect(message);
    if wanted.has_list {
        drop_bounding_set(wanted.kept)?;
    }
    set_groups(message, wanted.user.is_some())?;
    if let Some((uid, gid)) = wanted.user {
        if wanted.ambient != 0 && uid != 0 {
            control("keep capabilities", libc::PR_SET_KEEPCAPS, 1, 0)?;
        }
        sys::set_group(gid)
            .map_err(|errno| Failure::system("set group", b"", errno).with_cure(NEEDS_SETGID))?;
        sys::set_user(uid)
            .map_err(|errno| Failure::system("set user", b"", errno).with_cure(NEEDS_SETUID))?;
    }
    if wanted.has_list {
        set_capabilities(&wanted)?;
    }
    if wanted.no_new_privileges {
        control("set no-new-privileges", libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    }
    if let Some(path) = wanted.workdir {
        let failure = |errno| Failure::system("chdir", path.as_bytes(), errno);
        let path = c_string(path, text).ok_or(failure(Errno(libc::ENAMETOOLONG)))?;
        sys::change_directory(path).map_err(failure)?;
    }
    Ok(())
}

const NEEDS_SETGID: &str =
    "the group must exist in this user namespace, and changing to it needs CAP_SETGID";
const NEEDS_SETUID: &str =
    "the user must exist in this user namespace, and changing to it needs CAP_SETUID";

fn collect<'a>(message: &Message<'a>) -> Wanted<'a> {
    let mut wanted = Wanted {
        has_list: false,
        kept: 0,
        ambient: 0,
        user: None,
        no_new_privileges: false,
        workdir: None,
    };
    for entry in message.facts() {
        match entry.fact {
            Fact::Capability(capability) => {
                wanted.has_list = true;
                wanted.kept |= capability.bit();
            }
            Fact::Ambient(capability) => {
                wanted.has_list = true;
                wanted.kept |= capability.bit();
                wanted.ambient |= capability.bit();
            }
            Fact::NoCapabilities => wanted.has_list = true,
            Fact::User { uid, gid } => wanted.user = Some((uid, gid)),
            Fact::NoNewPrivileges => wanted.no_new_privileges = true,
            Fact::Workdir(path) => wanted.workdir = Some(path),
            _ => {}
        }
    }
    wanted
}

/// Capabilities that the kernel knows and our table does not are dropped as well.
fn drop_bounding_set(kept: u64) -> Result<(), Failure<'static>> {
    for number in 0..64usize {
        match sys::control(libc::PR_CAPBSET_READ, number, 0) {
            Ok(1) if kept & (1 << number) == 0 => {}
            Ok(_) => continue,
            // One behind the kernel's last.
            Err(_) => break,
        }
        control(
            "drop from the bounding set a capability",
            libc::PR_CAPBSET_DROP,
            number,
            0,
        )
        .map_err(|failure| failure.with_cure("it needs CAP_SETPCAP"))?;
    }
    Ok(())
}

/// A user has the groups that the message names and none else; without a user and without groups nothing changes.
fn set_groups<'a>(message: &Message<'a>, has_user: bool) -> Result<(), Failure<'a>> {
    let mut groups = [0u32; GROUPS];
    let mut count = 0;
    let mut object = "";
    for entry in message.facts() {
        if let Fact::Groups(list) = entry.fact {
            object = entry.object();
            for (to, from) in groups.iter_mut().zip(list.iter()) {
                *to = from;
                count += 1;
            }
        }
    }
    // Where setgroups is denied (a user namespace that an ordinary user made), an empty list that is to be emptied is fine.
    if count == 0 && (!has_user || sys::count_groups() == Ok(0)) {
        return Ok(());
    }
    sys::set_groups(groups.get(..count).unwrap_or(&[])).map_err(|errno| {
        Failure::system("set groups", object.as_bytes(), errno).with_cure(NEEDS_SETGID)
    })
}

/// Root keeps its list; another user has nothing but what is ambient.
fn set_capabilities(wanted: &Wanted<'_>) -> Result<(), Failure<'static>> {
    let is_root = sys::effective_user() == 0;
    let ambient = if is_root { 0 } else { wanted.ambient };
    let have =
        sys::capabilities().map_err(|errno| Failure::system("read capabilities", b"", errno))?;
    let permitted = have.permitted & if is_root { wanted.kept } else { ambient };
    let sets = Capabilities {
        effective: permitted,
        permitted,
        inheritable: ambient,
    };
    sys::set_capabilities(&sets)
        .map_err(|errno| Failure::system("set capabilities", b"", errno))?;
    for capability in Capability::all() {
        if ambient & capability.bit() != 0 {
            let raise = libc::PR_CAP_AMBIENT_RAISE as usize;
            sys::control(
                libc::PR_CAP_AMBIENT,
                raise,
                usize::from(capability.number()),
            )
            .map_err(|errno| {
                Failure::system("make ambient", capability.name().as_bytes(), errno)
            })?;
        }
    }
    Ok(())
}

fn control(verb: &'static str, option: i32, a: usize, b: usize) -> Result<(), Failure<'static>> {
    sys::control(option, a, b)
        .map(drop)
        .map_err(|errno| Failure::system(verb, b"", errno))
}

fn c_string<'t>(path: &str, text: &'t mut [u8]) -> Option<&'t CStr> {
    let mut space = text.iter_mut();
    for byte in path.bytes().chain([0]) {
        *space.next()? = byte;
    }
    CStr::from_bytes_until_nul(text).ok()
}
