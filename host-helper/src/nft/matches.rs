//! Conditions of iptables that nf_tables asks an extension of the kernel for.

use hawser::netlink::{read_u16, read_u32};

use super::conditions::Conditions;
use super::foreign::{number, text};
use crate::netlink::find;

impl Conditions {
    /// A match of iptables (linux/netfilter/xt_tcpudp.h, xt_multiport.h, xt_addrtype.h).
    pub(super) fn extension(&mut self, data: &[u8]) -> Option<()> {
        const NFTA_MATCH_NAME: u16 = 1;
        const NFTA_MATCH_REV: u16 = 2;
        const NFTA_MATCH_INFO: u16 = 3;
        let info = find(data, NFTA_MATCH_INFO)?;
        let revision = number(find(data, NFTA_MATCH_REV)?)?;
        match (text(find(data, NFTA_MATCH_NAME)?).as_str(), revision) {
            ("comment", _) => Some(()),
            // The sender's ports, the receiver's; of TCP an option and flags; what is inverted.
            (name @ ("tcp" | "udp"), _) => {
                let all = 0..=u16::MAX;
                let ports = |at| Some(read_u16(info, at)?..=read_u16(info, at + 2)?);
                let to = ports(4)?;
                self.ports.extend((to != all).then_some(to));
                let rest = info.get(8..if name == "tcp" { 12 } else { 9 })?;
                let has_no_more = ports(0)? == all && rest.iter().all(|byte| *byte == 0);
                has_no_more.then_some(())
            }
            // Which ports, how many, 15 of them, whether each begins a range, inverted.
            ("multiport", 1) => {
                const RECEIVER: u8 = 1;
                let [flags, count] = *info.first_chunk()?;
                let mut at = 0..usize::from(count).min(15);
                while let Some(place) = at.next() {
                    let first = read_u16(info, 2 + 2 * place)?;
                    let is_range = *info.get(32 + place)? != 0;
                    let last = if is_range { at.next()? } else { place };
                    self.ports.push(first..=read_u16(info, 2 + 2 * last)?);
                }
                (flags == RECEIVER && *info.get(47)? == 0).then_some(())
            }
            // Types of the sender, and of the receiver, a bit for each; flags.
            ("addrtype", 1) => {
                let types = (read_u16(info, 0)?, read_u16(info, 2)?, read_u32(info, 4)?);
                self.is_local = types == (0, 1 << libc::RTN_LOCAL, 0);
                self.is_local.then_some(())
            }
            // Four names of links, what is inverted, what is asked (linux/netfilter/xt_physdev.h).
            ("physdev", 0) => {
                const BRIDGED: u8 = 1 << 2;
                self.is_bridged = *info.get(64..66)? == [0, BRIDGED];
                None
            }
            _ => None,
        }
    }
}
