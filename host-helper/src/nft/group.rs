//! A network in the eyes of the firewall: the group of its links, which is its policy and a hash of its name.

use super::tables;
use crate::bridge::{Network, POINT_TO_POINT_NAME};
use crate::ptp;

/// Who may open connections to a network's containers, and what their packets are said to be from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Their neighbours alone, and who comes by a published port; packets get the host's address on their way out.
    #[default]
    Guarded,
    /// Anybody. Packets get the host's address.
    OpenMasqueraded,
    /// Anybody. Packets keep their own.
    Open,
}

impl Policy {
    /// In the words of a CNI configuration.
    pub fn shown(self) -> &'static str {
        match self {
            Policy::Guarded => "host-helper's own rules (it was made by up, run or attach)",
            Policy::OpenMasqueraded => "ipMasq true",
            Policy::Open => "ipMasq false",
        }
    }
}

pub(super) const POLICIES: [(Policy, u32); 3] = [
    (Policy::Guarded, tables::OURS),
    (Policy::OpenMasqueraded, tables::OPEN_MASQUERADED),
    (Policy::Open, tables::OPEN),
];

/// The policy of a network of ours, by the group of its link.
pub fn policy_of(group: u32) -> Option<Policy> {
    let is_it = |(_, class): &&(Policy, u32)| group & tables::OURS_MASK == *class;
    POLICIES.iter().find(is_it).map(|(policy, _)| *policy)
}

/// The group of a network's links.
pub fn group_of(network: &Network) -> u32 {
    if network.bridge.is_some() {
        group(&network.name, network.policy)
    } else {
        group(&network.subnet.to_string(), network.policy)
    }
}

/// The group of the network of this name and policy: a bridge's, `ptp`, or a point-to-point network's subnet.
pub fn group(name: &str, policy: Policy) -> u32 {
    let class = POLICIES.iter().find(|(one, _)| *one == policy);
    group_of_name(name) & !tables::OURS_MASK | class.map_or(tables::OURS, |(_, class)| *class)
}

/// The group that a network with this one would have if it were guarded.
pub fn group_of_hash(group: u32) -> u32 {
    group & !tables::OURS_MASK | tables::OURS
}

/// The same of one that is guarded.
pub fn group_of_name(name: &str) -> u32 {
    let name = if name == POINT_TO_POINT_NAME {
        ptp::POINT_TO_POINT.to_string()
    } else {
        name.to_string()
    };
    // FNV-1a of 32 bits (RFC 9923), folded to 24.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    tables::OURS | ((hash >> 24) ^ (hash & 0x00ff_ffff))
}

/// Whether a link of this group is a bridge of ours, or the host end of a point-to-point container.
pub fn is_ours(group: u32) -> bool {
    policy_of(group).is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nft::PORT_GROUP;

    #[test]
    fn each_network_has_a_group_of_ours() {
        let names = ["hawser0", "hawser1", "blue", "10.0.0.0/24", "10.0.1.0/24"];
        let groups: BTreeSet<u32> = names.into_iter().map(group_of_name).collect();
        assert_eq!(groups.len(), names.len());
        assert!(groups.iter().all(|group| is_ours(*group)));
        for (policy, _) in POLICIES {
            assert_eq!(policy_of(group("blue", policy)), Some(policy));
        }
        assert!(!is_ours(PORT_GROUP) && !is_ours(0));
        assert_eq!(group_of_name("ptp"), group_of_name("10.0.0.0/24"));
    }
}
