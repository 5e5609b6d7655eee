//! A command line of `run` that has none but the usual options: to describe all of them takes clap a tenth of a
//! millisecond longer, and that is a thirtieth of a start.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use super::network::{Answer, Network, Resolv};
use super::values::{parse_name, parse_network, parse_variable, parse_volume};
use super::{Action, Cli, Run, Switch};
use crate::publish;
use crate::reach::Egress;
use crate::request::NetworkChoice;
use crate::rootfs::Volume;
use crate::seccomp::Seccomp;
use crate::veth::INSIDE;

// What they mean says `Run`, which has them too, with all others. `run` is the program's name here.
#[derive(Parser)]
#[command(disable_help_flag = true, disable_version_flag = true)]
struct Usual {
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
    #[arg(long)]
    rootfs: Option<PathBuf>,
    #[arg(short = 'v', long, value_parser = parse_volume)]
    volume: Vec<Volume>,
    #[arg(short, long, value_parser = parse_variable)]
    env: Vec<String>,
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    #[arg(short, long)]
    detach: bool,
    #[arg(long)]
    init: bool,
    #[arg(long, value_parser = parse_network)]
    network: Option<NetworkChoice>,
    #[arg(short, long)]
    publish: Vec<publish::Range>,
    #[arg(long)]
    verbose: bool,
}

/// Reads a command line. `None`: it is not one of `run`, has another option, or is wrong: what it means says the definition of
/// all options.
pub(super) fn parse(words: &[OsString]) -> Option<Cli> {
    if !super::begins_with_run(words) {
        return None;
    }
    let usual = Usual::try_parse_from(words.get(1..)?).ok()?;
    Some(Cli {
        verbose: usual.verbose,
        action: Action::Run(Box::new(usual.with_defaults())),
    })
}

impl Usual {
    fn with_defaults(self) -> Run {
        Run {
            command: self.command,
            rootfs: self.rootfs,
            read_only: false,
            volume: self.volume,
            tmpfs: Vec::new(),
            workdir: None,
            env: self.env,
            user: None,
            hostname: None,
            name: self.name,
            tty: false,
            no_tty: false,
            detach: self.detach,
            preserve_fds: 0,
            sysctl: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            no_new_privileges: Switch::On,
            seccomp: Seccomp::Default,
            userns: false,
            init: self.init,
            grace: 10,
            init_path: None,
            net: Network {
                network: self.network.unwrap_or(NetworkChoice::Bridge),
                bridge: None,
                iface: INSIDE.to_string(),
                subnet: None,
                ip: None,
                subnet6: None,
                ip6: None,
                no_ipv6: false,
                isolate: false,
                internal: false,
                connect: Vec::new(),
                egress: Egress::All,
                mac: None,
                publish: self.publish,
                mtu: None,
                dns: Vec::new(),
                dns_search: Vec::new(),
                dns_option: Vec::new(),
                dns_follow: Answer::Yes,
                add_host: Vec::new(),
                resolv: Resolv::Required,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(words: &[&str]) -> [Option<String>; 2] {
        let words: Vec<OsString> = ["host-helper", "run"]
            .iter()
            .chain(words)
            .map(OsString::from)
            .collect();
        let all = super::super::parse_all(&words).ok();
        [parse(&words), all].map(|cli| cli.map(|cli| format!("{cli:?}")))
    }

    #[test]
    fn it_means_the_same_as_in_the_definition_of_all() {
        for words in [
            &["true"][..],
            &["--rootfs", "/srv", "--", "true", "-d", "--userns"],
            &[
                "--rootfs=/srv",
                "-v",
                "/etc:/x:ro",
                "-e",
                "A=b",
                "ls",
                "-l",
                "--mtu",
                "1",
            ],
            &[
                "--name",
                "web",
                "-d",
                "--init",
                "-p",
                "8080:80",
                "-p8443:443/udp",
                "--verbose",
                "sh",
            ],
            &["--network", "ptp", "true"],
            &["--network=container:web", "-dv/etc:/x", "true"],
        ] {
            let [usual, all] = both(words);
            assert!(usual.is_some(), "{words:?}");
            assert_eq!(usual, all, "{words:?}");
        }
    }

    #[test]
    fn what_it_does_not_know_is_left_to_that() {
        for words in [
            &[][..],
            &["--rootfs"],
            &["--userns", "true"],
            &["-t", "true"],
            &["-dt", "true"],
            &["--help"],
            &["-V"],
            &["--name", "a/b", "true"],
            &["--network", "wire", "true"],
            &["--detac", "true"],
            &["--init", "--init", "true"],
        ] {
            assert_eq!(both(words)[0], None, "{words:?}");
        }
    }
}
