//! What the runtime tells a hook on standard input: the container's state, as JSON (OCI runtime specification, "State").

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::error::{Doing, Error, Result};

/// A state is longer only by mistake: annotations are all of it that has no small bound.
const LONGEST: u64 = 1 << 20;
/// What a runtime may go on to write, and is not left alone with.
const HEARD: u64 = 1 << 30;

/// What is known of the container. Only its name is sure to be there.
pub struct Told {
    /// The container's, unique at its runtime.
    pub id: String,
    state: Map<String, Value>,
}

/// Where in its life the container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its namespaces are there, and its command is not.
    Begins,
    /// Its processes are gone.
    Ends,
}

impl Told {
    /// Reads it, and always to the end: a runtime that cannot write it all may take that for a failure.
    ///
    /// # Errors
    /// It is not one.
    pub fn read() -> Result<Told> {
        let mut input = std::io::stdin().lock();
        if input.is_terminal() {
            return Err(refused(
                "standard input is a terminal; container runtimes call this, by the hooks of config.json",
            ));
        }
        let mut text = Vec::new();
        let doing = || "read the container's state".to_string();
        let read = (&mut input).take(LONGEST + 1).read_to_end(&mut text);
        read.doing(doing)?;
        if text.len() as u64 > LONGEST {
            std::io::copy(&mut input.take(HEARD), &mut std::io::sink()).doing(doing)?;
            return Err(refused("it is longer than 1 MiB, as no runtime's is"));
        }
        Told::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Told> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(refused(
                "it is empty; container runtimes write it as JSON to standard input",
            ));
        }
        let parsed = serde_json::from_slice(text);
        let state: Map<String, Value> =
            parsed.map_err(|error| refused(&format!("it is no JSON object: {error}")))?;
        match state.get("id").and_then(Value::as_str) {
            Some(id) if !id.is_empty() => Ok(Told {
                id: id.to_string(),
                state,
            }),
            _ => Err(refused("it names no container (id)")),
        }
    }

    /// # Errors
    /// A status that a hook of ours is not for.
    pub fn stage(&self) -> Result<Stage> {
        let id = &self.id;
        // runc says `creating` where crun says `created`.
        match self.state.get("status").and_then(Value::as_str) {
            Some("creating" | "created") => Ok(Stage::Begins),
            Some("stopped") => Ok(Stage::Ends),
            Some(other) => Err(Error::new(format!(
                "attach container {id}: it is {other:?}; host-helper hook is for createRuntime and poststop"
            ))),
            None => Err(refused(&format!("that of {id} has no status"))),
        }
    }

    /// # Errors
    /// There is none.
    pub fn pid(&self) -> Result<i32> {
        let pid = self.state.get("pid").and_then(Value::as_i64);
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).ok_or_else(|| {
            Error::new(format!(
                "attach container {}: its state names no process (pid)",
                self.id
            ))
        })
    }

    /// Where its config.json is; a runtime that does not say calls its hooks there.
    pub fn bundle(&self) -> PathBuf {
        let bundle = self.state.get("bundle").and_then(Value::as_str);
        let bundle = bundle.filter(|bundle| !bundle.is_empty());
        PathBuf::from(bundle.unwrap_or("."))
    }

    /// What was said of it, where the runtime passes it on.
    pub fn annotations(&self) -> Option<&Map<String, Value>> {
        self.state.get("annotations").and_then(Value::as_object)
    }
}

fn refused(why: &str) -> Error {
    Error::new(format!("read the container's state: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Told {
        Told::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_missing_is_no_crash() {
        let least = told(r#"{"id": "a"}"#);
        assert_eq!(least.bundle(), PathBuf::from("."));
        assert!(least.annotations().is_none());
        assert!(least.stage().is_err() && least.pid().is_err());
        for pid in ["0", "-1", "\"1\"", "1.5", "4294967296", "null"] {
            let odd =
                format!(r#"{{"id": "a", "pid": {pid}, "annotations": null, "bundle": null}}"#);
            assert!(told(&odd).pid().is_err(), "{pid}");
        }
    }

    #[test]
    fn the_status_tells_what_to_do() {
        for (status, stage) in [
            ("creating", Some(Stage::Begins)),
            ("created", Some(Stage::Begins)),
            ("stopped", Some(Stage::Ends)),
            ("running", None),
            ("", None),
        ] {
            let state = format!(r#"{{"id": "a", "status": "{status}"}}"#);
            assert_eq!(told(&state).stage().ok(), stage, "{status}");
        }
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for text in [
            "",
            " \n",
            "x",
            "[]",
            "7",
            "{",
            "{}",
            r#"{"id": ""}"#,
            r#"{"id": 7}"#,
        ] {
            let error = Told::parse(text.as_bytes()).err().unwrap().to_string();
            assert!(error.starts_with("read the container's state: "), "{error}");
        }
    }
}
