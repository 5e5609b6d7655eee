//! Other firewalls that drop what is forwarded: whoever makes a network is told, in one line, with the command that
//! helps. It is run as it is said, and then it helps.

use lab::{Lab, case, packets, sh, skip};

/// Where the command begins.
const CURE: &str = "let them through with: ";

/// What is said when the default network is made; one line, or nothing.
#[track_caller]
fn told(lab: &Lab, options: &[&str]) -> String {
    let outcome = lab.run(options, &["true"]).exits(0);
    let said = outcome.err();
    assert!(said.lines().count() <= 1, "one line: {outcome}");
    said.trim_end().to_owned()
}

/// The line, of which these words are part; gives the command in it.
#[track_caller]
fn warned(said: &str, words: &[&str]) -> String {
    assert!(
        said.starts_with("host-helper: warning: forward packets of network"),
        "{said:?}"
    );
    for word in words {
        assert!(said.contains(word), "no {word:?}: {said:?}");
    }
    let (_, cure) = said
        .split_once(CURE)
        .unwrap_or_else(|| panic!("no cure: {said:?}"));
    cure.to_owned()
}

/// Whether the kernel tells us of the tables of iptables-legacy: the list of them is for the real root alone.
fn tells_of_legacy(lab: &Lab) -> bool {
    if !lab.real_root {
        skip("which tables iptables-legacy has made is only told to the real root");
    }
    lab.real_root
}

/// What a page of the internet is, seen from a container.
fn fetch(lab: &Lab, options: &[&str]) -> String {
    // As PID 1 wget would not notice the signal.
    let script = "timeout 2 wget -q -O - http://198.51.100.10/; exit 0";
    let outcome = lab.run_sh(options, script);
    outcome.out().trim_end().to_owned()
}

/// With these rules of others a container reaches nothing, and whoever makes its network hears of it; with the cure it
/// does, and nobody hears anything any more, also when the network is made again.
#[track_caller]
fn drops_and_is_cured(lab: &Lab, rules: &str, options: &[&str], words: &[&str], command: &str) {
    sh(rules);
    let cure = warned(&told(lab, options), words);
    assert_eq!(cure, command);
    assert_eq!(told(lab, options), "", "only when a network is made");
    assert_eq!(
        fetch(lab, options),
        "",
        "else the warning is not true: {rules}"
    );
    sh(&cure);
    assert_eq!(fetch(lab, options), "hello from the internet", "{cure}");
    lab.hawser(&["down"]).exits(0);
    assert_eq!(
        told(lab, options),
        "",
        "whoever has a rule about it has decided"
    );
    lab.hawser(&["down"]).exits(0);
}

#[test]
fn iptables_nft() {
    packets(|lab| {
        lab.serve();
        drops_and_is_cured(
            lab,
            "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            &[],
            &[
                "network hawser0",
                "chain FORWARD of nft table ip filter",
                "may drop",
            ],
            "iptables-nft -I FORWARD -i hawser0 -j ACCEPT && iptables-nft -I FORWARD -o hawser0 -j ACCEPT",
        );
    });
}

#[test]
fn iptables_legacy() {
    packets(|lab| {
        if !tells_of_legacy(lab) {
            return;
        }
        lab.serve();
        drops_and_is_cured(
            lab,
            "iptables-legacy -A FORWARD -p tcp --dport 22 -j ACCEPT; iptables-legacy -A FORWARD -j REJECT",
            &[],
            &["chain FORWARD of iptables-legacy"],
            "iptables-legacy -I FORWARD -i hawser0 -j ACCEPT && iptables-legacy -I FORWARD -o hawser0 -j ACCEPT",
        );
        let rules = sh("iptables-legacy -S FORWARD");
        assert_eq!(
            rules.lines().count(),
            5,
            "nothing of theirs was changed: {rules}"
        );
        sh("iptables-legacy -F FORWARD");
        drops_and_is_cured(
            lab,
            "iptables-legacy -P FORWARD DROP",
            &["--network", "ptp"],
            &["network ptp"],
            "iptables-legacy -I FORWARD -i hw+ -j ACCEPT && iptables-legacy -I FORWARD -o hw+ -j ACCEPT",
        );
    });
}

/// What it may send to the host itself is not what is forwarded.
#[test]
fn iptables_legacy_decides_by_rules_that_forwarded_packets_come_by() {
    case(|lab| {
        if !tells_of_legacy(lab) {
            return;
        }
        let policy = "iptables-legacy -P FORWARD DROP; iptables-legacy -N mine; iptables-legacy -A mine -i hawser0 -j ACCEPT";
        let up = || {
            let said = lab.hawser(&["up"]).exits(0).err();
            lab.hawser(&["down"]).exits(0);
            said.trim_end().to_owned()
        };
        for rules in [
            "iptables-legacy -A INPUT -i hawser0 -j ACCEPT",
            "iptables-legacy -A INPUT -j mine; iptables-legacy -A OUTPUT -o hawser0 -j ACCEPT",
        ] {
            sh(&format!("{policy}; {rules}"));
            warned(
                &up(),
                &["network hawser0", "chain FORWARD of iptables-legacy"],
            );
            sh("iptables-legacy -F; iptables-legacy -X");
        }
        sh(&format!(
            "{policy}; iptables-legacy -N hop; iptables-legacy -A hop -g mine; iptables-legacy -A FORWARD -p tcp; iptables-legacy -A FORWARD -j hop"
        ));
        assert_eq!(up(), "");
    });
}

#[test]
fn docker_has_a_chain_for_rules_of_others() {
    packets(|lab| {
        lab.serve();
        for kind in ["nft", "legacy"] {
            if kind == "legacy" && !tells_of_legacy(lab) {
                return;
            }
            drops_and_is_cured(
                lab,
                &format!(
                    "for rule in '-P FORWARD DROP' '-N DOCKER-USER' '-A DOCKER-USER -j RETURN' '-A FORWARD -j DOCKER-USER' \
                        '-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT' '-A FORWARD -i docker0 ! -o docker0 -j ACCEPT'
                    do iptables-{kind} $rule; done"
                ),
                &[],
                &["chain FORWARD of"],
                &format!(
                    "iptables-{kind} -I DOCKER-USER -i hawser0 -j ACCEPT && iptables-{kind} -I DOCKER-USER -o hawser0 -j ACCEPT"
                ),
            );
            sh(&format!(
                "iptables-{kind} -P FORWARD ACCEPT; iptables-{kind} -F"
            ));
        }
    });
}

#[test]
fn tables_of_nft() {
    packets(|lab| {
        lab.serve();
        let rule =
            |table: &str, way: &str| format!("nft 'insert rule {table} {way} \"hawser0\" accept'");
        for (rules, table) in [
            (
                "table inet filter { chain forward { type filter hook forward priority filter; policy drop; ct state established accept; }; }",
                "inet filter forward",
            ),
            (
                "table ip mine { chain FORWARD { type filter hook forward priority 10; ct state established accept; counter drop; }; }",
                "ip mine FORWARD",
            ),
            (
                "table inet mine { chain way { type filter hook forward priority -5; counter log reject; }; }",
                "inet mine way",
            ),
        ] {
            drops_and_is_cured(
                lab,
                &format!("nft -f - <<'E'\n{rules}\nE"),
                &[],
                &["chain ", "of nft table"],
                &format!("{} && {}", rule(table, "iifname"), rule(table, "oifname")),
            );
            sh("nft flush ruleset");
        }
    });
}

#[test]
fn rules_about_the_network() {
    packets(|lab| {
        lab.serve();
        for (rule, command) in [
            (
                "iptables-nft -I FORWARD -s 172.19.0.0/16 -j DROP",
                "nft delete rule ip filter FORWARD handle ",
            ),
            (
                "iptables-nft -I FORWARD -i hawser0 -j REJECT",
                "nft delete rule ip filter FORWARD handle ",
            ),
            (
                "iptables-nft -N DOCKER-USER; iptables-nft -I FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j DROP",
                "iptables-nft -I DOCKER-USER -i hawser0 -j ACCEPT && iptables-nft -I DOCKER-USER -o hawser0 -j ACCEPT",
            ),
            (
                "nft 'table inet mine { chain way { type filter hook forward priority -5; meta l4proto tcp drop; accept; }; }'",
                "nft 'insert rule inet mine way iifname ",
            ),
        ] {
            sh(rule);
            let cure = warned(&told(lab, &[]), &["network hawser0", "may drop them"]);
            assert!(cure.starts_with(command), "{cure}");
            assert_eq!(fetch(lab, &[]), "", "else the warning is not true: {rule}");
            sh(&cure);
            assert_eq!(fetch(lab, &[]), "hello from the internet", "{cure}");
            lab.hawser(&["down"]).exits(0);
            assert_eq!(told(lab, &[]), "");
            lab.hawser(&["down"]).exits(0);
            sh("iptables-nft -F; iptables-nft -X; nft delete table inet mine 2>/dev/null || true");
        }
    });
}

#[test]
fn a_point_to_point_network_is_told_about_too() {
    packets(|lab| {
        lab.serve();
        let ptp = ["--network", "ptp"];
        drops_and_is_cured(
            lab,
            "iptables-nft -P FORWARD DROP",
            &ptp,
            &["network ptp"],
            "iptables-nft -I FORWARD -i hw+ -j ACCEPT && iptables-nft -I FORWARD -o hw+ -j ACCEPT",
        );
    });
}

/// Nothing is made for it that could be missing: what it begins with is its first container.
#[test]
fn a_point_to_point_network_is_told_about_beside_another() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        sh("iptables-nft -P FORWARD DROP");
        let ptp = ["--network", "ptp", "--ip", "10.0.0.7"];
        let run = || lab.run(&ptp, &["true"]).exits(0).err();
        warned(run().trim_end(), &["network ptp", "nft table ip filter"]);
        assert_eq!(run(), "", "the second time");
    });
}

#[test]
fn all_of_them_in_one_line() {
    case(|lab| {
        if !tells_of_legacy(lab) {
            return;
        }
        sh("iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP
            iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP
            nft 'table inet mine { chain c { type filter hook forward priority 5; policy drop; }; }'
            nft 'table bridge mine { chain c { type filter hook forward priority 5; policy drop; }; }'");
        let up = lab.hawser(&["up"]).exits(0);
        let said = up.err();
        assert_eq!(said.lines().count(), 1, "{said}");
        let cure = warned(
            said.trim_end(),
            &[
                "nft table ip filter and",
                "nft table ip6 filter",
                "nft table inet mine",
                "nft table bridge mine",
                " iptables-legacy",
                "ip6tables-legacy",
            ],
        );
        assert_eq!(cure.split(" && ").count(), 4 * 2 + 2 + 1, "{cure}");
        let before = sh("nft list ruleset; iptables-legacy -S; ip6tables-legacy -S");
        sh(&cure);
        assert_ne!(
            sh("nft list ruleset; iptables-legacy -S; ip6tables-legacy -S"),
            before
        );
        lab.hawser(&["up"]).ok();
    });
}

#[test]
fn who_drops_nothing_of_ours_is_not_mentioned() {
    case(|lab| {
        sh("iptables-nft -P INPUT DROP; iptables-nft -A FORWARD -p tcp --dport 22 -j REJECT
            iptables-legacy -P INPUT DROP; iptables-legacy -A FORWARD -p tcp --dport 22 -j DROP
            nft 'table inet a { chain c { type filter hook forward priority 5; policy drop; accept; }; }'
            nft 'table inet b { chain c { type filter hook input priority 5; policy drop; ct state established,related,new,invalid,untracked accept; }; }'
            nft 'table inet c { chain c { drop; }; }'");
        lab.hawser(&["up"]).ok();
    });
}

#[test]
fn a_real_ufw() {
    case(|lab| {
        if !lab.ufw() {
            return;
        }
        lab.serve();
        drops_and_is_cured(
            lab,
            "ufw status | grep -q active",
            &[],
            &["nft table ip filter and chain FORWARD of nft table ip6 filter"],
            "ufw route allow in on hawser0 && ufw route allow out on hawser0",
        );
        lab.hawser(&["up"]).ok();
        sh("ufw reload");
        assert_eq!(fetch(lab, &[]), "hello from the internet");
    });
}

#[test]
fn a_real_dockerd() {
    packets(|lab| {
        let Some(docker) = lab.docker_with_network() else {
            return;
        };
        lab.serve();
        drops_and_is_cured(
            lab,
            "nft list chain ip filter FORWARD | grep -q 'policy drop'",
            &[],
            &["chain FORWARD of nft table ip filter may drop"],
            "iptables-nft -I DOCKER-USER -i hawser0 -j ACCEPT && iptables-nft -I DOCKER-USER -o hawser0 -j ACCEPT",
        );
        docker.end();
    });
}

#[test]
fn a_rule_about_a_link_whose_name_ends_like_the_networks_decides_nothing() {
    case(|lab| {
        sh("nft add table inet f");
        sh("nft 'add chain inet f forward { type filter hook forward priority 0; policy drop; }'");
        sh("nft add rule inet f forward iifname vlan0 accept");
        let up = ["up", "--bridge", "lan0", "--subnet", "172.28.0.0/24"];
        let said = lab.hawser(&up).exits(0).err();
        warned(said.trim_end(), &["lan0", "inet f"]);
        lab.hawser(&["down", "--bridge", "lan0"]).ok();
        sh("nft add rule inet f forward iifname lan0 accept");
        assert_eq!(lab.hawser(&up).exits(0).err(), "");
    });
}
