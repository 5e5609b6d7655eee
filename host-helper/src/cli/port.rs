//! Published ports of a running container.

use clap::Subcommand;

use super::PORT;
use super::values::parse_name;
use crate::publish;

/// `port`.
#[derive(Debug, Clone, Subcommand)]
pub enum Port {
    /// List them, each as --publish would want it
    Ls {
        /// The container
        #[arg(value_parser = parse_name)]
        name: String,
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Publish further ones, and print them
    Add {
        /// The container
        #[arg(value_parser = parse_name)]
        name: String,
        /// As with run --publish
        #[arg(required = true, value_name = PORT)]
        ports: Vec<publish::Range>,
    },
    /// Take some back, and print them
    Rm {
        /// The container
        #[arg(value_parser = parse_name)]
        name: String,
        /// As with run --publish, with the same ADDR or without any; without HOSTPORT, whichever it is
        #[arg(required = true, value_name = PORT)]
        ports: Vec<publish::Range>,
    },
}
