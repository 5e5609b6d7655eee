//! `doctor`: each of the faults that break the networks of containers, seeded one at a time, is found, and nothing else is; the
//! command that it names cures it, as it is written. On a healthy host it finds nothing, and it changes nothing anywhere.

use std::process::{Command, Stdio};

use lab::{
    DEADLINE, Lab, Netns, Outcome, Running, Snapshot, Watch, Whose, binary, case, collect, packets,
    paste, sh, skip, strace,
};
use serde_json::{Value, json};

/// Every switch of the network, but for the connections that are counted.
fn switches() -> String {
    sh("cd /proc/sys/net && grep -rs . ipv4 ipv6 bridge netfilter | grep -v nf_conntrack_count")
}

/// What `doctor --json` finds; the lines that it prints otherwise say the same, and nothing is changed by either.
#[track_caller]
fn findings(lab: &Lab) -> Vec<Value> {
    let before = (Snapshot::take(), switches());
    let text = lab.hawser(&["doctor"]);
    let json_text = lab.hawser(&["doctor", "--json"]);
    let changes = before.0.changes();
    assert!(changes.is_empty(), "{}", changes.join("\n"));
    assert_eq!(before.1, switches());
    let report: Value = serde_json::from_str(&json_text.out()).expect("JSON");
    assert_eq!(report["version"], 1);
    let found = report["findings"].as_array().expect("an array").clone();
    // Which tables iptables-legacy has made is only told to the real root.
    let is_seen = report["unseen"] == json!([]) && text.err().is_empty();
    assert!(is_seen || !lab.real_root, "{text} {json_text}");
    let code = i32::from(!found.is_empty());
    assert_eq!((text.code, json_text.code), (code, code), "{text}");
    assert_eq!(json_text.err(), "");
    let lines: String = found
        .iter()
        .map(|one| {
            let [fault, place, cause, cure] =
                ["fault", "where", "cause", "cure"].map(|key| one[key].as_str().expect("a word"));
            format!("{fault} {place}: {cause}; cure: {cure}\n")
        })
        .collect();
    assert_eq!(text.out(), lines);
    found
}

#[track_caller]
fn healthy(lab: &Lab) {
    assert_eq!(findings(lab), Vec::<Value>::new());
}

/// These faults are found, and nothing else; gives what cures them.
#[track_caller]
fn finds(lab: &Lab, wanted: &[(&str, &str)]) -> Vec<String> {
    let found = findings(lab);
    let named: Vec<(&str, &str)> = found
        .iter()
        .map(|one| {
            (
                one["fault"].as_str().expect("a word"),
                one["where"].as_str().expect("a word"),
            )
        })
        .collect();
    assert_eq!(named, wanted, "{found:#?}");
    found
        .iter()
        .map(|one| one["cure"].as_str().expect("a command").to_owned())
        .collect()
}

/// One fault, which its cure ends.
#[track_caller]
fn finds_and_cures(lab: &Lab, fault: &str, place: &str) {
    let cures = finds(lab, &[(fault, place)]);
    paste(&cures[0]);
    healthy(lab);
}

fn idle(lab: &Lab, name: &str, options: &[&str]) -> Running {
    lab.start_idle(&[&["--name", name], options].concat())
}

#[test]
fn healthy_hosts() {
    packets(|lab| {
        lab.serve();
        healthy(lab);
        lab.hawser(&["up"]).exits(0);
        healthy(lab);
        let containers = [
            idle(
                lab,
                "web",
                &[
                    "-p",
                    "8080:80",
                    "-p",
                    "127.0.0.1:8081:80",
                    "-p",
                    "192.0.2.2:8085:80",
                ],
            ),
            idle(lab, "alone", &["--isolate", "--egress", "dns"]),
            idle(lab, "direct", &["--network", "ptp", "-p", "8082:80/udp"]),
            idle(
                lab,
                "other",
                &["--bridge", "lan0", "--subnet", "auto", "--no-ipv6"],
            ),
        ];
        healthy(lab);
        // Rules of others that drop nothing of ours, and a port that is none of ours.
        sh("iptables-nft -P FORWARD ACCEPT; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER
            iptables-nft -A FORWARD -i docker0 -o docker1 -j DROP; iptables-nft -A INPUT -p tcp --dport 25 -j DROP
            iptables-nft -t nat -A PREROUTING -p tcp --dport 8088 -j DNAT --to-destination 203.0.113.9:80
            iptables-nft -t nat -A PREROUTING -p tcp --dport 8082 -j DNAT --to-destination 203.0.113.9:80
            iptables-nft -t nat -N IDLE; iptables-nft -t nat -A IDLE -p tcp --dport 8080 -j DNAT --to-destination 203.0.113.9:80");
        sysctl("net.ipv4.conf.uplink.rp_filter=1");
        healthy(lab);
        translations_of_others();
        healthy(lab);
        for container in containers {
            container.end().exits(0);
        }
        lab.settle();
        healthy(lab);
        lab.hawser(&["down", "--bridge", "lan0"]).exits(0);
        lab.hawser(&["down"]).exits(0);
        healthy(lab);
    });
}

/// Of packets for other addresses, from links that are not there, and of ports that are not published.
fn translations_of_others() {
    sh("ip addr add 192.0.2.3/24 dev uplink
        iptables-nft -t nat -N DOCKER; iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
        iptables-nft -t nat -A DOCKER -d 192.0.2.3/32 ! -i docker0 -p tcp --dport 8085 -j DNAT --to-destination 172.17.0.2:80
        iptables-nft -t nat -A DOCKER -d 192.0.2.16/28 ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
        iptables-nft -t nat -A DOCKER -d 5.5.5.5 -p tcp -m multiport --dports 25,8080:8085 -j DNAT --to-destination 172.17.0.2:80
        iptables-nft -t nat -A DOCKER -i nosuch -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
        iptables-nft -t nat -A DOCKER -p tcp --dport 53 -j DNAT --to-destination 172.19.0.1:53
        nft -f - <<'E'
table inet theirs {
    map names { type inet_service : ipv4_addr; elements = { 8086 : 203.0.113.9 }; }
    chain pre {
        type nat hook prerouting priority -100
        ip daddr 5.5.5.5 tcp dport 8080 dnat ip to 203.0.113.9:80
        ip daddr { 192.0.2.3, 5.5.5.5 } tcp dport 8085 dnat ip to 203.0.113.9:80
        ip daddr 192.0.2.128/25 tcp dport 8080-8090 dnat ip to 203.0.113.9:80
        ip daddr != 192.0.2.2 tcp dport 8085 dnat ip to 203.0.113.9:80
        iifname \"nosuch\" tcp dport 8080 dnat ip to 203.0.113.9:80
        iifname \"nosuch*\" tcp dport 8080 dnat ip to 203.0.113.9:80
        tcp dport { 8081, 8086-8090 } dnat ip to 203.0.113.9:80
        dnat ip to tcp dport map { 8086 : 203.0.113.9 }
        dnat ip to tcp dport map @names
        udp dport 8080 dnat ip to 203.0.113.9
    }
}
E");
}

/// Whether it takes a port cannot be told of a rule that is not understood: nobody is told to delete it.
#[test]
fn rules_that_are_not_understood() {
    case(|lab| {
        lab.serve();
        let _web = idle(lab, "web", &["-p", "8080:80"]);
        for rule in [
            "ip saddr 203.0.113.0/24 tcp dport 8080 dnat to 203.0.113.9:80",
            "ip daddr . tcp dport { 192.0.2.2 . 8080 } tcp dport 8080 dnat to 203.0.113.9:80",
            "limit rate 5/second tcp dport 8080 dnat to 203.0.113.9:80",
            "ip daddr 5.5.5.5 jump hop",
        ] {
            sh(&format!(
                "nft -f - <<'E'
table ip old {{
    chain hop {{ tcp dport 8080 dnat to 203.0.113.9; }}
    chain pre {{
        type nat hook prerouting priority -100
        {rule}
    }}
}}
E"
            ));
            let outcome = lab.hawser(&["doctor"]).exits(0);
            let (out, err) = (outcome.out(), outcome.err());
            assert_eq!(out, "", "{rule}");
            let said = err
                .lines()
                .find(|line| line.contains("of nft table ip old"));
            let said = said.unwrap_or_else(|| panic!("{rule}: {err}"));
            assert!(said.contains("it may take port 8080/tcp"), "{said}");
            assert!(!said.contains("delete"), "{said}");
            let (_, look) = said.split_once("look at it with ").expect("a command");
            sh(look);
            sh("nft delete table ip old");
        }
    });
}

#[test]
fn a_healthy_host_without_ipv6() {
    case(|lab| {
        lab.serve();
        sysctl("net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        healthy(lab);
        let containers = [
            idle(lab, "web", &[]),
            idle(lab, "direct", &["--network", "ptp"]),
        ];
        healthy(lab);
        drop(containers);
    });
}

/// With Debian's files over `/` the lab's resolvers are still the host's. Frames on bridges are not looked at.
fn beside_debian(lab: &Lab) {
    let resolv_conf = lab.dir.join("host-resolv.conf");
    sh(&format!(
        "mount --bind {} $(realpath -m /etc/resolv.conf)",
        resolv_conf.display()
    ));
    sysctl("net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0");
}

#[test]
fn a_healthy_host_with_firewalld() {
    case(|lab| {
        lab.serve();
        let Some(firewalld) = lab.firewalld("nftables") else {
            return;
        };
        beside_debian(lab);
        let _web = idle(lab, "web", &[]);
        let cures = finds(lab, &[("forward-dropped", "network hawser0")]);
        paste(&cures[0]);
        healthy(lab);
        // The cure lets frames pass, too.
        sysctl("net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1");
        healthy(lab);
        drop(firewalld);
    });
}

/// A container of another tool's, with a port.
fn attached(lab: &Lab) -> Running {
    let guest = Running::unshared(&["-n"], "exec cat");
    let pid = guest.pid().to_string();
    lab.hawser(&["attach", "--name", "guest", "-p", "8090:80", &pid])
        .exits(0);
    guest
}

#[test]
fn a_healthy_host_with_attached_containers() {
    case(|lab| {
        lab.serve();
        let _guest = attached(lab);
        healthy(lab);
    });
}

#[test]
fn a_healthy_host_of_a_cluster() {
    case(|lab| {
        lab.serve();
        // As flanneld leaves it, but for the kind of the device; the other hosts' containers are elsewhere in its range.
        sh("ip link add flannel.1 type veth peer name flannel.2; ip link set flannel.1 up; ip addr add 10.244.1.0/32 dev flannel.1
            ip route add 10.244.2.0/24 dev flannel.1; ip route add 10.244.0.0/16 dev flannel.1");
        let config = json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "hawser", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "ipam": { "ranges": [[{ "subnet": "10.244.1.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] },
        });
        let guest = Running::unshared(&["-n"], "exec cat");
        let netns = format!("/proc/{}/ns/net", guest.pid());
        let whose = Whose {
            container: "pod",
            interface: "eth0",
            netns: &netns,
        };
        lab.plugin().call("ADD", whose, &config).ok();
        healthy(lab);
        sh("ip route add 10.244.1.128/25 dev flannel.1");
        finds_and_cures(lab, "subnet-overlap", "network cni0");
    });
}

fn sysctl(switches: &str) {
    sh(&format!("sysctl -qw {switches}"));
}

#[test]
fn a_policy_that_drops_what_is_forwarded() {
    packets(|lab| {
        lab.serve();
        let _web = idle(lab, "web", &[]);
        sh("iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -o docker0 -j ACCEPT");
        let is_bridged = sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables") == "1\n";
        let both = [
            ("forward-dropped", "network hawser0"),
            ("bridge-netfilter", "network hawser0"),
        ];
        let cures = finds(lab, &both[..if is_bridged { 2 } else { 1 }]);
        if is_bridged {
            paste(&cures[1]);
            finds(lab, &both[..1]);
        }
        paste(&cures[0]);
        healthy(lab);
    });
}

/// By rules for what leaves the bridge, and answers: a kernel with br_netfilter sends what stays on it through them, too.
#[test]
fn rules_that_drop_what_stays_on_a_bridge() {
    case(|lab| {
        lab.serve();
        let alone = idle(lab, "alone", &["--isolate"]);
        let answers = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
        let lets_out = format!(
            "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i hawser0 -o uplink -j ACCEPT; iptables-nft -A FORWARD {answers}"
        );
        let flush = || {
            sh("for filter in iptables-nft ip6tables-nft; do $filter -P FORWARD ACCEPT; $filter -F; done
                nft delete table inet f 2>/dev/null || true");
            sysctl("net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1");
        };
        // Who has no neighbours misses none.
        sh(&lets_out);
        healthy(lab);
        flush();
        let _one = idle(lab, "one", &[]);
        let _two = idle(lab, "two", &["--ip", "172.19.0.9"]);
        let reaches = || {
            let ping = ["exec", "one", "ping", "-c", "1", "-W", "1", "172.19.0.9"];
            lab.hawser(&ping).code == 0
        };
        let found = ("bridge-netfilter", "network hawser0");
        for seed in [
            &lets_out,
            &format!(
                "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i hawser0 ! -o hawser0 -j ACCEPT; iptables-nft -A FORWARD -o hawser0 {answers}"
            ),
            "iptables-nft -A FORWARD -i hawser0 -o hawser0 -j DROP",
            "iptables-nft -A FORWARD -s 172.19.0.0/16 -d 172.19.0.0/16 -j REJECT",
        ] {
            sh(seed);
            assert!(!reaches(), "{seed}");
            finds_and_cures(lab, found.0, found.1);
            assert!(reaches(), "{seed}");
            flush();
        }
        sh("ip6tables-nft -A FORWARD -i hawser0 -o hawser0 -j DROP");
        finds_and_cures(lab, found.0, found.1);
        flush();
        // For either version of IP its own.
        sh(
            "nft 'table inet f { chain c { type filter hook forward priority 0; policy drop; iifname hawser0 oifname uplink accept; ct state established accept; }; }'",
        );
        for cure in finds(lab, &[found, found]) {
            paste(&cure);
        }
        healthy(lab);
        flush();
        // One command for both.
        sh("iptables-nft -A FORWARD -i hawser0 -j DROP");
        finds_and_cures(lab, "forward-dropped", "network hawser0");
        flush();
        let docker = "iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT; iptables-nft -A FORWARD -i docker0 -o docker0 -j DROP; iptables-nft -A FORWARD ! -i docker0 -o docker0 -j DROP";
        for further in [
            "-i hawser0 -j ACCEPT",
            "-i hawser0 -o hawser0 -j ACCEPT",
            "-i hawser0 -o hawser0 -m conntrack --ctstate NEW -j ACCEPT",
            "-m physdev --physdev-is-bridged -j ACCEPT",
        ] {
            sh(&format!(
                "{docker}; {lets_out}; iptables-nft -A FORWARD {further}"
            ));
            assert!(reaches(), "{further}");
            healthy(lab);
            flush();
        }
        drop(alone);
    });
}

/// Each of these drops packets of the network, or all of one protocol.
#[test]
fn rules_that_drop_what_is_forwarded() {
    packets(|lab| {
        lab.serve();
        if sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables") == "1\n" {
            sysctl("net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0");
        }
        let _web = idle(lab, "web", &["-p", "8080:80"]);
        let nft = |rules: &str| {
            format!(
                "nft 'table inet f {{ chain c {{ type filter hook forward priority 0; {rules} }}; }}'"
            )
        };
        for seed in [
            "iptables-nft -I FORWARD -s 172.19.0.0/16 -j DROP",
            "iptables-nft -I FORWARD -d 172.16.0.0/12 -j REJECT",
            "iptables-nft -I FORWARD -i hawser0 -j DROP",
            "iptables-nft -I FORWARD -i haws+ -p tcp -j DROP",
            "iptables-nft -A FORWARD -i hawser0 -j DROP; iptables-nft -A FORWARD -j ACCEPT",
            "ip6tables-nft -I FORWARD -o hawser0 -j DROP",
            "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i hawser0 -p udp -j ACCEPT",
            "iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j DROP",
            &format!(
                "nft add table inet f; nft add chain inet f hop; nft add rule inet f hop drop; {}",
                nft("jump hop;")
            ),
            &nft("drop; accept;"),
            &nft("meta l4proto tcp drop;"),
            &nft("iif hawser0 counter drop;"),
            &nft("oifname hawser0 meta nfproto ipv6 drop;"),
            &nft("ct state established accept; iifname hawser0 drop;"),
        ] {
            sh(seed);
            let found = findings(lab);
            assert_eq!(found.len(), 1, "{seed}: {found:#?}");
            finds_and_cures(lab, "forward-dropped", "network hawser0");
            sh("for filter in iptables-nft ip6tables-nft; do $filter -P FORWARD ACCEPT; $filter -F; $filter -X; done
                nft delete table inet f 2>/dev/null || true");
        }
        // Whoever made these has decided, or drops something else.
        for seed in [
            "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i hawser0 -j ACCEPT; iptables-nft -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "iptables-nft -I FORWARD -s 172.19.0.9 -j DROP; iptables-nft -I FORWARD -s 172.20.0.0/16 -j DROP; iptables-nft -I FORWARD ! -i hawser0 -o docker0 -j DROP",
            "iptables-nft -A FORWARD -i hawser0 -j ACCEPT; iptables-nft -A FORWARD -i hawser0 -j DROP",
            "iptables-nft -A FORWARD -i hawser0 -d 10.0.0.0/8 -j DROP; iptables-nft -A FORWARD -i hawser0 -p tcp --dport 25 -j REJECT",
            &nft(
                "policy drop; iifname hawser0 oifname uplink accept; ct state established accept;",
            ),
            &nft("iifname hawser0 oifname uplink accept; iifname hawser0 drop;"),
            &nft("ct state established accept; oifname hawser0 drop;"),
            &nft(
                "meta l4proto icmp drop; ct state invalid drop; oifname hawser0 ct state new drop; return; drop;",
            ),
            &format!(
                "nft add table inet f; nft add chain inet f hop; nft add rule inet f hop oifname uplink accept; nft add rule inet f hop drop; {}",
                nft("iifname hawser0 jump hop;")
            ),
        ] {
            sh(seed);
            let found = findings(lab);
            assert!(found.is_empty(), "{seed}: {found:#?}");
            sh("for filter in iptables-nft ip6tables-nft; do $filter -P FORWARD ACCEPT; $filter -F; $filter -X; done
                nft delete table inet f 2>/dev/null || true");
        }
    });
}

/// A table with a chain for what is forwarded, whose policy drops, and with this beside it.
fn forwarding_chain(rules: &str, beside: &str) -> String {
    format!(
        "nft 'table inet f {{ {beside} chain c {{ type filter hook forward priority 0; policy drop; {rules} }}; }}'"
    )
}

/// No packets of the network pass each of these, and doctor says so; or they do, and it finds nothing.
#[track_caller]
fn passes_and_finds(lab: &Lab, place: &str, passes: bool, seeds: &[&str]) {
    for seed in seeds {
        sh(seed);
        let reaches = || {
            let ping = "ping -c 1 -W 1 198.51.100.10 >/dev/null && echo yes || echo no";
            lab.hawser(&["exec", "web", "sh", "-c", ping]).ok() == "yes"
        };
        assert_eq!(reaches(), passes, "{seed}");
        let found = findings(lab);
        assert_eq!(found.is_empty(), passes, "{seed}: {found:#?}");
        if !passes {
            finds_and_cures(lab, "forward-dropped", place);
            assert!(reaches(), "{seed}");
        }
        sh("for filter in iptables-nft ip6tables-nft; do $filter -P FORWARD ACCEPT; $filter -F; $filter -X; done
            nft delete table inet f 2>/dev/null || true");
    }
}

/// What the network may send to the host itself, or in a chain that nothing leads to, is not what is forwarded.
#[test]
fn rules_that_forwarded_packets_do_not_come_by() {
    packets(|lab| {
        lab.serve();
        if sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables") == "1\n" {
            sysctl("net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0");
        }
        let _web = idle(lab, "web", &[]);
        let hop = "chain hop { iifname hawser0 accept; oifname hawser0 accept; };";
        let input =
            "chain input { type filter hook input priority 0; iifname \"hawser0\" accept; };";
        passes_and_finds(
            lab,
            "network hawser0",
            false,
            &[
                &forwarding_chain("", input),
                &forwarding_chain("", hop),
                "iptables-nft -P FORWARD DROP; iptables-nft -A INPUT -i hawser0 -j ACCEPT",
            ],
        );
        passes_and_finds(
            lab,
            "network hawser0",
            true,
            &[
                &forwarding_chain("jump hop;", hop),
                &forwarding_chain(
                    "ct state vmap { invalid : drop, new : jump hop, established : goto hop };",
                    hop,
                ),
            ],
        );
    });
}

#[test]
fn sets_and_maps_that_let_the_network_through() {
    packets(|lab| {
        lab.serve();
        if sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables") == "1\n" {
            sysctl("net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0");
        }
        let _web = idle(lab, "web", &[]);
        let both = |rule: &str| format!("iifname {rule}; oifname {rule};");
        let answers = "ct state established,related accept;";
        let lans = "set lans { type ipv4_addr; flags interval; elements = { 10.9.0.0/16, 172.16.0.0-172.31.255.255 }; };
            set lans6 { type ipv6_addr; flags interval; elements = { fc00::/7, 2001:db8:9::/48 }; };
            set links { type ifname; elements = { \"hawser0\", \"wg0\" }; };
            chain hop { counter accept; };";
        let chain = |rules: &str| forwarding_chain(rules, lans);
        passes_and_finds(
            lab,
            "network hawser0",
            true,
            &[
                &chain(&both("{ \"hawser0\", \"wg0\" } accept")),
                &chain(&both("{ \"haws*\", \"wg0\" } accept")),
                &chain(&both("@links accept")),
                &chain(&both("vmap { \"hawser0\" : accept, \"wg0\" : drop }")),
                &chain(&both("vmap { \"hawser0\" : jump hop, \"wg0\" : drop }")),
                &chain("iif { hawser0, lo } accept; oif { hawser0, lo } accept;"),
                &chain(&format!(
                    "{answers} ip saddr @lans accept; ip6 saddr @lans6 accept;"
                )),
                &chain(&format!(
                    "{answers} ip saddr {{ 172.19.0.0/16, 10.9.0.0/16 }} accept; ip6 saddr {{ fd00::/8, 2001:db8:9::/48 }} accept;"
                )),
                &chain(&format!(
                    "{answers} ip saddr vmap {{ 172.19.0.0/16 : accept, 10.9.0.0/16 : drop }}; ip6 saddr vmap {{ fc00::/7 : goto hop }};"
                )),
                &chain(
                    "ct state vmap { established : accept, related : accept }; iifname . oifname { \"hawser0\" . \"uplink\", \"wg0\" . \"uplink\" } accept;",
                ),
            ],
        );
        passes_and_finds(
            lab,
            "network hawser0",
            false,
            &[
                &chain(&both("{ \"docker0\", \"wg0\" } accept")),
                &chain(&both("!= { \"hawser0\", \"uplink\" } accept")),
                &chain(&both("{ \"hawser0*\", \"wg*\" } tcp dport 22 counter")),
                &chain(&both("vmap { \"hawser0\" : drop, \"wg0\" : accept }")),
                &chain(&format!(
                    "{answers} ip saddr {{ 172.20.0.0/16, 10.9.0.0/16 }} accept;"
                )),
                &chain("ct state vmap { established : accept, related : accept, invalid : drop };"),
            ],
        );
    });
}

/// Nothing says the subnet of such a network, but its containers have addresses.
#[test]
fn point_to_point_containers_that_are_let_through_by_their_addresses() {
    packets(|lab| {
        lab.serve();
        let ptp = ["--network", "ptp", "--ip"];
        let _web = idle(lab, "web", &[&ptp[..], &["10.0.0.2"]].concat());
        let _other = idle(lab, "other", &[&ptp[..], &["10.0.0.130"]].concat());
        let accept = |filter: &str, net: &str| {
            let rule = |way: &str| format!("{filter} -A FORWARD {way} {net} -j ACCEPT");
            format!("{filter} -P FORWARD DROP; {}; {}", rule("-s"), rule("-d"))
        };
        let answers = "ct state established accept;";
        let six = |name: &str| {
            let text = lab.hawser(&["inspect", name]).ok();
            let found: Value = serde_json::from_str(&text).expect("JSON");
            found["address6"].as_str().expect("an address").to_owned()
        };
        let each = format!(
            "{answers} ip saddr {{ 10.0.0.2, 10.0.0.130 }} accept; ip6 saddr {{ {}, {} }} accept;",
            six("web"),
            six("other")
        );
        passes_and_finds(
            lab,
            "network ptp",
            true,
            &[
                &accept("iptables-nft", "10.0.0.0/24"),
                &forwarding_chain(&each, ""),
                &accept("ip6tables-nft", "fc00::/7"),
                &forwarding_chain(
                    &format!(
                        "{answers} ip saddr {{ 10.0.0.0/24, 10.9.0.0/16 }} accept; ip6 saddr fc00::/7 accept;"
                    ),
                    "",
                ),
            ],
        );
        passes_and_finds(
            lab,
            "network ptp",
            false,
            &[
                &accept("iptables-nft", "10.0.0.130"),
                &accept("iptables-nft", "10.0.0.128/25"),
                &accept("iptables-nft", "10.9.0.0/16"),
            ],
        );
    });
}

#[test]
fn ufw_drops_what_is_forwarded() {
    case(|lab| {
        lab.serve();
        if !lab.ufw() {
            return;
        }
        beside_debian(lab);
        let _web = idle(lab, "web", &[]);
        let dropped = ("forward-dropped", "network hawser0");
        for cure in finds(lab, &[dropped, dropped]) {
            paste(&cure);
        }
        healthy(lab);
    });
}

#[test]
fn strict_reverse_path_filtering_with_two_ways_out() {
    case(|lab| {
        lab.serve();
        lab.hawser(&["up"]).exits(0);
        sh("ip link add wan2 type veth peer name eth1 netns internet
            echo 0 >/proc/sys/net/ipv6/conf/wan2/accept_ra
            ip addr add 203.0.113.2/24 dev wan2; ip link set wan2 up
            ip -n internet addr add 203.0.113.1/24 dev eth1; ip -n internet link set eth1 up
            ip route add default via 203.0.113.1 metric 100");
        sysctl("net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wan2.rp_filter=2");
        healthy(lab);
        sysctl("net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.wan2.rp_filter=0");
        finds_and_cures(lab, "reverse-path", "link wan2");
    });
}

#[test]
fn a_kernel_without_nat() {
    case(|lab| {
        lab.serve();
        // The kernel gets another word than the one that was written, so that it is the kernel that refuses.
        let trace = lab.dir.join("trace").to_string_lossy().into_owned();
        let options = ["-e", "trace=sendto", "-e", "write=3,4,5,6,7,8"];
        let doctor = |options: &[&str]| -> Outcome {
            collect(
                strace::traced(&lab.command(&["doctor"]), options, &trace),
                DEADLINE,
            )
        };
        doctor(&options).exits(0);
        let sent = strace::dumps(
            &std::fs::read_to_string(&trace).expect("the trace"),
            "sendto(",
        );
        let at = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"nat\0");
        let index = sent
            .iter()
            .position(|bytes| at(bytes).is_some())
            .expect("a chain of nat");
        let start = at(&sent[index]).expect("the word");
        let mut bytes = sent[index][..start + 4].to_vec();
        bytes[start + 2] = b'x';
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let poke = format!("inject=sendto:poke_enter=@arg2={hex}:when={}", index + 1);
        let before = Snapshot::take();
        let outcome = doctor(&["-e", "trace=sendto", "-e", &poke]).exits(1);
        assert!(before == Snapshot::take(), "something was changed");
        let text = outcome.out();
        assert!(
            text.starts_with("nat-missing host: ") && text.lines().count() == 1,
            "{text}"
        );
        for word in ["NFT_NAT", "ENOENT", "cure: modprobe -a "] {
            assert!(text.contains(word), "{text}");
        }
    });
}

#[test]
fn an_uplink_that_takes_less() {
    case(|lab| {
        lab.serve();
        let _web = idle(lab, "web", &[]);
        let _direct = idle(lab, "direct", &["--network", "ptp"]);
        // Others are called otherwise inside: a supervisor knows how, and what is kept of an attachment.
        let _other = idle(lab, "other", &["--iface", "net7"]);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", "--name", "guest", "--iface", "net7", &pid])
            .exits(0);
        sh("ip link set uplink mtu 1420");
        let cures = finds(
            lab,
            &[
                ("mtu-too-large", "container web"),
                ("mtu-too-large", "container direct"),
                ("mtu-too-large", "container other"),
                ("mtu-too-large", "container guest"),
            ],
        );
        cures.iter().for_each(|cure| paste(cure));
        healthy(lab);
        for name in ["web", "direct"] {
            let eth0 = Netns::of(lab.pid_of(name)).sh("ip link show eth0");
            assert!(eth0.contains("mtu 1420"), "{eth0}");
        }
        for pid in [lab.pid_of("other"), guest.pid()] {
            let net7 = Netns::of(pid).sh("ip link show net7");
            assert!(net7.contains("mtu 1420"), "{net7}");
        }
    });
}

#[test]
fn a_route_that_takes_addresses_of_a_network() {
    case(|lab| {
        lab.serve();
        lab.run(&[], &["true"]).exits(0);
        lab.settle();
        // No rule leads packets to these tables.
        sh(
            "ip route add 172.19.4.0/24 dev uplink table 100; ip route add 172.19.5.0/24 dev uplink table 1000",
        );
        healthy(lab);
        for table in [100, 1000] {
            sh(&format!("ip rule add fwmark 7 table {table}"));
            let cures = finds(lab, &[("subnet-overlap", "network hawser0")]);
            assert!(cures[0].starts_with("host-helper down"), "{}", cures[0]);
            sh(&format!("ip rule del fwmark 7 table {table}"));
        }
        sh(
            "ip link add vpn0 type veth peer name vpn1; ip link set vpn0 up; ip addr add 172.19.128.1/20 dev vpn0",
        );
        finds_and_cures(lab, "subnet-overlap", "network hawser0");
        lab.run(&[], &["ping", "-c", "1", "198.51.100.10"]).exits(0);
        lab.settle();
        // What is elsewhere than the overlap stays, and what cannot be chosen is asked for.
        let subnet = sh("ip -4 route show dev hawser0 proto kernel");
        let subnet = subnet.split(' ').next().expect("a subnet").to_owned();
        // That answers by it are forwarded is another matter.
        let switch = "/proc/sys/net/ipv6/conf/vpn0/force_forwarding";
        sh(&format!(
            "if test -e {switch}; then echo 1 >{switch}; fi; ip -6 route add fd00::/8 dev vpn0"
        ));
        let cures = finds(lab, &[("subnet-overlap", "network hawser0")]);
        assert!(
            cures[0].ends_with(&format!("--subnet {subnet} --subnet6 SUBNET6")),
            "{}",
            cures[0]
        );
        paste(&cures[0].replace("SUBNET6", "2001:db8:9::/64"));
        healthy(lab);
        sh("ip route add 172.16.0.0/12 dev vpn0");
        let cures = finds(lab, &[("subnet-overlap", "network hawser0")]);
        let rest = "--subnet SUBNET --subnet6 2001:db8:9::/64";
        assert!(cures[0].ends_with(rest), "{}", cures[0]);
        paste(&cures[0].replace("SUBNET ", "10.77.0.0/24 "));
        healthy(lab);
        sh("ip route del 172.16.0.0/12 dev vpn0");
        lab.hawser(&["down"]).ok();
        lab.hawser(&["up", "--no-ipv6"]).exits(0);
        let part = subnet.replace(".0.0/16", ".4.0/24");
        sh(&format!("ip route add {part} dev uplink"));
        finds_and_cures(lab, "subnet-overlap", "network hawser0");
        assert_eq!(sh("ip -6 addr show dev hawser0 scope global"), "");
    });
}

#[test]
fn a_killed_container_that_the_rules_still_know() {
    case(|lab| {
        lab.serve();
        let web = idle(lab, "web", &["-p", "8080:80", "--ip", "172.19.0.9"]);
        let pid = lab.pid_of("web");
        healthy(lab);
        web.signal(libc::SIGKILL);
        web.end().exits(-libc::SIGKILL);
        lab::wait_for_end(pid);
        lab.settle();
        finds_and_cures(lab, "rule-stale", "link hwac130009");
    });
}

/// The last of its rules goes when whoever has stopped it has been told.
#[test]
fn a_container_that_was_stopped_a_moment_ago() {
    case(|lab| {
        lab.serve();
        for _ in 0..10 {
            let web = ["-d", "--name", "web", "-p", "8080:80"];
            lab.run(&web, &["sleep", "1000"]).ok();
            // There is less to look at: it is sooner at the rules.
            sh("ip link del hawser0");
            lab.hawser(&["stop", "web"]).ok();
            assert_eq!(lab.hawser(&["doctor"]).ok(), "");
        }
    });
}

#[test]
fn a_rule_of_others_that_leads_to_nobody() {
    case(|lab| {
        lab.serve();
        let _web = idle(lab, "web", &["--ip", "172.19.0.9"]);
        let rule = |to: &str| {
            [
                format!(
                    "iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination {to}:80"
                ),
                format!(
                    "nft 'add table ip old; add chain ip old pre {{ type nat hook prerouting priority -100; }}; add rule ip old pre tcp dport 8080 dnat to {to}:80'"
                ),
                format!(
                    "nft 'add table inet old; add chain inet old pre {{ type nat hook prerouting priority -100; }}; add chain inet old hop; add rule inet old pre jump hop; add rule inet old hop meta l4proto tcp dnat ip to {to}'"
                ),
                format!("nft add rule ip old pre dnat to tcp dport map {{ 8070 : {to} }}"),
                format!(
                    "nft 'add map ip old ports {{ type inet_service : ipv4_addr . inet_service; elements = {{ 8071 : {to} . 80, 8072 : 203.0.113.9 . 80 }}; }}; add rule ip old pre dnat to tcp dport map @ports'"
                ),
            ]
        };
        for rule in rule("172.19.0.77") {
            sh(&rule);
            finds_and_cures(lab, "rule-stale", "network hawser0");
        }
        let web = lab.listed("web")["address6"]
            .as_str()
            .expect("an address")
            .to_owned();
        let nobody = format!("{web}:77");
        let rule6 = |to: &str| {
            sh(&format!(
                "ip6tables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination '[{to}]:80'"
            ));
        };
        rule6(&nobody);
        finds_and_cures(lab, "rule-stale", "network hawser0");
        rule6(&web);
        healthy(lab);
        for rule in rule("172.19.0.9") {
            sh(&rule);
            healthy(lab);
        }
    });
}

#[test]
fn a_resolver_that_does_not_answer() {
    case(|lab| {
        let resolv_conf = lab.own_etc().join("resolv.conf");
        let write = |text: &str| std::fs::write(&resolv_conf, text).expect("write resolv.conf");
        // Nobody listens there.
        write("nameserver 198.51.100.53\n");
        let outcome = lab.hawser(&["doctor"]).exits(1);
        assert!(outcome.out().contains("ECONNREFUSED"), "{outcome}");
        let cures = finds(lab, &[("resolver-dead", "resolver 198.51.100.53")]);
        assert_eq!(cures, ["echo nameserver ADDRESS >/etc/resolv.conf"]);
        lab.serve();
        healthy(lab);
        // What is sent there is lost.
        lab.internet.sh("ip route add blackhole 198.51.100.99");
        write("nameserver 198.51.100.53\nnameserver 198.51.100.99\n");
        finds_and_cures(lab, "resolver-dead", "resolver 198.51.100.99");
        // However it is written, in a file that is elsewhere.
        lab.internet.sh("ip route add blackhole 2001:db8:2::99");
        let far = lab.dir.join("far.conf");
        let sound = "# nameserver 198.51.100.99\nnameserver 198.51.100.53\noptions ndots:1\n";
        let dead = "nameserver\t198.51.100.99 \n nameserver  198.51.100.99#dead\nnameserver 2001:0DB8:2:0::99\t; six\n";
        std::fs::remove_file(&resolv_conf).expect("remove resolv.conf");
        let (path, far_path) = (resolv_conf.display(), far.display());
        for (place, is_there, back) in [
            (
                format!("ln -s {far_path} {path}"),
                "test -L /etc/resolv.conf",
                format!("rm {path}; touch {path}"),
            ),
            (
                format!("mount --bind {far_path} /etc/resolv.conf"),
                "mountpoint -q /etc/resolv.conf",
                "umount /etc/resolv.conf".to_string(),
            ),
        ] {
            std::fs::write(&far, format!("{sound}{dead}")).expect("write a file");
            sh(&place);
            let wanted = ["198.51.100.99", "2001:db8:2::99"].map(|one| format!("resolver {one}"));
            for cure in finds(lab, &wanted.each_ref().map(|one| ("resolver-dead", &**one))) {
                paste(&cure);
            }
            healthy(lab);
            sh(is_there);
            assert_eq!(std::fs::read_to_string(&far).expect("read a file"), sound);
            sh(&back);
        }
        write("nameserver 127.0.0.53\n");
        finds(lab, &[("resolver-dead", "host")]);
        // Behind systemd-resolved's stub: to write into that one's files would help for a moment.
        let behind = "/run/systemd/resolve/resolv.conf";
        std::fs::create_dir_all("/run/systemd/resolve").expect("a directory");
        std::fs::write(
            behind,
            "nameserver 198.51.100.53\nnameserver 198.51.100.99\n",
        )
        .expect("write resolv.conf");
        let found = findings(lab);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0]["where"], "resolver 198.51.100.99");
        let cause = found[0]["cause"].as_str().expect("a sentence");
        assert!(cause.starts_with(behind), "{cause}");
        assert_eq!(found[0]["cure"], "resolvectl dns LINK ADDRESS");
        std::fs::write(behind, "").expect("write resolv.conf");
        let cures = finds(lab, &[("resolver-dead", "host")]);
        assert_eq!(cures, ["resolvectl dns LINK ADDRESS"]);
        // As well where the stub is gone.
        std::fs::remove_file(&resolv_conf).expect("remove resolv.conf");
        let cures = finds(lab, &[("resolver-dead", "host")]);
        assert_eq!(cures, ["resolvectl dns LINK ADDRESS"]);
        std::fs::write(behind, "nameserver 198.51.100.53\n").expect("write resolv.conf");
        healthy(lab);
        std::fs::remove_dir_all("/run/systemd").expect("remove a directory");
        // Nobody names one.
        for place in [
            "true",
            "ln -s ../run/gone/resolv.conf /etc/resolv.conf",
            "ln -s gone /etc/resolv.conf",
            "printf 'nameserver 127.0.0.1' >/etc/resolv.conf",
        ] {
            sh(&format!("rm -f /etc/resolv.conf; {place}"));
            for cure in finds(lab, &[("resolver-dead", "host")]) {
                paste(&cure.replace("ADDRESS", "198.51.100.53"));
            }
            healthy(lab);
        }
    });
}

#[test]
fn a_host_that_forwards_nothing() {
    case(|lab| {
        lab.serve();
        lab.hawser(&["up"]).exits(0);
        sysctl("net.ipv4.ip_forward=0");
        finds_and_cures(lab, "forwarding-off", "network hawser0");
        sysctl("net.ipv4.conf.uplink.forwarding=0");
        finds_and_cures(lab, "forwarding-off", "network hawser0");
        let by_link = std::path::Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists();
        sysctl(if by_link {
            "net.ipv6.conf.hawser0.force_forwarding=0"
        } else {
            "net.ipv6.conf.all.forwarding=0"
        });
        let cures = finds(lab, &[("forwarding-off", "network hawser0")]);
        paste(&cures[0]);
        healthy(lab);
        lab.hawser(&["down"]).exits(0);
        let _direct = idle(lab, "direct", &["--network", "ptp"]);
        sysctl("net.ipv4.ip_forward=0");
        finds_and_cures(lab, "forwarding-off", "network ptp");
    });
}

/// A VPN, or a second LAN, is there after the network: what containers ask by it is answered by it.
#[test]
fn a_link_that_came_after_the_network() {
    case(|lab| {
        let switch = "/proc/sys/net/ipv6/conf/vpn/force_forwarding";
        if !std::path::Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists() {
            // All links go together.
            return;
        }
        lab.serve();
        let vpn = lab::Netns::new("vpn");
        for network in ["bridge", "ptp"] {
            let asks = "echo up; while read x; do ping -c 1 -W 2 2001:db8:77::2 >/dev/null && echo answered || echo not; done";
            let mut web = lab.start(&["--network", network], &["sh", "-c", asks]);
            web.until("up\n");
            sh("ip link add vpn type veth peer name eth0 netns vpn
                ip -6 addr add 2001:db8:77::1/64 dev vpn nodad; ip link set vpn up");
            vpn.sh("ip -6 addr add 2001:db8:77::2/64 dev eth0 nodad; ip link set eth0 up");
            web.say("\n");
            assert_eq!(web.line(), "not");
            let name = if network == "ptp" { "ptp" } else { "hawser0" };
            let cures = finds(lab, &[("forwarding-off", &format!("network {name}"))]);
            paste(&cures[0]);
            healthy(lab);
            web.say("\n");
            assert_eq!(web.line(), "answered", "{cures:?}");
            web.end().exits(0);
            lab.settle();
            lab.hawser(&["down"]).exits(0);
            // What `up` has changed comes back; what the admin has changed, by the other cure, stays.
            let left = std::fs::read_to_string(switch).expect("a switch");
            assert_eq!(left.trim(), if network == "ptp" { "1" } else { "0" });
            sh("ip link del vpn");
        }
    });
}

#[test]
fn loopback_that_is_open_to_a_link() {
    case(|lab| {
        lab.serve();
        lab.hawser(&["up"]).exits(0);
        sysctl("net.ipv4.conf.hawser0.route_localnet=1");
        finds_and_cures(lab, "localnet-open", "link hawser0");
        sysctl("net.ipv4.conf.all.route_localnet=1");
        finds_and_cures(lab, "localnet-open", "host");
        // sysctl(8) has dots for slashes.
        sh("ip link add name vpn.7 type veth peer name vpn1");
        sysctl("net.ipv4.conf.vpn/7.route_localnet=1");
        finds_and_cures(lab, "localnet-open", "link vpn.7");
    });
}

#[test]
fn a_port_that_somebody_else_takes() {
    case(|lab| {
        lab.serve();
        let _web = idle(
            lab,
            "web",
            &["-p", "8080:80", "-p", "192.0.2.2:8081:81/udp"],
        );
        for (rule, place) in [
            (
                "iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 203.0.113.9:80",
                "port 8080/tcp",
            ),
            (
                "iptables-nft -t nat -A PREROUTING -p tcp -m multiport --dports 25,8080 -j REDIRECT --to-ports 3128",
                "port 8080/tcp",
            ),
            (
                "iptables-nft -t nat -A PREROUTING -p udp --dport 8000:8100 -j DNAT --to-destination 203.0.113.9",
                "port 8081/udp",
            ),
            (
                "nft 'add table ip old; add chain ip old pre { type nat hook prerouting priority -100; }; add rule ip old pre udp dport 8000-8100 dnat to 203.0.113.9'",
                "port 8081/udp",
            ),
            (
                "nft 'add table ip old; add chain ip old pre { type nat hook prerouting priority -100; }; add rule ip old pre tcp dport 8080 redirect to 3128'",
                "port 8080/tcp",
            ),
            (
                "iptables-nft -t nat -A PREROUTING -d 192.0.2.2/32 ! -i docker0 -p udp --dport 8081 -j DNAT --to-destination 172.17.0.2:80",
                "port 8081/udp",
            ),
            (
                "iptables-nft -t nat -A PREROUTING -d 192.0.2.0/28 -i upl+ -m addrtype --dst-type LOCAL -p udp --dport 8081 -j REDIRECT",
                "port 8081/udp",
            ),
            (
                "nft add rule ip old pre iif uplink fib daddr type local tcp dport '{ 8443, 8080 }' dnat to 203.0.113.9:80",
                "port 8080/tcp",
            ),
            (
                "nft add rule ip old pre ip daddr '{ 192.0.2.2, 192.0.2.3 }' udp dport '{ 8000-8100, 9000 }' dnat to 203.0.113.9",
                "port 8081/udp",
            ),
            (
                "nft add rule ip old pre dnat to tcp dport map '{ 8080 : 203.0.113.9 }'",
                "port 8080/tcp",
            ),
            (
                "nft 'add map ip old ports { type inet_service : ipv4_addr; flags interval; elements = { 8080-8089 : 203.0.113.9, 25 : 203.0.113.9 }; }; add rule ip old pre dnat to tcp dport map @ports'",
                "port 8080/tcp",
            ),
        ] {
            sh(rule);
            finds_and_cures(lab, "port-shadowed", place);
        }
        sh(
            "nft add rule ip old pre dnat to tcp dport map '{ 8080 : 203.0.113.9, 25 : 203.0.113.9 }'",
        );
        // What else it does is to stay.
        let cures = finds(lab, &[("port-shadowed", "port 8080/tcp")]);
        assert!(cures[0].starts_with("nft replace rule ip old pre handle "));
        assert!(cures[0].ends_with(" RULE"));
    });
}

#[test]
fn a_port_of_an_attachment_that_a_daemon_has_taken() {
    case(|lab| {
        lab.serve();
        let _guest = attached(lab);
        healthy(lab);
        let daemon = std::net::TcpListener::bind("0.0.0.0:8090").expect("nobody holds it");
        finds(lab, &[("port-shadowed", "port 8090/tcp")]);
        drop(daemon);
        healthy(lab);
    });
}

#[test]
fn a_bridge_that_is_down() {
    case(|lab| {
        lab.serve();
        let _web = idle(lab, "web", &["--ip", "172.19.0.9", "--iface", "net7"]);
        for (seed, place) in [
            ("ip link set hawser0 down", "network hawser0"),
            ("ip addr del 172.19.0.1/16 dev hawser0", "network hawser0"),
            (
                "ip -6 addr flush dev hawser0 scope global",
                "network hawser0",
            ),
            ("ip route del 172.19.0.0/16 dev hawser0", "network hawser0"),
            (
                "ip -6 route flush dev hawser0 proto kernel",
                "network hawser0",
            ),
            ("ip link set hwac130009 down", "container web"),
            ("ip link set hwac130009 nomaster", "container web"),
        ] {
            sh(seed);
            let cause = findings(lab)[0]["cause"].to_string();
            assert_eq!(
                cause.contains("its net7"),
                place == "container web",
                "{cause}"
            );
            finds_and_cures(lab, "bridge-down", place);
        }
    });
}

#[test]
fn a_bridge_that_is_gone() {
    packets(|lab| {
        lab.serve();
        let web = idle(
            lab,
            "web",
            &["--bridge", "lan0", "--subnet", "10.77.0.0/24"],
        );
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&[
            "attach",
            "--name",
            "guest",
            "--no-ipv6",
            "--bridge",
            "lan1",
            &pid,
        ])
        .exits(0);
        healthy(lab);
        sh("ip link del lan0");
        finds_and_cures(lab, "bridge-down", "container web");
        let ping = |pid| Netns::of(pid).sh("busybox ping -c 1 -W 10 198.51.100.10");
        ping(lab.pid_of("web"));
        sh("ip link del lan1");
        finds_and_cures(lab, "bridge-down", "container guest");
        ping(guest.pid());
        drop(web);
    });
}

#[test]
fn a_loopback_link_that_is_down() {
    case(|lab| {
        lab.serve();
        sh("ip link set lo down");
        finds_and_cures(lab, "lo-down", "host");
        let _web = idle(lab, "web", &[]);
        Netns::of(lab.pid_of("web")).sh("ip link set lo down");
        finds_and_cures(lab, "lo-down", "container web");
    });
}

/// Before Linux 6.17 there is one switch for all links: with it, the kernel forgets the routers that it is not told to heed all the same.
#[test]
fn a_host_that_could_forward_ipv6_everywhere_alone() {
    case(|lab| {
        if !lab.real_root {
            return skip("only the real root may mount over /proc/sys");
        }
        lab.serve();
        sysctl("net.ipv6.conf.uplink.accept_ra=1");
        sh("ip -6 route replace default via 2001:db8:1::1 dev uplink proto ra expires 600");
        let _direct = idle(lab, "direct", &["--network", "ptp", "--ip", "10.0.0.9"]);
        healthy(lab);
        for link in ["uplink", "hw0a000009"] {
            let conf = format!("/proc/sys/net/ipv6/conf/{link}");
            sh(&format!(
                "mkdir -p /run/conf/{link}; cd /run/conf/{link}
                for switch in accept_ra forwarding disable_ipv6; do
                    touch $switch; mount --bind {conf}/$switch $switch
                done
                mount --rbind . {conf}"
            ));
        }
        let cures = finds(lab, &[("forwarding-off", "network ptp"); 2]);
        let cure = "sysctl -w net.ipv6.conf.uplink.accept_ra=2 && sysctl -w net.ipv6.conf.all.forwarding=1";
        assert_eq!(cures, [cure; 2]);
        paste(cure);
        assert!(!sh("ip -6 route show default proto ra").is_empty());
        healthy(lab);
    });
}

#[test]
fn a_full_table_of_connections() {
    case(|lab| {
        lab.serve();
        // No TCP: a connection that waits for its last answer would keep the namespace.
        lab.run(&[], &["ping", "-c", "1", "-W", "10", "198.51.100.10"])
            .exits(0);
        lab.settle();
        healthy(lab);
        // The limit is the machine's: another is only shown.
        let max = lab.dir.join("max");
        std::fs::write(&max, "1\n").expect("write a limit");
        let switch = "/proc/sys/net/netfilter/nf_conntrack_max";
        sh(&format!("mount --bind {} {switch}", max.display()));
        // Each look makes one more, since resolvers are asked.
        let outcome = lab.hawser(&["doctor"]).exits(1);
        let text = outcome.out();
        assert!(
            text.starts_with("conntrack-full host: ") && text.lines().count() == 1,
            "{text}"
        );
        let (_, cure) = text.split_once("; cure: ").expect("a cure");
        assert!(
            cure.starts_with("sysctl -w net.netfilter.nf_conntrack_max="),
            "{cure}"
        );
        paste(&cure.replace("nf_conntrack_max=", "nf_conntrack_max=1000"));
        healthy(lab);
    });
}

#[test]
fn a_router_that_is_not_heeded() {
    case(|lab| {
        lab.serve();
        lab.hawser(&["up"]).exits(0);
        // A host that forwards, and whose addresses are its administrator's, misses nothing.
        sysctl("net.ipv6.conf.all.forwarding=1 net.ipv6.conf.uplink.accept_ra=1");
        healthy(lab);
        sh("ip -6 route replace default via 2001:db8:1::1 dev uplink proto ra expires 600");
        finds_and_cures(lab, "router-lost", "link uplink");
        if !lab.real_root {
            skip("radvd needs the real root");
            return;
        }
        // A real one: the kernel forgets it when the host begins to forward.
        sysctl("net.ipv6.conf.all.forwarding=0 net.ipv6.conf.uplink.accept_ra=1");
        lab.hawser(&["up"]).exits(0);
        sh("ip -6 route flush default");
        let watch = Watch::routes();
        let router = lab.router(
            "AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix 2001:db8:5::/64 { };",
        );
        let is_there = || !sh("ip -6 route show default proto ra").is_empty();
        assert!(watch.until(is_there), "a router");
        healthy(lab);
        sysctl("net.ipv6.conf.all.forwarding=1");
        assert!(!is_there());
        let cures = finds(lab, &[("router-lost", "link uplink")]);
        paste(&cures[0]);
        assert!(watch.until(is_there), "the router is heeded again");
        drop(router);
        healthy(lab);
    });
}

/// As the next version of the program finds them where containers live. No network goes, and none is made anew.
#[test]
fn rules_of_another_version() {
    let other = || {
        sh("nft -f - <<'E'
delete table inet hawser
table inet hawser { comment \"hawser 99\"; }
E");
    };
    let are_ours = || !sh("nft list ruleset").contains("hawser 99");
    case(|lab| {
        lab.serve();
        let direct = idle(lab, "direct", &["--network", "ptp"]);
        other();
        finds_and_cures(lab, "rules-missing", "network ptp");
        direct.end().exits(143);
        lab.run(&["--network", "ptp"], &["true"]).ok();
        lab.settle();
        assert!(are_ours());
        lab.hawser(&["up"]).exits(0);
        lab.hawser(&["up", "--bridge", "lan0", "--subnet", "192.168.77.0/24"])
            .exits(0);
        let web = idle(lab, "web", &["--bridge", "lan0"]);
        let direct = idle(lab, "direct", &["--network", "ptp"]);
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        lab.hawser(&["attach", &pid, "--name", "guest"]).ok();
        let addresses =
            || sh("for bridge in hawser0 lan0; do ip -4 -o addr show dev $bridge; done");
        let before = addresses();
        other();
        finds_and_cures(lab, "rules-missing", "network hawser0");
        assert!(are_ours());
        assert_eq!(addresses(), before);
        web.end().exits(143);
        direct.end().exits(143);
        lab.run(
            &["--bridge", "lan0"],
            &["ping", "-c", "1", "-W", "10", "198.51.100.10"],
        )
        .exits(0);
    });
}

#[test]
fn rules_that_were_flushed() {
    case(|lab| {
        lab.serve();
        lab.hawser(&["up"]).exits(0);
        for seed in [
            "nft flush ruleset",
            "nft flush chain inet hawser forward",
            "nft delete table bridge hawser",
        ] {
            sh(seed);
            finds_and_cures(lab, "rules-missing", "network hawser0");
        }
    });
}

#[test]
fn elements_that_were_flushed() {
    case(|lab| {
        lab.serve();
        // Nobody stays for it: a supervisor would put its own back.
        let _guest = attached(lab);
        for set in [
            "inet hawser ports4",
            "inet hawser open4",
            "inet hawser tenants",
            "inet hawser networks",
            "bridge hawser sources4",
        ] {
            sh(&format!("nft flush set {set} || nft flush map {set}"));
            let cures = finds(lab, &[("rules-missing", "container guest")]);
            paste(&cures[0]);
            healthy(lab);
        }
    });
}

#[test]
fn without_root_it_says_what_it_could_not_see() {
    case(|lab| {
        if !lab.real_root {
            skip("another user than root needs the real root");
            return;
        }
        lab.serve();
        let _web = idle(lab, "web", &["-p", "8080:80"]);
        // A copy where anybody may execute it.
        std::fs::copy(binary(), "/run/host-helper").expect("copy host-helper");
        let as_nobody = |arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "/run/host-helper",
            ]);
            command.args(arguments).stdin(Stdio::null());
            collect(command, DEADLINE)
        };
        let outcome = as_nobody(&["doctor"]).exits(0);
        assert_eq!(outcome.out(), "");
        let said = outcome.err();
        for what in ["the rules of nf_tables: ", "the inside of containers: "] {
            let line = said.lines().find(|line| line.contains(what));
            let line = line.unwrap_or_else(|| panic!("{what}: {said}"));
            assert!(
                line.starts_with("host-helper: look at ") && line.ends_with("; run as root (sudo)"),
                "{line}"
            );
        }
        sysctl("net.ipv4.ip_forward=0");
        let outcome = as_nobody(&["doctor", "--json"]).exits(1);
        assert_eq!(outcome.err(), "");
        let report: Value = serde_json::from_str(&outcome.out()).expect("JSON");
        assert_eq!(report["findings"][0]["fault"], "forwarding-off");
        assert!(
            report["unseen"].as_array().expect("an array").len() >= 2,
            "{report}"
        );
    });
}

#[test]
fn usage_errors_are_usage_errors() {
    case(|lab| {
        lab.hawser(&["doctor", "--fix"]).refused(&["--fix"]);
        lab.hawser(&["doctor", "web"]).refused(&["web"]);
    });
}
