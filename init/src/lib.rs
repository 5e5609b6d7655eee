//! What `init` and `host-helper` must agree on, without `std` and without allocation.
#![no_std]

pub mod netlink;
