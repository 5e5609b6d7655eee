//! Together with a real firewalld: what its zones mean for containers, and that its reloads and restarts leave ours alone.

use lab::{Lab, Running, packets, sh};

/// Both tables; in a ruleset they are in the order of their making.
const LIST: &str = "nft list table inet hawser; nft list table bridge hawser";

/// What a page of the internet is, seen from a container.
fn fetch(lab: &Lab) -> String {
    // As PID 1 wget would not notice the signal.
    let script = "timeout 2 wget -q -O - http://198.51.100.10/; exit 0";
    lab.run_sh(&[], script).out().trim_end().to_owned()
}

/// What the published port gives to somebody on the internet.
fn ask(lab: &Lab) -> String {
    let mut wget = lab.internet.command("busybox");
    wget.args([
        "timeout",
        "2",
        "busybox",
        "wget",
        "-q",
        "-O",
        "-",
        "http://192.0.2.2:8080/",
    ]);
    lab::collect(wget, lab::DEADLINE).out()
}

fn serve(lab: &Lab) -> Running {
    std::fs::write(lab.rootfs.join("srv/index.html"), "hello\n").expect("a page");
    let script = "httpd -p 80 -h /srv; echo up; read x; exit 0";
    let mut server = lab.start(&["-p", "8080:80", "--name", "web"], &["sh", "-c", script]);
    server.until("up");
    server
}

/// What it does to containers, what is said about it, and that ours stays when it loads its rules again. `barriers` are
/// the chains that are named.
fn stands_beside(lab: &Lab, backend: &str, barriers: &str) {
    let Some(firewalld) = lab.firewalld(backend) else {
        return;
    };
    lab.serve();
    let server = serve(lab);
    // Its default zone forwards what is published, and nothing else.
    assert_eq!(ask(lab), "hello\n");
    assert_eq!(fetch(lab), "", "else the warning is not true");
    drop(server);
    lab.settle();
    lab.hawser(&["down"]).exits(0);
    let said = lab.hawser(&["up"]).exits(0).err();
    let (warning, cure) = (said.trim_end())
        .split_once(" may drop them; let them through with: ")
        .expect("a warning");
    assert_eq!(
        warning,
        format!("host-helper: warning: forward packets of network hawser0: {barriers}")
    );
    assert_eq!(
        cure,
        "firewall-cmd --permanent --zone=trusted --add-interface=hawser0 && firewall-cmd --reload"
    );
    sh(&format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin; {cure}"));
    let _server = serve(lab);
    let before = sh(LIST);
    for how in ["reload", "complete-reload", "restart"] {
        match how {
            "restart" => firewalld.restart(),
            how => {
                firewalld.call(&[&format!("--{how}")]).exits(0);
            }
        }
        assert_eq!(sh(LIST), before, "after {how}");
        assert_eq!(ask(lab), "hello\n", "after {how}");
        assert_eq!(fetch(lab), "hello from the internet", "after {how}");
    }
    // Said once: the link is in a zone.
    lab.hawser(&["down", "--force"]).exits(0);
    lab.hawser(&["up"]).ok();
}

#[test]
fn firewalld_is_told_about_and_its_reloads_change_nothing_of_ours() {
    packets(|lab| {
        stands_beside(
            lab,
            "nftables",
            "chain filter_FORWARD of nft table inet firewalld",
        )
    });
}

#[test]
fn firewalld_by_iptables_too() {
    packets(|lab| {
        stands_beside(
            lab,
            "iptables",
            "chain FORWARD of nft table ip filter and chain FORWARD of nft table ip6 filter",
        );
    });
}
