//! What `init` and `host-helper` must agree on, without `std` and without allocation.
#![no_std]

pub mod address;
pub mod batch;
pub mod buffer;
pub mod capability;
pub mod cmdline;
pub mod errno;
pub mod netlink;
pub mod protocol;
pub mod signal;
