//! Which addresses there are to give: subnets that collide with nothing, candidates within them.

use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use crate::error::{Error, Result};
use crate::link::{Mac, Route};

/// Where a free subnet is looked for (RFC 1918's middle range).
const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12);

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
        let net: Ipv4Net = text
            .parse()
            .map_err(|_| "not a subnet: write it as 192.0.2.0/24, or auto".to_string())?;
        if net.addr() != net.network() {
            return Err(format!("has host bits set: its network is {}", net.trunc()));
        }
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
            if byte.len() == 2 {
                u8::from_str_radix(byte, 16).ok()
            } else {
                None
            }
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

/// The addresses that a container may get, each once: `start` after the gateway first, then around.
pub fn candidates(subnet: Ipv4Net, start: u32) -> impl Iterator<Item = Ipv4Addr> {
    // Without the network's own, the gateway's and the broadcast address.
    let count = (1u32 << (32 - subnet.prefix_len())) - 3;
    let first = u32::from(subnet.network()) + 2;
    (0..count).map(move |step| Ipv4Addr::from(first + (start % count + step) % count))
}

/// Refuses an address that no container of the network can have.
///
/// # Errors
/// One that names the address and the subnet.
pub fn check_fixed(address: Ipv4Addr, subnet: Ipv4Net, gateway: Ipv4Addr) -> Result<()> {
    let why = if !subnet.contains(&address) {
        format!("it is outside the subnet {subnet}; choose one inside, or another network")
    } else if address == gateway {
        format!("it is the gateway's of {subnet}; choose another")
    } else if address == subnet.broadcast() {
        format!("it is the broadcast address of {subnet}; choose another")
    } else if address == subnet.network() {
        format!("it is the network's own of {subnet}; choose another")
    } else {
        return Ok(());
    };
    Err(Error::new(format!("use address {address}: {why}")))
}

/// The route of the host that shares addresses with `subnet`, unless it is a default route.
pub fn colliding_route(routes: &[Route], subnet: Ipv4Net) -> Option<&Route> {
    routes.iter().find(|route| {
        let other = route.destination;
        other.prefix_len() > 0
            && (other.contains(&subnet.network()) || subnet.contains(&other.network()))
    })
}

/// The first subnet of `length` in 172.16.0.0/12 that shares no address with a route.
///
/// # Errors
/// When there is none.
pub fn free_subnet(routes: &[Route], length: u8) -> Result<Ipv4Net> {
    POOL.subnets(length)
        .ok()
        .and_then(|mut subnets| subnets.find(|subnet| colliding_route(routes, *subnet).is_none()))
        .ok_or_else(|| {
            Error::new(format!("choose a subnet: no /{length} of {POOL} is free of the host's routes; give --subnet"))
        })
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
                destination: net(to),
                link: None,
                gateway: None,
                is_local: false,
            })
            .collect()
    }

    #[test]
    fn every_host_address_is_a_candidate_once() {
        for start in [0, 1, 4, 5, u32::MAX] {
            let mut all: Vec<_> = candidates(net("192.0.2.8/29"), start).collect();
            all.sort();
            let expected: Vec<_> = (10..15).map(|n| Ipv4Addr::new(192, 0, 2, n)).collect();
            assert_eq!(all, expected, "start {start}");
        }
        assert_eq!(
            candidates(net("10.0.0.0/24"), 0).next(),
            Some(Ipv4Addr::new(10, 0, 0, 2))
        );
        assert_eq!(candidates(net("192.0.2.0/30"), 7).count(), 1);
    }

    #[test]
    fn a_fixed_address_is_a_host_of_the_subnet() {
        let subnet = net("172.19.0.0/16");
        let check = |a: [u8; 4]| check_fixed(a.into(), subnet, gateway_of(subnet));
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
            (&["172.18.0.0/16"], false),
        ] {
            assert_eq!(
                colliding_route(&routes(list), subnet).is_some(),
                collides,
                "{list:?}"
            );
        }
        assert_eq!(
            free_subnet(&routes(&["172.16.0.0/15"]), 16).unwrap(),
            net("172.18.0.0/16")
        );
        assert!(free_subnet(&routes(&["172.0.0.0/8"]), 16).is_err());
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
        assert_eq!(parse_mac("02:00:5e:10:00:01"), Ok([2, 0, 0x5e, 0x10, 0, 1]));
        assert_eq!(
            hawser::address::Mac([2, 0, 0x5e, 0x10, 0, 1]).to_string(),
            "02:00:5e:10:00:01"
        );
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:0g",
            "03:00:5e:10:00:01",
            "0:0:0:0:0:0",
            "00:00:00:00:00:00",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
