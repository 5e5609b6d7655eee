//! One container's veth: created in one message, its peer born inside, its host end's name the lease of the address.

mod mac;
mod port;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use hawser::netlink::{Writer, ifinfomsg};
use ipnet::{IpNet, Ipv6Net};
use nix::errno::Errno;

use crate::address::{candidates, host_mac_of, link_local_of, mac_of, partner_of, usable};
use crate::bridge::{self, LOCAL, Network, UNICAST};
use crate::conntrack::Holder;
use crate::error::{Doing, Error, Result};
use crate::link::Mac;
use crate::mark::write_altname;
use crate::netlink::{ACK, CREATE, Netlink};
use crate::nft;
use crate::owner::lease_name;
use crate::ptp;
use crate::reclaim::reclaim;
use crate::sys;
use crate::wanted::Words;

pub use mac::check_mac_again;
pub use port::{just_removed, let_back, set_up, settle};

use mac::check_mac;
use port::{COMES_UP_LATE, bring_up};

/// Name of the interface inside, unless another is asked for.
pub const INSIDE: &str = "eth0";
/// Behind the error of who finds no address free. No system call of ours gives it: not EXFULL, which is what a full bridge gives.
pub const NONE_FREE: Errno = Errno::EDOTDOT;

/// What a veth is to be like.
pub struct Wish<'a> {
    /// Whose it is to be: the container's name, which is leased.
    pub name: &'a str,
    /// Name of the interface inside.
    pub inside: &'a str,
    /// The addresses that it may get, instead of all of the network.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Its frames are checked.
    pub checks_sources: bool,
    /// The network it joins.
    pub network: &'a Network,
    /// The container's address, or any: one that the network can give.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address, or the one that goes with the other.
    pub address6: Option<Ipv6Addr>,
    /// The network's IPv6 subnet was asked for: without a bridge, that of other IPv4 subnets may be the same.
    pub names_subnet6: bool,
    /// Where the search for a free one starts.
    pub offset: u32,
    /// The hardware address inside, or the one that goes with the address.
    pub mac: Option<Mac>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// The network namespace that the peer is born in.
    pub namespace: BorrowedFd<'a>,
    /// What cures name.
    pub words: Words,
}

/// A veth that is there.
#[derive(Debug, Clone)]
pub struct Veth {
    /// Name of the host end.
    pub name: String,
    /// Number of the host end.
    pub index: u32,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, where the network has a subnet for it.
    pub address6: Option<Ipv6Addr>,
    /// Its link-local address: there whenever `address6` is.
    pub link_local: Option<Ipv6Addr>,
    /// The hardware address inside.
    pub mac: Mac,
}

/// One of a container's addresses with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// The network's subnet that it is of.
    pub subnet: IpNet,
    /// The host's own address there.
    pub gateway: IpAddr,
}

impl Veth {
    /// Its address in each family that it has.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let both = [Some(self.address.into()), self.address6.map(IpAddr::V6)];
        both.into_iter().flatten()
    }

    /// Whose the connections of its addresses are.
    pub fn holder(&self) -> Holder {
        Holder {
            link: self.name.clone(),
            index: self.index,
            addresses: self.addresses().collect(),
        }
    }

    /// Its place in each family that it has.
    pub fn places(&self, network: &Network) -> impl Iterator<Item = Place> + use<> {
        let v4 = Place {
            address: self.address.into(),
            subnet: network.subnet.into(),
            gateway: network.gateway.into(),
        };
        let v6 = match (self.address6, network.subnet6, network.gateway6) {
            (Some(address), Some(subnet), Some(gateway)) => Some(Place {
                address: address.into(),
                subnet: subnet.into(),
                gateway: gateway.into(),
            }),
            _ => None,
        };
        [Some(v4), v6].into_iter().flatten()
    }
}

/// Creates the veth on the first address that is free; the kernel's `EEXIST` is the lease that another has.
///
/// Before: the namespace is there. After: both ends are there, the host end is enslaved, and up unless that is left to [`set_up`]; nothing
/// is marked yet, but for the lease of an IPv6 address that goes with no IPv4 one. Undone by the end of the namespace.
///
/// # Errors
/// A taken fixed address names its holder; an exhausted subnet, a full bridge say what to do.
pub fn create(route: &mut Netlink, wish: &Wish) -> Result<Veth> {
    if let Some(mac) = wish.mac {
        check_mac(route, mac, wish)?;
    }
    let address = create_link(route, wish)?;
    let network = wish.network;
    let mac = wish.mac.unwrap_or_else(|| mac_of(address));
    let address6 = network
        .subnet6
        .and_then(|_| wish.address6.or_else(|| network.partner6(address)));
    let name = lease_name(address);
    let index = sys::link_index(route.as_fd(), &name)
        .doing(|| format!("look for link {name}"))
        .inspect_err(|_| drop(bridge::delete(route, &name)))?;
    let veth = Veth {
        name,
        index,
        address,
        address6,
        link_local: address6.map(|_| link_local_of(mac)),
        mac,
    };
    // A namespace that is not ours does not end with us, and take it back.
    finish(route, wish, &veth).inspect_err(|_| drop(route.delete_link(veth.index)))?;
    Ok(veth)
}

fn finish(route: &mut Netlink, wish: &Wish, veth: &Veth) -> Result<()> {
    let network = wish.network;
    if network.bridge.is_some() && !*COMES_UP_LATE {
        bring_up(route, veth, network)?;
    }
    let (Some(address6), Some(subnet6)) = (veth.address6, network.subnet6) else {
        return Ok(());
    };
    let is_shared = network.bridge.is_none() && wish.names_subnet6;
    if is_shared {
        await_route(route, wish, address6)?;
    }
    if is_shared || partner_of(address6, subnet6, network.subnet) != Some(veth.address) {
        lease_too(route, wish, veth, address6)?;
    }
    Ok(())
}

/// Whoever has an address of the same subnet without a lease, since it was not asked for there, has a route: it is gone, or a living holder named.
fn await_route(route: &mut Netlink, wish: &Wish, address: Ipv6Addr) -> Result<()> {
    let doing = || format!("look for a route to {address}");
    let found = route.routes_to(&[address.into()]).doing(doing)?;
    let mut found = found.into_iter().flatten();
    let theirs = found.find(|found| found.destination.prefix_len() == 128);
    let Some(index) = theirs.and_then(|found| found.link) else {
        return Ok(());
    };
    match route.link(index).doing(doing)? {
        Some(link) => reclaim(route, &link.name, &format!("address {address}"), wish.name),
        None => Ok(()),
    }
}

fn create_link(route: &mut Netlink, wish: &Wish) -> Result<Ipv4Addr> {
    let network = wish.network;
    if let Some(address) = wish.address {
        while !try_create(route, wish, address)? {
            reclaim(
                route,
                &lease_name(address),
                &format!("address {address}"),
                wish.name,
            )?;
        }
        return Ok(address);
    }
    let range = wish
        .range
        .unwrap_or_else(|| usable(network.subnet, network.gateway));
    let all = || candidates(range, wish.offset).filter(|address| !network.is_own(*address));
    // In a large subnet half of it is never taken (a bridge has 1,023 ports): nothing to be gained by the rest.
    for address in all() {
        if try_candidate(route, wish, address)? {
            return Ok(address);
        }
    }
    // All are taken; those of the dead are being given back at this moment, or were left over.
    for address in all() {
        if reclaim(
            route,
            &lease_name(address),
            &format!("address {address}"),
            wish.name,
        )
        .is_ok()
            && try_candidate(route, wish, address)?
        {
            return Ok(address);
        }
    }
    let all_of = match wish.range {
        Some((first, last)) => format!("{first} to {last}"),
        None => network.subnet.to_string(),
    };
    let cure = match network.bridge {
        Some(_) => format!(
            "use another {} with a wider {}",
            wish.words.bridge, wish.words.subnet
        ),
        None => format!("choose another {}", wish.words.subnet),
    };
    Err(Error::new(format!(
        "take an address on {}: all of {all_of} are in use (host-helper ls shows by whom); {cure}",
        network.name
    ))
    .cause(NONE_FREE))
}

/// Leases an address by a further name of the link.
fn lease_too(route: &mut Netlink, wish: &Wish, veth: &Veth, address: Ipv6Addr) -> Result<()> {
    let lease = lease_name(address);
    loop {
        let done = route.request(|batch, sequence| {
            write_altname(batch, sequence, veth, &lease);
        });
        match done {
            Err(refusal) if refusal.errno == Errno::EEXIST => {
                reclaim(route, &lease, &format!("address {address}"), wish.name)?;
            }
            done => return done.doing(|| format!("take address {address}")),
        }
    }
}

/// One attempt; false for an address that somebody has, be it somebody else's.
fn try_candidate(route: &mut Netlink, wish: &Wish, address: Ipv4Addr) -> Result<bool> {
    let is_in_the_way =
        wish.network.bridge.is_none() && ptp::leads_elsewhere(route, wish.network, address)?;
    Ok(!is_in_the_way && try_create(route, wish, address)?)
}

/// One attempt; false when the host name is taken.
fn try_create(route: &mut Netlink, wish: &Wish, address: Ipv4Addr) -> Result<bool> {
    let name = lease_name(address);
    let network = &wish.network.name;
    // Twice: the holder may have gone between the kernel's refusal and our look for it.
    for _ in 0..2 {
        // Travels alone: the kernel goes on with a batch after an error, and the rest would hit the living holder's.
        let refusal =
            match route.request(|batch, sequence| write_veth(batch, sequence, wish, address)) {
                Ok(()) => return Ok(true),
                Err(refusal) => refusal,
            };
        if refusal.errno != Errno::EEXIST {
            delete_unanswered(route, wish, &name);
            return Err(refusal)
                .doing(|| format!("create veth {name} on {network}"))
                .map_err(|e| explain_create(e, wish.network, wish.words.bridge));
        }
        if route
            .find_link(&name)
            .doing(|| format!("look for link {name}"))?
            .is_some()
        {
            return Ok(false);
        }
    }
    Err(Error::new(format!(
        "create veth {name} on {network}: the namespace has a link {} already",
        wish.inside
    ))
    .cause(Errno::EEXIST))
}

/// Deletes a link that is there all the same: whose answer did not come. One that leads elsewhere is another's; and so is one with another
/// name that leads to the same place, whose maker may be about to mark it.
fn delete_unanswered(route: &mut Netlink, wish: &Wish, name: &str) {
    let Ok(Some(end)) = route.find_link(name) else {
        return;
    };
    let netns = route.namespace_id(wish.namespace).ok().flatten();
    if end.mark.is_none() && netns.is_some() && end.peer_netns == netns {
        // What stays is `unmarked`.
        let _ = route.delete_link(end.index);
    }
}

fn explain_create(error: Error, network: &Network, bridge: &str) -> Error {
    error
        .cure(
            Errno::EXFULL,
            &format!("a bridge holds 1,023 ports; give this container another {bridge}"),
        )
        .cure(
            Errno::EOPNOTSUPP,
            "the kernel lacks veth: enable CONFIG_VETH (modprobe veth)",
        )
        .cure(Errno::EPERM, "run as root (sudo), or inside `unshare -rnm`")
        .cure(Errno::ENODEV, &network.run_again())
        .cure(
            Errno::EINVAL,
            &format!("if {} has just been removed, run it again", network.name),
        )
}

/// `IF_OPER_DORMANT` (linux/if.h, RFC 2863): what a host end is born as. A new link is taken for one that works until the kernel looks (linkwatch),
/// and the bridge would have a carrier, and lose it again, with all who use links waiting for that.
const DORMANT: u8 = 5;

fn write_veth(batch: &mut Writer, sequence: u32, wish: &Wish, address: Ipv4Addr) {
    const VETH_INFO_PEER: u16 = 1; // linux/veth.h
    let up = if wish.network.bridge.is_some() {
        0
    } else {
        libc::IFF_UP as u32
    };
    batch.begin(
        libc::RTM_NEWLINK,
        CREATE | ACK,
        sequence,
        &ifinfomsg(0, up, up),
    );
    batch.string(libc::IFLA_IFNAME, &lease_name(address));
    let mut mac = host_mac_of(address);
    if !wish.network.is_ours {
        // A bridge whose address nobody has set takes the lowest of its ports': not this one. Locally administered, as ours are.
        mac[0] = 0xfe;
    }
    batch.attribute(libc::IFLA_ADDRESS, &mac);
    match wish.network.bridge {
        Some(bridge) => {
            batch.number(libc::IFLA_MASTER, bridge.index);
            if wish.checks_sources {
                batch.number(libc::IFLA_GROUP, nft::PORT_GROUP);
            }
            if *COMES_UP_LATE {
                batch.attribute(libc::IFLA_OPERSTATE, &[DORMANT]);
            }
        }
        None => batch.number(libc::IFLA_GROUP, nft::group_of(wish.network)),
    }
    write_end(batch, wish.mtu);
    let info = batch.open(libc::IFLA_LINKINFO);
    batch.string(libc::IFLA_INFO_KIND, "veth");
    let data = batch.open(libc::IFLA_INFO_DATA);
    let peer = batch.open(VETH_INFO_PEER);
    batch.bytes(&ifinfomsg(0, 0, 0));
    batch.string(libc::IFLA_IFNAME, wish.inside);
    batch.attribute(
        libc::IFLA_ADDRESS,
        &wish.mac.unwrap_or_else(|| mac_of(address)),
    );
    batch.number(libc::IFLA_NET_NS_FD, wish.namespace.as_raw_fd() as u32);
    write_end(batch, wish.mtu);
    batch.close(peer);
    batch.close(data);
    batch.close(info);
    batch.end();
}

fn write_end(batch: &mut Writer, mtu: u32) {
    batch.number(libc::IFLA_MTU, mtu);
    // Else one queue per CPU, half of the cost of the whole request.
    batch.number(libc::IFLA_NUM_TX_QUEUES, 1);
    batch.number(libc::IFLA_NUM_RX_QUEUES, 1);
}

/// Gives the host end of a point-to-point veth the gateways' addresses; the routes to the container come with them.
///
/// # Errors
/// What the kernel says.
pub fn address_host_end(route: &mut Netlink, veth: &Veth, network: &Network) -> Result<()> {
    let doing = || format!("add address {} to {}", network.gateway, veth.name);
    let write = |batch: &mut Writer, first: u32| {
        let mut sequence = first;
        for place in veth.places(network) {
            let host = IpNet::from(place.gateway);
            bridge::write_address(batch, sequence, veth.index, host, Some(place.address));
            sequence += 1;
        }
        let early = [(network.gateway6, LOCAL), (veth.address6, UNICAST)];
        for (address, kind) in early {
            if let Some(address) = address {
                bridge::write_early_route(batch, sequence, veth.index, address, kind);
                sequence += 1;
            }
        }
        sequence - 1
    };
    route.exchange(write, |_| {}).doing(doing)
}

/// Gives the host end of a point-to-point veth its link-local address, where the host is to ask who is there: for a packet that it forwards
/// it asks by that one (ndisc_solicit()). The kernel would make the same one, and be a second about it; or none (`addr_gen_mode` 1).
///
/// # Errors
/// What the kernel says.
pub fn add_link_local(route: &mut Netlink, veth: &Veth) -> Result<()> {
    let own = link_local_of(host_mac_of(veth.address));
    let own = Ipv6Net::new_assert(own, 64);
    let added = route.request(|batch, sequence| {
        bridge::write_address(batch, sequence, veth.index, own.into(), None);
    });
    match added {
        Err(refusal) if refusal.errno == Errno::EEXIST => Ok(()),
        added => added.doing(|| format!("add address {own} to {}", veth.name)),
    }
}
