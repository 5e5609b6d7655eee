//! Real clients of CNI and real neighbours in a list of plugins: containerd's `ctr run --cni`, podman with its CNI backend, and Debian's
//! reference plugins before and after ours.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use lab::{
    DEADLINE, Lab, Netns, Outcome, PLUGINS, Running, Runtime, Snapshot, Watch, case, collect,
    packets, sh,
};
use serde_json::{Value, json};

const IMAGE: &str = "docker.io/library/box:latest";

/// One way to start containers.
enum Client {
    Ctr(Runtime),
    Podman(Runtime),
}

/// A container that serves its name at port 80.
struct Container {
    name: &'static str,
    running: Running,
    netns: Netns,
    address: String,
}

impl Client {
    fn ctr(lab: &Lab) -> Option<Self> {
        let ctr = lab.containerd()?;
        ctr.call(&["image", "import", "--snapshotter", "native", &lab.image()])
            .exits(0);
        Some(Self::Ctr(ctr))
    }

    fn podman(lab: &Lab) -> Option<Self> {
        let podman = lab.podman_cni()?;
        let archive = lab.archive("box", &[]).to_string_lossy().into_owned();
        podman.call(&["import", &archive, "box"]).exits(0);
        Some(Self::Podman(podman))
    }

    /// `run`, not started yet: a container of the network `lab`. podman gets the ports as an option, `ctr` by the network's file.
    fn command(&self, name: &str, options: &[&str], words: &[&str]) -> Command {
        match self {
            Self::Ctr(ctr) => {
                let group = ctr.group(name);
                let front = ["--cgroup", &group, IMAGE, name];
                ctr.run_command(&[&front[..], words].concat())
            }
            Self::Podman(podman) => {
                let front = ["--rm", "--name", name, "--network", "lab"];
                podman.run_command(&[&front[..], options, &["box"], words].concat())
            }
        }
    }

    fn run(&self, name: &str, words: &[&str]) -> Outcome {
        collect(self.command(name, &[], words), DEADLINE)
    }

    fn start(&self, name: &'static str, options: &[&str]) -> Container {
        let script = format!(
            "trap 'exit 0' TERM; echo 'this is {name}' >/index.html; httpd -p 80 -h /; echo up; sleep 1000 & wait"
        );
        let mut command = self.command(name, options, &["sh", "-c", &script]);
        command.stdin(Stdio::null());
        let mut running = Running::spawn(command);
        running.until("up");
        let pid = match self {
            Self::Ctr(ctr) => {
                let tasks = ctr.call(&["task", "ls"]).ok();
                let line = tasks.lines().find(|line| line.starts_with(name));
                line.and_then(|line| line.split_whitespace().nth(1))
                    .expect("the task of a container")
                    .to_owned()
            }
            Self::Podman(podman) => podman
                .call(&["inspect", "--format", "{{.State.Pid}}", name])
                .ok(),
        };
        let netns = Netns::of(pid.parse().expect("a process id"));
        let links: Value =
            serde_json::from_str(&netns.sh("ip -j -4 addr show dev eth0")).expect("ip -j");
        let address = links[0]["addr_info"][0]["local"]
            .as_str()
            .expect("an address")
            .to_owned();
        Container {
            name,
            running,
            netns,
            address,
        }
    }

    fn stop(&self, container: Container) {
        match self {
            Self::Ctr(ctr) => ctr.call(&["task", "kill", container.name]).exits(0),
            Self::Podman(podman) => podman.call(&["stop", container.name]).exits(0),
        };
        container.running.end().exits(0);
    }

    fn end(self) {
        match self {
            Self::Ctr(runtime) | Self::Podman(runtime) => runtime.end(),
        }
    }
}

impl Container {
    fn get(&self, url: &str) -> String {
        let mut wget = self.netns.command("/bin/busybox");
        wget.args(["wget", "-q", "-O", "-", url]);
        collect(wget, DEADLINE).ok()
    }
}

/// What a web server says at ADDRESS:PORT.
fn page(address: &str) -> String {
    let mut stream =
        TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("ask");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    text
}

/// The same plugins, whose ports are told by the network's file, as `ctr` cannot: port 8080 leads to 80.
fn with_port(mut plugins: Vec<Value>) -> Vec<Value> {
    for plugin in &mut plugins {
        if plugin["capabilities"]["portMappings"] == true {
            plugin["runtimeConfig"] = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
        }
    }
    plugins
}

/// Two containers on a network of these plugins reach each other, the outside, and are reached by a published port; nothing of them is
/// left, but for what the words are in.
fn serves(lab: &Lab, client: &Client, plugins: &[Value], ports: &[&str], leave: &[&str]) {
    lab.write_network("lab", plugins);
    client.run("first", &["true"]).ok();
    // `ctr` does not name the namespace when it deletes: links may go with it, a moment later.
    let is_over = || {
        [": hw", ": veth", ": bwp"]
            .iter()
            .all(|link| !sh("ip -o link").contains(link))
    };
    assert!(Watch::new().until(is_over), "{}", sh("ip -o link"));
    let before = (Snapshot::take(), ours());
    let one = client.start("one", &[]);
    if let Client::Ctr(_) = client {
        lab.write_network("lab", &with_port(plugins.to_vec()));
    }
    let two = client.start("two", ports);
    assert_ne!(one.address, two.address);
    assert_eq!(one.get(&format!("http://{}/", two.address)), "this is two");
    assert_eq!(two.get(&format!("http://{}/", one.address)), "this is one");
    for container in [&one, &two] {
        assert_eq!(
            container.get("http://198.51.100.10/"),
            "hello from the internet"
        );
        let whoami = container.get("http://198.51.100.10/cgi-bin/whoami");
        assert!(whoami.ends_with("192.0.2.2"), "{whoami}");
    }
    assert!(
        lab.internet
            .enter(|| page("192.0.2.2:8080"))
            .ends_with("this is two\n")
    );
    assert!(page("192.0.2.2:8080").ends_with("this is two\n"));
    assert_eq!(one.get("http://192.0.2.2:8080/"), "this is two");
    assert_eq!(two.get("http://192.0.2.2:8080/"), "this is two");
    client.stop(two);
    client.stop(one);
    let mut changes = before.0.changes();
    // The runtime's own, and which address is the next.
    changes.retain(|change| {
        ![
            "/run/lab/containerd/",
            "/run/lab/podman/",
            "/run/lab/links",
            "last_reserved_ip",
        ]
        .iter()
        .chain(leave)
        .any(|theirs| change.contains(theirs))
    });
    assert!(changes.is_empty(), "{}", changes.join("\n"));
    assert_eq!(ours(), before.1);
}

/// Our tables, where there are any.
fn ours() -> String {
    sh("nft list table inet hawser 2>/dev/null; nft list table bridge hawser 2>/dev/null; :")
}

/// The reference plugins that stand around a bridge, or around ours: with `loopback` Nomad begins its list, the others follow.
fn among_others(wiring: Value) -> Vec<Value> {
    let own = |kind: &str| json!({ "type": kind });
    let tuning = json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" }, "capabilities": { "mac": true } });
    let bandwidth =
        json!({ "type": "bandwidth", "ingressRate": 800_000_000, "ingressBurst": 80_000_000 });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    vec![
        own("loopback"),
        wiring,
        tuning,
        bandwidth,
        own("firewall"),
        portmap,
    ]
}

/// What the reference plugins keep: chains of theirs; with `bridge`, what the kernel knows of connections to their containers.
const KEPT: [&str; 1] = ["rules: "];
const KEPT_BY_BRIDGE: [&str; 2] = [KEPT[0], "connections: "];

/// A network of the type `bridge` or of ours, with keys that both have.
fn wiring(kind: &str, ipam: Value) -> Value {
    json!({ "type": kind, "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam })
}

fn host_local() -> Value {
    json!({ "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }]] })
}

/// A case with one client and this list of plugins.
fn try_with(lab: &Lab, client: Option<Client>, plugins: &[Value], leave: &[&str]) {
    let Some(client) = client else {
        return;
    };
    lab.serve();
    serves(lab, &client, plugins, &["-p", "8080:80"], leave);
    client.end();
}

/// With these the tests themselves were tried.
#[test]
fn containerd_and_the_reference_plugins() {
    case(|lab| {
        let plugins = among_others(wiring("bridge", host_local()));
        try_with(lab, Client::ctr(lab), &plugins, &KEPT_BY_BRIDGE);
    });
}

#[test]
fn podman_and_the_reference_plugins() {
    case(|lab| {
        let plugins = among_others(wiring("bridge", host_local()));
        try_with(lab, Client::podman(lab), &plugins, &KEPT_BY_BRIDGE);
    });
}

#[test]
fn containerd_with_the_documented_list() {
    case(|lab| {
        let plugins = Lab::documented("/etc/cni/net.d/10-hawser.conflist");
        try_with(lab, Client::ctr(lab), &plugins, &[]);
    });
}

#[test]
fn podman_with_the_documented_list() {
    case(|lab| {
        let plugins = Lab::documented("/etc/cni/net.d/10-hawser.conflist");
        try_with(lab, Client::podman(lab), &plugins, &[]);
    });
}

/// Nomad calls as containerd does, by the same library. It publishes each port by TCP and by UDP, at the host's address, as podman can be told
/// to, and not every host of its has br_netfilter.
#[test]
fn podman_with_the_list_for_nomad() {
    packets(|lab| {
        let Some(client) = Client::podman(lab) else {
            return;
        };
        lab.serve();
        let plugins = Lab::documented("/opt/cni/config/hawser.conflist");
        let ports = ["-p", "192.0.2.2:8080:80", "-p", "192.0.2.2:8080:80/udp"];
        serves(lab, &client, &plugins, &ports, &[]);
        client.end();
    });
}

#[test]
fn ours_between_reference_plugins() {
    case(|lab| {
        let ipam = json!({ "ranges": [[{ "subnet": "10.88.0.0/16" }]] });
        let plugins = among_others(wiring("hawser", ipam));
        try_with(lab, Client::ctr(lab), &plugins, &KEPT);
    });
}

#[test]
fn ours_between_reference_plugins_by_podman() {
    case(|lab| {
        let ipam = json!({ "ranges": [[{ "subnet": "10.88.0.0/16" }]] });
        let plugins = among_others(wiring("hawser", ipam));
        try_with(lab, Client::podman(lab), &plugins, &KEPT);
    });
}

/// With addresses that another plugin leases, which hears of the end as well: a lease of host-local is a file.
#[test]
fn ours_with_host_local() {
    case(|lab| {
        let mut plugin = wiring("hawser", host_local());
        plugin["capabilities"] = json!({ "portMappings": true });
        try_with(lab, Client::ctr(lab), &[plugin], &[]);
    });
}

/// Addresses that the network's file names, by the plugin `static`.
#[test]
fn ours_with_static_addresses() {
    case(|lab| {
        let Some(client) = Client::podman(lab) else {
            return;
        };
        lab.serve();
        let ipam = json!({ "type": "static", "routes": [{ "dst": "0.0.0.0/0" }],
            "addresses": [{ "address": "10.43.0.5/24", "gateway": "10.43.0.1" }] });
        lab.write_network("lab", &[wiring("hawser", ipam)]);
        let one = client.start("one", &[]);
        assert_eq!(one.address, "10.43.0.5");
        assert_eq!(one.get("http://198.51.100.10/"), "hello from the internet");
        // `static` gives it to anybody. It is taken, and who has it is said.
        let taken = client.run("two", &["true"]);
        assert_ne!(taken.code, 0, "{taken}");
        assert!(taken.err().contains("10.43.0.5"), "{taken}");
        assert_eq!(one.get("http://198.51.100.10/"), "hello from the internet");
        client.stop(one);
        client.run("two", &["true"]).ok();
        client.end();
    });
}

/// `ctr run -d --cni` never asks for the removal of a container. Its address and its port are in nobody's way.
#[test]
fn what_nobody_deletes_is_in_nobodys_way() {
    case(|lab| {
        let Some(client) = Client::ctr(lab) else {
            return;
        };
        let Client::Ctr(ctr) = &client else { return };
        lab.serve();
        // One address for all of them.
        let ipam = json!({ "ranges": [[{ "subnet": "10.88.0.0/16", "rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.9" }]] });
        let mut plugin = wiring("hawser", ipam);
        plugin["capabilities"] = json!({ "portMappings": true });
        lab.write_network("lab", &with_port(vec![plugin]));
        let group = ctr.group("forgotten");
        let words = [
            "run",
            "-d",
            "--cni",
            "--snapshotter",
            "native",
            "--cgroup",
            &group,
        ];
        ctr.call(&[&words[..], &[IMAGE, "forgotten", "sleep", "1000"]].concat())
            .ok();
        ctr.call(&["task", "kill", "-s", "KILL", "forgotten"]).ok();
        lab.settle();
        let one = client.start("one", &[]);
        assert_eq!(one.address, "10.88.0.9");
        let seen = lab.internet.enter(|| page("192.0.2.2:8080"));
        assert!(seen.ends_with("this is one\n"), "{seen}");
        client.stop(one);
        ctr.call(&["task", "rm", "forgotten"]);
        ctr.call(&["container", "rm", "forgotten"]).exits(0);
        client.end();
    });
}

/// What a network says of names reaches the container by the result: podman writes its resolv.conf.
#[test]
fn podman_hears_of_names() {
    case(|lab| {
        let Some(client) = Client::podman(lab) else {
            return;
        };
        lab.serve();
        let mut plugin = wiring(
            "hawser",
            json!({ "ranges": [[{ "subnet": "10.88.0.0/16" }]] }),
        );
        plugin["dns"] = json!({ "nameservers": ["198.51.100.53"], "search": ["one.test"] });
        lab.write_network("lab", &[plugin]);
        lab.set_resolv_conf("nameserver 192.0.2.99\n");
        let found = client.run("one", &["cat", "/etc/resolv.conf"]).ok();
        assert!(
            found.contains("nameserver 198.51.100.53") && found.contains("search one.test"),
            "{found}"
        );
        let page = client.run("one", &["wget", "-q", "-O", "-", "http://alpha/"]);
        assert_eq!(page.ok(), "hello from the internet");
        client.end();
    });
}

/// A kubelet starts many pods at once, on a host that has no network yet; the runtime deletes them at once as well.
#[test]
fn many_pods_at_once() {
    const PODS: u16 = 24;
    case(|lab| {
        if !lab.plugins() {
            return;
        }
        let mut plugin = Lab::documented("/etc/cni/net.d/10-hawser.conflist").remove(0);
        plugin["cniVersion"] = json!("1.0.0");
        plugin["name"] = json!("pods");
        let start = |verb: &str, pod: u16| {
            let mut config = plugin.clone();
            config["runtimeConfig"] = json!({ "portMappings": [{ "hostPort": 9000 + pod, "containerPort": 80, "protocol": "tcp" }] });
            let mut command = Command::new(format!("{PLUGINS}/hawser"));
            command
                .env("CNI_COMMAND", verb)
                .env("CNI_CONTAINERID", format!("pod{pod}"));
            command
                .env("CNI_NETNS", format!("/run/netns/pod{pod}"))
                .env("CNI_IFNAME", "eth0");
            command
                .env("CNI_PATH", PLUGINS)
                .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web");
            let mut running = Running::piped(command);
            running.say(&config.to_string());
            running.stdin = None;
            running
        };
        let namespaces: Vec<Netns> = (0..PODS)
            .map(|pod| Netns::new(&format!("pod{pod}")))
            .collect();
        let mut addresses = HashSet::new();
        let mut before = None;
        for round in 0..2 {
            let all: Vec<Running> = (0..PODS).map(|pod| start("ADD", pod)).collect();
            for running in all {
                let result: Value = serde_json::from_str(&running.end().ok()).expect("a result");
                let ips = result["ips"].as_array().expect("addresses");
                assert_eq!(ips.len(), 2, "{result}");
                for ip in ips {
                    assert!(
                        addresses.insert(ip["address"].to_string()),
                        "twice in round {round}: {ip}"
                    );
                }
            }
            let neighbour = sh("ip -o -4 addr show dev cni0").contains("10.42.0.1/24");
            assert!(neighbour);
            for (pod, netns) in namespaces.iter().enumerate() {
                let route = netns.sh("ip -4 route show default; ip -6 route show default");
                assert!(
                    route.contains("via 10.42.0.1") && route.contains("via fd00:10:42::1"),
                    "pod{pod}: {route}"
                );
            }
            let all: Vec<Running> = (0..PODS).map(|pod| start("DEL", pod)).collect();
            for running in all {
                running.end().ok();
            }
            addresses.clear();
            let now = ours();
            assert_eq!(*before.get_or_insert(now.clone()), now);
            assert!(!sh("ip -o link").contains(": hw"));
        }
    });
}

/// Multus, and networks with a `mac` for `tuning`, have that change the hardware address behind ours; the host finds out by asking. What it was
/// told before of somebody with that address it knows no longer.
#[test]
fn another_plugin_changes_the_hardware_address() {
    const MAC: &str = "c2:11:22:33:44:55";
    const SUBNETS: [&str; 2] = ["10.88.0.0/24", "2001:db8:88::/64"];
    packets(|lab| {
        if !lab.plugins() {
            return;
        }
        let call = |plugin: &str, verb: &str, config: &Value| {
            let mut command = Command::new(format!("{PLUGINS}/{plugin}"));
            command
                .env("CNI_COMMAND", verb)
                .env("CNI_CONTAINERID", "pod")
                .env("CNI_NETNS", "/run/netns/pod")
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", PLUGINS);
            let mut running = Running::piped(command);
            running.say(&config.to_string());
            running.stdin = None;
            running.end().ok()
        };
        let netns = Netns::new("pod");
        for mode in ["bridge", "ptp"] {
            let ranges = SUBNETS.map(|subnet| json!([{ "subnet": subnet }]));
            let mut ours = json!({ "cniVersion": "1.0.0", "name": mode, "type": "hawser", "mode": mode, "ipam": { "ranges": ranges } });
            if mode == "bridge" {
                ours["bridge"] = json!("cni0");
                call("hawser", "ADD", &ours);
                call("hawser", "DEL", &ours);
                sh(
                    "for subnet in 10.88.0. 2001:db8:88::; do for last in 2 3 4 5; do
                    ip neigh add $subnet$last lladdr 02:00:00:00:00:99 dev cni0 nud permanent
                    done; done",
                );
            }
            let result = call("hawser", "ADD", &ours);
            let result: Value = serde_json::from_str(&result).expect("a result");
            let tuning = json!({ "cniVersion": "1.0.0", "name": mode, "type": "tuning", "mac": MAC, "prevResult": result });
            call("tuning", "ADD", &tuning);
            assert!(netns.sh("ip link show dev eth0").contains(MAC));
            for ip in result["ips"].as_array().expect("addresses") {
                let address = ip["address"]
                    .as_str()
                    .and_then(|text| text.split('/').next());
                let address = address.expect("an address");
                sh(&format!("busybox ping -c 1 -W 2 {address}"));
                let known = sh(&format!("ip neigh show to {address}"));
                assert!(
                    known.contains(MAC) && !known.contains("PERMANENT"),
                    "{known}"
                );
            }
            call("hawser", "DEL", &ours);
            lab.hawser(&["down", "--bridge", "cni0"]).exits(0);
        }
    });
}

/// Nomad looks for versions by running each plugin without a word.
#[test]
fn a_version_for_nomad() {
    case(|lab| {
        if !lab.plugins() {
            return;
        }
        for plugin in ["bridge", "hawser"] {
            let mut command = Command::new(format!("{PLUGINS}/{plugin}"));
            command.stdin(Stdio::null());
            let outcome = collect(command, DEADLINE).exits(0);
            let said = outcome.out() + &outcome.err();
            assert!(
                said.starts_with(&format!("CNI {plugin} plugin v")),
                "{said}"
            );
        }
    });
}

/// podman can take a container's network away and give it back, with the same addresses, and give it two.
#[test]
fn podman_reloads_and_connects() {
    case(|lab| {
        let Some(client) = Client::podman(lab) else {
            return;
        };
        let Client::Podman(podman) = &client else {
            return;
        };
        lab.serve();
        let list = Lab::documented("/etc/cni/net.d/10-hawser.conflist");
        lab.write_network("lab", &list);
        let mut other = wiring(
            "hawser",
            json!({ "ranges": [[{ "subnet": "10.89.0.0/24" }]] }),
        );
        other["bridge"] = json!("cni1");
        lab.write_network("other", &[other]);
        let one = client.start("one", &["-p", "8080:80"]);
        let show = "ip -o addr show dev eth0 scope global | grep -o ' [0-9a-f:.]*/[0-9]*'";
        let at = one.netns.sh(show);
        podman.call(&["network", "reload", "one"]).exits(0);
        assert_eq!(one.netns.sh(show), at);
        assert!(page("192.0.2.2:8080").ends_with("this is one\n"));
        podman
            .call(&["network", "connect", "other", "one"])
            .exits(0);
        let second = one.netns.sh("ip -o -4 addr show dev eth1");
        assert!(second.contains("10.89.0.2/24"), "{second}");
        assert_eq!(one.get("http://198.51.100.10/"), "hello from the internet");
        podman
            .call(&["network", "disconnect", "other", "one"])
            .exits(0);
        assert!(!one.netns.sh("ip -o link").contains("eth1"));
        assert!(page("192.0.2.2:8080").ends_with("this is one\n"));
        // Both from the beginning.
        let two = client.start("two", &["--network", "other"]);
        assert_eq!(two.get("http://198.51.100.10/"), "hello from the internet");
        let links = two.netns.sh("ip -o -4 addr");
        assert!(
            links.contains("10.42.0.") && links.contains("10.89.0."),
            "{links}"
        );
        client.stop(two);
        client.stop(one);
        client.end();
    });
}
