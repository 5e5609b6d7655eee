//! The command line, translated into a request.

mod guests;
mod network;
mod port;
mod usual;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::Ipv6Net;

pub use guests::{Attach, Detach, Hook};
pub use network::{Network, Resolv};
pub use port::Port;
pub use usual::may_begin_early;
use values::{
    parse_capability, parse_hostname, parse_inside, parse_name, parse_sysctl, parse_variable,
    parse_volume, parse_workdir,
};

use crate::address::{Subnet, parse_subnet6};
use crate::bridge::DEFAULT_BRIDGE;
use crate::error::Error;
use crate::rootfs::Volume;
use crate::seccomp::Seccomp;
use crate::spawn;
use crate::sys;

/// Ties containers to this host: namespaces, veths, addresses, NAT and clean-up over raw netlink.
///
/// Exit codes: 125 host-helper failed before the command ran, 126 the command cannot be executed, 127 it was not
/// found, 128+n it was ended by signal n, else its own.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "host-helper",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli<A: Subcommand = Action> {
    /// What to do.
    #[command(subcommand)]
    pub action: A,
    /// Tell each step with its duration on standard error
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Run a command in a container with a network
    Run(Box<Run>),
    /// Run a further command in a running container
    Exec(Exec),
    /// Give a container of another tool's a network
    Attach(Box<Attach>),
    /// Take away what attach gave
    Detach(Detach),
    /// Do what a container runtime asks for by CNI's environment, as when called by the name hawser
    Cni,
    /// Attach and release containers as a hook of an OCI runtime's, which says on standard input what to do
    ///
    /// Every option is an annotation of the container too, hawser.OPTION, but for --ip-file.
    Hook(Box<Hook>),
    /// List containers
    Ls {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Describe a running container, as JSON
    Inspect(Name),
    /// Show or change the published ports of a running container
    #[command(subcommand)]
    Port(Port),
    /// Show what a container of `run -d` has written
    Logs(Name),
    /// Wait until a container of `run -d` has ended, and print its exit code
    Wait(Name),
    /// End a container: TERM, then KILL
    Stop {
        /// The container
        #[arg(value_parser = parse_name)]
        name: String,
        /// Seconds between TERM and KILL
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        grace: u64,
    },
    /// Forget the log and the exit code of a container of `run -d` that has ended
    Rm(Name),
    /// Make a network without a container
    Up {
        /// The bridge
        #[arg(long, default_value = DEFAULT_BRIDGE, value_name = "NAME")]
        bridge: String,
        /// Its subnet, as 192.0.2.0/24, or auto: one of 172.16.0.0/12 that no route has
        #[arg(long, value_name = "CIDR")]
        subnet: Option<Subnet>,
        /// Its IPv6 subnet [default: a unique local one, made from the machine's id and the network's name]
        #[arg(long, value_name = "CIDR", value_parser = parse_subnet6)]
        subnet6: Option<Ipv6Net>,
        /// Never give it IPv6
        #[arg(long, conflicts_with = "subnet6")]
        no_ipv6: bool,
    },
    /// Put the firewall rules back that somebody has flushed: of all networks and containers
    Restore,
    /// Look for what breaks the networks of containers, and name it with its cure; nothing is changed
    Doctor {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove a network, and with the last one everything of ours; the host's switches are put back
    Down {
        /// The bridge
        #[arg(long, default_value = DEFAULT_BRIDGE, value_name = "NAME")]
        bridge: String,
        /// Stop its containers first
        #[arg(long)]
        force: bool,
    },
}

/// The commands, where it is known that the first word is `run`: to describe all others takes clap longer than the kernel
/// takes for a network namespace's first link.
#[derive(Debug, Clone, Subcommand)]
enum OnlyRun {
    /// Run a command in a container with a network
    Run(Box<Run>),
}

/// How a published port is written.
const PORT: &str = "[ADDR:][HOSTPORT:]PORT[/tcp|udp|sctp]";

/// A container that exists.
#[derive(Debug, Clone, Args)]
pub struct Name {
    /// The container
    #[arg(value_parser = parse_name)]
    pub name: String,
}

/// `exec`.
#[derive(Debug, Clone, Args)]
pub struct Exec {
    /// The container
    #[arg(value_parser = parse_name)]
    pub name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Set a variable; without =V, to the caller's value. The others are those of the container's command
    #[arg(short, long, value_name = "K=V", value_parser = parse_variable)]
    pub env: Vec<String>,
    /// Start in this directory [default: that of the container's command]
    #[arg(short, long, value_name = "DIR", value_parser = parse_workdir)]
    pub workdir: Option<String>,
    /// Give the command a terminal [default: when standard input, output and error are one]
    #[arg(short, long, conflicts_with = "no_tty")]
    pub tty: bool,
    /// Give the command no terminal of its own
    #[arg(long)]
    pub no_tty: bool,
}

/// `run`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// Directory to use as root file system; without it, the files of the host's own / (not of its other mounts),
    /// all of them visible, and what the container changes is thrown away
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    pub rootfs: Option<PathBuf>,
    /// The root file system cannot be written
    #[arg(long, help_heading = "Files")]
    pub read_only: bool,
    /// Show a file or directory of the host inside; repeatable
    #[arg(short = 'v', long, value_name = "SRC:DST[:ro|:rw]", value_parser = parse_volume, help_heading = "Files")]
    pub volume: Vec<Volume>,
    /// Mount an empty file system; repeatable
    #[arg(long, value_name = "DST", value_parser = parse_inside, help_heading = "Files")]
    pub tmpfs: Vec<PathBuf>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR", value_parser = parse_workdir, help_heading = "Files")]
    pub workdir: Option<String>,

    /// Set a variable; without =V, to the caller's value. The environment is clean but for PATH, HOME, TERM, HOSTNAME
    #[arg(short, long, value_name = "K=V", value_parser = parse_variable, help_heading = "Process")]
    pub env: Vec<String>,
    /// Run as this user; names are looked up in the container's passwd and group
    #[arg(
        short,
        long,
        value_name = "UID|NAME[:GID|GROUP]",
        help_heading = "Process"
    )]
    pub user: Option<String>,
    /// Host name inside [default: the container's name]
    #[arg(long, value_name = "NAME", value_parser = parse_hostname, help_heading = "Process")]
    pub hostname: Option<String>,
    /// Name of the container [default: one is made up]
    #[arg(long, value_parser = parse_name, help_heading = "Process")]
    pub name: Option<String>,
    /// Give the command a terminal [default: when standard input, output and error are one]
    #[arg(short, long, conflicts_with = "no_tty", help_heading = "Process")]
    pub tty: bool,
    /// Give the command no terminal of its own
    #[arg(long, help_heading = "Process")]
    pub no_tty: bool,
    /// Return when the command runs, and print the container's name; see logs and wait
    #[arg(short, long, help_heading = "Process")]
    pub detach: bool,
    /// Hand descriptors 3 to 2+N to the command
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000), help_heading = "Process")]
    pub preserve_fds: u32,
    /// Set a switch of the container's network; repeatable
    #[arg(long, value_name = "net.*=V", value_parser = parse_sysctl, help_heading = "Process")]
    pub sysctl: Vec<(String, String)>,
    /// Keep a capability, or all; repeatable
    #[arg(long, value_name = "CAP", value_parser = parse_capability, help_heading = "Process")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or all; repeatable
    #[arg(long, value_name = "CAP", value_parser = parse_capability, help_heading = "Process")]
    pub cap_drop: Vec<String>,
    /// Whether programs with set-user-ID give no privileges
    #[arg(long, value_name = "on|off", default_value = "on", default_missing_value = "on", num_args = 0..=1,
          require_equals = true, help_heading = "Process")]
    pub no_new_privileges: Switch,
    /// The filter of system calls: the one that is built in, or none
    #[arg(
        long,
        value_name = "default|unconfined",
        default_value = "default",
        hide_possible_values = true,
        help_heading = "Process"
    )]
    pub seccomp: Seccomp,
    /// Let the users inside be others outside, of a range of their own: root inside is nobody on the host
    #[arg(long, help_heading = "Process")]
    pub userns: bool,
    /// Let init stay as PID 1: it forwards signals, reaps what is orphaned, and ends what the command leaves
    #[arg(long, help_heading = "Process")]
    pub init: bool,
    /// Seconds after a TERM that was forwarded until the container is killed
    #[arg(
        long,
        default_value_t = 10,
        value_name = "SECONDS",
        help_heading = "Process"
    )]
    pub grace: u64,
    /// The init to use [default: ../libexec/hawser/init beside this program's directory, or the one inside it]
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub init_path: Option<PathBuf>,

    /// Its network.
    #[command(flatten)]
    pub net: Network,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// What a command line asks for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// Something to do.
    For(Cli),
    /// Help, or the version: this text.
    Text(String),
}

/// The error of options that make no sense together.
pub fn usage(why: &str) -> Error {
    Error::new(format!("read the command line: {why}; see --help"))
}

/// Reads the command line.
///
/// # Errors
/// A usage error: one line, without a period.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> std::result::Result<Asked, String> {
    let words: Vec<OsString> = words.into_iter().collect();
    match usual::parse(&words) {
        Some(cli) => Ok(Asked::For(cli)),
        None => sys::with_scratch(|| parse_any(&words), Clone::clone),
    }
}

fn parse_any(words: &[OsString]) -> std::result::Result<Asked, String> {
    use clap::error::ErrorKind;
    match parse_all(words) {
        Ok(cli) => Ok(Asked::For(cli)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Err("read the command line: it names nothing to do; see --help".into())
            }
            ErrorKind::DisplayHelp => Ok(Asked::Text(error.render().to_string())),
            // clap names the command, too.
            ErrorKind::DisplayVersion => Ok(Asked::Text(
                <Cli as CommandFactory>::command().render_version(),
            )),
            ErrorKind::InvalidUtf8 => Err(values::no_utf8(words)),
            _ => Err(one_line(&error.render().to_string())),
        },
    }
}

/// By the definition of all options.
fn parse_all(words: &[OsString]) -> std::result::Result<Cli, clap::Error> {
    if !begins_with_run(words) {
        return Cli::try_parse_from(words);
    }
    Cli::try_parse_from(words).map(|Cli { action, verbose }| {
        let OnlyRun::Run(run) = action;
        Cli {
            action: Action::Run(run),
            verbose,
        }
    })
}

fn begins_with_run(words: &[OsString]) -> bool {
    words.get(1).is_some_and(|word| word == "run")
}

/// Whether a command line that may be wrong otherwise is one of `hook`.
pub fn is_for_hook(words: impl IntoIterator<Item = OsString>) -> bool {
    let mut words = words.into_iter().skip(1);
    words
        .find(|word| word != "--verbose")
        .is_some_and(|word| word == "hook")
}

/// clap's paragraphs as one sentence: its first one, and where to read on.
fn one_line(text: &str) -> String {
    let first: Vec<&str> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    let sentence = first.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    format!("read the command line: {sentence}; see --help")
}

/// What the container may have unless told otherwise: Docker's set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];

impl Run {
    /// The capabilities that are kept: the default ones, without those that are dropped, with those that are added.
    pub fn capabilities(&self) -> Vec<String> {
        let all = || {
            hawser::capability::Capability::all().map(|capability| capability.name().to_string())
        };
        let has = |list: &[String], name: &str| list.iter().any(|item| item == name);
        let mut kept: Vec<String> = match (has(&self.cap_add, "all"), has(&self.cap_drop, "all")) {
            (true, _) => all().collect(),
            (false, true) => Vec::new(),
            (false, false) => DEFAULT_CAPABILITIES.map(String::from).into(),
        };
        kept.retain(|name| !has(&self.cap_drop, name));
        for name in self.cap_add.iter().filter(|name| *name != "all") {
            if !has(&kept, name) {
                kept.push(name.clone());
            }
        }
        kept
    }

    /// Whether the command gets a terminal.
    pub fn wants_terminal(&self) -> bool {
        self.tty || (!self.detach && !self.no_tty && crate::terminal::is_interactive())
    }

    /// init's file, opened.
    ///
    /// # Errors
    /// It cannot be.
    pub fn open_init(&self) -> crate::error::Result<Option<std::os::fd::OwnedFd>> {
        spawn::open_init(self.init_path.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Run, String> {
        let all = ["host-helper", "run"]
            .iter()
            .chain(words)
            .map(OsString::from);
        match parse(all)? {
            Asked::For(Cli {
                action: Action::Run(run),
                ..
            }) => Ok(*run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::<Action>::command().debug_assert();
        Cli::<OnlyRun>::command().debug_assert();
    }

    #[test]
    fn the_first_word_that_is_no_option_starts_the_command() {
        assert_eq!(
            run(&["-t", "ls", "-l", "--help"]).unwrap().command,
            ["ls", "-l", "--help"]
        );
        assert_eq!(run(&["--", "-x"]).unwrap().command, ["-x"]);
        assert!(run(&[]).is_err());
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let kept = |words: &[&str]| {
            let words: Vec<&str> = words.iter().copied().chain(["true"]).collect();
            run(&words).unwrap().capabilities()
        };
        assert_eq!(kept(&[]).len(), 14);
        assert_eq!(
            kept(&["--cap-drop", "ALL", "--cap-add", "CAP_NET_RAW"]),
            ["net_raw"]
        );
        assert!(!kept(&["--cap-drop=net_raw"]).contains(&"net_raw".to_string()));
        assert_eq!(kept(&["--cap-add=all", "--cap-drop=sys_module"]).len(), 40);
        assert!(run(&["--cap-add", "net_everything", "true"]).is_err());
    }

    #[test]
    fn bad_words_are_one_line() {
        for bad in [
            &["--mtu", "67", "true"][..],
            &["--ip", "2001:db8::2", "true"],
            &["--ip6", "192.0.2.2", "true"],
            &["--subnet", "2001:db8::/64", "true"],
            &["--subnet6", "192.0.2.0/24", "true"],
            &["--subnet6", "2001:db8::1/64", "true"],
            &["--no-ipv6", "--ip6", "2001:db8::2", "true"],
            &["--no-ipv6", "--subnet6", "2001:db8::/64", "true"],
            &["--network", "wire", "true"],
            &["-v", "/etc", "true"],
            &["-v", "/no/such/path:/x", "true"],
            &["--sysctl", "kernel.panic=1", "true"],
            &["--sysctl", "net.../../kernel.panic=1", "true"],
            &["--name", "a/b", "true"],
            &["--add-host", "web:999", "true"],
            &["--no-such-option", "true"],
            &["-w", "srv", "true"],
            &["--tmpfs", "/", "true"],
            &["-p", "0:80", "true"],
            &["-p", "80:80/tls", "true"],
        ] {
            let error = run(bad).unwrap_err();
            assert!(
                !error.contains('\n') && error.ends_with("; see --help"),
                "{error}"
            );
        }
    }
}
