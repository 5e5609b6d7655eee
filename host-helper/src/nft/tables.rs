//! The two tables as data: every chain, set and rule (`inet.rs`, `nat.rs`, `frames.rs`), and the names
//! of what is in them. Nothing of it depends on which containers there are: those are
//! elements of the sets (`elements.rs`). `tests/golden` has what `nft list ruleset` makes of it.
//!
//! `inet hawser` decides about packets of IPv4 and IPv6; `bridge hawser` about frames, which the other never sees: who
//! they say they are from, and that those of limited containers go up to the host, where `inet hawser` decides.

use super::expression::Field;
use super::object::{Chain, Family, Rule, Set, Type};
use super::words::{NETWORK, NFT_CT_DST_IP, NFT_CT_DST_IP6};
use super::{frames, inet};

/// The upper byte of the groups (`IFLA_GROUP`) of our bridges and of the host ends of point-to-point containers; the
/// rest tells the network. "h" in ASCII.
pub const OURS: u32 = 0x6800_0000;
/// Which part of a group that is.
pub const OURS_MASK: u32 = 0xff00_0000;
/// The same byte of networks that are open: anybody may open connections to their containers. Their packets get the host's
/// address on the way out.
pub const OPEN_MASQUERADED: u32 = 0x6a00_0000;
/// And of those whose packets keep their own.
pub const OPEN: u32 = 0x6b00_0000;
/// What both have in common.
pub const OPEN_MASK: u32 = 0xfe00_0000;
/// The group of the host ends that are ports of a bridge whose frames are looked at, whoever's.
pub const PORT: u32 = 0x6900_0000;
/// What both have in common.
pub const OURS_OR_PORT_MASK: u32 = 0xfe00_0000;
/// That of host ends which are deleted together.
pub const LEAVING: u32 = 0x6c00_0000;
/// The number of `lo`, in each network namespace (`LOOPBACK_IFINDEX`, net/flow.h).
pub const LOOPBACK: u32 = 1;

/// The admin's chain: made once, never changed.
pub const USER: &str = "user";

/// A version of IP, and the names of what there is for each.
pub struct Ip {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    pub number: i32,
    /// As frames have it.
    pub ether_type: u16,
    /// Of an address.
    pub kind: Type,
    /// Where the sender's address is.
    pub source: Field,
    /// Where the receiver's is.
    pub destination: Field,
    /// Where the connection's first packet was to go.
    pub original_destination: Field,
    /// In the inet table. Host port to container.
    pub ports: &'static str,
    /// Host address and port to container.
    pub address_ports: &'static str,
    /// Container's address and port that may be reached without translation.
    pub open: &'static str,
    /// Neither reaches its neighbours nor is reached by them.
    pub isolated: &'static str,
    /// Reaches nothing outside its network.
    pub internal: &'static str,
    /// Reaches this other network, and is reached from it.
    pub connected: &'static str,
    /// May only open the connections in the next two sets.
    pub limited: &'static str,
    /// To these addresses.
    pub egress: &'static str,
    /// To these addresses at these ports.
    pub egress_ports: &'static str,
    /// Counts what was refused.
    pub refused: &'static str,
    /// In the bridge table. Which addresses a port may send from.
    pub sources: &'static str,
    /// Addresses that frames to take the way through the host, and the host's hardware address there.
    pub routed: &'static str,
}

impl Ip {
    /// Whether what is in this set begins with a container's address of this family, or leads to one.
    pub fn begins_with_container(&self, set: &str) -> bool {
        [
            self.ports,
            self.address_ports,
            self.open,
            self.isolated,
            self.internal,
            self.connected,
            self.limited,
            self.egress,
            self.egress_ports,
            self.refused,
            self.routed,
        ]
        .contains(&set)
    }
}

/// IPv4.
pub const V4: Ip = Ip {
    number: libc::NFPROTO_IPV4,
    ether_type: libc::ETH_P_IP as u16,
    kind: Type::Ipv4,
    source: Field::Payload(NETWORK, 12, 4),
    destination: Field::Payload(NETWORK, 16, 4),
    original_destination: Field::Original(NFT_CT_DST_IP),
    ports: "ports4",
    address_ports: "address_ports4",
    open: "open4",
    isolated: "isolated4",
    internal: "internal4",
    connected: "connected4",
    limited: "limited4",
    egress: "egress4",
    egress_ports: "egress_ports4",
    refused: "refused4",
    sources: "sources4",
    routed: "routed4",
};

/// IPv6.
pub const V6: Ip = Ip {
    number: libc::NFPROTO_IPV6,
    ether_type: libc::ETH_P_IPV6 as u16,
    kind: Type::Ipv6,
    source: Field::Payload(NETWORK, 8, 16),
    destination: Field::Payload(NETWORK, 24, 16),
    original_destination: Field::Original(NFT_CT_DST_IP6),
    ports: "ports6",
    address_ports: "address_ports6",
    open: "open6",
    isolated: "isolated6",
    internal: "internal6",
    connected: "connected6",
    limited: "limited6",
    egress: "egress6",
    egress_ports: "egress_ports6",
    refused: "refused6",
    sources: "sources6",
    routed: "routed6",
};

/// Both.
pub const IPS: [&Ip; 2] = [&V4, &V6];

/// The host end of each container, with its IPv6 address, and a number that no other has had there: whose link is not there was
/// left over, and who has another number has lost it to the next.
pub const TENANTS: &str = "tenants";
/// Pairs of groups between which packets pass: each network's own, twice.
pub const NETWORKS: &str = "networks";
/// Pairs of links between which a published port needs masquerading: each bridge's own, twice.
pub const HAIRPIN: &str = "hairpin";
/// In the bridge table. Ports whose frames go up to the host, and its hardware address there.
pub const ROUTED_PORTS: &str = "routed_ports";
/// Ports that no frame passes between.
pub const ISOLATED_PORTS: &str = "isolated_ports";

/// In both. Links of limited containers: a link-local address is in none of the sets of addresses, since others may have the same.
pub const LIMITED_PORTS: &str = "limited_ports";

/// All of a table.
#[derive(Debug)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its chains; [`USER`] is among them.
    pub chains: Vec<Chain>,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Both tables.
pub fn tables() -> [Table; 2] {
    [inet::table(), frames::table()]
}
