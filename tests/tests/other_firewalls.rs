//! Together with other firewalls: flushes and reloads are repaired, the admin's chain stays, and nobody is woken.

use std::time::{Duration, Instant};

use lab::{Watch, case, listeners, packets, sh, wait_untold};

/// What the issue of rules that come back is measured by.
const WITHIN: Duration = Duration::from_secs(1);

/// Both tables; in a ruleset they are in the order of their making. Without the number of each tenant, which no other has had.
const LIST: &str = "(nft list table inet hawser 2>&1; nft list table bridge hawser 2>&1) | sed 's/ [.] 0x[0-9a-f]*/ . NUMBER/'";

/// How long a look at the rules takes on this machine at this moment: others may be busy on it.
fn look() -> Duration {
    let since = Instant::now();
    sh(LIST);
    since.elapsed()
}

/// The rules are those, at the latest a second after now. A machine that is busy is given as long as some looks take there, since supervisors
/// wait for a processor as we do.
#[track_caller]
fn is_back(ruleset: &str) {
    const LOOKS: u32 = 10;
    let since = Instant::now();
    let monitor = Watch::ruleset();
    assert!(
        monitor.until(|| sh(LIST) == ruleset),
        "the rules do not come back:\n{}\nwere:\n{ruleset}",
        sh(LIST)
    );
    let took = since.elapsed();
    let look = look();
    assert!(
        took < WITHIN + LOOKS * look,
        "after {took:?}, where a look takes {look:?}"
    );
}

#[test]
fn a_flush_is_repaired_by_running_supervisors() {
    packets(|lab| {
        lab.serve();
        let _one = lab.start_idle(&["--name", "one", "--egress", "dns,198.51.100.10/32:80"]);
        let _two = lab.start_idle(&["--name", "two", "--isolate"]);
        let before = sh(LIST);
        // Which a supervisor does only after a while.
        wait_untold("somebody listens", || !listeners().is_empty());
        for how in [
            "nft flush ruleset",
            "nft delete table inet hawser",
            "nft delete table bridge hawser",
            "nft flush table inet hawser",
            "printf 'flush ruleset\\ntable inet filter {\\n}\\n' | nft -f -; nft delete table inet filter",
        ] {
            sh(how);
            is_back(&before);
        }
    });
}

/// What nftables.service executes at its start and at a reload, with the file that Debian installs or one of the admin.
const CONF: &str = "/etc/nftables.conf";
const RELOAD: &str = "nft 'flush ruleset; include \"/etc/nftables.conf\";'";

#[test]
fn the_unit_of_nftables_flushes_first() {
    packets(|lab| {
        lab.serve();
        let _one = lab.start_idle(&["--name", "one", "--isolate"]);
        let before = sh(LIST);
        for how in [&format!("nft -f {CONF}"), RELOAD, "nft flush ruleset"] {
            sh(how);
            is_back(&before);
            let page = lab.run(&[], &["wget", "-q", "-O", "-", "http://198.51.100.10/"]);
            assert_eq!(page.ok(), "hello from the internet", "after {how}");
        }
    });
}

/// The example of the manual page, as it is there.
fn example() -> String {
    let page = include_str!("../../docs/host-helper.8.md");
    let lines = page.lines().skip_while(|line| *line != "    flush ruleset");
    let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    lines.join("\n")
}

#[test]
fn rules_of_the_admin_for_a_published_port_come_with_the_flush() {
    packets(|lab| {
        std::fs::write(lab.rootfs.join("srv/index.html"), "hello\n").expect("a page");
        sh("ip -n internet addr add 203.0.113.9/32 dev lo; ip route add 203.0.113.9 via 192.0.2.1");
        let conf = lab.dir.join("nftables.conf");
        std::fs::write(&conf, example()).expect("write a file");
        sh(&format!("mount --bind {} {CONF}", conf.display()));
        // Of the internet, from one of its addresses.
        let ask = |from: &str, url: &str| {
            sh(&format!(
                "ip -n internet route replace 192.0.2.2 dev eth0 src {from}"
            ));
            let mut wget = lab.internet.command("busybox");
            wget.args(["timeout", "2", "busybox", "wget", "-q", "-O", "-", url]);
            let outcome = lab::collect(wget, lab::DEADLINE);
            if outcome.err().contains("refused") {
                "refused".to_owned()
            } else {
                outcome.out().trim().to_owned()
            }
        };
        let start = || {
            let script = "httpd -p 80 -h /srv; httpd -p 8080 -h /srv; echo up; read x; exit 0";
            let mut server = lab.start(
                &["-p", "8080:80", "-p", "8081:8080", "--name", "web"],
                &["sh", "-c", script],
            );
            server.until("up");
            server
        };
        let (allowed, refused) = ("192.0.2.1", "203.0.113.9");
        let (port, other) = ("http://192.0.2.2:8080/", "http://192.0.2.2:8081/");
        let (port6, other6) = (
            "http://[2001:db8:1::2]:8080/",
            "http://[2001:db8:1::2]:8081/",
        );
        let check = |when: &str| {
            assert_eq!(ask(allowed, port), "hello", "{when}");
            assert_eq!(ask(refused, port), "refused", "{when}");
            assert_eq!(ask(refused, other), "hello", "by the host's port: {when}");
            assert_eq!(ask(allowed, port6), "refused", "{when}");
            assert_eq!(ask(allowed, other6), "hello", "{when}");
        };
        // As when the machine has booted: the file first, then a container.
        sh(&format!("nft -f {CONF}"));
        let chain = sh("nft list chain inet hawser user");
        let server = start();
        check("the chain was there first");
        let before = sh(LIST);
        sh(RELOAD);
        is_back(&before);
        check("after a reload");
        drop(server);
        lab.settle();
        lab.hawser(&["down"]).exits(0);
        assert_eq!(sh("nft list chain inet hawser user"), chain);
        // And the other way round.
        sh("nft flush ruleset");
        let _server = start();
        assert_eq!(ask(refused, port), "hello");
        sh(&format!("nft -f {CONF}"));
        is_back(&before);
        check("the container was there first");
    });
}

#[test]
fn restore_puts_back_what_no_supervisor_watches() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        let before = sh("nft list ruleset");
        sh("nft flush ruleset");
        lab.hawser(&["restore"]).exits(0);
        assert_eq!(sh("nft list ruleset"), before);
        let _one = lab.start_idle(&[]);
        let before = sh("nft list ruleset");
        lab.hawser(&["restore"]).exits(0);
        assert_eq!(sh("nft list ruleset"), before, "nothing was to be done");
    });
}

#[test]
fn the_admins_chain_is_evaluated_first_and_never_changed() {
    packets(|lab| {
        lab.serve();
        lab.run(&[], &["true"]).ok();
        sh(
            "nft add rule inet hawser user ip daddr 198.51.100.10 tcp dport 80 reject with tcp reset",
        );
        let chain = sh("nft list chain inet hawser user");
        let fetch = ["wget", "-q", "-O", "-", "http://198.51.100.10/"];
        let refused = lab.run(&[], &fetch);
        assert!(refused.err().contains("refused"), "{refused}");
        assert_eq!(sh("nft list chain inet hawser user"), chain);
        // Rules of ours that are gone come back around it.
        sh("nft flush chain inet hawser forward");
        lab.run(&[], &["true"]).ok();
        assert_eq!(sh("nft list chain inet hawser user"), chain);
        let refused = lab.run(&[], &fetch);
        assert!(refused.err().contains("refused"), "{refused}");
        // It outlives the last network too, and nothing else does.
        lab.hawser(&["down"]).exits(0);
        assert_eq!(sh("nft list chain inet hawser user"), chain);
        assert_eq!(sh("nft list ruleset").matches("chain ").count(), 1);
        assert!(!sh("nft list ruleset").contains("set "));
        lab.run(&[], &["true"]).ok();
        assert_eq!(sh("nft list chain inet hawser user"), chain);
        sh("nft flush chain inet hawser user");
        lab.hawser(&["down"]).exits(0);
        assert_eq!(sh("nft list ruleset"), "");
    });
}

/// Nothing of ours jumps to it yet, or does so any more.
#[test]
fn one_rule_of_the_admin_is_kept_by_a_down_without_a_network() {
    case(|lab| {
        const CHAIN: &str = "table inet hawser { chain user { ip daddr 198.51.100.10 drop; }; }";
        sh(&format!("nft '{CHAIN}'"));
        let ruleset = sh("nft list ruleset");
        lab.hawser(&["down"]).ok();
        assert_eq!(sh("nft list ruleset"), ruleset, "before the first start");
        let chain = sh("nft list chain inet hawser user");
        lab.run(&[], &["true"]).ok();
        for which in ["the first", "the second", "the third"] {
            lab.hawser(&["down"]).exits(0);
            assert_eq!(sh("nft list chain inet hawser user"), chain, "{which}");
        }
        sh(&format!(
            "nft delete table inet hawser; nft -f - <<'E'\n{}\nE",
            CHAIN.replacen('{', "{ comment \"hawser 99\";", 1)
        ));
        let ruleset = sh("nft list ruleset");
        lab.run(&[], &["true"])
            .refused(&["hawser 99", "chain user has rules"]);
        assert_eq!(sh("nft list ruleset"), ruleset);
        sh("nft flush chain inet hawser user");
        lab.hawser(&["down"]).ok();
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn tables_of_another_version_are_replaced_or_refused_by_name() {
    case(|lab| {
        let other = "table inet hawser { comment \"hawser 99\"; chain postrouting { type nat hook postrouting priority srcnat; masquerade; }; }";
        sh(&format!("nft -f - <<'E'\n{other}\nE"));
        lab.run(&[], &["true"]).ok();
        let ruleset = sh("nft list ruleset");
        assert!(ruleset.contains("comment \"hawser ") && !ruleset.contains("hawser 99"));
        let _living = lab.start_idle(&["--name", "living"]);
        sh(&format!(
            "nft -f - <<'E'\ndelete table inet hawser\n{other}\nE"
        ));
        lab.run(&["--name", "next"], &["true"])
            .refused(&["hawser 99", "living"]);
    });
}

#[test]
fn what_others_do_wakes_no_supervisor() {
    case(|lab| {
        // Without resolvers to follow: the rules alone are what it may hear of.
        let options = ["-d", "--name", "idle", "--resolv=off"];
        lab.run(&options, &["sleep", "100"]).ok();
        let text = lab.hawser(&["inspect", "idle"]).ok();
        let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let status = format!("/proc/{}/status", found["supervisor"]);
        let status = || std::fs::read_to_string(&status).expect("the supervisor's status");
        let wakeups = || {
            let text = status();
            let line = text.lines().find(|line| line.starts_with("voluntary_ctxt"));
            line.map(str::to_owned)
        };
        wait_untold("it listens, and sleeps", || {
            !listeners().is_empty() && status().contains("State:\tS")
        });
        let before = wakeups();
        for _ in 0..10 {
            lab.run(&["--egress", "none", "-p", "8080:80"], &["true"])
                .ok();
        }
        sh(
            "nft add table inet other; nft add chain inet other c; nft add rule inet other c accept
            nft flush chain inet other c; nft delete table inet other
            nft add table ip nat; nft delete table ip nat",
        );
        assert_eq!(wakeups(), before);
        lab.hawser(&["stop", "idle", "--grace", "0"]).exits(0);
    });
}
