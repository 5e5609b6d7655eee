//! A lab for black-box tests: each case runs in namespaces of its own, with a *host*, an *uplink* and an *internet*
//! behind it, and never touches the machine's network.
//!
//! A test is a `#[test]` whose body is one [`case`] (or [`packets`], which runs it with bridge netfilter off and then
//! on). The test binary starts itself again inside new namespaces, so that it works the same under `cargo nextest`
//! and `cargo test`. When the case ends its PID 1 ends, and the kernel takes everything back.

mod case;
mod changes;
mod clients;
pub mod crash;
mod debian;
pub mod errnos;
mod firewalls;
mod machine;
mod memory;
mod net;
mod oci;
mod plugin;
mod process;
mod pty;
pub mod requests;
mod rootfs;
mod scene;
mod snapshot;
pub mod strace;
mod supervised;
pub mod sys;
pub mod tracer;
pub mod wire;
mod work;

pub use case::{alone, bare, binary, case, init_binary, is_root, packets, program, skip};
pub use changes::{Resolved, Seen};
pub use clients::PLUGINS;
pub use debian::{Group, Runtime};
pub use firewalls::Firewalld;
pub use machine::{CARD, Machine, PATIENCE, write_script};
pub use net::{Lab, Netns, Watch, fill, listeners};
pub use oci::{Bundle, Oci, hook};
pub use plugin::{Answer, Plugin, Whose};
pub use process::{
    DEADLINE, Outcome, Running, child, children, collect, mounts_of, parent, turns, wait_for_end,
    wait_untold,
};
pub use pty::Terminal;
pub use scene::{Scene, Station};
pub use snapshot::Snapshot;
pub use supervised::Supervised;
pub use work::{
    Work, calls, inject_into, with_add_and_end, with_attach, with_attach_and_end, with_detach,
    with_exec, with_first_run, with_hook, with_plugin, with_poststop, with_run, with_run_and_stop,
    with_run_of, with_run_on_terminal, with_stay, with_stay_of_namespace, with_stay_to_the_end,
    with_up_and_down,
};

/// Runs a witness (`ip`, `nft`...) and gives what it prints; panics with its complaint if it fails.
pub fn sh(command: &str) -> String {
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", command]);
    let outcome = collect(shell, DEADLINE);
    assert_eq!(outcome.code, 0, "witness {command:?} failed: {outcome}");
    outcome.out()
}

/// A command as a shell runs it, or another program that takes one as its last arguments.
pub fn within(outer: &[&str], command: &std::process::Command) -> std::process::Command {
    let mut all = std::process::Command::new(outer[0]);
    all.args(&outer[1..]);
    all.arg(command.get_program()).args(command.get_args());
    all
}

/// Runs a command as a user would, who has host-helper in the PATH: as an error names it.
#[track_caller]
pub fn paste(command: &str) {
    let path = binary();
    let directory = path.parent().expect("a directory").display();
    sh(&format!("PATH={directory}:$PATH; {command}"));
}
