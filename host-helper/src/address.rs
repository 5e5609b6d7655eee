//! Which addresses there are to give: subnets that collide with nothing, candidates within them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Error, Result};
use crate::link::{Mac, Route};

/// Where a free subnet is looked for (RFC 1918's middle range).
pub const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12);

/// What `--subnet` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subnet {
    /// One that is free, from 172.16.0.0/12.
    Auto,
    /// This one.
    Fixed(Ipv4Net),
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "auto" {
            return Ok(Subnet::Auto);
        }
        let net: Ipv4Net = text.parse().map_err(|_| match text.parse() {
            Ok(IpNet::V6(_)) => "an IPv6 subnet; --subnet6 takes it".to_string(),
            _ => "not a subnet: write it as 192.0.2.0/24, or auto".to_string(),
        })?;
        check_host_bits(net.into())?;
        if !(8..=30).contains(&net.prefix_len()) {
            return Err("its prefix length must be 8 to 30".to_string());
        }
        let first = net.addr();
        if first.is_loopback()
            || first.is_multicast()
            || first.octets()[0] == 0
            || first.octets()[0] >= 240
        {
            return Err("no host may have an address in it".to_string());
        }
        Ok(Subnet::Fixed(net))
    }
}

fn check_host_bits(net: IpNet) -> std::result::Result<(), String> {
    if net.addr() == net.network() {
        return Ok(());
    }
    Err(format!("has host bits set: its network is {}", net.trunc()))
}

/// Reads what `--subnet6` says.
///
/// # Errors
/// The cause, for a sentence that names the subnet.
pub fn parse_subnet6(text: &str) -> std::result::Result<Ipv6Net, String> {
    let net: Ipv6Net = text.parse().map_err(|_| match text.parse() {
        Ok(IpNet::V4(_)) => "an IPv4 subnet; --subnet takes it",
        _ => "not a subnet: write it as 2001:db8::/64",
    })?;
    check_host_bits(net.into())?;
    // 32 bits at least are left, for the host part of any IPv4 address.
    if !(16..=96).contains(&net.prefix_len()) {
        return Err("its prefix length must be 16 to 96".to_string());
    }
    let first = net.addr();
    if first.is_multicast() || first.is_unicast_link_local() || first.segments()[0] == 0 {
        return Err("no host may have an address in it, or only on its own link".to_string());
    }
    Ok(net)
}

/// Reads what `--ip6` says.
///
/// # Errors
/// The cause, for a sentence that names the address.
pub fn parse_address6(text: &str) -> std::result::Result<Ipv6Addr, String> {
    text.parse().map_err(|_| match text.parse() {
        Ok(IpAddr::V4(_)) => "an IPv4 address; --ip takes it".to_string(),
        _ => "not an IPv6 address".to_string(),
    })
}

/// Reads what `--ip` says.
///
/// # Errors
/// As [`parse_address6`].
pub fn parse_address(text: &str) -> std::result::Result<Ipv4Addr, String> {
    text.parse().map_err(|_| match text.parse() {
        Ok(IpAddr::V6(_)) => "an IPv6 address; --ip6 takes it".to_string(),
        _ => "not an IPv4 address".to_string(),
    })
}

/// FNV-1a, 64 bits (RFC 9923): no protection against who chooses names on purpose, and none needed: root does.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The unique local subnet (RFC 4193) of the network `name` on the machine `id`: fd, 40 bits of the machine, 16 of the name.
/// `attempt` counts those that were taken.
pub fn unique_local(id: &[u8], name: &str, attempt: u32) -> Ipv6Net {
    // Not to be found back from: 40 bits of a hash of 128 (machine-id(5) asks for that).
    let machine = hash(&[b"hawser ", id].concat());
    let network = hash(name.as_bytes());
    let fold = |hash: u64, bits: u32| u128::from((hash >> bits ^ hash) & ((1 << bits) - 1));
    let subnet = (fold(fold(network, 32) as u64, 16) as u16).wrapping_add(attempt as u16);
    let bits = 0xfd << 120 | fold(machine, 40) << 80 | u128::from(subnet) << 64;
    Ipv6Net::new_assert(bits.into(), 64)
}

/// The address in `subnet6` whose host part is that of `address` in `subnet`; `None` where it does not fit.
pub fn same_host(address: Ipv4Addr, subnet: Ipv4Net, subnet6: Ipv6Net) -> Option<Ipv6Addr> {
    if 32 - subnet.prefix_len() > 128 - subnet6.prefix_len() {
        return None;
    }
    let host = u32::from(address) & u32::from(subnet.hostmask());
    Some((u128::from(subnet6.network()) | u128::from(host)).into())
}

/// The IPv4 address that `address6` goes with, if it is the one that [`same_host`] gives to one.
pub fn partner_of(address6: Ipv6Addr, subnet6: Ipv6Net, subnet: Ipv4Net) -> Option<Ipv4Addr> {
    let host = u128::from(address6) & u128::from(subnet6.hostmask());
    let host = u32::try_from(host).ok()?;
    (host <= u32::from(subnet.hostmask())).then(|| (u32::from(subnet.network()) | host).into())
}

/// The link-local address that the kernel would make of a hardware address (RFC 4291, appendix A), a second or two later.
pub fn link_local_of(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let [a, b, c] = [a ^ 2, b, c].map(u16::from);
    let [d, e, f] = [d, e, f].map(u16::from);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        a << 8 | b,
        c << 8 | 0xff,
        0xfe00 | d,
        e << 8 | f,
    )
}

/// The gateway of a network: the first address of its subnet.
pub fn gateway_of(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// The hardware address that goes with an address: the same again after a restart, so that no neighbour's ARP cache
/// is ever wrong. Locally administered (IEEE 802, bit 1 of the first byte).
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x00, a, b, c, d]
}

/// The hardware address of the host end of the veth whose container has `address`.
pub fn host_mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x01, a, b, c, d]
}

/// Reads a unicast hardware address, `02:00:5e:10:00:01`.
///
/// # Errors
/// The cause, for a sentence that names the address.
pub fn parse_mac(text: &str) -> std::result::Result<Mac, String> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| {
            // Digits alone: a sign would be read too.
            let is_hex = byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
            let number = is_hex.then(|| u8::from_str_radix(byte, 16));
            number.and_then(std::result::Result::ok)
        })
        .collect::<Option<_>>()
        .ok_or("not a MAC address: write it as 02:00:5e:10:00:01")?;
    let mac: Mac = bytes
        .try_into()
        .map_err(|_| "a MAC address has six bytes")?;
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(
            "not a unicast MAC address: its first byte must be even, and not all be zero"
                .to_string(),
        );
    }
    Ok(mac)
}

/// The first and the last address of a subnet that a container may get: without the network's own, the broadcast address
/// and, where that is the first, the gateway's.
pub fn usable(subnet: Ipv4Net, gateway: Ipv4Addr) -> (Ipv4Addr, Ipv4Addr) {
    let first = u32::from(subnet.network()) + 1;
    let first = first + u32::from(Ipv4Addr::from(first) == gateway);
    (first.into(), (u32::from(subnet.broadcast()) - 1).into())
}

/// The addresses of a range, each once: the one at `start` first, then around.
pub fn candidates(
    (first, last): (Ipv4Addr, Ipv4Addr),
    start: u32,
) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(first);
    let count = u32::from(last) - first + 1;
    (0..count).map(move |step| Ipv4Addr::from(first + (start % count + step) % count))
}

/// Refuses an address that no container of the network can have.
///
/// # Errors
/// One that names the address and the subnet.
pub fn check_fixed(address: IpAddr, subnet: IpNet, gateway: IpAddr) -> Result<()> {
    let why = if !subnet.contains(&address) {
        format!("it is outside the subnet {subnet}; choose one inside, or another network")
    } else if address == gateway {
        format!("it is the gateway's of {subnet}; choose another")
    } else if address.is_ipv4() && address == subnet.broadcast() {
        format!("it is the broadcast address of {subnet}; choose another")
    } else if address == subnet.network() {
        format!("it is the network's own of {subnet}; choose another")
    } else {
        return Ok(());
    };
    Err(Error::new(format!("use address {address}: {why}")))
}

/// Whether a route to these addresses is a default route, or stands for one: a VPN that is to have all packets may leave the default route as
/// it is, and have two to the halves of all addresses, or some to their eighths, and to all unique local ones (fc00::/7).
pub fn is_default(destination: IpNet) -> bool {
    // No network of anybody's is that wide; the widest one to be used as one likes is 10.0.0.0/8 (RFC 1918, section 3).
    const WIDEST: u8 = 8;
    destination.prefix_len() < WIDEST
}

/// The route of the host that shares addresses with `subnet`, unless it is a default route, or one to the subnet's own
/// address alone: no container gets that, and flannel gives it to its device. A wider one that leads nowhere is there to be told what does.
pub fn colliding_route(routes: &[Route], subnet: impl Into<IpNet>) -> Option<&Route> {
    let subnet = subnet.into();
    let own = IpNet::from(subnet.network());
    routes.iter().find(|route| {
        let other = route.destination;
        let is_wider = other.prefix_len() < subnet.prefix_len() && other.contains(&subnet);
        !is_default(other)
            && other != own
            && !(is_wider && route.leads_nowhere)
            && (other.contains(&subnet.network()) || subnet.contains(&other.network()))
    })
}

/// The first subnet of `length` in [`POOL`] that shares no address with a route.
pub fn free_subnet(routes: &[Route], length: u8) -> Option<Ipv4Net> {
    let mut subnets = POOL.subnets(length).ok()?;
    subnets.find(|subnet| colliding_route(routes, *subnet).is_none())
}

/// The subnet that [`unique_local`] gives first that shares no address with a route.
pub fn free_subnet6(routes: &[Route], machine: &[u8], name: &str) -> Option<Ipv6Net> {
    // As many as there are names: more do not come out of it.
    const ATTEMPTS: u32 = 1 << 16;
    (0..ATTEMPTS)
        .map(|attempt| unique_local(machine, name, attempt))
        .find(|subnet| colliding_route(routes, *subnet).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn routes(list: &[&str]) -> Vec<Route> {
        list.iter()
            .map(|to| Route {
                destination: net(to).into(),
                link: None,
                other_links: Vec::new(),
                gateway: None,
                is_local: false,
                leads_nowhere: false,
                is_advertised: false,
                mtu: None,
                table: 254,
            })
            .collect()
    }

    fn of(subnet: &str, start: u32) -> impl Iterator<Item = Ipv4Addr> {
        candidates(usable(net(subnet), gateway_of(net(subnet))), start)
    }

    #[test]
    fn every_host_address_is_a_candidate_once() {
        for start in [0, 1, 4, 5, u32::MAX] {
            let mut all: Vec<_> = of("192.0.2.8/29", start).collect();
            all.sort();
            let expected: Vec<_> = (10..15).map(|n| Ipv4Addr::new(192, 0, 2, n)).collect();
            assert_eq!(all, expected, "start {start}");
        }
        assert_eq!(
            of("10.0.0.0/24", 0).next(),
            Some(Ipv4Addr::new(10, 0, 0, 2))
        );
        assert_eq!(of("192.0.2.0/30", 7).count(), 1);
        let range = usable(net("192.0.2.0/29"), Ipv4Addr::new(192, 0, 2, 6));
        assert_eq!(
            range.0,
            Ipv4Addr::new(192, 0, 2, 1),
            "another is the gateway's"
        );
    }

    #[test]
    fn a_fixed_address_is_a_host_of_the_subnet() {
        let subnet = net("172.19.0.0/16");
        let check = |a: [u8; 4]| {
            check_fixed(
                Ipv4Addr::from(a).into(),
                subnet.into(),
                gateway_of(subnet).into(),
            )
        };
        assert!(check([172, 19, 0, 2]).is_ok());
        for bad in [
            [172, 20, 0, 2],
            [172, 19, 0, 1],
            [172, 19, 255, 255],
            [172, 19, 0, 0],
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wider_and_a_narrower_route_collide_and_a_default_route_does_not() {
        let subnet = net("172.19.0.0/16");
        for (list, collides) in [
            (&["172.16.0.0/12"], true),
            (&["172.19.4.0/24"], true),
            (&["172.19.0.0/16"], true),
            (&["0.0.0.0/0"], false),
            (&["128.0.0.0/1"], false),
            (&["172.0.0.0/8"], true),
            (&["172.19.0.0/32"], false),
            (&["172.19.0.1/32"], true),
            (&["172.18.0.0/16"], false),
        ] {
            assert_eq!(
                colliding_route(&routes(list), subnet).is_some(),
                collides,
                "{list:?}"
            );
        }
        for (nowhere, collides) in [
            ("172.16.0.0/12", false),
            ("172.19.0.0/16", true),
            ("172.19.4.0/24", true),
        ] {
            let mut routes = routes(&[nowhere]);
            routes[0].leads_nowhere = true;
            assert_eq!(
                colliding_route(&routes, subnet).is_some(),
                collides,
                "{nowhere}"
            );
        }
        assert_eq!(
            free_subnet(&routes(&["172.16.0.0/15"]), 16).unwrap(),
            net("172.18.0.0/16")
        );
        assert!(free_subnet(&routes(&["172.0.0.0/8"]), 16).is_none());
    }

    #[test]
    fn an_ipv6_address_has_the_host_part_of_its_ipv4_address() {
        let (four, six) = (net("172.19.0.0/16"), "fd00:1:2:3::/64".parse().unwrap());
        for (address, expected) in [
            ([172, 19, 0, 2], "fd00:1:2:3::2"),
            ([172, 19, 255, 254], "fd00:1:2:3::fffe"),
        ] {
            let made = same_host(address.into(), four, six).unwrap();
            assert_eq!(made, expected.parse::<Ipv6Addr>().unwrap());
            assert_eq!(partner_of(made, six, four), Some(address.into()));
        }
        for beyond in ["fd00:1:2:3::1:0", "fd00:1:2:3:8000::2"] {
            assert_eq!(partner_of(beyond.parse().unwrap(), six, four), None);
        }
        let narrow = "2001:db8::/120".parse().unwrap();
        assert_eq!(same_host([172, 19, 0, 2].into(), four, narrow), None);
        assert_eq!(
            check_fixed(
                "fd00:1:2:3::".parse().unwrap(),
                six.into(),
                "fd00:1:2:3::1".parse().unwrap()
            )
            .unwrap_err()
            .to_string(),
            "use address fd00:1:2:3::: it is the network's own of fd00:1:2:3::/64; choose another"
        );
    }

    #[test]
    fn unique_local_subnets_differ_by_machine_name_and_attempt() {
        let one = unique_local(b"0123", "hawser0", 0);
        assert_eq!(one, unique_local(b"0123", "hawser0", 0));
        assert_eq!((one.addr().octets()[0], one.prefix_len()), (0xfd, 64));
        let site = |net: Ipv6Net| net.addr().octets()[..6].to_vec();
        for other in [
            unique_local(b"0123", "hawser1", 0),
            unique_local(b"0123", "hawser0", 1),
        ] {
            assert!(other != one && site(other) == site(one), "{other} {one}");
        }
        assert_ne!(site(unique_local(b"0124", "hawser0", 0)), site(one));
    }

    #[test]
    fn a_link_local_address_is_the_kernels() {
        let made = link_local_of([0x02, 0x00, 0xac, 0x13, 0x00, 0x02]);
        assert_eq!(made.to_string(), "fe80::acff:fe13:2");
    }

    #[test]
    fn subnets_and_macs_are_checked() {
        assert_eq!("auto".parse(), Ok(Subnet::Auto));
        assert_eq!(
            "192.0.2.0/24".parse(),
            Ok(Subnet::Fixed(net("192.0.2.0/24")))
        );
        for bad in [
            "192.0.2.1/24",
            "192.0.2.0",
            "192.0.2.0/31",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        assert!(parse_subnet6("2001:db8:7::/64").is_ok());
        for bad in [
            "2001:db8::1/64",
            "192.0.2.0/24",
            "fe80::/64",
            "ff00::/16",
            "::/64",
            "2001:db8::/97",
            "fc00::/7",
            "",
        ] {
            assert!(parse_subnet6(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_mac("02:00:5e:10:00:01"), Ok([2, 0, 0x5e, 0x10, 0, 1]));
        assert_eq!(
            hawser::address::Mac([2, 0, 0x5e, 0x10, 0, 1]).to_string(),
            "02:00:5e:10:00:01"
        );
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:0g",
            "+2:00:00:00:00:+5",
            "03:00:5e:10:00:01",
            "0:0:0:0:0:0",
            "00:00:00:00:00:00",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
