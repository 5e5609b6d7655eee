//! `doctor`: looks for what breaks the networks of containers, on this host, now; each thing found is a line that names
//! it, its place, its cause and a command that cures it. Nothing is changed, and the only packets that leave are a question to each
//! resolver. What may not be looked at, by a user who is not root say, is said.

mod bridged;
mod entries;
mod host;
mod links;
mod resolvers;
mod rules;
mod switches;
mod translated;

use std::fmt;

use nix::errno::Errno;
use serde::{Serialize, Serializer};

use crate::error::{Doing, Refusal, Result};
use crate::netlink::Netlink;
use crate::steps;
use host::Host;

/// What there is to find. The names are for scripts, and stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A chain of somebody else's drops what is forwarded.
    ForwardDropped,
    /// Frames between containers of a bridge pass such a chain, too.
    BridgeNetfilter,
    /// Strict reverse path filtering where packets go another way than they come.
    ReversePath,
    /// The kernel lacks what our firewall tables need.
    NatMissing,
    /// Our firewall tables are not there, or not whole.
    RulesMissing,
    /// A rule leads to a container that is gone.
    RuleStale,
    /// Somebody else has a port that is published.
    PortShadowed,
    /// Packets of a container are larger than the way out takes.
    MtuTooLarge,
    /// A route of somebody else's takes addresses of a network of ours.
    SubnetOverlap,
    /// A resolver that containers are given does not answer.
    ResolverDead,
    /// The host forwards no packets.
    ForwardingOff,
    /// Services on 127.0.0.1 are open to a link.
    LocalnetOpen,
    /// A bridge of ours, or a port of it, is not as it was made.
    BridgeDown,
    /// `lo` is down.
    LoDown,
    /// The kernel can keep track of no more connections.
    ConntrackFull,
    /// The host does not heed its IPv6 router any more.
    RouterLost,
}

impl Fault {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Fault::ForwardDropped => "forward-dropped",
            Fault::BridgeNetfilter => "bridge-netfilter",
            Fault::ReversePath => "reverse-path",
            Fault::NatMissing => "nat-missing",
            Fault::RulesMissing => "rules-missing",
            Fault::RuleStale => "rule-stale",
            Fault::PortShadowed => "port-shadowed",
            Fault::MtuTooLarge => "mtu-too-large",
            Fault::SubnetOverlap => "subnet-overlap",
            Fault::ResolverDead => "resolver-dead",
            Fault::ForwardingOff => "forwarding-off",
            Fault::LocalnetOpen => "localnet-open",
            Fault::BridgeDown => "bridge-down",
            Fault::LoDown => "lo-down",
            Fault::ConntrackFull => "conntrack-full",
            Fault::RouterLost => "router-lost",
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// Where: a network, a link, a container, a port, or the host.
    #[serde(rename = "where")]
    pub place: String,
    /// Why it breaks something.
    pub cause: String,
    /// The command that helps.
    pub cure: String,
}

/// Something that could not be looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// What.
    pub what: String,
    /// Why not.
    pub cause: String,
}

/// All that was found. Its JSON is this structure; fields may be added to it, none is taken away while `version` is 1.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this structure.
    pub version: u32,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

impl Report {
    fn find(
        &mut self,
        fault: Fault,
        place: impl Into<String>,
        cause: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.findings.push(Finding {
            fault,
            place: place.into(),
            cause: cause.into(),
            cure: cure.into(),
        });
    }

    /// Each thing once, whoever wanted to look at it.
    fn could_not(&mut self, what: impl Into<String>, cause: impl fmt::Display) {
        let unseen = Unseen {
            what: what.into(),
            cause: cause.to_string(),
        };
        if !self.unseen.contains(&unseen) {
            self.unseen.push(unseen);
        }
    }

    /// The exit code: whether anything is wrong.
    pub fn code(&self) -> u8 {
        u8::from(!self.findings.is_empty())
    }

    /// As one JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).map_or_else(|_| "{}\n".to_string(), |text| text + "\n")
    }

    /// Says what could not be looked at, on standard error.
    pub fn say_unseen(&self) {
        for Unseen { what, cause } in &self.unseen {
            steps::print(&format!("look at {what}: {cause}"));
        }
    }
}

impl fmt::Display for Report {
    /// A line for each finding, whatever a name in it holds.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for found in &self.findings {
            let Finding {
                fault,
                place,
                cause,
                cure,
            } = found;
            let line = format!("{} {place}: {cause}; cure: {cure}", fault.name());
            let line: String = line
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Looks at everything.
///
/// # Errors
/// The kernel does not even tell which links there are.
pub fn examine() -> Result<Report> {
    let mut report = Report {
        version: 1,
        findings: Vec::new(),
        unseen: Vec::new(),
    };
    let mut route = Netlink::route().doing(|| "open a netlink socket".into())?;
    let host = Host::look(&mut route)?;
    links::examine(&host, &mut route, &mut report);
    switches::examine(&host, &mut route, &mut report);
    rules::examine(&host, &mut route, &mut report);
    resolvers::examine(&mut report);
    Ok(report)
}

/// What is refused to others is told to root.
fn with_cure(refusal: &Refusal) -> String {
    match refusal.errno {
        Errno::EPERM | Errno::EACCES => format!("{refusal}; run as root (sudo)"),
        _ => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_and_an_object_for_all() {
        let mut report = Report {
            version: 1,
            findings: Vec::new(),
            unseen: Vec::new(),
        };
        assert_eq!((report.code(), report.to_string()), (0, String::new()));
        report.find(Fault::LoDown, "host", "lo is\ndown", "ip link set lo up");
        report.could_not("rules", "permission denied");
        report.could_not("rules", "permission denied");
        assert_eq!(report.code(), 1);
        assert_eq!(
            report.to_string(),
            "lo-down host: lo is?down; cure: ip link set lo up\n"
        );
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["findings"][0]["fault"], "lo-down");
        assert_eq!(json["findings"][0]["where"], "host");
        assert_eq!(json["unseen"].as_array().unwrap().len(), 1);
    }
}
