//! A container runtime's side of CNI: calls the plugin as the specification says, and reads its answer.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::case::binary;
use crate::net::Lab;
use crate::process::{DEADLINE, Outcome, collect};

/// The plugin, with what does not change between calls.
pub struct Plugin {
    dir: PathBuf,
    /// Where the plugin is, and plugins that it delegates to may be.
    pub path: PathBuf,
}

/// Which attachment is meant.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// `CNI_CONTAINERID`
    pub container: &'a str,
    /// `CNI_IFNAME`
    pub interface: &'a str,
    /// `CNI_NETNS`
    pub netns: &'a str,
}

/// What a call has given.
pub struct Answer(pub Outcome);

impl Lab {
    /// A plugin directory with ours in it.
    pub fn plugin(&self) -> Plugin {
        let path = self.dir.join("plugins");
        fs::create_dir_all(&path).expect("make a directory");
        let link = path.join("hawser");
        let _ = fs::remove_file(&link);
        symlink(binary(), link).expect("a link to host-helper");
        // There from the beginning: no change of what there is, as a snapshot sees it.
        fs::write(self.dir.join("input"), "").expect("make a file");
        Plugin {
            dir: self.dir.clone(),
            path,
        }
    }
}

impl Plugin {
    /// A call with these variables alone, and this text on standard input; not started yet.
    pub fn command(&self, input: &[u8], variables: &[(&str, &str)]) -> Command {
        let file = self.input();
        fs::write(&file, input).expect("write the input");
        let mut command = Command::new(self.path.join("hawser"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_PATH", format!("{}:/usr/lib/cni", self.path.display()))
            .envs(variables.iter().copied())
            .current_dir(&self.dir)
            .stdin(File::open(file).expect("open the input"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Where the text is that the last command has on its standard input.
    pub fn input(&self) -> PathBuf {
        self.dir.join("input")
    }

    /// One of the specification's operations, not started yet.
    pub fn operation(&self, operation: &str, whose: Whose, config: &Value) -> Command {
        let variables = [
            ("CNI_COMMAND", operation),
            ("CNI_CONTAINERID", whose.container),
            ("CNI_IFNAME", whose.interface),
            ("CNI_NETNS", whose.netns),
        ];
        self.command(config.to_string().as_bytes(), &variables)
    }

    /// A call, run to its end.
    pub fn raw(&self, input: &[u8], variables: &[(&str, &str)]) -> Answer {
        Answer(collect(self.command(input, variables), DEADLINE))
    }

    /// One of the specification's operations, run to its end.
    pub fn call(&self, operation: &str, whose: Whose, config: &Value) -> Answer {
        Answer(collect(self.operation(operation, whose, config), DEADLINE))
    }

    /// An operation that is about no attachment.
    pub fn of_network(&self, operation: &str, config: &Value) -> Answer {
        let variables = [("CNI_COMMAND", operation)];
        self.raw(config.to_string().as_bytes(), &variables)
    }
}

impl Answer {
    /// Success: exit code 0, and nothing on standard error. Gives what is on standard output; nothing is null.
    #[track_caller]
    pub fn ok(self) -> Value {
        let text = self.0.ok();
        if text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// An error as the specification has it: not exit code 0, and on standard output an object with this number and a
    /// sentence with these words.
    #[track_caller]
    pub fn fault(self, code: u64, words: &[&str]) -> Value {
        let outcome = self.0;
        assert_eq!(outcome.code, 1, "wanted an error: {outcome}");
        let text = outcome.out();
        let answer: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {outcome}"));
        assert_eq!(answer["code"], code, "{outcome}");
        assert!(answer["cniVersion"].is_string(), "{outcome}");
        let sentence = answer["msg"].as_str().unwrap_or_default();
        for word in words {
            assert!(sentence.contains(word), "{word} is not in: {outcome}");
        }
        assert!(
            !sentence.contains('\n') && sentence.chars().next().is_some_and(char::is_lowercase),
            "one line, lower case: {sentence}"
        );
        answer
    }
}
