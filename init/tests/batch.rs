//! init's requests as an independent decoder reads them, and what it makes of the kernel's answers.

use std::net::{IpAddr, Ipv4Addr};

use hawser::netlink::{Messages, Writer};
use hawser::protocol::Message;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const REPLACE: u16 = libc::NLM_F_REPLACE as u16;

fn index_of(name: &[u8]) -> u32 {
    if name == b"eth0" { 7 } else { 8 }
}

fn batch_of(text: &str) -> Vec<u8> {
    let message = Message::parse(text.as_bytes()).expect("a message");
    let mut space = vec![0; 192 * 1024];
    hawser::batch::write(&message, index_of, &mut space)
        .expect("space")
        .to_vec()
}

/// Each request with its sequence number and flags.
fn decode(batch: &[u8]) -> Vec<(u32, u16, RouteNetlinkMessage)> {
    let mut decoded = Vec::new();
    let mut rest = batch;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).expect("a message");
        let len = message.header.length as usize;
        assert_eq!(len % 4, 0, "each request is a multiple of four bytes here");
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            panic!("{message:?}")
        };
        decoded.push((message.header.sequence_number, message.header.flags, inner));
        rest = &rest[len..];
    }
    decoded
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn lo_alone() {
    let decoded = decode(&batch_of("hawser 1\nend\n"));
    let [(1, flags, RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::SetLink(link))] =
        &decoded[..]
    else {
        panic!("{decoded:?}")
    };
    assert_eq!(*flags, REQUEST | ACK);
    assert_eq!(link.header.index, 1);
    assert_eq!(
        (link.header.flags, link.header.change_mask),
        (LinkFlags::Up, LinkFlags::Up)
    );
    assert!(link.attributes.is_empty());
}

#[test]
fn everything_in_its_order_with_one_acknowledgement_at_the_end() {
    let decoded = decode(&batch_of(
        "hawser 1\n\
         link eth0 mtu 1400\n\
         route 10.0.0.1/32 onlink\n\
         route default via 10.0.0.1\n\
         neighbour 10.0.0.1 02:00:0a:00:00:01\n\
         address 10.0.0.2/32\n\
         address 2001:db8::2/64\n\
         link eth1\n\
         route 2001:db8:1::/48 via 2001:db8::1\n\
         address 192.0.2.1/24\n\
         end\n",
    ));
    let order: Vec<(u32, &str)> = decoded
        .iter()
        .map(|(line, _, message)| {
            let kind = match message {
                RouteNetlinkMessage::NewLink(_) => "link",
                RouteNetlinkMessage::NewAddress(_) => "address",
                RouteNetlinkMessage::NewRoute(_) => "route",
                RouteNetlinkMessage::NewNeighbour(_) => "neighbour",
                other => panic!("{other:?}"),
            };
            (*line, kind)
        })
        .collect();
    let expected = [
        (1, "link"),
        (6, "address"),
        (7, "address"),
        (10, "address"),
        (2, "link"),
        (8, "link"),
        (3, "route"),
        (4, "route"),
        (5, "neighbour"),
        // By which packets to the IPv6 address are taken in at once.
        (7, "route"),
        (9, "route"),
    ];
    assert_eq!(order, expected);
    for (index, (_, flags, message)) in decoded.iter().enumerate() {
        assert_eq!(flags & ACK != 0, index + 1 == decoded.len());
        let new = match message {
            RouteNetlinkMessage::NewLink(_) => 0,
            _ => CREATE | REPLACE,
        };
        assert_eq!(flags & !ACK, REQUEST | new);
    }
}

#[test]
fn a_link_goes_up_together_with_its_mtu() {
    let decoded = decode(&batch_of("hawser 1\nlink eth0 mtu 1400\nend\n"));
    let RouteNetlinkMessage::NewLink(link) = &decoded[1].2 else {
        panic!("{decoded:?}")
    };
    assert_eq!(link.header.index, 7);
    assert_eq!(
        (link.header.flags, link.header.change_mask),
        (LinkFlags::Up, LinkFlags::Up)
    );
    assert_eq!(link.attributes, [LinkAttribute::Mtu(1400)]);
}

fn only_address(text: &str) -> AddressMessage {
    let decoded = decode(&batch_of(text));
    let RouteNetlinkMessage::NewAddress(message) = &decoded[1].2 else {
        panic!("{decoded:?}")
    };
    message.clone()
}

#[test]
fn addresses() {
    let v4 = only_address("hawser 1\nlink eth0\naddress 172.19.0.2/16\nend\n");
    assert_eq!(
        (v4.header.family, v4.header.prefix_len, v4.header.index),
        (AddressFamily::Inet, 16, 7)
    );
    assert_eq!(
        v4.attributes,
        [AddressAttribute::Local(address("172.19.0.2"))]
    );
    let v6 = only_address("hawser 1\nlink eth0\naddress 2001:db8::2/64\nend\n");
    assert_eq!(
        (v6.header.family, v6.header.prefix_len, v6.header.index),
        (AddressFamily::Inet6, 64, 7)
    );
    let expected = [
        AddressAttribute::Address(address("2001:db8::2")),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    assert_eq!(v6.attributes, expected);
}

#[test]
fn packets_to_an_ipv6_address_are_taken_in_at_once() {
    let decoded = decode(&batch_of(
        "hawser 1\nlink eth0\naddress 2001:db8::2/64\nend\n",
    ));
    let Some((3, _, RouteNetlinkMessage::NewRoute(route))) = decoded.last() else {
        panic!("{decoded:?}")
    };
    let header = &route.header;
    assert_eq!(
        (header.table, header.kind, header.destination_prefix_length),
        (libc::RT_TABLE_LOCAL, RouteType::Local, 128)
    );
    assert!(route.attributes.contains(&RouteAttribute::Oif(7)));
}

#[test]
fn routes_and_neighbours() {
    let decoded = decode(&batch_of(
        "hawser 1\nlink eth0\n\
         route 10.0.0.1/32 onlink\n\
         route default via 10.0.0.1\n\
         neighbour 10.0.0.1 02:00:0a:00:00:01\n\
         route 2001:db8::/32 via fe80::1\nend\n",
    ));
    let [_, _, onlink, default, neighbour, v6] = &decoded[..] else {
        panic!("{decoded:?}")
    };
    let RouteNetlinkMessage::NewRoute(onlink) = &onlink.2 else {
        panic!("{onlink:?}")
    };
    assert_eq!(onlink.header.scope, RouteScope::Link);
    assert_eq!(
        (onlink.header.destination_prefix_length, onlink.header.kind),
        (32, RouteType::Unicast)
    );
    assert_eq!(onlink.header.table, libc::RT_TABLE_MAIN);
    let destination = RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(onlink.attributes, [destination, RouteAttribute::Oif(7)]);

    let RouteNetlinkMessage::NewRoute(default) = &default.2 else {
        panic!("{default:?}")
    };
    assert_eq!(
        (
            default.header.scope,
            default.header.destination_prefix_length
        ),
        (RouteScope::Universe, 0)
    );
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(default.attributes, [gateway, RouteAttribute::Oif(7)]);

    let RouteNetlinkMessage::NewNeighbour(neighbour) = &neighbour.2 else {
        panic!("{neighbour:?}")
    };
    assert_eq!(
        (neighbour.header.ifindex, neighbour.header.state),
        (7, NeighbourState::Permanent)
    );
    let expected = [
        NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(10, 0, 0, 1))),
        NeighbourAttribute::LinkLayerAddress(vec![2, 0, 10, 0, 0, 1]),
    ];
    assert_eq!(neighbour.attributes, expected);

    let RouteNetlinkMessage::NewRoute(v6) = &v6.2 else {
        panic!("{v6:?}")
    };
    assert_eq!(
        (
            v6.header.address_family,
            v6.header.destination_prefix_length
        ),
        (AddressFamily::Inet6, 32)
    );
}

#[test]
fn the_longest_message_fits_the_space_that_init_has() {
    for line in [
        "route ::/0 onlink\n",
        "address ::1/0\n",
        "neighbour ::1 00:00:00:00:00:00\n",
    ] {
        let count = (hawser::protocol::LIMIT - 24) / line.len();
        let text = format!("hawser 1\nlink eth0\n{}end\n", line.repeat(count));
        assert!(batch_of(&text).len() > 30 * 1024, "{line}");
    }
}

#[test]
fn a_space_that_is_too_small_is_noticed() {
    let message =
        Message::parse(b"hawser 1\nlink eth0\naddress 10.0.0.1/8\nend\n").expect("a message");
    let whole = batch_of("hawser 1\nlink eth0\naddress 10.0.0.1/8\nend\n").len();
    for len in 0..whole {
        assert!(hawser::batch::write(&message, index_of, &mut vec![0; len]).is_none());
    }
    assert!(hawser::batch::write(&message, index_of, &mut vec![0; whole]).is_some());
}

/// What the kernel sends, with NETLINK_CAP_ACK: the errno, the request's header, the sentence.
fn answer(line: u32, errno: i32, sentence: &str) -> Vec<u8> {
    let mut payload = (-errno).to_ne_bytes().to_vec();
    payload.extend([0; 16]);
    let mut space = vec![0; 256];
    let mut writer = Writer::new(&mut space);
    let flags = (libc::NLM_F_CAPPED | libc::NLM_F_ACK_TLVS) as u16;
    writer.begin(libc::NLMSG_ERROR as u16, flags, line, &payload);
    writer.string(1, sentence);
    writer.end();
    writer.finish().expect("space").to_vec()
}

#[test]
fn answers_are_read() {
    let bytes = [
        answer(4, libc::ENETUNREACH, "Nexthop has invalid gateway"),
        answer(9, 0, ""),
    ]
    .concat();
    let answers: Vec<_> = Messages::new(&bytes).collect();
    let outcome = answers[0].outcome().expect("an outcome");
    assert_eq!((answers[0].sequence, outcome.errno), (4, libc::ENETUNREACH));
    assert_eq!(outcome.text, b"Nexthop has invalid gateway");
    assert!(hawser::batch::is_refusal(outcome.errno));
    assert_eq!(answers[1].outcome().expect("an outcome").errno, 0);
    assert!(!hawser::batch::is_refusal(0));
    // An address that is there already and equal.
    assert!(!hawser::batch::is_refusal(libc::EEXIST));
}
