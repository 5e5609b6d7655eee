//! The CNI plugin: what a container runtime asks for by its environment and a network configuration on standard input, as
//! the specification of CNI has it (versions 0.3.1 to 1.1.0). A front end: it makes up the same request as the command
//! line, and `attach/guest.rs` does the work.

mod add;
mod call;
mod check;
mod configuration;
mod delegate;
mod delete;
mod fault;
mod ipam;
mod members;
mod outcome;
mod status;

use std::ffi::OsString;
use std::io::Read;

use serde_json::{Value, json};

use crate::error::{Refusal, Result};
use crate::reclaim;
use crate::show;
use crate::steps::Steps;
use call::{Call, Command};
use fault::{Fault, Judge, code};

/// The plugin's type: the name that runtimes call it by.
pub const TYPE: &str = "hawser";
/// The versions of the specification that are spoken, the newest last.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// A configuration is longer only by mistake, in bytes. That of GC names every container of the machine.
const LONGEST: u64 = 16 << 20;

/// What it answers with: a number that grows with the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(usize);

impl Version {
    const V0_4: Version = Version(1);
    const V1_0: Version = Version(2);
    const V1_1: Version = Version(3);

    fn parse(text: &str) -> Option<Version> {
        VERSIONS
            .iter()
            .position(|known| *known == text)
            .map(Version)
    }

    fn text(self) -> &'static str {
        VERSIONS[self.0]
    }
}

/// Whether we are called as a plugin: by its name.
pub fn is_called() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| std::path::Path::new(&name).file_name() == Some(TYPE.as_ref()))
}

/// Does what the environment asks for. Gives the exit code; what went wrong is on standard output, as runtimes read it.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(steps: Steps) -> Result<u8> {
    if is_nothing_said() {
        let version = env!("CARGO_PKG_VERSION");
        let spoken = VERSIONS.join(", ");
        return show(&format!(
            "CNI {TYPE} plugin v{version}\nCNI protocol versions supported: {spoken}\n"
        ));
    }
    let mut version = None;
    let mut added = None;
    let answered = act(&mut version, &mut added, steps).and_then(|answer| match answer {
        Value::Null => Ok(()),
        answer => show(&format!("{answer}\n")).map(drop).judge(),
    });
    match answered {
        Ok(()) => Ok(0),
        Err(fault) => {
            if let Some(call) = added {
                // Nobody has heard of it. The first error is the one that matters.
                let _ = delete::delete(&call);
            }
            let newest = Version(VERSIONS.len() - 1);
            let version = version.unwrap_or(newest).text();
            show(&format!("{}\n", fault.to_json(version))).map(|_| 1)
        }
    }
}

/// Not one variable of a plugin's: no runtime calls, but somebody who wants to know which plugin this is. Nomad looks for the
/// versions of all plugins in that way.
fn is_nothing_said() -> bool {
    let is_ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"CNI_");
    !std::env::vars_os().any(|(name, _)| is_ours(&name))
}

/// `added`: the call that has given a container its interface.
fn act(
    version: &mut Option<Version>,
    added: &mut Option<Call>,
    steps: Steps,
) -> std::result::Result<Value, Fault> {
    // Drained in any case: who writes to us is not to be ended by SIGPIPE.
    let input = read_input();
    let command = Command::of_environment()?;
    let input = input?;
    if command == Command::Version && input.iter().all(u8::is_ascii_whitespace) {
        return Ok(versions(VERSIONS[VERSIONS.len() - 1]));
    }
    let configuration: Value = serde_json::from_slice(&input).map_err(|error| {
        Fault::new(
            code::DECODE,
            format!("read the network configuration: {error}"),
        )
    })?;
    let asked = configuration.get("cniVersion").and_then(Value::as_str);
    if command == Command::Version {
        return Ok(versions(asked.unwrap_or(VERSIONS[VERSIONS.len() - 1])));
    }
    let spoken = asked.and_then(Version::parse);
    *version = spoken;
    let Some(spoken) = spoken else {
        return Err(Fault::new(
            code::VERSION,
            format!(
                "read the network configuration: cniVersion {} is not supported: only {}",
                asked.unwrap_or("(none)"),
                VERSIONS.join(", ")
            ),
        ));
    };
    command.check_version(spoken)?;
    let call = Call::of_environment(command, spoken, configuration, input)?;
    crate::run::need_privileges("set a container's network up").judge()?;
    match command {
        Command::Add => {
            let answer = add::add(&call, steps)?;
            *added = Some(call);
            Ok(answer)
        }
        Command::Del => delete::delete(&call).map(|()| Value::Null),
        Command::Check => {
            let checked = check::check(&call);
            reclaim::sweep();
            checked.map(|()| Value::Null)
        }
        Command::Gc => delete::collect_garbage(&call).map(|()| Value::Null),
        Command::Status => status::status(&call).map(|()| Value::Null),
        Command::Version => Ok(Value::Null),
    }
}

fn versions(of: &str) -> Value {
    json!({ "cniVersion": of, "supportedVersions": VERSIONS })
}

fn read_input() -> std::result::Result<Vec<u8>, Fault> {
    let mut input = Vec::new();
    let mut stdin = std::io::stdin().lock();
    let read = stdin.by_ref().take(LONGEST + 1).read_to_end(&mut input);
    let drained = std::io::copy(&mut stdin, &mut std::io::sink());
    let doing = "read the network configuration";
    read.and(drained)
        .map_err(|error| Fault::new(code::IO, format!("{doing}: {}", Refusal::from(error))))?;
    if input.len() as u64 > LONGEST {
        let why = format!("{doing}: it has more than {LONGEST} bytes");
        return Err(Fault::new(code::DECODE, why));
    }
    Ok(input)
}
