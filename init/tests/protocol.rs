//! The config message: what docs/protocol.md allows is read and written back, what it forbids is refused, and the fault
//! says where. (What holds for any bytes is in properties.)

use hawser::capability::Capability;
use hawser::protocol::{Kind, LIMIT, Message};

fn fault_of(text: &str) -> String {
    match Message::parse(text.as_bytes()) {
        Ok(_) => panic!("accepted: {text:?}"),
        Err(fault) => fault.to_string(),
    }
}

fn wrapped(lines: &str) -> String {
    format!("hawser 1\n{lines}\nend\n")
}

/// The message that the manual shows.
fn example() -> String {
    let manual = include_str!("../../docs/protocol.md");
    let start = manual
        .find("```\nhawser 1\n")
        .expect("an example in the manual")
        + 4;
    let len = manual[start..].find("```").expect("its end");
    manual[start..start + len].to_string()
}

#[test]
fn the_example_of_the_manual_is_read_and_written_back() {
    let text = example();
    let message = Message::parse(text.as_bytes()).expect("the manual's example");
    assert_eq!(message.len(), text.len());
    let written: Vec<String> = message
        .facts()
        .map(|entry| entry.fact.to_string())
        .collect();
    let expected: Vec<&str> = text
        .lines()
        .filter(|line| *line != "hawser 1" && *line != "end")
        .collect();
    assert_eq!(written, expected);
    let lines: Vec<usize> = message.facts().map(|entry| entry.line).collect();
    assert_eq!(lines, (2..=text.lines().count() - 1).collect::<Vec<_>>());
}

#[test]
fn every_form_of_every_line_is_accepted() {
    for line in [
        "link eth0",
        "link a-b.c_1@x mtu 68",
        "link eth0 mtu 65536",
        "no-links",
        "link eth0\naddress 127.0.0.2/8",
        "link eth0\naddress 10.0.0.2/32",
        "link eth0\naddress fe80::1/64",
        "link eth0\nneighbour 2001:db8::1 02:00:AC:13:00:01",
        "link eth0\nroute default via fe80::1",
        "link eth0\nroute 0.0.0.0/0 via 10.0.0.1",
        "link eth0\nroute 10.0.0.0/8 via 192.0.2.1",
        "link eth0\nroute 10.0.0.1/32 onlink",
        "link eth0\nroute 2001:db8::/32 onlink",
        "nameserver ::1",
        "search a.example b.example",
        "option ndots:1 edns0\noption rotate",
        "host ::1 localhost ip6-localhost",
        "host 0.0.0.0 tracker.example",
        "hostname box",
        "user 0:0",
        "user 4294967294:4294967294",
        "groups 0",
        "groups 27,44,4294967294",
        "workdir /",
        "workdir /srv/with a space/\u{fc}ber",
        "capability net_raw\ncapability sys_admin\nambient net_bind_service",
        "capability none",
        "capability 0x1ffffffffff\ncapability chown\nambient chown",
        "capability 0x0",
        "no-new-privileges",
        "\t link \t eth0 \t",
        "",
        "   ",
        "# anything, even \u{fc} and `end`",
        "  #x",
    ] {
        if let Err(fault) = Message::parse(wrapped(line).as_bytes()) {
            panic!("{line:?}: {fault}");
        }
    }
}

const FORBIDDEN: &[&str] = &[
    "unknown",
    "Link eth0",
    "link",
    "link 0123456789abcdef",
    "link a/b",
    "link a:b",
    "link .",
    "link ..",
    "link eth0 mtu",
    "link eth0 mtu 67",
    "link eth0 mtu 65537",
    "link eth0 mtu 1500 up",
    "link eth0 up",
    "link \u{fc}",
    "no-links now",
    "no-links\nlink eth0",
    "link eth0\nno-links",
    "no-links\nno-links",
    "address 10.0.0.1/8",
    "neighbour 10.0.0.1 02:00:00:00:00:01",
    "route default via 10.0.0.1",
    "link eth0\naddress 10.0.0.1",
    "link eth0\naddress 10.0.0.1/33",
    "link eth0\naddress 10.0.0.1/",
    "link eth0\naddress 10.0.0.1/08",
    "link eth0\naddress 10.0.0/8",
    "link eth0\naddress 0.0.0.0/0",
    "link eth0\naddress ::/0",
    "link eth0\naddress 224.0.0.1/4",
    "link eth0\naddress ff02::1/64",
    "link eth0\naddress 255.255.255.255/32",
    "link eth0\naddress fe80::1%eth0/64",
    "link eth0\nneighbour 10.0.0.1 02:00:00:00:00",
    "link eth0\nneighbour 10.0.0.1 02:00:00:00:00:01:02",
    "link eth0\nneighbour 10.0.0.1 02-00-00-00-00-01",
    "link eth0\nneighbour 10.0.0.1 02:00:00:00:00:0g",
    "link eth0\nroute default",
    "link eth0\nroute default onlink",
    "link eth0\nroute default via",
    "link eth0\nroute default via 10.0.0.1/8",
    "link eth0\nroute 10.0.0.1/8 via 10.0.0.1",
    "link eth0\nroute 10.0.0.0/8 via ::1",
    "link eth0\nroute 10.0.0.0/8 by 10.0.0.1",
    "link eth0\nroute 10.0.0.0/8 onlink 10.0.0.1",
    "nameserver",
    "nameserver example.org",
    "nameserver 1.2.3.4 5.6.7.8",
    "search",
    "search a\nsearch b",
    "search a;b",
    "search #a",
    "option",
    "host 10.0.0.1",
    "host web 10.0.0.1",
    "host 10.0.0.1 \u{fc}",
    "hostname",
    "hostname a b",
    "hostname a\nhostname a",
    "user 1000",
    "user root:root",
    "user -1:0",
    "user 4294967295:0",
    "user 0:4294967295",
    "user 0:0:0",
    "user 00:0",
    "user 1:1\nuser 1:1",
    "groups",
    "groups 1,",
    "groups ,1",
    "groups 1, 2",
    "groups 4294967295",
    "groups 1\ngroups 2",
    "workdir",
    "workdir srv",
    "workdir /a\nworkdir /b",
    "capability",
    "capability CAP_NET_RAW",
    "capability net_raw net_admin",
    "capability 0x",
    "capability 0x12g",
    "capability 0X12",
    "capability 0x11112222333344445",
    "capability 0x0\ncapability 0x1",
    "capability none\ncapability net_raw",
    "capability net_raw\ncapability none",
    "capability none\nambient net_raw",
    "ambient none",
    "ambient 0x1",
    "no-new-privileges yes",
    "no-new-privileges\nno-new-privileges",
    "link eth0\r",
    "workdir /a\u{7f}",
    "# a bell \u{7}",
    "hawser 1",
    "end of it",
];

#[test]
fn what_is_forbidden_is_refused() {
    for line in FORBIDDEN {
        fault_of(&wrapped(line));
    }
    fault_of(&wrapped(&format!("hostname {}", "a".repeat(65))));
    fault_of(&wrapped(&format!("workdir /{}", "a".repeat(4095))));
    fault_of(&wrapped(&format!("groups {}", ["1"; 257].join(","))));
    fault_of(&wrapped("workdir /a\0b"));
}

#[test]
fn a_fault_says_which_word_of_which_line() {
    for (text, expected) in [
        ("", "line 1: the message has no whole `end` line"),
        ("hawser 1\n", "line 2: the message has no whole `end` line"),
        (
            "hawser 1\nend",
            "line 2: the message has no whole `end` line",
        ),
        (
            "hawser 1\nlink eth0\naddr",
            "line 3: the message has no whole `end` line",
        ),
        ("end\n", "line 1, word 1 `end`: not `hawser`"),
        ("\n", "line 1, word 1: `hawser` is missing"),
        (
            "hawser\n",
            "line 1, word 2: version 1, the only one there is is missing",
        ),
        (
            "hawser 2\nend\n",
            "line 1, word 2 `2`: not version 1, the only one there is",
        ),
        ("hawser 1 2\nend\n", "line 1, word 3 `2`: one word too many"),
        (
            "hawser 1\n\nfoo bar\nend\n",
            "line 3, word 1 `foo`: unknown word",
        ),
        (
            "hawser 1\naddress 10.0.0.1/8\nend\n",
            "line 2, word 1 `address`: it belongs to no link; a `link` line comes before it",
        ),
        (
            "hawser 1\nlink eth0\naddress 172.19.0.300/16\nend\n",
            "line 3, word 2 `172.19.0.300/16`: not an address of a machine, with its prefix length",
        ),
        (
            "hawser 1\nnameserver\nend\n",
            "line 2, word 2: an IPv4 or IPv6 address is missing",
        ),
        (
            "hawser 1\nhost ::1 a #b\nend\n",
            "line 2, word 4 `#b`: not a name in printable ASCII",
        ),
        (
            "hawser 1\nhostname a b\nend\n",
            "line 2, word 3 `b`: one word too many",
        ),
        (
            "hawser 1\nhost\u{1} a\nend\n",
            "line 2: a control character (a CR before the newline?)",
        ),
        (
            "hawser 1\r\nend\r\n",
            "line 1: a control character (a CR before the newline?)",
        ),
        (
            "hawser 1\nhostname a\nhostname b\nend\n",
            "line 3, word 1 `hostname`: an earlier line has said this, or the opposite",
        ),
    ] {
        assert_eq!(fault_of(text), expected, "{text:?}");
    }
}

#[test]
fn a_message_is_at_most_16_kib() {
    let filled = |len: usize| {
        let mut text = "hawser 1\n".to_string();
        while text.len() + 4 < len {
            let rest = (len - 4 - text.len()).min(1000);
            text += &format!("#{}\n", "x".repeat(rest - 2));
        }
        text + "end\n"
    };
    let longest = filled(LIMIT);
    assert_eq!(longest.len(), LIMIT);
    assert!(Message::parse(longest.as_bytes()).is_ok());
    assert!(fault_of(&filled(LIMIT + 1)).ends_with("the message is longer than 16 KiB"));
    assert!(
        fault_of(&format!("hawser 1\n#{}", "x".repeat(LIMIT)))
            .ends_with("the message is longer than 16 KiB")
    );
}

#[test]
fn what_follows_the_end_is_not_looked_at() {
    let message = Message::parse(b"hawser 1\nend\ngo\n\xff").expect("a message");
    assert_eq!(message.len(), "hawser 1\nend\n".len());
    assert_eq!(message.facts().count(), 0);
}

#[test]
fn an_unfinished_message_is_told_from_a_wrong_one() {
    let text = example();
    for len in 0..text.len() {
        let fault = Message::parse(&text.as_bytes()[..len]).expect_err("a part");
        assert_eq!(fault.kind, Kind::Unfinished, "{len} bytes: {fault}");
    }
}

#[test]
fn the_capabilities_are_the_kernels() {
    assert_eq!(Capability::all().count(), 41);
    for (name, number) in [
        ("chown", 0),
        ("net_raw", 13),
        ("sys_admin", 21),
        ("checkpoint_restore", 40),
    ] {
        let capability = Capability::from_name(name).expect(name);
        assert_eq!(
            (capability.number(), capability.bit()),
            (number, 1 << number)
        );
        assert_eq!(capability.name(), name);
    }
    for capability in Capability::all() {
        assert_eq!(Capability::from_name(capability.name()), Some(capability));
    }
    assert_eq!(Capability::from_name(""), None);
}
