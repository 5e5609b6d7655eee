//! Two hosts of a cluster whose containers reach each other by flannel's VXLAN: flannel's subnet file, its device, its entries and its
//! rules, as flanneld writes them, and its meta plugin's way to delegate the wiring of a container to another plugin.

use std::process::Command;

use lab::{DEADLINE, Lab, Netns, Outcome, PLUGINS, Running, case, collect, packets};
use serde_json::{Map, Value, json};

/// Flannel's networks, and the MTU that is left with its device for each.
const NETWORK: &str = "10.244.0.0/16";
const NETWORK6: &str = "fd00:10:244::/56";
const MTU: u32 = 1450;
const MTU6: u32 = 1430;

/// A host of the cluster: namespaces of its own for network and mounts, with a /run and a /var/lib/cni of its own.
struct Node {
    number: u8,
    holder: Running,
}

/// A container without a process: a namespace at `/run/netns/NAME` of its host, with a web server once it is served.
struct Pod<'a> {
    node: &'a Node,
    name: &'static str,
    addresses: Vec<String>,
    plugins: Vec<Value>,
    ports: Value,
    result: Value,
}

impl Node {
    /// Its address on the wire between the hosts is 203.0.113.NUMBER, and its containers' subnet 10.244.NUMBER.0/24.
    fn new(number: u8) -> Self {
        let name = format!("node{number}");
        let netns = Netns::new(&name);
        netns.sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
        // As the lab has it; a new namespace begins with 1.
        let bridge_nf = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if let Ok(value) = bridge_nf {
            let which = "/proc/sys/net/bridge/bridge-nf-call-*tables";
            netns.sh(&format!(
                "for switch in {which}; do echo {} >$switch; done",
                value.trim()
            ));
        }
        let mut holder = netns.command("unshare");
        holder.args(["--mount", "sh", "-c"]).arg(
            "mount -t tmpfs run /run && mkdir -p /run/netns /run/flannel /run/www/cgi-bin /var/lib/cni && mount -t tmpfs cni /var/lib/cni
            echo up; read x",
        );
        let mut holder = Running::piped(holder);
        holder.until("up");
        Self { number, holder }
    }

    /// A command that will run there.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.holder.pid().to_string();
        command.args(["--target", &pid, "--net", "--mount", "--", program]);
        command
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let mut shell = self.command("/bin/sh");
        shell.args(["-c", script]);
        let outcome = collect(shell, DEADLINE);
        assert_eq!(outcome.code, 0, "witness {script:?} failed: {outcome}");
        outcome.out()
    }

    fn mac(&self) -> String {
        format!("02:f1:00:00:00:0{}", self.number)
    }

    /// What flanneld leaves on a host with `--ip-masq`, when the other host has joined: its file, its device (VNI 1, port 8472, nothing
    /// learned), neighbour, forwarding entry and route for each other host, and its rules.
    fn run_flannel(&self, other: &Node) {
        let (own, theirs, mac, their_mac) = (self.number, other.number, self.mac(), other.mac());
        self.sh(&format!(
            "ip link add flannel.1 mtu {MTU} address {mac} type vxlan id 1 dev eth0 local 203.0.113.{own} dstport 8472 nolearning
            ip addr add 10.244.{own}.0/32 dev flannel.1
            ip link set flannel.1 up
            ip neigh replace 10.244.{theirs}.0 lladdr {their_mac} dev flannel.1 nud permanent
            bridge fdb replace {their_mac} dev flannel.1 dst 203.0.113.{theirs} self permanent
            ip route replace 10.244.{theirs}.0/24 via 10.244.{theirs}.0 dev flannel.1 onlink
            echo 1 >/proc/sys/net/ipv4/ip_forward
            cat >/run/flannel/subnet.env <<END
FLANNEL_NETWORK={NETWORK}
FLANNEL_SUBNET=10.244.{own}.1/24
FLANNEL_MTU={MTU}
FLANNEL_IPMASQ=true
END"
        ));
        self.masquerade(
            "iptables",
            NETWORK,
            &format!("10.244.{own}.0/24"),
            "224.0.0.0/4",
        );
    }

    /// The same for IPv6 beside it: a second device, and the smaller MTU for both.
    fn run_flannel6(&self, other: &Node) {
        let (own, theirs, mac, their_mac) = (self.number, other.number, self.mac(), other.mac());
        self.sh(&format!(
            "ip link add flannel-v6.1 mtu {MTU6} address {mac} type vxlan id 1 dev eth0 local 2001:db8:3::{own} dstport 8472 nolearning
            ip addr add fd00:10:244:{own}::/128 dev flannel-v6.1 nodad
            ip link set flannel-v6.1 up
            ip -6 neigh replace fd00:10:244:{theirs}:: lladdr {their_mac} dev flannel-v6.1 nud permanent
            bridge fdb replace {their_mac} dev flannel-v6.1 dst 2001:db8:3::{theirs} self permanent
            ip -6 route replace fd00:10:244:{theirs}::/64 via fd00:10:244:{theirs}:: dev flannel-v6.1 onlink
            echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
            sed -i 's/^FLANNEL_MTU=.*/FLANNEL_MTU={MTU6}/' /run/flannel/subnet.env
            cat >>/run/flannel/subnet.env <<END
FLANNEL_IPV6_NETWORK={NETWORK6}
FLANNEL_IPV6_SUBNET=fd00:10:244:{own}::1/64
END"
        ));
        self.masquerade(
            "ip6tables",
            NETWORK6,
            &format!("fd00:10:244:{own}::/64"),
            "ff00::/8",
        );
    }

    /// Flannel's rules: between containers addresses stay as they are, what leaves the network gets the host's.
    fn masquerade(&self, tables: &str, network: &str, own: &str, multicast: &str) {
        self.sh(&format!(
            "nat() {{ {tables} -t nat \"$@\"; }}
            nat -N FLANNEL-POSTRTG
            nat -A POSTROUTING -j FLANNEL-POSTRTG
            nat -A FLANNEL-POSTRTG -s {own} -d {network} -j RETURN
            nat -A FLANNEL-POSTRTG -s {network} -d {own} -j RETURN
            nat -A FLANNEL-POSTRTG ! -s {network} -d {own} -j RETURN
            nat -A FLANNEL-POSTRTG -s {network} ! -d {multicast} -j MASQUERADE --random-fully
            nat -A FLANNEL-POSTRTG ! -s {network} -d {network} -j MASQUERADE --random-fully
            {tables} -N FLANNEL-FWD
            {tables} -A FORWARD -j FLANNEL-FWD
            {tables} -A FLANNEL-FWD -s {network} -j ACCEPT
            {tables} -A FLANNEL-FWD -d {network} -j ACCEPT"
        ));
    }

    /// What could be left of a container: links, files, and the elements of our sets and maps.
    fn look(&self) -> String {
        self.sh("ip -br link | cut -d' ' -f1 | sort
            find /run/hawser /var/lib/cni -type f ! -name 'last_reserved*' ! -name '*.lock' 2>/dev/null | sort
            nft list table inet hawser 2>/dev/null; nft list table bridge hawser 2>/dev/null; :")
    }

    /// The plugin that a configuration names, as a runtime calls it.
    fn call(&self, verb: &str, pod: &str, config: &Value) -> Outcome {
        let kind = config["type"].as_str().expect("the type of a plugin");
        let mut plugin = self.command("env");
        plugin.args([
            "-C/".into(),
            format!("CNI_COMMAND={verb}"),
            format!("CNI_CONTAINERID={pod}"),
            format!("CNI_NETNS=/run/netns/{pod}"),
            "CNI_IFNAME=eth0".into(),
            format!("CNI_PATH={PLUGINS}"),
            format!("{PLUGINS}/{kind}"),
        ]);
        let mut running = Running::piped(plugin);
        running.say(&config.to_string());
        running.end()
    }

    /// Adds a container by a list of plugins, and serves its name from there: as libcni does it, each one gets the result of the one before.
    /// `ports` are what the runtime wants published.
    fn add(&self, pod: &'static str, plugins: &[Value], ports: &Value) -> Pod<'_> {
        self.sh(&format!("ip netns add {pod}"));
        let mut result = Value::Null;
        for plugin in plugins {
            let config = configure(plugin, &result, ports);
            let outcome = if plugin["type"] == "flannel" {
                let delegate = delegate(&config, &self.sh("cat /run/flannel/subnet.env"));
                // The meta plugin keeps what it has sent, for DEL.
                self.sh(&format!(
                    "mkdir -p /var/lib/cni/flannel && cat >/var/lib/cni/flannel/{pod} <<'END'\n{delegate}\nEND"
                ));
                self.call("ADD", pod, &delegate)
            } else {
                self.call("ADD", pod, &config)
            };
            result = serde_json::from_str(&outcome.exits(0).out()).expect("a result");
        }
        let ips = result["ips"].as_array().expect("addresses");
        let addresses = ips.iter().map(|ip| {
            let address = ip["address"].as_str().expect("an address");
            address.split_once('/').expect("a prefix").0.to_owned()
        });
        let addresses = addresses.collect();
        self.sh(&format!(
            "mkdir -p /run/www/{pod}/cgi-bin
            echo 'this is {pod}' >/run/www/{pod}/index.html
            dd if=/dev/zero of=/run/www/{pod}/large bs=1000 count=300 2>/dev/null
            printf '#!/bin/sh\\necho Content-type: text/plain; echo; echo $REMOTE_ADDR | sed s/.::ffff:// | tr -d []\\n' >/run/www/{pod}/cgi-bin/whoami
            chmod 755 /run/www/{pod}/cgi-bin/whoami
            ip netns exec {pod} busybox httpd -p 80 -h /run/www/{pod}"
        ));
        Pod {
            node: self,
            name: pod,
            addresses,
            plugins: plugins.to_vec(),
            ports: ports.clone(),
            result,
        }
    }

    /// Deletes it: by the plugins from behind, the meta plugin by what it has kept.
    fn delete(&self, pod: &Pod) {
        let name = pod.name;
        for plugin in pod.plugins.iter().rev() {
            if plugin["type"] == "flannel" {
                let kept = self.sh(&format!(
                    "cat /var/lib/cni/flannel/{name}; rm /var/lib/cni/flannel/{name}"
                ));
                let kept = serde_json::from_str(&kept).expect("what the meta plugin has kept");
                self.call("DEL", name, &kept).ok();
            } else {
                self.call("DEL", name, &configure(plugin, &pod.result, &pod.ports))
                    .ok();
            }
        }
        self.sh(&format!("ip netns del {name}"));
    }
}

/// What a plugin of the list gets: the list's name and version, the result so far, and what the runtime says, if it is for it.
fn configure(plugin: &Value, result: &Value, ports: &Value) -> Value {
    let mut config = plugin.clone();
    config["cniVersion"] = json!("1.0.0");
    config["name"] = json!("cbr0");
    if !result.is_null() {
        config["prevResult"] = result.clone();
    }
    if plugin["capabilities"]["portMappings"] == true && !ports.is_null() {
        config["runtimeConfig"] = json!({ "portMappings": ports });
    }
    config
}

impl Pod<'_> {
    #[track_caller]
    fn get(&self, url: &str) -> String {
        let text = self.node.sh(&format!(
            "ip netns exec {} busybox wget -q -O - {url}",
            self.name
        ));
        text.trim_end().into()
    }
}

/// The configuration that flannel's meta plugin makes of its own and of flanneld's file: the network's name and version; what `delegate`
/// says and what the runtime does, `ipMasq` where flanneld does not masquerade, the MTU; for a bridge `isGateway`; and as addresses the host's subnet, with a route to
/// the whole network (flannel-io/cni-plugin, flannel_linux.go).
fn delegate(config: &Value, file: &str) -> Value {
    let find = |name: &str| {
        let line = file.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.strip_prefix('='))
    };
    let said = |name: &str| find(name).unwrap_or_else(|| panic!("{name} in subnet.env"));
    let mut made: Map<String, Value> = config["delegate"].as_object().cloned().unwrap_or_default();
    made.insert("name".into(), config["name"].clone());
    made.insert("cniVersion".into(), config["cniVersion"].clone());
    made.entry("type").or_insert(json!("bridge"));
    made.entry("ipMasq")
        .or_insert(json!(said("FLANNEL_IPMASQ") != "true"));
    let mtu: u32 = said("FLANNEL_MTU").parse().expect("an MTU");
    made.entry("mtu").or_insert(json!(mtu));
    if made["type"] == "bridge" {
        made.entry("isGateway").or_insert(json!(true));
    }
    let mut ipam: Map<String, Value> = config["ipam"].as_object().cloned().unwrap_or_default();
    ipam.entry("type").or_insert(json!("host-local"));
    // The address in the file is the bridge's; the subnet is what it is in.
    let mut ranges = vec![json!([{ "subnet": said("FLANNEL_SUBNET").replace(".1/24", ".0/24") }])];
    let mut routes = ipam
        .get("routes")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    routes.push(json!({ "dst": said("FLANNEL_NETWORK") }));
    if let Some(subnet) = find("FLANNEL_IPV6_SUBNET") {
        ranges.push(json!([{ "subnet": subnet.replace("::1/64", "::/64") }]));
        routes.push(json!({ "dst": said("FLANNEL_IPV6_NETWORK") }));
    }
    ipam.insert("ranges".into(), json!(ranges));
    ipam.insert("routes".into(), json!(routes));
    made.insert("ipam".into(), Value::Object(ipam));
    if !config["runtimeConfig"].is_null() {
        made.insert("runtimeConfig".into(), config["runtimeConfig"].clone());
    }
    Value::Object(made)
}

/// Two hosts on a wire, which the internet is on as well, at 203.0.113.254 and 2001:db8:3::fe.
fn cluster(lab: &Lab) -> [Node; 2] {
    let nodes = [1, 2].map(Node::new);
    lab.internet.sh("ip link add wire type bridge
        ip addr add 203.0.113.254/24 dev wire
        ip addr add 2001:db8:3::fe/64 dev wire nodad
        ip link set wire up
        echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    for node in &nodes {
        let number = node.number;
        lab.internet.sh(&format!(
            "ip link add wire{number} master wire type veth peer name eth0 netns /proc/{}/ns/net
            ip link set wire{number} up",
            node.holder.pid()
        ));
        node.sh(&format!(
            "ip addr add 203.0.113.{number}/24 dev eth0
            ip addr add 2001:db8:3::{number}/64 dev eth0 nodad
            ip link set eth0 up
            ip route add default via 203.0.113.254
            ip -6 route add default via 2001:db8:3::fe"
        ));
    }
    let [one, two] = &nodes;
    one.run_flannel(two);
    two.run_flannel(one);
    nodes
}

/// How an address is written in a URL.
fn host(address: &str) -> String {
    match address.contains(':') {
        true => format!("[{address}]"),
        false => address.into(),
    }
}

/// Containers of two hosts reach each other by their own addresses, in both directions, and the outside by their hosts'; a published port is
/// reached from the other host's; nothing is left of them.
fn talk(lab: &Lab, [one, two]: &[Node; 2], plugins: &[Value], families: usize) {
    let port = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    // The first one makes the bridge.
    for node in [one, two] {
        let first = node.add("first", plugins, &Value::Null);
        node.delete(&first);
    }
    let before = [one, two].map(Node::look);
    let a = one.add("a", plugins, &port);
    let b = two.add("b", plugins, &Value::Null);
    let c = one.add("c", plugins, &Value::Null);
    let outside = [
        ("198.51.100.10", "203.0.113."),
        ("2001:db8:2::10", "2001:db8:3::"),
    ];
    for (family, (far, host_address)) in outside.into_iter().enumerate().take(families) {
        for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a), (&c, &b)] {
            let (source, destination) = (&from.addresses[family], &to.addresses[family]);
            let at = |page: &str| from.get(&format!("http://{}/{page}", host(destination)));
            assert_eq!(at(""), format!("this is {}", to.name));
            let seen = at("cgi-bin/whoami");
            assert_eq!(seen, *source, "{} sees {}", to.name, from.name);
            assert_eq!(at("large").len(), 300_000);
        }
        for pod in [&a, &b] {
            let seen = pod.get(&format!("http://{}/cgi-bin/whoami", host(far)));
            assert_eq!(seen, host(&format!("{host_address}{}", pod.node.number)));
            for node in [one, two] {
                let here = host(&pod.addresses[family]);
                let page = node.sh(&format!("busybox wget -q -O - http://{here}/"));
                assert_eq!(page, format!("this is {}\n", pod.name));
            }
        }
        let published = format!("http://{}:8080/", host(&format!("{host_address}1")));
        assert_eq!(b.get(&published), "this is a");
        let page = lab
            .internet
            .sh(&format!("busybox wget -q -O - {published}"));
        assert_eq!(page, "this is a\n");
    }
    for pod in [&a, &b, &c] {
        pod.node.delete(pod);
    }
    assert_eq!([one, two].map(Node::look), before);
}

/// The list of plugins of flannel's own manifest.
fn manifest() -> [Value; 2] {
    [
        json!({ "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } }),
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
    ]
}

/// By IPv4 alone, and then with both.
fn by_flannel(lab: &Lab, plugins: &[Value], forget: &str) {
    if !lab.plugins() {
        return;
    }
    lab.serve();
    lab.web("[2001:db8:2::10]:80");
    let nodes = cluster(lab);
    talk(lab, &nodes, plugins, 1);
    nodes[0].run_flannel6(&nodes[1]);
    nodes[1].run_flannel6(&nodes[0]);
    // The bridge has the other MTU, and no address of IPv6.
    for node in &nodes {
        node.sh(forget);
    }
    talk(lab, &nodes, plugins, 2);
}

/// With these the test itself was tried.
#[test]
fn flannel_and_the_reference_bridge() {
    packets(|lab| by_flannel(lab, &manifest(), "ip link del cni0"));
}

/// The bridge is completed where IPv6 comes later.
#[test]
fn flannel_and_ours() {
    packets(|lab| {
        let list = Lab::documented("/etc/cni/net.d/10-flannel.conflist");
        by_flannel(lab, &list, ":");
    });
}

/// Without portmap: what the runtime wants published is handed on by the meta plugin.
#[test]
fn flannel_and_ports_of_ours() {
    packets(|lab| {
        let mut list = Lab::documented("/etc/cni/net.d/10-flannel.conflist");
        list.truncate(1);
        list[0]["capabilities"] = json!({ "portMappings": true });
        by_flannel(lab, &list, ":");
    });
}

/// kube-proxy's rules for services of one pod each, at 10.96.0.1 and on, and at ports 30081 and on of each host.
fn serve_services(node: &Node, pods: &[&Pod]) {
    node.sh(&format!(
        "nat() {{ iptables -t nat \"$@\"; }}
        for chain in KUBE-MARK-MASQ KUBE-SERVICES KUBE-NODEPORTS KUBE-POSTROUTING; do nat -N $chain; done
        nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
        nat -I PREROUTING -j KUBE-SERVICES
        nat -I OUTPUT -j KUBE-SERVICES
        nat -I POSTROUTING -j KUBE-POSTROUTING
        nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
        nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
        nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully
        iptables -N KUBE-FORWARD
        iptables -I FORWARD -j KUBE-FORWARD
        iptables -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        iptables -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
        number=0
        for pod in {}; do
            number=$((number + 1))
            nat -N KUBE-SVC-$number
            nat -N KUBE-SEP-$number
            nat -A KUBE-SERVICES -d 10.96.0.$number/32 -p tcp --dport 80 -j KUBE-SVC-$number
            nat -A KUBE-NODEPORTS -p tcp --dport 3008$number -j KUBE-MARK-MASQ
            nat -A KUBE-NODEPORTS -p tcp --dport 3008$number -j KUBE-SVC-$number
            nat -A KUBE-SVC-$number ! -s {NETWORK} -d 10.96.0.$number/32 -p tcp --dport 80 -j KUBE-MARK-MASQ
            nat -A KUBE-SVC-$number -j KUBE-SEP-$number
            nat -A KUBE-SEP-$number -s $pod/32 -j KUBE-MARK-MASQ
            nat -A KUBE-SEP-$number -p tcp -j DNAT --to-destination $pod:80
        done
        nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        pods.iter().map(|pod| &*pod.addresses[0]).collect::<Vec<_>>().join(" ")
    ));
}

/// By services, which are kube-proxy's (it wants bridge-nf-call at 1: those of the same host), pods reach pods of their own host, of the other and themselves; hosts and the outside reach them.
#[test]
fn services_of_kube_proxy() {
    case(|lab| {
        if !lab.plugins() {
            return;
        }
        lab.serve();
        let list = Lab::documented("/etc/cni/net.d/10-flannel.conflist");
        let [one, two] = cluster(lab);
        let a = one.add("a", &list, &Value::Null);
        let b = two.add("b", &list, &Value::Null);
        let c = one.add("c", &list, &Value::Null);
        let pods = [&a, &b, &c];
        for node in [&one, &two] {
            serve_services(node, &pods);
        }
        for (number, to) in (1..).zip(pods) {
            let page = format!("this is {}", to.name);
            let service = format!("http://10.96.0.{number}/");
            for from in pods {
                assert_eq!(from.get(&service), page, "{} by its service", from.name);
                let seen = from.get(&format!("{service}cgi-bin/whoami"));
                // Who asks for itself is seen as its gateway.
                let is_itself = from.name == to.name;
                assert_eq!(
                    seen == from.addresses[0],
                    !is_itself,
                    "{} sees {seen}",
                    to.name
                );
            }
            for node in [&one, &two] {
                assert_eq!(
                    node.sh(&format!("busybox wget -q -O - {service}"))
                        .trim_end(),
                    page
                );
                let port = format!("http://203.0.113.{}:3008{number}/", node.number);
                assert_eq!(
                    lab.internet
                        .sh(&format!("busybox wget -q -O - {port}"))
                        .trim_end(),
                    page
                );
            }
        }
        for pod in pods {
            pod.node.delete(pod);
        }
    });
}

/// A host that has lost everything but files: the namespaces, links and rules of its pods are gone, as after a crash. Deleting them
/// succeeds, the leases of host-local go, and the host takes pods again.
#[test]
fn a_crash_leaves_nothing() {
    case(|lab| {
        if !lab.plugins() {
            return;
        }
        let list = Lab::documented("/etc/cni/net.d/10-flannel.conflist");
        let [one, _two] = cluster(lab);
        let leases = "ls /var/lib/cni/networks/cbr0 | grep -c ^10[.] || :";
        let a = one.add("a", &list[..1], &Value::Null);
        assert_eq!(one.sh(leases), "1\n");
        one.sh("busybox killall httpd; ip netns del a; ip link del cni0; nft flush ruleset; rm -rf /run/hawser; touch /run/netns/a");
        one.delete(&a);
        assert_eq!(one.sh(leases), "0\n");
        let a = one.add("a", &list[..1], &Value::Null);
        let page = one.sh(&format!("busybox wget -q -O - http://{}/", a.addresses[0]));
        assert_eq!(page, "this is a\n");
        one.delete(&a);
    });
}

/// Somebody flushes the rules of a host with pods: `restore` brings them back, and so does the next pod.
#[test]
fn a_flush_is_repaired() {
    case(|lab| {
        if !lab.plugins() {
            return;
        }
        let list = Lab::documented("/etc/cni/net.d/10-hawser.conflist");
        lab.serve();
        let [one, two] = cluster(lab);
        let port = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
        let a = one.add("a", &list, &port);
        let get = || two.sh("busybox wget -q -O - http://203.0.113.1:8080/");
        assert_eq!(get(), "this is a\n");
        one.sh("nft flush ruleset");
        let mut wget = two.command("busybox");
        wget.args(["wget", "-q", "-O", "-", "http://203.0.113.1:8080/"]);
        let refused = collect(wget, DEADLINE);
        assert_ne!(refused.code, 0, "{refused}");
        let restore = format!("{} restore", lab::binary().display());
        one.sh(&restore);
        assert_eq!(get(), "this is a\n");
        one.sh("nft flush ruleset");
        let b = one.add("b", &list, &Value::Null);
        // Its way out, which is masqueraded.
        let outside = b.get("http://198.51.100.10/cgi-bin/whoami");
        assert_eq!(outside, "203.0.113.1");
        one.delete(&a);
        one.delete(&b);
    });
}

/// The program is upgraded, and its rules are others: nothing is added beside pods that live by the old ones, and the error says which.
#[test]
fn an_upgrade_wants_a_drained_host() {
    case(|lab| {
        if !lab.plugins() {
            return;
        }
        let list = Lab::documented("/etc/cni/net.d/10-hawser.conflist");
        let [one, _two] = cluster(lab);
        let a = one.add("a", &list, &Value::Null);
        let mut config = configure(&list[0], &Value::Null, &Value::Null);
        config["cniVersion"] = json!("1.1.0");
        one.call("STATUS", "", &config).ok();
        one.sh("nft delete table inet hawser; nft 'add table inet hawser { comment \"hawser 0\"; }'; ip netns add b");
        let status = one.call("STATUS", "", &config).exits(1).out();
        assert!(
            status.contains(r#""code":50"#)
                && status.contains("containers live by its rules: cni-a.eth0."),
            "{status}"
        );
        let refused = one.call("ADD", "b", &config).exits(1).out();
        assert!(refused.contains("cni-a.eth0."), "{refused}");
        one.delete(&a);
        one.call("STATUS", "", &config).ok();
        one.call("ADD", "b", &config).exits(0);
        one.call("DEL", "b", &config).ok();
    });
}

/// Flannel's WireGuard backend has a route to the whole network, which the host's part is cut out of. A route to a part of that part is in
/// the way all the same.
#[test]
fn a_wider_route_is_not_in_the_way() {
    case(|lab| {
        if !lab.plugins() {
            return;
        }
        let [one, _two] = cluster(lab);
        one.sh(&format!("ip route add {NETWORK} dev flannel.1"));
        let mut plugin = json!({ "type": "hawser", "isDefaultGateway": true, "ipam": { "ranges": [[{ "subnet": "10.244.1.0/24" }]] } });
        for mode in ["bridge", "ptp"] {
            plugin["mode"] = json!(mode);
            let pod = one.add(mode, std::slice::from_ref(&plugin), &Value::Null);
            let page = one.sh(&format!(
                "busybox wget -q -O - http://{}/",
                pod.addresses[0]
            ));
            assert_eq!(page, format!("this is {mode}\n"));
            one.delete(&pod);
            one.sh("ip link del cni0 2>/dev/null; :");
        }
        one.sh("ip netns add late; ip route add 10.244.1.128/25 dev flannel.1");
        for mode in ["bridge", "ptp"] {
            plugin["mode"] = json!(mode);
            let config = configure(&plugin, &Value::Null, &Value::Null);
            let outcome = one.call("ADD", "late", &config);
            assert_ne!(outcome.code, 0, "{outcome}");
            assert!(
                outcome.out().contains("10.244.1.128/25 dev flannel.1"),
                "{outcome}"
            );
        }
    });
}
