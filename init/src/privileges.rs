//! Dropping privileges: bounding set, groups, user, capabilities, no-new-privileges, working directory.
//!
//! The order is the kernel's: the bounding set needs CAP_SETPCAP, the groups CAP_SETGID, and both are gone with the
//! user; what shall be ambient must be permitted and inheritable first, and stays permitted only by PR_SET_KEEPCAPS.

use hawser::buffer::Buffer;
use hawser::protocol::{Fact, Message};

use crate::error::{self, OrFail, Step};
use crate::machine;
use crate::sys::{self, Capabilities, Errno};

const BOUND: Step = "drop a capability from the bounding set; it needs CAP_SETPCAP";
const SET_GROUPS: Step = "set groups; it needs CAP_SETGID, and the groups in this user namespace";
const SET_USER: Step =
    "set user and group; it needs CAP_SETUID and CAP_SETGID, and both in this user namespace";
const SET: Step = "set capabilities";
const AMBIENT: Step = "make capabilities ambient; init must have them";
const NO_NEW: Step = "set no-new-privileges";
const CHDIR: Step = "chdir; it must be there, and open to the command's user";

/// linux/capability.h
const SYS_BOOT: u64 = 1 << 22;

/// What the message says about privileges.
#[derive(Default)]
struct Wanted<'a> {
    /// Where there is no list, capabilities are left alone.
    has_list: bool,
    kept: u64,
    ambient: u64,
    user: Option<(u32, u32)>,
    /// The line's text: what an error is about.
    groups: &'a [u8],
    no_new_privileges: bool,
    workdir: Option<&'a [u8]>,
}

/// Drops what the message does not keep, and changes to its user and working directory.
#[inline(never)]
pub fn drop_privileges(message: &Message<'_>, space: &mut [u8], text: &mut [u8]) {
    // A group of the longest list takes more bytes in the message than here: they fit.
    let mut groups = Buffer::new(space);
    let wanted = collect(message, &mut groups);
    let mut sets = wanted.has_list;
    if wanted.has_list {
        drop_bounding_set(wanted.kept);
    }
    let groups = groups.finish().unwrap_or(&[]);
    // A user has the groups that the message names and no others. Where setgroups is denied (in a user namespace that an
    // ordinary user made) there may be none to drop.
    if !groups.is_empty() || (wanted.user.is_some() && sys::count_groups() != Ok(0)) {
        sys::set_groups(groups).or_fail(SET_GROUPS, wanted.groups);
    }
    if let Some((uid, gid)) = wanted.user {
        if uid != 0 && (wanted.ambient != 0 || machine::is_one()) {
            // Which, is said below. Without it there are none to make ambient.
            let _ = sys::control(libc::PR_SET_KEEPCAPS, 1, 0);
            sets = true;
        }
        sys::set_group(gid).or_fail(SET_USER, b"");
        sys::set_user(uid).or_fail(SET_USER, b"");
    }
    if sets {
        set_capabilities(&wanted);
    }
    if wanted.no_new_privileges {
        sys::control(libc::PR_SET_NO_NEW_PRIVS, 1, 0).or_fail(NO_NEW, b"");
    }
    if let Some(path) = wanted.workdir {
        let changed = match sys::c_string(&[path], text) {
            Some(path) => sys::change_directory(path),
            None => Err(Errno(libc::ENAMETOOLONG)),
        };
        changed.or_fail(CHDIR, path);
    }
}

fn collect<'a>(message: &Message<'a>, groups: &mut Buffer<'_>) -> Wanted<'a> {
    let mut wanted = Wanted::default();
    let mut facts = message.facts();
    while let Some(entry) = &facts.next() {
        match entry.fact {
            Fact::Capabilities(set) => {
                wanted.has_list = true;
                wanted.kept |= set;
            }
            Fact::Ambient(capability) => {
                wanted.has_list = true;
                wanted.kept |= capability.bit();
                wanted.ambient |= capability.bit();
            }
            Fact::User { uid, gid } => wanted.user = Some((uid, gid)),
            Fact::Groups(list) => {
                wanted.groups = entry.object();
                for group in list.iter() {
                    groups.put(&group.to_ne_bytes());
                }
            }
            Fact::NoNewPrivileges => wanted.no_new_privileges = true,
            Fact::Workdir(path) => wanted.workdir = Some(path.0),
            _ => {}
        }
    }
    wanted
}

/// Capabilities that the kernel knows and our table does not are dropped as well.
fn drop_bounding_set(kept: u64) {
    for number in 0..u64::BITS as usize {
        if kept >> number & 1 != 0 {
            continue;
        }
        if let Err(errno) = sys::control(libc::PR_CAPBSET_DROP, number, 0) {
            match sys::control(libc::PR_CAPBSET_READ, number, 0) {
                // What is not there need not be dropped.
                Ok(0) => {}
                Ok(_) => error::fail_by_errno(BOUND, b"", errno, error::OURS),
                // One behind the kernel's last.
                Err(_) => return,
            }
        }
    }
}

/// Root keeps its list; another user has nothing but what is ambient.
#[inline(never)]
fn set_capabilities(wanted: &Wanted<'_>) {
    let is_root = sys::effective_user() == 0;
    let ambient = if is_root { 0 } else { wanted.ambient };
    let mut kept = if is_root { wanted.kept } else { ambient };
    if machine::is_one() {
        // For the end. The command does not get it by exec: it is neither ambient nor inheritable, nor, for root, bounding.
        kept |= SYS_BOOT;
    }
    let mut inheritable = ambient;
    let mut sets = Capabilities::default();
    sys::read_capabilities(&mut sets).or_fail(SET, b"");
    for block in &mut sets.0 {
        block.permitted &= kept as u32;
        block.effective = block.permitted;
        block.inheritable = inheritable as u32;
        kept >>= 32;
        inheritable >>= 32;
    }
    sys::set_capabilities(&sets).or_fail(SET, b"");
    for number in 0..u64::BITS {
        if ambient >> number & 1 != 0 {
            let raise = libc::PR_CAP_AMBIENT_RAISE as usize;
            sys::control(libc::PR_CAP_AMBIENT, raise, number as usize).or_fail(AMBIENT, b"");
        }
    }
}
