//! What holds for any bytes that come from the kernel.

use hawser::netlink::{Attributes, Messages};

use super::is_part_of;

/// Panics where something does not hold. The first four bytes are not taken for lengths: random ones would end it there.
pub fn check(bytes: &[u8]) {
    let mut at = 0;
    for message in Messages::new(bytes) {
        // linux/netlink.h: length, type, flags, sequence, port; then the payload, and the next one at a multiple of four.
        let header: [u8; 16] = bytes[at..at + 16].try_into().expect("a header is there");
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        assert_eq!(message.payload.as_ptr(), bytes[at + 16..].as_ptr());
        assert_eq!(message.payload.len(), len - 16);
        assert_eq!(message.kind.to_ne_bytes(), header[4..6]);
        assert_eq!(message.flags.to_ne_bytes(), header[6..8]);
        assert_eq!(message.sequence.to_ne_bytes(), header[8..12]);
        if let Some(outcome) = message.outcome() {
            assert_eq!(message.kind, libc::NLMSG_ERROR as u16);
            assert!(is_part_of(message.payload, outcome.text));
            assert_eq!(
                outcome.errno.wrapping_neg().to_ne_bytes(),
                message.payload[..4]
            );
        }
        check_attributes(message.payload);
        at += len.next_multiple_of(4);
    }
    // It stops because nothing whole is left.
    let rest = bytes.get(at..).unwrap_or(&[]);
    if let Some(len) = rest.first_chunk() {
        let len = u32::from_ne_bytes(*len) as usize;
        assert!(
            len < 16 || len > rest.len(),
            "a message of {len} bytes was not read"
        );
    }
}

fn check_attributes(bytes: &[u8]) {
    let mut at = 0;
    for (kind, value) in Attributes::new(bytes) {
        let [a, b, c, d] = *bytes[at..].first_chunk().expect("a header is there");
        let len = usize::from(u16::from_ne_bytes([a, b]));
        assert_eq!(kind, u16::from_ne_bytes([c, d]) & 0x3fff);
        assert_eq!(value.as_ptr(), bytes[at + 4..].as_ptr());
        assert_eq!(value.len(), len - 4);
        at += len.next_multiple_of(4);
    }
    let rest = bytes.get(at..).unwrap_or(&[]);
    if let Some([a, b, _, _]) = rest.first_chunk() {
        let len = usize::from(u16::from_ne_bytes([*a, *b]));
        assert!(
            len < 4 || len > rest.len(),
            "an attribute of {len} bytes was not read"
        );
    }
}
