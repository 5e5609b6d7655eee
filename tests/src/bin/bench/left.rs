//! Who is left out of the tables, and why: a peer that is missing or does not work here, or a part that has failed.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::complain;

/// One that is left out.
pub struct Left {
    /// The part that it is missing from; none, if it is from all.
    pub part: Option<&'static str>,
    /// As the tables would call it, or the part.
    pub name: String,
    /// In a line.
    pub reason: String,
}

/// Of the part that is being measured.
static OF_PART: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// What the last panic has said.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Leaves one out of this part.
pub fn out(name: &str, reason: &str) {
    complain(&format!("left out: {name}: {reason}"));
    let mut all = OF_PART.lock().unwrap_or_else(PoisonError::into_inner);
    all.push((name.into(), line(reason)));
}

/// Those of the part that has been measured.
pub fn take(part: &'static str) -> Vec<Left> {
    let all = std::mem::take(&mut *OF_PART.lock().unwrap_or_else(PoisonError::into_inner));
    all.into_iter()
        .map(|(name, reason)| Left {
            part: Some(part),
            name,
            reason,
        })
        .collect()
}

/// Keeps what a panic says, in whatever thread, beside printing it.
pub fn hear_of_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload();
        let text = said
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| said.downcast_ref::<&str>().map(|text| (*text).into()));
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = line(&text.unwrap_or_default());
        usual(panic);
    }));
}

/// What the last panic has said, in a line.
pub fn last_panic() -> String {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The lines of a text as one, of no more than a few words.
fn line(text: &str) -> String {
    const LONGEST: usize = 200;
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).collect::<String>() + "..."
}

/// For the end of the tables: a line each, `none` if there is none.
pub fn text(title: &str, all: &[Left]) -> String {
    if all.is_empty() {
        return format!("{title}: none");
    }
    let lines = all.iter().map(|one| {
        let part = one.part.map_or(String::new(), |part| format!(" ({part})"));
        format!("\n- {}{part}: {}", one.name, one.reason)
    });
    format!("{title}:{}", lines.collect::<String>())
}

/// For programs.
pub fn json(all: &[Left]) -> Value {
    all.iter()
        .map(|one| json!({"part": one.part, "name": one.name, "reason": one.reason}))
        .collect()
}
