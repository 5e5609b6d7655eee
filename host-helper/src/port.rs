//! `port`: the published ports of a running container, shown and changed.

use crate::attached;
use crate::cli;
use crate::control;
use crate::error::{Error, Result};
use crate::ls::Description;
use crate::publish::Range;

/// Does what was asked for. Gives what is to be printed.
///
/// # Errors
/// No such container; why a port cannot be published or withdrawn. Of several that are to be published none is then.
pub fn port(action: &cli::Port) -> Result<String> {
    match action {
        cli::Port::Ls { name, json } => list(name, *json),
        cli::Port::Add { name, ports } => change(name, "add", ports),
        cli::Port::Rm { name, ports } => change(name, "rm", ports),
    }
}

fn list(name: &str, json: bool) -> Result<String> {
    let answer = control::ask(name, "inspect").map_err(|error| no_such(name, &error))?;
    let understand = |error| Error::new(format!("understand the supervisor of {name}: {error}"));
    let found: Description = serde_json::from_str(&answer).map_err(understand)?;
    if json {
        return serde_json::to_string_pretty(&found.ports)
            .map(|text| text + "\n")
            .map_err(understand);
    }
    Ok(lines(&found.ports))
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
        let answer = control::ask(name, &format!("port {word} {range}"))
            .map_err(|error| no_such(name, &error))?;
        if let Some(text) = answer.strip_prefix("error ") {
            let so_far = done.lines().filter(|_| word == "add");
            for range in so_far {
                // The first error is the one that matters.
                let _ = control::ask(name, &format!("port rm {range}"));
            }
            return Err(Error::new(text.trim_end()));
        }
        done += &answer;
    }
    Ok(done)
}
