//! Annotations `hawser.OPTION` are options of the hook, of one container: they become words of its command line, and are
//! read as those are.

use std::ffi::OsString;

use serde_json::Value;

use super::bundle::Bundle;
use super::told::Told;
use crate::cli::{self, Action, Asked};
use crate::error::{Error, Result};
use crate::reach::{Allowed, Egress};

const PREFIX: &str = "hawser.";
const DNS: &str = "hawser.dns";
/// How errors about options begin.
const COMMAND_LINE: &str = "read the command line: ";
/// May be given several times: an annotation separates them by commas or blanks.
const SEVERAL: [&str; 6] = [
    "add-host",
    "connect",
    "dns",
    "dns-option",
    "dns-search",
    "publish",
];
/// Are there or not.
const SWITCHES: [&str; 3] = ["internal", "isolate", "no-ipv6"];
/// Have one value.
const SINGLE: [&str; 14] = [
    "bridge",
    "dns-follow",
    "egress",
    "iface",
    "ip",
    "ip6",
    "mac",
    "mtu",
    "name",
    "network",
    "resolv",
    "subnet",
    "subnet6",
    // With a reason of its own.
    "ip-file",
];

/// The options of the hook for this container: its arguments, which are `options`, and the container's annotations.
///
/// # Errors
/// An annotation that is not one, or says what the arguments say.
pub fn add(options: cli::Hook, told: &Told, bundle: &Bundle) -> Result<cli::Hook> {
    // A runtime that does not pass them on has them in config.json.
    let all = told.annotations().or(bundle.annotations());
    let of_ours = |(key, value): (&String, &Value)| {
        let option = key.strip_prefix(PREFIX)?;
        let words = match value.as_str() {
            Some(value) => words_of(option, value),
            None => Err("it is no string".into()),
        };
        Some(
            words
                .map_err(|why| refused(key, &why))
                .map(|words| (key.clone(), words)),
        )
    };
    let ours = all.into_iter().flatten().filter_map(of_ours);
    let ours: Vec<(String, Vec<String>)> = ours.collect::<Result<_>>()?;
    if ours.is_empty() {
        return Ok(options);
    }
    let is_limited =
        matches!(&options.net.egress, Egress::Only(list) if list.contains(&Allowed::Resolvers));
    if let Some((key, _)) = ours
        .iter()
        .find(|(key, words)| is_limited && key == DNS && !words.is_empty())
    {
        return Err(refused(
            key,
            "which resolvers --egress dns of the hook's arguments means is theirs to say; give --dns there",
        ));
    }
    if let Some((key, _)) = ours.iter().find(|one| unsays(one, &options.net)) {
        return Err(refused(
            key,
            "the hook's arguments say the contrary; leave it out of one of them",
        ));
    }
    let more = ours.iter().flat_map(|(_, words)| words).map(OsString::from);
    read(std::env::args_os().chain(more)).map_err(|why| {
        // By themselves, so that what is wrong is said of the one.
        let wrong = ours.iter().find_map(|(key, words)| {
            let alone = ["host-helper", "hook"].map(OsString::from).into_iter();
            let why = read(alone.chain(words.iter().map(OsString::from))).err()?;
            Some(refused(key, &why))
        });
        wrong.unwrap_or_else(|| together(told, &why))
    })
}

/// Whether an annotation says no to a switch that is on. It becomes no word, which would be refused as the second of its kind.
fn unsays((key, words): &(String, Vec<String>), net: &cli::Network) -> bool {
    let switches = [net.internal, net.isolate, net.no_ipv6];
    let mut on = SWITCHES.iter().zip(switches).filter(|(_, is_on)| *is_on);
    words.is_empty() && on.any(|(name, _)| key.strip_prefix(PREFIX) == Some(name))
}

/// Both, of which neither is wrong by itself.
fn together(told: &Told, why: &str) -> Error {
    let id = &told.id;
    Error::new(format!(
        "read the annotations of container {id} beside the hook's arguments: {why}"
    ))
}

/// What is wrong with all options together: where there are annotations, it is no matter of the command line alone.
pub fn explain(error: Error, told: &Told, bundle: &Bundle) -> Error {
    let all = told.annotations().or(bundle.annotations());
    let mut keys = all.into_iter().flatten().map(|(key, _)| key);
    let has_ours = keys.any(|key| key.starts_with(PREFIX));
    let text = error.to_string();
    match text.strip_prefix(COMMAND_LINE).filter(|_| has_ours) {
        Some(why) => together(told, why),
        None => error,
    }
}

fn refused(key: &str, why: &str) -> Error {
    Error::new(format!("read annotation {key}: {why}"))
}

fn read(words: impl IntoIterator<Item = OsString>) -> std::result::Result<cli::Hook, String> {
    match cli::parse(words) {
        Ok(Asked::For(cli)) => match cli.action {
            Action::Hook(options) => Ok(*options),
            _ => Err("no options of a hook".into()),
        },
        Ok(Asked::Text(_)) => Err("no options of a hook".into()),
        Err(why) => Err(why.strip_prefix(COMMAND_LINE).unwrap_or(&why).to_string()),
    }
}

fn words_of(option: &str, value: &str) -> std::result::Result<Vec<String>, String> {
    let word = |value: &str| format!("--{option}={value}");
    if option == "ip-file" {
        return Err(
            "a file of the host is the hook's matter: give --ip-file as its argument".into(),
        );
    }
    if SEVERAL.contains(&option) {
        let values = value.split(|c: char| c == ',' || c.is_whitespace());
        return Ok(values.filter(|one| !one.is_empty()).map(word).collect());
    }
    if SWITCHES.contains(&option) {
        return match value {
            "true" | "yes" => Ok(vec![format!("--{option}")]),
            "false" | "no" => Ok(vec![]),
            _ => Err(format!("{value:?}: write true or false")),
        };
    }
    if SINGLE.contains(&option) {
        return Ok(vec![word(value)]);
    }
    Err("no such option; see host-helper hook --help".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_words() {
        let words = |option, value| words_of(option, value).unwrap();
        assert_eq!(
            words("publish", "8080:80, 53:53/udp\n9:9"),
            ["--publish=8080:80", "--publish=53:53/udp", "--publish=9:9"]
        );
        assert_eq!(
            words("egress", "dns,192.0.2.0/24"),
            ["--egress=dns,192.0.2.0/24"]
        );
        assert_eq!(words("isolate", "true"), ["--isolate"]);
        assert!(words("isolate", "false").is_empty() && words("dns", "").is_empty());
        for (option, value) in [
            ("isolate", ""),
            ("ip-file", "/x"),
            ("verbose", "true"),
            ("", ""),
        ] {
            assert!(words_of(option, value).is_err(), "{option}");
        }
    }

    #[test]
    fn every_option_of_the_hook_has_an_annotation() {
        use clap::CommandFactory;
        let cli = <cli::Cli>::command();
        let hook = cli.find_subcommand("hook").unwrap();
        let names = hook.get_arguments().filter_map(clap::Arg::get_long);
        let mut names: Vec<&str> = names.filter(|name| *name != "help").collect();
        names.sort_unstable();
        let mut known = [&SEVERAL[..], &SWITCHES, &SINGLE].concat();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
