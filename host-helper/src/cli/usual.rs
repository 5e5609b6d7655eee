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

/// Whether a command line seems to be one of `run`, in the foreground and with a network namespace of its own: worth a beginning
/// before all of it is read. One with `--preserve-fds`, or a path by a descriptor, must not be taken for one: the descriptors would be closed.
pub fn may_begin_early(words: impl IntoIterator<Item = OsString>) -> bool {
    let own = words.into_iter().skip(1).take_while(|word| word != "--");
    let words: Vec<OsString> = own.filter(|word| word != "--verbose").collect();
    let is_other = |word: &OsString| {
        let word = word.as_encoded_bytes();
        let network = word.strip_prefix(b"--network=").unwrap_or(word);
        [&b"--detach"[..], b"--userns", b"--help", b"--version"].contains(&word)
            || network == b"host"
            || network.starts_with(b"container:")
            || network.starts_with(b"ns:")
            || word.starts_with(b"--preserve-fds")
            || word.windows(4).any(|part| part == b"/fd/")
            || has_letter(word, b"dhV")
    };
    words.first().is_some_and(|word| word == "run") && !words.iter().any(is_other)
}

/// Whether one of these is among the options of a word such as `-td`.
fn has_letter(word: &[u8], letters: &[u8]) -> bool {
    // Those that take no value: behind another one, a value follows.
    const ALONE: &[u8] = b"dhtV";
    let options = word.strip_prefix(b"-").unwrap_or(b"");
    let mut alone = options.iter().take_while(|letter| ALONE.contains(letter));
    alone.any(|letter| letters.contains(letter))
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

    #[test]
    fn which_runs_begin_early() {
        let begins_early = |words: &str| may_begin_early(words.split(' ').map(OsString::from));
        for words in [
            "host-helper run true",
            "host-helper run --rootfs / -p 80 --network ptp -- true",
            "host-helper --verbose run --network=none --init -t true",
            "host-helper run -p80:80 -v/dev:/d -- df -h --detach",
        ] {
            assert!(begins_early(words), "{words}");
        }
        for words in [
            "host-helper",
            "host-helper exec run true",
            "host-helper run -d true",
            "host-helper run -td true",
            "host-helper run -dp80:80 true",
            "host-helper run -v /dev/fd/7:/data true",
            "host-helper run -v/proc/self/fd/7/a:/data true",
            "host-helper run --detach true",
            "host-helper run --network host true",
            "host-helper run --network=host true",
            "host-helper run --network ns:/run/netns/a true",
            "host-helper run --network=container:a true",
            "host-helper run --userns true",
            "host-helper run --preserve-fds 1 true",
            "host-helper run --preserve-fds=1 true",
            "host-helper run --help",
        ] {
            assert!(!begins_early(words), "{words}");
        }
    }

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
