//! What holds for any bytes that are given to the reader of the config message.

use hawser::address::Family;
use hawser::batch;
use hawser::netlink::Messages;
use hawser::protocol::{Fact, Kind, Message};

use super::grammar::{Verdict, judge};
use super::is_part_of;

/// What init has for its requests (`Buffers` in sys.rs).
const BATCH_SPACE: usize = 192 * 1024;

/// Panics where one does not hold.
pub fn check(bytes: &[u8]) {
    let verdict = judge(bytes);
    let message = match Message::parse(bytes) {
        Ok(message) => message,
        Err(fault) => {
            let expected = if fault.kind == Kind::Unfinished {
                Verdict::Unfinished
            } else {
                Verdict::Forbidden
            };
            assert_eq!(verdict, expected, "the reader says: {fault}");
            assert!(
                is_part_of(bytes, fault.text.0),
                "{fault:?} quotes what is not there"
            );
            assert!(
                (1..=bytes.split(|&byte| byte == b'\n').count()).contains(&fault.line),
                "{fault}"
            );
            assert!(!fault.to_string().is_empty());
            return;
        }
    };
    let facts = message
        .facts()
        .map(|entry| (entry.line, entry.fact.to_string()))
        .collect();
    assert_eq!(verdict, Verdict::Message(message.len(), facts));
    for entry in message.facts() {
        assert!(is_part_of(bytes, entry.text.0) && is_part_of(entry.text.0, entry.object()));
    }
    check_unfinished(bytes, message.len());
    check_written(&message);
    check_batch(&message);
}

/// No message is a part of a longer one: a pipe that ends early is noticed.
fn check_unfinished(bytes: &[u8], len: usize) {
    for cut in (0..len).step_by(1 + len / 50).chain([len - 1]) {
        let fault = Message::parse(&bytes[..cut]).expect_err("a part of a message");
        assert_eq!(
            fault.kind,
            Kind::Unfinished,
            "the first {cut} bytes: {fault}"
        );
    }
}

/// What is written reads back.
fn check_written(message: &Message<'_>) {
    let mut text = String::from("hawser 1\n");
    for entry in message.facts() {
        text += &format!("{}\n", entry.fact);
    }
    text += "end\n";
    let is_unicode = !text.contains(char::REPLACEMENT_CHARACTER);
    if text.len() <= hawser::protocol::LIMIT && is_unicode {
        let again = Message::parse(text.as_bytes()).unwrap_or_else(|fault| panic!("{text}{fault}"));
        assert!(
            again
                .facts()
                .map(|entry| entry.fact)
                .eq(message.facts().map(|entry| entry.fact))
        );
    }
}

/// A request for each fact of the network, with the number of its line; all of them fit, and one byte less is noticed.
fn check_batch(message: &Message<'_>) {
    let mut space = vec![0; BATCH_SPACE];
    let requests = batch::write(message, |_| 7, &mut space)
        .expect("the longest message fits")
        .to_vec();
    let mut expected: Vec<u32> = message
        .facts()
        .filter(|entry| {
            matches!(
                entry.fact,
                Fact::Link { .. } | Fact::Address(_) | Fact::Neighbour { .. } | Fact::Route { .. }
            )
        })
        .flat_map(|entry| {
            // A route of our own beside each IPv6 address.
            let is_twice =
                matches!(&entry.fact, Fact::Address(prefix) if prefix.address.family() == Family::V6);
            std::iter::repeat_n(entry.line as u32, if is_twice { 2 } else { 1 })
        })
        .collect();
    if message.facts().any(|entry| entry.fact == Fact::NoLinks) {
        assert!(requests.is_empty(), "the network is somebody else's");
        return;
    }
    // `lo`
    expected.push(1);
    expected.sort_unstable();
    let mut lines: Vec<u32> = Messages::new(&requests)
        .map(|request| request.sequence)
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, expected);
    assert!(batch::write(message, |_| 7, &mut vec![0; requests.len() - 1]).is_none());
    assert!(batch::write(message, |_| 7, &mut vec![0; requests.len()]).is_some());
}
