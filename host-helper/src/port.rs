//! `port`: the published ports of a running container, shown and changed.

use crate::attached;
use crate::cli;
use crate::control;
use crate::error::{Error, Result};
use crate::ls::Description;
use crate::publish::Range;

/// Does what was asked for, and prints which ports it is about.
///
/// # Errors
/// No such container; why a port cannot be published or withdrawn. Of several none is then. Or the output refuses: none is published then,
/// as nobody would know which of the host's it is.
pub fn port(action: &cli::Port) -> Result<u8> {
    match action {
        cli::Port::Ls { name, json } => crate::show(&list(name, *json)?),
        cli::Port::Add { name, ports } => {
            let done = change(name, "add", ports)?;
            crate::show(&done).inspect_err(|_| take_back(name, &done))
        }
        cli::Port::Rm { name, ports } => {
            check_published(name, ports)?;
            crate::show(&change(name, "rm", ports)?)
        }
    }
}

/// Withdraws what was published. What goes wrong is no matter: the first error is the one that counts.
fn take_back(name: &str, published: &str) {
    for range in published.lines() {
        let _ = control::ask(name, &format!("port rm {range}"));
    }
}

fn list(name: &str, json: bool) -> Result<String> {
    let found = published(name)?;
    if json {
        return serde_json::to_string_pretty(&found)
            .map(|text| text + "\n")
            .map_err(|error| not_understood(name, &error));
    }
    Ok(lines(&found))
}

fn published(name: &str) -> Result<Vec<Range>> {
    let answer = control::ask(name, "inspect").map_err(|error| no_such(name, &error))?;
    let found = serde_json::from_str::<Description>(&answer);
    found
        .map(|found| found.ports)
        .map_err(|error| not_understood(name, &error))
}

fn not_understood(name: &str, error: &serde_json::Error) -> Error {
    Error::new(format!("understand the supervisor of {name}: {error}"))
}

/// Before the first of them is withdrawn.
fn check_published(name: &str, ports: &[Range]) -> Result<()> {
    let published = published(name)?;
    let mut left: Vec<_> = published.iter().flat_map(|range| range.ports()).collect();
    for range in ports {
        let before = left.len();
        left.retain(|port| !range.has(port));
        if left.len() == before {
            return Err(not_published(*range, name));
        }
    }
    Ok(())
}

/// The error of who wants to withdraw what is not there.
pub fn not_published(range: Range, name: &str) -> Error {
    Error::new(format!(
        "withdraw {range}: container {name} does not publish it; host-helper port ls {name} shows what it does"
    ))
}

/// The error of who asks for the ports of a container that nobody answers for.
fn no_such(name: &str, error: &std::io::Error) -> Error {
    let said = control::no_such(name, error);
    match attached::describe(name) {
        Ok(Some(_)) => Error::new(format!(
            "{said}, attach --stay has ports that can be changed"
        )),
        _ => said,
    }
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{range}\n")).collect()
}

fn change(name: &str, word: &str, ports: &[Range]) -> Result<String> {
    let mut done = String::new();
    for range in ports {
        match change_one(name, word, range) {
            Ok(answer) => done += &answer,
            Err(error) => {
                if word == "add" {
                    take_back(name, &done);
                }
                return Err(error);
            }
        }
    }
    Ok(done)
}

fn change_one(name: &str, word: &str, range: &Range) -> Result<String> {
    let answer = control::ask(name, &format!("port {word} {range}"))
        .map_err(|error| no_such(name, &error))?;
    match answer.strip_prefix("error ") {
        Some(text) => Err(Error::new(text.trim_end())),
        None => Ok(answer),
    }
}
