//! The rtnetlink messages that it takes (rtnetlink(7)), one after the other in a buffer; the last one asks for an answer.

/// `IFLA_INFO_KIND` and so on are libc's; this one is linux/veth.h's.
const VETH_INFO_PEER: u16 = 1;
/// linux/if_link.h.
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;

/// Messages.
#[derive(Default)]
pub struct Batch(pub Vec<u8>);

impl Batch {
    /// A message with its fixed header; `body` adds the attributes.
    fn message(&mut self, kind: u16, flags: i32, header: &[u8], body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend([0; 8]);
        self.0.extend(header);
        body(self);
        let length = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute that `body` fills.
    fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        body(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |batch| batch.0.extend(value));
    }
}

/// struct ifinfomsg.
fn info(index: i32, flags: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Both ends: this one up and on the bridge, the other one born as eth0 where the process `inside` is. One queue each: the kernel would
/// make one for each processor, and shrink them again.
pub fn link(batch: &mut Batch, number: u32, bridge: i32, inside: i32) {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK;
    let queues = |batch: &mut Batch| {
        batch.put(IFLA_NUM_TX_QUEUES, &1_u32.to_ne_bytes());
        batch.put(IFLA_NUM_RX_QUEUES, &1_u32.to_ne_bytes());
    };
    batch.message(libc::RTM_NEWLINK, flags, &info(0, libc::IFF_UP), |batch| {
        batch.put(libc::IFLA_IFNAME, format!("fl{number:08x}\0").as_bytes());
        batch.put(libc::IFLA_MASTER, &bridge.to_ne_bytes());
        queues(batch);
        batch.nest(libc::IFLA_LINKINFO, |batch| {
            batch.put(libc::IFLA_INFO_KIND, b"veth");
            batch.nest(libc::IFLA_INFO_DATA, |batch| {
                batch.nest(VETH_INFO_PEER, |batch| {
                    batch.0.extend(info(super::ETH0, 0));
                    batch.put(libc::IFLA_IFNAME, b"eth0\0");
                    batch.put(libc::IFLA_NET_NS_PID, &inside.to_ne_bytes());
                    queues(batch);
                });
            });
        });
    });
}

/// A link comes up.
pub fn link_up(batch: &mut Batch, index: i32) {
    batch.message(libc::RTM_NEWLINK, 0, &info(index, libc::IFF_UP), |_| ());
}

/// ADDRESS/16.
pub fn address(batch: &mut Batch, index: i32, address: u32) {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let [a, b, c, d] = index.to_ne_bytes();
    let header = [libc::AF_INET as u8, 16, 0, 0, a, b, c, d];
    batch.message(libc::RTM_NEWADDR, flags, &header, |batch| {
        batch.put(libc::IFA_LOCAL, &address.to_be_bytes());
        batch.put(libc::IFA_ADDRESS, &address.to_be_bytes());
    });
}

/// The default route.
pub fn route(batch: &mut Batch, gateway: u32) {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_ACK;
    let mut header = [0; 12];
    header[0] = libc::AF_INET as u8;
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = libc::RTPROT_BOOT;
    header[6] = libc::RT_SCOPE_UNIVERSE;
    header[7] = libc::RTN_UNICAST;
    batch.message(libc::RTM_NEWROUTE, flags, &header, |batch| {
        batch.put(libc::RTA_GATEWAY, &gateway.to_be_bytes());
    });
}

/// A look at the host end: it makes the kernel finish what eth0's coming up has begun, and the bridge's port forwards.
pub fn look(batch: &mut Batch, number: u32) {
    batch.message(libc::RTM_GETLINK, 0, &info(0, 0), |batch| {
        batch.put(libc::IFLA_IFNAME, format!("fl{number:08x}\0").as_bytes());
    });
}
