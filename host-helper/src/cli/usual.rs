//! A command line of `run` that has none but the usual options: to describe options to clap, and to have them parsed by it, takes a
//! thirtieth of a start. Here clap's lexer is asked alone; whatever is not as usual is left to the definition of all options.

use std::ffi::{OsStr, OsString};

use clap_lex::RawArgs;

use super::network::{Answer, Network, Resolv};
use super::values::{parse_name, parse_network, parse_variable, parse_volume};
use super::{Action, Cli, Run, Switch};
use crate::reach::Egress;
use crate::request::NetworkChoice;
use crate::seccomp::Seccomp;
use crate::veth::INSIDE;

/// Reads a command line. `None`: it is not one of `run`, has another option, or is wrong: what it means says the definition of
/// all options.
pub(super) fn parse(words: &[OsString]) -> Option<Cli> {
    if !super::begins_with_run(words) {
        return None;
    }
    let words = RawArgs::new(words.get(2..)?);
    let mut cursor = words.cursor();
    let mut given: Vec<(&str, &str)> = Vec::new();
    let first = loop {
        let word = words.next(&mut cursor)?;
        if word.is_escape() {
            break words.next_os(&mut cursor)?;
        } else if let Some((name, attached)) = word.to_long() {
            let name = name.ok()?;
            let value = value_of(name, attached, || words.next_os(&mut cursor))?;
            given.push((name, value));
        } else if let Some(mut letters) = word.to_short() {
            while let Some(letter) = letters.next_flag() {
                let name = name_of(letter.ok()?)?;
                let attached = takes_value(name)?.then(|| letters.next_value_os());
                let value = value_of(name, attached.flatten(), || words.next_os(&mut cursor))?;
                given.push((name, value));
            }
        } else {
            break word.to_value_os();
        }
    };
    let command = [first].into_iter().chain(words.remaining(&mut cursor));
    let mut run = with_command(command.map(OsStr::to_owned).collect());
    for (name, value) in &given {
        let is_one = || given.iter().filter(|(other, _)| other == name).count() == 1;
        match *name {
            "volume" => run.volume.push(parse_volume(value).ok()?),
            "env" => run.env.push(parse_variable(value).ok()?),
            "publish" => run.net.publish.push(value.parse().ok()?),
            _ if !is_one() => return None,
            "rootfs" => run.rootfs = Some(value.into()),
            "name" => run.name = Some(parse_name(value).ok()?),
            "network" => run.net.network = parse_network(value).ok()?,
            "detach" => run.detach = true,
            "init" => run.init = true,
            // For all commands, and so not of `run`.
            _ => {}
        }
    }
    Some(Cli {
        verbose: given.iter().any(|(name, _)| *name == "verbose"),
        action: Action::Run(Box::new(run)),
    })
}

/// `None`: it is none of the usual options.
fn takes_value(name: &str) -> Option<bool> {
    match name {
        "rootfs" | "volume" | "env" | "name" | "network" | "publish" => Some(true),
        "detach" | "init" | "verbose" => Some(false),
        _ => None,
    }
}

fn name_of(letter: char) -> Option<&'static str> {
    match letter {
        'd' => Some("detach"),
        'e' => Some("env"),
        'p' => Some("publish"),
        'v' => Some("volume"),
        _ => None,
    }
}

/// The value of an option: attached to it, or else the next word. One that might be something else is not usual.
fn value_of<'a>(
    name: &str,
    attached: Option<&'a OsStr>,
    next: impl FnOnce() -> Option<&'a OsStr>,
) -> Option<&'a str> {
    match (takes_value(name)?, attached) {
        (true, attached) => attached
            .or_else(next)?
            .to_str()
            .filter(|value| !value.is_empty() && !value.starts_with(['-', '='])),
        (false, None) => Some(""),
        (false, Some(_)) => None,
    }
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

/// All else is as it is without options.
fn with_command(command: Vec<OsString>) -> Run {
    Run {
        command,
        rootfs: None,
        read_only: false,
        volume: Vec::new(),
        tmpfs: Vec::new(),
        workdir: None,
        env: Vec::new(),
        user: None,
        hostname: None,
        name: None,
        tty: false,
        no_tty: false,
        detach: false,
        preserve_fds: 0,
        sysctl: Vec::new(),
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        no_new_privileges: Switch::On,
        seccomp: Seccomp::Default,
        userns: false,
        init: false,
        grace: 10,
        init_path: None,
        net: Network {
            network: NetworkChoice::Bridge,
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
            publish: Vec::new(),
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
            &["--init", "true", "--", "x"],
            &["--rootfs", "a b", "-e", "A==-b", "--", "--", "x"],
            &["-"],
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
            &["--name=a", "--name", "b", "true"],
            &["--init=yes", "true"],
            &["--name", "-x", "true"],
            &["--rootfs=", "true"],
            &["-p=80:80", "true"],
            &["-d"],
            &["-d", "--"],
            &["-v"],
        ] {
            assert_eq!(both(words)[0], None, "{words:?}");
        }
    }
}
