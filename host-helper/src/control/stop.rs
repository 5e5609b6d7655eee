//! `stop`, of one container and of many: comes back when they have ended, or their supervisors are found to be silent.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::ask::{ask_within, begin, connect_to, has_ended, is_silence};
use super::{is_supervised, no_such};
use crate::error::{Error, Result};
use crate::publish::raise_limit;
use crate::state;

/// How long a supervisor may say nothing of the end until it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(2);
/// How long it may take to say that it is: the machine may be busy with the end of very many processes.
const ANSWER: Duration = Duration::from_secs(8);

/// Asks the supervisors of all these containers to end them: each is told before the first one's answer is waited for.
pub fn stop_all(names: &[&str], grace: u64) -> Vec<io::Result<String>> {
    // Ours, and one for each.
    raise_limit(names.len() + 64);
    let begun: Vec<_> = names.iter().map(|name| tell(name, grace)).collect();
    let all = begun.into_iter().zip(names);
    let answers = all.map(|(begun, name)| match begun {
        Ok(connection) => hear(connection, name),
        Err(error) if has_ended(&error) => Err(error),
        // There may have been too many at once.
        Err(_) => hear(tell(name, grace)?, name),
    });
    answers.collect()
}

fn tell(name: &str, grace: u64) -> io::Result<UnixStream> {
    let connection = connect_to(&state::path(name, "sock"), Some(SILENCE))?;
    connection.set_read_timeout(Some(SILENCE))?;
    begin(connection, &format!("stop {grace}"))
}

/// What is said of the end; nothing, where the supervisor was killed.
fn hear(mut connection: UnixStream, name: &str) -> io::Result<String> {
    let mut answer = String::new();
    loop {
        match connection.read_to_string(&mut answer) {
            Err(error) if is_silence(&error) => {
                let path = state::path(name, "sock");
                // What takes it no time to say.
                match ask_within(&path, "log", Some(ANSWER)) {
                    Err(error) if is_silence(&error) => return Err(error),
                    // It is there, or has ended meanwhile.
                    _ => {}
                }
            }
            read => return read.map(|_| answer),
        }
    }
}

/// `stop`: comes back when the container has ended.
///
/// # Errors
/// There is none of that name; its supervisor refuses, takes no requests, or does not answer.
pub fn stop(name: &str, grace: u64) -> Result<()> {
    const TRIES: usize = 3;
    let path = state::path(name, "sock");
    let socket = || fs::metadata(&path).map(|found| found.ino()).ok();
    // Not the one that takes its name when it has ended.
    let meant = socket();
    for _ in 0..TRIES {
        let answer = match tell(name, grace).and_then(|connection| hear(connection, name)) {
            Err(error) if has_ended(&error) => String::new(),
            answer => answer.map_err(|error| no_such(name, &error))?,
        };
        if let Some(why) = answer.strip_prefix("error ") {
            return Err(Error::new(format!("stop container {name}: {}", why.trim())));
        }
        // Nothing is said by who was killed, or has ended of itself meanwhile; but also by who could not take the request.
        if !answer.is_empty() || !is_supervised(name) || socket() != meant {
            return Ok(());
        }
    }
    Err(Error::new(format!(
        "stop container {name}: its supervisor takes no requests; end the process that host-helper ls shows"
    )))
}
