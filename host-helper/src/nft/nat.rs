//! `inet hawser`, the part that rewrites addresses: where published ports lead, and whom packets are said to be from.

use Expression::{And, Is, IsNot, Load, Mapped, Then};
use Verdict::Accept;

use super::expression::{Expression, Field, Verdict};
use super::object::Rule;
use super::tables::*;
use super::words::*;

/// Published ports, and the way out.
pub fn nat_rules() -> Vec<Rule> {
    let local = Field::Route(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR);
    let is_local = is(local, &LOCAL);
    let loopback6 = [&[0; 15][..], &[1]].concat();
    // Loopback ports are the supervisor's: the kernel would have to be told to route what must never be routed.
    let mut rules = vec![
        rule(
            "nat_output",
            &[
                ip_is(&V4),
                is(Field::Payload(NETWORK, 16, 1), &[127]),
                then(Accept),
            ],
        ),
        rule(
            "nat_output",
            &[ip_is(&V6), is(V6.destination, &loopback6), then(Accept)],
        ),
    ];
    // Whoever may not leave is not led elsewhere: the host refuses it at its own addresses.
    for ip in IPS {
        let internal = [ip_is(ip), is_in(&[ip.source], ip.internal)].concat();
        rules.push(rule("nat_prerouting", &[internal, then(Accept)]));
    }
    // Nor by a link-local address, which is in no set of addresses: from one, nobody reaches more of the host than such addresses.
    rules.push(rule(
        "nat_prerouting",
        &[
            group_of_ours(IN_GROUP),
            ip_is(&V6),
            is_link_local(),
            then(Accept),
        ],
    ));
    for chain in ["nat_prerouting", "nat_output"] {
        for ip in IPS {
            let to = Expression::Destination(ip.number as u32, ip.kind.padded() as u32 / 4);
            let by_address = key(&[ip.destination, PROTOCOL, DESTINATION_PORT]);
            let by_port = key(&[PROTOCOL, DESTINATION_PORT]);
            for (fields, map) in [(by_address, ip.address_ports), (by_port, ip.ports)] {
                let mapped = vec![Mapped(map), to.clone()];
                rules.push(rule(chain, &[ip_is(ip), is_local.clone(), fields, mapped]));
            }
        }
    }
    rules.extend(source_rules());
    rules
}

/// Who is seen, by those outside and by those whom a published port leads to.
fn source_rules() -> Vec<Rule> {
    let mut rules = vec![
        rule(
            "nat_postrouting",
            &[
                group_of_ours(IN_GROUP),
                group_of_others(OUT_GROUP),
                vec![Expression::Masquerade],
            ],
        ),
        rule(
            "nat_postrouting",
            &[
                vec![
                    Load(IN_GROUP, 0),
                    And(OURS_MASK.to_ne_bytes().to_vec()),
                    Is(OPEN_MASQUERADED.to_ne_bytes().to_vec()),
                ],
                is_not_in(&[IN_GROUP, OUT_GROUP], NETWORKS),
                vec![Expression::Masquerade],
            ],
        ),
    ];
    // Where a cluster's services are balanced (kube-proxy), what leads to a container of an open network is not ours alone:
    // the others' keeps its source.
    for ip in IPS {
        let to_open = vec![
            Load(OUT_GROUP, 0),
            And(OPEN_MASK.to_ne_bytes().to_vec()),
            Is(OPEN_MASQUERADED.to_ne_bytes().to_vec()),
        ];
        let is_not_ours = is_not_in(&[ip.destination, PROTOCOL, DESTINATION_PORT], ip.open);
        rules.push(rule(
            "nat_postrouting",
            &[ip_is(ip), to_open, is_not_ours, then(Accept)],
        ));
    }
    rules.extend([
        // Else the answer would go straight back, and be from nobody whom the client has asked.
        rule(
            "nat_postrouting",
            &[
                is_published(),
                is_in(&[IN_NAME, OUT_NAME], HAIRPIN),
                vec![Expression::Masquerade],
            ],
        ),
        // The same of frames that are rewritten on their bridge (bridge-nf-call): they come in by no link that a rule
        // could name here. What the host itself has sent does not either, and keeps its address.
        rule(
            "nat_postrouting",
            &[vec![Load(IN_NAME, 0), IsNot(vec![0; 16]), Then(Accept)]],
        ),
        rule(
            "nat_postrouting",
            &[
                is_published(),
                is_not(
                    Field::Route(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR),
                    &LOCAL,
                ),
                is_in(&[OUT_NAME, OUT_NAME], HAIRPIN),
                vec![Expression::Masquerade],
            ],
        ),
    ]);
    rules
}
