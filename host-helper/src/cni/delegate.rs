//! Another plugin, which does a part of what is asked of us: it is run with our environment and our input.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::call::Call;
use super::fault::{Fault, code};

/// Runs the plugin of this type with `CNI_COMMAND` as it says. Gives its answer; none is null.
///
/// # Errors
/// It is not there, or cannot be run; what it says itself.
pub fn ask(kind: &str, command: &str, call: &Call) -> Result<Value, Fault> {
    let failed = |why: String| {
        Fault::new(
            code::DELEGATE,
            format!("ask plugin {kind} for addresses: {why}"),
        )
    };
    let path = find(kind).map_err(failed)?;
    // What it says beside its answer is for the same log as what we say.
    let spawned = Command::new(&path)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| failed(format!("{}: {error}", path.display())))?;
    // One that does not read it says why.
    let _ = child
        .stdin
        .take()
        .map(|mut pipe| pipe.write_all(&call.input));
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    let text = output.stdout.trim_ascii();
    if output.status.success() {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        return serde_json::from_slice(text)
            .map_err(|error| failed(format!("its answer is no JSON: {error}")));
    }
    Err(fault_of(kind, text)
        .unwrap_or_else(|| failed(format!("it has failed ({})", output.status))))
}

/// What it says went wrong, with its own number.
fn fault_of(kind: &str, text: &[u8]) -> Option<Fault> {
    let answer: Value = serde_json::from_slice(text).ok()?;
    let text_of = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    Some(Fault {
        code: answer.get("code")?.as_u64()?,
        text: format!("plugin {kind}: {}", text_of("msg")),
        details: text_of("details").to_string(),
    })
}

/// The first one in `CNI_PATH`.
fn find(kind: &str) -> Result<PathBuf, String> {
    if kind.contains('/') || kind.starts_with('.') {
        return Err(format!("{kind:?} is no file's name"));
    }
    let paths = std::env::var_os("CNI_PATH").unwrap_or_default();
    let is_program = |path: &PathBuf| {
        let found = Path::metadata(path);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let found = std::env::split_paths(&paths)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(kind))
        .find(is_program);
    found.ok_or_else(|| {
        let shown = paths.to_string_lossy();
        format!("there is no such program in CNI_PATH ({shown}); install it there, or use ipam type hawser")
    })
}
