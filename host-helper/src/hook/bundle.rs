//! The bundle's config.json (OCI runtime specification, "Configuration"): of all that is in it, where the root is, whose
//! network it is, and how long a hook may take.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::told::{Stage, Told};
use crate::error::{Doing, Error, Result};

/// It is longer only by mistake.
const LONGEST: u64 = 16 << 20;

/// Seconds; who waits longer waits for ever.
const LONGEST_TIMEOUT: u64 = 24 * 60 * 60;

/// What is looked at.
#[derive(Debug, Default, Deserialize)]
pub struct Bundle {
    /// Where it is.
    #[serde(skip)]
    directory: PathBuf,
    root: Option<Root>,
    linux: Option<Linux>,
    hostname: Option<String>,
    hooks: Option<BTreeMap<String, Option<Vec<Hook>>>>,
    annotations: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Linux {
    namespaces: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    r#type: String,
    path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Hook {
    path: PathBuf,
    args: Option<Vec<String>>,
    /// Seconds; whether it is one, its runtime says.
    timeout: Option<i64>,
}

/// Whose network the container has.
#[derive(Debug, PartialEq, Eq)]
pub enum Namespace<'a> {
    /// A new one.
    Own,
    /// The one at this path.
    Shared(&'a Path),
    /// The host's.
    Hosts,
}

impl Bundle {
    /// Reads it.
    ///
    /// # Errors
    /// It is not there, or not one.
    pub fn read(told: &Told) -> Result<Bundle> {
        let directory = told.bundle();
        let path = directory.join("config.json");
        let doing = || format!("read {}", path.display());
        let directory = directory.canonicalize().doing(doing)?;
        let mut text = Vec::new();
        let file = File::open(&path).doing(doing)?;
        let read = file.take(LONGEST + 1).read_to_end(&mut text);
        read.doing(doing)?;
        if text.len() as u64 > LONGEST {
            return Err(Error::new(format!("{}: it is longer than 16 MiB", doing())));
        }
        let bundle: Bundle = serde_json::from_slice(&text)
            .map_err(|error| Error::new(format!("{}: {error}", doing())))?;
        Ok(Bundle {
            directory,
            ..bundle
        })
    }

    /// The root directory, as the runtime's own mounts have it.
    ///
    /// # Errors
    /// It names none.
    pub fn root(&self) -> Result<PathBuf> {
        let root = self.root.as_ref().ok_or_else(|| {
            Error::new(format!(
                "find the container's root: {}/config.json names none (root.path)",
                self.directory.display()
            ))
        })?;
        Ok(self.directory.join(&root.path))
    }

    /// Its host name, where that is the beginning of its id, as podman makes it. Another one is whoever's who has chosen it,
    /// and would be that for all its neighbours: they know it by its name.
    pub fn short_id(&self, told: &Told) -> Option<&str> {
        const DIGITS: usize = 12;
        let is_short =
            |name: &&str| name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = self.hostname.as_deref().filter(is_short)?;
        let is_longer = told.id.len() > DIGITS;
        (is_longer && told.id.starts_with(name)).then_some(name)
    }

    /// Whose network the container has.
    pub fn network(&self) -> Namespace<'_> {
        let all = self
            .linux
            .as_ref()
            .and_then(|linux| linux.namespaces.as_ref());
        let found = all
            .into_iter()
            .flatten()
            .find(|one| one.r#type == "network");
        match found {
            None => Namespace::Hosts,
            Some(Entry {
                path: Some(path), ..
            }) if !path.as_os_str().is_empty() => Namespace::Shared(path),
            Some(_) => Namespace::Own,
        }
    }

    /// What was said of the container.
    pub fn annotations(&self) -> Option<&Map<String, Value>> {
        self.annotations.as_ref()
    }

    /// How long this hook may take: the least of all those that could be it.
    pub fn timeout(&self, stage: Stage) -> Option<Duration> {
        let stages: &[&str] = match stage {
            Stage::Begins => &["prestart", "createRuntime"],
            Stage::Ends => &["poststop"],
        };
        let program = std::env::current_exe().ok();
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        let words: Vec<String> = words.collect();
        let hooks = self.hooks.as_ref();
        let of_stage = |stage: &&str| hooks.and_then(|hooks| hooks.get(*stage)?.as_ref());
        let all = || stages.iter().filter_map(of_stage).flatten();
        let is_ours = |hook: &&Hook| hook.path.canonicalize().ok() == program;
        let has_our_words = |hook: &&Hook| {
            let args = hook.args.as_ref();
            args.is_some_and(|args| *args == words)
        };
        let least = |hooks: Vec<&Hook>| hooks.into_iter().filter_map(|hook| hook.timeout).min();
        let exactly = least(all().filter(is_ours).filter(has_our_words).collect());
        // A script in between passes on other words.
        let seconds = exactly.or_else(|| least(all().filter(is_ours).collect()));
        let seconds = seconds.or_else(|| least(all().filter(has_our_words).collect()));
        let seconds = u64::try_from(seconds?).ok().filter(|seconds| *seconds > 0);
        seconds.map(|seconds| Duration::from_secs(seconds.min(LONGEST_TIMEOUT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(text: &str) -> Bundle {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn whose_network_it_is() {
        let of = |namespaces: &str| format!(r#"{{"linux": {{"namespaces": {namespaces}}}}}"#);
        for (text, wanted) in [
            (
                of(r#"[{"type": "pid"}, {"type": "network"}]"#),
                Namespace::Own,
            ),
            (of(r#"[{"type": "network", "path": ""}]"#), Namespace::Own),
            (
                of(r#"[{"type": "network", "path": "/run/netns/a"}]"#),
                Namespace::Shared(Path::new("/run/netns/a")),
            ),
            (of(r#"[{"type": "pid", "path": "/x"}]"#), Namespace::Hosts),
            (of("null"), Namespace::Hosts),
            ("{}".to_string(), Namespace::Hosts),
        ] {
            assert_eq!(bundle(&text).network(), wanted, "{text}");
        }
    }

    #[test]
    fn the_timeout_is_that_of_this_very_hook() {
        let program = std::env::current_exe().unwrap();
        let words: Vec<String> = std::env::args().collect();
        let words = serde_json::to_string(&words).unwrap();
        let path = program.display();
        let of = |hooks: &str| bundle(&format!(r#"{{"hooks": {hooks}}}"#));
        let other = r#"{"path": "/bin/sh", "args": ["sh"], "timeout": 1}"#;
        let ours = format!(r#"{{"path": "{path}", "args": {words}, "timeout": 7}}"#);
        let others_words = format!(r#"{{"path": "{path}", "timeout": 3}}"#);
        let seconds = |hooks: &str, stage| of(hooks).timeout(stage).map(|time| time.as_secs());
        let begins = |hooks: &str| seconds(hooks, Stage::Begins);
        let all = format!(r#"{{"createRuntime": [{other}, {others_words}, {ours}]}}"#);
        assert_eq!(begins(&all), Some(7));
        assert_eq!(
            begins(&format!(r#"{{"prestart": [{other}, {others_words}]}}"#)),
            Some(3)
        );
        assert_eq!(
            begins(&format!(
                r#"{{"createRuntime": [{other}], "poststop": [{ours}]}}"#
            )),
            None
        );
        assert_eq!(
            seconds(&format!(r#"{{"poststop": [{ours}]}}"#), Stage::Ends),
            Some(7)
        );
        assert_eq!(begins(r#"{"createRuntime": null}"#), None);
        for (odd, seconds) in [
            ("0", None),
            ("-1", None),
            (&*i64::MAX.to_string(), Some(86400)),
        ] {
            let ours = ours.replace("\"timeout\": 7", &format!("\"timeout\": {odd}"));
            assert_eq!(
                begins(&format!(r#"{{"prestart": [{ours}]}}"#)),
                seconds,
                "{odd}"
            );
        }
    }
}
