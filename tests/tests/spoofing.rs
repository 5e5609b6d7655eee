//! A container that may send whatever it likes sends it: each attack reaches its victim on a bridge without rules, and
//! not on ours.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};

use lab::wire::{
    ALL_NODES, ARP, BROADCAST, Host, IPV4, IPV6, Mac, advertised_router, arp, ethernet, icmp6,
    ipv4, ipv4_with, ipv6, multicast, udp, udp6,
};
use lab::{
    DEADLINE, Lab, Netns, Running, Scene, Snapshot, Station, Watch, case, packets, sh, wait_untold,
};

const ICMP6: u8 = libc::IPPROTO_ICMPV6 as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Nobody's.
const STRANGER: Mac = [2, 0, 0x66, 0x66, 0x66, 0x66];
const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// What is sent, and a word for it.
type Attack = (&'static str, Vec<u8>);

/// Each of these frames comes to the victim on a plain bridge, and none on ours.
fn stopped(lab: &Lab, attacks: fn(&Scene) -> Vec<Attack>) {
    on_a_plain_bridge(attacks);
    on_ours(lab, attacks);
}

#[track_caller]
fn on_a_plain_bridge(attacks: fn(&Scene) -> Vec<Attack>) {
    let plain = Scene::plain();
    for (what, frame) in attacks(&plain) {
        assert!(
            plain.arrives(&frame),
            "{what}: no attack at all: {frame:02x?}"
        );
    }
    sh("ip link del plain0");
}

#[track_caller]
fn on_ours(lab: &Lab, attacks: fn(&Scene) -> Vec<Attack>) {
    let ours = Scene::of_ours(lab);
    for (what, frame) in attacks(&ours) {
        assert!(!ours.arrives(&frame), "{what}: let through: {frame:02x?}");
    }
    ours.both_talk();
    ours.end();
}

/// Two hosts of the scene: who attacks, who is attacked.
fn both(scene: &Scene) -> (Host, Host) {
    (scene.attacker.host, scene.victim.host)
}

fn datagram(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    ipv4(from, to, UDP, &udp(1000, 1000, b"not mine"))
}

#[test]
fn another_hardware_address() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let packet = datagram(me.ip, them.ip);
            let from = |mac| ethernet(them.mac, mac, IPV4, &packet);
            let six = udp6((me.ip6, 1000), (them.ip6, 1000), b"not mine");
            let six = ipv6(me.ip6, them.ip6, UDP, &six);
            vec![
                ("a stranger's", from(STRANGER)),
                ("the gateway's", from(scene.gateway.mac)),
                ("over IPv6", ethernet(them.mac, STRANGER, IPV6, &six)),
            ]
        })
    });
}

#[test]
fn another_ipv4_address() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let from = |ip| ethernet(them.mac, me.mac, IPV4, &datagram(ip, them.ip));
            let [a, b, c, _] = me.ip.octets();
            let fragment = |offset| {
                let payload = udp(1000, 1000, b"12345678");
                let packet = ipv4_with(scene.gateway.ip, them.ip, UDP, offset, &[], &payload);
                ethernet(them.mac, me.mac, IPV4, &packet)
            };
            const MORE: u16 = 0x2000;
            vec![
                ("a neighbour's", from(Ipv4Addr::new(a, b, c, 99))),
                ("the gateway's", from(scene.gateway.ip)),
                ("somebody's on the LAN", from(LAN)),
                ("the first of fragments", fragment(MORE)),
                ("the last of fragments", fragment(2)),
            ]
        })
    });
}

#[test]
fn no_ipv4_address() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let packet = datagram(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
            vec![
                ("to all", ethernet(BROADCAST, me.mac, IPV4, &packet)),
                ("to one", ethernet(them.mac, me.mac, IPV4, &packet)),
            ]
        })
    });
}

#[test]
fn arp_in_anothers_name() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let gateway = scene.gateway;
            let send = |packet: Vec<u8>| ethernet(them.mac, me.mac, ARP, &packet);
            let to = (them.mac, them.ip);
            let mine = (me.mac, me.ip);
            vec![
                (
                    "an answer for the gateway",
                    send(arp(2, (me.mac, gateway.ip), to)),
                ),
                (
                    "a question from the gateway",
                    send(arp(1, (me.mac, gateway.ip), ([0; 6], them.ip))),
                ),
                (
                    "news of the gateway to all",
                    ethernet(
                        BROADCAST,
                        me.mac,
                        ARP,
                        &arp(1, (me.mac, gateway.ip), ([0; 6], gateway.ip)),
                    ),
                ),
                ("the victim's own", send(arp(2, (me.mac, them.ip), to))),
                (
                    "a stranger's hardware address",
                    send(arp(2, (STRANGER, me.ip), to)),
                ),
                (
                    "the gateway's hardware address",
                    send(arp(2, (gateway.mac, me.ip), to)),
                ),
                (
                    "a stranger's frame",
                    ethernet(them.mac, STRANGER, ARP, &arp(2, mine, to)),
                ),
                (
                    "a stranger's frame, and its address in it",
                    ethernet(them.mac, STRANGER, ARP, &arp(2, (STRANGER, me.ip), to)),
                ),
                (
                    "a probe",
                    send(arp(1, (me.mac, Ipv4Addr::UNSPECIFIED), ([0; 6], them.ip))),
                ),
            ]
        })
    });
}

#[test]
fn arp_of_another_shape() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let whole = arp(2, (me.mac, scene.gateway.ip), (them.mac, them.ip));
            let send = |packet: &[u8]| ethernet(them.mac, me.mac, ARP, packet);
            let with = |at: usize, value: u8| {
                let mut packet = arp(2, (me.mac, me.ip), (them.mac, them.ip));
                packet[at] = value;
                send(&packet)
            };
            vec![
                ("too short", send(&whole[..16])),
                ("hardware addresses of 5", with(4, 5)),
                ("protocol addresses of 16", with(5, 16)),
                ("another kind of hardware", with(1, 6)),
                ("another protocol", with(2, 0x86)),
                (
                    "RARP",
                    ethernet(
                        them.mac,
                        me.mac,
                        0x8035,
                        &arp(4, (me.mac, me.ip), (them.mac, them.ip)),
                    ),
                ),
            ]
        })
    });
}

/// What ARP does when it is believed: the victim's packets to the gateway come to the attacker.
#[test]
fn the_gateway_stays_where_it_is() {
    fn is_deceived(scene: &Scene) -> bool {
        let (me, them) = both(scene);
        let gateway = scene.gateway.ip;
        scene.victim.netns.sh("ip neigh flush dev eth0");
        let lie = arp(1, (me.mac, gateway), ([0; 6], them.ip));
        let wire = &scene.attacker.wire;
        wire.send(&ethernet(them.mac, me.mac, ARP, &lie));
        scene.mark();
        let neighbours = scene.victim.netns.sh("ip neigh show dev eth0");
        let of_gateway = |line: &str| line.starts_with(&format!("{gateway} "));
        let mut lines = neighbours.lines();
        lines.any(|line| of_gateway(line) && line.contains(&text(me.mac)))
    }
    packets(|lab| {
        assert!(is_deceived(&Scene::plain()), "a plain bridge lets it be");
        let ours = Scene::of_ours(lab);
        assert!(!is_deceived(&ours), "the gateway is where the attacker is");
        ours.end();
    });
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn another_ipv6_address() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let gateway = scene.gateway;
            let from = |ip| {
                let data = udp6((ip, 1000), (them.ip6, 1000), b"not mine");
                ethernet(them.mac, me.mac, IPV6, &ipv6(ip, them.ip6, UDP, &data))
            };
            let ping = icmp6(gateway.ip6, them.ip6, 128, &[0, 1, 0, 1]);
            let ping = ipv6(gateway.ip6, them.ip6, ICMP6, &ping);
            vec![
                ("the gateway's", from(gateway.ip6)),
                ("the gateway's link-local one", from(gateway.link_local)),
                (
                    "a stranger's link-local one",
                    from("fe80::66".parse().unwrap()),
                ),
                ("the victim's link-local one", from(them.link_local)),
                (
                    "somebody's far away",
                    from("2001:db8:2::10".parse().unwrap()),
                ),
                ("none", from(Ipv6Addr::UNSPECIFIED)),
                ("a ping", ethernet(them.mac, me.mac, IPV6, &ping)),
            ]
        })
    });
}

/// It is our rules that stop them: without, until a supervisor puts them back, they arrive.
#[test]
fn without_rules_they_arrive() {
    packets(|lab| {
        let ours = Scene::of_ours(lab);
        let (me, them) = both(&ours);
        let gateway = ours.gateway.ip;
        let lie = arp(2, (me.mac, gateway), (them.mac, them.ip));
        let lies = [
            ethernet(them.mac, me.mac, ARP, &lie),
            ethernet(them.mac, me.mac, IPV4, &datagram(gateway, them.ip)),
        ];
        ours.signal(libc::SIGSTOP);
        sh("nft flush ruleset");
        assert!(lies.iter().all(|frame| ours.arrives(frame)));
        let watch = Watch::ruleset();
        ours.signal(libc::SIGCONT);
        let sources = "nft list set bridge hawser sources4 2>/dev/null || :";
        let is_back = || sh(sources).contains("172.19.0.2") && sh(sources).contains("172.19.0.3");
        assert!(watch.until(is_back), "{}", sh("nft list ruleset"));
        assert!(!lies.iter().any(|frame| ours.arrives(frame)));
        ours.end();
    });
}

/// A packet of ICMPv6 from the attacker to the victim.
fn message(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    ipv6(from, to, ICMP6, &icmp6(from, to, kind, body))
}

/// Neighbour solicitation and advertisement: flags, target, options (RFC 4861, sections 4.3 and 4.4).
fn about(flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0][..], &target.octets(), options].concat()
}

/// The options with a hardware address: the source's is 1, the target's is 2.
fn link_option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// Solicited, and overriding what was known.
const OVERRIDE: u8 = 0x60;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

#[test]
fn solicitations_in_anothers_name() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let gateway = scene.gateway;
            let send = |packet: Vec<u8>| ethernet(them.mac, me.mac, IPV6, &packet);
            let ask = |from, options: &[u8]| {
                send(message(
                    from,
                    them.ip6,
                    SOLICITATION,
                    &about(0, them.ip6, options),
                ))
            };
            let mine = link_option(1, me.mac);
            let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
            let gap = [0, 0, 0, 0, 0, 0, 0, 0];
            vec![
                ("the gateway's", ask(gateway.ip6, &mine)),
                (
                    "the gateway's link-local one",
                    ask(gateway.link_local, &mine),
                ),
                (
                    "a stranger is there",
                    ask(me.ip6, &link_option(1, STRANGER)),
                ),
                (
                    "the gateway is there",
                    ask(me.link_local, &link_option(1, gateway.mac)),
                ),
                ("none, as a probe", ask(Ipv6Addr::UNSPECIFIED, &[])),
                (
                    "two of them",
                    ask(me.ip6, &[mine.clone(), link_option(1, STRANGER)].concat()),
                ),
                (
                    "behind another option",
                    ask(me.ip6, &[&nonce[..], &link_option(1, STRANGER)].concat()),
                ),
                (
                    "before another option",
                    ask(me.ip6, &[&link_option(1, STRANGER)[..], &nonce].concat()),
                ),
                (
                    "behind an option of length 0",
                    ask(me.ip6, &[&gap[..], &link_option(1, STRANGER)].concat()),
                ),
            ]
        })
    });
}

#[test]
fn advertisements_in_anothers_name() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let gateway = scene.gateway;
            let send = |packet: Vec<u8>| ethernet(them.mac, me.mac, IPV6, &packet);
            let say = |from, target, options: &[u8]| {
                let body = about(OVERRIDE, target, options);
                send(message(from, them.ip6, ADVERTISEMENT, &body))
            };
            let mine = link_option(2, me.mac);
            let to_all = message(
                me.ip6,
                ALL_NODES,
                ADVERTISEMENT,
                &about(0x20, gateway.ip6, &mine),
            );
            let padding = [1, 1, 0, 0, 0, 0, 0, 0];
            vec![
                ("the gateway's", say(me.ip6, gateway.ip6, &mine)),
                (
                    "the gateway's link-local one",
                    say(me.link_local, gateway.link_local, &mine),
                ),
                (
                    "the gateway's, from it",
                    say(gateway.ip6, gateway.ip6, &mine),
                ),
                ("the victim's", say(me.ip6, them.ip6, &mine)),
                (
                    "to all",
                    ethernet(multicast(ALL_NODES), me.mac, IPV6, &to_all),
                ),
                ("without an option", say(me.ip6, gateway.ip6, &[])),
                (
                    "a stranger is there",
                    say(me.ip6, me.ip6, &link_option(2, STRANGER)),
                ),
                (
                    "two of them",
                    say(
                        me.ip6,
                        me.ip6,
                        &[mine.clone(), link_option(2, STRANGER)].concat(),
                    ),
                ),
                (
                    "behind another option",
                    say(
                        me.ip6,
                        me.ip6,
                        &[&padding[..], &link_option(2, STRANGER)].concat(),
                    ),
                ),
            ]
        })
    });
}

/// A destination options header (RFC 8200, section 4.6) that says nothing, and what follows.
fn behind_options(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0][..], payload].concat()
}

/// A fragment header (section 4.5); offset in units of 8 bytes.
fn as_fragment(next: u8, offset: u16, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let place = (offset << 3 | u16::from(!is_last)).to_be_bytes();
    [&[next, 0][..], &place, &[0, 0, 0, 7], payload].concat()
}

#[test]
fn neighbour_discovery_behind_other_headers() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let gateway = scene.gateway;
            let body = about(OVERRIDE, gateway.ip6, &link_option(2, me.mac));
            let lie = icmp6(me.ip6, them.ip6, ADVERTISEMENT, &body);
            let send = |next, payload: &[u8]| {
                ethernet(
                    them.mac,
                    me.mac,
                    IPV6,
                    &ipv6(me.ip6, them.ip6, next, payload),
                )
            };
            let behind = behind_options(ICMP6, &lie);
            let routed = [&[ICMP6, 0, 4, 0, 0, 0, 0, 0][..], &lie].concat();
            vec![
                ("options", send(DESTINATION_OPTIONS, &behind)),
                ("hop-by-hop options", send(0, &behind)),
                (
                    "options twice",
                    send(
                        DESTINATION_OPTIONS,
                        &behind_options(DESTINATION_OPTIONS, &behind),
                    ),
                ),
                ("a routing header", send(43, &routed)),
                (
                    "a fragment header",
                    send(FRAGMENT, &as_fragment(ICMP6, 0, true, &lie)),
                ),
                (
                    "the first of fragments",
                    send(FRAGMENT, &as_fragment(ICMP6, 0, false, &lie[..24])),
                ),
            ]
        })
    });
}

#[test]
fn the_words_of_a_router() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let me6 = me.link_local;
            let to_all = |packet: &[u8]| ethernet(multicast(ALL_NODES), me.mac, IPV6, packet);
            let router = advertised_router();
            let advertisement = icmp6(me6, ALL_NODES, 134, &router);
            let redirect = [&[0, 0, 0, 0][..], &me6.octets(), &them.ip6.octets()].concat();
            let redirect = message(me6, them.ip6, 137, &redirect);
            let behind = behind_options(ICMP6, &advertisement);
            let fragment = as_fragment(ICMP6, 0, true, &advertisement);
            let query = [&[0, 1, 0, 0][..], &[0; 16]].concat();
            let asks = [&[0, 0, 0, 0][..], &link_option(1, STRANGER)].concat();
            vec![
                (
                    "an advertisement",
                    to_all(&ipv6(me6, ALL_NODES, ICMP6, &advertisement)),
                ),
                (
                    "behind options",
                    to_all(&ipv6(me6, ALL_NODES, DESTINATION_OPTIONS, &behind)),
                ),
                (
                    "as a fragment",
                    to_all(&ipv6(me6, ALL_NODES, FRAGMENT, &fragment)),
                ),
                (
                    "in the gateway's name",
                    to_all(&message(scene.gateway.link_local, ALL_NODES, 134, &router)),
                ),
                ("a redirect", ethernet(them.mac, me.mac, IPV6, &redirect)),
                (
                    "a question for members",
                    to_all(&message(me6, ALL_NODES, 130, &query)),
                ),
                (
                    "a report of members",
                    to_all(&message(me6, ALL_NODES, 143, &[0, 0, 0, 0])),
                ),
                (
                    "an old report of a member",
                    to_all(&message(me6, ALL_NODES, 131, &query)),
                ),
                (
                    "a member that leaves",
                    to_all(&message(me6, ALL_NODES, 132, &query)),
                ),
                (
                    "a multicast router",
                    to_all(&message(me6, ALL_NODES, 151, &[0, 0, 0, 0])),
                ),
                (
                    "a question for routers",
                    to_all(&message(me6, ALL_NODES, 133, &asks)),
                ),
            ]
        })
    });
}

#[test]
fn the_words_of_a_router_over_ipv4() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let send = |to: Ipv4Addr, mac, protocol, payload: &[u8]| {
                ethernet(mac, me.mac, IPV4, &ipv4(me.ip, to, protocol, payload))
            };
            let all = Ipv4Addr::new(224, 0, 0, 1);
            let all_mac = [1, 0, 0x5e, 0, 0, 1];
            let old = ipv4(them.ip, LAN, UDP, &udp(1000, 1000, b""));
            let redirect = [&[5, 1, 0, 0][..], &me.ip.octets(), &old].concat();
            let router = [
                &[9, 0, 0, 0, 1, 2, 7, 8][..],
                &me.ip.octets(),
                &[0, 0, 0, 1],
            ]
            .concat();
            vec![
                ("a redirect", send(them.ip, them.mac, 1, &redirect)),
                ("an advertisement", send(all, all_mac, 1, &router)),
                (
                    "a question for members",
                    send(all, all_mac, 2, &[0x11, 100, 0xee, 0x9b, 0, 0, 0, 0]),
                ),
                (
                    "a multicast router",
                    send(all, all_mac, 2, &[0x30, 20, 0xcf, 0xeb, 0, 0, 0, 0]),
                ),
            ]
        })
    });
}

/// What a router advertisement does when it is believed.
#[test]
fn no_container_is_anothers_router() {
    fn advertise(scene: &Scene) -> String {
        let me = scene.attacker.host;
        // As whoever wants to be configured has it.
        scene.victim.netns.sh("echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra; echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6");
        let packet = message(me.link_local, ALL_NODES, 134, &advertised_router());
        let frame = ethernet(multicast(ALL_NODES), me.mac, IPV6, &packet);
        scene.attacker.wire.send(&frame);
        scene.mark();
        scene.victim.netns.sh("ip -6 route show default proto ra")
    }
    packets(|lab| {
        let plain = Scene::plain();
        let route = advertise(&plain);
        let me = plain.attacker.host.link_local.to_string();
        assert!(
            route.contains(&me),
            "a plain bridge lets it be one: {route}"
        );
        sh("ip link del plain0");
        let ours = Scene::of_ours(lab);
        let route = advertise(&ours);
        assert!(route.is_empty(), "it is: {route}");
        ours.end();
    });
}

#[test]
fn the_words_of_a_dhcp_server() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let offer = |from, to| udp(from, to, &[2, 1, 6, 0, 0, 0, 0, 1]);
            let send = |packet: Vec<u8>| ethernet(BROADCAST, me.mac, IPV4, &packet);
            let plain = |from, to| send(ipv4(me.ip, Ipv4Addr::BROADCAST, UDP, &offer(from, to)));
            let with = |fragment, options: &[u8]| {
                let payload = offer(67, 68);
                send(ipv4_with(
                    me.ip,
                    Ipv4Addr::BROADCAST,
                    UDP,
                    fragment,
                    options,
                    &payload,
                ))
            };
            let six = |from, to| {
                let data = udp6((me.link_local, from), (them.link_local, to), &[2, 0, 0, 1]);
                let packet = ipv6(me.link_local, them.link_local, UDP, &data);
                ethernet(them.mac, me.mac, IPV6, &packet)
            };
            let hidden = udp6((me.link_local, 547), (them.link_local, 546), &[2, 0, 0, 1]);
            let hidden = behind_options(UDP, &hidden);
            let hidden = ipv6(me.link_local, them.link_local, DESTINATION_OPTIONS, &hidden);
            vec![
                ("an offer", plain(67, 68)),
                ("from another port", plain(1067, 68)),
                ("to a relay", plain(67, 67)),
                ("behind options", with(0, &[1, 1, 1, 0])),
                ("the first of fragments", with(0x2000, &[])),
                ("of IPv6", six(547, 546)),
                ("of IPv6, from another port", six(1547, 546)),
                (
                    "of IPv6, behind options",
                    ethernet(them.mac, me.mac, IPV6, &hidden),
                ),
            ]
        })
    });
}

#[test]
fn tags_and_other_protocols() {
    packets(|lab| {
        stopped(lab, |scene| {
            let (me, them) = both(scene);
            let lie = datagram(scene.gateway.ip, them.ip);
            let tagged = |kind: u16, vlan: u16, inner: &[u8]| {
                ethernet(
                    them.mac,
                    me.mac,
                    kind,
                    &[&vlan.to_be_bytes()[..], inner].concat(),
                )
            };
            let inner = [&IPV4.to_be_bytes()[..], &lie].concat();
            let twice = [&[0x81, 0, 0, 5][..], &inner].concat();
            let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &lie].concat();
            let own = [&IPV4.to_be_bytes()[..], &datagram(me.ip, them.ip)].concat();
            vec![
                ("a VLAN", tagged(0x8100, 5, &inner)),
                ("a priority", tagged(0x8100, 0xe000, &inner)),
                ("a provider's VLAN", tagged(0x88a8, 5, &inner)),
                ("two VLANs", tagged(0x88a8, 5, &twice)),
                ("a VLAN, of its own packet", tagged(0x8100, 5, &own)),
                ("SNAP", ethernet(them.mac, me.mac, snap.len() as u16, &snap)),
                (
                    "MPLS",
                    ethernet(
                        them.mac,
                        me.mac,
                        0x8847,
                        &[&[0, 0, 0x11, 64][..], &lie].concat(),
                    ),
                ),
                (
                    "LLDP",
                    ethernet(them.mac, me.mac, 0x88cc, &[2, 7, 4, 1, 2, 3, 4, 5, 6, 0, 0]),
                ),
            ]
        })
    });
}

/// With bridge netfilter the kernel drops these by itself.
#[test]
fn headers_that_are_not_whole() {
    fn attacks(scene: &Scene) -> Vec<Attack> {
        let (me, them) = both(scene);
        let four = datagram(scene.gateway.ip, them.ip);
        let own = ipv4(me.ip, them.ip, UDP, &udp(67, 68, b"an offer"));
        let with = |at: usize, value: u8| {
            let mut packet = own.clone();
            packet[at] = value;
            ethernet(them.mac, me.mac, IPV4, &packet)
        };
        let six = message(me.link_local, ALL_NODES, 134, &advertised_router());
        let longer = {
            let mut packet = six.clone();
            packet[5] += 1;
            packet
        };
        vec![
            (
                "IPv4 of 14 bytes",
                ethernet(them.mac, me.mac, IPV4, &four[..14]),
            ),
            ("IPv4 of no bytes", ethernet(them.mac, me.mac, IPV4, &[])),
            ("IPv4 that says it is longer", with(3, 99)),
            ("IPv4 that says it has less header", with(0, 0x44)),
            ("IPv4 that says it is IPv6", with(0, 0x65)),
            (
                "IPv6 of 20 bytes",
                ethernet(them.mac, me.mac, IPV6, &six[..20]),
            ),
            (
                "IPv6 that says it is longer",
                ethernet(them.mac, me.mac, IPV6, &longer),
            ),
        ]
    }
    case(|lab| {
        sh("for call in iptables ip6tables arptables; do
                ! [ -e /proc/sys/net/bridge/bridge-nf-call-$call ] || echo 0 >/proc/sys/net/bridge/bridge-nf-call-$call
            done");
        stopped(lab, attacks);
    });
}

/// What is let through, or nothing above would say anything.
#[test]
fn ones_own_frames_arrive() {
    packets(|lab| {
        let ours = Scene::of_ours(lab);
        let (me, them) = both(&ours);
        let send = |kind, packet: &[u8]| ethernet(them.mac, me.mac, kind, packet);
        let six = |next, payload: &[u8]| send(IPV6, &ipv6(me.ip6, them.ip6, next, payload));
        let ask = |from, options: &[u8]| {
            let body = about(0, them.ip6, options);
            send(IPV6, &message(from, them.ip6, SOLICITATION, &body))
        };
        let say = |from, options: &[u8]| {
            let body = about(OVERRIDE, from, options);
            send(IPV6, &message(from, them.ip6, ADVERTISEMENT, &body))
        };
        let data = udp6((me.ip6, 1000), (them.ip6, 1000), b"mine");
        let near = udp6((me.link_local, 1000), (them.link_local, 1000), b"mine");
        let honest: Vec<Attack> = vec![
            ("a datagram", send(IPV4, &datagram(me.ip, them.ip))),
            (
                "a question",
                send(ARP, &arp(1, (me.mac, me.ip), ([0; 6], them.ip))),
            ),
            (
                "news of oneself",
                send(ARP, &arp(2, (me.mac, me.ip), (BROADCAST, me.ip))),
            ),
            ("a datagram of IPv6", six(UDP, &data)),
            (
                "behind options",
                six(DESTINATION_OPTIONS, &behind_options(UDP, &data)),
            ),
            (
                "link-local",
                send(IPV6, &ipv6(me.link_local, them.link_local, UDP, &near)),
            ),
            (
                "a ping",
                send(IPV6, &message(me.ip6, them.ip6, 128, &[0, 1, 0, 1])),
            ),
            ("a solicitation", ask(me.ip6, &link_option(1, me.mac))),
            (
                "a link-local one",
                ask(me.link_local, &link_option(1, me.mac)),
            ),
            ("one without an option", ask(me.ip6, &[])),
            ("an advertisement", say(me.ip6, &link_option(2, me.mac))),
            (
                "a link-local one",
                say(me.link_local, &link_option(2, me.mac)),
            ),
            ("one without an option", say(me.ip6, &[])),
        ];
        for (what, frame) in honest {
            assert!(ours.arrives(&frame), "{what}: stopped: {frame:02x?}");
        }
        // Whole, and in pieces.
        for to in [IpAddr::V4(them.ip), IpAddr::V6(them.ip6)] {
            let ping = format!("busybox ping -c 1 -W 5 -s 3000 {to}");
            ours.attacker.netns.sh(&ping);
        }
        ours.end();
    });
}

/// A bridge learns from frames to 01:80:c2:00:00:0e, and hands them to the host, before any rule of it is looked at.
fn reserved() -> impl Iterator<Item = Mac> {
    [0, 2, 3, 0xe, 0xf]
        .into_iter()
        .map(|last| [1, 0x80, 0xc2, 0, 0, last])
}

/// The port of the bridge behind which it believes the victim to be.
fn place_of_victim(scene: &Scene) -> String {
    let all = sh(&format!("bridge fdb show br {}", scene.bridge));
    let mac = text(scene.victim.host.mac);
    let line = all.lines().find(|line| line.starts_with(&mac));
    line.unwrap_or_else(|| panic!("{mac} is nowhere: {all}"))
        .to_owned()
}

#[test]
fn the_bridge_does_not_learn_a_lie() {
    fn moves(scene: &Scene) -> Vec<Mac> {
        let (me, them) = both(scene);
        // What the victim says by itself, of its multicast groups in the first seconds, puts it back where it is.
        (scene.victim.netns).sh("echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6");
        let moves_by = |group: &Mac| {
            // It is where it is.
            scene.both_talk();
            let before = place_of_victim(scene);
            let packet = datagram(me.ip, scene.gateway.ip);
            let wire = &scene.attacker.wire;
            wire.send(&ethernet(*group, them.mac, IPV4, &packet));
            scene.mark();
            place_of_victim(scene) != before
        };
        reserved().chain([BROADCAST]).filter(moves_by).collect()
    }
    packets(|lab| {
        let plain = moves(&Scene::plain());
        assert_eq!(plain.len(), 6, "{plain:02x?}");
        let ours = Scene::of_ours(lab);
        assert_eq!(moves(&ours), Vec::<Mac>::new());
        ours.end();
    });
}

/// A socket of the host's that hears everybody.
struct Ear(UdpSocket);

impl Ear {
    fn new() -> Self {
        // Nothing else is to be in the way.
        sh("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$file; done");
        let socket = UdpSocket::bind("[::]:1000").expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Self(socket)
    }

    /// Who was heard until the honest word came, that one not counted.
    fn heard(&self, honest: Ipv4Addr) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let mut data = [0; 64];
            let (length, from) = self.0.recv_from(&mut data).expect("the honest word");
            let is_honest = data[..length] == *b"honest";
            let from = from.ip().to_canonical();
            assert!(!is_honest || from == IpAddr::V4(honest), "{from}");
            if is_honest {
                return all;
            }
            all.push(from.to_string());
        }
    }
}

/// A datagram to the host, in the attacker's own name.
fn honest(me: Host, gateway: Host) -> Vec<u8> {
    let word = ipv4(me.ip, gateway.ip, UDP, &udp(1000, 1000, b"honest"));
    ethernet(gateway.mac, me.mac, IPV4, &word)
}

#[test]
fn the_host_is_not_deceived() {
    fn heard(scene: &Scene) -> Vec<String> {
        let (me, them) = both(scene);
        let gateway = scene.gateway;
        let ear = Ear::new();
        let wire = &scene.attacker.wire;
        for to in reserved().chain([gateway.mac]) {
            wire.send(&ethernet(to, me.mac, IPV4, &datagram(them.ip, gateway.ip)));
            wire.send(&ethernet(
                to,
                them.mac,
                IPV4,
                &datagram(them.ip, gateway.ip),
            ));
        }
        wire.send(&honest(me, gateway));
        ear.heard(me.ip)
    }
    packets(|lab| {
        let plain = heard(&Scene::plain());
        assert_eq!(plain.len(), 12, "{plain:?}");
        let ours = Scene::of_ours(lab);
        assert_eq!(heard(&ours), Vec::<String>::new());
        ours.end();
    });
}

/// A container and the host, without a bridge between them.
struct Line {
    station: Station,
    gateway: Host,
    /// The host's end.
    device: String,
    container: Option<Running>,
}

impl Line {
    fn of_ours(lab: &Lab) -> Self {
        let container = lab.start_idle(&["--name", "mallory", "--network", "ptp"]);
        let station = Station::new(Netns::of(lab.pid_of("mallory")));
        let [a, b, c, d] = station.host.ip.octets();
        let device = format!("hw{a:02x}{b:02x}{c:02x}{d:02x}");
        Self::new(station, device, Some(container))
    }

    fn plain() -> Self {
        let netns = Netns::new("mallory");
        sh("ip link add line0 type veth peer name eth0 netns mallory
            ip addr add 10.9.0.1/32 peer 10.9.0.2 dev line0
            ip addr add fd00:9::1/128 peer fd00:9::2 dev line0 nodad
            ip link set line0 up");
        netns.sh("ip addr add 10.9.0.2/32 peer 10.9.0.1 dev eth0
            ip addr add fd00:9::2/128 peer fd00:9::1 dev eth0 nodad
            ip link set eth0 up");
        Self::new(Station::new(netns), "line0".to_owned(), None)
    }

    fn new(station: Station, device: String, container: Option<Running>) -> Self {
        let gateway = Host::read(&sh(&format!("ip -j addr show dev {device}")));
        Self {
            station,
            gateway,
            device,
            container,
        }
    }

    fn end(self) {
        if let Some(container) = self.container {
            container.end().exits(0);
        }
    }

    /// Whom the host has heard when the container has sent these packets.
    fn heard(&self, packets: &[(u16, Vec<u8>)]) -> Vec<String> {
        let ear = Ear::new();
        let (me, gateway) = (self.station.host, self.gateway);
        for (kind, packet) in packets {
            let frame = ethernet(gateway.mac, me.mac, *kind, packet);
            self.station.wire.send(&frame);
        }
        self.station.wire.send(&honest(me, gateway));
        ear.heard(me.ip)
    }
}

#[test]
fn another_address_where_there_is_no_bridge() {
    fn heard(line: &Line) -> Vec<String> {
        let gateway = line.gateway;
        let mut packets = Vec::new();
        for from in [
            "10.0.0.77",
            "10.9.0.77",
            "172.19.0.3",
            "192.0.2.1",
            "198.51.100.10",
        ] {
            packets.push((
                IPV4,
                datagram(from.parse().expect("an address"), gateway.ip),
            ));
        }
        packets.push((IPV4, datagram(gateway.ip, gateway.ip)));
        for from in ["fd00:9::77", "2001:db8:1::1", "2001:db8:2::10"] {
            let from = from.parse().expect("an address");
            let data = udp6((from, 1000), (gateway.ip6, 1000), b"not mine");
            packets.push((IPV6, ipv6(from, gateway.ip6, UDP, &data)));
        }
        line.heard(&packets)
    }
    packets(|lab| {
        let plain = heard(&Line::plain());
        // The kernel itself takes no packet from outside that is from itself.
        assert_eq!(plain.len(), 8, "{plain:?}");
        let ours = Line::of_ours(lab);
        assert_eq!(heard(&ours), Vec::<String>::new());
    });
}

#[test]
fn the_words_of_a_router_where_there_is_no_bridge() {
    fn is_believed(line: &Line) -> bool {
        let (me, device) = (line.station.host, &line.device);
        // As somebody may have set it.
        sh(&format!(
            "echo 2 >/proc/sys/net/ipv6/conf/{device}/accept_ra"
        ));
        let router = icmp6(me.link_local, ALL_NODES, 134, &advertised_router());
        let plain = ipv6(me.link_local, ALL_NODES, ICMP6, &router);
        let behind = behind_options(ICMP6, &router);
        let behind = ipv6(me.link_local, ALL_NODES, DESTINATION_OPTIONS, &behind);
        line.heard(&[(IPV6, plain), (IPV6, behind)]);
        let routes = sh(&format!("ip -6 route show default dev {device}"));
        !routes.is_empty()
    }
    packets(|lab| {
        assert!(is_believed(&Line::plain()), "no attack at all");
        let ours = Line::of_ours(lab);
        assert!(!is_believed(&ours), "the host has a route by its container");
    });
}

/// From a link-local address, one's own or, without a bridge, any: what `--egress` forbids is not reached by it either.
#[test]
fn limits_hold_for_link_local_addresses() {
    packets(|lab| {
        let fake = "fe80::66".parse().expect("an address");
        for (network, egress, hears) in [
            ("bridge", "all", 1),
            ("bridge", "0.0.0.0/0", 0),
            ("ptp", "all", 2),
            ("ptp", "0.0.0.0/0", 0),
        ] {
            let options = [
                "--name",
                "mallory",
                "--network",
                network,
                "--egress",
                egress,
            ];
            let container = lab.start_idle(&options);
            let station = Station::new(Netns::of(lab.pid_of("mallory")));
            let [a, b, c, d] = station.host.ip.octets();
            let device = match network {
                "ptp" => format!("hw{a:02x}{b:02x}{c:02x}{d:02x}"),
                _ => "hawser0".to_owned(),
            };
            // The kernel takes a second to find that nobody else has its address there.
            let is_tentative = || sh(&format!("ip addr show dev {device}")).contains("tentative");
            assert!(Watch::new().until(|| !is_tentative()));
            let line = Line::new(station, device, Some(container));
            let (me, gateway) = (line.station.host, line.gateway);
            let mut frames = Vec::new();
            for from in [me.link_local, fake] {
                for to in [gateway.link_local, gateway.ip6] {
                    let data = udp6((from, 1000), (to, 1000), b"around");
                    frames.push((IPV6, ipv6(from, to, UDP, &data)));
                }
            }
            let heard = line.heard(&frames);
            // Never by a link-local address to another kind.
            assert_eq!(heard.len(), hears, "{network} {egress}: {heard:?}");
            line.end();
        }
    });
}

/// By way of the host, from a link-local address or to one: `--isolate` holds on both sides.
#[test]
fn the_isolated_stay_apart_by_link_local_addresses() {
    packets(|lab| {
        let isolated: &[&str] = &["--isolate"];
        for (attacker, victim, hears) in [
            (&[][..], &[][..], 3),
            (isolated, &[], 0),
            (&[], isolated, 0),
        ] {
            let start = |name: &str, options: &[&str]| {
                let container = lab.start_idle(&[&["--name", name][..], options].concat());
                (container, Station::new(Netns::of(lab.pid_of(name))))
            };
            let (first, mallory) = start("mallory", attacker);
            let (second, other) = start("victim", victim);
            let (me, them) = (mallory.host, other.host);
            let gateway = Host::read(&sh("ip -j addr show dev hawser0"));
            // Nothing waits until the host has found it.
            for address in [them.ip6, them.link_local] {
                sh(&format!(
                    "ip neigh replace {address} lladdr {} dev hawser0",
                    text(them.mac)
                ));
            }
            for (from, to) in [
                (me.link_local, them.ip6),
                (me.link_local, them.link_local),
                (me.ip6, them.link_local),
            ] {
                let data = udp6((from, 1000), (to, 1000), b"around");
                let packet = ipv6(from, to, UDP, &data);
                mallory
                    .wire
                    .send(&ethernet(gateway.mac, me.mac, IPV6, &packet));
            }
            let host = UdpSocket::bind("172.19.0.1:0").expect("a socket");
            host.send_to(b"that was all", (them.ip, 9)).expect("send");
            let heard = other.wire.until(|frame| frame.ends_with(b"that was all"));
            // It answers some with an error, which ends like the datagram.
            let is_one = |frame: &&Vec<u8>| frame[20] == UDP && frame.ends_with(b"around");
            assert_eq!(
                heard.iter().filter(is_one).count(),
                hears,
                "{attacker:?} {victim:?}"
            );
            for container in [first, second] {
                container.end().exits(0);
            }
        }
    });
}

/// The host reaches this address by way of the bridge.
#[track_caller]
fn host_reaches(address: &str) {
    let ping = sh(&format!("busybox ping -c 1 -W 5 {address}"));
    assert!(ping.contains("1 packets received"), "{ping}");
}

const ADMIN: [&str; 6] = [
    "--name",
    "mallory",
    "--cap-add",
    "net_admin",
    "--ip",
    "172.19.0.2",
];

/// The host has asked by ping(8) who is there, which the kernel remembers.
#[track_caller]
fn assert_back_but_for_pings(before: &Snapshot) {
    let mut changes = before.changes();
    changes.retain(|change| !change.starts_with("connections: icmp "));
    assert!(changes.is_empty(), "not as before: {changes:#?}");
}

/// Who deletes its own eth0 gives its address to whoever comes next, and its end takes nothing from them.
#[test]
fn who_deletes_its_eth0_harms_nobody() {
    packets(|lab| {
        let before = lab.with_network();
        let script = "ip link del eth0; echo up; read x";
        let published = [&ADMIN[..], &["-p", "8080:80"]].concat();
        let mut mallory = lab.start(&published, &["sh", "-c", script]);
        mallory.until("up");
        let next = lab.start_idle(&["--name", "next", "--ip", "172.19.0.2"]);
        host_reaches("172.19.0.2");
        // What it had is not shown any more.
        assert_eq!(lab.listed("next")["address"], "172.19.0.2");
        let shown = lab.hawser(&["inspect", "mallory"]).ok();
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        for one in [lab.listed("mallory"), shown] {
            for key in ["address", "address6", "veth"] {
                assert!(one[key].is_null(), "{key}: {one}");
            }
            assert_eq!(one["ports"], serde_json::json!([]));
        }
        assert_eq!(lab.hawser(&["port", "ls", "mallory"]).ok(), "");
        // It puts back what is its own, and this is not any more; nor can it be added to.
        sh("nft flush ruleset");
        lab.hawser(&["restore"]).exits(0);
        host_reaches("172.19.0.2");
        lab.hawser(&["port", "add", "mallory", "8081:80"])
            .refused(&["has deleted its link"]);
        let ports = sh("nft list map inet hawser ports4; nft list set inet hawser open4");
        assert!(!ports.contains("elements"), "{ports}");
        lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
        mallory.end().exits(143);
        host_reaches("172.19.0.2");
        let of_next = sh("nft list map inet hawser tenants; nft list set bridge hawser sources4");
        assert!(of_next.contains("172.19.0.2"), "{of_next}");
        let neighbours = sh("ip neigh show nud permanent dev hawser0");
        assert!(neighbours.contains("172.19.0.2 "), "{neighbours}");
        next.end().exits(0);
        let left = sh("nft list set bridge hawser sources4");
        assert!(!left.contains("elements"), "{left}");
        assert_back_but_for_pings(&before);
    });
}

/// A socket that has connected to an address, which tells it when nobody listens there.
fn asking(address: &str) -> UdpSocket {
    let any = if address.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket.connect(address).expect("connect");
    socket
}

fn answering(netns: &Netns) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind("[::]:53").expect("port 53"));
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

fn answer_once(server: &UdpSocket, client: &UdpSocket) {
    client.send(b"asked").expect("send");
    let mut text = [0; 8];
    let (_, from) = server.recv_from(&mut text).expect("a question");
    server.send_to(b"answered", from).expect("send");
    client.recv(&mut text).expect("an answer");
}

/// By TCP and UDP, from the host's loopback and from the LAN, also by UDP that was answered before.
#[test]
fn who_deletes_its_eth0_leads_nobody_to_the_next() {
    packets(|lab| {
        let published = ["-p", "8080:80", "-p", "5353:53/udp"];
        for (address, is_near) in [
            ("127.0.0.1", true),
            ("[::1]", true),
            ("192.0.2.2", false),
            ("[2001:db8:1::2]", false),
        ] {
            let there = |port: u16| format!("{address}:{port}");
            let ask = || match is_near {
                true => asking(&there(5353)),
                false => lab.internet.enter(|| asking(&there(5353))),
            };
            let connect = || match is_near {
                true => TcpStream::connect(there(8080)),
                false => lab.internet.enter(|| TcpStream::connect(there(8080))),
            };
            for how in ["tcp", "udp", "udp, as before"] {
                let mallory = lab.start_idle(&[&ADMIN[..], &published].concat());
                let inside = Netns::of(lab.pid_of("mallory"));
                let before = ask();
                answer_once(&answering(&inside), &before);
                inside.sh("ip link del eth0");
                let next = lab.start_idle(&["--name", "next", "--ip", "172.19.0.2"]);
                let of_next = Netns::of(lab.pid_of("next"));
                let listener = of_next.enter(|| TcpListener::bind("[::]:80").expect("port 80"));
                let server = answering(&of_next);
                listener.set_nonblocking(true).expect("do not wait");
                server.set_nonblocking(true).expect("do not wait");
                let reached = || {
                    assert!(listener.accept().is_err(), "{address}: {how}");
                    assert!(server.recv(&mut [0; 8]).is_err(), "{address}: {how}");
                };
                if how == "tcp" {
                    let client = connect();
                    let end = client.and_then(|mut client| {
                        client.set_read_timeout(Some(DEADLINE))?;
                        client.read(&mut [0])
                    });
                    let error = end.expect_err("nobody is there");
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "{address}");
                    reached();
                }
                let client = if how == "udp" { ask() } else { before };
                wait_untold("refused", || {
                    let is_refused = client.send(b"question").is_err();
                    reached();
                    is_refused
                });
                mallory.end().exits(0);
                next.end().exits(0);
            }
        }
    });
}

#[test]
fn what_one_has_opened_that_deletes_its_eth0_does_not_lead_to_the_next() {
    packets(|lab| {
        leads_to_nobody(lab, |mallory| {
            Netns::of(lab.pid_of("mallory")).sh("ip link del eth0");
            Some(mallory)
        });
    });
}

#[test]
fn what_one_has_opened_that_ends_does_not_lead_to_who_asks_for_its_address() {
    packets(|lab| {
        leads_to_nobody(lab, |mallory| {
            mallory.end().exits(0);
            None
        });
    });
}

/// A server that it has asked answers it by a port that it had, for as long as the server likes.
fn leads_to_nobody(lab: &Lab, leave: impl Fn(Running) -> Option<Running>) {
    for (server, any) in [
        ("192.0.2.1:9", "0.0.0.0:53"),
        ("[2001:db8:1::1]:9", "[::]:53"),
    ] {
        let bind = |netns: &Netns, address: &str| {
            let socket = netns.enter(|| UdpSocket::bind(address).expect("a port"));
            socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            socket
        };
        let server = bind(&lab.internet, server);
        let mallory = lab.start_idle(&ADMIN);
        let asking = bind(&Netns::of(lab.pid_of("mallory")), any);
        let there = server.local_addr().expect("its address");
        asking.send_to(b"asked", there).expect("send");
        let (_, seen) = server.recv_from(&mut [0; 8]).expect("a question");
        server.connect(seen).expect("connect");
        server.send(b"answered").expect("send");
        asking.recv(&mut [0; 8]).expect("an answer");
        drop(asking);
        let mallory = leave(mallory);
        let next = lab.start_idle(&["--name", "next", "--ip", "172.19.0.2"]);
        let of_next = bind(&Netns::of(lab.pid_of("next")), any);
        of_next.set_nonblocking(true).expect("do not wait");
        wait_untold("refused", || {
            let is_refused = server.send(b"hole").is_err();
            assert!(of_next.recv(&mut [0; 8]).is_err(), "{there} reaches it");
            is_refused
        });
        if let Some(mallory) = mallory {
            mallory.end().exits(0);
        }
        next.end().exits(0);
    }
}

#[test]
fn who_changes_its_eth0_has_no_network() {
    packets(|lab| {
        let before = lab.with_network();
        let victim = lab.start_idle(&["--name", "victim", "--ip", "172.19.0.3"]);
        for change in [
            "ip link set eth0 name lan0 && ip link set lan0 up && dev=lan0",
            "dev=eth0",
        ] {
            let script = format!(
                "ip link set eth0 down; {change}; ip addr flush dev $dev
                ip link set $dev address 02:00:ac:13:00:03 up
                ip addr add 172.19.0.3/16 dev $dev
                ping -c 1 -W 1 172.19.0.1 >/dev/null && echo deceived
                echo up; read x"
            );
            let mut mallory = lab.start(&ADMIN, &["sh", "-c", &script]);
            let said = mallory.until("up");
            assert!(!said.contains("deceived"), "{change}: {said}");
            host_reaches("172.19.0.3");
            // Its place is still its own.
            lab.run(&["--ip", "172.19.0.2"], &["true"])
                .refused(&["172.19.0.2", "mallory"]);
            lab.hawser(&["stop", "--grace", "1", "mallory"]).exits(0);
            mallory.end().exits(143);
        }
        victim.end().exits(0);
        assert_back_but_for_pings(&before);
    });
}
