//! The network configuration: what it asks for, with the meaning that the reference plugins give it. What it asks for and
//! cannot have is refused, with the reason; nothing of it is passed over but what the specification lets runtimes add.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::call::Call;
use super::fault::Fault;
use super::ipam::{self, Addressing};
use super::members::{Members, configuration, parsed, unsupported, wrong};
use crate::address::parse_mac;
use crate::bridge;
use crate::link::{Mac, is_link_local};
use crate::nft::Policy;
use crate::publish::{self, Port, Protocol};
use crate::request::NetworkChoice;
use crate::uplink::LEAST_MTU6;

/// The bridge that is meant where none is named, as the reference plugin has it.
const BRIDGE: &str = "cni0";

/// What a configuration asks for.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// A bridge, or point-to-point.
    pub network: NetworkChoice,
    /// Its name.
    pub bridge: String,
    /// `ipMasq`
    pub policy: Policy,
    /// `macspoofchk`
    pub checks_sources: bool,
    /// In bytes.
    pub mtu: Option<u32>,
    /// `hairpinMode`
    pub is_hairpin: bool,
    /// `promiscMode`
    pub is_promiscuous: bool,
    /// `isDefaultGateway`; nothing is said: where nothing is said of addresses either.
    pub is_default_gateway: Option<bool>,
    /// The hardware address that is wanted.
    pub mac: Option<Mac>,
    /// The ports that are wanted.
    pub ports: Vec<Port>,
    /// What is said of names, by the network or by who calls.
    pub dns: Option<Value>,
    /// Where addresses come from.
    pub addressing: Addressing,
    /// What the plugins before us have made.
    pub previous: Option<Value>,
}

impl Configuration {
    /// Reads all of it.
    ///
    /// # Errors
    /// What makes no sense, or cannot be had.
    pub fn read(call: &Call) -> Result<Configuration, Fault> {
        let mut all = Members::of("", Some(call.configuration.clone()))?;
        all.ignore(&COMMON);
        let previous = all.take("prevResult");
        if let Some(other) = previous.as_ref().filter(|value| !value.is_object()) {
            return Err(wrong("prevResult", other, "an object"));
        }
        let network = all.parsed("mode", parse_mode)?;
        let network = network.unwrap_or(NetworkChoice::Bridge);
        let is_bridge = network == NetworkChoice::Bridge;
        let bridge = all.parsed("bridge", parse_bridge)?;
        if let Some(bridge) = bridge.as_ref().filter(|_| !is_bridge) {
            let why = "mode ptp has no bridge; leave one of them out";
            return Err(unsupported("bridge", &json!(bridge), why));
        }
        let [checks_sources, is_hairpin, is_promiscuous] = of_bridges(&mut all, is_bridge)?;
        let mut run_time = all.object("runtimeConfig")?;
        let mut arguments = all.object("args")?.object("cni")?;
        let mac = wanted_mac(&mut run_time, &mut arguments, &call.arguments)?;
        let ports = wanted_ports(&mut run_time)?;
        let dns = wanted_names(&mut all, &mut run_time)?;
        let masquerades = all.flag("ipMasq")?.unwrap_or(false);
        let is_default_gateway = all.flag("isDefaultGateway")?;
        let mtu = read_mtu(&mut all)?;
        refuse_others(&mut all)?;
        let asked = call.arguments.get("IP").filter(|asked| !asked.is_empty());
        let asked = asked.map(String::as_str);
        let addressing = ipam::read(&mut all, &mut run_time, &mut arguments, asked)?;
        refuse_narrow(mtu, &addressing)?;
        all.end()?;
        refuse_capabilities(run_time)?;
        Ok(Configuration {
            network,
            bridge: bridge.unwrap_or_else(|| BRIDGE.to_string()),
            policy: if masquerades {
                Policy::OpenMasqueraded
            } else {
                Policy::Open
            },
            checks_sources,
            mtu,
            is_hairpin,
            is_promiscuous,
            is_default_gateway,
            mac,
            ports,
            dns,
            addressing,
            previous,
        })
    }
}

/// What every configuration may have, and what runtimes put into it.
const COMMON: [&str; 10] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "capabilities",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
];

fn parse_mode(text: &str) -> Result<NetworkChoice, String> {
    match text {
        "bridge" => Ok(NetworkChoice::Bridge),
        "ptp" => Ok(NetworkChoice::PointToPoint),
        _ => Err("it must be bridge or ptp".into()),
    }
}

fn parse_bridge(name: &str) -> Result<String, String> {
    bridge::check_name(name).map(|()| name.to_string())
}

/// What there is to say of a bridge alone.
fn of_bridges(all: &mut Members, is_bridge: bool) -> Result<[bool; 3], Fault> {
    const KEYS: [&str; 3] = ["macspoofchk", "hairpinMode", "promiscMode"];
    let mut flags = [false; 3];
    for (key, flag) in KEYS.into_iter().zip(&mut flags) {
        *flag = all.flag(key)?.unwrap_or(false);
        if *flag && !is_bridge {
            let why = "mode ptp has no bridge";
            return Err(unsupported(key, &json!(true), why));
        }
    }
    if flags[1] && flags[2] {
        return Err(configuration(
            "hairpinMode and promiscMode exclude each other: every frame would come twice",
        ));
    }
    // Never against what is there: another address of it is an error that names both.
    all.flag("forceAddress")?;
    match all.flag("isGateway")? {
        Some(false) => Err(unsupported(
            "isGateway",
            &json!(false),
            "the host is the gateway of its containers' networks; leave it out",
        )),
        _ => Ok(flags),
    }
}

fn read_mtu(all: &mut Members) -> Result<Option<u32>, Fault> {
    match all.number("mtu")? {
        None | Some(0) => Ok(None),
        Some(mtu @ 68..=65535) => Ok(Some(mtu as u32)),
        Some(other) => Err(wrong("mtu", &json!(other), "0, or 68 to 65535")),
    }
}

/// IPv6 takes more than the least of IPv4.
fn refuse_narrow(mtu: Option<u32>, addressing: &Addressing) -> Result<(), Fault> {
    let subnet6 = match addressing {
        Addressing::Ours(pool) => pool.subnet6,
        Addressing::Delegated(_) => None,
    };
    match (mtu, subnet6) {
        (Some(mtu), Some(subnet)) if mtu < LEAST_MTU6 => Err(configuration(&format!(
            "mtu {mtu}: IPv6 needs {LEAST_MTU6}, and there is the range {subnet}; leave one of them out"
        ))),
        _ => Ok(()),
    }
}

/// What the reference plugins can do and we cannot, each with the reason.
fn refuse_others(all: &mut Members) -> Result<(), Fault> {
    const BACKEND: &str = "packets are filtered and translated by nftables, spoken to directly";
    for key in ["ipMasqBackend", "backend"] {
        let value = all.text(key)?.filter(|value| value != "nftables");
        if let Some(value) = value {
            return Err(unsupported(key, &json!(value), BACKEND));
        }
    }
    if all.flag("snat")? == Some(false) {
        let why = "a container that comes by its own published port gets its answers from the host";
        return Err(unsupported("snat", &json!(false), why));
    }
    if let Some(policy) = all.text("ingressPolicy")?.filter(|policy| policy != "open") {
        let why = "anybody may open connections to the containers of a CNI network; use a NetworkPolicy, or the admin's chain";
        return Err(unsupported("ingressPolicy", &json!(policy), why));
    }
    const VLAN: &str = "bridges of ours filter no VLANs; use a bridge for each";
    const NFTABLES: &str = "it is about iptables; the admin's chain is inet hawser user";
    for (key, why) in [
        ("vlan", VLAN),
        ("vlanTrunk", VLAN),
        ("enabledad", "IPv6 addresses are leased, and used at once"),
        (
            "disableContainerInterface",
            "an interface that is down is no use; leave it out",
        ),
        (
            "portIsolation",
            "the containers of a network reach each other; use a network for each",
        ),
        ("conditionsV4", NFTABLES),
        ("conditionsV6", NFTABLES),
        ("masqAll", "only what would not come back is masqueraded"),
        ("markMasqBit", NFTABLES),
        ("externalSetMarkChain", NFTABLES),
        ("iptablesAdminChainName", NFTABLES),
        ("firewalldZone", "put the bridge into a zone of firewalld's"),
        ("networkScaling", "there is nothing to scale in a veth"),
    ] {
        all.refuse(key, why)?;
    }
    // Means something with VLANs only.
    all.ignore(&["preserveDefaultVlan"]);
    Ok(())
}

/// `runtimeConfig` holds what the configuration's own capabilities have called for.
fn refuse_capabilities(mut run_time: Members) -> Result<(), Fault> {
    const OTHER: &str = "declare the capability for the plugin that can do it";
    for (key, why) in [
        ("bandwidth", "chain the bandwidth plugin behind this one"),
        ("aliases", OTHER),
        ("infinibandGUID", OTHER),
        ("deviceID", OTHER),
        ("cgroupPath", OTHER),
    ] {
        run_time.refuse(key, why)?;
    }
    run_time.end()
}

/// The last one that is said counts: by an argument, by `args`, by the capability.
fn wanted_mac(
    run_time: &mut Members,
    arguments: &mut Members,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Mac>, Fault> {
    let by_capability = run_time.parsed("mac", parse_mac)?;
    let by_argument = arguments.parsed("mac", parse_mac)?;
    let by_environment = environment.get("MAC").filter(|mac| !mac.is_empty());
    let by_environment = by_environment
        .map(|mac| parsed("CNI_ARGS MAC", mac, parse_mac))
        .transpose()?;
    Ok(by_capability.or(by_argument).or(by_environment))
}

fn wanted_ports(run_time: &mut Members) -> Result<Vec<Port>, Fault> {
    let path = run_time.path_of("portMappings");
    let list = run_time.list("portMappings")?;
    let ports = list.into_iter().map(|one| read_port(&path, one));
    let ports: Vec<Port> = ports.collect::<Result<_, _>>()?;
    match publish::first_collision(&ports) {
        Some(port) => Err(configuration(&format!(
            "{path}: {port} takes a port of the host that another one takes"
        ))),
        None => Ok(ports),
    }
}

fn read_port(path: &str, value: Value) -> Result<Port, Fault> {
    let mut one = Members::of(path, Some(value))?;
    let mut number = |key: &str| match one.number(key)? {
        Some(port @ 1..=65535) => Ok(port as u16),
        other => Err(wrong(&format!("{path}.{key}"), &json!(other), "1 to 65535")),
    };
    let (host_port, port) = (number("hostPort")?, number("containerPort")?);
    let protocol = one.parsed("protocol", |name| {
        publish::parse_protocol(&name.to_ascii_lowercase())
    })?;
    let host = one.parsed("hostIP", publish::parse_host)?;
    one.end()?;
    let port = Port {
        host,
        host_port,
        port,
        protocol: protocol.unwrap_or(Protocol::Tcp),
    };
    if port.is_loopback() {
        let why = "a port of a loopback address takes a process that stays, and a plugin ends";
        return Err(unsupported(path, &json!(port.to_string()), why));
    }
    Ok(port)
}

/// A resolver is an address. A link-local one may have its link behind it, as in the host's resolv.conf, which kubelet hands on.
fn check_server(text: &str) -> Result<(), String> {
    let (address, link) = match text.split_once('%') {
        Some((address, link)) => (address, Some(link)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|error| format!("{error}"))?;
    match link {
        Some(link) if link.is_empty() || !is_link_local(address) => {
            Err("the name of a link stands behind a link-local IPv6 address alone".into())
        }
        _ => Ok(()),
    }
}

/// `dns`, or what the capability of that name says instead.
fn wanted_names(all: &mut Members, run_time: &mut Members) -> Result<Option<Value>, Fault> {
    let mut of_network = all.object("dns")?;
    let mut of_call = run_time.object("dns")?;
    let read = |from: &mut Members, keys: [&str; 3]| -> Result<Option<Value>, Fault> {
        let [servers, search, options] = keys;
        let servers = from.texts(servers)?;
        for server in &servers {
            parsed(&from.path_of(keys[0]), server, check_server)?;
        }
        let (search, options) = (from.texts(search)?, from.texts(options)?);
        let domain = from.text("domain")?;
        let says_nothing =
            servers.is_empty() && search.is_empty() && options.is_empty() && domain.is_none();
        if says_nothing {
            return Ok(None);
        }
        Ok(Some(ipam::names(
            &servers,
            domain.as_deref(),
            &search,
            &options,
        )))
    };
    let first = read(&mut of_call, ["servers", "searches", "options"])?;
    let second = read(&mut of_network, ["nameservers", "search", "options"])?;
    of_network.end()?;
    of_call.end()?;
    Ok(first.or(second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Version;

    fn read(configuration: Value, arguments: &[(&str, &str)]) -> Result<Configuration, Fault> {
        let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        Configuration::read(&Call {
            version: Version::V1_1,
            network: "blue".into(),
            attachment: Default::default(),
            netns: None,
            arguments: arguments.iter().map(owned).collect(),
            input: Vec::new(),
            configuration,
        })
    }

    fn pool(configuration: Value) -> Box<ipam::Pool> {
        match read(configuration, &[]).unwrap().addressing {
            Addressing::Ours(pool) => pool,
            Addressing::Delegated(kind) => panic!("{kind}"),
        }
    }

    #[test]
    fn nothing_is_said() {
        let all = read(json!({ "type": "hawser", "name": "blue" }), &[]).unwrap();
        assert_eq!((all.bridge.as_str(), all.policy), ("cni0", Policy::Open));
        assert!(!all.checks_sources && !all.is_hairpin && !all.is_promiscuous);
        assert_eq!((all.mtu, all.mac, all.dns), (None, None, None));
        assert!(!pool(json!({})).is_named);
        // What says nothing is as good as nothing.
        let empty = json!({
            "vlan": 0, "mtu": 0, "portIsolation": false, "vlanTrunk": [], "enabledad": null, "bridge": "",
            "ipam": {}, "dns": {}, "runtimeConfig": { "bandwidth": {}, "aliases": [], "mac": "" }, "args": {},
        });
        read(empty, &[]).unwrap();
    }

    #[test]
    fn ranges_are_those_of_the_call_then_those_of_the_network() {
        let set = |subnet: &str| json!([{ "subnet": subnet }]);
        let six = set("2001:db8::/64");
        let by_call = json!({ "ipRanges": [set("10.1.0.0/24")] });
        let pool4 = pool(json!({ "ipam": { "ranges": [six] }, "runtimeConfig": by_call }));
        assert_eq!(pool4.subnet, Some("10.1.0.0/24".parse().unwrap()));
        assert_eq!(pool4.subnet6, Some("2001:db8::/64".parse().unwrap()));
        assert_eq!(pool4.range, None);
        let narrow =
            json!({ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.0", "rangeEnd": "10.1.0.255" });
        let first = "10.1.0.2".parse().unwrap();
        let last = "10.1.0.254".parse().unwrap();
        assert_eq!(pool(json!({ "ipam": narrow })).range, Some((first, last)));
        let one = json!({ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9" });
        let one = pool(json!({ "ipam": one }));
        assert_eq!(one.range, Some(("10.1.0.9".parse().unwrap(), last)));
    }

    #[test]
    fn another_plugin_gives_addresses() {
        let ipam = json!({ "type": "host-local", "dataDir": "/x", "subnet": "nonsense" });
        let asked = json!({ "ipRanges": [], "ips": ["10.0.0.5"] });
        let all = json!({ "ipam": ipam, "runtimeConfig": asked });
        let all = read(all, &[("IP", "nonsense")]).unwrap();
        let Addressing::Delegated(kind) = all.addressing else {
            panic!("{all:?}");
        };
        assert_eq!(kind, "host-local");
        let given = json!({
            "ips": [{ "version": "4", "address": "10.0.0.5/24", "gateway": "10.0.0.1" }],
            "routes": [{ "dst": "0.0.0.0/0" }], "dns": {},
        });
        let given = ipam::Pool::of_result(given).unwrap();
        assert_eq!(given.address, Some("10.0.0.5".parse().unwrap()));
        assert_eq!((given.routes.len(), given.dns.is_none()), (1, true));
        for bad in [
            json!({ "ips": [] }),
            json!({ "ips": [{ "address": "10.0.0.5/32" }] }),
            json!({ "ips": [{ "address": "10.0.0.5/24" }, { "address": "10.0.0.6/24" }] }),
            json!({ "ips": [{ "gateway": "10.0.0.1" }] }),
            json!([]),
        ] {
            assert!(ipam::Pool::of_result(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_name_the_key_and_the_value() {
        for (configuration, code, shown) in [
            (json!({ "vlan": 7 }), 2, "vlan 7"),
            (
                json!({ "ipam": { "nonsense": [1] } }),
                2,
                "ipam.nonsense [1]",
            ),
            (json!({ "mtu": "big" }), 7, "mtu \"big\""),
            (json!({ "ipMasq": 1 }), 7, "ipMasq 1"),
            (
                json!({ "runtimeConfig": { "mac": "x" } }),
                7,
                "runtimeConfig.mac \"x\"",
            ),
        ] {
            let fault = read(configuration, &[]).unwrap_err();
            assert_eq!(fault.code, code, "{fault:?}");
            assert!(fault.text.contains(shown), "{fault:?}");
        }
        let fault = read(json!({}), &[("MAC", "x")]).unwrap_err();
        assert!(fault.text.contains("CNI_ARGS MAC \"x\""), "{fault:?}");
    }
}
