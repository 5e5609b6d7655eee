//! Netlink messages written into, and read from, plain byte slices.
//!
//! The layout is that of `linux/netlink.h`: a 16-byte header, a family header, then attributes of
//! `{u16 length, u16 kind, value}`, everything padded to four bytes and in host byte order.

use crate::buffer::Buffer;

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// The bits of an attribute's kind that are flags: `NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`.
const KIND_MASK: u16 = 0x3fff;

/// `NLMSGERR_ATTR_MSG` of `linux/netlink.h`: the kernel's sentence about an error.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Rounds up to netlink's alignment of four.
const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// Writes messages one after another into a buffer that the caller owns.
///
/// A buffer that is too small makes [`Writer::finish`] give `None`; nothing is written past it.
pub struct Writer<'a> {
    batch: Buffer<'a>,
    message: usize,
    flags: u16,
}

/// An attribute that was opened and whose length is not known yet.
#[must_use]
pub struct Nest(usize);

impl<'a> Writer<'a> {
    /// An empty batch in `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Writer {
            batch: Buffer::new(buffer),
            message: 0,
            flags: 0,
        }
    }

    /// Starts a message; `header` is the family's own header (`struct ifinfomsg`, ...).
    #[inline(never)]
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32, header: &[u8]) {
        self.message = self.batch.len();
        self.flags = flags | libc::NLM_F_REQUEST as u16;
        self.batch.put(&[0; 4]);
        self.batch.put(&kind.to_ne_bytes());
        self.batch.put(&self.flags.to_ne_bytes());
        self.batch.put(&sequence.to_ne_bytes());
        self.batch.put(&[0; 4]);
        self.bytes(header);
    }

    /// Asks for an acknowledgement of the message that was begun last: one is enough for a whole batch, since the
    /// kernel goes through it in order and answers each message that fails.
    pub fn ask_acknowledgement(&mut self) {
        let flags = self.flags | libc::NLM_F_ACK as u16;
        self.batch.patch(self.message + 6, &flags.to_ne_bytes());
    }

    /// Ends the message that was begun last: its length is now known.
    pub fn end(&mut self) {
        let len = (self.batch.len() - self.message) as u32;
        self.batch.patch(self.message, &len.to_ne_bytes());
    }

    /// Raw bytes, padded (a family header inside an attribute: `VETH_INFO_PEER` has one).
    pub fn bytes(&mut self, data: &[u8]) {
        self.batch.put(data);
        let padding = align(data.len()) - data.len();
        self.batch.put([0; 3].get(..padding).unwrap_or(&[]));
    }

    /// One attribute.
    #[inline(never)]
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = (ATTRIBUTE + value.len()) as u16;
        self.batch.put(&len.to_ne_bytes());
        self.batch.put(&kind.to_ne_bytes());
        self.bytes(value);
    }

    /// An attribute that holds a `u32` in host byte order.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// An attribute that holds a string, with the NUL that the kernel wants behind it.
    pub fn string(&mut self, kind: u16, value: &str) {
        let nest = self.open(kind);
        self.batch.put(value.as_bytes());
        self.batch.put(&[0]);
        self.close(nest);
        let padding = align(value.len() + 1) - (value.len() + 1);
        self.batch.put([0; 3].get(..padding).unwrap_or(&[]));
    }

    /// Opens an attribute that holds attributes; close it with [`Writer::close`].
    pub fn open(&mut self, kind: u16) -> Nest {
        let nest = Nest(self.batch.len());
        self.batch.put(&0u16.to_ne_bytes());
        self.batch.put(&kind.to_ne_bytes());
        nest
    }

    /// Closes an attribute that [`Writer::open`] opened.
    pub fn close(&mut self, nest: Nest) {
        let len = (self.batch.len() - nest.0) as u16;
        self.batch.patch(nest.0, &len.to_ne_bytes());
    }

    /// The finished batch, or `None` when the buffer was too small.
    pub fn finish(self) -> Option<&'a [u8]> {
        self.batch.finish()
    }
}

/// One message of a reply.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: the request that this answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// What an `NLMSG_ERROR` says: an acknowledgement is one with `errno` 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// A positive errno, or 0.
    pub errno: i32,
    /// The kernel's own sentence (extended ack), empty when there is none.
    pub text: &'a [u8],
}

impl<'a> Message<'a> {
    /// The outcome, when this is an `NLMSG_ERROR`.
    pub fn outcome(&self) -> Option<Outcome<'a>> {
        if self.kind != libc::NLMSG_ERROR as u16 {
            return None;
        }
        let errno = read_i32(self.payload, 0)?.wrapping_neg();
        // struct nlmsgerr repeats the request: its header only when NLM_F_CAPPED, else all of it (linux/netlink.h).
        let request = if self.flags & libc::NLM_F_CAPPED as u16 != 0 {
            HEADER
        } else {
            align(read_u32(self.payload, 4)? as usize)
        };
        let mut text: &[u8] = &[];
        if self.flags & libc::NLM_F_ACK_TLVS as u16 != 0 {
            let attributes = self.payload.get(4 + request..).unwrap_or(&[]);
            for (kind, value) in Attributes::new(attributes) {
                if kind == NLMSGERR_ATTR_MSG {
                    text = value.strip_suffix(b"\0").unwrap_or(value);
                }
            }
        }
        Some(Outcome { errno, text })
    }
}

/// The messages in a received datagram; stops at the first one that is cut short.
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// The messages in `datagram`.
    pub fn new(datagram: &'a [u8]) -> Self {
        Messages(datagram)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Message<'a>> {
        let len = read_u32(self.0, 0)? as usize;
        let payload = self.0.get(HEADER..len)?;
        let message = Message {
            kind: read_u16(self.0, 4)?,
            flags: read_u16(self.0, 6)?,
            sequence: read_u32(self.0, 8)?,
            payload,
        };
        self.0 = self.0.get(align(len)..).unwrap_or(&[]);
        Some(message)
    }
}

/// The attributes in a payload, as `(kind, value)`; stops at the first one that is cut short.
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = read_u16(self.0, 0)? as usize;
        let kind = read_u16(self.0, 2)? & KIND_MASK;
        let value = self.0.get(ATTRIBUTE..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// `u16` in host byte order at `at`.
pub fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// `u32` in host byte order at `at`.
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_i32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// `struct ifinfomsg`: `flags` and `change` are `IFF_*`; `index` 0 means "by name" or "new".
pub fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let [a, b, c, d] = index.to_ne_bytes();
    let [e, f, g, h] = flags.to_ne_bytes();
    let [i, j, k, l] = change.to_ne_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]
}

/// `struct ifaddrmsg`; `flags` is 8 bits here, further ones go into `IFA_FLAGS`.
pub fn ifaddrmsg(family: u8, prefix_len: u8, flags: u8, scope: u8, index: u32) -> [u8; 8] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family, prefix_len, flags, scope, a, b, c, d]
}

/// `struct rtmsg` for a unicast route of the main table, `rtm_protocol` `RTPROT_BOOT` as `ip route add` has it.
pub fn rtmsg(family: u8, prefix_len: u8, scope: u8, flags: u32) -> [u8; 12] {
    let (table, protocol, kind) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RTN_UNICAST);
    let [a, b, c, d] = flags.to_ne_bytes();
    [
        family, prefix_len, 0, 0, table, protocol, scope, kind, a, b, c, d,
    ]
}

/// `struct ndmsg`; `state` is `NUD_*`.
pub fn ndmsg(family: u8, index: u32, state: u16) -> [u8; 12] {
    let [a, b, c, d] = index.to_ne_bytes();
    let [e, f] = state.to_ne_bytes();
    [family, 0, 0, 0, a, b, c, d, e, f, 0, 0]
}
