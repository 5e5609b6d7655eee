//! What the environment says: which command, and of which attachment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::Version;
use super::fault::{Fault, code};
use crate::address::hash;
use crate::link;
use crate::owner::{Mark, Named};

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    pub fn of_environment() -> Result<Command, Fault> {
        let word = required("CNI_COMMAND")?;
        match &*word {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "GC" => Ok(Command::Gc),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            _ => Err(wrong(
                "CNI_COMMAND",
                &word,
                "ADD, DEL, CHECK, GC, STATUS or VERSION",
            )),
        }
    }

    /// Refuses a command that this version of the specification does not have.
    pub fn check_version(self, version: Version) -> Result<(), Fault> {
        let since = match self {
            Command::Check => Version::V0_4,
            Command::Gc | Command::Status => Version::V1_1,
            _ => return Ok(()),
        };
        if version >= since {
            return Ok(());
        }
        let text = format!(
            "read the network configuration: version {} has no such command; it came with {}",
            version.text(),
            since.text()
        );
        Err(Fault::new(code::VERSION, text))
    }
}

/// Everything that was said.
#[derive(Debug)]
pub struct Call {
    /// The version to speak.
    pub version: Version,
    /// The network's name.
    pub network: String,
    /// Which attachment, where one is meant.
    pub attachment: Attachment,
    /// `CNI_NETNS`, where there is one.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub arguments: BTreeMap<String, String>,
    /// The network configuration.
    pub configuration: Value,
    /// The same, as it came.
    pub input: Vec<u8>,
}

/// What tells an attachment from others on its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// `CNI_CONTAINERID`
    pub container: String,
    /// `CNI_IFNAME`
    pub interface: String,
}

impl Call {
    pub fn of_environment(
        command: Command,
        version: Version,
        configuration: Value,
        input: Vec<u8>,
    ) -> Result<Call, Fault> {
        let network = network_of(&configuration)?;
        let has_attachment = matches!(command, Command::Add | Command::Del | Command::Check);
        let attachment = if has_attachment {
            Attachment::of_environment(command)?
        } else {
            Attachment::default()
        };
        let netns = match command {
            Command::Add | Command::Check => Some(required("CNI_NETNS")?.into()),
            Command::Del => variable("CNI_NETNS")?.map(PathBuf::from),
            _ => None,
        };
        Ok(Call {
            version,
            network,
            attachment,
            netns,
            arguments: arguments(command)?,
            configuration,
            input,
        })
    }

    /// What the container's link answers to on the host.
    pub fn name(&self) -> String {
        attachment_name(&self.network, &self.attachment)
    }
}

impl Attachment {
    fn of_environment(command: Command) -> Result<Attachment, Fault> {
        let container = required("CNI_CONTAINERID")?;
        if !is_name(&container) {
            let form = "a letter or digit, then letters, digits, _ . and -";
            return Err(wrong("CNI_CONTAINERID", &container, form));
        }
        let interface = required("CNI_IFNAME")?;
        // What there cannot be keeps nobody from cleaning up.
        if command != Command::Del {
            link::check_name(&interface).map_err(|why| {
                let text = format!("read the environment: CNI_IFNAME is {interface:?}: {why}");
                Fault::new(code::ENVIRONMENT, text)
            })?;
        }
        Ok(Attachment {
            container,
            interface,
        })
    }
}

/// The name of an attachment among all containers of the host: `cni-CONTAINER.INTERFACE.HASH`, of which the last part is
/// made of all that it is known by, the network included. It is the lease of that: the kernel gives it to one link only.
pub fn attachment_name(network: &str, attachment: &Attachment) -> String {
    const LONGEST: usize = 64; // as that of the usual runtimes are
    let Attachment {
        container,
        interface,
    } = attachment;
    let known = format!("{network}\0{container}\0{interface}");
    let hash = hash(known.as_bytes());
    let beginning: String = container.chars().take(LONGEST).collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let interface: String = interface.chars().map(plain).collect();
    format!("cni-{beginning}.{interface}.{hash:016x}")
}

/// What a link says that is an attachment of this name.
pub fn is_marked(mark: &Mark, name: &str) -> bool {
    matches!(mark, Mark::Netns(Named { name: its, .. }) if its == name)
}

/// As containers and networks are called.
fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    text.bytes().all(is_plain)
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
}

fn network_of(configuration: &Value) -> Result<String, Fault> {
    let name = configuration.get("name").and_then(Value::as_str);
    match name {
        Some(name) if is_name(name) => Ok(name.to_string()),
        Some(name) => Err(Fault::new(
            code::CONFIGURATION,
            format!(
                "read the network configuration: name {name:?}: it must be a letter or digit, then letters, digits, _ . and -"
            ),
        )),
        None => Err(Fault::new(
            code::CONFIGURATION,
            "read the network configuration: it has no name, which is a string",
        )),
    }
}

fn variable(name: &str) -> Result<Option<String>, Fault> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(_) => Err(Fault::new(
            code::ENVIRONMENT,
            format!("read the environment: {name} is no UTF-8"),
        )),
    }
}

fn required(name: &str) -> Result<String, Fault> {
    variable(name)?.ok_or_else(|| {
        Fault::new(
            code::ENVIRONMENT,
            format!("read the environment: {name} is not set, or empty"),
        )
    })
}

fn wrong(name: &str, value: &str, form: &str) -> Fault {
    let text = format!("read the environment: {name} is {value:?}: it must be {form}");
    Fault::new(code::ENVIRONMENT, text)
}

/// `CNI_ARGS`, of which we know two. Others are refused, unless it says that they may be ignored.
fn arguments(command: Command) -> Result<BTreeMap<String, String>, Fault> {
    const KNOWN: [&str; 2] = ["IP", "MAC"];
    let text = variable("CNI_ARGS")?.unwrap_or_default();
    let mut all = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            // What cannot be read keeps nobody from cleaning up.
            if command == Command::Del {
                continue;
            }
            return Err(wrong("CNI_ARGS", &text, "KEY=VALUE;KEY=VALUE"));
        };
        all.insert(key.to_string(), value.to_string());
    }
    let ignores = all
        .get("IgnoreUnknown")
        .map(|value| value.to_ascii_lowercase());
    let ignores = ignores.is_some_and(|value| matches!(&*value, "1" | "true"));
    if !ignores && command == Command::Add {
        let unknown = |key: &&String| !KNOWN.contains(&&***key) && *key != "IgnoreUnknown";
        if let Some(key) = all.keys().find(unknown) {
            let text = format!(
                "read the environment: CNI_ARGS has {key}, which means nothing here; add IgnoreUnknown=1, or leave it out"
            );
            return Err(Fault::new(code::ENVIRONMENT, text));
        }
    }
    all.retain(|key, _| KNOWN.contains(&&**key));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::check_name;

    #[test]
    fn attachments_have_names_of_their_own() {
        let of = |network, container: &str, interface: &str| {
            let attachment = Attachment {
                container: container.into(),
                interface: interface.into(),
            };
            attachment_name(network, &attachment)
        };
        let one = of("blue", "c1", "eth0");
        assert!(one.starts_with("cni-c1.eth0."), "{one}");
        for other in [
            of("red", "c1", "eth0"),
            of("blue", "c2", "eth0"),
            of("blue", "c1", "eth1"),
            of("blue", "c1.eth0", "x"),
        ] {
            assert_ne!(one, other);
        }
        let long = of("blue", &"a".repeat(200), "a-15-characters");
        assert_eq!(check_name(&long), Ok(()), "{long}");
        assert_ne!(long, of("blue", &"a".repeat(201), "a-15-characters"));
    }
}
