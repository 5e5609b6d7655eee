//! The kernel's `ip=` as a config message.

use hawser::buffer::Buffer;
use hawser::cmdline::translate;
use hawser::protocol::{Fault, Message};

fn translated(cmdline: &str) -> Result<String, String> {
    let mut space = vec![0; 16 * 1024];
    let mut message = Buffer::new(&mut space);
    translate(cmdline.as_bytes(), &mut message).map_err(|fault| {
        let cause = Fault::of_all(fault.kind, fault.cause);
        let (before, behind) = cause.around();
        let word = String::from_utf8_lossy(fault.word);
        format!("{word}: {before}{}{behind}", fault.cause)
    })?;
    let text = message.finish().expect("space").to_vec();
    Ok(String::from_utf8(text).expect("ASCII in, ASCII out"))
}

#[test]
fn the_kernels_own_form() {
    for (cmdline, expected) in [
        (
            "quiet ip=192.0.2.2:192.0.2.9:192.0.2.1:255.255.255.0:box:eth1:off:192.0.2.53:198.51.100.53 init=/init\n",
            "hawser 1\nlink eth1\naddress 192.0.2.2/24\nroute default via 192.0.2.1\nnameserver 192.0.2.53\n\
             nameserver 198.51.100.53\nhostname box\nend\n",
        ),
        (
            "ip=192.0.2.2:::24",
            "hawser 1\nlink eth0\naddress 192.0.2.2/24\nend\n",
        ),
        (
            "quiet\tip=192.0.2.2:::24:box\nuser 0:0\nworkdir /",
            "hawser 1\nlink eth0\naddress 192.0.2.2/24\nhostname box\nend\n",
        ),
        (
            "ip=192.0.2.2:::24 -- /bin/ip ip=dhcp",
            "hawser 1\nlink eth0\naddress 192.0.2.2/24\nend\n",
        ),
        (
            "ip=192.0.2.2:::255.255.255.255::eth0:none",
            "hawser 1\nlink eth0\naddress 192.0.2.2/32\nend\n",
        ),
        (
            "ip=[2001:db8::2]::[2001:db8::1]:64::eth0:none:[2001:db8::53]",
            "hawser 1\nlink eth0\naddress 2001:db8::2/64\nroute default via 2001:db8::1\nnameserver 2001:db8::53\nend\n",
        ),
        (
            "ip=192.0.2.2:0.0.0.0:0.0.0.0:24::eth0:none:0.0.0.0:192.0.2.53:192.0.2.123",
            "hawser 1\nlink eth0\naddress 192.0.2.2/24\nnameserver 192.0.2.53\nend\n",
        ),
        (
            "ip=192.0.2.2::192.0.2.1:24:a:eth0:none ip=198.51.100.2:::24:b:eth1:none",
            "hawser 1\nlink eth0\naddress 192.0.2.2/24\nroute default via 192.0.2.1\nlink eth1\n\
             address 198.51.100.2/24\nhostname b\nend\n",
        ),
    ] {
        let text = translated(cmdline).expect(cmdline);
        assert_eq!(text, expected);
        Message::parse(text.as_bytes()).expect("a message");
    }
}

#[test]
fn what_is_not_static_is_refused_in_one_sentence() {
    for word in [
        "dhcp",
        "on",
        "any",
        "192.0.2.2:::24::eth0:dhcp",
        "::::::dhcp",
        "both",
        "auto6",
        "eth0:dhcp",
        "eth0:on:1500",
    ] {
        let refused = translated(&format!("quiet ip={word}")).expect_err(word);
        assert_eq!(
            refused,
            format!("ip={word}: only static addresses; not dhcp, on or any")
        );
    }
    assert_eq!(
        translated("quiet").expect_err("no ip="),
        ": it has no word `ip=`"
    );
    for word in ["192.0.2.2", "192.0.2.2:::255.0.255.0", "192.0.2.2:::mask"] {
        let refused = translated(&format!("ip={word}")).expect_err(word);
        assert!(refused.contains("a netmask"), "{refused}");
    }
}

/// What is wrong with a field is said of the word, and not of a line that nobody has written.
#[test]
fn a_fault_names_the_word() {
    for (word, cause) in [
        (
            "ip=192.0.2.777:::24",
            "not an address of a machine, with its prefix length",
        ),
        (
            "ip=192.0.2.2::nowhere:24",
            "not an address of a machine, of the destination's family",
        ),
        ("ip=192.0.2.2:::24::eth/0", "not a link's name"),
        (
            "ip=192.0.2.2:::24:a#b",
            "not a host name of at most 64 characters",
        ),
        (
            "ip=192.0.2.2:::24::::resolver",
            "not an IPv4 or IPv6 address",
        ),
        ("ip=192.0.2.2:::24::::::ntp:more", "one field too many"),
    ] {
        let cmdline = format!("quiet ip=192.0.2.3:::24::eth1 {word}");
        assert_eq!(
            translated(&cmdline).expect_err(word),
            format!("{word}: {cause}")
        );
    }
}
