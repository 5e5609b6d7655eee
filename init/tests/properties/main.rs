//! Properties: what holds for any input, whoever made it.
//!
//! `rules` are functions that panic where something does not hold. They are fed here, with input that is made up and with what the fuzzer has
//! found (`init/fuzz/corpus`), and by the fuzzer itself (`make fuzz`).

// init's own parser of its command line, which is in the program and not in the library.
#[path = "../../src/error.rs"]
#[allow(dead_code, reason = "init uses all of it")]
mod error;
#[path = "../../src/machine.rs"]
#[allow(dead_code, reason = "init uses all of it")]
mod machine;
#[path = "../../src/options.rs"]
#[allow(dead_code, reason = "init uses all of it")]
mod options;
#[path = "../../src/peers.rs"]
mod peers;
mod rules;
mod sys;

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

/// Each file of a corpus.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&corpus).expect("a corpus") {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("read a file");
        if std::panic::catch_unwind(|| check(&bytes)).is_err() {
            panic!("{}", path.display());
        }
        count += 1;
    }
    assert!(count > 5, "{} has {count} files", corpus.display());
}

#[test]
fn what_the_fuzzer_has_found_for_the_message() {
    replay("message", rules::message::check);
}

#[test]
fn what_the_fuzzer_has_found_for_netlink() {
    replay("netlink", rules::netlink::check);
}

#[test]
fn what_the_fuzzer_has_found_for_the_kernels_command_line() {
    replay("cmdline", rules::cmdline::check);
}

#[test]
fn what_the_fuzzer_has_found_for_inits_command_line() {
    replay("words", rules::words::check);
}

/// Mostly what a manual allows, with a slip now and then.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        4 => any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
        1 => "[0-9a-f:.]{0,20}",
        2 => prop_oneof![Just("0.0.0.0"), Just("::"), Just("255.255.255.255"), Just("ff02::1"), Just("::1")].prop_map(String::from),
    ]
}

fn prefix() -> impl Strategy<Value = String> {
    let network = (any::<u32>(), 0u32..=32).prop_map(|(bits, len)| {
        let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
        format!("{}/{len}", std::net::Ipv4Addr::from(bits & mask))
    });
    let network6 = (any::<u128>(), 0u32..=128).prop_map(|(bits, len)| {
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        format!("{}/{len}", std::net::Ipv6Addr::from(bits & mask))
    });
    prop_oneof![
        network,
        network6,
        (address(), 0u32..140).prop_map(|(address, len)| format!("{address}/{len}"))
    ]
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u32>().prop_map(|number| number.to_string()),
        (0u32..70000).prop_map(|number| number.to_string()),
        "[-+]?0?[0-9]{0,11}",
        prop_oneof![
            Just("67"),
            Just("68"),
            Just("65536"),
            Just("65537"),
            Just("4294967294"),
            Just("4294967295")
        ]
        .prop_map(String::from),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![9 => "[a-z0-9.-]{1,16}", 1 => "[ -~]{0,70}", 1 => "[!-~\u{e0}-\u{ff}]{1,4}"]
}

fn line() -> impl Strategy<Value = String> {
    let capability = prop_oneof![
        Just("none"),
        Just("net_raw"),
        Just("checkpoint_restore"),
        Just("chown"),
        Just("bpf "),
        Just("CHOWN"),
        Just("0xa80425fb"),
        Just("0x0"),
        Just("0xFFFFffffFFFFffff"),
        Just("0x10000000000000000"),
        Just("0x"),
        Just("0xg")
    ];
    prop_oneof![
        name().prop_map(|name| format!("link {name}")),
        (name(), number()).prop_map(|(name, mtu)| format!("link {name} mtu {mtu}")),
        prefix().prop_map(|prefix| format!("address {prefix}")),
        (address(), "[0-9a-fA-F]{2}(:[0-9a-f]{2}){4,6}")
            .prop_map(|(address, mac)| format!("neighbour {address} {mac}")),
        (prefix(), address()).prop_map(|(to, by)| format!("route {to} via {by}")),
        prefix().prop_map(|to| format!("route {to} onlink")),
        address().prop_map(|by| format!("route default via {by}")),
        address().prop_map(|address| format!("nameserver {address}")),
        (address(), vec(name(), 0..3))
            .prop_map(|(address, names)| format!("host {address} {}", names.join(" "))),
        vec(name(), 0..3).prop_map(|names| format!("search {}", names.join("\t"))),
        vec(name(), 0..3).prop_map(|names| format!("option {}", names.join("  "))),
        name().prop_map(|name| format!("hostname {name}")),
        (number(), number()).prop_map(|(uid, gid)| format!("user {uid}:{gid}")),
        vec(number(), 0..4).prop_map(|ids| format!("groups {}", ids.join(","))),
        "/?[a-z /\u{e0}-\u{ff}]{0,40}".prop_map(|path| format!("workdir {path}")),
        (prop_oneof![Just("capability"), Just("ambient")], capability)
            .prop_map(|(word, name)| format!("{word} {name}")),
        prop_oneof![
            Just("no-new-privileges"),
            Just("no-links"),
            Just("end"),
            Just("hawser 1"),
            Just("")
        ]
        .prop_map(String::from),
        "[# \t]{0,2}[ -~\u{0}-\u{ff}]{0,40}",
    ]
}

/// Lines with a slip of a byte.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let slip = proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (vec(line(), 0..12), slip).prop_map(|(lines, slip)| {
        let mut text = format!("hawser 1\n{}\nend\n", lines.join("\n")).into_bytes();
        if let Some((at, byte)) = slip {
            let at = at.index(text.len());
            text[at] = byte;
        }
        text
    })
}

/// What looks like answers of the kernel: lengths and kinds are right more often than by chance.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let attribute = (vec(any::<u8>(), 0..20), 0u16..4, -2i32..3).prop_map(|(value, kind, slip)| {
        let len = (value.len() as i32 + 4 + slip) as u16;
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    });
    let kind = prop_oneof![3 => Just(libc::NLMSG_ERROR as u16), 1 => any::<u16>()];
    let flags = prop_oneof![Just(0x100u16), Just(0x200), Just(0x300), any::<u16>()];
    let errno = prop_oneof![Just(0i32), Just(-17), any::<i32>(), Just(i32::MIN)];
    let request = prop_oneof![Just(16u32), Just(0), 0u32..64, any::<u32>(), Just(u32::MAX)];
    let answer = (kind, flags, errno, request, vec(attribute, 0..4), -5i32..6).prop_map(
        |(kind, flags, errno, request, attributes, slip)| {
            let mut payload = errno.to_ne_bytes().to_vec();
            payload.extend(request.to_ne_bytes());
            payload.extend([0; 12]);
            payload.extend(attributes.concat());
            let len = if slip.abs() > 3 {
                payload.len() as i32 + 16 + slip
            } else {
                payload.len() as i32 + 16
            };
            let mut bytes = (len as u32).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(flags.to_ne_bytes());
            bytes.extend([7; 8]);
            bytes.extend(payload);
            bytes
        },
    );
    (
        vec(answer, 0..4),
        any::<prop::sample::Index>(),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(answers, cut, is_cut)| {
            let mut bytes = answers.concat();
            if is_cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        })
}

fn kernel_word() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        3 => address(),
        1 => address().prop_map(|address| format!("[{address}]")),
        1 => name(),
        1 => Just(String::new()),
    ];
    let netmask = prop_oneof![
        Just("24".to_owned()),
        Just("255.255.0.0".to_owned()),
        Just("64".to_owned()),
        address(),
        number()
    ];
    let autoconf = prop_oneof![
        Just(""),
        Just("off"),
        Just("none"),
        Just("dhcp"),
        Just("on")
    ];
    let right = (vec(field, 6), netmask, autoconf).prop_map(|(mut fields, netmask, autoconf)| {
        let (servers, first) = (fields.split_off(4), &mut fields);
        first.insert(3, netmask);
        format!(
            "ip={}:eth0:{autoconf}:{}",
            first.join(":"),
            servers.join(":")
        )
    });
    prop_oneof![4 => right, 1 => "(ip=)?[0-9a-f:.\\[\\]]{0,30}", 1 => "[ -~\t\n]{0,20}", 1 => prop_oneof![Just("quiet".to_owned()), Just("--".to_owned())]]
}

/// By which name and as which process, then words with a NUL behind each.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just("-s"),
        Just("-c"),
        Just("--all"),
        Just("-w"),
        Just("-v"),
        Just("-h"),
        Just("-V"),
        Just("--supervise"),
    ];
    let with_value = prop_oneof![
        Just("--config"),
        Just("--status-fd"),
        Just("--timeout"),
        Just("--resolv"),
        Just("--rewrite"),
        Just("-r"),
        Just("--grace"),
        Just("-e"),
        Just("--map-exit"),
        Just("-p"),
        Just("--parent-death-signal"),
        Just("--at-end"),
    ];
    let value = prop_oneof![
        3 => number(),
        2 => prop_oneof![Just("required"), Just("try"), Just("off"), Just("reboot"), Just("halt"), Just("restart"), Just("poweroff")].prop_map(String::from),
        2 => "(SIG)?(TERM|HUP|KILL|CHLD|64|65|0|15|X)(:(SIG)?(TERM|USR1|STOP|64|65|0|00))?",
        2 => prop_oneof![Just("0"), Just("255"), Just("256"), Just("4294967296")].prop_map(String::from),
        1 => "[0-9]{1,3}",
        1 => "[ -~\t]{0,300}",
    ];
    let separator = prop_oneof![Just("="), Just("\0"), Just("")];
    let word = prop_oneof![
        4 => option.prop_map(String::from),
        6 => (with_value, separator, value).prop_map(|(option, separator, value)| format!("{option}{separator}{value}")),
        1 => prop_oneof![Just("--mounts"), Just("--"), Just("-"), Just("/bin/sh"), Just("quiet"), Just("")].prop_map(String::from),
        1 => "-{0,2}[a-zA-Z=-]{0,8}",
    ];
    (any::<u8>(), vec(word, 0..7), any::<bool>()).prop_map(|(first, words, has_command)| {
        let command = if has_command { "\0/bin/true\0-x" } else { "" };
        [
            &[first][..],
            format!("{}{command}", words.join("\0")).as_bytes(),
        ]
        .concat()
    })
}

/// As many as the environment asks for (PROPTEST_CASES), eight times over: they are short.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: 8 * default.cases,
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_message_is_read_as_the_manual_says(text in message()) {
        rules::message::check(&text);
    }

    #[test]
    fn any_bytes_are_read_as_the_manual_says(bytes in vec(any::<u8>(), 0..200)) {
        rules::message::check(&bytes);
        rules::message::check(&[b"hawser 1\n", &bytes[..], b"\nend\n"].concat());
    }

    #[test]
    fn no_message_is_longer_than_the_limit(lines in vec(line(), 0..4), len in 16_300usize..16_500, is_whole in any::<bool>()) {
        let (begin, end) = (format!("hawser 1\n{}\n", lines.join("\n")), if is_whole { "end\n" } else { "" });
        let padding = "# padding \n".repeat(len.saturating_sub(begin.len() + end.len()) / 11);
        let rest = "\n".repeat(len.saturating_sub(begin.len() + end.len() + padding.len()));
        rules::message::check([begin, padding, rest, end.to_owned()].concat().as_bytes());
    }

    #[test]
    fn a_command_line_is_read_as_the_manual_says(words in words()) {
        rules::words::check(&words);
    }

    #[test]
    fn answers_are_read_and_no_further(bytes in answers()) {
        rules::netlink::check(&bytes);
    }

    #[test]
    fn any_bytes_from_the_kernel_are_read_and_no_further(bytes in vec(any::<u8>(), 0..100), len in 0u32..100) {
        rules::netlink::check(&bytes);
        rules::netlink::check(&[&len.to_ne_bytes()[..], &bytes].concat());
    }

    #[test]
    fn a_kernel_command_line_asks_for_networks_only(words in vec(kernel_word(), 0..4), blank in "[ \t\n\u{b}\r]", slip in any::<prop::sample::Index>()) {
        let text = words.join(&blank);
        rules::cmdline::check(text.as_bytes());
        // A blank in the middle of a word must not begin a line of the message.
        let at = slip.index(text.len() + 1);
        let (before, behind) = (text.get(..at), text.get(at..));
        if let Some((before, behind)) = before.zip(behind) {
            rules::cmdline::check(format!("{before}{blank}user 0:0{blank}{behind}").as_bytes());
        }
    }
}
