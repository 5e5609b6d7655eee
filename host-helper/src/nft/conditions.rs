//! What rules of others ask of a packet before they do something with it, as far as it is understood.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use hawser::netlink::read_u32;
use ipnet::IpNet;

use super::foreign::{number, text};
use super::lookups::{Key, Lookup};
use super::words::{
    LOCAL, NETWORK, NFT_FIB_RESULT_ADDRTYPE, NFT_META_IIF, NFT_META_IIFNAME, NFT_META_L4PROTO,
    NFT_META_NFPROTO, NFT_META_OIFNAME, NFTA_FIB_F_DADDR, TRANSPORT,
};
use crate::netlink::find;

/// The links that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Links {
    /// The one of this name.
    Named(String),
    /// Those whose names begin with this.
    Prefixed(String),
    /// The one of this number.
    Numbered(u32),
}

/// A condition that is met, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Is<T> {
    /// What is compared with.
    pub what: T,
    /// The rule is about all others.
    pub is_not: bool,
}

/// What a rule asks, all of it at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The version of IP.
    pub version: Option<u8>,
    /// Number of the protocol.
    pub protocol: Option<u8>,
    /// The links that packets come in by.
    pub links_in: Vec<Is<Links>>,
    /// Those that they leave by.
    pub links_out: Vec<Is<Links>>,
    /// Who sends them.
    pub sources: Vec<Is<IpNet>>,
    /// Whom they are for.
    pub destinations: Vec<Is<IpNet>>,
    /// The receiver's ports: one of these.
    pub ports: Vec<RangeInclusive<u16>>,
    /// They are for the host itself.
    pub is_local: bool,
    /// They stay on their bridge.
    pub is_bridged: bool,
    /// Sets that it asks.
    pub lookups: Vec<Lookup>,
    /// Something else, which is not understood.
    pub has_more: bool,
}

/// What is in a register.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loaded {
    Protocol,
    Version,
    EtherType,
    Port,
    /// The sender's, and behind it the receiver's.
    Ports,
    Link {
        comes_in: bool,
    },
    Index {
        comes_in: bool,
    },
    Address {
        is_source: bool,
        is_v6: bool,
        mask: Option<Vec<u8>>,
    },
    AddressType,
    Other,
}

const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GTE: u32 = 5;

/// Reads a rule's expressions, one after the other.
pub struct Reader {
    registers: BTreeMap<u32, Loaded>,
    /// What they have said so far.
    pub conditions: Conditions,
}

impl Reader {
    /// For a rule of a table of this family.
    pub fn new(family: &str) -> Reader {
        let version = match family {
            "ip" => Some(4),
            "ip6" => Some(6),
            _ => None,
        };
        Reader {
            registers: BTreeMap::new(),
            conditions: Conditions {
                version,
                ..Conditions::default()
            },
        }
    }

    /// The next expression. What is cut off is not understood.
    pub fn read(&mut self, name: &str, data: &[u8]) {
        if self.understand(name, data).is_none() {
            self.conditions.has_more = true;
        }
    }

    fn understand(&mut self, name: &str, data: &[u8]) -> Option<()> {
        match name {
            "meta" => self.meta(data),
            "payload" => {
                const NFTA_PAYLOAD_DREG: u16 = 1;
                let register = number(find(data, NFTA_PAYLOAD_DREG)?)?;
                let loaded = self.payload(data)?;
                self.registers.insert(register, loaded);
                Some(())
            }
            "fib" => self.fib(data),
            "ct" => {
                const NFTA_CT_DREG: u16 = 1;
                // Without it, something is written.
                let register = find(data, NFTA_CT_DREG).and_then(number);
                self.registers
                    .extend(register.map(|register| (register, Loaded::Other)));
                Some(())
            }
            "bitwise" => self.mask(data),
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => self.lookup(data),
            "match" => self.conditions.extension(data),
            "counter" | "log" | "immediate" | "nat" | "redir" | "masq" | "reject" | "target"
            | "notrack" => Some(()),
            _ => None,
        }
    }

    fn meta(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_META_DREG: u16 = 1;
        const NFTA_META_KEY: u16 = 2;
        const NFT_META_PROTOCOL: u32 = 1;
        const NFT_META_OIF: u32 = 5;
        // Without it, something is written.
        let Some(register) = find(data, NFTA_META_DREG) else {
            return Some(());
        };
        let loaded = match number(find(data, NFTA_META_KEY)?)? {
            NFT_META_L4PROTO => Loaded::Protocol,
            NFT_META_NFPROTO => Loaded::Version,
            NFT_META_PROTOCOL => Loaded::EtherType,
            NFT_META_IIFNAME => Loaded::Link { comes_in: true },
            NFT_META_OIFNAME => Loaded::Link { comes_in: false },
            NFT_META_IIF => Loaded::Index { comes_in: true },
            NFT_META_OIF => Loaded::Index { comes_in: false },
            _ => Loaded::Other,
        };
        self.registers.insert(number(register)?, loaded);
        Some(())
    }

    fn payload(&self, data: &[u8]) -> Option<Loaded> {
        const NFTA_PAYLOAD_BASE: u16 = 2;
        const NFTA_PAYLOAD_OFFSET: u16 = 3;
        const NFTA_PAYLOAD_LEN: u16 = 4;
        let field = |kind| find(data, kind).and_then(number);
        let place = (
            field(NFTA_PAYLOAD_BASE)?,
            field(NFTA_PAYLOAD_OFFSET)?,
            field(NFTA_PAYLOAD_LEN)?,
        );
        let address = |is_source, is_v6| Loaded::Address {
            is_source,
            is_v6,
            mask: None,
        };
        // Of a prefix of whole bytes only these are loaded.
        Some(match (place, self.conditions.version) {
            ((TRANSPORT, 2, 2), _) => Loaded::Port,
            ((TRANSPORT, 0, 4), _) => Loaded::Ports,
            ((NETWORK, 9, 1), Some(4)) | ((NETWORK, 6, 1), Some(6)) => Loaded::Protocol,
            ((NETWORK, 12, 1..=4), Some(4)) => address(true, false),
            ((NETWORK, 16, 1..=4), Some(4)) => address(false, false),
            ((NETWORK, 8, 1..=16), Some(6)) => address(true, true),
            ((NETWORK, 24, 1..=16), Some(6)) => address(false, true),
            _ => Loaded::Other,
        })
    }

    fn fib(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_FIB_DREG: u16 = 1;
        const NFTA_FIB_RESULT: u16 = 2;
        const NFTA_FIB_FLAGS: u16 = 3;
        let field = |kind| find(data, kind).and_then(number);
        let is_type = field(NFTA_FIB_RESULT)? == NFT_FIB_RESULT_ADDRTYPE
            && field(NFTA_FIB_FLAGS)? == NFTA_FIB_F_DADDR;
        let loaded = if is_type {
            Loaded::AddressType
        } else {
            Loaded::Other
        };
        self.registers.insert(field(NFTA_FIB_DREG)?, loaded);
        Some(())
    }

    fn mask(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_BITWISE_SREG: u16 = 1;
        const NFTA_BITWISE_DREG: u16 = 2;
        const NFTA_BITWISE_MASK: u16 = 4;
        const NFTA_BITWISE_XOR: u16 = 5;
        let field = |kind| find(data, kind).and_then(number);
        let source = self.registers.get(&field(NFTA_BITWISE_SREG)?).cloned();
        let bits = |kind| find(data, kind).and_then(value);
        let is_and = bits(NFTA_BITWISE_XOR).is_some_and(|xor| xor.iter().all(|byte| *byte == 0));
        let masked = match (source, bits(NFTA_BITWISE_MASK).filter(|_| is_and)) {
            (
                Some(Loaded::Address {
                    is_source,
                    is_v6,
                    mask: None,
                }),
                Some(mask),
            ) => Loaded::Address {
                is_source,
                is_v6,
                mask: Some(mask.to_vec()),
            },
            (Some(Loaded::Ports), Some([0, 0, 0xff, 0xff])) => Loaded::Ports,
            _ => Loaded::Other,
        };
        self.registers.insert(field(NFTA_BITWISE_DREG)?, masked);
        Some(())
    }

    fn compare(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_CMP_SREG: u16 = 1;
        const NFTA_CMP_OP: u16 = 2;
        const NFTA_CMP_DATA: u16 = 3;
        const ETH_P_IP: [u8; 2] = [0x08, 0x00];
        const ETH_P_IPV6: [u8; 2] = [0x86, 0xdd];
        let bytes = value(find(data, NFTA_CMP_DATA)?)?;
        let operation = number(find(data, NFTA_CMP_OP)?)?;
        let is_not = operation == NFT_CMP_NEQ;
        let is_equal = operation == NFT_CMP_EQ || is_not;
        let said = &mut self.conditions;
        match self
            .registers
            .get(&number(find(data, NFTA_CMP_SREG)?)?)?
            .clone()
        {
            Loaded::Protocol if operation == NFT_CMP_EQ => said.protocol = Some(*bytes.first()?),
            Loaded::Version if operation == NFT_CMP_EQ => {
                said.version = Some(match i32::from(*bytes.first()?) {
                    libc::NFPROTO_IPV4 => 4,
                    libc::NFPROTO_IPV6 => 6,
                    _ => return None,
                });
            }
            Loaded::EtherType if operation == NFT_CMP_EQ => {
                said.version = Some(match *bytes.first_chunk()? {
                    ETH_P_IP => 4,
                    ETH_P_IPV6 => 6,
                    _ => return None,
                });
            }
            Loaded::Port if !is_not => return self.compare_port(operation, port(bytes)?),
            Loaded::Ports if operation == NFT_CMP_EQ => {
                let [high, low, port @ ..] = *bytes.first_chunk::<4>()?;
                let port = u16::from_be_bytes(port);
                said.ports.push(port..=port);
                // Else the sender's counts, too.
                return ([high, low] == [0, 0]).then_some(());
            }
            Loaded::Link { comes_in } if is_equal => {
                let what = link(bytes);
                said.links(comes_in).push(Is { what, is_not });
            }
            Loaded::Index { comes_in } if is_equal => {
                let what = Links::Numbered(read_u32(bytes, 0)?);
                said.links(comes_in).push(Is { what, is_not });
            }
            Loaded::Address {
                is_source,
                is_v6,
                mask,
            } if is_equal => {
                let what = net(bytes, mask.as_deref(), is_v6)?;
                said.addresses(is_source).push(Is { what, is_not });
            }
            Loaded::AddressType if operation == NFT_CMP_EQ && bytes == LOCAL => {
                said.is_local = true;
            }
            _ => return None,
        }
        Some(())
    }

    fn compare_port(&mut self, operation: u32, port: u16) -> Option<()> {
        let ports = &mut self.conditions.ports;
        let range = match operation {
            NFT_CMP_EQ => port..=port,
            NFT_CMP_GTE => port..=u16::MAX,
            NFT_CMP_LTE => ports.pop().map_or(0, |range| *range.start())..=port,
            _ => return None,
        };
        ports.push(range);
        Some(())
    }

    fn range(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_RANGE_SREG: u16 = 1;
        const NFTA_RANGE_OP: u16 = 2;
        const NFTA_RANGE_FROM_DATA: u16 = 3;
        const NFTA_RANGE_TO_DATA: u16 = 4;
        let register = number(find(data, NFTA_RANGE_SREG)?)?;
        let is_in = number(find(data, NFTA_RANGE_OP)?)? == NFT_CMP_EQ;
        if !is_in || self.registers.get(&register) != Some(&Loaded::Port) {
            return None;
        }
        let from = port(value(find(data, NFTA_RANGE_FROM_DATA)?)?)?;
        let to = port(value(find(data, NFTA_RANGE_TO_DATA)?)?)?;
        self.conditions.ports.push(from..=to);
        Some(())
    }

    fn lookup(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_LOOKUP_SET: u16 = 1;
        const NFTA_LOOKUP_SREG: u16 = 2;
        const NFTA_LOOKUP_DREG: u16 = 3;
        const NFTA_LOOKUP_FLAGS: u16 = 5;
        let key = match self.registers.get(&number(find(data, NFTA_LOOKUP_SREG)?)?) {
            Some(Loaded::Port) => Key::Port,
            Some(&Loaded::Link { comes_in }) => Key::Link { comes_in },
            Some(&Loaded::Index { comes_in }) => Key::Index { comes_in },
            Some(&Loaded::Address {
                is_source,
                is_v6,
                mask: None,
            }) => Key::Address { is_source, is_v6 },
            _ => Key::Other,
        };
        let flags = find(data, NFTA_LOOKUP_FLAGS).and_then(number);
        let is_not = flags.unwrap_or_default() != 0;
        self.conditions.lookups.push(Lookup {
            set: text(find(data, NFTA_LOOKUP_SET)?),
            key,
            is_not,
            to: find(data, NFTA_LOOKUP_DREG).and_then(number),
        });
        (!is_not && key != Key::Other).then_some(())
    }
}

impl Conditions {
    fn links(&mut self, comes_in: bool) -> &mut Vec<Is<Links>> {
        if comes_in {
            &mut self.links_in
        } else {
            &mut self.links_out
        }
    }

    fn addresses(&mut self, is_source: bool) -> &mut Vec<Is<IpNet>> {
        if is_source {
            &mut self.sources
        } else {
            &mut self.destinations
        }
    }
}

/// A name that ends is whole.
fn link(bytes: &[u8]) -> Links {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
    let text = String::from_utf8_lossy(name).into_owned();
    if name.len() < bytes.len() {
        Links::Named(text)
    } else {
        Links::Prefixed(text)
    }
}

/// The addresses that begin with these bytes, or have these bits.
fn net(bytes: &[u8], mask: Option<&[u8]>, is_v6: bool) -> Option<IpNet> {
    let mut all = bytes.to_vec();
    all.resize(if is_v6 { 16 } else { 4 }, 0);
    let len = match mask {
        None => bytes.len() * 8,
        Some(mask) => {
            let ones = mask.iter().take_while(|byte| **byte == 0xff).count();
            let rest = mask.get(ones).copied().unwrap_or_default();
            let is_prefix = rest.count_ones() == rest.leading_ones()
                && mask.iter().skip(ones + 1).all(|byte| *byte == 0);
            is_prefix.then_some(ones * 8 + rest.leading_ones() as usize)?
        }
    };
    IpNet::new(address(&all)?, u8::try_from(len).ok()?).ok()
}

pub(super) fn value(data: &[u8]) -> Option<&[u8]> {
    find(data, super::message::NFTA_DATA_VALUE)
}

pub(super) fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_not_understood() {
        let names = [
            "meta", "payload", "fib", "bitwise", "cmp", "range", "lookup", "match",
        ];
        for name in names {
            for len in 0..16 {
                let mut reader = Reader::new("ip");
                reader.read(name, &[0; 16][..len]);
                let has_more = reader.conditions.has_more;
                assert!(has_more || name == "meta", "{name} {len}");
            }
        }
        assert_eq!(
            address(&[192, 0, 2, 1]),
            Some(Ipv4Addr::new(192, 0, 2, 1).into())
        );
        assert_eq!(address(&[0; 5]), None);
    }

    #[test]
    fn networks_of_addresses() {
        let net = |bytes: &[u8], mask, is_v6| {
            net(bytes, mask, is_v6).map_or("-".to_string(), |net| net.to_string())
        };
        assert_eq!(net(&[192, 0, 2, 3], None, false), "192.0.2.3/32");
        assert_eq!(net(&[10, 1], None, false), "10.1.0.0/16");
        let mask: &[u8] = &[255, 255, 255, 0xf0];
        assert_eq!(net(&[192, 0, 2, 16], Some(mask), false), "192.0.2.16/28");
        let holes: &[u8] = &[255, 0, 255, 0];
        assert_eq!(net(&[192, 0, 2, 0], Some(holes), false), "-");
        assert_eq!(net(&[0xfd], None, true), "fd00::/8");
    }
}
