//! What a link cannot say of an attachment: `/run/hawser/attachments/LINK`. It is valid as long as that link lives, with
//! the same number and the same network namespace behind it, and nothing in it is believed beyond that. Losing it loses
//! no network.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::join::Bound;
use crate::address::{link_local_of, parse_mac};
use crate::attach::Attachment;
use crate::bridge::{Bridge, Network, POINT_TO_POINT_NAME};
use crate::control;
use crate::error::{Doing, Error, Result, twice};
use crate::link::Link;
use crate::ls::Description;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::{Mark, leased_address, namespace};
use crate::publish::{Port, Range};
use crate::reach::{Egress, Reach};
use crate::reclaim;
use crate::state;
use crate::veth::Veth;

/// A file is longer only by mistake: a port takes some 80 bytes when it is in no range, and a protocol has 65535.
const LONGEST: u64 = 16 << 20;
/// How often a directory is made again that others remove.
const TRIES: usize = 100;

/// What is kept of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The inode of the network namespace that the link is in: others may share the directory.
    pub host: u64,
    /// The number of its link.
    pub index: u32,
    /// The inode of its network namespace.
    pub netns: u64,
    /// Its name for `ip netns`, when it has one.
    pub export: Option<String>,
    /// The file that its address was written to.
    #[serde(default)]
    pub ip_file: Option<PathBuf>,
    /// What its runtime calls it, when a hook of that has attached it.
    #[serde(default)]
    pub id: Option<String>,
    /// All of it is done.
    #[serde(default)]
    pub is_whole: bool,
    /// What lies over the container's files.
    pub bound: Vec<Bound>,
    /// Which attachment of which network it is, when a container runtime has asked for it.
    #[serde(default)]
    pub cni: Option<Cni>,
    /// All that there is to know of it.
    pub container: Description,
}

/// What container runtimes know an attachment by (CNI).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cni {
    /// The network's name.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// What its interface is called.
    pub interface: String,
}

fn directory() -> PathBuf {
    Path::new(state::DIRECTORY).join("attachments")
}

fn path_of(link: &str) -> PathBuf {
    directory().join(link)
}

/// Keeps it, whole from its first moment.
///
/// Undone by [`forget`].
///
/// # Errors
/// What the file system refuses; more than would be read again.
pub fn write(link: &str, kept: &Kept) -> Result<()> {
    let path = path_of(link);
    let doing = || format!("write {}", path.display());
    let text = serde_json::to_vec(kept).map_err(std::io::Error::from);
    let text = text.doing(doing)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::new(format!(
            "{}: it would have {} bytes, and {LONGEST} are read; publish fewer ports",
            doing(),
            text.len()
        )));
    }
    let put = || -> std::io::Result<()> {
        match DirBuilder::new().mode(0o700).create(directory()) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let new = unfinished_of(link, kept.host);
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        std::io::Write::write_all(&mut options.open(&new)?, &text)?;
        fs::rename(new, &path)
    };
    for _ in 0..TRIES {
        match put() {
            // Another has forgotten the last one that was there, and removed the directory, before this one was in it. The lock makes the one
            // above it.
            Err(error) if error.kind() == ErrorKind::NotFound => drop(state::lock()?),
            done => return done.doing(doing),
        }
    }
    put().doing(doing)
}

/// Forgets it; gone already is success.
pub fn forget(link: &str) {
    let _ = twice(|| fs::remove_file(path_of(link)));
    // There when somebody was killed who wrote it.
    let _ = namespace("self", "net").map(|host| fs::remove_file(unfinished_of(link, host)));
    remove_directory_if_empty();
}

/// The same, unless it can be seen to be another's by now.
pub fn forget_if(link: &str, kept: &Kept) {
    if read(link).is_none_or(|now| now == *kept) {
        forget(link);
    }
}

/// Removes the directory when nothing is in it.
pub fn remove_directory_if_empty() {
    state::remove_if_empty(directory());
}

/// Where it is written first. Nothing in it says whose it is, so its name does.
fn unfinished_of(link: &str, host: u64) -> PathBuf {
    directory().join(format!("{link}.{host}.new"))
}

/// What is kept of a link, whether that still lives or not.
pub fn read(link: &str) -> Option<Kept> {
    let mut text = Vec::new();
    let file = File::open(path_of(link)).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The links of which something is kept, or was about to be.
pub fn links() -> Vec<String> {
    let entries = fs::read_dir(directory()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let host = namespace("self", "net").unwrap_or_default();
    let unfinished = format!(".{host}.new");
    let links = names.map(|name| match name.strip_suffix(&unfinished) {
        Some(link) => link.to_string(),
        None => name,
    });
    let mut links: Vec<String> = links
        .filter(|name| leased_address(name).is_some())
        .collect();
    links.sort();
    links.dedup();
    links
}

impl Kept {
    /// Its link is, or was, in our network namespace.
    pub fn is_of_here(&self) -> bool {
        namespace("self", "net").is_ok_and(|inode| inode == self.host)
    }

    /// What is kept of this link: of this very one.
    pub fn of(link: &Link) -> Option<Kept> {
        read(&link.name).filter(|kept| kept.is_of_link(link))
    }

    /// Whether it is of this very link.
    pub fn is_of_link(&self, link: &Link) -> bool {
        let mark = link.mark.as_ref().filter(|mark| mark.is_attached());
        let is_its = |(name, netns)| self.netns == netns && self.container.name == name;
        let is_marked = mark.and_then(Mark::container).is_some_and(is_its);
        self.is_of_here() && self.index == link.index && is_marked
    }

    /// What of it is there without a supervisor, who may have been killed. A port of a loopback address is that one's alone.
    pub fn unsupervised(mut self) -> Kept {
        let is_there = |range: &Range| !range.host.is_some_and(|host| host.is_loopback());
        self.container.ports.retain(is_there);
        self.container.supervisor = None;
        self
    }

    /// A hook has attached it, of a runtime of ours that calls it so.
    pub fn is_of(&self, id: &str) -> bool {
        self.id.as_deref() == Some(id) && self.is_of_here()
    }

    fn network_of(&self, bridge: Option<&Link>, group: u32) -> Option<Network> {
        let known = &self.container;
        Some(Network {
            name: bridge
                .map_or(POINT_TO_POINT_NAME, |bridge| &bridge.name)
                .to_string(),
            subnet: known.subnet.as_ref()?.parse().ok()?,
            gateway: known.gateway?,
            subnet6: known.subnet6.as_ref().and_then(|net| net.parse().ok()),
            gateway6: known.gateway6,
            bridge: bridge.map(|bridge| Bridge {
                index: bridge.index,
                mac: bridge.mac,
                forwards4: bridge.forwards4,
            }),
            own: Vec::new(),
            is_ours: bridge.is_none_or(|it| nft::is_ours(it.group)),
            is_new: false,
            policy: nft::policy_of(group).unwrap_or_default(),
        })
    }

    /// The attachment, made up from the link and, as to what that does not say, from the file.
    pub fn attachment(&self, route: &mut Netlink, link: &Link) -> Option<Attachment> {
        let known = &self.container;
        let bridge = match link.controller {
            Some(index) => Some(route.link(index).ok()??),
            None => None,
        };
        let group = bridge.as_ref().map_or(link.group, |it| it.group);
        let network = self.network_of(bridge.as_ref(), group)?;
        let mac = parse_mac(known.mac.as_ref()?).ok()?;
        let device = match &bridge {
            Some(bridge) => network.is_ours.then_some(bridge.index),
            None => Some(link.index),
        };
        Some(Attachment {
            network,
            veth: Veth {
                name: link.name.clone(),
                index: link.index,
                address: leased_address(&link.name)?,
                address6: known.address6,
                link_local: known.address6.map(|_| link_local_of(mac)),
                mac,
            },
            mtu: link.mtu,
            device,
            netns: self.netns,
        })
    }

    /// Whom it may reach.
    pub fn reach(&self) -> Option<Reach> {
        let known = &self.container;
        Some(Reach {
            isolated: known.isolated,
            internal: known.internal,
            connect: known.connect.clone(),
            egress: match &known.egress {
                Some(list) => list.parse().ok()?,
                None => Egress::All,
            },
        })
    }

    /// Its ports.
    pub fn ports(&self) -> Vec<Port> {
        let ranges = self.container.ports.iter();
        ranges.flat_map(|range| range.ports()).collect()
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.container.address.map(IpAddr::from);
        let v6 = self.container.address6.map(IpAddr::from);
        v4.into_iter().chain(v6)
    }
}

/// Refuses ports that an attachment has which nobody holds for it.
///
/// # Errors
/// It has, and lives.
pub fn check_ports(ports: &[Port]) -> Result<()> {
    if ports.is_empty() || !directory().exists() {
        return Ok(());
    }
    let doing = || "look whose ports these are".to_string();
    let mut route = Netlink::route().doing(doing)?;
    let mut nft = nft::open()?;
    for port in ports.iter().filter(|port| !port.is_loopback()) {
        let Some(led_to) = nft::led_to(&mut nft, port).doing(doing)? else {
            // Somebody has flushed the rules; what they have said is still kept.
            return check_all_kept(&mut route, ports);
        };
        for address in led_to {
            if let Some(link) = nft::tenant_at(&mut nft, address).doing(doing)? {
                if let Some(kept) = unheld(&mut route, &link)? {
                    return Err(in_use(port, &kept));
                }
                // A port of one address of the host's goes before that of all: what a dead one has left would have it.
                if route.find_link(&link).doing(doing)?.is_none() {
                    reclaim::sweep_apart();
                }
            }
        }
    }
    Ok(())
}

fn check_all_kept(route: &mut Netlink, ports: &[Port]) -> Result<()> {
    for link in links() {
        let Some(kept) = unheld(route, &link)? else {
            continue;
        };
        for theirs in kept.ports() {
            if let Some(port) = ports.iter().find(|port| port.is_same_as(&theirs)) {
                return Err(in_use(port, &kept));
            }
        }
    }
    Ok(())
}

/// An attachment that lives and whose ports nobody holds.
fn unheld(route: &mut Netlink, link: &str) -> Result<Option<Kept>> {
    let doing = || format!("look for link {link}");
    let found = route.find_link(link).doing(doing)?;
    let living = found.filter(|link| !link.mark.as_ref().is_some_and(Mark::is_dead));
    let kept = living.and_then(|link| Kept::of(&link));
    let unheld = kept.filter(|kept| !control::is_supervised(&kept.container.name));
    Ok(unheld.map(Kept::unsupervised))
}

fn in_use(port: &Port, by: &Kept) -> Error {
    Error::new(format!(
        "publish {port}: it is in use by {}, which is attached (host-helper detach {0}); choose another",
        by.container.name
    ))
}
