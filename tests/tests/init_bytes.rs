//! init's netlink bytes, as strace sees them leave, decoded by netlink-packet-route.

use std::net::{IpAddr, Ipv4Addr};

use lab::{DEADLINE, Lab, Netns, case, collect, init_binary, sh, strace};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteScope};

const CONFIG: &str = "hawser 1\nlink eth0 mtu 1400\naddress 172.19.0.9/16\nneighbour 172.19.0.1 02:00:ac:13:00:01\n\
    route 10.0.0.1/32 onlink\nroute 10.9.0.0/16 via 172.19.0.1\nroute default via 172.19.0.1\naddress 2001:db8::9/64\nend\n";

struct Sent {
    datagrams: Vec<Vec<u8>>,
    box_: Netns,
}

/// Runs init with `config` in a namespace with an eth0 and gives each datagram that it sent to the kernel.
fn sent(lab: &Lab, config: &str) -> Sent {
    let box_ = Netns::new("box");
    sh(
        "ip link add hwtest type veth peer name eth0 netns box; ip link set hwtest up; ip -n box link set lo down",
    );
    let file = lab.dir.join("config");
    std::fs::write(&file, config).expect("write the config");
    let trace = lab.dir.join("trace");
    let mut plain = std::process::Command::new(init_binary());
    plain
        .arg("--config")
        .arg(&file)
        .args(["--", "/bin/busybox", "true"]);
    let options = [
        "-yy",
        "-e",
        "trace=sendto,sendmsg,sendmmsg,write,writev",
        "-e",
        "write=3,4,5,6,7,8,9",
    ];
    let mut command = strace::traced(&plain, &options, &trace.to_string_lossy());
    lab::sys::in_netns(&mut command, box_.descriptor());
    collect(command, DEADLINE).ok();
    let datagrams = strace::dumps(
        &std::fs::read_to_string(&trace).expect("the trace"),
        "NETLINK",
    );
    Sent { datagrams, box_ }
}

fn decode(mut bytes: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut messages = vec![];
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).expect("a netlink message");
        let length = usize::try_from(message.header.length)
            .expect("a length")
            .next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
        messages.push(message);
    }
    messages
}

fn batch(sent: &Sent) -> Vec<(RouteNetlinkMessage, u16)> {
    let last = sent.datagrams.last().expect("init sent something");
    let inner = |message: NetlinkMessage<RouteNetlinkMessage>| match message.payload {
        NetlinkPayload::InnerMessage(inner) => (inner, message.header.flags),
        other => panic!("no rtnetlink message: {other:?}"),
    };
    decode(last).into_iter().map(inner).collect()
}

#[test]
fn all_of_it_is_one_batch_with_one_acknowledgement() {
    case(|lab| {
        let sent = sent(lab, CONFIG);
        let changes = sent.datagrams.iter().filter(|datagram| {
            decode(datagram).iter().any(|message| {
                !matches!(
                    message.payload,
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetLink(_))
                )
            })
        });
        assert_eq!(changes.count(), 1, "one datagram changes something");
        let batch = batch(&sent);
        let asking = batch
            .iter()
            .filter(|(_, flags)| flags & NLM_F_ACK != 0)
            .count();
        assert_eq!(asking, 1, "one acknowledgement is asked for");
        assert!(
            batch
                .last()
                .is_some_and(|(_, flags)| flags & NLM_F_ACK != 0),
            "for the last message"
        );
        let mut sequence: Vec<u32> = sent
            .datagrams
            .iter()
            .flat_map(|one| decode(one))
            .map(|one| one.header.sequence_number)
            .collect();
        let count = sequence.len();
        sequence.dedup();
        assert_eq!(
            sequence.len(),
            count,
            "each message has a sequence number of its own"
        );
    });
}

#[test]
fn links_addresses_neighbours_and_routes_say_what_the_config_says() {
    case(|lab| {
        let sent = sent(lab, CONFIG);
        let messages: Vec<_> = batch(&sent)
            .into_iter()
            .map(|(message, _)| message)
            .collect();
        let lo_up = messages.iter().any(|message| {
            matches!(message,
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::SetLink(link)
                if link.header.index == 1 && link.header.flags.contains(LinkFlags::Up))
        });
        assert!(lo_up, "lo up: {messages:?}");
        let eth0_up = messages.iter().any(|message| {
            matches!(message,
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::SetLink(link)
                if link.header.index != 1 && link.header.flags.contains(LinkFlags::Up))
        });
        assert!(eth0_up, "eth0 up: {messages:?}");
        let mtu = messages.iter().any(|message| {
            matches!(message,
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::SetLink(link)
                if link.attributes.contains(&LinkAttribute::Mtu(1400)))
        });
        assert!(mtu, "mtu 1400: {messages:?}");
        for (address, length) in [("172.19.0.9", 16), ("2001:db8::9", 64)] {
            let wanted: IpAddr = address.parse().expect("an address");
            let found = messages.iter().any(|message| matches!(message,
                RouteNetlinkMessage::NewAddress(one) if one.header.prefix_len == length
                    && one.attributes.iter().any(|attribute| matches!(attribute, AddressAttribute::Local(a) | AddressAttribute::Address(a) if *a == wanted))));
            assert!(found, "{address}/{length}: {messages:?}");
        }
        neighbour(&messages);
        routes(&messages);
    });
}

fn neighbour(messages: &[RouteNetlinkMessage]) {
    let gateway = Ipv4Addr::new(172, 19, 0, 1);
    let found = messages.iter().any(|message| matches!(message,
        RouteNetlinkMessage::NewNeighbour(one) if one.header.state == NeighbourState::Permanent
            && one.attributes.contains(&NeighbourAttribute::Destination(NeighbourAddress::Inet(gateway)))
            && one.attributes.contains(&NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0xac, 0x13, 0, 1]))));
    assert!(found, "a permanent neighbour: {messages:?}");
}

fn routes(messages: &[RouteNetlinkMessage]) {
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(172, 19, 0, 1)));
    let mut found = (false, false, false);
    for message in messages {
        let RouteNetlinkMessage::NewRoute(route) = message else {
            continue;
        };
        let to = |address| {
            route
                .attributes
                .contains(&RouteAttribute::Destination(RouteAddress::Inet(address)))
        };
        let by_gateway = route.attributes.contains(&gateway);
        found.0 |= route.header.destination_prefix_length == 0 && by_gateway;
        found.1 |= route.header.destination_prefix_length == 16
            && to(Ipv4Addr::new(10, 9, 0, 0))
            && by_gateway;
        found.2 |= route.header.destination_prefix_length == 32
            && to(Ipv4Addr::new(10, 0, 0, 1))
            && !by_gateway
            && route.header.scope == RouteScope::Link;
    }
    assert_eq!(
        found,
        (true, true, true),
        "default, by gateway, on-link: {messages:?}"
    );
}

#[test]
fn the_kernel_has_it_afterwards() {
    case(|lab| {
        let sent = sent(lab, CONFIG);
        let shown = sh("ip -n box -o addr; ip -n box route; ip -n box -o link; ip -n box neigh");
        for word in [
            "172.19.0.9/16",
            "2001:db8::9/64",
            "default via 172.19.0.1 dev eth0",
            "10.0.0.1 dev eth0 scope link",
            "10.9.0.0/16 via 172.19.0.1",
            "mtu 1400",
            "02:00:ac:13:00:01 PERMANENT",
            "127.0.0.1/8",
        ] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        let waiting = shown
            .lines()
            .find(|line| line.contains("2001:db8::9") && line.contains("tentative"));
        assert_eq!(waiting, None, "it does not wait for duplicate detection");
        let creating = batch(&sent)
            .iter()
            .filter(|(_, flags)| flags & NLM_F_CREATE != 0)
            .count();
        assert!(
            creating >= 5,
            "addresses, neighbour and routes are created: {creating}"
        );
        drop(sent.box_);
    });
}
