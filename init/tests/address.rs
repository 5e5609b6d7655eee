//! Our parsers against the standard library's.

use std::net::{IpAddr, Ipv6Addr};

use hawser::address::{Address, Family, Mac, Prefix, parse_number};
use proptest::prelude::*;

fn ours(text: &str) -> Option<IpAddr> {
    Address::parse(text.as_bytes()).map(IpAddr::from)
}

#[test]
fn odd_spellings_are_read_as_the_standard_library_reads_them() {
    for text in [
        "",
        "1",
        "1.2.3",
        "1.2.3.4",
        "1.2.3.4.",
        "1.2.3.4.5",
        "01.2.3.4",
        "256.1.1.1",
        "1..2.3",
        ".1.2.3",
        "+1.2.3.4",
        "1.2.3.4 ",
        "::",
        ":",
        ":::",
        "::1",
        "1::",
        "1::2",
        "1::2::3",
        ":1::",
        "1:",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7:8::",
        "::1:2:3:4:5:6:7:8",
        "12345::",
        "g::",
        "::1.2.3.4",
        "::ffff:1.2.3.4",
        "1:2:3:4:5:6:1.2.3.4",
        "1:2:3:4:5:6:7:1.2.3.4",
        "1.2.3.4::",
        "::1.2.3.4:1",
        "::1.2.3",
        "::01.2.3.4",
        "::256.1.1.1",
        "fe80::1%eth0",
        "::00001",
        "A:b::C",
        "1:2:3::4:5:6:7",
        "1::3:4:5:6:7:8",
        "1:2:::3",
    ] {
        assert_eq!(ours(text), text.parse::<IpAddr>().ok(), "{text:?}");
    }
}

#[test]
fn prefixes() {
    let prefix = |text: &str| Prefix::parse(text.as_bytes());
    for text in [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.2.3/32",
        "::/0",
        "2001:db8::/32",
        "::1/128",
        "128.0.0.0/1",
        "192.0.2.4/30",
    ] {
        let prefix = prefix(text).expect(text);
        assert_eq!(prefix.to_string(), text);
        assert!(prefix.is_network(), "{text}");
    }
    for text in [
        "10.0.0.1/8",
        "10.0.0.1/31",
        "1.0.0.0/7",
        "::1/127",
        "8000::/0",
    ] {
        assert!(!prefix(text).expect(text).is_network(), "{text}");
    }
    for text in [
        "10.0.0.0",
        "10.0.0.0/",
        "/8",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/08",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "10.0.0.0/4294967296",
    ] {
        assert_eq!(prefix(text), None, "{text}");
    }
}

#[test]
fn macs_and_numbers() {
    assert_eq!(
        Mac::parse(b"02:00:aC:13:00:ff"),
        Some(Mac([2, 0, 0xac, 0x13, 0, 0xff]))
    );
    assert_eq!(
        Mac([2, 0, 0xac, 0x13, 0, 1]).to_string(),
        "02:00:ac:13:00:01"
    );
    for text in [
        "",
        "02",
        "02:00:ac:13:00",
        "02:00:ac:13:00:01:",
        "2:0:ac:13:0:1",
        "02.00.ac.13.00.01",
        "02:00:ac:13:00:0",
    ] {
        assert_eq!(Mac::parse(text.as_bytes()), None, "{text}");
    }
    assert_eq!(parse_number(b"4294967295"), Some(u32::MAX));
    for text in [
        "",
        "00",
        "01",
        "+1",
        "-1",
        "4294967296",
        "99999999999",
        "1 ",
        "0x1",
    ] {
        assert_eq!(parse_number(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn addresses_that_a_machine_can_have() {
    for text in [
        "10.0.0.1",
        "127.0.0.1",
        "223.255.255.255",
        "255.255.255.254",
        "::1",
        "fe80::1",
        "2001:db8::1",
    ] {
        assert!(
            Address::parse(text.as_bytes()).expect(text).is_unicast(),
            "{text}"
        );
    }
    for text in [
        "0.0.0.0",
        "224.0.0.1",
        "239.1.2.3",
        "255.255.255.255",
        "::",
        "ff02::1",
    ] {
        assert!(
            !Address::parse(text.as_bytes()).expect(text).is_unicast(),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_address_reads_back(bytes in any::<[u8; 16]>(), zeros in any::<u16>()) {
        let mut bytes = bytes;
        for (index, byte) in bytes.iter_mut().enumerate() {
            if zeros >> (index / 2) & 1 == 0 {
                *byte = 0;
            }
        }
        let v6 = IpAddr::V6(Ipv6Addr::from(bytes));
        prop_assert_eq!(ours(&v6.to_string()), Some(v6));
        let v4 = IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]);
        prop_assert_eq!(ours(&v4.to_string()), Some(v4));
        prop_assert_eq!(Address::from(v4).family(), Family::V4);
        prop_assert_eq!(IpAddr::from(Address::from(v6)), v6);
    }

    #[test]
    fn anything_is_read_as_the_standard_library_reads_it(text in "[0-9a-fg:.]{0,24}") {
        prop_assert_eq!(ours(&text), text.parse::<IpAddr>().ok());
    }

    #[test]
    fn colons_and_groups(text in "(:?:?[0-9a-f]{0,4}){1,9}(:[0-9]{1,3}(\\.[0-9]{1,3}){3})?") {
        prop_assert_eq!(ours(&text), text.parse::<IpAddr>().ok());
    }
}
