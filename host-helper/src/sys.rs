//! System calls that nix has not: only here, and in the files of `sys/`, is unsafe code of host-helper.
//!
//! Every function is the call of the same name, with types that cannot be confused; nothing here decides.

#![allow(unsafe_code)]

use nix::errno::Errno;

mod beyond;
mod descriptors;
mod memory;
mod mounts;
mod processes;
mod quiet;
mod signals;
mod sockets;
mod terminals;

pub use beyond::{Beyond, keep_open_beyond_our_end};
pub use descriptors::{
    adopt, close_on_exec_from, close_range, duplicate_from, flock, inherited, is_directory,
    is_open, keep_over_exec,
};
pub use memory::{release_memory, release_spare, with_scratch};
pub use mounts::{
    attach_tree, attach_tree_at, clear_mount_attributes, clone_tree, make_mount, map_mount,
    seclude, set_mount_attributes,
};
pub use processes::{
    Clone, End, as_nobody_else, choose_signals, clone_process, effective_capabilities,
    executed_path, exit_now, filter_system_calls, join_session_keyring, keep_capabilities,
    may_ever_chroot, pidfd_getfd, pidfd_open, pidfd_send_signal, set_not_dumpable, wait_for_end,
};
pub use quiet::wait_until_quiet;
pub use signals::{block_signals, heed, is_ignored, signal_descriptor, swap_blocked_signals};
pub use sockets::{
    OUR_PORTS, kind_of_namespace, link_index, listen, netlink_socket, network_of, only_deletions,
    only_end_of_link, socket_option,
};
pub use terminals::{
    copy_window_size, open_terminal_peer, set_controlling_terminal, terminal_device,
};

type Result<T> = std::result::Result<T, Errno>;

/// Makes a call once more as long as it was only interrupted.
pub fn again<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Random bytes (`getrandom(2)`): never blocks after boot.
pub fn random_u32() -> u32 {
    let mut bytes = [0u8; 4];
    // SAFETY: the buffer is ours and its length is passed.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    u32::from_ne_bytes(bytes)
}
