//! Commands for containers that other tools made.

use std::path::PathBuf;

use clap::Args;

use super::Network;
use super::values::{parse_absolute, parse_name};

/// `attach`.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("network", |network| network.help("bridge, or ptp (no bridge: a route of its own)")))]
pub struct Attach {
    /// A process of the container
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// The container's network namespace, where no process is to be named; it ends with detach alone
    #[arg(long, value_name = "PATH", conflicts_with = "pid")]
    pub netns: Option<PathBuf>,
    /// Name of the container [default: one is made up]
    #[arg(long, value_parser = parse_name)]
    pub name: Option<String>,
    /// Let the container's own init set the network up, which waits there for its config: init --config FIFO
    #[arg(long, value_name = "FIFO")]
    pub to: Option<PathBuf>,
    /// Stay until the container ends: hold its ports, those of loopback addresses too, and follow the host's resolvers
    #[arg(long)]
    pub stay: bool,
    /// Give the namespace the container's name for ip netns
    #[arg(long, requires = "name")]
    pub export: bool,

    /// Its network.
    #[command(flatten)]
    pub net: Network,
}

/// `detach`.
#[derive(Debug, Clone, Args)]
pub struct Detach {
    /// A process of the container, or the container
    #[arg(value_name = "PID|NAME", required_unless_present = "netns", value_parser = parse_name)]
    pub target: Option<String>,
    /// The container's network namespace
    #[arg(long, value_name = "PATH", conflicts_with = "target")]
    pub netns: Option<PathBuf>,
}

/// `hook`.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("network", |network| network.help(
    "bridge, ptp (no bridge: a route of its own), none (it is left alone), host (that config.json leaves it in)"
)))]
pub struct Hook {
    /// Name of the container [default: its id]
    #[arg(long, value_parser = parse_name)]
    pub name: Option<String>,
    /// Write the container's address into this file, an absolute path, as long as it has it
    #[arg(long, value_name = "FILE", value_parser = parse_absolute)]
    pub ip_file: Option<PathBuf>,

    /// Its network.
    #[command(flatten)]
    pub net: Network,
}
