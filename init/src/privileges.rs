//! Dropping privileges: bounding set, groups, user, capabilities, no-new-privileges, working directory.
//!
//! The order is the kernel's: the bounding set needs CAP_SETPCAP, the groups CAP_SETGID, and both are gone with the
//! user; what shall be ambient must be permitted and inheritable first, and stays permitted only by PR_SET_KEEPCAPS.

use hawser::capability::Capability;
use hawser::protocol::{Fact, GROUPS, Message};

use crate::error::{OrFail, Step};
use crate::sys::{self, Capabilities, Errno};

/// What the message says about privileges.
#[derive(Default)]
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
#[inline(never)]
pub fn drop_privileges(message: &Message<'_>, text: &mut [u8]) {
    let wanted = collect(message);
    if wanted.has_list {
        drop_bounding_set(wanted.kept);
    }
    set_groups(message, wanted.user.is_some());
    if let Some((uid, gid)) = wanted.user {
        if wanted.ambient != 0 && uid != 0 {
            control(KEEP, libc::PR_SET_KEEPCAPS, 1);
        }
        sys::set_group(gid).or_fail(SET_GROUP, b"");
        sys::set_user(uid).or_fail(SET_USER, b"");
    }
    if wanted.has_list {
        set_capabilities(&wanted);
    }
    if wanted.no_new_privileges {
        control(NO_NEW, libc::PR_SET_NO_NEW_PRIVS, 1);
    }
    if let Some(path) = wanted.workdir {
        let path = path.as_bytes();
        let changed = match sys::c_string(&[path], text) {
            Some(path) => sys::change_directory(path),
            None => Err(Errno(libc::ENAMETOOLONG)),
        };
        changed.or_fail(CHDIR, path);
    }
}

const BOUND: Step = "drop a capability from the bounding set; it needs CAP_SETPCAP";
const KEEP: Step = "keep capabilities";
const SET_GROUPS: Step = "set groups; it needs CAP_SETGID, and the groups in this user namespace";
const SET_GROUP: Step = "set group; it needs CAP_SETGID, and the group in this user namespace";
const SET_USER: Step = "set user; it needs CAP_SETUID, and the user in this user namespace";
const SET: Step = "set capabilities";
const AMBIENT: Step = "make ambient; init itself must have the capability";
const NO_NEW: Step = "set no-new-privileges";
const CHDIR: Step = "chdir; the user of the command must be able to enter it";

#[inline(never)]
fn collect<'a>(message: &Message<'a>) -> Wanted<'a> {
    let mut wanted = Wanted::default();
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
fn drop_bounding_set(kept: u64) {
    for number in 0..64usize {
        match sys::control(libc::PR_CAPBSET_READ, number, 0) {
            Ok(1) if kept & (1 << number) == 0 => {
                control(BOUND, libc::PR_CAPBSET_DROP, number);
            }
            Ok(_) => {}
            // One behind the kernel's last.
            Err(_) => break,
        }
    }
}

/// A user has the groups that the message names and no others; without a user and without groups nothing changes.
#[inline(never)]
fn set_groups(message: &Message<'_>, has_user: bool) {
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
    // Where setgroups is denied (in a user namespace that an ordinary user made) there may be nothing to empty.
    if count == 0 && (!has_user || sys::count_groups() == Ok(0)) {
        return;
    }
    let groups = groups.get(..count).unwrap_or(&[]);
    sys::set_groups(groups).or_fail(SET_GROUPS, object.as_bytes());
}

/// Root keeps its list; another user has nothing but what is ambient.
#[inline(never)]
fn set_capabilities(wanted: &Wanted<'_>) {
    let is_root = sys::effective_user() == 0;
    let ambient = if is_root { 0 } else { wanted.ambient };
    let have = sys::capabilities().or_fail(SET, b"");
    let permitted = have.permitted & if is_root { wanted.kept } else { ambient };
    let sets = Capabilities {
        effective: permitted,
        permitted,
        inheritable: ambient,
    };
    sys::set_capabilities(&sets).or_fail(SET, b"");
    for capability in Capability::all() {
        if ambient & capability.bit() != 0 {
            let raise = libc::PR_CAP_AMBIENT_RAISE as usize;
            let number = usize::from(capability.number());
            sys::control(libc::PR_CAP_AMBIENT, raise, number)
                .or_fail(AMBIENT, capability.name().as_bytes());
        }
    }
}

fn control(step: Step, option: i32, value: usize) {
    sys::control(option, value, 0).or_fail(step, b"");
}
