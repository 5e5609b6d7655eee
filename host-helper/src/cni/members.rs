//! The members of a JSON object, each taken once: what is left at the end is what nothing is done about, and is refused.

use serde_json::{Map, Value};

use super::fault::{Fault, code};

/// How this key is written there.
fn written<'a>(all: &'a Map<String, Value>, key: &str) -> Option<&'a String> {
    let is_it = |written: &&String| written.eq_ignore_ascii_case(key);
    let exactly = all.get_key_value(key).map(|(written, _)| written);
    exactly.or_else(|| all.keys().find(is_it))
}

/// A member of an object, in whatever case its key is written.
pub fn find<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
    let all = of.as_object()?;
    all.get(written(all, key)?)
}

/// What is left of an object.
pub struct Members {
    path: String,
    left: Map<String, Value>,
}

impl Members {
    /// Those of the object at `path`; none is an empty one.
    pub fn of(path: &str, value: Option<Value>) -> Result<Members, Fault> {
        let left = match value {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(left)) => left,
            Some(other) => return Err(wrong(path, &other, "an object")),
        };
        Ok(Members {
            path: path.to_string(),
            left,
        })
    }

    /// Where a member is.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_string()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Any. `null` is none.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.remove(key).filter(|value| !value.is_null())
    }

    /// In whatever case it is written, as the reference plugins read it (Go's encoding/json): what runtimes that use containerd/go-cni say of
    /// ports is `HostPort`.
    fn remove(&mut self, key: &str) -> Option<Value> {
        let written = written(&self.left, key)?.clone();
        self.left.remove(&written)
    }

    /// An object.
    pub fn object(&mut self, key: &str) -> Result<Members, Fault> {
        let value = self.take(key);
        Members::of(&self.path_of(key), value)
    }

    /// A string that says something.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(other) => Err(wrong(&self.path_of(key), &other, "a string")),
        }
    }

    /// The same, read further.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Fault> {
        let path = self.path_of(key);
        let text = self.text(key)?;
        text.map(|text| parsed(&path, &text, &read)).transpose()
    }

    /// True or false.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(&self.path_of(key), &other, "true or false")),
        }
    }

    /// A number.
    pub fn number(&mut self, key: &str) -> Result<Option<u64>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(&self.path_of(key), &value, "a number, not below 0")),
            },
        }
    }

    /// A list.
    pub fn list(&mut self, key: &str) -> Result<Vec<Value>, Fault> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(wrong(&self.path_of(key), &other, "a list")),
        }
    }

    /// A list of strings.
    pub fn texts(&mut self, key: &str) -> Result<Vec<String>, Fault> {
        let path = self.path_of(key);
        let list = self.list(key)?;
        list.into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong(&path, &other, "strings")),
            })
            .collect()
    }

    /// Known, and of no use here: whatever it says.
    pub fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.remove(key);
        }
    }

    /// Refuses a member, unless it says nothing: false, 0, or nothing at all.
    pub fn refuse(&mut self, key: &str, why: &str) -> Result<(), Fault> {
        match self.take(key) {
            Some(value) if !says_nothing(&value) => {
                Err(unsupported(&self.path_of(key), &value, why))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    pub fn end(self) -> Result<(), Fault> {
        let left = self.left.iter().find(|(_, value)| !value.is_null());
        match left {
            Some((key, value)) => {
                let why = "it means nothing here; leave it out";
                Err(unsupported(&self.path_of(key), value, why))
            }
            None => Ok(()),
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.values().all(says_nothing),
    }
}

/// Reads a value that is written as text.
pub fn parsed<T>(
    path: &str,
    text: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Fault> {
    read(text).map_err(|why| configuration(&format!("{path} {text:?}: {why}")))
}

/// A value of the wrong kind.
pub fn wrong(path: &str, value: &Value, wanted: &str) -> Fault {
    configuration(&format!("{path} {}: it must be {wanted}", short(value)))
}

/// A configuration that makes no sense.
pub fn configuration(why: &str) -> Fault {
    let text = format!("read the network configuration: {why}");
    Fault::new(code::CONFIGURATION, text)
}

/// What nothing is done about.
pub fn unsupported(path: &str, value: &Value, why: &str) -> Fault {
    let text = format!(
        "read the network configuration: {path} {} is not supported: {why}",
        short(value)
    );
    Fault::new(code::FIELD, text)
}

fn short(value: &Value) -> String {
    const LONGEST: usize = 100;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
