//! What rules consist of. Registers are counted in words of four bytes; what is loaded first is at word 0.

use hawser::netlink::Writer;

use super::message::{NFTA_DATA_VALUE, nest};

/// Something of a packet that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `NFT_META_*`.
    Meta(u32),
    /// Of a header (`NFT_PAYLOAD_*`), from this offset, so many bytes.
    Payload(u32, u32, u32),
    /// `NFT_CT_*`, of the connection.
    Connection(u32),
    /// The same, as the connection's first packet had it.
    Original(u32),
    /// What a look at the routes gives: `NFT_FIB_RESULT_*`, by `NFTA_FIB_F_*`.
    Route(u32, u32),
    /// The largest TCP segment that fits the route, both ways.
    TcpSegment,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, past the rest of our chains at this hook.
    Accept,
    /// It ends here.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// To another chain, and back.
    Jump(&'static str),
    /// To another chain, and not back.
    Goto(&'static str),
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads a field to a word.
    Load(Field, u32),
    /// Keeps these bits of word 0 and on.
    And(Vec<u8>),
    /// Goes on when word 0 and on are this.
    Is(Vec<u8>),
    /// Goes on when they are not.
    IsNot(Vec<u8>),
    /// Goes on when the set has what is there.
    In(&'static str),
    /// Goes on when it has not.
    NotIn(&'static str),
    /// Goes on when the map has what is there, which then is what it is mapped to.
    Mapped(&'static str),
    /// Ends the rule.
    Then(Verdict),
    /// Sends the packet to the address at word 0 and the port at this word, as this family (`NFPROTO_*`).
    Destination(u32, u32),
    /// Gives it the source address of the link that it leaves by.
    Masquerade,
    /// Answers with a TCP reset.
    Reset,
    /// Answers with an ICMP error: administratively prohibited.
    Prohibit,
    /// Turns the two bytes at word 0 into network order.
    ToNetworkOrder,
    /// Writes them into TCP's option of the largest segment.
    SetTcpSegment,
    /// Writes the six bytes at word 0 into the frame's destination.
    SetEtherDestination,
    /// Word 0 becomes 0.
    Zero,
    /// Makes it a packet for whom word 0 says (`PACKET_*`).
    SetPacketType,
    /// Counts.
    Counter,
}

/// Attribute 1 of many expressions.
const REGISTER: u16 = 1;
/// The operators of `cmp`.
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;

/// A word of the registers (`NFT_REG32_00` and on), in network byte order.
const fn register(word: u32) -> u32 {
    (8 + word).to_be()
}

impl Expression {
    /// Writes the attributes of one expression.
    pub fn write(&self, w: &mut Writer) {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        w.string(NFTA_EXPR_NAME, self.name());
        nest(w, NFTA_EXPR_DATA, |w| self.write_data(w));
    }

    /// The kernel's name for it.
    fn name(&self) -> &'static str {
        match self {
            Expression::Load(field, _) => match field {
                Field::Meta(_) => "meta",
                Field::Payload(..) => "payload",
                Field::Connection(_) | Field::Original(_) => "ct",
                Field::Route(..) => "fib",
                Field::TcpSegment => "rt",
            },
            Expression::And(_) => "bitwise",
            Expression::Is(_) | Expression::IsNot(_) => "cmp",
            Expression::In(_) | Expression::NotIn(_) | Expression::Mapped(_) => "lookup",
            Expression::Then(_) | Expression::Zero => "immediate",
            Expression::Destination(..) => "nat",
            Expression::Masquerade => "masq",
            Expression::Reset | Expression::Prohibit => "reject",
            Expression::ToNetworkOrder => "byteorder",
            Expression::SetTcpSegment => "exthdr",
            Expression::SetEtherDestination => "payload",
            Expression::SetPacketType => "meta",
            Expression::Counter => "counter",
        }
    }

    fn write_data(&self, w: &mut Writer) {
        match self {
            Expression::Load(field, word) => write_load(w, *field, *word),
            Expression::And(mask) => write_mask(w, mask),
            Expression::Is(value) => write_compare(w, NFT_CMP_EQ, value),
            Expression::IsNot(value) => write_compare(w, NFT_CMP_NEQ, value),
            Expression::In(set) => write_lookup(w, set, false, false),
            Expression::NotIn(set) => write_lookup(w, set, true, false),
            Expression::Mapped(map) => write_lookup(w, map, false, true),
            Expression::Then(verdict) => write_verdict(w, *verdict),
            Expression::Zero => {
                w.number(REGISTER, register(0));
                nest(w, 2, |w| w.attribute(NFTA_DATA_VALUE, &[0; 4]));
            }
            Expression::Destination(family, port) => write_destination(w, *family, *port),
            // NFT_REJECT_TCP_RST; NFT_REJECT_ICMPX_UNREACH and NFT_REJECT_ICMPX_ADMIN_PROHIBITED.
            Expression::Reset => write_reject(w, 1, 0),
            Expression::Prohibit => write_reject(w, 2, 3),
            Expression::ToNetworkOrder => write_to_network_order(w),
            Expression::SetTcpSegment => write_set_tcp_segment(w),
            Expression::SetEtherDestination => write_set_ether_destination(w),
            Expression::SetPacketType => {
                const NFT_META_PKTTYPE: u32 = 19;
                const NFTA_META_KEY: u16 = 2;
                const NFTA_META_SREG: u16 = 3;
                w.number(NFTA_META_KEY, NFT_META_PKTTYPE.to_be());
                w.number(NFTA_META_SREG, register(0));
            }
            Expression::Masquerade | Expression::Counter => {}
        }
    }
}

fn write_load(w: &mut Writer, field: Field, word: u32) {
    // Attribute 1 is the register that is written, of each of these expressions.
    w.number(REGISTER, register(word));
    match field {
        Field::Meta(key) => w.number(2, key.to_be()),
        Field::Payload(header, offset, bytes) => {
            w.number(2, header.to_be());
            w.number(3, offset.to_be());
            w.number(4, bytes.to_be());
        }
        Field::Connection(key) => w.number(2, key.to_be()),
        Field::Original(key) => {
            w.number(2, key.to_be());
            // NFTA_CT_DIRECTION: IP_CT_DIR_ORIGINAL
            w.attribute(3, &[0]);
        }
        Field::Route(result, flags) => {
            w.number(2, result.to_be());
            w.number(3, flags.to_be());
        }
        Field::TcpSegment => {
            const NFT_RT_TCPMSS: u32 = 3;
            w.number(2, NFT_RT_TCPMSS.to_be());
        }
    }
}

fn write_mask(w: &mut Writer, mask: &[u8]) {
    const NFTA_BITWISE_DREG: u16 = 2;
    const NFTA_BITWISE_LEN: u16 = 3;
    const NFTA_BITWISE_MASK: u16 = 4;
    const NFTA_BITWISE_XOR: u16 = 5;
    w.number(REGISTER, register(0));
    w.number(NFTA_BITWISE_DREG, register(0));
    w.number(NFTA_BITWISE_LEN, (mask.len() as u32).to_be());
    nest(w, NFTA_BITWISE_MASK, |w| w.attribute(NFTA_DATA_VALUE, mask));
    nest(w, NFTA_BITWISE_XOR, |w| {
        w.attribute(NFTA_DATA_VALUE, &vec![0; mask.len()])
    });
}

fn write_compare(w: &mut Writer, operator: u32, value: &[u8]) {
    const NFTA_CMP_OP: u16 = 2;
    const NFTA_CMP_DATA: u16 = 3;
    w.number(REGISTER, register(0));
    w.number(NFTA_CMP_OP, operator.to_be());
    nest(w, NFTA_CMP_DATA, |w| w.attribute(NFTA_DATA_VALUE, value));
}

fn write_lookup(w: &mut Writer, set: &str, is_inverted: bool, is_map: bool) {
    const NFTA_LOOKUP_SET: u16 = 1;
    const NFTA_LOOKUP_SREG: u16 = 2;
    const NFTA_LOOKUP_DREG: u16 = 3;
    const NFTA_LOOKUP_FLAGS: u16 = 5;
    const NFT_LOOKUP_F_INV: u32 = 1;
    w.string(NFTA_LOOKUP_SET, set);
    w.number(NFTA_LOOKUP_SREG, register(0));
    if is_map {
        w.number(NFTA_LOOKUP_DREG, register(0));
    }
    if is_inverted {
        w.number(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV.to_be());
    }
}

fn write_verdict(w: &mut Writer, verdict: Verdict) {
    const NFTA_IMMEDIATE_DATA: u16 = 2;
    const NFTA_DATA_VERDICT: u16 = 2;
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    let (code, chain): (i32, Option<&str>) = match verdict {
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
        Verdict::Return => (libc::NFT_RETURN, None),
    };
    // NFT_REG_VERDICT is 0.
    w.number(REGISTER, 0);
    nest(w, NFTA_IMMEDIATE_DATA, |w| {
        nest(w, NFTA_DATA_VERDICT, |w| {
            w.attribute(NFTA_VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = chain {
                w.string(NFTA_VERDICT_CHAIN, chain);
            }
        });
    });
}

fn write_destination(w: &mut Writer, family: u32, port: u32) {
    const NFTA_NAT_TYPE: u16 = 1;
    const NFTA_NAT_FAMILY: u16 = 2;
    const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
    const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
    const NFT_NAT_DNAT: u32 = 1;
    w.number(NFTA_NAT_TYPE, NFT_NAT_DNAT.to_be());
    w.number(NFTA_NAT_FAMILY, family.to_be());
    w.number(NFTA_NAT_REG_ADDR_MIN, register(0));
    w.number(NFTA_NAT_REG_PROTO_MIN, register(port));
}

fn write_reject(w: &mut Writer, kind: u32, code: u8) {
    const NFTA_REJECT_TYPE: u16 = 1;
    const NFTA_REJECT_ICMP_CODE: u16 = 2;
    w.number(NFTA_REJECT_TYPE, kind.to_be());
    w.attribute(NFTA_REJECT_ICMP_CODE, &[code]);
}

fn write_to_network_order(w: &mut Writer) {
    const NFTA_BYTEORDER_DREG: u16 = 2;
    const NFTA_BYTEORDER_OP: u16 = 3;
    const NFTA_BYTEORDER_LEN: u16 = 4;
    const NFTA_BYTEORDER_SIZE: u16 = 5;
    const NFT_BYTEORDER_HTON: u32 = 1;
    w.number(REGISTER, register(0));
    w.number(NFTA_BYTEORDER_DREG, register(0));
    w.number(NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON.to_be());
    w.number(NFTA_BYTEORDER_LEN, 2u32.to_be());
    w.number(NFTA_BYTEORDER_SIZE, 2u32.to_be());
}

fn write_set_tcp_segment(w: &mut Writer) {
    const NFTA_EXTHDR_TYPE: u16 = 2;
    const NFTA_EXTHDR_OFFSET: u16 = 3;
    const NFTA_EXTHDR_LEN: u16 = 4;
    const NFTA_EXTHDR_OP: u16 = 6;
    const NFTA_EXTHDR_SREG: u16 = 7;
    const NFT_EXTHDR_OP_TCPOPT: u32 = 1;
    const TCPOPT_MAXSEG: u8 = 2; // RFC 9293, 3.1: kind 2, length 4, the value at offset 2
    w.attribute(NFTA_EXTHDR_TYPE, &[TCPOPT_MAXSEG]);
    w.number(NFTA_EXTHDR_OFFSET, 2u32.to_be());
    w.number(NFTA_EXTHDR_LEN, 2u32.to_be());
    w.number(NFTA_EXTHDR_OP, NFT_EXTHDR_OP_TCPOPT.to_be());
    w.number(NFTA_EXTHDR_SREG, register(0));
}

fn write_set_ether_destination(w: &mut Writer) {
    const NFTA_PAYLOAD_BASE: u16 = 2;
    const NFTA_PAYLOAD_OFFSET: u16 = 3;
    const NFTA_PAYLOAD_LEN: u16 = 4;
    const NFTA_PAYLOAD_SREG: u16 = 5;
    // The link header, from its beginning (NFT_PAYLOAD_LL_HEADER is 0).
    w.number(NFTA_PAYLOAD_BASE, 0);
    w.number(NFTA_PAYLOAD_OFFSET, 0);
    w.number(NFTA_PAYLOAD_LEN, 6u32.to_be());
    w.number(NFTA_PAYLOAD_SREG, register(0));
}
