//! The CNI plugin, held against the specification of CNI 1.1.0 (SPEC.md), sentence by sentence: what that wants of a plugin, in our words,
//! and which test tries it. Names alone are tests of this file; `clients::` are those of `cni_clients.rs`, `cluster::` those of `cluster.rs`.
//! (With real runtimes: see those two. Killed at any moment: `interrupted.rs`.)
//!
//! The runtime's duty, and not in the list: making namespaces, reading lists, choosing a version, the order of calls, caching results,
//! `capabilities` and `disableCheck`; so is the rest of section 3. Not ours: to adjust an interface of somebody else's, to leave
//! prevResult as it is (we always make an interface), traffic shaping, `socketPath`, `pciID`.
//!
//! Section 1, configuration, as far as a plugin reads it
//! - `cniVersion` is there, and one that is spoken: `versions`, `bad_configurations`
//! - `name` is there: a letter or digit, then letters, digits, `_`, `.` and `-`: `bad_configurations`
//! - a key that is not known may be refused: `bad_configurations`
//! - `args` holds what is not for everybody; what is not known of it is no error: `addresses_are_given_as_asked_for`
//! - `runtimeConfig` says what the runtime adds: `addresses_are_given_as_asked_for`, `kinds_of_networks`, `what_others_have_made_is_passed_on`,
//!   `keys_may_be_written_in_another_case`, `clients::ours_with_host_local`
//! - `ipMasq` means that the host masquerades: `pods_are_open_and_sources_unchecked`, `the_bridge_and_its_ports`
//! - `ipam` says how addresses are given, its `type` by which plugin: `addresses_are_given_as_asked_for`, `kinds_of_networks`,
//!   `addresses_of_another_plugin`; that is a file's name: `bad_configurations`
//! - `dns` has nameservers, domain, search and options: `what_others_have_made_is_passed_on`, `clients::podman_hears_of_names`
//! - the list's own keys (`cniVersions`, `disableCheck`, `disableGC`, `loadOnlyInlinedPlugins`) are no error in a plugin's: (by no test)
//!
//! Section 2, parameters, output and errors
//! - parameters come by the environment, the configuration by standard input: every test
//! - CNI_COMMAND is one of the six operations: `the_environment`
//! - CNI_CONTAINERID is not empty; a letter or digit, then letters, digits, `_`, `.` and `-`: `the_environment`
//! - CNI_NETNS is the path of a namespace: `the_environment`
//! - CNI_IFNAME is the interface's name; one that cannot be had is an error: `the_environment`, `a_second_add_is_refused`
//! - CNI_ARGS are pairs KEY=VALUE with `;` between: `the_environment`, `addresses_are_given_as_asked_for`
//! - CNI_PATH is where other plugins are looked for: `addresses_of_another_plugin`, `bad_configurations`; it may lack: (by no test)
//! - success is exit code 0, an error another one, with an error's object on standard output: `Answer::ok`, `Answer::fault`, in every test
//! - standard error may say more: `status_says_whether_add_would_work`
//!
//! Section 2, ADD
//! - makes the interface CNI_IFNAME inside CNI_NETNS, and answers with a result: `add_makes_the_interface_and_says_what_it_made`
//! - prevResult is passed on, or changed: `what_others_have_made_is_passed_on`
//! - an interface of that name that is there is an error: `a_second_add_is_refused`, `another_plugin_that_fails`
//! - needs CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS and CNI_IFNAME: `the_environment`
//! - a container may have several interfaces on one network, by other names: `a_second_add_is_refused`
//!
//! Section 2, DEL
//! - deletes the interface, with what ADD has made beside it: `del_succeeds_whatever_is_missing`, `a_second_add_is_refused`
//! - succeeds, again and again, where interface, namespace or anything else is missing: `del_succeeds_whatever_is_missing`,
//!   `cluster::a_crash_leaves_nothing`
//! - addresses are given back even so, by another plugin, too: `cluster::a_crash_leaves_nothing`, `clients::ours_with_host_local`
//! - needs CNI_COMMAND, CNI_CONTAINERID and CNI_IFNAME; CNI_NETNS may be empty, or lacking: `the_environment`,
//!   `del_succeeds_whatever_is_missing`
//! - prevResult may be there, or lacking: `check_compares`, `del_succeeds_whatever_is_missing`
//! - answers with nothing: `del_succeeds_whatever_is_missing`
//!
//! Section 2, CHECK
//! - what is expected is read from prevResult, which must be there: `check_compares`
//! - what later plugins have added is no error: `check_compares`; nor what they have changed, and prevResult says: (by no test)
//! - an interface, address or route of ours that prevResult lists and that is missing or wrong is an error: `check_compares`,
//!   `what_check_names_is_a_cure`, `kinds_of_networks`
//! - so is what no result lists (rules, ports, forwarding): `check_compares`, `status_says_whether_add_would_work`
//! - so is a container that nobody reaches (no bridge, a link that is down, no namespace): `check_compares`
//! - may come right after ADD: `check_compares`, `a_second_add_is_refused`, `kinds_of_networks`
//! - the plugin that gives addresses is asked, and its error is ours: `addresses_of_another_plugin`
//! - needs CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS and CNI_IFNAME: `the_environment`
//! - answers with nothing: `check_compares`
//!
//! Section 2, STATUS
//! - success when ADD would work, and nothing is said: `status_says_whether_add_would_work`
//! - else an error, 50: `status_says_whether_add_would_work`, `status_refuses_what_add_would`, `status_knows_which_addresses_there_are`,
//!   `cluster::an_upgrade_wants_a_drained_host`
//! - 51 when containers that are there lack something, too: `a_bridge_that_was_deleted_under_its_containers`,
//!   `status_knows_which_addresses_there_are`
//! - ADD and the others do not rely on it: every test without it
//! - after its error the others may come all the same: `status_says_whether_add_would_work`, `a_bridge_that_was_deleted_under_its_containers`
//! - the plugin that gives addresses is asked, and its error is ours: `addresses_of_another_plugin`, `another_plugin_that_fails`
//! - of the variables it needs CNI_COMMAND: every test with it, by `Plugin::of_network`
//!
//! Section 2, VERSION
//! - answers with the versions that are spoken, in the shape of section 5; of the variables it needs CNI_COMMAND: `versions`
//!
//! Section 2, GC
//! - takes what belongs to attachments that are not listed, as much as there is: `gc_removes_what_the_runtime_does_not_know`,
//!   `garbage_with_other_signs_in_its_interface`
//! - namespaces may be gone, or not: `gc_removes_what_the_runtime_does_not_know`
//! - what is listed stays: `gc_removes_what_the_runtime_does_not_know`, `garbage_with_other_signs_in_its_interface`
//! - an error of the other plugin keeps nothing of ours, and is told: `addresses_of_another_plugin`; one of our own, with more behind it:
//!   (by no test)
//! - the plugin that gives addresses is asked: `addresses_of_another_plugin`
//! - answers with nothing: `gc_removes_what_the_runtime_does_not_know`
//!
//! Section 3, the two sentences for plugins
//! - calls for several containers come at once: `clients::many_pods_at_once`; for several networks of one: `two_networks_at_once`
//! - what is kept is known by network, container and interface: `a_second_add_is_refused`, `gc_removes_what_the_runtime_does_not_know`
//!
//! Section 4, delegation
//! - the plugin is looked for in CNI_PATH: `addresses_of_another_plugin`; is not there: `bad_configurations`
//! - it gets our input as it is: `addresses_of_another_plugin`
//! - it gets our environment: `addresses_of_another_plugin`; CNI_ARGS and CNI_PATH of it: (by no test)
//! - what it says on standard error is said on ours: `another_plugin_that_fails`
//! - DEL, CHECK and GC are passed on (STATUS: see there): `addresses_of_another_plugin`
//! - its error is ours: `another_plugin_that_fails`, `addresses_of_another_plugin`
//! - when it fails at ADD, it gets DEL before we answer: `another_plugin_that_fails`
//!
//! Section 5, results
//! - `cniVersion` is that of the input: `add_makes_the_interface_and_says_what_it_made`
//! - `interfaces`: all that were made, with name, mac and mtu; sandbox is CNI_NETNS inside, and lacks on the host:
//!   `add_makes_the_interface_and_says_what_it_made`
//! - `ips`: address, gateway, and which of the interfaces: `add_makes_the_interface_and_says_what_it_made`,
//!   `what_others_have_made_is_passed_on`, `addresses_are_given_as_asked_for`
//! - `routes`: dst and gw: `add_makes_the_interface_and_says_what_it_made`, `routes_of_other_tables_take_nothing`; mtu, advmss, priority, table
//!   and scope of what others have made are passed on: (by no test)
//! - `dns`: `what_others_have_made_is_passed_on`, `addresses_of_another_plugin`
//! - all of prevResult is in it: `what_others_have_made_is_passed_on`
//! - a plugin for addresses answers without interfaces: `addresses_of_another_plugin`
//! - VERSION: `cniVersion` is that of the input, `supportedVersions` all that are spoken: `versions`
//! - an error has `cniVersion`, the one in use: `versions`; `code` and `msg`: `Answer::fault`, in every test; may have `details`:
//!   `another_plugin_that_fails`
//! - numbers below 100 are the specification's, ours are 100 and more: `check_compares` (101), `bad_configurations` (102)
//! - 1, a version that is not spoken: `versions`
//! - 2, a key that is not supported, with key and value: `bad_configurations`
//! - 3, no such container, and nothing to clean up: `the_environment`
//! - 4, the environment, with the variable's name: `the_environment`
//! - 5, the input cannot be read: `bad_configurations`
//! - 6, it is no JSON: `bad_configurations`
//! - 7, it makes no sense: `bad_configurations`
//! - 11, another moment may be better: `status_says_whether_add_would_work`, `status_knows_which_addresses_there_are`
//! - 50 and 51: see STATUS

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use lab::{
    Answer, Lab, Netns, Plugin, Running, Snapshot, Whose, case, children, fill, packets, paste, sh,
    wait_untold,
};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network with addresses of ours.
fn blue() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "blue", "type": "hawser", "bridge": "cni0",
        "isGateway": true, "ipMasq": true,
        "ipam": { "ranges": [[{ "subnet": "10.22.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] },
    })
}

/// The same with some keys changed, or added.
fn with(mut config: Value, keys: Value) -> Value {
    for (key, value) in keys.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

fn whose<'a>(container: &'a str, netns: &'a str) -> Whose<'a> {
    Whose {
        container,
        interface: "eth0",
        netns,
    }
}

const A: &str = "/run/netns/a";

/// The network is there, and nothing else: what a failed ADD must leave.
fn made(plugin: &Plugin, config: &Value) -> Snapshot {
    let netns = Netns::new("first");
    let first = whose("first", "/run/netns/first");
    plugin.call("ADD", first, config).ok();
    plugin.call("DEL", first, config).ok();
    drop(netns);
    sh("umount /run/netns/first; rm /run/netns/first");
    Snapshot::take()
}

/// A server there that greets so many.
fn serve(inside: &Netns, count: usize) -> JoinHandle<()> {
    let listener = inside.enter(|| TcpListener::bind(("::", 80)).expect("listen"));
    std::thread::spawn(move || {
        for stream in listener.incoming().take(count) {
            let mut stream = stream.expect("a connection");
            stream.write_all(b"hello\n").expect("greet");
        }
    })
}

fn greeting(from: &Netns, to: &str) -> std::io::Result<String> {
    let address = to.parse().expect("an address");
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn addresses(netns: &Netns, interface: &str) -> String {
    netns.sh(&format!("ip -o addr show dev {interface}"))
}

fn address_of(result: &Value) -> String {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    text.split('/').next().expect("an address").to_owned()
}

/// Section 2, ADD: the plugin makes the interface of the name in CNI_IFNAME inside CNI_NETNS, and answers with a result.
/// Section 5, ADD success: what a result holds, by version.
#[test]
fn add_makes_the_interface_and_says_what_it_made() {
    case(|lab| {
        let plugin = lab.plugin();
        let before = made(&plugin, &blue());
        for version in VERSIONS {
            let netns = Netns::new("a");
            let one = Whose {
                interface: "net1",
                ..whose("c1", A)
            };
            let config = with(blue(), json!({ "cniVersion": version }));
            let result = plugin.call("ADD", one, &config).ok();
            assert_eq!(result["cniVersion"], version);
            let [bridge, end, inside] = &result["interfaces"].as_array().expect("a list")[..]
            else {
                panic!("three interfaces: {result}");
            };
            assert_eq!(bridge["name"], "cni0");
            assert_eq!(
                (&inside["name"], &inside["sandbox"]),
                (&json!("net1"), &json!(A))
            );
            assert!(bridge.get("sandbox").is_none() && end.get("sandbox").is_none());
            let link = netns.sh("ip -o link show dev net1");
            assert!(
                link.contains(inside["mac"].as_str().expect("a MAC")),
                "{link}"
            );
            let name = end["name"].as_str().expect("a name");
            let host = sh(&format!("ip -o link show dev {name}"));
            assert!(host.contains(end["mac"].as_str().expect("a MAC")), "{host}");
            assert_eq!(inside["mtu"] == 1500, version == "1.1.0", "{result}");
            let ip = &result["ips"][0];
            assert_eq!(
                (&ip["gateway"], &ip["interface"]),
                (&json!("10.22.0.1"), &json!(2))
            );
            assert_eq!(ip["version"] == "4", version < "1.0.0", "{result}");
            let own = ip["address"].as_str().expect("an address");
            assert!(addresses(&netns, "net1").contains(own));
            assert_eq!(
                result["routes"],
                json!([{ "dst": "0.0.0.0/0", "gw": "10.22.0.1" }])
            );
            assert!(
                netns
                    .sh("ip route")
                    .contains("default via 10.22.0.1 dev net1")
            );
            assert_eq!(result["dns"], json!({}));
            plugin.call("DEL", one, &config).ok();
            drop(netns);
            sh("umount /run/netns/a; rm /run/netns/a");
            before.assert_back();
        }
    });
}

/// Section 2, ADD: an interface of that name that is there already is an error. Section 3, lifecycle: no second ADD for the
/// same container, network and interface. A failed ADD leaves nothing.
#[test]
fn a_second_add_is_refused() {
    case(|lab| {
        let plugin = lab.plugin();
        made(&plugin, &blue());
        let netns = Netns::new("a");
        let _other = Netns::new("b");
        let one = whose("c1", A);
        plugin.call("ADD", one, &blue()).ok();
        let there = Snapshot::take();
        plugin
            .call("ADD", one, &blue())
            .fault(100, &["c1", "eth0", "DEL"]);
        // Nor in another namespace: the key is the container's id and the interface.
        plugin
            .call("ADD", whose("c1", "/run/netns/b"), &blue())
            .fault(100, &["eth0"]);
        // Somebody else's interface.
        plugin
            .call("ADD", whose("c2", A), &blue())
            .fault(100, &["eth0", "already"]);
        there.assert_back();
        // The same container on the same network with another interface, and with the same name on another network elsewhere.
        let second = Whose {
            interface: "net1",
            ..one
        };
        let result = plugin.call("ADD", second, &blue()).ok();
        assert!(addresses(&netns, "net1").contains(&address_of(&result)));
        let red = with(
            blue(),
            json!({
                "name": "red", "bridge": "cni1", "ipam": { "ranges": [[{ "subnet": "10.23.0.0/24" }]] }
            }),
        );
        let third = Whose {
            interface: "net2",
            ..one
        };
        plugin.call("ADD", third, &red).ok();
        // Without routes there is none but to its own subnet.
        assert_eq!(netns.sh("ip route show dev net2 | wc -l"), "1\n");
        // A default route that is there stays: that of the first network.
        let both = with(red.clone(), json!({ "isDefaultGateway": true }));
        let fourth = Whose {
            interface: "net3",
            ..one
        };
        let result = plugin.call("ADD", fourth, &both).ok();
        assert!(result.get("routes").is_none(), "{result}");
        assert_eq!(
            netns.sh("ip route show default"),
            "default via 10.22.0.1 dev eth0 \n"
        );
        plugin
            .call(
                "CHECK",
                fourth,
                &with(both.clone(), json!({ "prevResult": result })),
            )
            .ok();
        plugin.call("DEL", fourth, &both).ok();
        // Each goes by itself.
        plugin.call("DEL", second, &blue()).ok();
        let left = netns.sh("ip -br link");
        assert!(
            left.contains("eth0") && left.contains("net2") && !left.contains("net1"),
            "{left}"
        );
        plugin.call("DEL", third, &red).ok();
        plugin.call("DEL", one, &blue()).ok();
    });
}

/// Section 2, DEL: it succeeds when the interface, the namespace or the container is gone, and again and again; without
/// CNI_NETNS and prevResult it cleans up what it can.
#[test]
fn del_succeeds_whatever_is_missing() {
    case(|lab| {
        let plugin = lab.plugin();
        let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
        let config = with(blue(), json!({ "runtimeConfig": ports }));
        let before = made(&plugin, &config);
        let one = whose("c1", A);
        let gone = || sh("umount /run/netns/a; rm /run/netns/a");
        type Disturb<'a> = (&'a str, &'a dyn Fn(&Netns));
        let deletes: [Disturb; 4] = [
            (A, &|_| ()),
            ("", &|_| ()),
            (A, &|netns| drop(netns.sh("ip link del eth0"))),
            ("", &|_| {
                // What is kept in files is a convenience.
                fs::remove_dir_all("/run/hawser/attachments").expect("remove what is kept");
            }),
        ];
        for (path, disturb) in deletes {
            let netns = Netns::new("a");
            plugin.call("ADD", one, &config).ok();
            assert!(sh("nft list map inet hawser ports4").contains("8080"));
            disturb(&netns);
            for _ in 0..3 {
                assert_eq!(
                    plugin.call("DEL", whose("c1", path), &config).ok(),
                    Value::Null
                );
            }
            drop(netns);
            gone();
            before.assert_back();
        }
        // The namespace has gone before.
        let netns = Netns::new("a");
        plugin.call("ADD", one, &config).ok();
        drop(netns);
        gone();
        lab.settle();
        for path in [A, "", A] {
            plugin.call("DEL", whose("c1", path), &config).ok();
        }
        before.assert_back();
        // One that was never added; and one whose configuration ADD would refuse.
        plugin.call("DEL", whose("never", ""), &config).ok();
        plugin
            .call(
                "DEL",
                whose("never", ""),
                &with(blue(), json!({ "vlan": 5 })),
            )
            .ok();
        before.assert_back();
    });
}

/// Section 2, CHECK: it needs prevResult, answers with nothing, and finds what is missing of what prevResult lists, and what
/// is wrong with what it does not list.
#[test]
fn check_compares() {
    case(|lab| {
        let plugin = lab.plugin();
        let one = whose("c1", A);
        let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
        let both =
            ranges(json!([[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "2001:db8:22::/64" }]]));
        let config = with(
            with(blue(), both),
            json!({ "isDefaultGateway": true, "runtimeConfig": ports }),
        );
        plugin.call("CHECK", one, &config).fault(7, &["prevResult"]);
        let broken: [(&str, &str); 12] = [
            ("ip -n a addr flush dev eth0", "no address"),
            ("ip -n a link set eth0 down", "is down"),
            ("ip -n a route del default", "no route to 0.0.0.0/0"),
            (
                "ip -n a link set eth0 down; ip -n a link set eth0 address 02:00:00:00:00:99; ip -n a link set eth0 up",
                "02:00:00:00:00:99",
            ),
            ("ip -n a link del eth0", "is not there"),
            (
                "ip link set dev $(ip -br link | grep -o 'hw0a[0-9a-f]*') nomaster",
                "no port of a bridge",
            ),
            (
                "nft flush map inet hawser ports4",
                "does not know it, or not all of its ports",
            ),
            ("nft flush ruleset", "rules are not there"),
            ("echo 0 >/proc/sys/net/ipv4/ip_forward", "does not forward"),
            (FORWARD6_OFF, "does not forward IPv6"),
            ("ip addr del 10.22.0.1/24 dev cni0", "10.22.0.1/24"),
            (
                "ip addr del 2001:db8:22::1/64 dev cni0",
                "2001:db8:22::1/64",
            ),
        ];
        for (disturb, why) in broken {
            let netns = Netns::new("a");
            let result = plugin.call("ADD", one, &config).ok();
            let check = with(config.clone(), json!({ "prevResult": result }));
            assert_eq!(plugin.call("CHECK", one, &check).ok(), Value::Null);
            // What others have added is no concern of ours.
            netns.sh("ip addr add 203.0.113.7/32 dev eth0; ip route add 203.0.113.0/24 dev eth0");
            plugin.call("CHECK", one, &check).ok();
            sh(disturb);
            plugin.call("CHECK", one, &check).fault(101, &["c1", why]);
            plugin.call("DEL", one, &check).ok();
            drop(netns);
            sh("umount /run/netns/a; rm /run/netns/a");
        }
        // One that is not there at all.
        let _netns = Netns::new("a");
        let result = json!({ "cniVersion": "1.1.0", "interfaces": [], "ips": [] });
        let check = with(config, json!({ "prevResult": result }));
        plugin.call("CHECK", one, &check).fault(101, &["not there"]);
        plugin
            .call("CHECK", whose("c1", "/run/netns/none"), &check)
            .fault(101, &["c1", "namespace is gone", "DEL"]);
    });
}

/// Nobody has deleted the first; by its port of one address of the host's nobody is led to nowhere.
#[test]
fn a_port_of_all_addresses_is_not_taken_by_what_a_dead_one_had_of_one() {
    case(|lab| {
        let plugin = lab.plugin();
        let one = json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "192.0.2.2" });
        let all = json!({ "hostPort": 8080, "containerPort": 80 });
        let first = Netns::new("a");
        let _second = Netns::new("b");
        plugin
            .call("ADD", whose("c1", A), &with(blue(), ports(one)))
            .ok();
        drop(first);
        sh("umount /run/netns/a; rm /run/netns/a");
        lab.settle();
        let leads = || sh("nft list map inet hawser address_ports4").contains("8080");
        assert!(leads());
        let second = whose("c2", "/run/netns/b");
        plugin.call("ADD", second, &with(blue(), ports(all))).ok();
        assert!(!leads());
    });
}

/// A difference comes with the command that ends it, as it is written; of some there are several, one behind the other.
#[test]
fn what_check_names_is_a_cure() {
    case(|lab| {
        let plugin = lab.plugin();
        let one = whose("c1", A);
        let both =
            ranges(json!([[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "2001:db8:22::/64" }]]));
        let config = with(with(blue(), both), json!({ "isDefaultGateway": true }));
        let ptp = json!({ "mode": "ptp", "bridge": null });
        let ptp = with(config.clone(), ptp);
        let end = "hw$(ip -br link | grep -o 'hw0a[0-9a-f]*' | cut -c 3-)";
        let in_both = [
            "ip -n a link set eth0 down",
            "ip -n a addr flush dev eth0",
            "ip -n a link set eth0 address 02:00:00:00:00:99",
            &format!("ip link set {end} address 02:00:00:00:00:99"),
            &format!("ip link set {end} down"),
            "nft flush ruleset",
            "echo 0 >/proc/sys/net/ipv4/ip_forward",
            FORWARD6_OFF,
        ];
        let of_bridge = [
            "ip link set cni0 down",
            "ip addr del 10.22.0.1/24 dev cni0",
            "ip addr del 2001:db8:22::1/64 dev cni0",
        ];
        let of_ptp = ["ip route del IP4", "ip -6 route flush IP6"];
        for (config, own) in [(config, &of_bridge[..]), (ptp, &of_ptp)] {
            for disturb in in_both.iter().chain(own) {
                let netns = Netns::new("a");
                let result = plugin.call("ADD", one, &config).ok();
                let check = with(config.clone(), json!({ "prevResult": result.clone() }));
                plugin.call("CHECK", one, &check).ok();
                let [four, six] = [0, 1].map(|at| {
                    let address = result["ips"][at]["address"].as_str().expect("an address");
                    address.split('/').next().expect("an address")
                });
                sh(&disturb.replace("IP4", four).replace("IP6", six));
                let mut found = 0;
                loop {
                    let answer = plugin.call("CHECK", one, &check);
                    if answer.0.code == 0 {
                        break;
                    }
                    let answer = answer.fault(101, &["c1"]);
                    let sentence = answer["msg"].as_str().unwrap_or_default();
                    let cure = sentence
                        .split_once('(')
                        .and_then(|it| it.1.strip_suffix(')'));
                    paste(cure.unwrap_or_else(|| panic!("{disturb}: no cure: {sentence}")));
                    found += 1;
                    assert!(found < 10, "{disturb}: {sentence}");
                }
                assert_ne!(found, 0, "{disturb}");
                plugin.call("DEL", one, &check).ok();
                drop(netns);
                sh("umount /run/netns/a; rm /run/netns/a");
            }
            lab.hawser(&["down", "--bridge", "cni0"]);
        }
    });
}

/// Section 2, GC: what belongs to attachments of this network that are not listed goes; what is listed, and what is of other
/// networks, stays. Both names of the key.
#[test]
fn gc_removes_what_the_runtime_does_not_know() {
    case(|lab| {
        let plugin = lab.plugin();
        let config = blue();
        let red = with(blue(), json!({ "name": "red" }));
        let port = |number: u16| {
            let ports = json!({ "portMappings": [{ "hostPort": number, "containerPort": 80 }] });
            json!({ "runtimeConfig": ports })
        };
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            for forgets in [false, true] {
                let names = ["a", "b", "c", "d"];
                let all = names.map(Netns::new);
                let paths = names.map(|name| format!("/run/netns/{name}"));
                for (at, path) in paths.iter().enumerate() {
                    let network = if at == 3 { &red } else { &config };
                    let config = with(network.clone(), port(8080 + at as u16));
                    plugin.call("ADD", whose(names[at], path), &config).ok();
                }
                if forgets {
                    // Names of links say it too.
                    fs::remove_dir_all("/run/hawser/attachments").expect("remove what is kept");
                }
                // The namespace of one is gone, of one not.
                drop(all);
                sh("umount /run/netns/b; rm /run/netns/b");
                let known = json!({ key: [
                    { "containerID": "a", "ifname": "eth0" },
                    { "containerID": "b", "ifname": "eth1" },
                    { "containerID": "c", "ifname": "eth1" },
                ] });
                let answer = plugin.of_network("GC", &with(config.clone(), known)).ok();
                assert_eq!(answer, Value::Null);
                let ports = sh("nft list map inet hawser ports4");
                for (at, stays) in [true, false, false, true].into_iter().enumerate() {
                    let has = ports.contains(&(8080 + at).to_string());
                    assert_eq!(has, stays, "{key} {forgets} {at}: {ports}");
                }
                let ends = sh("ip -br link");
                assert_eq!(ends.matches("hw0a16").count(), 2, "{ends}");
                for network in [&config, &red] {
                    plugin
                        .of_network("GC", &with(network.clone(), json!({ key: [] })))
                        .ok();
                }
                assert!(!sh("ip -br link").contains("hw0a16"));
                for name in ["a", "c", "d"] {
                    sh(&format!("umount /run/netns/{name}; rm /run/netns/{name}"));
                }
            }
        }
        // Nothing said is not the same as none.
        plugin
            .of_network("GC", &config)
            .fault(7, &["cni.dev/valid-attachments"]);
        let wrong = json!({ "cni.dev/valid-attachments": [{ "containerID": "a" }] });
        plugin
            .of_network("GC", &with(config, wrong))
            .fault(7, &["ifname"]);
    });
}

/// The name of a link has no `-` and no `.` of an interface, which an interface may have: GC finds its attachment by that name all the same.
#[test]
fn garbage_with_other_signs_in_its_interface() {
    case(|lab| {
        let plugin = lab.plugin();
        let red = with(blue(), json!({ "name": "red" }));
        let interfaces = ["net-1", "eth0.100", "a_b-c.d", "1-2-3_4.5.6"];
        let _inside = Netns::new("a");
        for interface in interfaces {
            let one = Whose {
                interface,
                ..whose("c1.x", A)
            };
            plugin.call("ADD", one, &blue()).ok();
        }
        fs::remove_dir_all("/run/hawser").expect("remove what is kept");
        let collect = |network: &Value, known: &[&str]| {
            let known = known
                .iter()
                .map(|interface| json!({ "containerID": "c1.x", "ifname": interface }));
            let known: Vec<Value> = known.collect();
            let known = json!({ "cni.dev/valid-attachments": known });
            plugin.of_network("GC", &with(network.clone(), known)).ok();
            sh("ip -br link").matches("hw0a16").count()
        };
        assert_eq!(collect(&red, &[]), 4, "another network's");
        assert_eq!(collect(&blue(), &interfaces), 4, "known");
        assert_eq!(collect(&blue(), &interfaces[1..2]), 1, "known");
        assert_eq!(collect(&blue(), &[]), 0);
    });
}

/// What the host forwards of IPv6, everywhere and, from Linux 6.17 on, link by link, is turned off.
const FORWARD6_OFF: &str = "for switch in /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/conf/*/force_forwarding; do
    [ ! -e $switch ] || echo 0 >$switch
done";

/// STATUS warns of it, CHECK finds it, and it is gone with the next ADD.
fn what_the_next_add_mends(plugin: &Plugin, config: &Value, result: &Value) {
    let checked = with(config.clone(), json!({ "prevResult": result }));
    for (disturb, why) in [
        ("nft flush ruleset", "rules"),
        ("echo 0 >/proc/sys/net/ipv4/ip_forward", "ip_forward is 0"),
        ("ip link set cni0 down", "is down"),
        ("ip addr del 10.22.0.1/29 dev cni0", "10.22.0.1/29"),
        (
            "ip addr del 2001:db8:22::1/64 dev cni0",
            "2001:db8:22::1/64",
        ),
        (FORWARD6_OFF, "does not forward IPv6"),
    ] {
        sh(disturb);
        plugin
            .call("CHECK", whose("a", A), &checked)
            .fault(101, &[]);
        let outcome = plugin.of_network("STATUS", config).0;
        let said = outcome.exits(0).err();
        assert!(
            said.starts_with("host-helper: warning: ") && said.contains(why),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        plugin
            .call("ADD", whose("more", "/run/netns/more"), config)
            .ok();
        plugin.call("CHECK", whose("a", A), &checked).ok();
        plugin.call("DEL", whose("more", ""), config).ok();
        plugin.of_network("STATUS", config).ok();
    }
}

/// Section 2, STATUS: an error when ADD could not be served: 50; and 51 when containers that are there lack something for good. What the next
/// ADD brings back is a warning: a runtime that is refused would ask for none.
#[test]
fn status_says_whether_add_would_work() {
    case(|lab| {
        let plugin = lab.plugin();
        let narrow = with(
            blue(),
            json!({ "ipam": { "ranges": [[{ "subnet": "10.22.0.0/29" }], [{ "subnet": "2001:db8:22::/64" }]] } }),
        );
        let nothing = Snapshot::take();
        assert_eq!(plugin.of_network("STATUS", &narrow).ok(), Value::Null);
        nothing.assert_back();
        // The pool: five addresses.
        let names = ["a", "b", "c", "d", "e"];
        let _all = names.map(Netns::new);
        let paths = names.map(|name| format!("/run/netns/{name}"));
        let calls = || names.into_iter().zip(&paths);
        let mut added = Vec::new();
        for (at, (name, path)) in calls().enumerate() {
            plugin.of_network("STATUS", &narrow).ok();
            let result = plugin.call("ADD", whose(name, path), &narrow).ok();
            assert_eq!(address_of(&result), format!("10.22.0.{}", 2 + at));
            added.push(result);
        }
        let full = ["10.22.0.2 to 10.22.0.6", "in use", "use another bridge"];
        plugin.of_network("STATUS", &narrow).fault(50, &full);
        let more = Netns::new("more");
        let there = Snapshot::take();
        plugin
            .call("ADD", whose("more", "/run/netns/more"), &narrow)
            .fault(11, &["in use"]);
        there.assert_back();
        plugin.call("DEL", whose("c", ""), &narrow).ok();
        plugin.of_network("STATUS", &narrow).ok();
        let result = plugin
            .call("ADD", whose("more", "/run/netns/more"), &narrow)
            .ok();
        assert_eq!(address_of(&result), "10.22.0.4");
        plugin.call("DEL", whose("more", ""), &narrow).ok();
        what_the_next_add_mends(&plugin, &narrow, &added[0]);
        drop(more);
        if lab.real_root {
            sh("echo 0 >/proc/sys/net/ipv4/ip_forward
                mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys");
            plugin
                .of_network("STATUS", &narrow)
                .fault(51, &["ip_forward is 0"]);
            sh("umount /proc/sys; echo 1 >/proc/sys/net/ipv4/ip_forward");
        }
        let other = with(
            blue(),
            json!({ "ipam": { "ranges": [[{ "subnet": "10.99.0.0/24" }]] } }),
        );
        plugin
            .of_network("STATUS", &other)
            .fault(50, &["10.99.0.0/24", "10.22.0.0/29"]);
        for (name, path) in calls() {
            plugin.call("DEL", whose(name, path), &narrow).ok();
        }
    });
}

/// Somebody has deleted the bridge: who lives on it has no network any more, and is found until it is on another.
#[test]
fn a_bridge_that_was_deleted_under_its_containers() {
    case(|lab| {
        let plugin = lab.plugin();
        lab.serve();
        let [_a, _b] = ["a", "b"].map(Netns::new);
        let [one, other] = [whose("c1", A), whose("c2", "/run/netns/b")];
        let config = with(blue(), json!({ "isDefaultGateway": true }));
        let result = plugin.call("ADD", one, &config).ok();
        let check = with(config.clone(), json!({ "prevResult": result }));
        assert_eq!(lab.hawser(&["doctor"]).ok(), "");
        sh("ip link del cni0");
        plugin
            .of_network("STATUS", &config)
            .fault(51, &["cni0", "is gone", "cni-c1.eth0"]);
        // No other network's.
        let green =
            json!({ "name": "green", "bridge": "cni1", "ipam": { "subnet": "10.23.0.0/24" } });
        let green = with(config.clone(), green);
        plugin.of_network("STATUS", &green).ok();
        assert_eq!(lab.list()[0]["network"], "cni0");
        let found = || {
            let found = lab.hawser(&["doctor"]).exits(1).out();
            assert_eq!(found.lines().count(), 1, "{found}");
            assert!(found.starts_with("bridge-down container cni-c1"), "{found}");
            found
        };
        assert!(found().contains("cni0 is gone"));
        plugin.call("ADD", other, &config).ok();
        paste(found().split("; cure: ").nth(1).expect("a cure"));
        assert_eq!(lab.hawser(&["doctor"]).ok(), "");
        plugin.call("CHECK", one, &check).ok();
        plugin.of_network("STATUS", &config).ok();
        for whose in [one, other] {
            plugin.call("DEL", whose, &config).ok();
        }
        // Nor of one that has been deleted since.
        sh("ip link del cni0");
        plugin.of_network("STATUS", &config).ok();
    });
}

/// What is tried is called as the default network is.
#[test]
fn status_leaves_what_is_kept_of_the_default_network() {
    case(|lab| {
        lab.run(&["-d", "--name", "web"], &["sleep", "1000"]).ok();
        let kept = || sh("cd /run/hawser; ls -l; cat hawser0.hosts switches");
        let before = kept();
        assert!(before.contains(" web "), "{before}");
        lab.plugin().of_network("STATUS", &blue()).ok();
        assert_eq!(kept(), before);
        sh("nft flush ruleset");
        lab.plugin().of_network("STATUS", &blue()).ok();
        assert_eq!(kept(), before);
        lab.hawser(&["stop", "web"]).ok();
    });
}

/// What the host is like, how the configuration differs, and what is said of it.
type Refused = (&'static str, Value, &'static [&'static str]);

/// What no container could be added to: networks of ours.
fn refused_by_ours() -> Vec<Refused> {
    let both = || {
        let both = json!([[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "2001:db8:22::/64" }]]);
        ranges(both)
    };
    let ptp = |keys: Value| with(json!({ "mode": "ptp", "bridge": null }), keys);
    let taken = "ip -6 route add 2001:db8:22::/80 dev uplink";
    vec![
        // Subnets that are somebody else's: of a new network, of one that is there and has no IPv6 yet, without a bridge.
        (taken, both(), &["2001:db8:22::/64", "2001:db8:22::/80"]),
        (
            "$HAWSER run --bridge cni0 --subnet 10.22.0.0/24 --no-ipv6 true; ip -6 route add 2001:db8:22::/80 dev uplink",
            both(),
            &["2001:db8:22::/64", "2001:db8:22::/80"],
        ),
        (taken, ptp(both()), &["2001:db8:22::/80"]),
        (
            "ip route add 10.22.0.128/25 dev uplink",
            ptp(json!({})),
            &["10.22.0.128/25"],
        ),
        // A network that is there, and another one.
        (
            "$HAWSER up --bridge cni0 --subnet 10.22.0.0/24 --no-ipv6",
            both(),
            &["2001:db8:22::/64", "no IPv6"],
        ),
        (
            "$HAWSER up --bridge cni0 --subnet 10.22.0.0/24",
            json!({}),
            &["ipMasq", "choose another"],
        ),
        (
            "$HAWSER up --bridge cni0 --subnet 10.23.0.0/24",
            json!({}),
            &["10.22.0.0/24", "10.23.0.0/24"],
        ),
        // A way out, or a host, without room for IPv6. (What it had goes.)
        (
            "ip link set uplink mtu 1270",
            both(),
            &["2001:db8:22::/64", "1280", "choose a larger mtu"],
        ),
        (
            "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6",
            both(),
            &["2001:db8:22::/64", "turn IPv6 on"],
        ),
    ]
}

/// Bridges that are not ours.
fn refused_by_theirs() -> Vec<Refused> {
    const BR7: &str =
        "ip link add br7 type bridge; ip addr add 10.27.0.1/24 dev br7; ip link set br7 up";
    let theirs = |keys: Value| {
        let theirs =
            json!({ "bridge": "br7", "ipam": { "subnet": "10.27.0.0/24" }, "ipMasq": false });
        with(theirs, keys)
    };
    vec![
        (
            BR7,
            theirs(json!({ "ipMasq": true })),
            &["ipMasq", "not ours"],
        ),
        (
            BR7,
            theirs(json!({ "ipam": { "subnet": "10.28.0.0/24" } })),
            &["10.28.0.0/24", "10.27.0.0/24"],
        ),
        (
            BR7,
            theirs(json!({ "ipam": { "subnet": "10.27.0.0/24", "gateway": "10.27.0.9" } })),
            &["10.27.0.9", "10.27.0.1"],
        ),
        (
            BR7,
            theirs(ranges(
                json!([[{ "subnet": "10.27.0.0/24" }], [{ "subnet": "2001:db8:22::/64" }]]),
            )),
            &["2001:db8:22::/64", "no IPv6"],
        ),
        (
            "ip link add br7 type bridge; ip addr add 10.27.0.1/24 dev br7
            ip addr add 2001:db8:27::1/64 dev br7 nodad; ip link set br7 up",
            theirs(json!({ "mtu": 1000 })),
            &["MTU 1000", "br7", "choose a larger mtu, or another bridge"],
        ),
        (
            "ip link add br7 type bridge; ip link set br7 up",
            theirs(json!({})),
            &["br7", "no IPv4 address"],
        ),
        (
            "ip link add br7 type bridge; ip addr add 10.27.0.1/32 dev br7; ip link set br7 up",
            theirs(json!({})),
            &["10.27.0.1/32 has no room"],
        ),
        (
            "ip link add br7 type bridge; ip addr add 10.27.0.1/24 dev br7",
            theirs(json!({})),
            &["br7", "is down"],
        ),
        // Something that is no bridge.
        (
            "ip link add br7 type veth peer name far7",
            theirs(json!({})),
            &["br7", "no bridge"],
        ),
    ]
}

/// Section 2, STATUS: what ADD refuses is refused before there is a container, in the same words.
#[test]
fn status_refuses_what_add_would() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = Netns::new("a");
        for (disturb, keys, words) in refused_by_theirs().into_iter().chain(refused_by_ours()) {
            let config = with(blue(), keys);
            sh(&disturb.replace("$HAWSER", &lab::binary().display().to_string()));
            lab.settle();
            let before = Snapshot::take();
            plugin.of_network("STATUS", &config).fault(50, words);
            before.assert_back();
            plugin
                .call("ADD", whose("c1", A), &config)
                .fault(100, words);
            for bridge in ["cni0", "hawser0"] {
                lab.hawser(&["down", "--bridge", bridge]);
            }
            sh(
                "exec 2>/dev/null; ip link del br7; ip link set uplink mtu 1500
                ip -6 route del 2001:db8:22::/80; ip route del 10.22.0.128/25; true",
            );
        }
        // Pods live by the rules of another version, and nothing is wrong with them.
        let older =
            "nft delete table inet hawser; nft 'add table inet hawser { comment \"hawser 0\"; }'";
        let added = plugin.call("ADD", whose("c1", A), &blue()).ok();
        sh(older);
        let checked = with(blue(), json!({ "prevResult": added }));
        plugin.call("CHECK", whose("c1", A), &checked).ok();
        plugin.call("DEL", whose("c1", A), &blue()).ok();
        lab.hawser(&["down", "--bridge", "cni0"]).ok();
        lab.run(&["-d", "--name", "old"], &["sleep", "1000"]).ok();
        sh(older);
        let words = ["containers live by its rules", "old"];
        let ptp = with(blue(), json!({ "mode": "ptp", "bridge": null }));
        for config in [&blue(), &ptp] {
            plugin.of_network("STATUS", config).fault(50, &words);
            plugin
                .call("ADD", whose("c1", A), config)
                .fault(100, &words);
        }
    });
}

/// The same of addresses: of a bridge that is not ours, where no range is named; and of another plugin.
#[test]
fn status_knows_which_addresses_there_are() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = [Netns::new("a"), Netns::new("b")];
        sh("ip link add br7 type bridge; ip addr add 10.27.0.2/30 dev br7; ip link set br7 up");
        let keys = json!({ "bridge": "br7", "ipam": {}, "ipMasq": false });
        let theirs = with(blue(), keys);
        plugin.of_network("STATUS", &theirs).ok();
        let result = plugin.call("ADD", whose("c1", A), &theirs).ok();
        assert_eq!(address_of(&result), "10.27.0.1");
        sh("ip link set br7 down");
        plugin
            .of_network("STATUS", &theirs)
            .fault(51, &["br7", "is down"]);
        sh("ip link set br7 up");
        plugin
            .of_network("STATUS", &theirs)
            .fault(50, &["10.27.0.1 to 10.27.0.2", "in use"]);
        plugin
            .call("ADD", whose("c2", "/run/netns/b"), &theirs)
            .fault(11, &["in use"]);
        plugin.call("DEL", whose("c1", A), &theirs).ok();
        plugin.of_network("STATUS", &theirs).ok();
        // What another plugin gives is not known; what the bridge is, is.
        let fake = Fake::new(lab, &plugin);
        fake.answer(&given().to_string());
        plugin.of_network("STATUS", &of_fake()).ok();
        let masquerading = with(of_fake(), json!({ "bridge": "br7" }));
        plugin
            .of_network("STATUS", &masquerading)
            .fault(50, &["ipMasq", "not ours"]);
        // What makes no sense does so before there is a container.
        let by_another = json!([{ "dst": "0.0.0.0/0", "gw": "10.22.0.9" }]);
        let by_another = json!({ "subnet": "10.22.0.0/24", "routes": by_another });
        let by_another = json!({ "isDefaultGateway": true, "ipam": by_another });
        plugin
            .of_network("STATUS", &with(blue(), by_another))
            .fault(7, &["10.22.0.9", "10.22.0.1"]);
    });
}

/// What this host has is cut out of a wider network, also where the bridge was there before.
#[test]
fn a_bridge_that_is_there_gets_ipv6() {
    case(|lab| {
        let plugin = lab.plugin();
        let netns = Netns::new("a");
        let one = whose("c1", A);
        made(&plugin, &blue());
        sh("ip -6 route add 2001:db8:22::/56 dev uplink");
        let both = json!([[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "2001:db8:22::/64" }]]);
        let both = with(blue(), ranges(both));
        plugin.of_network("STATUS", &both).ok();
        let result = plugin.call("ADD", one, &both).ok();
        let six = result["ips"][1]["address"].as_str().expect("an address");
        assert!(addresses(&netns, "eth0").contains(six), "{result}");
        plugin.call("DEL", one, &both).ok();
    });
}

/// Section 2, VERSION: the versions that are spoken; section 2, errors: 1 for one that is not.
#[test]
fn versions() {
    case(|lab| {
        let plugin = lab.plugin();
        for version in VERSIONS {
            let answer = plugin
                .of_network("VERSION", &json!({ "cniVersion": version }))
                .ok();
            let expected = json!({ "cniVersion": version, "supportedVersions": VERSIONS });
            assert_eq!(answer, expected);
        }
        let answer = plugin.raw(b"", &[("CNI_COMMAND", "VERSION")]).ok();
        assert_eq!(answer["cniVersion"], "1.1.0");
        let _netns = Netns::new("a");
        for version in [
            json!("0.2.0"),
            json!("2.0.0"),
            json!("1.1"),
            json!(1),
            Value::Null,
        ] {
            let config = with(blue(), json!({ "cniVersion": version }));
            for operation in ["ADD", "DEL", "CHECK"] {
                plugin
                    .call(operation, whose("c1", A), &config)
                    .fault(1, &["cniVersion"]);
            }
        }
        // An error is of the version in use.
        for version in VERSIONS {
            let config = with(blue(), json!({ "cniVersion": version }));
            let fault = plugin
                .call("ADD", whose("c1", "/run/netns/none"), &config)
                .fault(3, &[]);
            assert_eq!(fault["cniVersion"], version);
        }
        // CHECK came with 0.4.0, GC and STATUS with 1.1.0.
        let config = |version| with(blue(), json!({ "cniVersion": version }));
        plugin
            .call("CHECK", whose("c1", A), &config("0.3.1"))
            .fault(1, &["0.4.0"]);
        for operation in ["GC", "STATUS"] {
            plugin
                .of_network(operation, &config("1.0.0"))
                .fault(1, &["1.1.0"]);
        }
    });
}

/// Section 2, parameters and errors: what the environment must hold, and 4 when it does not.
#[test]
fn the_environment() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = Netns::new("a");
        let before = Snapshot::take();
        let input = blue().to_string();
        let all = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", A),
        ];
        for missing in 0..all.len() {
            let mut some = all.to_vec();
            let (name, _) = some.remove(missing);
            plugin.raw(input.as_bytes(), &some).fault(4, &[name]);
            some.push((name, ""));
            plugin.raw(input.as_bytes(), &some).fault(4, &[name]);
        }
        // DEL needs no namespace.
        for (operation, needed) in [("DEL", 3), ("CHECK", 4)] {
            for missing in 1..needed {
                let mut some = all.to_vec();
                some[0].1 = operation;
                let (name, _) = some.remove(missing);
                plugin.raw(input.as_bytes(), &some).fault(4, &[name]);
            }
        }
        let bad = [
            ("CNI_COMMAND", "add"),
            ("CNI_COMMAND", "FROB"),
            ("CNI_CONTAINERID", "-c1"),
            ("CNI_CONTAINERID", "c/1"),
            ("CNI_CONTAINERID", "c 1"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a:b"),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", "eth%d"),
            ("CNI_IFNAME", "."),
            ("CNI_IFNAME", ".."),
            ("CNI_ARGS", "nonsense"),
            ("CNI_ARGS", "K8S_POD_NAME=web"),
        ];
        for (name, value) in bad {
            let some: Vec<_> = all.into_iter().filter(|(key, _)| *key != name).collect();
            let some = [&some[..], &[(name, value)]].concat();
            plugin.raw(input.as_bytes(), &some).fault(4, &[name]);
        }
        // The network namespace: what is not there (3), what is none, the host's own.
        for (path, code) in [
            ("/run/netns/none", 3),
            ("/etc/passwd", 4),
            ("/proc/self/ns/net", 4),
        ] {
            let fault = plugin
                .call("ADD", whose("c1", path), &blue())
                .fault(code, &[]);
            let text = fault["msg"].as_str().unwrap_or_default();
            assert!(text.contains(path), "{fault}");
        }
        // `lo` is there already, and the others are directories of switches. None is no reason not to clean up.
        for interface in ["lo", "all", "default"] {
            let one = Whose {
                interface,
                ..whose("c1", A)
            };
            plugin
                .call("ADD", one, &blue())
                .fault(4, &["CNI_IFNAME", interface]);
            plugin.call("DEL", one, &blue()).ok();
        }
        before.assert_back();
        let ignoring = [("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web")];
        plugin
            .raw(input.as_bytes(), &[&all[..], &ignoring].concat())
            .ok();
        let mut some = all[..3].to_vec();
        some[0].1 = "DEL";
        plugin.raw(input.as_bytes(), &some).ok();
        assert!(!sh("ip -n a -o link").contains("eth0"));
    });
}

#[test]
fn what_is_a_call_of_the_plugin() {
    case(|lab| {
        // Not by the environment alone, which is inherited.
        let mut command = lab.command(&["ls"]);
        command.envs([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", A),
        ]);
        lab::collect(command, lab::DEADLINE).ok();
        // By its name, or as `host-helper cni`.
        let mut command = lab.command(&["cni"]);
        command.envs([("CNI_COMMAND", "VERSION")]);
        let answer = lab::collect(command, lab::DEADLINE).ok();
        assert!(answer.contains("supportedVersions"), "{answer}");
    });
}

fn ranges(ranges: Value) -> Value {
    json!({ "ipam": { "ranges": ranges } })
}

fn ports(port: Value) -> Value {
    json!({ "runtimeConfig": { "portMappings": [port] } })
}

/// Keys with values that make no sense.
fn senseless() -> Vec<Value> {
    vec![
        json!({ "name": null }),
        json!({ "name": "a b" }),
        json!({ "name": "-" }),
        json!({ "bridge": 5 }),
        json!({ "bridge": "br%d" }),
        json!({ "bridge": "eth1:0" }),
        json!({ "bridge": "sixteen-letters-" }),
        json!({ "bridge": "hw1" }),
        json!({ "bridge": "all" }),
        json!({ "bridge": "ptp" }),
        json!({ "ipMasq": "yes" }),
        json!({ "mtu": 67 }),
        // Less than IPv6 takes, and a range of it.
        with(
            ranges(json!([[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "2001:db8::/64" }]])),
            json!({ "mtu": 1279 }),
        ),
        json!({ "mtu": -1 }),
        json!({ "mode": "macvlan" }),
        json!({ "ipam": [] }),
        json!({ "ipam": { "subnet": "10.22.0.1/24" } }),
        json!({ "ipam": { "gateway": "10.22.0.1" } }),
        json!({ "ipam": { "subnet": "10.22.0.0/24", "routes": [{ "gw": "10.22.0.1" }] } }),
        json!({ "ipam": { "subnet": "10.22.0.0/24", "routes": [{ "dst": "::/0", "gw": "10.22.0.1" }] } }),
        json!({ "ipam": { "subnet": "10.22.0.0/24", "resolvConf": "/no/such/file" } }),
        ranges(json!([{ "subnet": "10.22.0.0/24" }])),
        ranges(json!([[{ "rangeStart": "10.22.0.5" }]])),
        ranges(json!([[{ "subnet": "10.22.0.0/24", "rangeStart": "10.23.0.5" }]])),
        ranges(
            json!([[{ "subnet": "10.22.0.0/24", "rangeStart": "10.22.0.9", "rangeEnd": "10.22.0.5" }]]),
        ),
        ranges(json!([[{ "subnet": "10.22.0.0/24", "gateway": "10.23.0.1" }]])),
        ranges(json!([[{ "subnet": "10.22.0.0/24", "gateway": "10.22.0.255" }]])),
        json!({ "isDefaultGateway": true, "ipam": {
            "subnet": "10.22.0.0/24", "routes": [{ "dst": "0.0.0.0/0", "gw": "10.22.0.7" }],
        } }),
        json!({ "isDefaultGateway": true, "ipam": {
            "ranges": [[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "2001:db8::/64" }]],
            "routes": [{ "dst": "::/0", "gw": "2001:db8::7" }],
        } }),
    ]
}

/// The same, of what a runtime adds.
fn senseless_calls() -> Vec<Value> {
    vec![
        json!({ "dns": { "nameservers": ["resolver"] } }),
        json!({ "dns": { "nameservers": ["192.0.2.53%eth0"] } }),
        json!({ "dns": { "nameservers": ["2001:db8::53%eth0"] } }),
        json!({ "runtimeConfig": { "dns": { "servers": ["fe80::1%"] } } }),
        json!({ "prevResult": [] }),
        json!({ "runtimeConfig": { "mac": "03:00:00:00:00:01" } }),
        json!({ "args": { "cni": { "mac": "nonsense" } } }),
        json!({ "runtimeConfig": { "ips": ["nonsense"] } }),
        json!({ "runtimeConfig": { "ips": ["10.22.0.5", "2001:db8::5/64"] } }),
        json!({ "hairpinMode": true, "promiscMode": true }),
        ports(json!({ "hostPort": 0, "containerPort": 80 })),
        ports(json!({ "hostPort": 8080 })),
        ports(json!({ "hostPort": 8080, "containerPort": 65536 })),
        ports(json!({ "hostPort": 8080, "containerPort": 80, "protocol": "icmp" })),
        ports(json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "nonsense" })),
        json!({ "runtimeConfig": { "portMappings": [
                { "hostPort": 8080, "containerPort": 80 }, { "hostPort": 8080, "containerPort": 81 }
            ] } }),
    ]
}

/// Keys of what cannot be had, with what the error must show.
fn unsupported() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "vlan": 5 }), "vlan 5"),
        (
            json!({ "vlanTrunk": [{ "id": 5 }] }),
            "vlanTrunk [{\"id\":5}]",
        ),
        (json!({ "isGateway": false }), "isGateway false"),
        (
            json!({ "ipMasqBackend": "iptables" }),
            "ipMasqBackend \"iptables\"",
        ),
        (json!({ "backend": "firewalld" }), "backend \"firewalld\""),
        (json!({ "enabledad": true }), "enabledad true"),
        (
            json!({ "disableContainerInterface": true }),
            "disableContainerInterface true",
        ),
        (json!({ "portIsolation": true }), "portIsolation true"),
        (json!({ "snat": false }), "snat false"),
        (
            json!({ "conditionsV4": ["-s", "192.0.2.0/24"] }),
            "conditionsV4",
        ),
        (
            json!({ "ingressPolicy": "isolated" }),
            "ingressPolicy \"isolated\"",
        ),
        (json!({ "mode": "ptp" }), "bridge \"cni0\""),
        (
            json!({ "mode": "ptp", "bridge": null, "macspoofchk": true }),
            "macspoofchk true",
        ),
        (json!({ "nonsense": 1 }), "nonsense 1"),
        (
            json!({ "ipam": { "subnet": "10.22.0.0/24", "dataDir": "/x" } }),
            "ipam.dataDir \"/x\"",
        ),
        (
            json!({ "ipam": { "subnet": "10.22.0.0/24", "more": true } }),
            "ipam.more true",
        ),
        (
            json!({ "ipam": { "subnet": "10.22.0.0/24", "routes": [{ "dst": "0.0.0.0/0", "mtu": 1400 }] } }),
            "mtu 1400",
        ),
        (json!({ "ipam": { "type": "dhcp" } }), "ipam.type \"dhcp\""),
        (
            ranges(json!([[{ "subnet": "2001:db8::/64" }]])),
            "2001:db8::/64",
        ),
        (
            ranges(json!([[{ "subnet": "10.22.0.0/24" }, { "subnet": "10.23.0.0/24" }]])),
            "10.23.0.0/24",
        ),
        (
            ranges(json!([[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "10.23.0.0/24" }]])),
            "10.23.0.0/24",
        ),
        (
            json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 5 } } }),
            "bandwidth",
        ),
        (
            json!({ "runtimeConfig": { "aliases": ["web"] } }),
            "aliases",
        ),
        (
            ports(json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "127.0.0.1" })),
            "127.0.0.1",
        ),
    ]
}

/// Section 2, errors: 5 for what cannot be read, 6 for what is no JSON, 7 for what makes no sense, 2 for what is not supported, with key and value.
#[test]
fn bad_configurations() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = Netns::new("a");
        let before = Snapshot::take();
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", A),
        ];
        let long = format!("\"{}\"", "x".repeat(17 << 20));
        for bad in ["", "{", "null{", "\u{0}", &long, &"[".repeat(100_000)] {
            plugin
                .raw(bad.as_bytes(), &variables)
                .fault(6, &["read the network configuration"]);
        }
        plugin.raw(b"\xff\xfe", &variables).fault(6, &[]);
        // A directory cannot be read.
        let mut command = plugin.command(b"", &variables);
        command.stdin(fs::File::open("/").expect("open a directory"));
        Answer(lab::collect(command, lab::DEADLINE)).fault(5, &["read the network configuration"]);
        for bad in ["[]", "1", "null", "{}"] {
            plugin
                .raw(bad.as_bytes(), &variables)
                .fault(1, &["cniVersion"]);
        }
        for bad in [senseless(), senseless_calls()].concat() {
            plugin
                .call("ADD", whose("c1", A), &with(blue(), bad))
                .fault(7, &[]);
        }
        for (bad, shown) in unsupported() {
            plugin
                .call("ADD", whose("c1", A), &with(blue(), bad))
                .fault(2, &[shown]);
        }
        // A plugin that is not there, or is no name.
        for kind in ["no-such-plugin", "../hawser"] {
            let config = with(blue(), json!({ "ipam": { "type": kind } }));
            plugin
                .call("ADD", whose("c1", A), &config)
                .fault(102, &[kind]);
        }
        before.assert_back();
    });
}

/// Table of keys: each has the meaning that the reference plugins give it.
#[test]
fn addresses_are_given_as_asked_for() {
    case(|lab| {
        let plugin = lab.plugin();
        let netns = Netns::new("a");
        let one = whose("c1", A);
        let pool = json!({ "ipam": {
            "type": "hawser",
            "ranges": [
                [{ "subnet": "10.22.0.0/24", "rangeStart": "10.22.0.100", "rangeEnd": "10.22.0.102", "gateway": "10.22.0.254" }],
                [{ "subnet": "2001:db8:22::/64" }],
            ],
            "routes": [{ "dst": "198.51.100.0/24" }, { "dst": "203.0.113.0/24", "gw": "10.22.0.9" }, { "dst": "::/0" }],
        } });
        let config = with(blue(), pool);
        let add = |config: &Value, variables: &[(&str, &str)]| {
            let all = [
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", A),
            ];
            plugin.raw(
                config.to_string().as_bytes(),
                &[&all[..], variables].concat(),
            )
        };
        let del = || drop(plugin.call("DEL", one, &config).ok());
        let result = add(&config, &[]).ok();
        assert_eq!(result["ips"][0]["address"], "10.22.0.100/24");
        assert_eq!(result["ips"][0]["gateway"], "10.22.0.254");
        assert_eq!(result["ips"][1]["address"], "2001:db8:22::64/64");
        let routes = netns.sh("ip route; ip -6 route");
        for wanted in [
            "198.51.100.0/24 via 10.22.0.254",
            "203.0.113.0/24 via 10.22.0.9",
            "default via 2001:db8:22::fe",
        ] {
            assert!(routes.contains(wanted), "{wanted}: {routes}");
        }
        assert!(!routes.contains("default via 10"), "{routes}");
        assert!(sh("ip -o addr show dev cni0").contains("10.22.0.254/24"));
        del();
        // One address, in each of the ways that it can be asked for.
        let asked = json!("10.22.0.102");
        let run_time = json!({ "runtimeConfig": { "ips": ["10.22.0.102/24"] } });
        let arguments =
            json!({ "args": { "cni": { "ips": [asked], "labels": [{ "key": "a" }] }, "more": 1 } });
        for (config, variables) in [
            (with(config.clone(), run_time), &[][..]),
            (with(config.clone(), arguments), &[]),
            (config.clone(), &[("CNI_ARGS", "IP=10.22.0.102")]),
        ] {
            assert_eq!(address_of(&add(&config, variables).ok()), "10.22.0.102");
            del();
        }
        add(&config, &[("CNI_ARGS", "IP=10.22.0.50")]).fault(7, &["10.22.0.50", "10.22.0.100"]);
        // What says nothing is as good as nothing, as the reference plugins have it.
        let result = add(&config, &[("CNI_ARGS", "IP=;MAC=")]).ok();
        assert!(address_of(&result).starts_with("10.22.0.10"), "{result}");
        del();
        // One hardware address; what is said last counts.
        let mac = |mac: &str| json!({ "mac": mac });
        let first = with(
            config.clone(),
            json!({ "args": { "cni": mac("02:00:00:00:00:02") } }),
        );
        let second = with(
            first.clone(),
            json!({ "runtimeConfig": mac("02:00:00:00:00:03") }),
        );
        let variables = [("CNI_ARGS", "MAC=02:00:00:00:00:01")];
        for (config, wanted) in [(&config, "01"), (&first, "02"), (&second, "03")] {
            let result = add(config, &variables).ok();
            let wanted = format!("02:00:00:00:00:{wanted}");
            assert_eq!(result["interfaces"][2]["mac"], wanted);
            assert!(netns.sh("ip link show dev eth0").contains(&wanted));
            del();
        }
    });
}

/// The same: ranges of the runtime, a range without a list, no range at all, no bridge.
#[test]
fn kinds_of_networks() {
    case(|lab| {
        let plugin = lab.plugin();
        let netns = Netns::new("a");
        let one = whose("c1", A);
        let config = blue();
        let add = |config: &Value| plugin.call("ADD", one, config).ok();
        let del = |config: &Value| drop(plugin.call("DEL", one, config).ok());
        // Ranges of the runtime; those of before, without a list; all of a subnet that the host chooses.
        let by_run_time = json!({
            "ipam": {}, "isDefaultGateway": true,
            "runtimeConfig": { "ipRanges": [[{ "subnet": "10.22.0.0/24", "gateway": "10.22.0.254", "rangeStart": "10.22.0.7" }]] },
        });
        let result = add(&with(config.clone(), by_run_time));
        assert!(address_of(&result).starts_with("10.22.0."), "{result}");
        assert!(netns.sh("ip route").contains("default via 10.22.0.254"));
        del(&config);
        // The bridge has that gateway by now, whatever is said: another default route than by it would not be heeded.
        let by = |gateway: &str| {
            let routes = json!([{ "dst": "0.0.0.0/0", "gw": gateway }]);
            let ipam = json!({ "subnet": "10.22.0.0/24", "routes": routes });
            with(
                config.clone(),
                json!({ "isDefaultGateway": true, "ipam": ipam }),
            )
        };
        plugin
            .call("ADD", one, &by("10.22.0.1"))
            .fault(7, &["10.22.0.1", "10.22.0.254"]);
        add(&by("10.22.0.254"));
        assert!(netns.sh("ip route").contains("default via 10.22.0.254"));
        del(&config);
        let red = json!({ "name": "red", "bridge": "cni1", "ipam": { "subnet": "10.23.0.0/24" } });
        let red = with(config.clone(), red);
        assert_eq!(address_of(&add(&red)), "10.23.0.2");
        del(&red);
        let any = with(
            config.clone(),
            json!({ "name": "any", "bridge": "cni2", "ipam": null }),
        );
        let result = add(&any);
        assert_eq!(address_of(&result), "172.19.0.2");
        assert!(netns.sh("ip route").contains("default via 172.19.0.1"));
        del(&any);
        // A route for each container, without a bridge.
        let ptp = json!({
            "name": "ptp", "mode": "ptp", "bridge": null, "mtu": 1400,
            "ipam": { "subnet": "10.24.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }] },
        });
        let ptp = with(config.clone(), ptp);
        let result = add(&ptp);
        assert_eq!(
            result["interfaces"].as_array().map(Vec::len),
            Some(2),
            "{result}"
        );
        assert_eq!(result["interfaces"][1]["mtu"], 1400);
        assert!(
            netns
                .sh("ip route; ip link show dev eth0")
                .contains("mtu 1400")
        );
        let check = with(ptp.clone(), json!({ "prevResult": result }));
        plugin.call("CHECK", one, &check).ok();
        sh("ip route del 10.24.0.2");
        plugin
            .call("CHECK", one, &check)
            .fault(101, &["lost its route to 10.24.0.2"]);
        del(&ptp);
    });
}

/// A default route by another router is refused, whenever it is known which router the network has: nobody's way out is replaced by another
/// without a word, and nothing is left.
#[test]
fn a_way_out_by_another_router() {
    case(|lab| {
        let plugin = lab.plugin();
        let fake = Fake::new(lab, &plugin);
        let netns = Netns::new("a");
        let one = whose("c1", A);
        sh("ip link add br7 type bridge; ip addr add 10.27.0.1/24 dev br7; ip link set br7 up");
        let by = |router: &str| json!([{ "dst": if router.contains(':') { "::/0" } else { "0.0.0.0/0" }, "gw": router }]);
        let theirs = |ipam: Value| {
            let keys =
                json!({ "bridge": "br7", "ipMasq": false, "isDefaultGateway": true, "ipam": ipam });
            with(blue(), keys)
        };
        let ranged = |router| theirs(json!({ "subnet": "10.27.0.0/24", "routes": by(router) }));
        let unnamed = |router| with(blue(), json!({ "ipam": { "routes": by(router) } }));
        let ptp = |router| with(unnamed(router), json!({ "mode": "ptp", "bridge": null }));
        let delegated = |router| {
            let given = json!({ "cniVersion": "1.1.0", "ips": [{ "address": "10.27.0.77/24" }], "routes": by(router) });
            fake.answer(&given.to_string());
            theirs(json!({ "type": "fake" }))
        };
        let refused = |config: Value, words: [&str; 2]| {
            let before = Snapshot::take();
            plugin.call("ADD", one, &config).fault(100, &words);
            before.assert_back();
            assert_eq!(netns.sh("ip -o link").lines().count(), 1);
        };
        let words = ["10.27.0.9", "10.27.0.1,"];
        let without_range = theirs(json!({ "routes": by("10.27.0.9") }));
        for config in [ranged("10.27.0.9"), without_range] {
            plugin.of_network("STATUS", &config).fault(50, &words);
            refused(config, words);
        }
        // It writes down what it is asked, from here on.
        plugin.of_network("STATUS", &delegated("10.27.0.9")).ok();
        refused(delegated("10.27.0.9"), words);
        let calls = fake.asked();
        assert!(
            calls.contains("\nADD ") && calls.contains("\nDEL "),
            "{calls}"
        );
        refused(unnamed("172.19.0.9"), ["172.19.0.9", "172.19.0.1,"]);
        refused(ptp("10.0.0.9"), ["10.0.0.9", "10.0.0.1,"]);
        for config in [unnamed("2001:db8::9"), ptp("2001:db8::9")] {
            refused(config, ["2001:db8::9", "::1,"]);
        }
        // By the gateway itself it is what is there anyway.
        let same = [
            (ranged("10.27.0.1"), "10.27.0.1"),
            (delegated("10.27.0.1"), "10.27.0.1"),
            (unnamed("172.19.0.1"), "172.19.0.1"),
            (ptp("10.0.0.1"), "10.0.0.1"),
        ];
        for (config, gateway) in same {
            let result = plugin.call("ADD", one, &config).ok();
            let wanted = json!({ "dst": "0.0.0.0/0", "gw": gateway });
            assert_eq!(result["routes"][0], wanted, "{result}");
            let routes = netns.sh("ip route show default");
            assert!(
                routes.starts_with(&format!("default via {gateway} ")),
                "{routes}"
            );
            assert_eq!(routes.lines().count(), 1, "{routes}");
            plugin.call("DEL", one, &config).ok();
        }
    });
}

/// Routes of other tables (of a VRF, of the plugin sbr) are no way out for who asks the main one: that is taken by a route there alone.
#[test]
fn routes_of_other_tables_take_nothing() {
    case(|lab| {
        let plugin = lab.plugin();
        let netns = Netns::new("a");
        netns.sh("ip link add d0 type bridge; ip addr add 192.0.2.2/24 dev d0; ip link set d0 up
            ip route add default via 192.0.2.1 table 100; ip route add 198.51.100.0/24 via 192.0.2.1 table 100
            ip route add 203.0.113.0/24 via 192.0.2.1");
        let routes = json!([{ "dst": "198.51.100.0/24" }, { "dst": "203.0.113.0/24" }]);
        let ipam = json!({ "subnet": "10.22.0.0/24", "routes": routes });
        let config = with(blue(), json!({ "isDefaultGateway": true, "ipam": ipam }));
        let result = plugin.call("ADD", whose("c1", A), &config).ok();
        let by = |to: &str| json!({ "dst": to, "gw": "10.22.0.1" });
        assert_eq!(
            result["routes"],
            json!([by("0.0.0.0/0"), by("198.51.100.0/24")])
        );
        let routes = netns.sh("ip route");
        assert!(
            routes.contains("default via 10.22.0.1 dev eth0"),
            "{routes}"
        );
        assert!(
            routes.contains("198.51.100.0/24 via 10.22.0.1 dev eth0"),
            "{routes}"
        );
        let check = with(config, json!({ "prevResult": result }));
        plugin.call("CHECK", whose("c1", A), &check).ok();
        plugin.call("DEL", whose("c1", A), &check).ok();
    });
}

/// The first packet that the host forwards to a point-to-point container arrives: the host asks for its hardware address by a link-local
/// address of its own, which the kernel has late, or never.
#[test]
fn the_first_packet_to_a_pod_without_a_bridge() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = [Netns::new("a"), Netns::new("b")];
        lab.internet
            .sh("ip -6 route add 2001:db8:22::/64 via 2001:db8:1::2");
        let both = json!({ "ranges": [[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "2001:db8:22::/64" }]] });
        let keys = json!({ "mode": "ptp", "bridge": null, "ipMasq": false, "isDefaultGateway": true, "ipam": both });
        let config = with(blue(), keys);
        // Who makes one of its own, as new links do; and who makes none.
        for (mode, name) in [(0, "a"), (1, "b")] {
            sh(&format!(
                "echo {mode} >/proc/sys/net/ipv6/conf/default/addr_gen_mode"
            ));
            let path = format!("/run/netns/{name}");
            let result = plugin.call("ADD", whose(name, &path), &config).ok();
            let six = result["ips"][1]["address"].as_str().expect("an address");
            let six = six.split('/').next().expect("an address");
            let pinged = lab.internet.sh(&format!("busybox ping -6 -c 1 -W 4 {six}"));
            assert!(pinged.contains(" 0% packet loss"), "{pinged}");
            let end = result["interfaces"][0]["name"].as_str().expect("a name");
            let own = sh(&format!("ip -6 -o addr show dev {end} scope link"));
            assert!(own.contains("fe80::") && own.lines().count() == 1, "{own}");
        }
        for name in ["a", "b"] {
            plugin.call("DEL", whose(name, ""), &config).ok();
        }
    });
}

/// Runtimes add a container to its networks at the same time (go-cni does): each looks at what the others have made, when they have.
#[test]
fn two_networks_at_once() {
    case(|lab| {
        let plugin = lab.plugin();
        let netns = Netns::new("a");
        let whose = whose("c1", A);
        let behind_another = |operation: &str| {
            let script = format!("exec flock {A} sh -c 'echo locked; exec cat'");
            let mut other = Running::unshared(&["-m"], &script);
            other.until("locked");
            let waiting = Running::spawn(plugin.operation(operation, whose, &blue()));
            // It waits by a child.
            wait_untold("it waits", || !children(waiting.pid()).is_empty());
            (other, waiting)
        };
        let (other, add) = behind_another("ADD");
        netns.sh("ip link add eth1 type bridge; ip addr add 192.0.2.2/24 dev eth1; ip link set eth1 up; ip route add default via 192.0.2.1");
        other.end().ok();
        let result = Answer(add.end()).ok();
        assert!(result["routes"].is_null(), "{result}");
        let check = with(blue(), json!({ "prevResult": result }));
        plugin.call("CHECK", whose, &check).ok();
        plugin.call("DEL", whose, &check).ok();
        // A link that says nothing yet of whose it is may be the other's.
        sh("ip link add hw0a170009 type veth peer name eth2 netns a");
        let (other, del) = behind_another("DEL");
        sh("ip link show dev hw0a170009");
        other.end().ok();
        Answer(del.end()).ok();
        sh("! ip link show dev hw0a170009 2>/dev/null");
    });
}

/// Section 3, lifecycle, and ours: a failed ADD leaves nothing, of the network neither when it was to be its first container.
#[test]
fn a_failed_add_of_the_first_container_leaves_no_network() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = [Netns::new("a"), Netns::new("b")];
        let (one, second) = (whose("c1", A), whose("c2", "/run/netns/b"));
        let before = Snapshot::take();
        // Refused when everything but the port is there.
        let six = json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "::" });
        let ptp = with(blue(), json!({ "mode": "ptp", "bridge": null }));
        for config in [&blue(), &ptp] {
            let bad = with(config.clone(), ports(six.clone()));
            let answer = plugin.call("ADD", one, &bad);
            answer.fault(100, &["[::]:8080:80/tcp", "no IPv6 address"]);
            before.assert_back();
            // An address that this host lacks: no other moment will do.
            let lacking = json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "192.0.2.77" });
            let answer = plugin.call("ADD", one, &with(config.clone(), ports(lacking)));
            answer.fault(100, &["192.0.2.77:8080", "no such address"]);
            before.assert_back();
        }
        // Whoever lives by it keeps it.
        plugin.call("ADD", one, &ptp).ok();
        let there = Snapshot::take();
        let bad = with(ptp.clone(), ports(six));
        plugin.call("ADD", second, &bad).fault(100, &["no IPv6"]);
        there.assert_back();
        // When nobody does any more, the next failure takes it.
        plugin.call("DEL", one, &ptp).ok();
        plugin.call("ADD", second, &bad).fault(100, &["no IPv6"]);
        before.assert_back();
    });
}

/// The kernel's no, and no lack of addresses: another moment would be no better.
#[test]
fn a_full_bridge() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = [Netns::new("a"), Netns::new("b")];
        plugin.call("ADD", whose("c1", A), &blue()).ok();
        fill("cni0");
        plugin
            .call("ADD", whose("c2", "/run/netns/b"), &blue())
            .fault(100, &["cni0", "1,023"]);
        plugin
            .of_network("STATUS", &blue())
            .fault(50, &["cni0", "1023", "another bridge"]);
    });
}

/// A subnet that the host has already: which key is to be changed.
#[test]
fn a_taken_subnet_is_cured_in_the_words_of_the_configuration() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = Netns::new("a");
        let one = whose("c1", A);
        sh("ip link add taken type bridge; ip link set taken up");
        sh("ip route add 10.22.0.128/25 dev taken; ip route add fd22::/65 dev taken");
        let no_bridge = json!({ "mode": "ptp", "bridge": null });
        let both = json!([[{ "subnet": "10.23.0.0/24" }], [{ "subnet": "fd22::/64" }]]);
        for (keys, subnet, has) in [
            (json!({}), "10.22.0.0/24", "10.22.0.128/25"),
            (no_bridge, "10.22.0.0/24", "10.22.0.128/25"),
            (ranges(both), "fd22::/64", "fd22::/65"),
        ] {
            let named = [
                subnet,
                has,
                "choose another subnet, or leave ipam.ranges out",
            ];
            plugin
                .call("ADD", one, &with(blue(), keys))
                .fault(100, &named);
        }
        let named = ["10.22.0.128/25", "leave ipam.ranges out"];
        plugin.of_network("STATUS", &blue()).fault(50, &named);
        sh("ip link del taken");
        plugin.call("ADD", one, &blue()).ok();
        let other = with(blue(), json!({ "ipam": { "subnet": "10.24.0.0/24" } }));
        let _second = Netns::new("b");
        plugin
            .call("ADD", whose("c2", "/run/netns/b"), &other)
            .fault(
                100,
                &["the bridge has 10.22.0.0/24; leave ipam.ranges out, or choose another bridge"],
            );
    });
}

/// Keys of the bridge plugin that change what the bridge or its port does.
#[test]
fn the_bridge_and_its_ports() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = Netns::new("a");
        let one = whose("c1", A);
        for (keys, port, bridge) in [
            (json!({}), "hairpin off", "promiscuity 0"),
            (
                json!({ "hairpinMode": true }),
                "hairpin on",
                "promiscuity 0",
            ),
            (
                json!({ "promiscMode": true }),
                "hairpin off",
                "promiscuity 1",
            ),
        ] {
            let config = with(blue(), keys);
            plugin.call("ADD", one, &config).ok();
            let shown = sh("ip -d link show master cni0");
            assert!(shown.contains(port), "{shown}");
            let shown = sh("ip -d link show dev cni0");
            assert!(shown.contains(bridge), "{shown}");
            plugin.call("DEL", one, &config).ok();
        }
        // Another gateway than the bridge's, masquerading that another network of the bridge does not want.
        let other = json!({ "ipam": { "ranges": [[{ "subnet": "10.22.0.0/24", "gateway": "10.22.0.9" }]] } });
        plugin
            .call("ADD", one, &with(blue(), other))
            .fault(100, &["10.22.0.9", "10.22.0.1"]);
        plugin
            .call("ADD", one, &with(blue(), json!({ "ipMasq": false })))
            .fault(100, &["ipMasq"]);
        // What fails takes the network that it has made.
        let there = Snapshot::take();
        let new = json!({ "bridge": "cni9", "name": "new", "ipam": { "subnet": "10.29.0.0/24" } });
        let new = with(blue(), new);
        let wrong = with(
            new.clone(),
            json!({ "runtimeConfig": { "ips": ["10.29.0.1"] } }),
        );
        plugin.call("ADD", one, &wrong).fault(100, &["10.29.0.1"]);
        there.assert_back();
        // A bridge of somebody else's is used as it is; what it cannot do is refused.
        sh("ip link add br7 type bridge; ip addr add 10.27.0.1/24 dev br7; ip link set br7 up");
        let theirs =
            json!({ "bridge": "br7", "ipam": { "subnet": "10.27.0.0/24" }, "ipMasq": false });
        let theirs = with(blue(), theirs);
        let result = plugin.call("ADD", one, &theirs).ok();
        assert_eq!(address_of(&result), "10.27.0.2");
        // It has the address of its first port.
        let own = sh("ip -o link show dev br7");
        let mac = result["interfaces"][0]["mac"].as_str().expect("an address");
        assert!(own.contains(&format!("ether {mac}")), "{own}: {result}");
        plugin.call("DEL", one, &theirs).ok();
        let masquerading = with(theirs, json!({ "ipMasq": true }));
        plugin
            .call("ADD", one, &masquerading)
            .fault(100, &["ipMasq", "not ours"]);
    });
}

/// Section 3, chaining: prevResult is passed on, with what we have made behind it. `dns` is passed to the result; resolv.conf
/// is not ours.
#[test]
fn what_others_have_made_is_passed_on() {
    case(|lab| {
        let plugin = lab.plugin();
        let _netns = Netns::new("a");
        let one = Whose {
            interface: "net1",
            ..whose("c1", A)
        };
        let previous = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "eth0", "sandbox": A, "mac": "02:00:00:00:00:77" }],
            "ips": [{ "address": "203.0.113.7/24", "interface": 0 }],
            "routes": [{ "dst": "203.0.113.0/24" }],
            "dns": { "nameservers": ["203.0.113.53"] },
            "whatever": 5,
        });
        let config = with(blue(), json!({ "prevResult": previous }));
        let result = plugin.call("ADD", one, &config).ok();
        assert_eq!(
            result["interfaces"].as_array().map(Vec::len),
            Some(4),
            "{result}"
        );
        assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
        assert_eq!(result["ips"][0], previous["ips"][0]);
        assert_eq!(result["routes"][0], previous["routes"][0]);
        assert_eq!(result["ips"][1]["interface"], 3);
        assert_eq!(
            (&result["dns"], &result["whatever"]),
            (&previous["dns"], &json!(5))
        );
        let check = with(blue(), json!({ "prevResult": result }));
        plugin.call("CHECK", one, &check).ok();
        plugin.call("DEL", one, &check).ok();
        let file = lab.dir.join("resolv");
        fs::write(
            &file,
            "nameserver 192.0.2.53\nsearch example.org\noptions ndots:2\n",
        )
        .expect("write");
        let dns = json!({ "nameservers": ["192.0.2.1"], "domain": "example.net", "search": ["a.example"], "options": ["ndots:3"] });
        let of_call = json!({ "servers": ["192.0.2.2"], "searches": ["b.example"] });
        let of_file = json!({ "subnet": "10.22.0.0/24", "resolvConf": file.to_string_lossy() });
        for (keys, wanted) in [
            (json!({ "dns": dns }), dns.clone()),
            (
                json!({ "dns": dns, "runtimeConfig": { "dns": of_call } }),
                json!({ "nameservers": ["192.0.2.2"], "search": ["b.example"] }),
            ),
            // As kubelet hands it on.
            (
                json!({ "runtimeConfig": { "dns": { "servers": ["fe80::1%eth0", "192.0.2.2"] } } }),
                json!({ "nameservers": ["fe80::1%eth0", "192.0.2.2"] }),
            ),
            (
                json!({ "ipam": of_file }),
                json!({ "nameservers": ["192.0.2.53"], "search": ["example.org"], "options": ["ndots:2"] }),
            ),
        ] {
            let config = with(config.clone(), keys);
            let result = plugin.call("ADD", one, &config).ok();
            assert_eq!(result["dns"], wanted);
            let check = with(config.clone(), json!({ "prevResult": result }));
            plugin.call("CHECK", one, &check).ok();
            plugin.call("DEL", one, &config).ok();
        }
    });
}

/// A plugin that writes down what it is asked, and gives what it is told to.
struct Fake {
    log: PathBuf,
}

impl Fake {
    fn new(lab: &Lab, plugin: &Plugin) -> Self {
        let log = lab.dir.join("log");
        let shown = log.display();
        let script = format!(
            "#!/bin/sh
            cat >{shown}.input
            echo $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS >>{shown}
            [ ! -e {shown}.fault ] || {{ cat {shown}.fault; echo 'told by fake' >&2; exit 1; }}
            [ $CNI_COMMAND != ADD ] || [ ! -e {shown}.killed ] || kill -9 $$
            [ $CNI_COMMAND != ADD ] || cat {shown}.answer\n"
        );
        let file = plugin.path.join("fake");
        fs::write(&file, script).expect("write a plugin");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("make it a program");
        Self { log }
    }

    fn beside(&self, end: &str) -> PathBuf {
        self.log.with_extension(end)
    }

    fn answer(&self, text: &str) {
        fs::write(self.beside("answer"), text).expect("write an answer");
    }

    /// What it was asked since the last time.
    fn asked(&self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        fs::write(&self.log, "").expect("empty its log");
        said.lines()
            .map(|line| line.trim().to_owned() + "\n")
            .collect()
    }
}

fn of_fake() -> Value {
    let ipam = json!({ "type": "fake", "whatever": 5 });
    let run_time = json!({ "ips": ["10.22.0.77"] });
    with(blue(), json!({ "ipam": ipam, "runtimeConfig": run_time }))
}

fn given() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "ips": [{ "address": "10.22.0.77/24", "gateway": "10.22.0.1" }, { "address": "2001:db8:22::5/64" }],
        "routes": [{ "dst": "0.0.0.0/0" }],
        "dns": { "nameservers": ["192.0.2.9"] },
    })
}

/// Section 4, delegation: the plugin of `ipam.type` is looked for in CNI_PATH, and gets the same environment and input; what it
/// answers is used. DEL, CHECK, GC and STATUS are passed on, too.
#[test]
fn addresses_of_another_plugin() {
    case(|lab| {
        let plugin = lab.plugin();
        let fake = Fake::new(lab, &plugin);
        fake.answer(&given().to_string());
        let netns = Netns::new("a");
        let one = whose("c1", A);
        let config = of_fake();
        let result = plugin.call("ADD", one, &config).ok();
        for (at, own) in ["10.22.0.77/24", "2001:db8:22::5/64"]
            .into_iter()
            .enumerate()
        {
            assert_eq!(result["ips"][at]["address"], own);
            assert_eq!(result["ips"][at]["interface"], 2);
            assert!(addresses(&netns, "eth0").contains(own));
        }
        assert_eq!(result["dns"]["nameservers"][0], "192.0.2.9");
        assert!(netns.sh("ip route").contains("default via 10.22.0.1"));
        let input = fs::read_to_string(fake.beside("input")).expect("its input");
        assert_eq!(serde_json::from_str::<Value>(&input).expect("JSON"), config);
        let check = with(config.clone(), json!({ "prevResult": result }));
        plugin.call("CHECK", one, &check).ok();
        plugin.of_network("STATUS", &config).ok();
        let known = json!([{ "containerID": "c1", "ifname": "eth0" }]);
        let known = json!({ "cni.dev/valid-attachments": known });
        plugin.of_network("GC", &with(config.clone(), known)).ok();
        let calls = format!("c1 eth0 {A}");
        let wanted = format!("ADD {calls}\nCHECK {calls}\nSTATUS\nGC\n");
        assert_eq!(fake.asked(), wanted);
        // Its error is ours, and keeps nothing from being taken.
        let fault = json!({ "code": 11, "msg": "no lease" });
        fs::write(fake.beside("fault"), fault.to_string()).expect("write a fault");
        plugin.call("CHECK", one, &check).fault(11, &["no lease"]);
        let none = json!({ "cni.dev/valid-attachments": [] });
        plugin
            .of_network("GC", &with(config.clone(), none))
            .fault(11, &["no lease"]);
        assert!(!netns.sh("ip -o link").contains("eth0"));
        fs::remove_file(fake.beside("fault")).expect("remove a file");
        plugin.call("DEL", one, &config).ok();
        let wanted = format!("CHECK {calls}\nGC\nDEL {calls}\n");
        assert_eq!(fake.asked(), wanted);
    });
}

/// Section 4, delegation: what the other plugin gave is given back when ADD fails, and what it says went wrong is passed on.
#[test]
fn another_plugin_that_fails() {
    case(|lab| {
        let plugin = lab.plugin();
        let fake = Fake::new(lab, &plugin);
        let netns = Netns::new("a");
        made(&plugin, &blue());
        let (one, config) = (whose("c1", A), of_fake());
        let before = Snapshot::take();
        fake.answer(&given().to_string());
        netns.sh("ip link add eth0 type bridge");
        plugin.call("ADD", one, &config).fault(100, &["eth0"]);
        netns.sh("ip link del eth0");
        assert_eq!(fake.asked(), "", "not before it is known to be needed");
        let narrow = json!({ "ips": [{ "address": "10.99.0.5/24" }] });
        fake.answer(&narrow.to_string());
        plugin
            .call("ADD", one, &config)
            .fault(100, &["10.99.0.0/24"]);
        let calls = format!("ADD c1 eth0 {A}\nDEL c1 eth0 {A}\n");
        assert_eq!(fake.asked(), calls);
        let only6 = r#"{"ips":[{"address":"2001:db8::5/64"}]}"#;
        for bad in ["", "{}", "nonsense", only6] {
            fake.answer(bad);
            plugin.call("ADD", one, &config).fault(102, &[]);
            assert_eq!(fake.asked(), calls, "{bad}");
        }
        // It may have leased an address before.
        fs::write(fake.beside("killed"), "").expect("write a file");
        plugin.call("ADD", one, &config).fault(102, &["SIGKILL"]);
        assert_eq!(fake.asked(), calls);
        fs::remove_file(fake.beside("killed")).expect("remove a file");
        let fault = json!({ "code": 11, "msg": "no address is free", "details": "ask again" });
        fs::write(fake.beside("fault"), fault.to_string()).expect("write a fault");
        let said = plugin
            .call("ADD", one, &config)
            .fault(11, &["no address is free"]);
        assert_eq!(said["details"], "ask again");
        assert_eq!(fake.asked(), calls);
        plugin
            .of_network("STATUS", &config)
            .fault(11, &["no address is free"]);
        let answer = plugin.call("DEL", one, &config);
        assert!(answer.0.err().contains("told by fake"), "{}", answer.0);
        answer.fault(11, &["no address is free"]);
        for end in ["fault", "answer", "input"] {
            fs::remove_file(fake.beside(end)).expect("remove a file");
        }
        plugin.call("DEL", one, &config).ok();
        fs::remove_file(fake.beside("input")).expect("remove a file");
        fs::remove_file(&fake.log).expect("remove a file");
        before.assert_back();
    });
}

/// containerd's CRI and Nomad say it by the names of Go's fields (containerd/go-cni has none of JSON's), which the reference plugins read in any
/// case.
#[test]
fn keys_may_be_written_in_another_case() {
    packets(|lab| {
        lab.serve();
        let plugin = lab.plugin();
        let pod = Netns::new("a");
        let routes = json!({ "routes": [{ "Dst": "0.0.0.0/0" }] });
        let said = json!({ "ipam": routes, "runtimeConfig": {
            "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
            "ipRanges": [[{ "Subnet": "10.24.0.0/24", "RangeStart": "10.24.0.9", "RangeEnd": "", "Gateway": "" }]],
            "dns": { "Servers": ["198.51.100.53"], "Searches": ["example.test"], "Options": [] }
        } });
        let added = plugin
            .call("ADD", whose("a", "/run/netns/a"), &with(blue(), said))
            .ok();
        assert_eq!(address_of(&added), "10.24.0.9");
        assert_eq!(added["dns"]["nameservers"], json!(["198.51.100.53"]));
        let server = serve(&pod, 1);
        let told = greeting(&lab.internet, "192.0.2.2:8080").expect("by the port");
        assert_eq!(told, "hello\n");
        server.join().expect("it was greeted");
        // And another plugin's lease is given back.
        lab.plugins();
        let _other = Netns::new("b");
        let mut config = with(blue(), json!({ "cniVersion": "1.0.0" }));
        let leased = json!({ "Type": "host-local", "ranges": [[{ "subnet": "10.24.0.0/24" }]] });
        for ipam in ["ipam", "IPAM"] {
            config.as_object_mut().expect("an object").remove("ipam");
            config[ipam] = leased.clone();
            let leases = || sh("ls /var/lib/cni/networks/blue | grep -c '^10[.]' || true");
            plugin.call("ADD", whose("c", "/run/netns/b"), &config).ok();
            assert_eq!(leases(), "1\n", "{ipam}");
            plugin.call("DEL", whose("c", "/run/netns/b"), &config).ok();
            assert_eq!(leases(), "0\n", "{ipam}");
        }
        // What is said twice is not guessed at.
        let twice = json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 8081, "HostPort": 8082, "containerPort": 80 }] } });
        plugin
            .call("ADD", whose("b", "/run/netns/a"), &with(blue(), twice))
            .fault(2, &["HostPort", "8082"]);
    });
}

/// Services need frames on the bridge to pass the host's rules: what drops those is told how to let them through.
#[test]
fn doctor_leaves_frames_of_pods_to_the_hosts_rules() {
    packets(|lab| {
        lab.serve();
        let _pod = Netns::new("a");
        lab.plugin().call("ADD", whose("a", A), &blue()).ok();
        sh("iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -o docker0 -j ACCEPT");
        let report = lab.hawser(&["doctor", "--json"]).exits(1).out();
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let found = report["findings"].as_array().expect("an array");
        let is_bridged = sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables") == "1\n";
        assert_eq!(found.len(), 1 + usize::from(is_bridged), "{report}");
        for one in found {
            sh(one["cure"].as_str().expect("a command"));
        }
        lab.hawser(&["doctor"]).ok();
        let now = sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables") == "1\n";
        assert_eq!(now, is_bridged);
    });
}

/// As the reference plugins have it: ingress between pods is open, and sources are not checked unless macspoofchk.
#[test]
fn pods_are_open_and_sources_unchecked() {
    packets(|lab| {
        lab.serve();
        let plugin = lab.plugin();
        let names = ["a", "b"];
        let [a, b] = names.map(Netns::new);
        let red = json!({ "name": "red", "bridge": "cni1", "ipam": {
            "ranges": [[{ "subnet": "10.23.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }]
        } });
        for masquerades in [true, false] {
            let blue = with(blue(), json!({ "ipMasq": masquerades }));
            let red = with(blue.clone(), red.clone());
            let ports = json!({ "runtimeConfig": { "portMappings": [
                { "hostPort": 8080, "containerPort": 80, "protocol": "TCP" },
            ] } });
            let of_a = plugin
                .call(
                    "ADD",
                    whose("a", "/run/netns/a"),
                    &with(blue.clone(), ports),
                )
                .ok();
            let of_b = plugin.call("ADD", whose("b", "/run/netns/b"), &red).ok();
            let (of_a, of_b) = (address_of(&of_a), address_of(&of_b));
            let servers = [serve(&a, 5), serve(&b, 1)];
            // Between networks, from the outside straight to the pod, and by the published port.
            lab.internet
                .sh("ip route replace 10.22.0.0/15 via 192.0.2.2");
            let [direct_a, direct_b] = [of_a.clone(), of_b].map(|address| format!("{address}:80"));
            for (from, to) in [
                (&b, &*direct_a),
                (&a, &*direct_b),
                (&lab.internet, &*direct_a),
                (&lab.internet, "192.0.2.2:8080"),
                // To itself by the host's address, and from the neighbour.
                (&a, "192.0.2.2:8080"),
                (&b, "192.0.2.2:8080"),
            ] {
                assert_eq!(greeting(from, to).expect(to), "hello\n", "{to}");
            }
            // The way out, with the host's address or its own.
            let seen = a.sh("busybox wget -q -O - http://198.51.100.10/cgi-bin/whoami");
            let wanted = if masquerades { "192.0.2.2" } else { &of_a };
            assert_eq!(seen.trim(), wanted);
            // A pod may have further addresses, and send from them.
            a.sh("ip addr add 10.22.0.200/24 dev eth0");
            let seen = a.sh("busybox ping -c 1 -W 2 -I 10.22.0.200 10.22.0.1");
            assert!(seen.contains("1 packets received"), "{seen}");
            for server in servers {
                server.join().expect("all were greeted");
            }
            for name in names {
                plugin
                    .call(
                        "DEL",
                        whose(name, ""),
                        if name == "a" { &blue } else { &red },
                    )
                    .ok();
            }
            lab.hawser(&["down", "--bridge", "cni0"]).ok();
            lab.hawser(&["down", "--bridge", "cni1"]).ok();
        }
        let checked = with(self::blue(), json!({ "macspoofchk": true }));
        plugin
            .call("ADD", whose("a", "/run/netns/a"), &checked)
            .ok();
        a.sh("ip addr add 10.22.0.200/24 dev eth0");
        let seen = a.sh("busybox ping -c 1 -W 1 -I 10.22.0.200 10.22.0.1 || true");
        assert!(seen.contains("0 packets received"), "{seen}");
        plugin.call("DEL", whose("a", ""), &checked).ok();
    });
}
