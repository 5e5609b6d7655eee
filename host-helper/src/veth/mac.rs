//! The hardware address that a container is to have: nobody else has it.

use std::net::{IpAddr, Ipv4Addr};

use super::{Veth, Wish};
use crate::address::{host_mac_of, mac_of};
use crate::bridge::Network;
use crate::error::{Doing, Error, Result};
use crate::link::Mac;
use crate::netlink::Netlink;
use crate::owner::{Mark, lease_name};

/// A container that had the hardware address of the host would get nothing: frames for it are the host's. One that had a neighbour's would get
/// that one's: a bridge sends them to where it has last heard the address.
pub(super) fn check_mac(route: &mut Netlink, mac: Mac, wish: &Wish) -> Result<()> {
    let network = wish.network;
    let [.., a, b, c, d] = mac;
    let address = Ipv4Addr::from([a, b, c, d]);
    let is_of_subnet = network.subnet.contains(&address);
    let holder = match network.bridge {
        Some(bridge) if bridge.mac == mac => format!("bridge {}, the gateway", network.name),
        _ if is_of_subnet && mac == host_mac_of(address) => {
            format!("{}, the host's end of {address}", lease_name(address))
        }
        Some(_) if is_of_subnet && mac == mac_of(address) && wish.address != Some(address) => {
            format!("whoever has {address}")
        }
        Some(bridge) => {
            return check_neighbours(route, mac, bridge.index, wish.address, wish.words.mac);
        }
        None => return Ok(()),
    };
    Err(mac_in_use(mac, &holder, wish.words.mac))
}

/// Refuses the hardware address of a container that has it on this bridge, at another address than `own`.
fn check_neighbours(
    route: &mut Netlink,
    mac: Mac,
    bridge: u32,
    own: Option<Ipv4Addr>,
    cure: &str,
) -> Result<()> {
    match neighbour_with(route, mac, bridge, own)? {
        Some(name) => Err(mac_in_use(mac, &format!("container {name}"), cure)),
        None => Ok(()),
    }
}

fn mac_in_use(mac: Mac, holder: &str, cure: &str) -> Error {
    Error::new(format!(
        "use hardware address {}: it is that of {holder}; choose another {cure}",
        hawser::address::Mac(mac)
    ))
}

/// Whether somebody else who began at the same moment has been given the hardware address since [`super::create`] has looked. `cure` names what
/// asks for one.
///
/// Before: under the lock that is held until the host knows our own.
///
/// # Errors
/// Names that one.
pub fn check_mac_again(
    route: &mut Netlink,
    veth: &Veth,
    network: &Network,
    cure: &str,
) -> Result<()> {
    let Some(bridge) = network.bridge else {
        return Ok(());
    };
    check_neighbours(route, veth.mac, bridge.index, Some(veth.address), cure)
}

/// The container on a bridge of ours that has been given this hardware address, at another address than `own`. What is known of the dead, whose
/// supervisor was killed, is in nobody's way.
fn neighbour_with(
    route: &mut Netlink,
    mac: Mac,
    bridge: u32,
    own: Option<Ipv4Addr>,
) -> Result<Option<String>> {
    let doing = || "look whose hardware address it is".to_string();
    for neighbour in route.permanent_neighbours().doing(doing)? {
        let IpAddr::V4(address) = neighbour.address else {
            continue;
        };
        if neighbour.link != bridge || neighbour.mac != Some(mac) || own == Some(address) {
            continue;
        }
        let link = route.find_link(&lease_name(address)).doing(doing)?;
        let living = link
            .and_then(|link| link.mark)
            .filter(|mark| !mark.is_dead());
        if let Some((name, _)) = living.as_ref().and_then(Mark::container) {
            return Ok(Some(name.to_string()));
        }
    }
    Ok(None)
}
